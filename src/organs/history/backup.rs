//! The history elsewhere: pushed to a git remote or a folder, and a home brought back from
//! there.
//!
//! Owns what the system's git is told, and that a home comes back whole or not at all.
//! A backup is only ever added to: where it holds something else, that is an error and
//! nothing is overwritten. Does not know when backups are made.

use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, File};
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use git2::build::CheckoutBuilder;
use git2::{Repository, Tree};

use crate::files::output::End;
use crate::files::withheld::Withheld;
use crate::guard::policy::{Network, Policy};
use crate::kernel::interrupt::Interrupt;
use crate::organs::history::archive::{MAIN, flush_all};
use crate::organs::history::ask::Backed;
use crate::organs::history::gitdir;
use crate::organs::history::shell::{self, Job};
use crate::organs::history::snapshots::SHORT_ID;
use crate::organs::home::{Home, HostLock};
use crate::organs::reach::root::Reach;

/// A first backup of a large history over a slow line takes long; one that hangs must end.
const TIMEOUT: Duration = Duration::from_secs(60 * 60);
/// Lines of git's own words in an error: the last ones say what went wrong.
const WORDS: usize = 8;
const MAIN_TO_MAIN: &str = "refs/heads/main:refs/heads/main";
/// The other branches, and what was done on those that were given up.
const BESIDE: [&str; 2] = ["refs/heads/*:refs/heads/*", "refs/dropped/*:refs/dropped/*"];
/// What is brought back, complete and on disk, but not yet at its place.
const BROUGHT: &str = "restored";

/// What git gets of the owner's environment: all it takes to reach a remote in the owner's
/// name, which no other hand is given. That is where programs and git's own configuration
/// are, the keys of ssh, the helpers that hold passwords, and the way through a proxy.
const GIVEN: [&str; 19] = [
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "XDG_CONFIG_HOME",
    "XDG_RUNTIME_DIR",
    "DBUS_SESSION_BUS_ADDRESS",
    "SSH_AUTH_SOCK",
    "GIT_SSH_COMMAND",
    "GIT_CONFIG_GLOBAL",
    "http_proxy",
    "https_proxy",
    "HTTPS_PROXY",
    "all_proxy",
    "ALL_PROXY",
    "no_proxy",
    "NO_PROXY",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
];
/// What of the owner's files leads git to a remote.
const OWNERS: [&str; 5] = [".ssh", ".gitconfig", ".config", ".git-credentials", ".netrc"];
/// Nothing asks for anything, nothing is put into the user's language, and the system's
/// configuration has no say.
const FIXED: [(&str, &str); 5] = [
    ("GIT_TERMINAL_PROMPT", "0"),
    ("GIT_CONFIG_NOSYSTEM", "1"),
    ("GIT_PAGER", "cat"),
    ("LC_ALL", "C.UTF-8"),
    ("TERM", "dumb"),
];
/// Stronger than any configuration: nothing is run but git, ssh and helpers for passwords.
const SETTINGS: [&str; 6] = [
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "core.askPass=",
    "diff.external=",
    "protocol.ext.allow=never",
    "credential.interactive=never",
];

/// The same place, whatever the current folder is: a relative folder is made absolute.
pub fn absolute(place: &str, current: &Path) -> Result<String> {
    if !is_folder(place) {
        return Ok(place.to_owned());
    }
    let path = current.join(place).into_os_string().into_string();
    path.map_err(|path| {
        anyhow::anyhow!("{} is not UTF-8; name a folder that is", Path::new(&path).display())
    })
}

/// A text in which no address tells name and password.
pub fn without_key(text: &str) -> String {
    let (mut shown, mut rest) = (String::new(), text);
    while let Some((before, after)) = rest.split_once("://") {
        let end = after.find(|c: char| "/?#'\"".contains(c) || c.is_whitespace());
        let (host, beyond) = after.split_at(end.unwrap_or(after.len()));
        let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
        shown += &format!("{before}://{host}");
        rest = beyond;
    }
    shown + rest
}

