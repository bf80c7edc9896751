//! Consistent images of `SQLite` databases in use.
//!
//! Owns how one is taken and put back, and what it looks like: equal content gives equal
//! bytes. The invariant: this process never opens a database of the workspace, by whatever
//! path. A program of its own does, as a hand, since a hostile file must not reach the host,
//! and since closing a file anywhere in a process drops the locks `SQLite` has on it there.
//! What is opened here, to compare, are images: from memory, read-only and hardened
//! (`rows.rs`). Knows no history. The `-wal`, `-shm` and `-journal` beside a database are
//! `SQLite`'s business.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Seek, Write};
use std::os::fd::FromRawFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow, ensure};
use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, ErrorCode, OpenFlags};
use thiserror::Error;

use crate::files::output::End;
use crate::guard::policy::Policy;
use crate::kernel::interrupt::interrupt;
use crate::organs::history::beneath::Root;
use crate::organs::history::shell::Job;

/// How long a lock of somebody else is waited for.
const BUSY: Duration = Duration::from_secs(2);
/// How long it may take in all.
const TIMEOUT: Duration = Duration::from_secs(60);
/// What every database begins with.
pub const MAGIC: &[u8] = b"SQLite format 3\0";
/// Bytes of the header.
const HEADER: usize = 100;
/// What a hand runs. Names come by the environment, so that nothing in them needs quoting.
const TAKE: &str = r#"exec "$PROGRAM" image --limit "$LIMIT" -- "$DATABASE""#;
const PUT: &str = r#"exec "$PROGRAM" image -- "$DATABASE""#;
/// What SQLite keeps beside a database.
pub const SIDE_FILES: [&str; 3] = ["-wal", "-shm", "-journal"];
/// Bytes of an error that are kept.
const ERROR_BYTES: usize = 4096;

/// Why there is no image, or why it was not put back.
#[derive(Debug, Error)]
pub enum NoImage {
    /// Somebody else is at it, for longer than is waited.
    #[error("another process has the database locked; try again when it is done")]
    Locked,
    /// It begins like a database and is none for `SQLite`: take it as a plain file.
    #[error("SQLite does not take it for a database")]
    NotADatabase,
    /// It has more bytes than allowed.
    #[error("the database is too large")]
    TooLarge,
    /// Something else.
    #[error(transparent)]
    Failed(#[from] anyhow::Error),
}

/// Those that the child tells by its exit code.
const CODES: [(u8, NoImage); 3] =
    [(11, NoImage::Locked), (12, NoImage::NotADatabase), (13, NoImage::TooLarge)];

impl From<rusqlite::Error> for NoImage {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Locked,
            Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => Self::NotADatabase,
            _ => Self::Failed(error.into()),
        }
    }
}

/// Whether a file that begins like this means to be a database.
pub fn is_database(head: &[u8]) -> bool {
    head.starts_with(MAGIC)
}

