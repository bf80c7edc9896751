//! Anthropic's Messages API.
//!
//! Owns this wire's body, its cache breakpoints and its events. Blocks it has no name for
//! are assembled and carried back as they came. Knows no IO and no other wire.

use serde_json::{Map, Value, json};

use crate::kernel::message::{Assistant, Block, Call, CallResult, Message, Stop, Usage};
use crate::kernel::model::{Delta, Deltas, Failure, Request};
use crate::kernel::tool::Spec;
use crate::wires::Endpoint;
use crate::wires::fault::Fault;
use crate::wires::picture::base64;
use crate::wires::protocol::{self, Partial, Protocol, append, arguments, cut, identify};
use crate::wires::sse::Event;
use crate::wires::turns::{Piece, Turn, output, pictures, turns};

/// Whose opaque blocks are whose.
const WIRE: &str = "anthropic";
/// The version of the API that this file speaks.
const VERSION: &str = "2023-06-01";
/// Tokens of a reply where the owner set no other limit: every model allows this many.
const OUTPUT: u64 = 8192;

/// Marks a block up to which the provider shall cache.
const CACHE: &str = "cache_control";

/// The wire.
pub struct Anthropic;

impl Protocol for Anthropic {
    type Partial = Reply;

    fn path(base: &str) -> String {
        format!("{}/v1/messages", base.strip_suffix("/v1").unwrap_or(base))
    }

    fn headers(endpoint: &Endpoint) -> Vec<(&'static str, String)> {
        let key = endpoint.key.iter().map(|key| ("x-api-key", key.clone()));
        key.chain([("anthropic-version", VERSION.to_owned())]).collect()
    }

    fn body(endpoint: &Endpoint, request: &Request<'_>) -> String {
        let tool = |tool: &Spec| {
            json!({"name": tool.name, "description": tool.description,
                "input_schema": tool.parameters})
        };
        // This breakpoint covers the tools too: they come first in the cache's order.
        let system = (!request.system.trim().is_empty())
            .then(|| json!([{"type": "text", "text": request.system, CACHE: ephemeral()}]));
        protocol::body([
            json!({"model": endpoint.model, "max_tokens": endpoint.output.unwrap_or(OUTPUT),
                "stream": true}),
            Value::Object(endpoint.body.clone()),
            json!({"tools": request.tools.iter().map(tool).collect::<Vec<_>>(),
                "system": system, "messages": messages(endpoint, request.messages)}),
        ])
    }
}

fn messages(endpoint: &Endpoint, messages: &[Message]) -> Value {
    let mut written = Vec::new();
    for turn in turns(messages, WIRE, &endpoint.spec, endpoint.sees) {
        let (role, mut content): (_, Vec<Value>) = match turn {
            Turn::User { results, parts } => {
                let results = results.into_iter().map(|one| result(one, endpoint.sees));
                ("user", results.chain(parts.iter().map(part)).collect())
            }
            Turn::Assistant(blocks) => ("assistant", blocks.into_iter().map(block).collect()),
        };
        // A reply that was cut off while it thought may not end with a thought.
        while content.last().is_some_and(is_thought) {
            content.pop();
        }
        written.push(json!({"role": role, "content": content}));
    }
    // The last breakpoint is where the next request will look; the one before it is where
    // this request finds what the former one stored.
    let users = written.iter_mut().filter(|message| message["role"] == "user");
    for message in users.rev().take(2) {
        if let Some(last) = message["content"].as_array_mut().and_then(|blocks| blocks.last_mut()) {
            last[CACHE] = ephemeral();
        }
    }
    Value::Array(written)
}

fn ephemeral() -> Value {
    json!({"type": "ephemeral"})
}

fn is_thought(block: &Value) -> bool {
    matches!(block["type"].as_str(), Some("thinking" | "redacted_thinking"))
}

