//! Who may have written when: what tells whose a change is.
//!
//! Owns the spans of time in which something could write in the workspace that was not the
//! owner: each tool call, each job, each service while it runs. A file's time of change
//! (ctime, which nothing short of the system's clock can set) lies in some of these spans or
//! in none; what a file tool wrote is known by its path besides. Where nothing is certain,
//! whoever could have written is suspected, so that nothing a hand wrote ever passes for the
//! owner's. Knows neither files nor commits.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A file system's clock may lag behind by a tick, which is 10 ms at most.
pub const TICK: Duration = Duration::from_millis(20);

/// All who write in one workspace, shared with the calls themselves.
#[derive(Debug, Clone, Default)]
pub struct Writers(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    spans: Vec<Span>,
    next: u64,
    /// Paths that file tools wrote, with who used them.
    wrote: BTreeMap<PathBuf, BTreeSet<String>>,
    /// Those with a turn under way.
    running: BTreeSet<String>,
}

#[derive(Debug)]
struct Span {
    id: u64,
    writer: String,
    begin: SystemTime,
    /// The same by a clock that nobody sets.
    clock: Instant,
    /// None while it lasts.
    end: Option<SystemTime>,
    /// Whether it may write without telling, not just to paths that it tells.
    anywhere: bool,
    /// The files and folders that it can write at all, where it is kept from all others.
    within: Option<Vec<PathBuf>>,
    /// Whether somebody looked since it ended, so that what it wrote is known by its paths.
    seen: bool,
}

/// A span that lasts. Dropping it ends it.
#[derive(Debug)]
pub struct Writing {
    writers: Writers,
    writer: String,
    id: u64,
}

impl Writers {
    /// A turn of this writer begins.
    pub fn begin(&self, writer: &str) {
        self.lock().running.insert(writer.to_owned());
    }

    /// A turn of this writer is over and may be settled; it stays suspect until it is.
    pub fn end(&self, writer: &str) {
        self.lock().running.remove(writer);
    }

    /// What this writer did is committed, all of it or what was over by then: it did nothing
    /// any more.
    pub fn settle(&self, writer: &str, then: Option<SystemTime>) {
        let mut inner = self.lock();
        let by_then = |end| then.is_none_or(|then| end <= then);
        let over = |span: &Span| span.writer == writer && span.end.is_some_and(by_then);
        inner.spans.retain(|span| !over(span));
        if !inner.spans.iter().any(|span| span.writer == writer) {
            inner.wrote.retain(|_, writers| !(writers.remove(writer) && writers.is_empty()));
        }
    }

    /// Something begins that may write: anywhere, or only to paths that it tells in the end.
    pub fn writes(&self, writer: &str, anywhere: bool) -> Writing {
        self.span(writer, anywhere, None)
    }

    /// Something begins that may write without telling, but only these files and what is
    /// beneath these folders (relative to the workspace): its hand is kept from all others.
    /// With none of them it is nobody's suspect.
    pub fn writes_within(&self, writer: &str, paths: Vec<PathBuf>) -> Writing {
        self.span(writer, true, Some(paths))
    }

    fn span(&self, writer: &str, anywhere: bool, within: Option<Vec<PathBuf>>) -> Writing {
        let mut inner = self.lock();
        inner.next += 1;
        let (id, writer) = (inner.next, writer.to_owned());
        let (begin, clock) = (SystemTime::now(), Instant::now());
        let (end, seen) = (None, false);
        let span = Span { id, writer: writer.clone(), begin, clock, end, anywhere, within, seen };
        inner.spans.push(span);
        Writing { writers: self.clone(), writer, id }
    }

    /// What these writers do may still go on, and has since ever.
    pub fn linger(&self, writers: impl IntoIterator<Item = String>) -> Vec<Writing> {
        let lasting = writers.into_iter().map(|writer| self.writes(&writer, true));
        let lasting: Vec<_> = lasting.collect();
        let mut inner = self.lock();
        for span in &mut inner.spans {
            if lasting.iter().any(|writing| writing.id == span.id) {
                span.begin = UNIX_EPOCH + TICK;
            }
        }
        lasting
    }

