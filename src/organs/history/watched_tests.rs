//! A workspace that is watched: what is heard is recorded as it would have been found.
//!
//! Owns the proof that looking only where something was heard loses nothing for good, and
//! never makes a hand's change the owner's.

use std::fs;
use std::path::PathBuf;

use git2::Repository;

use super::storm_tests::{record, watch};
use super::{Settings, Snapshots};
use crate::kernel::border::History;

struct Home {
    temp: tempfile::TempDir,
    snapshots: Snapshots,
    runtime: tokio::runtime::Runtime,
}

impl Home {
    fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        fs::create_dir_all(temp.path().join("workspace/folder")).unwrap();
        fs::write(temp.path().join("workspace/folder/file"), "first").unwrap();
        let snapshots = Snapshots::open(temp.path(), &Settings::default()).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let home = Self { temp, snapshots, runtime };
        watch(&home.snapshots, &home.runtime);
        // The one at everything.
        home.before("main");
        home
    }

    fn path(&self, path: &str) -> PathBuf {
        self.temp.path().join("workspace").join(path)
    }

    fn before(&self, session: &str) {
        self.runtime.block_on(self.snapshots.before(session, 1)).unwrap();
    }

    fn after(&self, session: &str) {
        self.runtime.block_on(self.snapshots.after(record(session, 1))).unwrap();
    }

    /// A turn in which this happens.
    fn turn(&self, act: impl FnOnce()) {
        self.before("main");
        {
            let _writing = self.snapshots.writers().writes("main", true);
            act();
        }
        self.after("main");
    }

    /// The newest commit: in whose name it is, its message, and what it has of a file.
    fn newest(&self, path: &str) -> (String, String, Option<String>) {
        let repository = Repository::open_bare(self.temp.path().join("history.git")).unwrap();
        let head = repository.find_reference("refs/heads/main").unwrap();
        let commit = head.peel_to_commit().unwrap();
        let entry = commit.tree().unwrap().get_path(path.as_ref()).ok();
        let content = entry.map(|entry| {
            let object = entry.to_object(&repository).unwrap();
            String::from_utf8(object.as_blob().unwrap().content().to_vec()).unwrap()
        });
        let name = commit.author().name().unwrap().to_owned();
        (name, commit.message().unwrap().to_owned(), content)
    }

    /// Whether the last look was one at everything.
    fn looked_everywhere(&self) -> bool {
        let met = self.snapshots.blocking(|keeper| Ok(keeper.met));
        self.runtime.block_on(met).unwrap().is_some()
    }
}

#[test]
fn what_is_heard_is_recorded_in_the_right_name() {
    let home = Home::new();
    home.turn(|| fs::write(home.path("folder/file"), "second").unwrap());
    assert!(!home.looked_everywhere());
    let (name, message, content) = home.newest("folder/file");
    assert_eq!((name.as_str(), content.as_deref()), ("fledgling", Some("second")));
    assert!(message.starts_with("turn 1"), "{message}");
    fs::write(home.path("mine"), "mine").unwrap();
    fs::remove_file(home.path("folder/file")).unwrap();
    home.before("main");
    assert!(!home.looked_everywhere());
    let (name, _, content) = home.newest("mine");
    assert_eq!((name.as_str(), content.as_deref()), ("owner", Some("mine")));
    assert_eq!(home.newest("folder/file").2, None);
}

#[test]
fn what_waits_for_another_turn_is_not_forgotten() {
    let home = Home::new();
    home.before("other");
    let writing = home.snapshots.writers().writes("other", true);
    fs::write(home.path("theirs"), "theirs").unwrap();
    drop(writing);
    home.before("main");
    home.after("main");
    assert_eq!(home.newest("theirs").2, None);
    home.after("other");
    assert!(!home.looked_everywhere());
    let (name, message, content) = home.newest("theirs");
    assert_eq!((name.as_str(), content.as_deref()), ("fledgling", Some("theirs")));
    assert!(message.contains("Session: other"), "{message}");
}

#[test]
fn what_the_watcher_missed_is_found_and_is_not_the_owners() {
    let home = Home::new();
    let outside = home.temp.path().join("outside");
    // Through another name of the same file nothing is heard.
    fs::hard_link(home.path("folder/file"), &outside).unwrap();
    home.turn(|| fs::write(home.path("heard"), "heard").unwrap());
    home.turn(|| fs::write(&outside, "unheard").unwrap());
    assert_eq!(home.newest("folder/file").2.as_deref(), Some("first"));
    // Time goes by, with looks that do not find it.
    let tick = std::time::Instant::now();
    while tick.elapsed() < std::time::Duration::from_millis(50) {
        std::thread::yield_now();
    }
    home.before("main");
    let everywhere = home.snapshots.blocking(|keeper| {
        keeper.lookout.look_everywhere();
        Ok(())
    });
    home.runtime.block_on(everywhere).unwrap();
    home.before("next");
    assert!(home.looked_everywhere());
    let (name, message, content) = home.newest("folder/file");
    assert_eq!((name.as_str(), content.as_deref()), ("fledgling", Some("unheard")));
    assert!(message.contains("Origin: unknown\nAlso-running: main"), "{message}");
}

#[test]
fn a_branch_that_somebody_moved_has_everything_looked_at() {
    let home = Home::new();
    home.turn(|| fs::write(home.path("file"), "1").unwrap());
    let repository = Repository::open_bare(home.temp.path().join("history.git")).unwrap();
    let head = repository.find_reference("refs/heads/main").unwrap().peel_to_commit().unwrap();
    let before = head.parent_id(0).unwrap();
    repository.reference("refs/heads/main", before, true, "as git reset --soft").unwrap();
    home.before("main");
    assert!(home.looked_everywhere());
    assert_eq!(home.newest("file").2.as_deref(), Some("1"));
}

#[test]
fn other_rules_have_their_folder_looked_at() {
    let home = Home::new();
    fs::write(home.path("folder/.gitignore"), "hidden\n").unwrap();
    fs::write(home.path("folder/hidden"), "1").unwrap();
    home.before("main");
    assert_eq!(home.newest("folder/hidden").2, None);
    fs::write(home.path("folder/.gitignore"), "").unwrap();
    home.before("main");
    assert!(!home.looked_everywhere());
    assert_eq!(home.newest("folder/hidden").2.as_deref(), Some("1"));
}

#[test]
fn now_and_then_everything_is_looked_at() {
    let home = Home::new();
    let mut looks = 0;
    while !home.looked_everywhere() || looks == 0 {
        home.before("main");
        looks += 1;
    }
    assert_eq!(looks, 51);
}
