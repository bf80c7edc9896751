//! A conversation's transcript on disk.
//!
//! Owns the JSONL format: one object a line, appended and never rewritten, each line on
//! its way to the disk before what it tells is acted upon. Knows no model, not how lines
//! make a conversation, and assumes that nobody else appends to the same file (the host
//! sees to that).

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::kernel::conversation::Conversation;
use crate::kernel::event::{Changes, End};
use crate::kernel::message::{Assistant, Call, CallResult, Incoming, Message, Stop, Usage};
use crate::kernel::tool::Outcome;

/// The transcript format this version writes. Lines of unknown kinds are skipped, so a
/// predecessor can read on; a higher number than this one is refused.
pub const FORMAT: u32 = 1;

/// A line of a transcript.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// When it was written, in local time with its offset.
    pub at: String,
    /// What it says.
    #[serde(flatten)]
    pub line: Line,
}

/// What a line of a transcript says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Line {
    /// The first: what this conversation is.
    Session {
        /// The format of the file.
        format: u32,
        /// What it is.
        #[serde(flatten)]
        header: Header,
    },
    /// Somebody spoke.
    User {
        /// The turn it belongs to.
        turn: u64,
        /// The message.
        #[serde(flatten)]
        incoming: Incoming,
    },
    /// The model replied.
    Assistant(Assistant),
    /// A call was carried out.
    Result(CallResult),
    /// The kernel told the model something.
    Note {
        /// What.
        text: String,
    },
    /// What went before was summarised. It stays in the file and leaves the context.
    Summary {
        /// The summary.
        text: String,
        /// How many of the messages before it stay in the context.
        keep: usize,
    },
    /// A turn ended.
    TurnEnd {
        /// Which.
        turn: u64,
        /// How.
        end: End,
        /// What is to be said about it.
        #[serde(default)]
        why: String,
        /// What it changed.
        #[serde(default)]
        changes: Changes,
        /// What it cost.
        #[serde(default)]
        usage: Usage,
    },
    /// The conversation was ended for good.
    Ended,
    /// A kind this version does not know.
    #[serde(other)]
    Foreign,
}

/// What a session is, as its first line says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Its name.
    pub session: String,
    /// The session that started it, if an agent did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// The links by which it may do less than the owner's own sessions.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub chain: Value,
    /// The folder its hands work in.
    pub root: PathBuf,
    /// The model it began with.
    pub model: String,
    /// Where its instructions came from.
    pub instructions: String,
}

/// A result owed: made for each call of a recorded reply, and used up by recording it.
/// There is no other way to make a result, so none can lack its call.
#[derive(Debug)]
#[must_use = "a call without a result makes the conversation invalid"]
pub struct Owed(Call);

impl Owed {
    /// The call.
    pub fn call(&self) -> &Call {
        &self.0
    }
}

/// An open transcript.
#[derive(Debug)]
pub struct Session {
    file: File,
    path: PathBuf,
    header: Header,
    view: Conversation,
}

impl Session {
    /// Begin a new one. Fails when the file exists.
    pub fn create(path: &Path, header: Header) -> Result<Self> {
        let mut options = OpenOptions::new();
        let file = options.create_new(true).append(true).read(true).mode(0o600).open(path);
        let file = file.with_context(|| format!("cannot create transcript {}", path.display()))?;
        let view = Conversation::default();
        let mut session = Self { file, path: path.to_owned(), header: header.clone(), view };
        session.append(Line::Session { format: FORMAT, header })?;
        Ok(session)
    }

    /// Open one and rebuild its context. Calls that a kill left without a result get one.
    /// What could not be read is told by `take_notices`.
    pub fn open(path: &Path) -> Result<Self> {
        let shown = path.display();
        let mut file = OpenOptions::new()
            .append(true)
            .read(true)
            .open(path)
            .with_context(|| format!("cannot open transcript {shown}"))?;
        let mut view = Conversation::default();
        let mut header = None;
        for (number, line) in lines(&file).enumerate() {
            let line = line.with_context(|| format!("cannot read transcript {shown}"))?;
            match line {
                Ok(Entry { line: Line::Session { format, .. }, .. }) if format > FORMAT => {
                    anyhow::bail!(
                        "transcript {shown} has format {format}, made by a newer fledgling; this one reads {FORMAT}: update it, or begin another session"
                    )
                }
                Ok(Entry { line: Line::Session { header: found, .. }, .. }) => header = Some(found),
                Ok(entry) => view.take(entry),
                Err(why) => {
                    let number = number + 1;
                    view.notices.push(format!("{shown}: line {number} was skipped: {why}"));
                }
            }
        }
        // A line that a kill tore must not swallow the next one: give it an end.
        let length = file.seek(SeekFrom::End(0))?;
        let mut last = [b'\n'];
        if length > 0 {
            file.seek(SeekFrom::End(-1))?;
            file.read_exact(&mut last)?;
        }
        if last != [b'\n'] {
            file.write_all(b"\n").with_context(|| format!("cannot append to {shown}"))?;
        }
        if header.is_none() {
            view.notices.push(format!("{shown}: the first line does not say what it is"));
        }
        let name = || path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let header = header.unwrap_or_else(|| Header { session: name(), ..Header::default() });
        let mut session = Self { file, path: path.to_owned(), header, view };
        session.close_calls()?;
        Ok(session)
    }

