//! The conversation in the terminal.
//!
//! Owns what a typed line means: a message, which begins a turn or steers the one that
//! runs, or a command. Whatever can wake it is one `Wake`. Knows neither the keys nor how
//! a turn is drawn.

use std::io::{BufRead as _, IsTerminal as _};

use anyhow::{Context as _, Result};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::face::clean::{clean, line, row};
use crate::face::onboard::{Welcome, welcome};
use crate::face::prompt_line::{PromptLine, Typed};
use crate::face::screen::{Place, Screen, write};
use crate::face::turn_view::{Shown, TurnView, preview, wrapped};
use crate::face::{run, tour, views};
use crate::kernel::event::Event;
use crate::organs::home::Home;
use crate::organs::host::Settings;
use crate::organs::link::Link;
use crate::organs::prompt::RIGHTS;
use crate::organs::sessions;
use crate::organs::verb::{Answer, Verb, exit};

/// The commands, with what each does.
pub const COMMANDS: [(&str, &str); 13] = [
    ("/help", "these commands; /help TOPIC for a page"),
    ("/new", "begin another conversation: /new [NAME]"),
    ("/resume", "go back to a conversation: /resume [NAME]"),
    ("/sessions", "list the conversations"),
    ("/model", "show the model, or choose one: /model [SPEC]"),
    ("/last", "show the latest tool call whole"),
    ("/edit", "write a message in $EDITOR"),
    ("/compact", "summarise the conversation to make room"),
    ("/wire", "what went over the wire: /wire [SESSION] [TURN]"),
    ("/usage", "tokens used"),
    ("/self", "paths, limits and rights, as the agent sees them"),
    ("/stop", "stop the running turn, as Ctrl-C does"),
    ("/quit", "leave, as Ctrl-D does"),
];

/// Talk. The number is the exit code.
pub async fn repl(mut settings: Settings, session: Option<String>, json: bool) -> Result<u8> {
    if !std::io::stdin().is_terminal() || json {
        return plain(settings, session, json).await;
    }
    let home = settings.home.clone();
    home.create_root()?;
    // A host that runs already has a model.
    if home.lock()?.is_some() {
        match welcome(&mut settings).await? {
            Welcome::Ready => {}
            Welcome::Tour => return tour::tour(false).await,
            Welcome::Leave => return Ok(0),
        }
    }
    let model = settings.model.clone();
    let link = Link::establish(move || Ok(settings)).await?;
    let screen = Screen::of(Place::Out);
    for text in opening(&link, screen) {
        write(Place::Out, &text)?;
    }
    let session = match session {
        Some(name) => {
            sessions::check_name(&name)?;
            name
        }
        None => match sessions::latest(&home)? {
            Some(name) => name,
            None => sessions::fresh_name(&home)?,
        },
    };
    resumed(&home, &session, screen)?;
    let prompt = PromptLine::start(&home, &COMMANDS)?;
    let (tell, told) = unbounded_channel();
    let mut repl = Repl {
        home,
        link: Some(link),
        model,
        session,
        view: TurnView::new(screen),
        screen,
        prompt,
        tell,
        told,
        mine: Vec::new(),
        held: false,
    };
    let ended = repl.talk().await;
    let Repl { prompt, link, .. } = repl;
    if let Some(link) = &link {
        let running = link.host().map(|host| host.running()).unwrap_or_default();
        if !running.is_empty() {
            prompt.print(&format!("Stopping what still runs here: {}.", running.join(", ")));
        }
        link.stop_all().await;
    }
    prompt.finish();
    ended
}

/// Lines from a pipe: each a turn, one after the other.
async fn plain(settings: Settings, session: Option<String>, json: bool) -> Result<u8> {
    let home = settings.home.clone();
    let model = settings.model.clone();
    home.create_root()?;
    let latest = if home.sessions().exists() { sessions::latest(&home)? } else { None };
    let session = session.or(latest).map_or_else(|| sessions::fresh_name(&home), Ok)?;
    let mut talk = run::Talk::new(Link::establish(move || Ok(settings)).await?, json)?;
    let mut code = 0;
    for line in std::io::stdin().lock().split(b'\n') {
        let line = line.context("cannot read standard input")?;
        let text = String::from_utf8_lossy(&line).trim().to_owned();
        match text.as_str() {
            "" => {}
            "/quit" => break,
            _ => code = talk.turn(text, Some(session.clone()), model.clone()).await?,
        }
    }
    talk.finish().await?;
    Ok(code)
}

/// What is said before the first prompt.
fn opening(link: &Link, screen: Screen) -> Vec<String> {
    let version = env!("CARGO_PKG_VERSION");
    let mut lines = vec![format!("{} {version}  /help for commands", screen.bold("fledgling"))];
    lines.push(screen.warn(&wrapped(RIGHTS, screen.width)));
    let attached = "Another process hosts this home; this terminal is attached to it.";
    let notices = link.host().map_or_else(|| vec![attached.to_owned()], |host| host.take_notices());
    lines.extend(notices.iter().map(|text| screen.dim(&wrapped(text, screen.width))));
    lines
}

