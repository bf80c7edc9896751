//! `fledgling sql`: an SQLite shell, whatever the machine lacks.
//!
//! Owns how statements are read, one at a time and each run before the next is looked at,
//! and how rows are shown. Rows are the answer and go to `out`; what else there is to say
//! (rows changed, file created) goes to standard error, so that scripts can take the answer
//! as it is. Does not know who asks: a person at a prompt, an agent's script or a pipe.

use std::ffi::CString;
use std::io::{self, BufRead, IsTerminal, Write};
use std::mem::take;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use rusqlite::fallible_iterator::FallibleIterator as _;
use rusqlite::{Batch, Connection, ErrorCode, Statement};

use crate::face::clean;
use crate::face::rows::{Layout, show};
use crate::face::turn_view::plural;

/// How long a statement waits for another writer.
const BUSY: Duration = Duration::from_secs(5);
const TABLES: &str = "SELECT name FROM sqlite_schema WHERE type IN ('table', 'view') \
    AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' AND (?1 = '' OR name LIKE ?1) ORDER BY name";
const SCHEMA: &str = "SELECT sql || ';' FROM sqlite_schema WHERE sql IS NOT NULL \
    AND (?1 = '' OR tbl_name LIKE ?1) ORDER BY tbl_name, type DESC, name";
const HELP: &str = "\
.tables [T]  list the tables
.schema [T]  how they were made
.quit        leave";
/// Columns of a statement that an error shows: enough to find it.
const STATEMENT_SHOWN: usize = 100;

/// Run `query`, or what comes on standard input, on the database `file`, which is created
/// where it is missing. The values are bound to `?1`, `?2` … of every statement. Bare rows
/// are for scripts: nothing is said of changes.
pub fn sql(
    file: &Path,
    query: Option<&str>,
    values: &[String],
    layout: Layout,
    out: &mut impl Write,
) -> Result<()> {
    let shown = file.display();
    let missing = !file.exists();
    let prompt = query.is_none() && io::stdin().is_terminal();
    let db = open(file)?;
    let mut notes: Box<dyn Write> =
        if layout == Layout::BARE { Box::new(io::sink()) } else { Box::new(io::stderr()) };
    let mut shell = Shell { db, values, layout, out, notes: &mut notes, prompt };
    let ran = match query {
        Some(query) => shell.run(query.as_bytes()),
        None => shell.run(io::stdin().lock()),
    };
    drop(shell);
    if missing && let Ok(found) = file.metadata() {
        let empty = if found.len() == 0 { ", which is empty" } else { "" };
        writeln!(notes, "{}", clean::clean(&format!("created {shown}{empty}"))).ok();
    }
    ran.with_context(|| format!("sql {shown}"))
}

fn open(file: &Path) -> Result<Connection> {
    let shown = file.display();
    if file.is_dir() {
        bail!("cannot open {shown}: it is a folder, not a database file");
    }
    if let Some(folder) = file.parent() {
        let made = std::fs::create_dir_all(folder);
        made.with_context(|| format!("cannot make {}, the folder of {shown}", folder.display()))?;
    }
    let db = Connection::open(file).with_context(|| format!("cannot open {shown}"))?;
    db.busy_timeout(BUSY)?;
    // The first look into the file; opening alone reads nothing.
    match db.query_row("PRAGMA schema_version", [], |_| Ok(())) {
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::NotADatabase) => {
            bail!("{shown} is not an SQLite database; name another file")
        }
        looked => looked.with_context(|| format!("cannot read {shown}"))?,
    }
    Ok(db)
}

/// A database, and where statements for it lead.
struct Shell<'a, O, N> {
    db: Connection,
    values: &'a [String],
    layout: Layout,
    out: &'a mut O,
    notes: &'a mut N,
    /// Whether somebody sits at a prompt: a mistake is told and the next line asked for.
    prompt: bool,
}

