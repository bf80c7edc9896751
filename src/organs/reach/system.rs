//! What every hand may read: the system, the folders on the owner's PATH, this program.
//!
//! Owns the list. Nothing of the owner's other files is in it. Does not know the home.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

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
pub fn folders() -> Vec<PathBuf> {
    let found = FOLDERS.iter().filter_map(|folder| fs::canonicalize(folder).ok());
    let mut folders: Vec<PathBuf> = Vec::new();
    for folder in found {
        if folders.iter().any(|other| folder.starts_with(other)) {
            continue;
        }
        // For root, a mode keeps nothing from being read.
        // SAFETY: asks for a number.
        if folder == Path::new("/etc") && unsafe { libc::geteuid() } == 0 {
            public(&folder).into_iter().for_each(|path| folders.push(path));
        } else {
            folders.push(folder);
        }
    }
    folders
}

/// Those of PATH that are there, free of symlinks, and no system's. None that holds all that
/// the owner has: a careless PATH is no reason to give it away.
pub fn on_path(path: &OsStr, system: &[PathBuf], home: Option<&Path>) -> Vec<PathBuf> {
    let folders = std::env::split_paths(path).filter(|folder| folder.is_absolute());
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

/// The parts of a folder that everybody may read; the folder itself where that is all of it.
fn public(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let (mut parts, mut whole) = (Vec::new(), true);
    for path in entries.flatten().map(|entry| entry.path()) {
        let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
        let all = if metadata.is_dir() { 0o005 } else { 0o004 };
        if metadata.is_symlink() {
            // Where it leads is another path.
        } else if metadata.mode() & all != all {
            whole = false;
        } else if metadata.is_dir() {
            let inner = public(&path);
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
        let mut parts = public(&root);
        parts.sort();
        assert_eq!(parts, [root.join("a"), root.join("b/x")]);
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
        let found = on_path(&path.unwrap(), &["/usr".into()], Some(&home));
        assert_eq!(found, [home.join("bin")]);
    }
}
