//! The conversation in the terminal.
//!
//! Owns what a typed line means: a message, which begins a turn or steers the one that
//! runs, or a command. Whatever can wake it is one `Wake`. Knows neither the keys nor how
//! a turn is drawn.

mod questions;
mod recorded;
mod said;

use std::io::IsTerminal as _;

use anyhow::{Context as _, Result};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use self::questions::{background, watch};
use self::said::Unheard;
use crate::face::asking::Questions;
use crate::face::clean::clean;
use crate::face::onboard::{Welcome, opening, recall, welcome};
use crate::face::prompt_line::{PromptLine, Typed};
use crate::face::record::Recorder;
use crate::face::screen::{Place, Screen};
use crate::face::turn_view::{Shown, TurnView, wrapped};
use crate::face::{commands, help, run, tour, views};
use crate::kernel::event::Event;
use crate::organs::home::Home;
use crate::organs::host::Settings;
use crate::organs::link::Link;
use crate::organs::sessions;
use crate::organs::verb::{Answer, Verb, exit};

/// Said after the first turn that changes something.
const UNDO: &str = "/undo takes such a turn back; /log lists what was changed.";

/// Talk. The number is the exit code.
pub async fn repl(
    mut settings: Settings,
    session: Option<String>,
    json: bool,
    recorder: Recorder,
) -> Result<u8> {
    if !std::io::stdin().is_terminal() || json {
        return run::lines(settings, session, json, recorder).await;
    }
    settings.resident = true;
    let home = settings.home.clone();
    home.create_root()?;
    // A host that runs already has a model.
    if home.lock()?.is_some() {
        match welcome(&mut settings).await? {
            Welcome::Ready => {}
            Welcome::Tour => return tour::tour(false, Recorder::default()).await,
            Welcome::Leave => return Ok(0),
        }
    }
    let model = settings.model.clone();
    let link = Link::establish(move || Ok(settings)).await?;
    let screen = Screen::of(Place::Out);
    let newcomer = sessions::latest(&home)?.is_none();
    let session = opening(&link, &home, session, screen)?;
    let prompt = PromptLine::start(&home, &commands::COMMANDS)?;
    let heard = match watch(&link, &session, !prompt.dumb).await {
        Ok(heard) => heard,
        Err(error) => {
            prompt.finish();
            return Err(error);
        }
    };
    let background = background(&link).await?;
    prompt.next();
    let (tell, told) = unbounded_channel();
    let (lost, unheard) = unbounded_channel();
    let (view, questions) = (TurnView::new(screen), Questions::default());
    let (mine, held, hosts) = (Vec::new(), false, 0);
    let mut repl = Repl {
        home,
        link,
        model,
        session,
        heard,
        background,
        questions,
        view,
        screen,
        prompt,
        tell,
        told,
        lost,
        unheard,
        hosts,
        mine,
        newcomer,
        held,
        recorder,
    };
    let mut ended = repl.talk().await;
    let Repl { mut prompt, link, recorder, .. } = repl;
    let running = link.host().map(|host| host.running()).unwrap_or_default();
    if !running.is_empty() {
        let names = clean(&running.join(", "));
        prompt.print(&format!("Stopping what still runs here: {names}."));
    }
    tokio::select! {
        () = link.stop_all() => {}
        () = run::interrupted() => ended = Err(run::left().into()),
        // While a line is read, Ctrl-C is a key.
        Some(Typed::Stop | Typed::Abandon) = prompt.typed.recv() => ended = Err(run::left().into()),
    }
    prompt.finish();
    // A turn that was stopped by leaving has its end by now.
    recorder.finish(&link).await?;
    ended
}

/// Whatever can wake the conversation.
enum Wake {
    Typed(Typed),
    Heard(Option<Answer>),
    Told(String),
    Unheard(Unheard),
    Slow(Vec<Shown>),
    Signal,
}

struct Repl {
    home: Home,
    link: Link,
    model: Option<String>,
    session: String,
    /// What happens in it.
    heard: UnboundedReceiver<Answer>,
    /// What goes on in the background.
    background: UnboundedReceiver<Answer>,
    /// What it asks for.
    questions: Questions,
    view: TurnView,
    screen: Screen,
    prompt: PromptLine,
    /// For what comes back from questions on the side, ready to print.
    tell: UnboundedSender<String>,
    told: UnboundedReceiver<String>,
    lost: UnboundedSender<Unheard>,
    unheard: UnboundedReceiver<Unheard>,
    /// How many hosts have ended.
    hosts: usize,
    /// What was said here and has not been heard of since.
    mine: Vec<String>,
    /// Whether this home has never heard of undo.
    newcomer: bool,
    /// Whether the next prompt waits for an answer, as it does on a dumb terminal.
    held: bool,
    /// Records it, if that is wished.
    recorder: Recorder,
}

