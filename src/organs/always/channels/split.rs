//! Long texts in pieces that a chat takes.
//!
//! Owns where a text may be cut: between paragraphs, else lines, else sentences, else words, and
//! only then between characters. Nothing but white space at a cut is lost. A fence of code that
//! a cut goes through is closed and opened again. Knows no chat.

use std::fmt::Write as _;

use unicode_width::UnicodeWidthChar as _;

/// What no limit goes below: a character and the marks of a fence must have room.
pub const LEAST: usize = 64;
/// As it opens and closes a block of code.
const FENCE: &str = "```";
/// A line that opens a fence is repeated if it is no longer than this.
const OPENING: usize = 24;
/// How far back a cut is moved to keep together what is one sign.
const SIGN: usize = 16;

/// A text in pieces of at most so many characters. Characters are counted as UTF-16 does, which
/// is how Telegram counts and is never fewer than there are.
pub fn split(text: &str, limit: usize) -> Vec<String> {
    pieces(text, limit).into_iter().map(|piece| piece.before + piece.body + piece.after).collect()
}

/// A piece of the text between the marks that keep its code together.
struct Piece<'a> {
    before: String,
    body: &'a str,
    after: &'static str,
}

fn pieces(text: &str, limit: usize) -> Vec<Piece<'_>> {
    let limit = limit.max(LEAST);
    let mut rest = text.trim_end();
    let mut pieces = Vec::new();
    let mut open: Option<&str> = None;
    while !rest.trim_start().is_empty() {
        let mut before = String::new();
        if let Some(opening) = open {
            let opening = if opening.len() <= OPENING { opening } else { FENCE };
            let _ = writeln!(before, "{opening}");
        }
        let room = limit - units(&before);
        if units(rest) <= room {
            pieces.push(Piece { before, body: rest, after: "" });
            break;
        }
        let at = cut(rest, room - FENCE.len() - 1, open);
        let (body, more) = rest.split_at(at);
        let still = fence(body, open);
        let after = match still {
            Some(_) if body.ends_with('\n') => FENCE,
            Some(_) => "\n```",
            None => "",
        };
        if !body.trim().is_empty() {
            let body = if after.is_empty() { body.trim_end() } else { body };
            pieces.push(Piece { before, body, after });
        }
        // What a line of code begins with matters.
        rest = match still {
            Some(_) => more.strip_prefix('\n').unwrap_or(more),
            None if body.ends_with('\n') => more.trim_start_matches('\n'),
            None => more.trim_start(),
        };
        open = still;
    }
    pieces
}

/// Where to cut a text that is longer than there is room for.
fn cut(text: &str, room: usize, open: Option<&str>) -> usize {
    let mut used = 0;
    let over = text.char_indices().find(|(_, c)| {
        used += c.len_utf16();
        used > room
    });
    let most = over.map_or(text.len(), |(at, _)| at);
    let window = &text[..most];
    // Small pieces are worse than a cut at a lesser place.
    let least = most / 2;
    let after = |mark: &str| window.rfind(mark).map(|at| at + mark.len());
    let far = |at: &usize| *at > least;
    let sentence = || [". ", "! ", "? "].iter().filter_map(|mark| after(mark)).max();
    let word = || {
        // A space that just did not fit ends the last word as well.
        if text[most..].starts_with(char::is_whitespace) {
            return Some(most);
        }
        window.char_indices().rfind(|(_, c)| c.is_whitespace()).map(|(at, c)| at + c.len_utf8())
    };
    let at = after("\n\n")
        .filter(far)
        .or_else(|| after("\n").filter(far))
        .or_else(|| sentence().filter(far))
        .or_else(|| word().filter(|at| !text[..*at].trim().is_empty()))
        .unwrap_or_else(|| whole(text, most));
    // A fence that would be opened for nothing goes to the next piece.
    let body = text[..at].trim_end();
    let line = body.rfind('\n').map_or(0, |end| end + 1);
    let opens = line > 0 && fence(&body[..line], open).is_none() && fence(body, open).is_some();
    if opens { line } else { at }
}

