//! Giving and taking back: the owner's word, checked, kept in `config.toml`, in force from the
//! next call on.
//!
//! Owns that nothing is given which could not be enforced, and what the owner is told of its
//! price. Does not know how it was typed.

use std::path::PathBuf;
use std::sync::{PoisonError, RwLockReadGuard};

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::organs::config::Config;
use crate::organs::host::Host;
use crate::organs::reach::item::Item;
use crate::organs::reach::root::Reach;
use crate::organs::reach::settings;

impl Host {
    /// What its hands reach.
    pub fn reach(&self) -> RwLockReadGuard<'_, Reach> {
        self.reach.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Have its hands reach something else from the next call on.
    fn set_reach(&self, reach: Reach) {
        *self.reach.write().unwrap_or_else(PoisonError::into_inner) = reach;
        self.granted_anew();
    }

    /// What is given has changed: turns under way look at it again before their next call.
    pub(in crate::organs) fn granted_anew(&self) {
        self.grants.send_modify(|count| *count += 1);
    }

    /// Give these for good, or take them back: what was done, a line each.
    pub(in crate::organs) fn grant(&self, items: &[Item], give: bool) -> Result<Value> {
        let there = Config::read(&self.home().file("config.toml"))?.hands;
        let mut named = Vec::new();
        for item in items {
            // What has become a symlink since is taken back by the name that was given.
            let as_typed = !give && (there.names(item) || self.state.is_granted(item)?);
            named.push(if as_typed { item.clone() } else { resolved(item.clone()) });
        }
        let items = named;
        if give {
            items.iter().try_for_each(|item| self.check_item(item).and(self.check_new(item)))?;
        }
        self.keep(&items, give)?;
        // A network is said whole: what conversations had of another is over.
        for item in items.iter().filter(|item| matches!(item, Item::Network(_))) {
            self.state.ungrant(item)?;
        }
        let said: Vec<_> = items.iter().map(|item| told(item, give)).collect();
        Ok(json!({ "said": said.join("\n") }))
    }

    /// The same, for what has its final name and was checked. What conversations were given is
    /// taken back with the rest.
    pub(in crate::organs) fn keep(&self, items: &[Item], give: bool) -> Result<()> {
        let file = self.home().file("config.toml");
        let there = Config::read(&file)?.hands;
        let mut kept = items.to_vec();
        if !give {
            let mut gone = Vec::new();
            for item in items {
                if self.state.ungrant(item)? && !there.names(item) {
                    gone.push(item);
                }
            }
            kept.retain(|item| !gone.contains(&item));
        }
        let settings = settings::change(&file, &kept, give)?;
        let reach = self.reach().with(settings);
        self.set_reach(reach);
        Ok(())
    }

    /// Whether it is not what every conversation of the owner's has.
    fn check_new(&self, item: &Item) -> Result<()> {
        let own = [self.home().workspace(), self.home().scratch()];
        let mut own = own.iter().filter_map(|folder| folder.canonicalize().ok());
        match item {
            Item::Read(path) | Item::Write(path) => {
                let has = own.any(|folder| path.starts_with(folder));
                ensure!(
                    !has,
                    "{} is in reach of every tool call as it is; nothing has to be given",
                    path.display()
                );
            }
            _ => {}
        }
        Ok(())
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
pub fn resolved(item: Item) -> Item {
    let real = |path: PathBuf| path.canonicalize().unwrap_or(path);
    match item {
        Item::Read(path) => Item::Read(real(path)),
        Item::Write(path) => Item::Write(real(path)),
        item => item,
    }
}

fn told(item: &Item, give: bool) -> String {
    if give {
        return format!("Tool calls may now: {item}. {}", item.cost());
    }
    match item {
        Item::Network(_) => format!("Taken back: {item}. `fledgling policy` shows what is left."),
        item => format!("Taken back: {item}. What still runs keeps it until it ends."),
    }
}
