//! A folder in which something is tried out on the files of a commit, gone with all that is
//! in it.
//!
//! Owns where such folders are and that none stays, also where a program locks up what it
//! keeps and after a kill. Knows neither commits nor what is tried.

use std::fs::{self, DirBuilder, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// What a folder is for: how its name begins, and how many digits follow.
type Purpose = (&'static str, usize);

/// Where a search tries a commit.
pub const BISECT: Purpose = ("bisect-", 8);
/// Where a recording is replayed: as long as `workspace`, so that what is cut or set in columns
/// is so at the same place.
pub const REPLAY: Purpose = ("replay-", 2);
/// For temporary files of a replay, as long as `scratch`.
pub const TEMPORARY: Purpose = ("try-", 3);
/// For what a replay asks of the host.
pub const DOOR: Purpose = ("try-", 4);

/// The folder, free of symlinks.
pub struct Checkout(pub PathBuf);

impl Checkout {
    /// A new one. Beside scratch, not in it: another hand could put a link in its place while
    /// it is filled, and commits would be written where that leads.
    pub fn new(scratch: &Path, (begin, digits): Purpose) -> Result<Self> {
        loop {
            let number = fastrand::u64(..1 << (4 * digits));
            let folder = scratch.with_file_name(format!("{begin}{number:0digits$x}"));
            let context = || format!("cannot create {}", folder.display());
            match DirBuilder::new().mode(0o700).create(&folder) {
                // There are not many such names.
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                made => {
                    made.with_context(context)?;
                    return Ok(Self(folder.canonicalize().with_context(context)?));
                }
            }
        }
    }
}

impl Drop for Checkout {
    fn drop(&mut self) {
        remove(&self.0);
    }
}

/// Remove those that a kill left in a home. Nothing may run in them any more.
pub fn sweep(home: &Path) {
    for entry in fs::read_dir(home).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let is_ours = [BISECT, REPLAY, TEMPORARY, DOOR].iter().any(|(begin, digits)| {
            let rest = name.to_str().and_then(|name| name.strip_prefix(begin));
            rest.is_some_and(|rest| rest.len() == *digits && u64::from_str_radix(rest, 16).is_ok())
        });
        if is_ours && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove(&entry.path());
        }
    }
}

fn remove(folder: &Path) {
    if fs::remove_dir_all(folder).is_err() {
        open_up(folder);
        let _ = fs::remove_dir_all(folder);
    }
}

/// Some programs lock up what they keep, as Go does with its modules. Nothing runs any more
/// that could put a link in the way.
fn open_up(folder: &Path) {
    let _ = fs::set_permissions(folder, Permissions::from_mode(0o700));
    for item in fs::read_dir(folder).into_iter().flatten().flatten() {
        if item.file_type().is_ok_and(|kind| kind.is_dir()) {
            open_up(&item.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_kill_left_goes_and_nothing_else() {
        let temp = tempfile::tempdir().unwrap();
        let made = |name: &str| fs::create_dir_all(temp.path().join(name)).unwrap();
        let folders = ["bisect-0123abcd/in/it", "replay-0f", "try-012", "try-mine", "scratch"];
        folders.into_iter().for_each(made);
        let locked = temp.path().join("bisect-0123abcd/in");
        fs::set_permissions(&locked, Permissions::from_mode(0o500)).unwrap();
        let kept = Checkout::new(&temp.path().join("scratch"), REPLAY).unwrap();
        fs::write(temp.path().join("replay-11"), "a file").unwrap();
        drop(kept);
        sweep(temp.path());
        let left = fs::read_dir(temp.path()).unwrap();
        let mut left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["replay-11", "scratch", "try-mine"]);
    }
}
