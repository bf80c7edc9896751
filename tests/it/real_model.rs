//! A real model does real work, through `run` and through the REPL. Opt-in: it runs where
//! the environment names a server, and asserts on files, never on wording.
//!
//!     FLEDGLING_TEST_OPENAI_URL=http://127.0.0.1:8080/v1 \
//!     FLEDGLING_TEST_ANTHROPIC_URL=http://127.0.0.1:8080 \
//!     FLEDGLING_TEST_MODEL=local cargo test real_model -- --nocapture
//!
//! The key, where one is needed, is taken from `FLEDGLING_TEST_KEY`.

use std::fs;

use crate::home::Home;
use crate::terminal::Terminal;

/// The servers that the environment names: how the model is called, and its home.
fn homes() -> Vec<(String, Home)> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let model = variable("FLEDGLING_TEST_MODEL").unwrap_or_else(|| "local".to_owned());
    let key = variable("FLEDGLING_TEST_KEY").unwrap_or_else(|| "test-key-not-real".to_owned());
    let wires = [("openai", "OPENAI"), ("anthropic", "ANTHROPIC")];
    let named = wires.into_iter().filter_map(|(wire, prefix)| {
        let url = variable(&format!("FLEDGLING_TEST_{prefix}_URL"))?;
        let home = Home::new().env(&format!("{prefix}_BASE_URL"), url);
        let home = home.env(&format!("{prefix}_API_KEY"), &key);
        Some((format!("{wire}:{model}"), home))
    });
    let homes: Vec<_> = named.collect();
    if homes.is_empty() {
        eprintln!("skipped: no server is named (see tests/it/real_model.rs)");
    }
    homes
}

#[test]
fn real_model_works_on_files_in_single_turns() {
    for (model, home) in homes() {
        let run = |task: &str| {
            let ran = home.run(&["run", "--session", "work", "--model", &model, task]);
            let ran = ran.stdout_any().stderr_any().check();
            eprintln!("{model}: {task}\n{}{}", ran.stdout, ran.stderr);
        };
        run("Create a file hello.txt containing hi");
        let hello = fs::read_to_string(home.workspace("hello.txt")).expect("hello.txt");
        assert_eq!(hello.trim(), "hi");
        fs::write(home.workspace("server.toml"), "port = 8080\n").expect("a file");
        run("Change the port in server.toml from 8080 to 9090.");
        let port = fs::read_to_string(home.workspace("server.toml")).expect("server.toml");
        assert!(port.contains("9090") && !port.contains("8080"), "{port}");
        // What was recorded of it is answered alike when it is carried out again.
        let file = home.cwd().join("work.jsonl");
        let path = file.to_str().expect("a path");
        home.run(&["record", "work", path]).stderr_any().check();
        let replayed = home.run(&["replay", path]).stdout_any().stderr_any().check();
        eprintln!("{replayed}");
        // What the owner wrote and what the agent wrote are commits of their own.
        let log = home.git(&["log", "--format=%an %s"]);
        assert!(log.contains("fledgling Change the port"), "{log}");
        assert!(log.contains("owner "), "{log}");
    }
}

/// One turn with several calls: what is typed while it runs steers it on. (A small model
/// would not go that far on its own.)
#[test]
fn real_model_is_steered_through_several_calls_in_a_terminal() {
    for (model, home) in homes() {
        let mut terminal = Terminal::start(&home.command(&["--model", &model]), 80, 40);
        terminal.wait_text("/help");
        terminal.send("Create a file one.txt containing one\r");
        terminal.wait_text("> Create a file one.txt");
        terminal.send("Then create a file two.txt containing two\r");
        terminal.wait_text("(you, read now) Then create");
        terminal.send("Then create a file three.txt containing three\r");
        // The line at the end of the turn.
        terminal.wait_for("the turn's end", |screen| screen.contents().contains(" tokens"));
        eprintln!("{}", terminal.text());
        // Small models claim at times what they have not done: two of three will do.
        let made = ["one", "two", "three"].map(|name| {
            let text = fs::read_to_string(home.workspace(&format!("{name}.txt")));
            text.is_ok_and(|text| text.trim() == name)
        });
        assert!(made.iter().filter(|made| **made).count() >= 2, "{made:?}");
        let turns = home.git(&["log", "--author=fledgling", "--format=%(trailers:key=Turn)"]);
        assert_eq!(turns.matches("Turn: ").count(), 1, "{turns}");
        terminal.send("/quit\r");
        assert!(terminal.wait_end().success());
    }
}
