//! The shipped channels alone: each script is run as a service would be, and spoken to over
//! its stdin and stdout. Telegram is a fake, the IRC server is Debian's own.
//!
//! Where the machine lacks what they need, they are left out, unless
//! `FLEDGLING_TEST_EVERYDAY=1` says that it must be there.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::BOUND;
use crate::telegram_server::{BOT, Refusal, TOKEN, Telegram};
use crate::{mail_server, matrix_server};

/// Where tools are looked for: those of the system alone, nothing of somebody's own.
pub const PATH: &str = "/usr/local/bin:/usr/bin:/bin:/usr/sbin";
/// What the webhook's callers have to show.
pub const HOOK: &str = "a-token-of-nobody-0123456789";

/// Whether the machine has these tools.
pub fn has(tools: &[&str]) -> bool {
    let there = |tool: &&&str| std::env::split_paths(PATH).any(|one| one.join(tool).is_file());
    let missing: Vec<_> = tools.iter().filter(|tool| !there(tool)).collect();
    let all = std::env::var("FLEDGLING_TEST_EVERYDAY").is_ok_and(|set| set == "1");
    assert!(missing.is_empty() || !all, "the machine lacks {missing:?}");
    if !missing.is_empty() {
        eprintln!("left out: the machine lacks {missing:?}");
    }
    missing.is_empty()
}

/// The script of a shipped channel.
pub fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name).join(name)
}

/// A request over HTTP: the status, and what is answered, if that is JSON.
pub fn http(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[&str],
    body: &str,
) -> (u16, Value) {
    let mut stream = TcpStream::connect(address).expect("a server");
    stream.set_read_timeout(Some(BOUND)).expect("a socket");
    let host = format!("Host: {address}");
    let own = headers.iter().any(|header| header.starts_with("Host:"));
    let headers = headers.iter().copied().chain((!own).then_some(host.as_str()));
    let headers = headers.collect::<Vec<_>>().join("\r\n");
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\n{headers}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).expect("it reads");
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    (status.unwrap_or(0), serde_json::from_str(body).unwrap_or(Value::Null))
}

/// What a process printed so far.
#[derive(Default)]
struct Printed {
    /// Of its stdout, what nobody took yet.
    events: Vec<Value>,
    /// Of both, for whoever looks for what must not be there.
    all: String,
    errors: String,
}

type Heard = Arc<(Mutex<Printed>, Condvar)>;

/// A running script.
pub struct Bridge {
    child: Child,
    stdin: Option<ChildStdin>,
    heard: Heard,
    readers: Vec<JoinHandle<()>>,
    seq: u64,
    /// Its folder for temporary files.
    _folder: TempDir,
}

/// Read lines into what was printed until there are no more.
fn listen(from: impl Read + Send + 'static, heard: &Heard, errors: bool) -> JoinHandle<()> {
    let heard = Arc::clone(heard);
    std::thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            let mut printed = heard.0.lock().expect("no panic");
            printed.all += &format!("{line}\n");
            if errors {
                printed.errors += &format!("{line}\n");
            } else {
                let event = serde_json::from_str(&line);
                printed.events.push(event.unwrap_or_else(|_| json!({"no": line})));
            }
            heard.1.notify_all();
        }
    })
}

impl Bridge {
    /// A script with this environment and nothing else.
    pub fn start(name: &str, environment: &[(&str, &str)]) -> Self {
        let mut command = Command::new(script(name));
        let folder = TempDir::new().expect("a folder");
        command.env_clear().env("PATH", PATH).env("TMPDIR", folder.path());
        command.envs(environment.iter().copied());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the script");
        let heard = Heard::default();
        let readers = vec![
            listen(child.stdout.take().expect("a pipe"), &heard, false),
            listen(child.stderr.take().expect("a pipe"), &heard, true),
        ];
        Self { stdin: child.stdin.take(), child, heard, readers, seq: 0, _folder: folder }
    }

    /// Say this to it as the host does.
    pub fn say(&mut self, mut event: Value) {
        self.seq += 1;
        event["seq"] = self.seq.into();
        let stdin = self.stdin.as_mut().expect("it is open");
        stdin.write_all(format!("{event}\n").as_bytes()).expect("the script reads");
    }

    /// Acknowledge a message that came.
    pub fn ack(&mut self, message: &Value) {
        self.say(json!({"event": "ack", "id": message["id"]}));
    }

    /// Give it something to deliver: what it says to that.
    pub fn deliver(&mut self, key: &str, chat: &str, text: &str) -> Value {
        self.say(json!({"event": "message", "key": key, "chat": chat, "text": text}));
        self.answer(key)
    }

