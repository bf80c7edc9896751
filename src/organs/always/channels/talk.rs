//! What a message from a chat leads to: a turn of its session, or a command.
//!
//! Owns what each command does and says, and what people may do from where: a paired owner may
//! talk, stop, undo; whoever else is paired, the same within their own sessions; a chat that the
//! owner marked may say yes or no to a request, and nothing more. Knows no process.

use std::sync::Arc;

use anyhow::{Result, ensure};
use serde_json::Value;
use tokio::sync::mpsc::unbounded_channel;

use crate::organs::always::background::Kind;
use crate::organs::always::channels::commands::Command;
use crate::organs::always::channels::contract::Inbound;
use crate::organs::always::channels::people::{Admitted, Speaker, Standing, key};
use crate::organs::always::outbox::Letter;
use crate::organs::history::ask::{Ask, Undone, Which};
use crate::organs::host::Host;
use crate::organs::prices::Dollars;
use crate::organs::reach::asks::Said;
use crate::organs::sessions;
use crate::organs::verb::{Caller, Verb};

/// What can be typed in a chat.
const HELP: &str = "Write to your agent as you would to a person. While it works, what you write joins in.\n\
    /stop  stop what it does\n\
    /undo  take back its latest changes; /undo 2 for two turns\n\
    /new   begin another conversation; /new TEXT begins it with that\n\
    /status  how things stand";

impl Host {
    /// A message came in. Once this returns it is safe. The person and the session, where it
    /// begins or joins a turn.
    pub(super) async fn hear_message(
        self: &Arc<Self>,
        channel: &str,
        mut message: Inbound,
        now: i64,
    ) -> Result<Option<(String, String)>> {
        message.text = self.withheld.text(message.text);
        self.enclose_inbound(channel, &mut message).await?;
        let home = self.home().clone();
        let standing = |name: &str| {
            let path = home.transcript(name);
            match path.exists().then(|| sessions::ended(&path)) {
                None => Standing::Free,
                Some(Ok(false)) => Standing::Open,
                Some(_) => Standing::Ended,
            }
        };
        let mut admitted = self.state.admit(channel, &message, now, &standing)?;
        if let Admitted::Command(speaker, _) = &mut admitted {
            // Now: what is done about it comes when another service may run.
            speaker.answers = speaker.answers && self.is_vouched_for(channel)?;
        }
        match admitted {
            Admitted::Known | Admitted::Ignored => Ok(None),
            Admitted::Stranger { replied } => {
                if replied {
                    let name = message.name.as_deref().unwrap_or("somebody");
                    let text =
                        format!("{name} ({}) is not paired and was sent a code", message.from);
                    self.happened(Kind::Channel, channel, &text);
                    self.always.mail.notify_one();
                }
                Ok(None)
            }
            Admitted::Said(Speaker { person, session, .. }) => {
                self.wake(&session);
                Ok(Some((person, session)))
            }
            Admitted::Command(speaker, Command::Stop) if self.stop_chat(&speaker)? => Ok(None),
            Admitted::Command(speaker, command) => {
                let words = matches!(&command, Command::New(text)
                    if !text.is_empty() || !message.enclosed.is_empty());
                let waits = words.then(|| (speaker.person.clone(), speaker.session.clone()));
                if words {
                    self.wake(&speaker.session);
                } else {
                    let (host, channel) = (self.clone(), channel.to_owned());
                    tokio::spawn(async move {
                        let said = host.obey(&speaker, command).await;
                        let text = said.unwrap_or_else(|error| format!("{error:#}"));
                        host.reply(&channel, &message, &speaker, text);
                    });
                }
                Ok(waits)
            }
        }
    }

    /// Stop what runs for a chat, at once: what was said before goes with it, and what is said
    /// from now on is answered. Whether there was anything; the turn itself says that it was
    /// stopped.
    fn stop_chat(&self, speaker: &Speaker) -> Result<bool> {
        let waiting = self.state.waiting(&speaker.session)?;
        let said = waiting.iter().filter(|one| one.incoming.key.starts_with("in:"));
        said.map(|one| &one.incoming.key).try_for_each(|key| self.state.taken(key))?;
        Ok(!self.stop(|name| name == speaker.session).is_empty())
    }

    fn reply(&self, channel: &str, message: &Inbound, speaker: &Speaker, text: String) {
        if text.is_empty() {
            return;
        }
        let letter = Letter {
            key: format!("did:{}", key(channel, &message.id)),
            session: Some(speaker.session.clone()),
            to: Some((channel.to_owned(), message.chat.clone())),
            reply_to: speaker.group.then(|| message.id.clone()),
            text: self.withheld.text(text),
            files: Vec::new(),
        };
        if let Err(error) = self.post(&letter) {
            self.fault(Kind::Channel, channel, &format!("{error:#}"));
        }
    }

