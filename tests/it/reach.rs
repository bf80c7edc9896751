//! What hands reach, as owner and agent see and change it: the table, `allow` and `deny`,
//! narrowed conversations, refusals that say what was missing.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::home::Home;
use crate::model_server::Server;
use crate::reply::Reply;
use crate::rules::Wire;

fn home() -> (Server, Home) {
    let server = Server::start();
    let home = Home::new().with(Wire::Anthropic, &server);
    home.run(&["init"]).stdout_any().stderr_any().check();
    (server, home)
}

/// A folder of the owner's, with a file in it.
fn folder(home: &Home, name: &str) -> PathBuf {
    let folder = home.cwd().canonicalize().expect("a folder").join(name);
    fs::create_dir_all(&folder).expect("a folder");
    fs::write(folder.join("file"), "of the owner\n").expect("a file");
    folder
}

/// What comes of a command of the agent's.
fn bash(server: &Server, home: &Home, command: &str) -> String {
    server.allow_prefix_change();
    server.queue(Reply::new().bash(command)).queue(Reply::text("Done."));
    home.run(&["run", "--session", "main", "go on"]).stdout("Done.\n").stderr_any().check();
    let asked = server.wait(0);
    asked.last().expect("a request").results().last().expect("a result").clone()
}

#[test]
fn what_is_allowed_holds_from_the_next_turn_and_is_taken_back() {
    let (server, home) = home();
    let home = home.config("# mine\n[limits]\nsteps = 9 # enough\n");
    let folder = folder(&home, "a b");
    let shown = folder.display();
    let read = format!("cat '{shown}/file'");
    let write = format!("echo more | tee -a '{shown}/file'");
    let refused = bash(&server, &home, &read);
    assert!(refused.contains(&format!("confined: {shown}/file may not be read.")), "{refused}");
    assert!(refused.contains("fledgling ask read"), "{refused}");

    let allowed = home.run(&["allow", "read", "a b"]).stdout_any().check().stdout;
    let allowed = allowed.replace('\n', " ");
    assert!(allowed.starts_with(&format!("Tool calls may now: read {shown}. Comm")), "{allowed}");
    assert_eq!(bash(&server, &home, &read), "of the owner\n");
    assert!(bash(&server, &home, &write).contains("may be read but not changed"));
    let allowed = home.run(&["allow", "write", "a b"]).stdout_any().check().stdout;
    assert!(allowed.contains("Undo does not cover it"), "{allowed}");
    assert_eq!(bash(&server, &home, &write), "more\n");
    assert_eq!(fs::read_to_string(folder.join("file")).expect("it"), "of the owner\nmore\n");

    let table = home.run(&["policy", "--json"]).stdout_any().check().stdout;
    let row = |line| serde_json::from_str::<Value>(line).expect("a row");
    let rows: Vec<_> = table.lines().map(row).collect();
    let row = |right: &str| json!({"right": right, "what": folder, "from": "config.toml"});
    assert!(rows.contains(&row("read")) && rows.contains(&row("write")), "{table}");
    assert!(rows.contains(&json!({"right": "network", "what": "full", "from": "default"})));

    for right in ["read", "write"] {
        home.run(&["deny", right, "a b"]).stdout_any().check();
    }
    assert!(bash(&server, &home, &read).contains("may not be read"));
    let config = fs::read_to_string(home.path("config.toml")).expect("config.toml");
    assert!(config.starts_with("# mine\n[limits]\nsteps = 9 # enough\n"), "{config}");
    home.run(&["deny", "read", "a b"]).code(1).stderr_holds(&["was not given in"]).check();
}

