//! Words on their way to the owner or to a chat, as rows of `state.db`.
//!
//! Owns that each is kept until it was delivered, once by its key; the order within a chat; and
//! when what could not be delivered is tried again or given up. What is for the owner goes
//! wherever the owner wrote last, or to whoever shows it in a terminal first. Does not know how
//! anything is delivered.

use anyhow::{Context as _, Result};
use rusqlite::{Connection, OptionalExtension as _, Row, params};
use serde::{Deserialize, Serialize};

use crate::organs::always::channels::contract::Retry;
use crate::organs::state::State;

/// Beside the tables that a predecessor knows: it leaves them alone. Of what is for the owner,
/// `channel` and `chat` say where it is being delivered right now: nowhere, when a host starts.
pub const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS outbox (id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, session TEXT,
    owner INTEGER NOT NULL, channel TEXT, chat TEXT, reply_to TEXT, text TEXT NOT NULL,
    files TEXT, at INTEGER NOT NULL, state TEXT NOT NULL DEFAULT 'pending',
    attempts INTEGER NOT NULL DEFAULT 0, waited INTEGER NOT NULL DEFAULT 0,
    next INTEGER NOT NULL DEFAULT 0, error TEXT,
    cut INTEGER NOT NULL DEFAULT 0, done INTEGER NOT NULL DEFAULT 0);
CREATE INDEX IF NOT EXISTS outbox_pending ON outbox (id) WHERE state = 'pending';
UPDATE outbox SET channel = NULL, chat = NULL WHERE owner AND done = 0 AND state = 'pending';
";

/// The first wait after a failure, in seconds; each further one is twice as long.
const FIRST: i64 = 5;
/// The longest wait.
const LONGEST: i64 = 3600;
/// What is given up has been waited for so long, attempt by attempt: time in which nobody could
/// try, because the service or the host was down, does not count.
const PATIENCE: i64 = 24 * 3600;
/// What an attempt counts at least, so that a service which always says "at once" is not asked
/// for ever.
const COUNTED: i64 = 60;
/// How long it is remembered what was delivered.
const KEPT: i64 = 30 * 24 * 3600;

/// Words on their way.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Letter {
    /// The same words have the same key, however often they are sent.
    pub key: String,
    /// The session whose words they are.
    pub session: Option<String>,
    /// The channel and the chat; to the owner, wherever that is, if there is none.
    pub to: Option<(String, String)>,
    /// The message they answer.
    pub reply_to: Option<String>,
    /// The words.
    pub text: String,
    /// Files to go with them.
    pub files: Vec<String>,
}

impl Letter {
    /// What a terminal shows, which carries no files.
    pub fn shown(&self) -> String {
        let files = self.files.iter().map(|file| format!("[file: {file}]"));
        let words = Some(self.text.clone()).filter(|text| !text.is_empty());
        words.into_iter().chain(files).collect::<Vec<_>>().join("\n")
    }
}

/// A letter that is the next of its chat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    /// The letter.
    pub letter: Letter,
    /// Where it goes now.
    pub chat: String,
    /// When it may be tried, in seconds of Unix.
    pub next: i64,
    /// The limit by which it was split when it was first tried.
    pub cut: usize,
    /// How many of its parts are delivered.
    pub done: usize,
}

/// A letter that is given up; the owner is to be told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dead {
    /// What it was.
    pub letter: Letter,
    /// What the last failure was.
    pub error: String,
}

const COLUMNS: &str = "key, session, owner, channel, chat, reply_to, text, files, next, cut, done";

impl State {
    /// Send words. Whether they are new: those with a key that was sent before are not.
    pub fn send(&self, letter: &Letter, now: i64) -> Result<bool> {
        put(&self.connection(), letter, now).context("cannot write state.db")
    }

    /// How many words of a session wait for delivery; with none, of all that have none.
    pub fn unsent(&self, session: Option<&str>) -> Result<usize> {
        let sql = "SELECT count(*) FROM outbox WHERE state = 'pending' AND session IS ?";
        let count = self.connection().query_row(sql, [session], |row| row.get(0));
        count.context("cannot read state.db")
    }

