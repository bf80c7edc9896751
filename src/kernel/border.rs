//! The borders of the loop that are neither model nor hands: what remembers the
//! workspace, what brings messages, what surrounds the conversation, what listens.
//!
//! Owns these traits and the plain data that crosses them; knows nobody who implements
//! them.

use anyhow::Result;

use crate::kernel::event::{Changes, End, Event};
use crate::kernel::message::{Incoming, Message, Origin, Usage};
use crate::kernel::model::{Boxed, Deltas, Failure, Model};

/// Keeps what the workspace was and becomes.
pub trait History: Send + Sync {
    /// Before a turn: take in what others changed since the last snapshot. Resolves to a
    /// sentence about it, if there is anything to say.
    fn before<'a>(&'a self, session: &'a str, turn: u64) -> Boxed<'a, Result<Option<String>>>;
    /// After a turn: one snapshot of what it changed.
    fn after(&self, record: Record) -> Boxed<'_, Result<Changes>>;
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
}

/// Messages that arrive while a turn runs.
pub trait Inbox: Send + Sync {
    /// Those that steer the turn of this session, oldest first. They stay in the inbox
    /// until the transcript holds them.
    fn steering<'a>(&'a self, session: &'a str) -> Boxed<'a, Result<Vec<Incoming>>>;
    /// The transcript holds the message with this key now.
    fn taken(&self, key: &str) -> Result<()>;
}

/// What the model is told around the conversation.
pub trait Context: Send + Sync {
    /// The system prompt as it is now.
    fn prompt(&self) -> Prompt;
    /// Whether the conversation should be summarised before the next request. `filled` is
    /// how many tokens the provider counted at the last one, 0 when that is not known.
    fn full(&self, messages: &[Message], filled: u64, window: u64) -> bool;
    /// Have the model summarise the older part. Fails when there is nothing to summarise.
    fn summarise<'a>(
        &'a self,
        messages: &'a [Message],
        model: &'a dyn Model,
        deltas: Deltas<'a>,
    ) -> Boxed<'a, Result<Summary, Failure>>;
}

/// The system prompt of one turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    /// What the model is told.
    pub system: String,
    /// What the owner should know about it, in sentences.
    pub notices: Vec<String>,
}

/// What stands in place of the older part of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// The summary.
    pub text: String,
    /// How many of the last messages stay. Never splits a call from its results.
    pub keep: usize,
    /// What making it cost.
    pub usage: Usage,
}

/// Hears what goes on in a turn.
pub trait Listener: Send + Sync {
    /// Something happened.
    fn event(&mut self, event: Event);
    /// A request as it goes over the wire.
    fn sent(&mut self, body: &str);
    /// A piece of the raw reply as it comes over the wire.
    fn raw(&mut self, bytes: &[u8]);
}
