//! Takes away what nobody looks at any more: whole outputs of old tool calls, what went over the
//! wire in conversations long past, and pictures that no conversation names.
//!
//! Owns how much of it is kept. Deletes nothing else, and nothing through a symlink: hands
//! can write in scratch. Of transcripts, which stay for good, it knows how they name a picture.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::organs::home::Home;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// Bytes of either kind that are kept: a few of the largest outputs there can be, or the
/// wire logs of a dozen busy sessions.
const KEPT: u64 = 1 << 30;
/// A model reads a whole output soon after the call, or never.
const OUTPUT_AGE: Duration = DAY.saturating_mul(14);
/// A wire log is looked into while its conversation goes on, and a little longer.
const WIRE_AGE: Duration = DAY.saturating_mul(30);

/// What is kept for a message is named by a transcript soon, and what was read at once. All
/// transcripts are looked through as often.
const MEDIA_AGE: Duration = DAY.saturating_mul(7);
/// A file that says when they were.
const LOOKED: &str = ".looked";
/// How a transcript names a picture, and the length of its name.
const NAMES: &[u8] = b"\"hash\":\"";
const HASH: usize = 40;

/// Files with one stem: a log and the one put aside before it.
#[derive(Default)]
struct Group {
    paths: Vec<PathBuf>,
    size: u64,
    written: Option<SystemTime>,
}

/// Sweep a home, of which messages that wait have these pictures and files. Blocks. What cannot
/// be deleted is left to the next start.
pub fn sweep(home: &Home, waiting: Vec<String>) {
    sweep_within(home, KEPT, SystemTime::now());
    // Where a transcript cannot be read, nothing is known.
    let _ = sweep_media(home, waiting, SystemTime::now());
}

fn sweep_media(home: &Home, waiting: Vec<String>, now: SystemTime) -> io::Result<()> {
    let (folder, looked) = (home.media(), home.media().join(LOOKED));
    if looked.exists() && !aged(&looked, now) {
        return Ok(());
    }
    let entries = fs::read_dir(&folder)?.flatten().map(|entry| entry.path());
    let aged: Vec<_> = entries.filter(|path| *path != looked && aged(path, now)).collect();
    if !aged.is_empty() {
        let named = named(home, waiting)?;
        let is_named = |path: &Path| path.file_name().is_some_and(|name| named.contains(name));
        // What was kept again meanwhile is about to be named.
        let goes = |path: &&PathBuf| !is_named(path) && self::aged(path, now);
        aged.iter().filter(goes).for_each(|path| _ = fs::remove_file(path));
    }
    fs::write(looked, "")
}

fn aged(path: &Path, now: SystemTime) -> bool {
    old(fs::metadata(path).and_then(|file| file.modified()).ok(), MEDIA_AGE, now)
}

/// What some transcript or message names.
fn named(home: &Home, waiting: Vec<String>) -> io::Result<BTreeSet<OsString>> {
    let mut named: BTreeSet<_> = waiting.into_iter().map(OsString::from).collect();
    for entry in fs::read_dir(home.sessions())? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "jsonl") {
            continue;
        }
        let mut reader = BufReader::new(File::open(path)?);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line)? > 0 {
            for at in memchr::memmem::find_iter(&line, NAMES) {
                let hash = line.get(at + NAMES.len()..at + NAMES.len() + HASH);
                named.extend(hash.map(|hash| String::from_utf8_lossy(hash).into_owned().into()));
            }
            line.clear();
        }
    }
    Ok(named)
}

fn sweep_within(home: &Home, kept: u64, now: SystemTime) {
    let outputs = groups(&home.scratch().join("output"), "bash-", &["txt"]);
    drop_from(outputs, kept, |beyond, written| beyond || old(written, OUTPUT_AGE, now));
    let logs = groups(&home.wire(), "", &["jsonl", "old"]);
    drop_from(logs, kept, |beyond, written| beyond && old(written, WIRE_AGE, now));
}

/// The groups of a folder whose names are like this, the latest first.
fn groups(folder: &Path, prefix: &str, extensions: &[&str]) -> Vec<Group> {
    let real = fs::symlink_metadata(folder).is_ok_and(|metadata| metadata.is_dir());
    let entries = real.then(|| fs::read_dir(folder).ok()).flatten();
    let mut groups: BTreeMap<OsString, Group> = BTreeMap::new();
    for entry in entries.into_iter().flatten().flatten() {
        let (path, Ok(metadata)) = (entry.path(), entry.metadata()) else { continue };
        let stem = path.file_stem().unwrap_or_default().to_owned();
        let wanted = stem.as_encoded_bytes().starts_with(prefix.as_bytes())
            && path.extension().is_some_and(|found| extensions.iter().any(|one| found == *one));
        if wanted && metadata.is_file() {
            let group = groups.entry(stem).or_default();
            group.paths.push(path);
            group.size += metadata.len();
            group.written = group.written.max(metadata.modified().ok());
        }
    }
    let mut groups: Vec<_> = groups.into_values().collect();
    groups.sort_by_key(|group| std::cmp::Reverse(group.written));
    groups
}

