//! The loop: ask the model, act on what it says, record both, until it has nothing more
//! to do.
//!
//! Owns the order of things within a turn: each reply and each result is on disk before
//! anything follows from it, calls of a reply that was cut off are never carried out, and
//! whatever happens the transcript stays valid for the next request. Knows no terminal,
//! no schedule, no process, and not what a prompt says.

use std::fmt::Display;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::kernel::border::{Context, History, Inbox, Listener, Record};
use crate::kernel::event::{Changes, End, Event};
use crate::kernel::interrupt::{Interrupt, interrupt};
use crate::kernel::message::{Assistant, Block, Incoming, Origin, Stop, Usage};
use crate::kernel::model::{Delta, Failure, Model, Request};
use crate::kernel::session::{Owed, Session};
use crate::kernel::tool::{Action, Hands, Outcome, SPECS};

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

/// What a turn may use up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Requests to the model.
    pub steps: u64,
    /// Tokens, input and output together.
    pub tokens: u64,
    /// What it may cost, in millionths of a US dollar.
    pub cost: Option<u64>,
    /// Time.
    pub time: Duration,
    /// How often in a row the same call may give the same result.
    pub repeats: u64,
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
    steps: u64,
    /// Tokens in the context as the provider last counted them, 0 when not known.
    filled: u64,
    /// Whether making room was tried in vain.
    full: bool,
    /// The latest call with its result, and how often in a row it came.
    last: (String, u64),
    said: String,
}

