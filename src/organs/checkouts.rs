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
use crate::organs::history::branch::Gone;
use crate::organs::history::keeper::Keeper;
use crate::organs::history::left_out::is_excluded;
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
        place.snapshots.blocking(Keeper::take_in).await?;
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

    /// Returns when nothing is being written to any history, nor to a backup of it.
    pub async fn settled(&self) {
        let branches = self.branches.lock().await;
        let all = branches.values().map(|place| &place.snapshots).chain([&self.snapshots]);
        for snapshots in all {
            if let Err(error) = snapshots.settled().await {
                self.notice(format!("The history could not be packed: {error:#}."));
            }
        }
        self.backed_up().await;
    }

    async fn opened(&self, open: &mut BTreeMap<String, Place>, name: &str) -> Result<Place> {
        if let Some(place) = open.get(name) {
            return Ok(place.clone());
        }
        let (home, branch) = (self.settings.home.path().to_owned(), name.to_owned());
        let folder = gitdir::checkout(&home, name);
        let kept = self.kept.clone();
        let opening = move || branch::open(&home, &branch, &kept);
        let snapshots = tokio::task::spawn_blocking(opening).await.context("broken off")??;
        let place = Place { folder, snapshots: Arc::new(snapshots) };
        open.insert(name.to_owned(), place.clone());
        Ok(place)
    }
}

