//! Requests, each given to whoever does it, and their last words.
//!
//! Owns that a request is checked before anything is done about it, that it gets exactly one
//! last word, and that no answer names a secret. Knows neither doors nor how anything is done.

use std::sync::Arc;

use anyhow::Result;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::kernel::session::Session;
use crate::organs::asked::blocking;
use crate::organs::history::branch;
use crate::organs::host::{Ending, Host};
use crate::organs::line::Saying;
use crate::organs::models::NoModel;
use crate::organs::sessions::{self, BadName};
use crate::organs::verb::{Answer, Caller, Verb, exit};
use crate::organs::{report, wirelog};

impl Host {
    /// Answer a request. The receiver gets `Done` or `Refused` last.
    pub fn ask(self: &Arc<Self>, caller: Caller, verb: Verb) -> UnboundedReceiver<Answer> {
        let (answers, receiver) = unbounded_channel();
        let host = self.clone();
        tokio::spawn(async move {
            let last = match host.answer(&caller, verb, &answers).await {
                Ok(()) => Answer::Done,
                Err(error) if error.is::<Ending>() => return,
                Err(error) => {
                    let exit = match error.downcast_ref::<NoModel>() {
                        Some(NoModel::Nothing | NoModel::Absent(_)) => exit::NO_MODEL,
                        Some(NoModel::Unusable(_)) => exit::USAGE,
                        None if error.is::<BadName>() || error.is::<branch::BadName>() => {
                            exit::USAGE
                        }
                        None => exit::FAILED,
                    };
                    Answer::Refused { why: host.withheld.text(format!("{error:#}")), exit }
                }
            };
            // An asker who went away needs no last word.
            let _ = answers.send(last);
        });
        receiver
    }

    async fn answer(
        self: &Arc<Self>,
        caller: &Caller,
        verb: Verb,
        answers: &UnboundedSender<Answer>,
    ) -> Result<()> {
        self.check(caller, &verb)?;
        let value = match verb {
            Verb::Run { session, text, key, model, steer, branch, only, files } => {
                let saying = Saying { session, branch, only, text, key, model, steer, files };
                return self.run(caller, saying, answers).await;
            }
            Verb::History(ask) => self.history(caller, ask, answers).await?,
            Verb::Watch { session, answers: able } => {
                // A hand that watches is not somebody who can answer.
                let able = able && *caller == Caller::Owner;
                return self.watch_for(&session, able, answers).await;
            }
            Verb::Ask { item, why, seconds } => {
                self.ask_for(caller, (item, &why, seconds), answers).await?
            }
            Verb::Answer { id, said } => self.settle(caller, id, said).await?,
            Verb::Asks => serde_json::to_value(self.asks(caller)?)?,
            Verb::TakeBack { key } => {
                self.take_back(&key)?;
                return Ok(());
            }
            Verb::Stop { session } => {
                let mut stopped = self.stop(|name| match &session {
                    Some(session) => name == session,
                    None => self.reaches(caller, name),
                });
                if session.is_none() && *caller == Caller::Owner {
                    stopped.extend(self.always.runs.interrupt());
                }
                serde_json::json!({ "stopped": stopped })
            }
            Verb::Sessions => {
                let home = self.home().clone();
                let mut list = blocking(move || sessions::list(&home)).await?;
                list.retain(|one| self.reaches(caller, &one.name));
                for one in &mut list {
                    one.running = self.runs_for(&one.name);
                }
                serde_json::to_value(list)?
            }
            Verb::End { session } => {
                anyhow::ensure!(
                    !self.lane(&session).busy(),
                    "session {session} has a turn under way; stop it first, with: fledgling stop {session}"
                );
                let path = self.existing(&session)?;
                let mut transcript = Session::open(&path)?;
                if !transcript.ended() {
                    transcript.record_ended()?;
                }
                let dropped = self.drop_waiting(&session)?;
                serde_json::json!({ "ended": session, "dropped": dropped })
            }
            Verb::Wire { session, turn } => {
                let session = self.subject(caller, session)?;
                serde_json::to_value(wirelog::read(&self.settings.home.wire(), &session, turn)?)?
            }
            Verb::Recording { session, from } => self.recording(caller, session, from).await?,
            Verb::Usage { since, days } => self.usage(caller, since, days)?,
            Verb::Recall(wanted) => serde_json::to_value(self.recall(caller, wanted).await?)?,
            Verb::About { session } => {
                let session = self.subject(caller, session).ok();
                report::about(self, session.as_deref()).await?
            }
            Verb::Policy { session } => {
                let session = self.subject(caller, session).ok();
                serde_json::to_value(self.reach_of(session.as_deref())?)?
            }
            Verb::Background { terminal } => return self.watch_background(terminal, answers).await,
            Verb::Status => serde_json::to_value(self.status(caller)?)?,
            Verb::At { session, when, text } => self.remind_at(caller, session, &when, &text)?,
            Verb::Agenda => self.agenda(caller)?,
            Verb::Cancel { id } => self.cancel(caller, id)?,
            Verb::Tell { session, channel, text, files } => {
                self.send_words(caller, (session, channel), &text, &files)?
            }
            Verb::Pair { code, person, only, answers } => {
                self.pair(&code, person, only.map(|link| *link), answers)?
            }
            Verb::Unpair { channel, person } => self.unpair(&channel, &person)?,
            Verb::People => self.people()?,
            Verb::Service { name, restart } => self.service(caller, &name, restart)?,
            Verb::Check { name } => self.check_service(caller, &name).await?,
            Verb::Grant { items, give } => self.grant(&items, give)?,
            Verb::Compact { session } => self.compact(&session).await?,
            Verb::Secret { name, value } => self.secret(&name, value)?,
            Verb::Secrets => self.secrets(),
            Verb::Choose { session, model } => {
                let found = self.model(&model).await?;
                self.state.choose(&session, &model)?;
                serde_json::json!({ "model": found.name() })
            }
        };
        let _ = answers.send(Answer::Value(self.withheld.json(value)));
        Ok(())
    }
}
