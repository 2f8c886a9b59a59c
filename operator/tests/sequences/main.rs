//! The operator's state fed with sequences of events: in any order, repeated, in parts; decisions at the end or after each.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod addresses;
mod answers;
mod attached;
mod avoided;
mod blocks;
mod borrowed;
mod established;
mod felix;
mod handover;
mod hops;
mod incremental;
mod kept;
mod leases;
mod mistaken;
mod networks;
mod pods;
mod truth;
mod unreadable;
mod urgent;
mod world;

use std::collections::BTreeSet;

use spanwire_crds::{Location, LocationSpec, MeshNodeStatus, Role};
use spanwire_operator::{batch::Write, state::OperatorState};
use spanwire_topology::{PublicKey, Reachability, plan};
use world::{Change, World, permuted, split};

#[test]
fn any_order_of_events_gives_the_same_decision() {
    let objects = world::cluster();
    let expected = written(&objects);
    assert!(expected.iter().any(|write| matches!(write, Write::Slice { .. })));
    for seed in 0..50 {
        assert!(written(&permuted(&objects, seed)) == expected, "seed {seed}");
    }
    let reversed: Vec<Change> = objects.iter().rev().cloned().collect();
    assert!(written(&reversed) == expected);
}

#[test]
fn what_is_observed_twice_or_in_steps_counts_once() {
    let objects = world::cluster();
    let expected = written(&objects);
    for seed in 0..20 {
        let mut twice = permuted(&objects, seed);
        twice.extend(permuted(&objects, seed + 1));
        assert!(written(&twice) == expected, "seed {seed}");
        assert!(written(&split(&objects, seed)) == expected, "seed {seed}");
    }
}

#[test]
fn decisions_in_between_come_to_rest_with_every_node_in_one_place() {
    for seed in 0..50 {
        let mut world = World::new();
        for change in split(&world::cluster(), seed) {
            world.apply(change);
            world.settle();
        }
        assert_eq!(world.decide_again(), Vec::<Write>::new(), "seed {seed}");
        let members: Vec<String> = world.members().into_values().flatten().collect();
        let once: BTreeSet<&String> = members.iter().collect();
        assert_eq!((members.len(), once.len()), (6, 6), "seed {seed}");
        for (location, leaders) in world.leaders() {
            assert_eq!(leaders.len(), 2, "seed {seed}: {location}");
        }
    }
}

#[test]
fn nothing_is_decided_before_the_first_list_of_every_kind_is_complete() {
    let kinds = 6;
    for missing in 0..kinds {
        let mut state = OperatorState::new(world::options());
        world::list_all(&mut state, |kind| kind != missing);
        assert!(
            !state.poll_decide() && state.decide(world::now(0)).is_none(),
            "{missing}"
        );
    }
    let mut state = OperatorState::new(world::options());
    world::list_all(&mut state, |_| true);
    assert!(state.decide(world::now(0)).is_some());
}

#[test]
fn another_operator_that_finds_the_same_decides_the_same() {
    let mut world = World::of(&world::cluster());
    // Some history, so that leaders and addresses are not those of a first decision.
    let (first, _) = world.leaders().into_iter().next().unwrap();
    let leader = world.leaders()[&first][0].clone();
    world.apply(Change::Cordon(leader.clone(), true));
    world.settle();
    world.apply(Change::Cordon(leader, false));
    world.settle();
    let before = world.leaders();
    let writes = world.restart();
    assert_eq!(writes, Vec::<Write>::new());
    assert_eq!(world.leaders(), before);
}

#[test]
fn heartbeats_and_leases_lead_to_no_decision() {
    let mut world = World::of(&world::cluster());
    for change in world::cluster() {
        world.apply(change);
        assert!(!world.state.poll_decide());
    }
    for second in 0..60 {
        world.renew(second);
        assert!(!world.state.poll_decide(), "second {second}");
    }
}

