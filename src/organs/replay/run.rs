//! A recording carried out again on the files of a commit, as often as it takes to say what
//! has become of its answers.
//!
//! Owns with which files each turn begins. What the recorded conversation changed itself
//! begins as it was then, and what others changed of that between its turns is changed again;
//! all else is as the replay is to have it. Knows neither hosts nor doors.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Result;
use git2::{Commit, Oid, Repository, Tree};

use crate::kernel::interrupt::Interrupt;
use crate::organs::history::ask::{Differing, Left, Replayed};
use crate::organs::history::bisect::{Trial, Verdict};
use crate::organs::history::difference::{at, differences};
use crate::organs::history::snapshots::SHORT_ID;
use crate::organs::home::Home;
use crate::organs::replay::judge::{Control, Judged, differing, judge};
use crate::organs::replay::recording::{Recording, Step};
use crate::organs::replay::stage::{Equip, Patch, Said, Stage};

/// So long a replay says nothing about how far it is, and then again.
const SILENCE: Duration = Duration::from_secs(2);
/// Characters of a call that are told on the way.
const SHOWN: usize = 50;
/// Why a call is not compared.
const ASKED: &str = "it asks the program that hosts you, and in a replay nobody answers";

/// What was answered, call by call; nothing where a call was not carried out.
type Answers = Vec<Option<Said>>;

/// What replays.
pub struct Replayer<'a> {
    pub repository: &'a Repository,
    pub home: &'a Home,
    pub recording: &'a Recording,
    /// What its hands are given.
    pub equip: &'a Equip<'a>,
    pub interrupt: &'a Interrupt,
    /// Whether nothing is put back.
    pub as_it_is: bool,
    /// Whether no call is made a second time, since that might be seen elsewhere.
    pub once: bool,
}

/// The files with which a turn began and ended, where they are known.
struct Span<'a>(Option<Tree<'a>>, Option<Tree<'a>>);

/// The files to begin with, and what is changed before each turn.
struct Course<'a> {
    tree: Tree<'a>,
    patches: Vec<Vec<Patch>>,
}

impl<'a> Replayer<'a> {
    /// Replay it on these files. `progress` hears a sentence now and then.
    pub fn replay(&self, tree: Tree<'a>, progress: &mut dyn FnMut(String)) -> Result<Replayed> {
        let spans = self.spans();
        let course = self.course(tree, &spans)?;
        let now = self.play(&course, usize::MAX, progress)?;
        let last = self.differs(&now).last().filter(|_| !self.once);
        let known = self.recorded(&spans)?;
        let control = match (last, &known) {
            (None, _) => Vec::new(),
            (Some(last), Some(known)) => {
                progress("What differs is tried where it was recorded.".to_owned());
                self.play(known, last + 1, progress)?
            }
            (Some(last), None) => {
                progress("What differs is tried once more.".to_owned());
                self.play(&course, last + 1, progress)?
            }
        };
        let put_back = course.patches.first().into_iter().flatten();
        let commit = known.and(self.recording.turns[0].head.commit.clone());
        let mut told = Replayed {
            calls: self.recording.steps().count(),
            put_back: put_back.map(|(path, _)| path.to_string_lossy().into_owned()).collect(),
            commit: commit.map(|id| id[..SHORT_ID.min(id.len())].to_owned()),
            ..Replayed::default()
        };
        for (number, step) in self.recording.steps().enumerate() {
            let control = control.get(number).and_then(Option::as_ref).map(|said| &said.answer);
            let control = match (control, &told.commit) {
                (None, _) => Control::None,
                (Some(answer), Some(_)) => Control::Recorded(answer),
                (Some(answer), None) => Control::Again(answer),
            };
            tell(&mut told, step, now[number].as_ref(), &control)?;
        }
        Ok(told)
    }

    /// What tells good commits from bad ones: whether they answer as was recorded.
    pub fn trial(&self, progress: &mut dyn FnMut(String)) -> Result<Replaying<'_, 'a>> {
        let spans = self.spans();
        let control = match self.recorded(&spans)? {
            Some(known) => self.play(&known, usize::MAX, progress)?,
            None => Vec::new(),
        };
        Ok(Replaying { replayer: self, control })
    }

    /// The calls that are answered otherwise, by their place.
    fn differs<'b>(&'b self, now: &'b Answers) -> impl Iterator<Item = usize> + 'b {
        let both = self.recording.steps().zip(now).enumerate();
        both.filter(|(_, (step, now))| {
            let now = now.as_ref().map(|said| &said.answer);
            now.is_some_and(|now| step.answer.as_ref() != Ok(now))
        })
        .map(|(number, _)| number)
    }

