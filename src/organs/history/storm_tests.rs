//! Many writers at once: turns of several sessions, a service, and the owner's editor.
//!
//! Owns the proof that nothing of theirs is lost and that nobody passes for somebody else.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::thread;

use git2::{Repository, TreeWalkMode, TreeWalkResult};

use super::{Settings, Snapshots, Watch};
use crate::kernel::border::{History, Record};
use crate::kernel::event::End;
use crate::kernel::message::{Origin, Usage};

const SESSIONS: usize = 26;
const OWNERS: usize = 3;
const TURNS: usize = 4;
const FILES: usize = 3;

/// Each file that some commit changed, with who made the commit, each as often as it did.
fn changed(repository: &Repository) -> BTreeMap<String, Vec<String>> {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut commit = Some(repository.find_reference("refs/heads/main").unwrap().peel_to_commit());
    while let Some(Ok(this)) = commit {
        let before = this.parent(0).ok().map(|parent| parent.tree().unwrap());
        let tree = this.tree().unwrap();
        let diff = repository.diff_tree_to_tree(before.as_ref(), Some(&tree), None).unwrap();
        for delta in diff.deltas() {
            let path = delta.new_file().path().unwrap().display().to_string();
            let author = this.author().name().unwrap_or_default().to_owned();
            found.entry(path).or_default().push(author);
        }
        commit = Some(this.parent(0)).filter(Result::is_ok);
    }
    found
}

/// A file that comes into being whole: a look in between would rightly see two changes.
fn put(workspace: &Path, name: &str, content: &str) {
    let aside = workspace.with_file_name(name);
    fs::write(&aside, content).unwrap();
    fs::rename(aside, workspace.join(name)).unwrap();
}

pub fn record(session: &str, turn: u64) -> Record {
    Record {
        session: session.to_owned(),
        turn,
        origin: Origin::Owner,
        asked: format!("turn {turn}"),
        said: String::new(),
        model: "script".to_owned(),
        usage: Usage::default(),
        end: End::Done,
    }
}

/// Have the workspace watched, small as it is.
pub fn watch(snapshots: &Snapshots, runtime: &tokio::runtime::Runtime) {
    let started = snapshots.blocking(|keeper| {
        let git_dir = &keeper.git_dir;
        let watch = Watch::start(git_dir.workspace(), &git_dir.path().join("cookies"))?;
        keeper.lookout.watch(watch);
        Ok(())
    });
    runtime.block_on(started).unwrap();
}

#[test]
fn thirty_writers_lose_nothing_and_pass_for_nobody_else() {
    storm(false);
}

#[test]
fn nor_where_the_workspace_is_watched() {
    storm(true);
}

fn storm(watched: bool) {
    let temp = tempfile::tempdir().unwrap();
    let workspace = temp.path().join("workspace");
    fs::create_dir(&workspace).unwrap();
    let snapshots = Arc::new(Snapshots::open(temp.path(), &Settings::default()).unwrap());
    if watched {
        watch(&snapshots, &tokio::runtime::Builder::new_current_thread().build().unwrap());
    }
    let mut threads = Vec::new();
    for session in 0..SESSIONS {
        let (snapshots, workspace) = (snapshots.clone(), workspace.clone());
        threads.push(thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let name = format!("s{session}");
            for turn in 0..TURNS {
                runtime.block_on(snapshots.before(&name, turn as u64)).unwrap();
                for file in 0..FILES {
                    // Every other one by a file tool, the rest by bash.
                    let by_path = file % 2 == 0;
                    let writing = snapshots.writers().writes(&name, !by_path);
                    let path = format!("hand-{name}-{turn}-{file}");
                    put(&workspace, &path, &path);
                    writing.wrote(Some(path.into()).filter(|_| by_path));
                }
                runtime.block_on(snapshots.after(record(&name, turn as u64))).unwrap();
            }
        }));
    }
    for owner in 0..OWNERS {
        let workspace = workspace.clone();
        threads.push(thread::spawn(move || {
            for file in 0..TURNS * FILES {
                put(&workspace, &format!("owner-{owner}-{file}"), "mine");
                thread::yield_now();
            }
        }));
    }
    let service = {
        let (snapshots, workspace) = (snapshots.clone(), workspace.clone());
        thread::spawn(move || {
            let _writing = snapshots.writers().writes("service:bridge", true);
            for file in 0..TURNS * FILES {
                put(&workspace, &format!("hand-service-{file}"), "its");
                thread::yield_now();
            }
        })
    };
    threads.into_iter().chain([service]).for_each(|thread| thread.join().unwrap());
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(snapshots.before("last", 1)).unwrap();
    runtime.block_on(snapshots.after(record("last", 1))).unwrap();

    let repository = Repository::open_bare(temp.path().join("history.git")).unwrap();
    let changed = changed(&repository);
    let here: BTreeSet<_> = fs::read_dir(&workspace)
        .unwrap()
        .map(|item| item.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != ".git")
        .collect();
    assert_eq!(here.len(), SESSIONS * TURNS * FILES + (OWNERS + 1) * TURNS * FILES);
    assert_eq!(changed.keys().cloned().collect::<BTreeSet<_>>(), here);
    for (path, authors) in &changed {
        assert_eq!(authors.len(), 1, "{path} is in history more than once: {authors:?}");
        let hand = path.starts_with("hand-");
        assert!(!hand || authors == &["fledgling"], "{path} is in the name of {authors:?}");
    }
    let mut recorded = BTreeSet::new();
    let head = repository.find_reference("refs/heads/main").unwrap().peel_to_tree().unwrap();
    let walk = head.walk(TreeWalkMode::PreOrder, |_, entry| {
        recorded.insert(entry.name().unwrap().to_owned());
        TreeWalkResult::Ok
    });
    walk.unwrap();
    assert_eq!(recorded, here);
}