/// Push the history to a git remote, or to an absolute folder: one that does not exist or is
/// empty becomes a bare repository. What counts is main; a branch that has become something
/// else there stays as it is there. `held` stays open while git runs. Blocks.
pub fn backup(
    home: &Home,
    to: &str,
    reach: &Reach,
    held: &Arc<File>,
    interrupt: &Interrupt,
) -> Result<Backed> {
    let store = home.file("history.git");
    gitdir::check_settings(&store)?;
    let mut git = Git { home, reach, places: Vec::new(), held, interrupt };
    let shown = without_key(to);
    let commit = gitdir::look(&store)?
        .refname_to_id(MAIN)
        .context("there is no history yet; `fledgling init` begins it")?;
    let mut arguments = words(&["push", "--quiet", "--no-verify", "--no-signed"]);
    arguments.insert(0, option("--git-dir=", &store));
    arguments.push("--recurse-submodules=no".into());
    if is_folder(to) {
        git.prepare(Path::new(to))?;
        // Its hooks may be anybody's. It keeps itself small, but while we wait.
        let receiver = "--receive-pack=git -c core.hooksPath=/dev/null -c gc.autoDetach=false -c maintenance.autoDetach=false receive-pack";
        arguments.push(receiver.into());
    }
    arguments.extend(words(&["--", to]));
    let push = |references: &[&str]| git.run(&[&arguments[..], &words(references)].concat());
    push(&[MAIN_TO_MAIN]).map_err(|error| {
        if format!("{error:#}").contains("[rejected]") {
            return error.context(format!("{shown} holds something that is not in this history, and a backup overwrites nothing; back up to an empty folder or a new repository"));
        }
        error.context(format!("cannot back up to {shown}"))
    })?;
    let _ = push(&BESIDE);
    Ok(Backed { to: shown, commit: commit.to_string()[..SHORT_ID].to_owned() })
}

/// Bring a home back from a backup, only where there is neither history nor workspace yet.
/// Blocks. The host lock is handed back, so that nobody can come between.
pub fn restore_home(
    home: &Home,
    from: &str,
    reach: &Reach,
    interrupt: &Interrupt,
) -> Result<HostLock> {
    let shown = home.path().display();
    home.create_root()?;
    let lock = home.lock()?.with_context(|| {
        format!("another fledgling runs in {shown}; end it, or name another home with --home DIR")
    })?;
    settle(home.path())?;
    ensure!(
        !home.file("history.git").exists() && is_empty(&home.workspace())?,
        "{shown} has a history or a workspace already; bring the backup back into another home with --home DIR"
    );
    ensure!(
        !is_folder(from) || Path::new(from).is_absolute(),
        "{from} is not an absolute path; name the whole path of the backup"
    );
    let fresh = home.file("restored.new");
    remove(&fresh)?;
    let held = Arc::new(File::open("/dev/null").context("cannot open /dev/null")?);
    let places = Vec::new();
    let git = Git { home, reach, places, held: &held, interrupt };
    let brought = bring(git, from, &fresh);
    if let Err(error) =
        brought.with_context(|| format!("cannot bring a home back from {}", without_key(from)))
    {
        let _ = remove(&fresh);
        return Err(error);
    }
    let complete = home.file(BROUGHT);
    fs::rename(&fresh, &complete)
        .with_context(|| format!("cannot rename {} to {BROUGHT}", fresh.display()))?;
    settle(home.path())?;
    Ok(lock)
}

/// Move to its place what was brought back. Whoever starts a home calls it first: a kill may
/// have come between. The caller holds the host lock.
pub fn settle(home: &Path) -> Result<()> {
    let brought = home.join(BROUGHT);
    if !brought.exists() {
        return Ok(());
    }
    for name in ["workspace", "history.git"] {
        let (from, to) = (brought.join(name), home.join(name));
        if from.exists() {
            fs::rename(&from, &to)
                .with_context(|| format!("cannot move {} to {}", from.display(), to.display()))?;
        }
    }
    fs::remove_dir(&brought).with_context(|| format!("cannot remove {}", brought.display()))
}

/// Write a tree into an empty folder. Nothing is written outside of it, whatever the tree
/// holds: names that lead out are refused, and no link is followed.
pub fn fill(repository: &Repository, tree: &Tree<'_>, folder: &Path) -> Result<()> {
    let mut options = CheckoutBuilder::new();
    options.target_dir(folder).force().recreate_missing(true);
    options.disable_filters(true).update_index(false);
    repository
        .checkout_tree(tree.as_object(), Some(&mut options))
        .with_context(|| format!("cannot write the files of a commit to {}", folder.display()))
}

