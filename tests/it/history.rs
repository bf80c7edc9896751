//! What the history promises, with the real program: whose commit a change is, what the
//! verbs show and take back, and who may.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use serde_json::{Value, json};

use crate::home::{Home, Process, Ran};
use crate::model_server::{Asked, Server};
use crate::reply::Reply;
use crate::rules::Wire;
use crate::terminal::Terminal;

/// A home in which turns of one session are made.
pub struct World {
    pub home: Home,
    pub server: Server,
}

impl World {
    pub fn new() -> Self {
        Self::with("")
    }

    /// With this in config.toml.
    pub fn with(toml: &str) -> Self {
        let server = Server::start();
        let home = Home::new().with(Wire::Anthropic, &server);
        let home = if toml.is_empty() { home } else { home.config(toml) };
        Self { home, server }
    }

    /// A turn that is asked for in these words and does this.
    pub fn turn(&self, asked: &str, command: &str) -> Ran {
        self.in_session("s", asked, command)
    }

    pub fn in_session(&self, session: &str, asked: &str, command: &str) -> Ran {
        self.server.allow_prefix_change();
        self.server.queue(Reply::new().bash(command)).queue(Reply::text("Done."));
        let run = self.home.run(&["run", "--session", session, asked]);
        run.stdout("Done.\n").stderr_any().check()
    }

    /// What the command of a turn prints.
    pub fn result(&self, asked: &str, command: &str) -> String {
        self.turn(asked, command);
        self.last().results().pop().expect("a result")
    }

    pub fn last(&self) -> Asked {
        self.server.wait(0).pop().expect("a request")
    }

    /// What the program prints.
    pub fn says(&self, arguments: &[&str]) -> String {
        self.home.run(arguments).stdout_any().stderr_any().check().stdout
    }

    /// What it complains of.
    pub fn refuses(&self, arguments: &[&str]) -> String {
        let ran = self.home.run(arguments).code(1).stdout_any().stderr_any().check();
        ran.stdout + &ran.stderr
    }

    /// What it prints as JSON, one value a line.
    pub fn json(&self, arguments: &[&str]) -> Vec<Value> {
        let said = self.says(&[&["--json"], arguments].concat());
        said.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
    }

    /// The owner changes a file.
    pub fn write(&self, file: &str, text: &str) {
        fs::write(self.home.workspace(file), text).expect("a file");
    }

    pub fn read(&self, file: &str) -> Option<String> {
        self.home.read(file)
    }

    /// The commits that touched these files: who and what, latest first.
    fn commits(&self, files: &[&str]) -> String {
        self.home.git(&[&["log", "--format=%an: %s", "--"], files].concat())
    }

    /// Nothing is left that the history does not have, and it is sound.
    pub fn clean(&self) {
        assert_eq!(self.home.git(&["status", "--porcelain"]), "");
        self.home.git(&["fsck", "--strict", "--no-dangling"]);
    }
}

fn is_executable(path: &Path) -> bool {
    path.metadata().expect("a file").permissions().mode() & 0o111 != 0
}

#[test]
fn plain_git_is_at_home_in_the_workspace() {
    let world = World::new();
    let config = world.home.cwd().join("../user/.gitconfig");
    fs::write(&config, "[user]\n\tname = Ada\n\temail = ada@example.org\n").expect("a file");
    world.turn("begin a note", "echo one > note");
    assert_eq!(world.home.git(&["status", "--porcelain"]), "");
    assert_eq!(world.home.git(&["log", "-1", "--format=%an %s"]), "fledgling begin a note\n");
    assert!(world.home.git(&["show"]).contains("+one"));
    // A commit of the owner's becomes a parent.
    world.write("mine", "mine\n");
    world.home.git(&["add", "mine"]);
    let me = ["-c", "user.name=Me", "-c", "user.email=me@x"];
    world.home.git(&[&me[..], &["commit", "--quiet", "--message", "By hand"]].concat());
    let by_hand = world.home.git(&["rev-parse", "HEAD"]);
    // And what was not committed is the owner's, under the owner's name.
    world.write("note", "edited\n");
    world.turn("go on", "cat note; echo two > other");
    assert_eq!(world.home.git(&["rev-parse", "HEAD~2"]), by_hand);
    assert_eq!(
        world.home.git(&["log", "-4", "--format=%an <%ae>: %s"]),
        "fledgling <agent@localhost>: go on\nAda <ada@example.org>: Edits outside fledgling\n\
         Me <me@x>: By hand\nfledgling <agent@localhost>: begin a note\n"
    );
    // Without a name of the owner's there is a neutral one.
    fs::remove_file(&config).expect("it is there");
    world.write("note", "again\n");
    world.says(&["log"]);
    world.turn("and on", "echo three > third");
    assert_eq!(world.commits(&["note"]).lines().next(), Some("owner: Edits outside fledgling"));
    assert_eq!(world.commits(&["third"]), "fledgling: and on\n");
    world.clean();
}

