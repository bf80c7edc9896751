//! A change, or what differs, in full.
//!
//! Owns how files, lines, rows and sizes look: text as a unified diff, with the words that
//! differ standing out, and everything else in words. Does not know where it comes from.

use similar::{DiffOp, TextDiff};
use unicode_width::UnicodeWidthStr as _;

use crate::face::clean::{clean, row};
use crate::face::history::list::size;
use crate::face::screen::Screen;
use crate::face::turn_view::{plural, wrapped};
use crate::organs::history::ask::{Content, FileDiff, Hunk, Logged, Shown, TableDiff};

/// Terminal styles of what goes and what comes, and of the words in it.
const REMOVED: (&str, &str) = ("31", "7;31");
const ADDED: (&str, &str) = ("32", "7;32");
/// Lines that are looked at word by word at most: beyond, nobody compares them.
const COMPARED: usize = 40;
/// Columns of the screen that one value of a row takes at most.
const VALUE: usize = 60;
/// What a change says stands so far from the left, so that it cannot pass for the change.
const INDENT: &str = "    ";
/// Trailers that the lines above them tell already.
const TOLD: [&str; 5] = ["Session", "Turn", "Origin", "Tokens", "Cost"];

/// A change with its files, or the files alone.
pub fn shown(shown: &Shown, screen: Screen) -> String {
    let mut blocks = Vec::new();
    if let Some(change) = &shown.change {
        blocks.push(head(change, &shown.trailers, screen));
        blocks.push(indented(&format!("{}\n\n{}", change.subject, shown.body), screen));
    }
    blocks.extend(shown.files.iter().map(|one| file(one, screen)));
    if shown.files.is_empty() {
        blocks.push("No file differs.".to_owned());
    }
    blocks.join("\n\n")
}

fn head(change: &Logged, trailers: &[(String, String)], screen: Screen) -> String {
    let Logged { id, when, who, .. } = change;
    let undone = if change.undone { "  (undone)" } else { "" };
    let mut lines = vec![screen.bold(&wrapped(&format!("{id}  {when}  {who}{undone}"), screen))];
    let turn =
        change.turn.as_ref().map(|(session, turn)| format!("session {session}, turn {turn}"));
    let facts = [turn, Some(size(change)), change.tokens.clone(), change.cost.clone()];
    let facts: Vec<_> = facts.into_iter().flatten().filter(|fact| !fact.is_empty()).collect();
    let more = trailers.iter().filter(|(name, _)| !TOLD.contains(&name.as_str()));
    let more = more.map(|(name, value)| format!("{name}: {value}"));
    let below = Some(facts.join(" · ")).into_iter().chain(more).filter(|line| !line.is_empty());
    lines.extend(below.map(|line| screen.dim(&wrapped(&line, screen))));
    lines.join("\n")
}

/// What somebody said, apart from the rest.
pub fn indented(text: &str, screen: Screen) -> String {
    let narrower = Screen { width: screen.width.saturating_sub(INDENT.len()), ..screen };
    let text = wrapped(text.trim(), narrower);
    let lines = text.lines().map(|line| format!("{INDENT}{line}").trim_end().to_owned());
    lines.collect::<Vec<_>>().join("\n")
}

/// What has become of a file.
pub fn file(file: &FileDiff, screen: Screen) -> String {
    let path = row(&file.path, usize::MAX);
    let kind = became(file.was.as_deref(), file.is.as_deref());
    let title = |words: &[&str]| {
        let words: Vec<_> = words.iter().copied().filter(|word| !word.is_empty()).collect();
        screen.bold(&format!("{path}: {}", words.join(", ")))
    };
    let mut lines = Vec::new();
    match &file.content {
        Content::Same => lines.push(title(&[if kind.is_empty() { "as it was" } else { &kind }])),
        Content::Binary { old, new } => {
            let sizes = match (&file.was, &file.is) {
                (None, _) => bytes(*new),
                (_, None) => bytes(*old),
                _ => format!("{} → {}", bytes(*old), bytes(*new)),
            };
            lines.push(title(&[&kind, "binary", &sizes]));
        }
        Content::Database(tables) => {
            lines.push(title(&[&kind, "database"]));
            lines.extend(tables.iter().flat_map(|one| table(one, screen)));
        }
        Content::Text(hunks) => {
            if !kind.is_empty() {
                lines.push(title(&[&kind]));
            }
            let side = |there: &Option<String>, side: &str| match there {
                Some(_) => format!("{side}/{path}"),
                None => "/dev/null".to_owned(),
            };
            lines.push(screen.bold(&format!("--- {}", side(&file.was, "a"))));
            lines.push(screen.bold(&format!("+++ {}", side(&file.is, "b"))));
            lines.extend(hunks.iter().flat_map(|one| hunk(one, screen)));
        }
    }
    lines.join("\n")
}

