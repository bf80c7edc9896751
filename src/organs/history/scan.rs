//! Finds what changed in the workspace.
//!
//! Owns git's index, which serves as the cache of what each file looked like when it was
//! last read: a file whose stamp is the same is not read again. Knows no commits, only the
//! tree to compare with; neither how folders are walked through nor how a file is read.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::Result;
use git2::{Index, IndexEntry, IndexTime, ObjectType, Oid, Repository, Tree};

use crate::files::withheld::Withheld;
use crate::organs::history::archive::Change;
use crate::organs::history::content::Contents;
use crate::organs::history::gate::Gate;
use crate::organs::history::ignored::Ignored;
use crate::organs::history::image::Images;
use crate::organs::history::known::Known;
use crate::organs::history::stamp::{RACY, Stamp, recorded};
use crate::organs::history::walk::{Walk, bytes, prefix};

/// What is taken in.
#[derive(Debug, Clone)]
pub struct Terms {
    /// Larger files are left out, in bytes: each version of one would be kept for good.
    pub limit: u64,
    /// What holds a secret is left out.
    pub gate: Arc<Gate>,
    /// How databases are read; as any file where it is not said.
    pub images: Option<Images>,
}

/// Looks through one workspace, again and again.
pub struct Scan {
    pub(super) workspace: PathBuf,
    index_file: PathBuf,
    pub(super) contents: Contents,
    /// Whom the owner and the workspace leave out.
    pub(super) ignored: Ignored,
    /// The tree that the index agrees with once it has learnt its lessons, if any.
    agreed: Option<Oid>,
    /// Whether the index file holds all that the index does.
    saved: bool,
    /// Whether stamps are all that is looked at.
    pub(super) glancing: bool,
    /// The index file as it was read or written last.
    stamp: Option<Stamp>,
    /// What the index is to learn: an entry, or that a path is gone.
    pub(super) lessons: Vec<(PathBuf, Option<IndexEntry>)>,
}

impl Default for Terms {
    fn default() -> Self {
        let gate = Gate::new(Withheld::default(), [""; 0]).into();
        Self { limit: 50 << 20, gate, images: None }
    }
}

/// What a look found.
#[derive(Default)]
pub struct Found {
    /// What differs from the tree. A path comes but once.
    pub changes: Vec<Dirty>,
    /// What is left out, and why in a few words.
    pub left_out: BTreeMap<PathBuf, String>,
    /// How many files were met.
    pub met: usize,
}

/// A path that differs from the tree.
pub struct Dirty {
    /// How.
    pub change: Change,
    /// When it was changed; not known of what is gone.
    pub at: Option<SystemTime>,
    /// For the index.
    pub(super) entry: Option<IndexEntry>,
}

impl Scan {
    /// For this workspace, with this file as the index.
    pub fn new(
        workspace: PathBuf,
        repository: &Repository,
        index_file: PathBuf,
        terms: Terms,
    ) -> Result<Self> {
        let index = Index::open(&index_file).or_else(|_| {
            fs::remove_file(&index_file).ok();
            Index::open(&index_file)
        });
        repository.set_index(&mut index?)?;
        let contents = Contents::new(repository.path(), terms)?;
        let ignored = Ignored::open(repository.path())?;
        let (agreed, saved, glancing, stamp, lessons) = (None, false, false, None, Vec::new());
        Ok(Self {
            workspace,
            index_file,
            contents,
            ignored,
            agreed,
            saved,
            glancing,
            stamp,
            lessons,
        })
    }

    /// All that differs from this tree. Contents that do are stored in the repository.
    pub fn look(&mut self, repository: &Repository, tree: Option<&Tree<'_>>) -> Result<Found> {
        let index = self.index(repository, tree)?;
        let known = Known::new(index.iter().filter(|entry| !conflicts(entry)).collect());
        let written = self.stamp.map_or(IndexTime::new(0, 0), |stamp| stamp.written);
        let mut walk = Walk::new(self, repository, known, written)?;
        walk.folders(vec![PathBuf::new()])?;
        Ok(walk.end())
    }

    /// What of these paths, with all below them, differs from this tree.
    pub fn look_at(
        &mut self,
        paths: &BTreeSet<PathBuf>,
        repository: &Repository,
        tree: Option<&Tree<'_>>,
    ) -> Result<Found> {
        // Below what was a file there may be a folder by now; it may still be that file.
        let is_file = |part: &&Path| {
            let found = tree.and_then(|tree| tree.get_path(part).ok());
            found.is_some_and(|found| found.kind() != Some(ObjectType::Tree))
        };
        let top = |path: &PathBuf| path.ancestors().find(is_file).unwrap_or(path).to_owned();
        let tops: BTreeSet<_> = paths.iter().map(top).collect();
        // What is in a folder that is looked at anyway comes but once.
        let inner = |path: &Path| path.ancestors().skip(1).any(|folder| tops.contains(folder));
        let paths = || tops.iter().filter(|path| !inner(path));
        let mut known = Vec::new();
        for path in paths() {
            for part in path.ancestors().filter(|part| *part != Path::new("")) {
                let entry = tree.and_then(|tree| tree.get_path(part).ok());
                match entry.map(|entry| (entry.id(), entry.filemode(), entry.kind())) {
                    Some((id, _, Some(ObjectType::Tree))) if part == path => {
                        let below = repository.find_tree(id)?;
                        entries_below(repository, &below, &prefix(part), &mut known)?;
                    }
                    Some((_, _, Some(ObjectType::Tree))) | None => {}
                    Some((id, mode, _)) => {
                        known.push(recorded(bytes(part), id, mode));
                    }
                }
            }
        }
        let known = Known::new(known);
        let mut walk = Walk::new(self, repository, known, IndexTime::new(0, 0))?;
        for path in paths() {
            walk.named(path, tree)?;
        }
        Ok(walk.end())
    }

