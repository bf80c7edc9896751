//! Where everything of one agent lives: the home folder, its lock and its birth.
//!
//! Owns the paths, and that the kernel's half is private to the owner. Knows nothing of
//! what the files hold.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{
    DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use include_dir::{Dir, include_dir};

use crate::organs::history::backup;

/// The workspace a new agent is born with.
static NEWBORN: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/workspace");
/// Who a new agent is; also what `--safe` starts with.
pub const BOOTSTRAP: &str = include_str!("../../bootstrap.md");

/// Files that the owner has to be able to read.
const OWNERS: [&str; 4] = ["config.toml", "secrets.toml", "door.key", "state.db"];

/// A home folder. Whether anything is there yet is another matter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Home(PathBuf);

/// The right to be the one host of a home; given back when dropped or when the process
/// ends, however it ends.
#[derive(Debug)]
pub struct HostLock(#[expect(dead_code, reason = "held, not read")] File);

impl Home {
    /// The home at `path`, else the platform's folder for the program's data.
    pub fn resolve(path: Option<PathBuf>) -> Result<Self> {
        if let Some(path) = path.filter(|path| !path.as_os_str().is_empty()) {
            let shown = path.display().to_string();
            return Ok(Self(
                std::path::absolute(path).with_context(|| format!("bad home {shown}"))?,
            ));
        }
        let dirs = directories::ProjectDirs::from("", "", "fledgling")
            .context("no folder for the program's data is known; name a home with --home DIR")?;
        Ok(Self(dirs.data_dir().to_owned()))
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The agent's half: what its hands may change.
    pub fn workspace(&self) -> PathBuf {
        self.0.join("workspace")
    }

    /// Temporary files of hands.
    pub fn scratch(&self) -> PathBuf {
        self.0.join("scratch")
    }

    /// The transcript of a session.
    pub fn transcript(&self, session: &str) -> PathBuf {
        self.sessions().join(format!("{session}.jsonl"))
    }

    /// All transcripts.
    pub fn sessions(&self) -> PathBuf {
        self.0.join("sessions")
    }

    /// What went over the wire, by session.
    pub fn wire(&self) -> PathBuf {
        self.0.join("wire")
    }

    /// What conversations show, each file by its hash.
    pub fn media(&self) -> PathBuf {
        self.0.join("media")
    }

    /// The doors of running hands, a folder each.
    pub fn doors(&self) -> PathBuf {
        self.0.join("doors")
    }

    /// A folder with this program under its name, for the hands' PATH.
    pub fn program(&self) -> PathBuf {
        self.0.join("program")
    }

    /// Any other file of the kernel's half.
    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Make the folder itself. Where it has become another's to enter, or has been shut to its
    /// owner, that is put right: whatever its mode, the program starts.
    pub fn create_root(&self) -> Result<()> {
        private(&self.0)?;
        // Shut to others, it would be of no use to them any more.
        let shared = fs::metadata(&self.0).is_ok_and(|folder| folder.mode() & 0o1002 != 0);
        ensure!(
            !shared || self.file("state.db").exists(),
            "{} is open to everybody, as folders are that many use; name a folder in it",
            self.0.display()
        );
        ensure!(self.0.parent().is_some(), "/ cannot be a home; name a folder in it");
        let set = |path: &Path, right: fn(u32) -> u32| {
            let Ok(mode) = fs::metadata(path).map(|metadata| metadata.mode() & 0o777) else {
                return Ok(());
            };
            let wrong = right(mode) != mode;
            if wrong {
                fs::set_permissions(path, Permissions::from_mode(right(mode)))
            } else {
                Ok(())
            }
        };
        set(&self.0, |_| 0o700)
            .and_then(|()| {
                OWNERS.iter().try_for_each(|name| set(&self.file(name), |mode| mode | 0o600))
            })
            .with_context(|| format!("cannot put the mode of {} right", self.0.display()))
    }

    /// Make what is missing. Whether the workspace is newborn.
    pub fn create(&self) -> Result<bool> {
        backup::settle(&self.0)?;
        let (media, program) = (self.media(), self.program());
        for path in [self.sessions(), self.wire(), media, self.doors(), program, self.scratch()] {
            private(&path)?;
        }
        let workspace = self.workspace();
        let newborn = !workspace.exists();
        if newborn {
            // Whole or not at all: a kill in between must not leave half an agent.
            let unborn = self.file("workspace.new");
            let _ = fs::remove_dir_all(&unborn);
            private(&unborn)?;
            NEWBORN
                .extract(&unborn)
                .and_then(|()| fs::write(unborn.join("bootstrap.md"), BOOTSTRAP))
                .and_then(|()| fs::rename(&unborn, &workspace))
                .with_context(|| format!("cannot fill {}", workspace.display()))?;
        }
        self.link_program()?;
        Ok(newborn)
    }

    /// Hands find this program in a folder that holds nothing else and that they cannot
    /// write, wherever it was started from.
    fn link_program(&self) -> Result<()> {
        let link = self.program().join("fledgling");
        let target = std::env::current_exe().context("cannot find the program's own file")?;
        if fs::read_link(&link).is_ok_and(|old| old == target) {
            return Ok(());
        }
        let temporary = self.program().join(format!(".fledgling-{}", std::process::id()));
        let _ = fs::remove_file(&temporary);
        std::os::unix::fs::symlink(&target, &temporary)
            .and_then(|()| fs::rename(&temporary, &link))
            .with_context(|| format!("cannot link {} to {}", link.display(), target.display()))
    }

    /// Become the host, unless another process is.
    pub fn lock(&self) -> Result<Option<HostLock>> {
        let path = self.file("host.lock");
        let mut options = OpenOptions::new();
        let file = options.create(true).truncate(false).write(true).mode(0o600).open(&path);
        let file = file.with_context(|| format!("cannot open {}", path.display()))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(HostLock(file))),
            Err(fs::TryLockError::WouldBlock) => Ok(None),
            Err(fs::TryLockError::Error(error)) => {
                Err(error).with_context(|| format!("cannot lock {}", path.display()))
            }
        }
    }

    /// The key of the owner's door, made when there is none yet.
    pub fn door_key(&self) -> Result<String> {
        let path = self.file("door.key");
        let shown = path.display().to_string();
        if let Ok(key) = fs::read_to_string(&path)
            && key.len() == KEY_BYTES * 2
        {
            return Ok(key);
        }
        let mut bytes = [0; KEY_BYTES];
        File::open("/dev/urandom")
            .and_then(|mut random| random.read_exact(&mut bytes))
            .context("cannot read /dev/urandom")?;
        let digit = |nibble: u8| char::from_digit(nibble.into(), 16).unwrap_or_default();
        let key: String =
            bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect();
        write_private(&path, key.as_bytes()).with_context(|| format!("cannot write {shown}"))?;
        Ok(key)
    }
}

