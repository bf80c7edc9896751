//! Messages in line: from the asker into the inbox, into a turn, and its answer back.
//!
//! Owns the order: a message is in the inbox before anything is done about it, the turns
//! of one session come one after the other, and a message that may steer joins the turn
//! under way. Knows neither doors nor how a turn is run.

use std::sync::Arc;

use anyhow::Result;
use tokio::sync::mpsc::UnboundedSender;

use crate::kernel::border::Inbox;
use crate::kernel::event::{End, Event};
use crate::kernel::message::{Incoming, Origin};
use crate::organs::host::Host;
use crate::organs::lane::{Heard, Lane, What};
use crate::organs::sessions;
use crate::organs::state::Waiting;
use crate::organs::verb::{Answer, Caller, exit};

/// What somebody says; the fields of `Verb::Run`.
#[derive(Debug)]
pub(super) struct Saying {
    pub session: Option<String>,
    pub text: String,
    pub key: String,
    pub model: Option<String>,
    pub steer: bool,
}

impl Host {
    /// Say something in a session, and pass on what happens until it is answered.
    pub(super) async fn run(
        self: &Arc<Self>,
        caller: &Caller,
        saying: Saying,
        answers: &UnboundedSender<Answer>,
    ) -> Result<()> {
        let Saying { session, text, key, model, steer } = saying;
        let home = &self.settings.home;
        let session = session.map_or_else(|| sessions::fresh_name(home), Ok)?;
        sessions::check_name(&session)?;
        let (parent, origin) = match caller {
            Caller::Owner => (None, Origin::Owner),
            Caller::Hand(own) => (Some(own.clone()), Origin::Agent(own.clone())),
        };
        self.create_session(&session, parent, model.as_deref()).await?;
        let incoming = Incoming { key: key.clone(), origin, text };
        let lane = self.lane(&session);
        let mut heard = lane.watch();
        self.state.receive(&Waiting { incoming, steer, model }, &session)?;
        if !(steer && lane.busy()) {
            let host = self.clone();
            let (session, lane) = (session.clone(), lane.clone());
            tokio::spawn(async move { host.drain(&session, &lane).await });
        }
        let mut steered_into = false;
        while let Some(Heard { keys, what }) = heard.recv().await {
            // A message that steered a turn is answered by that turn.
            steered_into |= steer && lane.busy();
            if !keys.contains(&key) && !steered_into {
                continue;
            }
            let (answer, last) = match what {
                What::Failed(why, exit) => (Answer::Refused { why, exit }, true),
                What::Event(event) => {
                    let last = matches!(event, Event::TurnEnded { .. });
                    (Answer::Event(event), last)
                }
            };
            let gone = answers.send(answer).is_err();
            if gone && *caller != Caller::Owner {
                // The tool call that asked is over: nobody waits for this turn any more.
                lane.stop();
            }
            if gone || last {
                break;
            }
        }
        Ok(())
    }

    /// Run turns until nothing waits for this session.
    pub(super) async fn drain(self: Arc<Self>, session: &str, lane: &Lane) {
        let _turn = lane.gate.lock().await;
        let mut stopped = false;
        loop {
            let waiting = match self.state.waiting(session) {
                Ok(waiting) => waiting,
                Err(error) => {
                    return lane
                        .tell(&[].into(), &What::Failed(format!("{error:#}"), exit::FAILED));
                }
            };
            // What was to steer a turn that was stopped waits for the next word.
            if waiting.is_empty() || stopped && waiting.iter().all(|one| one.steer) {
                return;
            }
            let batch = next_batch(waiting);
            let keys: Arc<[String]> = batch.iter().map(|one| one.incoming.key.clone()).collect();
            match self.turn(session, lane, &keys, batch).await {
                Ok(end) => stopped = end == Some(End::Interrupted),
                Err(error) => {
                    let why = format!("the turn could not be carried on: {error:#}");
                    return lane.tell(&keys, &What::Failed(why, exit::FAILED));
                }
            }
        }
    }
}

/// What the next turn answers: the steering messages at the head of the line and the
/// first other one.
fn next_batch(mut waiting: Vec<Waiting>) -> Vec<Waiting> {
    let first_own = waiting.iter().position(|one| !one.steer);
    waiting.truncate(first_own.map_or(waiting.len(), |at| at + 1));
    waiting
}

impl Inbox for Host {
    fn steering(&self, session: &str) -> Result<Vec<Incoming>> {
        let waiting = self.state.waiting(session)?.into_iter();
        Ok(waiting.take_while(|one| one.steer).map(|one| one.incoming).collect())
    }

    fn taken(&self, key: &str) -> Result<()> {
        self.state.taken(key)
    }
}
