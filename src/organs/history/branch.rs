//! Branches beside the main one, each with a checkout of its own.
//!
//! Owns how one begins, and how it goes: nothing that was done on it is ever lost. Does not
//! know who works on it, nor how it is brought into the main branch.

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use git2::{BranchType, Oid, Reference, Repository};

use crate::organs::history::archive::{MAIN, flush_all};
use crate::organs::history::backup;
use crate::organs::history::gitdir::{self, GitDir};
use crate::organs::history::keeper::Keeper;
use crate::organs::history::left_out::list;
use crate::organs::history::snapshots::{Settings, Snapshots};
use crate::organs::sessions;

/// What has become of a branch, in sentences.
#[derive(Debug)]
pub struct Gone {
    /// Of what was done on it.
    pub branch: String,
    /// Whether more was done on it than main holds.
    pub kept: bool,
    /// Of its folder, where that was put aside.
    pub aside: Option<String>,
}

/// A name no branch may have.
#[derive(Debug, thiserror::Error)]
#[error(
    "bad branch name {0:?}: up to 64 letters, digits, dots, dashes and underscores, the first a letter or digit, no two dots in a row and none at the end, and not main, HEAD, *.lock or *.left-out*"
)]
pub struct BadName(String);

/// A name a branch may have: that of a folder, of a session and of a git reference.
pub fn check_name(name: &str) -> Result<()> {
    let taken = ["main", "HEAD"].iter().any(|taken| name.eq_ignore_ascii_case(taken));
    let taken = taken || name.contains(gitdir::LEFT_OUT);
    let good =
        sessions::check_name(name).is_ok() && !taken && Reference::is_valid_name(&reference(name));
    if good { Ok(()) } else { Err(BadName(name.to_owned()).into()) }
}

/// Begin a branch, unless it is there, with the workspace as its owner sees it. The keeper is
/// the workspace's.
pub fn begin(keeper: &mut Keeper, name: &str) -> Result<()> {
    check_name(name)?;
    if keeper.archive().repository().find_reference(&reference(name)).is_ok() {
        return Ok(());
    }
    keeper.take_in()?;
    let head = keeper
        .archive()
        .head()?
        .context("there is no history yet; `fledgling init` begins it")?
        .id();
    let repository = keeper.archive().repository();
    // Should somebody else have made it meanwhile, it stays as it is.
    repository
        .reference(&reference(name), head, false, "branch")
        .with_context(|| format!("cannot begin the branch {name}"))?;
    flush(repository)?;
    keeper.freshen()
}

/// Open a branch in its checkout, which is made when there is none. Blocks; there must be one
/// opener at a time.
pub fn open(home: &Path, name: &str, settings: &Settings) -> Result<Snapshots> {
    check_name(name)?;
    tip(&gitdir::look(&home.join("history.git"))?, name)?;
    let (git_dir, repository) = GitDir::branch(home, name, |repository, folder| {
        backup::fill(repository, &tip(repository, name)?.tree()?, folder)
    })?;
    let Settings { owner, terms, .. } = settings.clone();
    let (mut keeper, writers) = Keeper::open(git_dir, repository, &reference(name), owner, terms)?;
    keeper.heal();
    keeper.resume();
    keeper.freshen()?;
    Ok(Snapshots::of(keeper, writers, settings))
}