#[test]
fn a_leader_whose_lease_runs_out_is_replaced_and_comes_back_by_its_report() {
    let mut world = World::of(&world::cluster());
    let leaders = world.leaders()["left"].clone();
    for second in 0..41 {
        world.renew_but(second, &leaders[0]);
    }
    assert!(world.state.poll_decide());
    world.settle();
    let now = world.leaders()["left"].clone();
    assert!(!now.contains(&leaders[0]), "{now:?}");
    assert_eq!(now[0], leaders[1], "the standby takes over");
    assert_eq!(now.len(), 2);
    world.apply(Change::Link(leaders[0].clone(), "right", false));
    world.apply(Change::Node(now[1].clone(), None));
    world.settle();
    assert!(
        world.leaders()["left"].contains(&leaders[0]),
        "alive again, and needed"
    );
}

#[test]
fn when_no_node_of_a_location_seems_alive_its_leaders_stay() {
    let mut world = World::of(&world::cluster());
    let before = world.leaders();
    for node in world.members()["left"].clone() {
        world.apply(Change::Ready(node, false));
    }
    world.settle();
    assert_eq!(world.leaders(), before);
}

#[test]
fn links_up_on_both_sides_establish_a_pair_for_good() {
    let mut world = World::of(&world::cluster());
    let (left, right) = (
        world.leaders()["left"][0].clone(),
        world.leaders()["right"][0].clone(),
    );
    world.apply(Change::Link(left.clone(), "right", true));
    world.settle();
    assert_eq!(world.established("left"), Vec::<String>::new());
    world.apply(Change::Link(right, "left", true));
    world.settle();
    assert_eq!(world.established("left"), ["right"]);
    world.apply(Change::Link(left, "right", false));
    world.settle();
    assert_eq!(world.established("left"), ["right"]);
    let (status, message) = world.condition("left", "Connected");
    assert!(
        status == "False" && message.contains("the tunnel with right is down"),
        "{message}"
    );
}

#[test]
fn a_node_that_moves_is_published_in_its_new_place_before_it_leaves_the_old_one() {
    let mut world = World::of(&world::cluster());
    let node = world.members()["left"][0].clone();
    world.apply(Change::Annotate(node.clone(), "spanwire.dev/location", "right"));
    let mut seen = 0;
    while world.step() {
        let places = world
            .members()
            .into_iter()
            .filter(|(_, members)| members.contains(&node))
            .count();
        assert!(places >= 1, "published nowhere");
        seen = seen.max(places);
    }
    assert_eq!(seen, 2, "for a moment in both");
    assert!(world.members()["right"].contains(&node) && !world.members()["left"].contains(&node));
}

#[test]
fn a_leader_that_moves_keeps_its_tunnels_and_no_prefix_is_without_one() {
    let mut world = World::of(&world::cluster());
    for (number, there) in [(0, "own"), (0, "left"), (1, "own"), (1, "left")] {
        // Who has gone comes back as a leader.
        let mover = match there {
            "own" => world.leaders()["left"][number].clone(),
            _ => world.leaders()["own"][0].clone(),
        };
        if there == "left" {
            world.apply(Change::Annotate(mover.clone(), "spanwire.dev/leader", "true"));
            world.settle();
        }
        let far = world.leaders()["right"][0].clone();
        let peers = |world: &World, node: &str| {
            let plan = plan(&world.mesh(), &node.parse().unwrap(), &Reachability::default());
            plan.tunnel.map(|tunnel| tunnel.peers).unwrap_or_default()
        };
        let prefixes = |world: &World| -> BTreeSet<_> {
            let peers = peers(world, &far).into_values();
            // The overlay address of who leads no longer goes with the role.
            let carried =
                peers.flat_map(|peer| peer.allowed_ips.into_iter().map(|prefix| prefix.to_string()));
            carried
                .filter(|prefix| !prefix.starts_with("10.4.") && !prefix.starts_with("fd00:4:"))
                .collect()
        };
        let number: u8 = mover[1..].parse().unwrap();
        let key = PublicKey::new([number; 32]);
        let before = prefixes(&world);
        world.apply(Change::Annotate(mover.clone(), "spanwire.dev/location", there));
        while world.step() {
            assert!(!peers(&world, &mover).is_empty(), "{mover} to {there}: no tunnel");
            assert!(
                peers(&world, &far).contains_key(&key),
                "{mover} to {there}: {far} has dropped it"
            );
            let lost: Vec<_> = before.difference(&prefixes(&world)).cloned().collect();
            assert!(lost.is_empty(), "{mover} to {there}: {far} lacks {lost:?}");
        }
        assert!(world.members()[there].contains(&mover));
        if there == "left" {
            world.apply(Change::Annotate(mover, "spanwire.dev/leader", "false"));
        }
        world.settle();
    }
}

