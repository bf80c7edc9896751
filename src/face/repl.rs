//! The conversation in the terminal.
//!
//! Owns what a typed line means: a message, which begins a turn or steers the one that
//! runs, or a command. Whatever can wake it is one `Wake`. Knows neither the keys nor how
//! a turn is drawn.

use std::io::{BufRead as _, IsTerminal as _};

use anyhow::{Context as _, Result};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::face::clean::clean;
use crate::face::onboard::{Welcome, welcome};
use crate::face::prompt_line::{PromptLine, Typed};
use crate::face::screen::{Place, Screen, write};
use crate::face::turn_view::{Shown, TurnView, preview};
use crate::face::{help, run, tour, views};
use crate::kernel::event::Event;
use crate::organs::home::Home;
use crate::organs::host::Settings;
use crate::organs::link::Link;
use crate::organs::prompt::RIGHTS;
use crate::organs::sessions;
use crate::organs::verb::{Answer, Verb};

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
    match welcome(&mut settings).await? {
        Welcome::Ready => {}
        Welcome::Tour => return tour::tour(false).await,
        Welcome::Leave => return Ok(0),
    }
    let home = settings.home.clone();
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
        None => resume(&home, screen)?,
    };
    let prompt = PromptLine::start(&home, &COMMANDS)?;
    let (failures, failed) = unbounded_channel();
    let mut repl = Repl {
        home,
        link: Some(link),
        model,
        session,
        view: TurnView::new(screen),
        screen,
        prompt,
        failures,
        failed,
        running: false,
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
    ended.map(|()| 0)
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
    lines.push(screen.warn(RIGHTS));
    match link.host() {
        Some(host) => lines.extend(host.take_notices().iter().map(|text| screen.dim(&clean(text)))),
        None => lines
            .push(screen.dim("Another process hosts this home; this terminal is attached to it.")),
    }
    lines
}

/// The conversation a bare start goes on with.
fn resume(home: &Home, screen: Screen) -> Result<String> {
    let Some(name) = sessions::latest(home)? else { return sessions::fresh_name(home) };
    let listed = sessions::list(home)?.into_iter().find(|one| one.name == name);
    let about = listed.map(|one| format!(" ({}, {} turns: {})", one.last, one.turns, one.about));
    let text = format!("Resuming {name}{}. /new begins another.", about.unwrap_or_default());
    write(Place::Out, &screen.dim(&crate::face::clean::line(&text, screen.width * 2)))?;
    Ok(name)
}

/// Whatever can wake the conversation.
enum Wake {
    Typed(Option<Typed>),
    Heard(Option<Answer>),
    Failed(String),
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
    failures: UnboundedSender<String>,
    failed: UnboundedReceiver<String>,
    running: bool,
}

