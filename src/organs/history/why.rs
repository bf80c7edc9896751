//! Why a file or a line of it is as it is.
//!
//! Owns the way from a line to the commit that brought it, past undoing and redoing to
//! whoever wrote it first, and on to the words that asked for it. Looks only at what is
//! committed. Does not know who may read which transcript.

use std::cmp::Reverse;
use std::collections::HashSet;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use git2::{BlameOptions, Commit, ObjectType, Oid};

use crate::organs::history::ask::Reason;
use crate::organs::history::chronicle::{Chronicle, Entry, item, plain};
use crate::organs::history::compare::is_binary;
use crate::organs::history::exchange::Exchange;
use crate::organs::home::Home;

/// Commits that are told of one file.
const REASONS: usize = 5;
/// Undos in a row that are followed.
const FOLLOWED: usize = 16;
/// The mode of a link in a tree.
const LINK: i32 = 0o120_000;

/// Lines that came with one commit.
struct Brought {
    commit: Oid,
    /// What the file was called in it.
    path: PathBuf,
    /// None where what is told is the last change of the whole.
    lines: usize,
}

/// Who asked for a line of a file and what for; without a line, who for most of them, most
/// lines first. Of what has no lines, or is gone, the last change is told.
pub fn why(
    chronicle: &Chronicle,
    home: &Home,
    file: &Path,
    line: Option<usize>,
    full: bool,
) -> Result<Vec<Reason>> {
    let file = plain(file);
    let head = chronicle.head()?.id();
    let content = text(chronicle, head, &file)?.filter(|content| !content.is_empty());
    let brought = if let Some(content) = content {
        let count = lines(&content).len();
        if let Some(line) = line {
            let shown = file.display();
            ensure!((1..=count).contains(&line), "{shown} has lines 1 to {count}, not {line}");
        }
        let wanted = line.map_or(1..=count, |line| line..=line);
        in_order(chronicle, by_lines(chronicle, head, &file, wanted, FOLLOWED)?)?
    } else {
        let last = last_change(chronicle, head, &file, FOLLOWED)?;
        let unknown = || {
            format!("{} was never in the history; `fledgling log` tells what is", file.display())
        };
        vec![last.with_context(unknown)?]
    };
    let undone = chronicle.undone(brought.iter().map(|one| one.commit).collect())?;
    brought.iter().map(|one| reason(chronicle, home, one, &undone, full)).collect()
}

/// One for each commit, most lines first, then the latest.
fn in_order(chronicle: &Chronicle, brought: Vec<Brought>) -> Result<Vec<Brought>> {
    let mut together: Vec<(i64, Brought)> = Vec::new();
    for one in brought {
        match together.iter_mut().find(|(_, known)| known.commit == one.commit) {
            Some((_, known)) => known.lines += one.lines,
            None => together.push((commit(chronicle, one.commit)?.time().seconds(), one)),
        }
    }
    together.sort_by_key(|(time, one)| Reverse((one.lines, *time)));
    Ok(together.into_iter().take(REASONS).map(|(_, one)| one).collect())
}

/// Which commits brought these lines of a file, as it was in `newest`.
fn by_lines(
    chronicle: &Chronicle,
    newest: Oid,
    file: &Path,
    wanted: RangeInclusive<usize>,
    follow: usize,
) -> Result<Vec<Brought>> {
    let mut options = BlameOptions::new();
    options.newest_commit(newest).min_line(*wanted.start()).max_line(*wanted.end());
    let blame = chronicle.repository().blame_file(file, Some(&mut options));
    let blame = blame.with_context(|| format!("cannot trace the lines of {}", file.display()))?;
    let mut found = Vec::new();
    for hunk in blame.iter() {
        let (commit, lines) = (hunk.final_commit_id(), hunk.lines_in_hunk());
        let path = hunk.path().unwrap_or(file).to_owned();
        let first = hunk.orig_start_line() - 1;
        match put_back(chronicle, commit, &path, first, lines, follow)? {
            Some(earlier) => found.extend(earlier),
            None => found.push(Brought { commit, path, lines }),
        }
    }
    Ok(found)
}

