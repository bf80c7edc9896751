//! Reminders, and words to the owner: what the commands `at`, `agenda` and `tell` do.
//!
//! Owns whose reminder it is, what is said back, and that undo takes reminders along. When they
//! are due, the ledger knows.

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::organs::always::background::{Happening, Kind};
use crate::organs::always::outbox::Letter;
use crate::organs::always::schedule::when;
use crate::organs::history::ask::Undone;
use crate::organs::host::Host;
use crate::organs::sessions;
use crate::organs::verb::Caller;

/// Reminders of one session that may be pending at a time.
const PENDING: usize = 200;
/// Words of one session that may wait for delivery at a time.
const UNSENT: usize = 50;
/// The conversation of a reminder that the owner sets before there is any other.
const FIRST: &str = "reminders";

impl Host {
    /// Set a reminder.
    pub(in crate::organs) fn remind_at(
        &self,
        caller: &Caller,
        session: Option<String>,
        when: &str,
        text: &str,
    ) -> Result<Value> {
        let text = text.trim();
        ensure!(!text.is_empty(), "say what to remind of");
        let (session, turn) = match (session, caller) {
            (Some(session), Caller::Owner) => (session, None),
            (None, Caller::Owner) => {
                (sessions::latest(self.home())?.unwrap_or_else(|| FIRST.to_owned()), None)
            }
            (session, Caller::Hand(own)) => {
                let session = session.unwrap_or_else(|| own.clone());
                ensure!(
                    !session.contains(':'),
                    "a job or a service has no conversation that could go on; name one with --session"
                );
                // Undo of a turn takes along what it set for its own conversation.
                let turn = if session == *own { self.turn_of(own)? } else { None };
                (session, turn)
            }
        };
        let now = self.always.clock.now().to_zoned(self.always.clock.zone());
        let due = when::parse(when, &now)?;
        let pending = self.state.reminders()?;
        let own = pending.iter().filter(|one| one.session == session).count();
        ensure!(own < PENDING, "session {session} has {own} reminders pending; cancel some first");
        let text = self.withheld.text(text.to_owned());
        let id = self.state.remind(&session, turn, &text, &due, now.timestamp())?;
        self.always.wake.notify_one();
        let said = when::said(&due, &now);
        let resident = self.settings.resident;
        let then = if resident {
            ""
        } else {
            " It needs a host then: `fledgling serve`, or an open conversation."
        };
        Ok(
            json!({ "said": format!("Reminder {id}: {said}, in conversation {session}.{then}"), "id": id, "due": due.to_string(), "session": session }),
        )
    }

    /// The turn that a session has under way.
    pub(in crate::organs) fn turn_of(&self, session: &str) -> Result<Option<u64>> {
        let running = self.state.unfinished()?;
        Ok(running.into_iter().find(|(name, _)| name == session).map(|(_, turn)| turn))
    }

    /// Reminders that are to come.
    pub(in crate::organs) fn agenda(&self, caller: &Caller) -> Result<Value> {
        let mut all = self.state.reminders()?;
        all.retain(|one| self.reaches(caller, &one.session));
        let now = self.always.clock.now().to_zoned(self.always.clock.zone());
        let shown = all.into_iter().map(|one| {
            let due = one.due_in(&self.always.clock.zone());
            json!({
                "id": one.id, "session": one.session, "text": one.text,
                "due": due.to_string(), "said": when::said(&due, &now),
            })
        });
        Ok(shown.collect())
    }

    /// Cancel a reminder.
    pub(in crate::organs) fn cancel(&self, caller: &Caller, id: i64) -> Result<Value> {
        let found = self.state.reminders()?.into_iter().find(|one| one.id == id);
        let found = found.filter(|one| self.reaches(caller, &one.session));
        let found = found.with_context(|| {
            format!("there is no reminder {id} to come; `fledgling agenda` lists them")
        })?;
        self.state.cancel_reminder(id)?;
        self.always.wake.notify_one();
        Ok(json!({ "said": format!("Cancelled: {}", found.text) }))
    }

