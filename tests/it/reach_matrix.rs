//! The shipped channel for Matrix, alone and with the real program, against a fake homeserver.
//! (Against Synapse itself: `tests/servers/matrix`.)

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::bridges::{Bridge, has};
use crate::chat::{pair, serve, stop};
use crate::matrix_server::{BIRD, Matrix, TOKEN};
use crate::model_server::Server;
use crate::reply::Reply;
use crate::shipped;

const ANN: &str = "@ann:home.test";
const EVE: &str = "@eve:evil.test";
const ROOM: &str = "!talk:home.test";

/// The script, with a folder that lasts.
fn bridge(server: &Matrix, folder: &Path, more: &[(&str, &str)]) -> Bridge {
    let (url, folder) = (server.url(), folder.to_str().expect("a path"));
    let mut environment = vec![("MATRIX_SERVER", url.as_str()), ("MATRIX_TOKEN", TOKEN)];
    environment.extend([("TMPDIR", folder), ("MATRIX_PAUSE", "0.05")]);
    environment.extend(more);
    let bridge = Bridge::start("matrix", &environment);
    bridge.event("hello", |event| event["event"] == "hello" && event["limit"] == 16_000);
    bridge
}

/// The script after its first look, in a chat with Ann.
fn talking(server: &Matrix, folder: &Path, more: &[(&str, &str)]) -> Bridge {
    let mut bridge = bridge(server, folder, more);
    server.invite(ROOM, ANN, &[], true);
    server.joined(ROOM);
    server.write(ROOM, ANN, "first");
    let first = bridge.message();
    assert_eq!(first["text"], "first");
    bridge.ack(&first);
    bridge
}

#[test]
fn a_message_comes_until_the_host_has_it_and_none_is_missed() {
    if !has(&["python3"]) {
        return;
    }
    let (server, folder) = (Matrix::start(), TempDir::new().expect("a folder"));
    let mut first = bridge(&server, folder.path(), &[]);
    // What was there before its first look is not for it.
    server.calls("/sync", 1);
    server.invite(ROOM, ANN, &[], true);
    // Said before it could follow.
    let id = server.write(ROOM, ANN, "grüß dich 🐤");
    let message = first.message();
    let expected = json!({"id": id, "chat": ROOM, "from": ANN, "name": "ann", "files": [],
        "text": "grüß dich 🐤"});
    assert_eq!(message, expected);
    // A script that did not wait would be further before this is through.
    for _ in 0..20 {
        assert_eq!(first.deliver("k", "nobody", "alive")["event"], "fail");
    }
    first.kill();

    let mut again = bridge(&server, folder.path(), &[]);
    assert_eq!(again.message(), expected);
    let before = server.calls("/sync", 0).len();
    again.ack(&expected);
    server.calls("/sync", before);
    assert_eq!(again.deliver("k", ROOM, "Hello!")["event"], "ack");
    server.write(ROOM, ANN, "two");
    let two = again.message();
    assert_eq!(two["text"], "two", "its own words do not come back");
    again.kill();

    // More than an answer holds, and it was down.
    let ids: Vec<_> = (0..130).map(|number| server.write(ROOM, ANN, &number.to_string())).collect();
    let mut again = bridge(&server, folder.path(), &[]);
    let mut heard = vec![again.message()];
    assert_eq!(heard[0], two);
    heard.extend(ids.iter().map(|_| again.message()));
    for (message, id) in heard[1..].iter().zip(&ids) {
        assert_eq!(message["id"], **id);
    }
    for message in &heard {
        again.ack(message);
    }
    server.write(ROOM, ANN, "three");
    assert_eq!(again.message()["text"], "three");
    assert_eq!(again.left(), [Value::Null; 0]);
    again.end();
}