    /// Those with a turn under way.
    pub fn running(&self) -> BTreeSet<String> {
        self.lock().running.clone()
    }

    /// Who may have made a change of this path that bears this time; everybody who wrote at
    /// all where no time is known. Nobody means: the owner. A later touch gives a file
    /// another time: so until somebody has looked, a time after a span clears nobody.
    pub fn suspects(&self, path: &Path, changed: Option<SystemTime>) -> BTreeSet<String> {
        let inner = self.lock();
        let may = |span: &&Span| changed.is_none_or(|at| span.holds(at) || span.hides(at));
        let spans = inner.spans.iter().filter(|span| span.reaches(path)).filter(may);
        let mut suspects: BTreeSet<_> = spans.map(|span| span.writer.clone()).collect();
        suspects.extend(inner.wrote.get(path).into_iter().flatten().cloned());
        suspects
    }

    /// Whether no span of those who can write this path holds this time: then somebody else
    /// came after those who are suspected.
    pub fn came_after(&self, path: &Path, changed: Option<SystemTime>) -> bool {
        let inner = self.lock();
        let mut spans = inner.spans.iter().filter(|span| span.reaches(path));
        changed.is_some_and(|at| !spans.any(|span| span.holds(at)))
    }

    /// These may have written this path, whatever comes after them.
    pub fn claim(&self, path: &Path, suspects: impl IntoIterator<Item = String>) {
        self.lock().wrote.entry(path.to_owned()).or_default().extend(suspects);
    }

    /// All that differs has been looked at since this time, and is claimed.
    pub fn seen(&self, since: SystemTime) {
        for span in &mut self.lock().spans {
            span.seen |= span.end.is_some_and(|end| end <= since);
        }
    }

    /// Whether this writer did something that is not settled yet.
    pub fn owes(&self, writer: &str) -> bool {
        self.lock().spans.iter().any(|span| span.writer == writer)
    }

