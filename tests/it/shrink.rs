//! What the agent is and knows is not cut down while nobody looks on: it is put back, both
//! versions are kept, the owner is told, and whoever is there may do it all the same.

use std::fs;

use crate::reply::Reply;
use crate::standing::{Serving, Standing};

/// Some 900 bytes of memory.
fn facts() -> String {
    let facts = (0..30).map(|number| format!("- A fact of number {number:02} that lasts."));
    facts.collect::<Vec<_>>().join("\n") + "\n"
}

/// A home whose agent knows something, written in a turn of the owner's, with a job at nine.
fn knowing(job: &str) -> (Standing, Serving) {
    let Standing { server, home, clock } = Standing::new();
    let all = Standing { server: server.serves_several(), home, clock };
    let serving = all.serve();
    let write = format!("cat > memory/MEMORY.md <<'END'\n{}END", facts());
    let script = format!("cat > job.sh <<'END'\n{job}\nEND");
    let crontab = "printf '# nightly\\n0 9 * * * bash job.sh\\n' > crontab";
    all.act("main", &[&write, "printf 'more\\n' > memory/more.md", &script, crontab]);
    all.status_when("it is in force", |status| status["jobs"][0]["name"] == "nightly");
    (all, serving)
}

fn run_on(all: &Standing, serving: &Serving, day: u32) {
    all.clock.set(&format!("2026-11-{day}T09:00:00Z"));
    serving.happens("job", "nightly", "done");
}

fn subjects(all: &Standing, count: &str) -> Vec<String> {
    all.home.git(&["log", count, "--format=%s"]).lines().map(str::to_owned).collect()
}

#[test]
fn what_a_model_cuts_in_a_job_is_put_back_and_told() {
    let (all, serving) = knowing("fledgling run --session tidy 'tidy up'");
    all.server.allow_prefix_change();
    all.server.queue(Reply::new().bash(": > memory/MEMORY.md; echo note > note"));
    all.server.queue(Reply::text("Tidied."));
    all.clock.set("2026-11-21T09:00:00Z");
    let told = serving.happens("message", "", "cut memory/MEMORY.md from 1020 to 0 bytes");
    serving.happens("job", "nightly", "done");
    assert_eq!(all.home.read("memory/MEMORY.md"), Some(facts()));
    assert_eq!(all.home.read("note").as_deref(), Some("note\n"), "the rest of the turn stays");
    assert_eq!(subjects(&all, "-2"), ["Put back memory/MEMORY.md", "tidy up"]);
    assert_eq!(all.home.git(&["show", "HEAD~1:memory/MEMORY.md"]), "", "both are kept");
    let commit = all.home.git(&["rev-parse", "HEAD"]);
    let undo = format!("`fledgling undo {}`", &commit[..12]);
    let told = told["fields"]["message"].as_str().expect("words").to_owned();
    assert!(told.contains(&undo) && told.contains("Turn 1 of session tidy"), "{told}");
    // Its session knows.
    let heard = all.heard("tidy");
    assert!(heard.contains("The host has put it back"), "{heard}");

    // The owner has it cut all the same; and puts it back again.
    all.home.run(&["undo", &commit[..12]]).stdout_any().stderr_any().check();
    assert_eq!(all.home.read("memory/MEMORY.md").as_deref(), Some(""));
    all.home.run(&["redo"]).stdout_any().stderr_any().check();
    assert_eq!(all.home.read("memory/MEMORY.md"), Some(facts()));
    serving.stop();
}

#[test]
fn whoever_is_there_may_cut() {
    let (all, serving) = knowing("true");
    all.act("main", &["echo short > memory/MEMORY.md; rm memory/more.md; echo x > bootstrap.md"]);
    assert_eq!(all.home.read("memory/MEMORY.md").as_deref(), Some("short\n"));
    assert_eq!(subjects(&all, "-1"), ["go on"]);
    // And that holds for those who are not.
    fs::write(all.home.workspace("job.sh"), "echo x > other").expect("a script");
    run_on(&all, &serving, 21);
    assert_eq!(all.home.read("memory/MEMORY.md").as_deref(), Some("short\n"));
    serving.stop();
}

