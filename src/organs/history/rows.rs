//! What differs between two `SQLite` databases, as rows and statements.
//!
//! Owns the comparison. Both are images in memory, perhaps hostile ones: nothing in them is
//! run (no view, trigger, virtual table or generated column is asked), and work is limited.
//! Rows are read from both sides in the order of their keys and compared as they come, so
//! that a large table takes no more memory than a small one. Knows no files.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, ensure};
use rusqlite::config::DbConfig;
use rusqlite::types::{Value, ValueRef};
use rusqlite::{Connection, Rows, Statement};

use crate::organs::history::ask::TableDiff;
use crate::organs::history::image;

/// Instructions of `SQLite`'s machine between two looks at how many there were, and how
/// many looks until it is too much: some seconds.
const PACE: i32 = 10_000;
const LOOKS: u32 = 20_000;
/// How much is shown of a value: characters of a text, bytes of a blob.
const TEXT_SHOWN: usize = 200;
const BLOB_SHOWN: usize = 16;
/// Names by which a table's own row number may go, unless columns have them.
const ROWIDS: [&str; 3] = ["rowid", "_rowid_", "oid"];
/// What the names of tables end with in which virtual tables keep their content.
const SHADOWS: [&str; 11] = [
    "data", "idx", "content", "docsize", "config", "segments", "segdir", "stat", "node", "parent",
    "rowid",
];
const KINDS: [&str; 4] = ["table", "index", "view", "trigger"];
const SCHEMA: &str = "SELECT type, name, sql, rootpage FROM sqlite_schema \
    WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'";
const COLUMNS: &str = "SELECT name, upper(type) = 'INTEGER', pk FROM pragma_table_info(?1)";

/// Which of the kinds, and a name.
type Named = (usize, String);

/// What differs between two images, table by table; a missing one is an empty database.
/// At most so many rows of each table are listed.
pub fn compare(old: Option<&[u8]>, new: Option<&[u8]>, rows: usize) -> Result<Vec<TableDiff>> {
    let (old, new) = (Side::open(old)?, Side::open(new)?);
    let named: BTreeSet<&Named> = old.made.keys().chain(new.made.keys()).collect();
    let mut diffs = Vec::new();
    for key @ (_, name) in named {
        let (was, is) = (old.made.get(key), new.made.get(key));
        let schema = (was != is).then(|| (was.cloned(), is.cloned()));
        let mut diff = TableDiff { name: name.clone(), schema, ..TableDiff::default() };
        let (old, new) = (old.table(key)?, new.table(key)?);
        compare_rows(old.as_ref(), new.as_ref(), rows, &mut diff)?;
        if diff.schema.is_some() || diff.count != (0, 0) {
            diffs.push(diff);
        }
    }
    Ok(diffs)
}

/// One of the two databases.
struct Side {
    db: Connection,
    /// The statements that made what is there.
    made: BTreeMap<Named, String>,
    /// Those of them that have rows of their own.
    tables: BTreeSet<Named>,
    /// Whether texts come in the order in which they are compared here.
    utf8: bool,
    /// More content than this cannot honestly be in a table.
    bytes: u64,
}

impl Side {
    fn open(image: Option<&[u8]>) -> Result<Self> {
        let mut db = image.map_or_else(Connection::open_in_memory, image::open)?;
        db.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
        db.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
        let mut looks = 0;
        let too_much = move || {
            looks += 1;
            looks > LOOKS
        };
        db.progress_handler(PACE, Some(too_much))?;
        let encoding: String = db.query_row("PRAGMA encoding", [], |row| row.get(0))?;
        // A value may be asked for twice, as a key, and take more room as UTF-8.
        let bytes = image.map_or(0, <[u8]>::len) as u64 * 4;
        let (made, tables) = schema(&db)?;
        Ok(Self { db, made, tables, utf8: encoding == "UTF-8", bytes })
    }