#[test]
fn a_commit_says_what_was_asked_what_was_done_and_what_it_cost() {
    let server = Server::start();
    let home = Home::new().env("ANTHROPIC_API_KEY", "test-key-not-real").config(&format!(
        "[models.a]\nwire = \"anthropic\"\nname = \"big\"\nbase_url = \"{}\"\nkey = \"ANTHROPIC_API_KEY\"\n\
         price = {{ input = 3, output = 15 }}\n",
        server.url()
    ));
    let world = World { home, server };
    for (file, said) in [("a", "I wrote a."), ("b", "I wrote b.")] {
        let usage = [100_000, 20_000, 0, 0];
        world.server.queue(Reply::new().bash(&format!("echo {file} > {file}")).usage(usage));
        world.server.queue(Reply::text(said).usage([0, 0, 0, 0]));
        let asked = format!("\nwrite {file}\nplease");
        world
            .home
            .run(&["run", "--session", "s", "--model", "a", &asked])
            .stdout_any()
            .stderr_any()
            .check();
    }
    let message = world.home.git(&["log", "-1", "--format=%B"]);
    let expected = "write b\n\nI wrote b.\n\nSession: s\nTurn: 2\nOrigin: owner\nModel: a\n\
        Tokens: 100000 in, 20001 out\nCost: 0.6000 USD\n";
    assert_eq!(message.trim_end(), expected.trim_end());
    let log = world.says(&["log"]);
    let lines: Vec<_> = log.lines().collect();
    for part in ["agent", "write b", "0.60"] {
        assert!(lines[0].contains(part), "{log}");
    }
    assert_eq!(lines.len(), 3, "{log}");
    assert_eq!(world.says(&["log", "-n", "1"]).lines().count(), 1);
    let log = world.json(&["log", "a"]);
    assert_eq!(log.len(), 1, "{log:?}");
    assert_eq!(log[0]["subject"], "write a");
    assert_eq!(
        (&log[0]["who"], &log[0]["files"], &log[0]["added"]),
        (&json!("agent"), &json!(1), &json!(1))
    );
    assert_eq!(log[0]["turn"], json!(["s", 1]));
    assert_eq!(log[0]["cost"], "0.6000 USD");
    world.clean();
}

#[test]
fn show_and_diff_tell_every_line_link_mode_and_row() {
    let world = World::new();
    world.turn(
        "make them",
        "printf 'one\\ntwo\\n' > a; echo x > tool; ln -s a link; head -c 300 /dev/zero > bin.dat; \
         fledgling sql notes.db 'create table t(id integer primary key, text)'; \
         fledgling sql notes.db \"insert into t values (1, 'milk')\"",
    );
    world.turn(
        "change them",
        "printf 'one\\n2\\n' > a; chmod +x tool; ln -sf tool link; head -c 500 /dev/zero > bin.dat; \
         fledgling sql notes.db \"insert into t values (2, 'bread')\"",
    );
    let shown = world.says(&["show"]);
    for part in ["change them", "-two", "+2", "300", "500", "bread", "tool", "link"] {
        assert!(shown.contains(part), "no {part} in {shown}");
    }
    assert!(!shown.contains("differ") && !shown.contains('\x1b'), "{shown}");
    assert!(!world.says(&["show", "HEAD~1"]).contains("bread"));
    let only = world.says(&["show", "HEAD", "a"]);
    assert!(only.contains("+2") && !only.contains("bread"), "{only}");
    // Nothing differs, until the owner edits.
    assert_eq!(world.says(&["diff"]), "No file differs.\n");
    world.write("a", "one\n2\nthree\n");
    let now = world.says(&["diff"]);
    assert!(now.contains("+three") && !now.contains("-two"), "{now}");
    let since = world.says(&["diff", "HEAD~1"]);
    assert!(
        since.contains("+three") && since.contains("-two") && since.contains("bread"),
        "{since}"
    );
    let between = world.says(&["diff", "HEAD~1", "HEAD", "notes.db"]);
    assert!(between.contains("bread") && !between.contains("-two"), "{between}");
    let here = world.says(&["diff", "--", "a"]);
    assert!(here.contains("+three"), "{here}");
    let json = world.json(&["diff", "HEAD~1", "HEAD"]);
    let kinds: Vec<_> = json[0]["files"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|file| file["path"].as_str().expect("a path").to_owned())
        .collect();
    assert_eq!(kinds, ["a", "bin.dat", "link", "notes.db", "tool"]);
    // Looking commits nothing.
    assert_eq!(world.home.git(&["status", "--porcelain", "a"]), " M a\n");
}

