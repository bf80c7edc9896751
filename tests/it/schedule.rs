//! The schedule that the agent writes: when its jobs run and for whom, what becomes of what
//! they change and say, and that neither kills nor mistakes lose or double a run.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::process::Command;

use serde_json::{Value, json};

use crate::kills::{Fifo, Watched};
use crate::reply::Reply;
use crate::standing::{Serving, Standing};

/// At nine, every day.
const NINE: &str = "2026-11-21T09:00:00Z";
const NINE_NEXT_DAY: &str = "2026-11-22T09:00:00Z";

/// The names of the jobs in force.
fn names(status: &Value) -> Vec<&str> {
    let jobs = status["jobs"].as_array().into_iter().flatten();
    jobs.map(|job| job["name"].as_str().expect("a name")).collect()
}

/// A command of the agent's that writes a crontab.
fn crontab(lines: &str) -> String {
    format!("cat > crontab <<'END'\n{lines}\nEND")
}

/// A host with one job, written in a turn of session `main`, that runs this at nine.
fn daily(all: &Standing, script: &str) -> Serving {
    let serving = all.serve();
    let script = format!("cat > daily.sh <<'END'\n{script}\nEND");
    all.act("main", &[&script, &crontab("0 9 * * * bash daily.sh")]);
    all.status_when("the job is in force", |status| names(status) == ["daily"]);
    serving
}

fn let_go(all: &Standing, fifo: &str) {
    let fifo = OpenOptions::new().write(true).open(all.home.workspace(fifo));
    fifo.and_then(|mut fifo| fifo.write_all(b"\n")).expect("the command reads");
}

#[test]
fn a_job_runs_when_it_is_due_and_what_it_changes_is_its_own_commit() {
    let all = Standing::new();
    let script = "echo \"$FLEDGLING_JOB, $FLEDGLING_DUE, $FLEDGLING_MISSED\"; mkdir -p data; \
                  date +%F > data/day; id=$$; echo last words";
    let serving = daily(&all, script);
    let line = all.home.git(&["rev-parse", "HEAD"]);
    let before = all.status();
    let next = "Sat 21 Nov 2026 09:00 UTC (in 5 min)";
    assert_eq!(
        (&before["jobs"][0]["next"], &before["jobs"][0]["last"]),
        (&json!(next), &json!(null))
    );
    all.clock.set(NINE);
    serving.happens("job", "daily", "runs");
    serving.happens("job", "daily", "done");
    let status = all.status();
    let job = &status["jobs"][0];
    assert_eq!(job["last"], json!(["2026-11-21 09:00", "done"]), "{job:#}");
    assert_eq!(job["tail"], "daily, 2026-11-21T09:00:00Z, 0\nlast words\n", "{job:#}");
    assert_eq!(job["next"], "Sun 22 Nov 2026 09:00 UTC (in 1 day)", "{job:#}");
    let commit = all.commit();
    assert!(commit.starts_with("Job daily: bash daily.sh\n"), "{commit}");
    for trailer in
        ["Job: daily 2026-11-21 09:00", &format!("Line: {}", line.trim()), "Origin: job:daily"]
    {
        assert!(commit.lines().any(|line| line == trailer), "{trailer} in {commit}");
    }
    let shown = all.home.run(&["status"]).stdout_any().check().stdout;
    assert!(
        shown.contains("last words") && shown.contains("last   2026-11-21 09:00 done"),
        "{shown}"
    );

    // Who undoes the turn that wrote the line takes back what came of it.
    all.home.run(&["undo"]).stdout_any().stderr_any().check();
    assert_eq!((all.home.read("data/day"), all.home.read("crontab")), (None, None));
    all.status_when("no job is in force", |status| names(status).is_empty());
    serving.stop();
}

