//! While a publication spreads, every node may see another mixture of the old one and the new one.
//!
//! Each head, each member and each Peer comes from the old or the new publication, for each node on its own. Only this
//! is sure: adds are published before removes, so a node that moves is seen at one of its two places at least.

use std::collections::BTreeSet;

use proptest::prelude::*;
use spanwire_topology::{
    Facts, LeaderRole, Location, LocationName, Mesh, MeshMode, NodeName, Reachability, Role, decide, plan,
    scenario::World,
    trace::{GroundTruth, Place, Plans, Spot, Verdict, plans, trace},
};

use crate::{
    arbitrary::{link, sound},
    failover::suspicion,
};

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_mixture_is_safe_whatever_nodes_observe(
        before in sound(),
        after in sound(),
        links in any::<[bool; 2]>(),
        seed in any::<u64>(),
        suspicious in any::<bool>(),
    ) {
        let (old, new) = publications(before, after, links);
        let ground = GroundTruth::new([&old, &new]);
        let alone = [&old, &new].map(|mesh| GroundTruth::new([mesh]));
        let spots = [alone[0].spots(), alone[1].spots()].concat();
        let plans = mixed_plans_by(&old, &new, seed, |mesh, node| match suspicious {
            true => suspicion(mesh, node, seed),
            false => Reachability::default(),
        });
        for (from, to) in pairs(&spots) {
            let outcome = trace(&ground, &plans, from, to.address).verdict;
            let about = || format!("{from} to {to}: {outcome:?}\nold {old}new {new}{}", print(&plans));
            prop_assert!(!matches!(outcome, Verdict::Loop | Verdict::Misdelivered(..)), "{}", about());
            if established(&old, &new, &alone, from, to) {
                prop_assert!(!leaks(&plans, &outcome), "{}", about());
            }
        }
    }

    #[test]
    fn what_stays_as_it_was_loses_nothing(
        before in sound(),
        others in sound(),
        links in any::<[bool; 2]>(),
        seed in any::<u64>(),
    ) {
        let (old, new) = publications(before.clone(), with_followers(before, others), links);
        let ground = GroundTruth::new([&old, &new]);
        let alone = [&old, &new].map(|mesh| GroundTruth::new([mesh]));
        let spots = [alone[0].spots(), alone[1].spots()].concat();
        let (old_plans, new_plans, mixed) = (plans(&old), plans(&new), mixed_plans(&old, &new, seed));
        for (from, to) in pairs(&spots) {
            let outcomes = [&old_plans, &new_plans, &mixed].map(|plans| trace(&ground, plans, from, to.address).verdict);
            if works(&outcomes[0]) && works(&outcomes[1]) && stays(&old, &new, from) && stays(&old, &new, to) {
                let text = format!("{from} to {to}: {outcomes:?}\nold {old}new {new}{}", print(&mixed));
                prop_assert!(works(&outcomes[2]), "{}", text);
            }
        }
    }

    #[test]
    fn while_leaders_change_roles_what_works_before_and_after_goes_on(
        facts in sound(),
        links in any::<[bool; 2]>(),
        seed in any::<u64>(),
    ) {
        let (_, old) = publications(facts.clone(), facts, links);
        let new = with_other_roles(old.clone(), seed);
        let ground = GroundTruth::new([&old, &new]);
        let (old_plans, new_plans, mixed) = (plans(&old), plans(&new), mixed_plans(&old, &new, seed));
        let spots = ground.spots();
        // A Peer has a tunnel to one leader, so with Peers both sides of it have to switch.
        let peer = |spot: &Spot| matches!(spot.place, Place::Peer(_));
        let between = |(from, to): &(&Spot, &Spot)| led(&new, from) && !peer(from) && !peer(to);
        for (from, to) in pairs(&spots).filter(between) {
            let outcomes = [&old_plans, &new_plans, &mixed].map(|plans| trace(&ground, plans, from, to.address).verdict);
            if works(&outcomes[0]) && works(&outcomes[1]) {
                let text = format!("{from} to {to}: {outcomes:?}\nold {old}new {new}{}", print(&mixed));
                prop_assert!(works(&outcomes[2]), "{}", text);
            }
        }
    }
}

#[test]
fn leaders_change_places_without_a_loop_in_every_mixture() {
    let script = "overlay 10.4.0.0/16
        node a1 region=paris addresses=192.168.1.1 pods=10.244.1.0/24 key=1 up=rome leader=true
        node a2 region=paris addresses=192.168.1.2 pods=10.244.2.0/24 key=2 up=rome
        node a3 region=paris addresses=192.168.1.3 pods=10.244.3.0/24 key=3 up=rome
        node b1 region=rome addresses=192.168.2.1 pods=10.244.4.0/24 key=4 up=paris
        peer laptop key=9 allowed=10.99.0.1 location=paris
        decide";
    every_mixture_is_safe(script, &["node a1 leader=", "node a2 leader=true", "decide"]);
}

