//! The line being typed: an editor in a thread of its own, which stays usable while
//! anything else is printed.
//!
//! Owns the keys, the completion, the history of lines and the one way to print beside a
//! live prompt. Knows nothing of what a line means.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustyline::completion::{Completer, FilenameCompleter, Pair};
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::DefaultHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{
    Cmd, ConditionalEventHandler, Config, Editor, Event, EventContext, EventHandler,
    ExternalPrinter as _, Helper, KeyCode, KeyEvent, Modifiers, RepeatCount,
};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::guard::supervisor;
use crate::organs::home::{Home, write_private};
use crate::organs::lane::lock;
use crate::organs::sessions;

/// Two presses of Ctrl-C within this time mean "leave".
const TWICE: Duration = Duration::from_secs(2);
/// Lines of history kept.
const HISTORY: usize = 2_000;

/// What the person at the prompt does.
#[derive(Debug, PartialEq, Eq)]
pub enum Typed {
    /// A whole line, which may hold several.
    Line(String),
    /// Ctrl-C, once.
    Stop,
    /// Ctrl-D, or Ctrl-C twice.
    Leave,
    /// The terminal is gone.
    Broken(String),
}

/// The prompt, as the rest of the program holds it.
pub struct PromptLine {
    /// What is typed.
    pub typed: UnboundedReceiver<Typed>,
    printer: std::sync::mpsc::Sender<String>,
    printing: Option<std::thread::JoinHandle<()>>,
    over: Arc<AtomicBool>,
}

impl PromptLine {
    /// Begin to read lines.
    pub fn start(home: &Home, commands: &'static [(&'static str, &'static str)]) -> Result<Self> {
        let (sender, typed) = unbounded_channel();
        let config = Config::builder()
            .max_history_size(HISTORY)
            .and_then(|config| config.history_ignore_dups(true))
            .context("cannot set the line editor up")?
            .auto_add_history(true)
            .bracketed_paste(true)
            .build();
        let mut editor: Editor<Assist, DefaultHistory> =
            Editor::with_config(config).context("cannot open the terminal")?;
        editor.set_helper(Some(Assist {
            commands,
            home: home.clone(),
            files: FilenameCompleter::new(),
        }));
        let stop = OnStop { sender: sender.clone(), last: Mutex::new(None) };
        editor.bind_sequence(KeyEvent::ctrl('C'), EventHandler::Conditional(Box::new(stop)));
        editor.bind_sequence(
            KeyEvent(KeyCode::Enter, Modifiers::ALT),
            EventHandler::Simple(Cmd::Newline),
        );
        let history = home.file("lines.txt");
        if history.exists() {
            // A history that cannot be read is no reason not to talk.
            let _ = editor.load_history(&history);
        } else {
            let _ = write_private(&history, b"");
        }
        let mut external =
            editor.create_external_printer().context("cannot print beside the prompt")?;
        let (printer, lines) = std::sync::mpsc::channel::<String>();
        let over = Arc::new(AtomicBool::new(false));
        // A thread of its own: printing waits for the editor, and the runtime must not.
        let printing = std::thread::spawn(move || {
            while let Ok(line) = lines.recv() {
                let _ = external.print(format!("{line}\n"));
            }
        });
        let ended = over.clone();
        std::thread::spawn(move || {
            read(&mut editor, &sender, &history);
            ended.store(true, Ordering::SeqCst);
        });
        Ok(Self { typed, printer, printing: Some(printing), over })
    }

    /// Print a line above the prompt. It must have been cleaned.
    pub fn print(&self, line: &str) {
        if self.over.load(Ordering::SeqCst) {
            let _ = crate::face::screen::write(crate::face::screen::Place::Out, line);
        } else {
            // The thread lives as long as this value.
            let _ = self.printer.send(line.to_owned());
        }
    }

    /// Wait until everything is printed.
    pub fn finish(mut self) {
        let (closed, _) = std::sync::mpsc::channel();
        self.printer = closed;
        if let Some(printing) = self.printing.take() {
            let _ = printing.join();
        }
    }
}

fn read(
    editor: &mut Editor<Assist, DefaultHistory>,
    sender: &UnboundedSender<Typed>,
    history: &Path,
) {
    loop {
        let typed = match editor.readline("> ") {
            Ok(line) if line.trim() == "/edit" => match edit(editor.helper()) {
                Ok(Some(text)) => Typed::Line(text),
                Ok(None) => continue,
                Err(error) => Typed::Broken(format!("{error:#}")),
            },
            Ok(line) => Typed::Line(unfold(&line)),
            Err(ReadlineError::Eof | ReadlineError::Interrupted) => Typed::Leave,
            Err(error) => Typed::Broken(error.to_string()),
        };
        let leaving = matches!(typed, Typed::Leave | Typed::Broken(_));
        let _ = editor.append_history(history);
        if sender.send(typed).is_err() || leaving {
            return;
        }
    }
}

