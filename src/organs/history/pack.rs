//! Keeps the history small: moves objects from files of their own into packs.
//!
//! Owns when and how that is done, beside snapshots and the owner's git. The invariant: no
//! object is removed anywhere that is not in a pack which is safely on the disk. What
//! nothing refers to stays where it is. A pack is made in a folder of our own and moved
//! into place complete, so that what a killed packing leaves is told from what the
//! owner's git is just making. Does not know what the objects mean.

use std::collections::{BTreeSet, HashSet};
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use git2::{Config, ConfigLevel, ObjectType, Oid, Repository};

/// So many objects of their own are worth packing: a hundred turns and more.
const LOOSE: u64 = 5_000;
/// So many bytes are, too: a database of 10 MB takes a few each time one row changes.
const LOOSE_BYTES: u64 = 64 * 1024 * 1024;
/// Of the 256 folders of objects only every so many is counted.
const SAMPLE: usize = 8;
/// With more packs than this, looking something up takes long: all become one.
const PACKS: usize = 16;
/// What finding similar objects may take of memory: ten contents are compared at a time.
const CONFIG: &str = "[pack]\n\twindowMemory = 67108864\n";

/// What was packed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Packed {
    /// Objects in the new pack.
    pub objects: usize,
    /// Its size.
    pub bytes: u64,
}

/// Whether packing pays. An estimate that takes about a millisecond.
pub fn needed(git_dir: &Path) -> bool {
    let (mut count, mut bytes) = (0, 0);
    for number in (0..256).step_by(SAMPLE) {
        let folder = git_dir.join(format!("objects/{number:02x}"));
        for item in fs::read_dir(folder).into_iter().flatten().flatten() {
            count += 1;
            bytes += item.metadata().map_or(0, |stat| stat.len());
        }
    }
    let all = SAMPLE as u64;
    count * all > LOOSE || bytes * all > LOOSE_BYTES
}

/// Bytes of all objects on disk, and how many are not packed.
pub fn size(git_dir: &Path) -> Result<(u64, usize)> {
    let store = git_dir.join("objects");
    let (mut bytes, mut loose) = (0, 0);
    for folder in
        fs::read_dir(&store).with_context(|| format!("cannot list {}", store.display()))?
    {
        let folder = folder?;
        // What is no folder, or is packed away meanwhile, has no files.
        for file in fs::read_dir(folder.path()).into_iter().flatten().flatten() {
            bytes += file.metadata().map_or(0, |stat| stat.len());
            loose += usize::from(folder.file_name().len() == 2);
        }
    }
    Ok((bytes, loose))
}

/// Pack what has come since the last time, or everything when there are many packs. Blocks
/// for seconds; one at a time, by whoever holds the host lock.
pub fn pack(git_dir: &Path) -> Result<Packed> {
    let packing = Packing::open(git_dir)?;
    packing.clean()?;
    let old = packing.old_packs()?;
    let new = packing.build(&old)?;
    if let Some(new) = &new {
        packing.publish(new)?;
    }
    packing.sweep()?;
    if let Some(new) = &new {
        packing.retire(&old, new)?;
    }
    packing.clean()?;
    Ok(new.map_or_else(Packed::default, |new| new.packed))
}

/// Remove what a killed packing left. The caller holds the host lock.
pub fn clean(git_dir: &Path) -> Result<()> {
    Packing::open(git_dir)?.clean()
}

/// The folders that packing works on.
struct Packing {
    git_dir: PathBuf,
    objects: PathBuf,
    packs: PathBuf,
    /// Where a pack is made, and where one that is given up has its index put first.
    aside: PathBuf,
}

/// A pack that was made.
struct New {
    /// Its files' name without the ending.
    name: String,
    packed: Packed,
    /// Whether it is to stand for the packs there were.
    is_all: bool,
}

