//! Conversations recorded, and tried again before a change is trusted.
//!
//! Owns what a host says of a session so that it can be played, and with what rights its calls
//! are carried out again: those of whoever asks, without network, secrets and anything to write
//! outside of the replay's own folder unless that is wished. Knows no file and no screen.

pub mod judge;
pub mod places;
pub mod played;
pub mod recording;
pub mod run;
pub mod stage;

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use git2::Oid;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::mpsc::UnboundedSender;

use crate::guard::policy::{Chain, Link, Network, Policy};
use crate::kernel::event::Event;
use crate::kernel::session::lines;
use crate::organs::asked::blocking;
use crate::organs::history::ask::{Culprit, Replayed};
use crate::organs::history::bisect::{self, Search};
use crate::organs::history::chronicle::{Chronicle, Entry};
use crate::organs::history::keeper::Keeper;
use crate::organs::history::{branch, gitdir};
use crate::organs::home::Home;
use crate::organs::host::Host;
use crate::organs::replay::places::{HOME, Places, SCRATCH, WORKSPACE};
use crate::organs::replay::recording::{Recording, Told};
use crate::organs::replay::run::Replayer;
use crate::organs::sessions;
use crate::organs::verb::{Answer, Caller};

impl Host {
    /// What was said and done in a session, from a turn on.
    pub(super) async fn recording(
        &self,
        caller: &Caller,
        session: Option<String>,
        from: u64,
    ) -> Result<Value> {
        let session = self.subject(caller, session)?;
        let home = self.home().clone();
        // Others are not to wait for a long one.
        blocking(move || record(&home, &session, from)).await
    }

    /// Carry out again what was recorded, on what the asker's workspace is now.
    pub(super) async fn replay(
        self: &Arc<Self>,
        caller: &Caller,
        recording: String,
        (live, as_it_is): (bool, bool),
        answers: &UnboundedSender<Answer>,
    ) -> Result<Replayed> {
        let (snapshots, branch) = self.checkout(caller).await?;
        let (tree, _) = snapshots.blocking(Keeper::tree_now).await?;
        let writing = writer(caller).map(|session| snapshots.writers().writes(session, true));
        let (host, caller, heard) = (self.clone(), caller.clone(), answers.clone());
        self.until_left(answers, move |interrupt| {
            let _writing = writing;
            let recording = Recording::parse(&recording)?;
            let chronicle = Chronicle::on(host.home().path(), &branch)?;
            let equip = |folders: [&Path; 2]| host.for_replay(writer(&caller), live, folders);
            let replayer = Replayer {
                repository: chronicle.repository(),
                home: host.home(),
                recording: &recording,
                equip: &equip,
                interrupt,
                as_it_is,
                once: live,
            };
            let tree = chronicle.repository().find_tree(tree)?;
            replayer.replay(tree, &mut |text| notice(&heard, text))
        })
        .await
    }

    /// Find the change since which a recording is answered otherwise.
    pub(super) async fn bisect_recording(
        self: &Arc<Self>,
        caller: &Caller,
        recording: String,
        good: Option<String>,
        answers: &UnboundedSender<Answer>,
    ) -> Result<Culprit> {
        let (snapshots, branch) = self.checkout(caller).await?;
        let writing = writer(caller).map(|session| snapshots.writers().writes(session, true));
        let (host, caller, heard) = (self.clone(), caller.clone(), answers.clone());
        self.until_left(answers, move |interrupt| {
            let _writing = writing;
            let recording = Recording::parse(&recording)?;
            let chronicle = Chronicle::on(host.home().path(), &branch)?;
            let equip = |folders: [&Path; 2]| host.for_replay(writer(&caller), false, folders);
            let (repository, home, as_it_is) = (chronicle.repository(), host.home(), false);
            let replayer = Replayer {
                repository,
                home,
                recording: &recording,
                equip: &equip,
                interrupt,
                as_it_is,
                once: false,
            };
            // Once it was recorded, all was well.
            let good = good.or_else(|| last_commit(&chronicle, &recording));
            let trial = replayer.trial(&mut |text| notice(&heard, text))?;
            let search = Search {
                repository,
                branch: &branch,
                trial: &trial,
                good: good.as_deref(),
                interrupt,
                logged: &|commit| chronicle.logged(&Entry::read(commit.clone()), false),
            };
            bisect::bisect(&search, &mut |text| notice(&heard, text))
        })
        .await
    }