impl Repl {
    async fn talk(&mut self) -> Result<()> {
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
                Some(why) = self.failed.recv() => Wake::Failed(why),
                () = sleep_until(due), if due.is_some() => Wake::Due,
                _ = interrupt.recv() => Wake::Typed(Some(Typed::Stop)),
                _ = terminate.recv() => Wake::Signal,
                _ = hangup.recv() => Wake::Signal,
            };
            match wake {
                Wake::Typed(Some(Typed::Line(line))) => match self.line(line.trim()).await {
                    Ok(Next::Stay) => {}
                    Ok(Next::Elsewhere) => heard = self.watch().await?,
                    Ok(Next::Leave) => return Ok(()),
                    Err(error) => self.complain(&format!("{error:#}")),
                },
                Wake::Typed(Some(Typed::Stop)) => self.stop().await?,
                Wake::Typed(Some(Typed::Broken(why))) => {
                    anyhow::bail!("the terminal cannot be read: {why}")
                }
                Wake::Typed(Some(Typed::Leave) | None) | Wake::Signal => return Ok(()),
                Wake::Heard(Some(Answer::Event(event))) => self.event(&event),
                Wake::Heard(Some(Answer::Refused { why, .. })) => self.complain(&why),
                Wake::Heard(Some(_)) => {}
                Wake::Heard(None) => heard = self.take_over().await?,
                Wake::Failed(why) => self.complain(&why),
                Wake::Due => {
                    let lines = self.view.tick();
                    self.show(lines);
                }
            }
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
        self.running = false;
        self.view = TurnView::new(self.screen);
        self.prompt.print(&self.screen.dim(&clean(&text)));
        self.watch().await
    }

    fn event(&mut self, event: &Event) {
        match event {
            Event::TurnStarted { .. } => self.running = true,
            Event::TurnEnded { .. } => self.running = false,
            _ => {}
        }
        let lines = self.view.event(event);
        self.show(lines);
    }

    fn show(&self, lines: Vec<Shown>) {
        for shown in lines {
            let (Shown::Said(line) | Shown::Aside(line)) = shown;
            self.prompt.print(&line);
        }
    }

    fn complain(&self, why: &str) {
        self.prompt.print(&self.screen.warn(&clean(why)));
    }

    async fn stop(&mut self) -> Result<()> {
        if self.running {
            let session = Some(self.session.clone());
            views::ask(self.link()?, Verb::Stop { session }).await?;
        } else {
            self.prompt.print(&self.screen.dim("Nothing runs. Ctrl-C again (or Ctrl-D) leaves."));
        }
        Ok(())
    }

    async fn line(&mut self, line: &str) -> Result<Next> {
        if !line.starts_with('/') {
            if !line.is_empty() {
                self.say(line.to_owned()).await?;
            }
            return Ok(Next::Stay);
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
            ("/help", Some(topic)) => self.prompt.print(&clean(&help::text(Some(topic))?)),
            ("/help", None) => {
                for (name, what) in COMMANDS {
                    self.prompt.print(&format!("{name:10} {what}"));
                }
                self.prompt.print("While a turn runs, what you type steers it. Alt-Enter, or \\ at the end, continues the line.");
            }
            ("/model", Some(model)) => {
                let (session, model) = (self.session.clone(), model.to_owned());
                let chosen = views::ask(self.link()?, Verb::Choose { session, model }).await?;
                self.prompt.print(&format!(
                    "This conversation now talks to {}.",
                    chosen["model"].as_str().unwrap_or_default()
                ));
            }
            _ => self.look(command, rest).await?,
        }
        Ok(Next::Stay)
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
        let answer = views::ask(self.link()?, verb).await?;
        let text = match command {
            "/sessions" | "/resume" => views::sessions_text(&answer, self.screen)?,
            "/usage" => views::usage_text(&answer, self.screen),
            "/model" => answer["model"]["name"].as_str().unwrap_or("no model").to_owned(),
            "/self" => views::about_text(&answer),
            "/wire" => views::wire_text(&answer, self.screen),
            _ => format!(
                "Summarised: {} messages are now {}.",
                answer["messages"][0], answer["messages"][1]
            ),
        };
        self.prompt.print(text.trim_end());
        Ok(())
    }

    fn last(&self) {
        let Some(last) = &self.view.last else {
            return self.prompt.print("No tool was called yet.");
        };
        self.prompt.print(&self.screen.bold(&clean(&preview(&last.tool, &last.input))));
        let input = serde_json::to_string_pretty(&last.input).unwrap_or_default();
        self.prompt.print(&clean(&input.replace("\\n", "\n")));
        self.prompt.print(clean(&last.text).trim_end());
    }

    fn go(&mut self, session: String) -> Result<Next> {
        sessions::check_name(&session)?;
        self.prompt.print(&self.screen.dim(&format!("Conversation {session}.")));
        self.session = session;
        self.running = false;
        self.view = TurnView::new(self.screen);
        Ok(Next::Elsewhere)
    }

    /// Say something: it begins a turn, or steers the one that runs.
    async fn say(&mut self, text: String) -> Result<()> {
        let key = format!("{:016x}", fastrand::u64(..));
        let (session, model) = (Some(self.session.clone()), self.model.clone());
        let mut answers =
            self.link()?.ask(Verb::Run { session, text, key, model, steer: true }).await?;
        let failures = self.failures.clone();
        // What happens in the turn is heard by watching; here only a refusal counts.
        tokio::spawn(async move {
            while let Some(answer) = answers.recv().await {
                if let Answer::Refused { why, .. } = answer {
                    let _ = failures.send(why);
                }
            }
        });
        Ok(())
    }
}

/// What follows a line.
enum Next {
    Stay,
    Elsewhere,
    Leave,
}

async fn sleep_until(due: Option<tokio::time::Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}
