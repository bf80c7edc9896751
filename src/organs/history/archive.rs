//! What has changed, kept for good: commits, and what they say.
//!
//! Owns the branch and the messages. Nothing is ever taken away: the branch moves only from
//! the commit a change was based on to a child of it, and only when everything the child
//! needs is on disk. What people and models say ends up above the trailers and cannot pass
//! for one. Does not know how changes are found, why something changed, nor the workspace.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use git2::build::TreeUpdateBuilder;
use git2::{ErrorCode, FileMode, ObjectType, Oid, Repository, Signature, Tree};

/// The branch of the workspace itself.
pub const MAIN: &str = "refs/heads/main";
/// The trailers of a commit. Other text that looks like one of them is marked as a quotation.
pub const TRAILERS: [&str; 16] = [
    "Session",
    "Turn",
    "Origin",
    "Model",
    "Tokens",
    "Cost",
    "End",
    // The job that made it, the time it was due, and the commit that put it on the schedule.
    "Job",
    "Line",
    // What was set in the turn and is taken back with it.
    "Reminder",
    "Also-running",
    // How far the hands of a turn reached, where that was not beyond the workspace.
    "Reach",
    // That tool calls were not confined.
    "Confine",
    // The ids of commits that this one takes back; of those that took back what it puts back.
    "Undoes",
    "Redoes",
    // The branch that this one brings in.
    "Merges",
];
/// The address of whoever makes every commit that is made here, whoever its author is.
pub const COMMITTER: &str = "agent@localhost";
/// Those that name a commit which this one takes back.
pub const CANCELS: [&str; 2] = ["Undoes", "Redoes"];
/// Those that tell what a commit did as a whole, even where nothing of it is to be seen.
pub const FACTS: [&str; 4] = ["Undoes", "Redoes", "Merges", "Reminder"];
/// The contents of more changes than this are flushed in one go. That takes one call, but
/// has to wait for whatever else is being written to the same disk: up to seconds.
const FLUSHED_ONE_BY_ONE: usize = 32;
/// The longest first line of a commit, in characters: what `git log --oneline` can show.
const SUBJECT_CHARS: usize = 72;

/// A branch of a repository, to which commits are added.
pub struct Archive {
    repository: Repository,
    branch: String,
    /// The owner's name and address.
    owner: (String, String),
    /// Whether tool calls are not confined: every commit says so.
    pub unconfined: bool,
}

/// What has become of one path, relative to the workspace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The path.
    pub path: PathBuf,
    /// Its content and kind; nothing when it is gone.
    pub now: Option<(Oid, FileMode)>,
}

/// In whose name a commit is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Author {
    /// The agent, or the program itself.
    Agent,
    /// The person whose machine this is.
    Owner,
}

/// What a commit says. Any text will do: it is made harmless when it is written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Message {
    /// The first line.
    pub subject: String,
    /// The text below it.
    pub body: String,
    /// What stands at the end, in this order; the names are of `TRAILERS`.
    pub trailers: Vec<(&'static str, String)>,
}

/// A commit that was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Commit {
    /// Its id.
    pub id: Oid,
    /// Its tree.
    pub tree: Oid,
    /// Files changed.
    pub files: usize,
}

impl Archive {
    /// Keep changes on this branch. The owner's commits bear this name and address, or
    /// neutral ones where git would not take them.
    pub fn new(repository: Repository, branch: &str, owner: Option<(String, String)>) -> Self {
        let owner = owner.filter(|(name, mail)| Signature::now(name, mail).is_ok());
        let owner = owner.unwrap_or_else(|| ("owner".to_owned(), "owner@localhost".to_owned()));
        Self { repository, branch: branch.to_owned(), owner, unconfined: false }
    }

    /// The repository, for storing contents and keeping the index.
    pub fn repository(&self) -> &Repository {
        &self.repository
    }

    /// The branch, by its full name.
    pub fn branch(&self) -> &str {
        &self.branch
    }

