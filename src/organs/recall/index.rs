//! `recall.db`: what was said in all transcripts, by its words.
//!
//! Owns the tables, and how they follow the transcripts: what was appended is taken in, a file
//! that was replaced is taken in anew, what is gone is dropped. A message's number is the second
//! in which it was said, and a count: so numbers are in the order of time across all sessions,
//! and the latest are found without sorting. Only what people and agents said is in it, not
//! what tools printed. Knows no query, and nobody who asks.

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata};
use std::io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rusqlite::{Connection, ErrorCode, Statement, Transaction, params};
use serde::Deserialize;
use serde_json::Value;

use crate::organs::recall::search::spread;

/// The format of `recall.db`. Another one is made anew.
const FORMAT: i64 = 1;
/// Bits of a message's number that count those of one second.
const COUNT: u32 = 20;
/// Bytes before the place up to which a transcript is taken in: where they are others, the file
/// is another.
const TAIL: u64 = 64;

/// Words are split where letters and digits end, so `foo_bar` is two in a row. The second
/// column holds the transcript as a word: so the search itself passes over what it need not see.
const SCHEMA: &str = "
PRAGMA journal_mode = WAL;
BEGIN;
CREATE TABLE transcript (id INTEGER PRIMARY KEY, session TEXT NOT NULL UNIQUE,
    inode INTEGER NOT NULL, changed INTEGER NOT NULL, size INTEGER NOT NULL,
    upto INTEGER NOT NULL, tail BLOB NOT NULL, turn INTEGER NOT NULL) STRICT;
CREATE TABLE said (id INTEGER PRIMARY KEY, transcript INTEGER NOT NULL, turn INTEGER NOT NULL,
    at TEXT NOT NULL, who TEXT NOT NULL, text TEXT NOT NULL,
    place TEXT AS ('t' || transcript) VIRTUAL) STRICT;
CREATE INDEX said_in ON said (transcript, id);
CREATE VIRTUAL TABLE words USING fts5(text, place, content = 'said', content_rowid = 'id',
    tokenize = 'unicode61 remove_diacritics 2');
PRAGMA user_version = 1;
COMMIT;
";

/// The open index.
#[derive(Debug)]
pub struct Index {
    pub(super) db: Connection,
    inode: i64,
}

/// A transcript, and how far it is taken in.
struct Taken {
    id: i64,
    inode: i64,
    changed: i64,
    size: u64,
    upto: u64,
    tail: Vec<u8>,
    turn: u64,
}

/// Whether an error says that the index itself is at fault.
pub fn is_damaged(error: &anyhow::Error) -> bool {
    let found = error.chain().find_map(|cause| cause.downcast_ref::<rusqlite::Error>());
    found.is_some_and(|error| match error.sqlite_error_code() {
        // The last one where tables are not as they should be.
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::Unknown) => true,
        _ => matches!(error, rusqlite::Error::InvalidColumnType(..)),
    })
}

/// Remove the index, with what belongs to it.
pub fn remove(path: &Path) -> Result<()> {
    for end in ["", "-wal", "-shm"] {
        let file = PathBuf::from(format!("{}{end}", path.display()));
        match fs::remove_file(&file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove {}", file.display()));
            }
            _ => {}
        }
    }
    Ok(())
}

impl Index {
    /// Open the index in this file, or begin one.
    pub fn open(path: &Path) -> Result<Self> {
        let opening = || format!("cannot open {}", path.display());
        let open = || -> rusqlite::Result<(Connection, i64)> {
            let db = Connection::open(path)?;
            db.pragma_update(None, "synchronous", "NORMAL")?;
            let format = db.query_row("PRAGMA user_version", [], |row| row.get(0))?;
            Ok((db, format))
        };
        let (mut db, mut format) = open().with_context(opening)?;
        if format != 0 && format != FORMAT {
            drop(db);
            remove(path)?;
            (db, format) = open().with_context(opening)?;
        }
        if format == 0 {
            db.execute_batch(SCHEMA).with_context(opening)?;
        }
        let inode = inode(&fs::metadata(path).with_context(opening)?);
        Ok(Self { db, inode })
    }

