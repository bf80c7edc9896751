//! The log of one service: what it says on stderr, and in brackets what became of it.
//!
//! Owns the file: each line begins with its time (UTC), and the older half goes when it gets
//! long. It is open all the time and never opened anew, since the thread that hears a service
//! is confined like the service is. A log that cannot be written stops nothing. What stands in
//! it came from a program: whoever shows it has to mind control characters.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _};
use std::path::Path;

use anyhow::{Context as _, Result};
use jiff::Timestamp;

use crate::files::withheld::Withheld;
use crate::organs::always::services::lines::{Cutter, Line};

/// Bytes a log may have. Half of it stays when it gets longer.
const LIMIT: u64 = 1 << 20;
/// Bytes of a line.
const LINE: usize = 1 << 14;
/// Bytes and lines that are shown of its end.
const TAIL: u64 = 4096;
const TAIL_LINES: usize = 20;

/// An open log.
#[derive(Debug)]
pub struct Log {
    /// None where it cannot be written.
    file: Option<File>,
    length: u64,
    heard: Cutter,
    withheld: Withheld,
    last: String,
}

impl Log {
    /// Go on with the log at this path, or begin it. What is withheld is not in it either, even
    /// if it was learnt while the service ran.
    pub fn open(path: &Path, withheld: &Withheld) -> Self {
        let file = open(path);
        if let Err(error) = &file {
            tracing::warn!("{error:#}; what this service says is not kept");
        }
        let file = file.ok();
        let length = file.as_ref().and_then(|file| file.metadata().ok());
        let length = length.map_or(0, |metadata| metadata.len());
        let (heard, withheld, last) = (Cutter::new(LINE), withheld.clone(), String::new());
        Self { file, length, heard, withheld, last }
    }

    /// The service said this.
    pub fn hear(&mut self, bytes: &[u8]) {
        for line in self.heard.push(bytes) {
            self.keep(line);
        }
    }

    /// It printed this line elsewhere.
    pub fn note(&mut self, line: &str) {
        let mut cutter = Cutter::new(LINE);
        let lines = cutter.push(line.as_bytes());
        lines.into_iter().chain(cutter.finish()).for_each(|line| self.keep(line));
    }

    /// This became of it. What it had begun to say is a line by itself.
    pub fn say(&mut self, words: &str) {
        if let Some(line) = self.heard.finish() {
            self.keep(line);
        }
        self.write(&format!("[{words}]"));
    }

    /// The last line that it said, since it is open.
    pub fn last(&self) -> &str {
        &self.last
    }

    /// Its last lines.
    pub fn tail(&self) -> String {
        let text = String::from_utf8_lossy(&self.end(TAIL)).into_owned();
        let lines: Vec<_> = text.lines().collect();
        let shown = lines.iter().skip(lines.len().saturating_sub(TAIL_LINES));
        shown.flat_map(|line| [line, "\n"]).collect()
    }

    fn keep(&mut self, Line { text, cut }: Line) {
        let mut text = self.withheld.text(text);
        if cut > 0 {
            text += &format!(" [… {cut} more bytes]");
        }
        self.write(&text);
        self.last = text;
    }

    fn write(&mut self, text: &str) {
        let line = format!("{:.0} {text}\n", Timestamp::now());
        if self.length + line.len() as u64 > LIMIT {
            self.cut();
        }
        // Should the disk be full, so be it.
        if self.file.as_ref().is_some_and(|mut file| file.write_all(line.as_bytes()).is_ok()) {
            self.length += line.len() as u64;
        }
    }

    /// Keep the newer half.
    fn cut(&mut self) {
        let newer = self.end(LIMIT / 2);
        let Some(mut file) = self.file.as_ref() else { return };
        let cut = file.set_len(0).and_then(|()| file.write_all(&newer));
        self.length = file.metadata().map_or(0, |metadata| metadata.len());
        if let Err(error) = cut {
            tracing::warn!("cannot cut the log of a service: {error}");
        }
    }

    /// So many bytes of its end, from the first line that is whole.
    fn end(&self, most: u64) -> Vec<u8> {
        let begin = self.length.saturating_sub(most);
        let mut bytes = vec![0; (self.length - begin) as usize];
        let read = self.file.as_ref().map(|file| file.read_exact_at(&mut bytes, begin));
        if !matches!(read, Some(Ok(()))) {
            return Vec::new();
        }
        if begin > 0 {
            let whole = memchr::memchr(b'\n', &bytes).map_or(bytes.len(), |end| end + 1);
            bytes.drain(..whole);
        }
        bytes
    }
}

fn open(path: &Path) -> Result<File> {
    let mut folder = fs::DirBuilder::new();
    let made =
        path.parent().map_or(Ok(()), |parent| folder.recursive(true).mode(0o700).create(parent));
    let mut options = File::options();
    let options = options.create(true).read(true).append(true).mode(0o600);
    made.and_then(|()| options.open(path))
        .with_context(|| format!("cannot open {}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn open_log(path: &Path) -> Log {
        Log::open(path, &Withheld::default())
    }

    #[test]
    fn lines_have_their_time_and_are_only_for_the_owner() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("logs/a.log");
        let mut log = open_log(&path);
        log.say("started");
        log.hear(b"one\ntw");
        log.hear(b"o");
        log.say("stopped");
        assert_eq!(log.last(), "two");
        drop(log);
        let mut log = open_log(&path);
        log.say("started");
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text, log.tail());
        let mut words = Vec::new();
        for line in text.lines() {
            let (time, rest) = line.split_once(' ').unwrap();
            time.parse::<Timestamp>().unwrap();
            assert_eq!(time.len(), "2026-11-21T19:41:01Z".len());
            words.push(rest);
        }
        assert_eq!(words, ["[started]", "one", "two", "[stopped]", "[started]"]);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_long_log_loses_its_older_half() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.log");
        let mut log = open_log(&path);
        let mut longest = 0;
        for number in 0..60_000 {
            log.hear(format!("line {number}, and so on\n").as_bytes());
            longest = longest.max(log.length);
        }
        assert!(longest <= LIMIT && log.length > LIMIT / 2);
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text.len() as u64, log.length);
        let numbers: Vec<usize> = text
            .lines()
            .map(|line| line.split([' ', ',']).nth(2).unwrap().parse().unwrap())
            .collect();
        assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1));
        assert_eq!(numbers.last(), Some(&59_999));
        assert_eq!(log.tail().lines().count(), TAIL_LINES);
        log.hear(&vec![b'x'; 2 * LINE]);
        log.hear(b"\n");
        assert!(log.last().ends_with(&format!("x [… {LINE} more bytes]")));
    }

    #[test]
    fn a_log_that_cannot_be_written_stops_nothing() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("logs"), "in the way").unwrap();
        let mut log = open_log(&folder.path().join("logs/a.log"));
        log.hear(b"one\n");
        log.say("stopped");
        assert_eq!((log.last(), log.tail().as_str()), ("one", ""));
    }
}
