//! Words a conversation wants to hear again later: rows `reminders` of `state.db`.
//!
//! Owns that a reminder is put into the inbox of its session once, by the transaction that
//! marks it sent, however late the host is. Does not know how a time is said.

use anyhow::Result;
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};
use rusqlite::{Row, params};

use super::job::time;
use crate::kernel::session;
use crate::organs::state::State;

/// Beside the tables that a predecessor knows: it leaves them alone. Numbers are never used
/// again, as the inbox's keys are made of them.
pub const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS reminders (id INTEGER PRIMARY KEY AUTOINCREMENT, session TEXT NOT NULL,
    turn INTEGER, text TEXT NOT NULL, due INTEGER NOT NULL, zone TEXT, made INTEGER NOT NULL,
    state TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS reminders_pending ON reminders (due) WHERE state = 'pending';
";

/// Seconds a reminder may be late without saying so.
const PUNCTUAL: i64 = 60;

/// A reminder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reminder {
    /// Its number.
    pub id: i64,
    /// The conversation it is for.
    pub session: String,
    /// The turn of it that made it, if one did.
    pub turn: Option<u64>,
    /// The words.
    pub text: String,
    /// When.
    pub due: Timestamp,
    /// The zone in which that was said; none is the machine's.
    pub zone: Option<String>,
    /// When it was made.
    pub made: Timestamp,
}

impl Reminder {
    /// When it is due, where that was said.
    pub fn due_in(&self, system: &TimeZone) -> Zoned {
        let zone = self.zone.as_deref().and_then(|name| TimeZone::get(name).ok());
        self.due.to_zoned(zone.unwrap_or_else(|| system.clone()))
    }

    /// What its conversation is told, and how late that is.
    fn told(&self, now: Timestamp, system: &TimeZone) -> String {
        if now.as_second() - self.due.as_second() <= PUNCTUAL {
            return format!("Reminder: {}", self.text);
        }
        let due = self.due_in(system);
        let now = now.to_zoned(due.time_zone().clone());
        let day = match (now.date() - due.date()).get_days() {
            0 => "",
            1..7 => "%a ",
            _ => "%a %-d %b %Y ",
        };
        let due = due.strftime(&format!("{day}%H:%M")).to_string();
        format!("Reminder (due {due}, now {}): {}", now.strftime("%H:%M"), self.text)
    }
}

impl State {
    /// Remind a session of something, because of that turn of it. The reminder's number.
    pub fn remind(
        &self,
        session: &str,
        turn: Option<u64>,
        text: &str,
        due: &Zoned,
        now: Timestamp,
    ) -> Result<i64> {
        self.atomically(|rows| {
            let sql = "INSERT INTO reminders (session, turn, text, due, zone, made, state)
                VALUES (?, ?, ?, ?, ?, ?, 'pending')";
            let (at, zone) = (due.timestamp().as_second(), due.time_zone().iana_name());
            rows.execute(sql, params![session, turn, text, at, zone, now.as_second()])?;
            Ok(rows.last_insert_rowid())
        })
    }

    /// What is still to come, in its order.
    pub fn reminders(&self) -> Result<Vec<Reminder>> {
        let sql = format!("SELECT {ALL} FROM reminders WHERE state = 'pending' ORDER BY due, id");
        self.read(&sql, [], reminder)
    }

    /// What a turn set for later, each as its number and its words.
    pub fn reminders_of(&self, session: &str, turn: u64) -> Result<Vec<String>> {
        let sql = "SELECT id || ' ' || text FROM reminders WHERE session = ? AND turn = ?
            AND state = 'pending' ORDER BY id";
        self.read(sql, params![session, turn], |row| row.get(0))
    }

    /// Cancel one that is still to come. It, if it was.
    pub fn cancel_reminder(&self, id: i64) -> Result<Option<Reminder>> {
        let sql = format!(
            "UPDATE reminders SET state = 'cancelled' WHERE id = ? AND state = 'pending'
                RETURNING {ALL}"
        );
        Ok(self.read(&sql, [id], reminder)?.pop())
    }

    /// These turns are undone, and with them what they wanted to be reminded of. What was sent
    /// already stays sent.
    pub fn cancel_made_in(&self, turns: &[(String, u64)]) -> Result<Vec<Reminder>> {
        self.turn_reminders(turns, "pending", "undone")
    }

    /// These turns are done again. What has become due since is sent late, as everything that
    /// was due while nobody looked.
    pub fn revive_made_in(&self, turns: &[(String, u64)]) -> Result<Vec<Reminder>> {
        self.turn_reminders(turns, "undone", "pending")
    }

    /// Put what is due into the inboxes. The sessions that have something to read now.
    pub fn send_reminders(&self, now: Timestamp, system: &TimeZone) -> Result<Vec<String>> {
        let sql = format!(
            "SELECT {ALL} FROM reminders WHERE state = 'pending' AND due <= ? ORDER BY due, id"
        );
        let due = self.read(&sql, [now.as_second()], reminder)?;
        for one in &due {
            self.atomically(|rows| {
                let sql = "UPDATE reminders SET state = 'sent' WHERE id = ? AND state = 'pending'";
                if rows.execute(sql, [one.id])? == 0 {
                    return Ok(());
                }
                let sql = "INSERT OR IGNORE INTO inbox (key, session, origin, text, steer, at)
                    VALUES (?, ?, 'reminder', ?, 1, ?)";
                let key = format!("reminder:{}", one.id);
                let told = one.told(now, system);
                rows.execute(sql, params![key, one.session, told, session::now()])?;
                Ok(())
            })?;
        }
        let mut sessions: Vec<String> = due.into_iter().map(|one| one.session).collect();
        sessions.sort_unstable();
        sessions.dedup();
        Ok(sessions)
    }

