//! `fledgling acp`: editors as faces, by the Agent Client Protocol on standard input and output.
//!
//! Owns the loop: whatever can wake it is a line of the client, news of a session or of a
//! request, or a signal; and who hosts when the host ends. Standard output carries the protocol
//! alone. The client's files and terminals are not used: hands do the work, confined.

mod calls;
mod commands;
mod content;
mod permissions;
mod prompts;
mod protocol;
mod sessions;
mod stdio;
mod updates;

use std::collections::BTreeMap;

use anyhow::Result;
use serde_json::{Value, json};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::AbortHandle;

use self::permissions::Permission;
use self::prompts::Prompt;
use self::protocol::{Fault, METHOD, Message, PARAMS, REQUEST};
use self::sessions::Open;
use self::stdio::{Heard, Out};
use crate::face::clean::clean;
use crate::face::run;
use crate::face::screen::{Place, write};
use crate::files::withheld::Withheld;
use crate::organs::home::Home;
use crate::organs::host::Settings;
use crate::organs::link::{DOOR_VARIABLE, Link};
use crate::organs::verb::{Answer, exit};

/// Serve a client until it goes. The number is the exit code.
pub async fn acp(settings: impl FnOnce() -> Result<Settings>, named: Option<String>) -> Result<u8> {
    let is_call = std::env::var_os(DOOR_VARIABLE).is_some();
    anyhow::ensure!(!is_call, "acp is not for tool calls: your owner's editor starts it");
    named.as_deref().map_or(Ok(()), crate::organs::sessions::check_name)?;
    let mut settings = settings()?;
    // As long as an editor is open, so is a conversation.
    settings.resident = true;
    let (home, model) = (settings.home.clone(), settings.model.clone());
    let withheld = Withheld::default();
    withheld.learn(settings.catalog.secrets())?;
    let mut stop = Box::pin(run::interrupted());
    let link = Link::establish(move || Ok(settings)).await?;
    let (news, mut heard) = unbounded_channel();
    let (sessions, prompts, permissions) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    let (out, count, hosts) = (Out::start(), 0, 0);
    let mut acp = Acp {
        home,
        link,
        model,
        named,
        withheld,
        out,
        news,
        sessions,
        prompts,
        permissions,
        count,
        hosts,
    };
    acp.notices()?;
    let mut lines = stdio::lines();
    let code = loop {
        tokio::select! {
            said = lines.recv() => match said {
                Some(said) => acp.line(said).await,
                None => break 0,
            },
            Some(news) = heard.recv() => acp.hear(news).await?,
            () = &mut stop => break exit::INTERRUPTED,
            () = acp.out.unread() => {
                write(Place::Err, "The client does not read what it is told, so this ends.")?;
                break exit::FAILED;
            }
        }
    };
    tokio::select! {
        () = acp.link.stop_all() => {}
        () = run::interrupted() => return Err(run::left().into()),
    }
    while let Ok(news) = heard.try_recv() {
        // That hosts end is no news any more.
        if news.answer.is_some() {
            acp.hear(news).await?;
        }
    }
    acp.leave();
    Ok(code)
}

struct Acp {
    home: Home,
    link: Link,
    /// The model that the command line names.
    model: Option<String>,
    /// The conversation that the command line names.
    named: Option<String>,
    /// What files hold is read here, too, to show what changes.
    withheld: Withheld,
    out: Out,
    /// For what is heard of sessions and requests.
    news: UnboundedSender<News>,
    /// Those that the client has open.
    sessions: BTreeMap<String, Open>,
    /// What the client waits for.
    prompts: BTreeMap<u64, Prompt>,
    /// What the client is asked.
    permissions: BTreeMap<u64, Permission>,
    /// How many things had a number.
    count: u64,
    /// How many hosts have ended.
    hosts: usize,
}

/// What is heard from the host.
struct News {
    of: Of,
    /// How many hosts had ended before this was asked.
    hosts: usize,
    /// Nothing where it ended without a last word.
    answer: Option<Answer>,
}

/// What it is about.
#[derive(Clone)]
enum Of {
    Session(String),
    Prompt(u64),
}

impl Acp {
    async fn line(&mut self, heard: Heard) {
        let read = match heard {
            Heard::Line(line) => tokio::task::spawn_blocking(move || protocol::read(&line)).await,
            Heard::TooLong(limit) => {
                let why = format!("a line has {limit} bytes at most");
                return self.answer(&Value::Null, Err(Fault::new(REQUEST, why)));
            }
        };
        match read {
            Err(error) => self.answer(&Value::Null, Err(anyhow::Error::from(error).into())),
            Ok(Err((id, fault))) => self.answer(&id, Err(fault)),
            Ok(Ok(Message::Request { id, method, params })) => {
                if let Err(fault) = self.request(&id, &method, params).await {
                    self.answer(&id, Err(fault));
                }
            }
            Ok(Ok(Message::Notification { method, params })) => {
                // Nobody waits for what comes of it.
                let _ = self.notification(&method, params).await;
            }
            Ok(Ok(Message::Response { id, result })) => self.permitted(&id, result.as_ref()).await,
        }
    }

