//! The rules to which real providers hold a request.
//!
//! Owns what makes a request wrong on either wire, as plain functions over its headers and
//! its body: each gives the rules that were broken, in sentences. Knows no HTTP and no
//! replies; what a server said before is told to its `Memory`.

use std::collections::{BTreeMap, HashMap, HashSet};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

/// Header names in lower case, with their values.
pub type Headers = BTreeMap<String, String>;

/// The two wires a model server can speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wire {
    Anthropic,
    OpenAi,
}

impl Wire {
    pub const BOTH: [Self; 2] = [Self::Anthropic, Self::OpenAi];
}

/// What a server has said and been asked, as far as later requests are held to it.
#[derive(Debug, Default)]
pub struct Memory {
    /// By the id of a reply's first call: the thinking that came before it.
    thoughts: HashMap<String, Vec<Value>>,
    previous: Option<Prefix>,
    change_allowed: bool,
    changes_allowed: bool,
}

impl Memory {
    /// A reply with this thinking and this first call was sent.
    pub fn thought(&mut self, call: &str, blocks: Vec<Value>) {
        self.thoughts.insert(call.to_owned(), blocks);
    }

    /// The next request may differ from the last in what went before.
    pub fn allow_prefix_change(&mut self) {
        self.change_allowed = true;
    }

    /// Any request may.
    pub fn allow_prefix_changes(&mut self) {
        self.changes_allowed = true;
    }

    /// The rules this request breaks. Its prefix is what the next one is held to.
    pub fn broken(&mut self, wire: Wire, headers: &Headers, body: &Value) -> Vec<String> {
        let mut faults = match wire {
            Wire::Anthropic => anthropic(headers, body, &self.thoughts),
            Wire::OpenAi => openai(headers, body, &self.thoughts),
        };
        // A summariser's request has no tools and is no part of the conversation.
        if list(&body["tools"]).is_empty() {
            return faults.0;
        }
        let prefix = Prefix::of(wire, body);
        if let Some(why) = self.previous.as_ref().and_then(|last| last.lost_in(&prefix)) {
            let allowed = std::mem::take(&mut self.change_allowed) || self.changes_allowed;
            faults.unless(allowed, why);
        }
        self.previous = Some(prefix);
        faults.0
    }
}

#[derive(Default)]
struct Faults(Vec<String>);

impl Faults {
    fn unless(&mut self, kept: bool, rule: impl Into<String>) {
        if !kept {
            self.0.push(rule.into());
        }
    }
}

fn anthropic(headers: &Headers, body: &Value, thoughts: &HashMap<String, Vec<Value>>) -> Faults {
    let mut faults = Faults::default();
    faults.unless(headers.contains_key("anthropic-version"), "no anthropic-version header");
    faults.unless(headers.get("x-api-key").is_some_and(|key| !key.is_empty()), "no x-api-key");
    faults.unless(body["max_tokens"].as_u64() > Some(0), "max_tokens is missing");
    faults.unless(!text(&body["model"]).is_empty(), "model is missing");
    let marks = body.to_string().matches("\"cache_control\":").count();
    faults.unless(marks <= 4, format!("{marks} cache_control marks, where 4 are allowed"));
    for block in blocks(&body["system"]) {
        faults.unless(!text(&block["text"]).trim().is_empty(), "an empty block in system");
    }
    tools(body, |tool| (&tool["name"], &tool["input_schema"]), &mut faults);
    let messages = list(&body["messages"]);
    faults.unless(!messages.is_empty(), "no messages");
    faults.unless(messages.last().is_none_or(|last| last["role"] == "user"), "no user at the end");
    let mut owed: Vec<String> = Vec::new();
    let mut ids = HashSet::new();
    let latest = messages.iter().rposition(|message| {
        message["role"] == "user" && !holds(&message["content"], "tool_result")
    });
    for (number, message) in messages.iter().enumerate() {
        let place = format!("messages.{number}");
        let expected = ["user", "assistant"][number % 2];
        faults.unless(message["role"] == expected, format!("{place}: the role is not {expected}"));
        let blocks = blocks(&message["content"]);
        faults.unless(!blocks.is_empty(), format!("{place}: content is empty"));
        for block in blocks.iter().filter(|block| block["type"] == "text") {
            let blank = text(&block["text"]).trim().is_empty();
            faults.unless(!blank, format!("{place}: a text block is empty"));
        }
        for block in &blocks {
            let inner = list(&block["content"]).iter().filter(|_| block["type"] == "tool_result");
            for block in inner.chain([block]).filter(|block| block["type"] == "image") {
                let (source, fine) = (&block["source"], message["role"] == "user");
                faults.unless(fine, format!("{place}: a reply has a picture"));
                faults.unless(source["type"] == "base64", format!("{place}: a source of no type"));
                picture(&place, text(&source["media_type"]), text(&source["data"]), &mut faults);
            }
        }
        answered(&place, &blocks, &std::mem::take(&mut owed), &mut faults);
        owed = of_kind(&blocks, "tool_use").map(|block| text(&block["id"]).to_owned()).collect();
        for block in of_kind(&blocks, "tool_use") {
            let fine = block["input"].is_object() && !text(&block["name"]).is_empty();
            faults.unless(fine, format!("{place}: a tool_use without a name or an input object"));
        }
        new_ids(&place, &owed, &mut ids, &mut faults);
        let closing = blocks.last().map(|block| text(&block["type"]).ends_with("thinking"));
        faults.unless(closing != Some(true), format!("{place}: thinking is the last block"));
        thinking(&place, &blocks, Some(number) > latest, thoughts, &mut faults);
    }
    let used = messages.iter().any(|message| {
        holds(&message["content"], "tool_use") || holds(&message["content"], "tool_result")
    });
    faults.unless(!used || !list(&body["tools"]).is_empty(), "tool blocks, but no tools");
    faults
}

