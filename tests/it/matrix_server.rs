//! A fake of a Matrix homeserver on loopback, as far as a bot of one account asks it: strict
//! about the token, about what an event may weigh and about who is in a room; the same
//! transaction is the same event; an answer to `/sync` has no more than the filter allows.
//! It records every call, and refuses what a test tells it to.

use std::collections::{BTreeMap, VecDeque};
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

/// The only token it takes, and whose it is.
pub const TOKEN: &str = "syt_bird_of-no-homeserver_at-all";
pub const BIRD: &str = "@bird:home.test";
/// Bytes of an event.
const EVENT: usize = 65_536;

/// A running server. Dropping it stops it.
pub struct Matrix {
    shared: Arc<Shared>,
    listening: Listening,
}

struct Shared {
    state: Mutex<Inner>,
    happened: Condvar,
    changed: Notify,
}

#[derive(Default)]
struct Inner {
    /// All that happened, with the room: a place in it is a `since`.
    stream: Vec<(String, Value)>,
    /// Who is in each room, and how.
    rooms: BTreeMap<String, BTreeMap<String, &'static str>>,
    encrypted: Vec<String>,
    transactions: BTreeMap<String, String>,
    media: BTreeMap<String, Vec<u8>>,
    refusals: VecDeque<(String, u16, Value)>,
    calls: Vec<Call>,
}

/// A call that was answered.
#[derive(Debug, Clone)]
pub struct Call {
    /// Method and path.
    pub what: String,
    pub body: Value,
}

impl Matrix {
    pub fn start() -> Self {
        let state = Mutex::new(Inner::default());
        let shared = Arc::new(Shared { state, happened: Condvar::new(), changed: Notify::new() });
        let app = Router::new().fallback(serve).with_state(Arc::clone(&shared));
        Self { shared, listening: Listening::start(app) }
    }

    pub fn url(&self) -> String {
        self.listening.url()
    }

    /// Somebody makes a room with others in it, and invites the bird.
    pub fn invite(&self, room: &str, who: &str, others: &[&str], direct: bool) {
        let mut state = self.shared.lock();
        for member in others.iter().chain(&[who]) {
            state.member(room, who, member, "join", json!({"displayname": member[1..4]}));
        }
        state.member(room, who, BIRD, "invite", json!({"is_direct": direct}));
        drop(state);
        self.shared.changed.notify_waiters();
    }

    /// Somebody says this in a room; the number of the event.
    pub fn say(&self, room: &str, who: &str, content: &Value) -> String {
        self.event(room, who, "m.room.message", content)
    }

    pub fn write(&self, room: &str, who: &str, text: &str) -> String {
        self.say(room, who, &json!({"msgtype": "m.text", "body": text}))
    }

    pub fn event(&self, room: &str, who: &str, kind: &str, content: &Value) -> String {
        let id = self.shared.lock().add(room, who, kind, content);
        self.shared.changed.notify_waiters();
        id
    }

    /// From now on a room is encrypted.
    pub fn encrypt(&self, room: &str) {
        self.shared.lock().encrypted.push(room.to_owned());
        self.event(room, "@ann:home.test", "m.room.encryption", &json!({"algorithm": "x"}));
    }

    /// A file is there to be fetched; its address.
    pub fn file(&self, name: &str, data: &[u8]) -> String {
        self.shared.lock().media.insert(format!("home.test/{name}"), data.to_owned());
        format!("mxc://home.test/{name}")
    }

    /// A file that was put there.
    pub fn fetched(&self, address: &str) -> Vec<u8> {
        self.shared.lock().media[address.trim_start_matches("mxc://")].clone()
    }

    /// The next call in whose path this stands fails like this.
    pub fn refuse(&self, path: &str, status: u16, body: Value) {
        self.shared.lock().refusals.push_back((path.to_owned(), status, body));
    }

    /// Wait until so many calls with this in their path were answered; all of them.
    pub fn calls(&self, path: &str, count: usize) -> Vec<Call> {
        let of = |state: &Inner| {
            let calls = state.calls.iter().filter(|call| call.what.contains(path));
            calls.cloned().collect::<Vec<_>>()
        };
        of(&self.wait(path, |state| of(state).len() >= count))
    }

    /// Wait until the bird said so much in a room; all of it.
    pub fn told(&self, room: &str, count: usize) -> Vec<Value> {
        let of = |state: &Inner| {
            let said = state.stream.iter().filter(|(of, event)| {
                of == room && event["sender"] == BIRD && event["type"] == "m.room.message"
            });
            said.map(|(_, event)| event["content"].clone()).collect::<Vec<_>>()
        };
        of(&self.wait("words of the bird", |state| of(state).len() >= count))
    }

