//! What went over the wire, kept so that any turn can be looked at: each request and each
//! raw reply, failed ones too.
//!
//! Owns the files under `wire/`, one a session, JSON lines. A request mostly repeats the
//! one before it, so only what differs is written: `same` bytes are as before, `rest`
//! follows. No header is ever recorded, so no key is. Knows no provider.

use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::kernel::session::now;

/// A file larger than this is put aside as `.old`, and the one put aside before goes: raw
/// replies are some forty times larger than what they say.
const LIMIT: u64 = 64 << 20;

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Sent { at: String, turn: u64, same: usize, rest: String },
    Raw(String),
}

/// One request with what came back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Exchange {
    /// The turn it belongs to.
    pub turn: u64,
    /// When it was sent.
    pub at: String,
    /// The body of the request.
    pub request: String,
    /// The raw reply as far as it came.
    pub reply: String,
}

/// The recorder of one turn.
#[derive(Debug)]
pub struct Recorder {
    path: PathBuf,
    file: File,
    turn: u64,
    last: String,
    reply: Vec<u8>,
}

impl Recorder {
    /// Record into the file of a session.
    pub fn open(folder: &Path, session: &str, turn: u64) -> Result<Self> {
        let path = path(folder, session);
        if std::fs::metadata(&path).is_ok_and(|metadata| metadata.len() > LIMIT) {
            let _ = std::fs::rename(&path, path.with_extension("old"));
        }
        let open = || -> std::io::Result<File> {
            let mut options = OpenOptions::new();
            let mut file = options.create(true).append(true).read(true).mode(0o600).open(&path)?;
            // A line that a kill tore must not swallow the next one: give it an end.
            let mut last = [b'\n'];
            if file.seek(SeekFrom::End(0))? > 0 {
                file.seek(SeekFrom::End(-1))?;
                file.read_exact(&mut last)?;
            }
            if last != [b'\n'] {
                file.write_all(b"\n")?;
            }
            Ok(file)
        };
        let file = open().with_context(|| format!("cannot open {}", path.display()))?;
        // The first request of a turn is written whole: a turn can be read by itself.
        Ok(Self { path, file, turn, last: String::new(), reply: Vec::new() })
    }

    /// A request is sent.
    pub fn sent(&mut self, body: &str) -> Result<()> {
        self.flush()?;
        let same = self.last.bytes().zip(body.bytes()).take_while(|(a, b)| a == b).count();
        let same = (0..=same).rev().find(|at| body.is_char_boundary(*at)).unwrap_or(0);
        let line = Line::Sent { at: now(), turn: self.turn, same, rest: body[same..].to_owned() };
        body.clone_into(&mut self.last);
        self.write(&line)
    }

    /// A piece of the reply came.
    pub fn raw(&mut self, bytes: &[u8]) -> Result<()> {
        self.reply.extend_from_slice(bytes);
        // Not each piece by itself, and not only at the end: a kill should cost little.
        if self.reply.len() > 16_384 { self.flush() } else { Ok(()) }
    }

    /// Write what is still held back.
    pub fn flush(&mut self) -> Result<()> {
        if self.reply.is_empty() {
            return Ok(());
        }
        let reply = std::mem::take(&mut self.reply);
        self.write(&Line::Raw(String::from_utf8_lossy(&reply).into_owned()))
    }

    fn write(&mut self, line: &Line) -> Result<()> {
        let mut text = serde_json::to_string(line)?;
        text.push('\n');
        let written = self.file.write_all(text.as_bytes());
        written.with_context(|| format!("cannot append to {}", self.path.display()))
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        // Nobody is left to tell; the transcript has the reply.
        let _ = self.flush();
    }
}

/// What was exchanged in a session: in one turn, or in the latest there is.
pub fn read(folder: &Path, session: &str, turn: Option<u64>) -> Result<Vec<Exchange>> {
    let path = path(folder, session);
    let mut found: Vec<Exchange> = Vec::new();
    for path in [path.with_extension("old"), path] {
        let Ok(file) = File::open(&path) else { continue };
        let mut last = String::new();
        for line in BufReader::new(file).split(b'\n') {
            let line = line.with_context(|| format!("cannot read {}", path.display()))?;
            match serde_json::from_slice(&line) {
                Ok(Line::Sent { at, turn: number, same, rest }) => {
                    let request = format!("{}{rest}", last.get(..same).unwrap_or_default());
                    request.clone_into(&mut last);
                    if turn.is_none() && found.last().is_some_and(|one| one.turn != number) {
                        found.clear();
                    }
                    if turn.is_none_or(|turn| turn == number) {
                        found.push(Exchange { turn: number, at, request, reply: String::new() });
                    } else if turn.is_some_and(|turn| number > turn) {
                        break;
                    }
                }
                Ok(Line::Raw(text)) => {
                    if let Some(exchange) = found.last_mut() {
                        exchange.reply.push_str(&text);
                    }
                }
                // A torn line: what follows is whole again.
                Err(_) => {}
            }
        }
    }
    Ok(found)
}

fn path(folder: &Path, session: &str) -> PathBuf {
    folder.join(format!("{session}.jsonl"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_come_back_whole_though_only_their_ends_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let mut first = Recorder::open(folder.path(), "s", 1).unwrap();
        let long = "x".repeat(50_000);
        first.sent(&format!("{long}ä")).unwrap();
        first.raw(b"failed").unwrap();
        first.sent(&format!("{long}öü")).unwrap();
        first.raw(b"fine").unwrap();
        drop(first);
        // A kill in the middle of a line, and of a character.
        let mut file = OpenOptions::new().append(true).open(path(folder.path(), "s")).unwrap();
        file.write_all(b"{\"sent\":{\"at\":\"\xc3").unwrap();
        let mut second = Recorder::open(folder.path(), "s", 2).unwrap();
        second.sent("{}").unwrap();
        drop(second);

        let turn = read(folder.path(), "s", Some(1)).unwrap();
        let seen: Vec<_> = turn.iter().map(|one| (one.request.len(), one.reply.as_str())).collect();
        assert_eq!(seen, [(50_002, "failed"), (50_004, "fine")]);
        assert!(turn[1].request.ends_with("öü"));
        assert_eq!(read(folder.path(), "s", None).unwrap()[0].request, "{}");
        let size = std::fs::metadata(path(folder.path(), "s")).unwrap().len();
        assert!(size < 51_000, "{size}");
    }
}
