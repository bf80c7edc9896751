//! Emphasis, code and links within one line of markdown.
//!
//! Owns when a mark is a mark: only once its partner is known, so that a lone asterisk or
//! bracket is never lost and a reply that streams never has to take back what it showed.
//! Underscores are left alone: they are far more often part of a name. Knows nothing of
//! lines before or after this one.

use crate::face::wrap::{Style, Wrap};

/// Characters within which a mark's partner must come. A line that streams is held back
/// until then.
const REACH: usize = 400;

/// What a mark turned out to be. Lengths are in bytes, from the mark on.
enum Mark<'a> {
    /// Nothing yet: more of the line must be seen.
    Unknown,
    /// This much ordinary text.
    Literal(usize),
    /// An escaped character, shown without its backslash.
    Escaped,
    Code {
        text: &'a str,
        end: usize,
    },
    Emphasis {
        style: Style,
        text: &'a str,
        end: usize,
    },
    Link {
        text: &'a str,
        url: &'a str,
        end: usize,
    },
}

/// Put `line` from byte `at` on into `wrap`, as far as its marks are known, and return how
/// far that is: to its end, where the line is `whole`.
pub fn inline(line: &str, mut at: usize, whole: bool, style: Style, wrap: &mut Wrap) -> usize {
    while at < line.len() {
        let rest = &line[at..];
        let plain = rest.find(['\\', '`', '*', '[']).unwrap_or(rest.len());
        if plain > 0 {
            wrap.push(style, &rest[..plain]);
            at += plain;
            continue;
        }
        at += match mark(line, at, whole) {
            Mark::Unknown => return at,
            Mark::Literal(length) => {
                wrap.push(style, &rest[..length]);
                length
            }
            Mark::Escaped => {
                wrap.push(style, &rest[1..2]);
                2
            }
            Mark::Code { text, end } => {
                wrap.push(style.with(Style::CODE), text);
                end
            }
            Mark::Emphasis { style: more, text, end } => {
                inline(text, 0, true, style.with(more), wrap);
                end
            }
            Mark::Link { text, url, end } => {
                inline(text, 0, true, style, wrap);
                if text != url {
                    wrap.push(style, " (");
                    wrap.push(style.with(Style::DIM), url);
                    wrap.push(style, ")");
                }
                end
            }
        };
    }
    at
}

fn mark(line: &str, at: usize, whole: bool) -> Mark<'_> {
    let rest = &line[at..];
    let window = rest.char_indices().nth(REACH).map_or(rest, |(end, _)| &rest[..end]);
    let cut = window.len() < rest.len();
    let seen = Seen { text: window, ends: whole && !cut };
    let found = match rest.as_bytes()[0] {
        b'\\' => seen.escape(),
        b'`' => seen.code(),
        b'*' => seen.emphasis(line[..at].chars().next_back()),
        _ => seen.link(),
    };
    match found {
        Mark::Unknown if whole || cut => Mark::Literal(seen.run(0)),
        found => found,
    }
}

/// What is seen of a line from a mark on.
struct Seen<'a> {
    text: &'a str,
    /// Whether nothing can come after it.
    ends: bool,
}

impl<'a> Seen<'a> {
    /// How often the character at `at` stands there in a row.
    fn run(&self, at: usize) -> usize {
        let bytes = &self.text.as_bytes()[at..];
        bytes.iter().take_while(|byte| **byte == bytes[0]).count()
    }

    /// Whether what ends at `at` could still become longer.
    fn open(&self, at: usize) -> bool {
        at == self.text.len() && !self.ends
    }