/// The results of a user message come first, one for each call of the message before.
fn answered(place: &str, blocks: &[Value], owed: &[String], faults: &mut Faults) {
    let first = blocks.iter().take_while(|block| block["type"] == "tool_result");
    let mut given: Vec<_> = first.map(|block| text(&block["tool_use_id"])).collect();
    let all = of_kind(blocks, "tool_result").count();
    faults.unless(given.len() == all, format!("{place}: a tool_result after something else"));
    let mut owed: Vec<_> = owed.iter().map(String::as_str).collect();
    given.sort_unstable();
    owed.sort_unstable();
    faults.unless(
        given == owed,
        format!("{place}: the calls before are {owed:?}, the tool_results here {given:?}"),
    );
    for result in of_kind(blocks, "tool_result") {
        let inner = self::blocks(&result["content"]);
        let blank = inner.iter().any(|block| block["text"] == "");
        faults.unless(!blank, format!("{place}: an empty text block in a tool_result"));
        let silent = result["is_error"] == true && inner.is_empty();
        faults.unless(!silent, format!("{place}: a failed tool_result without content"));
    }
}

fn thinking(
    place: &str,
    blocks: &[Value],
    latest: bool,
    thoughts: &HashMap<String, Vec<Value>>,
    faults: &mut Faults,
) {
    let here: Vec<_> =
        blocks.iter().filter(|block| text(&block["type"]).ends_with("thinking")).collect();
    for block in &here {
        let signed = block["type"] == "redacted_thinking" || !text(&block["signature"]).is_empty();
        faults.unless(signed, format!("{place}: thinking without a signature"));
        let sent = thoughts.values().flatten().find(|sent| sent["signature"] == block["signature"]);
        let kept = sent.is_none_or(|sent| sent == *block);
        faults.unless(kept, format!("{place}: thinking was changed: {block}"));
    }
    let call = of_kind(blocks, "tool_use").next().map(|block| text(&block["id"]));
    if let Some(sent) = call.filter(|_| latest).and_then(|id| thoughts.get(id)) {
        let kept = sent.iter().eq(here.iter().copied());
        faults.unless(kept, format!("{place}: thinking did not come back: {sent:?}"));
    }
}

