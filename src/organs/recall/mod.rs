//! Past conversations, searched.
//!
//! Owns what a request for them means, and that an index which cannot be read is made anew.
//! Transcripts are the truth, and `recall.db` is what was made of them: whoever deletes it loses
//! nothing. Knows no screen, and not who may be told of what: that is `authority`'s.

pub mod index;
pub mod search;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use anyhow::{Context as _, Result, ensure};
use jiff::civil::Date;
use jiff::{ToSpan as _, Zoned};
use serde::{Deserialize, Serialize};

use crate::organs::always::workers::JOB;
use crate::organs::host::Host;
use crate::organs::lane::lock;
use crate::organs::recall::index::Index;
use crate::organs::recall::search::{Found, Query};
use crate::organs::sessions;
use crate::organs::verb::Caller;

/// Messages that are told at most, whatever is asked for.
const MOST: usize = 2_000;

/// The index, as soon as somebody has asked for something.
pub type Recall = Arc<Mutex<Option<Index>>>;

/// What somebody wants to know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    /// Words, "phrases" and the beginnings of words*; everything that was said when there is
    /// nothing in it.
    pub query: String,
    /// Only of this session.
    pub session: Option<String>,
    /// Only since this day: `2026-11-21`, `today`, `yesterday`, or a number of days ago, `7d`.
    pub since: Option<String>,
    /// At most so many messages.
    pub limit: usize,
}

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recalled {
    /// The messages: the latest first where words were searched, else as they were said.
    pub found: Vec<Found>,
    /// Whether there is more of it.
    pub more: bool,
    /// Whether no message has all that was searched, and these have some of it.
    pub some: bool,
    /// What there is to know about the index.
    pub said: Option<String>,
}

impl Host {
    /// Search what was said, as far as the caller may know it.
    pub(super) async fn recall(
        self: &Arc<Self>,
        caller: &Caller,
        wanted: Wanted,
    ) -> Result<Recalled> {
        let Wanted { query, session, since, limit } = wanted;
        let now = self.always.clock.now().to_zoned(self.always.clock.zone());
        let since = since.map(|day| since_when(&day, &now)).transpose()?.unwrap_or(0);
        let words = search::expressions(&query);
        ensure!(
            words.is_some() || query.trim().is_empty(),
            "nothing in {query:?} can be searched; name words, the beginning of a word as in backup*, or several words in a row in quotation marks"
        );
        session.as_deref().map_or(Ok(()), |session| self.existing(session).map(drop))?;
        let (host, caller) = (self.clone(), caller.clone());
        let work = move |index: &mut Index| {
            let sessions = match (&session, &caller) {
                (Some(session), _) => Some(vec![session.clone()]),
                (None, Caller::Owner) => None,
                (None, _) => {
                    let mut all = index.sessions()?;
                    all.retain(|session| {
                        !host.is_begun_by_job(&caller, session) && host.recalls(&caller, session)
                    });
                    Some(all)
                }
            };
            let limit = limit.clamp(1, MOST);
            let query = Query { words: words.as_ref(), sessions, since, limit };
            // What has become a secret since it was taken in leaves the index, and is not found.
            loop {
                let recalled = query.ask(index)?;
                let told = recalled.found.iter().map(|one| (one.id, one.whole.clone()));
                if !index.clear(told, |text| host.withheld.text(text))? {
                    return Ok(recalled);
                }
            }
        };
        self.with_index(work).await
    }

    /// Bring the index up to date when nobody waits for it.
    pub(super) fn index_soon(self: &Arc<Self>) {
        if self.stays() {
            let host = self.clone();
            // Whoever searches is told of what goes wrong.
            tokio::spawn(async move { host.with_index(|_| Ok(Recalled::default())).await });
        }
    }

    /// Whether this session was begun by the job that asks: what a job was told yesterday, and has
    /// passed on, is not to be told to it again.
    fn is_begun_by_job(&self, caller: &Caller, session: &str) -> bool {
        let Caller::Hand(own) = caller else { return false };
        own.starts_with(JOB) && sessions::ancestry(self.home(), session).any(|name| name == *own)
    }

    /// Have this done with the index as it should be, on a thread that may block.
    async fn with_index(
        self: &Arc<Self>,
        work: impl Fn(&mut Index) -> Result<Recalled> + Send + 'static,
    ) -> Result<Recalled> {
        let (path, folder) = (self.home().file("recall.db"), self.home().sessions());
        let (recall, withheld) = (self.recall.clone(), self.withheld.clone());
        let work = move || {
            let clear = |text| withheld.text(text);
            let mut held = lock(&recall);
            let whole = |held: &mut Option<Index>| {
                let index = opened(held, &path)?;
                index.take_in(&folder, clear)?;
                work(index)
            };
            match whole(&mut held) {
                Err(error) if index::is_damaged(&error) => {
                    *held = None;
                    index::remove(&path)?;
                    let said = format!(
                        "The index of past conversations was damaged ({error:#}) and has been made anew."
                    );
                    Ok(Recalled { said: Some(said), ..whole(&mut held)? })
                }
                done => done,
            }
        };
        tokio::task::spawn_blocking(work).await.context("the search was broken off")?
    }
}

fn opened<'a>(held: &'a mut Option<Index>, path: &Path) -> Result<&'a mut Index> {
    // Somebody may have deleted it while it was open.
    if held.as_ref().is_some_and(|index| !index.is_at(path)) {
        *held = None;
    }
    match held {
        Some(index) => Ok(index),
        none => Ok(none.insert(Index::open(&PathBuf::from(path))?)),
    }
}

/// The first second of a day that is named like this.
fn since_when(day: &str, now: &Zoned) -> Result<i64> {
    let date = match day {
        "today" => Some(now.date()),
        "yesterday" => Some(now.date().saturating_sub(1.day())),
        _ => match day.strip_suffix('d').map(str::parse::<u16>) {
            Some(Ok(days)) => Some(now.date().saturating_sub(i64::from(days).days())),
            _ => day.parse::<Date>().ok(),
        },
    };
    let begins = date.and_then(|date| date.to_zoned(now.time_zone().clone()).ok());
    let begins = begins.with_context(|| {
        format!(
            "{day:?} is no day; write it as 2026-11-21, today, yesterday, or 7d for seven days ago"
        )
    })?;
    Ok(begins.timestamp().as_second())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_as_people_name_them() {
        let now: Zoned = "2026-11-21T08:55:00+01:00[Europe/Berlin]".parse().unwrap();
        let since = |day| since_when(day, &now).map_err(|error| error.to_string());
        let at = |text: &str| Ok(text.parse::<jiff::Timestamp>().unwrap().as_second());
        assert_eq!(since("today"), at("2026-11-20T23:00:00Z"));
        assert_eq!(since("0d"), since("today"));
        assert_eq!(since("1d"), since("yesterday"));
        assert_eq!(since("2026-07-01"), at("2026-06-30T22:00:00Z"));
        for wrong in ["", "d", "-1d", "tomorrow", "2026-13-01"] {
            assert!(since(wrong).unwrap_err().contains("is no day"), "{wrong}");
        }
    }
}
