//! Services that are real programs in real hands. Time is simulated where only waiting is to be
//! seen, and never waited for.

use std::collections::{BTreeSet, VecDeque};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::Instant;

use crate::files::withheld::Withheld;
use crate::guard::policy::{Chain, Link, Network, Policy};
use crate::organs::always::services::keeper::{Event, Keeper, Standing, State, Wanted};
use crate::organs::always::services::patience::QUARANTINE;
use crate::organs::always::services::program::Input;

/// Far beyond what anything here takes: reached only when something is broken.
const PATIENCE: Duration = Duration::from_secs(60);

/// A workspace with services, and a keeper of them.
struct Home {
    folder: TempDir,
    withheld: Withheld,
    keeper: Keeper,
    events: UnboundedReceiver<Event>,
}

impl Home {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("services")).unwrap();
        let (keeper, events) = Keeper::new(folder.path().join("logs"));
        Self { folder, withheld: Withheld::default(), keeper, events }
    }

    /// A service that runs this in bash.
    fn service(&self, name: &str, script: &str) -> Wanted {
        let path = self.folder.path().join("services").join(name);
        // A new file: what runs can be executed, and not written.
        let _ = fs::remove_file(&path);
        fs::write(&path, format!("#!/bin/bash\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        wanted(self.folder.path(), &self.withheld, name, script)
    }

    async fn event(&mut self) -> Event {
        self.events.recv().await.unwrap()
    }

    async fn started(&mut self, name: &str) -> Input {
        match self.event().await {
            Event::Started { name: started, sender, .. } if started == name => sender,
            other => panic!("{name} did not start: {other:?}"),
        }
    }

    async fn line(&mut self) -> String {
        match self.event().await {
            Event::Line { line, .. } => line,
            other => panic!("no line: {other:?}"),
        }
    }

    async fn ended(&mut self, name: &str) -> String {
        match self.event().await {
            Event::Ended { name: ended, how, .. } if ended == name => how,
            other => panic!("{name} did not end: {other:?}"),
        }
    }

    /// What stands in a log, without times.
    fn log(&self, name: &str) -> Vec<String> {
        let path = self.folder.path().join("logs").join(format!("{name}.log"));
        let text = fs::read_to_string(path).unwrap();
        text.lines().map(|line| line.split_once(' ').unwrap().1.to_owned()).collect()
    }

    fn standing(&self) -> Standing {
        let mut standing = self.keeper.standing();
        assert_eq!(standing.len(), 1);
        standing.remove(0)
    }
}

fn wanted(folder: &Path, withheld: &Withheld, name: &str, stamp: &str) -> Wanted {
    let folder = folder.canonicalize().unwrap();
    let env = vec![(OsString::from("PATH"), OsString::from("/usr/bin:/bin"))];
    let held = File::open("/dev/null").unwrap().into();
    let (chain, own, withheld) = (Chain::Off, Vec::new(), withheld.clone());
    let (workspace, scratch) = (folder.clone(), folder);
    let policy = Policy { workspace, scratch, env, chain, own, held, withheld };
    let path = Path::new("services").join(name);
    Wanted { name: name.to_owned(), path, stamp: stamp.to_owned(), blob: None, policy }
}

/// The reading end of a new FIFO: at its end when nobody holds it any more.
fn fifo(path: &PathBuf) -> BufReader<File> {
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
    // Opened like this it does not wait for a writer, and is not at its end before one.
    BufReader::new(File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path).unwrap())
}

fn readable(held: &BufReader<File>) {
    let fd = held.get_ref().as_raw_fd();
    let mut poll = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    let wait = PATIENCE.as_millis() as libc::c_int;
    // SAFETY: one live entry.
    assert_eq!(unsafe { libc::poll(&raw mut poll, 1, wait) }, 1, "something still runs");
}

/// Waits until all who held it are gone.
fn gone(held: &mut BufReader<File>) {
    readable(held);
    assert_eq!(held.read(&mut [0; 64]).unwrap(), 0, "something still runs");
}

