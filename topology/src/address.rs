//! Overlay addresses: one of each pool for every node, kept as long as the node exists.
//!
//! The first choice of a node is a stable hash of its name, the next ones follow in order. So a mesh that is decided
//! again from nothing gets nearly the same addresses; and as what was given before is taken before a new node chooses, a
//! new node never moves an old one.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use crate::{Family, NodeName, Prefix, rendezvous};

/// One pool and what is taken of it.
#[derive(Debug)]
pub(crate) struct Pool {
    pub(crate) prefix: Prefix,
    /// The offsets that were kept, sorted.
    kept: Vec<u128>,
    chosen: BTreeSet<u128>,
}

impl Pool {
    /// Returns a pool with the addresses that its owners keep; `addresses` loses those that are not of this pool, and
    /// those that an owner before it has.
    pub(crate) fn new<'a>(prefix: Prefix, addresses: impl Iterator<Item = &'a mut Option<IpAddr>>) -> Self {
        let mut pool = Self {
            prefix,
            kept: Vec::new(),
            chosen: BTreeSet::new(),
        };
        let mut owners: Vec<(u128, usize, &mut Option<IpAddr>)> = Vec::new();
        for (index, address) in addresses.enumerate() {
            match address.and_then(|address| pool.offset(address)) {
                Some(offset) => owners.push((offset, index, address)),
                None => *address = None,
            }
        }
        owners.sort_unstable_by_key(|(offset, index, _)| (*offset, *index));
        for (offset, _, address) in owners {
            if pool.kept.last() == Some(&offset) {
                *address = None;
            } else {
                pool.kept.push(offset);
            }
        }
        pool
    }

    /// Takes a free address for a node. `None`: there is none left.
    pub(crate) fn choose(&mut self, node: &NodeName) -> Option<IpAddr> {
        let (first, count) = self.offsets();
        let taken = self.kept.len() + self.chosen.len();
        if u128::try_from(taken).is_ok_and(|taken| taken >= count) {
            return None;
        }
        let wanted = u128::from(rendezvous::stable(node.as_str())) % count;
        let offset = (0..count)
            .map(|step| first + (wanted + step) % count)
            .find(|offset| self.kept.binary_search(offset).is_err() && !self.chosen.contains(offset))?;
        self.chosen.insert(offset);
        let base = number(self.prefix.address());
        Some(match self.prefix.family() {
            Family::V4 => IpAddr::V4(Ipv4Addr::from(u32::try_from(base + offset).ok()?)),
            Family::V6 => IpAddr::V6(Ipv6Addr::from(base + offset)),
        })
    }

    /// Returns where in the pool an address is, where a node can have it.
    fn offset(&self, address: IpAddr) -> Option<u128> {
        let inside = self.prefix.contains(address);
        let offset = inside.then(|| number(address) - number(self.prefix.address()))?;
        let (first, count) = self.offsets();
        (offset >= first && offset - first < count).then_some(offset)
    }

    /// Returns the first usable offset and how many there are: without the network's own address and, for IPv4, the
    /// broadcast address. Pools of one or two addresses are used whole (RFC 3021).
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_owners_of_one_address_do_not_both_keep_it() {
        let mut had = [
            Some("10.4.0.1"),
            Some("10.4.0.1"),
            Some("10.4.0.0"),
            Some("10.9.0.1"),
            None,
        ]
        .map(|text| text.map(|text: &str| text.parse::<IpAddr>().unwrap()));
        let mut pool = pool("10.4.0.0/30", &mut had);
        assert_eq!(had, [had[0], None, None, None, None]);
        let chosen = pool.choose(&"a1".parse().unwrap());
        assert_eq!(chosen, Some("10.4.0.2".parse().unwrap()));
        assert_eq!(pool.choose(&"a1".parse().unwrap()), None);
    }

    #[test]
    fn pools_of_every_size_give_all_their_addresses() {
        for (prefix, size) in [
            ("10.4.0.8/32", 1),
            ("10.4.0.8/31", 2),
            ("10.4.0.8/29", 6),
            ("fd00::8/126", 3),
        ] {
            let mut pool = pool(prefix, &mut []);
            let names = (0..9).map(|index| format!("n{index}").parse().unwrap());
            let given: BTreeSet<_> = names.filter_map(|name| pool.choose(&name)).collect();
            assert_eq!(given.len(), size, "{prefix}");
        }
        assert!(pool("::/0", &mut []).choose(&"a1".parse().unwrap()).is_some());
        assert!(
            pool("0.0.0.0/0", &mut [])
                .choose(&"a1".parse().unwrap())
                .is_some()
        );
    }

    fn pool(prefix: &str, addresses: &mut [Option<IpAddr>]) -> Pool {
        Pool::new(prefix.parse().unwrap(), addresses.iter_mut())
    }
}
