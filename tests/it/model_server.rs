//! A fake model server on loopback that speaks both wires.
//!
//! Tests queue its replies, or give a closure that makes them. It records every request
//! and holds it to `rules`: one that breaks a rule is refused as a provider would refuse
//! it, and fails the test at `check` or when the server is dropped. Unless a test says
//! otherwise one server serves one conversation, whose prefix has to stay as it was.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::BOUND;
use crate::listening::Listening;
use crate::reply::{Chunk, Rendered, Reply};
use crate::rules::{Headers, Memory, Wire, blocks};

/// A running server. Dropping it stops it and checks it.
pub struct Server {
    shared: Arc<Shared>,
    listening: Listening,
}

type Handler = Box<dyn Fn(&Asked) -> Reply + Send + Sync>;

struct Shared {
    state: Mutex<Inner>,
    arrived: Condvar,
    handler: Option<Handler>,
}

#[derive(Default)]
struct Inner {
    queue: VecDeque<Reply>,
    asked: Vec<Asked>,
    faults: Vec<String>,
    memory: Memory,
    ids: u64,
}

/// A request for a reply, as it arrived.
#[derive(Debug, Clone)]
pub struct Asked {
    pub wire: Wire,
    pub headers: Headers,
    pub body: Value,
    pub raw: Vec<u8>,
}

impl Asked {
    /// The conversation, alike for both wires: who says what. Calls are left out.
    pub fn said(&self) -> Vec<(String, String)> {
        let messages = self.body["messages"].as_array().into_iter().flatten();
        let texts = messages.flat_map(|message| {
            let role = message["role"].as_str().unwrap_or_default().to_owned();
            let texts = blocks(&message["content"]).into_iter();
            texts
                .filter_map(|block| Some(block["text"].as_str()?.to_owned()))
                .map(move |text| (role.clone(), text))
        });
        texts.filter(|(role, _)| role == "user" || role == "assistant").collect()
    }

    /// All that users say in it, and the notes of the harness among it.
    pub fn heard(&self) -> String {
        let said = self.said().into_iter();
        said.filter(|(role, _)| role == "user").map(|(_, text)| text + "\n").collect()
    }

    /// The bytes of all pictures in it, in order.
    pub fn pictures(&self) -> Vec<Vec<u8>> {
        let messages = self.body["messages"].as_array().into_iter().flatten();
        let blocks = messages.flat_map(|message| blocks(&message["content"]));
        let shown = blocks.flat_map(|block| match block["type"].as_str() {
            Some("tool_result") => self::blocks(&block["content"]),
            _ => vec![block],
        });
        let data = shown.filter_map(|block| match self.wire {
            Wire::Anthropic => block["source"]["data"].as_str().map(str::to_owned),
            Wire::OpenAi => {
                block["image_url"]["url"].as_str()?.split_once(',').map(|(_, data)| data.to_owned())
            }
        });
        data.map(|data| STANDARD.decode(data).expect("base64")).collect()
    }

    /// The results of all calls in it, in order.
    pub fn results(&self) -> Vec<String> {
        let messages = self.body["messages"].as_array().into_iter().flatten();
        let results = messages.flat_map(|message| match self.wire {
            Wire::OpenAi if message["role"] == "tool" => vec![message["content"].clone()],
            Wire::OpenAi => Vec::new(),
            Wire::Anthropic => blocks(&message["content"])
                .into_iter()
                .filter(|block| block["type"] == "tool_result")
                .map(|block| block["content"].clone())
                .collect(),
        });
        let texts = results.map(|content| {
            let texts = blocks(&content).into_iter();
            texts.filter_map(|block| Some(block["text"].as_str()?.to_owned())).collect::<String>()
        });
        texts.collect()
    }
}

impl Server {
    /// One that replies what is queued.
    pub fn start() -> Self {
        Self::begin(None)
    }

