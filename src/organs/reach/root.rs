//! The root of every chain: what the owner gives to hands, put together from the system, the
//! home and the settings.
//!
//! Owns the rule that no grant reaches the kernel's half of the home, where the keys are, and
//! that a grant means the folder that was named and no other. Where one cannot be kept, no
//! tool call is run, and it says why. Knows no sessions.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::guard::policy::{Chain, Link, Network};
use crate::organs::config::Config;
use crate::organs::home::Home;
use crate::organs::reach::given::widen;
use crate::organs::reach::item::{Item, Shown};
use crate::organs::reach::kernel;
use crate::organs::reach::settings::{Confine, HandsSettings};
use crate::organs::reach::system;
use crate::organs::reach::toolchains::{self, Place};

/// What the owner has decided, and what this machine has.
#[derive(Debug, Clone)]
pub struct Reach {
    /// Free of symlinks, as all that follows.
    home: PathBuf,
    program: PathBuf,
    confine: Confine,
    settings: HandsSettings,
    system: Vec<PathBuf>,
    on_path: Vec<PathBuf>,
    places: Vec<Place>,
}

/// A line of the table that people and agents read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// `read`, `write`, `network`, `unix`, `secrets` or `tools`.
    pub right: String,
    /// What may be reached.
    pub what: String,
    /// Since when, or who said so.
    pub from: String,
}

const CONFIG: &str = "config.toml";
/// Folders of the home that hands may change.
const HANDS: [&str; 3] = ["workspace", "scratch", "branches"];
const DEFAULT: &str = "default";

impl Reach {
    /// What it is on this machine, for the user who runs the program.
    pub fn new(home: &Home, confine: Confine, settings: HandsSettings) -> Result<Self> {
        let real = |path: &Path| {
            path.canonicalize().with_context(|| format!("cannot find {}", path.display()))
        };
        let user = std::env::home_dir().and_then(|home| home.canonicalize().ok());
        let system = system::folders(&home.file("private"));
        let path = std::env::var_os("PATH").unwrap_or_default();
        let home = real(home.path()).unwrap_or_else(|_| home.path().to_owned());
        let writable = HANDS.map(|name| home.join(name)).into_iter().chain(settings.write.clone());
        let writable: Vec<_> = writable.collect();
        let mut on_path = system::on_path(&path, &system, user.as_deref(), &writable);
        on_path.retain(|folder| !folder.starts_with(&home) && !home.starts_with(folder));
        let program = std::env::current_exe().context("cannot find the program's own file")?;
        let places = user.map(|user| toolchains::found(&user, |name| std::env::var_os(name)));
        let places = places.unwrap_or_default();
        Ok(Self { home, program: real(&program)?, confine, settings, system, on_path, places })
    }

    /// As config.toml has it.
    pub fn of(home: &Home, config: &Config) -> Result<Self> {
        Self::new(home, config.confine, config.hands.clone())
    }

    /// Whether the owner has decided that nothing is confined.
    pub fn is_off(&self) -> bool {
        self.confine == Confine::Off
    }

    /// With other settings.
    #[must_use]
    pub fn with(&self, settings: HandsSettings) -> Self {
        Self { settings, ..self.clone() }
    }

    /// Whether tool calls can be run. An error says why not, and what the owner can do.
    pub fn check(&self) -> Result<()> {
        if self.is_off() {
            return Ok(());
        }
        let checked = kernel::available().and_then(|()| {
            let around = self.system.iter().find(|folder| self.home.starts_with(folder));
            if let Some(around) = around {
                bail!(
                    "the home {} lies in {}, which tool calls may read; move it, or name another one with --home DIR",
                    self.home.display(),
                    around.display()
                );
            }
            ensure!(
                HANDS.iter().all(|name| !self.program.starts_with(self.home.join(name))),
                "this program itself, {}, lies where tool calls may put another in its place; start a copy from elsewhere",
                self.program.display()
            );
            let HandsSettings { read, write, .. } = &self.settings;
            read.iter().try_for_each(|path| self.check_grant(path, false))?;
            write.iter().try_for_each(|path| self.check_grant(path, true))
        });
        checked.context("tool calls cannot be confined as config.toml has it, so none is run; mend that, or set confine = \"off\" in config.toml, and tool calls have all of your rights")
    }

