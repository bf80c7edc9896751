//! Conversations that are recorded, played, and carried out again: what a recording holds, what
//! a replay finds and what it does not mistake for a difference, and that nothing of it stays.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::history::World;
use crate::home::{Home, Ran};
use crate::model_server::Server;
use crate::repl::{prompt, talk};
use crate::reply::Reply;

/// A turn whose one command this is, recorded.
fn recorded(world: &World, command: &str) -> PathBuf {
    let file = world.home.cwd().join("recorded.jsonl");
    world.server.allow_prefix_change();
    world.server.queue(Reply::new().bash(command)).queue(Reply::text("Done."));
    let path = file.to_str().unwrap();
    let run = world.home.run(&["run", "--session", "r", "--record", path, "do it"]);
    run.stdout("Done.\n").stderr_any().check();
    file
}

/// A replay that ends with this code and leaves nothing behind.
#[track_caller]
fn replay(home: &Home, file: &Path, more: &[&str], code: i32) -> Ran {
    let before = (fs::read_dir(home.path("")).map_or(0, Iterator::count), listing(home));
    let arguments = [&["replay", file.to_str().unwrap()], more].concat();
    let ran = home.run(&arguments).code(code).stdout_any().stderr_any().check();
    if before.0 > 0 {
        assert_eq!(listing(home), before.1, "{ran}");
    }
    nothing_left(home);
    ran
}

fn listing(home: &Home) -> Vec<(PathBuf, Option<Vec<u8>>)> {
    let mut found = Vec::new();
    let mut folders = vec![home.workspace("")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.push((path.clone(), fs::read(path).ok()));
            }
        }
    }
    found.sort();
    found
}

#[track_caller]
fn nothing_left(home: &Home) {
    let names = fs::read_dir(home.path("")).unwrap().map(|entry| entry.unwrap().file_name());
    let is_ours = |name: &str| name.starts_with("replay-") || name.starts_with("try-");
    let left: Vec<_> = names.filter(|name| is_ours(name.to_str().unwrap())).collect();
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(fs::read_dir(home.path("scratch")).map_or(0, Iterator::count), 0);
}

fn lines(file: &Path) -> Vec<Value> {
    let text = fs::read_to_string(file).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with("//"));
    lines.map(|line| serde_json::from_str(line).expect(line)).collect()
}

#[test]
fn the_tour_replays_in_another_home_without_a_difference() {
    let (first, second) = (Home::new(), Home::new());
    let file = first.cwd().join("tour.jsonl");
    let path = file.to_str().unwrap();
    first.run(&["tour", "--record", path]).stdout_any().check();
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let ran = replay(&second, &file, &[], 0);
    assert_eq!(ran.stdout, "14 calls, all answered as recorded.\n", "{ran}");
    // What it reads and does not write itself.
    let skill = second.workspace("skills/keep-a-store/SKILL.md");
    let text = fs::read_to_string(&skill).unwrap();
    fs::write(&skill, text.replace("One script", "Two scripts")).unwrap();
    let ran = replay(&second, &file, &[], 1);
    assert!(ran.stdout.contains("turn 1, call 1: read skills/keep-a-store/SKILL.md"), "{ran}");
    assert!(ran.stdout.contains("1 answered otherwise"), "{ran}");
    // It plays as well.
    let model = format!("script:{path}");
    let ran = second.run(&["run", "--model", &model, "go"]).stdout_any().stderr_any().check();
    assert!(ran.stdout.contains("It starts"), "{ran}");
    assert!(second.workspace("bin/coffee").exists());
}

/// A home with a script in daily use, and a conversation that used it.
fn with_script() -> (World, PathBuf) {
    let world = World::new();
    let script = "#!/bin/sh\necho \"$1: $(wc -l < data) lines\"\ndate +%s%N\n";
    world.turn(
        "a script",
        &format!("mkdir bin; echo -n '{script}' > bin/count; chmod +x bin/count; seq 3 > data"),
    );
    let file = recorded(&world, "count now; echo more >> data; count then");
    world.turn("something else", "echo 1 > other");
    (world, file)
}