fn part(part: &Piece<'_>) -> Value {
    match part {
        Piece::Text(text) => json!({"type": "text", "text": text}),
        Piece::Picture(image, bytes) => json!({"type": "image", "source":
            {"type": "base64", "media_type": image.media_type, "data": base64(bytes)}}),
    }
}

fn result(result: &CallResult, sees: bool) -> Value {
    let mut block =
        json!({"type": "tool_result", "tool_use_id": legal(&result.id), "content": output(result)});
    if !result.images.is_empty() {
        let text = json!({"type": "text", "text": output(result)});
        let shown = pictures(&result.images, sees).map(|one| part(&one));
        block["content"] = std::iter::once(text).chain(shown).collect();
    }
    if result.error {
        block["is_error"] = json!(true);
    }
    block
}

fn block(block: &Block) -> Value {
    match block {
        Block::Text(text) => json!({"type": "text", "text": text}),
        Block::Call(call) => json!({"type": "tool_use", "id": legal(&call.id),
            "name": call.name, "input": call.object()}),
        Block::Opaque { value, .. } => value.clone(),
    }
}

/// Ids that other wires allow, in the characters that this one allows.
fn legal(id: &str) -> String {
    id.replace(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != '-', "_")
}

/// A reply on its way.
#[derive(Debug, Default)]
pub struct Reply {
    parts: Vec<Part>,
    stop: Option<String>,
    stopped: bool,
    /// Here `input` does not count cached tokens yet.
    usage: Usage,
}

/// A block on its way.
#[derive(Debug)]
struct Part {
    index: u64,
    block: Map<String, Value>,
    /// The input of a call, as far as it arrived.
    input: String,
}

impl Partial for Reply {
    fn take(&mut self, event: &Event, deltas: Deltas<'_>) -> Result<(), Fault> {
        // What is not JSON is no event of this API: some proxies send keep-alives.
        let Ok(data) = serde_json::from_str::<Value>(&event.data) else { return Ok(()) };
        match data["type"].as_str().unwrap_or(&event.name) {
            "message_start" => self.count(&data["message"]["usage"]),
            "content_block_start" => self.start(&data["index"], &data["content_block"], deltas),
            "content_block_delta" => self.grow(&data["index"], &data["delta"], deltas),
            "message_delta" => self.end(&data["delta"], &data["usage"]),
            "message_stop" => self.stopped = true,
            "error" => return Err(Fault::streamed(&data)),
            // A whole reply, from a server that does not stream.
            "message" => {
                for (index, block) in data["content"].as_array().into_iter().flatten().enumerate() {
                    self.start(&json!(index), block, deltas);
                }
                self.end(&data, &data["usage"]);
            }
            _ => {}
        }
        Ok(())
    }

    fn done(&self) -> bool {
        self.stopped
    }

    fn finish(self, model: &str) -> Result<Assistant, Failure> {
        if !self.stopped && self.stop.is_none() {
            return Err(cut());
        }
        let stop = match self.stop.as_deref() {
            Some("max_tokens" | "model_context_window_exceeded") => Stop::MaxTokens,
            Some("refusal") => Stop::Refusal,
            _ => Stop::End,
        };
        let mut usage = self.usage;
        let cached = usage.cache_read.saturating_add(usage.cache_write);
        usage.input = usage.input.saturating_add(cached);
        let mut blocks: Vec<_> = self.parts.into_iter().map(Part::finish).collect();
        identify(&mut blocks);
        Ok(Assistant { blocks, stop, model: model.to_owned(), usage })
    }
}

impl Reply {
    fn start(&mut self, index: &Value, block: &Value, deltas: Deltas<'_>) {
        let Some(block) = block.as_object().cloned() else { return };
        for field in ["text", "thinking"] {
            tell(field, block.get(field), deltas);
        }
        let index = index.as_u64().unwrap_or_default();
        self.parts.push(Part { index, block, input: String::new() });
    }

