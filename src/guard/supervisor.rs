//! The one place that starts processes: a bash call and the small supervisor above it.
//!
//! Owns a call's whole process tree, be it a call of a moment or a program that is kept
//! running. The invariant: when a call is over, for whatever reason (bash ended, time is up,
//! somebody interrupted, the host was killed), nothing that it started runs any more, `setsid`
//! survivors included. Knows neither tools nor
//! policy: what the calling thread is confined to, its children inherit.
//!
//! The supervisor is forked from the host and executes nothing. It is the subreaper of its
//! tree, so that every orphan becomes its child: one supervisor a call, since a shared one
//! could not tell whose orphan it reaps. It holds one end of a socket pair, the link. When
//! the other end closes or is shut down, it ends the tree; when the tree has ended, it says
//! over the link how.
//!
//! `Command` starts both: between its fork and its exec, `supervise` forks once more. The
//! upper process stays there as the supervisor, the lower one returns and becomes bash. So
//! arguments, environment, descriptors and a failed exec stay the standard library's work.
//!
//! Not covered: where nothing is confined, a command can kill the supervisor. Bash dies with
//! it, what bash left in the background does not, and the call says that it failed.

use std::ffi::{OsStr, OsString, c_int};
use std::fs::File;
use std::io::{self, ErrorKind, PipeWriter, Read, Write};
use std::mem::{self, MaybeUninit};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::channel;
use std::sync::{Arc, LazyLock};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};

use crate::files::output::End;
use crate::guard::confine::Confined;
use crate::walls::thread::mask;

/// The grace of a call: half of what an interrupt may take. Without it
/// `bash -c 'exec > >(tee log); ls'` would lose what `tee` has not written yet.
pub const GRACE: Duration = Duration::from_millis(50);
/// Children that are reaped at most between two rounds of killing, and the milliseconds after
/// which the next begins where no child's end is heard of.
const ROUND: usize = 1000;
const PAUSE: c_int = 5;
/// Bytes read at once, and what a pipe holds at most (`/proc/sys/fs/pipe-max-size`).
const PIECE: usize = 1 << 16;
const PIPE: usize = 1 << 20;
/// The link's descriptor in the supervisor, which has no other use for its standard input.
const LINK: RawFd = 0;
/// The one it holds for the host's successor, in the place of its standard output.
const HELD: RawFd = 1;
/// What a call's processes may use up at most: core dumps, processes of the user (root has no
/// limit), bytes of a file.
const LIMITS: [(libc::__rlimit_resource_t, libc::rlim_t); 3] =
    [(libc::RLIMIT_CORE, 0), (libc::RLIMIT_NPROC, 8192), (libc::RLIMIT_FSIZE, 64 << 30)];
/// Stands for bash's status in a report when the tree was told to end.
const TOLD: c_int = -1;

/// What to run.
#[derive(Debug, Clone, Copy)]
pub struct Shell<'a> {
    /// What the calling thread, and so all of it, is confined to.
    pub confined: &'a Confined,
    /// Given to `bash -c`.
    pub command: &'a str,
    /// Its working directory.
    pub dir: &'a Path,
    /// Its whole environment.
    pub env: &'a [(OsString, OsString)],
    /// How long it may take; `Duration::MAX` where nobody minds.
    pub timeout: Duration,
    /// The time the tree has to end by itself, once told to (SIGTERM) or once its bash is gone.
    pub grace: Duration,
    /// Stays open until its whole tree has ended.
    pub held: &'a File,
    /// What it reads; nothing where there is none.
    pub input: Option<&'a File>,
    /// Where its stdout goes instead of being heard with its stderr.
    pub stdout: Option<&'a File>,
}

/// Dropping it ends the tree at the other end of the link, now or as soon as it starts.
#[derive(Debug)]
pub struct Leash(Arc<UnixStream>);

/// What ties a tree to its host.
#[derive(Debug)]
pub struct Link {
    host: Arc<UnixStream>,
    supervisor: UnixStream,
}

/// A leash, and the link that `run` takes.
pub fn leash() -> Result<(Leash, Link)> {
    let (host, supervisor) = UnixStream::pair().context("cannot make a socket pair for bash")?;
    let host = Arc::new(host);
    Ok((Leash(host.clone()), Link { host, supervisor }))
}

impl Drop for Leash {
    fn drop(&mut self) {
        // It fails where the other end is gone already.
        let _ = self.0.shutdown(Shutdown::Write);
    }
}

