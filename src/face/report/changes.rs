//! The history as a timeline: each change under its day, with who made it and why.
//!
//! Owns in whose colour a change stands, and that what was taken back and what took it back
//! lead to each other. Takes one change after the other, latest first, and keeps none.

use std::collections::{BTreeMap, HashMap};

use jiff::civil::Date;

use crate::face::report::data::{CHANGES, date};
use crate::face::report::diff::{cut, exact, files, sizes};
use crate::face::report::html::Html;
use crate::face::turn_view::plural;
use crate::organs::history::ask::{Logged, Shown};

/// Bytes that all diffs of a page take.
const DIFFS: usize = 2_000_000;
/// Characters of what a change says that are told, and of a name.
const SAID: usize = 4_000;
const NAME: usize = 80;
/// Changes that an undo of many is said to take back.
const LEADS: usize = 20;
/// Trailers that are told otherwise, or say nothing to people.
const TOLD: [&str; 9] =
    ["Session", "Turn", "Origin", "Tokens", "Cost", "Undoes", "Redoes", "Merges", "Line"];

/// Who a change is by, as far as colours go. The first in the list is the first to choose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum By {
    /// The owner's own hand.
    Owner,
    /// A turn of the agent.
    Agent,
    /// A job or a reminder.
    Schedule,
    /// Somebody in a chat.
    Channel,
    /// Something was taken back, or brought back.
    Undo,
    /// Anything else.
    Other,
}

impl By {
    fn of(shown: &Shown, who: &str) -> Self {
        let says = |name: &str| shown.trailers.iter().any(|(key, _)| key == name);
        match who.split([':', ' ']).next() {
            _ if says("Undoes") || says("Redoes") => Self::Undo,
            Some("owner") => Self::Owner,
            Some("agent") => Self::Agent,
            Some("job" | "reminder") => Self::Schedule,
            Some("channel") => Self::Channel,
            _ => Self::Other,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Owner => "owner",
            Self::Agent => "agent",
            Self::Schedule => "schedule",
            Self::Channel => "channel",
            Self::Undo => "undo",
            Self::Other => "other",
        }
    }
}

/// The timeline so far.
#[derive(Debug)]
pub struct Timeline {
    days: Html,
    day: Option<Date>,
    today: Html,
    room: usize,
    more: bool,
    /// What is taken back, with what takes it back.
    undone_by: HashMap<String, String>,
    /// How many changes are by whom.
    by: BTreeMap<By, usize>,
    /// Changes on each day.
    pub on: BTreeMap<Date, u64>,
    /// Lines added and removed.
    pub lines: (u64, u64),
}

impl Timeline {
    /// Nothing yet. `more` says that there are older changes than it will hold.
    pub fn new(more: bool) -> Self {
        Self {
            days: Html::default(),
            day: None,
            today: Html::default(),
            room: DIFFS,
            more,
            undone_by: HashMap::new(),
            by: BTreeMap::new(),
            on: BTreeMap::new(),
            lines: (0, 0),
        }
    }

    /// How many changes it holds.
    pub fn count(&self) -> usize {
        self.by.values().sum()
    }

    /// Take a change; it must be older than those before it.
    pub fn add(&mut self, shown: &Shown) {
        let Some(change) = &shown.change else { return };
        let day = date(&change.when);
        if day != self.day {
            self.end_day();
            self.day = day;
        }
        let by = By::of(shown, &change.who);
        *self.by.entry(by).or_default() += 1;
        if let Some(day) = day {
            *self.on.entry(day).or_default() += 1;
        }
        self.lines.0 += change.added as u64;
        self.lines.1 += change.removed as u64;
        if !change.undone {
            let short = |id: &str| id.get(..change.id.len()).unwrap_or(id).to_owned();
            let taken = shown.trailers.iter().filter(|(name, _)| name == "Undoes");
            self.undone_by.extend(taken.map(|(_, id)| (short(id), change.id.clone())));
        }
        let item = self.item(shown, change, by);
        self.today.push(item);
    }

    fn end_day(&mut self) {
        let items = std::mem::take(&mut self.today);
        if items == Html::default() {
            return;
        }
        let title =
            self.day.map_or("Some day".to_owned(), |day| day.strftime("%A, %-d %B %Y").to_string());
        let items = Html::classed("ol", "changes", items);
        self.days.push(Html::classed("section", "day", [Html::plain("h3", title), items]));
    }

