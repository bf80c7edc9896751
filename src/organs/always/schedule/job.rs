//! A job of the schedule, and what has come of it.
//!
//! Owns how both are written in rows and read from them. Does not know when a row changes.

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use rusqlite::Row;

use super::crontab::Line;
use super::pattern::Pattern;

/// A job, as its line says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// What it is known by as long as its line says the same.
    pub key: String,
    /// What people call it.
    pub name: String,
    /// The number of its line.
    pub line: usize,
    /// When, as written.
    pub spec: String,
    /// The zone, as written.
    pub zone: Option<String>,
    /// What is run.
    pub command: String,
    /// With what environment.
    pub env: Vec<(String, String)>,
    /// The session that wrote the line, if one did.
    pub session: Option<String>,
    /// The commit that wrote it; empty when it is in none yet.
    pub rev: String,
}

/// A job, and when it is due.
#[derive(Debug, Clone)]
pub struct Planned {
    /// The job.
    pub job: Job,
    /// When.
    pub pattern: Pattern,
    /// In which zone.
    pub zone: TimeZone,
}

impl Planned {
    /// A line of a crontab, which that session wrote with that commit.
    pub fn new(line: Line, session: Option<String>, rev: String) -> Self {
        let Line { number, spec, zone, time_zone, env, command, pattern, name, key } = line;
        let job = Job { key, name, line: number, spec, zone, command, env, session, rev };
        Self { job, pattern, zone: time_zone }
    }

    /// A job that is in force; `system` is the zone of those that name none.
    pub fn of_row(job: Job, system: &TimeZone) -> Result<Self> {
        let pattern = Pattern::parse(&job.spec)?;
        let zone = match &job.zone {
            Some(name) => TimeZone::get(name).with_context(|| {
                format!("there is no zone {name}; zones are called like Europe/Berlin")
            })?,
            None => system.clone(),
        };
        Ok(Self { job, pattern, zone })
    }
}

/// A slot to run now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claimed {
    /// The job.
    pub job: Job,
    /// The time it is for.
    pub slot: Timestamp,
    /// How many times before it were missed.
    pub missed: u32,
    /// Which attempt this is, from 1.
    pub attempt: u32,
}

/// How a run ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ended {
    /// The command's exit status; none when it has none.
    pub exit: Option<i32>,
    /// The last of what it printed.
    pub tail: String,
    /// What is to be said besides.
    pub note: String,
}

/// How a job has been doing, once a run of it has ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Streak {
    /// How many runs failed in a row, this one included.
    pub failures: u32,
    /// How many had before this one.
    pub before: u32,
}

impl Streak {
    /// Whether this run went well and the one before it did not.
    pub fn ends(self) -> bool {
        self.failures == 0 && self.before > 0
    }
}

/// What is kept of a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// The time it is for.
    pub at: Timestamp,
    /// `queued`, `running`, `done`, `skipped`, or `dead` when it was cut short too often.
    pub state: String,
    /// How many times before it were missed.
    pub missed: u32,
    /// How often it was begun.
    pub attempts: u32,
    /// When it was begun last.
    pub began: Option<Timestamp>,
    /// When it ended.
    pub ended: Option<Timestamp>,
    /// How it ended.
    pub end: Ended,
}

/// What is kept of a job in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobRow {
    /// The job.
    pub job: Job,
    /// When it is due next.
    pub due: Option<Timestamp>,
    /// How many runs failed in a row.
    pub failures: u32,
    /// Its latest slots, the newest first.
    pub slots: Vec<Slot>,
}

/// The columns of a job.
pub(super) const JOB: &str = "key, name, line, spec, zone, command, env, session, rev";

/// What `JOB` says.
pub(super) fn job(row: &Row<'_>) -> rusqlite::Result<Job> {
    Ok(Job {
        key: row.get(0)?,
        name: row.get(1)?,
        line: row.get(2)?,
        spec: row.get(3)?,
        zone: row.get(4)?,
        command: row.get(5)?,
        // Written by `keep`.
        env: serde_json::from_str(&row.get::<_, String>(6)?).unwrap_or_default(),
        session: row.get(7)?,
        rev: row.get(8)?,
    })
}

/// The columns of a slot.
pub(super) const SLOT: &str = "slot, state, missed, attempts, began, ended, exit, tail, note";

/// What `SLOT` says.
pub(super) fn slot(row: &Row<'_>) -> rusqlite::Result<Slot> {
    Ok(Slot {
        at: time(row, 0)?,
        state: row.get(1)?,
        missed: row.get(2)?,
        attempts: row.get(3)?,
        began: optional_time(row, 4)?,
        ended: optional_time(row, 5)?,
        end: Ended { exit: row.get(6)?, tail: row.get(7)?, note: row.get(8)? },
    })
}

/// A time in a row.
pub(super) fn time(row: &Row<'_>, column: usize) -> rusqlite::Result<Timestamp> {
    Ok(optional_time(row, column)?.unwrap_or(Timestamp::UNIX_EPOCH))
}

/// A time in a row, if there is one.
pub(super) fn optional_time(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<Timestamp>> {
    let seconds: Option<i64> = row.get(column)?;
    Ok(seconds.and_then(|seconds| Timestamp::from_second(seconds).ok()))
}
