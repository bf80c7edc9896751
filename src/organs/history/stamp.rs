//! Entries of git's index: what a file looked like when it was last read.
//!
//! Owns how one version of a file is told from another without reading it, and when that
//! cannot be done: a file that changed so shortly before it was read that a second change
//! could bear the same stamp is marked for another look. Reads and writes nothing.

use std::fs::{self, Metadata};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use git2::{FileMode, IndexEntry, IndexTime, Oid};

/// Within this time two changes can bear the same stamp: twice the longest tick of a
/// kernel's clock (10 ms).
pub const RACY: Duration = Duration::from_millis(20);

/// Tells one version of a file from another without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    changed: IndexTime,
    /// When the content was written last.
    pub written: IndexTime,
    inode: u32,
    size: u32,
}

impl Stamp {
    /// Of a file with this stat.
    pub fn of(stat: &Metadata) -> Self {
        // The casts cut as git's own do.
        Self {
            changed: IndexTime::new(stat.ctime() as i32, stat.ctime_nsec() as u32),
            written: IndexTime::new(stat.mtime() as i32, stat.mtime_nsec() as u32),
            inode: stat.ino() as u32,
            size: stat.size() as u32,
        }
    }

    /// When the file was changed.
    pub fn time(&self) -> SystemTime {
        let Self { changed, .. } = self;
        UNIX_EPOCH + Duration::new(changed.seconds().max(0) as u64, changed.nanoseconds())
    }

    /// Whether no later change can bear the same stamp, when it was taken at this time.
    pub fn is_settled(&self, now: SystemTime) -> bool {
        now.duration_since(self.time()).is_ok_and(|age| age > RACY)
    }

    /// Of the file that an entry was made of.
    pub fn of_entry(entry: &IndexEntry) -> Self {
        Self { changed: entry.ctime, written: entry.mtime, inode: entry.ino, size: entry.file_size }
    }

    /// Of a file, if it is there.
    pub fn of_file(path: &Path) -> Option<Self> {
        fs::metadata(path).ok().map(|stat| Self::of(&stat))
    }
}

/// The index's entry for a file whose stamp was taken at `now`, before it was read.
pub fn entry(path: &Path, stat: &Metadata, id: Oid, now: SystemTime) -> IndexEntry {
    let Stamp { changed, written, inode, size } = Stamp::of(stat);
    let settled = Stamp::of(stat).is_settled(now);
    IndexEntry {
        ctime: changed,
        mtime: written,
        dev: stat.dev() as u32,
        ino: inode,
        mode: mode(stat).into(),
        uid: stat.uid(),
        gid: stat.gid(),
        // Git's own mark for an entry whose file must be read again: a size of nothing.
        file_size: if settled { size } else { 0 },
        id,
        flags: 0,
        flags_extended: 0,
        path: path.as_os_str().as_bytes().to_vec(),
    }
}

/// When a file was changed: its content, its kind, its name or its mode.
pub fn changed_at(stat: &Metadata) -> SystemTime {
    UNIX_EPOCH + Duration::new(stat.ctime().max(0) as u64, stat.ctime_nsec() as u32)
}

/// What git keeps of a file's mode.
pub fn mode(stat: &Metadata) -> FileMode {
    match stat.mode() {
        _ if stat.is_symlink() => FileMode::Link,
        mode if mode & 0o100 != 0 => FileMode::BlobExecutable,
        _ => FileMode::Blob,
    }
}

/// An entry of which only the content is known.
pub fn recorded(path: &[u8], id: Oid, mode: i32) -> IndexEntry {
    let (never, mode, path) = (IndexTime::new(0, 0), mode as u32, path.to_vec());
    let (dev, ino, uid, gid, file_size, flags, flags_extended) = (0, 0, 0, 0, 0, 0, 0);
    IndexEntry {
        ctime: never,
        mtime: never,
        dev,
        ino,
        mode,
        uid,
        gid,
        file_size,
        id,
        flags,
        flags_extended,
        path,
    }
}
