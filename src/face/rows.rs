//! Rows of an SQLite query as text.
//!
//! Owns how values look: NULL, numbers, blobs, text that holds tabs and newlines. Does not
//! know the query or where the text goes.

use std::io::{IsTerminal as _, Write};

use anyhow::Result;
use rusqlite::Statement;
use rusqlite::types::ValueRef;
use serde_json::{Map, Value, json};
use unicode_width::UnicodeWidthStr;

use crate::face::clean::{clean, json_line};

/// Bytes of a blob that are shown.
const BLOB_SHOWN: usize = 64;

/// How rows are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Columns side by side under their names, for a terminal.
    Aligned,
    /// Values parted by tabs.
    Tabs {
        /// Whether the first line names the columns.
        header: bool,
    },
    /// One JSON object a row.
    Json,
}

impl Layout {
    /// For scripts.
    pub const BARE: Self = Self::Tabs { header: false };

    /// For people, and for the programs that they pipe it to.
    pub fn readable() -> Self {
        if std::io::stdout().is_terminal() { Self::Aligned } else { Self::Tabs { header: true } }
    }
}

/// Run a statement whose values are bound, and write its rows.
pub fn show(statement: &mut Statement<'_>, layout: Layout, out: &mut impl Write) -> Result<()> {
    let names = names(statement);
    // A program gets values as they are, a terminal never.
    let seen = std::io::stdout().is_terminal();
    let text = |value: ValueRef<'_>| if seen { clean(&text(value)) } else { text(value) };
    let mut rows = statement.raw_query();
    let mut table = vec![names.iter().map(|name| (clean(&escaped(name)), false)).collect()];
    if layout == (Layout::Tabs { header: true }) && !names.is_empty() {
        let names: Vec<_> = names.iter().map(|name| escaped(name)).collect();
        writeln!(out, "{}", names.join("\t"))?;
    }
    while let Some(row) = rows.next()? {
        let values = (0..names.len()).map(|column| row.get_ref(column));
        let values = values.collect::<rusqlite::Result<Vec<_>>>()?;
        match layout {
            Layout::Aligned => table.push(values.into_iter().map(cell).collect()),
            Layout::Tabs { .. } => {
                let values: Vec<_> = values.into_iter().map(text).collect();
                writeln!(out, "{}", values.join("\t"))?;
            }
            Layout::Json => {
                let values = names.iter().cloned().zip(values.into_iter().map(value));
                writeln!(out, "{}", json_line(&values.collect::<Map<_, _>>())?)?;
            }
        }
    }
    if layout == Layout::Aligned && !names.is_empty() {
        align(table, out)?;
    }
    Ok(())
}

/// The columns' names, each once: as keys of an object a second one would hide the first.
fn names(statement: &Statement<'_>) -> Vec<String> {
    let names: Vec<_> = statement.column_names().collect();
    let unique = |(at, name): (usize, &&str)| match names[..at]
        .iter()
        .filter(|before| *before == name)
        .count()
    {
        0 => (*name).to_owned(),
        before => format!("{name}:{}", before + 1),
    };
    names.iter().enumerate().map(unique).collect()
}

/// A value for a terminal, and whether it is a number.
fn cell(value: ValueRef<'_>) -> (String, bool) {
    let number = matches!(value, ValueRef::Integer(_) | ValueRef::Real(_));
    (clean(&text(value)), number)
}

/// Rows of one length, the first of them the header.
fn align(mut table: Vec<Vec<(String, bool)>>, out: &mut impl Write) -> Result<()> {
    let widest = |column: usize| table.iter().map(|row| row[column].0.width()).max().unwrap_or(0);
    let widths: Vec<_> = (0..table[0].len()).map(widest).collect();
    table.insert(1, widths.iter().map(|width| ("-".repeat(*width), false)).collect());
    for row in table {
        let mut line = String::new();
        for ((cell, number), width) in row.into_iter().zip(&widths) {
            let space = " ".repeat(width - cell.width());
            line += &if number { format!("{space}{cell}  ") } else { format!("{cell}{space}  ") };
        }
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

/// A value within a line.
fn text(value: ValueRef<'_>) -> String {
    match value {
        ValueRef::Null => "NULL".to_owned(),
        ValueRef::Integer(number) => number.to_string(),
        ValueRef::Real(number) => format!("{number:?}"),
        ValueRef::Text(text) => escaped(&String::from_utf8_lossy(text)),
        ValueRef::Blob(bytes) => blob(bytes),
    }
}

fn escaped(text: &str) -> String {
    let text = text.replace('\\', "\\\\").replace('\t', "\\t");
    text.replace('\n', "\\n").replace('\r', "\\r")
}

/// A value in JSON.
fn value(value: ValueRef<'_>) -> Value {
    match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(number) => json!(number),
        ValueRef::Real(number) if number.is_finite() => json!(number),
        // JSON has no infinity.
        ValueRef::Real(number) => json!(number.to_string()),
        ValueRef::Text(text) => json!(String::from_utf8_lossy(text)),
        ValueRef::Blob(bytes) => json!(blob(bytes)),
    }
}

fn blob(bytes: &[u8]) -> String {
    let shown = &bytes[..bytes.len().min(BLOB_SHOWN)];
    let mut digits = String::new();
    for byte in shown {
        digits += &format!("{byte:02x}");
    }
    match bytes.len() - shown.len() {
        0 => format!("x'{digits}'"),
        _ => format!("x'{digits}…' ({} bytes)", bytes.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(layout: Layout, query: &str) -> String {
        let db = rusqlite::Connection::open_in_memory().unwrap();
        let mut out = Vec::new();
        show(&mut db.prepare(query).unwrap(), layout, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    const QUERY: &str = "SELECT 1 AS n, 'a' || char(9, 10, 92) || 'b' AS t, NULL AS no,
        1.0 AS r, x'00ff' AS b, 2 AS n";

    #[test]
    fn values_within_a_line() {
        let row = "1\ta\\t\\n\\\\b\tNULL\t1.0\tx'00ff'\t2\n";
        assert_eq!(shown(Layout::Tabs { header: false }, QUERY), row);
        let header = "n\tt\tno\tr\tb\tn:2\n";
        assert_eq!(shown(Layout::Tabs { header: true }, QUERY), format!("{header}{row}"));
    }

    #[test]
    fn values_in_json() {
        let expected = r#"{"n":1,"t":"a\t\n\\b","no":null,"r":1.0,"b":"x'00ff'","n:2":2}"#;
        assert_eq!(shown(Layout::Json, QUERY), format!("{expected}\n"));
        assert_eq!(shown(Layout::Json, "SELECT 9e999 AS x"), "{\"x\":\"inf\"}\n");
        assert_eq!(shown(Layout::Json, "SELECT 1 WHERE 0"), "");
    }

    #[test]
    fn columns_are_aligned_by_what_a_terminal_shows() {
        let query = "SELECT '日本' AS name, 7 AS pages UNION ALL \
                     SELECT 'a' || char(27) || '[31mb', 1234";
        let expected = "name  pages\n----  -----\n日本      7\nab     1234\n";
        assert_eq!(shown(Layout::Aligned, query), expected);
        assert_eq!(shown(Layout::Aligned, "SELECT 1 AS x WHERE 0"), "x\n-\n");
    }

    #[test]
    fn a_long_blob_is_cut() {
        let text = shown(Layout::Tabs { header: false }, "SELECT zeroblob(1000)");
        assert_eq!(text, format!("x'{}…' (1000 bytes)\n", "00".repeat(64)));
    }
}
