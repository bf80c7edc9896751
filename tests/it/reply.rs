//! What a fake model server replies.
//!
//! Owns how a reply looks on either wire, as chunks that go out one by one. Knows no HTTP
//! server and no rules.

use std::sync::{Arc, Condvar, Mutex};

use serde_json::{Value, json};
use tokio::sync::watch;

use crate::BOUND;
use crate::rules::Wire;

/// One reply.
#[derive(Debug, Clone)]
pub struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Body,
}

#[derive(Debug, Clone)]
enum Body {
    Said { parts: Vec<Part>, usage: [u64; 4], stop: Option<&'static str> },
    Error { kind: String, message: String },
    Raw(Vec<Chunk>),
}

#[derive(Debug, Clone)]
enum Part {
    Thinking(String, String),
    Text(String),
    Call(String, Value),
    /// A call that breaks off in the middle of its arguments.
    Torn(String, String),
    Flow(Chunk),
}

/// A piece of a body. Each is flushed before the next.
#[derive(Debug, Clone)]
pub enum Chunk {
    Bytes(Vec<u8>),
    /// Nothing more until the test opens the gate.
    Wait(Gate),
    /// The connection breaks.
    Cut,
}

impl From<&str> for Chunk {
    fn from(text: &str) -> Self {
        Self::Bytes(text.as_bytes().to_vec())
    }
}

impl Reply {
    /// Nothing said yet: add to it.
    pub fn new() -> Self {
        let body = Body::Said { parts: Vec::new(), usage: [10, 5, 0, 0], stop: None };
        Self { status: 200, headers: Vec::new(), body }
    }

    /// A reply that only says this.
    pub fn text(text: &str) -> Self {
        Self::new().and(text)
    }

    /// Refused, in the words of the wire asked.
    pub fn error(status: u16, kind: &str, message: &str) -> Self {
        let body = Body::Error { kind: kind.to_owned(), message: message.to_owned() };
        Self { status, headers: Vec::new(), body }
    }

    /// Exactly this, whatever wire was asked. An event stream unless a header says otherwise.
    pub fn raw(status: u16, headers: &[(&str, &str)], chunks: Vec<Chunk>) -> Self {
        let headers = headers.iter().map(|(name, value)| ((*name).into(), (*value).into()));
        Self { status, headers: headers.collect(), body: Body::Raw(chunks) }
    }

    /// Says more; text that follows text continues it.
    pub fn and(self, text: &str) -> Self {
        self.part(Part::Text(text.to_owned()))
    }

    /// Calls a tool.
    pub fn call(self, name: &str, input: Value) -> Self {
        self.part(Part::Call(name.to_owned(), input))
    }

    /// Calls bash with this command.
    pub fn bash(self, command: &str) -> Self {
        self.call("bash", json!({"command": command}))
    }

    /// Thinks first.
    pub fn thinking(self, text: &str, signature: &str) -> Self {
        self.part(Part::Thinking(text.to_owned(), signature.to_owned()))
    }

    /// Stands still until the gate is opened.
    pub fn wait(self, gate: &Gate) -> Self {
        self.part(Part::Flow(Chunk::Wait(gate.clone())))
    }

    /// Breaks off here.
    pub fn cut(self) -> Self {
        self.part(Part::Flow(Chunk::Cut))
    }

    /// Breaks off within a call, of whose arguments only these arrive.
    pub fn torn(self, name: &str, arguments: &str) -> Self {
        self.part(Part::Torn(name.to_owned(), arguments.to_owned())).cut()
    }

    /// Counts tokens so: input that was not cached, output, cache read, cache written.
    pub fn usage(mut self, counted: [u64; 4]) -> Self {
        let Body::Said { usage, .. } = &mut self.body else { panic!("only what is said counts") };
        *usage = counted;
        self
    }

    /// Ends for this reason, in Anthropic's words.
    pub fn stop(mut self, reason: &'static str) -> Self {
        let Body::Said { stop, .. } = &mut self.body else { panic!("only what is said stops") };
        *stop = Some(reason);
        self
    }

    /// Comes with this header.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    fn part(mut self, part: Part) -> Self {
        let Body::Said { parts, .. } = &mut self.body else { panic!("nothing is said in it") };
        parts.push(part);
        self
    }

