//! Reading and writing in a folder without leaving it.
//!
//! Whoever writes in the folder may swap any part of a path for a symlink between a look
//! and what follows. Here every part is opened by itself and no link is followed, so that
//! what is read or written is always in the folder. A FIFO or a device is refused without
//! blocking on it. What is written appears whole, in one step, in the place of what was
//! there. Knows nothing of what is read and written, nor why.

use std::ffi::{CStr, CString};
use std::fs::{File, Metadata, Permissions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::{Component, Path};

use libc::{
    O_CLOEXEC, O_CREAT, O_DIRECTORY, O_EXCL, O_NOFOLLOW, O_NONBLOCK, O_PATH, O_RDONLY, O_WRONLY,
};

/// A folder, held open.
pub struct Root {
    folder: File,
    /// What a file is called that is being written. Whoever guesses it makes the writing
    /// fail, and gains nothing else.
    temporary: String,
}

impl Root {
    /// Open the folder itself, which is trusted.
    pub fn open(folder: &Path) -> io::Result<Self> {
        let temporary = format!(".fledgling-{:016x}.tmp", fastrand::u64(..));
        Ok(Self { folder: File::open(folder)?, temporary })
    }

    /// Go on where somebody was killed who wrote under this temporary name.
    pub fn reopen(folder: &Path, temporary: &str) -> io::Result<Self> {
        Ok(Self { temporary: temporary.to_owned(), ..Self::open(folder)? })
    }

    /// What a file is called that is being written.
    pub fn temporary(&self) -> &str {
        &self.temporary
    }

    /// Remove what a kill left half written in a folder, if there is anything.
    pub fn sweep(&self, folder: &Path) {
        let _ = self.remove(&folder.join(&self.temporary));
    }

    /// The content of a regular file, with the stat it had before it was read. More than
    /// `limit` bytes are `FileTooLarge`.
    pub fn read(&self, path: &Path, limit: u64) -> io::Result<(Vec<u8>, Metadata)> {
        let (folder, name) = self.place(path)?;
        let file = open_at(&folder, &name, O_RDONLY | O_NONBLOCK, 0)?;
        let stat = file.metadata()?;
        if !stat.is_file() {
            return Err(ErrorKind::NotFound.into());
        }
        let mut content = Vec::new();
        if stat.len() <= limit {
            content.reserve_exact(stat.len() as usize);
            (&file).take(limit + 1).read_to_end(&mut content)?;
        }
        if stat.len().max(content.len() as u64) > limit {
            return Err(ErrorKind::FileTooLarge.into());
        }
        Ok((content, stat))
    }

    /// The first `limit` bytes of a regular file, and how many it has.
    pub fn head(&self, path: &Path, limit: u64) -> io::Result<(Vec<u8>, u64)> {
        let file = self.regular(path)?;
        let stat = file.metadata()?;
        let mut head = Vec::new();
        file.take(limit).read_to_end(&mut head)?;
        Ok((head, stat.len()))
    }

    /// What is at this path; of a symlink, the link itself.
    pub fn stat(&self, path: &Path) -> io::Result<Metadata> {
        let (folder, name) = self.place(path)?;
        open_at(&folder, &name, O_PATH, 0)?.metadata()
    }

    /// Where a symlink points.
    pub fn read_link(&self, path: &Path) -> io::Result<Vec<u8>> {
        let (folder, name) = self.place(path)?;
        let mut target = vec![0; libc::PATH_MAX as usize];
        // SAFETY: the name ends in NUL, and the buffer is as long as it is said to be.
        let length = unsafe {
            let buffer = target.as_mut_ptr().cast();
            libc::readlinkat(folder.as_raw_fd(), name.as_ptr(), buffer, target.len())
        };
        target.truncate(usize::try_from(length).map_err(|_| io::Error::last_os_error())?);
        Ok(target)
    }

    /// Make this the content of a file, new or not, and the folders on the way to it. A new
    /// one is executable or not; an old one keeps its owner and its mode but for that.
    pub fn write(&self, path: &Path, content: &[u8], executable: bool) -> io::Result<()> {
        let old = self.regular(path).and_then(|file| file.metadata());
        let folder = self.make_folder(path.parent())?;
        let mode = if old.is_ok() { 0o600 } else { 0o666 | if executable { 0o111 } else { 0 } };
        self.replace(&folder, &name_of(path)?, |temporary| {
            let mut file = open_at(&folder, temporary, O_WRONLY | O_CREAT | O_EXCL, mode)?;
            if let Ok(old) = &old {
                // Root writes for others; nobody else can, and need not.
                let _ = fchown(&file, Some(old.uid()), Some(old.gid()));
                file.set_permissions(permissions(old, executable))?;
            }
            file.write_all(content)
        })
    }

    /// Make a file with this content, and the folders on the way to it: whole, or not at all
    /// where anything has that name.
    pub fn create(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        let (folder, name) = (self.make_folder(path.parent())?, name_of(path)?);
        let (at, temporary) = (folder.as_raw_fd(), name_of(Path::new(&self.temporary))?);
        let mut file = open_at(&folder, &temporary, O_WRONLY | O_CREAT | O_EXCL, 0o666)?;
        let done = file.write_all(content).and_then(|()| {
            // SAFETY: both names end in NUL.
            checked(unsafe { libc::linkat(at, temporary.as_ptr(), at, name.as_ptr(), 0) })
        });
        // SAFETY: the name ends in NUL.
        unsafe { libc::unlinkat(at, temporary.as_ptr(), 0) };
        done
    }

    /// Make a path a symlink, and the folders on the way to it.
    pub fn link(&self, path: &Path, target: &[u8]) -> io::Result<()> {
        let (folder, target) = (self.make_folder(path.parent())?, CString::new(target)?);
        self.replace(&folder, &name_of(path)?, |temporary| {
            // SAFETY: both texts end in NUL.
            checked(unsafe {
                libc::symlinkat(target.as_ptr(), folder.as_raw_fd(), temporary.as_ptr())
            })
        })
    }

    /// Make a regular file executable or not.
    pub fn set_executable(&self, path: &Path, executable: bool) -> io::Result<()> {
        let file = self.regular(path)?;
        file.set_permissions(permissions(&file.metadata()?, executable))
    }

    /// Remove what is not a folder.
    pub fn remove(&self, path: &Path) -> io::Result<()> {
        self.unlink(path, 0)
    }

    /// Remove a folder that holds nothing.
    pub fn remove_folder(&self, path: &Path) -> io::Result<()> {
        self.unlink(path, libc::AT_REMOVEDIR)
    }

    fn unlink(&self, path: &Path, flags: i32) -> io::Result<()> {
        let (folder, name) = self.place(path)?;
        #[cfg(test)]
        tests::maybe_stop();
        // SAFETY: the name ends in NUL.
        checked(unsafe { libc::unlinkat(folder.as_raw_fd(), name.as_ptr(), flags) })
    }

    /// A regular file, open for reading; nothing else, and without blocking on it.
    fn regular(&self, path: &Path) -> io::Result<File> {
        let (folder, name) = self.place(path)?;
        let file = open_at(&folder, &name, O_RDONLY | O_NONBLOCK, 0)?;
        if file.metadata()?.is_file() { Ok(file) } else { Err(ErrorKind::InvalidInput.into()) }
    }

    fn place(&self, path: &Path) -> io::Result<(File, CString)> {
        let mut folder = self.folder.try_clone()?;
        for part in path.parent().into_iter().flat_map(Path::components) {
            folder = open_at(&folder, &name(part)?, O_RDONLY | O_DIRECTORY, 0)?;
        }
        Ok((folder, name_of(path)?))
    }

    fn make_folder(&self, path: Option<&Path>) -> io::Result<File> {
        let mut folder = self.folder.try_clone()?;
        for part in path.into_iter().flat_map(Path::components) {
            let name = name(part)?;
            #[cfg(test)]
            tests::maybe_stop();
            // SAFETY: the name ends in NUL.
            let made = checked(unsafe { libc::mkdirat(folder.as_raw_fd(), name.as_ptr(), 0o777) });
            if let Err(error) = made
                && error.kind() != ErrorKind::AlreadyExists
            {
                return Err(error);
            }
            folder = open_at(&folder, &name, O_RDONLY | O_DIRECTORY, 0)?;
        }
        Ok(folder)
    }

    /// Put what `make` makes under a temporary name in the place of this one.
    fn replace(
        &self,
        folder: &File,
        name: &CStr,
        make: impl FnOnce(&CStr) -> io::Result<()>,
    ) -> io::Result<()> {
        let temporary = name_of(Path::new(&self.temporary))?;
        #[cfg(test)]
        tests::maybe_stop();
        let at = folder.as_raw_fd();
        let done = make(&temporary).and_then(|()| {
            #[cfg(test)]
            tests::maybe_stop();
            // SAFETY: both names end in NUL.
            checked(unsafe { libc::renameat(at, temporary.as_ptr(), at, name.as_ptr()) })
        });
        if done.is_err() {
            // SAFETY: the name ends in NUL. The file may never have been made.
            unsafe { libc::unlinkat(at, temporary.as_ptr(), 0) };
        }
        done
    }
}

/// The mode of a file, but executable or not, by whoever may read it.
fn permissions(old: &Metadata, executable: bool) -> Permissions {
    let mode = old.mode() & 0o777;
    Permissions::from_mode(match (executable, mode & 0o100 != 0) {
        (true, false) => mode | 0o100 | (mode & 0o444) >> 2,
        (false, true) => mode & !0o111,
        _ => mode,
    })
}

fn name_of(path: &Path) -> io::Result<CString> {
    path.components().next_back().map_or(Err(ErrorKind::InvalidFilename.into()), name)
}

fn name(part: Component<'_>) -> io::Result<CString> {
    match part {
        Component::Normal(name) => Ok(CString::new(name.as_bytes())?),
        _ => Err(ErrorKind::InvalidFilename.into()),
    }
}

fn open_at(folder: &File, name: &CStr, flags: i32, mode: u32) -> io::Result<File> {
    let flags = flags | O_NOFOLLOW | O_CLOEXEC;
    // SAFETY: the name ends in NUL; what openat returns is a new descriptor or negative.
    unsafe {
        match libc::openat(folder.as_raw_fd(), name.as_ptr(), flags, mode) {
            failed if failed < 0 => Err(io::Error::last_os_error()),
            opened => Ok(File::from_raw_fd(opened)),
        }
    }
}

fn checked(result: i32) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
pub mod tests {
    use std::cell::Cell;
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    std::thread_local! {
        /// After how many more writing steps this thread is stopped, as by a kill.
        pub static STEPS_LEFT: Cell<usize> = const { Cell::new(usize::MAX) };
    }

    pub fn maybe_stop() {
        let left = STEPS_LEFT.get();
        STEPS_LEFT.set(left.wrapping_sub(1));
        assert_ne!(left, 0, "stopped on request");
    }

    #[test]
    fn no_link_on_the_way_leads_out() {
        let temp = tempfile::tempdir().unwrap();
        let inside = temp.path().join("inside");
        fs::create_dir_all(inside.join("real")).unwrap();
        fs::write(temp.path().join("secret"), "s").unwrap();
        fs::write(inside.join("real/file"), "content").unwrap();
        symlink("..", inside.join("up")).unwrap();
        symlink("../secret", inside.join("link")).unwrap();
        let root = Root::open(&inside).unwrap();
        assert_eq!(root.read(Path::new("real/file"), 7).unwrap().0, b"content");
        assert!(root.read(Path::new("up/secret"), 7).is_err());
        assert!(root.read(Path::new("link"), 7).is_err());
        assert!(root.read_link(Path::new("up/inside/link")).is_err());
        assert_eq!(root.read_link(Path::new("link")).unwrap(), b"../secret");
    }

    #[test]
    fn too_much_and_nothing_regular_are_errors() {
        let temp = tempfile::tempdir().unwrap();
        fs::write(temp.path().join("file"), "content").unwrap();
        let root = Root::open(temp.path()).unwrap();
        let error = root.read(Path::new("file"), 6).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::FileTooLarge);
        let fifo = CString::new(temp.path().join("fifo").as_os_str().as_bytes()).unwrap();
        // SAFETY: the path ends in NUL.
        assert_eq!(unsafe { libc::mkfifo(fifo.as_ptr(), 0o600) }, 0);
        assert!(root.read(Path::new("fifo"), 6).is_err());
    }
}
