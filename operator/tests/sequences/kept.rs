//! What stays as it was.

use spanwire_crds::{Location, LocationSpec, PeerSpec, PresharedKeySecretRef};
use spanwire_topology::PublicKey;

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
fn an_address_of_a_node_that_cannot_be_read_keeps_those_that_it_had_also_after_a_restart() {
    let mut world = World::of(&world::cluster());
    let node = world.members()["left"][0].clone();
    let addresses = |world: &World| left(world).members[&node.parse().unwrap()].addresses.clone();
    let before = addresses(&world);
    let say = |world: &mut World, texts: &[&str]| {
        let all: Vec<_> = texts
            .iter()
            .map(|text| serde_json::json!({"type": "InternalIP", "address": text}))
            .collect();
        let mut nodes = world.take_nodes();
        nodes.get_mut(&node).unwrap()["status"]["addresses"] = all.into();
        world.give_nodes(nodes);
        world.settle();
    };
    say(&mut world, &["x"]);
    assert_eq!(addresses(&world), before);
    say(&mut world, &["fe80::1%eth0", "192.168.7.99"]);
    let both: std::collections::BTreeSet<_> = before
        .iter()
        .copied()
        .chain(["192.168.7.99".parse().unwrap()])
        .collect();
    assert_eq!(addresses(&world), both);
    world.restart();
    world.settle();
    assert_eq!(addresses(&world), both, "restarted");
    say(&mut world, &["192.168.7.99"]);
    assert_eq!(addresses(&world).len(), 1);
}

