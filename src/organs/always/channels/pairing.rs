//! How strangers become people: codes that the owner is shown by whoever got one.
//!
//! Owns what a code is and how long it counts, that few are about at a time and none is found by
//! guessing, and what ends when somebody is no longer paired. Does not know who is the owner.

use std::fs::File;
use std::io::Read as _;

use anyhow::{Context as _, Result, ensure};
use rusqlite::{Connection, OptionalExtension as _, params};
use serde::{Deserialize, Serialize};

use crate::organs::always::channels::contract::Inbound;
use crate::organs::always::outbox::{self, Letter};
use crate::organs::state::State;

/// What codes are made of: nothing that is read for something else. One of 32 is five bits.
const SIGNS: &[u8; 32] = b"ABCDEFGHJKLMNPQRSTUVWXYZ23456789";
/// Signs of a code.
const LENGTH: usize = 8;
/// How long a code counts, and how long a wrong one is remembered.
const HOUR: i64 = 3600;
/// Codes that a channel gives out at a time.
const PENDING: i64 = 3;
/// Wrong codes after which those that are about count no more.
const WRONG: i64 = 10;
/// The longest name of a person: it is part of a session's.
const NAME: usize = 32;
/// What the owner is called who gives no name.
pub const OWNER: &str = "owner";

/// As whom somebody is paired.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct As {
    /// The person.
    pub person: String,
    /// Whether it is the owner.
    pub owner: bool,
    /// Links that the person's sessions get below the root's, as JSON.
    pub links: Option<String>,
    /// Whether the chat may answer requests for more.
    pub answers: bool,
}

/// Somebody who is paired.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Paired {
    /// The channel.
    pub channel: String,
    /// The sender.
    pub sender: String,
    /// As whom.
    #[serde(flatten)]
    pub who: As,
    /// When, in seconds of Unix.
    pub at: i64,
}

/// Somebody who has a code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    /// The channel.
    pub channel: String,
    /// The sender.
    pub sender: String,
    /// What the sender is called there.
    pub name: Option<String>,
    /// When the code stops to count, in seconds of Unix.
    pub expires: i64,
}

/// Who is no longer to be paired.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Whom {
    /// A sender of a channel.
    Sender {
        /// The channel.
        channel: String,
        /// The sender.
        sender: String,
    },
    /// A person, on all channels.
    Person(String),
}

impl State {
    /// Pair whoever got this code.
    pub fn pair(&self, code: &str, who: As, now: i64) -> Result<Paired> {
        check(&who)?;
        let typed: String = code.chars().filter(char::is_ascii_alphanumeric).collect();
        // A wrong code is counted; a right one for which the name was wrong still counts.
        self.atomically(|rows| match spend(rows, &typed.to_ascii_uppercase(), now)? {
            Ok(request) => settle(rows, request, who, now).map(Ok),
            Err(why) => Ok(Err(why)),
        })?
    }

    /// Pair somebody no longer: their chats are forgotten and nothing goes there any more. How
    /// many senders that were.
    pub fn unpair(&self, whom: &Whom) -> Result<usize> {
        let mut rows = self.people_rows()?;
        rows.retain(|row| match whom {
            Whom::Sender { channel, sender } => (&row.channel, &row.sender) == (channel, sender),
            Whom::Person(person) => row.who.person == *person,
        });
        self.atomically(|transaction| {
            for Paired { channel, sender, .. } in &rows {
                let ids = [channel, sender];
                transaction.execute("DELETE FROM people WHERE channel = ? AND sender = ?", ids)?;
                let sql = "DELETE FROM chats WHERE channel = ? AND sender = ? RETURNING chat";
                let mut gone = transaction.prepare(sql)?;
                let gone =
                    gone.query_map(ids, |row| row.get(0))?.collect::<Result<Vec<String>, _>>()?;
                for chat in gone {
                    outbox::give_up(transaction, channel, &chat)?;
                    // What they said and nobody has read is not answered any more.
                    let sql = "DELETE FROM inbox WHERE key IN (SELECT 'in:' || channel || ':' || id
                        FROM received WHERE channel = ? AND chat = ?)";
                    transaction.execute(sql, [channel, &chat])?;
                }
            }
            Ok(())
        })?;
        Ok(rows.len())
    }

    /// Everybody who is paired.
    pub fn people_rows(&self) -> Result<Vec<Paired>> {
        let sql = "SELECT p.channel, p.sender, person, owner, links, p.at, EXISTS (SELECT 1
                FROM chats c WHERE c.channel = p.channel AND c.sender = p.sender AND answers)
            FROM people p ORDER BY owner DESC, person, p.channel, p.sender";
        self.read(sql, [], |row| {
            let who = As {
                person: row.get(2)?,
                owner: row.get(3)?,
                links: row.get(4)?,
                answers: row.get(6)?,
            };
            Ok(Paired { channel: row.get(0)?, sender: row.get(1)?, who, at: row.get(5)? })
        })
    }

    /// Everybody who has a code that still counts.
    pub fn pending_pairings(&self, now: i64) -> Result<Vec<Pending>> {
        let sql =
            "SELECT channel, sender, name, expires FROM pairings WHERE expires > ? ORDER BY at";
        self.read(sql, [now], |row| {
            Ok(Pending {
                channel: row.get(0)?,
                sender: row.get(1)?,
                name: row.get(2)?,
                expires: row.get(3)?,
            })
        })
    }
}

