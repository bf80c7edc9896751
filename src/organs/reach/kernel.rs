//! Whether this machine's kernel can confine hands.
//!
//! Owns the words for what is missing. A hand does not rely on the answer: what cannot be
//! enforced is an error there.

use std::io;

use anyhow::{Result, bail};

use crate::guard::confine::NEEDED;

/// An error says what is missing.
pub fn available() -> Result<()> {
    // SAFETY: asks for a number, as the documentation of Landlock has it.
    let version = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, 0, 0, 1) };
    let needed = NEEDED as i64;
    if version >= needed {
        return Ok(());
    }
    match (version, io::Error::last_os_error().raw_os_error()) {
        (0.., _) => bail!(
            "this kernel's Landlock has version {version}, and {needed} is needed (Linux 6.12 or later)"
        ),
        (_, Some(libc::EOPNOTSUPP)) => bail!(
            "Landlock is switched off on this machine; add landlock to the kernel's lsm= parameter"
        ),
        _ => bail!("this kernel has no Landlock; Linux 6.12 or later has it"),
    }
}
