//! A home of its own for a test, and the real program run in it.
//!
//! Nothing of the machine reaches the program but the system's PATH; nothing it does stays.
//! What a run prints has to match what the test expects, exactly, and is expected to be
//! nothing unless the test says otherwise.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;

use tempfile::TempDir;

use crate::BOUND;
use crate::model_server::Server;
use crate::rules::Wire;

/// Lines on stderr that say how the program stands and belong to no test in particular:
/// the beginnings of them. `Run` leaves them out before it compares.
const STANDING_NOTICES: &[&str] = &["CONFINEMENT IS OFF"];

/// A fresh home, working directory and environment.
pub struct Home {
    root: TempDir,
    env: Vec<(String, OsString)>,
}

impl Home {
    pub fn new() -> Self {
        let root = TempDir::new().expect("a temporary folder");
        for folder in ["user", "cwd"] {
            fs::create_dir(root.path().join(folder)).expect("an empty folder");
        }
        Self { root, env: Vec::new() }
    }

    /// A file of the agent's home.
    pub fn path(&self, file: &str) -> PathBuf {
        self.root.path().join("home").join(file)
    }

    /// A file of the workspace.
    pub fn workspace(&self, file: &str) -> PathBuf {
        self.path("workspace").join(file)
    }

    /// What is in a file of the workspace, if it is there.
    pub fn read(&self, file: &str) -> Option<String> {
        fs::read_to_string(self.workspace(file)).ok()
    }

    /// The folder in which the program is started.
    pub fn cwd(&self) -> PathBuf {
        self.root.path().join("cwd")
    }

    /// Every run has this in its environment.
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name.to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Every run finds this server where it looks for the provider of that wire.
    pub fn with(self, wire: Wire, server: &Server) -> Self {
        match wire {
            Wire::Anthropic => self.with_anthropic(server),
            Wire::OpenAi => self.with_openai(server),
        }
    }

    /// Every run has a key for Anthropic and finds this server in its place.
    pub fn with_anthropic(self, server: &Server) -> Self {
        self.with_anthropic_at(&server.url())
    }

    /// Every run has a key for `OpenAI` and finds this server in its place.
    pub fn with_openai(self, server: &Server) -> Self {
        self.with_openai_at(&server.url())
    }

    pub fn with_anthropic_at(self, url: &str) -> Self {
        self.env("ANTHROPIC_BASE_URL", url).env("ANTHROPIC_API_KEY", "test-key-not-real")
    }

    pub fn with_openai_at(self, url: &str) -> Self {
        let url = format!("{url}/v1");
        self.env("OPENAI_BASE_URL", url).env("OPENAI_API_KEY", "test-key-not-real")
    }

    /// Every run finds this in `config.toml`.
    pub fn config(self, toml: &str) -> Self {
        fs::create_dir_all(self.path("")).expect("a home");
        fs::write(self.path("config.toml"), toml).expect("a config.toml");
        self
    }

    /// A scripted model with these lines: what `--model` takes.
    pub fn script(&self, lines: &[serde_json::Value]) -> String {
        let path = self.root.path().join("script.jsonl");
        let lines: Vec<_> = lines.iter().map(ToString::to_string).collect();
        fs::write(&path, lines.join("\n")).expect("a script");
        format!("script:{}", path.display())
    }

    /// The program with these arguments, for those who start it themselves.
    pub fn command<S: AsRef<OsStr>>(&self, args: &[S]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fledgling"));
        command.args(args).current_dir(self.cwd()).env_clear();
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("HOME", self.root.path().join("user"));
        command.env("TERM", "xterm-256color").env("LANG", "C.UTF-8");
        command.env("FLEDGLING_HOME", self.path(""));
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command
    }

    /// What plain git says in the workspace, with nothing of the machine's configuration.
    pub fn git(&self, args: &[&str]) -> String {
        String::from_utf8_lossy(&self.git_bytes(args)).into_owned()
    }