    /// Do what somebody typed. What is said back; nothing where that comes by itself.
    async fn obey(self: &Arc<Self>, speaker: &Speaker, command: Command) -> Result<String> {
        let Speaker { session, owner, group, .. } = speaker;
        let caller = if *owner && !group { Caller::Owner } else { Caller::Hand(session.clone()) };
        Ok(match command {
            Command::Stop => "Nothing is running.".to_owned(),
            Command::Undo(turns) => {
                let count = usize::try_from(turns).unwrap_or(usize::MAX);
                let ask = Ask::Undo { what: Which::Turns(count), favour: None };
                let undone = self.asked_by(&caller, ask).await?;
                undone_text(&serde_json::from_value(undone)?)
            }
            Command::New(_) => format!("A new conversation: {session}."),
            Command::Status if *owner && !*group => self.short_status(session)?,
            Command::Status => self.busy_text(session),
            Command::Help => {
                let answers =
                    if speaker.answers { "\n/yes N, /no N  answer a request" } else { "" };
                format!("{HELP}{answers}")
            }
            Command::Yes(id) => self.answer_from(speaker, id, Said::Yes).await?,
            Command::No(id) => self.answer_from(speaker, id, Said::No).await?,
            Command::Unclear(usage) => format!("Usage: {usage}"),
        })
    }

    async fn asked_by(self: &Arc<Self>, caller: &Caller, ask: Ask) -> Result<Value> {
        let verb = Verb::History(ask.clone());
        self.check(caller, &verb)?;
        let (answers, _heard) = unbounded_channel();
        self.history(caller, ask, &answers).await
    }

    async fn answer_from(&self, speaker: &Speaker, id: i64, said: Said) -> Result<String> {
        ensure!(
            speaker.answers,
            "requests are not answered from this chat: whoever owns the machine can allow it with `fledgling pair CODE --answers`, which counts until the channel's service changes"
        );
        let settled = self.settle(&Caller::Owner, id, said).await?;
        Ok(settled["said"].as_str().unwrap_or_default().to_owned())
    }

    fn busy_text(&self, session: &str) -> String {
        match self.lane(session).seconds() {
            Some(seconds) => format!("It has worked for {seconds} s on what you said."),
            None => "Nothing is running.".to_owned(),
        }
    }

    fn short_status(&self, session: &str) -> Result<String> {
        let status = self.status(&Caller::Owner)?;
        let mut lines = vec![self.busy_text(session)];
        let failing = status.jobs.iter().filter(|job| job.failures > 0).map(|job| job.name.clone());
        let failing: Vec<_> = failing.collect();
        let failing = if failing.is_empty() {
            String::new()
        } else {
            format!(", failing: {}", failing.join(", "))
        };
        lines.push(format!("Jobs: {}{failing}", status.jobs.len()));
        let services = status.services.iter().map(|one| format!("{} {}", one.name, one.state));
        lines.push(format!("Services: {}", services.collect::<Vec<_>>().join(", ")));
        lines.push(format!("Reminders: {}", status.reminders));
        let (used, limit) = status.budget;
        let (cost, most) = status.budget_cost;
        let (cost, most) = (Dollars(cost), Dollars(most));
        lines.push(format!("Unattended tokens today: {used} of {limit} ({cost} of {most})"));
        lines.extend(
            status.errors.last().map(|last| format!("Last error: {} {}", last.at, last.text)),
        );
        Ok(lines.join("\n"))
    }
}

fn undone_text(undone: &Undone) -> String {
    if !undone.conflicts.is_empty() {
        let paths: Vec<_> = undone.conflicts.iter().map(|file| file.path.clone()).collect();
        return format!(
            "Nothing was undone: later changes are in the way of {}. At the machine, `fledgling undo --theirs` or `--ours` decides.",
            paths.join(", ")
        );
    }
    let mut lines: Vec<_> =
        undone.changes.iter().map(|change| format!("Undone: {}", change.subject)).collect();
    lines.extend(undone.paths.iter().map(|(path, what)| format!("- {path}: {what}")));
    lines.extend(undone.left_alone.iter().map(|(path, why)| format!("- {path} stays: {why}")));
    lines.extend(Some(undone.said.clone()).filter(|said| !said.is_empty()));
    if !undone.commands.is_empty() {
        lines.push(format!(
            "What these commands did elsewhere stays: {}",
            undone.commands.join("; ")
        ));
    }
    lines.join("\n")
}
