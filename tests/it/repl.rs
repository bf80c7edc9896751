//! The conversation in a real terminal: what is typed and when, what the screen shows and
//! what it must never show, and what reaches the model.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use serde_json::json;

use crate::home::Home;
use crate::kills::{Fifo, Watched};
use crate::model_server::Server;
use crate::reply::{Gate, Reply};
use crate::terminal::Terminal;

const CTRL_C: &str = "\x03";
const CTRL_D: &str = "\x04";

/// A conversation in a terminal of 80 columns, at its first prompt.
pub fn talk(home: &Home, arguments: &[&str]) -> Terminal {
    let terminal = Terminal::start(&home.command(arguments), 80, 24);
    prompt(&terminal, "");
    terminal
}

/// Wait for the prompt with this typed so far, and the cursor behind it.
#[track_caller]
pub fn prompt(terminal: &Terminal, typed: &str) {
    let line = format!("> {typed}");
    terminal.wait_for(&format!("the prompt {line:?}"), |screen| {
        let (row, column) = screen.cursor_position();
        let shown = screen.rows(0, screen.size().1).nth(usize::from(row)).unwrap_or_default();
        usize::from(column) == line.len() && shown.trim_end() == line.trim_end()
    });
}

/// Say something and wait for the end of its turn: its summary and a fresh prompt.
#[track_caller]
fn say(terminal: &mut Terminal, text: &str, answer: &str) {
    terminal.send(&format!("{text}\r"));
    terminal.wait_for(&format!("{answer:?} and the end of the turn"), |screen| {
        let shown = screen.contents();
        let after = |text: &str, end| text.rsplit_once(end).map(|(_, rest)| rest.to_owned());
        let rest = after(&shown, answer).and_then(|rest| after(&rest, " tokens"));
        rest.is_some_and(|rest| rest.lines().any(|line| line.starts_with('>')))
    });
}

/// The sequences in `raw` that colour text.
fn colours(raw: &str) -> Vec<&str> {
    let ends = |text: &str| text.find(|c: char| !(c.is_ascii_digit() || c == ';'));
    let sequences = raw.split("\x1b[").skip(1);
    sequences.filter(|text| ends(text).is_some_and(|end| text[end..].starts_with('m'))).collect()
}

#[test]
fn a_line_typed_during_a_turn_survives_and_steers_it() {
    let server = Server::start();
    let home = Home::new().with_anthropic(&server);
    let (first, second) = (Gate::new(), Gate::new());
    let begin = Reply::text("First words.\n").wait(&first).and("Second words.\n");
    server.queue(begin.wait(&second).bash("echo ran")).queue(Reply::text("All done."));
    let mut terminal = talk(&home, &[]);
    terminal.send("begin\r");
    terminal.wait_text("First words.");
    terminal.send("half a th");
    prompt(&terminal, "half a th");
    first.open();
    terminal.wait_text("Second words.\n> half a th");
    prompt(&terminal, "half a th");
    terminal.send("ought\r");
    prompt(&terminal, "");
    second.open();
    terminal.wait_text("All done.");
    let asked = server.asked(2);
    assert_eq!(asked[1].results(), ["ran\n"]);
    let last = asked[1].body["messages"].as_array().and_then(|all| all.last()).cloned();
    let blocks = last.expect("a message")["content"].as_array().cloned().unwrap_or_default();
    assert_eq!(blocks[0]["type"], "tool_result", "{blocks:?}");
    let steering = blocks[1]["text"].as_str().unwrap_or_default();
    assert!(steering.ends_with("half a thought"), "{blocks:?}");
    terminal.wait_text("(you, read now) half a thought");
}

#[test]
fn ctrl_c_stops_a_stream_and_keeps_the_line_and_the_conversation() {
    let server = Server::start();
    let home = Home::new().with_anthropic(&server);
    let gate = Gate::new();
    server.queue(Reply::text("A beginning.\nAn open li").wait(&gate).and("ne"));
    let mut terminal = talk(&home, &[]);
    terminal.send("begin\r");
    terminal.wait_text("A beginning.");
    gate.reached();
    terminal.send("and then");
    prompt(&terminal, "and then");
    terminal.send(CTRL_C);
    terminal.wait_text("Interrupted.");
    prompt(&terminal, "and then");
    assert!(terminal.text().contains("An open li\n"), "{}", terminal.text());
    server.queue(Reply::text("Here again."));
    say(&mut terminal, "", "Here again.");
    let asked = server.asked(2);
    let said = asked[1].said();
    assert!(said.contains(&("assistant".into(), "A beginning.\nAn open li".into())), "{said:?}");
    assert!(asked[1].heard().contains("and then"), "{said:?}");
}

