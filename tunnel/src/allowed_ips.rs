//! Which peer an address belongs to: a path-compressed binary trie per family, longest prefix first.
//!
//! A prefix belongs to one peer at a time. Giving it to another takes it from the first, as the kernel does it.

use std::{
    collections::{BTreeMap, BTreeSet},
    iter,
    net::IpAddr,
};

use crate::{
    id::PeerId,
    prefix::{Prefix, align, mask},
};

/// The allowed IPs of all peers.
#[derive(Debug, Default)]
pub struct AllowedIps {
    v4: Slot,
    v6: Slot,
    /// The same facts by peer, so that listing or clearing one peer does not walk the others' prefixes.
    by_peer: BTreeMap<PeerId, BTreeSet<Prefix>>,
}

type Slot = Option<Box<Node>>;

#[derive(Debug)]
struct Node {
    key: u128,
    len: u8,
    owner: Option<PeerId>,
    children: [Slot; 2],
}

impl AllowedIps {
    /// Gives `prefix` to `peer`, whichever peer had it before.
    pub fn insert(&mut self, prefix: Prefix, peer: PeerId) {
        let key = align(prefix.addr()).0;
        let before = insert(self.slot(prefix.addr()), key, prefix.length(), peer);
        if let Some(before) = before.filter(|before| *before != peer) {
            self.forget(prefix, before);
        }
        self.by_peer.entry(peer).or_default().insert(prefix);
    }

    /// Takes `prefix` from `peer`; nothing happens when it belongs to another.
    pub fn remove(&mut self, prefix: Prefix, peer: PeerId) {
        if self.by_peer.get(&peer).is_some_and(|held| held.contains(&prefix)) {
            self.forget(prefix, peer);
            remove(self.slot(prefix.addr()), align(prefix.addr()).0, prefix.length());
        }
    }

    /// Takes everything from `peer`.
    pub fn remove_all(&mut self, peer: PeerId) {
        for prefix in self.by_peer.remove(&peer).unwrap_or_default() {
            remove(self.slot(prefix.addr()), align(prefix.addr()).0, prefix.length());
        }
    }

    /// Returns whose address it is.
    pub fn lookup(&self, addr: IpAddr) -> Option<PeerId> {
        let (key, max) = align(addr);
        let mut slot = if addr.is_ipv4() { &self.v4 } else { &self.v6 };
        let mut best = None;
        while let Some(node) = slot {
            if (node.key ^ key) & mask(node.len) != 0 {
                break;
            }
            best = node.owner.or(best);
            if node.len == max {
                break;
            }
            slot = &node.children[bit(key, node.len)];
        }
        best
    }

    /// Returns what belongs to `peer`, in order.
    pub fn of(&self, peer: PeerId) -> impl Iterator<Item = Prefix> + '_ {
        self.by_peer.get(&peer).into_iter().flatten().copied()
    }

    /// Returns all that it is made of, piece by piece: freeing it at once takes long when there is much of it.
    pub(crate) fn into_pieces(self) -> impl Iterator<Item = ()> + Send {
        let mut nodes: Vec<Box<Node>> = [self.v4, self.v6].into_iter().flatten().collect();
        let free_node = move || {
            let node = nodes.pop()?;
            nodes.extend(node.children.into_iter().flatten());
            Some(())
        };
        let prefixes = self.by_peer.into_values().flatten();
        iter::from_fn(free_node).chain(prefixes.map(drop))
    }

    fn slot(&mut self, family: IpAddr) -> &mut Slot {
        if family.is_ipv4() {
            &mut self.v4
        } else {
            &mut self.v6
        }
    }

    fn forget(&mut self, prefix: Prefix, peer: PeerId) {
        if let Some(held) = self.by_peer.get_mut(&peer) {
            held.remove(&prefix);
            if held.is_empty() {
                self.by_peer.remove(&peer);
            }
        }
    }
}

/// Returns bit number `at` from the top.
fn bit(key: u128, at: u8) -> usize {
    usize::from(key >> (127 - u32::from(at)) & 1 == 1)
}

fn leaf(key: u128, len: u8, owner: PeerId) -> Slot {
    Some(Box::new(Node {
        key,
        len,
        owner: Some(owner),
        children: [None, None],
    }))
}

/// Returns who owned exactly this prefix before.
fn insert(slot: &mut Slot, key: u128, len: u8, owner: PeerId) -> Option<PeerId> {
    let Some(node) = slot else {
        *slot = leaf(key, len, owner);
        return None;
    };
    let common = ((node.key ^ key).leading_zeros() as u8).min(node.len).min(len);
    if common < node.len {
        let below = slot.take();
        let below_bit = bit(below.as_ref().map_or(0, |node| node.key), common);
        let mut fork = Box::new(Node {
            key: key & mask(common),
            len: common,
            owner: None,
            children: [None, None],
        });
        fork.children[below_bit] = below;
        if common == len {
            fork.owner = Some(owner);
        } else {
            fork.children[bit(key, common)] = leaf(key, len, owner);
        }
        *slot = Some(fork);
        return None;
    }
    if node.len == len {
        return node.owner.replace(owner);
    }
    let next = bit(key, node.len);
    insert(&mut node.children[next], key, len, owner)
}

