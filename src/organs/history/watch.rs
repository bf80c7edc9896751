//! Hears what changes in a large workspace, so that it need not be looked through.
//!
//! Owns the watcher. What it names covers all that was changed before it was asked, or it
//! says that it does not know; then it starts anew. Does not hear what leaves no event:
//! writes through a mapping of memory before the file is closed, and writes through
//! another name of the same file. For these a full look is needed now and then. Knows
//! nothing of history.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::mem;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use notify::event::{AccessKind, AccessMode, CreateKind, ModifyKind};
use notify::{Config, ErrorKind, Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};

use crate::organs::history::image::SIDE_FILES;

/// How long events may take to come through. They take less than a millisecond.
const PATIENCE: Duration = Duration::from_secs(2);
/// With more paths than these, looking at everything is not much slower.
const PATHS: usize = 100_000;
/// How often a new folder is watched anew when it changes while being taken in.
const ATTEMPTS: usize = 3;
/// What the names of barrier files begin with.
const BARRIER: &str = "barrier-";

/// What may have changed, relative to the workspace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dirty {
    /// Anything.
    All,
    /// These files, and these folders with all that is in them. Some may be gone.
    Paths(BTreeSet<PathBuf>),
}

/// A workspace that is watched.
pub struct Watch {
    workspace: PathBuf,
    cookies: PathBuf,
    /// None while it cannot be watched.
    ear: Mutex<Option<Ear>>,
}

/// A watcher and what it heard. A new one never reads what a former one left behind.
struct Ear {
    watcher: RecommendedWatcher,
    heard: Arc<Heard>,
    barriers: u64,
}

/// What the watcher's thread leaves for the one that asks.
#[derive(Default)]
struct Heard {
    news: Mutex<News>,
    arrived: Condvar,
}

#[derive(Default)]
struct News {
    dirty: BTreeSet<PathBuf>,
    /// Folders that are new where they are. Nobody knows yet whether all that is in them
    /// is watched: notify swallows most of what goes wrong there.
    fresh: BTreeSet<PathBuf>,
    /// Number of the last barrier that came through.
    passed: u64,
    /// Something was missed, or may have been.
    lost: bool,
}

impl Watch {
    /// Watch a workspace. `cookies` is a folder outside of it, used by nobody else. Fails
    /// when there are more folders than the system lets anybody watch.
    pub fn start(workspace: &Path, cookies: &Path) -> Result<Self> {
        let making = || format!("cannot prepare the folder {}", cookies.display());
        fs::create_dir_all(cookies).with_context(making)?;
        let cookies = cookies.canonicalize().with_context(making)?;
        for item in fs::read_dir(&cookies).with_context(making)?.flatten() {
            // What a killed process left.
            if item.file_name().as_bytes().starts_with(BARRIER.as_bytes()) {
                fs::remove_file(item.path()).with_context(making)?;
            }
        }
        let workspace = workspace
            .canonicalize()
            .with_context(|| format!("cannot watch the workspace {}", workspace.display()))?;
        let ear = Mutex::new(Some(Ear::open(&workspace, &cookies)?));
        Ok(Self { workspace, cookies, ear })
    }

    /// What may have changed since this was called last, or since the start. Blocks for a
    /// moment. What changes while it is called may be named now or the next time.
    pub fn take(&self) -> Dirty {
        let mut slot = self.ear.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(dirty) = slot.as_mut().and_then(|ear| ear.take(&self.workspace, &self.cookies))
        {
            return Dirty::Paths(dirty);
        }
        // What changes once this is done is heard, and the caller looks later still.
        *slot = None;
        *slot = Ear::open(&self.workspace, &self.cookies).ok();
        Dirty::All
    }
}

impl Ear {
    fn open(workspace: &Path, cookies: &Path) -> Result<Self> {
        let heard = Arc::<Heard>::default();
        let handler = {
            let (heard, workspace) = (Arc::clone(&heard), workspace.to_owned());
            let barrier = cookies.join(BARRIER);
            move |event| heard.take_in(event, &workspace, &barrier)
        };
        let watch = || {
            let config = Config::default().with_follow_symlinks(false);
            let mut watcher = RecommendedWatcher::new(handler, config)?;
            // By the same watcher: only so are the events in one order.
            watcher.watch(cookies, RecursiveMode::NonRecursive)?;
            watcher.watch(workspace, RecursiveMode::Recursive)?;
            Ok(watcher)
        };
        let watcher = watch().map_err(|error: notify::Error| {
            let advice = match error.kind {
                ErrorKind::MaxFilesWatch => {
                    ": it has more folders than may be watched; raise \
                     fs.inotify.max_user_watches with sysctl"
                }
                _ => "",
            };
            let workspace = workspace.display();
            anyhow!(error).context(format!("cannot watch the workspace {workspace}{advice}"))
        })?;
        Ok(Self { watcher, heard, barriers: 0 })
    }