impl<O: Write, N: Write> Shell<'_, O, N> {
    /// Run everything that `input` holds: statements, each ended by a semicolon or by the
    /// end of input, and dot commands, each a line of its own between statements.
    fn run(&mut self, mut input: impl BufRead) -> Result<()> {
        let mut pending = String::new();
        loop {
            if self.prompt {
                let prompt = if pending.is_empty() { "sql> " } else { "...> " };
                write!(self.notes, "{prompt}")?;
                self.notes.flush()?;
            }
            let begun = pending.len();
            let ended = input.read_line(&mut pending).context("cannot read the statements")? == 0;
            let line = &pending[begun..];
            // To look at all that is pending is only worth it after a semicolon.
            let whole = ended || line.contains(';') && complete(&pending);
            let ran = match line.trim() {
                ".quit" if begun == 0 => return Ok(()),
                command if begun == 0 && command.starts_with('.') => {
                    self.command(take(&mut pending).trim())
                }
                _ if whole || pending.trim().is_empty() => self.statements(&take(&mut pending)),
                _ => Ok(()),
            };
            match ran {
                Err(error) if self.prompt => {
                    writeln!(self.notes, "error: {}", clean::clean(&format!("{error:#}")))?;
                }
                ran => ran?,
            }
            if ended {
                return Ok(());
            }
        }
    }

    fn command(&mut self, line: &str) -> Result<()> {
        let (command, pattern) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let query = match command {
            ".tables" => TABLES,
            ".schema" => SCHEMA,
            ".help" => return Ok(writeln!(self.out, "{HELP}")?),
            _ => bail!("unknown command {command}; .help lists them"),
        };
        let mut statement = self.db.prepare(query)?;
        let mut rows = statement.query([pattern.trim()])?;
        while let Some(row) = rows.next()? {
            writeln!(self.out, "{}", clean::clean(row.get_ref(0)?.as_str()?))?;
        }
        Ok(())
    }

    fn statements(&mut self, text: &str) -> Result<()> {
        let mut batch = Batch::new(&self.db, text);
        loop {
            let next = batch.next().map_err(|error| match error {
                rusqlite::Error::SqlInputError { msg, sql, offset, .. } => {
                    anyhow!("{msg}, at: {}", brief(sql.get(offset as usize..).unwrap_or(&sql)))
                }
                error => anyhow!("in {}: {error}", brief(text)),
            })?;
            let Some(mut statement) = next else { return Ok(()) };
            bind(&mut statement, self.values)?;
            let asked = statement.expanded_sql().map_or_else(String::new, |sql| brief(&sql));
            // Of what SQLite says only the words: the library adds its number for them.
            show(&mut statement, self.layout, self.out).map_err(|error| {
                match error.downcast::<rusqlite::Error>() {
                    Ok(error) => anyhow!("in {asked}: {error}"),
                    Err(error) => error,
                }
            })?;
            if changes_rows(&asked) {
                writeln!(self.notes, "{} changed", plural(self.db.changes(), "row"))?;
            }
        }
    }
}

/// Bind the values to the statement's parameters. None may be left without one: it would
/// be NULL without a word.
fn bind(statement: &mut Statement<'_>, values: &[String]) -> Result<()> {
    let wanted = statement.parameter_count();
    if wanted > values.len() {
        bail!("a statement takes {wanted} values; {} came with the query", values.len());
    }
    for (number, value) in (1..=wanted).zip(values) {
        statement.raw_bind_parameter(number, value)?;
    }
    Ok(())
}

/// Whether a statement is of the kind of which one wants to hear how many rows it changed.
fn changes_rows(statement: &str) -> bool {
    let first = statement.split(' ').next().unwrap_or_default().to_ascii_lowercase();
    matches!(first.as_str(), "insert" | "update" | "delete" | "replace")
}

/// A statement as an error names it.
fn brief(statement: &str) -> String {
    clean::line(statement, STATEMENT_SHOWN)
}