    /// Whether a path may be given.
    pub fn check_grant(&self, path: &Path, write: bool) -> Result<()> {
        let shown = path.display();
        ensure!(path.is_absolute(), "{shown} is not an absolute path; name the whole path");
        if let Ok(real) = path.canonicalize() {
            ensure!(
                real == path,
                "{shown} goes through a symlink: if {} is meant, name that",
                real.display()
            );
        }
        // A tool that works on files finds the host in there: its environment, its memory.
        ensure!(
            !path.starts_with("/proc"),
            "{shown} cannot be given: in /proc a tool call would find the program's own memory; what concerns commands themselves they see there"
        );
        let home = self.home.display();
        ensure!(
            !self.home.starts_with(path),
            "{shown} holds {home} with your keys; name the folders in it that are needed, one by one"
        );
        let own =
            ["workspace", "scratch"].iter().any(|name| path.starts_with(self.home.join(name)));
        ensure!(own || !path.starts_with(&self.home), "{shown} is the program's own, in {home}");
        ensure!(
            !write || !self.program.starts_with(path),
            "this program itself, {}, lies in {shown}; commands could put another in its place",
            self.program.display()
        );
        Ok(())
    }

    /// The chain of a session that works in this folder, with what it was given besides and
    /// the links by which it was narrowed.
    pub fn chain(&self, folder: &Path, given: &[Item], narrower: &[Link]) -> Result<Chain> {
        self.check()?;
        if self.is_off() {
            ensure!(narrower.is_empty(), UNENFORCED);
            return Ok(Chain::Off);
        }
        let mut root = self.granted(given);
        if root.write.iter().any(|path| path == Path::new("/dev/pts")) {
            // Where terminals are made.
            root.write.extend(Path::new("/dev/ptmx").canonicalize());
        }
        root.read.extend(self.always());
        root.read.extend([self.home.join("history.git"), self.home.join("workspace")]);
        root.write.push(folder.canonicalize().unwrap_or_else(|_| folder.to_owned()));
        Ok(Chain::Links([root].into_iter().chain(narrower.iter().cloned()).collect()))
    }

    /// What the owner gives besides what is always there, to all and to one session.
    fn granted(&self, given: &[Item]) -> Link {
        let HandsSettings { read, write, network, unix, secrets } = self.settings.clone();
        let (secrets, tools) = (Some(secrets), None);
        let mut link = Link { read, write, network, unix, secrets, tools };
        for item in given {
            widen(&mut link, item);
        }
        link
    }

    /// Secrets that are given to the commands of a session, where no chain says which.
    pub fn secrets(&self, given: &[Item]) -> BTreeSet<String> {
        self.granted(given).secrets.unwrap_or_default()
    }

    /// The chain of a program that the host itself needs, with these folders to change.
    pub fn helper(
        &self,
        read: Vec<PathBuf>,
        write: Vec<PathBuf>,
        network: Network,
    ) -> Result<Chain> {
        self.check()?;
        if self.is_off() {
            return Ok(Chain::Off);
        }
        let read = read.into_iter().chain(self.always()).collect();
        let (secrets, tools) = (Some(BTreeSet::new()), None);
        let unix = network == Network::Full;
        Ok(Chain::Links(vec![Link { read, write, network, unix, secrets, tools }]))
    }

    /// What every link lets its hands read: without it nothing runs.
    pub fn always(&self) -> impl Iterator<Item = PathBuf> {
        let own = [self.program.clone(), self.home.join("program")];
        self.system.iter().chain(&self.on_path).cloned().chain(own)
    }

    /// Variables that lead programs to the toolchains that this chain may read.
    pub fn variables(&self, chain: &Chain) -> Vec<(std::ffi::OsString, std::ffi::OsString)> {
        let everything = [PathBuf::from("/")];
        let read = chain.links().first().map_or(&everything[..], |root| &root.read);
        toolchains::variables(&self.places, read)
    }

    /// Toolchains that are there and not given, and what else commands may need.
    pub fn offers(&self) -> Vec<Place> {
        let given = |path: &Path| {
            let HandsSettings { read, write, .. } = &self.settings;
            let all = read.iter().chain(write).chain(&self.system).chain(&self.on_path);
            all.into_iter().any(|grant| path.starts_with(grant))
        };
        let possible = |path: &Path| self.check_grant(path, false).is_ok();
        let places = self.places.iter().filter(|place| !given(&place.path));
        places.filter(|place| possible(&place.path)).cloned().collect()
    }