#[test]
fn ctrl_c_where_nothing_runs_clears_the_line_and_only_then_offers_to_leave() {
    let server = Server::start();
    let home = Home::new().with_anthropic(&server);
    let mut terminal = talk(&home, &[]);
    terminal.send("half a th");
    prompt(&terminal, "half a th");
    terminal.send(CTRL_C);
    prompt(&terminal, "");
    terminal.send("/stop\r");
    terminal.wait_text("\nNothing is running.\n");
    prompt(&terminal, "");
    assert!(!terminal.text().contains("Ctrl-C"), "{}", terminal.text());
    terminal.send(CTRL_C);
    terminal.wait_text("\nCtrl-C again leaves.\n");
    terminal.send("other");
    prompt(&terminal, "other");
    terminal.send(CTRL_C);
    prompt(&terminal, "");
    server.queue(Reply::text("Still here."));
    say(&mut terminal, "hello", "Still here.");
}

#[test]
fn ctrl_c_stops_a_command() {
    let server = Server::start();
    let home = Home::new().with_anthropic(&server);
    let mut terminal = talk(&home, &[]);
    let told = Fifo::make(&home.workspace("told"));
    Fifo::make(&home.workspace("never"));
    server.queue(Reply::new().bash("echo $$ > told; cat never").bash("touch ran"));
    terminal.send("go\r");
    let command = Watched::of(told.line().trim());
    terminal.send(CTRL_C);
    command.gone();
    terminal.wait_text("Interrupted.");
    server.queue(Reply::text("I stopped."));
    say(&mut terminal, "what happened?", "I stopped.");
    let results = server.asked(2)[1].results();
    assert!(results.iter().all(|result| result.contains("interrupted")), "{results:?}");
    assert!(results.len() == 2 && home.read("ran").is_none(), "{results:?}");
}

#[test]
fn each_way_to_leave_leaves_the_terminal_as_it_was() {
    for (keys, code) in [(CTRL_D, 0), ("/quit\r", 0), ("\x03\x03", 130)] {
        let server = Server::start();
        let home = Home::new().with_anthropic(&server);
        let program = home.command::<&str>(&[]);
        let mut command = Command::new("bash");
        let script = "before=$(stty -g); \"$0\"; echo code $?; [ \"$(stty -g)\" = \"$before\" ] && echo same";
        command.args(["-c", script]).arg(program.get_program());
        command
            .env_clear()
            .envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let mut terminal = Terminal::start(&command, 80, 24);
        prompt(&terminal, "");
        terminal.send(keys);
        terminal.wait_end();
        let shown = terminal.text();
        assert!(shown.contains(&format!("code {code}\nsame")), "{keys:?}: {shown}");
        let raw = terminal.raw();
        let pasting = raw.rsplit_once("\x1b[?2004").map(|(_, rest)| rest.starts_with('h'));
        assert_eq!(pasting, Some(false), "{raw:?}");
    }
}

#[test]
fn a_signal_leaves_the_terminal_as_it_was() {
    let server = Server::start();
    let home = Home::new().with_anthropic(&server);
    let mut terminal = talk(&home, &[]);
    // SAFETY: no memory is involved, and the child is not reaped yet.
    unsafe { libc::kill(terminal.pid(), libc::SIGTERM) };
    assert_eq!(terminal.wait_end().exit_code(), 130);
    assert!(terminal.raw().trim_end().ends_with("\x1b[?2004l"), "{:?}", terminal.raw());
}

