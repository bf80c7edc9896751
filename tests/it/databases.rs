//! Images of databases, taken and put back by the program that a hand runs for it, while
//! others write.

use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use rusqlite::Connection;

use crate::home::{Home, Process};

/// Two accounts whose sum is always 100.
const ACCOUNTS: &str = "CREATE TABLE one(id INTEGER PRIMARY KEY, sum INT);
    CREATE TABLE two(id INTEGER PRIMARY KEY, sum INT, note TEXT);
    INSERT INTO one VALUES (1, 100); INSERT INTO two VALUES (1, 0, '');";
const MOVE: &str = "BEGIN IMMEDIATE; UPDATE one SET sum = sum - 1;
    UPDATE two SET sum = sum + 1, note = hex(randomblob(20000)); COMMIT;";
const MODES: [&str; 2] = ["WAL", "DELETE"];
/// What the program says by its exit code.
const LOCKED: i32 = 11;
const NO_DATABASE: i32 = 12;
const TOO_LARGE: i32 = 13;
const LIMIT: &str = "10000000";

fn make(path: &Path, mode: &str, statements: &str) -> Connection {
    let db = Connection::open(path).expect("a database");
    db.busy_timeout(crate::BOUND).expect("a timeout");
    db.execute_batch(&format!("PRAGMA journal_mode = {mode}; {statements}")).expect("made");
    db
}

fn child(home: &Home, path: &Path, limit: Option<&str>, input: &[u8]) -> Output {
    let mut command = home.command(&["image"]);
    command.args(limit.map(|limit| ["--limit", limit]).iter().flatten()).arg("--").arg(path);
    let file = home.cwd().join("../input");
    fs::write(&file, input).expect("an image");
    command.stdin(Stdio::from(fs::File::open(file).expect("an image")));
    command.output().expect("the program")
}

fn take(home: &Home, path: &str) -> Vec<u8> {
    let output = child(home, Path::new(path), Some(LIMIT), b"");
    assert!(output.status.success(), "{output:?}");
    output.stdout
}

#[track_caller]
fn put(home: &Home, image: &[u8], path: &str) {
    let output = child(home, Path::new(path), None, image);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(0), 0), "{output:?}");
}

/// A file of its own with the image, opened.
fn opened(home: &Home, image: &[u8]) -> Connection {
    let path = home.cwd().join("../opened.db");
    fs::write(&path, image).expect("an image");
    let db = Connection::open(path).expect("an image is a database");
    let found: String =
        db.query_row("PRAGMA integrity_check", [], |row| row.get(0)).expect("sound");
    assert_eq!(found, "ok");
    db
}

fn number(db: &Connection, query: &str) -> i64 {
    db.query_row(query, [], |row| row.get(0)).expect("a number")
}

fn mode(db: &Connection) -> String {
    db.query_row("PRAGMA journal_mode", [], |row| row.get::<_, String>(0))
        .expect("it")
        .to_uppercase()
}

#[test]
fn images_are_right_while_another_process_writes() {
    for mode in MODES {
        let home = Home::new();
        drop(make(&home.cwd().join("a.db"), mode, ACCOUNTS));
        let mut writer = Process::start(home.command(&["sql", "--bare", "a.db"]));
        let moves = MOVE.replace('\n', " ").repeat(20);
        let mut seen = std::collections::BTreeSet::new();
        for round in 0..60 {
            // It is at these while the image is taken.
            writer.send(format!("{moves} SELECT 'round {round} done';\n").as_bytes());
            let db = opened(&home, &take(&home, "a.db"));
            let sum = "SELECT (SELECT sum FROM one) + (SELECT sum FROM two)";
            assert_eq!(number(&db, sum), 100, "{mode}");
            seen.insert(number(&db, "SELECT sum FROM two") % 20);
            writer.wait_stdout(&format!("round {round} done"));
        }
        assert!(seen.len() > 1, "nothing was written meanwhile");
        writer.end();
    }
}

#[test]
fn what_is_put_back_is_the_same_also_under_a_live_writer() {
    for mode in MODES {
        let home = Home::new();
        let path = home.cwd().join("a.db");
        let live = make(&path, mode, ACCOUNTS);
        let first = take(&home, "a.db");
        assert_eq!(take(&home, "a.db"), first, "{mode}: twice the same");
        live.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").expect("a checkpoint");
        assert_eq!(take(&home, "a.db"), first, "{mode}: where it is kept is no difference");
        live.execute_batch(MOVE).expect("a write");
        live.execute_batch("CREATE TABLE more(x); DROP TABLE one;").expect("a write");
        let second = take(&home, "a.db");
        assert_ne!(second, first);

        put(&home, &first, "a.db");
        assert_eq!(take(&home, "a.db"), first, "{mode}");
        assert_eq!(number(&live, "SELECT sum FROM one"), 100, "the writer sees it");
        live.execute_batch(MOVE).expect("the writer goes on");
        assert_eq!(number(&opened(&home, &take(&home, "a.db")), "SELECT sum FROM two"), 1);
        put(&home, &second, "a.db");
        assert_eq!(take(&home, "a.db"), second, "{mode}");
        assert_eq!(number(&live, "SELECT count(*) FROM more"), 0);
        drop(live);
        assert_eq!(take(&home, "a.db"), second, "{mode}: closed");
        assert!(!home.cwd().join("a.db-wal").exists(), "nothing is left beside it");
    }
}