    /// What it says to what was given to it with this key.
    pub fn answer(&self, key: &str) -> Value {
        self.event(key, |event| event["key"] == key)
    }

    /// The next message it brings.
    pub fn message(&self) -> Value {
        self.event("a message", |event| event.get("text").is_some())
    }

    /// Wait for a line, and take it.
    pub fn event(&self, what: &str, which: impl Fn(&Value) -> bool) -> Value {
        let mut at = None;
        let mut printed = self.wait(what, |printed| {
            at = printed.events.iter().position(&which);
            at.is_some()
        });
        printed.events.remove(at.expect("it was found"))
    }

    /// Wait until this stands in its stderr.
    pub fn complains(&self, of: &str) -> String {
        self.wait(of, |printed| printed.errors.contains(of)).errors.clone()
    }

    /// Its lines that nobody took.
    pub fn left(&self) -> Vec<Value> {
        self.heard.0.lock().expect("no panic").events.clone()
    }

    fn wait(
        &self,
        what: &str,
        mut until: impl FnMut(&Printed) -> bool,
    ) -> std::sync::MutexGuard<'_, Printed> {
        let printed = self.heard.0.lock().expect("no panic");
        let waited = self.heard.1.wait_timeout_while(printed, BOUND, |printed| !until(printed));
        let (printed, waited) = waited.expect("no panic");
        let all = printed.all.clone();
        if waited.timed_out() {
            drop(printed);
            panic!("waited for {what} in vain; it printed:\n{all}");
        }
        printed
    }

    /// Wait until it ended by itself: how, and what it printed.
    pub fn ended(mut self) -> (ExitStatus, String) {
        for reader in self.readers.drain(..) {
            reader.join().expect("a reader");
        }
        let status = self.child.wait().expect("a child");
        let all = self.heard.0.lock().expect("no panic").all.clone();
        (status, all)
    }

    /// Close its stdin and wait until it ended.
    pub fn end(mut self) {
        self.stdin = None;
        let (status, all) = self.ended();
        assert!(status.success(), "{status}: {all}");
    }

    /// End it at once, as `kill -9` does.
    pub fn kill(mut self) {
        self.child.kill().expect("it runs");
        let (status, all) = self.ended();
        assert_eq!(status.signal(), Some(9), "{all}");
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        for reader in self.readers.drain(..) {
            let _ = reader.join();
        }
        if !std::thread::panicking() {
            let printed = self.heard.0.lock().expect("no panic");
            for secret in
                [TOKEN, HOOK, matrix_server::TOKEN, mail_server::PASSWORD, mail_server::SECRET]
            {
                assert!(!printed.all.contains(secret), "a secret was printed:\n{}", printed.all);
            }
        }
    }
}

/// The script for Telegram, with a server.
fn telegram(server: &Telegram, more: &[(&str, &str)]) -> Bridge {
    let url = server.url();
    let mut environment = vec![("TELEGRAM_API", url.as_str()), ("TELEGRAM_TOKEN", TOKEN)];
    environment.extend([("TELEGRAM_PAUSE", "0.05"), ("TELEGRAM_CONFLICT", "0.05")]);
    environment.extend(more);
    let bridge = Bridge::start("telegram", &environment);
    bridge.event("hello", |event| event["event"] == "hello" && event["limit"] == 4096);
    bridge
}

#[test]
fn telegram_forgets_a_message_only_when_the_host_has_it() {
    if !has(&["python3"]) {
        return;
    }
    let server = Telegram::start();
    let ids = [server.write(42, "one"), server.write(42, "zwei 🐤\n")];
    let bridge = telegram(&server, &[]);
    let [one, two] = [bridge.message(), bridge.message()];
    let expected = json!({"id": format!("{}.1", ids[0]), "chat": "42", "from": "42", "name": "Ann", "text": "one"});
    assert_eq!((one, &two["text"]), (expected.clone(), &json!("zwei 🐤")));
    bridge.kill();

    let mut bridge = telegram(&server, &[]);
    assert_eq!(bridge.message(), expected);
    bridge.ack(&expected);
    let again = bridge.message();
    assert_eq!(again, two);
    // With one of them missing, all of them have to come again. A script that did not wait
    // would have confirmed them before this is through.
    for _ in 0..20 {
        assert_eq!(bridge.deliver("k", "42", "alive")["event"], "ack");
    }
    assert_eq!(server.unconfirmed(), ids);
    bridge.ack(&two);
    server.confirmed(ids[1]);
    bridge.end();

    let bridge = telegram(&server, &[]);
    server.polled();
    server.write(42, "three");
    assert_eq!(bridge.message()["text"], "three");
    assert_eq!(bridge.left(), [Value::Null; 0]);
}