    /// The newest commit; none in a history that has just been made.
    pub fn head(&self) -> Result<Option<git2::Commit<'_>>> {
        match self.repository.find_reference(&self.branch) {
            Ok(reference) => Ok(Some(reference.peel_to_commit()?)),
            Err(error) if error.code() == ErrorCode::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", self.branch)),
        }
    }

    /// Add a commit of these changes to `base`, which must be the newest one: if the branch
    /// has moved on, this fails with git2's `Modified` and nothing has happened. Resolves
    /// to nothing when the tree stays as it was. `merged` is the commit that it brings in.
    pub fn commit(
        &self,
        base: Option<&git2::Commit<'_>>,
        merged: Option<&git2::Commit<'_>>,
        changes: &[Change],
        author: Author,
        message: &Message,
    ) -> Result<Option<Commit>> {
        let repository = &self.repository;
        let before = match base {
            Some(base) => base.tree()?,
            None => repository.find_tree(repository.treebuilder(None)?.write()?)?,
        };
        let tree = repository.find_tree(self.tree(&before, changes)?)?;
        // That something was taken back or brought in is told even where nothing of it shows.
        let tells = message.trailers.iter().any(|(name, _)| FACTS.contains(name));
        if base.is_some() && tree.id() == before.id() && !tells {
            return Ok(None);
        }
        let program = Signature::now("fledgling", COMMITTER)?;
        let author = match author {
            Author::Agent => program.clone(),
            Author::Owner => Signature::now(&self.owner.0, &self.owner.1)?,
        };
        let parents: Vec<_> = base.into_iter().chain(merged).collect();
        let mut message = message.clone();
        let unconfined = self.unconfined.then(|| ("Confine", "off".to_owned()));
        message.trailers.extend(unconfined);
        let text = message.text();
        let id = repository.commit(None, &author, &program, &text, &tree, &parents)?;
        self.flush(id, &tree, changes).context("cannot flush the history to disk")?;
        match base {
            Some(base) => {
                repository.reference_matching(&self.branch, id, true, base.id(), "snapshot")?
            }
            None => repository.reference(&self.branch, id, false, "snapshot")?,
        };
        Ok(Some(Commit { id, tree: tree.id(), files: changes.len() }))
    }

    /// The tree that comes of changes to another. What goes goes first, so that a file can
    /// become a folder and a folder a file, also where only one half of that is told.
    pub fn tree(&self, before: &git2::Tree<'_>, changes: &[Change]) -> Result<Oid> {
        let (mut gone, mut here) = (BTreeSet::new(), TreeUpdateBuilder::new());
        for Change { path, now } in changes {
            if let Some((id, mode)) = now {
                here.upsert(path.as_path(), *id, *mode);
                gone.extend(in_the_way(before, path));
            } else if before
                .get_path(path)
                .is_ok_and(|found| found.kind() != Some(ObjectType::Tree))
            {
                gone.insert(path.as_path());
            }
        }
        let mut removal = TreeUpdateBuilder::new();
        for path in &gone {
            if !path.ancestors().skip(1).any(|folder| gone.contains(folder)) {
                removal.remove(*path);
            }
        }
        let between = removal.create_updated(&self.repository, before)?;
        let between = self.repository.find_tree(between)?;
        Ok(here.create_updated(&self.repository, &between)?)
    }

    /// All objects that a commit of these changes brought are on disk when this returns.
    fn flush(&self, commit: Oid, tree: &git2::Tree<'_>, changes: &[Change]) -> io::Result<()> {
        if changes.len() > FLUSHED_ONE_BY_ONE {
            return flush_all(self.repository.path());
        }
        let store = self.repository.path().join("objects");
        let mut folders = BTreeSet::from([store.clone()]);
        for id in brought(commit, tree, changes) {
            let id = id.to_string();
            let folder = store.join(&id[..2]);
            match File::open(folder.join(&id[2..])) {
                Ok(object) => object.sync_all()?,
                // An old one come back, from a pack.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            }
            folders.insert(folder);
        }
        folders.into_iter().try_for_each(|folder| File::open(folder)?.sync_all())
    }
}

