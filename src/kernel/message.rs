//! What is said in a conversation, and who said it.
//!
//! Owns the shapes that travel between the loop, the transcript and the wires: messages,
//! blocks, calls and their results. Knows no wire: what a provider sends beyond text and
//! calls is carried as an opaque block and given back untouched to the wire it came from.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Who caused a message. It travels with the message for good, and says who may instruct: the
/// owner, and whoever stands for them by a name that the host alone gives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", from = "String")]
pub enum Origin {
    /// The person whose machine this is.
    Owner,
    /// Another agent of this home, by its session.
    Agent(String),
    /// Somebody or something not known to this version, or nobody in particular.
    Other(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Owner => f.write_str("owner"),
            Self::Agent(id) => write!(f, "agent:{id}"),
            Self::Other(name) => f.write_str(name),
        }
    }
}

impl From<Origin> for String {
    fn from(origin: Origin) -> Self {
        origin.to_string()
    }
}

impl From<String> for Origin {
    fn from(text: String) -> Self {
        match text.strip_prefix("agent:") {
            Some(id) => Self::Agent(id.to_owned()),
            None if text == "owner" => Self::Owner,
            None => Self::Other(text),
        }
    }
}

/// A picture that goes with a message or a result. Transcripts hold what names it, not its bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// What it is: `image/png`, `image/jpeg`, `image/gif` or `image/webp`.
    pub media_type: String,
    /// What its bytes are kept under.
    pub hash: String,
    /// What the file was called, for people and for models that cannot see.
    #[serde(default)]
    pub name: String,
    /// Its bytes, where they are at hand.
    #[serde(skip)]
    pub data: Option<Arc<[u8]>>,
}

/// A message on its way into a session: from an inbox, not yet in the transcript.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incoming {
    /// The inbox's key of this message, so that one is never taken twice.
    pub key: String,
    /// Who sent it.
    pub origin: Origin,
    /// What it says.
    pub text: String,
    /// What it shows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub images: Vec<Image>,
}

/// One entry of a conversation as a model sees it.
#[derive(Debug, Clone, PartialEq)]
pub enum Message {
    /// Somebody speaks to the agent.
    User {
        /// Who.
        origin: Origin,
        /// What, with the time it was said already in front.
        text: String,
        /// What they show.
        images: Vec<Image>,
    },
    /// The agent's reply: finished, or the part of it that arrived.
    Assistant(Assistant),
    /// The results of all calls of the reply before it, in the calls' order.
    Results(Vec<CallResult>),
    /// The kernel tells the model something: what was interrupted, undone, summarised.
    Note(String),
}

/// A reply of a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Assistant {
    /// Text, calls and opaque blocks, in the order in which they arrived.
    pub blocks: Vec<Block>,
    /// Why it ended.
    pub stop: Stop,
    /// The model that said it.
    pub model: String,
    /// What it cost.
    #[serde(default)]
    pub usage: Usage,
}

impl Assistant {
    /// All text of the reply, its blocks joined by blank lines.
    pub fn text(&self) -> String {
        let texts = self.blocks.iter().filter_map(|block| match block {
            Block::Text(text) if !text.trim().is_empty() => Some(text.as_str()),
            _ => None,
        });
        texts.collect::<Vec<_>>().join("\n\n")
    }

    /// The calls of the reply, in order.
    pub fn calls(&self) -> impl Iterator<Item = &Call> {
        self.blocks.iter().filter_map(|block| match block {
            Block::Call(call) => Some(call),
            _ => None,
        })
    }
}

/// A part of a reply.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Block {
    /// What the agent says.
    Text(String),
    /// What the agent wants done.
    Call(Call),
    /// Something only its wire understands: signed thinking, a kind we do not know.
    /// Carried back untouched to that wire and left out for every other.
    Opaque {
        /// The wire it came from.
        wire: String,
        /// The block as it was received, fully assembled.
        value: Value,
    },
}

/// A tool call as the model made it; not yet parsed, perhaps not even parsable.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Call {
    /// The id that ties the result to the call; unique within the reply.
    pub id: String,
    /// The tool's name.
    pub name: String,
    /// The arguments: a JSON object, or a string holding whatever came instead of one.
    pub input: Value,
}

impl Call {
    /// The arguments as an object, as every wire must send them back: what was not an
    /// object is wrapped in one, so that the model sees what it did.
    pub fn object(&self) -> Map<String, Value> {
        match &self.input {
            Value::Object(map) => map.clone(),
            other => Map::from_iter([("invalid_arguments".to_owned(), other.clone())]),
        }
    }
}

/// What came of one call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallResult {
    /// The call's id.
    pub id: String,
    /// What the model is told.
    pub text: String,
    /// Whether the call failed.
    #[serde(default)]
    pub error: bool,
    /// What the model is shown.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub images: Vec<Image>,
}

/// Why a reply ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stop {
    /// The model was done, or waits for results.
    End,
    /// The output limit cut it off: its calls must not be executed.
    MaxTokens,
    /// The model or its provider declined to answer.
    Refusal,
    /// The stream broke or the turn was interrupted: this is what had arrived by then.
    Cut,
}

/// Tokens of one reply or of several. `input` counts all input tokens, cached ones
/// included; `cache_read` and `cache_write` say how many of them were.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Usage {
    /// Input tokens, all of them.
    pub input: u64,
    /// Output tokens, thinking included.
    pub output: u64,
    /// Input tokens read from the provider's prompt cache.
    pub cache_read: u64,
    /// Input tokens written to the provider's prompt cache.
    pub cache_write: u64,
    /// What that costs, in millionths of a US dollar, as far as prices are known.
    #[serde(skip_serializing_if = "is_zero")]
    pub cost: u64,
    /// Tokens of which the price is not known.
    #[serde(skip_serializing_if = "is_zero")]
    pub unpriced: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Usage {
    /// Input and output together.
    pub fn total(&self) -> u64 {
        self.input + self.output
    }
}

impl std::ops::AddAssign for Usage {
    fn add_assign(&mut self, other: Self) {
        self.input += other.input;
        self.output += other.output;
        self.cache_read += other.cache_read;
        self.cache_write += other.cache_write;
        self.cost += other.cost;
        self.unpriced += other.unpriced;
    }
}