    /// Whether it is still the one that is found there.
    pub fn is_at(&self, path: &Path) -> bool {
        fs::metadata(path).is_ok_and(|file| inode(&file) == self.inode)
    }

    /// The sessions that are in it.
    pub fn sessions(&self) -> Result<Vec<String>> {
        let mut statement = self.db.prepare("SELECT session FROM transcript")?;
        let rows = statement.query_map([], |row| row.get(0));
        rows.and_then(Iterator::collect).context("cannot read recall.db")
    }

    /// Take in what the transcripts in this folder have and the index does not. What they say
    /// is kept as `clear` gives it back.
    pub fn take_in(&mut self, folder: &Path, clear: impl Fn(String) -> String) -> Result<()> {
        let mut known = self.taken()?;
        let entries = fs::read_dir(folder);
        for entry in entries.with_context(|| format!("cannot list {}", folder.display()))? {
            let Ok(entry) = entry else { continue };
            let name = entry.file_name().into_string().unwrap_or_default();
            let Some(session) = name.strip_suffix(".jsonl") else { continue };
            let Ok(file) = entry.metadata() else { continue };
            let before = known.remove(session);
            if before.as_ref().is_some_and(|before| before.is_still(&file)) {
                continue;
            }
            let written = self.db.transaction()?;
            let taking = take(&written, session, &entry.path(), before, &clear);
            taking.with_context(|| format!("cannot index {}", entry.path().display()))?;
            written.commit().context("cannot write recall.db")?;
        }
        for gone in known.into_values() {
            let written = self.db.transaction()?;
            forget(&written, gone.id).context("cannot write recall.db")?;
            written.commit().context("cannot write recall.db")?;
        }
        Ok(())
    }

    /// See that these messages are as `clear` gives them back. Whether one was not.
    pub fn clear(
        &mut self,
        messages: impl Iterator<Item = (i64, String)>,
        clear: impl Fn(String) -> String,
    ) -> Result<bool> {
        let mut changed = false;
        for (id, text) in messages {
            let cleared = clear(text.clone());
            if cleared != text {
                changed = true;
                let written = self.db.transaction()?;
                written.execute(&format!("{UNLIST} WHERE id = ?"), [id])?;
                let sql = "UPDATE said SET text = ? WHERE id = ?";
                written.execute(sql, params![spread(&cleared), id])?;
                written.execute(&format!("{LIST} WHERE id = ?"), [id])?;
                written.commit().context("cannot write recall.db")?;
            }
        }
        Ok(changed)
    }

    fn taken(&self) -> Result<BTreeMap<String, Taken>> {
        let sql = "SELECT session, id, inode, changed, size, upto, tail, turn FROM transcript";
        let read = || -> rusqlite::Result<_> {
            let mut statement = self.db.prepare(sql)?;
            let rows = statement.query_map([], |row| {
                let taken = Taken {
                    id: row.get(1)?,
                    inode: row.get(2)?,
                    changed: row.get(3)?,
                    size: row.get(4)?,
                    upto: row.get(5)?,
                    tail: row.get(6)?,
                    turn: row.get(7)?,
                };
                Ok((row.get(0)?, taken))
            });
            rows?.collect()
        };
        read().context("cannot read recall.db")
    }
}

/// Take messages out of the words, and put them in.
const UNLIST: &str =
    "INSERT INTO words (words, rowid, text, place) SELECT 'delete', id, text, place FROM said";
const LIST: &str = "INSERT INTO words (rowid, text, place) SELECT id, text, place FROM said";

impl Taken {
    /// Whether the file is as it was when it was looked at last.
    fn is_still(&self, file: &Metadata) -> bool {
        self.inode == inode(file) && self.size == file.len() && self.changed == changed(file)
    }