fn openai(headers: &Headers, body: &Value, thoughts: &HashMap<String, Vec<Value>>) -> Faults {
    let mut faults = Faults::default();
    let key = headers.get("authorization").and_then(|value| value.strip_prefix("Bearer "));
    faults.unless(key.is_some_and(|key| !key.is_empty()), "no authorization header with a key");
    faults.unless(body["stream"] == true, "stream is not true");
    faults.unless(!text(&body["model"]).is_empty(), "model is missing");
    tools(body, |tool| (&tool["function"]["name"], &tool["function"]["parameters"]), &mut faults);
    let messages = list(&body["messages"]);
    let system = messages.first().is_some_and(|message| message["role"] == "system");
    let talk = &messages[usize::from(system)..];
    faults.unless(!talk.is_empty(), "no messages");
    let last = talk.last().map(|message| text(&message["role"]));
    faults.unless(last != Some("assistant"), "an assistant message at the end");
    let latest = messages.iter().rposition(|message| message["role"] == "user");
    let mut owed: Vec<String> = Vec::new();
    let mut ids = HashSet::new();
    for (number, message) in messages.iter().enumerate() {
        let place = format!("messages.{number}");
        let role = text(&message["role"]);
        let known = ["user", "assistant", "tool"].contains(&role);
        faults.unless(known || (number == 0 && system), format!("{place}: {role:?} stands here"));
        if role == "tool" {
            let id = text(&message["tool_call_id"]);
            let place_of = owed.iter().position(|owed| owed == id);
            faults.unless(place_of.is_some(), format!("{place}: no call {id:?} before"));
            place_of.map(|index| owed.remove(index));
            faults.unless(message["content"].is_string(), format!("{place}: no content"));
            continue;
        }
        faults.unless(owed.is_empty(), format!("{place}: before it, no tool message for {owed:?}"));
        for part in list(&message["content"]).iter().filter(|part| part["type"] != "text") {
            let url = text(&part["image_url"]["url"]);
            let data = url.strip_prefix("data:").and_then(|url| url.split_once(";base64,"));
            let fine = role == "user" && part["type"] == "image_url" && data.is_some();
            faults
                .unless(fine, format!("{place}: a part that is neither text nor a user's picture"));
            let (media, data) = data.unwrap_or_default();
            picture(&place, media, data, &mut faults);
        }
        let calls = list(&message["tool_calls"]);
        let said = blocks(&message["content"]);
        let said = !said.is_empty() && said.iter().all(|part| part["text"] != "");
        faults.unless(said || !calls.is_empty(), format!("{place}: content is empty"));
        let bare = role == "assistant" && message.get("tool_calls").is_some() && calls.is_empty();
        faults.unless(!bare, format!("{place}: tool_calls is empty"));
        owed = calls.iter().map(|call| text(&call["id"]).to_owned()).collect();
        new_ids(&place, &owed, &mut ids, &mut faults);
        for call in calls {
            let parsed = serde_json::from_str(text(&call["function"]["arguments"]));
            let object = parsed.is_ok_and(|value: Value| value.is_object());
            faults.unless(object, format!("{place}: arguments are not the text of an object"));
            faults.unless(call["type"] == "function", format!("{place}: a call has no type"));
        }
        let sent = owed.first().and_then(|id| thoughts.get(id)).filter(|_| Some(number) > latest);
        for (field, value) in sent.into_iter().flatten().filter_map(Value::as_object).flatten() {
            faults.unless(message[field] == *value, format!("{place}: {field} did not come back"));
        }
    }
    faults.unless(owed.is_empty(), format!("at the end, no tool message for {owed:?}"));
    let used = messages.iter().any(|message| message.get("tool_calls").is_some());
    faults.unless(!used || !list(&body["tools"]).is_empty(), "tool calls, but no tools");
    faults
}

/// A picture is one of four kinds, is what it says it is, and is not too large.
fn picture(place: &str, media: &str, data: &str, faults: &mut Faults) {
    let bytes = STANDARD.decode(data).unwrap_or_default();
    let begins = match media {
        "image/png" => bytes.starts_with(b"\x89PNG"),
        "image/jpeg" => bytes.starts_with(b"\xff\xd8\xff"),
        "image/gif" => bytes.starts_with(b"GIF8"),
        "image/webp" => bytes.starts_with(b"RIFF"),
        _ => false,
    };
    faults.unless(begins, format!("{place}: a picture that is no {media:?} in base64"));
    faults.unless(data.len() <= 5_000_000, format!("{place}: a picture of more than 5 MB"));
}

fn tools<'a>(
    body: &'a Value,
    parts: impl Fn(&'a Value) -> (&'a Value, &'a Value),
    faults: &mut Faults,
) {
    let mut names = HashSet::new();
    for (name, schema) in list(&body["tools"]).iter().map(parts) {
        let name = text(name);
        faults.unless(plain(name), format!("tools: {name:?} is no name"));
        faults.unless(names.insert(name), format!("tools: {name:?} stands twice"));
        faults.unless(schema["type"] == "object", format!("tools: {name:?} takes no object"));
    }
}

fn new_ids(place: &str, new: &[String], ids: &mut HashSet<String>, faults: &mut Faults) {
    for id in new {
        faults.unless(plain(id), format!("{place}: {id:?} is no id of a call"));
        faults.unless(ids.insert(id.clone()), format!("{place}: two calls have the id {id:?}"));
    }
}

