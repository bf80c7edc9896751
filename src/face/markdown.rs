//! Replies as they stream, laid out for a terminal: light markdown.
//!
//! Owns what a line of a reply is: text, heading, list item, quote, table row or code.
//! Keeps two invariants: how the text was split into pieces makes no difference, and
//! without colour every mark stays where it was, so nothing is lost. A newline ends a line
//! and with it all emphasis: a chat means its line breaks. Does not know what prints.

use crate::face::clean::Clean;
use crate::face::inline::inline;
use crate::face::wrap::{Style, Wrap};

/// What a quote has at its left.
const BAR: &str = "│ ";

/// A reply being laid out.
#[derive(Default)]
pub struct Markdown {
    colour: bool,
    clean: Clean,
    wrap: Wrap,
    /// The source line that is arriving.
    line: String,
    /// How much of it is laid out, and in which style; nothing until its kind is known.
    begun: Option<(usize, Style)>,
    /// The backticks that an open code block began with.
    fence: Option<usize>,
}

impl Markdown {
    /// For a terminal of this width. Without `colour` no escape is ever given out.
    pub fn new(width: usize, colour: bool) -> Self {
        Self { colour, wrap: Wrap::new(width, colour), ..Self::default() }
    }

    /// From now on the terminal has this width.
    pub fn resize(&mut self, width: usize) {
        self.wrap.resize(width);
    }

    /// The display lines that are complete with this piece, each ready to print.
    pub fn push(&mut self, text: &str) -> Vec<String> {
        for piece in self.clean.push(text).split_inclusive('\n') {
            self.line.push_str(piece.trim_end_matches('\n'));
            self.advance(piece.ends_with('\n'));
        }
        self.wrap.take()
    }

    /// The reply is over: the display lines that are left.
    pub fn finish(&mut self) -> Vec<String> {
        if !self.line.is_empty() {
            self.advance(true);
        }
        self.clean = Clean::default();
        self.fence = None;
        self.wrap.take()
    }

    /// Lay out as much of the line as can be known; all of it, when it is whole.
    fn advance(&mut self, whole: bool) {
        if self.begun.is_none() {
            if !whole && (self.fence.is_some() || !known(&self.line)) {
                return;
            }
            if self.whole_line() {
                self.line.clear();
                return;
            }
            self.begun = Some(self.begin());
        }
        let (mut at, style) = self.begun.unwrap_or_default();
        if self.colour {
            at = inline(&self.line, at, whole, style, &mut self.wrap);
        } else {
            self.wrap.push(Style::PLAIN, &self.line[at..]);
            at = self.line.len();
        }
        self.begun = Some((at, style));
        if whole {
            self.wrap.end();
            self.line.clear();
            self.begun = None;
        }
    }

    /// Code, the fences around it and table rows are never wrapped. Whether this is one.
    fn whole_line(&mut self) -> bool {
        let line = self.line.as_str();
        match (self.fence, fence(line)) {
            (Some(open), Some((close, ""))) if close >= open => self.fence = None,
            (Some(_), _) => {
                self.wrap.whole("  ", Style::CODE, line);
                return true;
            }
            (None, Some((open, _))) => self.fence = Some(open),
            (None, None) if line.trim_start().starts_with('|') => {
                self.wrap.whole("", Style::PLAIN, line);
                return true;
            }
            (None, None) => return false,
        }
        if !self.colour {
            self.wrap.whole("", Style::PLAIN, line);
        }
        true
    }

    /// Begin a line of text: what hangs at its left, where its text begins and its style.
    fn begin(&mut self) -> (usize, Style) {
        let (mut prefix, mut hanging) = (String::new(), String::new());
        let mut at = 0;
        while let Some((shown, length)) = mark(&self.line[at..], self.colour)
            && prefix.chars().count() < self.wrap.widest_prefix()
        {
            prefix += shown;
            hanging += &if shown == BAR { BAR.to_owned() } else { " ".repeat(shown.len()) };
            at += length;
        }
        self.wrap.begin(&prefix, &hanging);
        match heading(&self.line[at..]).filter(|_| self.colour) {
            Some(title) => (self.line.len() - title.len(), Style::BOLD),
            None => (at, Style::PLAIN),
        }
    }
}

