//! `kill -9` of a host at random moments while jobs, reminders and chats go on: each time of a
//! job, each reminder and each message is taken in exactly once, each turn's answer is delivered
//! under one key, and nothing is lost.
//!
//! `FLEDGLING_TEST_TORTURE=SECONDS` has it go on for so long, `FLEDGLING_TEST_SEED` chooses other
//! moments. What ran twice or was given up, which kills may bring about, is counted and printed.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use rusqlite::Connection;
use serde_json::{Value, json};

use crate::bridges::has;
use crate::home::Home;

const SEED: u64 = 5;
/// Seconds that hosts are killed, where nothing else is said.
const LENGTH: u64 = 10;
/// How fast the simulated time goes.
const SPEED: f64 = 90.0;
const START: &str = "2026-11-21T12:03:00Z";
/// As many reminders as one conversation may have pending.
const REMINDERS: u64 = 200;
/// Things come to rest within so long.
const REST: Duration = Duration::from_secs(120);

/// Each job: its schedule, the seconds from one time to the next, and what it does before it
/// writes down that it ran.
const JOBS: [(&str, i64, &str); 6] = [
    ("* * * * *", 60, "true"),
    ("*/2 * * * *", 120, "sleep 0.2"),
    ("*/3 * * * *", 180, "sleep 2"),
    ("*/5 * * * *", 300, "fledgling tell \"due $FLEDGLING_DUE\""),
    ("7 * * * *", 3_600, "true"),
    ("*/4 * * * *", 240, "false"),
];

/// A platform and its channel in one. It numbers what two people write, and gives it again in
/// each run until it is acknowledged. It writes down all that is delivered, and acknowledges it
/// at once, late, or not before it is given again.
const CHANNEL: &str = r#"#!/usr/bin/python3
import json, os, random, select, sys, time
folder = os.environ["TMPDIR"]

def read(name):
    try:
        with open(os.path.join(folder, name)) as file:
            return [json.loads(line) for line in file]
    except FileNotFoundError:
        return []

def write(name, what):
    # One write is there as a whole, or not at all.
    to = os.open(os.path.join(folder, name), os.O_APPEND | os.O_CREAT | os.O_WRONLY)
    os.write(to, (json.dumps(what) + "\n").encode())
    os.close(to)

def says(name):
    return os.path.exists(os.path.join(folder, name))

def say(what):
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()

def message(one):
    say({"id": one, "chat": one[0], "from": one[0], "name": one[0], "text": "message " + one})

say({"event": "hello"})
made, known = read("made"), set(read("acknowledged"))
if not made:
    made = ["a0", "b0"]
    for one in made:
        write("made", one)
for one in made:
    if one not in known:
        message(one)
number = len(made)
due, rest, late = time.time(), b"", []
while True:
    ready, _, _ = select.select([0], [], [], 0.02)
    now = time.time()
    if ready:
        piece = os.read(0, 65536)
        if not piece:
            break
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            line = json.loads(line)
            if line["event"] == "ack":
                write("acknowledged", line["id"])
            if line["event"] == "message":
                write("delivered", [line["key"], line["chat"], line["text"]])
                luck = 0 if says("quiet") else random.random()
                if luck < 0.8:
                    say({"event": "ack", "key": line["key"]})
                elif luck < 0.9:
                    late.append((now + random.random() / 3, line["key"]))
    for one in [one for one in late if one[0] <= now or says("quiet")]:
        say({"event": "ack", "key": one[1]})
        late.remove(one)
    if now >= due and says("go") and not says("quiet"):
        one = random.choice("ab") + str(number)
        number += 1
        write("made", one)
        message(one)
        due = now + random.random() / 5
"#;

/// Wait until something holds that no process says by itself.
#[track_caller]
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < REST, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn real_now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs_f64()
}

fn number(name: &str, otherwise: u64) -> u64 {
    let set = std::env::var(name).ok();
    set.map_or(otherwise, |set| set.parse().expect("a number"))
}

struct Torture {
    home: Home,
    clock: PathBuf,
    /// What the simulated time was, at which real time, and how fast it goes.
    time: (f64, f64, f64),
}

impl Torture {
    fn new(random: &mut fastrand::Rng) -> Self {
        let home = Home::new();
        let clock = home.cwd().join("clock");
        let home = home.env("FLEDGLING_TEST_CLOCK", &clock).env("TZ", "UTC");
        let home = home.env("PATH", "/usr/local/bin:/usr/bin:/bin");
        let replies: Vec<_> = (0..2_000).map(|number| reply(&home, number, random)).collect();
        let model = home.script(&replies);
        let start: Timestamp = START.parse().expect("a time");
        let time = (start.as_second() as f64, real_now(), 0.0);
        let torture = Self { home: home.config(&format!("model = \"{model}\"\n")), clock, time };
        torture.write_clock();
        torture
    }