#[test]
fn telegram_delivers_while_it_waits_and_says_what_came_of_it() {
    if !has(&["python3"]) {
        return;
    }
    let server = Telegram::start();
    let id = server.write(42, "hi");
    let mut bridge = telegram(&server, &[]);
    let hi = bridge.message();
    bridge.ack(&hi);
    server.confirmed(id);
    server.polled();
    bridge.say(json!({"event": "typing", "chat": "42"}));
    bridge.say(json!({"event": "something new"}));
    let reply = json!({"event": "message", "key": "a", "chat": "42", "text": "Hello!",
        "reply_to": hi["id"], "files": ["/data/report.pdf"]});
    bridge.say(reply);
    assert_eq!(bridge.answer("a"), json!({"event": "ack", "key": "a"}));
    let expected = json!({"chat_id": "42", "text": "Hello!",
        "reply_parameters": {"message_id": 1, "allow_sending_without_reply": true}});
    let absent = json!({"chat_id": "42", "text": "[file, not sent: report.pdf]"});
    assert_eq!(server.sent(2), [expected, absent]);
    assert_eq!(server.calls("sendChatAction", 1)[0].status, 200);

    let refused = |status, parameters| Refusal::Said(status, "No", parameters);
    server.refuse("sendMessage", refused(429, json!({"retry_after": 7})));
    let failed = json!({"event": "fail", "key": "b", "error": "429 No", "retry": 7});
    assert_eq!(bridge.deliver("b", "42", "x"), failed);
    for status in [403, 500, 502] {
        server.refuse("sendMessage", refused(status, Value::Null));
        let failed = bridge.deliver("c", "42", "x");
        let retry = (status == 403).then_some(Value::Bool(false));
        assert_eq!((&failed["event"], failed.get("retry")), (&json!("fail"), retry.as_ref()));
    }
    for (chat, text) in [("43", "nobody"), ("42", "x".repeat(9_000).as_str())] {
        let failed = bridge.deliver("d", chat, text);
        assert_eq!((&failed["event"], &failed["retry"]), (&json!("fail"), &json!(false)));
    }
    assert_eq!(bridge.deliver("e", "42", &"x".repeat(4096))["event"], "ack");
    bridge.end();
}

#[test]
fn telegram_carries_files_both_ways() {
    if !has(&["python3"]) {
        return;
    }
    let (server, folder) = (Telegram::start(), TempDir::new().expect("a folder"));
    let at = folder.path().to_str().expect("a path");
    let ann = json!({"id": 42, "is_bot": false, "first_name": "Ann"});
    let chat = json!({"id": 42, "type": "private"});
    let (small, large) =
        (server.file("photos/s.jpg", b"small"), server.file("photos/l.jpg", b"large"));
    let photo = json!({"from": ann, "chat": chat, "caption": "look", "photo": [small, large]});
    let first = server.push("message", photo);
    let mut document = server.file("documents/1.bin", b"content");
    document["file_name"] = "../a b.pdf".into();
    let last = server.push("message", json!({"from": ann, "chat": chat, "document": document}));
    server.refuse("getFile", Refusal::Said(500, "Trouble", Value::Null));
    let mut bridge = telegram(&server, &[("TMPDIR", at)]);
    let read = |message: &Value| {
        let path = message["files"][0].as_str().expect("a path").to_owned();
        assert!(path.starts_with(at), "{path}");
        (std::fs::read(&path).expect("a file"), path)
    };
    let (one, two) = (bridge.message(), bridge.message());
    assert_eq!((one["text"].as_str(), two["text"].as_str()), (Some("look"), Some("")));
    let ((bytes, photo), (content, document)) = (read(&one), read(&two));
    assert_eq!((bytes, content), (b"large".to_vec(), b"content".to_vec()));
    assert!(photo.ends_with("/photo.jpg") && document.ends_with("/_a_b.pdf"), "{document}");
    bridge.ack(&one);
    bridge.ack(&two);
    server.confirmed(last.max(first));
    server.polled();
    assert!(!Path::new(&photo).exists() && !Path::new(&document).exists());

    let [picture, text] = ["a.png", "b.txt"].map(|name| folder.path().join(name));
    std::fs::write(&picture, b"\x00picture\r\n--\xff").expect("a file");
    std::fs::write(&text, b"text").expect("a file");
    let mut give = |key: &str, text: &str, files: &[&Path]| {
        bridge.say(
            json!({"event": "message", "key": key, "chat": "42", "text": text, "files": files}),
        );
        bridge.answer(key)
    };
    assert_eq!(give("a", "Here", &[&picture, &text])["event"], "ack");
    assert_eq!(give("a", "Here", &[&picture, &text])["event"], "ack");
    let (photos, documents) = (server.calls("sendPhoto", 1), server.calls("sendDocument", 1));
    let expected = json!({"name": "a.png", "bytes": b"\x00picture\r\n--\xff"});
    assert_eq!((photos.len(), &photos[0].body["photo"]), (1, &expected));
    assert_eq!((documents.len(), &documents[0].body["chat_id"]), (1, &json!("42")));
    assert_eq!(server.sent(1).len(), 1);
    // What had arrived does not come twice, and what is no photo goes as a file.
    server.refuse("sendDocument", Refusal::Said(502, "Trouble", Value::Null));
    assert_eq!(give("b", "More", &[&text])["event"], "fail");
    server.refuse("sendPhoto", Refusal::Said(400, "PHOTO_INVALID_DIMENSIONS", Value::Null));
    assert_eq!(give("b", "More", &[&text, &picture])["event"], "ack");
    assert_eq!(server.sent(2).len(), 2);
    assert_eq!(server.calls("sendDocument", 4).len(), 4);
    bridge.end();
}