    /// The same, byte by byte.
    pub fn git_bytes(&self, args: &[&str]) -> Vec<u8> {
        let mut git = Command::new("git");
        git.args(args).current_dir(self.workspace("")).env_clear();
        git.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        git.env("GIT_CONFIG_NOSYSTEM", "1").env("HOME", self.root.path());
        let output = git.output().expect("git");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }

    /// A run to be checked from its start to its end.
    pub fn run<S: AsRef<OsStr>>(&self, args: &[S]) -> Run {
        Run::of(self.command(args))
    }

    /// A running process with nothing on its stdin.
    pub fn spawn<S: AsRef<OsStr>>(&self, args: &[S]) -> Process {
        let mut process = Process::start(self.command(args));
        process.stdin = None;
        process
    }
}

/// A run and what is expected of it: success and silence, unless said otherwise.
#[must_use = "it only runs when it is checked"]
pub struct Run {
    command: Command,
    stdin: Vec<u8>,
    code: i32,
    stdout: Expected,
    stderr: Expected,
}

enum Expected {
    Exactly(String),
    Holding(Vec<String>),
    Anything,
}

impl Run {
    fn of(command: Command) -> Self {
        let (stdout, stderr) = (Expected::Exactly(String::new()), Expected::Exactly(String::new()));
        Self { command, stdin: Vec::new(), code: 0, stdout, stderr }
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self
    }

    /// Ends with this exit code.
    pub fn code(mut self, code: i32) -> Self {
        self.code = code;
        self
    }

    pub fn stdout(mut self, text: &str) -> Self {
        self.stdout = Expected::Exactly(text.to_owned());
        self
    }

    pub fn stdout_any(mut self) -> Self {
        self.stdout = Expected::Anything;
        self
    }

    pub fn stderr(mut self, text: &str) -> Self {
        self.stderr = Expected::Exactly(text.to_owned());
        self
    }

    /// Each of these stands somewhere on stderr.
    pub fn stderr_holds(mut self, parts: &[&str]) -> Self {
        self.stderr = Expected::Holding(parts.iter().map(|part| (*part).to_owned()).collect());
        self
    }

    pub fn stderr_any(mut self) -> Self {
        self.stderr = Expected::Anything;
        self
    }

    /// Run it and compare.
    #[track_caller]
    pub fn check(self) -> Ran {
        let mut process = Process::start(self.command);
        process.send(&self.stdin);
        let ran = process.end();
        assert_eq!(ran.status.code(), Some(self.code), "{ran}");
        self.stdout.check(&ran.stdout, "stdout", &ran);
        let standing = |line: &&str| STANDING_NOTICES.iter().any(|start| line.starts_with(start));
        let stderr: String =
            ran.stderr.split_inclusive('\n').filter(|line| !standing(line)).collect();
        self.stderr.check(&stderr, "stderr", &ran);
        ran
    }
}

impl Expected {
    #[track_caller]
    fn check(&self, text: &str, name: &str, ran: &Ran) {
        match self {
            Self::Anything => {}
            Self::Exactly(expected) => assert_eq!(text, expected, "{name} differs\n{ran}"),
            Self::Holding(parts) => {
                for part in parts {
                    assert!(text.contains(part), "{name} does not say {part:?}\n{ran}");
                }
            }
        }
    }
}

/// What a run that is over did.
pub struct Ran {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl std::fmt::Display for Ran {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { status, stdout, stderr } = self;
        write!(f, "{status}\n--- stdout ---\n{stdout}\n--- stderr ---\n{stderr}\n---")
    }
}

/// A process whose output is gathered while it runs. Dropping it kills it.
pub struct Process {
    pid: i32,
    stdin: Option<ChildStdin>,
    stdout: Arc<Gathered>,
    stderr: Arc<Gathered>,
    readers: Vec<(Receiver<()>, JoinHandle<()>)>,
    ended: Receiver<ExitStatus>,
    status: Option<ExitStatus>,
}

