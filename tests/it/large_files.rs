//! The shipped skill for files that are larger than a context, with the real program: a file of
//! 20 MB is cut, asked about piece by piece, killed in the middle, and gone on with.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufWriter, Write as _};

use serde_json::json;

use crate::home::Home;
use crate::model_server::Server;
use crate::reply::{Gate, Reply};

const PIECES: &str = "bash skills/large-files/pieces";
/// Bytes of a piece: a good hundred thousand tokens, so that a test does not take for ever.
const SIZE: usize = 500_000;

/// A home with a file of 20 MB.
fn home(server: &Server) -> Home {
    let home = Home::new().with_anthropic(server);
    home.run(&["init"]).stdout_any().stderr_any().check();
    let mut file = BufWriter::new(File::create(home.workspace("log.txt")).expect("a file"));
    for line in 0..250_000 {
        let what = if line == 100_000 { "NEEDLE ☃ in its stack" } else { "hay and straw, hay" };
        writeln!(file, "{line:07} {what} {:x>60}", line % 7).expect("it is written");
    }
    file.flush().expect("it is written");
    home
}

/// What this prints as a call of the agent's.
#[track_caller]
fn bash(server: &Server, home: &Home, command: &str) -> String {
    server.queue(Reply::new().call("bash", json!({"command": command, "timeout": 600})));
    server.queue(Reply::text("Done."));
    home.run(&["run", "--session", "main", "go on"]).stdout("Done.\n").stderr_any().check();
    server.wait(0).pop().expect("a request").results().pop().expect("a result")
}

/// The numbers of the pieces that were asked about.
fn asked_about(server: &Server, from: usize) -> Vec<u32> {
    let pieces = server.wait(0).into_iter().skip(from).filter_map(|asked| {
        let heard = asked.heard();
        let number = heard.split("Piece ").nth(1)?.split(' ').next()?.parse().ok()?;
        heard.contains("Answer from this piece alone").then_some(number)
    });
    pieces.collect()
}

#[test]
fn a_large_file_is_asked_about_piece_by_piece_whatever_ends_it() {
    let server = Server::start().serves_several();
    let home = home(&server);
    let total = fs::metadata(home.workspace("log.txt")).expect("a file").len();
    assert!(total > 20_000_000, "{total}");
    let planned = bash(&server, &home, &format!("{PIECES} plan data.db log.txt {SIZE}"));
    // Each goes on to the end of its last line.
    let count: usize =
        planned.split(' ').next().and_then(|count| count.parse().ok()).expect("a count");
    assert!((total as usize / SIZE..=total as usize / SIZE + 1).contains(&count), "{planned}");
    // The pieces are the file, cut at ends of lines.
    let all = format!(
        "for n in $(seq {count}); do {PIECES} show data.db $n; done | cmp - log.txt && \
        {PIECES} show data.db 2 | head -c 7; fledgling sql --bare data.db 'SELECT line FROM piece WHERE n = 2'"
    );
    let shown = bash(&server, &home, &all);
    let line = &shown[..7].parse::<u32>().expect("a number");
    assert_eq!(shown[7..].trim(), format!("{}", line + 1), "{shown}");

    // Killed in the middle: three under way, some answered.
    let before = server.wait(0).len();
    let gates = [Gate::new(), Gate::new()];
    let map = format!("{PIECES} map data.db -j 2 \"Where is the needle?\"");
    server.queue(Reply::new().call("bash", json!({"command": map, "timeout": 600})));
    (0..6).for_each(|_| _ = server.queue(Reply::text("NOTHING")));
    for gate in &gates {
        server.queue(Reply::new().wait(gate).and("too late"));
    }
    let running = home.spawn(&["run", "--session", "main", "ask them all"]);
    gates.iter().for_each(Gate::reached);
    running.kill();
    gates.iter().for_each(Gate::open);
    let first: BTreeSet<_> = asked_about(&server, before).into_iter().collect();
    assert_eq!(first.len(), 8, "{first:?}");

    // One piece fails; then everything is there that was not answered.
    let before = server.wait(0).len();
    server.queue(Reply::new().call(
        "bash",
        json!({"command": format!("{PIECES} map data.db -j 1 -n 1"), "timeout": 600}),
    ));
    server.queue(Reply::error(400, "invalid_request_error", "not today"));
    server.queue(Reply::text("Done."));
    home.run(&["run", "--session", "main", "one"]).stdout("Done.\n").stderr_any().check();
    let failed = asked_about(&server, before);
    let status = server.wait(0).pop().expect("a request").results().pop().expect("a result");
    assert!(
        status.contains(&format!("6 of {count} done, {} open, 1 failed", count - 7)),
        "{status}"
    );
    assert!(
        status.contains(&format!("piece {} failed: ", failed[0])) && status.contains("not today"),
        "{status}"
    );

    let before = server.wait(0).len();
    let map = format!("{PIECES} map data.db -j 3 -r");
    server.queue(Reply::new().call("bash", json!({"command": map, "timeout": 600})));
    (0..count - 6)
        .for_each(|_| _ = server.queue(Reply::text("It is here: it's \"NEEDLE\", $HOME.\nYes.")));
    server.queue(Reply::text("Done."));
    home.run(&["run", "--session", "main", "all"]).stdout("Done.\n").stderr_any().check();
    let status = server.wait(0).pop().expect("a request").results().pop().expect("a result");
    assert_eq!(status, format!("{count} of {count} done, 0 open, 0 failed\n"));
    let rest = asked_about(&server, before);
    assert_eq!(rest.len(), count - 6, "nothing is asked twice that was answered");
    assert!(rest.contains(&failed[0]));

    let answers = bash(&server, &home, &format!("{PIECES} answers data.db"));
    assert_eq!(answers.lines().count(), count - 6, "{answers}");
    assert!(answers.contains("it's \"NEEDLE\", $HOME.\\nYes."), "{answers}");
    // What has changed since is not mixed with what it was.
    let changed =
        format!("echo more >> log.txt; {PIECES} map data.db; {PIECES} plan data.db log.txt; true");
    let refused = bash(&server, &home, &changed);
    assert!(
        refused.contains("has changed since it was cut") && refused.contains("is there already"),
        "{refused}"
    );
}