#[test]
fn the_network_and_sockets_are_the_owners_to_give() {
    let (server, home) = home();
    let port = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let number = port.local_addr().expect("an address").port();
    let connect = format!("(exec 3<>/dev/tcp/127.0.0.1/{number}) && echo there");
    assert_eq!(bash(&server, &home, &connect), "there\n");
    home.run(&["allow", "network", "1"]).stdout_any().check();
    let refused = bash(&server, &home, &connect);
    assert!(refused.contains("network: 1; Unix sockets: none"), "{refused}");
    home.run(&["allow", "network", &number.to_string(), "1"]).stdout_any().check();
    assert_eq!(bash(&server, &home, &connect), "there\n");
    home.run(&["deny", "network", "full"]).stdout_any().check();
    let refused = bash(&server, &home, &connect);
    assert!(refused.contains("network: none; Unix sockets: none"), "{refused}");
    // Nothing beyond the workspace was in reach: undo has nothing to warn of.
    assert!(bash(&server, &home, "echo x > x").contains("no output"));
    let undone = home.run(&["undo", "--json"]).stdout_any().stderr_any().check().stdout;
    let undone: Value = serde_json::from_str(&undone).expect("an answer");
    assert_eq!(undone["commands"], json!([]), "{undone}");
}

#[test]
fn a_secret_is_with_commands_only_while_it_is_given() {
    let (server, home) = home();
    let set = home.run(&["secret", "set", "TOKEN"]).stdin("fake-value-of-a-test\n");
    set.stdout_any().stderr_any().check();
    let look = "test -n \"$TOKEN\" && echo ${#TOKEN}; echo \"<$TOKEN>\"";
    assert_eq!(bash(&server, &home, look), "<>\n");
    let given = home.run(&["allow", "secret", "TOKEN"]).stdout_any().check().stdout;
    assert!(given.contains("withheld from the model only where it is recognised"), "{given}");
    assert_eq!(bash(&server, &home, look), "20\n<[secret TOKEN withheld]>\n");
    // It is its own to narrow, too.
    server.allow_prefix_change();
    server.queue(Reply::new().bash(look)).queue(Reply::text("Done."));
    home.run(&["run", "--only", "secret", "go"]).stdout("Done.\n").stderr_any().check();
    assert_eq!(server.wait(0).last().expect("a request").results(), ["<>\n"]);
    let given = fs::read_to_string(home.path("config.toml")).expect("config.toml");
    let home = home.config(&format!("confine = \"off\"\n{given}"));
    assert_eq!(bash(&server, &home, look), "20\n<[secret TOKEN withheld]>\n");
    let home = home.config(&given);
    home.run(&["deny", "secret", "TOKEN"]).stdout_any().check();
    assert_eq!(bash(&server, &home, look), "<>\n");
}

#[test]
fn what_cannot_be_given_says_why() {
    let (_server, home) = home();
    for (words, code, why) in [
        (&["allow", "read", "/"][..], 1, "with your keys"),
        (&["allow", "write", "../home/sessions"], 1, "is the program's own"),
        (&["allow", "read", "nowhere"], 1, "is not there"),
        (&["allow", "write", "../home/workspace"], 1, "in reach of every tool call as it is"),
        (&["deny", "network", "80"], 1, "name those that stay open"),
        (&["allow", "secret", "NONE"], 1, "there is no secret NONE"),
        (&["allow", "network", "70000"], 2, "is neither full, none nor a port"),
        (&["allow", "fly"], 2, "there is no \"fly\" to give"),
        (&["allow", "steps", "5"], 1, "cannot be given for good"),
        (&["run", "--only", "fly", "hi"], 2, "cannot be narrowed"),
        (&["run", "--only", "write ../home/workspace", "hi"], 1, "owner's own conversations only"),
    ] {
        home.run(words).code(code).stderr_holds(&[why]).check();
    }
    // A link leads to what is meant, which is what is given.
    let folder = folder(&home, "real");
    std::os::unix::fs::symlink(&folder, home.cwd().join("link")).expect("a link");
    let said = home.run(&["allow", "read", "link"]).stdout_any().check().stdout;
    assert!(said.contains(&format!("read {}", folder.display())), "{said}");
    // In the file it would be a path that somebody could turn elsewhere.
    let link = home.cwd().join("link");
    fs::write(home.path("config.toml"), format!("[hands]\nread = [{link:?}]\n")).expect("a file");
    let model = home.script(&[
        json!({"text": "", "calls": [{"name": "bash", "input": {"command": "echo ran"}}]}),
        json!({"text": "Done."}),
    ]);
    let run = home.run(&["run", "--model", &model, "go", "--json"]).stdout_any().stderr_any();
    let run = run.check();
    assert!(
        run.stdout.contains("goes through a symlink") && !run.stdout.contains("ran\\n"),
        "{run}"
    );
    home.run(&["doctor"]).code(1).stdout_any().stderr_any().check();
}

