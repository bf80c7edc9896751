//! What was used: tokens, and what they cost.
//!
//! Owns how that is kept in `state.db` turn by turn, how it is summed up, and that callers hear
//! of what they reach alone. Knows no prices and no limits.

use anyhow::Result;
use rusqlite::params;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::kernel::message::{Origin, Usage};
use crate::kernel::session::now;
use crate::organs::host::Host;
use crate::organs::state::State;
use crate::organs::verb::Caller;

/// What a predecessor's table of what was used lacks. Rows there are never deleted, so their
/// numbers stay; those that a predecessor wrote have none here.
pub const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS costs (usage INTEGER PRIMARY KEY, cost INTEGER NOT NULL,
    unpriced INTEGER NOT NULL, unattended INTEGER NOT NULL);
";

/// What was used, summed up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Used {
    /// The day, `2026-11-21`.
    pub day: String,
    /// The session.
    pub session: String,
    /// Who asked for it.
    pub origin: String,
    /// Whether nobody in front of a terminal did.
    pub unattended: bool,
    /// The model.
    pub model: String,
    /// Turns.
    pub turns: u64,
    /// Tokens.
    #[serde(flatten)]
    pub usage: Usage,
}

impl State {
    /// Add up what a turn used.
    pub fn used(
        &self,
        (session, turn): (&str, u64),
        (origin, unattended): (&Origin, bool),
        model: &str,
        usage: Usage,
    ) -> Result<()> {
        let Usage { input, output, cache_read, cache_write, cost, unpriced } = usage;
        self.atomically(|change| {
            let origin = origin.to_string();
            change.execute(
                "INSERT INTO usage VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                params![
                    now(),
                    session,
                    turn,
                    origin,
                    model,
                    input,
                    output,
                    cache_read,
                    cache_write
                ],
            )?;
            change.execute(
                "INSERT INTO costs VALUES (last_insert_rowid(), ?, ?, ?)",
                params![cost, unpriced, unattended],
            )?;
            Ok(())
        })
    }

    /// What was used from a day on, by day, session, model and origin, latest day first. What a
    /// predecessor counted has no price; that it was unattended its origin tells.
    pub fn usage(&self, since: &str) -> Result<Vec<Used>> {
        self.read(
            "SELECT substr(at, 1, 10), session, model, origin,
                coalesce(unattended, origin <> 'owner' AND
                    (origin NOT LIKE 'agent:%' OR origin LIKE 'agent:%:%')),
                count(DISTINCT turn), sum(input), sum(output), sum(cache_read), sum(cache_write),
                sum(coalesce(cost, 0)), sum(coalesce(unpriced, input + output))
                FROM usage LEFT JOIN costs ON costs.usage = usage.rowid
                WHERE substr(at, 1, 10) >= ? GROUP BY 1, 2, 3, 4, 5 ORDER BY 1 DESC, 2, 3, 4",
            [since],
            |row| {
                Ok(Used {
                    day: row.get(0)?,
                    session: row.get(1)?,
                    model: row.get(2)?,
                    origin: row.get(3)?,
                    unattended: row.get(4)?,
                    turns: row.get(5)?,
                    usage: Usage {
                        input: row.get(6)?,
                        output: row.get(7)?,
                        cache_read: row.get(8)?,
                        cache_write: row.get(9)?,
                        cost: row.get(10)?,
                        unpriced: row.get(11)?,
                    },
                })
            },
        )
    }
}

impl Host {
    /// What was used by sessions within reach, from a day on and in the last so many days.
    pub(super) fn usage(
        &self,
        caller: &Caller,
        since: Option<String>,
        days: Option<u64>,
    ) -> Result<Value> {
        let from = days.map(|days| self.day_before(days.saturating_sub(1)));
        let from = from.into_iter().chain(since).max().unwrap_or_default();
        let mut used = self.state.usage(&from)?;
        used.retain(|one| self.reaches(caller, &one.session));
        Ok(serde_json::to_value(used)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a predecessor makes of it, and writes.
    const BEFORE: &str = "INSERT INTO usage VALUES
        ('2026-11-20T10:00:00+01:00', 's', 1, 'owner', 'm', 10, 5, 0, 0),
        ('2026-11-20T10:00:00+01:00', 's', 2, 'agent:job:digest', 'm', 1, 1, 0, 0)";

    #[test]
    fn what_a_predecessor_counts_has_no_price_whether_it_does_so_before_or_after() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.db");
        let before = || {
            let state = State::open(&path).unwrap();
            state.write(BEFORE, []).unwrap();
            state
        };
        before().write("DROP TABLE costs", []).unwrap();
        let state = State::open(&path).unwrap();
        let priced = Usage { input: 7, output: 1, cost: 3, ..Usage::default() };
        state.used(("s", 3), (&Origin::Owner, true), "m", priced).unwrap();
        drop(state);
        let used = before().usage("2026-11-20").unwrap();
        let shown: Vec<_> = used
            .iter()
            .map(|one| {
                (&*one.origin, one.unattended, one.turns, one.usage.cost, one.usage.unpriced)
            })
            .collect();
        let old = [("agent:job:digest", true, 1, 0, 4), ("owner", false, 1, 0, 30)];
        assert_eq!(shown, [&[("owner", true, 1, 3, 0)][..], &old].concat());
        assert_eq!(State::open(&path).unwrap().usage("2026-11-21").unwrap().len(), 1);
    }
}