    /// Send words to the owner, or to the chat of a session.
    pub(in crate::organs) fn send_words(
        &self,
        caller: &Caller,
        (session, channel): (Option<String>, Option<String>),
        text: &str,
        files: &[PathBuf],
    ) -> Result<Value> {
        let text = self.withheld.text(text.trim().to_owned());
        ensure!(!text.is_empty() || !files.is_empty(), "there is nothing to tell");
        let files = self.sendable(caller, files)?;
        let by = match caller {
            Caller::Owner => None,
            Caller::Hand(own) => Some(own.clone()),
        };
        let from = session.or(by.clone());
        let waiting = self.state.unsent(from.as_deref())?;
        ensure!(
            waiting < UNSENT,
            "{waiting} messages wait for delivery already; `fledgling status` says why they wait"
        );
        let chat = match (&channel, &from) {
            (Some(channel), _) => {
                let mut chats = self.state.chats()?.into_iter();
                let chat = chats.find(|chat| chat.owner && chat.channel == *channel);
                let chat = chat.map(|chat| (chat.channel, chat.id));
                Some(chat.with_context(|| {
                    format!("you are not paired in the channel {channel}; `fledgling people` lists who is paired where")
                })?)
            }
            (None, Some(from)) => self.chat_of(from)?,
            (None, None) => None,
        };
        // Whoever has a chat of their own talks there, and to nobody else.
        let narrowed = match &by {
            Some(by) => !self.links(Some(by))?.is_empty(),
            None => false,
        };
        ensure!(
            channel.is_none() || !narrowed,
            "a narrowed session sends words to its own chat only; leave --channel out"
        );
        let to_owner = chat.is_none();
        let text = match &from {
            Some(from) if to_owner && narrowed => format!("[{from}] {text}").trim_end().to_owned(),
            _ => text,
        };
        let key = format!("tell:{}", crate::organs::verb::fresh_key());
        let letter = Letter { key, session: from, to: chat, text, files, ..Letter::default() };
        self.post(&letter)?;
        let said = match (&letter.to, self.settings.resident) {
            (Some((channel, _)), true) => format!("It goes out through {channel}."),
            _ if self.state.owner_chat()?.is_some() && self.settings.resident => {
                "It goes to your owner's chat.".to_owned()
            }
            _ if self.always.background.is_shown() => {
                "It is shown in your owner's terminal.".to_owned()
            }
            _ => "It is kept until your owner is there.".to_owned(),
        };
        Ok(json!({ "said": said }))
    }

    /// Turns were taken back, or brought about again: so are the reminders that were set in
    /// them. What is to be said of it.
    pub(in crate::organs) fn take_reminders_along(
        &self,
        undone: &Undone,
        turns: &[(String, u64)],
        redo: bool,
    ) -> Result<Option<String>> {
        if undone.commit.is_none() || undone.in_part {
            return Ok(None);
        }
        let changed = if redo {
            self.state.revive_made_in(turns)?
        } else {
            self.state.cancel_made_in(turns)?
        };
        if changed.is_empty() {
            return Ok(None);
        }
        self.always.wake.notify_one();
        let what = if redo { "Set again" } else { "Cancelled" };
        let names: Vec<_> =
            changed.iter().map(|one| format!("reminder {} ({})", one.id, one.text)).collect();
        Ok(Some(format!("{what}: {}.", names.join(", "))))
    }

    /// Words for the owner that nobody has shown yet, for a terminal that has just come.
    pub(in crate::organs) fn unread(&self) -> Result<Vec<Happening>> {
        let mut told = Vec::new();
        for letter in self.state.for_terminal()? {
            self.state.shown(&letter.key)?;
            let (about, text) = (letter.session.clone().unwrap_or_default(), letter.shown());
            told.push(self.happening(Kind::Tell, &about, text));
        }
        Ok(told)
    }

    /// Send words, and show them to whoever looks on: what is for the owner, and can go nowhere
    /// else, has then arrived. Whether they are new.
    pub(in crate::organs) fn post(&self, letter: &Letter) -> Result<bool> {
        self.post_as(Kind::Tell, letter)
    }

    /// The same with words of this kind.
    pub(super) fn post_as(&self, kind: Kind, letter: &Letter) -> Result<bool> {
        let new = self.state.send(letter, self.always.clock.now().as_second())?;
        if new {
            self.always.mail.notify_one();
        }
        if new && letter.to.is_none() {
            let about = letter.session.clone().unwrap_or_default();
            let shown = self.always.background.is_shown();
            self.happened(kind, &about, &letter.shown());
            if shown && self.state.owner_chat()?.is_none() {
                self.state.shown(&letter.key)?;
            }
        }
        Ok(new)
    }
}