    fn write_clock(&self) {
        let (simulated, real, speed) = self.time;
        let new = self.clock.with_extension("new");
        fs::write(&new, format!("{simulated} {real} {speed}")).expect("a clock");
        fs::rename(new, &self.clock).expect("a clock");
    }

    fn now(&self) -> f64 {
        let (simulated, real, speed) = self.time;
        simulated + (real_now() - real) * speed
    }

    fn let_time_go(&mut self, speed: f64) {
        self.time = (self.now(), real_now(), speed);
        self.write_clock();
    }

    /// The folder of the channel.
    fn channel(&self, file: &str) -> PathBuf {
        self.home.path("scratch/services/fake").join(file)
    }

    /// What the channel wrote down.
    fn kept(&self, file: &str) -> Vec<Value> {
        let text = fs::read_to_string(self.channel(file)).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }

    /// The messages it wrote down there.
    fn ids(&self, file: &str) -> BTreeSet<String> {
        let kept = self.kept(file).into_iter();
        kept.map(|id| id.as_str().expect("an id").to_owned()).collect()
    }

    fn rows<T: rusqlite::types::FromSql>(&self, query: &str) -> Vec<T> {
        let db = Connection::open(self.home.path("state.db")).expect("a database");
        db.busy_timeout(crate::BOUND).expect("a timeout");
        let mut rows = db.prepare(query).expect("a query");
        let rows = rows.query_map([], |row| row.get(0)).expect("rows");
        rows.collect::<Result<_, _>>().expect("rows")
    }

    fn none(&self, query: &str) -> bool {
        self.rows::<i64>(&format!("SELECT count(*) FROM {query}")) == [0]
    }

    fn does(&self, arguments: &[&str]) {
        self.home.run(arguments).stdout_any().stderr_any().check();
    }

    /// A workspace with a crontab and a channel in which two people are paired, and the reminders.
    /// The time stands still until all is there.
    fn prepare(&self, length: u64) -> u64 {
        self.does(&["run", "--session", "first", "hi"]);
        let lines = JOBS.iter().enumerate().map(|(number, (spec, _, before))| {
            let end = format!("echo $FLEDGLING_DUE >> ticks/{number}");
            // The home's name tells its processes from those of others.
            format!("{spec} mkdir -p ticks; {before} && {end} || false {}\n", self.mark())
        });
        fs::write(self.home.workspace("crontab"), lines.collect::<String>()).expect("a crontab");
        self.service(CHANNEL);
        let host = self.home.spawn(&["serve"]);
        for (chat, person) in [("a", None), ("b", Some("Ann"))] {
            let mut code = None;
            until("a code", || {
                let told = self.kept("delivered").into_iter().find(|told| told[1] == chat);
                let text = told.map(|told| told[2].as_str().expect("text").to_owned());
                code = text.and_then(|text| Some(text.split_once("fledgling pair ")?.1.to_owned()));
                code.is_some()
            });
            let code = code.expect("it was waited for");
            let more = person.into_iter().flat_map(|name| ["--as", name]);
            let pair: Vec<_> = ["pair", code.trim()].into_iter().chain(more).collect();
            self.does(&pair);
        }
        let reminders = (length * 5).min(3 * REMINDERS);
        let start = self.time.0 as i64;
        let span = (length as f64 * SPEED * 0.9) as i64;
        for number in 0..reminders {
            let due = start + 30 + span * number as i64 / reminders as i64;
            let due = Timestamp::from_second(due).expect("a time").to_string();
            let session = format!("r{}", number % 3);
            self.does(&["at", &due, "--session", &session, "look"]);
        }
        host.kill();
        fs::write(self.channel("go"), "").expect("a file");
        reminders
    }

    fn service(&self, script: &str) {
        let path = self.home.workspace("services/fake");
        fs::create_dir(self.home.workspace("services")).expect("a folder");
        fs::write(&path, script).expect("a service");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("a service");
    }

    fn mark(&self) -> String {
        format!("# {}", self.home.workspace("").display())
    }

    fn is_at_rest(&self) -> bool {
        self.none("outbox WHERE state = 'pending'")
            && self.none("inbox")
            && self.none("reminders WHERE state = 'pending'")
            && self.ids("made") == self.ids("acknowledged")
    }