    /// How it goes over this wire. `ids` counts calls, so that each id is used once.
    pub fn render(self, wire: Wire, ids: &mut u64) -> Rendered {
        let Self { status, mut headers, body } = self;
        let mut thought = None;
        let (kind, chunks) = match body {
            Body::Raw(chunks) => ("text/event-stream", chunks),
            Body::Error { kind, message } => {
                let error = json!({"type": kind, "message": message, "code": null});
                let body = json!({"type": "error", "error": error});
                ("application/json", vec![Chunk::Bytes(body.to_string().into_bytes())])
            }
            Body::Said { parts, usage, stop } => {
                let mut stream = Stream::new(wire, ids);
                stream.begin(usage);
                for part in parts {
                    stream.part(part);
                }
                stream.end(usage, stop);
                if let Some(call) = stream.first_call.filter(|_| !stream.thoughts.is_empty()) {
                    thought = Some((call, stream.thoughts));
                }
                ("text/event-stream", stream.chunks)
            }
        };
        if !headers.iter().any(|(name, _)| name == "content-type") {
            headers.push(("content-type".to_owned(), kind.to_owned()));
        }
        Rendered { status, headers, chunks, thought }
    }
}

/// A reply as it goes out.
pub struct Rendered {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub chunks: Vec<Chunk>,
    /// The first call and the thinking before it, which has to come back.
    pub thought: Option<(String, Vec<Value>)>,
}

/// An event stream while it is put together.
struct Stream<'a> {
    wire: Wire,
    ids: &'a mut u64,
    chunks: Vec<Chunk>,
    /// On the Messages wire: the number of the block and whether it is one of text that
    /// may go on.
    block: (usize, bool),
    calls: usize,
    first_call: Option<String>,
    thoughts: Vec<Value>,
}

impl<'a> Stream<'a> {
    fn new(wire: Wire, ids: &'a mut u64) -> Self {
        let (chunks, thoughts) = (Vec::new(), Vec::new());
        Self { wire, ids, chunks, block: (0, false), calls: 0, first_call: None, thoughts }
    }

    fn begin(&mut self, [input, _, read, written]: [u64; 4]) {
        match self.wire {
            Wire::Anthropic => {
                let usage = json!({"input_tokens": input, "cache_read_input_tokens": read,
                    "cache_creation_input_tokens": written, "output_tokens": 1});
                self.event(&json!({"type": "message_start", "message": {"id": "msg_1",
                    "type": "message", "role": "assistant", "model": "test-model",
                    "content": [], "stop_reason": null, "usage": usage}}));
                self.event(&json!({"type": "ping"}));
            }
            Wire::OpenAi => self.delta(&json!({"role": "assistant", "content": ""})),
        }
    }

    fn part(&mut self, part: Part) {
        match part {
            Part::Flow(chunk) => self.chunks.push(chunk),
            Part::Text(text) => self.text(&text),
            Part::Thinking(text, signature) => self.thinking(&text, &signature),
            Part::Call(name, input) => self.call(&name, &input.to_string(), true),
            Part::Torn(name, arguments) => self.call(&name, &arguments, false),
        }
    }

    fn text(&mut self, text: &str) {
        if self.wire == Wire::Anthropic && !self.block.1 {
            self.start(&json!({"type": "text", "text": ""}));
            self.block.1 = true;
        }
        for piece in pieces(text) {
            match self.wire {
                Wire::Anthropic => self.block_delta(&json!({"type": "text_delta", "text": piece})),
                Wire::OpenAi => self.delta(&json!({"content": piece})),
            }
        }
    }

    fn thinking(&mut self, text: &str, signature: &str) {
        if self.wire == Wire::OpenAi {
            self.thoughts.push(json!({"reasoning_content": text}));
            pieces(text).for_each(|piece| self.delta(&json!({"reasoning_content": piece})));
            return;
        }
        self.start(&json!({"type": "thinking", "thinking": "", "signature": ""}));
        for piece in pieces(text) {
            self.block_delta(&json!({"type": "thinking_delta", "thinking": piece}));
        }
        self.block_delta(&json!({"type": "signature_delta", "signature": signature}));
        self.stop();
        let whole = json!({"type": "thinking", "thinking": text, "signature": signature});
        self.thoughts.push(whole);
    }

    fn call(&mut self, name: &str, arguments: &str, whole: bool) {
        *self.ids += 1;
        let id = match self.wire {
            Wire::Anthropic => format!("toolu_{}", self.ids),
            Wire::OpenAi => format!("call_{}", self.ids),
        };
        let index = self.calls;
        self.calls += 1;
        match self.wire {
            Wire::Anthropic => {
                self.start(&json!({"type": "tool_use", "id": id, "name": name, "input": {}}));
            }
            Wire::OpenAi => self.delta(&json!({"tool_calls": [{"index": index, "id": id,
                "type": "function", "function": {"name": name, "arguments": ""}}]})),
        }
        for piece in pieces(arguments) {
            match self.wire {
                Wire::Anthropic => {
                    self.block_delta(&json!({"type": "input_json_delta", "partial_json": piece}));
                }
                Wire::OpenAi => self.delta(
                    &json!({"tool_calls": [{"index": index, "function": {"arguments": piece}}]}),
                ),
            }
        }
        if whole && self.wire == Wire::Anthropic {
            self.stop();
        }
        self.first_call.get_or_insert(id);
    }