#[tokio::test]
async fn a_service_speaks_hears_and_is_logged() {
    let mut home = Home::new();
    let script = "echo 'to the log' >&2; echo ready; cat; echo 'at the end'; exit 3";
    home.keeper.want(vec![home.service("a", script)]);
    let sender = home.started("a").await;
    assert_eq!(home.line().await, "ready");
    let lines: Vec<_> = (0..500).map(|number| format!("line {number} ä")).collect();
    for line in &lines {
        assert!(sender.send(line.clone()));
        tokio::task::yield_now().await;
    }
    for line in &lines {
        assert_eq!(home.line().await, *line);
    }
    home.keeper.note("a", "no JSON");
    let Standing { state, starts, last_end, log_tail, .. } = home.standing();
    assert_eq!((state, starts, last_end), (State::Running, 1, None));
    assert!(log_tail.contains("to the log"), "{log_tail}");
    // Its input ends first: what it says then still counts.
    home.keeper.stop_all().await;
    assert_eq!(home.line().await, "at the end");
    assert_eq!(home.ended("a").await, "stopped");
    assert!(!sender.send("too late".to_owned()));
    assert_eq!(home.log("a"), ["[started]", "to the log", "no JSON", "[stopped]"]);
    assert_eq!(home.keeper.standing(), []);
    // That was for good.
    home.keeper.want(vec![home.service("a", script)]);
    assert_eq!(home.keeper.standing(), []);
}

#[tokio::test(start_paused = true)]
async fn who_ends_again_and_again_is_put_in_quarantine() {
    let mut home = Home::new();
    let begin = Instant::now();
    home.keeper.want(vec![home.service("a", "echo no token >&2; exit 0")]);
    for wait in [1, 2, 4, 8, 0] {
        let sender = home.started("a").await;
        assert_eq!(home.ended("a").await, "exit code 0");
        assert!(!sender.send("too late".to_owned()));
        if wait > 0 {
            let state = home.standing().state;
            assert!(matches!(state, State::Waiting(_)), "{state:?}");
            assert!(home.log("a").contains(&format!("[starts again in {wait} s]")));
        }
    }
    assert_eq!(begin.elapsed().as_secs(), 1 + 2 + 4 + 8);
    let Event::Quarantined { why, .. } = home.event().await else { panic!("no quarantine") };
    assert!(why.contains("exit code 0") && why.ends_with("no token"), "{why}");
    let Standing { state, starts, last_end, .. } = home.standing();
    assert_eq!((state, starts), (State::Quarantined, 5));
    assert_eq!(last_end.as_deref(), Some("exit code 0"));
    // Now and then it is tried, and nobody told.
    home.started("a").await;
    home.ended("a").await;
    assert_eq!(begin.elapsed().as_secs(), 15 + QUARANTINE.as_secs());
    // Somebody wants it, and all is forgotten.
    assert!(home.keeper.restart("a") && !home.keeper.restart("b"));
    home.started("a").await;
    home.ended("a").await;
    assert!(matches!(home.standing().state, State::Waiting(_)));
    home.keeper.stop_all().await;
}

#[tokio::test]
async fn what_changes_is_started_anew_what_is_gone_stops_and_the_rest_is_left_alone() {
    let mut home = Home::new();
    // Whose input nobody keeps is at its end.
    let mut inputs = Vec::new();
    let script = "echo ready; cat > /dev/null";
    let [a, b] = ["a", "b"].map(|name| home.service(name, script));
    for service in [&a, &b] {
        home.keeper.want(vec![service.clone()]);
        inputs.push(home.started(&service.name).await);
        assert_eq!(home.line().await, "ready");
        if service.name == "a" {
            home.keeper.want(vec![]);
            assert_eq!(home.ended("a").await, "stopped");
        }
    }
    // The first comes again, and the second is left alone.
    home.keeper.want(vec![a, b.clone()]);
    inputs.push(home.started("a").await);
    assert_eq!(home.line().await, "ready");
    let a = home.service("a", "echo new; cat > /dev/null");
    home.keeper.want(vec![a.clone(), b]);
    assert_eq!(home.ended("a").await, "stopped");
    inputs.push(home.started("a").await);
    assert_eq!(home.line().await, "new");
    let starts = |standing: &Standing| (standing.name.clone(), standing.starts);
    let starts: Vec<_> = home.keeper.standing().iter().map(starts).collect();
    assert_eq!(starts, [("a".to_owned(), 2), ("b".to_owned(), 1)]);
    home.keeper.want(vec![a]);
    assert_eq!(home.ended("b").await, "stopped");
    assert_eq!(home.standing().name, "a");
    // Gone and there again before anybody noticed.
    home.keeper.want(vec![]);
    home.keeper.want(vec![home.service("a", "echo third; cat > /dev/null")]);
    assert_eq!(home.ended("a").await, "stopped");
    inputs.push(home.started("a").await);
    assert_eq!(home.line().await, "third");
    drop(home.keeper);
    assert!(matches!(home.events.recv().await, Some(Event::Ended { .. })));
    assert!(home.events.recv().await.is_none());
}

