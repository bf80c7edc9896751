//! A model that plays a file, for the tour and for tests, and checks what it is asked.
//!
//! Owns the script's format (JSONL, one reply a line; `Step` lists the fields) and the
//! rules that strict providers hold a conversation to. Replies are played in order, once.
//! Passes over what a recording tells besides (`organs/replay/recording.rs`). Knows no HTTP
//! and no file system: it is given the text.

use std::sync::atomic::{AtomicUsize, Ordering};

use serde::Deserialize;
use serde_json::{Value, json};

use crate::kernel::message::{Assistant, Block, Call, Message, Stop, Usage};
use crate::kernel::model::{Boxed, Delta, Deltas, Failure, Model, Request};
use crate::wires::quoted;

/// The window, where no first line `{"window": N}` says otherwise.
const WINDOW: u64 = 200_000;
/// That of a recording: it has no replies for summaries of what it grows to.
const ENDLESS: u64 = 1_000_000_000;
/// What a recording tells that no model replies: a turn's beginning, what tools answered, and
/// what others said.
const TOLD: [&str; 3] = ["recorded", "results", "said"];

/// A model that plays a script.
#[derive(Debug)]
pub struct Script {
    spec: String,
    file: String,
    window: u64,
    steps: Vec<Line>,
    next: AtomicUsize,
}

#[derive(Debug)]
struct Line {
    /// File and line number.
    at: String,
    raw: String,
    step: Step,
}