#[test]
fn many_small_cuts_are_one_and_other_changes_are_left_alone() {
    // Each run takes eight of thirty lines away.
    let (all, serving) =
        knowing("sed -i 1,8d memory/MEMORY.md; echo \"$FLEDGLING_DUE\" > memory/more.md");
    run_on(&all, &serving, 21);
    assert_eq!(all.home.read("memory/MEMORY.md").map(|text| text.lines().count()), Some(22));
    // Rewritten at about the same size.
    let rewritten = "sed -i s/lasts/stays/ memory/MEMORY.md";
    all.server.allow_prefix_change();
    fs::write(all.home.workspace("job.sh"), rewritten).expect("a script");
    run_on(&all, &serving, 22);
    let text = all.home.read("memory/MEMORY.md").expect("it is there");
    assert_eq!((text.lines().count(), text.matches("stays").count()), (22, 22));
    // That the owner edits something else meanwhile does not make the small cuts smaller.
    fs::write(all.home.workspace("job.sh"), "sed -i 1,8d memory/MEMORY.md").expect("a script");
    all.clock.set("2026-11-23T09:00:00Z");
    serving.happens("message", "", "from 1020 to 476 bytes");
    serving.happens("job", "nightly", "done");
    assert_eq!(all.home.read("memory/MEMORY.md"), Some(facts()));
    // What was added while nobody was there is kept, too.
    let more = "seq 9999 >> memory/MEMORY.md";
    fs::write(all.home.workspace("job.sh"), more).expect("a script");
    run_on(&all, &serving, 24);
    fs::write(all.home.workspace("job.sh"), "seq 400 > memory/MEMORY.md").expect("a script");
    run_on(&all, &serving, 25);
    let text = all.home.read("memory/MEMORY.md").expect("it is there");
    assert!(text.ends_with("\n9998\n9999\n"), "{text}");
    serving.stop();
}

#[test]
fn a_job_that_cuts_little_by_little_or_removes_all_is_noticed() {
    let (all, serving) = knowing("sed -i 1,8d memory/MEMORY.md");
    run_on(&all, &serving, 21);
    assert_eq!(all.home.read("memory/MEMORY.md").map(|text| text.lines().count()), Some(22));
    all.clock.set("2026-11-22T09:00:00Z");
    serving.happens("message", "", "The job nightly cut memory/MEMORY.md from 1020 to 476 bytes");
    serving.happens("job", "nightly", "done");
    assert_eq!(all.home.read("memory/MEMORY.md"), Some(facts()));
    assert_eq!(subjects(&all, "-1"), ["Put back memory/MEMORY.md"]);

    // Undo of the turn that put the job on the schedule takes all of it along.
    all.home.run(&["undo"]).stdout_any().stderr_any().check();
    assert_eq!(all.home.read("crontab"), None);
    all.home.run(&["redo"]).stdout_any().stderr_any().check();
    assert_eq!(all.home.read("memory/MEMORY.md"), Some(facts()));
    serving.stop();

    let (all, serving) = knowing("rm -r memory bootstrap.md");
    let bootstrap = all.home.read("bootstrap.md");
    all.clock.set("2026-11-21T09:00:00Z");
    let told = serving.happens("message", "", "The job nightly cut bootstrap.md from ");
    serving.happens("job", "nightly", "done");
    assert_eq!(all.home.read("bootstrap.md"), bootstrap);
    assert_eq!(all.home.read("memory/MEMORY.md"), Some(facts()));
    assert_eq!(all.home.read("memory/more.md").as_deref(), Some("more\n"), "{told}");
    serving.stop();
}

/// What is queued for the agent's turns: these commands each, and then that it is done.
fn queue(all: &Standing, turns: &[&[&str]]) {
    all.server.allow_prefix_change();
    for commands in turns {
        for command in *commands {
            all.server.queue(Reply::new().bash(command));
        }
        all.server.queue(Reply::text("Done."));
    }
}

