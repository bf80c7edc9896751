//! The history, read: what commits say, in what order, and which of them are taken back.
//!
//! Owns how a commit's message is understood and how a list of changes is made. Only what
//! the program itself committed has trailers that count; every other commit is the owner's.
//! Reads with a handle of its own and never writes. Does not know what is in the files.

use std::collections::HashSet;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result};
use git2::{Oid, Repository, Tree};
use jiff::{Timestamp, tz::TimeZone};

use crate::organs::history::archive::{CANCELS, COMMITTER, MAIN};
use crate::organs::history::ask::Logged;
use crate::organs::history::difference::{Difference, count_lines, differences};
use crate::organs::history::gitdir;
use crate::organs::history::snapshots::SHORT_ID;

/// The history of a home, open for reading.
pub struct Chronicle {
    repository: Repository,
    branch: String,
}

/// A commit and what it says.
#[derive(Debug, Clone)]
pub struct Entry<'a> {
    /// The commit itself.
    pub commit: git2::Commit<'a>,
    /// Its first line.
    pub subject: String,
    /// What stands below, without the trailers.
    pub body: String,
    /// The trailers in their order; none where somebody else committed.
    pub trailers: Vec<(String, String)>,
}

/// The first-parent history from a commit on, latest first, each entry with whether it is
/// taken back. Reads no further than it is asked to.
pub struct Walk<'a> {
    repository: &'a Repository,
    next: Option<Oid>,
    cancelled: HashSet<Oid>,
}

impl Chronicle {
    /// Open the history of the home in this folder, as its main branch has it.
    pub fn open(home: &Path) -> Result<Self> {
        Self::on(home, MAIN)
    }

    /// The same as another branch has it, which is named in full.
    pub fn on(home: &Path, branch: &str) -> Result<Self> {
        let (repository, branch) = (gitdir::look(&home.join("history.git"))?, branch.to_owned());
        Ok(Self { repository, branch })
    }

    /// The repository.
    pub fn repository(&self) -> &Repository {
        &self.repository
    }

    /// The latest commit of the branch, from which all walks begin.
    pub fn head(&self) -> Result<git2::Commit<'_>> {
        let head = self.repository.find_reference(&self.branch);
        let head = head.context("the history is empty: nothing has been committed yet")?;
        Ok(head.peel_to_commit()?)
    }

    /// The commit that somebody means.
    pub fn find(&self, rev: &str) -> Result<git2::Commit<'_>> {
        let found = self.repository().revparse_single(rev);
        let found = found.and_then(|object| object.peel_to_commit());
        let unknown = format!("no commit is named {rev:?}; `fledgling log` lists them");
        found.map_err(|error| anyhow::anyhow!("{unknown}: {}", error.message()))
    }

    /// All of the branch.
    pub fn walk(&self) -> Result<Walk<'_>> {
        Ok(self.walk_from(self.head()?.id()))
    }

    /// From this commit on, as if nothing had come after it.
    pub fn walk_from(&self, newest: Oid) -> Walk<'_> {
        let repository = self.repository();
        Walk { repository, next: Some(newest), cancelled: HashSet::new() }
    }

    /// The latest changes, or those of a file or folder, latest first.
    pub fn log(&self, limit: usize, path: Option<&Path>) -> Result<Vec<Logged>> {
        let walk = self.walk()?;
        let chosen: Box<dyn Iterator<Item = _>> = match path {
            Some(path) => Box::new(walk.changing(path)),
            None => Box::new(walk),
        };
        let logged = |step: Result<_>| step.and_then(|(entry, undone)| self.logged(&entry, undone));
        chosen.take(limit).map(logged).collect()
    }

    /// A commit as a list shows it.
    pub fn logged(&self, entry: &Entry<'_>, undone: bool) -> Result<Logged> {
        let commit = &entry.commit;
        let all = entry.differences(&self.repository)?;
        let (added, removed) = count_lines(&self.repository, &all)?;
        let text = |name| entry.trailer(name).map(str::to_owned);
        Ok(Logged {
            id: commit.id().to_string()[..SHORT_ID].to_owned(),
            when: local(commit.time().seconds()),
            who: entry.who().to_owned(),
            subject: entry.subject.clone(),
            files: all.len(),
            added,
            removed,
            tokens: text("Tokens"),
            cost: text("Cost"),
            turn: entry.turn().map(|(session, turn)| (session.to_owned(), turn)),
            undone,
        })
    }

    /// Which of these commits are taken back; what is not on the branch never is.
    pub fn undone(&self, mut wanted: HashSet<Oid>) -> Result<HashSet<Oid>> {
        let mut found = HashSet::new();
        for step in self.walk()? {
            let (entry, undone) = step?;
            let id = entry.commit.id();
            if wanted.remove(&id) && undone {
                found.insert(id);
            }
            if wanted.is_empty() {
                break;
            }
        }
        Ok(found)
    }
}

