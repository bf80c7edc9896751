//! The services that the agent writes: kept running, and stopped; what they may touch, and that
//! nothing of them outlives the host.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::kills::{Fifo, Watched};
use crate::standing::{Standing, until};

/// A home with a pipe in the folder of a service, into which it can write.
pub fn home(service: &str) -> (Standing, Fifo) {
    let all = Standing::new();
    let told = own(&all, service, "told");
    fs::create_dir_all(told.parent().expect("a folder")).expect("a folder");
    let told = Fifo::make(&told);
    (all, told)
}

/// A file in a service's own folder.
pub fn own(all: &Standing, service: &str, file: &str) -> PathBuf {
    all.home.path("scratch/services").join(service).join(file)
}

/// A command of the agent's that writes a service.
pub fn service(name: &str, script: &str) -> String {
    format!(
        "mkdir -p services && cat > services/{name} <<'END'\n#!/bin/bash\n{script}\nEND\n\
         chmod +x services/{name}"
    )
}

/// The same by the owner.
pub fn put(all: &Standing, name: &str, script: &str) {
    fs::create_dir_all(all.home.workspace("services")).expect("a folder");
    let new = all.home.cwd().join("new");
    fs::write(&new, format!("#!/bin/bash\n{script}\n")).expect("a file");
    fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).expect("a file");
    fs::rename(new, all.home.workspace("services").join(name)).expect("a file");
}

/// How a service stands.
fn of<'a>(status: &'a Value, name: &str) -> &'a Value {
    let all = status["services"].as_array().into_iter().flatten();
    all.into_iter().find(|service| service["name"] == name).unwrap_or(&Value::Null)
}

pub fn log(all: &Standing, name: &str) -> String {
    all.home.run(&["services", name]).stdout_any().check().stdout
}

pub const STAYS: &str = "echo $$ > \"$TMPDIR/told\"; exec sleep 1000";

#[test]
fn it_is_kept_running_and_stopped_when_its_file_is_undone() {
    let (all, told) = home("beat");
    let serving = all.serve();
    all.act("main", &[&service("beat", STAYS)]);
    let first = Watched::of(told.line().trim());
    let status = all.status();
    assert_eq!(
        (&of(&status, "beat")["state"], &of(&status, "beat")["starts"]),
        (&json!("runs"), &json!(1))
    );
    first.signal(libc::SIGKILL).expect("it runs");
    first.gone();
    let second = Watched::of(told.line().trim());
    let status = all.status();
    assert_eq!(of(&status, "beat")["starts"], 2, "{status:#}");
    assert_eq!(of(&status, "beat")["note"], "killed by signal 9", "{status:#}");
    let shown = all.home.run(&["services"]).stdout_any().check().stdout;
    assert!(shown.starts_with("  beat: runs since ") && shown.contains("2 starts"), "{shown}");
    let log = log(&all, "beat");
    assert!(log.contains("killed by signal 9") && log.contains("starts again in 1 s"), "{log}");
    all.home.run(&["undo"]).stdout_any().stderr_any().check();
    second.gone();
    all.status_when("it is gone", |status| status["services"] == json!([]));
    all.home.run(&["services", "beat"]).code(1).stderr_holds(&["there is no service beat"]).check();
    serving.stop();
}

#[test]
fn another_file_is_another_service_and_no_file_is_none() {
    let (all, told) = home("beat");
    let serving = all.serve();
    put(&all, "beat", STAYS);
    let first = Watched::of(told.line().trim());
    put(&all, "beat", &format!("echo anew\n{STAYS}"));
    first.gone();
    let second = Watched::of(told.line().trim());
    let status = all.status();
    assert_eq!(of(&status, "beat")["state"], "runs", "{status:#}");
    assert!(log(&all, "beat").contains("anew"));
    // Another file beside it is no reason.
    put(&all, "more", "exec sleep 1000");
    all.status_when("both run", |status| of(status, "more")["state"] == "runs");
    assert_eq!(of(&all.status(), "beat")["starts"], of(&status, "beat")["starts"]);
    fs::remove_file(all.home.workspace("services/beat")).expect("a file");
    second.gone();
    all.status_when("one is left", |status| of(status, "beat").is_null());
    serving.stop();
}