impl Packing {
    fn open(git_dir: &Path) -> Result<Self> {
        let objects = git_dir.join("objects");
        let packs = objects.join("pack");
        let making = || format!("cannot make the folder {}", packs.display());
        fs::create_dir_all(&packs).with_context(making)?;
        let aside = git_dir.join("packing");
        Ok(Self { git_dir: git_dir.to_owned(), objects, packs, aside })
    }

    fn clean(&self) -> Result<()> {
        for path in list(&self.aside)? {
            let Some(name) = stem_of(&path, "idx") else { continue };
            // Ours, and without an index: half moved, in whichever direction.
            if !self.file(&name, "idx").exists() {
                remove(&self.file(&name, "pack"))?;
            }
        }
        removed(&self.aside, fs::remove_dir_all(&self.aside))
    }

    /// Names of the packs that are there, but for those that somebody wants kept.
    fn old_packs(&self) -> Result<BTreeSet<String>> {
        let mut names = self.all_packs()?;
        names
            .retain(|name| !["keep", "promisor"].iter().any(|kept| self.file(name, kept).exists()));
        Ok(names)
    }

    fn all_packs(&self) -> Result<BTreeSet<String>> {
        let files = list(&self.packs)?;
        let names = files.iter().filter_map(|file| stem_of(file, "pack"));
        Ok(names.filter(|name| self.file(name, "idx").exists()).collect())
    }

    /// Make a pack aside. None when there is nothing to pack.
    fn build(&self, old: &BTreeSet<String>) -> Result<Option<New>> {
        let building = || format!("cannot pack the history {}", self.git_dir.display());
        fs::create_dir_all(&self.aside).with_context(building)?;
        let repository = self.repository().with_context(building)?;
        // The tips first: all that they refer to is there when the objects are listed.
        let tips = tips(&repository).with_context(building)?;
        let loose: HashSet<Oid> = self.loose()?.into_iter().map(|(id, _)| id).collect();
        let is_all = old.len() > PACKS;
        let make = || -> Result<Option<New>> {
            let mut builder = repository.packbuilder()?;
            let mut walk = repository.revwalk()?;
            for tip in &tips {
                // A broken reference is no reason to let the history grow.
                let Ok(object) = repository.find_object(*tip, None) else { continue };
                if object.kind() == Some(ObjectType::Tag) && (is_all || loose.contains(tip)) {
                    builder.insert_object(*tip, None)?;
                }
                if let Ok(commit) = object.peel_to_commit() {
                    walk.push(commit.id())?;
                }
            }
            if !is_all {
                for id in packed_border(&repository, &tips, &loose)? {
                    walk.hide(id)?;
                }
            }
            builder.insert_walk(&mut walk)?;
            if is_all {
                for name in old {
                    for id in Index::read(&self.file(name, "idx"))?.ids() {
                        builder.insert_object(id, None)?;
                    }
                }
            }
            if builder.object_count() == 0 {
                return Ok(None);
            }
            builder.write(&self.aside, 0o444)?;
            let name = builder.name()?.context("the new pack has no name")?;
            let name = format!("pack-{name}");
            let bytes = self.aside.join(format!("{name}.pack")).metadata()?.len();
            let packed = Packed { objects: builder.object_count(), bytes };
            Ok(Some(New { name, packed, is_all }))
        };
        make().with_context(building)
    }

    /// Move a pack to where git finds it.
    fn publish(&self, new: &New) -> Result<()> {
        // The index last: a pack without one is not looked at.
        for ending in ["pack", "idx"] {
            let made = self.aside.join(format!("{}.{ending}", new.name));
            sync(&made)?;
            rename(&made, &self.file(&new.name, ending))?;
        }
        sync(&self.packs)
    }

    /// Remove files of objects that a pack holds. Those of a killed packing are among them.
    fn sweep(&self) -> Result<()> {
        let mut packs = Vec::new();
        for name in self.all_packs()? {
            sync(&self.file(&name, "pack"))?;
            sync(&self.file(&name, "idx"))?;
            packs.push(Index::read(&self.file(&name, "idx"))?);
        }
        sync(&self.packs)?;
        let loose = self.loose()?.into_iter();
        let mut packed = loose.filter(|(id, _)| packs.iter().any(|pack| pack.holds(*id)));
        packed.try_for_each(|(_, path)| remove(&path))
    }

