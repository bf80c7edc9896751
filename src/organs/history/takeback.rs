//! What the workspace would look like without some changes, or with those of a branch.
//!
//! Owns the three-way merge, path by path and line by line: what changed since stays
//! wherever it is not in the way. It is done here and not by git's own merge of trees,
//! which would read everything that exists, and look for attributes that a hand can write.
//! Plans only: the result is a tree in the repository. Does not know which changes are to
//! be taken back, nor how the workspace gets there.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail};
use git2::build::TreeUpdateBuilder;
use git2::{
    Commit, FileFavor, FileMode, MergeFileInput, MergeFileOptions, Oid, Repository, Tree,
    merge_file,
};

use crate::organs::history::ask::Favour;
use crate::organs::history::difference::{self, Difference, Entry, differences};

/// Git takes for binary what has a NUL among so many first bytes.
const TOLD_BY: usize = 8_000;
const STAYS: &str = "what is there now stays, since it was changed later";
const MARKED: &str = "both versions are in it between marks, to be edited";
const UNMARKABLE: &str = "what is there now stays, since marks are for text only";

/// What came of planning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plan {
    /// This can be done.
    Clean {
        /// The tree to go to.
        tree: Oid,
        /// Paths where what was wanted did not simply win, each with what came of it.
        left: Vec<(PathBuf, String)>,
    },
    /// Later changes are in the way, and it was not said what to favour.
    Conflicts {
        /// The tree that `Favour::Theirs` would lead to, to be shown and not to be used.
        wanted: Oid,
        /// Files and folders that are in the way.
        paths: BTreeSet<PathBuf>,
    },
}

/// The tree of `head` without what these commits changed, given latest first.
pub fn without(
    repository: &Repository,
    head: &Tree<'_>,
    commits: &[Commit<'_>],
    favour: Option<Favour>,
) -> Result<Plan> {
    let mut merge = Merge::new(repository, head, favour, "put back");
    // Commits in a row are taken back in one step, so that what only passed between them
    // is in nobody's way.
    let in_a_row = |newer: &Commit<'_>, older: &Commit<'_>| {
        newer.parent_id(0).is_ok_and(|parent| parent == older.id())
    };
    for row in commits.chunk_by(in_a_row) {
        let (Some(newest), Some(oldest)) = (row.first(), row.last()) else { continue };
        let before = match oldest.parent_count() {
            0 => empty(repository)?,
            _ => oldest.parent(0)?.tree()?,
        };
        merge.step(&newest.tree()?, &before)?;
    }
    merge.plan()
}

/// The tree of `ours` with what was changed from `base` to `theirs`.
pub fn merged(
    repository: &Repository,
    base: &Tree<'_>,
    ours: &Tree<'_>,
    theirs: &Tree<'_>,
    favour: Option<Favour>,
) -> Result<Plan> {
    let mut merge = Merge::new(repository, ours, favour, "brought in");
    merge.step(base, theirs)?;
    merge.plan()
}

/// The tree of `head` with these files and folders as they are in `from`; everything when
/// none is named.
pub fn with_paths(
    repository: &Repository,
    head: &Tree<'_>,
    from: &Tree<'_>,
    paths: &[PathBuf],
) -> Result<Oid> {
    let clean = paths.iter().map(|path| {
        path.components().filter(|part| *part != Component::CurDir).collect::<PathBuf>()
    });
    let wanted: BTreeSet<_> = clean.collect();
    if wanted.iter().all(|path| path.as_os_str().is_empty()) || wanted.contains(Path::new("")) {
        return Ok(from.id());
    }
    let inside = |path: &Path| path.ancestors().skip(1).any(|folder| wanted.contains(folder));
    let (mut gone, mut here) = (BTreeSet::new(), BTreeMap::new());
    for path in wanted.iter().filter(|path| !inside(path)) {
        let (now, then) = (head.get_path(path), from.get_path(path));
        if now.is_err() && then.is_err() {
            bail!(
                "cannot restore {}: it is neither in that commit nor in the latest one; look \
                 with `fledgling log` for one that has it",
                path.display()
            );
        }
        if now.is_ok() {
            gone.insert(path.clone());
        }
        if let Ok(then) = then {
            gone.extend(in_the_way(head, path));
            here.insert(path.clone(), (then.id(), difference::mode(then.filemode())));
        }
    }
    Ok(updated(repository, head, &gone, &here)?.id())
}

/// A merge in the making.
struct Merge<'a> {
    repository: &'a Repository,
    ours: &'a Tree<'a>,
    favour: Option<Favour>,
    /// What the second side of a marked conflict is called.
    label: &'static str,
    /// What is to be at the paths that were looked at, with the step that says so.
    wanted: BTreeMap<PathBuf, (usize, Option<Entry>)>,
    steps: usize,
    /// Where it was not clear what to do, with what came of it.
    unclear: BTreeMap<PathBuf, &'static str>,
}

