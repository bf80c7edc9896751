//! What it costs to stay: `cargo bench --bench always`.
//!
//! Owns one run of some two minutes: what an idle `serve` with ten channels and a hundred jobs
//! takes beside one of an empty home; how long it is from a line of a channel to the request to
//! the model, beside a `run` through the door; and how many messages a second are taken in for
//! good, beside what the disk can do. The real program, channels that hand on what this process
//! writes, and a model server in this process. Prints numbers and asserts none.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

mod table;

use table::{Sample, conditions, head, load, millis, row};

/// Rounds that count, of messages and of runs in turn. Some go before them.
const ROUNDS: usize = 60;
const WARM: usize = 5;
/// Messages of which it is measured how soon they are taken in.
const MESSAGES: usize = 2_000;
const CHANNELS: usize = 10;
const JOBS: usize = 100;
/// What hosts do when they begin is over by then, and threads that only helped have gone.
const SETTLED: Duration = Duration::from_secs(15);
/// How long wake-ups are counted: twice the clock's longest sleep.
const IDLE: Duration = Duration::from_secs(60);
const PROGRAM: &str = env!("CARGO_BIN_EXE_fledgling");
/// A channel: what this process writes to one pipe, and what the host says to another.
const CHANNEL: &str = r#"#!/bin/bash
exec 3<&0
cat <&3 >"$TMPDIR/out" &
exec cat "$TMPDIR/in"
"#;
/// A channel that waits.
const IDLE_CHANNEL: &str = "#!/bin/sh\necho '{\"event\":\"hello\"}'\nexec cat >/dev/null\n";

fn main() {
    let server = Server::start();
    // On the disk of the build, since a temporary folder in memory would sync for nothing.
    let homes = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder for homes");
    let load_before = load();
    let lines = |number| format!("{} 4 1 1 * echo {number}\n", number % 60);
    let full = Home::new(homes.path(), "full", &server);
    fs::write(full.workspace("crontab"), (0..JOBS).map(lines).collect::<String>()).expect("jobs");
    for number in 0..CHANNELS {
        full.service(&format!("idle{number}"), IDLE_CHANNEL);
    }
    let hosts = [full.serve(CHANNELS), Home::new(homes.path(), "empty", &server).serve(0)];
    thread::sleep(SETTLED);
    let before = hosts.each_ref().map(Host::switches);
    thread::sleep(IDLE);
    let after = hosts.each_ref().map(Host::switches);
    let [full, empty] = hosts.each_ref().map(Host::memory);
    drop(hosts);

    let talk = Talk::begin(homes.path(), &server);
    let (asked, ran) = talk.latency(&server);
    server.hold.store(true, Ordering::Relaxed);
    let one = talk.taken_in(1);
    let ten = talk.taken_in(CHANNELS);
    let flushed = flushes(homes.path());

    conditions(PROGRAM, ROUNDS, &load_before);
    head();
    println!("idle, {CHANNELS} channels and {JOBS} jobs");
    let one_row = |name: &str, value: f64, aim| row(name, &Sample(vec![value]), aim);
    one_row("  resident (VmRSS), MB", full.resident, Some(20.0));
    one_row("  resident at most (VmHWM), MB", full.most, None);
    one_row("  its share (Pss), MB", full.share, None);
    one_row("  its supervisors' shares together, MB", full.supervisors, None);
    one_row("  resident, an empty home, MB", empty.resident, None);
    one_row("  its share, an empty home, MB", empty.share, None);
    one_row("  resident, ratio to an empty home", full.resident / empty.resident, None);
    let seconds = IDLE.as_secs();
    for (name, index) in [("", 0), (", an empty home", 1)] {
        let [before, after] = [&before[index], &after[index]];
        let host = between(&before.host, &after.host);
        one_row(&format!("  the host wakes, times in {seconds} s{name}"), host, None);
        let supervisors = between(&before.supervisors, &after.supervisors);
        one_row(&format!("  its supervisors, the same{name}"), supervisors, None);
    }
    println!("from a word to the first byte at the model");
    row("  a line of a channel, ms", &asked, None);
    one_row("  the same, ninetieth percentile, ms", asked.quantile(0.9), None);
    row("  `run` through the door, ms", &ran, None);
    one_row("  ninetieth percentile, ms", ran.quantile(0.9), None);
    one_row("  ratio of the medians", asked.median() / ran.median(), None);
    println!("messages taken in for good, each flushed");
    one_row("  from one channel, a second", one, None);
    one_row("  from ten channels, a second", ten, None);
    one_row("  appends of 4 KB to a file, each flushed, a second", flushed, None);
    one_row("  one channel, ratio to these", one / flushed, None);
    one_row("  ten channels, ratio to these", ten / flushed, None);
}

