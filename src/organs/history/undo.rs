//! Taking back, putting back, bringing in: what is asked for, and what is told of it.
//!
//! Owns the choice of the commits that are meant and what the commit says that follows.
//! Before anything is touched, what the owner changed is committed. Later changes that are
//! in the way are told, and nothing is done, unless it was said what to favour. Knows
//! neither doors nor how files are put back.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, bail, ensure};
use git2::Oid;

use crate::organs::history::archive::{Author, Message};
use crate::organs::history::ask::{Favour, FileDiff, Logged, Undone, Which};
use crate::organs::history::change::Step;
use crate::organs::history::chronicle::{Chronicle, Entry, plain};
use crate::organs::history::compare::compare;
use crate::organs::history::exchange::Exchange;
use crate::organs::history::keeper::Keeper;
use crate::organs::history::snapshots::SHORT_ID;
use crate::organs::history::takeback::{self, Plan};
use crate::organs::home::Home;
use crate::organs::sessions;
use crate::organs::verb::Caller;

/// Commands that are told at most.
const COMMANDS: usize = 20;

/// Who asks.
pub struct Who {
    /// The home.
    pub home: Home,
    /// The one who asks.
    pub caller: Caller,
    /// The number of the turn in which a hand asks.
    pub turn: Option<u64>,
}

/// Take changes back, or what took changes back.
pub fn undo(
    keeper: &mut Keeper,
    who: &Who,
    what: &Which,
    favour: Option<Favour>,
) -> Result<Undone> {
    keeper.take_in()?;
    let chronicle = Chronicle::on(who.home.path(), keeper.archive().branch())?;
    let chosen = who.choose(&chronicle, what)?;
    let changes = chosen.iter().map(|entry| chronicle.logged(entry, false));
    let changes = changes.collect::<Result<Vec<_>>>()?;
    let commits: Vec<_> = chosen.iter().map(|entry| entry.commit.clone()).collect();
    let head = chronicle.head()?.tree()?;
    let plan = takeback::without(chronicle.repository(), &head, &commits, favour)?;
    let message = undo_message(who, what, &chosen, &changes);
    let mut undone = who.go(keeper, &chronicle, plan, message, None)?;
    // A redo brings them about again rather than leaving them behind.
    let redo = chosen.iter().all(Entry::takes_back);
    if undone.commit.is_some() && !redo {
        undone.commands = commands(&who.home, &chosen);
    }
    undone.changes = changes;
    Ok(undone)
}

/// Put paths back as a commit has them; everything when none is named.
pub fn restore(keeper: &mut Keeper, who: &Who, rev: &str, paths: &[String]) -> Result<Undone> {
    keeper.take_in()?;
    let chronicle = Chronicle::on(who.home.path(), keeper.archive().branch())?;
    let commit = chronicle.find(rev)?;
    let head = chronicle.head()?.tree()?;
    let wanted: Vec<_> = paths.iter().map(|path| plain(path.as_ref())).collect();
    let repository = chronicle.repository();
    let tree = takeback::with_paths(repository, &head, &commit.tree()?, &wanted)?;
    let what = if paths.is_empty() { "everything".to_owned() } else { paths.join(", ") };
    let subject = format!("Restore {what} as of {}", short(commit.id()));
    let message = who.message(subject, String::new());
    who.go(keeper, &chronicle, Plan::Clean { tree, left: Vec::new() }, message, None)
}

/// Bring in what was done on a branch.
pub fn merge(
    keeper: &mut Keeper,
    who: &Who,
    branch: &str,
    tip: Oid,
    favour: Option<Favour>,
) -> Result<Undone> {
    keeper.take_in()?;
    let chronicle = Chronicle::on(who.home.path(), keeper.archive().branch())?;
    let (repository, head) = (chronicle.repository(), chronicle.head()?);
    let tip = repository.find_commit(tip)?;
    let base = repository.merge_base(head.id(), tip.id());
    let base = base
        .with_context(|| format!("the branch {branch} has nothing in common with this history"))?;
    ensure!(
        base != tip.id(),
        "nothing was done on the branch {branch}; `fledgling drop {branch}` removes it"
    );
    let base = repository.find_commit(base)?.tree()?;
    let plan = takeback::merged(repository, &base, &head.tree()?, &tip.tree()?, favour)?;
    let entry = Entry::read(tip.clone());
    let mut message = who.message(format!("Merge {branch}: {}", entry.subject), entry.body);
    message.trailers.push(("Merges", branch.to_owned()));
    who.go(keeper, &chronicle, plan, message, Some(tip.id()))
}

