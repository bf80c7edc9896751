//! The result of one bash call on its way to the model: its output, shown within the limit and
//! kept whole in a file where it is longer, and how it ended.
//!
//! Owns the spill file, and the words for the end. Output is never lost silently, and a full disk never fails the
//! call: both are said where the text is cut. Knows no processes.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::Result;

use crate::kernel::tool::{Clip, OUTPUT_LIMIT, Outcome};

/// Bytes kept of one call: a runaway `yes` must not fill the disk.
const SPILL_LIMIT: usize = 256 << 20;

/// How a call ended. Its tree is gone in each case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Bash ended by itself.
    Exited {
        /// How.
        status: ExitStatus,
        /// How many processes it had left behind, which were ended.
        stragglers: i32,
    },
    /// Its time was up.
    TimedOut,
    /// The leash was dropped.
    Interrupted,
}

/// What a call has said so far.
#[derive(Debug)]
pub struct Output {
    clip: Clip,
    total: usize,
    path: PathBuf,
    /// The file once it is needed, or why it could not be written.
    spill: Option<io::Result<File>>,
}

impl Output {
    /// Nothing said yet; a long output will go to a new file below `scratch`.
    pub fn new(scratch: &Path) -> Self {
        let path = scratch.join("output").join(format!("bash-{:08x}.txt", fastrand::u32(..)));
        Self { clip: Clip::default(), total: 0, path, spill: None }
    }

    /// Take more.
    pub fn push(&mut self, bytes: &[u8]) {
        let before = self.total;
        self.total += bytes.len();
        if self.total > OUTPUT_LIMIT {
            if self.spill.is_none() {
                self.spill = Some(create(&self.path, &self.clip.kept()));
            }
            self.keep(&bytes[..bytes.len().min(SPILL_LIMIT.saturating_sub(before))]);
        }
        self.clip.push(bytes);
    }

    /// What the model is told of the call, which was given so much time.
    pub fn finish(self, ended: Result<End>, timeout: Duration) -> Outcome {
        let mut text = self.shown();
        let (mut notes, mut error) = (Vec::new(), true);
        match ended {
            Ok(End::Exited { status, stragglers }) => {
                error = !status.success();
                match (status.code(), status.signal()) {
                    (Some(0), _) if text.is_empty() => notes.push("no output".to_owned()),
                    (Some(code @ 1..), _) => notes.push(format!("exit code {code}")),
                    (_, Some(signal)) => notes.push(format!("killed by signal {signal}")),
                    _ => {}
                }
                if stragglers > 0 {
                    notes.push(format!("background processes ended with the call: {stragglers}"));
                }
            }
            Ok(End::TimedOut) => notes.push(format!(
                "timed out after {} s; everything it started was ended",
                timeout.as_secs()
            )),
            Ok(End::Interrupted) => {
                notes.push("interrupted; everything it started was ended".to_owned());
            }
            Err(error) => notes.push(format!("{error:#}")),
        }
        for note in notes {
            let newline = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
            text.push_str(&format!("{newline}[{note}]\n"));
        }
        Outcome { text, error, ..Outcome::default() }
    }

    fn shown(self) -> String {
        let path = self.path.display();
        let whole = match self.spill {
            None => String::new(),
            Some(Err(error)) => format!("; it could not all be kept in {path}: {error}"),
            Some(Ok(_)) if self.total > SPILL_LIMIT => {
                format!("; the first {SPILL_LIMIT} bytes are in {path}")
            }
            Some(Ok(_)) => format!("; all of it is in {path}"),
        };
        self.clip.finish(&whole)
    }

    fn keep(&mut self, bytes: &[u8]) {
        if let Some(Ok(file)) = &mut self.spill
            && let Err(error) = file.write_all(bytes)
        {
            self.spill = Some(Err(error));
        }
    }
}

fn create(path: &Path, first: &[u8]) -> io::Result<File> {
    path.parent().map_or(Ok(()), fs::create_dir_all)?;
    let mut file = File::create_new(path)?;
    file.write_all(first)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_output_is_whole_in_its_file() {
        let scratch = tempfile::tempdir().unwrap();
        let mut output = Output::new(scratch.path());
        let mut whole = Vec::new();
        for number in 0..10_000 {
            let line = format!("line {number}\n");
            output.push(line.as_bytes());
            whole.extend_from_slice(line.as_bytes());
        }
        let path = output.path.clone();
        let text = output.shown();
        assert!(text.contains(&format!("; all of it is in {} …]", path.display())), "{text}");
        assert_eq!(fs::read(path).unwrap(), whole);
    }

    #[test]
    fn short_output_leaves_no_file() {
        let scratch = tempfile::tempdir().unwrap();
        let mut output = Output::new(scratch.path());
        output.push(&vec![b'x'; OUTPUT_LIMIT]);
        assert_eq!(output.shown().len(), OUTPUT_LIMIT);
        assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_file_that_cannot_be_written_is_said_and_fails_nothing() {
        let scratch = tempfile::tempdir().unwrap();
        fs::write(scratch.path().join("output"), "in the way").unwrap();
        let mut output = Output::new(scratch.path());
        output.push(&vec![b'x'; OUTPUT_LIMIT + 1]);
        output.push(b"end");
        let text = output.shown();
        assert!(text.contains("it could not all be kept in ") && text.ends_with("end"), "{text}");
    }
}