#[test]
fn what_an_agent_of_an_agent_cuts_is_put_back_too() {
    let (all, serving) = knowing("fledgling run --session tidy 'tidy up'");
    let server = &all.server;
    server.queue(Reply::new().bash("fledgling run --session below 'cut it'"));
    queue(&all, &[&[": > memory/MEMORY.md"], &[]]);
    all.clock.set("2026-11-21T09:00:00Z");
    let told = serving.happens("message", "", "cut memory/MEMORY.md from 1020 to 0 bytes");
    serving.happens("job", "nightly", "done");
    assert!(told.to_string().contains("session below, which agent:tidy began"), "{told}");
    assert_eq!(all.home.read("memory/MEMORY.md"), Some(facts()));
    // Little by little is no way round it: what such an agent left is no measure.
    for (day, left) in [(22, 22), (23, 30)] {
        server.queue(Reply::new().bash("fledgling run --session below 'cut it'"));
        queue(&all, &[&["sed -i 1,8d memory/MEMORY.md"], &[]]);
        run_on(&all, &serving, day);
        let text = all.home.read("memory/MEMORY.md").expect("it is there");
        assert_eq!(text.lines().count(), left);
    }
    // Where the owner is there, so they are for an agent of their agent.
    queue(&all, &[]);
    server.queue(Reply::new().bash("fledgling run --session mine 'cut it'"));
    queue(&all, &[&["echo short > memory/MEMORY.md"], &[]]);
    let run = all.home.run(&["run", "--session", "main", "cut it"]);
    run.stdout("Done.\n").stderr_any().check();
    assert_eq!(all.home.read("memory/MEMORY.md").as_deref(), Some("short\n"));
    serving.stop();
}

#[test]
fn what_is_taken_back_while_nobody_is_there_is_looked_at_as_well() {
    let (all, serving) = knowing("fledgling run --session tidy 'tidy up'");
    queue(&all, &[&["seq 900 >> memory/MEMORY.md"]]);
    run_on(&all, &serving, 21);
    let noted = all.home.read("memory/MEMORY.md").expect("it is there");
    // The turn's own commit comes after the one with which it took something back.
    let commit = all.home.git(&["rev-parse", "HEAD"]);
    let undo = format!("fledgling undo {}; echo note > note", &commit[..12]);
    queue(&all, &[&[&undo]]);
    all.clock.set("2026-11-22T09:00:00Z");
    serving.happens("message", "", "Turn 2 of session tidy");
    serving.happens("job", "nightly", "done");
    assert_eq!(all.home.read("memory/MEMORY.md").as_ref(), Some(&noted));
    assert_eq!(all.home.read("note").as_deref(), Some("note\n"));
    // What the host put back is the owner's to cut again.
    let commit = all.home.git(&["rev-parse", "HEAD"]);
    let said = all.act("tidy", &[&format!("fledgling undo {}", &commit[..12])]).remove(0);
    assert!(said.contains("only the owner may take it back"), "{said}");
    assert_eq!(all.home.read("memory/MEMORY.md"), Some(noted));
    serving.stop();
}

#[test]
fn a_link_or_another_name_is_no_memory() {
    for job in [
        "mv memory elsewhere; ln -s elsewhere memory",
        "mv memory/MEMORY.md all; ln -s ../all memory/MEMORY.md",
        "mv memory elsewhere; echo > memory",
    ] {
        let (all, serving) = knowing(job);
        all.clock.set("2026-11-21T09:00:00Z");
        serving.happens("message", "", "memory/MEMORY.md from 1020 to ");
        serving.happens("job", "nightly", "done");
        let path = all.home.workspace("memory/MEMORY.md");
        assert!(fs::symlink_metadata(&path).is_ok_and(|file| file.is_file()), "{job}");
        assert!(!all.home.workspace("memory").is_symlink(), "{job}");
        assert_eq!(fs::read_to_string(path).expect("a file"), facts(), "{job}");
        serving.stop();
    }
}
