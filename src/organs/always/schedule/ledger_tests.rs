//! Jobs and their slots, through kills, sleeps and clocks that are set: none is lost and none
//! comes twice. Runs no job.

use std::path::PathBuf;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, ToSpan as _};
use proptest::prelude::*;

use super::*;
use crate::organs::always::schedule::crontab::Crontab;
use crate::organs::always::schedule::job::Slot;

/// A home whose host can be killed.
struct Home {
    _folder: tempfile::TempDir,
    path: PathBuf,
    state: State,
    now: Timestamp,
    jobs: Vec<Planned>,
}

impl Home {
    fn new(crontab: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.db");
        let state = State::open(&path).unwrap();
        let now = "2026-11-21T08:59:30.5Z".parse().unwrap();
        let mut home = Self { _folder: folder, path, state, now, jobs: Vec::new() };
        home.edit(crontab);
        home
    }

    fn edit(&mut self, crontab: &str) -> Vec<String> {
        let crontab = Crontab::parse(crontab, &TimeZone::UTC);
        assert_eq!(crontab.faults, []);
        let planned = |line| Planned::new(line, Some("s".to_owned()), "abc".to_owned());
        self.jobs = crontab.lines.into_iter().map(planned).collect();
        self.state.set_jobs(&self.jobs, self.now).unwrap()
    }

    fn restart(&mut self) -> Vec<Claimed> {
        self.state = State::open(&self.path).unwrap();
        assert_eq!(self.state.set_jobs(&self.jobs, self.now).unwrap(), Vec::<String>::new());
        self.state.reclaim_slots().unwrap()
    }

    fn pass(&mut self, seconds: i64) {
        self.now += SignedDuration::from_secs(seconds);
        self.state.queue_slots(&self.jobs, self.now).unwrap();
    }

    fn claim(&self) -> Vec<Claimed> {
        self.state.claim_slots(usize::MAX, self.now).unwrap()
    }

    fn finish(&self, claimed: &Claimed, exit: i32) -> Streak {
        let end = Ended { exit: Some(exit), tail: "out".to_owned(), note: String::new() };
        self.state.finish_slot(&claimed.job.key, claimed.slot, &end, self.now).unwrap()
    }

    /// The slots of the only job, oldest first: when, in what state, how many missed, and why.
    fn slots(&self) -> Vec<(String, String, u32, String)> {
        let [row] = self.state.job_rows(1_000).unwrap().try_into().unwrap();
        let shown = |slot: Slot| {
            let at = slot.at.strftime("%H:%M").to_string();
            (at, slot.state, slot.missed, slot.end.note)
        };
        row.slots.into_iter().rev().map(shown).collect()
    }
}

fn row(at: &str, state: &str, missed: u32, note: &str) -> (String, String, u32, String) {
    (at.to_owned(), state.to_owned(), missed, note.to_owned())
}

#[test]
fn a_slot_runs_once_and_what_comes_of_it_is_kept() {
    let mut home = Home::new("X=1\n0 9 * * * fetch news");
    home.pass(29);
    assert!(home.claim().is_empty());
    home.pass(1);
    home.pass(0);
    let [claimed] = home.claim().try_into().unwrap();
    assert_eq!(
        (claimed.job.command.as_str(), claimed.attempt, claimed.missed),
        ("fetch news", 1, 0)
    );
    assert_eq!(claimed.job, home.jobs[0].job);
    assert!(home.claim().is_empty());
    home.now += 5.seconds();
    assert_eq!(home.finish(&claimed, 0), Streak { failures: 0, before: 0 });
    let [row] = home.state.job_rows(5).unwrap().try_into().unwrap();
    assert_eq!(row.due, Some("2026-11-22T09:00:00Z".parse().unwrap()));
    assert_eq!(home.state.next_due().unwrap(), row.due);
    let [slot] = row.slots.try_into().unwrap();
    assert_eq!(
        (slot.state.as_str(), slot.end.exit, slot.end.tail.as_str()),
        ("done", Some(0), "out")
    );
    assert_eq!(slot.ended.unwrap().as_second() - slot.began.unwrap().as_second(), 5);
    home.restart();
    assert!(home.claim().is_empty());
}

#[test]
fn missed_times_are_one_run_and_an_overlap_is_skipped_and_said() {
    let mut home = Home::new("0 * * * * a");
    home.restart();
    home.pass(3 * 3600 + 120);
    let [claimed] = home.claim().try_into().unwrap();
    assert_eq!((claimed.missed, claimed.slot.strftime("%H:%M").to_string().as_str()), (3, "12:00"));
    home.pass(3600);
    home.pass(24 * 3600);
    assert!(home.claim().is_empty());
    home.finish(&claimed, 0);
    home.pass(3600);
    let wanted = [
        row("12:00", "done", 3, ""),
        row("13:00", "skipped", 0, "the run of 12:00 had not ended"),
        row("13:00", "skipped", 23, "the run of Sat 21 Nov 12:00 had not ended"),
        row("14:00", "queued", 0, ""),
    ];
    assert_eq!(home.slots(), wanted);
}

