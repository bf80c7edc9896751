//! Turns on a branch, in a checkout of its own: the workspace stays as it is, and whatever
//! happens to the host, what was done there is in the branch's history.

use std::fs;

use serde_json::json;

use crate::home::{Home, Run};
use crate::kills::{Fifo, Watched};
use crate::model_server::Server;
use crate::reply::{Gate, Reply};
use crate::rules::Wire;

/// A home whose workspace has a file, behind a server.
fn home() -> (Server, Home) {
    let server = Server::start();
    let home = Home::new().with(Wire::Anthropic, &server);
    server.queue(Reply::new().bash("echo one > a")).queue(Reply::text("Ready."));
    home.run(&["run", "--session", "first", "get ready"]).stdout("Ready.\n").stderr_any().check();
    server.allow_prefix_change();
    (server, home)
}

fn on_branch(home: &Home, text: &str) -> Run {
    home.run(&["run", "--branch", "idea", text]).stdout_any().stderr_any()
}

/// What is in a file of the branch's checkout.
fn read(home: &Home, file: &str) -> Option<String> {
    fs::read_to_string(home.path("branches/idea").join(file)).ok()
}

/// Subjects and authors of what is on a branch and not on main, latest first.
fn beyond_main(home: &Home) -> String {
    home.git(&["log", "--format=%an: %s", "main..idea"])
}

fn clean(home: &Home) {
    for folder in [".", "../branches/idea"] {
        assert_eq!(home.git(&["-C", folder, "status", "--porcelain"]), "", "{folder}");
    }
    home.git(&["fsck", "--strict", "--no-dangling"]);
}

#[test]
fn turns_on_a_branch_leave_the_workspace_alone() {
    let (server, home) = home();
    fs::write(home.workspace("edited"), "by the owner\n").expect("a file");
    let write = json!({"path": "b", "content": "written\n"});
    server
        .queue(Reply::new().bash("pwd; echo $HOME; cat edited; echo two > a; echo ${PATH%%:*}"))
        .queue(Reply::new().call("write", write))
        .queue(Reply::text("Done."));
    on_branch(&home, "try it").stdout("Done.\n").check();
    let checkout = home.path("branches/idea").display().to_string();
    let results = server.wait(5)[4].results();
    assert_eq!(results[0], format!("{checkout}\n{checkout}\nby the owner\n{checkout}/bin\n"));
    assert!(server.wait(5)[2].body["system"].to_string().contains(&checkout));
    let main = home.git(&["rev-parse", "main"]);
    assert_eq!(
        home.git(&["log", "-1", "--format=%an: %s", "main"]),
        "owner: Edits outside fledgling\n"
    );
    // The next one goes on in the same conversation, in a host of its own.
    server.queue(Reply::new().bash("cat a b; echo three > a")).queue(Reply::text("Again."));
    on_branch(&home, "go on").stdout("Again.\n").check();
    let asked = server.wait(7);
    assert!(asked[6].heard().contains("try it"), "{:?}", asked[6].said());
    assert_eq!(asked[6].results().last().expect("a result"), "two\nwritten\n");
    // And so does whoever names the session.
    server.queue(Reply::new().bash("echo four > a")).queue(Reply::text("Once more."));
    home.run(&["run", "--session", "idea", "more"]).stdout("Once more.\n").stderr_any().check();
    assert_eq!(beyond_main(&home), "fledgling: more\nfledgling: go on\nfledgling: try it\n");
    let trailers = home.git(&["log", "-2", "--format=%(trailers:only)", "idea"]);
    for part in ["Session: idea", "Turn: 3", "Turn: 2", "Origin: owner", "Model: ", "Tokens: "] {
        assert!(trailers.contains(part), "{trailers}");
    }
    assert_eq!(home.git(&["rev-parse", "main"]), main);
    assert_eq!((home.read("a").as_deref(), home.read("b")), (Some("one\n"), None));
    assert_eq!(read(&home, "a").as_deref(), Some("four\n"));
    assert_eq!(home.git(&["diff", "--name-only", "main", "idea"]), "a\nb\n");
    clean(&home);
    server.check();
}