#[test]
fn turns_are_taken_back_and_brought_back() {
    let world = World::new();
    world.turn("one", "echo 1 > a; mkdir -p deep; echo 1 > deep/x; echo 1 > gone; ln -s nowhere link; echo 1 > swap");
    world.turn(
        "two",
        "echo 2 > a; rm gone link; chmod +x deep/x; rm swap; mkdir swap; echo 2 > swap/in",
    );
    world.turn("three", "echo 3 > b; rm -r deep; echo deep > deep");
    world.turn("talk", "true");
    let all = |world: &World| {
        world.clean();
        world.home.git(&["rev-parse", "HEAD^{tree}"])
    };
    let now = all(&world);
    let told = world.says(&["undo"]);
    assert!(told.contains("three") && told.contains("deep/x"), "{told}");
    assert_eq!((world.read("b"), world.read("deep/x").as_deref()), (None, Some("1\n")));
    assert!(is_executable(&world.home.workspace("deep/x")));
    world.clean();
    world.says(&["undo"]);
    assert_eq!(world.read("a").as_deref(), Some("1\n"));
    assert_eq!(world.read("gone").as_deref(), Some("1\n"));
    assert_eq!(world.read("swap").as_deref(), Some("1\n"));
    assert!(!is_executable(&world.home.workspace("deep/x")));
    assert_eq!(fs::read_link(world.home.workspace("link")).expect("a link"), Path::new("nowhere"));
    world.clean();
    world.says(&["redo"]);
    assert_eq!((world.read("a").as_deref(), world.read("b")), (Some("2\n"), None));
    assert_eq!(world.read("swap/in").as_deref(), Some("2\n"));
    world.says(&["redo"]);
    assert_eq!(world.read("b").as_deref(), Some("3\n"));
    assert_eq!(all(&world), now);
    assert!(world.refuses(&["redo"]).contains("nothing to redo"));
    // A redo can be taken back as any change, and brought back again.
    world.says(&["undo", "HEAD"]);
    assert_eq!(world.read("b"), None);
    let subject = world.home.git(&["log", "-1", "--format=%s"]);
    assert!(subject.starts_with("Undo: ") && !subject.contains("Redo"), "{subject}");
    world.says(&["redo"]);
    assert_eq!(all(&world), now);
    world.says(&["undo", "2"]);
    assert_eq!((world.read("a").as_deref(), world.read("b")), (Some("1\n"), None));
    let id = world.home.git(&["rev-parse", "HEAD"]);
    world.says(&["undo", id.trim()]);
    assert_eq!(all(&world), now);
    assert!(world.refuses(&["undo", "9"]).contains("only 3 turns"));
    world.says(&["undo", "3"]);
    assert_eq!(world.read("a"), None);
    assert!(world.refuses(&["undo"]).contains("nothing to undo"));
    let log = world.says(&["log"]);
    assert_eq!(log.matches("undone").count(), 7, "{log}");
    world.clean();
}

#[test]
fn restore_brings_paths_back() {
    let world = World::new();
    world.turn("one", "mkdir -p d/e; echo 1 > a; echo 1 > d/e/x; echo 1 > d/y; chmod +x d/y");
    let first = world.home.git(&["rev-parse", "HEAD"]);
    let first = first.trim();
    world.turn("two", "rm -r d; echo 2 > a; echo 2 > b");
    world.write("a", "mine\n");
    world.says(&["restore", first, "d", "b"]);
    assert_eq!((world.read("d/e/x").as_deref(), world.read("b")), (Some("1\n"), None));
    assert!(is_executable(&world.home.workspace("d/y")));
    assert_eq!(world.read("a").as_deref(), Some("mine\n"));
    assert_eq!(world.commits(&["a"]).lines().next(), Some("owner: Edits outside fledgling"));
    world.says(&["restore", first]);
    assert_eq!(world.read("a").as_deref(), Some("1\n"));
    world.says(&["undo", "HEAD"]);
    assert_eq!(world.read("a").as_deref(), Some("mine\n"));
    assert!(world.refuses(&["restore", first, "never"]).contains("neither in that commit"));
    assert!(world.refuses(&["restore", "nonsense"]).contains("nonsense"));
    world.clean();
}

#[test]
fn later_changes_in_the_way_are_shown_and_the_owner_chooses() {
    for (choice, after) in [("--theirs", "one\n"), ("--ours", "mine\n"), ("--marks", "<<<<<<<")] {
        let world = World::new();
        world.turn("one", "echo one > a; echo one > other");
        world.turn("two", "echo two > a; echo two > other");
        world.write("a", "mine\n");
        let head = world.home.git(&["rev-parse", "HEAD"]);
        let told = world.refuses(&["undo"]);
        for part in [
            "later changes are in the way",
            "-mine",
            "+one",
            "fledgling undo 1 --theirs",
            "--ours",
            "--marks",
        ] {
            assert!(told.contains(part), "no {part} in {told}");
        }
        // Nothing was done but that the owner's edit is safe.
        assert_eq!(
            (world.read("a").as_deref(), world.read("other").as_deref()),
            (Some("mine\n"), Some("two\n"))
        );
        assert_eq!(world.home.git(&["rev-parse", "HEAD~1"]), head);
        assert_eq!(world.home.git(&["log", "-1", "--format=%an"]), "owner\n");
        world.says(&["undo", choice]);
        let a = world.read("a").expect("a file");
        assert!(
            if choice == "--marks" {
                a.contains(after) && a.contains("mine") && a.contains("one")
            } else {
                a == after
            },
            "{a}"
        );
        assert_eq!(world.read("other").as_deref(), Some("one\n"));
        world.clean();
    }
}

