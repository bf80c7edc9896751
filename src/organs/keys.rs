//! Secrets by name, the keys to models among them: from the environment, once, and from
//! `secrets.toml`.
//!
//! Owns their values and where they came from. Removes them from the environment before
//! anything else runs, so that no child is born with them. Does not know who needs which.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use crate::organs::config::is_absent;
use crate::organs::home::write_private;

/// The variables that hold keys.
pub const VARIABLES: [&str; 3] = ["ANTHROPIC_API_KEY", "OPENAI_API_KEY", "OPENROUTER_API_KEY"];

/// Secrets by name. Never printed.
#[derive(Clone, Default)]
pub struct Keys {
    given: BTreeMap<String, String>,
    /// Those of the file. One that the environment gave too is not used, and secret all the
    /// same.
    kept: BTreeMap<String, String>,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.names().keys()).finish()
    }
}

impl Keys {
    /// Take the keys out of the environment.
    ///
    /// # Safety
    /// Only while the process has one thread.
    pub unsafe fn take_from_environment() -> Self {
        let mut given = BTreeMap::new();
        for name in VARIABLES {
            if let Ok(value) = std::env::var(name)
                && !value.trim().is_empty()
            {
                given.insert(name.to_owned(), value.trim().to_owned());
            }
            // SAFETY: no other thread reads the environment, as the caller promises.
            unsafe { std::env::remove_var(name) };
        }
        Self { given, kept: BTreeMap::new() }
    }

    /// With those of `secrets.toml` as they are now; what the environment gave stays first.
    pub fn with_file(self, path: &Path) -> Result<Self> {
        Ok(Self { kept: read(path)?, ..self })
    }

    /// Add one, or put another in its place.
    pub fn insert(&mut self, name: &str, value: &str) {
        self.kept.insert(name.to_owned(), value.to_owned());
    }

    /// The secret of this name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.given.get(name).or_else(|| self.kept.get(name)).map(String::as_str)
    }

    /// All that are known, with their names; one of two of a name is not used.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let all = self.given.iter().chain(&self.kept);
        all.map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// All names in order, with whether the environment gave it and whether the file has it.
    pub fn names(&self) -> BTreeMap<&str, (bool, bool)> {
        let names = self.iter().map(|(name, _)| name);
        names
            .map(|name| (name, (self.given.contains_key(name), self.kept.contains_key(name))))
            .collect()
    }
}

/// See that a secret may have this name.
pub fn check_name(name: &str) -> Result<()> {
    let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    // It is not repeated: somebody may have typed the value in its place.
    ensure!(
        plain && !name.is_empty() && !name.starts_with(|c: char| c.is_ascii_digit()),
        "bad name of a secret: letters, digits and underscores, the first no digit, as in GITHUB_TOKEN; commands that are given it find it in an environment variable of that name"
    );
    Ok(())
}

/// Keep a secret in `secrets.toml`, readable by the owner alone, or forget it there when
/// there is no value.
pub fn store(path: &Path, name: &str, value: Option<&str>) -> Result<()> {
    let mut secrets = read(path)?;
    match value {
        Some(value) => secrets.insert(name.to_owned(), value.to_owned()),
        None => secrets.remove(name),
    };
    let text = toml::to_string(&secrets)?;
    write_private(path, text.as_bytes()).with_context(|| format!("cannot write {}", path.display()))
}

fn read(path: &Path) -> Result<BTreeMap<String, String>> {
    match std::fs::read_to_string(path) {
        // The error must not quote the file: it holds secrets.
        Ok(text) => toml::from_str(&text).map_err(|error: toml::de::Error| {
            let line = error.span().map_or(1, |span| text[..span.start].matches('\n').count() + 1);
            anyhow::anyhow!(
                "mistake in {}, line {line}: expected lines NAME = \"value\"",
                path.display()
            )
        }),
        Err(error) if is_absent(&error) => Ok(BTreeMap::new()),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn what_is_stored_comes_back_until_it_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secrets.toml");
        let value = "one\ntwo \"three\" 'four' \\ ä";
        for (name, value) in [("A", Some(value)), ("B", Some("b")), ("B", None), ("B", None)] {
            store(&path, name, value).unwrap();
        }
        let keys = Keys::default().with_file(&path).unwrap();
        assert_eq!(keys.iter().collect::<Vec<_>>(), [("A", value)]);
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn the_environment_comes_first_and_nothing_shows_a_value() {
        let mut keys =
            Keys { given: BTreeMap::from([("A".into(), "given".into())]), ..Keys::default() };
        keys.insert("A", "kept");
        keys.insert("B", "kept too");
        assert_eq!((keys.get("A"), keys.get("B")), (Some("given"), Some("kept too")));
        assert_eq!(keys.names(), BTreeMap::from([("A", (true, true)), ("B", (false, true))]));
        assert_eq!(keys.iter().count(), 3);
        assert_eq!(format!("{keys:?}"), r#"{"A", "B"}"#);
    }

    #[test]
    fn a_name_is_one_of_an_environment_variable() {
        for (name, good) in
            [("A", true), ("_a9", true), ("", false), ("9A", false), ("A-B", false), ("Ä", false)]
        {
            assert_eq!(check_name(name).is_ok(), good, "{name}");
        }
        assert!(!check_name("sk-ant-value").unwrap_err().to_string().contains("value"));
    }
}