#[test]
fn a_job_speaks_to_the_owner_and_with_a_model() {
    let all = Standing::new();
    let serving = daily(
        &all,
        "fledgling tell 'It is nine.'; fledgling run --session digest 'say what is new'",
    );
    all.server.allow_prefix_change();
    all.server.queue(Reply::text("Nothing is new."));
    all.clock.set(NINE);
    serving.happens("message", "job:daily", "It is nine.");
    serving.happens("job", "daily", "done");
    let status = all.status();
    let tail = status["jobs"][0]["tail"].as_str().expect("a text");
    assert!(tail.contains("Nothing is new."), "{tail}");
    let asked = all.server.wait(0).pop().expect("a request");
    assert!(asked.heard().contains("say what is new"), "{asked:?}");
    assert_eq!(status["budget"], json!([15, 500_000]), "a job's turn is unattended");
    serving.stop();
}

#[test]
fn a_failure_is_told_once_in_a_row() {
    let all = Standing::new();
    let serving = daily(&all, "echo looking; test -e fine");
    let day = |day: u32| all.clock.set(&format!("2026-11-{day}T09:00:00Z"));
    day(21);
    serving.happens("message", "", "The job daily failed");
    day(22);
    serving.happens("job", "daily", "failed");
    let status = all.status();
    assert_eq!(status["jobs"][0]["failures"], 2, "{status:#}");
    assert!(status["errors"].to_string().contains("The job daily failed"), "{status:#}");
    all.act("main", &["touch fine"]);
    day(23);
    serving.happens("job", "daily", "done; it works again");
    all.act("main", &["rm fine"]);
    day(24);
    serving.happens("message", "", "The job daily failed");
    let ran = serving.stop();
    assert_eq!(ran.stdout.matches("The job daily failed").count(), 2, "{ran}");
}

#[test]
fn what_comes_due_while_the_last_run_goes_on_is_left_out_and_said() {
    let all = Standing::new();
    Fifo::make(&all.home.workspace("hold"));
    let told = Fifo::make(&all.home.workspace("told"));
    let serving = daily(&all, "echo \"$FLEDGLING_DUE\" > told; cat hold");
    all.clock.set(NINE);
    assert_eq!(told.line(), "2026-11-21T09:00:00Z\n");
    all.clock.set(NINE_NEXT_DAY);
    all.status_when("the second time is left out", |status| {
        let job = &status["jobs"][0];
        job["running"] == true
            && job["last"]
                == json!(["2026-11-22 09:00", "skipped: the run of Sat 21 Nov 09:00 had not ended"])
    });
    let_go(&all, "hold");
    serving.happens("job", "daily", "done");
    all.clock.set("2026-11-23T09:00:00Z");
    assert_eq!(told.line(), "2026-11-23T09:00:00Z\n");
    let_go(&all, "hold");
    serving.happens("job", "daily", "done");
    serving.stop();
}

#[test]
fn times_that_were_missed_are_one_run_that_knows_how_many() {
    let all = Standing::new();
    let serving = daily(&all, "echo \"missed $FLEDGLING_MISSED, due $FLEDGLING_DUE\"");
    serving.stop();
    all.clock.set("2026-11-24T08:00:00Z");
    let serving = all.serve();
    serving.happens("job", "daily", "done");
    let status = all.status();
    let job = &status["jobs"][0];
    assert_eq!(
        (&job["missed"], &job["tail"]),
        (&json!(2), &json!("missed 2, due 2026-11-23T09:00:00Z\n"))
    );
    let shown = all.home.run(&["status"]).stdout_any().check().stdout;
    assert!(shown.contains("2026-11-23 09:00 done, 2 missed before it"), "{shown}");
    // What was there in time stays as it was with the next start.
    serving.stop();
    let serving = all.serve();
    all.clock.set("2026-11-24T09:00:00Z");
    serving.happens("job", "daily", "done");
    assert_eq!(all.row::<u32>("SELECT count(*) FROM slots"), 2);
    serving.stop();
}

