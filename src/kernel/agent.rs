//! The loop: ask the model, act on what it says, record both, until it has nothing more
//! to do.
//!
//! Owns the order of things within a turn: each reply and each result is on disk before
//! anything follows from it, calls of a reply that was cut off are never carried out, and
//! whatever happens the transcript stays valid for the next request. Knows no terminal,
//! no schedule, no process, and not what a prompt says.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::kernel::event::{Changes, End, Event};
use crate::kernel::interrupt::{Interrupt, interrupt};
use crate::kernel::message::{Assistant, Block, Incoming, Message, Origin, Stop, Usage};
use crate::kernel::model::{Boxed, Delta, Failure, Model, Request};
use crate::kernel::session::{Owed, Session};
use crate::kernel::tool::{Action, Hands, Outcome, SPECS};

/// What a turn may use up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Requests to the model.
    pub steps: u32,
    /// Tokens, input and output together.
    pub tokens: u64,
    /// Time.
    pub time: Duration,
    /// How often in a row the same call may give the same result.
    pub repeats: u32,
    /// Percent of the model's window that may be full before the conversation is summarised.
    pub fill: u64,
}

/// The system prompt of one turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    /// What the model is told.
    pub system: String,
    /// What the owner should know about it, in sentences.
    pub notices: Vec<String>,
}

/// What a turn did, for the history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The session.
    pub session: String,
    /// The turn's number.
    pub turn: u64,
    /// Who asked for it.
    pub origin: Origin,
    /// What was asked.
    pub asked: String,
    /// What the agent said at the end.
    pub said: String,
    /// The model.
    pub model: String,
    /// What it cost.
    pub usage: Usage,
    /// How it ended.
    pub end: End,
    /// Files that file tools wrote.
    pub wrote: Vec<std::path::PathBuf>,
}

/// Keeps what the workspace was and becomes.
pub trait History: Send + Sync {
    /// Before a turn: take in what others changed since the last snapshot. Resolves to a
    /// sentence about it, if there is anything to say.
    fn before<'a>(&'a self, session: &'a str, turn: u64) -> Boxed<'a, Result<Option<String>>>;
    /// After a turn: one snapshot of what it changed.
    fn after(&self, record: Record) -> Boxed<'_, Result<Changes>>;
}

/// Messages that arrive while a turn runs.
pub trait Inbox: Send + Sync {
    /// Those that steer the turn of this session, oldest first. They stay in the inbox
    /// until the transcript holds them (`taken`).
    fn steering(&self, session: &str) -> Result<Vec<Incoming>>;
    /// The transcript holds this message now.
    fn taken(&self, key: &str) -> Result<()>;
}

/// What the model is told around the conversation.
pub trait Context: Send + Sync {
    /// The system prompt as it is now.
    fn prompt(&self) -> Prompt;
    /// The request by which a model is asked to summarise these messages, which must fit
    /// into `room` bytes.
    fn ask_summary(&self, old: &[Message], room: usize) -> String;
    /// What stands in their place afterwards, made of what the model said, if anything.
    fn summary(&self, old: &[Message], said: &str) -> String;
}

/// Hears what goes on in a turn.
pub trait Listener: Send {
    /// Something happened.
    fn event(&mut self, event: Event);
    /// A request as it went over the wire.
    fn sent(&mut self, body: &str);
    /// A piece of the raw reply as it came over the wire.
    fn raw(&mut self, bytes: &[u8]);
}

/// Everything a turn needs.
pub struct Agent<'a> {
    /// Whom to ask.
    pub model: &'a dyn Model,
    /// What acts.
    pub hands: &'a dyn Hands,
    /// What remembers the workspace.
    pub history: &'a dyn History,
    /// Where steering comes from.
    pub inbox: &'a dyn Inbox,
    /// What surrounds the conversation.
    pub context: &'a dyn Context,
    /// What it may use up.
    pub limits: Limits,
    /// What stops it.
    pub interrupt: Interrupt,
    /// What hears it.
    pub listener: &'a mut dyn Listener,
}

/// Why a turn does not go on.
enum Halt {
    Failed(String),
    Interrupted,
    /// The transcript cannot be written: nothing may follow.
    Broken(anyhow::Error),
}

impl From<anyhow::Error> for Halt {
    fn from(error: anyhow::Error) -> Self {
        Self::Broken(error)
    }
}

/// What a turn has used and seen so far.
struct Progress {
    started: Instant,
    usage: Usage,
    steps: u32,
    /// Tokens in the context, as the provider last counted them.
    filled: u64,
    /// The latest call with its result, and how often in a row it came.
    last: (String, u32),
    wrote: Vec<std::path::PathBuf>,
    said: String,
}

