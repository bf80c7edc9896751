//! The history at the command line, in the conversation and on a screen.
//!
//! Owns how a request about it is made and which of its answers go through a pager. Knows
//! nothing of how a history is kept.

pub mod command;
mod diff;
mod git;
mod list;
mod replayed;
mod told;

use std::ffi::OsString;
use std::io;

use anyhow::{Context as _, Result};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::face::clean::clean;
use crate::face::screen::{Place, Screen, write};
use crate::face::{Refusal, run, views};
use crate::guard::supervisor;
use crate::kernel::interrupt::interrupt;
use crate::organs::config::Config;
use crate::organs::history::ask::{Ask, Culprit, Logged, Reason, Replayed, Shown, Test, Undone};
use crate::organs::history::backup;
use crate::organs::home::Home;
use crate::organs::link::Link;
use crate::organs::reach::root::Reach;
use crate::organs::verb::{Verb, exit};

pub use diff::{became, bytes, words};
pub use git::git;
pub use told::listed;

/// Where an answer is shown.
#[derive(Debug, Clone, Copy)]
pub struct Look {
    /// What it fits on.
    pub screen: Screen,
    /// What is typed there before a command's name.
    pub prompt: &'static str,
}

impl Look {
    /// In the conversation.
    pub fn slash(screen: Screen) -> Self {
        Self { screen, prompt: "/" }
    }

    /// In a shell.
    fn shell() -> Self {
        Self { screen: Screen::of(Place::Out), prompt: "fledgling " }
    }
}

/// Ask, as all that this process does, and print the answer. The number is the exit code.
pub async fn once(link: Link, ask: Ask, json: bool) -> Result<u8> {
    let verb = Verb::History(ask.clone());
    let answer = match ask {
        Ask::Bisect { .. } | Ask::Replay { .. } => tried(&link, verb).await?,
        _ => views::once(link, verb).await?,
    };
    // Something was in the way of all that was to be done.
    let any = |name: &str| answer[name].as_array().is_some_and(|those| !those.is_empty());
    let stuck = matches!(ask, Ask::Undo { .. } | Ask::Restore { .. } | Ask::Merge { .. })
        && answer["commit"].is_null()
        && (any("conflicts") || any("left_alone"));
    let differs = matches!(ask, Ask::Replay { .. }) && any("differ");
    let code = if stuck || differs { exit::FAILED } else { 0 };
    if json {
        views::print(&answer, true, |_, _| Ok(String::new()))?;
        return Ok(code);
    }
    let look = Look::shell();
    let text = text(&ask, &answer, look)?;
    if !(is_long(&ask) && look.screen.is_too_small_for(&text) && page(&text)?) {
        write(Place::Out, &text)?;
    }
    Ok(code)
}

/// Ask for what takes long. Ctrl-C ends it, and waits until it has cleared up.
async fn tried(link: &Link, verb: Verb) -> Result<Value> {
    // Before anything is asked, so that no signal is missed.
    let interrupted = run::interrupted();
    views::notices(link)?;
    let mut answers = link.ask(verb).await?;
    let aside = |notice: &str| _ = write(Place::Err, &clean(notice));
    let answer = tokio::select! {
        answer = views::answer(&mut answers, aside) => answer?,
        () = interrupted => {
            drop(answers);
            if let Some(host) = link.host() {
                host.tried().await;
            }
            return Err(Refusal { why: "interrupted".to_owned(), exit: exit::INTERRUPTED }.into());
        }
    };
    run::leave(link, false).await?;
    answer.context("the host ended before it answered; try again")
}

/// Bring a home back from a backup. Ctrl-C leaves nothing half made.
pub async fn restore(home: &Home, from: String) -> Result<()> {
    let (interrupter, interrupt) = interrupt();
    let (home, place) = (home.clone(), from.clone());
    let mut work = tokio::task::spawn_blocking(move || {
        home.create_root()?;
        let reach = Reach::of(&home, &Config::read(&home.file("config.toml"))?)?;
        backup::restore_home(&home, &place, &reach, &interrupt).map(drop)
    });
    let done = tokio::select! {
        done = &mut work => done,
        () = run::interrupted() => {
            interrupter.raise();
            work.await
        }
    };
    done.context("bringing it back was broken off")??;
    Ok(write(Place::Err, &clean(&format!("Brought back from {}.", backup::without_key(&from))))?)
}

/// Whether the answer may be something to read at leisure.
fn is_long(ask: &Ask) -> bool {
    matches!(
        ask,
        Ask::Log { .. } | Ask::Show { .. } | Ask::Diff { .. } | Ask::Why { full: true, .. }
    )
}

/// Show a text in the owner's pager. Whether there is one.
fn page(text: &str) -> Result<bool> {
    let pager = std::env::var("PAGER").unwrap_or_else(|_| "less".to_owned());
    let mut words = pager.split_whitespace();
    let Some(program) = words.next() else { return Ok(false) };
    let words: Vec<_> = words.map(OsString::from).collect();
    // What `less` does where nothing else is wished: colours, and no screen of its own.
    let options = std::env::var_os("LESS").unwrap_or_else(|| "FRX".into());
    match supervisor::run_in_terminal(program, &words, &[("LESS", Some(options))], Some(text)) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).with_context(|| format!("cannot run the pager {pager}")),
    }
}

/// The answer to a request as text.
pub fn text(ask: &Ask, answer: &Value, look: Look) -> Result<String> {
    let screen = look.screen;
    Ok(match ask {
        Ask::Log { path, .. } => match (read::<Vec<Logged>>(answer)?.as_slice(), path) {
            ([], None) => "No change yet.".to_owned(),
            ([], Some(path)) => format!("{} has never been in the history.", clean(path)),
            (changes, _) => list::changes(changes, screen),
        },
        Ask::Show { .. } | Ask::Diff { .. } => diff::shown(&read::<Shown>(answer)?, screen),
        Ask::Undo { .. } | Ask::Restore { .. } | Ask::Merge { .. } => {
            told::undone(ask, &read::<Undone>(answer)?, look)
        }
        Ask::Why { .. } => told::reasons(&read::<Vec<Reason>>(answer)?, screen),
        Ask::Bisect { test, .. } => {
            let replay = matches!(test, Test::Recording(_));
            told::culprit(&read::<Culprit>(answer)?, replay, screen)
        }
        Ask::Replay { .. } => replayed::replayed(&read::<Replayed>(answer)?, screen),
        Ask::Backup { .. } => {
            let text = |name: &str| clean(answer[name].as_str().unwrap_or_default());
            format!("Backed up to {}, up to commit {}.", text("to"), text("commit"))
        }
        Ask::Drop { .. } => clean(answer["said"].as_str().unwrap_or_default()),
        Ask::Standing => views::about_text(answer),
    })
}

fn read<T: DeserializeOwned>(answer: &Value) -> Result<T> {
    T::deserialize(answer).context("the host's answer is odd; is it another version?")
}

#[cfg(test)]
mod tests;
