//! Whether a call is answered as it was recorded, and if not, whether that is because of what
//! the workspace is.
//!
//! Owns the comparison of answers. What is answered otherwise on the recorded commit, too, is
//! put down to something else, line by line: an answer with the time of day in one line still
//! counts with all others. Knows neither calls nor commits.

use std::collections::BTreeSet;

use anyhow::Result;
use similar::{DiffTag, TextDiff};

use crate::organs::history::ask::{Answered, Differing, Place};
use crate::organs::history::compare;

/// What an answer is compared with.
pub enum Control<'a> {
    /// Nothing.
    None,
    /// What the recorded commit answers now.
    Recorded(&'a Answered),
    /// What it was answered the second time.
    Again(&'a Answered),
}

/// What becomes of an answer.
#[derive(Debug, PartialEq, Eq)]
pub enum Judged {
    /// It is the same.
    Same,
    /// It differs.
    Differs,
    /// It differs for another reason than the workspace.
    Apart,
}

/// Compare what was answered with what is answered.
pub fn judge(recorded: &Answered, now: &Answered, control: &Control<'_>) -> Judged {
    if recorded == now {
        return Judged::Same;
    }
    let apart = match control {
        Control::None => false,
        Control::Recorded(control) => {
            explains(&recorded.text, &control.text, &now.text)
                && (recorded.error == now.error || control.error == now.error)
        }
        Control::Again(again) => {
            explains(&now.text, &again.text, &recorded.text)
                && (recorded.error == now.error || again.error != now.error)
        }
    };
    if apart { Judged::Apart } else { Judged::Differs }
}

/// How they differ, to be shown.
pub fn differing(place: &Place, recorded: &Answered, now: &Answered) -> Result<Differing> {
    let hunks = compare::text(recorded.text.as_bytes(), now.text.as_bytes())?.unwrap_or_default();
    let (recorded, now) = (recorded.clone(), now.clone());
    Ok(Differing { place: place.clone(), recorded, now, hunks })
}

/// Whether a text differs from `other` only in lines in which it differs from `control`.
fn explains(text: &str, control: &str, other: &str) -> bool {
    let (varying, differing) = (touched(text, control), touched(text, other));
    let mut gaps = varying.gaps;
    gaps.extend(varying.lines.iter().flat_map(|line| [*line, line + 1]));
    differing.lines.is_subset(&varying.lines) && differing.gaps.is_subset(&gaps)
}

/// Where a text is otherwise in another one.
struct Touched {
    /// Its lines that the other does not have.
    lines: BTreeSet<usize>,
    /// Its lines before which the other has more.
    gaps: BTreeSet<usize>,
}

fn touched(text: &str, other: &str) -> Touched {
    let mut found = Touched { lines: BTreeSet::new(), gaps: BTreeSet::new() };
    for op in TextDiff::from_lines(text, other).ops() {
        match op.tag() {
            DiffTag::Equal => {}
            DiffTag::Insert => _ = found.gaps.insert(op.old_range().start),
            DiffTag::Delete | DiffTag::Replace => found.lines.extend(op.old_range()),
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(text: &str, error: bool) -> Answered {
        Answered { text: text.to_owned(), error }
    }

    #[test]
    fn only_what_varies_by_itself_is_put_aside() {
        let recorded = answer("total 8\nat 10:01\nend\n", false);
        let control = answer("total 8\nat 11:30\nend\n", false);
        let cases = [
            ("total 8\nat 10:01\nend\n", false, Judged::Same),
            ("total 8\nat 11:31\nend\n", false, Judged::Apart),
            ("total 8\nat 11:31\nand a second\nend\n", false, Judged::Apart),
            ("total 9\nat 11:31\nend\n", false, Judged::Differs),
            ("total 8\nat 11:31\nend\nmore\n", false, Judged::Differs),
            ("total 8\nat 11:31\nend\n", true, Judged::Differs),
            ("total 8\nat 10:01\nend\n", true, Judged::Differs),
        ];
        for (text, error, expected) in cases {
            let now = answer(text, error);
            assert_eq!(judge(&recorded, &now, &Control::Recorded(&control)), expected, "{text}");
        }
        let now = answer("total 8\nat 11:31\nend\n", false);
        assert_eq!(judge(&recorded, &now, &Control::None), Judged::Differs);
        assert_eq!(judge(&recorded, &now, &Control::Again(&control)), Judged::Apart);
        let wrong = answer("total 9\nat 11:31\nend\n", false);
        assert_eq!(judge(&recorded, &wrong, &Control::Again(&wrong)), Judged::Differs);
        // What failed on the recorded commit as well.
        let failed = answer("no network\n", true);
        assert_eq!(judge(&recorded, &failed, &Control::Recorded(&failed)), Judged::Apart);
    }

    #[test]
    fn how_they_differ_is_told_in_lines() {
        let (recorded, now) = (answer("a\nb\n", false), answer("a\nc\n", false));
        let found = differing(&Place::default(), &recorded, &now).unwrap();
        let lines: Vec<_> =
            found.hunks[0].lines.iter().map(|(sign, line)| format!("{sign}{line}")).collect();
        assert_eq!(lines, [" a", "-b", "+c"]);
    }
}