    fn table(&self, key: &Named) -> Result<Option<Table<'_>>> {
        if !self.tables.contains(key) {
            return Ok(None);
        }
        let name = key.1.as_str();
        let mut statement = self.db.prepare(COLUMNS)?;
        let (mut columns, mut primary, mut number) = (Vec::new(), Vec::new(), false);
        let mut rows = statement.query([name])?;
        while let Some(row) = rows.next()? {
            let (column, integer, place): (String, bool, u32) =
                (row.get(0)?, row.get(1)?, row.get(2)?);
            if place > 0 {
                primary.push((place, column.clone()));
                number = integer && primary.len() == 1;
            }
            columns.push(column);
        }
        primary.sort();
        let primary = primary.into_iter().map(|(_, name)| name).collect();
        let free = |rowid: &&str| !columns.iter().any(|name| name.eq_ignore_ascii_case(rowid));
        let rowid = ROWIDS.into_iter().find(free).filter(|rowid| {
            self.db.prepare(&format!("SELECT {rowid} FROM {}", quoted(name))).is_ok()
        });
        let name = name.to_owned();
        Ok(Some(Table { side: self, name, columns, rowid, primary, number }))
    }
}

/// What there is, but what virtual tables keep their content in, and the tables in it.
fn schema(db: &Connection) -> Result<(BTreeMap<Named, String>, BTreeSet<Named>)> {
    let (mut made, mut tables, mut virtuals) = (BTreeMap::new(), BTreeSet::new(), Vec::new());
    let mut statement = db.prepare(SCHEMA)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (kind, name): (String, String) = (row.get(0)?, row.get(1)?);
        let Some(kind) = KINDS.iter().position(|known| *known == kind) else { continue };
        match (kind, row.get::<_, i64>(3)?) {
            (0, 0) => virtuals.push(name.clone()),
            (0, _) => _ = tables.insert((kind, name.clone())),
            _ => {}
        }
        made.insert((kind, name), row.get(2)?);
    }
    for name in virtuals {
        for shadow in SHADOWS.map(|end| (0, format!("{name}_{end}"))) {
            tables.remove(&shadow);
            made.remove(&shadow);
        }
    }
    Ok((made, tables))
}

/// A table of one of them.
struct Table<'a> {
    side: &'a Side,
    name: String,
    columns: Vec<String>,
    /// The name of the number that each row has, if it has one.
    rowid: Option<&'static str>,
    /// The columns of the primary key.
    primary: Vec<String>,
    /// Whether that is the number of the row.
    number: bool,
}

impl Table<'_> {
    fn has(&self, column: &str) -> bool {
        self.columns.iter().any(|name| name.eq_ignore_ascii_case(column))
    }

    /// Its rows in the order of the key, which is the number of the row unless columns are
    /// named: each the key, then the columns.
    fn prepare(&self, key: Option<&[String]>, columns: &[String]) -> Result<Statement<'_>> {
        let quote = |names: &[String]| names.iter().map(|name| quoted(name)).collect::<Vec<_>>();
        let key = key.map_or_else(|| self.rowid.iter().map(ToString::to_string).collect(), quote);
        let order: Vec<_> = key.iter().map(|name| format!("{name} COLLATE BINARY")).collect();
        let wanted = [key, quote(columns)].concat().join(", ");
        let (name, order) = (quoted(&self.name), order.join(", "));
        Ok(self.side.db.prepare(&format!("SELECT {wanted} FROM {name} ORDER BY {order}"))?)
    }
}

