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
        // What the owner wrote and what the agent wrote are commits of their own.
        let log = home.git(&["log", "--format=%an %s"]);
        assert!(log.contains("fledgling Change the port"), "{log}");
        assert!(log.contains("owner "), "{log}");
    }
}

#[test]
fn real_model_takes_several_steps_in_one_turn() {
    for (model, home) in homes() {
        fs::create_dir_all(home.workspace("")).expect("a workspace");
        let task = "Do this with three bash calls, one after the other. First: mkdir -p notes. \
                    Second: echo one > notes/a.txt. Third: cat notes/a.txt.";
        let ran = home.run(&["run", "--json", "--model", &model, task]).stdout_any().stderr_any();
        let ran = ran.check();
        let calls = ran.stdout.matches("\"event\":\"result\"").count();
        eprintln!("{model}: {calls} calls");
        assert!(calls >= 2, "{ran}");
        let note = fs::read_to_string(home.workspace("notes/a.txt")).expect("notes/a.txt");
        assert_eq!(note.trim(), "one");
    }
}

#[test]
fn real_model_works_through_the_conversation_in_a_terminal() {
    for (model, home) in homes() {
        let mut terminal = Terminal::start(&home.command(&["--model", &model]), 80, 30);
        terminal.wait_text("/help");
        terminal.send("Create a file hello.txt containing hi\r");
        // The line at the end of a turn.
        terminal.wait_for("the end of the turn", |screen| screen.contents().contains(" tokens"));
        eprintln!("{}", terminal.text());
        let hello = fs::read_to_string(home.workspace("hello.txt")).expect("hello.txt");
        assert_eq!(hello.trim(), "hi");
        terminal.send("/quit\r");
        assert!(terminal.wait_end().success());
    }
}
