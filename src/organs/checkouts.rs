//! Where sessions work: in the workspace, or in the checkout of a branch.
//!
//! Owns the branches that are open in this host, one history each for all who work on it, and
//! that nobody works on one that goes. Knows neither how turns are run nor how a branch is
//! merged.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use tokio::sync::{Mutex, MutexGuard};

use crate::kernel::event::Changes;
use crate::kernel::session::Session;
use crate::organs::history::snapshots::Snapshots;
use crate::organs::history::{branch, gitdir};
use crate::organs::host::Host;
use crate::organs::sessions;

/// The branches that are open, by name.
pub(super) type Branches = Mutex<BTreeMap<String, Place>>;

/// A folder to work in, with its history.
#[derive(Clone)]
pub(super) struct Place {
    pub folder: PathBuf,
    pub snapshots: Arc<Snapshots>,
}

/// A branch on which nobody works, nor begins to while this is held. Dropped, it stays.
pub(super) struct Closed<'a> {
    host: &'a Host,
    open: MutexGuard<'a, BTreeMap<String, Place>>,
    name: String,
}

impl Host {
    /// The place of a session that works in this folder.
    pub(super) async fn place(&self, folder: &Path) -> Result<Place> {
        let home = &self.settings.home;
        let Some(name) = gitdir::branch_of(home.path(), folder) else {
            return Ok(Place { folder: home.workspace(), snapshots: self.snapshots.clone() });
        };
        self.opened(&mut *self.branches.lock().await, name).await
    }

    /// The folder that a session works in.
    pub fn folder(&self, session: Option<&str>) -> PathBuf {
        let home = &self.settings.home;
        let header = session.and_then(|session| sessions::header(&home.transcript(session)));
        let root = header.map(|header| header.root).unwrap_or_default();
        let branch = gitdir::branch_of(home.path(), &root);
        branch.map_or_else(|| home.workspace(), |branch| gitdir::checkout(home.path(), branch))
    }

    /// The place of a branch, which begins when there is none.
    pub(super) async fn begin_branch(&self, name: &str) -> Result<Place> {
        let mut open = self.branches.lock().await;
        let new = name.to_owned();
        self.snapshots.blocking(move |keeper| branch::begin(keeper, &new)).await?;
        self.opened(&mut open, name).await
    }

    /// The session that goes on with a branch when none is named: the first of its name that
    /// was not ended.
    pub(super) fn session_of(&self, branch: &str) -> Result<String> {
        let numbered = (2..).map(|number| format!("{branch}.{number}"));
        for name in std::iter::once(branch.to_owned()).chain(numbered) {
            let path = self.settings.home.transcript(&name);
            if !path.exists() || !sessions::ended(&path)? {
                return Ok(name);
            }
        }
        anyhow::bail!("no session's name is free for the branch {branch}")
    }

    /// Have nobody work on a branch, and take in what was edited in its checkout.
    pub(super) async fn close_branch(&self, name: &str) -> Result<Closed<'_>> {
        let mut open = self.branches.lock().await;
        let place = self.opened(&mut open, name).await?;
        // A turn holds its place as long as it lasts; besides it there is the one in the map.
        ensure!(
            Arc::strong_count(&place.snapshots) == 2,
            "a turn is under way on the branch {name}; stop it, or wait for its end"
        );
        place.snapshots.blocking(|keeper| keeper.take_in()).await?;
        Ok(Closed { host: self, open, name: name.to_owned() })
    }

    /// Take in what turns left that a kill ended, each in the history of its place. What each
    /// changed, in the same order. `over` says whether all that they started has ended.
    pub(super) async fn take_in_interrupted(
        &self,
        turns: &[(String, u64)],
        over: bool,
    ) -> Vec<Changes> {
        let folders: Vec<_> = turns.iter().map(|(name, _)| self.folder(Some(name))).collect();
        let workspace = self.settings.home.workspace();
        let mut changes = BTreeMap::new();
        for folder in folders.iter().chain([&workspace]).collect::<BTreeSet<_>>() {
            let with = turns.iter().cloned().zip(&folders);
            // First those who worked there; then, as a hand of any turn can reach it, the
            // others where it is the workspace.
            let (mut left, others): (Vec<_>, Vec<_>) = with.partition(|(_, own)| *own == folder);
            left.extend(others.into_iter().filter(|_| *folder == workspace));
            let left = left.into_iter().map(|(turn, _)| turn).collect();
            let taken = match self.place(folder).await {
                Ok(place) => place.snapshots.interrupted(left, over).await,
                Err(error) => Err(error),
            };
            let taken = taken.unwrap_or_else(|error| {
                self.notice(format!(
                    "The changes of an interrupted turn could not be saved: {error:#}"
                ));
                Changes::default()
            });
            changes.insert(folder.clone(), taken);
        }
        folders.iter().map(|folder| changes[folder].clone()).collect()
    }

    /// Returns when nothing is being written to any history.
    pub async fn settled(&self) {
        self.snapshots.settled().await;
        for place in self.branches.lock().await.values() {
            place.snapshots.settled().await;
        }
    }

    async fn opened(&self, open: &mut BTreeMap<String, Place>, name: &str) -> Result<Place> {
        if let Some(place) = open.get(name) {
            return Ok(place.clone());
        }
        let (home, branch) = (self.settings.home.path().to_owned(), name.to_owned());
        let folder = gitdir::checkout(&home, name);
        let opening = move || branch::open(&home, &branch, gitdir::owner());
        let snapshots = tokio::task::spawn_blocking(opening).await.context("broken off")??;
        let place = Place { folder, snapshots: Arc::new(snapshots) };
        open.insert(name.to_owned(), place.clone());
        Ok(place)
    }
}

impl Closed<'_> {
    /// Give the branch up, or let it go once main holds it: its sessions end, its checkout
    /// goes, and what main does not hold is kept aside. Says what has become of it.
    pub async fn retire(mut self) -> Result<String> {
        let home = &self.host.settings.home;
        // Whatever comes of it, the next to ask for the branch looks anew.
        self.open.remove(&self.name);
        for one in sessions::list(home)?.into_iter().filter(|one| !one.ended) {
            let path = home.transcript(&one.name);
            let root = sessions::header(&path).map(|header| header.root).unwrap_or_default();
            if gitdir::branch_of(home.path(), &root) == Some(&self.name) {
                // One that cannot be read cannot go on either.
                if let Ok(mut transcript) = Session::open(&path) {
                    transcript.record_ended()?;
                }
                self.host.drop_waiting(&one.name)?;
            }
        }
        let (home, name) = (home.path().to_owned(), self.name.clone());
        let drop = move || {
            let repository = gitdir::look(&home.join("history.git"))?;
            branch::drop(&home, &name, &repository)
        };
        tokio::task::spawn_blocking(drop).await.context("broken off")?
    }
}
