//! Addresses of a Node that are no other host's: what is published of a node is read again as it was written, or it would be
//! written with every decision, and every agent would hear of it.

use serde_json::json;
use spanwire_operator::batch::Write;

use crate::world::{self, World};

/// Sets the addresses of a node, as its kubelet can.
fn say(world: &mut World, node: &str, kind: &str, address: &str) {
    let mut nodes = world.take_nodes();
    let addresses =
        json!([{"type": "InternalIP", "address": "192.168.7.1"}, {"type": kind, "address": address}]);
    nodes.get_mut(node).unwrap()["status"]["addresses"] = addresses;
    world.give_nodes(nodes);
    world.settle();
}

#[test]
fn whatever_addresses_a_node_has_nothing_is_written_twice() {
    for kind in ["InternalIP", "ExternalIP"] {
        for address in [
            "0.0.0.0",
            "127.0.0.1",
            "169.254.7.1",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::8.8.8.8",
            "::ffff:8.8.8.8",
            "::ffff:10.0.0.1",
            "64:ff9b::8.8.8.8",
            "2002:808:808::1",
            "fe80::1",
            "ff02::1",
            "203.0.113.7",
            "2001:db8::7",
        ] {
            let mut world = World::of(&world::cluster());
            say(&mut world, "n1", kind, address);
            let mesh = world.mesh();
            let slice = |write: &Write| write.kind() == "slice";
            let again = world.decide_again();
            assert!(!again.iter().any(slice), "{kind} {address}: {again:?}");
            assert_eq!(world.restart(), [], "{kind} {address}, restarted");
            world.settle();
            assert_eq!(world.mesh(), mesh, "{kind} {address}");
        }
    }
}

#[test]
fn an_address_that_a_node_has_lost_is_granted_to_none_of_another_location_for_an_hour() {
    let mut world = World::of(&world::cluster());
    world.renew(1);
    world.settle();
    let say = |world: &mut World, node: &str, addresses: &[&str]| {
        let mut nodes = world.take_nodes();
        let internal = |address: &&str| json!({"type": "InternalIP", "address": address});
        nodes.get_mut(node).unwrap()["status"]["addresses"] = addresses.iter().map(internal).collect();
        world.give_nodes(nodes);
        world.settle();
    };
    let has = |world: &World, location: &str, node: &str| {
        let mesh = world.mesh();
        let members = &mesh.locations[&location.parse().unwrap()].members;
        members[&node.parse().unwrap()]
            .addresses
            .contains(&"192.168.7.1".parse().unwrap())
    };
    assert!(has(&world, "left", "n1"));
    say(&mut world, "n1", &[]);
    say(&mut world, "n4", &["192.168.7.4", "192.168.7.1"]);
    assert!(!has(&world, "left", "n1") && !has(&world, "right", "n4"));
    say(&mut world, "n1", &["192.168.7.1"]);
    assert!(has(&world, "left", "n1"), "its kubelet writes it again");
    say(&mut world, "n1", &["192.168.7.9"]);
    assert!(!has(&world, "right", "n4"));
    for (second, expected) in [(3_590, false), (3_610, true)] {
        world.renew(second);
        world.settle();
        assert_eq!(has(&world, "right", "n4"), expected, "after {second} s");
    }
}

#[test]
fn an_address_that_others_cannot_reach_a_node_at_is_no_endpoint_and_is_named() {
    for (kind, address) in [
        ("ExternalIP", "127.0.0.1"),
        ("ExternalIP", "::ffff:203.0.113.7"),
        ("InternalIP", "::ffff:8.8.8.8"),
        ("InternalIP", "255.255.255.255"),
    ] {
        let mut world = World::of(&world::cluster());
        let mesh = world.mesh();
        let endpoints = |mesh: &spanwire_topology::Mesh| {
            let left = &mesh.locations[&"left".parse().unwrap()];
            left.members[&"n1".parse().unwrap()].endpoints.clone()
        };
        say(&mut world, "n1", kind, address);
        assert_eq!(endpoints(&world.mesh()), endpoints(&mesh), "{kind} {address}");
        let notices = world.take_notices();
        let named = notices
            .iter()
            .any(|notice| notice.note.contains("status.addresses"));
        assert!(named, "{kind} {address}: {notices:?}");
    }
}
