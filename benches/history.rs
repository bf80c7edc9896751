//! What the history costs: `cargo bench --bench history`.
//!
//! Owns one table of numbers, all from one run, each beside its aim or beside what git takes
//! for the same on the same workspace.
//! Drives the snapshots as a host does, from inside, since a whole turn costs more than what
//! is measured here: the program's own modules are built into it. Prints numbers and asserts
//! none. It takes some minutes; `HISTORY_BENCH=100000` measures that many files only.

#![allow(dead_code, unused_imports, reason = "the program uses what this does not")]
#![allow(missing_docs, reason = "the modules are documented where they belong")]

#[path = "../src/files/mod.rs"]
mod files;
#[path = "../src/guard/mod.rs"]
mod guard;
#[path = "../src/kernel/mod.rs"]
mod kernel;
#[path = "../src/organs/mod.rs"]
mod organs;
mod table;
#[path = "../src/walls/mod.rs"]
mod walls;
#[path = "../src/wires/mod.rs"]
mod wires;

use std::cell::Cell;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use files::withheld::Withheld;
use guard::policy::{Chain, Policy};
use kernel::border::{History as _, Record};
use kernel::event::End;
use kernel::message::{Origin, Usage};
use organs::history::ask::Which;
use organs::history::chronicle::Chronicle;
use organs::history::image::Images;
use organs::history::scan::Terms;
use organs::history::snapshots::{Settings, Snapshots};
use organs::history::undo::{Who, undo};
use organs::history::watch::Watch;
use organs::home::Home;
use organs::verb::Caller;
use table::{Sample, conditions, head, load, millis, row};

/// Rounds that count. One more goes before them.
const ROUNDS: usize = 15;
/// Files of a workspace of which one changes.
const SIZES: [usize; 3] = [1_000, 10_000, 100_000];
/// Files in a folder.
const FOLDER: usize = 20;
/// Snapshots of a long history.
const SNAPSHOTS: usize = 10_000;
/// What each look must stay below, in milliseconds, however many files there are.
const FLAT: f64 = 2.5;
/// How long the disk gets after the preparations.
const REST: Duration = Duration::from_secs(300);
const PROGRAM: &str = env!("CARGO_BIN_EXE_fledgling");

/// How it is found out what a turn changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// A file tool told its path.
    Told,
    /// A watcher heard of it.
    Watched,
    /// Everything was looked at.
    Scanned,
}

fn main() {
    // On the disk of the build, since a temporary folder in memory would sync for nothing.
    let homes = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder for homes");
    let only = std::env::var("HISTORY_BENCH").ok().and_then(|only| only.parse::<usize>().ok());
    let load_before = load();
    head();
    let sizes = SIZES.into_iter().filter(|size| only.is_none_or(|only| only == *size));
    let prepared: Vec<_> =
        sizes.map(|size| prepared(&homes.path().join(size.to_string()), size)).collect();
    // ext4 goes around inodes that were deleted just now, one by one: for some minutes each
    // new file takes ten times as long beside the many that the first packing removed.
    eprintln!("{} s for the disk to calm down", REST.as_secs());
    thread::sleep(REST);
    prepared.iter().for_each(one_file);
    if only.is_none() {
        long_history(&homes.path().join("long"));
        for megabytes in [1, 100] {
            database(&homes.path().join(format!("database-{megabytes}")), megabytes);
        }
    }
    println!();
    conditions(PROGRAM, ROUNDS, &load_before);
}

/// A workspace of so many files whose history has them all, packed.
fn prepared(folder: &Path, size: usize) -> Bench {
    let bench = Bench::new(folder, size);
    let snapshots = bench.open(false);
    bench.timed(snapshots.before("bench", 1));
    bench.settle(&snapshots);
    bench
}

/// One file of many changes.
fn one_file(bench: &Bench) {
    let size = bench.files;
    for way in [Way::Told, Way::Watched, Way::Scanned] {
        let snapshots = bench.snapshots(way);
        // What the preparations left unwritten is none of what is measured.
        organs::history::archive::flush_all(&bench.home).expect("a disk");
        let (mut ours, mut idle, mut gits) = (vec![], vec![], vec![]);
        for _ in 0..=ROUNDS {
            idle.push(bench.timed(snapshots.before("bench", 1)));
            ours.push(bench.change(&snapshots, way));
            bench.settle(&snapshots);
        }
        // Not in turn: what git leaves unwritten, our next flush would have to wait for.
        for _ in 0..=ROUNDS {
            bench.edit();
            gits.push(bench.git());
        }
        let [ours, idle, gits] = [ours, idle, gits].map(|all| Sample(all[1..].to_vec()));
        let what = match way {
            Way::Told => "told",
            Way::Watched => "watched",
            Way::Scanned => "scanned",
        };
        let aim = if way == Way::Scanned { 1.2 * gits.median() } else { FLAT };
        row(&format!("{size} files, one changes, {what}, ms"), &ours, Some(aim));
        row("  before it, with the owner's edit, ms", &idle, None);
        row("  git add -A && git commit, ms", &gits, None);
        println!("{:<46}{:>9.1}", "  times faster than git", gits.median() / ours.median());
    }
}