#[test]
fn managed_locations_come_and_go_and_those_of_users_stay() {
    let mut world = World::of(&world::cluster());
    assert!(world.locations().contains("left"));
    let node = world.members()["left"][0].clone();
    world.apply(Change::Annotate(node.clone(), "spanwire.dev/location", "own"));
    world.settle();
    assert!(world.locations().contains("own"));
    world.apply(Change::Annotate(node.clone(), "spanwire.dev/location", "left"));
    world.settle();
    assert!(!world.locations().contains("own"));

    world.apply(Change::Annotate(node.clone(), "spanwire.dev/location", "own"));
    world.settle();
    let spec = LocationSpec {
        persistent_keepalive: Some(25),
        ..LocationSpec::default()
    };
    world.apply(Change::Location(Box::new(Location::new("own", spec))));
    world.settle();
    world.apply(Change::Annotate(node, "spanwire.dev/location", "left"));
    world.settle();
    assert!(world.locations().contains("own"), "a user said more about it");
}

#[test]
fn a_mesh_node_names_its_role_where_it_leads() {
    let world = World::of(&world::cluster());
    let mesh = world.mesh();
    for (name, spec) in world.mesh_nodes() {
        let location = &mesh.locations[&spec.location.unwrap().parse().unwrap()];
        let role = location.role(&name.parse().unwrap());
        assert_eq!(spec.role, role.map(Role::from), "{name}");
    }
    let roles: Vec<_> = world.mesh_nodes().into_values().map(|spec| spec.role).collect();
    for role in [Some(Role::Active), Some(Role::Standby), None] {
        assert!(roles.contains(&role), "{roles:?}");
    }
}

#[test]
fn a_location_shows_an_endpoint_that_is_named_or_public() {
    let mut world = World::of(&world::cluster());
    let leader = world.leaders()["left"][0].clone();
    assert_eq!(world.endpoint("left"), None, "192.168.7.0/24 is of one network");
    for named in ["192.168.3.11:51820", "vpn.example.com:51820"] {
        world.apply(Change::Annotate(leader.clone(), "spanwire.dev/endpoint", named));
        world.settle();
        assert_eq!(world.endpoint("left").as_deref(), Some(named));
    }
    let mut world = World::of(&world::cluster());
    world.apply(Change::Annotate(
        leader,
        "spanwire.dev/internal-ip",
        "10.0.0.9,198.51.100.9",
    ));
    world.settle();
    assert_eq!(world.endpoint("left").as_deref(), Some("198.51.100.9:51820"));
}

#[test]
fn what_is_not_granted_is_reported_once() {
    let mut world = World::of(&world::cluster());
    let node = world.members()["left"][0].clone();
    world.apply(Change::Annotate(node.clone(), "spanwire.dev/leader", "maybe"));
    world.settle();
    let notices = world.take_notices();
    assert_eq!(notices.len(), 1);
    assert!(
        notices[0]
            .note
            .contains("annotation spanwire.dev/leader: \"maybe\""),
        "{}",
        notices[0].note
    );
    let (status, message) = world.condition("left", "Accepted");
    assert!(status == "False" && message.contains(&node), "{message}");

    let other = world.members()["right"][0].clone();
    world.apply(Change::Cordon(other, true));
    world.settle();
    assert_eq!(world.take_notices(), []);
    world.apply(Change::Annotate(node.clone(), "spanwire.dev/leader", "true"));
    world.settle();
    assert_eq!(world.condition("left", "Accepted").0, "True");
    world.apply(Change::Annotate(node, "spanwire.dev/leader", "maybe"));
    world.settle();
    assert_eq!(world.take_notices().len(), 1, "it is a new mistake");
}