impl<'a> Merge<'a> {
    fn new(
        repository: &'a Repository,
        ours: &'a Tree<'a>,
        favour: Option<Favour>,
        label: &'static str,
    ) -> Self {
        let (wanted, unclear) = (BTreeMap::new(), BTreeMap::new());
        Self { repository, ours, favour, label, wanted, steps: 0, unclear }
    }

    fn plan(mut self) -> Result<Plan> {
        let tree = self.tree()?;
        if self.favour.is_none() && !self.unclear.is_empty() {
            return Ok(Plan::Conflicts {
                wanted: tree.id(),
                paths: self.unclear.into_keys().collect(),
            });
        }
        let left = self.unclear.into_iter().filter(|(_, what)| !what.is_empty());
        let left = left.map(|(path, what)| (path, what.to_owned())).collect();
        Ok(Plan::Clean { tree: tree.id(), left })
    }

    /// One three-way merge, path by path.
    fn step(&mut self, base: &Tree<'_>, theirs: &Tree<'_>) -> Result<()> {
        self.steps += 1;
        for change in differences(self.repository, Some(base), Some(theirs))? {
            let now = match self.wanted.get(&change.path) {
                Some((_, now)) => *now,
                None => difference::at(self.ours, &change.path),
            };
            let result = self.path(&change, now).with_context(|| {
                format!("cannot merge the versions of {}", change.path.display())
            })?;
            if result != now {
                self.wanted.insert(change.path, (self.steps, result));
            }
        }
        Ok(())
    }

    /// The tree that is wanted. Whether a file and a folder collide shows only once all steps
    /// are made and all that goes is gone.
    fn tree(&mut self) -> Result<Tree<'a>> {
        let (mut gone, mut coming) = (BTreeSet::new(), Vec::new());
        for (path, (step, wanted)) in std::mem::take(&mut self.wanted) {
            match (wanted, difference::at(self.ours, &path)) {
                (wanted, now) if wanted == now => {}
                (Some(entry), _) => coming.push((step, path, entry)),
                (None, _) => _ = gone.insert(path),
            }
        }
        let between = updated(self.repository, self.ours, &gone, &BTreeMap::new())?;
        coming.sort_by_key(|(step, ..)| *step);
        let (mut collisions, mut here) = (BTreeSet::new(), BTreeMap::new());
        for (_, path, entry) in coming {
            let placed = in_its_way(&here, &path);
            let there = in_the_way(&between, &path).filter(|there| !collisions.contains(there));
            let wins = placed.iter().chain(&there).all(|found| self.theirs_wins(found, STAYS));
            if wins {
                for found in &placed {
                    here.remove(found);
                }
                collisions.extend(there);
                here.insert(path, entry);
            }
        }
        updated(self.repository, &between, &collisions, &here)
    }

    /// What is to be at a path.
    fn path(&mut self, change: &Difference, ours: Option<Entry>) -> Result<Option<Entry>> {
        let Difference { path, before: base, after: theirs } = change;
        if ours == *base {
            return Ok(*theirs);
        }
        if ours == *theirs {
            return Ok(ours);
        }
        if let (Some(ours), Some(theirs)) = (ours, *theirs)
            && let Some(result) = self.content(path, *base, ours, theirs)?
        {
            return Ok(Some(result));
        }
        let stays = if self.favour == Some(Favour::Marks) { UNMARKABLE } else { STAYS };
        Ok(if self.theirs_wins(path, stays) { *theirs } else { ours })
    }

    /// Name a path where it is not clear what to do. Says whether what is put back wins.
    fn theirs_wins(&mut self, path: &Path, otherwise: &'static str) -> bool {
        let wins = matches!(self.favour, None | Some(Favour::Theirs));
        self.unclear.insert(path.to_owned(), if wins { "" } else { otherwise });
        wins
    }

    /// A file from three versions, content and executable bit each by itself. Nothing when
    /// these cannot be merged.
    fn content(
        &mut self,
        path: &Path,
        base: Option<Entry>,
        ours: Entry,
        theirs: Entry,
    ) -> Result<Option<Entry>> {
        let versions = [base, Some(ours), Some(theirs)];
        if !versions.into_iter().flatten().all(|(_, mode)| is_file(mode)) {
            return Ok(None);
        }
        let mode = if Some(ours.1) == base.map(|base| base.1) { theirs.1 } else { ours.1 };
        let base = base.map(|base| base.0);
        if ours.0 == theirs.0 || base == Some(theirs.0) {
            return Ok(Some((ours.0, mode)));
        }
        if base == Some(ours.0) {
            return Ok(Some((theirs.0, mode)));
        }
        let read = |id| self.repository.find_blob(id);
        let (base, ours, theirs) = (base.map(read).transpose()?, read(ours.0)?, read(theirs.0)?);
        let base = base.as_ref().map_or(&[][..], |base| base.content());
        let versions = [base, ours.content(), theirs.content()];
        if versions.into_iter().any(is_binary) {
            return Ok(None);
        }
        let (clean, mut merged) = self.lines(versions, FileFavor::Normal)?;
        if !clean {
            let favour = match self.favour {
                None | Some(Favour::Theirs) => FileFavor::Theirs,
                Some(Favour::Ours) => FileFavor::Ours,
                Some(Favour::Marks) => FileFavor::Normal,
            };
            let marks = favour == FileFavor::Normal;
            self.theirs_wins(path, if marks { MARKED } else { STAYS });
            if !marks {
                merged = self.lines(versions, favour)?.1;
            }
        }
        Ok(Some((self.repository.blob(&merged)?, mode)))
    }

    fn lines(&self, versions: [&[u8]; 3], favour: FileFavor) -> Result<(bool, Vec<u8>)> {
        let mut options = MergeFileOptions::new();
        options.our_label("now").their_label(self.label).favor(favour);
        let [base, ours, theirs] = versions.map(|content| {
            let mut input = MergeFileInput::new();
            input.content(content);
            input
        });
        let result = merge_file(&base, &ours, &theirs, Some(&mut options))?;
        Ok((result.is_automergeable(), result.content().to_vec()))
    }
}

