//! `state.db`: what must survive a kill and is neither transcript nor workspace.
//!
//! Owns the inbox, the turns that are under way, and each session's choice of model; what was
//! used are rows of `usage`, requests for more those of `reach::asks`, and what is due those of
//! `always::schedule`. One connection, in the host. Knows nothing of what messages mean.

use std::fs::File;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OptionalExtension as _, Transaction, params};

use crate::kernel::message::{Incoming, Origin};
use crate::kernel::session::now;
use crate::organs::always::budget;
use crate::organs::always::channels::people;
use crate::organs::always::outbox;
use crate::organs::always::schedule::{ledger, reminders};
use crate::organs::enclosed::{self, Enclosed};
use crate::organs::reach::asks;
use crate::organs::usage;

/// The format of `state.db` this version writes, and with it the home's. A predecessor
/// must be able to read it: a newer number is refused.
pub const FORMAT: i64 = 1;

/// Pages in the write-ahead log after which they are moved into the database: a dozen turns,
/// and little to read for the next start. A host that ends leaves them in the log: moving
/// them for each turn of its own would cost four waits for the disk instead of one.
const CHECKPOINT_PAGES: u32 = 128;

const SCHEMA: &str = "
CREATE TABLE inbox (id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, session TEXT NOT NULL,
    origin TEXT NOT NULL, text TEXT NOT NULL, steer INTEGER NOT NULL, model TEXT, at TEXT NOT NULL);
CREATE TABLE running (session TEXT PRIMARY KEY, turn INTEGER NOT NULL, at TEXT NOT NULL);
CREATE TABLE usage (at TEXT NOT NULL, session TEXT NOT NULL, turn INTEGER NOT NULL,
    origin TEXT NOT NULL, model TEXT NOT NULL, input INTEGER NOT NULL, output INTEGER NOT NULL,
    cache_read INTEGER NOT NULL, cache_write INTEGER NOT NULL);
CREATE TABLE choice (session TEXT PRIMARY KEY, model TEXT NOT NULL);
PRAGMA user_version = 1;
";

/// The open database.
#[derive(Debug)]
pub struct State(Mutex<Connection>);

impl Drop for State {
    fn drop(&mut self) {
        // Nobody is left to tell. What was written is in any case safe from a kill.
        let path = self.connection().path().map(|path| format!("{path}-wal"));
        let _ = path.and_then(|path| File::open(path).ok()?.sync_data().ok());
    }
}

/// A message that waits in an inbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// The message.
    pub incoming: Incoming,
    /// Whether it may join a turn under way; else it begins one of its own.
    pub steer: bool,
    /// The model to ask, when the sender wants a certain one.
    pub model: Option<String>,
}

impl State {
    /// Open it, or make it.
    pub fn open(path: &Path) -> Result<Self> {
        let shown = path.display();
        let open = || -> rusqlite::Result<(Connection, i64)> {
            let connection = Connection::open(path)?;
            connection.busy_timeout(std::time::Duration::from_secs(5))?;
            connection.pragma_update(None, "journal_mode", "WAL")?;
            connection.pragma_update(None, "synchronous", "NORMAL")?;
            connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
            connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
            let format = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
            Ok((connection, format))
        };
        let (connection, format) = open().with_context(|| format!("cannot open {shown}"))?;
        anyhow::ensure!(
            format <= FORMAT,
            "{shown} has format {format}, made by a newer fledgling; this one reads up to {FORMAT}: update it, or name another home with --home"
        );
        // In one go: the log of a new database has each page once.
        let schema = [
            if format == 0 { SCHEMA } else { "" },
            asks::SCHEMA,
            budget::SCHEMA,
            enclosed::SCHEMA,
            ledger::SCHEMA,
            outbox::SCHEMA,
            people::SCHEMA,
            reminders::SCHEMA,
            usage::SCHEMA,
        ];
        let made = connection.execute_batch(&format!("BEGIN; {} COMMIT;", schema.concat()));
        made.with_context(|| format!("cannot set up {shown}"))?;
        let state = Self(Mutex::new(connection));
        state.expire_asks()?;
        Ok(state)
    }

    /// Put a message into its session's inbox. One with the same key is there but once.
    pub fn receive(&self, waiting: &Waiting, session: &str) -> Result<()> {
        receive(&self.connection(), waiting, session).context("cannot write state.db")
    }

    /// The same with files.
    pub fn receive_with(&self, waiting: &Waiting, files: &[Enclosed], session: &str) -> Result<()> {
        self.atomically(|rows| {
            receive(rows, waiting, session)?;
            Ok(enclosed::put(rows, &waiting.incoming.key, files)?)
        })
    }

    /// What is written by now survives a power cut, too.
    pub fn flush(&self) -> Result<()> {
        let path = self.connection().path().map(|path| format!("{path}-wal"));
        let path = path.context("state.db has no path")?;
        let flushed = File::open(&path).and_then(|log| log.sync_data());
        flushed.with_context(|| format!("cannot flush {path} to disk"))
    }

