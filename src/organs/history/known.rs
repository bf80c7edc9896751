//! What is recorded of the files that a look is going to meet.
//!
//! Owns which of them were met; the others are gone. Knows no files.

use git2::IndexEntry;

/// Entries by their paths.
pub struct Known {
    /// In the order of their paths.
    entries: Vec<IndexEntry>,
    /// Which of them were met.
    met: Vec<bool>,
}

impl Known {
    /// These. Of several with one path the first counts.
    pub fn new(mut entries: Vec<IndexEntry>) -> Self {
        // Git keeps them sorted: then this takes one pass.
        entries.sort_by(|one, other| one.path.cmp(&other.path));
        entries.dedup_by(|one, other| one.path == other.path);
        let met = vec![false; entries.len()];
        Self { entries, met }
    }

    /// The entry of this path, unless it was met.
    pub fn get(&self, path: &[u8]) -> Option<&IndexEntry> {
        self.find(path).map(|at| &self.entries[at])
    }

    /// The entry of this path, unless it was met before.
    pub fn meet(&mut self, path: &[u8]) -> Option<&IndexEntry> {
        let at = self.find(path)?;
        self.met[at] = true;
        Some(&self.entries[at])
    }

    /// Whether any path begins like this.
    pub fn has_below(&self, prefix: &[u8]) -> bool {
        let first = self.entries.get(self.first(prefix));
        first.is_some_and(|entry| entry.path.starts_with(prefix))
    }

    /// Take all whose paths begin like this for met.
    pub fn meet_below(&mut self, prefix: &[u8]) {
        let first = self.first(prefix);
        let below = self.entries[first..].iter().take_while(|entry| entry.path.starts_with(prefix));
        let count = below.count();
        self.met[first..first + count].fill(true);
    }

    /// The paths that were not met.
    pub fn unmet(self) -> impl Iterator<Item = Vec<u8>> {
        let all = self.entries.into_iter().zip(self.met);
        all.filter(|(_, met)| !met).map(|(entry, _)| entry.path)
    }

    fn find(&self, path: &[u8]) -> Option<usize> {
        let found = self.entries.binary_search_by(|entry| entry.path.as_slice().cmp(path));
        found.ok().filter(|at| !self.met[*at])
    }

    fn first(&self, prefix: &[u8]) -> usize {
        self.entries.partition_point(|entry| entry.path.as_slice() < prefix)
    }
}