/// As editors, `git checkout` and `rsync` do it.
#[test]
fn a_folder_that_is_replaced_is_watched_as_the_one_before() {
    let (all, told) = home("beat");
    let serving = all.serve();
    put(&all, "beat", STAYS);
    let first = Watched::of(told.line().trim());
    for folder in ["a", "b"] {
        fs::create_dir(all.home.workspace(folder)).expect("a folder");
    }
    fs::rename(all.home.workspace("services"), all.home.workspace("a/services")).expect("a folder");
    put(&all, "beat", &format!("echo second\n{STAYS}"));
    first.gone();
    let second = Watched::of(told.line().trim());
    put(&all, "beat", &format!("echo third\n{STAYS}"));
    second.gone();
    let third = Watched::of(told.line().trim());
    fs::remove_dir_all(all.home.workspace("services")).expect("a folder");
    third.gone();
    serving.stop();
}

#[test]
fn a_narrowed_session_has_no_business_with_it() {
    let (all, told) = home("beat");
    let serving = all.serve();
    put(&all, "beat", STAYS);
    let running = Watched::of(told.line().trim());
    let commands = [
        "fledgling status",
        "fledgling services",
        "fledgling services beat",
        "fledgling services beat --restart",
        "fledgling check services/beat",
        "fledgling people",
        "fledgling pair ABCDEFGH",
    ];
    let narrow = ["--session", "narrow", "--only", "network full"];
    for (command, said) in commands.iter().zip(all.act_with(&narrow, &commands)) {
        assert!(said.contains("[exit code "), "{command}: {said}");
        assert!(!said.contains("runs since"), "{command}: {said}");
    }
    assert_eq!(of(&all.status(), "beat")["starts"], 1);
    // The control: what was not narrowed may, but not with people.
    for (command, said) in commands.iter().zip(all.act("main", &commands)) {
        let owners = ["people", "pair", "check"].iter().any(|one| command.contains(one));
        assert!(owners || !said.contains("[exit code "), "{command}: {said}");
    }
    running.gone();
    serving.stop();
}

#[test]
fn one_that_ends_again_and_again_is_in_quarantine_until_somebody_looks() {
    let (all, told) = home("bad");
    let serving = all.serve();
    let bad = "echo \"no luck $$\" >&2; test -e \"$TMPDIR/fine\" && echo $$ > \"$TMPDIR/told\" && exec sleep 1000; exit 3";
    all.act("main", &[&service("bad", bad)]);
    let said = serving.happens("message", "", "The service bad is in quarantine");
    let said = said["fields"]["message"].as_str().expect("a text").to_owned();
    assert!(said.contains("it ended 5 times in a row, at last with: exit code 3"), "{said}");
    assert!(said.contains("the last line in its log: ") && said.contains("no luck"), "{said}");
    let heard = all.heard("main");
    assert!(heard.contains("The service bad is in quarantine"), "{heard}");
    let status = all.status();
    assert_eq!(
        (&of(&status, "bad")["state"], &of(&status, "bad")["starts"]),
        (&json!("quarantine"), &json!(5))
    );
    assert!(status["errors"].to_string().contains("The service bad is in quarantine"));
    assert!(log(&all, "bad").contains("no luck"));
    fs::write(own(&all, "bad", "fine"), "").expect("a file");
    all.home.run(&["services", "bad", "--restart"]).stdout("bad is started again.\n").check();
    Watched::of(told.line().trim());
    all.status_when("it runs", |status| of(status, "bad")["state"] == "runs");
    serving.stop();
}

