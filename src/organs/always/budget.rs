//! What turns may use up that nobody in front of a terminal asked for, all together, in a day:
//! tokens, and money as far as prices are known.
//!
//! Owns the count, which is written with each reply, so that a kill makes nothing unseen, and
//! that at the limit no request is sent. Knows no model, nor which turns these are.

use std::sync::Arc;

use anyhow::{Result, bail};
use jiff::ToSpan as _;
use rusqlite::{OptionalExtension as _, params};

use crate::kernel::message::{Assistant, Usage};
use crate::kernel::model::{Boxed, Delta, Deltas, Failure, Model, Request};
use crate::organs::always::background::Kind;
use crate::organs::around::Around;
use crate::organs::host::Host;
use crate::organs::pictures::{TOKENS, most, shows};
use crate::organs::prices::Dollars;
use crate::organs::state::State;

/// Beside the tables that a predecessor knows: it leaves them alone.
pub const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS unattended (day TEXT PRIMARY KEY, tokens INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS unattended_cost (day TEXT PRIMARY KEY, cost INTEGER NOT NULL);
";

/// The part of a limit from which the owner is warned, in percent.
const WARNING: u64 = 80;

/// What unattended turns have used up on a day, or may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spent {
    /// Tokens.
    pub tokens: u64,
    /// What they cost, where that is known.
    pub cost: Dollars,
}

impl State {
    /// Count what a reply of an unattended turn used. All of the day.
    fn spend(&self, day: &str, usage: Usage) -> Result<Spent> {
        self.atomically(|change| {
            let sql = "INSERT INTO unattended VALUES (?1, ?2)
                ON CONFLICT (day) DO UPDATE SET tokens = tokens + ?2 RETURNING tokens";
            let tokens = change.query_row(sql, params![day, usage.total()], |row| row.get(0))?;
            let sql = "INSERT INTO unattended_cost VALUES (?1, ?2)
                ON CONFLICT (day) DO UPDATE SET cost = cost + ?2 RETURNING cost";
            let cost = change.query_row(sql, params![day, usage.cost], |row| row.get(0))?;
            Ok(Spent { tokens, cost: Dollars(cost) })
        })
    }

    /// What unattended turns used on this day.
    pub fn spent(&self, day: &str) -> Result<Spent> {
        let sum = |sql| -> Result<u64> {
            let found = self.connection().query_row(sql, [day], |row| row.get(0)).optional();
            Ok(found.map(Option::unwrap_or_default)?)
        };
        let tokens = sum("SELECT tokens FROM unattended WHERE day = ?")?;
        let cost = Dollars(sum("SELECT cost FROM unattended_cost WHERE day = ?")?);
        Ok(Spent { tokens, cost })
    }
}

impl Host {
    /// The day that budgets go by, in local time.
    pub(in crate::organs) fn today(&self) -> String {
        self.day_before(0)
    }

    /// The day so many days before it.
    pub(in crate::organs) fn day_before(&self, days: u64) -> String {
        let now = self.always.clock.now().to_zoned(self.always.clock.zone()).date();
        let days = i32::try_from(days.min(1_000_000)).unwrap_or_default();
        now.saturating_sub(days.days()).to_string()
    }

    /// What unattended turns may use up in a day.
    pub(in crate::organs) fn a_day(&self) -> Spent {
        let limits = self.settings.config.limits;
        Spent { tokens: limits.unattended, cost: limits.a_day() }
    }

    /// See that something is left of it.
    pub(in crate::organs) fn check_budget(&self) -> Result<()> {
        match used_up(self.state.spent(&self.today())?, self.a_day()) {
            Some((what, _)) => bail!(
                "unattended turns have used up their {what} of today; they go on at midnight, and the owner can set more under [limits] in config.toml"
            ),
            None => Ok(()),
        }
    }