/// Run bash until its tree has ended; `output` hears what it says, stdout and stderr in the
/// order in which it was said, unless stdout goes elsewhere. Blocks the calling thread, and all
/// signals in it for good.
pub fn run(shell: &Shell<'_>, link: Link, output: &mut dyn FnMut(&[u8])) -> Result<End> {
    let Link { host, supervisor } = link;
    let (mut pipe, writer) = io::pipe().context("cannot make a pipe for bash")?;
    // It keeps a writing end open, so that the pipe is never at its end.
    let mut command = command(shell, writer, supervisor.as_raw_fd())?;
    // A Ctrl-C must not run the host's handlers in the supervisor.
    mask(libc::SIG_BLOCK);
    let mut child = command.spawn().map_err(|error| match error.kind() {
        ErrorKind::ArgumentListTooLong => {
            anyhow!("the command is too long; write it to a file and run that")
        }
        _ => anyhow!(error).context(format!("cannot run bash in {}", shell.dir.display())),
    })?;
    drop(supervisor);

    let mut deadline = Instant::now().checked_add(shell.timeout);
    let mut late = false;
    let mut buffer = vec![0; PIECE];
    let output_end = pipe.as_raw_fd();
    let mut pass_on = || {
        let count = pipe.read(&mut buffer).unwrap_or(0);
        output(&buffer[..count]);
    };
    loop {
        let wait = deadline.map_or(-1, millis_until);
        let [said, reported] = poll([output_end, host.as_raw_fd()], wait);
        if said {
            pass_on();
        }
        if reported {
            break;
        }
        if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            (deadline, late) = (None, true);
            drop(Leash(host.clone()));
        }
    }
    let mut report = [[0; size_of::<c_int>()]; 2];
    let complete = (&*host).read_exact(report.as_flattened_mut()).is_ok();
    child.wait().context("cannot wait for the supervisor of this call")?;
    // Only what is there: a descriptor of the pipe may have got to a process outside the tree.
    for _ in 0..=PIPE / PIECE {
        if poll([output_end, -1], 0)[0] {
            pass_on();
        }
    }
    ensure!(complete, "the supervisor of this call was killed; some of it may still run");
    Ok(match report.map(c_int::from_ne_bytes) {
        [TOLD, _] if late => End::TimedOut,
        [TOLD, _] => End::Interrupted,
        [status, stragglers] => End::Exited { status: ExitStatus::from_raw(status), stragglers },
    })
}

fn command(shell: &Shell<'_>, output: PipeWriter, link: RawFd) -> Result<Command> {
    static BASH: LazyLock<Option<PathBuf>> = LazyLock::new(find_bash);
    let Some(bash) = &*BASH else { bail!("cannot find bash; install it, or put it on PATH") };
    let mut command = Command::new(bash);
    command.arg("-c").arg(shell.command).current_dir(shell.dir);
    command.env_clear().envs(shell.env.iter().map(|(name, value)| (name, value)));
    let [input, stdout] = [shell.input, shell.stdout].map(|file| file.map(File::try_clone));
    command.stdin(input.transpose()?.map_or_else(Stdio::null, Into::into));
    command.stdout(match stdout {
        Some(stdout) => Stdio::from(stdout?),
        None => output.try_clone()?.into(),
    });
    command.stderr(output);
    let (held, seal, grace) = (shell.held.as_raw_fd(), shell.confined.seal(), shell.grace);
    // SAFETY: `supervise` keeps to what is allowed after the fork of a threaded process.
    unsafe { command.pre_exec(move || supervise(link, held, seal, grace)) };
    Ok(command)
}

/// Run a program where this process reads and writes, with its rights, and wait for it: a
/// pager, or git. `input` is what it reads instead, and a variable without value is taken
/// from it. A Ctrl-C is the program's alone meanwhile.
pub fn run_in_terminal(
    program: impl AsRef<OsStr>,
    arguments: &[OsString],
    variables: &[(&str, Option<OsString>)],
    input: Option<&str>,
) -> io::Result<ExitStatus> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(if input.is_some() { Stdio::piped() } else { Stdio::inherit() });
    for (name, value) in variables {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    let mut child = command.spawn()?;
    // SAFETY: ignoring a signal runs nothing. After the start, or the program would inherit it.
    let before = unsafe { libc::signal(libc::SIGINT, libc::SIG_IGN) };
    // A pager may be left before it has read everything.
    let _ = child.stdin.take().zip(input).map(|(mut to, text)| to.write_all(text.as_bytes()));
    let ended = child.wait();
    // SAFETY: what was there before.
    unsafe { libc::signal(libc::SIGINT, before) };
    ended
}

/// Run a program that reads nothing, with this process's rights, and take all that it says.
pub fn run_for_answer(program: impl AsRef<OsStr>, arguments: &[String]) -> io::Result<Output> {
    Command::new(program).args(arguments).stdin(Stdio::null()).output()
}