    /// Processes of this home.
    fn processes(&self) -> Vec<String> {
        let folder = self.home.workspace("").display().to_string();
        let all = fs::read_dir("/proc").expect("Linux").flatten();
        let lines = all.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
        let lines = lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " "));
        lines.filter(|line| line.contains(folder.trim_end_matches('/'))).collect()
    }
}

fn reply(home: &Home, number: u64, random: &mut fastrand::Rng) -> Value {
    let command = match random.u8(..10) {
        0 => format!("mkdir -p notes; echo {number} >> notes/{}", number % 7),
        1 => format!("sleep 0.0{}; echo {number}", random.u8(1..10)),
        _ => return json!({"text": format!("Answer {number}.")}),
    };
    let command = format!("{command} # {}", home.workspace("").display());
    json!({"calls": [{"name": "bash", "input": {"command": command}}]})
}

/// A turn, as its transcript has it.
#[derive(Default)]
struct Turn {
    keys: Vec<String>,
    /// Whether somebody who is not in front of a terminal spoke in it.
    asked: bool,
    end: String,
}

/// All transcripts: each turn, and how often each message is in them.
#[derive(Default)]
struct Transcripts {
    turns: BTreeMap<(String, u64), Turn>,
    keys: HashMap<String, usize>,
    torn: usize,
}

impl Transcripts {
    fn read(home: &Home) -> Self {
        let mut all = Self::default();
        for file in fs::read_dir(home.path("sessions")).expect("sessions").flatten() {
            let name = file.file_name().to_string_lossy().replace(".jsonl", "");
            let text = fs::read_to_string(file.path()).expect("a transcript");
            all.take(&name, &text);
        }
        all
    }

    fn take(&mut self, name: &str, text: &str) {
        let (mut current, mut owed) = (0, BTreeSet::new());
        for line in text.lines() {
            let Ok(line) = serde_json::from_str::<Value>(line) else {
                self.torn += 1;
                continue;
            };
            let string = |field: &str| line[field].as_str().unwrap_or_default().to_owned();
            match line["kind"].as_str() {
                Some("user") => {
                    current = line["turn"].as_u64().expect("a number");
                    let turn = self.turns.entry((name.to_owned(), current)).or_default();
                    assert_eq!(turn.end, "", "{name}: turn {current} goes on after its end");
                    turn.keys.push(string("key"));
                    turn.asked |= line["origin"] != "owner";
                    *self.keys.entry(string("key")).or_default() += 1;
                }
                Some("assistant") => {
                    assert!(owed.is_empty(), "{name}: {owed:?} have no results in {current}");
                    let blocks = line["blocks"].as_array().expect("blocks").iter();
                    let calls = blocks.filter_map(|block| block["call"]["id"].as_str());
                    owed.extend(calls.map(str::to_owned));
                }
                Some("result") => {
                    let id = string("id");
                    assert!(owed.remove(&id), "{name}: a second result of {id} in {current}");
                }
                Some("turn_end") => {
                    let turn = self.turns.get_mut(&(name.to_owned(), current)).expect("a turn");
                    assert_eq!(turn.end, "", "{name}: turn {current} ends twice");
                    turn.end = string("end");
                }
                _ => {}
            }
        }
        assert!(owed.is_empty(), "{name}: {owed:?} have no results");
    }
}

/// What the kills brought about that they may.
#[derive(Debug, Default)]
struct Counted {
    kills: usize,
    slots: usize,
    missed: i64,
    skipped: usize,
    dead: usize,
    runs_repeated: usize,
    reminders: u64,
    messages: usize,
    turns: usize,
    gone_on: usize,
    given_up: usize,
    answers: usize,
    answers_repeated: usize,
    torn_lines: usize,
}

/// The first time of a job after the start.
fn first(step: i64, at_seven: bool) -> i64 {
    let start = START.parse::<Timestamp>().expect("a time").as_second();
    let offset = if at_seven { 420 } else { 0 };
    start + step - (start - offset).rem_euclid(step)
}

