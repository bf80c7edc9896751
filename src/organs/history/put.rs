//! Brings the workspace from one recorded state to another.
//!
//! Only paths at which the two differ are touched, and only while they are as the first
//! one has them: what was changed since, or is not in history at all, is left alone and
//! named. What is already as it is to be counts as done, so that a repeat finishes what a
//! kill cut off. No link is followed on the way. Databases are put back by the caller, since
//! they may be open. Does not know why, nor what to record afterwards.

use std::collections::BTreeSet;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use git2::{Blob, FileMode, Repository, Tree};

use crate::organs::history::beneath::Root;
use crate::organs::history::difference::{self, Difference, Entry, differences};
use crate::organs::history::image::{MAGIC, SIDE_FILES, beside, is_database, is_side_file};

const CHANGED: &str = "what is there now is not what the history has";
const FOLDER: &str = "a folder is in its place";
const HOLDS: &str = "it still holds what the history leaves out";

/// Reads and writes databases that may be open.
pub trait Databases {
    /// An image of what is there now, of so many bytes at most; none when it has more.
    fn take(&self, path: &Path, limit: u64) -> Result<Option<Vec<u8>>>;
    /// Put an image in the place of what is there now.
    fn put(&self, path: &Path, image: &[u8]) -> Result<()>;
}

/// What came of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Put {
    /// Paths that are as they were to be, each with what was done: `put back`, `removed`.
    pub done: Vec<(PathBuf, &'static str)>,
    /// Paths that were not touched, each with why.
    pub left_alone: Vec<(PathBuf, String)>,
    /// Whether one of those is a file that was to change, and not only a folder that stays
    /// for what the history leaves out.
    pub in_part: bool,
}

/// Bring the workspace from one tree to another.
pub fn put(
    root: &Root,
    repository: &Repository,
    from: &Tree<'_>,
    to: &Tree<'_>,
    databases: &dyn Databases,
) -> Result<Put> {
    let mut job = Job { root, repository, to, databases, put: Put::default() };
    let all = differences(repository, Some(from), Some(to))?;
    let (removals, rest): (Vec<_>, Vec<_>) = all.iter().partition(|one| one.after.is_none());
    // What is deepest goes first, and all that goes before all that comes, for whose folders
    // it may be in the way.
    for one in removals.iter().rev() {
        job.path(one)?;
    }
    job.remove_emptied_folders(&removals);
    for one in rest {
        job.path(one)?;
    }
    let is_left = |one: &Difference| job.put.left_alone.iter().any(|(path, _)| *path == one.path);
    job.put.in_part = !job.put.left_alone.is_empty() && all.iter().any(is_left);
    Ok(job.put)
}

struct Job<'a> {
    root: &'a Root,
    repository: &'a Repository,
    to: &'a Tree<'a>,
    databases: &'a dyn Databases,
    put: Put,
}

/// What is at a path now.
#[derive(Clone, Copy)]
enum Present {
    Nothing,
    Folder,
    /// What the old state has, or a database where that has one.
    Old,
    /// What the new state has.
    New,
    /// Anything else.
    Other,
}