/// Start a program that goes on after this one, such as a browser, and wait so long for it to
/// end all the same. How it ended, if it did.
pub fn start_apart(
    program: impl AsRef<OsStr>,
    arguments: &[&OsStr],
    patience: Duration,
) -> io::Result<Option<ExitStatus>> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // A Ctrl-C in the shell is not for it.
    let mut child = command.process_group(0).spawn()?;
    let (sender, ended) = channel();
    thread::spawn(move || sender.send(child.wait()));
    ended.recv_timeout(patience).ok().transpose()
}

/// By absolute path only: what a relative one means depends on where the host stands.
fn find_bash() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let fixed = ["/bin", "/usr/bin"].map(PathBuf::from).into_iter();
    let folders = fixed.chain(std::env::split_paths(&path).filter(|folder| folder.is_absolute()));
    folders.map(|folder| folder.join("bash")).find(|bash| bash.is_file())
}

// All that follows runs after the fork, too: no allocation, no lock, no panic.

/// In the process that is to become bash: put a supervisor above it. Returns in the lower
/// one only.
fn supervise(link: RawFd, held: RawFd, seal: Option<RawFd>, grace: Duration) -> io::Result<()> {
    // SAFETY: system calls only, on live values and on descriptors of this process.
    unsafe {
        libc::setsid();
        libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1);
        let close_from = |first: RawFd, flags: libc::c_uint| {
            libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, flags)
        };
        // Linux 5.11 can. Confinement needs a newer one anyway.
        if close_from(3, libc::CLOSE_RANGE_CLOEXEC) != 0 {
            return Err(io::Error::last_os_error());
        }
        let supervisor = libc::getpid();
        let bash = libc::fork();
        if bash < 0 {
            return Err(io::Error::last_os_error());
        } else if bash > 0 {
            // Bash does this too: whoever comes first.
            libc::setpgid(bash, bash);
            libc::dup2(link, LINK);
            libc::dup2(held, HELD);
            close_from(HELD + 1, 0);
            let report = Tree::new(bash).outlast(grace);
            libc::write(LINK, report.as_ptr().cast(), size_of_val(&report));
            libc::_exit(0);
        }
        libc::setpgid(0, 0);
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        if libc::getppid() != supervisor {
            libc::_exit(1);
        }
        for (resource, most) in LIMITS {
            let mut limit: libc::rlimit = mem::zeroed();
            libc::getrlimit(resource, &raw mut limit);
            limit.rlim_max = limit.rlim_max.min(most);
            limit.rlim_cur = limit.rlim_cur.min(most);
            libc::setrlimit(resource, &raw const limit);
        }
        if seal.is_some_and(|seal| libc::syscall(libc::SYS_landlock_restrict_self, seal, 0) != 0) {
            return Err(io::Error::last_os_error());
        }
        (1..=64).for_each(|signal| _ = libc::signal(signal, libc::SIG_DFL));
    }
    mask(libc::SIG_UNBLOCK);
    Ok(())
}

/// The processes below the supervisor.
struct Tree {
    bash: libc::pid_t,
    /// Bash's, once it has ended.
    status: Option<c_int>,
    /// Tells when a child has ended.
    children: RawFd,
    /// Processes that had to be killed.
    killed: c_int,
}