impl Repl {
    /// Until somebody leaves. The number is the exit code.
    async fn talk(&mut self) -> Result<u8> {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate()).context("cannot catch SIGTERM")?;
        let mut hangup = signal(SignalKind::hangup()).context("cannot catch SIGHUP")?;
        // While no line is read, Ctrl-C is a signal and not a key.
        let mut interrupt = signal(SignalKind::interrupt()).context("cannot catch SIGINT")?;
        loop {
            let wake = tokio::select! {
                typed = self.prompt.typed.recv() => Wake::Typed(typed.unwrap_or(Typed::Leave)),
                answer = self.heard.recv() => Wake::Heard(answer),
                // That the host ended is heard beside it.
                Some(answer) = self.background.recv() => Wake::Heard(Some(answer)),
                Some(told) = self.told.recv() => Wake::Told(told),
                Some(unheard) = self.unheard.recv() => Wake::Unheard(unheard),
                lines = self.view.slow() => Wake::Slow(lines),
                _ = interrupt.recv() => Wake::Typed(self.prompt.pressed()),
                _ = terminate.recv() => Wake::Signal,
                _ = hangup.recv() => Wake::Signal,
            };
            self.measure();
            match wake {
                Wake::Signal => return Ok(exit::INTERRUPTED),
                Wake::Typed(typed) => match self.typed(typed).await {
                    Ok(Next::Prompt) => self.prompt.next(),
                    Ok(Next::Later) => self.prompt_beside(),
                    Ok(Next::Same) => {}
                    Ok(Next::Leave(code)) => return Ok(code),
                    Err(error) => {
                        self.complain(&error);
                        self.prompt.next();
                    }
                },
                Wake::Heard(Some(Answer::Event(event))) => {
                    self.event(&event);
                    self.record(&event).await?;
                }
                Wake::Heard(Some(Answer::Asked(asked))) => self.asked(&asked),
                Wake::Heard(Some(Answer::Happened(happening))) => self.happened(&happening),
                Wake::Heard(Some(Answer::Refused { why, .. })) => {
                    self.complain(&anyhow::Error::msg(why));
                }
                Wake::Heard(Some(_)) => {}
                Wake::Heard(None) => self.take_over().await?,
                Wake::Told(text) => {
                    self.prompt.print(&text);
                    self.release();
                }
                Wake::Slow(lines) => self.show(lines),
                Wake::Unheard(Unheard { verb, hosts }) => {
                    // That its host ended may be heard here first.
                    if hosts == self.hosts {
                        self.take_over().await?;
                    }
                    if let Err(error) = self.send(verb).await {
                        self.complain(&error);
                    }
                }
            }
        }
    }

    async fn typed(&mut self, typed: Typed) -> Result<Next> {
        let cut = matches!(typed, Typed::Cut);
        match typed {
            Typed::Line(line, seen) => return self.read(line.trim(), seen).await,
            Typed::Written(written) => return self.written(written?).await,
            Typed::Abandon => return Ok(Next::Leave(exit::INTERRUPTED)),
            Typed::Leave => return Ok(Next::Leave(0)),
            Typed::Broken(error) => {
                self.complain(&error);
                return Ok(Next::Leave(exit::FAILED));
            }
            Typed::Stop | Typed::Cut => {}
        }
        let stopped = self.stop("Ctrl-C again leaves.").await;
        stopped.unwrap_or_else(|error| self.complain(&error));
        // A line that is being typed stays: then nothing here may prompt for another.
        Ok(if cut { Next::Prompt } else { Next::Same })
    }

    async fn written(&mut self, text: String) -> Result<Next> {
        if text.is_empty() {
            self.aside("Nothing was written.");
            return Ok(Next::Prompt);
        }
        // The screen has not shown it yet.
        self.aside(&text);
        self.say(text).await
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

    /// The host ended: find the next one, or become it, and go on.
    async fn take_over(&mut self) -> Result<()> {
        self.hosts += 1;
        self.link.again().await?;
        let next = if self.link.host().is_some() { "this terminal" } else { "another process" };
        let mut lines =
            vec![format!("The process that ran the turns ended; {next} runs them now.")];
        lines.extend(self.link.take_notices());
        let rest = self.view.finish();
        self.show(rest);
        self.view = TurnView::new(self.screen);
        self.prompt.turn = None;
        self.aside(&lines.join("\n"));
        self.release();
        self.background = background(&self.link).await?;
        self.hear(self.session.clone()).await
    }

    fn event(&mut self, event: &Event) {
        let mut mine = false;
        if let Event::TurnStarted { text, .. } | Event::Steered { text, .. } = event {
            mine = self.is_mine(text);
            if let (Event::TurnStarted { origin, .. }, false) = (event, mine) {
                self.show(self.view.said(origin, text));
            }
        }
        let lines = match event {
            Event::Steered { text, .. } if mine => self.view.steered(text),
            event => self.view.event(event),
        };
        self.show(lines);
        match event {
            // Whoever joins in the middle hears of no beginning.
            Event::TurnStarted { .. } | Event::Reply { .. } => {
                self.prompt.turn = Some(self.prompt.busy.clone());
            }
            Event::TurnEnded { changes, .. } => {
                self.prompt.turn = None;
                if changes.commit.is_some() && std::mem::take(&mut self.newcomer) {
                    self.aside(UNDO);
                }
                self.release();
            }
            _ => {}
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

    fn aside(&self, text: &str) {
        self.prompt.print(&self.screen.dim(&wrapped(text, self.screen)));
    }

    /// Stop what runs, or say this.
    async fn stop(&mut self, idle: &str) -> Result<()> {
        let session = Some(self.session.clone());
        let stopped = views::ask(&self.link, Verb::Stop { session }).await?;
        if stopped["stopped"].as_array().is_none_or(Vec::is_empty) {
            self.aside(idle);
        }
        Ok(())
    }

    async fn line(&mut self, line: &str) -> Result<Next> {
        if line.is_empty() {
            return Ok(Next::Prompt);
        }
        // A command is one word with one slash: a message may well begin with a path.
        let first = line.split_whitespace().next().unwrap_or_default();
        if !first.starts_with('/') || first.matches('/').count() > 1 {
            return self.say(line.to_owned()).await;
        }
        let (command, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let rest = Some(rest.trim()).filter(|rest| !rest.is_empty());
        match (command, rest) {
            ("/quit" | "/exit", _) => return Ok(Next::Leave(0)),
            ("/new", name) => {
                let fresh = || sessions::fresh_name(&self.home);
                self.go(name.map_or_else(fresh, |name| Ok(name.to_owned()))?).await?;
            }
            ("/resume", Some(name)) => {
                anyhow::ensure!(
                    self.home.transcript(name).exists(),
                    "there is no session {name}; /sessions lists them"
                );
                self.go(name.to_owned()).await?;
            }
            ("/stop", _) => self.stop("Nothing is running.").await?,
            ("/last", _) => {
                self.prompt.print(&commands::last(self.view.last.as_ref(), self.screen));
            }
            ("/help", Some(topic)) => {
                let page = help::text(Some(topic), self.screen, "/help lists them")?;
                self.prompt.print(page.trim_end());
            }
            ("/help", None) => self.prompt.print(&commands::overview(self.screen)),
            ("/compact", _) if !self.home.transcript(&self.session).exists() => {
                self.prompt.print("Nothing to summarise yet.");
            }
            ("/model", Some(model)) => {
                let (session, model) = (self.session.clone(), model.to_owned());
                let chosen = views::ask(&self.link, Verb::Choose { session, model }).await?;
                // From now on the choice counts, not what the command line named.
                self.model = None;
                let name = clean(chosen["model"].as_str().unwrap_or_default());
                self.prompt.print(&format!("This conversation now talks to {name}."));
            }
            _ => {
                // A summary takes as long as a turn, and can be stopped so.
                let verb = commands::verb(line, rest, &self.session, &self.home)?;
                let (line, screen, asked) = (line.to_owned(), self.screen, verb.clone());
                return self
                    .beside(verb, move |answer| {
                        let answer = answer
                            .context("the running fledgling ended before it answered; try again")?;
                        commands::shown(&line, &asked, &answer, screen)
                    })
                    .await;
            }
        }
        Ok(Next::Prompt)
    }

    async fn go(&mut self, session: String) -> Result<()> {
        sessions::check_name(&session)?;
        self.aside(&format!("Conversation {session}."));
        self.hear(session).await?;
        if let Some(text) = recall(&self.home.transcript(&self.session), self.screen) {
            self.prompt.print(&text);
        }
        self.view = TurnView::new(self.screen);
        self.prompt.turn = None;
        self.release();
        Ok(())
    }

    fn complain(&self, error: &anyhow::Error) {
        self.prompt.print(&commands::complaint(error, self.screen));
    }
}

/// What follows a line.
enum Next {
    /// The next one.
    Prompt,
    /// The one that is there already.
    Same,
    /// When the answer is there, if there is no room for a prompt beside it.
    Later,
    /// None, but the end, with this exit code.
    Leave(u8),
}