#[test]
fn telegram_survives_rivals_silence_and_servers_in_trouble() {
    if !has(&["python3"]) {
        return;
    }
    let server = Telegram::start();
    let trouble = |status| Refusal::Said(status, "Trouble", Value::Null);
    server.refuse("getMe", trouble(502)).refuse("getUpdates", trouble(409));
    server.refuse("getUpdates", Refusal::Said(429, "Slow", json!({"retry_after": 0.05})));
    server.refuse("getUpdates", trouble(500)).refuse("getUpdates", Refusal::Silence);
    let mut bridge = telegram(&server, &[("TELEGRAM_STALL", "2"), ("TELEGRAM_POLL", "1")]);
    for trouble in ["502", "409", "429", "500", "no answer"] {
        bridge.complains(&format!("cannot ask for messages: {}", trouble.replace("no", "0 no")));
    }
    server.polled();
    let path = format!("/bot{TOKEN}/getUpdates");
    let address = server.url().trim_start_matches("http://").parse().expect("an address");
    let (rival, _) = http(address, "POST", &path, &[], r#"{"timeout": 600}"#);
    assert_eq!(rival, 409);
    server.write(42, "after all");
    let message = bridge.message();
    assert_eq!(message["text"], "after all");
    bridge.ack(&message);
    bridge.end();
}

#[test]
fn telegram_never_shows_its_token() {
    if !has(&["python3"]) {
        return;
    }
    // A port that is nobody's any more.
    let nobody = TcpListener::bind("127.0.0.1:0").and_then(|port| port.local_addr());
    let url = format!("http://{}", nobody.expect("an address"));
    for (api, said) in
        [(url.as_str(), "refused"), ("nonsense", "no answer"), ("http://127.0.0.1:9/a b", "TOKEN")]
    {
        let mut environment = vec![("TELEGRAM_API", api), ("TELEGRAM_TOKEN", TOKEN)];
        environment.push(("TELEGRAM_PAUSE", "0.05"));
        let mut bridge = Bridge::start("telegram", &environment);
        bridge.complains(said);
        let failed = bridge.deliver("k", "42", "x");
        assert_eq!((&failed["event"], failed.get("retry")), (&json!("fail"), None));
        bridge.end();
    }
    let server = Telegram::start();
    for token in ["", "1:wrong", "not a token\n"] {
        let environment = [("TELEGRAM_API", server.url()), ("TELEGRAM_TOKEN", token.to_owned())];
        let environment = environment.each_ref().map(|(name, value)| (*name, value.as_str()));
        let (status, all) = Bridge::start("telegram", &environment).ended();
        assert_eq!(status.code(), Some(1), "{all}");
        assert!(all.contains("401 Unauthorized") || all.contains("TELEGRAM_TOKEN is not"), "{all}");
        assert!(token.is_empty() || !all.contains(token), "{all}");
    }
}

#[test]
fn telegram_tells_who_speaks_and_passes_over_what_nobody_said() {
    if !has(&["python3"]) {
        return;
    }
    let server = Telegram::start();
    let person = json!({"id": 7, "is_bot": false, "first_name": "Bo"});
    let robot = json!({"id": 1_087_968_824, "is_bot": true, "first_name": "Group"});
    let group = json!({"id": -100, "type": "supergroup", "title": "Home"});
    let said = |from: &Value, more: Value| {
        let mut message = json!({"from": from, "chat": group});
        message.as_object_mut().expect("one").extend(more.as_object().expect("one").clone());
        message
    };
    let pushes = [
        ("edited_message", said(&person, json!({"text": "edited"}))),
        ("message", said(&person, json!({"new_chat_members": [robot]}))),
        ("message", said(&robot, json!({"text": "anonymous"}))),
        ("message", said(&person, json!({"text": "a channel", "sender_chat": {"id": -5}}))),
        ("channel_post", json!({"chat": group, "text": "a post"})),
        ("message", json!({"chat": group, "text": "nobody"})),
        ("message", said(&person, json!({"photo": [{}], "caption": "look"}))),
        ("message", said(&person, json!({"voice": {}}))),
        ("message", said(&person, json!({"text": format!("/new@{BOT} @{BOT} hi")}))),
    ];
    let last = pushes.map(|(kind, message)| server.push(kind, message))[8];
    let mut bridge = telegram(&server, &[]);
    for text in ["look\n[photo, not fetched]", "[voice, not fetched]", &format!("/new @{BOT} hi")] {
        let message = bridge.message();
        bridge.ack(&message);
        let rest = json!({"chat": "-100", "from": "7", "name": "Bo", "text": text, "group": true});
        for (name, value) in rest.as_object().expect("one") {
            assert_eq!(&message[name], value, "{message}");
        }
    }
    server.confirmed(last);
    assert_eq!(bridge.left(), [Value::Null; 0]);
    bridge.end();
}

/// Debian's IRC server on loopback.
pub struct Ngircd {
    child: Child,
    reader: Option<JoinHandle<()>>,
    folder: TempDir,
    pub port: u16,
}

impl Ngircd {
    pub fn start() -> Self {
        let free = TcpListener::bind("127.0.0.1:0").and_then(|port| port.local_addr());
        let port = free.expect("a port").port();
        let folder = TempDir::new().expect("a folder");
        let settings = format!(
            "[Global]\nName = irc.test\nInfo = test\nListen = 127.0.0.1\nPorts = {port}\n\
             [Limits]\nMaxConnectionsIP = 0\nMaxNickLength = 20\n\
             [Options]\nDNS = no\nIdent = no\nPAM = no\n"
        );
        std::fs::write(folder.path().join("conf"), settings).expect("a file");
        let (child, reader) = Self::run(folder.path());
        Self { child, reader: Some(reader), folder, port }
    }

    /// It runs once it says so.
    fn run(folder: &Path) -> (Child, JoinHandle<()>) {
        let mut command = Command::new("ngircd");
        command.env_clear().env("PATH", PATH).args(["--nodaemon", "--config"]);
        command.arg(folder.join("conf")).stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("ngircd");
        let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        let mut begun = String::new();
        while !begun.contains("ready.") {
            let line = lines.next().and_then(Result::ok);
            begun += &line.unwrap_or_else(|| panic!("ngircd ended: {begun}"));
        }
        (child, std::thread::spawn(move || lines.for_each(drop)))
    }

    fn stop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = self.reader.take().map(JoinHandle::join);
    }

    fn restart(&mut self) {
        self.stop();
        let (child, reader) = Self::run(self.folder.path());
        (self.child, self.reader) = (child, Some(reader));
    }

    /// Somebody who is there.
    pub fn join(&self, nick: &str) -> Person {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).expect("the server");
        let mut person = Person::on(stream);
        person.say(&format!("NICK {nick}\r\nUSER {nick} 0 * :{nick}"));
        person.hear(" 001 ");
        person
    }

    /// The script, connected.
    fn bridge(&self, more: &[(&str, &str)]) -> Bridge {
        let port = self.port.to_string();
        let mut environment = vec![("IRC_SERVER", "127.0.0.1"), ("IRC_PORT", &port)];
        environment.extend([("IRC_TLS", "no"), ("IRC_NICK", "bird"), ("IRC_PACE", "0.01")]);
        environment.extend([("IRC_PAUSE", "0.05"), ("IRC_CHANNELS", "#home")]);
        environment.extend(more);
        let bridge = Bridge::start("irc", &environment);
        bridge.event("hello", |event| event["event"] == "hello");
        bridge
    }
}

