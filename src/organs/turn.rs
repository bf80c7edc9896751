//! One turn, put together: the loop of the kernel with this home's model, hands, history,
//! prompt, wire log and door.
//!
//! Owns how these meet. Knows neither who asked nor how the answer is shown.

use std::sync::Arc;

use anyhow::Result;

use crate::kernel::agent::Agent;
use crate::kernel::border::{Context, Listener as _, Prompt, Summary};
use crate::kernel::event::{End, Event};
use crate::kernel::interrupt::Interrupt;
use crate::kernel::message::{Message, Origin, Usage};
use crate::kernel::model::{Boxed, Deltas, Failure, Model};
use crate::kernel::session::Session;
use crate::organs::always::budget::Metered;
use crate::organs::compact;
use crate::organs::hand_door::HandDoor;
use crate::organs::hands::Watched;
use crate::organs::host::Host;
use crate::organs::lane::Lane;
use crate::organs::listener::Heard;
use crate::organs::prompt::Sources;
use crate::organs::reach::item::Item;
use crate::organs::state::Waiting;
use crate::organs::wirelog::Recorder;

impl Host {
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
        let mut model = self.model_for(name, asked.as_deref()).await?;
        let unattended = first.iter().all(|one| self.is_unattended(&one.origin));
        let guarded = first.iter().all(|one| self.is_guarded(&one.origin));
        let _mark = unattended.then(|| self.always.unattended.mark(name, guarded));
        if unattended {
            model = Metered::over(model, self);
        }
        let place = self.place_of(name, &transcript.header().root).await?;
        let turn = transcript.turn() + 1;
        let mut heard = self.listener(name, turn, lane, keys)?;
        heard.joined = first.iter().any(|one| matches!(one.origin, Origin::Other(_)));
        let telling = lane.first_telling();
        let faults = transcript.take_notices();
        for text in faults.into_iter().filter(|_| telling) {
            heard.event(Event::Notice { text });
        }
        let door = HandDoor::open(self.clone(), name)?;
        let mut context = self.sources.within(place.folder.clone());
        // What the workspace remembers of the owner is not for those who may not read it.
        // Where hands cannot be confined none is run, and the owner's sessions go on.
        let narrowed = !self.links(Some(name))?.is_empty();
        if narrowed && !self.has(name, &Item::Read(place.folder.clone())).unwrap_or(false) {
            context = context.safe();
        }
        let hand = self.hand(&door, &place, name)?;
        self.state.begin(name, turn)?;
        for incoming in &mut first {
            self.unpack(&place, name, incoming).await?;
        }
        let mut agent = self.agent(&*model, &hand, &context, interrupt, &mut heard)?;
        let ended = agent.turn(&mut transcript, first).await;
        hand.leave().await;
        if guarded && place.folder == self.settings.home.workspace() {
            let trailers = vec![("Session", name.to_owned()), ("Turn", turn.to_string())];
            let whose = format!("turn {turn} of session {name}, which {origin} began,");
            let note = self.guard_memory(&whose, trailers).await;
            note.map_or(Ok(()), |note| transcript.record_note(&note))?;
        }
        self.state.used((name, turn), (&origin, unattended), model.name(), heard.usage)?;
        self.say_unpriced(unattended, model.name(), heard.usage);
        if heard.joined {
            self.pass_on(name, turn)?;
        }
        // Where its changes could not be saved, the next start still has to know whose they are.
        if ended.is_ok() && !place.snapshots.writers().owes(name) {
            self.state.finish(name)?;
        }
        self.back_up_soon();
        self.index_soon();
        self.always.look.notify_one();
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
                let turn = (name, transcript.turn());
                self.state.used(turn, (&Origin::Owner, false), model.name(), *usage)
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
            inbox: hands,
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
