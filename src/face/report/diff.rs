//! Files of a change on a page: text as a unified diff, databases as rows.
//!
//! Owns how much of it is told: what goes beyond is counted, and `show` has it. Does not know
//! whose change it is.

use crate::face::history::{became, bytes, words};
use crate::face::report::html::Html;
use crate::face::turn_view::plural;
use crate::organs::history::ask::{Content, FileDiff, Hunk, TableDiff};

/// Files of one change that are told.
const FILES: usize = 100;
/// Lines of one file.
const LINES: usize = 400;
/// Lines or rows of a file that are seen without unfolding it.
const OPEN: usize = 40;
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
        let block = fold(file, [Html::plain("summary", title(file)), inside].into());
        *room = room.saturating_sub(block.len());
        out.push(block);
    }
    let more = files.len().saturating_sub(FILES);
    if more > 0 {
        out.push(note(&format!("… and {}; ", plural(more as u64, "more file")), id, ""));
    }
    out
}

/// A file that is folded, unless it takes but a few lines.
fn fold(file: &FileDiff, inside: Html) -> Html {
    let long = match &file.content {
        Content::Text(hunks) => hunks.iter().map(|hunk| hunk.lines.len()).sum::<usize>() > OPEN,
        Content::Database(tables) => tables.iter().map(|one| one.rows.len()).sum::<usize>() > OPEN,
        Content::Same | Content::Binary { .. } => false,
    };
    let open = if long { None } else { Some(("open", "open")) };
    let attributes: Vec<_> = [("class", "file")].into_iter().chain(open).collect();
    Html::element("details", &attributes, inside)
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
    title.push(sizes(count('+'), count('-'), exact));
    Html::plain("h5", title)
}

/// A number as it is.
pub fn exact(number: u64) -> String {
    number.to_string()
}

/// `+10 −3`, with the numbers said like this.
pub fn sizes(added: u64, removed: u64, said: impl Fn(u64) -> String) -> Html {
    let side = |class: &str, sign: &str, lines: u64| match lines {
        0 => Html::default(),
        lines => {
            Html::from([Html::classed("span", class, format!("{sign}{}", said(lines))), " ".into()])
        }
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
        // Of a whole file there is nothing to say.
        if was > 0 && is > 0 {
            out.push(Html::classed("span", "at", format!("@@ -{old},{was} +{new},{is} @@\n")));
        }
        let shown = &hunk.lines[..hunk.lines.len().min(room)];
        room -= shown.len();
        out.push(lines(shown));
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

/// Lines, those that go the same way as one piece.
fn lines(lines: &[(char, String)]) -> Html {
    let mut out = Html::default();
    let mut pieces = lines.chunk_by(|(one, _), (other, _)| (*one == ' ') == (*other == ' '));
    for piece in &mut pieces {
        if piece[0].0 == ' ' {
            let lines = piece.iter().map(|(_, line)| {
                format!(
                    " {}
",
                    cut(line, LINE)
                )
                .into()
            });
            out.push(lines.collect::<Html>());
            continue;
        }
        let side = |side: char| {
            let side = piece.iter().filter(move |(sign, _)| *sign == side);
            side.map(|(_, line)| cut(line, LINE)).collect::<Vec<_>>()
        };
        let compared = words(&side('-'), &side('+'));
        for (name, side) in [("del", '-'), ("ins", '+')] {
            let lines = compared.iter().filter(|(sign, _)| *sign == side).map(|(sign, words)| {
                let words = words.iter().map(|(differs, text)| match differs {
                    true => Html::plain("b", text.as_str()),
                    false => text.as_str().into(),
                });
                let line: Html = words.collect();
                Html::from([sign.to_string().into(), line, "\n".into()])
            });
            let lines: Html = lines.collect();
            if lines != Html::default() {
                out.push(Html::plain(name, lines));
            }
        }
    }
    out
}

fn table(table: &TableDiff) -> Html {
    let (removed, added) = table.count;
    let name = Html::element("bdi", &[("class", "path")], cut(&table.name, LINE));
    let mut out = Html::classed("p", "table", [name, " ".into(), sizes(added, removed, exact)]);
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
        [("class", "wide"), ("role", "group"), ("aria-label", &*label), ("tabindex", "0")];
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
