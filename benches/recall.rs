//! What it costs to remember: `cargo bench --bench recall`.
//!
//! Owns one run of a minute or two over 100,000 messages in 200 conversations: how fast they are
//! indexed, how long `fledgling recall` takes from start to exit, and how long other commands take
//! with that home beside an empty one. The real program and a scripted model. Prints numbers and
//! asserts none.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Instant;

use serde_json::json;

mod table;

use table::{Sample, conditions, head, load, millis, row};

const SESSIONS: usize = 200;
/// Messages of a conversation, half of them the owner's.
const MESSAGES: usize = 500;
const ROUNDS: usize = 30;
const WARM: usize = 3;
const PROGRAM: &str = env!("CARGO_BIN_EXE_fledgling");
const SCRIPT: &str = "{\"text\":\"Done.\",\"usage\":{\"input\":1,\"output\":1}}\n";
/// What is said, over and over; and beside it a word of its own for each message.
const WORDS: &str = "the garden wants water in summer and the backup script saves all of it by \
    night so that nothing is lost when somebody asks for tomatoes or an invoice of last year";

fn main() {
    // On the disk of the build, since a temporary folder in memory would sync for nothing.
    let homes = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder for homes");
    let load_before = load();
    let script = homes.path().join("script");
    fs::write(&script, SCRIPT).expect("a script");
    let [empty, full] = ["empty", "full"].map(|name| Home::new(homes.path(), name, &script));
    let bytes = full.fill();

    let begun = Instant::now();
    full.does(&["recall", "word777x7"]);
    let indexing = begun.elapsed().as_secs_f64();
    let size = fs::metadata(full.path.join("recall.db")).expect("an index").len();

    let searches = [
        ("a word of one message", &["recall", "word77x33"][..]),
        ("two words that are in every message", &["recall", "backup", "tomatoes"]),
        ("a phrase", &["recall", "\"an invoice of last year\""]),
        ("the beginning of a word", &["recall", "word77x*"]),
        ("words that no message has together", &["recall", "word77x33", "word78x33"]),
        ("two words, of one conversation", &["recall", "--session", "talk-100", "backup", "water"]),
        ("all that was said since a day", &["recall", "--since", "2026-06-01"]),
    ];
    let mut found: Vec<_> = searches.iter().map(|_| Sample(Vec::new())).collect();
    let others = [&["self"][..], &["sessions"], &["run", "hello, what is new?"]];
    let mut took: Vec<_> =
        others.iter().map(|_| [Sample(Vec::new()), Sample(Vec::new())]).collect();
    for round in 0..WARM + ROUNDS {
        for (sample, (_, args)) in found.iter_mut().zip(searches) {
            sample.0.extend(Some(full.takes(args)).filter(|_| round >= WARM));
        }
        for (samples, args) in took.iter_mut().zip(others) {
            for (sample, home) in samples.iter_mut().zip([&empty, &full]) {
                sample.0.extend(Some(home.takes(args)).filter(|_| round >= WARM));
            }
        }
    }

    conditions(PROGRAM, ROUNDS, &load_before);
    head();
    let one_row = |name: &str, value: f64| row(name, &Sample(vec![value]), None);
    let messages = (SESSIONS * MESSAGES) as f64;
    println!("{messages} messages in {SESSIONS} conversations, {:.0} MB", bytes as f64 / 1e6);
    one_row("  indexed for the first time, s", indexing);
    one_row("  messages a second", messages / indexing);
    one_row("  the index, MB", size as f64 / 1e6);
    println!("`recall` from start to exit, ms");
    for (sample, (name, _)) in found.iter().zip(searches) {
        row(&format!("  {name}"), sample, Some(50.0));
    }
    println!("the same commands with an empty home and with this one, ms");
    for ([empty, full], args) in took.iter().zip(others) {
        row(&format!("  {}, empty", args[0]), empty, None);
        row(&format!("  {}, full", args[0]), full, None);
        one_row("  ratio of the medians", full.median() / empty.median());
    }
}

struct Home {
    path: PathBuf,
    model: String,
}

impl Home {
    fn new(homes: &Path, name: &str, script: &Path) -> Self {
        let home = Self { path: homes.join(name), model: format!("script:{}", script.display()) };
        home.does(&["run", "--session", "latest", "hi"]);
        home
    }

    /// The conversations, as files. How many bytes.
    fn fill(&self) -> usize {
        let mut bytes = 0;
        for session in 0..SESSIONS {
            let name = format!("talk-{session}");
            let day =
                jiff::civil::date(2026, 5, 1).to_zoned(jiff::tz::TimeZone::UTC).expect("a day");
            let at = |second: usize| {
                let at = day.timestamp().as_second() + (session * 86_400 + second * 30) as i64;
                jiff::Timestamp::from_second(at).expect("a time").to_string()
            };
            let mut text = String::new();
            let mut line = |value| writeln!(text, "{value}").expect("memory");
            line(json!({"at": at(0), "kind": "session", "format": 1, "session": name, "root": "",
                "model": "m", "instructions": ""}));
            for number in 0..MESSAGES {
                let (at, turn) = (at(number), number / 2 + 1);
                let said = format!("word{session}x{number}: {WORDS}");
                if number % 2 == 0 {
                    line(json!({"at": at, "kind": "user", "turn": turn, "key": said,
                        "origin": "owner", "text": said}));
                    continue;
                }
                let call = json!({"id": "a", "name": "bash", "input": {"command": "cat notes"}});
                let blocks = json!([{"text": said}, {"call": call}]);
                line(
                    json!({"at": at, "kind": "assistant", "blocks": blocks, "stop": "end", "model": "m"}),
                );
                line(json!({"at": at, "kind": "result", "id": "a", "text": WORDS.repeat(4)}));
                line(json!({"at": at, "kind": "turn_end", "turn": turn, "end": "done"}));
            }
            fs::write(self.path.join(format!("sessions/{name}.jsonl")), &text)
                .expect("a transcript");
            bytes += text.len();
        }
        // The latest of all is the one that was there before, as in the empty home.
        self.does(&["run", "--session", "latest", "hi"]);
        bytes
    }

    fn does(&self, args: &[&str]) -> Output {
        let mut command = Command::new(PROGRAM);
        command.args(args).args(["--model", &self.model]).current_dir("/").env_clear();
        command.env("PATH", "/usr/local/bin:/usr/bin:/bin").env("FLEDGLING_HOME", &self.path);
        command.env("HOME", self.path.parent().expect("homes stand in a folder"));
        let output =
            command.env("TERM", "dumb").stdin(Stdio::null()).output().expect("the program");
        assert!(output.status.success(), "{args:?}: {output:?}");
        output
    }

    /// Milliseconds from start to exit.
    fn takes(&self, args: &[&str]) -> f64 {
        let begun = Instant::now();
        self.does(args);
        millis(begun.elapsed())
    }
}
