//! Toolchains and other places that commands often need and that are not given by default.
//!
//! Owns where they usually are, the variable by which their programs find them, and the one
//! line with which the owner gives those that are there. Gives nothing itself.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// A name, the variable that leads there, and where it is below the user's folder.
const TOOLCHAINS: [(&str, &str, &str); 14] = [
    ("rustup", "RUSTUP_HOME", ".rustup"),
    ("pyenv", "PYENV_ROOT", ".pyenv"),
    ("nvm", "NVM_DIR", ".nvm"),
    ("volta", "VOLTA_HOME", ".volta"),
    ("asdf", "ASDF_DATA_DIR", ".asdf"),
    ("mise", "MISE_DATA_DIR", ".local/share/mise"),
    ("uv", "UV_TOOL_DIR", ".local/share/uv"),
    ("deno", "DENO_INSTALL", ".deno"),
    ("bun", "BUN_INSTALL", ".bun"),
    ("rbenv", "RBENV_ROOT", ".rbenv"),
    ("sdkman", "SDKMAN_DIR", ".sdkman"),
    ("ghcup", "GHCUP_INSTALL_BASE_PREFIX", ".ghcup"),
    ("opam", "OPAMROOT", ".opam"),
    ("pnpm", "PNPM_HOME", ".local/share/pnpm"),
];
/// What of cargo's folder holds no credentials; its programs are on PATH. Its own variable is
/// left alone: what commands fetch goes below their HOME.
const CARGO: &str = ".cargo/bin";

/// A place that could be given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// What it is called.
    pub name: &'static str,
    /// The variable by which its programs find it.
    pub variable: Option<&'static str>,
    /// Where it is, free of symlinks.
    pub path: PathBuf,
}

/// Those that are there for this user, whose environment is looked up.
pub fn found(home: &Path, variable: impl Fn(&str) -> Option<OsString>) -> Vec<Place> {
    let known = TOOLCHAINS.iter().map(|(name, variable_name, folder)| {
        let path = variable(variable_name).map_or_else(|| home.join(folder), PathBuf::from);
        (*name, Some(*variable_name), path)
    });
    let cargo = [("cargo", None, home.join(CARGO))];
    let there = known.chain(cargo).filter_map(|(name, variable, path)| {
        let path = path.canonicalize().ok().filter(|path| path.is_dir())?;
        Some(Place { name, variable, path })
    });
    there.collect()
}

/// Those found that these grants cover, as variables for commands.
pub fn variables(found: &[Place], read: &[PathBuf]) -> Vec<(OsString, OsString)> {
    let covered = |place: &&Place| read.iter().any(|grant| place.path.starts_with(grant));
    let given = found.iter().filter(covered);
    given.filter_map(|place| Some((place.variable?.into(), place.path.clone().into()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_found_and_told_once_it_is_given() {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().canonicalize().unwrap();
        for path in [".rustup", ".cargo/bin", "elsewhere"] {
            std::fs::create_dir_all(home.join(path)).unwrap();
        }
        let elsewhere = home.join("elsewhere");
        let variable = |name: &str| (name == "NVM_DIR").then(|| elsewhere.clone().into_os_string());
        let found = found(&home, variable);
        let names: Vec<_> = found.iter().map(|place| place.name).collect();
        assert_eq!(names, ["rustup", "nvm", "cargo"]);
        assert_eq!(variables(&found, &[]), []);
        let told = variables(&found, &[home.join(".rustup"), home.join(".cargo/bin")]);
        assert_eq!(told, [("RUSTUP_HOME".into(), home.join(".rustup").into())]);
    }
}