#[test]
fn a_planted_bug_is_found_by_replay_and_by_bisect() {
    let (world, file) = with_script();
    let path = file.to_str().unwrap();
    // The time of day is told apart, and what the conversation wrote begins as it did.
    let ran = replay(&world.home, &file, &[], 0);
    assert!(ran.stdout.starts_with("1 call: 1 varying by themselves.\n"), "{ran}");
    assert!(ran.stdout.contains("too, so not for what changed since:\n  turn 1, call 1: bash"));
    assert!(ran.stdout.contains("(1 path) began as in commit"), "{ran}");
    let said = world.refuses(&["bisect", "--replay", path]);
    assert!(said.contains("the replay succeeds with the latest change"), "{said}");

    world.turn("make it shorter", "sed -i 's/ lines/ l./' bin/count");
    world.turn("later", "echo 2 > other");
    let ran = replay(&world.home, &file, &[], 1);
    assert!(ran.stdout.contains("-now: 3 lines\n"), "{ran}");
    assert!(ran.stdout.contains("+now: 3 l.\n"), "{ran}");
    let json = replay(&world.home, &file, &["--json"], 1);
    let told: Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!((&told["calls"], &told["same"]), (&json!(1), &json!(0)), "{json}");
    assert_eq!(told["put_back"], json!(["data"]), "{json}");
    assert!(told["differ"][0]["now"]["text"].as_str().unwrap().starts_with("now: 3 l.\n"));

    let found = world.says(&["bisect", "--replay", path]);
    assert!(found.contains("make it shorter") && !found.contains("later"), "{found}");
    assert!(found.contains("What differs there:\nturn 1, call 1: bash count now"), "{found}");
    assert!(found.contains("-now: 3 lines\n"), "{found}");
    nothing_left(&world.home);
    // The data that it changed itself is as it was before the second time, unless it is not to be.
    let ran = replay(&world.home, &file, &["--as-it-is"], 1);
    assert!(ran.stdout.contains("+now: 4 l.\n"), "{ran}");
    // From a tool call, with what the turn has changed so far.
    let shown = "sed -i 's/ l\\./ lines/' bin/count; fledgling replay ../../cwd/recorded.jsonl";
    fs::copy(&file, world.home.workspace("kept.jsonl")).unwrap();
    let said = world.result("mend it", &shown.replace("../../cwd/recorded.jsonl", "kept.jsonl"));
    assert!(said.contains("\n1 call: 1 varying by themselves.\n"), "{said}");
}

#[test]
fn what_the_owner_changed_between_the_turns_is_changed_again() {
    let world = World::new();
    let file = world.home.cwd().join("two.jsonl");
    let path = file.to_str().unwrap();
    world.turn("one", "echo a > list; cat list");
    world.write("list", "owner's\n");
    world.write("beside", "1\n");
    world.turn(
        "two",
        "cat beside >> list; cat list; sqlite3 2>/dev/null; fledgling sql d.db 'CREATE TABLE t(x)'",
    );
    world.turn("three", "fledgling sql d.db \"INSERT INTO t VALUES (7); SELECT count(*) FROM t\"");
    world
        .home
        .run(&["record", "s", path])
        .stderr(&format!("3 turns recorded in {path}.\n"))
        .check();
    world.in_session(
        "other",
        "later",
        "fledgling sql d.db 'INSERT INTO t VALUES (8)'; echo b > list",
    );
    let ran = replay(&world.home, &file, &[], 0);
    assert_eq!(ran.stdout, "3 calls, all answered as recorded.\n", "{ran}");
    // A file that it only read has become another.
    world.write("beside", "2\n");
    let ran = replay(&world.home, &file, &[], 1);
    assert!(ran.stdout.contains("turn 2, call 2: bash cat beside"), "{ran}");
    assert!(ran.stdout.contains("-1\n+2\n"), "{ran}");
}