#[test]
fn a_bare_start_resumes_and_new_begins_afresh() {
    let server = Server::start();
    let home = Home::new().with_anthropic(&server);
    for answer in ["Noted.", "Who?", "Still nobody.", "You."] {
        server.queue(Reply::text(answer));
    }
    home.run(&["run", "--session", "first", "remember me"]).stdout("Noted.\n").stderr_any().check();
    let mut terminal = talk(&home, &[]);
    terminal.wait_text("Resuming first (");
    assert!(terminal.text().contains("1 turn: remember me"), "{}", terminal.text());
    assert!(terminal.text().contains("\n> remember me\nNoted.\n>"), "{}", terminal.text());
    assert!(terminal.text().contains("\nanthropic:"), "{}", terminal.text());
    terminal.send("/new second\r");
    terminal.wait_text("Conversation second.");
    prompt(&terminal, "");
    server.allow_prefix_change();
    say(&mut terminal, "who am I?", "Who?");
    terminal.send("/quit\r");
    assert_eq!(terminal.wait_end().exit_code(), 0);
    let mut terminal = talk(&home, &[]);
    terminal.wait_text("Resuming second (");
    say(&mut terminal, "and now?", "Still nobody.");
    terminal.send("/resume third\r");
    terminal.wait_text("there is no session third");
    terminal.send("/sessions\r");
    terminal.wait_for("both conversations", |screen| {
        let shown = screen.contents();
        shown.contains("\nsecond  ") && shown.contains("\nfirst   ")
    });
    terminal.send("/resume first\r");
    terminal.wait_text("Conversation first.");
    server.allow_prefix_change();
    say(&mut terminal, "and here?", "You.");
    let asked = server.asked(4);
    assert!(!asked[1].heard().contains("remember me"));
    assert!(asked[2].heard().contains("who am I?") && !asked[2].heard().contains("remember me"));
    assert!(asked[3].heard().contains("remember me") && !asked[3].heard().contains("who am I?"));
}

#[test]
fn a_call_is_a_line_and_a_slow_one_says_that_it_runs() {
    let server = Server::start();
    let home = Home::new().with_anthropic(&server);
    let mut terminal = talk(&home, &[]);
    Fifo::make(&home.workspace("held"));
    server
        .queue(Reply::new().bash("cat held\necho last line"))
        .queue(Reply::new().call("write", json!({"path": "a.txt", "content": "x\n"})))
        .queue(Reply::text("Done."));
    terminal.send("go\r");
    terminal.wait_text("… bash cat held …  still running");
    let held = OpenOptions::new().write(true).open(home.workspace("held"));
    held.and_then(|mut held| held.write_all(b"let go\n")).expect("the command reads");
    terminal.wait_text(" lists what was changed.\n>");
    let shown = terminal.text();
    let ended = shown.lines().find(|line| line.starts_with("· bash cat held …  "));
    assert!(ended.is_some_and(|line| line.ends_with(" s")), "{shown}");
    assert!(shown.contains("\n· write a.txt  "), "{shown}");
    let last = shown.lines().find(|line| line.contains(" tokens")).expect("an end");
    assert!(last.starts_with("1 file +1 −0 · "), "{last}");
    assert!(last.ends_with(" · 45 tokens · $0.0002"), "{last}");
    terminal.send("/last\r");
    terminal.wait_text("content: x");
    server.queue(Reply::new().bash("seq 3; cat held")).queue(Reply::text("Again."));
    terminal.send("again\r");
    let held = OpenOptions::new().write(true).open(home.workspace("held"));
    held.and_then(|mut held| held.write_all(b"end of it\n")).expect("the command reads");
    terminal.wait_text("Again.");
    terminal.send("/last\r");
    terminal.wait_text("command: seq 3; cat held\n→\n1\n2\n3\nend of it");
}

const MARKED: &str = "This is **bold** and `code`, and this paragraph is long enough that it \
                      has to be wrapped wherever it is shown.";

#[test]
fn a_reply_has_colours_and_the_width_of_the_terminal() {
    let server = Server::start();
    let home = Home::new().with_anthropic(&server);
    server.queue(Reply::text(MARKED)).queue(Reply::text(MARKED));
    let mut terminal = Terminal::start(&home.command::<&str>(&[]), 60, 24);
    prompt(&terminal, "");
    say(&mut terminal, "go", "shown.");
    let raw = terminal.raw();
    assert!(raw.contains("\x1b[1mbold\x1b[0m") && raw.contains("\x1b[36mcode\x1b[0m"), "{raw:?}");
    let shown = terminal.text();
    assert!(
        shown.contains("This is bold and code, and this paragraph is long enough\n"),
        "{shown}"
    );
    assert!(shown.contains("\nthat it has to be wrapped wherever it is shown.\n"), "{shown}");
    terminal.resize(40, 24);
    say(&mut terminal, "again", "shown.");
    let shown = terminal.text();
    assert!(shown.contains("This is bold and code, and this\nparagraph is long"), "{shown}");
}