impl Job<'_> {
    fn path(&mut self, one: &Difference) -> Result<()> {
        let result = if let Some(why) = refusal(one) {
            Err(anyhow!(why))
        } else {
            let before = Version::read(self.repository, one.before)?;
            let after = Version::read(self.repository, one.after)?;
            self.change(&one.path, before.as_ref(), after.as_ref())
        };
        let what = if one.after.is_some() { "put back" } else { "removed" };
        match result {
            Ok(()) => self.put.done.push((one.path.clone(), what)),
            Err(why) => self.put.left_alone.push((one.path.clone(), format!("{why:#}"))),
        }
        Ok(())
    }

    /// Make a path what it is to be. An error says why it is left alone.
    fn change(
        &mut self,
        path: &Path,
        before: Option<&Version<'_>>,
        after: Option<&Version<'_>>,
    ) -> Result<()> {
        let is_database = |version: Option<&Version<'_>>| version.is_some_and(Version::is_database);
        let (was_database, present) = (is_database(before), self.present(path, before, after)?);
        match (present, after) {
            (Present::New, _) | (Present::Nothing, None) => return Ok(()),
            (Present::Folder, None) if difference::is_folder(self.to, path) => return Ok(()),
            (Present::Other, _) => bail!(CHANGED),
            (Present::Folder, None) => bail!(FOLDER),
            (Present::Folder, Some(_)) => self.root.remove_folder(path).context(FOLDER)?,
            (Present::Nothing | Present::Old, _) => {}
        }
        let here = matches!(present, Present::Old);
        match after {
            Some(after) if here && before.is_some_and(|before| before.has_content_of(after)) => {
                self.root.set_executable(path, after.is_executable())?;
            }
            Some(after) if here && was_database && after.is_database() => {
                self.databases.put(path, after.content())?;
                self.root.set_executable(path, after.is_executable())?;
            }
            _ => {
                // A journal that stayed behind would be played into the new content.
                if was_database || is_database(after) {
                    self.remove_side_files(path)?;
                }
                match after {
                    None => self.root.remove(path)?,
                    Some(after) if after.mode == FileMode::Link => {
                        self.root.link(path, after.content())?;
                    }
                    Some(after) => self.root.write(path, after.content(), after.is_executable())?,
                }
            }
        }
        Ok(())
    }

    fn present(
        &self,
        path: &Path,
        before: Option<&Version<'_>>,
        after: Option<&Version<'_>>,
    ) -> Result<Present> {
        let mode = match self.root.stat(path).map(|stat| stat.mode()) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Present::Nothing),
            // A file or a link is on the way: nothing is at the path, and nothing can be.
            Err(error) if is_no_folder(&error) => {
                return Ok(if after.is_some() { Present::Other } else { Present::Nothing });
            }
            mode => mode?,
        };
        let sizes = [before, after].into_iter().flatten().map(|version| version.content().len());
        let limit = sizes.max().unwrap_or(0) as u64;
        let content = match mode & libc::S_IFMT {
            libc::S_IFDIR => return Ok(Present::Folder),
            libc::S_IFLNK => self.root.read_link(path)?,
            libc::S_IFREG => {
                // The bytes of a live database say nothing: what is recorded are images.
                let recorded = [before, after].into_iter().flatten().any(Version::is_database);
                if recorded && self.root.head(path, MAGIC.len() as u64)?.0 == MAGIC {
                    match self.databases.take(path, limit)? {
                        None => return Ok(Present::Other),
                        Some(image) => image,
                    }
                } else {
                    match self.root.read(path, limit) {
                        Err(error) if error.kind() == ErrorKind::FileTooLarge => {
                            return Ok(Present::Other);
                        }
                        read => read?.0,
                    }
                }
            }
            _ => return Ok(Present::Other),
        };
        let is = |version: Option<&Version<'_>>| {
            version
                .is_some_and(|version| version.mode == kind(mode) && version.content() == content)
        };
        Ok(match (is(after), is(before)) {
            (true, _) => Present::New,
            (false, true) => Present::Old,
            (false, false) => Present::Other,
        })
    }

    fn remove_side_files(&self, database: &Path) -> io::Result<()> {
        for end in SIDE_FILES {
            let path = beside(database, end);
            // What only has such a name is somebody's file.
            if !is_side_file(self.root, &path) {
                continue;
            }
            match self.root.remove(&path) {
                // None there, or none that SQLite would take for its own.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) if error.kind() == ErrorKind::IsADirectory => {}
                done => done?,
            }
        }
        Ok(())
    }

    /// Folders go with the last of what they held, as they are not in history themselves.
    fn remove_emptied_folders(&mut self, removed: &[&Difference]) {
        let folders: BTreeSet<_> =
            removed.iter().flat_map(|one| one.path.ancestors().skip(1)).collect();
        let gone = |folder: &&&Path| {
            !folder.as_os_str().is_empty() && !difference::is_folder(self.to, folder)
        };
        for folder in folders.iter().rev().filter(gone) {
            let Err(error) = self.root.remove_folder(folder) else { continue };
            let named = self.put.left_alone.iter().any(|(path, _)| path.starts_with(folder));
            // A file that is to take its place will be named instead.
            let wanted = difference::at(self.to, folder).is_some();
            if error.kind() == ErrorKind::DirectoryNotEmpty && !named && !wanted {
                self.put.left_alone.push((folder.to_path_buf(), HOLDS.to_owned()));
            }
        }
    }
}

