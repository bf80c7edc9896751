//! One turn, put together: the loop of the kernel with this home's model, hands, history,
//! prompt, wire log and door.
//!
//! Owns how these meet. Knows neither who asked nor how the answer is shown.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use tokio::sync::OnceCell;

use crate::guard::hand::Hand;
use crate::guard::policy::{Link, Network, Policy};
use crate::kernel::agent::Agent;
use crate::kernel::border::{Context, History, Listener as _, Prompt, Record, Summary};
use crate::kernel::event::{Changes, End, Event};
use crate::kernel::interrupt::Interrupt;
use crate::kernel::message::{Message, Origin, Usage};
use crate::kernel::model::{Boxed, Deltas, Failure, Model};
use crate::kernel::session::{Header, Session};
use crate::kernel::tool::{Action, Hands, Outcome};
use crate::organs::checkouts::Place;
use crate::organs::compact;
use crate::organs::hand_door::HandDoor;
use crate::organs::history::keeper::Keeper;
use crate::organs::history::{branch, gitdir};
use crate::organs::host::Host;
use crate::organs::lane::{Lane, lock};
use crate::organs::listener::Heard;
use crate::organs::prompt::Sources;
use crate::organs::reach::item::Item;
use crate::organs::reach::{hint, narrow};
use crate::organs::sessions;
use crate::organs::state::Waiting;
use crate::organs::wirelog::Recorder;

impl Host {
    /// Make a session when there is none of this name; a new one when none is named. Its
    /// name. It works on the branch, else where its parent does, else in the workspace. Finds
    /// out first whether there is a model to talk to.
    pub(super) async fn create_session(
        &self,
        name: Option<String>,
        parent: Option<String>,
        branch: Option<&str>,
        only: Option<Link>,
        model: Option<&str>,
    ) -> Result<String> {
        branch.map_or(Ok(()), branch::check_name)?;
        // Nothing was chosen for a session that has no name yet.
        let model = self.model_for(name.as_deref().unwrap_or_default(), model).await?;
        let home = &self.settings.home;
        let name = match (name, branch) {
            (None, Some(branch)) => Some(self.session_of(branch)?),
            (name, _) => name,
        };
        let is_there = |name: &String| home.transcript(name).exists();
        if let Some(branch) = branch
            && !name.as_ref().is_some_and(is_there)
        {
            self.begin_branch(branch).await?;
        }
        // From here on nobody else can make one of this name before we do.
        if let Some(name) = name.as_ref().filter(|name| is_there(name)) {
            ensure!(
                only.is_none(),
                "session {name} is there already: what it may touch was settled when it began"
            );
            self.go_on(name, branch).await?;
            return Ok(name.clone());
        }
        let root = match branch {
            Some(branch) => gitdir::checkout(home.path(), branch),
            None => self.folder(parent.as_deref()),
        };
        let chain = self.links(parent.as_deref())?;
        let chain = narrow::extended(chain, only, &home.workspace(), &root)?;
        let chain = if chain.is_empty() { Value::Null } else { serde_json::to_value(chain)? };
        let create = |name: &str| {
            let header = Header {
                session: name.to_owned(),
                parent: parent.clone(),
                chain: chain.clone(),
                root: root.clone(),
                model: model.name().to_owned(),
                instructions: self.sources.described().to_owned(),
            };
            Session::create(&home.transcript(name), header).map(drop)
        };
        let Some(name) = name else { return sessions::create_fresh(create) };
        create(&name)?;
        Ok(name)
    }

    /// See that a session which is there can take another turn, and on this branch if one is
    /// named.
    async fn go_on(&self, name: &str, branch: Option<&str>) -> Result<()> {
        let home = &self.settings.home;
        let path = home.transcript(name);
        let root = sessions::header(&path).map(|header| header.root).unwrap_or_default();
        let own = gitdir::branch_of(home.path(), &root);
        if sessions::ended(&path)? {
            match own.filter(|own| !gitdir::checkout(home.path(), own).exists()) {
                None => bail!("session {name} was ended; start another one"),
                Some(own) => bail!(
                    "session {name} was ended with its branch {own}, which was merged or dropped; begin another session"
                ),
            }
        }
        if let Some(branch) = branch {
            ensure!(
                own == Some(branch),
                "session {name} does not work on the branch {branch}; name another one with --session NAME"
            );
            self.begin_branch(branch).await?;
        }
        self.place_of(name, &root).await.map(drop)
    }

    /// Where a session works.
    async fn place_of(&self, name: &str, root: &Path) -> Result<Place> {
        self.place(root).await.with_context(|| {
            format!("session {name} works on a branch that cannot be opened; if it was merged or dropped, begin another session")
        })
    }

    /// Run one turn on what waited. `None` when the transcript held all of it already.
    pub(super) async fn turn(
        self: &Arc<Self>,
        name: &str,
        lane: &Lane,
        keys: &Arc<[String]>,
        interrupt: Interrupt,
        batch: Vec<Waiting>,
    ) -> Result<Option<End>> {
        let mut transcript = Session::open(&self.settings.home.transcript(name))?;
        let asked = batch.iter().rev().find_map(|one| one.model.clone());
        let mut first = Vec::new();
        for Waiting { incoming, .. } in batch {
            if transcript.holds(&incoming.key) {
                self.state.taken(&incoming.key)?;
            } else {
                first.push(incoming);
            }
        }
        let Some(origin) = first.first().map(|incoming| incoming.origin.clone()) else {
            return Ok(None);
        };
        let model = self.model_for(name, asked.as_deref()).await?;
        let place = self.place_of(name, &transcript.header().root).await?;
        let turn = transcript.turn() + 1;
        let mut heard = self.listener(name, turn, lane, keys)?;
        let telling = lane.first_telling();
        let faults = transcript.take_notices();
        for text in faults.into_iter().filter(|_| telling) {
            heard.event(Event::Notice { text });
        }
        let door = HandDoor::open(self.clone(), name)?;
        let context = self.sources.within(place.folder.clone());
        let hand = self.hand(&door, &place, name)?;
        self.state.begin(name, turn)?;
        let mut agent = self.agent(&*model, &hand, &context, interrupt, &mut heard)?;
        let ended = agent.turn(&mut transcript, first).await;
        hand.leave().await;
        self.state.used(name, turn, &origin, model.name(), heard.usage)?;
        // Where its changes could not be saved, the next start still has to know whose they are.
        if ended.is_ok() && !place.snapshots.writers().owes(name) {
            self.state.finish(name)?;
        }
        self.back_up_soon();
        lane.finish();
        heard.end();
        ended.map(Some)
    }

