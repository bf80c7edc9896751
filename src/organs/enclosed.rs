//! Files that come with a message: kept when it is said, and put into the workspace's `inbox/`
//! when a turn takes it.
//!
//! Owns what may be named by whom, what a file is called there, and its rows of `state.db`, which
//! go with the message's. A kill leaves at most bytes that nothing names. Nothing in the inbox is
//! ever overwritten. Knows neither doors nor channels.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use rusqlite::{Connection, params};

use crate::files::picture;
use crate::kernel::message::{Image, Incoming};
use crate::organs::always::channels::contract::Inbound;
use crate::organs::checkouts::Place;
use crate::organs::history::beneath::Root;
use crate::organs::host::Host;
use crate::organs::pictures::Pictures;
use crate::organs::reach::item::Item;
use crate::organs::state::State;
use crate::organs::verb::Caller;

/// Beside the tables that a predecessor knows. It takes messages out of `inbox`, and what came
/// with them goes, too.
pub const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS enclosed (key TEXT NOT NULL, number INTEGER NOT NULL,
    name TEXT NOT NULL, hash TEXT NOT NULL, shown TEXT, PRIMARY KEY (key, number)) WITHOUT ROWID;
CREATE TRIGGER IF NOT EXISTS inbox_enclosed AFTER DELETE ON inbox
    BEGIN DELETE FROM enclosed WHERE key = OLD.key; END;
";

/// Files that may come with one message.
const FILES: usize = 20;
/// The folder of the workspace.
const INBOX: &str = "inbox";
/// Characters of a file's name that are kept.
const NAME: usize = 80;

/// A file that is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enclosed {
    /// What it is to be called.
    pub name: String,
    /// What its bytes are kept under.
    pub hash: String,
    /// What it is, where it is a picture that can be shown.
    pub shown: Option<String>,
}

/// A file that somebody names.
#[derive(Debug)]
pub enum Named {
    /// Whatever the owner may read.
    Anywhere(PathBuf),
    /// One beneath a folder that nobody can move: no link on the way to it is followed.
    Beneath(PathBuf, PathBuf),
}

impl Named {
    /// Its bytes. Blocks; on nothing but a disk, whatever it is.
    fn read(&self, limit: u64) -> Result<Vec<u8>> {
        let shown = self.path().display().to_string();
        let large = || {
            let limit = limit >> 20;
            anyhow!(
                "{shown} is larger than {limit} MB, the most that goes into the workspace: name its path in words, or raise file_mb under [history] in config.toml"
            )
        };
        match self {
            Self::Anywhere(path) => {
                let mut options = OpenOptions::new();
                options.read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
                let file = options.open(path).with_context(|| format!("cannot open {shown}"))?;
                let meta = file.metadata().with_context(|| format!("cannot look at {shown}"))?;
                ensure!(meta.is_file(), "{shown} is not a regular file");
                let mut bytes = Vec::new();
                let read = file.take(limit + 1).read_to_end(&mut bytes);
                read.with_context(|| format!("cannot read {shown}"))?;
                if bytes.len() as u64 > limit { Err(large()) } else { Ok(bytes) }
            }
            Self::Beneath(folder, path) => {
                let read = Root::open(folder).and_then(|root| root.read(path, limit));
                read.map(|(bytes, _)| bytes).map_err(|error| match error.kind() {
                    ErrorKind::FileTooLarge => large(),
                    ErrorKind::InvalidInput => anyhow!("{shown} is not a regular file"),
                    _ => anyhow!(error).context(format!("cannot open {shown}, by no link")),
                })
            }
        }
    }

    fn path(&self) -> &Path {
        match self {
            Self::Anywhere(path) | Self::Beneath(_, path) => path,
        }
    }
}

impl State {
    /// What comes with a message that waits.
    pub fn enclosed(&self, key: &str) -> Result<Vec<Enclosed>> {
        let sql = "SELECT name, hash, shown FROM enclosed WHERE key = ? ORDER BY number";
        self.read(sql, [key], |row| {
            Ok(Enclosed { name: row.get(0)?, hash: row.get(1)?, shown: row.get(2)? })
        })
    }

    /// What is kept for messages that wait.
    pub fn all_enclosed(&self) -> Result<Vec<String>> {
        self.read("SELECT hash FROM enclosed", [], |row| row.get(0))
    }

    /// Whether a message with this key waits.
    pub fn is_waiting(&self, key: &str) -> Result<bool> {
        let sql = "SELECT EXISTS (SELECT 1 FROM inbox WHERE key = ?)";
        Ok(self.connection().query_row(sql, [key], |row| row.get(0))?)
    }
}