/// Say that a conversation goes on, when it does.
fn resumed(home: &Home, name: &str, screen: Screen) -> Result<()> {
    let Some(one) = sessions::list(home)?.into_iter().find(|one| one.name == name) else {
        return Ok(());
    };
    let turns = views::turns(one.turns);
    let text = format!("Resuming {name} ({}, {turns}: {}). ", one.last, one.about);
    let next = "/new begins another.";
    let about = line(&text, screen.width.saturating_mul(2).saturating_sub(next.len() + 2));
    let text = wrapped(&format!("{about} {next}"), screen.width);
    Ok(write(Place::Out, &screen.dim(&text))?)
}

/// Whatever can wake the conversation.
enum Wake {
    Typed(Option<Typed>),
    Heard(Option<Answer>),
    Told(Told),
    Due,
    Signal,
}

struct Repl {
    home: Home,
    /// Gone only while the next host is looked for.
    link: Option<Link>,
    model: Option<String>,
    session: String,
    view: TurnView,
    screen: Screen,
    prompt: PromptLine,
    tell: UnboundedSender<Told>,
    told: UnboundedReceiver<Told>,
    /// What was said here and has not been heard of since.
    mine: Vec<String>,
    /// Whether the next prompt waits for an answer, as it does on a dumb terminal.
    held: bool,
}

/// What comes back from something asked of the host on the side.
enum Told {
    Answer(String),
    Failure(String),
}