fn private(path: &Path) -> Result<()> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.with_context(|| format!("cannot create {}; is the home writable?", path.display()))
}

/// Bytes of the door's key.
const KEY_BYTES: usize = 32;

/// Replace a file by one that only the owner can read.
pub fn write_private(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let temporary = path.with_extension("new");
    let _ = fs::remove_file(&temporary);
    let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_many_use_stays_open() {
        let temp = tempfile::tempdir().unwrap();
        let home = Home::resolve(Some(temp.path().to_owned())).unwrap();
        for mode in [0o1777, 0o777] {
            fs::set_permissions(home.path(), Permissions::from_mode(mode)).unwrap();
            assert!(home.create_root().is_err());
            assert_eq!(fs::metadata(home.path()).unwrap().mode() & 0o7777, mode);
        }
    }

    #[test]
    fn a_home_that_was_shut_or_opened_is_put_right() {
        let temp = tempfile::tempdir().unwrap();
        let home = Home::resolve(Some(temp.path().join("home"))).unwrap();
        home.create_root().unwrap();
        let config = home.file("config.toml");
        fs::write(&config, "").unwrap();
        fs::write(home.file("state.db"), "").unwrap();
        for (folder, file) in [(0o000, 0o000), (0o777, 0o644), (0o700, 0o600)] {
            fs::set_permissions(&config, Permissions::from_mode(file)).unwrap();
            fs::set_permissions(home.path(), Permissions::from_mode(folder)).unwrap();
            home.create_root().unwrap();
            let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
            assert_eq!((mode(home.path()), mode(&config)), (0o700, file | 0o600));
        }
    }
}
