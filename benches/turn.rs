//! What a turn costs, beyond what the model and its commands take: `cargo bench`.
//!
//! Owns one table of numbers, all from one run, each beside its aim. The real program talks
//! to a model server in this process that answers at once. What is compared is measured in
//! turn, round by round, so that a busy machine disturbs both sides alike. Prints numbers
//! and asserts none: only a turn that goes wrong ends it. Knows no type of the program.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Instant;

mod table;

use table::{Sample, conditions, head, load, millis, row};

/// Rounds that count. One more goes before them, to fill the system's caches.
const ROUNDS: usize = 40;
/// Tool calls in the turn from which the price of one is taken.
const CALLS: usize = 20;
/// What the model says when it calls no tool.
const ANSWER: &str = "Done.";
const PROGRAM: &str = env!("CARGO_BIN_EXE_fledgling");

fn main() {
    let server = Server::start();
    // On the disk of the build, since a temporary folder in memory would sync for nothing.
    let homes = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder for homes");
    let home = homes.path().join("home");
    let bytes = [Wire::Anthropic, Wire::OpenAi].map(|wire| {
        let turn = server.turn(&homes.path().join(format!("first-{wire:?}")), wire, vec![]);
        turn.request_bytes as f64
    });
    server.turn(&home, Wire::Anthropic, vec![]);
    let load_before = load();
    let mut rounds = Vec::new();
    for number in 0..=ROUNDS {
        rounds.push(round(&server, &home, &homes.path().join(number.to_string())));
    }
    rounds.remove(0);
    conditions(PROGRAM, ROUNDS, &load_before);

    let column = |pick: fn(&Round) -> f64| Sample(rounds.iter().map(pick).collect());
    head();
    row("start to first request, ms", &column(|round| round.plain.until_request), None);
    row("one turn without tools, ms", &column(|round| round.plain.whole), Some(20.0));
    row("  the first of a new home, ms", &column(|round| round.newborn.whole), None);
    row("  one that changes a file with bash, ms", &column(|round| round.change.whole), None);
    row("bare bash -c true, ms", &column(|round| round.bash), None);
    row("one tool turn beyond that, ms", &column(Round::tool), Some(6.0));
    row("peak memory of a turn with a tool, MB", &column(|round| round.tools.peak), Some(13.0));
    for (wire, bytes) in ["anthropic", "openai"].into_iter().zip(bytes) {
        row(&format!("first request, {wire}, bytes"), &Sample(vec![bytes]), Some(5000.0));
    }
    size_of("binary, as built for this run, MB", Path::new(PROGRAM), None);
    size_of("binary, profile dist, MB", &profile_folder("dist").join("fledgling"), Some(12.0));
}

/// Everything that is compared, once. Milliseconds and megabytes.
struct Round {
    plain: Turn,
    tools: Turn,
    change: Turn,
    newborn: Turn,
    bash: f64,
}

fn round(server: &Server, home: &Path, new_home: &Path) -> Round {
    // Each call differs, since the same one again and again ends a turn.
    let calls = (0..CALLS).map(|number| format!("true {number}")).collect();
    Round {
        plain: server.turn(home, Wire::Anthropic, vec![]),
        tools: server.turn(home, Wire::Anthropic, calls),
        bash: bare_bash(),
        change: server.turn(home, Wire::Anthropic, vec!["date +%N >> memory/days.md".to_owned()]),
        newborn: server.turn(new_home, Wire::Anthropic, vec![]),
    }
}

impl Round {
    /// A request to the model, a bash call and their record, without the bash itself.
    fn tool(&self) -> f64 {
        (self.tools.whole - self.plain.whole) / CALLS as f64 - self.bash
    }
}

/// The mean of some, since one alone is near the noise.
fn bare_bash() -> f64 {
    let started = Instant::now();
    for _ in 0..CALLS {
        let status = Command::new("bash").args(["-c", "true"]).stdin(Stdio::null()).status();
        assert!(status.expect("bash is installed").success());
    }
    millis(started.elapsed()) / CALLS as f64
}

/// One run of the program, from its start to its end. Milliseconds and megabytes.
struct Turn {
    until_request: f64,
    whole: f64,
    peak: f64,
    request_bytes: usize,
}

impl Server {
    /// A turn in which the model calls bash with these commands.
    fn turn(&self, home: &Path, wire: Wire, calls: Vec<String>) -> Turn {
        let calls = calls.into_iter();
        *self.state.lock().expect("no connection panics with it") = State { calls, first: None };
        let mut command = Command::new(PROGRAM);
        command.args(["run", "--model", wire.model(), "hi"]).current_dir("/").env_clear();
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("HOME", home.parent().expect("homes stand in a folder"));
        command.env("FLEDGLING_HOME", home).env("TERM", "dumb");
        command.env("ANTHROPIC_BASE_URL", format!("http://{}", self.address));
        command.env("OPENAI_BASE_URL", format!("http://{}/v1", self.address));
        command.env("ANTHROPIC_API_KEY", "none").env("OPENAI_API_KEY", "none");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let started = Instant::now();
        #[expect(clippy::zombie_processes, reason = "`wait` below takes it in")]
        let mut child = command.spawn().expect("the program starts");
        let mut said = String::new();
        let mut stdout = child.stdout.take().expect("it is piped");
        stdout.read_to_string(&mut said).expect("its answer is text");
        let (status, peak) = wait(child.id());
        let whole = millis(started.elapsed());
        assert!(status.success() && said.trim_end() == ANSWER, "{status}: {said}");
        let first = self.state.lock().expect("no connection panics with it").first;
        let (seen, request_bytes) = first.expect("it asked");
        Turn { until_request: millis(seen - started), whole, peak, request_bytes }
    }
}

