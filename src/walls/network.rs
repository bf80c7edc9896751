//! How much of the network there is.
//!
//! Owns what is left of two. Knows neither sockets nor ports.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

/// What of the network can be reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// Nothing, not even this machine.
    None,
    /// Everything, this machine included.
    Full,
    /// These ports over TCP, on any host; nothing can be offered.
    #[serde(untagged)]
    Ports(BTreeSet<u16>),
}

impl Network {
    /// What both allow.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        match (self, other) {
            (Self::Full, rest) | (rest, Self::Full) => rest.clone(),
            (Self::Ports(a), Self::Ports(b)) => Self::Ports(a & b),
            _ => Self::None,
        }
    }
}
