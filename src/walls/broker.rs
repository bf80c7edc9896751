//! Modes, times and owners of files, which Landlock does not look at: the processes of a hand
//! have theirs changed by a thread of the host that is not confined, the broker.
//!
//! Owns what becomes of these calls. The kernel stops a caller and tells the broker, which opens
//! the file that the caller means, without reading or changing anything, and decides on what it
//! has opened: what lies beneath a write grant of every link, it changes itself, by its
//! descriptor and never again by its path. All else is "not permitted". It has no capabilities, so
//! that the kernel lets it do no more than it would let the caller. Knows no chains, only folders.
//!
//! Stricter than the kernel: no set-user-ID and no set-group-ID bits on files, which are powerless
//! for hands and would lend the user's rights to others, and no paths through `/proc` but that of
//! an own descriptor. Where tracing is forbidden altogether (Yama's `ptrace_scope` 2 and 3), and
//! for programs that hide their memory, only what is named by a descriptor can be changed.
//!
//! Not covered: a file that has another name outside has it changed there as well. A caller that
//! a signal reaches just before the broker hears it, and that does not want calls to begin anew
//! after one, is told "interrupted", which these calls are nowhere else.

use std::ffi::{CStr, CString, c_int, c_long};
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::mem;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::PathBuf;
use std::sync::mpsc::{self, Sender};
use std::thread;

use seccompiler::apply_filter;

use crate::walls::calls::{self, FCHMODAT2};
use crate::walls::thread::{drop_capabilities, mask, open_at};

/// Bits of a mode that lend rights when a file is run.
const LENDING: u64 = 0o6000;

/// A broker that waits for whom it is to serve.
#[derive(Debug)]
pub struct Broker(Sender<OwnedFd>);

impl Broker {
    /// Start one that allows changes beneath one folder of each of these at least, while the
    /// calling thread is not confined yet. It ends when all whom it serves have ended.
    pub fn start(grants: Vec<Vec<PathBuf>>) -> io::Result<Self> {
        let (sender, receiver) = mpsc::channel();
        thread::Builder::new().name("broker".to_owned()).spawn(move || {
            // Interrupted it could fail to answer, and the caller would wait for ever.
            mask(libc::SIG_BLOCK);
            // Nothing comes where the caller could not be confined.
            if let Ok(listener) = receiver.recv()
                && drop_capabilities().is_ok()
            {
                serve(&listener, &grants);
            }
        })?;
        Ok(Self(sender))
    }

    /// Have it serve the calling thread and all that this will start. Once it is gone, their
    /// calls fail.
    pub fn serve_this_thread(self) -> io::Result<()> {
        let mut filter = calls::brokered(libc::SECCOMP_RET_USER_NOTIF);
        let program =
            libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr().cast() };
        let (set, program) = (libc::SECCOMP_SET_MODE_FILTER, &raw const program);
        // A caller that is being served is not interrupted but by its end.
        let flags =
            libc::SECCOMP_FILTER_FLAG_NEW_LISTENER | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;
        // SAFETY: a live filter, as long as it says.
        let listener = unsafe { libc::syscall(libc::SYS_seccomp, set, flags, program) };
        if listener >= 0 {
            // SAFETY: made above, and nobody else's.
            let _ = self.0.send(unsafe { OwnedFd::from_raw_fd(listener as RawFd) });
            return Ok(());
        }
        match io::Error::last_os_error() {
            // There can be but one, and somebody above this program has it: a container's manager.
            error if error.kind() == ErrorKind::ResourceBusy => {
                let refused = calls::brokered(libc::SECCOMP_RET_ERRNO | libc::EPERM as u32);
                apply_filter(&refused).map_err(io::Error::other)
            }
            error => Err(error),
        }
    }
}

