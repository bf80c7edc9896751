//! What a hand may touch, and the one function that makes it so.
//!
//! Owns the step every hand takes before it acts. It does not confine a hand to these
//! folders yet: a hand has the rights of the user who runs the program, and only cannot
//! gain any (set-uid programs stay powerless). Knows no tools.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};

use crate::files::withheld::Withheld;

/// What a hand is given.
#[derive(Debug, Clone)]
pub struct Policy {
    /// Where it works, absolute and free of symlinks.
    pub workspace: PathBuf,
    /// Where it keeps what nobody tracks, absolute and free of symlinks.
    pub scratch: PathBuf,
    /// The whole environment of what it starts.
    pub env: Vec<(OsString, OsString)>,
    /// Kept open above what it starts until that has ended, be the host killed meanwhile: a
    /// lock on it tells whether anything still runs.
    pub held: Arc<File>,
    /// What nobody is told of what it reads and says.
    pub withheld: Withheld,
}

/// Apply the policy to the calling thread and to all it will start, for good: call it in a
/// thread of the hand's own, never in one that goes back to a pool.
pub fn confine(_policy: &Policy) -> Result<()> {
    // SAFETY: takes numbers only.
    match unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()).context("cannot give up gaining privileges"),
    }
}

/// Make this process opaque to others of the same user: its memory, environment and
/// descriptors hold keys. Children that run another program are not affected.
pub fn hide_from_others() {
    // SAFETY: takes numbers only. It cannot fail with this value.
    unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) };
}
