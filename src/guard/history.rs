//! The workspace's history: a real git repository to which commits are added.
//!
//! Owns `history.git`, the `.git` file that points to it, and what a commit says. Nothing
//! is ever taken away: the branch moves only from the commit a change was based on to a
//! child of it, and only when everything the child needs is on disk. What people and models
//! say ends up above the trailers and cannot pass for one. The repository is opened as if
//! bare, so that libgit2 never reads the workspace: no `.gitattributes` of a hand steers it.
//! Does not know how changes are found, nor why something changed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Once;

use anyhow::{Context, Result};
use git2::build::TreeUpdateBuilder;
use git2::{ConfigLevel, ErrorCode, FileMode, Oid, Repository, RepositoryInitOptions, Signature};

/// The branch all snapshots go to.
const BRANCH: &str = "refs/heads/main";
/// What the workspace's `.git` file says.
const POINTER: &str = "gitdir: ../history.git\n";
/// Names that mean `.git` on another system are refused: with one of them in it, history
/// would fail `git fsck` and every push, for good. Plain git must not pack beside us.
const CONFIG: &str = "[core]
\trepositoryformatversion = 0
\tfilemode = true
\tbare = false
\tworktree = ../workspace
\tprotectNTFS = true
\tprotectHFS = true
[gc]
\tauto = 0
[maintenance]
\tauto = false
";
/// Contents go in and come out byte by byte, whatever the workspace's own attributes say.
const ATTRIBUTES: &str = "* -text -ident -filter -eol\n";
/// What history leaves out at first. The copy in `info/exclude` is the owner's to change.
const EXCLUDE: &str = include_str!("exclude");
/// The trailers of a commit. Other text that looks like one of them is marked as a quotation.
pub const TRAILERS: [&str; 7] =
    ["Session", "Turn", "Origin", "Model", "Tokens", "End", "Also-running"];
/// Blobs of one commit beyond this many bytes are not compared line by line.
const COUNTED_BYTES: usize = 20_000_000;
/// The longest first line of a commit, in characters: what `git log --oneline` can show.
const SUBJECT_CHARS: usize = 72;

/// The repository.
pub struct Archive {
    repository: Repository,
    git_dir: PathBuf,
    workspace: PathBuf,
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
    /// Lines added; binary and very large contents count none.
    pub added: usize,
    /// Lines removed, counted likewise.
    pub removed: usize,
}

impl Archive {
    /// Open the history of a home, or make it when there is none. Locks that a killed
    /// process left are removed: the caller holds the host lock.
    pub fn open(home: &Path) -> Result<Self> {
        shut_inherited_configuration()?;
        let (git_dir, workspace) = (home.join("history.git"), home.join("workspace"));
        let newborn = !git_dir.join("HEAD").exists();
        if newborn {
            create(&git_dir).with_context(|| format!("cannot create {}", git_dir.display()))?;
        }
        remove_locks(&git_dir)
            .with_context(|| format!("cannot remove stale locks in {}", git_dir.display()))?;
        let repository = Repository::open_bare(&git_dir)
            .with_context(|| format!("cannot open the history {}", git_dir.display()))?;
        let archive = Self { repository, git_dir, workspace };
        if newborn {
            archive.heal_pointer()?;
        }
        Ok(archive)
    }

    /// The repository, for storing contents and keeping the index.
    pub fn repository(&self) -> &Repository {
        &self.repository
    }