/// A home with what its hosts are started with.
struct Home {
    path: PathBuf,
    model: String,
}

impl Home {
    fn new(homes: &Path, name: &str, server: &Server) -> Self {
        let home = Self { path: homes.join(name), model: format!("http://{}", server.address) };
        fs::create_dir(&home.path).expect("a home");
        fs::write(home.path.join("config.toml"), "model = \"anthropic:bench\"\n").expect("a model");
        home.does(&["run", "--session", "first", "hi"]);
        server.seen();
        home
    }

    fn workspace(&self, file: &str) -> PathBuf {
        self.path.join("workspace").join(file)
    }

    fn service(&self, name: &str, script: &str) {
        let path = self.workspace("services").join(name);
        fs::create_dir_all(self.workspace("services")).expect("a folder");
        fs::write(&path, script).expect("a service");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("a service");
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        command.args(args).current_dir("/").env_clear().env("TERM", "dumb");
        command.env("PATH", "/usr/local/bin:/usr/bin:/bin").env("FLEDGLING_HOME", &self.path);
        command.env("HOME", self.path.parent().expect("homes stand in a folder"));
        command.env("ANTHROPIC_BASE_URL", &self.model).env("ANTHROPIC_API_KEY", "none");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    fn does(&self, args: &[&str]) {
        let status = self.command(args).status();
        assert!(status.expect("the program").success(), "{args:?}");
    }

    /// A host, as soon as so many services run.
    fn serve(&self, services: usize) -> Host {
        let mut command = self.command(&["serve"]);
        let mut child = command.stderr(Stdio::piped()).spawn().expect("the program");
        let mut lines = BufReader::new(child.stderr.take().expect("it is piped")).lines();
        let mut awaited = services + 1;
        while awaited > 0 {
            let line = lines.next().expect("it goes on").expect("a line");
            awaited -= usize::from(line.contains("started") || line.contains("hosts"));
        }
        thread::spawn(move || lines.for_each(drop));
        Host(child)
    }
}

/// A running host. Dropping it kills it, and its supervisors end what it started.
struct Host(Child);

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// How often threads went to sleep, each by its id.
struct Switches {
    host: BTreeMap<String, u64>,
    supervisors: BTreeMap<String, u64>,
}

/// How often they did in between. A thread that ended meanwhile is not counted.
fn between(before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>) -> f64 {
    let since = |(thread, count): (&String, &u64)| count - before.get(thread).unwrap_or(&0);
    after.iter().map(since).sum::<u64>() as f64
}

/// In megabytes.
struct Memory {
    resident: f64,
    most: f64,
    share: f64,
    supervisors: f64,
}

impl Host {
    /// The processes that it forked: one for each service, which has that as its child.
    fn supervisors(&self) -> Vec<u32> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.0.id())).expect("it runs");
        let children = tasks.flatten().map(|task| fs::read_to_string(task.path().join("children")));
        let children = children.map(Result::unwrap_or_default).collect::<Vec<_>>().join(" ");
        children.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
    }

    fn switches(&self) -> Switches {
        let supervisors = self.supervisors().into_iter().flat_map(switches).collect();
        Switches { host: switches(self.0.id()), supervisors }
    }

    fn memory(&self) -> Memory {
        let status = format!("/proc/{}/status", self.0.id());
        let share = |pid| number(&format!("/proc/{pid}/smaps_rollup"), "Pss:") * 1024.0 / 1e6;
        Memory {
            resident: number(&status, "VmRSS:") * 1024.0 / 1e6,
            most: number(&status, "VmHWM:") * 1024.0 / 1e6,
            share: share(self.0.id()),
            supervisors: self.supervisors().into_iter().map(share).sum(),
        }
    }
}

