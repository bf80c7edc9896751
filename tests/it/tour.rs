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
        "    3 cups, 9 in all",
        "A change of mind",
        "you> /undo\n\nTaken back by commit ",
        "  bin/coffee: put back",
        "elsewhere\n  coffee total",
        "you> /why bin/coffee:20\n\n> How much is that so far?",
        "a whole number of cents divided by a whole 100",
        "you> /redo\n\nBrought back by commit ",
        "· edit memory/MEMORY.md",
        "you> /log",
        "My limit is 20 a week.",
        "Undo: The cents are noise.",
        "The workspace as it begins",
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
    assert_eq!((count("turn_started"), count("turn_ended")), (6, 6), "{ran}");
    let typed: Vec<_> = events.iter().filter_map(|event| event["typed"].as_str()).collect();
    assert_eq!(typed, ["/undo", "/why bin/coffee:20", "/redo", "/log"]);
    assert!(events.iter().any(|event| event["answer"]["paths"][0][0] == "bin/coffee"), "{ran}");
    assert_eq!(count("call"), count("result"));
    let ended = events.iter().filter(|event| event["event"] == "turn_ended");
    assert!(ended.map(|event| &event["changes"]["files"]).all(|files| files.as_u64() > Some(0)));
    assert!(events.iter().all(|event| event["error"] != true), "{ran}");
}