/// Delete those that may go, by whether they lie beyond what is kept and when they were
/// written.
fn drop_from(groups: Vec<Group>, kept: u64, goes: impl Fn(bool, Option<SystemTime>) -> bool) {
    let mut total = 0;
    for group in groups {
        total += group.size;
        if goes(total > kept, group.written) {
            group.paths.iter().for_each(|path| _ = fs::remove_file(path));
        }
    }
}

fn old(written: Option<SystemTime>, age: Duration, now: SystemTime) -> bool {
    // What is from the future is not old.
    written.and_then(|written| now.duration_since(written).ok()).is_some_and(|since| since > age)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_old_or_too_much_goes() {
        let temp = tempfile::tempdir().unwrap();
        let home = Home::resolve(Some(temp.path().to_owned())).unwrap();
        let now = SystemTime::now();
        let file = |path: &str, size: usize, days: u32| {
            let path = temp.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, vec![b'x'; size]).unwrap();
            let file = fs::File::options().write(true).open(&path).unwrap();
            file.set_modified(now - DAY * days).unwrap();
        };
        let left = |folder: &str| {
            let entries = fs::read_dir(temp.path().join(folder)).unwrap();
            let mut names: Vec<_> =
                entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        };
        for (name, size, days) in
            [("bash-1.txt", 6, 1), ("bash-2.txt", 4, 2), ("bash-3.txt", 1, 3), ("mine.txt", 50, 99)]
        {
            file(&format!("scratch/output/{name}"), size, days);
        }
        // The one put aside is old, its session is not; and what fits stays, however old.
        let logs = [("busy.old", 6, 60), ("busy.jsonl", 2, 1), ("kept.jsonl", 2, 50)];
        let more = [("lost.jsonl", 2, 70), ("lost.old", 2, 80), ("notes", 9, 99)];
        for (name, size, days) in logs.into_iter().chain(more) {
            file(&format!("wire/{name}"), size, days);
        }
        sweep_within(&home, 10, now);
        assert_eq!(left("scratch/output"), ["bash-1.txt", "bash-2.txt", "mine.txt"]);
        assert_eq!(left("wire"), ["busy.jsonl", "busy.old", "kept.jsonl", "notes"]);

        // Large but young logs stay; outputs go with age alone.
        file("wire/young.jsonl", 50, 29);
        sweep_within(&home, 100, now + DAY * 13);
        assert_eq!(left("scratch/output"), ["bash-1.txt", "mine.txt"]);
        sweep_within(&home, 10, now);
        assert_eq!(left("wire"), ["busy.jsonl", "busy.old", "notes", "young.jsonl"]);

        // Not through a symlink.
        fs::rename(temp.path().join("scratch/output"), temp.path().join("elsewhere")).unwrap();
        let link = temp.path().join("scratch/output");
        std::os::unix::fs::symlink(temp.path().join("elsewhere"), link).unwrap();
        sweep_within(&home, 0, now);
        assert_eq!(left("elsewhere"), ["bash-1.txt", "mine.txt"]);
    }

    #[test]
    fn a_picture_stays_as_long_as_something_names_it() {
        let temp = tempfile::tempdir().unwrap();
        let home = Home::resolve(Some(temp.path().to_owned())).unwrap();
        fs::create_dir_all(home.media()).unwrap();
        fs::create_dir_all(home.sessions()).unwrap();
        let now = SystemTime::now();
        let hash = |letter: &str| letter.repeat(HASH);
        for (name, days) in [(hash("a"), 9), (hash("b"), 9), (hash("c"), 9), (hash("d"), 1)] {
            let path = home.media().join(name);
            fs::write(&path, "x").unwrap();
            let file = File::options().write(true).open(&path).unwrap();
            file.set_modified(now - DAY * days).unwrap();
        }
        let line = format!("{{\"images\":[{{\"hash\":\"{}\"}}]}}\n", hash("a"));
        fs::write(home.transcript("s"), line).unwrap();
        let left = || {
            let entries = fs::read_dir(home.media()).unwrap().flatten();
            let names = entries.map(|entry| entry.file_name().into_string().unwrap());
            let mut names: Vec<_> = names.filter(|name| name != LOOKED).collect();
            names.sort();
            names
        };
        sweep_media(&home, vec![hash("b")], now).unwrap();
        assert_eq!(left(), [hash("a"), hash("b"), hash("d")]);
        // Not again before a week has passed.
        fs::remove_file(home.transcript("s")).unwrap();
        sweep_media(&home, Vec::new(), now).unwrap();
        assert_eq!(left().len(), 3);
        sweep_media(&home, Vec::new(), now + DAY * 8).unwrap();
        assert_eq!(left(), [""; 0]);
    }
}
