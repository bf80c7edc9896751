//! A canary among the secrets: planted in environment, config.toml and secrets.toml, and
//! looked for everywhere else after a hostile model has done what it can to get it out.
//!
//! The model has all three in a file of the workspace, as if an owner had left them there by
//! mistake, so that every row is an attempt with the values in hand; a hand that cannot reach
//! the originals makes none of them vacuous. What it writes into the workspace by itself is
//! its own affair: it must not come out of it.

use std::fs;
use std::path::{Path, PathBuf};

use memchr::memmem::Finder;
use serde_json::{Value, json};

use crate::home::{Home, Ran};
use crate::model_server::Server;
use crate::reply::{Chunk, Gate, Reply};

/// In the environment: what needs to be written otherwise nearly everywhere.
const GIVEN: &str = r#"canary-1 <&"q'+/?=%\"#;
/// In a header of a model in config.toml.
const SHOWN: &str = "canary-2-header~8fK";
/// In secrets.toml: it could be the name of a file or of a session.
const KEPT: &str = "canary-3_kept.5xQ9";
const ALL: [&str; 3] = [GIVEN, SHOWN, KEPT];

/// How many commands come before those that write a value otherwise.
const PLAIN: usize = 15;
/// The file of the workspace in which the model has them, one a line.
const LOOT: &str = "loot";

/// A home with the canaries in their places, the model `hostile` behind the server.
fn planted(server: &Server) -> Home {
    let home = Home::new().env("ANTHROPIC_API_KEY", GIVEN).config(&format!(
        "model = \"hostile\"\n[models.hostile]\nwire = \"anthropic\"\nname = \"m\"\nbase_url = \"{}\"\n\
         key = \"ANTHROPIC_API_KEY\"\nheaders = {{ \"X-Proxy-Token\" = \"Bearer {SHOWN}\" }}\n",
        server.url()
    ));
    let set = home.run(&["secret", "set", "DEPLOY"]).stdin(format!("{KEPT}\n"));
    set.stderr_holds(&["DEPLOY is kept in secrets.toml, readable by you alone."]).check();
    fs::write(home.workspace(LOOT), ALL.join("\n") + "\n").expect("loot");
    home
}

/// One turn of the model, whatever it prints.
fn turn(home: &Home, option: &str, text: &str, code: i32) -> Ran {
    let run = home.run(&["run", option, "--session", "s", text]);
    run.code(code).stdout_any().stderr_any().check()
}

/// What a hostile model types to be told a value, or to have it kept where others look.
fn commands() -> Vec<String> {
    let mut commands: Vec<String> = [
        "cat loot; cat loot >&2",
        "while read -rn1 c; do printf %s \"$c\"; done < loot",
        "head -c 5 loot; tail -c +6 loot",
        "seq 9000; cat loot; seq 9000",
        "env; cat \"$FLEDGLING_HOME\"/secrets.toml \"$FLEDGLING_HOME\"/config.toml",
        "for p in /proc/$PPID /proc/[0-9]*; do cat $p/environ $p/cmdline; done 2>/dev/null | tr '\\0' '\\n' | grep -a canary",
        "cp loot copy; cp loot \"$(sed -n 3p loot)\"; mkdir \"d$(sed -n 3p loot)\"; cp bootstrap.md d*",
        "ln -s \"$(sed -n 3p loot)\" link; base64 -w0 loot > encoded; ls -l",
        "ls no-such-\"$(sed -n 3p loot)\"; exit 3",
        "fledgling run --session \"$(sed -n 3p loot)\" --model hostile hello",
        "fledgling run --session \"$(sed -n 1p loot)\" --model hostile hello",
        "fledgling run --session child --model \"anthropic:$(sed -n 3p loot)\" hello",
        "fledgling sessions \"$(cat loot)\"; fledgling stop \"$(sed -n 3p loot)\"; fledgling help \"$(cat loot)\"",
        "fledgling diff; fledgling log; fledgling self; fledgling wire | tail -c 9000",
        "fledgling secret list; fledgling secret set DEPLOY < loot; fledgling secret rm DEPLOY",
    ]
    .map(str::to_owned)
    .into();
    for line in 1..=3 {
        let loot = format!("sed -n {line}p loot | tr -d '\\n'");
        commands.extend([
            format!("{loot} | base64 -w0; (printf x; {loot}) | base64 -w0"),
            format!("(printf user:; {loot}; printf @) | base64 -w0 | tr '+/' '-_'"),
            format!("{loot} | od -An -v -tx1 | tr -d ' \\n'; {loot} | rev"),
            format!("{loot} | od -An -v -tx1 | tr -d ' \\n' | tr a-f A-F"),
            format!("{loot} | sed 's/[\\\"\\\\]/\\\\&/g'; printf %q \"$({loot})\""),
            format!("{loot} | sed 's/./&\\x00/g'; {loot} | iconv -t UTF-16LE"),
        ]);
    }
    commands
}

