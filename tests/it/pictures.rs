//! Pictures and files, against the real program: what a model sees, what lies in the inbox, and
//! who may name what.

use std::fs;
use std::os::unix::fs::symlink;

use serde_json::json;

use crate::channels::{ANN, Chat, ME, paired, said};
use crate::chat::{self, serve, stop};
use crate::home::Home;
use crate::model_server::Server;
use crate::repl::{prompt, talk};
use crate::reply::{Gate, Reply};
use crate::rules::Wire;

/// What begins like a PNG of this size, which is all that anybody here looks at.
pub fn png(width: u32, seed: u8) -> Vec<u8> {
    let mut bytes = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR".to_vec();
    bytes.extend(width.to_be_bytes().into_iter().chain(480_u32.to_be_bytes()));
    bytes.extend([seed; 100]);
    bytes
}

/// The files in the inbox, without their date.
fn inbox(home: &Home) -> Vec<String> {
    let entries = fs::read_dir(home.workspace("inbox")).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().into_string().expect("a name"));
    let mut names: Vec<_> = names.map(|name| name[11..].to_owned()).collect();
    names.sort();
    names
}

#[test]
fn a_picture_that_is_read_is_seen_on_both_wires() {
    for wire in Wire::BOTH {
        let server = Server::start();
        let home = Home::new().with(wire, &server);
        home.run(&["init"]).stdout_any().stderr_any().check();
        let (chart, photo) = (
            png(640, 1),
            [b"\xff\xd8\xff\xc0\0\x0b\x08\0\x02\0\x03".as_slice(), &[7; 99]].concat(),
        );
        fs::write(home.workspace("chart.png"), &chart).expect("a file");
        fs::write(home.workspace("photo.txt"), &photo).expect("a file");
        fs::write(home.workspace("a.svg"), "<svg/>").expect("a file");
        fs::write(home.workspace("key.png"), [png(1, 2), b"test-key-not-real".to_vec()].concat())
            .expect("a file");
        fs::write(home.workspace("wide.png"), png(9_000, 2)).expect("a file");
        let read = |reply: Reply, path: &str| reply.call("read", json!({"path": path}));
        let mut reply = Reply::new();
        for path in ["chart.png", "photo.txt", "a.svg", "key.png", "wide.png"] {
            reply = read(reply, path);
        }
        server.queue(reply).queue(Reply::text("A chart.")).queue(Reply::text("Still."));
        let run = |text: &str| {
            home.run(&["run", "--session", "s", text]).stdout_any().stderr_any().check()
        };
        run("what is in them?");
        run("and now?");
        let asked = server.asked(3);
        let results = asked[1].results();
        assert_eq!(results[0], "[picture chart.png: image/png, 640×480 pixels, 124 bytes]");
        assert!(results[1].contains("image/jpeg, 3×2 pixels"), "{results:?}");
        assert_eq!(results[2], "<svg/>");
        assert!(
            results[3].contains("key.png is not shown: the value of the secret"),
            "{results:?}"
        );
        assert!(
            results[4].contains("8000 a side are the most; read a smaller copy"),
            "{results:?}"
        );
        for later in &asked[1..] {
            assert_eq!(later.pictures(), [chart.clone(), photo.clone()]);
        }
        // Neither the transcript nor the log of the wire has its bytes.
        let log = said(&home, &["wire", "s"]);
        assert!(log.contains("[picture ") && !log.contains("AQEBAQEBAQEB"), "{log}");
        let transcript = fs::read_to_string(home.path("sessions/s.jsonl")).expect("one");
        assert!(transcript.contains("\"hash\":\"") && !transcript.contains("AQEBAQEB"));
        assert_eq!(
            fs::read_dir(home.path("media"))
                .expect("a folder")
                .flatten()
                .filter(|one| !one.file_name().to_string_lossy().starts_with('.'))
                .count(),
            2
        );
    }
}

