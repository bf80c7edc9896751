//! Characters that nobody sees, and how a text is rid of them.
//!
//! Owns which characters show nothing or change how others are shown, and where a joiner
//! or a variation selector still means something. Does not know who reads the text: to a
//! person they make it pass for another, to a model they carry words that no person saw.

/// A text on its way, character by character, without what nobody sees in it.
#[derive(Debug, Default)]
pub struct Visible {
    before: Option<char>,
    /// A joiner or selector that counts once the next character is known.
    held: Option<char>,
}

impl Visible {
    /// Put a character into `out`, if it is seen. What is to become of control characters
    /// depends on the reader, who must have dealt with them.
    pub fn push(&mut self, c: char, out: &mut String) {
        if invisible(c) {
            return;
        }
        match (self.held.take(), c) {
            // Emoji and several scripts need joiners; in others they only deceive.
            (_, '\u{200c}'..='\u{200d}') => self.held = self.before.is_some_and(joins).then_some(c),
            // Chooses between text and emoji. A row of them can spell out anything.
            (Some(held), '\u{fe0e}'..='\u{fe0f}') => self.held = Some(held),
            (None, '\u{fe0e}'..='\u{fe0f}') => match self.before {
                Some('0'..='9' | '#' | '*') => self.held = Some(c),
                None | Some('\0'..='\u{7f}' | '\u{fe0e}'..='\u{fe0f}') => {}
                Some(_) => self.keep(c, out),
            },
            (held, c) => {
                let counts = |held: &char| match held {
                    '\u{200c}'..='\u{200d}' => joins(c),
                    _ => c == KEYCAP,
                };
                out.extend(held.filter(counts));
                self.keep(c, out);
            }
        }
    }

    fn keep(&mut self, c: char, out: &mut String) {
        self.before = Some(c);
        out.push(c);
    }
}

/// The frame around a digit that a selector has made an emoji of.
const KEYCAP: char = '\u{20e3}';

/// Whether a joiner has a meaning beside it: in no script before Hebrew has it one.
fn joins(c: char) -> bool {
    c >= '\u{590}'
}

/// Unicode's default ignorables and bidirectional controls, and what formats hieroglyphs;
/// without the joiners, the two variation selectors of emoji, and combining marks.
pub fn invisible(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}'
        | '\u{180b}'..='\u{180f}' | '\u{200b}' | '\u{200e}'..='\u{200f}'
        | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}'
        | '\u{fe00}'..='\u{fe0d}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}'
        | '\u{13430}'..='\u{1343f}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}'
        | '\u{e0000}'..='\u{e0fff}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn visible(text: &str) -> String {
        let (mut visible, mut out) = (Visible::default(), String::new());
        text.chars().for_each(|c| visible.push(c, &mut out));
        out
    }

    #[test]
    fn joiners_and_selectors_stay_where_they_mean_something() {
        let meant = "👩\u{200d}👩\u{200d}👧 ❤\u{fe0f}\u{200d}🔥 می\u{200c}خواهم 1\u{fe0f}\u{20e3} ☎\u{fe0e}";
        assert_eq!(visible(meant), meant);
        for (text, seen) in [
            ("pay\u{200d}pal\u{200c}.com \u{200d}é é\u{200d}", "paypal.com é é"),
            ("р\u{200d}а\u{200c}у", "рау"),
            ("a\u{fe0f}b 1\u{fe0f}2 \u{fe0e}", "ab 12 "),
            ("☎\u{fe0f}\u{fe0e}\u{fe0f}x", "☎\u{fe0f}x"),
            ("❤\u{fe0f}\u{200b}\u{fe0f}\u{200d}\u{200b}🔥", "❤\u{fe0f}\u{200d}🔥"),
            ("1\u{fe0f}\u{200b}\u{fe0e}\u{20e3}", "1\u{fe0f}\u{20e3}"),
            ("\u{e0068}\u{e0069}h\u{202e}\u{2066}\u{61c}\u{200f}i\u{13430}\u{e0100}", "hi"),
        ] {
            assert_eq!(visible(text), seen, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_visible_stays_as_it_is(text in "[a1#é日🔥\u{590}\u{200b}-\u{200f}\u{20e3}\u{fe0d}-\u{fe0f}]{0,24}") {
            let seen = visible(&text);
            prop_assert!(!seen.chars().any(invisible));
            prop_assert_eq!(visible(&seen), seen.clone());
        }
    }
}
