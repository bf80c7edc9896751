//! Turns of the real program against a fake model server, from what the owner asks to what
//! stands on stdout, in the next request and in the workspace.

use std::net::TcpListener;

use serde_json::{Value, json};

use crate::home::Home;
use crate::model_server::{Asked, Server};
use crate::reply::{Chunk, Gate, Reply};
use crate::rules::Wire;

/// The same on both wires, each with a server and a home of its own.
fn on_both(case: impl Fn(Wire, &Server, &Home)) {
    for wire in Wire::BOTH {
        eprintln!("on {wire:?}:"); // shown when it fails
        let server = Server::start();
        let home = Home::new().with(wire, &server);
        case(wire, &server, &home);
        server.check();
    }
}

#[test]
fn the_answer_alone_is_on_stdout() {
    on_both(|_, server, home| {
        server.queue(Reply::text("Hello, owner. Grüße!"));
        home.run(&["run", "hi there"]).stdout("Hello, owner. Grüße!\n").stderr_any().check();
        let asked = server.asked(1);
        assert!(asked[0].heard().contains("hi there"), "{:?}", asked[0].said());
    });
}

#[test]
fn a_plain_turn_says_little_on_stderr() {
    on_both(|_, server, home| {
        server.queue(Reply::text("one")).queue(Reply::text("two"));
        home.run(&["run", "--session", "s", "a"]).stdout("one\n").stderr_any().check();
        let ran = home.run(&["run", "--session", "s", "b"]).stdout("two\n").stderr_any().check();
        let [sum] = ran.stderr.lines().collect::<Vec<_>>()[..] else { panic!("{ran}") };
        assert!(sum.contains(" · 15 tokens · $0.000"), "{ran}");
    });
}

#[test]
fn each_tool_does_its_work() {
    on_both(|_, server, home| {
        let edit = json!({"path": "notes/a.txt", "edits": [{"old": "two", "new": "2"}]});
        let write = json!({"path": "notes/a.txt", "content": "one\ntwo\nthree\n"});
        server
            .queue(Reply::text("I write it down.").call("write", write))
            .queue(Reply::new().call("read", json!({"path": "notes/a.txt", "offset": 2})))
            .queue(Reply::new().call("edit", edit))
            .queue(Reply::new().bash("cat notes/a.txt; echo oops >&2; exit 3"))
            .queue(Reply::text("Done."));
        let run = home.run(&["run", "make a note"]).stdout("Done.\n");
        run.stderr_holds(&["write", "read", "edit", "bash"]).check();
        assert_eq!(home.read("notes/a.txt").as_deref(), Some("one\n2\nthree\n"));
        let results = server.asked(5)[4].results();
        assert_eq!(results.len(), 4);
        assert!(results[1].contains("two") && !results[1].contains("one"), "{results:?}");
        for part in ["one\n2\nthree\n", "oops", "3"] {
            assert!(results[3].contains(part), "{results:?}");
        }
    });
}

#[test]
fn parallel_calls_are_all_answered_in_order() {
    on_both(|_, server, home| {
        let missing = json!({"path": "missing.txt"});
        server
            .queue(Reply::new().bash("echo first").call("read", missing).bash("echo third"))
            .queue(Reply::text("Done."));
        home.run(&["run", "go"]).stdout("Done.\n").stderr_any().check();
        let results = server.asked(2)[1].results();
        assert_eq!(results.len(), 3, "{results:?}");
        for (result, part) in results.iter().zip(["first", "missing.txt", "third"]) {
            assert!(result.contains(part), "{results:?}");
        }
    });
}

#[test]
fn bad_calls_are_results_for_the_model() {
    on_both(|_, server, home| {
        server
            .queue(Reply::new().call("bash", json!({"cmd": "ls"})).call("grep", json!({})))
            .queue(Reply::text("I see."));
        home.run(&["run", "go"]).stdout("I see.\n").stderr_any().check();
        let results = server.asked(2)[1].results();
        assert!(results[0].contains("missing field `command`"), "{results:?}");
        assert!(results[1].contains("no tool \"grep\""), "{results:?}");
    });
}

