//! The owner's secrets in a running host: kept, forgotten, listed.
//!
//! Owns that whatever withholds them learns of a change at once, and every model of its key.
//! Knows no terminal, and tells nobody a value or how long one is.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::files::withheld::SHORTEST;
use crate::organs::host::Host;
use crate::organs::keys;
use crate::organs::lane::lock;
use crate::organs::verb::Hidden;

/// Bytes of a value at most: Linux takes 128 KB in a variable.
const LONGEST: usize = 64 << 10;

impl Host {
    /// Keep a secret, or forget one that was kept.
    pub(super) fn secret(&self, name: &str, value: Option<Hidden>) -> Result<Value> {
        let keys = self.settings.catalog.keys();
        let (given, kept) = keys.names().get(name).copied().unwrap_or_default();
        let Some(Hidden(value)) = value else {
            ensure!(given || kept, "there is no such secret; `fledgling secret list` names them");
            ensure!(
                kept,
                "{name} comes from the environment in which fledgling was started, and not from secrets.toml; take it out there"
            );
            self.store(name, None)?;
            return Ok(json!({ "name": name, "given": given }));
        };
        keys::check_name(name)?;
        ensure!(!value.is_empty(), "the value of {name} is empty; nothing was kept");
        // No variable could hold it, and to look for it would take long.
        ensure!(
            value.len() <= LONGEST && !value.contains('\0'),
            "the value of {name} has more than {LONGEST} bytes, or a zero byte, so that no command could be given it; nothing was kept"
        );
        self.store(name, Some(&value))?;
        let short = value.len() < SHORTEST;
        Ok(json!({ "name": name, "replaced": kept, "short": short, "given": given }))
    }

    /// What secrets there are, where each comes from and which models show it to a server.
    pub(super) fn secrets(&self) -> Value {
        let catalog = &self.settings.catalog;
        let keys = catalog.keys();
        let row = |(name, (given, kept)): (&str, (bool, bool))| {
            let models = catalog.users_of(name);
            json!({ "name": name, "environment": given, "file": kept, "models": models })
        };
        keys.names().into_iter().map(row).collect()
    }

    fn store(&self, name: &str, value: Option<&str>) -> Result<()> {
        let path = self.home().file("secrets.toml");
        keys::store(&path, name, value)?;
        let catalog = &self.settings.catalog;
        catalog.reread(&path)?;
        self.withheld.learn(catalog.secrets())?;
        // They hold their keys. A script goes on where it is, and has none.
        lock(&self.models).retain(|spec, _| spec.starts_with("script:"));
        self.granted_anew();
        Ok(())
    }
}
