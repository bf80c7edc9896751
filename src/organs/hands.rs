//! The hands of a turn: their policy as things stand, and what the history and the model are
//! told of their calls.
//!
//! Owns the environment of tool calls and the spans in which they may write. What a hand may
//! touch is put together in `reach/`, and enforced in the guard.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use anyhow::{Context as _, Result, ensure};
use tokio::sync::OnceCell;

use crate::guard::hand::Hand;
use crate::guard::policy::{Link, Network, Policy};
use crate::kernel::border::{History, Record};
use crate::kernel::event::Changes;
use crate::kernel::interrupt::Interrupt;
use crate::kernel::model::Boxed;
use crate::kernel::tool::{Action, Hands, Outcome};
use crate::organs::checkouts::Place;
use crate::organs::hand_door::HandDoor;
use crate::organs::history::keeper::Keeper;
use crate::organs::host::Host;
use crate::organs::lane::lock;
use crate::organs::pictures::Pictures;
use crate::organs::reach::hint;
use crate::organs::reach::item::Item;
use crate::organs::sessions;

impl Host {
    /// A hand of a session that works in this place.
    pub(super) fn hand<'a>(
        &'a self,
        door: &HandDoor,
        place: &'a Place,
        writer: &'a str,
    ) -> Result<Watched<'a>> {
        let door = door.folder().to_owned();
        let hand = Mutex::new(self.equipped(&door, place, writer)?.into());
        let workspace = self.settings.home.workspace();
        let main = Place { folder: workspace, snapshots: self.snapshots.clone() };
        let beside = Some(main).filter(|main| main.folder != place.folder);
        let looked = OnceCell::new();
        Ok(Watched { host: self, door, hand, place, beside, looked, writer })
    }

    /// What a session's hands are, as things stand.
    fn equipped(&self, door: &Path, place: &Place, writer: &str) -> Result<Equipped> {
        let since = *self.grants.borrow();
        let reach = self.reach().clone();
        // Where hands cannot be confined, each call says why it is not run.
        let hand = match reach.check() {
            Ok(()) => {
                let policy = self.policy(door, &place.folder, Some(writer))?;
                Ok((Hand::new(policy.clone()), policy))
            }
            Err(error) => Err(error),
        };
        let contained = hand.as_ref().is_ok_and(|(_, policy)| reach.is_contained(&policy.chain));
        Ok(Equipped { since, hand, contained })
    }

    /// What hands of a session in this folder are given.
    pub(super) fn policy(
        &self,
        door: &Path,
        folder: &Path,
        session: Option<&str>,
    ) -> Result<Policy> {
        let home = &self.settings.home;
        let (given, narrower) = self.given(session)?;
        let reach = self.reach();
        let chain = reach.chain(folder, &given, &narrower)?;
        let bin = folder.join("bin");
        let folders =
            [bin, home.program()].into_iter().chain(std::env::split_paths(&self.bash_path));
        let path = std::env::join_paths(folders).with_context(|| {
            format!(
                "{} has a colon in it, so that it cannot stand in the PATH of tool calls; move the home, or name another with --home DIR",
                home.path().display()
            )
        })?;
        let mut env: Vec<(OsString, OsString)> = vec![
            ("PATH".into(), path),
            ("HOME".into(), folder.into()),
            ("TMPDIR".into(), home.scratch().into()),
            ("FLEDGLING_HOME".into(), home.path().into()),
            ("FLEDGLING_DOOR".into(), door.into()),
        ];
        let fixed = [
            ("LANG", "C.UTF-8"),
            ("TERM", "dumb"),
            ("NO_COLOR", "1"),
            ("PAGER", "cat"),
            ("GIT_OPTIONAL_LOCKS", "0"),
        ];
        env.extend(fixed.map(|(name, value)| (name.into(), value.into())));
        env.extend(reach.variables(&chain));
        env.extend(
            session
                .and_then(|name| self.always.workers.get(name))
                .into_iter()
                .flat_map(|worker| worker.env.clone()),
        );
        let keys = self.settings.catalog.keys();
        // Where nothing is confined no chain says which.
        for name in chain.secrets().unwrap_or_else(|| reach.secrets(&given)) {
            env.extend(keys.get(&name).map(|value| (name.clone().into(), value.into())));
        }
        if let Network::Ports(_) = chain.network() {
            // Names are looked up over TCP then, or not at all.
            env.push(("RES_OPTIONS".into(), "use-vc".into()));
        }
        let held = self.hands.clone();
        let (workspace, scratch) = (folder.to_owned(), home.scratch());
        let withheld = self.withheld.clone();
        let own = [scratch.as_path(), door]
            .map(|path| path.canonicalize().unwrap_or_else(|_| path.to_owned()));
        Ok(Policy { workspace, scratch, env, chain, own: own.to_vec(), held, withheld })
    }

    /// What a session was given besides what all have, and the links by which it may do less.
    pub(super) fn given(&self, session: Option<&str>) -> Result<(Vec<Item>, Vec<Link>)> {
        let Some(name) = session else { return Ok(Default::default()) };
        let Some(worker) = self.always.workers.get(name) else { return self.widened(name) };
        // What it asked for itself, and what the session has for which it works.
        let (mut items, _) = self.given(worker.session.as_deref())?;
        items.extend(self.state.granted(name)?);
        Ok((items, worker.links.clone()))
    }

    /// The links by which a session may do less than the owner's own.
    pub(super) fn links(&self, session: Option<&str>) -> Result<Vec<Link>> {
        let Some(session) = session else { return Ok(Vec::new()) };
        if let Some(worker) = self.always.workers.get(session) {
            return Ok(worker.links.clone());
        }
        // Its chain went with it: what it still asks for must not get the root's.
        ensure!(!session.contains(':'), "{session} runs no more");
        let path = self.settings.home.transcript(session);
        let header = sessions::header(&path);
        // What cannot be read may have said that it may do less.
        ensure!(
            header.is_some() || !path.exists(),
            "the first line of {} cannot be read, so what session {session} may touch is not known; begin another session",
            path.display()
        );
        let chain = header.map(|header| header.chain).unwrap_or_default();
        if chain.is_null() {
            return Ok(Vec::new());
        }
        serde_json::from_value(chain).with_context(|| {
            format!("session {session} begins with a chain that this version does not know")
        })
    }
}