#[test]
fn a_narrowed_conversation_and_all_below_it_stay_narrow() {
    let (server, home) = home();
    let kids = Server::start();
    let home = home.with(Wire::OpenAi, &kids);
    let (notes, own) = (home.workspace("notes"), folder(&home, "own"));
    let own_path = own.to_str().expect("UTF-8");
    home.run(&["allow", "write", own_path]).stdout_any().check();
    fs::create_dir(&notes).expect("a folder");
    // It asks for more than it has, in the name of a child: that is no wider.
    let narrow = format!("--only 'write {own_path} notes' --only 'network full'");
    let begin = format!(
        "echo 1 > notes/n; echo 2 > top; echo 3 > {own_path}/x; \
         fledgling run --session kid --model openai:m {narrow} go"
    );
    let port = server.url().rsplit(':').next().expect("a port").to_owned();
    let reach = format!(
        "echo 4 > notes/k; echo 5 > {own_path}/y; (exec 3<>/dev/tcp/127.0.0.1/{port}) || echo alone"
    );
    server.queue(Reply::new().bash(&begin)).queue(Reply::text("Done."));
    kids.queue(Reply::new().bash(&reach)).queue(Reply::text("Kid is done."));
    let write = ["--only", "write ../home/workspace/notes"];
    let only = ["run", "--session", "narrow", "--only", "network none", write[0], write[1], "go"];
    home.run(&only).stdout("Done.\n").stderr_any().check();
    let kid = kids.asked(2)[1].results();
    assert!(kid[0].contains("alone\n"), "{kid:?}");
    let parent = server.asked(2)[1].results();
    assert!(parent[0].contains("Kid is done."), "{parent:?}");
    assert_eq!(home.read("notes/n").as_deref(), Some("1\n"));
    assert_eq!(home.read("notes/k").as_deref(), Some("4\n"));
    assert_eq!(home.read("top"), None);
    assert!(!own.join("x").exists() && !own.join("y").exists());
    let first = |name: &str| -> Value {
        let text = fs::read_to_string(home.path(&format!("sessions/{name}.jsonl"))).expect("it");
        serde_json::from_str(text.lines().next().expect("a line")).expect("JSON")
    };
    assert_eq!(first("narrow")["chain"].as_array().map(Vec::len), Some(1));
    assert_eq!(first("kid")["chain"].as_array().map(Vec::len), Some(2));
    let wider = ["run", "--session", "narrow", "--only", "network full", "go"];
    home.run(&wider).code(1).stderr_holds(&["was settled when it began"]).check();
    let table = home.run(&["policy", "--session", "narrow"]).stdout_any().check().stdout;
    assert!(table.contains("(at most, link 1)"), "{table}");
}

#[test]
fn tools_can_be_taken_away() {
    let (server, home) = home();
    let write = json!({"path": "x", "content": "x"});
    server
        .queue(Reply::new().bash("echo 1").call("write", write).call("read", json!({"path": "."})))
        .queue(Reply::text("Done."));
    let only = ["run", "--only", "tools read", "go"];
    home.run(&only).stdout("Done.\n").stderr_any().check();
    let asked = server.asked(2);
    let results = asked[1].results();
    assert!(results[0].contains("this session may not use bash; it has read"), "{results:?}");
    assert!(results[1].contains("this session may not use write; it has read"), "{results:?}");
    assert!(results[2].contains("bootstrap.md"), "{results:?}");
}

#[test]
fn the_host_is_as_it_was_and_files_move_freely_within_the_workspace() {
    let (server, home) = home();
    let command = "mkdir -p a b; echo 1 > a/f; mv a/f b/f; ln b/f a/g; rename() { :; }; \
        python3 - <<< '' 2> /dev/null; cat a/g; git -C . log --oneline | wc -l; \
        kill -0 $PPID 2>&1 | tail -c 24; chmod +x a/g; ls -l a/g | cut -c1-10";
    let said = bash(&server, &home, command);
    assert_eq!(
        said.split("[Tool").next(),
        Some("1\n1\nOperation not permitted\n-rwxr-xr-x\n"),
        "{said}"
    );
}

