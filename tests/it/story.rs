//! The whole story, from an empty home: the owner asks for a daily digest that is sent to a
//! chat, the agent writes all of it, the clock moves, the digest arrives, and the owner takes it
//! back from the chat: script, store, crontab line and schedule.

use std::cell::Cell;
use std::fs;

use serde_json::json;

use crate::bridges::{PATH, has};
use crate::chat::{serve, stop};
use crate::home::{Home, Process};
use crate::model_server::Server;
use crate::reply::Reply;
use crate::standing::{Clock, until};
use crate::telegram_server::{TOKEN, Telegram};
use crate::terminal::Terminal;

/// The owner's number at Telegram.
const ME: i64 = 42;
/// An evening.
const EVENING: &str = "2027-01-15T20:00:00Z";

const DIGEST: &str = r#"#!/bin/bash
# digest: what was noted since the last digest, kept in data/digest.db, goes to the owner's chat.
set -euo pipefail
noted=$(cat notes.md)
fledgling sql data/digest.db "INSERT INTO digest VALUES (date(?1), ?2)" "${FLEDGLING_DUE:0:10}" "$noted"
echo "Your digest: $noted" | fledgling tell --channel telegram
"#;

struct Story {
    server: Server,
    telegram: Telegram,
    home: Home,
    clock: Clock,
    /// Messages that the owner was sent and has read.
    read: Cell<usize>,
}

/// Where the owner asks for the digest.
#[derive(PartialEq)]
enum Asked {
    InTheTerminal,
    InTheChat,
}

impl Story {
    fn begin() -> Self {
        let (server, telegram) = (Server::start().serves_several(), Telegram::start());
        let home = Home::new();
        let clock = Clock { file: home.cwd().join("clock") };
        clock.set(EVENING);
        let home = home.with_anthropic(&server).env("TZ", "UTC").env("PATH", PATH);
        let home = home.env("FLEDGLING_TEST_CLOCK", &clock.file);
        Self { server, telegram, home, clock, read: Cell::new(0) }
    }

    /// The words of the next message to the owner.
    fn told(&self) -> String {
        self.read.set(self.read.get() + 1);
        let sent = self.telegram.sent(self.read.get());
        let last = &sent[self.read.get() - 1];
        assert_eq!(last["chat_id"], ME.to_string(), "{last}");
        last["text"].as_str().expect("words").to_owned()
    }

    /// What the owner says in the terminal, and what the agent does about it.
    fn say(&self, terminal: &mut Terminal, words: &str, does: Vec<Reply>, ends: &str) {
        for reply in does {
            self.server.queue(reply);
        }
        self.server.queue(Reply::text(ends));
        terminal.send(&format!("{words}\r"));
        terminal.wait_text(ends);
        terminal.wait_for("the end of the turn", |screen| {
            let shown = screen.contents();
            let rest = shown.rsplit_once(ends).map(|(_, rest)| rest.to_owned());
            rest.is_some_and(|rest| rest.contains(" tokens") && rest.contains("\n> "))
        });
    }

    fn run(&self, arguments: &[&str]) -> String {
        self.home.run(arguments).stdout_any().stderr_any().check().stdout
    }