#[test]
fn an_answer_is_there_once_and_a_refusal_says_what_comes_of_it() {
    if !has(&["python3"]) {
        return;
    }
    let (server, folder) = (Matrix::start(), TempDir::new().expect("a folder"));
    let mut bridge = talking(&server, folder.path(), &[("MATRIX_LARGEST", "1000")]);
    bridge.say(json!({"event": "typing", "chat": ROOM}));
    let report = folder.path().join("report.png");
    fs::write(&report, "a picture").expect("a file");
    let large = folder.path().join("large.bin");
    fs::write(&large, [0; 1001]).expect("a file");
    let answer = json!({"event": "message", "key": "a/1", "chat": ROOM, "text": "Here.",
        "reply_to": "$event2", "files": [report, large, "/nowhere/x"]});
    for _ in 0..2 {
        bridge.say(answer.clone());
        assert_eq!(bridge.answer("a/1"), json!({"event": "ack", "key": "a/1"}));
    }
    let told = server.told(ROOM, 2);
    assert_eq!(told.len(), 2, "{told:?}");
    let words = told[0]["body"].as_str().expect("words");
    assert!(words.starts_with("Here.\n[large.bin, not sent: 413 larger"), "{words}");
    assert!(words.contains("[x, not sent: ") && !words.contains("report"), "{words}");
    assert_eq!(told[0]["m.relates_to"]["m.in_reply_to"]["event_id"], "$event2");
    assert_eq!((&told[1]["msgtype"], &told[1]["body"]), (&json!("m.image"), &json!("report.png")));
    assert_eq!(server.fetched(told[1]["url"].as_str().expect("an address")), b"a picture");
    let typing = server.calls("/typing/", 2);
    assert_eq!(typing[0].body["typing"], true);
    assert_eq!(typing[1].body["typing"], false);

    let late = json!({"errcode": "M_LIMIT_EXCEEDED", "error": "slow", "retry_after_ms": 2500});
    server.refuse("/send/", 429, late);
    let failed = bridge.deliver("b", ROOM, "x");
    let text = "429 M_LIMIT_EXCEEDED slow";
    assert_eq!(failed, json!({"event": "fail", "key": "b", "error": text, "retry": 2.5}));
    for status in [403, 404, 500, 502] {
        server.refuse("/send/", status, Value::Null);
        let failed = bridge.deliver("c", ROOM, "x");
        let retry = (status < 500).then_some(Value::Bool(false));
        assert_eq!((&failed["event"], failed.get("retry")), (&json!("fail"), retry.as_ref()));
    }
    assert_eq!(bridge.deliver("d", "#not-a-room", "x")["retry"], false);
    let failed = bridge.deliver("e", ROOM, &"\u{1}".repeat(16_000));
    assert!(failed["error"].as_str().is_some_and(|error| error.contains("M_TOO_LARGE")));
    assert_eq!(failed["retry"], false);
    assert_eq!(bridge.deliver("f", ROOM, &"语".repeat(16_000))["event"], "ack");
    bridge.end();
}

#[test]
fn where_several_are_only_who_calls_it_is_heard() {
    if !has(&["python3"]) {
        return;
    }
    let (server, folder) = (Matrix::start(), TempDir::new().expect("a folder"));
    let mut bridge = talking(&server, folder.path(), &[("MATRIX_INVITERS", ANN)]);
    server.invite("!trap:evil.test", EVE, &[], false);
    bridge.complains("@eve:evil.test invites to !trap:evil.test, where there may be several");
    let group = "!home:home.test";
    server.invite(group, ANN, &["@bob:home.test"], false);
    server.joined(group);
    for text in ["hello, all", "birdwatching", "Birdie: what time is it?", "bird !help"] {
        server.write(group, ANN, text);
    }
    let mention =
        json!({"msgtype": "m.text", "body": "and you?", "m.mentions": {"user_ids": [BIRD]}});
    server.say(group, "@bob:home.test", &mention);
    let heard = [(); 3].map(|()| bridge.message());
    for (message, text) in heard.iter().zip(["what time is it?", "/help", "and you?"]) {
        assert_eq!((&message["text"], &message["group"]), (&json!(text), &json!(true)));
        bridge.ack(message);
    }
    // Whoever flags it as direct does not make it so.
    server.invite("!crowd:evil.test", EVE, &["@one:evil.test"], true);
    server.joined("!crowd:evil.test");
    server.write("!crowd:evil.test", EVE, "birdie, hi");
    let crowd = bridge.message();
    assert_eq!(crowd["group"], true);
    bridge.ack(&crowd);
    // A chat for two that a third one joins is one no longer.
    server.invite(ROOM, ANN, &["@bob:home.test"], true);
    server.joined(ROOM);
    server.write(ROOM, ANN, "bird: still private?");
    assert_eq!(bridge.message()["group"], true);
    assert!(!server.calls("/join", 3).iter().any(|call| call.what.contains("!trap")));
}