/// Whether a file is what SQLite keeps beside a database, and not only called so.
pub fn is_side_file(root: &Root, path: &Path) -> bool {
    let Ok((head, length)) = root.head(path, 8) else { return false };
    let name = path.as_os_str().as_bytes();
    // As its file format says. The headers of a journal that is done with, and of shared
    // memory that nobody has used yet, are zero.
    let magics: &[&[u8]] = match () {
        () if name.ends_with(b"-wal") => &[b"\x37\x7f\x06\x82", b"\x37\x7f\x06\x83"],
        () if name.ends_with(b"-journal") => &[b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7", &[0; 8]],
        () if name.ends_with(b"-shm") => &[&[0x18, 0xe2, 0x2d, 0], &[0, 0x2d, 0xe2, 0x18], &[0; 8]],
        () => return false,
    };
    length == 0 || magics.iter().any(|magic| head.starts_with(magic))
}

/// Takes images and puts them back. Every call blocks, for some seconds at worst.
#[derive(Debug, Clone)]
pub struct Images {
    policy: Policy,
    program: PathBuf,
}

impl Images {
    /// By hands of this policy, which run `program`: this program, where no hand can write
    /// it. The policy's environment is not used.
    pub fn new(policy: Policy, program: PathBuf) -> Self {
        Self { policy, program }
    }

    /// The same in another workspace.
    #[must_use]
    pub fn at(mut self, workspace: &Path) -> Self {
        workspace.clone_into(&mut self.policy.workspace);
        self.policy.own = vec![workspace.to_owned()];
        self
    }

    /// An image of the database at this path of the workspace.
    pub fn take(&self, path: &Path, limit: u64) -> Result<Vec<u8>, NoImage> {
        let most = usize::try_from(limit).unwrap_or(usize::MAX).max(ERROR_BYTES);
        let image = self.run(TAKE, path, limit, None, most);
        let image = image.map_err(|error| told(error, "take an image of", path))?;
        if !is_database(&image) || page_size(&image) * pages(&image) != image.len() as u64 {
            return Err(anyhow!("the image of {} is not whole", path.display()).into());
        }
        Ok(image)
    }

    /// Make the database at this path of the workspace what it was when the image was taken.
    /// Whoever has it open can keep using it. What is no database is replaced.
    pub fn put(&self, image: &[u8], path: &Path) -> Result<(), NoImage> {
        let put = in_memory(image).context("cannot keep an image in memory");
        let put = put.map_err(NoImage::from);
        let put = put.and_then(|image| self.run(PUT, path, 0, Some(&image), ERROR_BYTES));
        put.map(drop).map_err(|error| told(error, "put back", path))
    }

    /// SQLite removes a file that has the name of one of its own and is none.
    fn check_beside(&self, database: &Path) -> anyhow::Result<()> {
        let root = Root::open(&self.policy.workspace)?;
        for path in SIDE_FILES.map(|end| beside(database, end)) {
            let is_foreign =
                root.stat(&path).is_ok_and(|stat| stat.is_file()) && !is_side_file(&root, &path);
            ensure!(
                !is_foreign,
                "{} beside it is not SQLite's, which would remove it: give it another name",
                path.display()
            );
        }
        Ok(())
    }

    fn run(
        &self,
        command: &str,
        path: &Path,
        limit: u64,
        input: Option<&File>,
        most: usize,
    ) -> Result<Vec<u8>, NoImage> {
        self.check_beside(path)?;
        let variables: [(&str, OsString); 4] = [
            ("PROGRAM", self.program.clone().into()),
            ("DATABASE", path.into()),
            ("LIMIT", limit.to_string().into()),
            ("TMPDIR", self.policy.scratch.clone().into()),
        ];
        let env = variables.map(|(name, value)| (name.into(), value)).to_vec();
        let policy = Policy { env, ..self.policy.clone() };
        let (_never, interrupt) = interrupt();
        let (policy, interrupt) = (&policy, &interrupt);
        let job = Job { policy, command, input, timeout: TIMEOUT, interrupt };
        let mut said = Vec::new();
        let ended = job.hear(&mut |bytes| {
            said.extend_from_slice(&bytes[..bytes.len().min(most - said.len())]);
        })?;
        let code = match ended {
            End::Exited { status, .. } => status.code(),
            End::TimedOut | End::Interrupted => {
                return Err(anyhow!("it took more than {} s", TIMEOUT.as_secs()).into());
            }
        };
        if code == Some(0) {
            return Ok(said);
        }
        let known = CODES.into_iter().find(|(known, _)| code == Some((*known).into()));
        Err(known.map_or_else(|| anyhow!(error_text(&said)).into(), |(_, error)| error))
    }
}

/// What lies beside a database, by how its name ends.
pub fn beside(database: &Path, end: &str) -> PathBuf {
    let mut path = database.as_os_str().to_owned();
    path.push(end);
    path.into()
}

/// The last thing a child said, without the name of the program.
fn error_text(said: &[u8]) -> String {
    let text = String::from_utf8_lossy(&said[..said.len().min(ERROR_BYTES)]);
    let words = text.trim().trim_start_matches("fledgling: ").split_whitespace();
    let text = words.collect::<Vec<_>>().join(" ");
    if text.is_empty() { "the program that does it was killed".to_owned() } else { text }
}

fn told(error: NoImage, what: &str, path: &Path) -> NoImage {
    match error {
        NoImage::Failed(error) => error.context(format!("cannot {what} {}", path.display())).into(),
        error => error,
    }
}

/// A file that is nowhere on a disk, where somebody could change it, ready to be read.
fn in_memory(content: &[u8]) -> io::Result<File> {
    // SAFETY: the name ends in NUL; what comes back is a new descriptor or negative.
    let mut file = unsafe {
        match libc::memfd_create(c"image".as_ptr(), libc::MFD_CLOEXEC) {
            failed if failed < 0 => return Err(io::Error::last_os_error()),
            made => File::from_raw_fd(made),
        }
    };
    file.write_all(content)?;
    file.rewind()?;
    Ok(file)
}

/// A connection to an image, which is only read.
pub fn open(image: &[u8]) -> rusqlite::Result<Connection> {
    let mut db = Connection::open_in_memory()?;
    // A database in memory cannot have a write-ahead log, and does not open if it wants one.
    let mut head = image[..image.len().min(HEADER)].to_vec();
    if let Some(versions) = head.get_mut(18..20) {
        versions.fill(1);
    }
    let rest = &image[head.len()..];
    db.deserialize_read_exact("main", head.chain(rest), image.len(), true)?;
    Ok(db)
}

/// The program that is run for a database: take its image with a limit, put one back
/// without. The number is the exit code.
pub fn as_child(path: &Path, limit: Option<u64>) -> anyhow::Result<u8> {
    let done = match limit {
        Some(limit) => print(path, limit),
        None => put_back(path),
    };
    let Err(error) = done else { return Ok(0) };
    let same = |known: &NoImage| std::mem::discriminant(known) == std::mem::discriminant(&error);
    match (CODES.iter().find(|(_, known)| same(known)), error) {
        (Some((code, _)), _) => Ok(*code),
        (None, NoImage::Failed(error)) => Err(error),
        (None, error) => Err(error.into()),
    }
}

fn print(path: &Path, limit: u64) -> Result<(), NoImage> {
    let (head, size) = look(path)?.context("there is no such file")?;
    if !is_database(&head) {
        return Err(NoImage::NotADatabase);
    }
    if size > limit {
        return Err(NoImage::TooLarge);
    }
    // Reading may mean to roll back what somebody was killed over, so that it may write.
    let from = open_file(path, OpenFlags::empty())?;
    // Not `:memory:`: serializing that needs the schema to be in order, which is the
    // owner's affair. A file of this kind is its own image.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
    let mut to = Connection::open_with_flags_and_vfs("image", flags, c"memdb")?;
    copy(&from, &mut to)?;
    let image = to.serialize("main")?;
    if image.len() as u64 > limit {
        return Err(NoImage::TooLarge);
    }
    let (head, rest) = image.split_at_checked(HEADER).ok_or(NoImage::NotADatabase)?;
    let mut head = head.to_vec();
    normalise(&mut head, image.len() as u64);
    let mut out = io::stdout().lock();
    let written = out.write_all(&head).and_then(|()| out.write_all(rest));
    Ok(written.and_then(|()| out.flush()).context("cannot write the image")?)
}

fn put_back(path: &Path) -> Result<(), NoImage> {
    let mut image = Vec::new();
    io::stdin().lock().read_to_end(&mut image).context("cannot read the image")?;
    if !is_database(&image) || image.len() < HEADER {
        return Err(NoImage::NotADatabase);
    }
    let from = open(&image)?;
    // Before anything is done for its sake.
    Backup::new(&from, &mut Connection::open_in_memory()?)?.step(1)?;
    let found = look(path)?;
    let live = found.as_ref().is_some_and(|(head, _)| is_database(head));
    let put = match found {
        Some((head, _)) if live => put_into(&from, &image, path, &head),
        Some((_, 1..)) => replace(&from, path),
        _ => create(&from, path),
    };
    match put {
        // It only looked like one.
        Err(NoImage::NotADatabase) if live => replace(&from, path)?,
        put => put?,
    }
    // The backup leaves this to the one that is written to. Somebody who has the database
    // open keeps a log from being given up: the content is right all the same, and what
    // differs is seen at the next look.
    let mode = if has_wal(&image) { "WAL" } else { "DELETE" };
    let (head, _) = look(path)?.context("it was removed meanwhile")?;
    if has_wal(&head) != has_wal(&image) {
        let to = open_file(path, OpenFlags::empty())?;
        let _ = to.query_row(&format!("PRAGMA journal_mode = {mode}"), [], |_| Ok(()));
    }
    Ok(())
}

/// Into a database that others may have open.
fn put_into(from: &Connection, image: &[u8], path: &Path, head: &[u8]) -> Result<(), NoImage> {
    let mut to = open_file(path, OpenFlags::empty())?;
    if has_wal(head) && page_size(head) != page_size(image) {
        // The one thing a log cannot bear. It can only be given up when nobody else is there.
        let given_up = to.query_row("PRAGMA journal_mode = DELETE", [], |_| Ok(()));
        given_up.map_err(|error| match NoImage::from(error) {
            NoImage::Locked => anyhow!("its pages have another size now, and another process has it open; close it there and try again").into(),
            error => error,
        })?;
    }
    copy(from, &mut to)
}

/// In the place of what is no database. It is not written beside it and renamed: what is
/// left of an older database's log would be taken for that of the new one. `SQLite` removes
/// such a log only when it finds no database.
fn replace(from: &Connection, path: &Path) -> Result<(), NoImage> {
    let named = || path.display().to_string();
    let mode = fs::symlink_metadata(path).with_context(named)?.permissions();
    fs::remove_file(path).with_context(named)?;
    create(from, path)?;
    Ok(fs::set_permissions(path, mode).with_context(named)?)
}

fn create(from: &Connection, path: &Path) -> Result<(), NoImage> {
    copy(from, &mut open_file(path, OpenFlags::SQLITE_OPEN_CREATE)?)
}

/// The beginning of a file, and how long it is. Neither a link nor anything else that is no
/// file is followed or waited for.
fn look(path: &Path) -> Result<Option<(Vec<u8>, u64)>, NoImage> {
    let looked = Root::open(Path::new(".")).and_then(|root| root.head(path, HEADER as u64));
    match looked {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        looked => Ok(looked.map(Some).context("it is not a plain file of the workspace")?),
    }
}

fn open_file(path: &Path, more: OpenFlags) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NOFOLLOW | more;
    // With a folder in front no name has a meaning of its own, like `:memory:`.
    let db = Connection::open_with_flags(Path::new(".").join(path), flags)?;
    db.busy_timeout(BUSY)?;
    Ok(db)
}

