//! Asking for more: what the agent asks in a tool call, what the owner is shown and answers,
//! and what holds afterwards.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::home::Home;
use crate::kills::Fifo;
use crate::model_server::Server;
use crate::reply::{Gate, Reply};
use crate::rules::Wire;
use crate::terminal::Terminal;

/// A file that tool calls may not read, by its final name.
fn private(home: &Home, name: &str) -> PathBuf {
    let folder = home.cwd().canonicalize().expect("a folder").join("private");
    fs::create_dir_all(&folder).expect("a folder");
    let path = folder.join(name);
    fs::write(&path, "what was hidden\n").expect("a file");
    path
}

fn talk(home: &Home) -> Terminal {
    let terminal = Terminal::start(&home.command(&["--session", "s"]), 100, 40);
    terminal.wait_text("\n> ");
    terminal
}

/// A conversation in which the agent asks for this, its answer going to `asked`, and then says
/// that it is done.
fn asking(home: &Home, server: &Server, ask: &str) -> Terminal {
    server.queue(Reply::new().bash(&format!("fledgling ask {ask}")));
    let mut terminal = talk(home);
    terminal.send("go\r");
    terminal
}

/// The results that the latest request shows.
fn results(server: &Server) -> Vec<String> {
    server.wait(0).pop().expect("a request").results()
}

