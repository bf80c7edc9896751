//! The keys to models: from the environment, once, and from `secrets.toml`.
//!
//! Owns their values and where they came from. Removes them from the environment before
//! anything else runs, so that no child is born with them. Does not know which model
//! needs which.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::organs::config::is_absent;
use crate::organs::home::write_private;

/// The variables that hold keys.
pub const VARIABLES: [&str; 3] = ["ANTHROPIC_API_KEY", "OPENAI_API_KEY", "OPENROUTER_API_KEY"];

/// Keys by name. Never printed.
#[derive(Clone, Default)]
pub struct Keys {
    used: BTreeMap<String, String>,
    /// Those of the file in place of which the environment's are used: secrets all the same.
    unused: Vec<(String, String)>,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.used.keys()).finish()
    }
}

impl Keys {
    /// Take the keys out of the environment.
    ///
    /// # Safety
    /// Only while the process has one thread.
    pub unsafe fn take_from_environment() -> Self {
        let mut keys = BTreeMap::new();
        for name in VARIABLES {
            if let Ok(value) = std::env::var(name)
                && !value.trim().is_empty()
            {
                keys.insert(name.to_owned(), value.trim().to_owned());
            }
            // SAFETY: no other thread reads the environment, as the caller promises.
            unsafe { std::env::remove_var(name) };
        }
        Self { used: keys, unused: Vec::new() }
    }

    /// Add those of `secrets.toml`; what the environment gave stays first.
    pub fn with_file(mut self, path: &Path) -> Result<Self> {
        for (name, value) in read(path)? {
            match self.used.entry(name) {
                Entry::Occupied(used) => self.unused.push((used.key().clone(), value)),
                Entry::Vacant(free) => _ = free.insert(value),
            }
        }
        Ok(self)
    }

    /// Add one, or put another in its place.
    pub fn insert(&mut self, name: &str, value: &str) {
        self.used.insert(name.to_owned(), value.to_owned());
    }

    /// The key of this name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.used.get(name).map(String::as_str)
    }

    /// All that are known, with their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let unused = self.unused.iter().map(|(name, value)| (name, value));
        self.used.iter().chain(unused).map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

/// Keep a key in `secrets.toml`, readable by the owner alone.
pub fn store(path: &Path, name: &str, value: &str) -> Result<()> {
    let mut secrets = read(path)?;
    secrets.insert(name.to_owned(), value.to_owned());
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
