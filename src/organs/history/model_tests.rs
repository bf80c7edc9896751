//! Thousands of random operations between turns, undos, redos and restores, beside a model
//! that says what must be in the workspace and in the history after each.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use git2::{FileMode, ObjectType, Oid, Repository, Tree};

use super::{SHORT_ID, Settings, Snapshots};
use crate::kernel::border::{History, Record};
use crate::kernel::event::End;
use crate::kernel::message::{Origin, Usage};
use crate::organs::history::ask::{Favour, Undone, Which};
use crate::organs::history::keeper::Keeper;
use crate::organs::history::undo::{self, Who};
use crate::organs::home::Home;
use crate::organs::verb::Caller;

/// What a folder or a tree holds, without the folders themselves.
type Model = BTreeMap<Vec<u8>, (FileMode, Oid)>;

const STEPS: usize = 700;
const SESSIONS: [&str; 2] = ["one", "two"];
const RULES: &[u8] = b".gitignore";
const NAMES: [&[u8]; 14] = [
    b"a",
    b"b",
    b"c",
    b"d e",
    b"-n",
    b"caf\xe9",
    "caf\u{e9}".as_bytes(),
    "cafe\u{301}".as_bytes(),
    b"new\nline",
    b"q\"'$(x)",
    b"back\\slash",
    b"*",
    b"x.lock",
    b"HEAD",
];
/// Names of files that history does not take, but for the first one without a rule.
const KEPT_OUT: [&[u8]; 5] = [b"x.ignored", b"db-wal", b"git~1", b".GIT", b".git"];

/// One commit, as git tells it.
struct Made {
    id: Oid,
    before: Model,
    after: Model,
    turn: Option<String>,
    undoes: bool,
    cancels: Vec<Oid>,
}

struct World {
    temp: tempfile::TempDir,
    snapshots: Snapshots,
    runtime: tokio::runtime::Runtime,
    random: fastrand::Rng,
    repository: Repository,
    /// What is in the workspace.
    disk: Model,
    /// All commits, oldest first.
    log: Vec<Made>,
    /// Sessions with a turn under way: the paths of which it told, if these are all.
    running: BTreeMap<&'static str, Option<BTreeSet<Vec<u8>>>>,
    turns: u64,
    operations: usize,
}

#[test]
fn the_workspace_and_the_history_are_what_the_model_says() {
    let seeds = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok());
    let seeds = seeds.map_or(1..7, |seed: u64| seed..seed + 1);
    let threads = seeds.map(|seed| {
        std::thread::spawn(move || {
            let _told = Told(seed);
            let mut world = World::new(seed);
            for _ in 0..STEPS {
                world.step();
            }
            world.end();
            world.operations
        })
    });
    let threads: Vec<_> = threads.collect();
    let operations = threads.into_iter().map(|thread| thread.join().expect("see above"));
    let operations: usize = operations.sum();
    assert!(operations > 2000, "only {operations}");
}

/// Names the seed of a world that failed.
struct Told(u64);

impl Drop for Told {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("that was with SEED={}", self.0);
        }
    }
}

impl World {
    fn new(seed: u64) -> Self {
        let temp = tempfile::tempdir().unwrap();
        fs::create_dir(temp.path().join("workspace")).unwrap();
        fs::write(temp.path().join("workspace/a"), "first\n").unwrap();
        let snapshots = Snapshots::open(temp.path(), &Settings::default()).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let repository = Repository::open_bare(temp.path().join("history.git")).unwrap();
        let (random, running) = (fastrand::Rng::with_seed(seed), BTreeMap::new());
        let mut world = Self {
            temp,
            snapshots,
            runtime,
            random,
            repository,
            running,
            disk: Model::new(),
            log: Vec::new(),
            turns: 0,
            operations: 0,
        };
        world.disk = walked(&world.workspace());
        world.learn();
        world
    }

    fn workspace(&self) -> PathBuf {
        self.temp.path().join("workspace")
    }

    fn at(&self, path: &[u8]) -> PathBuf {
        self.workspace().join(OsStr::from_bytes(path))
    }

    fn head(&self) -> &Model {
        &self.log.last().unwrap().after
    }

