//! Files of a change on a page: text as a unified diff, databases as rows.
//!
//! Owns how much of it is told: what goes beyond is counted, and `show` has it. Does not know
//! whose change it is.

use crate::face::history::{became, bytes};
use crate::face::report::html::Html;
use crate::face::turn_view::plural;
use crate::organs::history::ask::{Content, FileDiff, Hunk, TableDiff};

/// Files of one change that are told.
const FILES: usize = 100;
/// Lines of one file.
const LINES: usize = 400;
/// Characters of a line, or of a value in a row.
const LINE: usize = 400;
const VALUE: usize = 120;
/// Rows of a table.
const ROWS: usize = 50;

/// The files of a change. `room` is how much the page still takes, in bytes.
pub fn files(files: &[FileDiff], id: &str, room: &mut usize) -> Html {
    let mut out = Html::default();
    for file in files.iter().take(FILES) {
        let content = if *room == 0 { None } else { content(file) };
        let left_out = "Left out, as the page would be too long; ";
        let inside = content.unwrap_or_else(|| note(left_out, id, &file.path));
        let block = Html::classed("div", "file", [title(file), inside]);
        *room = room.saturating_sub(block.len());
        out.push(block);
    }
    let more = files.len().saturating_sub(FILES);
    if more > 0 {
        out.push(note(&format!("… and {}; ", plural(more as u64, "more file")), id, ""));
    }
    out
}

/// What is not told, and where it is.
fn note(what: &str, id: &str, path: &str) -> Html {
    let path = if path.is_empty() { String::new() } else { format!(" {}", quoted(path)) };
    let command = Html::plain("code", format!("fledgling show {id}{path}"));
    Html::classed("p", "note", [Html::from(what), command, " has it.".into()])
}

fn quoted(path: &str) -> String {
    shell_words::quote(&cut(path, LINE)).into_owned()
}

fn title(file: &FileDiff) -> Html {
    let path = Html::element("bdi", &[("class", "path")], cut(&file.path, LINE));
    let mut title = Html::from([path, " ".into()]);
    let became = became(file.was.as_deref(), file.is.as_deref());
    if !became.is_empty() {
        title.push([Html::classed("span", "became", became), " ".into()]);
    }
    let count = |sign: char| match &file.content {
        Content::Text(hunks) => {
            let lines = hunks.iter().flat_map(|hunk| &hunk.lines);
            lines.filter(|(one, _)| *one == sign).count() as u64
        }
        Content::Database(tables) => {
            let counts = tables.iter().map(|table| table.count);
            counts.map(|(removed, added)| if sign == '+' { added } else { removed }).sum()
        }
        Content::Same | Content::Binary { .. } => 0,
    };
    title.push(sizes(count('+'), count('-')));
    Html::plain("h5", title)
}

/// `+10 −3`.
pub fn sizes(added: u64, removed: u64) -> Html {
    let side = |class: &str, sign: &str, lines: u64| match lines {
        0 => Html::default(),
        lines => Html::from([Html::classed("span", class, format!("{sign}{lines}")), " ".into()]),
    };
    [side("plus", "+", added), side("minus", "−", removed)].into()
}

/// What became of a file's content; nothing where there is no room for it.
fn content(file: &FileDiff) -> Option<Html> {
    let said = |text: String| Some(Html::classed("p", "note", text));
    match &file.content {
        Content::Same => said("Its content is as it was.".to_owned()),
        Content::Binary { old, new } => said(match (&file.was, &file.is) {
            (None, _) => format!("Not text, or very much of it: {}.", bytes(*new)),
            (_, None) => format!("Not text, or very much of it: it had {}.", bytes(*old)),
            _ => format!("Not text, or very much of it: {} → {}.", bytes(*old), bytes(*new)),
        }),
        Content::Text(hunks) => Some(text(hunks)),
        Content::Database(tables) => Some(tables.iter().map(table).collect()),
    }
}