/// History and workspace, complete, in a folder of their own.
fn bring(mut git: Git<'_>, from: &str, fresh: &Path) -> Result<()> {
    let (store, workspace) = (fresh.join("history.git"), fresh.join("workspace"));
    private(fresh)?;
    private(&workspace)?;
    git.places.push(real(fresh)?);
    // Ours from the start, so that nothing of the backup's own configuration counts.
    gitdir::create(&store).with_context(|| format!("cannot create {}", store.display()))?;
    // One pack, which git itself flushes. It looks at each object as it comes: whether it is
    // whole, and whether a tree has names that lead out of it.
    let mut arguments = words(&["-c", "fetch.fsckObjects=true", "-c", "fetch.unpackLimit=1"]);
    arguments.push(option("--git-dir=", &store));
    arguments.extend(words(&["fetch", "--quiet", "--no-tags", "--update-head-ok"]));
    arguments.extend(words(&["--recurse-submodules=no", "--", from]));
    arguments.extend(words(&BESIDE));
    git.run(&arguments)?;
    let _ = fs::remove_file(store.join("FETCH_HEAD"));
    let repository = gitdir::look(&store)?;
    let Ok(main) = repository.find_reference(MAIN) else {
        bail!("it has no branch main, so it is not the backup of a home")
    };
    fill(&repository, &main.peel_to_tree()?, &workspace)?;
    fs::write(workspace.join(".git"), gitdir::POINTER)
        .with_context(|| format!("cannot write {}", workspace.join(".git").display()))?;
    flush_all(fresh).with_context(|| format!("cannot flush {} to disk", fresh.display()))
}

/// The system's git, in a hand.
struct Git<'a> {
    home: &'a Home,
    reach: &'a Reach,
    /// What it may change.
    places: Vec<PathBuf>,
    held: &'a Arc<File>,
    interrupt: &'a Interrupt,
}

impl Git<'_> {
    /// An error holds the last of git's words.
    fn run(&self, arguments: &[OsString]) -> Result<()> {
        let settings = SETTINGS.iter().flat_map(|setting| ["-c", setting]);
        let mut command = "exec git".to_owned();
        for word in settings.map(OsStr::new).chain(arguments.iter().map(OsString::as_os_str)) {
            command += &format!(" {}", shell::quote(word));
        }
        let (policy, interrupt) = (&self.policy(arguments)?, self.interrupt);
        let job = Job { policy, command: &command, input: None, timeout: TIMEOUT, interrupt };
        let (end, said) = job.run()?;
        match end {
            End::Exited { status, .. } if status.success() => Ok(()),
            End::Exited { status, .. } => {
                let lines: Vec<_> = said.lines().filter(|line| !line.trim().is_empty()).collect();
                let last = lines[lines.len().saturating_sub(WORDS)..].join("\n");
                ensure!(!last.is_empty(), "git failed ({status})");
                bail!("{}", without_key(&last))
            }
            End::TimedOut => bail!("git took longer than {} minutes", TIMEOUT.as_secs() / 60),
            End::Interrupted => bail!("interrupted"),
        }
    }

    /// Below the owner's folder it may read what says how to reach a remote.
    fn policy(&self, arguments: &[OsString]) -> Result<Policy> {
        let given = GIVEN.iter().filter_map(|name| Some((name.into(), std::env::var_os(name)?)));
        let fixed = FIXED.iter().map(|(name, value)| (name.into(), value.into()));
        let env = given.chain(fixed).collect();
        let folder = self.home.path().to_owned();
        let user = std::env::home_dir().and_then(|user| user.canonicalize().ok());
        let owners = user.iter().flat_map(|user| OWNERS.map(|name| user.join(name)));
        let folders = arguments.iter().map(Path::new).filter(|word| word.is_absolute());
        let read = owners.chain(folders.map(Path::to_owned)).chain([self.home.file("history.git")]);
        let read = read.filter_map(|path| path.canonicalize().ok()).collect();
        let chain = self.reach.helper(read, self.places.clone(), Network::Full)?;
        let (scratch, held) = (self.home.scratch(), self.held.clone());
        // Whoever asked for the backup clears what comes of it.
        let (own, withheld) = (Vec::new(), Withheld::default());
        Ok(Policy { workspace: folder, scratch, env, chain, own, held, withheld })
    }

    /// See that a folder can take a backup.
    fn prepare(&mut self, folder: &Path) -> Result<()> {
        let shown = folder.display();
        ensure!(folder.is_absolute(), "{shown} is not an absolute path; name the whole path");
        let home = real(self.home.path())?;
        ensure!(
            !real(folder)?.starts_with(home),
            "{shown} lies in the home that it would be a backup of; name a folder outside, best on another disk"
        );
        fs::create_dir_all(folder).with_context(|| format!("cannot create {shown}"))?;
        self.places.push(real(folder)?);
        if is_empty(folder)? {
            let arguments = ["init", "--quiet", "--bare", "--template=", "-b", "main", "--"];
            let mut arguments = words(&arguments);
            arguments.push(folder.into());
            return self
                .run(&arguments)
                .with_context(|| format!("cannot begin a backup in {shown}"));
        }
        ensure!(
            folder.join("HEAD").exists() || folder.join(".git").exists(),
            "{shown} holds other things and is no git repository; name a new or an empty folder"
        );
        Ok(())
    }
}

