//! The four tools: what a model is told of them, their arguments parsed once, what comes
//! of them, and the one policy by which long output is cut.
//!
//! Knows neither processes nor policy: how a thing is done is the hands' business.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::Duration;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use crate::kernel::interrupt::Interrupt;
use crate::kernel::message::{Call, Image};
use crate::kernel::model::Boxed;

/// Seconds a bash call may run when the model names no other number.
pub const BASH_DEFAULT_SECONDS: u64 = 120;
/// Seconds a bash call may run at most; what takes longer belongs into a service.
pub const BASH_LIMIT_SECONDS: u64 = 600;
/// Bytes of output a model is shown of one call: about 8,000 tokens.
pub const OUTPUT_LIMIT: usize = 30_000;
/// Lines `read` gives when the model names no other number.
pub const READ_LINES: usize = 2_000;

/// A tool as a model is told of it.
#[derive(Debug, Clone)]
pub struct Spec {
    /// Its name.
    pub name: &'static str,
    /// What it does, in a few words: every word costs tokens at every request.
    pub description: &'static str,
    /// JSON Schema of its arguments.
    pub parameters: Value,
}

/// All tools, always in this order: it is part of the prefix that providers cache.
pub static SPECS: LazyLock<Vec<Spec>> = LazyLock::new(|| {
    let text = json!({"type": "string"});
    let number = json!({"type": "integer"});
    let spec = |name, description, properties: Value, required: &[&str]| Spec {
        name,
        description,
        parameters: json!({"type": "object", "properties": properties, "required": required}),
    };
    vec![
        spec(
            "bash",
            "Run a bash command in a fresh shell in the workspace. No input; background \
             processes end with it. timeout in seconds (default 120, at most 600).",
            json!({"command": text, "timeout": number}),
            &["command"],
        ),
        spec(
            "read",
            "Read a text file from line offset (default 1), limit lines (default 2000), look \
             at a picture, or list a directory.",
            json!({"path": text, "offset": number, "limit": number}),
            &["path"],
        ),
        spec(
            "write",
            "Create or replace a file, parent directories included.",
            json!({"path": text, "content": text}),
            &["path", "content"],
        ),
        spec(
            "edit",
            "Replace exact text in a file. Each old must occur exactly once in the file as \
             it is; edits must not overlap.",
            json!({"path": text, "edits": {"type": "array", "items": {"type": "object",
                "properties": {"old": text, "new": text}, "required": ["old", "new"]}}}),
            &["path", "edits"],
        ),
    ]
});

/// A call whose arguments make sense: what a hand is asked to do. Paths are absolute, or
/// relative to the workspace.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(tag = "name", content = "input", rename_all = "snake_case")]
pub enum Action {
    /// Run a command.
    Bash {
        /// Given to `bash -c`.
        command: String,
        /// After this long it is ended.
        #[serde(default = "default_time", deserialize_with = "time")]
        timeout: Duration,
    },
    /// Read a file or list a directory.
    Read {
        /// The file or directory.
        path: PathBuf,
        /// The first line wanted, from 1.
        #[serde(default = "first_line", deserialize_with = "number")]
        offset: usize,
        /// Lines wanted at most.
        #[serde(default = "default_lines", deserialize_with = "number")]
        limit: usize,
    },
    /// Create or replace a file.
    Write {
        /// The file.
        path: PathBuf,
        /// All of its new content.
        content: String,
    },
    /// Change parts of a file.
    Edit {
        /// The file.
        path: PathBuf,
        /// The replacements, in any order.
        edits: Vec<Replacement>,
    },
}

/// One exact replacement.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Replacement {
    /// Text that occurs exactly once.
    pub old: String,
    /// What stands there afterwards.
    pub new: String,
}

/// What came of an action.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// What the model is told, already cut to the output limit.
    pub text: String,
    /// Whether it failed.
    pub error: bool,
    /// What the model is shown.
    pub images: Vec<Image>,
    /// Files a file tool wrote, absolute. What bash wrote is found by looking.
    pub wrote: Vec<PathBuf>,
}

impl Outcome {
    /// A failure, in words for the model.
    pub fn failed(text: impl Into<String>) -> Self {
        Self { text: text.into(), error: true, ..Self::default() }
    }
}

/// Something that can carry out actions.
pub trait Hands: Send + Sync {
    /// Carry out one action. Resolves when nothing of it runs any more: at the latest
    /// 100 ms after `interrupt` is raised, and then with what it had said until then.
    fn act(&self, action: Action, interrupt: Interrupt) -> Boxed<'_, Outcome>;
}

impl Action {
    /// The tool's name.
    pub fn tool(&self) -> &'static str {
        match self {
            Self::Bash { .. } => "bash",
            Self::Read { .. } => "read",
            Self::Write { .. } => "write",
            Self::Edit { .. } => "edit",
        }
    }

    /// Parse a call's arguments. The error is a sentence for the model that names the
    /// tool, the argument and what was expected.
    pub fn parse(call: &Call) -> Result<Self, String> {
        let tool = &call.name;
        let names: Vec<_> = SPECS.iter().map(|spec| spec.name).collect();
        if !names.contains(&tool.as_str()) {
            return Err(format!("there is no tool {tool:?}; the tools are {}", names.join(", ")));
        }
        if !call.input.is_object() {
            return Err(format!("{tool}: the arguments are not a JSON object: {}", call.input));
        }
        Self::deserialize(json!({"name": tool, "input": call.input}))
            .map_err(|error| format!("{tool}: bad arguments: {error}"))
    }
}