    fn spans(&self) -> Vec<Span<'a>> {
        let tree = |id: &Option<String>| {
            // An id and nothing else: a file from elsewhere could name anything here.
            let id = Oid::from_str(id.as_deref()?).ok()?;
            self.repository.find_commit(id).ok()?.tree().ok()
        };
        let turns = self.recording.turns.iter().map(|turn| {
            let begins = tree(&turn.head.commit);
            let ends =
                if turn.head.made.is_some() { tree(&turn.head.made) } else { begins.clone() };
            Span(begins, ends)
        });
        turns.collect()
    }

    /// The course on the commit it was recorded on.
    fn recorded(&self, spans: &[Span<'a>]) -> Result<Option<Course<'a>>> {
        let Some(Span(Some(tree), _)) = spans.first() else { return Ok(None) };
        let patches = self.between(spans, |_| true)?;
        Ok(Some(Course { tree: tree.clone(), patches }))
    }

    /// The course on other files.
    fn course(&self, tree: Tree<'a>, spans: &[Span<'a>]) -> Result<Course<'a>> {
        let (Some(Span(Some(begin), _)), false) = (spans.first(), self.as_it_is) else {
            return Ok(Course { tree, patches: vec![Vec::new(); spans.len()] });
        };
        let mut own: BTreeSet<PathBuf> = BTreeSet::new();
        for Span(before, after) in spans {
            if let (Some(before), Some(after)) = (before, after) {
                let all = differences(self.repository, Some(before), Some(after))?;
                own.extend(all.into_iter().map(|one| one.path));
            }
        }
        let mut patches = self.between(spans, |path| own.contains(path))?;
        let other = own.into_iter().filter(|path| at(begin, path) != at(&tree, path));
        patches[0] = other.map(|path| (path.clone(), at(begin, &path))).collect();
        Ok(Course { tree, patches })
    }

    /// What others changed between the turns, of these paths.
    fn between(
        &self,
        spans: &[Span<'a>],
        wanted: impl Fn(&Path) -> bool,
    ) -> Result<Vec<Vec<Patch>>> {
        let mut patches = vec![Vec::new()];
        for pair in spans.windows(2) {
            let (Span(_, Some(before)), Span(Some(after), _)) = (&pair[0], &pair[1]) else {
                patches.push(Vec::new());
                continue;
            };
            let all = differences(self.repository, Some(before), Some(after))?.into_iter();
            let chosen = all.filter(|one| wanted(&one.path));
            patches.push(chosen.map(|one| (one.path, one.after)).collect());
        }
        Ok(patches)
    }

    /// Carry out as many calls.
    fn play(
        &self,
        course: &Course<'_>,
        count: usize,
        progress: &mut dyn FnMut(String),
    ) -> Result<Answers> {
        let Self { repository, home, equip, interrupt, .. } = *self;
        let mut stage = Stage::new(repository, &course.tree, home, equip, interrupt)?;
        let total = self.recording.steps().count();
        let (mut answers, mut said) = (Vec::new(), Instant::now());
        for (turn, patches) in self.recording.turns.iter().zip(&course.patches) {
            stage.patch(patches)?;
            for step in turn.steps.iter().take(count.saturating_sub(answers.len())) {
                if said.elapsed() >= SILENCE {
                    let what: String = step.place.what.chars().take(SHOWN).collect();
                    let (turn, call) = (step.place.turn, step.place.call);
                    progress(format!("turn {turn}, call {call} of {total}: {what}"));
                    said = Instant::now();
                }
                let answer = step.answer.as_ref().ok();
                answers.push(answer.map(|recorded| stage.act(step, recorded)).transpose()?);
            }
        }
        Ok(answers)
    }
}

/// Tell of a call what has become of it.
fn tell(told: &mut Replayed, step: &Step, now: Option<&Said>, control: &Control<'_>) -> Result<()> {
    let left = |why: &str| Left { place: step.place.clone(), why: why.to_owned() };
    let (recorded, now) = match (&step.answer, now) {
        (Ok(recorded), Some(now)) => (recorded, now),
        (answer, _) => {
            told.left.push(left(answer.as_ref().err().copied().unwrap_or_default()));
            return Ok(());
        }
    };
    let differing = || differing(&step.place, recorded, &now.answer);
    match judge(recorded, &now.answer, control) {
        Judged::Same => told.same += 1,
        _ if now.asked => told.left.push(left(ASKED)),
        Judged::Differs => told.differ.push(differing()?),
        Judged::Apart => told.apart.push(differing()?),
    }
    Ok(())
}

/// A recording as what a search tries.
pub struct Replaying<'a, 'b> {
    replayer: &'a Replayer<'b>,
    control: Answers,
}

impl Trial for Replaying<'_, '_> {
    fn name(&self) -> &'static str {
        "the replay"
    }

    fn run(&self, commit: &Commit<'_>) -> Result<(Verdict, String)> {
        let replayer = self.replayer;
        let tree = replayer.repository.find_tree(commit.tree_id())?;
        let course = replayer.course(tree, &replayer.spans())?;
        let now = replayer.play(&course, usize::MAX, &mut |_| ())?;
        for (number, step) in replayer.recording.steps().enumerate() {
            let (Ok(recorded), Some(now)) = (&step.answer, &now[number]) else { continue };
            let control = self.control.get(number).and_then(Option::as_ref);
            let control = control.map_or(Control::None, |said| Control::Recorded(&said.answer));
            if !now.asked && judge(recorded, &now.answer, &control) == Judged::Differs {
                let differing = differing(&step.place, recorded, &now.answer)?;
                return Ok((Verdict::Bad, in_lines(&differing)));
            }
        }
        Ok((Verdict::Good, String::new()))
    }
}

/// A differing call as the end of an output is told.
fn in_lines(differing: &Differing) -> String {
    let place = &differing.place;
    let lines = differing.hunks.iter().flat_map(|hunk| &hunk.lines);
    let lines = lines.map(|(sign, line)| format!("\n{sign}{line}"));
    let failed = match (differing.recorded.error, differing.now.error) {
        (false, true) => "\nIt fails now.",
        (true, false) => "\nIt failed then.",
        _ => "",
    };
    let lines = lines.collect::<String>();
    format!("turn {}, call {}: {}{lines}{failed}", place.turn, place.call, place.what)
}