/// What has to go from a tree before something can be put at a path: a folder there, or a
/// file where a folder has to be.
fn in_the_way(tree: &Tree<'_>, path: &Path) -> Option<PathBuf> {
    if difference::is_folder(tree, path) {
        return Some(path.to_owned());
    }
    let mut folders = path.ancestors().skip(1).filter(|folder| *folder != Path::new(""));
    folders.find(|folder| difference::at(tree, folder).is_some()).map(Path::to_owned)
}

/// The same among files that are to come: what is a folder of a path, or lies beneath it.
fn in_its_way(here: &BTreeMap<PathBuf, Entry>, path: &Path) -> Vec<PathBuf> {
    let folders = path.ancestors().skip(1).filter(|folder| here.contains_key(*folder));
    let beneath = here.range(path.to_owned()..).map(|(one, _)| one);
    let beneath = beneath.take_while(|one| one.starts_with(path)).filter(|one| *one != path);
    folders.chain(beneath.map(PathBuf::as_path)).map(Path::to_owned).collect()
}

/// A tree with other content, after some of it is gone: git swaps no file for a folder in
/// one go.
fn updated<'a>(
    repository: &'a Repository,
    tree: &Tree<'_>,
    gone: &BTreeSet<PathBuf>,
    here: &BTreeMap<PathBuf, Entry>,
) -> Result<Tree<'a>> {
    let mut removal = TreeUpdateBuilder::new();
    // What goes with its folder must not be named beside it: that would bring the folder back.
    let stays = |path: &&PathBuf| !path.ancestors().skip(1).any(|folder| gone.contains(folder));
    for path in gone.iter().filter(stays) {
        removal.remove(path.as_path());
    }
    let between = repository.find_tree(removal.create_updated(repository, tree)?)?;
    let mut addition = TreeUpdateBuilder::new();
    for (path, (id, mode)) in here {
        addition.upsert(path.as_path(), *id, *mode);
    }
    Ok(repository.find_tree(addition.create_updated(repository, &between)?)?)
}

fn empty(repository: &Repository) -> Result<Tree<'_>> {
    Ok(repository.find_tree(repository.treebuilder(None)?.write()?)?)
}

fn is_file(mode: FileMode) -> bool {
    matches!(mode, FileMode::Blob | FileMode::BlobExecutable)
}

/// Databases are: their first 16 bytes end in NUL.
fn is_binary(content: &[u8]) -> bool {
    content[..content.len().min(TOLD_BY)].contains(&0)
}

#[cfg(test)]
mod tests {
    use git2::Signature;
    use proptest::prelude::*;

