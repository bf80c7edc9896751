//! Bad input: what the owner, the agent or a crash left in a bad state is named, together
//! with what to do about it, and nothing is lost.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::Path;

use serde_json::Value;

use crate::home::{Home, Process, Ran};
use crate::model_server::{Asked, Server};
use crate::reply::{Gate, Reply};

/// A server that always answers `Fine.`, and a home that finds it.
fn fine() -> (Server, Home) {
    let server = Server::with(|_| Reply::text("Fine."));
    let home = Home::new().with_anthropic(&server);
    (server, home)
}

/// A turn of session `s` that goes well.
#[track_caller]
fn turn(home: &Home, text: &str) -> Ran {
    home.run(&["run", "--session", "s", text]).stdout("Fine.\n").stderr_any().check()
}

/// A turn that does not, and says why.
#[track_caller]
fn refused(home: &Home, args: &[&str], code: i32, why: &[&str]) -> Ran {
    home.run(args).code(code).stderr_holds(why).check()
}

fn last(server: &Server) -> Asked {
    server.wait(0).pop().expect("a request")
}

fn system(server: &Server) -> String {
    last(server).body["system"].to_string()
}

#[test]
fn a_mistake_in_the_settings_is_named_by_file_and_line() {
    let (server, mut home) = fine();
    let path = home.path("config.toml").display().to_string();
    for (toml, why) in [
        ("[limits]\nsteps = \"many\"\n", &["line 2", "expected u64"][..]),
        ("model = 1\n[limits\n", &["line 2"]),
        ("\n\nmodle = \"x\"\n", &["line 3", "unknown field `modle`", "model"]),
        ("[models.m]\nwire = \"smoke\"\nname = \"m\"\n", &["line 2", "`anthropic` or `openai`"]),
        ("[limits]\nfill = 3\n", &["limits.fill must lie between 10 and 95"]),
    ] {
        home = home.config(toml);
        let ran = refused(&home, &["run", "hi"], 1, why);
        assert!(ran.stderr.contains(&path), "{ran}");
        let ran = home.run(&["doctor"]).code(1).stdout_any().check();
        assert!(ran.stdout.contains(&path) && ran.stdout.contains("BAD"), "{ran}");
    }
    fs::write(home.path("secrets.toml"), "K = \"v\"\n= \"hidden\"\n").expect("a file");
    home = home.config("");
    let ran = refused(&home, &["run", "hi"], 1, &["secrets.toml", "line 2", "NAME = \"value\""]);
    assert!(!ran.stderr.contains("hidden"), "{ran}");
    server.asked(0);
}

#[test]
fn a_model_that_cannot_be_is_wrong_usage() {
    let (server, home) = fine();
    for spec in ["nonesuch", "nonesuch:x", "script:/nowhere/at/all.jsonl"] {
        refused(
            &home,
            &["run", "--session", "s", "--model", spec, "hi"],
            2,
            &[spec.trim_start_matches("script:")],
        );
    }
    assert!(!home.path("sessions/s.jsonl").exists(), "a session was begun");
    let home = home.config("model = \"nonesuch\"\n");
    refused(&home, &["run", "hi"], 2, &["nonesuch"]);
    server.asked(0);
}

#[test]
fn a_name_that_cannot_be_a_sessions_is_wrong_usage() {
    let (server, home) = fine();
    turn(&home, "hi");
    let long = "x".repeat(65);
    for name in ["a/b", "../a", "..", ".hidden", "", "a b", "ä", &long] {
        let session = format!("--session={name}");
        refused(&home, &["run", &session, "hi"], 2, &["bad session name"]);
        refused(&home, &["wire", "--", name], 2, &["bad session name"]);
        refused(&home, &["end", "--", name], 2, &["bad session name"]);
    }
    server.asked(1);
}