impl Drop for Ngircd {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A client of IRC.
pub struct Person {
    lines: BufReader<TcpStream>,
}

impl Person {
    fn on(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(BOUND)).expect("a socket");
        Self { lines: BufReader::new(stream) }
    }

    pub fn say(&mut self, line: &str) {
        write!(self.lines.get_mut(), "{line}\r\n").expect("the server reads");
    }

    /// The next line with this in it.
    pub fn hear(&mut self, part: &str) -> String {
        loop {
            let mut line = Vec::new();
            let length = self.lines.read_until(b'\n', &mut line).expect("a line");
            assert!((1..=512).contains(&length), "waited for {part}, got {line:?}");
            let line = String::from_utf8(line).expect("whole letters");
            if line.contains(part) {
                return line.trim_end().to_owned();
            }
        }
    }

    /// What is said next to this one, or in a channel.
    pub fn told(&mut self, to: &str) -> String {
        let line = self.hear(&format!(" PRIVMSG {to} :"));
        line.split_once(&format!(" PRIVMSG {to} :")).expect("it is there").1.to_owned()
    }
}

#[test]
fn irc_carries_words_both_ways() {
    if !has(&["python3", "ngircd"]) {
        return;
    }
    let server = Ngircd::start();
    let mut bridge = server.bridge(&[]);
    let mut ann = server.join("Ann");
    ann.say("JOIN #home");
    // What is given out before it is connected waits for that.
    assert_eq!(bridge.deliver("a", "#home", "I am here")["event"], "ack");
    ann.say("PRIVMSG #home :to nobody");
    ann.say("PRIVMSG bird :\x01VERSION\x01");
    ann.say("NOTICE bird :a notice");
    ann.say("PRIVMSG bird :grüß \x02dich\x02 \x0304,01rot\x03 🐤");
    let direct = bridge.message();
    assert_eq!(direct["text"], "grüß dich rot 🐤");
    assert_eq!((&direct["chat"], &direct["name"]), (&json!("ann"), &json!("Ann")));
    let from = direct["from"].as_str().expect("somebody");
    assert!(from.starts_with("Ann!~Ann@") && direct.get("group").is_none(), "{direct}");
    ann.say("PRIVMSG #home :bird: what time is it?");
    let grouped = bridge.message();
    assert_eq!(grouped["text"], "what time is it?");
    assert_eq!((&grouped["chat"], &grouped["group"]), (&json!("#home"), &json!(true)));
    assert_eq!(grouped["from"], direct["from"]);
    assert_ne!(grouped["id"], direct["id"]);
    bridge.ack(&direct);

    assert_eq!(bridge.deliver("b", "ann", "one\n\ntwo\r\nQUIT :no")["event"], "ack");
    for text in ["one", "two", "QUIT :no"] {
        assert_eq!(ann.told("Ann"), text);
    }
    let failed = bridge.deliver("c", "nobody", "hello?");
    assert_eq!((&failed["event"], failed.get("retry")), (&json!("fail"), None));
    for nowhere in ["a b", ":x", "ann,bo", ""] {
        assert_eq!(bridge.deliver("d", nowhere, "x")["retry"], false);
    }
    assert_eq!(bridge.left(), [Value::Null; 0]);
    bridge.end();
}

