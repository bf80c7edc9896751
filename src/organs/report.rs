//! The harness as a session sees it: where it is, what it may do, what it may use up.
//!
//! Owns what `fledgling self` says, so that an agent can tell "I may not" from "I cannot".
//! Changes nothing.

use anyhow::Result;
use serde_json::{Value, json};

use crate::kernel::message::Usage;
use crate::kernel::tool::{BASH_DEFAULT_SECONDS, BASH_LIMIT_SECONDS, OUTPUT_LIMIT, READ_LINES};
use crate::organs::host::Host;
use crate::organs::prices::Dollars;
use crate::organs::reach::root::Row;
use crate::organs::usage::Used;

impl Host {
    /// What a session's hands may touch, as a table.
    pub(super) fn reach_of(&self, session: Option<&str>) -> Result<Vec<Row>> {
        let (given, narrower) = self.given(session)?;
        Ok(self.reach().table(&self.folder(session), &given, &narrower))
    }
}

/// What there is to know, as an object of objects.
pub async fn about(host: &Host, session: Option<&str>) -> Result<Value> {
    let settings = &host.settings;
    let home = &settings.home;
    let limits = host.limits_of(session)?;
    let model = match host.model_for(session.unwrap_or_default(), None).await {
        Ok(model) => json!({
            "name": model.name(),
            "window_tokens": model.window(),
            "price": settings.catalog.price(model.name()).to_string(),
        }),
        Err(error) => json!({ "none": error.to_string().lines().next() }),
    };
    let mut used = Usage::default();
    let own = |one: &Used| Some(&*one.session) == session;
    host.state.usage("")?.into_iter().filter(own).for_each(|one| used += one.usage);
    Ok(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "session": session,
        "tokens_used_by_session": used.total(),
        "cost_of_session": Dollars(used.cost).to_string(),
        "model": model,
        "paths": {
            "workspace": host.folder(session),
            "scratch": home.scratch(),
            "home": home.path(),
            "transcripts": home.sessions(),
            "history": home.file("history.git"),
        },
        "rights": host.reach().rights(),
        "hands": host.reach_of(session)?,
        "limits_a_turn": {
            "steps": limits.steps,
            "tokens": limits.tokens,
            "seconds": limits.seconds,
            "cost": limits.cost.map_or_else(|| "any".to_owned(), |cost| cost.to_string()),
        },
        "limits_a_call": {
            "bash_seconds": BASH_DEFAULT_SECONDS,
            "bash_seconds_at_most": BASH_LIMIT_SECONDS,
            "output_bytes": OUTPUT_LIMIT,
            "read_lines": READ_LINES,
        },
        "summarised_at_percent_of_window": limits.fill,
        "safe_mode": settings.safe,
    }))
}
