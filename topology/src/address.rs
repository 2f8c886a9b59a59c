//! Overlay addresses: one of each pool for every node, kept as long as the node exists.
//!
//! The first choice of a node is a stable hash of its name, the next ones follow in order. So a mesh that is decided
//! anew from nothing gets nearly the same addresses again; and as what was given before is taken before anybody chooses,
//! a new node never moves an old one.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use crate::{Family, NodeName, Prefix, rendezvous};

/// One pool and what is taken of it.
#[derive(Debug)]
pub(crate) struct Pool {
    prefix: Prefix,
    taken: BTreeSet<u128>,
}

impl Pool {
    pub(crate) fn new(prefix: Prefix) -> Self {
        Self {
            prefix,
            taken: BTreeSet::new(),
        }
    }

    pub(crate) fn prefix(&self) -> Prefix {
        self.prefix
    }

    /// Takes an address that a node has had before. `false`: it is not of this pool, or somebody has it.
    pub(crate) fn keep(&mut self, address: IpAddr) -> bool {
        if !self.prefix.contains(address) {
            return false;
        }
        let offset = number(address) - number(self.prefix.address());
        self.usable(offset) && self.taken.insert(offset)
    }

    /// Takes a free address for a node. `None`: there is none left.
    pub(crate) fn choose(&mut self, node: &NodeName) -> Option<IpAddr> {
        let (first, count) = self.offsets();
        if u128::try_from(self.taken.len()).is_ok_and(|taken| taken >= count) {
            return None;
        }
        let wanted = u128::from(rendezvous::stable(&[node.as_str()])) % count;
        let offset = (0..count)
            .map(|step| first + (wanted + step) % count)
            .find(|offset| !self.taken.contains(offset))?;
        self.taken.insert(offset);
        let base = number(self.prefix.address());
        Some(match self.prefix.family() {
            Family::V4 => IpAddr::V4(Ipv4Addr::from(u32::try_from(base + offset).ok()?)),
            Family::V6 => IpAddr::V6(Ipv6Addr::from(base + offset)),
        })
    }

    fn usable(&self, offset: u128) -> bool {
        let (first, count) = self.offsets();
        offset >= first && offset - first < count
    }

    /// The first usable offset and how many there are: without the network's own address and, for IPv4, the broadcast
    /// address. Pools of one or two addresses are used whole (RFC 3021).
    fn offsets(&self) -> (u128, u128) {
        let free_bits = u32::from(self.prefix.family().bits() - self.prefix.length());
        let size = 1_u128.checked_shl(free_bits).unwrap_or(u128::MAX);
        match self.prefix.family() {
            _ if size <= 2 => (0, size),
            Family::V4 => (1, size - 2),
            Family::V6 => (1, size - 1),
        }
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    }
}