    fn turn_reminders(
        &self,
        turns: &[(String, u64)],
        from: &str,
        to: &str,
    ) -> Result<Vec<Reminder>> {
        self.atomically(|rows| {
            let sql = format!(
                "UPDATE reminders SET state = ? WHERE session = ? AND turn = ? AND state = ?
                    RETURNING {ALL}"
            );
            let mut change = rows.prepare(&sql)?;
            let mut changed = Vec::new();
            for (session, turn) in turns {
                for one in change.query_map(params![to, session, turn, from], reminder)? {
                    changed.push(one?);
                }
            }
            Ok(changed)
        })
    }
}

/// The columns of a reminder.
const ALL: &str = "id, session, turn, text, due, zone, made";

fn reminder(row: &Row<'_>) -> rusqlite::Result<Reminder> {
    Ok(Reminder {
        id: row.get(0)?,
        session: row.get(1)?,
        turn: row.get(2)?,
        text: row.get(3)?,
        due: time(row, 4)?,
        zone: row.get(5)?,
        made: time(row, 6)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Zoned {
        text.parse().unwrap()
    }

    #[test]
    fn a_reminder_is_sent_once_and_says_how_late_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.db");
        let state = State::open(&path).unwrap();
        let due = at("2026-11-21T09:00:00+01:00[Europe/Berlin]");
        let made = due.timestamp() - jiff::SignedDuration::from_hours(300);
        let first = state.remind("s", Some(3), "buy milk", &due, made).unwrap();
        state
            .remind("t", None, "call", &at("2026-11-21T11:39:30+01:00[Europe/Berlin]"), made)
            .unwrap();
        state.remind("s", None, "later", &at("2027-01-01T09:00:00+00:00[UTC]"), made).unwrap();
        assert_eq!(state.next_due().unwrap(), Some(due.timestamp()));
        assert!(state.send_reminders(made, &TimeZone::UTC).unwrap().is_empty());
        let now = at("2026-11-21T11:40:10+01:00[Europe/Berlin]").timestamp();
        assert_eq!(state.send_reminders(now, &TimeZone::UTC).unwrap(), ["s", "t"]);
        drop(state);
        let state = State::open(&path).unwrap();
        assert!(state.send_reminders(now, &TimeZone::UTC).unwrap().is_empty());
        let [waiting] = state.waiting("s").unwrap().try_into().unwrap();
        assert_eq!(waiting.incoming.text, "Reminder (due 09:00, now 11:40): buy milk");
        assert_eq!(waiting.incoming.key, format!("reminder:{first}"));
        assert_eq!(waiting.incoming.origin.to_string(), "reminder");
        assert!(waiting.steer);
        assert_eq!(state.waiting("t").unwrap()[0].incoming.text, "Reminder: call");
        assert_eq!(state.reminders().unwrap().len(), 1);
        assert_eq!(state.cancel_reminder(first).unwrap(), None);
    }

    #[test]
    fn how_late_names_the_day_when_it_is_another() {
        let state = State::open(&tempfile::tempdir().unwrap().path().join("state.db")).unwrap();
        let due = at("2026-11-21T09:00:00+01:00[Europe/Berlin]");
        state.remind("s", None, "x", &due, due.timestamp()).unwrap();
        let one = &state.reminders().unwrap()[0];
        let told = |now: &str| one.told(at(now).timestamp(), &TimeZone::UTC);
        let sunday = told("2026-11-22T11:40:00+01:00[Europe/Berlin]");
        assert_eq!(sunday, "Reminder (due Sat 09:00, now 11:40): x");
        let later = told("2027-11-22T11:40:00+01:00[Europe/Berlin]");
        assert_eq!(later, "Reminder (due Sat 21 Nov 2026 09:00, now 11:40): x");
    }

    #[test]
    fn reminders_go_and_come_back_with_the_turns_that_made_them() {
        let state = State::open(&tempfile::tempdir().unwrap().path().join("state.db")).unwrap();
        let due = at("2026-11-21T09:00:00+00:00[UTC]");
        let now = due.timestamp();
        for (session, turn) in [("s", Some(1)), ("s", Some(2)), ("t", Some(2)), ("s", None)] {
            state.remind(session, turn, "x", &due, now).unwrap();
        }
        let turns = [("s".to_owned(), 2), ("s".to_owned(), 9)];
        let gone = state.cancel_made_in(&turns).unwrap();
        assert_eq!(gone.iter().map(|one| one.id).collect::<Vec<_>>(), [2]);
        assert_eq!(state.reminders().unwrap().len(), 3);
        assert_eq!(state.revive_made_in(&turns).unwrap(), gone);
        assert_eq!(state.cancel_reminder(2).unwrap(), gone.first().cloned());
        assert!(state.revive_made_in(&turns).unwrap().is_empty());
        assert!(state.cancel_made_in(&turns).unwrap().is_empty());
        assert_eq!(state.send_reminders(now, &TimeZone::UTC).unwrap(), ["s", "t"]);
        assert!(state.cancel_made_in(&[("t".to_owned(), 2)]).unwrap().is_empty());
    }
}
