//! The conversation in the terminal.
//!
//! Owns what a typed line means: a message, which begins a turn or steers the one that
//! runs, or a command. Whatever can wake it is one `Wake`. Knows neither the keys nor how
//! a turn is drawn.

use std::io::IsTerminal as _;

use anyhow::{Context as _, Result};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::face::clean::clean;
use crate::face::onboard::{Welcome, opening, welcome};
use crate::face::prompt_line::{PromptLine, Typed};
use crate::face::screen::{Place, Screen};
use crate::face::turn_view::{Shown, TurnView, wrapped};
use crate::face::{commands, run, tour, views};
use crate::kernel::event::Event;
use crate::organs::home::Home;
use crate::organs::host::Settings;
use crate::organs::link::Link;
use crate::organs::sessions;
use crate::organs::verb::{Answer, Verb, exit};

/// Talk. The number is the exit code.
pub async fn repl(mut settings: Settings, session: Option<String>, json: bool) -> Result<u8> {
    if !std::io::stdin().is_terminal() || json {
        return run::lines(settings, session, json).await;
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
    let session = opening(&link, &home, session, screen)?;
    let heard = watch(&link, &session).await?;
    let prompt = PromptLine::start(&home, &commands::COMMANDS)?;
    let (tell, told) = unbounded_channel();
    let (lost, unheard) = unbounded_channel();
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
        lost,
        unheard,
        ended: 0,
        mine: Vec::new(),
        held: false,
    };
    let mut ended = repl.talk(heard).await;
    let Repl { mut prompt, link, .. } = repl;
    if let Some(link) = &link {
        let running = link.host().map(|host| host.running()).unwrap_or_default();
        if !running.is_empty() {
            prompt.print(&format!("Stopping what still runs here: {}.", running.join(", ")));
        }
        tokio::select! {
            () = link.stop_all() => {}
            () = run::interrupted() => ended = Err(run::left().into()),
            // While a line is read, Ctrl-C is a key.
            Some(Typed::Stop | Typed::Abandon) = prompt.typed.recv() => ended = Err(run::left().into()),
        }
    }
    prompt.finish();
    ended
}

/// Whatever can wake the conversation.
enum Wake {
    Typed(Option<Typed>),
    Heard(Option<Answer>),
    Told(String),
    Unheard(Unheard),
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
    /// For what comes back from questions on the side, ready to print.
    tell: UnboundedSender<String>,
    told: UnboundedReceiver<String>,
    lost: UnboundedSender<Unheard>,
    unheard: UnboundedReceiver<Unheard>,
    /// How many hosts have ended.
    ended: usize,
    /// What was said here and has not been heard of since.
    mine: Vec<String>,
    /// Whether the next prompt waits for an answer, as it does on a dumb terminal.
    held: bool,
}