    /// One that replies what is queued, and then what this makes of a request.
    pub fn with(handler: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Self {
        Self::begin(Some(Box::new(handler)))
    }

    fn begin(handler: Option<Handler>) -> Self {
        let state = Mutex::new(Inner::default());
        let shared = Arc::new(Shared { state, arrived: Condvar::new(), handler });
        let app = Router::new().fallback(serve).with_state(Arc::clone(&shared));
        Self { shared, listening: Listening::start(app) }
    }

    /// Where it listens, without a path.
    pub fn url(&self) -> String {
        self.listening.url()
    }

    /// Reply this after what is queued already.
    pub fn queue(&self, reply: Reply) -> &Self {
        self.shared.lock().queue.push_back(reply);
        self
    }

    /// The next request may differ from the last in what went before.
    pub fn allow_prefix_change(&self) {
        self.shared.lock().memory.allow_prefix_change();
    }

    /// It serves several conversations, whose requests come in any order.
    pub fn serves_several(self) -> Self {
        self.shared.lock().memory.allow_prefix_changes();
        self
    }

    /// All requests so far, when there are exactly this many.
    pub fn asked(&self, count: usize) -> Vec<Asked> {
        let asked = self.shared.lock().asked.clone();
        assert_eq!(asked.len(), count, "requests: {}", shown(&asked));
        asked
    }

    /// Wait until this many requests arrived.
    pub fn wait(&self, count: usize) -> Vec<Asked> {
        let state = self.shared.lock();
        let waited =
            self.shared.arrived.wait_timeout_while(state, BOUND, |state| state.asked.len() < count);
        let (state, waited) = waited.expect("no test panics with it");
        let asked = state.asked.clone();
        drop(state);
        assert!(!waited.timed_out(), "{count} requests did not come, only: {}", shown(&asked));
        asked
    }

    /// Fails when a rule was broken.
    pub fn check(&self) {
        let faults = std::mem::take(&mut self.shared.lock().faults);
        assert!(faults.is_empty(), "requests broke rules:\n{}", faults.join("\n"));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.listening.end();
        if !std::thread::panicking() {
            self.check();
        }
    }
}

fn shown(asked: &[Asked]) -> String {
    let lines = asked.iter().map(|asked| format!("\n  {:?} {}", asked.wire, asked.body));
    lines.collect()
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.state.lock().expect("nothing panics with it")
    }

    /// Record a request and choose what to reply.
    fn reply(&self, asked: Asked) -> Rendered {
        let mut state = self.lock();
        let Inner { queue, faults, memory, ids, .. } = &mut *state;
        let broken = memory.broken(asked.wire, &asked.headers, &asked.body);
        let reply = match (broken.is_empty(), queue.pop_front(), &self.handler) {
            (false, ..) => {
                let message = broken.join("; ");
                faults.push(format!("{message}\n  in {:?} {}", asked.wire, asked.body));
                Reply::error(400, "invalid_request_error", &message)
            }
            (true, Some(reply), _) => reply,
            (true, None, Some(handler)) => handler(&asked),
            (true, None, None) => {
                faults.push(format!("no reply is queued for {:?} {}", asked.wire, asked.body));
                Reply::error(400, "invalid_request_error", "no reply is queued")
            }
        };
        let rendered = reply.render(asked.wire, ids);
        if let Some((call, blocks)) = rendered.thought.clone() {
            memory.thought(&call, blocks);
        }
        state.asked.push(asked);
        self.arrived.notify_all();
        rendered
    }
}

async fn serve(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let raw = to_bytes(body, usize::MAX).await.unwrap_or_default().to_vec();
    let (method, path) = (head.method.as_str().to_owned(), head.uri.path().to_owned());
    let wire = match (method.as_str(), path.as_str()) {
        ("POST", "/v1/messages") => Wire::Anthropic,
        ("POST", "/v1/chat/completions") => Wire::OpenAi,
        ("GET", "/v1/models") => {
            let keys = ["x-api-key", "authorization"];
            let known = keys.iter().any(|name| head.headers.contains_key(*name));
            return if known { models() } else { refused(401, "no key") };
        }
        // Only llama.cpp has it; whoever asks must do without.
        ("GET", "/props") => return refused(404, "nothing is at /props"),
        _ => {
            shared.lock().faults.push(format!("nothing is at {method} {path}"));
            return refused(404, &format!("nothing is at {method} {path}"));
        }
    };
    let headers = head.headers.iter().map(|(name, value)| {
        (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned())
    });
    let headers = headers.collect();
    let Ok(body) = serde_json::from_slice(&raw) else {
        shared.lock().faults.push(format!("not JSON: {}", String::from_utf8_lossy(&raw)));
        return refused(400, "not JSON");
    };
    respond(shared.reply(Asked { wire, headers, body, raw }))
}

fn models() -> Response {
    let model = json!({"id": "test-model", "object": "model", "type": "model"});
    Response::new(Body::from(json!({"object": "list", "data": [model]}).to_string()))
}

fn refused(status: u16, message: &str) -> Response {
    respond(Reply::error(status, "invalid_request_error", message).render(Wire::OpenAi, &mut 0))
}

fn respond(rendered: Rendered) -> Response {
    let chunks = rendered.chunks.into_iter();
    let stream = futures_util::stream::unfold(chunks, |mut chunks| async {
        loop {
            // The server writes out what it has whenever a body is not ready.
            tokio::task::yield_now().await;
            match chunks.next()? {
                Chunk::Bytes(bytes) => return Some((Ok(Bytes::from(bytes)), chunks)),
                Chunk::Wait(gate) => gate.pass().await,
                Chunk::Cut => return Some((Err(std::io::Error::other("cut")), chunks)),
            }
        }
    });
    let mut response = Response::builder().status(rendered.status);
    for (name, value) in rendered.headers {
        response = response.header(name, value);
    }
    response.body(Body::from_stream(stream)).expect("a test's own status and headers")
}

mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;

    use super::*;
    use crate::reply::Gate;

    /// An open connection on which `body` was posted.
    fn post(server: &Server, path: &str, body: &Value) -> TcpStream {
        let mut stream = TcpStream::connect(server.listening.address).expect("the server listens");
        let body = body.to_string();
        write!(
            stream,
            "POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx-api-key: k\r\n\
             authorization: Bearer k\r\nanthropic-version: 1\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
        .expect("the server reads");
        stream
    }

    fn rest(mut stream: TcpStream) -> String {
        let mut text = Vec::new();
        let _ = stream.read_to_end(&mut text);
        String::from_utf8_lossy(&text).into_owned()
    }

    fn hello(wire: Wire) -> (&'static str, Value) {
        let messages = json!([{"role": "user", "content": "hi"}]);
        match wire {
            Wire::Anthropic => {
                let body = json!({"model": "m", "max_tokens": 9, "messages": messages});
                ("/v1/messages", body)
            }
            Wire::OpenAi => {
                let body = json!({"model": "m", "stream": true, "messages": messages});
                ("/v1/chat/completions", body)
            }
        }
    }

    #[test]
    fn one_reply_is_said_on_either_wire() {
        let server = Server::start();
        let reply = Reply::new().thinking("hmm", "sig").and("Hello!").bash("ls");
        server.queue(reply.clone()).queue(reply.usage([3, 4, 5, 6]).stop("max_tokens"));
        let (path, body) = hello(Wire::Anthropic);
        let said = rest(post(&server, path, &body));
        for part in [
            "200 OK",
            r#""delta":{"type":"thinking_delta","thinking":"hmm"}"#,
            r#""delta":{"type":"signature_delta","signature":"sig"}"#,
            r#""delta":{"type":"text_delta","text":"Hello!"}"#,
            r#""index":2,"content_block":{"type":"tool_use","id":"toolu_1","name":"bash""#,
            r#""delta":{"type":"input_json_delta","partial_json":"{\"comma"}"#,
            r#""stop_reason":"tool_use""#,
            "event: message_stop\n",
        ] {
            assert!(said.contains(part), "no {part} in {said}");
        }
        let (path, body) = hello(Wire::OpenAi);
        let said = rest(post(&server, path, &body));
        for part in [
            r#""delta":{"reasoning_content":"hmm"}"#,
            r#""delta":{"content":"Hello!"}"#,
            r#""id":"call_2","type":"function","function":{"name":"bash""#,
            r#""function":{"arguments":"{\"comma"}"#,
            r#""finish_reason":"length""#,
            r#""prompt_tokens":14,"completion_tokens":4"#,
            "data: [DONE]\n",
        ] {
            assert!(said.contains(part), "no {part} in {said}");
        }
        assert_eq!(server.asked(2)[1].said(), [("user".to_owned(), "hi".to_owned())]);
    }

    #[test]
    fn a_stream_stands_still_at_a_gate_and_can_break() {
        let server = Server::start();
        let gate = Gate::new();
        let headers = [("x-test", "1")];
        let chunks = vec!["one ".into(), Chunk::Wait(gate.clone()), "two".into(), Chunk::Cut];
        server.queue(Reply::raw(200, &headers, chunks));
        let (path, body) = hello(Wire::OpenAi);
        let mut stream = post(&server, path, &body);
        let mut seen = Vec::new();
        while !seen.ends_with(b"one \r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).expect("what comes before the gate arrives");
            seen.push(byte[0]);
        }
        gate.reached();
        gate.open();
        let end = rest(stream);
        assert!(end.contains("two"), "{end}");
        assert!(!end.ends_with("0\r\n\r\n"), "the body ended as if it were whole: {end}");
    }

    #[test]
    fn a_closure_replies_to_what_it_is_asked() {
        let server = Server::with(|asked| Reply::text(&format!("{:?}", asked.wire)));
        for wire in Wire::BOTH {
            let (path, body) = hello(wire);
            let said = rest(post(&server, path, &body));
            assert!(said.contains(&format!("{wire:?}")[..6]), "{said}");
        }
        assert_eq!(server.wait(2).len(), 2);
    }

    #[test]
    #[should_panic(expected = "max_tokens is missing")]
    fn a_broken_rule_is_refused_and_fails_the_test() {
        let server = Server::start();
        let said = rest(post(&server, "/v1/messages", &hello(Wire::OpenAi).1));
        assert!(
            said.contains("400 Bad Request") && said.contains("max_tokens is missing"),
            "{said}"
        );
        drop(server);
    }

    #[test]
    #[should_panic(expected = "no reply is queued")]
    fn a_request_too_many_fails_the_test() {
        let server = Server::start();
        let (path, body) = hello(Wire::Anthropic);
        assert!(rest(post(&server, path, &body)).contains("400 Bad Request"));
        server.check();
    }
}