#[test]
fn a_run_cut_short_is_run_again_but_not_for_ever() {
    let mut home = Home::new("0 9 * * * a");
    home.pass(60);
    for attempt in 1..=ATTEMPTS {
        assert_eq!(home.claim()[0].attempt, attempt);
        let dead = home.restart();
        assert_eq!(dead.len(), usize::from(attempt == ATTEMPTS));
    }
    assert!(home.claim().is_empty());
    assert_eq!(home.slots(), [row("09:00", "dead", 0, "was cut short 3 times")]);
    home.pass(24 * 3600);
    let next = home.claim();
    assert_eq!(home.finish(&next[0], 1), Streak { failures: 2, before: 1 });
}

#[test]
fn failures_in_a_row_are_counted() {
    let mut home = Home::new("* * * * * a");
    let mut told = Vec::new();
    for exit in [0, 1, 2, 0, 0, 1] {
        home.pass(60);
        let streak = home.finish(&home.claim()[0], exit);
        told.push((streak.failures, (streak.failures == 1), streak.ends()));
    }
    let quiet = (0, false, false);
    let wanted =
        [quiet, (1, true, false), (2, false, false), (0, false, true), quiet, (1, true, false)];
    assert_eq!(told, wanted);
    let unknown = Claimed { slot: home.now + 1.hour(), ..home_job(&home) };
    assert_eq!(home.finish(&unknown, 1), Streak::default());
}

fn home_job(home: &Home) -> Claimed {
    Claimed { job: home.jobs[0].job.clone(), slot: home.now, missed: 0, attempt: 1 }
}

#[test]
fn edits_leave_what_other_lines_have_due_alone() {
    let mut home = Home::new("0 9 * * * a\n0 9 * * * b");
    home.now += 10.minutes();
    // Both are overdue. The one that stays runs, the one that went does not, a new one waits.
    let new = home.edit("\n0 9 * * * b\n0 9 * * * c");
    assert_eq!(new.len(), 1);
    home.pass(0);
    let [claimed] = home.claim().try_into().unwrap();
    assert_eq!((claimed.job.command.as_str(), claimed.job.line), ("b", 2));
    // One that comes back is as a new one.
    home.edit("0 9 * * * a");
    home.pass(0);
    assert!(home.claim().is_empty());
    assert_eq!(home.finish(&claimed, 1).failures, 1);
    home.edit("0 9 * * * a\n0 9 * * * b");
    let failures: Vec<_> = home.state.job_rows(9).unwrap().iter().map(|row| row.failures).collect();
    assert_eq!(failures, [0, 0]);
    home.pass(24 * 3600);
    home.edit("0 9 * * * b");
    let left = home.claim();
    assert_eq!(left.len(), 1);
    home.edit("0 9 * * * a");
    assert!(home.restart().is_empty() && home.claim().is_empty());
    home.edit("0 9 * * * b");
    assert_eq!(home.slots().last().unwrap(), &row("09:00", "skipped", 0, "removed"));
}

#[test]
fn a_clock_that_is_set_runs_nothing_twice_and_stops_nothing_for_long() {
    let mut home = Home::new("* * * * * a");
    let run = |home: &mut Home, seconds: i64| {
        home.pass(seconds);
        let claimed = home.claim();
        for one in &claimed {
            home.finish(one, 0);
        }
        claimed.len()
    };
    for _ in 0..10 {
        assert_eq!(run(&mut home, 60), 1);
    }
    // A little back: nothing until the time comes again.
    assert_eq!(run(&mut home, -240), 0);
    assert_eq!([60; 4].map(|seconds| run(&mut home, seconds)), [0; 4]);
    assert_eq!(run(&mut home, 60), 1);
    // An hour back: those minutes have run.
    assert_eq!(run(&mut home, -3600), 0);
    let again: usize = (0..60).map(|_| run(&mut home, 60)).sum();
    assert_eq!(again, 49, "the eleven minutes before it was set have run");
    // A year ahead by mistake, and back.
    assert_eq!(run(&mut home, 365 * 24 * 3600), 1);
    let [row] = home.state.job_rows(1).unwrap().try_into().unwrap();
    assert_eq!(row.slots[0].missed, COUNTED as u32);
    assert_eq!(run(&mut home, -365 * 24 * 3600), 0);
    assert_eq!([60; 3].map(|seconds| run(&mut home, seconds)), [1; 3]);
}