#[tokio::test]
async fn nothing_is_left_of_a_service_that_was_stopped() {
    let mut home = Home::new();
    let mut held = fifo(&home.folder.path().join("held"));
    // It minds neither the end of its input nor being told.
    let script = "exec 9>held; trap '' TERM; (setsid sleep 1000 &)
        setsid bash -c 'trap \"\" TERM; sleep 1000; sleep 1000' &
        echo ready; while true; do sleep 1000; done";
    home.keeper.want(vec![home.service("a", script)]);
    home.started("a").await;
    assert_eq!(home.line().await, "ready");
    home.keeper.stop_all().await;
    assert_eq!(home.ended("a").await, "stopped");
    gone(&mut held);
}

#[tokio::test]
async fn what_a_service_leaves_behind_ends_with_it() {
    let mut home = Home::new();
    let mut held = fifo(&home.folder.path().join("held"));
    let script = "exec 9>held; (setsid sleep 1000 &); kill -9 $$";
    home.keeper.want(vec![home.service("a", script)]);
    home.started("a").await;
    assert_eq!(home.ended("a").await, "killed by signal 9");
    home.keeper.stop_all().await;
    gone(&mut held);
}

/// This test starts itself anew as the host that is to be killed.
#[test]
fn no_service_outlives_a_killed_host() {
    const FOLDER: &str = "FLEDGLING_TEST_SERVICES";
    if let Some(folder) = std::env::var_os(FOLDER) {
        let folder = PathBuf::from(folder);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        return runtime.block_on(async {
            let (keeper, mut events) = Keeper::new(folder.join("logs"));
            keeper.want(vec![wanted(&folder, &Withheld::default(), "a", "")]);
            while let Some(event) = events.recv().await {
                assert!(!matches!(event, Event::Ended { .. }), "{event:?}");
            }
        });
    }
    let home = Home::new();
    let mut held = fifo(&home.folder.path().join("held"));
    let script = "exec 9>held; trap '' TERM; (setsid sleep 1000 &)
        echo ready >&9; while true; do sleep 1000; done";
    home.service("a", script);
    let mut host = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "organs::always::services::tests::no_service_outlives_a_killed_host"])
        .env(FOLDER, home.folder.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    readable(&held);
    let mut line = String::new();
    held.read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    host.kill().unwrap();
    host.wait().unwrap();
    gone(&mut held);
}

#[tokio::test]
async fn secrets_are_withheld_from_lines_and_log() {
    let mut home = Home::new();
    let secrets = [("ONE", "first secret\nof two lines"), ("TWO", "another secret")];
    let learn = |count| {
        let secrets = secrets.into_iter().take(count);
        secrets.map(|(name, value)| (name.to_owned(), value.to_owned())).collect::<Vec<_>>()
    };
    home.withheld.learn(learn(1)).unwrap();
    let script = "printf 'a first sec'; printf 'ret\\n'; printf 'of two lines b\\n'
        echo -n 'the first secret'; echo; read line; echo \"$line is another secret\"; echo 'another secret' >&2; printf anoth";
    home.keeper.want(vec![home.service("a", script)]);
    let sender = home.started("a").await;
    assert_eq!(home.line().await, "a [secret ONE withheld] b");
    // A line does not wait for the next.
    assert_eq!(home.line().await, "the first secret");
    // What is learnt while it runs counts, too.
    home.withheld.learn(learn(2)).unwrap();
    sender.send("this".to_owned());
    assert_eq!(home.line().await, "this is [secret TWO withheld]");
    assert_eq!(home.line().await, "anoth");
    home.ended("a").await;
    home.keeper.stop_all().await;
    assert_eq!(home.log("a")[1], "[secret TWO withheld]");
}

#[tokio::test]
async fn who_is_confined_is_logged_all_the_same() {
    let mut home = Home::new();
    // Twice what a log may have: it is cut by the thread that hears the service.
    let script = "for i in {1..2500}; do printf '%s-%01000d\\n' $i 0 >&2; done
        (echo > logs/a.log) 2> /dev/null || echo closed; read";
    let mut service = home.service("a", script);
    let read = ["/usr", "/bin", "/lib", "/lib64", "/etc"].map(PathBuf::from);
    let read = read.into_iter().filter_map(|path| path.canonicalize().ok());
    let read: Vec<_> = read.chain([service.policy.workspace.clone()]).collect();
    let (write, network, unix) = (Vec::new(), Network::None, false);
    let link = Link { read, write, network, unix, secrets: None, tools: None };
    service.policy.chain = Chain::Links(vec![link.clone()]);
    home.keeper.want(vec![service.clone()]);
    home.started("a").await;
    assert_eq!(home.line().await, "closed");
    home.keeper.want(Vec::new());
    assert_eq!(home.ended("a").await, "stopped");
    let log = home.log("a");
    assert!(log[log.len() - 2].starts_with("2500-0"), "{}", log[log.len() - 2]);
    assert!(log.len() < 1500 && log[log.len() - 1] == "[stopped]");

    let tools = Some(BTreeSet::from(["read".to_owned()]));
    service.policy.chain = Chain::Links(vec![Link { tools, ..link }]);
    home.keeper.want(vec![service]);
    home.started("a").await;
    assert_eq!(home.ended("a").await, "this session may not use bash; it has read");
    home.keeper.stop_all().await;
}