    /// What waits for a session, oldest first.
    pub fn waiting(&self, session: &str) -> Result<Vec<Waiting>> {
        self.read(
            "SELECT key, origin, text, steer, model FROM inbox WHERE session = ? ORDER BY id",
            params![session],
            |row| {
                let origin = Origin::from(row.get::<_, String>(1)?);
                let images = Vec::new();
                let incoming = Incoming { key: row.get(0)?, origin, text: row.get(2)?, images };
                Ok(Waiting { incoming, steer: row.get(3)?, model: row.get(4)? })
            },
        )
    }

    /// How many messages wait, by session.
    pub fn backlog(&self) -> Result<Vec<(String, u64)>> {
        let sql = "SELECT session, count(*) FROM inbox GROUP BY session ORDER BY session";
        self.read(sql, [], |row| Ok((row.get(0)?, row.get(1)?)))
    }

    /// Take a message out of the inbox.
    pub fn taken(&self, key: &str) -> Result<()> {
        self.write("DELETE FROM inbox WHERE key = ?", params![key])
    }

    /// Take a message out of the inbox before its turn came. The session it waited for,
    /// if it did.
    pub fn take_back(&self, key: &str) -> Result<Option<String>> {
        let sql = "DELETE FROM inbox WHERE key = ? RETURNING session";
        let found = self.connection().query_row(sql, [key], |row| row.get(0)).optional();
        found.context("cannot write state.db")
    }

    /// A turn begins.
    pub fn begin(&self, session: &str, turn: u64) -> Result<()> {
        let sql = "INSERT OR REPLACE INTO running (session, turn, at) VALUES (?, ?, ?)";
        self.write(sql, params![session, turn, now()])
    }

    /// The session's turn is over.
    pub fn finish(&self, session: &str) -> Result<()> {
        self.write("DELETE FROM running WHERE session = ?", params![session])
    }

    /// The turns that a host began and did not finish.
    pub fn unfinished(&self) -> Result<Vec<(String, u64)>> {
        let sql = "SELECT session, turn FROM running ORDER BY at";
        self.read(sql, [], |row| Ok((row.get(0)?, row.get(1)?)))
    }

    /// The model chosen for a session, if one was.
    pub fn choice(&self, session: &str) -> Result<Option<String>> {
        let sql = "SELECT model FROM choice WHERE session = ?";
        let found = self.connection().query_row(sql, [session], |row| row.get(0)).optional();
        found.context("cannot read state.db")
    }

    /// Choose a model for a session.
    pub fn choose(&self, session: &str, model: &str) -> Result<()> {
        self.write("INSERT OR REPLACE INTO choice VALUES (?, ?)", params![session, model])
    }

    pub(super) fn connection(&self) -> MutexGuard<'_, Connection> {
        // A panic elsewhere cannot leave a statement half done: SQLite rolls back.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Do all of it or, when it fails or the host is killed, nothing.
    pub(super) fn atomically<T>(
        &self,
        change: impl FnOnce(&Transaction<'_>) -> Result<T>,
    ) -> Result<T> {
        let mut connection = self.connection();
        let whole = || -> Result<T> {
            let transaction = connection.transaction()?;
            let done = change(&transaction)?;
            transaction.commit()?;
            Ok(done)
        };
        // What the change finds wrong says so itself.
        let is_ours = |error: &anyhow::Error| error.is::<rusqlite::Error>();
        whole().map_err(|error| {
            if is_ours(&error) { error.context("cannot write state.db") } else { error }
        })
    }

    pub(super) fn write(&self, sql: &str, params: impl rusqlite::Params) -> Result<()> {
        self.connection().execute(sql, params).context("cannot write state.db")?;
        Ok(())
    }

    pub(super) fn read<T>(
        &self,
        sql: &str,
        params: impl rusqlite::Params,
        row: impl FnMut(&rusqlite::Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>> {
        let connection = self.connection();
        let mut statement = connection.prepare(sql).context("cannot read state.db")?;
        let rows = statement.query_map(params, row).and_then(Iterator::collect);
        rows.context("cannot read state.db")
    }
}

/// Put a message into an inbox within a transaction.
pub(super) fn receive(
    connection: &Connection,
    waiting: &Waiting,
    session: &str,
) -> rusqlite::Result<()> {
    let Waiting { incoming: Incoming { key, origin, text, .. }, steer, model } = waiting;
    let sql = "INSERT OR IGNORE INTO inbox (key, session, origin, text, steer, model, at)
        VALUES (?, ?, ?, ?, ?, ?, ?)";
    let row = params![key, session, origin.to_string(), text, steer, model, now()];
    connection.execute(sql, row).map(|_| ())
}
