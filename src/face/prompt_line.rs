//! The line being typed: an editor in a thread of its own, which stays usable while
//! anything else is printed.
//!
//! Owns the keys, the completion, the history of lines and the one way to print beside a
//! live prompt: what is printed keeps its order, and the terminal is left as it was found.
//! Knows nothing of what a line means.

use std::borrow::Cow;
use std::ffi::OsString;
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rustyline::completion::{Completer, Pair};
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::DefaultHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{
    Cmd, ColorMode, ConditionalEventHandler, Config, Editor, Event, EventContext, EventHandler,
    ExternalPrinter as _, Helper, KeyCode, KeyEvent, Modifiers, Movement, RepeatCount,
};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::face::attached;
use crate::face::begun::Begun;
use crate::face::clean::clean;
use crate::face::screen::{Place, write};
use crate::face::tty::Kept;
use crate::guard::supervisor;
use crate::organs::home::{Home, write_private};
use crate::organs::lane::lock;
use crate::organs::sessions;

/// Two presses of Ctrl-C within this time mean "leave".
const TWICE: Duration = Duration::from_secs(2);
/// The commands that the name of a session follows.
const SESSION_COMMANDS: [&str; 2] = ["/resume ", "/wire "];
/// Where the history of lines is kept, and how many of them.
const HISTORY_FILE: &str = "lines.txt";
const HISTORY: usize = 2_000;

/// What the person at the prompt does.
#[derive(Debug)]
pub enum Typed {
    /// A whole line, which may hold several, and how many questions stood there when it was
    /// begun.
    Line(String, u64),
    /// A message written in an editor, or why that could not be used.
    Written(Result<String>),
    /// Ctrl-C, once.
    Stop,
    /// Ctrl-C, once, which took the line with it.
    Cut,
    /// Ctrl-C twice.
    Abandon,
    /// Ctrl-D.
    Leave,
    /// The terminal is gone.
    Broken(anyhow::Error),
}

/// The prompt, as the rest of the program holds it. Dropping it ends the editor.
pub struct PromptLine {
    /// What is typed.
    pub typed: UnboundedReceiver<Typed>,
    next: std::sync::mpsc::Sender<()>,
    printer: std::sync::mpsc::Sender<Print>,
    printing: std::thread::JoinHandle<()>,
    gate: Arc<Gate>,
    presses: Arc<Presses>,
    /// A clone is held by whatever Ctrl-C would stop: while there is one, it keeps the line.
    pub busy: Arc<()>,
    /// Held while a turn runs.
    pub turn: Option<Arc<()>>,
    kept: Option<Kept>,
    /// Whether the terminal is too dumb for a prompt that lives beside other lines.
    pub dumb: bool,
    /// Questions so far.
    questions: u64,
}

/// What is printed beside the prompt.
enum Print {
    Lines(String),
    /// A question: when the second of these waits to be printed, the editor has taken the first.
    Question([String; 3]),
}