/// What a tree has at a path.
struct Version<'a> {
    blob: Blob<'a>,
    mode: FileMode,
}

impl<'a> Version<'a> {
    fn read(repository: &'a Repository, entry: Option<Entry>) -> Result<Option<Self>> {
        let read = |(id, mode)| Ok(Self { blob: repository.find_blob(id)?, mode });
        entry.map(read).transpose().map_err(|error: git2::Error| error.into())
    }

    fn content(&self) -> &[u8] {
        self.blob.content()
    }

    fn is_executable(&self) -> bool {
        self.mode == FileMode::BlobExecutable
    }

    fn is_database(&self) -> bool {
        self.mode != FileMode::Link && is_database(self.content())
    }

    fn has_content_of(&self, other: &Self) -> bool {
        let links = [self, other].map(|version| version.mode == FileMode::Link);
        links == [false, false] && self.blob.id() == other.blob.id()
    }
}

/// Why a path can never be put back, whatever is there.
fn refusal(one: &Difference) -> Option<&'static str> {
    let mut parts = one.path.components();
    if parts.any(|part| part.as_os_str().eq_ignore_ascii_case(".git")) {
        return Some("git keeps such names for itself");
    }
    let mut kinds = [one.before, one.after].into_iter().flatten();
    let link = kinds.any(|(_, mode)| mode == FileMode::Commit);
    link.then_some("it is a link to another repository, whose files are not in this history")
}

fn kind(mode: u32) -> FileMode {
    match mode & libc::S_IFMT {
        libc::S_IFLNK => FileMode::Link,
        _ if mode & 0o100 != 0 => FileMode::BlobExecutable,
        _ => FileMode::Blob,
    }
}