    fn step(&mut self) {
        match self.random.u8(..100) {
            0..30 => self.operate(),
            30..55 => {
                let running: Vec<_> = self.running.keys().copied().collect();
                match self.random.choice(running) {
                    Some(session) => self.call(session),
                    None => self.begin(),
                }
            }
            55..65 => self.begin(),
            65..80 => self.conclude(),
            80..89 => self.undo(),
            89..93 => self.redo(),
            93..98 => self.restore(),
            _ => self.reopen(),
        }
        assert_eq!(shown(&walked(&self.workspace())), shown(&self.disk));
        if self.random.u8(..20) == 0 {
            self.is_valid();
        }
    }

    fn end(&mut self) {
        while !self.running.is_empty() {
            self.conclude();
        }
        self.take_in();
        self.is_valid();
    }

    /// What git says of it all.
    fn is_valid(&mut self) {
        self.runtime.block_on(self.snapshots.settled()).unwrap();
        let (workspace, home) = (self.workspace(), self.temp.path().to_owned());
        let git = |arguments: &[&str]| {
            let mut git = Command::new("git");
            git.args(arguments).current_dir(&workspace).env_clear();
            git.env("PATH", std::env::var_os("PATH").unwrap()).env("HOME", &home);
            git.env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_OPTIONAL_LOCKS", "0");
            let output = git.output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success(), "git {arguments:?}: {said}");
            output.stdout
        };
        git(&["fsck", "--strict", "--no-dangling"]);
        if self.running.is_empty() {
            self.take_in();
            self.keep(Keeper::freshen);
            let status = git(&["status", "--porcelain", "-z", "--no-renames", "-uall"]);
            let unclean = status.split(|byte| *byte == 0).filter(|line| !line.is_empty());
            // What git refuses to take it still lists, and what is left of nested repositories.
            let unclean = unclean.filter(|line| !is_refused(&line[3..]) && !line.ends_with(b"/"));
            assert_eq!(unclean.map(text).collect::<Vec<_>>(), [""; 0]);
        }
    }

    /// As after a kill between turns.
    fn reopen(&mut self) {
        if self.running.is_empty() {
            self.runtime.block_on(self.snapshots.settled()).unwrap();
            self.snapshots = Snapshots::open(self.temp.path(), &Settings::default()).unwrap();
            self.take_in();
        }
    }

    fn begin(&mut self) {
        let session = SESSIONS[self.random.usize(..SESSIONS.len())];
        if self.running.contains_key(session) {
            return;
        }
        let others = !self.running.is_empty();
        self.runtime.block_on(self.snapshots.before(session, self.turns)).unwrap();
        self.running.insert(session, Some(BTreeSet::new()));
        self.recorded(!others, None);
    }

    fn take_in(&mut self) {
        self.keep(Keeper::take_in);
        self.recorded(self.running.is_empty(), None);
    }

    /// Until nothing more is taken in: what waits for a turn may be told apart later.
    fn take_all_in(&mut self) {
        let mut count = 0;
        while count != self.log.len() {
            count = self.log.len();
            self.take_in();
        }
    }

    fn conclude(&mut self) {
        let running: Vec<_> = self.running.keys().copied().collect();
        let Some(session) = self.random.choice(running) else { return };
        let told = self.running.remove(session).unwrap();
        self.turns += 1;
        let record = Record {
            session: session.to_owned(),
            turn: self.turns,
            origin: Origin::Owner,
            asked: format!("turn {}", self.turns),
            said: String::new(),
            model: "script".to_owned(),
            usage: Usage::default(),
            end: End::Done,
        };
        self.runtime.block_on(self.snapshots.after(record)).unwrap();
        self.recorded(self.running.is_empty() && told.is_none(), told.as_ref());
    }

    fn keep<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Keeper) -> anyhow::Result<T> + Send + 'static,
    ) -> T {
        self.runtime.block_on(self.snapshots.blocking(work)).unwrap()
    }

    /// A call of a session: by a file tool, which tells its path, or by bash.
    fn call(&mut self, session: &'static str) {
        let by_path = self.random.bool();
        let writing = self.snapshots.writers().writes(session, !by_path);
        if by_path {
            let path = self.some_path();
            let content = self.some_content();
            self.write(&path, &content);
            if let Some(Some(told)) = self.running.get_mut(session) {
                told.insert(path.clone());
            }
            writing.wrote([PathBuf::from(OsStr::from_bytes(&path))]);
        } else {
            self.running.insert(session, None);
            for _ in 0..self.random.usize(1..6) {
                self.operate();
            }
        }
    }

    /// New commits. All that can be is recorded, when it is `all` there is to know; else
    /// each path is as it was or as it is, and these as they are.
    fn recorded(&mut self, all: bool, told: Option<&BTreeSet<Vec<u8>>>) {
        let before = self.head().clone();
        let wanted = recordable(&self.disk, &before);
        self.learn();
        if all {
            assert_eq!(shown(self.head()), shown(&wanted));
            return;
        }
        for path in before.keys().chain(wanted.keys()) {
            let recorded = self.head().get(path);
            let (old, new) = (before.get(path), wanted.get(path));
            assert!(recorded == new || recorded == old, "{}: {recorded:?}", text(path));
            let mine = told.is_some_and(|told| told.contains(path));
            assert!(!mine || recorded == new, "{}: {recorded:?}, not {new:?}", text(path));
        }
    }

    /// Read the commits that are new.
    fn learn(&mut self) {
        let known = self.log.last().map(|made| made.id);
        let head = self.repository.find_reference("refs/heads/main").unwrap();
        let mut next = Some(head.peel_to_commit().unwrap());
        let mut fresh = Vec::new();
        while let Some(commit) = next.take_if(|commit| Some(commit.id()) != known) {
            let message = String::from_utf8_lossy(commit.message_bytes()).into_owned();
            let trailers = |key: &str| -> Vec<String> {
                let key = format!("{key}: ");
                message
                    .lines()
                    .filter_map(|line| line.strip_prefix(&key))
                    .map(str::to_owned)
                    .collect()
            };
            let parent = commit.parent(0).ok();
            let tree = |commit: &git2::Commit<'_>| read(&self.repository, &commit.tree().unwrap());
            let (undoes, redoes) = (trailers("Undoes"), trailers("Redoes"));
            let turn = trailers("Session").into_iter().zip(trailers("Turn")).next();
            fresh.push(Made {
                id: commit.id(),
                before: parent.as_ref().map(tree).unwrap_or_default(),
                after: tree(&commit),
                turn: turn.map(|(session, turn)| format!("{session} {turn}")),
                undoes: !undoes.is_empty(),
                cancels: undoes
                    .iter()
                    .chain(&redoes)
                    .map(|id| Oid::from_str(id).unwrap())
                    .collect(),
            });
            assert!(parent.is_some() || known.is_none(), "history does not go on from {known:?}");
            next = parent;
        }
        self.log.extend(fresh.into_iter().rev());
    }

    /// What is taken back and was not put back again.
    fn cancelled(&self) -> HashSet<Oid> {
        let mut cancelled = HashSet::new();
        for made in self.log.iter().rev() {
            if !cancelled.contains(&made.id) {
                cancelled.extend(made.cancels.iter().copied());
            }
        }
        cancelled
    }

    fn undo(&mut self) {
        self.take_all_in();
        let cancelled = self.cancelled();
        let free = |made: &&Made| !cancelled.contains(&made.id);
        let (what, chosen) = if self.random.bool() {
            let turns = self.log.iter().rev().filter(free);
            let turns = turns.filter(|made| made.turn.is_some() && made.cancels.is_empty());
            let turns: Vec<_> = turns.map(|made| made.id).collect();
            let count = self.random.usize(1..4).min(turns.len());
            (Which::Turns(count), turns[..count].to_vec())
        } else {
            let any: Vec<_> = self.log[1..].iter().filter(free).map(|made| made.id).collect();
            let recent = any.len().saturating_sub(6);
            let Some(id) = self.random.choice(any[recent..].to_vec()) else { return };
            (Which::Commit(id.to_string()), vec![id])
        };
        if chosen.is_empty() {
            return;
        }
        let taken_back = self.take_back(what, &chosen);
        if taken_back && self.random.bool() {
            self.redo();
        }
    }

    fn redo(&mut self) {
        self.take_all_in();
        let cancelled = self.cancelled();
        let mut undos = self.log.iter().rev().filter(|made| made.undoes);
        let Some(last) = undos.find(|made| !cancelled.contains(&made.id)).map(|made| made.id)
        else {
            return;
        };
        self.take_back(Which::LastUndo, &[last]);
    }

    /// Have these commits taken back, latest first. Whether it was done.
    fn take_back(&mut self, what: Which, chosen: &[Oid]) -> bool {
        let favours = [None, None, Some(Favour::Theirs), Some(Favour::Ours), Some(Favour::Marks)];
        let favour = favours[self.random.usize(..favours.len())];
        let (target, clear) = self.without(chosen);
        let (count, said) = (self.log.len(), format!("{what:?} {favour:?}"));
        let who = self.who();
        let undone = self.keep(move |keeper| undo::undo(keeper, &who, &what, favour));
        let short = |id: &Oid| id.to_string()[..SHORT_ID].to_owned();
        let taken: Vec<_> = undone.changes.iter().map(|change| change.id.clone()).collect();
        assert_eq!(taken, chosen.iter().map(short).collect::<Vec<_>>(), "{said}");
        if favour.is_none() && !undone.conflicts.is_empty() {
            assert!(!clear, "{said}: {:?}", undone.conflicts);
            self.learn();
            assert_eq!(self.log.len(), count, "{said}");
            return false;
        }
        let left_alone = !undone.left_alone.is_empty();
        if undone.commit.is_none() && left_alone {
            self.learn();
            assert_eq!(self.log.len(), count, "{said}");
            return false;
        }
        self.gone_to(&undone, clear.then_some(&target), &said);
        assert_eq!(self.log.len(), count + 1, "{said}");
        // What was done in part is not said to be done.
        let in_part = left_alone && self.log[count].cancels.is_empty();
        assert!(in_part || self.log[count].cancels == chosen, "{said}");
        !in_part
    }

    fn who(&self) -> Who {
        let home = Home::resolve(Some(self.temp.path().to_owned())).unwrap();
        Who { home, caller: Caller::Owner, turn: None }
    }

    /// What history must be without these commits, by whole files; and whether that is all
    /// there is to say.
    fn without(&self, chosen: &[Oid]) -> (Model, bool) {
        let places = chosen.iter().map(|id| self.log.iter().position(|made| made.id == *id));
        let places: Vec<_> = places.map(Option::unwrap).collect();
        let (mut ours, mut clear) = (self.head().clone(), true);
        for row in places.chunk_by(|newer, older| *newer == older + 1) {
            let (base, theirs) = (&self.log[row[0]].after, &self.log[row[row.len() - 1]].before);
            for path in differing(base, theirs) {
                let (was, now, then) = (base.get(&path), ours.get(&path), theirs.get(&path));
                if now == was {
                    set(&mut ours, &path, then.copied());
                } else if now != then {
                    clear = false;
                }
            }
        }
        clear &= !ours.keys().any(|path| parents(path).any(|folder| ours.contains_key(folder)));
        (ours, clear)
    }

    fn restore(&mut self) {
        self.take_all_in();
        let made = &self.log[self.random.usize(self.log.len().saturating_sub(8)..self.log.len())];
        let (id, from, head) = (made.id.to_string(), made.after.clone(), self.head().clone());
        let mut paths = Vec::new();
        if self.random.u8(..4) > 0 {
            let all = from.keys().chain(head.keys());
            let all = all.flat_map(|path| parents(path).chain([&path[..]]));
            let all: Vec<_> = all.filter_map(|path| str::from_utf8(path).ok()).collect();
            let some = (0..self.random.usize(1..4)).map(|_| self.random.choice(all.clone()));
            paths = some.collect::<Vec<_>>().into_iter().flatten().map(str::to_owned).collect();
        }
        let mut target = if paths.is_empty() { from.clone() } else { head };
        for path in &paths {
            let inside = |other: &[u8]| Path::new(OsStr::from_bytes(other)).starts_with(path);
            target.retain(|other, _| !inside(other));
            for (other, entry) in from.iter().filter(|(other, _)| inside(other)) {
                parents(other).for_each(|folder| _ = target.remove(folder));
                target.insert(other.clone(), *entry);
            }
        }
        let (who, said) = (self.who(), format!("restore {id} {paths:?}"));
        let undone = self.keep(move |keeper| undo::restore(keeper, &who, &id, &paths));
        self.gone_to(&undone, Some(&target), &said);
    }

    /// Workspace and history went to the target, but for what had to be left alone.
    fn gone_to(&mut self, undone: &Undone, target: Option<&Model>, said: &str) {
        let before = self.head().clone();
        self.learn();
        let after = self.head().clone();
        if let Some(target) = target {
            let left: BTreeSet<_> =
                undone.left_alone.iter().map(|(path, _)| path.as_str()).collect();
            let mut wanted = before.clone();
            for path in differing(&before, target) {
                if left.contains(&*String::from_utf8_lossy(&path)) {
                    let odd = |other: &&Vec<u8>| before.get(*other) != self.disk.get(*other);
                    let near = |other: &&Vec<u8>| {
                        *other == &path
                            || parents(other)
                                .chain(parents(&path))
                                .any(|folder| folder == &path[..] || folder == &other[..])
                    };
                    let why = self.disk.keys().filter(odd).find(near);
                    // Folders that hold no file are in nobody's model.
                    let stuck = why.is_some() || self.at(&path).is_dir();
                    assert!(stuck, "{said}: {} was left alone: {undone:?}", text(&path));
                } else {
                    set(&mut wanted, &path, target.get(&path).copied());
                }
            }
            assert_eq!(shown(&after), shown(&wanted), "{said}: {undone:?}");
        }
        for path in differing(&before, &after) {
            set(&mut self.disk, &path, after.get(&path).copied());
        }
        assert_eq!(shown(&walked(&self.workspace())), shown(&self.disk), "{said}: {undone:?}");
    }

    fn some_name(&mut self) -> &'static [u8] {
        let most = if self.random.bool() { 3 } else { NAMES.len() };
        NAMES[self.random.usize(..most)]
    }

    fn some_path(&mut self) -> Vec<u8> {
        let depth = if self.random.u8(..30) == 0 { 14 } else { self.random.usize(1..5) };
        let names: Vec<_> = (0..depth).map(|_| self.some_name()).collect();
        names.join(&b'/')
    }

    fn some_content(&mut self) -> Vec<u8> {
        match self.random.u8(..6) {
            0 => Vec::new(),
            1 => vec![0, self.random.u8(..4)],
            2 => (0..self.random.usize(1..9))
                .flat_map(|_| [b'0' + self.random.u8(..3), b'\n'])
                .collect(),
            _ => format!("{}\n", self.random.u8(..10)).into_bytes(),
        }
    }

    /// A file or link that is there, and may be history.
    fn some_file(&mut self, links: bool) -> Option<Vec<u8>> {
        let plain = |path: &[u8]| !KEPT_OUT.iter().chain([&RULES]).any(|name| has_part(path, name));
        let files = self
            .disk
            .iter()
            .filter(|(path, (mode, _))| plain(path) && (links || *mode != FileMode::Link));
        let files: Vec<_> = files.map(|(path, _)| path).collect();
        self.random.choice(files).cloned()
    }

    fn some_folder(&mut self) -> Option<Vec<u8>> {
        let path = self.some_file(true)?;
        let folders: Vec<_> = parents(&path).map(<[u8]>::to_vec).collect();
        self.random.choice(folders)
    }

    /// Somebody changes something.
    fn operate(&mut self) {
        self.operations += 1;
        match self.random.u8(..14) {
            0..3 => {
                let (path, content) = (self.some_path(), self.some_content());
                self.write(&path, &content);
            }
            3 | 4 => {
                let Some(path) = self.some_file(false) else { return };
                let mut content = fs::read(self.at(&path)).unwrap();
                if content.is_empty() || self.random.bool() {
                    content.extend(b"more\n");
                } else {
                    // Of the same size, and likely at the same time.
                    content[0] = b'a' + self.random.u8(..26);
                }
                fs::write(self.at(&path), &content).unwrap();
                self.met(&path);
            }
            5 | 6 => {
                let Some(path) = self.some_file(true) else { return };
                fs::remove_file(self.at(&path)).unwrap();
                self.disk.remove(&path);
            }
            7 => {
                let Some(path) = self.some_file(false) else { return };
                let mode = if self.random.bool() { 0o755 } else { 0o644 };
                fs::set_permissions(self.at(&path), Permissions::from_mode(mode)).unwrap();
                self.met(&path);
            }
            8 => {
                let path = self.some_path();
                let targets: [&[u8]; 6] =
                    [b"nowhere", b"/not/there", b".", b"..", b"a", b"caf\xe9/a"];
                let target = OsStr::from_bytes(targets[self.random.usize(..targets.len())]);
                self.make_way(&path);
                symlink(target, self.at(&path)).unwrap();
                self.met(&path);
            }
            9 => {
                let (Some(from), to) = (self.some_file(true), self.some_path()) else { return };
                self.rename(&from, &to);
            }
            10 => {
                let (Some(from), to) = (self.some_folder(), self.some_path()) else { return };
                self.rename(&from, &to);
            }
            11 => {
                let Some(path) = self.some_file(true) else { return };
                let (inner, content) = (self.some_name(), self.some_content());
                self.write(&[&path[..], inner].join(&b'/'), &content);
            }
            12 => {
                let Some(path) = self.some_folder() else { return };
                let content = self.some_content();
                self.write(&path, &content);
            }
            _ => self.keep_out(),
        }
    }

    /// What is not history, and what says so.
    fn keep_out(&mut self) {
        let folder = self.some_path();
        let name = KEPT_OUT[self.random.usize(..KEPT_OUT.len())];
        let file = |name: &[u8]| [&folder[..], name].join(&b'/');
        match name {
            b".git" => {
                self.write(&file(b".git/HEAD"), b"ref: refs/heads/main\n");
                self.write(&file(b".git/objects/.keep"), b"");
                self.write(&file(b".git/refs/.keep"), b"");
                self.write(&file(b"a"), b"in a repository of its own\n");
            }
            b"x.ignored" => {
                if self.random.bool() {
                    self.write(&file(RULES), b"*.ignored\n");
                }
                self.write(&file(name), b"ignored\n");
            }
            _ => self.write(&file(name), b"kept out\n"),
        }
    }

    fn write(&mut self, path: &[u8], content: &[u8]) {
        self.make_way(path);
        fs::write(self.at(path), content).unwrap();
        self.met(path);
    }

    fn rename(&mut self, from: &[u8], to: &[u8]) {
        let within =
            |one: &[u8], other: &[u8]| one == other || parents(one).any(|part| part == other);
        if within(from, to) || within(to, from) {
            return;
        }
        self.make_way(to);
        fs::rename(self.at(from), self.at(to)).unwrap();
        let moved: Vec<_> = self.disk.keys().filter(|path| within(path, from)).cloned().collect();
        for path in moved {
            let entry = self.disk.remove(&path).unwrap();
            self.disk.insert([to, &path[from.len()..]].concat(), entry);
        }
    }

    /// Have nothing at a path, and folders above it.
    fn make_way(&mut self, path: &[u8]) {
        for part in parents(path).chain([path]) {
            let full = self.at(part);
            match full.symlink_metadata() {
                Ok(stat) if !stat.is_dir() => fs::remove_file(full).unwrap(),
                Ok(_) if part == path => fs::remove_dir_all(full).unwrap(),
                _ => {}
            }
        }
        self.disk.retain(|other, _| {
            let inside = other == path || parents(other).any(|part| part == path);
            !(inside || parents(path).any(|part| part == &other[..]))
        });
        fs::create_dir_all(self.at(path).parent().unwrap()).unwrap();
    }

    fn met(&mut self, path: &[u8]) {
        let entry = entry(&self.at(path));
        self.disk.insert(path.to_vec(), entry);
    }
}

