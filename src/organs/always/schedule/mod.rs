//! The schedule: what the agent wrote into `crontab`, and reminders.
//!
//! `pattern`, `crontab` and `when` turn words into times, `ledger` and `reminders` keep what is
//! due and what has come of each `job`, `clock` says what time it is.

pub mod clock;
pub mod crontab;
pub mod job;
pub mod ledger;
pub mod pattern;
pub mod reminders;
pub mod when;
