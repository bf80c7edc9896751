//! `OpenAI`'s Chat Completions API, and what others make of it.
//!
//! Owns this wire's body and chunks, and the patience with servers that send calls
//! without index or id, arguments whole or as objects, and ends of every kind. Knows no
//! IO and no other wire.

use std::borrow::Cow;

use serde_json::{Map, Value, json};

use crate::kernel::message::{Assistant, Block, Call, Stop, Usage};
use crate::kernel::model::{Delta, Deltas, Failure, Request};
use crate::kernel::tool::Spec;
use crate::wires::fault::Fault;
use crate::wires::picture::base64;
use crate::wires::protocol::{self, Partial, Protocol, append, arguments, cut, identify};
use crate::wires::quoted::note;
use crate::wires::sse::Event;
use crate::wires::turns::{Piece, Turn, output, pictures, turns};
use crate::wires::{Endpoint, OutputField};

/// Whose opaque blocks are whose. Here each is an object of fields of the assistant's
/// message or, under `EXTRA`, of the call behind it.
const WIRE: &str = "openai";
/// Fields with the model's thinking, under the names that servers gave them.
const THINKING: [&str; 2] = ["reasoning_content", "reasoning"];
/// `OpenRouter`'s signed form of the same.
const DETAILS: &str = "reasoning_details";
/// What Gemini signs its calls with, and refuses them without.
const EXTRA: &str = "extra_content";

/// The wire.
pub struct OpenAi;

impl Protocol for OpenAi {
    type Partial = Reply;

    fn path(base: &str) -> String {
        format!("{base}/chat/completions")
    }

    fn headers(endpoint: &Endpoint) -> Vec<(&'static str, String)> {
        endpoint.key.iter().map(|key| ("authorization", format!("Bearer {key}"))).collect()
    }

    fn body(endpoint: &Endpoint, request: &Request<'_>) -> String {
        let tool = |tool: &Spec| {
            json!({"type": "function", "function": {"name": tool.name,
                "description": tool.description, "parameters": tool.parameters}})
        };
        let limit = match endpoint.output_field {
            OutputField::MaxTokens => "max_tokens",
            OutputField::MaxCompletionTokens => "max_completion_tokens",
        };
        protocol::body([
            json!({"model": endpoint.model, limit: endpoint.output, "stream": true,
                "stream_options": {"include_usage": true}}),
            Value::Object(endpoint.body.clone()),
            json!({"tools": request.tools.iter().map(tool).collect::<Vec<_>>(),
                "messages": messages(endpoint, request)}),
        ])
    }
}

fn messages(endpoint: &Endpoint, request: &Request<'_>) -> Value {
    let mut written = Vec::new();
    if !request.system.trim().is_empty() {
        written.push(json!({"role": "system", "content": request.system}));
    }
    for turn in turns(request.messages, WIRE, &endpoint.spec, endpoint.sees) {
        match turn {
            Turn::User { results, parts } => {
                written.extend(results.iter().map(|result| {
                    json!({"role": "tool", "tool_call_id": result.id, "content": output(result)})
                }));
                // A result is text here: what it shows stands in a message behind all of them.
                let any = results.iter().any(|one| !one.images.is_empty());
                let label = any.then(|| Piece::Text(note("From the results above:").into()));
                let shown = results.iter().flat_map(|one| pictures(&one.images, endpoint.sees));
                let parts: Vec<_> = label.into_iter().chain(shown).chain(parts).collect();
                if !parts.is_empty() {
                    written.push(json!({"role": "user", "content": content(&parts)}));
                }
            }
            Turn::Assistant(blocks) => written.push(assistant(&blocks)),
        }
    }
    Value::Array(written)
}

/// One text, or a list where there are pictures: not all servers take lists.
fn content(parts: &[Piece<'_>]) -> Value {
    let texts: Vec<_> = parts
        .iter()
        .filter_map(|part| match part {
            Piece::Text(text) => Some(text.as_ref()),
            Piece::Picture(..) => None,
        })
        .collect();
    if texts.len() == parts.len() {
        return json!(texts.join("\n\n"));
    }
    let part = |part: &Piece<'_>| match part {
        Piece::Text(text) => json!({"type": "text", "text": text}),
        Piece::Picture(image, bytes) => {
            let url = format!("data:{};base64,{}", image.media_type, base64(bytes));
            json!({"type": "image_url", "image_url": {"url": url}})
        }
    };
    parts.iter().map(part).collect()
}