/// Who brought lines first that came back with this commit, if it took something back and
/// they stood together before that.
fn put_back(
    chronicle: &Chronicle,
    id: Oid,
    path: &Path,
    first: usize,
    count: usize,
    follow: usize,
) -> Result<Option<Vec<Brought>>> {
    let before = before_undone(chronicle, &Entry::read(commit(chronicle, id)?));
    if before.is_empty() || follow == 0 {
        return Ok(None);
    }
    let now = text(chronicle, id, path)?.unwrap_or_default();
    let now = lines(&now);
    let Some(block) = now.get(first..first + count) else { return Ok(None) };
    for before in before {
        let then = text(chronicle, before, path)?.unwrap_or_default();
        let then = lines(&then);
        let same = then.windows(count).enumerate().filter(|(_, lines)| *lines == block);
        if let Some((at, _)) = same.min_by_key(|(at, _)| at.abs_diff(first)) {
            return by_lines(chronicle, before, path, at + 1..=at + count, follow - 1).map(Some);
        }
    }
    Ok(None)
}

/// The commit with which a path became what it is in `newest`, past those that only put it
/// back.
fn last_change(
    chronicle: &Chronicle,
    newest: Oid,
    path: &Path,
    follow: usize,
) -> Result<Option<Brought>> {
    let Some(step) = chronicle.walk_from(newest).changing(path).next() else { return Ok(None) };
    let (entry, _) = step?;
    let now = item(&entry.commit.tree()?, path);
    let before = if follow == 0 { Vec::new() } else { before_undone(chronicle, &entry) };
    for before in before {
        if item(&commit(chronicle, before)?.tree()?, path) == now
            && let Some(earlier) = last_change(chronicle, before, path, follow - 1)?
        {
            return Ok(Some(earlier));
        }
    }
    Ok(Some(Brought { commit: entry.commit.id(), path: path.to_owned(), lines: 0 }))
}

/// The commits to whose state an undo led back, as far as it did.
fn before_undone(chronicle: &Chronicle, entry: &Entry<'_>) -> Vec<Oid> {
    let undone = entry.cancels().filter_map(|id| chronicle.repository().find_commit(id).ok());
    undone.filter_map(|commit| commit.parent_id(0).ok()).collect()
}

fn reason(
    chronicle: &Chronicle,
    home: &Home,
    brought: &Brought,
    undone: &HashSet<Oid>,
    full: bool,
) -> Result<Reason> {
    let entry = Entry::read(commit(chronicle, brought.commit)?);
    let change = chronicle.logged(&entry, undone.contains(&brought.commit))?;
    let mut reason = Reason { change, lines: brought.lines, ..Reason::default() };
    let remark = match entry.turn().map(|(session, turn)| Exchange::read(home, session, turn)) {
        Some(Ok(exchange)) => {
            reason.asked = exchange.asked();
            (reason.call, reason.said) = exchange.touched(&brought.path);
            if full {
                reason.exchange = exchange.whole();
            }
            return Ok(reason);
        }
        Some(Err(error)) => {
            reason.asked = vec![entry.subject.clone()];
            format!("(Only the commit tells this: {error:#}.)")
        }
        None if entry.takes_back() => "Changes were taken back.".to_owned(),
        None if entry.who() == "owner" => "The owner changed this, not a turn.".to_owned(),
        None => "No turn is known that made this change.".to_owned(),
    };
    let said = format!("{}\n\n{remark}", entry.body);
    Ok(Reason { said: said.trim_start().to_owned(), ..reason })
}

fn commit(chronicle: &Chronicle, id: Oid) -> Result<Commit<'_>> {
    chronicle.repository().find_commit(id).with_context(|| format!("cannot read commit {id}"))
}

