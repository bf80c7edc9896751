//! The red team: what a hostile command tries, each attempt beside its control.
//!
//! One script of attempts (`files.rs`, `processes.rs`, `network.rs`) is run by the real
//! program with a scripted model: as root and as an ordinary user, confined and with
//! `confine = "off"`, and nothing else differs. An attempt has to succeed in the control, or
//! its failure where it is confined would show nothing. Rows that this machine makes vacuous
//! say so, and rows that are stated limits are marked. `host.rs` and `refused.rs` have what
//! needs more than one command. Whoever runs the tests as no root is told that root's half is left
//! out.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;

use serde_json::{Value, json};
use tempfile::TempDir;

mod files;
mod host;
mod network;
mod processes;
mod refused;

/// How programs tell that they were refused; Landlock answers a move between folders so that
/// `mv` copies instead.
const DENIED: [&str; 5] = [
    "Permission denied",
    "not permitted",
    "No such process",
    "must be superuser",
    "Invalid cross-device link",
];
/// Nobody in particular: has no file of the machine's and no rights.
const ORDINARY: u32 = 65534;

/// When an attempt has to succeed in the control.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Control {
    /// Always.
    Works,
    /// As root; an ordinary user may do it nowhere.
    Root,
    /// Where the kernel has what is attacked. It is said where it has not.
    IfThere,
    /// And where it is confined too, or may: a limit that `guard/confine.rs` states.
    Stated,
}
use Control::{IfThere, Root, Stated, Works};

/// A name, the control, and a command: ends with 0 when it worked. What it was refused stands
/// on its stderr in the words of the system, or its exit code is 10 (20: there is no such
/// thing). Anything else: it could not be tried.
type Row = (&'static str, Control, &'static str);

#[derive(Debug, PartialEq, Eq, Clone)]
enum Result {
    Worked,
    Refused,
    Absent,
    Untried(String),
}

/// Programs where every user reaches them: this one, and `attack.c`.
static PROGRAMS: LazyLock<TempDir> = LazyLock::new(|| {
    let folder = TempDir::new().expect("a temporary folder");
    open_to_all(folder.path());
    let copy = folder.path().join("fledgling");
    let program = Path::new(env!("CARGO_BIN_EXE_fledgling"));
    if fs::hard_link(program, &copy).is_err() {
        fs::copy(program, &copy).expect("a copy of the program");
    }
    open_to_all(&copy);
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/redteam/attack.c");
    let attack = folder.path().join("attack");
    let compiled = Command::new("cc").arg("-o").args([&attack, &source]).status();
    assert!(compiled.expect("a C compiler").success(), "attack.c does not compile");
    folder
});

fn open_to_all(path: &Path) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("one's own file");
}

fn is_root() -> bool {
    // SAFETY: asks for a number.
    unsafe { libc::geteuid() == 0 }
}

/// The users to be tried: root is `None` where the tests run as root.
fn users() -> Vec<Option<u32>> {
    if is_root() {
        return vec![None, Some(ORDINARY)];
    }
    eprintln!("root's half of the red team is left out: the tests do not run as root");
    vec![None]
}

/// A machine to be attacked: a home, files of the same user outside of it, and another
/// program of that user.
struct Lab {
    root: TempDir,
    user: Option<u32>,
    victim: Option<Child>,
}

impl Lab {
    fn new(user: Option<u32>, config: &str) -> Self {
        let root = TempDir::new().expect("a temporary folder");
        let lab = Self { root, user, victim: None };
        for folder in ["home/workspace/bin", "home/scratch", "out/folder", "user", "cwd"] {
            fs::create_dir_all(lab.path(folder)).expect("a folder");
        }
        let shut = fs::Permissions::from_mode(0o700);
        fs::set_permissions(lab.path("home"), shut).expect("one's own folder");
        lab.put("home/config.toml", config);
        for (file, text) in [
            ("out/secret", "SECRET"),
            ("out/folder/file", "SECRET"),
            ("out/victim", "intact"),
            ("user/.bashrc", "# intact"),
            ("home/secrets.toml", "TEST_KEY = \"SECRET\"\n"),
        ] {
            lab.put(file, text);
        }
        let attack = lab.path("home/workspace/bin/attack");
        fs::copy(PROGRAMS.path().join("attack"), attack).expect("a copy");
        lab
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().canonicalize().expect("it is there").join(name)
    }

