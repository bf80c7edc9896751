//! What is taken in of one file: its content, a database's image, or where a link points.
//!
//! Owns how a file is read and what of it stays out: what holds a secret, what is too large,
//! what git refuses. A database is as changed as its write-ahead log is. Knows neither what
//! is recorded of a file nor how it was found.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::Metadata;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result};
use git2::{FileMode, Index, IndexEntry, Repository};

use crate::organs::history::beneath::Root;
use crate::organs::history::image::{Images, NoImage, is_database};
use crate::organs::history::scan::Terms;
use crate::organs::history::stamp::{Stamp, changed_at, entry, mode};
use crate::organs::history::walk::vanished;

/// What the name of a database's write-ahead log ends with.
pub const LOG: &str = "-wal";
/// Bytes of a file that tell whether it is a database.
const MAGIC: u64 = 16;

/// Reads the files of one workspace.
pub struct Contents {
    terms: Terms,
    /// Its index, never written, tells which names git refuses.
    judge: Repository,
    /// Databases with a write-ahead log, as they were when they were read last.
    logs: BTreeMap<PathBuf, (Stamp, Stamp)>,
    /// Databases that changed so shortly before they were read that they are read again.
    young: BTreeSet<PathBuf>,
}

/// What came of reading a file.
pub enum Taken {
    /// It is stored.
    Content {
        /// For the index.
        entry: IndexEntry,
        /// What git keeps of its mode.
        mode: FileMode,
        /// When it was changed.
        at: SystemTime,
    },
    /// It stays out, and why in a few words.
    LeftOut(String),
    /// It is not there any more.
    Nothing,
}

impl Contents {
    /// On these terms, for the repository in this folder.
    pub fn new(git_dir: &Path, terms: Terms) -> Result<Self> {
        // An index has rules for names only where it belongs to a repository.
        let judge = Repository::open_bare(git_dir)?;
        judge.set_index(&mut Index::new()?)?;
        Ok(Self { terms, judge, logs: BTreeMap::new(), young: BTreeSet::new() })
    }

    /// How databases are read and put back, if it is said.
    pub fn images(&self) -> Option<&Images> {
        self.terms.images.as_ref()
    }

    /// Databases that have to be read again.
    pub fn take_young(&mut self) -> BTreeSet<PathBuf> {
        std::mem::take(&mut self.young)
    }

    /// The stamp of a database's write-ahead log, in which changes stand that its own stamp
    /// does not tell.
    pub fn log_of(&self, root: &Root, path: &Path) -> Option<Stamp> {
        self.terms.images.as_ref()?;
        let mut log = path.as_os_str().to_owned();
        log.push(LOG);
        let stat = root.stat(Path::new(&log)).ok()?;
        (stat.is_file() && stat.len() > 0).then(|| Stamp::of(&stat))
    }

    /// Whether the log of what was read last is the same too, if there is one.
    pub fn is_as_read(&self, path: &Path, stat: &Metadata, log: Option<Stamp>) -> bool {
        log.is_none_or(|log| self.logs.get(path) == Some(&(Stamp::of(stat), log)))
    }

    /// Store what a file holds, or where a link points.
    pub fn take(
        &mut self,
        root: &Root,
        repository: &Repository,
        path: &Path,
        stat: &Metadata,
        log: Option<Stamp>,
    ) -> Result<Taken> {
        // The time before reading: what changes later than that bears another stamp.
        let now = SystemTime::now();
        let read = if stat.is_symlink() {
            root.read_link(path).map(|target| (target, stat.clone()))
        } else {
            self.content(root, path, stat)
        };
        let (content, stat) = match read {
            Ok(read) => read,
            Err(error) if vanished(&error) => return Ok(Taken::Nothing),
            Err(error) => return Ok(Taken::LeftOut(self.why(&error))),
        };
        if self.terms.images.is_some() && is_database(&content) {
            if Stamp::of(&stat).is_settled(now) {
                self.young.remove(path);
            } else {
                self.young.insert(path.to_owned());
            }
        }
        // Not while a second change of either could bear the same stamp.
        match log.filter(|log| log.is_settled(now) && Stamp::of(&stat).is_settled(now)) {
            Some(log) => _ = self.logs.insert(path.to_owned(), (Stamp::of(&stat), log)),
            None => _ = self.logs.remove(path),
        }
        if let Some(why) = self.terms.gate.finds_in_name(path) {
            return Ok(Taken::LeftOut(why));
        }
        if let Some(secret) = self.terms.gate.finds(path, &content) {
            return Ok(Taken::LeftOut(format!("it holds {secret}")));
        }
        let id = repository.blob(&content);
        let id = id.with_context(|| format!("cannot store {} in history", path.display()))?;
        let entry = entry(path, &stat, id, now);
        let mut judge = self.judge.index()?;
        let judged = judge.add(&entry);
        judge.clear()?;
        if let Err(error) = judged {
            return Ok(Taken::LeftOut(format!("git refuses it: {}", error.message())));
        }
        let at = log.map_or(changed_at(&stat), |log| log.time().max(changed_at(&stat)));
        Ok(Taken::Content { entry, mode: mode(&stat), at })
    }

    /// Why something stays out, in a few words.
    pub fn why(&self, error: &io::Error) -> String {
        match error.kind() {
            ErrorKind::FileTooLarge => format!("over {} MB", self.terms.limit / 1024 / 1024),
            // In words already.
            ErrorKind::Other => error.to_string(),
            kind => kind.to_string(),
        }
    }

    /// What a file holds; of a database, a consistent image, whoever writes to it meanwhile.
    fn content(
        &self,
        root: &Root,
        path: &Path,
        stat: &Metadata,
    ) -> io::Result<(Vec<u8>, Metadata)> {
        let limit = self.terms.limit;
        if let Some(images) = &self.terms.images
            && root.head(path, MAGIC).is_ok_and(|(head, _)| is_database(&head))
        {
            let mut stat = stat.clone();
            for last in [false, true] {
                match images.take(path, limit) {
                    Ok(image) => {
                        // Who opens it last moves its log into it: then it is as it stays.
                        let now = root.stat(path)?;
                        if last || Stamp::of(&now) == Stamp::of(&stat) {
                            return Ok((image, stat));
                        }
                        stat = now;
                    }
                    Err(NoImage::NotADatabase) => break,
                    Err(NoImage::TooLarge) => return Err(ErrorKind::FileTooLarge.into()),
                    Err(error) => return Err(io::Error::other(error.to_string())),
                }
            }
        }
        root.read(path, limit)
    }
}
