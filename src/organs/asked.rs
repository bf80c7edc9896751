//! The history, asked for through a door.
//!
//! Owns how each request about the history is answered, and who hears what came of it: the
//! sessions whose turns were taken back are told. Everything that reads or writes a disk is
//! done on threads that may block. Knows neither sockets nor how histories are kept.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use serde_json::Value;
use tokio::sync::mpsc::UnboundedSender;

use crate::kernel::session::Session;
use crate::organs::history::archive::MAIN;
use crate::organs::history::ask::{Ask, Favour, Reason, Shown, Standing, Test, Undone};
use crate::organs::history::chronicle::{Chronicle, Entry};
use crate::organs::history::keeper::Keeper;
use crate::organs::history::snapshots::Snapshots;
use crate::organs::history::{backup, branch, compare, gitdir, pack, undo, why};
use crate::organs::host::Host;
use crate::organs::sessions;
use crate::organs::verb::{Answer, Caller};

/// Paths that a session is told of at most.
const NAMED: usize = 20;
/// What a session is told besides.
const LOOK: &str = "Look before you rely on what you remember.";

impl Host {
    /// Answer a request about the history.
    pub(super) async fn history(
        self: &Arc<Self>,
        caller: &Caller,
        ask: Ask,
        answers: &UnboundedSender<Answer>,
    ) -> Result<Value> {
        let (home, who) = (self.home().clone(), self.who(caller)?);
        let (snapshots, branch) = self.checkout(caller).await?;
        let chronicle = move || Chronicle::on(home.path(), &branch);
        let home = self.home().clone();
        Ok(match ask {
            Ask::Log { limit, path } => {
                let log = move || chronicle()?.log(limit, path.as_deref().map(Path::new));
                serde_json::to_value(blocking(log).await?)?
            }
            Ask::Show { rev, path } => {
                let show =
                    move || compare::show(&chronicle()?, &rev, path.as_deref().map(Path::new));
                serde_json::to_value(blocking(show).await?)?
            }
            Ask::Diff { from, to, path } => {
                serde_json::to_value(self.diff(&snapshots, chronicle, [from, to, path]).await?)?
            }
            Ask::Undo { what, favour } => {
                let undone = snapshots.blocking(move |keeper| {
                    let undone = undo::undo(keeper, &who, &what, favour);
                    keeper.freshen()?;
                    undone
                });
                let mut undone = undone.await?;
                let (turns, redo) = self.turns_of(&undone).await?;
                let all: Vec<_> = turns.iter().cloned().collect();
                if let Some(said) = self.take_reminders_along(&undone, &all, redo)? {
                    undone.said = said;
                }
                self.tell_undone(caller, &undone, turns, redo).await?;
                self.always.look.notify_one();
                serde_json::to_value(undone)?
            }
            Ask::Restore { rev, paths } => {
                let what = format!("put files back as they were in {}", rev.escape_debug());
                let restored = snapshots.blocking(move |keeper| {
                    let restored = undo::restore(keeper, &who, &rev, &paths);
                    keeper.freshen()?;
                    restored
                });
                let restored = restored.await?;
                self.tell_latest(caller, &what, &restored).await?;
                self.always.look.notify_one();
                serde_json::to_value(restored)?
            }
            Ask::Why { file, line, full } => {
                let reasons = move || why::why(&chronicle()?, &home, Path::new(&file), line, full);
                let mut reasons = blocking(reasons).await?;
                for reason in &mut reasons {
                    self.withhold(caller, reason);
                }
                serde_json::to_value(reasons)?
            }
            Ask::Bisect { test: Test::Command(command), good } => {
                serde_json::to_value(self.bisect(caller, command, good, answers).await?)?
            }
            Ask::Bisect { test: Test::Recording(recording), good } => serde_json::to_value(
                self.bisect_recording(caller, recording, good, answers).await?,
            )?,
            Ask::Replay { recording, live, as_it_is } => {
                let how = (live, as_it_is);
                serde_json::to_value(self.replay(caller, recording, how, answers).await?)?
            }
            Ask::Backup { to } => serde_json::to_value(self.back_up(to, answers).await?)?,
            Ask::Merge { branch, favour } => {
                let what = format!("brought in the branch {branch}");
                let merged = self.merge(who, branch, favour).await?;
                self.tell_latest(caller, &what, &merged).await?;
                self.always.look.notify_one();
                serde_json::to_value(merged)?
            }
            Ask::Drop { branch } => {
                let gone = self.close_branch(&branch).await?.retire().await?;
                let said = [Some(gone.branch), gone.aside].into_iter().flatten();
                serde_json::json!({ "said": said.collect::<Vec<_>>().join("\n") })
            }
            Ask::Standing => {
                let mut standing = self.standing().await?;
                if *caller != Caller::Owner {
                    // An address may hold a key.
                    (standing.backup, standing.failure) = (None, None);
                }
                serde_json::to_value(standing)?
            }
        })
    }

