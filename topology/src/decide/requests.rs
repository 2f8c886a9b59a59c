//! What is claimed. What no object can have is judged in [`limits`](super::limits).

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::{kept::Kept, limits::Ranges, place::Placed};
use crate::{
    Created, LocationName, Mesh, Prefix, PublicKey,
    claims::{ClaimRequest, ClaimantRef, Domain, KeyRequest, Purpose},
};

/// How much later than its successor registered a node may have been found down: kubelets are waited for, 40 to 50 s as
/// Kubernetes comes.
const SLACK: i64 = 300;

/// The claims for which a node that is down has a successor: another node of its location that is ready and was made after
/// it went down. A machine that was renamed or installed again looks like that. A node that was there all the time is no
/// successor, so none can wait for a neighbour to reboot and take over what it has.
#[derive(Debug, Default)]
pub(super) struct Stale<'a> {
    addresses: BTreeSet<(usize, IpAddr)>,
    keys: BTreeSet<(usize, PublicKey)>,
    nodes: &'a [Placed<'a>],
}

impl<'a> Stale<'a> {
    pub(super) fn new(nodes: &'a [Placed<'a>]) -> Self {
        let mut addresses: BTreeMap<(usize, IpAddr), Vec<(usize, Created)>> = BTreeMap::new();
        let mut keys: BTreeMap<(usize, PublicKey), Vec<(usize, Created)>> = BTreeMap::new();
        for (place, node) in nodes.iter().enumerate() {
            let Some(since) = node.fact.down_since else {
                continue;
            };
            for address in &node.fact.addresses {
                let down = addresses.entry((node.site, *address)).or_default();
                down.push((place, since));
            }
            if let Some(key) = node.fact.public_key {
                keys.entry((node.site, key)).or_default().push((place, since));
            }
        }
        let mut stale = Self {
            nodes,
            ..Self::default()
        };
        if addresses.is_empty() && keys.is_empty() {
            return stale;
        }
        for node in nodes.iter().filter(|node| node.fact.down_since.is_none()) {
            let replaced = |down: &&(usize, Created)| down.1.0 <= node.fact.created.0.saturating_add(SLACK);
            for address in &node.fact.addresses {
                let down = addresses.get(&(node.site, *address)).into_iter().flatten();
                let places = down.filter(replaced).map(|(place, _)| (*place, *address));
                stale.addresses.extend(places);
            }
            if let Some(key) = node.fact.public_key {
                let down = keys.get(&(node.site, key)).into_iter().flatten();
                stale
                    .keys
                    .extend(down.filter(replaced).map(|(place, _)| (*place, key)));
            }
        }
        stale
    }

    fn address(&self, place: usize, address: IpAddr) -> bool {
        !self.addresses.is_empty() && self.addresses.contains(&(place, address))
    }

    fn key(&self, place: usize, key: PublicKey) -> bool {
        !self.keys.is_empty() && self.keys.contains(&(place, key))
    }
}

pub(super) fn keys<'a>(facts: &'a Kept<'_>, previous: &Mesh, stale: &Stale<'a>) -> Vec<KeyRequest<'a>> {
    let nodes = stale.nodes.iter().enumerate().filter_map(|(place, node)| {
        let key = node.fact.public_key?;
        Some(KeyRequest {
            key,
            by: ClaimantRef::Node(node.name),
            created: node.fact.created,
            standing: node
                .before
                .is_some_and(|before| before.member.public_key == Some(key)),
            stale: stale.key(place, key),
        })
    });
    let peers = facts.peers().filter_map(|(name, peer)| {
        let key = peer.key()?;
        let before = previous.peers.get(name);
        Some(KeyRequest {
            key,
            by: ClaimantRef::Peer(name),
            created: peer.created,
            standing: before.is_some_and(|before| before.public_key == key),
            stale: false,
        })
    });
    nodes.chain(peers).collect()
}

/// Returns all claims of networks, but of Peers that have no key.
pub(super) fn networks<'a>(
    facts: &'a Kept<'_>,
    previous: &Mesh,
    stale: &Stale<'a>,
    ranges: &Ranges,
    keyless: &BTreeSet<ClaimantRef<'a>>,
) -> Vec<ClaimRequest<'a>> {
    let mut requests = Vec::with_capacity(stale.nodes.len() * 4);
    for (place, node) in stale.nodes.iter().enumerate() {
        of_node(place, node, previous, stale, ranges, &mut requests);
    }
    for (name, fact) in facts.locations() {
        requests.extend(fact.cidrs.iter().map(|cidr| ClaimRequest {
            prefix: *cidr,
            purpose: Purpose::Cidr,
            by: ClaimantRef::Location(name),
            domain: Domain::Location(name),
            created: fact.created,
            standing: stood(previous, name, cidr),
            stale: false,
            pooled: false,
            reported: false,
            borrowed: false,
            place: None,
        }));
    }
    for (name, peer) in facts.peers() {
        if peer.key().is_none() || keyless.contains(&ClaimantRef::Peer(name)) {
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
            stale: false,
            pooled: ranges.of_pods(prefix).is_some(),
            reported: false,
            borrowed: false,
            place: None,
        }));
    }
    requests
}

fn stood(previous: &Mesh, location: &LocationName, cidr: &Prefix) -> bool {
    let before = previous.locations.get(location);
    before.is_some_and(|before| before.settings.cidrs.contains(cidr))
}

fn of_node<'a>(
    place: usize,
    node: &Placed<'a>,
    previous: &Mesh,
    stale: &Stale<'a>,
    ranges: &Ranges,
    requests: &mut Vec<ClaimRequest<'a>>,
) {
    let before = node.before.map(|before| before.member);
    let request = |prefix: Prefix, purpose: Purpose, standing: bool| ClaimRequest {
        prefix,
        purpose,
        by: ClaimantRef::Node(node.name),
        domain: Domain::Location(node.location),
        created: node.fact.created,
        standing,
        stale: false,
        pooled: purpose != Purpose::Pods && ranges.of_pods(&prefix).is_some(),
        reported: purpose == Purpose::Pods && ranges.reported(),
        borrowed: false,
        place: Some(place),
    };
    requests.extend(node.fact.prefixes.iter().map(|prefix| {
        let standing = before.is_some_and(|member| member.prefixes.contains(prefix));
        request(*prefix, Purpose::Pods, standing)
    }));
    requests.extend(node.fact.borrowed.iter().map(|address| {
        let prefix = Prefix::host(*address);
        let standing = before.is_some_and(|member| member.prefixes.contains(&prefix));
        ClaimRequest {
            borrowed: true,
            ..request(prefix, Purpose::Pods, standing)
        }
    }));
    requests.extend(node.fact.addresses.iter().map(|address| {
        let standing = before.is_some_and(|member| member.addresses.contains(address));
        ClaimRequest {
            stale: stale.address(place, *address),
            ..request(Prefix::host(*address), Purpose::Address, standing)
        }
    }));
    let cidrs = node.fact.cidrs.iter();
    requests.extend(cidrs.map(|cidr| request(*cidr, Purpose::Cidr, stood(previous, node.location, cidr))));
}
