//! Exact replacements in the bytes of a file.
//!
//! Owns the rules: every old text is looked for in the file as it is, occurs exactly once
//! and overlaps no other; a byte order mark stays, and so do line endings. A miss says what
//! the model needs to do better. Pure: knows no file system.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::HashSet;
use std::ops::Range;

use crate::kernel::tool::Replacement;

const BOM: &str = "\u{FEFF}";
/// Occurrences that are listed when there should be one.
const LISTED: usize = 10;
/// Bytes shown of a line in an error.
const SHOWN: usize = 200;
/// Percent of likeness below which two lines have nothing to do with each other.
const ALIKE: usize = 40;

/// The content with all replacements made, or a sentence about the first that cannot be.
pub fn edit(content: &[u8], edits: &[Replacement]) -> Result<Vec<u8>, String> {
    let text = content.strip_prefix(BOM.as_bytes()).unwrap_or(content);
    let mut result = content[..content.len() - text.len()].to_vec();
    let mut spans = Vec::with_capacity(edits.len());
    for (edit, number) in edits.iter().zip(1..) {
        let located = locate(text, edit, !result.is_empty());
        let (range, new) = located.map_err(|why| format!("edit {number}: {why}"))?;
        spans.push(Span { number, range, new });
    }
    spans.sort_by_key(|span| span.range.start);
    // In an empty file, two edits may both replace nothing at 0.
    let overlap = |pair: &&[Span<'_>]| pair[1].range.start < pair[0].range.end.max(1);
    if let Some([one, other]) = spans.windows(2).find(overlap) {
        let (line, one, other) = (line_of(text, other.range.start), one.number, other.number);
        return Err(format!("edits {one} and {other} overlap on line {line}; make them one"));
    }
    let mut done = 0;
    for Span { range, new, .. } in &spans {
        result.extend_from_slice(&text[done..range.start]);
        result.extend_from_slice(new.as_bytes());
        done = range.end;
    }
    result.extend_from_slice(&text[done..]);
    Ok(result)
}

/// Where one replacement goes.
struct Span<'a> {
    /// The edit's, from 1.
    number: usize,
    range: Range<usize>,
    new: Cow<'a, str>,
}

/// The range that an edit replaces, and with what.
fn locate<'a>(
    text: &[u8],
    Replacement { old, new }: &'a Replacement,
    bom: bool,
) -> Result<(Range<usize>, Cow<'a, str>), String> {
    // The mark is no part of the text, even where a model has copied it.
    let plain = |text: &'a str| text.strip_prefix(BOM).filter(|_| bom).unwrap_or(text);
    let (mut old, mut new) = (Cow::from(plain(old)), Cow::from(plain(new)));
    if old == new {
        return Err("old and new are the same, so it changes nothing".to_owned());
    } else if old.is_empty() && text.is_empty() {
        return Ok((0..0, new));
    } else if old.is_empty() {
        return Err("old is empty; give the text to replace, or use write".to_owned());
    }
    let feeds = line_of(text, text.len()) - 1;
    let returns = text.windows(2).filter(|pair| pair == b"\r\n").count();
    // Where all lines end in CRLF, so does what is put in. Where only some do, what the
    // model says may be exact.
    let mut found = Vec::new();
    if returns == 0 || returns < feeds {
        found = find(text, old.as_bytes());
    }
    if found.is_empty() && returns > 0 {
        let with_returns = |text: &str| text.replace("\r\n", "\n").replace('\n', "\r\n");
        (old, new) = (with_returns(&old).into(), with_returns(&new).into());
        found = find(text, old.as_bytes());
    }
    match found[..] {
        [] => Err(format!("old does not occur in the file; {}", nearest(text, old.as_bytes()))),
        [start] => Ok((start..start + old.len(), new)),
        _ => {
            let line = |at: &usize| line_of(text, *at).to_string();
            let lines = found.iter().take(LISTED).map(line).collect::<Vec<_>>().join(", ");
            let more = if found.len() > LISTED { " and more" } else { "" };
            Err(format!("old occurs on lines {lines}{more}; make it longer, so that it is unique"))
        }
    }
}

/// Where it occurs, overlapping occurrences included: the first few places.
fn find(text: &[u8], wanted: &[u8]) -> Vec<usize> {
    let windows = text.windows(wanted.len().max(1));
    let places = windows.enumerate().filter(|(_, window)| *window == wanted);
    places.map(|(at, _)| at).take(LISTED + 1).collect()
}

fn line_of(text: &[u8], at: usize) -> usize {
    text[..at].split(|byte| *byte == b'\n').count()
}

