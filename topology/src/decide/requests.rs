//! What is claimed, and what no object can have.

use std::collections::BTreeSet;

use super::place::Placed;
use crate::{
    ClusterFacts, Facts, Family, LocationName, Mesh, Prefix, RejectReason,
    claims::{ClaimRequest, ClaimantRef, Domain, KeyRequest, Purpose},
};

/// Networks that no table may send into a tunnel: "this network", loopback, link-local, multicast and broadcast (the
/// IANA special-purpose registries, RFC 6890).
const NOT_ROUTABLE: [&str; 9] = [
    "0.0.0.0/8",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "224.0.0.0/4",
    "255.255.255.255/32",
    "::/128",
    "::1/128",
    "fe80::/10",
    "ff00::/8",
];

pub(super) fn keys<'a>(facts: &'a Facts, previous: &Mesh, placed: &[Placed<'a>]) -> Vec<KeyRequest<'a>> {
    let nodes = placed.iter().filter_map(|node| {
        let key = node.fact.public_key?;
        Some(KeyRequest {
            key,
            by: ClaimantRef::Node(node.name),
            created: node.fact.created,
            standing: node
                .before
                .is_some_and(|before| before.member.public_key == Some(key)),
        })
    });
    let peers = facts.peers.iter().map(|(name, peer)| KeyRequest {
        key: peer.public_key,
        by: ClaimantRef::Peer(name),
        created: peer.created,
        standing: previous
            .peers
            .get(name)
            .is_some_and(|before| before.public_key == peer.public_key),
    });
    nodes.chain(peers).collect()
}

/// Returns all claims of networks, but of Peers that have no key.
pub(super) fn networks<'a>(
    facts: &'a Facts,
    previous: &Mesh,
    placed: &[Placed<'a>],
    keyless: &BTreeSet<ClaimantRef<'a>>,
) -> Vec<ClaimRequest<'a>> {
    let mut requests = Vec::with_capacity(placed.len() * 4);
    for node in placed {
        of_node(node, previous, &mut requests);
    }
    for (name, fact) in &facts.locations {
        requests.extend(fact.cidrs.iter().map(|cidr| ClaimRequest {
            prefix: *cidr,
            purpose: Purpose::Cidr,
            by: ClaimantRef::Location(name),
            domain: Domain::Location(name),
            created: fact.created,
            standing: stood(previous, name, cidr),
        }));
    }
    for (name, peer) in &facts.peers {
        if keyless.contains(&ClaimantRef::Peer(name)) {
            continue;
        }
        let before = previous.peers.get(name);
        requests.extend(peer.allowed_ips.iter().map(|prefix| ClaimRequest {
            prefix: *prefix,
            purpose: Purpose::AllowedIp,
            by: ClaimantRef::Peer(name),
            domain: Domain::Peer(name),
            created: peer.created,
            standing: before.is_some_and(|before| before.allowed_ips.contains(prefix)),
        }));
    }
    requests
}

fn stood(previous: &Mesh, location: &LocationName, cidr: &Prefix) -> bool {
    let before = previous.locations.get(location);
    before.is_some_and(|before| before.settings.cidrs.contains(cidr))
}

fn of_node<'a>(node: &Placed<'a>, previous: &Mesh, requests: &mut Vec<ClaimRequest<'a>>) {
    let before = node.before.map(|before| before.member);
    let request = |prefix: Prefix, purpose: Purpose, standing: bool| ClaimRequest {
        prefix,
        purpose,
        by: ClaimantRef::Node(node.name),
        domain: Domain::Location(node.location),
        created: node.fact.created,
        standing,
    };
    requests.extend(node.fact.prefixes.iter().map(|prefix| {
        let standing = before.is_some_and(|member| member.prefixes.contains(prefix));
        request(*prefix, Purpose::Pods, standing)
    }));
    requests.extend(node.fact.addresses.iter().map(|address| {
        let standing = before.is_some_and(|member| member.addresses.contains(address));
        request(Prefix::host(*address), Purpose::Address, standing)
    }));
    let cidrs = node.fact.cidrs.iter();
    requests.extend(cidrs.map(|cidr| request(*cidr, Purpose::Cidr, stood(previous, node.location, cidr))));
}

/// What no object can have, and why.
#[derive(Debug)]
pub(super) struct Limits<'a> {
    cluster: &'a ClusterFacts,
    reserved: Vec<(Family, u128, u128, RejectReason)>,
}

impl<'a> Limits<'a> {
    pub(super) fn new(cluster: &'a ClusterFacts) -> Self {
        let unroutable = NOT_ROUTABLE.iter().filter_map(|text| text.parse().ok());
        let pools = cluster
            .overlay
            .iter()
            .chain(&cluster.automatic)
            .map(|pool| (*pool, RejectReason::OverlayPool(*pool)));
        let all = unroutable
            .map(|prefix: Prefix| (prefix, RejectReason::NotRoutable))
            .chain(pools);
        let range = |(prefix, reason): (Prefix, RejectReason)| {
            let (family, first, last) = prefix.range();
            (family, first, last, reason)
        };
        let reserved = all.map(range).collect();
        Self { cluster, reserved }
    }

    /// Returns why a claim fails whatever others claim. Only nodes may have the address of the API server: one of them
    /// may be its host.
    pub(super) fn refusal(&self, request: &ClaimRequest<'_>) -> Option<RejectReason> {
        if request.prefix.is_default() {
            return Some(RejectReason::DefaultRoute);
        }
        let (family, first, last) = request.prefix.range();
        let mut reserved = self.reserved.iter();
        let overlap = reserved.find(|(of, from, to, _)| *of == family && first <= *to && *from <= last);
        if let Some((.., reason)) = overlap {
            return Some(reason.clone());
        }
        if matches!(request.purpose, Purpose::Pods | Purpose::Address) {
            return None;
        }
        let mut servers = self
            .cluster
            .api_server
            .iter()
            .map(|server| server.ip().to_canonical());
        if let Some(server) = servers.find(|server| request.prefix.contains(*server)) {
            return Some(RejectReason::ApiServer(Prefix::host(server)));
        }
        let annotated = request.purpose == Purpose::Cidr && matches!(request.by, ClaimantRef::Node(_));
        (annotated && !request.prefix.is_private()).then_some(RejectReason::NotPrivate)
    }
}