/// A change of kind or mode in words; nothing for a file that stays one.
pub fn became(was: Option<&str>, is: Option<&str>) -> String {
    let noun = |kind: &str| match kind {
        "executable" => "an executable file".to_owned(),
        other => format!("a {}", clean(other)),
    };
    match (was, is) {
        (None, Some("file")) => "new".to_owned(),
        (None, Some("executable")) => "new, executable".to_owned(),
        (None, Some(other)) => format!("new {}", clean(other)),
        (Some("link"), None) => "link removed".to_owned(),
        (Some(_), None) => "removed".to_owned(),
        (Some("file"), Some("executable")) => "now executable".to_owned(),
        (Some("executable"), Some("file")) => "no longer executable".to_owned(),
        (Some(was), Some(is)) if was != is => format!("was {}, is {} now", noun(was), noun(is)),
        _ => String::new(),
    }
}

/// A size as people say it.
pub fn bytes(count: u64) -> String {
    let mut size = count as f64;
    let units = ["bytes", "KB", "MB", "GB"];
    let unit = units.into_iter().find(|_| {
        let fits = size < 1024.0;
        size /= if fits { 1.0 } else { 1024.0 };
        fits
    });
    let digits = usize::from(size < 10.0 && count >= 1024);
    format!("{size:.digits$} {}", unit.unwrap_or("TB"))
}

/// Lines that belong together, below a line that says where they are.
pub fn hunk(hunk: &Hunk, screen: Screen) -> Vec<String> {
    let count =
        |side: char| hunk.lines.iter().filter(|(sign, _)| [' ', side].contains(sign)).count();
    let (old, new) = hunk.start;
    let title = format!("@@ -{old},{} +{new},{} @@", count('-'), count('+'));
    let mut lines = vec![screen.dim(&title)];
    let mut rest = hunk.lines.as_slice();
    while let Some((sign, text)) = rest.first() {
        let run = |lines: &[(char, String)], sign| {
            lines.iter().take_while(|(one, _)| *one == sign).count()
        };
        let removed = run(rest, '-');
        let added = run(&rest[removed..], '+');
        if removed + added == 0 {
            lines.push(format!("{sign}{}", visible(text)));
            rest = &rest[1..];
            continue;
        }
        let texts = |lines: &[(char, String)]| {
            lines.iter().map(|(_, text)| visible(text)).collect::<Vec<_>>()
        };
        lines.extend(pair(
            &texts(&rest[..removed]),
            &texts(&rest[removed..removed + added]),
            screen,
        ));
        rest = &rest[removed + added..];
    }
    lines
}

/// A line without what a terminal must not see. A carriage return is one of two endings
/// that a line can have, and may be all that differs.
fn visible(line: &str) -> String {
    clean(&line.replace('\r', "␍"))
}