#[test]
fn irc_splits_long_texts_where_nothing_breaks() {
    if !has(&["python3", "ngircd"]) {
        return;
    }
    let server = Ngircd::start();
    let mut ann = server.join("Ann");
    let mut bridge = server.bridge(&[]);
    let long = [format!("x{}", "🐤".repeat(299)), "Wörter ".repeat(100).trim().to_owned()];
    for text in &long {
        assert_eq!(bridge.deliver("k", "ann", text)["event"], "ack");
        let mut heard: Vec<String> = Vec::new();
        while heard.concat().replace(' ', "").len() < text.replace(' ', "").len() {
            heard.push(ann.told("Ann"));
        }
        let joint = if text.contains(' ') { " " } else { "" };
        assert_eq!(&heard.join(joint), text);
    }
    bridge.end();
}

/// The script for IRC and a server that is nothing but a socket, in which nobody but the
/// script keeps a pace.
fn plain_irc(more: &[(&str, &str)]) -> (Bridge, TcpListener, Person) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port().to_string();
    let mut environment = vec![("IRC_SERVER", "127.0.0.1"), ("IRC_PORT", &port)];
    environment.extend([("IRC_TLS", "no"), ("IRC_NICK", "bird"), ("IRC_PAUSE", "0.05")]);
    environment.extend(more);
    let bridge = Bridge::start("irc", &environment);
    let server = Person::on(listener.accept().expect("the script").0);
    (bridge, listener, server)
}

