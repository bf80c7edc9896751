//! Finds what changed in the workspace.
//!
//! Owns git's index, which serves as the cache of what each file looked like when it was
//! last read: a file whose stamp is the same is not read again. A file that changed so
//! shortly before it was read that a second change could bear the same stamp is marked for
//! another look. Nothing outside of the workspace is ever read, whatever links and swaps a
//! hand may play with meanwhile, and nothing that could block. One odd file never fails a
//! scan: it is left out and named. Knows no commits, only the tree to compare with.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs::{self, Metadata};
use std::io::{self, ErrorKind};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use git2::{FileMode, Index, IndexEntry, IndexTime, Oid, Repository, Tree};

use crate::guard::history::Change;
use crate::organs::history::beneath::Root;

/// Larger files are left out: each version of one would be kept for good.
pub const FILE_LIMIT: u64 = 50 * 1024 * 1024;
/// Within this time two changes can bear the same stamp: twice the longest tick of a
/// kernel's clock (10 ms).
const RACY: Duration = Duration::from_millis(20);

/// Looks through one workspace, again and again.
pub struct Scan {
    workspace: PathBuf,
    index_file: PathBuf,
    /// The tree that the index agrees with, when it does with any.
    tree: Option<Oid>,
    /// The index file as it was read or written last.
    stamp: Option<Stamp>,
    /// Whether the index holds more than its file.
    unsaved: bool,
}

/// What a look found.
#[derive(Debug, Default)]
pub struct Found {
    /// Paths that differ from the tree.
    pub changes: Vec<Change>,
    /// What is left out, and why, each in a few words.
    pub left_out: BTreeSet<String>,
}

impl Scan {
    /// For this workspace, with the repository's index as the cache.
    pub fn new(workspace: PathBuf, repository: &Repository) -> Self {
        let index_file = repository.path().join("index");
        Self { workspace, index_file, tree: None, stamp: None, unsaved: false }
    }

    /// What differs from this tree. Contents that do are stored in the repository.
    /// `settle` must follow once the tree is made.
    pub fn look(&mut self, repository: &Repository, tree: Option<&Tree<'_>>) -> Result<Found> {
        let mut index = self.index(repository, tree)?;
        let known = index.iter().filter(|entry| !conflicts(entry));
        let known = known.map(|entry| (entry.path.clone(), entry)).collect();
        let root = Root::open(&self.workspace)
            .with_context(|| format!("cannot open the workspace {}", self.workspace.display()))?;
        let written = self.stamp.map_or(IndexTime::new(0, 0), |stamp| stamp.written);
        let found = Found::default();
        let mut walk =
            Walk { scan: self, root, repository, index: &mut index, known, written, found };
        walk.all()?;
        let Walk { known, mut found, .. } = walk;
        for path in known.into_keys() {
            let path = PathBuf::from(OsString::from_vec(path));
            index.remove_path(&path)?;
            found.changes.push(Change { path, now: None });
        }
        self.unsaved |= !found.changes.is_empty();
        Ok(found)
    }

    /// The changes found last made this tree: keep what was learnt, for the next look and
    /// for plain git, whose `status` is clean now.
    pub fn settle(&mut self, repository: &Repository, tree: Oid) {
        if self.unsaved {
            // The index is a cache. When it cannot be written, as while the owner's git
            // holds its lock, the next look reads more than it must, and that is all.
            if repository.index().and_then(|mut index| index.write()).is_err() {
                return;
            }
            self.stamp = Stamp::of_file(&self.index_file);
            self.unsaved = false;
        }
        self.tree = Some(tree);
    }