    /// The newest commit; none in a history that has just been made.
    pub fn head(&self) -> Result<Option<git2::Commit<'_>>> {
        match self.repository.find_reference(BRANCH) {
            Ok(reference) => Ok(Some(reference.peel_to_commit()?)),
            Err(error) if error.code() == ErrorCode::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {BRANCH}")),
        }
    }

    /// Add a commit of these changes to `base`, which must be the newest one: if the branch
    /// has moved on, this fails with git2's `Modified` and nothing has happened. Resolves
    /// to nothing when the tree stays as it was.
    pub fn commit(
        &self,
        base: Option<&git2::Commit<'_>>,
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
        if base.is_some() && tree.id() == before.id() {
            return Ok(None);
        }
        let (added, removed) = self.count_lines(&before, &tree)?;
        let program = Signature::now("fledgling", "agent@localhost")?;
        let author = match author {
            Author::Agent => program.clone(),
            Author::Owner => Signature::now("owner", "owner@localhost")?,
        };
        let parents: Vec<_> = base.into_iter().collect();
        let id = repository.commit(None, &author, &program, &message.text(), &tree, &parents)?;
        flush(&self.git_dir).context("cannot flush the history to disk")?;
        match base {
            Some(base) => repository.reference_matching(BRANCH, id, true, base.id(), "snapshot")?,
            None => repository.reference(BRANCH, id, false, "snapshot")?,
        };
        Ok(Some(Commit { id, tree: tree.id(), files: changes.len(), added, removed }))
    }

    /// The tree that comes of changes to another. Deletions go first, so that a file can
    /// become a folder and a folder a file.
    fn tree(&self, before: &git2::Tree<'_>, changes: &[Change]) -> Result<Oid> {
        let (mut gone, mut here) = (TreeUpdateBuilder::new(), TreeUpdateBuilder::new());
        for Change { path, now } in changes {
            match now {
                Some((id, mode)) => _ = here.upsert(path.as_path(), *id, *mode),
                None if before.get_path(path).is_ok() => _ = gone.remove(path.as_path()),
                None => {}
            }
        }
        let between = gone.create_updated(&self.repository, before)?;
        let between = self.repository.find_tree(between)?;
        Ok(here.create_updated(&self.repository, &between)?)
    }

    fn count_lines(&self, old: &git2::Tree<'_>, new: &git2::Tree<'_>) -> Result<(usize, usize)> {
        let diff = self.repository.diff_tree_to_tree(Some(old), Some(new), None)?;
        let odb = self.repository.odb()?;
        let sides = diff.deltas().flat_map(|delta| [delta.old_file().id(), delta.new_file().id()]);
        let sizes = sides.filter_map(|id| odb.read_header(id).ok());
        if sizes.map(|(size, _)| size).sum::<usize>() > COUNTED_BYTES {
            return Ok((0, 0));
        }
        let stats = diff.stats()?;
        Ok((stats.insertions(), stats.deletions()))
    }

    /// Put the workspace's `.git` right and say so: a forged one would run commands in the
    /// owner's plain git.
    pub fn heal_pointer(&self) -> Result<Option<String>> {
        let pointer = self.workspace.join(".git");
        // A symlink is not followed, and a FIFO reads as empty instead of blocking.
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let found = OpenOptions::new().read(true).custom_flags(flags).open(&pointer);
        let missing = found.as_ref().is_err_and(|error| error.kind() == ErrorKind::NotFound);
        let mut says = Vec::new();
        // What cannot be read is not the pointer.
        let _ = found.and_then(|file| file.take(1000).read_to_end(&mut says));
        if says == POINTER.as_bytes() {
            return Ok(None);
        }
        let what = if missing { "was missing" } else { "had been changed" };
        let mut sentence = format!("The workspace's .git file {what} and has been put back");
        let context = || format!("cannot put back {}", pointer.display());
        if pointer.symlink_metadata().is_ok_and(|found| found.is_dir()) {
            let mut names = (1..).map(|number| format!("git-found-{number}"));
            let free = |name: &String| self.workspace.join(name).symlink_metadata().is_err();
            let aside = names.find(free).with_context(context)?;
            fs::rename(&pointer, self.workspace.join(&aside)).with_context(context)?;
            sentence += &format!("; the folder found in its place is now {aside}");
        }
        // Made where no hand can write, then moved: never written through a link.
        let fresh = self.git_dir.join("pointer");
        fs::write(&fresh, POINTER).with_context(context)?;
        fs::rename(&fresh, &pointer).with_context(context)?;
        Ok(Some(sentence + "."))
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

/// The owner's and the system's git configuration is not ours: it may be unreadable, and
/// what it says must not change what we record.
fn shut_inherited_configuration() -> Result<()> {
    static ONCE: Once = Once::new();
    let mut done = Ok(());
    ONCE.call_once(|| {
        let levels =
            [ConfigLevel::ProgramData, ConfigLevel::System, ConfigLevel::XDG, ConfigLevel::Global];
        // SAFETY: these set globals of libgit2, which nothing else uses before this is done.
        done = unsafe {
            levels
                .into_iter()
                .try_for_each(|level| git2::opts::set_search_path(level, ""))
                .and_then(|()| git2::opts::set_verify_owner_validation(false))
        };
    });
    done.context("cannot shut out git's inherited configuration")
}

/// Made aside and moved into place whole: a kill leaves nothing half made.
fn create(git_dir: &Path) -> Result<()> {
    let fresh = git_dir.with_extension("new");
    if fresh.exists() {
        fs::remove_dir_all(&fresh)?;
    }
    let mut options = RepositoryInitOptions::new();
    options.bare(true).external_template(false).initial_head("main");
    Repository::init_opts(&fresh, &options)?;
    fs::create_dir_all(fresh.join("info"))?;
    fs::write(fresh.join("config"), CONFIG)?;
    fs::write(fresh.join("info/attributes"), ATTRIBUTES)?;
    fs::write(fresh.join("info/exclude"), EXCLUDE)?;
    Ok(fs::rename(&fresh, git_dir)?)
}

fn remove_locks(folder: &Path) -> io::Result<()> {
    for item in fs::read_dir(folder)? {
        let item = item?;
        let path = item.path();
        if item.file_type()?.is_dir() {
            if item.file_name() != "objects" {
                remove_locks(&path)?;
            }
        } else if path.extension().is_some_and(|extension| extension == "lock") {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

/// Everything written so far is on disk when this returns: one call for all objects.
fn flush(folder: &Path) -> io::Result<()> {
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