fn rows(home: &Home) -> Vec<Value> {
    let ran = home.run(&["asks", "--json"]).stdout_any().stderr_any().check();
    ran.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

#[test]
fn what_was_refused_is_asked_for_and_granted_to_one_conversation() {
    let server = Server::start();
    let home = Home::new().with_anthropic(&server);
    let path = private(&home, "file");
    let cat = format!("cat {}", path.display());
    server.queue(Reply::new().bash(&cat));
    let ask = format!("fledgling ask read {} --why 'to see it'", path.display());
    server.queue(Reply::new().bash(&ask)).queue(Reply::new().bash(&cat));
    server.queue(Reply::new().bash(&ask)).queue(Reply::text("All seen."));
    let mut terminal = talk(&home);
    terminal.send("go\r");
    terminal.wait_text(&format!("Request 1: read {}", path.display()));
    terminal.wait_text("why, in the agent's words: to see it");
    terminal.wait_text("pass it on.");
    terminal.wait_text("y + Enter: yes");
    terminal.send("y\r");
    terminal.wait_text("All seen.");
    terminal.wait_text("Given to conversation s");
    let told = results(&server);
    assert!(told[0].contains("ermission denied") && told[0].contains("fledgling ask"), "{told:?}");
    assert!(told[1].starts_with("Yes, says your owner, for this conversation"), "{told:?}");
    assert!(told[1].contains("from the next tool call on"), "{told:?}");
    assert_eq!(told[2], "what was hidden\n");
    assert!(told[3].starts_with("That is given already"), "{told:?}");
    terminal.send("\x04");
    terminal.wait_end();
    // What the owner gave is there in the next turn too, and nowhere else.
    server.queue(Reply::new().bash(&cat)).queue(Reply::text("Again."));
    home.run(&["run", "--session", "s", "again"]).stdout("Again.\n").stderr_any().check();
    assert_eq!(results(&server).pop().as_deref(), Some("what was hidden\n"));
    server.allow_prefix_change();
    server.queue(Reply::new().bash(&cat)).queue(Reply::text("Not here."));
    home.run(&["run", "--session", "t", "you"]).stdout("Not here.\n").stderr_any().check();
    assert!(results(&server)[0].contains("ermission denied"));
    // The owner takes it back where it was given.
    home.run(&["deny", "read", &path.display().to_string()]).stdout_any().check();
    server.allow_prefix_change();
    server.queue(Reply::new().bash(&cat)).queue(Reply::text("Gone."));
    home.run(&["run", "--session", "s", "more"]).stdout("Gone.\n").stderr_any().check();
    let last = results(&server).pop().expect("a result");
    assert!(last.contains("ermission denied"), "{last}");
}

#[test]
fn enter_alone_and_any_other_word_are_a_no_and_no_message() {
    for (keys, sent) in [("\r", false), ("n\r", false), ("what for?\r", true)] {
        let server = Server::start();
        let home = Home::new().with_anthropic(&server);
        let path = private(&home, "file");
        let mut terminal = asking(&home, &server, &format!("read {} --why x", path.display()));
        terminal.wait_text("y + Enter: yes");
        server.queue(Reply::text("Then not."));
        terminal.send(keys);
        terminal.wait_text("Then not.");
        let asked = server.asked(2).pop().expect("a request");
        assert!(asked.results()[0].contains("no, says your owner"), "{:?}", asked.results());
        assert!(!asked.heard().contains("what for?"));
        assert_eq!(terminal.text().contains("was not sent as a message"), sent, "{keys:?}");
        let row = &rows(&home)[0];
        assert_eq!((&row["answer"], &row["by"]), (&json!("no"), &json!("owner")), "{row}");
    }
}

#[test]
fn a_line_begun_before_the_question_is_no_answer() {
    let server = Server::start();
    let home = Home::new().with_anthropic(&server);
    let path = private(&home, "file");
    let ask = format!("echo > gate; cat gate; fledgling ask read {} --why x", path.display());
    server.queue(Reply::new().bash(&ask));
    let mut terminal = talk(&home);
    let gate = Fifo::make(&home.workspace("gate"));
    terminal.send("go\r");
    gate.line();
    terminal.send("y");
    terminal.wait_text("\n> y");
    fs::write(home.workspace("gate"), "go\n").expect("a reader");
    terminal.wait_text("y + Enter: yes");
    terminal.wait_text("\n> y");
    terminal.send("\r");
    // It steers, as any other message; the question stands.
    terminal.wait_for("an empty prompt", |screen| screen.contents().trim_end().ends_with('>'));
    assert_eq!(rows(&home)[0]["answer"], Value::Null);
    server.queue(Reply::text("Read."));
    terminal.send("y\r");
    terminal.wait_text("Read.");
    let asked = server.asked(2).pop().expect("a request");
    assert!(asked.results()[0].contains("Yes, says your owner"), "{:?}", asked.results());
    terminal.wait_text("(you, read now) y");
}

#[test]
fn where_nobody_can_answer_it_is_a_no_at_once() {
    let server = Server::start();
    let home = Home::new().with_anthropic(&server);
    let path = private(&home, "a file");
    let ask = format!("fledgling ask read '{}' --why x", path.display());
    server.queue(Reply::new().bash(&ask)).queue(Reply::text("No."));
    let ran = home.run(&["run", "--json", "go"]).stdout_any().check();
    let told = results(&server);
    let allow = format!("fledgling allow read '{}'", path.display());
    assert!(told[0].contains("nobody is there to answer") && told[0].contains(&allow), "{told:?}");
    let events = ran.stdout.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let asks: Vec<_> = events.filter(|event| event["event"] == "ask").collect();
    assert_eq!(asks.len(), 1, "{asks:?}");
    assert_eq!((&asks[0]["answer"], &asks[0]["by"]), (&json!("no"), &Value::Null), "{asks:?}");
    // Outside of a tool call it is not for asking.
    let ran = home.run(&["ask", "unix", "--why", "x"]).code(1);
    ran.stderr_holds(&["asking is for tool calls", "fledgling allow unix"]).check();
}

#[test]
fn a_terminal_at_another_host_answers_until_it_is_gone() {
    let server = Server::start();
    let home = Home::new().with_anthropic(&server);
    let gate = Gate::new();
    server.queue(Reply::text("I begin. ").wait(&gate).and("I end."));
    let host = home.spawn(&["run", "--json", "--session", "other", "stay"]);
    host.wait_stdout("I begin");
    let mut terminal = talk(&home);
    let path = private(&home, "file");
    let read = format!("read {}", path.display());
    let asks = ["unix", &read, &read, &read].map(|item| {
        let command = format!("fledgling ask {item} --why x");
        [
            json!({"calls": [{"name": "bash", "input": {"command": command}}]}),
            json!({"text": "So be it."}),
        ]
    });
    let script = home.script(asks.as_flattened());
    let ask = || home.spawn(&["run", "--json", "--session", "s", "--model", &script, "ask"]);
    let asking = ask();
    terminal.wait_text("y + Enter: yes");
    terminal.send("y\r");
    let ran = asking.end();
    assert!(ran.stdout.contains("Yes, says your owner"), "{ran}");
    assert_eq!(ran.stdout.matches(r#""event":"ask""#).count(), 2, "{ran}");
    // One that looks at another conversation by now is not there for this one.
    terminal.send("/new elsewhere\r");
    terminal.wait_text("Conversation elsewhere.");
    let ran = ask().end();
    assert!(ran.stdout.contains("nobody is there to answer"), "{ran}");
    terminal.send("/resume s\r");
    terminal.wait_text("Conversation s.");
    let asking = ask();
    terminal.wait_for("the third question", |screen| {
        let shown = screen.contents();
        let third = shown.split_once(&format!("Request 3: {read}"));
        third.is_some_and(|(_, rest)| rest.contains("y + Enter: yes"))
    });
    terminal.send("\r");
    assert!(asking.end().stdout.contains("no, says your owner"));
    drop(terminal);
    let ran = ask().end();
    assert!(ran.stdout.contains("nobody is there to answer"), "{ran}");
    gate.open();
    assert!(host.end().status.success());
}

#[test]
fn what_can_never_be_given_is_refused_at_once() {
    let server = Server::start();
    let home = Home::new().with_anthropic(&server);
    let key = home.path("door.key").canonicalize().unwrap_or_else(|_| home.path("door.key"));
    let link = home.cwd().join("link");
    std::os::unix::fs::symlink(home.path("sessions"), &link).expect("a link");
    for (ask, said) in [
        (format!("read {} --why x", key.display()), "is the program's own"),
        ("read / --why x".to_owned(), "holds"),
        (format!("write {} --why x", link.display()), "is the program's own"),
        ("read /absent --why x".to_owned(), "is not there"),
        ("secret NONE --why x".to_owned(), "there is no secret NONE"),
        ("network none --why x".to_owned(), "nobody has to ask"),
        ("network 443 --why x".to_owned(), "That is given already"),
        ("read /usr/bin --why x".to_owned(), "That is given already"),
        ("steps 3 --why x".to_owned(), "That is given already"),
        ("unix --why ' '".to_owned(), "say what it is needed for"),
        ("unix".to_owned(), "--why"),
        ("wings x --why x".to_owned(), "there is no \"wings\" to give"),
    ] {
        server.queue(Reply::new().bash(&format!("fledgling ask {ask}")));
        server.queue(Reply::text("So."));
        home.run(&["run", "--session", "s", "go"]).stdout("So.\n").stderr_any().check();
        let told = results(&server).pop().expect("a result");
        assert!(told.contains(said), "{ask}: {told}");
    }
    assert!(rows(&home).is_empty());
}

#[test]
fn nobody_s_answer_is_a_no_after_a_while() {
    let server = Server::start();
    let home = Home::new().with_anthropic(&server);
    let mut terminal = asking(&home, &server, "unix --why x --wait 1");
    server.queue(Reply::text("Nobody."));
    terminal.wait_text("y + Enter: yes");
    terminal.wait_text("refused, as nobody answered");
    terminal.wait_text("Nobody.");
    assert!(results(&server)[0].contains("nobody answered within 1 s"));
    let row = &rows(&home)[0];
    assert_eq!(row["answer"], "expired", "{row}");
    let late = home.run(&["answer", "1", "yes"]).code(1);
    late.stderr_holds(&["request 1 is over already: expired"]).check();
    terminal.send("y\r");
    terminal.wait_text("That came too late");
    server.queue(Reply::text("Just a letter."));
    terminal.send("y\r");
    terminal.wait_text("Just a letter.");
}

#[test]
fn what_would_deceive_is_shown_escaped() {
    let server = Server::start();
    let home = Home::new().with_anthropic(&server);
    let name = "a\x1b]52;c;aGk=\x07\u{202e}txt\nRequest 9";
    let path = private(&home, name);
    let reason = format!("fine\n\x1b[2J\u{2066}{}", "r".repeat(400));
    let ask = |what: &str| {
        let path = path.display();
        format!("{what} \"$(printf '%s' '{path}')\" --why '{reason}'")
    };
    let mut terminal = asking(&home, &server, &ask("read"));
    terminal.wait_text("y + Enter: yes");
    let shown = terminal.text().replace('\n', "");
    let name = r"/a\u{1b}]52;c;aGk=\u{7}\u{202e}txt\nRequest 9";
    assert!(shown.contains(name), "{shown}");
    assert!(shown.contains(r"fine\n\u{1b}[2J\u{2066}rrr"), "{shown}");
    assert!(!shown.contains(&"r".repeat(300)) && shown.contains("rrr…"), "{shown}");
    let raw = terminal.raw();
    assert!(
        !raw.contains("\x1b]52") && !raw.contains('\u{202e}') && !raw.contains("\x1b[2J\u{2066}")
    );
    server.queue(Reply::text("No then."));
    terminal.send("\r");
    terminal.wait_text("No then.");
}

#[test]
fn always_is_kept_in_the_settings() {
    let server = Server::start();
    let home = Home::new().with_anthropic(&server).config("# mine\n[limits]\nsteps = 9 # few\n");
    let path = private(&home, "file");
    let mut terminal = asking(&home, &server, &format!("write {} --why x", path.display()));
    terminal.wait_text("always + Enter");
    server.queue(Reply::text("Kept."));
    terminal.send("always\r");
    terminal.wait_text("Kept.");
    terminal.wait_text("Given for good");
    let config = fs::read_to_string(home.path("config.toml")).expect("a file");
    assert!(config.starts_with("# mine\n[limits]\nsteps = 9 # few\n"), "{config}");
    assert!(config.contains(&format!("write = [\"{}\"]", path.display())), "{config}");
    server.queue(Reply::new().bash("fledgling ask steps 50 --why x"));
    terminal.send("limits\r");
    terminal.wait_text("Request 2: steps 50");
    terminal.wait_text("It may cost more.\ny + Enter: yes, for this conversation. Enter alone");
    terminal.send("always\r");
    terminal.wait_text("cannot be kept");
    server.queue(Reply::new().bash("fledgling self --json"));
    server.queue(Reply::text("More."));
    terminal.send("y\r");
    terminal.wait_text("More.");
    let told = results(&server);
    assert!(told[1].contains("from the next turn on"), "{told:?}");
    assert!(told[2].contains(r#""steps":50"#), "{told:?}");
}

#[test]
fn an_answer_is_for_one_request_and_by_whoever_may() {
    let server = Server::start();
    let home = Home::new().with_anthropic(&server);
    let path = private(&home, "file");
    let mut terminal = asking(&home, &server, &format!("read {} --why x", path.display()));
    terminal.wait_text("y + Enter: yes");
    home.run(&["answer", "2", "yes"]).code(1).stderr_holds(&["there is no request 2"]).check();
    // Another conversation's tool call may not, and does not even see it.
    let script = home.script(&[
        json!({"text": "Trying.", "calls": [{"name": "bash", "input": {"command": "fledgling answer 1 yes; fledgling asks; fledgling allow unix"}}]}),
        json!({"text": "Tried."}),
    ]);
    let other = home.run(&["run", "--json", "--session", "other", "--model", &script, "go"]);
    let other = other.stdout_any().stderr_any().check();
    assert!(other.stdout.contains("request 1 is not session other's to answer"), "{other}");
    assert!(other.stdout.contains("Nothing was asked for yet."), "{other}");
    assert!(
        other.stdout.contains("only the owner may do that; say what is needed, and they can do it"),
        "{other}"
    );
    assert_eq!(rows(&home)[0]["answer"], Value::Null);
    // The name that was shown is what counts, not what it leads to by now.
    let moved = path.with_extension("moved");
    fs::rename(&path, &moved).expect("a file");
    std::os::unix::fs::symlink("/etc/shadow", &path).expect("a link");
    for said in ["yes", "always"] {
        let run = home.run(&["answer", "1", said]).code(1);
        run.stderr_holds(&["goes through a symlink"]).check();
    }
    assert!(!home.path("config.toml").exists());
    fs::remove_file(&path).expect("a link");
    fs::rename(&moved, &path).expect("a file");
    // The owner in another terminal; the one in which it is shown hears of it.
    server.queue(Reply::new().bash(&format!("cat {}", path.display())));
    server.queue(Reply::text("Read."));
    home.run(&["answer", "1", "yes"]).stdout_any().check();
    terminal.wait_text("Request 1 is granted");
    terminal.wait_text("Read.");
    assert_eq!(results(&server)[1], "what was hidden\n");
    let again = home.run(&["answer", "1", "no"]).code(1);
    again.stderr_holds(&["request 1 is over already: yes"]).check();
    terminal.send("/asks\r");
    terminal.wait_text("[yes, by owner]");
    // What was given and leads elsewhere by now is nothing that was given.
    fs::remove_file(&path).expect("a file");
    std::os::unix::fs::symlink("/etc/hostname", &path).expect("a link");
    server.queue(Reply::new().bash("echo on")).queue(Reply::text("Stuck."));
    terminal.send("on\r");
    terminal.wait_text("Stuck.");
    let told = results(&server).pop().expect("a result");
    assert!(told.contains("goes through a symlink now"), "{told}");
    home.run(&["deny", "read", &path.display().to_string()]).stdout_any().check();
    server.queue(Reply::new().bash("echo on")).queue(Reply::text("Going."));
    terminal.send("on\r");
    terminal.wait_text("Going.");
    assert_eq!(results(&server).pop().as_deref(), Some("on\n"));
}

#[test]
fn a_narrowed_conversation_asks_the_one_that_began_it() {
    let server = Server::start();
    let kids = Server::start();
    let home = Home::new().with_anthropic(&server).with(Wire::OpenAi, &kids);
    let path = private(&home, "file");
    let allowed = home.path("workspace/notes");
    fs::create_dir_all(&allowed).expect("a folder");
    let (path, notes) = (path.display(), allowed.display());
    kids.queue(Reply::new().bash(&format!(
        "fledgling ask read {path} --why x; fledgling ask write {notes} --why notes; echo hi > {notes}/x"
    )));
    kids.queue(Reply::new().bash(&format!("echo hi > {notes}/y")));
    kids.queue(Reply::text("Child done."));
    let parent = "fledgling run --model openai:m --session child --only 'network none' work & \
         until fledgling asks --json | grep -q '\"answer\":null'; do :; done; \
         fledgling asks; fledgling answer 1 always; fledgling answer 1 yes; wait";
    server.queue(Reply::new().bash(parent)).queue(Reply::text("Parent done."));
    let run = home.run(&["run", "--session", "parent", "go"]);
    run.stdout("Parent done.\n").stderr_any().check();
    let told = results(&server).pop().expect("a result");
    assert!(told.contains("only the owner gives something for good"), "{told}");
    assert!(told.contains("Given to conversation child: write"), "{told}");
    assert!(told.contains("Child done."), "{told}");
    let child = fs::read_to_string(home.path("sessions/child.jsonl")).expect("a transcript");
    assert!(child.contains("is more than session parent may do itself"), "{child}");
    assert!(child.contains("Yes, says session parent, for this conversation"), "{child}");
    assert_eq!((home.read("notes/x"), home.read("notes/y").as_deref()), (None, Some("hi\n")));
    assert_eq!(rows(&home)[0]["approver"], "agent:parent");
}

#[test]
fn what_a_child_asks_for_is_shown_where_the_owner_looks_on() {
    let server = Server::start();
    let kids = Server::start();
    let home = Home::new().with_anthropic(&server).with(Wire::OpenAi, &kids);
    let path = private(&home, "file");
    let ask = format!("fledgling ask read '{}' --why 'the child needs it'", path.display());
    kids.queue(Reply::new().bash(&ask)).queue(Reply::text("Child done."));
    let work = "fledgling run --model openai:m --session child work";
    server.queue(Reply::new().bash(work)).queue(Reply::text("Parent done."));
    let mut terminal = talk(&home);
    terminal.send("go\r");
    terminal.wait_text("Request 1 of conversation child: read ");
    // An answer counts once the whole question has been seen.
    terminal.wait_text(": no.");
    terminal.send("y\r");
    terminal.wait_text("Parent done.");
    let child = fs::read_to_string(home.path("sessions/child.jsonl")).expect("a transcript");
    assert!(child.contains("Yes, says your owner, for this conversation"), "{child}");
}

#[test]
fn a_network_that_the_owner_sets_is_everybody_s() {
    let server = Server::start();
    let home = Home::new().with_anthropic(&server).config("[hands]\nnetwork = [443]\n");
    let mut terminal = asking(&home, &server, "network full --why x");
    terminal.wait_text("Request 1: network full");
    terminal.wait_text(": no.");
    server.queue(Reply::text("Wide."));
    terminal.send("y\r");
    terminal.wait_text("Wide.");
    let policy = || home.run(&["policy", "--session", "s"]).stdout_any().check().stdout;
    assert!(policy().contains("full (this conversation)"), "{}", policy());
    home.run(&["allow", "network", "none"]).stdout_any().check();
    assert!(!policy().contains("this conversation"), "{}", policy());
}