    /// Give up packs that a new one stands for.
    fn retire(&self, old: &BTreeSet<String>, new: &New) -> Result<()> {
        if !new.is_all {
            return Ok(());
        }
        let all = Index::read(&self.file(&new.name, "idx"))?;
        for name in old.iter().filter(|name| **name != new.name) {
            if !Index::read(&self.file(name, "idx"))?.ids().all(|id| all.holds(id)) {
                continue;
            }
            // An index over several packs would promise what is gone.
            remove(&self.packs.join("multi-pack-index"))?;
            let index = self.aside.join(format!("{name}.idx"));
            rename(&self.file(name, "idx"), &index)?;
            for ending in ["pack", "rev", "bitmap", "mtimes"] {
                remove(&self.file(name, ending))?;
            }
            remove(&index)?;
        }
        Ok(())
    }

    /// A handle of its own, with a limit to the memory it takes.
    fn repository(&self) -> Result<Repository> {
        let limits = self.aside.join("config");
        fs::write(&limits, CONFIG)?;
        let repository = Repository::open_bare(&self.git_dir)?;
        let mut config = Config::new()?;
        config.add_file(&self.git_dir.join("config"), ConfigLevel::Local, false)?;
        config.add_file(&limits, ConfigLevel::App, false)?;
        repository.set_config(&config)?;
        Ok(repository)
    }

    /// Objects that have a file of their own.
    fn loose(&self) -> Result<Vec<(Oid, PathBuf)>> {
        let mut loose = Vec::new();
        for number in 0..256 {
            let start = format!("{number:02x}");
            let folder = self.objects.join(&start);
            for file in list(&folder)? {
                let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
                if name.len() == 38
                    && let Ok(id) = Oid::from_str(&format!("{start}{name}"))
                {
                    loose.push((id, file));
                }
            }
        }
        Ok(loose)
    }

    fn file(&self, name: &str, ending: &str) -> PathBuf {
        self.packs.join(format!("{name}.{ending}"))
    }
}

/// What branches, tags and a head without a branch point at.
fn tips(repository: &Repository) -> Result<BTreeSet<Oid>> {
    let mut tips = BTreeSet::new();
    for reference in repository.references()? {
        tips.extend(reference?.target());
    }
    tips.extend(repository.head().ok().and_then(|head| head.target()));
    Ok(tips)
}

/// The first packed commits on the ways back from the tips. What they refer to is packed.
fn packed_border(
    repository: &Repository,
    tips: &BTreeSet<Oid>,
    loose: &HashSet<Oid>,
) -> Result<Vec<Oid>> {
    let mut ahead = Vec::new();
    for tip in tips {
        let object = repository.find_object(*tip, None);
        ahead.extend(object.and_then(|object| object.peel_to_commit()).map(|commit| commit.id()));
    }
    let (mut seen, mut border) = (HashSet::new(), Vec::new());
    while let Some(id) = ahead.pop() {
        if !seen.insert(id) {
            continue;
        }
        if loose.contains(&id) {
            ahead.extend(repository.find_commit(id)?.parent_ids());
        } else {
            border.push(id);
        }
    }
    Ok(border)
}

/// The index of a pack, version 2: after 8 bytes a table of 256 running counts, by the
/// first byte of the ids; then the ids, sorted (gitformat-pack).
struct Index(Vec<u8>);

const TABLE: usize = 8;
const IDS: usize = TABLE + 256 * 4;
const ID: usize = 20;

impl Index {
    fn read(path: &Path) -> Result<Self> {
        let reading = || format!("cannot read {}", path.display());
        let index = Self(fs::read(path).with_context(reading)?);
        let is_ours = index.0.starts_with(b"\xfftOc\0\0\0\x02") && index.0.len() >= IDS;
        ensure!(
            is_ours && index.0.len() >= IDS + index.below(256) * ID,
            "{} is no pack index of version 2; make a new one with git index-pack",
            path.display()
        );
        Ok(index)
    }