impl Closed<'_> {
    /// Give the branch up, or let it go once main holds it: its sessions end, its checkout
    /// goes, and what main or the history does not hold is kept aside. Says what has become
    /// of it.
    pub async fn retire(mut self) -> Result<Gone> {
        let home = &self.host.settings.home;
        // Whatever comes of it, the next to ask for the branch looks anew.
        let place = self.open.remove(&self.name).context("it is not open")?;
        // It may have been edited since it was closed.
        let left_out = place.snapshots.blocking(|keeper| {
            keeper.take_in()?;
            Ok(keeper.tree_now()?.1)
        });
        let mut left_out = left_out.await?;
        left_out.retain(|line| !is_excluded(line));
        drop(place);
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
            branch::drop(&home, &name, &repository, &left_out)
        };
        tokio::task::spawn_blocking(drop).await.context("broken off")?
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::kernel::event::{End, Event};
    use crate::organs::config::Config;
    use crate::organs::home::Home;
    use crate::organs::host::Settings;
    use crate::organs::keys::Keys;
    use crate::organs::models::Catalog;
    use crate::organs::verb::{self, Answer, Caller, Verb};

    const SCRIPT: &str = r#"{"calls": [{"name": "bash", "input": {"command": "echo one > made"}}]}
{"text": "One."}
{"text": "Two."}
{"calls": [{"name": "bash", "input": {"command": "echo > begun; while ! [ -e go ]; do read -rt 0.01 <> <(:); done"}}]}
{"text": "Three."}
"#;

    async fn host(folder: &Path) -> Arc<Host> {
        fs::write(folder.join("script.jsonl"), SCRIPT).unwrap();
        let home = Home::resolve(Some(folder.join("home"))).unwrap();
        home.create_root().unwrap();
        let (lock, config) = (home.lock().unwrap().unwrap(), Config::default());
        let catalog = Catalog::new(config.clone(), Keys::default());
        let model = Some(format!("script:{}", folder.join("script.jsonl").display()));
        Host::open(Settings { home, config, catalog, model, safe: false, resident: false }, lock)
            .await
            .unwrap()
    }

    /// The session that a turn ran in, or why none did.
    async fn turn(
        host: &Arc<Host>,
        session: Option<&str>,
        branch: Option<&str>,
    ) -> Result<String, String> {
        let verb = Verb::Run {
            session: session.map(str::to_owned),
            text: "go".to_owned(),
            key: verb::fresh_key(),
            model: None,
            steer: false,
            branch: branch.map(str::to_owned),
            only: None,
            files: Vec::new(),
        };
        let mut answers = host.ask(Caller::Owner, verb);
        let mut began = String::new();
        while let Some(answer) = answers.recv().await {
            match answer {
                Answer::Event(Event::TurnStarted { session, .. }) => began = session,
                Answer::Event(Event::TurnEnded { end: End::Done, .. }) => return Ok(began),
                Answer::Event(Event::TurnEnded { why, .. }) | Answer::Refused { why, .. } => {
                    return Err(why);
                }
                _ => {}
            }
        }
        Err("no answer".to_owned())
    }

    #[tokio::test]
    async fn a_branch_that_goes_takes_its_sessions_with_it() {
        let temp = tempfile::tempdir().unwrap();
        let host = host(temp.path()).await;
        let checkout = gitdir::checkout(host.home().path(), "idea");
        assert_eq!(turn(&host, None, Some("idea")).await.unwrap(), "idea");
        fs::write(checkout.join("edited"), "by the owner").unwrap();
        let said = host.close_branch("idea").await.unwrap().retire().await.unwrap().branch;
        assert!(said.contains("refs/dropped/idea"), "{said}");
        let repository = gitdir::look(&host.home().file("history.git")).unwrap();
        let kept = repository.revparse_single("refs/dropped/idea:edited").unwrap();
        assert_eq!(kept.as_blob().unwrap().content(), b"by the owner");
        assert!(!checkout.exists());
        let why = turn(&host, Some("idea"), None).await.unwrap_err();
        assert!(why.contains("its branch idea, which was merged or dropped"), "{why}");
        // Another one of that name begins with what main has, and a conversation of its own.
        assert_eq!(turn(&host, None, Some("idea")).await.unwrap(), "idea.2");
        assert!(checkout.exists() && !checkout.join("made").exists());
        let said = host.close_branch("idea").await.unwrap().retire().await.unwrap().branch;
        assert!(said.contains("main holds"), "{said}");
        assert!(host.close_branch("idea").await.is_err());
        host.stop_all().await;
    }

    #[tokio::test]
    async fn what_the_history_leaves_out_of_a_branch_is_put_aside_with_its_folder() {
        let temp = tempfile::tempdir().unwrap();
        let host = host(temp.path()).await;
        let branches = host.home().path().join("branches");
        for (round, aside) in ["idea.left-out", "idea.left-out-2"].iter().enumerate() {
            host.begin_branch("idea").await.unwrap();
            let checkout = gitdir::checkout(host.home().path(), "idea");
            fs::write(checkout.join(".gitignore"), "data\n").unwrap();
            fs::create_dir(checkout.join("node_modules")).unwrap();
            let closed = host.close_branch("idea").await.unwrap();
            // After it was closed.
            fs::write(checkout.join("data"), round.to_string()).unwrap();
            fs::write(checkout.join("late"), round.to_string()).unwrap();
            let gone = closed.retire().await.unwrap();
            assert!(gone.branch.contains("refs/dropped/idea"), "{gone:?}");
            let said = gone.aside.unwrap();
            assert!(said.ends_with(&format!("{aside}: data (named in a .gitignore).")), "{said}");
            let aside = branches.join(aside);
            assert_eq!(fs::read_to_string(aside.join("data")).unwrap(), round.to_string());
            assert!(!aside.join(".git").exists() && !checkout.exists());
        }
        let repository = gitdir::look(&host.home().file("history.git")).unwrap();
        let late = repository.revparse_single("refs/dropped/idea-2:late").unwrap();
        assert_eq!(late.as_blob().unwrap().content(), b"1");
        // What the owner wants out goes.
        host.begin_branch("idea").await.unwrap();
        let checkout = gitdir::checkout(host.home().path(), "idea");
        fs::create_dir(checkout.join("node_modules")).unwrap();
        let gone = host.close_branch("idea").await.unwrap().retire().await.unwrap();
        assert!(gone.aside.is_none() && !checkout.exists(), "{gone:?}");
        host.stop_all().await;
    }

    #[tokio::test]
    async fn a_branch_on_which_somebody_works_stays() {
        let temp = tempfile::tempdir().unwrap();
        let host = host(temp.path()).await;
        for _ in 0..2 {
            turn(&host, None, Some("idea")).await.unwrap();
        }
        let checkout = gitdir::checkout(host.home().path(), "idea");
        let (mut running, other) = (Box::pin(turn(&host, None, Some("idea"))), host.clone());
        let begun = async {
            while !checkout.join("begun").exists() {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            ended = &mut running => panic!("it ended: {ended:?}"),
            () = begun => {}
        }
        let why = other.close_branch("idea").await.err().unwrap().to_string();
        assert!(why.contains("a turn is under way on the branch idea"), "{why}");
        fs::write(checkout.join("go"), "").unwrap();
        running.await.unwrap();
        other.close_branch("idea").await.unwrap();
        host.stop_all().await;
    }
}
