//! Text on its way to a terminal, made harmless.
//!
//! Owns what a terminal may see of text that others wrote: visible characters, newlines
//! and tabs, so that no text can move the cursor, set the clipboard, retitle the window or
//! pass for another text. Does not know where the text comes from or how it is laid out.

use serde::Serialize;
use unicode_width::UnicodeWidthStr;
use vte::{Parser, Perform};

use crate::files::visible::{Visible, invisible};

/// A stream being cleaned. Sequences may be split anywhere between two pushes.
#[derive(Default)]
pub struct Clean {
    parser: Parser,
    kept: Kept,
}

impl Clean {
    /// What may be shown of this piece.
    pub fn push(&mut self, text: &str) -> String {
        for line in text.split_inclusive('\n') {
            self.parser.advance(&mut self.kept, seven_bit(line.trim_end_matches('\n')).as_bytes());
            if line.ends_with('\n') {
                // A string that is never closed would hide all that follows it, so none
                // goes past the end of its line.
                self.parser = Parser::new();
                self.kept.take('\n');
            }
        }
        std::mem::take(&mut self.kept.text)
    }
}

/// A whole text, cleaned.
pub fn clean(text: &str) -> String {
    Clean::default().push(text)
}

/// A whole text, cleaned and made one line of at most `width` columns: runs of white space
/// become one space, and `…` stands for what is cut off.
pub fn line(text: &str, width: usize) -> String {
    let cleaned = clean(text);
    cut(&cleaned.split_whitespace().collect::<Vec<_>>().join(" "), width)
}

/// A line of a table, cleaned and cut to `width` columns; its spaces stay.
pub fn row(text: &str, width: usize) -> String {
    cut(&clean(text).replace('\n', " "), width)
}

/// A value as a line of JSON in which everything that `clean` would take out, and every
/// other character that a terminal does not show, stands as `\uXXXX`: to whoever reads JSON
/// the same.
pub fn json_line(value: &impl Serialize) -> serde_json::Result<String> {
    let mut line = String::new();
    for c in serde_json::to_string(value)?.chars() {
        if c.is_control()
            || invisible(c)
            || matches!(c, '\u{200c}'..='\u{200d}' | '\u{2028}'..='\u{2029}')
        {
            line.extend(c.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")));
        } else {
            line.push(c);
        }
    }
    Ok(line)
}

fn cut(line: &str, width: usize) -> String {
    if line.width() <= width {
        return line.to_owned();
    }
    // The mark takes a column itself.
    let ends = line.char_indices().map(|(at, _)| at);
    let end = ends.take_while(|at| line[..*at].width() < width).last();
    end.map_or_else(String::new, |end| format!("{}…", &line[..end]))
}

/// The text with every C1 control as its two-byte form: they open the same sequences, and
/// the parser knows only that form.
fn seven_bit(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\u{80}'..='\u{9f}' => out.extend(['\x1b', char::from(c as u8 - 0x40)]),
            _ => out.push(c),
        }
    }
    out
}

/// What the parser lets through.
#[derive(Default)]
struct Kept {
    text: String,
    visible: Visible,
}

impl Kept {
    fn take(&mut self, c: char) {
        self.visible.push(c, &mut self.text);
    }
}

impl Perform for Kept {
    fn print(&mut self, c: char) {
        match c {
            '\u{2028}' | '\u{2029}' => self.take('\n'),
            c if c.is_control() => {}
            c => self.take(c),
        }
    }