    /// What a hand is given in these folders: workspace, door.
    fn for_replay(
        &self,
        session: Option<&str>,
        live: bool,
        [workspace, door]: [&Path; 2],
    ) -> Result<Policy> {
        let mut policy = self.policy(door, workspace, session)?;
        if live {
            return Ok(policy);
        }
        let Chain::Links(links) = &mut policy.chain else {
            bail!(
                "nothing is confined here, as config.toml has it, so what was recorded could reach the network and everything of yours; with --live it is replayed all the same"
            )
        };
        links.push(Link {
            read: vec!["/".into()],
            write: Vec::new(),
            network: Network::None,
            unix: false,
            secrets: Some([].into()),
            tools: None,
        });
        let keys = self.settings.catalog.keys();
        let names = keys.names();
        policy.env.retain(|(variable, _)| !names.keys().any(|name| **variable == **name));
        Ok(policy)
    }
}

/// What was said and done in a session, as a recording has it.
fn record(home: &Home, session: &str, from: u64) -> Result<Value> {
    let path = home.transcript(session);
    let file = File::open(&path).with_context(|| format!("cannot read {}", path.display()))?;
    // What cannot be read is told when the session is opened.
    let entries = lines(&file).map_while(Result::ok).filter_map(Result::ok);
    let mut turns = recording::told(session, entries, from);
    let root = sessions::header(&path).map(|header| header.root).unwrap_or_default();
    name_commits(home, &root, &mut turns);
    let scratch = home.scratch();
    let places = Places::named([(&*root, WORKSPACE), (&*scratch, SCRATCH), (home.path(), HOME)]);
    let count = turns.len();
    let lines = turns.into_iter().flat_map(Told::lines).map(|line| places.json(line));
    let lines: Vec<_> = lines.collect();
    Ok(json!({ "session": session, "turns": count, "lines": lines }))
}

/// In whose name hands act, where it is not the owner.
fn writer(caller: &Caller) -> Option<&str> {
    match caller {
        Caller::Owner => None,
        Caller::Hand(session) => Some(session),
    }
}

fn notice(answers: &UnboundedSender<Answer>, text: String) {
    let _ = answers.send(Answer::Event(Event::Notice { text }));
}

/// Name the commits that turns began with: the parent of the one that a turn made, else the
/// latest there was when it began. What cannot be known stays unnamed.
fn name_commits(home: &Home, root: &Path, turns: &mut [Told]) {
    let branch = gitdir::branch_of(home.path(), root).map(branch::reference);
    let chronicle = match &branch {
        Some(branch) => Chronicle::on(home.path(), branch),
        None => Chronicle::open(home.path()),
    };
    let Ok(chronicle) = chronicle else { return };
    let mut newest = chronicle.head().map(|head| head.id()).ok();
    for turn in turns.iter_mut().rev() {
        let made = turn.head.made.as_deref().and_then(|made| chronicle.find(made).ok());
        turn.head.made = made.as_ref().map(|made| made.id().to_string());
        let begun = match made {
            Some(made) => made.parent_id(0).ok(),
            None => newest.and_then(|newest| latest_at(&chronicle, newest, &turn.at)),
        };
        turn.head.commit = begun.map(|id| id.to_string());
        newest = begun.or(newest);
    }
}

/// The latest commit at a time, among those that led to this one.
fn latest_at(chronicle: &Chronicle, newest: Oid, at: &str) -> Option<Oid> {
    let at = at.parse::<Timestamp>().ok()?.as_second();
    let commits = chronicle.walk_from(newest).map_while(Result::ok).map(|(entry, _)| entry.commit);
    commits.into_iter().find(|commit| commit.time().seconds() <= at).map(|commit| commit.id())
}

/// The last commit that is known of a recording and led to the latest one.
fn last_commit(chronicle: &Chronicle, recording: &Recording) -> Option<String> {
    let (repository, head) = (chronicle.repository(), chronicle.head().ok()?.id());
    let turns = recording.turns.iter().rev();
    let mut named = turns.filter_map(|turn| turn.head.made.as_ref().or(turn.head.commit.as_ref()));
    let led = |id: &&String| {
        let id = Oid::from_str(id);
        id.is_ok_and(|id| {
            id == head || repository.graph_descendant_of(head, id).unwrap_or_default()
        })
    };
    named.find(led).cloned()
}