#[test]
fn a_turn_that_was_killed_is_the_branchs() {
    let (server, home) = home();
    server.queue(Reply::new().bash("echo 1 > b")).queue(Reply::text("Begun."));
    on_branch(&home, "begin").stdout("Begun.\n").check();
    let main = home.git(&["rev-parse", "main"]);
    let told = Fifo::make(&home.path("scratch/told"));
    Fifo::make(&home.path("branches/idea/never"));
    let command = "echo 2 > b; echo $$ > $TMPDIR/told; cat never";
    server.queue(Reply::new().bash(command));
    let process = home.spawn(&["run", "--branch", "idea", "the task"]);
    let left = Watched::of(told.line().trim());
    process.kill();
    left.gone();
    // The next start, of whatever session, records it.
    server.allow_prefix_change();
    server.queue(Reply::text("Hello."));
    let run = home.run(&["run", "--session", "first", "hi"]).stdout("Hello.\n");
    run.stderr_holds(&["Turn 2 of session idea was interrupted"]).check();
    assert_eq!(beyond_main(&home), "fledgling: Interrupted: turn 2 of idea\nfledgling: begin\n");
    assert_eq!(home.git(&["show", "idea:b"]), "2\n");
    assert_eq!((home.git(&["rev-parse", "main"]), home.read("b")), (main, None));
    server.allow_prefix_change();
    server.queue(Reply::text("Here again."));
    on_branch(&home, "what happened?").stdout("Here again.\n").check();
    let asked = server.wait(0);
    assert!(asked.last().expect("one").heard().contains("interrupted"));
    clean(&home);
}

#[test]
fn turns_on_a_branch_and_on_main_go_side_by_side() {
    let (server, home) = home();
    let gate = Gate::new();
    let first = Reply::new().wait(&gate).bash("echo branch > c");
    server.queue(first);
    let branch = home.spawn(&["run", "--branch", "idea", "on the branch"]);
    gate.reached();
    server.allow_prefix_change();
    server.queue(Reply::new().bash("echo main > c")).queue(Reply::text("Main."));
    home.run(&["run", "--session", "first", "on main"]).stdout("Main.\n").stderr_any().check();
    server.allow_prefix_change();
    server.queue(Reply::text("Branch."));
    gate.open();
    let ran = branch.end();
    assert_eq!(ran.stdout, "Branch.\n", "{ran}");
    assert_eq!(beyond_main(&home), "fledgling: on the branch\n");
    assert_eq!(home.git(&["log", "--format=%s", "idea..main"]), "on main\n");
    assert_eq!(
        (home.git(&["show", "main:c"]), home.git(&["show", "idea:c"])),
        ("main\n".to_owned(), "branch\n".to_owned())
    );
    clean(&home);
}

#[test]
fn two_sessions_on_one_branch_share_its_history() {
    let (server, home) = home();
    let gate = Gate::new();
    server.queue(Reply::new().wait(&gate).bash("cat e; echo 1 > d"));
    let one = home.spawn(&["run", "--branch", "idea", "one"]);
    gate.reached();
    server.allow_prefix_change();
    server.queue(Reply::new().bash("echo 2 > e")).queue(Reply::text("Two."));
    let two = home.run(&["run", "--branch", "idea", "--session", "other", "two"]);
    two.stdout("Two.\n").stderr_any().check();
    server.allow_prefix_change();
    server.queue(Reply::text("One."));
    gate.open();
    assert_eq!(one.end().stdout, "One.\n");
    let asked = server.wait(0);
    assert_eq!(asked.last().expect("one").results(), ["2\n"]);
    assert_eq!(beyond_main(&home), "fledgling: one\nfledgling: two\n");
    assert_eq!(home.git(&["log", "-2", "--format=", "--name-only", "idea"]), "d\ne\n");
    clean(&home);
}