    fn grow(&mut self, index: &Value, delta: &Value, deltas: Deltas<'_>) {
        let Some(part) = self.parts.iter_mut().rfind(|part| *index == part.index) else { return };
        let field = match delta["type"].as_str() {
            Some("text_delta") => "text",
            Some("thinking_delta") => "thinking",
            Some("signature_delta") => "signature",
            Some("input_json_delta") => {
                part.input += delta["partial_json"].as_str().unwrap_or_default();
                return;
            }
            _ => return,
        };
        append(&mut part.block, field, delta[field].as_str().unwrap_or_default());
        tell(field, delta.get(field), deltas);
    }

    fn end(&mut self, delta: &Value, usage: &Value) {
        self.stop = delta["stop_reason"].as_str().map(str::to_owned).or(self.stop.take());
        self.count(usage);
    }

    /// Counts come at the start and again, corrected, at the end; some servers leave
    /// zeros where they have nothing to say.
    fn count(&mut self, usage: &Value) {
        let Usage { input, output, cache_read, cache_write, .. } = &mut self.usage;
        for (count, name) in [
            (input, "input_tokens"),
            (output, "output_tokens"),
            (cache_read, "cache_read_input_tokens"),
            (cache_write, "cache_creation_input_tokens"),
        ] {
            *count = usage[name].as_u64().filter(|&new| new > 0).unwrap_or(*count);
        }
    }
}

impl Part {
    fn finish(self) -> Block {
        let mut block = self.block;
        let text = |name| block.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        if text("type") == "text" {
            return Block::Text(text("text"));
        }
        let whole = || block.get("input").cloned().unwrap_or_else(|| json!({}));
        let input = if self.input.is_empty() { whole() } else { arguments(&self.input) };
        if text("type") == "tool_use" {
            return Block::Call(Call { id: text("id"), name: text("name"), input });
        }
        if !self.input.is_empty() {
            block.insert("input".to_owned(), input);
        }
        Block::Opaque { wire: WIRE.to_owned(), value: Value::Object(block) }
    }
}

