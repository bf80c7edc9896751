//! Reading in a folder without leaving it.
//!
//! Whoever writes in the folder may swap any part of a path for a symlink between a look
//! and a read. Here every part is opened by itself and no link is followed, so that what is
//! read is always in the folder. A FIFO or a device is refused without blocking on it.
//! Knows nothing of what is read, nor why.

use std::ffi::{CString, OsStr};
use std::fs::{File, Metadata};
use std::io::{self, ErrorKind, Read};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use libc::{O_CLOEXEC, O_DIRECTORY, O_NOFOLLOW, O_NONBLOCK, O_PATH, O_RDONLY};

/// A folder, held open.
pub struct Root(File);

impl Root {
    /// Open the folder itself, which is trusted.
    pub fn open(folder: &Path) -> io::Result<Self> {
        File::open(folder).map(Self)
    }

    /// The content of a regular file, with the stat it had before it was read. More than
    /// `limit` bytes are `FileTooLarge`.
    pub fn read(&self, path: &Path, limit: u64) -> io::Result<(Vec<u8>, Metadata)> {
        let file = open_at(&self.folder_of(path)?, name_of(path)?, O_NONBLOCK)?;
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
        let file = open_at(&self.folder_of(path)?, name_of(path)?, O_NONBLOCK)?;
        let stat = file.metadata()?;
        if !stat.is_file() {
            return Err(ErrorKind::InvalidInput.into());
        }
        let mut head = Vec::new();
        file.take(limit).read_to_end(&mut head)?;
        Ok((head, stat.len()))
    }

    /// What is at this path; of a symlink, the link itself.
    pub fn stat(&self, path: &Path) -> io::Result<Metadata> {
        open_at(&self.folder_of(path)?, name_of(path)?, O_PATH)?.metadata()
    }

    /// Where a symlink points.
    pub fn read_link(&self, path: &Path) -> io::Result<Vec<u8>> {
        let (folder, name) = (self.folder_of(path)?, CString::new(name_of(path)?.as_bytes())?);
        let mut target = vec![0; libc::PATH_MAX as usize];
        // SAFETY: the name ends in NUL, and the buffer is as long as it is said to be.
        let length = unsafe {
            let buffer = target.as_mut_ptr().cast();
            libc::readlinkat(folder.as_raw_fd(), name.as_ptr(), buffer, target.len())
        };
        target.truncate(usize::try_from(length).map_err(|_| io::Error::last_os_error())?);
        Ok(target)
    }

    fn folder_of(&self, path: &Path) -> io::Result<File> {
        let mut folder = self.0.try_clone()?;
        for part in path.parent().into_iter().flatten() {
            folder = open_at(&folder, part, O_DIRECTORY)?;
        }
        Ok(folder)
    }
}

fn name_of(path: &Path) -> io::Result<&OsStr> {
    path.file_name().ok_or_else(|| ErrorKind::InvalidFilename.into())
}

fn open_at(folder: &File, name: &OsStr, flags: i32) -> io::Result<File> {
    let name = CString::new(name.as_bytes())?;
    let flags = flags | O_RDONLY | O_NOFOLLOW | O_CLOEXEC;
    // SAFETY: the name ends in NUL; what openat returns is a new descriptor or negative.
    unsafe {
        match libc::openat(folder.as_raw_fd(), name.as_ptr(), flags) {
            failed if failed < 0 => Err(io::Error::last_os_error()),
            opened => Ok(File::from_raw_fd(opened)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

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