#[test]
fn files_corrections_nonsense_and_what_is_encrypted() {
    if !has(&["python3"]) {
        return;
    }
    let (server, folder) = (Matrix::start(), TempDir::new().expect("a folder"));
    let mut bridge = talking(&server, folder.path(), &[("MATRIX_LARGEST", "1000")]);
    let said = |content: Value| server.say(ROOM, ANN, &content);
    let file = |name: &str, data: &[u8]| server.file(name, data);
    let mut next = || {
        let message = bridge.message();
        bridge.ack(&message);
        message
    };
    // Files of the latest hundred alone are kept: anybody can send some.
    for number in 0..120 {
        fs::create_dir_all(folder.path().join(format!("in/{number}"))).expect("a folder");
    }
    said(
        json!({"msgtype": "m.file", "body": "look", "filename": "../../.bash rc/a\nb.txt", "url": file("one", b"bytes")}),
    );
    let message = next();
    assert_eq!(message["text"], "look");
    let path = Path::new(message["files"][0].as_str().expect("a path")).to_owned();
    assert_eq!(path.file_name().expect("a name"), "a_b.txt");
    assert!(path.starts_with(folder.path().join("in")), "{path:?}");
    assert_eq!(fs::read(&path).expect("it is there"), b"bytes");
    assert_eq!(fs::read_dir(folder.path().join("in")).expect("a folder").count(), 101);
    said(json!({"msgtype": "m.image", "body": "big.png", "url": file("two", &[0; 1001])}));
    let message = next();
    assert_eq!(
        (&message["text"], &message["files"]),
        (&json!("[big.png, not fetched: 0 larger than 1000 bytes]"), &json!([]))
    );
    // An address that leads elsewhere is not followed: the token would go along.
    server.refuse("/download/", 307, Value::Null);
    said(json!({"msgtype": "m.image", "body": "moved.png", "url": file("three", b"x")}));
    assert!(next()["text"].as_str().is_some_and(|text| text.contains("not fetched: 307")));
    said(json!({"msgtype": "m.image", "body": "odd.png", "url": "mxc://home.test/../../state"}));
    assert!(next()["text"].as_str().is_some_and(|text| text.contains("not fetched")));

    let first = server.write(ROOM, ANN, "teh");
    assert_eq!(next()["text"], "teh");
    said(
        json!({"msgtype": "m.text", "body": "* the", "m.new_content": {"msgtype": "m.text", "body": "the"},
        "m.relates_to": {"rel_type": "m.replace", "event_id": first}}),
    );
    let message = next();
    assert_eq!(
        (&message["text"], &message["reply_to"]),
        (&json!("[corrected] the"), &json!(first))
    );
    said(json!({"msgtype": "m.text", "body": "> <@bird:home.test> hi\n> ho\n\nyes",
        "m.relates_to": {"m.in_reply_to": {"event_id": "$x"}}}));
    let message = next();
    assert_eq!((&message["text"], &message["reply_to"]), (&json!("yes"), &json!("$x")));

    for nonsense in [
        json!({"msgtype": "m.notice", "body": "I am a program"}),
        json!({"body": "of no kind"}),
        json!({}),
        json!([1]),
        json!({"msgtype": "m.file", "body": {"a": 1}, "info": [3], "url": [1]}),
        json!({"msgtype": "m.text", "body": 5, "m.relates_to": [1]}),
        json!({"msgtype": "m.text", "body": "x", "m.relates_to": {"m.in_reply_to": "x"}}),
    ] {
        said(nonsense);
    }
    server.write(ROOM, ANN, "after it");
    while next()["text"] != "after it" {}

    let quiet = "!quiet:home.test";
    server.invite(quiet, ANN, &[], true);
    server.joined(quiet);
    server.encrypt(quiet);
    for _ in 0..2 {
        server.event(quiet, ANN, "m.room.encrypted", &json!({"ciphertext": "AAAA"}));
    }
    bridge.complains("!quiet:home.test is encrypted");
    let told = server.told(quiet, 1);
    assert!(
        told[0]["body"].as_str().is_some_and(|body| body.starts_with("I cannot read encrypted"))
    );
    let failed = bridge.deliver("k", quiet, "in the open");
    assert_eq!((&failed["event"], &failed["retry"]), (&json!("fail"), &json!(false)));
    assert_eq!(server.told(quiet, 1).len(), 1);
    bridge.end();
}

