//! Nodes as members of their locations.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::place::Placed;
use crate::{
    Claim, Claimant, ClusterFacts, Endpoint, EndpointHost, Facts, Family, LocationFact, Member, Mesh,
    NodeFact, Prefix, Reason, Rejected,
    address::Pool,
    claims::{By, Denied, Use},
};

/// Puts every node into its location.
pub(super) fn enter(
    facts: &Facts,
    placed: &[Placed<'_>],
    keyless: &BTreeSet<By<'_>>,
    denied: &Denied<'_>,
    mesh: &mut Mesh,
    rejected: &mut Vec<Rejected>,
) {
    let overlays = overlays(&facts.cluster, placed, rejected);
    for (node, overlay) in placed.iter().zip(overlays) {
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
            generation: mesh.generation,
            endpoints: endpoints(fact, &addresses, listen_port, facts.locations.get(node.location)),
            addresses,
            prefixes: prefixes.copied().collect(),
            overlay,
            hop: fact.hop.clone(),
            public_key: fact.public_key.filter(|_| !keyless.contains(&by)),
            listen_port,
            keepalive: fact.keepalive,
        };
        if let Some((_, before)) = node.before.filter(|(location, _)| *location == node.location) {
            member.generation = before.generation;
            if member != *before {
                member.generation = mesh.generation;
            }
        }
        if let Some(location) = mesh.locations.get_mut(node.location) {
            location.members.insert(node.name.clone(), member);
        }
    }
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
    placed: &[Placed<'_>],
    rejected: &mut Vec<Rejected>,
) -> Vec<BTreeSet<IpAddr>> {
    let mut pools: BTreeMap<Family, Pool> = BTreeMap::new();
    for pool in &cluster.overlay {
        pools.entry(pool.family()).or_insert_with(|| Pool::new(*pool));
    }
    let keep = |node: &Placed<'_>| {
        let mut kept = BTreeMap::new();
        for address in node.before.iter().flat_map(|(_, member)| &member.overlay) {
            let family = Family::of(*address);
            let pool = pools.get_mut(&family).filter(|_| !kept.contains_key(&family));
            if pool.is_some_and(|pool| pool.keep(*address)) {
                kept.insert(family, *address);
            }
        }
        kept
    };
    let mut overlays: Vec<BTreeMap<Family, IpAddr>> = placed.iter().map(keep).collect();
    for (node, overlay) in placed.iter().zip(&mut overlays) {
        for (family, pool) in &mut pools {
            if overlay.contains_key(family) {
                continue;
            }
            match pool.choose(node.name) {
                Some(address) => drop(overlay.insert(*family, address)),
                None => rejected.push(Rejected {
                    by: Claimant::Node(node.name.clone()),
                    claim: Claim::Overlay(pool.prefix()),
                    reason: Reason::PoolExhausted(pool.prefix()),
                }),
            }
        }
    }
    overlays
        .into_iter()
        .map(|overlay| overlay.into_values().collect())
        .collect()
}