/// A hand, the calls of which the history knows as times in which it may write.
pub(super) struct Watched<'a> {
    pub host: &'a Host,
    door: PathBuf,
    hand: Mutex<Arc<Equipped>>,
    pub place: &'a Place,
    /// The workspace, where that is another place: nothing keeps a hand from writing there too,
    /// and what it does must not pass for the owner's.
    beside: Option<Place>,
    /// Done once the workspace was looked at before the first call.
    looked: OnceCell<()>,
    pub writer: &'a str,
}

/// A hand, with what it was made of.
struct Equipped {
    /// How often what is given had changed.
    since: u64,
    /// With its policy; none where it may not be confined.
    hand: Result<(Hand, Policy)>,
    /// Whether the history has whatever it changes, and those before it changed.
    contained: bool,
}

impl Watched<'_> {
    /// The hand for the next call, which has what was given meanwhile.
    fn equipped(&self) -> Arc<Equipped> {
        let mut hand = lock(&self.hand);
        if hand.since != *self.host.grants.borrow() {
            let contained = hand.contained;
            let anew = self.host.equipped(&self.door, self.place, self.writer);
            let mut anew = anew.unwrap_or_else(|error| Equipped {
                since: hand.since,
                hand: Err(error),
                contained,
            });
            anew.contained &= contained;
            *hand = anew.into();
        }
        hand.clone()
    }

    /// The turn is over: what it did beside its own place is taken in, so that nobody suspects
    /// it of anything that comes.
    pub(super) async fn leave(&self) {
        let Some(beside) = self.beside.as_ref().filter(|_| self.looked.initialized()) else {
            return;
        };
        if beside.snapshots.blocking(take_in).await.is_ok() {
            beside.snapshots.writers().settle(self.writer, None);
        }
    }
}

async fn hint_to(outcome: &Outcome, policy: Policy) -> Option<String> {
    let (text, failed) = (outcome.text.clone(), outcome.error);
    let hint = tokio::task::spawn_blocking(move || hint::after(&text, failed, &policy));
    hint.await.ok().flatten()
}

fn take_in(keeper: &mut Keeper) -> Result<()> {
    keeper.take_in()?;
    keeper.freshen()
}

impl Hands for Watched<'_> {
    fn act(&self, action: Action, interrupt: Interrupt) -> Boxed<'_, Outcome> {
        let reads = matches!(action, Action::Read { .. });
        let anywhere = matches!(action, Action::Bash { .. });
        Box::pin(async move {
            let equipped = self.equipped();
            let (hand, policy) = match &equipped.hand {
                Ok(hand) => hand,
                Err(error) => return Outcome::failed(format!("{error:#}")),
            };
            let act = async |action| {
                let mut outcome = hand.act(action, interrupt).await;
                if hint::is_likely(&outcome.text)
                    && let Some(hint) = hint_to(&outcome, policy.clone()).await
                {
                    let newline = if outcome.text.ends_with('\n') { "" } else { "\n" };
                    outcome.text += &format!("{newline}{hint}");
                }
                outcome
            };
            if reads {
                let mut read = act(action).await;
                let kept = Pictures::of(self.host.home()).keep_all(&mut read.images).await;
                return kept.map_or_else(|error| Outcome::failed(format!("{error:#}")), |()| read);
            }
            if let Some(beside) = &self.beside {
                // Should it fail, more is suspected than need be.
                let look = async || _ = beside.snapshots.blocking(take_in).await;
                self.looked.get_or_init(look).await;
            }
            let places = [Some(self.place), self.beside.as_ref()];
            let writings: Vec<_> = places
                .into_iter()
                .flatten()
                .map(|place| (place, place.snapshots.writers().writes(self.writer, anywhere)))
                .collect();
            let outcome = act(action).await;
            for (place, writing) in writings {
                let wrote = outcome.wrote.iter();
                let inside = wrote.filter_map(|path| path.strip_prefix(&place.folder).ok());
                writing.wrote(inside.map(Path::to_owned));
                if anywhere {
                    place.snapshots.glance();
                }
            }
            outcome
        })
    }
}

impl History for Watched<'_> {
    fn before<'a>(&'a self, session: &'a str, turn: u64) -> Boxed<'a, Result<Option<String>>> {
        self.place.snapshots.before(session, turn)
    }

    fn after(&self, record: Record) -> Boxed<'_, Result<Changes>> {
        let contained = lock(&self.hand).contained;
        let mut trailers: Vec<_> =
            contained.then(|| ("Reach", "workspace".to_owned())).into_iter().collect();
        let reminders = self.host.state.reminders_of(&record.session, record.turn);
        // Should they not be known, the turn is committed as if there were none.
        trailers.extend(reminders.unwrap_or_default().into_iter().map(|one| ("Reminder", one)));
        self.place.snapshots.after_turn(record, trailers)
    }
}
