//! `fledgling tour`: a recorded conversation on the real loop, with real tools, in a home
//! of its own that is gone afterwards.
//!
//! Owns the recording's way to the screen, where it shows more of each call than a
//! conversation does. Everything else is what any conversation uses: the host, the scripted
//! model, the view of a turn.

use std::io::{BufRead as _, IsTerminal as _};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::face::clean::row;
use crate::face::run;
use crate::face::screen::{Place, Screen, write};
use crate::face::turn_view::{Looked, Shown, TurnView};
use crate::face::wrap::{Style, Wrap};
use crate::kernel::event::{End, Event};
use crate::organs::config::Config;
use crate::organs::home::Home;
use crate::organs::host::{Host, Settings};
use crate::organs::keys::Keys;
use crate::organs::models::Catalog;
use crate::organs::verb::{Answer, Caller, Verb, exit};
use crate::wires::script;

/// The recording: what the owner says and what the model replies.
const RECORDING: &str = include_str!("tour.jsonl");
/// Lines shown of a file that is read: it is not what the tour is about.
const READ_LINES: usize = 3;
/// Lines shown of all else.
const LINES: usize = 24;

/// Play it. The exit code is 1 when it did not go as recorded.
pub async fn tour(json: bool) -> Result<u8> {
    let folder = Folder::new()?;
    let host = host(&folder).await?;
    let tour = Tour { host: host.clone(), screen: Screen::of(Place::Out), json };
    tokio::select! {
        code = tour.play() => code,
        () = run::interrupted() => {
            host.stop_all().await;
            Ok(exit::INTERRUPTED)
        }
    }
}

async fn host(folder: &Folder) -> Result<Arc<Host>> {
    let recording = folder.0.join("tour.jsonl");
    std::fs::write(&recording, RECORDING).context("cannot write the recording")?;
    let home = Home::resolve(Some(folder.0.join("home")))?;
    home.create_root()?;
    let lock = home.lock()?.context("the tour's own home is locked")?;
    let config = Config::default();
    let catalog = Catalog::new(config.clone(), Keys::default());
    let model = Some(format!("script:{}", recording.display()));
    Host::open(Settings { home, config, catalog, model, safe: false }, lock).await
}

struct Tour {
    host: Arc<Host>,
    screen: Screen,
    json: bool,
}

impl Tour {
    async fn play(&self) -> Result<u8> {
        let pauses = self.screen.terminal && std::io::stdin().is_terminal() && !self.json;
        self.say(
            Style::BOLD,
            "",
            "A recorded conversation: the agent's words are played, its tools are real.",
        )?;
        self.say(Style::PLAIN, "", "It happens in a temporary folder, removed at the end.")?;
        for line in script::owner_lines(RECORDING) {
            if pauses && !pause(self.screen).await? {
                return Ok(0);
            }
            self.say(Style::PLAIN, "", "")?;
            self.say(Style::BOLD, "you> ", &line)?;
            self.say(Style::PLAIN, "", "")?;
            if self.turn(line).await? != End::Done {
                return Ok(exit::FAILED);
            }
        }
        self.say(Style::PLAIN, "", "")?;
        self.say(Style::BOLD, "", "That was the tour. Now you:")?;
        for (command, what) in [
            ("fledgling", "a conversation of your own; it helps you to a model first"),
            ("fledgling help", "short pages on how everything works"),
        ] {
            self.say(Style::PLAIN, &format!("  {command:16}"), what)?;
        }
        Ok(0)
    }

    /// A line of the tour's own, wrapped. Those that read JSON need none.
    fn say(&self, style: Style, prefix: &str, text: &str) -> Result<()> {
        if self.json {
            return Ok(());
        }
        let mut wrap = Wrap::new(self.screen.width, self.screen.colour);
        wrap.begin(prefix.to_owned(), " ".repeat(prefix.len()));
        wrap.push(style, text);
        wrap.end();
        Ok(wrap.take().iter().try_for_each(|line| write(Place::Out, line))?)
    }

