//! The folder `history.git` and the `.git` files that point to it: the workspace's, and those
//! of branches that have a checkout of their own (git's own linked work trees).
//!
//! Owns how the repository is set up, so that the owner's plain git works in the workspace
//! and nothing but what is written here has a say in what is recorded: no inherited
//! configuration, no attributes of a hand. For libgit2 the repository is bare: it never
//! looks into the workspace. Does not know what is kept in it.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Once;

use anyhow::{Context, Result, ensure};
use git2::{Config, ConfigLevel, Repository, RepositoryInitOptions};

use crate::organs::history::archive::flush_all;
use crate::organs::history::pack;

/// What the workspace's `.git` file says.
pub(super) const POINTER: &str = "gitdir: ../history.git\n";
/// Where the checkouts of branches are, in the home.
const BRANCHES: &str = "branches";
/// Stands in the name of a checkout that is kept for what the history leaves out of it; in
/// no branch's.
pub const LEFT_OUT: &str = ".left-out";
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
const ATTRIBUTES: &str = "* -text -ident -filter -eol !diff\n";
/// What history leaves out at first. The copy in `info/exclude` is the owner's to change.
const EXCLUDE: &str = include_str!("exclude");

/// What the repository's settings may be about: the first parts of their names, and whole
/// names. None of these is a program to run.
const HARMLESS_PARTS: [&str; 4] = ["user.", "branch.", "color.", "index."];
const HARMLESS: [&str; 12] = [
    "core.repositoryformatversion",
    "core.filemode",
    "core.bare",
    "core.worktree",
    "core.protectntfs",
    "core.protecthfs",
    "core.logallrefupdates",
    "core.quotepath",
    "core.untrackedcache",
    "gc.auto",
    "maintenance.auto",
    "push.default",
];
/// And of a remote, the last parts.
const HARMLESS_OF_REMOTES: [&str; 3] = [".url", ".pushurl", ".fetch"];
/// Where git keeps what belongs to one checkout.
pub struct GitDir {
    path: PathBuf,
    workspace: PathBuf,
    /// What the checkout's `.git` file says.
    pointer: String,
}

impl GitDir {
    /// Open the repository of a home, or make it when there is none. Locks that a killed
    /// process left are removed, and what it left of a packing: the caller holds the host lock.
    pub fn open(home: &Path) -> Result<(Self, Repository)> {
        shut_inherited_configuration()?;
        let (path, workspace) = (home.join("history.git"), home.join("workspace"));
        let git_dir = Self { path, workspace, pointer: POINTER.to_owned() };
        let path = &git_dir.path;
        if !path.exists() {
            create(path).with_context(|| format!("cannot create {}", path.display()))?;
            git_dir.heal()?;
        }
        fs::write(path.join("info/attributes"), ATTRIBUTES)
            .with_context(|| format!("cannot write to {}", path.display()))?;
        remove_locks(path)
            .with_context(|| format!("cannot remove stale locks in {}", path.display()))?;
        pack::clean(path)?;
        let repository = Repository::open_bare(path)
            .with_context(|| format!("cannot open the history {}", path.display()))?;
        Ok((git_dir, repository))
    }

    /// The checkout of a branch. When there is none, its files are put into a folder aside by
    /// `fill`, and moved into place whole; the history is there.
    pub fn branch(
        home: &Path,
        name: &str,
        fill: impl FnOnce(&Repository, &Path) -> Result<()>,
    ) -> Result<(Self, Repository)> {
        let repository = look(&home.join("history.git"))?;
        let (path, workspace) = (linked(home, name), checkout(home, name));
        let pointer = format!("gitdir: ../../history.git/worktrees/{name}\n");
        let context = || format!("cannot make a checkout for the branch {name}");
        let made = || -> io::Result<()> {
            fs::create_dir_all(&path)?;
            fs::write(path.join("HEAD"), format!("ref: refs/heads/{name}\n"))?;
            fs::write(path.join("commondir"), "../..\n")?;
            let back = [workspace.join(".git").as_os_str().as_bytes(), b"\n"].concat();
            fs::write(path.join("gitdir"), back)
        };
        made().with_context(context)?;
        if workspace.symlink_metadata().is_err() {
            let fresh = aside(home, name, "new").with_context(context)?;
            fill(&repository, &fresh)?;
            fs::write(fresh.join(".git"), &pointer)
                .and_then(|()| flush_all(&fresh))
                .and_then(|()| fs::rename(&fresh, &workspace))
                .with_context(context)?;
        }
        Ok((Self { path, workspace, pointer }, repository))
    }