#[tokio::test]
async fn a_flood_waits_until_somebody_takes_it() {
    const LINES: usize = 20_000;
    const ROOM: usize = 2 << 20;
    let mut home = Home::new();
    let script = format!("for i in {{1..{LINES}}}; do echo $i-{}; done; read", "x".repeat(1000));
    home.keeper.want(vec![home.service("a", &script)]);
    home.started("a").await;
    let (mut kept, mut size) = (VecDeque::new(), 0);
    for number in 1..=LINES {
        let Event::Line { line, room, .. } = home.event().await else { panic!("no line") };
        assert!(line.starts_with(&format!("{number}-")));
        size += line.len();
        kept.push_back((line.len(), room));
        assert!(size <= ROOM, "{size}");
        if size > ROOM / 2 {
            size -= kept.pop_front().unwrap().0;
        }
    }
    // Now nobody takes anything, and it can be stopped all the same.
    drop(kept);
    let script = "echo ready; exec tr '\\0' '\\n' < /dev/zero";
    home.keeper.want(vec![home.service("a", script)]);
    assert_eq!(home.ended("a").await, "stopped");
    home.started("a").await;
    let ready = home.event().await;
    assert!(matches!(&ready, Event::Line { line, .. } if line == "ready"), "{ready:?}");
    home.keeper.stop_all().await;
}

#[tokio::test]
async fn a_line_that_is_too_long_is_cut_and_said() {
    let mut home = Home::new();
    // None of it is text, so that it takes more room than it has bytes.
    let script = "head -c 1048579 /dev/zero | tr '\\0' '\\377'; echo; echo after; cat";
    home.keeper.want(vec![home.service("a", script)]);
    home.started("a").await;
    assert_eq!(home.line().await.chars().count(), 1 << 20);
    assert_eq!(home.line().await, "after");
    home.keeper.stop_all().await;
    assert_eq!(home.log("a")[1], "[a line of its output was too long by 3 bytes]");
}

#[tokio::test]
async fn who_is_not_spoken_to_any_more_is_at_the_end_of_its_input() {
    let mut home = Home::new();
    home.keeper.want(vec![home.service("a", "cat; echo 'at the end'")]);
    let sender = home.started("a").await;
    assert!(sender.send("first".to_owned()));
    drop(sender);
    assert_eq!(home.line().await, "first");
    assert_eq!(home.line().await, "at the end");
    assert_eq!(home.ended("a").await, "exit code 0");
    home.keeper.stop_all().await;
}

#[tokio::test]
async fn who_does_not_read_is_ended() {
    let mut home = Home::new();
    home.keeper.want(vec![home.service("a", "echo ready; exec sleep 1000")]);
    let sender = home.started("a").await;
    assert_eq!(home.line().await, "ready");
    let line = "x".repeat(1000);
    let sent = (0..9999).take_while(|_| sender.send(line.clone())).count();
    assert_eq!(sent, 1024);
    let how = home.ended("a").await;
    assert!(how.contains("did not read"), "{how}");
    home.keeper.stop_all().await;
    assert!(home.log("a").contains(&format!("[{how}]")));
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_run_says_why() {
    let mut home = Home::new();
    let service = home.service("a", "true");
    let path = home.folder.path().join("services/a");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    home.keeper.want(vec![service]);
    let how = home.ended("a").await;
    assert!(how.contains("`chmod +x services/a` makes it so"), "{how}");
    fs::remove_file(&path).unwrap();
    let how = home.ended("a").await;
    assert!(how.starts_with("cannot run services/a: No such file"), "{how}");
    fs::create_dir(&path).unwrap();
    assert_eq!(home.ended("a").await, "cannot run services/a: it is not a file");
    fs::remove_dir(&path).unwrap();
    home.service("a", "echo back; read");
    home.started("a").await;
    assert_eq!(home.line().await, "back");
    home.keeper.stop_all().await;
}