fn assistant(blocks: &[&Block]) -> Value {
    let (mut texts, mut calls) = (Vec::new(), Vec::new());
    let mut message = Map::from_iter([("role".to_owned(), json!("assistant"))]);
    for block in blocks {
        match block {
            Block::Text(text) => texts.push(text.as_str()),
            Block::Call(call) => {
                let arguments = Value::Object(call.object()).to_string();
                let function = json!({"name": call.name, "arguments": arguments});
                let mut call = json!({"id": call.id, "type": "function", "function": function});
                if let Some(extra) = message.remove(EXTRA) {
                    call[EXTRA] = extra;
                }
                calls.push(call);
            }
            Block::Opaque { value: Value::Object(fields), .. } => message.extend(fields.clone()),
            Block::Opaque { .. } => {}
        }
    }
    let content = if texts.is_empty() { Value::Null } else { json!(texts.join("\n\n")) };
    message.insert("content".to_owned(), content);
    if !calls.is_empty() {
        message.insert("tool_calls".to_owned(), Value::Array(calls));
    }
    Value::Object(message)
}

/// A reply on its way.
#[derive(Debug, Default)]
pub struct Reply {
    text: String,
    calls: Vec<PartialCall>,
    /// Fields that are sent back as they came.
    fields: Map<String, Value>,
    refused: bool,
    reason: Option<String>,
    done: bool,
    usage: Usage,
}

/// A call on its way.
#[derive(Debug, Default)]
struct PartialCall {
    index: Option<u64>,
    id: String,
    name: String,
    arguments: String,
    extra: Option<Value>,
}

impl Partial for Reply {
    fn take(&mut self, event: &Event, deltas: Deltas<'_>) -> Result<(), Fault> {
        if event.data.trim() == "[DONE]" {
            self.done = true;
            return Ok(());
        }
        // What is not JSON is no chunk of this API: some proxies send keep-alives.
        let Ok(data) = serde_json::from_str::<Value>(&event.data) else { return Ok(()) };
        if data.get("error").is_some_and(|error| !error.is_null()) {
            return Err(Fault::streamed(&data));
        }
        self.count(&data["usage"]);
        let choice = &data["choices"][0];
        if let Some(reason) = choice["finish_reason"].as_str().filter(|reason| !reason.is_empty()) {
            self.reason = Some(reason.to_owned());
        }
        // A reply that is not streamed, or the last chunk of some that are, has a message.
        for message in [&choice["delta"], &choice["message"]] {
            self.think(message, deltas);
            self.speak(&message["content"], deltas);
            if let Some(text) = message["refusal"].as_str().filter(|text| !text.is_empty()) {
                self.refused = true;
                self.speak(&json!(text), deltas);
            }
            for delta in message["tool_calls"].as_array().into_iter().flatten() {
                self.call(delta);
            }
        }
        Ok(())
    }

    fn done(&self) -> bool {
        self.done
    }

    fn finish(self, model: &str) -> Result<Assistant, Failure> {
        let stop = match self.reason.as_deref() {
            None if !self.done => return Err(cut()),
            Some("content_filter") => Stop::Refusal,
            _ if self.refused => Stop::Refusal,
            Some("length") => Stop::MaxTokens,
            _ => Stop::End,
        };
        let mut blocks = Vec::new();
        let opaque = |fields| Block::Opaque { wire: WIRE.to_owned(), value: Value::Object(fields) };
        if !self.fields.is_empty() {
            blocks.push(opaque(self.fields));
        }
        if !self.text.is_empty() {
            blocks.push(Block::Text(self.text));
        }
        for PartialCall { id, name, arguments: raw, extra, .. } in self.calls {
            if let Some(extra) = extra {
                blocks.push(opaque(Map::from_iter([(EXTRA.to_owned(), extra)])));
            }
            blocks.push(Block::Call(Call { id, name, input: arguments(&raw) }));
        }
        identify(&mut blocks);
        Ok(Assistant { blocks, stop, model: model.to_owned(), usage: self.usage })
    }
}