/// In one step, so that nothing comes in between.
fn copy(from: &Connection, to: &mut Connection) -> Result<(), NoImage> {
    match Backup::new(from, to)?.step(-1)? {
        StepResult::Done => Ok(()),
        _ => Err(NoImage::Locked),
    }
}

/// Take out of a header what opening, copying and committing change though the content does
/// not. Found by experiment: nothing else differs, whether a change is still in the log or
/// not; pages that are free keep what was in them.
fn normalise(head: &mut [u8], size: u64) {
    let pages = (size / page_size(head)) as u32;
    let mut set = |at: usize, value: u32| head[at..at + 4].copy_from_slice(&value.to_be_bytes());
    // The file change counter, and the one of when the size was written. While these two are
    // equal the size is believed, which old versions of SQLite do not keep.
    set(24, 1);
    set(92, 1);
    set(28, pages);
    // The schema cookie: how often the schema was changed. A backup counts as a change.
    set(40, 1);
    // Which SQLite wrote last.
    set(96, 0);
}

/// Bytes of a page.
fn page_size(head: &[u8]) -> u64 {
    match head.get(16..18) {
        Some(&[0, 1]) => 65_536,
        Some(&[high, low]) => u16::from_be_bytes([high, low]).max(1).into(),
        _ => 1,
    }
}

