//! `fledgling doctor`: look at everything the agent needs, and say what is wrong and what
//! to do about it.
//!
//! Owns the checks; changes nothing.

use std::path::Path;

use anyhow::Result;
use serde::Deserialize as _;

use crate::face::history::{bytes, listed};
use crate::face::screen::{Place, Screen, write};
use crate::face::turn_view::{plural, wrapped};
use crate::face::{run, views};
use crate::kernel::session::Session;
use crate::organs::history::ask::{Ask, Standing};
use crate::organs::history::left_out::is_excluded;
use crate::organs::home::Home;
use crate::organs::host::Settings;
use crate::organs::link::Link;
use crate::organs::models::Catalog;
use crate::organs::prompt::Sources;
use crate::organs::reach::root::Reach;
use crate::organs::sessions;
use crate::organs::verb::Verb;

/// How one check came out.
pub enum Found {
    /// As it should be.
    Good(String),
    /// Not wrong, and yet to be known.
    Note(String),
    /// Wrong.
    Bad(String),
}

/// What the reason says where a file is left out for what is in it.
const HOLDS_SECRET: &str = " (it holds ";
const SECRETS: &str = "What looks like a secret is in these files: take it out, or name them in `secrets_in` under `[history]` in config.toml, where nothing counts as one:";
const NOT_KEPT: &str = "Undo cannot bring these back:";
const EXCLUDED: &str = "Nor these, which history.git/info/exclude names:";
const BRANCHES: &str =
    "Look with `fledgling diff main NAME`, then `fledgling merge NAME` or `fledgling drop NAME`.";
const NO_BACKUP: &str = "none: `fledgling backup REMOTE|DIR` makes one; `backup` under `[history]` in config.toml makes one after each turn";
const CONFINED: &str = "tool calls are confined; `fledgling policy` shows what they may touch";
const DRILL: &str = "`fledgling doctor --drill` tries whether all of it can be brought back";
/// Columns of the screen before what was found.
const INDENT: usize = 16;

impl Found {
    /// Print it, after what was looked at.
    pub fn say(&self, what: &str) -> Result<()> {
        let screen = Screen::of(Place::Out);
        let (mark, text) = match self {
            Self::Good(text) => ("ok  ".to_owned(), text),
            Self::Note(text) => ("note".to_owned(), text),
            Self::Bad(text) => (screen.warn("BAD "), text),
        };
        let beside = Screen { width: screen.width.saturating_sub(INDENT), ..screen };
        let text = wrapped(text, beside).replace('\n', &format!("\n{:INDENT$}", ""));
        Ok(write(Place::Out, &format!("{mark} {what:10} {text}"))?)
    }
}