impl Message {
    /// The whole text, with the trailers in a paragraph of their own at the end, the only
    /// place where git and we look for them.
    fn text(&self) -> String {
        let mut subject = one_line(&self.subject);
        if let Some((cut, _)) = subject.char_indices().nth(SUBJECT_CHARS) {
            subject.truncate(cut);
            subject.push('…');
        }
        let body: Vec<_> = self.body.lines().map(harmless).collect();
        let trailers =
            self.trailers.iter().map(|(key, value)| format!("{key}: {}", one_line(value)));
        let trailers: Vec<_> = trailers.collect();
        let paragraphs = [harmless(&subject), body.join("\n"), trailers.join("\n")];
        let said = paragraphs.iter().map(|text| text.trim_matches('\n'));
        said.filter(|text| !text.is_empty()).collect::<Vec<_>>().join("\n\n") + "\n"
    }
}

/// What a tree has where a file is to be: a folder there, or a file for a folder above it.
fn in_the_way<'a>(tree: &Tree<'_>, path: &'a Path) -> Option<&'a Path> {
    path.ancestors().find(|part| {
        let kind = tree.get_path(part).ok().and_then(|found| found.kind());
        kind.is_some_and(|kind| (kind == ObjectType::Tree) == (*part == path))
    })
}

fn one_line(text: &str) -> String {
    let clean = text.replace(char::is_control, " ");
    clean.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A line without control characters that no search for a trailer finds.
fn harmless(line: &str) -> String {
    let line = line.replace(|c: char| c.is_control() && c != '\t', "");
    let key = line.split(':').next().unwrap_or_default().trim_end();
    let forged = TRAILERS.iter().any(|trailer| trailer.eq_ignore_ascii_case(key));
    if forged { format!("> {line}") } else { line }
}

/// The objects that are new in a commit, and maybe some that are not.
fn brought(commit: Oid, tree: &git2::Tree<'_>, changes: &[Change]) -> BTreeSet<Oid> {
    let mut objects = BTreeSet::from([commit, tree.id()]);
    for Change { path, now } in changes {
        let folders = path.ancestors().skip(1).filter(|folder| *folder != Path::new(""));
        // A folder may be gone with all that was in it.
        objects.extend(folders.filter_map(|folder| Some(tree.get_path(folder).ok()?.id())));
        objects.extend(now.map(|(id, _)| id));
    }
    objects
}

/// Everything written so far is on disk when this returns, whoever wrote it.
pub fn flush_all(folder: &Path) -> io::Result<()> {
    let folder = File::open(folder)?;
    // SAFETY: the descriptor is open for the whole call.
    #[cfg(target_os = "linux")]
    let failed = unsafe { libc::syncfs(folder.as_raw_fd()) } != 0;
    #[cfg(not(target_os = "linux"))]
    let failed = {
        // SAFETY: sync takes nothing and returns nothing.
        unsafe { libc::sync() };
        folder.sync_all().is_err()
    };
    if failed { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn home() -> (tempfile::TempDir, Archive) {
        let temp = tempfile::tempdir().unwrap();
        let repository = Repository::init_bare(temp.path()).unwrap();
        (temp, Archive::new(repository, MAIN, None))
    }

    fn change(archive: &Archive, path: &str, content: &[u8]) -> Change {
        let id = archive.repository().blob(content).unwrap();
        Change { path: path.into(), now: Some((id, FileMode::Blob)) }
    }

    fn commit(archive: &Archive, changes: &[Change]) -> Option<Commit> {
        let head = archive.head().unwrap();
        archive.commit(head.as_ref(), None, changes, Author::Agent, &Message::default()).unwrap()
    }

    #[test]
    fn the_branch_moves_only_from_where_the_change_was_based() {
        let (_temp, archive) = home();
        assert!(archive.head().unwrap().is_none());
        let first = commit(&archive, &[]).unwrap();
        let base = archive.head().unwrap();
        assert_eq!(base.as_ref().unwrap().id(), first.id);
        let second = commit(&archive, &[change(&archive, "a", b"1\n")]).unwrap();
        let late = [change(&archive, "b", b"1\n")];
        let message = Message::default();
        let error = archive.commit(base.as_ref(), None, &late, Author::Agent, &message);
        let error = error.unwrap_err();
        let error = error.downcast_ref::<git2::Error>().unwrap();
        assert_eq!(error.code(), ErrorCode::Modified);
        assert!(archive.commit(None, None, &late, Author::Agent, &message).is_err());
        assert_eq!(archive.head().unwrap().unwrap().id(), second.id);
    }

    #[test]
    fn what_is_gone_already_may_go() {
        let (_temp, archive) = home();
        commit(&archive, &[change(&archive, "a/b", b"1\n")]).unwrap();
        let gone = |path: &str| Change { path: path.into(), now: None };
        assert!(commit(&archive, &[gone("never"), gone("a/never")]).is_none());
        let last = commit(&archive, &[gone("a/b")]).unwrap();
        assert_eq!(last.files, 1);
        assert!(archive.repository().find_tree(last.tree).unwrap().is_empty());
    }

    #[test]
    fn a_file_and_a_folder_swap_also_where_only_what_comes_is_told() {
        let (_temp, archive) = home();
        commit(&archive, &[change(&archive, "a", b"1\n"), change(&archive, "b/c/d", b"1\n")]);
        let changes = [change(&archive, "a/b/c", b"2\n"), change(&archive, "b", b"2\n")];
        let last = commit(&archive, &changes).unwrap();
        let gone = |path: &str| Change { path: path.into(), now: None };
        assert_eq!(commit(&archive, &[gone("a"), gone("b/c/d")]), None, "told later");
        let tree = archive.repository().find_tree(last.tree).unwrap();
        assert!(["a/b/c", "b"].iter().all(|path| tree.get_path(Path::new(path)).is_ok()));
        let back = [change(&archive, "a", b"1\n"), change(&archive, "b/c/d", b"1\n")];
        let tree = archive.repository().find_tree(commit(&archive, &back).unwrap().tree).unwrap();
        assert!(["a", "b/c/d"].iter().all(|path| tree.get_path(Path::new(path)).is_ok()));
    }

    #[test]
    fn all_that_a_commit_brought_is_known() {
        fn all(archive: &Archive, tree: Oid) -> BTreeSet<Oid> {
            let mut ids = BTreeSet::from([tree]);
            let tree = archive.repository().find_tree(tree).unwrap();
            let walked = tree.walk(git2::TreeWalkMode::PreOrder, |_, entry| {
                ids.insert(entry.id());
                git2::TreeWalkResult::Ok
            });
            walked.unwrap();
            ids
        }
        let (_temp, archive) = home();
        let first = [("a/b/c", "1\n"), ("a/x", "2\n"), ("gone/far/file", "3\n"), ("top", "4\n")]
            .map(|(path, content)| change(&archive, path, content.as_bytes()));
        let before = commit(&archive, &first).unwrap();
        let changes = [
            change(&archive, "a/b/c", b"5\n"),
            change(&archive, "new/d/e", b"6\n"),
            Change { path: "gone/far/file".into(), now: None },
        ];
        let after = commit(&archive, &changes).unwrap();
        let tree = archive.repository().find_tree(after.tree).unwrap();
        let brought = brought(after.id, &tree, &changes);
        let fresh: BTreeSet<_> = &all(&archive, after.tree) - &all(&archive, before.tree);
        assert_eq!(brought, &fresh | &BTreeSet::from([after.id]));
    }
}