    fn item(&mut self, shown: &Shown, change: &Logged, by: By) -> Html {
        let mut inside = Html::classed("p", "meta", Self::meta(shown, change, by));
        let subject = if change.subject.trim().is_empty() { "(no words)" } else { &change.subject };
        inside.push(Html::element("h4", &[("dir", "auto")], cut(subject, SAID)));
        let leads = leads(shown, change);
        let body = shown.body.trim();
        // What an undo says are the changes that it leads to.
        if !body.is_empty() && leads == Html::default() {
            let said = Html::element("div", &[("class", "said"), ("dir", "auto")], cut(body, SAID));
            inside.push(said);
        }
        inside.push(leads);
        if let Some(id) = self.undone_by.get(&change.id).filter(|_| change.undone) {
            inside.push(Html::classed("p", "facts", [Html::from("Taken back by "), to(id)]));
        }
        let more = shown.trailers.iter().filter(|(name, _)| !TOLD.contains(&name.as_str()));
        let more: Vec<_> = more.map(|(name, value)| format!("{name}: {value}")).collect();
        if !more.is_empty() {
            inside.push(Html::classed("p", "facts", cut(&more.join(" · "), SAID)));
        }
        if !shown.files.is_empty() {
            let count = plural(shown.files.len() as u64, "file");
            let lines = sizes(change.added as u64, change.removed as u64, exact);
            let summary = Html::plain("summary", [Html::from(format!("{count} ")), lines]);
            let files = files(&shown.files, &change.id, &mut self.room);
            inside.push(Html::classed("details", "files", [summary, files]));
        }
        let undone = if change.undone { " undone" } else { "" };
        let class = format!("change {}{undone}", by.name());
        Html::element("li", &[("class", &*class), ("id", &format!("c-{}", change.id))], inside)
    }

    fn meta(shown: &Shown, change: &Logged, by: By) -> Html {
        let time = change.when.get(11..).unwrap_or_default();
        let time = Html::element("time", &[("datetime", &*change.when)], time);
        let tag = Html::classed("span", "tag", label(shown, &change.who, by));
        let mut meta = Html::from([time, " ".into(), tag, " ".into()]);
        if change.undone {
            meta.push([Html::classed("span", "tag gone", "undone"), " ".into()]);
        }
        let id = Html::plain("code", change.id.as_str());
        meta.push(Html::link(&format!("c-{}", change.id), id));
        let turn = change.turn.as_ref();
        let turn = turn.map(|(session, turn)| format!("{} turn {turn}", cut(session, NAME)));
        for fact in [turn, change.tokens.clone(), change.cost.clone()].into_iter().flatten() {
            meta.push([" · ".into(), Html::plain("bdi", fact)]);
        }
        meta
    }

    /// The whole section.
    pub fn finish(mut self, days: usize) -> Html {
        self.end_day();
        let mut out = Html::plain("h2", "Changes");
        if self.by.is_empty() {
            let none = format!("Nothing changed in {}.", plural(days as u64, "day"));
            out.push(Html::classed("p", "note", none));
            return section("changes", out);
        }
        let count = plural(self.count() as u64, "commit");
        let lead = format!(
            "{count}, the latest first. The line in bold is what was asked for; below it stands what was said at the end."
        );
        out.push(Html::classed("p", "lead", lead));
        // Boxes before what they hide, so that no script is needed.
        if self.by.len() > 1 {
            for (by, count) in &self.by {
                let id = format!("show-{}", by.name());
                let class = format!("pick {}", by.name());
                let attributes = [("type", "checkbox"), ("id", &*id), ("checked", "checked")];
                let text = Html::from([
                    Html::classed("span", "aside", "Show "),
                    by.name().into(),
                    Html::classed("span", "count", format!(" {count}")),
                ]);
                out.push(Html::void("input", &attributes));
                out.push(Html::element("label", &[("class", &*class), ("for", &*id)], text));
            }
        }
        out.push(Html::classed("div", "timeline", self.days));
        let more = if self.more {
            format!("Only the latest {CHANGES} changes are told here. ")
        } else {
            String::new()
        };
        let older = Html::from([
            format!("{more}All there ever were: ").into(),
            Html::plain("code", "fledgling log -n 1000"),
            ".".into(),
        ]);
        out.push(Html::classed("p", "note", older));
        section("changes", out)
    }
}

/// A part of the page that can be led to.
pub fn section(id: &str, inside: Html) -> Html {
    Html::element("section", &[("id", id)], inside)
}

/// What stands in the tag.
fn label(shown: &Shown, who: &str, by: By) -> String {
    let says = |name: &str| shown.trailers.iter().any(|(key, _)| key == name);
    let who = cut(&who.replacen(':', " ", 1), NAME);
    match by {
        By::Undo if who == "owner" => if says("Undoes") { "undo" } else { "redo" }.to_owned(),
        By::Undo => format!("{} by {who}", if says("Undoes") { "undo" } else { "redo" }),
        _ if says("Merges") => format!("merge by {who}"),
        _ => who,
    }
}

/// Where to look for what this took back, with the words that it was known by.
fn leads(shown: &Shown, change: &Logged) -> Html {
    let says = [("Undoes", "Takes back "), ("Redoes", "Brings back what was taken back by ")];
    let lines = shown.trailers.iter().filter_map(|(name, id)| {
        let (_, verb) = says.iter().find(|(key, _)| key == name)?;
        let id = id.get(..change.id.len())?;
        let subject = shown.body.lines().find_map(|line| line.strip_prefix("- ")?.strip_prefix(id));
        let subject = Html::plain("bdi", cut(subject.unwrap_or_default(), SAID));
        Some(Html::classed("p", "facts", [Html::from(*verb), to(id), subject]))
    });
    lines.take(LEADS).collect()
}

/// A link to a change.
fn to(id: &str) -> Html {
    Html::link(&format!("c-{id}"), Html::plain("code", id))
}
