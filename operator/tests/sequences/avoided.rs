//! Leaders that live, and through which nothing gets.

use spanwire_crds::AvoidedLeader;

use crate::world::{self, Change, World};

/// Two locations with tunnels between their first two leaders each, and the third node of the left one.
fn world() -> (World, [Vec<String>; 2], String) {
    let mut world = World::of(&world::cluster());
    let leaders = ["left", "right"].map(|location| world.leaders()[location].clone());
    for (here, there) in [(0, "right"), (1, "left")] {
        for leader in &leaders[here] {
            world.apply(Change::Link(leader.clone(), there, true));
        }
    }
    world.settle();
    let mut members = world.members()["left"].clone().into_iter();
    let third = members.find(|node| !leaders[0].contains(node)).unwrap();
    (world, leaders, third)
}

/// A node does not use these leaders: each with its location, and where nothing arrives through it.
fn avoid(world: &mut World, node: &str, leaders: &[(&str, &str, Option<&str>)]) {
    let mut status = world.reported(node);
    let avoided = leaders.iter().map(|(location, leader, towards)| AvoidedLeader {
        location: (*location).to_owned(),
        node: (*leader).to_owned(),
        towards: towards.map(str::to_owned),
    });
    status.avoided_leaders = avoided.collect();
    world.apply(Change::Report(node.to_owned(), Box::new(status)));
    world.settle();
}

fn pass(world: &mut World, seconds: std::ops::Range<u64>) {
    for second in seconds {
        world.renew(second);
        world.settle();
    }
}

fn says(world: &World, about: &str) -> [(String, String); 2] {
    ["left", "right"].map(|location| world.condition(location, about))
}

#[test]
fn a_leader_through_which_both_sides_get_nothing_is_replaced_and_rests() {
    let (mut world, [left, right], third) = world();
    let (bad, good) = (left[0].as_str(), left[1].as_str());
    avoid(&mut world, &third, &[("left", bad, Some("right"))]);
    avoid(&mut world, &right[0], &[("left", bad, None)]);
    let [here, there] = says(&world, "Ready");
    let expected = format!("{third} gets nothing to right through {bad}, and uses {good}");
    assert_eq!(here, ("False".to_owned(), expected));
    let expected = format!("{} gets nothing through {bad} of left, and uses {good}", right[0]);
    assert_eq!(there, ("False".to_owned(), expected));
    pass(&mut world, 1..29);
    assert_eq!(world.leaders()["left"], left, "it may be over soon");
    pass(&mut world, 29..32);
    assert_eq!(world.leaders()["left"], [good, third.as_str()]);

    // No node has a reason to avoid it any more, since none asks it.
    avoid(&mut world, &third, &[]);
    avoid(&mut world, &right[0], &[]);
    assert!(says(&world, "Ready").iter().all(|(status, _)| status == "True"));
    let (status, message) = world.condition("left", "LeaderElected");
    let text = format!(
        "for {third} and {} of right got nothing through it: does a firewall",
        right[0]
    );
    assert!(
        status == "True"
            && message.contains(&format!("{bad} is not to lead until "))
            && message.contains(&text),
        "{message}"
    );
    assert_eq!(world.decide_again(), [], "it is said once");
    // A person wants it to lead, and it rests all the same.
    world.apply(Change::Annotate(bad.to_owned(), "spanwire.dev/leader", "true"));
    pass(&mut world, 32..600);
    assert_eq!(world.leaders()["left"], [good, third.as_str()]);
    world.apply(Change::Link(bad.to_owned(), "right", true));
    pass(&mut world, 600..650);
    assert_eq!(world.leaders()["left"][0], bad);
    let (_, message) = world.condition("left", "LeaderElected");
    assert!(!message.contains("is not to lead"), "{message}");
}

#[test]
fn the_word_of_one_node_or_of_one_side_replaces_no_leader() {
    let (mut world, [left, right], third) = world();
    let bad = left[0].as_str();
    let own = [("left", bad, Some("right"))];
    let far = [("left", bad, None)];
    for (about, reports) in [
        ("its own side", vec![(third.as_str(), &own[..])]),
        ("the other side", vec![(right[0].as_str(), &far[..])]),
        (
            "both leaders of the other side",
            vec![(right[0].as_str(), &far[..]), (right[1].as_str(), &far[..])],
        ),
        (
            "a node of the own location that speaks for another one",
            vec![(third.as_str(), &[own[0], far[0]][..])],
        ),
        ("itself", vec![(bad, &own[..]), (right[0].as_str(), &far[..])]),
        (
            "of another location",
            vec![
                (third.as_str(), &[("left", bad, Some("elsewhere"))][..]),
                (right[0].as_str(), &far[..]),
            ],
        ),
    ] {
        for (node, avoided) in &reports {
            avoid(&mut world, node, avoided);
        }
        pass(&mut world, 1..60);
        assert_eq!(world.leaders()["left"], left, "{about}");
        for (node, _) in &reports {
            avoid(&mut world, node, &[]);
        }
    }
}

#[test]
fn a_pair_of_leaders_without_a_tunnel_between_them_is_named_with_the_leaders_that_are_used() {
    let (mut world, [left, right], _) = world();
    avoid(&mut world, &left[0], &[("right", &right[0], None)]);
    assert!(
        says(&world, "Ready").iter().all(|(status, _)| status == "True"),
        "it may have lost its power, and then its Lease tells"
    );
    avoid(&mut world, &right[0], &[("left", &left[0], None)]);
    let [here, there] = says(&world, "Connected");
    let expected = format!(
        "{} gets nothing through {} of right, and uses {}",
        left[0], right[0], right[1]
    );
    assert_eq!(here, ("False".to_owned(), expected));
    let expected = format!(
        "{} gets nothing through {} of left, and uses {}",
        right[0], left[0], left[1]
    );
    assert_eq!(there, ("False".to_owned(), expected));
    assert!(says(&world, "Ready").iter().all(|(status, _)| status == "False"));
    pass(&mut world, 1..60);
    assert_eq!(world.leaders()["left"], left, "each is of use to others");
    avoid(&mut world, &left[0], &[]);
    assert!(says(&world, "Ready").iter().all(|(status, _)| status == "True"));
}