    /// The index, in step with the tree: whatever the owner's git or a failed snapshot
    /// left in it, its entries name the tree's contents, with stamps where these are known.
    fn index(&mut self, repository: &Repository, tree: Option<&Tree<'_>>) -> Result<Index> {
        let mut index = repository.index().or_else(|_| {
            fs::remove_file(&self.index_file).ok();
            repository.index()
        })?;
        let stamp = Stamp::of_file(&self.index_file);
        let agreed = self.tree.take();
        if agreed.is_none() || agreed != tree.map(Tree::id) || stamp != self.stamp {
            if index.read(true).is_err() {
                index.clear()?;
            }
            match tree {
                Some(tree) => index.read_tree(tree)?,
                None => index.clear()?,
            }
            (self.stamp, self.unsaved) = (stamp, true);
        }
        Ok(index)
    }
}

/// One look.
struct Walk<'a> {
    scan: &'a mut Scan,
    root: Root,
    repository: &'a Repository,
    index: &'a mut Index,
    /// Entries of the index that were not met yet; in the end, those that are gone.
    known: BTreeMap<Vec<u8>, IndexEntry>,
    /// When the index file was written.
    written: IndexTime,
    found: Found,
}

impl Walk<'_> {
    fn all(&mut self) -> Result<()> {
        let mut folders = vec![PathBuf::new()];
        while let Some(folder) = folders.pop() {
            let items = fs::read_dir(self.scan.workspace.join(&folder));
            let items = items.and_then(Iterator::collect::<io::Result<Vec<_>>>);
            match items {
                Ok(items) => items.iter().try_for_each(|item| {
                    self.item(folder.join(item.file_name()), item.metadata(), &mut folders)
                })?,
                Err(error) if vanished(&error) => {}
                Err(error) => {
                    // What is in it cannot be known: what history has of it stays.
                    let inside = prefix(&folder);
                    self.known.retain(|path, _| !path.starts_with(&inside));
                    self.leave_out(&folder, &why(&error));
                }
            }
        }
        Ok(())
    }

    fn item(
        &mut self,
        path: PathBuf,
        stat: io::Result<Metadata>,
        folders: &mut Vec<PathBuf>,
    ) -> Result<()> {
        // The files of a repository in the workspace are history like any others; what it
        // keeps for itself is not.
        if path.file_name().is_some_and(|name| name.eq_ignore_ascii_case(".git")) {
            return Ok(());
        }
        match stat {
            Ok(stat) if stat.is_dir() => {
                if !self.is_excluded(&path) {
                    folders.push(path);
                }
            }
            Ok(stat) if stat.is_file() || stat.is_symlink() => return self.file(path, &stat),
            Ok(_) => self.leave_out(&path, "a socket, a FIFO or a device"),
            Err(error) if vanished(&error) => {}
            Err(error) => {
                self.known.remove(bytes(&path));
                self.leave_out(&path, &why(&error));
            }
        }
        Ok(())
    }

    /// Whether a folder is excluded. Once something in it is in history, it is not.
    fn is_excluded(&self, folder: &Path) -> bool {
        let inside = prefix(folder);
        let next = self.known.range(inside.clone()..).next();
        let tracked = next.is_some_and(|(path, _)| path.starts_with(&inside));
        !tracked && self.is_ignored(&inside)
    }

    fn is_ignored(&self, path: &[u8]) -> bool {
        // A name that git cannot judge is refused later, with words.
        self.repository.is_path_ignored(OsStr::from_bytes(path)).unwrap_or(false)
    }

    fn file(&mut self, path: PathBuf, stat: &Metadata) -> Result<()> {
        let known = self.known.get(bytes(&path));
        if known.is_none() && self.is_ignored(bytes(&path)) {
            return Ok(());
        }
        if known.is_some_and(|known| self.is_unchanged(known, stat)) {
            self.known.remove(bytes(&path));
            return Ok(());
        }
        // The time before reading: what changes later than that bears another stamp.
        let now = SystemTime::now();
        let read = if stat.is_symlink() {
            self.root.read_link(&path).map(|target| (target, stat.clone()))
        } else {
            self.root.read(&path, FILE_LIMIT)
        };
        match read {
            Ok((content, stat)) => self.record(path, &content, &stat, now),
            Err(error) if vanished(&error) => Ok(()),
            Err(error) => {
                // What history has of it stays.
                self.known.remove(bytes(&path));
                self.leave_out(&path, &why(&error));
                Ok(())
            }
        }
    }

    fn is_unchanged(&self, known: &IndexEntry, stat: &Metadata) -> bool {
        // The second rule is git's: an entry as young as the index says nothing.
        Stamp::of_entry(known) == Stamp::of(stat)
            && known.mode == u32::from(mode(stat))
            && known.ctime < self.written
    }

    fn record(
        &mut self,
        path: PathBuf,
        content: &[u8],
        stat: &Metadata,
        now: SystemTime,
    ) -> Result<()> {
        let id = self.repository.blob(content);
        let id = id.with_context(|| format!("cannot store {} in history", path.display()))?;
        let known = self.known.remove(bytes(&path));
        if let Err(error) = self.index.add(&entry(&path, stat, id, now)) {
            self.leave_out(&path, &format!("git refuses it: {}", error.message()));
            return Ok(());
        }
        self.scan.unsaved = true;
        let mode = mode(stat);
        if known.is_none_or(|known| known.id != id || known.mode != u32::from(mode)) {
            self.found.changes.push(Change { path, now: Some((id, mode)) });
        }
        Ok(())
    }

    fn leave_out(&mut self, path: &Path, why: &str) {
        self.found.left_out.insert(format!("{} ({why})", path.to_string_lossy().escape_debug()));
    }
}

