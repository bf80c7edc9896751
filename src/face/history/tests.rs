//! What answers about the history look like: made-up ones, with the exact texts expected at
//! several widths. Knows no host.

use crate::organs::history::ask::{Content, Favour, FileDiff, Hunk, TableDiff, Which};

use super::*;

fn screen(width: usize) -> Screen {
    Screen { terminal: width < 1000, width, colour: false }
}

fn coloured(width: usize) -> Screen {
    Screen { colour: true, ..screen(width) }
}

fn made(id: &str, who: &str, subject: &str) -> Logged {
    let when = "2026-11-21 10:36".to_owned();
    let (id, who, subject) = (id.to_owned(), who.to_owned(), subject.to_owned());
    Logged { id, when, who, subject, files: 2, added: 10, removed: 3, ..Logged::default() }
}

fn changes() -> Vec<Logged> {
    let first = made("1a2b3c4", "agent", "make a list of the books I own, and a way to add one");
    let second = made("2b3c4d5", "owner", "Changed outside of turns");
    let third = made("3c4d5e6", "channel:telegram", "say\u{1b}[2J hello");
    vec![
        Logged { cost: Some("0.0123 USD".to_owned()), ..first },
        Logged { files: 1, added: 0, removed: 0, ..second },
        Logged { tokens: Some("1200 in, 34 out".to_owned()), undone: true, ..third },
    ]
}

fn file(path: &str, was: &str, is: &str, content: Content) -> FileDiff {
    let kind = |kind: &str| Some(kind.to_owned()).filter(|kind| !kind.is_empty());
    FileDiff { path: path.to_owned(), was: kind(was), is: kind(is), content }
}

fn hunk(start: (u32, u32), lines: &[&str]) -> Hunk {
    let lines = lines.iter().map(|line| (line.chars().next().unwrap(), line[1..].to_owned()));
    Hunk { start, lines: lines.collect() }
}

fn lines_changed() -> FileDiff {
    let hunk = hunk(
        (3, 3),
        &[
            " import sys",
            "-print(\"one book\", sys.argv[1])",
            "+print(\"two books\", sys.argv[1])",
            "\u{20}\tend\u{1b}[1m",
            "-x\r",
            "+x",
        ],
    );
    file("bin/books", "file", "executable", Content::Text(vec![hunk]))
}

