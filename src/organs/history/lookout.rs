//! Where a keeper has to look.
//!
//! Owns the watcher of a large workspace and what it heard that is not in history yet.
//! Where it cannot be relied upon, everything has to be looked at: when it says so itself,
//! when somebody else's git moved the branch, and now and then, since a watcher misses
//! things. What it missed is found late, by when nobody can tell whose it is: so nothing a
//! hand may have written is the owner's then. Knows neither commits nor how files are read.

use std::collections::BTreeSet;
use std::mem;
use std::path::{Path, PathBuf};

use git2::Oid;

use crate::organs::history::watch::{Dirty, Watch};

/// With fewer files than this, looking at all of them takes no longer than anybody notices.
const LARGE: usize = 20_000;
/// So many looks rely on the watcher, then one does not.
const HEALING: usize = 50;
/// With more paths than these, looking at everything is not much slower.
const MANY: usize = 2_000;

/// What tells where to look.
#[derive(Default)]
pub struct Lookout {
    watch: Option<Watch>,
    /// Whether a watcher pays, and whether one has been asked for.
    needed: bool,
    asked: bool,
    /// What may have changed since the last look that succeeded.
    heard: BTreeSet<PathBuf>,
    /// Anything may have changed.
    anything: bool,
    /// Looks since the last one at everything.
    looks: usize,
    /// The newest commit after the last look.
    head: Option<Oid>,
    /// Whose changes were committed since the last look at everything.
    settled: BTreeSet<String>,
}

impl Lookout {
    /// Whether it is time to start a watcher. Said once.
    pub fn wants_watch(&mut self) -> bool {
        self.needed && !mem::replace(&mut self.asked, true)
    }

    /// Whether there are so many files that work on all of them is noticed.
    pub fn is_large(&self) -> bool {
        self.needed
    }

    /// Rely on this watcher from the next look on, which is one at everything.
    pub fn watch(&mut self, watch: Watch) {
        self.watch = Some(watch);
        self.look_everywhere();
    }

    /// Have the next look be one at everything.
    pub fn look_everywhere(&mut self) {
        self.anything = true;
    }

    /// Where something may have changed; nowhere in particular when it may be anywhere.
    pub fn places(&mut self, head: Option<Oid>) -> Option<&BTreeSet<PathBuf>> {
        match self.watch.as_ref()?.take() {
            Dirty::All => self.anything = true,
            Dirty::Paths(paths) => {
                // Other rules concern all that they are the rules for.
                let folders = paths.iter().filter(|path| path.ends_with(".gitignore"));
                let folders: Vec<_> = folders.filter_map(|path| path.parent()).collect();
                self.anything |= folders.contains(&Path::new(""));
                self.heard.extend(folders.into_iter().map(Path::to_owned));
                self.heard.extend(paths);
            }
        }
        let unsure = self.anything || self.head != head || self.looks >= HEALING;
        (!unsure && self.heard.len() <= MANY).then_some(&self.heard)
    }

    /// Who may have made a change that nobody heard of, if it is one and was made before
    /// the last look.
    pub fn missed(&self, path: &Path) -> Option<&BTreeSet<String>> {
        let unheard = !path.ancestors().any(|part| self.heard.contains(part));
        (unheard && !self.settled.is_empty()).then_some(&self.settled)
    }

    /// This writer's changes are committed as far as they are known.
    pub fn settle(&mut self, writer: &str) {
        if self.watch.is_some() {
            self.settled.insert(writer.to_owned());
        }
    }

    /// All that `places` said is in history now, and this is the newest commit. A look at
    /// everything met so many files.
    pub fn seen(&mut self, head: Option<Oid>, met: Option<usize>) {
        self.heard.clear();
        self.head = head;
        self.looks += 1;
        if let Some(met) = met {
            self.needed |= met > LARGE;
            (self.anything, self.looks) = (false, 0);
            self.settled.clear();
        }
    }
}