/// What of this a look at everything records, after what was recorded before.
fn recordable(disk: &Model, before: &Model) -> Model {
    let ruled = |path: &[u8]| {
        // What libgit2 cannot be told exactly has no say: in doubt a file is kept.
        let exact = |folder: &[u8]| str::from_utf8(folder).is_ok_and(|name| !name.contains('\n'));
        let rules =
            |folder: &[u8]| exact(folder) && disk.contains_key(&[folder, RULES].join(&b'/'));
        path.ends_with(b".ignored") && (disk.contains_key(RULES) || parents(path).any(rules))
    };
    let kept_out = |path: &[u8]| path.ends_with(b"-wal") || ruled(path);
    let fine = |path: &[u8]| !is_refused(path) && (before.contains_key(path) || !kept_out(path));
    disk.iter().filter(|(path, _)| fine(path)).map(|(path, entry)| (path.clone(), *entry)).collect()
}

fn is_refused(path: &[u8]) -> bool {
    [&b".git"[..], b".GIT", b"git~1"].iter().any(|name| has_part(path, name))
}

fn has_part(path: &[u8], name: &[u8]) -> bool {
    path.split(|byte| *byte == b'/').any(|part| part == name)
}

/// The folders above a path, from the top.
fn parents(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
    ends.map(|(end, _)| &path[..end])
}

