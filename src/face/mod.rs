//! How people reach the agent: a terminal conversation, single turns, lists and pages.
//! Owns everything that is looked at; decides nothing.

pub mod acp;
pub mod asking;
pub mod attached;
pub mod begun;
pub mod clean;
pub mod commands;
pub mod doctor;
pub mod drill;
pub mod groups;
pub mod help;
pub mod history;
pub mod inline;
pub mod markdown;
pub mod onboard;
pub mod policy;
pub mod prompt_line;
pub mod recall;
pub mod record;
pub mod repl;
pub mod report;
pub mod rows;
pub mod run;
pub mod screen;
pub mod secrets;
pub mod serve;
pub mod service;
pub mod sql;
pub mod standing;
pub mod tour;
pub mod tty;
pub mod turn_view;
pub mod usage;
pub mod views;
pub mod wrap;

use crate::organs::verb::exit;

/// A request that was refused, with the exit code that makes.
#[derive(Debug, thiserror::Error)]
#[error("{why}")]
pub struct Refusal {
    /// Why, and what to do about it.
    pub why: String,
    /// The exit code.
    pub exit: u8,
}

impl Refusal {
    /// Of what was asked for wrongly.
    pub fn usage(why: impl Into<String>) -> Self {
        Self { why: why.into(), exit: exit::USAGE }
    }
}
