//! What needs more than one command: what the host does by itself later, other sessions, and
//! tools that work on files.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::json;

use super::{Lab, OFF, bash, heard, users};

fn denied(text: &str) -> bool {
    text.contains("Permission denied") || text.contains("not permitted")
}

/// Confined and not, as each user there is.
fn each(config: &str, attempt: impl Fn(&Lab, bool)) {
    for user in users() {
        for (off, confined) in [("", true), (OFF, false)] {
            attempt(&Lab::new(user, &format!("{off}{config}")), confined);
        }
    }
}

#[test]
fn tools_that_work_on_files_reach_no_further_than_commands() {
    each("", |lab, confined| {
        let out = |name: &str| lab.path("out").join(name);
        symlink(lab.path("out"), lab.path("home/workspace/way")).expect("a symlink");
        let edits = json!([{"old": "intact", "new": "changed"}]);
        // An edit that is refused for want of a right to write has found its text.
        let key = json!([{"old": "ANTHROPIC_API_KEY=SECRET", "new": "x"}]);
        let calls = [
            ("read", json!({"path": out("secret")})),
            ("read", json!({"path": "../../out/secret"})),
            ("read", json!({"path": "way/secret"})),
            ("read", json!({"path": "way"})),
            ("read", json!({"path": "/proc/self/maps"})),
            ("read", json!({"path": "/proc/self/task"})),
            ("read", json!({"path": "/proc/thread-self/status"})),
            ("read", json!({"path": "/proc/self/root/etc/../proc/self/status"})),
            ("edit", json!({"path": out("victim"), "edits": edits})),
            ("edit", json!({"path": "way/victim", "edits": [{"old": "changed", "new": "intact"}]})),
            ("write", json!({"path": out("made"), "content": "x"})),
            ("write", json!({"path": "way/new", "content": "x"})),
            ("write", json!({"path": "way/some/folder/new", "content": "x"})),
            ("write", json!({"path": "../sessions/forged.jsonl", "content": ""})),
        ];
        for (call, told) in calls.iter().zip(lab.turn(&calls)) {
            assert_eq!(denied(&told), confined, "{call:?}: {told}");
        }
        assert_eq!(lab.path("out/made").exists(), !confined);
        let told = lab.turn(&[("edit", json!({"path": "/proc/self/environ", "edits": key}))]);
        // An ordinary user's host is opaque to itself, too.
        let oracle = told[0].contains("nothing was changed");
        assert!(!confined || (!oracle && denied(&told[0])), "{told:?}");
        assert_eq!(oracle, !confined && lab.user.is_none() && super::is_root(), "{told:?}");
        for path in ["/dev/tty", "/dev/stdin", "/proc/self/fd/1"] {
            let told = lab.turn(&[("write", json!({"path": path, "content": "x"}))]);
            assert!(told[0].starts_with("cannot"), "{told:?}");
        }
    });
}

#[test]
fn no_race_leads_a_tool_out() {
    each("", |lab, confined| {
        let workspace = lab.path("home/workspace");
        fs::create_dir(workspace.join("one")).expect("a folder");
        fs::write(workspace.join("one/file"), "plain").expect("a file");
        symlink(lab.path("out/folder"), workspace.join("other")).expect("a symlink");
        let [one, other] = ["one", "other"].map(|name| {
            let path = workspace.join(name).into_os_string().into_encoded_bytes();
            std::ffi::CString::new(path).expect("no NUL")
        });
        let read = ("read", json!({"path": "one/file"}));
        let write = ("write", json!({"path": "one/got-out", "content": "x"}));
        let calls: Vec<_> = (0..150).flat_map(|_| [read.clone(), write.clone()]).collect();
        let over = AtomicBool::new(false);
        let told = std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    // SAFETY: two strings that live on.
                    unsafe {
                        let (at, swap) = (libc::AT_FDCWD, libc::RENAME_EXCHANGE);
                        libc::renameat2(at, one.as_ptr(), at, other.as_ptr(), swap);
                    }
                }
            });
            let told = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| lab.turn(&calls)));
            over.store(true, Ordering::Relaxed);
            told.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        let out = told.iter().any(|told| told.contains("SECRET"));
        let put = lab.path("out/folder/got-out").exists();
        assert_eq!((out, put), (!confined, !confined));
    });
}

