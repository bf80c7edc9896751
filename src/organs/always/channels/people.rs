//! Who may speak in which chat, and what comes of a message: rows of `state.db`.
//!
//! Owns the one decision about each message, made in one transaction with its effect: a kill at
//! any moment neither loses nor doubles it. The text of a stranger goes nowhere. Chats have a
//! session each; where several people speak is a group. How people become known is `pairing`'s.
//! Does not know how sessions run.

use anyhow::{Context as _, Result};
use rusqlite::{Connection, OptionalExtension as _, Row, params};
use serde::{Deserialize, Serialize};

use crate::kernel::message::{Incoming, Origin};
use crate::organs::always::channels::commands::Command;
use crate::organs::always::channels::contract::Inbound;
use crate::organs::always::channels::pairing;
use crate::organs::enclosed;
use crate::organs::state::{self, State, Waiting};

/// Beside the tables that a predecessor knows: it leaves them alone. Times are seconds of Unix.
/// A chat without a sender is a group. Whose a session is stays in `talks` for good, whatever
/// session its chat is in later.
pub const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS pairings (code TEXT PRIMARY KEY, channel TEXT NOT NULL,
    sender TEXT NOT NULL, chat TEXT NOT NULL, name TEXT, at INTEGER NOT NULL,
    expires INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS wrong_codes (at INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS people (channel TEXT NOT NULL, sender TEXT NOT NULL,
    person TEXT NOT NULL, owner INTEGER NOT NULL, links TEXT, at INTEGER NOT NULL,
    PRIMARY KEY (channel, sender));
CREATE TABLE IF NOT EXISTS chats (channel TEXT NOT NULL, chat TEXT NOT NULL, sender TEXT,
    session TEXT, answers INTEGER NOT NULL, last INTEGER NOT NULL, PRIMARY KEY (channel, chat));
CREATE TABLE IF NOT EXISTS vouched (channel TEXT PRIMARY KEY, blob TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS talks (session TEXT PRIMARY KEY, channel TEXT NOT NULL,
    chat TEXT NOT NULL, sender TEXT, person TEXT NOT NULL, owner INTEGER NOT NULL, links TEXT);
CREATE TABLE IF NOT EXISTS received (channel TEXT NOT NULL, id TEXT NOT NULL, chat TEXT NOT NULL,
    at INTEGER NOT NULL, PRIMARY KEY (channel, id)) WITHOUT ROWID;
";

/// How long a message that was received is known. Chats give none again later; a channel of
/// which that is not true, as of mail, has to look at the date of what it brings.
const KNOWN: i64 = 90 * 24 * 3600;
/// Bytes of a session's name, without the number that makes it one of its own.
const NAME: usize = 56;

/// How things are with a session's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// No session has it.
    Free,
    /// One has it that goes on.
    Open,
    /// One had it that was ended.
    Ended,
}

/// What comes of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admitted {
    /// Nothing: it was here before.
    Known,
    /// Nothing: nobody knows the sender.
    Stranger {
        /// Whether a code to be paired with is on its way to them.
        replied: bool,
    },
    /// Nothing: nobody knows the sender, and others read along.
    Ignored,
    /// It is in the inbox of the speaker's session.
    Said(Speaker),
    /// It is to be done. A kill right after loses it: what it would have stopped has stopped
    /// then, and the rest can be said again. The words of `New` are in the inbox already.
    Command(Speaker, Command),
}

/// Who said something, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Speaker {
    /// The person.
    pub person: String,
    /// Whether it is the owner.
    pub owner: bool,
    /// Links that the person's sessions get below the root's, as JSON.
    pub links: Option<String>,
    /// Whether others read along.
    pub group: bool,
    /// Whether this chat may answer requests for more.
    pub answers: bool,
    /// The session the chat is in now.
    pub session: String,
    /// Whose words these are to the session.
    pub origin: Origin,
}

/// A chat as it is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chat {
    /// The channel.
    pub channel: String,
    /// The platform's id of it.
    pub id: String,
    /// The person; nobody in particular in a group.
    pub person: Option<String>,
    /// Whether it is the owner's own.
    pub owner: bool,
    /// Its session, once something was said in it.
    pub session: Option<String>,
    /// Whether it may answer requests for more.
    pub answers: bool,
    /// When somebody last wrote in it.
    pub last: i64,
}

/// Whose a session is that began in a chat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Talk {
    /// The channel.
    pub channel: String,
    /// The chat.
    pub chat: String,
    /// Whether others read along.
    pub group: bool,
    /// Who spoke first.
    pub person: String,
    /// Whether it is the owner's own.
    pub owner: bool,
    /// The link that the person has below the root's, as JSON.
    pub links: Option<String>,
    /// Whether whoever it is with may still talk there.
    pub open: bool,
}

/// The key of a message in the inbox.
pub fn key(channel: &str, id: &str) -> String {
    format!("in:{channel}:{id}")
}

