//! The integration tests: one binary. They drive the real program in a home of its own
//! against a fake model server that fails a test whose requests break the providers' rules.

use std::time::Duration;

mod acp;
mod always_torture;
mod asks;
mod backups;
mod bad_input;
mod branches;
mod bridges;
mod budget;
mod canary;
mod channels;
mod chat;
mod cost;
mod databases;
mod doors;
mod everyday;
mod history;
mod history_torture;
mod home;
mod hygiene;
mod kept;
mod kills;
mod large_files;
mod listening;
mod mail_server;
mod matrix_server;
mod model_server;
mod pictures;
mod reach;
mod reach_email;
mod reach_matrix;
mod real_model;
mod recall;
mod redteam;
mod reminders;
mod repl;
mod replay;
mod reply;
mod report;
mod rules;
mod schedule;
mod serve;
mod service;
mod services;
mod shipped;
mod shrink;
mod standing;
mod story;
mod telegram_server;
mod terminal;
mod tidy;
mod tour;
mod turns;

/// How long anything is waited for before a test fails and shows what it saw. Nothing is
/// expected to take that long: it is only there so that a broken test ends. (A real model
/// on one core is the slowest.)
const BOUND: Duration = Duration::from_secs(30);