    fn end(&mut self, [input, output, read, written]: [u64; 4], stop: Option<&str>) {
        let stop = stop.unwrap_or(if self.calls > 0 { "tool_use" } else { "end_turn" });
        match self.wire {
            Wire::Anthropic => {
                self.close();
                self.event(&json!({"type": "message_delta", "delta": {"stop_reason": stop},
                    "usage": {"output_tokens": output}}));
                self.event(&json!({"type": "message_stop"}));
            }
            Wire::OpenAi => {
                let reason = match stop {
                    "tool_use" => "tool_calls",
                    "max_tokens" => "length",
                    "refusal" => "content_filter",
                    _ => "stop",
                };
                self.data(&json!({"id": "c1", "object": "chat.completion.chunk",
                    "choices": [{"index": 0, "delta": {}, "finish_reason": reason}]}));
                let all = input + read + written;
                self.data(&json!({"id": "c1", "object": "chat.completion.chunk", "choices": [],
                    "usage": {"prompt_tokens": all, "completion_tokens": output,
                        "total_tokens": all + output,
                        "prompt_tokens_details": {"cached_tokens": read}}}));
                self.chunks.push("data: [DONE]\n\n".into());
            }
        }
    }

    fn start(&mut self, block: &Value) {
        self.close();
        let index = self.block.0;
        self.event(&json!({"type": "content_block_start", "index": index, "content_block": block}));
    }

    fn block_delta(&mut self, delta: &Value) {
        let index = self.block.0;
        self.event(&json!({"type": "content_block_delta", "index": index, "delta": delta}));
    }

    /// End the block of text, if one is open.
    fn close(&mut self) {
        if self.block.1 {
            self.stop();
        }
    }

    fn stop(&mut self) {
        let index = self.block.0;
        self.event(&json!({"type": "content_block_stop", "index": index}));
        self.block = (index + 1, false);
    }

    fn event(&mut self, data: &Value) {
        let name = data["type"].as_str().unwrap_or_default();
        let text = format!("event: {name}\ndata: {data}\n\n");
        self.chunks.push(Chunk::Bytes(text.into_bytes()));
    }

    fn delta(&mut self, delta: &Value) {
        self.data(&json!({"id": "c1", "object": "chat.completion.chunk",
            "choices": [{"index": 0, "delta": delta, "finish_reason": null}]}));
    }

    fn data(&mut self, data: &Value) {
        self.chunks.push(Chunk::Bytes(format!("data: {data}\n\n").into_bytes()));
    }
}

/// A text in the small pieces in which models give it.
fn pieces(text: &str) -> impl Iterator<Item = String> {
    let characters: Vec<_> = text.chars().collect();
    let pieces: Vec<String> = characters.chunks(7).map(|piece| piece.iter().collect()).collect();
    pieces.into_iter()
}

/// Where a stream stands still until the test has done what it wants to do meanwhile.
#[derive(Debug, Clone)]
pub struct Gate(Arc<(watch::Sender<bool>, Mutex<bool>, Condvar)>);

impl Gate {
    /// A closed one.
    pub fn new() -> Self {
        Self(Arc::new((watch::Sender::new(false), Mutex::new(false), Condvar::new())))
    }

    /// Let everything pass from now on.
    pub fn open(&self) {
        self.0.0.send_replace(true);
    }

    /// Returns once a stream stands before it: all chunks until there are sent.
    pub fn reached(&self) {
        let (_, reached, told) = &*self.0;
        let reached = reached.lock().expect("no test panics with it");
        let waited = told.wait_timeout_while(reached, BOUND, |reached| !*reached);
        let timed_out = waited.expect("no test panics with it").1.timed_out();
        assert!(!timed_out, "no stream came to the gate");
    }

    /// For the stream.
    pub async fn pass(&self) {
        let (opened, reached, told) = &*self.0;
        *reached.lock().expect("no test panics with it") = true;
        told.notify_all();
        let mut opened = opened.subscribe();
        opened.wait_for(|open| *open).await.expect("the sender lives as long as the gate");
    }
}
