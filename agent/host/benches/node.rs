//! A leader and a follower in a mesh of 5,000 nodes in 50 locations: rendered, and compared with what is.
//!
//! Nothing of this may be felt beside the 250 ms that a change may take. `make bench` shows the goals beside what was
//! measured:
//!
//! | benchmark | goal |
//! |---|---|
//! | render_leader | 10 ms |
//! | render_follower | 10 ms |
//! | wireguard_leader | 5 ms |
//! | diff_of_nothing | 5 ms |
//! | diff_from_nothing | 10 ms |

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use divan::{Bencher, black_box};
use spanwire_host::{Cni, Host, HostFacts, LinkName, OtherLink, diff, render, wireguard};
use spanwire_topology::{
    Leader, LeaderRole, Location, LocationName, Member, Mesh, NodeName, Plan, Prefix, PublicKey,
    Reachability, plan,
};

const LOCATIONS: u8 = 50;
const NODES_EACH: u8 = 100;

fn main() {
    divan::main();
}

#[divan::bench]
fn render_leader(bencher: Bencher<'_, '_>) {
    let (plan, facts) = node(1);
    bencher.bench(|| render(black_box(&plan), &facts));
}

#[divan::bench]
fn render_follower(bencher: Bencher<'_, '_>) {
    let (plan, facts) = node(2);
    bencher.bench(|| render(black_box(&plan), &facts));
}

#[divan::bench]
fn wireguard_leader(bencher: Bencher<'_, '_>) {
    let (plan, facts) = node(1);
    bencher.bench(|| wireguard(black_box(&plan), &facts));
}

#[divan::bench]
fn diff_of_nothing(bencher: Bencher<'_, '_>) {
    let (plan, facts) = node(1);
    // Rendered twice, since what is read from a machine shares nothing with what is wanted.
    let [actual, wanted] = [(); 2].map(|()| render(&plan, &facts));
    bencher.bench(|| {
        let steps = diff(black_box(&actual), black_box(&wanted));
        assert_eq!(steps, vec![]);
    });
}

#[divan::bench]
fn diff_from_nothing(bencher: Bencher<'_, '_>) {
    let (plan, facts) = node(1);
    let host = render(&plan, &facts);
    bencher.bench(|| diff(&Host::default(), black_box(&host)));
}

fn address(first: [u8; 2], l: u8, x: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(first[0], first[1], l, x))
}

fn prefix(l: u8, x: u8) -> Prefix {
    Prefix::new(IpAddr::V4(Ipv4Addr::new(10, 100 + l, x, 0)), 24).expect("24 is a length")
}

fn location(l: u8) -> LocationName {
    format!("l{l}").parse().expect("a name")
}

fn name(l: u8, x: u8) -> NodeName {
    format!("l{l}-n{x}").parse().expect("a name")
}

fn member(l: u8, x: u8) -> Member {
    let mut key = [7; 32];
    key[0..2].copy_from_slice(&[l, x]);
    Member {
        addresses: BTreeSet::from([address([172, 16], l, x)]),
        prefixes: BTreeSet::from([prefix(l, x)]),
        overlay: BTreeSet::from([address([10, 4], l, x)]),
        hop: BTreeSet::from([prefix(l, x).address()]),
        public_key: Some(PublicKey::new(key)),
        listen_port: 51820,
        ..Member::default()
    }
}

fn mesh() -> Mesh {
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
        locations: (0..LOCATIONS).map(located).collect(),
        ..Mesh::default()
    }
}

/// Node `x` of location 0: 1 leads.
fn node(x: u8) -> (Plan, HostFacts) {
    let link = |name| LinkName::new(name).expect("a short name");
    let other = |address, length, cni| OtherLink {
        mtu: 1500,
        addresses: BTreeSet::from([(address, length)]),
        cni,
        ..OtherLink::default()
    };
    let facts = HostFacts {
        public_key: member(0, x).public_key,
        links: BTreeMap::from([
            (link("eth0"), other(address([172, 16], 0, x), 24, false)),
            (link("flannel.1"), other(prefix(0, x).address(), 32, true)),
        ]),
        cni: Cni::Overlay {
            links: BTreeSet::from([link("flannel.1")]),
        },
        settled: (1..LOCATIONS).map(location).collect(),
        ..HostFacts::default()
    };
    let plan = plan(&mesh(), &name(0, x), &Reachability::default());
    assert!(plan.routes.len() > 9_000, "the others' nodes and pods are routed");
    (plan, facts)
}
