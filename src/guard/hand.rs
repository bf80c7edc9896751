//! A hand: carries out one action of the model, or keeps a program running, in a thread that
//! it confines first.
//!
//! Owns the life of a call. The invariant: every action runs in a fresh thread (a confined
//! thread stays confined, so a pool's thread must never be one), and its end is waited for.
//! Knows neither models nor sessions.

use std::fs::File;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::sync::oneshot;

use crate::files::file;
use crate::files::output::{End, Output};
use crate::guard::confine::{Confined, Kept, confine};
use crate::guard::policy::Policy;
use crate::guard::supervisor::{self, Link, Shell};
use crate::kernel::interrupt::Interrupt;
use crate::kernel::model::Boxed;
use crate::kernel::tool::{Action, Hands, Outcome};

/// How long an interrupted call is waited for. It takes no longer than 100 ms, unless the
/// system does not let go of it: a network file system that hangs must not hang the turn.
const GIVE_UP: Duration = Duration::from_secs(1);

/// Acts under one policy.
#[derive(Debug, Clone)]
pub struct Hand {
    policy: Arc<Policy>,
    /// For file tools, and for bash.
    kept: Arc<[Kept; 2]>,
}

/// A program that runs until it ends or is told to. Both files are closed in this process by
/// the time it has ended.
#[derive(Debug)]
pub struct Program {
    /// Given to `bash -c`.
    pub command: String,
    /// What it reads.
    pub input: File,
    /// Where its stdout goes: whoever passes that on has to withhold secrets.
    pub stdout: File,
    /// How long it has to end by itself, once told to.
    pub grace: Duration,
}

impl Hand {
    /// A hand that may do what the policy says.
    pub fn new(policy: Policy) -> Self {
        Self { policy: Arc::new(policy), kept: [false, true].map(Kept::new).into() }
    }

    async fn try_act(&self, action: Action, interrupt: Interrupt) -> Result<Outcome> {
        let runs = matches!(action, Action::Bash { .. });
        let stopped = interrupt.clone();
        let work = move |policy: &Policy, confined: &Confined, link| {
            carry_out(policy, confined, action, link, &stopped)
        };
        self.confined(runs, interrupt, GIVE_UP, work).await
    }

    /// Run a program, as confined as bash is, until it has ended or `interrupt` is raised, or
    /// nobody awaits this any more. `heard` is told what it says on stderr without secrets, in
    /// the confined thread: what it writes to has to be open by then, and while it does not
    /// return, the program waits.
    pub async fn keep(
        &self,
        program: Program,
        interrupt: Interrupt,
        mut heard: impl FnMut(&[u8]) + Send + 'static,
    ) -> Result<End> {
        let give_up = GIVE_UP + program.grace;
        let work = move |policy: &Policy, confined: &Confined, link| {
            allow(policy, "bash")?;
            let Program { command, input, stdout, grace } = &program;
            let Policy { workspace: dir, env, held, withheld, .. } = policy;
            let (timeout, grace, input, stdout) =
                (Duration::MAX, *grace, Some(input), Some(stdout));
            let shell = Shell { confined, command, dir, env, timeout, grace, held, input, stdout };
            let mut passing = withheld.stream();
            let ended = supervisor::run(&shell, link, &mut |bytes| heard(&passing.push(bytes)));
            heard(&passing.finish());
            ended
        };
        self.confined(true, interrupt, give_up, work).await
    }

    /// Do it in a fresh thread, confined like bash or like file tools, until it is done or
    /// somebody interrupts.
    async fn confined<T: Send + 'static>(
        &self,
        runs: bool,
        interrupt: Interrupt,
        give_up: Duration,
        work: impl FnOnce(&Policy, &Confined, Link) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (leash, link) = supervisor::leash()?;
        let (policy, kept) = (self.policy.clone(), self.kept.clone());
        let mut done = in_thread(move || {
            let confined = confine(&policy, &kept[usize::from(runs)])?;
            work(&policy, &confined, link)
        });
        tokio::select! {
            biased;
            done = &mut done => return done,
            () = interrupt.wait() => drop(leash),
        }
        let Ok(done) = tokio::time::timeout(give_up, done).await else {
            bail!("interrupted, but the system does not let go of it yet")
        };
        done
    }
}

impl Hands for Hand {
    fn act(&self, action: Action, interrupt: Interrupt) -> Boxed<'_, Outcome> {
        Box::pin(async move {
            let outcome = self.try_act(action, interrupt).await;
            let outcome = outcome.unwrap_or_else(|error| Outcome::failed(format!("{error:#}")));
            let (withheld, mut images) = (&self.policy.withheld, outcome.images);
            for image in &mut images {
                image.name = withheld.text(std::mem::take(&mut image.name));
            }
            Outcome { text: withheld.text(outcome.text), images, ..outcome }
        })
    }
}

