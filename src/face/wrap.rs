//! Styled words, laid out in lines of a width.
//!
//! Owns where lines break and what a style looks like on a terminal. Keeps two invariants:
//! every line closes the styles it opens, so each can be printed alone, and without colour
//! no line holds an escape. Knows nothing of markdown.

use std::mem::take;

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// How text looks: any set of the constants.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Style(u8);

impl Style {
    pub const PLAIN: Self = Self(0);
    pub const BOLD: Self = Self(1);
    pub const ITALIC: Self = Self(2);
    pub const CODE: Self = Self(4);
    pub const DIM: Self = Self(8);

    /// Both styles at once.
    pub fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    fn open(self) -> String {
        let codes = [(Self::BOLD, "1"), (Self::ITALIC, "3"), (Self::CODE, "36"), (Self::DIM, "2")];
        let on = codes.iter().filter(|(style, _)| self.0 & style.0 != 0);
        let codes: Vec<_> = on.map(|(_, code)| *code).collect();
        if codes.is_empty() { String::new() } else { format!("\x1b[{}m", codes.join(";")) }
    }

    fn close(self) -> &'static str {
        if self == Self::PLAIN { "" } else { "\x1b[0m" }
    }
}

/// A character with its style.
type Cell = (Style, char);

/// Lines being filled.
#[derive(Default)]
pub struct Wrap {
    width: usize,
    colour: bool,
    done: Vec<String>,
    line: Vec<Cell>,
    /// Cells of the line that stand at its left, before its text.
    prefix: usize,
    /// What stands at the left of the lines that this one runs on into.
    hanging: String,
    /// Columns of the line that are taken.
    used: usize,
    gap: Vec<Cell>,
    word: Vec<Cell>,
}

impl Wrap {
    /// Below this there is no room for prefixes and words side by side.
    const NARROWEST: usize = 24;
    /// Columns a tab counts between words.
    const TAB: usize = 4;

    pub fn new(width: usize, colour: bool) -> Self {
        Self { width: width.max(Self::NARROWEST), colour, ..Self::default() }
    }

    /// What is not laid out yet goes into lines of this width.
    pub fn resize(&mut self, width: usize) {
        self.width = width.max(Self::NARROWEST);
    }

    /// The widest that a prefix should be: half of each line is for the text.
    pub fn widest_prefix(&self) -> usize {
        self.width / 2
    }

    /// Begin a line with this at its left, and `hanging` at the left of its continuations.
    pub fn begin(&mut self, prefix: &str, hanging: &str) {
        let style = if prefix.trim().is_empty() { Style::PLAIN } else { Style::DIM };
        self.line = prefix.chars().map(|c| (style, c)).collect();
        self.prefix = self.line.len();
        self.used = prefix.width();
        hanging.clone_into(&mut self.hanging);
    }

    /// Add text to the line. It may end within a word.
    pub fn push(&mut self, style: Style, text: &str) {
        for c in text.chars() {
            if c.is_whitespace() {
                self.end_word();
                let columns = if c == '\t' { Self::TAB } else { 1 };
                self.gap.extend([(style, ' ')].repeat(columns));
                continue;
            }
            if self.word.last().is_some_and(|(_, before)| breakable(*before, c)) {
                self.end_word();
            }
            self.word.push((style, c));
        }
    }

    /// End the line, even an empty one.
    pub fn end(&mut self) {
        self.end_word();
        self.emit();
        self.begin("", "");
    }

    /// A line as it is, however long, with `indent` at its left.
    pub fn whole(&mut self, indent: &str, style: Style, text: &str) {
        let indent = indent.chars().map(|c| (Style::PLAIN, c));
        let line: Vec<_> = indent.chain(text.chars().map(|c| (style, c))).collect();
        self.done.push(self.render(&line));
    }

    /// The lines finished since the last time.
    pub fn take(&mut self) -> Vec<String> {
        take(&mut self.done)
    }

    fn end_word(&mut self) {
        if self.word.is_empty() {
            return;
        }
        let (mut gap, word) = (take(&mut self.gap), take(&mut self.word));
        let wide: usize = word.iter().copied().map(columns).sum();
        if self.used + gap.len() + wide > self.width {
            gap.clear();
            if self.line.len() > self.prefix {
                self.emit();
            }
        }
        for cell in gap.into_iter().chain(word) {
            if self.used + columns(cell) > self.width {
                self.emit();
            }
            self.used += columns(cell);
            self.line.push(cell);
        }
    }

