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
use crate::wires::protocol::{self, Partial, Protocol, append, arguments, cut, identify};
use crate::wires::sse::Event;
use crate::wires::turns::{Turn, output, turns};

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
                "system": system, "messages": messages(request.messages)}),
        ])
    }
}

fn messages(messages: &[Message]) -> Value {
    let mut written = Vec::new();
    for turn in turns(messages, WIRE) {
        let (role, mut content): (_, Vec<Value>) = match turn {
            Turn::User { results, texts } => {
                let texts = texts.iter().map(|text| json!({"type": "text", "text": text}));
                ("user", results.into_iter().map(result).chain(texts).collect())
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

fn result(result: &CallResult) -> Value {
    let mut block =
        json!({"type": "tool_result", "tool_use_id": legal(&result.id), "content": output(result)});
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
        usage.input += usage.cache_read + usage.cache_write;
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
        let Usage { input, output, cache_read, cache_write } = &mut self.usage;
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