/// What it started in a session of its own and with no tie to it, and deaf to signals.
#[test]
fn nothing_of_it_outlives_the_host() {
    for kill in [false, true] {
        let (all, told) = home("beat");
        let serving = all.serve();
        let script = "trap '' TERM HUP INT; (trap '' TERM HUP; setsid sleep 1000 & echo $$ $! > \"$TMPDIR/told\"); \
                      while :; do sleep 1000; done";
        put(&all, "beat", script);
        let left: Vec<_> = told.line().split_whitespace().map(Watched::of).collect();
        assert_eq!(left.len(), 2);
        if kill {
            serving.kill()
        } else {
            serving.stop()
        };
        left.iter().for_each(Watched::gone);
    }
}

/// Attempts of a service to write: each says whether it did.
const ATTEMPTS: &str = "for file in data/x notes crontab services/more ../config.toml ../secrets.toml \"$OUT\"; do \
    (echo attack >> $file) 2>/dev/null && echo \"wrote $file\"; done; \
    rm -rf data/old 2>/dev/null; echo done > \"$TMPDIR/told\"; exec sleep 1000";

#[test]
fn it_changes_nothing_but_what_its_head_says() {
    let (all, told) = home("beat");
    let outside = all.home.cwd().join("outside");
    fs::create_dir(all.home.workspace("data")).expect("a folder");
    fs::write(all.home.workspace("data/old"), "old\n").expect("a file");
    let serving = all.serve();
    let attempts = ATTEMPTS.replace("$OUT", &outside.display().to_string());
    let there = || {
        let files = ["data/x", "notes", "crontab", "services/more"];
        let mut there: Vec<_> =
            files.into_iter().filter(|file| all.home.read(file).is_some()).collect();
        there.extend(outside.exists().then_some("outside"));
        there.extend(all.home.path("secrets.toml").exists().then_some("secrets"));
        there
    };
    all.act("main", &[&service("beat", &attempts)]);
    assert_eq!(told.line(), "done\n");
    assert_eq!(there(), [""; 0]);
    assert!(all.home.read("data/old").is_some());
    // The control: its head allows a folder.
    all.act("main", &[&service("beat", &format!("# fledgling: write data\n{attempts}"))]);
    assert_eq!(told.line(), "done\n");
    assert_eq!(there(), ["data/x"]);
    assert!(all.home.read("data/old").is_none());
    // Nothing in it makes it wider than its author is.
    let wide = format!("# fledgling: write '{}'\n{attempts}", all.home.cwd().display());
    all.act("main", &["rm -r data/*", &service("beat", &wide)]);
    assert_eq!(told.line(), "done\n");
    assert_eq!(there(), [""; 0]);
    for control in ["crontab", "services", ".", "bootstrap.md", "skills"] {
        all.act(
            "main",
            &[
                "touch crontab",
                &service("beat", &format!("# fledgling: write {control}\n{attempts}")),
            ],
        );
        let said = serving.happens("service", "beat", "is not run: ");
        assert_eq!(said["level"], "WARN");
        let status =
            all.status_when("it is refused", |status| of(status, "beat")["state"] == "refused");
        assert!(of(&status, "beat")["note"].to_string().contains("cannot be given"), "{status:#}");
        all.act("main", &["rm services/beat crontab"]);
        all.status_when("it is gone", |status| of(status, "beat").is_null());
    }
    serving.stop();
}

#[test]
fn what_cannot_be_run_is_said() {
    let (all, told) = home("good");
    let serving = all.serve();
    all.act(
        "main",
        &[&service("plain", "true"), "chmod -x services/plain", "git init -q x; rm -rf x"],
    );
    serving.happens(
        "service",
        "plain",
        "is not run: it may not be executed: chmod +x services/plain",
    );
    let heard = all.heard("main");
    assert!(heard.contains("The service plain is not run: it may not be executed"), "{heard}");
    all.act("main", &["cp services/plain 'services/a b'; chmod +x services/*; echo '#!/no/such/thing' > services/plain",
        &service("good", STAYS), "echo about > services/README.md; echo '# fledgling: fly high' > services/fly; chmod +x services/fly"]);
    Watched::of(told.line().trim());
    let status =
        all.status_when("all are known", |status| of(status, "plain")["starts"].as_u64() > Some(0));
    assert_eq!(of(&status, "a b")["state"], "refused", "{status:#}");
    assert_eq!(of(&status, "fly")["state"], "refused", "{status:#}");
    assert!(of(&status, "README.md").is_null(), "{status:#}");
    serving.stop();
}