fn switches(pid: u32) -> BTreeMap<String, u64> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("it runs").flatten();
    let counts = tasks.map(|task| {
        let path = task.path().join("status").display().to_string();
        (path.clone(), number(&path, "voluntary_ctxt_switches:") as u64)
    });
    counts.collect()
}

/// A field of a file of `/proc`; nothing where it may not be read.
fn number(path: &str, field: &str) -> f64 {
    let text = fs::read_to_string(path).unwrap_or_default();
    let value = text.lines().find_map(|line| line.strip_prefix(field)?.split_whitespace().next());
    value.and_then(|value| value.parse().ok()).unwrap_or(f64::NAN)
}

/// A host with channels in which the owner is paired.
struct Talk {
    home: Home,
    _host: Host,
    channels: Vec<Pipes>,
}

/// The ends of a channel.
struct Pipes {
    into: File,
    from: Receiver<(Instant, Value)>,
}

impl Pipes {
    fn say(&self, what: &Value) {
        (&self.into).write_all(format!("{what}\n").as_bytes()).expect("it is read");
    }

    /// Wait for something that the host says; all else is let pass.
    fn wait(&self, wanted: impl Fn(&Value) -> bool) -> (Instant, Value) {
        let bound = Duration::from_secs(60);
        loop {
            let (at, said) = self.from.recv_timeout(bound).expect("the host says something");
            if said["event"] == "message" {
                self.say(&json!({"event": "ack", "key": said["key"]}));
            }
            if wanted(&said) {
                return (at, said);
            }
        }
    }
}

fn message(id: &str) -> Value {
    json!({"id": id, "chat": "1", "from": "1", "text": "hello, what is new?"})
}

impl Talk {
    fn begin(homes: &Path, server: &Server) -> Self {
        let home = Home::new(homes, "talk", server);
        let names: Vec<_> = (0..CHANNELS).map(|number| format!("channel{number}")).collect();
        for name in &names {
            let folder = home.path.join("scratch/services").join(name);
            fs::create_dir_all(&folder).expect("a folder");
            let pipes = [folder.join("in"), folder.join("out")];
            let made = Command::new("mkfifo").args(&pipes).status();
            assert!(made.expect("mkfifo").success());
            home.service(name, CHANNEL);
        }
        let host = home.serve(CHANNELS);
        let channels =
            names.iter().map(|name| pipes(&home.path.join("scratch/services").join(name)));
        let channels: Vec<_> = channels.collect();
        for channel in &channels {
            channel.say(&json!({"event": "hello"}));
            channel.say(&message("first"));
            let (_, told) = channel.wait(|said| said["event"] == "message");
            let text = told["text"].as_str().expect("text");
            let (_, code) = text.split_once("fledgling pair ").expect("a code");
            home.does(&["pair", code.trim()]);
            channel.wait(|said| said["event"] == "message");
        }
        Self { home, _host: host, channels }
    }

    /// Milliseconds from a line of a channel, and from the start of a `run`, to the model.
    fn latency(&self, server: &Server) -> (Sample, Sample) {
        let (mut asked, mut ran) = (Vec::new(), Vec::new());
        let channel = &self.channels[0];
        for round in 0..WARM + ROUNDS {
            let begun = Instant::now();
            channel.say(&message(&format!("round {round}")));
            asked.push(millis(server.seen() - begun));
            channel.wait(|said| said["key"].as_str().is_some_and(|key| key.starts_with("turn:")));
            let begun = Instant::now();
            let mut run = self.home.command(&["run", "--session", "first", "hello, what is new?"]);
            let mut run = run.spawn().expect("the program");
            ran.push(millis(server.seen() - begun));
            assert!(run.wait().expect("it ends").success());
        }
        (Sample(asked.split_off(WARM)), Sample(ran.split_off(WARM)))
    }