#[test]
fn an_owners_commit_is_taken_back_by_name_only() {
    let world = World::new();
    world.turn("one", "printf 'a\\nb\\nc\\nd\\ne\\n' > a");
    world.write("a", "A\nb\nc\nd\ne\n");
    world.turn("two", "sed -i s/e/E/ a");
    let owners = world.home.git(&["rev-parse", "HEAD~1"]);
    world.says(&["undo", owners.trim()]);
    assert_eq!(world.read("a").as_deref(), Some("a\nb\nc\nd\nE\n"));
    assert!(world.refuses(&["undo", owners.trim()]).contains("already"));
    world.says(&["undo"]);
    assert_eq!(world.read("a").as_deref(), Some("a\nb\nc\nd\ne\n"));
    world.clean();
}

#[test]
fn what_cannot_be_taken_back_is_named_and_the_session_knows() {
    let world = World::with("[history]\nfile_mb = 1\n");
    let ran =
        world.turn("one", "echo hi > a; echo b > dir; head -c 1500000 /dev/zero > big; true sent");
    assert!(ran.stderr.contains("big"), "{ran}");
    let told = world.says(&["undo"]);
    assert!(told.contains("echo hi > a") && told.contains("cannot take back"), "{told}");
    assert!(world.home.workspace("big").exists());
    world.turn("and now?", "true");
    let heard = world.last().heard();
    assert!(
        heard.contains("undid turn 1 of this session") && heard.contains("a (removed)"),
        "{heard}"
    );
    world.says(&["redo"]);
    world.turn("and now?", "true");
    assert!(world.last().heard().contains("put back again"), "{}", world.last().heard());
    // What is too large or ignored is in the way, and stays.
    world.turn(
        "two",
        "rm a dir; mkdir dir; echo 2 > dir/x; mkdir dir/node_modules; echo x > dir/node_modules/y",
    );
    let told = world.says(&["undo"]);
    assert!(told.contains("dir: a folder is in its place"), "{told}");
    assert_eq!(world.read("a").as_deref(), Some("hi\n"));
    assert!(world.home.workspace("dir/node_modules/y").exists());
    world.turn("three", "echo 3 > a");
    world.turn("four", "head -c 1500000 /dev/zero > a");
    let told = world.refuses(&["undo"]);
    assert!(told.contains("a: what is there now is not what the history has"), "{told}");
    assert_eq!(world.home.workspace("a").metadata().expect("a file").len(), 1_500_000);
}

#[test]
fn a_database_comes_back_under_whoever_has_it_open() {
    let world = World::new();
    world.turn(
        "a store",
        "fledgling sql s.db 'pragma journal_mode=wal; create table t(x); insert into t values (1)'",
    );
    world.turn("more", "fledgling sql s.db 'insert into t values (2)'");
    let path = world.home.workspace("s.db").display().to_string();
    let mut live = Process::start(world.home.command(&["sql", "--bare", &path]));
    live.send(b"select 'sum', sum(x) from t;\n");
    live.wait_stdout("sum\t3");
    world.says(&["undo"]);
    live.send(b"select 'again', sum(x) from t; insert into t values (10); select 'wrote', sum(x) from t;\n");
    live.wait_stdout("again\t1");
    live.wait_stdout("wrote\t11");
    let diff = world.says(&["diff"]);
    assert!(diff.contains("10"), "{diff}");
    live.end();
    world.refuses(&["redo"]);
    world.says(&["redo", "--theirs"]);
    assert_eq!(world.says(&["sql", "--bare", &path, "select sum(x) from t"]), "3\n");
    assert_eq!(world.says(&["diff"]), "No file differs.\n");
}

#[test]
fn the_agent_looks_and_takes_back_what_it_did_itself() {
    let world = World::new();
    world.in_session("other", "the secret of others", "echo theirs > theirs");
    world.write("owners", "mine\n");
    world.turn("mine", "echo mine > own");
    let log = world.result("look", "fledgling log 2>&1; fledgling diff HEAD~1 HEAD 2>&1");
    assert!(log.contains("mine") && log.contains("+mine"), "{log}");
    let why = world.result("why", "fledgling why own 2>&1; fledgling why theirs:1 --full 2>&1");
    assert!(why.contains("> mine") && why.contains("not for this session"), "{why}");
    assert!(!why.contains("echo theirs >"), "{why}");
    let other = world.home.git(&["log", "-1", "--format=%H", "--", "theirs"]);
    let owners = world.home.git(&["log", "-1", "--format=%H", "--", "owners"]);
    for rev in [other.trim(), owners.trim()] {
        let said = world.result("theirs", &format!("fledgling undo {rev} 2>&1"));
        assert!(said.contains("not a change of this session"), "{said}");
    }
    for command in ["merge x", "drop x", "backup /tmp/x"] {
        let said = world.result("owner's", &format!("fledgling {command} 2>&1"));
        assert!(said.contains("only the owner"), "{command}: {said}");
    }
    let said = world.result("oops", "fledgling undo 2>&1; cat own 2>&1");
    assert!(said.contains("Taken back") && said.contains("No such file"), "{said}");
    assert_eq!(world.read("own"), None);
    assert_eq!(world.read("theirs").as_deref(), Some("theirs\n"));
    let said = world.result("oops", "fledgling undo 2>&1");
    assert!(said.contains("nothing to undo"), "{said}");
    let said = world.result("oops", "fledgling redo 2>&1; cat own");
    assert!(said.ends_with("mine\n"), "{said}");
    // What this very turn has written is not in its way, and nothing of it is lost.
    let said = world.result("again", "echo more >> own; fledgling undo 2>&1");
    assert!(said.contains("own: what is there now is not what the history has"), "{said}");
    assert_eq!(world.read("own").as_deref(), Some("mine\nmore\n"));
    world.clean();
}

