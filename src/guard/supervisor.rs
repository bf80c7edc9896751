//! The one place that starts processes: a bash call and the small supervisor above it.
//!
//! Owns a call's whole process tree. The invariant: when a call is over, for whatever
//! reason (bash ended, time is up, somebody interrupted, the host was killed), nothing
//! that it started runs any more, `setsid` survivors included. Knows neither tools nor
//! policy: what the calling thread is confined to, its children inherit.
//!
//! The supervisor is forked from the host and executes nothing. It is the subreaper of its
//! tree, so that every orphan becomes its child: one supervisor a call, since a shared one
//! could not tell whose orphan it reaps. It holds one end of a socket pair, the link. When
//! the other end closes or is shut down, it ends the tree; when the tree has ended, it says
//! over the link how. After the fork of a threaded process only async-signal-safe calls are
//! allowed: everything that allocates is prepared before, in `Plan`.
//!
//! Not covered: a command with the user's own rights can kill the supervisor. Bash dies with
//! it, what bash left in the background does not, and the call says that it failed.

use std::ffi::{CStr, CString, OsStr, OsString, c_char, c_int};
use std::fs::File;
use std::io::{self, PipeReader, Read};
use std::mem::{self, MaybeUninit};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::ptr;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Milliseconds a tree has to end by itself, once told to (SIGTERM) or once its bash is gone:
/// half of what an interrupt may take. Without it `bash -c 'exec > >(tee log); ls'`
/// would lose what `tee` has not written yet.
const GRACE: i64 = 50;
/// Milliseconds between two rounds of killing where no child's end is heard of.
const ROUND: c_int = 5;
/// The link's descriptor in the supervisor; below are stdin, stdout and stderr.
const LINK: RawFd = 3;

/// What to run.
#[derive(Debug, Clone, Copy)]
pub struct Shell<'a> {
    /// Given to `bash -c`.
    pub command: &'a str,
    /// Its working directory.
    pub dir: &'a Path,
    /// Its whole environment.
    pub env: &'a [(OsString, OsString)],
    /// How long it may take.
    pub timeout: Duration,
}

/// How a call ended. Its tree is gone in each case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Bash exited, and so many processes it had left behind were ended.
    Exited {
        /// Its exit code.
        code: i32,
        /// How many were ended.
        stragglers: i32,
    },
    /// Something killed bash with this signal.
    Killed(i32),
    /// Its time was up.
    TimedOut,
    /// The leash was dropped.
    Interrupted,
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
        end_tree(&self.0);
    }
}

/// Run bash until its tree has ended; `output` hears what it says, stdout and stderr in
/// the order in which it was said.
pub fn run(shell: &Shell<'_>, link: Link, output: &mut dyn FnMut(&[u8])) -> Result<End> {
    static BASH: LazyLock<Option<PathBuf>> = LazyLock::new(find_bash);
    let Some(bash) = &*BASH else { bail!("cannot find bash; install it, or put it on PATH") };
    let deadline = Instant::now() + shell.timeout;
    let (pipe, writer) = io::pipe().context("cannot make a pipe for bash")?;
    let null = File::open("/dev/null").context("cannot open /dev/null")?;
    let strings = Strings::new(bash, shell)?;
    let plan = strings.plan([null.as_raw_fd(), writer.as_raw_fd(), link.supervisor.as_raw_fd()]);
    let supervisor = start(&plan).context("cannot start a process for bash")?;
    drop((writer, null, link.supervisor));
    let mut host = Host { pipe: Some(pipe), link: link.host, buffer: vec![0; 1 << 16], output };
    let (report, timed_out) = host.listen(deadline);
    // SAFETY: our own child, which nothing else waits for.
    unsafe { libc::waitpid(supervisor, ptr::null_mut(), 0) };
    host.drain();
    match report {
        None => bail!("the supervisor of this call was killed; what it had started may still run"),
        Some(Report { kind: Report::DIR, value, .. }) => Err(io::Error::from_raw_os_error(value))
            .with_context(|| format!("cannot change into {}", shell.dir.display())),
        Some(Report { kind: Report::EXEC, value: libc::E2BIG, .. }) => {
            bail!("the command is too long; write it to a file and run that")
        }
        Some(Report { kind: Report::EXEC, value, .. }) => Err(io::Error::from_raw_os_error(value))
            .with_context(|| format!("cannot run {}", bash.display())),
        Some(Report { kind: Report::ORDERED, .. }) if timed_out => Ok(End::TimedOut),
        Some(Report { kind: Report::ORDERED, .. }) => Ok(End::Interrupted),
        Some(Report { value, .. }) if libc::WIFSIGNALED(value) => {
            Ok(End::Killed(libc::WTERMSIG(value)))
        }
        Some(Report { value, stragglers, .. }) => {
            Ok(End::Exited { code: libc::WEXITSTATUS(value), stragglers })
        }
    }
}