#[derive(Default)]
struct Gathered {
    /// What came, and whether nothing more can come.
    bytes: Mutex<(Vec<u8>, bool)>,
    more: Condvar,
}

impl Gathered {
    fn text(&self) -> String {
        let bytes = self.bytes.lock().expect("nothing panics with it");
        String::from_utf8_lossy(&bytes.0).into_owned()
    }
}

impl Process {
    pub fn start(mut command: Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let (stdout, stderr) = (Arc::default(), Arc::default());
        let readers = vec![
            gather(child.stdout.take().expect("piped"), &stdout),
            gather(child.stderr.take().expect("piped"), &stderr),
        ];
        let (pid, stdin) = (child.id().cast_signed(), child.stdin.take());
        let (end, ended) = channel();
        std::thread::spawn(move || end.send(child.wait().expect("it was started")));
        Self { pid, stdin, stdout, stderr, readers, ended, status: None }
    }

    /// Write to its stdin. That it has gone already is for `end` to find.
    pub fn send(&mut self, bytes: &[u8]) {
        if let Some(stdin) = &mut self.stdin {
            let _ = stdin.write_all(bytes).and_then(|()| stdin.flush());
        }
    }

    /// Wait until this stands on its stdout.
    #[track_caller]
    pub fn wait_stdout(&self, part: &str) {
        self.wait_for(&self.stdout, part);
    }

    /// Wait until something is found on its stdout.
    #[track_caller]
    pub fn wait_in_stdout<T>(&self, what: &str, find: impl Fn(&str) -> Option<T>) -> T {
        let found = |bytes: &[u8]| find(&String::from_utf8_lossy(bytes));
        let mut bytes = self.stdout.bytes.lock().expect("nothing panics with it");
        let started = std::time::Instant::now();
        loop {
            if let Some(found) = found(&bytes.0) {
                return found;
            }
            if bytes.1 || started.elapsed() > BOUND {
                drop(bytes);
                panic!("it did not say {what}\n{}", self.seen());
            }
            let waited = self.stdout.more.wait_timeout(bytes, BOUND);
            bytes = waited.expect("nothing panics with it").0;
        }
    }

    /// Wait until this stands on its stderr.
    #[track_caller]
    pub fn wait_stderr(&self, part: &str) {
        self.wait_for(&self.stderr, part);
    }

    #[track_caller]
    fn wait_for(&self, gathered: &Gathered, part: &str) {
        let found = |bytes: &[u8]| String::from_utf8_lossy(bytes).contains(part);
        let bytes = gathered.bytes.lock().expect("nothing panics with it");
        let waited = gathered
            .more
            .wait_timeout_while(bytes, BOUND, |(bytes, closed)| !*closed && !found(bytes));
        let said = found(&waited.expect("nothing panics with it").0.0);
        assert!(said, "it did not say {part:?}\n{}", self.seen());
    }

    /// Send it a signal, which its children do not get.
    pub fn signal(&self, signal: i32) {
        assert!(self.status.is_none(), "it has ended");
        // SAFETY: no memory is involved, and the child is not reaped while it is waited for.
        let sent = unsafe { libc::kill(self.pid, signal) };
        assert_eq!(sent, 0, "kill: {}", std::io::Error::last_os_error());
    }

    /// Kill it as a power cut would.
    #[track_caller]
    pub fn kill(mut self) -> Ran {
        self.signal(libc::SIGKILL);
        let ran = self.end_with(BOUND);
        assert_eq!(ran.status.signal(), Some(libc::SIGKILL), "it ended by itself\n{ran}");
        ran
    }

    /// Kill it, if it has not ended by itself.
    #[track_caller]
    pub fn kill_if_alive(mut self) -> Ran {
        self.status = self.ended.try_recv().ok();
        if self.status.is_none() {
            // SAFETY: as in `signal`. It may have ended this moment, which is what is wanted.
            unsafe { libc::kill(self.pid, libc::SIGKILL) };
        }
        self.end_with(BOUND)
    }