#[test]
fn the_latest_pictures_are_shown_and_older_ones_named() {
    let server = Server::start();
    let model = "[models.m]\nwire = \"openai\"\nname = \"m\"\nwindow = 200000\n";
    let home = Home::new().with_openai(&server).config(model);
    home.run(&["init"]).stdout_any().stderr_any().check();
    let mut reply = Reply::new();
    for number in 0..21 {
        let path = format!("{number}.png");
        fs::write(home.workspace(&path), png(9, number)).expect("a file");
        reply = reply.call("read", json!({ "path": path }));
    }
    server.queue(reply).queue(Reply::text("Many."));
    home.run(&["run", "--model", "m", "look"]).stdout("Many.\n").stderr_any().check();
    let asked = &server.asked(2)[1];
    let latest: Vec<_> = (11..21).map(|number| png(9, number)).collect();
    assert_eq!(asked.pictures(), latest);
    let heard = asked.heard();
    assert!(heard.contains("[The picture 10.png (image/png) is no longer shown;"), "{heard}");
    assert!(!heard.contains("11.png"), "{heard}");
}

#[test]
fn a_model_without_eyes_is_told_and_one_that_refuses_says_how() {
    let server = Server::start();
    let model = |images: &str| {
        format!(
            "[models.m]\nwire = \"openai\"\nname = \"m\"\nbase_url = \"{}/v1\"\nkey = \"K\"\n{images}",
            server.url()
        )
    };
    let home = Home::new().env("K", "a-key-of-nobody").config(&model("images = true\n"));
    // Keys are taken from the environment under known names only.
    home.run(&["init"]).stdout_any().stderr_any().check();
    fs::write(home.path("secrets.toml"), "K = \"a-key-of-nobody\"\n").expect("a file");
    fs::set_permissions(
        home.path("secrets.toml"),
        std::os::unix::fs::PermissionsExt::from_mode(0o600),
    )
    .expect("its mode");
    fs::write(home.cwd().join("a.png"), png(9, 1)).expect("a file");
    let refusal = "image input is not supported - hint: provide the mmproj";
    server.queue(Reply::error(500, "server_error", refusal)).queue(Reply::text("blind"));
    server.allow_prefix_change();
    let run = |arguments: &[&str]| {
        home.run(&[&["run", "--model", "m", "--session", "s"], arguments].concat())
    };
    // What it cannot be shown is no reason not to talk.
    let said = run(&["--file", "a.png", "look"]).stdout("blind\n");
    said.stderr_holds(&["images = false", "asked again without pictures"]).check();
    let asked = server.asked(2);
    assert_eq!(asked[0].pictures(), [png(9, 1)]);
    assert!(asked[1].pictures().is_empty() && asked[1].heard().contains("[The picture inbox/"));
    let home_of = home.path("config.toml");
    for (images, sees) in [("images = false\n", false), ("", false), ("images = true\n", true)] {
        fs::write(&home_of, model(images)).expect("a file");
        server.allow_prefix_change();
        server.queue(Reply::text("ok"));
        run(&["again"]).stdout("ok\n").stderr_any().check();
        let asked = server.asked(3 + usize::from(images.is_empty()) + usize::from(sees) * 2);
        let asked = asked.last().expect("a request");
        assert_eq!(asked.pictures().len(), usize::from(sees));
        let told =
            asked.heard().contains("(image/png) is not shown: this model takes no pictures.]");
        assert_eq!(told, !sees, "{}", asked.heard());
    }
}

