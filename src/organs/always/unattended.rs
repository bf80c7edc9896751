//! Turns that nobody in front of a terminal asked for: those of reminders, chats, jobs.
//!
//! Owns which they are (whatever such a turn starts is one, too), that they stop at the end of
//! the budget, that one which a kill cut short is gone on with, and where the words go with
//! which such a turn ends. Knows neither schedule nor channels.

use std::collections::HashMap;
use std::fs::File;
use std::path::Path;
use std::sync::{Arc, Mutex};

use anyhow::{Context as _, Result, ensure};

use crate::kernel::event::End;
use crate::kernel::message::{Incoming, Origin};
use crate::kernel::session::{Line, lines};
use crate::organs::always::background::{Happening, Kind};
use crate::organs::always::outbox::Letter;
use crate::organs::host::{Host, Phase};
use crate::organs::lane::lock;
use crate::organs::recovery::CUT_SHORT;
use crate::organs::sessions;
use crate::organs::state::Waiting;

/// The origin of what is said by a reminder.
const REMINDER: &str = "reminder";
/// How an origin begins that is a chat.
pub const CHANNEL: &str = "channel:";
/// How the keys begin of messages that have an interrupted turn gone on with: the number of the
/// attempt follows, then the session and the turn.
const GO_ON: &str = "go-on:";
/// So often a turn is gone on with that kills cut short one after the other.
const ATTEMPTS: u64 = 3;

/// The sessions whose turn under way is unattended, and whether it is guarded: whether not even
/// the owner's own chat began it.
#[derive(Debug, Default)]
pub struct Unattended(Mutex<HashMap<String, bool>>);

/// Keeps a session marked.
#[derive(Debug)]
pub struct Mark<'a> {
    marks: &'a Unattended,
    session: String,
}

/// Whether a chat is the owner's own, by what follows in its origin.
pub fn is_owners_chat(chat: &str) -> bool {
    !chat.contains('/')
}

impl Unattended {
    /// Mark a session until this is dropped.
    pub fn mark(&self, session: &str, guarded: bool) -> Mark<'_> {
        lock(&self.0).insert(session.to_owned(), guarded);
        Mark { marks: self, session: session.to_owned() }
    }
}

impl Drop for Mark<'_> {
    fn drop(&mut self) {
        lock(&self.marks.0).remove(&self.session);
    }
}

impl Host {
    /// Whether a turn of this origin is unattended.
    pub(in crate::organs) fn is_unattended(&self, origin: &Origin) -> bool {
        match origin {
            Origin::Owner => false,
            Origin::Other(_) => true,
            // A job or a service; or a turn that is one itself.
            Origin::Agent(above) => {
                above.contains(':') || lock(&self.always.unattended.0).contains_key(above)
            }
        }
    }

    /// Whether what such a message begins must leave the memory as large as it is. The owner's
    /// own chats may do what their terminal may.
    pub(in crate::organs) fn is_guarded(&self, origin: &Origin) -> bool {
        match origin {
            Origin::Owner => false,
            Origin::Other(name) => !name.strip_prefix(CHANNEL).is_some_and(is_owners_chat),
            Origin::Agent(above) => {
                let marks = lock(&self.always.unattended.0);
                above.contains(':') || marks.get(above).is_some_and(|guarded| *guarded)
            }
        }
    }

    /// Leave out of a line what the budget leaves nothing for: it waits for the next day.
    /// Whoever waits for an answer to it is not to wait that long: their keys.
    pub(in crate::organs) fn hold_back(&self, waiting: &mut Vec<Waiting>) -> Vec<String> {
        let is_unattended = |one: &Waiting| self.is_unattended(&one.incoming.origin);
        // Should the count not be known, the turn itself says why.
        if !waiting.iter().any(is_unattended) || self.check_budget().is_ok() {
            return Vec::new();
        }
        self.over_budget();
        let held = waiting.extract_if(.., |one| is_unattended(one));
        held.map(|one| one.incoming.key).collect()
    }

    /// Have a session answer what waits for it, as soon as it can.
    pub(in crate::organs) fn wake(self: &Arc<Self>, session: &str) {
        if self.phase() != Phase::Open {
            return;
        }
        let (host, session) = (self.clone(), session.to_owned());
        tokio::spawn(async move {
            if let Err(error) = host.see_that_it_is_there(&session).await {
                let why = format!("{error:#}");
                let unheard = host.unheard(&session, &why);
                return host.complain(&session, unheard);
            }
            let lane = host.lane(&session);
            // Who is busy takes it in by itself.
            if !lane.busy() {
                host.clone().drain(&session, &lane, None).await;
            }
        });
    }

    /// Wake every session for which something waits from a chat or a reminder.
    pub(in crate::organs) fn wake_all(self: &Arc<Self>) -> Result<()> {
        for (session, _) in self.state.backlog()? {
            let waiting = self.state.waiting(&session)?;
            if waiting.iter().any(|one| comes_by_itself(&one.incoming.origin)) {
                self.wake(&session);
            }
        }
        Ok(())
    }

