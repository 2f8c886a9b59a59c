//! Nodes as members of their locations.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::place::Placed;
use crate::{
    Claim, Claimant, ClusterFacts, Endpoint, EndpointHost, Facts, Family, Generation, LocationFact, Member,
    NodeFact, Prefix, Reason, Rejected,
    address::Pool,
    claims::{By, Denied, Use},
};

/// Every node as a member, in the order of the nodes. A member that is as it was, where it was, keeps its generation.
pub(super) fn members(
    facts: &Facts,
    nodes: &[Placed<'_>],
    keyless: &BTreeSet<By<'_>>,
    denied: &Denied<'_>,
    generation: Generation,
    rejected: &mut Vec<Rejected>,
) -> Vec<Member> {
    let overlays = overlays(&facts.cluster, nodes, rejected);
    let member = |(node, overlay): (&Placed<'_>, BTreeSet<IpAddr>)| {
        let by = By::Node(node.name);
        let fact = node.fact;
        let granted = |address: &&IpAddr| denied.granted(by, Use::Address, Prefix::host(**address));
        let addresses = fact.addresses.iter().filter(granted).copied().collect();
        let prefixes = fact
            .prefixes
            .iter()
            .filter(|prefix| denied.granted(by, Use::Pods, **prefix));
        let listen_port = fact.listen_port.unwrap_or(facts.cluster.listen_port);
        let mut member = Member {
            generation,
            endpoints: endpoints(fact, &addresses, listen_port, facts.locations.get(node.location)),
            addresses,
            prefixes: prefixes.copied().collect(),
            overlay,
            hop: fact.hop.clone(),
            public_key: fact
                .public_key
                .filter(|_| keyless.is_empty() || !keyless.contains(&by)),
            listen_port,
            keepalive: fact.keepalive,
        };
        if let Some(before) = node.before.filter(|before| before.stayed) {
            member.generation = before.member.generation;
            if member != *before.member {
                member.generation = generation;
            }
        }
        member
    };
    nodes.iter().zip(overlays).map(member).collect()
}

/// Where others reach a node, best first: what its annotation says; else, unless an endpoint of the location stands in
/// front of it, its external addresses; else, unless keepalives say that it is behind a NAT, its own addresses, which
/// serve in an open routed network.
fn endpoints(
    fact: &NodeFact,
    addresses: &BTreeSet<IpAddr>,
    port: u16,
    location: Option<&LocationFact>,
) -> Vec<Endpoint> {
    if !fact.endpoints.is_empty() {
        return fact.endpoints.clone();
    }
    let in_front = location.is_some_and(|location| location.endpoint.is_some());
    let kept_open = fact.keepalive.is_some() || location.is_some_and(|location| location.keepalive.is_some());
    let reachable = match (in_front, fact.external.is_empty(), kept_open) {
        (true, ..) | (false, true, true) => return Vec::new(),
        (false, false, _) => &fact.external,
        (false, true, false) => addresses,
    };
    let endpoint = |address: &IpAddr| Endpoint {
        host: EndpointHost::Address(*address),
        port,
    };
    reachable.iter().map(endpoint).collect()
}

/// The overlay addresses of every node, in the order of the nodes: those it had, and new ones where it has none.
fn overlays(
    cluster: &ClusterFacts,
    nodes: &[Placed<'_>],
    rejected: &mut Vec<Rejected>,
) -> Vec<BTreeSet<IpAddr>> {
    let mut pools: BTreeMap<Family, Prefix> = BTreeMap::new();
    for pool in &cluster.overlay {
        pools.entry(pool.family()).or_insert(*pool);
    }
    let mut overlays = vec![BTreeSet::new(); nodes.len()];
    for (family, prefix) in pools {
        let had = |node: &Placed<'_>| {
            let mut overlay = node.before.iter().flat_map(|before| &before.member.overlay);
            overlay.find(|address| Family::of(**address) == family).copied()
        };
        let mut addresses: Vec<Option<IpAddr>> = nodes.iter().map(had).collect();
        let mut pool = Pool::new(prefix, addresses.iter_mut());
        for ((node, address), overlay) in nodes.iter().zip(addresses).zip(&mut overlays) {
            let address = address.or_else(|| pool.choose(node.name));
            overlay.extend(address);
            rejected.extend(address.is_none().then(|| Rejected {
                by: Claimant::Node(node.name.clone()),
                claim: Claim::Overlay(pool.prefix),
                reason: Reason::PoolExhausted(pool.prefix),
            }));
        }
    }
    overlays
}