impl Torture {
    /// The slots of each job follow each other without a gap, and each that is done ran.
    fn check_slots(&self, counted: &mut Counted) {
        for (number, (spec, step, before)) in JOBS.iter().enumerate() {
            let rows = |column: &str, from: &str| {
                let key = format!("(SELECT key FROM jobs WHERE spec = '{spec}')");
                self.rows::<i64>(&format!("SELECT {column} FROM {from} = {key} ORDER BY 1"))
            };
            let of = |column: &str| {
                let sorted = "slots JOIN jobs ON job = key WHERE spec =";
                let query = format!("SELECT {column} FROM {sorted} '{spec}' ORDER BY slot");
                self.rows::<i64>(&query)
            };
            let (slots, missed) = (of("slot"), of("missed"));
            let due = rows("due", "jobs WHERE key")[0];
            let mut next = first(*step, *spec == "7 * * * *");
            for (slot, missed) in slots.iter().zip(&missed) {
                assert_eq!(*slot, next + missed * step, "{spec}: a slot is lost or doubled");
                next = slot + step;
            }
            assert_eq!(due, next, "{spec}");
            assert!(due as f64 > self.now(), "{spec}: {due} is not to come");
            let done = of("CASE WHEN state = 'done' THEN slot ELSE 0 END");
            let done: BTreeSet<_> = done.into_iter().filter(|slot| *slot > 0).collect();
            let ticks = self.home.read(&format!("ticks/{number}")).unwrap_or_default();
            let ticks = ticks.lines().map(|line| line.parse::<Timestamp>().expect("a time"));
            let ticks: Vec<_> = ticks.map(Timestamp::as_second).collect();
            let ran: BTreeSet<_> = ticks.iter().copied().collect();
            if *before == "false" {
                assert!(ran.is_empty());
            } else {
                assert!(done.is_subset(&ran), "{spec}: {:?}", done.difference(&ran));
            }
            counted.runs_repeated += ticks.len() - ran.len();
            counted.slots += slots.len();
            counted.missed += missed.iter().sum::<i64>();
            counted.skipped += of("state = 'skipped'").iter().filter(|one| **one == 1).count();
            counted.dead += of("state = 'dead'").iter().filter(|one| **one == 1).count();
        }
    }

    /// Each reminder and each message is in a transcript once, and its turn was answered or is
    /// gone on with by one that was.
    fn check_answers(&self, counted: &mut Counted) {
        let transcripts = Transcripts::read(&self.home);
        let Transcripts { turns, keys, torn } = &transcripts;
        counted.torn_lines = *torn;
        let more = keys.iter().filter(|(_, count)| **count > 1).collect::<Vec<_>>();
        assert!(more.is_empty(), "taken in more than once: {more:?}");
        for id in 1..=counted.reminders {
            assert!(keys.contains_key(&format!("reminder:{id}")), "reminder {id} was lost");
        }
        for id in self.ids("made") {
            let known = keys.contains_key(&format!("in:fake:{id}"));
            assert_eq!(known, !id.ends_with('0') || id.len() > 2, "message {id}");
            counted.messages += usize::from(known);
        }
        let mut delivered: HashMap<String, (usize, Value)> = HashMap::new();
        for told in self.kept("delivered") {
            let key = told[0].as_str().expect("a key").to_owned();
            let one = delivered.entry(key).or_insert_with(|| (0, told.clone()));
            assert_eq!(one.1, told, "one key, and two texts");
            one.0 += 1;
        }
        let letters: Vec<String> = self.rows("SELECT key FROM outbox WHERE state = 'delivered'");
        let letters: BTreeSet<_> = letters.into_iter().collect();
        assert!(self.none("outbox WHERE state != 'delivered'"));
        assert_eq!(letters, delivered.keys().cloned().collect(), "letters and deliveries");
        let mut answers = BTreeSet::new();
        for ((session, number), turn) in turns.iter().filter(|(_, turn)| turn.asked) {
            let this = format!("{session}:{number}");
            let answer = format!("turn:{this}");
            match turn.end.as_str() {
                "done" => {
                    assert!(letters.contains(&answer), "{answer} was lost");
                    answers.insert(answer);
                }
                "interrupted" => {
                    assert!(!letters.contains(&answer), "{answer}: {:?}", delivered[&answer]);
                    let next = (1..9).any(|n| keys.contains_key(&format!("go-on:{n}:{this}")));
                    let over = letters.contains(&format!("given-up:{this}"));
                    assert!(next != over, "{this} is not gone on with: {:?}", turn.keys);
                    counted.gone_on += usize::from(next);
                    counted.given_up += usize::from(over);
                }
                end => panic!("turn {this} has the end {end:?}"),
            }
        }
        let of_turns: BTreeSet<_> =
            letters.iter().filter(|key| key.starts_with("turn:")).cloned().collect();
        assert_eq!(answers, of_turns);
        counted.turns = turns.len();
        counted.answers = letters.len();
        counted.answers_repeated = delivered.values().map(|(count, _)| count - 1).sum();
    }
}