#[test]
fn calls_of_a_reply_that_was_cut_off_are_not_executed() {
    on_both(|_, server, home| {
        server
            .queue(Reply::text("So much").bash("touch ran").stop("max_tokens"))
            .queue(Reply::text("Shorter."));
        home.run(&["run", "go"]).stdout("Shorter.\n").stderr_any().check();
        assert_eq!(home.read("ran"), None);
        assert!(server.asked(2)[1].results()[0].contains("not executed"));
    });
}

#[test]
fn a_refusal_and_an_empty_reply_are_said_and_not_asked_again() {
    on_both(|_, server, home| {
        server.queue(Reply::text("I cannot.").stop("refusal")).queue(Reply::new());
        let run = |text| home.run(&["run", "--session", "s", text]).code(1).stdout_any();
        run("one").stderr_holds(&["declined"]).check();
        run("two").stderr_holds(&["nothing"]).check();
        server.asked(2);
        // The conversation is still one that a provider takes.
        server.queue(Reply::text("Yes?"));
        home.run(&["run", "--session", "s", "three"]).stdout("Yes?\n").stderr_any().check();
    });
}

#[test]
fn calls_of_a_refused_reply_are_not_carried_out() {
    on_both(|_, server, home| {
        server.queue(Reply::new().bash("touch ran").stop("refusal"));
        let run = home.run(&["run", "--session", "s", "one"]).code(1).stdout_any();
        run.stderr_holds(&["declined"]).check();
        assert_eq!(home.read("ran"), None);
        server.queue(Reply::text("Yes?"));
        home.run(&["run", "--session", "s", "two"]).stdout("Yes?\n").stderr_any().check();
        let results = server.asked(2)[1].results();
        assert!(results[0].contains("not executed: the reply was declined"), "{results:?}");
    });
}

#[test]
fn a_wrong_key_is_tried_once() {
    on_both(|_, server, home| {
        server.queue(Reply::error(401, "authentication_error", "no such api key"));
        let run = home.run(&["run", "hi"]).code(1);
        run.stderr_holds(&["401", "no such api key", "check the key"]).check();
        server.asked(1);
    });
}

#[test]
fn an_unknown_model_is_named() {
    on_both(|wire, server, home| {
        server.queue(Reply::error(404, "not_found_error", "model: nonesuch"));
        let spec = match wire {
            Wire::Anthropic => "anthropic:nonesuch",
            Wire::OpenAi => "openai:nonesuch",
        };
        let run = home.run(&["run", "--model", spec, "hi"]).code(1);
        run.stderr_holds(&["404", "nonesuch"]).check();
        assert_eq!(server.asked(1)[0].body["model"], "nonesuch");
    });
}

#[test]
fn an_unreachable_server_is_named_at_once() {
    for wire in Wire::BOTH {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("it is bound").to_string();
        drop(listener); // nobody is there any more
        let url = format!("http://{address}");
        let home = match wire {
            Wire::Anthropic => Home::new().with_anthropic_at(&url),
            Wire::OpenAi => Home::new().with_openai_at(&url),
        };
        let said = ["refused the connection", "start the server", &address];
        home.run(&["run", "hi"]).code(1).stderr_holds(&said).check();
    }
}

#[test]
fn a_busy_server_is_asked_again() {
    on_both(|wire, server, home| {
        let overloaded = if wire == Wire::Anthropic { 529 } else { 503 };
        let busy = |status, message| {
            Reply::error(status, "overloaded_error", message).header("retry-after", "0")
        };
        server
            .queue(busy(429, "slow down, please"))
            .queue(busy(overloaded, "so many people"))
            .queue(Reply::text("At last."));
        let run = home.run(&["run", "hi"]).stdout("At last.\n");
        run.stderr_holds(&["slow down, please", "so many people"]).check();
        let asked = server.asked(3);
        assert!(asked.iter().all(|again| again.raw == asked[0].raw));
    });
}

