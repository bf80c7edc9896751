//! One host, one door: several processes of one home at a time, commands that an agent
//! types, and what of it all outlives a kill.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::BOUND;
use crate::home::{Home, Process, Ran};
use crate::model_server::{Asked, Server};
use crate::reply::{Chunk, Gate, Reply};
use crate::rules::Wire;

/// A home with two models, `a` and `b`, each behind a server and a wire of its own: one
/// conversation each.
struct Two {
    home: Home,
    a: Server,
    b: Server,
}

impl Two {
    fn new() -> Self {
        let (a, b) = (Server::start(), Server::start());
        let home = Home::new().env("ANTHROPIC_API_KEY", "key-a").env("OPENAI_API_KEY", "key-b");
        let home = home.config(&format!(
            "[models.a]\nwire = \"anthropic\"\nname = \"a\"\nbase_url = \"{}\"\nkey = \"ANTHROPIC_API_KEY\"\n\
             [models.b]\nwire = \"openai\"\nname = \"b\"\nbase_url = \"{}/v1\"\nkey = \"OPENAI_API_KEY\"\n",
            a.url(),
            b.url()
        ));
        Self { home, a, b }
    }

    /// A running `run` whose events are printed as JSON.
    fn spawn(&self, session: &str, model: &str, text: &str) -> Process {
        self.home.spawn(&["run", "--json", "--session", session, "--model", model, text])
    }

    /// A host that is busy with session `a` of model `a`, which says `first` and waits.
    fn busy(&self) -> (Process, Gate) {
        let gate = Gate::new();
        self.a.queue(Reply::text("I begin. ").wait(&gate).and("I end."));
        let host = self.spawn("a", "a", "first");
        host.wait_stdout("I begin");
        (host, gate)
    }

    /// The results of these commands, run one after the other in a turn of session `s`.
    fn results(&self, commands: &[&str]) -> Vec<String> {
        for command in commands {
            self.a.queue(Reply::new().bash(command));
        }
        self.a.queue(Reply::text("Done."));
        let run = self.home.run(&["run", "--session", "s", "--model", "a", "go"]);
        run.stdout("Done.\n").stderr_any().check();
        let results = last(&self.a).results();
        results[results.len() - commands.len()..].to_vec()
    }

    fn transcript(&self, session: &str) -> String {
        let path = self.home.path(&format!("sessions/{session}.jsonl"));
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// Wait until this many messages stand in line.
    fn in_line(&self, count: u64) {
        let state = rusqlite::Connection::open(self.home.path("state.db")).expect("a database");
        let inbox = || state.query_row("SELECT count(*) FROM inbox", [], |row| row.get(0));
        let started = std::time::Instant::now();
        while inbox() != Ok(count) {
            assert!(started.elapsed() < BOUND, "{:?} messages are in line", inbox());
            std::thread::yield_now();
        }
    }
}

fn last(server: &Server) -> Asked {
    server.wait(0).pop().expect("a request")
}

/// All that was replied in a run whose events are JSON.
fn said(ran: &Ran) -> Vec<String> {
    let events = ran.stdout.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let replies = events.filter(|event| event["event"] == "reply");
    replies.map(|event| event["text"].as_str().expect("a text").to_owned()).collect()
}

#[track_caller]
fn done(process: Process) -> Ran {
    let ran = process.end();
    assert!(ran.status.success(), "{ran}");
    ran
}

/// Asks the host over the door of a hand, byte for byte: `ask NAME REQUEST`.
const ASK: &str = r#"cd "$FLEDGLING_DOOR"; ask() { printf '%s' "$2" > "$1"; mkfifo "$1.replies"; \
    exec 3<>"$1.replies"; echo "$1" > requests; timeout 50 head -n1 <&3; rm -f "$1.replies"; };"#;

#[test]
fn sessions_run_side_by_side_and_each_streams_its_own() {
    let two = Two::new();
    let (host, first) = two.busy();
    let second = Gate::new();
    two.b.queue(Reply::text("I also begin. ").wait(&second).and("I also end."));
    let attached = two.spawn("b", "b", "hello");
    attached.wait_stdout("I also");
    // Two turns are open, and a list of them is answered meanwhile.
    let listed = two.home.run(&["sessions"]).stdout_any().check();
    assert_eq!(listed.stdout.matches("running for").count(), 2, "{listed}");
    second.open();
    assert_eq!(said(&done(attached)), ["I also begin. I also end."]);
    first.open();
    assert_eq!(said(&done(host)), ["I begin. I end."]);
    assert_eq!((two.a.asked(1).len(), two.b.asked(1).len()), (1, 1));
}