/// A stranger wrote: give out a code, unless they have one or there are enough. Whether one is
/// on its way.
pub(super) fn offer(rows: &Connection, channel: &str, message: &Inbound, now: i64) -> Result<bool> {
    let Inbound { id, chat, from, name, .. } = message;
    rows.execute("DELETE FROM pairings WHERE expires <= ?", [now])?;
    let sql = "SELECT count(*), coalesce(sum(sender = ?2), 0) FROM pairings WHERE channel = ?1";
    let counts = |row: &rusqlite::Row<'_>| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?));
    let (all, own) = rows.query_row(sql, [channel, from], counts)?;
    if own > 0 || all >= PENDING {
        return Ok(false);
    }
    let code = code()?;
    let sql = "INSERT INTO pairings (code, channel, sender, chat, name, at, expires)
        VALUES (?, ?, ?, ?, ?, ?, ?)";
    rows.execute(sql, params![code, channel, from, chat, name, now, now + HOUR])?;
    let (first, last) = code.split_at(LENGTH / 2);
    let letter = Letter {
        key: format!("pair:{channel}:{id}"),
        to: Some((channel.to_owned(), chat.clone())),
        text: format!(
            "I do not know you yet. If I am yours, run this where I live, within an hour:\n\nfledgling pair {first}-{last}"
        ),
        ..Letter::default()
    };
    Ok(outbox::put(rows, &letter, now)?)
}

/// Somebody to be paired: channel, sender and chat.
type Request = (String, String, String);

/// Take a code that counts. If there is none like it, why that is no use.
fn spend(rows: &Connection, code: &str, now: i64) -> Result<Result<Request>> {
    let spent = || -> rusqlite::Result<Option<Request>> {
        let sql = "DELETE FROM pairings WHERE code = ? AND expires > ?
            RETURNING channel, sender, chat";
        let request = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?));
        rows.query_row(sql, params![code, now], request).optional()
    };
    if let Some(request) = spent().context("cannot write state.db")? {
        return Ok(Ok(request));
    }
    let counted = || -> rusqlite::Result<bool> {
        rows.execute("DELETE FROM wrong_codes WHERE at <= ?", [now - HOUR])?;
        rows.execute("INSERT INTO wrong_codes VALUES (?)", [now])?;
        let wrong: i64 =
            rows.query_row("SELECT count(*) FROM wrong_codes", [], |row| row.get(0))?;
        if wrong >= WRONG {
            rows.execute_batch("DELETE FROM pairings; DELETE FROM wrong_codes;")?;
        }
        Ok(wrong >= WRONG)
    };
    let how = "write to the agent in the chat, and it answers with a code that counts for an hour";
    Ok(Err(if counted().context("cannot write state.db")? {
        anyhow::anyhow!("too many wrong codes: none that was given out counts any more; {how}")
    } else {
        anyhow::anyhow!("no such code, or its hour is over; {how}")
    }))
}

fn settle(rows: &Connection, request: Request, who: As, now: i64) -> Result<Paired> {
    let (channel, sender, chat) = request;
    let As { person, owner, links, answers } = &who;
    let sql = "SELECT EXISTS (SELECT 1 FROM people WHERE person = ? AND owner != ?)";
    let taken = rows.query_row(sql, params![person, owner], |row| row.get::<_, bool>(0));
    ensure!(
        !taken.context("cannot read state.db")?,
        "{person:?} is {}; choose another name with --as NAME",
        if *owner { "another person" } else { "the owner" }
    );
    let write = || -> rusqlite::Result<()> {
        let sql = "INSERT OR REPLACE INTO people (channel, sender, person, owner, links, at)
            VALUES (?, ?, ?, ?, ?, ?)";
        rows.execute(sql, params![channel, sender, person, owner, links, now])?;
        // As whom somebody is paired now counts from the next conversation on.
        let sql = "UPDATE chats SET session = NULL, answers = 0 WHERE channel = ? AND sender = ?";
        rows.execute(sql, params![channel, sender])?;
        let sql = "INSERT OR REPLACE INTO chats (channel, chat, sender, answers, last)
            VALUES (?, ?, ?, ?, ?)";
        rows.execute(sql, params![channel, chat, sender, answers, now])?;
        let letter = Letter {
            key: format!("paired:{channel}:{sender}:{now}"),
            to: Some((channel.clone(), chat.clone())),
            text: "We are paired. Write to me here; /help says what else there is.".to_owned(),
            ..Letter::default()
        };
        outbox::put(rows, &letter, now).map(|_| ())
    };
    write().context("cannot write state.db")?;
    Ok(Paired { channel, sender, who, at: now })
}

fn check(who: &As) -> Result<()> {
    let As { person, owner, links, answers } = who;
    let fine = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    ensure!(
        (1..=NAME).contains(&person.len()) && person.chars().all(fine),
        "bad name {person:?}: up to {NAME} letters, digits, dots, dashes and underscores"
    );
    ensure!(*owner || person != OWNER, "{OWNER:?} is the owner's name; choose another");
    ensure!(!owner || links.is_none(), "the owner's own chats are not narrowed; use --as NAME");
    ensure!(!answers || links.is_none(), "who may do less cannot give more: leave out --answers");
    Ok(())
}

/// A code that nobody can foresee.
fn code() -> Result<String> {
    let mut bytes = [0; LENGTH];
    File::open("/dev/urandom")
        .and_then(|mut random| random.read_exact(&mut bytes))
        .context("cannot read /dev/urandom")?;
    Ok(bytes.iter().map(|byte| char::from(SIGNS[usize::from(byte & 31)])).collect())
}