    async fn see_that_it_is_there(&self, session: &str) -> Result<()> {
        let path = self.settings.home.transcript(session);
        if path.exists() {
            ensure!(!sessions::ended(&path)?, "it was ended");
            return Ok(());
        }
        match self.create_session(Some(session.to_owned()), None, None, None, None).await {
            // Somebody else made it meanwhile.
            Err(_) if path.exists() => Ok(()),
            made => made.map(drop),
        }
    }

    /// What waits for a session cannot be put before it: whoever said it is told, and the owner
    /// gets the words of reminders.
    fn unheard(&self, session: &str, why: &str) -> Result<()> {
        let waiting = self.state.waiting(session)?;
        let (mut reminded, mut said) = (Vec::new(), Vec::new());
        for Waiting { incoming: Incoming { key, origin, text, .. }, .. } in waiting {
            match origin {
                Origin::Other(name) if name == REMINDER => reminded.push((key, text)),
                _ if key.starts_with("in:") => said.push(key),
                _ => {}
            }
        }
        self.unanswered(session, &said, why);
        for (key, text) in reminded {
            let text = format!("{text}\n(Conversation {session} cannot go on with it: {why}.)");
            self.tell_owner(&format!("unheard:{key}"), Kind::Reminder, &text);
            self.state.taken(&key)?;
        }
        Ok(())
    }

    /// A turn has ended that was unattended, or that somebody joined who is not in front of a
    /// terminal: its last words go where they belong. This is written before it is forgotten
    /// that the turn ran, so that no kill comes in between.
    pub(in crate::organs) fn pass_on(&self, session: &str, turn: u64) -> Result<()> {
        let mut ended = EndedTurn::read(&self.settings.home.transcript(session), turn)?;
        let Some(asker) = ended.asker() else { return Ok(()) };
        let is_chat = asker.starts_with(CHANNEL);
        let text = match ended.end {
            Some(End::Done) => ended.said.clone(),
            // A kill cut short the start that closed it, too.
            Some(End::Interrupted) if ended.why == CUT_SHORT => {
                return self.go_on_with(session, turn).map(drop);
            }
            Some(End::Interrupted) if is_chat => {
                // What was answered before stays answered.
                ended.parts.pop();
                [ended.parts, vec!["Stopped.".to_owned()]].concat().join("\n\n")
            }
            Some(_) => format!("That did not work: {}.\n\n{}", ended.why, ended.said),
            None => return Ok(()),
        };
        let text = text.trim().to_owned();
        if text.is_empty() {
            return Ok(());
        }
        let talk = self.state.talk(session)?;
        // Whoever may not talk there any more gets no answer either.
        if is_chat && talk.as_ref().is_none_or(|talk| !talk.open) {
            return Ok(());
        }
        let is_group = talk.as_ref().is_some_and(|talk| talk.group);
        let said = ended.keys.iter().rev().find(|key| key.starts_with("in:"));
        let id = said.filter(|_| is_group).map(|key| self.state.came_from(key)).transpose()?;
        let reply_to = id.flatten().map(|(_, _, id)| id);
        let to = talk.filter(|talk| talk.open).map(|talk| (talk.channel, talk.chat));
        let key = format!("turn:{session}:{turn}");
        let session = Some(session.to_owned());
        let files = Vec::new();
        let letter = Letter { key, session, to, reply_to, text, files };
        self.post_as(Kind::Answer, &letter).map(drop)
    }

    /// After a kill: have an unattended turn that it cut short gone on with.
    pub(in crate::organs) fn go_on_with(&self, session: &str, turn: u64) -> Result<bool> {
        let ended = EndedTurn::read(&self.settings.home.transcript(session), turn)?;
        let Some(asker) = ended.asker() else { return Ok(false) };
        let before = ended.keys.iter().filter_map(|key| key.strip_prefix(GO_ON)?.split(':').next());
        let attempt = 1 + before.filter_map(|number| number.parse::<u64>().ok()).max().unwrap_or(0);
        if attempt > ATTEMPTS {
            let text = format!(
                "What session {session} was asked is given up: the program ended {attempt} times in the middle of it. Its transcript has what was done."
            );
            self.tell_owner(&format!("given-up:{session}:{turn}"), Kind::Turn, &text);
            return Ok(false);
        }
        let text = "The program ended in the middle of your turn. What you had finished is kept: go on where you were, and do nothing twice.".to_owned();
        let (key, origin) = (format!("{GO_ON}{attempt}:{session}:{turn}"), Origin::Other(asker));
        let incoming = Incoming { key, origin, text, images: Vec::new() };
        self.state.receive(&Waiting { incoming, steer: true, model: None }, session)?;
        Ok(true)
    }