#[test]
fn irc_keeps_its_pace() {
    if !has(&["python3"]) {
        return;
    }
    let (mut bridge, _listener, mut server) = plain_irc(&[("IRC_PACE", "0.2")]);
    server.say(":s 001 bird :Welcome");
    let begun = Instant::now();
    let lines = ["1", "2", "3", "4", "5"];
    let text = lines.join("\n");
    bridge.say(json!({"event": "message", "key": "k", "chat": "ann", "text": text}));
    for line in lines {
        server.hear(&format!("PRIVMSG ann :{line}"));
    }
    server.hear("PING :sent");
    // Of six lines two are free.
    assert!(begun.elapsed() >= Duration::from_millis(700), "{:?}", begun.elapsed());
    assert_eq!(bridge.left().len(), 1, "it waits for the server's answer");
    server.say(":s PONG s :sent");
    assert_eq!(bridge.answer("k")["event"], "ack");
    bridge.end();
}

#[test]
fn irc_comes_back_after_its_server_and_under_another_nick() {
    if !has(&["python3", "ngircd"]) {
        return;
    }
    let mut server = Ngircd::start();
    let _taken = server.join("bird");
    let mut ann = server.join("Ann");
    let mut bridge = server.bridge(&[]);
    assert_eq!(bridge.deliver("a", "ann", "hi")["event"], "ack");
    let line = ann.hear(" PRIVMSG Ann :hi");
    let nick = line.trim_start_matches(':').split('!').next().expect("a nick").to_owned();
    assert!(nick.starts_with("bird") && nick.len() > 4, "{line}");
    ann.say(&format!("PRIVMSG {nick} :hello"));
    assert_eq!(bridge.message()["text"], "hello");

    server.stop();
    bridge.complains("connection to 127.0.0.1");
    let failed = bridge.deliver("b", "ann", "lost?");
    assert_eq!((&failed["event"], failed.get("retry")), (&json!("fail"), None));
    server.restart();
    let mut ann = server.join("Ann");
    while bridge.deliver("c", "ann", "back")["event"] != "ack" {}
    assert_eq!(ann.told("Ann"), "back");
    bridge.end();
}

#[test]
fn irc_knows_accounts_and_leaves_a_server_that_says_nothing() {
    if !has(&["python3"]) {
        return;
    }
    let (bridge, listener, mut server) = plain_irc(&[("IRC_STALL", "0.5")]);
    server.hear("CAP REQ :account-tag");
    server.say(":s CAP * ACK :account-tag\r\n:s 001 bird :Welcome");
    server.say("@account=ann;x :Ann!a@h PRIVMSG bird :hi\r\n:Bo!b@h PRIVMSG bird :hi");
    server.hear("CAP END");
    let from = [(); 2].map(|()| bridge.message()["from"].clone());
    assert_eq!(from, ["account:ann", "Bo!b@h"]);
    server.hear("PING :there");
    bridge.complains("the server is silent");
    let again = listener.accept().expect("the script once more").0;
    let mut server = Person::on(again);
    server.hear("USER ");
    server.say(":s 464 bird :Password incorrect");
    let (status, all) = bridge.ended();
    assert_eq!(status.code(), Some(1), "{all}");
}

/// The webhook's script, where it keeps replies, and where it listens.
fn webhook(folder: &Path, more: &[(&str, &str)]) -> (Bridge, SocketAddr) {
    let mut environment = vec![("WEBHOOK_TOKEN", HOOK), ("WEBHOOK_PORT", "0")];
    environment.push(("TMPDIR", folder.to_str().expect("a path")));
    environment.extend(more);
    let bridge = Bridge::start("webhook", &environment);
    let said = bridge.complains("listening on ");
    let address = said.trim().rsplit(' ').next().expect("an address");
    let address = address.parse().expect("an address");
    (bridge, address)
}

/// What the webhook answers to somebody with the token.
fn hook(address: SocketAddr, method: &str, path: &str, body: &str) -> (u16, Value) {
    http(address, method, path, &[&format!("Authorization: Bearer {HOOK}")], body)
}

