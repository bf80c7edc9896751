//! What of the schedule is due, and what has come of it: rows `jobs` and `slots` of `state.db`.
//!
//! Owns that each time of a job becomes one slot: it is inserted in the transaction that moves
//! the job's `due` on, so that a kill at any moment neither loses nor doubles one. Times missed
//! are one slot that counts them. Does not know how a job is run, nor who wrote its line.
//!
//! `due` follows from the slot before it, never from loading the crontab. While the clock is set
//! back, `due` lies in the future and nothing happens until it comes again. Only when it is set
//! back by more than `STEP` was it wrong before: then jobs go on from now, and those times for
//! which there is a slot already pass without another.

use anyhow::Result;
use jiff::Timestamp;
use rusqlite::{OptionalExtension as _, Transaction, params};

use super::job::{
    Claimed, Ended, JOB, Job, JobRow, Planned, SLOT, Streak, job, optional_time, slot, time,
};
use crate::organs::state::State;

/// Beside the tables that a predecessor knows: it leaves them alone.
pub const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS jobs (key TEXT PRIMARY KEY, name TEXT NOT NULL, line INTEGER NOT NULL,
    spec TEXT NOT NULL, zone TEXT, command TEXT NOT NULL, env TEXT NOT NULL, session TEXT,
    rev TEXT NOT NULL, active INTEGER NOT NULL, due INTEGER, at INTEGER NOT NULL,
    failures INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS slots (job TEXT NOT NULL, slot INTEGER NOT NULL, state TEXT NOT NULL,
    missed INTEGER NOT NULL, attempts INTEGER NOT NULL, began INTEGER, ended INTEGER, exit INTEGER,
    tail TEXT NOT NULL, note TEXT NOT NULL, PRIMARY KEY (job, slot)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS slots_open ON slots (slot) WHERE state = 'queued' OR state = 'running';
";

/// How often a slot is begun before it is given up.
pub const ATTEMPTS: u32 = 3;

/// Missed times that are counted; more are as many.
const COUNTED: usize = 10_000;

/// Seconds by which a clock is set back when it had been wrong.
const STEP: i64 = 300;

/// Seconds for which slots are kept.
const KEPT: i64 = 90 * 24 * 60 * 60;

/// Slots of each job that are kept however old they are, with what was printed.
const KEPT_SLOTS: u32 = 20;

impl State {
    /// These jobs and no others are in force. A job that was in force before keeps its `due`;
    /// a new one, or one that comes back, is due from now on. Their keys.
    pub fn set_jobs(&self, jobs: &[Planned], now: Timestamp) -> Result<Vec<String>> {
        self.atomically(|rows| {
            let sql = "SELECT key FROM jobs WHERE active";
            let mut known = rows.prepare(sql)?;
            let known = known.query_map([], |row| row.get(0))?;
            let known: Vec<String> = known.collect::<rusqlite::Result<_>>()?;
            for key in known.iter().filter(|key| jobs.iter().all(|job| job.job.key != **key)) {
                rows.execute("UPDATE jobs SET active = 0, due = NULL WHERE key = ?", [key])?;
                let sql = "UPDATE slots SET state = 'skipped', note = 'removed'
                    WHERE job = ? AND state = 'queued'";
                rows.execute(sql, [key])?;
            }
            let mut new = Vec::new();
            for planned in jobs {
                keep(rows, &planned.job)?;
                if !known.contains(&planned.job.key) {
                    set_due(rows, planned, now)?;
                    new.push(planned.job.key.clone());
                }
            }
            Ok(new)
        })
    }

    /// Queue a slot for each job that is due, `jobs` being those in force. To be called
    /// whenever the host wakes, so that a clock set back is noticed.
    pub fn queue_slots(&self, jobs: &[Planned], now: Timestamp) -> Result<()> {
        let sql = "SELECT key FROM jobs WHERE active AND (due <= ?1 OR at > ?1 + ?2)";
        let due: Vec<String> = self.read(sql, params![now.as_second(), STEP], |row| row.get(0))?;
        for planned in jobs.iter().filter(|planned| due.contains(&planned.job.key)) {
            self.atomically(|rows| {
                let sql = "SELECT due FROM jobs WHERE key = ? AND due <= ?";
                let values = params![planned.job.key, now.as_second()];
                let due = rows.query_row(sql, values, |row| time(row, 0)).optional()?;
                if let Some(due) = due {
                    queue(rows, planned, due, now)?;
                }
                Ok(set_due(rows, planned, now)?)
            })?;
        }
        Ok(())
    }

    /// Begin to run what is queued, at most so many, those that wait longest first.
    pub fn claim_slots(&self, most: usize, now: Timestamp) -> Result<Vec<Claimed>> {
        self.atomically(|rows| {
            let claimed = open_slots(rows, "slots.state = 'queued'", most)?;
            for Claimed { job, slot, .. } in &claimed {
                let sql = "UPDATE slots SET state = 'running', attempts = attempts + 1, began = ?
                    WHERE job = ? AND slot = ?";
                rows.execute(sql, params![now.as_second(), job.key, slot.as_second()])?;
            }
            Ok(claimed)
        })
    }

    /// A run has ended. What that means for its job.
    pub fn finish_slot(
        &self,
        job: &str,
        slot: Timestamp,
        end: &Ended,
        now: Timestamp,
    ) -> Result<Streak> {
        self.atomically(|rows| {
            let sql = "UPDATE slots SET state = 'done', ended = ?, exit = ?, tail = ?, note = ?
                WHERE job = ? AND slot = ? AND state = 'running'";
            let Ended { exit, tail, note } = end;
            let values = params![now.as_second(), exit, tail, note, job, slot.as_second()];
            if rows.execute(sql, values)? == 0 {
                return Ok(Streak::default());
            }
            let sql = "SELECT failures FROM jobs WHERE key = ?";
            let before = rows.query_row(sql, [job], |row| row.get(0))?;
            let failures = if *exit == Some(0) { 0 } else { before + 1 };
            rows.execute("UPDATE jobs SET failures = ? WHERE key = ?", params![failures, job])?;
            Ok(Streak { failures, before })
        })
    }

    /// A run was cut short in an orderly way: it is queued again, and that was no attempt.
    pub fn release_slot(&self, job: &str, slot: Timestamp) -> Result<()> {
        let sql = "UPDATE slots SET state = 'queued', attempts = attempts - 1
            WHERE job = ? AND slot = ? AND state = 'running'";
        self.write(sql, params![job, slot.as_second()])
    }

    /// What an earlier host ran and is going to be given up, being cut short too often.
    pub fn given_up(&self) -> Result<Vec<Claimed>> {
        self.atomically(|rows| Ok(open_slots(rows, &given_up(), usize::MAX)?))
    }

    /// How many runs of a job failed in a row.
    pub fn failures(&self, job: &str) -> Result<u32> {
        let sql = "SELECT failures FROM jobs WHERE key = ?";
        Ok(self.read(sql, [job], |row| row.get(0))?.pop().unwrap_or_default())
    }

    /// Nobody runs what an earlier host ran: it is queued again, unless it was cut short too
    /// often or its job is gone. Those given up.
    pub fn reclaim_slots(&self) -> Result<Vec<Claimed>> {
        self.atomically(|rows| {
            let dead = open_slots(rows, &given_up(), usize::MAX)?;
            for Claimed { job, slot, .. } in &dead {
                let sql = "UPDATE slots SET state = 'dead', note = ? WHERE job = ? AND slot = ?";
                let note = format!("was cut short {ATTEMPTS} times");
                rows.execute(sql, params![note, job.key, slot.as_second()])?;
                let sql = "UPDATE jobs SET failures = failures + 1 WHERE key = ?";
                rows.execute(sql, [&job.key])?;
            }
            rows.execute_batch(
                "UPDATE slots SET state = 'skipped', note = 'removed' WHERE state = 'running'
                    AND job NOT IN (SELECT key FROM jobs WHERE active);
                UPDATE slots SET state = 'queued' WHERE state = 'running'",
            )?;
            Ok(dead)
        })
    }

    /// When the next job or reminder is due.
    pub fn next_due(&self) -> Result<Option<Timestamp>> {
        let sql = "SELECT due FROM jobs WHERE active AND due IS NOT NULL
            UNION ALL SELECT due FROM reminders WHERE state = 'pending' ORDER BY 1 LIMIT 1";
        Ok(self.read(sql, [], |row| time(row, 0))?.pop())
    }

    /// The jobs in force in the order of their lines, each with so many of its slots.
    pub fn job_rows(&self, slots: usize) -> Result<Vec<JobRow>> {
        let sql = format!("SELECT {JOB}, due, failures FROM jobs WHERE active ORDER BY line");
        let mut jobs = self.read(&sql, [], |row| {
            let due = optional_time(row, 9)?;
            Ok(JobRow { job: job(row)?, due, failures: row.get(10)?, slots: Vec::new() })
        })?;
        for row in &mut jobs {
            let sql = format!("SELECT {SLOT} FROM slots WHERE job = ? ORDER BY slot DESC LIMIT ?");
            row.slots = self.read(&sql, params![row.job.key, slots], slot)?;
        }
        Ok(jobs)
    }

    /// Forget what is long over: first what it printed, and with time that it was.
    pub fn prune_slots(&self, now: Timestamp) -> Result<()> {
        let older = "state NOT IN ('queued', 'running') AND (job, slot) IN (SELECT job, slot FROM
            (SELECT job, slot, row_number() OVER (PARTITION BY job ORDER BY slot DESC) AS nth
                FROM slots) WHERE nth > ?1)";
        self.atomically(|rows| {
            let sql = format!("UPDATE slots SET tail = '' WHERE tail <> '' AND {older}");
            rows.execute(&sql, [KEPT_SLOTS])?;
            let long_ago = now.as_second() - KEPT;
            let sql = format!("DELETE FROM slots WHERE slot < ?2 AND {older}");
            rows.execute(&sql, params![KEPT_SLOTS, long_ago])?;
            let sql = "DELETE FROM slots WHERE slot < ?
                AND job NOT IN (SELECT key FROM jobs WHERE active)";
            rows.execute(sql, [long_ago])?;
            let sql = "DELETE FROM jobs WHERE NOT active AND key NOT IN (SELECT job FROM slots)";
            Ok(rows.execute(sql, [])?)
        })?;
        Ok(())
    }
}

/// Write a job as it is now; what is due and has come of it stays.
fn keep(rows: &Transaction<'_>, job: &Job) -> rusqlite::Result<()> {
    let env = serde_json::to_string(&job.env).unwrap_or_default();
    let Job { key, name, line, spec, zone, command, session, rev, .. } = job;
    let sql = format!(
        "INSERT INTO jobs ({JOB}, active, at, failures) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 1, 0, 0)
            ON CONFLICT (key) DO UPDATE SET name = excluded.name, line = excluded.line,
            env = excluded.env, session = excluded.session, rev = excluded.rev,
            failures = failures * active, active = 1"
    );
    rows.execute(&sql, params![key, name, line, spec, zone, command, env, session, rev])?;
    Ok(())
}

/// The job is due next after now.
fn set_due(rows: &Transaction<'_>, planned: &Planned, now: Timestamp) -> rusqlite::Result<()> {
    let due = planned.pattern.next(now, &planned.zone).map(Timestamp::as_second);
    let sql = "UPDATE jobs SET due = ?, at = ? WHERE key = ?";
    rows.execute(sql, params![due, now.as_second(), planned.job.key])?;
    Ok(())
}

/// One slot for all times from `due` until now: the latest of them.
fn queue(
    rows: &Transaction<'_>,
    planned: &Planned,
    due: Timestamp,
    now: Timestamp,
) -> rusqlite::Result<()> {
    let Planned { job, pattern, zone } = planned;
    let latest = pattern.latest(due, now, zone);
    let missed = latest.map_or(0, |latest| pattern.count(due, latest, zone, COUNTED));
    let slot = latest.unwrap_or(due);
    // Not by the key: there may be a hundred thousand slots of a job, and few are open.
    let sql = "SELECT slot FROM slots INDEXED BY slots_open
        WHERE (state = 'queued' OR state = 'running') AND job = ? ORDER BY slot DESC LIMIT 1";
    let open = rows.query_row(sql, [&job.key], |row| time(row, 0)).optional()?;
    let (state, note) = match open {
        None => ("queued", String::new()),
        Some(open) => ("skipped", overlap(&open.to_zoned(zone.clone()), slot)),
    };
    let sql = "INSERT OR IGNORE INTO slots (job, slot, state, missed, attempts, tail, note)
        VALUES (?, ?, ?, ?, 0, '', ?)";
    rows.execute(sql, params![job.key, slot.as_second(), state, missed, note])?;
    Ok(())
}

/// Why a slot is skipped while another is open.
fn overlap(open: &jiff::Zoned, slot: Timestamp) -> String {
    let same_day = slot.to_zoned(open.time_zone().clone()).date() == open.date();
    let shown = open.strftime(if same_day { "%H:%M" } else { "%a %-d %b %H:%M" });
    format!("the run of {shown} had not ended")
}

/// Slots that are to be run, or given up, with their jobs.
fn given_up() -> String {
    format!("slots.state = 'running' AND attempts >= {ATTEMPTS} AND active")
}

fn open_slots(rows: &Transaction<'_>, which: &str, most: usize) -> rusqlite::Result<Vec<Claimed>> {
    let sql = format!(
        "SELECT {JOB}, slot, missed, attempts FROM slots JOIN jobs ON job = key WHERE {which}
            ORDER BY slot, line LIMIT ?"
    );
    let most = i64::try_from(most).unwrap_or(i64::MAX);
    let mut found = rows.prepare(&sql)?;
    let found = found.query_map([most], |row| {
        let attempt = row.get::<_, u32>(11)? + 1;
        Ok(Claimed { job: job(row)?, slot: time(row, 9)?, missed: row.get(10)?, attempt })
    })?;
    found.collect()
}

#[cfg(test)]
#[path = "ledger_tests.rs"]
mod tests;
