//! A fake of Telegram's Bot API on loopback, strict where the real one is: an update stays
//! until a higher offset confirms it, a poll waits, of two polls the older one is ended,
//! and what is sent has to fit. It records every call, and refuses what a test tells it to.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::response::Response;
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::BOUND;
use crate::listening::Listening;

/// The only token it takes.
pub const TOKEN: &str = "123456789:fake_token-of_no_bot-at_all";
/// The bot's name.
pub const BOT: &str = "fledgling_bot";

/// A running server. Dropping it stops it.
pub struct Telegram {
    shared: Arc<Shared>,
    listening: Listening,
}

struct Shared {
    state: Mutex<Inner>,
    /// Wakes tests.
    happened: Condvar,
    /// Wakes polls.
    changed: Notify,
}

#[derive(Default)]
struct Inner {
    /// Those that no offset confirmed yet.
    updates: VecDeque<Value>,
    chats: BTreeSet<i64>,
    /// Messages so far, of either side; also the number of the newest.
    messages: i64,
    /// Polls so far: one whose number is no longer this was overtaken.
    polls: u64,
    polling: bool,
    refusals: VecDeque<(String, Refusal)>,
    calls: Vec<Call>,
    /// Files of people, by the path under which they are fetched.
    files: BTreeMap<String, Vec<u8>>,
}

/// A call, as it arrived and as it was answered.
#[derive(Debug, Clone)]
pub struct Call {
    pub method: String,
    pub body: Value,
    /// 0 as long as it was not.
    pub status: u16,
}

/// How a call fails.
#[derive(Debug, Clone)]
pub enum Refusal {
    /// With a status, a description and `parameters`.
    Said(u16, &'static str, Value),
    /// It is never answered.
    Silence,
}

impl Telegram {
    pub fn start() -> Self {
        let state = Mutex::new(Inner::default());
        let shared = Arc::new(Shared { state, happened: Condvar::new(), changed: Notify::new() });
        let app = Router::new().fallback(serve).with_state(Arc::clone(&shared));
        Self { shared, listening: Listening::start(app) }
    }

    /// Where it listens: what stands in the place of `https://api.telegram.org`.
    pub fn url(&self) -> String {
        self.listening.url()
    }

    /// Somebody writes to the bot, in the chat of the same number; the number of the update.
    pub fn write(&self, who: i64, text: &str) -> i64 {
        let from = json!({"id": who, "is_bot": false, "first_name": "Ann"});
        let chat = json!({"id": who, "type": "private", "first_name": "Ann"});
        self.push("message", json!({"from": from, "chat": chat, "text": text}))
    }

    /// An update of any kind; it gets its numbers here. The number of the update.
    pub fn push(&self, kind: &str, mut message: Value) -> i64 {
        let mut state = self.shared.lock();
        state.messages += 1;
        let id = 1_000 + state.messages;
        message["message_id"] = state.messages.into();
        state.chats.extend(message["chat"]["id"].as_i64());
        state.updates.push_back(json!({"update_id": id, kind: message}));
        drop(state);
        self.shared.changed.notify_waiters();
        id
    }

    /// A file that somebody attaches: what stands for it in a message.
    pub fn file(&self, path: &str, bytes: &[u8]) -> Value {
        self.shared.lock().files.insert(path.to_owned(), bytes.to_vec());
        json!({"file_id": path, "file_size": bytes.len()})
    }

    /// The next call of a method that is not refused for another reason fails like this.
    pub fn refuse(&self, method: &str, refusal: Refusal) -> &Self {
        self.shared.lock().refusals.push_back((method.to_owned(), refusal));
        self
    }

    /// The numbers of the updates that are not confirmed yet.
    pub fn unconfirmed(&self) -> Vec<i64> {
        self.shared.lock().updates.iter().map(number).collect()
    }

    /// Wait until an update is confirmed, and all before it.
    pub fn confirmed(&self, id: i64) {
        let past = |state: &Inner| state.updates.iter().all(|update| number(update) > id);
        drop(self.wait("a confirmation", past));
    }

    /// Wait until this many calls of a method were answered; all of them.
    pub fn calls(&self, method: &str, count: usize) -> Vec<Call> {
        let of = |state: &Inner| {
            let calls = state.calls.iter();
            let calls = calls.filter(|call| call.method == method && call.status != 0);
            calls.cloned().collect::<Vec<_>>()
        };
        of(&self.wait(method, |state| of(state).len() >= count))
    }