#[test]
fn wrong_usage_says_what_would_be_right() {
    let (server, home) = fine();
    refused(&home, &["run", "  \n "], 2, &["nothing to do: give the task"]);
    refused(&home, &["help", "nonesuch"], 2, &["nonesuch"]);
    refused(&home, &["dance"], 2, &["dance"]);
    server.asked(0);
}

#[test]
fn a_home_that_cannot_be_is_named() {
    let (_server, home) = fine();
    let file = home.cwd().join("file");
    fs::write(&file, "x").expect("a file");
    let under = file.join("home").display().to_string();
    refused(
        &home,
        &["run", "--home", &under, "hi"],
        1,
        &[&under, "name a home that you may write to"],
    );
    let ran = home.run(&["doctor", "--home", &under]).code(1).stdout_any().check();
    assert!(ran.stdout.contains(&under), "{ran}");
    assert!(ran.stdout.contains("\nBAD  home ") && ran.stdout.contains("none yet"), "{ran}");
}

#[test]
fn a_home_of_a_newer_version_is_left_alone() {
    let (server, home) = fine();
    turn(&home, "hi");
    let state = rusqlite::Connection::open(home.path("state.db")).expect("a database");
    let format = |format: u32| state.pragma_update(None, "user_version", format).expect("a number");
    format(99);
    for args in [&["run", "hi"][..], &["sessions"], &["usage"]] {
        refused(&home, args, 1, &["state.db has format 99", "newer fledgling", "--home"]);
    }
    format(1);
    let path = home.path("sessions/s.jsonl");
    let text = fs::read_to_string(&path).expect("a transcript");
    let newer = text.replacen("\"format\":1", "\"format\":99", 1);
    assert_ne!(newer, text);
    fs::write(&path, &newer).expect("a file");
    refused(
        &home,
        &["run", "--session", "s", "hi"],
        1,
        &["s.jsonl has format 99", "newer fledgling"],
    );
    assert_eq!(fs::read_to_string(&path).expect("a transcript"), newer);
    server.asked(1);
    // A message that was refused does not come back later.
    fs::write(&path, &text).expect("a file");
    turn(&home, "again");
    assert_eq!(last(&server).heard().matches("hi").count(), 1);
}

#[test]
fn what_a_killed_host_left_does_not_keep_the_next_one_out() {
    let (server, home) = fine();
    let gate = Gate::new();
    server.queue(Reply::new().wait(&gate));
    let process = home.spawn(&["run", "--session", "s", "hi"]);
    gate.reached();
    process.kill();
    assert!(home.path("host.lock").exists() && home.path("host.sock").exists());
    let ran = turn(&home, "again");
    assert!(ran.stderr.contains("Turn 1 of session s was interrupted"), "{ran}");
    assert!(!home.path("host.sock").exists());
}

#[test]
fn a_host_that_does_not_answer_is_not_waited_for_without_end() {
    let (server, home) = fine();
    turn(&home, "hi");
    let lock = File::options().write(true).open(home.path("host.lock")).expect("a lock");
    lock.lock().expect("it is free");
    let why = ["another fledgling runs in", "host.lock", "end it and try again"];
    refused(&home, &["run", "hi"], 1, &why);
    // Nor one that takes the connection and says nothing.
    let _silent = std::os::unix::net::UnixListener::bind(home.path("host.sock")).expect("a socket");
    refused(&home, &["sessions"], 1, &why);
    lock.unlock().expect("it is held");
    turn(&home, "again");
    server.asked(2);
}