#[test]
fn trouble_passes_and_a_token_that_is_no_good_is_said_clearly() {
    if !has(&["python3"]) {
        return;
    }
    let (server, folder) = (Matrix::start(), TempDir::new().expect("a folder"));
    server.refuse("/whoami", 502, Value::Null);
    let mut first = talking(&server, folder.path(), &[("MATRIX_POLL", "1")]);
    let late = json!({"errcode": "M_LIMIT_EXCEEDED", "retry_after_ms": 50});
    server.refuse("/sync", 429, late.clone());
    server.refuse("/members", 500, Value::Null);
    server.refuse("/join", 429, late);
    server.write(ROOM, ANN, "through it");
    server.invite("!more:home.test", ANN, &[], true);
    server.joined("!more:home.test");
    let message = first.message();
    assert_eq!(message["text"], "through it");
    first.ack(&message);
    first.end();

    // A server that was set up anew does not know the place: only what is new counts.
    let state = folder.path().join("state.json");
    let text = fs::read_to_string(&state).expect("it is kept");
    let place = text.split("\"since\": \"").nth(1).and_then(|rest| rest.split('"').next());
    fs::write(&state, text.replace(place.expect("a place"), "s-gone")).expect("a file");
    let again = bridge(&server, folder.path(), &[("MATRIX_POLL", "1")]);
    again.complains("400 M_UNKNOWN");
    let before = server.calls("/sync", 0).len();
    server.calls("/sync", before + 1);
    server.write(ROOM, ANN, "new");
    while again.message()["text"] != "new" {}
    again.kill();

    let (status, all) = {
        server.refuse("/whoami", 401, json!({"errcode": "M_UNKNOWN_TOKEN", "error": TOKEN}));
        bridge(&server, folder.path(), &[]).ended()
    };
    assert_eq!(status.code(), Some(1), "{all}");
    assert!(all.contains("does not take the access token (M_UNKNOWN_TOKEN)"), "{all}");
    let plain = [("MATRIX_SERVER", "http://home.test"), ("MATRIX_TOKEN", TOKEN)];
    let (status, all) = Bridge::start("matrix", &plain).ended();
    assert!(status.code() == Some(1) && all.contains("is not https"), "{all}");
}

#[test]
fn matrix_lets_the_owner_in_and_forgets_nothing_over_a_kill() {
    if !has(&["python3"]) {
        return;
    }
    let (server, matrix) = (Server::start().serves_several(), Matrix::start());
    let url = format!("\"MATRIX_SERVER\", \"{}\"", matrix.url());
    let settings = [
        ("\"MATRIX_SERVER\", \"https://matrix.example.org\"", url.as_str()),
        ("\"MATRIX_PAUSE\", 5", "\"MATRIX_PAUSE\", 0.05"),
    ];
    let home = shipped::home(&server, "matrix", &settings, Some(("MATRIX_TOKEN", TOKEN)));
    let host = serve(&home);
    matrix.calls("/sync", 1);
    matrix.invite(ROOM, ANN, &[], true);
    matrix.joined(ROOM);
    matrix.write(ROOM, ANN, "hello");
    let told = |number: usize| {
        matrix.told(ROOM, number)[number - 1]["body"].as_str().expect("words").to_owned()
    };
    pair(&home, &told(1), &[]);
    assert!(told(2).starts_with("We are paired."));
    server.asked(0);
    // What is written while nobody is there is answered once somebody is.
    host.kill();
    let url = matrix.file("notes", b"buy milk");
    matrix.say(ROOM, ANN, &json!({"msgtype": "m.file", "body": "notes.txt", "url": url}));
    server.queue(Reply::text("I have it."));
    let host = serve(&home);
    assert_eq!(told(3), "I have it.");
    assert!(server.asked(1)[0].heard().contains("notes.txt"));
    matrix.write(ROOM, ANN, "!help");
    assert!(told(4).contains("/undo"));
    assert_eq!(matrix.told(ROOM, 4).len(), 4);
    stop(host);
}