/// Do it in a thread of its own, starting now.
fn in_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Boxed<'static, Result<T>> {
    let (sender, receiver) = oneshot::channel();
    let hand = thread::Builder::new().name("hand".to_owned());
    // Where nobody listens any more, nobody needs to be told.
    let started = hand.spawn(move || _ = sender.send(work()));
    Box::pin(async move {
        started.context("cannot start a thread for the call")?;
        // A thread that panics drops the sender.
        let Ok(done) = receiver.await else {
            bail!("the call failed inside the harness, which is a bug in it")
        };
        done
    })
}

fn carry_out(
    policy: &Policy,
    confined: &Confined,
    action: Action,
    link: Link,
    stopped: &Interrupt,
) -> Result<Outcome> {
    allow(policy, action.tool())?;
    let workspace = policy.workspace.as_path();
    policy.withheld.check(&action)?;
    match action {
        Action::Bash { command, timeout } => Ok(bash(policy, confined, &command, timeout, link)),
        Action::Read { path, offset, limit } => {
            let read = file::read(workspace, &path, offset, limit, stopped)?;
            // Of a picture nothing can be taken out.
            let bytes = read.images.iter().filter_map(|image| image.data.as_deref());
            if let Some(name) = bytes.into_iter().find_map(|bytes| policy.withheld.finds(bytes)) {
                bail!(
                    "{} is not shown: the value of the secret {name} stands in it",
                    path.display()
                );
            }
            Ok(read)
        }
        Action::Write { path, content } => file::write(workspace, &path, content.as_bytes()),
        Action::Edit { path, edits } => file::edit(workspace, &path, &edits),
    }
}

/// Fails where the chain does not have this tool.
fn allow(policy: &Policy, tool: &str) -> Result<()> {
    let tools = policy.chain.tools();
    if let Some(tools) = tools.filter(|tools| !tools.contains(tool)) {
        let rest: Vec<_> = tools.iter().map(String::as_str).collect();
        bail!("this session may not use {tool}; it has {}", rest.join(", "));
    }
    Ok(())
}