    /// Wait until this many messages were taken; all of them.
    pub fn sent(&self, count: usize) -> Vec<Value> {
        let of = |state: &Inner| {
            let calls = state.calls.iter();
            let calls = calls.filter(|call| call.method == "sendMessage" && call.status == 200);
            calls.map(|call| call.body.clone()).collect::<Vec<_>>()
        };
        of(&self.wait("sent messages", |state| of(state).len() >= count))
    }

    /// Wait until somebody polls and this poll has nothing to return.
    pub fn polled(&self) {
        drop(self.wait("a poll", |state| state.polling));
    }

    fn wait(&self, what: &str, until: impl Fn(&Inner) -> bool) -> MutexGuard<'_, Inner> {
        let state = self.shared.lock();
        let waited = self.shared.happened.wait_timeout_while(state, BOUND, |state| !until(state));
        let (state, waited) = waited.expect("no test panics with it");
        let calls = format!("{:?}", state.calls);
        if waited.timed_out() {
            drop(state);
            panic!("waited for {what} in vain; calls: {calls}");
        }
        state
    }
}

fn number(update: &Value) -> i64 {
    update["update_id"].as_i64().unwrap_or_default()
}

/// A poll that goes on. It also ends when whoever asked is gone.
struct Polling<'a>(&'a Shared, u64);

impl Drop for Polling<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.polling &= state.polls != self.1;
    }
}

/// What is answered: a result, or why not.
type Answer = Result<Value, (u16, String, Value)>;

fn bad(description: &str) -> Answer {
    Err((400, format!("Bad Request: {description}"), Value::Null))
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.state.lock().expect("nothing panics with it")
    }

    /// A poll: at once when there is something, when something comes, or when time is up.
    async fn updates(&self, asked: &Value) -> Answer {
        let whole = |name: &str, default| asked[name].as_i64().unwrap_or(default);
        let (offset, limit) = (whole("offset", 0), whole("limit", 100));
        let allowed = asked["allowed_updates"].as_array().cloned().unwrap_or_default();
        if offset < 0 || !(1..=100).contains(&limit) {
            return bad("this fake knows neither negative offsets nor such limits");
        }
        let mine = {
            let mut state = self.lock();
            state.polls += 1;
            state.updates.retain(|update| number(update) >= offset);
            let wanted = |update: &Value| {
                allowed.iter().any(|kind| update.get(kind.as_str().unwrap_or("")).is_some())
            };
            state.updates.retain(|update| allowed.is_empty() || wanted(update));
            state.polls
        };
        self.changed.notify_waiters();
        self.happened.notify_all();
        let _ended = Polling(self, mine);
        let end = tokio::time::sleep(Duration::from_secs(asked["timeout"].as_u64().unwrap_or(0)));
        tokio::pin!(end);
        let mut late = false;
        loop {
            let changed = self.changed.notified();
            {
                let mut state = self.lock();
                if state.polls != mine {
                    let why = "Conflict: terminated by other getUpdates request; make sure that only one bot instance is running";
                    return Err((409, why.to_owned(), Value::Null));
                }
                let found: Vec<_> = state.updates.iter().take(limit as usize).cloned().collect();
                state.polling = found.is_empty() && !late;
                self.happened.notify_all();
                if !state.polling {
                    return Ok(found.into());
                }
            }
            tokio::select! {
                () = changed => {}
                () = &mut end => late = true,
            }
        }
    }

    fn send(&self, asked: &Value) -> Answer {
        let mut state = self.lock();
        let Some(chat) = chat(&state, asked) else { return bad("chat not found") };
        let text = asked["text"].as_str().unwrap_or_default();
        if text.trim().is_empty() {
            return bad("message text is empty");
        }
        if text.encode_utf16().count() > 4096 {
            return bad("message is too long");
        }
        let reply = &asked["reply_parameters"];
        let found =
            reply["message_id"].as_i64().is_some_and(|id| (1..=state.messages).contains(&id));
        if !reply.is_null() && !found && reply["allow_sending_without_reply"] != true {
            return bad("message to be replied not found");
        }
        state.messages += 1;
        Ok(json!({"message_id": state.messages, "chat": {"id": chat}, "text": text}))
    }

    async fn answer(&self, method: &str, asked: &Value) -> Answer {
        let refusal = {
            let mut state = self.lock();
            let found = state.refusals.iter().position(|(refused, _)| refused == method);
            found.and_then(|at| state.refusals.remove(at))
        };
        match refusal {
            Some((_, Refusal::Silence)) => std::future::pending().await,
            Some((_, Refusal::Said(status, description, parameters))) => {
                return Err((status, description.to_owned(), parameters));
            }
            None => {}
        }
        match method {
            "getMe" => Ok(json!({"id": 123_456_789, "is_bot": true, "username": BOT})),
            "getUpdates" => self.updates(asked).await,
            "sendMessage" => self.send(asked),
            "sendPhoto" | "sendDocument" if chat(&self.lock(), asked).is_none() => {
                bad("chat not found")
            }
            "sendPhoto" | "sendDocument" => {
                let field = if method == "sendPhoto" { "photo" } else { "document" };
                let whole = asked[field]["bytes"].as_array().is_some_and(|all| !all.is_empty());
                if whole { Ok(json!({"message_id": 1})) } else { bad("file must be non-empty") }
            }
            "getFile" => match asked["file_id"].as_str() {
                Some(path) if self.lock().files.contains_key(path) => {
                    Ok(json!({"file_path": path}))
                }
                _ => bad("invalid file_id"),
            },
            "sendChatAction" if chat(&self.lock(), asked).is_none() => bad("chat not found"),
            "sendChatAction" => Ok(true.into()),
            _ => Err((404, "Not Found".to_owned(), Value::Null)),
        }
    }
}