    /// The chain of a session as a table, what holds for it now first.
    pub fn table(&self, folder: &Path, given: &[Item], narrower: &[Link]) -> Vec<Row> {
        let row = |right: &str, what: String, from: &str| {
            let (right, from) = (right.to_owned(), from.to_owned());
            Row { right, what, from }
        };
        if self.is_off() {
            let all = "everything that you can: nothing is confined".to_owned();
            return vec![row("all", all, "confine = \"off\" in config.toml")];
        }
        let HandsSettings { read, write, network, unix, secrets } = &self.settings;
        let default = HandsSettings::default();
        let from = |same: bool| if same { DEFAULT } else { CONFIG };
        let path = |path: &PathBuf| path.display().to_string();
        let mut rows = vec![
            row("write", path(&folder.to_owned()), "the workspace: undo covers it"),
            row("write", path(&self.home.join("scratch")), "temporary files"),
        ];
        rows.extend(write.iter().map(|one| row("write", path(one), CONFIG)));
        rows.extend(read.iter().map(|one| row("read", path(one), CONFIG)));
        rows.push(row("read", path(&self.home.join("history.git")), "the history"));
        if folder != self.home.join("workspace") {
            rows.push(row("read", path(&self.home.join("workspace")), "the workspace"));
        }
        rows.extend(self.on_path.iter().map(|one| row("read", path(one), "your PATH")));
        let etc = Path::new("/etc");
        let parts = |path: &&PathBuf| *path == etc || !path.starts_with(etc);
        let mut system: Vec<_> = self.system.iter().filter(parts).map(path).collect();
        if system.len() < self.system.len() {
            system.push("what everybody may read of /etc".to_owned());
        }
        let (first, rest) = system.split_at(system.len().min(SYSTEM_SHOWN));
        let more =
            if rest.is_empty() { String::new() } else { format!(" and {} more", rest.len()) };
        rows.push(row("read", format!("{}{more}", first.join(", ")), "the system"));
        rows.push(row("network", Shown(network).to_string(), from(*network == default.network)));
        let sockets = if *unix { "allowed" } else { "none" };
        rows.push(row("unix", sockets.to_owned(), from(!unix)));
        let names: Vec<_> = secrets.iter().map(String::as_str).collect();
        let names = if names.is_empty() { "none".to_owned() } else { names.join(" ") };
        rows.push(row("secrets", names, from(secrets.is_empty())));
        for item in given {
            let (right, what) = match item.to_string().split_once(' ') {
                Some((right, what)) => (right.to_owned(), what.to_owned()),
                None => (item.to_string(), "allowed".to_owned()),
            };
            rows.push(row(&right, what, "this conversation"));
        }
        for (number, link) in narrower.iter().enumerate() {
            let from = format!("at most, link {}", number + 1);
            let list = |paths: &[PathBuf]| match paths {
                [] => "nothing".to_owned(),
                paths => paths.iter().map(path).collect::<Vec<_>>().join(" "),
            };
            // What takes nothing away would look like a grant.
            if link.read != [Path::new("/")] {
                let beyond = |one: &&PathBuf| !self.always().any(|always| always == **one);
                let beyond: Vec<_> = link.read.iter().filter(beyond).cloned().collect();
                rows.push(row("read", format!("{} and the system", list(&beyond)), &from));
            }
            rows.push(row("write", list(&link.write), &from));
            if link.network != Network::Full {
                rows.push(row("network", Shown(&link.network).to_string(), &from));
            }
            if !link.unix {
                rows.push(row("unix", "none".to_owned(), &from));
            }
            for (right, names) in [("secrets", &link.secrets), ("tools", &link.tools)] {
                if let Some(names) = names {
                    let names: Vec<_> = names.iter().map(String::as_str).collect();
                    rows.push(row(right, names.join(" "), &from));
                }
            }
        }
        rows
    }

    /// What has to be said at every start, if anything is not as it should be.
    pub fn warning(&self) -> Option<String> {
        (self.is_off() || self.check().is_err()).then(|| self.rights())
    }

    /// Whether whatever a hand of this chain changes, the history of its folder has: it
    /// reaches neither network nor sockets, and may write nowhere else.
    pub fn is_contained(&self, chain: &Chain) -> bool {
        let Some(root) = chain.links().first() else { return false };
        let wider = self.settings.write.iter().any(|path| root.write.contains(path));
        chain.network() == Network::None && !chain.unix() && !wider && root.write.len() == 1
    }

    /// One sentence for the owner and the model.
    pub fn rights(&self) -> String {
        match self.check() {
            _ if self.is_off() => OFF.to_owned(),
            Ok(()) => CONFINED.to_owned(),
            Err(error) => format!("No tool call is run: {error:#}."),
        }
    }
}