    fn who(&self, caller: &Caller) -> Result<undo::Who> {
        let turn = match caller {
            Caller::Owner => None,
            Caller::Hand(own) => {
                let running = self.state.unfinished()?;
                running.into_iter().find(|(session, _)| session == own).map(|(_, turn)| turn)
            }
        };
        Ok(undo::Who { home: self.home().clone(), caller: caller.clone(), turn })
    }

    /// The checkout that a request is about, and its branch: a hand's is where its session
    /// works.
    pub(super) async fn checkout(&self, caller: &Caller) -> Result<(Arc<Snapshots>, String)> {
        let Caller::Hand(session) = caller else {
            return Ok((self.snapshots.clone(), MAIN.to_owned()));
        };
        let folder = self.folder(Some(session));
        let branch = gitdir::branch_of(self.home().path(), &folder).map(branch::reference);
        let place = self.place(&folder).await?;
        Ok((place.snapshots, branch.unwrap_or_else(|| MAIN.to_owned())))
    }

    async fn diff(
        &self,
        snapshots: &Snapshots,
        chronicle: impl FnOnce() -> Result<Chronicle> + Send + 'static,
        [from, to, path]: [Option<String>; 3],
    ) -> Result<Shown> {
        let now = match &to {
            None => Some(snapshots.blocking(Keeper::tree_now).await?.0),
            Some(_) => None,
        };
        blocking(move || {
            let chronicle = chronicle()?;
            let tree = |rev: &str| chronicle.find(rev)?.tree().map_err(anyhow::Error::from);
            let old = from.as_deref().map_or_else(|| Ok(chronicle.head()?.tree()?), tree)?;
            let new = match (to, now) {
                (Some(to), _) => tree(&to)?,
                (None, Some(now)) => chronicle.repository().find_tree(now)?,
                (None, None) => chronicle.head()?.tree()?,
            };
            compare::diff(&chronicle, Some(&old), Some(&new), path.as_deref().map(Path::new))
        })
        .await
    }

    /// Bring in what was done on a branch, which goes with that.
    async fn merge(&self, who: undo::Who, name: String, favour: Option<Favour>) -> Result<Undone> {
        let closed = self.close_branch(&name).await?;
        let merged = self.snapshots.blocking(move |keeper| {
            let tip = branch::tip(keeper.archive().repository(), &name)?.id();
            let merged = undo::merge(keeper, &who, &name, tip, favour);
            keeper.freshen()?;
            merged
        });
        let mut merged = merged.await?;
        // What was not brought in is still to come.
        if merged.commit.is_some() && !merged.in_part {
            let gone = closed.retire().await?;
            // Only what was edited meanwhile is not in main.
            let edited = Some(gone.branch).filter(|_| gone.kept);
            merged.said = edited.into_iter().chain(gone.aside).collect::<Vec<_>>().join("\n");
        }
        Ok(merged)
    }

    /// A transcript is for those who reach its session.
    fn withhold(&self, caller: &Caller, reason: &mut Reason) {
        let session = reason.change.turn.as_ref().map(|(session, _)| session);
        if session.is_some_and(|session| !self.reaches(caller, session)) {
            let change = std::mem::take(&mut reason.change);
            let said = "What was said there is not for this session.".to_owned();
            *reason = Reason { change, lines: reason.lines, said, ..Reason::default() };
        }
    }

    /// Tell the sessions what was taken back of theirs, so that their models know.
    async fn tell_undone(
        self: &Arc<Self>,
        caller: &Caller,
        undone: &Undone,
        turns: BTreeSet<(String, u64)>,
        redo: bool,
    ) -> Result<()> {
        let Some(commit) = &undone.commit else { return Ok(()) };
        let by = match caller {
            Caller::Owner => "The owner".to_owned(),
            Caller::Hand(session) => format!("Session {session}"),
        };
        let mut told: BTreeMap<String, BTreeSet<u64>> = BTreeMap::new();
        for (session, turn) in turns {
            told.entry(session).or_default().insert(turn);
        }
        let paths = paths_of(undone);
        for (session, turns) in told {
            let turns: Vec<_> = turns.iter().map(u64::to_string).collect();
            let what = if redo { "put back again what was undone of" } else { "undid" };
            let text = format!(
                "{by} {what} turn {} of this session in the workspace (commit {commit}): {paths}. {LOOK}",
                turns.join(", "),
            );
            self.note(session, text).await;
        }
        Ok(())
    }