#[test]
fn files_of_a_task_lie_in_the_inbox_and_in_the_turns_commit() {
    let server = Server::start();
    let home = Home::new().with_anthropic(&server);
    fs::write(home.cwd().join("my shot.png"), png(9, 1)).expect("a file");
    fs::write(home.cwd().join("report.pdf"), b"%PDF").expect("a file");
    server.queue(Reply::text("Seen.")).queue(Reply::text("Again."));
    let files = ["--file", "my shot.png", "--file", "report.pdf"];
    let run = |more: &[&str]| home.run(&[&["run", "--session", "s"], &files[..], more].concat());
    run(&["what is this?"]).stdout("Seen.\n").stderr_any().check();
    // Without a word, and with the same names.
    fs::write(home.cwd().join("report.pdf"), b"%PDF another").expect("a file");
    run(&[]).stdout("Again.\n").stderr_any().check();
    assert_eq!(inbox(&home), ["my_shot.png", "report-2.pdf", "report.pdf"]);
    let asked = server.asked(2);
    assert_eq!(asked[0].pictures(), [png(9, 1)]);
    let heard = asked[1].heard();
    assert!(
        heard.contains("what is this?\n[file: inbox/") && heard.contains("-report-2.pdf]"),
        "{heard}"
    );
    let log = home.git(&[
        "log",
        "--format=%an|%(trailers:key=Session)%(trailers:key=Origin)",
        "--name-only",
    ]);
    let commit = log.split('|').find(|commit| commit.contains("report.pdf")).expect("a commit");
    assert!(
        commit.contains("Session: s")
            && commit.contains("Origin: owner")
            && commit.contains("my_shot.png"),
        "{log}"
    );
    assert!(!log.contains("Origin: unknown") && log.matches("inbox/").count() == 3, "{log}");

    for (path, why) in [("gone.png", "cannot find gone.png"), (".", "is not a regular file")] {
        home.run(&["run", "--file", path, "x"]).code(2).stderr_holds(&[why]).check();
    }
    let large = fs::File::create(home.cwd().join("large")).expect("a file");
    large.set_len(51 << 20).expect("its size");
    let run = home.run(&["run", "--file", "large", "x"]).code(1);
    run.stderr_holds(&["is larger than 50 MB", "file_mb"]).check();
    server.asked(2);
}

#[test]
fn a_file_that_holds_a_secret_gets_no_further() {
    let (Chat { server, home, .. }, host, mut line) = paired();
    let bytes = [png(9, 1), b"test-key-not-real".to_vec()].concat();
    let kept = || fs::read_dir(home.path("media")).expect("a folder").count();
    let before = kept();
    fs::write(home.cwd().join("shot.png"), &bytes).expect("a file");
    let run = home.run(&["run", "--session", "s", "--file", "shot.png", "look"]).code(1);
    run.stderr_holds(&["shot.png is not taken: the value of the secret"]).check();
    server.queue(Reply::text("Which file?"));
    let file = home.path("scratch/services/x/shot.png");
    fs::write(&file, &bytes).expect("a file");
    line.again(&json!({"id": "f1", "chat": ME, "from": ME, "text": "look", "files": [file]}));
    assert_eq!(line.told(ME), "Which file?");
    let heard = server.asked(1)[0].heard();
    assert!(heard.contains("look\n[a file that came with it could not be taken]"), "{heard}");
    assert_eq!((kept(), inbox(&home)), (before, Vec::new()));
    stop(host);
}

#[test]
fn a_tool_call_sends_only_what_it_can_read() {
    let server = Server::start().serves_several();
    let home = Home::new().with_anthropic(&server);
    home.run(&["init"]).stdout_any().stderr_any().check();
    fs::write(home.workspace("a.png"), png(9, 3)).expect("a file");
    fs::write(home.path("private.png"), png(9, 4)).expect("a file");
    symlink("/etc/passwd", home.workspace("link")).expect("a link");
    let refused = [
        "fledgling run --file /etc/passwd hi 2>&1",
        "fledgling run --file link hi 2>&1",
        "fledgling tell --file /etc/passwd hi 2>&1",
        // Past what the command itself looks at.
        "echo '{\"verb\":\"run\",\"session\":null,\"text\":\"x\",\"key\":\"k1\",\"model\":null,\"steer\":false,\"branch\":null,\"files\":[\"'$HOME'/link\"]}' > $FLEDGLING_DOOR/r1; \
         mkfifo $FLEDGLING_DOOR/r1.replies; exec 5<>$FLEDGLING_DOOR/r1.replies; echo r1 > $FLEDGLING_DOOR/requests; head -1 <&5",
        "echo '{\"verb\":\"run\",\"session\":null,\"text\":\"x\",\"key\":\"k2\",\"model\":null,\"steer\":false,\"branch\":null,\"files\":[\"'$FLEDGLING_HOME'/private.png\"]}' > $FLEDGLING_DOOR/r2; \
         mkfifo $FLEDGLING_DOOR/r2.replies; exec 5<>$FLEDGLING_DOOR/r2.replies; echo r2 > $FLEDGLING_DOOR/requests; head -1 <&5",
    ];
    for command in refused {
        server.queue(Reply::new().bash(command));
    }
    server.queue(
        Reply::new()
            .bash("cp a.png $TMPDIR/b.png; fledgling run --file a.png --file $TMPDIR/b.png hi"),
    );
    server.queue(Reply::text("I see.")).queue(Reply::new().bash("fledgling tell --file a.png"));
    server.queue(Reply::text("Done."));
    home.run(&["run", "--session", "s", "go"]).stdout("Done.\n").stderr_any().check();
    let asked = server.asked(refused.len() + 4);
    let results = asked.last().expect("one").results();
    for (result, why) in results.iter().zip([
        "/etc/passwd lies neither in the workspace nor in the scratch folder",
        "/etc/passwd lies neither in the workspace",
        "/etc/passwd does not lie in the workspace",
        "by no link",
        "private.png lies neither in the workspace",
    ]) {
        assert!(result.contains(why), "{result}");
    }
    assert!(results[5].starts_with("I see.\n"), "{results:?}");
    assert!(results[6].starts_with("It is "), "{results:?}");
    assert_eq!(asked[refused.len() + 1].pictures(), [png(9, 3), png(9, 3)]);
}