    /// Answer a request, now or when it is done.
    async fn request(&mut self, id: &Value, method: &str, params: Value) -> Result<(), Fault> {
        match method {
            "initialize" => {
                protocol::params::<protocol::Initialize>(params)?;
                self.answer(id, Ok(capabilities()));
            }
            "authenticate" => {
                let why = "there is nothing to authenticate: keys are kept where the agent lives";
                return Err(Fault::new(PARAMS, why));
            }
            "session/new" => self.begin(id, protocol::params(params)?).await?,
            "session/load" => self.go_on(id, protocol::params(params)?, true).await?,
            "session/resume" => self.go_on(id, protocol::params(params)?, false).await?,
            "session/list" => {
                let list = self.list(&protocol::params(params)?)?;
                self.answer(id, Ok(list));
            }
            "session/close" => {
                let protocol::Named { session_id } = protocol::params(params)?;
                self.close(&session_id).await?;
                self.answer(id, Ok(json!({})));
            }
            "session/prompt" => self.prompt(id, protocol::params(params)?).await?,
            _ => return Err(Fault::new(METHOD, format!("there is no method {method:?} here"))),
        }
        Ok(())
    }

    async fn notification(&mut self, method: &str, params: Value) -> Result<(), Fault> {
        match method {
            "session/cancel" => {
                let protocol::Named { session_id } = protocol::params(params)?;
                self.cancel(|prompt| prompt.session == session_id).await;
            }
            "$/cancel_request" => {
                let protocol::Cancelled { request_id } = protocol::params(params)?;
                self.cancel(|prompt| prompt.id == request_id).await;
            }
            _ => {}
        }
        Ok(())
    }

    async fn hear(&mut self, News { of, hosts, answer }: News) -> Result<()> {
        match (of, answer) {
            (_, None) if hosts == self.hosts => self.take_over().await?,
            (_, None) => {}
            (Of::Session(session), Some(answer)) => self.happened(&session, answer),
            (Of::Prompt(number), Some(answer)) => self.answered(number, answer).await,
        }
        Ok(())
    }

    /// The host ended: find the next one, or become it, and go on.
    async fn take_over(&mut self) -> Result<()> {
        self.hosts += 1;
        // What it was asked is over with it.
        self.permissions.clear();
        self.link.again().await?;
        let next = if self.link.host().is_some() { "this process" } else { "another process" };
        write(Place::Err, &format!("The host ended; {next} hosts now."))?;
        self.notices()?;
        let names: Vec<_> = self.sessions.keys().cloned().collect();
        for name in names {
            if let Err(fault) = self.watch(&name).await {
                write(Place::Err, &clean(&fault.message))?;
            }
        }
        self.ask_again().await;
        Ok(())
    }

    /// Pass on what the host says, until its last word.
    fn listen(&self, mut from: UnboundedReceiver<Answer>, of: Of) -> AbortHandle {
        let (news, hosts) = (self.news.clone(), self.hosts);
        let listening = tokio::spawn(async move {
            loop {
                let answer = from.recv().await;
                let last = matches!(answer, None | Some(Answer::Done | Answer::Refused { .. }));
                if news.send(News { of: of.clone(), hosts, answer }).is_err() || last {
                    return;
                }
            }
        });
        listening.abort_handle()
    }

    fn number(&mut self) -> u64 {
        self.count += 1;
        self.count
    }

    fn answer(&self, id: &Value, answer: Result<Value, Fault>) {
        self.out.line(protocol::answer(id, answer));
    }

    fn update(&self, session: &str, update: &Value) {
        let update = self.withheld.json(update.clone());
        let params = json!({"sessionId": session, "update": update});
        self.out.line(protocol::tell(None, "session/update", &params));
    }

    /// Say what there is to know where it is in nobody's way.
    fn notices(&self) -> Result<()> {
        let notices = self.link.warning().into_iter().chain(self.link.take_notices());
        notices.into_iter().try_for_each(|text| Ok(write(Place::Err, &clean(&text))?))
    }

    /// Nobody is left without an answer.
    fn leave(self) {
        for prompt in self.prompts.values() {
            let answer = if self.link.host().is_some() || prompt.is_held() {
                Ok(prompts::ended("cancelled"))
            } else {
                let why = format!(
                    "the client went away; the turn goes on where it runs: fledgling --session {}",
                    prompt.session
                );
                Err(Fault::new(protocol::FAILED, why))
            };
            self.answer(&prompt.id, answer);
        }
        self.out.close();
    }
}

/// What `initialize` is answered with.
fn capabilities() -> Value {
    json!({
        "protocolVersion": protocol::VERSION,
        "agentCapabilities": {
            "loadSession": true,
            "promptCapabilities": {"image": true, "audio": false, "embeddedContext": true},
            "mcpCapabilities": {"http": false, "sse": false},
            "sessionCapabilities": {"list": {}, "resume": {}, "close": {}},
        },
        "agentInfo": {
            "name": "fledgling",
            "title": "fledgling",
            "version": env!("CARGO_PKG_VERSION"),
        },
        "authMethods": [],
    })
}
