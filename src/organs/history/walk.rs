//! One look through the workspace's folders.
//!
//! Owns what is looked at and what is passed over. Nothing outside of the workspace is ever
//! read, whatever links and swaps a hand may play with meanwhile, and nothing that could
//! block. One odd file never fails a look: it is left out and named. Does not know how a
//! file is read.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::{self, Metadata};
use std::io::{self, ErrorKind};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use git2::{IndexEntry, IndexTime, Repository, Tree};

use crate::organs::history::archive::Change;
use crate::organs::history::beneath::Root;
use crate::organs::history::content::{LOG, Taken};
use crate::organs::history::ignored;
use crate::organs::history::image::{SIDE_FILES, is_side_file};
use crate::organs::history::known::Known;
use crate::organs::history::left_out::EXCLUDED;
use crate::organs::history::scan::{Dirty, Found, Scan};
use crate::organs::history::stamp::{Stamp, changed_at, mode};

/// Folders in folders beyond this are left out: libgit2 goes down into trees by recursion,
/// and each path is opened part by part.
const DEPTH: usize = 256;
/// The file in which a folder of the workspace says what is to be kept out.
const RULES: &str = ".gitignore";

/// One look.
pub struct Walk<'a> {
    scan: &'a mut Scan,
    root: Root,
    repository: &'a Repository,
    /// What is recorded and was not met yet; in the end, what is gone.
    known: Known,
    /// When the index file was written.
    written: IndexTime,
    /// Files that have a write-ahead log beside them, if they are databases.
    logged: BTreeSet<PathBuf>,
    found: Found,
}

impl<'a> Walk<'a> {
    /// Begin. This is what is recorded where it is going to look.
    pub fn new(
        scan: &'a mut Scan,
        repository: &'a Repository,
        known: Known,
        written: IndexTime,
    ) -> Result<Self> {
        let root = Root::open(&scan.workspace)
            .with_context(|| format!("cannot open the workspace {}", scan.workspace.display()))?;
        scan.ignored.clear();
        let (logged, found) = (BTreeSet::new(), Found::default());
        Ok(Self { scan, root, repository, known, written, logged, found })
    }

    /// What was found. What is recorded and was not met is gone.
    pub fn end(self) -> Found {
        let Self { known, mut found, .. } = self;
        for path in known.unmet() {
            let change = Change { path: PathBuf::from(OsString::from_vec(path)), now: None };
            found.changes.push(Dirty { change, at: None, entry: None });
        }
        found
    }

    /// Look at what is at this path, with all below it.
    pub fn named(&mut self, path: &Path, tree: Option<&Tree<'_>>) -> Result<()> {
        let parents: Vec<_> = path.ancestors().skip(1).collect();
        for parent in parents.into_iter().rev() {
            let top = parent == Path::new("");
            let tracked = top || tree.is_some_and(|tree| tree.get_path(parent).is_ok());
            if is_gits(parent)
                || self.is_too_deep(parent)
                || !tracked && self.is_kept_out(parent, true)
            {
                return Ok(());
            }
            self.learn(parent);
        }
        let mut folders = Vec::new();
        self.logged.insert(path.to_owned());
        self.item(path.to_owned(), self.root.stat(path), &mut folders)?;
        self.folders(folders)
    }

    /// Take in a folder's `.gitignore`, if it has one.
    fn learn(&mut self, folder: &Path) {
        // What cannot be read has no say.
        if let Ok((rules, _)) = self.root.head(&folder.join(RULES), ignored::LIMIT as u64) {
            self.scan.ignored.learn(folder, &rules);
        }
    }