#[test]
fn a_clock_that_is_set_back_runs_nothing_twice() {
    let all = Standing::new();
    let serving = daily(&all, "echo ran");
    all.clock.set(NINE);
    serving.happens("job", "daily", "done");
    for time in ["2026-11-21T08:59:00Z", NINE, "2026-11-21T02:00:00Z", NINE, NINE_NEXT_DAY] {
        all.clock.set(time);
        // So that it is seen, whatever comes of it.
        all.act("main", &[]);
        all.status();
    }
    serving.happens("job", "daily", "done");
    assert_eq!(all.row::<u32>("SELECT count(*) FROM slots"), 2);
    let ran = serving.stop();
    assert_eq!(ran.stdout.matches("\"runs\"").count(), 2, "{ran}");
}

#[test]
fn two_jobs_of_one_name_run_side_by_side_and_each_is_its_own() {
    let all = Standing::new();
    let told = Fifo::make(&all.home.workspace("told"));
    for hold in ["a", "b"] {
        Fifo::make(&all.home.workspace(hold));
    }
    let serving = all.serve();
    let script = "cat > x.sh <<'END'\necho $1 > told; cat $1; echo $FLEDGLING_JOB > by-$1; fledgling tell \"from $1\"\nEND";
    all.act("main", &[script, &crontab("0 9 * * * bash x.sh a\n0 10 * * * bash x.sh b")]);
    all.status_when("both are in force", |status| names(status).len() == 2);
    all.clock.set(NINE);
    assert_eq!(told.line(), "a\n");
    all.clock.set("2026-11-21T10:00:00Z");
    assert_eq!(told.line(), "b\n");
    for hold in ["a", "b"] {
        let_go(&all, hold);
        serving.says(&format!("from {hold}"));
        serving.says("done");
    }
    let status = all.status();
    for job in status["jobs"].as_array().expect("jobs") {
        assert_eq!(job["last"][1], "done", "{status:#}");
    }
    for file in ["by-a", "by-b"] {
        let commit = all.home.git(&["log", "--format=%B", "--", file]);
        assert!(commit.contains("\nJob: x"), "{file}: {commit}");
    }
    serving.stop();
}

#[test]
fn a_job_whose_line_is_undone_while_it_runs_ends_and_runs_no_more() {
    let all = Standing::new();
    Fifo::make(&all.home.workspace("hold"));
    let told = Fifo::make(&all.home.workspace("told"));
    let serving = daily(&all, "echo here > told; cat hold; echo x > by-job");
    all.clock.set(NINE);
    told.line();
    all.home.run(&["undo"]).stdout_any().stderr_any().check();
    all.status_when("it is out of force", |status| names(status).is_empty());
    let_go(&all, "hold");
    serving.happens("job", "daily", "done");
    // What it was about to change it has changed, in its own name.
    assert!(all.commit().starts_with("Job daily: "), "{}", all.commit());
    all.clock.set(NINE_NEXT_DAY);
    all.act("main", &[]);
    assert_eq!(all.row::<u32>("SELECT count(*) FROM slots"), 1);
    serving.stop();
}

#[test]
fn a_run_that_a_kill_cut_short_is_tried_again_three_times_and_then_given_up() {
    let all = Standing::new();
    Fifo::make(&all.home.workspace("never"));
    let told = Fifo::make(&all.home.workspace("told"));
    let mut serving = daily(&all, "echo $$ $FLEDGLING_DUE > told; cat never");
    all.clock.set(NINE);
    for _ in 0..3 {
        let line = told.line();
        let (pid, due) = line.trim().split_once(' ').expect("two words");
        assert_eq!(due, NINE);
        let job = Watched::of(pid);
        serving.kill();
        job.gone();
        serving = all.serve();
    }
    serving.happens("message", "", "The job daily of 2026-11-21 09:00 is given up");
    let status = all.status();
    let last = json!(["2026-11-21 09:00", "dead: was cut short 3 times"]);
    assert_eq!(status["jobs"][0]["last"], last, "{status:#}");
    all.clock.set(NINE_NEXT_DAY);
    assert!(told.line().contains("2026-11-22T09:00:00Z"));
    serving.signal(libc::SIGTERM);
    serving.says("what runs has 30 s to end");
    serving.signal(libc::SIGTERM);
    serving.end();
    assert_eq!(
        all.row::<String>("SELECT state || attempts FROM slots WHERE state <> 'dead'"),
        "queued0"
    );
}