#[test]
fn what_a_turn_took_back_and_put_back_itself_goes_with_it() {
    let world = World::new();
    world.turn("one", "echo 1 > a");
    world.turn("two", "echo 2 > a");
    world.turn("back", "fledgling undo; echo b > b");
    assert_eq!(
        [world.read("a").as_deref(), world.read("b").as_deref()],
        [Some("1\n"), Some("b\n")]
    );
    let rev = world.home.git(&["log", "-1", "--format=%H", "--grep=^Undo"]);
    let told = world.home.git(&["log", "-1", "--format=%B", rev.trim()]);
    assert!(told.contains("\nTurn: 3\nOrigin: agent:"), "{told}");
    world.says(&["undo"]);
    assert_eq!([world.read("a").as_deref(), world.read("b").as_deref()], [Some("2\n"), None]);
    world.says(&["redo"]);
    assert_eq!(
        [world.read("a").as_deref(), world.read("b").as_deref()],
        [Some("1\n"), Some("b\n")]
    );
    world.says(&["undo"]);
    // Put back, taken back and put back once more, and nothing besides.
    let two = world.home.git(&["log", "--format=%H", "--grep=^one", "--", "a"]);
    let restore = format!("fledgling restore {} a 2>&1", two.trim());
    let said =
        world.result("both", &format!("{restore}; fledgling undo 2>&1; cat a; {restore}; cat a"));
    assert!(said.contains("\n2\n") && said.ends_with("1\n"), "{said}");
    world.says(&["undo"]);
    assert_eq!(world.read("a").as_deref(), Some("2\n"));
    world.clean();
}

#[test]
fn why_leads_to_the_words_that_asked() {
    let world = World::new();
    world.turn("write a list of birds", "printf 'wren\\nrobin\\n' > birds");
    world.turn("add the owl\nand be quick", "echo owl >> birds");
    let told = world.says(&["why", "birds:3"]);
    for part in ["> add the owl", "> and be quick", "echo owl", "Done."] {
        assert!(told.contains(part), "no {part} in {told}");
    }
    assert!(!told.contains("list of birds"), "{told}");
    let told = world.says(&["why", "birds"]);
    assert!(told.contains("list of birds") && told.contains("2 lines"), "{told}");
    let full = world.says(&["why", "birds:1", "--full"]);
    assert!(full.contains("printf") && full.contains("bash"), "{full}");
    world.says(&["undo"]);
    world.says(&["redo"]);
    let told = world.says(&["why", "birds:3"]);
    assert!(told.contains("> add the owl"), "{told}");
    assert!(world.refuses(&["why", "birds:9"]).contains("lines 1 to 3"));
    assert!(world.refuses(&["why", "fish"]).contains("never in the history"));
    let json = world.json(&["why", "birds:3"]);
    assert_eq!(json[0]["asked"], json!(["add the owl\nand be quick"]));
}