/// Write down what comes with a message, within the transaction that receives it.
pub(super) fn put(connection: &Connection, key: &str, files: &[Enclosed]) -> rusqlite::Result<()> {
    let sql = "INSERT OR IGNORE INTO enclosed (key, number, name, hash, shown)
        VALUES (?, ?, ?, ?, ?)";
    files.iter().enumerate().try_for_each(|(number, Enclosed { name, hash, shown })| {
        connection.execute(sql, params![key, number, name, hash, shown]).map(drop)
    })
}

impl Host {
    /// The files that this caller names, where it may: a hand what lies in its workspace or in
    /// the scratch folder and it may read, the owner anything.
    pub(super) fn named(&self, caller: &Caller, files: &[PathBuf]) -> Result<Vec<Named>> {
        ensure!(files.len() <= FILES, "{} files are too many: {FILES} at a time", files.len());
        let Caller::Hand(own) = caller else {
            let relative = files.iter().find(|path| !path.is_absolute());
            ensure!(relative.is_none(), "files are named by their whole paths");
            return Ok(files.iter().cloned().map(Named::Anywhere).collect());
        };
        let folders = [self.folder(Some(own)), self.home().scratch()];
        let named = files.iter().map(|path| {
            let Some((folder, rest)) = beneath(&folders, path) else {
                bail!(
                    "{} lies neither in the workspace nor in the scratch folder, and a tool call sends nothing else; copy it there first",
                    path.display()
                );
            };
            let real = folder.canonicalize().unwrap_or_else(|_| folder.clone()).join(&rest);
            let may = self.has(own, &Item::Read(real))?;
            ensure!(may, "session {own} may not read {}", path.display());
            Ok(Named::Beneath(folder, rest))
        });
        named.collect()
    }

    /// The files of the workspace that go out with words: those that whoever carries them can
    /// read there. Since a link may stand there by then, only who may read all of it names any.
    pub(super) fn sendable(&self, caller: &Caller, files: &[PathBuf]) -> Result<Vec<String>> {
        let folder = self.home().workspace();
        let real = folder.canonicalize().unwrap_or_else(|_| folder.clone());
        if let (Caller::Hand(own), false) = (caller, files.is_empty()) {
            let may = self.has(own, &Item::Read(real.clone()))?;
            ensure!(may, "session {own} may not read the whole workspace, so it sends no files");
        }
        ensure!(files.len() <= FILES, "{} files are too many: {FILES} at a time", files.len());
        let sent = files.iter().map(|path| {
            let shown = path.display();
            let (_, rest) = beneath(std::slice::from_ref(&folder), path).with_context(|| {
                format!("{shown} does not lie in the workspace, which is what channels can read; copy it there first")
            })?;
            let stat = Root::open(&folder).and_then(|root| root.stat(&rest));
            let stat = stat.with_context(|| format!("cannot look at {shown}, by no link"))?;
            ensure!(stat.is_file(), "{shown} is not a regular file");
            real.join(rest).into_os_string().into_string().ok().context("its name is not UTF-8")
        });
        sent.collect()
    }

    /// Keep files that come with a message, or say of each why it is refused. That they cannot be
    /// kept at all is another matter.
    pub(super) async fn enclose(&self, files: Vec<Named>) -> Result<Vec<Result<Enclosed>>> {
        let limit = self.settings.config.history.file_mb << 20;
        let (pictures, day) = (Pictures::of(self.home()), self.today());
        let withheld = self.withheld.clone();
        let keep = move || {
            let mut kept = Vec::new();
            for file in files {
                let bytes = match file.read(limit) {
                    Ok(bytes) => bytes,
                    Err(error) => {
                        kept.push(Err(error));
                        continue;
                    }
                };
                // A file is kept as it is: nothing can be taken out of it.
                if let Some(secret) = withheld.finds(&bytes) {
                    kept.push(Err(anyhow!(
                        "{} is not taken: the value of the secret {secret} stands in it",
                        withheld.text(file.path().display().to_string())
                    )));
                    continue;
                }
                let name = file.path().file_name().unwrap_or_default().to_string_lossy();
                let name = format!("{day}-{}", plain(&withheld.text(name.into_owned())));
                let hash = pictures.keep(&bytes)?;
                let kind = picture::media_type(&bytes);
                // What cannot be shown says why when it is read.
                let shown = kind.filter(|_| picture::picture(&name, &name, bytes).is_ok());
                kept.push(Ok(Enclosed { name, hash, shown: shown.map(str::to_owned) }));
            }
            Ok(kept)
        };
        tokio::task::spawn_blocking(keep).await?
    }

