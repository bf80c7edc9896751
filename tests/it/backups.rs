//! The history elsewhere, and on branches: backups, homes brought back from them, branches
//! that are merged or dropped.

use std::fs;
use std::path::Path;

use crate::history::World;
use crate::reply::Reply;

/// The names in a folder, sorted.
fn names(folder: &Path) -> Vec<String> {
    let items = fs::read_dir(folder).expect("a folder");
    let mut names: Vec<_> = items
        .map(|item| item.expect("an item").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

#[test]
fn a_home_comes_back_from_its_backup() {
    let world = World::new();
    world.turn("one", "echo 1 > a; echo x > tool; chmod +x tool; ln -s a link; fledgling sql s.db 'create table t(x); insert into t values (7)'");
    let disk = world.home.cwd().join("../disk").display().to_string();
    let told = world.says(&["backup", &disk]);
    assert!(told.contains("Backed up to"), "{told}");
    world.turn("two", "echo 2 > a");
    world.says(&["backup", &disk]);
    let log = world.says(&["log"]);
    let fresh = world.home.cwd().join("../fresh");
    let place = fresh.display().to_string();
    world.home.run(&["init", "--home", &place, "--from", &disk]).stdout_any().stderr_any().check();
    assert_eq!(world.says(&["log", "--home", &place]), log);
    assert_eq!(fs::read_to_string(fresh.join("workspace/a")).expect("a file"), "2\n");
    assert_eq!(world.says(&["diff", "--home", &place]), world.says(&["diff"]));
    let db = fresh.join("workspace/s.db").display().to_string();
    assert_eq!(world.says(&["sql", "--bare", &db, "select x from t"]), "7\n");
    world.server.allow_prefix_change();
    world.server.queue(Reply::new().bash("echo 3 > a")).queue(Reply::text("Done."));
    world.home.run(&["run", "--home", &place, "three"]).stdout("Done.\n").stderr_any().check();
    world.says(&["undo", "--home", &place, "2"]);
    assert_eq!(fs::read_to_string(fresh.join("workspace/a")).expect("a file"), "1\n");
    // The two have grown apart.
    world.turn("three here", "echo 4 > a");
    world.says(&["backup", &disk]);
    let told = world.refuses(&["backup", &disk, "--home", &place]);
    assert!(told.contains("overwrites nothing"), "{told}");
    // Not over a home that is one.
    let told = world.refuses(&["init", "--home", &place, "--from", &disk]);
    assert!(told.contains("already"), "{told}");
    assert_eq!(
        world.says(&["doctor", "--drill"]).lines().filter(|line| line.starts_with("ok")).count(),
        3
    );
}

#[test]
fn a_broken_backup_brings_nothing_back() {
    let world = World::new();
    world.turn("one", "seq 1000 > a");
    let disk = world.home.cwd().join("../disk");
    world.says(&["backup", &disk.display().to_string()]);
    let mut objects = vec![disk.join("objects")];
    let mut broken = 0;
    while let Some(folder) = objects.pop() {
        for item in fs::read_dir(folder).expect("a folder").flatten() {
            let path = item.path();
            if path.is_dir() {
                objects.push(path);
            } else if path.extension().is_none_or(|end| end == "pack") && !path.ends_with("packs") {
                let mut bytes = fs::read(&path).expect("a file");
                let at = bytes.len() / 2;
                bytes[at] ^= 0xff;
                let _ = fs::remove_file(&path);
                fs::write(&path, bytes).expect("a file");
                broken += 1;
            }
        }
    }
    assert!(broken > 0);
    let fresh = world.home.cwd().join("../fresh");
    let place = fresh.display().to_string();
    let told = world.refuses(&["init", "--home", &place, "--from", &disk.display().to_string()]);
    assert!(told.contains("cannot bring a home back"), "{told}");
    let left = names(&fresh);
    assert!(
        !left.iter().any(|name| name.contains("history")
            || name.contains("restored")
            || name == "workspace"),
        "{left:?}"
    );
    // Nor from where there is none.
    world.refuses(&["init", "--home", &place, "--from", "/nowhere/at/all"]);
}

#[test]
fn every_turn_is_backed_up_where_that_is_wished() {
    let parent = tempfile::TempDir::new().expect("a folder");
    let disk = parent.path().join("disk");
    let config = format!("[history]\nbackup = \"{}\"\n", disk.display());
    let world = World::with(&config);
    world.turn("one", "echo 1 > a");
    let at = || {
        let head = fs::read_to_string(disk.join("refs/heads/main"));
        head.unwrap_or_default()
    };
    assert_eq!(at(), world.home.git(&["rev-parse", "main"]));
    world.turn("two", "echo 2 > a");
    assert_eq!(at(), world.home.git(&["rev-parse", "main"]));
    // One that fails is told by the next start.
    fs::remove_dir_all(&disk).expect("it is there");
    fs::write(&disk, "a file").expect("a file");
    world.turn("three", "echo 3 > a");
    let ran = world.turn("four", "echo 4 > a");
    assert!(ran.stderr.contains("The last backup failed"), "{ran}");
    fs::remove_file(&disk).expect("it is there");
    // The owner's own makes good for it.
    world.says(&["backup"]);
    // Others may read the settings of these tests, which is bad, and all that is.
    let told = world.refuses(&["doctor"]);
    assert!(told.contains("after each turn") && !told.contains("backup failed"), "{told}");
    world.turn("five", "echo 5 > a");
    let ran = world.turn("six", "true");
    assert!(!ran.stderr.contains("backup failed"), "{ran}");
    assert_eq!(at(), world.home.git(&["rev-parse", "main"]));
}

#[test]
fn the_drill_leaves_nothing_behind() {
    let temp = tempfile::TempDir::new().expect("a folder");
    let world = World::new();
    world.turn("one", "echo 1 > a");
    let before = world.home.git(&["rev-parse", "HEAD"]);
    let run =
        world.home.run(&["doctor", "--drill"]).env("TMPDIR", &temp.path().display().to_string());
    let ran = run.stdout_any().check();
    assert_eq!(ran.stdout.lines().filter(|line| line.starts_with("ok")).count(), 3, "{ran}");
    assert_eq!(names(temp.path()), Vec::<String>::new());
    assert_eq!(world.home.git(&["rev-parse", "HEAD"]), before);
    assert_eq!(fs::read_dir(world.home.path("scratch")).expect("a folder").count(), 0);
}

#[test]
fn a_branch_is_looked_at_and_then_merged_or_dropped() {
    let world = World::new();
    world.turn("one", "printf 'a\\nb\\nc\\n' > a; echo 1 > gone");
    let on_branch = |name: &str, asked: &str, command: &str| {
        world.server.allow_prefix_change();
        world.server.queue(Reply::new().bash(command)).queue(Reply::text("Done."));
        world.home.run(&["run", "--branch", name, asked]).stdout("Done.\n").stderr_any().check();
    };
    on_branch("idea", "try it", "sed -i s/c/C/ a; rm gone; echo new > new");
    world.write("a", "A\nb\nc\n");
    let diff = world.says(&["diff", "main", "idea"]);
    assert!(diff.contains("+C") && diff.contains("+new"), "{diff}");
    world.says(&["merge", "idea"]);
    assert_eq!(world.read("a").as_deref(), Some("A\nb\nC\n"));
    assert_eq!((world.read("gone"), world.read("new").as_deref()), (None, Some("new\n")));
    assert!(!world.home.path("branches/idea").exists());
    assert_eq!(world.home.git(&["branch", "--format=%(refname:short)"]), "main\n");
    let told = world.says(&["why", "a:3"]);
    assert!(told.contains("> try it"), "{told}");
    world.clean();
    // A merge is undone as any commit.
    world.says(&["undo", "HEAD"]);
    assert_eq!(
        (world.read("a").as_deref(), world.read("gone").as_deref()),
        (Some("A\nb\nc\n"), Some("1\n"))
    );
    world.clean();
    on_branch("bad", "another", "echo branch > a");
    world.write("a", "main\n");
    let told = world.refuses(&["merge", "bad"]);
    assert!(told.contains("in the way") && told.contains("fledgling merge bad --theirs"), "{told}");
    assert_eq!(world.read("a").as_deref(), Some("main\n"));
    assert!(world.home.path("branches/bad").exists());
    world.says(&["merge", "bad", "--theirs"]);
    assert_eq!(world.read("a").as_deref(), Some("branch\n"));
    on_branch("drop-me", "third", "echo third > a");
    world.says(&["drop", "drop-me"]);
    assert_eq!(world.read("a").as_deref(), Some("branch\n"));
    assert!(!world.home.path("branches/drop-me").exists());
    assert!(world.refuses(&["drop", "drop-me"]).contains("drop-me"));
    world.clean();
}

#[test]
fn what_lies_in_a_checkout_goes_with_the_branch() {
    let world = World::new();
    world.turn("one", "echo 1 > a");
    let on_branch = |name: &str, command: &str| {
        world.server.allow_prefix_change();
        world.server.queue(Reply::new().bash(command)).queue(Reply::text("Done."));
        world.home.run(&["run", "--branch", name, "try"]).stdout("Done.\n").stderr_any().check();
    };
    on_branch(
        "idea",
        "echo 2 > a; echo 'x=test-key-'not-real > env; mkdir -p node_modules; echo 1 > node_modules/x",
    );
    fs::write(world.home.path("branches/idea/unsaved"), "mine\n").expect("a file");
    world.says(&["merge", "idea"]);
    assert_eq!(world.read("unsaved").as_deref(), Some("mine\n"));
    assert_eq!(world.home.git(&["log", "-1", "--format=%an", "--", "unsaved"]), "owner\n");
    on_branch("other", "echo 3 > a");
    fs::write(world.home.path("branches/other/unsaved"), "more\n").expect("a file");
    let told = world.says(&["drop", "other"]);
    assert!(
        told.contains("`fledgling git branch other refs/dropped/other` brings it back"),
        "{told}"
    );
    assert_eq!(world.home.git(&["show", "refs/dropped/other:unsaved"]), "more\n");
    // What is typed in a branch's folder is about that folder.
    on_branch("fourth", "mkdir d; echo 4 > d/x");
    let at = |arguments: &[&str]| {
        let mut command = world.home.command(arguments);
        let output = command.current_dir(world.home.path("branches/fourth/d")).output();
        let output = output.expect("it runs");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("a text")
    };
    assert_eq!(at(&["git", "branch", "--show-current"]), "fourth\n");
    assert_eq!(at(&["git", "status", "--porcelain"]), "");
    assert!(at(&["diff", "main", "fourth", "--", "x"]).contains("d/x"));
    world.says(&["drop", "fourth"]);
    // An agent on a branch takes back what it did there.
    on_branch("third", "echo 4 > a");
    on_branch("third", "fledgling undo; cat a; fledgling log -n 3");
    world.last().results().pop().expect("a result");
    assert_eq!(fs::read_to_string(world.home.path("branches/third/a")).expect("a file"), "2\n");
    assert_eq!(world.read("a").as_deref(), Some("2\n"));
    world.clean();
}
