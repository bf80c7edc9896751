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

/// What a session was given, for its root link, and its other links, each with what was given
/// to the session that it narrowed, so that no session is wider than the one above it. The
/// `lineage` begins with the session itself and leads to the root: how many links each has
/// below the root's, and what it was given.
pub fn widened(
    mut links: Vec<Link>,
    lineage: impl IntoIterator<Item = (usize, Vec<Item>)>,
) -> (Vec<Item>, Vec<Link>) {
    let (mut root, mut below) = (Vec::new(), None);
    for (depth, given) in lineage {
        // What shares a link with the one below it was given to another conversation.
        if below.is_some_and(|below| depth >= below) {
            continue;
        }
        below = Some(depth);
        match depth.checked_sub(1).and_then(|at| links.get_mut(at)) {
            Some(link) => given.iter().for_each(|item| widen(link, item)),
            None => root.extend(given),
        }
    }
    (root, links)
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
    use proptest::prelude::*;

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

    #[test]
    fn each_link_has_what_its_own_session_was_given() {
        let (a, b, c) = (Item::Unix, Item::Read("/b".into()), Item::Secret("C".into()));
        let narrow = || vec![link(Network::None), link(Network::None)];
        // The session, one that shares its link with the root's child, that child, the root.
        let lineage = [(2, vec![a]), (1, vec![b]), (1, vec![c.clone()]), (0, vec![c.clone()])];
        let (root, links) = widened(narrow(), lineage);
        assert_eq!(root, [c]);
        assert!(!links[0].unix && links[0].read.contains(&"/b".into()));
        assert!(links[1].unix && !links[1].read.contains(&"/b".into()));
        let none = Some([].into());
        assert!(links[0].secrets == none && links[1].secrets == none);
        // The owner's own conversations have nothing of each other.
        let (root, links) = widened(Vec::new(), [(0, Vec::new()), (0, vec![Item::Unix])]);
        assert!(root.is_empty() && links.is_empty());
    }

    fn item() -> impl Strategy<Value = Item> {
        let path = prop_oneof![Just("/w/x"), Just("/a"), Just("/a/b"), Just("/usr/x")];
        prop_oneof![
            path.clone().prop_map(|path| Item::Read(path.into())),
            path.prop_map(|path| Item::Write(path.into())),
            proptest::collection::btree_set(80_u16..83, 1..3)
                .prop_map(|ports| Item::Network(Network::Ports(ports))),
            Just(Item::Network(Network::Full)),
            Just(Item::Unix),
            "[AB]".prop_map(Item::Secret),
        ]
    }

    proptest! {
        /// Whatever is given to whom: who was narrowed has nothing that the one above lacks.
        #[test]
        fn nothing_given_is_wider_than_above(
            given in proptest::collection::vec(proptest::collection::vec(item(), 0..4), 2..5),
            asked in item(),
        ) {
            let chain = |depth: usize| {
                let lineage = (0..=depth).rev().map(|depth| (depth, given[depth].clone()));
                let (root, links) = widened(vec![link(Network::None); depth], lineage);
                let mut first = link(Network::None);
                for item in &root {
                    widen(&mut first, item);
                }
                Chain::Links([vec![first], links].concat())
            };
            let chains: Vec<_> = (0..given.len()).map(chain).collect();
            for pair in chains.windows(2) {
                prop_assert!(!holds(&pair[1], &[], &asked) || holds(&pair[0], &[], &asked));
            }
        }
    }
}
