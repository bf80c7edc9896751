//! A command in a hand of its own, outside of any turn.
//!
//! Owns the thread it runs in, confined before anything else, and the quoting of what bash
//! is given. Blocks until everything the command started is gone. Knows neither git nor
//! what the command is for.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt as _;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tokio::sync::oneshot;

use crate::files::output::End;
use crate::guard::confine::{Kept, confine};
use crate::guard::policy::Policy;
use crate::guard::supervisor::{self, Shell};
use crate::kernel::interrupt::Interrupt;

/// Bytes of the output that are kept: its end, where errors stand.
const KEPT: usize = 16 * 1024;

/// What to run.
pub struct Job<'a> {
    /// What it may touch; it works in the policy's workspace.
    pub policy: &'a Policy,
    /// Given to `bash -c`.
    pub command: &'a str,
    /// What stands on its standard input, if anything does.
    pub input: Option<&'a File>,
    /// How long it may take.
    pub timeout: Duration,
    /// Ends it.
    pub interrupt: &'a Interrupt,
}

impl Job<'_> {
    /// How it ended, and the end of what it said.
    pub fn run(&self) -> Result<(End, String)> {
        let mut said = Vec::new();
        let mut passing = self.policy.withheld.stream();
        let ended = self.hear(&mut |bytes: &[u8]| {
            said.extend_from_slice(&passing.push(bytes));
            if said.len() > 2 * KEPT {
                said.drain(..said.len() - KEPT);
            }
        })?;
        said.extend(passing.finish());
        said.drain(..said.len().saturating_sub(KEPT));
        Ok((ended, String::from_utf8_lossy(&said).into_owned()))
    }

    /// How it ended; all it says goes to `hear` as it comes. Not to be called from an async
    /// function: it waits for a runtime of its own.
    pub fn hear(&self, hear: &mut (dyn FnMut(&[u8]) + Send)) -> Result<End> {
        let (leash, link) = supervisor::leash()?;
        let waiting = tokio::runtime::Builder::new_current_thread().build()?;
        let Self { policy, command, input, timeout, interrupt } = *self;
        let Policy { workspace: dir, env, held, .. } = policy;
        thread::scope(|scope| {
            let (over, ended) = oneshot::channel::<()>();
            let work = move || {
                // Dropped at the end, a panic included.
                let _over = over;
                let confined = &confine(policy, &Kept::new(true))?;
                let (grace, stdout) = (supervisor::GRACE, None);
                let shell =
                    Shell { confined, command, dir, env, timeout, grace, held, input, stdout };
                supervisor::run(&shell, link, hear)
            };
            let hand = thread::Builder::new().name("hand".to_owned()).spawn_scoped(scope, work);
            let hand = hand.context("cannot start a thread for the command")?;
            waiting.block_on(async {
                tokio::select! {
                    _ = ended => {}
                    () = interrupt.wait() => {}
                }
            });
            drop(leash);
            let Ok(ended) = hand.join() else {
                bail!("the command failed by a mistake of fledgling's own, which is worth a report")
            };
            ended
        })
    }
}

/// As one word of bash, whatever bytes it has.
pub fn quote(word: &OsStr) -> String {
    let mut quoted = String::new();
    for chunk in word.as_bytes().utf8_chunks() {
        if !chunk.valid().is_empty() {
            quoted += &format!("'{}'", chunk.valid().replace('\'', r"'\''"));
        }
        let invalid = chunk.invalid().iter();
        invalid.for_each(|byte| quoted += &format!(r"$'\x{byte:02x}'"));
    }
    if quoted.is_empty() { "''".to_owned() } else { quoted }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::path::Path;

    use super::*;
    use crate::files::withheld::Withheld;
    use crate::guard::policy::Chain;

    fn run(
        policy: &Policy,
        command: &str,
        timeout: Duration,
        interrupt: &Interrupt,
    ) -> Result<(End, String)> {
        Job { policy, command, input: None, timeout, interrupt }.run()
    }
    use crate::kernel::interrupt::interrupt;

    const PATIENCE: Duration = Duration::from_secs(60);

    fn policy(folder: &Path) -> Policy {
        let env = vec![("PATH".into(), "/usr/bin:/bin".into())];
        let held = File::open("/dev/null").unwrap().into();
        let (workspace, scratch) = (folder.to_owned(), folder.to_owned());
        let (chain, own, withheld) = (Chain::Off, Vec::new(), Withheld::default());
        Policy { workspace, scratch, env, chain, own, held, withheld }
    }

    #[test]
    fn any_bytes_are_one_word() {
        let temp = tempfile::tempdir().unwrap();
        for word in [&b""[..], b"a b", b"'", b"$(touch x)`touch y`", b"-n\n\\", b"\xff'\xfe\xc3("] {
            let word = OsStr::from_bytes(word);
            let command = format!("printf %s {} > said", quote(word));
            run(&policy(temp.path()), &command, PATIENCE, &interrupt().1).unwrap();
            assert_eq!(fs::read(temp.path().join("said")).unwrap(), word.as_bytes());
        }
        assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 1);
    }

    #[test]
    fn the_end_of_much_output_is_kept() {
        let temp = tempfile::tempdir().unwrap();
        let command = "seq 1 100000; exit 3";
        let (end, said) = run(&policy(temp.path()), command, PATIENCE, &interrupt().1).unwrap();
        let End::Exited { status, .. } = end else { panic!("{end:?}") };
        assert_eq!(status.code(), Some(3));
        assert!(said.len() <= KEPT && said.ends_with("\n99999\n100000\n"));
    }

    #[test]
    fn an_interrupt_ends_it() {
        let temp = tempfile::tempdir().unwrap();
        let (interrupter, interrupt) = interrupt();
        interrupter.raise();
        let ended = run(&policy(temp.path()), "sleep 1000", PATIENCE, &interrupt).unwrap();
        assert_eq!(ended.0, End::Interrupted);
    }
}