#[test]
fn a_host_that_is_killed_again_and_again_loses_nothing_and_doubles_nothing() {
    if !has(&["python3"]) {
        return;
    }
    let seed = number("FLEDGLING_TEST_SEED", SEED);
    let length = number("FLEDGLING_TEST_TORTURE", LENGTH);
    eprintln!("FLEDGLING_TEST_SEED={seed} FLEDGLING_TEST_TORTURE={length}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut torture = Torture::new(&mut random);
    let mut counted = Counted { reminders: torture.prepare(length), ..Counted::default() };
    torture.let_time_go(SPEED);
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(length) {
        let host = torture.home.spawn(&["serve"]);
        // Some die while they still put right what the one before them left.
        let longest = if random.u8(..3) == 0 { 150 } else { 1_500 };
        std::thread::sleep(Duration::from_micros(random.u64(..longest * 1_000)));
        host.kill();
        counted.kills += 1;
        // And sometimes nobody is there for a while.
        let pause = if random.u8(..5) == 0 { 1_500 } else { 1 };
        std::thread::sleep(Duration::from_micros(random.u64(..pause * 1_000)));
    }
    fs::write(torture.channel("quiet"), "").expect("a file");
    let host = torture.home.spawn(&["serve"]);
    until("everything is delivered", || torture.is_at_rest());
    torture.let_time_go(0.0);
    let open = "slots WHERE state IN ('queued', 'running')";
    until("the last jobs end", || torture.none(open) && torture.is_at_rest());
    host.signal(libc::SIGTERM);
    let ran = host.end();
    assert!(ran.status.success(), "{ran}");
    until("all processes are gone", || torture.processes().is_empty());

    torture.check_slots(&mut counted);
    torture.check_answers(&mut counted);
    // Each conversation can go on: the model holds what it is asked to the rules of providers.
    for session in ["first", "fake", "fake-Ann", "r0", "r1", "r2"] {
        torture.does(&["run", "--session", session, "and now?"]);
    }
    torture.home.git(&["fsck", "--strict", "--no-dangling"]);
    assert_eq!(torture.home.git(&["status", "--porcelain"]), "");
    let owners = torture.home.git(&["log", "--author=owner@localhost", "--name-only", "--format="]);
    let ours = |path: &str| path.starts_with("ticks/") || path.starts_with("notes/");
    assert!(!owners.lines().any(ours), "what jobs and turns wrote is the owner's: {owners}");
    eprintln!("{counted:#?}");
}

/// A channel that has much to say after a long time, and is ended by nobody for it.
#[test]
fn thousands_of_messages_at_once_are_acknowledged_one_by_one() {
    let torture = Torture::new(&mut fastrand::Rng::with_seed(SEED));
    torture.does(&["run", "--session", "first", "hi"]);
    torture.service(
        r#"#!/bin/bash
echo run >> "$TMPDIR/runs"
seq 2500 | sed 's/.*/{"id":"&","chat":"1","from":"1","text":"hi"}/' &
grep -m 2500 -c '"event":"ack"' > "$TMPDIR/acknowledged"
exec cat > /dev/null
"#,
    );
    let host = torture.home.spawn(&["serve"]);
    let read = |file| fs::read_to_string(torture.channel(file)).unwrap_or_default();
    until("all are acknowledged", || read("acknowledged") == "2500\n");
    host.kill();
    assert_eq!(read("runs"), "run\n");
}

/// The start that wrote the end of a killed turn was killed before it could do more about it.
#[test]
fn a_killed_turn_is_gone_on_with_though_the_start_that_closed_it_was_killed_too() {
    let torture = Torture::new(&mut fastrand::Rng::with_seed(SEED));
    torture.does(&["run", "--session", "s", "hi"]);
    let path = torture.home.path("sessions/s.jsonl");
    let mut transcript = fs::OpenOptions::new().append(true).open(path).expect("a transcript");
    for line in [
        json!({"at": START, "kind": "user", "turn": 2, "key": "reminder:1", "origin": "reminder", "text": "x"}),
        json!({"at": START, "kind": "turn_end", "turn": 2, "end": "interrupted",
            "why": "the program ended in the middle of it"}),
    ] {
        writeln!(transcript, "{line}").expect("a transcript");
    }
    let db = Connection::open(torture.home.path("state.db")).expect("a database");
    db.execute_batch("INSERT INTO running (session, turn, at) VALUES ('s', 2, 'now')")
        .expect("a row");
    let host = torture.home.spawn(&["serve"]);
    until("its words", || !torture.none("outbox WHERE key LIKE 'turn:%'"));
    host.kill();
    let transcripts = Transcripts::read(&torture.home);
    assert_eq!(transcripts.turns[&("s".to_owned(), 3)].keys, ["go-on:1:s:2"]);
    assert_eq!(torture.rows::<String>("SELECT key FROM outbox"), ["turn:s:3"]);
}