#[test]
fn a_turn_on_a_branch_does_not_reach_the_workspace() {
    let (server, home) = home();
    server
        .queue(Reply::new().bash("cd ../../workspace && cat a && echo x > reached; rm a"))
        .queue(Reply::text("Done."));
    on_branch(&home, "reach over").stdout("Done.\n").check();
    let asked = server.wait(4);
    let results = asked[3].results();
    assert!(results[0].contains("may be read but not changed"), "{results:?}");
    assert!(home.read("reached").is_none() && home.read("a").is_some());
}

/// Where hands are not confined.
#[test]
fn what_a_turn_on_a_branch_does_in_the_workspace_is_not_the_owners() {
    let (server, home) = home();
    let home = home.config("confine = \"off\"\n");
    fs::write(home.workspace("edited"), "by the owner\n").expect("a file");
    server
        .queue(Reply::new().bash("cd ../../workspace; echo x > reached; rm a"))
        .queue(Reply::text("Done."));
    on_branch(&home, "reach over").stdout("Done.\n").check();
    assert_eq!(beyond_main(&home), "");
    let log = home.git(&["log", "-2", "--format=%an: %s", "--name-only", "main"]);
    assert_eq!(
        log,
        "fledgling: Changes of unknown origin\n\na\nreached\nowner: Edits outside fledgling\n\nedited\n"
    );
    // Nobody is suspected any more of what comes.
    fs::remove_file(home.workspace("reached")).expect("a file");
    server.allow_prefix_change();
    server.queue(Reply::text("Hello."));
    home.run(&["run", "--session", "first", "hi"]).stdout("Hello.\n").stderr_any().check();
    assert_eq!(home.git(&["log", "-1", "--format=%an", "main"]), "owner\n");
}

#[test]
fn what_an_agent_starts_on_a_branch_stays_on_it() {
    let (server, home) = home();
    let child = Server::start();
    let home = home.with(Wire::OpenAi, &child);
    child.queue(Reply::new().bash("echo child > child; pwd")).queue(Reply::text("Helped."));
    server
        .queue(Reply::new().bash("fledgling run --session child --model openai:tiny help 2>&1"))
        // But a branch is the owner's to begin.
        .queue(Reply::new().bash("fledgling run --branch other hi 2>&1"))
        .queue(Reply::text("Done."));
    on_branch(&home, "have it done").stdout("Done.\n").check();
    let results = server.wait(5)[4].results();
    assert!(results[0].contains("Helped."), "{results:?}");
    assert!(results[1].contains("only the owner"), "{results:?}");
    assert_eq!((read(&home, "child").as_deref(), home.read("child")), (Some("child\n"), None));
    assert_eq!(beyond_main(&home).lines().count(), 1, "{}", beyond_main(&home));
    child.check();
}

#[test]
fn names_and_sessions_that_do_not_fit_are_refused() {
    let (server, home) = home();
    for name in ["main", "a/b", "-x", "a.lock"] {
        let name = format!("--branch={name}");
        home.run(&["run", &name, "hi"]).code(2).stderr_holds(&["bad branch name"]).check();
    }
    let run = home.run(&["run", "--branch", "idea", "--session", "first", "hi"]).code(1);
    run.stderr_holds(&["session first does not work on the branch idea"]).check();
    assert_eq!(home.git(&["branch", "--format=%(refname)"]), "refs/heads/main\n");
    assert!(!home.path("branches/idea").exists());
    // One whose branch is gone says so.
    server.queue(Reply::text("Begun."));
    on_branch(&home, "begin").stdout("Begun.\n").check();
    home.git(&["worktree", "remove", "--force", "../branches/idea"]);
    home.git(&["branch", "-D", "idea"]);
    let run = home.run(&["run", "--session", "idea", "go on"]).code(1);
    run.stderr_holds(&["merged or dropped", "begin another session"]).check();
    server.asked(3);
}