impl Repl {
    /// Until somebody leaves. The number is the exit code.
    async fn talk(&mut self) -> Result<u8> {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate()).context("cannot catch SIGTERM")?;
        let mut hangup = signal(SignalKind::hangup()).context("cannot catch SIGHUP")?;
        // While no line is read, Ctrl-C is a signal and not a key.
        let mut interrupt = signal(SignalKind::interrupt()).context("cannot catch SIGINT")?;
        let mut heard = self.watch().await?;
        loop {
            let due = self.view.due().map(tokio::time::Instant::from_std);
            let wake = tokio::select! {
                typed = self.prompt.typed.recv() => Wake::Typed(typed),
                answer = heard.recv() => Wake::Heard(answer),
                Some(told) = self.told.recv() => Wake::Told(told),
                () = sleep_until(due), if due.is_some() => Wake::Due,
                _ = interrupt.recv() => Wake::Typed(Some(self.prompt.pressed())),
                _ = terminate.recv() => Wake::Signal,
                _ = hangup.recv() => Wake::Signal,
            };
            self.measure();
            match wake {
                Wake::Typed(Some(Typed::Line(line))) => match self.line(line.trim()).await {
                    Ok(Next::Prompt) => self.prompt.next(),
                    Ok(Next::Later) => self.prompt_beside(),
                    Ok(Next::Elsewhere) => {
                        heard = self.watch().await?;
                        self.prompt.next();
                    }
                    Ok(Next::Leave) => return Ok(0),
                    Err(error) => {
                        self.complain(&format!("{error:#}"));
                        self.prompt.next();
                    }
                },
                Wake::Typed(Some(Typed::Written(text))) => self.written(text).await,
                Wake::Typed(Some(Typed::Unwritten(why))) => {
                    self.complain(&why);
                    self.prompt.next();
                }
                Wake::Typed(Some(Typed::Stop)) => self.stop().await?,
                Wake::Typed(Some(Typed::Broken(why))) => {
                    anyhow::bail!("the terminal cannot be read: {why}")
                }
                Wake::Typed(Some(Typed::Leave) | None) => return Ok(0),
                Wake::Typed(Some(Typed::Abandon)) | Wake::Signal => return Ok(exit::INTERRUPTED),
                Wake::Heard(Some(Answer::Event(event))) => self.event(&event),
                Wake::Heard(Some(Answer::Refused { why, .. })) => self.complain(&why),
                Wake::Heard(Some(_)) => {}
                Wake::Heard(None) => heard = self.take_over().await?,
                Wake::Told(Told::Answer(text)) => {
                    self.prompt.print(&text);
                    self.release();
                }
                Wake::Told(Told::Failure(why)) => {
                    self.complain(&why);
                    self.release();
                }
                Wake::Due => {
                    let lines = self.view.tick();
                    self.show(lines);
                }
            }
        }
    }

    /// The terminal may have another width by now.
    fn measure(&mut self) {
        let screen = Screen::of(Place::Out);
        if screen != self.screen {
            self.screen = screen;
            self.view.resize(screen);
        }
    }

    /// Prompt again at once, except where the prompt would stand in the answer's way.
    fn prompt_beside(&mut self) {
        if self.prompt.dumb {
            self.held = true;
        } else {
            self.prompt.next();
        }
    }

    fn release(&mut self) {
        if std::mem::take(&mut self.held) {
            self.prompt.next();
        }
    }

    fn link(&self) -> Result<&Link> {
        self.link.as_ref().context("there is no host")
    }

    async fn watch(&self) -> Result<UnboundedReceiver<Answer>> {
        self.link()?.ask(Verb::Watch { session: self.session.clone() }).await
    }

    /// The host ended: find the next one, or become it, and go on.
    async fn take_over(&mut self) -> Result<UnboundedReceiver<Answer>> {
        let link = self.link.take().context("there is no host")?;
        let link = link.again().await?;
        let text = match link.host() {
            Some(host) => {
                let mut lines = vec!["The host ended; this terminal hosts now.".to_owned()];
                lines.extend(host.take_notices());
                lines.join("\n")
            }
            None => "The host ended; another process hosts now.".to_owned(),
        };
        self.link = Some(link);
        let rest = self.view.finish();
        self.show(rest);
        self.view = TurnView::new(self.screen);
        self.prompt.print(&self.screen.dim(&wrapped(&text, self.screen.width)));
        self.release();
        self.watch().await
    }

    fn event(&mut self, event: &Event) {
        match event {
            Event::TurnStarted { origin, text, .. } => {
                if !self.is_mine(text) {
                    let lines = self.view.said(origin, text);
                    self.show(lines);
                }
            }
            Event::Steered { text, .. } => _ = self.is_mine(text),
            _ => {}
        }
        let lines = self.view.event(event);
        self.show(lines);
        if matches!(event, Event::TurnEnded { .. }) {
            self.release();
        }
    }

    /// Whether this was said here, which is asked once about each thing said.
    fn is_mine(&mut self, text: &str) -> bool {
        let before = self.mine.len();
        self.mine.retain(|mine| !text.contains(mine));
        self.mine.len() < before
    }

    fn show(&self, lines: Vec<Shown>) {
        let lines = lines.into_iter().map(|(Shown::Said(line) | Shown::Aside(line))| line);
        let lines: Vec<_> = lines.collect();
        if !lines.is_empty() {
            self.prompt.print(&lines.join("\n"));
        }
    }

    fn complain(&self, why: &str) {
        self.prompt.print(&self.screen.warn(&wrapped(why, self.screen.width)));
    }

    async fn stop(&mut self) -> Result<()> {
        let session = Some(self.session.clone());
        let stopped = views::ask(self.link()?, Verb::Stop { session }).await?;
        if stopped["stopped"].as_array().is_none_or(Vec::is_empty) {
            self.prompt.print(&self.screen.dim("Nothing runs. Ctrl-C again (or Ctrl-D) leaves."));
        }
        Ok(())
    }

    /// A message from the owner's editor, which the screen has not shown yet.
    async fn written(&mut self, text: String) {
        if text.is_empty() {
            self.prompt.print(&self.screen.dim("Nothing was written."));
            return self.prompt.next();
        }
        self.prompt.print(&self.screen.dim(&wrapped(&text, self.screen.width)));
        match self.say(text).await {
            Ok(()) => self.prompt_beside(),
            Err(error) => {
                self.complain(&format!("{error:#}"));
                self.prompt.next();
            }
        }
    }

    async fn line(&mut self, line: &str) -> Result<Next> {
        if line.is_empty() {
            return Ok(Next::Prompt);
        }
        // A command is one word with one slash: a message may well begin with a path.
        let first = line.split_whitespace().next().unwrap_or_default();
        if !first.starts_with('/') || first.matches('/').count() > 1 {
            self.say(line.to_owned()).await?;
            return Ok(Next::Later);
        }
        let (command, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let rest = Some(rest.trim()).filter(|rest| !rest.is_empty());
        match (command, rest) {
            ("/quit" | "/exit", _) => return Ok(Next::Leave),
            ("/new", name) => {
                return self.go(name.map_or_else(
                    || sessions::fresh_name(&self.home),
                    |name| Ok(name.to_owned()),
                )?);
            }
            ("/resume", Some(name)) => {
                anyhow::ensure!(
                    self.home.transcript(name).exists(),
                    "there is no session {name}; /sessions lists them"
                );
                return self.go(name.to_owned());
            }
            ("/stop", _) => self.stop().await?,
            ("/last", _) => self.last(),
            ("/help", Some(topic)) => {
                self.prompt.print(&clean(&crate::face::help::text(Some(topic))?))
            }
            ("/help", None) => self.prompt.print(&help(self.screen.width)),
            ("/model", Some(model)) => {
                let (session, model) = (self.session.clone(), model.to_owned());
                let chosen = views::ask(self.link()?, Verb::Choose { session, model }).await?;
                // From now on the choice counts, not what the command line named.
                self.model = None;
                self.prompt.print(&format!(
                    "This conversation now talks to {}.",
                    chosen["model"].as_str().unwrap_or_default()
                ));
            }
            _ => {
                self.look(command, rest).await?;
                return Ok(Next::Later);
            }
        }
        Ok(Next::Prompt)
    }

    /// Commands that only show what the host answers.
    async fn look(&mut self, command: &str, rest: Option<&str>) -> Result<()> {
        let session = Some(self.session.clone());
        let verb = match command {
            "/sessions" | "/resume" => Verb::Sessions,
            "/usage" => Verb::Usage,
            "/self" | "/model" => Verb::About { session },
            "/compact" => Verb::Compact { session: self.session.clone() },
            "/wire" => {
                let mut words = rest.unwrap_or_default().split_whitespace().peekable();
                let named = words.next_if(|word| word.parse::<u64>().is_err()).map(str::to_owned);
                let turn = words.next().and_then(|word| word.parse().ok());
                Verb::Wire { session: named.or(session), turn }
            }
            _ => anyhow::bail!("there is no command {command}; /help lists them"),
        };
        let mut answers = self.link()?.ask(verb).await?;
        let (command, screen, tell) = (command.to_owned(), self.screen, self.tell.clone());
        // On the side: a summary takes as long as a turn, and can be stopped like one.
        tokio::spawn(async move {
            let told = match views::answer(&mut answers).await {
                Ok(Some(answer)) => Told::Answer(shown(&command, &answer, screen)),
                Ok(None) => Told::Failure("the host ended before it answered".to_owned()),
                Err(error) => Told::Failure(format!("{error:#}")),
            };
            // Nobody is left to be told when the conversation is over.
            let _ = tell.send(told);
        });
        Ok(())
    }

    fn last(&self) {
        let Some(last) = &self.view.last else {
            return self.prompt.print("No tool was called here yet.");
        };
        let mut lines =
            vec![self.screen.bold(&line(&preview(&last.tool, &last.input), usize::MAX))];
        for (name, value) in last.input.as_object().into_iter().flatten() {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            lines.push(format!("{}: {}", self.screen.dim(&clean(name)), clean(value.trim_end())));
        }
        lines.push(self.screen.dim("→"));
        lines.push(clean(&last.text).trim_end().to_owned());
        self.prompt.print(&lines.join("\n"));
    }

    fn go(&mut self, session: String) -> Result<Next> {
        sessions::check_name(&session)?;
        self.prompt.print(&self.screen.dim(&format!("Conversation {session}.")));
        self.session = session;
        self.view = TurnView::new(self.screen);
        self.release();
        Ok(Next::Elsewhere)
    }

    /// Say something: it begins a turn, or steers the one that runs.
    async fn say(&mut self, text: String) -> Result<()> {
        let key = format!("{:016x}", fastrand::u64(..));
        let (session, model) = (Some(self.session.clone()), self.model.clone());
        self.mine.push(text.clone());
        let mut answers =
            self.link()?.ask(Verb::Run { session, text, key, model, steer: true }).await?;
        let tell = self.tell.clone();
        // What happens in the turn is heard by watching; here only a refusal counts.
        tokio::spawn(async move {
            while let Some(answer) = answers.recv().await {
                if let Answer::Refused { why, .. } = answer {
                    let _ = tell.send(Told::Failure(why));
                }
            }
        });
        Ok(())
    }
}