#[test]
fn a_torn_and_a_foreign_line_cost_no_more_than_themselves() {
    let (server, home) = fine();
    turn(&home, "one");
    turn(&home, "two");
    let path = home.path("sessions/s.jsonl");
    let text = fs::read_to_string(&path).expect("a transcript");
    let mut lines: Vec<&str> = text.lines().collect();
    lines.insert(3, "what is this?");
    lines.insert(
        3,
        "{\"kind\":\"news\",\"at\":\"2030-01-01T00:00:00+00:00\",\"of\":\"a later version\"}",
    );
    lines.insert(
        3,
        "{\"kind\":\"result\",\"at\":\"2030-01-01T00:00:00+00:00\",\"id\":\"x\",\"text\":\"t\"}",
    );
    let damaged = format!("{}\n{{\"kind\":\"assistant\",\"at\":\"2030-0", lines.join("\n"));
    fs::write(&path, &damaged).expect("a file");
    let ran = home.run(&["doctor"]).code(1).stdout_any().stderr_any().check();
    assert!(ran.stdout.contains("s.jsonl: line 6 was skipped"), "{ran}");
    fs::write(&path, &damaged).expect("a file");
    let ran = turn(&home, "three");
    let shown = path.display();
    for notice in [
        format!("{shown}: line 6 was skipped: it is not a line of a transcript"),
        "a result without a call was skipped: x".to_owned(),
        "it was cut off while it was written".to_owned(),
    ] {
        // Notices are wrapped to the width.
        assert!(ran.stderr.replace('\n', " ").contains(&notice), "{notice}\n{ran}");
    }
    assert!(fs::read_to_string(&path).expect("a transcript").starts_with(&damaged));
    let heard = last(&server).heard();
    assert!(["one", "two", "three"].iter().all(|word| heard.contains(word)), "{heard}");
    turn(&home, "four");
}

#[test]
fn instructions_that_cannot_be_used_keep_no_turn_from_starting() {
    let (server, home) = fine();
    turn(&home, "hi");
    let path = home.workspace("bootstrap.md");
    let built_in = "bootstrap.md is missing or empty: the one built in is used.";
    let prompt = system(&server);
    let change = |make: &dyn Fn(&Path)| {
        let _ = fs::remove_file(&path);
        let _ = fs::remove_dir(&path);
        make(&path);
        server.allow_prefix_change();
        turn(&home, "hi").stderr
    };
    assert!(change(&|_| ()).contains(built_in));
    assert_eq!(system(&server), prompt);
    assert!(change(&|path| fs::write(path, " \n\n").expect("a file")).contains(built_in));
    assert_eq!(system(&server), prompt);
    let said = change(&|path| fs::create_dir(path).expect("a folder"));
    assert!(said.contains("bootstrap.md is not a file") && said.contains(built_in), "{said}");
    change(&|path| fs::write(path, b"\xef\xbb\xbfYou are \xff\xfe odd.\r\n").expect("a file"));
    assert!(system(&server).contains("You are \u{FFFD}\u{FFFD} odd."), "{}", system(&server));
    assert!(!system(&server).contains('\u{FEFF}'));
    let said = change(&|path| fs::write(path, "ä".repeat(20_000)).expect("a file"));
    assert!(
        said.contains("bootstrap.md has 40000 bytes: only the first 16000 are sent."),
        "{said}"
    );
}

#[test]
fn memory_and_skills_are_cut_and_left_out_with_a_notice_and_safe_does_without() {
    let (server, home) = fine();
    turn(&home, "hi");
    let write = |file: &str, text: &str| {
        let path = home.workspace(file);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(path, text).expect("a file");
    };
    write("memory/MEMORY.md", &format!("The owner is Ada. {}", "m".repeat(10_000)));
    write("skills/good/SKILL.md", "---\nname: good\ndescription: Does good.\n---\nBody.");
    write("skills/broken/SKILL.md", "no front matter");
    fs::create_dir_all(home.workspace("skills/empty")).expect("a folder");
    fs::create_dir_all(home.workspace("skills/folder/SKILL.md")).expect("a folder");
    server.allow_prefix_change();
    let ran = turn(&home, "hi");
    for notice in [
        "memory/MEMORY.md has 10018 bytes: only the first 8000 are sent.",
        "skills/broken/SKILL.md has no description in its front matter",
    ] {
        assert!(ran.stderr.contains(notice), "{notice}\n{ran}");
    }
    let prompt = system(&server);
    assert!(prompt.contains("The owner is Ada.") && prompt.contains("Does good."), "{prompt}");
    assert!(!prompt.contains("broken") && prompt.contains("[cut:"), "{prompt}");
    server.allow_prefix_change();
    write("bootstrap.md", "Be somebody else.");
    let run = home.run(&["run", "--safe", "--session", "s", "hi"]).stdout("Fine.\n");
    let ran = run.stderr_any().check();
    assert!(!ran.stderr.contains("MEMORY") && !ran.stderr.contains("broken"), "{ran}");
    let prompt = system(&server);
    for part in ["Ada", "Does good", "somebody else"] {
        assert!(!prompt.contains(part), "{prompt}");
    }
}

