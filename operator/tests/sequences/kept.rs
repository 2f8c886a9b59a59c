//! What stays as it was.

use crate::world::{self, Change, World};

#[test]
fn a_value_that_cannot_be_read_keeps_what_was_there() {
    let mut world = World::of(&world::cluster());
    let node = world.members()["left"][0].clone();
    let own = "spanwire.dev/location";
    world.apply(Change::Annotate(node.clone(), own, "elsewhere"));
    world.settle();
    assert_eq!(world.members()["elsewhere"], std::slice::from_ref(&node));
    world.take_notices();
    world.apply(Change::Annotate(node.clone(), own, "Elsewhere"));
    world.settle();
    assert_eq!(world.members()["elsewhere"], std::slice::from_ref(&node));
    assert!(!world.members().contains_key("default"));
    assert_eq!(world.take_notices().len(), 1);
    world.apply(Change::Annotate(node.clone(), own, "left"));
    world.settle();
    assert!(
        world.members()["left"].contains(&node),
        "and one that can be read counts again"
    );
}

#[test]
fn the_only_node_that_may_lead_stays_when_its_kubelet_falls_silent() {
    let mut world = World::of(&world::cluster());
    let leader = world.leaders()["left"][0].clone();
    for other in world.members()["left"].clone() {
        if other != leader {
            world.apply(Change::Annotate(other, "spanwire.dev/leader", "false"));
        }
    }
    world.settle();
    assert_eq!(world.leaders()["left"], std::slice::from_ref(&leader));
    world.apply(Change::Ready(leader.clone(), false));
    world.settle();
    assert_eq!(world.leaders()["left"], [leader]);
}