    fn emit(&mut self) {
        let inked = self.line.iter().rposition(|(_, c)| *c != ' ').map_or(0, |last| last + 1);
        self.done.push(self.render(&self.line[..inked]));
        let hanging = take(&mut self.hanging);
        self.begin(&hanging, &hanging);
        self.gap.clear();
    }

    fn render(&self, line: &[Cell]) -> String {
        let mut out = String::new();
        let mut now = Style::PLAIN;
        for (style, c) in line {
            if self.colour && *style != now {
                out.push_str(now.close());
                out.push_str(&style.open());
                now = *style;
            }
            out.push(*c);
        }
        out.push_str(now.close());
        out
    }
}

/// Columns that a character takes at most.
fn columns((_, c): Cell) -> usize {
    // The selector makes an emoji of a character, which may widen it.
    if c == '\u{fe0f}' { 1 } else { c.width().unwrap_or(0) }
}

/// Whether a line may break between two characters without a space between them: beside
/// the scripts that write none, though never before what closes or after what opens.
fn breakable(before: char, after: char) -> bool {
    const CLOSING: &str = ",.!?:;)]}、。，．！？：；）」』】》〉”’…ー";
    const OPENING: &str = "([{（「『【《〈“‘";
    (unspaced(before) || unspaced(after))
        && after.width() != Some(0)
        && !CLOSING.contains(after)
        && !OPENING.contains(before)
}

fn unspaced(c: char) -> bool {
    matches!(c, '\u{2e80}'..='\u{9fff}' | '\u{f900}'..='\u{faff}' | '\u{ff00}'..='\u{ffef}'
        | '\u{20000}'..='\u{3ffff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(colour: bool, pieces: &[(Style, &str)]) -> Vec<String> {
        let mut wrap = Wrap::new(24, colour);
        for (style, text) in pieces {
            wrap.push(*style, text);
        }
        wrap.end();
        wrap.take()
    }

    #[test]
    fn a_line_is_emitted_once_it_is_full() {
        let mut wrap = Wrap::new(24, false);
        wrap.push(Style::PLAIN, "one two three four five s");
        assert!(wrap.take().is_empty());
        wrap.push(Style::PLAIN, "ix");
        assert!(wrap.take().is_empty());
        wrap.push(Style::PLAIN, " ");
        assert_eq!(wrap.take(), ["one two three four five"]);
        wrap.end();
        assert_eq!(wrap.take(), ["six"]);
    }

    #[test]
    fn words_longer_than_a_line_are_broken_and_others_are_not() {
        let url = "https://example.org/0123456789/0123456789";
        let wrapped = lines(false, &[(Style::PLAIN, "see "), (Style::PLAIN, url)]);
        assert_eq!(wrapped, ["see", "https://example.org/0123", "456789/0123456789"]);
    }

    #[test]
    fn scripts_without_spaces_wrap_with_their_punctuation() {
        let text = "これは日本語の文です。つぎの「文」です";
        let wrapped = lines(false, &[(Style::PLAIN, text)]);
        assert_eq!(wrapped, ["これは日本語の文です。つ", "ぎの「文」です"]);
        let wrapped = lines(false, &[(Style::PLAIN, "これは日本語の長い文です。つぎ")]);
        assert_eq!(wrapped, ["これは日本語の長い文で", "す。つぎ"]);
    }

    #[test]
    fn a_style_is_closed_at_the_end_of_a_line_and_opened_again() {
        let wrapped =
            lines(true, &[(Style::BOLD, "one two three four five"), (Style::BOLD, " six")]);
        assert_eq!(wrapped, ["\x1b[1mone two three four five\x1b[0m", "\x1b[1msix\x1b[0m"]);
        let both = Style::BOLD.with(Style::ITALIC);
        assert_eq!(lines(true, &[(Style::PLAIN, "a"), (both, "b")]), ["a\x1b[1;3mb\x1b[0m"]);
        assert_eq!(lines(false, &[(both, "b")]), ["b"]);
    }
}
