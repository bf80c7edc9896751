//! What came of a replay, told to whoever asked for it.
//!
//! Owns the words, and that what has changed comes first and whole, what has not in a line.
//! Does not know how anything is replayed.

use crate::face::clean::row;
use crate::face::history::diff::hunk;
use crate::face::history::told::listed;
use crate::face::screen::Screen;
use crate::face::turn_view::{plural, wrapped};
use crate::organs::history::ask::{Differing, Place, Replayed};

/// Calls that are shown with both of their answers.
const SHOWN: usize = 20;
/// Lines of an answer that are shown.
const LINES: usize = 40;

/// All of it.
pub fn replayed(replayed: &Replayed, screen: Screen) -> String {
    let Replayed { calls, same, differ, apart, left, commit, put_back } = replayed;
    let mut blocks = vec![screen.bold(&wrapped(&summary(replayed), screen))];
    blocks.extend(differ.iter().take(SHOWN).map(|one| differing(one, screen)));
    if differ.len() > SHOWN {
        let more = plural((differ.len() - SHOWN) as u64, "more call");
        blocks.push(screen.dim(&format!("… and {more}; --json has all.")));
    }
    let title = match commit {
        Some(_) => "Answered otherwise where it was recorded, too, so not for what changed since:",
        None => "Answered otherwise each time:",
    };
    let entries: Vec<_> = apart.iter().map(|one| named(&one.place)).collect();
    blocks.extend(listed(title, &entries, screen));
    let entry = |place: &Place, why: &str| format!("{}: {why}", named(place));
    let entries: Vec<_> = left.iter().map(|one| entry(&one.place, &one.why)).collect();
    blocks.extend(listed("Not replayed:", &entries, screen));
    let began = match (commit, put_back.as_slice()) {
        (Some(commit), []) => format!("It was recorded on commit {commit}."),
        (Some(commit), paths) => {
            let paths = plural(paths.len() as u64, "path");
            format!(
                "What it changed itself ({paths}) began as in commit {commit}, where it was recorded."
            )
        }
        (None, _) => "It was recorded elsewhere, so all began as it is here now.".to_owned(),
    };
    // Where all is as it was, nobody asks how that was found out.
    if same != calls {
        blocks.push(screen.dim(&wrapped(&began, screen)));
    }
    blocks.join("\n\n")
}

fn summary(replayed: &Replayed) -> String {
    let calls = plural(replayed.calls as u64, "call");
    if replayed.calls == 0 {
        return "No call was recorded, so there is nothing to compare.".to_owned();
    }
    if replayed.same == replayed.calls {
        return format!("{calls}, all answered as recorded.");
    }
    let parts = [
        (replayed.same, "answered as recorded"),
        (replayed.differ.len(), "answered otherwise"),
        (replayed.apart.len(), "varying by themselves"),
        (replayed.left.len(), "not replayed"),
    ];
    let parts = parts.iter().filter(|(count, _)| *count > 0);
    let parts: Vec<_> = parts.map(|(count, what)| format!("{count} {what}")).collect();
    format!("{calls}: {}.", parts.join(", "))
}

fn named(place: &Place) -> String {
    format!("turn {}, call {}: {}", place.turn, place.call, row(&place.what, usize::MAX))
}

/// A call with what was answered then (-) and now (+).
fn differing(differing: &Differing, screen: Screen) -> String {
    let Differing { place, recorded, now, hunks } = differing;
    let mut lines = vec![screen.bold(&wrapped(&named(place), screen))];
    let shown: Vec<_> = hunks.iter().flat_map(|one| hunk(one, screen)).collect();
    let more = shown.len().saturating_sub(LINES);
    lines.extend(shown.into_iter().take(LINES));
    if more > 0 {
        lines.push(screen.dim(&format!("  … {more} more lines")));
    }
    if hunks.is_empty() && recorded.text != now.text {
        lines.push("The answers differ too much to be shown; --json has them.".to_owned());
    }
    match (recorded.error, now.error) {
        (false, true) => lines.push(screen.warn("It fails now; it did not when it was recorded.")),
        (true, false) => lines.push("It failed when it was recorded; now it does not.".to_owned()),
        _ => {}
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::organs::history::ask::{Answered, Hunk, Left};

    fn place(call: usize, what: &str) -> Place {
        Place { turn: 2, call, what: what.to_owned() }
    }

    fn changed(call: usize, error: bool) -> Differing {
        let answer = |text: &str, error| Answered { text: text.to_owned(), error };
        let lines = vec![('-', "8.70\u{1b}[2J".to_owned()), ('+', "9".to_owned())];
        let hunks = vec![Hunk { start: (1, 1), lines }];
        let (recorded, now) = (answer("8.70\n", false), answer("9\n", error));
        Differing { place: place(call, "bash coffee total"), recorded, now, hunks }
    }

    #[test]
    fn what_differs_comes_first_and_fits_a_narrow_screen() {
        let screen = Screen { terminal: true, width: 60, colour: false };
        let told = Replayed {
            calls: 4,
            same: 1,
            differ: vec![changed(1, true)],
            apart: vec![changed(2, false)],
            left: vec![Left {
                place: place(3, "bash fledgling log"),
                why: "nobody answers".to_owned(),
            }],
            commit: Some("abc".to_owned()),
            put_back: vec!["a".to_owned()],
        };
        let text = replayed(&told, screen);
        assert!(
            text.starts_with(
                "4 calls: 1 answered as recorded, 1 answered otherwise, 1\n\
                 varying by themselves, 1 not replayed.\n\n\
                 turn 2, call 1: bash coffee total\n@@"
            ),
            "{text}"
        );
        let mut rest = text.as_str();
        for expected in [
            "\n-8.70\n+9\nIt fails now",
            "too, so not for",
            "  turn 2, call 2: bash coffee total",
            "Not replayed:\n  turn 2, call 3: bash fledgling log: nobody answers",
            "(1 path) began as in commit abc",
        ] {
            let at = rest.find(expected).unwrap_or_else(|| panic!("no {expected:?} in\n{text}"));
            rest = &rest[at..];
        }
        assert!(text.lines().all(|line| line.chars().count() <= 60), "{text}");
        assert!(!text.contains('\u{1b}'));
        let same = Replayed { calls: 2, same: 2, ..Replayed::default() };
        assert_eq!(replayed(&same, screen), "2 calls, all answered as recorded.");
    }
}
