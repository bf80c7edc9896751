//! Where two recorded trees differ, path by path, folders not counted.
//!
//! Costs what differs and not what exists: folders that are the same are not looked into.
//! Renames are a path that goes and one that comes. Knows neither workspace nor commits.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use git2::{DiffFile, DiffOptions, FileMode, ObjectType, Oid, Repository, Tree};

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

/// All paths at which two trees differ, sorted.
pub fn differences(
    repository: &Repository,
    before: &Tree<'_>,
    after: &Tree<'_>,
) -> Result<Vec<Difference>> {
    let mut options = DiffOptions::new();
    options.include_typechange(true);
    let diff = repository.diff_tree_to_tree(Some(before), Some(after), Some(&mut options))?;
    let each = diff.deltas().map(|delta| {
        let path = delta.new_file().path_bytes().or(delta.old_file().path_bytes());
        let path = PathBuf::from(OsStr::from_bytes(path.context("git names a change no path")?));
        let (before, after) = (entry(&delta.old_file()), entry(&delta.new_file()));
        Ok(Difference { path, before, after })
    });
    let mut all = each.collect::<Result<Vec<_>>>()?;
    all.sort_unstable_by(|one, other| one.path.cmp(&other.path));
    Ok(all)
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

fn entry(side: &DiffFile<'_>) -> Option<Entry> {
    let mode = match side.mode() {
        FileMode::BlobGroupWritable => FileMode::Blob,
        mode => mode,
    };
    side.exists().then_some((side.id(), mode))
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

    proptest! {
        #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn every_path_that_differs_is_named_and_no_other(one in models(), other in models()) {
            let (_temp, repository) = repository();
            let (before, after) = (tree_of(&repository, &one), tree_of(&repository, &other));
            prop_assert_eq!(&model_of(&repository, before.id()), &one);
            let mut model = one;
            let all = differences(&repository, &before, &after).unwrap();
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