/// Tells one version of a file from another without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    changed: IndexTime,
    written: IndexTime,
    inode: u32,
    size: u32,
}

impl Stamp {
    fn of(stat: &Metadata) -> Self {
        // The casts cut as git's own do.
        Self {
            changed: IndexTime::new(stat.ctime() as i32, stat.ctime_nsec() as u32),
            written: IndexTime::new(stat.mtime() as i32, stat.mtime_nsec() as u32),
            inode: stat.ino() as u32,
            size: stat.size() as u32,
        }
    }

    fn of_entry(entry: &IndexEntry) -> Self {
        Self { changed: entry.ctime, written: entry.mtime, inode: entry.ino, size: entry.file_size }
    }

    fn of_file(path: &Path) -> Option<Self> {
        fs::metadata(path).ok().map(|stat| Self::of(&stat))
    }
}

/// The index's entry for a file whose stamp was taken at `now`, before it was read.
fn entry(path: &Path, stat: &Metadata, id: Oid, now: SystemTime) -> IndexEntry {
    let Stamp { changed, written, inode, size } = Stamp::of(stat);
    let since_epoch = Duration::new(stat.ctime().max(0) as u64, stat.ctime_nsec() as u32);
    let settled = now.duration_since(UNIX_EPOCH + since_epoch).is_ok_and(|age| age > RACY);
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
        path: bytes(path).to_vec(),
    }
}

fn mode(stat: &Metadata) -> FileMode {
    match stat.mode() {
        _ if stat.is_symlink() => FileMode::Link,
        mode if mode & 0o100 != 0 => FileMode::BlobExecutable,
        _ => FileMode::Blob,
    }
}

/// Whether an entry belongs to a conflict of a merge in progress.
fn conflicts(entry: &IndexEntry) -> bool {
    entry.flags & 0x3000 != 0
}

/// What the path of everything in a folder begins with.
fn prefix(folder: &Path) -> Vec<u8> {
    let mut prefix = bytes(folder).to_vec();
    if !prefix.is_empty() {
        prefix.push(b'/');
    }
    prefix
}

fn bytes(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
}

/// Removed since it was listed, or a folder on the way to it has become something else:
/// it is no longer there.
fn vanished(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
        || error.raw_os_error() == Some(libc::ELOOP)
}

fn why(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::FileTooLarge => format!("over {} MB", FILE_LIMIT / 1024 / 1024),
        kind => kind.to_string(),
    }
}