    /// Keep the files that a service names in a message, if it is one that goes to a session.
    /// They lie in the folder that the service has for itself; what does not is refused, which
    /// the service's log and the message say.
    pub(in crate::organs) async fn enclose_inbound(
        &self,
        channel: &str,
        message: &mut Inbound,
    ) -> Result<()> {
        let files = std::mem::take(&mut message.files);
        if files.is_empty() || !self.state.is_welcome(channel, message)? {
            return Ok(());
        }
        let scratch = self.home().scratch();
        let own = Path::new("services").join(channel);
        for file in files {
            // No part of the way from the scratch folder on may be a link: hands write there.
            let named = beneath(std::slice::from_ref(&scratch), Path::new(&file))
                .filter(|(_, rest)| rest.starts_with(&own))
                .map(|(folder, rest)| Named::Beneath(folder, rest))
                .with_context(|| format!("{file} does not lie in its TMPDIR"));
            let kept = match named {
                Ok(named) => self.enclose(vec![named]).await?,
                Err(error) => vec![Err(error)],
            };
            match kept.into_iter().collect::<Result<Vec<_>>>() {
                Ok(kept) => message.enclosed.extend(kept),
                Err(error) => {
                    let why = format!("a file of message {} is refused: {error:#}", message.id);
                    self.always.desk.keeper().into_iter().for_each(|one| one.note(channel, &why));
                    let newline = if message.text.is_empty() { "" } else { "\n" };
                    let told = format!("{newline}[a file that came with it could not be taken]");
                    message.text.push_str(&told);
                }
            }
        }
        Ok(())
    }

    /// Put what comes with a message into the inbox of the place where its turn works, and say
    /// so in it. It is the turn's in the history. Whatever cannot be, the message says why.
    pub(super) async fn unpack(
        &self,
        place: &Place,
        session: &str,
        incoming: &mut Incoming,
    ) -> Result<()> {
        let files = self.state.enclosed(&incoming.key)?;
        if files.is_empty() {
            return Ok(());
        }
        let writers = place.snapshots.writers();
        // Until its turn has ended, nobody takes it for anybody else's.
        writers.begin(session);
        let writing = writers.writes(session, false);
        let (pictures, folder) = (Pictures::of(self.home()), place.folder.clone());
        let put = move |file: Enclosed| {
            let bytes = pictures.read(&file.hash).map_err(anyhow::Error::from);
            let path = bytes.and_then(|bytes| deliver(&folder, &file.name, &bytes));
            (file, path)
        };
        let put = move || files.into_iter().map(put).collect::<Vec<_>>();
        let (put, mut wrote) = (tokio::task::spawn_blocking(put).await?, Vec::new());
        let mut lines = vec![std::mem::take(&mut incoming.text)];
        for (Enclosed { name, hash, shown }, path) in put {
            let path = match path {
                Ok(path) => {
                    lines.push(format!("[file: {}]", path.display()));
                    wrote.push(path.clone());
                    path.display().to_string()
                }
                Err(error) => {
                    lines.push(format!("[{name} could not be put into {INBOX}/: {error:#}]"));
                    name
                }
            };
            let image = |media_type| Image { media_type, hash, name: path, data: None };
            incoming.images.extend(shown.map(image));
        }
        lines.retain(|line| !line.is_empty());
        incoming.text = lines.join("\n");
        writing.wrote(wrote);
        Ok(())
    }
}

/// The folder of these in which a path lies, and the way from there.
pub(super) fn beneath(folders: &[PathBuf], path: &Path) -> Option<(PathBuf, PathBuf)> {
    folders.iter().find_map(|folder| {
        let real = folder.canonicalize().ok();
        let mut rest = [Some(folder), real.as_ref()].into_iter().flatten();
        let rest = rest.find_map(|folder| path.strip_prefix(folder).ok())?;
        Some((folder.clone(), rest.to_owned()))
    })
}