#[test]
fn what_the_owner_changes_beside_it_stays_the_owners() {
    let (all, told) = home("beat");
    fs::create_dir(all.home.workspace("data")).expect("a folder");
    fs::write(all.home.workspace("data/first"), "x\n").expect("a file");
    let go = own(&all, "beat", "go");
    Fifo::make(&go);
    let serving = all.serve();
    let script = "# fledgling: write data\necho up > \"$TMPDIR/told\"; read -r < \"$TMPDIR/go\"; echo found > data/found; echo wrote > \"$TMPDIR/told\"; exec sleep 1000";
    all.act("main", &[&service("beat", script)]);
    assert_eq!(told.line(), "up\n");
    let mut gate = OpenOptions::new().write(true).open(go).expect("it reads");
    gate.write_all(b"go\n").expect("it reads");
    assert_eq!(told.line(), "wrote\n");
    fs::write(all.home.workspace("notes.md"), "of the owner\n").expect("a file");
    all.act("main", &["echo of the turn > turn"]);
    let who = |file: &str| {
        all.home
            .git(&["log", "--format=%an %(trailers:key=Origin,valueonly)", "--", file])
            .trim()
            .to_owned()
    };
    assert!(who("notes.md").starts_with("owner"), "{}", who("notes.md"));
    assert!(!who("data/found").starts_with("owner"), "{}", who("data/found"));
    assert!(!who("turn").starts_with("owner"), "{}", who("turn"));
    let service = all.home.git(&["log", "--format=%b", "--", "data/found"]);
    assert!(service.contains("Also-running: service:beat"), "{service}");
    serving.stop();
}

#[test]
fn a_secret_that_is_given_reaches_it_at_once_and_its_log_never() {
    let (all, told) = home("beat");
    let set = all.home.run(&["secret", "set", "TOKEN"]).stdin("fake-value-of-a-test\n");
    set.stdout_any().stderr_any().check();
    let serving = all.serve();
    put(
        &all,
        "beat",
        "echo \"it is <$TOKEN>\"; echo \"it is <$TOKEN>\" >&2; cat ../secrets.toml; echo ${#TOKEN} > \"$TMPDIR/told\"; exec sleep 1000",
    );
    assert_eq!(told.line(), "0\n");
    assert!(log(&all, "beat").contains("it is <>"));
    all.home.run(&["allow", "secret", "TOKEN"]).stdout_any().check();
    assert_eq!(told.line(), "20\n");
    until("its log has both lines", || {
        log(&all, "beat").matches("it is <[secret TOKEN withheld]>").count() == 2
    });
    for folder in ["logs", "logs/services"] {
        for file in fs::read_dir(all.home.path(folder)).into_iter().flatten() {
            let text = fs::read(file.expect("a file").path()).unwrap_or_default();
            assert!(!String::from_utf8_lossy(&text).contains("fake-value"));
        }
    }
    all.home.run(&["deny", "secret", "TOKEN"]).stdout_any().check();
    assert_eq!(told.line(), "0\n");
    let ran = serving.stop();
    assert!(!ran.stdout.contains("fake-value"), "{ran}");
}

#[test]
fn its_environment_says_who_it_is_and_it_can_ask_the_host() {
    let (all, told) = home("beat");
    let serving = all.serve();
    put(
        &all,
        "beat",
        "fledgling tell \"I am $FLEDGLING_SERVICE\"; fledgling run --session s hello < /dev/null > \"$TMPDIR/told\"; exec sleep 1000",
    );
    all.server.queue(crate::reply::Reply::text("Hello, service."));
    serving.happens("message", "service:beat", "I am beat");
    assert_eq!(told.line(), "Hello, service.\n");
    assert_eq!(all.status()["budget"], json!([15, 500_000]), "its turn is unattended");
    serving.stop();
}
