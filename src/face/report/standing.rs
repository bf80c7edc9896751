//! What goes on by itself, and the conversations, on a page.
//!
//! Owns how jobs, their runs, reminders, services and conversations look there. Asks nobody.

use std::collections::HashMap;

use crate::face::report::changes::section;
use crate::face::report::data::{Days, Reminder, Told, Used};
use crate::face::report::diff::cut;
use crate::face::report::html::Html;
use crate::face::standing::{circumstances, sentence};
use crate::face::turn_view::{count, plural};
use crate::organs::always::status::{JobStatus, RunStatus, Status};
use crate::organs::sessions::Listed;

/// Characters of a text in a list, and of what a job printed.
const TEXT: usize = 300;
const TAIL: usize = 2_000;
/// Conversations, reminders and errors that are told.
const SESSIONS: usize = 100;
const REMINDERS: usize = 50;
const ERRORS: usize = 10;

/// The section about what goes on by itself.
pub fn schedule(told: &Told) -> Html {
    let mut out = Html::plain("h2", "On its own");
    match &told.status {
        None => out.push(note("Jobs, services and channels are not for this conversation.")),
        Some(status) => out.push(by_itself(status)),
    }
    if !told.reminders.is_empty() {
        out.push(Html::plain("h3", "Reminders to come"));
        out.push(reminders(&told.reminders));
    }
    section("schedule", out)
}

fn by_itself(status: &Status) -> Html {
    let mut out = Html::default();
    if !status.stays {
        out.push(Html::classed(
            "p",
            "note",
            [
                "Nothing happens by itself now, since no host stays: ".into(),
                Html::plain("code", "fledgling serve"),
                " starts one.".into(),
            ],
        ));
    }
    if status.jobs.is_empty() && status.services.is_empty() && status.channels.is_empty() {
        out.push(note("No jobs, services or channels."));
    }
    out.push(cards("Jobs", status.jobs.iter().map(job).collect()));
    let faults = status.faults.iter().map(|fault| warning(&format!("crontab {fault}")));
    out.push(faults.collect::<Html>());
    let services = status.services.iter().map(|one| {
        let state = Html::classed(
            "span",
            if one.state == "runs" { "good" } else { "bad" },
            one.state.as_str(),
        );
        let since = match &*one.state {
            "refused" => String::new(),
            _ => format!(" since {}, {}", one.since, plural(one.starts, "start")),
        };
        let mut inside = Html::from([title(&one.name), Html::plain("p", [state, since.into()])]);
        if !one.note.is_empty() {
            inside.push(note(&cut(&one.note, TEXT)));
        }
        Html::plain("li", inside)
    });
    out.push(cards("Services", services.collect()));
    let channels = status.channels.iter().map(|one| {
        let people = if one.people.is_empty() {
            "nobody is paired".to_owned()
        } else {
            one.people.join(", ")
        };
        let waiting =
            if one.waiting > 0 { format!("; {} to deliver", one.waiting) } else { String::new() };
        Html::plain(
            "li",
            [title(&one.name), Html::plain("p", cut(&format!("{people}{waiting}"), TEXT))],
        )
    });
    out.push(cards("Channels", channels.collect()));
    let (used, limit) = status.budget;
    let budget = format!("Unattended turns used {} of {} tokens today.", count(used), count(limit));
    out.push(note(&budget));
    if !status.errors.is_empty() {
        out.push(Html::plain("h3", "Latest errors"));
        let errors = status.errors.iter().rev().take(ERRORS);
        out.push(
            errors.map(|one| warning(&format!("{} {}", one.at, sentence(one)))).collect::<Html>(),
        );
    }
    out
}

fn cards(name: &str, items: Html) -> Html {
    if items == Html::default() {
        return items;
    }
    [Html::plain("h3", name), Html::classed("ul", "cards", items)].into()
}

fn title(name: &str) -> Html {
    Html::element("h4", &[("dir", "auto")], cut(name, TEXT))
}

fn note(text: &str) -> Html {
    Html::classed("p", "note", text)
}

fn warning(text: &str) -> Html {
    Html::classed("p", "bad", cut(text, TEXT))
}