    /// Look at all in these folders.
    pub fn folders(&mut self, mut folders: Vec<PathBuf>) -> Result<()> {
        while let Some(folder) = folders.pop() {
            let items = fs::read_dir(self.scan.workspace.join(&folder));
            let items = items.and_then(Iterator::collect::<io::Result<Vec<_>>>);
            match items {
                Ok(items) => {
                    if items.iter().any(|item| item.file_name() == RULES) {
                        self.learn(&folder);
                    }
                    let names = items.iter().map(|item| item.file_name().into_vec());
                    let logged = names.filter_map(|mut name| {
                        name.ends_with(LOG.as_bytes()).then(|| {
                            name.truncate(name.len() - LOG.len());
                            folder.join(OsString::from_vec(name))
                        })
                    });
                    self.logged.extend(logged);
                    items.iter().try_for_each(|item| {
                        self.item(folder.join(item.file_name()), item.metadata(), &mut folders)
                    })?;
                }
                Err(error) if vanished(&error) => {}
                Err(error) => {
                    // What is in it cannot be known: what history has of it stays.
                    self.known.meet_below(&prefix(&folder));
                    self.leave_out(&folder, self.scan.contents.why(&error));
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
        if is_gits(&path) {
            if path.components().count() > 1 {
                self.leave_out(&path, "what a repository keeps for itself".to_owned());
            }
            return Ok(());
        }
        match stat {
            Ok(stat) if stat.is_dir() => {
                if !self.is_too_deep(&path) && !self.is_excluded(&path) {
                    folders.push(path);
                }
            }
            Ok(stat) if stat.is_file() || stat.is_symlink() => return self.file(path, &stat),
            Ok(_) => self.leave_out(&path, "a socket, a FIFO or a device".to_owned()),
            Err(error) if vanished(&error) => {}
            Err(error) => {
                self.known.meet(bytes(&path));
                self.leave_out(&path, self.scan.contents.why(&error));
            }
        }
        Ok(())
    }

    /// Whether a folder is too deep to be looked into. What history has of it stays.
    fn is_too_deep(&mut self, folder: &Path) -> bool {
        let is_too_deep = folder.components().count() >= DEPTH;
        if is_too_deep {
            self.known.meet_below(&prefix(folder));
            self.leave_out(folder, format!("more than {DEPTH} folders deep"));
        }
        is_too_deep
    }

    /// Whether a folder is excluded. Once something in it is in history, it is not.
    fn is_excluded(&mut self, folder: &Path) -> bool {
        !self.known.has_below(&prefix(folder)) && self.is_kept_out(folder, true)
    }

    /// Whether what is new is kept out. It is named, but for what is in the image of the
    /// database beside it.
    fn is_kept_out(&mut self, path: &Path, is_folder: bool) -> bool {
        if self.scan.ignored.by_owner(path, is_folder) {
            if is_folder || !self.is_beside_a_database(path) {
                self.leave_out(path, EXCLUDED.to_owned());
            }
            return true;
        }
        // The rules themselves are always history.
        let is_rules = path.file_name().is_some_and(|name| name == RULES);
        let kept_out = !is_rules && self.scan.ignored.by_workspace(path, is_folder);
        if kept_out {
            self.leave_out(path, "named in a .gitignore".to_owned());
        }
        kept_out
    }

    fn is_beside_a_database(&self, path: &Path) -> bool {
        let database = SIDE_FILES.iter().find_map(|end| bytes(path).strip_suffix(end.as_bytes()));
        let database = database.map(|path| Path::new(OsStr::from_bytes(path)));
        database.is_some_and(|path| self.root.stat(path).is_ok_and(|stat| stat.is_file()))
            && is_side_file(&self.root, path)
    }

    fn file(&mut self, path: PathBuf, stat: &Metadata) -> Result<()> {
        self.found.met += 1;
        let known = self.known.get(bytes(&path));
        let unchanged = known.is_some_and(|known| is_unchanged(known, stat, self.written));
        if known.is_none() && self.is_kept_out(&path, false) {
            return Ok(());
        }
        let contents = &mut self.scan.contents;
        let log = self.logged.contains(&path).then(|| contents.log_of(&self.root, &path)).flatten();
        if unchanged && contents.is_as_read(&path, stat, log) {
            self.known.meet(bytes(&path));
            return Ok(());
        }
        if self.scan.glancing {
            self.known.meet(bytes(&path));
            let at = log.map_or(changed_at(stat), |log| log.time().max(changed_at(stat)));
            let change = Change { path, now: None };
            self.found.changes.push(Dirty { change, at: Some(at), entry: None });
            return Ok(());
        }
        match contents.take(&self.root, self.repository, &path, stat, log)? {
            Taken::Nothing => {}
            Taken::LeftOut(why) => {
                // What history has of it stays.
                self.known.meet(bytes(&path));
                self.leave_out(&path, why);
            }
            Taken::Content { entry, mode, at } => {
                let is_same = |known: &IndexEntry| known.id == entry.id && known.mode == entry.mode;
                if self.known.meet(bytes(&path)).is_some_and(is_same) {
                    self.scan.lessons.push((path, Some(entry)));
                } else {
                    let change = Change { path, now: Some((entry.id, mode)) };
                    self.found.changes.push(Dirty { change, at: Some(at), entry: Some(entry) });
                }
            }
        }
        Ok(())
    }

    fn leave_out(&mut self, path: &Path, why: String) {
        self.found.left_out.insert(path.to_owned(), why);
    }
}

fn is_unchanged(known: &IndexEntry, stat: &Metadata, written: IndexTime) -> bool {
    // The second rule is git's: an entry as young as the index says nothing.
    Stamp::of_entry(known) == Stamp::of(stat)
        && known.mode == u32::from(mode(stat))
        && known.ctime < written
}

/// Whether a path leads into what a repository keeps for itself.
fn is_gits(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.eq_ignore_ascii_case(".git"))
}

/// What the path of everything in a folder begins with.
pub fn prefix(folder: &Path) -> Vec<u8> {
    let mut prefix = bytes(folder).to_vec();
    if !prefix.is_empty() {
        prefix.push(b'/');
    }
    prefix
}

/// A path as git has it.
pub fn bytes(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
}

/// Removed since it was listed, or a folder on the way to it has become something else:
/// it is no longer there.
pub fn vanished(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
        || error.raw_os_error() == Some(libc::ELOOP)
}