/// An error within a stream whose status was 200, after this has been said.
fn fails_in_stream(wire: Wire, said: &str) -> Reply {
    let (text, error) = match wire {
        Wire::Anthropic => (
            format!(
                "event: content_block_start\ndata: {}\n\n",
                json!({"type": "content_block_start", "index": 0,
                    "content_block": {"type": "text", "text": said}})
            ),
            "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"Overloaded\"}}\n\n",
        ),
        Wire::OpenAi => (
            format!("data: {}\n\n", json!({"choices": [{"delta": {"content": said}}]})),
            "data: {\"error\":{\"message\":\"Overloaded\",\"type\":\"server_error\",\"code\":503}}\n\n",
        ),
    };
    let first = if said.is_empty() { ": hello\n\n" } else { &text };
    Reply::raw(200, &[], vec![first.into(), error.into()])
}

#[test]
fn an_error_within_a_stream_is_retried_only_before_text() {
    on_both(|wire, server, home| {
        server.queue(fails_in_stream(wire, "")).queue(Reply::text("Better."));
        let run = home.run(&["run", "--session", "s", "hi"]).stdout("Better.\n");
        run.stderr_holds(&["Overloaded"]).check();
        server.queue(fails_in_stream(wire, "So far so"));
        let run = home.run(&["run", "--session", "s", "more"]).code(1).stdout_any();
        run.stderr_holds(&["Overloaded"]).check();
        server.asked(3);
        server.queue(Reply::text("Yes?"));
        home.run(&["run", "--session", "s", "and?"]).stdout("Yes?\n").stderr_any().check();
        assert!(said(&server.asked(4)[3], "assistant").contains("So far so"));
    });
}

/// All that one role says in a request.
fn said(asked: &Asked, role: &str) -> String {
    let said = asked.said().into_iter().filter(|(who, _)| who == role);
    said.map(|(_, text)| text + "\n").collect()
}

#[test]
fn a_stream_cut_in_the_middle_is_kept_and_not_acted_on() {
    on_both(|_, server, home| {
        let whole = Reply::text("First I look, ").bash("touch ran");
        server.queue(whole.torn("bash", "{\"command\": \"touch ran"));
        home.run(&["run", "--session", "s", "go"]).code(1).stdout_any().stderr_any().check();
        assert_eq!(home.read("ran"), None, "a call of a torn reply was executed");
        server.asked(1);
        server.queue(Reply::text("Again."));
        home.run(&["run", "--session", "s", "go on"]).stdout("Again.\n").stderr_any().check();
        let asked = &server.asked(2)[1];
        assert!(said(asked, "assistant").contains("First I look, "), "{:?}", asked.said());
        assert!(asked.heard().contains("go on") && asked.results().is_empty());
    });
}

#[test]
fn thinking_comes_back_through_a_tool_loop() {
    on_both(|_, server, home| {
        server
            .queue(Reply::new().thinking("Hm, let me see.", "c2ln+/==").and("Aha.").bash("echo 1"))
            .queue(Reply::new().thinking("And now?", "c2lnMg==").bash("echo 2"))
            .queue(Reply::text("Done."));
        home.run(&["run", "think"]).stdout("Done.\n").stderr_any().check();
        // That it came back untouched is one of the server's rules.
        assert!(String::from_utf8_lossy(&server.asked(3)[2].raw).contains("Hm, let me see."));
    });
}

#[test]
fn the_same_call_again_and_again_is_stopped() {
    for wire in Wire::BOTH {
        let server = Server::with(|_| Reply::new().bash("echo the same"));
        let home = Home::new().with(wire, &server);
        let run = home.run(&["run", "go"]).code(1);
        run.stderr_holds(&["5 times in a row"]).check();
        server.asked(5);
    }
}

