//! What a client waits for: a turn, or a command.
//!
//! Owns that each prompt is answered once, after all that was to be shown of it, and what a
//! cancel does. Each is a turn of its own: one that finds another turn of its conversation under
//! way, here or elsewhere, waits for its own, so that a cancel never stops somebody else's. They
//! come in the order in which they were said, whatever comes along with one and has to be kept.

use serde_json::{Value, json};
use tokio::task::AbortHandle;

use crate::face::acp::content::{Attached, Said, command, said};
use crate::face::acp::protocol::{FAILED, Fault, Prompted};
use crate::face::acp::updates::{agent, stopped, thought};
use crate::face::acp::{Acp, Of, commands};
use crate::kernel::event::{End, Event};
use crate::organs::verb::{self, Answer, Verb, exit};

/// Something that a client waits for.
pub(super) struct Prompt {
    /// The request's id.
    pub(super) id: Value,
    pub(super) session: String,
    verb: Verb,
    work: Work,
    cancelled: bool,
    /// None where it is not the host's yet.
    listening: Option<AbortHandle>,
    /// Files that go with it.
    _attached: Attached,
}

/// What it is.
enum Work {
    /// A turn, by the key of the message.
    Turn { key: String, begun: bool, ended: Option<(u64, End, String)> },
    /// A command, by its name, and what came of it.
    Command { name: String, value: Value },
}

impl Prompt {
    /// Whether it waits here for one before it.
    pub(super) fn is_held(&self) -> bool {
        self.listening.is_none()
    }
}

impl Drop for Prompt {
    fn drop(&mut self) {
        self.listening.iter().for_each(AbortHandle::abort);
    }
}

/// The answer of a prompt that stopped for this reason.
pub(super) fn ended(reason: &str) -> Value {
    json!({"stopReason": reason})
}

impl Acp {
    /// `session/prompt`.
    pub(super) async fn prompt(&mut self, id: &Value, prompted: Prompted) -> Result<(), Fault> {
        let Prompted { session_id: session, prompt } = prompted;
        self.opened(&session)?;
        if let Some(line) = command(&prompt) {
            return self.command(id, &session, line).await;
        }
        // This thread may be a host's, and a large picture takes its time.
        let said = tokio::task::spawn_blocking(move || said(prompt)).await;
        let Said { text, attached } = said.map_err(anyhow::Error::from)??;
        let open = self.opened(&session)?;
        let text = text + &open.note.take().unwrap_or_default();
        open.view.say(&text);
        let (model, key, named) = (open.model.clone(), verb::fresh_key(), Some(session.clone()));
        let verb = Verb::Run {
            session: named,
            text,
            key: key.clone(),
            model,
            steer: false,
            branch: None,
            only: None,
            files: attached.files.clone(),
        };
        let work = Work::Turn { key, begun: false, ended: None };
        self.wait_for(id, session.clone(), verb, work, attached);
        self.put_next(&session).await;
        Ok(())
    }

    /// Do what a command asks of the host.
    pub(super) async fn do_command(&mut self, id: &Value, session: &str, name: &str, verb: Verb) {
        let work = Work::Command { name: name.to_owned(), value: Value::Null };
        let number = self.wait_for(id, session.to_owned(), verb, work, Attached::default());
        self.put(number).await;
    }

    fn wait_for(
        &mut self,
        id: &Value,
        session: String,
        verb: Verb,
        work: Work,
        attached: Attached,
    ) -> u64 {
        let (number, id, cancelled, listening) = (self.number(), id.clone(), false, None);
        let prompt = Prompt { id, session, verb, work, cancelled, listening, _attached: attached };
        self.prompts.insert(number, prompt);
        number
    }

    /// Put a prompt before the host.
    async fn put(&mut self, number: u64) {
        let Some(verb) = self.prompts.get(&number).map(|prompt| prompt.verb.clone()) else {
            return;
        };
        match self.link.ask(verb).await {
            Ok(answers) => {
                let listening = self.listen(answers, Of::Prompt(number));
                if let Some(prompt) = self.prompts.get_mut(&number) {
                    prompt.listening = Some(listening);
                }
            }
            Err(error) => self.end(number, Err(format!("{error:#}"))),
        }
    }

    /// Put the next message of a conversation before the host, when a turn took the one before.
    async fn put_next(&mut self, session: &str) {
        let waits = |prompt: &Prompt| {
            let waits = matches!(prompt.work, Work::Turn { begun: false, ended: None, .. });
            waits && prompt.session == session
        };
        while let Some((number, prompt)) = self.prompts.iter().find(|(_, prompt)| waits(prompt))
            && prompt.is_held()
        {
            self.put(*number).await;
        }
    }