/// A process whose files may not grow beyond this many bytes: as on a full disk, a write
/// fails.
fn on_a_full_disk(home: &Home, args: &[&str], limit: u64) -> Process {
    let mut command = home.command(args);
    // SAFETY: only calls that are safe between fork and exec are made.
    unsafe {
        command.pre_exec(move || {
            libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
            let limit = libc::rlimit { rlim_cur: limit, rlim_max: limit };
            match libc::setrlimit(libc::RLIMIT_FSIZE, &raw const limit) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            }
        });
    }
    Process::start(command)
}

#[test]
fn a_transcript_that_cannot_be_written_ends_the_turn() {
    // A long reply, and a short message: what is said goes through state.db as well.
    let server = Server::start();
    let home = Home::new().with_openai(&server).config(&format!(
        "model = \"big\"\n[models.big]\nwire = \"openai\"\nname = \"m\"\nwindow = 1000000\n\
         base_url = \"{}/v1\"\nkey = \"OPENAI_API_KEY\"\n",
        server.url()
    ));
    server.queue(Reply::text(&"long words ".repeat(30_000)));
    home.run(&["run", "--session", "s", "hi"]).stdout_any().stderr_any().check();
    let path = home.path("sessions/s.jsonl");
    let size = fs::metadata(&path).expect("a transcript").len();
    assert!(size > 300_000, "{size}");
    let before = fs::read(&path).expect("a transcript");
    let ran = on_a_full_disk(&home, &["run", "--session", "s", "more"], size + 20).end();
    assert_eq!(ran.status.code(), Some(1), "{ran}");
    let why = "the turn could not be carried on: cannot append to transcript";
    assert!(ran.stderr.contains(why) && ran.stderr.contains("s.jsonl"), "{ran}");
    server.asked(1);
    assert!(fs::read(&path).expect("a transcript").starts_with(&before));
    // In the middle of a turn: the reply is not acted on when it cannot be recorded.
    let size = fs::metadata(&path).expect("a transcript").len();
    server.queue(Reply::new().bash(&format!("touch ran; echo {}", "x".repeat(4_000))));
    let ran = on_a_full_disk(&home, &["run", "--session", "s", "more"], size + 2_000).end();
    assert_eq!(ran.status.code(), Some(1), "{ran}");
    assert!(ran.stderr.contains(why), "{ran}");
    assert_eq!(ran.stderr.matches("the wire log is incomplete").count(), 1, "{ran}");
    assert_eq!(home.read("ran"), None);
    // With room again all goes on, and what was refused does not come back by itself.
    server.queue(Reply::text("Fine."));
    turn(&home, "and now?");
    assert!(last(&server).heard().contains("and now?"));
}

