//! What becomes of modes, times and owners of files in a hand, beside the same where nothing is
//! confined.

use std::ffi::{CString, c_int, c_long};
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::files::withheld::Withheld;
use crate::guard::confine::{Kept, confine};
use crate::guard::hand::Hand;
use crate::guard::policy::{Chain, Link, Network, Policy};
use crate::kernel::interrupt::interrupt;
use crate::kernel::tool::{Action, Hands as _};
use crate::walls::broker::Broker;
use crate::walls::calls::FCHMODAT2;
use crate::walls::thread::open_at;

/// Three folders with a file and a folder in each, all of which can be read: the first may be
/// changed, the second by one link of two, the third by none.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        for folder in ["in", "half", "out"] {
            fs::create_dir_all(place.path(folder).join("folder")).unwrap();
            fs::write(place.path(folder).join("file"), "x").unwrap();
            let mode = fs::Permissions::from_mode(0o644);
            fs::set_permissions(place.path(folder).join("file"), mode).unwrap();
        }
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().canonicalize().unwrap().join(name)
    }

    fn policy(&self) -> Policy {
        let link = |write: &[&str]| {
            let write = write.iter().map(|name| self.path(name)).collect();
            let read = vec!["/usr".into(), "/etc".into(), self.path("")];
            Link { read, write, network: Network::None, unix: false, secrets: None, tools: None }
        };
        Policy {
            workspace: self.path("in"),
            scratch: self.path("in"),
            env: Vec::new(),
            chain: Chain::Links(vec![link(&["in", "half"]), link(&["in"])]),
            own: Vec::new(),
            held: Arc::new(File::open("/dev/null").unwrap()),
            withheld: Withheld::default(),
        }
    }

    /// What comes of this in a thread that is confined, or in one that is not. Either stands
    /// in the first folder.
    fn attempt<T: Send + 'static>(
        &self,
        is_confined: bool,
        attempt: impl FnOnce() -> T + Send + 'static,
    ) -> T {
        let (policy, folder) = (self.policy(), name(&self.path("in")));
        let work = move || {
            // SAFETY: for this thread alone; a live string.
            unsafe {
                assert_eq!(libc::unshare(libc::CLONE_FS), 0);
                assert_eq!(libc::chdir(folder.as_ptr()), 0);
            }
            let _confined = is_confined.then(|| confine(&policy, &Kept::new(true)).unwrap());
            attempt()
        };
        thread::spawn(work).join().unwrap()
    }

    /// Mode, owner, group and seconds of a file; of a symlink its own.
    fn state(&self, path: &str) -> (u32, u32, u32, i64) {
        let is = self.path(path).symlink_metadata().unwrap();
        (is.mode() & 0o7777, is.uid(), is.gid(), is.mtime())
    }
}

fn name(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).unwrap()
}