#[test]
fn messages_to_one_session_are_answered_in_the_order_of_asking() {
    let two = Two::new();
    let (host, gate) = two.busy();
    two.a.queue(Reply::text("Two.")).queue(Reply::text("Three."));
    let second = two.spawn("a", "a", "second");
    two.in_line(1);
    let third = two.spawn("a", "a", "third");
    two.in_line(2);
    gate.open();
    assert_eq!(said(&done(host)), ["I begin. I end."]);
    assert_eq!(said(&done(second)), ["Two."]);
    assert_eq!(said(&done(third)), ["Three."]);
    let heard = two.a.asked(3)[2].heard();
    assert!(
        heard.find("first") < heard.find("second") && heard.find("second") < heard.find("third")
    );
}

#[test]
fn a_host_that_ends_waits_for_what_others_asked_of_it() {
    let two = Two::new();
    let (host, first) = two.busy();
    let second = Gate::new();
    two.b.queue(Reply::new().wait(&second).and("Answered."));
    let attached = two.home.spawn(&["run", "--session", "b", "--model", "b", "hello"]);
    second.reached();
    first.open();
    host.wait_stdout("still running here: b. Waiting");
    second.open();
    assert_eq!(said(&done(host)), ["I begin. I end."]);
    assert_eq!(done(attached).stdout, "Answered.\n");
}

#[test]
fn a_host_that_waits_for_a_line_serves_its_door_and_heeds_signals() {
    let two = Two::new();
    let mut host = Process::start(two.home.command(&["--json", "--model", "a"]));
    two.a.queue(Reply::text("One."));
    host.send(b"first\n");
    host.wait_stdout("turn_ended");
    let listed = two.home.run(&["sessions"]).stdout_any().check();
    assert!(listed.stdout.contains("first"), "{listed}");
    host.signal(libc::SIGTERM);
    host.wait_end();
    assert_eq!(host.end().status.code(), Some(130));
}

#[test]
fn a_host_that_is_told_to_leave_begins_no_other_turn() {
    let two = Two::new();
    let (host, _gate) = two.busy();
    two.a.queue(Reply::text("Two ").wait(&Gate::new())).queue(Reply::text("Three."));
    let second = two.spawn("a", "a", "second");
    two.in_line(1);
    let third = two.spawn("a", "a", "third");
    two.in_line(2);
    host.signal(libc::SIGINT);
    host.wait_stdout("still running here: a");
    two.a.wait(2);
    host.signal(libc::SIGINT);
    assert_eq!(host.end().status.code(), Some(130));
    assert_eq!(second.end().status.code(), Some(130));
    let ran = done(third);
    assert_eq!(said(&ran), ["Three."]);
    assert!(ran.stdout.contains("this one runs them now"), "{ran}");
    assert_eq!(two.transcript("a").matches("\"third\"").count(), 1);
}

#[test]
fn what_cannot_be_answered_and_nobody_hears_of_stays_in_line_and_blocks_nobody() {
    let two = Two::new();
    let (host, _gate) = two.busy();
    let second = two.spawn("a", "b", "second");
    two.in_line(1);
    second.kill();
    host.kill();
    let config = fs::read_to_string(two.home.path("config.toml")).expect("a config.toml");
    let (only_a, _) = config.split_once("[models.b]").expect("b");
    fs::write(two.home.path("config.toml"), only_a).expect("a config.toml");
    two.a.queue(Reply::text("Three."));
    let ran = done(two.spawn("a", "a", "third"));
    assert_eq!(said(&ran), ["Three."]);
    assert!(ran.stdout.contains("What waited in session a was not answered"), "{ran}");
    two.in_line(1);
    fs::write(two.home.path("config.toml"), config).expect("a config.toml");
    two.b.queue(Reply::text("Two.")).allow_prefix_change();
    two.a.queue(Reply::text("Four."));
    assert_eq!(said(&done(two.spawn("a", "a", "fourth"))), ["Four."]);
    assert!(last(&two.b).heard().contains("second"));
    two.in_line(0);
}

#[test]
fn stopping_a_turn_leaves_the_messages_behind_it_in_line() {
    let two = Two::new();
    let (host, _gate) = two.busy();
    two.a.queue(Reply::text("Two."));
    let second = two.spawn("a", "a", "second");
    two.in_line(1);
    two.home.run(&["stop", "a"]).stderr("Stopped: a.\n").check();
    assert_eq!(said(&done(second)), ["Two."]);
    assert_eq!(host.end().status.code(), Some(130));
    assert!(last(&two.a).heard().contains("interrupted"));
}

