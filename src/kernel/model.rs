//! The border to a model: one request, one reply, and how everything else is told.
//!
//! Owns the trait `Model` and its contract. Does not know which providers exist.
//!
//! The contract. `ask` sends one request and resolves once the reply is complete. While
//! it arrives, `deltas` hears of it, in order. Dropping the future is how a request is
//! cancelled: nothing arrives after that. What was said before a failure is known from
//! the deltas alone; a failed `ask` returns no partial reply, so that a partial reply can
//! never be mistaken for a finished one.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use crate::kernel::message::{Assistant, Message};
use crate::kernel::tool::Spec;

/// A future that can be sent between threads.
pub type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What hears a reply arrive.
pub type Deltas<'a> = &'a mut (dyn FnMut(Delta<'_>) + Send);

/// A model that can be asked.
pub trait Model: Send + Sync {
    /// How the owner calls it, for instance `anthropic:claude-sonnet-5`.
    fn name(&self) -> &str;

    /// The tokens that fit into one request and its reply.
    fn window(&self) -> u64;

    /// Ask, and hear the reply.
    fn ask<'a>(
        &'a self,
        request: &'a Request<'a>,
        deltas: Deltas<'a>,
    ) -> Boxed<'a, Result<Assistant, Failure>>;
}

/// Everything a model is told.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The system prompt. Byte for byte the same from request to request, unless what it
    /// is made of changed: providers cache it.
    pub system: &'a str,
    /// The tools on offer; empty when the model should only talk.
    pub tools: &'a [Spec],
    /// The conversation. Valid: every call has its result, in the next message.
    pub messages: &'a [Message],
}

/// Something that happened while a reply arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delta<'a> {
    /// The body of a request as it goes over the wire.
    Sent(&'a str),
    /// A piece of the raw reply as it came over the wire.
    Raw(&'a [u8]),
    /// A piece of the reply's text.
    Text(&'a str),
    /// A piece of the model's thinking, for the eyes of people only.
    Thinking(&'a str),
    /// The request failed and is sent again after this wait.
    Retry {
        /// How long is waited.
        wait: Duration,
        /// What went wrong.
        why: &'a str,
    },
}

/// Why a reply did not come.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// It may well work a little later: overload, a rate limit, a lost connection.
    #[error("{message}")]
    Transient {
        /// What the server or the network said, and what was asked of it.
        message: String,
        /// How long the server asks us to wait.
        retry_after: Option<Duration>,
    },
    /// The conversation does not fit into the model's window.
    #[error("{0}")]
    Overflow(String),
    /// It will fail again: a wrong key, an unknown model, a bad request.
    #[error("{0}")]
    Fatal(String),
}