    async fn turn(&self, text: String) -> Result<End> {
        let key = format!("{:016x}", fastrand::u64(..));
        let session = Some("tour".to_owned());
        let verb = Verb::Run { session, text, key, model: None, steer: false };
        let mut answers = self.host.ask(Caller::Owner, verb);
        let mut view = TurnView::new(self.screen);
        let mut speaks = None;
        let mut ended = End::Failed;
        while let Some(answer) = answers.recv().await {
            let event = match answer {
                Answer::Event(event) => event,
                Answer::Refused { why, .. } => anyhow::bail!("the tour cannot go on: {why}"),
                Answer::Value(_) | Answer::Done => continue,
            };
            if let Event::TurnEnded { end, .. } = &event {
                ended = *end;
            }
            if self.json {
                write(Place::Out, &serde_json::to_string(&event)?)?;
                continue;
            }
            for shown in view.event(&event) {
                // Words and deeds stand apart.
                let (said, line) = match shown {
                    Shown::Said(line) => (true, line),
                    Shown::Aside(line) => (false, line),
                };
                if speaks.replace(said).is_some_and(|before| before != said) {
                    write(Place::Out, "")?;
                }
                write(Place::Out, &line)?;
            }
            if let (Event::Result { .. }, Some(looked)) = (&event, &view.last) {
                for line in details(looked) {
                    let line = row(&line, self.screen.width.saturating_sub(INDENT.len() + 1));
                    write(Place::Out, &self.screen.dim(&format!("{INDENT}{line}")))?;
                }
            }
        }
        Ok(ended)
    }
}

const INDENT: &str = "    ";

/// A call in more than the one line that a conversation gives it.
fn details(Looked { tool, input, text }: &Looked) -> Vec<String> {
    let field = |name: &str| input.get(name).and_then(Value::as_str).unwrap_or_default();
    let marked = |mark: &str, text: &str| {
        text.lines().map(|line| format!("{mark}{line}")).collect::<Vec<_>>()
    };
    match tool.as_str() {
        "bash" => {
            let command = Some(field("command")).filter(|command| command.contains('\n'));
            let mut lines = marked("$ ", command.unwrap_or_default());
            lines.extend(marked("", text));
            first(lines, LINES)
        }
        "write" => first(marked("+ ", field("content")), LINES),
        "edit" => {
            let edits = input.get("edits").and_then(Value::as_array).into_iter().flatten();
            let lines = edits.flat_map(|edit| {
                let side = |name| edit.get(name).and_then(Value::as_str).unwrap_or_default();
                [marked("- ", side("old")), marked("+ ", side("new"))].concat()
            });
            first(lines.collect(), LINES)
        }
        _ => first(marked("", text), READ_LINES),
    }
}

/// The first lines, and how many more there are.
fn first(mut lines: Vec<String>, limit: usize) -> Vec<String> {
    let more = lines.len().saturating_sub(limit);
    if more > 0 {
        lines.truncate(limit);
        lines.push(format!("… {more} more lines"));
    }
    lines
}

/// Wait for Enter. Whether to go on.
async fn pause(screen: Screen) -> Result<bool> {
    write(Place::Out, "")?;
    write(Place::Out, &screen.dim("[Enter goes on, q leaves]"))?;
    let (sender, answered) = tokio::sync::oneshot::channel();
    // A thread of its own: whoever presses Ctrl-C must not wait for it.
    std::thread::spawn(move || {
        let mut line = String::new();
        let read = std::io::stdin().lock().read_line(&mut line);
        sender.send(read.map(|length| (length, line)))
    });
    let (length, line) = answered
        .await
        .context("the answer is not awaited")?
        .context("cannot read standard input")?;
    Ok(length > 0 && !line.trim().eq_ignore_ascii_case("q"))
}

/// A temporary folder, removed with everything in it.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Result<Self> {
        let path = std::env::temp_dir().join(format!("fledgling-tour-{:08x}", fastrand::u32(..)));
        std::fs::create_dir(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