    /// How many ids have a first byte below this.
    fn below(&self, first: usize) -> usize {
        let Some(at) = first.checked_sub(1).map(|before| TABLE + before * 4) else { return 0 };
        let bytes = self.0[at..].first_chunk().copied().unwrap_or_default();
        u32::from_be_bytes(bytes) as usize
    }

    fn all(&self) -> &[[u8; ID]] {
        self.0[IDS..IDS + self.below(256) * ID].as_chunks().0
    }

    fn holds(&self, id: Oid) -> bool {
        let first = usize::from(id.as_bytes()[0]);
        let ids = self.all().get(self.below(first)..self.below(first + 1)).unwrap_or_default();
        ids.binary_search_by(|other| other.as_slice().cmp(id.as_bytes())).is_ok()
    }

    fn ids(&self) -> impl Iterator<Item = Oid> {
        self.all().iter().filter_map(|id| Oid::from_bytes(id).ok())
    }
}

fn list(folder: &Path) -> Result<Vec<PathBuf>> {
    let items = match fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        items => items.and_then(|items| items.map(|item| Ok(item?.path())).collect()),
    };
    items.with_context(|| format!("cannot list {}", folder.display()))
}

fn stem_of(path: &Path, ending: &str) -> Option<String> {
    let name = path.file_name()?.to_str()?.strip_suffix(ending)?.strip_suffix('.')?;
    name.starts_with("pack-").then(|| name.to_owned())
}

fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to)
        .with_context(|| format!("cannot move {} to {}", from.display(), to.display()))
}

/// What is gone already needs no removal.
fn removed(path: &Path, done: io::Result<()>) -> Result<()> {
    match done {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        done => done.with_context(|| format!("cannot remove {}", path.display())),
    }
}

fn remove(path: &Path) -> Result<()> {
    removed(path, fs::remove_file(path))
}

