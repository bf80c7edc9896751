//! What the history leaves out of a checkout, as looks find it.
//!
//! Owns what is remembered of it from look to look and from start to start, what of it is
//! news, and the words for it. Does not know why anything is left out, nor who made it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Names in one list.
const NAMED: usize = 20;
/// Where it is kept, beside the index.
const FILE: &str = "left-out.json";
/// Why something is left out that the owner wants out.
pub const EXCLUDED: &str = "in the owner's exclude file";
/// How it begins why something is left out the name of which must not be kept.
pub const ITS_NAME: &str = "its name holds";

/// What is left out, and why, as it has been said already.
pub(super) struct LeftOut {
    file: PathBuf,
    known: BTreeMap<PathBuf, String>,
    /// Whether nobody has looked yet, since there is a history.
    first: bool,
}

impl LeftOut {
    /// As the last process on this folder of git left it. Lost or torn, it is what it was
    /// before the first look.
    pub(super) fn open(git_dir: &Path) -> Self {
        let file = git_dir.join(FILE);
        let kept = std::fs::read(&file);
        let first = kept.is_err();
        let known = serde_json::from_slice(&kept.unwrap_or_default()).unwrap_or_default();
        Self { file, known, first }
    }

    /// What may be let in at any time, so that each look has to see it; not all of many.
    pub(super) fn unread(&self) -> impl Iterator<Item = &PathBuf> {
        let unread = self.known.iter().filter(|(_, why)| *why != EXCLUDED);
        unread.map(|(path, _)| path).take(NAMED)
    }

    /// Those of these that were left out so far, by themselves or with a folder.
    pub(super) fn among<'a>(&self, paths: impl Iterator<Item = &'a PathBuf>) -> BTreeSet<PathBuf> {
        let was_out = |path: &&PathBuf| path.ancestors().any(|part| self.known.contains_key(part));
        paths.filter(was_out).cloned().collect()
    }

    /// Take note of what a look found where it looked. Says what of it is news, a line each;
    /// what the owner wants out is none at the first look, when it was there before.
    pub(super) fn note(
        &mut self,
        found: BTreeMap<PathBuf, String>,
        looked_at: impl Fn(&Path) -> bool,
    ) -> Vec<String> {
        let first = std::mem::take(&mut self.first);
        let is_new = |(path, why): &(&PathBuf, &String)| {
            self.known.get(*path) != Some(*why) && !(first && *why == EXCLUDED)
        };
        let mut news: Vec<_> = found.iter().filter(is_new).map(line).collect();
        news.sort_by_key(|line| is_excluded(line));
        let before = self.known.clone();
        self.known.retain(|path, _| !looked_at(path));
        self.known.extend(found);
        if first || self.known != before {
            // It is for the next start. Should it fail, more may pass for the owner's then.
            let kept = self.known.iter().filter(|(_, why)| !why.starts_with(ITS_NAME));
            let kept: BTreeMap<_, _> = kept.collect();
            let _ = serde_json::to_vec(&kept).map(|text| std::fs::write(&self.file, text));
        }
        news
    }
}

/// What is left out, in words.
pub(super) fn line((path, why): (&PathBuf, &String)) -> String {
    format!("{} ({why})", path.to_string_lossy().escape_debug())
}

/// Whether a line tells of what the owner wants out.
pub fn is_excluded(line: &str) -> bool {
    line.strip_suffix(')').is_some_and(|line| line.ends_with(EXCLUDED))
}

/// The first of these names, and how many more there are.
pub(super) fn list(names: &[String]) -> String {
    let first = names[..names.len().min(NAMED)].join(", ");
    match names.len().saturating_sub(NAMED) {
        0 => first,
        more => format!("{first} and {more} more"),
    }
}