impl PromptLine {
    /// Make ready to read lines.
    pub fn start(home: &Home, commands: &'static [(&'static str, &'static str)]) -> Result<Self> {
        let (sender, typed) = unbounded_channel();
        let (gate, presses) = (Arc::<Gate>::default(), Arc::<Presses>::default());
        let (kept, begun) = (Kept::now(), Arc::<Begun>::default());
        let (home_of, beginning) = (home.clone(), begun.clone());
        let assist = Assist { commands, home: home_of, gate: gate.clone(), begun: beginning };
        let mut editor = editor(assist)?;
        let (sent, busy) = (sender.clone(), Arc::new(()));
        let stop = OnStop { sender: sent, presses: presses.clone(), busy: Arc::downgrade(&busy) };
        editor.bind_sequence(KeyEvent::ctrl('C'), EventHandler::Conditional(Box::new(stop)));
        let history = home.file(HISTORY_FILE);
        // A history that cannot be read or written is no reason not to talk.
        if !history.exists() {
            let _ = write_private(&history, b"");
        }
        let _ = editor.load_history(&history);
        // A dumb terminal has no editor: there, lines are printed wherever the cursor is.
        let mut external = editor.create_external_printer().ok();
        let dumb = external.is_none();
        if dumb {
            gate.set(Prompt::Gone);
        }
        let (printer, lines) = std::sync::mpsc::channel();
        let (open, shown) = (gate.clone(), begun.clone());
        let mut print = move |line: String| {
            let beside = open.pass() == Prompt::Live;
            let above = external.as_mut().filter(|_| beside);
            if above.is_none_or(|above| above.print(format!("{line}\n")).is_err()) {
                // A terminal that is gone shows nothing, however it is printed.
                let _ = write(Place::Out, &line);
            }
        };
        // A thread of its own: printing waits for the editor, and the runtime must not.
        let printing = std::thread::spawn(move || {
            while let Ok(printed) = lines.recv() {
                match printed {
                    Print::Lines(line) => print(line),
                    Print::Question([what, price, answers]) => {
                        print(what);
                        // The editor holds one at most, and reads no key between two.
                        print(price);
                        shown.shown();
                        print(answers);
                    }
                }
            }
        });
        let (next, asked) = std::sync::mpsc::channel();
        let (home, turned, ctrl_c) = (home.clone(), gate.clone(), presses.clone());
        std::thread::spawn(move || {
            read(&mut editor, &sender, &asked, &ctrl_c, &home, &turned);
            turned.set(Prompt::Gone);
        });
        let (turn, questions) = (None, 0);
        Ok(Self {
            typed,
            next,
            printer,
            printing,
            gate,
            presses,
            busy,
            turn,
            kept,
            dumb,
            questions,
        })
    }

    /// Prompt for the next line. Until then nothing is read, and what is printed waits.
    pub fn next(&self) {
        // An editor that is gone needs no prompting.
        let _ = self.next.send(());
    }

    /// Print lines above the prompt. They must have been cleaned.
    pub fn print(&self, lines: &str) {
        if self.dumb {
            // There is nothing to wait for, and the next prompt must not come first.
            let _ = write(Place::Out, lines);
        } else {
            // The thread lives as long as this value.
            let _ = self.printer.send(Print::Lines(lines.to_owned()));
        }
    }

    /// Print a question above the prompt: what it is about, its price, and how to answer it.
    /// Its number: only a line that knows so many questions can be the answer. A dumb terminal
    /// has no line that could.
    pub fn question(&mut self, lines: [String; 3]) -> u64 {
        self.questions += 1;
        let _ = self.printer.send(Print::Question(lines));
        self.questions
    }

    /// Ctrl-C came as a signal: what it means.
    pub fn pressed(&self) -> Typed {
        if self.presses.twice() { Typed::Abandon } else { Typed::Stop }
    }

    /// Print what is left and leave the terminal as it was found.
    pub fn finish(self) {
        let Self { gate, kept, printer, printing, .. } = self;
        let live = gate.set(Prompt::Gone) == Prompt::Live;
        drop(kept);
        if live {
            // The editor was not asked to end: its line is left, and its way of pasting.
            let _ = write(Place::Out, "\x1b[?2004l");
        }
        drop(printer);
        let _ = printing.join();
    }
}

fn editor(assist: Assist) -> Result<Editor<Assist, DefaultHistory>> {
    let config = Config::builder()
        .max_history_size(HISTORY)
        .and_then(|config| config.history_ignore_dups(true))
        .context("cannot set the line editor up")?
        .auto_add_history(true)
        // Lines are cleaned where others colour them, and so whatever NO_COLOR says.
        .color_mode(ColorMode::Forced)
        .bracketed_paste(true)
        .build();
    let mut editor = Editor::with_config(config).context("cannot open the terminal")?;
    editor.set_helper(Some(assist));
    let enter = KeyEvent(KeyCode::Enter, Modifiers::ALT);
    editor.bind_sequence(enter, EventHandler::Simple(Cmd::Newline));
    Ok(editor)
}