    /// The folder that the owner's git finds.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The checkout.
    pub fn workspace(&self) -> &Path {
        &self.workspace
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
        if says == self.pointer.as_bytes() {
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
        fs::write(&fresh, &self.pointer).with_context(context)?;
        fs::rename(&fresh, &pointer).with_context(context)?;
        Ok(Some(sentence + "."))
    }
}

/// The checkout of a branch.
pub fn checkout(home: &Path, name: &str) -> PathBuf {
    home.join(BRANCHES).join(name)
}

/// The branch whose checkout this folder is or was, wherever the home was then; none for the
/// workspace.
pub fn branch_of<'a>(home: &Path, folder: &'a Path) -> Option<&'a str> {
    let inside = folder != home.join("workspace") && folder.parent()?.ends_with(BRANCHES);
    folder.file_name()?.to_str().filter(|_| inside)
}

/// The branch in whose checkout this place is.
pub fn branch_at(home: &Path, place: &Path) -> Option<String> {
    let real = |path: &Path| path.canonicalize().ok();
    let (branches, place) = (real(&home.join(BRANCHES))?, real(place)?);
    let name = place.strip_prefix(branches).ok()?.iter().next()?.to_str()?;
    linked(home, name).exists().then(|| name.to_owned())
}

/// Git's own options that name this repository with the place's checkout: that of a branch
/// when it is in one, else the workspace.
pub fn options_at(home: &Path, place: &Path) -> [OsString; 2] {
    let branch = branch_at(home, place);
    let (git_dir, folder) = branch.map_or_else(
        || (home.join("history.git"), home.join("workspace")),
        |branch| (linked(home, &branch), checkout(home, &branch)),
    );
    [("--git-dir=", git_dir), ("--work-tree=", folder)].map(|(name, path)| {
        let mut option = OsString::from(name);
        option.push(path);
        option
    })
}