#[test]
fn what_a_call_asks_of_the_host_is_not_replayed_and_what_it_asks_of_the_world_is_refused() {
    let world = World::new();
    let outside = world.home.cwd().join("outside");
    fs::create_dir(&outside).unwrap();
    world.says(&["allow", "write", outside.to_str().unwrap()]);
    let file = recorded(&world, &format!("echo x >> {}/f; fledgling log -n 1", outside.display()));
    let told = lines(&file);
    assert_eq!(told[0]["recorded"]["session"], "r");
    let ran = replay(&world.home, &file, &[], 0);
    assert!(ran.stdout.starts_with("1 call: 1 not replayed.\n"), "{ran}");
    assert!(ran.stdout.contains("nobody answers"), "{ran}");
    assert_eq!(fs::read_to_string(outside.join("f")).unwrap(), "x\n");
    replay(&world.home, &file, &["--live"], 0);
    assert_eq!(fs::read_to_string(outside.join("f")).unwrap(), "x\nx\n");
    // The workspace itself is out of reach, by whatever name.
    let file = recorded(&world, "echo \"$FLEDGLING_HOME\" > where; cat where");
    fs::write(world.home.workspace("where"), "mine").unwrap();
    let ran = replay(&world.home, &file, &[], 0);
    assert!(ran.stdout.contains("all answered as recorded"), "{ran}");
    let file = recorded(
        &world,
        "echo there > \"$FLEDGLING_HOME/workspace/own\"; fledgling help sql | head -n 1",
    );
    world.turn("away with it", "rm own");
    let ran = replay(&world.home, &file, &["--live"], 1);
    assert!(ran.stdout.contains("1 answered otherwise"), "{ran}");
    let ran = replay(&world.home, &file, &[], 0);
    assert!(ran.stdout.contains("varying by themselves"), "{ran}");
    assert!(world.read("own").is_none());
}

#[test]
fn folders_secrets_and_long_outputs_are_called_alike() {
    let secret = "hunter2-hunter2-hunter2";
    let world = World::new();
    let run = world.home.run(&["secret", "set", "MINE"]).stdin(format!("{secret}\n"));
    run.stdout_any().stderr_any().check();
    let workspace = world.home.workspace("");
    let shown = workspace.to_str().unwrap().trim_end_matches('/');
    let command = format!("cd {shown}; pwd; echo $TMPDIR; seq 9999; echo {secret}");
    let file = recorded(&world, &command);
    let text = fs::read_to_string(&file).unwrap();
    assert!(!text.contains(secret) && !text.contains(shown), "{text}");
    assert!(text.contains("cd @WORKSPACE@; pwd") && text.contains("@SCRATCH@/output/bash-"));
    fs::remove_dir_all(world.home.path("scratch/output")).unwrap();
    let ran = replay(&world.home, &file, &[], 0);
    assert!(ran.stdout.contains("all answered as recorded"), "{ran}");
    // Played, its calls are about the folders of the home it is played in.
    let other = Home::new();
    let model = format!("script:{}", file.display());
    let ran = other.run(&["--json", "run", "--model", &model, "go"]).stdout_any().check();
    assert!(ran.stdout.contains(&format!("cd {}", other.workspace("").display())[..20]), "{ran}");
    assert!(!ran.stdout.contains("No such file"), "{ran}");
}

#[test]
fn what_is_no_recording_is_neither_overwritten_nor_replayed() {
    let world = World::new();
    world.turn("one", "echo 1");
    let file = world.home.cwd().join("notes");
    fs::write(&file, "mine\n").unwrap();
    let path = file.to_str().unwrap();
    let taken =
        format!("fledgling: {path} is there already and is no recording; name another file\n");
    world.home.run(&["record", "s", path]).code(2).stderr(&taken).check();
    // Before anything is asked of a model.
    world.home.run(&["run", "--record", path, "x"]).code(2).stderr(&taken).check();
    let why = world.refuses(&["replay", path]);
    assert!(why.contains("cannot replay") && why.contains("line 1 of the recording"), "{why}");
    fs::write(&file, "{\"text\": \"a script\"}\n").unwrap();
    let why = world.refuses(&["replay", path]);
    assert!(why.contains("`fledgling record SESSION FILE` makes one"), "{why}");
    let run = world.home.run(&["log", "--record", "x"]).code(2).stderr_any();
    run.check();
    assert!(world.refuses(&["record", "nobody"]).contains("there is no session \"nobody\""));
    let ran = world.home.run(&["record", "s"]).stdout_any().check();
    assert!(
        ran.stdout.starts_with("// A recorded conversation.") && ran.stdout.contains("\"one\"")
    );
}

