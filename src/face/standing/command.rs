//! The commands about what goes on without a terminal, as they are typed.
//!
//! Owns their words, what each asks of the host, and which view shows the answer. Asks nobody.

use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::Subcommand;
use serde_json::Value;

use super::{agenda, people, services, status};
use crate::face::{attached, views};
use crate::organs::reach::narrow;
use crate::organs::verb::{Verb, exit};

/// A command.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Keep the agent running without a terminal: its schedule, services and chats
    Serve,
    /// Show what runs by itself: jobs, services, channels, budget, errors
    Status,
    /// Set a reminder: the conversation goes on by itself then
    #[command(
        after_help = "Examples of WHEN: \"in 20 minutes\", \"tomorrow 09:00\", \"friday 17:30\", 2026-12-24T18:00"
    )]
    At {
        /// When
        when: String,
        /// What about
        #[arg(required = true, value_name = "TEXT")]
        text: Vec<String>,
    },
    /// List the reminders to come, or cancel one: agenda rm NUMBER
    Agenda {
        /// What to do
        #[command(subcommand)]
        command: Option<AgendaCommand>,
    },
    /// Send words or files to the owner: to their chat or terminal, or kept until they are there
    Tell {
        /// The channel to use
        #[arg(long, value_name = "NAME")]
        channel: Option<String>,
        /// Send this file of the workspace
        #[arg(long = "file", value_name = "PATH")]
        files: Vec<PathBuf>,
        /// The words [default: from standard input]
        #[arg(value_name = "TEXT")]
        text: Vec<String>,
    },
    /// Let somebody talk from a chat, by the code that they were given there
    Pair {
        /// The code
        code: String,
        /// Somebody else than you
        #[arg(long = "as", value_name = "NAME")]
        person: Option<String>,
        /// Let their conversations touch only this, for instance "network none"
        #[arg(long, value_name = "WHAT", requires = "person")]
        only: Vec<String>,
        /// Requests for more may be answered from this chat
        #[arg(long)]
        answers: bool,
    },
    /// List who is paired, or take it back: people rm CHANNEL NAME
    People {
        /// What to do
        #[command(subcommand)]
        command: Option<PeopleCommand>,
    },
    /// Show the log of a service, or start it again
    Services {
        /// Its name [default: list them]
        name: Option<String>,
        /// Start it again, also out of quarantine
        #[arg(long, requires = "name")]
        restart: bool,
    },
    /// Try out whether a service speaks as channels do, without any secret
    Check {
        /// Its file, for instance services/telegram
        service: String,
    },
}

/// What is done to the agenda.
#[derive(Debug, Subcommand)]
pub enum AgendaCommand {
    /// Cancel a reminder
    Rm {
        /// Its number
        id: i64,
    },
}

/// What is done to people.
#[derive(Debug, Subcommand)]
pub enum PeopleCommand {
    /// Let somebody talk no more
    Rm {
        /// The channel
        channel: String,
        /// The name of the person
        person: String,
    },
}

impl Command {
    /// What it asks of the host.
    pub fn verb(&self, session: Option<String>, current: &Path) -> Result<Verb> {
        Ok(match self {
            Self::Serve | Self::Status | Self::Services { name: None, .. } => Verb::Status,
            Self::At { when, text } => {
                Verb::At { session, when: when.clone(), text: text.join(" ") }
            }
            Self::Agenda { command: None } => Verb::Agenda,
            Self::Agenda { command: Some(AgendaCommand::Rm { id }) } => Verb::Cancel { id: *id },
            Self::Tell { channel, text, files } => {
                let text = match text.as_slice() {
                    // Files need no words.
                    [] if !files.is_empty() => String::new(),
                    [] => io::read_to_string(io::stdin()).context("cannot read standard input")?,
                    words => words.join(" "),
                };
                let files =
                    files.iter().map(|file| attached::given(file)).collect::<Result<_>>()?;
                Verb::Tell { session, channel: channel.clone(), text, files }
            }
            Self::Pair { code, person, only, answers } => {
                let only = narrow::parse(only, current, std::env::home_dir().as_deref())?;
                let (code, person, answers) = (code.clone(), person.clone(), *answers);
                Verb::Pair { code, person, only: only.map(Box::new), answers }
            }
            Self::People { command: None } => Verb::People,
            Self::People { command: Some(PeopleCommand::Rm { channel, person }) } => {
                Verb::Unpair { channel: channel.clone(), person: person.clone() }
            }
            Self::Services { name: Some(name), restart } => {
                Verb::Service { name: service(name), restart: *restart }
            }
            Self::Check { service: name } => Verb::Check { name: service(name) },
        })
    }

    /// Show the answer. The number is the exit code.
    pub fn show(&self, answer: &Value, json: bool) -> Result<u8> {
        match self {
            Self::Serve | Self::Status => views::print(answer, json, status),
            Self::Services { name: None, .. } => views::print(answer, json, services),
            Self::Agenda { command: None } => {
                views::print(answer, json, |all, screen| Ok(agenda(all, screen)))
            }
            Self::People { command: None } => {
                views::print(answer, json, |all, screen| Ok(people(all, screen)))
            }
            Self::Check { .. } => {
                views::said(answer)?;
                Ok(if answer["passed"] == true { 0 } else { exit::FAILED })
            }
            _ => views::said(answer),
        }
    }
}

/// A service, by its file or by its name.
fn service(typed: &str) -> String {
    typed.trim_start_matches("./").trim_start_matches("services/").to_owned()
}