#[test]
fn what_comes_through_a_channel_is_seen_and_only_what_its_service_has() {
    let (Chat { server, home, .. }, host, mut line) = paired();
    let folder = home.path("scratch/services/x");
    fs::write(folder.join("a b.png"), png(9, 1)).expect("a file");
    let message = |id: &str, who: &str, file: &std::path::Path| json!({"id": id, "chat": who, "from": who, "name": "Ann", "text": "look", "files": [file]});
    server.queue(Reply::text("Nice."));
    let first = message("f1", ME, &folder.join("a b.png"));
    line.again(&first);
    assert_eq!(line.told(ME), "Nice.");
    line.again(&first);
    assert_eq!(inbox(&home), ["a_b.png"]);
    let asked = server.asked(1)[0].clone();
    assert_eq!(asked.pictures(), [png(9, 1)]);
    assert!(asked.heard().contains("look\n[file: inbox/"), "{}", asked.heard());

    // Nobody whom nobody knows puts anything anywhere.
    let kept = || fs::read_dir(home.path("media")).expect("a folder").count();
    let before = kept();
    fs::write(folder.join("s.png"), png(9, 2)).expect("a file");
    line.again(&message("f2", ANN, &folder.join("s.png")));
    let code = line.told(ANN);
    assert_eq!(kept(), before);
    chat::pair(&home, &code, &["--as", "Ann"]);
    assert!(line.told(ANN).starts_with("We are paired."));
    server.queue(Reply::text("Hello Ann."));
    line.again(&message("f3", ANN, &folder.join("s.png")));
    assert_eq!(line.told(ANN), "Hello Ann.");
    let asked = server.asked(2)[1].clone();
    assert!(asked.heard().contains("| look\n| [file: inbox/"), "{}", asked.heard());
    assert_eq!(asked.pictures(), [png(9, 2)]);

    // Links lead nowhere, also in the place of its folder.
    symlink("/etc/passwd", folder.join("link")).expect("a link");
    let elsewhere = home.path("scratch/elsewhere");
    fs::create_dir(&elsewhere).expect("a folder");
    fs::write(elsewhere.join("s.png"), png(9, 5)).expect("a file");
    symlink(&elsewhere, folder.join("sub")).expect("a link");
    let files = [
        "/etc/passwd".into(),
        folder.join("link"),
        folder.join("sub/s.png"),
        elsewhere.join("s.png"),
        folder.join("../../elsewhere/s.png"),
    ];
    for (number, file) in files.iter().enumerate() {
        server.queue(Reply::text("Sorry."));
        line.again(&message(&format!("g{number}"), ME, file));
        assert_eq!(line.told(ME), "Sorry.");
    }
    fs::rename(&folder, home.path("scratch/moved")).expect("a move");
    symlink(&elsewhere, &folder).expect("a link");
    server.queue(Reply::text("Sorry."));
    line.again(&message("g9", ME, &folder.join("s.png")));
    assert_eq!(line.told(ME), "Sorry.");
    let asked = server.asked(8)[7].clone();
    assert_eq!(asked.pictures(), [png(9, 1)]);
    let said_so =
        asked.heard().matches("look\n[a file that came with it could not be taken]").count();
    assert_eq!((said_so, inbox(&home)), (6, vec!["a_b.png".to_owned(), "s.png".to_owned()]));
    let log = said(&home, &["services", "x"]);
    assert!(
        log.contains("a file of message g0 is refused: /etc/passwd does not lie in its TMPDIR"),
        "{log}"
    );
    stop(host);
}