#[test]
fn ctrl_c_and_a_kill_leave_nothing() {
    let world = World::new();
    world.turn("one", "echo 1");
    let file = world.home.cwd().join("slow.jsonl");
    let head = json!({"recorded": {"format": 1, "session": "s", "turn": 1, "commit": null}});
    let calls =
        json!({"calls": [{"name": "bash", "input": {"command": "touch begun; sleep 500"}}]});
    let result = json!({"results": [{"text": "", "error": false}]});
    fs::write(&file, format!("{head}\n{calls}\n{result}\n")).unwrap();
    let begun = || loop {
        let folders = fs::read_dir(world.home.path("")).unwrap().flatten();
        if folders.map(|entry| entry.path()).any(|path| path.join("begun").exists()) {
            return;
        }
        std::thread::yield_now();
    };
    let replaying = world.home.spawn(&["replay", file.to_str().unwrap()]);
    begun();
    replaying.signal(libc::SIGINT);
    let ran = replaying.end();
    assert_eq!(ran.status.code(), Some(130), "{ran}");
    nothing_left(&world.home);
    // Behind the door of another process, too.
    let serving = world.home.spawn(&["serve"]);
    serving.wait_stderr(" INFO hosts; ");
    let replaying = world.home.spawn(&["replay", file.to_str().unwrap()]);
    begun();
    replaying.signal(libc::SIGKILL);
    drop(replaying);
    while fs::read_dir(world.home.path(""))
        .unwrap()
        .flatten()
        .any(|entry| entry.file_name().to_str().unwrap().starts_with("replay-"))
    {
        std::thread::yield_now();
    }
    serving.signal(libc::SIGTERM);
    serving.end();
    let replaying = world.home.spawn(&["replay", file.to_str().unwrap()]);
    begun();
    replaying.signal(libc::SIGKILL);
    drop(replaying);
    world.says(&["log"]);
    nothing_left(&world.home);
}

#[test]
fn a_conversation_in_the_terminal_is_recorded_turn_by_turn() {
    let server = Server::start();
    let home = Home::new().with_anthropic(&server);
    let file = home.cwd().join("talk.jsonl");
    server.queue(Reply::new().bash("echo hi")).queue(Reply::text("First."));
    server.queue(Reply::text("Second."));
    let mut terminal = talk(&home, &["--record", file.to_str().unwrap()]);
    terminal.send("one\r");
    terminal.wait_text("First.");
    while !file.exists() {
        std::thread::yield_now();
    }
    assert!(fs::read_to_string(&file).unwrap().contains("{\"text\":\"First.\""));
    prompt(&terminal, "");
    terminal.send("two\r");
    terminal.wait_text("Second.");
    prompt(&terminal, "");
    terminal.send(&format!("/replay {}\r", file.display()));
    terminal.wait_text("1 call, all answered as recorded.");
    prompt(&terminal, "");
    terminal.send("\x04");
    terminal.wait_end();
    let owner: Vec<_> =
        lines(&file).iter().filter_map(|line| line["owner"].as_str().map(str::to_owned)).collect();
    assert_eq!(owner, ["one", "two"]);
}

#[test]
fn where_nothing_is_confined_a_replay_has_to_be_wished() {
    let world = World::with("confine = \"off\"\n");
    let file = recorded(&world, "echo hi");
    let said = world.refuses(&["replay", file.to_str().unwrap()]);
    assert!(said.contains("nothing is confined here") && said.contains("--live"), "{said}");
    let ran = replay(&world.home, &file, &["--live"], 0);
    assert_eq!(ran.stdout, "1 call, all answered as recorded.\n", "{ran}");
}