fn differing(one: &Model, other: &Model) -> Vec<Vec<u8>> {
    let all: BTreeSet<_> = one.keys().chain(other.keys()).collect();
    all.into_iter().filter(|path| one.get(*path) != other.get(*path)).cloned().collect()
}

fn set(model: &mut Model, path: &[u8], entry: Option<(FileMode, Oid)>) {
    match entry {
        Some(entry) => _ = model.insert(path.to_vec(), entry),
        None => _ = model.remove(path),
    }
}

fn entry(path: &Path) -> (FileMode, Oid) {
    let stat = path.symlink_metadata().unwrap();
    let (mode, content) = if stat.is_symlink() {
        (FileMode::Link, fs::read_link(path).unwrap().into_os_string().into_vec())
    } else {
        let executable = stat.permissions().mode() & 0o100 != 0;
        let mode = if executable { FileMode::BlobExecutable } else { FileMode::Blob };
        (mode, fs::read(path).unwrap())
    };
    (mode, Oid::hash_object(ObjectType::Blob, &content).unwrap())
}

/// What a folder holds, but for the workspace's own `.git`.
fn walked(root: &Path) -> Model {
    let (mut model, mut folders) = (Model::new(), vec![PathBuf::new()]);
    while let Some(folder) = folders.pop() {
        for item in fs::read_dir(root.join(&folder)).unwrap().map(Result::unwrap) {
            let path = folder.join(item.file_name());
            if item.file_type().unwrap().is_dir() {
                folders.push(path);
            } else if path != Path::new(".git") {
                model.insert(path.as_os_str().as_bytes().to_vec(), entry(&root.join(&path)));
            }
        }
    }
    model
}

fn read(repository: &Repository, tree: &Tree<'_>) -> Model {
    let mut model = Model::new();
    for entry in tree {
        if entry.kind() == Some(ObjectType::Tree) {
            let below = repository.find_tree(entry.id()).unwrap();
            for (path, file) in read(repository, &below) {
                model.insert([entry.name_bytes(), &path].join(&b'/'), file);
            }
        } else {
            let kinds = [FileMode::Blob, FileMode::BlobExecutable, FileMode::Link];
            let mode = kinds.into_iter().find(|mode| i32::from(*mode) == entry.filemode()).unwrap();
            model.insert(entry.name_bytes().to_vec(), (mode, entry.id()));
        }
    }
    model
}

fn text(path: &[u8]) -> String {
    path.escape_ascii().to_string()
}

fn shown(model: &Model) -> BTreeMap<String, String> {
    let line =
        |(path, (mode, id)): (&Vec<u8>, &(FileMode, Oid))| (text(path), format!("{mode:?} {id}"));
    model.iter().map(line).collect()
}
