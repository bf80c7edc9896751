//! What turns may use up that nobody in front of a terminal asked for, all together, in a day.
//!
//! Owns the count, which is written with each reply, so that a kill makes nothing unseen, and
//! that at the limit no request is sent. Knows no model, nor which turns these are.

use std::sync::Arc;

use anyhow::{Result, ensure};
use rusqlite::{OptionalExtension as _, params};

use crate::kernel::message::Assistant;
use crate::kernel::model::{Boxed, Deltas, Failure, Model, Request};
use crate::organs::always::background::Kind;
use crate::organs::host::Host;
use crate::organs::state::State;

/// Beside the tables that a predecessor knows: it leaves them alone.
pub const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS unattended (day TEXT PRIMARY KEY, tokens INTEGER NOT NULL);
";

/// The part of the limit from which the owner is warned, in percent.
const WARNING: u64 = 80;

impl State {
    /// Count tokens of an unattended turn. All of the day.
    fn spend(&self, day: &str, tokens: u64) -> Result<u64> {
        let connection = self.connection();
        let sql = "INSERT INTO unattended VALUES (?1, ?2)
            ON CONFLICT (day) DO UPDATE SET tokens = tokens + ?2 RETURNING tokens";
        let spent = connection.query_row(sql, params![day, tokens], |row| row.get(0));
        spent.map_err(|error| anyhow::Error::from(error).context("cannot write state.db"))
    }

    /// Tokens of unattended turns on this day.
    pub fn spent(&self, day: &str) -> Result<u64> {
        let sql = "SELECT tokens FROM unattended WHERE day = ?";
        let found = self.connection().query_row(sql, [day], |row| row.get(0)).optional();
        Ok(found.map(Option::unwrap_or_default)?)
    }
}

impl Host {
    /// The day that budgets go by, in local time.
    pub(in crate::organs) fn today(&self) -> String {
        let now = self.always.clock.now().to_zoned(self.always.clock.zone());
        now.strftime("%Y-%m-%d").to_string()
    }

    /// Tokens that unattended turns may still use up today.
    pub(in crate::organs) fn budget_left(&self) -> Result<u64> {
        let limit = self.settings.config.limits.unattended;
        Ok(limit.saturating_sub(self.state.spent(&self.today())?))
    }

    /// See that something is left of it.
    pub(in crate::organs) fn check_budget(&self) -> Result<()> {
        let limit = self.settings.config.limits.unattended;
        let left = self.budget_left()?;
        ensure!(
            left > 0,
            "unattended turns have used up their {limit} tokens of today; they go on at midnight, and the owner can set unattended under [limits] in config.toml higher"
        );
        Ok(())
    }

    /// Count what a reply of an unattended turn used. The owner is told once a day at each mark.
    fn count(&self, tokens: u64) -> Result<()> {
        let (day, limit) = (self.today(), self.settings.config.limits.unattended);
        let spent = self.state.spend(&day, tokens)?;
        let before = spent.saturating_sub(tokens);
        let crossed = |percent: u64| {
            let mark = limit.saturating_mul(percent) / 100;
            before < mark && mark <= spent
        };
        if crossed(100) {
            self.over_budget();
        } else if crossed(WARNING) {
            let text = format!(
                "Unattended turns (jobs, reminders, chats) have used {spent} of the {limit} tokens they may use up a day."
            );
            self.tell_owner(&format!("budget:{day}:{WARNING}"), Kind::Budget, &text);
        }
        Ok(())
    }

    /// Have the owner told, once a day, that nothing is left of it.
    pub(super) fn over_budget(&self) {
        let day = self.today();
        let limit = self.settings.config.limits.unattended;
        let text = format!(
            "Unattended turns (jobs, reminders, chats) have used up their {limit} tokens of today, so none begins before midnight; what comes meanwhile waits, and conversations in a terminal go on. `unattended` under [limits] in config.toml sets the limit, `fledgling usage` shows what used it."
        );
        self.tell_owner(&format!("budget:{day}:100"), Kind::Budget, &text);
    }
}

/// A model whose replies are counted.
pub struct Metered {
    model: Arc<dyn Model>,
    host: Arc<Host>,
}

impl Metered {
    /// This model, on the budget of unattended turns.
    pub fn over(model: Arc<dyn Model>, host: &Arc<Host>) -> Arc<dyn Model> {
        Arc::new(Self { model, host: host.clone() })
    }
}

impl Model for Metered {
    fn name(&self) -> &str {
        self.model.name()
    }

    fn window(&self) -> u64 {
        self.model.window()
    }

    fn ask<'a>(
        &'a self,
        request: &'a Request<'a>,
        deltas: Deltas<'a>,
    ) -> Boxed<'a, Result<Assistant, Failure>> {
        Box::pin(async move {
            let fatal = |error: anyhow::Error| Failure::Fatal(format!("{error:#}"));
            self.host.check_budget().map_err(fatal)?;
            let mut asked = Asked { host: &self.host, tokens: estimate(request) };
            let reply = self.model.ask(request, deltas).await;
            // What failed costs nothing; a reply says what it cost.
            asked.tokens = 0;
            let reply = reply?;
            self.host.count(reply.usage.total()).map_err(fatal)?;
            Ok(reply)
        })
    }
}

/// A request under way. One that is broken off is paid for all the same.
struct Asked<'a> {
    host: &'a Host,
    /// What it takes, about.
    tokens: u64,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        if self.tokens > 0 {
            // Should it fail, the next one says so.
            let _ = self.host.count(self.tokens);
        }
    }
}

/// The tokens of a request, about: four bytes each.
fn estimate(request: &Request<'_>) -> u64 {
    let said = request.messages.iter().map(|message| format!("{message:?}").len());
    (request.system.len() + said.sum::<usize>()) as u64 / 4
}
