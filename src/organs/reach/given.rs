//! What a chain allows of what can be given, and how a link is widened by it.
//!
//! Owns the one reading of an item as a right. Whether it may be given is not its business.

use std::path::{Path, PathBuf};

use crate::guard::policy::{Chain, Link, Network};
use crate::organs::reach::item::Item;

/// Have a link allow this, too.
pub fn widen(link: &mut Link, item: &Item) {
    match item {
        Item::Read(path) => link.read.push(path.clone()),
        Item::Write(path) => link.write.push(path.clone()),
        Item::Network(network) => link.network = either(&link.network, network),
        Item::Unix => link.unix = true,
        Item::Secret(name) => {
            // Where it says nothing, it allows all that the links above do.
            if let Some(secrets) = &mut link.secrets {
                secrets.insert(name.clone());
            }
        }
        Item::Steps(_) | Item::Tokens(_) | Item::Seconds(_) | Item::Model(_) => {}
    }
}

/// What one or the other allows.
pub fn either(one: &Network, other: &Network) -> Network {
    match (one, other) {
        (Network::Full, _) | (_, Network::Full) => Network::Full,
        (Network::None, rest) | (rest, Network::None) => rest.clone(),
        (Network::Ports(one), Network::Ports(other)) => Network::Ports(one | other),
    }
}

/// Whether all links of a chain allow it; `own` are folders that none has to name.
pub fn holds(chain: &Chain, own: &[PathBuf], item: &Item) -> bool {
    let covered = |path: &Path, grants: &[PathBuf]| {
        grants.iter().chain(own).any(|grant| path.starts_with(grant))
    };
    let all = |may: &dyn Fn(&Link) -> bool| chain.links().iter().all(may);
    match item {
        Item::Read(path) => all(&|link| covered(path, &link.read) || covered(path, &link.write)),
        Item::Write(path) => all(&|link| covered(path, &link.write)),
        Item::Network(network) => chain.network().and(network) == *network,
        Item::Unix => chain.unix(),
        Item::Secret(name) => chain.secrets().is_none_or(|secrets| secrets.contains(name)),
        Item::Steps(_) | Item::Tokens(_) | Item::Seconds(_) | Item::Model(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(network: Network) -> Link {
        let (read, write) = (vec!["/usr".into()], vec!["/w".into()]);
        Link { read, write, network, unix: false, secrets: Some([].into()), tools: None }
    }

    #[test]
    fn a_widened_chain_holds_what_it_was_given_and_no_more() {
        let ports = |ports: &[u16]| Network::Ports(ports.iter().copied().collect());
        let chain = |links: &[Link]| Chain::Links(links.to_vec());
        for (given, not) in [
            (Item::Read("/a/b".into()), Item::Read("/a".into())),
            (Item::Write("/a/b".into()), Item::Write("/a/bc".into())),
            (Item::Network(ports(&[80])), Item::Network(ports(&[80, 81]))),
            (Item::Unix, Item::Network(Network::Full)),
            (Item::Secret("A".into()), Item::Secret("B".into())),
        ] {
            let plain = link(ports(&[443]));
            let mut wide = plain.clone();
            widen(&mut wide, &given);
            assert!(holds(&chain(&[wide.clone()]), &[], &given), "{given}");
            assert!(!holds(&chain(&[wide.clone()]), &[], &not), "{not}");
            for links in [[plain.clone(), wide.clone()], [wide, plain]] {
                assert!(!holds(&chain(&links), &[], &given), "one link is enough: {given}");
            }
        }
        let plain = chain(&[link(ports(&[443]))]);
        for there in
            [Item::Read("/w/x".into()), Item::Network(ports(&[443])), Item::Write("/own/x".into())]
        {
            assert!(holds(&plain, &["/own".into()], &there), "{there}");
        }
        assert!(holds(&Chain::Off, &[], &Item::Unix));
    }
}
