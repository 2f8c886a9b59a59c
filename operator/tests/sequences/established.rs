//! What was established stays so, whatever is deleted.

use crate::world::{self, Change, World};

fn established() -> World {
    let mut world = World::of(&world::cluster());
    for (here, there) in [("left", "right"), ("right", "left")] {
        let leader = world.leaders()[here][0].clone();
        world.apply(Change::Link(leader, there, true));
    }
    world.settle();
    assert_eq!(world.established("left"), ["right"]);
    world
}

#[test]
fn what_was_established_stays_so_when_every_slice_is_deleted_while_the_operator_is_away() {
    let mut world = established();
    for node in ["n1", "n2", "n3", "n4", "n5", "n6"] {
        for location in ["left", "right"] {
            world.apply(Change::Link(node.to_owned(), location, false));
        }
    }
    world.settle();
    world.list_no_slices();
    world.restart();
    world.settle();
    assert_eq!(world.established("left"), ["right"]);
    assert_eq!(world.established("right"), ["left"]);
}

#[test]
fn what_was_established_outlives_the_location_until_a_person_removes_what_is_left_of_it() {
    let mut world = established();
    let nodes = ["n4", "n5", "n6"];
    for node in nodes {
        world.apply(Change::Node(node.to_owned(), None));
    }
    world.settle();
    assert!(!world.locations().contains("right"), "no user wrote it");
    assert_eq!(world.slices(), ["left-head", "left-m1", "right-head"]);
    world.restart();
    world.settle();
    assert_eq!(world.established("left"), ["right"]);
    for (number, node) in (4..).zip(nodes) {
        world.apply(Change::Node(node.to_owned(), Some((number, "right"))));
    }
    world.settle();
    assert_eq!(
        (world.established("left"), world.established("right")),
        (vec!["right".to_owned()], vec!["left".to_owned()])
    );

    for node in nodes {
        world.apply(Change::Node(node.to_owned(), None));
    }
    world.settle();
    world.delete_slice("right-head");
    world.settle();
    assert_eq!(world.established("left"), Vec::<String>::new());
    assert_eq!(world.slices(), ["left-head", "left-m1"]);
}

#[test]
fn a_location_without_nodes_is_remembered_when_every_slice_is_deleted_while_the_operator_is_away() {
    let mut world = established();
    let nodes = ["n4", "n5", "n6"];
    for node in nodes {
        world.apply(Change::Node(node.to_owned(), None));
    }
    world.settle();
    assert!(!world.locations().contains("right"), "its head alone is left");
    world.list_no_slices();
    world.restart();
    world.settle();
    assert_eq!(world.established("left"), ["right"]);
    for (number, node) in (4..).zip(nodes) {
        world.apply(Change::Node(node.to_owned(), Some((number, "right"))));
    }
    world.settle();
    assert_eq!(
        (world.established("left"), world.established("right")),
        (vec!["right".to_owned()], vec!["left".to_owned()])
    );
}

#[test]
fn with_tunnel_only_a_location_is_known_to_have_no_other_way_before_any_of_its_nodes_is() {
    let mut options = world::options();
    options.cluster.tunnel_only = true;
    let mut world = World::with(options);
    for change in world::cluster() {
        world.apply(change);
    }
    world.settle();
    assert_eq!(
        (world.established("left"), world.established("right")),
        (vec!["right".to_owned()], vec!["left".to_owned()])
    );
    world.apply(Change::Node("n7".to_owned(), Some((7, "new"))));
    let writes: Vec<String> = world
        .decide_again()
        .iter()
        .map(|write| write.name().to_owned())
        .collect();
    let at = |name: &str| writes.iter().position(|written| written == name).unwrap();
    for head in ["left-head", "right-head", "new-head"] {
        assert!(at(head) < at("new-m1"), "{writes:?}");
    }
}