#[test]
fn a_replay_reaches_no_network_unless_it_is_wished() {
    let world = World::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    let came = || std::iter::from_fn(|| listener.accept().ok()).count();
    let file = recorded(&world, &format!("exec 3<>/dev/tcp/127.0.0.1/{port} && echo reached"));
    assert_eq!(came(), 1);
    let ran = replay(&world.home, &file, &[], 0);
    assert_eq!(came(), 0, "{ran}");
    replay(&world.home, &file, &["--live"], 0);
    assert_eq!(came(), 1, "with --live it is there to be reached");
    // Nor by a search.
    world.turn("something else", "echo 1 > other");
    world.refuses(&["bisect", "--replay", file.to_str().unwrap()]);
    assert_eq!(came(), 0);
}

#[test]
fn a_recording_from_elsewhere_reaches_nothing_and_breaks_nothing() {
    let world = World::new();
    world.turn("éééééé", "echo 1 > one");
    let key = fs::read_to_string(world.home.path("door.key")).unwrap();
    let file = world.home.cwd().join("theirs.jsonl");
    let path = file.to_str().unwrap();
    let head = |commit: &str| json!({"recorded": {"format": 1, "session": "s", "turn": 1, "commit": commit}});
    let calls = json!({"calls": [
        {"name": "read", "input": {"path": "@HOME@/door.key"}},
        {"name": "bash", "input": {"command": "cat @HOME@/door.key; echo x > @HOME@/mine"}},
        {"name": "write", "input": {"path": "../../mine", "content": "x"}},
        {"name": "write", "input": {"path": "@HOME@/workspace/one", "content": "x"}},
        {"name": "bash", "input": {"command": "ln -s @HOME@/workspace away; echo x > away/one"}},
        {"name": "hammer", "input": [[[1]]]},
    ]});
    let answer = json!({"text": "", "error": false});
    let results = json!({"results": vec![answer; 6]});
    // What is no commit is none, also where it could name one.
    for commit in ["HEAD", "HEAD^{/éééé}", "main~1", "éééééééééééé"] {
        fs::write(&file, format!("{}\n{calls}\n{results}\n", head(commit))).unwrap();
        let ran = replay(&world.home, &file, &["--json"], 1);
        let told: Value = serde_json::from_str(&ran.stdout).unwrap();
        assert_eq!((&told["commit"], &told["same"]), (&Value::Null, &json!(0)), "{ran}");
        assert!(!ran.stdout.contains(key.trim()), "{ran}");
        assert_eq!(world.read("one").as_deref(), Some("1\n"));
        assert!(!world.home.path("mine").exists() && !world.home.cwd().join("mine").exists());
    }
    // Too deep, and too large, also for a host elsewhere.
    let deep = format!("{{\"calls\": {}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    fs::write(&file, format!("{}\n{deep}\n", head("HEAD"))).unwrap();
    let why = world.refuses(&["replay", path]);
    assert!(why.contains("line 2 of the recording: recursion limit exceeded"), "{why}");
    fs::File::create(&file).unwrap().set_len(40 << 20).unwrap();
    let why = world.refuses(&["replay", path]);
    assert!(why.contains("it has 40 MB, and 30 are the most"), "{why}");
}

/// Conversations with real models, recorded in newborn homes (see `real_model.rs`).
#[test]
fn recorded_sessions_of_real_models_replay_without_a_difference() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/recordings");
    let files: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(!files.is_empty());
    for file in files {
        let home = Home::new();
        let ran = replay(&home, &file, &[], 0);
        assert!(ran.stdout.contains(" calls, all answered as recorded."), "{ran}");
        // And it plays: the model's own words and calls, on real tools.
        let model = format!("script:{}", file.display());
        let owner: Vec<_> = lines(&file)
            .iter()
            .filter_map(|line| Some(format!("{}\n", line["owner"].as_str()?)))
            .collect();
        let again = home.cwd().join("again.jsonl");
        let path = again.to_str().unwrap();
        let run = home.run(&["--session", "again", "--model", &model, "--record", path]);
        run.stdin(owner.concat()).stdout_any().stderr_any().check();
        let told = |file: &Path| -> Vec<Value> {
            let own = |line: &Value| line.get("results").is_some() || line.get("calls").is_some();
            let lines = lines(file).into_iter().filter(own);
            lines.map(|line| json!([line["calls"], line["results"]])).collect()
        };
        assert_eq!(told(&again), told(&file));
    }
}