#[test]
fn a_tool_call_names_no_file_that_the_host_would_read() {
    let (server, home) = home();
    let hidden = folder(&home, "hidden").join("script.jsonl");
    fs::write(&hidden, "{\"text\": \"what was hidden\"}\n").expect("a file");
    let script = format!("script:{}", hidden.display());
    // The control: the owner may.
    let owner = ["run", "--session", "own", "--model", &script, "go"];
    home.run(&owner).stdout("what was hidden\n").stderr_any().check();
    // Nor a FIFO, on which the host would wait for ever.
    let said = bash(
        &server,
        &home,
        &format!(
            "mkfifo f; fledgling run --session a --model {script} hi; \
             fledgling run --session b --model script:$PWD/f hi; \
             fledgling ask model {script} --why x"
        ),
    );
    assert_eq!(said.matches("only the owner names scripts").count(), 3, "{said}");
    assert!(!said.contains("what was hidden"), "{said}");
    assert!(!home.path("sessions/a.jsonl").exists());
}

#[test]
fn what_was_given_is_taken_back_by_the_same_words() {
    let (_server, home) = home();
    let own = folder(&home, "own");
    let link = home.cwd().join("link");
    std::os::unix::fs::symlink(&own, &link).expect("a link");
    let given = format!("read = [{own:?}]");
    for typed in [link.to_str().expect("UTF-8"), "../cwd/own"] {
        home.run(&["allow", "read", typed]).stdout_any().check();
        let text = || fs::read_to_string(home.path("config.toml")).expect("it");
        assert!(text().contains(&given), "{}", text());
        home.run(&["deny", "read", typed]).stdout_any().check();
        assert!(!text().contains(&given), "{}", text());
    }
}

#[test]
fn where_nothing_is_confined_nobody_is_told_to_do_less() {
    let (server, home) = home();
    server.queue(Reply::text("Hello."));
    let only = ["run", "--session", "narrow", "--only", "tools read", "go"];
    home.run(&only).stdout("Hello.\n").stderr_any().check();
    fs::write(home.path("config.toml"), "confine = \"off\"\n").expect("it");
    let fresh = ["run", "--only", "network none", "go"];
    home.run(&fresh).code(1).stderr_holds(&["nothing keeps it from more"]).check();
    let again = ["run", "--session", "narrow", "go"];
    home.run(&again).code(1).stderr_holds(&["nothing keeps it from more"]).check();
}

#[test]
fn the_history_of_files_that_may_not_be_read_is_not_told_and_none_is_changed() {
    let (_server, home) = home();
    let runs = |session: &str, only: &str, command: &str| {
        let call = json!({"name": "bash", "input": {"command": command}});
        let model = home.script(&[json!({"text": "", "calls": [call]}), json!({"text": "Done."})]);
        let run = ["run", "--session", session, "--model", &model, "--only", only, "go"];
        let run = if only.is_empty() { [&run[..5], &run[7..]].concat() } else { run.to_vec() };
        home.run(&run).stdout("Done.\n").stderr_any().check();
        fs::read_to_string(home.path(&format!("sessions/{session}.jsonl"))).expect("a transcript")
    };
    runs("own", "", "echo hidden > note");
    let command = "git log; git show HEAD; fledgling log; fledgling show HEAD; fledgling diff HEAD~1; fledgling why note; \
        fledgling bisect -- false; fledgling restore HEAD~1 note; fledgling undo";
    let told = runs("blind", "read /usr /etc", command);
    assert_eq!(told.matches("may not read the whole workspace").count(), 5, "{told}");
    assert_eq!(told.matches("may not change the whole workspace").count(), 2, "{told}");
    assert!(!told.contains("hidden"), "{told}");
    // Who may read it, but not change all of it, looks and no more.
    let told = runs("reader", "network none", command);
    assert!(told.contains("+hidden"), "{told}");
    assert_eq!(told.matches("may not change the whole workspace").count(), 2, "{told}");
    assert_eq!(home.read("note").as_deref(), Some("hidden\n"));
}