/// Run all checks. The exit code is 0 when nothing is wrong.
pub async fn doctor(settings: impl FnOnce() -> Result<Settings>) -> Result<u8> {
    let mut bad = 0;
    let mut report = |what: &str, found: Found| -> Result<()> {
        bad += u8::from(matches!(found, Found::Bad(_)));
        found.say(what)
    };
    let settings = match settings() {
        Ok(settings) => settings,
        Err(error) => {
            report("settings", Found::Bad(format!("{error:#}")))?;
            return Ok(1);
        }
    };
    let home = settings.home.clone();
    let (catalog, safe, chosen) = (settings.catalog.clone(), settings.safe, settings.model.clone());
    let limits = settings.config.limits;
    report("settings", Found::Good(present(&home)))?;
    let made = home.create_root();
    report(
        "home",
        made.as_ref()
            .map_or_else(|error| Found::Bad(format!("{error:#}")), |()| permissions(&home)),
    )?;
    for program in ["bash", "git"] {
        report(program, on_path(program))?;
    }
    if made.is_ok() {
        hands(&settings).into_iter().try_for_each(|found| report("hands", found))?;
    } else {
        report("model", own_model(&catalog, chosen).await)?;
        return Ok(1);
    }
    let link = match Link::establish(|| Ok(settings)).await {
        Ok(link) => link,
        Err(error) => {
            report("model", own_model(&catalog, chosen).await)?;
            report("host", Found::Bad(format!("{error:#}")))?;
            return Ok(1);
        }
    };
    let model = match link.host() {
        Some(_) => own_model(&catalog, chosen).await,
        None => hosts_model(&link).await?,
    };
    report("model", model)?;
    match link.host() {
        None => {
            report(
                "host",
                Found::Good("another fledgling runs in this home, and answers".to_owned()),
            )?;
        }
        Some(host) => {
            report("host", Found::Good("no other fledgling runs in this home".to_owned()))?;
            for text in host.take_notices() {
                report("host", Found::Note(text))?;
            }
            for listed in sessions::list(&home)? {
                if let Err(error) = readable(&home.transcript(&listed.name)) {
                    report("session", Found::Bad(error))?;
                }
            }
        }
    }
    let standing = views::ask(&link, Verb::History(Ask::Standing)).await;
    let found = standing.and_then(|answer| Ok(history(&Standing::deserialize(answer)?)));
    let unknown = |error| vec![("history", Found::Bad(format!("{error:#}")))];
    for (what, found) in found.unwrap_or_else(unknown) {
        report(what, found)?;
    }
    run::leave(&link, false).await?;
    for text in Sources::new(home, safe, limits, String::new()).prompt().notices {
        report("prompt", Found::Note(text))?;
    }
    Ok(u8::from(bad > 0))
}

/// Whether tool calls are confined, and what could be given to them.
fn hands(settings: &Settings) -> Vec<Found> {
    let Settings { home, config, .. } = settings;
    let reach = match Reach::new(home, config.confine, config.hands.clone()) {
        Ok(reach) => reach,
        Err(error) => return vec![Found::Bad(format!("{error:#}"))],
    };
    if reach.is_off() {
        return vec![Found::Bad(reach.rights())];
    }
    if let Err(error) = reach.check() {
        return vec![Found::Bad(format!("{error:#}"))];
    }
    let mut found = vec![Found::Good(CONFINED.to_owned())];
    let offers = reach.offers();
    if !offers.is_empty() {
        let names: Vec<_> = offers.iter().map(|place| place.name).collect();
        let paths: Vec<_> = offers.iter().map(|place| place.path.display().to_string()).collect();
        let names = names.join(", ");
        found.push(Found::Note(format!(
            "not given to tool calls: {names}. To give them:\nfledgling allow read {}",
            paths.join(" ")
        )));
    }
    found
}

/// Which files of settings there are; all that are there could be read.
fn present(home: &Home) -> String {
    let state = |name| if home.file(name).exists() { "can be read" } else { "none yet" };
    ["config.toml", "secrets.toml"].map(|name| format!("{name}: {}", state(name))).join(", ")
}

/// The model that would answer if this process hosted.
async fn own_model(catalog: &Catalog, chosen: Option<String>) -> Found {
    let spec = match chosen {
        Some(spec) => Ok(spec),
        None => catalog.default_spec().await,
    };
    let model = match spec {
        Ok(spec) => catalog.model(&spec).await.map(|model| model.name().to_owned()),
        Err(error) => Err(error),
    };
    model.map_or_else(|error| Found::Note(error.to_string()), Found::Good)
}

/// The model that answers in the process that hosts.
async fn hosts_model(link: &Link) -> Result<Found> {
    let about = views::ask(link, Verb::About { session: None }).await?;
    let text = |name: &str| about["model"][name].as_str().map(str::to_owned);
    Ok(text("name").map_or_else(|| Found::Note(text("none").unwrap_or_default()), Found::Good))
}