/// Each leader that sees one of the two publications takes it to be in the location of the other one.
#[test]
fn a_network_moves_to_another_location_without_a_loop_in_every_mixture() {
    let script = "overlay 10.4.0.0/16
        location paris cidrs=172.20.1.0/24
        location rome
        node a1 region=paris addresses=192.168.1.1 pods=10.244.1.0/24 key=1 up=rome
        node a2 region=paris addresses=192.168.1.2 pods=10.244.2.0/24 key=2 up=rome
        node b1 region=rome addresses=192.168.2.1 pods=10.244.4.0/24 key=4 up=paris
        peer laptop key=9 allowed=10.99.0.1 location=paris
        decide";
    let moved = [
        "location paris cidrs=",
        "location rome cidrs=172.20.1.0/24",
        "decide",
    ];
    every_mixture_is_safe(script, &moved);
}

/// Until then what is for the Peer goes by the LAN to the leader that serves it, and then through the tunnel of the leader that carries the sender.
#[test]
fn a_location_becomes_established_with_itself_and_nothing_is_lost_in_any_mixture() {
    let script = "overlay 10.4.0.0/16
        location paris mode=nodes cidrs=172.20.1.0/24
        node a1 region=paris addresses=192.168.1.1 pods=10.244.1.0/24 key=1
        node a2 region=paris addresses=192.168.1.2 pods=10.244.2.0/24 key=2
        node a3 region=paris addresses=192.168.1.3 pods=10.244.3.0/24
        node a4 region=paris addresses=192.168.1.4 pods=10.244.4.0/24
        node a5 region=paris addresses=192.168.1.5 pods=10.244.5.0/24
        node b1 region=rome addresses=192.168.2.1 pods=10.244.6.0/24 key=6
        peer laptop key=9 allowed=10.99.0.1 location=paris
        decide";
    in_every_mixture(
        script,
        &["node a1 up=paris", "node a2 up=paris", "decide"],
        |[old, new], alone, plans| {
            let ground = GroundTruth::new([old, new]);
            let spots = alone[1].spots();
            let outcome = |plans: &Plans, from, to: &Spot| trace(&ground, plans, from, to.address).verdict;
            for (from, to) in pairs(&spots) {
                if [old, new]
                    .iter()
                    .all(|mesh| works(&outcome(&self::plans(mesh), from, to)))
                {
                    let outcome = outcome(plans, from, to);
                    assert!(works(&outcome), "{from} to {to}: {outcome:?}{}", print(plans));
                }
            }
        },
    );
}

/// Has each node see the publication before or after some lines, in every way.
fn every_mixture_is_safe(script: &str, lines: &[&str]) {
    in_every_mixture(script, lines, |[old, new], alone, plans| {
        let ground = GroundTruth::new([old, new]);
        let spots = [alone[0].spots(), alone[1].spots()].concat();
        for (from, to) in pairs(&spots) {
            let outcome = trace(&ground, plans, from, to.address).verdict;
            assert!(
                !matches!(outcome, Verdict::Loop | Verdict::Misdelivered(..)),
                "{from} to {to}: {outcome:?}"
            );
            assert!(!leaks(plans, &outcome) || !established(old, new, alone, from, to));
        }
    });
}

