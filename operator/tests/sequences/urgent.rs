//! What people change does not wait behind a mesh that comes about.

use spanwire_crds::MeshNodeStatus;
use spanwire_operator::batch::Write;
use spanwire_topology::PublicKey;

use crate::world::{self, Change, World};

fn lead(node: &str) -> Change {
    Change::Annotate(node.to_owned(), "spanwire.dev/leader", "true")
}

fn reported(number: u8) -> Change {
    let status = MeshNodeStatus {
        public_key: Some(PublicKey::new([number; 32]).to_string()),
        ..MeshNodeStatus::default()
    };
    Change::Report(format!("n{number}"), Box::new(status))
}

/// The member of the left location that is no leader.
fn follower(world: &World) -> String {
    let leaders = &world.leaders()["left"];
    let mut members = world.members()["left"].clone().into_iter();
    members.find(|node| !leaders.contains(node)).unwrap()
}

fn names(writes: &[Write]) -> Vec<&str> {
    writes.iter().map(Write::name).collect()
}

#[test]
fn what_people_ask_is_urgent_and_nodes_that_join_or_report_are_not() {
    let mut world = World::of(&world::cluster());
    for change in [
        Change::Node("n7".to_owned(), Some((7, "right"))),
        reported(7),
        Change::Link("n1".to_owned(), "right", true),
        Change::Ready("n7".to_owned(), false),
    ] {
        world.apply(change.clone());
        assert!(world.state.poll_decide(), "{change:?}");
        assert!(!world.state.poll_urgent(), "{change:?}");
        world.settle();
    }
    for change in [lead("n3"), Change::Cordon("n3".to_owned(), true)] {
        world.apply(change.clone());
        assert!(world.state.poll_urgent(), "{change:?}");
        world.settle();
        assert!(!world.state.poll_urgent(), "it is decided");
    }
}

#[test]
fn another_leader_is_published_before_all_that_joins_elsewhere() {
    let mut world = World::of(&world::cluster());
    for (here, there) in [("left", "right"), ("right", "left")] {
        let leader = world.leaders()[here][0].clone();
        world.apply(Change::Link(leader, there, true));
    }
    for number in 7..=9 {
        world.apply(Change::Node(format!("n{number}"), Some((number, "new"))));
        world.apply(reported(number));
    }
    world.apply(lead(&follower(&world)));
    let writes = world.decide_again();
    assert_eq!(names(&writes)[0], "left-head", "{:?}", names(&writes));
    assert!(names(&writes).contains(&"new-m1"));
}

#[test]
fn a_leader_that_is_no_member_yet_waits_until_it_is_published() {
    let mut world = World::of(&world::cluster());
    world.apply(Change::Node("n7".to_owned(), Some((7, "left"))));
    world.apply(reported(7));
    world.apply(lead("n7"));
    let writes = world.decide_again();
    let at = |name: &str| names(&writes).iter().position(|written| *written == name);
    assert!(
        at("left-m1").unwrap() < at("left-head").unwrap(),
        "{:?}",
        names(&writes)
    );
}

#[test]
fn an_interrupted_batch_is_written_after_what_interrupted_it() {
    let mut world = World::of(&world::cluster());
    for number in 7..=9 {
        world.apply(Change::Node(format!("n{number}"), Some((number, "new"))));
        world.apply(reported(number));
    }
    assert!(world.step(), "it is decided, and nothing is written");
    let standby = world.leaders()["left"].last().unwrap().clone();
    let third = follower(&world);
    world.apply(lead(&third));
    world.settle();
    assert_eq!(world.interruptions, 1);
    assert!(!world.leaders()["left"].contains(&standby));
    assert_eq!(world.leaders()["left"][0], third);
    assert_eq!(world.members()["new"], ["n7", "n8", "n9"]);
    assert_eq!(world.restart(), [], "nothing is left out");
}
