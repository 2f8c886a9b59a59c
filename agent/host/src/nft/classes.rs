//! Which address is whose, flattened: nft's interval sets know no longest match and refuse networks inside networks, so
//! nested prefixes become ranges that do not overlap, each with what the longest match says of it.

use std::collections::BTreeSet;

use spanwire_topology::{Family, LocationName, Plan, Prefix};

use super::AddressRange as Range;
use crate::{Conflict, HostFacts, resolve::Resolved};

/// What an address is, seen from this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Class {
    /// In no prefix of the mesh.
    Outside,
    /// In a network connected here: whatever contains it, unless that is remote.
    Connected,
    /// In a remote prefix to which nothing is routed yet, but from which packets may come.
    Expected,
    /// In a prefix of the own location.
    Local,
    /// In one to which what comes from elsewhere is masqueraded.
    Masqueraded,
    /// In a remote prefix.
    Remote(Traffic),
    /// On this node.
    Own,
}

/// Where the traffic of a remote prefix is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Traffic {
    /// It has only ever been in the mesh, as that of a Peer.
    Meshed,
    /// Some of it may not be in the mesh yet.
    Moving,
    /// It may be nowhere but in the mesh.
    Settled,
}

/// Returns every address of a family that is anything but [`Class::Outside`], in ascending ranges that do not touch where
/// they are of one class.
pub(super) fn classes<'a>(
    plan: &Plan,
    resolved: &Resolved<'a>,
    facts: &HostFacts,
    family: Family,
) -> Vec<(Range, Class)> {
    let networks = facts.links.values().flat_map(|link| link.networks());
    // A network of one is the device's own address, of which the mesh may know more.
    let networks = networks.filter(|network| !network.is_host());
    let connected = networks.map(|network| (network, Class::Connected));
    let expected = expected(plan, resolved).map(|prefix| (*prefix, Class::Expected));
    let local = plan
        .local
        .iter()
        .map(|prefix| match plan.masqueraded.contains(prefix) {
            true => (*prefix, Class::Masqueraded),
            false => (*prefix, Class::Local),
        });
    // Neighbours are mostly of one location.
    let mut last = None;
    let mut settled = |location: &'a LocationName| match last {
        Some((known, settled)) if known == location => settled,
        _ => {
            let settled = facts.settled.contains(location);
            last = Some((location, settled));
            settled
        }
    };
    let remote = resolved.remote.iter().map(|(prefix, route)| {
        let traffic = if settled(route.location) {
            Traffic::Settled
        } else if resolved.is_moving(plan, facts, prefix, route.location) {
            Traffic::Moving
        } else {
            Traffic::Meshed
        };
        (*prefix, Class::Remote(traffic))
    });
    let own = plan.own.iter().map(|prefix| (*prefix, Class::Own));
    let lent = plan.lent.iter().map(|prefix| (*prefix, Class::Outside));
    let all = connected
        .chain(expected)
        .chain(local)
        .chain(remote)
        .chain(own)
        .chain(lent);
    let mut known: Vec<(Prefix, Class)> = all.filter(|(prefix, _)| prefix.family() == family).collect();
    // Of what is known of one prefix the last counts. Each part is in order, which sorting makes use of.
    known.sort_by(|(prefix, class), (other, other_class)| prefix.cmp(other).then(other_class.cmp(class)));
    known.dedup_by_key(|(prefix, _)| *prefix);
    flatten(known)
}

/// Returns the addresses of a family in these prefixes, in ascending ranges that do not touch.
pub(super) fn ranges(prefixes: impl Iterator<Item = Prefix>, family: Family) -> Vec<Range> {
    let of_family = prefixes.filter(|prefix| prefix.family() == family);
    let mut known: Vec<(Prefix, Class)> = of_family.map(|prefix| (prefix, Class::Local)).collect();
    known.sort();
    known.dedup();
    flatten(known).into_iter().map(|(range, _)| range).collect()
}

/// Returns the addresses of a family in these prefixes and in none of `known` that lies in one, in ascending ranges that do not touch. No
/// prefix is known itself.
pub(super) fn outside(
    prefixes: impl Iterator<Item = Prefix>,
    known: impl Iterator<Item = Prefix>,
    family: Family,
) -> Vec<Range> {
    let known = known.map(|prefix| (prefix, Class::Outside));
    let all = prefixes.map(|prefix| (prefix, Class::Local)).chain(known);
    let mut all: Vec<(Prefix, Class)> = all.filter(|(prefix, _)| prefix.family() == family).collect();
    all.sort();
    all.dedup();
    flatten(all).into_iter().map(|(range, _)| range).collect()
}

/// Returns what WireGuard lets in, apart from what cannot be routed here.
fn expected<'a>(plan: &'a Plan, resolved: &Resolved<'_>) -> impl Iterator<Item = &'a Prefix> {
    let refused: BTreeSet<Prefix> = resolved.conflicts.iter().filter_map(Conflict::prefix).collect();
    let peers = plan.tunnel.iter().flat_map(|tunnel| tunnel.peers.values());
    peers
        .flat_map(|peer| &peer.allowed_ips)
        .filter(move |prefix| refused.is_empty() || !refused.contains(prefix))
}