/// Whether it is a folder on this machine. Git's own rule: an address has a colon, and no
/// slash before it.
fn is_folder(place: &str) -> bool {
    match (place.find(':'), place.find('/')) {
        (None, _) => true,
        (Some(colon), slash) => slash.is_some_and(|slash| slash < colon),
    }
}

/// Without links, as far as it exists.
fn real(path: &Path) -> Result<PathBuf> {
    let shown = path.display();
    let found = path.ancestors().find_map(|start| Some((start, start.canonicalize().ok()?)));
    let (start, real) = found.with_context(|| format!("cannot find any part of {shown}"))?;
    let rest = path.strip_prefix(start)?;
    let plain = rest.components().all(|part| matches!(part, Component::Normal(_)));
    ensure!(plain, "{shown} has .. behind a folder that does not exist; name it without");
    Ok(real.join(rest))
}

/// Whether there is nothing, or a folder with nothing in it.
fn is_empty(folder: &Path) -> Result<bool> {
    match fs::read_dir(folder) {
        Ok(mut items) => Ok(items.next().is_none()),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            // A link to nothing is something.
            Ok(folder.symlink_metadata().is_err())
        }
        Err(error) => Err(error).with_context(|| format!("cannot read {}", folder.display())),
    }
}

fn private(folder: &Path) -> Result<()> {
    let made = DirBuilder::new().mode(0o700).create(folder);
    made.with_context(|| format!("cannot create {}", folder.display()))
}

fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", folder.display()))
        }
        _ => Ok(()),
    }
}

fn words(words: &[&str]) -> Vec<OsString> {
    words.iter().map(Into::into).collect()
}