/// Run a program of the owner's choice on a file, in the owner's terminal, and wait for
/// it. It is no hand: it has the owner's rights and environment, and no agent can ask for it.
pub fn run_for_owner(program: &str, file: &Path) -> Result<()> {
    // An editor is often named with arguments, for instance `code --wait`.
    let mut words = program.split_whitespace();
    let name = words.next().context("no program is named")?;
    let status = std::process::Command::new(name).args(words).arg(file).status();
    let status = status.with_context(|| format!("cannot run {program}"))?;
    anyhow::ensure!(status.success(), "{program} failed ({status})");
    Ok(())
}

/// The supervisor cannot tell this from the end of the host, and need not.
fn end_tree(link: &UnixStream) {
    // It fails where the other end is gone already.
    let _ = link.shutdown(Shutdown::Write);
}

/// By absolute path only: what a relative one means depends on where the host stands.
fn find_bash() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let fixed = ["/bin", "/usr/bin"].map(PathBuf::from).into_iter();
    let folders = fixed.chain(std::env::split_paths(&path).filter(|folder| folder.is_absolute()));
    folders.map(|folder| folder.join("bash")).find(|bash| bash.is_file())
}

/// The host's side while a call runs.
struct Host<'a> {
    /// Until its end was read.
    pipe: Option<PipeReader>,
    link: Arc<UnixStream>,
    buffer: Vec<u8>,
    output: &'a mut dyn FnMut(&[u8]),
}

impl Host<'_> {
    /// Pass output on until the supervisor reports or is gone. Whether time was up, too.
    fn listen(&mut self, deadline: Instant) -> (Option<Report>, bool) {
        let mut timed_out = false;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            // Rounded up, so that it is not woken just before the deadline again and again.
            let wait = if timed_out { -1 } else { left.as_millis() as c_int + 1 };
            let pipe = self.pipe.as_ref().map_or(-1, AsRawFd::as_raw_fd);
            let [said, reported] = poll([pipe, self.link.as_raw_fd()], wait);
            if said {
                self.read();
            }
            if reported {
                let mut bytes = [0; size_of::<Report>()];
                let complete = (&*self.link).read_exact(&mut bytes).is_ok();
                // SAFETY: three integers, for which every pattern of bits is valid.
                return (complete.then(|| unsafe { mem::transmute(bytes) }), timed_out);
            }
            if !timed_out && left.is_zero() {
                timed_out = true;
                end_tree(&self.link);
            }
        }
    }

    /// Take what is in the pipe, without waiting for its end: a descriptor of it may have
    /// been handed to a process outside the tree. Bounded, since that one may still write;
    /// a pipe holds 1 MiB at most.
    fn drain(&mut self) {
        for _ in 0..=(1 << 20) / self.buffer.len() {
            match &self.pipe {
                Some(pipe) if poll([pipe.as_raw_fd(), -1], 0)[0] => self.read(),
                _ => return,
            }
        }
    }

    fn read(&mut self) {
        let Some(pipe) = &mut self.pipe else { return };
        match pipe.read(&mut self.buffer) {
            Ok(count @ 1..) => (self.output)(&self.buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            _ => self.pipe = None,
        }
    }
}

/// Which of these descriptors have something to say, within so many milliseconds (-1: no
/// limit). A negative descriptor has nothing to say.
fn poll(descriptors: [RawFd; 2], wait: c_int) -> [bool; 2] {
    let mut polled = descriptors.map(|fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 });
    // SAFETY: an array of two. When it fails (EINTR), `revents` stay 0.
    unsafe { libc::poll(polled.as_mut_ptr(), 2, wait) };
    polled.map(|poll| poll.revents != 0)
}

/// What the kernel wants to have as C strings.
struct Strings {
    program: CString,
    dir: CString,
    argv: [CString; 3],
    env: Vec<CString>,
}