/// Says where the file comes nearest to the wanted text, and where the two part.
///
/// The longest wanted line is the anchor: the file's line most like it is taken for it, and
/// of several such lines the one whose neighbours agree best.
fn nearest(text: &[u8], wanted: &[u8]) -> String {
    let lines: Vec<&[u8]> = text.split(|byte| *byte == b'\n').collect();
    let wanted: Vec<&[u8]> = wanted.split(|byte| *byte == b'\n').collect();
    let length = |index: &usize| wanted[*index].trim_ascii().len();
    let anchor = (0..wanted.len()).max_by_key(length).unwrap_or(0);
    let alike: Vec<_> = lines.iter().map(|line| likeness(line, wanted[anchor])).collect();
    let most = alike.iter().copied().max().unwrap_or(0);
    let together = |at: usize| -> usize {
        let there = lines.iter().skip(at.saturating_sub(anchor));
        wanted.iter().zip(there).map(|(line, other)| likeness(line, other)).sum()
    };
    let places = (0..lines.len()).filter(|at| alike[*at] == most);
    let best = places.max_by_key(|at| (together(*at), Reverse(*at))).unwrap_or(0);
    if most < ALIKE {
        return "nothing in it resembles that; read it again".to_owned();
    }
    let first = best.saturating_sub(anchor);
    let differs = |(index, line): &(usize, &&[u8])| match lines.get(first + index) {
        // The wanted text may begin and end within a line.
        Some(other) if *index == 0 || index + 1 == wanted.len() => {
            !line.is_empty() && find(other, line).is_empty()
        }
        other => other != Some(line),
    };
    let (index, line) = wanted.iter().enumerate().find(differs).unwrap_or((0, &wanted[0]));
    let number = first + index + 1;
    let Some(other) = lines.get(first + index) else {
        return format!("it ends after line {}, where old goes on", lines.len());
    };
    let there = dense(&lines[first..lines.len().min(first + wanted.len())]);
    let only = match find(&there, &dense(&wanted))[..] {
        [] => "",
        _ => " (only whitespace differs)",
    };
    format!("nearest is line {number}: {}, where old has {}{only}", quote(other), quote(line))
}

/// Quoted and escaped, so that tabs and blanks at the end are seen.
fn quote(line: &[u8]) -> String {
    let shown = String::from_utf8_lossy(&line[..line.len().min(SHOWN)]);
    format!("{shown:?}{}", if line.len() > SHOWN { "…" } else { "" })
}

fn dense(lines: &[&[u8]]) -> Vec<u8> {
    lines.iter().flat_map(|line| *line).copied().filter(|b| !b.is_ascii_whitespace()).collect()
}

/// How alike two texts are but for blanks around them, in percent: Dice's coefficient over
/// the pairs of neighbouring bytes.
pub fn likeness(one: &[u8], other: &[u8]) -> usize {
    let (one, other) = (one.trim_ascii(), other.trim_ascii());
    if one == other {
        return 100;
    }
    let pairs = |text: &[u8]| text.windows(2).map(|pair| [pair[0], pair[1]]).collect();
    let (one, other): (HashSet<_>, HashSet<[u8; 2]>) = (pairs(one), pairs(other));
    200 * one.intersection(&other).count() / (one.len() + other.len()).max(1)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;

    use super::*;
    use crate::kernel::message::Call;
    use crate::kernel::tool::Action;

    /// Each folder of `tests/edit` is a case: a file, a call as a model makes it, and the
    /// file or the error it leads to.
    #[test]
    fn the_cases_in_their_folders_hold() {
        let cases = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/edit");
        let mut count = 0;
        for case in fs::read_dir(cases).unwrap().map(|entry| entry.unwrap().path()) {
            if !case.is_dir() {
                continue;
            }
            let input = serde_json::from_slice(&fs::read(case.join("call.json")).unwrap()).unwrap();
            let call = Call { id: String::new(), name: "edit".to_owned(), input };
            let Ok(Action::Edit { edits, .. }) = Action::parse(&call) else { panic!("{case:?}") };
            let expected = match fs::read_to_string(case.join("error.txt")) {
                Ok(why) => Err(why.trim_end().to_owned()),
                Err(_) => Ok(fs::read(case.join("after")).unwrap()),
            };
            let got = edit(&fs::read(case.join("before")).unwrap(), &edits);
            let readable = |result: &Result<Vec<u8>, String>| {
                result.clone().map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            };
            assert_eq!(readable(&got), readable(&expected), "{case:?}");
            assert_eq!(got, expected, "{case:?}");
            count += 1;
        }
        assert!(count >= 20, "only {count} cases in {cases}");
    }

    proptest! {
        /// A file is made of pieces that are told apart by their number. What is replaced is
        /// known by piece, so that the outcome is too.
        #[test]
        fn random_edits_equal_a_naive_model(
            pieces in prop::collection::vec(("[ab\\n]{0,8}", prop::option::of("[ab<>\\n]{0,8}")), 1..20),
            order in any::<u64>(),
        ) {
            let whole = |index: usize, text: &str| format!("<{index}:{text}>");
            let before: String =
                pieces.iter().enumerate().map(|(index, (old, _))| whole(index, old)).collect();
            let after: String = pieces
                .iter()
                .enumerate()
                .map(|(index, (old, new))| new.clone().unwrap_or_else(|| whole(index, old)))
                .collect();
            let mut edits: Vec<_> = pieces
                .iter()
                .enumerate()
                .filter_map(|(index, (old, new))| {
                    Some(Replacement { old: whole(index, old), new: new.clone()? })
                })
                .collect();
            fastrand::Rng::with_seed(order).shuffle(&mut edits);
            let unix = edit(before.as_bytes(), &edits);
            prop_assert_eq!(unix, Ok(after.clone().into_bytes()));
            // The same on a file with CRLF: the model still writes LF.
            if before.contains('\n') {
                let edited = edit(before.replace('\n', "\r\n").as_bytes(), &edits);
                prop_assert_eq!(edited, Ok(after.replace('\n', "\r\n").into_bytes()));
            }
        }

        #[test]
        fn no_input_breaks_it(
            content in prop::collection::vec(prop::sample::select(b"ab \r\n\xEF\xBB\xBF\xFF".to_vec()), 0..40),
            edits in prop::collection::vec(("[ab \r\n\u{FEFF}]{0,6}", "[ab\n]{0,3}"), 1..4),
        ) {
            let edits: Vec<_> =
                edits.into_iter().map(|(old, new)| Replacement { old, new }).collect();
            let _ = edit(&content, &edits);
        }
    }
}