/// Removed lines and those that came in their place.
fn pair(removed: &[String], added: &[String], screen: Screen) -> Vec<String> {
    if !screen.colour {
        let lines = [("-", removed), ("+", added)].into_iter();
        return lines
            .flat_map(|(sign, lines)| lines.iter().map(move |line| format!("{sign}{line}")))
            .collect();
    }
    let styled = |(sign, words): (char, Vec<(bool, String)>)| {
        let (style, standing_out) = if sign == '+' { ADDED } else { REMOVED };
        // What is alike beside it stands in one style with the sign.
        let [(false, line)] = &words[..] else {
            let words = words.iter().map(|(differs, text)| {
                screen.style(if *differs { standing_out } else { style }, text)
            });
            return words.fold(screen.style(style, &sign.to_string()), |line, word| line + &word);
        };
        screen.style(style, &format!("{sign}{line}"))
    };
    words(removed, added).into_iter().map(styled).collect()
}

/// Such lines in pieces, each with whether it is what differs. Nothing does where nobody would
/// compare them: where lines only go or come, are very many, or have too little alike.
pub fn words(removed: &[String], added: &[String]) -> Vec<(char, Vec<(bool, String)>)> {
    let both = !removed.is_empty() && !added.is_empty();
    if !(both && removed.len() + added.len() <= COMPARED) {
        let whole = |sign| move |line: &String| (sign, vec![(false, line.clone())]);
        return removed.iter().map(whole('-')).chain(added.iter().map(whole('+'))).collect();
    }
    let [old, new] =
        [removed, added].map(|lines| lines.iter().map(String::as_str).collect::<Vec<_>>());
    let diff = TextDiff::from_slices(&old, &new);
    let (old_index, new_index) = (0, 0);
    let op = DiffOp::Replace { old_index, old_len: old.len(), new_index, new_len: new.len() };
    let changes = diff.iter_inline_changes(&op);
    let line = |change: similar::InlineChange<'_, str>| {
        let sign = if change.new_index().is_some() { '+' } else { '-' };
        let words = change.values().iter().map(|(differs, text)| (*differs, (*text).to_owned()));
        (sign, words.collect())
    };
    changes.map(line).collect()
}

fn table(table: &TableDiff, screen: Screen) -> Vec<String> {
    let styled = |sign: char, text: &str| {
        let (style, _) = if sign == '-' { REMOVED } else { ADDED };
        screen.style(style, text)
    };
    let (removed, added) = table.count;
    let mut title = format!("  {}", row(&table.name, usize::MAX));
    if removed + added > 0 {
        title +=
            &format!(": {} -{removed} +{added}", if removed + added == 1 { "row" } else { "rows" });
    }
    let mut lines = vec![screen.bold(&title)];
    if let Some((was, is)) = &table.schema {
        for (sign, statement) in [('-', was), ('+', is)] {
            let statement = clean(statement.as_deref().unwrap_or_default());
            let whole = statement.lines().map(|line| styled(sign, &format!("{sign} {line}")));
            lines.extend(whole);
        }
    }
    let value = |value: &String| row(value, VALUE);
    let cells = |values: &[String]| values.iter().map(value).collect::<Vec<_>>();
    let header = [(' ', cells(&table.columns))];
    let rows = table.rows.iter().map(|(sign, values)| (*sign, cells(values)));
    let rows: Vec<_> = header.into_iter().chain(rows).collect();
    if rows.len() > 1 {
        let widest = |column: usize| {
            rows.iter()
                .filter_map(|(_, cells): &(char, Vec<String>)| Some(cells.get(column)?.width()))
                .max()
                .unwrap_or(0)
        };
        let columns = rows.iter().map(|(_, cells)| cells.len()).max().unwrap_or(0);
        let widths: Vec<_> = (0..columns).map(widest).collect();
        for (sign, cells) in &rows {
            let padded = cells
                .iter()
                .zip(&widths)
                .map(|(cell, width)| format!("{cell}{}", " ".repeat(width - cell.width())));
            let whole = format!("{sign} {}", padded.collect::<Vec<_>>().join("  "));
            let whole = row(whole.trim_end(), screen.width);
            lines.push(if *sign == ' ' { screen.dim(&whole) } else { styled(*sign, &whole) });
        }
    }
    let more = (removed + added).saturating_sub(table.rows.len() as u64);
    if more > 0 {
        lines.push(screen.dim(&format!("  … and {} more", plural(more, "row"))));
    }
    lines
}
