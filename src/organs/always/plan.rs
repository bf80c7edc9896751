//! What the agent has planned, as the last commit has it: its crontab, its services.
//!
//! Owns where these are read (the history, not the workspace: what an unfinished turn writes is
//! not in force yet, and an undo takes it out of force) and for whom each works: the session
//! whose commit introduced it. Does not know what becomes of them.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use git2::{ObjectType, Oid, Tree};

use crate::organs::history::chronicle::{Chronicle, Entry};

/// The schedule's file in the workspace.
pub const CRONTAB: &str = "crontab";
/// The services' folder.
pub const SERVICES: &str = "services";
/// A crontab or a service beyond this many bytes is not read.
const LIMIT: usize = 1 << 20;
/// Executable, in git's words.
const EXECUTABLE: i32 = 0o100_755;

/// A file as the last commit has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// Its path in the workspace.
    pub path: PathBuf,
    /// The id of its content.
    pub id: Oid,
    /// Its content.
    pub text: String,
    /// Whether it may be executed.
    pub executable: bool,
}

/// For whom something works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Author {
    /// The owner.
    Owner,
    /// This session.
    Session(String),
    /// Nobody knows, and so for nobody.
    Unknown,
}

/// The crontab; none where there is none.
pub fn crontab(tree: &Tree<'_>, chronicle: &Chronicle) -> Result<Option<Written>> {
    file(tree, chronicle, Path::new(CRONTAB))
}

/// All files in the services' folder that are no notes.
pub fn services(tree: &Tree<'_>, chronicle: &Chronicle) -> Result<Vec<Written>> {
    let Ok(folder) = tree.get_path(Path::new(SERVICES)) else { return Ok(Vec::new()) };
    let Ok(folder) = chronicle.repository().find_tree(folder.id()) else { return Ok(Vec::new()) };
    let names = folder.iter().filter_map(|entry| entry.name().ok().map(str::to_owned));
    let plain = names.filter(|name| !name.starts_with('.') && !has_extension(name, &["md", "txt"]));
    let read = plain.map(|name| file(tree, chronicle, &Path::new(SERVICES).join(name)));
    read.filter_map(Result::transpose).collect()
}

fn has_extension(name: &str, extensions: &[&str]) -> bool {
    let extension = Path::new(name).extension();
    extension.is_some_and(|one| extensions.iter().any(|other| one.eq_ignore_ascii_case(other)))
}

fn file(tree: &Tree<'_>, chronicle: &Chronicle, path: &Path) -> Result<Option<Written>> {
    let Ok(entry) = tree.get_path(path) else { return Ok(None) };
    if entry.kind() != Some(ObjectType::Blob) {
        return Ok(None);
    }
    let reading = || format!("cannot read {} of the last commit", path.display());
    let blob = chronicle.repository().find_blob(entry.id()).with_context(reading)?;
    let content = &blob.content()[..blob.size().min(LIMIT)];
    Ok(Some(Written {
        path: path.to_owned(),
        id: entry.id(),
        text: String::from_utf8_lossy(content).into_owned(),
        executable: entry.filemode() == EXECUTABLE,
    }))
}

/// Who introduced a line of the crontab that is there now, and the commit.
pub fn author_of_line(chronicle: &Chronicle, line: &str) -> Result<(Author, String)> {
    let path = Path::new(CRONTAB);
    let has = |tree: Option<Tree<'_>>| -> Result<bool> {
        let Some(tree) = tree else { return Ok(false) };
        let found = file(&tree, chronicle, path)?;
        Ok(found.is_some_and(|found| found.text.lines().any(|one| one.trim() == line.trim())))
    };
    for step in chronicle.walk()?.changing(path) {
        let (entry, _) = step?;
        if !has(entry.parent_tree()?)? {
            return said_by(chronicle, &entry);
        }
    }
    Ok((Author::Unknown, String::new()))
}

/// Who changed a file last, and the commit.
pub fn author_of_file(chronicle: &Chronicle, path: &Path) -> Result<(Author, String)> {
    match chronicle.walk()?.changing(path).next() {
        Some(step) => said_by(chronicle, &step?.0),
        None => Ok((Author::Unknown, String::new())),
    }
}

fn said_by(chronicle: &Chronicle, entry: &Entry<'_>) -> Result<(Author, String)> {
    // What a job writes works for whoever had it run.
    if let Some(line) = entry.trailer("Line") {
        let (author, _) = said_by(chronicle, &Entry::read(chronicle.find(line)?))?;
        return Ok((author, entry.commit.id().to_string()));
    }
    let author = match (entry.who(), entry.trailer("Session")) {
        ("unknown", _) => Author::Unknown,
        (_, Some(session)) => Author::Session(session.to_owned()),
        _ => Author::Owner,
    };
    Ok((author, entry.commit.id().to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::organs::history::archive::Message;
    use crate::organs::history::chronicle::tests::{Written as History, message};

    #[test]
    fn a_line_works_for_whoever_introduced_it() {
        let history = History::new();
        let owners = Message {
            subject: "s".to_owned(),
            trailers: vec![("Origin", "owner".to_owned())],
            ..Message::default()
        };
        history.commit(&[("crontab", Some(b"0 9 * * * a\n"))], &owners);
        let turn = history.commit(
            &[("crontab", Some(b"# more\n0 9 * * * a\n1 1 * * * b"))],
            &message("t", 3, &[]),
        );
        let unknown = Message { trailers: vec![("Origin", "unknown".to_owned())], ..owners };
        history.commit(&[("crontab", Some(b"0 9 * * * a\n1 1 * * * b\n2 2 * * * c"))], &unknown);
        let job = Message {
            subject: "s".to_owned(),
            trailers: vec![("Line", turn.to_string()), ("Origin", "job:b".to_owned())],
            ..Message::default()
        };
        history.commit(&[("services/x", Some(b"x"))], &job);
        let chronicle = history.chronicle();
        let made = author_of_file(&chronicle, Path::new("services/x")).unwrap().0;
        assert_eq!(
            made,
            Author::Session("main".to_owned()),
            "it works for whoever had the job run"
        );
        let author = |line| author_of_line(&chronicle, line).unwrap().0;
        assert_eq!(author("0 9 * * * a"), Author::Owner);
        assert!(matches!(author("1 1 * * * b"), Author::Session(_)));
        assert_eq!(author("2 2 * * * c"), Author::Unknown);
        assert_eq!(author_of_file(&chronicle, Path::new(CRONTAB)).unwrap().0, Author::Unknown);
        let tree = chronicle.head().unwrap().tree().unwrap();
        let crontab = crontab(&tree, &chronicle).unwrap().unwrap();
        assert!(crontab.text.ends_with('c') && !crontab.executable);
        assert_eq!(services(&tree, &chronicle).unwrap().len(), 1);
    }
}