impl Tree {
    fn new(bash: libc::pid_t) -> Self {
        // SAFETY: a signal set of its own. The signal is blocked since before the fork.
        let children = unsafe {
            let mut set = mem::zeroed();
            libc::sigemptyset(&raw mut set);
            libc::sigaddset(&raw mut set, libc::SIGCHLD);
            libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)
        };
        Self { bash, status: None, children, killed: 0 }
    }

    /// Wait until bash has ended or the host wants it to, and end what is left then. Bash's
    /// status (or `TOLD`), and how many had to be killed.
    ///
    /// A fork bomb leaves children to reap without end, so that no round may reap them all.
    fn outlast(&mut self, grace: Duration) -> [c_int; 2] {
        let mut told = false;
        while self.status.is_none() && !told {
            let time = if self.reap() == 0 { -1 } else { 0 };
            told = self.wait(LINK, time);
        }
        if told {
            self.kill_group(libc::SIGTERM);
        }
        // The clock is a plain system call.
        let end = Instant::now() + grace;
        let mut left = true;
        while left && Instant::now() < end {
            match self.reap() {
                0 => _ = self.wait(-1, millis_until(end)),
                pid => left = pid > 0,
            }
        }
        self.killed = 0;
        while left && self.kill() {
            let reaped = (0..ROUND).map(|_| self.reap()).find(|pid| *pid <= 0);
            left = reaped != Some(-1);
            if reaped == Some(0) {
                self.wait(-1, PAUSE);
            }
        }
        [self.status.filter(|_| !told).unwrap_or(TOLD), self.killed]
    }

    /// Take in one who has ended: the process, 0 when nobody has, -1 when nobody is left.
    fn reap(&mut self) -> libc::pid_t {
        let mut status = 0;
        // SAFETY: a live integer.
        let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
        if pid == self.bash {
            self.status = Some(status);
        } else if pid > 0 && libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGKILL {
            self.killed += 1;
        }
        pid
    }

    /// Until a child ends, this descriptor has something to say (which is the answer), or
    /// time is up.
    fn wait(&self, descriptor: RawFd, time: c_int) -> bool {
        let [_, said] = poll([self.children, descriptor], time);
        let mut info = MaybeUninit::<libc::signalfd_siginfo>::uninit();
        // SAFETY: room of that size. One read takes all: pending signals do not add up.
        unsafe { libc::read(self.children, info.as_mut_ptr().cast(), size_of_val(&info)) };
        said
    }

    /// Kill bash's group at one blow, before it can fork on, and then all children there
    /// are: theirs become ours. Dead ones still fill the process table then, so that a fork
    /// bomb that has filled it cannot grow. False when nothing more can be done, since the
    /// children are not listed.
    fn kill(&self) -> bool {
        self.kill_group(libc::SIGKILL);
        kill_children() || self.status.is_none()
    }

    /// While we have a child in the group, its number is nobody else's.
    fn kill_group(&self, signal: c_int) {
        let mut info = MaybeUninit::<libc::siginfo_t>::uninit();
        let group = self.bash as libc::id_t;
        let how = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
        // SAFETY: room of that size, and numbers.
        unsafe {
            if libc::waitid(libc::P_PGID, group, info.as_mut_ptr(), how) == 0 {
                libc::kill(-self.bash, signal);
            }
        }
    }
}

/// Kill all children there are at the moment. False when they cannot be listed.
fn kill_children() -> bool {
    let mut buffer = [0_u8; 4096];
    // SAFETY: system calls on a buffer and a descriptor of its own.
    unsafe {
        let list = libc::open(c"/proc/thread-self/children".as_ptr(), libc::O_RDONLY);
        let mut pid = 0;
        loop {
            let count = libc::read(list, buffer.as_mut_ptr().cast(), buffer.len());
            if count <= 0 {
                return libc::close(list) == 0;
            }
            // Numbers, each followed by a space; a piece may end within one.
            for &byte in buffer.iter().take(count as usize) {
                if byte.is_ascii_digit() {
                    pid = pid * 10 + libc::pid_t::from(byte - b'0');
                } else {
                    libc::kill(mem::take(&mut pid), libc::SIGKILL);
                }
            }
        }
    }
}

/// Which of these descriptors have something to say, within so many milliseconds (-1: no
/// limit). A negative descriptor has nothing to say.
fn poll(descriptors: [RawFd; 2], wait: c_int) -> [bool; 2] {
    let mut polled = descriptors.map(|fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 });
    // SAFETY: an array of two. When it fails, `revents` stay 0.
    unsafe { libc::poll(polled.as_mut_ptr(), 2, wait) };
    polled.map(|poll| poll.revents != 0)
}

/// Rounded up, so that whoever waits so long does not wake just before it, again and again.
fn millis_until(end: Instant) -> c_int {
    let millis = end.saturating_duration_since(Instant::now()).as_millis();
    c_int::try_from(millis + 1).unwrap_or(c_int::MAX)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_program_in_the_terminal_reads_what_it_is_given() {
        let temp = tempfile::tempdir().unwrap();
        let said = temp.path().join("said");
        let command = r#"cat > "$0"; printf %s "$A$B" >> "$0"; exit 3"#;
        let words = ["-c".into(), command.into(), said.clone().into_os_string()];
        let variables = [("A", Some("a".into())), ("B", None)];
        let ended = run_in_terminal("sh", &words, &variables, Some("text ")).unwrap();
        assert_eq!(ended.code(), Some(3));
        assert_eq!(fs::read_to_string(said).unwrap(), "text a");
        // Whoever does not read on is no trouble.
        let long = "x".repeat(1 << 20);
        assert!(run_in_terminal("true", &[], &[], Some(&long)).unwrap().success());
        let absent = run_in_terminal("no-such-program", &[], &[], None).unwrap_err();
        assert_eq!(absent.kind(), ErrorKind::NotFound);
    }
}
