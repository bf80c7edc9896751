//! Jobs as they run: each in a hand of its own, one at a time of each job.
//!
//! Owns the clock's loop, and what becomes of a run: its output is kept, what it changed is
//! committed in its name, a failure is told. Which run is due, and that none is lost or doubled,
//! is the ledger's.

use std::collections::HashMap;
use std::ffi::OsString;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Result;
use tokio::sync::Semaphore;

use crate::kernel::border::History as _;
use crate::kernel::interrupt::{Interrupt, Interrupter, interrupt};
use crate::kernel::tool::{Action, Hands as _};
use crate::organs::always::background::Kind;
use crate::organs::always::schedule::job::{Claimed, Ended, Job};
use crate::organs::always::schedule::ledger::ATTEMPTS;
use crate::organs::always::workers::{JOB, Worker};
use crate::organs::checkouts::Place;
use crate::organs::hand_door::HandDoor;
use crate::organs::history::archive::Message;
use crate::organs::host::{Host, Phase};
use crate::organs::lane::lock;

/// The longest that a run may take.
const LONGEST: Duration = Duration::from_secs(3_600);
/// Jobs that run at a time; more wait.
const AT_A_TIME: usize = 8;
/// What is noted of a run that somebody stopped.
const STOPPED: &str = "stopped";
/// Bytes of a run's output that are kept, from its end.
const TAIL: usize = 4_000;

/// The jobs under way.
#[derive(Debug)]
pub struct Runs {
    /// By their keys, with their names.
    running: Mutex<HashMap<String, (String, Interrupter)>>,
    places: Arc<Semaphore>,
}

impl Default for Runs {
    fn default() -> Self {
        Self { running: Mutex::default(), places: Semaphore::new(AT_A_TIME).into() }
    }
}

impl Runs {
    /// The jobs that run now.
    pub fn running(&self) -> Vec<String> {
        lock(&self.running).keys().cloned().collect()
    }

    /// Stop them, for good. Their names.
    pub fn interrupt(&self) -> Vec<String> {
        let running = lock(&self.running);
        running.values().for_each(|(_, interrupter)| interrupter.raise());
        running.values().map(|(name, _)| format!("{JOB}{name}")).collect()
    }

    /// Returns when none runs.
    pub async fn idle(&self) {
        let _ = self.places.acquire_many(AT_A_TIME as u32).await;
    }

    /// End them all. The next start runs them again.
    pub async fn stop(&self) {
        self.interrupt();
        // Each gives its place back when it is over.
        let all = self.places.acquire_many(AT_A_TIME as u32).await;
        self.places.close();
        drop(all);
    }
}

impl Host {
    /// Do what is due, when it is due, until the host ends.
    pub(super) async fn keep_time(self: Arc<Self>) {
        let reclaimed = self.state.given_up().and_then(|dead| {
            for dead in &dead {
                self.tell_dead(dead);
            }
            self.state.reclaim_slots().map(drop)
        });
        self.complain("", reclaimed);
        self.complain("", self.forget_the_old());
        let mut day = self.today();
        let mut before = None;
        // Only then it is known what is in force.
        self.always.ready.notified().await;
        while self.phase() == Phase::Open {
            let ticked = self.tick().map_err(|error| format!("{error:#}")).err();
            if let Some(error) = ticked.as_ref().filter(|_| ticked != before) {
                self.fault(Kind::Job, "", &format!("The schedule stands still: {error}"));
            }
            // What fails would fail again at once.
            let stuck = ticked.is_some();
            before = ticked;
            let today = self.today();
            if today != day {
                day = today;
                // There is a new budget.
                self.complain("", self.wake_all());
                self.complain("", self.forget_the_old());
            }
            let due = self.state.next_due().unwrap_or_default().filter(|_| !stuck);
            tokio::select! {
                () = tokio::time::sleep(self.always.clock.nap(due)) => {}
                () = self.always.wake.notified() => {}
            }
        }
    }

    fn tick(self: &Arc<Self>) -> Result<()> {
        let (now, zone) = (self.always.clock.now(), self.always.clock.zone());
        let jobs = lock(&self.always.loaded).jobs.clone();
        self.state.queue_slots(&jobs, now)?;
        for session in self.state.send_reminders(now, &zone)? {
            self.noted(Kind::Reminder, &session, "is due");
            self.wake(&session);
        }
        let free = AT_A_TIME.saturating_sub(lock(&self.always.runs.running).len());
        for claimed in self.state.claim_slots(free, now)? {
            let (interrupter, interrupt) = interrupt();
            let Job { key, name, .. } = claimed.job.clone();
            lock(&self.always.runs.running).insert(key, (name, interrupter));
            let host = self.clone();
            tokio::spawn(async move { host.run_job(claimed, interrupt).await });
        }
        Ok(())
    }

    fn forget_the_old(&self) -> Result<()> {
        let now = self.always.clock.now();
        self.state.prune_slots(now)?;
        self.state.sweep_received(now.as_second())?;
        self.state.sweep_letters(now.as_second())
    }