    /// The only paths that can have been written since this writer began; none when it may
    /// have been any.
    pub fn told(&self, writer: &str) -> Option<BTreeSet<PathBuf>> {
        let inner = self.lock();
        let mut own = inner.spans.iter().filter(|span| span.writer == writer);
        let paths = inner.wrote.iter().filter(|(_, writers)| writers.contains(writer));
        own.all(|span| !span.anywhere).then(|| paths.map(|(path, _)| path.clone()).collect())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing in here panics half way.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Span {
    fn holds(&self, at: SystemTime) -> bool {
        at + TICK >= self.begin && self.end.is_none_or(|end| at <= end)
    }

    /// Whether it can write this path at all.
    fn reaches(&self, path: &Path) -> bool {
        let mut within = self.within.iter().flatten();
        self.within.is_none() || within.any(|folder| path.starts_with(folder))
    }

    /// Whether it may have written what bears a later time by now.
    fn hides(&self, at: SystemTime) -> bool {
        self.anywhere && !self.seen && at + TICK >= self.begin
    }
}

impl Writing {
    /// It is over, and has written these paths for certain.
    pub fn wrote(self, paths: impl IntoIterator<Item = PathBuf>) {
        let mut inner = self.writers.lock();
        for path in paths {
            inner.wrote.entry(path).or_default().insert(self.writer.clone());
        }
    }

    /// Whose it is.
    pub fn writer(&self) -> &str {
        &self.writer
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        let mut inner = self.writers.lock();
        let Some(span) = inner.spans.iter_mut().find(|span| span.id == self.id) else { return };
        // Should the clock have been set meanwhile, the span is as wide as either clock says.
        let (now, lasted) = (SystemTime::now(), span.clock.elapsed());
        span.end = Some(now.max(span.begin + lasted));
        span.begin = span.begin.min(now.checked_sub(lasted).unwrap_or(UNIX_EPOCH));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(suspects: BTreeSet<String>) -> Vec<String> {
        suspects.into_iter().collect()
    }

    fn at(seconds: u64) -> Option<SystemTime> {
        SystemTime::now().checked_add(Duration::from_secs(seconds))
    }

    #[test]
    fn a_time_tells_who_may_have_written() {
        let writers = Writers::default();
        let path = Path::new("a");
        assert!(writers.suspects(path, at(0)).is_empty());
        let one = writers.writes("one", true);
        assert_eq!(names(writers.suspects(path, at(0))), ["one"]);
        let two = writers.writes("two", true);
        assert_eq!(names(writers.suspects(path, at(0))), ["one", "two"]);
        drop((one, two));
        // Until somebody has looked, it may be theirs and have been touched since.
        assert_eq!(names(writers.suspects(path, at(60))), ["one", "two"]);
        assert!(writers.came_after(path, at(60)) && !writers.came_after(path, None));
        writers.seen(SystemTime::now());
        assert!(writers.suspects(path, at(60)).is_empty());
        // A deletion bears no time.
        assert_eq!(names(writers.suspects(path, None)), ["one", "two"]);
        writers.settle("one", None);
        assert_eq!(names(writers.suspects(path, None)), ["two"]);
    }

    #[test]
    fn what_a_file_tool_wrote_is_known_by_its_path() {
        let writers = Writers::default();
        let writing = writers.writes("one", false);
        let during = at(0);
        writing.wrote([PathBuf::from("a")]);
        assert_eq!(names(writers.suspects(Path::new("a"), at(60))), ["one"]);
        let path = Path::new("a");
        assert!(writers.came_after(path, at(60)) && !writers.came_after(path, during));
        assert!(writers.suspects(Path::new("b"), at(60)).is_empty());
        assert_eq!(writers.told("one"), Some(BTreeSet::from([PathBuf::from("a")])));
        drop(writers.writes("one", true));
        assert_eq!(writers.told("one"), None);
        writers.settle("one", None);
        assert!(writers.suspects(Path::new("a"), None).is_empty());
    }

    #[test]
    fn who_is_kept_from_a_path_is_not_suspected_of_it() {
        let writers = Writers::default();
        let names = |path: &str, time| names(writers.suspects(Path::new(path), time));
        let paths = vec![PathBuf::from("data"), PathBuf::from("notes/log.md")];
        let service = writers.writes_within("service", paths);
        for path in ["data", "data/a/b", "notes/log.md"] {
            assert_eq!(names(path, at(0)), ["service"], "{path}");
            assert_eq!(names(path, None), ["service"], "{path}");
            assert!(!writers.came_after(Path::new(path), at(0)), "{path}");
        }
        for path in ["database", "notes/other.md", "notes", "a"] {
            assert!(names(path, at(0)).is_empty() && names(path, None).is_empty(), "{path}");
            assert!(writers.came_after(Path::new(path), at(0)), "{path}");
        }
        // It does not say what it wrote, so that its paths have to be looked at.
        assert_eq!(writers.told("service"), None);
        // What lasts is not settled by a commit of what it did so far.
        writers.settle("service", None);
        assert_eq!(names("data/a", at(0)), ["service"]);
        drop(service);
        assert_eq!(names("data/a", at(60)), ["service"]);
        assert!(names("a", at(60)).is_empty());
        writers.settle("service", None);
        assert!(names("data/a", None).is_empty());

        let harmless = writers.writes_within("harmless", Vec::new());
        assert!(names("a", at(0)).is_empty() && writers.owes("harmless"));
        drop(harmless);
    }

    #[test]
    fn what_lingers_may_have_written_at_any_time() {
        let writers = Writers::default();
        let lasting = writers.linger(["killed".to_owned()]);
        assert_eq!(names(writers.suspects(Path::new("a"), Some(UNIX_EPOCH))), ["killed"]);
        // What lasts is not settled by a commit of what it did so far.
        writers.settle("killed", None);
        assert_eq!(names(writers.suspects(Path::new("a"), at(60))), ["killed"]);
        drop(lasting);
        writers.settle("killed", None);
        assert!(writers.suspects(Path::new("a"), None).is_empty());
    }
}