#[test]
fn ctrl_c_takes_a_message_out_of_the_line_and_leaves_the_others_alone() {
    let two = Two::new();
    let (host, gate) = two.busy();
    let attached = two.spawn("a", "a", "never mind");
    two.in_line(1);
    attached.signal(libc::SIGINT);
    let ran = attached.end();
    assert_eq!(ran.status.code(), Some(130), "{ran}");
    assert!(ran.stderr.contains("taken back"), "{ran}");
    gate.open();
    done(host);
    two.a.asked(1);
    assert!(!two.transcript("a").contains("never mind"));
}

#[test]
fn ctrl_c_of_an_attached_run_stops_its_own_turn_alone() {
    let two = Two::new();
    let (host, first) = two.busy();
    two.b.queue(Reply::text("So far ").wait(&Gate::new()));
    let attached = two.spawn("b", "b", "hello");
    attached.wait_stdout("So far");
    attached.signal(libc::SIGTERM);
    let ran = attached.end();
    assert_eq!(ran.status.code(), Some(130), "{ran}");
    first.open();
    assert_eq!(said(&done(host)), ["I begin. I end."]);
    // The interrupted conversation goes on.
    two.b.queue(Reply::text("Yes?"));
    two.home
        .run(&["run", "--session", "b", "--model", "b", "so?"])
        .stdout("Yes?\n")
        .stderr_any()
        .check();
    assert!(last(&two.b).heard().contains("interrupted"));
}

#[test]
fn a_killed_host_is_followed_by_whoever_waits_and_nothing_is_answered_twice() {
    let two = Two::new();
    let (host, _gate) = two.busy();
    two.a.queue(Reply::text("I took over."));
    let attached = two.spawn("a", "a", "second");
    two.in_line(1);
    host.kill();
    let ran = done(attached);
    assert_eq!(said(&ran), ["I took over."]);
    assert!(ran.stdout.contains("this one runs them now"), "{ran}");
    assert!(ran.stdout.contains("Turn 1 of session a was interrupted"), "{ran}");
    two.a.asked(2);
    assert_eq!(last(&two.a).heard().matches("second").count(), 1);
    assert_eq!(two.transcript("a").matches("\"second\"").count(), 1);
}

#[test]
fn a_turn_that_began_in_a_killed_host_is_not_begun_again() {
    let two = Two::new();
    let (host, _first) = two.busy();
    two.b.queue(Reply::new().bash("echo kept > kept").wait(&Gate::new()));
    let attached = two.spawn("b", "b", "the task");
    attached.wait_stdout("turn_started");
    two.b.wait(1);
    host.kill();
    let ran = attached.end();
    assert_eq!(ran.status.code(), Some(1), "{ran}");
    let why = "the fledgling that ran it ended in the middle of the turn; what was finished is kept: continue with --session b";
    assert!(ran.stderr.contains(why), "{ran}");
    two.b.queue(Reply::text("Going on."));
    let run =
        two.home.run(&["run", "--session", "b", "--model", "b", "go on"]).stdout("Going on.\n");
    run.stderr_holds(&["of session a was interrupted", "of session b was interrupted"]).check();
    assert_eq!(two.b.asked(2)[1].heard().matches("the task").count(), 1);
}

#[test]
fn an_agents_command_reaches_its_host_however_it_is_started() {
    let two = Two::new();
    let list = "fledgling sessions --json";
    let python = "/usr/bin/python3 -c 'import subprocess; print(subprocess.run([\"fledgling\", \"sessions\", \
        \"--json\"], capture_output=True, text=True).stdout, end=\"\")'";
    let setsid = format!("setsid -w {list}");
    let files = "for f in \"$FLEDGLING_DOOR\"/*; do [ -p \"$f\" ] || echo \"$f is no FIFO\"; done; \
        ls -ld \"$FLEDGLING_DOOR\" | cut -c1-10; env | grep -c _KEY";
    let mut commands = vec![list, &setsid, files];
    let has_python =
        Command::new("/usr/bin/python3").arg("--version").stdout(Stdio::null()).status();
    if has_python.is_ok_and(|status| status.success()) {
        commands.push(python);
    } else {
        eprintln!("skipped: there is no python3");
    }
    let results = two.results(&commands);
    for result in results.iter().filter(|result| !result.contains("drwx")) {
        let listed: Value = serde_json::from_str(result).unwrap_or_else(|_| panic!("{result}"));
        assert_eq!((&listed["name"], listed["running"].is_u64()), (&json!("s"), true), "{result}");
    }
    assert!(results[2].starts_with("drwx------\n0\n"), "{}", results[2]);
    assert_eq!(fs::read_dir(two.home.path("doors")).expect("doors").count(), 0);
}