/// Everything the supervisor and bash need, as they need it: pointers into `Strings`.
struct Plan<'a> {
    program: &'a CStr,
    dir: &'a CStr,
    argv: [*const c_char; 4],
    env: Vec<*const c_char>,
    /// Standard input, output (and error), the link.
    descriptors: [RawFd; 3],
}

impl Strings {
    fn new(bash: &Path, shell: &Shell<'_>) -> Result<Self> {
        let text = |what: &str, text: &OsStr| {
            CString::new(text.as_bytes()).with_context(|| format!("{what} holds a NUL character"))
        };
        let variable = |(name, value): &(OsString, OsString)| {
            text("the environment", &[name.as_os_str(), value].join(OsStr::new("=")))
        };
        Ok(Self {
            program: text("the path of bash", bash.as_os_str())?,
            dir: text("the path of the workspace", shell.dir.as_os_str())?,
            argv: [c"bash".into(), c"-c".into(), text("the command", shell.command.as_ref())?],
            env: shell.env.iter().map(variable).collect::<Result<_>>()?,
        })
    }

    fn plan(&self, descriptors: [RawFd; 3]) -> Plan<'_> {
        let [name, flag, command] = self.argv.each_ref().map(|text| text.as_ptr());
        let env = self.env.iter().map(|text| text.as_ptr()).chain([ptr::null()]).collect();
        let argv = [name, flag, command, ptr::null()];
        Plan { program: &self.program, dir: &self.dir, argv, env, descriptors }
    }
}

/// What the supervisor says over the link, once.
#[repr(C)]
struct Report {
    kind: c_int,
    /// A status as `waitpid` gives it, or an error number.
    value: c_int,
    stragglers: c_int,
}

impl Report {
    /// Bash ended by itself.
    const ENDED: c_int = 0;
    /// Bash was ended over the link.
    const ORDERED: c_int = 1;
    /// Bash never was: no such working directory.
    const DIR: c_int = 2;
    /// Bash never was: no such program, or no process for it.
    const EXEC: c_int = 3;

    fn send(&self) {
        // SAFETY: a live value of that size.
        unsafe { libc::write(LINK, ptr::from_ref(self).cast(), size_of::<Self>()) };
    }
}

/// Fork the supervisor. Signals are held back across the fork: a Ctrl-C that reached it
/// before it has left the terminal's process group would run the host's handlers in it.
fn start(plan: &Plan<'_>) -> io::Result<libc::pid_t> {
    // SAFETY: plain system calls on live values; the child never returns from `supervise`.
    unsafe {
        let (mut all, mut before) = (mem::zeroed(), mem::zeroed());
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before);
        let pid = libc::fork();
        if pid == 0 {
            supervise(plan);
        }
        let failed = io::Error::last_os_error();
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, ptr::null_mut());
        if pid < 0 { Err(failed) } else { Ok(pid) }
    }
}

// From here on everything runs after the fork: no allocation, no lock, no panic.

/// The supervisor, from its birth to its end.
unsafe fn supervise(plan: &Plan<'_>) -> ! {
    // SAFETY: system calls only, on descriptors of its own.
    unsafe {
        libc::setsid();
        libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1);
        // The standard library keeps 0, 1 and 2 open, so none of these is among them, and
        // the link may be overwritten last.
        let [null, output, link] = plan.descriptors;
        for (from, to) in [(null, 0), (output, 1), (output, 2), (link, LINK)] {
            libc::dup2(from, to);
        }
        libc::fcntl(LINK, libc::F_SETFD, libc::FD_CLOEXEC);
        close_from(LINK + 1);
        let own = libc::getpid();
        let bash = libc::fork();
        if bash == 0 {
            become_bash(plan, own);
        }
        if bash < 0 {
            Report { kind: Report::EXEC, value: errno(), stragglers: 0 }.send();
            libc::_exit(1);
        }
        // Bash does this too: whoever comes first.
        libc::setpgid(bash, bash);
        (0..LINK).for_each(|fd| _ = libc::close(fd));
        let mut tree = Tree::new(bash);
        let ordered = tree.outlast();
        tree.end(ordered);
        let kind = if ordered { Report::ORDERED } else { Report::ENDED };
        Report { kind, value: tree.status.unwrap_or(0), stragglers: tree.killed }.send();
        libc::_exit(0);
    }
}