impl State {
    /// Decide about a message, and do what is decided. How things are with names of sessions is
    /// asked while the rows are locked: the answer must not come from them.
    pub fn admit(
        &self,
        channel: &str,
        message: &Inbound,
        now: i64,
        standing: &dyn Fn(&str) -> Standing,
    ) -> Result<Admitted> {
        self.atomically(|rows| decide(rows, channel, message, now, standing))
    }

    /// Whether a message is new and from somebody who is paired, so that what comes with it is
    /// worth keeping.
    pub fn is_welcome(&self, channel: &str, message: &Inbound) -> Result<bool> {
        let sql = "SELECT EXISTS (SELECT 1 FROM people WHERE channel = ?1 AND sender = ?2)
            AND NOT EXISTS (SELECT 1 FROM received WHERE channel = ?1 AND id = ?3)";
        let row = params![channel, message.from, message.id];
        self.connection().query_row(sql, row, |row| row.get(0)).context("cannot read state.db")
    }

    /// The channel, chat and id of a message, by its key in the inbox: where an answer to it
    /// goes, whatever session the chat is in by then.
    pub fn came_from(&self, key: &str) -> Result<Option<(String, String, String)>> {
        let sql = "SELECT channel, chat, id FROM received
            WHERE channel = ? AND id = ?";
        let Some(rest) = key.strip_prefix("in:") else { return Ok(None) };
        // A channel's name has no colon, being a file's; should it have one, a later one is it.
        for (at, _) in rest.match_indices(':') {
            let ids = [&rest[..at], &rest[at + 1..]];
            let row = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?));
            let found = self.connection().query_row(sql, ids, row).optional();
            if let Some(found) = found.context("cannot read state.db")? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// All chats, those written in last first.
    pub fn chats(&self) -> Result<Vec<Chat>> {
        let sql = "SELECT c.channel, c.chat, person, coalesce(owner, 0), session, answers, last
            FROM chats c LEFT JOIN people p ON p.channel = c.channel AND p.sender = c.sender
            ORDER BY last DESC, c.rowid DESC";
        self.read(sql, [], |row| {
            Ok(Chat {
                channel: row.get(0)?,
                id: row.get(1)?,
                person: row.get(2)?,
                owner: row.get(3)?,
                session: row.get(4)?,
                answers: row.get(5)?,
                last: row.get(6)?,
            })
        })
    }

    /// Where the owner wrote last.
    pub fn owner_chat(&self) -> Result<Option<(String, String)>> {
        let chat = self.chats()?.into_iter().find(|chat| chat.owner);
        Ok(chat.map(|chat| (chat.channel, chat.id)))
    }

    /// The chats that may answer requests for more.
    pub fn answering_chats(&self) -> Result<Vec<Chat>> {
        let mut chats = self.chats()?;
        chats.retain(|chat| chat.answers);
        Ok(chats)
    }

    /// Whose this session is, if it began in a chat.
    pub fn talk(&self, session: &str) -> Result<Option<Talk>> {
        let sql = "SELECT t.channel, t.chat, t.sender IS NULL, person, owner, links,
                EXISTS (SELECT 1 FROM chats c WHERE c.channel = t.channel AND c.chat = t.chat
                    AND c.sender IS t.sender)
                AND (t.sender IS NULL OR EXISTS (SELECT 1 FROM people p
                    WHERE (p.channel, p.sender, p.person, p.owner)
                        = (t.channel, t.sender, t.person, t.owner)))
            FROM talks t WHERE session = ?";
        let row = |row: &Row<'_>| {
            Ok(Talk {
                channel: row.get(0)?,
                chat: row.get(1)?,
                group: row.get(2)?,
                person: row.get(3)?,
                owner: row.get(4)?,
                links: row.get(5)?,
                open: row.get(6)?,
            })
        };
        let found = self.connection().query_row(sql, [session], row).optional();
        found.context("cannot read state.db")
    }

    /// The owner trusts a channel with answers to requests as long as its service is this one.
    pub fn vouch(&self, channel: &str, blob: &str) -> Result<()> {
        self.write("INSERT OR REPLACE INTO vouched VALUES (?, ?)", [channel, blob])
    }

    /// The service with which the owner trusts a channel.
    pub fn vouched(&self, channel: &str) -> Result<Option<String>> {
        let sql = "SELECT blob FROM vouched WHERE channel = ?";
        let found = self.connection().query_row(sql, [channel], |row| row.get(0)).optional();
        found.context("cannot read state.db")
    }

    /// Forget what was received long ago.
    pub fn sweep_received(&self, now: i64) -> Result<()> {
        self.write("DELETE FROM received WHERE at < ?", [now - KNOWN])
    }
}

/// A person who is paired.
struct Known {
    person: String,
    owner: bool,
    links: Option<String>,
}

/// A chat's row.
struct Place {
    sender: Option<String>,
    session: Option<String>,
    answers: bool,
}