impl Reply {
    fn think(&mut self, message: &Value, deltas: Deltas<'_>) {
        let mut told = false;
        for name in THINKING {
            let Some(piece) = message[name].as_str().filter(|piece| !piece.is_empty()) else {
                continue;
            };
            append(&mut self.fields, name, piece);
            // Servers that use both names say the same under each.
            if !std::mem::replace(&mut told, true) {
                deltas(Delta::Thinking(piece));
            }
        }
        let Some(pieces) = message[DETAILS].as_array() else { return };
        let details = self.fields.entry(DETAILS).or_insert_with(|| json!([]));
        let Value::Array(details) = details else { return };
        for piece in pieces {
            match details.last_mut() {
                Some(last) if continues(last, piece) => merge(last, piece),
                _ => details.push(piece.clone()),
            }
        }
    }

    fn speak(&mut self, content: &Value, deltas: Deltas<'_>) {
        match content {
            Value::String(text) if !text.is_empty() => {
                self.text.push_str(text);
                deltas(Delta::Text(text));
            }
            Value::Array(parts) => parts.iter().for_each(|part| self.speak(&part["text"], deltas)),
            _ => {}
        }
    }

    fn call(&mut self, delta: &Value) {
        let function = &delta["function"];
        let index = delta["index"].as_u64();
        let [id, name] =
            [&delta["id"], &function["name"]].map(|value| value.as_str().unwrap_or_default());
        let piece = match &function["arguments"] {
            Value::Null => Cow::default(),
            Value::String(piece) => Cow::from(piece),
            whole => Cow::from(whole.to_string()),
        };
        let candidate = match index {
            Some(_) => self.calls.iter().rposition(|call| call.index == index),
            None => self.calls.len().checked_sub(1),
        };
        let at = candidate.filter(|&at| self.calls[at].goes_on(index, id, name, &piece));
        let at = at.unwrap_or_else(|| {
            self.calls.push(PartialCall { index, ..PartialCall::default() });
            self.calls.len() - 1
        });
        let call = &mut self.calls[at];
        for (field, value) in [(&mut call.id, id), (&mut call.name, name)] {
            if field.is_empty() {
                value.clone_into(field);
            }
        }
        call.arguments.push_str(&piece);
        if let Some(extra) = delta.get(EXTRA) {
            call.extra = Some(extra.clone());
        }
    }

    /// Counts come once at the end, or growing in each chunk, or never.
    fn count(&mut self, usage: &Value) {
        let number = |path| usage.pointer(path).and_then(Value::as_u64).unwrap_or_default();
        if usage.is_object() {
            self.usage = Usage {
                input: number("/prompt_tokens"),
                output: number("/completion_tokens"),
                cache_read: number("/prompt_tokens_details/cached_tokens"),
                cache_write: number("/prompt_tokens_details/cache_write_tokens"),
                // OpenRouter says what it charged, in dollars.
                cost: (usage["cost"].as_f64().unwrap_or_default() * 1e6).ceil() as u64,
                unpriced: 0,
            };
        }
    }
}

impl PartialCall {
    /// Whether a delta belongs to this call or begins another one. Servers may leave out
    /// the index or the id, use one index for all calls, or repeat id and name in every
    /// delta.
    fn goes_on(&self, index: Option<u64>, id: &str, name: &str, piece: &str) -> bool {
        let named = !name.is_empty() && !self.name.is_empty();
        let whole = || matches!(serde_json::from_str(&self.arguments), Ok(Value::Object(_)));
        if id.is_empty() || self.id.is_empty() {
            return !named || index.is_some() && !whole();
        }
        id == self.id && !(named && !piece.is_empty() && whole())
    }
}

/// Whether this piece of `reasoning_details` belongs to the last one.
fn continues(last: &Value, piece: &Value) -> bool {
    piece["index"].is_u64() && ["index", "type"].iter().all(|name| last[*name] == piece[*name])
}

