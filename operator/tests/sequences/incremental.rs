//! Facts are kept, and slices, MeshNodes and statuses rendered where something changed: after whatever happened, what is
//! published is what an operator that starts from nothing would publish.

use spanwire_crds::MeshNodeStatus;
use spanwire_operator::batch::Write;
use spanwire_topology::PublicKey;

use crate::world::{self, Change, World, permuted, split};

#[test]
fn after_any_history_an_operator_that_starts_from_nothing_has_nothing_to_write() {
    for seed in 0..20 {
        let mut world = World::new();
        let mut changes = split(&world::cluster(), seed);
        changes.extend(history(seed));
        for change in changes {
            world.apply(change);
            world.settle();
        }
        assert_eq!(written_at_restart(&mut world), [], "seed {seed}");
    }
}

#[test]
fn after_any_history_with_writes_and_changes_mixed_it_is_the_same() {
    let mut interruptions = 0;
    for seed in 0..20u64 {
        let mut world = World::new();
        let mut changes = split(&world::cluster(), seed);
        changes.extend(history(seed));
        for (place, change) in (0u64..).zip(changes) {
            world.apply(change);
            for _ in 0..(seed + place) % 7 {
                world.step();
            }
        }
        world.settle();
        interruptions += world.interruptions;
        assert_eq!(written_at_restart(&mut world), [], "seed {seed}");
    }
    assert!(interruptions > 20, "{interruptions} batches were interrupted");
}

#[test]
fn a_change_is_decided_upon_once_and_what_is_written_leads_to_no_decision() {
    let mut world = World::of(&world::cluster());
    let leader = world.leaders()["left"][0].clone();
    let before = world.decisions;
    world.apply(Change::Cordon(leader.clone(), true));
    world.settle();
    assert_ne!(world.leaders()["left"][0], leader);
    assert_eq!(world.decisions, before + 1);

    world.repeat_everything();
    assert!(!world.state.poll_decide(), "the watch repeats what was written");
}

#[test]
fn a_node_that_moves_is_decided_upon_again_when_it_has_arrived() {
    let mut world = World::of(&world::cluster());
    let node = world.members()["left"][2].clone();
    let before = world.decisions;
    world.apply(Change::Annotate(node.clone(), "spanwire.dev/location", "right"));
    world.settle();
    assert!(world.members()["right"].contains(&node) && !world.members()["left"].contains(&node));
    assert_eq!(world.decisions, before + 2);
}

#[test]
fn what_another_writer_changes_is_put_right() {
    let mut world = World::of(&world::cluster());
    let before = (world.members(), world.leaders(), world.keys(), world.mesh_nodes());
    world.edit_slice("left-m1", |spec| spec.members[0].public_key = None);
    world.settle();
    world.edit_slice("right-head", |spec| spec.head.as_mut().unwrap().leaders.clear());
    world.settle();
    world.edit_slice("right-m1", |spec| spec.members.truncate(1));
    world.settle();
    world.edit_mesh_node("n1", |spec| spec.location = Some("nowhere".to_owned()));
    world.settle();
    world.remove_mesh_node("n2");
    world.settle();
    let after = (world.members(), world.leaders(), world.keys(), world.mesh_nodes());
    assert_eq!(after.0, before.0);
    assert_eq!((after.1, after.2, after.3), (before.1, before.2, before.3));
}

#[test]
fn a_slice_that_is_not_of_the_mesh_is_removed() {
    let mut world = World::of(&world::cluster());
    world.add_slice("left-m9", "left");
    world.settle();
    world.add_slice("gone-m1", "gone");
    world.settle();
    world.add_slice("Bad-m1", "Not A Name");
    world.settle();
    assert_eq!(world.slices(), ["left-head", "left-m1", "right-head", "right-m1"]);
}

/// What another operator writes at first.
fn written_at_restart(world: &mut World) -> Vec<Write> {
    world.restart()
}

/// Leaders, keys, links and Nodes that come and go.
fn history(seed: u64) -> Vec<Change> {
    let report = |number: u8, key: u8| {
        let status = MeshNodeStatus {
            public_key: Some(PublicKey::new([key; 32]).to_string()),
            ..MeshNodeStatus::default()
        };
        Change::Report(format!("n{number}"), Box::new(status))
    };
    let name = |number: u8| format!("n{number}");
    let changes = [
        Change::Cordon(name(1), true),
        Change::Annotate(name(2), "spanwire.dev/location", "right"),
        Change::Annotate(name(3), "spanwire.dev/location", "own"),
        Change::Annotate(name(4), "spanwire.dev/persistent-keepalive", "often"),
        Change::Annotate(name(5), "spanwire.dev/leader", "false"),
        Change::Ready(name(6), false),
        Change::Node(name(1), None),
        Change::Node(name(4), Some((4, "left"))),
        Change::Link(name(2), "right", true),
        Change::Link(name(5), "left", true),
        report(3, 33),
        report(5, 6),
    ];
    // A Node that is gone is not annotated any more.
    let order = permuted(&changes, seed);
    let gone = order
        .iter()
        .position(|change| matches!(change, Change::Node(_, None)));
    let gone = gone.unwrap_or(order.len());
    let cordoned = |change: &Change| matches!(change, Change::Cordon(..));
    let kept = (0..)
        .zip(order)
        .filter(|(place, change)| *place < gone || !cordoned(change));
    kept.map(|(_, change)| change).collect()
}