/// Whether a line of which this is the beginning can be told from every other kind.
fn known(line: &str) -> bool {
    let text = line.trim_start();
    let marks = |c: char| c.is_ascii_digit() || "#>-+*.)`| \t".contains(c);
    !text.starts_with('|') && !text.starts_with("```") && !text.chars().all(marks)
}

/// How many backticks a fence has, with what stands behind them.
fn fence(line: &str) -> Option<(usize, &str)> {
    let text = line.trim();
    let info = text.trim_start_matches('`');
    let length = text.len() - info.len();
    (length >= 3 && !info.contains('`')).then_some((length, info))
}

/// What belongs to the left of a line's text: how it looks, and its length.
fn mark(text: &str, colour: bool) -> Option<(&str, usize)> {
    Some(match text.as_bytes().first()? {
        b' ' => (" ", 1),
        b'\t' => ("    ", 1),
        b'>' if colour => (BAR, 1 + usize::from(text[1..].starts_with(' '))),
        b'>' => (">", 1),
        _ => {
            let length = item(text)?;
            (&text[..length], length)
        }
    })
}

/// The text of a heading.
fn heading(text: &str) -> Option<&str> {
    let title = text.trim_start_matches('#');
    let level = text.len() - title.len();
    title.strip_prefix(' ').filter(|_| (1..=6).contains(&level)).map(str::trim_start)
}

/// The length of a list item's marker, the spaces behind it included.
fn item(text: &str) -> Option<usize> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let mark = match text.as_bytes().get(digits)? {
        b'-' | b'*' | b'+' if digits == 0 => 1,
        b'.' | b')' if (1..=4).contains(&digits) => digits + 1,
        _ => return None,
    };
    let spaces = text[mark..].bytes().take_while(|byte| *byte == b' ').count();
    (spaces > 0).then_some(mark + spaces.min(4))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use unicode_width::UnicodeWidthStr;

    use super::*;
    use crate::face::clean::clean;

    fn shown(width: usize, colour: bool, pieces: &[&str]) -> Vec<String> {
        let mut markdown = Markdown::new(width, colour);
        let mut lines: Vec<_> = pieces.iter().flat_map(|piece| markdown.push(piece)).collect();
        lines.extend(markdown.finish());
        lines
    }

    const REPLY: &str = "\
# A heading that goes on for long
Some **bold words that wrap** here.

- one item that is long enough to wrap
  1. an inner item that wraps too
> quoted words that go on and on