    use super::*;
    use crate::organs::history::difference::tests::{
        Model, insert, model_of, models, repository, tree_of,
    };

    /// Commits of these states, one on the other, latest first.
    fn history<'a>(repository: &'a Repository, states: &[Model]) -> Vec<Commit<'a>> {
        let somebody = Signature::now("somebody", "somebody@localhost").unwrap();
        let mut commits: Vec<Commit<'a>> = Vec::new();
        for state in states {
            let tree = tree_of(repository, state);
            let parents: Vec<_> = commits.first().into_iter().collect();
            let id = repository.commit(None, &somebody, &somebody, "m", &tree, &parents).unwrap();
            commits.insert(0, repository.find_commit(id).unwrap());
        }
        commits
    }

    fn model(files: &[(&str, &str)]) -> Model {
        let entry = |(path, text): &(&str, &str)| {
            (path.as_bytes().to_vec(), (FileMode::Blob, text.as_bytes().to_vec()))
        };
        files.iter().map(entry).collect()
    }

    fn clean(repository: &Repository, plan: Plan) -> (Model, Vec<(PathBuf, String)>) {
        match plan {
            Plan::Clean { tree, left } => (model_of(repository, tree), left),
            Plan::Conflicts { paths, .. } => panic!("{paths:?} are in the way"),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: 48, failure_persistence: None, ..ProptestConfig::default()
        })]

        #[test]
        fn without_the_latest_is_what_was_before(
            states in prop::collection::vec(models(), 2..6), count in 1..5usize,
        ) {
            let (_temp, repository) = repository();
            let commits = history(&repository, &states);
            let count = count.min(commits.len());
            let head = commits[0].tree().unwrap();
            let plan = without(&repository, &head, &commits[..count], None).unwrap();
            let before = states.iter().rev().nth(count).cloned().unwrap_or_default();
            let (all, left) = clean(&repository, plan);
            prop_assert_eq!((&all, left), (&before, vec![]));
            // And one by one.
            let mut tree = head;
            for commit in &commits[..count] {
                let plan = without(&repository, &tree, std::slice::from_ref(commit), None).unwrap();
                tree = tree_of(&repository, &clean(&repository, plan).0);
            }
            prop_assert_eq!(model_of(&repository, tree.id()), before);
        }

        #[test]
        fn undo_of_undo_is_redo(
            states in prop::collection::vec(models(), 2..6), which in 0..5usize,
            favour in prop::sample::select(vec![Favour::Theirs, Favour::Ours, Favour::Marks]),
        ) {
            let (_temp, repository) = repository();
            let commits = history(&repository, &states);
            let which = which % commits.len();
            let head = states.last().unwrap();
            let tree = commits[0].tree().unwrap();
            let plan = without(&repository, &tree, &commits[which..=which], Some(favour)).unwrap();
            let undone = clean(&repository, plan).0;
            let again = history(&repository, &[head.clone(), undone]);
            let plan = without(&repository, &again[0].tree().unwrap(), &again[..1], None).unwrap();
            prop_assert_eq!(clean(&repository, plan), (head.clone(), vec![]));
        }

        #[test]
        fn what_was_done_elsewhere_stays(
            one in models(), other in models(), later in models(), lines in 0..6usize,
        ) {
            let (_temp, repository) = repository();
            let into = |folder: &str, model: &Model| -> Model {
                let inside = |path: &[u8]| [folder.as_bytes(), b"/", path].concat();
                model.iter().map(|(path, file)| (inside(path), file.clone())).collect()
            };
            let text = |changed: &[usize]| {
                let line = |n| format!("{n}{}\n", if changed.contains(&n) { " changed" } else { "" });
                model(&[("text", &(0..20).map(line).collect::<String>())])
            };
            let state = |own: &Model, other: &Model, changed: &[usize]| -> Model {
                into("own", own).into_iter().chain(into("other", other)).chain(text(changed)).collect()
            };
            let states = [
                state(&one, &later, &[]),
                state(&other, &later, &[lines]),
                state(&other, &one, &[lines, lines + 10]),
            ];
            let commits = history(&repository, &states);
            let head = commits[0].tree().unwrap();
            let plan = without(&repository, &head, &commits[1..2], None).unwrap();
            let wanted = state(&one, &one, &[lines + 10]);
            prop_assert_eq!(clean(&repository, plan), (wanted.clone(), vec![]));
            // A branch brings the same.
            let trees = [&states[1], &states[2], &states[0]].map(|state| tree_of(&repository, state));
            let plan = merged(&repository, &trees[0], &trees[1], &trees[2], None).unwrap();
            prop_assert_eq!(clean(&repository, plan), (wanted, vec![]));
        }

        #[test]
        fn paths_come_back_and_the_rest_stays(head in models(), from in models(), all in models()) {
            let (_temp, repository) = repository();
            let trees = [&head, &from].map(|model| tree_of(&repository, model));
            let known = |path: &PathBuf| trees.iter().any(|tree| tree.get_path(path).is_ok());
            let paths = all.keys().filter_map(|path| Some(PathBuf::from(str::from_utf8(path).ok()?)));
            let paths: Vec<_> = paths.filter(known).collect();
            let result = with_paths(&repository, &trees[0], &trees[1], &paths).unwrap();
            let named = |path: &[u8]| {
                let path = String::from_utf8_lossy(path).into_owned();
                paths.is_empty() || paths.iter().any(|named| Path::new(&path).starts_with(named))
            };
            let mut wanted = head.clone();
            wanted.retain(|path, _| !named(path));
            for (path, file) in from.iter().filter(|(path, _)| named(path)) {
                insert(&mut wanted, path.clone(), file.clone());
            }
            prop_assert_eq!(model_of(&repository, result), wanted);
        }
    }

    /// The first commit wrote `text`, `image`, `swap` and `kept`; then these changed.
    fn collision(repository: &Repository) -> Vec<Commit<'_>> {
        let states = [
            model(&[
                ("text", "a\nb\nc\nd\ne\nf\n"),
                ("image", "\0 1"),
                ("swap", "s"),
                ("kept", "k"),
            ]),
            model(&[("text", "A\nb\nc\nd\ne\nF\n"), ("image", "\0 2"), ("kept", "k")]),
            model(&[
                ("text", "AA\nb\nc\nd\ne\nF\n"),
                ("image", "\0 3"),
                ("swap/in", "it"),
                ("kept", "l"),
            ]),
        ];
        history(repository, &states)
    }

    #[test]
    fn what_is_in_the_way_is_named_and_nothing_is_decided() {
        let (_temp, repository) = repository();
        let commits = collision(&repository);
        let head = commits[0].tree().unwrap();
        let Plan::Conflicts { wanted, paths } =
            without(&repository, &head, &commits[1..2], None).unwrap()
        else {
            panic!("three paths are in the way")
        };
        assert_eq!(paths, ["image", "swap", "text"].map(PathBuf::from).into());
        let theirs = without(&repository, &head, &commits[1..2], Some(Favour::Theirs)).unwrap();
        assert_eq!(theirs, Plan::Clean { tree: wanted, left: vec![] });
        assert_eq!(
            model_of(&repository, wanted),
            model(&[
                ("text", "a\nb\nc\nd\ne\nf\n"),
                ("image", "\0 1"),
                ("swap", "s"),
                ("kept", "l")
            ])
        );
    }

    #[test]
    fn the_present_or_marks_can_be_favoured() {
        let (_temp, repository) = repository();
        let commits = collision(&repository);
        let head = commits[0].tree().unwrap();
        let marks = "<<<<<<< now\nAA\n=======\na\n>>>>>>> put back\nb\nc\nd\ne\nf\n";
        for (favour, text, said, other) in [
            (Favour::Ours, "AA\nb\nc\nd\ne\nf\n", STAYS, STAYS),
            (Favour::Marks, marks, MARKED, UNMARKABLE),
        ] {
            let plan = without(&repository, &head, &commits[1..2], Some(favour)).unwrap();
            let left = [("image", other), ("swap", STAYS), ("text", said)];
            let left = left.map(|(path, what)| (path.into(), what.to_owned())).to_vec();
            let now = model(&[("text", text), ("image", "\0 3"), ("swap/in", "it"), ("kept", "l")]);
            assert_eq!(clean(&repository, plan), (now, left));
        }
    }

    #[test]
    fn a_path_that_never_was_is_an_error_with_its_name() {
        let (_temp, repository) = repository();
        let tree = tree_of(&repository, &model(&[("a/b", "")]));
        let error = with_paths(&repository, &tree, &tree, &["a".into(), "a/c".into()]);
        assert!(error.is_ok(), "what is inside of a named folder comes with it");
        let error = with_paths(&repository, &tree, &tree, &["a/c".into()]).unwrap_err();
        assert!(error.to_string().contains("a/c: it is neither"), "{error}");
        assert_eq!(with_paths(&repository, &tree, &tree, &["./".into()]).unwrap(), tree.id());
    }
}
