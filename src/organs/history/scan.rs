//! Finds what changed in the workspace.
//!
//! Owns git's index, which serves as the cache of what each file looked like when it was
//! last read: a file whose stamp is the same is not read again. Nothing outside of the
//! workspace is ever read, whatever links and swaps a hand may play with meanwhile, and
//! nothing that could block. One odd file never fails a scan: it is left out and named. Knows no commits, only the tree to compare with.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::io::{self, ErrorKind};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::{Context, Result};
use git2::{Index, IndexEntry, IndexTime, ObjectType, Oid, Repository, Tree};

use crate::guard::history::Change;
use crate::organs::history::beneath::Root;
use crate::organs::history::gate::Gate;
use crate::organs::history::ignored::{self, Ignored};
use crate::organs::history::image::{Images, NoImage, is_database};
use crate::organs::history::stamp::{Stamp, changed_at, entry, mode, recorded};

/// The file in which a folder of the workspace says what is to be kept out.
const RULES: &str = ".gitignore";

/// What the name of a database's write-ahead log ends with.
const LOG: &str = "-wal";
/// Bytes of a file that tell whether it is a database.
const MAGIC: u64 = 16;

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
    workspace: PathBuf,
    index_file: PathBuf,
    terms: Terms,
    /// Whom the owner and the workspace leave out.
    ignored: Ignored,
    /// Its index, never written, tells which names git refuses.
    judge: Repository,
    /// The tree that the index agrees with, when it does with any.
    agreed: Option<Oid>,
    /// The tree that it agrees with, unwritten, once it has learnt what it is to.
    settled: Option<Oid>,
    /// The index file as it was read or written last.
    stamp: Option<Stamp>,
    /// Databases with a write-ahead log, as they were when they were read last.
    logs: BTreeMap<PathBuf, (Stamp, Stamp)>,
    /// What the index is to learn: an entry, or that a path is gone.
    lessons: Vec<(PathBuf, Option<IndexEntry>)>,
}

impl Default for Terms {
    fn default() -> Self {
        let gate = Gate::new([], [""; 0]).into();
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
}

/// A path that differs from the tree.
pub struct Dirty {
    /// How.
    pub change: Change,
    /// When it was changed; not known of what is gone.
    pub at: Option<SystemTime>,
    /// For the index.
    entry: Option<IndexEntry>,
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
        // An index has rules for names only where it belongs to a repository.
        let judge = Repository::open_bare(repository.path())?;
        judge.set_index(&mut Index::new()?)?;
        let ignored = Ignored::open(repository.path())?;
        let (agreed, settled, stamp, lessons) = (None, None, None, Vec::new());
        let logs = BTreeMap::new();
        Ok(Self {
            workspace,
            index_file,
            terms,
            ignored,
            judge,
            agreed,
            settled,
            stamp,
            logs,
            lessons,
        })
    }

    /// All that differs from this tree. Contents that do are stored in the repository.
    pub fn look(&mut self, repository: &Repository, tree: Option<&Tree<'_>>) -> Result<Found> {
        let index = self.index(repository, tree)?;
        let known = index.iter().filter(|entry| !conflicts(entry));
        let known = known.map(|entry| (entry.path.clone(), entry)).collect();
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
        let paths: BTreeSet<_> = paths.iter().map(top).collect();
        let mut known = BTreeMap::new();
        for path in &paths {
            for part in path.ancestors().filter(|part| *part != Path::new("")) {
                let entry = tree.and_then(|tree| tree.get_path(part).ok());
                match entry.map(|entry| (entry.id(), entry.filemode(), entry.kind())) {
                    Some((id, _, Some(ObjectType::Tree))) if part == path => {
                        let below = repository.find_tree(id)?;
                        entries_below(repository, &below, &prefix(part), &mut known)?;
                    }
                    Some((_, _, Some(ObjectType::Tree))) | None => {}
                    Some((id, mode, _)) => {
                        _ = known.insert(bytes(part).to_vec(), recorded(bytes(part), id, mode));
                    }
                }
            }
        }
        let mut walk = Walk::new(self, repository, known, IndexTime::new(0, 0))?;
        let inside = |path: &Path| path.ancestors().skip(1).any(|folder| paths.contains(folder));
        for path in paths.iter().filter(|path| !inside(path)) {
            walk.named(path, tree)?;
        }
        Ok(walk.end())
    }