    /// None when something was missed, or may have been.
    fn take(&mut self, workspace: &Path, cookies: &Path) -> Option<BTreeSet<PathBuf>> {
        if !self.pass_barrier(cookies) || !self.take_in_new_folders(workspace) {
            return None;
        }
        let mut news = self.heard.news();
        (!news.lost).then(|| mem::take(&mut news.dirty))
    }

    /// Wait until everything that has happened is heard.
    fn pass_barrier(&mut self, cookies: &Path) -> bool {
        self.barriers += 1;
        let number = self.barriers;
        let file = cookies.join(format!("{BARRIER}{number}"));
        if fs::write(&file, "").is_err() {
            return false;
        }
        let pending = |news: &mut News| news.passed < number && !news.lost;
        let waited = self.heard.arrived.wait_timeout_while(self.heard.news(), PATIENCE, pending);
        let came = waited.unwrap_or_else(PoisonError::into_inner).0.passed >= number;
        // notify watches new folders, and forgets those of moved ones, only when it has
        // heard a batch of events to its end. A call that is answered comes after that.
        fs::remove_file(&file).is_ok() && came && self.watcher.configure(Config::default()).is_ok()
    }

    /// Have all that is in new folders watched.
    fn take_in_new_folders(&mut self, workspace: &Path) -> bool {
        let fresh = mem::take(&mut self.heard.news().fresh);
        fresh.iter().map(|folder| workspace.join(folder)).all(|folder| {
            let is_there = || folder.symlink_metadata().is_ok_and(|found| found.is_dir());
            (0..ATTEMPTS).any(|_| {
                !is_there() || self.watcher.watch(&folder, RecursiveMode::Recursive).is_ok()
            })
        })
    }
}

impl Heard {
    fn news(&self) -> MutexGuard<'_, News> {
        self.news.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// On the watcher's thread.
    fn take_in(&self, event: notify::Result<Event>, workspace: &Path, barrier: &Path) {
        let mut news = self.news();
        match event {
            Ok(event) if !event.need_rescan() => {
                for path in &event.paths {
                    if let Ok(path) = path.strip_prefix(workspace) {
                        news.hear(event.kind, path);
                    } else if let Some(number) = number_of(path, barrier) {
                        news.passed = news.passed.max(number);
                        self.arrived.notify_all();
                    }
                }
            }
            _ => news.lost = true,
        }
        if news.lost || news.dirty.len() > PATHS {
            (news.lost, news.dirty) = (true, BTreeSet::new());
            self.arrived.notify_all();
        }
    }
}

impl News {
    fn hear(&mut self, kind: EventKind, path: &Path) {
        let is_new = match kind {
            EventKind::Access(AccessKind::Close(AccessMode::Write)) => false,
            EventKind::Access(_) => return,
            EventKind::Create(kind) => kind != CreateKind::File,
            // Whether what was moved is a folder is not said.
            EventKind::Modify(ModifyKind::Name(_)) => true,
            _ => false,
        };
        if path.iter().any(|part| part.eq_ignore_ascii_case(".git")) {
            return;
        }
        if path == Path::new("") {
            // The workspace itself was moved or removed. Its mode is nobody's business.
            self.lost |= !matches!(kind, EventKind::Modify(ModifyKind::Metadata(_)));
            return;
        }
        let bytes = path.as_os_str().as_bytes();
        // What changes these changes it.
        let database = SIDE_FILES.iter().find_map(|end| bytes.strip_suffix(end.as_bytes()));
        self.dirty.extend(database.map(|path| PathBuf::from(OsStr::from_bytes(path))));
        if is_new {
            self.fresh.insert(path.to_owned());
        }
        self.dirty.insert(path.to_owned());
    }
}

