//! The kernel's `History`: a commit for what each turn changed, in the right name.
//!
//! Owns what a turn's commit says, and that there is one writer at a time, on a thread that
//! may block. What a killed turn left is that turn's. Does not know how changes are found,
//! nor how it is told whose they are.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use git2::{Oid, Repository};

use crate::files::withheld::Withheld;
use crate::kernel::border::{History, Record};
use crate::kernel::event::{Changes, End};
use crate::kernel::model::Boxed;
use crate::organs::config::{Config, HistorySettings};
use crate::organs::history::archive::{Author, Commit, MAIN, Message};
use crate::organs::history::chronicle::Entry;
use crate::organs::history::difference::count_lines;
use crate::organs::history::gate::Gate;
use crate::organs::history::gitdir::{self, GitDir};
use crate::organs::history::image::Images;
use crate::organs::history::keeper::{Keeper, Turn};
use crate::organs::history::pack;
use crate::organs::history::scan::Terms;
use crate::organs::history::watch::Watch;
use crate::organs::history::writers::{Writers, Writing};

/// What the agent said at the end of a turn, in the body of the turn's commit, in characters.
const SAID_CHARS: usize = 2_000;
/// Digits of a commit's id where it is shown: unique for as long as it matters.
pub const SHORT_ID: usize = 12;

/// Held while the history is packed: one at a time. One process hosts one home.
static PACKING: Mutex<()> = Mutex::new(());

/// So long nobody must have done anything before the index of a large workspace is written:
/// that takes a while, and whoever begins or ends a turn meanwhile has to wait for it.
const QUIET: Duration = Duration::from_millis(500);

/// What the owner says about the history, and what else bears on it.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// The owner's name and address, which the owner's commits bear.
    pub owner: Option<(String, String)>,
    /// What is taken in.
    pub terms: Terms,
    /// Whether this process is there for more than a turn: then a large workspace is watched.
    pub resident: bool,
    /// Whether tool calls are not confined: every commit says so.
    pub unconfined: bool,
}

impl Settings {
    /// As config.toml has them, with everything that counts as a secret.
    pub fn of(config: &Config, known: Withheld, images: Images) -> Self {
        let HistorySettings { file_mb, secrets_in, .. } = &config.history;
        let gate = Gate::new(known, secrets_in).into();
        Self {
            owner: gitdir::owner(),
            terms: Terms { limit: file_mb << 20, gate, images: Some(images) },
            resident: false,
            unconfined: false,
        }
    }
}

/// The snapshots of one checkout.
pub struct Snapshots {
    keeper: Arc<Mutex<Keeper>>,
    writers: Writers,
    resident: bool,
    /// How many looks there were.
    looks: Arc<AtomicUsize>,
    gate: Arc<Gate>,
    /// Whether a glance is about to be taken.
    glancing: Arc<AtomicBool>,
    /// What a killed turn left running, until the next turn has ended.
    lingering: Mutex<Vec<Writing>>,
}

impl Snapshots {
    /// Open the history of a home, or begin one with the workspace as it is. Blocks; the
    /// caller holds the host lock, and has `interrupted` called before any turn.
    pub fn open(home: &Path, settings: &Settings) -> Result<Self> {
        let (git_dir, repository) = GitDir::open(home)?;
        let Settings { owner, terms, .. } = settings.clone();
        let (mut keeper, writers) = Keeper::open(git_dir, repository, MAIN, owner, terms)?;
        if keeper.archive().head()?.is_none() {
            let subject = "The workspace as it begins".to_owned();
            let trailers = vec![("Origin", "fledgling".to_owned())];
            let message = Message { subject, body: String::new(), trailers };
            keeper.commit_all(Author::Agent, &message)?;
            keeper.freshen()?;
        } else {
            keeper.heal();
            keeper.resume();
        }
        Ok(Self::of(keeper, writers, settings))
    }

    /// What this keeper keeps.
    pub fn of(mut keeper: Keeper, writers: Writers, settings: &Settings) -> Self {
        keeper.mark(settings.unconfined);
        let keeper = Arc::new(Mutex::new(keeper));
        let (resident, looks, lingering) = (settings.resident, Arc::default(), Mutex::default());
        let gate = settings.terms.gate.clone();
        let glancing = Arc::default();
        Self { keeper, writers, resident, looks, gate, glancing, lingering }
    }

    /// Who writes in this checkout: whatever is not the owner says so here.
    pub fn writers(&self) -> &Writers {
        &self.writers
    }