    /// What bears another stamp than what is recorded, at these paths or anywhere. No content
    /// is read, so some of it may be the same.
    pub fn glance(
        &mut self,
        repository: &Repository,
        tree: &Tree<'_>,
        paths: Option<&BTreeSet<PathBuf>>,
    ) -> Result<Vec<Dirty>> {
        self.glancing = true;
        let found = match paths {
            Some(paths) => self.look_at(paths, repository, Some(tree)),
            None => self.look(repository, Some(tree)),
        };
        self.glancing = false;
        Ok(found?.changes)
    }

    /// How databases are read and put back, if it is said.
    pub fn images(&self) -> Option<&Images> {
        self.contents.images()
    }

    /// These changes are committed, and made one tree into another: keep what was learnt, for
    /// the next look and for plain git. The index itself is left for `freshen`.
    pub fn settle(&mut self, done: Vec<Dirty>, before: Option<Oid>, after: Oid) {
        self.lessons.extend(done.into_iter().map(|dirty| (dirty.change.path, dirty.entry)));
        self.agreed = self.agreed.filter(|_| self.agreed == before).map(|_| after);
    }

    /// These paths were made what they are in this tree, whatever was learnt of them before.
    pub fn relearn(
        &mut self,
        paths: &BTreeSet<PathBuf>,
        repository: &Repository,
        tree: &Tree<'_>,
    ) -> Result<()> {
        self.agreed = None;
        self.lessons.retain(|(path, _)| !paths.contains(path));
        self.look_at(paths, repository, Some(tree)).map(drop)
    }

    /// Write down what was learnt. With this tree committed, plain git's `status` is clean.
    pub fn freshen(&mut self, repository: &Repository, tree: &Tree<'_>) {
        if self.saved && self.lessons.is_empty() && self.agreed == Some(tree.id()) {
            return;
        }
        // What is marked for another look would be changed to plain git, which does not know
        // that an image stands for the raw file.
        let young = self.contents.take_young();
        if !young.is_empty() {
            std::thread::sleep(RACY);
            // What has changed since is for the next snapshot to find.
            let _ = self.look_at(&young, repository, Some(tree));
        }
        // The index is a cache. When it cannot be written, as while the owner's git holds
        // its lock, the next look reads more than it must, and that is all.
        let learnt = self.index(repository, Some(tree));
        self.saved = learnt.is_ok_and(|mut index| index.write().is_ok());
        if self.saved {
            // Otherwise the next commit would have to wait for a large file, too.
            let _ = fs::File::open(&self.index_file).and_then(|file| file.sync_data());
            self.stamp = Stamp::of_file(&self.index_file);
        } else {
            self.agreed = None;
        }
    }

    /// The index, in step with the tree: whatever the owner's git or a failed snapshot
    /// left in it, its entries name the tree's contents, with stamps where these are known.
    fn index(&mut self, repository: &Repository, tree: Option<&Tree<'_>>) -> Result<Index> {
        let mut index = repository.index()?;
        let stamp = Stamp::of_file(&self.index_file);
        let tree_id = tree.map(Tree::id);
        let anew = self.agreed.is_none() || self.agreed != tree_id || self.stamp != stamp;
        if anew {
            self.agreed = None;
            if index.read(true).is_err() {
                fs::remove_file(&self.index_file).ok();
                index.clear()?;
            }
            match tree {
                Some(tree) => index.read_tree(tree)?,
                None => index.clear()?,
            }
            (self.agreed, self.saved, self.stamp) = (tree_id, false, stamp);
        }
        for (path, entry) in std::mem::take(&mut self.lessons) {
            self.saved = false;
            // Of another tree, maybe: then the index has the last word on contents.
            let known = index.get_path(&path, 0).filter(|_| anew);
            match entry {
                Some(entry)
                    if !anew
                        || known.is_some_and(|known| {
                            (known.id, known.mode) == (entry.id, entry.mode)
                        }) =>
                {
                    index.add(&entry)?;
                }
                None if !anew => index.remove_path(&path)?,
                _ => {}
            }
        }
        Ok(index)
    }
}

/// What the tree has below a folder.
fn entries_below(
    repository: &Repository,
    tree: &Tree<'_>,
    inside: &[u8],
    known: &mut Vec<IndexEntry>,
) -> Result<()> {
    for entry in tree {
        let path = [inside, entry.name_bytes()].concat();
        if entry.kind() == Some(ObjectType::Tree) {
            let below = repository.find_tree(entry.id())?;
            entries_below(repository, &below, &[&path[..], b"/"].concat(), known)?;
        } else {
            known.push(recorded(&path, entry.id(), entry.filemode()));
        }
    }
    Ok(())
}

/// Whether an entry belongs to a conflict of a merge in progress.
fn conflicts(entry: &IndexEntry) -> bool {
    entry.flags & 0x3000 != 0
}