/// The same place, or one a little before it where no sign is taken apart: accents, joined and
/// coloured faces, flags.
fn whole(text: &str, at: usize) -> usize {
    let apart = |at: usize| {
        let (before, after) = (text[..at].chars().next_back(), text[at..].chars().next());
        let (Some(before), Some(after)) = (before, after) else { return true };
        let flag = |c| ('\u{1f1e6}'..='\u{1f1ff}').contains(&c);
        let colour = ('\u{1f3fb}'..='\u{1f3ff}').contains(&after);
        let joined = before == '\u{200d}' || after.width() == Some(0) || colour;
        !(joined || (flag(before) && flag(after)) || (before == '\r' && after == '\n'))
    };
    let earlier = text[..at].char_indices().rev().map(|(at, _)| at).filter(|at| *at > 0);
    std::iter::once(at).chain(earlier.take(SIGN)).find(|at| apart(*at)).unwrap_or(at)
}

/// The line that opened the fence which is open at the end of a text.
fn fence<'a>(text: &'a str, open: Option<&'a str>) -> Option<&'a str> {
    text.lines().fold(open, |open, line| match (line.trim_start().starts_with(FENCE), open) {
        (true, None) => Some(line.trim_end()),
        (true, Some(_)) => None,
        (false, open) => open,
    })
}

fn units(text: &str) -> usize {
    text.chars().map(char::len_utf16).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_short_text_is_one_piece_and_nothing_is_none() {
        assert_eq!(split("  hi\n", 100), ["  hi"]);
        assert!(split(" \n\t", 100).is_empty());
    }

    #[test]
    fn the_best_place_is_taken() {
        let (a, b) = ("a".repeat(40), "b".repeat(40));
        for (text, first, second) in [
            (format!("{a} x. y\nz\n\n{b}"), format!("{a} x. y\nz"), b.clone()),
            (format!("{a} x. y\n{b}"), format!("{a} x. y"), b.clone()),
            (format!("{a} x. y {b}"), format!("{a} x."), format!("y {b}")),
            (format!("{a} {b}"), a.clone(), b.clone()),
            (format!("{a}{b}"), format!("{a}{}", "b".repeat(20)), "b".repeat(20)),
            (format!("x {a}{b}"), "x".to_owned(), format!("{a}{}", "b".repeat(20))),
        ] {
            let pieces = split(&text, 64);
            assert_eq!(pieces[..2], [first, second], "{text}");
        }
    }

    #[test]
    fn a_sign_of_several_characters_stays_whole() {
        let family = "👩‍👩‍👧";
        let text = format!("{}{family}{}", "x".repeat(57), "y".repeat(50));
        assert_eq!(split(&text, 64)[0], "x".repeat(57));
        let text = format!("{}e\u{301}{}", "x".repeat(59), "y".repeat(50));
        assert_eq!(split(&text, 64)[0], "x".repeat(59));
        let flags = "🇩🇪".repeat(100);
        assert_eq!(split(&flags, 64).concat(), flags);
    }

    #[test]
    fn code_is_closed_and_opened_again() {
        let code = "    let x = compute(1);\n".repeat(12);
        let text = format!("Look:\n```rust\n{code}```\nThat is all.");
        let pieces = split(&text, 100);
        assert!(pieces.len() > 2);
        assert!(pieces[0].ends_with("\n```") && pieces[1].starts_with("```rust\n    let"));
        for piece in &pieces {
            assert_eq!(piece.matches(FENCE).count() % 2, 0, "{piece}");
        }
        // An opening line is not left alone at the end of a piece.
        let text = format!("{}\n```\n{}\n```", "a".repeat(50), "b".repeat(80));
        assert_eq!(split(&text, 64)[0], "a".repeat(50));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]
        #[test]
        fn nothing_but_space_is_lost_and_no_piece_is_too_long(
            text in "([a-z]{1,40}|[ \n.!]{1,3}|```[a-z]{0,30}|\n```|[äé👩\u{301}🇩]|\u{200d}|[あ]{1,50}){0,80}",
            limit in 64_usize..200,
        ) {
            let visible = |text: &str| -> String {
                text.chars().filter(|c| !c.is_whitespace()).collect()
            };
            let pieces = pieces(&text, limit);
            let bodies: String = pieces.iter().map(|piece| piece.body).collect();
            prop_assert_eq!(visible(&bodies), visible(&text));
            let last = pieces.len().saturating_sub(1);
            for (n, Piece { before, body, after }) in pieces.into_iter().enumerate() {
                let whole = before + body + after;
                prop_assert!(whole.encode_utf16().count() <= limit, "{:?}", whole);
                prop_assert!(n == last || fence(&whole, None).is_none(), "{:?}", whole);
            }
        }
    }
}
