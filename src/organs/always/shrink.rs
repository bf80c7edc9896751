//! Keeps what the agent is and knows from being cut down while nobody looks on.
//!
//! Owns what counts as that: after a turn or job that nobody was there for, `bootstrap.md`,
//! `memory/MEMORY.md` or all of `memory/` has less than half of the bytes that it had before, or
//! that it had when somebody who was there changed it last, and at least 200 bytes less. So many
//! small cuts are one. What was cut is put back in a commit of its own; both versions stay in
//! the history, the owner is told how to have it cut all the same, and the session is told as
//! well. Does not know what stands in these files.

use std::path::{Path, PathBuf};

use anyhow::Result;
use git2::{Oid, Repository, Tree};

use crate::organs::always::background::Kind;
use crate::organs::always::unattended::{CHANNEL, is_owners_chat};
use crate::organs::history::archive::{Author, Message};
use crate::organs::history::change::Step;
use crate::organs::history::chronicle::{Chronicle, Entry};
use crate::organs::history::difference::{at, differences};
use crate::organs::history::keeper::Keeper;
use crate::organs::history::snapshots::SHORT_ID;
use crate::organs::history::takeback;
use crate::organs::home::Home;
use crate::organs::host::Host;
use crate::organs::sessions;

/// What is kept, each for itself; of the folder all that is in it counts together.
const KEPT: [&str; 2] = ["bootstrap.md", "memory/MEMORY.md"];
const FOLDER: &str = "memory";
/// What a file may lose in any case.
const LITTLE: usize = 200;
/// A turn's commit is among the latest, unless very many were made at once.
const LATEST: usize = 200;

/// A file that was cut, with its bytes before, and what was left of them.
type Cut = (PathBuf, usize, usize);

/// What was put back.
struct PutBack {
    commit: String,
    cut: Vec<Cut>,
}

