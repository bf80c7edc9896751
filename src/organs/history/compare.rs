//! What differs between two trees, file by file, for somebody to read.
//!
//! Owns what counts as text, as a database and as too much. Attributes have no say in it: a
//! hand could hide its changes with them. Knows no workspace: what lies there now has to be
//! a tree first.

use std::collections::HashSet;
use std::path::Path;

use anyhow::{Context, Result};
use git2::{DiffOptions, FileMode, Oid, Patch, Repository, Tree};

use crate::organs::history::ask::{Content, FileDiff, Hunk, Shown};
use crate::organs::history::chronicle::{Chronicle, Entry, plain};
use crate::organs::history::difference::{self, Difference, differences};
use crate::organs::history::image::is_database;
use crate::organs::history::rows;

/// Text beyond this many bytes is not shown: nobody would read it.
const TEXT_BYTES: usize = 1_000_000;
/// Neither are more changed lines of one file than this.
const FILE_LINES: usize = 5_000;
/// Nor any further file once the lines shown are this many: an answer has to be carried.
const ALL_LINES: usize = 50_000;
/// Rows of a table that are listed.
const ROWS: usize = 200;
/// Unchanged lines around a change.
const AROUND: u32 = 3;
/// A zero byte among the first so many makes a content binary, as in git.
const LOOKED_AT: usize = 8_000;

/// A commit, and what changed with it.
pub fn show(chronicle: &Chronicle, rev: &str, path: Option<&Path>) -> Result<Shown> {
    let entry = Entry::read(chronicle.find(rev)?);
    let id = entry.commit.id();
    let undone = chronicle.undone(HashSet::from([id]))?.contains(&id);
    let (old, new) = (entry.parent_tree()?, entry.commit.tree()?);
    Ok(Shown {
        change: Some(chronicle.logged(&entry, undone)?),
        files: compare(chronicle.repository(), old.as_ref(), Some(&new), path)?,
        body: entry.body,
        trailers: entry.trailers,
    })
}

/// What differs between two states.
pub fn diff(
    chronicle: &Chronicle,
    from: Option<&Tree<'_>>,
    to: Option<&Tree<'_>>,
    path: Option<&Path>,
) -> Result<Shown> {
    let files = compare(chronicle.repository(), from, to, path)?;
    Ok(Shown { files, ..Shown::default() })
}

/// The files that differ between two trees, by path. A missing tree is an empty one.
pub fn compare(
    repository: &Repository,
    old: Option<&Tree<'_>>,
    new: Option<&Tree<'_>>,
    path: Option<&Path>,
) -> Result<Vec<FileDiff>> {
    let all = differences(repository, old, new).context("cannot compare two states")?;
    let path = path.map(plain).unwrap_or_default();
    let chosen = all.into_iter().filter(|one| one.path.starts_with(&path));
    let mut lines = 0;
    let file = |one: Difference| {
        let [old, new] =
            [one.before, one.after].map(|side| side.map(|at| self::side(repository, at)));
        let (old, new) = (old.transpose()?, new.transpose()?);
        let content = match (&old, &new) {
            (Some(old), Some(new)) if old.id == new.id => Content::Same,
            _ if lines > ALL_LINES => sizes(old.as_ref(), new.as_ref()),
            _ => content(old.as_ref(), new.as_ref())?,
        };
        if let Content::Text(hunks) = &content {
            lines += hunks.iter().map(|hunk| hunk.lines.len()).sum::<usize>();
        }
        Ok(FileDiff {
            path: one.path.to_string_lossy().into_owned(),
            was: old.map(|side| side.kind.to_owned()),
            is: new.map(|side| side.kind.to_owned()),
            content,
        })
    };
    chosen.map(file).collect()
}

/// Whether a content is binary, and thus nothing to read.
pub fn is_binary(content: &[u8]) -> bool {
    content[..content.len().min(LOOKED_AT)].contains(&0)
}

/// A file on one side of a comparison.
struct Side {
    id: Oid,
    kind: &'static str,
    content: Vec<u8>,
}

fn side(repository: &Repository, (id, mode): difference::Entry) -> Result<Side> {
    let kind = match mode {
        FileMode::BlobExecutable => "executable",
        FileMode::Link => "link",
        // Only the owner's git makes one.
        FileMode::Commit => "submodule",
        _ => "file",
    };
    let content = match mode {
        FileMode::Commit => format!("commit {id}\n").into_bytes(),
        _ => repository.find_blob(id)?.content().to_vec(),
    };
    Ok(Side { id, kind, content })
}

