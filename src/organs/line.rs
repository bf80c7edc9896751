//! Messages in line: from the asker into the inbox, into a turn, and its answer back.
//!
//! Owns the order: a message is in the inbox before anything is done about it, the turns
//! of one session come one after the other, and a message that may steer joins the turn
//! under way. Knows neither doors nor how a turn is run.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, Weak};

use anyhow::Result;
use tokio::sync::mpsc::UnboundedSender;

use crate::guard::policy::Link;
use crate::kernel::border::Inbox;
use crate::kernel::event::{End, Event};
use crate::kernel::message::{Incoming, Origin};
use crate::kernel::model::Boxed;
use crate::organs::hands::Watched;
use crate::organs::host::{Ending, Host, Phase};
use crate::organs::lane::{Heard, Lane, What, lock};
use crate::organs::state::Waiting;
use crate::organs::verb::{Answer, Caller, exit};

/// Why a message that is taken back has no answer.
const TAKEN_BACK: &str = "taken back before its turn came";

/// What somebody says; the fields of `Verb::Run`.
#[derive(Debug)]
pub(super) struct Saying {
    pub session: Option<String>,
    /// The branch to work on instead of in the workspace.
    pub branch: Option<String>,
    /// The link by which it may do less, where it begins.
    pub only: Option<Box<Link>>,
    pub text: String,
    pub key: String,
    pub model: Option<String>,
    pub steer: bool,
    pub files: Vec<PathBuf>,
}

/// Somebody who said something and waits for what comes of it.
#[derive(Debug)]
pub(super) struct Asker {
    key: String,
    /// None while a new one is to be found.
    session: Option<String>,
    stage: Mutex<Stage>,
}

/// How far a message has come.
#[derive(Debug, PartialEq, Eq)]
enum Stage {
    /// On its way into the inbox.
    Coming,
    /// Taken back on that way.
    Withdrawn,
    /// In the inbox, or out of it again.
    Received,
}

impl Asker {
    /// Take back a message that is not in the inbox yet. Whether it was not.
    fn withdraw(&self) -> bool {
        let mut stage = lock(&self.stage);
        let coming = *stage == Stage::Coming;
        if coming {
            *stage = Stage::Withdrawn;
        }
        coming
    }
}