#[test]
fn no_color_means_none() {
    let server = Server::start();
    let home = Home::new().with_anthropic(&server).env("NO_COLOR", "1");
    server.queue(Reply::text(MARKED).bash("false")).queue(Reply::text("Well."));
    let mut terminal = talk(&home, &[]);
    say(&mut terminal, "go", "Well.");
    assert!(terminal.text().contains("This is **bold** and `code`"), "{}", terminal.text());
    assert_eq!(colours(&terminal.raw()), [""; 0]);
}

#[test]
fn a_dumb_terminal_gets_no_sequence_at_all() {
    let server = Server::start();
    let home = Home::new().with_anthropic(&server).env("TERM", "dumb");
    let gate = Gate::new();
    server.queue(Reply::text(MARKED)).queue(Reply::text("One.\n").wait(&gate));
    let mut terminal = talk(&home, &[]);
    say(&mut terminal, "go", "shown.");
    terminal.send("/usage\r");
    terminal.wait_for("the usage before the prompt", |screen| {
        let shown = screen.contents();
        shown.contains("\nall  ") && shown.trim_end().ends_with("\n>")
    });
    terminal.send("more\r");
    terminal.wait_text("One.");
    terminal.send(CTRL_C);
    terminal.wait_text("Interrupted.");
    prompt(&terminal, "");
    terminal.send(CTRL_D);
    assert_eq!(terminal.wait_end().exit_code(), 0);
    assert!(!terminal.raw().contains('\x1b'), "{:?}", terminal.raw());
}

#[test]
fn control_sequences_never_reach_the_terminal() {
    let server = Server::start();
    let home = Home::new().with_anthropic(&server);
    let hostile = "safe \x1b]0;title\x07\x1b[2J\x1b[31mwords\u{202e} \u{9b}5mblink\u{200b}\n";
    let command = "printf 'out \\033]52;c;AAAA\\007\\033[31mred\\r\\b\\342\\200\\256!\\n'";
    let call = format!("{command} # \x1b]2;t\x07\u{2066}");
    server.queue(Reply::text(hostile).bash(&call)).queue(Reply::text("End."));
    let mut terminal = talk(&home, &["--session", "s"]);
    say(&mut terminal, "go", "End.");
    terminal.send("/last\r");
    terminal.wait_text("\nout red!");
    terminal.send("/wire\r");
    terminal.wait_text("message_stop");
    prompt(&terminal, "");
    assert!(terminal.raw().contains("safe words blink\r\n"), "{:?}", terminal.raw());
    let raw = terminal.raw();
    for bad in ["\x1b]", "\x1b[2J", "\x1b[31m", "\x1b[5m", "\x07", "\x08"] {
        assert!(!raw.contains(bad), "{bad:?} in {raw:?}");
    }
    for bad in ['\u{202e}', '\u{2066}', '\u{9b}', '\u{200b}'] {
        assert!(!raw.contains(bad), "{bad:?} in {raw:?}");
    }
}

#[test]
fn a_message_of_several_lines_is_one_message() {
    let server = Server::start();
    let editor = "#!/bin/sh\nprintf '/from the\\neditor\\n' > \"$1\"\n";
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("editor");
    fs::write(&path, editor).expect("a script");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("our own file");
    let home = Home::new().with_anthropic(&server).env("EDITOR", &path);
    for answer in ["Pasted.", "Continued.", "Folded.", "Written."] {
        server.queue(Reply::text(answer));
    }
    let mut terminal = talk(&home, &[]);
    terminal.send("\x1b[200~one\ntwo\rthree\x1b[201~");
    terminal.wait_text("> one\ntwo\nthree");
    say(&mut terminal, "", "Pasted.");
    say(&mut terminal, "four\x1b\rfive", "Continued.");
    say(&mut terminal, "six \\\rseven", "Folded.");
    say(&mut terminal, "/edit", "Written.");
    assert!(terminal.text().contains("\n/from the\neditor\n"), "{}", terminal.text());
    let heard = server.asked(4)[3].heard();
    for message in ["one\ntwo\nthree\n", "four\nfive\n", "six \nseven\n", "/from the\neditor\n"] {
        assert!(heard.contains(&format!("]\n{message}")), "{message:?} in {heard:?}");
    }
}

