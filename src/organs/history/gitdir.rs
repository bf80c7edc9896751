//! The folder `history.git` and the workspace's `.git` file that points to it.
//!
//! Owns how the repository is set up, so that the owner's plain git works in the workspace
//! and nothing but what is written here has a say in what is recorded: no inherited
//! configuration, no attributes of a hand. For libgit2 the repository is bare: it never
//! looks into the workspace. Does not know what is kept in it.

use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Once;

use anyhow::{Context, Result};
use git2::{ConfigLevel, Repository, RepositoryInitOptions};

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

/// Where the history of a home is kept.
pub struct GitDir {
    path: PathBuf,
    workspace: PathBuf,
}

impl GitDir {
    /// Open the repository of a home, or make it when there is none. Locks that a killed
    /// process left are removed: the caller holds the host lock.
    pub fn open(home: &Path) -> Result<(Self, Repository)> {
        shut_inherited_configuration()?;
        let git_dir = Self { path: home.join("history.git"), workspace: home.join("workspace") };
        let path = &git_dir.path;
        if !path.exists() {
            create(path).with_context(|| format!("cannot create {}", path.display()))?;
            git_dir.heal()?;
        }
        remove_locks(path)
            .with_context(|| format!("cannot remove stale locks in {}", path.display()))?;
        let repository = Repository::open_bare(path)
            .with_context(|| format!("cannot open the history {}", path.display()))?;
        Ok((git_dir, repository))
    }

    /// Put the workspace's `.git` right and say so: a forged one would run commands in the
    /// owner's plain git.
    pub fn heal(&self) -> Result<Option<String>> {
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
        let fresh = self.path.join("pointer");
        fs::write(&fresh, POINTER).with_context(context)?;
        fs::rename(&fresh, &pointer).with_context(context)?;
        Ok(Some(sentence + "."))
    }
}

/// Open the history of a home to look at it. Leaves locks alone: a writer may be at work.
pub fn open_to_read(home: &Path) -> Result<Repository> {
    shut_inherited_configuration()?;
    let path = home.join("history.git");
    Repository::open_bare(&path)
        .with_context(|| format!("cannot open the history {}", path.display()))
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
