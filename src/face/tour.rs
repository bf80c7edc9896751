//! `fledgling tour`: a recorded conversation on the real loop, with real tools, in a home
//! of its own that is gone afterwards.
//!
//! Owns the recording's way to the screen, where it shows more of each call than a
//! conversation does. Everything else is what any conversation uses: the host, the scripted
//! model, the view of a turn.

use std::fs::DirBuilder;
use std::io::{BufRead as _, IsTerminal as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::face::clean::{json_line, row};
use crate::face::history::Look;
use crate::face::record::Recorder;
use crate::face::run::{Output, interrupted};
use crate::face::screen::{Place, Screen, write};
use crate::face::turn_view::{Looked, wrapped};
use crate::face::{history, views};
use crate::kernel::event::Event;
use crate::organs::config::Config;
use crate::organs::home::{Home, HostLock};
use crate::organs::host::{Host, Settings};
use crate::organs::keys::Keys;
use crate::organs::models::Catalog;
use crate::organs::reach::settings::Confine;
use crate::organs::verb::{self, Answer, Caller, Verb, exit};
use crate::wires::script::{self, Owner, Typed};

/// The recording: what the owner says and what the model replies.
const RECORDING: &str = include_str!("tour.jsonl");
const INTRO: &str = "\
A recorded conversation: the agent's words are played, its tools are real.
It happens in a temporary folder, removed at the end.";
const OUTRO: &str = "
That was the tour. Now you:
- fledgling: a conversation of your own; it helps you to a model first
- fledgling help: short pages on how everything works";
/// What its conversation is called.
const SESSION: &str = "tour";
const INDENT: &str = "    ";
/// Lines shown of a file that is read: it is not what the tour is about.
const READ_LINES: usize = 3;
/// Lines shown of all else.
const LINES: usize = 24;

/// Play it, and record it if that is wished. The exit code is 1 when it did not go as recorded.
pub async fn tour(json: bool, mut recorder: Recorder) -> Result<u8> {
    let folder = Folder::new("tour")?;
    let recording = folder.0.join("tour.jsonl");
    std::fs::write(&recording, RECORDING).context("cannot write the recording")?;
    let home = Home::resolve(Some(folder.0.join("home")))?;
    home.create_root()?;
    let lock = home.lock()?.context("the tour's own home is locked")?;
    let host = scripted(home.clone(), lock, &recording, Confine::On).await?;
    recorder.began(SESSION, 1);
    let tour = Tour { host: host.clone(), home, screen: Screen::of(Place::Out), json };
    tokio::select! {
        code = tour.play() => {
            if let Some(verb) = recorder.wants(SESSION) {
                let mut answers = host.ask(Caller::Owner, verb);
                let answer = views::answer(&mut answers, |_| ()).await?;
                recorder.keep(&answer.context("the host ended before it answered")?)?;
            }
            code
        }
        () = interrupted() => {
            host.stop_all().await;
            Ok(exit::INTERRUPTED)
        }
    }
}

/// A host of this home, in which a recording plays the model and nothing is the owner's.
pub async fn scripted(
    home: Home,
    lock: HostLock,
    recording: &Path,
    confine: Confine,
) -> Result<Arc<Host>> {
    let config = Config { confine, ..Config::default() };
    let catalog = Catalog::new(config.clone(), Keys::default());
    let model = Some(format!("script:{}", recording.display()));
    Host::open(Settings { home, config, catalog, model, safe: false, resident: false }, lock).await
}

struct Tour {
    host: Arc<Host>,
    home: Home,
    screen: Screen,
    json: bool,
}

impl Tour {
    async fn play(&self) -> Result<u8> {
        let pauses = self.screen.terminal && std::io::stdin().is_terminal() && !self.json;
        self.say(INTRO, Screen::bold)?;
        for step in script::owner_lines(RECORDING) {
            if pauses {
                pause(self.screen).await?;
            }
            let line = match &step {
                Owner::Says(line) => line,
                Owner::Types(Typed { line, about, .. }) => {
                    self.say(&format!("\n{about}"), Screen::dim)?;
                    line
                }
            };
            self.say(&format!("\nyou> {line}"), Screen::bold)?;
            self.say("", Screen::dim)?;
            let code = match step {
                Owner::Says(line) => self.turn(line).await?,
                Owner::Types(typed) => self.command(&typed).await?,
            };
            if code != 0 {
                return Ok(code);
            }
        }
        self.say(OUTRO, Screen::bold)?;
        Ok(0)
    }

    /// Words of the tour's own. Those that read JSON need none.
    fn say(&self, text: &str, style: impl Fn(&Screen, &str) -> String) -> Result<()> {
        if self.json {
            return Ok(());
        }
        Ok(write(Place::Out, &style(&self.screen, &wrapped(text, self.screen)))?)
    }

    /// One turn. The number is its exit code.
    async fn turn(&self, text: String) -> Result<u8> {
        let (key, session) = (verb::fresh_key(), Some(SESSION.to_owned()));
        let (model, steer, branch, only) = (None, false, None, None);
        let verb = Verb::Run { session, text, key, model, steer, branch, only, files: Vec::new() };
        let mut answers = self.host.ask(Caller::Owner, verb);
        let mut output = Output::all_out(self.json);
        while let Some(answer) = answers.recv().await {
            match answer {
                Answer::Event(event) => {
                    output.event(&event)?;
                    self.more(&event, output.view.last.as_ref())?;
                }
                Answer::Refused { why, .. } => anyhow::bail!("the tour cannot go on: {why}"),
                Answer::Value(_) | Answer::Asked(_) | Answer::Happened(_) | Answer::Done => {}
            }
        }
        Ok(output.ended.unwrap_or(exit::FAILED))
    }

    /// A command of the conversation, done and shown as there. The number is an exit code.
    async fn command(&self, typed: &Typed) -> Result<u8> {
        let Typed { line, contains, .. } = typed;
        let ask = history::command::typed(line, &self.home.workspace())?;
        let mut answers = self.host.ask(Caller::Owner, Verb::History(ask.clone()));
        let answer = views::answer(&mut answers, |_| ()).await?;
        let answer = answer.context("the host ended before it answered")?;
        let text = |screen| history::text(&ask, &answer, Look::slash(screen));
        let shown = if self.json {
            json_line(&json!({ "typed": line, "answer": answer }))?
        } else {
            text(self.screen)?
        };
        write(Place::Out, &shown)?;
        // On a screen its words may be parted.
        let said = text(Screen::PIPE)?;
        anyhow::ensure!(
            said.contains(contains),
            "the tour cannot go on: {line} should have told of {contains:?}, and said:\n{said}"
        );
        Ok(0)
    }

    /// Show a call whole, and let words and deeds stand apart.
    fn more(&self, event: &Event, call: Option<&Looked>) -> Result<()> {
        let lines = match event {
            _ if self.json => return Ok(()),
            Event::Result { .. } => call.map(details).unwrap_or_default(),
            Event::Reply { text, .. } if !text.is_empty() => Vec::new(),
            _ => return Ok(()),
        };
        for line in lines {
            let line = row(&line, self.screen.width.saturating_sub(INDENT.len() + 1));
            write(Place::Out, &self.screen.dim(&format!("{INDENT}{line}")))?;
        }
        Ok(write(Place::Out, "")?)
    }
}

/// A call in more than the one line that a conversation gives it.
fn details(Looked { tool, input, text }: &Looked) -> Vec<String> {
    let marked = |mark: &str, text: &str| -> Vec<_> {
        text.lines().map(|line| format!("{mark}{line}")).collect()
    };
    let field = |mark, of: &Value, name| marked(mark, of[name].as_str().unwrap_or_default());
    let (limit, mut lines) = match tool.as_str() {
        "bash" => {
            let command = Some(field("$ ", input, "command")).filter(|lines| lines.len() > 1);
            (LINES, [command.unwrap_or_default(), marked("", text)].concat())
        }
        "write" => (LINES, field("+ ", input, "content")),
        "edit" => {
            let edits = input["edits"].as_array().into_iter().flatten();
            let sides = |edit| [field("- ", edit, "old"), field("+ ", edit, "new")].concat();
            (LINES, edits.flat_map(sides).collect())
        }
        _ => (READ_LINES, marked("", text)),
    };
    let more = lines.len().saturating_sub(limit);
    if more > 0 {
        lines.truncate(limit);
        lines.push(format!("… {more} more lines"));
    }
    lines
}

/// Wait for Enter.
async fn pause(screen: Screen) -> Result<()> {
    write(Place::Out, &screen.dim("\n[Enter goes on, Ctrl-C leaves]"))?;
    let (sender, entered) = tokio::sync::oneshot::channel();
    // A thread of its own: whoever presses Ctrl-C must not wait for it.
    std::thread::spawn(move || sender.send(std::io::stdin().lock().read_line(&mut String::new())));
    entered.await?.context("cannot read standard input").map(drop)
}

/// A temporary folder of the owner's alone, removed with everything in it.
pub struct Folder(pub PathBuf);

impl Folder {
    /// A new one, with what it is for in its name.
    pub fn new(purpose: &str) -> Result<Self> {
        let name = format!("fledgling-{purpose}-{:08x}", fastrand::u32(..));
        let path = std::env::temp_dir().join(name);
        DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