    async fn run_job(self: Arc<Self>, claimed: Claimed, interrupt: Interrupt) {
        let (job, slot) = (claimed.job.clone(), claimed.slot);
        let released = || self.complain(&job.name, self.state.release_slot(&job.key, slot));
        let Ok(_place) = self.always.runs.places.clone().acquire_owned().await else {
            return released();
        };
        let open = self.phase() == Phase::Open;
        let done = if open { Some(self.act_for(&claimed, interrupt).await) } else { None };
        lock(&self.always.runs.running).remove(&job.key);
        let ended = match done {
            Some(Ok((ended, false))) => ended,
            // Somebody said stop: it is over, and no failure.
            Some(Ok((ended, true))) if self.phase() == Phase::Open => {
                Ended { exit: Some(0), note: STOPPED.to_owned(), ..ended }
            }
            // The host ends, and the next one runs it again.
            None | Some(Ok(_)) => return released(),
            Some(Err(error)) => {
                Ended { exit: None, tail: format!("[{error:#}]"), note: String::new() }
            }
        };
        let ok = ended.exit == Some(0);
        let said = match (ok, &*ended.note) {
            (true, "") => "done",
            (true, note) => note,
            (false, _) => "failed",
        };
        // It is told once in a row, and before that is on record: a kill in between repeats it.
        let told = !ok && self.state.failures(&job.key).is_ok_and(|failures| failures == 0);
        if told {
            self.tell_failed(&claimed, &ended);
        }
        match self.state.finish_slot(&job.key, slot, &ended, self.always.clock.now()) {
            Ok(_) if told => {}
            Ok(streak) if streak.ends() => {
                self.happened(Kind::Job, &job.name, "done; it works again");
            }
            Ok(_) => self.tell_background(Kind::Job, &job.name, said, !ok),
            Err(error) => self.fault(Kind::Job, &job.name, &format!("{error:#}")),
        }
        self.always.look.notify_one();
        self.always.wake.notify_one();
    }

    /// Run it in a hand, and commit what it changed. Whether it was cut short is told, too.
    async fn act_for(
        self: &Arc<Self>,
        claimed: &Claimed,
        interrupt: Interrupt,
    ) -> Result<(Ended, bool)> {
        let Claimed { job, slot, missed, .. } = claimed;
        let name = format!("{JOB}{}", job.name);
        let mut env: Vec<(OsString, OsString)> =
            job.env.iter().map(|(name, value)| (name.into(), value.into())).collect();
        env.push(("FLEDGLING_JOB".into(), job.name.clone().into()));
        env.push(("FLEDGLING_DUE".into(), slot.to_string().into()));
        env.push(("FLEDGLING_MISSED".into(), missed.to_string().into()));
        let links = self.links(job.session.as_deref())?;
        let worker = Worker { session: job.session.clone(), links, env };
        let _known = self.always.workers.begin(&name, worker);
        let place = Place { folder: self.home().workspace(), snapshots: self.snapshots.clone() };
        let door = HandDoor::open(self.clone(), &name)?;
        let hand = self.hand(&door, &place, &name)?;
        // A kill from here on leaves changes that are the job's.
        self.state.begin(&name, 0)?;
        hand.before(&name, 0).await?;
        let action = Action::Bash { command: job.command.clone(), timeout: LONGEST };
        self.noted(Kind::Job, &job.name, "runs");
        let outcome = hand.act(action, interrupt.clone()).await;
        // Not later: what has ended by itself is not run again.
        let is_cut = interrupt.raised();
        let at = slot.to_zoned(self.always.clock.zone()).strftime("%Y-%m-%d %H:%M");
        let named = vec![("Job", format!("{} {at}", job.name)), ("Line", job.rev.clone())];
        let mut trailers = named.clone();
        trailers.push(("Origin", name.clone()));
        let subject = format!("Job {}: {}", job.name, job.command);
        let message = Message { subject, body: String::new(), trailers };
        place.snapshots.conclude(name.clone(), message).await?;
        // Whoever wrote the line is not there either, when it runs.
        self.guard_memory(&format!("the job {}", job.name), named).await;
        if !place.snapshots.writers().owes(&name) {
            self.state.finish(&name)?;
        }
        let tail = tail(&outcome.text);
        let exit = if outcome.error { None } else { Some(0) };
        Ok((Ended { exit, tail, note: String::new() }, is_cut))
    }

    fn tell_failed(&self, claimed: &Claimed, ended: &Ended) {
        let Claimed { job, slot, .. } = claimed;
        let last: Vec<_> = ended.tail.lines().rev().take(5).collect();
        let last: Vec<_> = last.into_iter().rev().collect();
        let text = format!(
            "The job {} failed; later failures in a row are only in `fledgling status`. The end of what it said:\n{}",
            job.name,
            last.join("\n")
        );
        self.tell_owner(&format!("failed:{}:{}", job.key, slot.as_second()), Kind::Job, &text);
    }

    fn tell_dead(&self, dead: &Claimed) {
        let Claimed { job, slot, .. } = dead;
        let at = slot.to_zoned(self.always.clock.zone()).strftime("%Y-%m-%d %H:%M");
        let text = format!(
            "The job {} of {at} is given up: the program ended {ATTEMPTS} times in the middle of it. Its next run comes when it is due.",
            job.name
        );
        self.tell_owner(&format!("dead:{}:{}", job.key, slot.as_second()), Kind::Job, &text);
    }
}

fn tail(text: &str) -> String {
    let from = text.len().saturating_sub(TAIL);
    let from = (from..=text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(text.len());
    text[from..].to_owned()
}
