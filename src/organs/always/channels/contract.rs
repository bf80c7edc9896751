//! What a channel and the host say to each other: one JSON object a line, both ways.
//!
//! Owns the shapes, the limits on what is taken from a service, and the numbering of what it is
//! given. Fields and events that this version does not know are let pass, so that either side
//! may be the newer one. Knows neither people nor processes.

use serde::Serialize;
use serde_json::{Map, Value};

use crate::organs::enclosed::Enclosed;

/// Characters of a message that are taken in.
const TEXT: usize = 64_000;
/// Bytes an id may have: it becomes part of a key.
const ID: usize = 200;
/// Bytes of a key, which may have ids in it.
const KEY: usize = 1024;
/// Characters of a display name that are kept.
const NAME: usize = 64;
/// Files of a message that are taken in.
const FILES: usize = 20;

/// A line of a service, as it was understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// The service says what it can do.
    Hello {
        /// Characters a message may have.
        limit: Option<usize>,
    },
    /// Somebody says something.
    Message(Inbound),
    /// What it was given is delivered.
    Ack {
        /// The key it was given with.
        key: String,
    },
    /// What it was given is not delivered.
    Fail {
        /// The key it was given with.
        key: String,
        /// Why not.
        error: String,
        /// Whether and when it is to be given again.
        retry: Retry,
    },
    /// An event of the contract that lacks something; for the log.
    Wrong {
        /// The message's id, if it had one: it is acknowledged all the same, for it would come
        /// again no better.
        id: Option<String>,
        /// What is wrong with it.
        why: String,
    },
    /// A JSON object, but nothing of the contract; for the log.
    Unknown,
    /// No JSON object; for the log.
    NotJson,
}

/// When to give again what could not be delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// When the host thinks best.
    Backoff,
    /// In so many seconds.
    After(u32),
    /// Never: it would fail again.
    Never,
}

/// A message from a chat.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inbound {
    /// Its id, unique in the channel for good.
    pub id: String,
    /// The chat.
    pub chat: String,
    /// The platform's stable id of the sender.
    pub from: String,
    /// What is said.
    pub text: String,
    /// What the sender is called, for people to read.
    pub name: Option<String>,
    /// Whether others read along.
    pub group: bool,
    /// The message it answers.
    pub reply_to: Option<String>,
    /// Files that came with it, by their paths.
    pub files: Vec<String>,
    /// Those of them that are kept.
    pub enclosed: Vec<Enclosed>,
}

/// What a service is given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum Outbound {
    /// A message need not come again.
    Ack {
        /// Its id.
        id: String,
    },
    /// Something to deliver.
    Message {
        /// The same whenever the same is given again.
        key: String,
        /// Where to.
        chat: String,
        /// What to say.
        text: String,
        /// The message it answers.
        #[serde(skip_serializing_if = "Option::is_none")]
        reply_to: Option<String>,
        /// Files to go with it.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        files: Vec<String>,
    },
    /// An answer is being worked on.
    Typing {
        /// Where.
        chat: String,
    },
}

/// Numbers the lines that one run of a service is given, from 1.
#[derive(Debug, Default)]
pub struct Numbering(u64);

impl Numbering {
    /// The line for this, without its end.
    pub fn line(&mut self, outbound: &Outbound) -> String {
        #[derive(Serialize)]
        struct Numbered<'a> {
            seq: u64,
            #[serde(flatten)]
            outbound: &'a Outbound,
        }
        self.0 += 1;
        // Strings and numbers always have a JSON form.
        serde_json::to_string(&Numbered { seq: self.0, outbound }).unwrap_or_default()
    }
}

/// Understand a line of a service.
pub fn heard(line: &str) -> Heard {
    let Ok(Value::Object(object)) = serde_json::from_str(line) else { return Heard::NotJson };
    let event = object.get("event").and_then(Value::as_str);
    let understood = match event {
        Some("hello") => {
            let limit = object.get("limit").and_then(Value::as_u64);
            Ok(Heard::Hello { limit: limit.and_then(|limit| usize::try_from(limit).ok()) })
        }
        Some("ack") => id(&object, "key").map(|key| Heard::Ack { key }),
        Some("fail") => fail(&object),
        Some("message") => message(&object).map(Heard::Message),
        // A plain service may well log in JSON.
        None if ["id", "chat", "from", "text"].iter().any(|field| object.contains_key(*field)) => {
            message(&object).map(Heard::Message)
        }
        _ => return Heard::Unknown,
    };
    understood.unwrap_or_else(|missing| Heard::Wrong {
        id: id(&object, "id").ok().filter(|_| matches!(event, None | Some("message"))),
        why: format!("{} {missing}", event.unwrap_or("message")),
    })
}