/// Pages, as the header has them.
fn pages(head: &[u8]) -> u64 {
    let bytes = head.get(28..32).and_then(|bytes| bytes.try_into().ok());
    u32::from_be_bytes(bytes.unwrap_or_default()).into()
}

/// Whether changes go to a write-ahead log, which a database keeps for good.
fn has_wal(head: &[u8]) -> bool {
    head.get(18) == Some(&2)
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::files::withheld::Withheld;
    use crate::guard::policy::Chain;

    /// A workspace, and images of it taken by a script in the place of the program.
    fn images(script: &str) -> (tempfile::TempDir, Images) {
        let temp = tempfile::tempdir().unwrap();
        let folder = temp.path().canonicalize().unwrap();
        let program = folder.join("program");
        fs::write(&program, format!("#!/bin/bash\n{script}")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let held = File::open("/dev/null").unwrap().into();
        let (workspace, scratch, env) = (folder.clone(), folder, Vec::new());
        let (chain, own, withheld) = (Chain::Off, Vec::new(), Withheld::default());
        let policy = Policy { workspace, scratch, env, chain, own, held, withheld };
        (temp, Images::new(policy, program))
    }

    fn image() -> Vec<u8> {
        let mut db = Connection::open_in_memory().unwrap();
        db.execute_batch("CREATE TABLE t(a); INSERT INTO t VALUES (1)").unwrap();
        let mut image = db.serialize("main").unwrap().to_vec();
        let size = image.len() as u64;
        normalise(&mut image, size);
        image
    }

    #[test]
    fn what_goes_through_a_hand_stays_what_it_is() {
        // It is asked for a file by that name: what it is given is put there, and taken.
        let script = r#"case $2 in --limit) exec cat -- "$5" ;; --) exec cat > "./$3" ;; esac"#;
        let (temp, images) = images(script);
        let path = Path::new(std::ffi::OsStr::from_bytes(b"-n '\"\n$(x) \xff.db"));
        images.put(&image(), path).unwrap();
        assert_eq!(fs::read(temp.path().join(path)).unwrap(), image());
        assert_eq!(images.take(path, 1 << 20).unwrap(), image());
        let cut = images.take(path, ERROR_BYTES as u64).unwrap_err();
        assert!(format!("{cut:#}").contains("is not whole"));
    }

    #[test]
    fn why_there_is_no_image_is_told() {
        let failed = |script: &str| {
            let (_temp, images) = images(script);
            images.take(Path::new("a.db"), 10).unwrap_err()
        };
        assert!(matches!(failed("exit 11"), NoImage::Locked));
        assert!(matches!(failed("exit 12"), NoImage::NotADatabase));
        assert!(matches!(failed("exit 13"), NoImage::TooLarge));
        let error = format!("{:?}", failed("echo 'fledgling: no' >&2; echo ' way' >&2; exit 1"));
        assert!(error.contains("cannot take an image of a.db") && error.contains("no way"));
        assert!(format!("{:?}", failed("kill -9 $$")).contains("was killed"));
        assert!(failed("exit 0").to_string().contains("is not whole"));
    }

    #[test]
    fn a_normal_image_is_sound_and_says_nothing_of_its_past() {
        let mut other = image();
        for at in [24, 40, 92, 96] {
            other[at + 3] += 5;
        }
        let size = other.len() as u64;
        normalise(&mut other, size);
        assert_eq!(other, image());
        let db = open(&image()).unwrap();
        let found: String = db.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(found, "ok");
        assert!(is_database(&image()) && !is_database(b"SQLite"));
    }

    #[test]
    fn an_image_with_a_log_opens_in_memory() {
        let mut image = image();
        image[18..20].fill(2);
        assert!(has_wal(&image));
        let db = open(&image).unwrap();
        assert_eq!(db.query_row("SELECT a FROM t", [], |row| row.get(0)), Ok(1));
    }
}
