//! One turn, put together: the loop of the kernel with this home's model, hands, history,
//! prompt, wire log and door.
//!
//! Owns how these meet. Knows neither who asked nor how the answer is shown.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::guard::policy::Link;
use crate::kernel::agent::Agent;
use crate::kernel::border::{Context, Listener as _, Prompt, Summary};
use crate::kernel::event::{End, Event};
use crate::kernel::interrupt::Interrupt;
use crate::kernel::message::{Message, Origin, Usage};
use crate::kernel::model::{Boxed, Deltas, Failure, Model};
use crate::kernel::session::{Header, Session};
use crate::organs::checkouts::Place;
use crate::organs::compact;
use crate::organs::hand_door::HandDoor;
use crate::organs::hands::Watched;
use crate::organs::history::{branch, gitdir};
use crate::organs::host::Host;
use crate::organs::lane::Lane;
use crate::organs::listener::Heard;
use crate::organs::prompt::Sources;
use crate::organs::reach::narrow;
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