fn fail(object: &Map<String, Value>) -> Result<Heard, String> {
    let retry = match object.get("retry") {
        Some(Value::Bool(false)) => Retry::Never,
        Some(seconds) => seconds.as_f64().map_or(Retry::Backoff, |seconds| {
            // A cast of a float goes to the nearest number there is.
            Retry::After(seconds.ceil() as u32)
        }),
        None => Retry::Backoff,
    };
    let error = object.get("error").and_then(Value::as_str).unwrap_or("no reason was given");
    Ok(Heard::Fail { key: bounded(object, "key", KEY)?, error: cut(error, 500), retry })
}

fn message(object: &Map<String, Value>) -> Result<Inbound, String> {
    let optional = |field| match object.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(_) => id(object, field).map(Some),
    };
    let files = object.get("files").and_then(Value::as_array);
    let files = files.into_iter().flatten().filter_map(Value::as_str);
    let files: Vec<_> = files.take(FILES).map(str::to_owned).collect();
    let text = match object.get("text") {
        Some(Value::String(text)) => cut(text, TEXT),
        // A picture may come without a word.
        None | Some(Value::Null) if !files.is_empty() => String::new(),
        Some(_) => return Err("has a text that is no string".to_owned()),
        None => return Err("has no text".to_owned()),
    };
    let shown =
        |name: &str| -> String { name.chars().filter(|c| !c.is_control()).take(NAME).collect() };
    Ok(Inbound {
        id: id(object, "id")?,
        chat: id(object, "chat")?,
        from: id(object, "from")?,
        text,
        name: object.get("name").and_then(Value::as_str).map(shown),
        group: object.get("group").and_then(Value::as_bool).unwrap_or_default(),
        reply_to: optional("reply_to")?,
        files,
        enclosed: Vec::new(),
    })
}

/// An id as a string; many platforms have numbers.
fn id(object: &Map<String, Value>, field: &str) -> Result<String, String> {
    bounded(object, field, ID)
}

fn bounded(object: &Map<String, Value>, field: &str, limit: usize) -> Result<String, String> {
    let id = match object.get(field) {
        Some(Value::String(id)) => id.clone(),
        Some(Value::Number(id)) if !id.is_f64() => id.to_string(),
        Some(_) => return Err(format!("has a {field} that is neither string nor integer")),
        None => return Err(format!("has no {field}")),
    };
    match id.len() {
        0 => Err(format!("has an empty {field}")),
        bytes if bytes > limit => {
            Err(format!("has a {field} of {bytes} bytes, where {limit} are the most"))
        }
        _ if id.chars().any(char::is_control) => {
            Err(format!("has a {field} with a control character"))
        }
        _ => Ok(id),
    }
}