    /// Something came of a prompt. What happens in a turn is heard by watching its session; here
    /// counts how it ends.
    pub(super) async fn answered(&mut self, number: u64, answer: Answer) {
        let Some(prompt) = self.prompts.get_mut(&number) else { return };
        let session = prompt.session.clone();
        match (answer, &mut prompt.work) {
            (Answer::Refused { exit: exit::INTERRUPTED, .. }, _) => {
                self.end(number, Ok("cancelled"));
            }
            (Answer::Refused { why, .. }, Work::Turn { .. }) => self.end(number, Err(why)),
            (Answer::Refused { why, .. }, Work::Command { .. }) => {
                let said = commands::complaint(&anyhow::Error::msg(why));
                self.update(&session, &agent(&said));
                self.end(number, Ok("end_turn"));
            }
            (Answer::Event(Event::TurnStarted { .. }), Work::Turn { begun, key, .. }) => {
                *begun = true;
                if prompt.cancelled {
                    // The cancel came before the host had heard of it.
                    let verb = Verb::TakeBack { key: key.clone() };
                    let _ = self.link.ask(verb).await;
                }
            }
            (Answer::Event(Event::TurnEnded { turn, end, why, .. }), Work::Turn { ended, .. }) => {
                *ended = Some((turn, end, why));
                self.end_prompts(&session);
            }
            // In a turn it is heard by all who watch.
            (
                Answer::Event(Event::Notice { text }),
                Work::Turn { begun: false, .. } | Work::Command { .. },
            ) => {
                self.update(&session, &thought(&format!("{text}\n")));
            }
            (Answer::Value(said), Work::Command { value, .. }) => *value = said,
            (Answer::Done, Work::Command { name, value }) => {
                let said = commands::shown(name, &prompt.verb, value);
                self.update(&session, &agent(&said));
                self.end(number, Ok("end_turn"));
            }
            (Answer::Done, Work::Turn { ended: None, .. }) => {
                self.end(number, Err("the host did not say how the turn ended".to_owned()));
            }
            _ => {}
        }
        self.put_next(&session).await;
    }

    /// Answer the prompts of a session whose turns were shown to their end.
    pub(super) fn end_prompts(&mut self, session: &str) {
        let Ok(shown) = self.opened(session).map(|open| open.shown) else { return };
        let over = |(number, prompt): (&u64, &Prompt)| match &prompt.work {
            Work::Turn { ended: Some((turn, end, why)), .. }
                if prompt.session == session && *turn <= shown =>
            {
                Some((*number, *end, why.clone()))
            }
            _ => None,
        };
        let over: Vec<_> = self.prompts.iter().filter_map(over).collect();
        for (number, end, why) in over {
            let stopped = stopped(end, &why);
            if let (End::Failed, Ok(_)) = (end, &stopped) {
                self.update(session, &thought(&format!("The turn ended here: {why}.\n")));
            }
            self.end(number, stopped);
        }
    }

    fn end(&mut self, number: u64, how: Result<&'static str, String>) {
        let Some(prompt) = self.prompts.remove(&number) else { return };
        if let (Some(open), Verb::Run { text, .. }) =
            (self.sessions.get_mut(&prompt.session), &prompt.verb)
        {
            open.view.said(text);
        }
        let answer = match how {
            // Whoever cancelled gets to hear that, whatever came of it.
            _ if prompt.cancelled => Ok(ended("cancelled")),
            Ok(reason) => Ok(ended(reason)),
            Err(why) => Err(Fault::new(FAILED, why)),
        };
        let id = prompt.id.clone();
        // What came along is gone before the client hears that it is over.
        drop(prompt);
        self.answer(&id, answer);
    }

    /// Stop what these prompts wait for: the latest first, so that none takes the place of one
    /// that is stopped.
    pub(super) async fn cancel(&mut self, which: impl Fn(&Prompt) -> bool) {
        let chosen = self.prompts.iter_mut().rev().filter(|(_, prompt)| which(prompt));
        let mut stops = Vec::new();
        for (number, prompt) in chosen {
            prompt.cancelled = true;
            let session = Some(prompt.session.clone());
            stops.push((
                *number,
                match (&prompt.work, &prompt.verb) {
                    (Work::Turn { .. }, _) if prompt.is_held() => None,
                    (Work::Turn { key, .. }, _) => Some(Verb::TakeBack { key: key.clone() }),
                    (Work::Command { .. }, Verb::Compact { .. }) => Some(Verb::Stop { session }),
                    (Work::Command { .. }, _) => None,
                },
            ));
        }
        for (number, verb) in stops {
            match verb {
                Some(verb) => {
                    // A host that has just ended stopped it.
                    if let Ok(mut answers) = self.link.ask(verb).await {
                        while answers.recv().await.is_some() {}
                    }
                }
                // It was not asked for yet, or what lasts ends with those who wait for it.
                None => self.end(number, Ok("cancelled")),
            }
        }
    }

    /// The host ended: what it was asked is asked of the next one. A key keeps a message from
    /// being said twice; a command has none.
    pub(super) async fn ask_again(&mut self) {
        let numbers: Vec<_> = self.prompts.keys().copied().collect();
        for number in numbers {
            let Some(prompt) = self.prompts.get_mut(&number) else { continue };
            prompt.listening = None;
            match &mut prompt.work {
                Work::Turn { ended: Some((_, end, why)), .. } => {
                    let stopped = stopped(*end, why);
                    self.end(number, stopped);
                }
                _ if prompt.cancelled => self.end(number, Ok("cancelled")),
                Work::Command { .. } => {
                    let why =
                        "the running fledgling ended before it answered; look what came of it"
                            .to_owned();
                    self.end(number, Err(why));
                }
                Work::Turn { begun, .. } => *begun = false,
            }
        }
        let sessions: Vec<_> = self.sessions.keys().cloned().collect();
        for session in sessions {
            self.put_next(&session).await;
        }
    }
}
