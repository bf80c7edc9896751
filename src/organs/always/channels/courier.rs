//! Carries letters to the service of one channel.
//!
//! Owns that each chat has one message on its way at a time, so that they arrive in order; that
//! what nobody acknowledges is given again under the same key; and that a long letter arrives in
//! parts, of which those that did are not sent again. What it must know after a kill is in the
//! rows of `outbox`. Does no input or output and has no clock: it is told what was heard and
//! what time it is, and says what is to be written and when it wants to be asked again.

use std::collections::BTreeMap;

use anyhow::Result;

use crate::organs::always::channels::contract::{Heard, Numbering, Outbound, Retry};
use crate::organs::always::channels::split::{LEAST, split};
use crate::organs::always::outbox::{Dead, Due, Letter};
use crate::organs::state::State;

/// Characters of a message where the service does not say.
const LIMIT: usize = 4000;
/// Seconds in which a message is to be acknowledged.
const ACKNOWLEDGED: i64 = 60;
/// Seconds in which a service that just started may say what it can do, before it is given
/// anything.
const GREETING: i64 = 5;

/// The courier of a channel.
#[derive(Debug)]
pub struct Courier {
    channel: String,
    numbering: Numbering,
    limit: usize,
    /// Since when letters may be given; never while the service is down.
    ready: Option<i64>,
    /// What is on its way, by chat.
    flights: BTreeMap<String, Flight>,
}

/// A part of a letter that was given and not acknowledged yet.
#[derive(Debug)]
struct Flight {
    letter: String,
    part: String,
    until: i64,
}

/// What became of a letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// The letter with this key is delivered, with all its parts.
    Delivered(String),
    /// It is given up; the owner is to be told.
    Dead(Box<Dead>),
}

impl Courier {
    /// For a channel whose service does not run yet.
    pub fn new(channel: &str) -> Self {
        let (numbering, flights) = (Numbering::default(), BTreeMap::new());
        Self { channel: channel.to_owned(), numbering, limit: LIMIT, ready: None, flights }
    }

    /// A run of the service begins.
    pub fn started(&mut self, state: &State, now: i64) -> Result<()> {
        *self = Self { ready: Some(now + GREETING), ..Self::new(&self.channel) };
        state.release_letters(&self.channel)
    }

    /// The service ended. What it did not acknowledge is for its next run.
    pub fn stopped(&mut self, state: &State) -> Result<()> {
        *self = Self::new(&self.channel);
        state.release_letters(&self.channel)
    }

    /// The line that says this to the service.
    pub fn line(&mut self, outbound: &Outbound) -> String {
        self.numbering.line(outbound)
    }

    /// The service said something. What is not about letters is of no interest here.
    pub fn heard(&mut self, state: &State, heard: &Heard, now: i64) -> Result<Option<News>> {
        if *heard != Heard::NotJson && *heard != Heard::Unknown {
            self.ready = self.ready.map(|ready| ready.min(now));
        }
        match heard {
            Heard::Hello { limit } => {
                self.limit = limit.unwrap_or(LIMIT).max(LEAST);
                Ok(None)
            }
            Heard::Ack { key } => self.acknowledged(state, key),
            Heard::Fail { key, error, retry } => {
                let Some(flight) = self.landed(key) else { return Ok(None) };
                let dead = state.failed(&flight.letter, error, *retry, now)?;
                Ok(dead.map(|dead| News::Dead(Box::new(dead))))
            }
            _ => Ok(None),
        }
    }

    /// What is to be written now, and what was given up meanwhile.
    pub fn due(&mut self, state: &State, now: i64) -> Result<(Vec<Outbound>, Vec<Dead>)> {
        let mut dead = Vec::new();
        let late = |flight: &&Flight| flight.until <= now;
        let late: Vec<_> =
            self.flights.values().filter(late).map(|late| late.part.clone()).collect();
        for flight in late.iter().filter_map(|part| self.landed(part)) {
            let why = format!("the service did not acknowledge it within {ACKNOWLEDGED} s");
            dead.extend(state.failed(&flight.letter, &why, Retry::Backoff, now)?);
        }
        let mut out = Vec::new();
        if self.ready.is_none_or(|ready| ready > now) {
            return Ok((out, dead));
        }
        for mut due in state.letters_for(&self.channel, now)? {
            if self.flights.contains_key(&due.chat) {
                continue;
            }
            // Parts of another cut would not fit together; but none may be too long either.
            if due.done == 0 || due.cut > self.limit {
                (due.cut, due.done) = (self.limit, 0);
            }
            state.try_letter(&self.channel, &due)?;
            let parts = parts(&due);
            let Some(text) = parts.get(due.done).cloned() else {
                state.delivered(&due.letter.key)?;
                continue;
            };
            let key = part_key(&due.letter.key, due.done, parts.len());
            let Letter { key: letter, reply_to, files, .. } = due.letter;
            let flight = Flight { letter, part: key.clone(), until: now + ACKNOWLEDGED };
            self.flights.insert(due.chat.clone(), flight);
            let reply_to = reply_to.filter(|_| due.done == 0);
            let files = if due.done + 1 == parts.len() { files } else { Vec::new() };
            out.push(Outbound::Message { key, chat: due.chat, text, reply_to, files });
        }
        Ok((out, dead))
    }

    /// When there will be something to write or to give up, if nothing else happens.
    pub fn wake(&self, state: &State) -> Result<Option<i64>> {
        let Some(ready) = self.ready else { return Ok(None) };
        let heads = state.next_letters(&self.channel)?;
        let waiting = heads.iter().filter(|due| !self.flights.contains_key(&due.chat));
        let waiting = waiting.map(|due| due.next.max(ready));
        Ok(waiting.chain(self.flights.values().map(|flight| flight.until)).min())
    }

    /// A part is no longer on its way.
    fn landed(&mut self, part: &str) -> Option<Flight> {
        let (chat, _) = self.flights.iter().find(|(_, flight)| flight.part == part)?;
        let chat = chat.clone();
        self.flights.remove(&chat)
    }

    /// The rows tell what is acknowledged, not the flights: it may come late, when the part is
    /// no longer waited for.
    fn acknowledged(&mut self, state: &State, key: &str) -> Result<Option<News>> {
        self.landed(key);
        let whole = state.pending_letter(key)?;
        let due = match (whole, key.rsplit_once('/')) {
            (None, Some((letter, _))) => state.pending_letter(letter)?,
            (whole, _) => whole,
        };
        let Some(due) = due else { return Ok(None) };
        let parts = parts(&due).len();
        // Another part than the next one was acknowledged before, or was never given.
        if due.cut == 0 || part_key(&due.letter.key, due.done, parts) != key {
            return Ok(None);
        }
        if due.done + 1 < parts {
            state.delivered_parts(&due.letter.key, due.done + 1)?;
            return Ok(None);
        }
        let first = state.delivered(&due.letter.key)?;
        Ok(first.then_some(News::Delivered(due.letter.key)))
    }
}

/// The parts in which a letter is delivered.
fn parts(due: &Due) -> Vec<String> {
    let parts = split(&due.letter.text, due.cut);
    // Files may come without a word.
    if parts.is_empty() { vec![String::new()] } else { parts }
}

fn part_key(letter: &str, part: usize, of: usize) -> String {
    if of == 1 { letter.to_owned() } else { format!("{letter}/{}", part + 1) }
}

#[cfg(test)]
#[path = "courier_tests.rs"]
mod tests;