    /// Take in what turns left that a kill ended, given by session and number. It is never
    /// the owner's; nobody knows who else wrote since. Where something of them still runs
    /// (they are not `over`), what comes is not the owner's before the next turn has ended.
    pub fn interrupted(&self, turns: Vec<(String, u64)>, over: bool) -> Boxed<'_, Result<Changes>> {
        // Jobs and services have no turns: what they left is nobody's to undo as one.
        let is_turn = |(name, _): &&(String, u64)| !name.contains(':');
        let Some(first) = turns.iter().find(is_turn).or(turns.first()) else {
            return Box::pin(async { Ok(Changes::default()) });
        };
        let sessions: BTreeSet<_> = turns.iter().map(|(session, _)| session.clone()).collect();
        let lasting = self.writers.linger(sessions);
        let (session, turn) = first;
        let (subject, mut trailers) = if is_turn(&first) {
            let trailers = vec![("Session", session.clone()), ("Turn", turn.to_string())];
            (format!("Interrupted: turn {turn} of {session}"), trailers)
        } else {
            (format!("Interrupted: {session}"), vec![("Also-running", session.clone())])
        };
        trailers.extend([("Origin", "unknown".to_owned()), ("End", "interrupted".to_owned())]);
        let others = turns.iter().filter(|other| *other != first);
        trailers.extend(others.map(|(session, _)| ("Also-running", session.clone())));
        let message = Message { subject, body: String::new(), trailers };
        let writers = self.writers.clone();
        Box::pin(async move {
            let taken = self
                .blocking(move |keeper| {
                    let taken = keeper.commit_all(Author::Agent, &message);
                    keeper.freshen()?;
                    Ok(changes(keeper, taken?, String::new()))
                })
                .await;
            // Should it have failed, the next snapshot must not take it for the owner's.
            if over && taken.is_ok() {
                drop(lasting);
                for (session, _) in &turns {
                    writers.settle(session, None);
                }
            } else {
                self.lingering().extend(lasting);
            }
            taken
        })
    }

    /// After a call that may have written anywhere: it is found out what it wrote, when nobody
    /// waits.
    pub fn glance(&self) {
        if self.glancing.swap(true, Ordering::AcqRel) {
            return;
        }
        let (keeper, glancing) = (Arc::clone(&self.keeper), Arc::clone(&self.glancing));
        tokio::task::spawn_blocking(move || {
            let mut keeper = lock(&keeper);
            // What ends from now on is for the next one.
            glancing.store(false, Ordering::Release);
            // Should it fail, more is suspected than need be.
            let _ = keeper.glance();
        });
    }

    /// Have this done by the keeper, on a thread that may block.
    pub fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Keeper) -> Result<T> + Send + 'static,
    ) -> Boxed<'_, Result<T>> {
        let keeper = Arc::clone(&self.keeper);
        let work = move || work(&mut lock(&keeper));
        Box::pin(async {
            // The one runtime thread never waits for a disk.
            tokio::task::spawn_blocking(work).await.context("the snapshot was broken off")?
        })
    }

    /// Returns when nothing is being written any more that has to be. A process of one turn
    /// packs now, when nobody waits for its answer any more: otherwise one after the other
    /// would end before it came to that. Another has done so while it was there: should it be
    /// at it, it is broken off, and the next start cleans up.
    pub async fn settled(&self) -> Result<()> {
        let resident = self.resident;
        let git_dir = self.blocking(move |keeper| {
            // It is a cache that is waited for.
            let _ = keeper.freshen();
            Ok(keeper.archive().repository().path().to_owned())
        });
        let git_dir = git_dir.await?;
        if resident {
            return Ok(());
        }
        tokio::task::spawn_blocking(move || pack(&git_dir)).await.context("it was broken off")?
    }

    /// What is done when nobody waits: the index is written, the watcher started, the history
    /// packed.
    fn tend(&self, turn_is_over: bool) {
        let (keeper, resident) = (Arc::clone(&self.keeper), self.resident);
        let looks = Arc::clone(&self.looks);
        let look = looks.fetch_add(1, Ordering::SeqCst) + 1;
        tokio::task::spawn_blocking(move || {
            let (git_dir, is_large) = {
                let keeper = lock(&keeper);
                (keeper.archive().repository().path().to_owned(), keeper.lookout.is_large())
            };
            if is_large && resident {
                thread::sleep(QUIET);
            }
            // A later look has it done, or the end of a process of one turn.
            if !is_large || resident && looks.load(Ordering::SeqCst) == look {
                // It is a cache.
                let _ = lock(&keeper).freshen();
            }
            if resident {
                start_watch(&keeper);
            }
            if resident
                && turn_is_over
                && let Err(error) = pack(&git_dir)
            {
                lock(&keeper).notice(format!("The history could not be packed: {error:#}."));
            }
        });
    }

    fn lingering(&self) -> MutexGuard<'_, Vec<Writing>> {
        lock(&self.lingering)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is half done is found and done again by the next look.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Watch a workspace that is large enough, from a thread that may block: with many folders it
/// takes a second, in which nobody has to wait for the keeper.
fn start_watch(keeper: &Mutex<Keeper>) {
    let (workspace, cookies) = {
        let mut keeper = lock(keeper);
        if !keeper.lookout.wants_watch() {
            return;
        }
        (keeper.git_dir.workspace().to_owned(), keeper.git_dir.path().join("cookies"))
    };
    let started = Watch::start(&workspace, &cookies);
    let mut keeper = lock(keeper);
    match started {
        Ok(watch) => keeper.lookout.watch(watch),
        Err(error) => keeper.notice(format!(
            "Each turn looks through the whole workspace, since watching it failed: {error:#}."
        )),
    }
}

/// Pack the history if that pays, and nobody is at it. Snapshots go on meanwhile.
fn pack(git_dir: &Path) -> Result<()> {
    let Ok(_packing) = PACKING.try_lock() else { return Ok(()) };
    if pack::needed(git_dir) {
        pack::pack(git_dir)?;
    }
    Ok(())
}

impl History for Snapshots {
    fn before<'a>(&'a self, session: &'a str, _turn: u64) -> Boxed<'a, Result<Option<String>>> {
        // Whatever comes of it, the turn begins; nothing was written in it so far.
        self.writers.begin(session);
        Box::pin(async move {
            let taken = self
                .blocking(|keeper| {
                    let taken = keeper.take_in();
                    let said = keeper.take_notices().join(" ");
                    taken.map(|()| Some(said).filter(|said| !said.is_empty()))
                })
                .await;
            self.tend(false);
            taken
        })
    }

