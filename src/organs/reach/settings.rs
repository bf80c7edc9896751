//! `[hands]` in `config.toml`: what the owner gives to hands, and how it is changed there.
//!
//! Owns the names and defaults of these settings. A change leaves everything else in the
//! file, comments included, as the owner wrote it. Does not know what a grant amounts to.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;
use toml_edit::{Array, DocumentMut, Item as Entry, Table, value};

use crate::guard::policy::Network;
use crate::organs::config::{Config, is_absent};
use crate::organs::home::write_private;
use crate::organs::reach::item::Item;

/// Whether hands are confined.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Confine {
    /// They are, or nothing is run.
    #[default]
    On,
    /// They are not: they have the rights of the user.
    Off,
}

/// `[hands]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HandsSettings {
    /// Files and folders that may be read besides the system's and the workspace.
    pub read: Vec<PathBuf>,
    /// Those that may be changed besides the workspace.
    pub write: Vec<PathBuf>,
    /// The network.
    pub network: Network,
    /// Whether Unix sockets may be opened.
    pub unix: bool,
    /// Names of secrets that are given to every command.
    pub secrets: BTreeSet<String>,
}

impl Default for HandsSettings {
    fn default() -> Self {
        let (read, write, secrets) = (Vec::new(), Vec::new(), BTreeSet::new());
        Self { read, write, network: Network::Full, unix: false, secrets }
    }
}

impl HandsSettings {
    /// Whether this stands in them, to be taken back.
    pub fn names(&self, item: &Item) -> bool {
        match item {
            Item::Read(path) => self.read.contains(path),
            Item::Write(path) => self.write.contains(path),
            Item::Network(_) => self.network != Network::None,
            Item::Unix => self.unix,
            Item::Secret(name) => self.secrets.contains(name),
            _ => false,
        }
    }
}

/// Give these in the file, or take them back. What its settings are then.
pub fn change(path: &Path, items: &[Item], give: bool) -> Result<HandsSettings> {
    let shown = path.display();
    let text = match std::fs::read_to_string(path) {
        Err(error) if is_absent(&error) => String::new(),
        text => text.with_context(|| format!("cannot read {shown}"))?,
    };
    let before = Config::parse(&text).with_context(|| format!("mistake in {shown}"))?.hands;
    let mut document: DocumentMut = text.parse().with_context(|| format!("mistake in {shown}"))?;
    if !document.contains_key("hands") {
        // What stands at the end of the file stays above it, where no table begins.
        let end = document.trailing().as_str().unwrap_or_default().to_owned();
        document.set_trailing("");
        let mut table = Table::new();
        let apart = if text.is_empty() { "" } else { "\n" };
        table.decor_mut().set_prefix(end + apart);
        document.insert("hands", Entry::Table(table));
    }
    let hands = &mut document["hands"];
    let hands = hands.as_table_like_mut();
    let hands =
        hands.with_context(|| format!("`hands` in {shown} is not a table; write it as [hands]"))?;
    for item in items {
        let (name, entry) =
            match item {
                Item::Read(path) => (
                    "read",
                    Some(path.to_str().context(
                        "a path that is not UTF-8 cannot stand in config.toml; rename it",
                    )?),
                ),
                Item::Write(path) => (
                    "write",
                    Some(path.to_str().context(
                        "a path that is not UTF-8 cannot stand in config.toml; rename it",
                    )?),
                ),
                Item::Secret(name) => ("secrets", Some(name.as_str())),
                Item::Network(network) => {
                    let network =
                        if give { network.clone() } else { less(&before.network, network)? };
                    hands.insert("network", written(&network));
                    continue;
                }
                Item::Unix => {
                    hands.insert("unix", value(give));
                    continue;
                }
                _ => anyhow::bail!("{item} cannot be given for good; change it in {shown}"),
            };
        let Some(entry) = entry else { continue };
        let list = hands.entry(name).or_insert_with(|| value(Array::new()));
        let list = list.as_array_mut();
        let list = list.with_context(|| {
            format!("`{name}` in {shown} is not a list; write it as {name} = [\"…\"]")
        })?;
        let there = list.iter().position(|one| one.as_str() == Some(entry));
        match (give, there) {
            (true, None) => list.push(entry),
            (false, Some(at)) => drop(list.remove(at)),
            (true, Some(_)) => {}
            (false, None) => {
                bail!("{item} was not given in {shown}; `fledgling policy` shows what is");
            }
        }
    }
    let text = document.to_string();
    // Where the owner keeps it elsewhere, and a symlink leads there, it stays so.
    let path = &path.canonicalize().unwrap_or_else(|_| path.to_owned());
    // What the next start could not read is never written.
    let settings = Config::parse(&text).with_context(|| format!("mistake in {shown}"))?.hands;
    write_private(path, text.as_bytes()).with_context(|| format!("cannot write {shown}"))?;
    Ok(settings)
}