impl Who {
    /// The commits that are meant, latest first.
    fn choose<'a>(&self, chronicle: &'a Chronicle, what: &Which) -> Result<Vec<Entry<'a>>> {
        match what {
            Which::Turns(count) => self.turns(chronicle, *count),
            Which::Commit(rev) => self.commit(chronicle, rev).map(|entry| vec![entry]),
            Which::LastUndo => {
                for step in chronicle.walk()? {
                    let (entry, undone) = step?;
                    if !undone && entry.trailer("Undoes").is_some() && self.may(&entry) {
                        return Ok(vec![entry]);
                    }
                }
                bail!("nothing to redo: nothing was taken back that has not been put back")
            }
        }
    }

    /// All commits of the latest turns that are not taken back. What a turn itself took back
    /// is none to count, but goes with it: that comes back.
    fn turns<'a>(&self, chronicle: &'a Chronicle, count: usize) -> Result<Vec<Entry<'a>>> {
        ensure!(count > 0, "nothing to undo: the number of turns is 0");
        let (mut met, mut turns, mut begun) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
        for step in chronicle.walk()? {
            let (entry, undone) = step?;
            if entry.trailer("Line").is_some() && !undone {
                // A job's; its line may be one that goes.
                met.push((entry, undone));
                continue;
            }
            let Some((session, turn)) = entry.turn().filter(|_| self.may(&entry)) else {
                continue;
            };
            let turn = (session.to_owned(), turn);
            // Others may have committed between two commits of a turn; it is whole when its
            // session is at an earlier one.
            begun.retain(|(session, number)| *session != turn.0 || *number <= turn.1);
            if turns.len() == count && begun.is_empty() {
                break;
            }
            if turns.len() < count && !undone && !entry.takes_back() && turns.insert(turn.clone()) {
                begun.insert(turn);
            }
            met.push((entry, undone));
        }
        let chosen = whole(met, &turns);
        ensure!(
            !chosen.is_empty(),
            "nothing to undo: no turn changed the workspace that is not undone already; `fledgling log` shows all changes, `fledgling undo REV` takes back any of them"
        );
        ensure!(
            turns.len() == count,
            "only {} turns changed the workspace and are not undone already; `fledgling log` shows them",
            turns.len()
        );
        Ok(chosen)
    }

    fn commit<'a>(&self, chronicle: &'a Chronicle, rev: &str) -> Result<Entry<'a>> {
        let wanted = chronicle.find(rev)?.id();
        for step in chronicle.walk()? {
            let (entry, undone) = step?;
            if entry.commit.id() != wanted {
                continue;
            }
            let id = short(wanted);
            ensure!(!undone, "{id} is taken back already; `fledgling log` shows what did so");
            ensure!(
                entry.commit.parent_count() > 0,
                "{id} is how the workspace began, which cannot be taken back"
            );
            ensure!(
                self.may(&entry),
                "{id} is not a change of this session; only the owner may take it back"
            );
            return Ok(entry);
        }
        bail!("{} is not a change of this workspace; `fledgling log` lists them", short(wanted))
    }

    /// Whether this one may take that back: the owner anything, an agent what it and those
    /// it started did themselves.
    fn may(&self, entry: &Entry<'_>) -> bool {
        let Caller::Hand(own) = &self.caller else { return true };
        let origin = entry.trailer("Origin");
        let reached = |session| sessions::ancestry(&self.home, session).any(|name| name == *own);
        if entry.takes_back() {
            return origin == Some(&*self.origin());
        }
        // What is of unknown origin may be the owner's as well, and what the host has put back
        // is the owner's to decide about.
        !matches!(origin, Some("unknown" | "fledgling"))
            && entry.turn().is_some_and(|(session, _)| reached(session))
    }

    fn origin(&self) -> String {
        match &self.caller {
            Caller::Owner => "owner".to_owned(),
            Caller::Hand(session) => format!("agent:{session}"),
        }
    }

    fn message(&self, subject: String, body: String) -> Message {
        let mut trailers = Vec::new();
        if let (Caller::Hand(session), Some(turn)) = (&self.caller, self.turn) {
            trailers = vec![("Session", session.clone()), ("Turn", turn.to_string())];
        }
        trailers.push(("Origin", self.origin()));
        Message { subject, body, trailers }
    }

    /// Carry out a plan, or tell what is in its way.
    fn go(
        &self,
        keeper: &mut Keeper,
        chronicle: &Chronicle,
        plan: Plan,
        message: Message,
        merged: Option<Oid>,
    ) -> Result<Undone> {
        let (to, left) = match plan {
            Plan::Clean { tree, left } => (tree, left),
            Plan::Conflicts { wanted, paths } => {
                let repository = chronicle.repository();
                let (head, wanted) = (chronicle.head()?.tree()?, repository.find_tree(wanted)?);
                let mut conflicts = compare(repository, Some(&head), Some(&wanted), None)?;
                // Names that are no text are told in the same way on both sides.
                let paths: Vec<_> = paths.iter().map(|path| path.to_string_lossy()).collect();
                let within = |file: &FileDiff| {
                    let path = std::path::Path::new(&file.path);
                    paths.iter().any(|folder| path.starts_with(&**folder))
                };
                conflicts.retain(within);
                if !conflicts.is_empty() {
                    return Ok(Undone { conflicts, ..Undone::default() });
                }
                // What was in the way of one commit another took along: there is no choice.
                (wanted.id(), Vec::new())
            }
        };
        let author = match self.caller {
            Caller::Owner => Author::Owner,
            Caller::Hand(_) => Author::Agent,
        };
        let (commit, put) = keeper.step(&Step { to, author, message, merged })?;
        let shown = |path: std::path::PathBuf| path.to_string_lossy().into_owned();
        let left_alone = left.into_iter().chain(put.left_alone);
        Ok(Undone {
            commit: commit.map(|commit| short(commit.id)),
            paths: put
                .done
                .into_iter()
                .map(|(path, what)| (shown(path), what.to_owned()))
                .collect(),
            left_alone: left_alone.map(|(path, why)| (shown(path), why)).collect(),
            in_part: put.in_part,
            ..Undone::default()
        })
    }
}

