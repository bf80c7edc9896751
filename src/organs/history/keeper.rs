//! What keeps the history of one checkout: the workspace, or a branch's folder.
//!
//! Owns the steps from a look at the files to commits in the right names. A change that
//! nobody but the owner can have made is the owner's; one that the turn which ends now may
//! have made is that turn's, and who else may have made it is named; what another turn that
//! still runs may have made is left for that one; what is nobody's any more is said to be of
//! unknown origin. Knows neither sessions nor what a turn is about.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Result, bail};
use git2::{ErrorCode, Oid, Repository};

use crate::organs::history::archive::{Archive, Author, Change, Commit, FACTS, Message};
use crate::organs::history::gitdir::GitDir;
use crate::organs::history::left_out::{LeftOut, list};
use crate::organs::history::lookout::Lookout;
use crate::organs::history::scan::{Dirty, Found, Scan, Terms};
use crate::organs::history::writers::{TICK, Writers};

/// How often a snapshot starts anew because the owner's git moved the branch under it.
const ATTEMPTS: usize = 3;
/// Stands for whoever made what was left out before.
const LET_IN: &str = "what was left out before";
/// Stands for the owner among those who may have changed something.
const OUTSIDE: &str = "edits outside fledgling";

/// The keeper of one checkout.
pub struct Keeper {
    /// Where it keeps it.
    pub git_dir: GitDir,
    pub(super) archive: Archive,
    pub(super) scan: Scan,
    writers: Writers,
    /// Where it has to look.
    pub lookout: Lookout,
    /// When the last look at everything began. What is changed but bears an earlier time has
    /// been moved here, and nobody knows when.
    looked: SystemTime,
    /// Whether the look that is under way is one at everything: at all files, or at all
    /// of which the watcher says that they may have changed.
    thorough: bool,
    /// How many files it met, when it is one at all files.
    pub(super) met: Option<usize>,
    /// Changes that wait for the end of the turn that may have made them, with their times.
    left: BTreeMap<PathBuf, SystemTime>,
    left_out: LeftOut,
    /// What is newly left out, as a list, until somebody is told.
    news: String,
    /// Sentences for the owner.
    notices: Vec<String>,
}

/// Whose turn a snapshot is about, and what its commit says.
pub struct Turn<'a> {
    /// Who wrote.
    pub writer: &'a str,
    /// What is said of it; who else may have written is added.
    pub message: Message,
}

/// Changes, by those in whose name they are committed.
#[derive(Default)]
struct Shares {
    owners: Vec<Dirty>,
    own: Vec<Dirty>,
    strays: Vec<Dirty>,
    /// Who else may have made what is in `own`.
    beside: BTreeSet<String>,
    /// Who may have made what is in `strays`.
    strangers: BTreeSet<String>,
}

impl Keeper {
    /// Keep this checkout on this branch; the owner's commits bear this name and address.
    /// Nothing is looked at yet. Those who write have to say so to the writers.
    pub fn open(
        git_dir: GitDir,
        repository: Repository,
        branch: &str,
        owner: Option<(String, String)>,
        mut terms: Terms,
    ) -> Result<(Self, Writers)> {
        terms.images = terms.images.map(|images| images.at(git_dir.workspace()));
        let index = git_dir.path().join("index");
        let scan = Scan::new(git_dir.workspace().to_owned(), &repository, index, terms)?;
        let archive = Archive::new(repository, branch, owner);
        let writers = Writers::default();
        let left_out = LeftOut::open(git_dir.path());
        let keeper = Self {
            git_dir,
            archive,
            scan,
            writers: writers.clone(),
            lookout: Lookout::default(),
            looked: SystemTime::UNIX_EPOCH,
            thorough: false,
            met: None,
            left: BTreeMap::new(),
            left_out,
            news: String::new(),
            notices: Vec::new(),
        };
        Ok((keeper, writers))
    }

    /// Have every commit say that tool calls are not confined, or not.
    pub fn mark(&mut self, unconfined: bool) {
        self.archive.unconfined = unconfined;
    }