#[test]
fn a_kill_neither_loses_nor_doubles_what_came() {
    let (Chat { server, home, channel }, host, mut line) = paired();
    let folder = home.path("scratch/services/x");
    let gate = Gate::new();
    server.queue(Reply::text("I look").wait(&gate).and(" at it."));
    line.write(ME, "begin");
    gate.reached();
    fs::write(folder.join("a.png"), png(9, 1)).expect("a file");
    // Acknowledged, and in the inbox of the session only.
    line.again(&json!({"id": "f1", "chat": ME, "from": ME, "text": "look", "files": [folder.join("a.png")]}));
    fs::remove_file(folder.join("a.png")).expect("it is not needed any more");
    assert_eq!(inbox(&home), [""; 0]);
    // As if a kill had come between bytes and row.
    fs::write(home.path("media").join("0".repeat(40)), "of nobody").expect("a file");
    host.kill();
    gate.open();
    server.queue(Reply::text("I see it."));
    let host = serve(&home);
    let mut line = channel.run();
    assert!(line.told(ME).contains("I see it."));
    assert_eq!(inbox(&home), ["a.png"]);
    let asked = server.asked(2)[1].clone();
    assert_eq!(asked.pictures(), [png(9, 1)]);
    let log = home.git(&["log", "--format=|%(trailers:key=Session)", "--name-only"]);
    let commit = log.split('|').find(|commit| commit.contains("a.png")).expect("a commit");
    assert!(commit.contains("Session: x"), "{log}");
    stop(host);
}

#[test]
fn files_go_out_to_the_chat_of_the_session() {
    let (Chat { server, home, .. }, host, mut line) = paired();
    fs::write(home.workspace("chart.png"), png(9, 1)).expect("a file");
    server.queue(
        Reply::new().bash(
            "fledgling tell --file chart.png 'Here it is' && fledgling tell --file chart.png",
        ),
    );
    server.queue(Reply::text("Sent."));
    line.write(ME, "Draw a chart");
    let (first, second) = (line.message(), line.message());
    let path = home.workspace("chart.png").canonicalize().expect("a path");
    assert_eq!((&first["text"], &first["files"]), (&json!("Here it is"), &json!([path])));
    assert_eq!((&second["text"], &second["files"]), (&json!(""), &json!([path])));
    assert_eq!(line.told(ME), "Sent.");
    // The owner's shell may send what lies in the workspace, which is what services can read.
    fs::write(home.cwd().join("elsewhere"), "x").expect("a file");
    let tell = home.run(&["tell", "--file", "elsewhere"]).code(1);
    tell.stderr_holds(&["does not lie in the workspace"]).check();
    let chart = home.workspace("chart.png");
    home.run(&["tell", "--file", chart.to_str().expect("a path")]).stdout_any().check();
    assert_eq!(line.message()["files"], json!([path]));
    stop(host);
}

#[test]
fn a_path_behind_a_sign_is_attached_in_the_terminal() {
    let server = Server::start();
    let home = Home::new().with_anthropic(&server);
    fs::write(home.cwd().join("shot.png"), png(9, 1)).expect("a file");
    fs::write(home.cwd().join("two words.txt"), "text").expect("a file");
    server.queue(Reply::text("Both are here."));
    let mut terminal = talk(&home, &[]);
    terminal.send("look at @sh\t");
    prompt(&terminal, "look at @shot.png");
    terminal.send(" and @\"two\t");
    prompt(&terminal, "look at @shot.png and @\"two words.txt\"");
    terminal.send(", ann@shot.png, @nobody\r");
    terminal.wait_text("Attached: shot.png, two words.txt");
    terminal.wait_text("Both are here.");
    let asked = &server.asked(1)[0];
    assert_eq!(asked.pictures(), [png(9, 1)]);
    assert!(asked.heard().contains("@nobody\n[file: inbox/"), "{}", asked.heard());
    assert_eq!(inbox(&home), ["shot.png", "two_words.txt"]);
}
