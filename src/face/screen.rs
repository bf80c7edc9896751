//! What output goes to: its width, whether it takes colour, and how a line is written.
//!
//! Owns the one decision on colour and the one way to write, which survives a reader that
//! goes away. Knows nothing of what is written.

use std::io::{self, IsTerminal as _, Write as _};

use terminal_size::terminal_size_of;
use unicode_width::UnicodeWidthStr as _;

use crate::face::clean::clean;

/// One of the two places a program writes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The answer.
    Out,
    /// Everything else.
    Err,
}

/// What a place can show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Screen {
    /// Whether it is a terminal.
    pub terminal: bool,
    /// Columns.
    pub width: usize,
    /// Whether it takes colour.
    pub colour: bool,
}

/// Columns of a terminal that does not say how many it has.
const WIDTH: usize = 80;
/// Columns of what is no terminal: whoever reads it there breaks lines as they like.
const UNBROKEN: usize = 100_000;
/// Fewer columns than this make no readable text.
const NARROWEST: usize = 20;

impl Screen {
    /// What is no screen at all.
    pub const PIPE: Self = Self { terminal: false, width: UNBROKEN, colour: false };

    /// What a place can show now.
    pub fn of(place: Place) -> Self {
        let (out, err) = (io::stdout(), io::stderr());
        let (terminal, size) = match place {
            Place::Out => (out.is_terminal(), terminal_size_of(out)),
            Place::Err => (err.is_terminal(), terminal_size_of(err)),
        };
        let known = size.map(|(width, _)| usize::from(width.0).max(NARROWEST));
        let width = known.unwrap_or(if terminal { WIDTH } else { UNBROKEN });
        let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        Self { terminal, width, colour: terminal && !dumb && !set("NO_COLOR") }
    }

    /// Text that steps back.
    pub fn dim(&self, text: &str) -> String {
        self.style("2", text)
    }

    /// Text that stands out.
    pub fn bold(&self, text: &str) -> String {
        self.style("1", text)
    }

    /// Text about something that went wrong.
    pub fn warn(&self, text: &str) -> String {
        self.style("33", text)
    }

    /// Whether somebody would have to scroll back to read this, in lines that may be styled.
    pub fn is_too_small_for(&self, text: &str) -> bool {
        let rows = terminal_size_of(io::stdout()).map_or(usize::MAX, |(_, rows)| rows.0.into());
        let taken = |line: &str| clean(line).width().max(1).div_ceil(self.width);
        // The prompt takes one, too.
        self.terminal && text.lines().map(taken).sum::<usize>() >= rows
    }

    /// Text in one of a terminal's own styles.
    pub fn style(&self, code: &str, text: &str) -> String {
        if self.colour && !text.is_empty() {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}

/// Write a line. What it holds must have been cleaned.
pub fn write(place: Place, line: &str) -> io::Result<()> {
    match place {
        Place::Out => writeln!(io::stdout().lock(), "{line}"),
        Place::Err => writeln!(io::stderr().lock(), "{line}"),
    }
}