impl Agent<'_> {
    /// Run one turn on these messages, which must not be empty. Only a transcript that
    /// cannot be written is an error; all else is told as how the turn ended.
    pub async fn turn(&mut self, session: &mut Session, first: Vec<Incoming>) -> Result<End> {
        let mut progress = Progress::new();
        let (name, turn) = (session.header().session.clone(), session.turn() + 1);
        let origin = first.first().map_or(Origin::Owner, |incoming| incoming.origin.clone());
        let asked = first.iter().map(|one| one.text.as_str()).collect::<Vec<_>>().join("\n");
        self.listener.event(Event::TurnStarted {
            session: name.clone(),
            turn,
            origin: origin.clone(),
            text: asked.clone(),
        });
        let before = tokio::select! {
            biased;
            // A first look at a large workspace takes long; it ends by itself.
            () = self.interrupt.wait() => Ok(None),
            before = self.history.before(&name, turn) => before,
        };
        match before {
            Ok(said) => said.into_iter().for_each(|text| self.notice(text)),
            Err(error) => self.notice(format!("Outside changes could not be saved: {error:#}")),
        }
        for (number, incoming) in first.into_iter().enumerate() {
            self.take(session, incoming, number == 0)?;
        }
        let (end, why) = match self.steps(session, &mut progress).await {
            Ok(()) => (End::Done, String::new()),
            Err(Halt::Failed(why)) => (End::Failed, why),
            Err(Halt::Interrupted) => (End::Interrupted, "interrupted".to_owned()),
            Err(Halt::Broken(error)) => return Err(error),
        };
        if end != End::Done {
            session.record_note(&format!("The turn ended here: {why}."))?;
        }
        let Progress { usage, said, started, .. } = progress;
        let model = self.model.name().to_owned();
        let session_name = name.clone();
        let record = Record { session: session_name, turn, origin, asked, said, model, usage, end };
        let changes = self.history.after(record).await.unwrap_or_else(|error| {
            self.notice(format!("The turn's changes could not be saved: {error:#}"));
            Changes::default()
        });
        if !changes.left_out.is_empty() {
            session.record_note(&format!("The history leaves out {}.", changes.left_out))?;
        }
        session.record_end(end, &why, changes.clone(), usage)?;
        let ms = started.elapsed().as_millis() as u64;
        let session = name;
        self.listener.event(Event::TurnEnded { session, turn, end, why, changes, usage, ms });
        Ok(end)
    }

    /// Summarise the conversation now, outside a turn: what that cost, or why it cannot be.
    pub async fn compact_now(&mut self, session: &mut Session) -> Result<Result<Usage, String>> {
        let mut progress = Progress::new();
        match self.compact(session, &mut progress).await {
            Ok(()) => Ok(Ok(progress.usage)),
            Err(Halt::Failed(why)) => Ok(Err(why)),
            Err(Halt::Interrupted) => Ok(Err("interrupted".to_owned())),
            Err(Halt::Broken(error)) => Err(error),
        }
    }

    async fn steps(&mut self, session: &mut Session, progress: &mut Progress) -> Result<(), Halt> {
        let prompt = self.context.prompt();
        prompt.notices.into_iter().for_each(|text| self.notice(text));
        loop {
            self.check_limits(progress)?;
            progress.steps += 1;
            let reply = self.ask(session, &prompt.system, progress).await?;
            let (stop, text) = (reply.stop.clone(), reply.text());
            let owed = session.record_reply(reply)?;
            let calls = owed.len();
            self.listener.event(Event::Reply { text: text.clone(), calls });
            progress.said = text;
            let mut halted = None;
            for call in owed {
                let refused = halted.as_ref().map(|_| STOPPED).or(refusal(&stop));
                halted = halted.or(self.answer(session, call, refused, progress).await?);
            }
            if let Some(halt) = halted {
                return Err(halt);
            }
            let steered = self.steer(session).await?;
            if self.interrupt.raised() {
                return Err(Halt::Interrupted);
            }
            let why = match stop {
                Stop::Refusal => "the model declined to answer",
                _ if calls > 0 || steered => continue,
                Stop::MaxTokens => "the reply reached the model's output limit",
                _ if progress.said.is_empty() => "the model replied with nothing",
                _ => return Ok(()),
            };
            return Err(Halt::Failed(why.to_owned()));
        }
    }

    fn check_limits(&self, progress: &Progress) -> Result<(), Halt> {
        let Limits { steps, tokens, cost, time, .. } = self.limits;
        if let Some(cost) = cost.filter(|cost| progress.usage.cost >= *cost) {
            return Err(limit(cost as f64 / 1e6, "dollars"));
        }
        let reached = [
            (progress.steps >= steps, steps, "steps"),
            (progress.usage.total() >= tokens, tokens, "tokens"),
            (progress.started.elapsed() >= time, time.as_secs(), "seconds"),
        ];
        match reached.into_iter().find(|(reached, ..)| *reached) {
            Some((_, number, what)) => Err(limit(number, what)),
            None => Ok(()),
        }
    }

    /// One reply, with the conversation summarised before it where it has grown too long.
    /// When it does not come, the text that had arrived is kept.
    async fn ask(
        &mut self,
        session: &mut Session,
        system: &str,
        progress: &mut Progress,
    ) -> Result<Assistant, Halt> {
        let mut compacted = progress.full;
        if !progress.full
            && self.context.full(session.messages(), progress.filled, self.model.window())
        {
            compacted = true;
            match self.compact(session, progress).await {
                Ok(()) => {}
                // It may fit all the same. Once is enough in a turn.
                Err(Halt::Failed(why)) => {
                    progress.full = true;
                    self.notice(format!("It could not be summarised: {why}."));
                }
                Err(halt) => return Err(halt),
            }
        }
        loop {
            let request = Request { system, tools: &SPECS, messages: session.messages() };
            let mut partial = String::new();
            let mut deltas = |delta: Delta<'_>| {
                if let Delta::Text(text) = delta {
                    partial.push_str(text);
                }
                tell(self.listener, delta);
            };
            let time = self.limits.time;
            let halt = tokio::select! {
                biased;
                () = self.interrupt.wait() => Halt::Interrupted,
                () = tokio::time::sleep(progress.left(time)) => limit(time.as_secs(), "seconds"),
                asked = self.model.ask(&request, &mut deltas) => match asked {
                    Ok(reply) => {
                        progress.filled = reply.usage.total();
                        progress.usage += reply.usage;
                        return Ok(reply);
                    }
                    Err(Failure::Overflow(_)) if !compacted && partial.is_empty() => {
                        compacted = true;
                        self.compact(session, progress).await?;
                        continue;
                    }
                    Err(failure) => Halt::Failed(failure.to_string()),
                },
            };
            if !partial.is_empty() {
                let (model, blocks) = (self.model.name().to_owned(), vec![Block::Text(partial)]);
                let usage = Usage::default();
                session.record_reply(Assistant { blocks, stop: Stop::Cut, model, usage })?.clear();
            }
            return Err(halt);
        }
    }

    async fn compact(
        &mut self,
        session: &mut Session,
        progress: &mut Progress,
    ) -> Result<(), Halt> {
        let messages = session.messages();
        let count = messages.len();
        self.notice(format!("Summarising the conversation so far ({count} messages)."));
        let mut deltas = |delta: Delta<'_>| {
            if !matches!(delta, Delta::Text(_) | Delta::Thinking(_)) {
                tell(self.listener, delta);
            }
        };
        let summary = tokio::select! {
            biased;
            () = self.interrupt.wait() => return Err(Halt::Interrupted),
            summary = self.context.summarise(messages, self.model, &mut deltas) => summary,
        };
        let summary = summary.map_err(|failure| Halt::Failed(failure.to_string()))?;
        progress.usage += summary.usage;
        progress.filled = 0;
        Ok(session.record_summary(summary.text, summary.keep)?)
    }

    /// Carry out one call, or say why not, and record what came of it. Whether the turn
    /// must stop because of it.
    async fn answer(
        &mut self,
        session: &mut Session,
        owed: Owed,
        refused: Option<&str>,
        progress: &mut Progress,
    ) -> Result<Option<Halt>> {
        let call = owed.call().clone();
        let (id, tool, input) = (call.id.clone(), call.name.clone(), call.input.clone());
        self.listener.event(Event::Call { id: id.clone(), tool: tool.clone(), input });
        let started = Instant::now();
        let refused = if self.interrupt.raised() { Some("interrupted") } else { refused };
        let outcome = match (refused, Action::parse(&call)) {
            (Some(why), _) => Outcome::failed(format!("not executed: {why}")),
            (None, Err(why)) => Outcome::failed(why),
            (None, Ok(action)) => self.act(action, progress.left(self.limits.time)).await,
        };
        session.record_result(owed, &outcome)?;
        let Outcome { text, error, .. } = outcome;
        let seen = format!("{tool} {} {text}", call.input);
        let again = if progress.last.0 == seen { progress.last.1 + 1 } else { 1 };
        progress.last = (seen, again);
        let ms = started.elapsed().as_millis() as u64;
        self.listener.event(Event::Result { id, tool: tool.clone(), text, error, ms });
        let stuck = again >= self.limits.repeats && refused.is_none();
        Ok(stuck.then(|| {
            Halt::Failed(format!(
                "the same {tool} call gave the same result {again} times in a row"
            ))
        }))
    }

    /// Act until it is done, the turn is interrupted or its time is up; in each case the
    /// hands have the last word.
    async fn act(&self, action: Action, left: Duration) -> Outcome {
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
    async fn steer(&mut self, session: &mut Session) -> Result<bool> {
        let messages = self.inbox.steering(&session.header().session).await?;
        let any = !messages.is_empty();
        for incoming in messages {
            let (origin, text) = (incoming.origin.clone(), incoming.text.clone());
            self.take(session, incoming, false)?;
            self.listener.event(Event::Steered { origin, text });
        }
        Ok(any)
    }

    /// Move a message from the inbox into the transcript, in this order: a kill between
    /// the two leaves it in both, and its key tells.
    fn take(&self, session: &mut Session, incoming: Incoming, begin: bool) -> Result<()> {
        let key = incoming.key.clone();
        session.record_user(incoming, begin)?;
        self.inbox.taken(&key)
    }

    fn notice(&mut self, text: String) {
        self.listener.event(Event::Notice { text });
    }
}