/// A chain under which nothing is run.
pub const NOTHING: Chain = Chain::Links(Vec::new());
/// Folders of the system that the table names.
const SYSTEM_SHOWN: usize = 6;
/// What is said at every start.
pub const OFF: &str = "CONFINEMENT IS OFF: tool calls have all of the owner's rights (confine = \"off\" in config.toml).";
/// Why a session that was to do less does nothing then.
pub const UNENFORCED: &str = "this conversation may do less than you, and with confine = \"off\" in config.toml nothing keeps it from more; switch confinement on, or begin a conversation without --only";
const CONFINED: &str = "Tool calls are confined: `fledgling policy` shows what they may touch, `fledgling ask` asks your owner for more.";

#[cfg(test)]
mod tests {
    use super::*;

    fn reach(root: &Path, settings: HandsSettings) -> Reach {
        let home = Home::resolve(Some(root.join("home"))).unwrap();
        home.create().unwrap();
        Reach::new(&home, Confine::On, settings).unwrap()
    }

    #[test]
    fn what_is_given_never_takes_away() {
        let root = tempfile::tempdir().unwrap();
        let reach = reach(root.path(), HandsSettings::default());
        let (given, folder) = ([Item::Network(Network::Ports([443].into()))], root.path());
        assert_eq!(reach.chain(folder, &given, &[]).unwrap().network(), Network::Full);
        let none = HandsSettings { network: Network::None, ..HandsSettings::default() };
        let ports = reach.with(none).chain(folder, &given, &[]).unwrap().network();
        assert_eq!(ports, Network::Ports([443].into()));
    }

    #[test]
    fn the_table_says_what_a_link_takes_away() {
        let root = tempfile::tempdir().unwrap();
        let reach = reach(root.path(), HandsSettings { unix: true, ..HandsSettings::default() });
        let (read, write, network) = (vec!["/".into()], Vec::new(), Network::Full);
        let link = Link { read, write, network, unix: false, secrets: None, tools: None };
        let rows = reach.table(root.path(), &[], &[link]);
        let least: Vec<_> = rows.iter().filter(|row| row.from == "at most, link 1").collect();
        let least: Vec<_> = least.iter().map(|row| (&*row.right, &*row.what)).collect();
        assert_eq!(least, [("write", "nothing"), ("unix", "none")]);
        let unix: Vec<_> = rows.iter().filter(|row| row.right == "unix").collect();
        assert_eq!((unix.len(), unix[1].what.as_str()), (2, "none"));
    }

    fn refused(reach: &Reach, path: &Path, write: bool, why: &str) {
        let error = format!("{:#}", reach.check_grant(path, write).unwrap_err());
        assert!(error.contains(why), "{error}");
        let paths = vec![path.to_owned()];
        let mut settings = HandsSettings::default();
        if write {
            settings.write = paths;
        } else {
            settings.read = paths;
        }
        let error = format!("{:#}", reach.with(settings).check().unwrap_err());
        assert!(error.contains(why) && error.contains("confine = \"off\""), "{error}");
    }

    #[test]
    fn no_grant_reaches_the_keys() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().canonicalize().unwrap();
        let reach = reach(&root, HandsSettings::default());
        reach.check().unwrap();
        for write in [false, true] {
            for around in [&root, &root.join("home"), Path::new("/")] {
                refused(&reach, around, write, "with your keys");
            }
            for own in ["secrets.toml", "history.git", "sessions", "program", "door.key"] {
                refused(&reach, &root.join("home").join(own), write, "is the program's own");
            }
            refused(&reach, Path::new("relative"), write, "is not an absolute path");
        }
        let link = root.join("link");
        std::os::unix::fs::symlink("/usr", &link).unwrap();
        refused(&reach, &link.join("bin"), false, "if /usr/bin is meant, name that");
        let program = std::env::current_exe().unwrap().canonicalize().unwrap();
        refused(&reach, program.parent().unwrap(), true, "this program itself");
        reach.check_grant(&root.join("elsewhere"), true).unwrap();
    }

    #[test]
    fn what_is_given_to_a_session_is_in_its_root() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().canonicalize().unwrap();
        let settings = HandsSettings { network: Network::None, ..HandsSettings::default() };
        let reach = reach(&root, settings);
        let folder = root.join("home/workspace");
        let plain = reach.chain(&folder, &[], &[]).unwrap();
        assert_eq!((plain.network(), plain.unix()), (Network::None, false));
        assert_eq!(plain.secrets(), Some(BTreeSet::new()));
        let given = [Item::Network(Network::Full), Item::Unix, Item::Secret("A".to_owned())];
        let wider = reach.chain(&folder, &given, &[]).unwrap();
        assert_eq!((wider.network(), wider.unix()), (Network::Full, true));
        assert_eq!(wider.secrets(), Some(["A".to_owned()].into()));
        assert!(reach.with(HandsSettings::default()).chain(&folder, &[], &[]).is_ok());
    }
}
