//! A home whose host stays: `fledgling serve --json` whose log is read line by line, a clock
//! that only moves when a test moves it, and turns beside it.

use std::cell::Cell;
use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use serde_json::Value;

use crate::BOUND;
use crate::home::{Home, Process, Ran};
use crate::model_server::Server;
use crate::reply::Reply;

/// A home with a fake model and a clock of its own. It is five to nine, in UTC.
pub struct Standing {
    pub server: Server,
    pub home: Home,
    pub clock: Clock,
}

impl Standing {
    pub fn new() -> Self {
        Self::with("")
    }

    /// The same, with this in `config.toml`.
    pub fn with(config: &str) -> Self {
        let (server, home) = (Server::start(), Home::new().env("TZ", "UTC").config(config));
        let clock = Clock { file: home.cwd().join("clock") };
        clock.set("2026-11-21T08:55:00Z");
        let home = home.with_anthropic(&server).env("FLEDGLING_TEST_CLOCK", &clock.file);
        home.run(&["init"]).stdout_any().stderr_any().check();
        // The one with examples is for people to read.
        fs::remove_file(home.workspace("crontab")).expect("a crontab");
        Self { server, home, clock }
    }

    /// A host that stays.
    pub fn serve(&self) -> Serving {
        Serving::start(&self.home)
    }

    /// What comes of these commands of the agent's, in a turn of this session.
    #[track_caller]
    pub fn act(&self, session: &str, commands: &[&str]) -> Vec<String> {
        self.act_with(&["--session", session], commands)
    }

    /// The same, in a turn begun with these arguments.
    #[track_caller]
    pub fn act_with(&self, arguments: &[&str], commands: &[&str]) -> Vec<String> {
        self.server.allow_prefix_change();
        for command in commands {
            self.server.queue(Reply::new().bash(command));
        }
        self.server.queue(Reply::text("Done."));
        let run = self.home.run(&[&["run"], arguments, &["go on"]].concat());
        run.stdout("Done.\n").stderr_any().check();
        let results = self.server.wait(0).pop().expect("a request").results();
        results[results.len() - commands.len()..].to_vec()
    }

    /// How things stand.
    #[track_caller]
    pub fn status(&self) -> Value {
        let ran = self.home.run(&["status", "--json"]).stdout_any().stderr_any().check();
        serde_json::from_str(&ran.stdout).expect("JSON")
    }

    /// How things stand, once they stand so.
    #[track_caller]
    pub fn status_when(&self, what: &str, looks: impl Fn(&Value) -> bool) -> Value {
        let started = Instant::now();
        loop {
            let status = self.status();
            if looks(&status) {
                return status;
            }
            assert!(started.elapsed() < BOUND, "it never was so: {what}\n{status:#}");
            std::thread::yield_now();
        }
    }

    /// Whether `text` stands in the next request of a session, to which nothing is replied but
    /// that it was read.
    #[track_caller]
    pub fn heard(&self, session: &str) -> String {
        self.act(session, &[]);
        self.server.wait(0).pop().expect("a request").heard()
    }

    /// The message of the latest commit.
    pub fn commit(&self) -> String {
        self.home.git(&["log", "-1", "--format=%B"])
    }

    /// Ask the database of the host.
    pub fn row<T: rusqlite::types::FromSql>(&self, sql: &str) -> T {
        let state = rusqlite::Connection::open(self.home.path("state.db")).expect("a database");
        state.query_row(sql, [], |row| row.get(0)).unwrap_or_else(|error| panic!("{sql}: {error}"))
    }
}

/// Wait until something is there.
#[track_caller]
pub fn until(what: &str, so: impl Fn() -> bool) {
    let started = Instant::now();
    while !so() {
        assert!(started.elapsed() < BOUND, "it never was so: {what}");
        std::thread::yield_now();
    }
}

/// The time in a home. It stands still.
pub struct Clock {
    pub file: PathBuf,
}

impl Clock {
    pub fn set(&self, time: &str) {
        let time: jiff::Timestamp = time.parse().expect("a time");
        let new = self.file.with_extension("new");
        fs::write(&new, format!("{} 0 0", time.as_second())).expect("a file");
        fs::rename(new, &self.file).expect("a file");
    }
}

/// A host that stays. Its log is read from its beginning to its end, once.
pub struct Serving {
    process: Process,
    read: Cell<usize>,
}

impl Serving {
    #[track_caller]
    pub fn start(home: &Home) -> Self {
        let serving = Self::waiting(home);
        serving.says("hosts; the schedule");
        serving
    }

    /// One that has not said yet that it hosts.
    pub fn waiting(home: &Home) -> Self {
        Self { process: home.spawn(&["serve", "--json"]), read: Cell::new(0) }
    }

    /// The next line of its log that has this in its message.
    #[track_caller]
    pub fn says(&self, text: &str) -> Value {
        self.next(text, |fields| message(fields).contains(text))
    }

    /// The next line of its log about something that happened.
    #[track_caller]
    pub fn happens(&self, kind: &str, about: &str, text: &str) -> Value {
        self.next(&format!("{kind} {about}: {text}"), |fields| {
            fields["kind"] == kind && fields["about"] == about && message(fields).contains(text)
        })
    }

    #[track_caller]
    fn next(&self, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        self.process.wait_in_stdout(what, |said| {
            let rest = &said[self.read.get()..];
            let mut end = self.read.get();
            for line in rest.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
                end += line.len();
                let line: Value = serde_json::from_str(line).expect("JSON in the log");
                if is(&line["fields"]) {
                    self.read.set(end);
                    return Some(line);
                }
            }
            None
        })
    }

    pub fn signal(&self, signal: i32) {
        self.process.signal(signal);
    }

    /// End it as a service manager does.
    #[track_caller]
    pub fn stop(self) -> Ran {
        self.signal(libc::SIGTERM);
        self.end()
    }

    /// Wait until it has ended, and well.
    #[track_caller]
    pub fn end(self) -> Ran {
        let ran = self.process.end();
        assert_eq!((ran.status.code(), &*ran.stderr), (Some(0), ""), "{ran}");
        ran
    }

    /// End it as a power cut does.
    #[track_caller]
    pub fn kill(self) -> Ran {
        self.process.kill()
    }
}

fn message(fields: &Value) -> &str {
    fields["message"].as_str().unwrap_or_default()
}