    /// How databases are read and put back, if it is said.
    pub fn images(&self) -> Option<&Images> {
        self.terms.images.as_ref()
    }

    /// These changes are committed, and made one tree another: keep what was learnt, for the
    /// next look and for plain git. The index itself is left for `freshen`.
    pub fn settle(&mut self, done: Vec<Dirty>, before: Option<Oid>, after: Option<Oid>) {
        // A step back, or the owner's git, may have gone where nothing was learnt about.
        self.settled = after.filter(|_| self.settled == before);
        self.lessons.extend(done.into_iter().map(|dirty| (dirty.change.path, dirty.entry)));
    }

    /// Write down what was learnt. With this tree committed, plain git's `status` is clean.
    pub fn freshen(&mut self, repository: &Repository, tree: &Tree<'_>) {
        if self.lessons.is_empty() && self.agreed == Some(tree.id()) {
            return;
        }
        // The index is a cache. When it cannot be written, as while the owner's git holds
        // its lock, the next look reads more than it must, and that is all.
        let learnt = self.learn(repository, Some(tree));
        if learnt.is_ok_and(|mut index| index.write().is_ok()) {
            self.stamp = Stamp::of_file(&self.index_file);
            self.agreed = Some(tree.id());
        } else {
            self.agreed = None;
        }
    }

    /// The index, in step with the tree: whatever the owner's git or a failed snapshot
    /// left in it, its entries name the tree's contents, with stamps where these are known.
    fn index(&mut self, repository: &Repository, tree: Option<&Tree<'_>>) -> Result<Index> {
        if self.agreed.is_some() && self.agreed == tree.map(Tree::id) && self.lessons.is_empty() {
            let stamp = Stamp::of_file(&self.index_file);
            if stamp == self.stamp {
                return Ok(repository.index()?);
            }
        }
        let index = self.learn(repository, tree)?;
        // Not written yet: what is younger than the file is looked at again.
        self.agreed = None;
        Ok(index)
    }

    fn learn(&mut self, repository: &Repository, tree: Option<&Tree<'_>>) -> Result<Index> {
        let mut index = repository.index()?;
        let stamp = Stamp::of_file(&self.index_file);
        let settled = self.settled.take();
        if settled.is_none() || settled != tree.map(Tree::id) || stamp != self.stamp {
            if index.read(true).is_err() {
                fs::remove_file(&self.index_file).ok();
                index.clear()?;
            }
            match tree {
                Some(tree) => index.read_tree(tree)?,
                None => index.clear()?,
            }
            self.stamp = stamp;
        }
        for (path, entry) in std::mem::take(&mut self.lessons) {
            let recorded = tree.and_then(|tree| tree.get_path(&path).ok());
            let recorded = recorded.filter(|found| found.kind() != Some(ObjectType::Tree));
            let recorded = recorded.map(|found| (found.id(), found.filemode() as u32));
            match entry {
                // What was learnt of another tree says nothing of this one.
                entry if entry.as_ref().map(|entry| (entry.id, entry.mode)) != recorded => {}
                Some(entry) => index.add(&entry)?,
                None => index.remove_path(&path)?,
            }
        }
        self.settled = tree.map(Tree::id);
        Ok(index)
    }
}

/// One look.
struct Walk<'a> {
    scan: &'a mut Scan,
    root: Root,
    repository: &'a Repository,
    /// What is recorded and was not met yet; in the end, what is gone.
    known: BTreeMap<Vec<u8>, IndexEntry>,
    /// When the index file was written.
    written: IndexTime,
    /// Files that have a write-ahead log beside them, if they are databases.
    logged: BTreeSet<PathBuf>,
    found: Found,
}

