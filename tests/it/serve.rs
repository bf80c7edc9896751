//! A host without a terminal: how it starts, ends and is replaced, and what a terminal beside
//! it shows of what goes on.

use std::fs;

use crate::home::{Home, Process};
use crate::kills::Watched;
use crate::repl::{prompt, talk};
use crate::reply::{Gate, Reply};
use crate::standing::{Serving, Standing};

/// A turn of session `s` beside the host that has said something and now waits.
fn turn(all: &Standing) -> (Process, Gate) {
    let gate = Gate::new();
    all.server.allow_prefix_change();
    all.server.queue(Reply::text("I begin. ").wait(&gate).and("I end."));
    let run = all.home.spawn(&["run", "--json", "--session", "s", "go"]);
    run.wait_stdout("begin");
    (run, gate)
}

#[test]
fn it_says_in_plain_lines_what_goes_on() {
    let all = Standing::new();
    let serve = all.home.spawn(&["serve"]);
    serve.wait_stderr(" INFO hosts; the schedule, services and channels run home=");
    all.home.run(&["tell", "hello"]).stdout_any().check();
    serve.wait_stderr(" INFO message: hello\n");
    let status = all.home.run(&["status"]).stdout_any().check().stdout;
    assert!(status.contains(": schedule, services and channels run\n"), "{status}");
    serve.signal(libc::SIGTERM);
    let ran = serve.end();
    assert_eq!((ran.status.code(), &*ran.stdout), (Some(0), ""), "{ran}");
    assert!(ran.stderr.ends_with(" INFO ended\n") && !ran.stderr.contains('\x1b'), "{ran}");
}

#[test]
fn each_signal_ends_it_once_nothing_runs() {
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
        let all = Standing::new();
        let serving = all.serve();
        serving.signal(signal);
        let ran = serving.end();
        assert!(ran.stdout.contains("once more ends it at once"), "{ran}");
        let status = all.home.run(&["status"]).stdout_any().check().stdout;
        assert!(status.contains("nothing happens by itself: start `fledgling serve`"), "{status}");
    }
}

#[test]
fn a_turn_that_runs_has_its_time() {
    let all = Standing::new();
    let serving = all.serve();
    let (run, gate) = turn(&all);
    serving.signal(libc::SIGTERM);
    serving.says("what runs has 30 s to end");
    gate.open();
    let ran = run.end();
    assert!(ran.status.success() && ran.stdout.contains("I end."), "{ran}");
    serving.end();
    let heard = all.heard("s");
    assert!(!heard.contains("interrupted"), "{heard}");
}

#[test]
fn a_second_signal_ends_it_at_once_and_the_turn_is_recorded() {
    let all = Standing::new();
    let serving = all.serve();
    let (run, _gate) = turn(&all);
    serving.signal(libc::SIGTERM);
    serving.says("what runs has 30 s to end");
    serving.signal(libc::SIGTERM);
    serving.end();
    let ran = run.end();
    assert_eq!(ran.status.code(), Some(130), "{ran}");
    let transcript = fs::read_to_string(all.home.path("sessions/s.jsonl")).expect("a transcript");
    assert!(transcript.contains("\"interrupted\""), "{transcript}");
    let heard = all.heard("s");
    assert!(heard.contains("interrupted"), "{heard}");
}

#[test]
fn after_a_kill_the_next_says_what_was_cut_short() {
    let all = Standing::new();
    let serving = all.serve();
    let (run, gate) = turn(&all);
    let run = (run, gate);
    run.0.signal(libc::SIGSTOP);
    serving.kill();
    run.0.kill();
    let serving = all.serve();
    serving.says("Turn 1 of session s was interrupted: the program ended in the middle of it.");
    serving.stop();
    let again = all.serve().stop();
    assert!(!again.stdout.contains("was interrupted"), "{again}");
}

#[test]
fn the_next_waits_and_takes_over() {
    let all = Standing::new();
    let first = all.serve();
    let second = Serving::waiting(&all.home);
    second.says("another fledgling runs in this home; waiting until it ends");
    first.stop();
    second.says("hosts; the schedule");
    // And after a kill.
    let third = Serving::waiting(&all.home);
    third.says("another fledgling runs in this home");
    second.kill();
    third.says("hosts; the schedule");
    // One that waits is ended by a signal, too.
    let fourth = Serving::waiting(&all.home);
    fourth.says("another fledgling runs in this home");
    fourth.stop();
    assert_eq!(all.act("s", &["echo here"]), ["here\n"]);
    third.stop();
}

#[test]
fn it_takes_over_from_a_terminal_which_runs_the_schedule_meanwhile() {
    let all = Standing::new();
    fs::write(all.home.workspace("crontab"), "0 9 * * * fledgling tell it is nine\n")
        .expect("a file");
    let mut terminal = talk(&all.home, &[]);
    let serving = Serving::waiting(&all.home);
    serving.says("another fledgling runs in this home");
    all.status_when("the job is in force", |status| status["jobs"][0].is_object());
    all.clock.set("2026-11-21T09:00:00Z");
    terminal.wait_text("it is nine");
    prompt(&terminal, "");
    terminal.send("/quit\r");
    assert_eq!(terminal.wait_end().exit_code(), 0);
    serving.says("hosts; the schedule");
    serving.stop();
}