fn content(old: Option<&Side>, new: Option<&Side>) -> Result<Content> {
    let image = |side: &&Side| is_database(&side.content);
    let images = [old, new].map(|side| side.filter(image).map(|side| &*side.content));
    if images != [None, None] {
        let [before, after] = images;
        // One that is damaged is still worth its sizes.
        let tables = rows::compare(before, after, ROWS);
        return Ok(tables.map_or_else(|_| sizes(old, new), Content::Database));
    }
    let [before, after] = [old, new].map(|side| side.map_or(&[][..], |side| &side.content));
    let unreadable = |content: &[u8]| content.len() > TEXT_BYTES || is_binary(content);
    if unreadable(before) || unreadable(after) {
        return Ok(sizes(old, new));
    }
    Ok(text(before, after)?.map_or_else(|| sizes(old, new), Content::Text))
}

fn sizes(old: Option<&Side>, new: Option<&Side>) -> Content {
    let [old, new] = [old, new].map(|side| side.map_or(0, |side| side.content.len() as u64));
    Content::Binary { old, new }
}

/// The lines that differ, unless they are too many.
pub fn text(old: &[u8], new: &[u8]) -> Result<Option<Vec<Hunk>>> {
    let mut options = DiffOptions::new();
    options.context_lines(AROUND).force_text(true);
    // Without paths and without a repository, so that no attribute is asked for.
    let patch = Patch::from_buffers(old, None, new, None, Some(&mut options))?;
    let (_, added, removed) = patch.line_stats()?;
    if added + removed > FILE_LINES {
        return Ok(None);
    }
    let hunk = |index| {
        let (hunk, lines) = patch.hunk(index)?;
        let line = |number| {
            let line = patch.line_in_hunk(index, number)?;
            let content = line.content().strip_suffix(b"\n").unwrap_or(line.content());
            Ok((line.origin(), String::from_utf8_lossy(content).into_owned()))
        };
        // Besides lines there are remarks on a missing end of the last one.
        let shown = |line: &Result<_>| !matches!(line, Ok(('=' | '<' | '>', _)));
        let lines = (0..lines).map(line).filter(shown).collect::<Result<_>>()?;
        Ok(Hunk { start: (hunk.old_start(), hunk.new_start()), lines })
    };
    (0..patch.num_hunks()).map(hunk).collect::<Result<_>>().map(Some)
}

#[cfg(test)]
mod tests {
    use git2::build::TreeUpdateBuilder;

    use super::*;
    use crate::organs::history::chronicle::tests::Written;
    use crate::organs::history::image::MAGIC;

    type Item<'a> = (&'a str, &'a [u8], FileMode);