impl Progress {
    fn new() -> Self {
        Self {
            started: Instant::now(),
            usage: Usage::default(),
            steps: 0,
            filled: 0,
            full: false,
            last: (String::new(), 0),
            said: String::new(),
        }
    }

    fn left(&self, time: Duration) -> Duration {
        time.saturating_sub(self.started.elapsed())
    }
}

/// What calls are told that come after the end of their turn.
const STOPPED: &str = "the turn was stopped";

/// Why the calls of a reply that ended like this must not be carried out: it may lack the
/// half that made sense of them.
fn refusal(stop: &Stop) -> Option<&'static str> {
    match stop {
        Stop::End => None,
        Stop::MaxTokens => Some("the reply was cut off at the output limit; say less at once"),
        Stop::Refusal => Some("the reply was declined or filtered"),
        Stop::Cut => Some("the reply was cut off"),
    }
}

/// Pass on what a request tells while it runs.
fn tell(listener: &mut dyn Listener, delta: Delta<'_>) {
    listener.event(match delta {
        Delta::Sent(body) => return listener.sent(body),
        Delta::Raw(bytes) => return listener.raw(bytes),
        Delta::Text(text) => Event::Text { text: text.to_owned() },
        Delta::Thinking(text) => Event::Thinking { text: text.to_owned() },
        Delta::Retry { wait, why } => {
            Event::Retry { wait_ms: wait.as_millis() as u64, why: why.to_owned() }
        }
    });
}

fn limit(number: impl Display, what: &str) -> Halt {
    Halt::Failed(format!("it reached the limit of {number} {what} a turn (config.toml, [limits])"))
}