fn job(job: &JobStatus) -> Html {
    let next = if job.running { "runs now".to_owned() } else { format!("next {}", job.next) };
    let mut inside = Html::from([
        title(&job.name),
        Html::plain(
            "p",
            [
                Html::plain("code", cut(&job.spec, TEXT)),
                " · ".into(),
                Html::plain("code", cut(&job.command, TEXT)),
            ],
        ),
        note(&next),
    ]);
    if !job.runs.is_empty() {
        // As people read time: the latest at the right.
        let runs: Html = job.runs.iter().rev().map(run).collect();
        let failed = job.runs.iter().filter(|one| !is_good(one)).count();
        let label = format!(
            "The latest {}, {failed} not as they should be",
            plural(job.runs.len() as u64, "run")
        );
        inside.push(Html::element("ol", &[("class", "runs"), ("aria-label", &*label)], runs));
    }
    if let Some((at, state)) = &job.last {
        let class = if state == "done" { "good" } else { "bad" };
        let state = Html::classed("span", class, cut(state, TEXT));
        inside.push(Html::plain(
            "p",
            [format!("last {at} ").into(), state, circumstances(job).into()],
        ));
    }
    if !job.tail.trim().is_empty() {
        let said = Html::classed("pre", "tail", cut(job.tail.trim_end(), TAIL));
        inside.push(Html::plain("details", [Html::plain("summary", "What it said"), said]));
    }
    Html::plain("li", inside)
}

fn is_good(run: &RunStatus) -> bool {
    run.outcome == "done"
}

/// A mark for a run: its shape tells as much as its colour.
fn run(run: &RunStatus) -> Html {
    let (class, mark) = match &*run.outcome {
        "done" => ("good", "●"),
        outcome if outcome.starts_with("skipped") => ("dim", "○"),
        _ => ("bad", "✕"),
    };
    let took = run.seconds.map(|seconds| format!(", {seconds} s")).unwrap_or_default();
    let said = cut(&format!("{}: {}{took}", run.at, run.outcome), TEXT);
    let seen = Html::element("span", &[("aria-hidden", "true")], mark);
    let heard = Html::classed("span", "aside", said.as_str());
    Html::element("li", &[("class", class), ("title", &said)], [seen, heard])
}

fn reminders(all: &[Reminder]) -> Html {
    let items = all.iter().take(REMINDERS).map(|one| {
        let text = Html::element("p", &[("dir", "auto")], cut(&one.text, TEXT));
        let when = format!("{} · {}", one.said, one.session);
        Html::plain("li", [text, note(&cut(&when, TEXT))])
    });
    let list = Html::classed("ul", "cards", items.collect::<Html>());
    match all.len().saturating_sub(REMINDERS) {
        0 => list,
        more => [list, note(&format!("and {more} more"))].into(),
    }
}

/// The section about conversations.
pub fn sessions(told: &Told, days: &Days) -> Html {
    let mut tokens: HashMap<&str, u64> = HashMap::new();
    for one in &told.used {
        *tokens.entry(&one.session).or_default() += Used::tokens(one);
    }
    let recent: Vec<_> = told.sessions.iter().filter(|one| days.holds(&one.last)).collect();
    let items =
        recent.iter().take(SESSIONS).map(|one| session(one, tokens.get(&*one.name).copied()));
    let mut out = Html::plain("h2", "Conversations");
    let items: Html = items.collect();
    if items == Html::default() {
        out.push(note("None in these days."));
    } else {
        out.push(Html::classed("ul", "cards", items));
    }
    let older = told.sessions.len() - recent.len().min(SESSIONS);
    if older > 0 {
        out.push(Html::classed(
            "p",
            "note",
            [
                format!("And {} before: ", plural(older as u64, "conversation")).into(),
                Html::plain("code", "fledgling sessions"),
                ".".into(),
            ],
        ));
    }
    section("sessions", out)
}

fn session(one: &Listed, tokens: Option<u64>) -> Html {
    let state = match (one.running, one.ended, &one.parent) {
        (Some(seconds), ..) => Some(format!("running for {seconds} s")),
        (_, true, _) => Some("ended".to_owned()),
        (_, _, Some(parent)) => Some(format!("from {parent}")),
        _ => None,
    };
    let tokens = tokens.map(|tokens| format!("{} tokens", count(tokens)));
    let facts = [Some(one.last.clone()), Some(plural(one.turns, "turn")), tokens, state];
    let facts: Vec<_> = facts.into_iter().flatten().collect();
    let about = Html::element("p", &[("dir", "auto")], cut(&one.about, TEXT));
    let name = Html::element("h3", &[("dir", "auto")], cut(&one.name, TEXT));
    Html::plain("li", [name, about, note(&facts.join(" · "))])
}
