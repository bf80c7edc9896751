//! Requests for more, and what was given in answer, as rows of `state.db`.
//!
//! Owns that a request is answered once, by its own number and before it expires, and that what
//! is given lies beside the answer that gave it. Does not know who may answer.

use anyhow::{Context as _, Result, bail};
use rusqlite::{OptionalExtension as _, Row, params};
use serde::{Deserialize, Serialize};

use crate::kernel::message::Origin;
use crate::kernel::session::now;
use crate::organs::reach::item::Item;
use crate::organs::state::State;

/// Beside the tables that a predecessor knows: it leaves them alone. Numbers are never used
/// again, so that an answer cannot be taken for one to another request.
pub const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS asks (id INTEGER PRIMARY KEY AUTOINCREMENT, session TEXT NOT NULL,
    approver TEXT NOT NULL, item TEXT NOT NULL, reason TEXT NOT NULL, lasting INTEGER NOT NULL,
    at TEXT NOT NULL, expires TEXT NOT NULL, answer TEXT, by TEXT, answered TEXT);
CREATE TABLE IF NOT EXISTS grants (session TEXT NOT NULL, item TEXT NOT NULL,
    ask INTEGER NOT NULL, at TEXT NOT NULL);
";

/// Requests that a list shows.
const LISTED: u64 = 30;

/// A request for more. As JSON an event like those of a turn, once when it comes and once when
/// it is over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename = "ask")]
pub struct Asked {
    /// Its number.
    pub id: i64,
    /// The session that asks.
    pub session: String,
    /// Who may answer, besides the owner.
    pub approver: Origin,
    /// What is asked for, by its final name.
    pub item: Item,
    /// Why, in the words of whoever asks.
    pub reason: String,
    /// Whether it can be given for good.
    pub lasting: bool,
    /// When it was asked.
    pub at: String,
    /// When it is refused by itself.
    pub expires: String,
    /// The answer, once there is one.
    pub answer: Option<Said>,
    /// Whose answer it is; nobody's where nobody could answer or did.
    pub by: Option<Origin>,
    /// When it was answered.
    pub answered: Option<String>,
}

/// An answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Said {
    /// Yes, for this conversation.
    Yes,
    /// Yes, for good.
    Always,
    /// No.
    No,
    /// Nobody said anything in time.
    Expired,
}

impl Said {
    const ALL: [(Self, &str); 4] = [
        (Self::Yes, "yes"),
        (Self::Always, "always"),
        (Self::No, "no"),
        (Self::Expired, "expired"),
    ];

    /// As it is typed, told and kept.
    pub fn word(self) -> &'static str {
        Self::ALL.iter().find(|(said, _)| *said == self).map_or("", |(_, word)| word)
    }

    /// What was typed.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, known)| *known == word).map(|(said, _)| *said)
    }
}

impl State {
    /// A request comes, to be answered within so many seconds. What is known of it.
    pub fn ask(&self, asked: Asked, seconds: u64) -> Result<Asked> {
        let Asked { session, approver, item, reason, lasting, .. } = &asked;
        let expires = jiff::Zoned::now() + jiff::SignedDuration::from_secs(seconds.cast_signed());
        let expires = expires.strftime("%Y-%m-%dT%H:%M:%S%:z").to_string();
        let item = serde_json::to_string(item).context("what is asked for has no name in UTF-8")?;
        let sql = "INSERT INTO asks (session, approver, item, reason, lasting, at, expires)
            VALUES (?, ?, ?, ?, ?, ?, ?) RETURNING id";
        let at = now();
        let row = params![session, approver.to_string(), item, reason, lasting, at, expires];
        let id = self.connection().query_row(sql, row, |row| row.get(0));
        let id = id.context("cannot write state.db")?;
        Ok(Asked { id, at, expires, ..asked })
    }

    /// A request, by its number.
    pub fn asked(&self, id: i64) -> Result<Option<Asked>> {
        let found = self.connection().query_row(&select("WHERE id = ?"), [id], read).optional();
        found.context("cannot read state.db")
    }

    /// The latest requests, the newest first.
    pub fn asks(&self) -> Result<Vec<Asked>> {
        self.read(&select("ORDER BY id DESC LIMIT ?"), [LISTED], read)
    }

    /// The requests of a session that wait for an answer, in their order.
    pub fn open_asks(&self, session: &str) -> Result<Vec<Asked>> {
        self.read(&select("WHERE session = ? AND answer IS NULL ORDER BY id"), [session], read)
    }

    /// A request is answered, and given what it asks for if so. The request as it is then; an
    /// error when it was answered before.
    pub fn settle(&self, id: i64, said: Said, by: Option<&Origin>) -> Result<Asked> {
        let mut connection = self.connection();
        let transaction = connection.transaction().context("cannot write state.db")?;
        let settled = || -> rusqlite::Result<Option<Asked>> {
            let by = by.map(ToString::to_string);
            let open = "UPDATE asks SET answer = ?, by = ?, answered = ?
                WHERE id = ? AND answer IS NULL";
            if transaction.execute(open, params![said.word(), by, now(), id])? == 0 {
                return Ok(None);
            }
            if said == Said::Yes {
                let give = "INSERT INTO grants (session, item, ask, at)
                    SELECT session, item, id, answered FROM asks WHERE id = ?";
                transaction.execute(give, [id])?;
            }
            transaction.query_row(&select("WHERE id = ?"), [id], read).optional()
        };
        let Some(asked) = settled().context("cannot write state.db")? else {
            bail!("request {id} is not open; `fledgling asks` lists them")
        };
        transaction.commit().context("cannot write state.db")?;
        Ok(asked)
    }

