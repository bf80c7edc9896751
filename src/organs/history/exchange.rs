//! What was said and done in one turn, from its transcript.
//!
//! Owns the way from a session and the number of a turn to the words that asked, the call
//! that touched a file and the words that came with it. Reads transcripts only; knows no
//! commit.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::kernel::message::{Assistant, Call};
use crate::kernel::session::{Entry, Line, lines};
use crate::kernel::tool::Action;
use crate::organs::history::chronicle::plain;
use crate::organs::home::Home;
use crate::organs::sessions::check_name;

/// The longest line that tells a call or is of a result, in characters.
const LINE_CHARS: usize = 200;
/// Lines of a result that are told.
const RESULT_LINES: usize = 4;

/// One turn of a session.
pub struct Exchange {
    lines: Vec<Line>,
    /// Where relative paths of its calls begin.
    root: PathBuf,
}

impl Exchange {
    /// Read a turn. Fails where its transcript or the turn in it is missing.
    pub fn read(home: &Home, session: &str, turn: u64) -> Result<Self> {
        // It comes from a commit, which the owner may have taken in from elsewhere.
        check_name(session)?;
        let file = File::open(home.transcript(session));
        let file = file.with_context(|| format!("cannot read the transcript of {session}"))?;
        let mut found = Self { lines: Vec::new(), root: home.workspace() };
        let mut inside = false;
        for line in lines(&file) {
            // What cannot be read is told when the session is opened.
            let Ok(Entry { line, .. }) =
                line.with_context(|| format!("cannot read the transcript of {session}"))?
            else {
                continue;
            };
            match &line {
                Line::Session { header, .. } => found.root.clone_from(&header.root),
                Line::User { turn: number, .. } => inside = *number == turn,
                Line::TurnEnd { .. } => inside = false,
                _ => {}
            }
            if inside {
                found.lines.push(line);
            }
        }
        ensure!(!found.lines.is_empty(), "the transcript of {session} has no turn {turn}");
        Ok(found)
    }

    /// The words that asked for it, whoever said them.
    pub fn asked(&self) -> Vec<String> {
        let words = self.lines.iter().filter_map(|line| match line {
            Line::User { incoming, .. } => Some(incoming.text.clone()),
            _ => None,
        });
        words.collect()
    }

    /// The call that touched a file of the workspace, in a line: the last write or edit of
    /// it that was carried out, else the last command in which its name occurs. With it
    /// what was said, or what was said last.
    pub fn touched(&self, file: &Path) -> (Option<String>, String) {
        let failed = self.lines.iter().filter_map(|line| match line {
            Line::Result(result) => Some((result.id.as_str(), result.error)),
            _ => None,
        });
        let failed: HashMap<_, _> = failed.collect();
        let calls = || {
            let calls = self.replies().flat_map(|reply| reply.calls().map(move |c| (reply, c)));
            calls.filter_map(|(reply, call)| {
                Some((reply, call, Action::parse(call).ok()?, *failed.get(call.id.as_str())?))
            })
        };
        let wrote = calls().filter(|(.., action, failed)| match action {
            Action::Write { path, .. } | Action::Edit { path, .. } => {
                !failed && plain(path.strip_prefix(&self.root).unwrap_or(path)) == plain(file)
            }
            _ => false,
        });
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        let ran = calls().filter(
            |(.., action, _)| matches!(action, Action::Bash { command, .. } if command.contains(&*name)),
        );
        let found = wrote.last().or_else(|| ran.last());
        let said = found.as_ref().map(|(reply, ..)| reply.text()).filter(|said| !said.is_empty());
        let last = || self.replies().map(Assistant::text).filter(|said| !said.is_empty()).last();
        let call = found.map(|(_, call, ..)| format!("{} {}", call.name, in_a_line(call)));
        (call, said.or_else(last).unwrap_or_default())
    }

    /// The commands that were run, a line each.
    pub fn commands(&self) -> Vec<String> {
        let calls = self.replies().flat_map(Assistant::calls);
        let actions = calls.filter_map(|call| Action::parse(call).ok());
        let commands = actions.filter_map(|action| match action {
            Action::Bash { command, .. } => Some(cut(&command.trim().replace('\n', "; "))),
            _ => None,
        });
        commands.collect()
    }

    /// All of it in order: who and what. Calls go by the name of their tool, what came of
    /// them by `result`, remarks of the program by `note`.
    pub fn whole(&self) -> Vec<(String, String)> {
        let mut told = Vec::new();
        for line in &self.lines {
            match line {
                Line::User { incoming, .. } => {
                    told.push((incoming.origin.to_string(), incoming.text.clone()));
                }
                Line::Assistant(reply) => {
                    let text = Some(reply.text()).filter(|text| !text.is_empty());
                    told.extend(text.map(|text| ("agent".to_owned(), text)));
                    let calls = reply.calls();
                    told.extend(calls.map(|call| (call.name.clone(), in_a_line(call))));
                }
                Line::Result(result) => told.push(("result".to_owned(), short(&result.text))),
                Line::Note { text } => told.push(("note".to_owned(), text.clone())),
                _ => {}
            }
        }
        told
    }

    fn replies(&self) -> impl Iterator<Item = &Assistant> {
        self.lines.iter().filter_map(|line| match line {
            Line::Assistant(reply) => Some(reply),
            _ => None,
        })
    }
}

/// What a tool was used on.
pub fn in_a_line(call: &Call) -> String {
    let what = match Action::parse(call) {
        Ok(Action::Bash { command, .. }) => command,
        Ok(Action::Read { path, .. } | Action::Write { path, .. } | Action::Edit { path, .. }) => {
            path.display().to_string()
        }
        Err(_) => call.input.to_string(),
    };
    let words = what.split_whitespace().collect::<Vec<_>>().join(" ");
    cut(&words)
}

fn short(result: &str) -> String {
    let first = result.lines().take(RESULT_LINES).map(cut);
    let mut told: Vec<_> = first.collect();
    let more = result.lines().count() - told.len();
    if more > 0 {
        told.push(format!("… {more} more lines"));
    }
    told.join("\n")
}

fn cut(line: &str) -> String {
    match line.char_indices().nth(LINE_CHARS) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.to_owned(),
    }
}
