//! Sessions as they lie on the disk: names, kinship, what a list of them shows.
//!
//! Owns what a valid name is and how a new one is found. Reads transcripts, never writes
//! them.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom};
use std::path::Path;
use std::time::SystemTime;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::kernel::session::{Entry, Header, Line, lines};
use crate::organs::history::gitdir;
use crate::organs::home::Home;

/// Bytes at the end of a transcript in which the number of its last turn is looked for first.
const END: u64 = 1 << 16;

/// A session in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// Its name.
    pub name: String,
    /// The session it was started from.
    pub parent: Option<String>,
    /// When it was last written to, in local time.
    pub last: String,
    /// Turns so far.
    pub turns: u64,
    /// What was said in it first, in a line.
    pub about: String,
    /// Whether it was ended.
    pub ended: bool,
    /// Seconds the turn under way has taken.
    pub running: Option<u64>,
}

/// A name no session may have.
#[derive(Debug, thiserror::Error)]
#[error(
    "bad session name {0:?}: up to 64 letters, digits, dots, dashes and underscores, the first a letter or digit"
)]
pub struct BadName(String);

/// A name a session may have: it becomes a file's name and is typed on command lines.
pub fn check_name(name: &str) -> Result<()> {
    let fine = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let good =
        (1..=64).contains(&name.len()) && name.chars().all(fine) && !name.starts_with(['.', '-']);
    if good { Ok(()) } else { Err(BadName(name.to_owned()).into()) }
}

/// The name of a new session: the day, and a number when the day has one already.
pub fn fresh_name(home: &Home) -> Result<String> {
    fresh_names().find(|name| !home.transcript(name).exists()).context("no name is free")
}

/// Make a new session by the first name that `create` finds free. Its name.
pub fn create_fresh(create: impl Fn(&str) -> Result<()>) -> Result<String> {
    let taken = |error: &anyhow::Error| {
        let cause = error.downcast_ref::<std::io::Error>();
        cause.is_some_and(|cause| cause.kind() == std::io::ErrorKind::AlreadyExists)
    };
    for name in fresh_names() {
        match create(&name) {
            Err(error) if taken(&error) => {}
            created => return created.map(|()| name),
        }
    }
    anyhow::bail!("no name is free")
}

fn fresh_names() -> impl Iterator<Item = String> {
    let day = jiff::Zoned::now().strftime("%Y-%m-%d").to_string();
    std::iter::once(day.clone()).chain((2..).map(move |number| format!("{day}.{number}")))
}

/// The session to go on with: the one that is named, else the latest, else a new one.
pub fn chosen(home: &Home, named: Option<String>) -> Result<String> {
    match named {
        Some(name) => check_name(&name).map(|()| name),
        None => latest(home)?.map_or_else(|| fresh_name(home), Ok),
    }
}

/// All sessions, the latest first.
pub fn list(home: &Home) -> Result<Vec<Listed>> {
    files(home)?.into_iter().map(|(name, modified)| read(home, name, modified)).collect()
}

/// The name of the session that was last written to and is neither ended nor another
/// one's child nor on a branch: what names no session must not go on aside of the workspace.
pub fn latest(home: &Home) -> Result<Option<String>> {
    for (name, _) in files(home)? {
        let path = home.transcript(&name);
        let in_workspace = |header: &Header| gitdir::branch_of(home.path(), &header.root).is_none();
        let own = |header: &Header| header.parent.is_none() && in_workspace(header);
        if header(&path).as_ref().is_some_and(own) && !ended(&path)? {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

/// A session, the one that started it, and so on to the root.
pub fn ancestry<'a>(home: &'a Home, session: &str) -> impl Iterator<Item = String> + 'a {
    // The depth guards against a circle, which only a tampered transcript could hold.
    std::iter::successors(Some(session.to_owned()), |name| header(&home.transcript(name))?.parent)
        .take(64)
}

/// Whether a session was ended: its last line says so.
pub fn ended(path: &Path) -> Result<bool> {
    let end = File::open(path).and_then(|mut file| tail(&mut file, 256));
    let end = end.with_context(|| format!("cannot read {}", path.display()))?;
    let last = end.trim_ascii_end().rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
    let entry = serde_json::from_slice::<Entry>(last);
    Ok(entry.is_ok_and(|entry| entry.line == Line::Ended))
}

/// The first line of a transcript, if it can be read.
pub fn header(path: &Path) -> Option<Header> {
    let mut first = String::new();
    BufReader::new(File::open(path).ok()?).read_line(&mut first).ok()?;
    match serde_json::from_str::<Entry>(&first).ok()?.line {
        Line::Session { header, .. } => Some(header),
        _ => None,
    }
}

fn files(home: &Home) -> Result<Vec<(String, SystemTime)>> {
    let folder = home.sessions();
    let entries = std::fs::read_dir(&folder);
    let entries = entries.with_context(|| format!("cannot list {}", folder.display()))?;
    let mut found: Vec<_> = entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let modified = entry.metadata().ok()?.modified().ok()?;
            Some((name.strip_suffix(".jsonl")?.to_owned(), modified))
        })
        .collect();
    found.sort_by(|(left, a), (right, b)| b.cmp(a).then_with(|| right.cmp(left)));
    Ok(found)
}