```sh
echo \"a  **long** line that is never wrapped or mangled\"
```
| a | table row that is never wrapped | either |
last *one*";

    #[test]
    fn every_kind_of_line_without_colour() {
        let expected = "\
# A heading that goes on
for long
Some **bold words that
wrap** here.

- one item that is long
  enough to wrap
  1. an inner item that
     wraps too
> quoted words that go
  on and on

```sh
  echo \"a  **long** line that is never wrapped or mangled\"
```
| a | table row that is never wrapped | either |
last *one*";
        assert_eq!(shown(24, false, &[REPLY]).join("\n"), expected);
    }

    #[test]
    fn every_kind_of_line_with_colour() {
        let expected = "\
<1>A heading that goes on<0>
<1>for long<0>
Some <1>bold words that<0>
<1>wrap<0> here.

<2>- <0>one item that is long
  enough to wrap
<2>  1. <0>an inner item that
     wraps too
<2>│ <0>quoted words that go
<2>│ <0>on and on

  <36>echo \"a  **long** line that is never wrapped or mangled\"<0>
| a | table row that is never wrapped | either |
last <3>one<0>";
        let lines = shown(24, true, &[REPLY]).join("\n");
        assert_eq!(lines.replace("\x1b[", "<").replace('m', ">"), expected.replace('m', ">"));
    }

    #[test]
    fn lines_come_as_soon_as_they_are_full() {
        let mut markdown = Markdown::new(24, true);
        assert!(markdown.push("A paragraph that str").is_empty());
        assert_eq!(markdown.push("eams for lo"), ["A paragraph that streams"]);
        assert!(markdown.push("ng with **bo").is_empty());
        assert_eq!(markdown.push("ld** in it, word"), ["for long with \x1b[1mbold\x1b[0m in"]);
        assert_eq!(markdown.push(" by word\n- next"), ["it, word by word"]);
        assert_eq!(markdown.finish(), ["\x1b[2m- \x1b[0mnext"]);
        assert!(markdown.finish().is_empty());
    }

    #[test]
    fn a_fence_ends_with_its_like_only() {
        let text = "````\n```\n````\n**b**\n```sh\n*a*\n";
        let lines = shown(40, true, &[text]);
        let code = |text: &str| format!("  \x1b[36m{text}\x1b[0m");
        assert_eq!(lines, [code("```"), "\x1b[1mb\x1b[0m".to_owned(), code("*a*")]);
    }

    #[test]
    fn control_sequences_in_a_reply_are_lost() {
        let lines = shown(40, true, &["a\x1b]0;ti", "tle\x07b \x1b[2Jc `\x1b[1mx`"]);
        assert_eq!(lines, ["ab c \x1b[36mx\x1b[0m"]);
    }

    /// Replies of words, marks and newlines, in pieces.
    fn reply() -> impl Strategy<Value = Vec<String>> {
        let piece = prop_oneof![
            4 => "[a-z]{1,9}[ .,]",
            2 => "[*`>#~|\\[\\]()_1.\\\\ -]{1,4}",
            1 => "\n|\n\n|\n```\n|\n  - |\n> |\n1\\. |    |\n# |\t",
            1 => "[日本語、。é🔥❤\u{fe0f}\u{200d}]{1,6}",
        ];
        proptest::collection::vec(piece, 0..60)
    }

    proptest! {
        #[test]
        fn pieces_make_no_difference(pieces in reply(), width in 20usize..70, colour: bool) {
            let whole = pieces.concat();
            let pieces: Vec<_> = pieces.iter().map(String::as_str).collect();
            let characters: Vec<_> = whole.split("").collect();
            let expected = shown(width, colour, &[&whole]);
            prop_assert_eq!(&shown(width, colour, &pieces), &expected);
            prop_assert_eq!(&shown(width, colour, &characters), &expected);
        }

        #[test]
        fn lines_fit_and_nothing_is_lost(pieces in reply(), width in 24usize..70) {
            let text = pieces.concat();
            let lines = shown(width, false, &[&text]);
            let ink = |text: &str| text.split_whitespace().collect::<String>();
            prop_assert_eq!(ink(&lines.join("\n")), ink(&clean(&text)));
            if text.is_ascii() && text.split_whitespace().all(|word| word.len() < width / 2) {
                let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
                prop_assert_eq!(words(&lines.join("\n")), words(&clean(&text)));
            }
            let unwrapped = |line: &String| line.starts_with("  ") || line.trim_start().starts_with(['|', '`', '~']);
            for line in lines.iter().filter(|line| !unwrapped(line)) {
                prop_assert!(line.width() <= width, "{line:?}");
            }
        }

        #[test]
        fn coloured_lines_fit_and_close_what_they_open(pieces in reply(), width in 24usize..70) {
            let text = pieces.concat().replace(['`', '~', '|'], "");
            for line in shown(width, true, &[&text]) {
                prop_assert!(clean(&line).width() <= width, "{line:?}");
                let last = line.rsplit_once("\x1b[").map_or("0m", |(_, rest)| &rest[..2]);
                prop_assert_eq!(last, "0m");
            }
        }
    }
}
