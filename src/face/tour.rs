//! `fledgling tour`: a recorded conversation on the real loop, with real tools, in a home
//! of its own that is gone afterwards.
//!
//! Owns the recording's way to the screen. Everything else is what any conversation uses:
//! the host, the scripted model, the view of a turn.

use std::io::{BufRead as _, IsTerminal as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::face::screen::{Place, Screen, write};
use crate::face::turn_view::{Shown, TurnView};
use crate::kernel::event::{End, Event};
use crate::organs::config::Config;
use crate::organs::home::Home;
use crate::organs::host::{Host, Settings};
use crate::organs::keys::Keys;
use crate::organs::models::Catalog;
use crate::organs::verb::{Answer, Caller, Verb};
use crate::wires::script;

/// The recording: what the owner says and what the model replies.
const RECORDING: &str = include_str!("tour.jsonl");

/// Play it. The exit code is 1 when it did not go as recorded.
pub async fn tour(json: bool) -> Result<u8> {
    let folder = Folder::new()?;
    let screen = Screen::of(Place::Out);
    let pauses = screen.terminal && std::io::stdin().is_terminal() && !json;
    let recording = folder.0.join("tour.jsonl");
    std::fs::write(&recording, RECORDING).context("cannot write the recording")?;
    let home = Home::resolve(Some(folder.0.join("home")))?;
    home.create_root()?;
    let lock = home.lock()?.context("the tour's own home is locked")?;
    let config = Config::default();
    let catalog = Catalog::new(config.clone(), Keys::default());
    let model = Some(format!("script:{}", recording.display()));
    let host = Host::open(Settings { home, config, catalog, model, safe: false }, lock).await?;
    host.take_notices();
    say(
        json,
        &screen.bold(
            "A recorded conversation: the words are played, the loop and the tools are real.",
        ),
    )?;
    say(json, "Everything happens in a temporary folder that is removed at the end.")?;
    for line in script::owner_lines(RECORDING) {
        if pauses && !pause()? {
            return Ok(0);
        }
        say(json, &format!("\n{} {line}", screen.bold("you>")))?;
        if turn(&host, line, screen, json).await? != End::Done {
            return Ok(1);
        }
    }
    say(json, &format!("\n{}", screen.bold("That was the tour. Now you:")))?;
    say(
        json,
        "  fledgling         a conversation of your own; it asks for a key or finds a local model",
    )?;
    say(json, "  fledgling help    short pages on how everything works")?;
    Ok(0)
}

fn say(json: bool, text: &str) -> Result<()> {
    if json { Ok(()) } else { Ok(write(Place::Out, text)?) }
}

/// Wait for Enter. Whether to go on.
fn pause() -> Result<bool> {
    write(Place::Out, "")?;
    write(Place::Out, &Screen::of(Place::Out).dim("[Enter goes on, q leaves]"))?;
    let mut line = String::new();
    let read =
        std::io::stdin().lock().read_line(&mut line).context("cannot read standard input")?;
    Ok(read > 0 && !line.trim().eq_ignore_ascii_case("q"))
}

async fn turn(
    host: &std::sync::Arc<Host>,
    text: String,
    screen: Screen,
    json: bool,
) -> Result<End> {
    let key = format!("{:016x}", fastrand::u64(..));
    let session = Some("tour".to_owned());
    let verb = Verb::Run { session, text, key, model: None, steer: false };
    let mut answers = host.ask(Caller::Owner, verb);
    let mut view = TurnView::new(screen);
    let mut ended = End::Failed;
    while let Some(answer) = answers.recv().await {
        match answer {
            Answer::Event(event) => {
                if let Event::TurnEnded { end, .. } = &event {
                    ended = *end;
                }
                if json {
                    write(Place::Out, &serde_json::to_string(&event)?)?;
                    continue;
                }
                for shown in view.event(&event) {
                    let (Shown::Said(line) | Shown::Aside(line)) = shown;
                    write(Place::Out, &line)?;
                }
                if let Event::Result { tool, text, .. } = &event
                    && tool == "bash"
                {
                    output(text, screen)?;
                }
            }
            Answer::Refused { why, .. } => anyhow::bail!("the tour cannot go on: {why}"),
            Answer::Value(_) | Answer::Done => {}
        }
    }
    Ok(ended)
}

/// The first lines of what a command printed: the tour is there to show them.
fn output(text: &str, screen: Screen) -> Result<()> {
    const LINES: usize = 12;
    for line in text.lines().take(LINES) {
        let line = crate::face::clean::line(line, screen.width.saturating_sub(4));
        write(Place::Out, &screen.dim(&format!("    {line}")))?;
    }
    Ok(())
}

/// A temporary folder, removed with everything in it.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Result<Self> {
        let path: &Path = &std::env::temp_dir();
        let path = path.join(format!("fledgling-tour-{:08x}", fastrand::u32(..)));
        std::fs::create_dir(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