    /// What a channel may deliver now: of each chat the first letter, unless it waits for
    /// another attempt.
    pub fn letters_for(&self, channel: &str, now: i64) -> Result<Vec<Due>> {
        let mut heads = self.next_letters(channel)?;
        heads.retain(|due| due.next <= now);
        Ok(heads)
    }

    /// Of each chat of a channel the first letter, whenever it may be tried.
    pub fn next_letters(&self, channel: &str) -> Result<Vec<Due>> {
        let owner = self.owner_chat()?.filter(|(of, _)| of == channel).map(|(_, chat)| chat);
        // Of a group, SQLite takes the columns beside min() from the row that has it.
        let sql = "SELECT key, session, owner, channel, coalesce(chat, ?2) AS goes, reply_to,
            text, files, next, cut, done, min(id) FROM outbox WHERE state = 'pending'
            AND (channel = ?1 OR channel IS NULL AND ?2 IS NOT NULL) GROUP BY goes ORDER BY 12";
        self.read(sql, params![channel, owner], read)
    }

    /// A letter is handed to a channel's service, cut to a limit. Where it is for the owner, it
    /// stays with this chat until it fails or the service ends.
    pub fn try_letter(&self, channel: &str, due: &Due) -> Result<()> {
        let sql = "UPDATE outbox SET channel = ?, chat = ?, cut = ?, done = ? WHERE key = ?";
        self.write(sql, params![channel, due.chat, due.cut, due.done, due.letter.key])
    }

    /// A letter that is not delivered yet, by its key.
    pub fn pending_letter(&self, key: &str) -> Result<Option<Due>> {
        let sql = format!("SELECT {COLUMNS} FROM outbox WHERE key = ? AND state = 'pending'");
        let found = self.connection().query_row(&sql, [key], read).optional();
        found.context("cannot read state.db")
    }

    /// The first parts of a letter are delivered.
    pub fn delivered_parts(&self, key: &str, done: usize) -> Result<()> {
        self.write("UPDATE outbox SET done = ? WHERE key = ?", params![done, key])
    }

    /// A letter is delivered. Whether it was not yet.
    pub fn delivered(&self, key: &str) -> Result<bool> {
        let sql = "UPDATE outbox SET state = 'delivered' WHERE key = ? AND state = 'pending'";
        let changed = self.connection().execute(sql, [key]).context("cannot write state.db")?;
        Ok(changed > 0)
    }

    /// A letter could not be delivered. It is tried again, unless that is of no use or has been
    /// for a whole day: then it is dead.
    pub fn failed(&self, key: &str, error: &str, retry: Retry, now: i64) -> Result<Option<Dead>> {
        let connection = self.connection();
        let tried = || -> rusqlite::Result<Option<Dead>> {
            let sql = format!(
                "SELECT {COLUMNS}, attempts, waited FROM outbox WHERE key = ? AND state = 'pending'"
            );
            let row = |row: &Row<'_>| Ok((read(row)?, row.get::<_, u32>(11)?, row.get(12)?));
            let found = connection.query_row(&sql, [key], row).optional()?;
            let Some((Due { letter, .. }, attempts, waited)) = found else { return Ok(None) };
            let wait = match retry {
                Retry::Backoff => (FIRST << attempts.min(16)).min(LONGEST),
                Retry::After(seconds) => i64::from(seconds).clamp(1, LONGEST),
                Retry::Never => PATIENCE,
            };
            let waited: i64 = waited;
            let waited = waited + wait.max(COUNTED);
            let state = if waited >= PATIENCE { "dead" } else { "pending" };
            let sql = "UPDATE outbox SET state = ?, attempts = attempts + 1, waited = ?, next = ?,
                error = ? WHERE key = ?";
            connection.execute(sql, params![state, waited, now + wait, error, key])?;
            release(&connection, "key = ?", key)?;
            Ok((state == "dead").then(|| Dead { letter, error: error.to_owned() }))
        };
        tried().context("cannot write state.db")
    }

    /// A channel's service begins or ends: what it had of the owner's letters and has not begun
    /// to deliver may go another way.
    pub fn release_letters(&self, channel: &str) -> Result<()> {
        release(&self.connection(), "channel = ?", channel).context("cannot write state.db")
    }