#[test]
fn odd_names_and_questions_are_what_they_are_and_a_file_that_changes_ends_it() {
    let server = Server::start().serves_several();
    let home = Home::new().with_anthropic(&server);
    home.run(&["init"]).stdout_any().stderr_any().check();
    let name = r#"it's "a\n" $(file) \ of mine.txt"#;
    fs::create_dir(home.workspace("a folder")).expect("a folder");
    let path = home.workspace("a folder").join(name);
    fs::write(&path, "hay\n".repeat(1_000)).expect("a file");
    // The words are given as they are: bash takes nothing out of them.
    let quoted = format!("'a folder/{}'", name.replace('\'', r"'\''"));
    let planned = bash(&server, &home, &format!("{PIECES} plan 'a folder/s.db' {quoted} 1000"));
    assert!(planned.starts_with("4 pieces of ") && planned.contains(name), "{planned}");
    let map = |more: &str, answers: usize| {
        let command = format!("{PIECES} map 'a folder/s.db' -j 1 -n 1 {more}; true");
        server.queue(Reply::new().call("bash", json!({"command": command, "timeout": 600})));
        (0..answers).for_each(|_| _ = server.queue(Reply::text("NOTHING")));
        server.queue(Reply::text("Done."));
        home.run(&["run", "--session", "main", "go on"]).stdout("Done.\n").stderr_any().check();
        server.wait(0).pop().expect("a request").results().pop().expect("a result")
    };
    let question = r#"'Which "lines" have \d+ or C:\new%s,
and $HOME?'"#;
    assert_eq!(map(question, 1), "1 of 4 done, 3 open, 0 failed\n");
    // The same one is the same, and need not be said again.
    assert_eq!(map(question, 1), "2 of 4 done, 2 open, 0 failed\n");
    assert_eq!(map("", 1), "3 of 4 done, 1 open, 0 failed\n");
    let heard = server.wait(0)[server.wait(0).len() - 2].heard();
    for line in question.trim_matches('\'').lines().chain(["Piece 3 of 4"]) {
        assert!(heard.contains(&format!("| {line}")), "{line}: {heard}");
    }
    assert!(map("'Another?'", 0).contains("answers another question: Which"));
    // A file that has gone since is asked about no more.
    fs::remove_file(path).expect("it was there");
    assert!(map("", 0).contains("has changed since it was cut"));
}