fn strings(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn everything_changed() -> Shown {
    let rows = vec![
        ('-', strings(&["1", "Dune", "1964"])),
        ('+', strings(&["1", "Dune\nMessiah", "1965"])),
        ('+', strings(&["12", "日本", "NULL"])),
    ];
    let made = |columns: &str| Some(format!("CREATE TABLE books ({columns})"));
    let columns = strings(&["id", "title", "year"]);
    let (books, by_year) = ("books".to_owned(), "by_year".to_owned());
    let index = Some("CREATE INDEX by_year\n  ON books (year)".to_owned());
    let tables = vec![
        TableDiff {
            name: books,
            schema: Some((made("id, title"), made("id, title, year"))),
            columns,
            rows,
            count: (1, 14),
        },
        TableDiff { name: by_year, schema: Some((None, index)), ..TableDiff::default() },
    ];
    let trailer = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    Shown {
        change: Some(Logged { turn: Some(("main".to_owned(), 3)), ..changes()[0].clone() }),
        body: "I wrote **bin/books**.\n\n--- a/x\n".to_owned(),
        trailers: vec![trailer("Session", "main"), trailer("Model", "anthropic:x")],
        files: vec![
            lines_changed(),
            file("books.db", "file", "file", Content::Database(tables)),
            file("cover.png", "file", "file", Content::Binary { old: 12_345, new: 5_400_000 }),
            file("new.png", "", "file", Content::Binary { old: 0, new: 17 }),
            file("notes", "file", "link", Content::Same),
            file("gone.txt", "file", "", Content::Text(vec![hunk((1, 0), &["-bye"])])),
            file("run", "executable", "file", Content::Same),
        ],
    }
}

#[test]
fn a_list_drops_columns_where_it_has_no_room() {
    for (width, expected) in [
        (
            40,
            "1a2b3c4  make a list of the books I own…\n\
             2b3c4d5  Changed outside of turns\n\
             3c4d5e6  (undone) say hello",
        ),
        (
            60,
            "1a2b3c4  agent             make a list of the books I own, …\n\
             2b3c4d5  owner             Changed outside of turns\n\
             3c4d5e6  channel:telegram  (undone) say hello",
        ),
        (
            80,
            "1a2b3c4  2026-11-21 10:36  agent             make a list of the books I own, an…\n\
             2b3c4d5  2026-11-21 10:36  owner             Changed outside of turns\n\
             3c4d5e6  2026-11-21 10:36  channel:telegram  (undone) say hello",
        ),
        (
            100_000,
            "1a2b3c4  2026-11-21 10:36  agent             make a list of the books I own, and a way to add one  2 files +10 -3  0.0123 USD\n\
             2b3c4d5  2026-11-21 10:36  owner             Changed outside of turns                              1 file\n\
             3c4d5e6  2026-11-21 10:36  channel:telegram  (undone) say hello                                    2 files +10 -3  1200 in, 34 out",
        ),
    ] {
        assert_eq!(list::changes(&changes(), screen(width)), expected, "{width}");
    }
    assert_eq!(
        list::changes(&changes(), coloured(40)),
        "\x1b[1m1a2b3c4\x1b[0m  make a list of the books I own…\n\
         \x1b[1m2b3c4d5\x1b[0m  Changed outside of turns\n\
         \x1b[2m3c4d5e6  (undone) say hello\x1b[0m"
    );
    assert_eq!(
        list::changes(&changes()[1..2], screen(80)),
        "2b3c4d5  2026-11-21 10:36  owner  Changed outside of turns  1 file"
    );
}

const FILES: &str = "\
bin/books: now executable
--- a/bin/books
+++ b/bin/books
@@ -3,4 +3,4 @@
 import sys
-print(\"one book\", sys.argv[1])
+print(\"two books\", sys.argv[1])
 \tend
-x␍
+x

books.db: database
  books: rows -1 +14
- CREATE TABLE books (id, title)
+ CREATE TABLE books (id, title, year)
  id  title         year
- 1   Dune          1964
+ 1   Dune Messiah  1965
+ 12  日本          NULL
  … and 12 rows more
  by_year
+ CREATE INDEX by_year
+   ON books (year)

cover.png: binary, 12 KB → 5.1 MB

new.png: new, binary, 17 bytes

notes: was a file, is a link now

gone.txt: removed
--- a/gone.txt
+++ /dev/null
@@ -1,1 +0,0 @@
-bye

run: no longer executable";

#[test]
fn a_change_is_shown_with_its_reasons_first() {
    for (width, head) in [
        (
            40,
            "1a2b3c4  2026-11-21 10:36  agent\n\
             session main, turn 3 · 2 files +10 -3 ·\n\
             0.0123 USD\n\
             Model: anthropic:x\n\n    \
                 make a list of the books I own, and\n    \
                 a way to add one\n\n    \
                 I wrote **bin/books**.\n\n    \
                 --- a/x",
        ),
        (
            80,
            "1a2b3c4  2026-11-21 10:36  agent\n\
             session main, turn 3 · 2 files +10 -3 · 0.0123 USD\n\
             Model: anthropic:x\n\n    \
                 make a list of the books I own, and a way to add one\n\n    \
                 I wrote **bin/books**.\n\n    \
                 --- a/x",
        ),
    ] {
        let shown = diff::shown(&everything_changed(), screen(width));
        assert_eq!(shown, format!("{head}\n\n{FILES}"), "{width}");
    }
    let files = Shown { change: None, ..everything_changed() };
    assert_eq!(diff::shown(&files, screen(60)), FILES);
    assert_eq!(diff::shown(&files, screen(100_000)), FILES);
    assert_eq!(diff::shown(&Shown::default(), screen(60)), "No file differs.");
}

#[test]
fn the_words_that_differ_stand_out() {
    // Too little is alike in the second pair.
    let second = &["-one thing", "+quite another matter"];
    let other = file("x", "file", "file", Content::Text(vec![hunk((1, 1), second)]));
    assert_eq!(
        diff::file(&lines_changed(), coloured(60)).lines().skip(3).collect::<Vec<_>>(),
        [
            "\x1b[2m@@ -3,4 +3,4 @@\x1b[0m",
            " import sys",
            "\x1b[31m-\x1b[0m\x1b[31mprint(\"\x1b[0m\x1b[7;31mone\x1b[0m\x1b[31m \x1b[0m\x1b[7;31mbook\x1b[0m\x1b[31m\", sys.argv[1])\x1b[0m",
            "\x1b[32m+\x1b[0m\x1b[32mprint(\"\x1b[0m\x1b[7;32mtwo\x1b[0m\x1b[32m \x1b[0m\x1b[7;32mbooks\x1b[0m\x1b[32m\", sys.argv[1])\x1b[0m",
            " \tend",
            "\x1b[31m-\x1b[0m\x1b[31mx\x1b[0m\x1b[7;31m␍\x1b[0m",
            "\x1b[32m+x\x1b[0m",
        ]
    );
    assert_eq!(
        diff::file(&other, coloured(60)).lines().skip(3).collect::<Vec<_>>(),
        ["\x1b[31m-one thing\x1b[0m", "\x1b[32m+quite another matter\x1b[0m",]
    );
}

fn taken_back() -> Undone {
    let pairs = |pairs: &[[&str; 2]]| {
        pairs.iter().map(|[one, other]| ((*one).to_owned(), (*other).to_owned())).collect()
    };
    Undone {
        said: String::new(),
        in_part: false,
        commit: Some("9f8e7d6".to_owned()),
        changes: changes()[..1].to_vec(),
        paths: pairs(&[["bin/books", "put back"], ["x", "removed"]]),
        left_alone: pairs(&[["big.iso", "larger than 50 MB"]]),
        conflicts: Vec::new(),
        commands: strings(&["curl -d @books https://example.org"]),
    }
}

#[test]
fn an_undo_tells_what_it_did_and_what_it_cannot() {
    let ask = |favour| Ask::Undo { what: Which::Turns(2), favour };
    assert_eq!(
        told::undone(&ask(None), &taken_back(), Look::slash(screen(60))),
        "Taken back by commit 9f8e7d6 (/redo reverses it).\n\n\
         1a2b3c4  2026-11-21 10:36  agent  make a list of the books …\n\n  \
           bin/books: put back\n  \
           x: removed\n\n\
         Look at these:\n  \
           big.iso: larger than 50 MB\n\n\
         What this cannot take back: anything these commands did\nelsewhere\n  \
           curl -d @books https://example.org"
    );
    let many = (1..=23).map(|number| (format!("f{number}"), "put back".to_owned())).collect();
    let many = Undone { commit: Some("a".to_owned()), paths: many, ..Undone::default() };
    let restored = Ask::Restore { rev: "b".to_owned(), paths: Vec::new() };
    let text = told::undone(&restored, &many, Look { screen: screen(80), prompt: "fledgling " });
    assert!(text.starts_with("Put back by commit a (fledgling undo a reverses it).\n\n  f1: put"));
    assert!(text.ends_with("\n  f20: put back\n  … and 3 more"), "{text}");
    let nothing = Undone::default();
    assert_eq!(
        told::undone(&ask(None), &nothing, Look::slash(screen(60))),
        "There was nothing to do."
    );
    let marked =
        Undone { commit: Some("a".to_owned()), conflicts: vec![lines_changed()], ..nothing };
    assert_eq!(
        told::undone(&ask(Some(Favour::Marks)), &marked, Look::slash(screen(80))),
        "Taken back by commit a (/redo reverses it).\n\n\
         Later changes were in the way in these files, look at them:\n  bin/books"
    );
}

#[test]
fn later_changes_in_the_way_are_shown_with_the_choices() {
    let hunk = hunk((1, 1), &["-now", "+before"]);
    let conflicts = vec![file("x", "file", "file", Content::Text(vec![hunk]))];
    let stuck = Undone { conflicts, ..Undone::default() };
    let look = Look { screen: screen(40), prompt: "fledgling " };
    let expected = |command: &str, comes: &str| {
        format!(
            "Nothing was done: later changes are in the way.\n\n\
             What is there now (-), and what would be\n{comes} (+):\n\n\
             --- a/x\n+++ b/x\n@@ -1,1 +1,1 @@\n-now\n+before\n\n\
             Choose:\n  \
               fledgling {command} --theirs\n    what is {comes} wins\n  \
               fledgling {command} --ours\n    what is there now stays\n  \
               fledgling {command} --marks\n    both stay in the file between marks,\n    for you to edit"
        )
    };
    let undo = |what| Ask::Undo { what, favour: None };
    for (ask, command, comes) in [
        (undo(Which::Turns(2)), "undo 2", "put back"),
        (undo(Which::Commit("a1".to_owned())), "undo a1", "put back"),
        (undo(Which::LastUndo), "redo", "put back"),
        (Ask::Merge { branch: "b".to_owned(), favour: None }, "merge b", "brought in"),
    ] {
        assert_eq!(told::undone(&ask, &stuck, look), expected(command, comes));
    }
}

#[test]
fn reasons_begin_with_the_words_that_asked() {
    let asked = strings(&["make a list of the books I own, and a way to add one", "quickly"]);
    let exchange = [("owner", "hi"), ("agent", "one\ntwo")];
    let first = Reason {
        change: changes()[0].clone(),
        lines: 3,
        asked,
        said: "I write it as a script, so that nothing has to be installed.".to_owned(),
        call: Some("write bin/books".to_owned()),
        exchange: exchange.map(|(who, what)| (who.to_owned(), what.to_owned())).into(),
    };
    let second = Reason { change: changes()[1].clone(), ..Reason::default() };
    assert_eq!(
        told::reasons(&[first, second], screen(40)),
        "> make a list of the books I own, and a\n\
         > way to add one\n\
         > quickly\n\
         agent  2026-11-21 10:36  1a2b3c4  3\n\
         lines\n\
         write bin/books\n    \
             I write it as a script, so that\n    \
             nothing has to be installed.\n\
         owner:\n    \
             hi\n\
         agent:\n    \
             one\n    \
             two\n\n  \
           Changed outside of turns\n\
         owner  2026-11-21 10:36  2b3c4d5"
    );
    assert_eq!(told::reasons(&[], screen(40)), "No change is known that made it so.");
}

#[test]
fn a_search_tells_what_it_found_and_what_it_could_not_try() {
    let mut found = Culprit {
        change: Some(changes()[0].clone()),
        skipped: changes()[1..].to_vec(),
        runs: 4,
        output: "FAIL  x\n".to_owned(),
    };
    assert_eq!(
        told::culprit(&found, false, screen(60)),
        "The first change with which it fails, found in 4 runs:\n\
         1a2b3c4  2026-11-21 10:36  agent  make a list of the books …\n\n\
         It may be one of these, which could not be tried:\n\
         2b3c4d5  owner             Changed outside of turns\n\
         3c4d5e6  channel:telegram  (undone) say hello\n\n\
         What the command said there:\n\
         FAIL  x"
    );
    found = Culprit { runs: 1, ..Culprit::default() };
    assert_eq!(
        told::culprit(&found, false, screen(60)),
        "No change was found with which it begins to fail (1 run)."
    );
}

#[test]
fn answers_are_read_from_what_the_host_sends() {
    let shown = |ask: Ask, answer: Value| text(&ask, &answer, Look::slash(screen(60))).unwrap();
    let log = Ask::Log { limit: 1, path: None };
    assert_eq!(shown(log.clone(), serde_json::json!([])), "No change yet.");
    let one = serde_json::to_value(&changes()[1..2]).unwrap();
    assert_eq!(shown(log, one), "2b3c4d5  2026-11-21 10:36  owner  Changed outside of turns");
    let backed = serde_json::json!({ "to": "/x\u{1b}[2J", "commit": "a1" });
    assert_eq!(shown(Ask::Backup { to: None }, backed), "Backed up to /x, up to commit a1.");
    let drop = Ask::Drop { branch: "b".to_owned() };
    let said = serde_json::json!({ "said": "Branch b\u{1b}[2J is given up." });
    assert_eq!(shown(drop, said), "Branch b is given up.");
}

/// Whatever an answer holds, nothing of it reaches a terminal's own language.
#[test]
fn nothing_hostile_is_shown() {
    let evil = |text: &str| text.replace('a', "a\u{1b}]0;x\u{7}\u{9b}2J\u{202e}");
    let shown = serde_json::to_string(&everything_changed()).unwrap();
    let shown: Shown =
        serde_json::from_value(hostile(serde_json::from_str(&shown).unwrap(), &evil)).unwrap();
    let undone = hostile(serde_json::to_value(taken_back()).unwrap(), &evil);
    let stuck = Undone { conflicts: shown.files.clone(), ..Undone::default() };
    let (screen, look) = (screen(60), Look::slash(screen(60)));
    let undo = Ask::Undo { what: Which::Commit(evil("a")), favour: None };
    let log: Vec<_> = shown.change.iter().cloned().collect();
    let reason = Reason {
        change: log[0].clone(),
        lines: 1,
        asked: vec![evil("a")],
        said: evil("a"),
        call: Some(evil("a")),
        exchange: vec![(evil("a"), evil("a"))],
    };
    let culprit = Culprit { change: None, skipped: log.clone(), runs: 1, output: evil("a") };
    for text in [
        list::changes(&log, screen),
        diff::shown(&shown, screen),
        told::undone(&undo, &serde_json::from_value(undone).unwrap(), look),
        told::undone(&undo, &stuck, look),
        told::reasons(&[reason], screen),
        told::culprit(&culprit, false, screen),
    ] {
        assert_eq!(clean(&text), text);
    }
}

/// The value with every text in it made worse.
fn hostile(value: Value, evil: &impl Fn(&str) -> String) -> Value {
    match value {
        // A sign is one character, and stays; so does the name of a variant.
        Value::String(text) if text.chars().count() > 1 && text != "same" => {
            Value::String(evil(&text))
        }
        Value::Array(list) => list.into_iter().map(|one| hostile(one, evil)).collect(),
        Value::Object(fields) => {
            fields.into_iter().map(|(name, one)| (name, hostile(one, evil))).collect()
        }
        other => other,
    }
}