    /// What this conversation is.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The conversation so far: valid for a request once nothing is owed.
    pub fn messages(&self) -> &[Message] {
        &self.view.messages
    }

    /// What could not be read when it was opened, in sentences.
    pub fn take_notices(&mut self) -> Vec<String> {
        std::mem::take(&mut self.view.notices)
    }

    /// The number of the latest turn; 0 before the first.
    pub fn turn(&self) -> u64 {
        self.view.turn
    }

    /// The turn that has begun and not ended, if any.
    pub fn open_turn(&self) -> Option<u64> {
        self.view.open.then_some(self.view.turn)
    }

    /// Whether it was ended for good.
    pub fn ended(&self) -> bool {
        self.view.ended
    }

    /// Whether a message with this key is in it already.
    pub fn holds(&self, key: &str) -> bool {
        self.view.keys.contains(key)
    }

    /// Record what was said to the agent; with `begin`, as the start of a new turn.
    pub fn record_user(&mut self, incoming: Incoming, begin: bool) -> Result<()> {
        let turn = self.view.turn + u64::from(begin);
        self.append(Line::User { turn, incoming })
    }

    /// Record a reply. Each of its calls now owes a result.
    pub fn record_reply(&mut self, mut reply: Assistant) -> Result<Vec<Owed>> {
        self.view.name_apart(&mut reply);
        let calls =
            if reply.stop == Stop::Cut { Vec::new() } else { reply.calls().cloned().collect() };
        self.append(Line::Assistant(reply))?;
        Ok(calls.into_iter().map(Owed).collect())
    }

    /// Record the result of a call.
    pub fn record_result(&mut self, owed: Owed, outcome: &Outcome) -> Result<()> {
        let Owed(Call { id, .. }) = owed;
        let Outcome { text, error, images, .. } = outcome.clone();
        let result = CallResult { id, text, error, images };
        self.append(Line::Result(result))
    }

    /// Record something the model should know.
    pub fn record_note(&mut self, text: &str) -> Result<()> {
        self.close_calls()?;
        self.append(Line::Note { text: text.to_owned() })
    }

    /// Record a summary of all but the last `keep` messages.
    pub fn record_summary(&mut self, text: String, keep: usize) -> Result<()> {
        self.close_calls()?;
        self.append(Line::Summary { text, keep })
    }

    /// Record the end of the running turn and bring the file to the disk.
    pub fn record_end(
        &mut self,
        end: End,
        why: &str,
        changes: Changes,
        usage: Usage,
    ) -> Result<()> {
        self.close_calls()?;
        let (turn, why) = (self.view.turn, why.to_owned());
        self.append(Line::TurnEnd { turn, end, why, changes, usage })?;
        let shown = self.path.display();
        self.file.sync_data().with_context(|| format!("cannot bring {shown} to the disk"))
    }

    /// Record that the conversation is over.
    pub fn record_ended(&mut self) -> Result<()> {
        self.append(Line::Ended)
    }

    /// Answer what is still owed, so that the file itself is a valid conversation.
    fn close_calls(&mut self) -> Result<()> {
        for result in self.view.missing() {
            self.append(Line::Result(result))?;
        }
        Ok(())
    }

    fn append(&mut self, line: Line) -> Result<()> {
        let entry = Entry { at: now(), line };
        let mut text = serde_json::to_string(&entry)?;
        text.push('\n');
        let shown = self.path.display();
        let written = self.file.write_all(text.as_bytes());
        written.with_context(|| format!("cannot append to transcript {shown}"))?;
        self.view.take(entry);
        Ok(())
    }
}

/// The lines of a transcript, each parsed or with the reason why it is not.
pub fn lines(file: &File) -> impl Iterator<Item = std::io::Result<Result<Entry, String>>> {
    let mut reader = BufReader::new(file);
    std::iter::from_fn(move || {
        let mut bytes = Vec::new();
        loop {
            bytes.clear();
            match reader.read_until(b'\n', &mut bytes) {
                Err(error) => return Some(Err(error)),
                Ok(0) => return None,
                Ok(_) if bytes.trim_ascii().is_empty() => {}
                Ok(_) => break,
            }
        }
        let torn = bytes.last() != Some(&b'\n');
        Some(Ok(serde_json::from_slice(&bytes).map_err(|error| {
            let what = if torn {
                "was cut off while it was written"
            } else {
                "is not a line of a transcript"
            };
            format!("it {what}: {error}")
        })))
    })
}

/// The local time, with its offset, to the second.
pub fn now() -> String {
    jiff::Zoned::now().strftime("%Y-%m-%dT%H:%M:%S%:z").to_string()
}
