//! Random clusters: small, with few values, so that claims clash, names return and leaders change.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::{collection::vec, prelude::*, sample::select};
use spanwire_topology::{
    Created, Facts, HopMode, Keepalive, LocationFact, LocationName, MeshMode, NodeFact, PeerFact, Prefix,
    PublicKey,
};

pub(crate) const PLACES: [&str; 4] = ["berlin", "madrid", "paris", "rome"];

/// Returns a cluster in which anything may be wrong.
pub(crate) fn messy() -> impl Strategy<Value = Facts> {
    let nodes = vec((0_u8..9, node(true)), 0..9);
    cluster(nodes, vec((0_u8..4, peer(true)), 0..4))
}

/// The families of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stack {
    V4,
    V6,
    Dual,
}

/// Returns a cluster in which no two claims clash and all links work, of IPv4, of IPv6, or of nodes with either and
/// with both.
pub(crate) fn sound() -> impl Strategy<Value = Facts> {
    let stacks = prop_oneof![
        2 => vec(Just(Stack::V4), 12),
        1 => vec(Just(Stack::V6), 12),
        2 => vec(prop_oneof![Just(Stack::V4), Just(Stack::V6), Just(Stack::Dual)], 12),
    ];
    stacks.prop_flat_map(sound_of)
}

/// Returns a sound cluster in which the nodes have these families. Its IPv4 pool is named, its IPv6 pool automatic.
pub(crate) fn sound_of(stacks: Vec<Stack>) -> impl Strategy<Value = Facts> {
    let nodes = vec((0_u8..12, node(false)), 0..12);
    cluster(nodes, vec((0_u8..4, peer(false)), 0..3)).prop_map(move |mut facts| {
        facts.cluster.automatic = ["fd00:4::/64".parse().unwrap()].into();
        for ((index, node), stack) in (1_u8..).zip(facts.nodes.values_mut()).zip(&stacks) {
            let v6: Ipv6Addr = format!("fd00:1::{index}").parse().unwrap();
            let pods6: Prefix = format!("fd00:10:{index}::/64").parse().unwrap();
            node.addresses.clear();
            node.prefixes.clear();
            if *stack != Stack::V6 {
                node.addresses.insert(Ipv4Addr::new(192, 168, index, 1).into());
                node.prefixes.insert(prefix([10, 244, index, 0], 24));
            }
            if *stack != Stack::V4 {
                node.addresses.insert(v6.into());
                node.prefixes.insert(pods6);
            }
            node.public_key = node.public_key.map(|_| PublicKey::new([index; 32]));
        }
        for (index, peer) in (1..).zip(facts.peers.values_mut()) {
            peer.public_key = Some(PublicKey::new([100 + index; 32]));
            peer.allowed_ips = [prefix([10, 99, index, 0], 24)].into();
        }
        for (index, location) in (1..).zip(facts.locations.values_mut()) {
            location.cidrs = [prefix([172, 20, index, 0], 24)].into();
        }
        facts
    })
}

/// Returns a sound cluster in which nodes have addresses out of the network of another one, which may be there or not.
pub(crate) fn lending() -> impl Strategy<Value = Facts> {
    let lenders = vec(proptest::option::weighted(0.4, 1_u8..13), 12);
    (sound(), lenders).prop_map(|(mut facts, lenders)| {
        for ((index, node), lender) in (1_u8..).zip(facts.nodes.values_mut()).zip(lenders) {
            let v4 = node.addresses.iter().any(IpAddr::is_ipv4);
            let lender = lender.filter(|lender| *lender != index);
            node.borrowed = lender
                .map(|lender| match v4 {
                    true => IpAddr::from([10, 244, lender, 200 + index]),
                    false => format!("fd00:10:{lender}::b0:{index}").parse().unwrap(),
                })
                .into_iter()
                .collect();
        }
        facts
    })
}

/// Returns a cluster in which anything may be wrong, also what nodes have borrowed.
pub(crate) fn messy_lending() -> impl Strategy<Value = Facts> {
    let address = any_prefix().prop_map(|prefix| prefix.address());
    (messy(), vec(vec(address, 0..3), 9)).prop_map(|(mut facts, borrowed)| {
        for (node, borrowed) in facts.nodes.values_mut().zip(borrowed) {
            node.borrowed = borrowed.into_iter().collect();
        }
        facts
    })
}

/// Every leader reports every link as up.
pub(crate) fn link(facts: &mut Facts) {
    for node in facts.nodes.values_mut() {
        node.links = PLACES
            .iter()
            .map(|place| (place.parse().unwrap(), true))
            .collect();
    }
}

