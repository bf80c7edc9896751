//! Refused rather than pretended: where hands cannot be confined as they should be, none
//! acts, and it is said; and where the owner has switched confinement off, that is said.

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter};
use serde_json::json;

use super::{Lab, OFF, PROGRAMS, bash, heard};

/// A kernel without Landlock, with it switched off, with too old a one, or one that forbids it.
#[test]
fn where_nothing_can_be_confined_nothing_is_run() {
    for (error, says) in [
        (libc::ENOSYS, "this kernel has no Landlock; Linux 6.12"),
        (libc::EOPNOTSUPP, "Landlock is switched off on this machine"),
        (libc::EPERM, "this kernel has no Landlock"),
        (0, "this kernel's Landlock has version 0"),
    ] {
        for (config, runs) in [("", false), (OFF, true)] {
            let lab = Lab::new(None, config);
            let calls = [bash("echo x > made"), ("write", json!({"path": "new", "content": "x"}))];
            let mut host = lab.command(&PROGRAMS.path().join("fledgling"));
            let calls: Vec<_> =
                calls.map(|(name, input)| json!({"name": name, "input": input})).into();
            lab.put(
                "cwd/s.jsonl",
                &format!("{}\n{}", json!({"calls": calls}), json!({"text": "Done."})),
            );
            host.args(["run", "--session", "s", "--model", "script:s.jsonl", "go"]);
            let without: BpfProgram = SeccompFilter::new(
                [(libc::SYS_landlock_create_ruleset, Vec::new())].into(),
                SeccompAction::Allow,
                SeccompAction::Errno(error as u32),
                std::env::consts::ARCH.try_into().expect("a machine with filters"),
            )
            .and_then(TryInto::try_into)
            .expect("a filter");
            // SAFETY: system calls on what was made before.
            unsafe { host.pre_exec(move || apply_filter(&without).map_err(std::io::Error::other)) };
            let ran = host.output().expect("it can be run");
            let warned = String::from_utf8_lossy(&ran.stderr);
            assert_eq!(lab.path("home/workspace/made").exists(), runs, "{error}: {warned}");
            assert_eq!(lab.path("home/workspace/new").exists(), runs, "{error}: {warned}");
            let told = lab.told("s");
            for told in told {
                let said = told.contains(says) && told.contains("confine = \"off\"");
                assert_eq!(said, !runs, "{error}: {told}");
            }
        }
    }
}

#[test]
fn what_would_give_away_the_keys_is_refused() {
    for right in ["read", "write"] {
        let lab = Lab::new(None, "");
        let around = lab.path("home").parent().expect("a folder").to_owned();
        symlink("/usr", lab.path("link")).expect("a symlink");
        for (path, why) in [
            (around, "with your keys"),
            (lab.path("home"), "with your keys"),
            (lab.path("home/sessions"), "the program's own"),
            (lab.path("link/share"), "goes through a symlink"),
            ("/proc".into(), "/proc cannot be given"),
        ] {
            lab.put("home/config.toml", &format!("[hands]\n{right} = [{path:?}]\n"));
            let told = lab.turn(&[bash("echo x > made")]);
            assert!(told[0].contains(why) && told[0].contains("so none is run"), "{told:?}");
            assert!(!lab.path("home/workspace/made").exists());
        }
        lab.put("home/config.toml", &format!("[hands]\n{right} = [{:?}]\n", lab.path("out")));
        assert!(!lab.turn(&[bash("echo x > made")])[0].contains("so none is run"));
    }
}

#[test]
fn the_program_does_not_lie_where_hands_write() {
    let lab = Lab::new(None, "");
    let inside = lab.path("home/workspace/fledgling");
    fs::copy(PROGRAMS.path().join("fledgling"), &inside).expect("a copy");
    lab.put(
        "cwd/x.jsonl",
        &json!({"calls": [{"name": "bash", "input": {"command": "echo > made"}}]}).to_string(),
    );
    let mut run = lab.command(&inside);
    let _ = run.args(["run", "--session", "x", "--model", "script:x.jsonl", "go"]).output();
    let told = lab.told("x");
    assert!(told[0].contains("lies where tool calls may put another in its place"), "{told:?}");
    assert!(!lab.path("home/workspace/made").exists());
}

#[test]
fn confinement_that_is_off_is_said() {
    let lab = Lab::new(None, OFF);
    let said = |words: &[&str]| {
        let mut command = lab.fledgling(words);
        let output = command.output().expect("it can be run");
        let both = [output.stdout, output.stderr].concat();
        String::from_utf8_lossy(&both).into_owned()
    };
    let mut host = lab.begin("s", &[bash("echo x > made; fledgling self")]);
    let (_, warned) = heard(&mut host);
    host.wait().expect("it was started");
    assert!(warned.contains("CONFINEMENT IS OFF"), "{warned}");
    assert!(lab.told("s")[0].to_lowercase().contains("off"), "{:?}", lab.told("s"));
    for words in ["doctor", "policy"] {
        let text = said(&[words]);
        assert!(text.contains("confine = \"off\""), "{words}: {text}");
    }
    let log = said(&["git", "log", "-1", "--format=%B"]);
    assert!(log.contains("Confine: off"), "{log}");
}