fn read(
    editor: &mut Editor<Assist, DefaultHistory>,
    sender: &UnboundedSender<Typed>,
    next: &std::sync::mpsc::Receiver<()>,
    presses: &Presses,
    home: &Home,
    gate: &Gate,
) {
    while next.recv().is_ok() {
        gate.turn(Prompt::Between, Prompt::Coming);
        let line = editor.readline("> ");
        let begun = editor.helper().map_or(0, |assist| assist.begun.take());
        let typed = match line {
            Ok(line) if line.trim() == "/edit" => Typed::Written(edit(home)),
            // A backslash at a line's end only says that the text goes on.
            Ok(line) => Typed::Line(line.replace("\\\n", "\n"), begun),
            Err(ReadlineError::Eof) => Typed::Leave,
            Err(ReadlineError::Interrupted) if presses.twice() => Typed::Abandon,
            // A signal that came just as the prompt was drawn: the editor takes it for the end.
            Err(ReadlineError::Interrupted) => Typed::Cut,
            Err(error) => {
                Typed::Broken(anyhow::Error::new(error).context("the terminal cannot be read"))
            }
        };
        let leaving = matches!(typed, Typed::Abandon | Typed::Leave | Typed::Broken(_));
        let _ = editor.append_history(&home.file(HISTORY_FILE));
        if sender.send(typed).is_err() || leaving {
            return;
        }
    }
}

/// How it stands with the prompt.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Prompt {
    /// The editor is between two lines.
    #[default]
    Between,
    /// It has been told to read, and has not drawn the prompt yet.
    Coming,
    /// The prompt is there: lines can be printed above it.
    Live,
    /// There is no editor any more.
    Gone,
}

/// What holds printing back while the editor is between two lines: it would print at once
/// then, before what it has been given earlier and will show above the next prompt.
#[derive(Default)]
struct Gate(Mutex<Prompt>, Condvar);

impl Gate {
    fn set(&self, prompt: Prompt) -> Prompt {
        let before = std::mem::replace(&mut *lock(&self.0), prompt);
        self.1.notify_all();
        before
    }

    /// From one state to another; nothing, in any third.
    fn turn(&self, from: Prompt, to: Prompt) {
        let mut prompt = lock(&self.0);
        if *prompt == from {
            *prompt = to;
            self.1.notify_all();
        }
    }

    /// Wait until something may be printed.
    fn pass(&self) -> Prompt {
        let waits = |prompt: &mut Prompt| matches!(prompt, Prompt::Between | Prompt::Coming);
        *self.1.wait_while(lock(&self.0), waits).unwrap_or_else(PoisonError::into_inner)
    }
}

/// Write a message in the owner's editor. Nothing, when nothing was written.
fn edit(home: &Home) -> Result<String> {
    let path = home.file("message.md");
    write_private(&path, b"").with_context(|| format!("cannot write {}", path.display()))?;
    let set = |name| std::env::var(name).ok().filter(|editor| !editor.trim().is_empty());
    let editor = set("VISUAL").or_else(|| set("EDITOR")).unwrap_or_else(|| "vi".to_owned());
    // An editor is often named with arguments, for instance `code --wait`.
    let mut words = editor.split_whitespace().map(OsString::from).chain([path.clone().into()]);
    let name = words.next().unwrap_or_default();
    // No hand: it is the owner's, and no agent can ask for it.
    let ended = supervisor::run_in_terminal(name, &words.collect::<Vec<_>>(), &[], None);
    let ended =
        ended.with_context(|| format!("cannot run {editor}; set EDITOR to the one you use"))?;
    ensure!(ended.success(), "{editor} failed ({ended}); set EDITOR to the one you use");
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("cannot read {}", path.display()))?;
    let _ = std::fs::remove_file(&path);
    Ok(text.trim().to_owned())
}

/// When Ctrl-C was pressed last, as a key or as a signal.
#[derive(Default)]
struct Presses(Mutex<Option<Instant>>);

impl Presses {
    /// It is pressed. Whether for the second time.
    fn twice(&self) -> bool {
        let before = lock(&self.0).replace(Instant::now());
        before.is_some_and(|before| before.elapsed() < TWICE)
    }

    /// What was pressed before counts no more.
    fn forget(&self) {
        *lock(&self.0) = None;
    }
}