fn cluster(
    nodes: impl Strategy<Value = Vec<(u8, NodeFact)>>,
    peers: impl Strategy<Value = Vec<(u8, PeerFact)>>,
) -> impl Strategy<Value = Facts> {
    (nodes, vec((place(), location()), 0..4), peers).prop_map(|(nodes, locations, peers)| {
        let mut facts = Facts::default();
        facts.cluster.overlay = [prefix([10, 4, 0, 0], 27)].into();
        facts.cluster.default_location = Some(PLACES[0].parse().unwrap());
        facts.cluster.api_server = ["203.0.113.1:6443".parse().unwrap()].into();
        facts.nodes = nodes
            .into_iter()
            .map(|(name, node)| (format!("n{name}").parse().unwrap(), node))
            .collect();
        facts.locations = locations.into_iter().collect();
        facts.peers = peers
            .into_iter()
            .map(|(name, peer)| (format!("p{name}").parse().unwrap(), peer))
            .collect();
        facts
    })
}

fn place() -> impl Strategy<Value = LocationName> {
    select(&PLACES[..]).prop_map(|name| name.parse().unwrap())
}

fn prefix(octets: [u8; 4], length: u8) -> Prefix {
    Prefix::new(IpAddr::V4(Ipv4Addr::from(octets)), length).unwrap()
}

/// Returns one of few networks, of any length, nested and not.
fn any_prefix() -> impl Strategy<Value = Prefix> {
    let octets = (
        select(&[10_u8, 192, 127][..]),
        select(&[4_u8, 168, 1][..]),
        0..4_u8,
        0..4_u8,
    );
    let length = select(&[0_u8, 1, 8, 16, 22, 24, 25, 30, 31, 32][..]);
    (octets, length).prop_map(|((a, b, c, d), length)| prefix([a, b, c, d], length))
}

fn key(messy: bool) -> impl Strategy<Value = Option<PublicKey>> {
    let keys = if messy { 1_u8..6 } else { 1..2 };
    proptest::option::weighted(0.85, keys.prop_map(|number| PublicKey::new([number; 32])))
}

fn node(messy: bool) -> impl Strategy<Value = NodeFact> {
    let many = if messy { 3 } else { 1 };
    let place = (
        proptest::option::weighted(0.1, place()),
        proptest::option::weighted(0.9, place()),
    );
    let claims = (
        vec(any_prefix().prop_map(|prefix| prefix.address()), 0..many),
        vec(any_prefix(), 0..many),
        vec(any_prefix(), 0..many),
        key(messy),
    );
    let judged = (
        select(&[None, None, None, Some(true), Some(false)][..]),
        proptest::bool::weighted(0.9),
        proptest::bool::weighted(0.1),
        proptest::bool::weighted(0.3),
        proptest::bool::weighted(0.1),
    );
    let links = vec((self::place(), any::<bool>()), 0..4);
    (place, claims, judged, links, 0_i64..3).prop_map(|(place, claims, judged, links, created)| NodeFact {
        created: Created(created),
        location: place.0,
        region: place.1,
        addresses: claims.0.into_iter().collect(),
        prefixes: claims.1.into_iter().collect(),
        cidrs: claims.2.into_iter().collect(),
        public_key: claims.3,
        leader: judged.0,
        alive: judged.1,
        cordoned: judged.2,
        doubtful: judged.4,
        endpoints: judged
            .3
            .then(|| "198.51.100.1:51820".parse().unwrap())
            .into_iter()
            .collect(),
        keepalive: Some(Keepalive(25)),
        links: links.into_iter().collect(),
        ..NodeFact::default()
    })
}

fn location() -> impl Strategy<Value = LocationFact> {
    let mode = prop_oneof![3 => Just(MeshMode::Leaders), 1 => Just(MeshMode::Nodes)];
    let hop = proptest::option::of(select(vec![HopMode::Cni, HopMode::Vxlan]));
    let fact = (mode, 0_u16..4, 0_u16..3, vec(any_prefix(), 0..2), hop);
    fact.prop_map(|(mode, active, standby, cidrs, hop)| LocationFact {
        mode,
        active,
        standby,
        cidrs: cidrs.into_iter().collect(),
        hop,
        ..LocationFact::default()
    })
}

fn peer(messy: bool) -> impl Strategy<Value = PeerFact> {
    let many = if messy { 3 } else { 1 };
    let claims = (key(messy), vec(any_prefix(), 0..many));
    let place = proptest::option::weighted(0.6, place());
    (claims, place, 0_i64..3).prop_map(|((key, allowed), location, created)| PeerFact {
        created: Created(created),
        public_key: key.or(Some(PublicKey::new([9; 32]))),
        allowed_ips: allowed.into_iter().collect(),
        location,
        ..PeerFact::default()
    })
}