    fn escape(&self) -> Mark<'a> {
        match self.text.as_bytes().get(1) {
            None => Mark::Unknown,
            Some(b'*' | b'`' | b'[' | b'_') => Mark::Escaped,
            Some(_) => Mark::Literal(1),
        }
    }

    fn code(&self) -> Mark<'a> {
        let run = self.run(0);
        match self.code_end(0) {
            Some(end) => Mark::Code { text: &self.text[run..end - run], end },
            None => Mark::Unknown,
        }
    }

    /// Where the code that begins at `at` ends: after as many backticks as it began with.
    fn code_end(&self, at: usize) -> Option<usize> {
        let run = self.run(at);
        let mut next = at + run;
        loop {
            next += self.text[next..].find('`')?;
            let found = self.run(next);
            next += found;
            if found == run {
                return (!self.open(next)).then_some(next);
            }
        }
    }

    fn emphasis(&self, before: Option<char>) -> Mark<'a> {
        let run = self.run(0);
        let Some(after) = self.text[run..].chars().next() else { return Mark::Unknown };
        // In words and paths an asterisk stands for itself.
        let inside = before.is_some_and(|c| c.is_ascii_alphanumeric() || "/._".contains(c));
        if run > 3 || after.is_whitespace() || inside {
            return Mark::Literal(run);
        }
        let (width, style) = if run == 1 { (1, Style::ITALIC) } else { (2, Style::BOLD) };
        match self.emphasis_end(run, width) {
            Some(end) => Mark::Emphasis { style, text: &self.text[width..end - width], end },
            None => Mark::Unknown,
        }
    }

    /// Where emphasis of `width` asterisks ends, looking from `at` on.
    fn emphasis_end(&self, mut at: usize, width: usize) -> Option<usize> {
        loop {
            at += self.text[at..].find(['*', '`', '\\'])?;
            let run = self.run(at);
            let next = at + run;
            match self.text.as_bytes()[at] {
                b'\\' => at += 1 + self.text[at + 1..].chars().next()?.len_utf8(),
                b'`' => match self.code_end(at) {
                    Some(end) => at = end,
                    None if self.ends => at = next,
                    None => return None,
                },
                _ if self.open(next) => return None,
                _ => {
                    let spaced = self.text[..at].ends_with(char::is_whitespace);
                    let word = self.text[next..].starts_with(|c: char| c.is_ascii_alphanumeric());
                    let fits = if width == 1 { run != 2 && !word } else { run >= 2 };
                    if fits && run <= 3 && !spaced {
                        return Some(next);
                    }
                    at = next;
                }
            }
        }
    }

    fn link(&self) -> Mark<'a> {
        let Some(close) = balanced(self.text, '[', ']') else { return Mark::Unknown };
        let rest = &self.text[close..];
        if rest.is_empty() {
            return Mark::Unknown;
        }
        if !rest.starts_with('(') {
            return Mark::Literal(1);
        }
        let Some(end) = balanced(rest, '(', ')') else { return Mark::Unknown };
        let (text, url) = (&self.text[1..close - 1], &rest[1..end - 1]);
        if url.is_empty() || text.is_empty() || url.contains(char::is_whitespace) {
            return Mark::Literal(1);
        }
        Mark::Link { text, url, end: close + end }
    }
}

/// The byte after the bracket that closes the one at the start.
fn balanced(text: &str, open: char, close: char) -> Option<usize> {
    let mut depth = 0;
    for (at, c) in text.char_indices() {
        if c == open {
            depth += 1;
        } else if c == close {
            depth -= 1;
            if depth == 0 {
                return Some(at + 1);
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The line with each style's marks around it: `b`, `i`, `c` and `d` in angle brackets.
    fn shown(line: &str) -> String {
        let mut wrap = Wrap::new(2_000, true);
        assert_eq!(inline(line, 0, true, Style::PLAIN, &mut wrap), line.len());
        wrap.end();
        let names = [
            ("1;3", "bi"),
            ("1;36", "bc"),
            ("1", "b"),
            ("3", "i"),
            ("36", "c"),
            ("2", "d"),
            ("0", ""),
        ];
        names.iter().fold(wrap.take().remove(0), |text, (code, name)| {
            text.replace(&format!("\x1b[{code}m"), &format!("<{name}>"))
        })
    }

    #[test]
    fn marks_become_styles() {
        for (line, expected) in [
            ("a **bold b** c", "a <b>bold b<> c"),
            ("*it* and **b**!", "<i>it<> and <b>b<>!"),
            ("***both***", "<bi>both<>"),
            ("**b *bi* `c`**", "<b>b<> <bi>bi<> <bc>c<>"),
            ("*i **bi***", "<i>i<> <bi>bi<>"),
            ("run `a *b* **c**`", "run <c>a *b* **c**<>"),
            ("``a`b``", "<c>a`b<>"),
            ("字**粗**字", "字<b>粗<>字"),
            ("[text](http://x/(y)) z", "text (<d>http://x/(y)<>) z"),
            ("[http://x](http://x)", "http://x"),
            (r"\*not\* \`code\`", "*not* `code`"),
        ] {
            assert_eq!(shown(line), expected, "{line}");
        }
    }

    #[test]
    fn what_is_no_mark_is_left_alone() {
        for line in [
            "2 * 3 * 4",
            "2*3*4",
            "a ** b",
            "*.rs and *.toml",
            "src/**/*.rs, tests/**/*.rs",
            "snake_case_name __init__ _x_",
            "a ` b",
            "**open",
            "*open",
            "[ ] task",
            "[1] note",
            "[a](b c)",
            "[a](",
            r"C:\dir\*x",
            "****",
            "*",
            "***",
            "`",
            "[",
            "a]",
            "x[1](2",
        ] {
            let expected = line.replace(r"\*", "*");
            assert_eq!(shown(line), expected, "{line}");
        }
    }

    #[test]
    fn a_mark_waits_for_its_partner_but_not_for_ever() {
        let mut wrap = Wrap::new(80, true);
        assert_eq!(inline("see **bo", 0, false, Style::PLAIN, &mut wrap), 4);
        assert_eq!(inline("see **bold** x", 4, false, Style::PLAIN, &mut wrap), 14);
        let long = format!("**{}", "word ".repeat(100));
        assert_eq!(inline(&long, 0, false, Style::PLAIN, &mut wrap), long.len());
    }
}