#[test]
fn a_turn_keeps_to_its_limit_of_steps() {
    for wire in Wire::BOTH {
        let server =
            Server::with(|asked| Reply::new().bash(&format!("echo {}", asked.results().len())));
        let home = Home::new().with(wire, &server).config("[limits]\nsteps = 3\n");
        home.run(&["run", "go"]).code(1).stderr_holds(&["limit of 3 steps"]).check();
        server.asked(3);
    }
}

#[test]
fn the_task_comes_from_argument_and_stdin() {
    on_both(|_, server, home| {
        for _ in 0..3 {
            server.queue(Reply::text("ok"));
        }
        let run = |args: &[&str], stdin: &str| {
            home.run(args).stdin(stdin).stdout("ok\n").stderr_any().check();
        };
        run(&["run", "--session", "a", "summarise this"], "line one\nline two\n");
        let heard = server.asked(1)[0].heard();
        let (argument, stdin) = (heard.find("summarise this"), heard.find("line one\nline two"));
        assert!(argument.is_some() && argument < stdin, "{heard}");
        run(&["run", "--session", "a"], "only stdin");
        assert!(server.asked(2)[1].heard().contains("only stdin"));
        run(&["run", "--session", "a", "only an argument"], "");
        assert!(server.asked(3)[2].heard().contains("only an argument"));
        // Nothing at all is no task.
        home.run(&["run"]).stdin(" \n").code(2).stderr_holds(&["task"]).check();
    });
}

#[test]
fn stdin_that_is_not_utf8_is_refused() {
    on_both(|_, server, home| {
        let run = home.run(&["run", "what is this?"]).stdin(b"ab\xff\xfe\n".as_slice()).code(2);
        run.stderr_holds(&["stdin", "UTF-8"]).check();
        server.asked(0);
    });
}

#[test]
fn json_tells_all_events_of_a_turn() {
    on_both(|_, server, home| {
        server
            .queue(Reply::new().thinking("Hm.", "c2ln").and("Let me look around.").bash("echo hi"))
            .queue(Reply::text("All is well."));
        let ran = home.run(&["run", "--json", "look"]).stdout_any().stderr_any().check();
        let parse =
            |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        let events: Vec<Value> = ran.stdout.lines().map(parse).collect();
        let of = |kind: &'static str| events.iter().filter(move |event| event["event"] == kind);
        let joined = |kind| of(kind).filter_map(|event| event["text"].as_str()).collect::<String>();
        let first = of("turn_started").next().expect("a start");
        assert_eq!(first["origin"], "owner");
        assert_eq!(joined("thinking"), "Hm.");
        assert_eq!(joined("text"), "Let me look around.All is well.");
        assert_eq!(joined("reply"), "Let me look around.All is well.");
        let (call, result) =
            (of("call").next().expect("a call"), of("result").next().expect("one"));
        assert_eq!(call["input"], json!({"command": "echo hi"}));
        assert_eq!((&call["id"], &call["tool"]), (&result["id"], &result["tool"]));
        assert_eq!((&result["text"], &result["error"]), (&json!("hi\n"), &json!(false)));
        let last = events.last().expect("events");
        assert_eq!((&last["event"], &last["end"]), (&json!("turn_ended"), &json!("done")));
        assert_eq!(last["usage"]["input"], 20);
        assert_eq!(last["usage"]["output"], 10);
    });
}

#[test]
fn a_session_goes_on_in_the_next_process() {
    on_both(|_, server, home| {
        server
            .queue(Reply::new().thinking("Hm.", "c2ln").and("I note it.").bash("echo 41 > n"))
            .queue(Reply::text("Noted."))
            .queue(Reply::new().bash("cat n"))
            .queue(Reply::text("It was 41."));
        let run = |text| home.run(&["run", "--session", "s", text]).stderr_any();
        run("remember 41").stdout("Noted.\n").check();
        run("what was it?").stdout("It was 41.\n").check();
        // That each request begins with the one before it is one of the server's rules.
        let last = &server.asked(4)[3];
        assert!(last.heard().contains("remember 41") && last.heard().contains("what was it?"));
        assert!(said(last, "assistant").contains("Noted."));
        assert_eq!(last.results()[1], "41\n");
    });
}

