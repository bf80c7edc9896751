//! What a turn tells those who watch it.
//!
//! Owns the one list of events that faces draw, `--json` prints and the doors carry, all
//! three alike. Knows nothing of who listens. Fields may be added; readers must ignore
//! what they do not know.

use serde::{Deserialize, Serialize};

use crate::kernel::message::{Origin, Usage};

/// One thing that happened in a turn. As JSON: an object with `event` and the fields.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A turn begins.
    TurnStarted {
        /// The session it belongs to.
        session: String,
        /// Its number within the session, from 1.
        turn: u64,
        /// Who asked.
        origin: Origin,
        /// What was asked.
        text: String,
    },
    /// A piece of the reply.
    Text {
        /// The piece.
        text: String,
    },
    /// A piece of the model's thinking.
    Thinking {
        /// The piece.
        text: String,
    },
    /// The model's reply is complete and on disk.
    Reply {
        /// The whole text of it.
        text: String,
        /// Whether calls follow.
        calls: usize,
    },
    /// A call is about to be carried out.
    Call {
        /// The call's id.
        id: String,
        /// The tool.
        tool: String,
        /// The arguments as the model gave them.
        input: serde_json::Value,
    },
    /// A call is done and its result on disk.
    Result {
        /// The call's id.
        id: String,
        /// The tool.
        tool: String,
        /// What the model is told.
        text: String,
        /// Whether it failed.
        error: bool,
        /// Milliseconds it took.
        ms: u64,
    },
    /// A message that arrived during the turn was put before the model.
    Steered {
        /// Who sent it.
        origin: Origin,
        /// What it says.
        text: String,
    },
    /// A request failed and is repeated after a wait, which an interrupt ends.
    Retry {
        /// The wait in milliseconds.
        wait_ms: u64,
        /// What went wrong.
        why: String,
    },
    /// Something the owner should know, in a whole sentence.
    Notice {
        /// The sentence.
        text: String,
    },
    /// The turn is over.
    TurnEnded {
        /// The session.
        session: String,
        /// The turn's number.
        turn: u64,
        /// How it ended.
        end: End,
        /// What is to be said about that, empty when it is simply done.
        why: String,
        /// What the turn changed in the workspace.
        changes: Changes,
        /// Tokens of the whole turn.
        usage: Usage,
        /// Milliseconds it took.
        ms: u64,
    },
}

/// How a turn ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// The model had nothing more to do.
    Done,
    /// It could not go on, or reached a limit.
    Failed,
    /// Somebody said stop.
    Interrupted,
}

/// What one snapshot holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changes {
    /// The commit, when there was anything to commit.
    pub commit: Option<String>,
    /// Files changed.
    pub files: usize,
    /// Lines added.
    pub added: usize,
    /// Lines removed.
    pub removed: usize,
    /// What the history leaves out that it did not before, with reasons, as a list in words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub left_out: String,
}
