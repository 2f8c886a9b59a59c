//! One publication changes several things at once, and every node sees another part of that.

use std::collections::{BTreeMap, BTreeSet};

use proptest::{prelude::*, sample::subsequence};
use spanwire_topology::{
    Mesh, NodeName,
    scenario::World,
    trace::{GroundTruth, Spot, Verdict, trace},
};

use crate::mixtures::{established, in_every_mixture, leaks, mixed_plans, pairs, print};

/// Peers are served by a1. Some nodes have both families, as has the Peer; a3 and a4 cannot lead.
const NODES: &str = "overlay 10.4.0.0/16,fd00:4::/64
    location rome
    node a1 region=paris addresses=192.168.1.1,fd00:1::1 pods=10.244.1.0/24 key=1 leader=true
    node a2 region=paris addresses=192.168.1.2,fd00:1::2 pods=10.244.2.0/24,fd00:10:2::/64 key=2
    node a3 region=paris addresses=192.168.1.3 pods=10.244.3.0/24
    node a4 region=paris addresses=192.168.1.4,fd00:1::4 pods=10.244.4.0/24
    node b1 region=rome addresses=192.168.2.1 pods=10.244.6.0/24 key=6
    peer laptop key=9 allowed=10.99.0.1,fd00:99::1 location=paris";

/// What a publication may change, in lines.
const CHANGES: [&[&str]; 16] = [
    &["node a1 leader=", "node a2 leader=true"],
    &["node a1 up=paris,lyon", "node a2 up=paris,lyon"],
    &["node a1 up=rome", "node a2 up=rome", "node b1 up=paris,lyon"],
    &["node a3 region=rome"],
    &["node a2 region=rome"],
    &["node a1 region=rome"],
    &[
        "node a1 region=lyon",
        "node a2 region=lyon",
        "node a3 region=lyon",
        "node a4 region=lyon",
    ],
    &["location paris mode=nodes"],
    &["location paris mode=leaders active=2"],
    &["location paris hop=vxlan"],
    &["tunnel-only"],
    &["peer laptop location=rome"],
    &["node a2 leader=false"],
    &["node a3 key=3"],
    &["node a1 key="],
    &["node a4 pods=10.244.6.0/24", "node b1 pods=10.244.4.0/24"],
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn changes_of_one_publication_are_safe_together_in_every_mixture(
        nodes in any::<bool>(),
        linked in any::<bool>(),
        chosen in subsequence(&CHANGES[..], 2..=3),
        groups in any::<bool>(),
        seed in any::<u64>(),
    ) {
        let mut world = world(if nodes { "location paris mode=nodes" } else { "location paris" }, linked);
        let old = world.mesh.clone();
        chosen.into_iter().flatten().for_each(|line| drop(world.line(line).unwrap()));
        drop(world.line("decide").unwrap());
        let new = world.mesh;
        let alone = [GroundTruth::new([&old]), GroundTruth::new([&new])];
        let members: BTreeSet<NodeName> = nodes_of(&old).filter(|_| !groups).cloned().collect();
        let ground = GroundTruth::new([&old, &new]).without_groups(members);
        let plans = mixed_plans(&old, &new, seed);
        for (from, to) in pairs(&spots(&alone)) {
            let found = trace(&ground, &plans, from, to.address);
            let about = || format!("{from} to {to}: {found}\nold {old}new {new}{}", print(&plans));
            prop_assert!(!matches!(found.verdict, Verdict::Loop | Verdict::Misdelivered(..)), "{}", about());
            let leaks = leaks(&plans, &found.verdict) && established(&old, &new, &alone, from, to);
            prop_assert!(!leaks, "{}", about());
        }
    }
}

/// A leader that has heard of it sends what is for a Peer through its tunnel to the new first leader; one that has not still sends it to
/// the old one by a hop.
#[test]
fn the_first_leader_changes_without_a_loop_while_its_location_becomes_established_with_itself() {
    let first = ["node a1 leader=", "node a2 leader=true"];
    let own = ["node a1 up=paris", "node a2 up=paris"];
    let rome = ["node a1 up=rome", "node a2 up=rome", "node b1 up=paris"];
    for location in ["location paris mode=nodes", "location paris mode=nodes hop=vxlan"] {
        for changes in [
            [&first[..], &own, &[]],
            [&first, &own, &rome],
            [&first, &rome, &[]],
            [&own, &["node a1 leader=false"], &[]],
            [&own, &["remove node a1"], &[]],
            [&own, &["node a1 region=rome"], &[]],
        ] {
            let script = format!("{NODES}\n{location}\ndecide");
            let lines: Vec<&str> = changes.concat().into_iter().chain(["decide"]).collect();
            in_every_mixture(&script, &lines, |[old, new], alone, plans| {
                let ground = GroundTruth::new([old, new]);
                for (from, to) in pairs(&spots(alone)) {
                    let found = trace(&ground, plans, from, to.address);
                    let is_safe = !matches!(found.verdict, Verdict::Loop | Verdict::Misdelivered(..));
                    assert!(
                        is_safe,
                        "{location}, {lines:?}: {from} to {to}: {found}{}",
                        print(plans)
                    );
                }
            });
        }
    }
}

/// Returns the nodes in locations of which one is so, after a decision, with all links where these are wanted.
fn world(location: &str, linked: bool) -> World {
    let mut world = World::default();
    let links = linked.then_some([
        "node a1 up=rome,paris",
        "node a2 up=rome,paris",
        "node b1 up=paris",
    ]);
    let lines = NODES.lines().chain([location]).chain(links.into_iter().flatten());
    // Who leads is known to the second decision, and so are its links.
    lines
        .chain(["decide", "decide"])
        .for_each(|line| drop(world.line(line).unwrap()));
    world
}

fn nodes_of(mesh: &Mesh) -> impl Iterator<Item = &NodeName> {
    mesh.locations
        .values()
        .flat_map(|location| location.members.keys())
}

/// Returns the spots of both publications, each once.
fn spots(alone: &[GroundTruth<'_>; 2]) -> Vec<Spot> {
    let all = alone.iter().flat_map(GroundTruth::spots);
    let all: BTreeMap<_, Spot> = all
        .map(|spot| ((spot.place.clone(), spot.address), spot))
        .collect();
    all.into_values().collect()
}
