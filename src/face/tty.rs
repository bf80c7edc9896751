//! The terminal's own settings: kept while others change them, and put back.
//!
//! Owns that the terminal is left as it was found, and how a secret is read without being
//! shown. Knows nothing of lines, keys or their meaning.

use std::io::{self, Read as _, Write as _};

/// The settings of the terminal on standard input at some moment: put back when dropped.
pub struct Kept(libc::termios);

impl Kept {
    /// As they are now. `None` without a terminal.
    pub fn now() -> Option<Self> {
        // SAFETY: zeros are a valid `termios`, and the call fills it in.
        let (settings, got) = unsafe {
            let mut settings: libc::termios = std::mem::zeroed();
            let got = libc::tcgetattr(libc::STDIN_FILENO, &raw mut settings);
            (settings, got)
        };
        (got == 0).then_some(Self(settings))
    }

    fn set(settings: &libc::termios) {
        // SAFETY: the settings came from the terminal and outlive the call.
        unsafe { libc::tcsetattr(libc::STDIN_FILENO, libc::TCSADRAIN, &raw const *settings) };
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        Self::set(&self.0);
    }
}

/// Read a line without showing it. `None` at Ctrl-C, Ctrl-D or where no terminal is.
pub fn hidden_line(prompt: &str) -> io::Result<Option<String>> {
    let Some(kept) = Kept::now() else { return Ok(None) };
    let mut hidden = kept.0;
    // Without signals Ctrl-C is a key like any other: nothing can leave the echo off.
    hidden.c_lflag &= !(libc::ECHO | libc::ICANON | libc::ISIG);
    Kept::set(&hidden);
    let mut out = io::stdout().lock();
    write!(out, "{prompt}")?;
    out.flush()?;
    let mut line = Vec::new();
    for byte in io::stdin().lock().bytes() {
        match byte? {
            b'\r' | b'\n' => {
                writeln!(out)?;
                return Ok(Some(String::from_utf8_lossy(&line).into_owned()));
            }
            0x03 | 0x04 => break,
            0x15 => line.clear(),
            0x08 | 0x7f => _ = line.pop(),
            byte => line.push(byte),
        }
    }
    writeln!(out)?;
    Ok(None)
}