/// What follows a line.
enum Next {
    /// The next one.
    Prompt,
    /// When the answer is there, if there is no room for a prompt beside it.
    Later,
    Elsewhere,
    Leave,
}

/// An answer of the host, as the command that asked for it shows it.
fn shown(command: &str, answer: &serde_json::Value, screen: Screen) -> String {
    let text = match command {
        "/sessions" | "/resume" => {
            views::sessions_text(answer, screen).unwrap_or_else(|error| format!("{error:#}"))
        }
        "/usage" => views::usage_text(answer, screen),
        "/model" => clean(answer["model"]["name"].as_str().unwrap_or("no model")),
        "/self" => wrapped(&views::about_text(answer), screen.width),
        "/wire" => views::wire_text(answer, screen),
        _ => {
            let [before, after] = [0, 1].map(|at| &answer["messages"][at]);
            format!("Summarised: {before} messages are now {after}.")
        }
    };
    text.trim_end().to_owned()
}

fn help(width: usize) -> String {
    let commands = COMMANDS.map(|(name, what)| row(&format!("{name:10} {what}"), width));
    let typing = "While a turn runs, what you type steers it. Alt-Enter, or \\ at the end, continues the line.";
    format!("{}\n{}", commands.join("\n"), wrapped(typing, width))
}

async fn sleep_until(due: Option<tokio::time::Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}