#[test]
fn what_is_refused_names_object_field_and_remedy() {
    let mut world = World::of(&world::cluster());
    let node = world.members()["left"][0].clone();
    world.apply(Change::Annotate(
        node.clone(),
        "spanwire.dev/location-cidrs",
        "8.8.8.0/24",
    ));
    let spec = LocationSpec {
        cidrs: vec!["10.244.0.0/16".to_owned()],
        ..LocationSpec::default()
    };
    world.apply(Change::Location(Box::new(Location::new("late", spec))));
    world.settle();
    let (_, message) = world.condition("left", "Accepted");
    let expected = format!(
        "node {node}: annotation spanwire.dev/location-cidrs: 8.8.8.0/24: is public, and the node's own"
    );
    assert!(message.starts_with(&expected), "{message}");
    let (_, message) = world.condition("late", "Accepted");
    assert!(
        message.starts_with("location late: spec.cidrs: 10.244.0.0/16: "),
        "{message}"
    );
    assert_eq!(world.take_notices().len(), 2);
}

#[test]
fn a_conflict_is_decided_again_upon_what_there_is() {
    let mut world = World::of(&world::cluster());
    let node = world.leaders()["left"][0].clone();
    world.write_behind_the_back("left-head");
    world.apply(Change::Cordon(node.clone(), true));
    world.settle();
    assert!(world.conflicts > 0);
    assert!(!world.leaders()["left"].is_empty() && world.leaders()["left"][0] != node);
    assert_eq!(world.decide_again(), Vec::<Write>::new());
}

#[test]
fn a_node_that_is_gone_leaves_nothing() {
    let mut world = World::of(&world::cluster());
    for node in world.members()["left"].clone() {
        world.apply(Change::Node(node, None));
    }
    world.settle();
    assert!(!world.members().contains_key("left") && !world.leaders().contains_key("left"));
    assert!(!world.locations().contains("left"));
    assert_eq!(world.mesh_nodes().len(), 3);
}

#[test]
fn a_complete_list_without_any_node_clears_nothing() {
    let mut world = World::of(&world::cluster());
    let before = (world.members(), world.leaders(), world.mesh_nodes());
    world.list_no_nodes();
    assert!(world.state.doubts_nodes() && !world.state.poll_decide());
    assert!(world.state.decide(world::now(0)).is_none());
    world.settle();
    assert_eq!((world.members(), world.leaders(), world.mesh_nodes()), before);

    world.list_nodes();
    assert!(!world.state.doubts_nodes());
    world.settle();
    assert_eq!((world.members(), world.leaders(), world.mesh_nodes()), before);
    assert_eq!(world.decide_again(), Vec::<Write>::new());
}

#[test]
fn nodes_that_go_one_by_one_leave_the_last_one_published() {
    let mut world = World::of(&world::cluster());
    for number in 1..=6 {
        world.apply(Change::Node(format!("n{number}"), None));
        world.settle();
    }
    assert!(world.state.doubts_nodes());
    assert_eq!(
        world.members().into_values().flatten().collect::<Vec<_>>(),
        ["n6"]
    );
}

#[test]
fn an_operator_that_starts_with_an_empty_list_of_nodes_removes_nothing() {
    let mut world = World::of(&world::cluster());
    let before = (world.members(), world.mesh_nodes());
    let nodes = world.take_nodes();
    assert_eq!(world.restart_in_doubt(), None);
    world.give_nodes(nodes);
    world.settle();
    assert_eq!((world.members(), world.mesh_nodes()), before);
}

