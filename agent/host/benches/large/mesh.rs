//! A mesh of 5,000 nodes in 50 locations, and a machine in it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use spanwire_host::{Cni, LinkName, OtherLink};
use spanwire_topology::{
    Generation, Leader, LeaderRole, Location, LocationName, Member, Mesh, NodeName, Prefix, PublicKey,
};

pub(crate) const LOCATIONS: u8 = 50;
const NODES_EACH: u8 = 100;

fn address(first: [u8; 2], l: u8, x: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(first[0], first[1], l, x))
}

/// Returns the pods' network of node `x` of location `l`. From 200 on `l` is no location.
pub(crate) fn prefix(l: u8, x: u8) -> Prefix {
    Prefix::new(IpAddr::V4(Ipv4Addr::new(10, 20 + l, x, 0)), 24).expect("24 is a length")
}

pub(crate) fn location(l: u8) -> LocationName {
    format!("l{l}").parse().expect("a name")
}

pub(crate) fn name(l: u8, x: u8) -> NodeName {
    format!("l{l}-n{x}").parse().expect("a name")
}

pub(crate) fn member(l: u8, x: u8) -> Member {
    let mut key = [7; 32];
    key[0..2].copy_from_slice(&[l, x]);
    Member {
        generation: Generation(1),
        addresses: BTreeSet::from([address([172, 16], l, x)]),
        prefixes: BTreeSet::from([prefix(l, x)]),
        overlay: BTreeSet::from([address([10, 4], l, x)]),
        hop: BTreeSet::from([prefix(l, x).address()]),
        public_key: Some(PublicKey::new(key)),
        listen_port: 51820,
        ..Member::default()
    }
}

/// Returns the mesh; the first node of every location leads it.
pub(crate) fn mesh() -> Mesh {
    let located = |l: u8| {
        let leader = Leader {
            node: name(l, 1),
            role: LeaderRole::Active,
        };
        let here = Location {
            leaders: vec![leader],
            established: (0..LOCATIONS).filter(|far| *far != l).map(location).collect(),
            members: Arc::new((1..=NODES_EACH).map(|x| (name(l, x), member(l, x))).collect()),
            ..Location::default()
        };
        (location(l), here)
    };
    Mesh {
        generation: Generation(1),
        locations: (0..LOCATIONS).map(located).collect(),
        ..Mesh::default()
    }
}

fn link(name: &str) -> LinkName {
    LinkName::new(name).expect("a short name")
}

/// Returns the devices of node `x` of location `l`: a LAN's and flannel's.
pub(crate) fn links(l: u8, x: u8) -> BTreeMap<LinkName, OtherLink> {
    let other = |address, length, cni| OtherLink {
        mtu: 1500,
        addresses: BTreeSet::from([(address, length)]),
        cni,
        ..OtherLink::default()
    };
    BTreeMap::from([
        (link("eth0"), other(address([172, 16], l, x), 24, false)),
        (link("flannel.1"), other(prefix(l, x).address(), 32, true)),
    ])
}

/// Returns the CNI of every node.
pub(crate) fn cni() -> Cni {
    Cni::Overlay {
        links: BTreeSet::from([link("flannel.1")]),
    }
}