#[test]
fn what_the_agent_writes_into_its_workspace_changes_no_setting() {
    let (server, home) = fine();
    let evil = Server::start();
    turn(&home, "hi");
    for (file, text) in [
        (
            "config.toml",
            format!("model = \"openai:evil\"\n[models.x]\nbase_url = \"{}\"\n", evil.url()),
        ),
        (".env", format!("ANTHROPIC_BASE_URL={}\n", evil.url())),
        ("fledgling.toml", "[limits]\nsteps = 1\n".to_owned()),
        ("secrets.toml", "ANTHROPIC_API_KEY = \"another\"\n".to_owned()),
    ] {
        fs::write(home.workspace(file), &text).expect("a file");
        fs::write(home.cwd().join(file), text).expect("a file");
    }
    server.queue(Reply::new().bash("fledgling self --json"));
    turn(&home, "hi");
    let about: Value = serde_json::from_str(&last(&server).results()[0]).expect("JSON");
    assert_eq!(about["limits_a_turn"]["steps"], 200);
    assert!(about["model"]["name"].as_str().expect("a name").starts_with("anthropic:"), "{about}");
    assert_eq!(last(&server).headers["x-api-key"], "test-key-not-real");
    evil.asked(0);
}

#[test]
fn no_key_reaches_a_command() {
    let (server, home) = fine();
    let home = home.env("OPENAI_API_KEY", "another-key").env("OPENROUTER_API_KEY", "third-key");
    server.queue(Reply::new().bash("env; cat /proc/self/environ | tr '\\0' '\\n'"));
    turn(&home, "hi");
    let env = &last(&server).results()[0];
    assert!(env.contains("FLEDGLING_DOOR=") && env.contains("HOME="), "{env}");
    for part in ["test-key-not-real", "another-key", "third-key", "_KEY", "BASE_URL"] {
        assert!(!env.contains(part), "{part} in {env}");
    }
    // SAFETY: it only tells who we are.
    if unsafe { libc::geteuid() } == 0 {
        eprintln!("skipped: root may read the environment of every process");
        return;
    }
    server.queue(Reply::new().bash(
        "for p in /proc/[0-9]*; do grep -aq test-key-not-real $p/environ 2>&1 && echo $p; done; true",
    ));
    turn(&home, "hi");
    let found = &last(&server).results()[1];
    assert!(!found.contains("/proc/"), "{found}");
}

#[test]
fn the_doctor_finds_a_healthy_home_healthy_and_names_what_is_wrong() {
    let (server, home) = fine();
    turn(&home, "hi");
    let ran = home.run(&["doctor"]).stdout_any().check();
    assert!(!ran.stdout.contains("BAD"), "{ran}");
    fs::write(home.path("secrets.toml"), "K = \"v\"\n").expect("a file");
    let mode = |mode| {
        use std::os::unix::fs::PermissionsExt;
        let path = home.path("secrets.toml");
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("a mode");
    };
    mode(0o644);
    let ran = home.run(&["doctor"]).code(1).stdout_any().check();
    assert!(ran.stdout.contains("BAD  home") && ran.stdout.contains("chmod 600"), "{ran}");
    mode(0o600);
    let ran = home.run(&["doctor"]).env("PATH", "/nonexistent").code(1).stdout_any().check();
    assert!(ran.stdout.contains("BAD  bash") && ran.stdout.contains("BAD  git"), "{ran}");
    fs::write(home.path("sessions/bad.jsonl"), "{\"kind\":\n").expect("a file");
    let ran = home.run(&["doctor"]).code(1).stdout_any().check();
    assert!(ran.stdout.contains("BAD  session") && ran.stdout.contains("bad.jsonl"), "{ran}");
    server.asked(1);
}

#[test]
fn an_error_that_a_file_worded_cannot_steer_the_terminal() {
    let home = Home::new();
    let trigger = "CREATE TABLE t(a); CREATE TRIGGER g BEFORE INSERT ON t \
        BEGIN SELECT RAISE(ABORT, '\x1b]52;c;ZXZpbA==\x07no\u{9b}2J'); END";
    home.run(&["sql", "x.db", trigger]).stderr_any().check();
    let ran = home.run(&["sql", "x.db", "INSERT INTO t VALUES (1)"]).code(1).stderr_any().check();
    assert!(ran.stderr.trim_end().ends_with(": no"), "{ran}");
}