#[test]
fn an_agent_starts_a_session_below_its_own() {
    let two = Two::new();
    two.b.queue(Reply::new().bash(
        "fledgling run --session s 'you there?' 2>&1; fledgling end s 2>&1; fledgling stop s 2>&1; \
         fledgling sessions --json; fledgling usage --json",
    ));
    two.b.queue(Reply::text("I am the child."));
    let results = two.results(&[
        "fledgling run --session kid --model b 'hello kid' 2>/dev/null",
        "fledgling sessions --json",
    ]);
    assert_eq!(results[0], "I am the child.\n");
    // The list of the one that started it has both.
    assert_eq!(results[1].lines().count(), 2, "{}", results[1]);
    let transcript = two.transcript("kid");
    let lines: Vec<Value> =
        transcript.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!((&lines[0]["kind"], &lines[0]["parent"]), (&json!("session"), &json!("s")));
    assert_eq!(lines[1]["origin"], "agent:s");
    assert!(two.b.asked(2)[0].heard().contains("agent:s"), "{}", two.b.asked(2)[0].heard());
    // The child cannot reach upwards, and sees itself alone.
    let seen = &two.b.asked(2)[1].results()[0];
    assert_eq!(seen.matches("session s is out of reach").count(), 3, "{seen}");
    assert!(seen.contains("\"name\":\"kid\"") && !seen.contains("\"name\":\"s\""), "{seen}");
    assert!(!seen.contains("\"session\":\"s\""), "{seen}");
}

#[test]
fn an_agent_is_refused_what_is_not_its_own() {
    let two = Two::new();
    two.b.queue(Reply::text("Mine."));
    two.home
        .run(&["run", "--session", "other", "--model", "b", "x"])
        .stdout("Mine.\n")
        .stderr_any()
        .check();
    let refused = two.results(&[
        "fledgling run --session s 'again' 2>&1",
        "for c in 'run --session other x' 'wire other' 'stop other' 'end other' 'self --session other'; do \
            fledgling $c 2>&1; echo \"$c: $?\"; done",
        &format!(
            "{ASK} ask one '{{\"verb\":\"compact\",\"session\":\"s\"}}'; \
             ask two '{{\"verb\":\"choose\",\"session\":\"s\",\"model\":\"b\"}}'; \
             ask three '{{\"verb\":\"take_back\",\"key\":\"x\"}}'; \
             ask four '{{\"verb\":\"watch\",\"session\":\"other\"}}'; \
             ask five '{{\"verb\":\"wire\",\"session\":\"../sessions/other\"}}'"
        ),
        "fledgling sessions --json | grep -c other; fledgling usage --json | grep -c other; \
         fledgling wire --json | grep -c hello",
    ]);
    assert!(refused[0].contains("session s is the one this command runs in"), "{}", refused[0]);
    assert_eq!(refused[1].matches("session other is out of reach").count(), 5, "{}", refused[1]);
    assert_eq!(refused[1].matches(": 1\n").count(), 5, "{}", refused[1]);
    assert_eq!(
        refused[2]
            .matches("only the owner may do that; say what is needed, and they can do it")
            .count(),
        3,
        "{}",
        refused[2]
    );
    assert!(refused[2].contains("session other is out of reach"), "{}", refused[2]);
    assert!(refused[2].contains("bad session name"), "{}", refused[2]);
    assert!(!two.transcript("other").contains("again"));
}

