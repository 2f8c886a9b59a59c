//! Nodes as members of their locations.

use std::{collections::BTreeSet, net::IpAddr};

use super::place::Placed;
use crate::{
    Claim, Claimant, ClusterFacts, Endpoint, EndpointHost, Family, Generation, LocationFact, Member,
    NodeFact, Prefix, Reason, Rejected,
    address::Pool,
    claims::{By, Denied, Use},
};

/// Every node as a member, in the order of the nodes. A member that is as it was, where it was, keeps its generation.
pub(super) fn members(
    cluster: &ClusterFacts,
    nodes: &[Placed<'_>],
    objects: &[Option<&LocationFact>],
    keyless: &BTreeSet<By<'_>>,
    denied: &Denied<'_>,
    generation: Generation,
    rejected: &mut Vec<Rejected>,
) -> Vec<Member> {
    let overlays = overlays(cluster, nodes, rejected);
    let member = |(node, overlay): (&Placed<'_>, Overlay)| {
        let by = By::Node(node.name);
        let fact = node.fact;
        let mut addresses = fact.addresses.clone();
        let mut prefixes = fact.prefixes.clone();
        if !denied.is_empty() {
            addresses.retain(|address| denied.granted(by, Use::Address, Prefix::host(*address)));
            prefixes.retain(|prefix| denied.granted(by, Use::Pods, *prefix));
        }
        let listen_port = fact.listen_port.unwrap_or(cluster.listen_port);
        let mut member = Member {
            generation,
            endpoints: endpoints(fact, &addresses, listen_port, objects[node.site]),
            addresses,
            prefixes,
            overlay: overlay.into_iter().flatten().collect(),
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

/// The overlay addresses of a node, one of each family.
type Overlay = [Option<IpAddr>; 2];

/// The overlay addresses of every node, in the order of the nodes: those it had, and new ones where it has none.
fn overlays(cluster: &ClusterFacts, nodes: &[Placed<'_>], rejected: &mut Vec<Rejected>) -> Vec<Overlay> {
    let mut overlays = vec![Overlay::default(); nodes.len()];
    for (index, family) in [Family::V4, Family::V6].into_iter().enumerate() {
        let Some(prefix) = cluster.overlay.iter().find(|pool| pool.family() == family) else {
            continue;
        };
        let had = |node: &Placed<'_>| {
            let mut overlay = node.before.iter().flat_map(|before| &before.member.overlay);
            overlay.find(|address| Family::of(**address) == family).copied()
        };
        for (node, overlay) in nodes.iter().zip(&mut overlays) {
            overlay[index] = had(node);
        }
        let mut pool = Pool::new(*prefix, overlays.iter_mut().map(|overlay| &mut overlay[index]));
        for (node, overlay) in nodes.iter().zip(&mut overlays) {
            overlay[index] = overlay[index].or_else(|| pool.choose(node.name));
            rejected.extend(overlay[index].is_none().then(|| Rejected {
                by: Claimant::Node(node.name.clone()),
                claim: Claim::Overlay(pool.prefix),
                reason: Reason::PoolExhausted(pool.prefix),
            }));
        }
    }
    overlays
}
