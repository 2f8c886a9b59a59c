//! A mesh of 5,000 nodes in 50 locations: decided from nothing, again, after one change; and planned for one node.
//!
//! `make bench` shows the goals beside what was measured:
//!
//! | benchmark | goal |
//! |---|---|
//! | decide_from_nothing | 50 ms |
//! | decide_after_one_change | 5 ms |
//! | decide_after_a_clash | 5 ms |
//! | decide_with_a_value_that_cannot_be_read | 5 ms |
//! | plan_follower | 5 ms |
//! | plan_leader | 5 ms |

use std::net::{Ipv4Addr, Ipv6Addr};

use divan::{Bencher, black_box};
use spanwire_topology::{
    Created, Facts, Field, Generation, LeaderRole, LocationFact, LocationName, Mesh, NodeFact, NodeName,
    PeerFact, Prefix, PublicKey, Reachability, decide, plan,
};

const LOCATIONS: u8 = 50;
const NODES_EACH: u8 = 100;

fn main() {
    divan::main();
}

#[divan::bench]
fn decide_from_nothing(bencher: Bencher<'_, '_>) {
    let facts = facts();
    bencher.bench(|| decide(black_box(&facts), &Mesh::default()));
}

#[divan::bench]
fn decide_after_one_change(bencher: Bencher<'_, '_>) {
    let mut facts = facts();
    let before = settled(&facts);
    let node = facts.nodes.get_mut(&name(17, 42)).expect("the node is there");
    node.prefixes.insert(prefix4([10, 250, 0, 0], 24));
    bencher.bench(|| {
        let decision = decide(black_box(&facts), black_box(&before));
        assert_eq!(decision.mesh.generation, Generation(before.generation.0 + 1));
        decision
    });
}

#[divan::bench]
fn decide_after_a_clash(bencher: Bencher<'_, '_>) {
    let mut facts = facts();
    let before = settled(&facts);
    let node = facts.nodes.get_mut(&name(17, 42)).expect("the node is there");
    node.cidrs.insert(prefix4([10, 0, 0, 0], 8));
    bencher.bench(|| {
        let decision = decide(black_box(&facts), black_box(&before));
        assert_eq!(decision.rejected.len(), 1);
        decision
    });
}

#[divan::bench]
fn decide_with_a_value_that_cannot_be_read(bencher: Bencher<'_, '_>) {
    let mut facts = facts();
    let before = settled(&facts);
    let node = facts.nodes.get_mut(&name(17, 42)).expect("the node is there");
    node.unread.insert(Field::Keepalive);
    bencher.bench(|| {
        let decision = decide(black_box(&facts), black_box(&before));
        assert_eq!(decision.mesh.generation, before.generation);
        decision
    });
}

#[divan::bench]
fn plan_follower(bencher: Bencher<'_, '_>) {
    plan_of(bencher, None);
}

#[divan::bench]
fn plan_leader(bencher: Bencher<'_, '_>) {
    plan_of(bencher, Some(LeaderRole::Active));
}

fn plan_of(bencher: Bencher<'_, '_>, role: Option<LeaderRole>) {
    let mesh = settled(&facts());
    let location = &mesh.locations[&place(17)];
    let me = location
        .members
        .keys()
        .find(|node| location.role(node) == role)
        .expect("there is one");
    bencher.bench(|| {
        let plan = plan(black_box(&mesh), me, &Reachability::default());
        assert!(plan.routes.len() > 4 * 4900);
        plan
    });
}

/// Returns the mesh once every pair is established.
fn settled(facts: &Facts) -> Mesh {
    let decision = decide(facts, &Mesh::default());
    assert!(decision.rejected.is_empty(), "{:?}", decision.rejected.first());
    decision.mesh
}

fn facts() -> Facts {
    let mut facts = Facts::default();
    facts.cluster.overlay = [prefix4([10, 4, 0, 0], 16), prefix6([0xfd00, 4, 0, 0], 64)].into();
    let places: Vec<LocationName> = (0..LOCATIONS).map(place).collect();
    for location in 0..LOCATIONS {
        let fact = LocationFact {
            active: 2,
            standby: 1,
            cidrs: [prefix4([172, 20, location, 0], 24)].into(),
            node_cidrs: [
                prefix4([192, 168, 0, 0], 16),
                prefix4([10, 0, 0, 0], 8),
                prefix6([0x2001, 0xdb8, 0, 0], 32),
            ]
            .into(),
            ..LocationFact::default()
        };
        facts.locations.insert(place(location), fact);
        for index in 0..NODES_EACH {
            let mut node = node(location, index);
            node.links = places.iter().map(|place| (place.clone(), true)).collect();
            facts.nodes.insert(name(location, index), node);
        }
    }
    for index in 0..20 {
        let mut key = [200; 32];
        key[0] = index;
        let peer = PeerFact {
            created: Created(i64::from(index)),
            public_key: Some(PublicKey::new(key)),
            allowed_ips: [prefix4([10, 99, index, 0], 24)].into(),
            endpoint: None,
            keepalive: None,
            location: Some(place(index)),
            preshared: None,
            unread: [].into(),
        };
        facts
            .peers
            .insert(format!("peer-{index}").parse().expect("a name"), peer);
    }
    facts
}

fn node(location: u8, index: u8) -> NodeFact {
    let mut key = [100; 32];
    (key[0], key[31]) = (index, location);
    let wide = [u16::from(location), u16::from(index)];
    let address6 = Ipv6Addr::new(0x2001, 0xdb8, wide[0], 0, 0, 0, 0, wide[1] + 1);
    NodeFact {
        created: Created(i64::from(location) * 100 + i64::from(index)),
        region: Some(place(location)),
        addresses: [Ipv4Addr::new(192, 168, location, index).into(), address6.into()].into(),
        prefixes: [
            prefix4([10, 100 + location, index, 0], 24),
            prefix6([0xfd10, wide[0], wide[1], 0], 64),
        ]
        .into(),
        public_key: Some(PublicKey::new(key)),
        hop: [Ipv4Addr::new(10, 100 + location, index, 0).into()].into(),
        alive: true,
        ..NodeFact::default()
    }
}

fn place(location: u8) -> LocationName {
    format!("region-{location}").parse().expect("a name")
}

fn name(location: u8, index: u8) -> NodeName {
    let name = format!("ip-192-168-{location}-{index}.region-{location}.compute.internal");
    name.parse().expect("a name")
}

fn prefix4(octets: [u8; 4], length: u8) -> Prefix {
    Prefix::new(Ipv4Addr::from(octets).into(), length).expect("at most 32")
}

fn prefix6(head: [u16; 4], length: u8) -> Prefix {
    let address = Ipv6Addr::new(head[0], head[1], head[2], head[3], 0, 0, 0, 0);
    Prefix::new(address.into(), length).expect("at most 128")
}
