//! Which active leader carries which member: rendezvous hashing (Thaler and Ravishankar, "Using name-based mappings to
//! increase hit rates", 1998). Computed everywhere, published nowhere, so it is part of the API: it may never change.
//!
//! # The hash, byte for byte
//!
//! `stable(text)` of a byte string is 64-bit FNV-1a, then the finaliser of SplitMix64. All arithmetic is modulo 2^64:
//!
//! ```text
//! h = 0xcbf29ce484222325
//! for each byte b:  h = (h xor b) * 0x00000100000001b3
//! h = (h xor (h >> 30)) * 0xbf58476d1ce4e5b9
//! h = (h xor (h >> 27)) * 0x94d049bb133111eb
//! h =  h xor (h >> 31)
//! ```
//!
//! `weight(member, leader) = stable(member name, one byte 0x00, leader name)`, the names as they are written in
//! Kubernetes (ASCII). FNV alone would favour one leader for names that differ only at their end; the finaliser spreads
//! every bit.
//!
//! An active leader carries itself. Any other member is carried by the active leader with the largest weight; of equal
//! weights the lower name wins. Leaders that are no members of the location, or have no key, carry nothing.
//!
//! # Test vectors
//!
//! | member | leader | weight |
//! |---|---|---|
//! | `a3` | `a1` | `0xbdb528533de6fa2b` |
//! | `a3` | `a2` | `0xf1a42e3280cf4818` |
//! | `a4` | `a1` | `0xd4337f30ecddbdf2` |
//! | `a4` | `a2` | `0x931bfa6df52d8350` |
//! | `worker-17.example.com` | `gateway-1` | `0x2ce48ada3aa97312` |
//!
//! So of the active leaders `a1` and `a2`, `a2` carries `a3` and `a1` carries `a4`. And `stable` alone, which orders
//! candidates of equal rank and gives a node its first choice of an overlay address: of the empty string
//! `0xf52a15e9a9b5e89b`, of `a1` `0x80f480f91b4aa28c`, of `node-1.example.com` `0xdfaeb9c9898e4bba`.

use crate::{Location, NodeName};

/// 64-bit FNV-1a with the finaliser of SplitMix64, over the parts with one zero byte between them.
pub(crate) fn stable(parts: &[&str]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut take = |byte: u8| hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    for (index, part) in parts.iter().enumerate() {
        if index > 0 {
            take(0);
        }
        part.bytes().for_each(&mut take);
    }
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

/// How much a leader wants to carry a member.
#[must_use]
pub fn weight(member: &NodeName, leader: &NodeName) -> u64 {
    stable(&[member.as_str(), leader.as_str()])
}

/// The active leader that carries the prefixes of a node of the location. `None`: no active leader is a member with a
/// key.
#[must_use]
pub fn carrier<'a>(location: &'a Location, member: &NodeName) -> Option<&'a NodeName> {
    let usable = |leader: &&NodeName| {
        let known = location.members.get(*leader);
        known.is_some_and(|member| member.public_key.is_some())
    };
    heaviest(location.active().filter(usable), member)
}

/// The leader among these that carries the member.
pub(crate) fn heaviest<'a>(
    leaders: impl Iterator<Item = &'a NodeName> + Clone,
    member: &NodeName,
) -> Option<&'a NodeName> {
    let mut others = leaders.clone();
    let first = others.next()?;
    if others.next().is_none() {
        return Some(first);
    }
    leaders
        .clone()
        .find(|leader| *leader == member)
        .or_else(|| leaders.max_by(|a, b| weight(member, a).cmp(&weight(member, b)).then_with(|| b.cmp(a))))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn the_hash_gives_the_documented_numbers() {
        assert_eq!(stable(&[""]), 0xf52a_15e9_a9b5_e89b);
        assert_eq!(stable(&["a1"]), 0x80f4_80f9_1b4a_a28c);
        assert_eq!(stable(&["node-1.example.com"]), 0xdfae_b9c9_898e_4bba);
        for (member, leader, expected) in [
            ("a3", "a1", 0xbdb5_2853_3de6_fa2b),
            ("a3", "a2", 0xf1a4_2e32_80cf_4818),
            ("a4", "a1", 0xd433_7f30_ecdd_bdf2),
            ("a4", "a2", 0x931b_fa6d_f52d_8350),
            ("worker-17.example.com", "gateway-1", 0x2ce4_8ada_3aa9_7312),
        ] {
            assert_eq!(
                weight(&name(member), &name(leader)),
                expected,
                "{member} {leader}"
            );
        }
    }

    #[test]
    fn members_are_spread_evenly_and_a_lost_leader_moves_only_its_own() {
        let leaders: Vec<_> = (0..4).map(|index| name(&format!("leader-{index}"))).collect();
        let members: Vec<_> = (0..1000).map(|index| name(&format!("worker-{index}"))).collect();
        let mut load: BTreeMap<&NodeName, usize> = BTreeMap::new();
        for member in &members {
            let before = heaviest(leaders.iter(), member).unwrap();
            *load.entry(before).or_default() += 1;
            let after = heaviest(leaders.iter().skip(1), member).unwrap();
            assert!(after == before || before == &leaders[0]);
        }
        assert!(load.values().all(|count| (200..300).contains(count)), "{load:?}");
    }

    fn name(text: &str) -> NodeName {
        text.parse().unwrap()
    }
}