#[test]
fn the_prefix_changes_with_its_files_alone() {
    on_both(|_, server, home| {
        for _ in 0..3 {
            server.queue(Reply::text("ok"));
        }
        let run = || home.run(&["run", "--session", "s", "hi"]).stdout("ok\n").stderr_any().check();
        run();
        run();
        std::fs::write(home.workspace("bootstrap.md"), "You are a heron.").expect("a workspace");
        server.allow_prefix_change();
        run();
        let asked = server.asked(3);
        let knows = |asked: &Asked| String::from_utf8_lossy(&asked.raw).contains("a heron");
        assert!(!knows(&asked[1]) && knows(&asked[2]));
    });
}

#[test]
fn the_first_request_is_small() {
    on_both(|_, server, home| {
        server.queue(Reply::text("Hello."));
        home.run(&["run", "hi"]).stdout("Hello.\n").stderr_any().check();
        let size = server.asked(1)[0].raw.len();
        assert!(size <= 5000, "{size} bytes");
    });
}

#[test]
fn without_a_model_the_three_ways_to_one_are_told() {
    // Whoever wants to leave the machine would have to pass here. The probes of local
    // servers need not: nothing is expected to listen on their ports.
    let proxy = TcpListener::bind("127.0.0.1:0").expect("a port");
    proxy.set_nonblocking(true).expect("a socket");
    let url = format!("http://{}", proxy.local_addr().expect("it is bound"));
    let home = Home::new().env("ALL_PROXY", &url).env("NO_PROXY", "localhost,127.0.0.1,::1");
    let run = home.run(&["run", "hi"]).code(3);
    run.stderr_holds(&["ANTHROPIC_API_KEY", "llama", "fledgling tour"]).check();
    let error = proxy.accept().expect_err("it tried to leave the machine");
    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
}

#[test]
fn ctrl_c_ends_the_turn_and_the_session_goes_on() {
    on_both(|_, server, home| {
        let gate = Gate::new();
        server.queue(Reply::text("I am about to ").wait(&gate));
        let process = home.spawn(&["run", "--session", "s", "--json", "go"]);
        process.wait_stdout("I am ab"); // the first piece of it
        process.signal(libc::SIGINT);
        let ran = process.end();
        assert_eq!(ran.status.code(), Some(130), "{ran}");
        server.queue(Reply::text("Yes?"));
        home.run(&["run", "--session", "s", "well?"]).stdout("Yes?\n").stderr_any().check();
        let asked = &server.asked(2)[1];
        assert!(said(asked, "assistant").contains("I am"), "{:?}", asked.said());
        assert!(asked.heard().contains("interrupted"), "{:?}", asked.said());
    });
}

#[test]
fn a_scripted_model_needs_no_server() {
    let home = Home::new();
    let bash = json!({"name": "bash", "input": {"command": "echo 1 > made"}});
    let script = home.script(&[json!({"calls": [bash]}), json!({"text": "Made."})]);
    home.run(&["run", "--model", &script, "make it"]).stdout("Made.\n").stderr_any().check();
    assert_eq!(home.read("made").as_deref(), Some("1\n"));
}

/// What servers of the Chat Completions wire really send. Each asks for `echo odd > odd`,
/// which has to be understood, and then for nothing more.
#[test]
fn oddities_of_chat_completions() {
    for (name, stream) in odd_calls() {
        eprintln!("{name}:"); // shown when it fails
        let server = Server::start();
        let home = Home::new().with_openai(&server);
        let text = "data: {\"choices\":[{\"delta\":{\"content\":\"Done.\"},\"finish_reason\":\"stop\"}]}\n\n";
        server
            .queue(Reply::raw(200, &[], stream.iter().map(|chunk| Chunk::from(&**chunk)).collect()))
            .queue(Reply::raw(200, &[], vec![text.into()])); // neither usage nor [DONE]
        home.run(&["run", "go"]).stdout("Done.\n").stderr_any().check();
        assert_eq!(home.read("odd").as_deref(), Some("odd\n"));
        assert_eq!(server.asked(2)[1].results().len(), 1);
    }
}

