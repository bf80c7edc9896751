//! Where two recorded trees differ, path by path, folders not counted.
//!
//! Costs what differs and not what exists: folders that are the same are not looked into.
//! Renames are a path that goes and one that comes. Knows neither workspace nor commits.

use std::cmp::Ordering;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::Result;
use git2::{Blob, DiffOptions, FileMode, ObjectType, Oid, Patch, Repository, Tree, TreeEntry};

/// Contents beyond this many bytes in all are not compared line by line.
const COUNTED_BYTES: usize = 20_000_000;

/// What a tree has at a path: content and kind.
pub type Entry = (Oid, FileMode);

/// One path at which two trees differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The path.
    pub path: PathBuf,
    /// What the first tree has there; nothing where it has nothing or a folder.
    pub before: Option<Entry>,
    /// What the second tree has there, likewise.
    pub after: Option<Entry>,
}

/// All paths at which two trees differ, sorted. A missing tree is an empty one.
pub fn differences(
    repository: &Repository,
    before: Option<&Tree<'_>>,
    after: Option<&Tree<'_>>,
) -> Result<Vec<Difference>> {
    let mut all = Vec::new();
    let ids = [before, after].map(|tree| tree.map(Tree::id));
    if ids[0] != ids[1] {
        let mut folders = vec![(PathBuf::new(), ids)];
        while let Some((folder, ids)) = folders.pop() {
            within(repository, &folder, ids, &mut all, &mut folders)?;
        }
    }
    all.sort_unstable_by(|one, other| one.path.cmp(&other.path));
    Ok(all)
}

/// Where two trees of one folder differ, and which folders in it do. libgit2's own
/// comparison looks into every folder.
fn within(
    repository: &Repository,
    folder: &Path,
    ids: [Option<Oid>; 2],
    all: &mut Vec<Difference>,
    folders: &mut Vec<(PathBuf, [Option<Oid>; 2])>,
) -> Result<()> {
    let tree = |id: Option<Oid>| id.map(|id| repository.find_tree(id)).transpose();
    let [before, after] = [tree(ids[0])?, tree(ids[1])?];
    let [mut old, mut new] =
        [&before, &after].map(|tree| tree.iter().flat_map(Tree::iter).peekable());
    loop {
        let order = match (old.peek(), new.peek()) {
            (None, None) => return Ok(()),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(old), Some(new)) => place(old).cmp(place(new)),
        };
        let before = if order.is_le() { old.next() } else { None };
        let after = if order.is_ge() { new.next() } else { None };
        let Some(either) = before.as_ref().or(after.as_ref()) else { return Ok(()) };
        let path = folder.join(OsStr::from_bytes(either.name_bytes()));
        let is_folder = either.kind() == Some(ObjectType::Tree);
        let [before, after] =
            [&before, &after].map(|side| side.as_ref().map(|it| (it.id(), mode(it.filemode()))));
        if before == after {
            continue;
        }
        if is_folder {
            let ids = [before, after].map(|side| side.map(|(id, _)| id));
            folders.push((path, ids));
        } else {
            all.push(Difference { path, before, after });
        }
    }
}

/// What git sorts the entries of a tree by: a folder as if its name ended in a slash.
fn place<'a>(entry: &'a TreeEntry<'_>) -> impl Iterator<Item = u8> + 'a {
    let slash = (entry.kind() == Some(ObjectType::Tree)).then_some(b'/');
    entry.name_bytes().iter().copied().chain(slash)
}

/// Lines added and removed; of binary and very large contents none.
pub fn count_lines(repository: &Repository, all: &[Difference]) -> Result<(usize, usize)> {
    let odb = repository.odb()?;
    let contents = all.iter().flat_map(|one| [one.before, one.after]).flatten();
    let sizes = contents.filter_map(|(id, _)| odb.read_header(id).ok().map(|(size, _)| size));
    if sizes.sum::<usize>() > COUNTED_BYTES {
        return Ok((0, 0));
    }
    let mut options = DiffOptions::new();
    options.context_lines(0);
    let mut counted = (0, 0);
    for one in all {
        // What is not in here is another repository's.
        let blob = |side: Option<Entry>| side.and_then(|(id, _)| repository.find_blob(id).ok());
        let [old, new] = [one.before, one.after].map(blob);
        let [old, new] = [&old, &new].map(|blob| blob.as_ref().map_or(&[][..], Blob::content));
        let (_, added, removed) =
            Patch::from_buffers(old, None, new, None, Some(&mut options))?.line_stats()?;
        counted = (counted.0 + added, counted.1 + removed);
    }
    Ok(counted)
}

/// What a tree has at a path; nothing where it has nothing or a folder.
pub fn at(tree: &Tree<'_>, path: &Path) -> Option<Entry> {
    let found = tree.get_path(path).ok()?;
    let mode = mode(found.filemode());
    (found.kind() != Some(ObjectType::Tree)).then_some((found.id(), mode))
}

/// Whether a tree has a folder at a path.
pub fn is_folder(tree: &Tree<'_>, path: &Path) -> bool {
    tree.get_path(path).is_ok_and(|found| found.kind() == Some(ObjectType::Tree))
}

/// The kinds of entries as history has them; those of other tools' old ones are files.
pub fn mode(recorded: i32) -> FileMode {
    let kinds = [FileMode::Tree, FileMode::BlobExecutable, FileMode::Link, FileMode::Commit];
    kinds.into_iter().find(|kind| i32::from(*kind) == recorded).unwrap_or(FileMode::Blob)
}

#[cfg(test)]
pub mod tests {
    use std::collections::BTreeMap;