fn is_no_folder(error: &io::Error) -> bool {
    error.kind() == ErrorKind::NotADirectory || error.raw_os_error() == Some(libc::ELOOP)
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::ffi::{CString, OsStr};
    use std::fs::{self, Permissions};
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use anyhow::ensure;
    use proptest::prelude::*;

    use super::*;
    use crate::organs::history::beneath::tests::STEPS_LEFT;
    use crate::organs::history::difference::tests::{Model, insert, models, repository, tree_of};

    fn path(bytes: &[u8]) -> &Path {
        Path::new(OsStr::from_bytes(bytes))
    }

    /// Made with nothing of what is tested.
    fn make(folder: &Path, model: &Model) {
        for (name, (mode, content)) in model {
            let file = folder.join(path(name));
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            if *mode == FileMode::Link {
                symlink(OsStr::from_bytes(content), file).unwrap();
            } else {
                fs::write(&file, content).unwrap();
                let mode = if *mode == FileMode::BlobExecutable { 0o755 } else { 0o644 };
                fs::set_permissions(&file, Permissions::from_mode(mode)).unwrap();
            }
        }
    }

    /// What is there, and the folders with nothing in them.
    fn found(folder: &Path) -> (Model, Vec<PathBuf>) {
        let (mut model, mut hollow) = (Model::new(), Vec::new());
        let mut folders = vec![PathBuf::new()];
        while let Some(inside) = folders.pop() {
            let items: Vec<_> = fs::read_dir(folder.join(&inside)).unwrap().collect();
            if items.is_empty() && inside != Path::new("") {
                hollow.push(inside.clone());
            }
            for item in items.into_iter().map(Result::unwrap) {
                let (name, stat) = (inside.join(item.file_name()), item.metadata().unwrap());
                let full = folder.join(&name);
                let file = match () {
                    () if stat.is_dir() => {
                        folders.push(name);
                        continue;
                    }
                    () if stat.is_symlink() => {
                        let target = fs::read_link(full).unwrap();
                        (FileMode::Link, target.as_os_str().as_bytes().to_vec())
                    }
                    () if stat.mode() & 0o100 != 0 => {
                        (FileMode::BlobExecutable, fs::read(full).unwrap())
                    }
                    () if stat.is_file() => (FileMode::Blob, fs::read(full).unwrap()),
                    () => (FileMode::Unreadable, Vec::new()),
                };
                model.insert(name.as_os_str().as_bytes().to_vec(), file);
            }
        }
        (model, hollow)
    }

    /// One database, which may be in use.
    #[derive(Default)]
    struct Fake {
        now: Vec<u8>,
        busy: bool,
        asked: RefCell<Vec<(PathBuf, Vec<u8>)>>,
    }

    impl Databases for Fake {
        fn take(&self, _: &Path, _: u64) -> Result<Option<Vec<u8>>> {
            Ok(Some(self.now.clone()))
        }

        fn put(&self, path: &Path, image: &[u8]) -> Result<()> {
            self.asked.borrow_mut().push((path.to_owned(), image.to_vec()));
            ensure!(!self.busy, "it is in use");
            Ok(())
        }
    }

    fn run(folder: &Path, repository: &Repository, from: &Model, to: &Model) -> Put {
        let (from, to) = (tree_of(repository, from), tree_of(repository, to));
        put(&Root::open(folder).unwrap(), repository, &from, &to, &Fake::default()).unwrap()
    }

    fn model(files: &[(&str, &str)]) -> Model {
        let files = files.iter();
        files
            .map(|(path, text)| {
                (path.as_bytes().to_vec(), (FileMode::Blob, text.as_bytes().to_vec()))
            })
            .collect()
    }

    fn mkfifo(path: &Path) {
        let path = CString::new(path.as_os_str().as_bytes()).unwrap();
        // SAFETY: the path ends in NUL.
        assert_eq!(unsafe { libc::mkfifo(path.as_ptr(), 0o600) }, 0);
    }

    /// What the history does not know, beside what it knows.
    fn bystanders() -> impl Strategy<Value = Vec<Vec<u8>>> {
        let names = ["", "a/", "a/a/", "b/", "a/b/"].map(|folder| format!("{folder}unknown"));
        let names = names.map(String::into_bytes);
        let over = [&b"a"[..], b"b/a", b"a/a/a"].map(<[u8]>::to_vec);
        prop::sample::subsequence([&names[..], &over[..]].concat(), 0..4)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn there_and_back_again(one in models(), other in models()) {
            let (_temp, repository) = repository();
            let folder = tempfile::tempdir().unwrap();
            make(folder.path(), &one);
            for (from, to) in [(&one, &other), (&other, &one)] {
                let put = run(folder.path(), &repository, from, to);
                prop_assert_eq!(put.left_alone, []);
                prop_assert_eq!(found(folder.path()), (to.clone(), vec![]));
            }
        }

        #[test]
        fn what_was_cut_off_is_finished_by_a_repeat(
            one in models(), other in models(), stops in prop::collection::vec(0..40usize, 1..4),
        ) {
            let (_temp, repository) = repository();
            let folder = tempfile::tempdir().unwrap();
            make(folder.path(), &one);
            for stop in stops {
                STEPS_LEFT.set(stop);
                let _ = catch_unwind(AssertUnwindSafe(|| run(folder.path(), &repository, &one, &other)));
                STEPS_LEFT.set(usize::MAX);
                // What the next start sweeps.
                for (name, _) in found(folder.path()).0 {
                    let file = folder.path().join(path(&name));
                    if file.extension().is_some_and(|end| end == "tmp") {
                        fs::remove_file(file).unwrap();
                    }
                }
            }
            let put = run(folder.path(), &repository, &one, &other);
            prop_assert_eq!(put.left_alone, []);
            prop_assert_eq!(found(folder.path()), (other.clone(), vec![]));
        }

        #[test]
        fn what_history_does_not_know_is_never_lost(
            one in models(), other in models(), bystanders in bystanders(), fifo in any::<bool>(),
        ) {
            let (_temp, repository) = repository();
            let folder = tempfile::tempdir().unwrap();
            let mut present = one.clone();
            let mut unknown = Vec::new();
            for name in bystanders {
                insert(&mut present, name.clone(), (FileMode::Blob, b"unknown to history".to_vec()));
                unknown.retain(|known| present.contains_key(known));
                unknown.push(name);
            }
            make(folder.path(), &present);
            if let Some(name) = unknown.first().filter(|_| fifo) {
                fs::remove_file(folder.path().join(path(name))).unwrap();
                mkfifo(&folder.path().join(path(name)));
                present.insert(name.clone(), (FileMode::Unreadable, Vec::new()));
            }
            let put = run(folder.path(), &repository, &one, &other);
            let now = found(folder.path()).0;
            for name in &unknown {
                prop_assert_eq!(now.get(name), present.get(name));
            }
            // Every path is as wanted, or named, itself or what is around it.
            for (name, file) in &other {
                let named = put.left_alone.iter().any(|(left, _)| path(name).starts_with(left));
                // A path that is the same in both trees is nobody's business here.
                let same = one.get(name) == Some(file);
                prop_assert!(named || same || now.get(name) == Some(file), "{:?}", path(name));
            }
        }
    }

    #[test]
    fn a_folder_swapped_for_a_link_leads_nowhere() {
        let (_temp, repository) = repository();
        let temp = tempfile::tempdir().unwrap();
        let (inside, outside) = (temp.path().join("inside"), temp.path().join("outside"));
        fs::create_dir(&inside).unwrap();
        let from = model(&[("a/b/old", "old"), ("a/b/gone", "gone"), ("c", "c")]);
        let to = model(&[("a/b/old", "new"), ("a/b/more", "more"), ("c", "d")]);
        for (at, target) in [("a", "../outside"), ("a/b", "../../outside/b")] {
            make(&inside, &from);
            make(&outside, &model(&[("b/old", "old"), ("b/gone", "gone")]));
            let before = found(&outside);
            fs::remove_dir_all(inside.join(at)).unwrap();
            symlink(target, inside.join(at)).unwrap();
            let put = run(&inside, &repository, &from, &to);
            assert_eq!(found(&outside), before);
            let left: Vec<_> = put.left_alone.iter().map(|(path, _)| path.as_path()).collect();
            assert_eq!(left, [Path::new("a/b/more"), Path::new("a/b/old")]);
            assert_eq!(fs::read(inside.join("c")).unwrap(), b"d");
            fs::remove_dir_all(&inside).unwrap();
            fs::create_dir(&inside).unwrap();
        }
        // One that history knows is replaced, and not written through.
        let mut linked = model(&[("c", "c")]);
        linked.insert(b"a".to_vec(), (FileMode::Link, b"../outside".to_vec()));
        make(&inside, &linked);
        let before = found(&outside);
        assert_eq!(run(&inside, &repository, &linked, &to).left_alone, []);
        assert_eq!((found(&outside), found(&inside).0), (before, to));
    }

    #[test]
    fn what_was_changed_a_moment_ago_is_named() {
        let (_temp, repository) = repository();
        let folder = tempfile::tempdir().unwrap();
        let from = model(&[
            ("edited", "old"),
            ("run", "old"),
            ("removed", "old"),
            ("keeps", "old"),
            ("dir/x", "x"),
        ]);
        let to = model(&[("edited", "new"), ("run", "new"), ("removed", "new"), ("keeps", "new")]);
        make(folder.path(), &from);
        let file = |name: &str| folder.path().join(name);
        fs::write(file("edited"), "newer, and longer than both").unwrap();
        fs::set_permissions(file("run"), Permissions::from_mode(0o755)).unwrap();
        fs::set_permissions(file("keeps"), Permissions::from_mode(0o640)).unwrap();
        fs::remove_file(file("removed")).unwrap();
        fs::write(file("dir/ignored"), "").unwrap();
        let put = run(folder.path(), &repository, &from, &to);
        let left = [("dir", HOLDS), ("edited", CHANGED), ("run", CHANGED)];
        assert_eq!(put.left_alone, left.map(|(path, why)| (path.into(), why.to_owned())));
        let done = [("dir/x", "removed"), ("keeps", "put back"), ("removed", "put back")];
        assert_eq!(put.done, done.map(|(path, what)| (path.into(), what)));
        assert_eq!(fs::metadata(file("keeps")).unwrap().mode() & 0o777, 0o640);
        assert_eq!(fs::read(file("removed")).unwrap(), b"new");
    }

    #[test]
    fn a_live_database_is_put_back_by_the_caller() {
        let (_temp, repository) = repository();
        let folder = tempfile::tempdir().unwrap();
        let image = |text: &str| format!("SQLite format 3\0{text}");
        let from = model(&[("changed", &image("1")), ("gone", &image("1")), ("text", &image("1"))]);
        let to = model(&[("changed", &image("2")), ("text", "words"), ("new", &image("1"))]);
        make(folder.path(), &from);
        let file = |name: &str| folder.path().join(name);
        for name in ["changed", "gone", "text", "new"] {
            for (end, head) in SIDE_FILES.into_iter().zip([&b"\x37\x7f\x06\x82"[..], b"", &[0; 9]])
            {
                fs::write(file(&format!("{name}{end}")), head).unwrap();
            }
        }
        // Only called like one.
        fs::write(file("gone-journal"), "dear diary").unwrap();
        fs::write(file("changed"), image("live")).unwrap();
        let (from, to) = (tree_of(&repository, &from), tree_of(&repository, &to));
        let root = Root::open(folder.path()).unwrap();
        for busy in [true, false] {
            let databases = Fake { now: image("1").into_bytes(), busy, asked: RefCell::default() };
            let put = put(&root, &repository, &from, &to, &databases).unwrap();
            let asked = databases.asked.into_inner();
            assert_eq!(asked, [(PathBuf::from("changed"), image("2").into_bytes())]);
            assert_eq!(put.left_alone.len(), usize::from(busy));
        }
        let mut now: Vec<_> = found(folder.path()).0.into_keys().collect();
        now.retain(|name| !name.starts_with(b"changed"));
        assert_eq!(now, [&b"gone-journal"[..], b"new", b"text"]);
        // What is in it now is nowhere in the history.
        let (now, busy) = (image("3").into_bytes(), false);
        let databases = Fake { now, busy, asked: RefCell::default() };
        let put = put(&root, &repository, &to, &from, &databases).unwrap();
        assert!(put.left_alone.contains(&("changed".into(), CHANGED.to_owned())));
        assert!(databases.asked.into_inner().is_empty());
        assert_eq!(fs::read_to_string(file("changed")).unwrap(), image("live"));
    }

    #[test]
    fn names_of_git_and_links_to_repositories_are_refused() {
        let entry = |mode| Some((git2::Oid::ZERO_SHA1, mode));
        let one =
            |path: &str, mode| Difference { path: path.into(), before: None, after: entry(mode) };
        assert!(refusal(&one("a/.Git/config", FileMode::Blob)).is_some());
        assert!(refusal(&one("a", FileMode::Commit)).is_some());
        assert!(refusal(&one("a/git", FileMode::Blob)).is_none());
    }
}