    fn tree<'a>(written: &'a Written, items: &[Item<'_>]) -> Tree<'a> {
        let repository = written.archive.repository();
        let empty = repository.treebuilder(None).unwrap().write().unwrap();
        let mut update = TreeUpdateBuilder::new();
        for (path, content, mode) in items {
            update.upsert(*path, repository.blob(content).unwrap(), *mode);
        }
        let empty = repository.find_tree(empty).unwrap();
        repository.find_tree(update.create_updated(repository, &empty).unwrap()).unwrap()
    }

    fn compared(old: &[Item<'_>], new: &[Item<'_>], path: Option<&str>) -> Vec<FileDiff> {
        let written = Written::new();
        let (old, new) = (tree(&written, old), tree(&written, new));
        let repository = written.archive.repository();
        compare(repository, Some(&old), Some(&new), path.map(Path::new)).unwrap()
    }

    fn one(old: &[u8], new: &[u8]) -> Content {
        let file = |content| [("f", content, FileMode::Blob)];
        compared(&file(old), &file(new), None).remove(0).content
    }

    fn shown(content: &Content) -> String {
        let Content::Text(hunks) = content else { panic!("{content:?}") };
        let lines = hunks.iter().flat_map(|hunk| &hunk.lines);
        lines.flat_map(|(mark, line)| [mark.to_string(), line.clone(), "|".to_owned()]).collect()
    }

    #[test]
    fn files_links_and_modes() {
        let old: [Item<'_>; 6] = [
            ("becomes", b"text\n", FileMode::Blob),
            ("dir/gone", b"1\n2\n", FileMode::Blob),
            ("dirty", b"same\n", FileMode::Blob),
            ("link", b"here", FileMode::Link),
            ("run", b"same\n", FileMode::Blob),
            ("swap", b"file\n", FileMode::Blob),
        ];
        let new: [Item<'_>; 6] = [
            ("becomes", b"target", FileMode::Link),
            ("dir/new", b"3\n", FileMode::BlobExecutable),
            ("dirty", b"same\n", FileMode::Blob),
            ("link", b"there", FileMode::Link),
            ("run", b"same\n", FileMode::BlobExecutable),
            ("swap/in", b"file\n", FileMode::Blob),
        ];
        let found = compared(&old, &new, None);
        let words: Vec<_> = found
            .iter()
            .map(|file| (file.path.as_str(), file.was.as_deref(), file.is.as_deref()))
            .collect();
        let expected = [
            ("becomes", Some("file"), Some("link")),
            ("dir/gone", Some("file"), None),
            ("dir/new", None, Some("executable")),
            ("link", Some("link"), Some("link")),
            ("run", Some("file"), Some("executable")),
            ("swap", Some("file"), None),
            ("swap/in", None, Some("file")),
        ];
        assert_eq!(words, expected);
        assert_eq!(shown(&found[0].content), "-text|+target|");
        assert_eq!(shown(&found[3].content), "-here|+there|");
        assert_eq!(found[4].content, Content::Same);
        let Content::Text(hunks) = &found[2].content else { panic!() };
        assert_eq!(hunks[0].start, (0, 1));
        let paths = |path| -> Vec<String> {
            compared(&old, &new, Some(path)).into_iter().map(|file| file.path).collect()
        };
        assert_eq!(paths("./dir/"), ["dir/gone", "dir/new"]);
        assert_eq!(paths("dir"), ["dir/gone", "dir/new"]);
        assert_eq!(paths("d*"), [""; 0]);
        assert_eq!(paths(".").len(), 7);
    }

    #[test]
    fn lines_that_belong_together() {
        let numbers = |range: std::ops::Range<u32>| -> String {
            range.flat_map(|number| [number.to_string(), "\n".to_owned()]).collect()
        };
        let old = numbers(1..30);
        let new = old.replace("\n5\n", "\nfive\n").replace("\n25\n", "\n");
        let Content::Text(hunks) = one(old.as_bytes(), new.as_bytes()) else { panic!() };
        let starts: Vec<_> = hunks.iter().map(|hunk| hunk.start).collect();
        assert_eq!(starts, [(2, 2), (22, 22)]);
        assert_eq!(hunks[0].lines.len(), 8);
        assert_eq!(hunks[1].lines[3], ('-', "25".to_owned()));
        assert_eq!(shown(&one(b"a\r\nb", b"a\nb\n")), "-a\r|-b|+a|+b|");
        assert_eq!(shown(&one(b"\xff\n", b"")), "-\u{fffd}|");
    }

    #[test]
    fn what_nobody_would_read_is_told_by_its_size() {
        let sizes = |old: &[u8], new: &[u8]| {
            assert_eq!(
                one(old, new),
                Content::Binary { old: old.len() as u64, new: new.len() as u64 }
            );
        };
        sizes(b"text\n", b"a\0b");
        sizes(&vec![b'a'; TEXT_BYTES + 1], b"a");
        sizes(b"", "line\n".repeat(FILE_LINES + 1).as_bytes());
        // Damaged.
        sizes(MAGIC, b"text\n");
        assert!(matches!(one(b"", "line\n".repeat(FILE_LINES).as_bytes()), Content::Text(_)));
    }

    #[test]
    fn attributes_of_a_hand_hide_nothing() {
        let attributes: Item<'_> = (".gitattributes", b"* -diff\n", FileMode::Blob);
        let old = [attributes, ("f", &b"1\n"[..], FileMode::Blob)];
        let new = [attributes, ("f", &b"2\n"[..], FileMode::Blob)];
        assert_eq!(shown(&compared(&old, &new, None)[0].content), "-1|+2|");
    }

    #[test]
    fn a_commit_is_shown_against_its_first_parent() {
        let written = Written::new();
        let root = written.turn(1, &[("a", Some(b"1\n")), ("b", Some(b"1\n"))]);
        let second = written.turn(2, &[("a", Some(b"2\n")), ("b", None)]);
        written.back("Undoes", &[second]);
        let chronicle = written.chronicle();
        let first = show(&chronicle, &root.to_string(), None).unwrap();
        assert_eq!(first.files.len(), 2);
        assert_eq!(first.trailers[1], ("Turn".to_owned(), "1".to_owned()));
        let second = show(&chronicle, "HEAD~1", Some(Path::new("b"))).unwrap();
        let change = second.change.unwrap();
        assert_eq!((change.undone, change.files, change.subject.as_str()), (true, 2, "ask 2"));
        assert_eq!(shown(&second.files[0].content), "-1|");
        assert!(show(&chronicle, "HEAD~9", None).is_err());
        let (old, new) = (written.tree(root), chronicle.head().unwrap().tree().unwrap());
        assert_eq!(diff(&chronicle, Some(&old), Some(&new), None).unwrap(), Shown::default());
        assert_eq!(diff(&chronicle, None, Some(&new), None).unwrap().files.len(), 2);
    }
}