fn done(result: impl Into<c_long>) -> io::Result<()> {
    if result.into() == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn times(second: i64) -> [libc::timespec; 2] {
    [libc::timespec { tv_sec: second, tv_nsec: 0 }; 2]
}

fn number(error: io::Result<()>) -> Option<i32> {
    error.unwrap_err().raw_os_error()
}

/// A way to change mode or time of the file in a folder that is told.
type Way = fn(&Path) -> io::Result<()>;

/// Each changes the mode to 0600 or the time to 1.
// SAFETY, of all: live strings and descriptors.
const WAYS: [(&str, Way); 16] = [
    #[cfg(target_arch = "x86_64")]
    ("chmod", |folder| unsafe {
        done(libc::syscall(libc::SYS_chmod, name(&folder.join("file")).as_ptr(), 0o600))
    }),
    #[cfg(not(target_arch = "x86_64"))]
    ("chmod", |folder| unsafe { done(libc::chmod(name(&folder.join("file")).as_ptr(), 0o600)) }),
    ("fchmod", |folder| {
        let file = File::open(folder.join("file"))?;
        done(unsafe { libc::fchmod(file.as_raw_fd(), 0o600) })
    }),
    ("fchmod of what may only be named", |folder| {
        let file = open_at(libc::AT_FDCWD, &name(&folder.join("file")), libc::O_PATH, 0)?;
        let path = CString::new(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
        done(unsafe { libc::chmod(path.as_ptr(), 0o600) })
    }),
    ("fchmodat", |folder| {
        let folder = File::open(folder)?;
        done(unsafe { libc::fchmodat(folder.as_raw_fd(), c"file".as_ptr(), 0o600, 0) })
    }),
    ("fchmodat upwards", |folder| {
        let folder = File::open(folder.join("folder"))?;
        done(unsafe { libc::fchmodat(folder.as_raw_fd(), c"../file".as_ptr(), 0o600, 0) })
    }),
    ("fchmodat2", |folder| {
        let (at, path) = (libc::AT_FDCWD, name(&folder.join("file")));
        let flags = libc::AT_SYMLINK_NOFOLLOW;
        done(unsafe { libc::syscall(FCHMODAT2, at, path.as_ptr(), 0o600, flags) })
    }),
    ("fchmodat2 of a descriptor", |folder| {
        let file = File::open(folder.join("file"))?.as_raw_fd().try_clone_of()?;
        let (empty, flags) = (c"".as_ptr(), libc::AT_EMPTY_PATH);
        done(unsafe { libc::syscall(FCHMODAT2, file.as_raw_fd(), empty, 0o600, flags) })
    }),
    ("a relative path", |folder| {
        let path = Path::new("..").join(folder.file_name().unwrap()).join("file");
        done(unsafe { libc::chmod(name(&path).as_ptr(), 0o600) })
    }),
    ("through a symlink", |folder| {
        let path = format!("way-{}/file", folder.file_name().unwrap().display());
        done(unsafe { libc::chmod(CString::new(path)?.as_ptr(), 0o600) })
    }),
    ("a symlink itself", |folder| {
        let path = format!("file-{}", folder.file_name().unwrap().display());
        done(unsafe { libc::chmod(CString::new(path)?.as_ptr(), 0o600) })
    }),
    ("a long path", |folder| {
        let path = folder.join("./".repeat(1900)).into_os_string();
        let path = CString::new([path.as_bytes(), b"file"].concat())?;
        done(unsafe { libc::chmod(path.as_ptr(), 0o600) })
    }),
    ("utimensat", |folder| {
        let (at, path) = (libc::AT_FDCWD, name(&folder.join("file")));
        done(unsafe { libc::utimensat(at, path.as_ptr(), times(1).as_ptr(), 0) })
    }),
    ("utimes", |folder| {
        let times = [libc::timeval { tv_sec: 1, tv_usec: 0 }; 2];
        let path = name(&folder.join("file"));
        done(unsafe { libc::utimes(path.as_ptr(), times.as_ptr()) })
    }),
    ("utime", |folder| {
        let times = libc::utimbuf { actime: 1, modtime: 1 };
        done(unsafe { libc::utime(name(&folder.join("file")).as_ptr(), &raw const times) })
    }),
    ("futimens", |folder| {
        let file = File::open(folder.join("file"))?;
        done(unsafe { libc::futimens(file.as_raw_fd(), times(1).as_ptr()) })
    }),
    ("a time of its own", |folder| {
        let (folder, flags) = (File::open(folder)?, libc::AT_SYMLINK_NOFOLLOW);
        let (path, times) = (c"file".as_ptr(), times(1));
        done(unsafe { libc::utimensat(folder.as_raw_fd(), path, times.as_ptr(), flags) })
    }),
];

trait Duplicate {
    fn try_clone_of(self) -> io::Result<OwnedFd>;
}

impl Duplicate for RawFd {
    fn try_clone_of(self) -> io::Result<OwnedFd> {
        // SAFETY: the caller's descriptor is open while this statement lasts.
        unsafe { std::os::fd::BorrowedFd::borrow_raw(self) }.try_clone_to_owned()
    }
}

#[test]
fn what_every_link_may_change_is_changed_and_nothing_else() {
    for (way, attempt) in WAYS {
        for (folder, is_confined, works) in
            [("in", true, true), ("half", true, false), ("out", true, false), ("out", false, true)]
        {
            let place = Place::new();
            for folder in ["in", "half", "out"] {
                symlink(place.path(folder), place.path("in").join(format!("way-{folder}")))
                    .unwrap();
                let (to, link) = (place.path(folder), format!("file-{folder}"));
                symlink(to.join("file"), place.path("in").join(link)).unwrap();
            }
            let (file, path) = (format!("{folder}/file"), place.path(folder));
            let before = place.state(&file);
            let result = place.attempt(is_confined, move || attempt(&path));
            let after = place.state(&file);
            let what = format!("{way} {folder} {is_confined}: {result:?}");
            assert_eq!(result.is_ok(), works, "{what}");
            assert_eq!(after.0 == 0o600 || after.3 == 1, works, "{what}");
            if !works {
                assert_eq!(before, after, "{what}");
                assert_eq!(number(result), Some(libc::EPERM), "{what}");
            }
        }
    }
}

#[test]
fn owners_stay_who_they_are() {
    let place = Place::new();
    let (_, user, group, _) = place.state("in/file");
    symlink("file", place.path("in/link")).unwrap();
    let change = |path: &'static str, user: u32, group: u32, flags: c_int| {
        // SAFETY: a live string.
        move || {
            done(unsafe {
                libc::fchownat(libc::AT_FDCWD, name(Path::new(path)).as_ptr(), user, group, flags)
            })
        }
    };
    let none = u32::MAX;
    for (user, group) in [(user, group), (none, none), (user, none), (none, group)] {
        place.attempt(true, change("file", user, group, 0)).unwrap();
        place.attempt(true, change("link", user, group, libc::AT_SYMLINK_NOFOLLOW)).unwrap();
        place.attempt(false, change("../out/file", user, group, 0)).unwrap();
        let refused = place.attempt(true, change("../out/file", user, group, 0));
        assert_eq!(number(refused), Some(libc::EPERM));
    }
    // As root, too.
    for (user, group) in [(user + 7, none), (none, group + 777)] {
        let refused = place.attempt(true, change("file", user, group, 0));
        assert_eq!(number(refused), Some(libc::EPERM));
    }
    assert_eq!((place.state("in/file").1, place.state("in/file").2), (user, group));
    // SAFETY: asks for a number.
    if unsafe { libc::geteuid() } == 0 {
        place.attempt(false, change("file", user + 7, group + 777, 0)).unwrap();
        // A file of somebody else's is none of the hand's, though root's host could change it.
        let chmod = || fs::set_permissions("file", fs::Permissions::from_mode(0o666));
        assert_eq!(number(place.attempt(true, chmod)), Some(libc::EPERM));
        place.attempt(false, chmod).unwrap();
    }
}

#[test]
fn no_file_lends_rights() {
    let place = Place::new();
    let change = |path: &'static str, mode| {
        move || fs::set_permissions(path, fs::Permissions::from_mode(mode))
    };
    for mode in [0o4755, 0o2755, 0o6711] {
        assert_eq!(number(place.attempt(true, change("file", mode))), Some(libc::EPERM));
        assert_eq!(place.state("in/file").0, 0o644);
    }
    place.attempt(true, change("file", 0o1755)).unwrap();
    place.attempt(true, change("folder", 0o3777)).unwrap();
    assert_eq!((place.state("in/file").0, place.state("in/folder").0), (0o1755, 0o3777));
    place.attempt(false, change("file", 0o4755)).unwrap();
    assert_eq!(place.state("in/file").0, 0o4755);
}

