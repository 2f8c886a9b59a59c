//! Nodes as members of their locations.

use std::{borrow::Cow, collections::BTreeSet, net::IpAddr};

use super::place::{Placed, may_lead};
use crate::{
    Claim, Claimant, ClusterFacts, Endpoint, EndpointHost, Family, Generation, LocationFact, Member,
    NodeFact, Prefix, PublicKey, RejectReason, Rejected,
    address::Pool,
    claims::{ClaimantRef, Denied, Purpose},
};

/// A node as a member.
#[derive(Debug)]
pub(super) enum MemberUpdate<'a> {
    /// As it was, where it was.
    Same(&'a Member),
    /// New, moved or changed.
    New(Box<Member>),
}

impl MemberUpdate<'_> {
    pub(super) fn get(&self) -> &Member {
        match self {
            Self::Same(member) => member,
            Self::New(member) => member,
        }
    }

    pub(super) fn into_member(self) -> Member {
        match self {
            Self::Same(member) => member.clone(),
            Self::New(member) => *member,
        }
    }
}

/// Returns every node as a member, in the order of the nodes. A member that is as it was, where it was, keeps its
/// generation.
pub(super) fn members<'a>(
    cluster: &ClusterFacts,
    nodes: &[Placed<'a>],
    objects: &[Option<&LocationFact>],
    keyless: &BTreeSet<ClaimantRef<'_>>,
    denied: &Denied<'_>,
    generation: Generation,
    rejected: &mut Vec<Rejected>,
) -> Vec<MemberUpdate<'a>> {
    let pools = [Family::V4, Family::V6].map(|family| pool(cluster, nodes, denied, family));
    let overlays = overlays(pools, nodes, rejected);
    let translated = translated(nodes, objects);
    let update = |(node, overlay): (&Placed<'a>, Overlay)| {
        let sketch = Sketch {
            translated: translated[node.site],
            ..Sketch::new(cluster, node, objects[node.site], overlay, keyless, denied)
        };
        let before = node.before.filter(|before| before.stayed);
        match before.filter(|before| sketch.is(before.member)) {
            Some(before) => MemberUpdate::Same(before.member),
            None => MemberUpdate::New(Box::new(sketch.member(generation))),
        }
    };
    nodes.iter().zip(overlays).map(update).collect()
}

/// What a member will be, borrowed from its fact: nearly all are as they were, and only the others are made.
struct Sketch<'a> {
    fact: &'a NodeFact,
    addresses: Cow<'a, BTreeSet<IpAddr>>,
    prefixes: Cow<'a, BTreeSet<Prefix>>,
    overlay: Overlay,
    public_key: Option<PublicKey>,
    listen_port: u16,
    location: Option<&'a LocationFact>,
    /// The private addresses of its location are translated on the way out.
    translated: bool,
}

impl<'a> Sketch<'a> {
    fn new(
        cluster: &ClusterFacts,
        node: &Placed<'a>,
        location: Option<&'a LocationFact>,
        overlay: Overlay,
        keyless: &BTreeSet<ClaimantRef<'_>>,
        denied: &Denied<'_>,
    ) -> Self {
        let by = ClaimantRef::Node(node.name);
        let fact = node.fact;
        let mut addresses = Cow::Borrowed(&fact.addresses);
        let mut prefixes = Cow::Borrowed(&fact.prefixes);
        if !fact.borrowed.is_empty() {
            let borrowed = fact.borrowed.iter().map(|address| Prefix::host(*address));
            prefixes.to_mut().extend(borrowed);
        }
        if !denied.is_empty() {
            let address = |address: &IpAddr| denied.granted(by, Purpose::Address, Prefix::host(*address));
            if !addresses.iter().all(address) {
                addresses.to_mut().retain(address);
            }
            let prefix = |prefix: &Prefix| denied.granted(by, Purpose::Pods, *prefix);
            if !prefixes.iter().all(prefix) {
                prefixes.to_mut().retain(prefix);
            }
        }
        let keyed = keyless.is_empty() || !keyless.contains(&by);
        Self {
            fact,
            addresses,
            prefixes,
            overlay,
            public_key: fact.public_key.filter(|_| keyed),
            listen_port: fact.listen_port.unwrap_or(cluster.listen_port),
            location,
            translated: false,
        }
    }

