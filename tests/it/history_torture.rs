//! `kill -9` at random moments of turns, undos, redos and restores, and databases that are
//! written to all the while: nothing that was finished is lost, nothing is half done.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use serde_json::{Value, json};

use crate::home::{Home, Process};

const SEED: u64 = 7;
const KILLS: usize = 120;
const ACCOUNTS: &str = "CREATE TABLE one(id INTEGER PRIMARY KEY, sum INT);
    CREATE TABLE two(id INTEGER PRIMARY KEY, sum INT, note TEXT);
    INSERT INTO one VALUES (1, 100); INSERT INTO two VALUES (1, 0, '');";
const MOVE: &str = "BEGIN IMMEDIATE; UPDATE one SET sum = sum - 1;
    UPDATE two SET sum = sum + 1, note = hex(randomblob(2000)); COMMIT;";

/// A model that runs one command and is done, also when more is said to it meanwhile.
fn model(home: &Home, command: &str) -> String {
    let call = json!({"calls": [{"name": "bash", "input": {"command": command}}]});
    let done = json!({"text": "Done."});
    home.script(&[vec![call], vec![done; 40]].concat())
}

fn turn(home: &Home, command: &str) {
    let model = model(home, command);
    does(home, &["run", "--session", "s", "--model", &model, "go on"]);
}

fn does(home: &Home, arguments: &[&str]) {
    home.run(arguments).stdout_any().stderr_any().check();
}

fn head(home: &Home) -> String {
    home.git(&["rev-parse", "HEAD"]).trim().to_owned()
}

/// The workspace is what the newest commit says, and history what it was and more.
fn is_whole(home: &Home, before: &str, thoroughly: bool, said: &str) {
    home.git(&["merge-base", "--is-ancestor", before, "HEAD"]);
    assert_eq!(home.git(&["status", "--porcelain"]), "", "{said}");
    if thoroughly {
        home.git(&["fsck", "--strict", "--no-dangling"]);
    }
}

/// Kill it after a random time, that of a whole run at most. Whether it had come to its end.
fn cut_off<S: AsRef<std::ffi::OsStr>>(home: &Home, arguments: &[S], after: Duration) -> bool {
    let process = home.spawn(arguments);
    // No signal tells of the moments that are wanted: any will do.
    std::thread::sleep(after);
    process.kill_if_alive().status.success()
}

/// How long this takes when nobody is killed.
fn timed(act: impl FnOnce()) -> u64 {
    let begin = Instant::now();
    act();
    u64::try_from(begin.elapsed().as_micros()).expect("a short time")
}

#[test]
fn killed_turns_lose_nothing_that_was_finished() {
    let (home, mut random) = (Home::new(), fastrand::Rng::with_seed(SEED));
    turn(&home, "echo first > file");
    let once = timed(|| turn(&home, "echo second > file"));
    let mut whole = once;
    let mut finished = Vec::new();
    for round in 0..KILLS {
        let before = head(&home);
        let command =
            format!("for i in 1 2 3 4 5; do echo {round} > f{round}-$i; done; echo {round} > same");
        let script = model(&home, &command);
        let run = ["run", "--session", "s", "--model", &script, "go on"];
        let said = format!("round {round}");
        if cut_off(&home, &run, Duration::from_micros(random.u64(..whole * 5 / 4))) {
            finished.push(round);
            let file = format!("HEAD:f{round}-5");
            assert_eq!(home.git(&["show", &file]), format!("{round}\n"), "{said}");
            whole -= whole / 20;
        } else {
            // However busy the machine is by now, some finish and some do not.
            whole = (whole + whole / 20).min(once * 8);
        }
        if round % 4 == 0 {
            turn(&home, "true");
            is_whole(&home, &before, round % 20 == 0, &said);
        }
    }
    turn(&home, "true");
    is_whole(&home, "HEAD", true, "in the end");
    let listed = home.git(&["ls-tree", "--name-only", "HEAD"]);
    for round in &finished {
        assert!(listed.contains(&format!("\nf{round}-5\n")), "round {round} was lost");
    }
    assert!(!finished.is_empty() && finished.len() < KILLS, "{}", finished.len());
    let owners = home.git(&["log", "--author=owner@localhost", "--name-only", "--format="]);
    assert!(!owners.lines().any(|path| path.starts_with('f') || path == "same"), "{owners}");
}