/// `^[a-zA-Z0-9_-]+$`
fn plain(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    !name.is_empty() && name.bytes().all(allowed)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// Content is a list of blocks, or a string that stands for one of text.
pub fn blocks(content: &Value) -> Vec<Value> {
    match content {
        Value::String(text) if text.is_empty() => Vec::new(),
        Value::String(text) => vec![serde_json::json!({"type": "text", "text": text})],
        other => list(other).to_vec(),
    }
}

fn of_kind<'a>(blocks: &'a [Value], kind: &str) -> impl Iterator<Item = &'a Value> {
    blocks.iter().filter(move |block| block["type"] == kind)
}

fn holds(content: &Value, kind: &str) -> bool {
    of_kind(list(content), kind).next().is_some()
}

/// What providers cache: the system prompt and the tools, then the conversation.
#[derive(Debug)]
struct Prefix {
    fixed: String,
    items: Vec<String>,
}

impl Prefix {
    fn of(wire: Wire, body: &Value) -> Self {
        let mut body = body.clone();
        unmark(&mut body);
        let (tools, messages) = (&body["tools"], list(&body["messages"]));
        match wire {
            Wire::Anthropic => {
                let items = messages.iter().flat_map(|message| {
                    let role = text(&message["role"]).to_owned();
                    blocks(&message["content"])
                        .into_iter()
                        .map(move |item| format!("{role} {item}"))
                });
                Self { fixed: format!("{} {tools}", body["system"]), items: items.collect() }
            }
            Wire::OpenAi => Self {
                fixed: tools.to_string(),
                items: messages.iter().map(Value::to_string).collect(),
            },
        }
    }

    /// Where `next` does not begin with all of this.
    fn lost_in(&self, next: &Self) -> Option<String> {
        if self.fixed != next.fixed {
            return Some("the prefix changed: system or tools".to_owned());
        }
        let at = self.items.iter().zip(&next.items).take_while(|(old, new)| old == new).count();
        let (old, new) = (self.items.get(at)?, next.items.get(at));
        // What a user said last may go on where a wire puts it into one text.
        let grown = old.strip_suffix("\"}").is_some_and(|open| {
            old.starts_with(r#"{"role":"user""#) && new.is_some_and(|new| new.starts_with(open))
        });
        let last = at + 1 == self.items.len();
        (!(grown && last)).then(|| {
            format!(
                "the prefix changed at item {at}: it was {old} and is {}",
                new.map_or("gone", |new| new)
            )
        })
    }
}

/// Cache marks move from request to request and change nothing.
fn unmark(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.remove("cache_control");
            map.values_mut().for_each(unmark);
        }
        Value::Array(items) => items.iter_mut().for_each(unmark),
        _ => {}
    }
}

mod tests {
    use serde_json::json;

    use super::*;

    fn headers() -> Headers {
        let pairs = [
            ("anthropic-version", "2023-06-01"),
            ("x-api-key", "k"),
            ("authorization", "Bearer k"),
        ];
        pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
    }

    /// A conversation with two calls in one reply, as either wire says it.
    fn good(wire: Wire) -> Value {
        match wire {
            Wire::Anthropic => json!({"model": "m", "max_tokens": 9, "stream": true, "system": "s",
            "tools": [{"name": "bash", "input_schema": {"type": "object"}}],
            "messages": [
                {"role": "user", "content": "hi"},
                {"role": "assistant", "content": [
                    {"type": "thinking", "thinking": "hm", "signature": "sig"},
                    {"type": "tool_use", "id": "a", "name": "bash", "input": {}},
                    {"type": "tool_use", "id": "b", "name": "bash", "input": {}}]},
                {"role": "user", "content": [
                    {"type": "tool_result", "tool_use_id": "a", "content": "1"},
                    {"type": "tool_result", "tool_use_id": "b", "content": ""},
                    {"type": "text", "text": "and", "cache_control": {"type": "ephemeral"}}]}]}),
            Wire::OpenAi => json!({"model": "m", "stream": true,
            "tools": [{"type": "function",
                "function": {"name": "bash", "parameters": {"type": "object"}}}],
            "messages": [
                {"role": "system", "content": "s"},
                {"role": "user", "content": "hi"},
                {"role": "assistant", "content": null, "reasoning_content": "hm", "tool_calls": [
                    {"id": "a", "type": "function",
                     "function": {"name": "bash", "arguments": "{}"}},
                    {"id": "b", "type": "function",
                     "function": {"name": "bash", "arguments": "{}"}}]},
                {"role": "tool", "tool_call_id": "a", "content": "1"},
                {"role": "tool", "tool_call_id": "b", "content": ""}]}),
        }
    }