fn tell(field: &str, piece: Option<&Value>, deltas: Deltas<'_>) {
    match (field, piece.and_then(Value::as_str).unwrap_or_default()) {
        (_, "") => {}
        ("text", piece) => deltas(Delta::Text(piece)),
        ("thinking", piece) => deltas(Delta::Thinking(piece)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::message::Origin;
    use crate::kernel::tool::SPECS;
    use crate::wires::protocol::tests::{call, endpoint, replay, replay_chunks};

    fn reply(blocks: Vec<Block>) -> Message {
        let (stop, model, usage) = (Stop::End, "test:model".to_owned(), Usage::default());
        Message::Assistant(Assistant { blocks, stop, model, usage })
    }

    fn user(text: &str) -> Message {
        Message::User { origin: Origin::Owner, text: text.to_owned(), images: Vec::new() }
    }

    fn result(id: &str, text: &str, error: bool) -> CallResult {
        CallResult { id: id.to_owned(), text: text.to_owned(), error, images: Vec::new() }
    }

    fn body(system: &str, messages: &[Message]) -> (String, Value) {
        let mut endpoint = endpoint();
        endpoint.body.insert("temperature".to_owned(), json!(0));
        let body = Anthropic::body(&endpoint, &Request { system, tools: &SPECS, messages });
        let value = serde_json::from_str(&body).unwrap();
        (body, value)
    }

    #[test]
    fn path_and_headers() {
        for base in ["", "/v1", "/proxy", "/proxy/v1"] {
            let stem = base.trim_end_matches("/v1");
            assert_eq!(Anthropic::path(base), format!("{stem}/v1/messages"));
        }
        let mut endpoint = endpoint();
        assert_eq!(Anthropic::headers(&endpoint), [("anthropic-version", VERSION.to_owned())]);
        endpoint.key = Some("k".to_owned());
        assert!(Anthropic::headers(&endpoint).contains(&("x-api-key", "k".to_owned())));
    }

    #[test]
    fn a_conversation_written_down() {
        let thought = json!({"type": "thinking", "thinking": "hm", "signature": "s"});
        let opaque = |wire: &str| Block::Opaque { wire: wire.to_owned(), value: thought.clone() };
        let (_, body) = body(
            "be kind",
            &[
                user("a"),
                reply(vec![
                    opaque("anthropic"),
                    opaque("openai"),
                    call("f.x:0", "bash", json!({"command": "ls"})),
                    call("b", "bash", json!("not an object")),
                ]),
                Message::Results(vec![result("f.x:0", " ", false), result("b", "no", true)]),
                user("steered"),
                reply(vec![Block::Text("c".to_owned()), opaque("anthropic")]),
                user("d"),
            ],
        );
        let keys: Vec<_> = body.as_object().unwrap().keys().map(String::as_str).collect();
        let order = ["model", "max_tokens", "stream", "temperature", "tools", "system", "messages"];
        assert_eq!(keys, order);
        let cache = json!({"type": "ephemeral"});
        assert_eq!(
            body["system"],
            json!([{"type": "text", "text": "be kind", "cache_control": cache}])
        );
        assert_eq!(
            body["messages"],
            json!([
                {"role": "user", "content": [{"type": "text", "text": "a"}]},
                {"role": "assistant", "content": [
                    thought,
                    {"type": "tool_use", "id": "f_x_0", "name": "bash",
                        "input": {"command": "ls"}},
                    {"type": "tool_use", "id": "b", "name": "bash",
                        "input": {"invalid_arguments": "not an object"}},
                ]},
                {"role": "user", "content": [
                    {"type": "tool_result", "tool_use_id": "f_x_0", "content": "(no output)"},
                    {"type": "tool_result", "tool_use_id": "b", "content": "no",
                        "is_error": true},
                    {"type": "text", "text": "steered", "cache_control": cache},
                ]},
                {"role": "assistant", "content": [{"type": "text", "text": "c"}]},
                {"role": "user", "content": [
                    {"type": "text", "text": "d", "cache_control": cache}]},
            ])
        );
    }

    #[test]
    fn a_longer_conversation_begins_with_the_bytes_of_a_shorter_one() {
        let mut messages = vec![user("a"), reply(vec![Block::Text("b".to_owned())]), user("c")];
        let (short, _) = body("s", &messages[..1]);
        assert_eq!(short, body("s", &messages[..1]).0);
        messages.push(reply(vec![Block::Text("d".to_owned())]));
        messages.push(user("e"));
        let (middle, long) = (body("s", &messages[..3]).0, body("s", &messages).0);
        let stem = &middle[..middle.find(r#"[{"type":"text","text":"a""#).unwrap()];
        assert!(short.starts_with(stem) && long.starts_with(stem));
    }

    #[test]
    fn a_real_stream() {
        let (reply, _) =
            replay::<Reply>(include_str!("../../tests/fixtures/wires/stream-anthropic.txt"));
        let reply = reply.unwrap();
        let id = "2SZjHWPxEZErqHlVE68HhbcPMSbwhL94";
        let expected = call(id, "bash", json!({"command": "echo hi > hello.txt"}));
        assert_eq!((reply.blocks, reply.stop), (vec![expected], Stop::End));
        let usage =
            Usage { input: 182, output: 24, cache_read: 68, cache_write: 0, ..Usage::default() };
        assert_eq!(reply.usage, usage);
    }

    fn start(index: u64, block: &Value) -> Value {
        json!({"type": "content_block_start", "index": index, "content_block": block})
    }

    fn delta(index: u64, delta: &Value) -> Value {
        json!({"type": "content_block_delta", "index": index, "delta": delta})
    }

    #[test]
    fn blocks_of_every_kind() {
        let chunks = [
            json!({"type": "message_start", "message": {"usage": {"input_tokens": 5,
                "cache_creation_input_tokens": 3, "output_tokens": 1}}}),
            json!({"type": "ping"}),
            start(0, &json!({"type": "thinking", "thinking": ""})),
            delta(0, &json!({"type": "thinking_delta", "thinking": "h"})),
            delta(0, &json!({"type": "thinking_delta", "thinking": "m"})),
            delta(0, &json!({"type": "signature_delta", "signature": "sig"})),
            start(1, &json!({"type": "redacted_thinking", "data": "xx"})),
            start(2, &json!({"type": "text", "text": "a"})),
            delta(2, &json!({"type": "text_delta", "text": "b"})),
            delta(2, &json!({"type": "citations_delta", "citation": {}})),
            start(3, &json!({"type": "server_tool_use", "id": "s", "name": "n", "input": {}})),
            delta(3, &json!({"type": "input_json_delta", "partial_json": "{\"q\":1}"})),
            start(
                4,
                &json!({"type": "tool_use", "id": "c", "name": "read", "input": {"path": "p"}}),
            ),
            delta(9, &json!({"type": "text_delta", "text": "nowhere"})),
            json!({"type": "a_new_event"}),
            json!({"type": "message_delta", "delta": {"stop_reason": "max_tokens"},
                "usage": {"input_tokens": 0, "output_tokens": 7}}),
            json!({"type": "message_stop"}),
        ];
        let (reply, heard) = replay_chunks::<Reply>(&chunks);
        let reply = reply.unwrap();
        let opaque = |value| Block::Opaque { wire: WIRE.to_owned(), value };
        assert_eq!(heard, "<h><m>ab");
        assert_eq!(
            reply.blocks,
            [
                opaque(json!({"type": "thinking", "thinking": "hm", "signature": "sig"})),
                opaque(json!({"type": "redacted_thinking", "data": "xx"})),
                Block::Text("ab".to_owned()),
                opaque(json!({"type": "server_tool_use", "id": "s", "name": "n",
                    "input": {"q": 1}})),
                call("c", "read", json!({"path": "p"})),
            ]
        );
        assert_eq!(reply.stop, Stop::MaxTokens);
        assert_eq!(
            reply.usage,
            Usage { input: 8, output: 7, cache_read: 0, cache_write: 3, ..Usage::default() }
        );
    }

    #[test]
    fn ends_of_every_kind() {
        let stop = |reason| json!({"type": "message_delta", "delta": {"stop_reason": reason}});
        for (chunks, expected) in [
            (vec![stop("end_turn")], "Ok(End)"),
            (vec![stop("pause_turn")], "Ok(End)"),
            (vec![stop("model_context_window_exceeded")], "Ok(MaxTokens)"),
            (vec![stop("refusal")], "Ok(Refusal)"),
            (vec![json!({"type": "message_stop"})], "Ok(End)"),
            (vec![], "Err(\"Transient { message: \\\"the stream was cut"),
            (vec![json!({"type": "message_delta", "delta": {}})], "Err(\"Transient"),
            (
                vec![json!({"type": "error", "error": {"type": "overloaded_error",
                    "message": "Overloaded"}})],
                "Err(\"Transient { message: \\\"http://host answered 503: Overloaded",
            ),
            (
                vec![json!({"type": "error", "error": {"type": "invalid_request_error",
                    "message": "bad"}})],
                "Err(\"Fatal(\\\"http://host answered 400: bad",
            ),
        ] {
            let (reply, _) = replay_chunks::<Reply>(&chunks);
            let said = format!("{:?}", reply.map(|reply| reply.stop));
            assert!(said.starts_with(expected), "{said}");
        }
    }

    #[test]
    fn a_reply_that_is_not_streamed() {
        let (reply, heard) = replay_chunks::<Reply>(&[json!({"type": "message",
            "content": [{"type": "text", "text": "hi"}], "stop_reason": "end_turn",
            "usage": {"input_tokens": 1, "output_tokens": 2}})]);
        assert_eq!((reply.unwrap().usage.total(), heard.as_str()), (3, "hi"));
    }
}