#[test]
fn a_forged_request_harms_nothing() {
    let two = Two::new();
    let forged = two.results(&[&format!(
        "{ASK} ask bad '{{\"verb\": '; ask odd '{{\"verb\":\"dance\"}}'; \
         ln -s ~/bootstrap.md link; mkfifo link.replies; exec 4<>link.replies; echo link > requests; \
         timeout 50 head -n1 <&4; echo; \
         head -c 2000000 /dev/zero | tr '\\0' ' ' > big; mkfifo big.replies; exec 5<>big.replies; \
         echo big > requests; timeout 50 head -n1 <&5; echo; \
         echo '\"usage\"' > nobody; echo nobody > requests; \
         echo x > plain; echo x > plain.replies; echo plain > requests; \
         ln -s ~/bootstrap.md away.replies; echo x > away; echo away > requests; \
         mkfifo pipe pipe.replies; exec 6<>pipe.replies; echo pipe > requests; timeout 50 head -n1 <&6; echo; \
         echo ../../../config > requests; echo ../workspace/x > requests; echo > requests; \
         head -c 300000 /dev/zero | tr '\\0' a > requests; printf '\\377\\n' > requests; \
         ask good '{{\"verb\":\"sessions\"}}'; fledgling sessions --json"
    )]);
    let lines: Vec<&str> = forged[0].lines().filter(|line| !line.is_empty()).collect();
    assert_eq!(lines.len(), 7, "{}", forged[0]);
    for line in &lines[..5] {
        assert!(line.contains("the host cannot read the request"), "{line}");
    }
    assert!(lines[3].contains("larger than"), "{}", lines[3]);
    assert!(lines[5].contains("\"value\"") && lines[6].contains("\"name\":\"s\""), "{}", forged[0]);
    let bootstrap = two.home.read("bootstrap.md").expect("it was not touched");
    assert_eq!(bootstrap, include_str!("../../bootstrap.md"));
}

#[test]
fn a_killed_hosts_doors_are_swept() {
    let two = Two::new();
    let (host, _gate) = two.busy();
    let doors = || fs::read_dir(two.home.path("doors")).expect("doors").count();
    assert_eq!(doors(), 1);
    host.kill();
    assert_eq!(doors(), 1);
    two.home.run(&["sessions"]).stdout_any().stderr_holds(&["interrupted"]).check();
    assert_eq!(doors(), 0);
}

#[test]
fn stopping_a_turn_stops_the_turn_it_waits_for() {
    let two = Two::new();
    two.a.queue(Reply::new().bash("fledgling run --session kid --model b 'hello kid'"));
    two.b.queue(Reply::text("I am thin").wait(&Gate::new()));
    let process = two.spawn("s", "a", "go");
    two.b.wait(1);
    two.home.run(&["stop", "s"]).stderr("Stopped: s.\n").check();
    let ran = process.end();
    assert_eq!(ran.status.code(), Some(130), "{ran}");
    assert!(two.transcript("kid").contains("\"end\":\"interrupted\""), "{}", two.transcript("kid"));
    two.b.queue(Reply::text("Yes?"));
    let run = two.home.run(&["run", "--session", "kid", "--model", "b", "so?"]);
    run.stdout("Yes?\n").stderr_any().check();
}

#[test]
fn stop_reaches_a_command_and_a_stream_and_says_when_nothing_runs() {
    let two = Two::new();
    two.home.run(&["init"]).stdout_any().stderr_any().check();
    two.home.run(&["stop"]).stderr("Nothing was running.\n").check();
    let told = two.home.workspace("told");
    two.a.queue(Reply::new().bash("touch told; sleep 1000"));
    let process = two.spawn("s", "a", "go");
    process.wait_stdout("\"event\":\"call\"");
    let started = std::time::Instant::now();
    while !told.exists() {
        assert!(started.elapsed() < BOUND, "the command did not start");
        std::thread::yield_now();
    }
    two.home.run(&["stop", "elsewhere"]).stderr("Nothing was running.\n").check();
    two.home.run(&["stop"]).stderr("Stopped: s.\n").check();
    assert_eq!(process.end().status.code(), Some(130));
    two.a.queue(Reply::text("I was about ").wait(&Gate::new()));
    let process = two.spawn("s", "a", "again");
    process.wait_stdout("I was");
    two.home.run(&["stop", "s"]).stderr("Stopped: s.\n").check();
    assert_eq!(process.end().status.code(), Some(130));
    two.a.queue(Reply::text("Yes?"));
    two.home
        .run(&["run", "--session", "s", "--model", "a", "so?"])
        .stdout("Yes?\n")
        .stderr_any()
        .check();
    assert!(last(&two.a).results()[0].contains("interrupted"));
}

#[test]
fn a_signal_ends_the_turn_and_the_process_with_130() {
    for signal in [libc::SIGINT, libc::SIGTERM] {
        let two = Two::new();
        two.a.queue(Reply::new().bash("sleep 1000"));
        let process = two.spawn("s", "a", "go");
        process.wait_stdout("\"event\":\"call\"");
        process.signal(signal);
        let ran = process.end();
        assert_eq!(ran.status.code(), Some(130), "{ran}");
        two.a.queue(Reply::text("Yes?"));
        let run = two.home.run(&["run", "--session", "s", "--model", "a", "so?"]);
        run.stdout("Yes?\n").stderr_any().check();
        assert!(last(&two.a).results()[0].contains("interrupted"));
    }
}