#[test]
fn an_editor_that_fails_is_told_and_harms_nothing() {
    let server = Server::start();
    let home = Home::new().with_anthropic(&server).env("EDITOR", "/nowhere/editor");
    server.queue(Reply::text("Fine."));
    let mut terminal = talk(&home, &[]);
    terminal.send("/edit\r");
    terminal.wait_text("cannot run /nowhere/editor");
    prompt(&terminal, "");
    say(&mut terminal, "go", "Fine.");
}

#[test]
fn tab_completes_commands_sessions_and_paths() {
    let server = Server::start();
    let home = Home::new().with_anthropic(&server);
    server.queue(Reply::text("Hello."));
    home.run(&["run", "--session", "holiday", "hi"]).stdout("Hello.\n").stderr_any().check();
    let mut terminal = talk(&home, &[]);
    for (typed, completed) in [
        ("/sess\t", "/sessions "),
        ("/resume ho\t", "/resume holiday "),
        ("look at boots\t", "look at bootstrap.md"),
    ] {
        terminal.send(typed);
        prompt(&terminal, completed);
        terminal.send("\x15");
        prompt(&terminal, "");
    }
}

#[test]
fn without_a_terminal_each_line_is_a_turn() {
    let server = Server::start();
    let home = Home::new().with_anthropic(&server);
    server.queue(Reply::text("One.")).queue(Reply::text("Two."));
    let run = home.run::<&str>(&[]).stdin("first\n\nsecond\n").stdout("One.\nTwo.\n");
    run.stderr_any().check();
    assert!(server.asked(2)[1].heard().contains("first"));
    server.queue(Reply::error(401, "authentication_error", "no such key"));
    let run = home.run::<&str>(&[]).stdin("third\n").code(1);
    run.stderr_holds(&["no such key"]).check();
}

#[test]
fn a_command_in_a_pipe_is_refused_and_not_sent() {
    let server = Server::start();
    let home = Home::new().with_anthropic(&server);
    let run = home.run::<&str>(&[]).stdin("/usage\n").code(2);
    run.stderr_holds(&["/usage is a command of the conversation in a terminal"]).check();
    server.asked(0);
}

#[test]
fn help_fits_the_screen_and_a_new_conversation_has_nothing_to_summarise() {
    let server = Server::start();
    let home = Home::new().with_anthropic(&server);
    let mut terminal = talk(&home, &[]);
    terminal.send("/compact\r");
    terminal.wait_text("\nNothing to summarise yet.\n");
    terminal.send("/help\r");
    terminal.wait_text("\nTopics: asking, channels,");
    terminal.send("/help nonesuch\r");
    terminal.wait_text("/help lists them");
}

#[test]
fn a_key_that_cannot_be_checked_is_kept_when_that_is_wanted() {
    let server = Server::with(|asked| {
        if asked.headers.contains_key("x-api-key") {
            Reply::error(529, "overloaded_error", "too busy")
        } else {
            Reply::error(401, "authentication_error", "no key")
        }
    });
    let home = Home::new().env("ANTHROPIC_BASE_URL", server.url());
    let mut terminal = Terminal::start(&home.command::<&str>(&[]), 80, 24);
    terminal.wait_text("key: ");
    terminal.send("sk-ant-maybe\r");
    terminal.wait_text("The key could not be checked: ");
    terminal.wait_text("Keep it unchecked? (y/N)");
    assert!(!home.path("secrets.toml").exists());
    terminal.send("y\r");
    prompt(&terminal, "");
    let kept = fs::read_to_string(home.path("secrets.toml")).expect("it was kept");
    assert_eq!(kept.trim(), "ANTHROPIC_API_KEY = \"sk-ant-maybe\"");
    server.asked(1);
}