#[test]
fn secrets_stay_out_of_the_history() {
    const KEY: &str = "test-key-not-real";
    const MAIL: &str = "very-secret-mail-key";
    const OTHER: &str = "another-key-not-real";
    let token = format!("ghp_{}", "a1B2c3D4e5F6".repeat(3));
    let world = World::new();
    world.says(&["log"]);
    let secrets = format!("MAIL_KEY = \"{MAIL}\"\nANTHROPIC_API_KEY = \"{OTHER}\"\n");
    fs::write(world.home.path("secrets.toml"), secrets).expect("a file");
    // Cut in two, so that the command itself does not say it.
    let write = |value: &str, file: &str| {
        let (begin, end) = value.split_at(8);
        format!("printf 'x=%s%s\\n' {begin} {end} > {file}; ")
    };
    let known = [(KEY, "env"), (MAIL, "mail"), (OTHER, "file"), (&*token, "hub")];
    let all: String = known.iter().map(|(value, file)| write(value, file)).collect();
    let ran = world.turn("keep them", &(all + "echo fine > fine"));
    for part in [
        "env (it holds the secret ANTHROPIC_API_KEY)",
        "mail (it holds the secret MAIL_KEY)",
        "file (it holds the secret ANTHROPIC_API_KEY)",
        "hub (it holds what looks like a GitHub token)",
    ] {
        assert!(ran.stderr.contains(part), "no {part} in {ran}");
    }
    let store = || {
        world.home.git(&["log", "--patch", "--all"])
            + &world.home.git(&["cat-file", "--batch-all-objects", "--batch", "--unordered"])
    };
    for (value, _) in known {
        assert!(!ran.to_string().contains(value), "{ran}");
        assert!(!store().contains(value));
    }
    assert!(store().contains("fine") && world.home.git(&["log", "-1"]).contains("Left out: "));
    // Also as JSON.
    world.server.queue(Reply::new().bash(&write(KEY, "again"))).queue(Reply::text("Done."));
    let run = world.home.run(&["run", "--json", "--session", "s", "once more"]);
    let ran = run.stdout_any().stderr_any().check();
    let ended: Vec<_> = ran.stdout.lines().filter(|line| line.contains("turn_ended")).collect();
    assert!(ended[0].contains("again (it holds the secret ANTHROPIC_API_KEY)"), "{ran}");
    // Undo has nothing to put there, and takes nothing away.
    world.says(&["undo"]);
    assert!(world.home.workspace("env").exists() && !world.home.workspace("fine").exists());
    // The owner knows better.
    let config = "[history]\nsecrets_in = [\"hub\"]\n";
    fs::write(world.home.path("config.toml"), config).expect("a file");
    world.turn("go on", "true");
    assert!(store().contains(&token) && !store().contains(KEY));
    // A file that was harmless, and is not any more, stays as it was in history.
    world.turn("a file", "echo harmless > conf");
    let ran = world.turn("fill it", &(write(KEY, "conf") + "echo 1 > beside"));
    assert!(ran.stderr.contains("conf (it holds"), "{ran}");
    assert_eq!(world.home.git(&["show", "HEAD:conf"]), "harmless\n");
    let told = world.says(&["undo", "2"]);
    assert!(told.contains("conf: what is there now is not what the history has"), "{told}");
    assert_eq!(world.read("conf"), Some(format!("x={KEY}\n")));
    world.says(&["diff"]);
    assert!(!store().contains(KEY));
}

#[test]
fn secrets_that_are_said_stay_out_of_commits() {
    let world = World::new();
    world.server.queue(Reply::new().bash("echo 1 > a"));
    world.server.queue(Reply::text("I used test-key-not-real."));
    let asked = "use test-key-not-real";
    world.home.run(&["run", asked]).stdout_any().stderr_any().check();
    let message = world.home.git(&["log", "-1", "--format=%B"]);
    let marker = "[secret ANTHROPIC_API_KEY withheld]";
    let expected = format!("use {marker}\n\nI used {marker}.\n\nSession: ");
    assert!(message.starts_with(&expected), "{message}");
}

#[test]
fn bisect_finds_the_change_that_broke_it() {
    let world = World::new();
    for (count, command) in [
        "echo 'exit 0' > check.sh",
        "echo 1 > x",
        "echo 'exit 1' > check.sh",
        "echo 2 > x",
        "echo 3 > x",
    ]
    .into_iter()
    .enumerate()
    {
        world.turn(&format!("turn {count}"), command);
    }
    world.write("unsaved", "mine\n");
    let before = world.home.git(&["rev-parse", "HEAD"]);
    let ran = world
        .home
        .run(&["bisect", "--", "test ! -e check.sh || sh check.sh"])
        .stdout_any()
        .stderr_any()
        .check();
    assert!(ran.stdout.contains("turn 2") && !ran.stdout.contains("turn 3"), "{ran}");
    assert!(ran.stderr.contains("trying"), "{ran}");
    assert_eq!(world.home.git(&["rev-parse", "HEAD"]), before);
    assert_eq!(world.read("check.sh").as_deref(), Some("exit 1\n"));
    let found = world.json(&["bisect", "--", "sh", "-c", "test ! -e check.sh || sh check.sh"]);
    assert_eq!(found.last().expect("an answer")["change"]["subject"], "turn 2");
    assert_eq!(fs::read_dir(world.home.path("scratch")).expect("a folder").count(), 0);
    // Its command has no door: neither this one nor the owner's, also where a hand asks.
    let command = "! fledgling undo > /dev/null && { test ! -e check.sh || sh check.sh; }";
    let found = world.json(&["bisect", "--", command]);
    assert_eq!(found.last().expect("an answer")["change"]["subject"], "turn 2");
    let said = world.result("find it", &format!("fledgling bisect -- {command:?} 2>&1"));
    assert!(said.contains("turn 2"), "{said}");
    assert_eq!(world.read("check.sh").as_deref(), Some("exit 1\n"));
    let said = world.refuses(&["bisect", "--", "true"]);
    assert!(said.contains("nothing is broken now"), "{said}");
}