#[test]
fn a_line_that_is_removed_runs_no_more() {
    let all = Standing::new();
    let serving = all.serve();
    all.act("main", &[&crontab("0 9 * * * touch one\n0 9 * * * touch two")]);
    all.status_when("there are two", |status| {
        status["jobs"].as_array().is_some_and(|all| all.len() == 2)
    });
    all.act("main", &["sed -i /one/d crontab"]);
    all.status_when("there is one", |status| {
        status["jobs"].as_array().is_some_and(|all| all.len() == 1)
    });
    all.clock.set(NINE);
    serving.happens("job", "touch", "done");
    assert_eq!((all.home.read("one"), all.home.read("two")), (None, Some(String::new())));
    assert_eq!(all.row::<u32>("SELECT count(*) FROM slots"), 1);
    serving.stop();
}

#[test]
fn with_a_mistake_in_it_the_schedule_before_stays_in_force_until_it_is_repaired() {
    let all = Standing::new();
    let serving = daily(&all, "echo ran");
    all.act("main", &[&crontab("0 9 * * * bash other.sh\n0 25 * * * bash more.sh")]);
    serving.happens("message", "", "the schedule before it stays in force: line 2");
    let status = all.status();
    assert_eq!(names(&status), ["daily"]);
    assert!(status["faults"][0].as_str().is_some_and(|fault| fault.starts_with("line 2 (0 25")));
    let shown = all.home.run(&["status"]).stdout_any().check().stdout;
    assert!(shown.contains("crontab line 2"), "{shown}");
    let heard = all.heard("main");
    assert!(heard.contains("The crontab has mistakes") && heard.contains("0 25 * * *"), "{heard}");
    all.clock.set(NINE);
    serving.happens("job", "daily", "done");
    // It is so after a start, too.
    serving.stop();
    let serving = all.serve();
    let said = serving.happens("job", "crontab", "the schedule before it stays in force");
    assert_eq!(said["level"], "WARN");
    assert_eq!(names(&all.status()), ["daily"]);
    assert_eq!(all.status()["unread"], 1, "the owner is told once");
    all.act("main", &["sed -i 's/^0 25/0 23/' crontab"]);
    let status = all.status_when("it is repaired", |status| names(status) == ["other", "more"]);
    assert_eq!(status["faults"], json!([]));
    serving.stop();
}

#[test]
fn what_the_owner_changes_takes_effect_without_a_turn() {
    let all = Standing::new();
    let serving = all.serve();
    let file = all.home.workspace("crontab");
    let named = |name: &str| all.status_when(name, |status| names(status) == [name]);
    fs::write(&file, "0 9 * * * bash first.sh\n").expect("a file");
    named("first");
    fs::write(&file, "0 9 * * * bash second.sh\n").expect("a file");
    named("second");
    let new = all.home.workspace("crontab.new");
    fs::write(&new, "0 9 * * * bash third.sh\n").expect("a file");
    fs::rename(&new, &file).expect("a file");
    named("third");
    let sed = Command::new("sed").args(["-i", "s/third/fourth/"]).arg(&file).status();
    assert!(sed.expect("sed").success());
    named("fourth");
    fs::remove_file(&file).expect("a file");
    all.status_when("none", |status| names(status).is_empty());
    assert_eq!(all.home.git(&["log", "--format=%an", "-1"]).trim(), "owner");
    serving.stop();
}

/// It cannot be told from what the job changes, so it waits for its end.
#[test]
fn what_the_owner_changes_while_a_job_runs_is_in_force_after_it() {
    let all = Standing::new();
    Fifo::make(&all.home.workspace("hold"));
    let told = Fifo::make(&all.home.workspace("told"));
    let serving = daily(&all, "echo here > told; cat hold");
    all.clock.set(NINE);
    told.line();
    fs::write(all.home.workspace("crontab"), "0 9 * * * bash mine.sh\n").expect("a file");
    assert_eq!(names(&all.status()), ["daily"]);
    let_go(&all, "hold");
    serving.happens("job", "daily", "done");
    all.status_when("it is in force", |status| names(status) == ["mine"]);
    serving.stop();
}