fn option(name: &str, path: &Path) -> OsString {
    let mut option = OsString::from(name);
    option.push(path);
    option
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt as _;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::process::Command;

    use git2::{ObjectType, Oid};

    use super::*;
    use crate::kernel::interrupt::interrupt;
    use crate::organs::config::Config;
    use crate::organs::history::gitdir::GitDir;
    use crate::organs::history::scan::{Scan, Terms};
    use crate::organs::history::snapshots::{Settings, Snapshots};

    /// A home in a folder of its own, with all kinds of files in its history.
    struct World {
        temp: tempfile::TempDir,
        home: Home,
    }

    impl World {
        fn new() -> Self {
            let temp = tempfile::tempdir().unwrap();
            let home = Home::resolve(Some(temp.path().join("home"))).unwrap();
            let path = |name: &str| home.workspace().join(name);
            fs::create_dir_all(path("deep/er")).unwrap();
            fs::write(path("deep/er/tool"), "#!/bin/sh\r\n$Id$\n").unwrap();
            fs::set_permissions(path("deep/er/tool"), PermissionsExt::from_mode(0o755)).unwrap();
            fs::write(path("empty"), "").unwrap();
            fs::write(path(".gitattributes"), "* text eol=crlf ident\n").unwrap();
            symlink("nowhere/at all", path("dangling")).unwrap();
            symlink("deep", path("link")).unwrap();
            let odd = OsStr::from_bytes(b"od\xff'd\n$(x)");
            fs::write(home.workspace().join(odd), b"\0\xff\r\n").unwrap();
            drop(Snapshots::open(home.path(), &Settings::default()).unwrap());
            Self { temp, home }
        }

        fn path(&self, name: &str) -> String {
            self.temp.path().join(name).to_str().unwrap().to_owned()
        }

        fn reach(&self) -> Reach {
            Reach::of(&self.home, &Config::default()).unwrap()
        }

        fn backup(&self, to: &str) -> Result<Backed> {
            let held = Arc::new(File::open("/dev/null").unwrap());
            super::backup(&self.home, to, &self.reach(), &held, &interrupt().1)
        }

        fn restore(&self, name: &str, from: &str) -> Result<Home> {
            let home = Home::resolve(Some(self.path(name).into()))?;
            restore_home(&home, from, &self.reach(), &interrupt().1).map(|_lock| home)
        }

        /// What plain git says about a home.
        fn git(&self, home: &Home, arguments: &[&str]) -> String {
            let mut git = Command::new("git");
            git.args(arguments).current_dir(home.workspace()).env_clear();
            git.env("PATH", std::env::var_os("PATH").unwrap()).env("HOME", self.temp.path());
            git.env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_OPTIONAL_LOCKS", "0");
            for name in ["AUTHOR", "COMMITTER"] {
                git.env(format!("GIT_{name}_NAME"), "me").env(format!("GIT_{name}_EMAIL"), "me@x");
            }
            let output = git.output().unwrap();
            let errors = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "git {arguments:?}: {errors}");
            String::from_utf8_lossy(&output.stdout).trim().to_owned()
        }

        /// A repository with a commit of this tree as its main.
        fn hostile(&self, name: &str, entries: &[(&str, &str, Oid)]) -> (Repository, Oid) {
            let repository = Repository::init_bare(self.path(name)).unwrap();
            let tree = raw_tree(&repository, entries);
            let mut commit = format!("tree {tree}\n");
            commit += "author a <a@x> 1 +0000\ncommitter a <a@x> 1 +0000\n\nx\n";
            let odb = repository.odb().unwrap();
            let commit = odb.write(ObjectType::Commit, commit.as_bytes()).unwrap();
            drop(odb);
            repository.reference(MAIN, commit, true, "").unwrap();
            (repository, tree)
        }
    }

    fn raw_tree(repository: &Repository, entries: &[(&str, &str, Oid)]) -> Oid {
        let mut raw = Vec::new();
        for (mode, name, id) in entries {
            raw.extend_from_slice(format!("{mode} {name}\0").as_bytes());
            raw.extend_from_slice(id.as_bytes());
        }
        repository.odb().unwrap().write(ObjectType::Tree, &raw).unwrap()
    }

    #[test]
    fn a_home_comes_back_as_it_was() {
        let world = World::new();
        world.git(&world.home, &["branch", "aside"]);
        let head = world.git(&world.home, &["rev-parse", "HEAD"]);
        let to = world.path("disk/a backup");
        let backed = world.backup(&to).unwrap();
        assert_eq!((&backed.to, backed.commit.as_str()), (&to, &head[..SHORT_ID]));
        // Again: there is nothing to do.
        world.backup(&to).unwrap();
        // What the backup's own configuration says does not count.
        let config = Path::new(&to).join("config");
        fs::write(&config, fs::read_to_string(&config).unwrap() + "[core]\n\tpager = x\n").unwrap();
        let restored = world.restore("second", &to).unwrap();
        assert_eq!(
            world.git(&restored, &["rev-parse", "HEAD", "aside"]),
            format!("{head}\n{head}")
        );
        assert_eq!(
            world.git(&restored, &["for-each-ref", "--format=%(refname)"]).lines().count(),
            2
        );
        let same = |name| {
            let read = |home: &Home| fs::read(home.file("history.git").join(name)).unwrap();
            assert_eq!(read(&world.home), read(&restored), "{name}");
        };
        ["config", "HEAD", "info/attributes", "info/exclude"].into_iter().for_each(same);
        world.git(&restored, &["fsck", "--strict"]);
        // The ordinary start finds nothing to record and nothing to say.
        let snapshots = Snapshots::open(restored.path(), &Settings::default()).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let before = crate::kernel::border::History::before(&snapshots, "main", 1);
        assert_eq!(runtime.block_on(before).unwrap(), None);
        runtime.block_on(snapshots.settled()).unwrap();
        assert_eq!(world.git(&restored, &["rev-parse", "HEAD"]), head);
        assert_eq!(world.git(&restored, &["status", "--porcelain"]), "");
        let path = |name: &str| restored.workspace().join(name);
        assert_eq!(fs::read(path("deep/er/tool")).unwrap(), b"#!/bin/sh\r\n$Id$\n");
        assert_ne!(fs::metadata(path("deep/er/tool")).unwrap().permissions().mode() & 0o100, 0);
        assert_eq!(fs::read_link(path("dangling")).unwrap(), Path::new("nowhere/at all"));
        assert_eq!(fs::metadata(path("")).unwrap().permissions().mode() & 0o077, 0);
        let mut names: Vec<_> = fs::read_dir(restored.path()).unwrap().flatten().collect();
        names.retain(|item| item.file_name() != "host.lock");
        assert_eq!(names.len(), 2, "{names:?}");
    }

    #[test]
    fn nothing_in_a_backup_is_overwritten() {
        let (world, other) = (World::new(), World::new());
        world.git(&world.home, &["commit", "--allow-empty", "-qm", "mine"]);
        other.git(&other.home, &["commit", "--allow-empty", "-qm", "theirs"]);
        let to = world.path("backup");
        world.backup(&to).unwrap();
        let head = |path: &str| Repository::open_bare(path).unwrap().refname_to_id(MAIN).unwrap();
        let before = head(&to);
        let error = format!("{:#}", other.backup(&to).unwrap_err());
        assert!(error.contains("a backup overwrites nothing; back up to an empty"), "{error}");
        assert_eq!(head(&to), before);
    }

    #[test]
    fn a_branch_that_is_refused_holds_nothing_up_and_what_was_dropped_is_kept() {
        let world = World::new();
        let to = world.path("backup");
        world.git(&world.home, &["branch", "aside"]);
        world.backup(&to).unwrap();
        world.git(&world.home, &["commit", "--allow-empty", "-qm", "more"]);
        world.git(&world.home, &["commit", "--allow-empty", "-qm", "left"]);
        world.git(&world.home, &["update-ref", "refs/dropped/left", "HEAD"]);
        world.git(&world.home, &["reset", "-q", "--soft", "HEAD~1"]);
        let other = world.git(&world.home, &["commit-tree", "-m", "x", "HEAD^{tree}"]);
        world.git(&world.home, &["update-ref", "refs/heads/aside", &other]);
        world.backup(&to).unwrap();
        let there = Repository::open_bare(&to).unwrap();
        let id = |repository: &Repository, name| repository.refname_to_id(name).unwrap();
        let here = gitdir::look(&world.home.file("history.git")).unwrap();
        for name in [MAIN, "refs/dropped/left"] {
            assert_eq!(id(&there, name), id(&here, name));
        }
        assert_ne!(id(&there, "refs/heads/aside"), id(&here, "refs/heads/aside"));
        let restored = world.restore("second", &to).unwrap();
        let restored = gitdir::look(&restored.file("history.git")).unwrap();
        assert_eq!(id(&restored, "refs/dropped/left"), id(&here, "refs/dropped/left"));
        // Nothing of the history's own settings may run.
        world.git(&world.home, &["config", "core.sshCommand", "touch ran"]);
        let error = world.backup(&to).unwrap_err().to_string();
        assert!(error.contains("sets core.sshcommand"), "{error}");
    }

    #[test]
    fn no_address_tells_a_password() {
        for (text, expected) in [
            ("https://me:key@host/x.git", "https://host/x.git"),
            ("at 'https://k@e:y@host', ssh://git@a:2/b", "at 'https://host', ssh://a:2/b"),
            ("git@host:x.git", "git@host:x.git"),
            ("http://host/@x", "http://host/@x"),
        ] {
            assert_eq!(without_key(text), expected);
        }
        let world = World::new();
        let error = format!("{:#}", world.backup("https://me:key@127.0.0.1:1/x").unwrap_err());
        assert!(error.contains("https://127.0.0.1:1/x") && !error.contains("key"), "{error}");
    }

    #[test]
    fn a_bad_place_is_refused_with_words() {
        let world = World::new();
        let fails = |to: &str, expected: &str| {
            let error = format!("{:#}", world.backup(to).unwrap_err());
            assert!(error.contains(expected), "{error}");
        };
        let inside = "lies in the home that it would be a backup of";
        fails(&world.path("home/workspace/backup"), inside);
        fails(&world.path("home/history.git"), inside);
        symlink(world.home.workspace(), world.temp.path().join("way in")).unwrap();
        fails(&world.path("way in/backup"), inside);
        fails(&world.path("none/../home/workspace/backup"), "has .. behind a folder");
        assert!(!world.home.workspace().join("backup").exists());
        fails("backup", "is not an absolute path");
        fs::create_dir(world.temp.path().join("full")).unwrap();
        fs::write(world.temp.path().join("full/file"), "x").unwrap();
        fails(&world.path("full"), "holds other things and is no git repository");
        fails(&format!("file://{}", world.path("nothing")), "does not appear to be a git repo");
        fails(&format!("ext::sh -c 'touch {}'", world.path("ran")), "transport 'ext' not allowed");
        assert!(!world.temp.path().join("ran").exists());
        let none = Home::resolve(Some(world.temp.path().join("none"))).unwrap();
        let held = Arc::new(File::open("/dev/null").unwrap());
        assert!(
            super::backup(&none, &world.path("b"), &world.reach(), &held, &interrupt().1).is_err()
        );
    }

    #[test]
    fn hooks_run_on_neither_side() {
        let world = World::new();
        let to = world.path("backup");
        world.backup(&to).unwrap();
        fs::write(world.home.workspace().join("more"), "x").unwrap();
        world.git(&world.home, &["add", "more"]);
        world.git(&world.home, &["commit", "-qm", "more"]);
        let mark = world.path("hook ran");
        let hooks =
            [world.home.file("history.git"), PathBuf::from(&to)].map(|path| path.join("hooks"));
        for (folder, name) in
            [(&hooks[0], "pre-push"), (&hooks[1], "pre-receive"), (&hooks[1], "update")]
        {
            fs::create_dir_all(folder).unwrap();
            fs::write(folder.join(name), format!("#!/bin/sh\ntouch '{mark}'\n")).unwrap();
            fs::set_permissions(folder.join(name), PermissionsExt::from_mode(0o755)).unwrap();
        }
        let backed = world.backup(&to).unwrap();
        assert!(world.git(&world.home, &["rev-parse", "HEAD"]).starts_with(&backed.commit));
        assert!(!Path::new(&mark).exists());
    }

    #[test]
    fn what_is_there_already_is_not_touched() {
        let world = World::new();
        let to = world.path("backup");
        world.backup(&to).unwrap();
        let error =
            restore_home(&world.home, &to, &world.reach(), &interrupt().1).unwrap_err().to_string();
        assert!(error.contains("has a history or a workspace already"), "{error}");
        fs::create_dir_all(world.path("other/workspace")).unwrap();
        fs::write(world.path("other/workspace/mine"), "x").unwrap();
        assert!(world.restore("other", &to).is_err());
        assert_eq!(fs::read_dir(world.path("other/workspace")).unwrap().count(), 1);
        assert!(!Path::new(&world.path("other/history.git")).exists());
        let locked = Home::resolve(Some(world.path("locked").into())).unwrap();
        locked.create_root().unwrap();
        let _lock = locked.lock().unwrap().unwrap();
        let error = world.restore("locked", &to).unwrap_err().to_string();
        assert!(error.contains("another fledgling runs in"), "{error}");
    }

    #[test]
    fn what_is_no_backup_leaves_nothing_behind() {
        let world = World::new();
        Repository::init_bare(world.path("bare")).unwrap();
        let corrupt = world.path("corrupt");
        world.backup(&corrupt).unwrap();
        let store = Repository::open_bare(&corrupt).unwrap();
        let tree = store.find_reference(MAIN).unwrap().peel_to_tree().unwrap();
        let id = tree.get_name("empty").unwrap().id().to_string();
        fs::remove_file(store.path().join("objects").join(&id[..2]).join(&id[2..])).unwrap();
        for (from, expected) in [
            ("none", "does not appear to be a git repo"),
            ("bare", "no branch main"),
            ("corrupt", "unable to read"),
        ] {
            let target = format!("from {from}");
            fs::create_dir_all(world.path(&target) + "/workspace").unwrap();
            let error = format!("{:#}", world.restore(&target, &world.path(from)).unwrap_err());
            assert!(error.contains("cannot bring a home back from"), "{error}");
            assert!(error.contains(expected), "{error}");
            let mut left: Vec<_> = fs::read_dir(world.path(&target)).unwrap().flatten().collect();
            left.retain(|item| item.file_name() != "host.lock");
            assert_eq!(left.len(), 1, "{left:?}");
        }
    }

    #[test]
    fn a_hostile_tree_writes_nothing_outside() {
        let world = World::new();
        let seed = Repository::init_bare(world.path("seed")).unwrap();
        let blob = seed.blob(b"evil\n").unwrap();
        let outside = seed.blob(b"../..").unwrap();
        let inner = raw_tree(&seed, &[("100644", "evil", blob)]);
        let trees: [&[(&str, &str, Oid)]; 6] = [
            &[("40000", "..", inner)],
            &[("40000", ".git", inner)],
            &[("100644", ".GIT", blob)],
            &[("100644", "../evil", blob)],
            &[("120000", "a", outside), ("40000", "a", inner)],
            &[("40000", "git~1", inner)],
        ];
        for (number, entries) in trees.iter().enumerate() {
            let name = format!("hostile {number}");
            let (repository, _) = world.hostile(&name, &[]);
            for content in [&b"evil\n"[..], b"../.."] {
                repository.blob(content).unwrap();
            }
            raw_tree(&repository, &[("100644", "evil", blob)]);
            let (repository, tree) = world.hostile(&name, entries);
            let target = format!("target {number}");
            let error = format!("{:#}", world.restore(&target, &world.path(&name)).unwrap_err());
            assert!(error.contains("fsck error"), "{error}");
            // Even without git's own look at what comes.
            let folder = world.temp.path().join(format!("far/down/{number}"));
            fs::create_dir_all(&folder).unwrap();
            let tree = repository.find_tree(tree).unwrap();
            let _ = fill(&repository, &tree, &folder);
            assert!(fs::read_dir(world.path("far")).unwrap().count() == 1);
            assert!(fs::read_dir(world.path("far/down")).unwrap().count() == number + 1);
            assert!(!folder.join(".git").exists() && !world.temp.path().join("evil").exists());
        }
    }

    #[test]
    fn a_kill_leaves_nothing_half_made() {
        let world = World::new();
        let to = world.path("backup");
        world.backup(&to).unwrap();
        let restored = world.restore("second", &to).unwrap();
        let brought = restored.file(BROUGHT);
        // Before the first move, and between the two.
        for moved in [&["workspace", "history.git"][..], &["history.git"]] {
            fs::create_dir(&brought).unwrap();
            for name in moved {
                fs::rename(restored.file(name), brought.join(name)).unwrap();
            }
            assert!(!restored.create().unwrap(), "not newborn");
            assert!(!brought.exists());
            let (_, repository) = GitDir::open(restored.path()).unwrap();
            let tree = repository.find_reference(MAIN).unwrap().peel_to_tree().unwrap();
            let index = repository.path().join("index");
            let mut scan =
                Scan::new(restored.workspace(), &repository, index, Terms::default()).unwrap();
            assert!(scan.look(&repository, Some(&tree)).unwrap().changes.is_empty());
        }
        // While it was being brought, nothing is at its place, and the next time clears up.
        let third = Home::resolve(Some(world.path("third").into())).unwrap();
        fs::create_dir_all(third.file("restored.new/workspace/x")).unwrap();
        restore_home(&third, &to, &world.reach(), &interrupt().1).unwrap();
        assert!(!third.workspace().join("x").exists() && !third.file("restored.new").exists());
    }

    #[test]
    fn places_are_told_apart() {
        let current = Path::new("/here");
        let made = |place: &str| absolute(place, current).unwrap();
        assert_eq!(made("a/b:c"), "/here/a/b:c");
        assert_eq!(made("/a:b"), "/a:b");
        assert_eq!(made("./a:b"), "/here/./a:b");
        assert_eq!(made("me@host:path"), "me@host:path");
        assert_eq!(made("https://host/path"), "https://host/path");
    }

    #[test]
    fn it_can_be_stopped() {
        let world = World::new();
        let (interrupter, stop) = interrupt();
        interrupter.raise();
        let held = Arc::new(File::open("/dev/null").unwrap());
        let error = super::backup(&world.home, &world.path("backup"), &world.reach(), &held, &stop)
            .unwrap_err();
        assert!(format!("{error:#}").ends_with("interrupted"), "{error:#}");
    }
}