    /// Wait until it ends by itself, its stdin open.
    #[track_caller]
    pub fn wait_end(&self) {
        for gathered in [&self.stdout, &self.stderr] {
            let bytes = gathered.bytes.lock().expect("nothing panics with it");
            let waited = gathered.more.wait_timeout_while(bytes, BOUND, |(_, closed)| !*closed);
            let closed = waited.expect("nothing panics with it").0.1;
            assert!(closed, "it does not end\n{}", self.seen());
        }
    }

    /// Close its stdin and wait until it ends.
    #[track_caller]
    pub fn end(mut self) -> Ran {
        self.end_with(BOUND)
    }

    #[track_caller]
    fn end_with(&mut self, bound: std::time::Duration) -> Ran {
        self.stdin = None;
        self.status = self.status.or_else(|| self.ended.recv_timeout(bound).ok());
        let Some(status) = self.status else { panic!("it does not end\n{}", self.seen()) };
        for (done, thread) in self.readers.drain(..) {
            let closed = done.recv_timeout(bound).is_ok();
            assert!(closed, "something it started still holds its stdout or stderr");
            thread.join().expect("it only reads");
        }
        Ran { status, stdout: self.stdout.text(), stderr: self.stderr.text() }
    }

    fn seen(&self) -> String {
        let (stdout, stderr) = (self.stdout.text(), self.stderr.text());
        format!("--- stdout ---\n{stdout}\n--- stderr ---\n{stderr}\n---")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.status.is_none() && self.ended.try_recv().is_err() {
            // SAFETY: no memory is involved. The thread that reaps it has not said so yet;
            // in the instant between the two, the pid cannot be given to another process.
            unsafe { libc::kill(self.pid, libc::SIGKILL) };
        }
    }
}

fn gather(
    mut from: impl Read + Send + 'static,
    into: &Arc<Gathered>,
) -> (Receiver<()>, JoinHandle<()>) {
    let into = Arc::clone(into);
    let (done, closed) = channel();
    let thread = std::thread::spawn(move || {
        let mut piece = [0; 4096];
        while let Ok(length @ 1..) = from.read(&mut piece) {
            into.bytes.lock().expect("nothing panics with it").0.extend(&piece[..length]);
            into.more.notify_all();
        }
        into.bytes.lock().expect("nothing panics with it").1 = true;
        into.more.notify_all();
        let _ = done.send(());
    });
    (closed, thread)
}

mod tests {
    use super::*;

    fn bash(script: &str) -> Command {
        let mut command = Command::new("bash");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_run_is_compared_with_what_is_expected() {
        let script = "cat; echo \"CONFINEMENT IS OFF: yes.\" >&2; echo oops >&2; exit 3";
        let run = || Run::of(bash(script)).stdin("in").code(3);
        run().stdout("in").stderr("oops\n").check();
        run().stdout("in").stderr_holds(&["oo", "ps"]).check();
        run().stdout_any().stderr_any().check();
        for wrong in [run().stdout("in"), run().stderr_any(), run().code(0).stdout("in")] {
            let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| wrong.check()));
            assert!(checked.is_err(), "it passed with other output or another code");
        }
    }

    #[test]
    fn a_process_is_talked_to_and_killed() {
        let mut process = Process::start(bash("read -r line; echo \"got $line\"; cat >&2"));
        process.send(b"one\n");
        process.wait_stdout("got one");
        process.send(b"two\n");
        process.wait_stderr("two");
        assert_eq!(process.kill().stdout, "got one\n");
    }

    #[test]
    fn nothing_of_the_machine_reaches_the_program() {
        let home = Home::new().env("EXTRA", "1");
        let command = home.command(&["run"]);
        let mut names: Vec<_> =
            command.get_envs().map(|(name, _)| name.to_string_lossy().into_owned()).collect();
        names.sort();
        assert_eq!(names, ["EXTRA", "FLEDGLING_HOME", "HOME", "LANG", "PATH", "TERM"]);
        assert_eq!(command.get_current_dir(), Some(home.cwd().as_path()));
    }
}