fn decide(
    rows: &Connection,
    channel: &str,
    message: &Inbound,
    now: i64,
    standing: &dyn Fn(&str) -> Standing,
) -> Result<Admitted> {
    let Inbound { id, chat, from, .. } = message;
    let sql = "INSERT OR IGNORE INTO received (channel, id, chat, at) VALUES (?, ?, ?, ?)";
    if rows.execute(sql, params![channel, id, chat, now])? == 0 {
        return Ok(Admitted::Known);
    }
    let sql = "SELECT person, owner, links FROM people WHERE channel = ? AND sender = ?";
    let known =
        |row: &Row<'_>| Ok(Known { person: row.get(0)?, owner: row.get(1)?, links: row.get(2)? });
    let known = rows.query_row(sql, [channel, from], known).optional()?;
    let sql = "SELECT sender, session, answers FROM chats WHERE channel = ? AND chat = ?";
    let place = |row: &Row<'_>| {
        Ok(Place { sender: row.get(0)?, session: row.get(1)?, answers: row.get(2)? })
    };
    let place = rows.query_row(sql, [channel, chat], place).optional()?;
    let group =
        message.group || place.as_ref().is_some_and(|place| place.sender.as_ref() != Some(from));
    let Some(Known { person, owner, links }) = known else {
        return Ok(if group {
            Admitted::Ignored
        } else {
            Admitted::Stranger { replied: pairing::offer(rows, channel, message, now)? }
        });
    };
    let command = Command::parse(&message.text);
    // One that becomes a group is not what it was.
    let place = place.filter(|place| place.sender.is_none() == group);
    let answers = place.as_ref().is_some_and(|place| place.answers);
    let current = place.and_then(|place| place.session);
    let current = current.filter(|session| standing(session) != Standing::Ended);
    let session = match current {
        Some(session) if !matches!(command, Some(Command::New(_))) => session,
        _ => fresh(rows, &base(channel, &person, owner, group.then_some(chat)), standing)?,
    };
    let sender = (!group).then_some(from);
    let sql = "INSERT OR REPLACE INTO chats (channel, chat, sender, session, answers, last)
        VALUES (?, ?, ?, ?, ?, ?)";
    rows.execute(sql, params![channel, chat, sender, session, answers, now])?;
    let sql = "INSERT OR IGNORE INTO talks (session, channel, chat, sender, person, owner, links)
        VALUES (?, ?, ?, ?, ?, ?, ?)";
    let own = owner && !group;
    rows.execute(sql, params![session, channel, chat, sender, person, own, links])?;
    let origin = Origin::from(if owner && !group {
        format!("channel:{channel}")
    } else {
        format!("channel:{channel}/{person}")
    });
    let text = match &command {
        None => Some(message.text.clone()),
        Some(Command::New(text)) => {
            Some(text.clone()).filter(|text| !text.is_empty() || !message.enclosed.is_empty())
        }
        Some(_) => None,
    };
    if let Some(text) = text {
        let incoming =
            Incoming { key: key(channel, id), origin: origin.clone(), text, images: Vec::new() };
        state::receive(rows, &Waiting { incoming, steer: true, model: None }, &session)?;
        enclosed::put(rows, &key(channel, id), &message.enclosed)?;
    }
    let speaker = Speaker { person, owner, links, group, answers, session, origin };
    Ok(match command {
        Some(command) => Admitted::Command(speaker, command),
        None => Admitted::Said(speaker),
    })
}

/// What the sessions of a chat are called.
fn base(channel: &str, person: &str, owner: bool, group: Option<&String>) -> String {
    let base = match group {
        Some(chat) => format!("{channel}-group-{}", chat.trim_start_matches('-')),
        None if owner => channel.to_owned(),
        None => format!("{channel}-{person}"),
    };
    let fine = |c: char| if c.is_ascii_alphanumeric() || "._".contains(c) { c } else { '-' };
    let base: String =
        base.chars().map(fine).skip_while(|c| "._-".contains(*c)).take(NAME).collect();
    if base.is_empty() { "chat".to_owned() } else { base }
}

/// The first name like this that no session has and none is about to have.
fn fresh(rows: &Connection, base: &str, standing: &dyn Fn(&str) -> Standing) -> Result<String> {
    let sql = "SELECT EXISTS (SELECT 1 FROM talks WHERE session = ?1)
        OR EXISTS (SELECT 1 FROM inbox WHERE session = ?1)";
    let mut taken = rows.prepare(sql)?;
    let mut names = std::iter::once(base.to_owned())
        .chain((2..).map(|number: u64| format!("{base}.{number}")))
        .filter(|name| standing(name) == Standing::Free);
    loop {
        let name = names.next().context("no name is free")?;
        if !taken.query_row([&name], |row| row.get::<_, bool>(0))? {
            return Ok(name);
        }
    }
}

#[cfg(test)]
#[path = "people_tests.rs"]
mod tests;