#[test]
fn a_path_that_changes_meanwhile_leads_nowhere_else() {
    for is_confined in [true, false] {
        let place = Place::new();
        let (stop, folder) = (Arc::new(AtomicBool::new(false)), place.path("in"));
        for (link, to) in [("a", "in"), ("b", "out")] {
            symlink(place.path(to), folder.join(link)).unwrap();
        }
        let swapper = thread::spawn({
            let (stop, a, b) = (stop.clone(), name(&folder.join("a")), name(&folder.join("b")));
            let at = libc::AT_FDCWD;
            move || {
                while !stop.load(Ordering::Relaxed) {
                    let (a, b, swap) = (a.as_ptr(), b.as_ptr(), libc::RENAME_EXCHANGE);
                    // SAFETY: live strings.
                    unsafe { libc::renameat2(at, a, at, b, swap) };
                }
            }
        });
        let (outside, until) = (place.path("out/file"), Instant::now() + Duration::from_secs(60));
        let (fine, refused) = place.attempt(is_confined, move || {
            let (mut fine, mut refused) = (0, 0);
            while fine + refused < 4000 || fine == 0 || refused == 0 && is_confined {
                let mode = fs::Permissions::from_mode(0o600);
                match fs::set_permissions("a/file", mode) {
                    Ok(()) => fine += 1,
                    Err(_) => refused += 1,
                }
                let changed = outside.metadata().unwrap().mode() & 0o7777 == 0o600;
                if changed || Instant::now() > until {
                    break;
                }
            }
            (fine, refused)
        });
        stop.store(true, Ordering::Relaxed);
        swapper.join().unwrap();
        assert!(fine > 0 && (refused > 0 || !is_confined), "{fine} {refused}");
        assert_eq!(place.state("out/file").0, if is_confined { 0o644 } else { 0o600 });
    }
}