/// Compare the columns that both versions have.
fn compare_rows(
    old: Option<&Table<'_>>,
    new: Option<&Table<'_>>,
    limit: usize,
    diff: &mut TableDiff,
) -> Result<()> {
    let Some(last) = new.or(old) else { return Ok(()) };
    let all = |test: &dyn Fn(&Table<'_>) -> bool| [old, new].into_iter().flatten().all(test);
    let mut shared = last.columns.clone();
    shared.retain(|name| all(&|table| table.has(name)));
    // Where the versions do not agree on what tells rows apart, everything does.
    let key = if all(&|table| table.rowid.is_some()) {
        None
    } else if all(&|table| table.rowid.is_none() && table.primary == last.primary) {
        Some(last.primary.as_slice())
    } else {
        Some(shared.as_slice())
    };
    if key.is_some_and(<[_]>::is_empty) {
        return Ok(());
    }
    let ordered = key.is_none() || all(&|table| table.side.utf8);
    ensure!(ordered, "the texts of table {} are in UTF-16 and in another order", last.name);
    let width = key.map_or(1, <[_]>::len);
    // The number of a row is only shown where no column shows it.
    let number = key.is_none() && !all(&|table| table.number);
    let hidden = if number { 0 } else { width };
    diff.columns = number.then(|| "rowid".to_owned()).into_iter().chain(shared.clone()).collect();

    let mut old_statement = old.map(|table| table.prepare(key, &shared)).transpose()?;
    let mut new_statement = new.map(|table| table.prepare(key, &shared)).transpose()?;
    let was = Lines::of(old_statement.as_mut(), old)?;
    let is = Lines::of(new_statement.as_mut(), new)?;
    merge(was, is, width, |sign, row| {
        *(if sign == '-' { &mut diff.count.0 } else { &mut diff.count.1 }) += 1;
        if diff.rows.len() < limit {
            diff.rows.push((sign, row[hidden..].iter().map(shown).collect()));
        }
    })
}

/// Tell of each row that is not on both sides. The keys are the first `width` values.
fn merge(
    mut old: Lines<'_>,
    mut new: Lines<'_>,
    width: usize,
    mut tell: impl FnMut(char, &[Value]),
) -> Result<()> {
    let (mut was, mut is) = (old.next()?, new.next()?);
    loop {
        let order = match (&was, &is) {
            (None, None) => return Ok(()),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(was), Some(is)) => order(&was[..width], &is[..width]),
        };
        let changed = was != is;
        if let Some(row) = was.as_ref().filter(|_| changed && order.is_le()) {
            tell('-', row);
        }
        if let Some(row) = is.as_ref().filter(|_| changed && order.is_ge()) {
            tell('+', row);
        }
        if order.is_le() {
            was = old.next()?;
        }
        if order.is_ge() {
            is = new.next()?;
        }
    }
}

/// The rows of one side, if it has any.
struct Lines<'a> {
    rows: Option<Rows<'a>>,
    width: usize,
    /// Bytes it may still have.
    bytes: u64,
}

impl<'a> Lines<'a> {
    fn of(statement: Option<&'a mut Statement<'_>>, table: Option<&Table<'_>>) -> Result<Self> {
        let width = statement.as_ref().map_or(0, |statement| statement.column_count());
        let rows = statement.map(|statement| statement.query([])).transpose()?;
        Ok(Self { rows, width, bytes: table.map_or(0, |table| table.side.bytes) })
    }

    fn next(&mut self) -> Result<Option<Vec<Value>>> {
        let Some(rows) = &mut self.rows else { return Ok(None) };
        let Some(row) = rows.next()? else { return Ok(None) };
        let mut values = Vec::with_capacity(self.width);
        for column in 0..self.width {
            let value = match row.get_ref(column)? {
                // What calls itself text and is none is as good as a blob.
                ValueRef::Text(bytes) => String::from_utf8(bytes.to_vec())
                    .map_or_else(|error| Value::Blob(error.into_bytes()), Value::Text),
                value => value.try_into()?,
            };
            let bytes = match &value {
                Value::Text(text) => text.len() as u64,
                Value::Blob(bytes) => bytes.len() as u64,
                _ => 0,
            };
            ensure!(bytes <= self.bytes, "the database is damaged: it has content twice");
            self.bytes -= bytes;
            values.push(value);
        }
        Ok(Some(values))
    }
}

/// The order in which `SQLite` sorts keys.
fn order(one: &[Value], other: &[Value]) -> Ordering {
    let rank = |value: &Value| match value {
        Value::Null => 0,
        Value::Integer(_) | Value::Real(_) => 1,
        Value::Text(_) => 2,
        Value::Blob(_) => 3,
    };
    let orders = one.iter().zip(other).map(|pair| match pair {
        (Value::Integer(one), Value::Integer(other)) => one.cmp(other),
        (Value::Integer(one), Value::Real(other)) => (*one as f64).total_cmp(other),
        (Value::Real(one), Value::Integer(other)) => one.total_cmp(&(*other as f64)),
        (Value::Real(one), Value::Real(other)) => one.total_cmp(other),
        (Value::Text(one), Value::Text(other)) => one.cmp(other),
        (Value::Blob(one), Value::Blob(other)) => one.cmp(other),
        (one, other) => rank(one).cmp(&rank(other)),
    });
    orders.reduce(Ordering::then).unwrap_or(Ordering::Equal)
}