impl Host {
    /// Say something in a session, and pass on what happens until it is answered.
    pub(super) async fn run(
        self: &Arc<Self>,
        caller: &Caller,
        saying: Saying,
        answers: &UnboundedSender<Answer>,
    ) -> Result<()> {
        let Saying { session, branch, only, text, key, model, steer, files } = saying;
        let asker = self.admit(&key, session.clone());
        let (parent, origin) = match caller {
            Caller::Owner => (None, Origin::Owner),
            Caller::Hand(own) => (Some(own.clone()), Origin::Agent(own.clone())),
        };
        // Of a host that ends, or of an empty budget, a hand would wait for long.
        if *caller != Caller::Owner {
            anyhow::ensure!(
                self.phase() == Phase::Open,
                "fledgling is about to end; try again later"
            );
            if self.is_unattended(&origin) {
                self.check_budget()?;
            }
            // Somebody's chat is about to begin it, and would go on in the hand's.
            let begins = |name: &&String| !self.settings.home.transcript(name).exists();
            let talk = session.as_ref().filter(begins).map(|name| self.state.talk(name));
            let talk = talk.transpose()?.flatten();
            anyhow::ensure!(talk.is_none(), "that name is a chat's; choose another one");
        }
        // What waits already has its files.
        let files = if self.state.is_waiting(&key)? { Vec::new() } else { files };
        let files = self.enclose(self.named(caller, &files)?).await?;
        let files = files.into_iter().collect::<Result<Vec<_>>>()?;
        let session = self
            .create_session(
                session,
                parent,
                branch.as_deref(),
                only.map(|link| *link),
                model.as_deref(),
            )
            .await?;
        // Somebody else may have made one of this name meanwhile.
        anyhow::ensure!(
            self.reaches(caller, &session),
            "session {session} was just started by another; name a new one"
        );
        anyhow::ensure!(
            !answers.is_closed(),
            "whoever said it did not wait for the turn, so it was not begun"
        );
        if *lock(&asker.stage) == Stage::Withdrawn {
            let why = TAKEN_BACK.to_owned();
            let _ = answers.send(Answer::Refused { why, exit: exit::INTERRUPTED });
            return Ok(());
        }
        if let Some(name) = self.withheld.finds(text.as_bytes()) {
            let text = format!(
                "The value of the secret {name} was taken out of the message: nobody sees it, and nothing keeps it."
            );
            let _ = answers.send(Answer::Event(Event::Notice { text }));
        }
        let incoming = Incoming {
            key: key.clone(),
            origin,
            text: self.withheld.text(text),
            images: Vec::new(),
        };
        let (lane, mut heard) = self.watch(&session, false)?;
        self.state.receive_with(&Waiting { incoming, steer, model }, &files, &session)?;
        *lock(&asker.stage) = Stage::Received;
        if !(steer && lane.busy()) {
            let host = self.clone();
            let (session, lane, key) = (session.clone(), lane.clone(), key.clone());
            tokio::spawn(async move { host.drain(&session, &lane, Some(key)).await });
        }
        let mut steered_into = false;
        loop {
            let heard = tokio::select! {
                heard = heard.recv() => heard.ok_or(Ending)?,
                () = answers.closed() => break,
            };
            let Heard { keys, what } = heard;
            // A message that steered a turn is answered by that turn.
            steered_into |= steer && lane.busy();
            let own = keys.contains(&key);
            let (answer, last) = match what {
                What::Failed(why, exit) if own => {
                    let why = self.withheld.text(why);
                    (Answer::Refused { why, exit }, true)
                }
                What::Event(event) if own || steered_into => {
                    let last = matches!(event, Event::TurnEnded { .. });
                    (Answer::Event(event), last)
                }
                What::Asked(request) if own || steered_into => (Answer::Asked(request), false),
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

    /// Somebody says something: remembered as long as the answer is held.
    fn admit(&self, key: &str, session: Option<String>) -> Arc<Asker> {
        let stage = Mutex::new(Stage::Coming);
        let asker = Arc::new(Asker { key: key.to_owned(), session, stage });
        let mut askers = lock(&self.askers);
        askers.retain(|asker| asker.strong_count() > 0);
        askers.push(Arc::downgrade(&asker));
        asker
    }

    /// Whether somebody waits for what comes of the message with this key.
    fn is_awaited(&self, key: &str) -> bool {
        lock(&self.askers).iter().filter_map(Weak::upgrade).any(|asker| asker.key == key)
    }

    /// Stop these sessions' turns, and take back what is on its way into them. The names of
    /// those that had any.
    pub(super) fn stop(&self, wanted: impl Fn(&str) -> bool) -> Vec<String> {
        let lanes = self.lanes().into_iter();
        let stopped = lanes.filter(|(name, lane)| wanted(name) && lane.stop());
        let mut stopped: Vec<_> = stopped.map(|(name, _)| name).collect();
        stopped.extend(self.withdraw_from(wanted));
        stopped
    }

    /// Drop all that waits for a session, and tell those who asked. How many it were.
    pub(super) fn drop_waiting(&self, session: &str) -> Result<usize> {
        let waiting = self.state.waiting(session)?;
        waiting.iter().try_for_each(|one| self.take_back(&one.incoming.key))?;
        Ok(waiting.len())
    }

    /// Take back what is on its way into these sessions. The sessions' names.
    fn withdraw_from(&self, wanted: impl Fn(&str) -> bool) -> Vec<String> {
        let askers = lock(&self.askers);
        let named = askers.iter().filter_map(Weak::upgrade).filter_map(|asker| {
            let session = asker.session.clone()?;
            (wanted(&session) && asker.withdraw()).then_some(session)
        });
        named.collect()
    }

    /// Take a message out of the line, or stop the turn that answers it.
    pub(super) fn take_back(&self, key: &str) -> Result<()> {
        if self.lanes().iter().any(|(_, lane)| lane.stop_answering(key)) {
            return Ok(());
        }
        let askers: Vec<_> = lock(&self.askers).iter().filter_map(Weak::upgrade).collect();
        if askers.iter().any(|asker| asker.key == key && asker.withdraw()) {
            return Ok(());
        }
        if let Some(session) = self.state.take_back(key)? {
            let what = What::Failed(TAKEN_BACK.to_owned(), exit::INTERRUPTED);
            self.lane(&session).tell(&[key.to_owned()].into(), &what);
        }
        Ok(())
    }

    /// Run turns until nothing waits for this session. `key` is of the message that asks
    /// for it, if one does.
    pub(super) async fn drain(self: Arc<Self>, session: &str, lane: &Lane, key: Option<String>) {
        let _turn = lane.gate.lock().await;
        let mut stopped = false;
        // What could not be answered and nobody waits for: it stays for the next word.
        let mut aside: Vec<String> = Vec::new();
        while self.phase() == Phase::Open {
            let mut waiting = match self.state.waiting(session) {
                Ok(waiting) => waiting,
                Err(error) => {
                    let what = What::Failed(format!("{error:#}"), exit::FAILED);
                    return lane.tell(&key.into_iter().collect(), &what);
                }
            };
            waiting.retain(|one| !aside.contains(&one.incoming.key));
            for key in self.hold_back(&mut waiting) {
                if self.is_awaited(&key)
                    && let Err(why) = self.check_budget()
                {
                    let what = What::Failed(format!("{why:#}"), exit::FAILED);
                    lane.tell(&[key.clone()].into(), &what);
                    // Whoever is told knows.
                    let _ = self.state.taken(&key);
                }
            }
            // What was to steer a turn that was stopped waits for the next word. In a chat
            // stopping is done by a word, and what follows it is one.
            let waits =
                |one: &Waiting| one.steer && !matches!(one.incoming.origin, Origin::Other(_));
            if waiting.is_empty() || stopped && waiting.iter().all(waits) {
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
            // What cannot be answered must not block the line. Whoever is told knows.
            let (told, unheard): (Vec<_>, Vec<_>) =
                keys.iter().cloned().partition(|key| self.is_awaited(key));
            lane.tell(&keys, &What::Failed(why.clone(), exit::FAILED));
            if let Err(error) = told.iter().try_for_each(|key| self.state.taken(key)) {
                let what = What::Failed(format!("{error:#}"), exit::FAILED);
                return lane.tell(&key.into_iter().collect(), &what);
            }
            if !unheard.is_empty() {
                let text = format!("What waited in session {session} was not answered: {why}");
                self.unanswered(session, &unheard, &why);
                let what = What::Event(Event::Notice { text });
                lane.tell(&key.iter().cloned().collect(), &what);
                aside.extend(unheard);
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

impl Inbox for Watched<'_> {
    fn steering<'a>(&'a self, session: &'a str) -> Boxed<'a, Result<Vec<Incoming>>> {
        Box::pin(async move {
            // A turn that is told to stop takes nothing more along.
            if self.host.lane(session).is_stopping() {
                return Ok(Vec::new());
            }
            let waiting = self.host.state.waiting(session)?.into_iter();
            let mut steering: Vec<_> =
                waiting.take_while(|one| one.steer).map(|one| one.incoming).collect();
            for incoming in &mut steering {
                self.host.unpack(self.place, session, incoming).await?;
            }
            Ok(steering)
        })
    }

    fn taken(&self, key: &str) -> Result<()> {
        self.host.state.taken(key)
    }
}