    /// Whether the file goes on where it was left.
    fn goes_on(&self, file: &File) -> Result<bool> {
        let now = file.metadata()?;
        let same = self.inode == inode(&now) && self.upto <= now.len();
        Ok(same && tail(file, self.upto)? == self.tail)
    }
}

fn inode(file: &Metadata) -> i64 {
    file.ino().cast_signed()
}

/// In nanoseconds. What wraps around differs all the same.
fn changed(file: &Metadata) -> i64 {
    file.mtime().wrapping_mul(1_000_000_000).wrapping_add(file.mtime_nsec())
}

/// The bytes before this place.
fn tail(file: &File, end: u64) -> Result<Vec<u8>> {
    let length = end.min(TAIL);
    let mut tail = vec![0; length as usize];
    file.read_exact_at(&mut tail, end - length)?;
    Ok(tail)
}

/// Take in what is new in a transcript.
fn take(
    written: &Transaction<'_>,
    session: &str,
    path: &Path,
    before: Option<Taken>,
    clear: impl Fn(String) -> String,
) -> Result<()> {
    // It may be gone by now.
    let Ok(mut file) = File::open(path) else { return Ok(()) };
    let (mut id, mut from, mut turn) = (None, 0, 0);
    if let Some(before) = before {
        if before.goes_on(&file)? {
            (id, from, turn) = (Some(before.id), before.upto, before.turn);
        } else {
            forget(written, before.id)?;
        }
    }
    let metadata = file.metadata()?;
    let end = end_of_lines(&file, from, metadata.len())?;
    let sql = "INSERT INTO transcript (id, session, inode, changed, size, upto, tail, turn)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, 0)
        ON CONFLICT (id) DO UPDATE SET changed = ?4, size = ?5, upto = ?6, tail = ?7 RETURNING id";
    let row = params![
        id,
        session,
        inode(&metadata),
        changed(&metadata),
        metadata.len(),
        end,
        tail(&file, end)?
    ];
    let id: i64 = written.query_row(sql, row, |row| row.get(0))?;
    let mut writing = Writing::new(written)?;
    file.seek(SeekFrom::Start(from))?;
    for line in BufReader::new((&file).take(end - from)).split(b'\n') {
        // What cannot be made sense of is told when the session is opened.
        let Ok(spoken) = serde_json::from_slice::<Spoken>(&line?) else { continue };
        let Some((who, text)) = spoken.words() else { continue };
        if spoken.turn > 0 {
            turn = spoken.turn;
        }
        if !text.trim().is_empty() {
            writing.add(id, turn, &spoken.at, who, &spread(&clear(text)))?;
        }
    }
    written.execute("UPDATE transcript SET turn = ? WHERE id = ?", params![turn, id])?;
    Ok(())
}

/// What is wanted of a transcript's line, and nothing else: whatever a later version writes
/// beside it does not matter.
#[derive(Deserialize)]
struct Spoken {
    at: String,
    kind: String,
    #[serde(default)]
    turn: u64,
    #[serde(default)]
    origin: String,
    #[serde(default)]
    text: String,
    #[serde(default)]
    blocks: Vec<Value>,
}

impl Spoken {
    /// Who said what, if it is something that somebody said.
    fn words(&self) -> Option<(&str, String)> {
        match self.kind.as_str() {
            "user" => Some((&self.origin, self.text.clone())),
            "assistant" => {
                let texts = self.blocks.iter().filter_map(|block| block["text"].as_str());
                Some(("agent", texts.collect::<Vec<_>>().join("\n\n")))
            }
            _ => None,
        }
    }
}

/// Where the last whole line ends. What a kill tore off is taken in once it has an end.
fn end_of_lines(file: &File, from: u64, length: u64) -> Result<u64> {
    let mut end = length;
    let mut buffer = vec![0; 1 << 16];
    while end > from {
        let start = end.saturating_sub(buffer.len() as u64).max(from);
        let piece = &mut buffer[..(end - start) as usize];
        file.read_exact_at(piece, start)?;
        if let Some(at) = memchr::memrchr(b'\n', piece) {
            return Ok(start + at as u64 + 1);
        }
        end = start;
    }
    Ok(from)
}