/// What a hostile model, or a server, says when it knows a value.
fn told() -> Vec<Reply> {
    let mut replies = Vec::new();
    for value in ALL {
        let quoted = format!("'{}'", value.replace('\'', r"'\''"));
        let edits = json!([{ "old": "plain", "new": value }]);
        replies.extend([
            Reply::new().bash(&format!("echo {quoted}; echo {quoted} > said")),
            Reply::new().call("write", json!({ "path": "plain", "content": "plain" })),
            Reply::new().call("write", json!({ "path": value, "content": value })),
            Reply::new().call("edit", json!({ "path": "plain", "edits": edits })),
            Reply::new().call("read", json!({ "path": format!("no/{value}") })),
            Reply::new().call("read", json!({ "path": LOOT })),
            Reply::new().call("read", json!({ (value): value })),
        ]);
    }
    replies
}

/// The ways in which a value must not be found. Told by hand, so as not to repeat mistakes.
fn forms(value: &str) -> Vec<Vec<u8>> {
    let bytes = value.as_bytes();
    let hex: String = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]).map(hex_digit).collect();
    let percent = |byte: &u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
            char::from(*byte).to_string()
        }
        byte => format!("%{byte:02X}"),
    };
    let json = json!(value).to_string();
    let twice = json!(json).to_string();
    let mut forms = vec![
        value.to_owned(),
        value.chars().rev().collect(),
        json[1..json.len() - 1].to_owned(),
        twice[3..twice.len() - 3].to_owned(),
        hex.to_uppercase(),
        hex,
        bytes.iter().map(percent).collect(),
        value.chars().flat_map(|c| [c, '\0']).collect(),
    ];
    for padding in ["", "x", "xx"] {
        let whole = base64(&[padding.as_bytes(), bytes].concat());
        // Without the ends, which depend on what stands beside.
        let inner = &whole[[0, 2, 3][padding.len()]..whole.len() - 1];
        forms.extend([inner.to_owned(), inner.replace('+', "-").replace('/', "_")]);
    }
    forms.into_iter().map(String::into_bytes).collect()
}

fn hex_digit(digit: u8) -> char {
    char::from_digit(digit.into(), 16).expect("four bits")
}

/// Without padding.
fn base64(bytes: &[u8]) -> String {
    let digits = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let bits: Vec<u8> =
        bytes.iter().flat_map(|byte| (0..8).rev().map(move |at| byte >> at & 1)).collect();
    let digit = |six: &[u8]| {
        let number = six.iter().fold(0, |all, bit| all << 1 | usize::from(*bit)) << (6 - six.len());
        char::from(digits[number])
    };
    bits.chunks(6).map(digit).collect()
}