impl Repl {
    /// Until somebody leaves. The number is the exit code.
    async fn talk(&mut self, mut heard: UnboundedReceiver<Answer>) -> Result<u8> {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate()).context("cannot catch SIGTERM")?;
        let mut hangup = signal(SignalKind::hangup()).context("cannot catch SIGHUP")?;
        // While no line is read, Ctrl-C is a signal and not a key.
        let mut interrupt = signal(SignalKind::interrupt()).context("cannot catch SIGINT")?;
        loop {
            let due = self.view.due().map(tokio::time::Instant::from_std);
            let wake = tokio::select! {
                typed = self.prompt.typed.recv() => Wake::Typed(typed),
                answer = heard.recv() => Wake::Heard(answer),
                Some(told) = self.told.recv() => Wake::Told(told),
                Some(unheard) = self.unheard.recv() => Wake::Unheard(unheard),
                () = sleep_until(due), if due.is_some() => Wake::Due,
                _ = interrupt.recv() => Wake::Typed(Some(self.prompt.pressed())),
                _ = terminate.recv() => Wake::Signal,
                _ = hangup.recv() => Wake::Signal,
            };
            self.measure();
            match wake {
                Wake::Typed(Some(Typed::Leave) | None) => return Ok(0),
                Wake::Typed(Some(Typed::Abandon)) | Wake::Signal => return Ok(exit::INTERRUPTED),
                Wake::Typed(Some(Typed::Broken(why))) => {
                    anyhow::bail!("the terminal cannot be read: {why}")
                }
                Wake::Typed(Some(typed)) => match self.typed(typed).await {
                    Ok(Next::Prompt) => self.prompt.next(),
                    Ok(Next::Later) => self.prompt_beside(),
                    Ok(Next::Elsewhere) => {
                        heard = self.watch().await?;
                        self.prompt.next();
                    }
                    Ok(Next::Same) => {}
                    Ok(Next::Leave) => return Ok(0),
                    Err(error) => {
                        self.prompt.print(&complaint(&format!("{error:#}"), self.screen));
                        self.prompt.next();
                    }
                },
                Wake::Heard(Some(Answer::Event(event))) => self.event(&event),
                Wake::Heard(Some(Answer::Refused { why, .. })) => {
                    self.prompt.print(&complaint(&why, self.screen));
                }
                Wake::Told(text) => {
                    self.prompt.print(&text);
                    self.release();
                }
                Wake::Unheard(Unheard { verb, ended }) => {
                    // That its host ended may be heard here first.
                    if ended == self.ended {
                        heard = self.take_over().await?;
                    }
                    if let Err(error) = self.send(verb).await {
                        self.prompt.print(&complaint(&format!("{error:#}"), self.screen));
                    }
                }
                Wake::Heard(Some(_)) => {}
                Wake::Heard(None) => heard = self.take_over().await?,
                Wake::Due => {
                    let lines = self.view.tick();
                    self.show(lines);
                }
            }
        }
    }

    async fn typed(&mut self, typed: Typed) -> Result<Next> {
        match typed {
            Typed::Line(line) => self.line(line.trim()).await,
            Typed::Written(text) if text.is_empty() => {
                self.aside("Nothing was written.");
                Ok(Next::Prompt)
            }
            Typed::Written(text) => {
                // The screen has not shown it yet.
                self.aside(&text);
                self.say(text).await?;
                Ok(Next::Later)
            }
            Typed::Unwritten(why) => anyhow::bail!(why),
            _ => {
                // The line that is being typed stays: no error here may prompt for another.
                if let Err(error) = self.stop().await {
                    self.prompt.print(&complaint(&format!("{error:#}"), self.screen));
                }
                Ok(Next::Same)
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
        watch(self.link()?, &self.session).await
    }

    /// The host ended: find the next one, or become it, and go on.
    async fn take_over(&mut self) -> Result<UnboundedReceiver<Answer>> {
        self.ended += 1;
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
        self.aside(&text);
        self.release();
        self.watch().await
    }

    fn event(&mut self, event: &Event) {
        match event {
            Event::TurnStarted { origin, text, .. } if !self.is_mine(text) => {
                let lines = self.view.said(origin, text);
                self.show(lines);
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

    fn aside(&self, text: &str) {
        self.prompt.print(&self.screen.dim(&wrapped(text, self.screen)));
    }

    async fn stop(&mut self) -> Result<()> {
        let session = Some(self.session.clone());
        let stopped = views::ask(self.link()?, Verb::Stop { session }).await?;
        if stopped["stopped"].as_array().is_none_or(Vec::is_empty) {
            self.aside("Nothing runs. Ctrl-C again (or Ctrl-D) leaves.");
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
            ("/last", _) => {
                self.prompt.print(&commands::last(self.view.last.as_ref(), self.screen));
            }
            ("/help", Some(topic)) => {
                self.prompt.print(&clean(&crate::face::help::text(Some(topic))?));
            }
            ("/help", None) => self.prompt.print(&commands::help(self.screen)),
            ("/model", Some(model)) => {
                let (session, model) = (self.session.clone(), model.to_owned());
                let chosen = views::ask(self.link()?, Verb::Choose { session, model }).await?;
                // From now on the choice counts, not what the command line named.
                self.model = None;
                self.prompt.print(&format!(
                    "This conversation now talks to {}.",
                    clean(chosen["model"].as_str().unwrap_or_default())
                ));
            }
            _ => {
                self.look(command, rest).await?;
                return Ok(Next::Later);
            }
        }
        Ok(Next::Prompt)
    }

    /// Ask the host on the side: a summary takes as long as a turn, and can be stopped so.
    async fn look(&mut self, command: &str, rest: Option<&str>) -> Result<()> {
        let verb = commands::verb(command, rest, &self.session)?;
        let mut answers = self.link()?.ask(verb).await?;
        let (command, screen, tell) = (command.to_owned(), self.screen, self.tell.clone());
        tokio::spawn(async move {
            let answer = views::answer(&mut answers).await;
            let answer =
                answer.and_then(|answer| answer.context("the host ended before it answered"));
            let text = answer.and_then(|answer| commands::shown(&command, &answer, screen));
            // Nobody is left to be told when the conversation is over.
            let _ =
                tell.send(text.unwrap_or_else(|error| complaint(&format!("{error:#}"), screen)));
        });
        Ok(())
    }

    fn go(&mut self, session: String) -> Result<Next> {
        sessions::check_name(&session)?;
        self.aside(&format!("Conversation {session}."));
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
        self.send(Verb::Run { session, text, key, model, steer: true }).await
    }

    async fn send(&self, verb: Verb) -> Result<()> {
        let mut answers = self.link()?.ask(verb.clone()).await?;
        let (tell, lost) = (self.tell.clone(), self.lost.clone());
        let (screen, ended) = (self.screen, self.ended);
        // What happens in the turn is heard by watching; here only the last word counts.
        tokio::spawn(async move {
            while let Some(answer) = answers.recv().await {
                match answer {
                    Answer::Refused { why, .. } => {
                        let _ = tell.send(complaint(&why, screen));
                        return;
                    }
                    Answer::Done => return,
                    Answer::Event(_) | Answer::Value(_) => {}
                }
            }
            let _ = lost.send(Unheard { verb, ended });
        });
        Ok(())
    }
}

/// What was said to a host that ended without a last word on it. Its key makes it safe to
/// say it again.
struct Unheard {
    verb: Verb,
    /// How many hosts had ended before it was said.
    ended: usize,
}

/// What follows a line.
enum Next {
    /// The next one.
    Prompt,
    /// The one that is there already.
    Same,
    /// When the answer is there, if there is no room for a prompt beside it.
    Later,
    Elsewhere,
    Leave,
}

/// Hear a session from now on.
async fn watch(link: &Link, session: &str) -> Result<UnboundedReceiver<Answer>> {
    let mut heard = link.ask(Verb::Watch { session: session.to_owned() }).await?;
    // The first answer says that nothing is missed any more. None comes from a host that
    // has just ended, which is found out with the next.
    match heard.recv().await {
        Some(Answer::Refused { why, .. }) => anyhow::bail!(why),
        _ => Ok(heard),
    }
}

/// What went wrong, ready to print.
fn complaint(why: &str, screen: Screen) -> String {
    screen.warn(&wrapped(why, screen))
}

async fn sleep_until(due: Option<tokio::time::Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}
