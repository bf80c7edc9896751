//! The schedule: what the agent wrote into `crontab`, and reminders.
//!
//! `pattern`, `crontab` and `when` turn words into times, `ledger` keeps what is due and what
//! has come of it, `clock` says what time it is.

pub mod clock;
pub mod crontab;
pub mod ledger;
pub mod pattern;
pub mod when;