fn read(home: &Home, name: String, modified: SystemTime) -> Result<Listed> {
    let path = home.transcript(&name);
    let last = jiff::Timestamp::try_from(modified)
        .map(|at| at.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%d %H:%M").to_string());
    let mut listed = Listed {
        name,
        parent: None,
        last: last.unwrap_or_default(),
        turns: 0,
        about: String::new(),
        ended: false,
        running: None,
    };
    let reading = || format!("cannot read {}", path.display());
    let mut file = File::open(&path).with_context(reading)?;
    for entry in lines(&file) {
        match entry.with_context(reading)? {
            Ok(Entry { line: Line::Session { header, .. }, .. }) => listed.parent = header.parent,
            Ok(Entry { line: Line::User { incoming, .. }, .. }) => {
                incoming.text.lines().next().unwrap_or_default().clone_into(&mut listed.about);
                break;
            }
            // What cannot be read is told when the session is opened.
            Ok(_) | Err(_) => {}
        }
    }
    listed.turns = last_turn(&mut file).with_context(reading)?;
    listed.ended = ended(&path)?;
    Ok(listed)
}

/// The number of the last turn. It stands near the end, so that a list of long conversations
/// costs no more than one of short ones.
fn last_turn(file: &mut File) -> std::io::Result<u64> {
    #[derive(Deserialize)]
    struct Numbered {
        kind: String,
        turn: u64,
    }
    let length = file.metadata()?.len();
    let mut bytes = END;
    loop {
        let end = tail(file, bytes)?;
        // The first line may be a part of one.
        let whole =
            if bytes < length { memchr::memchr(b'\n', &end).unwrap_or(end.len()) } else { 0 };
        let mut numbered = end[whole..].rsplit(|byte| *byte == b'\n').filter_map(|line| {
            let line = serde_json::from_slice::<Numbered>(line).ok()?;
            ["user", "turn_end"].contains(&&*line.kind).then_some(line.turn)
        });
        match numbered.next() {
            Some(turn) => return Ok(turn),
            None if bytes >= length => return Ok(0),
            None => bytes *= 4,
        }
    }
}

/// The last bytes of a file.
fn tail(file: &mut File, bytes: u64) -> std::io::Result<Vec<u8>> {
    let length = file.seek(SeekFrom::End(0))?;
    file.seek(SeekFrom::Start(length.saturating_sub(bytes)))?;
    let mut end = Vec::new();
    file.read_to_end(&mut end)?;
    Ok(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_list_shows_is_found_at_both_ends() {
        let temp = tempfile::tempdir().unwrap();
        let home = Home::resolve(Some(temp.path().join("home"))).unwrap();
        std::fs::create_dir_all(home.sessions()).unwrap();
        let at = "2026-11-21T10:00:00+01:00";
        let user = |turn: u64, text: &str| {
            let line = serde_json::json!({"at": at, "kind": "user", "turn": turn, "key": "k",
                "origin": "owner", "text": text});
            format!("{line}\n")
        };
        let note = |text: &str| {
            format!("{}\n", serde_json::json!({"at": at, "kind": "note", "text": text}))
        };
        let ended = format!("{}\n", serde_json::json!({"at": at, "kind": "ended"}));
        let listed = |text: String| {
            std::fs::write(home.transcript("s"), text).unwrap();
            let one = list(&home).unwrap().remove(0);
            (one.turns, one.about, one.ended)
        };
        let first = user(1, "the first\nand more");
        let about = || "the first".to_owned();
        let long = "\"kind\":\"user\",\"turn\":77,\n".repeat(20_000);
        assert_eq!(listed(String::new()), (0, String::new(), false));
        assert_eq!(listed(first.clone()), (1, about(), false));
        assert_eq!(listed(first.clone() + &user(12, "x") + &note(&long)), (12, about(), false));
        assert_eq!(listed(note(&long) + &first + &note(&long) + &ended), (1, about(), true));
        assert_eq!(listed(first + &user(3, "x") + "{\"torn"), (3, about(), false));
    }

    #[test]
    fn a_fresh_session_never_takes_anothers_file() {
        let folder = tempfile::tempdir().unwrap();
        let create = |name: &str| {
            let file = File::create_new(folder.path().join(name));
            file.map(drop).with_context(|| format!("cannot create {name}"))
        };
        let names = [0; 3].map(|_| create_fresh(create).unwrap());
        assert_eq!(
            [&names[1], &names[2]],
            [&format!("{}.2", names[0]), &format!("{}.3", names[0])]
        );
        assert!(create_fresh(|_| anyhow::bail!("no")).is_err());
    }
}