#[test]
fn lists_without_mesh_nodes_or_reports_take_no_key_and_no_leader() {
    let mut world = World::of(&world::cluster());
    let (keys, leaders) = (world.keys(), world.leaders());
    assert_eq!(keys.len(), 6);
    world.list_no_mesh_nodes();
    world.settle();
    assert_eq!((world.keys(), world.leaders()), (keys, leaders));
    assert_eq!(world.mesh_nodes().len(), 6, "recreated, without a report");

    let new = PublicKey::new([77; 32]).to_string();
    let status = MeshNodeStatus {
        public_key: Some(new.clone()),
        ..MeshNodeStatus::default()
    };
    world.apply(Change::Report("n1".to_owned(), Box::new(status)));
    world.settle();
    assert_eq!(world.keys()["n1"], new, "what is reported counts");
    world.apply(Change::Node("n1".to_owned(), None));
    world.settle();
    world.apply(Change::Report("n1".to_owned(), Box::default()));
    world.apply(Change::Node("n1".to_owned(), Some((1, "left"))));
    world.settle();
    assert_eq!(world.keys().get("n1"), None, "another node by that name");
}

#[test]
fn a_node_that_follows_and_has_no_key_any_more_leads_nothing_and_is_reached_where_it_says() {
    let mut world = World::of(&world::cluster());
    let leader = world.leaders()["left"][0].clone();
    let mut status = world.reported(&leader);
    status.public_key = None;
    status.observed_generation = Some(1);
    status.hop_addresses = vec!["10.244.9.0".to_owned()];
    world.apply(Change::Report(leader.clone(), Box::new(status.clone())));
    world.settle();
    assert_eq!(world.keys().get(&leader), None);
    assert!(!world.leaders()["left"].contains(&leader));
    let hop = |world: &World| {
        let mesh = world.mesh();
        let location = &mesh.locations[&"left".parse().unwrap()];
        location.members[&leader.parse().unwrap()].hop.clone()
    };
    assert_eq!(hop(&world), ["10.244.9.0".parse().unwrap()].into());

    // A MeshNode that was deleted says nothing: its agent may have all it had.
    world.list_no_mesh_nodes();
    world.settle();
    assert_eq!(hop(&world), ["10.244.9.0".parse().unwrap()].into());
    status.public_key = Some(PublicKey::new([77; 32]).to_string());
    world.apply(Change::Report(leader.clone(), Box::new(status)));
    world.settle();
    assert!(world.keys().contains_key(&leader));
}

#[test]
fn a_cluster_without_slices_gets_them_again_as_they_were() {
    let mut world = World::of(&world::cluster());
    let before = (world.members(), world.leaders(), world.overlays());
    world.list_no_slices();
    world.settle();
    assert_eq!((world.members(), world.leaders(), world.overlays()), before);
}

#[test]
fn a_retired_node_is_taken_back_by_the_next_operator_alone() {
    let mut world = World::of(&world::cluster());
    let node = world.members()["left"][0].clone();
    world.retire(&node);
    world.apply(Change::Report(
        node.clone(),
        Box::new(MeshNodeStatus {
            retired: true,
            ..MeshNodeStatus::default()
        }),
    ));
    world.settle();
    assert!(
        world.mesh_nodes()[&node].retire,
        "this operator leads since before"
    );
    assert!(!world.leaders()["left"].contains(&node));
    world.restart();
    world.settle();
    assert!(!world.mesh_nodes()[&node].retire);
    world.retire(&node);
    world.settle();
    assert!(world.mesh_nodes()[&node].retire, "retired again while it leads");
}

/// What the first decision writes after these events.
fn written(changes: &[Change]) -> Vec<Write> {
    let mut world = World::new();
    for change in changes {
        world.apply(change.clone());
    }
    let mut writes = world.decide_again();
    for write in &mut writes {
        // How often an object changed before does not matter.
        if let Write::MeshNode { version, .. } = write {
            *version = None;
        }
    }
    writes
}