/// Ctrl-C: the first press stops what runs and leaves the line as it is, the second leaves.
/// Where nothing runs it clears the line, if there is one.
struct OnStop {
    sender: UnboundedSender<Typed>,
    presses: Arc<Presses>,
    busy: Weak<()>,
}

impl ConditionalEventHandler for OnStop {
    fn handle(&self, _: &Event, _: RepeatCount, _: bool, at: &EventContext<'_>) -> Option<Cmd> {
        // The prompt itself holds it too.
        let idle = self.busy.strong_count() <= 1;
        if idle && !at.line().is_empty() {
            self.presses.forget();
            return Some(Cmd::Kill(Movement::WholeBuffer));
        }
        if self.presses.twice() {
            return Some(Cmd::Interrupt);
        }
        let _ = self.sender.send(Typed::Stop);
        Some(Cmd::Noop)
    }
}

/// Completion of commands, sessions and paths; lines that are not finished yet.
struct Assist {
    commands: &'static [(&'static str, &'static str)],
    home: Home,
    gate: Arc<Gate>,
    begun: Arc<Begun>,
}

impl Helper for Assist {}

impl Highlighter for Assist {
    /// The line as a terminal may see it: what is pasted or recalled may hold more.
    fn highlight<'l>(&self, line: &'l str, _: usize) -> Cow<'l, str> {
        let cleaned = clean(line);
        if cleaned == line { Cow::from(line) } else { Cow::from(cleaned) }
    }
}

impl Hinter for Assist {
    type Hint = String;

    /// Gives no hint: it is asked whenever the line changes or is drawn, and that is what it
    /// tells.
    fn hint(&self, line: &str, _: usize, _: &rustyline::Context<'_>) -> Option<String> {
        self.begun.drawn(line);
        self.gate.turn(Prompt::Coming, Prompt::Live);
        None
    }
}

impl Validator for Assist {
    fn validate(&self, context: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        let text = context.input();
        let fences = text.lines().filter(|line| line.trim_start().starts_with("```")).count();
        let open = text.ends_with('\\') || fences % 2 == 1;
        if open {
            return Ok(ValidationResult::Incomplete);
        }
        self.begun.entered(text);
        self.gate.turn(Prompt::Live, Prompt::Between);
        Ok(ValidationResult::Valid(None))
    }
}

impl Completer for Assist {
    type Candidate = Pair;

    fn complete(
        &self,
        line: &str,
        at: usize,
        _: &rustyline::Context<'_>,
    ) -> rustyline::Result<(usize, Vec<Pair>)> {
        let typed = &line[..at];
        let (start, known) = if typed.starts_with('/') && !typed.contains([' ', '\t']) {
            (0, self.commands.iter().map(|(name, _)| (*name).to_owned()).collect())
        } else if let Some(command) = SESSION_COMMANDS.iter().find(|name| typed.starts_with(*name))
        {
            let sessions = sessions::list(&self.home).unwrap_or_default();
            (command.len(), sessions.into_iter().map(|one| one.name).collect())
        } else if let Some((at, path)) = attached::begun(typed) {
            // What is attached is the owner's, and so is the folder.
            let found = attached::paths(&std::env::current_dir().unwrap_or_default(), path);
            let pair = |(display, path): (String, String)| Pair {
                display,
                replacement: attached::typed(&path),
            };
            return Ok((at, found.into_iter().map(pair).collect()));
        } else {
            (typed.rfind(char::is_whitespace).map_or(0, |space| space + 1), Vec::new())
        };
        let word = &typed[start..];
        let pair = |name: String| Pair { replacement: format!("{name} "), display: name };
        let fits = |name: &String| name.starts_with(word) && clean(name) == *name;
        let mut found: Vec<_> = known.into_iter().filter(fits).map(pair).collect();
        if found.is_empty() {
            // Paths in a message are meant as the agent sees them.
            let paths = attached::paths(&self.home.workspace(), word).into_iter();
            found = paths.map(|(display, replacement)| Pair { display, replacement }).collect();
        }
        Ok((start, found))
    }
}
