//! `fledgling git`: the system's git on the history, where nothing that lies in the
//! workspace decides what runs.
//!
//! Owns what git is told besides the arguments. The owner's own configuration counts as
//! always; whatever else could name a program (a forged `.git`, attributes, hooks, settings
//! that somebody wrote into the repository) does not. It runs in a hand all the same, with no
//! network: a history is sent elsewhere by `backup`.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::thread;

use anyhow::{Context as _, Result, bail, ensure};

use crate::files::withheld::Withheld;
use crate::guard::confine::{Kept, confine};
use crate::guard::policy::{Network, Policy};
use crate::guard::supervisor;
use crate::organs::config::Config;
use crate::organs::history::gitdir;
use crate::organs::home::Home;
use crate::organs::reach::root::Reach;

/// Settings that count in place of any other. No hook is the owner's here: a `hooksPath` of
/// theirs may be relative, and would lead into the workspace.
const SHUT: [&str; 4] = [
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "submodule.recurse=false",
    "protocol.ext.allow=never",
];
/// A tree without files: attributes are read from it and not from the workspace, so that
/// none there can choose a filter or a way to show a file.
const EMPTY_TREE: &str = "4b825dc642cb6eb9a060e54bf8d69288fbee4904";
/// Variables that would lead git to another repository than this one.
const LEADING_AWAY: [&str; 6] = [
    "GIT_INDEX_FILE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_COMMON_DIR",
    "GIT_NAMESPACE",
    "GIT_CONFIG",
];

/// The owner's own configuration of git.
const OWNERS: [&str; 2] = [".gitconfig", ".config/git"];

/// Run git with these arguments. The number is its exit code.
pub fn git(home: &Home, arguments: &[OsString]) -> Result<u8> {
    let git_dir = home.file("history.git");
    let shown = git_dir.display();
    ensure!(git_dir.exists(), "there is no history {shown} yet; `fledgling init` begins it");
    gitdir::check_settings(&git_dir)?;
    let here = std::env::current_dir().unwrap_or_default();
    let mut words = Vec::from(gitdir::options_at(home.path(), &here));
    words.extend(SHUT.into_iter().flat_map(|setting| ["-c".into(), setting.into()]));
    words.extend_from_slice(arguments);
    let mut variables: Vec<_> = LEADING_AWAY.into_iter().map(|name| (name, None)).collect();
    variables.push(("GIT_ATTR_SOURCE", Some(EMPTY_TREE.into())));
    match in_hand(home, &words, &variables)? {
        // As a shell tells of a signal.
        Ok(status) => {
            Ok(status.code().or(status.signal().map(|signal| 128 + signal)).unwrap_or(1) as u8)
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            anyhow::bail!("cannot find git; install it, or use log, show and diff of fledgling")
        }
        Err(error) => Err(error).context("cannot run git"),
    }
}

/// Run it in a hand that may change the workspace and its history, and reaches nothing else.
fn in_hand(
    home: &Home,
    words: &[OsString],
    variables: &[(&str, Option<OsString>)],
) -> Result<io::Result<ExitStatus>> {
    let reach = Reach::of(home, &Config::read(&home.file("config.toml"))?)?;
    let real = |path: PathBuf| path.canonicalize().ok();
    let user = std::env::home_dir();
    let owners = user.iter().flat_map(|user| OWNERS.map(|name| user.join(name)));
    let owners = owners.filter_map(real).collect();
    let write = ["workspace", "history.git", "branches", "scratch"].map(|name| home.file(name));
    let write = write.into_iter().filter_map(real).collect();
    let policy = Policy {
        workspace: home.workspace(),
        scratch: home.scratch(),
        env: Vec::new(),
        chain: reach.helper(owners, write, Network::None)?,
        own: Vec::new(),
        held: File::open("/dev/null").context("cannot open /dev/null")?.into(),
        withheld: Withheld::default(),
    };
    thread::scope(|scope| {
        let hand = scope.spawn(|| -> Result<_> {
            let _confined = confine(&policy, &Kept::new(true))?;
            Ok(supervisor::run_in_terminal("git", words, variables, None))
        });
        hand.join().unwrap_or_else(|_| {
            bail!("git failed by a mistake of fledgling's own, which is worth a report")
        })
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// In a real git, with everything in the way that a workspace can hold.
    #[test]
    fn nothing_in_the_workspace_runs() {
        let temp = tempfile::tempdir().unwrap();
        let home = Home::resolve(Some(temp.path().join("home"))).unwrap();
        home.create().unwrap();
        let (_, repository) = crate::organs::history::gitdir::GitDir::open(home.path()).unwrap();
        let (workspace, ran) = (home.workspace(), temp.path().join("ran"));
        let run = format!("touch {}; cat", ran.display());
        let evil = temp.path().join("evil.git");
        fs::create_dir_all(evil.join("refs")).unwrap();
        fs::write(evil.join("HEAD"), "ref: refs/heads/main").unwrap();
        fs::create_dir_all(evil.join("objects")).unwrap();
        fs::write(evil.join("config"), format!("[core]\n\tfsmonitor = \"{run}\"\n")).unwrap();
        fs::write(workspace.join(".git"), format!("gitdir: {}\n", evil.display())).unwrap();
        fs::write(workspace.join(".gitattributes"), "* diff=evil filter=evil\n").unwrap();
        let hook = repository.path().join("hooks/pre-commit");
        fs::create_dir_all(hook.parent().unwrap()).unwrap();
        fs::write(&hook, format!("#!/bin/sh\n{run}\n")).unwrap();
        let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(&hook, executable).unwrap();
        // The owner's settings stand for themselves: a driver of theirs is not to be chosen.
        let owners = [format!("diff.evil.textconv={run}"), format!("filter.evil.clean={run}")];
        let mut given: Vec<OsString> = Vec::new();
        for setting in ["user.name=x", "user.email=x"].map(str::to_owned).into_iter().chain(owners)
        {
            given.extend(["-c".into(), setting.into()]);
        }
        let git = |words: &[&str]| {
            let words = words.iter().map(|word| OsString::from(*word));
            git(&home, &given.iter().cloned().chain(words).collect::<Vec<_>>()).unwrap()
        };
        assert_eq!(git(&["add", "--all"]), 0);
        assert_eq!(git(&["commit", "--quiet", "--message=x"]), 0);
        fs::write(workspace.join("bootstrap.md"), "other").unwrap();
        assert_eq!(git(&["diff", "--quiet"]), 1);
        assert_eq!(git(&["diff", "--output=/dev/null"]), 0);
        assert_eq!(git(&["log", "--patch", "--output=/dev/null"]), 0);
        assert!(!ran.exists());
    }
}