/// A value for people.
fn shown(value: &Value) -> String {
    match value {
        Value::Null => "NULL".to_owned(),
        Value::Integer(number) => number.to_string(),
        Value::Real(number) => format!("{number:?}"),
        Value::Text(text) => match text.char_indices().nth(TEXT_SHOWN) {
            Some((end, _)) => format!("{}…", &text[..end]),
            None => text.clone(),
        },
        Value::Blob(bytes) => {
            let shown = bytes.iter().take(BLOB_SHOWN).map(|byte| format!("{byte:02x}"));
            let more = if bytes.len() > BLOB_SHOWN { "…" } else { "" };
            format!("x'{}{more}'", shown.collect::<String>())
        }
    }
}

/// A name as it stands in a statement.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The image of a database that these statements make.
    fn made(statements: &str) -> Vec<u8> {
        let mut db = Connection::open_in_memory().unwrap();
        db.execute_batch(statements).unwrap();
        db.serialize("main").unwrap().to_vec()
    }

    fn diffs(old: &str, new: &str) -> Vec<TableDiff> {
        compare(Some(&made(old)), Some(&made(new)), 10).unwrap()
    }

    /// The rows of the one table that differs, a line each.
    #[track_caller]
    fn rows(old: &str, new: &str) -> String {
        let diffs = diffs(old, new);
        let [diff] = diffs.as_slice() else { panic!("{diffs:?}") };
        let line = |(sign, row): &(char, Vec<String>)| format!("{sign}{}\n", row.join("|"));
        diff.columns.join("|") + "\n" + &diff.rows.iter().map(line).collect::<String>()
    }

    const NOTES: &str = "CREATE TABLE notes(id INTEGER PRIMARY KEY, text TEXT, extra);
        INSERT INTO notes VALUES (1, 'one', NULL), (2, 'two', x'00ff'), (3, 'three', 1);";

    #[test]
    fn a_changed_row_is_there_twice_side_by_side() {
        let new = format!(
            "{NOTES} UPDATE notes SET text = 'zwei' WHERE id = 2; DELETE FROM notes WHERE id = 1;
            INSERT INTO notes VALUES (9, 'nine', 0.5); UPDATE notes SET extra = 1.0 WHERE id = 3"
        );
        let expected = "id|text|extra\n-1|one|NULL\n-2|two|x'00ff'\n+2|zwei|x'00ff'\n\
            -3|three|1\n+3|three|1.0\n+9|nine|0.5\n";
        assert_eq!(rows(NOTES, &new), expected);
        assert_eq!(diffs(NOTES, NOTES), []);
        assert_eq!(diffs(&new, NOTES)[0].count, (3, 3));
    }

    #[test]
    fn few_are_listed_and_all_are_counted() {
        let many = format!(
            "{NOTES} INSERT INTO notes(id) WITH RECURSIVE n(i) AS
            (SELECT 10 UNION ALL SELECT i + 1 FROM n WHERE i < 999) SELECT i FROM n;"
        );
        let all = compare(Some(&made(&many)), Some(&made(NOTES)), 7).unwrap();
        assert_eq!((all[0].rows.len(), all[0].count), (7, (990, 0)));
    }

    #[test]
    fn a_database_that_comes_or_goes_is_shown_whole() {
        let image = made(NOTES);
        let come = compare(None, Some(&image), 10).unwrap();
        assert_eq!(come[0].count, (0, 3));
        assert!(matches!(&come[0].schema, Some((None, Some(sql))) if sql.contains("notes")));
        let gone = compare(Some(&image), None, 10).unwrap();
        assert_eq!(gone[0].count, (3, 0));
        assert_eq!(compare(None, None, 10).unwrap(), []);
    }

    #[test]
    fn rows_without_a_column_that_numbers_them_are_shown_with_their_number() {
        let table = "CREATE TABLE t(a); INSERT INTO t VALUES ('x'), ('x'), ('y');";
        let new = format!("{table} DELETE FROM t WHERE rowid = 2");
        assert_eq!(rows(table, &new), "rowid|a\n-2|x\n");
        let table = "CREATE TABLE t(rowid); INSERT INTO t VALUES ('x'), ('x'), ('y');";
        let new = format!("{table} DELETE FROM t WHERE oid = 2");
        assert_eq!(rows(table, &new), "rowid|rowid\n-2|x\n");
    }

    #[test]
    fn tables_without_numbers_go_by_their_key() {
        let table = "CREATE TABLE t(v, b COLLATE NOCASE, a, PRIMARY KEY(a, b)) WITHOUT ROWID;
            INSERT INTO t VALUES (1, 'x', 2), (2, 'Y', 1), (3, 'z', 1.5), (4, '', x'00');";
        let new = format!("{table} UPDATE t SET v = 9 WHERE a = 1; DELETE FROM t WHERE a = 2;");
        assert_eq!(rows(table, &new), "v|b|a\n-2|Y|1\n+9|Y|1\n-1|x|2\n");
        let new = format!("{table} UPDATE t SET b = 'y' WHERE a = 1;");
        assert_eq!(rows(table, &new), "v|b|a\n-2|Y|1\n+2|y|1\n");
        let wide = format!("PRAGMA encoding = 'UTF-16le'; {table}");
        assert!(compare(Some(&made(&wide)), Some(&made(table)), 10).is_err());
        assert_eq!(diffs(NOTES, &format!("PRAGMA encoding = 'UTF-16le'; {NOTES}")), []);
    }

    #[test]
    fn of_tables_that_got_other_columns_the_same_ones_are_compared() {
        let new = format!(
            "{NOTES} ALTER TABLE notes ADD COLUMN done DEFAULT 0; UPDATE notes SET text = 'x'
            WHERE id = 3; CREATE INDEX by_text ON notes(text); CREATE VIEW v AS SELECT 1"
        );
        let found = diffs(NOTES, &new);
        let names: Vec<_> = found.iter().map(|diff| diff.name.as_str()).collect();
        assert_eq!(names, ["notes", "by_text", "v"]);
        assert_eq!(found[0].columns, ["id", "text", "extra"]);
        assert_eq!(found[0].count, (1, 1));
        let (was, is) = found[0].schema.clone().unwrap();
        assert!(!was.unwrap().contains("done") && is.unwrap().contains("done"));
        // And where rows are told apart by something else than before.
        let keyed = NOTES.replace("INTEGER PRIMARY KEY", "TEXT PRIMARY KEY");
        let bare = keyed.replacen(';', " WITHOUT ROWID;", 1);
        assert_eq!(diffs(&keyed, &bare)[0].count, (0, 0));
    }

    #[test]
    fn odd_names_and_long_values_are_no_trouble() {
        let table = "CREATE TABLE \"a \"\"b'; --\"(\"c \"\"d\" PRIMARY KEY, \"select\");";
        let long = "é".repeat(TEXT_SHOWN + 1);
        let insert = format!("INSERT INTO \"a \"\"b'; --\" VALUES ('{long}', zeroblob(40))");
        let (text, blob) = ("é".repeat(TEXT_SHOWN), "00".repeat(BLOB_SHOWN));
        let expected = format!("rowid|c \"d|select\n+1|{text}…|x'{blob}…'\n");
        assert_eq!(rows(table, &format!("{table} {insert}")), expected);
        let table = "CREATE TABLE t(a);";
        let new = format!("{table} INSERT INTO t VALUES (CAST(x'ff41' AS TEXT))");
        assert_eq!(rows(table, &new), "rowid|a\n+1|x'ff41'\n");
    }

    #[test]
    fn what_would_run_something_is_left_out() {
        let table = "CREATE VIRTUAL TABLE docs USING fts5(text);
            CREATE TABLE t(a, b AS (a || 'x'));
            CREATE VIEW v AS SELECT * FROM docs;";
        let new = format!(
            "{table} INSERT INTO docs VALUES ('hello'); INSERT INTO t VALUES (1);
            CREATE TRIGGER g AFTER INSERT ON t BEGIN DELETE FROM t; END;"
        );
        let found = diffs(table, &new);
        let names: Vec<_> = found.iter().map(|diff| diff.name.as_str()).collect();
        assert_eq!(names, ["t", "g"]);
        assert_eq!(found[0].columns, ["rowid", "a"]);
    }

    #[test]
    fn damaged_images_are_errors() {
        let whole = made(NOTES);
        assert!(compare(Some(b"SQLite format 3\0"), Some(&whole), 10).is_err());
        assert!(compare(Some(&whole[..50]), Some(&whole), 10).is_err());
        for step in (100..whole.len()).step_by(7) {
            let mut damaged = whole.clone();
            damaged[step] ^= 0xff;
            // Whatever it says: it comes back.
            let _ = compare(Some(&whole), Some(&damaged), 10);
        }
    }
}
