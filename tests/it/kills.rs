//! `kill -9` of the real program at each step of a turn, and what the next start makes of
//! it: it says what was interrupted, asks with a valid conversation in which all that was
//! finished is kept, and nothing of the killed run is left behind.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;

use crate::BOUND;
use crate::home::Home;
use crate::model_server::{Asked, Server};
use crate::reply::{Gate, Reply};
use crate::rules::Wire;

const RUN: [&str; 3] = ["run", "--session", "s"];

fn run<'a>(text: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&RUN, more, &[text]].concat()
}

/// A home whose session `s` had one ordinary turn, on each wire.
fn on_both(case: impl Fn(&Server, &Home)) {
    for wire in Wire::BOTH {
        eprintln!("on {wire:?}:"); // shown when it fails
        let server = Server::start();
        let home = Home::new().with(wire, &server);
        server.queue(Reply::text("Ready."));
        home.run(&run("get ready", &[])).stdout("Ready.\n").stderr_any().check();
        case(&server, &home);
        server.check();
    }
}

/// The next run on the session: what it asked.
fn next(server: &Server, home: &Home) -> Asked {
    server.queue(Reply::text("Here again."));
    let run = home.run(&run("what happened?", &[])).stdout("Here again.\n");
    run.stderr_holds(&["interrupted"]).check();
    // And it is said once.
    server.queue(Reply::text("Still here."));
    let again = home.run(&self::run("fine", &[])).stdout("Still here.\n").stderr_any().check();
    assert!(!again.stderr.contains("interrupted"), "{again}");
    let asked = server.wait(0);
    let asked = asked[asked.len() - 2].clone();
    assert!(asked.heard().contains("the task") && asked.heard().contains("what happened?"));
    asked
}

#[test]
fn before_the_first_word() {
    on_both(|server, home| {
        let gate = Gate::new();
        server.queue(Reply::new().wait(&gate));
        let process = home.spawn(&run("the task", &[]));
        gate.reached();
        process.kill();
        let asked = next(server, home);
        assert!(asked.results().is_empty());
    });
}

#[test]
fn in_the_middle_of_a_reply() {
    on_both(|server, home| {
        let gate = Gate::new();
        server.queue(Reply::text("I shall now ").wait(&gate).bash("touch ran"));
        let process = home.spawn(&run("the task", &["--json"]));
        // Not a whole word: what may be the beginning of a secret comes with what follows it.
        process.wait_stdout("now");
        process.kill();
        let asked = next(server, home);
        assert!(asked.results().is_empty() && home.read("ran").is_none());
    });
}

#[test]
fn before_the_end_of_a_reply_with_a_call() {
    on_both(|server, home| {
        let gate = Gate::new();
        server.queue(Reply::new().bash("touch ran").wait(&gate));
        let process = home.spawn(&run("the task", &[]));
        gate.reached();
        process.kill();
        next(server, home);
        assert!(home.read("ran").is_none(), "a call was executed before its reply was whole");
    });
}

#[test]
fn while_a_command_runs() {
    on_both(|server, home| {
        let told = Fifo::make(&home.workspace("told"));
        Fifo::make(&home.workspace("never"));
        // Nobody ever opens the other end of `never`: both wait there until they are ended,
        // one of them in a session of its own and with no tie to the shell.
        let command = "setsid cat never >/dev/null 2>&1 & echo $$ $! > told; cat never";
        server
            .queue(Reply::new().bash("echo first; echo 1 > kept").bash(command).bash("touch ran"));
        let process = home.spawn(&run("the task", &[]));
        let line = told.line();
        let left: Vec<_> = line.split_whitespace().map(Watched::of).collect();
        assert_eq!(left.len(), 2, "{line}");
        process.kill();
        left.iter().for_each(Watched::gone);
        let asked = next(server, home);
        let results = asked.results();
        assert_eq!(results.len(), 3, "{results:?}");
        assert_eq!(results[0], "first\n");
        assert!(results[1].contains("interrupted") && results[2].contains("interrupted"));
        assert_eq!(home.read("kept").as_deref(), Some("1\n"));
        assert!(home.read("ran").is_none(), "a call after the killed one was executed");
    });
}

#[test]
fn between_a_result_and_the_next_reply() {
    on_both(|server, home| {
        let gate = Gate::new();
        let thought = Reply::new().thinking("Hm.", "c2ln").and("I look.");
        server.queue(thought.bash("echo found; echo 2 > kept")).queue(Reply::new().wait(&gate));
        let process = home.spawn(&run("the task", &[]));
        gate.reached();
        process.kill();
        let asked = next(server, home);
        assert_eq!(asked.results(), ["found\n"]);
        assert!(asked.said().iter().any(|(_, text)| text == "I look."), "{:?}", asked.said());
        assert_eq!(home.read("kept").as_deref(), Some("2\n"));
    });
}