#[test]
fn a_second_terminal_shares_the_conversation_and_takes_over() {
    let server = Server::start();
    let home = Home::new().with_anthropic(&server);
    server.queue(Reply::text("To both.")).queue(Reply::text("To both again."));
    let mut first = talk(&home, &["--session", "shared"]);
    let mut second = talk(&home, &["--session", "shared"]);
    assert!(second.text().contains("this terminal joins it"), "{}", second.text());
    say(&mut first, "from the first", "To both.");
    second.wait_text("(owner) from the first\nTo both.");
    say(&mut second, "from the second", "To both again.");
    first.wait_text("(owner) from the second\nTo both again.");
    second.send("half a li");
    prompt(&second, "half a li");
    first.send(CTRL_D);
    assert_eq!(first.wait_end().exit_code(), 0);
    second.wait_text("this terminal hosts now");
    prompt(&second, "half a li");
    server.queue(Reply::text("To one."));
    say(&mut second, "ne", "To one.");
    assert!(server.asked(3)[2].heard().contains("half a line"));
}

#[test]
fn a_turn_from_elsewhere_goes_through_the_conversation() {
    let server = Server::start();
    let home = Home::new().with_anthropic(&server);
    let gate = Gate::new();
    server.queue(Reply::text("Streamed ").wait(&gate).and("answer."));
    let terminal = talk(&home, &["--session", "shared"]);
    let process = home.spawn(&["run", "--session", "shared", "from elsewhere"]);
    gate.reached();
    terminal.wait_text("(owner) from elsewhere");
    gate.open();
    let ran = process.end();
    assert_eq!((ran.stdout.as_str(), ran.status.code()), ("Streamed answer.\n", Some(0)), "{ran}");
    terminal.wait_text("Streamed answer.");
}

#[test]
fn a_model_is_chosen_and_an_unknown_one_changes_nothing() {
    let server = Server::start();
    let home = Home::new().with_anthropic(&server);
    server.queue(Reply::text("One.")).queue(Reply::text("Two."));
    let mut terminal = talk(&home, &["--model", "anthropic:first"]);
    assert!(terminal.text().contains("anthropic:first answers;"), "{}", terminal.text());
    terminal.send("/model nonsense\r");
    terminal.wait_text("unknown model \"nonsense\"");
    say(&mut terminal, "go", "One.");
    terminal.send("/model anthropic:second\r");
    terminal.wait_text("now talks to anthropic:second");
    server.allow_prefix_change();
    say(&mut terminal, "go on", "Two.");
    let models: Vec<_> = server.asked(2).iter().map(|asked| asked.body["model"].clone()).collect();
    assert_eq!(models, ["first", "second"]);
    let ran = home.run(&["doctor"]).stdout_any().check();
    assert!(ran.stdout.contains("\nok   model      anthropic:second\n"), "{ran}");
}

#[test]
fn a_summary_can_be_asked_for_and_stopped() {
    let server = Server::start();
    let home = Home::new().with_anthropic(&server);
    let gate = Gate::new();
    server.queue(Reply::text("One.")).queue(Reply::text("They sa").wait(&gate));
    let mut terminal = talk(&home, &[]);
    say(&mut terminal, "go", "One.");
    server.allow_prefix_change();
    terminal.send("/compact\r");
    gate.reached();
    terminal.send(CTRL_C);
    terminal.wait_text("\ninterrupted\n");
    server.allow_prefix_change();
    server.queue(Reply::text("They said hello.").usage([3_000, 400, 0, 0]));
    terminal.send("/compact\r");
    terminal.wait_text("Summarised: ");
    let ran = home.run(&["usage", "--json"]).stdout_any().stderr_any().check();
    let used: serde_json::Value = serde_json::from_str(&ran.stdout).expect("JSON");
    // The turn's own are few.
    assert!(used["input"].as_u64() >= Some(3_000) && used["output"].as_u64() >= Some(400));
    assert_eq!(used["turns"], 1, "{used}");
}