/// Many snapshots, packed meanwhile.
fn long_history(folder: &Path) {
    let bench = Bench::new(folder, SIZES[0]);
    let snapshots = bench.open(true);
    let begun = disk_usage(&folder.join("history.git"));
    let times = (0..SNAPSHOTS).map(|_| bench.change(&snapshots, Way::Told)).collect();
    row(&format!("a snapshot among {SNAPSHOTS}, packed meanwhile, ms"), &Sample(times), Some(FLAT));
    bench.settle(&snapshots);
    drop(snapshots);
    // A process of one turn packs the rest, if that pays.
    bench.settle(&bench.open(false));
    let grown = disk_usage(&folder.join("history.git")) - begun;
    row("  growth for each, bytes", &Sample(vec![grown as f64 / SNAPSHOTS as f64]), None);
    let chronicle = Chronicle::open(folder).expect("it can be read");
    let logged = (0..ROUNDS).map(|_| {
        let started = Instant::now();
        assert_eq!(chronicle.log(20, None).expect("it can be read").len(), 20);
        millis(started.elapsed())
    });
    row("  the last 20, with their lines counted, ms", &Sample(logged.collect()), None);
    let gits = (0..ROUNDS).map(|_| {
        let started = Instant::now();
        let git_dir = folder.join("history.git");
        let mut git = Command::new("git");
        git.arg("--git-dir").arg(git_dir).args(["log", "-20", "--shortstat", "main"]);
        assert!(git.stdout(Stdio::null()).status().expect("git is installed").success());
        millis(started.elapsed())
    });
    row("  git log -20 --shortstat, ms", &Sample(gits.collect()), None);
    taken_back(&bench);
}

/// A change is taken back that lies deep in a long history.
fn taken_back(bench: &Bench) {
    let snapshots = bench.open(true);
    bench.settle(&snapshots);
    let undone = (0..ROUNDS).map(|_| {
        let home = Home::resolve(Some(bench.home.clone())).expect("a home");
        bench.timed(snapshots.blocking(move |keeper| {
            let who = Who { home, caller: Caller::Owner, turn: None };
            let undone = undo(keeper, &who, &Which::Commit("HEAD~500".to_owned()), None)?;
            assert!(undone.commit.is_some(), "nothing was taken back");
            Ok(())
        }))
    });
    row("  undo of the change 500 back, ms", &Sample(undone.collect()), None);
}

/// One row of a database changes.
fn database(folder: &Path, megabytes: usize) {
    let bench = Bench::new(folder, 1);
    let file = bench.workspace().join("rows.db");
    let connection = rusqlite::Connection::open(&file).expect("a database");
    let rows = megabytes * 1000;
    let filling = format!(
        "PRAGMA journal_mode = WAL; CREATE TABLE rows (id INTEGER PRIMARY KEY, text TEXT); \
         WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows}) \
         INSERT INTO rows SELECT i, hex(randomblob(480)) FROM n"
    );
    connection.execute_batch(&filling).expect("it is filled");
    let snapshots = bench.open(true);
    bench.settle(&snapshots);
    let begun = disk_usage(&folder.join("history.git"));
    let rounds = if megabytes > 10 { 5 } else { ROUNDS };
    let times = (0..rounds).map(|round| {
        let change = "UPDATE rows SET text = hex(randomblob(480)) WHERE id = ?1";
        let writing = snapshots.writers().writes("bench", true);
        connection.execute(change, [round * 7 + 1]).expect("a row changes");
        drop(writing);
        bench.timed(snapshots.after(record()))
    });
    let times = Sample(times.collect());
    row(&format!("a row of a database of {megabytes} MB changes, ms"), &times, None);
    bench.settle(&snapshots);
    let grown = disk_usage(&folder.join("history.git")) - begun;
    row(
        "  growth for each, not packed, bytes",
        &Sample(vec![(grown / rounds as u64) as f64]),
        None,
    );
}

/// A home whose workspace is also one of plain git's.
struct Bench {
    home: PathBuf,
    files: usize,
    runtime: tokio::runtime::Runtime,
    edits: Cell<usize>,
}