/// Whether what a killed host started takes its time or, its supervisor being stopped, does
/// not end at all.
#[test]
fn what_a_command_still_writes_is_not_the_owners() {
    for stopped in [false, true] {
        let server = Server::start();
        let home = Home::new().with(Wire::Anthropic, &server);
        server.queue(Reply::text("Ready."));
        home.run(&run("get ready", &[])).stdout("Ready.\n").stderr_any().check();
        let told = Fifo::make(&home.workspace("told"));
        let command = "trap '' TERM; echo $$ $PPID > told; while :; do echo $((i++)) > w; done";
        server.queue(Reply::new().bash(command));
        let process = home.spawn(&run("the task", &[]));
        let line = told.line();
        let (bash, supervisor) = line.trim().split_once(' ').expect("two numbers");
        let (bash, supervisor) = (Watched::of(bash), Watched::of(supervisor));
        let stop = stopped.then(|| Stop::new(&supervisor));
        process.kill();
        let gate = Gate::new();
        server.queue(Reply::new().wait(&gate).and("Here again."));
        let next = home.spawn(&run("what happened?", &[]));
        gate.reached();
        drop(stop);
        bash.gone();
        gate.open();
        let ran = next.end();
        let owners = home.git(&["log", "--author=owner@localhost", "--name-only"]);
        assert!(!owners.contains("\nw\n"), "{owners}");
        assert_eq!(ran.stderr.contains("does not end"), stopped, "{ran}");
        assert_eq!(home.git(&["status", "--porcelain"]), "");
    }
}

#[test]
fn again_and_again() {
    on_both(|server, home| {
        for _ in 0..3 {
            let gate = Gate::new();
            server.queue(Reply::new().wait(&gate));
            let process = home.spawn(&run("the task", &[]));
            gate.reached();
            process.kill();
        }
        let asked = next(server, home);
        assert_eq!(asked.heard().matches("the task").count(), 3);
    });
}

/// A pipe in the file system, by which a command tells a test that it runs.
pub struct Fifo(PathBuf);

impl Fifo {
    pub fn make(path: &Path) -> Self {
        let name = std::ffi::CString::new(path.as_os_str().as_encoded_bytes()).expect("a path");
        // SAFETY: the name is a string that ends with a zero and outlives the call.
        let made = unsafe { libc::mkfifo(name.as_ptr(), 0o600) };
        assert_eq!(made, 0, "{}: {}", path.display(), std::io::Error::last_os_error());
        Self(path.to_owned())
    }

    /// The next line somebody writes into it.
    pub fn line(&self) -> String {
        let path = self.0.clone();
        let (tell, told) = channel();
        std::thread::spawn(move || {
            let mut line = String::new();
            // Whoever wrote the line before may not have closed it yet, and then has no more.
            while line.is_empty() {
                let opened = File::open(&path).expect("a pipe");
                BufReader::new(opened).read_line(&mut line).expect("a line");
            }
            let _ = tell.send(line);
        });
        told.recv_timeout(BOUND).unwrap_or_else(|_| panic!("nobody wrote to {}", self.0.display()))
    }
}

/// A process of somebody else that is watched until it ends.
pub struct Watched(OwnedFd, String);

impl Watched {
    pub fn of(pid: &str) -> Self {
        let number: libc::pid_t = pid.parse().expect("a process's number");
        // SAFETY: no memory is involved.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, number, 0) };
        assert!(fd >= 0, "process {pid}: {}", std::io::Error::last_os_error());
        let fd = i32::try_from(fd).expect("descriptors are small");
        // SAFETY: the descriptor is new and nobody else's.
        Self(unsafe { OwnedFd::from_raw_fd(fd) }, pid.to_owned())
    }

    /// Returns once it has ended.
    #[track_caller]
    pub fn gone(&self) {
        let mut poll = libc::pollfd { fd: self.0.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        let bound = i32::try_from(BOUND.as_millis()).expect("a minute");
        // SAFETY: there is one structure, and it outlives the call.
        let ready = unsafe { libc::poll(&raw mut poll, 1, bound) };
        assert_eq!(ready, 1, "process {} outlived the killed run", self.1);
    }

    pub fn signal(&self, signal: libc::c_int) -> std::io::Result<()> {
        let fd = self.0.as_raw_fd();
        // SAFETY: no memory is involved.
        match unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, signal, 0, 0) } {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        }
    }
}

/// While it lives, a process does nothing.
struct Stop<'a>(&'a Watched);

impl<'a> Stop<'a> {
    fn new(process: &'a Watched) -> Self {
        process.signal(libc::SIGSTOP).expect("it runs");
        Self(process)
    }
}

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        // It may have been killed meanwhile.
        let _ = self.0.signal(libc::SIGCONT);
    }
}

mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_process_is_watched_until_it_ends() {
        let folder = tempfile::tempdir().expect("a folder");
        let told = Fifo::make(&folder.path().join("told"));
        let script = "echo $$ > told; cat told";
        let mut child = Command::new("bash")
            .args(["-c", script])
            .current_dir(folder.path())
            .spawn()
            .expect("bash");
        let watched = Watched::of(told.line().trim());
        child.kill().expect("it runs");
        watched.gone();
        child.wait().expect("it ran");
    }
}