/// What stays of a network when this is taken back.
fn less(network: &Network, taken: &Network) -> Result<Network> {
    match (network, taken) {
        (Network::Full, Network::Ports(_)) => bail!(
            "every port is open; name those that stay open, with: fledgling allow network PORT…"
        ),
        (Network::Ports(all), Network::Ports(taken)) if !all.is_subset(taken) => {
            Ok(Network::Ports(all - taken))
        }
        _ => Ok(Network::None),
    }
}

fn written(network: &Network) -> Entry {
    match network {
        Network::None => value("none"),
        Network::Full => value("full"),
        Network::Ports(ports) => {
            value(ports.iter().map(|port| i64::from(*port)).collect::<Array>())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_change_leaves_the_rest_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.toml");
        let before = "# mine\nmodel = 'x' # this one\n\n[limits]\nsteps = 3\n";
        fs::write(&path, before).unwrap();
        let items = [
            Item::Read("/a b".into()),
            Item::Network(Network::Ports([443, 53].into())),
            Item::Unix,
            Item::Secret("TOKEN".into()),
        ];
        let settings = change(&path, &items, true).unwrap();
        assert_eq!(settings.read, [PathBuf::from("/a b")]);
        assert_eq!(settings.network, Network::Ports([53, 443].into()));
        assert!(settings.unix && settings.secrets.contains("TOKEN"));
        let text = fs::read_to_string(&path).unwrap();
        let added = "\n[hands]\nread = [\"/a b\"]\nnetwork = [53, 443]\nunix = true\nsecrets = [\"TOKEN\"]\n";
        assert_eq!(text, format!("{before}{added}"));
        assert_eq!(change(&path, &items, true).unwrap(), settings, "twice is once");
        let settings = change(&path, &items, false).unwrap();
        assert_eq!(settings, HandsSettings { network: Network::None, ..HandsSettings::default() });
        let again = format!("{:#}", change(&path, &items[..1], false).unwrap_err());
        assert!(again.starts_with("read /a b was not given in "), "{again}");
        assert!(fs::read_to_string(&path).unwrap().starts_with(before));
    }

    #[test]
    fn a_file_that_is_kept_elsewhere_stays_there() {
        let folder = tempfile::tempdir().unwrap();
        let [path, real] = ["config.toml", "mine.toml"].map(|name| folder.path().join(name));
        fs::write(&real, "model = 'x' # mine\n").unwrap();
        std::os::unix::fs::symlink("mine.toml", &path).unwrap();
        change(&path, &[Item::Unix], true).unwrap();
        assert!(path.is_symlink());
        let text = fs::read_to_string(&real).unwrap();
        assert_eq!(text, "model = 'x' # mine\n\n[hands]\nunix = true\n");
    }

    #[test]
    fn comments_alone_stay_above() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.toml");
        for before in ["# model = \"x\"\n# and so on\n", "[limits]\nsteps = 3\n\n# the end\n"] {
            fs::write(&path, before).unwrap();
            change(&path, &[Item::Unix], true).unwrap();
            let text = fs::read_to_string(&path).unwrap();
            assert_eq!(text, format!("{before}\n[hands]\nunix = true\n"));
        }
    }

    #[test]
    fn ports_are_taken_back_one_by_one() {
        let ports = |ports: &[u16]| Network::Ports(ports.iter().copied().collect());
        let all = ports(&[53, 80, 443]);
        assert_eq!(less(&all, &ports(&[80])).unwrap(), ports(&[53, 443]));
        assert_eq!(less(&all, &all).unwrap(), Network::None);
        assert_eq!(less(&all, &Network::Full).unwrap(), Network::None);
        assert_eq!(less(&Network::Full, &Network::Full).unwrap(), Network::None);
        assert!(less(&Network::Full, &ports(&[80])).is_err());
    }

    #[test]
    fn a_file_with_a_mistake_stays_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.toml");
        for text in ["model = ", "hands = 3\n", "[hands]\nread = 'x'\n", "[hand]\n"] {
            fs::write(&path, text).unwrap();
            assert!(change(&path, &[Item::Read("/a".into())], true).is_err(), "{text}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
    }
}