/// Checks what nodes do of which each sees the publication before or after some lines, in every way.
pub(crate) fn in_every_mixture(
    script: &str,
    lines: &[&str],
    check: impl Fn([&Mesh; 2], &[GroundTruth<'_>; 2], &Plans),
) {
    let mut world = World::default();
    script.lines().for_each(|line| drop(world.line(line).unwrap()));
    let old = world.mesh.clone();
    lines.iter().for_each(|line| drop(world.line(line).unwrap()));
    let new = world.mesh;
    assert_ne!(old.locations, new.locations);
    let alone = [GroundTruth::new([&old]), GroundTruth::new([&new])];
    let nodes: BTreeSet<NodeName> = old
        .locations
        .values()
        .flat_map(|location| location.members.keys().cloned())
        .collect();
    for views in 0..1_u8 << nodes.len() {
        let plan_of = |(index, node): (usize, &NodeName)| {
            let mesh = if views >> index & 1 == 1 { &new } else { &old };
            (node.clone(), plan(mesh, node, &Reachability::default()))
        };
        let plans: Plans = nodes.iter().enumerate().map(plan_of).collect();
        check([&old, &new], &alone, &plans);
    }
}

fn publications(before: Facts, after: Facts, links: [bool; 2]) -> (Mesh, Mesh) {
    let linked = |mut facts: Facts, up: bool| {
        if up {
            link(&mut facts);
        }
        facts
    };
    let old = decide(&linked(before, links[0]), &Mesh::default()).mesh;
    let new = decide(&linked(after, links[1]), &old).mesh;
    (old, new)
}

/// Returns the same cluster with other followers: what the others call nodes comes and goes, but leads nothing.
fn with_followers(before: Facts, others: Facts) -> Facts {
    let mut after = before.clone();
    let led = decide(&before, &Mesh::default()).mesh;
    let leads = |node: &NodeName| {
        led.locations
            .values()
            .any(|location| location.role(node).is_some())
    };
    after
        .nodes
        .retain(|node, _| leads(node) || others.nodes.contains_key(node));
    for (index, (_, mut node)) in (1..).zip(others.nodes) {
        node.leader = Some(false);
        node.addresses = [std::net::IpAddr::from([192, 168, 100 + index, 1])].into();
        node.prefixes = [format!("10.245.{index}.0/24").parse().unwrap()].into();
        node.public_key = None;
        after.nodes.insert(format!("m{index}").parse().unwrap(), node);
    }
    after
}

/// Returns the same leaders in another order and in other roles, at least one of them active.
fn with_other_roles(mut mesh: Mesh, seed: u64) -> Mesh {
    mesh.generation.0 += 1;
    for (name, location) in &mut mesh.locations {
        let heads = |text: &str| coin(seed, &format!("{text} of {name}"));
        location.leaders.sort_by_key(|leader| heads(leader.node.as_str()));
        for (place, leader) in location.leaders.iter_mut().enumerate() {
            let active =
                place == 0 || location.settings.mode == MeshMode::Nodes || heads(&format!("role {place}"));
            leader.role = if active {
                LeaderRole::Active
            } else {
                LeaderRole::Standby
            };
        }
    }
    mesh
}

/// Returns whether a place is in a location of a few leaders, each of which may send for all of it.
pub(crate) fn led(mesh: &Mesh, spot: &Spot) -> bool {
    let location = spot.location.as_ref().and_then(|name| mesh.locations.get(name));
    location.is_some_and(|location| location.settings.mode == MeshMode::Leaders)
}

/// Returns what each node does, with what it sees of the publications.
pub(crate) fn mixed_plans(old: &Mesh, new: &Mesh, seed: u64) -> Plans {
    mixed_plans_by(old, new, seed, |_, _| Reachability::default())
}

/// The same, where nodes observe something, too.
fn mixed_plans_by(
    old: &Mesh,
    new: &Mesh,
    seed: u64,
    observed: impl Fn(&Mesh, &NodeName) -> Reachability,
) -> Plans {
    let members = [old, new].into_iter().flat_map(|mesh| mesh.locations.values());
    let nodes: BTreeSet<&NodeName> = members.flat_map(|location| location.members.keys()).collect();
    let see = |node: &&NodeName| {
        let mesh = mix(old, new, |what| coin(seed, &format!("{node} sees {what}")));
        ((*node).clone(), plan(&mesh, node, &observed(&mesh, node)))
    };
    nodes.iter().map(see).collect()
}

pub(crate) fn coin(seed: u64, text: &str) -> bool {
    let hash = text.bytes().fold(seed ^ 0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    (hash ^ (hash >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 63 == 1
}

/// Returns a mixture; `newer` says whether a piece is seen as it is in the new publication.
fn mix(old: &Mesh, new: &Mesh, newer: impl Fn(&str) -> bool) -> Mesh {
    let names: BTreeSet<&LocationName> = old.locations.keys().chain(new.locations.keys()).collect();
    let mut mesh = Mesh {
        generation: new.generation,
        ..Mesh::default()
    };
    for name in names {
        let [was, is] = [old, new].map(|mesh| mesh.locations.get(name));
        let head = if newer(&format!("head {name}")) { is } else { was };
        let mut location = head.cloned().unwrap_or_default();
        location.members_mut().clear();
        let nodes = [was, is]
            .into_iter()
            .flatten()
            .flat_map(|location| location.members.keys());
        for node in nodes.collect::<BTreeSet<_>>() {
            let [was, is] = [was, is].map(|location| location?.members.get(node));
            let moved = new
                .locations
                .iter()
                .find(|(other, to)| *other != name && to.members.contains_key(node));
            let gone = is.is_none() && moved.is_none_or(|(to, _)| newer(&format!("member {to} {node}")));
            let seen = newer(&format!("member {name} {node}")) && (is.is_some() || gone);
            if let Some(member) = if seen { is } else { was } {
                location.members_mut().insert(node.clone(), member.clone());
            }
        }
        if head.is_some() || !location.members.is_empty() {
            mesh.locations.insert(name.clone(), location);
        }
    }
    for name in old.peers.keys().chain(new.peers.keys()) {
        let publication = if newer(&format!("peer {name}")) { new } else { old };
        if let Some(peer) = publication.peers.get(name) {
            mesh.peers.insert(name.clone(), peer.clone());
        }
    }
    mesh
}

pub(crate) fn pairs(spots: &[Spot]) -> impl Iterator<Item = (&Spot, &Spot)> {
    let all = spots
        .iter()
        .flat_map(move |from| spots.iter().map(move |to| (from, to)));
    all.filter(|(from, to)| from.place != to.place)
}

/// Returns whether a place is the same in both publications, and what leads its location too.
fn stays(old: &Mesh, new: &Mesh, spot: &Spot) -> bool {
    let Some([was, is]) = both(old, new, spot) else {
        return false;
    };
    let overlay = |location: &Location| match &spot.place {
        Place::Node(node) => location.role(node).filter(|_| spot.overlay),
        Place::Lan(_) | Place::Peer(_) => None,
    };
    // Overlay addresses of a family go with the last node that has the family.
    let has = |location: &Location| match &spot.place {
        Place::Node(node) => {
            let member = location.members.get(node);
            !spot.overlay || member.is_some_and(|member| member.overlay.contains(&spot.address))
        }
        Place::Lan(_) | Place::Peer(_) => true,
    };
    was.leaders == is.leaders
        && overlay(was) == overlay(is)
        && has(was)
        && has(is)
        && same_peer(old, new, spot)
}

fn same_peer(old: &Mesh, new: &Mesh, spot: &Spot) -> bool {
    match &spot.place {
        Place::Peer(name) => old.peers.get(name) == new.peers.get(name),
        Place::Node(_) | Place::Lan(_) => true,
    }
}

/// Returns the location of a place, in both publications, where it is the same.
fn both<'a>(old: &'a Mesh, new: &'a Mesh, spot: &Spot) -> Option<[&'a Location; 2]> {
    let name = spot.location.as_ref()?;
    let [was, is] = [old.locations.get(name)?, new.locations.get(name)?];
    let there = |location: &Location| match &spot.place {
        Place::Node(node) => location.members.contains_key(node),
        Place::Lan(_) => location
            .settings
            .cidrs
            .iter()
            .any(|cidr| cidr.contains(spot.address)),
        Place::Peer(_) => false,
    };
    ((there(was) && there(is)) || same_home(old, new, spot)).then_some([was, is])
}

fn same_home(old: &Mesh, new: &Mesh, spot: &Spot) -> bool {
    matches!(spot.place, Place::Peer(_)) && same_peer(old, new, spot)
}

/// Returns whether two nodes are, before and after, in locations that are established, and have the address before and
/// after.
pub(crate) fn established(
    old: &Mesh,
    new: &Mesh,
    alone: &[GroundTruth<'_>; 2],
    from: &Spot,
    to: &Spot,
) -> bool {
    let (Some(start), Some(end)) = (&from.location, &to.location) else {
        return false;
    };
    let has = |ground: &GroundTruth<'_>, spot: &Spot| {
        ground.hosts(spot.address) == BTreeSet::from([spot.place.clone()])
    };
    let nodes = matches!((&from.place, &to.place), (Place::Node(_), Place::Node(_)));
    let apart = |location: &Location| start != end || location.settings.mode == MeshMode::Nodes;
    let listed = |location: &Location| location.established.contains(end) && apart(location);
    let known = [from, to].map(|spot| both(old, new, spot));
    let [Some(heads), Some(_)] = known else {
        return false;
    };
    let stable = || alone.iter().all(|ground| has(ground, from) && has(ground, to));
    nodes && !from.overlay && !to.overlay && heads.into_iter().all(listed) && stable()
}

/// Returns whether a packet comes to where it should, as far as the mesh is concerned.
pub(crate) fn works(outcome: &Verdict) -> bool {
    matches!(outcome, Verdict::Arrived(_) | Verdict::Underlay(_))
}

/// Returns whether a node leaves a packet to its own routes though it is one of the mesh. A node that does not know
/// itself, being new or deleted, does nothing for the mesh, and nothing can be asked of it.
pub(crate) fn leaks(plans: &Plans, outcome: &Verdict) -> bool {
    match outcome {
        Verdict::Underlay(at) => plans.get(at).is_some_and(|plan| plan.role != Role::Outside),
        Verdict::Arrived(_) | Verdict::Dropped(..) | Verdict::Misdelivered(..) | Verdict::Loop => false,
    }
}

pub(crate) fn print(plans: &Plans) -> String {
    plans.values().map(ToString::to_string).collect()
}