fn serve(listener: &OwnedFd, grants: &[Vec<PathBuf>]) {
    let fd = listener.as_raw_fd();
    let mut poll = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    // Faster, where the kernel can. The caller waits anyway.
    // SAFETY: a live descriptor, and a number (`SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP`).
    unsafe { libc::ioctl(fd, libc::SECCOMP_IOCTL_NOTIF_SET_FLAGS, 1_u64) };
    while poll.revents & libc::POLLHUP == 0 {
        // SAFETY: one live entry, and the structures that these requests take. All zero is what
        // the first is to be before. A request fails where the caller is gone.
        unsafe {
            libc::poll(&raw mut poll, 1, -1);
            let mut asked: libc::seccomp_notif = mem::zeroed();
            if poll.revents & libc::POLLIN == 0
                || libc::ioctl(fd, libc::SECCOMP_IOCTL_NOTIF_RECV, &raw mut asked) != 0
            {
                continue;
            }
            let error = match answer(fd, &asked, grants).map_err(|error| error.raw_os_error()) {
                Ok(()) => 0,
                // Through `/proc`, too.
                Err(Some(libc::ELOOP)) => libc::EPERM,
                Err(number) => number.unwrap_or(libc::EIO),
            };
            let told = libc::seccomp_notif_resp { id: asked.id, val: 0, error: -error, flags: 0 };
            libc::ioctl(fd, libc::SECCOMP_IOCTL_NOTIF_SEND, &raw const told);
        }
    }
}