#[test]
fn where_the_outside_reaches_a_node_stays_when_that_cannot_be_read_also_after_a_restart() {
    let mut world = World::of(&world::cluster());
    let node = world.members()["left"][0].clone();
    let endpoints = |world: &World| -> Vec<String> {
        let member = left(world).members[&node.parse().unwrap()].clone();
        member.endpoints.iter().map(ToString::to_string).collect()
    };
    let say = |world: &mut World, texts: &[&str]| {
        let external = texts.iter();
        let external = external.map(|text| serde_json::json!({"type": "ExternalIP", "address": text}));
        let mut nodes = world.take_nodes();
        let status = &mut nodes.get_mut(&node).unwrap()["status"];
        let addresses = status["addresses"].as_array_mut().unwrap();
        addresses.retain(|address| address["type"] != "ExternalIP");
        addresses.extend(external);
        world.give_nodes(nodes);
        world.settle();
    };
    say(&mut world, &["203.0.113.7"]);
    assert_eq!(endpoints(&world), ["203.0.113.7:51820"]);
    // A port, and an address at which no other host can be.
    for spoilt in ["203.0.113.8:51820", "127.0.0.1"] {
        world.take_notices();
        say(&mut world, &[spoilt]);
        assert_eq!(endpoints(&world), ["203.0.113.7:51820"], "{spoilt}");
        assert_eq!(world.take_notices().len(), 1, "{spoilt}");
        world.restart();
        world.settle();
        assert_eq!(endpoints(&world), ["203.0.113.7:51820"], "{spoilt}, restarted");
    }
    say(&mut world, &["203.0.113.9"]);
    assert_eq!(endpoints(&world), ["203.0.113.9:51820"]);
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

/// Makes a value one that cannot be read.
type Spoil<T> = fn(&mut T);

fn left(world: &World) -> spanwire_topology::Location {
    let name = "left".parse().unwrap();
    let mut mesh = world.mesh();
    mesh.locations.remove(&name).unwrap()
}

fn peer() -> PeerSpec {
    PeerSpec {
        public_key: PublicKey::new([77; 32]).to_string(),
        allowed_ips: vec!["10.99.0.7/32".to_owned(), "10.98.0.0/24".to_owned()],
        endpoint: Some("198.51.100.7:51820".to_owned()),
        persistent_keepalive: None,
        location: Some("left".to_owned()),
        preshared_key_secret_ref: Some(reference("laptop")),
    }
}

fn reference(key: &str) -> PresharedKeySecretRef {
    PresharedKeySecretRef {
        name: "spanwire-preshared-keys".to_owned(),
        key: key.to_owned(),
    }
}

#[test]
fn a_value_of_a_peer_that_cannot_be_read_keeps_what_was_there_also_after_a_restart() {
    // A point of low order, a network without its length, an endpoint without a port, a name in capitals, a path.
    let spoilt: [(&str, Spoil<PeerSpec>); 6] = [
        ("spec.publicKey", |spec| {
            spec.public_key = format!("{}=", "A".repeat(43))
        }),
        ("spec.publicKey", |spec| spec.public_key = "x".to_owned()),
        ("spec.allowedIPs", |spec| {
            spec.allowed_ips[1] = "10.98.0.1/24".to_owned()
        }),
        ("spec.endpoint", |spec| {
            spec.endpoint = Some("198.51.100.7".to_owned())
        }),
        ("spec.location", |spec| spec.location = Some("Left!".to_owned())),
        ("spec.presharedKeySecretRef", |spec| {
            spec.preshared_key_secret_ref = Some(reference("a/b"));
        }),
    ];
    for (field, spoil) in spoilt {
        let mut world = World::of(&world::cluster());
        world.put_peer("laptop", peer());
        world.settle();
        let before = world.accepted("laptop").unwrap();
        assert_eq!((before.allowed_ips.len(), before.attachments.len()), (2, 1));
        let mut spec = peer();
        spoil(&mut spec);
        world.put_peer("laptop", spec.clone());
        world.settle();
        assert_eq!(world.accepted("laptop").as_ref(), Some(&before), "{field}");
        let (status, message) = world.peer_condition("laptop");
        assert!(status == "False" && message.contains(field), "{status} {message}");
        world.restart();
        world.settle();
        assert_eq!(
            world.accepted("laptop").as_ref(),
            Some(&before),
            "{field}, restarted"
        );

        // What can be read counts at once, and beside the one that cannot.
        spec.persistent_keepalive = Some(7);
        world.put_peer("laptop", spec);
        world.settle();
        assert_eq!(
            world.accepted("laptop").unwrap().persistent_keepalive,
            Some(7),
            "{field}"
        );
        world.put_peer(
            "laptop",
            PeerSpec {
                public_key: PublicKey::new([78; 32]).to_string(),
                ..peer()
            },
        );
        world.settle();
        let now = world.accepted("laptop").unwrap();
        assert_eq!(now.public_key, PublicKey::new([78; 32]).to_string());
        assert_eq!(world.peer_condition("laptop").0, "True");
    }
}

#[test]
fn a_peer_of_which_nothing_was_known_is_none_while_its_key_or_its_location_cannot_be_read() {
    let mut world = World::of(&world::cluster());
    let unread = |change: fn(&mut PeerSpec)| {
        let mut spec = peer();
        change(&mut spec);
        spec
    };
    world.put_peer("laptop", unread(|spec| spec.public_key = "x".to_owned()));
    world.put_peer("phone", unread(|spec| spec.location = Some("Left!".to_owned())));
    world.settle();
    assert_eq!((world.accepted("laptop"), world.accepted("phone")), (None, None));
    world.restart();
    world.settle();
    assert_eq!((world.accepted("laptop"), world.accepted("phone")), (None, None));
}

#[test]
fn every_field_of_a_location_that_cannot_be_read_keeps_what_was_there_also_after_a_restart() {
    let spec = || LocationSpec {
        mesh: spanwire_crds::Mode::Nodes,
        endpoint: Some("198.51.100.9:51820".to_owned()),
        cidrs: vec!["172.20.0.0/24".to_owned(), "172.21.0.0/24".to_owned()],
        node_cidrs: vec!["192.168.7.0/24".to_owned()],
        ..LocationSpec::default()
    };
    let spoilt: [(&str, Spoil<LocationSpec>); 4] = [
        ("spec.mesh", |spec| spec.mesh = spanwire_crds::Mode::Unknown),
        ("spec.endpoint", |spec| {
            spec.endpoint = Some("198.51.100.9".to_owned())
        }),
        ("spec.cidrs", |spec| spec.cidrs[1] = "172.21.0.1/24".to_owned()),
        ("spec.nodeCIDRs", |spec| {
            spec.node_cidrs = vec!["192.168.99.0/24".to_owned(), "192.168.7.1/24".to_owned()];
        }),
    ];
    for (field, spoil) in spoilt {
        let mut world = World::of(&world::cluster());
        world.apply(Change::Location(Box::new(Location::new("left", spec()))));
        world.settle();
        let before = left(&world);
        let mut changed = spec();
        spoil(&mut changed);
        world.apply(Change::Location(Box::new(Location::new("left", changed))));
        for restarted in [false, true] {
            if restarted {
                world.restart();
            }
            world.settle();
            let now = left(&world);
            assert_eq!(now, before, "{field}, restarted: {restarted}");
            let (status, message) = world.condition("left", "Accepted");
            assert!(status == "False" && message.contains(field), "{status} {message}");
        }
    }
}

#[test]
fn every_annotation_that_cannot_be_read_keeps_what_was_there_also_after_a_restart() {
    for (key, good, bad) in [
        ("spanwire.dev/location", "elsewhere", "Else where"),
        (
            "spanwire.dev/endpoint",
            "198.51.100.3:51820",
            "https://198.51.100.3:51820/",
        ),
        ("spanwire.dev/internal-ip", "192.168.7.77", "192.168.7.777"),
        ("spanwire.dev/internal-ip", "-", "none"),
        (
            "spanwire.dev/internal-ip",
            "192.168.7.77,192.168.7.78",
            "192.168.7.77,192.168.7.788",
        ),
        ("spanwire.dev/persistent-keepalive", "25", "25s"),
        ("spanwire.dev/location-cidrs", "172.20.0.0/24", "172.20.0.1/24"),
        ("spanwire.dev/listen-port", "51999", "519999"),
        ("spanwire.dev/leader", "false", "no"),
    ] {
        let mut world = World::of(&world::cluster());
        let node = world.leaders()["left"][0].clone();
        world.apply(Change::Annotate(node.clone(), key, good));
        world.settle();
        let before = world.mesh();
        world.apply(Change::Annotate(node.clone(), key, bad));
        world.settle();
        assert_eq!(world.mesh(), before, "{key}");
        if key == "spanwire.dev/leader" {
            continue; // It is not published.
        }
        world.restart();
        world.settle();
        assert_eq!(world.mesh(), before, "{key}, restarted");
    }
}

#[test]
fn a_network_that_an_administrator_removes_does_not_come_back_by_a_value_that_cannot_be_read() {
    let mut world = World::of(&world::cluster());
    let with = |cidrs: &[&str]| {
        let spec = LocationSpec {
            cidrs: cidrs.iter().map(|cidr| (*cidr).to_owned()).collect(),
            ..LocationSpec::default()
        };
        Change::Location(Box::new(Location::new("left", spec)))
    };
    let node = world.leaders()["left"][0].clone();
    let cidrs = |world: &World| -> Vec<String> {
        left(world)
            .settings
            .cidrs
            .iter()
            .map(ToString::to_string)
            .collect()
    };
    world.apply(with(&["172.20.0.0/24"]));
    world.apply(Change::Annotate(
        node.clone(),
        "spanwire.dev/location-cidrs",
        "172.22.0.0/24",
    ));
    world.settle();
    world.apply(Change::Annotate(
        node,
        "spanwire.dev/location-cidrs",
        "172.22.0.1/24",
    ));
    world.settle();
    world.restart();
    world.settle();
    assert_eq!(cidrs(&world), ["172.20.0.0/24", "172.22.0.0/24"]);
    world.apply(with(&[]));
    world.settle();
    assert_eq!(cidrs(&world), ["172.22.0.0/24"]);
}

#[test]
fn an_annotation_without_a_value_leaves_a_leader_its_endpoint_and_says_what_to_do() {
    let mut world = World::of(&world::cluster());
    let leader = world.leaders()["left"][0].clone();
    let key = "spanwire.dev/endpoint";
    world.apply(Change::Annotate(leader.clone(), key, "203.0.113.7:51820"));
    world.settle();
    let before = world.endpoint("left");
    assert_eq!(before.as_deref(), Some("203.0.113.7:51820"));
    world.take_notices();
    for nothing in ["", ","] {
        world.apply(Change::Annotate(leader.clone(), key, nothing));
        world.settle();
        assert_eq!(world.endpoint("left"), before, "{nothing:?}");
        let notices = world.take_notices();
        assert_eq!(notices.len(), 1, "{notices:?}");
        assert!(
            notices[0].note.contains("remove the annotation"),
            "{}",
            notices[0].note
        );
    }
}