    fn memory(wire: Wire) -> Memory {
        let mut memory = Memory::default();
        memory.thought(
            "a",
            match wire {
                Wire::Anthropic => {
                    vec![json!({"type": "thinking", "thinking": "hm", "signature": "sig"})]
                }
                Wire::OpenAi => vec![json!({"reasoning_content": "hm"})],
            },
        );
        memory
    }

    /// Each change breaks the rule whose words stand beside it, and no change none.
    fn check(wire: Wire, cases: &[(&str, Value, &str)]) {
        assert_eq!(memory(wire).broken(wire, &headers(), &good(wire)), [""; 0]);
        for (pointer, value, rule) in cases {
            let mut body = good(wire);
            *body.pointer_mut(pointer).unwrap_or_else(|| panic!("no {pointer}")) = value.clone();
            let faults = memory(wire).broken(wire, &headers(), &body);
            assert!(faults.iter().any(|fault| fault.contains(rule)), "{pointer}: {faults:?}");
        }
    }

    #[test]
    fn messages_api() {
        let call = json!({"type": "tool_use", "id": "a", "name": "bash", "input": {}});
        let text = |text: &str| json!({"type": "text", "text": text});
        let result = json!({"type": "tool_result", "tool_use_id": "c", "content": "1"});
        let mark = json!({"type": "ephemeral"});
        let shown = |media: &str, data: &str| json!({"type": "image", "source": {"type": "base64", "media_type": media, "data": data}});
        let marked = json!({"type": "text", "text": "a", "cache_control": mark});
        let ask = json!({"role": "user", "content": "hi"});
        check(
            Wire::Anthropic,
            &[
                ("/max_tokens", json!(null), "max_tokens"),
                ("/model", json!(""), "model is missing"),
                ("/system", json!([text("")]), "an empty block in system"),
                ("/tools", json!([]), "tool blocks, but no tools"),
                ("/tools/0/input_schema", json!({}), "takes no object"),
                ("/messages", json!([]), "no messages"),
                ("/messages/0/role", json!("assistant"), "messages.0: the role is not user"),
                ("/messages/0/role", json!("system"), "messages.0: the role is not user"),
                ("/messages/1", ask.clone(), "messages.1: the role is not assistant"),
                ("/messages/0/content", json!(""), "messages.0: content is empty"),
                ("/messages/0/content", json!([text(" ")]), "messages.0: a text block is empty"),
                ("/messages/0/content", json!([result]), "messages.0: the calls before are []"),
                ("/messages/1/content/2", call, "two calls have the id \"a\""),
                ("/messages/1/content/1/id", json!("a.b"), "is no id"),
                ("/messages/1/content/1/input", json!("{}"), "without a name or an input object"),
                ("/messages/1/content/0/thinking", json!("h"), "thinking was changed"),
                ("/messages/1/content/0/signature", json!(""), "without a signature"),
                ("/messages/1/content/0", text("hm"), "thinking did not come back"),
                ("/messages/1/content/2/type", json!("thinking"), "thinking is the last block"),
                ("/messages/2/content/0", text("x"), "a tool_result after something else"),
                ("/messages/2/content/1", text("x"), "the tool_results here [\"a\"]"),
                (
                    "/messages/2/content/0/content",
                    json!([text("")]),
                    "an empty text block in a tool",
                ),
                ("/messages/2/content", json!(vec![marked; 5]), "5 cache_control marks"),
                (
                    "/messages/0/content",
                    json!([shown("image/png", "R0lGODlh")]),
                    "no \"image/png\"",
                ),
                (
                    "/messages/0/content",
                    json!([shown("image/gif", "R0lGOD%h")]),
                    "no \"image/gif\"",
                ),
                (
                    "/messages/0/content",
                    json!([shown("image/svg", "R0lGODlh")]),
                    "no \"image/svg\"",
                ),
                (
                    "/messages/2/content/0/content",
                    json!([shown("image/gif", "x")]),
                    "messages.2: a picture that is no",
                ),
                ("/messages/1/content/0", shown("image/gif", "R0lGODlh"), "a reply has a picture"),
                (
                    "/messages",
                    json!([ask, {"role": "assistant", "content": "x"}]),
                    "no user at the",
                ),
            ],
        );
        let missing =
            Memory::default().broken(Wire::Anthropic, &Headers::new(), &good(Wire::Anthropic));
        assert_eq!(missing, ["no anthropic-version header", "no x-api-key"]);
    }