#[test]
fn a_database_that_is_gone_comes_back_whatever_lies_there() {
    for journal in MODES {
        let home = Home::new();
        let path = home.cwd().join("a.db");
        drop(make(&path, journal, ACCOUNTS));
        let image = take(&home, "a.db");
        let live = make(&path, journal, MOVE);
        // Another one's log, which must not become part of it.
        let log = fs::read(home.cwd().join("a.db-wal")).unwrap_or_default();
        drop(live);
        let back = || {
            put(&home, &image, "a.db");
            assert_eq!(take(&home, "a.db"), image, "{journal}");
            let db = Connection::open(&path).expect("a database");
            assert_eq!((mode(&db).as_str(), number(&db, "SELECT sum FROM one")), (journal, 100));
        };
        fs::remove_file(&path).expect("it is there");
        fs::write(home.cwd().join("a.db-wal"), &log).expect("a log");
        back();
        fs::write(&path, "").expect("a file");
        back();
        fs::write(&path, "just text").expect("a file");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("a mode");
        fs::write(home.cwd().join("a.db-wal"), &log).expect("a log");
        back();
        assert_eq!(path.metadata().expect("it is there").permissions().mode() & 0o777, 0o640);
        // It begins like a database, and is none.
        fs::write(&path, [&image[..16], &[7; 3000]].concat()).expect("a file");
        back();
    }
}

#[test]
fn modes_and_page_sizes_that_differ_are_brought_back_where_nobody_is_in_the_way() {
    let home = Home::new();
    let path = home.cwd().join("a.db");
    drop(make(&path, "DELETE", &format!("PRAGMA page_size = 1024; {ACCOUNTS}")));
    let small = take(&home, "a.db");
    for journal in MODES {
        fs::remove_file(&path).expect("it is there");
        let live = make(&path, journal, &format!("PRAGMA page_size = 8192; {ACCOUNTS}"));
        let large = take(&home, "a.db");
        if journal == "WAL" {
            // Without a log it is no trouble.
            let failed = child(&home, Path::new("a.db"), None, &small);
            let said = String::from_utf8_lossy(&failed.stderr).into_owned();
            assert!(said.contains("close it there"), "{said}");
            assert_eq!(take(&home, "a.db"), large, "nothing was changed");
            drop(live);
        }
        put(&home, &small, "a.db");
        assert_eq!(take(&home, "a.db"), small, "{journal}");
        put(&home, &large, "a.db");
        assert_eq!(take(&home, "a.db"), large, "{journal}");
    }
}

#[test]
fn what_cannot_be_taken_is_told_apart() {
    let home = Home::new();
    let code = |path: &str, limit| {
        let output = child(&home, Path::new(path), limit, b"");
        assert_eq!(output.stdout, b"", "no half of an image");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let live = make(&home.cwd().join("a.db"), "DELETE", ACCOUNTS);
    assert_eq!(code("a.db", Some("100")).0, Some(TOO_LARGE));
    live.execute_batch("BEGIN EXCLUSIVE").expect("a lock");
    live.busy_timeout(Duration::ZERO).expect("a timeout");
    assert_eq!(code("a.db", Some(LIMIT)).0, Some(LOCKED));
    live.execute_batch("COMMIT").expect("a lock");
    let image = take(&home, "a.db");

    symlink("a.db", home.cwd().join("link.db")).expect("a link");
    symlink(".", home.cwd().join("folder")).expect("a link");
    for link in ["link.db", "folder/a.db", "absent.db", "."] {
        let (failed, said) = code(link, Some(LIMIT));
        assert_eq!(failed, Some(1), "{link}: {said}");
    }
    for link in ["link.db", "folder/a.db"] {
        let output = child(&home, Path::new(link), None, &image);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
    }
    let cut = [&image[..100], &[0; 10]].concat();
    for text in [b"text".as_slice(), b"SQLite format 3\0", &image[..5000], &cut] {
        fs::write(home.cwd().join("text.db"), text).expect("a file");
        assert_eq!(code("text.db", Some(LIMIT)).0, Some(NO_DATABASE), "{}", text.len());
        let output = child(&home, Path::new("a.db"), None, text);
        assert_eq!(output.status.code(), Some(NO_DATABASE), "{output:?}");
        assert_eq!(take(&home, "a.db"), image, "nothing was changed");
    }
}

#[test]
fn a_name_is_only_a_name() {
    let home = Home::new();
    let raw = PathBuf::from(std::ffi::OsString::from_vec(b"caf\xe9\n'\"$(x).db".to_vec()));
    for name in [raw.as_path(), Path::new(":memory:"), Path::new("-x"), Path::new("file:y?mode=ro")]
    {
        drop(make(&home.cwd().join("made"), "WAL", ACCOUNTS));
        fs::rename(home.cwd().join("made"), home.cwd().join(name)).expect("a file");
        let output = child(&home, name, Some(LIMIT), b"");
        assert!(output.status.success(), "{output:?}");
        let back = child(&home, name, None, &output.stdout);
        assert!(back.status.success(), "{back:?}");
        assert_eq!(child(&home, name, Some(LIMIT), b"").stdout, output.stdout);
    }
}

#[test]
fn what_somebody_was_killed_over_is_rolled_back_first() {
    let home = Home::new();
    let path = home.cwd().join("a.db");
    drop(make(&path, "DELETE", ACCOUNTS));
    let image = take(&home, "a.db");
    let mut writer = Process::start(home.command(&["sql", "--bare", "a.db"]));
    // A cache this small has it write before it commits.
    writer.send(
        b"PRAGMA cache_size = 1; BEGIN; UPDATE one SET sum = 7;
        INSERT INTO two(note) WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n
        WHERE i < 999) SELECT hex(randomblob(500)) FROM n; SELECT 'written';\n",
    );
    writer.wait_stdout("written");
    assert!(home.cwd().join("a.db-journal").exists());
    writer.kill();
    assert_eq!(take(&home, "a.db"), image);
}