    /// Count what a reply of an unattended turn used. The owner is told once a day at each mark.
    fn count(&self, usage: Usage) -> Result<()> {
        let (day, limit) = (self.today(), self.a_day());
        let spent = self.state.spend(&day, usage)?;
        if used_up(spent, limit).is_some() {
            self.over_budget();
            return Ok(());
        }
        let crossed = |now: u64, more: u64, limit: u64| {
            let mark = limit.saturating_mul(WARNING) / 100;
            now.saturating_sub(more) < mark && mark <= now
        };
        let warn = |what: &str, text: String| {
            let text = format!("Unattended turns (jobs, reminders, chats) have used {text}");
            self.tell_owner(&format!("budget:{day}:{what}{WARNING}"), Kind::Budget, &text);
        };
        if crossed(spent.tokens, usage.total(), limit.tokens) {
            let Spent { tokens, .. } = spent;
            warn("", format!("{tokens} of the {} tokens they may use up a day.", limit.tokens));
        }
        if crossed(spent.cost.0, usage.cost, limit.cost.0) {
            warn("cost:", format!("{} of the {} they may cost a day.", spent.cost, limit.cost));
        }
        Ok(())
    }

    /// Have the owner told, once a day, that nothing is left of it.
    pub(super) fn over_budget(&self) {
        let day = self.today();
        let spent = self.state.spent(&day);
        let Some((what, setting)) = spent.ok().and_then(|spent| used_up(spent, self.a_day()))
        else {
            return;
        };
        let text = format!(
            "Unattended turns (jobs, reminders, chats) have used up their {what} of today, so none begins before midnight; what comes meanwhile waits, and conversations in a terminal go on. `{setting}` under [limits] in config.toml sets the limit, `fledgling usage` shows what used it."
        );
        self.tell_owner(&format!("budget:{day}:100"), Kind::Budget, &text);
    }

    /// Where the owner has limited what turns may cost, and one used what nobody knows the price
    /// of: tell them, once.
    pub(in crate::organs) fn say_unpriced(&self, unattended: bool, model: &str, usage: Usage) {
        let limits = self.settings.config.limits;
        let set = limits.cost.is_some() || unattended && limits.unattended_cost.is_some();
        if usage.unpriced > 0 && set {
            let text = format!(
                "What {model} costs is not known, so the limits in dollars under [limits] in config.toml do not hold for it, only those in tokens. A price under [prices.\"{model}\"] puts that right (`fledgling help usage`)."
            );
            self.tell_owner(&format!("unpriced:{model}"), Kind::Budget, &text);
        }
    }
}

/// The limit that nothing is left of, and its setting.
fn used_up(spent: Spent, limit: Spent) -> Option<(String, &'static str)> {
    if spent.tokens >= limit.tokens {
        return Some((format!("{} tokens", limit.tokens), "unattended"));
    }
    (spent.cost >= limit.cost).then(|| (limit.cost.to_string(), "unattended_cost"))
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

impl Around for Metered {
    fn within(&self) -> &dyn Model {
        &*self.model
    }

    fn pass<'a>(
        &'a self,
        request: &'a Request<'a>,
        deltas: Deltas<'a>,
    ) -> Boxed<'a, Result<Assistant, Failure>> {
        Box::pin(async move {
            let fatal = |error: anyhow::Error| Failure::Fatal(format!("{error:#}"));
            self.host.check_budget().map_err(fatal)?;
            let price = self.host.settings.catalog.price(self.name());
            let mut asked =
                Asked { host: &self.host, usage: price.priced(estimate(request, self.window())) };
            let mut begun = false;
            let mut heard = |delta: Delta<'_>| {
                begun |= matches!(delta, Delta::Text(_) | Delta::Thinking(_));
                deltas(delta);
            };
            let reply = self.model.ask(request, &mut heard).await;
            // A reply says what it cost, and what was refused costs nothing; one that breaks
            // off is paid for.
            if reply.is_ok() || !begun {
                asked.usage = Usage::default();
            }
            let reply = reply?;
            self.host.count(reply.usage).map_err(fatal)?;
            Ok(reply)
        })
    }
}

/// A request under way. One that breaks off is paid for all the same.
struct Asked<'a> {
    host: &'a Host,
    /// What it takes, about.
    usage: Usage,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        if self.usage.total() > 0 {
            // Should it fail, the next one says so.
            let _ = self.host.count(self.usage);
        }
    }
}

/// The tokens of a request to a model with this window, about: four bytes each, and pictures.
fn estimate(request: &Request<'_>, window: u64) -> Usage {
    let said = request.messages.iter().map(|message| format!("{message:?}").len());
    let shown = request.messages.iter().map(shows).sum::<usize>().min(most(window)) as u64;
    let input = (request.system.len() + said.sum::<usize>()) as u64 / 4 + shown * TOKENS;
    Usage { input, ..Usage::default() }
}