    /// Returns whether the member is that already, whatever its generation.
    fn is(&self, member: &Member) -> bool {
        self.public_key == member.public_key
            && self.listen_port == member.listen_port
            && self.fact.keepalive == member.keepalive
            && self.overlay().eq(member.overlay.iter().copied())
            && *self.addresses == member.addresses
            && *self.prefixes == member.prefixes
            && self.fact.hop == member.hop
            && self.fact.mtu == member.mtu
            && match self.endpoints() {
                Reached::Named(endpoints) => *endpoints == member.endpoints,
                Reached::At(addresses) => {
                    at(addresses.iter(), self.listen_port).eq(member.endpoints.iter().cloned())
                }
                Reached::Own => at(self.own(), self.listen_port).eq(member.endpoints.iter().cloned()),
            }
    }

    fn member(self, generation: Generation) -> Member {
        Member {
            generation,
            endpoints: match self.endpoints() {
                Reached::Named(endpoints) => endpoints.clone(),
                Reached::At(addresses) => at(addresses.iter(), self.listen_port).collect(),
                Reached::Own => at(self.own(), self.listen_port).collect(),
            },
            overlay: self.overlay().collect(),
            addresses: self.addresses.into_owned(),
            prefixes: self.prefixes.into_owned(),
            hop: self.fact.hop.clone(),
            mtu: self.fact.mtu,
            public_key: self.public_key,
            listen_port: self.listen_port,
            keepalive: self.fact.keepalive,
        }
    }

    /// In the order of addresses: IPv4 goes before IPv6.
    fn overlay(&self) -> impl Iterator<Item = IpAddr> {
        self.overlay.into_iter().flatten()
    }

    /// Returns where others reach a node, best first: what its annotation says; else, unless an endpoint of the
    /// location stands in front of it, its external addresses; else, unless keepalives say that it is behind a NAT, its
    /// own addresses: public ones whether the mesh routes them or not, and private ones, which serve in an open routed
    /// network, unless something says that a NAT is in front of them.
    fn endpoints(&self) -> Reached<'_> {
        let fact = self.fact;
        if !fact.endpoints.is_empty() {
            return Reached::Named(&fact.endpoints);
        }
        let in_front = self.location.is_some_and(|location| location.endpoint.is_some());
        let kept_open =
            fact.keepalive.is_some() || self.location.is_some_and(|location| location.keepalive.is_some());
        match (in_front, fact.external.is_empty(), kept_open) {
            (true, ..) | (false, true, true) => Reached::Named(const { &Vec::new() }),
            (false, false, _) => Reached::At(&fact.external),
            (false, true, false) => Reached::Own,
        }
    }

    /// Returns its own addresses at which other locations reach it.
    fn own(&self) -> impl Iterator<Item = &IpAddr> {
        let public = |family: Family| {
            let mut own = self.fact.addresses.iter();
            own.any(|address| Family::of(*address) == family && is_public(*address))
        };
        let public = [public(Family::V4), public(Family::V6)];
        let serves = move |address: &&IpAddr| {
            let translated = self.translated || public[usize::from(address.is_ipv6())];
            is_public(**address) || (!translated && self.addresses.contains(*address))
        };
        self.fact.addresses.iter().filter(serves)
    }
}