#[test]
fn a_grant_that_was_replaced_leads_nowhere() {
    for user in users() {
        for (off, confined) in [("", true), (OFF, false)] {
            let mut lab = Lab::new(user, "");
            fs::create_dir_all(lab.path("given/inner")).expect("a folder");
            let (given, inner) = (lab.path("given"), lab.path("given/inner"));
            lab.put(
                "home/config.toml",
                &format!("{off}[hands]\nread = [{inner:?}]\nwrite = [{given:?}]\n"),
            );
            let replace = format!(
                "mv -T {0} {0}.old; ln -s {1} {0}",
                inner.display(),
                lab.path("out").display()
            );
            let read = format!("cat {}/secret", inner.display());
            let told = lab.turn(&[bash(&replace), bash(&read)]);
            assert_eq!(told[1].contains("SECRET"), !confined, "{told:?}");
            assert_eq!(told[1].contains("goes through a symlink now"), confined, "{told:?}");
            // Nor at the next start, and it is said.
            let told = lab.turn(&[bash(&read)]);
            assert_eq!(told[0].contains("SECRET"), !confined, "{told:?}");
            assert_eq!(told[0].contains("goes through a symlink: if "), confined, "{told:?}");
            lab.victim = None;
        }
    }
}

/// All that a workspace can hold to make somebody run or trust it.
const PLANTED: &str = r#"
evil="touch $O/ran"
mkdir -p bin .fledgling hooks nested
for name in git bash sh less ssh fledgling sqlite3 env; do
    printf '#!/bin/bash\n%s\nexec /bin/bash "$@"\n' "$evil" > bin/$name; chmod +x bin/$name
done
for name in config.toml CONFIG.TOML Config.toml .fledgling.toml .fledgling/config.toml; do
    printf 'confine = "off"\n[hands]\nread = ["/"]\nwrite = ["/"]\nunix = true\n' > $name
done
printf 'ANTHROPIC_BASE_URL=http://127.0.0.1:1\nLD_PRELOAD=%s/x.so\n' "$PWD" > .env
printf '#!/bin/sh\n%s\n' "$evil" | tee hooks/pre-commit hooks/post-commit hooks/post-checkout \
    hooks/reference-transaction hooks/fsmonitor-watchman hooks/pre-push > hooks/pre-auto-gc