    use git2::build::TreeUpdateBuilder;
    use proptest::prelude::*;

    use super::*;

    /// What a tree or a folder holds: path, kind, content.
    pub type Model = BTreeMap<Vec<u8>, (FileMode, Vec<u8>)>;

    pub fn repository() -> (tempfile::TempDir, Repository) {
        let temp = tempfile::tempdir().unwrap();
        let repository = Repository::init_bare(temp.path()).unwrap();
        (temp, repository)
    }

    pub fn tree_of<'a>(repository: &'a Repository, model: &Model) -> Tree<'a> {
        let mut builder = TreeUpdateBuilder::new();
        for (path, (mode, content)) in model {
            builder.upsert(path.as_slice(), repository.blob(content).unwrap(), *mode);
        }
        let empty = repository.treebuilder(None).unwrap().write().unwrap();
        let empty = repository.find_tree(empty).unwrap();
        repository.find_tree(builder.create_updated(repository, &empty).unwrap()).unwrap()
    }

    pub fn model_of(repository: &Repository, tree: Oid) -> Model {
        let mut model = Model::new();
        let mut folders = vec![(Vec::new(), tree)];
        while let Some((prefix, id)) = folders.pop() {
            for entry in &repository.find_tree(id).unwrap() {
                let path = [&prefix[..], entry.name_bytes()].concat();
                if entry.kind() == Some(git2::ObjectType::Tree) {
                    folders.push(([&path[..], b"/"].concat(), entry.id()));
                } else {
                    let content = repository.find_blob(entry.id()).unwrap().content().to_vec();
                    model.insert(path, (mode(entry.filemode()), content));
                }
            }
        }
        model
    }

    /// Few names, so that files and folders are often in each other's place.
    pub fn models() -> impl Strategy<Value = Model> {
        let name = prop_oneof![
            4 => Just(&b"a"[..]),
            3 => Just(&b"b"[..]),
            1 => Just(&b"a-b"[..]),
            1 => Just(&b"A"[..]),
            1 => Just(&b"a.b"[..]),
            1 => Just(&b"\xff odd\n\"name"[..]),
        ];
        let path = prop::collection::vec(name, 1..5).prop_map(|parts| parts.join(&b'/'));
        let deep = Just("d/".repeat(60).into_bytes().into_iter().chain(*b"d").collect::<Vec<_>>());
        let text = prop_oneof![Just(String::new()), Just("one\n".into()), "[a-c\n]{0,9}"];
        let text = text.prop_map(String::into_bytes);
        let target = prop_oneof![Just("nowhere"), Just("a"), Just(".."), Just("/etc/passwd")];
        let file = prop_oneof![
            4 => text.clone().prop_map(|text| (FileMode::Blob, text)),
            2 => text.prop_map(|text| (FileMode::BlobExecutable, text)),
            1 => target.prop_map(|target| (FileMode::Link, target.as_bytes().to_vec())),
        ];
        let path = prop_oneof![20 => path, 1 => deep];
        prop::collection::vec((path, file), 0..12).prop_map(|files| {
            let mut model = Model::new();
            for (path, file) in files {
                insert(&mut model, path, file);
            }
            model
        })
    }

    /// As a file system does it, with whatever is in the way removed.
    pub fn insert(model: &mut Model, path: Vec<u8>, file: (FileMode, Vec<u8>)) {
        let within = |inner: &[u8], outer: &[u8]| {
            inner.starts_with(outer) && inner.get(outer.len()) == Some(&b'/')
        };
        model.retain(|other, _| !within(other, &path) && !within(&path, other));
        model.insert(path, file);
    }

    #[test]
    fn lines_are_counted_where_that_is_cheap_and_makes_sense() {
        let (_temp, repository) = repository();
        let of = |files: &[(&str, &[u8])]| {
            let file = |(path, content): &(&str, &[u8])| {
                (path.as_bytes().to_vec(), (FileMode::Blob, content.to_vec()))
            };
            tree_of(&repository, &files.iter().map(file).collect())
        };
        let counted = |old: Option<&Tree<'_>>, new: &Tree<'_>| {
            let all = differences(&repository, old, Some(new)).unwrap();
            (all.len(), count_lines(&repository, &all).unwrap())
        };
        let one = of(&[("text", b"1\n2\n"), ("binary", b"1\n\0\n")]);
        assert_eq!(counted(None, &one), (2, (2, 0)));
        let other = of(&[("text", b"2\n3\n4\n"), ("in/folder", b"1\n")]);
        assert_eq!(counted(Some(&one), &other), (3, (3, 1)));
        let huge = of(&[("huge", &vec![b'\n'; COUNTED_BYTES + 1])]);
        assert_eq!(counted(None, &huge), (1, (0, 0)));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn every_path_that_differs_is_named_and_no_other(one in models(), other in models()) {
            let (_temp, repository) = repository();
            let (before, after) = (tree_of(&repository, &one), tree_of(&repository, &other));
            prop_assert_eq!(&model_of(&repository, before.id()), &one);
            let mut model = one;
            let all = differences(&repository, Some(&before), Some(&after)).unwrap();
            let old = before;
            for Difference { path, before, after } in &all {
                prop_assert_ne!(before, after);
                prop_assert_eq!(at(&old, path), *before);
                let path = path.as_os_str().as_bytes();
                match after {
                    None => _ = model.remove(path),
                    Some((id, mode)) => {
                        let content = repository.find_blob(*id).unwrap().content().to_vec();
                        model.insert(path.to_vec(), (*mode, content));
                    }
                }
            }
            prop_assert_eq!(model, other);
        }
    }
}
