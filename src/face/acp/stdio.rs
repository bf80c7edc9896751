//! Lines in and lines out.
//!
//! Owns the threads that read standard input and write standard output, so that a client that
//! is slow to read holds nothing up, and the most that a line may have. Knows nothing of what
//! is on the lines.

use std::io::{self, BufRead, Read as _};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, mpsc as threads};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::sync::mpsc::{Receiver, channel};

use crate::face::screen::{Place, write};

/// Bytes of a line: a large picture in base64, and some.
const LIMIT: u64 = 64 << 20;
/// Bytes that wait for a client to read them: more than the longest conversation has to load.
const ROOM: usize = 512 << 20;
/// At the end a client that no longer reads is waited for so long.
const PATIENCE: Duration = Duration::from_secs(2);

/// What comes from the client.
#[derive(Debug, PartialEq, Eq)]
pub enum Heard {
    /// A line, without its end.
    Line(Vec<u8>),
    /// One of more than that many bytes, which is gone.
    TooLong(u64),
}

/// The lines of standard input, until its end.
pub fn lines() -> Receiver<Heard> {
    let (sender, lines) = channel(1);
    std::thread::spawn(move || {
        let mut input = io::stdin().lock();
        while let Ok(Some(heard)) = next(&mut input, LIMIT) {
            if sender.blocking_send(heard).is_err() {
                return;
            }
        }
    });
    lines
}

/// The next line that is not empty.
fn next(input: &mut impl BufRead, limit: u64) -> io::Result<Option<Heard>> {
    loop {
        let mut line = Vec::new();
        let read = input.by_ref().take(limit).read_until(b'\n', &mut line)?;
        if read == 0 {
            return Ok(None);
        }
        if read as u64 == limit && line.last() != Some(&b'\n') {
            skip(input)?;
            return Ok(Some(Heard::TooLong(limit)));
        }
        if !line.trim_ascii().is_empty() {
            return Ok(Some(Heard::Line(line)));
        }
    }
}

/// Go on behind the end of the line.
fn skip(input: &mut impl BufRead) -> io::Result<()> {
    loop {
        let piece = input.fill_buf()?;
        let end = piece.iter().position(|byte| *byte == b'\n');
        let (passed, over) =
            (end.map_or(piece.len(), |at| at + 1), end.is_some() || piece.is_empty());
        input.consume(passed);
        if over {
            return Ok(());
        }
    }
}

/// The way out: nothing but the protocol goes there.
pub struct Out {
    lines: threads::Sender<String>,
    ended: threads::Receiver<()>,
    /// Bytes that are not written yet.
    waiting: Arc<AtomicUsize>,
    unread: Arc<Notify>,
}

impl Out {
    /// Begin to write.
    pub fn start() -> Self {
        let (lines, written) = threads::channel::<String>();
        let (end, ended) = threads::channel();
        let (waiting, unread) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
        let (left, gone) = (waiting.clone(), unread.clone());
        std::thread::spawn(move || {
            let _end = end;
            for line in written {
                if write(Place::Out, &line).is_err() {
                    return gone.notify_one();
                }
                left.fetch_sub(line.len(), Relaxed);
            }
        });
        Self { lines, ended, waiting, unread }
    }

    /// Write a line, if there is room for it.
    pub fn line(&self, line: String) {
        if self.waiting.load(Relaxed) > ROOM {
            return self.unread.notify_one();
        }
        self.waiting.fetch_add(line.len(), Relaxed);
        // Who writes them has said why it does so no more.
        let _ = self.lines.send(line);
    }

    /// Wait until nobody reads any more, or more is left to read than anybody will.
    pub async fn unread(&self) {
        self.unread.notified().await;
    }

    /// Nothing more comes: wait until all is written.
    pub fn close(self) {
        let Self { lines, ended, .. } = self;
        drop(lines);
        let _ = ended.recv_timeout(PATIENCE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_parted_and_one_that_is_too_long_costs_no_other() {
        let mut input: &[u8] = b"one\n\n  \n123456789 and more\ntwo\n12345678\n123456789\nlast";
        let mut heard = Vec::new();
        while let Some(line) = next(&mut input, 9).unwrap() {
            heard.push(line);
        }
        let line = |text: &str| Heard::Line(text.as_bytes().to_owned());
        let long = || Heard::TooLong(9);
        assert_eq!(
            heard,
            [line("one\n"), long(), line("two\n"), line("12345678\n"), long(), line("last")]
        );
    }
}