    /// What nobody has shown or delivered to the owner yet, in order.
    pub fn for_terminal(&self) -> Result<Vec<Letter>> {
        let sql = format!(
            "SELECT {COLUMNS} FROM outbox WHERE owner AND state IN ('pending', 'dead') ORDER BY id"
        );
        self.read(&sql, [], |row| Ok(read(row)?.letter))
    }

    /// The owner was shown a letter in a terminal. Whether nobody had delivered it yet.
    pub fn shown(&self, key: &str) -> Result<bool> {
        let sql = "UPDATE outbox SET state = 'delivered'
            WHERE key = ? AND owner AND state IN ('pending', 'dead')";
        let changed = self.connection().execute(sql, [key]).context("cannot write state.db")?;
        Ok(changed > 0)
    }

    /// How many letters wait, by channel; those for the owner that are nowhere yet have none.
    pub fn pending_letters(&self) -> Result<Vec<(Option<String>, u64)>> {
        let sql = "SELECT channel, count(*) FROM outbox WHERE state = 'pending'
            GROUP BY channel ORDER BY channel";
        self.read(sql, [], |row| Ok((row.get(0)?, row.get(1)?)))
    }

    /// Forget what was delivered or given up long ago. What the owner has not seen is kept.
    pub fn sweep_letters(&self, now: i64) -> Result<()> {
        let sql = "DELETE FROM outbox WHERE at < ? AND
            (state = 'delivered' OR state = 'dead' AND NOT owner)";
        self.write(sql, [now - KEPT])
    }
}

/// Send words within a transaction. Where there are none, nothing is sent.
pub(super) fn put(connection: &Connection, letter: &Letter, now: i64) -> rusqlite::Result<bool> {
    let Letter { key, session, to, reply_to, text, files } = letter;
    if text.trim().is_empty() && files.is_empty() {
        return Ok(false);
    }
    let (channel, chat) = to.as_ref().map(|(channel, chat)| (channel, chat)).unzip();
    let files = (!files.is_empty()).then(|| serde_json::json!(files).to_string());
    let sql = "INSERT OR IGNORE INTO outbox
        (key, session, owner, channel, chat, reply_to, text, files, at)
        VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)";
    let row = params![key, session, to.is_none(), channel, chat, reply_to, text, files, now];
    Ok(connection.execute(sql, row)? > 0)
}

/// What goes to chats that nobody is paired in any more is delivered to nobody.
pub(super) fn give_up(connection: &Connection, channel: &str, chat: &str) -> rusqlite::Result<()> {
    let sql = "UPDATE outbox SET state = 'dead', error = 'nobody is paired there any more'
        WHERE channel = ? AND chat = ? AND state = 'pending' AND NOT owner";
    connection.execute(sql, [channel, chat])?;
    let sql = "UPDATE outbox SET channel = NULL, chat = NULL, done = 0
        WHERE channel = ? AND chat = ? AND owner";
    connection.execute(sql, [channel, chat]).map(|_| ())
}

/// Parts that are delivered keep the rest with their chat.
fn release(connection: &Connection, which: &str, value: &str) -> rusqlite::Result<()> {
    let sql = format!(
        "UPDATE outbox SET channel = NULL, chat = NULL
            WHERE owner AND done = 0 AND state != 'delivered' AND {which}"
    );
    connection.execute(&sql, [value]).map(|_| ())
}

