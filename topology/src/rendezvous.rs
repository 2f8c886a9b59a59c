//! Which active leader carries which member: rendezvous hashing (Thaler and Ravishankar, "Using name-based mappings to
//! increase hit rates", 1998). Computed everywhere, published nowhere, so it is part of the API: it may never change.
//!
//! # The hash, byte for byte
//!
//! `stable(name)` is 64-bit FNV-1a of the name as it is written in Kubernetes (ASCII), then `mix`, which is the finaliser
//! of SplitMix64. All arithmetic is modulo 2^64:
//!
//! ```text
//! stable(name):  h = 0xcbf29ce484222325
//!                for each byte b:  h = (h xor b) * 0x00000100000001b3
//!                mix(h)
//! mix(h):        h = (h xor (h >> 30)) * 0xbf58476d1ce4e5b9
//!                h = (h xor (h >> 27)) * 0x94d049bb133111eb
//!                h xor (h >> 31)
//! weight(member, leader) = mix(stable(member) + 0x9e3779b97f4a7c15 * stable(leader))
//! ```
//!
//! FNV alone would favour one leader for names that differ only at their end; `mix` spreads every bit. Every name is
//! hashed once, however many leaders there are.
//!
//! An active leader carries itself. Any other member is carried by the active leader with the largest weight; of equal
//! weights the lower name wins. Leaders that are no members of the location, or have no key, carry nothing.
//!
//! # Test vectors
//!
//! | member | leader | weight |
//! |---|---|---|
//! | `a3` | `a1` | `0x12c3cc1ee3bc01ce` |
//! | `a3` | `a2` | `0x61452ffb14cb6996` |
//! | `a4` | `a1` | `0x7b45017546a1f4fc` |
//! | `a4` | `a2` | `0x75cca1ce05c06373` |
//! | `worker-17.example.com` | `gateway-1` | `0x086f2bf652fbf072` |
//!
//! So of the active leaders `a1` and `a2`, `a2` carries `a3` and `a1` carries `a4`. And `stable` alone, which orders
//! candidates of equal rank and gives a node its first choice of an overlay address: of the empty string
//! `0xf52a15e9a9b5e89b`, of `a1` `0x80f480f91b4aa28c`, of `node-1.example.com` `0xdfaeb9c9898e4bba`.

use std::cmp::Reverse;

use crate::{Location, NodeName};

/// 64-bit FNV-1a, mixed.
pub(crate) fn stable(name: &str) -> u64 {
    let fnv = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    mix(fnv)
}

/// Applies the finaliser of SplitMix64.
fn mix(hash: u64) -> u64 {
    let hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

/// [`weight`] of names that are hashed already.
pub(crate) fn weigh(member: u64, leader: u64) -> u64 {
    mix(member.wrapping_add(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(leader)))
}

/// Returns how much a leader wants to carry a member.
#[must_use]
pub fn weight(member: &NodeName, leader: &NodeName) -> u64 {
    weigh(stable(member.as_str()), stable(leader.as_str()))
}

/// Returns the active leader that carries the prefixes of a node of the location. `None`: no active leader is a member
/// with a key.
#[must_use]
pub fn carrier<'a>(location: &'a Location, member: &NodeName) -> Option<&'a NodeName> {
    let usable = |leader: &&NodeName| {
        let known = location.members.get(*leader);
        known.is_some_and(|member| member.public_key.is_some())
    };
    let active = location.active().filter(usable);
    let itself = active.clone().find(|leader| *leader == member);
    itself.or_else(|| {
        heaviest(
            active.map(|leader| (leader, leader, stable(leader.as_str()))),
            stable(member.as_str()),
        )
    })
}

/// Returns what comes with the leader that carries the member of this hash, out of names with their hashes.
pub(crate) fn heaviest<'a, T>(
    leaders: impl Iterator<Item = (T, &'a NodeName, u64)>,
    member: u64,
) -> Option<T> {
    let weighed = leaders.map(|(lead, name, leader)| (weigh(member, leader), Reverse(name), lead));
    weighed
        .max_by(|a, b| (a.0, a.1).cmp(&(b.0, b.1)))
        .map(|(.., lead)| lead)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn the_hash_gives_the_documented_numbers() {
        assert_eq!(stable(""), 0xf52a_15e9_a9b5_e89b);
        assert_eq!(stable("a1"), 0x80f4_80f9_1b4a_a28c);
        assert_eq!(stable("node-1.example.com"), 0xdfae_b9c9_898e_4bba);
        for (member, leader, expected) in [
            ("a3", "a1", 0x12c3_cc1e_e3bc_01ce),
            ("a3", "a2", 0x6145_2ffb_14cb_6996),
            ("a4", "a1", 0x7b45_0175_46a1_f4fc),
            ("a4", "a2", 0x75cc_a1ce_05c0_6373),
            ("worker-17.example.com", "gateway-1", 0x086f_2bf6_52fb_f072),
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
            let before = carried(&leaders, member);
            *load.entry(before).or_default() += 1;
            let after = carried(&leaders[1..], member);
            assert!(after == before || before == &leaders[0]);
        }
        assert!(load.values().all(|count| (200..300).contains(count)), "{load:?}");
    }

    fn carried<'a>(leaders: &'a [NodeName], member: &NodeName) -> &'a NodeName {
        let hashed = leaders
            .iter()
            .map(|leader| (leader, leader, stable(leader.as_str())));
        heaviest(hashed, stable(member.as_str())).unwrap()
    }

    fn name(text: &str) -> NodeName {
        text.parse().unwrap()
    }
}