/// Two turns are cut short by a kill, and then somebody writes a line: it may have been any of
/// the three.
#[test]
fn a_line_of_which_nobody_knows_who_wrote_it_is_not_run() {
    let all = Standing::new();
    let told = Fifo::make(&all.home.workspace("told"));
    Fifo::make(&all.home.workspace("never"));
    let serving = daily(&all, "echo ran");
    let mut left = Vec::new();
    let mut turns = Vec::new();
    for session in ["one", "two"] {
        all.server.allow_prefix_change();
        all.server.queue(Reply::new().bash("echo $$ > told; cat never"));
        turns.push(all.home.spawn(&["run", "--session", session, "go"]));
        left.push(Watched::of(told.line().trim()));
    }
    serving.kill();
    drop(turns);
    left.iter().for_each(Watched::gone);
    fs::write(all.home.workspace("crontab"), "0 9 * * * bash strange.sh\n").expect("a file");
    let serving = all.serve();
    serving.happens("message", "", "nobody knows who wrote it, so it is not run");
    assert_eq!(names(&all.status()), ["daily"]);
    // The owner takes it for theirs.
    fs::write(all.home.workspace("crontab"), "0 9 * * * bash  strange.sh\n").expect("a file");
    all.status_when("it is the owner's", |status| names(status) == ["strange"]);
    serving.stop();
}

#[test]
fn a_narrowed_session_writes_no_crontab() {
    let all = Standing::new();
    let data = all.home.workspace("data");
    fs::create_dir(&data).expect("a folder");
    let serving = all.serve();
    let write = crontab("0 9 * * * bash attack.sh");
    let ways = [
        &*write,
        "echo '0 9 * * * bash attack.sh' > data/new && mv data/new crontab",
        "cp data/new crontab",
        "ln -f data/new crontab",
        "rm -f crontab; ln -sf data/new crontab",
        "mkdir services",
    ];
    for only in [&*format!("write {}", data.display()), "network none", "tools bash"] {
        all.act_with(&["--session", "narrow", "--only", only], &ways);
        all.home.run(&["end", "narrow"]).stderr_any().check();
        assert_eq!(all.home.read("crontab"), None, "{only}");
        assert!(!all.home.workspace("services").exists(), "{only}");
        all.home.run(&["sessions"]).stdout_any().check();
        fs::remove_file(all.home.path("sessions/narrow.jsonl")).expect("a transcript");
    }
    for name in ["crontab", "", "services"] {
        let only = format!("write {}", all.home.workspace(name).display());
        let run = all.home.run(&["run", "--session", "wide", "--only", &only, "go"]).code(1);
        run.stderr_any().check();
    }
    all.act("main", &[&write]);
    all.status_when("the control works", |status| names(status) == ["attack"]);
    serving.stop();
}

#[test]
fn a_job_has_what_the_session_has_that_wrote_its_line() {
    let all = Standing::new();
    let set = all.home.run(&["secret", "set", "TOKEN"]).stdin("fake-value-of-a-test\n");
    set.stdout_any().stderr_any().check();
    let outside = all.home.cwd().join("outside");
    let look = format!(
        "wc -c < ../secrets.toml; wc -c < ../door.key; echo x > {}; echo \"token ${{#TOKEN}}\"; \
         wc -c < daily.sh > inside; true",
        outside.display()
    );
    let serving = daily(&all, &look);
    all.clock.set(NINE);
    serving.happens("job", "daily", "done");
    let status = all.status();
    let tail = status["jobs"][0]["tail"].as_str().expect("a text");
    assert!(!tail.lines().any(|line| line.parse::<u32>().is_ok()), "{tail}");
    assert!(tail.contains("token 0") && !outside.exists(), "{tail}");
    assert!(all.home.read("inside").is_some());
    // What the owner gives, it has as everybody.
    all.home.run(&["allow", "secret", "TOKEN"]).stdout_any().check();
    all.clock.set(NINE_NEXT_DAY);
    serving.happens("job", "daily", "done");
    let status = all.status();
    assert!(status["jobs"][0]["tail"].to_string().contains("token 20"), "{status:#}");
    serving.stop();
}