impl Progress {
    fn new() -> Self {
        Self {
            started: Instant::now(),
            usage: Usage::default(),
            steps: 0,
            filled: 0,
            last: (String::new(), 0),
            wrote: Vec::new(),
            said: String::new(),
        }
    }
}

impl Agent<'_> {
    /// Run one turn on these messages, which must not be empty. Only a transcript that
    /// cannot be written is an error; all else is told as how the turn ended.
    pub async fn turn(&mut self, session: &mut Session, first: Vec<Incoming>) -> Result<End> {
        let (name, turn) = (session.header().session.clone(), session.turn() + 1);
        let origin = first.first().map_or(Origin::Owner, |incoming| incoming.origin.clone());
        let asked =
            first.iter().map(|incoming| incoming.text.as_str()).collect::<Vec<_>>().join("\n");
        self.event(Event::TurnStarted {
            session: name.clone(),
            turn,
            origin: origin.clone(),
            text: asked.clone(),
        });
        let before = self.history.before(&name, turn).await;
        match before {
            Ok(said) => said.into_iter().for_each(|text| self.notice(text)),
            Err(error) => {
                self.notice(format!("the history could not take in outside changes: {error:#}"))
            }
        }
        for (number, incoming) in first.into_iter().enumerate() {
            let key = incoming.key.clone();
            session.record_user(incoming, number == 0)?;
            self.inbox.taken(&key)?;
        }
        let mut progress = Progress::new();
        let (end, why) = match self.steps(session, &mut progress).await {
            Ok(()) => (End::Done, String::new()),
            Err(Halt::Failed(why)) => (End::Failed, why),
            Err(Halt::Interrupted) => (End::Interrupted, "interrupted".to_owned()),
            Err(Halt::Broken(error)) => return Err(error),
        };
        if end != End::Done {
            session.record_note(&format!("the turn ended here: {why}"))?;
        }
        let usage = progress.usage;
        let model = self.model.name().to_owned();
        let (said, wrote) = (progress.said, progress.wrote);
        let record =
            Record { session: name.clone(), turn, origin, asked, said, model, usage, end, wrote };
        let changes = self.history.after(record).await.unwrap_or_else(|error| {
            self.notice(format!("the history could not take a snapshot: {error:#}"));
            Changes::default()
        });
        session.record_end(end, &why, changes.clone(), usage)?;
        let ms = progress.started.elapsed().as_millis() as u64;
        self.event(Event::TurnEnded { session: name, turn, end, why, changes, usage, ms });
        Ok(end)
    }

    async fn steps(&mut self, session: &mut Session, progress: &mut Progress) -> Result<(), Halt> {
        let prompt = self.context.prompt();
        prompt.notices.iter().for_each(|text| self.notice(text.clone()));
        loop {
            self.check_limits(progress)?;
            progress.steps += 1;
            let reply = self.ask(session, &prompt.system, progress).await?;
            let stop = reply.stop.clone();
            let text = reply.text();
            let owed = session.record_reply(reply)?;
            self.event(Event::Reply { text: text.clone(), calls: owed.len() });
            progress.said = text;
            let calls = owed.len();
            for call in owed {
                self.answer(session, call, &stop, progress).await?;
            }
            let steered = self.steer(session)?;
            if self.interrupt.raised() {
                return Err(Halt::Interrupted);
            }
            match stop {
                Stop::Refusal => {
                    return Err(Halt::Failed("the model declined to answer".to_owned()));
                }
                Stop::MaxTokens if calls == 0 => {
                    return Err(Halt::Failed(
                        "the reply reached the model's output limit".to_owned(),
                    ));
                }
                _ if calls > 0 || steered => {}
                _ if progress.said.is_empty() => {
                    return Err(Halt::Failed("the model replied with nothing".to_owned()));
                }
                _ => return Ok(()),
            }
        }
    }

    fn check_limits(&self, progress: &Progress) -> Result<(), Halt> {
        let limits = &self.limits;
        let reached = if progress.steps >= limits.steps {
            format!("{} steps", limits.steps)
        } else if progress.usage.total() >= limits.tokens {
            format!("{} tokens", limits.tokens)
        } else if progress.started.elapsed() >= limits.time {
            format!("{} seconds", limits.time.as_secs())
        } else {
            return Ok(());
        };
        Err(Halt::Failed(format!(
            "the turn reached its limit of {reached} (config.toml, [limits])"
        )))
    }

    /// One reply, with the conversation summarised before it where it has grown too long.
    async fn ask(
        &mut self,
        session: &mut Session,
        system: &str,
        progress: &mut Progress,
    ) -> Result<Assistant, Halt> {
        if progress.filled.max(estimate(session.messages())) * 100
            >= self.model.window() * self.limits.fill
        {
            self.compact(session, progress).await?;
        }
        let mut compacted = false;
        loop {
            let request = Request { system, tools: &SPECS, messages: session.messages() };
            let (asked, partial) = self.request(&request, progress, true).await;
            match asked {
                Ok(reply) => {
                    progress.filled = reply.usage.total();
                    return Ok(reply);
                }
                Err(Failure::Overflow(_)) if !compacted && partial.is_empty() => {
                    compacted = true;
                    self.compact(session, progress).await?;
                }
                Err(failure) => {
                    self.keep_partial(session, partial)?;
                    return Err(Halt::Failed(failure.to_string()));
                }
            }
        }
    }

    /// One request: what came of it, and the text that arrived until then. Only with
    /// `aloud` does the listener hear that text. An interrupt is a failure here; the
    /// caller looks at the flag.
    async fn request(
        &mut self,
        request: &Request<'_>,
        progress: &mut Progress,
        aloud: bool,
    ) -> (Result<Assistant, Failure>, String) {
        let mut partial = String::new();
        let listener = &mut *self.listener;
        let mut deltas = |delta: Delta<'_>| match delta {
            Delta::Sent(body) => listener.sent(body),
            Delta::Raw(bytes) => listener.raw(bytes),
            Delta::Text(text) if aloud => {
                partial.push_str(text);
                listener.event(Event::Text { text: text.to_owned() });
            }
            Delta::Thinking(text) if aloud => {
                listener.event(Event::Thinking { text: text.to_owned() });
            }
            Delta::Text(_) | Delta::Thinking(_) => {}
            Delta::Retry { wait, why } => {
                let wait_ms = wait.as_millis() as u64;
                listener.event(Event::Retry { wait_ms, why: why.to_owned() });
            }
        };
        let left = self.limits.time.saturating_sub(progress.started.elapsed());
        let asked = tokio::select! {
            biased;
            () = self.interrupt.wait() => Err(Failure::Fatal("interrupted".to_owned())),
            () = tokio::time::sleep(left) => Err(Failure::Fatal("the turn's time is up".to_owned())),
            asked = self.model.ask(request, &mut deltas) => asked,
        };
        if let Ok(reply) = &asked {
            progress.usage += reply.usage;
        }
        (asked, partial)
    }

    fn keep_partial(&mut self, session: &mut Session, text: String) -> Result<(), Halt> {
        if !text.is_empty() {
            let model = self.model.name().to_owned();
            let blocks = vec![Block::Text(text)];
            let reply = Assistant { blocks, stop: Stop::Cut, model, usage: Usage::default() };
            session.record_reply(reply)?.clear();
        }
        if self.interrupt.raised() { Err(Halt::Interrupted) } else { Ok(()) }
    }

    /// Carry out one call, or say why not, and record what came of it.
    async fn answer(
        &mut self,
        session: &mut Session,
        owed: Owed,
        stop: &Stop,
        progress: &mut Progress,
    ) -> Result<(), Halt> {
        let call = owed.call().clone();
        let (id, tool) = (call.id.clone(), call.name.clone());
        self.event(Event::Call { id: id.clone(), tool: tool.clone(), input: call.input.clone() });
        let started = Instant::now();
        let outcome = if self.interrupt.raised() {
            Outcome::failed("interrupted: this call was not executed")
        } else if *stop == Stop::MaxTokens {
            Outcome::failed(
                "not executed: the reply was cut off at the output limit; say less at once, or write the file in parts",
            )
        } else {
            match Action::parse(&call) {
                Err(why) => Outcome::failed(why),
                Ok(action) => self.act(action, progress).await,
            }
        };
        session.record_result(owed, &outcome)?;
        let ms = started.elapsed().as_millis() as u64;
        let seen = format!("{tool} {} {}", call.input, outcome.text);
        self.event(Event::Result {
            id,
            tool: tool.clone(),
            text: outcome.text,
            error: outcome.error,
            ms,
        });
        progress.wrote.extend(outcome.wrote);
        let again = if progress.last.0 == seen { progress.last.1 + 1 } else { 1 };
        progress.last = (seen, again);
        if again >= self.limits.repeats && !self.interrupt.raised() {
            let why = format!(
                "stopped: the same {tool} call gave the same result {again} times in a row"
            );
            return Err(Halt::Failed(why));
        }
        Ok(())
    }

    /// Act until it is done, the turn is interrupted or its time is up; in each case the
    /// hands have the last word.
    async fn act(&mut self, action: Action, progress: &Progress) -> Outcome {
        let left = self.limits.time.saturating_sub(progress.started.elapsed());
        let (stop, stopped) = interrupt();
        let mut acting = self.hands.act(action, stopped);
        tokio::select! {
            biased;
            outcome = &mut acting => return outcome,
            () = self.interrupt.wait() => {}
            () = tokio::time::sleep(left) => {}
        }
        stop.raise();
        acting.await
    }

    /// Put before the model what was said meanwhile. Whether there was anything.
    fn steer(&mut self, session: &mut Session) -> Result<bool, Halt> {
        let messages = self.inbox.steering(&session.header().session)?;
        let any = !messages.is_empty();
        for incoming in messages {
            let (origin, text, key) =
                (incoming.origin.clone(), incoming.text.clone(), incoming.key.clone());
            session.record_user(incoming, false)?;
            self.inbox.taken(&key)?;
            self.event(Event::Steered { origin, text });
        }
        Ok(any)
    }

    /// Summarise all but the latest part of the conversation.
    pub async fn compact_now(&mut self, session: &mut Session) -> Result<Result<(), String>> {
        match self.compact(session, &mut Progress::new()).await {
            Ok(()) => Ok(Ok(())),
            Err(Halt::Failed(why)) => Ok(Err(why)),
            Err(Halt::Interrupted) => Ok(Err("interrupted".to_owned())),
            Err(Halt::Broken(error)) => Err(error),
        }
    }

    async fn compact(
        &mut self,
        session: &mut Session,
        progress: &mut Progress,
    ) -> Result<(), Halt> {
        let messages = session.messages();
        let keep = tail(messages, self.model.window() / 5);
        let old = &messages[..messages.len() - keep];
        if old.len() < 2 {
            return Err(Halt::Failed("the conversation does not fit into the model's window, and nothing of it can be summarised".to_owned()));
        }
        self.listener.event(Event::Notice {
            text: format!("Summarising {} of {} messages to make room.", old.len(), messages.len()),
        });
        let room = (self.model.window() * 2) as usize; // bytes: about half of the window
        let text = self.context.ask_summary(old, room);
        let asked = [Message::User { origin: Origin::Owner, text }];
        let request = Request { system: SUMMARISER, tools: &[], messages: &asked };
        let (asked, _) = self.request(&request, progress, false).await;
        if self.interrupt.raised() {
            return Err(Halt::Interrupted);
        }
        let said = asked.map(|reply| reply.text()).unwrap_or_else(|failure| {
            self.notice(format!(
                "The model could not summarise: {failure}. Only what was said to it is kept."
            ));
            String::new()
        });
        let old = &session.messages()[..session.messages().len() - keep];
        let summary = self.context.summary(old, &said);
        session.record_summary(summary, keep)?;
        progress.filled = 0;
        Ok(())
    }

    fn event(&mut self, event: Event) {
        self.listener.event(event);
    }

    fn notice(&mut self, text: String) {
        self.event(Event::Notice { text });
    }
}