/// What the host answers to these bytes at the owner's door, line by line.
fn knock(two: &Two, bytes: &[u8]) -> Vec<String> {
    let mut stream = UnixStream::connect(two.home.path("host.sock")).expect("a door");
    stream.set_read_timeout(Some(BOUND)).expect("a socket");
    stream.write_all(bytes).expect("somebody reads");
    let lines = BufReader::new(stream).lines();
    lines.collect::<Result<_, _>>().expect("an answer, and then the end of it")
}

#[test]
fn the_owners_door_opens_to_the_key_alone() {
    let two = Two::new();
    let (host, gate) = two.busy();
    let mode = |file| {
        let metadata = fs::metadata(two.home.path(file)).expect("it is there");
        metadata.permissions().mode() & 0o7777
    };
    assert_eq!((mode("host.sock"), mode("door.key")), (0o600, 0o600));
    assert!(fs::metadata(two.home.path("host.sock")).expect("a door").file_type().is_socket());
    let key = fs::read_to_string(two.home.path("door.key")).expect("a key");
    let hello = |version: u64, key: &str| {
        format!("{}\n", json!({"version": version, "door_key": key, "verb": "sessions"}))
            .into_bytes()
    };
    let right = knock(&two, &hello(1, &key));
    assert!(right.len() == 2 && right[0].contains("\"name\":\"a\""), "{right:?}");
    for (bytes, why) in [
        (hello(1, &key.replace(|_| true, "0")), "the door's key is wrong"),
        (hello(1, ""), "the door's key is wrong"),
        (hello(99, &key), "speaks version 1 of the door's protocol, this program 99"),
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), "does not understand the request"),
        (b"\xff\xfe\x00\n".to_vec(), ""),
    ] {
        let said = knock(&two, &bytes);
        if why.is_empty() {
            assert!(said.is_empty(), "{said:?}");
        } else {
            assert!(said.len() == 1 && said[0].contains(why), "{said:?}");
            assert!(!said[0].contains(&key), "{said:?}");
        }
    }
    gate.open();
    done(host);
}

#[test]
fn what_was_said_is_not_said_twice() {
    let two = Two::new();
    let (host, gate) = two.busy();
    let key = fs::read_to_string(two.home.path("door.key")).expect("a key");
    let hello = json!({"version": 1, "door_key": key, "verb": "run", "session": "b",
        "text": "once", "key": "k1", "model": "b", "steer": false});
    let hello = format!("{hello}\n").into_bytes();
    two.b.queue(Reply::text("Once."));
    let first = knock(&two, &hello);
    assert!(first.iter().any(|line| line.contains("turn_ended")), "{first:?}");
    let second = knock(&two, &hello);
    assert!(second[0].contains("it was said already"), "{second:?}");
    two.b.asked(1);
    gate.open();
    done(host);
}

#[test]
fn a_home_with_a_long_path_has_a_door_too() {
    let two = Two::new();
    let long = two.home.cwd().join("long".repeat(30)).join("home");
    fs::create_dir_all(&long).expect("a folder");
    fs::copy(two.home.path("config.toml"), long.join("config.toml")).expect("a config");
    let long = long.to_str().expect("a path").to_owned();
    assert!(long.len() > 108, "{long}");
    let gate = Gate::new();
    two.a
        .queue(Reply::new().bash("fledgling sessions --json"))
        .queue(Reply::new().wait(&gate).and("Done."));
    two.b.queue(Reply::text("Attached."));
    let run = ["run", "--home", &long, "--session"];
    let host = two.home.spawn(&[&run[..], &["a", "--model", "a", "go"]].concat());
    gate.reached();
    two.home
        .run(&[&run[..], &["b", "--model", "b", "hi"]].concat())
        .stdout("Attached.\n")
        .stderr_any()
        .check();
    gate.open();
    assert_eq!(done(host).stdout, "Done.\n");
    assert!(two.a.asked(2)[1].results()[0].contains("\"name\":\"a\""));
}

#[test]
fn an_ended_session_takes_no_message() {
    let two = Two::new();
    two.a.queue(Reply::text("Hello."));
    let run = || two.home.run(&["run", "--session", "s", "--model", "a", "hi"]);
    run().stdout("Hello.\n").stderr_any().check();
    two.home.run(&["end", "s"]).stderr("Session s is ended; its transcript stays.\n").check();
    run().code(1).stderr_holds(&["session s was ended; start another one"]).check();
    two.home
        .run(&["end", "nonesuch"])
        .code(1)
        .stderr_holds(&["there is no session \"nonesuch\""])
        .check();
    two.a.asked(1);
}

