//! One thing that a hand or a session can be given: what it is called, typed and shown, and
//! what it costs its owner.
//!
//! Owns the words for them, so that the owner's commands, an agent's request and the table
//! speak of the same things. Knows neither settings nor who may give what.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::guard::policy::Network;

/// What can be given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "what", content = "which", rename_all = "snake_case")]
pub enum Item {
    /// A file or folder to read and run.
    Read(PathBuf),
    /// A file or folder to change.
    Write(PathBuf),
    /// The network.
    Network(Network),
    /// Unix sockets.
    Unix,
    /// A secret, by its name.
    Secret(String),
    /// Requests to the model in a turn.
    Steps(u64),
    /// Tokens of a turn.
    Tokens(u64),
    /// Seconds of a turn.
    Seconds(u64),
    /// The model that answers.
    Model(String),
}

const WORDS: [&str; 9] =
    ["read", "write", "network", "unix", "secret", "steps", "tokens", "seconds", "model"];
/// As they are typed.
pub const USAGE: &str = "read PATH…, write PATH…, network full|none|PORT…, unix, secret NAME…";

/// What was typed. Paths are relative to `current`, and `~` is `home`.
pub fn parse(words: &[String], current: &Path, home: Option<&Path>) -> Result<Vec<Item>> {
    let (what, rest) = words.split_first().with_context(|| format!("name one of: {USAGE}"))?;
    let path = |word| path(word, current, home);
    let number = || -> Result<u64> {
        let [number] = rest else { bail!("{what} takes a number") };
        number.parse().with_context(|| format!("{number} is not a number"))
    };
    ensure!(WORDS.contains(&what.as_str()), "there is no {what:?} to give; usage: {USAGE}");
    ensure!(what == "unix" || !rest.is_empty(), "{what} needs to be told which; usage: {USAGE}");
    Ok(match what.as_str() {
        "read" => rest.iter().map(|word| Item::Read(path(word))).collect(),
        "write" => rest.iter().map(|word| Item::Write(path(word))).collect(),
        "network" => vec![Item::Network(network(rest)?)],
        "unix" if rest.is_empty() => vec![Item::Unix],
        "unix" => bail!("unix stands alone: all Unix sockets or none"),
        "secret" => rest.iter().cloned().map(Item::Secret).collect(),
        "steps" => vec![Item::Steps(number()?)],
        "tokens" => vec![Item::Tokens(number()?)],
        "seconds" => vec![Item::Seconds(number()?)],
        _ => match rest {
            [model] => vec![Item::Model(model.clone())],
            _ => bail!("model takes one name"),
        },
    })
}

/// A path as it is typed.
pub fn path(word: &String, current: &Path, home: Option<&Path>) -> PathBuf {
    match (home, Path::new(word).strip_prefix("~")) {
        (Some(home), Ok(rest)) => home.join(rest),
        _ => current.join(word),
    }
}

/// A network as it is typed: `full`, `none`, or ports, parted by spaces or commas.
pub fn network(words: &[String]) -> Result<Network> {
    match words {
        [word] if word == "full" => Ok(Network::Full),
        [word] if word == "none" => Ok(Network::None),
        [] => bail!("network needs to be told which: full, none or ports"),
        _ => {
            let ports = words.iter().flat_map(|word| word.split(',')).map(|word| {
                let port = word.parse::<u16>().ok().filter(|port| *port > 0);
                port.with_context(|| {
                    format!("{word} is neither full, none nor a port (1 to 65535)")
                })
            });
            Ok(Network::Ports(ports.collect::<Result<BTreeSet<_>>>()?))
        }
    }
}

impl Item {
    /// What it means to have given it, in a sentence.
    pub fn cost(&self) -> &'static str {
        match self {
            Self::Read(_) => "Commands can read and run everything in it, and pass it on.",
            Self::Write(path) if path.starts_with("/dev") => {
                "Commands then reach what other programs of yours have open there."
            }
            Self::Write(_) => {
                "Undo does not cover it: what commands change or delete there stays so."
            }
            Self::Network(Network::Full) => {
                "Commands can reach every host, and send there whatever they may read."
            }
            Self::Network(Network::None) => "Commands reach nothing, not even this machine.",
            Self::Network(Network::Ports(_)) => {
                "Commands reach any host over TCP on these ports, this machine included; names are found only where 53 is among them."
            }
            Self::Unix => {
                "Commands can speak to every program that listens on a Unix socket; the SSH agent, Docker and the desktop act with your full rights."
            }
            Self::Secret(_) => {
                "Every command finds it in the variable of that name and can use it as you could; its value is withheld from the model only where it is recognised."
            }
            Self::Steps(_) | Self::Tokens(_) | Self::Seconds(_) => "It may cost more.",
            Self::Model(_) => "Its price may be another one.",
        }
    }

    /// Whether it is something that is kept in `config.toml`.
    pub fn is_lasting(&self) -> bool {
        !matches!(self, Self::Steps(_) | Self::Tokens(_) | Self::Seconds(_) | Self::Model(_))
    }
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(path) => write!(f, "read {}", path.display()),
            Self::Write(path) => write!(f, "write {}", path.display()),
            Self::Network(network) => write!(f, "network {}", Shown(network)),
            Self::Unix => f.write_str("unix"),
            Self::Secret(name) => write!(f, "secret {name}"),
            Self::Steps(number) => write!(f, "steps {number}"),
            Self::Tokens(number) => write!(f, "tokens {number}"),
            Self::Seconds(number) => write!(f, "seconds {number}"),
            Self::Model(name) => write!(f, "model {name}"),
        }
    }
}

/// A network as it is typed.
pub struct Shown<'a>(pub &'a Network);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Network::None => f.write_str("none"),
            Network::Full => f.write_str("full"),
            Network::Ports(ports) => {
                let ports: Vec<_> = ports.iter().map(u16::to_string).collect();
                f.write_str(&ports.join(" "))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(words: &str) -> Result<Vec<String>> {
        let words: Vec<_> = words.split(' ').map(str::to_owned).collect();
        let items = parse(&words, Path::new("/here"), Some(Path::new("/me")))?;
        Ok(items.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn what_is_typed_is_what_is_shown() {
        for (typed, shown) in [
            ("read a ~/b /c", &["read /here/a", "read /me/b", "read /c"][..]),
            ("write ~", &["write /me/"]),
            ("network full", &["network full"]),
            ("network none", &["network none"]),
            ("network 443 53", &["network 53 443"]),
            ("network 443,53", &["network 53 443"]),
            ("unix", &["unix"]),
            ("secret A B", &["secret A", "secret B"]),
            ("steps 5", &["steps 5"]),
            ("model m:x", &["model m:x"]),
        ] {
            assert_eq!(parsed(typed).unwrap(), shown, "{typed}");
        }
        for wrong in ["", "read", "network", "network 0", "network x", "unix all", "fly", "steps x"]
        {
            assert!(parsed(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn it_goes_over_the_wire() {
        for words in ["read /a", "network 1,2", "network none", "unix", "tokens 5"] {
            let words: Vec<_> = words.split(' ').map(str::to_owned).collect();
            let items = parse(&words, Path::new("/"), None).unwrap();
            let text = serde_json::to_string(&items).unwrap();
            assert_eq!(serde_json::from_str::<Vec<Item>>(&text).unwrap(), items);
        }
    }
}