#[test]
fn fledgling_git_runs_nothing_that_lies_in_the_workspace() {
    let world = World::new();
    let ran = world.home.cwd().join("../ran").display().to_string();
    world.turn("one", "echo one > a");
    let evil = format!(
        "rm .git; mkdir -p evil/objects evil/refs; echo 'ref: refs/heads/main' > evil/HEAD; \
         printf '[core]\\n\\tfsmonitor = touch {ran}\\n\\tpager = touch {ran}\\n[alias]\\n\\tlog = !touch {ran}\\n' > evil/config; \
         echo \"gitdir: $PWD/evil\" > .git; echo '* diff=evil filter=evil' > .gitattributes"
    );
    let told = world.turn("forge it", &evil);
    assert_eq!(world.read(".git").as_deref(), Some("gitdir: ../history.git\n"));
    assert!(told.stderr.contains(".git"), "{told}");
    world.write(".git", &format!("gitdir: {}\n", world.home.workspace("evil").display()));
    for arguments in [&["git", "log", "--oneline"][..], &["git", "status"], &["git", "diff"]] {
        let run = world.home.run(arguments).stdout_any().stderr_any().check();
        assert!(!run.stdout.is_empty() || arguments[1] == "diff", "{run}");
    }
    assert!(!Path::new(&ran).exists());
    world.home.run(&["git", "nonsense"]).code(1).stderr_any().check();
    // A folder or a link in its place goes the same way.
    fs::remove_file(world.home.workspace(".git")).expect("it is there");
    symlink("evil", world.home.workspace(".git")).expect("a link");
    world.turn("go on", "true");
    assert_eq!(world.read(".git").as_deref(), Some("gitdir: ../history.git\n"));
    world.clean();
}

#[test]
fn a_running_host_takes_back_what_others_did() {
    let world = World::new();
    world.turn("one", "echo 1 > a; echo 1 > b");
    world.turn("two", "echo 2 > a");
    world.server.allow_prefix_change();
    let gate = crate::reply::Gate::new();
    world
        .server
        .queue(Reply::new().bash("echo running > r; cat a"))
        .queue(Reply::text("So. ").wait(&gate).and("Done."));
    let host = world.home.spawn(&["run", "--session", "other", "long"]);
    gate.reached();
    world.says(&["undo"]);
    assert_eq!(
        (world.read("a").as_deref(), world.read("r").as_deref()),
        (Some("1\n"), Some("running\n"))
    );
    assert_eq!(
        world.home.git(&["show", "--format=%an: %s", "--name-only"]),
        "owner: Undo: two\n\na\n"
    );
    gate.open();
    let ran = host.end();
    assert!(ran.status.success(), "{ran}");
    assert_eq!(
        world.home.git(&["show", "--format=%an: %s", "--name-only"]),
        "fledgling: long\n\nr\n"
    );
    world.says(&["undo"]);
    world.says(&["redo"]);
    world.turn("and s?", "true");
    assert!(
        world.last().heard().contains("undid turn 2 of this session"),
        "{}",
        world.last().heard()
    );
    world.clean();
}

#[test]
fn the_conversation_takes_back_too_and_git_agrees() {
    let world = World::new();
    let replies =
        [("echo 1 > a; echo 1 > b", "One."), ("echo 2 > a; rm b; mkdir d; echo 1 > d/x", "Two.")];
    for (command, said) in replies {
        world.server.queue(Reply::new().bash(command)).queue(Reply::text(said));
    }
    let mut talk = Terminal::start(&world.home.command(&["--session", "s"]), 80, 90);
    let mut say = |line: &str, answer: &str| {
        talk.wait_text(">");
        talk.send(&format!("{line}\r"));
        talk.wait_for(answer, |screen| {
            screen.contents().contains(answer) && screen.contents().trim_end().ends_with('>')
        });
    };
    say("first", "One.");
    say("second", "Two.");
    say("/undo", "Taken back");
    let state = || (world.read("a"), world.read("b"), world.read("d/x"));
    let text = |text: &str| Some(text.to_owned());
    assert_eq!(state(), (text("1\n"), text("1\n"), None));
    world.clean();
    say("/redo", "Brought back");
    assert_eq!(state(), (text("2\n"), None, text("1\n")));
    world.clean();
    say("/undo 2", "a: removed");
    say("/log", "Undo: 2 changes");
    assert_eq!(state(), (None, None, None));
    world.clean();
}

#[test]
fn an_undo_that_can_put_nothing_back_says_so() {
    let world = World::with("[history]\nfile_mb = 1\n");
    world.turn("one", "echo 1 > a");
    world.turn("two", "head -c 1500000 /dev/zero > a");
    let before = world.home.git(&["rev-parse", "HEAD"]);
    let told = world.refuses(&["undo"]);
    assert!(told.contains("There was nothing to do.") && told.contains("a: what is"), "{told}");
    assert!(world.says(&["log", "never"]).contains("never has never been in the history"));
    assert_eq!(world.home.git(&["rev-parse", "HEAD"]), before);
    // It is not taken back, and can be once nothing is in the way.
    world.write("a", "1\n");
    world.says(&["undo"]);
    assert_eq!(world.read("a"), None);
    world.clean();
}