    /// All that is said until the digest has arrived.
    fn digest_arrives(&self, asked: &Asked) -> Process {
        self.home.run(&["secret", "set", "TELEGRAM_TOKEN"]).stdin(TOKEN).stderr_any().check();
        self.run(&["allow", "secret", "TELEGRAM_TOKEN"]);
        let mut terminal = Terminal::start(&self.home.command::<&str>(&[]), 120, 50);
        terminal.wait_text("> ");

        // As the skill says, but that the fake stands in the place of Telegram.
        let wire = format!(
            "mkdir -p services; fledgling help telegram-script | sed 's#https://api.telegram.org#{}#' \
             > services/telegram && chmod +x services/telegram && fledgling check services/telegram",
            self.telegram.url()
        );
        let write = |path: &str, content: &str| {
            Reply::new().call("write", json!({"path": path, "content": content}))
        };
        self.say(
            &mut terminal,
            "Wire yourself to Telegram, the token is in the secret TELEGRAM_TOKEN",
            vec![Reply::new().bash("cat skills/wire-a-channel/SKILL.md"), Reply::new().bash(&wire)],
            "Write to your bot.",
        );
        let results = self.server.asked(3)[2].results();
        let [skill, checked] = &results[..] else { panic!("{results:?}") };
        assert!(skill.contains("fledgling help telegram-script > services/telegram"), "{skill}");
        assert!(!checked.contains("BROKEN") && !checked.contains("[exit code"), "{checked}");

        self.telegram.write(ME, "hello");
        let told = self.told();
        let code = told.rsplit(' ').next().expect("a code");
        terminal.send(&format!("/pair {code}\r"));
        assert!(self.told().starts_with("We are paired."));

        fs::write(self.home.workspace("notes.md"), "Buy seeds.\n").expect("a file");
        let words =
            "Every morning at nine, send what I noted to my chat, and keep all digests in SQLite";
        let does = vec![
            write("bin/digest", DIGEST),
            Reply::new().bash(
                "chmod +x bin/digest && mkdir -p data && fledgling sql data/digest.db \
                 'CREATE TABLE digest (day TEXT PRIMARY KEY, noted TEXT)'",
            ),
            Reply::new().bash("echo '0 9 * * * digest' >> crontab"),
        ];
        let ends = "You get it every morning at nine.";
        match asked {
            Asked::InTheTerminal => self.say(&mut terminal, words, does, ends),
            Asked::InTheChat => {
                for reply in does {
                    self.server.queue(reply);
                }
                self.server.queue(Reply::text(ends));
                self.telegram.write(ME, words);
                assert_eq!(self.told(), ends);
            }
        }
        // It is in force soon after its turn.
        until("the digest is planned", || {
            self.run(&["status"]).contains("next   Sat 16 Jan 2027 09:00 UTC (in 13 h)")
        });
        terminal.send("\x04");
        terminal.wait_end();

        let host = serve(&self.home);
        self.clock.set("2027-01-16T09:00:00Z");
        assert_eq!(self.told(), "Your digest: Buy seeds.");
        self.clock.set("2027-01-16T09:01:00Z");
        let kept = "SELECT * FROM digest";
        host.wait_stderr("done");
        let kept = self.run(&["sql", "--bare", &self.database(), kept]);
        assert_eq!(kept, "2027-01-16\tBuy seeds.\n");
        assert!(
            self.home.git(&["log", "-1", "--format=%B"]).contains("\nJob: digest 2027-01-16 09:00")
        );
        host
    }

    fn database(&self) -> String {
        self.home.workspace("data/digest.db").display().to_string()
    }

    /// Nothing is left of the digest, and nothing else is gone.
    fn is_gone(&self) {
        for file in ["bin/digest", "data/digest.db", "data"] {
            assert!(!self.home.workspace(file).exists(), "{file} is still there");
        }
        assert!(!self.home.read("crontab").unwrap_or_default().contains("digest"));
        assert_eq!(self.home.read("notes.md").as_deref(), Some("Buy seeds.\n"));
        assert!(self.home.workspace("services/telegram").exists());
        let status = self.run(&["status"]);
        assert!(!status.contains("Jobs") && status.contains("telegram: owner"), "{status}");
        // The next morning comes, and nothing with it.
        self.clock.set("2027-01-17T09:30:00Z");
        self.telegram.write(ME, "/status");
        assert!(self.told().contains("Jobs: 0"));
        assert_eq!(self.home.git(&["status", "--porcelain"]), "");
        self.home.git(&["fsck", "--strict"]);
    }
}

#[test]
fn a_daily_digest_is_asked_for_arrives_and_is_taken_back_from_the_chat() {
    if !has(&["python3"]) {
        return;
    }
    let story = Story::begin();
    let host = story.digest_arrives(&Asked::InTheTerminal);
    story.telegram.write(ME, "/undo");
    let undone = story.told();
    assert!(undone.starts_with("Undone: "), "{undone}");
    story.is_gone();
    // And it can be had back, with what it had kept.
    story.run(&["redo"]);
    assert!(story.home.workspace("bin/digest").exists());
    let kept = story.run(&["sql", "--bare", &story.database(), "SELECT noted FROM digest"]);
    assert_eq!(kept, "Buy seeds.\n");
    stop(host);
}

#[test]
fn plain_words_take_back_what_was_asked_for_in_the_same_chat() {
    if !has(&["python3"]) {
        return;
    }
    let story = Story::begin();
    let host = story.digest_arrives(&Asked::InTheChat);
    // What another conversation did is the owner's to take back: with /undo.
    let find = "rev=$(fledgling log | grep 'Wire yourself' | cut -d ' ' -f 1)";
    story.server.queue(Reply::new().bash(&format!("{find}; fledgling undo $rev")));
    story.server.queue(Reply::new().bash("fledgling undo"));
    story.server.queue(Reply::text("The digest is gone."));
    story.telegram.write(ME, "Undo that");
    assert_eq!(story.told(), "The digest is gone.");
    let results = story.server.wait(0).pop().expect("a request").results();
    let [.., refused, undone] = &results[..] else { panic!("{results:?}") };
    assert!(refused.contains("only the owner may take it back"), "{refused}");
    assert!(!undone.contains("[exit code"), "{undone}");
    story.is_gone();
    stop(host);
}