#[test]
fn it_is_not_for_tool_calls() {
    let all = Standing::new();
    let serving = all.serve();
    let said = all.act("s", &["fledgling serve"]).remove(0);
    assert!(said.contains("serve is not for tool calls"), "{said}");
    serving.stop();
}

#[test]
fn a_terminal_beside_it_shows_what_happens_above_the_line_being_typed() {
    let all = Standing::new();
    let serving = all.serve();
    let script = "echo looked; fledgling tell 'Words from the job.'; exit 3";
    all.act(
        "main",
        &[&format!("echo \"{script}\" > look.sh; echo '0 9 * * * bash look.sh' > crontab")],
    );
    all.status_when("the job is in force", |status| status["jobs"][0].is_object());
    let mut terminal = talk(&all.home, &[]);
    terminal.send("half a th");
    prompt(&terminal, "half a th");
    all.clock.set("2026-11-21T09:00:00Z");
    serving.happens("message", "", "The job look failed");
    terminal.wait_text("[exit code 3]");
    terminal.wait_text("Message from job look\nWords from the job.");
    prompt(&terminal, "half a th");
    let shown = terminal.text();
    assert_eq!(shown.matches("half a th").count(), 1, "{shown}");
    all.server.allow_prefix_change();
    all.server.queue(Reply::text("Understood."));
    terminal.send("ought\r");
    terminal.wait_text("Understood.");
    let heard = all.server.wait(0).pop().expect("a request").heard();
    assert!(heard.contains("half a thought"), "{heard}");
    assert_eq!(all.status()["unread"], 0, "the terminal has shown it");
    terminal.send("/status\r");
    terminal.wait_text("Budget of unattended turns");
    serving.stop();
}

#[test]
fn a_terminal_beside_it_shows_what_is_wrong_with_what_the_owner_writes() {
    let all = Standing::new();
    let serving = all.serve();
    let terminal = talk(&all.home, &[]);
    fs::write(all.home.workspace("crontab"), "0 25 * * * true\n").expect("a file");
    terminal.wait_text("The crontab has mistakes");
    prompt(&terminal, "");
    assert_eq!(
        terminal.text().matches("The crontab has mistakes").count(),
        1,
        "{}",
        terminal.text()
    );
    serving.stop();
}

#[test]
fn it_starts_where_there_is_no_model_yet() {
    let home = Home::new();
    let serving = Serving::start(&home);
    fs::write(home.workspace("crontab"), "* * * * * true\n").expect("a file");
    serving.stop();
}

#[test]
fn words_to_the_owner_wait_for_a_terminal() {
    let all = Standing::new();
    let serving = all.serve();
    let said = all.act("main", &["fledgling tell 'Call Ann.'; echo more words | fledgling tell"]);
    assert!(said[0].contains("It is kept until your owner is there."), "{said:?}");
    assert_eq!(all.status()["unread"], 2);
    serving.kill();
    let serving = all.serve();
    let terminal = talk(&all.home, &[]);
    terminal.wait_text("Message from main\nCall Ann.");
    terminal.wait_text("more words");
    prompt(&terminal, "");
    drop(terminal);
    let terminal = talk(&all.home, &[]);
    let shown = terminal.text();
    assert!(!shown.contains("Call Ann."), "{shown}");
    assert_eq!(all.status()["unread"], 0);
    serving.stop();
}

#[test]
fn what_is_wrong_with_a_skill_is_said_at_once() {
    let all = Standing::new();
    let serving = all.serve();
    let skill = all.home.workspace("skills/new/SKILL.md");
    fs::create_dir_all(skill.parent().expect("a folder")).expect("a folder");
    fs::write(&skill, "no head at all\n").expect("a file");
    let said = serving.happens("host", "", "skills/new");
    assert_eq!(said["level"], "WARN");
    fs::write(&skill, "---\nname: new\ndescription: Do it anew.\n---\nSo.\n").expect("a file");
    all.act("main", &[]);
    let asked = all.server.wait(0).pop().expect("a request");
    assert!(asked.body["system"].to_string().contains("Do it anew."), "{}", asked.body["system"]);
    serving.stop();
}

/// Not used by a turn, nor by a job: nothing of a host outlives it.
#[test]
fn nothing_of_a_turn_outlives_a_kill_of_it() {
    let all = Standing::new();
    let told = crate::kills::Fifo::make(&all.home.workspace("told"));
    let serving = all.serve();
    all.server
        .queue(Reply::new().bash("setsid sleep 1000 >/dev/null 2>&1 & echo $$ $! > told; wait"));
    let run = all.home.spawn(&["run", "--session", "s", "go"]);
    let left: Vec<_> = told.line().split_whitespace().map(Watched::of).collect();
    assert_eq!(left.len(), 2);
    run.signal(libc::SIGSTOP);
    serving.kill();
    left.iter().for_each(Watched::gone);
    run.kill();
}