/// The branches beside the main one.
pub fn names(repository: &Repository) -> Result<Vec<String>> {
    let branches = repository.branches(Some(BranchType::Local)).context("cannot list branches")?;
    let mut names = Vec::new();
    for branch in branches {
        // A name that is no text is not one of ours.
        if let Some(name) = branch?.0.name()?.filter(|name| reference(name) != MAIN) {
            names.push(name.to_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// The newest commit of a branch.
pub fn tip<'a>(repository: &'a Repository, name: &str) -> Result<git2::Commit<'a>> {
    if let Ok(found) = repository.find_reference(&reference(name))
        && reference(name) != MAIN
    {
        return found.peel_to_commit().with_context(|| format!("cannot read the branch {name}"));
    }
    match &names(repository)?[..] {
        [] => bail!("there is no branch {name:?}; `fledgling run --branch NAME` begins one"),
        names => bail!("there is no branch {name:?}; there are {}", names.join(", ")),
    }
}

/// Give a branch up, with its checkout. What the main branch does not hold of it is kept
/// under another reference; so is the checkout, where the history leaves something out of it
/// (`left_out`). Says what has become of it. Nobody may work on it meanwhile.
pub fn drop(home: &Path, name: &str, repository: &Repository, left_out: &[String]) -> Result<Gone> {
    let tip = tip(repository, name)?.id();
    let mut branch = repository.find_reference(&reference(name))?;
    let main = repository.refname_to_id(MAIN).context("cannot read the branch main")?;
    let held = main == tip || repository.graph_descendant_of(main, tip)?;
    let kept = if held { None } else { Some(keep(repository, name, tip)?) };
    // The branch goes last: killed before, it is still there and is given up again.
    let folder = gitdir::remove_checkout(home, name, !left_out.is_empty())?;
    branch.delete().with_context(|| format!("cannot remove the branch {name}"))?;
    flush(repository)?;
    let aside = folder.map(|folder| aside(&folder, left_out));
    let branch = match &kept {
        None => format!("Branch {name} is gone; main holds all that was done on it."),
        Some(kept) => format!(
            "Branch {name} is given up. What was done on it is kept; `fledgling git branch {name} {kept}` brings it back."
        ),
    };
    Ok(Gone { branch, kept: kept.is_some(), aside })
}

/// Where a checkout is that was put aside, and what for.
fn aside(folder: &Path, left_out: &[String]) -> String {
    let names = list(left_out);
    format!(
        "The history leaves out some of what was in its folder, so that is now {}: {names}.",
        folder.display()
    )
}

/// Keep this commit under a name of its own, which is returned.
fn keep(repository: &Repository, name: &str, tip: Oid) -> Result<String> {
    let numbered = (2..).map(|number| format!("refs/dropped/{name}-{number}"));
    for kept in std::iter::once(format!("refs/dropped/{name}")).chain(numbered) {
        match repository.refname_to_id(&kept) {
            Ok(there) if there == tip => return Ok(kept),
            Ok(_) => {}
            Err(_) => {
                repository
                    .reference(&kept, tip, false, "dropped")
                    .with_context(|| format!("cannot keep the branch {name} as {kept}"))?;
                flush(repository)?;
                return Ok(kept);
            }
        }
    }
    bail!("no name is free to keep the branch {name} under")
}

fn flush(repository: &Repository) -> Result<()> {
    flush_all(repository.path()).context("cannot flush the history to disk")
}

/// The full name of a branch.
pub fn reference(name: &str) -> String {
    format!("refs/heads/{name}")
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::PathBuf;
    use std::process::Command;

    use super::*;
    use crate::kernel::border::{History, Record};
    use crate::kernel::event::End;
    use crate::kernel::message::{Origin, Usage};

    struct World {
        temp: tempfile::TempDir,
        main: Snapshots,
        runtime: tokio::runtime::Runtime,
    }

    impl World {
        fn new() -> Self {
            let temp = tempfile::tempdir().unwrap();
            fs::create_dir(temp.path().join("workspace")).unwrap();
            fs::write(temp.path().join("workspace/a"), "one\n").unwrap();
            let main = Snapshots::open(temp.path(), &Settings::default()).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            Self { temp, main, runtime }
        }

        fn home(&self) -> &Path {
            self.temp.path()
        }

        fn begin(&self, name: &str) {
            let name = name.to_owned();
            self.runtime.block_on(self.main.blocking(move |keeper| begin(keeper, &name))).unwrap();
        }

        fn open(&self, name: &str) -> Snapshots {
            self.begin(name);
            open(self.home(), name, &Settings::default()).unwrap()
        }

        fn repository(&self) -> Repository {
            gitdir::look(&self.home().join("history.git")).unwrap()
        }

        fn drop(&self, name: &str) -> String {
            super::drop(self.home(), name, &self.repository(), &[]).unwrap().branch
        }

        fn file(&self, name: &str, path: &str) -> PathBuf {
            gitdir::checkout(self.home(), name).join(path)
        }

        /// A turn on a branch in which this is written.
        fn turn(&self, snapshots: &Snapshots, path: &Path, content: &str) {
            self.runtime.block_on(snapshots.before("s", 1)).unwrap();
            let writing = snapshots.writers().writes("s", true);
            fs::write(path, content).unwrap();
            std::mem::drop(writing);
            let record = Record {
                session: "s".to_owned(),
                turn: 1,
                origin: Origin::Owner,
                asked: format!("write {content}"),
                said: String::new(),
                model: "m".to_owned(),
                usage: Usage::default(),
                end: End::Done,
            };
            self.runtime.block_on(snapshots.after(record)).unwrap();
            self.runtime.block_on(snapshots.settled()).unwrap();
        }

        fn git(&self, folder: &Path, arguments: &[&str]) -> String {
            let mut git = Command::new("git");
            git.args(arguments).current_dir(folder).env_clear().env("HOME", self.home());
            git.env("PATH", std::env::var_os("PATH").unwrap()).env("GIT_CONFIG_NOSYSTEM", "1");
            let output = git.output().unwrap();
            let errors = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "git {arguments:?}: {errors}");
            String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
        }
    }

    #[test]
    fn names_are_checked() {
        for good in ["idea", "2026-11-21", "a.b_c-d"] {
            check_name(good).unwrap();
        }
        for bad in
            ["", "main", "Main", "HEAD", "a/b", "a..b", "a.", "a.lock", ".a", "-a", "ä", "../a"]
        {
            assert!(check_name(bad).unwrap_err().is::<BadName>(), "{bad}");
        }
    }

    #[test]
    fn a_branch_begins_with_what_the_owner_sees_and_is_plain_git_in_its_checkout() {
        let world = World::new();
        fs::write(world.home().join("workspace/a"), "edited\n").unwrap();
        symlink("a", world.home().join("workspace/link")).unwrap();
        let branch = world.open("idea");
        let checkout = world.file("idea", "");
        assert_eq!(fs::read_to_string(checkout.join("a")).unwrap(), "edited\n");
        assert_eq!(world.git(&checkout, &["status", "--porcelain"]), "");
        assert_eq!(world.git(&checkout, &["diff", "main"]), "");
        let top = world.git(&checkout, &["rev-parse", "--show-toplevel"]);
        assert_eq!(Path::new(&top), fs::canonicalize(&checkout).unwrap());
        assert_eq!(world.git(&checkout, &["symbolic-ref", "HEAD"]), "refs/heads/idea");
        world.turn(&branch, &checkout.join("a"), "two\n");
        assert_eq!(world.git(&checkout, &["status", "--porcelain"]), "");
        assert_eq!(world.git(&checkout, &["log", "--format=%s", "main.."]), "write two");
        assert_eq!(world.git(&checkout, &["diff", "--name-only", "main"]), "a");
        let workspace = world.home().join("workspace");
        assert_eq!(world.git(&workspace, &["status", "--porcelain"]), "");
        assert_eq!(fs::read_to_string(workspace.join("a")).unwrap(), "edited\n");
        assert_eq!(world.git(&workspace, &["log", "-1", "--format=%an", "main"]), "owner");
        assert!(world.git(&workspace, &["worktree", "list"]).contains("[idea]"));
        world.git(&workspace, &["fsck", "--strict"]);
        assert_eq!(names(&world.repository()).unwrap(), ["idea"]);
    }

    #[test]
    fn a_branch_is_opened_again_and_what_a_kill_left_half_made_is_made_anew() {
        let world = World::new();
        world.begin("idea");
        // As a kill in the middle of it leaves it.
        let fresh = world.file(".idea.new", "");
        fs::create_dir_all(fresh.join("half")).unwrap();
        let branch = world.open("idea");
        assert!(!fresh.exists() && !world.file("idea", "half").exists());
        world.turn(&branch, &world.file("idea", "a"), "two\n");
        std::mem::drop(branch);
        fs::write(world.file("idea", "a"), "by the owner\n").unwrap();
        let again = world.open("idea");
        world.runtime.block_on(again.before("s", 2)).unwrap();
        world.runtime.block_on(again.settled()).unwrap();
        let checkout = world.file("idea", "");
        assert_eq!(world.git(&checkout, &["log", "-1", "--format=%an"]), "owner");
        assert_eq!(world.git(&checkout, &["status", "--porcelain"]), "");
        // A checkout that is gone is made from the branch.
        fs::remove_dir_all(&checkout).unwrap();
        std::mem::drop((again, world.open("idea")));
        assert_eq!(world.git(&checkout, &["status", "--porcelain"]), "");
        assert_eq!(fs::read_to_string(checkout.join("a")).unwrap(), "by the owner\n");
    }

    #[test]
    fn an_unknown_branch_is_answered_with_those_there_are() {
        let world = World::new();
        let error = open(world.home(), "idea", &Settings::default()).err().unwrap().to_string();
        assert!(error.contains("no branch \"idea\"") && error.contains("run --branch"), "{error}");
        world.begin("one");
        world.begin("two");
        let error = tip(&world.repository(), "main").err().unwrap().to_string();
        assert!(error.ends_with("there are one, two"), "{error}");
        assert!(!world.file("idea", "").exists());
        assert!(!world.home().join("history.git/worktrees/idea").exists());
    }

    #[test]
    fn nothing_of_a_dropped_branch_is_lost() {
        let world = World::new();
        let workspace = world.home().join("workspace");
        for (round, kept) in ["refs/dropped/idea", "refs/dropped/idea-2"].iter().enumerate() {
            let branch = world.open("idea");
            world.turn(&branch, &world.file("idea", "a"), &format!("round {round}\n"));
            std::mem::drop(branch);
            let said = world.drop("idea");
            assert!(said.contains(&format!("git branch idea {kept}`")), "{said}");
            assert_eq!(
                world.git(&workspace, &["show", &format!("{kept}:a")]),
                format!("round {round}")
            );
            assert!(
                !world.file("idea", "").exists() && names(&world.repository()).unwrap().is_empty()
            );
        }
        assert_eq!(world.git(&workspace, &["worktree", "list"]).lines().count(), 1);
        assert_eq!(fs::read_dir(world.home().join("branches")).unwrap().count(), 0);
        world.git(&workspace, &["branch", "idea", "refs/dropped/idea"]);
        std::mem::drop(world.open("idea"));
        assert_eq!(fs::read_to_string(world.file("idea", "a")).unwrap(), "round 0\n");
    }

    #[test]
    fn what_main_holds_is_not_kept_twice() {
        let world = World::new();
        let branch = world.open("idea");
        world.turn(&branch, &world.file("idea", "a"), "two\n");
        std::mem::drop(branch);
        let repository = world.repository();
        let tip = tip(&repository, "idea").unwrap().id();
        repository.reference(MAIN, tip, true, "test").unwrap();
        assert!(world.drop("idea").contains("main holds"));
        assert!(repository.find_reference("refs/dropped/idea").is_err());
    }

    #[test]
    fn a_checkout_goes_whole_and_nothing_else_with_it() {
        let world = World::new();
        std::mem::drop(world.open("idea"));
        let outside = world.home().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("kept"), "").unwrap();
        symlink(&outside, world.file("idea", "out")).unwrap();
        fs::create_dir_all(world.file("idea", "cache/deep")).unwrap();
        fs::write(world.file("idea", "cache/deep/file"), "").unwrap();
        for folder in ["cache/deep", "cache"] {
            fs::set_permissions(world.file("idea", folder), Permissions::from_mode(0o500)).unwrap();
        }
        gitdir::remove_checkout(world.home(), "idea", false).unwrap();
        assert!(!world.file("idea", "").exists() && outside.join("kept").exists());
        // A checkout that somebody replaced by a link goes as the link that it is.
        symlink(&outside, gitdir::checkout(world.home(), "idea")).unwrap();
        gitdir::remove_checkout(world.home(), "idea", false).unwrap();
        assert!(outside.join("kept").exists());
    }

    #[test]
    fn a_checkouts_branch_is_known_wherever_the_home_was() {
        let home = Path::new("/home/branches");
        assert_eq!(gitdir::branch_of(home, &gitdir::checkout(home, "idea")), Some("idea"));
        assert_eq!(gitdir::branch_of(home, Path::new("/old/branches/idea")), Some("idea"));
        assert_eq!(gitdir::branch_of(home, &home.join("workspace")), None);
        assert_eq!(gitdir::branch_of(home, Path::new("/old/workspace")), None);
        assert_eq!(gitdir::branch_of(home, Path::new("")), None);
    }
}