fn remove(slot: &mut Slot, key: u128, len: u8) {
    let Some(node) = slot else { return };
    if node.len > len || (node.key ^ key) & mask(node.len) != 0 {
        return;
    }
    if node.len == len {
        node.owner = None;
    } else {
        let next = bit(key, node.len);
        remove(&mut node.children[next], key, len);
    }
    if node.owner.is_none() {
        // A fork that no longer forks gives its place to what is left below it.
        match &mut node.children {
            [Some(_), Some(_)] => {}
            [one, other] => *slot = one.take().or_else(|| other.take()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::*;

    /// The slow router: a list, searched from end to end.
    #[derive(Default)]
    struct Oracle(Vec<(Prefix, PeerId)>);

    impl Oracle {
        fn insert(&mut self, prefix: Prefix, peer: PeerId) {
            self.0.retain(|(held, _)| *held != prefix);
            self.0.push((prefix, peer));
        }

        fn lookup(&self, addr: IpAddr) -> Option<PeerId> {
            let matching = self.0.iter().filter(|(prefix, _)| prefix.contains(addr));
            matching
                .max_by_key(|(prefix, _)| prefix.length())
                .map(|(_, peer)| *peer)
        }
    }

    #[derive(Clone, Debug)]
    enum Op {
        Insert(Prefix, PeerId),
        Remove(Prefix, PeerId),
        RemoveAll(PeerId),
    }

    /// Addresses of few distinct bits, so that prefixes nest and collide.
    fn addr() -> impl Strategy<Value = IpAddr> {
        prop_oneof![
            (0..4u32, 0..4u32).prop_map(|(a, b)| IpAddr::V4(Ipv4Addr::from(a << 30 | b))),
            any::<u32>().prop_map(|a| IpAddr::V4(a.into())),
            (0..4u128, 0..4u128).prop_map(|(a, b)| IpAddr::V6(Ipv6Addr::from(a << 126 | b))),
            any::<u128>().prop_map(|a| IpAddr::V6(a.into())),
        ]
    }

    fn prefix() -> impl Strategy<Value = Prefix> {
        (addr(), any::<u8>())
            .prop_map(|(addr, len)| Prefix::new(addr, len % (align(addr).1 + 1)).expect("length is in range"))
    }

    fn op() -> impl Strategy<Value = Op> {
        let peer = || (0..5u32).prop_map(PeerId);
        prop_oneof![
            6 => (prefix(), peer()).prop_map(|(prefix, peer)| Op::Insert(prefix, peer)),
            2 => (prefix(), peer()).prop_map(|(prefix, peer)| Op::Remove(prefix, peer)),
            1 => peer().prop_map(Op::RemoveAll),
        ]
    }

    proptest! {
        #[test]
        fn the_trie_answers_as_a_search_through_the_list_does(
            ops in prop::collection::vec(op(), 0..80),
            addrs in prop::collection::vec(addr(), 0..40),
        ) {
            let (mut trie, mut oracle) = (AllowedIps::default(), Oracle::default());
            for op in ops {
                match op {
                    Op::Insert(prefix, peer) => {
                        trie.insert(prefix, peer);
                        oracle.insert(prefix, peer);
                    }
                    Op::Remove(prefix, peer) => {
                        trie.remove(prefix, peer);
                        oracle.0.retain(|held| *held != (prefix, peer));
                    }
                    Op::RemoveAll(peer) => {
                        trie.remove_all(peer);
                        oracle.0.retain(|held| held.1 != peer);
                    }
                }
            }
            let edges: Vec<IpAddr> = oracle.0.iter().map(|(prefix, _)| prefix.addr()).collect();
            for addr in addrs.into_iter().chain(edges) {
                prop_assert_eq!(trie.lookup(addr), oracle.lookup(addr), "{}", addr);
            }
            for peer in (0..5).map(PeerId) {
                let listed: BTreeSet<Prefix> = trie.of(peer).collect();
                let held: BTreeSet<Prefix> =
                    oracle.0.iter().filter(|held| held.1 == peer).map(|held| held.0).collect();
                prop_assert_eq!(listed, held);
            }
        }
    }

    #[test]
    fn an_emptied_trie_holds_no_node() {
        let mut trie = AllowedIps::default();
        for text in ["10.0.0.0/8", "10.1.0.0/16", "10.2.0.0/16", "::/0", "fd00::/8"] {
            trie.insert(text.parse().unwrap(), PeerId(1));
        }
        trie.remove_all(PeerId(1));
        assert!(trie.v4.is_none() && trie.v6.is_none() && trie.by_peer.is_empty());
    }
}