#[test]
fn webhook_takes_messages_and_gives_replies() {
    if !has(&["python3"]) {
        return;
    }
    let folder = TempDir::new().expect("a folder");
    let (mut bridge, address) = webhook(folder.path(), &[]);
    let post = |path: &'static str, body: &'static str| {
        std::thread::spawn(move || hook(address, "POST", path, body))
    };
    let posted =
        post("/message", r#"{"text": "grüß dich", "id": 7, "chat": "door", "from": "bell"}"#);
    let message = bridge.message();
    let expected = json!({"id": "7", "chat": "door", "from": "bell", "text": "grüß dich"});
    assert_eq!(message, expected);
    bridge.ack(&message);
    assert_eq!(posted.join().expect("an answer"), (202, json!({"id": "7"})));

    assert_eq!(bridge.deliver("a", "door", "come in")["event"], "ack");
    assert_eq!(bridge.deliver("b", "other", "not you")["event"], "ack");
    // It lasts until it is fetched, once.
    bridge.end();
    let (mut bridge, address) = webhook(folder.path(), &[]);
    let reply = json!({"replies": [{"key": "a", "text": "come in"}]});
    assert_eq!(hook(address, "GET", "/replies?chat=door", ""), (200, reply));
    assert_eq!(hook(address, "GET", "/replies?chat=door", ""), (200, json!({"replies": []})));

    let post = |path: &'static str, body: &'static str| {
        std::thread::spawn(move || hook(address, "POST", path, body))
    };
    let posted = post("/message?wait=60", r#"{"text": "who?", "chat": "other"}"#);
    let message = bridge.message();
    assert_eq!(message["from"], "webhook");
    bridge.ack(&message);
    let reply = json!({"event": "message", "key": "c", "chat": "other", "text": "me", "reply_to": message["id"]});
    bridge.say(reply);
    assert_eq!(bridge.answer("c")["event"], "ack");
    let reply = json!({"replies": [{"key": "c", "text": "me", "reply_to": message["id"]}]});
    assert_eq!(posted.join().expect("an answer"), (200, reply));
    // What was there before the question is not its answer.
    let reply = json!({"replies": [{"key": "b", "text": "not you"}]});
    assert_eq!(hook(address, "GET", "/replies?chat=other&wait=60", ""), (200, reply));
    bridge.end();
}

#[test]
fn webhook_refuses_strangers_browsers_and_nonsense() {
    if !has(&["python3"]) {
        return;
    }
    let folder = TempDir::new().expect("a folder");
    let (bridge, address) = webhook(folder.path(), &[("WEBHOOK_ACK", "0.1")]);
    let token = format!("Authorization: Bearer {HOOK}");
    let body = r#"{"text": "hi"}"#;
    let port = address.port();
    let (local, evil) = (format!("Host: localhost:{port}"), format!("Host: evil.test:{port}"));
    let wrong = format!("Authorization: Bearer {}", HOOK.replace('9', "8"));
    for (status, headers) in [
        (401, vec![]),
        (401, vec!["Authorization: Bearer"]),
        (401, vec![wrong.as_str()]),
        (401, vec!["Authorization: Bearer ü", evil.as_str()]),
        (403, vec![token.as_str(), "Origin: http://127.0.0.1"]),
        (403, vec![token.as_str(), "Origin: null"]),
        (403, vec![token.as_str(), evil.as_str()]),
        (403, vec![token.as_str(), "Host: 127.0.0.1.evil.test"]),
        // Nobody acknowledges it.
        (503, vec![token.as_str(), local.as_str()]),
    ] {
        let answer = http(address, "POST", "/message", &headers, body);
        assert_eq!(answer, (status, Value::Null), "{headers:?}");
    }
    assert_eq!(bridge.message()["text"], "hi");
    for (status, method, path, body) in [
        (400, "POST", "/message", "no JSON"),
        (400, "POST", "/message", "[]"),
        (400, "POST", "/message", r#"{"text": " "}"#),
        (400, "GET", "/replies", ""),
        (400, "GET", "/replies?chat=a&wait=nan", ""),
        (404, "GET", "/message", body),
        (404, "POST", "/", body),
    ] {
        assert_eq!(hook(address, method, path, body).0, status, "{method} {path} {body}");
    }
    let large = http(address, "POST", "/message", &[&token, "Content-Length: 300000"], "");
    assert_eq!(large.0, 413);
    assert_eq!(bridge.left().iter().filter(|event| event["event"] != "hello").count(), 0);
    bridge.end();

    for token in ["", "too short"] {
        let (status, all) = Bridge::start("webhook", &[("WEBHOOK_TOKEN", token)]).ended();
        assert_eq!(status.code(), Some(1), "{all}");
        assert!(all.contains("WEBHOOK_TOKEN is missing or shorter"), "{all}");
    }
}