/// Folders too: their entries.
fn sync(path: &Path) -> Result<()> {
    let synced = File::open(path).and_then(|file| file.sync_all());
    synced.with_context(|| format!("cannot sync {}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;

    use git2::build::TreeUpdateBuilder;
    use git2::{FileMode, Signature, Time};

    use super::*;
    use crate::organs::history::gitdir::GitDir;

    struct Home(tempfile::TempDir, Repository);

    impl Home {
        fn new() -> Self {
            let temp = tempfile::tempdir().unwrap();
            fs::create_dir(temp.path().join("workspace")).unwrap();
            let (_, repository) = GitDir::open(temp.path()).unwrap();
            Self(temp, repository)
        }

        fn path(&self) -> PathBuf {
            self.0.path().join("history.git")
        }

        fn packing(&self) -> Packing {
            Packing::open(&self.path()).unwrap()
        }

        fn commits(&self, count: usize) {
            (0..count).for_each(|_| {
                commit(&self.1).unwrap();
            });
        }

        fn loose(&self) -> usize {
            self.packing().loose().unwrap().len()
        }

        fn packs(&self) -> usize {
            self.packing().all_packs().unwrap().len()
        }

        fn git(&self, arguments: &[&str]) -> String {
            git(&self.path(), arguments)
        }

        /// So many commits are there, and all that they refer to can be read.
        fn holds(&self, commits: usize) {
            self.git(&["fsck", "--strict", "--full", "--no-dangling", "--no-progress"]);
            assert_eq!(self.git(&["rev-list", "--all", "--count"]).trim(), commits.to_string());
            for line in self.git(&["rev-list", "--all", "--objects"]).lines() {
                let id = Oid::from_str(&line[..40]).unwrap();
                self.1.find_object(id, None).unwrap();
            }
        }
    }

    fn git(git_dir: &Path, arguments: &[&str]) -> String {
        let mut git = Command::new("git");
        git.args(arguments).current_dir(git_dir).env("HOME", git_dir).env("GIT_DIR", git_dir);
        git.env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_CONFIG_GLOBAL", "/dev/null");
        let output = git.output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && errors.is_empty(), "git {arguments:?}: {errors}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// A commit that changes one of a few files.
    fn commit(repository: &Repository) -> Result<Oid> {
        let parent = repository.head().ok().and_then(|head| head.target());
        let parent = parent.map(|id| repository.find_commit(id)).transpose()?;
        let number = parent.as_ref().map_or(0, |parent| parent.time().seconds() + 1);
        let text: String =
            (0..40).map(|line| if line == number % 40 { "x\n" } else { "a line\n" }).collect();
        let blob = repository.blob(format!("{text}{}", fastrand::u64(..)).as_bytes())?;
        let tree = if let Some(parent) = &parent {
            let mut update = TreeUpdateBuilder::new();
            update.upsert(format!("folder{}/file", number % 7), blob, FileMode::Blob);
            update.create_updated(repository, &parent.tree()?)?
        } else {
            let mut builder = repository.treebuilder(None)?;
            builder.insert("first", blob, FileMode::Blob.into())?;
            builder.write()?
        };
        let tree = repository.find_tree(tree)?;
        let who = Signature::new("me", "me@x", &Time::new(number, 0))?;
        let parents: Vec<_> = parent.iter().collect();
        Ok(repository.commit(Some("HEAD"), &who, &who, "a change", &tree, &parents)?)
    }

    #[test]
    fn nothing_is_lost_and_only_news_are_packed() {
        let home = Home::new();
        assert_eq!(pack(&home.path()).unwrap(), Packed::default());
        home.commits(50);
        let unreachable = home.1.blob(b"nothing refers to this").unwrap();
        let before = home.loose();
        let packed = pack(&home.path()).unwrap();
        assert_eq!((packed.objects, home.loose()), (before - 1, 1));
        home.1.find_blob(unreachable).unwrap();
        home.holds(50);
        home.commits(10);
        // A commit, a tree, a folder's tree and a file.
        assert_eq!(pack(&home.path()).unwrap().objects, 40);
        assert_eq!(pack(&home.path()).unwrap(), Packed::default());
        assert_eq!(home.packs(), 2);
        home.holds(60);
    }

    #[test]
    fn many_packs_become_one_and_keep_what_nothing_refers_to() {
        let home = Home::new();
        home.commits(3);
        let head = home.1.head().unwrap().target().unwrap();
        let tagged = home.1.find_object(head, None).unwrap();
        let who = Signature::new("me", "me@x", &Time::new(1, 0)).unwrap();
        let tag = home.1.tag("a-tag", &tagged, &who, "said", false).unwrap();
        pack(&home.path()).unwrap();
        home.commits(2);
        let dropped = home.1.head().unwrap().target().unwrap();
        pack(&home.path()).unwrap();
        home.1.reference("refs/heads/main", head, true, "as the owner might").unwrap();
        for _ in 0..PACKS - 1 {
            home.commits(1);
            pack(&home.path()).unwrap();
        }
        home.git(&["multi-pack-index", "write", "--no-progress"]);
        home.commits(1);
        pack(&home.path()).unwrap();
        assert!(home.packs() == 1 && home.loose() == 0);
        home.1.find_commit(dropped).unwrap();
        home.1.find_tag(tag).unwrap();
        home.holds(3 + PACKS);
        assert!(!home.path().join("packing").exists());
    }

    #[test]
    fn a_pack_that_is_to_be_kept_is_kept() {
        let home = Home::new();
        for _ in 0..=PACKS + 1 {
            home.commits(1);
            pack(&home.path()).unwrap();
            let first = home.packing().all_packs().unwrap().into_iter().next().unwrap();
            fs::write(home.packing().file(&first, "keep"), "").unwrap();
        }
        let kept = home.packing().all_packs().unwrap();
        pack(&home.path()).unwrap();
        let mut kept = kept.iter().filter(|name| home.packing().file(name, "keep").exists());
        assert!(kept.clone().count() > 0);
        assert!(kept.all(|name| home.packing().file(name, "pack").exists()));
        home.holds(PACKS + 2);
    }

    #[test]
    fn a_kill_at_any_moment_loses_nothing_and_leaves_nothing() {
        for stage in 0..8_u8 {
            let home = Home::new();
            for _ in 0..=PACKS {
                home.commits(1);
                pack(&home.path()).unwrap();
            }
            home.commits(3);
            let commits = PACKS + 4;
            let packing = home.packing();
            let old = packing.old_packs().unwrap();
            let new = packing.build(&old).unwrap().unwrap();
            let some = old.iter().next().unwrap();
            let made = packing.aside.join(format!("{}.pack", new.name));
            match stage {
                0 => fs::write(packing.aside.join("pack_git2_half"), "half a pack").unwrap(),
                1 => {}
                2 => fs::rename(&made, packing.file(&new.name, "pack")).unwrap(),
                3.. => packing.publish(&new).unwrap(),
            }
            match stage {
                4 => fs::remove_file(&packing.loose().unwrap()[0].1).unwrap(),
                5.. => packing.sweep().unwrap(),
                _ => {}
            }
            let aside = packing.aside.join(format!("{some}.idx"));
            if stage >= 6 {
                fs::rename(packing.file(some, "idx"), aside).unwrap();
            }
            if stage >= 7 {
                fs::remove_file(packing.file(some, "pack")).unwrap();
            }
            clean(&home.path()).unwrap();
            home.holds(commits);
            assert!(!packing.aside.exists());
            let files = list(&packing.packs).unwrap();
            let complete = |file: &PathBuf| {
                file.with_extension("idx").exists() && file.with_extension("pack").exists()
            };
            assert!(files.iter().all(complete), "stage {stage}: {files:?}");
            home.commits(1);
            pack(&home.path()).unwrap();
            home.holds(commits + 1);
            assert_eq!(home.loose(), 0, "stage {stage}");
        }
    }

    #[test]
    fn a_pack_that_somebody_is_just_making_is_left_alone() {
        let home = Home::new();
        let packing = home.packing();
        fs::write(packing.packs.join("tmp_pack_x"), "").unwrap();
        fs::write(packing.file("pack-theirs", "pack"), "").unwrap();
        home.commits(3);
        pack(&home.path()).unwrap();
        assert!(packing.packs.join("tmp_pack_x").exists());
        assert!(packing.file("pack-theirs", "pack").exists());
    }

    #[test]
    fn writers_and_readers_go_on_meanwhile() {
        let home = Home::new();
        home.commits(30);
        let (over, path) = (AtomicBool::new(false), home.path());
        let written = thread::scope(|scope| {
            let writer = scope.spawn(|| {
                let repository = Repository::open_bare(&path).unwrap();
                let mut written = 0;
                while !over.load(Ordering::SeqCst) {
                    commit(&repository).unwrap();
                    written += 1;
                }
                written
            });
            scope.spawn(|| {
                while !over.load(Ordering::SeqCst) {
                    git(&path, &["log", "-p", "--all", "-n", "40"]);
                }
            });
            // More than once all packs become one.
            for _ in 0..2 * PACKS + 4 {
                let from = home.1.head().unwrap().target();
                while home.1.head().unwrap().target() == from {
                    thread::yield_now();
                }
                if let Err(error) = pack(&path) {
                    over.store(true, Ordering::SeqCst);
                    panic!("{error:#}");
                }
            }
            over.store(true, Ordering::SeqCst);
            writer.join().unwrap()
        });
        home.holds(30 + written);
        pack(&home.path()).unwrap();
        assert!(home.packs() <= PACKS + 1);
        home.holds(30 + written);
    }

    #[test]
    fn packing_is_needed_when_there_is_much() {
        let home = Home::new();
        assert!(!needed(&home.path()));
        for number in 0..=LOOSE * 2 {
            home.1.blob(&number.to_be_bytes()).unwrap();
        }
        assert!(needed(&home.path()));
    }
}