fn odd_calls() -> Vec<(&'static str, Vec<String>)> {
    let arguments = "{\"command\":\"echo odd > odd\"}";
    let data = |delta: Value, end: Value| {
        format!("data: {}\n\n", json!({"choices": [{"delta": delta, "finish_reason": end}]}))
    };
    let delta = |delta| data(delta, Value::Null);
    let call = |call: Value| delta(json!({"tool_calls": [call]}));
    let end = || data(json!({}), json!("tool_calls"));
    let first = json!({"index": 0, "id": "c", "type": "function",
        "function": {"name": "bash", "arguments": ""}});
    let piece = |piece: &str| call(json!({"index": 0, "function": {"arguments": piece}}));
    let usual = vec![call(first), piece(&arguments[..9]), piece(&arguments[9..]), end()];
    let whole = |arguments: Value| {
        call(json!({"index": 0, "id": "c", "type": "function",
            "function": {"name": "bash", "arguments": arguments}}))
    };
    vec![
        ("as usual", [usual.clone(), vec!["data: [DONE]\n\n".to_owned()]].concat()),
        ("no [DONE]", usual.clone()),
        (
            "CRLF and comments",
            usual
                .iter()
                .map(|event| format!(": ping\r\n\r\n{}", event.replace('\n', "\r\n")))
                .collect(),
        ),
        ("all in one chunk", vec![usual.concat()]),
        ("a byte at a time", usual.concat().chars().map(String::from).collect()),
        (
            "null content first",
            [vec![delta(json!({"role": "assistant", "content": null}))], usual.clone()].concat(),
        ),
        (
            "neither index nor id",
            vec![
                call(json!({"function": {"name": "bash", "arguments": &arguments[..5]}})),
                call(json!({"function": {"arguments": &arguments[5..]}})),
                end(),
            ],
        ),
        ("whole arguments at once", vec![whole(json!(arguments)), end()]),
        ("arguments as an object", vec![whole(json!({"command": "echo odd > odd"})), end()]),
        (
            "the end says stop",
            vec![whole(json!(arguments)), data(json!({"content": ""}), json!("stop"))],
        ),
        (
            "an unknown field and an empty list of choices",
            [
                vec!["data: {\"choices\":[],\"news\":{\"a\":[1]}}\n\n".to_owned()],
                usual,
                vec!["data: {\"choices\":[],\"usage\":null}\n\n".to_owned()],
            ]
            .concat(),
        ),
    ]
}

#[test]
fn a_start_takes_away_old_outputs() {
    let home = Home::new();
    let model = home.script(&[json!({ "text": "Hi." })]);
    let run = || home.run(&["run", "--model", &model, "hello"]).stdout("Hi.\n").stderr_any();
    run().check();
    let folder = home.path("scratch/output");
    std::fs::create_dir_all(&folder).unwrap();
    let old = std::fs::File::create(folder.join("bash-0.txt")).unwrap();
    let month = std::time::Duration::from_secs(30 * 24 * 60 * 60);
    old.set_modified(std::time::SystemTime::now() - month).unwrap();
    std::fs::File::create(folder.join("bash-1.txt")).unwrap();
    run().check();
    assert!(!folder.join("bash-0.txt").exists() && folder.join("bash-1.txt").exists());
}

#[test]
fn a_home_that_no_path_can_hold_is_named() {
    let home = Home::new();
    let model = home.script(&[json!({ "text": "Hi." })]);
    let other = home.cwd().join("a:b");
    let other = other.to_str().expect("a path in UTF-8");
    let run = home.run(&["run", "--home", other, "--model", &model, "hello"]);
    run.code(1).stderr_holds(&[&format!("{other} has a colon in it"), "--home DIR"]).check();
}