fn text(hunks: &[Hunk]) -> Html {
    let (mut out, mut room) = (Html::default(), LINES);
    for hunk in hunks {
        let count =
            |side: char| hunk.lines.iter().filter(|(sign, _)| [' ', side].contains(sign)).count();
        let ((old, new), was, is) = (hunk.start, count('-'), count('+'));
        if room == 0 {
            break;
        }
        out.push(Html::classed("span", "at", format!("@@ -{old},{was} +{new},{is} @@\n")));
        let shown = &hunk.lines[..hunk.lines.len().min(room)];
        room -= shown.len();
        // Lines that go the same way are one piece.
        for piece in shown.chunk_by(|(one, _), (other, _)| one == other) {
            let lines = piece.iter().map(|(sign, line)| format!("{sign}{}\n", cut(line, LINE)));
            let lines: String = lines.collect();
            out.push(match piece[0].0 {
                '+' => Html::plain("ins", lines),
                '-' => Html::plain("del", lines),
                _ => lines.into(),
            });
        }
    }
    let diff = Html::classed("pre", "diff", out);
    let all: usize = hunks.iter().map(|hunk| hunk.lines.len()).sum();
    match all.saturating_sub(LINES) {
        0 => diff,
        more => {
            let more = plural(more as u64, "more line");
            [diff, Html::classed("p", "note", format!("… and {more}."))].into()
        }
    }
}

fn table(table: &TableDiff) -> Html {
    let (removed, added) = table.count;
    let name = Html::element("bdi", &[("class", "path")], cut(&table.name, LINE));
    let mut out = Html::classed("p", "table", [name, " ".into(), sizes(added, removed)]);
    if let Some((was, is)) = &table.schema {
        let side = |name, sign: &str, statement: &Option<String>| match statement {
            None => Html::default(),
            Some(statement) => {
                let lines = statement.lines().map(|line| format!("{sign}{}\n", cut(line, LINE)));
                Html::plain(name, lines.collect::<String>())
            }
        };
        out.push(Html::classed("pre", "diff", [side("del", "-", was), side("ins", "+", is)]));
    }
    let rows = &table.rows[..table.rows.len().min(ROWS)];
    if !rows.is_empty() {
        out.push(grid(table, rows));
    }
    let more = (removed + added).saturating_sub(rows.len() as u64);
    if more > 0 {
        out.push(Html::classed("p", "note", format!("… and {}.", plural(more, "more row"))));
    }
    out
}

fn grid(table: &TableDiff, rows: &[(char, Vec<String>)]) -> Html {
    let sign = Html::plain("th", Html::classed("span", "aside", "change"));
    let columns = table.columns.iter();
    let columns = columns.map(|name| Html::element("th", &[("scope", "col")], cut(name, VALUE)));
    let head = Html::plain("tr", [sign].into_iter().chain(columns).collect::<Html>());
    let rows = rows.iter().map(|(sign, values)| {
        let (class, word, shown) =
            if *sign == '+' { ("plus", "added", "+") } else { ("minus", "removed", "−") };
        let sign = Html::element("td", &[("class", "sign"), ("aria-label", word)], shown);
        let values = values.iter().map(|value| Html::plain("td", cut(value, VALUE)));
        Html::classed("tr", class, [sign].into_iter().chain(values).collect::<Html>())
    });
    let rows = Html::plain("tbody", rows.collect::<Html>());
    wide(&table.name, Html::classed("table", "rows", [Html::plain("thead", head), rows]))
}

/// Something that may be wider than the page, to be moved within its own frame, also by keys.
pub fn wide(label: &str, inside: Html) -> Html {
    let label = cut(label, VALUE);
    let attributes =
        [("class", "wide"), ("role", "region"), ("aria-label", &*label), ("tabindex", "0")];
    Html::element("div", &attributes, inside)
}

/// A text of at most so many characters.
pub fn cut(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        None => text.to_owned(),
        Some((end, _)) => {
            let more = text[end..].chars().count();
            format!("{}… ({})", &text[..end], plural(more as u64, "more character"))
        }
    }
}