fn answer(listener: RawFd, asked: &libc::seccomp_notif, grants: &[Vec<PathBuf>]) -> io::Result<()> {
    let call = Call::new(c_long::from(asked.data.nr), asked.data.args)?;
    let folder = CString::new(format!("/proc/{}", asked.pid))?;
    let caller = Caller(open_at(libc::AT_FDCWD, &folder, libc::O_PATH | libc::O_DIRECTORY, 0)?);
    let valid = libc::SECCOMP_IOCTL_NOTIF_ID_VALID;
    // SAFETY: a live number.
    if unsafe { libc::ioctl(listener, valid, &raw const asked.id) } != 0 {
        return error(libc::ESRCH);
    }
    let file = File::from(caller.open(&call)?);
    let lends = call.general == FCHMODAT2 && call.what & LENDING != 0;
    if !may_change(&file, grants)? || lends && !file.metadata()?.is_dir() {
        return error(libc::EPERM);
    }
    let times;
    let what = match call.what {
        at @ 1.. if call.general == libc::SYS_utimensat => {
            times = caller.memory::<{ size_of::<[libc::timespec; 2]>() }>(at)?;
            times.as_ptr() as u64
        }
        what => what,
    };
    let flags = call.flags | libc::AT_EMPTY_PATH as u64;
    let [fourth, fifth] = call.group.map_or([flags, 0], |group| [group, flags]);
    let (file, empty) = (file.as_raw_fd(), c"".as_ptr());
    // SAFETY: a live descriptor, a string and times that live on, and numbers.
    match unsafe { libc::syscall(call.general, file, empty, what, fourth, fifth) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// What is asked, whichever call it was, as one of the three that stand for all.
struct Call {
    general: c_long,
    folder: u64,
    /// Where the path is in the caller's memory; none where the descriptor itself is meant.
    path: Option<u64>,
    /// The mode, the owner, or where the times are.
    what: u64,
    group: Option<u64>,
    flags: u64,
}

impl Call {
    fn new(number: c_long, arguments: [u64; 6]) -> io::Result<Self> {
        let [first, second, third, fourth, fifth, _] = arguments;
        let (mode, owner, times) = (FCHMODAT2, libc::SYS_fchownat, libc::SYS_utimensat);
        let (below, held) = ((first, Some(second)), (first, None));
        let here = (libc::AT_FDCWD as u64, Some(first));
        let itself = libc::AT_SYMLINK_NOFOLLOW as u64;
        let (general, (folder, path), what, group, flags) = match number {
            libc::SYS_fchmod => (mode, held, second, None, 0),
            libc::SYS_fchmodat => (mode, below, third, None, 0),
            FCHMODAT2 => (mode, below, third, None, fourth),
            libc::SYS_fchown => (owner, held, second, Some(third), 0),
            libc::SYS_fchownat => (owner, below, third, Some(fourth), fifth),
            libc::SYS_utimensat if second == 0 => (times, held, third, None, fourth),
            libc::SYS_utimensat => (times, below, third, None, fourth),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_chmod => (mode, here, second, None, 0),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_chown => (owner, here, second, Some(third), 0),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_lchown => (owner, here, second, Some(third), itself),
            _ => return error(libc::ENOSYS),
        };
        Ok(Self { general, folder, path, what, group, flags })
    }

    fn has(&self, flag: c_int) -> bool {
        self.flags & flag as u64 != 0
    }
}

/// A caller's folder in `/proc`, which is nobody else's once the caller is gone.
struct Caller(OwnedFd);

impl Caller {
    /// The file that is meant. What a symlink leads to is settled here, once.
    fn open(&self, call: &Call) -> io::Result<OwnedFd> {
        let Some(path) = call.path else { return self.descriptor(call.folder) };
        let path = self.memory::<{ libc::PATH_MAX as usize }>(path)?;
        let Ok(name) = CStr::from_bytes_until_nul(&path) else { return error(libc::ENAMETOOLONG) };
        if name.is_empty() && call.has(libc::AT_EMPTY_PATH) {
            return self.descriptor(call.folder);
        }
        let follows = !call.has(libc::AT_SYMLINK_NOFOLLOW);
        // C libraries name what they hold open like this. Here it would be the host's.
        let own = name.to_str().ok().and_then(|name| name.strip_prefix("/proc/self/fd/"));
        if let Some(Ok(own)) = own.map(str::parse::<u32>).filter(|_| follows) {
            return self.descriptor(u64::from(own));
        }
        let flags = libc::O_PATH | if follows { 0 } else { libc::O_NOFOLLOW };
        let open = |folder| open_at(folder, name, flags, libc::RESOLVE_NO_MAGICLINKS);
        if name.to_bytes().starts_with(b"/") {
            return open(libc::AT_FDCWD);
        }
        open(self.descriptor(call.folder)?.as_raw_fd())
    }

    fn descriptor(&self, number: u64) -> io::Result<OwnedFd> {
        let name = match number as c_int {
            libc::AT_FDCWD => "cwd".to_owned(),
            number => format!("fd/{number}"),
        };
        let opened = open_at(self.0.as_raw_fd(), &CString::new(name)?, libc::O_PATH, 0);
        opened.or_else(|_| error(libc::EBADF))
    }

    /// What is there, and zero where it ends before.
    fn memory<const SIZE: usize>(&self, at: u64) -> io::Result<[u8; SIZE]> {
        let memory = File::from(open_at(self.0.as_raw_fd(), c"mem", libc::O_RDONLY, 0)?);
        let mut read = [0; SIZE];
        memory.read_at(&mut read, at).map_or_else(|_| error(libc::EFAULT), |_| Ok(read))
    }
}

/// Whether it lies beneath a grant of each link, or nowhere: then only who holds it open has it.
fn may_change(file: &File, grants: &[Vec<PathBuf>]) -> io::Result<bool> {
    let path = fs::read_link(format!("/proc/thread-self/fd/{}", file.as_raw_fd()))?;
    let name = path.as_os_str().as_bytes();
    let gone = name.ends_with(b" (deleted)") && file.metadata()?.nlink() == 0;
    let nowhere = gone || name.starts_with(b"pipe:[") || name.starts_with(b"socket:[");
    let granted = |link: &Vec<PathBuf>| link.iter().any(|grant| path.starts_with(grant));
    Ok(nowhere || grants.iter().all(granted))
}

fn error<T>(number: c_int) -> io::Result<T> {
    Err(io::Error::from_raw_os_error(number))
}