    /// Summarise a session's conversation now.
    pub(super) async fn compact(self: &Arc<Self>, name: &str) -> Result<serde_json::Value> {
        let lane = self.lane(name);
        let turn = lane.gate.lock().await;
        let mut transcript = Session::open(&self.settings.home.transcript(name))?;
        let model = self.model_for(name, None).await?;
        let before = transcript.messages().len();
        let mut heard = self.listener(name, transcript.turn(), &lane, &[].into())?;
        let door = HandDoor::open(self.clone(), name)?;
        let place = self.place_of(name, &transcript.header().root).await?;
        let context = self.sources.within(place.folder.clone());
        let hand = self.hand(&door, &place, name)?;
        let interrupt = lane.begin(&[].into());
        let mut agent = self.agent(&*model, &hand, &context, interrupt, &mut heard)?;
        let compacted = agent.compact_now(&mut transcript).await;
        let counted = match &compacted {
            // Only the owner may ask for it.
            Ok(Ok(usage)) if *usage != Usage::default() => {
                self.state.used(name, transcript.turn(), &Origin::Owner, model.name(), *usage)
            }
            _ => Ok(()),
        };
        lane.finish();
        drop(turn);
        // What was said meanwhile took this for a turn that it could join.
        let (host, session) = (self.clone(), name.to_owned());
        tokio::spawn(async move { host.drain(&session, &lane, None).await });
        compacted?.map_err(|why| anyhow::anyhow!(why))?;
        counted?;
        Ok(serde_json::json!({ "messages": [before, transcript.messages().len()] }))
    }

    fn agent<'a>(
        &'a self,
        model: &'a dyn Model,
        hands: &'a Watched<'a>,
        context: &'a Sources,
        interrupt: Interrupt,
        listener: &'a mut Heard<'_>,
    ) -> Result<Agent<'a>> {
        Ok(Agent {
            model,
            hands,
            history: hands,
            inbox: self,
            context,
            limits: self.limits_of(Some(hands.writer))?.limits(),
            interrupt,
            listener,
        })
    }

    fn listener<'a>(
        &self,
        name: &str,
        turn: u64,
        lane: &'a Lane,
        keys: &Arc<[String]>,
    ) -> Result<Heard<'a>> {
        let recorder = Recorder::open(&self.settings.home.wire(), name, turn)?;
        Ok(Heard::new(lane, keys.clone(), recorder, self.withheld.clone()))
    }

    /// A hand of a session that works in this place.
    fn hand<'a>(
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
        let keys = self.settings.catalog.keys();
        for name in chain.secrets().unwrap_or_default() {
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
        self.widened(name)
    }

    /// The links by which a session may do less than the owner's own.
    pub(super) fn links(&self, session: Option<&str>) -> Result<Vec<Link>> {
        let Some(session) = session else { return Ok(Vec::new()) };
        let header = sessions::header(&self.settings.home.transcript(session));
        let chain = header.map(|header| header.chain).unwrap_or_default();
        if chain.is_null() {
            return Ok(Vec::new());
        }
        serde_json::from_value(chain).with_context(|| {
            format!("session {session} begins with a chain that this version does not know")
        })
    }
}

impl Context for Sources {
    fn prompt(&self) -> Prompt {
        Sources::prompt(self)
    }

    fn full(&self, messages: &[Message], filled: u64, window: u64) -> bool {
        compact::full(messages, filled, window, self.limits().fill)
    }

    fn summarise<'a>(
        &'a self,
        messages: &'a [Message],
        model: &'a dyn Model,
        deltas: Deltas<'a>,
    ) -> Boxed<'a, Result<Summary, Failure>> {
        Box::pin(compact::summarise(messages, model, deltas))
    }
}

/// A hand, the calls of which the history knows as times in which it may write.
struct Watched<'a> {
    host: &'a Host,
    door: PathBuf,
    hand: Mutex<Arc<Equipped>>,
    place: &'a Place,
    /// The workspace, where that is another place: nothing keeps a hand from writing there too,
    /// and what it does must not pass for the owner's.
    beside: Option<Place>,
    /// Done once the workspace was looked at before the first call.
    looked: OnceCell<()>,
    writer: &'a str,
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
    async fn leave(&self) {
        let Some(beside) = self.beside.as_ref().filter(|_| self.looked.initialized()) else {
            return;
        };
        if beside.snapshots.blocking(take_in).await.is_ok() {
            beside.snapshots.writers().settle(self.writer, None);
        }
    }
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
                if let Some(hint) = hint::after(&outcome.text, outcome.error, policy) {
                    let newline = if outcome.text.ends_with('\n') { "" } else { "\n" };
                    outcome.text += &format!("{newline}{hint}");
                }
                outcome
            };
            if reads {
                return act(action).await;
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
        let reach = Some("workspace").filter(|_| lock(&self.hand).contained);
        self.place.snapshots.after_turn(record, reach)
    }
}