/// Whether the text ends with a whole statement: not within a string, a comment or a
/// trigger.
fn complete(text: &str) -> bool {
    let Ok(text) = CString::new(text) else { return true };
    // SAFETY: the pointer is to a string with an end, which outlives the call; the function
    // only looks at it.
    unsafe { rusqlite::ffi::sqlite3_complete(text.as_ptr()) != 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Ran {
        out: String,
        notes: String,
        result: Result<()>,
    }

    fn ran(file: &Path, layout: Layout, values: &[&str], prompt: bool, input: &str) -> Ran {
        let values: Vec<_> = values.iter().map(|value| (*value).to_owned()).collect();
        let (mut out, mut notes) = (Vec::new(), Vec::new());
        let db = open(file).unwrap();
        let mut shell =
            Shell { db, values: &values, layout, out: &mut out, notes: &mut notes, prompt };
        let result = shell.run(input.as_bytes());
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Ran { out: text(out), notes: text(notes), result }
    }

    const TABS: Layout = Layout::Tabs { header: true };

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }

    #[test]
    fn statements_are_run_one_by_one() {
        let folder = folder();
        let file = folder.path().join("a.db");
        let text = "CREATE TABLE t(a, b);
            INSERT INTO t VALUES (1, 'x;y'), (2.0, NULL), (3, 'two
.tables'); -- a comment; with a semicolon
            SELECT a, b FROM t; SELECT count(*) AS n FROM t;
            UPDATE t SET a = 0 WHERE a > 9; DELETE FROM t WHERE a = 1;
            CREATE TRIGGER g AFTER INSERT ON t BEGIN DELETE FROM t; SELECT 1; END;
.tables
.schema t
            SELECT 'no semicolon'";
        let Ran { out, notes, result } = ran(&file, TABS, &[], false, text);
        result.unwrap();
        let schema = "CREATE TRIGGER g AFTER INSERT ON t BEGIN DELETE FROM t; SELECT 1; END;
CREATE TABLE t(a, b);";
        assert_eq!(
            out,
            format!(
                "a\tb\n1\tx;y\n2.0\tNULL\n3\ttwo\\n.tables\nn\n3\nt\n{schema}\n\
                 'no semicolon'\nno semicolon\n"
            )
        );
        assert_eq!(notes, "3 rows changed\n0 rows changed\n1 row changed\n");
    }

    #[test]
    fn values_are_bound_and_none_may_be_missing() {
        let folder = folder();
        let file = folder.path().join("a.db");
        let text = "CREATE TABLE t(name, n INTEGER); INSERT INTO t VALUES (?1, ?2); SELECT * FROM t WHERE n < ?2 + 1";
        let done = ran(&file, Layout::BARE, &["Ender's \"Game\"; --", "324"], false, text);
        assert_eq!(done.out, "Ender's \"Game\"; --\t324\n");
        let failed = ran(&file, Layout::BARE, &["one"], false, "SELECT ?1, ?2");
        let error = format!("{:#}", failed.result.unwrap_err());
        assert_eq!(error, "a statement takes 2 values; 1 came with the query");
    }

    #[test]
    fn a_mistake_ends_a_script_and_not_a_prompt() {
        let folder = folder();
        let file = folder.path().join("a.db");
        let text = "SELECT 1;\nSELEC 2;\nSELECT 3;\n.tabels\n";
        let failed = ran(&file, TABS, &[], false, text);
        assert_eq!(failed.out, "1\n1\n");
        let error = format!("{:#}", failed.result.unwrap_err());
        assert_eq!(error, "near \"SELEC\": syntax error, at: SELEC 2;");
        let talked = ran(&file, TABS, &[], true, text);
        assert_eq!(talked.out, "1\n1\n3\n3\n");
        assert!(talked.result.is_ok());
        assert!(talked.notes.contains("sql> error: near \"SELEC\""), "{}", talked.notes);
        assert!(talked.notes.contains("unknown command .tabels; .help"), "{}", talked.notes);
    }

    #[test]
    fn a_failing_statement_is_named() {
        let folder = folder();
        let file = folder.path().join("a.db");
        let text =
            "CREATE TABLE t(a UNIQUE);\nINSERT INTO t VALUES (1);\nINSERT INTO t\n VALUES (1);";
        let error = format!("{:#}", ran(&file, TABS, &[], false, text).result.unwrap_err());
        assert!(error.starts_with("in INSERT INTO t VALUES (1);: UNIQUE constraint"), "{error}");
        let error =
            format!("{:#}", ran(&file, TABS, &[], false, "SELECT * FROM u").result.unwrap_err());
        assert_eq!(error, "in SELECT * FROM u: no such table: u");
    }

    #[test]
    fn files_that_cannot_be_databases_are_refused_by_name() {
        let folder = folder();
        let text = folder.path().join("notes.txt");
        std::fs::write(&text, "not a database, just some text of a certain length".repeat(9))
            .unwrap();
        let refused = |file: &Path| format!("{:#}", open(file).unwrap_err());
        assert!(refused(&text).ends_with("notes.txt is not an SQLite database; name another file"));
        assert!(refused(folder.path()).contains("it is a folder"));
        assert!(refused(&text.join("a.db")).contains("notes.txt, the folder of"));
    }

    #[test]
    fn a_missing_file_is_created_by_a_write_with_its_folder() {
        let folder = folder();
        let file = folder.path().join("data/new.db");
        let mut out = Vec::new();
        sql(&file, Some("CREATE TABLE t(a)"), &[], Layout::Json, &mut out).unwrap();
        assert!(file.metadata().unwrap().len() > 0 && out.is_empty());
    }
}
