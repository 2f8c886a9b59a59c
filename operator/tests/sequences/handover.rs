//! Roles pass to nodes that are connected, and from nodes that are dead at once.

use crate::world::{self, Change, World};

/// The leaders of the left location, the first of them connected, and its third node.
fn world() -> (World, Vec<String>, String) {
    let mut world = World::of(&world::cluster());
    for (here, there) in [("left", "right"), ("right", "left")] {
        let leader = world.leaders()[here][0].clone();
        world.apply(Change::Link(leader, there, true));
    }
    world.settle();
    let leaders = left(&world);
    let mut members = world.members()["left"].clone().into_iter();
    let third = members.find(|node| !leaders.contains(node)).unwrap();
    (world, leaders, third)
}

fn left(world: &World) -> Vec<String> {
    world.leaders()["left"].clone()
}

fn of(names: &[&String]) -> Vec<String> {
    names.iter().map(|name| (*name).clone()).collect()
}

/// Seconds pass in which all leaders renew their Leases.
fn pass(world: &mut World, seconds: std::ops::Range<u64>) {
    for second in seconds {
        world.renew(second);
        world.settle();
    }
}

#[test]
fn the_role_of_a_leader_that_is_cordoned_passes_when_another_one_is_connected() {
    let (mut world, leaders, third) = world();
    let (first, second) = (&leaders[0], &leaders[1]);
    world.apply(Change::Cordon(first.clone(), true));
    world.settle();
    assert_eq!(
        left(&world),
        of(&[first, second, &third]),
        "none else has a tunnel"
    );
    pass(&mut world, 1..700);
    assert_eq!(left(&world)[0], *first, "it goes on for as long as that is so");
    world.apply(Change::Link(second.clone(), "right", true));
    world.settle();
    assert_eq!(left(&world), of(&[second, &third, first]));
    pass(&mut world, 700..709);
    assert!(
        left(&world).contains(first),
        "it stays connected while nodes learn of it"
    );
    assert_eq!(
        world.restart(),
        [],
        "an operator that starts meanwhile moves nothing"
    );
    pass(&mut world, 709..719);
    assert!(left(&world).contains(first));
    pass(&mut world, 719..722);
    assert_eq!(left(&world), of(&[second, &third]));
    world.apply(Change::Cordon(first.clone(), false));
    world.settle();
    assert_eq!(left(&world), of(&[second, &third]), "who leads goes on");
}

#[test]
fn a_node_that_may_not_lead_any_more_is_not_waited_for_without_end() {
    let (mut world, leaders, third) = world();
    let (first, second) = (&leaders[0], &leaders[1]);
    world.apply(Change::Annotate(first.clone(), "spanwire.dev/leader", "false"));
    world.settle();
    assert_eq!(left(&world), of(&[first, second, &third]));
    pass(&mut world, 1..600);
    assert_eq!(left(&world)[0], *first);
    pass(&mut world, 600..602);
    assert_eq!(left(&world), of(&[second, &third]));
}

#[test]
fn links_that_a_node_reported_before_it_came_to_lead_do_not_count() {
    let (mut world, leaders, third) = world();
    world.apply(Change::Annotate(third.clone(), "spanwire.dev/leader", "true"));
    world.settle();
    assert_eq!(left(&world)[..2], [leaders[0].clone(), third.clone()]);
    let mut object = world.mesh_node(&third);
    let mut send = |world: &mut World, version: u64, role: serde_json::Value, seen: u64| {
        object["metadata"]["resourceVersion"] = version.to_string().into();
        object["metadata"]["generation"] = 2.into();
        object["spec"]["role"] = role;
        object["status"]["observedGeneration"] = seen.into();
        object["status"]["links"] = serde_json::json!([{"location": "right", "up": true}]);
        world.send_mesh_node_as(&object);
    };
    let standby = serde_json::json!("Standby");
    send(&mut world, 1001, serde_json::Value::Null, 1);
    send(&mut world, 1002, standby.clone(), 1);
    world.settle();
    assert_eq!(
        left(&world)[0],
        leaders[0],
        "its agent has not seen that it leads"
    );
    send(&mut world, 1003, standby, 2);
    world.settle();
    assert_eq!(left(&world)[0], third);
}

#[test]
fn a_leader_whose_agent_renews_its_lease_leads_on_without_a_kubelet() {
    let (mut world, leaders, _) = world();
    for (second, ready) in (1..40).zip([false, true].into_iter().cycle()) {
        world.apply(Change::Ready(leaders[0].clone(), ready));
        pass(&mut world, second..second + 1);
        assert_eq!(left(&world), leaders, "second {second}");
    }
}

#[test]
fn a_leader_whose_agent_is_dead_does_not_come_back_with_its_kubelet() {
    let (mut world, leaders, third) = world();
    for second in 0..45 {
        world.renew_but(second, &leaders[0]);
        world.settle();
    }
    assert_eq!(left(&world), of(&[&leaders[1], &third]));
    world.apply(Change::Node(third, None));
    for ready in [false, true, false, true] {
        world.apply(Change::Ready(leaders[0].clone(), ready));
        world.settle();
        assert_eq!(
            left(&world),
            leaders[1..],
            "its kubelet says nothing of its agent"
        );
    }
    world.apply(Change::Link(leaders[0].clone(), "right", false));
    world.settle();
    assert_eq!(left(&world), of(&[&leaders[1], &leaders[0]]), "its agent does");
}

#[test]
fn a_leader_that_is_deleted_is_replaced_at_once() {
    let (mut world, leaders, third) = world();
    world.apply(Change::Node(leaders[0].clone(), None));
    assert!(world.state.poll_urgent());
    world.settle();
    assert_eq!(left(&world), of(&[&leaders[1], &third]));
}
