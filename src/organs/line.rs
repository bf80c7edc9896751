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
        let (parent, origin) = match caller {
            Caller::Owner => (None, Origin::Owner),
            Caller::Hand(own) => (Some(own.clone()), Origin::Agent(own.clone())),
        };
        self.create_session(&session, parent, model.as_deref()).await?;
        // Somebody else may have made one of this name meanwhile.
        anyhow::ensure!(
            self.reaches(caller, &session),
            "session {session} was just started by another; name a new one"
        );
        anyhow::ensure!(!answers.is_closed(), "whoever said it is gone");
        let incoming = Incoming { key: key.clone(), origin, text };
        let lane = self.lane(&session);
        let mut heard = lane.watch();
        self.state.receive(&Waiting { incoming, steer, model }, &session)?;
        if !(steer && lane.busy()) {
            let host = self.clone();
            let (session, lane, key) = (session.clone(), lane.clone(), key.clone());
            tokio::spawn(async move { host.drain(&session, &lane, Some(key)).await });
        }
        let mut steered_into = false;
        loop {
            let heard = tokio::select! {
                heard = heard.recv() => heard,
                () = answers.closed() => None,
            };
            let Some(Heard { keys, what }) = heard else { break };
            // A message that steered a turn is answered by that turn.
            steered_into |= steer && lane.busy();
            let own = keys.contains(&key);
            let (answer, last) = match what {
                What::Failed(why, exit) if own => (Answer::Refused { why, exit }, true),
                What::Event(event) if own || steered_into => {
                    let last = matches!(event, Event::TurnEnded { .. });
                    (Answer::Event(event), last)
                }
                _ => continue,
            };
            if answers.send(answer).is_err() || last {
                break;
            }
        }
        if answers.is_closed() && *caller != Caller::Owner {
            // The tool call that asked is over: nobody waits for this answer any more.
            self.take_back(&key)?;
        }
        Ok(())
    }

    /// Take a message out of the line, or stop the turn that answers it.
    pub(super) fn take_back(&self, key: &str) -> Result<()> {
        if self.lanes().iter().any(|(_, lane)| lane.stop_answering(key)) {
            return Ok(());
        }
        if let Some(session) = self.state.take_back(key)? {
            let why = "taken back before its turn came".to_owned();
            let what = What::Failed(why, exit::INTERRUPTED);
            self.lane(&session).tell(&[key.to_owned()].into(), &what);
        }
        Ok(())
    }

    /// Run turns until nothing waits for this session. `key` is of the message that asks
    /// for it, if one does.
    pub(super) async fn drain(self: Arc<Self>, session: &str, lane: &Lane, key: Option<String>) {
        let _turn = lane.gate.lock().await;
        let mut stopped = false;
        loop {
            let waiting = match self.state.waiting(session) {
                Ok(waiting) => waiting,
                Err(error) => {
                    let what = What::Failed(format!("{error:#}"), exit::FAILED);
                    return lane.tell(&key.into_iter().collect(), &what);
                }
            };
            // What was to steer a turn that was stopped waits for the next word.
            if waiting.is_empty() || stopped && waiting.iter().all(|one| one.steer) {
                return;
            }
            let batch = next_batch(waiting);
            let keys: Arc<[String]> = batch.iter().map(|one| one.incoming.key.clone()).collect();
            let interrupt = lane.begin(&keys);
            let ended = self.turn(session, lane, &keys, interrupt, batch).await;
            lane.finish();
            let why = match ended {
                Ok(Some(end)) => {
                    stopped = end == End::Interrupted;
                    continue;
                }
                Ok(None) => {
                    "it was said already, and the turn it began was interrupted; what was finished is kept".to_owned()
                }
                Err(error) => format!("the turn could not be carried on: {error:#}"),
            };
            lane.tell(&keys, &What::Failed(why, exit::FAILED));
            // Whoever asked knows: what cannot be answered must not block the line.
            if let Err(error) = keys.iter().try_for_each(|key| self.state.taken(key)) {
                let what = What::Failed(format!("{error:#}"), exit::FAILED);
                return lane.tell(&key.into_iter().collect(), &what);
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