/// Returns the longest match of every address. A prefix sorts right before what it contains, so one pass with a stack of the
/// prefixes that contain the present address does it.
fn flatten(known: Vec<(Prefix, Class)>) -> Vec<(Range, Class)> {
    let mut flat = Flat::default();
    let mut open: Vec<(Range, Class)> = Vec::new();
    for (prefix, class) in known {
        let range = Range::from(prefix);
        while let Some((outer, class)) = open.pop_if(|(outer, _)| outer.last < range.first) {
            flat.fill(&outer, outer.last, class);
        }
        let enclosing = open.last().copied();
        if let (Some((outer, class)), Some(before)) = (enclosing, range.first.checked_sub(1)) {
            flat.fill(&outer, before, class);
        }
        open.push((range, inherit(class, enclosing.map(|(_, class)| class))));
    }
    while let Some((outer, class)) = open.pop() {
        flat.fill(&outer, outer.last, class);
    }
    flat.ranges
}

/// What a connected network is depends on what it lies in: part of the own location, or a hole in a remote prefix.
fn inherit(class: Class, enclosing: Option<Class>) -> Class {
    match (class, enclosing) {
        (Class::Connected, Some(part @ (Class::Local | Class::Masqueraded))) => part,
        (Class::Connected, Some(Class::Own)) => Class::Own,
        (Class::Connected, _) => Class::Outside,
        (class, _) => class,
    }
}

#[derive(Default)]
struct Flat {
    ranges: Vec<(Range, Class)>,
    next: u128,
    full: bool,
}

impl Flat {
    /// Gives the class to what is not yet given of `range`, up to `last`.
    fn fill(&mut self, range: &Range, last: u128, class: Class) {
        let first = range.first.max(self.next);
        if self.full || first > last {
            return;
        }
        match last.checked_add(1) {
            Some(next) => self.next = next,
            None => self.full = true,
        }
        if class == Class::Outside {
            return;
        }
        let family = range.family;
        match self.ranges.last_mut() {
            Some((before, same)) if *same == class && before.last.checked_add(1) == Some(first) => {
                before.last = last;
            }
            _ => self.ranges.push((Range { family, first, last }, class)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flat(known: &[(&str, Class)]) -> Vec<String> {
        let known = known
            .iter()
            .map(|(text, class)| (text.parse().unwrap(), *class))
            .collect();
        let text = |(range, class): &(Range, Class)| format!("{range} {class:?}");
        let mut known: Vec<(Prefix, Class)> = known;
        known.sort();
        flatten(known).iter().map(text).collect()
    }

    const REMOTE: Class = Class::Remote(Traffic::Moving);

    #[test]
    fn the_longest_match_decides() {
        assert_eq!(
            flat(&[
                ("10.0.0.0/8", REMOTE),
                ("10.1.0.0/16", Class::Local),
                ("10.1.2.0/24", Class::Own),
                ("10.1.2.255/32", REMOTE),
            ]),
            [
                "10.0.0.0/16 Remote(Moving)",
                "10.1.0.0/23 Local",
                "10.1.2.0-10.1.2.254 Own",
                "10.1.2.255 Remote(Moving)",
                "10.1.3.0-10.1.255.255 Local",
                "10.2.0.0-10.255.255.255 Remote(Moving)",
            ]
        );
    }

    #[test]
    fn neighbours_of_one_class_become_one_range() {
        assert_eq!(
            flat(&[
                ("10.0.0.0/24", REMOTE),
                ("10.0.1.0/24", REMOTE),
                ("10.0.1.7/32", REMOTE)
            ]),
            ["10.0.0.0/23 Remote(Moving)"]
        );
    }

    #[test]
    fn a_connected_network_is_a_hole_in_what_is_remote_and_a_part_of_what_is_local() {
        assert_eq!(
            flat(&[("192.168.0.0/23", REMOTE), ("192.168.1.0/24", Class::Connected)]),
            ["192.168.0.0/24 Remote(Moving)"]
        );
        assert_eq!(
            flat(&[
                ("192.168.0.0/23", Class::Local),
                ("192.168.1.0/24", Class::Connected)
            ]),
            ["192.168.0.0/23 Local"]
        );
        assert!(flat(&[("192.168.1.0/24", Class::Connected)]).is_empty());
    }

    #[test]
    fn what_is_known_better_in_a_masqueraded_network_is_not_masqueraded() {
        assert_eq!(
            flat(&[
                ("192.168.0.0/23", Class::Masqueraded),
                ("192.168.0.7/32", Class::Local),
                ("192.168.1.0/24", Class::Connected),
                ("192.168.1.9/32", Class::Own),
            ]),
            [
                "192.168.0.0-192.168.0.6 Masqueraded",
                "192.168.0.7 Local",
                "192.168.0.8-192.168.1.8 Masqueraded",
                "192.168.1.9 Own",
                "192.168.1.10-192.168.1.255 Masqueraded",
            ]
        );
    }

    #[test]
    fn the_ends_of_the_address_space_are_no_special_case() {
        assert_eq!(
            flat(&[
                ("::/0", REMOTE),
                ("::/128", Class::Local),
                ("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128", Class::Local)
            ]),
            [
                ":: Local",
                "::1-ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe Remote(Moving)",
                "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff Local",
            ]
        );
        assert_eq!(flat(&[("0.0.0.0/0", REMOTE)]), ["0.0.0.0/0 Remote(Moving)"]);
        assert_eq!(
            flat(&[("255.255.255.255/32", REMOTE)]),
            ["255.255.255.255 Remote(Moving)"]
        );
    }
}