/// Of what was met, latest first, all that these turns did: also what they took back again
/// themselves, which else would come back with that, and what jobs did that they set up.
fn whole<'a>(met: Vec<(Entry<'a>, bool)>, turns: &BTreeSet<(String, u64)>) -> Vec<Entry<'a>> {
    let mut by_themselves = BTreeSet::new();
    let is_theirs = |entry: &Entry<'_>| {
        entry.turn().is_some_and(|(session, turn)| turns.contains(&(session.to_owned(), turn)))
    };
    let ids = met.iter().filter(|(entry, undone)| !undone && is_theirs(entry));
    let ids: BTreeSet<_> = ids.map(|(entry, _)| entry.commit.id().to_string()).collect();
    // What a job did goes with the line that had it run.
    let goes = |entry: &Entry<'_>| entry.trailer("Line").is_some_and(|line| ids.contains(line));
    let theirs = met.into_iter().filter(|(entry, _)| is_theirs(entry) || goes(entry));
    let chosen = theirs.filter_map(|(entry, undone)| {
        let is_chosen = !undone || by_themselves.contains(&entry.commit.id());
        by_themselves.extend(entry.cancels().filter(|_| is_chosen));
        is_chosen.then_some(entry)
    });
    chosen.collect()
}

fn undo_message(who: &Who, asked: &Which, chosen: &[Entry<'_>], changes: &[Logged]) -> Message {
    // Of turns, it is taken back whatever they did; and what brought something back is
    // undone, so that it can be brought back once more.
    let undoes = |entry: &Entry<'_>| entry.trailer("Undoes").is_some();
    let redo = !matches!(asked, Which::Turns(_)) && chosen.iter().all(undoes);
    let (what, word) = if redo { ("Redo", "Redoes") } else { ("Undo", "Undoes") };
    let subject = match chosen {
        [one] => {
            let subject = one.subject.trim_start_matches("Undo: ").trim_start_matches("Redo: ");
            format!("{what}: {subject}")
        }
        several => format!("{what}: {} changes", several.len()),
    };
    let body = changes.iter().map(|change| format!("- {} {}", change.id, change.subject));
    let mut message = who.message(subject, body.collect::<Vec<_>>().join("\n"));
    let ids = chosen.iter().map(|entry| (word, entry.commit.id().to_string()));
    message.trailers.extend(ids);
    message
}

/// The commands of these turns: what they did elsewhere is not taken back.
fn commands(home: &Home, chosen: &[Entry<'_>]) -> Vec<String> {
    // Those of a turn that could reach nothing else did nothing elsewhere.
    let chosen = chosen.iter().filter(|entry| entry.trailer("Reach").is_none());
    let turns: BTreeSet<_> = chosen.filter_map(Entry::turn).collect();
    let exchanges = turns.iter().filter_map(|(name, turn)| Exchange::read(home, name, *turn).ok());
    let mut commands: Vec<_> = exchanges.flat_map(|exchange| exchange.commands()).collect();
    let more = commands.len().saturating_sub(COMMANDS);
    if more > 0 {
        commands.truncate(COMMANDS);
        commands.push(format!("… and {more} more"));
    }
    commands
}

fn short(id: Oid) -> String {
    id.to_string()[..SHORT_ID].to_owned()
}