    fn after(&self, record: Record) -> Boxed<'_, Result<Changes>> {
        self.after_turn(record, Vec::new())
    }
}

impl Snapshots {
    /// The same; with trailers that tell more of the turn.
    pub fn after_turn(
        &self,
        record: Record,
        trailers: Vec<(&'static str, String)>,
    ) -> Boxed<'_, Result<Changes>> {
        let mut message = message(&record);
        message.trailers.extend(trailers);
        self.conclude(record.session, message)
    }

    /// Commit what this writer did, which is over.
    pub fn conclude(&self, writer: String, mut message: Message) -> Boxed<'_, Result<Changes>> {
        Box::pin(async move {
            message.subject = self.gate.cleared(message.subject);
            message.body = self.gate.cleared(message.body);
            let lasting = std::mem::take(&mut *self.lingering());
            let killed: Vec<_> = lasting.iter().map(|span| span.writer().to_owned()).collect();
            let gate = self.gate.clone();
            let taken = self
                .blocking(move |keeper| {
                    let turn = Turn { writer: &writer, message };
                    let (commit, left_out) = keeper.conclude(&turn)?;
                    Ok(changes(keeper, commit, gate.withhold(left_out)))
                })
                .await;
            if taken.is_ok() {
                drop(lasting);
                for writer in &killed {
                    self.writers.settle(writer, None);
                }
            } else {
                self.lingering().extend(lasting);
            }
            self.tend(true);
            taken
        })
    }
}

/// What the commit of a turn says.
fn message(record: &Record) -> Message {
    let asked = record.asked.lines().find(|line| !line.trim().is_empty());
    let mut body: String = record.said.chars().take(SAID_CHARS).collect();
    if body.len() < record.said.len() {
        body += " […]";
    }
    let subject = asked.unwrap_or("A turn without a word").to_owned();
    let (usage, end) = (record.usage, end_of(record.end));
    let mut trailers = vec![
        ("Session", record.session.clone()),
        ("Turn", record.turn.to_string()),
        ("Origin", record.origin.to_string()),
        ("Model", record.model.clone()),
        ("Tokens", format!("{} in, {} out", usage.input, usage.output)),
    ];
    // Of what costs nothing and of what nobody knows there is nothing to say.
    if usage.cost > 0 {
        let more = if usage.unpriced > 0 { "+" } else { "" };
        trailers.push(("Cost", format!("{:.4}{more} USD", usage.cost.max(100) as f64 / 1e6)));
    }
    trailers.extend(end.map(|end| ("End", end.to_owned())));
    Message { subject, body, trailers }
}

/// A turn that was simply done needs no word about it.
fn end_of(end: End) -> Option<&'static str> {
    match end {
        End::Done => None,
        End::Failed => Some("failed"),
        End::Interrupted => Some("interrupted"),
    }
}

fn changes(keeper: &Keeper, commit: Option<Commit>, left_out: String) -> Changes {
    let Some(Commit { id, files, .. }) = commit else {
        return Changes { left_out, ..Changes::default() };
    };
    // The commit is made: that its lines cannot be counted is no failure of it.
    let (added, removed) = lines(keeper.archive().repository(), id).unwrap_or_default();
    let commit = Some(id.to_string()[..SHORT_ID].to_owned());
    Changes { commit, files, added, removed, left_out }
}

/// Lines that a commit added and removed.
fn lines(repository: &Repository, commit: Oid) -> Result<(usize, usize)> {
    let entry = Entry::read(repository.find_commit(commit)?);
    count_lines(repository, &entry.differences(repository)?)
}

#[cfg(test)]
#[path = "storm_tests.rs"]
mod storm_tests;

#[cfg(test)]
#[path = "watched_tests.rs"]
mod watched_tests;

#[cfg(test)]
#[path = "model_tests.rs"]
mod model_tests;

#[cfg(test)]
mod tests {
    use std::ffi::{CString, OsStr};
    use std::fs::{self, File, Permissions};
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::PathBuf;
    use std::process::Command;

    use super::*;
    use crate::kernel::message::{Origin, Usage};

    struct Home {
        temp: tempfile::TempDir,
        snapshots: Snapshots,
        runtime: tokio::runtime::Runtime,
    }

    impl Home {
        fn new() -> Self {
            let temp = tempfile::tempdir().unwrap();
            fs::create_dir(temp.path().join("workspace")).unwrap();
            fs::write(temp.path().join("workspace/bootstrap.md"), "who I am\n").unwrap();
            let snapshots = Snapshots::open(temp.path(), &Settings::default()).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            Self { temp, snapshots, runtime }
        }

        /// As after a kill of the process.
        fn reopen(self) -> Self {
            self.runtime.block_on(self.snapshots.settled()).unwrap();
            drop(self.snapshots);
            let snapshots = Snapshots::open(self.temp.path(), &Settings::default()).unwrap();
            Self { snapshots, ..self }
        }

        fn path(&self, path: impl AsRef<Path>) -> PathBuf {
            self.temp.path().join("workspace").join(path)
        }

        fn write(&self, path: &str, content: impl AsRef<[u8]>) {
            fs::create_dir_all(self.path(path).parent().unwrap()).unwrap();
            fs::write(self.path(path), content).unwrap();
        }

        fn before(&self, session: &str) -> Option<String> {
            self.runtime.block_on(self.snapshots.before(session, 1)).unwrap()
        }

        fn after(&self, record: Record) -> Changes {
            self.runtime.block_on(self.snapshots.after(record)).unwrap()
        }