fn cut(text: &str, limit: usize) -> String {
    match text.char_indices().nth(limit) {
        Some((at, _)) => {
            let (kept, gone) = text.split_at(at);
            format!("{kept}\n[cut here: {} characters more]", gone.chars().count())
        }
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn why(line: &str) -> String {
        match heard(line) {
            Heard::Wrong { why, .. } => why,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_message_is_understood_with_all_its_fields_or_the_least() {
        let least = Inbound {
            id: "17".into(),
            chat: "-42".into(),
            from: "7".into(),
            text: "hi".into(),
            ..Inbound::default()
        };
        let line = r#"{"id":17,"chat":-42,"from":"7","text":"hi","later":{"x":[1]},"seq":3}"#;
        assert_eq!(heard(line), Heard::Message(least.clone()));
        let line = r#"{"event":"message","id":"17","chat":"-42","from":7,"text":"hi","name":"A\u001bnn",
            "group":true,"reply_to":16,"files":["/a",3]}"#;
        let all = Inbound {
            name: Some("Ann".into()),
            group: true,
            reply_to: Some("16".into()),
            files: vec!["/a".into()],
            ..least
        };
        assert_eq!(heard(line), Heard::Message(all));
        let picture = r#"{"id":1,"chat":1,"from":1,"files":["/a"]}"#;
        assert!(matches!(heard(picture), Heard::Message(Inbound { text, .. }) if text.is_empty()));
    }

    #[test]
    fn what_is_wrong_is_named_and_the_id_kept_so_that_it_need_not_come_again() {
        for (line, expected) in [
            (r#"{"chat":1,"from":1,"text":"a"}"#, "message has no id"),
            (r#"{"id":1,"from":1,"text":"a"}"#, "message has no chat"),
            (r#"{"id":1,"chat":1,"text":"a"}"#, "message has no from"),
            (r#"{"id":1,"chat":1,"from":1}"#, "message has no text"),
            (r#"{"id":1,"chat":1,"from":1,"text":1}"#, "message has a text that is no string"),
            (r#"{"id":"","chat":1,"from":1,"text":""}"#, "message has an empty id"),
            (r#"{"id":1.5,"chat":1,"from":1,"text":""}"#, "neither string nor integer"),
            (r#"{"id":"a\nb","chat":1,"from":1,"text":""}"#, "control character"),
            (r#"{"event":"ack"}"#, "ack has no key"),
            (r#"{"event":"fail","error":"x"}"#, "fail has no key"),
        ] {
            assert!(why(line).contains(expected), "{line}: {}", why(line));
        }
        let long = format!(r#"{{"id":9,"chat":"{}","from":1,"text":""}}"#, "x".repeat(ID + 1));
        assert!(why(&long).contains("chat of 201 bytes"));
        assert!(matches!(heard(&long), Heard::Wrong { id: Some(id), .. } if id == "9"));
    }

    #[test]
    fn what_is_not_of_the_contract_is_let_pass() {
        for line in ["", "hello", "[1]", "{", "\"x\"", &"[".repeat(10_000)] {
            assert_eq!(heard(line), Heard::NotJson, "{line:.20}");
        }
        for line in [r#"{"event":"presence","id":"x"}"#, r#"{"level":"info"}"#, r#"{"event":7}"#] {
            assert_eq!(heard(line), Heard::Unknown, "{line}");
        }
        assert_eq!(
            heard(r#"{"event":"hello","limit":400,"x":1}"#),
            Heard::Hello { limit: Some(400) }
        );
        assert_eq!(heard(r#"{"event":"hello","limit":-4}"#), Heard::Hello { limit: None });
    }

    #[test]
    fn a_failure_says_when_to_try_again() {
        let retry = |retry: &str| match heard(&format!(
            r#"{{"event":"fail","key":"k","error":"e"{retry}}}"#
        )) {
            Heard::Fail { retry, .. } => retry,
            other => panic!("{other:?}"),
        };
        assert_eq!(retry(""), Retry::Backoff);
        assert_eq!(retry(r#","retry":null"#), Retry::Backoff);
        assert_eq!(retry(r#","retry":true"#), Retry::Backoff);
        assert_eq!(retry(r#","retry":false"#), Retry::Never);
        assert_eq!(retry(r#","retry":30"#), Retry::After(30));
        assert_eq!(retry(r#","retry":0.2"#), Retry::After(1));
        assert_eq!(retry(r#","retry":-5"#), Retry::After(0));
        assert_eq!(retry(r#","retry":1e300"#), Retry::After(u32::MAX));
    }

    #[test]
    fn a_long_text_is_cut_and_says_so() {
        let line = format!(r#"{{"id":1,"chat":1,"from":1,"text":"{}"}}"#, "ä".repeat(TEXT + 5));
        let Heard::Message(message) = heard(&line) else { panic!() };
        assert!(message.text.ends_with("ä\n[cut here: 5 characters more]"));
    }

    #[test]
    fn lines_are_numbered_and_hold_what_there_is() {
        let mut numbering = Numbering::default();
        let ack = numbering.line(&Outbound::Ack { id: "17".into() });
        assert_eq!(ack, r#"{"seq":1,"event":"ack","id":"17"}"#);
        let mut message = Outbound::Message {
            key: "k".into(),
            chat: "42".into(),
            text: "a\nb".into(),
            reply_to: None,
            files: Vec::new(),
        };
        let line = numbering.line(&message);
        assert_eq!(line, r#"{"seq":2,"event":"message","key":"k","chat":"42","text":"a\nb"}"#);
        if let Outbound::Message { reply_to, files, .. } = &mut message {
            (*reply_to, *files) = (Some("17".into()), vec!["/a".into()]);
        }
        assert!(numbering.line(&message).ends_with(r#""reply_to":"17","files":["/a"]}"#));
        let typing = numbering.line(&Outbound::Typing { chat: "42".into() });
        assert_eq!(typing, r#"{"seq":4,"event":"typing","chat":"42"}"#);
    }
}