chmod +x hooks/*
printf '* filter=evil diff=evil merge=evil\n' > .gitattributes
cat > evil.config <<END
[core]
    fsmonitor = "$evil; false"
    hooksPath = $PWD/hooks
    pager = "$evil; cat"
    editor = "$evil; true"
    sshCommand = "$evil"
[filter "evil"]
    clean = "$evil; cat"
    smudge = "$evil; cat"
    required = true
[diff "evil"]
    textconv = "$evil; cat"
    command = "$evil"
[url "file:///nowhere"]
    insteadOf = https://
END
/usr/bin/git init -q nested && cat evil.config >> nested/.git/config
(cd nested; /usr/bin/git -c core.hooksPath= -c core.fsmonitor= commit -q --allow-empty -m x) 2>/dev/null
cp -r nested/.git evil.git 2>/dev/null
printf x > tracked
rm -rf .git; echo "gitdir: $PWD/evil.git" > .git
"#;

#[test]
fn what_is_planted_in_the_workspace_runs_nothing_on_the_host() {
    for user in users() {
        let lab = Lab::new(user, "");
        let out = format!("O='{}'\n", lab.path("out").display());
        let policy = |lab: &Lab| {
            let mut asked = lab.fledgling(&["policy"]);
            String::from_utf8(asked.output().expect("a table").stdout).expect("UTF-8")
        };
        lab.turn(&[bash("true")]);
        let (table, link) = (policy(&lab), lab.text("home/workspace/.git"));
        assert!(!table.is_empty());
        lab.turn(&[bash(&format!("{out}{PLANTED}"))]);
        assert_eq!(lab.text("home/workspace/.git"), link, "the owner's git goes there");
        for words in [
            &["log"][..],
            &["log", "-p"],
            &["show"],
            &["diff"],
            &["git", "status"],
            &["git", "log", "-p", "--textconv", "--ext-diff"],
            &["git", "diff", "--textconv"],
            &["git", "add", "-A"],
            &["git", "commit", "--allow-empty", "-m", "x"],
            &["git", "gc", "-q"],
            &["doctor"],
            &["undo"],
            &["redo"],
        ] {
            let mut command = lab.fledgling(words);
            let command = command.current_dir(lab.path("home/workspace"));
            let _ = command.output().expect("it can be run");
            assert!(!lab.path("out/ran").exists(), "{words:?} ran it");
        }
        let told = lab.turn(&[bash(&format!("cat {}/secret", lab.path("out").display()))]);
        assert!(denied(&told[0]), "{told:?}");
        assert_eq!(policy(&lab), table, "what was planted changed what is given");
        assert!(!lab.path("out/ran").exists());
        // The controls: a plain git in there runs it, and so does who takes commands from there.
        for words in [&["git", "status"][..], &["env", "true"]] {
            let control = Lab::new(user, OFF);
            let out = format!("O='{}'\n", control.path("out").display());
            let plain = format!(
                "{out}{PLANTED}\n/usr/bin/env PATH=$PWD/bin:$PATH true; {}",
                words.join(" ")
            );
            control.turn(&[bash(&plain)]);
            assert!(control.path("out/ran").exists(), "{words:?}: the control runs nothing");
        }
    }
}

#[test]
fn another_session_is_out_of_reach() {
    each("", |lab, confined| {
        lab.settle();
        let wait =
            "echo $$ $FLEDGLING_DOOR > pid; until test -e go; do sleep 0.01; done; echo ended";
        let mut first = lab.begin("a", &[bash(wait)]);
        let attempts = "until test -s pid; do sleep 0.01; done; read pid door < pid
            kill -0 $pid; echo signal $?; cat /proc/$pid/environ >/dev/null; echo environ $?
            ls $door; echo list $?; (: > $door/x); echo request $?; exec 3<>/proc/$pid/fd/1; echo output $?";
        let mut second = lab.begin("b", &[bash(attempts), bash("touch go")]);
        let said = [heard(&mut first), heard(&mut second)];
        assert!(first.wait().expect("it").success() && second.wait().expect("it").success());
        let (a, b) = (lab.told("a"), lab.told("b"));
        assert!(a[0].contains("ended"), "{a:?} {said:?}");
        for what in ["signal", "environ", "list", "request", "output"] {
            assert_eq!(b[0].contains(&format!("{what} 0")), !confined, "{what}: {}", b[0]);
        }
    });
}

#[test]
fn commands_do_not_speak_for_the_owner() {
    each("", |lab, _| {
        let commands = ["allow network none", "allow read /", "deny network full", "allow unix"];
        for words in commands {
            let told = lab.turn(&[bash(&format!("fledgling {words}"))]);
            assert!(told[0].contains("only the owner"), "{words}: {told:?}");
        }
        assert!(!lab.text("home/config.toml").contains("[hands]"));
        // The owner may.
        let mut owner = lab.fledgling(&["allow", "unix"]);
        assert!(owner.output().expect("it").status.success());
        assert!(lab.text("home/config.toml").contains("unix = true"));
    });
}

#[test]
fn the_owners_door_asks_for_its_key() {
    each("[hands]\nunix = true\n", |lab, confined| {
        let knock = "exec 2>&1; key=$(cat $FLEDGLING_HOME/door.key)
            bin/attack say $FLEDGLING_HOME/host.sock \
            '{\"version\":1,\"door_key\":\"'$key'\",\"verb\":\"sessions\"}'";
        let told = lab.turn(&[bash(knock)]);
        assert_eq!(told[0].contains("the door's key is wrong"), confined, "{told:?}");
        assert_eq!(told[0].contains("\"name\":\"s\""), !confined, "{told:?}");
    });
}

/// The processes the commands of which have this in them.
fn sleeping(seconds: &str) -> Vec<i32> {
    let processes = fs::read_dir("/proc").expect("processes").flatten();
    let asleep = processes.filter(|process| {
        let line = fs::read(process.path().join("cmdline"));
        line.is_ok_and(|line| String::from_utf8_lossy(&line).contains(seconds))
    });
    asleep.filter_map(|process| process.file_name().to_str()?.parse().ok()).collect()
}

#[test]
fn nothing_of_a_call_stays() {
    // A number that is nobody else's.
    let seconds = format!("7{:07}", std::process::id());
    let leave = format!(
        "exec >/dev/null 2>&1; rm -f begun; one='echo >> begun; exec sleep {seconds}'
        setsid bash -c \"$one\" & (setsid bash -c \"($one &)\" &) ; (trap '' TERM; eval \"$one\") &
        until test -e begun && test $(wc -l < begun) = 3; do :; done"
    );
    each("", |lab, _| {
        lab.turn(&[bash(&leave)]);
        assert!(sleeping(&seconds).is_empty());
    });
    // The control: they outlive a plain bash.
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut control =
        Command::new("bash").args(["-c", &leave]).current_dir(folder.path()).spawn().expect("bash");
    control.wait().expect("it was started");
    let left = sleeping(&seconds);
    for pid in &left {
        // SAFETY: numbers only; they are this test's.
        unsafe { libc::kill(*pid, libc::SIGKILL) };
    }
    // A shell that has not become one of them yet may be found as well.
    assert!(left.len() >= 3, "{left:?}");
}