/// Whatever lies in its place.
#[test]
fn nothing_in_the_workspace_keeps_the_host_from_starting_and_answering() {
    let all = Standing::new();
    let file = |name: &str| all.home.workspace(name);
    let cases: [(&str, &dyn Fn()); 9] = [
        ("a crontab that is a folder", &|| fs::create_dir(file("crontab")).expect("a folder")),
        ("a crontab that is a pipe", &|| drop(Fifo::make(&file("crontab")))),
        ("ten megabytes of crontab", &|| {
            fs::write(file("crontab"), "* * * * * x y z\nrubbish\n".repeat(430_000))
                .expect("a file");
        }),
        ("one long line", &|| {
            fs::write(file("crontab"), "*".repeat(10_000_000)).expect("a file");
        }),
        ("a crontab of bytes", &|| {
            let bytes: Vec<u8> =
                (0..200_000_u32).map(|n| (n.wrapping_mul(n) % 251) as u8).collect();
            fs::write(file("crontab"), bytes).expect("a file");
        }),
        ("services that are a file", &|| fs::write(file("services"), "x").expect("a file")),
        ("a service that is a pipe", &|| {
            fs::create_dir(file("services")).expect("a folder");
            Fifo::make(&file("services/pipe"));
            fs::create_dir(file("services/folder")).expect("a folder");
            std::os::unix::fs::symlink("/etc/passwd", file("services/way")).expect("a link");
            std::os::unix::fs::symlink("way2", file("services/way2")).expect("a link");
        }),
        ("names that are none", &|| {
            fs::create_dir(file("services")).expect("a folder");
            for name in ["new\nline", "esc\x1b[2J", "--help", "a b", "ü", ".hidden"] {
                fs::write(file("services").join(name), "#!/bin/sh\n").expect("a file");
            }
        }),
        ("broken skills and notes", &|| {
            let _ = fs::remove_dir_all(file("skills"));
            let _ = fs::remove_dir_all(file("agents"));
            let _ = fs::remove_file(file("bootstrap.md"));
            fs::create_dir_all(file("skills/bad")).expect("a folder");
            fs::write(file("skills/bad/SKILL.md"), b"---\nname: [\xff\n").expect("a file");
            fs::write(file("agents"), b"\0\xff").expect("a file");
            fs::create_dir(file("bootstrap.md")).expect("a folder");
        }),
    ];
    for (what, make) in cases {
        eprintln!("{what}:"); // shown when it fails
        // Both before it starts and while it runs.
        make();
        let serving = all.serve();
        assert_eq!(all.act("main", &["echo here"]), ["here\n"]);
        all.status();
        serving.stop();
        for name in ["crontab", "services"] {
            let _ = fs::remove_file(file(name)).or_else(|_| fs::remove_dir_all(file(name)));
        }
        if what.contains("skills") {
            continue;
        }
        let serving = all.serve();
        make();
        assert_eq!(all.act("main", &["echo here"]), ["here\n"]);
        fs::remove_file(file("crontab")).or_else(|_| fs::remove_dir_all(file("crontab"))).ok();
        fs::remove_file(file("services")).or_else(|_| fs::remove_dir_all(file("services"))).ok();
        fs::write(file("crontab"), "0 9 * * * bash daily.sh\n").expect("a file");
        // Of what comes in place of something that was left out nobody knows who wrote it.
        all.status_when("it is read", |status| status["jobs"] != status["faults"]);
        fs::write(file("crontab"), "0 9 * * * bash  daily.sh\n").expect("a file");
        all.status_when("it works again", |status| names(status) == ["daily"]);
        serving.stop();
        fs::remove_file(file("crontab")).expect("a file");
    }
}