impl<'a> Entry<'a> {
    /// Understand a commit.
    pub fn read(commit: git2::Commit<'a>) -> Self {
        let message = String::from_utf8_lossy(commit.message_bytes()).into_owned();
        let (subject, rest) = message.split_once('\n').unwrap_or((&message, ""));
        let rest = rest.trim_matches('\n');
        let (body, last) = rest.rsplit_once("\n\n").unwrap_or(("", rest));
        // What others commit says nothing about turns.
        let ours = is_ours(&commit);
        let trailers = last.lines().map(trailer).collect::<Option<Vec<_>>>().filter(|_| ours);
        let body = if trailers.is_some() { body } else { rest };
        let (subject, body) = (subject.to_owned(), body.trim_end_matches('\n').to_owned());
        Self { commit, subject, body, trailers: trailers.unwrap_or_default() }
    }

    /// The first trailer of this name.
    pub fn trailer(&self, name: &str) -> Option<&str> {
        self.trailers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The session and the number of the turn it is of.
    pub fn turn(&self) -> Option<(&str, u64)> {
        self.trailer("Session").zip(self.trailer("Turn")?.parse().ok())
    }

    /// The commits that it takes back.
    pub fn cancels(&self) -> impl Iterator<Item = Oid> {
        let named = self.trailers.iter().filter(|(key, _)| CANCELS.contains(&key.as_str()));
        named.filter_map(|(_, id)| Oid::from_str(id).ok())
    }

    /// Whether it takes others back.
    pub fn takes_back(&self) -> bool {
        self.cancels().next().is_some()
    }

    /// In whose name it was made. What the owner asked for in a turn the agent did.
    pub fn who(&self) -> &str {
        match self.trailer("Origin") {
            Some("owner") if self.turn().is_some() && !self.takes_back() => "agent",
            None if !self.trailers.is_empty() => "unknown",
            origin => origin.unwrap_or("owner"),
        }
    }

    /// The origin of what was asked. What others committed is the owner's.
    pub fn who_asked(&self) -> &str {
        self.trailer("Origin").unwrap_or(if self.trailers.is_empty() { "owner" } else { "unknown" })
    }

    /// What it changed.
    pub fn differences(&self, repository: &Repository) -> Result<Vec<Difference>> {
        differences(repository, self.parent_tree()?.as_ref(), Some(&self.commit.tree()?))
    }

    /// The state before it; none for the very first.
    pub fn parent_tree(&self) -> Result<Option<Tree<'a>>> {
        let parent = self.commit.parents().next();
        Ok(parent.map(|parent| parent.tree()).transpose()?)
    }
}

impl<'a> Walk<'a> {
    /// Only the commits with which a file or folder changed. Compares what the trees say of
    /// it, each once, and never looks at contents.
    pub fn changing(self, path: &Path) -> impl Iterator<Item = Result<(Entry<'a>, bool)>> {
        let path = plain(path);
        // What the parent has of it is what the next commit has.
        let mut before = None;
        self.filter_map(move |step| {
            let kept = step.and_then(|(entry, undone)| {
                let now = match before.take() {
                    Some(known) => known,
                    None => item(&entry.commit.tree()?, &path),
                };
                let then = entry.parent_tree()?.and_then(|tree| item(&tree, &path));
                before = Some(then);
                Ok((now != then).then_some((entry, undone)))
            });
            kept.transpose()
        })
    }
}