impl Bench {
    fn new(home: &Path, files: usize) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let bench = Self { home: home.to_owned(), files, runtime, edits: Cell::new(0) };
        for file in 0..files {
            let path = bench.path(file);
            if file.is_multiple_of(FOLDER) {
                fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            }
            fs::write(path, content(file)).expect("a file");
        }
        bench.plain(&["init", "-q"]);
        bench.plain(&["config", "gc.auto", "0"]);
        bench.git();
        bench
    }

    fn workspace(&self) -> PathBuf {
        self.home.join("workspace")
    }

    fn path(&self, file: usize) -> PathBuf {
        let folder = file / FOLDER;
        self.workspace().join(format!("part{}/folder{folder}/file{file}.txt", folder / 50))
    }

    fn open(&self, resident: bool) -> Snapshots {
        let workspace = self.workspace();
        let held = File::open("/dev/null").expect("it is there").into();
        let (scratch, env, own) = (self.home.clone(), Vec::new(), Vec::new());
        let withheld = Withheld::default();
        let policy = Policy { scratch, workspace, env, chain: Chain::Off, own, held, withheld };
        let images = Some(Images::new(policy, PROGRAM.into()));
        let terms = Terms { limit: 1 << 30, images, ..Terms::default() };
        let settings = Settings { terms, resident, ..Settings::default() };
        Snapshots::open(&self.home, &settings).expect("a history")
    }

    fn snapshots(&self, way: Way) -> Snapshots {
        // Of a watcher's own, since the small ones would have none.
        let snapshots = self.open(false);
        if way == Way::Watched {
            let watched = snapshots.blocking(|keeper| {
                let (workspace, git_dir) = (keeper.git_dir.workspace(), keeper.git_dir.path());
                let started = Instant::now();
                keeper.lookout.watch(Watch::start(workspace, &git_dir.join("cookies"))?);
                Ok(millis(started.elapsed()))
            });
            let took = self.runtime.block_on(watched).expect("a watcher");
            row("the start of a watcher, ms", &Sample(vec![took]), None);
        }
        self.settle(&snapshots);
        snapshots
    }

    /// What a turn takes in the end that changed a file.
    fn change(&self, snapshots: &Snapshots, way: Way) -> f64 {
        let told = way == Way::Told;
        let writing = snapshots.writers().writes("bench", !told);
        let path = self.edit();
        writing.wrote(told.then_some(path));
        self.timed(snapshots.after(record()))
    }

    /// Change one more file.
    fn edit(&self) -> PathBuf {
        let edits = self.edits.get();
        self.edits.set(edits + 1);
        // A large step, so that folders take turns.
        let path = self.path(edits * 7919 % self.files);
        fs::write(&path, content(self.files + edits)).expect("a file");
        path.strip_prefix(self.workspace()).expect("it is in there").to_owned()
    }

    fn timed<T>(&self, work: impl Future<Output = anyhow::Result<T>>) -> f64 {
        let started = Instant::now();
        self.runtime.block_on(work).expect("a snapshot");
        millis(started.elapsed())
    }

    fn settle(&self, snapshots: &Snapshots) {
        self.runtime.block_on(snapshots.settled()).expect("nothing fails");
    }

    /// What plain git takes for a commit of all there is.
    fn git(&self) -> f64 {
        let started = Instant::now();
        self.plain(&["add", "-A"]);
        self.plain(&["commit", "-q", "--allow-empty", "-m", "a change"]);
        millis(started.elapsed())
    }

    fn plain(&self, arguments: &[&str]) {
        let mut git = Command::new("git");
        git.args(arguments).current_dir(self.workspace()).env("HOME", &self.home);
        git.env("GIT_DIR", self.home.join("plain.git")).env("GIT_WORK_TREE", self.workspace());
        git.env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_CONFIG_GLOBAL", "/dev/null");
        for name in ["AUTHOR", "COMMITTER"] {
            git.env(format!("GIT_{name}_NAME"), "me").env(format!("GIT_{name}_EMAIL"), "me@x");
        }
        let status = git.stdin(Stdio::null()).status().expect("git is installed");
        assert!(status.success(), "git {arguments:?}");
    }
}

/// Some 2 KB of text.
fn content(number: usize) -> String {
    let mut text = String::new();
    for line in 0..40 {
        let _ = writeln!(text, "{number}: line {line} of a text that says very little");
    }
    text
}

fn record() -> Record {
    Record {
        session: "bench".to_owned(),
        turn: 1,
        origin: Origin::Owner,
        asked: "change a file".to_owned(),
        said: "Done.".to_owned(),
        model: "script".to_owned(),
        usage: Usage::default(),
        end: End::Done,
    }
}

/// What a folder takes on the disk.
fn disk_usage(folder: &Path) -> u64 {
    let items = fs::read_dir(folder).into_iter().flatten().flatten();
    let sizes = items.map(|item| match item.metadata() {
        Ok(stat) if stat.is_dir() => disk_usage(&item.path()),
        Ok(stat) => stat.blocks() * 512,
        Err(_) => 0,
    });
    sizes.sum()
}