#[test]
fn what_the_history_leaves_out_stays_and_does_not_hold_up_an_undo() {
    let world = World::new();
    let app = "mkdir app; echo 1 > app/main; mkdir app/__pycache__; echo c > app/__pycache__/c";
    world.turn("one", app);
    let told = world.says(&["undo"]);
    assert!(told.contains("redo reverses it") && told.contains("app: it still holds"), "{told}");
    assert_eq!(world.read("app/main"), None);
    assert!(world.refuses(&["undo"]).contains("nothing to undo"));
    world.says(&["redo"]);
    assert_eq!(world.read("app/main").as_deref(), Some("1\n"));
    world.clean();
}

#[test]
fn a_file_that_is_only_called_like_a_journal_is_not_lost() {
    let world = World::new();
    world.turn("one", "fledgling sql work 'CREATE TABLE one(a)'; echo 1 > a");
    world.write("work-journal", "dear diary");
    assert!(world.turn("two", "true").stderr.contains("work-journal"));
    // SQLite would remove it: so what it lies beside is left alone.
    let told = world.says(&["undo"]);
    assert!(told.contains("give it another name") && !told.contains("redo reverses"), "{told}");
    assert_eq!(world.read("work-journal").as_deref(), Some("dear diary"));
    assert!(world.home.workspace("work").exists() && world.read("a").is_none());
    fs::rename(world.home.workspace("work-journal"), world.home.workspace("diary")).expect("moved");
    world.says(&["undo"]);
    assert!(!world.home.workspace("work").exists());
    assert_eq!(world.read("diary").as_deref(), Some("dear diary"));
    world.clean();
}

#[test]
fn what_was_left_out_with_its_folder_is_not_the_owners() {
    let world = World::new();
    world.turn("one", "mkdir data; echo hand > data/f; echo data/ > .gitignore");
    fs::remove_file(world.home.workspace(".gitignore")).expect("a file");
    world.turn("two", "true");
    let commits = world.commits(&["data/f"]);
    assert_eq!(commits.trim_end(), "fledgling: Changes of unknown origin");
}

#[test]
fn a_very_deep_folder_is_left_out_and_named() {
    let world = World::new();
    let deep = "p=.; for i in $(seq 40); do p=$p/$(printf 'd/%.0s' $(seq 40)); done; \
         mkdir -p $p; echo x > $p/f; echo x > f";
    let ran = world.turn("one", deep);
    assert!(ran.stderr.contains("folders deep"), "{ran}");
    assert!(world.says(&["show"]).contains("f: new"));
    world.says(&["undo"]);
    assert_eq!(world.read("f"), None);
}

#[test]
fn what_two_turns_did_to_a_line_that_is_as_before_is_in_nobodys_way() {
    let world = World::new();
    world.turn("begin", "echo x > f");
    world.turn("one", "echo 1 > f; echo a > a");
    world.write("other", "mine\n");
    world.turn("two", "echo 2 > f");
    world.write("f", "x\n");
    let told = world.says(&["undo", "2"]);
    assert!(told.contains("a: removed"), "{told}");
    assert_eq!((world.read("a"), world.read("f").as_deref()), (None, Some("x\n")));
    world.clean();
}

/// What a kill leaves in the middle of an undo of the latest turn.
fn cut_off_undo(world: &World) {
    let [base, to] = ["HEAD", "HEAD~1^{tree}"].map(|rev| world.home.git(&["rev-parse", rev]));
    let plan = serde_json::json!({
        "base": base.trim(), "to": to.trim(), "owner": true, "subject": "Undo: one", "body": "",
        "trailers": [], "merged": null, "temporary": ".fledgling-0.tmp",
    });
    fs::write(world.home.path("history.git/step.json"), plan.to_string()).expect("a plan");
    fs::remove_file(world.home.workspace("a")).expect("a file");
}

#[test]
fn a_killed_step_is_finished_and_leaves_nothing_half_written() {
    let world = World::new();
    world.turn("one", "mkdir d; echo 1 > a; echo 1 > d/b");
    cut_off_undo(&world);
    world.write("d/.fledgling-0.tmp", "hal");
    let ran = world.turn("two", "true");
    assert!(ran.stderr.contains("What a kill had cut off is done: Undo: one"), "{ran}");
    assert!(!world.home.workspace("d").exists());
    world.clean();
}

#[test]
fn a_killed_step_over_which_git_moved_on_is_not_the_owners() {
    let world = World::new();
    world.turn("one", "echo 1 > a; echo 1 > b");
    cut_off_undo(&world);
    let me = ["-c", "user.name=me", "-c", "user.email=me@localhost"];
    world.home.git(&[&me[..], &["commit", "--allow-empty", "-qm", "mine"]].concat());
    let ran = world.turn("two", "true");
    assert!(ran.stderr.contains("could not be finished"), "{ran}");
    let commits = world.commits(&["a"]);
    assert!(commits.starts_with("fledgling: Changes of unknown origin"), "{commits}");
    assert_eq!(world.read("b").as_deref(), Some("1\n"));
}
