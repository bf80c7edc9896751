//! A state that is wanted, not found: workspace and history go there together.
//!
//! Owns that such a step survives a kill: what is to be done is written down first, done in
//! an order in which it can be done again, and finished at the next start. Does not know
//! why the state is wanted.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use git2::Oid;
use serde::{Deserialize, Serialize};

use crate::organs::config::is_absent;
use crate::organs::history::archive::{
    Author, Change, Commit, FACTS, Message, TRAILERS, flush_all,
};
use crate::organs::history::beneath::Root;
use crate::organs::history::chronicle::is_ours;
use crate::organs::history::difference::differences;
use crate::organs::history::image::{Images, NoImage};
use crate::organs::history::keeper::Keeper;
use crate::organs::history::left_out;
use crate::organs::history::put::{Databases, Put, put};

/// Where a step is written down while it is taken, beside the index.
const PLAN: &str = "step.json";

/// A step.
#[derive(Debug, Clone)]
pub struct Step {
    /// The tree to go to.
    pub to: Oid,
    /// In whose name.
    pub author: Author,
    /// What its commit says.
    pub message: Message,
    /// The commit that it brings in.
    pub merged: Option<Oid>,
}

/// A step, written down.
#[derive(Debug, Serialize, Deserialize)]
struct Plan {
    base: String,
    to: String,
    owner: bool,
    subject: String,
    body: String,
    trailers: Vec<(String, String)>,
    merged: Option<String>,
    /// What a file is called while it is written.
    temporary: String,
}

impl Keeper {
    /// Bring workspace and history from the newest commit to another tree. What somebody
    /// changed since that commit is left alone, here as there.
    pub fn step(&mut self, step: &Step) -> Result<(Option<Commit>, Put)> {
        let head = self.archive.head()?.context("the history is empty")?.id();
        let plan = self.git_dir.path().join(PLAN);
        let root = self.root(None)?;
        let written = serde_json::to_vec(&Plan::of(step, head, root.temporary()))?;
        let keep = || {
            let aside = plan.with_extension("new");
            fs::write(&aside, written)?;
            File::open(&aside)?.sync_all()?;
            fs::rename(&aside, &plan)?;
            File::open(self.git_dir.path())?.sync_all()
        };
        // What it leads to must not be lost before it is.
        flush_all(self.archive.repository().path()).context("cannot flush the history to disk")?;
        keep().with_context(|| format!("cannot write {}", plan.display()))?;
        let done = self.carry_out(&root, head, step);
        // Who asked is told of a failure, and may ask again.
        fs::remove_file(&plan).with_context(|| format!("cannot remove {}", plan.display()))?;
        done
    }

    /// Finish a step that a kill cut off, and have the owner told. One that cannot be
    /// finished must not keep a home from starting.
    pub fn resume(&mut self) {
        let path = self.git_dir.path().join(PLAN);
        let written = match fs::read(&path) {
            Err(error) if is_absent(&error) => return,
            written => written,
        };
        let resumed = written.context("it cannot be read").and_then(|written| {
            let plan = serde_json::from_slice::<Plan>(&written)?;
            let root = self.root(Some(&plan.temporary))?;
            let (base, step) = plan.step()?;
            // It may have got as far as its commit; and the owner's git may have gone elsewhere.
            let head = self.archive.head()?.map(|head| head.id());
            if head == Some(base) {
                self.sweep(&root, base, &step)?;
                self.carry_out(&root, base, &step)?;
                self.notice(format!("What a kill had cut off is done: {}.", step.message.subject));
                return Ok(());
            }
            let head = head.map(|head| self.archive.repository().find_commit(head)).transpose()?;
            let is_its = head
                .is_some_and(|head| is_ours(&head) && head.parent_id(0).is_ok_and(|id| id == base));
            ensure!(is_its, "git has moved the branch meanwhile");
            Ok(())
        });
        if let Err(error) = resumed {
            self.notice(format!(
                "An undo that a kill had cut off could not be finished: {error:#}; what it left shows as changes of unknown origin."
            ));
            self.suspect_all();
        }
        // Should that fail, the next start tries again.
        let _ = fs::remove_file(&path);
    }

    /// The workspace as it is now, as a tree, without a commit; and what is left out of it,
    /// each with why.
    pub fn tree_now(&mut self) -> Result<(Oid, Vec<String>)> {
        let head = self.archive.head()?.context("the history is empty")?.tree()?;
        let found = self.scan.look(self.archive.repository(), Some(&head))?;
        let changes: Vec<_> = found.changes.into_iter().map(|dirty| dirty.change).collect();
        let left_out = found.left_out.iter().map(left_out::line);
        Ok((self.archive.tree(&head, &changes)?, left_out.collect()))
    }

