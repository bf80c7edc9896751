//! What every hand may read: the system, the folders on the owner's PATH, this program.
//!
//! Owns the list. Nothing of the owner's other files is in it. Does not know the home.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::organs::home::write_private;

/// Folders of the system.
const FOLDERS: [&str; 15] = [
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/etc",
    "/opt",
    "/nix/store",
    "/snap",
    // How many processors there are, and what a container may use of them.
    "/sys/devices",
    "/sys/fs/cgroup",
    // Where the certificates, or the address of the name server, are not below /etc.
    "/var/lib/ca-certificates",
    "/etc/resolv.conf",
];

/// The system's folders, free of symlinks, each once.
///
/// For root, what was private once stays so, and `known` has it from start to start: a hand of
/// root cannot read such a file, but it can make it public, since Landlock sees no modes.
pub fn folders(known: &Path) -> Vec<PathBuf> {
    let found = FOLDERS.iter().filter_map(|folder| fs::canonicalize(folder).ok());
    let mut folders: Vec<PathBuf> = Vec::new();
    for folder in found {
        if folders.iter().any(|other| folder.starts_with(other)) {
            continue;
        }
        // For root, a mode keeps nothing from being read.
        // SAFETY: asks for a number.
        if folder == Path::new("/etc") && unsafe { libc::geteuid() } == 0 {
            folders.extend(still_public(&folder, known));
        } else {
            folders.push(folder);
        }
    }
    folders
}

/// Those of PATH that are there, free of symlinks, and no system's. None that holds all that
/// the owner has: a careless PATH is no reason to give it away. And none the way to which hands
/// may change, who would decide then what they are given.
pub fn on_path(
    path: &OsStr,
    system: &[PathBuf],
    home: Option<&Path>,
    writable: &[PathBuf],
) -> Vec<PathBuf> {
    let folders = std::env::split_paths(path).filter(|folder| folder.is_absolute());
    let folders = folders.filter(|folder| !leads_through(folder, writable));
    let mut found: Vec<PathBuf> = Vec::new();
    for folder in folders.filter_map(|folder| folder.canonicalize().ok()) {
        let known = system.iter().chain(&found).any(|other| folder.starts_with(other));
        let all = home.is_some_and(|home| home.starts_with(&folder)) || folder == Path::new("/");
        if !known && !all {
            found.push(folder);
        }
    }
    found
}

/// Whether a path, or one of the symlinks on its way, is in one of these folders.
fn leads_through(path: &Path, folders: &[PathBuf]) -> bool {
    let mut path = path.to_owned();
    let within = |step: &&Path| {
        let real = step.canonicalize();
        real.is_ok_and(|real| folders.iter().any(|folder| real.starts_with(folder)))
    };
    // As many symlinks as Linux follows.
    for _ in 0..40 {
        let steps: Vec<_> = path.ancestors().collect();
        if steps.iter().any(within) {
            return true;
        }
        let link = steps.iter().rev().find_map(|step| Some((*step, fs::read_link(step).ok()?)));
        let Some((link, target)) = link else { return false };
        let there = link.parent().unwrap_or(link).join(target);
        let rest = path.strip_prefix(link).into_iter().flat_map(Path::components);
        // Part by part: no empty one at the end, behind which a link would be none.
        path = there.components().chain(rest).collect();
    }
    true
}

fn still_public(folder: &Path, known: &Path) -> Vec<PathBuf> {
    let text = fs::read(known).unwrap_or_default();
    let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let before: BTreeSet<PathBuf> = lines.map(|line| OsStr::from_bytes(line).into()).collect();
    let mut private = before.clone();
    let parts = public(folder, &mut private);
    if private != before {
        let lines = private.iter().flat_map(|path| [path.as_os_str().as_bytes(), b"\n"]);
        // Where it cannot be kept, what is private now is left out now.
        let _ = write_private(known, &lines.collect::<Vec<_>>().concat());
    }
    parts
}

/// The parts of a folder that everybody may read; the folder itself where that is all of it.
/// What is private is none, and is added to.
fn public(folder: &Path, private: &mut BTreeSet<PathBuf>) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let (mut parts, mut whole) = (Vec::new(), true);
    // Where a symlink leads is another path, and half of `/etc` are such.
    let entries = entries.flatten();
    let entries = entries.filter(|entry| entry.file_type().is_ok_and(|kind| !kind.is_symlink()));
    for entry in entries {
        let Ok(metadata) = entry.metadata() else { continue };
        let path = entry.path();
        let all = if metadata.is_dir() { 0o005 } else { 0o004 };
        if metadata.mode() & all != all || private.contains(&path) {
            whole = false;
            private.insert(path);
        } else if metadata.is_dir() {
            let inner = public(&path, private);
            whole &= inner.first() == Some(&path);
            parts.extend(inner);
        } else {
            parts.push(path);
        }
    }
    if whole { vec![folder.to_owned()] } else { parts }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn what_only_root_may_read_is_not_public() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        for (file, mode) in [("a/x", 0o644), ("a/y", 0o644), ("b/x", 0o644), ("b/secret", 0o600)] {
            let path = root.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, "").unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        }
        fs::create_dir(root.join("c")).unwrap();
        fs::set_permissions(root.join("c"), fs::Permissions::from_mode(0o700)).unwrap();
        let known = root.join("a/known");
        let parts = || {
            let mut parts = still_public(&root, &known);
            parts.sort();
            parts
        };
        assert_eq!(parts(), [root.join("a"), root.join("b/x")]);
        // Nor what has been made public since.
        for (path, mode) in [("b/secret", 0o644), ("c", 0o755)] {
            fs::set_permissions(root.join(path), fs::Permissions::from_mode(mode)).unwrap();
        }
        fs::set_permissions(&known, fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(parts(), [root.join("a"), root.join("b/x")]);
    }

    #[test]
    fn a_careless_path_gives_nothing_away() {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().canonicalize().unwrap();
        fs::create_dir(home.join("bin")).unwrap();
        let path = std::env::join_paths([
            Path::new("/"),
            &home,
            home.parent().unwrap(),
            &home.join("bin"),
            &home.join("absent"),
            Path::new("bin"),
            Path::new("/usr/bin"),
        ]);
        let found = on_path(&path.unwrap(), &["/usr".into()], Some(&home), &[]);
        assert_eq!(found, [home.join("bin")]);
    }

    #[test]
    fn hands_do_not_choose_what_is_on_path() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        for folder in ["bin", "given", "hidden"] {
            fs::create_dir(root.join(folder)).unwrap();
        }
        for (link, target) in [("given/bin", "../hidden"), ("way", "given/bin"), ("fine", "bin")] {
            std::os::unix::fs::symlink(target, root.join(link)).unwrap();
        }
        let path = ["given/bin", "way", "fine"].map(|folder| root.join(folder));
        let path = std::env::join_paths(path).unwrap();
        let found = |writable: &[PathBuf]| on_path(&path, &[], None, writable);
        assert_eq!(found(&[root.join("given")]), [root.join("bin")]);
        assert_eq!(found(&[]), [root.join("hidden"), root.join("bin")]);
    }
}