/// A backslash at a line's end only says that the text goes on.
fn unfold(line: &str) -> String {
    line.replace("\\\n", "\n")
}

/// Write a message in the owner's editor. `None` when nothing was written.
fn edit(helper: Option<&Assist>) -> Result<Option<String>> {
    let Some(helper) = helper else { return Ok(None) };
    let path = helper.home.file("message.md");
    write_private(&path, b"").with_context(|| format!("cannot write {}", path.display()))?;
    let editor = ["VISUAL", "EDITOR"].into_iter().find_map(|name| std::env::var(name).ok());
    let editor =
        editor.filter(|editor| !editor.trim().is_empty()).unwrap_or_else(|| "vi".to_owned());
    supervisor::run_for_owner(&editor, &path)?;
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("cannot read {}", path.display()))?;
    let _ = std::fs::remove_file(&path);
    let text = text.trim().to_owned();
    Ok((!text.is_empty()).then_some(text))
}

/// Ctrl-C: the first press stops what runs and leaves the line as it is, the second leaves.
struct OnStop {
    sender: UnboundedSender<Typed>,
    last: Mutex<Option<Instant>>,
}

impl ConditionalEventHandler for OnStop {
    fn handle(&self, _: &Event, _: RepeatCount, _: bool, _: &EventContext<'_>) -> Option<Cmd> {
        let mut last = lock(&self.last);
        if last.is_some_and(|last| last.elapsed() < TWICE) {
            return Some(Cmd::Interrupt);
        }
        *last = Some(Instant::now());
        let _ = self.sender.send(Typed::Stop);
        Some(Cmd::Noop)
    }
}

/// Completion of commands, sessions and paths; lines that are not finished yet.
struct Assist {
    commands: &'static [(&'static str, &'static str)],
    home: Home,
    files: FilenameCompleter,
}

impl Helper for Assist {}
impl Highlighter for Assist {}

impl Hinter for Assist {
    type Hint = String;
}

impl Validator for Assist {
    fn validate(&self, context: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        let text = context.input();
        let fences = text.lines().filter(|line| line.trim_start().starts_with("```")).count();
        let open = text.ends_with('\\') || fences % 2 == 1;
        Ok(if open { ValidationResult::Incomplete } else { ValidationResult::Valid(None) })
    }
}

impl Completer for Assist {
    type Candidate = Pair;

    fn complete(
        &self,
        line: &str,
        at: usize,
        context: &rustyline::Context<'_>,
    ) -> rustyline::Result<(usize, Vec<Pair>)> {
        let typed = &line[..at];
        let pair = |text: &str| Pair { display: text.to_owned(), replacement: format!("{text} ") };
        if typed.starts_with('/') && !typed.contains(' ') {
            let commands = self.commands.iter().map(|(name, _)| *name);
            return Ok((0, commands.filter(|name| name.starts_with(typed)).map(pair).collect()));
        }
        for command in ["/resume ", "/wire "] {
            if let Some(start) = typed.strip_prefix(command) {
                let names = sessions::list(&self.home).unwrap_or_default();
                let names = names.iter().map(|one| one.name.as_str());
                let found = names.filter(|name| name.starts_with(start)).map(pair).collect();
                return Ok((command.len(), found));
            }
        }
        self.path(line, at, context)
    }
}

impl Assist {
    /// Paths in a message are meant as the agent sees them: from the workspace.
    fn path(
        &self,
        line: &str,
        at: usize,
        context: &rustyline::Context<'_>,
    ) -> rustyline::Result<(usize, Vec<Pair>)> {
        let start = line[..at].rfind(char::is_whitespace).map_or(0, |space| space + 1);
        let word = &line[start..at];
        if word.starts_with(['/', '~']) {
            return self.files.complete(line, at, context);
        }
        let (folder, name) =
            word.rsplit_once('/').map_or(("", word), |(folder, name)| (folder, name));
        let entries =
            std::fs::read_dir(self.home.workspace().join(folder)).into_iter().flatten().flatten();
        let mut found: Vec<Pair> = entries
            .filter_map(|entry| {
                let found = entry.file_name().into_string().ok()?;
                let hidden = found.starts_with('.') && !name.starts_with('.');
                (!name.is_empty() && found.starts_with(name) && !hidden).then(|| {
                    let slash = if entry.path().is_dir() { "/" } else { "" };
                    let path: PathBuf = Path::new(folder).join(&found);
                    Pair {
                        display: format!("{found}{slash}"),
                        replacement: format!("{}{slash}", path.display()),
                    }
                })
            })
            .collect();
        found.sort_by(|a, b| a.display.cmp(&b.display));
        Ok((start, found))
    }
}