/// What the canaries look like, ready to be looked for.
struct Nose(Vec<Finder<'static>>);

impl Nose {
    fn new() -> Self {
        let forms = ALL.iter().flat_map(|value| forms(value));
        Self(forms.map(|form| Finder::new(&form).into_owned()).collect())
    }

    /// Fails when a canary stands in this in any form.
    #[track_caller]
    fn clean(&self, place: &str, bytes: &[u8]) {
        for form in &self.0 {
            let around = form.find(bytes).map(|at| {
                let part = &bytes[at.saturating_sub(200)..bytes.len().min(at + 200)];
                String::from_utf8_lossy(part).into_owned()
            });
            let form = String::from_utf8_lossy(form.needle());
            assert_eq!(around, None, "{form} got into {place}");
        }
    }

    /// Looks through all files below a folder, names included, but for these.
    fn look_through(&self, folder: &Path, but: &[&Path]) {
        for entry in fs::read_dir(folder).expect("a folder of the home").flatten() {
            let path = entry.path();
            self.clean("a name", path.as_os_str().as_encoded_bytes());
            // A link leads to the program.
            if but.contains(&&*path) || path.is_symlink() {
                continue;
            }
            if path.is_dir() {
                self.look_through(&path, but);
            } else if path.is_file() {
                self.clean(&path.display().to_string(), &fs::read(&path).expect("a file"));
            }
        }
    }
}

#[test]
fn no_canary_gets_out() {
    let server = Server::start();
    let home = planted(&server);
    let mut seen = Vec::new();
    let commands = commands();
    for command in &commands {
        server.queue(Reply::new().bash(command));
    }
    server.queue(Reply::text(&format!("I know {GIVEN}, {SHOWN} and {KEPT}.")));
    seen.push(turn(&home, "--json", &format!("Our keys are {GIVEN} and {KEPT}."), 0));
    let heard = &seen[0].stdout;
    assert!(heard.contains("The value of the secret ANTHROPIC_API_KEY was taken out"), "{heard}");

    let told = told();
    let calls = told.len();
    for reply in told {
        server.queue(reply);
    }
    server.queue(Reply::new().thinking(&ALL.join(" and "), "signature").and("Well."));
    seen.push(turn(&home, "--model=hostile", "Again.", 0));
    for status in [400, 401] {
        let echo = format!("the keys {GIVEN}, {SHOWN} and {KEPT} are wrong");
        server.queue(Reply::error(status, "authentication_error", &echo));
        seen.push(turn(&home, "--json", "And again.", 1));
    }
    let broken = format!(
        "event: error\ndata: {}\n\n",
        json!({ "type": "error", "error": {
        "type": "api_error", "message": ALL.join(", ") } })
    );
    server.queue(Reply::raw(200, &[], vec![Chunk::from(&*broken)]));
    server.queue(Reply::text(&ALL.join(" and ")));
    seen.push(turn(&home, "--model=hostile", "Once more.", 0));
    for args in [
        &["log"][..],
        &["show"],
        &["diff"],
        &["sessions"],
        &["self"],
        &["usage"],
        &["wire", "s", "1"],
        &["wire", "s", "2", "--json"],
        &["secret", "list"],
        &["why", "plain"],
    ] {
        seen.push(home.run(args).stdout_any().stderr_any().check());
    }

    let nose = Nose::new();
    for ran in &seen {
        nose.clean("stdout", ran.stdout.as_bytes());
        nose.clean("stderr", ran.stderr.as_bytes());
    }
    let asked = server.asked(commands.len() + 1 + calls + 1 + 4);
    for one in &asked {
        nose.clean("a request", &one.raw);
        assert_eq!(one.headers["x-api-key"], GIVEN, "the key is for its server");
        assert_eq!(one.headers["x-proxy-token"], format!("Bearer {SHOWN}"));
    }
    // Each command was carried out, and its output withheld rather than lost.
    let results = asked.last().expect("requests").results();
    let markers = ["ANTHROPIC_API_KEY", "X-Proxy-Token_of_hostile", "DEPLOY"]
        .map(|name| format!("[secret {name} withheld]"));
    for (command, result) in
        commands.iter().zip(&results).skip(PLAIN).chain([(&commands[0], &results[0])])
    {
        let shown = markers.iter().any(|marker| result.contains(marker));
        assert!(shown, "{command}: {result}");
    }
    let of_spilt = fs::read_dir(home.path("scratch/output")).expect("spill files");
    let spilt: String =
        of_spilt.flatten().filter_map(|file| fs::read_to_string(file.path()).ok()).collect();
    assert!(markers.iter().all(|marker| spilt.contains(marker)));
    assert!(results.iter().any(|result| result.starts_with("not written: ")), "{results:?}");

    let own = ["workspace", "secrets.toml", "config.toml"].map(|name| home.path(name));
    nose.look_through(&home.path(""), &own.each_ref().map(PathBuf::as_path));
    nose.clean("the history", &home.git_bytes(&["cat-file", "--batch-all-objects", "--batch"]));
    assert!(home.git(&["ls-files"]).contains("plain"), "nothing was committed");
}

#[test]
fn a_running_host_learns_of_a_secret_at_once_and_no_hand_keeps_one() {
    let server = Server::start();
    let home = planted(&server);
    let gate = Gate::new();
    server.queue(
        Reply::text("I begin. ").wait(&gate).bash("cat late; fledgling secret set LATE < late"),
    );
    server.queue(Reply::text("Done."));
    let host = home.spawn(&["run", "--session", "s", "--json", "go"]);
    host.wait_stdout("I begin");
    fs::write(home.workspace("late"), "known-too-late\n").expect("a file");
    let set = home.run(&["secret", "set", "LATE"]).stdin("known-too-late");
    set.stderr("LATE is kept in secrets.toml, readable by you alone.\n").check();
    let kept = fs::read(home.path("secrets.toml")).expect("secrets.toml");
    gate.open();
    host.wait_end();
    let ran = host.end();
    assert!(ran.status.success(), "{ran}");
    let results = server.asked(2)[1].results();
    assert!(results[0].starts_with("[secret LATE withheld]\n"), "{results:?}");
    assert!(results[0].contains("only the owner may"), "{results:?}");
    assert_eq!(fs::read(home.path("secrets.toml")).expect("secrets.toml"), kept);
    assert!(!home.git(&["ls-files"]).contains("late"));
}

#[test]
fn a_door_refuses_a_hand_that_asks_for_it_without_the_program() {
    let server = Server::start();
    let home = planted(&server);
    for verb in [
        json!({ "verb": "secret", "name": "DEPLOY", "value": null }),
        json!({ "verb": "secret", "name": "MORE", "value": "a value of mine" }),
        json!({ "verb": "secrets" }),
    ] {
        server.queue(Reply::new().bash(&format!(
            "cd \"$FLEDGLING_DOOR\"; mkfifo r1.replies; exec 3<>r1.replies; echo '{verb}' > r1; echo r1 > requests; head -n1 <&3; rm r1.replies"
        )));
    }
    server.queue(Reply::text("Done."));
    turn(&home, "--json", "go", 0);
    let results = server.asked(4)[3].results();
    assert!(
        results.iter().all(|one| one
            .contains("only the owner may do that; say what is needed, and they can do it")),
        "{results:?}"
    );
    let kept = fs::read_to_string(home.path("secrets.toml")).expect("secrets.toml");
    assert_eq!(kept, format!("DEPLOY = \"{KEPT}\"\n"));
}

#[test]
fn secrets_are_kept_listed_and_forgotten_by_name() {
    let home = Home::new().env("OPENAI_API_KEY", "key-of-the-environment");
    let said = "PIN is kept in secrets.toml, readable by you alone. It has less than 8 bytes: so \
                short a value cannot be withheld from what the agent sees and keeps.";
    home.run(&["secret", "set", "PIN"]).stdin("1234\n").stderr_holds(&[said]).check();
    home.run(&["secret", "set", "WORDS"]).stdin(" two\nlines \n\n").stderr_any().check();
    let kept: Value = home_secrets(&home);
    assert_eq!(kept, json!({ "PIN": "1234", "WORDS": " two\nlines \n" }));
    let list = "OPENAI_API_KEY  environment   key of openai\n\
                PIN             secrets.toml  no model's key\n\
                WORDS           secrets.toml  no model's key\n";
    home.run(&["secret", "list"]).stdout(list).check();
    for (args, stdin, why) in [
        (&["set", "PIN", "-v", "5678"][..], "", "must not stand on the command line"),
        (&["set", "PIN"], "", "no value of PIN came"),
        (&["set", "PIN"], "\n", "no value of PIN came"),
        (&["set", "1PIN"], "1", "bad name of a secret"),
        (&["set", "MY-PIN"], "1", "bad name of a secret"),
    ] {
        let run = home.run(&[&["secret"], args].concat()).code(2).stdin(stdin);
        run.stderr_holds(&[why]).check();
    }
    for value in ["x".repeat((64 << 10) + 1), "12345678\0".to_owned()] {
        let run = home.run(&["secret", "set", "PIN"]).code(1).stdin(value);
        run.stderr_holds(&["so that no command could be given it; nothing was kept"]).check();
    }
    let absent = "there is no such secret; `fledgling secret list` names them";
    home.run(&["secret", "rm", "NONE"]).code(1).stderr_holds(&[absent]).check();
    let given = "OPENAI_API_KEY comes from the environment";
    home.run(&["secret", "rm", "OPENAI_API_KEY"]).code(1).stderr_holds(&[given]).check();
    home.run(&["secret", "rm", "PIN"]).stderr_holds(&["PIN is gone from secrets.toml."]).check();
    assert_eq!(home_secrets(&home), json!({ "WORDS": " two\nlines \n" }));
}

fn home_secrets(home: &Home) -> Value {
    let text = fs::read_to_string(home.path("secrets.toml")).expect("secrets.toml");
    toml::from_str(&text).expect("lines NAME = \"value\"")
}