fn merge(last: &mut Value, piece: &Value) {
    let (Value::Object(last), Value::Object(piece)) = (last, piece) else { return };
    for (name, value) in piece {
        match (name.as_str(), value) {
            (_, Value::Null) => {}
            ("text" | "summary" | "data", Value::String(value)) => append(last, name, value),
            _ => drop(last.insert(name.clone(), value.clone())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::message::{CallResult, Message, Origin};
    use crate::kernel::tool::SPECS;
    use crate::wires::protocol::tests::{call, endpoint, replay, replay_chunks};

    fn chunk(delta: &Value) -> Value {
        json!({"choices": [{"index": 0, "delta": delta, "finish_reason": null}]})
    }

    fn end(reason: &str) -> Value {
        json!({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
    }

    /// What a reply of these deltas comes to.
    fn reply(deltas: &[Value]) -> Assistant {
        let mut chunks: Vec<_> = deltas.iter().map(chunk).collect();
        chunks.push(end("stop"));
        replay_chunks::<Reply>(&chunks).0.unwrap()
    }

    #[test]
    fn a_real_stream() {
        let (reply, heard) =
            replay::<Reply>(include_str!("../../tests/fixtures/wires/stream-openai.txt"));
        let reply = reply.unwrap();
        let id = "7NsGsle9F14Yumaj6wrRm2lPoXbdyrax";
        let expected = call(id, "bash", json!({"command": "echo hi > hello.txt"}));
        assert_eq!((reply.blocks, reply.stop, heard.as_str()), (vec![expected], Stop::End, ""));
        let usage =
            Usage { input: 186, output: 24, cache_read: 6, cache_write: 0, ..Usage::default() };
        assert_eq!(reply.usage, usage);
    }

    #[test]
    fn calls_however_they_come() {
        let part = |index: Value, id: Value, name: Value, arguments: Value| {
            json!({"tool_calls": [{"index": index, "id": id,
                "function": {"name": name, "arguments": arguments}}]})
        };
        let none = Value::Null;
        let a = || call("a", "read", json!({"path": "x"}));
        let b = || call("b", "read", json!({"path": "y"}));
        let (x, y) = (json!(r#"{"path":"x"}"#), json!(r#"{"path":"y"}"#));
        let cases: Vec<(&str, Vec<Value>, Vec<Block>)> = vec![
            (
                "interleaved by index",
                vec![
                    part(json!(0), json!("a"), json!("read"), json!("{\"path\":")),
                    part(json!(1), json!("b"), json!("read"), json!("{\"path\":")),
                    part(json!(0), none.clone(), none.clone(), json!("\"x\"}")),
                    part(json!(1), none.clone(), none.clone(), json!("\"y\"}")),
                ],
                vec![a(), b()],
            ),
            (
                "neither index nor id after the first delta",
                vec![
                    part(none.clone(), json!("a"), json!("read"), json!("")),
                    part(none.clone(), none.clone(), none.clone(), json!("{\"path\":")),
                    part(none.clone(), json!(""), json!(""), json!("\"x\"}")),
                    part(none.clone(), json!("b"), json!("read"), y.clone()),
                ],
                vec![a(), b()],
            ),
            (
                "one index for all, arguments whole",
                vec![
                    part(json!(0), json!("a"), json!("read"), x.clone()),
                    part(json!(0), json!("b"), json!("read"), y.clone()),
                ],
                vec![a(), b()],
            ),
            (
                "id and name in every delta",
                vec![
                    part(json!(0), json!("a"), json!("read"), json!("{\"path\":")),
                    part(json!(0), json!("a"), json!("read"), json!("\"x\"}")),
                    part(json!(0), json!("a"), json!("read"), json!("")),
                ],
                vec![a()],
            ),
            (
                "arguments as an object",
                vec![part(none.clone(), json!("a"), json!("read"), json!({"path": "x"}))],
                vec![a()],
            ),
            (
                "no arguments",
                vec![part(json!(0), json!("a"), json!("read"), none.clone())],
                vec![call("a", "read", json!({}))],
            ),
            (
                "arguments that are not JSON",
                vec![part(json!(0), json!("a"), json!("read"), json!("{\"pa"))],
                vec![call("a", "read", json!("{\"pa"))],
            ),
        ];
        for (what, deltas, expected) in cases {
            assert_eq!(reply(&deltas).blocks, expected, "{what}");
        }
        // Without ids, each name begins a call, and each call gets an id.
        for index in [none.clone(), json!(0)] {
            let blocks = reply(&[
                part(index.clone(), none.clone(), json!("read"), x.clone()),
                part(index, none.clone(), json!("read"), y.clone()),
            ])
            .blocks;
            let inputs: Vec<_> = blocks
                .iter()
                .map(|block| match block {
                    Block::Call(call) => (!call.id.is_empty(), call.input["path"].clone()),
                    _ => (false, none.clone()),
                })
                .collect();
            assert_eq!(inputs, [(true, json!("x")), (true, json!("y"))]);
        }
    }

    #[test]
    fn content_however_it_comes() {
        let message = json!({"choices": [{"message": {"content": "whole"},
            "finish_reason": "stop"}], "usage": {"prompt_tokens": 1, "completion_tokens": 2}});
        let parts =
            json!({"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]});
        for (chunks, expected) in [
            (
                vec![
                    chunk(&json!({"content": null})),
                    chunk(&json!({"content": "a"})),
                    end("stop"),
                ],
                "a",
            ),
            (vec![chunk(&parts), end("stop")], "ab"),
            (vec![message], "whole"),
            (vec![json!("keep-alive"), json!({"choices": []}), end("stop")], ""),
        ] {
            let (reply, heard) = replay_chunks::<Reply>(&chunks);
            assert_eq!((reply.unwrap().text().as_str(), heard.as_str()), (expected, expected));
        }
    }

    #[test]
    fn thinking_goes_back_under_the_names_it_came_with() {
        let detail = |text: &str, signature: Value| json!({"type": "reasoning.text", "index": 0, "text": text, "signature": signature});
        let chunks = [
            chunk(&json!({"reasoning_content": "h", "reasoning": "h"})),
            chunk(&json!({"reasoning_content": "m", "reasoning": "m",
                "reasoning_details": [detail("h", Value::Null)]})),
            chunk(&json!({"reasoning_details": [detail("m", json!("sig")),
                {"type": "reasoning.encrypted", "data": "xx"}]})),
            chunk(&json!({"content": "done", "tool_calls": [{"index": 0, "id": "a",
                "function": {"name": "read", "arguments": "{}"},
                "extra_content": {"google": {"thought_signature": "t"}}}]})),
            end("tool_calls"),
        ];
        let (reply, heard) = replay_chunks::<Reply>(&chunks);
        let reply = reply.unwrap();
        assert_eq!(heard, "<h><m>done");
        let written = assistant(&reply.blocks.iter().collect::<Vec<_>>());
        assert_eq!(
            written,
            json!({"role": "assistant", "reasoning_content": "hm", "reasoning": "hm",
                "reasoning_details": [detail("hm", json!("sig")),
                    {"type": "reasoning.encrypted", "data": "xx"}],
                "content": "done",
                "tool_calls": [{"id": "a", "type": "function",
                    "function": {"name": "read", "arguments": "{}"},
                    "extra_content": {"google": {"thought_signature": "t"}}}]})
        );
    }

    #[test]
    fn ends_of_every_kind() {
        let done = "data: [DONE]\n\n".to_owned();
        let one = |chunk: Value| format!("data: {chunk}\n\n");
        let refusal = one(chunk(&json!({"refusal": "no"})));
        for (stream, expected) in [
            (one(end("tool_calls")), "Ok(End)"),
            (one(end("function_call")) + &done, "Ok(End)"),
            (one(end("length")), "Ok(MaxTokens)"),
            (one(end("content_filter")), "Ok(Refusal)"),
            (refusal + &one(end("stop")), "Ok(Refusal)"),
            (one(chunk(&json!({"content": "a"}))) + &done, "Ok(End)"),
            (one(chunk(&json!({"content": "a"}))), "Err(\"Transient { message: \\\"the stream"),
            (one(end("stop")) + "data: {\"torn", "Ok(End)"),
            (
                one(json!({"error": {"message": "down", "code": 502}})),
                "Err(\"Transient { message: \\\"http://host answered 502: down",
            ),
            (
                one(json!({"error": {"message": "busy", "type": "server_error"}})),
                "Err(\"Transient { message: \\\"http://host answered 503: busy",
            ),
            (one(json!({"error": "bad"})), "Err(\"Fatal(\\\"http://host answered 400: bad"),
            (
                one(json!({"error": {"message": "maximum context length is 8", "code": 400}})),
                "Err(\"Overflow",
            ),
        ] {
            let (reply, _) = replay::<Reply>(&stream);
            let said = format!("{:?}", reply.map(|reply| reply.stop));
            assert!(said.starts_with(expected), "{said}");
        }
    }

    #[test]
    fn usage_growing_in_each_chunk_or_never() {
        let used = |n: u64| {
            json!({"choices": [{"delta": {}, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 5, "completion_tokens": n}})
        };
        let (reply, _) = replay_chunks::<Reply>(&[used(1), used(2)]);
        assert_eq!(reply.unwrap().usage.total(), 7);
        assert_eq!(replay_chunks::<Reply>(&[end("stop")]).0.unwrap().usage, Usage::default());
        let said = |cost: Value| {
            let chunk = json!({"choices": [], "usage": {"prompt_tokens": 5, "cost": cost}});
            replay_chunks::<Reply>(&[end("stop"), chunk]).0.unwrap().usage.cost
        };
        let costs = [json!(0.012_345_1), json!(-1), json!("x"), json!({"total": 1})];
        assert_eq!(costs.map(said), [12_346, 0, 0, 0]);
    }

    #[test]
    fn a_conversation_written_down() {
        let user = |text: &str| Message::User {
            origin: Origin::Owner,
            text: text.to_owned(),
            images: Vec::new(),
        };
        let result = |id: &str, text: &str| CallResult {
            id: id.to_owned(),
            text: text.to_owned(),
            error: true,
            images: Vec::new(),
        };
        let blocks = vec![
            Block::Opaque { wire: "anthropic".to_owned(), value: json!({"type": "thinking"}) },
            call("f.x:0", "bash", json!({"command": "ls"})),
            call("b", "bash", json!("broken")),
        ];
        let (stop, model, usage) = (Stop::End, String::new(), Usage::default());
        let messages = [
            user("a"),
            Message::Assistant(Assistant { blocks, stop, model, usage }),
            Message::Results(vec![result("f.x:0", ""), result("b", "no")]),
            user("b"),
            Message::Note("c".to_owned()),
        ];
        let mut endpoint = endpoint();
        (endpoint.output, endpoint.output_field) = (Some(9), OutputField::MaxCompletionTokens);
        let request = Request { system: "be kind", tools: &SPECS[..1], messages: &messages };
        let body = OpenAi::body(&endpoint, &request);
        assert_eq!(body, OpenAi::body(&endpoint, &request));
        let tool = json!({"type": "function", "function": {"name": SPECS[0].name,
            "description": SPECS[0].description, "parameters": SPECS[0].parameters}});
        let function = |name: &str, arguments: &str| json!({"name": name, "arguments": arguments});
        let expected = json!({
            "model": "model", "max_completion_tokens": 9, "stream": true,
            "stream_options": {"include_usage": true}, "tools": [tool],
            "messages": [
                {"role": "system", "content": "be kind"},
                {"role": "user", "content": "a"},
                {"role": "assistant", "content": null, "tool_calls": [
                    {"id": "f.x:0", "type": "function",
                        "function": function("bash", r#"{"command":"ls"}"#)},
                    {"id": "b", "type": "function",
                        "function": function("bash", r#"{"invalid_arguments":"broken"}"#)},
                ]},
                {"role": "tool", "tool_call_id": "f.x:0", "content": "(no output)"},
                {"role": "tool", "tool_call_id": "b", "content": "no"},
                {"role": "user", "content": "b\n\n[fledgling] c"},
            ],
        });
        assert_eq!(body, expected.to_string(), "order and bytes");
        let shorter = OpenAi::body(&endpoint, &Request { messages: &messages[..3], ..request });
        assert!(body.starts_with(shorter.trim_end_matches("]}")), "the prefix stays");
    }
}