    fn execute(&mut self, byte: u8) {
        if byte == b'\t' {
            self.take('\t');
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sequences_are_lost_whole() {
        for (text, kept) in [
            ("plain ä 日本 \t tab\nnext", "plain ä 日本 \t tab\nnext"),
            ("\x1b[1;31mred\x1b[0m", "red"),
            ("\u{9b}31mred", "red"),
            ("a\x1b]52;c;ZXZpbA==\x07b", "ab"),
            ("a\u{9d}52;c;ZXZpbA==\u{9c}b", "ab"),
            ("a\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\b", "alinkb"),
            ("a\x1bPq#0;2\x1b\\b\x1b_x\x1b\\c\x1b^y\x1b\\d\x1bXz\x1b\\e", "abcde"),
            ("a\x1b(0b\x1bcc\x1b7d", "abcd"),
            ("a\x07\x08\x7f\0b\r\nc\rd", "ab\ncd"),
            ("a\u{202e}b\u{2066}c\u{200b}d\u{feff}e\u{e0041}f", "abcdef"),
            ("one\u{2028}two", "one\ntwo"),
            // What a terminal would answer, into the owner's next line.
            (
                "a\x05b\x1b[cd\x1b[>0ce\x1b[6nf\x1b[21tg\x1bZh\x1bP$qm\x1b\\i\x1b]11;?\x07j",
                "abdefghij",
            ),
            ("a\u{9b}6nb\u{90}+q\u{9c}c\u{9f}x\u{9c}d\u{85}e\u{84}f\x0bg\x0ch", "abcdefgh"),
            ("\u{61c}a\u{200e}b\u{200f}c\u{2069}d\u{e0001}\u{e007f}e\u{fe00}\u{e0101}f", "abcdef"),
        ] {
            assert_eq!(clean(text), kept, "{text:?}");
        }
    }

    #[test]
    fn an_open_string_hides_no_more_than_its_line() {
        assert_eq!(clean("a\x1b]0;title\nb\x1bP\nc"), "a\nb\nc");
    }

    #[test]
    fn json_shows_nothing_raw_and_is_the_same() {
        let value = serde_json::json!({"a\u{9b}": "é日\n\x1b\x7f\u{85}\u{202e}\u{200d}\u{2028}\u{feff}\u{e0041}🔥"});
        let line = json_line(&value).unwrap();
        let shown =
            r#"{"a\u009b":"é日\n\u001b\u007f\u0085\u202e\u200d\u2028\ufeff\udb40\udc41🔥"}"#;
        assert_eq!(line, shown);
        assert_eq!(serde_json::from_str::<serde_json::Value>(&line).unwrap(), value);
    }

    #[test]
    fn a_line_is_cut_to_its_width() {
        assert_eq!(line("  one\n\ttwo\x1b[2J  ", 10), "one two");
        assert_eq!(line("one two three", 8), "one two…");
        assert_eq!(line("日本語", 6), "日本語");
        assert_eq!(line("日本語", 5), "日本…");
        assert_eq!(line("日本語", 4), "日…");
        assert_eq!(line("ab", 1), "…");
        assert_eq!(line("ab", 0), "");
    }

    /// Text in which sequences, half sequences and characters of all kinds are likely.
    fn hostile() -> impl Strategy<Value = Vec<String>> {
        let piece = prop_oneof![
            any::<String>(),
            "[\\x00-\\x20\\x7f\u{80}-\u{9f}\\[\\]PX^_;0-9m\u{200c}\u{200d}\u{202e}é✓🔥]{0,12}",
        ];
        proptest::collection::vec(piece, 0..8)
    }

    proptest! {
        #[test]
        fn nothing_but_visible_text_comes_out(pieces in hostile()) {
            let cleaned = clean(&pieces.concat());
            prop_assert!(!cleaned.chars().any(|c| c.is_control() && c != '\n' && c != '\t'));
            prop_assert!(!cleaned.chars().any(invisible));
            prop_assert_eq!(clean(&cleaned), cleaned.clone());
        }

        #[test]
        fn pieces_make_no_difference(pieces in hostile()) {
            let mut stream = Clean::default();
            let streamed: String = pieces.iter().map(|piece| stream.push(piece)).collect();
            prop_assert_eq!(streamed, clean(&pieces.concat()));
        }

        #[test]
        fn a_line_fits(text in any::<String>(), width in 0usize..30) {
            let line = line(&text, width);
            prop_assert!(line.width() <= width && !line.contains(['\n', '\t']));
        }
    }
}