#[test]
fn a_step_that_was_killed_is_taken_or_was_not_begun() {
    let (home, mut random) = (Home::new(), fastrand::Rng::with_seed(SEED));
    let many = |n: usize| {
        format!(
            "mkdir -p d e; for i in $(seq 60); do echo {n} $i > d/$i; done; echo {n} > e/{n}; rm -f e/{}; \
         ln -sfn {n} link; [ {n} = 1 ] || {{ rm -rf swap; mkdir swap; echo > swap/in; }}; \
         [ {n} = 2 ] || {{ rm -rf swap; echo > swap; }}",
            n.wrapping_sub(1)
        )
    };
    for number in 1..4 {
        turn(&home, &many(number));
    }
    let first = home.git(&["rev-parse", "HEAD~2"]).trim().to_owned();
    let whole = timed(|| does(&home, &["undo", "2"]));
    let (mut done, mut not) = (0, 0);
    for round in 0..KILLS {
        let before = head(&home);
        let tree = |rev: &str| home.git(&["rev-parse", &format!("{rev}^{{tree}}")]);
        let now = tree("HEAD");
        let command: &[&str] = match (random.u8(..3), now == tree(&first)) {
            (0, _) => &["restore", &first],
            (_, true) => &["redo"],
            (_, false) => &["undo", "HEAD"],
        };
        let said = format!("round {round}: {command:?}");
        cut_off(&home, command, Duration::from_micros(random.u64(..whole * 5 / 4)));
        let ends = head(&home) != before;
        // The next start finishes it, if there is anything to finish.
        does(
            &home,
            &["run", "--session", "s", "--model", &home.script(&[json!({"text": "."})]), "hi"],
        );
        is_whole(&home, &before, round % 10 == 0, &said);
        let made = home.git(&["log", "--format=%s", &format!("{before}..HEAD")]);
        assert!(made.lines().count() <= 1 && !made.contains("Edits outside"), "{said}: {made}");
        assert!(!ends || !made.is_empty(), "{said}");
        let stray = fs::read_dir(home.workspace("d")).expect("a folder");
        let stray = stray.filter(|item| {
            item.as_ref().expect("an item").file_name().to_string_lossy().ends_with(".tmp")
        });
        assert_eq!(stray.count(), 0, "{said}: a temporary file stayed");
        if made.is_empty() { not += 1 } else { done += 1 }
    }
    assert!(done > 0 && not > 0, "{done} {not}");
}

fn value(db: &Connection, query: &str) -> String {
    db.query_row(query, [], |row| row.get::<_, rusqlite::types::Value>(0))
        .map(|value| format!("{value:?}"))
        .expect("a value")
}

/// Every image of the database in history is sound, and none shows half of a move.
fn images_are_sound(home: &Home) -> usize {
    let commits = home.git(&["log", "--format=%H", "--", "a.db"]);
    let path = home.cwd().join("image.db");
    for commit in commits.lines() {
        let image = home.git_bytes(&["cat-file", "blob", &format!("{commit}:a.db")]);
        fs::write(&path, image).expect("an image");
        let db = Connection::open(&path).expect("an image");
        assert_eq!(value(&db, "PRAGMA integrity_check"), "Text(\"ok\")", "{commit}");
        assert_eq!(
            value(&db, "SELECT (SELECT sum FROM one) + (SELECT sum FROM two)"),
            "Integer(100)",
            "{commit}"
        );
    }
    commits.lines().count()
}

fn rows(path: &Path) -> Value {
    let db = Connection::open(path).expect("a database");
    db.busy_timeout(crate::BOUND).expect("a timeout");
    json!([
        value(&db, "SELECT sum FROM one"),
        value(&db, "SELECT sum FROM two"),
        value(&db, "SELECT note FROM two")
    ])
}

#[test]
fn a_database_in_use_is_recorded_and_put_back_whole() {
    for mode in ["WAL", "DELETE"] {
        let home = Home::new();
        turn(&home, "echo hello > file");
        let path = home.workspace("a.db");
        let db = Connection::open(&path).expect("a database");
        db.execute_batch(&format!("PRAGMA journal_mode = {mode}; {ACCOUNTS}")).expect("made");
        drop(db);
        turn(&home, "true");
        let writer = home.command(&["sql", "--bare", &path.display().to_string()]);
        let mut writer = Process::start(writer);
        let moves = MOVE.replace('\n', " ").repeat(30);
        for round in 0..8 {
            // It is at these while the history is.
            writer.send(format!("{moves} SELECT 'round {round} done';\n").as_bytes());
            turn(&home, &format!("echo {round} > file"));
            match round % 4 {
                1 => does(&home, &["undo", "--theirs"]),
                2 => does(&home, &["redo", "--theirs"]),
                3 => does(&home, &["restore", "HEAD~3", "a.db"]),
                _ => {}
            }
            writer.wait_stdout(&format!("round {round} done"));
        }
        let ran = writer.end();
        assert_eq!(ran.stderr, "", "{mode}: the writer was disturbed");
        turn(&home, "true");
        assert!(images_are_sound(&home) > 4, "{mode}");

        let before = rows(&path);
        let change = format!("fledgling sql --bare a.db \"{MOVE}\"");
        turn(&home, &change);
        let after = rows(&path);
        assert_ne!(before, after, "{mode}");
        for _ in 0..2 {
            does(&home, &["undo"]);
            assert_eq!(rows(&path), before, "{mode}");
            does(&home, &["redo"]);
            assert_eq!(rows(&path), after, "{mode}");
        }
        assert_eq!(home.git(&["log", "--format=", "--name-only"]).matches("a.db-").count(), 0);
        home.git(&["fsck", "--strict", "--no-dangling"]);
    }
}