/// Where others reach a node.
enum Reached<'a> {
    Named(&'a Vec<Endpoint>),
    At(&'a BTreeSet<IpAddr>),
    Own,
}

/// Returns the endpoints at those addresses that may be another host's. What is published is read again, and an endpoint that
/// cannot be would be published again and again.
fn at<'a>(addresses: impl Iterator<Item = &'a IpAddr>, port: u16) -> impl Iterator<Item = Endpoint> {
    addresses.filter_map(move |address| Endpoint::at(*address, port).ok())
}

fn is_public(address: IpAddr) -> bool {
    let host = EndpointHost::Address(address);
    Endpoint { host, port: 1 }.is_public()
}

/// Returns for each location whether its private addresses are translated on the way out, as far as anything says so: a
/// node of it has a public endpoint or external address beside those that have none. What a node says that may not lead is
/// not asked: it has no part in how the leaders are reached.
fn translated(nodes: &[Placed<'_>], objects: &[Option<&LocationFact>]) -> Vec<bool> {
    let mut translated = vec![false; objects.len()];
    for node in nodes {
        let fact = node.fact;
        let outside = fact.endpoints.iter().any(Endpoint::is_public)
            || fact.external.iter().any(|address| is_public(*address));
        translated[node.site] |= outside && may_lead(node, objects[node.site], &BTreeSet::new());
    }
    translated
}

/// The overlay addresses of a node, one of each family.
type Overlay = [Option<IpAddr>; 2];

/// Returns the pool of a family: the one that is named, or the automatic one while a node of the cluster has the
/// family.
///
/// What is not granted, like a link-local address, does not count. A node that is the only one with a family, and that
/// comes and goes, takes the overlay addresses of that family with it; with it goes everything else that could have
/// used them, and as the first choice of each node is a hash of its name, they come back as they were.
fn pool(cluster: &ClusterFacts, nodes: &[Placed<'_>], denied: &Denied<'_>, family: Family) -> Option<Prefix> {
    let of_family = |pools: &BTreeSet<Prefix>| pools.iter().find(|pool| pool.family() == family).copied();
    let has = |node: &Placed<'_>| {
        let by = ClaimantRef::Node(node.name);
        let mut pods = node
            .fact
            .prefixes
            .iter()
            .filter(|prefix| prefix.family() == family);
        let mut addresses = node
            .fact
            .addresses
            .iter()
            .filter(|address| Family::of(**address) == family);
        pods.any(|prefix| denied.granted(by, Purpose::Pods, *prefix))
            || addresses.any(|address| denied.granted(by, Purpose::Address, Prefix::host(*address)))
    };
    of_family(&cluster.overlay).or_else(|| of_family(&cluster.automatic).filter(|_| nodes.iter().any(has)))
}

/// Returns the overlay addresses of every node, in the order of the nodes: those it had, and new ones where it has
/// none.
fn overlays(pools: [Option<Prefix>; 2], nodes: &[Placed<'_>], rejected: &mut Vec<Rejected>) -> Vec<Overlay> {
    let mut overlays = vec![Overlay::default(); nodes.len()];
    for (index, prefix) in pools.into_iter().enumerate() {
        let Some(prefix) = prefix else {
            continue;
        };
        let family = prefix.family();
        let had = |node: &Placed<'_>| {
            let mut overlay = node.before.iter().flat_map(|before| &before.member.overlay);
            overlay.find(|address| Family::of(**address) == family).copied()
        };
        for (node, overlay) in nodes.iter().zip(&mut overlays) {
            overlay[index] = had(node);
        }
        let mut pool = Pool::new(prefix, overlays.iter_mut().map(|overlay| &mut overlay[index]));
        for (node, overlay) in nodes.iter().zip(&mut overlays) {
            overlay[index] = overlay[index].or_else(|| pool.choose(node.name));
            rejected.extend(overlay[index].is_none().then(|| Rejected {
                by: Claimant::Node(node.name.clone()),
                claim: Claim::Overlay(pool.prefix),
                reason: RejectReason::PoolExhausted(pool.prefix),
            }));
        }
    }
    overlays
}