#[test]
fn a_key_is_asked_for_without_being_shown_checked_and_kept() {
    let server = Server::with(|asked| match asked.headers.get("x-api-key").map(String::as_str) {
        Some("sk-ant-right") => Reply::text("Here I am."),
        _ => Reply::error(401, "authentication_error", "no such key"),
    });
    let home = Home::new().env("ANTHROPIC_BASE_URL", server.url());
    let mut terminal = Terminal::start(&home.command::<&str>(&[]), 80, 24);
    terminal.wait_text("key: ");
    let shown = terminal.text();
    for way in ["Welcome", "1. a hosted model", "2. a local model", "3. neither"] {
        assert!(shown.contains(way), "{shown}");
    }
    terminal.send("sk-ant-wrong\r");
    terminal.wait_text("That did not work: ");
    terminal.wait_for("the question again", |screen| {
        screen.contents().trim_end().ends_with("key:") && screen.contents().contains("no such key")
    });
    assert!(!home.path("secrets.toml").exists());
    terminal.send("sk-ant-right\r");
    terminal.wait_text("It works: anthropic:");
    prompt(&terminal, "");
    server.asked(2);
    let secrets = home.path("secrets.toml");
    let mode = fs::metadata(&secrets).expect("it was kept").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let kept = fs::read_to_string(&secrets).expect("our own file");
    assert_eq!(kept.trim(), "ANTHROPIC_API_KEY = \"sk-ant-right\"");
    say(&mut terminal, "hello", "Here I am.");
    assert!(!terminal.raw().contains("sk-ant-"), "{:?}", terminal.raw());
    drop(terminal);
    let mut terminal = talk(&home, &[]);
    terminal.send(CTRL_D);
    assert_eq!(terminal.wait_end().exit_code(), 0);
}

#[test]
fn without_a_key_enter_begins_the_tour_and_ctrl_c_leaves() {
    // A URL alone finds a model only where the server lets strangers in. This way the test
    // does not depend on whether a local model runs on this machine.
    let server = Server::start();
    let home = Home::new().env("ANTHROPIC_BASE_URL", server.url());
    let mut terminal = Terminal::start(&home.command::<&str>(&[]), 80, 24);
    terminal.wait_text("key: ");
    terminal.send("\r");
    terminal.wait_text("A recorded conversation");
    drop(terminal);
    let mut terminal = Terminal::start(&home.command::<&str>(&[]), 80, 24);
    terminal.wait_text("key: ");
    terminal.send(CTRL_C);
    assert_eq!(terminal.wait_end().exit_code(), 0);
}

#[test]
fn what_was_said_to_a_host_that_ended_is_said_again() {
    let server = Server::start();
    let home = Home::new().with_anthropic(&server);
    let gate = Gate::new();
    server.queue(Reply::text("I begin. ").wait(&gate)).queue(Reply::text("I heard."));
    let host = home.spawn(&["run", "--json", "--session", "s", "first"]);
    host.wait_stdout("I begin");
    let mut terminal = talk(&home, &["--session", "s"]);
    terminal.send("second\r");
    let state = rusqlite::Connection::open(home.path("state.db")).expect("a database");
    let started = std::time::Instant::now();
    while state.query_row("SELECT count(*) FROM inbox", [], |row| row.get(0)) != Ok(1) {
        assert!(started.elapsed() < crate::BOUND, "it is not in line");
        std::thread::yield_now();
    }
    host.kill();
    terminal.wait_text("this terminal hosts now");
    terminal.wait_text("I heard.");
    assert_eq!(server.asked(2)[1].heard().matches("second").count(), 1);
}

#[test]
fn whoever_is_new_hears_of_undo_once_and_can_use_it() {
    let server = Server::start();
    let home = Home::new().with_anthropic(&server);
    let mut terminal = talk(&home, &[]);
    terminal.send("/undo\r");
    terminal.wait_text("`/log` shows all");
    prompt(&terminal, "");
    for file in ["a", "b"] {
        let made = format!("There is {file}.");
        server.queue(Reply::new().bash(&format!("touch {file}"))).queue(Reply::text(&made));
        say(&mut terminal, &format!("make {file}"), &made);
        terminal.wait_text("/undo takes such a turn back");
        assert_eq!(terminal.text().matches("/undo takes such a turn back").count(), 1);
        prompt(&terminal, "");
    }
    terminal.send("/undo\r");
    terminal.wait_text("(/redo reverses it)");
    terminal.wait_text("  b: removed");
    prompt(&terminal, "");
    assert!(home.read("a").is_some() && home.read("b").is_none());
    terminal.send("/redo\r");
    terminal.wait_text("Brought back by commit");
    prompt(&terminal, "");
    assert!(home.read("b").is_some());
    terminal.send("/undo --help\r");
    terminal.wait_text("--marks   Both stay in the file");
}
