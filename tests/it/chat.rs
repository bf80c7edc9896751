//! A chat for tests: a service that only passes its lines on, to the test and back, and what a
//! home with a host that stays needs for it.
//!
//! The service connects to the test, so that it is the test who speaks as the channel and who
//! sees when the service ends or begins anew. Knows nothing of what is said.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};

use serde_json::{Value, json};

use crate::BOUND;
use crate::home::{Home, Process};

/// The channel's name, of which the owner's session has its own.
pub const NAME: &str = "x";

/// The service: its process first, then all lines of either side.
const SERVICE: &str = "#!/bin/bash
exec 3<>/dev/tcp/127.0.0.1/PORT
echo $$ >&3
cat <&3 &
exec cat >&3
";

/// Messages so far: each has a number of its own.
static IDS: AtomicU64 = AtomicU64::new(1);

/// Put a service into the workspace, as the owner does.
pub fn install(home: &Home, name: &str, text: &str) {
    let path = home.workspace("services").join(name);
    fs::create_dir_all(home.workspace("services")).expect("a folder");
    // Made elsewhere: a host that looks on finds it whole.
    let made = home.cwd().join(name);
    fs::write(&made, text).expect("a file");
    fs::set_permissions(&made, fs::Permissions::from_mode(0o755)).expect("its mode");
    fs::rename(&made, &path).expect("a service");
}

/// A host that stays, once it is there.
pub fn serve(home: &Home) -> Process {
    let host = home.spawn(&["serve"]);
    host.wait_stderr("schedule, services and channels run");
    host
}

/// End a host as a service manager does.
#[track_caller]
pub fn stop(host: Process) {
    host.signal(libc::SIGTERM);
    let ran = host.end();
    assert_eq!(ran.status.code(), Some(0), "{ran}");
}

/// Pair whoever got this code.
#[track_caller]
pub fn pair(home: &Home, told: &str, more: &[&str]) {
    let code = told.rsplit(' ').next().unwrap_or_default();
    home.run(&[&["pair", code], more].concat()).stdout_any().check();
}

/// Where the service of a test connects to.
pub struct Channel {
    runs: Receiver<TcpStream>,
}

impl Channel {
    /// Have it in the workspace under this name.
    pub fn install(home: &Home, name: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port on loopback");
        let port = listener.local_addr().expect("it is bound").port().to_string();
        home.run(&["init"]).stdout_any().stderr_any().check();
        install(home, name, &SERVICE.replace("PORT", &port));
        let (send, runs) = channel();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if send.send(stream).is_err() {
                    return;
                }
            }
        });
        Self { runs }
    }

    /// Wait for the next run of the service, which says hello.
    #[track_caller]
    pub fn run(&self) -> Line {
        let stream = self.runs.recv_timeout(BOUND).expect("the service was not started");
        stream.set_read_timeout(Some(BOUND)).expect("a socket");
        let mut line =
            Line { lines: BufReader::new(stream), pid: 0, heard: Vec::new(), all: Vec::new() };
        let mut pid = String::new();
        line.lines.read_line(&mut pid).expect("the number of its process");
        line.pid = pid.trim().parse().expect("a number");
        line.send(&json!({"event": "hello", "limit": 4000}));
        line
    }
}

/// A run of the service, in whose place the test speaks.
pub struct Line {
    lines: BufReader<TcpStream>,
    pid: i32,
    /// What the host said and nobody looked at yet.
    heard: Vec<Value>,
    /// All that it said.
    all: Vec<Value>,
}

impl Line {
    /// Say this to the host.
    pub fn send(&mut self, event: &Value) {
        writeln!(self.lines.get_mut(), "{event}").expect("the service reads");
    }

    /// Say all this in one go.
    pub fn send_at_once(&mut self, events: &[Value]) {
        let lines: Vec<_> = events.iter().map(|event| format!("{event}\n")).collect();
        self.lines.get_mut().write_all(lines.concat().as_bytes()).expect("the service reads");
    }

    /// Somebody writes in a chat of their own, and the host has taken it in. The message.
    #[track_caller]
    pub fn write(&mut self, who: &str, text: &str) -> Value {
        self.bring(json!({"chat": who, "from": who, "name": "Somebody", "text": text}))
    }

    /// Somebody writes where others read along.
    #[track_caller]
    pub fn write_in(&mut self, group: &str, who: &str, text: &str) -> Value {
        self.bring(json!({"chat": group, "from": who, "text": text, "group": true}))
    }

    #[track_caller]
    fn bring(&mut self, mut message: Value) -> Value {
        message["id"] = format!("m{}", IDS.fetch_add(1, Ordering::Relaxed)).into();
        self.again(&message);
        message
    }

    /// Bring a message, and wait until it is acknowledged.
    #[track_caller]
    pub fn again(&mut self, message: &Value) {
        self.send(message);
        self.hear("the acknowledgement", |line| {
            line["event"] == "ack" && line["id"] == message["id"]
        });
    }

    /// The next message that is given out. It is not acknowledged.
    #[track_caller]
    pub fn given(&mut self) -> Value {
        self.hear("a message", |line| line["event"] == "message")
    }

    /// The next message, which arrives.
    #[track_caller]
    pub fn message(&mut self) -> Value {
        let message = self.given();
        self.send(&json!({"event": "ack", "key": message["key"]}));
        message
    }

    /// The words of the next message, which arrives and is for this chat.
    #[track_caller]
    pub fn told(&mut self, chat: &str) -> String {
        let message = self.message();
        assert_eq!(message["chat"], chat, "{message}");
        message["text"].as_str().expect("words").to_owned()
    }

    /// Let somebody be paired who is not yet.
    #[track_caller]
    pub fn pair(&mut self, home: &Home, who: &str, more: &[&str]) {
        self.write(who, "hello");
        let told = self.told(who);
        pair(home, &told, more);
        assert!(self.told(who).starts_with("We are paired."));
    }

    /// Wait for a line of the host, and take it.
    #[track_caller]
    pub fn hear(&mut self, what: &str, which: impl Fn(&Value) -> bool) -> Value {
        loop {
            if let Some(at) = self.heard.iter().position(&which) {
                return self.heard.remove(at);
            }
            let mut line = String::new();
            let read = self.lines.read_line(&mut line);
            let all = &self.all;
            assert!(matches!(read, Ok(1..)), "waited for {what} in vain: {read:?}, {all:?}");
            let line: Value = serde_json::from_str(&line).expect("JSON");
            // Numbered from 1, without a gap.
            assert_eq!(line["seq"], all.len() + 1, "{all:?}");
            self.all.push(line.clone());
            self.heard.push(line);
        }
    }

    /// Messages that came and nobody looked at.
    pub fn left(&self) -> Vec<&Value> {
        self.heard.iter().filter(|line| line["event"] == "message").collect()
    }

    /// Kill the service.
    pub fn kill(self) {
        // SAFETY: no memory is involved, and its supervisor reaps it only after this.
        let sent = unsafe { libc::kill(self.pid, libc::SIGKILL) };
        assert_eq!(sent, 0, "kill: {}", std::io::Error::last_os_error());
    }
}
