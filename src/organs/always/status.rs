//! How everything stands that goes on without a terminal: the answer of `fledgling status`.
//!
//! Owns the shape of that answer, and that a session which may not read the whole workspace
//! learns nothing from it. Changes nothing.

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use crate::organs::always::background::Happening;
use crate::organs::always::schedule::job::Slot;
use crate::organs::always::schedule::when;
use crate::organs::host::Host;
use crate::organs::lane::lock;
use crate::organs::reach::item::Item;
use crate::organs::verb::Caller;

/// Slots of a job that are told, and among which its last run is looked for.
const SLOTS: usize = 20;

/// How things stand.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The process that hosts.
    pub pid: u32,
    /// Whether it is there to stay, so that schedule, services and channels run.
    pub stays: bool,
    /// Sessions with a turn under way, each with its seconds.
    pub turns: Vec<(String, u64)>,
    /// Jobs in force.
    pub jobs: Vec<JobStatus>,
    /// What is wrong with the crontab as it is written now, line by line.
    pub faults: Vec<String>,
    /// Reminders to come.
    pub reminders: usize,
    /// Services.
    pub services: Vec<ServiceStatus>,
    /// Channels.
    pub channels: Vec<ChannelStatus>,
    /// Words to the owner that nobody has seen yet.
    pub unread: usize,
    /// Tokens that unattended turns have used today, and may use.
    pub budget: (u64, u64),
    /// What that cost, and may cost, in millionths of a US dollar.
    #[serde(default)]
    pub budget_cost: (u64, u64),
    /// What went wrong of late, oldest first.
    pub errors: Vec<Happening>,
}

/// A job.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct JobStatus {
    /// Its name.
    pub name: String,
    /// Its times, as they stand in the crontab, with the zone where one is named.
    pub spec: String,
    /// What it runs.
    pub command: String,
    /// When it runs next, in words.
    pub next: String,
    /// Whether it runs now.
    pub running: bool,
    /// When it ran last, as `2026-11-21 09:00`, and what came of it: `done`, `failed` …
    pub last: Option<(String, String)>,
    /// Runs that were left out before that one, since nobody was there.
    pub missed: u64,
    /// How often in a row it failed.
    pub failures: u64,
    /// The end of what it said.
    pub tail: String,
    /// Its latest runs, the newest first.
    #[serde(default)]
    pub runs: Vec<RunStatus>,
}

/// A run of a job that is over.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RunStatus {
    /// The time it was for, as `2026-11-21 09:00`.
    pub at: String,
    /// What came of it: `done`, `failed` …
    pub outcome: String,
    /// How long it took; none where it never began.
    pub seconds: Option<i64>,
}

/// A service.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ServiceStatus {
    /// Its name.
    pub name: String,
    /// `runs`, `waits`, `quarantine`, `refused`.
    pub state: String,
    /// Since when, in local time.
    pub since: String,
    /// How often it was started.
    pub starts: u64,
    /// What is wrong, or how it ended last.
    pub note: String,
}

/// A channel.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ChannelStatus {
    /// Its name.
    pub name: String,
    /// Who is paired there.
    pub people: Vec<String>,
    /// Words that wait for delivery.
    pub waiting: usize,
}

impl Host {
    /// How things stand.
    pub(in crate::organs) fn status(&self, caller: &Caller) -> Result<Status> {
        self.check_overseer(caller)?;
        let (clock, loaded) = (&self.always.clock, lock(&self.always.loaded));
        let now = clock.now().to_zoned(clock.zone());
        let running = self.always.runs.running();
        let local =
            |at: jiff::Timestamp| at.to_zoned(clock.zone()).strftime("%Y-%m-%d %H:%M").to_string();
        let jobs = self.state.job_rows(SLOTS)?.into_iter().map(|row| {
            let mut over = row.slots;
            over.retain(|slot| !["queued", "running"].contains(&&*slot.state));
            let last = over.first();
            JobStatus {
                running: running.contains(&row.job.key),
                spec: row
                    .job
                    .zone
                    .iter()
                    .fold(row.job.spec.clone(), |spec, zone| format!("{spec} ({zone})")),
                next: row
                    .due
                    .map(|due| when::said(&due.to_zoned(clock.zone()), &now))
                    .unwrap_or_default(),
                missed: last.map_or(0, |last| last.missed.into()),
                failures: row.failures.into(),
                tail: last.map(|last| last.end.tail.clone()).unwrap_or_default(),
                last: last.map(|last| (local(last.at), outcome(last))),
                runs: over.iter().map(|slot| run(slot, local)).collect(),
                name: row.job.name,
                command: row.job.command,
            }
        });
        let jobs = jobs.collect();
        let faults = loaded.faults.iter().map(ToString::to_string).collect();
        drop(loaded);
        let turns =
            self.lanes().into_iter().filter_map(|(name, lane)| Some((name, lane.seconds()?)));
        let (spent, limit) = (self.state.spent(&self.today())?, self.a_day());
        Ok(Status {
            pid: std::process::id(),
            stays: self.settings.resident,
            turns: turns.collect(),
            jobs,
            faults,
            reminders: self.state.reminders()?.len(),
            services: self.services(),
            channels: self.channels()?,
            unread: self.state.for_terminal()?.len(),
            budget: (spent.tokens, limit.tokens),
            budget_cost: (spent.cost.0, limit.cost.0),
            errors: self.always.background.faults(),
        })
    }

    /// See that a caller may know of jobs and services, and start one again: the owner, and
    /// sessions that may read all of the workspace and were not narrowed.
    pub(in crate::organs) fn check_overseer(&self, caller: &Caller) -> Result<()> {
        let Caller::Hand(own) = caller else { return Ok(()) };
        let folder = self.home().workspace();
        let folder = folder.canonicalize().unwrap_or(folder);
        ensure!(
            self.has(own, &Item::Write(folder))?,
            "session {own} was narrowed, so jobs, services and channels are not for it"
        );
        Ok(())
    }
}

fn run(slot: &Slot, local: impl Fn(jiff::Timestamp) -> String) -> RunStatus {
    let took =
        slot.began.zip(slot.ended).map(|(began, ended)| ended.as_second() - began.as_second());
    RunStatus { at: local(slot.at), outcome: outcome(slot), seconds: took }
}

/// What came of a run, in a word or a few.
fn outcome(slot: &Slot) -> String {
    match (&*slot.state, slot.end.exit, &*slot.end.note) {
        ("done", Some(0), "") => "done".to_owned(),
        ("done", Some(0), note) => note.to_owned(),
        ("done", ..) => "failed".to_owned(),
        (state, _, "") => state.to_owned(),
        (state, _, note) => format!("{state}: {note}"),
    }
}