/// Drop a transcript with all that was said in it.
fn forget(written: &Transaction<'_>, id: i64) -> rusqlite::Result<()> {
    written.execute(&format!("{UNLIST} WHERE transcript = ?"), [id])?;
    written.execute("DELETE FROM said WHERE transcript = ?", [id])?;
    written.execute("DELETE FROM transcript WHERE id = ?", [id]).map(drop)
}

/// The number before all of this second.
pub fn number(second: i64) -> i64 {
    second << COUNT
}

/// Messages on their way into the index.
struct Writing<'a> {
    latest: Statement<'a>,
    said: Statement<'a>,
    words: Statement<'a>,
}

impl<'a> Writing<'a> {
    fn new(written: &'a Transaction<'_>) -> rusqlite::Result<Self> {
        let said =
            "INSERT INTO said (id, transcript, turn, at, who, text) VALUES (?, ?, ?, ?, ?, ?)";
        Ok(Self {
            latest: written.prepare("SELECT max(id) FROM said WHERE id >= ? AND id < ?")?,
            said: written.prepare(said)?,
            words: written.prepare(&format!("{LIST} WHERE id = ?"))?,
        })
    }

    fn add(
        &mut self,
        transcript: i64,
        turn: u64,
        at: &str,
        who: &str,
        text: &str,
    ) -> rusqlite::Result<()> {
        let second = at.parse::<jiff::Timestamp>().map_or(0, jiff::Timestamp::as_second);
        let first = number(second);
        let latest: Option<i64> =
            self.latest.query_row([first, number(second + 1)], |row| row.get(0))?;
        let id = latest.map_or(first, |latest| latest + 1);
        self.said.execute(params![id, transcript, turn, at, who, text])?;
        self.words.execute([id]).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;
    use crate::organs::recall::search::{Query, expressions};

    struct Home(tempfile::TempDir, Index);

    impl Home {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            fs::create_dir(folder.path().join("sessions")).unwrap();
            let index = Index::open(&folder.path().join("recall.db")).unwrap();
            Self(folder, index)
        }

        fn path(&self, session: &str) -> PathBuf {
            self.0.path().join(format!("sessions/{session}.jsonl"))
        }

        fn append(&self, session: &str, text: &str) {
            let mut options = fs::OpenOptions::new();
            let file = options.create(true).append(true).open(self.path(session));
            file.unwrap().write_all(text.as_bytes()).unwrap();
        }

        /// What is found by now, by session, turn, who, and text.
        #[track_caller]
        fn found(&mut self, query: &str) -> Vec<String> {
            self.1.take_in(&self.0.path().join("sessions"), |text| text).unwrap();
            let words = expressions(query);
            let query = Query { words: words.as_ref(), sessions: None, since: 0, limit: 99 };
            let found = query.ask(&self.1).unwrap().found.into_iter();
            found
                .map(|one| format!("{} {} {}: {}", one.session, one.turn, one.who, one.text))
                .collect()
        }
    }

    fn user(second: u32, turn: u64, text: &str) -> String {
        let at = format!("2026-11-21T10:00:{second:02}+01:00");
        let line = serde_json::json!({"at": at, "kind": "user", "turn": turn, "key": "k",
            "origin": "owner", "text": text, "images": [{"of": "a later version"}]});
        format!("{line}\n")
    }

    fn reply(second: u32, text: &str) -> String {
        let at = format!("2026-11-21T10:00:{second:02}+01:00");
        let call = serde_json::json!({"id": "1", "name": "bash", "input": {"command": "hidden"}});
        let line = serde_json::json!({"at": at, "kind": "assistant", "stop": "end", "model": "m",
            "blocks": [{"text": text}, {"call": call}]});
        format!("{line}\n")
    }

