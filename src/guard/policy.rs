//! What a hand may touch: a chain of links from the root, which is the owner's, to the leaf.
//!
//! Owns the algebra: a hand may do what every link allows, so that a longer chain is never
//! wider, whatever its last link says. Knows no tools, and not how the kernel is told
//! (`confine.rs`).

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use crate::walls::network::Network;

use crate::files::withheld::Withheld;

/// What a hand is given.
#[derive(Debug, Clone)]
pub struct Policy {
    /// Where it works, absolute and free of symlinks.
    pub workspace: PathBuf,
    /// Where it keeps what nobody tracks, absolute and free of symlinks.
    pub scratch: PathBuf,
    /// The whole environment of what it starts.
    pub env: Vec<(OsString, OsString)>,
    /// What it may touch.
    pub chain: Chain,
    /// Folders that were made for it, for instance its door: no link has to name them.
    pub own: Vec<PathBuf>,
    /// Kept open above what it starts until that has ended, be the host killed meanwhile: a
    /// lock on it tells whether anything still runs.
    pub held: Arc<File>,
    /// What nobody is told of what it reads and says.
    pub withheld: Withheld,
}

/// What confines a hand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Chain {
    /// Nothing, as the owner decided: it has the rights of the user who runs the program.
    Off,
    /// All of these links, from the root to the leaf.
    Links(Vec<Link>),
}

/// What one link of a chain allows. What all links are given, as `/dev/null`, is not in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// Files and folders that may be read and run, absolute and free of symlinks.
    pub read: Vec<PathBuf>,
    /// Those that may be read, run and changed, likewise.
    pub write: Vec<PathBuf>,
    /// The network.
    pub network: Network,
    /// Whether Unix sockets may be opened.
    pub unix: bool,
    /// Names of secrets; all that the links above allow where it says nothing.
    pub secrets: Option<BTreeSet<String>>,
    /// Names of tools, likewise.
    pub tools: Option<BTreeSet<String>>,
}

impl Chain {
    /// What all links leave of the network.
    pub fn network(&self) -> Network {
        self.links().iter().fold(Network::Full, |left, link| left.and(&link.network))
    }

    /// Whether all links allow Unix sockets.
    pub fn unix(&self) -> bool {
        self.links().iter().all(|link| link.unix)
    }

    /// The secrets that all links allow; all there are where none says anything.
    pub fn secrets(&self) -> Option<BTreeSet<String>> {
        common(self.links().iter().filter_map(|link| link.secrets.as_ref()))
    }

    /// The tools that all links allow, likewise.
    pub fn tools(&self) -> Option<BTreeSet<String>> {
        common(self.links().iter().filter_map(|link| link.tools.as_ref()))
    }

    /// The links; none where nothing is confined.
    pub fn links(&self) -> &[Link] {
        match self {
            Self::Off => &[],
            Self::Links(links) => links,
        }
    }
}

fn common<'a>(mut sets: impl Iterator<Item = &'a BTreeSet<String>>) -> Option<BTreeSet<String>> {
    let first = sets.next()?.clone();
    Some(sets.fold(first, |left, set| &left & set))
}