    /// The branch.
    pub fn archive(&self) -> &Archive {
        &self.archive
    }

    /// Have the owner told.
    pub fn notice(&mut self, sentence: String) {
        self.notices.push(sentence);
    }

    /// What the owner should know since the last time this was asked.
    pub fn take_notices(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notices)
    }

    /// Commit what others than running turns changed: before a turn, and before anything is
    /// taken back.
    pub fn take_in(&mut self) -> Result<()> {
        self.snapshot(None)?;
        let news = std::mem::take(&mut self.news);
        if !news.is_empty() {
            self.notices.push(format!("The history leaves out {news}."));
        }
        Ok(())
    }

    /// Commit what a turn changed that is over, and what others did meanwhile. Its commit,
    /// and what is newly left out, as a list.
    pub fn conclude(&mut self, turn: &Turn<'_>) -> Result<(Option<Commit>, String)> {
        let commit = self.snapshot(Some(turn));
        // Not before: meanwhile nobody else may take its changes for those of nobody.
        self.writers.end(turn.writer);
        let commit = commit?;
        self.writers.settle(turn.writer, None);
        self.lookout.settle(turn.writer);
        Ok((commit, std::mem::take(&mut self.news)))
    }

    /// After a call that may have written anywhere: find out what has changed, so that it is
    /// known whose it is, whatever is done to it later. Reads no content.
    pub fn glance(&mut self) -> Result<()> {
        let begin = SystemTime::now();
        let Some(head) = self.archive.head()? else { return Ok(()) };
        let tree = head.tree()?;
        let paths = self.lookout.places(Some(head.id()));
        let repository = self.archive.repository();
        for dirty in self.scan.glance(repository, &tree, paths)? {
            let path = &dirty.change.path;
            let known =
                |at: &SystemTime| *at + TICK >= self.looked || self.left.get(path) == Some(at);
            let suspects = self.writers.suspects(path, dirty.at.filter(known));
            if !suspects.is_empty() {
                self.writers.claim(path, suspects);
            }
        }
        self.writers.seen(begin);
        Ok(())
    }

    /// Commit everything there is under this message, whoever made it.
    pub fn commit_all(&mut self, author: Author, message: &Message) -> Result<Option<Commit>> {
        self.lookout.look_everywhere();
        self.retrying(|keeper, base| {
            let look = keeper.look(*base, None)?;
            let message = Message { body: with_news(&message.body, &look.news), ..message.clone() };
            keeper.commit(base, look.changes, author, &message)
        })
    }

    /// Whatever differs at the next look is nobody's in particular.
    pub(super) fn suspect_all(&mut self) {
        drop(self.writers.linger(["an unfinished step".to_owned()]));
    }

    /// Write the index, for plain git and the next look: not a thing to wait for.
    pub fn freshen(&mut self) -> Result<()> {
        if let Some(head) = self.archive.head()? {
            self.scan.freshen(self.archive.repository(), &head.tree()?);
        }
        Ok(())
    }

    /// Put the workspace's `.git` right, and remember to say so.
    pub fn heal(&mut self) {
        match self.git_dir.heal() {
            Ok(said) => self.notices.extend(said),
            Err(error) => self.notices.push(format!("History is in danger: {error:#}.")),
        }
    }

    fn snapshot(&mut self, turn: Option<&Turn<'_>>) -> Result<Option<Commit>> {
        self.retrying(|keeper, base| {
            let told = turn.and_then(|turn| keeper.writers.told(turn.writer));
            let begin = SystemTime::now();
            let look = keeper.look(*base, told)?;
            let news = look.news.clone();
            let shares = keeper.share(look, turn.map(|turn| turn.writer));
            let strangers = shares.strangers.clone();
            let commit = keeper.commit_shares(base, shares, turn, &news)?;
            // Of those whose turns are over nothing is left.
            let running = keeper.writers.running();
            if keeper.thorough {
                for stranger in strangers.difference(&running) {
                    keeper.writers.settle(stranger, Some(begin));
                }
            }
            Ok(commit)
        })
    }

    /// From a look to its commits, with the newest commit to base them on: once more where
    /// the owner's git commits in between.
    fn retrying(
        &mut self,
        mut attempt: impl FnMut(&mut Self, &mut Option<Oid>) -> Result<Option<Commit>>,
    ) -> Result<Option<Commit>> {
        self.heal();
        for _ in 0..ATTEMPTS {
            let begin = SystemTime::now();
            let mut base = self.archive.head()?.map(|head| head.id());
            match attempt(self, &mut base) {
                Err(error) if moved_on(&error) => {}
                Err(error) => return Err(error),
                Ok(commit) => {
                    if std::mem::take(&mut self.thorough) {
                        self.looked = begin;
                        self.writers.seen(begin);
                        self.lookout.seen(base, self.met);
                    }
                    return Ok(commit);
                }
            }
        }
        let branch = self.archive.branch();
        bail!("git moved {branch} {ATTEMPTS} times while a snapshot was taken; try again")
    }

    /// What differs from this commit: at the paths that were told or, when none were, where
    /// anything may have changed.
    fn look(&mut self, base: Option<Oid>, told: Option<BTreeSet<PathBuf>>) -> Result<Look> {
        let heard = self.lookout.places(base);
        self.thorough = told.is_none() || heard.is_some();
        let paths = heard.map(|heard| {
            // What waits for another turn is looked at until it is that one's, and what could
            // not be read until it can.
            let again = self.left.keys().chain(self.left_out.unread());
            heard.iter().chain(again).cloned().collect::<BTreeSet<_>>()
        });
        let paths = match (paths, told) {
            (Some(paths), Some(told)) => Some(&paths | &told),
            (paths, told) => paths.or(told),
        };
        let repository = self.archive.repository();
        let tree = base.map(|base| repository.find_commit(base)?.tree()).transpose()?;
        let found = match &paths {
            Some(paths) => self.scan.look_at(paths, repository, tree.as_ref())?,
            None => self.scan.look(repository, tree.as_ref())?,
        };
        self.met = paths.is_none().then_some(found.met);
        let looked_at = |path: &Path| {
            paths.as_ref().is_none_or(|paths| path.ancestors().any(|part| paths.contains(part)))
        };
        let Found { changes, left_out, .. } = found;
        let let_in = self.left_out.among(changes.iter().map(|dirty| &dirty.change.path));
        let mut news = self.left_out.note(left_out, looked_at);
        let paths = changes.iter().filter(|dirty| dirty.change.now.is_some());
        let paths = paths.map(|dirty| &dirty.change.path);
        let rules = paths.filter(|path| path.file_name().is_some_and(|name| name == ".gitignore"));
        news.extend(rules.map(|path| format!("new files that {} names", path.display())));
        let news = list(&news);
        if !news.is_empty() {
            self.news.clone_from(&news);
        }
        Ok(Look { changes, let_in, news, since: self.looked })
    }

    /// Tell whose each change is.
    fn share(&mut self, look: Look, writer: Option<&str>) -> Shares {
        let Look { changes, let_in, since, .. } = look;
        let running = self.writers.running();
        let mut shares = Shares::default();
        let left_before = self.left.clone();
        if self.thorough {
            self.left.clear();
        }
        for dirty in changes {
            let path = &dirty.change.path;
            // What bears an older time and was not there before has been moved here.
            let known = |at: &SystemTime| *at + TICK >= since || left_before.get(path) == Some(at);
            // Of what was not let in so far it is forgotten who made it, whatever its time says.
            let is_let_in = let_in.contains(path);
            let at = dirty.at.filter(known).filter(|_| !is_let_in);
            let mut suspects = self.writers.suspects(path, at);
            suspects.extend(is_let_in.then(|| LET_IN.to_owned()));
            let missed = self.lookout.missed(path).filter(|_| at.is_none());
            if let Some(earlier) = missed {
                shares.strangers.extend(suspects);
                shares.strangers.extend(earlier.iter().cloned());
                shares.strays.push(dirty);
            } else if suspects.is_empty() {
                shares.owners.push(dirty);
            } else if writer.is_some_and(|writer| suspects.remove(writer)) {
                if self.writers.came_after(path, at) {
                    suspects.insert(OUTSIDE.to_owned());
                }
                shares.beside.extend(suspects);
                shares.own.push(dirty);
            } else if suspects.is_disjoint(&running) {
                shares.strangers.extend(suspects);
                shares.strays.push(dirty);
            } else {
                self.writers.claim(path, suspects);
                if let Some(at) = at {
                    // For a turn that still runs. A time that says nothing now never will.
                    self.left.insert(dirty.change.path, at);
                }
            }
        }
        shares
    }

    /// Each share becomes a commit, the owner's first.
    fn commit_shares(
        &mut self,
        base: &mut Option<Oid>,
        shares: Shares,
        turn: Option<&Turn<'_>>,
        news: &str,
    ) -> Result<Option<Commit>> {
        let Shares { owners, own, strays, beside, strangers } = shares;
        // What is left out stands in the turn's commit, where there is going to be one.
        let [aside, inside] = if own.is_empty() { [news, ""] } else { ["", news] };
        self.commit(base, owners, Author::Owner, &outside(aside))?;
        self.commit(base, strays, Author::Agent, &unknown(&strangers, aside))?;
        let Some(Turn { message, .. }) = turn else { return Ok(None) };
        let mut message = message.clone();
        message.body = with_news(&message.body, inside);
        message.trailers.extend(also_running(&beside));
        self.commit(base, own, Author::Agent, &message)
    }

    /// One commit of these changes, if there are any; `base` is the newest one before and
    /// after.
    fn commit(
        &mut self,
        base: &mut Option<Oid>,
        changes: Vec<Dirty>,
        author: Author,
        message: &Message,
    ) -> Result<Option<Commit>> {
        let tells = message.trailers.iter().any(|(name, _)| FACTS.contains(name));
        if changes.is_empty() && base.is_some() && !tells {
            return Ok(None);
        }
        let (commit, before) = {
            let parent =
                base.map(|base| self.archive.repository().find_commit(base)).transpose()?;
            let these: Vec<Change> = changes.iter().map(|dirty| dirty.change.clone()).collect();
            let commit = self.archive.commit(parent.as_ref(), None, &these, author, message)?;
            (commit, parent.map(|parent| parent.tree_id()))
        };
        let after = commit.map(|commit| commit.tree).or(before);
        if let Some(after) = after {
            self.scan.settle(changes, before, after);
        }
        *base = commit.map(|commit| commit.id).or(*base);
        Ok(commit)
    }
}