    /// The workspace, with the temporary name of the step that is to be finished.
    fn root(&self, temporary: Option<&str>) -> Result<Root> {
        let workspace = self.git_dir.workspace();
        let root = temporary
            .map_or_else(|| Root::open(workspace), |temporary| Root::reopen(workspace, temporary));
        root.with_context(|| format!("cannot open the workspace {}", workspace.display()))
    }

    /// Remove what the kill left half written.
    fn sweep(&self, root: &Root, base: Oid, step: &Step) -> Result<()> {
        let repository = self.archive.repository();
        let (from, to) = (repository.find_commit(base)?.tree()?, repository.find_tree(step.to)?);
        let all = differences(repository, Some(&from), Some(&to))?;
        let folders: BTreeSet<_> = all.iter().filter_map(|one| one.path.parent()).collect();
        for folder in folders {
            root.sweep(folder);
        }
        Ok(())
    }

    fn carry_out(&mut self, root: &Root, base: Oid, step: &Step) -> Result<(Option<Commit>, Put)> {
        let repository = self.archive.repository();
        let base = repository.find_commit(base)?;
        let (from, to) = (base.tree()?, repository.find_tree(step.to)?);
        let databases = Live { root, images: self.scan.images() };
        let done = put(root, repository, &from, &to, &databases)?;
        // Where all of it is in something's way, nothing was taken back that could be told.
        if done.done.is_empty() && !done.left_alone.is_empty() {
            return Ok((None, done));
        }
        let left: BTreeSet<&PathBuf> = done.left_alone.iter().map(|(path, _)| path).collect();
        let changes = differences(repository, Some(&from), Some(&to))?.into_iter();
        let changes = changes.filter(|one| !left.contains(&one.path)).map(|one| {
            let now = one.after;
            Change { path: one.path, now }
        });
        let changes: Vec<_> = changes.collect();
        let mut step = step.clone();
        if done.in_part {
            // What was not done whole does not count as done: it can be asked for again.
            step.merged = None;
            step.message.subject += " (in part)";
            step.message.trailers.retain(|(name, _)| !FACTS.contains(name));
        }
        let merged = step.merged.map(|merged| repository.find_commit(merged)).transpose()?;
        let (author, message) = (step.author, &step.message);
        let commit =
            self.archive.commit(Some(&base), merged.as_ref(), &changes, author, message)?;
        let paths = changes.into_iter().map(|change| change.path).collect();
        let head = self.archive.head()?.context("the history is empty")?.tree()?;
        // It is a cache, and the step is done.
        let _ = self.scan.relearn(&paths, repository, &head);
        Ok((commit, done))
    }
}

/// Databases as they are taken in.
struct Live<'a> {
    root: &'a Root,
    images: Option<&'a Images>,
}

impl Databases for Live<'_> {
    fn take(&self, path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
        let Some(images) = self.images else { return Ok(Some(self.root.read(path, limit)?.0)) };
        match images.take(path, limit) {
            Err(NoImage::TooLarge) => Ok(None),
            Err(NoImage::NotADatabase) => Ok(Some(self.root.read(path, limit)?.0)),
            taken => Ok(Some(taken?)),
        }
    }

    fn put(&self, path: &Path, image: &[u8]) -> Result<()> {
        match self.images {
            Some(images) => Ok(images.put(image, path)?),
            None => Ok(self.root.write(path, image, false)?),
        }
    }
}

impl Plan {
    fn of(step: &Step, base: Oid, temporary: &str) -> Self {
        let Message { subject, body, trailers } = step.message.clone();
        let trailers = trailers.into_iter().map(|(name, value)| (name.to_owned(), value));
        Self {
            base: base.to_string(),
            to: step.to.to_string(),
            owner: step.author == Author::Owner,
            subject,
            body,
            trailers: trailers.collect(),
            merged: step.merged.map(|merged| merged.to_string()),
            temporary: temporary.to_owned(),
        }
    }

    fn step(self) -> Result<(Oid, Step)> {
        let Self { base, to, owner, subject, body, trailers, merged, .. } = self;
        let trailers = trailers.into_iter().filter_map(|(name, value)| {
            Some((*TRAILERS.iter().find(|known| **known == name)?, value))
        });
        let message = Message { subject, body, trailers: trailers.collect() };
        let author = if owner { Author::Owner } else { Author::Agent };
        let merged = merged.map(|merged| Oid::from_str(&merged)).transpose()?;
        let step = Step { to: Oid::from_str(&to)?, author, message, merged };
        Ok((Oid::from_str(&base)?, step))
    }
}