        /// A turn in which this happens.
        fn turn(&self, act: impl FnOnce(&Self)) -> Changes {
            assert_eq!(self.before("main"), None);
            self.call("main", act);
            self.after(record("main"))
        }

        /// A call of this session's, which writes what it likes.
        fn call(&self, session: &str, act: impl FnOnce(&Self)) {
            let writing = self.snapshots.writers().writes(session, true);
            act(self);
            drop(writing);
            self.runtime.block_on(self.snapshots.blocking(Keeper::glance)).unwrap();
        }

        /// Time goes by: what is written now can be told from what was written before.
        fn later(&self) {
            let _ = self;
            let tick = std::time::Instant::now();
            while tick.elapsed() < std::time::Duration::from_millis(25) {
                std::thread::yield_now();
            }
        }

        /// What the owner's plain git says in the workspace.
        fn git(&self, arguments: &[&str]) -> String {
            self.runtime.block_on(self.snapshots.settled()).unwrap();
            let mut git = Command::new("git");
            git.args(arguments).current_dir(self.path("")).env_clear();
            git.env("PATH", std::env::var_os("PATH").unwrap()).env("HOME", self.temp.path());
            git.env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_CONFIG_GLOBAL", "/dev/null");
            git.env("GIT_OPTIONAL_LOCKS", "0");
            for name in ["AUTHOR", "COMMITTER"] {
                git.env(format!("GIT_{name}_NAME"), "me").env(format!("GIT_{name}_EMAIL"), "me@x");
            }
            let output = git.output().unwrap();
            let errors = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "git {arguments:?}: {errors}");
            String::from_utf8_lossy(&output.stdout).into_owned()
        }

        /// History is valid, holds exactly these paths besides `bootstrap.md`, and plain
        /// git finds nothing that is not in it.
        fn holds(&self, paths: &[&str]) {
            self.git(&["fsck", "--strict", "--no-dangling"]);
            assert_eq!(self.git(&["status", "--porcelain"]), "");
            let listed = self.git(&["ls-tree", "-r", "-z", "--name-only", "HEAD"]);
            let mut listed: Vec<_> = listed.split_terminator('\0').collect();
            listed.retain(|path| *path != "bootstrap.md");
            assert_eq!(listed, paths);
        }

        fn trailer(&self, name: &str) -> String {
            let format = format!("--format=%(trailers:key={name},valueonly)");
            self.git(&["log", "-1", &format]).trim().to_owned()
        }