fn bash(
    policy: &Policy,
    confined: &Confined,
    command: &str,
    timeout: Duration,
    link: Link,
) -> Outcome {
    let mut output = Output::new(&policy.scratch);
    let Policy { workspace: dir, env, held, .. } = policy;
    let (grace, input, stdout) = (supervisor::GRACE, None, None);
    let shell = Shell { confined, command, dir, env, timeout, grace, held, input, stdout };
    // Before anything is kept: the spill file holds no more than the model is told.
    let mut passing = policy.withheld.stream();
    let ended = supervisor::run(&shell, link, &mut |bytes| output.push(&passing.push(bytes)));
    output.push(&passing.finish());
    output.finish(ended, timeout)
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::fs::{self, File};
    use std::io::{BufRead, BufReader, Read};
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::OpenOptionsExt;
    use std::path::PathBuf;
    use std::process::{Command, Stdio};

    use tempfile::TempDir;

    use super::*;
    use crate::files::withheld::Withheld;
    use crate::guard::policy::Chain;
    use crate::kernel::interrupt::interrupt;

    /// Far beyond what anything here takes: reached only when something is broken.
    const PATIENCE: Duration = Duration::from_secs(60);

    /// A hand with folders of its own, and a FIFO `held` in its workspace.
    struct Home {
        folder: TempDir,
        hand: Hand,
    }

    impl Home {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let hand = hand_in(folder.path());
            let made = Command::new("mkfifo").arg(folder.path().join("held")).status().unwrap();
            assert!(made.success());
            Self { folder, hand }
        }

        fn act(&self, action: Action) -> Outcome {
            let (_interrupter, interrupt) = interrupt();
            block_on(self.hand.act(action, interrupt))
        }

        fn bash(&self, command: &str) -> Outcome {
            self.act(bash_for(command, PATIENCE))
        }

        fn path(&self, name: &str) -> PathBuf {
            self.folder.path().join(name)
        }

        /// The reading end of `held`. Commands hold the other as descriptor 9: it is at its
        /// end when all of them are gone.
        fn held(&self) -> BufReader<File> {
            // Opened like this it does not wait for a writer, and is not at its end before one.
            let mut options = File::options();
            let reader = options.read(true).custom_flags(libc::O_NONBLOCK).open(self.path("held"));
            BufReader::new(reader.unwrap())
        }
    }

    fn hand_in(folder: &std::path::Path) -> Hand {
        let env = [("PATH", "/usr/bin:/bin"), ("GREETING", "hello")];
        let env = env.map(|(name, value)| (OsString::from(name), OsString::from(value)));
        let folder = folder.canonicalize().unwrap();
        let held = File::open("/dev/null").unwrap().into();
        let (env, chain, own) = (env.to_vec(), Chain::Off, Vec::new());
        let withheld = Withheld::default();
        let secret = ("API_KEY".to_owned(), "a value of mine".to_owned());
        withheld.learn([secret]).unwrap();
        let (workspace, scratch) = (folder.clone(), folder);
        Hand::new(Policy { workspace, scratch, env, chain, own, held, withheld })
    }

    fn bash_for(command: &str, timeout: Duration) -> Action {
        Action::Bash { command: command.to_owned(), timeout }
    }

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
    }

    /// Waits until a writer has come and said so.
    fn ready(held: &mut BufReader<File>) {
        readable(held);
        let mut line = String::new();
        held.read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
    }

    /// Waits until all writers are gone.
    fn gone(held: &mut BufReader<File>) {
        readable(held);
        assert_eq!(held.read(&mut [0; 64]).unwrap(), 0, "something still runs");
    }

    fn readable(held: &BufReader<File>) {
        let mut poll =
            libc::pollfd { fd: held.get_ref().as_raw_fd(), events: libc::POLLIN, revents: 0 };
        let wait = PATIENCE.as_millis() as libc::c_int;
        // SAFETY: one live entry.
        assert_eq!(unsafe { libc::poll(&raw mut poll, 1, wait) }, 1, "something still runs");
    }

    #[test]
    fn a_known_secret_is_neither_told_nor_kept_and_its_marker_is_not_written() {
        let home = Home::new();
        fs::write(home.path("a value of mine"), "x a value of mine y").unwrap();
        let bash =
            home.bash("printf 'a value'; printf ' of mine'; printf 'a value of mine' | base64");
        assert_eq!(bash.text, "[secret API_KEY withheld][secret API_KEY withheld]\n");
        let read = |path: &str| home.act(Action::Read { path: path.into(), offset: 1, limit: 9 });
        assert_eq!(read("a value of mine").text, "x [secret API_KEY withheld] y");
        assert!(read("no/a value of mine").text.contains("no/[secret API_KEY withheld]"));
        let long = home.bash("seq 10000; echo a value of mine; seq 10000");
        let spilt = fs::read_dir(home.path("output")).unwrap().next().unwrap().unwrap().path();
        assert!(long.text.contains(spilt.to_str().unwrap()), "{}", long.text);
        let spilt = fs::read_to_string(spilt).unwrap();
        assert!(spilt.contains("\n[secret API_KEY withheld]\n") && !spilt.contains("of mine"));

        let marked = "key = [secret API_KEY withheld]".to_owned();
        let refused = home.act(Action::Write { path: "b".into(), content: marked.clone() });
        assert!(refused.error && refused.text.starts_with("not written: "), "{}", refused.text);
        let edit = crate::kernel::tool::Replacement { old: "x".to_owned(), new: marked };
        let path = PathBuf::from("a value of mine");
        let refused = home.act(Action::Edit { path: path.clone(), edits: vec![edit] });
        assert!(refused.error && refused.text.contains("API_KEY"), "{}", refused.text);
        assert!(!home.path("b").exists());
        assert_eq!(
            fs::read_to_string(home.path("a value of mine")).unwrap(),
            "x a value of mine y"
        );
    }

    #[test]
    fn output_and_exit_code_are_told() {
        let home = Home::new();
        let outcome = home.bash("echo one; echo two >&2; echo three; exit 3");
        assert_eq!(outcome.text, "one\ntwo\nthree\n[exit code 3]\n");
        assert!(outcome.error);
        assert_eq!(home.bash("true").text, "[no output]\n");
        assert!(!home.bash("printf x").error);
        assert_eq!(home.bash("kill -9 $$").text, "[killed by signal 9]\n");
        assert_eq!(home.bash("printf 'a\\0\\xff'").text, "a\0\u{FFFD}");
        assert_eq!(home.bash("pwd").text.trim_end(), home.hand.policy.workspace.to_str().unwrap());
    }

    #[test]
    fn a_call_inherits_no_input_no_environment_no_descriptor_and_no_signal_state() {
        let home = Home::new();
        assert_eq!(home.bash("cat; echo $?").text, "0\n");
        let shown = home.bash("env | cut -d= -f1 | sort | tr '\\n' ' '").text;
        assert_eq!(shown, "GREETING PATH PWD SHLVL _ ");
        // SAFETY: a plain duplicate, without CLOEXEC, as careless libraries leave them.
        let leaked = unsafe { libc::fcntl(1, libc::F_DUPFD, 200) };
        assert!(leaked >= 200);
        // The last is what `ls` reads.
        assert_eq!(home.bash("ls /proc/self/fd").text, "0\n1\n2\n3\n");
        let status = home.bash("grep -E 'SigBlk|NoNewPrivs' /proc/self/status").text;
        assert_eq!(status, "SigBlk:\t0000000000000000\nNoNewPrivs:\t1\n");
        // The host ignores SIGPIPE. `yes` must die of it.
        assert_eq!(home.bash("yes | true; echo ${PIPESTATUS[0]}").text, "141\n");
    }

    #[test]
    fn background_processes_end_with_the_call_and_are_counted() {
        let home = Home::new();
        let mut held = home.held();
        let outcome = home.bash(
            "exec 9>held; echo ready >&9; sleep 1000 & (setsid sleep 1000 &) ; true & echo hi",
        );
        assert_eq!(outcome.text, "hi\n[background processes ended with the call: 2]\n");
        assert!(!outcome.error);
        ready(&mut held);
        gone(&mut held);
    }

    #[test]
    fn a_timeout_ends_everything_even_what_ignores_being_asked() {
        let home = Home::new();
        let mut held = home.held();
        let command = "exec 9>held; trap '' TERM; echo ready >&9; echo said
            (setsid bash -c '(sleep 1000 | sleep 1000) & sleep 1000' &); sleep 1000; sleep 1000";
        let outcome = home.act(bash_for(command, Duration::from_secs(1)));
        let expected = "said\n[timed out after 1 s; everything it started was ended]\n";
        assert_eq!(outcome.text, expected);
        assert!(outcome.error);
        ready(&mut held);
        gone(&mut held);
    }

    #[test]
    fn an_interrupt_ends_everything_and_keeps_what_was_said() {
        let home = Home::new();
        let mut held = home.held();
        let (interrupter, interrupt) = interrupt();
        let raiser = thread::spawn(move || {
            ready(&mut held);
            interrupter.raise();
            held
        });
        let command = "echo said; exec 9>held; echo ready >&9; setsid sleep 1000 & sleep 1000";
        let outcome = block_on(home.hand.act(bash_for(command, PATIENCE), interrupt));
        let expected = "said\n[interrupted; everything it started was ended]\n";
        assert_eq!(outcome.text, expected);
        gone(&mut raiser.join().unwrap());
    }

    #[test]
    fn a_call_that_is_no_longer_awaited_ends() {
        let home = Home::new();
        let mut held = home.held();
        let (_interrupter, interrupt) = interrupt();
        block_on(async {
            let acting = home
                .hand
                .act(bash_for("exec 9>held; echo ready >&9; sleep 1000", PATIENCE), interrupt);
            let watching = tokio::task::spawn_blocking(move || {
                ready(&mut held);
                held
            });
            tokio::select! {
                outcome = acting => panic!("{outcome:?}"),
                held = watching => gone(&mut held.unwrap()),
            }
        });
    }

    #[test]
    fn what_forks_on_and_on_is_caught() {
        let home = Home::new();
        let mut held = home.held();
        // Each process starts the next, in a session of its own, and leaves: there are never
        // many, and none stays. They stop by themselves, if at last.
        let script = "[ $1 -gt 0 ] && setsid bash chain $(($1 - 1)) &";
        fs::write(home.path("chain"), script).unwrap();
        let command = "exec 9>held; echo ready >&9
            for chain in 1 2 3 4 5 6 7 8; do bash chain 100000; done; sleep 1000";
        let outcome = home.act(bash_for(command, Duration::from_secs(1)));
        assert!(outcome.text.contains("[timed out after 1 s"), "{}", outcome.text);
        ready(&mut held);
        gone(&mut held);
    }

    #[test]
    fn long_output_is_cut_and_kept() {
        let home = Home::new();
        let text = home.bash("seq 1 20000").text;
        assert!(text.starts_with("1\n2\n") && text.ends_with("\n20000\n"), "{text}");
        let path = text.split_once("all of it is in ").unwrap().1.split_once(" …]").unwrap().0;
        let whole = (1..=20_000).fold(String::new(), |text, number| text + &format!("{number}\n"));
        assert_eq!(fs::read_to_string(path).unwrap(), whole);
    }

    #[test]
    fn a_pipe_held_elsewhere_does_not_hold_the_call() {
        let home = Home::new();
        let (_interrupter, interrupt) = interrupt();
        let mut held = home.held();
        // This test opens the call's output by way of /proc, as any process of the user may,
        // and holds it longer than the call takes.
        let holder = thread::spawn(move || {
            readable(&held);
            let mut line = String::new();
            held.read_line(&mut line).unwrap();
            let output = File::options().write(true).open(format!("/proc/{}/fd/1", line.trim()));
            (output.unwrap(), held)
        });
        let command = "exec 9>held; echo $$ >&9; until test -e go; do sleep 0.01; done; echo done";
        let outcome = block_on(async {
            let acting = home.hand.act(bash_for(command, PATIENCE), interrupt);
            let opening = async {
                let opened = tokio::task::spawn_blocking(|| holder.join().unwrap()).await.unwrap();
                fs::write(home.path("go"), "").unwrap();
                opened
            };
            let (outcome, _opened) = tokio::join!(acting, opening);
            outcome
        });
        assert_eq!(outcome.text, "done\n");
    }

    #[test]
    fn what_cannot_start_says_why() {
        let home = Home::new();
        let long = home.bash(&format!(": {}", "x".repeat(1 << 20)));
        assert_eq!(long.text, "[the command is too long; write it to a file and run that]\n");
        assert!(home.bash("a\0b").text.contains("nul byte"));
        fs::remove_dir_all(home.folder.path()).unwrap();
        let outcome = home.bash("true");
        assert!(outcome.text.starts_with("[cannot run bash in /"), "{}", outcome.text);
        assert!(outcome.error);
    }

    #[test]
    fn a_killed_supervisor_is_a_failed_call() {
        let home = Home::new();
        let mut held = home.held();
        let outcome = home.bash("exec 9>held; echo ready >&9; kill -9 $PPID; exec sleep 1000");
        assert!(outcome.error);
        assert!(outcome.text.contains("the supervisor of this call was killed"));
        ready(&mut held);
        gone(&mut held);
    }

    #[test]
    fn a_panic_in_a_hand_is_a_failed_call() {
        let outcome = block_on(in_thread(|| -> Result<()> { panic!("as a test") }));
        assert!(outcome.unwrap_err().to_string().contains("a bug in it"));
    }

    /// This test starts itself anew as the host that is to be killed.
    #[test]
    fn nothing_outlives_a_killed_host() {
        const FOLDER: &str = "FLEDGLING_TEST_HOST";
        if let Some(folder) = std::env::var_os(FOLDER) {
            // As the real host is; the supervisor must do without its own /proc files.
            // SAFETY: takes numbers only.
            unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0) };
            let (_interrupter, interrupt) = interrupt();
            let command = "exec 9>held; sleep 1000 & (setsid sleep 1000 &)
                setsid bash -c 'trap \"\" TERM; echo ready >&9; sleep 1000; sleep 1000'";
            let hand = hand_in(folder.as_ref());
            panic!("{:?}", block_on(hand.act(bash_for(command, PATIENCE), interrupt)));
        }
        let home = Home::new();
        let mut held = home.held();
        let mut host = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "guard::hand::tests::nothing_outlives_a_killed_host"])
            .env(FOLDER, home.folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        ready(&mut held);
        host.kill().unwrap();
        host.wait().unwrap();
        gone(&mut held);
    }

    #[test]
    fn calls_side_by_side_do_not_meet() {
        let home = Home::new();
        let (_interrupter, interrupt) = interrupt();
        let call = |number: u32| {
            home.hand.act(
                bash_for(&format!("sleep 0.0{number}; echo {number}"), PATIENCE),
                interrupt.clone(),
            )
        };
        let (one, two, three) = block_on(async { tokio::join!(call(1), call(2), call(3)) });
        assert_eq!([one.text, two.text, three.text], ["1\n", "2\n", "3\n"]);
    }

    #[test]
    fn file_tools_work_in_the_workspace() {
        let home = Home::new();
        let path = PathBuf::from("bin/x");
        let wrote = vec![home.hand.policy.workspace.join("bin/x")];
        let outcome = home.act(Action::Write { path: path.clone(), content: "a\nb\n".to_owned() });
        let text = "wrote bin/x (2 lines, 4 bytes)".to_owned();
        assert_eq!(outcome, Outcome { text, wrote, ..Outcome::default() });
        let outcome = home.act(Action::Read { path, offset: 1, limit: 10 });
        assert_eq!(outcome.text, "a\nb\n");
    }
}
