//! Giving and taking back: the owner's word, checked, kept in `config.toml`, in force from the
//! next turn on.
//!
//! Owns that nothing is given which could not be enforced, and what the owner is told of its
//! price. Does not know how it was typed.

use std::path::PathBuf;
use std::sync::{PoisonError, RwLockReadGuard};

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::guard::policy::Network;
use crate::organs::host::Host;
use crate::organs::reach::item::{Item, Shown};
use crate::organs::reach::root::Reach;
use crate::organs::reach::settings;

impl Host {
    /// What its hands reach.
    pub fn reach(&self) -> RwLockReadGuard<'_, Reach> {
        self.reach.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Have its hands reach something else from the next turn on.
    fn set_reach(&self, reach: Reach) {
        *self.reach.write().unwrap_or_else(PoisonError::into_inner) = reach;
    }

    /// Give these for good, or take them back: what was done, a line each.
    pub(in crate::organs) fn grant(&self, items: &[Item], give: bool) -> Result<Value> {
        let items: Vec<_> = items.iter().cloned().map(|item| resolved(item, give)).collect();
        if give {
            items.iter().try_for_each(|item| self.check_item(item))?;
        }
        let file = self.home().file("config.toml");
        let settings = settings::change(&file, &items, give)?;
        let reach = self.reach().with(settings);
        self.set_reach(reach);
        let said: Vec<_> = items.iter().map(|item| told(item, give)).collect();
        Ok(json!({ "said": said.join("\n") }))
    }

    /// Whether it may be given at all.
    pub(in crate::organs) fn check_item(&self, item: &Item) -> Result<()> {
        let there = |path: &PathBuf| {
            ensure!(path.exists(), "{} is not there; make it first", path.display());
            Ok(())
        };
        match item {
            Item::Read(path) => there(path).and_then(|()| self.reach().check_grant(path, false)),
            Item::Write(path) => there(path).and_then(|()| self.reach().check_grant(path, true)),
            Item::Secret(name) => {
                let known = self.settings.catalog.keys().get(name).is_some();
                ensure!(
                    known,
                    "there is no secret {name}; set it with: fledgling secret set {name}"
                );
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// The path that is meant, whatever links lead there: what is given is named by no other.
pub fn resolved(item: Item, give: bool) -> Item {
    let real = |path: PathBuf| path.canonicalize().unwrap_or(path);
    match item {
        Item::Read(path) if give => Item::Read(real(path)),
        Item::Write(path) if give => Item::Write(real(path)),
        item => item,
    }
}

fn told(item: &Item, give: bool) -> String {
    if give {
        return format!("Tool calls may now: {item}. {}", item.cost());
    }
    match item {
        Item::Network(_) => {
            format!("Tool calls reach no network now ({}).", Shown(&Network::None))
        }
        item => format!("Taken back: {item}. What still runs keeps it until it ends."),
    }
}