/// A file as a commit has it; nothing where it has none, or nothing that has lines.
fn text(chronicle: &Chronicle, id: Oid, file: &Path) -> Result<Option<Vec<u8>>> {
    let tree = commit(chronicle, id)?.tree()?;
    let Ok(entry) = tree.get_path(file) else { return Ok(None) };
    if entry.kind() != Some(ObjectType::Blob) || entry.filemode() == LINK {
        return Ok(None);
    }
    let blob = chronicle.repository().find_blob(entry.id())?;
    Ok(Some(blob.content().to_vec()).filter(|content| !is_binary(content)))
}

fn lines(content: &[u8]) -> Vec<&[u8]> {
    content.split_inclusive(|byte| *byte == b'\n').collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::kernel::event::{Changes, End};
    use crate::kernel::message::{Assistant, Block, Call, Incoming, Origin, Stop, Usage};
    use crate::kernel::session::{Header, Session};
    use crate::kernel::tool::Outcome;
    use crate::organs::history::archive::Message;
    use crate::organs::history::chronicle::tests::{Written, message};

    struct Told {
        written: Written,
        home: Home,
        session: Session,
    }

    impl Told {
        fn new() -> Self {
            let written = Written::new();
            let home = Home::resolve(Some(written.temp.path().to_owned())).unwrap();
            std::fs::create_dir(home.sessions()).unwrap();
            let header =
                Header { session: "main".to_owned(), root: home.workspace(), ..Header::default() };
            let session = Session::create(&home.transcript("main"), header).unwrap();
            Self { written, home, session }
        }

        fn ask(&mut self, text: &str, begin: bool) {
            let key = format!("{text}{begin}");
            let incoming =
                Incoming { key, origin: Origin::Owner, text: text.to_owned(), images: Vec::new() };
            self.session.record_user(incoming, begin).unwrap();
        }

        fn reply(&mut self, text: &str, calls: &[(&str, Value)], failed: bool) {
            let call = |(name, input): &(&str, Value)| {
                let (id, name, input) = ("call".to_owned(), (*name).to_owned(), input.clone());
                Block::Call(Call { id, name, input })
            };
            let mut blocks: Vec<_> = calls.iter().map(call).collect();
            blocks.insert(0, Block::Text(text.to_owned()));
            let (stop, model) = (Stop::End, "m".to_owned());
            let reply = Assistant { blocks, stop, model, usage: Usage::default() };
            for owed in self.session.record_reply(reply).unwrap() {
                let text = "1\n2\n3\n4\n5\n6".to_owned();
                let outcome = Outcome { text, error: failed, ..Outcome::default() };
                self.session.record_result(owed, &outcome).unwrap();
            }
        }

        fn end(&mut self) -> u64 {
            let (changes, usage) = (Changes::default(), Usage::default());
            self.session.record_end(End::Done, "", changes, usage).unwrap();
            self.session.turn()
        }

        fn why(&self, file: &str, line: Option<usize>) -> Result<Vec<Reason>> {
            why(&self.written.chronicle(), &self.home, Path::new(file), line, false)
        }

        /// The subjects of the commits that are told, with their lines.
        fn subjects(&self, file: &str, line: Option<usize>) -> Vec<(String, usize)> {
            let reasons = self.why(file, line).unwrap().into_iter();
            reasons.map(|reason| (reason.change.subject, reason.lines)).collect()
        }
    }

    fn said(subject: &str, lines: usize) -> (String, usize) {
        (subject.to_owned(), lines)
    }

    #[test]
    fn from_a_line_to_the_words_and_the_call() {
        let mut told = Told::new();
        told.ask("a tool please", true);
        let path = told.home.workspace().join("bin/tool").display().to_string();
        told.reply("First the tool.", &[("write", json!({"path": path, "content": "1"}))], false);
        told.ask("and quickly", false);
        told.reply("Oh.", &[("edit", json!({"path": "bin/tool", "edits": []}))], true);
        told.reply("Now I try.", &[("bash", json!({"command": "bin/tool\n--try"}))], false);
        told.reply("It works.", &[], false);
        let turn = told.end();
        told.ask("something else", true);
        told.reply("No.", &[], false);
        told.end();
        told.written.turn(turn, &[("bin/tool", Some(b"1\n"))]);
        let chronicle = told.written.chronicle();
        let reasons = why(&chronicle, &told.home, Path::new("./bin/tool"), Some(1), true).unwrap();
        let [reason] = reasons.as_slice() else { panic!("{reasons:?}") };
        assert_eq!(reason.asked, ["a tool please", "and quickly"]);
        assert_eq!(reason.call.as_deref(), Some(format!("write {path}").as_str()));
        assert_eq!((reason.said.as_str(), reason.lines), ("First the tool.", 1));
        let whole: Vec<_> =
            reason.exchange.iter().map(|(who, what)| format!("{who}: {what}")).collect();
        let result = "result: 1\n2\n3\n4\n… 2 more lines";
        let expected = [
            "owner: a tool please",
            "agent: First the tool.",
            &format!("write: {path}"),
            result,
            "owner: and quickly",
            "agent: Oh.",
            "edit: bin/tool",
            result,
            "agent: Now I try.",
            "bash: bin/tool --try",
            result,
            "agent: It works.",
        ];
        assert_eq!(whole, expected);
    }

    #[test]
    fn a_command_that_names_the_file_or_the_last_words() {
        let mut told = Told::new();
        told.ask("seed it", true);
        told.reply("", &[("bash", json!({"command": "seq 3 > data/list.txt"}))], false);
        told.reply("Seeded.", &[], false);
        let turn = told.end();
        let files = [("data/list.txt", Some(&b"1\n"[..])), ("unnamed", Some(b"2\n"))];
        told.written.turn(turn, &files);
        let reason = told.why("data/list.txt", None).unwrap().remove(0);
        assert_eq!(reason.call.as_deref(), Some("bash seq 3 > data/list.txt"));
        assert_eq!(reason.said, "Seeded.");
        let reason = told.why("unnamed", None).unwrap().remove(0);
        assert_eq!((reason.call, reason.said.as_str()), (None, "Seeded."));
    }

    #[test]
    fn without_a_transcript_the_commit_has_to_do() {
        let mut told = Told::new();
        told.ask("one", true);
        told.end();
        let missing = Message { body: "I did it.".to_owned(), ..message("do it", 7, &[]) };
        told.written.commit(&[("a", Some(b"1\n"))], &missing);
        let mut elsewhere = message("steal", 1, &[]);
        elsewhere.trailers[0].1 = "../main".to_owned();
        told.written.commit(&[("b", Some(b"1\n"))], &elsewhere);
        let reason = told.why("a", Some(1)).unwrap().remove(0);
        assert_eq!(reason.asked, ["do it"]);
        let expected =
            "I did it.\n\n(Only the commit tells this: the transcript of main has no turn 7.)";
        assert_eq!(reason.said, expected);
        let reason = told.why("b", Some(1)).unwrap().remove(0);
        assert!(reason.said.contains("bad session name"), "{}", reason.said);
    }

    #[test]
    fn the_owner_and_others_without_a_turn() {
        let told = Told::new();
        let root = told.written.turn(1, &[("a", Some(b"1\n")), ("b", Some(b"1\n"))]);
        let with = told.written.turn(2, &[("a", Some(b"1\n2\n"))]);
        told.written.foreign("mine\n\nbecause", &told.written.tree(with), &[root]);
        let reason = told.why("a", Some(2)).unwrap().remove(0);
        assert_eq!(reason.said, "because\n\nThe owner changed this, not a turn.");
        assert_eq!((reason.asked.len(), reason.change.who.as_str()), (0, "owner"));
        let trailers = vec![("Origin", "unknown".to_owned())];
        let unknown = Message { subject: "found".to_owned(), trailers, ..Message::default() };
        told.written.commit(&[("b", Some(b"2\n"))], &unknown);
        let reason = told.why("b", Some(1)).unwrap().remove(0);
        assert_eq!(reason.said, "No turn is known that made this change.");
    }

    #[test]
    fn most_lines_first_and_only_what_was_asked() {
        let told = Told::new();
        told.written.turn(1, &[("a", Some(b"1\n2\n3\n")), ("empty", Some(b""))]);
        told.written.turn(2, &[("a", Some(b"0\n1\n2\n3\n"))]);
        told.written.turn(3, &[("a", Some(b"0\n1\n2\n3\n4"))]);
        let all = [said("ask 1", 3), said("ask 3", 1), said("ask 2", 1)];
        let mut found = told.subjects("a", None);
        // These two may have been made in the same second.
        found[1..].sort_by(|left, right| right.cmp(left));
        assert_eq!(found, all);
        for (line, by) in [(1, 2), (2, 1), (4, 1), (5, 3)] {
            assert_eq!(told.subjects("a", Some(line)), [said(&format!("ask {by}"), 1)]);
        }
        for line in [0, 6] {
            let error = told.why("a", Some(line)).unwrap_err().to_string();
            assert_eq!(error, format!("a has lines 1 to 5, not {line}"));
        }
        assert_eq!(told.subjects("empty", None), [said("ask 1", 0)]);
        let error = told.why("never", None).unwrap_err().to_string();
        assert_eq!(error, "never was never in the history; `fledgling log` tells what is");
    }

    #[test]
    fn past_undo_and_redo_to_whoever_wrote_it() {
        let told = Told::new();
        told.written.turn(1, &[("a", Some(b"1\n2\n3\n")), ("store", Some(b"\x001"))]);
        let second = told.written.turn(2, &[("a", Some(b"1\n3\n")), ("store", Some(b"\x002"))]);
        let third = told.written.turn(3, &[("a", Some(b"top\n1\nmore\n3\n"))]);
        let undo = told.written.back("Undoes", &[third, second]);
        // What came back is theirs who wrote it.
        assert_eq!(told.subjects("a", Some(2)), [said("ask 1", 1)]);
        assert_eq!(told.subjects("a", None), [said("ask 1", 3)]);
        assert_eq!(told.subjects("store", None), [said("ask 1", 0)]);
        let redo = told.written.back("Redoes", &[undo]);
        assert_eq!(told.subjects("a", Some(3)), [said("ask 3", 1)]);
        assert_eq!(told.subjects("store", None), [said("ask 2", 0)]);
        told.written.back("Undoes", &[redo]);
        assert_eq!(told.subjects("a", Some(2)), [said("ask 1", 1)]);
        assert!(!told.why("a", Some(2)).unwrap()[0].change.undone);
        let gone = told.written.turn(4, &[("a", None)]);
        assert_eq!(told.subjects("a", None), [said("ask 4", 0)]);
        told.written.back("Undoes", &[gone]);
        assert_eq!(told.subjects("a", None), [said("ask 1", 3)]);
    }

    #[test]
    fn lines_of_a_merged_branch_are_the_branchs() {
        let told = Told::new();
        let root = told.written.turn(1, &[("a", Some(b"1\n"))]);
        let side = told.written.turn(2, &[("a", Some(b"1\n2\n"))]);
        let both = told.written.tree(side);
        told.written.foreign("back", &told.written.tree(root), &[root]);
        let main = told.written.turn(3, &[("d", Some(b"1\n"))]);
        told.written.foreign("merge", &both, &[main, side]);
        assert_eq!(told.subjects("a", Some(2)), [said("ask 2", 1)]);
        assert_eq!(told.subjects("a", Some(1)), [said("ask 1", 1)]);
    }
}
