//! Where a recording is carried out again: a folder of its own with the files of a commit, a
//! scratch folder, and a door behind which nobody is.
//!
//! Owns how each recorded call is made once more, by a real hand, and how its answer is told in
//! the words of the recording. Knows neither what is compared with it nor who asked.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use git2::{FileMode, Repository, Tree};
use tokio::runtime::Runtime;

use crate::guard::hand::Hand;
use crate::guard::policy::Policy;
use crate::kernel::interrupt::Interrupt;
use crate::kernel::message::Call;
use crate::kernel::tool::{Action, Hands as _, Outcome};
use crate::organs::history::ask::Answered;
use crate::organs::history::backup::fill;
use crate::organs::history::beneath::Root;
use crate::organs::history::checkout::{Checkout, DOOR, REPLAY, TEMPORARY};
use crate::organs::history::difference::Entry;
use crate::organs::home::Home;
use crate::organs::reach::hint;
use crate::organs::replay::places::{HOME, Places, SCRATCH, WORKSPACE};
use crate::organs::replay::recording::Step;

/// A path, and what it is to be: nothing, or what a tree has there.
pub type Patch = (PathBuf, Option<Entry>);

/// How a hand is given what it works with, in these folders: the workspace, the door.
pub type Equip<'a> = dyn Fn([&Path; 2]) -> Result<Policy> + 'a;

/// What a call is answered now.
#[derive(Debug)]
pub struct Said {
    /// The answer, in the words of the recording.
    pub answer: Answered,
    /// Whether it asked the host for something.
    pub asked: bool,
}

/// The folder, and the hand that works in it.
pub struct Stage<'a> {
    repository: &'a Repository,
    interrupt: &'a Interrupt,
    root: Root,
    policy: Policy,
    hand: Hand,
    runtime: Runtime,
    /// From the recording's words to here, and back.
    here: Places,
    told: Places,
    // Removed when all above is gone: workspace, scratch, door.
    folders: [Checkout; 3],
}

impl<'a> Stage<'a> {
    /// With these files.
    pub fn new(
        repository: &'a Repository,
        tree: &Tree<'_>,
        home: &Home,
        equip: &Equip<'_>,
        interrupt: &'a Interrupt,
    ) -> Result<Self> {
        let new = |purpose| Checkout::new(&home.scratch(), purpose);
        let folders = [new(REPLAY)?, new(TEMPORARY)?, new(DOOR)?];
        let [workspace, scratch, door] = folders.each_ref().map(|folder| folder.0.clone());
        fill(repository, tree, &workspace)?;
        let mut policy = equip([&workspace, &door])?;
        policy.own = vec![workspace.clone(), scratch.clone(), door];
        policy.scratch.clone_from(&scratch);
        let temporary = (OsString::from("TMPDIR"), scratch.clone().into_os_string());
        policy.env.retain(|(name, _)| *name != temporary.0);
        policy.env.push(temporary);
        let here = [(&*workspace, WORKSPACE), (&*scratch, SCRATCH), (home.path(), HOME)];
        let (main, its) = (home.workspace(), home.scratch());
        let told = here.into_iter().chain([(&*main, WORKSPACE), (&*its, SCRATCH)]);
        Ok(Self {
            repository,
            interrupt,
            root: Root::open(&workspace)?,
            hand: Hand::new(policy.clone()),
            policy,
            runtime: tokio::runtime::Builder::new_current_thread().enable_all().build()?,
            here: Places::put(here),
            told: Places::named(told),
            folders,
        })
    }

    /// Have these paths be so. Nothing runs here that could put a link in the way.
    pub fn patch(&self, patches: &[Patch]) -> Result<()> {
        for (path, wanted) in patches {
            // What a database left beside it belongs to the one that goes.
            for beside in ["", "-wal", "-shm", "-journal"] {
                let mut path = path.clone().into_os_string();
                path.push(beside);
                let _ = self.root.remove(Path::new(&path));
            }
            let put = || -> Result<()> {
                let Some((id, mode)) = wanted else { return Ok(()) };
                let blob = self.repository.find_blob(*id)?;
                if *mode == FileMode::Link {
                    self.root.link(path, blob.content())?;
                } else {
                    let executable = *mode == FileMode::BlobExecutable;
                    self.root.write(path, blob.content(), executable)?;
                }
                Ok(())
            };
            put().with_context(|| format!("cannot put back {}", path.display()))?;
        }
        Ok(())
    }

    /// Carry a call out again. `recorded` is what it was answered then.
    pub fn act(&mut self, step: &Step, recorded: &Answered) -> Result<Said> {
        let input = self.here.json(step.call.input.clone());
        let outcome = match Action::parse(&Call { input, ..step.call.clone() }) {
            Ok(action) => {
                let acting = self.hand.act(action, self.interrupt.clone());
                self.hinted(self.runtime.block_on(acting))
            }
            Err(why) => Outcome::failed(why),
        };
        ensure!(!self.interrupt.raised(), "interrupted");
        self.same_name(&recorded.text, &outcome.text);
        let answer = Answered { text: self.told.text(&outcome.text), error: outcome.error };
        Ok(Said { answer, asked: self.take_requests() })
    }

    /// The same words are added as in a turn.
    fn hinted(&self, mut outcome: Outcome) -> Outcome {
        let hint = hint::is_likely(&outcome.text)
            .then(|| hint::after(&outcome.text, outcome.error, &self.policy))
            .flatten();
        if let Some(hint) = hint {
            let newline = if outcome.text.ends_with('\n') { "" } else { "\n" };
            outcome.text += &format!("{newline}{hint}");
        }
        outcome
    }

    /// A long output is kept in a file whose name is made up each time: from now on the one
    /// that was recorded means the one there is.
    fn same_name(&mut self, then: &str, now: &str) {
        if let (Some(then), Some(now)) = (spill(then), spill(now)) {
            self.here.add(then, now);
            self.told.add(now, then);
        }
    }

    /// Whether anything was asked of the host since the last call: whoever asks leaves its
    /// request in the door's folder, and nobody takes it.
    fn take_requests(&self) -> bool {
        let left: Vec<_> =
            fs::read_dir(&self.folders[2].0).into_iter().flatten().flatten().collect();
        for entry in &left {
            let _ = fs::remove_file(entry.path());
        }
        !left.is_empty()
    }
}

/// The name of the file with the whole output, in a text that was cut.
fn spill(text: &str) -> Option<&str> {
    let begin = text.find("/output/bash-")? + "/output/".len();
    let name = &text[begin..];
    let end = name.find(".txt")? + ".txt".len();
    Some(&name[..end]).filter(|name| name.len() == "bash-00000000.txt".len())
}