/// The system prompt of a request that only summarises.
const SUMMARISER: &str = "You summarise conversations for the agent that has to continue them.";

/// Tokens these messages take, roughly: for servers that do not count, and for what was
/// added since they last did. Four bytes a token is on the low side for code and most
/// languages, and the fill limit leaves room for that.
fn estimate(messages: &[Message]) -> u64 {
    messages.iter().map(size).sum::<usize>() as u64 / 4
}

fn size(message: &Message) -> usize {
    match message {
        Message::User { text, .. } | Message::Note(text) => text.len(),
        Message::Results(results) => results.iter().map(|result| result.text.len()).sum(),
        Message::Assistant(reply) => {
            let block = |block: &Block| match block {
                Block::Text(text) => text.len(),
                Block::Call(call) => call.name.len() + call.input.to_string().len(),
                Block::Opaque { value, .. } => value.to_string().len(),
            };
            reply.blocks.iter().map(block).sum()
        }
    }
}

/// How many of the last messages fit into `tokens` without splitting a call from its
/// results.
fn tail(messages: &[Message], tokens: u64) -> usize {
    let mut keep = 0;
    let mut used = 0;
    for (number, message) in messages.iter().rev().enumerate() {
        used += size(message) as u64 / 4;
        if used > tokens {
            break;
        }
        if !matches!(message, Message::Results(_)) {
            keep = number + 1;
        }
    }
    keep
}