    /// What people said in chats could not be answered: they are told. It waits for their next
    /// word.
    pub(in crate::organs) fn unanswered(&self, session: &str, keys: &[String], why: &str) {
        let Some(key) = keys.iter().rfind(|key| key.starts_with("in:")) else { return };
        let told = self.state.came_from(key).and_then(|from| {
            let to = from.map(|(channel, chat, _)| (channel, chat));
            let text =
                format!("That cannot be answered now: {why}. Write again to have it tried again.");
            let (key, session) = (format!("unanswered:{key}"), Some(session.to_owned()));
            self.post(&Letter { key, session, to, text, ..Letter::default() })
        });
        if let Err(error) = told {
            self.fault(Kind::Channel, session, &format!("{error:#}"));
        }
    }

    /// Tell whoever looks on.
    pub(in crate::organs) fn happened(&self, kind: Kind, about: &str, text: &str) {
        self.tell_background(kind, about, text, false);
    }

    /// Tell the log.
    pub(in crate::organs) fn noted(&self, kind: Kind, about: &str, text: &str) {
        let happening = self.happening(kind, about, text.to_owned());
        self.always.background.tell(&Happening { quiet: true, ..happening });
    }

    /// Tell whoever looks on that something is wrong.
    pub(in crate::organs) fn fault(&self, kind: Kind, about: &str, text: &str) {
        self.tell_background(kind, about, text, true);
    }

    pub(super) fn tell_background(&self, kind: Kind, about: &str, text: &str, fault: bool) {
        let happening = self.happening(kind, about, text.to_owned());
        self.always.background.tell(&Happening { fault, ..happening });
    }

    pub(super) fn happening(&self, kind: Kind, about: &str, text: String) -> Happening {
        let now = self.always.clock.now().to_zoned(self.always.clock.zone());
        Happening {
            kind,
            about: self.withheld.text(about.to_owned()),
            text: self.withheld.text(text),
            fault: false,
            quiet: false,
            at: now.strftime("%Y-%m-%d %H:%M:%S").to_string(),
        }
    }

    /// Have the owner told, wherever they are, and once: the same key again is nothing new.
    /// Whether it is new.
    pub(in crate::organs) fn tell_owner(&self, key: &str, kind: Kind, text: &str) -> bool {
        let text = self.withheld.text(text.to_owned());
        let letter = Letter { key: key.to_owned(), text, ..Letter::default() };
        match self.post(&letter) {
            Ok(false) => return false,
            Ok(true) => self.always.background.remember(self.happening(kind, "", letter.text)),
            // Then at least whoever looks on is told.
            Err(error) => self.fault(kind, "", &format!("{} ({error:#})", letter.text)),
        }
        true
    }
}

/// Whether something is answered as soon as there is a host that stays.
fn comes_by_itself(origin: &Origin) -> bool {
    let Origin::Other(name) = origin else { return false };
    name == REMINDER || name.starts_with(CHANNEL)
}

/// What a transcript says of one turn.
#[derive(Debug, Default)]
struct EndedTurn {
    /// Who spoke in it, with the keys of what they said.
    askers: Vec<Origin>,
    keys: Vec<String>,
    /// What the agent answered before somebody else spoke, and its last words; then all of it.
    parts: Vec<String>,
    said: String,
    /// How it ended, if it did.
    end: Option<End>,
    why: String,
}

impl EndedTurn {
    fn read(path: &Path, number: u64) -> Result<Self> {
        let reading = || format!("cannot read {}", path.display());
        let file = File::open(path).with_context(reading)?;
        let (mut ended, mut within, mut last) = (Self::default(), false, None);
        for line in lines(&file) {
            // What cannot be made sense of was told when the turn began.
            let Ok(entry) = line.with_context(reading)? else { continue };
            match entry.line {
                Line::User { turn, incoming } => {
                    within = turn == number;
                    if within {
                        // It was an answer to what was said before.
                        ended.parts.extend(last.take());
                        ended.askers.push(incoming.origin);
                        ended.keys.push(incoming.key);
                    }
                }
                Line::Assistant(reply) if within => {
                    let is_answer = reply.calls().next().is_none();
                    ended.said = reply.text();
                    last = is_answer.then(|| ended.said.clone());
                }
                Line::TurnEnd { turn, end, why, .. } if turn == number => {
                    (ended.end, ended.why) = (Some(end), why);
                }
                _ => {}
            }
        }
        ended.parts.push(std::mem::take(&mut ended.said));
        ended.said = ended.parts.join("\n\n");
        Ok(ended)
    }

    /// The last who spoke in it and does not sit in front of a terminal.
    fn asker(&self) -> Option<String> {
        self.askers.iter().rev().find_map(|origin| match origin {
            Origin::Other(name) => Some(name.clone()),
            _ => None,
        })
    }
}