/// How the history stands, and what can be done about it.
fn history(standing: &Standing) -> Vec<(&'static str, Found)> {
    let Standing { commits, bytes: size, left_out, branches, backup, failure, .. } = standing;
    let kept = format!("{}, {} on disk", plural(*commits as u64, "change"), bytes(*size));
    let mut found = vec![("history", Found::Good(kept))];
    let (secret, other): (Vec<_>, Vec<_>) =
        left_out.iter().cloned().partition(|line| line.contains(HOLDS_SECRET));
    let (excluded, other) = other.into_iter().partition(|line| is_excluded(line));
    for (title, left_out) in [(SECRETS, secret), (NOT_KEPT, other), (EXCLUDED, excluded)] {
        let lines = listed(title, &left_out, Screen::PIPE);
        found.extend(lines.map(|lines| ("left out", Found::Note(lines))));
    }
    if !branches.is_empty() {
        let text = format!("{}\n{BRANCHES}", branches.join(", "));
        found.push(("branches", Found::Note(text)));
    }
    found.push(match (backup, failure) {
        (_, Some(failure)) => ("backup", Found::Bad(failure.clone())),
        (Some(to), None) => ("backup", Found::Good(format!("to {to} after each turn"))),
        (None, None) => ("backup", Found::Note(NO_BACKUP.to_owned())),
    });
    found.push(("recovery", Found::Note(DRILL.to_owned())));
    found
}

fn permissions(home: &Home) -> Found {
    use std::os::unix::fs::PermissionsExt as _;
    for name in ["config.toml", "secrets.toml", "door.key"] {
        let path = home.file(name);
        if let Ok(metadata) = std::fs::metadata(&path)
            && metadata.permissions().mode() & 0o077 != 0
        {
            return Found::Bad(format!("others may read {0}; run: chmod 600 {0}", path.display()));
        }
    }
    Found::Good(home.path().display().to_string())
}

fn on_path(program: &str) -> Found {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found =
        std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file());
    found.map_or_else(
        || Found::Bad(format!("{program} is not on PATH: install it")),
        |file| Found::Good(file.display().to_string()),
    )
}

fn readable(path: &Path) -> Result<(), String> {
    let mut session = Session::open(path).map_err(|error| format!("{error:#}"))?;
    match session.take_notices() {
        notices if notices.is_empty() => Ok(()),
        notices => Err(notices.join("; ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(standing: &Standing) -> Vec<String> {
        let line = |(what, found): (&str, Found)| match found {
            Found::Good(text) => format!("ok {what}: {text}"),
            Found::Note(text) => format!("note {what}: {text}"),
            Found::Bad(text) => format!("BAD {what}: {text}"),
        };
        history(standing).into_iter().map(line).collect()
    }

    #[test]
    fn the_history_says_what_it_lacks_and_what_to_do_about_it() {
        let mut standing = Standing { commits: 1, bytes: 2048, ..Standing::default() };
        let kept = "ok history: 1 change, 2.0 KB on disk".to_owned();
        let drill = format!("note recovery: {DRILL}");
        let no_backup = format!("note backup: {NO_BACKUP}");
        assert_eq!(told(&standing), [kept.clone(), no_backup, drill.clone()]);
        let venv = ".venv (in the owner's exclude file)";
        let left_out = [venv, "a.iso (larger than 50 MB)", "config (it holds a token)"];
        standing.left_out = left_out.map(str::to_owned).to_vec();
        standing.branches = vec!["x".to_owned(), "y".to_owned()];
        standing.backup = Some("/b".to_owned());
        let expected = [
            kept,
            format!("note left out: {SECRETS}\n  config (it holds a token)"),
            format!("note left out: {NOT_KEPT}\n  a.iso (larger than 50 MB)"),
            format!("note left out: {EXCLUDED}\n  {venv}"),
            format!("note branches: x, y\n{BRANCHES}"),
            "ok backup: to /b after each turn".to_owned(),
            drill,
        ];
        assert_eq!(told(&standing), expected);
        standing.failure = Some("no room".to_owned());
        assert_eq!(told(&standing)[5], "BAD backup: no room");
    }
}
