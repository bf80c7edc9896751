//! Styled words, laid out in lines of a width.
//!
//! Owns where lines break and what a style looks like on a terminal. Keeps two invariants:
//! every line closes the styles it opens, so each can be printed alone, and without colour
//! no line holds an escape. Knows nothing of markdown.

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
        format!("\x1b[{}m", on.map(|(_, code)| *code).collect::<Vec<_>>().join(";"))
    }
}

/// Text with its style.
pub type Piece = (Style, String);

/// Lines being filled.
pub struct Wrap {
    width: usize,
    colour: bool,
    done: Vec<String>,
    /// What stands at the left of the current line, and of those that it runs on into.
    prefix: String,
    hanging: String,
    line: Vec<Piece>,
    used: usize,
    gap: usize,
    word: Vec<Piece>,
}

impl Wrap {
    /// Below this there is no room for prefixes and words side by side.
    const NARROWEST: usize = 24;
    /// Columns a tab counts between words.
    const TAB: usize = 4;

    pub fn new(width: usize, colour: bool) -> Self {
        Self {
            width: width.max(Self::NARROWEST),
            colour,
            done: Vec::new(),
            prefix: String::new(),
            hanging: String::new(),
            line: Vec::new(),
            used: 0,
            gap: 0,
            word: Vec::new(),
        }
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
    pub fn begin(&mut self, prefix: String, hanging: String) {
        self.used = prefix.width();
        (self.prefix, self.hanging) = (prefix, hanging);
    }

    /// Add text to the line. It may end within a word.
    pub fn push(&mut self, style: Style, text: &str) {
        for c in text.chars() {
            if c.is_whitespace() {
                self.end_word();
                self.gap += if c == '\t' { Self::TAB } else { 1 };
                continue;
            }
            let before = self.word.last().and_then(|(_, text)| text.chars().next_back());
            if before.is_some_and(|before| breakable(before, c)) {
                self.end_word();
            }
            append(&mut self.word, style, c);
        }
    }

    /// End the line, even an empty one.
    pub fn end(&mut self) {
        self.end_word();
        self.emit();
        self.begin(String::new(), String::new());
    }

    /// A line as it is, however long.
    pub fn whole(&mut self, line: &[Piece]) {
        self.done.push(self.render(line));
    }

    /// The lines finished since the last time.
    pub fn take(&mut self) -> Vec<String> {
        std::mem::take(&mut self.done)
    }

    fn end_word(&mut self) {
        let word = std::mem::take(&mut self.word);
        if word.is_empty() {
            return;
        }
        let wide: usize = word.iter().map(|(_, text)| text.width()).sum();
        if self.used + self.gap + wide > self.width {
            self.gap = 0;
            if !self.line.is_empty() {
                self.emit();
            }
        }
        if self.gap > 0 {
            // A space of the same style as both its neighbours needs no escapes.
            let last = self.line.last().map(|(style, _)| *style);
            let style = if last == Some(word[0].0) { word[0].0 } else { Style::PLAIN };
            (0..self.gap).for_each(|_| append(&mut self.line, style, ' '));
        }
        self.used += self.gap;
        self.gap = 0;
        for (style, text) in word {
            for c in text.chars() {
                // The selector makes an emoji of a character, which may widen it.
                let wide = if c == '\u{fe0f}' { 1 } else { c.width().unwrap_or(0) };
                if self.used + wide > self.width {
                    self.emit();
                }
                append(&mut self.line, style, c);
                self.used += wide;
            }
        }
    }

    fn emit(&mut self) {
        let prefix = std::mem::replace(&mut self.prefix, self.hanging.clone());
        let style = if prefix.trim().is_empty() { Style::PLAIN } else { Style::DIM };
        let mut line = std::mem::take(&mut self.line);
        let prefix = if line.is_empty() { prefix.trim_end() } else { &prefix };
        line.insert(0, (style, prefix.to_owned()));
        self.whole(&line);
        self.used = self.prefix.width();
        self.gap = 0;
    }

    fn render(&self, line: &[Piece]) -> String {
        let mut out = String::new();
        let mut now = Style::PLAIN;
        let end = (Style::PLAIN, String::new());
        for (style, text) in line.iter().filter(|(_, text)| !text.is_empty()).chain([&end]) {
            if self.colour && *style != now {
                if now != Style::PLAIN {
                    out.push_str("\x1b[0m");
                }
                if *style != Style::PLAIN {
                    out.push_str(&style.open());
                }
                now = *style;
            }
            out.push_str(text);
        }
        out
    }
}

fn append(pieces: &mut Vec<Piece>, style: Style, c: char) {
    match pieces.last_mut() {
        Some((last, text)) if *last == style => text.push(c),
        _ => pieces.push((style, c.to_string())),
    }
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