/// Take away the checkout of a branch, and that git knows of it. No link is followed. Where
/// it is to be kept, it is put aside without git, and its new place is returned.
pub fn remove_checkout(home: &Path, name: &str, keep: bool) -> Result<Option<PathBuf>> {
    let put_aside = || -> io::Result<PathBuf> {
        let first = format!("{name}{LEFT_OUT}");
        let numbered = (2..).map(|number| format!("{first}-{number}"));
        let mut free = std::iter::once(first.clone()).chain(numbered);
        let free = free.find(|name| checkout(home, name).symlink_metadata().is_err());
        let (from, to) = (checkout(home, name), checkout(home, &free.unwrap_or(first)));
        // A kill after this leaves a checkout whose pointer is put back when it is opened.
        fs::remove_file(from.join(".git"))?;
        fs::rename(&from, &to)?;
        Ok(to)
    };
    let remove = || -> io::Result<Option<PathBuf>> {
        let kept = if keep { Some(put_aside()?) } else { None };
        // Out of the way at once, so that a kill leaves it whole or gone.
        let gone = aside(home, name, "gone")?;
        for (from, to) in [(checkout(home, name), "files"), (linked(home, name), "git")] {
            match fs::rename(from, gone.join(to)) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        remove_all(&gone)?;
        Ok(kept)
    };
    remove().with_context(|| format!("cannot remove the checkout of the branch {name}"))
}

/// What git keeps of the checkout of a branch.
fn linked(home: &Path, name: &str) -> PathBuf {
    home.join("history.git/worktrees").join(name)
}

/// An empty folder beside the checkouts; no branch's name begins with a dot.
fn aside(home: &Path, name: &str, what: &str) -> io::Result<PathBuf> {
    let folder = home.join(BRANCHES).join(format!(".{name}.{what}"));
    remove_all(&folder)?;
    DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
    Ok(folder)
}

/// Remove a folder with all in it, if it is there; also what is write-protected, as caches of
/// some tools are.
fn remove_all(folder: &Path) -> io::Result<()> {
    fn unprotect(folder: &Path) -> io::Result<()> {
        fs::set_permissions(folder, Permissions::from_mode(0o700))?;
        for item in fs::read_dir(folder)? {
            let item = item?;
            if item.file_type()?.is_dir() {
                unprotect(&item.path())?;
            }
        }
        Ok(())
    }
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            unprotect(folder)?;
            fs::remove_dir_all(folder)
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// Name and address from the owner's git configuration, if there are any.
pub fn owner() -> Option<(String, String)> {
    let folders = directories::BaseDirs::new()?;
    let files = [folders.home_dir().join(".gitconfig"), folders.config_dir().join("git/config")];
    files.iter().find_map(|file| {
        // One that cannot be read says nothing.
        let config = git2::Config::open(file).and_then(|mut config| config.snapshot()).ok()?;
        let text = |name| config.get_str(name).map(str::to_owned).ok();
        Some((text("user.name")?, text("user.email")?))
    })
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

/// A history as whoever only reads it sees it. No lock is needed.
pub fn look(git_dir: &Path) -> Result<Repository> {
    shut_inherited_configuration()?;
    Repository::open_bare(git_dir)
        .with_context(|| format!("cannot open the history {}", git_dir.display()))
}

/// See that the repository's settings name nothing that git would run.
pub fn check_settings(git_dir: &Path) -> Result<()> {
    let file = git_dir.join("config");
    let shown = file.display();
    let odd = odd_settings(&file).with_context(|| format!("cannot read {shown}"))?;
    ensure!(
        odd.is_empty(),
        "{shown} sets {}, with which git could be made to run programs; take it out of there, or set it in your own ~/.gitconfig",
        odd.join(", ")
    );
    Ok(())
}

/// Names of settings in a repository's file that may not stand there.
fn odd_settings(file: &Path) -> Result<Vec<String>, git2::Error> {
    let settings = Config::open(file)?;
    let mut odd = Vec::new();
    settings.entries(None)?.for_each(|entry| {
        let name = entry.name().unwrap_or("something unreadable");
        let harmless = HARMLESS.contains(&name)
            || HARMLESS_PARTS.iter().any(|part| name.starts_with(part))
            || (name.starts_with("remote.")
                && HARMLESS_OF_REMOTES.iter().any(|part| name.ends_with(part)));
        if !harmless {
            odd.push(name.to_owned());
        }
    })?;
    Ok(odd)
}

/// Made aside and moved into place whole: a kill leaves nothing half made.
pub(super) fn create(git_dir: &Path) -> Result<()> {
    shut_inherited_configuration()?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_could_run_something_are_found() {
        let temp = tempfile::tempdir().unwrap();
        let file = temp.path().join("config");
        let usual = "[core]\n\tbare = false\n\tworktree = ../workspace\n[gc]\n\tauto = 0\n[remote \"x\"]\n\turl = /x\n[user]\n\tname = x\n";
        fs::write(&file, usual).unwrap();
        assert_eq!(odd_settings(&file).unwrap(), Vec::<String>::new());
        let worse = "[core]\n\tpager = x\n[diff \"y\"]\n\ttextconv = x\n[include]\n\tpath = x\n[remote \"x\"]\n\tuploadpack = x\n[alias]\n\tlog = !x\n";
        fs::write(&file, format!("{usual}{worse}")).unwrap();
        let odd =
            ["core.pager", "diff.y.textconv", "include.path", "remote.x.uploadpack", "alias.log"];
        assert_eq!(odd_settings(&file).unwrap(), odd);
    }
}