/// Small models write whole numbers as strings and as floats; both are plain enough.
fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    let value = Value::deserialize(deserializer)?;
    let number = match &value {
        Value::String(text) => text.trim().parse().ok(),
        value => value.as_f64(),
    };
    let number = number.filter(|number| *number >= 1.0).map(|number| number as usize);
    number.ok_or_else(|| D::Error::custom(format!("{value} is not a number from 1")))
}

fn time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    Ok(Duration::from_secs(BASH_LIMIT_SECONDS.min(number(deserializer)? as u64)))
}

fn default_time() -> Duration {
    Duration::from_secs(BASH_DEFAULT_SECONDS)
}

fn default_lines() -> usize {
    READ_LINES
}

fn first_line() -> usize {
    1
}

/// Output on its way to a model: takes any amount, keeps its head and its tail.
#[derive(Debug, Default)]
pub struct Clip {
    head: Vec<u8>,
    tail: VecDeque<u8>,
    total: usize,
}

impl Clip {
    const HALF: usize = OUTPUT_LIMIT / 2;

    /// Take more output.
    pub fn push(&mut self, bytes: &[u8]) {
        self.total += bytes.len();
        let room = Self::HALF - self.head.len();
        let (first, rest) = bytes.split_at(room.min(bytes.len()));
        self.head.extend_from_slice(first);
        // Only the end of a large piece can stay: do not move all of it through the queue.
        let rest = &rest[rest.len().saturating_sub(Self::HALF)..];
        let excess = (self.tail.len() + rest.len()).saturating_sub(Self::HALF);
        self.tail.drain(..excess);
        self.tail.extend(rest);
    }

    /// Bytes that no longer fit between head and tail.
    pub fn lost(&self) -> usize {
        self.total - self.head.len() - self.tail.len()
    }

    /// Everything that is kept so far, for a spill that begins late.
    pub fn kept(&self) -> Vec<u8> {
        self.head.iter().chain(&self.tail).copied().collect()
    }

    /// The text, with the cut stated in a line of its own where there is one. `whole`
    /// says where all of it can be found. Invalid UTF-8 becomes U+FFFD.
    pub fn finish(mut self, whole: &str) -> String {
        let lost = self.lost();
        let tail = self.tail.make_contiguous();
        if lost == 0 {
            self.head.extend_from_slice(tail);
            return String::from_utf8_lossy(&self.head).into_owned();
        }
        // A character cut in two would come out as U+FFFD: leave its parts out.
        let start = tail.iter().position(|byte| byte & 0xC0 != 0x80).unwrap_or(0);
        let head = match std::str::from_utf8(&self.head) {
            Err(error) if error.error_len().is_none() => &self.head[..error.valid_up_to()],
            _ => &self.head[..],
        };
        format!(
            "{}\n[… {lost} of {} bytes left out{whole} …]\n{}",
            String::from_utf8_lossy(head),
            self.total,
            String::from_utf8_lossy(&tail[start..]),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(name: &str, input: Value) -> Call {
        Call { id: "1".to_owned(), name: name.to_owned(), input }
    }

    #[test]
    fn numbers_are_parsed_leniently() {
        let parsed = Action::parse(&call("bash", json!({"command": "ls", "timeout": "7"})));
        let timeout = Duration::from_secs(7);
        assert_eq!(parsed, Ok(Action::Bash { command: "ls".to_owned(), timeout }));
        let parsed = Action::parse(&call("read", json!({"path": "a", "limit": 5.0})));
        let path = PathBuf::from("a");
        assert_eq!(parsed, Ok(Action::Read { path, offset: 1, limit: 5 }));
    }

    #[test]
    fn bad_arguments_name_tool_and_expectation() {
        for (name, input, expected) in [
            ("bash", json!("{\"comm"), "bash: the arguments are not a JSON object"),
            ("bash", json!({}), "bash: bad arguments: missing field `command`"),
            ("read", json!({"path": 3}), "read: bad arguments: invalid type: integer `3`"),
            ("read", json!({"path": "a", "limit": "x"}), "read: bad arguments: \"x\" is not"),
            ("edit", json!({"path": "a"}), "edit: bad arguments: missing field `edits`"),
            ("grep", json!({}), "there is no tool \"grep\""),
        ] {
            let error = Action::parse(&call(name, input)).unwrap_err();
            assert!(error.starts_with(expected), "{error}");
        }
    }

    #[test]
    fn a_clip_keeps_head_and_tail_and_says_what_is_gone() {
        let mut whole = Vec::new();
        let mut clip = Clip::default();
        for number in 0..20_000 {
            let line = format!("{number} ä\n");
            clip.push(line.as_bytes());
            whole.extend_from_slice(line.as_bytes());
        }
        let lost = clip.lost();
        assert_eq!(lost, whole.len() - OUTPUT_LIMIT);
        let text = clip.finish(" in FILE");
        assert!(text.starts_with("0 ä\n1 ä\n") && text.ends_with("\n19999 ä\n"));
        assert!(text.contains(&format!("[… {lost} of {} bytes left out in FILE …]", whole.len())));
        assert!(!text.contains('\u{FFFD}'));
    }

    #[test]
    fn short_output_is_untouched() {
        let mut clip = Clip::default();
        clip.push(b"a\xffb");
        assert_eq!(clip.finish(""), "a\u{FFFD}b");
    }
}
