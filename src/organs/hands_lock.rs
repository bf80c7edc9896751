//! The lock by which a host knows that nothing of its predecessors' tool calls runs any more.
//!
//! Owns `hands.lock`. A host shares it, and so does the supervisor of each call, which
//! inherits the descriptor and outlives a killed host by the time its tree takes to end. Who
//! gets the lock for itself is alone. Knows no calls and no sessions.

use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

/// How long a start waits. A tree is ended within a tenth of a second, unless its supervisor
/// was stopped or the system does not let go of it: then the next turn must not wait for it.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often it looks meanwhile.
const STEP: Duration = Duration::from_millis(5);

/// Wait for the hands of earlier hosts and take their lock. Whether all of them are gone.
/// Blocks; the caller holds the host lock.
pub fn take(path: &Path) -> Result<(File, bool)> {
    take_within(path, PATIENCE)
}

fn take_within(path: &Path, patience: Duration) -> Result<(File, bool)> {
    let mut options = OpenOptions::new();
    let file = options.create(true).truncate(false).write(true).mode(0o600).open(path);
    let file = file.with_context(|| format!("cannot open {}", path.display()))?;
    let locked = |tried: Result<(), TryLockError>| match tried {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("cannot lock {}", path.display()))
        }
    };
    let end = Instant::now() + patience;
    let mut alone = locked(file.try_lock())?;
    while !alone && Instant::now() < end {
        thread::sleep(STEP);
        alone = locked(file.try_lock())?;
    }
    // Shared from here on, so that a successor of ours can share it even with who stays.
    let shared = locked(file.try_lock_shared())?;
    Ok((file, alone && shared))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_takes_it_waits_for_all_who_share_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hands.lock");
        let (first, alone) = take_within(&path, Duration::ZERO).unwrap();
        assert!(alone);
        let inherited = first.try_clone().unwrap();
        drop(first);
        let (second, alone) = take_within(&path, Duration::ZERO).unwrap();
        assert!(!alone);
        drop(second);
        let waiting = thread::spawn(move || take_within(&path, Duration::from_secs(60)).unwrap());
        drop(inherited);
        assert!(waiting.join().unwrap().1);
    }
}