/// As a kill leaves them: one message that nobody answered, one that the transcript has.
#[test]
fn what_waits_is_said_and_goes_with_its_session() {
    let two = Two::new();
    two.a.queue(Reply::text("Hello."));
    let run = ["run", "--session", "s", "--model", "a", "hi"];
    two.home.run(&run).stdout("Hello.\n").stderr_any().check();
    let key = two.transcript("s").lines().find_map(|line| {
        let entry: Value = serde_json::from_str(line).expect("JSON");
        Some(entry.get("key")?.as_str()?.to_owned())
    });
    let state = rusqlite::Connection::open(two.home.path("state.db")).expect("a database");
    for key in [key.as_deref().expect("a message's key"), "one", "two"] {
        let sql = "INSERT INTO inbox (key, session, origin, text, steer, at)
            VALUES (?, 's', 'owner', 'more', 1, '2026-01-01')";
        state.execute(sql, [key]).expect("an inbox");
    }
    two.home
        .run(&["sessions"])
        .stdout_any()
        .stderr_holds(&["2 messages wait in session s"])
        .check();
    let said = "Session s is ended; its transcript stays. 2 messages that waited were dropped.";
    two.home.run(&["end", "s"]).stderr_holds(&[said]).check();
    two.home.run(&["sessions"]).stdout_any().check();
}

#[test]
fn what_is_asked_of_a_host_can_be_read_by_machines() {
    let two = Two::new();
    two.a.queue(Reply::error(401, "authentication_error", "no such key"));
    two.a.queue(Reply::text("Hello.").usage([3, 4, 5, 6]));
    let run = || two.home.run(&["run", "--session", "s", "--model", "a", "hi"]);
    run().code(1).stderr_any().check();
    two.a.allow_prefix_change();
    run().stdout("Hello.\n").stderr_any().check();
    let json = |args: &[&str]| -> Vec<Value> {
        let ran = two.home.run(&[args, &["--json"]].concat()).stdout_any().check();
        ran.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    };
    assert_eq!(
        (&json(&["sessions"])[0]["name"], &json(&["sessions"])[0]["turns"]),
        (&json!("s"), &json!(2))
    );
    let used = &json(&["usage"])[0];
    assert_eq!(
        (&used["turns"], &used["input"], &used["output"]),
        (&json!(2), &json!(14), &json!(4))
    );
    let about = &json(&["self"])[0];
    assert_eq!(about["paths"]["workspace"], json!(two.home.path("workspace")));
    let failed = &json(&["wire", "s", "1"]);
    assert_eq!(failed.len(), 1);
    let request: Value =
        serde_json::from_str(failed[0]["request"].as_str().expect("text")).expect("JSON");
    assert_eq!(request, two.a.asked(2)[0].body);
    assert!(failed[0]["reply"].as_str().expect("text").contains("no such key"), "{failed:?}");
    let latest = &json(&["wire"]);
    assert!(
        latest[0]["turn"] == 2 && latest[0]["reply"].as_str().expect("text").contains("Hello.")
    );
    for args in [&["wire", "s", "1"][..], &["wire", "2"], &["self"], &["usage"], &["sessions"]] {
        let ran = two.home.run(args).stdout_any().check();
        assert!(!ran.stdout.contains("key-a") && !ran.stdout.is_empty(), "{ran}");
    }
    two.home.run(&["wire", "s", "9"]).stdout("Nothing went over the wire in that turn.\n").check();
    two.home.run(&["wire", "nonesuch"]).code(1).stderr_holds(&["there is no session"]).check();
}

