//! What a report is made of, asked of the host.
//!
//! Owns which requests that takes, and how many days and changes they reach back. What is
//! withheld, the host has withheld. Does not know how anything looks.

use anyhow::{Context as _, Result};
use jiff::civil::Date;
use jiff::{ToSpan as _, Zoned};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::face::views;
use crate::organs::always::status::Status;
use crate::organs::history::ask::{Ask, Logged};
use crate::organs::link::Link;
use crate::organs::sessions::Listed;
use crate::organs::verb::Verb;

/// Changes that are told at most: a page is to be read.
pub const CHANGES: usize = 500;
/// Changes that are looked at first, to see how far back they reach.
const FIRST: usize = 60;

/// The days that a report is about, both included.
#[derive(Debug, Clone)]
pub struct Days {
    /// The first.
    pub first: Date,
    /// Today.
    pub last: Date,
    /// Now, which is when the report is made.
    pub now: Zoned,
}

impl Days {
    /// The last so many, up to now.
    pub fn until(now: Zoned, count: u32) -> Self {
        let last = now.date();
        let first = last.checked_sub(i64::from(count.max(1) - 1).days()).unwrap_or(Date::MIN);
        Self { first, last, now }
    }

    /// How many they are.
    pub fn count(&self) -> usize {
        usize::try_from(self.at(self.last)).unwrap_or_default() + 1
    }

    /// How far behind the first a day is; less than nothing when it is before it.
    pub fn at(&self, day: Date) -> i64 {
        (day - self.first).get_days().into()
    }

    /// Whether a time, `2026-11-21 10:36`, is on one of them or later.
    pub fn holds(&self, when: &str) -> bool {
        date(when).is_none_or(|day| day >= self.first)
    }
}

/// The day that a time begins with.
pub fn date(when: &str) -> Option<Date> {
    when.get(..10)?.parse().ok()
}

/// Tokens of a day, a session and a model.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Used {
    /// The day.
    pub day: String,
    /// The session.
    pub session: String,
    /// The model.
    pub model: String,
    /// Who asked for it, where that is known.
    pub origin: String,
    /// Turns.
    pub turns: u64,
    /// Tokens that went in.
    pub input: u64,
    /// Those of them that the provider had kept.
    pub cache_read: u64,
    /// Tokens that came out.
    pub output: u64,
    /// What they cost, in millionths of a US dollar.
    pub cost: u64,
    /// Tokens of which nobody knows the price.
    pub unpriced: u64,
}

impl Used {
    /// Input and output.
    pub fn tokens(&self) -> u64 {
        self.input + self.output
    }
}

/// A reminder to come.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Reminder {
    /// The conversation that goes on then.
    pub session: String,
    /// What about.
    pub text: String,
    /// When, in words.
    pub said: String,
}

/// Everything but the changes.
#[derive(Debug, Clone)]
pub struct Told {
    /// The harness itself.
    pub about: Value,
    /// What was used on these days.
    pub used: Vec<Used>,
    /// What goes on by itself; none where the asker may not know.
    pub status: Option<Status>,
    /// Reminders to come.
    pub reminders: Vec<Reminder>,
    /// Conversations, the latest first.
    pub sessions: Vec<Listed>,
}

impl Told {
    /// Ask for all of it.
    pub async fn ask(link: &Link, days: &Days) -> Result<Self> {
        let mut used: Vec<Used> = read(link, Verb::Usage { since: None, days: None }).await?;
        used.retain(|one| days.holds(&one.day));
        let status = read(link, Verb::Status).await;
        Ok(Self {
            about: views::ask(link, Verb::About { session: None }).await?,
            used,
            // Only of a hand's session it can be that this is not for it.
            status: if link.is_owners() { Some(status?) } else { status.ok() },
            reminders: read(link, Verb::Agenda).await?,
            sessions: read(link, Verb::Sessions).await?,
        })
    }
}

/// The changes of these days, latest first, and whether there are more than can be told.
pub async fn changes(link: &Link, days: &Days) -> Result<(Vec<Logged>, bool)> {
    let mut limit = FIRST;
    loop {
        let ask = Ask::Log { limit, path: None };
        let mut found: Vec<Logged> = read(link, Verb::History(ask)).await?;
        let all = found.len() < limit || found.last().is_some_and(|last| !days.holds(&last.when));
        if all || limit > CHANGES {
            found.retain(|one| days.holds(&one.when));
            let more = found.len() > CHANGES;
            found.truncate(CHANGES);
            return Ok((found, more));
        }
        limit = CHANGES + 1;
    }
}

/// Ask for something of this shape.
pub async fn read<T: DeserializeOwned>(link: &Link, verb: Verb) -> Result<T> {
    let answer = views::ask(link, verb).await?;
    serde_json::from_value(answer).context("the host's answer is odd; is it another version?")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_counted_up_to_today() {
        let now: Zoned = "2026-11-21T23:30[UTC]".parse().unwrap();
        let days = Days::until(now.clone(), 30);
        assert_eq!((days.first.to_string().as_str(), days.count()), ("2026-10-23", 30));
        assert!(days.holds("2026-10-23 00:00") && !days.holds("2026-10-22 23:59"));
        assert_eq!((days.at(days.first), days.at(days.last)), (0, 29));
        assert_eq!(Days::until(now.clone(), 1).count(), 1);
        // What no clock said is not left out.
        assert!(days.holds("") && days.holds("2026-12-01"));
        assert_eq!(Days::until(now, 3_660).count(), 3_660);
    }
}