/// The chat that a call is about, if there is one. Its number may come as text.
fn chat(state: &Inner, asked: &Value) -> Option<i64> {
    let id = &asked["chat_id"];
    let id = id.as_i64().or_else(|| id.as_str()?.parse().ok())?;
    state.chats.contains(&id).then_some(id)
}

async fn serve(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let raw = to_bytes(body, usize::MAX).await.unwrap_or_default();
    if let Some(path) = head.uri.path().strip_prefix(&format!("/file/bot{TOKEN}/")) {
        let found = shared.lock().files.get(path).cloned();
        let status = if found.is_some() { 200 } else { 404 };
        let response = Response::builder().status(status);
        return response.body(Body::from(found.unwrap_or_default())).expect("a status");
    }
    let Some(method) = head.uri.path().strip_prefix(&format!("/bot{TOKEN}/")).map(str::to_owned)
    else {
        return respond(Err((401, "Unauthorized".to_owned(), Value::Null)));
    };
    let kind = head.headers.get("content-type").and_then(|kind| kind.to_str().ok());
    let body = match kind.and_then(|kind| kind.strip_prefix("multipart/form-data; boundary=")) {
        Some(line) => form(&raw, line),
        None => serde_json::from_slice(&raw).unwrap_or(Value::Null),
    };
    let at = {
        let mut state = shared.lock();
        state.calls.push(Call { method: method.clone(), body: body.clone(), status: 0 });
        state.calls.len() - 1
    };
    let answer = shared.answer(&method, &body).await;
    shared.lock().calls[at].status = answer.as_ref().map_or_else(|(status, ..)| *status, |_| 200);
    shared.happened.notify_all();
    respond(answer)
}

/// The fields of a form: texts, and files with their names.
fn form(raw: &[u8], line: &str) -> Value {
    let position = |text: &[u8], part: &[u8]| text.windows(part.len()).position(|at| at == part);
    let (mut fields, mut rest) = (json!({}), raw);
    let line = format!("--{line}");
    while let Some(at) = position(rest, line.as_bytes()) {
        rest = &rest[at + line.len()..];
        let end = position(rest, format!("\r\n{line}").as_bytes());
        let (Some(head), Some(end)) = (position(rest, b"\r\n\r\n"), end) else { break };
        let (names, content) = (String::from_utf8_lossy(&rest[..head]), &rest[head + 4..end]);
        let quoted: Vec<_> = names.split('"').collect();
        fields[quoted[1]] = match quoted.get(3) {
            Some(name) => json!({"name": name, "bytes": content}),
            None => String::from_utf8_lossy(content).into_owned().into(),
        };
    }
    fields
}

fn respond(answer: Answer) -> Response {
    let (status, body) = match answer {
        Ok(result) => (200, json!({"ok": true, "result": result})),
        Err((status, description, parameters)) => {
            let mut body = json!({"ok": false, "error_code": status, "description": description});
            if !parameters.is_null() {
                body["parameters"] = parameters;
            }
            (status, body)
        }
    };
    let response = Response::builder().status(status).header("content-type", "application/json");
    response.body(Body::from(body.to_string())).expect("a status")
}

mod tests {
    use super::*;
    use crate::bridges::http;

    /// What a call is answered: a status, and the result or the description.
    fn call(server: &Telegram, method: &str, asked: &Value) -> (u16, Value) {
        let path = format!("/bot{TOKEN}/{method}");
        let (status, mut answer) =
            http(server.listening.address, "POST", &path, &[], &asked.to_string());
        let key = if answer["ok"] == true { "result" } else { "description" };
        (status, answer[key].take())
    }