fn read(row: &Row<'_>) -> rusqlite::Result<Due> {
    let channel: Option<String> = row.get(3)?;
    let chat: Option<String> = row.get(4)?;
    let for_owner: bool = row.get(2)?;
    let to = channel.zip(chat.clone()).filter(|_| !for_owner);
    let files: Option<String> = row.get(7)?;
    let letter = Letter {
        key: row.get(0)?,
        session: row.get(1)?,
        to,
        reply_to: row.get(5)?,
        text: row.get(6)?,
        files: files.and_then(|files| serde_json::from_str(&files).ok()).unwrap_or_default(),
    };
    let chat = chat.unwrap_or_default();
    Ok(Due { letter, chat, next: row.get(8)?, cut: row.get(9)?, done: row.get(10)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 24 * 3600;

    fn state() -> (tempfile::TempDir, State) {
        let folder = tempfile::tempdir().unwrap();
        let state = State::open(&folder.path().join("state.db")).unwrap();
        (folder, state)
    }

    fn letter(key: &str, to: Option<(&str, &str)>) -> Letter {
        Letter {
            key: key.to_owned(),
            session: Some("s".to_owned()),
            to: to.map(|(channel, chat)| (channel.to_owned(), chat.to_owned())),
            reply_to: Some("5".to_owned()),
            text: format!("text of {key}"),
            files: vec!["/a b".to_owned()],
        }
    }

    #[test]
    fn a_letter_is_there_once_and_comes_back_as_it_was_sent() {
        let (_folder, state) = state();
        let sent = letter("a", Some(("c", "1")));
        assert!(state.send(&sent, 0).unwrap() && !state.send(&sent, 0).unwrap());
        let due = state.letters_for("c", 0).unwrap();
        assert_eq!((due.len(), &due[0].letter, due[0].chat.as_str()), (1, &sent, "1"));
        assert!(state.letters_for("d", 0).unwrap().is_empty());
        assert_eq!(state.pending_letters().unwrap(), [(Some("c".to_owned()), 1)]);
        assert!(state.delivered("a").unwrap() && !state.delivered("a").unwrap());
        assert!(!state.send(&sent, 0).unwrap() && state.letters_for("c", 0).unwrap().is_empty());
        let empty = Letter { text: " \n".into(), files: Vec::new(), ..letter("b", None) };
        assert!(!state.send(&empty, 0).unwrap() && state.for_terminal().unwrap().is_empty());
    }

    #[test]
    fn a_day_of_trying_is_enough_and_an_hour_without_a_network_is_not() {
        let (_folder, state) = state();
        for (key, retry) in [("own", Retry::Backoff), ("at once", Retry::After(0))] {
            state.send(&letter(key, Some(("c", key))), 0).unwrap();
            let (mut now, mut tries) = (0, 0);
            let dead = loop {
                tries += 1;
                if let Some(dead) = state.failed(key, "down", retry, now).unwrap() {
                    break dead;
                }
                let due = state.pending_letter(key).unwrap().unwrap();
                assert!(due.next > now && due.next <= now + LONGEST);
                now = due.next;
            };
            assert_eq!((dead.letter.key.as_str(), dead.error.as_str()), (key, "down"));
            assert!(tries <= 24 * 60 && (retry != Retry::Backoff || now > DAY - 2 * LONGEST));
            assert_eq!(state.failed(key, "down", retry, now).unwrap(), None);
        }
        // However long the host was down.
        state.send(&letter("late", Some(("c", "1"))), 0).unwrap();
        assert_eq!(state.failed("late", "x", Retry::Backoff, 9 * DAY).unwrap(), None);
        assert!(state.failed("late", "x", Retry::Never, 9 * DAY).unwrap().is_some());
    }

    #[test]
    fn what_the_owner_has_not_seen_is_kept() {
        let (folder, state) = state();
        for (key, to) in [("a", None), ("b", None), ("c", Some(("c", "1"))), ("d", None)] {
            state.send(&letter(key, to), 0).unwrap();
        }
        assert!(!state.shown("c").unwrap());
        state.failed("a", "x", Retry::Never, 0).unwrap();
        state.failed("c", "x", Retry::Never, 0).unwrap();
        let due = Due { chat: "1".into(), ..state.pending_letter("b").unwrap().unwrap() };
        state.try_letter("c", &due).unwrap();
        assert_eq!(state.letters_for("c", 0).unwrap()[0].letter.key, "b");
        state.delivered("d").unwrap();
        state.sweep_letters(KEPT + 1).unwrap();
        drop(state);
        let state = State::open(&folder.path().join("state.db")).unwrap();
        let left: Vec<_> = state.for_terminal().unwrap().into_iter().map(|l| l.key).collect();
        assert_eq!(left, ["a", "b"]);
        // The host that was killed does not deliver it any more.
        assert!(state.letters_for("c", 0).unwrap().is_empty());
        assert!(state.shown("a").unwrap() && state.shown("b").unwrap());
        assert!(state.send(&letter("c", None), 0).unwrap());
    }
}