impl<'a> Walk<'a> {
    fn new(
        scan: &'a mut Scan,
        repository: &'a Repository,
        known: BTreeMap<Vec<u8>, IndexEntry>,
        written: IndexTime,
    ) -> Result<Self> {
        let root = Root::open(&scan.workspace)
            .with_context(|| format!("cannot open the workspace {}", scan.workspace.display()))?;
        scan.ignored.clear();
        let (logged, found) = (BTreeSet::new(), Found::default());
        Ok(Self { scan, root, repository, known, written, logged, found })
    }

    fn end(self) -> Found {
        let Self { known, mut found, .. } = self;
        for path in known.into_keys() {
            let change = Change { path: PathBuf::from(OsString::from_vec(path)), now: None };
            found.changes.push(Dirty { change, at: None, entry: None });
        }
        found
    }

    /// What is at this path, with all below it.
    fn named(&mut self, path: &Path, tree: Option<&Tree<'_>>) -> Result<()> {
        let parents: Vec<_> = path.ancestors().skip(1).collect();
        for parent in parents.into_iter().rev() {
            let top = parent == Path::new("");
            let tracked = top || tree.is_some_and(|tree| tree.get_path(parent).is_ok());
            if is_gits(parent) || !tracked && self.is_kept_out(parent, true) {
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

    fn folders(&mut self, mut folders: Vec<PathBuf>) -> Result<()> {
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
                    let inside = prefix(&folder);
                    self.known.retain(|path, _| !path.starts_with(&inside));
                    self.leave_out(&folder, why(&error, self.scan.terms.limit));
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
            return Ok(());
        }
        match stat {
            Ok(stat) if stat.is_dir() => {
                if !self.is_excluded(&path) {
                    folders.push(path);
                }
            }
            Ok(stat) if stat.is_file() || stat.is_symlink() => return self.file(path, &stat),
            Ok(_) => self.leave_out(&path, "a socket, a FIFO or a device".to_owned()),
            Err(error) if vanished(&error) => {}
            Err(error) => {
                self.known.remove(bytes(&path));
                self.leave_out(&path, why(&error, self.scan.terms.limit));
            }
        }
        Ok(())
    }

    /// Whether a folder is excluded. Once something in it is in history, it is not.
    fn is_excluded(&mut self, folder: &Path) -> bool {
        let inside = prefix(folder);
        let next = self.known.range(inside.clone()..).next();
        let tracked = next.is_some_and(|(path, _)| path.starts_with(&inside));
        !tracked && self.is_kept_out(folder, true)
    }

    /// Whether what is new is kept out. What only the workspace's own rules keep out is named:
    /// a hand wrote them.
    fn is_kept_out(&mut self, path: &Path, is_folder: bool) -> bool {
        if self.scan.ignored.by_owner(path, is_folder) {
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

    fn file(&mut self, path: PathBuf, stat: &Metadata) -> Result<()> {
        if !self.known.contains_key(bytes(&path)) && self.is_kept_out(&path, false) {
            return Ok(());
        }
        let log = if self.logged.contains(&path) { self.log_of(&path) } else { None };
        let known = self.known.get(bytes(&path));
        if known.is_some_and(|known| self.is_unchanged(known, stat))
            && log.is_none_or(|log| self.scan.logs.get(&path) == Some(&(Stamp::of(stat), log)))
        {
            self.known.remove(bytes(&path));
            return Ok(());
        }
        // The time before reading: what changes later than that bears another stamp.
        let now = SystemTime::now();
        let read = if stat.is_symlink() {
            self.root.read_link(&path).map(|target| (target, stat.clone()))
        } else {
            self.content(&path, stat)
        };
        match read {
            Ok((content, stat)) => {
                // Not while a second change of either could bear the same stamp.
                match log.filter(|log| log.is_settled(now) && Stamp::of(&stat).is_settled(now)) {
                    Some(log) => _ = self.scan.logs.insert(path.clone(), (Stamp::of(&stat), log)),
                    None => _ = self.scan.logs.remove(&path),
                }
                self.record(path, &content, &stat, log, now)
            }
            Err(error) if vanished(&error) => Ok(()),
            Err(error) => {
                // What history has of it stays.
                self.known.remove(bytes(&path));
                self.leave_out(&path, why(&error, self.scan.terms.limit));
                Ok(())
            }
        }
    }

    /// What a file holds; of a database, a consistent image, whoever writes to it meanwhile.
    fn content(&self, path: &Path, stat: &Metadata) -> io::Result<(Vec<u8>, Metadata)> {
        let limit = self.scan.terms.limit;
        if let Some(images) = &self.scan.terms.images
            && self.root.head(path, MAGIC).is_ok_and(|(head, _)| is_database(&head))
        {
            match images.take(path, limit) {
                Ok(image) => return Ok((image, stat.clone())),
                Err(NoImage::NotADatabase) => {}
                Err(NoImage::TooLarge) => return Err(ErrorKind::FileTooLarge.into()),
                Err(error) => return Err(io::Error::other(error.to_string())),
            }
        }
        self.root.read(path, limit)
    }

    /// The stamp of a database's write-ahead log, in which changes stand that its own stamp
    /// does not tell.
    fn log_of(&self, path: &Path) -> Option<Stamp> {
        self.scan.terms.images.as_ref()?;
        let mut log = path.as_os_str().to_owned();
        log.push(LOG);
        let stat = self.root.stat(Path::new(&log)).ok()?;
        (stat.is_file() && stat.len() > 0).then(|| Stamp::of(&stat))
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
        log: Option<Stamp>,
        now: SystemTime,
    ) -> Result<()> {
        if let Some(secret) = self.scan.terms.gate.finds(&path, content) {
            // What history has of it stays.
            self.known.remove(bytes(&path));
            self.leave_out(&path, format!("it holds {secret}"));
            return Ok(());
        }
        let id = self.repository.blob(content);
        let id = id.with_context(|| format!("cannot store {} in history", path.display()))?;
        let known = self.known.remove(bytes(&path));
        let (entry, mode) = (entry(&path, stat, id, now), mode(stat));
        let mut judge = self.scan.judge.index()?;
        let judged = judge.add(&entry);
        judge.clear()?;
        if let Err(error) = judged {
            self.leave_out(&path, format!("git refuses it: {}", error.message()));
        } else if known.is_none_or(|known| known.id != id || known.mode != u32::from(mode)) {
            let change = Change { path, now: Some((id, mode)) };
            let at = Some(log.map_or(changed_at(stat), |log| log.time().max(changed_at(stat))));
            self.found.changes.push(Dirty { change, at, entry: Some(entry) });
        } else {
            self.scan.lessons.push((path, Some(entry)));
        }
        Ok(())
    }

    fn leave_out(&mut self, path: &Path, why: String) {
        self.found.left_out.insert(path.to_owned(), why);
    }
}

/// What the tree has below a folder.
fn entries_below(
    repository: &Repository,
    tree: &Tree<'_>,
    inside: &[u8],
    known: &mut BTreeMap<Vec<u8>, IndexEntry>,
) -> Result<()> {
    for entry in tree {
        let path = [inside, entry.name_bytes()].concat();
        if entry.kind() == Some(ObjectType::Tree) {
            let below = repository.find_tree(entry.id())?;
            entries_below(repository, &below, &[&path[..], b"/"].concat(), known)?;
        } else {
            let entry = recorded(&path, entry.id(), entry.filemode());
            known.insert(path, entry);
        }
    }
    Ok(())
}

/// Whether an entry belongs to a conflict of a merge in progress.
fn conflicts(entry: &IndexEntry) -> bool {
    entry.flags & 0x3000 != 0
}

/// Whether a path leads into what a repository keeps for itself.
fn is_gits(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.eq_ignore_ascii_case(".git"))
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

fn why(error: &io::Error, limit: u64) -> String {
    match error.kind() {
        ErrorKind::FileTooLarge => format!("over {} MB", limit / 1024 / 1024),
        // In words already.
        ErrorKind::Other => error.to_string(),
        kind => kind.to_string(),
    }
}