#[test]
fn a_long_conversation_is_summarised_once_and_stays_valid() {
    for wire in Wire::BOTH {
        let server = Server::start();
        let (name, url) = match wire {
            Wire::Anthropic => ("anthropic", server.url()),
            Wire::OpenAi => ("openai", format!("{}/v1", server.url())),
        };
        let home = Home::new().with(wire, &server).config(&format!(
            "[limits]\nfill = 50\n[models.small]\nwire = \"{name}\"\nname = \"m\"\nbase_url = \"{url}\"\n\
             key = \"{}\"\nwindow = 16000\n",
            if wire == Wire::Anthropic { "ANTHROPIC_API_KEY" } else { "OPENAI_API_KEY" }
        ));
        let run = |text: &str, answer: &str| {
            let run = home.run(&["run", "--session", "s", "--model", "small", text]);
            run.stdout(&format!("{answer}\n")).stderr_any().check()
        };
        server.queue(Reply::new().bash("seq 1 2500")).queue(Reply::text("Counted."));
        run("Always sign with \"Äpfel & Birnen\".", "Counted.");
        // Below the share that may be full: nothing is summarised yet.
        server
            .queue(Reply::new().bash("seq 1 2500"))
            .queue(Reply::text("Again.").usage([7_900, 5, 0, 0]));
        let ran = run("Once more.", "Again.");
        assert!(!ran.stderr.contains("Summarising"), "{ran}");
        // What was counted in that turn is known to it alone; its text is not enough.
        server.queue(Reply::new().bash("seq 1 2500").usage([8_000, 5, 0, 0]));
        server.queue(Reply::text("They counted to 2500.")).queue(Reply::text("Thrice."));
        server.allow_prefix_change();
        let ran = run("A third time.", "Thrice.");
        assert_eq!(ran.stderr.matches("Summarising").count(), 1, "{ran}");
        let asked = server.asked(7);
        let (before, summariser, after) = (&asked[4], &asked[5], &asked[6]);
        assert!(summariser.body["tools"].as_array().is_none_or(Vec::is_empty));
        let heard = after.heard();
        for words in [
            "They counted to 2500.",
            "Always sign with \"Äpfel & Birnen\".",
            "Once more.",
            "A third time.",
        ] {
            assert_eq!(heard.matches(words).count(), 1, "{words} in {heard}");
        }
        assert!(
            after.raw.len() < before.raw.len(),
            "{} then {}",
            before.raw.len(),
            after.raw.len()
        );
        assert_eq!(after.body["tools"], before.body["tools"]);
        assert_eq!(after.body["system"], before.body["system"]);
        if wire == Wire::OpenAi {
            assert_eq!(after.body["messages"][0], before.body["messages"][0]);
        }
        // The next turn goes on from there: that nothing changed is one of the rules.
        server.queue(Reply::text("Here."));
        run("Still there?", "Here.");
    }
}

#[test]
fn a_conversation_too_long_for_the_server_is_summarised_once_and_asked_again() {
    for wire in Wire::BOTH {
        let server = Server::start();
        let home = Home::new().with(wire, &server);
        let too_long = || match wire {
            Wire::Anthropic => Reply::error(
                400,
                "invalid_request_error",
                "prompt is too long: 208310 tokens > 200000 maximum",
            ),
            Wire::OpenAi => Reply::error(
                400,
                "context_length_exceeded",
                "This model's maximum context length is 8192 tokens.",
            ),
        };
        let run = |text| home.run(&["run", "--session", "s", text]);
        server.queue(Reply::text("One."));
        run("the first words").stdout("One.\n").stderr_any().check();
        server.queue(too_long()).queue(Reply::text("A summary.")).queue(Reply::text("Two."));
        server.allow_prefix_change();
        let ran = run("the second words").stdout("Two.\n").stderr_any().check();
        assert_eq!(ran.stderr.matches("Summarising").count(), 1, "{ran}");
        let heard = server.asked(4)[3].heard();
        for words in ["A summary.", "the first words", "the second words"] {
            assert_eq!(heard.matches(words).count(), 1, "{words} in {heard}");
        }
        // And once only: when it does not help, the turn fails.
        server.queue(too_long()).queue(Reply::text("Shorter.")).queue(too_long());
        server.allow_prefix_change();
        run("the third words").code(1).stderr_any().check();
        server.asked(7);
    }
}

#[test]
fn ids_of_calls_that_a_server_repeats_are_told_apart() {
    let server = Server::start();
    let home = Home::new().with_openai(&server);
    let call = |id: &str, command: &str| {
        let call = json!({"index": 0, "id": id, "type": "function", "function": {"name": "bash",
            "arguments": json!({"command": command}).to_string()}});
        let data =
            json!({"choices": [{"delta": {"tool_calls": [call]}, "finish_reason": "tool_calls"}]});
        Reply::raw(200, &[], vec![Chunk::from(&*format!("data: {data}\n\n"))])
    };
    // That no two calls of a request have the same id is one of the server's rules.
    server
        .queue(call("call_0", "echo 1"))
        .queue(call("call_0", "echo 2"))
        .queue(Reply::text("One."));
    home.run(&["run", "--session", "s", "go"]).stdout("One.\n").stderr_any().check();
    server.queue(call("call_0", "echo 3")).queue(Reply::text("Two."));
    home.run(&["run", "--session", "s", "go"]).stdout("Two.\n").stderr_any().check();
    assert_eq!(last(&server).results(), ["1\n", "2\n", "3\n"]);
}