/// One reply, and what must be asked for it.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Step {
    expect: Expect,
    thinking: String,
    text: String,
    calls: Vec<Planned>,
    stop: Option<Stop>,
    usage: Tokens,
    fail: Option<Fail>,
    /// The stream breaks after the text.
    cut: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Expect {
    contains: Option<String>,
    not_contains: Option<String>,
    /// Whether tools are on offer.
    tools: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Planned {
    name: String,
    input: Value,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Tokens {
    input: u64,
    output: u64,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Fail {
    Transient(String),
    Fatal(String),
    Overflow(String),
}

/// What the owner does, which no model replies.
#[derive(Debug, PartialEq, Eq)]
pub enum Owner {
    /// Says something to the agent.
    Says(String),
    /// Types a command of the conversation.
    Types(Typed),
}

/// A command, and what must come of it.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Typed {
    /// The whole line.
    #[serde(rename = "type")]
    pub line: String,
    /// What it is for, told to whoever watches.
    pub about: String,
    /// Something that its answer must hold.
    pub contains: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Said {
    owner: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Window {
    window: u64,
}

/// What the owner does in a script that was parsed without a mistake, in order.
pub fn owner_lines(text: &str) -> Vec<Owner> {
    let done = |(_, line)| owner(&serde_json::from_str(line).ok()?)?.ok();
    lines(text).filter_map(done).collect()
}

/// What the owner does in a line; nothing where it is about somebody else.
fn owner(line: &Value) -> Option<serde_json::Result<Owner>> {
    if line.get("owner").is_some() {
        return Some(Said::deserialize(line).map(|said| Owner::Says(said.owner)));
    }
    line.get("type").is_some().then(|| Typed::deserialize(line).map(Owner::Types))
}

/// The lines that are neither blank nor comments, numbered from 1.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = text.lines().enumerate().map(|(index, line)| (index + 1, line.trim()));
    lines.filter(|(_, line)| !(line.is_empty() || line.starts_with("//") || line.starts_with('#')))
}

impl Script {
    /// Read a script; `file` is what errors call it.
    pub fn parse(file: &str, text: &str) -> Result<Self, String> {
        let (mut window, mut steps) = (WINDOW, Vec::new());
        for (position, (number, line)) in lines(text).enumerate() {
            let at = format!("{file}:{number}");
            let value: Value = serde_json::from_str(line)
                .map_err(|error| format!("{at}: not JSON in column {}", error.column()))?;
            let wrong = |error| format!("{at}: {error}");
            if let Some(owner) = owner(&value) {
                owner.map_err(wrong)?;
            } else if TOLD.iter().any(|field| value.get(field).is_some()) {
                window = ENDLESS;
            } else if position == 0 && value.get("window").is_some() {
                window = serde_json::from_value::<Window>(value).map_err(wrong)?.window;
            } else {
                let step: Step = serde_json::from_value(value).map_err(wrong)?;
                if step.stop == Some(Stop::Cut) {
                    return Err(format!("{at}: a reply is cut by \"cut\": true, not by its stop"));
                }
                steps.push(Line { at, raw: line.to_owned(), step });
            }
        }
        let (spec, file) = (format!("script:{file}"), file.to_owned());
        Ok(Self { spec, file, window, steps, next: AtomicUsize::new(0) })
    }

    async fn play(
        &self,
        body: String,
        request: &Request<'_>,
        deltas: Deltas<'_>,
    ) -> Result<Assistant, Failure> {
        deltas(Delta::Sent(&body));
        let index = self.next.fetch_add(1, Ordering::Relaxed);
        let Some(Line { at, raw, step }) = self.steps.get(index) else {
            let (file, count) = (&self.file, self.steps.len());
            return Err(Failure::Fatal(format!("{file}: the script ends after {count} replies")));
        };
        let wrong = |what: String| Failure::Fatal(format!("{at}: {what}"));
        check_conversation(request.messages).map_err(wrong)?;
        step.expect.check(request).map_err(wrong)?;
        deltas(Delta::Raw(raw.as_bytes()));
        if let Some(fail) = &step.fail {
            return Err(fail.failure());
        }
        for piece in step.thinking.split_inclusive([' ', '\n']) {
            deltas(Delta::Thinking(piece));
        }
        for piece in step.text.split_inclusive([' ', '\n']) {
            deltas(Delta::Text(piece));
            tokio::task::yield_now().await; // so that an interrupt can come between words
        }
        if step.cut {
            return Err(Fail::Transient(format!("{at}: the stream was cut")).failure());
        }
        let usage =
            Usage { input: step.usage.input, output: step.usage.output, ..Usage::default() };
        let stop = step.stop.clone().unwrap_or(Stop::End);
        Ok(Assistant { blocks: step.blocks(index), stop, model: self.spec.clone(), usage })
    }
}

impl Model for Script {
    fn name(&self) -> &str {
        &self.spec
    }

    fn window(&self) -> u64 {
        self.window
    }

    fn ask<'a>(
        &'a self,
        request: &'a Request<'a>,
        deltas: Deltas<'a>,
    ) -> Boxed<'a, Result<Assistant, Failure>> {
        Box::pin(self.play(written(request), request, deltas))
    }
}

impl Step {
    fn blocks(&self, index: usize) -> Vec<Block> {
        let text = (!self.text.is_empty()).then(|| Block::Text(self.text.clone()));
        let calls = self.calls.iter().enumerate().map(|(number, Planned { name, input })| {
            let id = format!("call_{}_{}", index + 1, number + 1);
            Block::Call(Call { id, name: name.clone(), input: input.clone() })
        });
        text.into_iter().chain(calls).collect()
    }
}

impl Fail {
    fn failure(&self) -> Failure {
        match self {
            Self::Transient(message) => {
                Failure::Transient { message: message.clone(), retry_after: None }
            }
            Self::Fatal(message) => Failure::Fatal(message.clone()),
            Self::Overflow(message) => Failure::Overflow(message.clone()),
        }
    }
}

impl Expect {
    fn check(&self, request: &Request<'_>) -> Result<(), String> {
        let last = request.messages.last().map(said).unwrap_or_default();
        let missing = self.contains.iter().find(|words| !last.contains(*words));
        let unwanted = self.not_contains.iter().find(|words| last.contains(*words));
        let tools = !request.tools.is_empty();
        if let Some(words) = missing {
            return Err(format!("expected {words:?} in the last message; it is {last:?}"));
        }
        if let Some(words) = unwanted {
            return Err(format!("expected no {words:?} in the last message; it is {last:?}"));
        }
        match self.tools {
            Some(wanted) if wanted != tools => {
                Err(format!("expected tools: {wanted}; the request has tools: {tools}"))
            }
            _ => Ok(()),
        }
    }
}

fn said(message: &Message) -> String {
    match message {
        Message::User { origin, text, .. } => quoted::said(origin, text).into_owned(),
        Message::Note(text) => text.clone(),
        Message::Assistant(reply) => reply.text(),
        Message::Results(results) => {
            results.iter().map(|result| result.text.as_str()).collect::<Vec<_>>().join("\n")
        }
    }
}

/// Hold a conversation to the rules of strict providers: roles in order, nothing empty,
/// each call answered exactly once in the next message.
fn check_conversation(messages: &[Message]) -> Result<(), String> {
    let mut owed: Vec<&str> = Vec::new();
    for (index, message) in messages.iter().enumerate() {
        let wrong = |what: &str| Err(format!("message {} of the request {what}", index + 1));
        let before = index.checked_sub(1).map(|before| &messages[before]);
        match message {
            Message::Results(results) => {
                let mut given: Vec<_> = results.iter().map(|result| result.id.as_str()).collect();
                given.sort_unstable();
                if given.is_empty() || given != owed {
                    return wrong(&format!("has results for {given:?}, the calls were {owed:?}"));
                }
                owed.clear();
            }
            _ if !owed.is_empty() => return wrong(&format!("has no results for {owed:?}")),
            Message::User { text, .. } | Message::Note(text) if text.trim().is_empty() => {
                return wrong("is empty");
            }
            Message::User { .. } | Message::Note(_) => {}
            Message::Assistant(_) if matches!(before, None | Some(Message::Assistant(_))) => {
                return wrong("is a reply to nothing");
            }
            Message::Assistant(reply) => {
                owed = reply.calls().map(|call| call.id.as_str()).collect();
                owed.sort_unstable();
                if owed.windows(2).any(|pair| pair[0] == pair[1]) {
                    return wrong(&format!("has calls with the same id: {owed:?}"));
                }
            }
        }
    }
    match messages.last() {
        None => Err("the request has no messages".to_owned()),
        Some(Message::Assistant(_)) => Err("the last message of the request is a reply".to_owned()),
        Some(_) => Ok(()),
    }
}

/// The request as `wire` shows it.
fn written(request: &Request<'_>) -> String {
    let tools: Vec<_> = request.tools.iter().map(|tool| tool.name).collect();
    let messages = request.messages.iter().map(|message| match message {
        Message::User { origin, text, images } if images.is_empty() => {
            json!({"user": quoted::said(origin, text)})
        }
        Message::User { origin, text, images } => {
            let shown =
                images.iter().map(|one| format!("{} {} {}", one.name, one.media_type, one.hash));
            json!({"user": quoted::said(origin, text), "images": shown.collect::<Vec<_>>()})
        }
        Message::Note(text) => json!({"note": text}),
        Message::Assistant(reply) => json!({"assistant": reply.blocks}),
        Message::Results(results) => json!({"results": results}),
    });
    let messages: Vec<_> = messages.collect();
    json!({"tools": tools, "system": request.system, "messages": messages}).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::message::{CallResult, Origin};
    use crate::kernel::tool::SPECS;

    const SCRIPT: &str = r#"
// a comment
# another
{"window": 5}
{"owner": "hello"}
{"text":"a b","thinking":"hm","calls":[{"name":"bash","input":{"command":"ls"}}],"expect":{"contains":"hello","tools":true}}
{"text":"c d","expect":{"contains":"out","not_contains":"err"},"usage":{"input":3,"output":4},"stop":"max_tokens"}
{"fail":{"transient":"busy"}}
{"text":"half a","cut":true}
{"type": "/undo", "about": "a", "contains": "b"}
{"owner": "bye"}
{"text":"never","expect":{"contains":"xyz"}}
"#;

    fn user(text: &str) -> Message {
        Message::User { origin: Origin::Owner, text: text.to_owned(), images: Vec::new() }
    }

    fn results(ids: &[&str]) -> Message {
        let result = |id: &&str| CallResult {
            id: (*id).to_owned(),
            text: "out".to_owned(),
            error: false,
            images: Vec::new(),
        };
        Message::Results(ids.iter().map(result).collect())
    }

    async fn ask(script: &Script, messages: &[Message]) -> (Result<Assistant, String>, String) {
        let mut heard = String::new();
        let mut deltas = |delta: Delta<'_>| match delta {
            Delta::Text(text) => heard.push_str(&format!("{text}|")),
            Delta::Thinking(text) => heard.push_str(&format!("<{text}>")),
            Delta::Sent(body) => assert!(body.contains("\"messages\":[{\"user\":\"hello\"}")),
            Delta::Raw(raw) => assert!(!raw.is_empty()),
            Delta::Retry { .. } => unreachable!("a script does not retry"),
        };
        let request = Request { system: "", tools: &SPECS, messages };
        let reply = script.ask(&request, &mut deltas).await;
        (reply.map_err(|failure| failure.to_string()), heard)
    }

    #[tokio::test]
    async fn a_script_is_played_in_order() {
        let script = Script::parse("s", SCRIPT).unwrap();
        assert_eq!((script.window(), script.name()), (5, "script:s"));
        let mut messages = vec![user("hello")];
        let (reply, heard) = ask(&script, &messages).await;
        let reply = reply.unwrap();
        assert_eq!(heard, "<hm>a |b|");
        let ids: Vec<_> = reply.calls().map(|call| call.id.clone()).collect();
        assert_eq!(ids, ["call_1_1"]);
        messages.extend([Message::Assistant(reply), results(&["call_1_1"])]);
        let reply = ask(&script, &messages).await.0.unwrap();
        assert_eq!((reply.text().as_str(), reply.usage.total()), ("c d", 7));
        assert_eq!(reply.stop, Stop::MaxTokens);
        assert_eq!(ask(&script, &messages).await.0.unwrap_err(), "busy");
        let (cut, heard) = ask(&script, &messages).await;
        assert_eq!(
            (cut.unwrap_err().as_str(), heard.as_str()),
            ("s:9: the stream was cut", "half |a|")
        );
        assert_eq!(
            ask(&script, &messages).await.0.unwrap_err(),
            "s:12: expected \"xyz\" in the last message; it is \"out\""
        );
        let end = ask(&script, &messages).await.0.unwrap_err();
        assert_eq!(end, "s: the script ends after 5 replies");
    }

    #[test]
    fn the_owners_lines() {
        let said = |text: &str| Owner::Says(text.to_owned());
        let [line, about, contains] = ["/undo", "a", "b"].map(str::to_owned);
        let typed = Owner::Types(Typed { line, about, contains });
        assert_eq!(owner_lines(SCRIPT), [said("hello"), typed, said("bye")]);
    }

    #[test]
    fn mistakes_name_file_line_and_field() {
        for (text, expected) in [
            ("\n{\"txt\":\"a\"}", "s:2: unknown field `txt`"),
            ("{\"text\":\"a\",\"expect\":{\"contain\":\"b\"}}", "s:1: unknown field `contain`"),
            ("{\"text\":1}", "s:1: invalid type: integer `1`, expected a string"),
            ("{\"owner\":\"a\",\"text\":\"b\"}", "s:1: unknown field `text`"),
            ("{\"type\":\"a\",\"about\":\"b\"}", "s:1: missing field `contains`"),
            ("{}\n{\"window\":1}", "s:2: unknown field `window`"),
            ("{\"stop\":\"cut\"}", "s:1: a reply is cut by"),
            ("{\"text\":", "s:1: not JSON in column 8"),
        ] {
            let error = Script::parse("s", text).unwrap_err();
            assert!(error.starts_with(expected), "{error}");
        }
    }

    #[test]
    fn conversations_are_held_to_the_rules() {
        let reply = |ids: &[&str]| {
            let call = |id: &&str| {
                Block::Call(Call { id: (*id).to_owned(), name: String::new(), input: json!({}) })
            };
            let blocks = ids.iter().map(call).collect();
            let (stop, model, usage) = (Stop::End, String::new(), Usage::default());
            Message::Assistant(Assistant { blocks, stop, model, usage })
        };
        let note = Message::Note("n".to_owned());
        for (messages, expected) in [
            (vec![user("a"), reply(&["1", "2"]), results(&["2", "1"]), note.clone()], ""),
            (vec![user("a"), note, reply(&[]), user("b")], ""),
            (vec![], "the request has no messages"),
            (vec![user(" ")], "message 1 of the request is empty"),
            (vec![reply(&[]), user("a")], "message 1 of the request is a reply to nothing"),
            (vec![user("a"), reply(&[]), reply(&[])], "message 3 of the request is a reply to"),
            (vec![user("a"), reply(&[])], "the last message of the request is a reply"),
            (vec![user("a"), reply(&["1"]), user("b")], "message 3 of the request has no results"),
            (vec![user("a"), results(&["1"])], "message 2 of the request has results for"),
            (vec![user("a"), reply(&["1"]), results(&["1", "1"])], "message 3 of the request has"),
            (vec![user("a"), reply(&["1", "2"]), results(&["1"])], "message 3 of the request has"),
            (vec![user("a"), reply(&["1", "1"])], "message 2 of the request has calls with the"),
        ] {
            let checked = check_conversation(&messages).err().unwrap_or_default();
            assert!(checked.starts_with(expected), "{checked}");
            assert_eq!(checked.is_empty(), expected.is_empty(), "{checked}");
        }
    }
}
