//! A recording in a file of the owner's: `fledgling record`, and `--record` beside a
//! conversation.
//!
//! Owns the file: nobody else may read it, it is there whole or not at all, and nothing that
//! is no recording is overwritten. Does not know what a recording says.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::face::clean::clean;
use crate::face::screen::{Place, write};
use crate::face::turn_view::plural;
use crate::face::{Refusal, views};
use crate::organs::link::Link;
use crate::organs::replay::recording::{Recording, text};
use crate::organs::verb::Verb;

/// Keeps a file up to date with what is said in a conversation.
#[derive(Debug, Clone, Default)]
pub struct Recorder {
    file: Option<PathBuf>,
    /// The session, and the first turn that is recorded.
    of: Option<(String, u64)>,
}

impl Recorder {
    /// For this file, if one is wished. Fails where it must not be overwritten.
    pub fn to(file: Option<PathBuf>) -> Result<Self> {
        file.as_deref().map_or(Ok(()), check)?;
        Ok(Self { file, of: None })
    }

    /// A turn began. What is recorded is the conversation in which that was first.
    pub fn began(&mut self, session: &str, turn: u64) {
        self.of.get_or_insert_with(|| (session.to_owned(), turn));
    }

    /// What to ask for when a turn has ended, if it is recorded.
    pub fn wants(&self, ended: &str) -> Option<Verb> {
        let (session, from) = self.of.as_ref().filter(|(session, _)| session == ended)?;
        self.file.as_ref()?;
        Some(Verb::Recording { session: Some(session.clone()), from: *from })
    }

    /// Write down what came as the answer.
    pub fn keep(&self, answer: &Value) -> Result<()> {
        self.file.as_deref().map_or(Ok(()), |file| save(file, answer))
    }

    /// The same after a turn of this session, at once.
    pub async fn record(&self, link: &Link, session: &str) -> Result<()> {
        match self.wants(session) {
            Some(verb) => self.keep(&views::ask(link, verb).await?),
            None => Ok(()),
        }
    }

    /// The same when nothing more comes.
    pub async fn finish(&self, link: &Link) -> Result<()> {
        match &self.of {
            Some((session, _)) => self.record(link, session).await,
            None => Ok(()),
        }
    }
}

/// `fledgling record`: a conversation into a file, or on standard output.
pub async fn once(link: Link, session: String, file: Option<PathBuf>) -> Result<u8> {
    file.as_deref().map_or(Ok(()), check)?;
    let answer = views::once(link, Verb::Recording { session: Some(session), from: 1 }).await?;
    match file {
        None => write(Place::Out, lines(&answer).trim_end())?,
        Some(file) => {
            save(&file, &answer)?;
            let turns = plural(answer["turns"].as_u64().unwrap_or_default(), "turn");
            let said = format!("{turns} recorded in {}.", file.display());
            write(Place::Err, &clean(&said))?;
        }
    }
    Ok(0)
}

fn lines(answer: &Value) -> String {
    text(answer["lines"].as_array().map(Vec::as_slice).unwrap_or_default())
}

/// See that nothing else is overwritten.
fn check(file: &Path) -> Result<()> {
    let taken = match fs::read_to_string(file) {
        Ok(there) => !there.trim().is_empty() && Recording::parse(&there).is_err(),
        Err(error) => error.kind() != ErrorKind::NotFound,
    };
    if taken {
        let file = file.display();
        let why = format!("{file} is there already and is no recording; name another file");
        return Err(Refusal::usage(why).into());
    }
    Ok(())
}

fn save(file: &Path, answer: &Value) -> Result<()> {
    check(file)?;
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let beside = file.with_file_name(format!(".{name}.{:08x}", fastrand::u32(..)));
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&beside)
        .and_then(|mut open| open.write_all(lines(answer).as_bytes()))
        .and_then(|()| fs::rename(&beside, file));
    if written.is_err() {
        let _ = fs::remove_file(&beside);
    }
    written.with_context(|| format!("cannot write the recording {}", file.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use serde_json::json;

    use super::*;

    #[test]
    fn a_recording_is_the_owners_alone_and_overwrites_nothing_else() {
        let temp = tempfile::tempdir().unwrap();
        let file = temp.path().join("a");
        let head = json!({"recorded": {"format": 1, "session": "s", "turn": 1, "commit": null}});
        for owner in ["one", "two"] {
            save(&file, &json!({"lines": [head, {"owner": owner}]})).unwrap();
            assert!(fs::read_to_string(&file).unwrap().contains(owner));
        }
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 1);
        fs::write(&file, "my notes\n").unwrap();
        let error = Recorder::to(Some(file.clone())).unwrap_err().to_string();
        assert!(error.ends_with("is no recording; name another file"), "{error}");
        assert!(save(&file, &json!({"lines": [head]})).is_err());
        assert_eq!(fs::read_to_string(&file).unwrap(), "my notes\n");
        assert!(check(temp.path()).is_err(), "a folder");
        fs::write(&file, "").unwrap();
        check(&file).unwrap();
    }

    #[test]
    fn only_the_conversation_that_began_first_is_asked_for() {
        let mut recorder = Recorder::to(Some("/nowhere/x".into())).unwrap();
        assert_eq!(recorder.wants("a"), None);
        for (session, turn) in [("a", 3), ("a", 4), ("b", 1)] {
            recorder.began(session, turn);
        }
        let asked = Verb::Recording { session: Some("a".to_owned()), from: 3 };
        assert_eq!(recorder.wants("a"), Some(asked));
        assert_eq!(recorder.wants("b"), None);
        let mut none = Recorder::default();
        none.began("a", 1);
        assert_eq!(none.wants("a"), None);
    }
}