impl<'a> Iterator for Walk<'a> {
    type Item = Result<(Entry<'a>, bool)>;

    fn next(&mut self) -> Option<Self::Item> {
        let id = self.next.take()?;
        let commit = match self.repository.find_commit(id) {
            Ok(commit) => commit,
            Err(error) => return Some(Err(error).with_context(|| format!("cannot read {id}"))),
        };
        self.next = commit.parent_id(0).ok();
        let entry = Entry::read(commit);
        let undone = self.cancelled.contains(&id);
        // What is taken back takes nothing back any more.
        if !undone {
            self.cancelled.extend(entry.cancels());
        }
        Some(Ok((entry, undone)))
    }
}

/// What a tree has at this plain path: content and mode.
pub fn item(tree: &Tree<'_>, path: &Path) -> Option<(Oid, i32)> {
    if path == Path::new("") {
        return Some((tree.id(), 0));
    }
    tree.get_path(path).ok().map(|entry| (entry.id(), entry.filemode()))
}

/// A path as trees know it: `./a//b/` is `a/b`.
pub fn plain(path: &Path) -> PathBuf {
    path.components().filter(|part| *part != Component::CurDir).collect()
}

fn trailer(line: &str) -> Option<(String, String)> {
    let (key, value) = line.split_once(':')?;
    let fine = |c: char| c.is_ascii_alphanumeric() || c == '-';
    let named = !key.is_empty() && key.chars().all(fine);
    named.then(|| (key.to_owned(), value.trim().to_owned()))
}

fn local(seconds: i64) -> String {
    let at = Timestamp::from_second(seconds).unwrap_or_default();
    at.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M").to_string()
}

/// Whether the program made a commit.
pub fn is_ours(commit: &git2::Commit<'_>) -> bool {
    commit.committer().email_bytes() == COMMITTER.as_bytes()
}

#[cfg(test)]
pub(in crate::organs) mod tests {
    use git2::{FileMode, Signature, Time};

    use super::*;
    use crate::organs::history::archive::{Archive, Author, Change, MAIN, Message};
    use crate::organs::history::gitdir::GitDir;

    /// A home with a history that tests write.
    pub struct Written {
        pub temp: tempfile::TempDir,
        pub archive: Archive,
    }

    impl Written {
        pub fn new() -> Self {
            let temp = tempfile::tempdir().unwrap();
            std::fs::create_dir(temp.path().join("workspace")).unwrap();
            let (_, repository) = GitDir::open(temp.path()).unwrap();
            Self { temp, archive: Archive::new(repository, MAIN, None) }
        }

        pub fn chronicle(&self) -> Chronicle {
            Chronicle::open(self.temp.path()).unwrap()
        }

        /// A change of the program's making; a path without content goes.
        pub fn commit(&self, files: &[(&str, Option<&[u8]>)], message: &Message) -> Oid {
            let change = |(path, content): &(&str, Option<&[u8]>)| {
                let store = |content: &[u8]| self.archive.repository().blob(content).unwrap();
                let now = content.map(|content| (store(content), FileMode::Blob));
                Change { path: path.into(), now }
            };
            let changes: Vec<_> = files.iter().map(change).collect();
            let head = self.archive.head().unwrap();
            let made = self.archive.commit(head.as_ref(), None, &changes, Author::Agent, message);
            made.unwrap().unwrap().id
        }

        /// A turn that the owner asked for.
        pub fn turn(&self, turn: u64, files: &[(&str, Option<&[u8]>)]) -> Oid {
            self.commit(files, &message(&format!("ask {turn}"), turn, &[]))
        }

        /// What undoes or redoes others: back to the tree before the last of them.
        pub fn back(&self, word: &'static str, cancelled: &[Oid]) -> Oid {
            let repository = self.archive.repository();
            let last = repository.find_commit(*cancelled.last().unwrap()).unwrap();
            let tree = last.parent(0).unwrap().tree().unwrap();
            let mut message = Message { subject: word.to_owned(), ..Message::default() };
            message.trailers = vec![("Origin", "owner".to_owned())];
            message.trailers.extend(cancelled.iter().map(|id| (word, id.to_string())));
            let head = self.archive.head().unwrap().unwrap();
            let now = head.tree().unwrap();
            let diff = repository.diff_tree_to_tree(Some(&now), Some(&tree), None).unwrap();
            let change = |delta: git2::DiffDelta<'_>| {
                let file = delta.new_file();
                let now = Some((file.id(), file.mode())).filter(|(id, _)| !id.is_zero());
                Change { path: file.path().unwrap().to_owned(), now }
            };
            let changes: Vec<_> = diff.deltas().map(change).collect();
            let made = self.archive.commit(Some(&head), None, &changes, Author::Agent, &message);
            made.unwrap().unwrap().id
        }

        /// A commit of somebody's plain git, on the main branch, with this tree.
        pub fn foreign(&self, text: &str, tree: &Tree<'_>, parents: &[Oid]) -> Oid {
            let repository = self.archive.repository();
            let me = Signature::new("me", "me@x", &Time::new(1_700_000_000, 60)).unwrap();
            let parents: Vec<_> =
                parents.iter().map(|id| repository.find_commit(*id).unwrap()).collect();
            let parents: Vec<_> = parents.iter().collect();
            let id = repository.commit(None, &me, &me, text, tree, &parents).unwrap();
            repository.reference("refs/heads/main", id, true, "").unwrap();
            id
        }