/// How a child ended, and the megabytes that it or one of its children had resident at
/// most. The kernel counts this process in, as it was at the fork: it must stay small.
fn wait(pid: u32) -> (ExitStatus, f64) {
    let (mut status, mut usage) = (0, MaybeUninit::<libc::rusage>::uninit());
    // SAFETY: a child of ours that nobody else waits for; both places are live.
    let usage = unsafe {
        let waited = libc::wait4(pid.cast_signed(), &raw mut status, 0, usage.as_mut_ptr());
        assert_eq!(waited, pid.cast_signed());
        usage.assume_init()
    };
    // Linux counts kilobytes, macOS bytes.
    let unit = if cfg!(target_os = "linux") { 1024 } else { 1 };
    (ExitStatus::from_raw(status), (usage.ru_maxrss * unit) as f64 / 1e6)
}

#[derive(Debug, Clone, Copy)]
enum Wire {
    Anthropic,
    OpenAi,
}

impl Wire {
    fn model(self) -> &'static str {
        match self {
            Self::Anthropic => "anthropic:bench",
            Self::OpenAi => "openai:bench",
        }
    }

    /// A stream that calls bash, or one that ends the turn.
    fn reply(self, command: Option<&str>) -> String {
        let Self::Anthropic = self else {
            assert!(command.is_none(), "tools are measured on the other wire");
            return format!(
                "data: {{\"choices\":[{{\"delta\":{{\"content\":\"{ANSWER}\"}}}}]}}\n\n\
                 data: {{\"choices\":[{{\"delta\":{{}},\"finish_reason\":\"stop\"}}]}}\n\n\
                 data: [DONE]\n\n"
            );
        };
        let (block, delta, stop) = match command {
            Some(command) => (
                r#"{"type":"tool_use","id":"call","name":"bash","input":{}}"#,
                format!(
                    r#"{{"type":"input_json_delta","partial_json":"{{\"command\":\"{command}\"}}"}}"#
                ),
                "tool_use",
            ),
            None => (
                r#"{"type":"text","text":""}"#,
                format!(r#"{{"type":"text_delta","text":"{ANSWER}"}}"#),
                "end_turn",
            ),
        };
        let events = [
            r#"{"type":"message_start","message":{"usage":{"input_tokens":1,"output_tokens":1}}}"#
                .to_owned(),
            format!(r#"{{"type":"content_block_start","index":0,"content_block":{block}}}"#),
            format!(r#"{{"type":"content_block_delta","index":0,"delta":{delta}}}"#),
            r#"{"type":"content_block_stop","index":0}"#.to_owned(),
            format!(
                r#"{{"type":"message_delta","delta":{{"stop_reason":"{stop}"}},"usage":{{"output_tokens":1}}}}"#
            ),
            r#"{"type":"message_stop"}"#.to_owned(),
        ];
        events.map(|data| format!("data: {data}\n\n")).concat()
    }
}

/// A model server that answers at once: as many calls as it is told, then a word.
struct Server {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// Commands that this turn's replies still call bash with.
    calls: std::vec::IntoIter<String>,
    /// When the turn's first request was there, and the bytes of its body.
    first: Option<(Instant, usize)>,
}

impl Server {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port on loopback");
        let address = listener.local_addr().expect("it is bound");
        let state = Arc::<Mutex<State>>::default();
        let shared = state.clone();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let state = shared.clone();
                // A connection ends with the program that made it.
                thread::spawn(move || serve(&stream, &state));
            }
        });
        Self { address, state }
    }
}

fn serve(mut stream: &TcpStream, state: &Mutex<State>) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream);
    loop {
        let (mut line, mut wire, mut length) = (String::new(), Wire::OpenAi, 0);
        while reader.read_line(&mut line)? > 2 {
            let lower = line.to_ascii_lowercase();
            if lower.starts_with("post /v1/messages ") {
                wire = Wire::Anthropic;
            } else if let Some(value) = lower.strip_prefix("content-length:") {
                length = value.trim().parse().map_err(std::io::Error::other)?;
            }
            line.clear();
        }
        if length == 0 {
            return Ok(());
        }
        reader.read_exact(&mut vec![0; length])?;
        let seen = Instant::now();
        let body = {
            let mut state = state.lock().expect("no connection panics with it");
            state.first.get_or_insert((seen, length));
            wire.reply(state.calls.next().as_deref())
        };
        let length = body.len();
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length:";
        stream.write_all(format!("{head} {length}\r\n\r\n{body}").as_bytes())?;
    }
}

fn size_of(name: &str, file: &Path, aim: Option<f64>) {
    match fs::metadata(file) {
        Ok(metadata) => row(name, &Sample(vec![metadata.len() as f64 / 1e6]), aim),
        Err(_) => println!("{name:<46}  not built; `cargo build --profile dist` does"),
    }
}

/// Where a profile's programs are put, beside the one that is measured.
fn profile_folder(profile: &str) -> PathBuf {
    Path::new(PROGRAM).ancestors().nth(2).unwrap_or(Path::new("")).join(profile)
}