/// Put a file into the inbox of a folder, under a name that is free. Where it is there already,
/// as after a kill, it is that one.
fn deliver(folder: &Path, name: &str, bytes: &[u8]) -> Result<PathBuf> {
    let root = Root::open(folder)?;
    let (stem, extension) = match name.rsplit_once('.') {
        Some((stem, extension)) => (stem, format!(".{extension}")),
        None => (name, String::new()),
    };
    let numbered = (2..100).map(|number| format!("{stem}-{number}{extension}"));
    for name in std::iter::once(name.to_owned()).chain(numbered) {
        let path = Path::new(INBOX).join(name);
        match root.create(&path, bytes) {
            Ok(()) => return Ok(path),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                let there = root.read(&path, bytes.len() as u64);
                if there.is_ok_and(|(there, _)| there == bytes) {
                    return Ok(path);
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
    bail!("too many files of that name are there")
}

/// A name as it can stand in a line and in a command: nothing that hides, turns or ends a text.
fn plain(name: &str) -> String {
    let fine = |c: char| if c.is_alphanumeric() || "._-+=".contains(c) { c } else { '_' };
    let kept: String = name.chars().map(fine).collect();
    let kept = kept.trim_start_matches(['.', '_', '-']);
    // The end tells what it is.
    let skip = kept.chars().count().saturating_sub(NAME);
    let kept: String = kept.chars().skip(skip).collect();
    if kept.is_empty() { "file".to_owned() } else { kept }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::kernel::message::Origin;
    use crate::organs::state::Waiting;

    #[test]
    fn names_hold_nothing_that_leads_away_or_deceives() {
        for (name, expected) in [
            ("a b.png", "a_b.png"),
            ("../.profile", "profile"),
            ("..", "file"),
            ("évil\u{202e}gnp.\nexe]", "évil_gnp._exe_"),
            ("-rf", "rf"),
        ] {
            assert_eq!(plain(name), expected);
        }
        assert!(plain(&format!("{}.png", "x".repeat(300))).ends_with("x.png"));
    }

    #[test]
    fn nothing_is_overwritten_and_no_link_followed() {
        let temp = tempfile::tempdir().unwrap();
        let put = |bytes: &[u8]| deliver(temp.path(), "d-a.b.png", bytes);
        assert_eq!(put(b"1").unwrap(), Path::new("inbox/d-a.b.png"));
        // As after a kill.
        assert_eq!(put(b"1").unwrap(), Path::new("inbox/d-a.b.png"));
        symlink("/etc/passwd", temp.path().join("inbox/d-a.b-2.png")).unwrap();
        assert_eq!(put(b"2").unwrap(), Path::new("inbox/d-a.b-3.png"));
        assert_eq!(fs::read(temp.path().join("inbox/d-a.b.png")).unwrap(), b"1");
        assert_eq!(fs::read_dir(temp.path().join("inbox")).unwrap().count(), 3);
        let other = tempfile::tempdir().unwrap();
        symlink(temp.path().join("inbox"), other.path().join("inbox")).unwrap();
        assert!(deliver(other.path(), "x", b"3").is_err());
    }

    #[test]
    fn what_is_no_file_or_too_large_is_refused() {
        let temp = tempfile::tempdir().unwrap();
        fs::write(temp.path().join("f"), vec![0; (1 << 20) + 1]).unwrap();
        let beneath = |path: &str| Named::Beneath(temp.path().to_owned(), path.into());
        let anywhere = |path: &Path| Named::Anywhere(path.to_owned());
        for named in [beneath("f"), anywhere(&temp.path().join("f"))] {
            assert_eq!(named.read(2 << 20).unwrap().len(), (1 << 20) + 1);
            assert!(named.read(1 << 20).unwrap_err().to_string().contains("larger than 1 MB"));
        }
        for path in ["../f", ".", "gone", "/etc/passwd"] {
            assert!(beneath(path).read(9).is_err(), "{path}");
        }
        assert!(anywhere(Path::new("/dev/zero")).read(9).is_err());
        assert!(anywhere(temp.path()).read(9).is_err());
    }

    #[test]
    fn rows_go_with_their_message_whoever_takes_it() {
        let temp = tempfile::tempdir().unwrap();
        let state = State::open(&temp.path().join("state.db")).unwrap();
        let (key, origin, text) = ("k".to_owned(), Origin::Owner, String::new());
        let incoming = Incoming { key, origin, text, images: Vec::new() };
        let waiting = Waiting { incoming, steer: false, model: None };
        let one =
            |name: &str| Enclosed { name: name.to_owned(), hash: "h".to_owned(), shown: None };
        let files = vec![one("a"), one("b")];
        state.receive_with(&waiting, &files, "s").unwrap();
        state.receive_with(&waiting, &files, "s").unwrap();
        assert!(state.is_waiting("k").unwrap());
        assert_eq!(state.enclosed("k").unwrap(), files);
        state.taken("k").unwrap();
        assert_eq!(state.enclosed("k").unwrap(), []);
    }
}