    /// What a session was given in answer to its requests, for itself alone.
    pub fn granted(&self, session: &str) -> Result<Vec<Item>> {
        let sql = "SELECT item FROM grants WHERE session = ? ORDER BY rowid";
        self.read(sql, [session], |row| item(row, 0))
    }

    /// Whether any session was given this, by this name.
    pub fn is_granted(&self, item: &Item) -> Result<bool> {
        let all = self.read("SELECT item FROM grants", [], |row| self::item(row, 0))?;
        Ok(all.contains(item))
    }

    /// Take back what sessions were given. Whether any was.
    pub fn ungrant(&self, item: &Item) -> Result<bool> {
        let all = self.read("SELECT rowid, item FROM grants", [], |row| {
            Ok((row.get::<_, i64>(0)?, self::item(row, 1)?))
        })?;
        let same = |given: &Item| match (given, item) {
            // A network is taken back whole.
            (Item::Network(_), Item::Network(_)) => true,
            _ => given == item,
        };
        let mut any = false;
        for (row, _) in all.into_iter().filter(|(_, given)| same(given)) {
            self.write("DELETE FROM grants WHERE rowid = ?", [row])?;
            any = true;
        }
        Ok(any)
    }

    /// Nobody waits for what an earlier host was asked.
    pub fn expire_asks(&self) -> Result<()> {
        let sql = "UPDATE asks SET answer = ?, answered = ? WHERE answer IS NULL";
        self.write(sql, params![Said::Expired.word(), now()])
    }
}

fn select(which: &str) -> String {
    format!(
        "SELECT id, session, approver, item, reason, lasting, at, expires, answer, by, answered
            FROM asks {which}"
    )
}

fn read(row: &Row<'_>) -> rusqlite::Result<Asked> {
    let origin = |text: String| Origin::from(text);
    let answer: Option<String> = row.get(8)?;
    Ok(Asked {
        id: row.get(0)?,
        session: row.get(1)?,
        approver: origin(row.get(2)?),
        item: item(row, 3)?,
        reason: row.get(4)?,
        lasting: row.get(5)?,
        at: row.get(6)?,
        expires: row.get(7)?,
        // A word that only a successor knows is no yes.
        answer: answer.map(|word| Said::parse(&word).unwrap_or(Said::No)),
        by: row.get::<_, Option<String>>(9)?.map(origin),
        answered: row.get(10)?,
    })
}

fn item(row: &Row<'_>, column: usize) -> rusqlite::Result<Item> {
    let text: String = row.get(column)?;
    serde_json::from_str(&text).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, error.into())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(session: &str, item: Item) -> Asked {
        Asked {
            id: 0,
            session: session.to_owned(),
            approver: Origin::Owner,
            item,
            reason: "because".to_owned(),
            lasting: true,
            at: String::new(),
            expires: String::new(),
            answer: None,
            by: None,
            answered: None,
        }
    }

    #[test]
    fn a_request_is_answered_once_and_what_is_given_is_its_sessions_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.db");
        let state = State::open(&path).unwrap();
        let item = Item::Read("/a \u{1b}b".into());
        let asked = state.ask(request("s", item.clone()), 60).unwrap();
        assert!(asked.expires > asked.at && asked.answer.is_none());
        assert_eq!(state.open_asks("s").unwrap(), std::slice::from_ref(&asked));
        assert_eq!(state.asked(asked.id + 1).unwrap(), None);
        assert!(state.settle(asked.id + 1, Said::Yes, None).is_err());
        let given = state.settle(asked.id, Said::Yes, Some(&Origin::Owner)).unwrap();
        assert_eq!((given.answer, &given.by), (Some(Said::Yes), &Some(Origin::Owner)));
        for said in [Said::No, Said::Yes] {
            let again = state.settle(asked.id, said, None).unwrap_err().to_string();
            assert!(again.contains("is not open"), "{again}");
        }
        let no = state.ask(request("s", Item::Unix), 60).unwrap();
        state.settle(no.id, Said::No, Some(&Origin::Owner)).unwrap();
        assert!(state.open_asks("s").unwrap().is_empty() && state.granted("t").unwrap().is_empty());
        drop(state);
        let state = State::open(&path).unwrap();
        assert_eq!(state.granted("s").unwrap(), std::slice::from_ref(&item));
        assert!(state.ungrant(&item).unwrap() && !state.ungrant(&item).unwrap());
        assert!(state.granted("s").unwrap().is_empty());
        assert_eq!(state.asks().unwrap().first().map(|asked| asked.id), Some(no.id));
    }

    #[test]
    fn what_a_killed_host_was_asked_has_expired() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.db");
        let id = State::open(&path).unwrap().ask(request("s", Item::Unix), 60).unwrap().id;
        let state = State::open(&path).unwrap();
        assert_eq!(state.asked(id).unwrap().unwrap().answer, Some(Said::Expired));
        assert!(state.settle(id, Said::Yes, None).is_err());
    }
}
