//! Networks of which every address is this machine's ("AnyIP": `ip route add local NETWORK dev lo`).
//!
//! Linux looks into the table `local` before any of Spanwire's, so that nothing of such a network gets into the mesh, however long the
//! prefix there is. It can only be said. Where this machine serves a part of what its own location has (`cidrs`, its own pods), that is
//! what such a route is for.

use spanwire_topology::{LocationName, Plan, Prefix};

use super::{ResolvedRoute, neighbours};
use crate::{Conflict, HostFacts, LinkName, prefixes::Prefixes};

/// Returns the routes that take something of what this node has to send on, to other locations or inside the own one.
pub(super) fn swallowed(
    plan: &Plan,
    facts: &HostFacts,
    remote: &[(Prefix, ResolvedRoute<'_>)],
) -> Vec<Conflict> {
    if facts.local_routes.is_empty() {
        return Vec::new();
    }
    let elsewhere = remote.iter().map(|(prefix, route)| (*prefix, route.location));
    let through = plan.leaders.iter().flat_map(neighbours).map(Prefix::host);
    let inside = plan.returns.keys().copied().chain(through);
    let here = plan.location.iter();
    let needed: Vec<(Prefix, &LocationName)> = here
        .flat_map(|location| inside.clone().map(move |prefix| (prefix, location)))
        .collect();
    let mut needed: Vec<_> = elsewhere.chain(needed).collect();
    needed.sort();
    needed.dedup_by_key(|(prefix, _)| *prefix);
    let all: Prefixes = needed.iter().map(|(prefix, _)| *prefix).collect();
    let is_needed = |prefix: &Prefix| needed.binary_search_by(|(other, _)| other.cmp(prefix)).is_ok();
    let nearer: Prefixes = nearer(plan, facts).filter(|prefix| !is_needed(prefix)).collect();
    let conflict = |(network, link): (&Prefix, &LinkName)| {
        let around = around(network, &all, &nearer);
        let taken = |prefix: &Prefix| network.covers(prefix) || Some(*prefix) == around;
        let mut taken = needed.iter().filter(|(prefix, _)| taken(prefix));
        let (prefix, location) = taken.next()?;
        Some(Conflict::Swallowed {
            network: *network,
            link: link.clone(),
            prefix: *prefix,
            location: (*location).clone(),
            count: 1 + taken.count(),
        })
    };
    facts.local_routes.iter().filter_map(conflict).collect()
}

/// Returns the prefix of the mesh in which a network lies directly, not in something that lies in it and is no matter of the mesh here.
fn around(network: &Prefix, all: &Prefixes, nearer: &Prefixes) -> Option<Prefix> {
    let around = all.covering(network)?;
    let nearer = nearer.covering(network);
    nearer
        .is_none_or(|nearer| nearer.length() < around.length())
        .then_some(around)
}

/// Returns what is on this node, or is reached from it without the mesh.
fn nearer(plan: &Plan, facts: &HostFacts) -> impl Iterator<Item = Prefix> {
    let connected = facts.links.values().flat_map(|link| link.networks());
    plan.local.iter().chain(&plan.own).copied().chain(connected)
}