    /// Messages a second that so many channels have acknowledged while no turn ends.
    fn taken_in(&self, count: usize) -> f64 {
        let each = MESSAGES / count;
        let begun = Instant::now();
        for channel in &self.channels[..count] {
            let lines =
                (0..each).map(|number| format!("{}\n", message(&format!("{count} {number}"))));
            let (mut into, lines) =
                (channel.into.try_clone().expect("a pipe"), lines.collect::<String>());
            thread::spawn(move || into.write_all(lines.as_bytes()));
        }
        let last = format!("{count} {}", each - 1);
        let ended =
            self.channels[..count].iter().map(|channel| channel.wait(|said| said["id"] == *last).0);
        let ended = ended.max().expect("there are some");
        (each * count) as f64 / (ended - begun).as_secs_f64()
    }
}

/// Open both ends, which the channel does at the same time.
fn pipes(folder: &Path) -> Pipes {
    let (send, from): (Sender<_>, _) = channel();
    let out = folder.join("out");
    thread::spawn(move || {
        let lines = BufReader::new(File::open(out).expect("a pipe")).lines();
        for line in lines.map_while(Result::ok) {
            let at = Instant::now();
            let said = serde_json::from_str(&line).expect("JSON");
            if send.send((at, said)).is_err() {
                return;
            }
        }
    });
    let into = OpenOptions::new().write(true).open(folder.join("in")).expect("a pipe");
    Pipes { into, from }
}

/// How often a second something can be appended to a file for good.
fn flushes(folder: &Path) -> f64 {
    let mut file = File::create(folder.join("flushed")).expect("a file");
    let (count, begun) = (300, Instant::now());
    for _ in 0..count {
        file.write_all(&[7; 4096]).expect("it is written");
        file.sync_data().expect("it is flushed");
    }
    f64::from(count) / begun.elapsed().as_secs_f64()
}

/// A model server that answers at once, or not at all.
struct Server {
    address: SocketAddr,
    hold: Arc<AtomicBool>,
    asked: Receiver<Instant>,
}

impl Server {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port on loopback");
        let address = listener.local_addr().expect("it is bound");
        let (hold, (send, asked)) = (Arc::<AtomicBool>::default(), channel());
        let silent = hold.clone();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (silent, send) = (silent.clone(), send.clone());
                thread::spawn(move || serve(&stream, &silent, &send));
            }
        });
        Self { address, hold, asked }
    }

    /// When the next request came: its first byte.
    fn seen(&self) -> Instant {
        self.asked.recv_timeout(Duration::from_secs(60)).expect("the model is asked")
    }
}

fn serve(
    mut stream: &TcpStream,
    silent: &AtomicBool,
    seen: &Sender<Instant>,
) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream);
    while !reader.fill_buf()?.is_empty() {
        let (at, mut line, mut length) = (Instant::now(), String::new(), 0);
        while reader.read_line(&mut line)? > 2 {
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().map_err(std::io::Error::other)?;
            }
            line.clear();
        }
        if length == 0 {
            return Ok(());
        }
        reader.read_exact(&mut vec![0; length])?;
        let _ = seen.send(at);
        while silent.load(Ordering::Relaxed) {
            thread::park();
        }
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length:";
        stream.write_all(format!("{head} {}\r\n\r\n{REPLY}", REPLY.len()).as_bytes())?;
    }
    Ok(())
}

const REPLY: &str = r#"data: {"type":"message_start","message":{"usage":{"input_tokens":1,"output_tokens":1}}}

data: {"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}

data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Done."}}

data: {"type":"content_block_stop","index":0}

data: {"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":1}}

data: {"type":"message_stop"}

"#;
