//! How what goes on without a terminal looks in one: status, reminders, people, happenings.
//!
//! Owns the words and the layout. Asks nobody.

pub mod command;

use std::fmt::Write as _;

use anyhow::Result;
use serde::Deserialize as _;
use serde_json::Value;

use crate::face::clean::{clean, line, row};
use crate::face::screen::Screen;
use crate::face::turn_view::{count, plural, wrapped};
use crate::organs::always::background::{Happening, Kind};
use crate::organs::always::status::{JobStatus, ServiceStatus, Status};
use crate::organs::prices::Dollars;

/// Lines of a job's output that are shown.
const TAIL: usize = 3;

/// `fledgling status`.
pub fn status(answer: &Value, screen: Screen) -> Result<String> {
    let status = Status::deserialize(answer)?;
    let mut text = String::new();
    let host = if status.stays {
        format!("process {}: schedule, services and channels run", status.pid)
    } else {
        "none stays, so nothing happens by itself: start `fledgling serve`".to_owned()
    };
    let mut section = |title: &str, lines: Vec<String>| {
        if lines.is_empty() {
            return;
        }
        let _ = writeln!(text, "{}", screen.bold(title));
        for one in lines {
            let _ = writeln!(text, "{one}");
        }
    };
    section("Host", vec![row(&format!("  {host}"), screen.width)]);
    let turns = status.turns.iter();
    section(
        "Turns under way",
        turns.map(|(name, seconds)| row(&format!("  {name}, {seconds} s"), screen.width)).collect(),
    );
    let mut jobs: Vec<_> = status.jobs.iter().flat_map(|one| job(one, screen)).collect();
    jobs.extend(
        status
            .faults
            .iter()
            .map(|fault| screen.warn(&row(&format!("  crontab {fault}"), screen.width))),
    );
    if !status.faults.is_empty() {
        let stays = "  Until that is put right, the schedule before it stays in force.";
        jobs.push(screen.warn(&row(stays, screen.width)));
    }
    section("Jobs", jobs);
    if status.reminders > 0 {
        let all = plural(status.reminders as u64, "reminder");
        section("Reminders", vec![format!("  {all} to come; `fledgling agenda` lists them")]);
    }
    let services = status.services.iter().map(|one| service(one, screen));
    section("Services", services.collect());
    let channels = status.channels.iter().map(|one| {
        let people = if one.people.is_empty() {
            "nobody is paired".to_owned()
        } else {
            one.people.join(", ")
        };
        let waiting =
            if one.waiting > 0 { format!("; {} to deliver", one.waiting) } else { String::new() };
        row(&format!("  {}: {people}{waiting}", one.name), screen.width)
    });
    section("Channels", channels.collect());
    let (used, limit) = status.budget;
    let percent = |used: u64, limit: u64| (used * 100).checked_div(limit).unwrap_or(100);
    let tokens = percent(used, limit);
    let (cost, most) = status.budget_cost;
    let mut budget =
        vec![format!("  {} of {} tokens today ({tokens} %)", count(used), count(limit))];
    // What costs nothing needs no budget.
    if cost > 0 {
        let percent = percent(cost, most);
        budget.push(format!("  {} of {} today ({percent} %)", Dollars(cost), Dollars(most)));
    }
    section("Budget of unattended turns", budget);
    let errors = status
        .errors
        .iter()
        .rev()
        .take(5)
        .map(|one| screen.warn(&row(&format!("  {} {}", one.at, sentence(one)), screen.width)));
    section("Latest errors", errors.collect());
    Ok(text.trim_end().to_owned())
}

fn job(job: &JobStatus, screen: Screen) -> Vec<String> {
    let mut lines = vec![
        row(&format!("  {}  {}", job.name, job.spec), screen.width),
        row(&format!("    runs   {}", job.command), screen.width),
        row(
            &format!("    next   {}", if job.running { "runs now" } else { &job.next }),
            screen.width,
        ),
    ];
    if let Some((at, state)) = &job.last {
        let last = format!("    last   {at} {state}{}", circumstances(job));
        let last = row(&last, screen.width);
        lines.push(if state == "done" { last } else { screen.warn(&last) });
        let said: Vec<_> = job.tail.lines().filter(|one| !one.trim().is_empty()).collect();
        let said = said.iter().skip(said.len().saturating_sub(TAIL));
        lines.extend(said.map(|one| screen.dim(&row(&format!("           {one}"), screen.width))));
    }
    lines
}

/// What is to be said of a job's last run besides its outcome.
pub fn circumstances(job: &JobStatus) -> String {
    let mut said = String::new();
    if job.failures > 1 {
        said += &format!(", {} times in a row", job.failures);
    }
    if job.missed > 0 {
        said += &format!(", {} missed before it", job.missed);
    }
    said
}