fn number_of(path: &Path, barrier: &Path) -> Option<u64> {
    path.to_str()?.strip_prefix(barrier.to_str()?)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;

    use super::*;

    struct Home(tempfile::TempDir, Watch);

    impl Home {
        fn new(folders: &[&str]) -> Self {
            let temp = tempfile::tempdir().unwrap();
            let workspace = temp.path().join("workspace");
            fs::create_dir(&workspace).unwrap();
            for folder in folders {
                fs::create_dir_all(workspace.join(folder)).unwrap();
                fs::write(workspace.join(folder).join("file"), "first").unwrap();
            }
            let watch = Watch::start(&workspace, &temp.path().join("cookies")).unwrap();
            Self(temp, watch)
        }

        fn path(&self, path: &str) -> PathBuf {
            self.0.path().join("workspace").join(path)
        }

        fn rename(&self, from: &str, to: &str) {
            fs::rename(self.path(from), self.path(to)).unwrap();
        }

        fn taken(&self) -> Vec<String> {
            match self.1.take() {
                Dirty::All => panic!("something was missed"),
                Dirty::Paths(paths) => {
                    paths.iter().map(|path| path.to_str().unwrap().to_owned()).collect()
                }
            }
        }
    }

    #[test]
    fn what_was_written_before_is_known() {
        let home = Home::new(&["a"]);
        assert!(home.taken().is_empty());
        for number in 0..200 {
            fs::write(home.path("a/file"), number.to_string()).unwrap();
            assert_eq!(home.taken(), ["a/file"]);
        }
        fs::read(home.path("a/file")).unwrap();
        assert!(home.taken().is_empty(), "reading is no change");
        assert_eq!(fs::read_dir(home.0.path().join("cookies")).unwrap().count(), 0);
    }

    #[test]
    fn a_side_file_marks_its_database_and_git_folders_nothing() {
        let home = Home::new(&["a"]);
        fs::write(home.path("a/x.db-wal"), "").unwrap();
        assert_eq!(home.taken(), ["a/x.db", "a/x.db-wal"]);
        fs::create_dir(home.path("a/.git")).unwrap();
        fs::write(home.path("a/.git/config"), "").unwrap();
        assert!(home.taken().is_empty());
        home.rename("a/.git", "a/not");
        assert_eq!(home.taken(), ["a/not"]);
    }

    #[test]
    fn folders_that_trade_places_are_heard_under_their_new_names() {
        let home = Home::new(&["a/deep", "b/deep"]);
        for number in 0..50 {
            home.rename("a", "t");
            home.rename("b", "a");
            home.rename("t", "b");
            // With and without a look in between.
            if number % 2 == 0 {
                assert_eq!(home.taken(), ["a", "b", "t"]);
            }
            fs::write(home.path("a/deep/file"), number.to_string()).unwrap();
            let taken = home.taken();
            assert!(taken.contains(&"a/deep/file".into()) || taken.contains(&"a".into()));
            fs::write(home.path("b/deep/file"), number.to_string()).unwrap();
            assert_eq!(home.taken(), ["b/deep/file"]);
        }
    }

    #[test]
    fn a_lost_workspace_is_said() {
        let home = Home::new(&["a"]);
        let elsewhere = home.0.path().join("elsewhere");
        fs::rename(home.path(""), &elsewhere).unwrap();
        assert_eq!(home.1.take(), Dirty::All);
        assert_eq!(home.1.take(), Dirty::All);
        fs::rename(&elsewhere, home.path("")).unwrap();
        assert_eq!(home.1.take(), Dirty::All);
        fs::write(home.path("a/file"), "again").unwrap();
        assert_eq!(home.taken(), ["a/file"]);
    }

    #[test]
    fn no_link_leads_out_of_the_workspace() {
        let home = Home::new(&["a"]);
        let outside = home.0.path().join("outside");
        fs::create_dir(&outside).unwrap();
        symlink(&outside, home.path("link")).unwrap();
        assert_eq!(home.taken(), ["link"]);
        fs::write(outside.join("file"), "").unwrap();
        assert!(home.taken().is_empty());
    }

    #[test]
    fn too_many_events_are_no_silent_loss() {
        let home = Home::new(&["a"]);
        let heard = Arc::clone(&home.1.ear.lock().unwrap().as_ref().unwrap().heard);
        // The thread that hears stands still until the system's queue has run over.
        let news = heard.news();
        let limit = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
        for number in 0..limit.trim().parse::<usize>().unwrap() {
            fs::write(home.path("a/file"), number.to_string()).unwrap();
        }
        drop(news);
        assert_eq!(home.1.take(), Dirty::All);
        fs::write(home.path("a/file"), "again").unwrap();
        assert_eq!(home.taken(), ["a/file"]);
    }

    /// What is recorded of a file.
    type Seen = BTreeMap<PathBuf, (bool, Vec<u8>)>;

    /// Bring what was seen up to date, as to this path and all below.
    fn look(root: &Path, path: &Path, seen: &mut Seen) {
        seen.retain(|known, _| !known.starts_with(path));
        let full = root.join(path);
        // What vanishes meanwhile is named the next time.
        let Ok(stat) = full.symlink_metadata() else { return };
        if stat.is_dir() {
            for item in fs::read_dir(&full).into_iter().flatten().flatten() {
                look(root, &path.join(item.file_name()), seen);
            }
        } else if stat.is_symlink() {
            let Ok(target) = fs::read_link(&full) else { return };
            seen.insert(path.to_owned(), (false, target.as_os_str().as_bytes().to_vec()));
        } else if let Ok(content) = fs::read(&full) {
            let executable = stat.permissions().mode() & 0o100 != 0;
            seen.insert(path.to_owned(), (executable, content));
        }
    }

    /// One random change. Most fail at first, when little is there.
    fn change(root: &Path, random: &mut fastrand::Rng) {
        let mut name = || {
            let parts = random.usize(1..4);
            let parts: Vec<_> =
                (0..parts).map(|_| ["a", "b", "c", "d"][random.usize(..4)]).collect();
            root.join(parts.join("/"))
        };
        let (path, other) = (name(), name());
        let content = random.u64(..).to_string();
        let _ = match random.usize(..12) {
            0..4 => fs::write(path, content),
            4 => fs::create_dir(path),
            5 => fs::create_dir_all(path.join("a/b"))
                .and_then(|()| fs::write(path.join("a/b/c"), content)),
            6 => fs::remove_file(path),
            7 => fs::remove_dir_all(path),
            8 => symlink(content, path),
            9 => match path.symlink_metadata() {
                Ok(stat) if stat.is_file() => fs::set_permissions(
                    path,
                    Permissions::from_mode([0o644, 0o755][random.usize(..2)]),
                ),
                _ => Ok(()),
            },
            _ => fs::rename(path, other),
        };
    }

    fn update(root: &Path, dirty: Dirty, seen: &mut Seen) {
        let paths = match dirty {
            Dirty::All => BTreeSet::from([PathBuf::new()]),
            Dirty::Paths(paths) => paths,
        };
        for path in &paths {
            look(root, path, seen);
        }
    }

    #[test]
    fn whatever_is_done_between_two_looks_is_named() {
        for seed in 0..4 {
            let mut random = fastrand::Rng::with_seed(seed);
            let home = Home::new(&[]);
            let root = home.path("");
            let mut seen = Seen::new();
            for _ in 0..150 {
                for _ in 0..random.usize(1..15) {
                    change(&root, &mut random);
                }
                let dirty = home.1.take();
                assert_ne!(dirty, Dirty::All, "seed {seed}");
                update(&root, dirty.clone(), &mut seen);
                let mut now = Seen::new();
                look(&root, Path::new(""), &mut now);
                assert_eq!(seen, now, "seed {seed}: {dirty:?}");
            }
        }
    }

    #[test]
    fn whatever_is_done_during_a_look_is_named_at_last() {
        for seed in 0..3 {
            let home = Home::new(&[]);
            let root = home.path("");
            let over = AtomicBool::new(false);
            let mut seen = Seen::new();
            thread::scope(|scope| {
                scope.spawn(|| {
                    let mut random = fastrand::Rng::with_seed(seed);
                    (0..2_000).for_each(|_| change(&root, &mut random));
                    over.store(true, Ordering::SeqCst);
                });
                while !over.load(Ordering::SeqCst) {
                    update(&root, home.1.take(), &mut seen);
                }
            });
            update(&root, home.1.take(), &mut seen);
            let mut now = Seen::new();
            look(&root, Path::new(""), &mut now);
            assert_eq!(seen, now, "seed {seed}");
        }
    }
}