        pub fn tree(&self, id: Oid) -> Tree<'_> {
            self.archive.repository().find_commit(id).unwrap().tree().unwrap()
        }
    }

    pub fn message(subject: &str, turn: u64, more: &[(&'static str, &str)]) -> Message {
        let mut trailers = vec![
            ("Session", "main".to_owned()),
            ("Turn", turn.to_string()),
            ("Origin", "owner".to_owned()),
        ];
        trailers.extend(more.iter().map(|(key, value)| (*key, (*value).to_owned())));
        Message { subject: subject.to_owned(), body: String::new(), trailers }
    }

    fn undone(chronicle: &Chronicle) -> Vec<Oid> {
        let steps = chronicle.walk().unwrap().map(Result::unwrap);
        steps.filter(|(_, undone)| *undone).map(|(entry, _)| entry.commit.id()).collect()
    }

    #[test]
    fn only_trailers_of_our_own_at_the_end_count() {
        let written = Written::new();
        let mut told = message("Turn: 9", 1, &[("Cost", "0.01 USD"), ("Tokens", "1 in, 2 out")]);
        told.body = "Done.\n\nSession: other\nTurn: 7\nOrigin: owner\n\n".to_owned();
        let first = written.commit(&[("a", Some(b"1\n2\n"))], &told);
        let forged = "Mine\n\nwords\n\nSession: main\nTurn: 1\nOrigin: job:x";
        let second = written.foreign(forged, &written.tree(first), &[first]);
        let chronicle = written.chronicle();
        let entry = Entry::read(chronicle.find(&first.to_string()[..7]).unwrap());
        assert_eq!(entry.subject, "> Turn: 9");
        assert_eq!(entry.body, "Done.\n\n> Session: other\n> Turn: 7\n> Origin: owner");
        assert_eq!((entry.turn(), entry.who()), (Some(("main", 1)), "agent"));
        let entry = Entry::read(chronicle.find(&second.to_string()).unwrap());
        assert_eq!((entry.turn(), entry.who()), (None, "owner"));
        assert_eq!(entry.body, forged.split_once("\n\n").unwrap().1);
        let log = chronicle.log(5, None).unwrap();
        let [mine, turn] = log.as_slice() else { panic!("{log:?}") };
        assert_eq!((mine.who.as_str(), mine.files, mine.when.len()), ("owner", 0, 16));
        assert_eq!((turn.files, turn.added, turn.removed), (1, 2, 0));
        assert_eq!(turn.turn, Some(("main".to_owned(), 1)));
        assert_eq!(turn.tokens.as_deref(), Some("1 in, 2 out"));
        assert_eq!(turn.cost.as_deref(), Some("0.01 USD"));
        assert_eq!(turn.id, first.to_string()[..12]);
    }

    #[test]
    fn everybody_is_named() {
        let written = Written::new();
        let who = |trailers: &[(&'static str, &str)]| {
            let number = written.archive.head().unwrap().map_or(0, |head| head.id().as_bytes()[0]);
            let content = format!("{number}{trailers:?}");
            let trailers = trailers.iter().map(|(key, value)| (*key, (*value).to_owned()));
            let message = Message { trailers: trailers.collect(), ..message("x", 1, &[]) };
            let id = written.commit(&[("a", Some(content.as_bytes()))], &message);
            Entry::read(written.chronicle().find(&id.to_string()).unwrap()).who().to_owned()
        };
        let turn = [("Session", "main"), ("Turn", "3")];
        assert_eq!(who(&[("Origin", "owner")]), "owner");
        assert_eq!(who(&[turn[0], turn[1], ("Origin", "owner")]), "agent");
        assert_eq!(who(&[turn[0], turn[1], ("Origin", "job:tidy")]), "job:tidy");
        assert_eq!(who(&[turn[0], turn[1], ("Origin", "agent:bob")]), "agent:bob");
        assert_eq!(who(&[turn[0], turn[1], ("Origin", "unknown")]), "unknown");
        let id = "1".repeat(40);
        assert_eq!(who(&[turn[0], turn[1], ("Origin", "owner"), ("Undoes", &id)]), "owner");
        assert_eq!(who(&[("End", "failed")]), "unknown");
    }

    #[test]
    fn an_undo_of_an_undo_of_an_undo() {
        let written = Written::new();
        written.turn(1, &[("a", Some(b"1\n"))]);
        let second = written.turn(2, &[("a", Some(b"2\n"))]);
        let third = written.turn(3, &[("a", Some(b"3\n"))]);
        assert_eq!(undone(&written.chronicle()), []);
        let undo = written.back("Undoes", &[third, second]);
        assert_eq!(undone(&written.chronicle()), [third, second]);
        let redo = written.back("Redoes", &[undo]);
        assert_eq!(undone(&written.chronicle()), [undo]);
        let again = written.back("Undoes", &[redo]);
        assert_eq!(undone(&written.chronicle()), [redo, third, second]);
        written.back("Redoes", &[again]);
        let chronicle = written.chronicle();
        assert_eq!(undone(&chronicle), [again, undo]);
        let wanted = HashSet::from([undo, redo, second]);
        assert_eq!(chronicle.undone(wanted).unwrap(), HashSet::from([undo]));
        let log = chronicle.log(9, None).unwrap();
        let shown: Vec<_> = log.iter().map(|one| (one.who.as_str(), one.undone)).collect();
        let [mine, taken, turn] = [("owner", false), ("owner", true), ("agent", false)];
        assert_eq!(shown, [mine, taken, mine, taken, turn, turn, turn]);
    }

    #[test]
    fn a_merge_is_followed_on_its_first_side() {
        let written = Written::new();
        let root = written.turn(1, &[("a", Some(b"1\n"))]);
        let side = written.turn(2, &[("b/c", Some(b"1\n"))]);
        let both = written.tree(side);
        written.foreign("back", &written.tree(root), &[root]);
        let main = written.turn(3, &[("d", Some(b"1\n"))]);
        let merge = written.foreign("merge", &both, &[main, side]);
        let chronicle = written.chronicle();
        let subjects = |path: Option<&str>| -> Vec<String> {
            let log = chronicle.log(9, path.map(Path::new)).unwrap();
            log.into_iter().map(|one| one.subject).collect()
        };
        assert_eq!(subjects(None), ["merge", "ask 3", "back", "ask 1"]);
        assert_eq!(subjects(Some("./b/")), ["merge"]);
        assert_eq!(subjects(Some("a")), ["ask 1"]);
        assert_eq!(subjects(Some("d")), ["merge", "ask 3"]);
        assert_eq!(subjects(Some("never")), [""; 0]);
        assert_eq!(chronicle.head().unwrap().id(), merge);
        let error = format!("{:#}", chronicle.find("nothing").unwrap_err());
        assert!(error.starts_with("no commit is named \"nothing\"; `fledgling log`"), "{error}");
        assert!(chronicle.find("HEAD:a").is_err());
        assert_eq!(chronicle.find("HEAD~1").unwrap().id(), main);
    }

    #[test]
    fn a_walk_reads_no_further_than_it_is_asked_to() {
        let written = Written::new();
        written.turn(0, &[("old", Some(b"1\n"))]);
        for turn in 1..2_000_u64 {
            // Not flushed to the disk one by one, as turns are.
            let repository = written.archive.repository();
            let head = written.archive.head().unwrap().unwrap();
            let blob = repository.blob(turn.to_string().as_bytes()).unwrap();
            let mut update = git2::build::TreeUpdateBuilder::new();
            update.upsert("dir/new", blob, FileMode::Blob);
            let tree = update.create_updated(repository, &head.tree().unwrap()).unwrap();
            let tree = repository.find_tree(tree).unwrap();
            written.foreign(&format!("commit {turn}"), &tree, &[head.id()]);
        }
        let chronicle = written.chronicle();
        assert_eq!(chronicle.walk().unwrap().count(), 2_000);
        assert_eq!(chronicle.log(3, Some(Path::new("dir"))).unwrap().len(), 3);
        let old = chronicle.log(3, Some(Path::new("old"))).unwrap();
        assert_eq!(old.iter().map(|one| one.subject.as_str()).collect::<Vec<_>>(), ["ask 0"]);
        // What lies below is not even there.
        let lost = chronicle.find("HEAD~9").unwrap().id().to_string();
        let object = format!("history.git/objects/{}/{}", &lost[..2], &lost[2..]);
        std::fs::remove_file(written.temp.path().join(object)).unwrap();
        let chronicle = written.chronicle();
        assert_eq!(chronicle.log(9, None).unwrap().len(), 9);
        assert!(chronicle.log(10, None).is_err());
    }

    #[test]
    fn an_empty_history_says_so() {
        let written = Written::new();
        let error = written.chronicle().log(1, None).unwrap_err().to_string();
        assert_eq!(error, "the history is empty: nothing has been committed yet");
    }
}