/// The forked child turns into bash, or says why not.
unsafe fn become_bash(plan: &Plan<'_>, supervisor: libc::pid_t) -> ! {
    // SAFETY: system calls only, on what `plan` has prepared.
    unsafe {
        libc::setpgid(0, 0);
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        if libc::getppid() != supervisor {
            libc::_exit(1);
        }
        let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        libc::setrlimit(libc::RLIMIT_CORE, &raw const none);
        (1..=64).for_each(|signal| _ = libc::signal(signal, libc::SIG_DFL));
        let mut mask = mem::zeroed();
        libc::sigemptyset(&raw mut mask);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const mask, ptr::null_mut());
        let kind = if libc::chdir(plan.dir.as_ptr()) == 0 {
            libc::execve(plan.program.as_ptr(), plan.argv.as_ptr(), plan.env.as_ptr());
            Report::EXEC
        } else {
            Report::DIR
        };
        Report { kind, value: errno(), stragglers: 0 }.send();
        libc::_exit(127);
    }
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
        // SAFETY: a signal set of its own. All signals are blocked since before the fork.
        let children = unsafe {
            let mut set = mem::zeroed();
            libc::sigemptyset(&raw mut set);
            libc::sigaddset(&raw mut set, libc::SIGCHLD);
            libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)
        };
        Self { bash, status: None, children, killed: 0 }
    }

    /// Wait until bash has ended; true when it is to be ended instead.
    fn outlast(&mut self) -> bool {
        loop {
            self.reap();
            if self.status.is_some() {
                return false;
            }
            if self.wait(LINK, -1) {
                return true;
            }
        }
    }

    /// End what is left. Killing the children is enough: theirs become ours. Where `/proc`
    /// does not list them, no more than bash's group can be reached.
    fn end(&mut self, ordered: bool) {
        if ordered {
            // SAFETY: bash was not waited for, so the group is still its own.
            unsafe { libc::kill(-self.bash, libc::SIGTERM) };
        }
        let end = now() + GRACE;
        while self.reap() && now() < end {
            self.wait(-1, (end - now()).max(0) as c_int);
        }
        self.killed = 0;
        while self.reap() {
            if !kill_children() {
                // SAFETY: as above; afterwards only a group with members could be hit.
                unsafe { libc::kill(-self.bash, libc::SIGKILL) };
                if self.status.is_some() {
                    return;
                }
            }
            self.wait(-1, ROUND);
        }
    }

    /// Take in who has ended. Whether anybody is left.
    fn reap(&mut self) -> bool {
        loop {
            let mut status = 0;
            // SAFETY: a live integer.
            let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
            if pid <= 0 {
                return pid == 0;
            }
            if pid == self.bash {
                self.status = Some(status);
            } else if libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGKILL {
                self.killed += 1;
            }
        }
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

/// Close this descriptor and all above.
unsafe fn close_from(first: RawFd) {
    // SAFETY: nothing in this process uses them.
    unsafe {
        if libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, 0) != 0 {
            // Before Linux 5.9, or refused by a filter around us.
            let mut limit = mem::zeroed();
            libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit);
            (first..limit.rlim_cur.min(1 << 20) as RawFd).for_each(|fd| _ = libc::close(fd));
        }
    }
}

/// Milliseconds on a clock that is never set.
fn now() -> i64 {
    // SAFETY: a live value.
    unsafe {
        let mut time: libc::timespec = mem::zeroed();
        libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time);
        time.tv_sec * 1000 + time.tv_nsec / 1_000_000
    }
}

fn errno() -> c_int {
    // SAFETY: this thread's own.
    unsafe { *libc::__errno_location() }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    /// What starts a process may be written in this file only, tests aside.
    #[test]
    fn nothing_else_starts_processes() {
        let starters = ["Command::new(", "posix_spawn", "fork(", "execv"];
        let (mut folders, mut seen) = (vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")], 0);
        while let Some(folder) = folders.pop() {
            for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
                if path.is_dir() {
                    folders.push(path);
                } else if !path.ends_with("guard/supervisor.rs") {
                    let text = fs::read_to_string(&path).unwrap();
                    let code = text.split("#[cfg(test)]").next().unwrap();
                    for starter in starters {
                        assert!(!code.contains(starter), "{starter} in {}", path.display());
                    }
                    seen += 1;
                }
            }
        }
        assert!(seen > 5, "only {seen} files were looked at");
    }
}