    /// Wait until the bird is in a room.
    pub fn joined(&self, room: &str) {
        drop(self.wait("the bird", |state| state.rooms[room][BIRD] == "join"));
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

impl Inner {
    fn add(&mut self, room: &str, who: &str, kind: &str, content: &Value) -> String {
        let id = format!("$event{}", self.stream.len());
        let event = json!({"event_id": id, "sender": who, "type": kind, "content": content});
        self.stream.push((room.to_owned(), event));
        id
    }

    fn member(&mut self, room: &str, by: &str, who: &str, membership: &'static str, more: Value) {
        self.rooms.entry(room.to_owned()).or_default().insert(who.to_owned(), membership);
        let mut content = more;
        content["membership"] = membership.into();
        self.add(room, by, "m.room.member", &content);
        self.stream.last_mut().expect("it was added").1["state_key"] = who.into();
    }

    /// What happened since, if anything did.
    fn news(&self, since: usize, limit: usize) -> Value {
        let (mut joined, mut invited) = (json!({}), json!({}));
        for (room, members) in &self.rooms {
            let of_room = self.stream.iter().enumerate().filter(|(_, (of, _))| of == room);
            let mut all: Vec<_> = of_room.map(|(at, (_, event))| (at, event.clone())).collect();
            // Who joins is shown what was said before.
            let own = |(at, event): &(usize, Value)| *at >= since && event["sender"] == BIRD;
            let joins = |one: &(usize, Value)| own(one) && one.1["type"] == "m.room.member";
            if !all.iter().any(joins) {
                all.retain(|(at, _)| *at >= since);
            }
            match members.get(BIRD) {
                Some(&"invite") if !all.is_empty() => {
                    let events: Vec<_> = all.into_iter().map(|(_, event)| event).collect();
                    invited[room] = json!({"invite_state": {"events": events}});
                }
                Some(&"join") if !all.is_empty() => {
                    let (first, some) = all.split_at(all.len().saturating_sub(limit));
                    let events: Vec<_> = some.iter().map(|(_, event)| event).collect();
                    let back = format!("p{}", some[0].0);
                    joined[room] = json!({"timeline": {"events": events,
                        "limited": !first.is_empty(), "prev_batch": back}});
                }
                _ => {}
            }
        }
        json!({"next_batch": format!("s{}", self.stream.len()),
            "rooms": {"join": joined, "invite": invited}})
    }

    /// What happened in a room before a place, backwards, in pages of 20.
    fn before(&self, room: &str, from: &str, to: &str) -> Value {
        let place = |token: &str| token[1..].parse::<usize>().unwrap_or_default();
        let range = place(to)..place(from);
        let found = range.rev().filter(|at| self.stream[*at].0 == room).take(20);
        let found: Vec<_> = found.collect();
        let chunk: Vec<_> = found.iter().map(|at| &self.stream[*at].1).collect();
        match found.last() {
            Some(last) => json!({"chunk": chunk, "end": format!("p{last}")}),
            None => json!({"chunk": chunk}),
        }
    }
}

type Answer = Result<Value, (u16, Value)>;

fn no(status: u16, code: &str) -> Answer {
    Err((status, json!({"errcode": code, "error": "no"})))
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.state.lock().expect("nothing panics with it")
    }

    async fn sync(&self, asked: &BTreeMap<String, String>) -> Answer {
        let since = asked.get("since").map_or(Some(0), |since| since[1..].parse().ok());
        let Some(since) = since else { return no(400, "M_UNKNOWN") };
        let filter: Value = asked
            .get("filter")
            .map_or(Value::Null, |filter| serde_json::from_str(filter).expect("a filter in JSON"));
        let limit = filter["room"]["timeline"]["limit"].as_u64().unwrap_or(10);
        let wait = asked["timeout"].parse().expect("milliseconds");
        let end = tokio::time::sleep(Duration::from_millis(wait));
        tokio::pin!(end);
        loop {
            let changed = self.changed.notified();
            {
                let state = self.lock();
                if state.stream.len() > since || wait == 0 {
                    return Ok(state.news(since, limit as usize));
                }
            }
            tokio::select! {
                () = changed => {}
                () = &mut end => return Ok(self.lock().news(since, limit as usize)),
            }
        }
    }

    fn send(&self, room: &str, transaction: &str, content: &Value) -> Answer {
        let mut state = self.lock();
        if state.rooms.get(room).and_then(|room| room.get(BIRD)) != Some(&"join") {
            return no(403, "M_FORBIDDEN");
        }
        if content.to_string().len() > EVENT {
            return no(413, "M_TOO_LARGE");
        }
        let key = format!("{room}/{transaction}");
        if let Some(id) = state.transactions.get(&key) {
            return Ok(json!({"event_id": id}));
        }
        let id = state.add(room, BIRD, "m.room.message", content);
        state.transactions.insert(key, id.clone());
        Ok(json!({"event_id": id}))
    }

    async fn answer(
        &self,
        what: &str,
        asked: &BTreeMap<String, String>,
        body: &Value,
        raw: &[u8],
    ) -> Answer {
        let words: Vec<_> = what.split(['/', ' ']).collect();
        match words.as_slice() {
            ["GET", .., "account", "whoami"] => Ok(json!({"user_id": BIRD})),
            ["GET", .., "profile", _] => Ok(json!({"displayname": "Birdie"})),
            ["GET", .., "sync"] => self.sync(asked).await,
            ["POST", .., "rooms", room, "join"] => {
                self.lock().member(room, BIRD, BIRD, "join", json!({}));
                self.changed.notify_waiters();
                Ok(json!({"room_id": room}))
            }
            ["GET", .., "rooms", room, "members"] => {
                let state = self.lock();
                let event = |(who, how): (&String, &&str)| {
                    let name = &who[1..4];
                    json!({"state_key": who, "content": {"membership": how, "displayname": name}})
                };
                let chunk: Vec<_> = state.rooms[*room].iter().map(event).collect();
                Ok(json!({"chunk": chunk}))
            }
            ["GET", .., "rooms", room, "state", "m.room.encryption"] => {
                if self.lock().encrypted.iter().any(|one| one == room) {
                    return Ok(json!({"algorithm": "x"}));
                }
                no(404, "M_NOT_FOUND")
            }
            ["GET", .., "rooms", room, "messages"] => {
                assert_eq!(asked["dir"], "b");
                Ok(self.lock().before(room, &asked["from"], &asked["to"]))
            }
            ["PUT", .., "rooms", room, "send", "m.room.message", transaction] => {
                self.send(room, transaction, body)
            }
            ["PUT", .., "rooms", _, "typing", BIRD] => Ok(json!({})),
            ["POST", .., "media", "v3", "upload"] => {
                let mut state = self.lock();
                let name = format!("up{}", state.media.len());
                state.media.insert(format!("home.test/{name}"), raw.to_owned());
                Ok(json!({"content_uri": format!("mxc://home.test/{name}")}))
            }
            _ => no(404, "M_UNRECOGNIZED"),
        }
    }
}

/// A part of an address as it was meant.
fn plain(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.replace('+', " ").into_bytes().into_iter();
    while let Some(byte) = rest.next() {
        let hex: Vec<_> = if byte == b'%' { rest.by_ref().take(2).collect() } else { Vec::new() };
        let hex = String::from_utf8(hex).expect("signs");
        bytes.push(u8::from_str_radix(&hex, 16).unwrap_or(byte));
    }
    String::from_utf8(bytes).expect("UTF-8")
}

async fn serve(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let raw = to_bytes(body, usize::MAX).await.unwrap_or_default();
    let respond = |status: u16, body: Body| {
        let response = Response::builder().status(status);
        response.body(body).expect("a status")
    };
    let token = head.headers.get("authorization").and_then(|token| token.to_str().ok());
    if token != Some(&format!("Bearer {TOKEN}")) {
        return respond(401, json!({"errcode": "M_UNKNOWN_TOKEN"}).to_string().into());
    }
    let parts: Vec<_> = head.uri.path().split('/').map(plain).collect();
    let what = format!("{} {}", head.method, parts.join("/"));
    let asked = head.uri.query().unwrap_or_default().split('&');
    let asked = asked.filter_map(|pair| pair.split_once('='));
    let asked: BTreeMap<_, _> = asked.map(|(key, value)| (key.to_owned(), plain(value))).collect();
    let body = serde_json::from_slice(&raw).unwrap_or(Value::Null);
    let refusal = {
        let mut state = shared.lock();
        let at = state.refusals.iter().position(|(part, ..)| what.contains(part.as_str()));
        at.and_then(|at| state.refusals.remove(at))
    };
    let media = what.strip_prefix("GET /_matrix/client/v1/media/download/");
    let file = media.and_then(|name| shared.lock().media.get(name).cloned());
    let (status, answer) = match (refusal, file) {
        (Some((_, status, body)), _) => (status, Body::from(body.to_string())),
        (None, Some(file)) => (200, Body::from(file)),
        (None, None) => match shared.answer(&what, &asked, &body, &raw).await {
            Ok(answer) => (200, Body::from(answer.to_string())),
            Err((status, why)) => (status, Body::from(why.to_string())),
        },
    };
    shared.lock().calls.push(Call { what, body });
    shared.happened.notify_all();
    respond(status, answer)
}
