//! Hears of changes that the owner makes in the workspace, so that they take effect at once.
//!
//! Owns the watch on what the host itself goes by. A change of the owner's is committed, as any
//! edit of theirs is, and then loaded; one that a turn makes is committed at its end. How an
//! editor saves (in place, by a rename, with a backup beside it) does not matter: whatever
//! happens to these names, it is looked. Knows nothing of what is in the files.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::mpsc::{Receiver, channel};
use tokio::time::Instant;

use crate::organs::always::background::Kind;
use crate::organs::history::keeper::Keeper;
use crate::organs::host::Host;

/// After a change so long is waited for the next: editors save in several steps.
const QUIET: Duration = Duration::from_millis(300);
const LATEST: Duration = Duration::from_secs(5);
/// What is watched among the workspace's own entries.
const WATCHED: [&str; 5] = ["crontab", "bootstrap.md", "services", "skills", "agents"];

/// The watch. Dropping it ends it.
struct Watch {
    watcher: RecommendedWatcher,
    workspace: PathBuf,
}

impl Watch {
    /// With what tells that something has changed.
    fn start(workspace: PathBuf) -> notify::Result<(Self, Receiver<()>)> {
        let (changed, heard) = channel(1);
        let root = workspace.clone();
        let handler = move |event: notify::Result<notify::Event>| {
            if event.map_or(true, |event| concerns(&event, &root)) {
                // One that waits is enough.
                let _ = changed.try_send(());
            }
        };
        let mut watcher = notify::recommended_watcher(handler)?;
        watcher.watch(&workspace, RecursiveMode::NonRecursive)?;
        let mut watch = Self { watcher, workspace };
        watch.widen();
        Ok((watch, heard))
    }

    /// Watch the folders that are there by now; again, too, as one that was moved away or
    /// replaced is watched no more.
    fn widen(&mut self) {
        for name in WATCHED {
            let folder = self.workspace.join(name);
            if folder.is_dir() {
                // What cannot be watched takes effect with the next turn.
                let _ = self.watcher.watch(&folder, RecursiveMode::Recursive);
            }
        }
    }
}

fn concerns(event: &notify::Event, workspace: &Path) -> bool {
    let named = |path: &PathBuf| {
        let inside = path.strip_prefix(workspace).ok().and_then(|path| path.iter().next());
        inside.is_some_and(|name| WATCHED.iter().any(|watched| name == *watched))
    };
    !event.kind.is_access() && (event.paths.is_empty() || event.paths.iter().any(named))
}

impl Host {
    /// Watch until the host ends. Where it cannot be watched, a change takes effect with the
    /// next turn or job.
    pub(super) async fn keep_watching(self: Arc<Self>) {
        let workspace = self.home().workspace();
        let workspace = workspace.canonicalize().unwrap_or(workspace);
        let (mut watch, mut heard) = match Watch::start(workspace) {
            Ok(started) => started,
            Err(error) => {
                let text = format!(
                    "What you change in crontab and services takes effect with the next turn only, since the workspace cannot be watched: {error}"
                );
                self.fault(Kind::Host, "", &text);
                return self.take_edits_in().await;
            }
        };
        let mut told = BTreeSet::new();
        // What changed before the watch began is looked at first.
        loop {
            self.take_edits_in().await;
            let wrong: BTreeSet<_> = self.sources.prompt().notices.into_iter().collect();
            for text in wrong.difference(&told) {
                self.fault(Kind::Host, "", text);
            }
            told = wrong;
            if heard.recv().await.is_none() {
                return;
            }
            // But not for ever, where something is changed all the time.
            let latest = Instant::now() + LATEST;
            while Instant::now() < latest
                && let Ok(Some(())) = tokio::time::timeout(QUIET, heard.recv()).await
            {}
            watch.widen();
        }
    }

    /// Commit what the owner changed, and have it loaded. What changes while a turn runs is
    /// committed at its end.
    async fn take_edits_in(&self) {
        if self.running().is_empty()
            && let Err(error) = self.snapshots.blocking(Keeper::take_in).await
        {
            self.fault(Kind::Host, "", &format!("Your changes could not be saved: {error:#}"));
        }
        self.always.look.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// However an editor saves, it is heard; and what is none of our business is not.
    #[tokio::test]
    async fn a_change_is_heard_however_it_is_made() {
        let temp = tempfile::tempdir().unwrap();
        let workspace = temp.path().canonicalize().unwrap();
        let (mut watch, mut heard) = Watch::start(workspace.clone()).unwrap();
        let at = |name: &str| workspace.join(name);
        fs::write(at("crontab"), "a").unwrap();
        heard.recv().await.unwrap();
        fs::write(at("crontab.new"), "b").unwrap();
        fs::rename(at("crontab.new"), at("crontab")).unwrap();
        heard.recv().await.unwrap();
        fs::remove_file(at("crontab")).unwrap();
        heard.recv().await.unwrap();
        // A folder that comes later.
        fs::create_dir(at("services")).unwrap();
        heard.recv().await.unwrap();
        watch.widen();
        while heard.try_recv().is_ok() {}
        fs::write(at("services/telegram"), "#!/bin/sh").unwrap();
        heard.recv().await.unwrap();
        let event = |path: &str| notify::Event::default().add_path(at(path));
        assert!(!concerns(&event("notes.md"), &workspace));
        assert!(concerns(&event("skills/x/SKILL.md"), &workspace));
    }
}