        fn commits(&self) -> usize {
            self.git(&["rev-list", "HEAD"]).lines().count()
        }
    }

    fn record(session: &str) -> Record {
        Record {
            session: session.to_owned(),
            turn: 7,
            origin: Origin::Owner,
            asked: "please do it".to_owned(),
            said: "I did it.".to_owned(),
            model: "openai:tiny".to_owned(),
            usage: Usage { input: 12, output: 3, ..Usage::default() },
            end: End::Done,
        }
    }

    #[test]
    fn a_turn_is_one_commit_that_says_what_was_asked_and_done() {
        let home = Home::new();
        let changes = home.turn(|home| {
            home.write("bootstrap.md", "who I am now\n");
            home.write("bin/deep/er/tool", "#!/bin/sh\necho\n");
        });
        assert_eq!((changes.files, changes.added, changes.removed), (2, 3, 1));
        let id = home.git(&["rev-parse", "--short=12", "HEAD"]);
        assert_eq!(changes.commit.as_deref(), Some(id.trim()));
        assert_eq!(
            home.git(&["log", "-1", "--format=%an <%ae>%n%B"]),
            "fledgling <agent@localhost>\nplease do it\n\nI did it.\n\nSession: main\nTurn: 7\n\
             Origin: owner\nModel: openai:tiny\nTokens: 12 in, 3 out\n\n"
        );
        home.holds(&["bin/deep/er/tool"]);
        assert_eq!(home.commits(), 2);
    }

    #[test]
    fn no_change_is_no_commit() {
        let home = Home::new();
        assert_eq!(home.turn(|_| {}), Changes::default());
        let home = home.reopen();
        // Written again, but the same.
        assert_eq!(home.turn(|home| home.write("bootstrap.md", "who I am\n")), Changes::default());
        assert_eq!(home.commits(), 1);
        home.holds(&[]);
    }

    #[test]
    fn deletions_kinds_and_modes_come_through() {
        let home = Home::new();
        home.turn(|home| {
            home.write("script", "run\n");
            home.write("empty", "");
            home.write("gone/a/b", "b\n");
            home.write("crlf", "a\r\nb\r\n");
            home.write(".gitattributes", "* text=auto ident\n");
            symlink("nowhere", home.path("dangling")).unwrap();
            symlink("/", home.path("out")).unwrap();
        });
        home.holds(&[".gitattributes", "crlf", "dangling", "empty", "gone/a/b", "out", "script"]);
        assert_eq!(home.git(&["show", "HEAD:crlf"]), "a\r\nb\r\n");
        let changes = home.turn(|home| {
            fs::set_permissions(home.path("script"), Permissions::from_mode(0o755)).unwrap();
            fs::remove_dir_all(home.path("gone")).unwrap();
            fs::remove_file(home.path("dangling")).unwrap();
            symlink("elsewhere", home.path("dangling")).unwrap();
        });
        assert_eq!(changes.files, 3);
        home.holds(&[".gitattributes", "crlf", "dangling", "empty", "out", "script"]);
        assert!(home.git(&["ls-tree", "HEAD", "script"]).starts_with("100755 blob"));
        assert_eq!(home.git(&["show", "HEAD:dangling"]), "elsewhere");
    }

    #[test]
    fn a_file_becomes_a_folder_and_a_folder_a_file_or_a_link() {
        let home = Home::new();
        home.turn(|home| {
            home.write("a", "file\n");
            home.write("b/c/d", "deep\n");
            home.write("e/f", "f\n");
            home.write("b-c", "between\n");
        });
        home.turn(|home| {
            fs::remove_file(home.path("a")).unwrap();
            home.write("a/x/y", "now a folder\n");
            fs::remove_dir_all(home.path("b")).unwrap();
            home.write("b", "now a file\n");
            fs::remove_dir_all(home.path("e")).unwrap();
            symlink("/etc", home.path("e")).unwrap();
        });
        home.holds(&["a/x/y", "b", "b-c", "e"]);
        home.turn(|home| {
            fs::remove_dir_all(home.path("a")).unwrap();
            fs::remove_file(home.path("b")).unwrap();
            home.write("b/c/d", "deep\n");
        });
        home.holds(&["b-c", "b/c/d", "e"]);
    }

    #[test]
    fn odd_names_are_kept_and_what_git_refuses_is_named() {
        let home = Home::new();
        let odd = OsStr::from_bytes(b"caf\xe9 \n\"x\"");
        let Changes { left_out, .. } = home.turn(|home| {
            fs::write(home.path(odd), "latin\n").unwrap();
            home.write(&format!("{}/x", ["deep"; 60].join("/")), "deep\n");
            home.write("git~1", "refused\n");
            home.write(".GIT/hooks/x", "refused\n");
            home.write(":(glob)*", "pathspec\n");
        });
        let body = home.git(&["log", "-1", "--format=%b"]);
        assert!(body.contains("Left out: git~1 (git refuses it: invalid path: 'git~1')"), "{body}");
        home.git(&["fsck", "--strict"]);
        let listed = home.git(&["ls-tree", "-r", "--name-only", "HEAD"]);
        assert!(listed.contains(r#""caf\351 \n\"x\"""#), "{listed}");
        assert!(listed.contains("deep/x\n") && listed.contains(":(glob)*\n"));
        fs::remove_file(home.path("git~1")).unwrap();
        fs::remove_dir_all(home.path(".GIT")).unwrap();
        assert_eq!(home.git(&["status", "--porcelain"]), "");
        assert!(left_out.starts_with("git~1 (git refuses it"), "{left_out}");
        home.before("main");
        home.call("main", |home| fs::remove_file(home.path(odd)).unwrap());
        assert_eq!(home.after(record("main")).files, 1);
    }

    #[test]
    fn the_files_of_a_nested_repository_are_files() {
        let home = Home::new();
        home.turn(|home| {
            home.git(&["init", "-q", "nested"]);
            home.write("nested/src/file", "code\n");
        });
        home.git(&["fsck", "--strict"]);
        let listed = home.git(&["ls-tree", "-r", "--name-only", "HEAD"]);
        assert_eq!(listed, "bootstrap.md\nnested/src/file\n");
        // The owner's git records such a folder as a link; the files win.
        home.write("nested/other", "more\n");
        home.git(&["rm", "-rq", "--cached", "nested"]);
        let link = format!("160000,{},nested", home.git(&["rev-parse", "HEAD"]).trim());
        home.git(&["update-index", "--add", "--cacheinfo", &link]);
        home.git(&["commit", "-qm", "a link"]);
        home.turn(|_| {});
        let listed = home.git(&["ls-tree", "-r", "--name-only", "HEAD"]);
        assert_eq!(listed, "bootstrap.md\nnested/other\nnested/src/file\n");
    }

    #[test]
    fn what_is_not_a_file_or_too_large_is_left_out_and_said() {
        let home = Home::new();
        home.turn(|home| {
            home.write("pipe", "once a file\n");
            home.write("big", "once small\n");
        });
        let changes = home.turn(|home| {
            fs::remove_file(home.path("pipe")).unwrap();
            for name in ["pipe", ".gitignore", ".gitattributes"] {
                let fifo = CString::new(home.path(name).as_os_str().as_bytes()).unwrap();
                // SAFETY: the path ends in NUL.
                assert_eq!(unsafe { libc::mkfifo(fifo.as_ptr(), 0o600) }, 0);
            }
            File::create(home.path("big")).unwrap().set_len(51 << 20).unwrap();
            home.write("small", "x\n");
        });
        assert_eq!(changes.files, 2);
        // Plain git would wait for these two for ever; we have not.
        fs::remove_file(home.path(".gitignore")).unwrap();
        fs::remove_file(home.path(".gitattributes")).unwrap();
        let body = home.git(&["log", "-1", "--format=%b"]);
        let [over, pipe] = ["over 50 MB", "a socket, a FIFO or a device"];
        let named =
            format!(".gitattributes ({pipe}), .gitignore ({pipe}), big ({over}), pipe ({pipe})");
        assert!(body.contains(&format!("Left out: {named}")), "{body}");
        // The last version that was recorded stays.
        assert_eq!(home.git(&["show", "HEAD:big"]), "once small\n");
        assert_eq!(changes.left_out, named);
        assert_eq!(home.before("main"), None);
        home.call("main", |home| home.write("small", "y\n"));
        home.after(record("main"));
        assert!(!home.git(&["log", "-1", "--format=%b"]).contains("Left out"));
        home.git(&["fsck", "--strict"]);
    }

    #[test]
    fn what_cannot_be_read_stays_as_it_was_recorded() {
        // SAFETY: geteuid has no preconditions.
        if unsafe { libc::geteuid() } == 0 {
            return; // root reads everything
        }
        let home = Home::new();
        home.turn(|home| {
            home.write("file", "1\n");
            home.write("folder/file", "1\n");
        });
        home.turn(|home| {
            home.write("file", "2\n");
            fs::set_permissions(home.path("file"), Permissions::from_mode(0o000)).unwrap();
            fs::set_permissions(home.path("folder"), Permissions::from_mode(0o000)).unwrap();
            home.write("other", "1\n");
        });
        let body = home.git(&["log", "-1", "--format=%b"]);
        fs::set_permissions(home.path("folder"), Permissions::from_mode(0o700)).unwrap();
        assert!(body.contains("file (permission denied), folder (permission denied)"), "{body}");
        assert_eq!(home.git(&["show", "HEAD:file", "HEAD:folder/file"]), "1\n1\n");
    }

    #[test]
    fn what_the_owner_excludes_is_left_out_and_no_hand_can_bring_it_in() {
        let home = Home::new();
        home.turn(|home| {
            home.write("node_modules/x/y.js", "1\n");
            home.write("app/target/debug/app", "1\n");
            home.write("store.db-wal", "1\n");
            home.write("my-journal/monday", "1\n");
            home.write("a.pyc", "1\n");
            home.write(".gitignore", "!node_modules\n!*.pyc\n");
            home.write("kept", "1\n");
        });
        let listed = home.git(&["ls-tree", "-r", "--name-only", "HEAD"]);
        assert_eq!(listed, ".gitignore\nbootstrap.md\nkept\nmy-journal/monday\n");
        // The owner put it in; then it is history.
        home.git(&["add", "-f", "node_modules/x/y.js"]);
        home.git(&["commit", "-qm", "vendored"]);
        home.turn(|home| home.write("node_modules/x/y.js", "2\n"));
        assert_eq!(home.git(&["show", "HEAD:node_modules/x/y.js"]), "2\n");
    }

    #[test]
    fn a_gitignore_counts_for_new_files_only_and_is_said() {
        let home = Home::new();
        home.turn(|home| home.write("old", "1\n"));
        let changes = home.turn(|home| {
            home.write("old", "2\n");
            home.write(".gitignore", "*\n");
            home.write("new", "1\n");
        });
        let said = "new (named in a .gitignore), new files that .gitignore names";
        assert_eq!(changes.left_out, said);
        assert!(home.git(&["log", "-1", "--format=%b"]).contains(&format!("Left out: {said}")));
        assert_eq!(home.git(&["show", "--format=", "--name-only"]), ".gitignore\nold\n");
        let changes = home.turn(|home| fs::remove_file(home.path(".gitignore")).unwrap());
        assert_eq!(changes.files, 2);
        home.holds(&["new", "old"]);
    }

    #[test]
    fn what_holds_a_secret_stays_out_and_is_named() {
        let home = Home::new();
        home.turn(|home| home.write("config", "key = none\n"));
        let token = format!("ghp_{}", "a1B2".repeat(9));
        let changes = home.turn(|home| {
            home.write("config", format!("key = {token}\n"));
            home.write("other", "1\n");
        });
        assert_eq!(changes.left_out, "config (it holds what looks like a GitHub token)");
        assert_eq!(home.git(&["show", "HEAD:config"]), "key = none\n");
        assert!(!home.git(&["log", "-p", "--all"]).contains(&token));
        home.turn(|home| home.write("config", "key = $TOKEN\n"));
        home.holds(&["config", "other"]);
    }

    #[test]
    fn a_second_change_in_the_same_tick_is_found() {
        let home = Home::new();
        for round in 0..20 {
            home.turn(|home| home.write("file", format!("first {round:02}\n")));
            home.write("file", format!("other {round:02}\n"));
            home.before("main");
            assert_eq!(home.git(&["show", "HEAD:file"]), format!("other {round:02}\n"));
            home.call("main", |home| home.write("file", format!("third {round:02}\n")));
            home.after(record("main"));
            assert_eq!(home.git(&["show", "HEAD:file"]), format!("third {round:02}\n"));
        }
        home.holds(&["file"]);
    }

    #[test]
    fn an_owners_edits_and_commits_are_the_owners() {
        let home = Home::new();
        home.write("notes", "by hand\n");
        home.turn(|home| home.write("notes", "by hand\nand by the agent\n"));
        assert_eq!(
            home.git(&["log", "--format=%an: %s", "-2"]),
            "fledgling: please do it\nowner: Edits outside fledgling\n"
        );
        home.git(&["checkout", "-q", "HEAD~1", "--", "notes"]);
        home.git(&["commit", "-qm", "mine"]);
        home.write("staged", "1\n");
        home.git(&["add", "staged"]);
        home.write("staged", "2\n");
        home.turn(|home| home.write("more", "x\n"));
        assert_eq!(
            home.git(&["log", "--format=%an: %s", "-3"]),
            "fledgling: please do it\nowner: Edits outside fledgling\nme: mine\n"
        );
        assert_eq!(home.git(&["show", "HEAD:staged"]), "2\n");
        home.holds(&["more", "notes", "staged"]);
    }

    #[test]
    fn what_overlaps_is_named_and_never_the_owners() {
        let home = Home::new();
        home.before("one");
        home.call("one", |home| home.write("a", "by one\n"));
        home.later();
        home.before("two");
        assert_eq!(home.commits(), 1);
        home.later();
        home.call("two", |home| {
            home.write("b", "by two\n");
            home.call("one", |home| home.write("c", "by either\n"));
        });
        home.later();
        home.write("d", "by hand\n");
        // What the other did while nothing of this one ran is left for the other.
        assert_eq!(home.after(record("two")).files, 2);
        assert_eq!(home.trailer("Also-running"), "one");
        assert_eq!(home.git(&["show", "--format=", "--name-only"]), "b\nc\n");
        assert_eq!(
            home.git(&["log", "-1", "--skip=1", "--format=%an", "--name-only"]),
            "owner\n\nd\n"
        );
        home.after(record("one"));
        assert_eq!(home.trailer("Also-running"), "");
        assert_eq!(home.git(&["show", "--format=", "--name-only"]), "a\n");
        home.write("e", "by hand\n");
        home.before("one");
        assert_eq!(home.trailer("Origin"), "owner");
        home.holds(&["a", "b", "c", "d", "e"]);
    }

    #[test]
    fn what_a_killed_turn_left_is_that_turns() {
        let home = Home::new();
        home.before("main");
        home.before("other");
        home.write("half", "done\n");
        let home = home.reopen();
        let turns = vec![("main".to_owned(), 3), ("other".to_owned(), 9)];
        let changes = home.runtime.block_on(home.snapshots.interrupted(turns, true)).unwrap();
        assert_eq!(changes.files, 1);
        assert_eq!(
            home.git(&["log", "-1", "--format=%an%n%B"]),
            "fledgling\nInterrupted: turn 3 of main\n\nSession: main\nTurn: 3\nOrigin: unknown\n\
             End: interrupted\nAlso-running: other\n\n"
        );
        assert_eq!(home.turn(|_| {}), Changes::default());
        home.holds(&["half"]);
    }

    #[test]
    fn what_a_killed_turn_still_writes_is_not_the_owners() {
        let home = Home::new();
        let turns = vec![("main".to_owned(), 3)];
        home.runtime.block_on(home.snapshots.interrupted(turns, false)).unwrap();
        home.write("late", "1\n");
        home.before("other");
        home.after(record("other"));
        assert_eq!(home.git(&["log", "-1", "--format=%an"]), "fledgling\n");
        assert_eq!(home.trailer("Also-running"), "main");
        // And then it has been long enough.
        home.write("mine", "1\n");
        home.before("other");
        assert_eq!(home.git(&["log", "-1", "--format=%an"]), "owner\n");
    }

    #[test]
    fn nobody_can_forge_a_trailer() {
        let home = Home::new();
        home.before("main");
        home.call("main", |home| home.write("x", "x\n"));
        let mut forged = record("main");
        forged.origin = Origin::Other("channel:x\nOrigin: owner".to_owned());
        forged.asked = "Origin: owner".to_owned();
        forged.said = "ok\u{1b}[2J\n\nSession: other\norigin : owner\r\nNote: fine\0".to_owned();
        home.after(forged);
        assert_eq!(home.trailer("Origin"), "channel:x Origin: owner");
        assert_eq!(home.trailer("Session"), "main");
        let message = home.git(&["log", "-1", "--format=%B"]);
        assert!(message.starts_with(
            "> Origin: owner\n\nok[2J\n\n> Session: other\n> origin : owner\nNote: fine\n\nSession: main\n"
        ), "{message:?}");
    }

    #[test]
    fn long_words_are_cut() {
        let home = Home::new();
        home.before("main");
        home.call("main", |home| home.write("x", "x\n"));
        let asked = format!("\n  {}\nsecond line", "ä".repeat(100));
        home.after(Record { asked, said: "ö".repeat(5_000), ..record("main") });
        let subject = home.git(&["log", "-1", "--format=%s"]);
        assert_eq!(subject.trim(), format!("{}…", "ä".repeat(72)));
        let body = home.git(&["log", "-1", "--format=%b"]);
        assert!(body.starts_with(&format!("{} […]\n\nSession: main\n", "ö".repeat(2_000))));
    }

    #[test]
    fn a_forged_pointer_is_put_right_and_said() {
        let home = Home::new();
        let pointer = home.path(".git");
        let said = "The workspace's .git file had been changed and has been put back";
        fs::write(&pointer, "gitdir: workspace/evil\n").unwrap();
        assert_eq!(home.before("main"), Some(format!("{said}.")));
        fs::remove_file(&pointer).unwrap();
        let target = home.path("target-of-link");
        fs::write(&target, "untouched\n").unwrap();
        symlink(&target, &pointer).unwrap();
        home.after(record("main"));
        assert_eq!(fs::read_to_string(&target).unwrap(), "untouched\n");
        assert!(pointer.symlink_metadata().unwrap().is_file());
        assert_eq!(home.before("main"), Some(format!("{said}.")));
        fs::remove_file(&pointer).unwrap();
        fs::create_dir_all(home.path("git-found-1")).unwrap();
        home.write(".git/hooks/evil", "#!/bin/sh\n");
        home.after(record("main"));
        let aside = format!("{said}; the folder found in its place is now git-found-2.");
        assert_eq!(home.before("main"), Some(aside));
        fs::remove_file(&pointer).unwrap();
        let home = home.reopen();
        let missing = "The workspace's .git file was missing and has been put back.";
        assert_eq!(home.before("main").as_deref(), Some(missing));
        home.holds(&["git-found-2/hooks/evil", "target-of-link"]);
    }

    #[test]
    fn locks_and_a_broken_index_left_by_a_kill_are_healed() {
        let home = Home::new();
        let git_dir = home.temp.path().join("history.git");
        for lock in ["index.lock", "refs/heads/main.lock", "HEAD.lock"] {
            fs::write(git_dir.join(lock), "").unwrap();
        }
        fs::write(git_dir.join("index"), "DIRC torn").unwrap();
        fs::create_dir_all(home.temp.path().join("history.new/half")).unwrap();
        let home = home.reopen();
        assert_eq!(home.turn(|home| home.write("x", "x\n")).files, 1);
        home.holds(&["x"]);
    }

    #[test]
    fn a_lock_of_the_owners_git_on_the_index_costs_no_snapshot() {
        let home = Home::new();
        let lock = home.temp.path().join("history.git/index.lock");
        home.turn(|home| {
            fs::write(&lock, "").unwrap();
            home.write("x", "x\n");
        });
        fs::remove_file(&lock).unwrap();
        assert_eq!(home.turn(|home| home.write("y", "y\n")).files, 1);
        home.holds(&["x", "y"]);
    }

    #[test]
    fn a_failed_snapshot_loses_nothing_and_blames_nobody_wrongly() {
        let home = Home::new();
        let lock = home.temp.path().join("history.git/refs/heads/main.lock");
        home.write("mine", "by hand\n");
        fs::write(&lock, "").unwrap();
        assert!(home.runtime.block_on(home.snapshots.before("main", 1)).is_err());
        home.later();
        home.call("main", |home| home.write("its", "by the agent\n"));
        assert!(home.runtime.block_on(home.snapshots.after(record("main"))).is_err());
        fs::remove_file(&lock).unwrap();
        home.before("other");
        home.holds(&["its", "mine"]);
        let log = home.git(&["log", "-2", "--format=%an %s", "--name-only"]);
        assert_eq!(
            log,
            "fledgling Changes of unknown origin\n\nits\nowner Edits outside fledgling\n\nmine\n"
        );
        assert_eq!(home.trailer("Also-running"), "main");
    }

    #[test]
    fn a_folder_that_a_call_moved_is_not_the_owners() {
        let home = Home::new();
        home.write("old/a", "a\n");
        home.write("old/b/c", "c\n");
        home.later();
        home.turn(|home| fs::rename(home.path("old"), home.path("new")).unwrap());
        home.holds(&["new/a", "new/b/c"]);
        let log = home.git(&["log", "-2", "--format=%an %s"]);
        assert_eq!(log, "fledgling please do it\nowner Edits outside fledgling\n");
    }

    #[test]
    fn a_file_tools_file_is_found_by_its_path_alone() {
        let home = Home::new();
        home.before("main");
        let writing = home.snapshots.writers().writes("main", false);
        home.write("bin/tool", "1\n");
        writing.wrote([PathBuf::from("bin/tool")]);
        home.later();
        home.write("other", "by hand\n");
        assert_eq!(home.after(record("main")).files, 1);
        home.before("main");
        let log = home.git(&["log", "-2", "--format=%an", "--name-only"]);
        assert_eq!(log, "owner\n\nother\nfledgling\n\nbin/tool\n");
        // The owner's editor came after the tool: both are named.
        let writing = home.snapshots.writers().writes("main", false);
        home.write("bin/tool", "2\n");
        writing.wrote([PathBuf::from("bin/tool")]);
        home.later();
        home.write("bin/tool", "3\n");
        home.after(record("main"));
        assert_eq!(home.trailer("Also-running"), "edits outside fledgling");
        home.holds(&["bin/tool", "other"]);
    }

    #[test]
    fn much_is_packed_when_nobody_waits() {
        let loose = |home: &Home| {
            let objects = home.temp.path().join("history.git/objects");
            let folders = fs::read_dir(objects).unwrap().map(|item| item.unwrap().path());
            let folders = folders.filter(|path| path.file_name().unwrap().len() == 2);
            folders.map(|path| fs::read_dir(path).unwrap().count()).sum::<usize>()
        };
        let home = Home::new();
        home.turn(|home| {
            (0..6_000).for_each(|file| home.write(&format!("{file}"), file.to_string()));
        });
        assert!(loose(&home) > 6_000);
        // Other tests' homes may be at it.
        while loose(&home) > 6_000 {
            home.runtime.block_on(home.snapshots.settled()).unwrap();
        }
        assert!(loose(&home) < 10, "only what nothing refers to stays");
        home.git(&["fsck", "--strict", "--no-dangling"]);
    }

    #[test]
    fn what_a_hand_moved_is_not_the_owners_however_often_one_looks() {
        let home = Home::new();
        home.turn(|home| home.write("d/f", "x"));
        home.later();
        assert_eq!((home.before("one"), home.before("two")), (None, None));
        home.call("one", |home| fs::rename(home.path("d"), home.path("e")).unwrap());
        for session in ["three", "four", "five"] {
            home.before(session);
        }
        assert_eq!(home.git(&["log", "--author=owner@localhost", "--format=%s", "--", "e"]), "");
        home.after(record("one"));
        assert!(home.git(&["ls-tree", "-r", "--name-only", "HEAD"]).contains("e/f"));
    }

    #[test]
    fn a_link_or_file_above_a_told_path_stays() {
        let home = Home::new();
        home.turn(|home| {
            home.write("v1/x", "1");
            symlink("v1", home.path("current")).unwrap();
        });
        home.before("main");
        let writing = home.snapshots.writers().writes("main", false);
        home.write("current/x", "2");
        writing.wrote([PathBuf::from("current/x")]);
        home.after(record("main"));
        assert!(home.git(&["ls-tree", "--name-only", "HEAD"]).contains("current"));
    }
}
