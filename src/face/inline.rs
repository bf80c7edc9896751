//! Emphasis, code and links within one line of markdown.
//!
//! Owns when a mark is a mark: only once its partner is known, so that a lone asterisk or
//! bracket is never lost and a reply that streams never has to take back what it showed.
//! A mark before white space is none, and a link's address ends at the first parenthesis.
//! Underscores are left alone: they are far more often part of a name. Knows nothing of
//! lines before or after this one.

use crate::face::wrap::{Style, Wrap};

/// Characters within which a mark's partner must come. A line that streams is held back
/// until then.
const REACH: usize = 400;

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
        let reach = rest.char_indices().nth(REACH).map(|(end, _)| end);
        let seen =
            Seen { text: &rest[..reach.unwrap_or(rest.len())], ends: whole || reach.is_some() };
        let run = seen.run(0);
        let spaced = rest[run..].starts_with(char::is_whitespace);
        let end = match rest.as_bytes()[0] {
            _ if spaced => None,
            b'\\' => seen.escape(style, wrap),
            b'`' => seen.code(style, wrap),
            b'*' => seen.emphasis(line[..at].chars().next_back(), style, wrap),
            _ => seen.link(style, wrap),
        };
        if end.is_none() && !spaced && !seen.ends {
            return at;
        }
        at += end.unwrap_or_else(|| {
            wrap.push(style, &rest[..run]);
            run
        });
    }
    at
}

/// What is seen of a line from a mark on. Each kind of mark, where it is one, is put into
/// the `wrap` with all up to its partner; what is returned is where that ends.
struct Seen<'a> {
    text: &'a str,
    /// Whether nothing that counts can come after it.
    ends: bool,
}

impl Seen<'_> {
    /// How often the character at `at` stands there in a row.
    fn run(&self, at: usize) -> usize {
        let bytes = &self.text.as_bytes()[at..];
        bytes.iter().take_while(|byte| **byte == bytes[0]).count()
    }

    fn escape(&self, style: Style, wrap: &mut Wrap) -> Option<usize> {
        let escaped = self.text[1..].starts_with(['*', '`', '[', '_']);
        escaped.then(|| {
            wrap.push(style, &self.text[1..2]);
            2
        })
    }

    fn code(&self, style: Style, wrap: &mut Wrap) -> Option<usize> {
        let (run, end) = (self.run(0), self.code_end(0)?);
        wrap.push(style.with(Style::CODE), &self.text[run..end - run]);
        Some(end)
    }

    /// Where the code that begins at `at` ends: after as many backticks as it began with.
    fn code_end(&self, at: usize) -> Option<usize> {
        let inside = at + self.run(at);
        let length = self.text[inside..].find(&self.text[at..inside])?;
        Some(inside + length + (inside - at))
    }

    fn emphasis(&self, before: Option<char>, style: Style, wrap: &mut Wrap) -> Option<usize> {
        let run = self.run(0);
        // In words and paths an asterisk stands for itself.
        let inside = before.is_some_and(|c| c.is_ascii_alphanumeric() || "/._".contains(c));
        if run > 3 || inside {
            return None;
        }
        let (width, more) = if run == 1 { (1, Style::ITALIC) } else { (2, Style::BOLD) };
        let end = self.emphasis_end(run, width)?;
        inline(&self.text[width..end - width], 0, true, style.with(more), wrap);
        Some(end)
    }

    /// Where emphasis of `width` asterisks ends, looking from `at` on.
    fn emphasis_end(&self, mut at: usize, width: usize) -> Option<usize> {
        loop {
            at += self.text[at..].find(['*', '`'])?;
            let next = at + self.run(at);
            if next == self.text.len() && !self.ends {
                return None;
            }
            if self.text[at..].starts_with('`') {
                let end = self.code_end(at);
                at = if self.ends { end.unwrap_or(next) } else { end? };
                continue;
            }
            let word = self.text[next..].starts_with(|c: char| c.is_ascii_alphanumeric());
            let apart = |c: char| c.is_whitespace() || c == '\\';
            let fits = if width == 1 { next - at != 2 && !word } else { next - at >= 2 };
            if fits && !self.text[..at].ends_with(apart) {
                return Some(next);
            }
            at = next;
        }
    }

    fn link(&self, style: Style, wrap: &mut Wrap) -> Option<usize> {
        let (text, rest) = self.text[1..].split_once("](")?;
        let (url, _) = rest.split_once(')')?;
        if text.contains(['[', ']']) || text.is_empty() || url.contains(char::is_whitespace) {
            return None;
        }
        inline(text, 0, true, style, wrap);
        if text != url {
            wrap.push(style, " (");
            wrap.push(style.with(Style::DIM), url);
            wrap.push(style, ")");
        }
        Some(text.len() + url.len() + "[]()".len())
    }
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
            ("**b *bi* `c`**", "<b>b <><bi>bi<><b> <><bc>c<>"),
            ("*i **bi***", "<i>i <><bi>bi<>"),
            ("run `a *b* **c**`", "run <c>a *b* **c**<>"),
            ("``a`b``", "<c>a`b<>"),
            ("字**粗**字", "字<b>粗<>字"),
            ("[text](http://x/(y)) z", "text (<d>http://x/(y<>)) z"),
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