/// What a look brought.
struct Look {
    changes: Vec<Dirty>,
    /// Those that were left out before.
    let_in: BTreeSet<PathBuf>,
    /// What is newly left out, as a list.
    news: String,
    /// Since when a time of change can be relied upon.
    since: SystemTime,
}

fn outside(news: &str) -> Message {
    Message {
        subject: "Edits outside fledgling".to_owned(),
        body: with_news("", news),
        trailers: vec![("Origin", "owner".to_owned())],
    }
}

/// The message for what somebody did of whom no turn is left that could say what for.
fn unknown(suspects: &BTreeSet<String>, news: &str) -> Message {
    let mut trailers = vec![("Origin", "unknown".to_owned())];
    trailers.extend(also_running(suspects));
    let subject = "Changes of unknown origin".to_owned();
    Message { subject, body: with_news("", news), trailers }
}

fn also_running(writers: &BTreeSet<String>) -> Vec<(&'static str, String)> {
    writers.iter().map(|writer| ("Also-running", writer.clone())).collect()
}

fn with_news(body: &str, news: &str) -> String {
    if news.is_empty() { body.to_owned() } else { format!("{body}\n\nLeft out: {news}") }
}

/// Whether the owner's git committed between our look and our commit.
fn moved_on(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref::<git2::Error>();
    error.is_some_and(|error| error.code() == ErrorCode::Modified)
}