    fn put(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).expect("a file");
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// A program as this lab's user, with nothing of this machine but its PATH.
    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.current_dir(self.path("cwd")).env_clear();
        command.env("PATH", "/usr/local/bin:/usr/bin:/bin").env("HOME", self.path("user"));
        command.env("FLEDGLING_HOME", self.path("home"));
        if let Some(user) = self.user {
            command.uid(user).gid(user);
        }
        command
    }

    fn fledgling(&self, args: &[&str]) -> Command {
        let mut command = self.command(&PROGRAMS.path().join("fledgling"));
        command.args(args);
        command
    }

    /// Everything is the lab's user's.
    fn settle(&self) {
        let Some(user) = self.user else { return };
        let mut folders = vec![self.root.path().to_owned()];
        while let Some(path) = folders.pop() {
            chown(&path, Some(user), Some(user)).expect("root may");
            if path.is_dir() && !path.is_symlink() {
                let inside = fs::read_dir(&path).expect("a folder").flatten();
                folders.extend(inside.map(|entry| entry.path()));
            }
        }
    }

    /// Another program of the user, with a secret in its environment and in its memory.
    fn attacked(mut self) -> Self {
        self.settle();
        let mut command = self.command(&PROGRAMS.path().join("attack"));
        let command = command.arg("victim").arg(self.path("out")).env("HIDDEN", "SECRET");
        self.victim = Some(command.spawn().expect("it was compiled"));
        let started = std::time::Instant::now();
        while !self.text("out/pid").ends_with('\n') {
            assert!(started.elapsed() < crate::BOUND, "the victim does not start");
            std::thread::yield_now();
        }
        self
    }

    /// A turn in which the model calls these tools: what each is told.
    fn turn(&self, calls: &[(&str, Value)]) -> Vec<String> {
        self.settle();
        let mut host = self.begin("s", calls);
        let (said, warned) = heard(&mut host);
        let status = host.wait().expect("it was started");
        assert!(status.success(), "{status}\n{said}\n{warned}");
        let told = self.told("s");
        told[told.len() - calls.len()..].to_vec()
    }

    /// The same, of a session of this name, not waited for.
    fn begin(&self, session: &str, calls: &[(&str, Value)]) -> Child {
        let call = |(name, input): &(&str, Value)| json!({"name": name, "input": input});
        let calls: Vec<_> = calls.iter().map(call).collect();
        let lines = format!("{}\n{}", json!({ "calls": calls }), json!({"text": "Done."}));
        let script = format!("{session}.jsonl");
        self.put(&format!("cwd/{script}"), &lines);
        let model = format!("script:{script}");
        let mut command = self.fledgling(&["run", "--session", session, "--model", &model, "go"]);
        command.env("ANTHROPIC_API_KEY", "SECRET-KEY").stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it can be run")
    }

    /// What the tools of a session were told, from its beginning.
    fn told(&self, session: &str) -> Vec<String> {
        let transcript = self.text(&format!("home/sessions/{session}.jsonl"));
        let lines = transcript.lines().map(|line| serde_json::from_str(line).expect("JSON"));
        let results = lines.filter(|line: &Value| line["kind"] == "result");
        results.map(|line| line["text"].as_str().unwrap_or_default().to_owned()).collect()
    }

    /// What came of these rows, tried in one command.
    fn attempts(&self, rows: &[&Row]) -> BTreeMap<&'static str, Result> {
        let words = |name: &str| self.text(&format!("out/{name}")).trim().to_owned();
        let mut script = format!(
            "O='{}' A=$PWD/bin/attack V={} R='{}'\n",
            self.path("out").display(),
            words("pid"),
            self.path("").display(),
        );
        for name in ["tcp", "udp", "shared", "address", "descriptor"] {
            script += &format!("{}={}\n", name.to_uppercase(), words(name));
        }
        script += "H=$(cut -d' ' -f4 /proc/$PPID/stat)\nmkdir -p said\nrm -f said/*\n";
        for (at, (_, _, attempt)) in rows.iter().enumerate() {
            script += &format!(
                "( exec >/dev/null 2>said/{at}.why </dev/null\n{attempt}\n)\necho $? >said/{at}\n"
            );
        }
        let told = self.turn(&[bash(&script)]);
        let result = |(at, row): (usize, &&Row)| {
            let code = self.text(&format!("home/workspace/said/{at}"));
            let why = self.text(&format!("home/workspace/said/{at}.why"));
            let result = match code.trim() {
                "0" => Result::Worked,
                "10" => Result::Refused,
                "20" => Result::Absent,
                code if !code.is_empty() && DENIED.iter().any(|text| why.contains(text)) => {
                    Result::Refused
                }
                code => Result::Untried(format!("{code}: {why}{}", told.join("\n"))),
            };
            (row.0, result)
        };
        rows.iter().enumerate().map(result).collect()
    }
}

/// What makes the difference between an attempt and its control.
const OFF: &str = "confine = \"off\"\n";

fn bash(command: &str) -> (&'static str, Value) {
    ("bash", json!({ "command": command }))
}

/// All that a process says, until it ends.
fn heard(process: &mut Child) -> (String, String) {
    let (mut said, mut warned) = (String::new(), String::new());
    process.stdout.take().expect("piped").read_to_string(&mut said).expect("UTF-8");
    process.stderr.take().expect("piped").read_to_string(&mut warned).expect("UTF-8");
    (said, warned)
}

impl Drop for Lab {
    fn drop(&mut self) {
        if let Some(victim) = &mut self.victim {
            let _ = victim.kill();
            let _ = victim.wait();
        }
    }
}

/// Try all rows in all ways: confined they are refused, and in the control they work.
#[track_caller]
fn all_ways(config: &str, rows: &[Row]) {
    let mut wrong = Vec::new();
    for user in users() {
        let who = if user.is_none() && is_root() { "root" } else { "an ordinary user" };
        let [confined, control] = ["", OFF].map(|off| {
            let lab = Lab::new(user, &format!("{off}{config}")).attacked();
            lab.attempts(&rows.iter().collect::<Vec<_>>())
        });
        for (name, expected, _) in rows {
            let (confined, control) = (&confined[name], &control[name]);
            let vacuous = *control != Result::Worked
                && match expected {
                    IfThere => !matches!(control, Result::Untried(_)),
                    Root => who != "root" && *control == Result::Refused,
                    Works | Stated => false,
                };
            let fine = match confined {
                Result::Worked => *expected == Stated,
                Result::Refused | Result::Absent => true,
                Result::Untried(_) => false,
            };
            if vacuous {
                eprintln!("vacuous here, as {who}: {name} ({control:?} where nothing is confined)");
            }
            if !fine || (*control != Result::Worked && !vacuous) {
                wrong.push(format!("{name}, as {who}: {confined:?}, and the control {control:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}