impl Host {
    /// After a turn or job that nobody was there for: put back what it cut down. `doer` names it
    /// in a sentence, and its commit has these trailers. What its session is to know.
    pub(in crate::organs) async fn guard_memory(
        &self,
        doer: &str,
        trailers: Vec<(&'static str, String)>,
    ) -> Option<String> {
        let PutBack { commit, cut } = match self.put_back(doer, trailers).await {
            Ok(done) => done?,
            Err(error) => {
                let why = format!("It was not looked at what {doer} left of the memory: {error:#}");
                self.fault(Kind::Turn, "", &why);
                return None;
            }
        };
        self.always.look.notify_one();
        let cut = cut
            .iter()
            .map(|(path, before, now)| format!("{} from {before} to {now} bytes", path.display()));
        let cut = cut.collect::<Vec<_>>().join(", ");
        let text = format!(
            "{} cut {cut} while nobody was there. It has been put back (commit {commit}). If it was right, `fledgling undo {commit}` cuts it again; `fledgling show {commit}` shows what is at stake.",
            capitalised(doer)
        );
        self.tell_owner(&format!("shrunk:{commit}"), Kind::Turn, &text);
        Some(format!(
            "Your turn cut {cut} while your owner was not there. The host has put it back (commit {commit}) and told them. Do not cut it again: tell them what should go, and let them decide."
        ))
    }

    async fn put_back(
        &self,
        doer: &str,
        trailers: Vec<(&'static str, String)>,
    ) -> Result<Option<PutBack>> {
        let (home, named) = (self.home().clone(), trailers.clone());
        // It may be a long way back, on which nobody has to wait for the keeper.
        let look = move || -> Result<_> {
            let chronicle = Chronicle::open(home.path())?;
            let Some(compared) = Compared::of(&home, &chronicle, &named)? else { return Ok(None) };
            let is_cut = !compared.cut(&chronicle)?.is_empty();
            Ok(is_cut.then_some(compared))
        };
        let Some(compared) = tokio::task::spawn_blocking(look).await?? else { return Ok(None) };
        let (home, doer) = (self.home().path().to_owned(), doer.to_owned());
        let put_back = self.snapshots.blocking(move |keeper| {
            keeper.take_in()?;
            let chronicle = Chronicle::open(&home)?;
            let put_back = compared.put_back(keeper, &chronicle, &doer, trailers);
            keeper.freshen()?;
            put_back
        });
        put_back.await
    }
}

fn capitalised(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

/// Whether what has this origin is done for somebody who sees it: the owner, in a terminal or
/// a chat of theirs; the host itself; or an agent that works for a session which goes back to no
/// job, service or other person.
fn is_attended(home: &Home, origin: &str) -> bool {
    if let Some(chat) = origin.strip_prefix(CHANNEL) {
        return is_owners_chat(chat);
    }
    let above = origin.strip_prefix("agent:");
    matches!(origin, "owner" | "fledgling")
        || above.is_some_and(|above| sessions::ancestry(home, above).all(|of| !of.contains(':')))
}

/// The trees that are compared.
struct Compared {
    /// As the turn or job left it.
    theirs: Oid,
    /// As it was before each of its commits, and as somebody who was there had changed it last.
    before: Vec<Oid>,
}

impl Compared {
    /// Of the last commit with these trailers which changed something that is kept: what a turn
    /// takes back is a commit of its own. None where there is none.
    fn of(
        home: &Home,
        chronicle: &Chronicle,
        trailers: &[(&'static str, String)],
    ) -> Result<Option<Self>> {
        let is_it = |entry: &Entry<'_>| {
            trailers.iter().all(|(name, value)| entry.trailer(name) == Some(value.as_str()))
        };
        let mut compared: Option<Self> = None;
        for (number, step) in chronicle.walk()?.enumerate() {
            let (entry, _) = step?;
            let tree = entry.commit.tree()?;
            let parent = entry.parent_tree()?;
            let changed = parent.as_ref().is_none_or(|parent| kept(parent) != kept(&tree));
            match &mut compared {
                Some(compared) if changed && is_it(&entry) => {
                    compared.before.extend(parent.map(|parent| parent.id()));
                }
                Some(compared) if changed && is_attended(home, entry.who_asked()) => {
                    compared.before.push(tree.id());
                    break;
                }
                None if changed && is_it(&entry) => {
                    let before = parent.iter().map(Tree::id).collect();
                    compared = Some(Self { theirs: tree.id(), before });
                }
                None if number >= LATEST => break,
                _ => {}
            }
        }
        Ok(compared)
    }

    /// What was cut, each with the tree that has what is to be put back.
    fn cut(&self, chronicle: &Chronicle) -> Result<Vec<(Oid, Cut)>> {
        let repository = chronicle.repository();
        let theirs = repository.find_tree(self.theirs)?;
        let mut all: Vec<(Oid, Cut)> = Vec::new();
        for before in &self.before {
            let cut = cut_down(repository, &repository.find_tree(*before)?, &theirs);
            let new = |cut: &Cut| all.iter().all(|(_, known)| known.0 != cut.0);
            let new: Vec<_> = cut.into_iter().filter(new).collect();
            all.extend(new.into_iter().map(|cut| (*before, cut)));
        }
        Ok(all)
    }

    fn put_back(
        &self,
        keeper: &mut Keeper,
        chronicle: &Chronicle,
        doer: &str,
        trailers: Vec<(&'static str, String)>,
    ) -> Result<Option<PutBack>> {
        let repository = chronicle.repository();
        let (mut head, mut cut) = (chronicle.head()?.tree()?, self.cut(chronicle)?);
        let theirs = repository.find_tree(self.theirs)?;
        // What somebody has changed since is theirs to decide about.
        cut.retain(|(_, (path, ..))| at(&head, path) == at(&theirs, path));
        if cut.is_empty() {
            return Ok(None);
        }
        for (before, (path, ..)) in &cut {
            let (before, path) = (repository.find_tree(*before)?, path.clone());
            let to = takeback::with_paths(repository, &head, &before, &[path])?;
            head = repository.find_tree(to)?;
        }
        let mut cut: Vec<_> = cut.into_iter().map(|(_, cut)| cut).collect();
        let names: Vec<_> = cut.iter().map(|(path, ..)| path.display().to_string()).collect();
        let mut message = Message {
            subject: format!("Put back {}", names.join(", ")),
            body: format!("While nobody was there, {doer} had cut it to less than half."),
            trailers,
        };
        message.trailers.push(("Origin", "fledgling".to_owned()));
        let step = Step { to: head.id(), author: Author::Agent, message, merged: None };
        let (commit, put) = keeper.step(&step)?;
        cut.retain(|(path, ..)| put.left_alone.iter().all(|(left, _)| left != path));
        let commit = commit.map(|commit| commit.id.to_string()[..SHORT_ID].to_owned());
        Ok(commit.map(|commit| PutBack { commit, cut }))
    }
}

/// What a tree has of all that is kept.
fn kept(tree: &Tree<'_>) -> [Option<Oid>; 2] {
    [KEPT[0], FOLDER].map(|path| tree.get_name(path).map(|entry| entry.id()))
}

/// What was cut down from one tree to the other, with its bytes before and now.
fn cut_down(repository: &Repository, before: &Tree<'_>, now: &Tree<'_>) -> Vec<Cut> {
    let size = |tree: &Tree<'_>, path: &Path| {
        at(tree, path).and_then(|(id, _)| bytes(repository, id)).unwrap_or(0)
    };
    let sizes = |path: &Path| (path.to_owned(), size(before, path), size(now, path));
    let mut cut: Vec<_> = KEPT.iter().map(|path| sizes(Path::new(path))).collect();
    cut.retain(|(_, before, now)| is_too_much(*before, *now));
    let folder = |tree: &Tree<'_>| {
        let folder = tree.get_path(Path::new(FOLDER)).ok()?;
        repository.find_tree(folder.id()).ok()
    };
    let folders = [before, now].map(folder);
    let [all_before, all_now] = folders.each_ref().map(|folder| {
        let files = differences(repository, None, folder.as_ref()).unwrap_or_default();
        let files = files.into_iter().filter_map(|file| bytes(repository, file.after?.0));
        files.sum::<usize>()
    });
    if is_too_much(all_before, all_now) {
        let [before, now] = folders.each_ref().map(Option::as_ref);
        let changed = differences(repository, before, now).unwrap_or_default();
        let changed = changed.into_iter().map(|one| sizes(&Path::new(FOLDER).join(one.path)));
        let smaller = changed.filter(|(_, before, now)| now < before);
        let known: Vec<_> = cut.iter().map(|(path, ..)| path.clone()).collect();
        cut.extend(smaller.filter(|(path, ..)| !known.contains(path)));
    }
    cut
}

fn is_too_much(before: usize, now: usize) -> bool {
    now < before / 2 && before - now >= LITTLE
}

fn bytes(repository: &Repository, id: Oid) -> Option<usize> {
    repository.odb().ok()?.read_header(id).ok().map(|(size, _)| size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_there() {
        let temp = tempfile::tempdir().unwrap();
        let home = Home::resolve(Some(temp.path().to_owned())).unwrap();
        for origin in ["owner", "fledgling", "channel:telegram", "agent:main"] {
            assert!(is_attended(&home, origin), "{origin}");
        }
        for origin in
            ["unknown", "reminder", "job:x", "agent:job:x", "channel:irc/eve", "service:irc"]
        {
            assert!(!is_attended(&home, origin), "{origin}");
        }
    }

    #[test]
    fn what_is_too_much() {
        for (before, now) in [(400, 199), (1_000, 0), (200, 0)] {
            assert!(is_too_much(before, now), "{before} {now}");
        }
        for (before, now) in [(199, 0), (400, 200), (1_000, 900), (0, 0), (5, 900), (1_000, 500)] {
            assert!(!is_too_much(before, now), "{before} {now}");
        }
    }
}
