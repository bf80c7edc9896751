//! Words that a conversation wants to hear again later: what is said back, where they come up,
//! and that undo takes them along.

use serde_json::Value;

use crate::repl::{prompt, talk};
use crate::reply::{Gate, Reply};
use crate::standing::{Serving, Standing};

const NINE_NEXT_DAY: &str = "2026-11-22T09:00:00Z";

/// Set a reminder for tomorrow, in a turn of `main` that changes no file.
fn remind(all: &Standing) -> Serving {
    let serving = all.serve();
    let said = all.act("main", &["fledgling at 'tomorrow 09:00' buy milk"]).remove(0);
    let expected = "Reminder 1: Sun 22 Nov 2026 09:00 UTC (in 1 day), in conversation main.";
    assert!(said.starts_with(expected), "{said}");
    serving
}

fn agenda(all: &Standing) -> Vec<Value> {
    let ran = all.home.run(&["agenda", "--json"]).stdout_any().stderr_any().check();
    ran.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

/// What the agent heard when it was reminded, having answered with these words.
fn reminded(all: &Standing, serving: &Serving, when: &str, answer: &str) -> String {
    all.server.allow_prefix_change();
    all.server.queue(Reply::text(answer));
    all.clock.set(when);
    serving.happens("reminder", "main", "is due");
    serving.happens("message", "main", answer);
    all.server.wait(0).pop().expect("a request").heard()
}

#[test]
fn a_reminder_goes_on_with_its_conversation_and_the_answer_is_the_owners() {
    let all = Standing::new();
    let serving = remind(&all);
    let listed = agenda(&all);
    assert_eq!((listed.len(), &listed[0]["text"]), (1, &"buy milk".into()), "{listed:?}");
    let shown = all.home.run(&["agenda"]).stdout_any().check().stdout;
    assert!(
        shown.contains("Sun 22 Nov 2026 09:00 UTC (in 1 day)  (main)\n      buy milk"),
        "{shown}"
    );
    let heard = reminded(&all, &serving, NINE_NEXT_DAY, "Milk it is.");
    assert!(heard.contains("go on") && heard.contains("Reminder: buy milk"), "{heard}");
    assert!(agenda(&all).is_empty());
    all.home.run(&["agenda"]).stdout("No reminders to come.\n").check();
    assert_eq!(all.status()["unread"], 1, "nobody has seen the answer yet");
    serving.stop();
    // It came once.
    let serving = all.serve();
    assert_eq!(all.row::<u32>("SELECT count(*) FROM inbox"), 0);
    assert_eq!(serving.stop().stdout.matches("is due").count(), 0);
}

#[test]
fn one_that_came_due_while_nobody_was_there_says_how_late_it_is() {
    let all = Standing::new();
    remind(&all).stop();
    let late = "2026-11-22T11:40:00Z";
    all.clock.set(late);
    all.server.allow_prefix_change();
    all.server.queue(Reply::text("Late."));
    let serving = all.serve();
    serving.happens("message", "main", "Late.");
    let heard = all.server.wait(0).pop().expect("a request").heard();
    assert!(heard.contains("Reminder (due 09:00, now 11:40): buy milk"), "{heard}");
    serving.stop();
}

/// Each time, a kill comes before the answer.
#[test]
fn a_turn_that_a_kill_cut_short_is_gone_on_with_by_itself_and_given_up_at_last() {
    for kills in [1, 4] {
        let all = Standing::new();
        let mut serving = remind(&all);
        let gates: Vec<_> = (0..kills).map(|_| Gate::new()).collect();
        for gate in &gates {
            all.server.queue(Reply::new().wait(gate));
        }
        if kills == 1 {
            all.server.queue(Reply::text("Milk, after all."));
        }
        all.server.allow_prefix_change();
        all.clock.set(NINE_NEXT_DAY);
        for gate in &gates {
            gate.reached();
            serving.kill();
            all.server.allow_prefix_change();
            serving = all.serve();
        }
        if kills == 1 {
            serving.says("was interrupted: the program ended in the middle of it");
            serving.happens("message", "main", "Milk, after all.");
            let heard = all.server.wait(0).pop().expect("a request").heard();
            assert!(heard.contains("Reminder: buy milk") && heard.contains("go on where you were"));
        } else {
            serving.happens("message", "", "What session main was asked is given up");
        }
        serving.stop();
    }
}

#[test]
fn a_terminal_in_its_conversation_shows_the_answer_once() {
    let all = Standing::new();
    let serving = remind(&all);
    let mut terminal = talk(&all.home, &[]);
    terminal.wait_text("Resuming main");
    terminal.send("half a th");
    prompt(&terminal, "half a th");
    let heard = reminded(&all, &serving, NINE_NEXT_DAY, "Milk it is.");
    assert!(heard.contains("Reminder: buy milk"), "{heard}");
    terminal.wait_text("Milk it is.");
    prompt(&terminal, "half a th");
    // What comes after it is there, so it is not on its way any more.
    all.home.run(&["tell", "and more"]).stdout_any().check();
    terminal.wait_text("and more");
    let shown = terminal.text();
    assert_eq!(shown.matches("Milk it is.").count(), 1, "{shown}");
    assert_eq!(all.status()["unread"], 0);
    serving.stop();
}

#[test]
fn undo_takes_it_along_and_redo_brings_it_back() {
    let all = Standing::new();
    let serving = remind(&all);
    assert_eq!(all.home.git(&["show", "--format=", "--stat"]), "", "the turn changed no file");
    let undone = all.home.run(&["undo"]).stdout_any().stderr_any().check();
    assert!(undone.to_string().contains("Cancelled: reminder 1 (buy milk)."), "{undone}");
    assert!(agenda(&all).is_empty());
    let redone = all.home.run(&["redo"]).stdout_any().stderr_any().check();
    assert!(redone.to_string().contains("Set again: reminder 1 (buy milk)."), "{redone}");
    assert_eq!(agenda(&all).len(), 1);
    // Also of a turn that did change something.
    all.act("main", &["fledgling at 'in 2 days' more; echo x > x"]);
    all.home.run(&["undo"]).stdout_any().stderr_any().check();
    assert_eq!((agenda(&all).len(), all.home.read("x")), (1, None));
    let heard = reminded(&all, &serving, NINE_NEXT_DAY, "Still milk.");
    assert!(heard.contains("Reminder: buy milk"), "{heard}");
    serving.stop();
}

#[test]
fn what_one_conversation_sets_is_not_for_another_to_touch() {
    let all = Standing::new();
    let serving = remind(&all);
    all.act("other", &[]);
    let said = all.act_with(
        &["--session", "narrow", "--only", "network none"],
        &[
            "fledgling at --session main 'in 1 hour' attack",
            "fledgling agenda",
            "fledgling agenda rm 1",
            "fledgling at 'in 1 hour' mine",
        ],
    );
    assert!(!said[0].contains("Reminder 2") && said[0].contains("[exit code"), "{said:?}");
    assert!(!said[1].contains("buy milk"), "{said:?}");
    assert!(said[2].contains("there is no reminder 1 to come"), "{said:?}");
    assert!(said[3].contains("in conversation narrow."), "{said:?}");
    assert_eq!(agenda(&all).len(), 2);
    // The owner may.
    let run = all.home.run(&["at", "--session", "other", "in 1 hour", "from", "me"]).stdout_any();
    assert!(run.check().stdout.contains("in conversation other."));
    all.home.run(&["agenda", "rm", "1"]).stdout("Cancelled: buy milk\n").check();
    all.home.run(&["agenda", "rm", "1"]).code(1).stderr_holds(&["no reminder 1"]).check();
    serving.stop();
}

#[test]
fn a_time_that_is_none_is_an_error_that_says_what_to_write() {
    let all = Standing::new();
    let serving = all.serve();
    for (when, why) in [
        ("soon", "`soon` is not understood"),
        ("tomorrow", "`tomorrow` is Sunday 22 November 2026; at what time?"),
        ("2026-11-20 09:00", "which is over"),
        ("tomorrow 25:00", "no time of day"),
        ("", "a time is wanted"),
    ] {
        all.home.run(&["at", when, "x"]).code(1).stderr_holds(&[why]).check();
        let said = all.act("main", &[&format!("fledgling at '{when}' x")]).remove(0);
        assert!(said.contains(why) && said.contains("[exit code 1]"), "{said}");
    }
    all.home
        .run(&["at", "in 1 hour", " "])
        .code(1)
        .stderr_holds(&["say what to remind of"])
        .check();
    assert!(agenda(&all).is_empty());
    serving.stop();
}

#[test]
fn the_owner_is_reminded_where_there_is_no_conversation_yet() {
    let all = Standing::new();
    let run = all.home.run(&["at", "10:00", "call", "Ann"]).stdout_any().check();
    assert!(run.stdout.contains("Sat 21 Nov 2026 10:00 UTC"), "{run}");
    assert!(run.stdout.contains("It needs a host then: `fledgling serve`"), "{run}");
    let serving = all.serve();
    all.server.queue(Reply::text("Call Ann."));
    all.clock.set("2026-11-21T10:00:00Z");
    serving.happens("message", "reminders", "Call Ann.");
    serving.stop();
}