    /// Tell the latest session what was put back or brought in beneath it.
    async fn tell_latest(
        self: &Arc<Self>,
        caller: &Caller,
        what: &str,
        undone: &Undone,
    ) -> Result<()> {
        let Some(commit) = &undone.commit else { return Ok(()) };
        let latest = match caller {
            Caller::Owner => sessions::latest(self.home())?,
            // It sees the answer itself.
            Caller::Hand(_) => None,
        };
        if let Some(session) = latest {
            let paths = paths_of(undone);
            let text =
                format!("The owner {what} in the workspace (commit {commit}): {paths}. {LOOK}");
            self.note(session, text).await;
        }
        Ok(())
    }

    /// The turns that an undo is about, or the undoing of one; and whether it is that.
    async fn turns_of(&self, undone: &Undone) -> Result<(BTreeSet<(String, u64)>, bool)> {
        let home = self.home().clone();
        let ids: Vec<_> = undone.changes.iter().map(|change| change.id.clone()).collect();
        blocking(move || {
            let chronicle = Chronicle::open(home.path())?;
            let read = |id: &String| chronicle.find(id).map(Entry::read);
            let mut open = ids.iter().map(read).collect::<Result<Vec<_>>>()?;
            let back = open.iter().all(Entry::takes_back);
            let redo = open.iter().all(|entry| entry.trailer("Undoes").is_some());
            let mut found = BTreeSet::new();
            while let Some(entry) = open.pop() {
                if back && entry.takes_back() {
                    for id in entry.cancels() {
                        open.push(read(&id.to_string())?);
                    }
                } else if let Some((session, turn)) = entry.turn() {
                    found.insert((session.to_owned(), turn));
                }
            }
            Ok((found, redo))
        })
        .await
    }

    /// Put a remark into a transcript, after the turn that is under way.
    pub(super) async fn note(self: &Arc<Self>, session: String, text: String) {
        let (host, lane) = (self.clone(), self.lane(&session));
        let noted = async move {
            let _turn = lane.gate.lock().await;
            if let Ok(mut transcript) = Session::open(&host.home().transcript(&session))
                && !transcript.ended()
            {
                // A transcript that cannot be written says so with its next turn.
                let _ = transcript.record_note(&text);
            }
        };
        let mut noted = tokio::spawn(noted);
        // A turn that asked for this itself would wait for ever.
        tokio::select! {
            _ = &mut noted => {}
            () = tokio::task::yield_now() => {}
        }
    }

    async fn standing(&self) -> Result<Standing> {
        // What the look finds stays for the next snapshot.
        let (_, left_out) = self.snapshots.blocking(Keeper::tree_now).await?;
        let home = self.home().clone();
        let backup = self.settings.config.history.backup.as_deref().map(backup::without_key);
        let failure = self.backup_failure();
        blocking(move || {
            let chronicle = Chronicle::open(home.path())?;
            let (bytes, loose) = pack::size(&home.file("history.git"))?;
            let mut commits = 0;
            for step in chronicle.walk()? {
                step?;
                commits += 1;
            }
            let mut branches = branch::names(chronicle.repository())?;
            branches.retain(|name| name != "main");
            Ok(Standing { commits, bytes, loose, left_out, branches, backup, failure })
        })
        .await
    }
}

/// What was put back or brought in, for a model: names may be a hand's, or very many.
fn paths_of(undone: &Undone) -> String {
    let entry = |(path, what): &(String, String)| format!("{} ({what})", path.escape_debug());
    let named: Vec<_> = undone.paths.iter().take(NAMED).map(entry).collect();
    let more = undone.paths.len().saturating_sub(NAMED);
    match (&*named, more) {
        ([], _) => "no file changed".to_owned(),
        (named, 0) => named.join(", "),
        (named, more) => format!("{} and {more} more", named.join(", ")),
    }
}

/// The one runtime thread never waits for a disk.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work).await.context("it was broken off")?
}