    fn numbers(updates: &Value) -> Vec<i64> {
        updates.as_array().expect("updates").iter().map(number).collect()
    }

    #[test]
    fn updates_stay_until_a_higher_offset_confirms_them() {
        let server = Telegram::start();
        let ids = ["a", "b", "c"].map(|text| server.write(42, text));
        for _ in 0..2 {
            let (status, updates) = call(&server, "getUpdates", &json!({"offset": 0}));
            assert_eq!((status, numbers(&updates)), (200, ids.to_vec()));
        }
        let (_, updates) = call(&server, "getUpdates", &json!({"offset": ids[1], "limit": 1}));
        assert_eq!(numbers(&updates), [ids[1]]);
        assert_eq!(updates[0]["message"]["text"], "b");
        assert_eq!(server.unconfirmed(), ids[1..]);
        let (_, updates) = call(&server, "getUpdates", &json!({"offset": ids[2] + 1}));
        assert_eq!(updates, json!([]));
        server.confirmed(ids[2]);
        // What is not asked for is not given later, either.
        server.push("edited_message", json!({"chat": {"id": 42}}));
        call(&server, "getUpdates", &json!({"allowed_updates": ["message"]}));
        assert_eq!(server.unconfirmed(), [0; 0]);
    }

    #[test]
    fn a_poll_waits_and_the_older_of_two_is_ended() {
        let server = Telegram::start();
        let (first, second) = std::thread::scope(|scope| {
            let first = scope.spawn(|| call(&server, "getUpdates", &json!({"timeout": 600})));
            server.polled();
            let second = scope.spawn(|| call(&server, "getUpdates", &json!({"timeout": 600})));
            let first = first.join().expect("an answer");
            server.polled();
            server.write(42, "hi");
            (first, second.join().expect("an answer"))
        });
        assert_eq!(first.0, 409);
        assert!(first.1.as_str().is_some_and(|said| said.starts_with("Conflict: ")), "{first:?}");
        assert_eq!((second.0, numbers(&second.1)), (200, vec![1_001]));
        let waited = call(&server, "getUpdates", &json!({"timeout": 1, "offset": 1_002}));
        assert_eq!(waited, (200, json!([])));
    }

    #[test]
    fn what_is_sent_has_to_fit_and_to_go_somewhere() {
        let server = Telegram::start();
        server.write(42, "hi");
        let send =
            |text: &str| call(&server, "sendMessage", &json!({"chat_id": "42", "text": text}));
        assert_eq!(send(&"x".repeat(4096)).0, 200);
        let long = (400, json!("Bad Request: message is too long"));
        assert_eq!(send(&"x".repeat(4097)), long);
        // Those of two UTF-16 units count twice.
        assert_eq!(send(&"🐤".repeat(2049)), long);
        assert_eq!(send(" ").1, "Bad Request: message text is empty");
        let elsewhere = json!({"chat_id": 43, "text": "x", "action": "typing"});
        for method in ["sendMessage", "sendChatAction"] {
            let told = call(&server, method, &elsewhere);
            assert_eq!(told, (400, json!("Bad Request: chat not found")));
        }
        let mut reply = json!({"chat_id": 42, "text": "x", "reply_parameters": {"message_id": 99}});
        let told = call(&server, "sendMessage", &reply);
        assert_eq!(told.1, "Bad Request: message to be replied not found");
        reply["reply_parameters"]["allow_sending_without_reply"] = true.into();
        assert_eq!(call(&server, "sendMessage", &reply).0, 200);
        assert_eq!(server.sent(2)[1], reply);
        assert_eq!(server.calls("sendMessage", 7).len(), 7);
    }

    #[test]
    fn it_refuses_strangers_and_what_a_test_says() {
        let server = Telegram::start();
        let (status, told) = http(server.listening.address, "POST", "/bot1:wrong/getMe", &[], "{}");
        assert_eq!((status, &told["description"]), (401, &json!("Unauthorized")));
        assert_eq!(call(&server, "getMe", &Value::Null).1["username"], BOT);
        assert_eq!(call(&server, "getMee", &Value::Null).0, 404);
        server.refuse("getMe", Refusal::Said(429, "Too Many Requests", json!({"retry_after": 7})));
        let path = format!("/bot{TOKEN}/getMe");
        let (status, told) = http(server.listening.address, "POST", &path, &[], "{}");
        assert_eq!((status, &told["parameters"]["retry_after"]), (429, &json!(7)));
        assert_eq!(call(&server, "getMe", &Value::Null).0, 200);
    }
}