    #[test]
    fn chat_completions_api() {
        let shown = |url: &str| json!({"type": "image_url", "image_url": {"url": url}});
        let ask = json!({"role": "user", "content": "hi"});
        check(
            Wire::OpenAi,
            &[
                ("/stream", json!(false), "stream"),
                ("/tools", json!([]), "tool calls, but no tools"),
                ("/messages", json!([]), "no messages"),
                ("/messages/0/role", json!("developer"), "messages.0: \"developer\" stands here"),
                ("/messages/1/role", json!("system"), "messages.1: \"system\" stands here"),
                ("/messages/1/content", json!(""), "messages.1: content is empty"),
                (
                    "/messages/1/content",
                    json!([shown("data:image/png;base64,R0lG")]),
                    "no \"image/png",
                ),
                (
                    "/messages/1/content",
                    json!([shown("http://h/a.png")]),
                    "neither text nor a user",
                ),
                ("/messages/2/tool_calls", json!([]), "messages.2: content is empty"),
                ("/messages/2/tool_calls", json!([]), "messages.2: tool_calls is empty"),
                ("/messages/2/tool_calls/1/id", json!("a"), "two calls have the id \"a\""),
                ("/messages/2/tool_calls/1/id", json!(""), "is no id"),
                ("/messages/2/tool_calls/0/function/arguments", json!({}), "the text of an object"),
                (
                    "/messages/2/tool_calls/0/function/arguments",
                    json!("[]"),
                    "the text of an object",
                ),
                (
                    "/messages/2/reasoning_content",
                    json!("h"),
                    "reasoning_content did not come back",
                ),
                ("/messages/3/tool_call_id", json!("c"), "messages.3: no call \"c\" before"),
                (
                    "/messages/3",
                    ask.clone(),
                    "messages.3: before it, no tool message for [\"a\", \"b\"]",
                ),
                ("/messages/4", ask.clone(), "messages.4: before it, no tool message for [\"b\"]"),
                ("/messages/4/tool_call_id", json!("a"), "at the end, no tool message for [\"b\"]"),
                ("/messages/4/content", json!(null), "messages.4: no content"),
                (
                    "/messages",
                    json!([ask, {"role": "assistant", "content": "x"}]),
                    "assistant message at",
                ),
            ],
        );
        let missing = Memory::default().broken(Wire::OpenAi, &Headers::new(), &good(Wire::OpenAi));
        assert_eq!(missing, ["no authorization header with a key"]);
    }

    #[test]
    fn what_was_said_stays_as_it_was() {
        for wire in Wire::BOTH {
            let asked = |memory: &mut Memory, body: &Value| memory.broken(wire, &headers(), body);
            let mut memory = memory(wire);
            let mut longer = good(wire);
            assert_eq!(asked(&mut memory, &longer), [""; 0]);
            let messages = longer["messages"].as_array_mut().expect("a list");
            messages.push(json!({"role": "assistant", "content": "done"}));
            messages.push(json!({"role": "user", "content": "more"}));
            assert_eq!(asked(&mut memory, &longer), [""; 0]);
            let summary = json!({"model": "m", "max_tokens": 9, "stream": true, "system": "x",
                "messages": [{"role": "user", "content": "summarise"}]});
            assert_eq!(asked(&mut memory, &summary), [""; 0], "a summariser's request");

            let mut grown = longer.clone();
            let last = grown["messages"].as_array_mut().and_then(|list| list.last_mut());
            last.expect("a message")["content"] = match wire {
                Wire::Anthropic => json!([{"type": "text", "text": "more"},
                    {"type": "text", "text": "and more"}]),
                Wire::OpenAi => json!("more\n\nand more"),
            };
            assert_eq!(asked(&mut memory, &grown), [""; 0], "the user goes on");

            let shorter = good(wire);
            assert!(asked(&mut memory, &shorter)[0].contains("the prefix changed at item"));
            let mut other = good(wire);
            other["tools"][0]["extra"] = json!(1);
            assert!(asked(&mut memory, &other)[0].contains("system or tools"));
            memory.allow_prefix_change();
            assert_eq!(asked(&mut memory, &shorter), [""; 0]);
            assert!(!asked(&mut memory, &other).is_empty(), "only one change was allowed");
        }
    }
}