#[test]
fn what_is_long_over_is_forgotten_but_for_the_latest() {
    let mut home = Home::new("0 9 * * * a");
    for _ in 0..130 {
        home.pass(24 * 3600);
        let claimed = home.claim();
        home.finish(&claimed[0], 0);
    }
    home.state.prune_slots(home.now).unwrap();
    let [row] = home.state.job_rows(1_000).unwrap().try_into().unwrap();
    let tails = row.slots.iter().filter(|slot| !slot.end.tail.is_empty()).count();
    assert_eq!((row.slots.len(), tails), (90, KEPT_SLOTS as usize));
    home.now += (300 * 24).hours();
    home.state.prune_slots(home.now).unwrap();
    assert_eq!(home.slots().len(), KEPT_SLOTS as usize);
    home.edit("0 9 * * * b");
    home.state.prune_slots(home.now).unwrap();
    let jobs = home.state.read("SELECT command FROM jobs", [], |row| row.get::<_, String>(0));
    assert_eq!(jobs.unwrap(), ["b"]);
}

#[test]
fn a_host_that_fails_in_the_middle_leaves_nothing_half_done() {
    let mut home = Home::new("0 9 * * * a");
    home.now += 1.minute();
    let (planned, now) = (home.jobs[0].clone(), home.now);
    let failed = home.state.atomically(|rows| -> anyhow::Result<()> {
        queue(rows, &planned, now, now)?;
        set_due(rows, &planned, now)?;
        Err(rusqlite::Error::InvalidQuery.into())
    });
    assert!(failed.is_err());
    home.restart();
    assert!(home.slots().is_empty());
    home.pass(0);
    assert_eq!(home.claim().len(), 1);
}

#[test]
fn a_year_of_two_zones_from_one_due_to_the_next() {
    let zones = "CRON_TZ=Europe/Berlin\n30 2,14 * * * a\nCRON_TZ=America/New_York\n15 1 * * * b";
    let mut home = Home::new(zones);
    let start = home.now;
    let end = start + (365 * 24).hours();
    let mut runs = [0, 0];
    while let Some(due) = home.state.next_due().unwrap().filter(|due| *due <= end) {
        assert!(due > home.now);
        home.now = due;
        home.pass(0);
        for claimed in home.claim() {
            assert_eq!((claimed.missed, claimed.slot), (0, due));
            home.finish(&claimed, 0);
            runs[usize::from(claimed.job.command == "b")] += 1;
        }
    }
    assert_eq!(runs, [730, 365]);
}

#[derive(Debug, Clone)]
enum Step {
    Pass(i64),
    Queue,
    Claim(usize),
    Finish(bool),
    Kill,
    Back(i64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..20_000_i64).prop_map(Step::Pass),
        2 => (0..200_i64).prop_map(Step::Pass),
        4 => Just(Step::Queue),
        3 => (1..4_usize).prop_map(Step::Claim),
        3 => any::<bool>().prop_map(Step::Finish),
        1 => Just(Step::Kill),
        1 => (0..STEP).prop_map(Step::Back),
    ]
}

const MANY: &str = "CRON_TZ=Europe/Berlin\n*/7 * * * * a\n30 2,14 * * * b\n@hourly c\n\
    CRON_TZ=Australia/Lord_Howe\n45 1 * * * d\n* 2 * * * e\nCRON_TZ=\n0 9 * * 1-5 f";

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever happens in whatever order, each time of a job is in one slot: itself, or as one
    /// that was missed before it.
    #[test]
    fn no_time_is_lost_or_doubled(
        steps in prop::collection::vec(step(), 1..80),
        start in prop::sample::select(vec!["2027-03-27T20:00:00Z", "2027-10-30T20:00:00Z", "2027-04-02T20:00:17Z"]),
    ) {
        let mut home = Home::new("");
        let start: Timestamp = start.parse().unwrap();
        home.now = start;
        home.edit(MANY);
        let (mut running, mut latest) = (Vec::new(), start);
        for step in steps {
            match step {
                Step::Pass(seconds) => home.now += seconds.seconds(),
                Step::Back(seconds) => home.now -= seconds.seconds(),
                Step::Queue => home.state.queue_slots(&home.jobs, home.now).unwrap(),
                Step::Claim(most) => running.extend(home.state.claim_slots(most, home.now).unwrap()),
                Step::Finish(well) => {
                    if let Some(claimed) = running.pop() {
                        home.finish(&claimed, i32::from(!well));
                    }
                }
                Step::Kill => {
                    home.restart();
                    running.clear();
                }
            }
            // Else the clock would be set back by more than it may be, in several steps.
            latest = latest.max(home.now);
            home.now = home.now.max(latest - SignedDuration::from_secs(STEP));
        }
        home.now = latest;
        home.pass(0);
        let rows = home.state.job_rows(100_000).unwrap();
        for (row, planned) in rows.iter().zip(&home.jobs) {
            let wanted = planned.pattern.count(start, home.now, &planned.zone, usize::MAX);
            let kept: usize = row.slots.iter().map(|slot| 1 + slot.missed as usize).sum();
            prop_assert_eq!(kept, wanted, "{}", row.job.command);
        }
    }
}
