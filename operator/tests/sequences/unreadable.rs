//! Objects that cannot be read, and more bad values than anyone reads.

use spanwire_crds::{Location, LocationSpec};

use crate::world::{self, Change, World};

/// A time that the API server takes in a condition, and that there is not.
const NEVER: &str = "2026-01-01T00:00:00+99:99";

#[test]
fn a_report_with_a_time_that_there_is_not_harms_nothing_and_is_named() {
    let mut world = World::of(&world::cluster());
    let (leaders, keys) = (world.leaders(), world.keys());
    let node = leaders["left"][0].clone();
    let mut object = world.mesh_node(&node);
    object["status"]["conditions"] = serde_json::json!([
        {"type": "Ready", "status": "True", "reason": "x", "message": "", "lastTransitionTime": NEVER},
    ]);
    world.send_mesh_node_as(&object);
    world.settle();
    assert_eq!((world.leaders(), world.keys()), (leaders.clone(), keys.clone()));
    let notices = world.take_notices();
    assert_eq!(notices.len(), 1, "{notices:?}");
    assert_eq!(
        (notices[0].kind, notices[0].name.as_str()),
        ("Node", node.as_str())
    );
    for part in ["status.conditions[0]", "MeshNode", "cannot be read"] {
        assert!(notices[0].note.contains(part), "{}", notices[0].note);
    }

    object["status"] = serde_json::json!(4);
    world.send_mesh_node_as(&object);
    world.settle();
    assert_eq!(
        world.keys(),
        keys,
        "without a report it counts as it was published"
    );
    object["spec"] = serde_json::json!({"listenPort": "many"});
    world.send_mesh_node_as(&object);
    world.settle();
    assert_eq!(world.leaders(), leaders);
    let spec = &world.mesh_nodes()[&node];
    assert_eq!(spec.location.as_deref(), Some("left"), "it is written again");
}

#[test]
fn a_location_that_cannot_be_read_stays_as_it_was_is_named_and_is_not_created_again() {
    let mut world = World::of(&world::cluster());
    let spec = LocationSpec {
        endpoint: Some("198.51.100.9:51820".to_owned()),
        ..LocationSpec::default()
    };
    world.apply(Change::Location(Box::new(Location::new("left", spec))));
    world.settle();
    let before = world.mesh();
    world.send_location_as(&serde_json::json!({"metadata": {"name": "left", "uid": "u"}, "spec": 4}));
    world.settle();
    assert_eq!(world.mesh(), before);
    let notices = world.take_notices();
    assert_eq!(notices.len(), 1, "{notices:?}");
    assert_eq!((notices[0].kind, notices[0].name.as_str()), ("Location", "left"));

    // One of which nothing was known, and into which a node moves.
    world.send_location_as(&serde_json::json!({"metadata": {"name": "odd", "uid": "u"}, "spec": 4}));
    let node = world.members()["right"][0].clone();
    world.apply(Change::Annotate(node.clone(), "spanwire.dev/location", "odd"));
    world.settle();
    assert_eq!(world.members()["odd"], [node]);
    assert!(!world.locations().contains("odd"));
    let decisions = world.decisions;
    world.settle();
    assert_eq!(world.decisions, decisions, "it comes to rest");
}

#[test]
fn fifty_thousand_bad_values_on_one_node_make_one_event_for_each_field_and_delay_nothing() {
    let mut world = World::of(&world::cluster());
    let node = world.members()["left"][0].clone();
    let values: Vec<String> = (0..50_000).map(|number| format!("{number}")).collect();
    let values: &'static str = values.join(",").leak();
    world.apply(Change::Annotate(
        node.clone(),
        "spanwire.dev/location-cidrs",
        values,
    ));
    world.apply(Change::Annotate(node, "spanwire.dev/endpoint", values));
    let start = std::time::Instant::now();
    world.settle();
    let other = world.members()["right"][0].clone();
    for cordoned in [true, false, true] {
        world.apply(Change::Cordon(other.clone(), cordoned));
        world.settle();
    }
    // A debug build on a busy machine; before, each decision wrote 100,000 texts.
    assert!(
        start.elapsed() < std::time::Duration::from_secs(5),
        "{:?}",
        start.elapsed()
    );
    let notices = world.take_notices();
    assert_eq!(notices.len(), 2, "{notices:?}");
    assert!(notices.iter().all(|notice| notice.note.len() <= 1100));
    let (_, message) = world.condition("left", "Accepted");
    assert!(message.len() <= 4096 && message.contains("more"), "{message}");
}

#[test]
fn a_location_of_which_nothing_can_be_read_stays_as_it_is_published_after_a_restart() {
    let mut world = World::of(&world::cluster());
    let spec = LocationSpec {
        endpoint: Some("198.51.100.9:51820".to_owned()),
        cidrs: vec!["172.20.0.0/24".to_owned(), "203.0.113.0/24".to_owned()],
        node_cidrs: vec!["192.168.7.0/24".to_owned()],
        persistent_keepalive: Some(25),
        leaders: spanwire_crds::Leaders {
            active: 2,
            standby: 0,
            ..Default::default()
        },
        ..LocationSpec::default()
    };
    world.apply(Change::Location(Box::new(Location::new("left", spec))));
    world.settle();
    let before = world.mesh();
    assert_eq!(world.leaders()["left"].len(), 2);
    world.spoil_location("left");
    world.settle();
    assert_eq!(world.mesh(), before);
    for _ in 0..2 {
        world.restart();
        world.settle();
        assert_eq!(world.mesh(), before);
    }
    // A node goes and another decision is made; then it is deleted, and nothing of it is left.
    world.apply(Change::Cordon(world.members()["right"][0].clone(), true));
    world.settle();
    let name = "left".parse().unwrap();
    assert_eq!(world.mesh().locations[&name], before.locations[&name]);
    world.delete_spoilt_location("left");
    world.settle();
    let settings = world.mesh().locations[&name].settings.clone();
    assert_eq!((settings.cidrs.len(), settings.endpoint), (0, None));
}