/// `fledgling services`.
pub fn services(answer: &Value, screen: Screen) -> Result<String> {
    let status = Status::deserialize(answer)?;
    if status.services.is_empty() && !status.stays {
        return Ok("No service runs, as no host stays: start `fledgling serve`.".to_owned());
    }
    if status.services.is_empty() {
        return Ok("No services: an executable file in services/ is kept running.".to_owned());
    }
    let shown = status.services.iter().map(|one| service(one, screen));
    Ok(shown.collect::<Vec<_>>().join("\n"))
}

fn service(one: &ServiceStatus, screen: Screen) -> String {
    let starts = plural(one.starts, "start");
    let (head, note) = match &*one.state {
        "refused" => ("is not run".to_owned(), one.note.clone()),
        state => {
            let state = if state == "quarantine" { "in quarantine" } else { state };
            (format!("{state} since {}, {starts}", one.since), format!("ended last: {}", one.note))
        }
    };
    let mut shown = row(&format!("  {}: {head}", one.name), screen.width);
    if !one.note.is_empty() {
        shown += &format!("\n{}", row(&format!("    {note}"), screen.width));
    }
    if one.state == "runs" { shown } else { screen.warn(&shown) }
}

/// `fledgling agenda`.
pub fn agenda(answer: &Value, screen: Screen) -> String {
    let all = answer.as_array().map(Vec::as_slice).unwrap_or_default();
    if all.is_empty() {
        return "No reminders to come.".to_owned();
    }
    let shown = all.iter().map(|one| {
        let text = |name: &str| one[name].as_str().unwrap_or_default().to_owned();
        let head = format!("{:>4}  {}  ({})", one["id"], text("said"), text("session"));
        format!(
            "{}\n      {}",
            row(&head, screen.width),
            line(&text("text"), screen.width.saturating_sub(6))
        )
    });
    shown.collect::<Vec<_>>().join("\n")
}

/// `fledgling people`.
pub fn people(answer: &Value, screen: Screen) -> String {
    let list = |name: &str| answer[name].as_array().cloned().unwrap_or_default();
    let (all, pending) = (list("people"), list("pending"));
    if all.is_empty() && pending.is_empty() {
        let said = "Nobody is paired. Whoever writes to a channel gets a code; `fledgling pair CODE` lets them in.";
        return wrapped(said, screen);
    }
    let shown = all.iter().map(|one| {
        let text = |name: &str| one[name].as_str().unwrap_or_default().to_owned();
        let owner = if one["owner"] == true { " (owner)" } else { "" };
        let answers = if one["answers"] == true { ", may answer requests" } else { "" };
        let limits = if one["narrowed"] == true { ", narrowed" } else { "" };
        row(
            &format!(
                "{}  {}{owner}, {}{answers}{limits}",
                text("channel"),
                text("person"),
                text("sender")
            ),
            screen.width,
        )
    });
    let waits = pending.iter().map(|one| {
        let text = |name: &str| one[name].as_str().unwrap_or_default().to_owned();
        let name =
            if one["name"].is_null() { String::new() } else { format!(" ({})", text("name")) };
        let shown = format!("{}  {}{name} was given a code", text("channel"), text("sender"));
        screen.dim(&row(&shown, screen.width))
    });
    shown.chain(waits).collect::<Vec<_>>().join("\n")
}

/// A happening in a conversation, if it is to be seen there.
pub fn happening(happening: &Happening, screen: Screen) -> Option<String> {
    match happening.kind {
        _ if happening.quiet => None,
        // What a person should read is shown as it is.
        Kind::Tell | Kind::Answer => {
            let from = match happening.about.replace(':', " ") {
                about if about.is_empty() => about,
                about => format!(" from {about}"),
            };
            let head = screen.bold(&format!("Message{}", clean(&from)));
            Some(format!("{head}\n{}", wrapped(&clean(&happening.text), screen)))
        }
        _ if happening.fault => Some(screen.warn(&wrapped(&sentence(happening), screen))),
        Kind::Host | Kind::Turn => None,
        _ => Some(screen.dim(&wrapped(&sentence(happening), screen))),
    }
}

/// A happening in a sentence.
pub fn sentence(happening: &Happening) -> String {
    let Happening { kind, about, text, .. } = happening;
    let about = if about.is_empty() { String::new() } else { format!(" {about}") };
    match kind {
        Kind::Host | Kind::Budget => clean(text),
        _ => clean(&format!("{kind}{about}: {text}")),
    }
}