#[test]
fn what_has_no_name_is_its_holders() {
    let place = Place::new();
    place.attempt(true, || {
        let change = |fd: RawFd| done(unsafe { libc::fchmod(fd, 0o600) });
        let (pipe, _writer) = io::pipe().unwrap();
        change(pipe.as_raw_fd()).unwrap();
        let (socket, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        change(socket.as_raw_fd()).unwrap();
        // SAFETY: a live string; a descriptor of nobody else's.
        let memory = unsafe { OwnedFd::from_raw_fd(libc::memfd_create(c"x".as_ptr(), 0)) };
        change(memory.as_raw_fd()).unwrap();
        let mut file = File::create("gone").unwrap();
        fs::remove_file("gone").unwrap();
        change(file.as_raw_fd()).unwrap();
        file.write_all(b"x").unwrap();
        assert_eq!(file.metadata().unwrap().mode() & 0o7777, 0o600);
        assert_eq!(number(change(-1)), Some(libc::EBADF));
        assert_eq!(number(change(9999)), Some(libc::EBADF));
    });
}

#[test]
fn errors_are_those_of_the_kernel() {
    let place = Place::new();
    symlink("loop", place.path("in/loop")).unwrap();
    let tries = || {
        let long = CString::new(vec![b'x'; 5000]).unwrap();
        let none = times(1);
        let at = libc::AT_FDCWD;
        // SAFETY: strings that live on, and addresses of nothing, which the kernel looks at.
        unsafe {
            [
                done(libc::chmod(c"absent".as_ptr(), 0o600)),
                done(libc::chmod(c"file/x".as_ptr(), 0o600)),
                done(libc::chmod(c"".as_ptr(), 0o600)),
                done(libc::chmod(long.as_ptr(), 0o600)),
                done(libc::syscall(libc::SYS_fchmodat, at, 8, 0o600)),
                done(libc::syscall(FCHMODAT2, at, c"file".as_ptr(), 0o600, 0x4000)),
                done(libc::utimensat(at, c"file".as_ptr(), std::ptr::dangling(), 0)),
                done(libc::utimensat(-1, c"file".as_ptr(), none.as_ptr(), 0)),
                done(libc::utimensat(-1, c"/absent".as_ptr(), none.as_ptr(), 0)),
            ]
            .map(number)
        }
    };
    assert_eq!(place.attempt(true, tries), place.attempt(false, tries));
    // What is the host's there is nobody's here.
    for path in ["/proc/self/comm", "/proc/self/cwd/file", "/proc/thread-self/root", "loop"] {
        let change = move || fs::set_permissions(path, fs::Permissions::from_mode(0o600));
        assert_eq!(number(place.attempt(true, change)), Some(libc::EPERM), "{path}");
    }
}

#[test]
fn many_are_served_at_once_and_a_second_broker_is_none() {
    let place = Place::new();
    place.attempt(true, || {
        thread::scope(|scope| {
            for worker in 0..8 {
                scope.spawn(move || {
                    for mode in 0..50 {
                        let file = format!("file-{worker}");
                        fs::write(&file, "x").unwrap();
                        let mode = fs::Permissions::from_mode(0o600 + mode);
                        fs::set_permissions(&file, mode.clone()).unwrap();
                        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, mode.mode());
                    }
                });
            }
        });
    });
    let grants = vec![vec![place.path("in")]];
    let refused = place.attempt(true, move || {
        Broker::start(grants).unwrap().serve_this_thread().unwrap();
        fs::set_permissions("file", fs::Permissions::from_mode(0o600))
    });
    assert_eq!(number(refused), Some(libc::EPERM));
}

#[test]
fn who_is_killed_meanwhile_is_no_trouble() {
    let place = Place::new();
    let env = vec![("PATH".into(), "/usr/bin:/bin".into())];
    let hand = Hand::new(Policy { env, ..place.policy() });
    let command = "for file in 1 2 3 4; do
            touch $file; (trap '' TERM; while :; do chmod 600 $file; done) &
        done
        for round in $(seq 200); do (chmod 600 1 & chmod 700 2 & kill -9 $! ); done
        chmod 640 file";
    let (command, timeout) = (command.to_owned(), Duration::from_secs(60));
    let (_interrupter, interrupt) = interrupt();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let outcome = runtime.block_on(hand.act(Action::Bash { command, timeout }, interrupt));
    assert!(outcome.text.contains("processes ended with the call: "), "{}", outcome.text);
    assert!(!outcome.error, "{}", outcome.text);
    assert_eq!(place.state("in/file").0, 0o640);
}

/// This test starts itself anew, to be alone with its threads.
#[test]
fn a_broker_ends_with_those_it_serves() {
    const ALONE: &str = "FLEDGLING_TEST_BROKERS";
    if std::env::var_os(ALONE).is_none() {
        let test = "guard::broker::tests::a_broker_ends_with_those_it_serves";
        let mut alone = Command::new(std::env::current_exe().unwrap());
        let ended = alone.args(["--exact", test]).env(ALONE, "1").output().unwrap();
        assert!(ended.status.success(), "{ended:?}");
        return;
    }
    let entries = |folder: &str| fs::read_dir(folder).unwrap().count();
    let counts = || (entries("/proc/self/task"), entries("/proc/self/fd"));
    let place = Place::new();
    let before = counts();
    for _ in 0..20 {
        place
            .attempt(true, || fs::set_permissions("file", fs::Permissions::from_mode(0o600)))
            .unwrap();
    }
    let until = Instant::now() + Duration::from_secs(60);
    while counts() != before {
        assert!(Instant::now() < until, "{:?} and not {before:?}", counts());
        thread::yield_now();
    }
}
