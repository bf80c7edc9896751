//! The tour: a whole recorded conversation with real tools, which leaves nothing behind and
//! asks nobody.

use std::fs;
use std::io::ErrorKind;
use std::net::TcpListener;

use serde_json::Value;

use crate::home::{Home, Ran};

/// A run of the tour in which nothing may be asked of any provider, though the keys and
/// addresses of two are there, and which must leave its temporary folder empty.
#[track_caller]
fn tour(args: &[&str]) -> Ran {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    server.set_nonblocking(true).unwrap();
    let url = format!("http://{}", server.local_addr().unwrap());
    let home = Home::new().with_anthropic_at(&url).with_openai_at(&url);
    let temporary = home.cwd().join("temporary");
    fs::create_dir(&temporary).unwrap();
    let ran = home.run(args).env("TMPDIR", temporary.to_str().unwrap()).stdout_any().check();
    assert_eq!(server.accept().unwrap_err().kind(), ErrorKind::WouldBlock, "somebody was asked");
    assert_eq!(fs::read_dir(&temporary).unwrap().count(), 0, "something is left behind");
    assert!(!home.path("").exists(), "the owner's home was touched");
    ran
}

#[test]
fn the_bug_is_seen_and_fixed() {
    let ran = tour(&["tour"]);
    let mut rest = ran.stdout.as_str();
    for expected in [
        "you> I drink too much coffee.",
        "· write bin/coffee",
        "    + #!/usr/bin/env bash",
        "2 files +22 −0",
        "    noted: 3.10 at Joe's",
        "    3 cups, 8 in all",
        "That cannot be right",
        "· edit bin/coffee",
        "    - sum(cents) / 100)",
        "    3 cups, 8.70 in all",
        "1 file +2 −2",
        "    station\t5.60",
        "· write skills/coffee/SKILL.md",
        "· edit memory/MEMORY.md",
        "That was the tour.",
    ] {
        let at =
            rest.find(expected).unwrap_or_else(|| panic!("no {expected:?} in its place\n{ran}"));
        rest = &rest[at + expected.len()..];
    }
    assert!(!ran.stdout.contains('\x1b') && !ran.stdout.contains("[Enter"), "{ran}");
}

#[test]
fn its_events_are_json() {
    let ran = tour(&["tour", "--json"]);
    let events: Vec<Value> =
        ran.stdout.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    let count = |name: &str| events.iter().filter(|event| event["event"] == name).count();
    assert_eq!((count("turn_started"), count("turn_ended")), (5, 5), "{ran}");
    assert_eq!(count("call"), count("result"));
    let ended = events.iter().filter(|event| event["event"] == "turn_ended");
    assert!(ended.map(|event| &event["changes"]["files"]).all(|files| files.as_u64() > Some(0)));
    assert!(events.iter().all(|event| event["error"] != true), "{ran}");
}