    #[test]
    fn it_follows_what_is_appended_torn_replaced_and_deleted() {
        let mut home = Home::new();
        let result = r#"{"at":"x","kind":"result","id":"1","text":"needle in a result"}"#;
        home.append("a", &(user(1, 1, "needle one") + &reply(2, "a needle too") + result + "\n"));
        home.append("b", &user(3, 7, "no thread\nbut a needle"));
        let all = [
            "b 7 owner: no thread\nbut a needle",
            "a 1 agent: a needle too",
            "a 1 owner: needle one",
        ];
        assert_eq!(home.found("needle"), all);
        assert_eq!(home.found("hidden"), [""; 0]);
        assert_eq!(home.found("needle"), all, "nothing is taken in twice");
        // A torn line waits for its end; what follows its repair is taken in.
        let torn = user(4, 2, "torn needle");
        let (begin, rest) = torn.split_at(30);
        home.append("a", begin);
        assert_eq!(home.found("needle"), all);
        home.append("a", rest);
        assert_eq!(home.found("torn needle"), ["a 2 owner: torn needle"]);
        home.append("a", begin);
        home.append("a", &format!("\n{}", reply(5, "after the repair")));
        assert_eq!(home.found("repair"), ["a 2 agent: after the repair"]);
        // Replaced: by a shorter file, by another of the same name, in place.
        fs::write(home.path("a"), user(6, 1, "short")).unwrap();
        assert_eq!(home.found("needle"), all[..1]);
        let long = user(7, 1, "another needle") + &user(8, 2, &"long ".repeat(200));
        fs::write(home.path("other"), &long).unwrap();
        fs::rename(home.path("other"), home.path("a")).unwrap();
        assert_eq!(home.found("another"), ["a 1 owner: another needle"]);
        fs::write(home.path("a"), long.replace("another", "rewritten") + &reply(9, "x")).unwrap();
        assert_eq!(home.found("another"), [""; 0]);
        assert_eq!(home.found("rewritten"), ["a 1 owner: rewritten needle"]);
        fs::remove_file(home.path("b")).unwrap();
        assert_eq!(home.found("needle"), ["a 1 owner: rewritten needle"]);
        assert_eq!(home.1.sessions().unwrap(), ["a"]);
    }

    #[test]
    fn what_has_become_a_secret_leaves_it() {
        let mut home = Home::new();
        home.append("a", &user(1, 1, "the word is abracadabra, remember"));
        assert_eq!(home.found("abra*").len(), 1);
        let query = expressions("abra*");
        let query = Query { words: query.as_ref(), sessions: None, since: 0, limit: 9 };
        let found = query.ask(&home.1).unwrap().found;
        let clear = |text: String| text.replace("abracadabra", "[withheld]");
        let told = found.iter().map(|one| (one.id, one.whole.clone()));
        assert!(home.1.clear(told, clear).unwrap());
        assert_eq!(home.found("abra*"), [""; 0]);
        assert_eq!(
            home.found("withheld remember"),
            ["a 1 owner: the word is [withheld], remember"]
        );
    }

    #[test]
    fn another_format_is_made_anew_and_damage_is_told_from_other_errors() {
        let mut home = Home::new();
        home.append("a", &user(1, 1, "needle"));
        assert_eq!(home.found("needle").len(), 1);
        home.1.db.execute_batch("PRAGMA user_version = 99").unwrap();
        let path = home.0.path().join("recall.db");
        let index = Index::open(&path).unwrap();
        assert_eq!(index.sessions().unwrap(), [""; 0]);
        assert!(index.is_at(&path) && !home.1.is_at(&path));
        drop(index);
        fs::write(&path, "not a database, though long enough to be one".repeat(99)).unwrap();
        assert!(is_damaged(&Index::open(&path).unwrap_err()));
        remove(&path).unwrap();
        Index::open(&path).unwrap();
        assert!(!is_damaged(&anyhow::anyhow!("something else")));
    }
}
