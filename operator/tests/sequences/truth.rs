//! What Locations say of their nodes, and what nothing may claim.

use crate::world::{self, Change, World};

#[test]
fn what_a_node_cannot_carry_stands_on_its_location_and_names_the_node() {
    let mut world = World::of(&world::cluster());
    let (left, right) = (
        world.leaders()["left"][0].clone(),
        world.leaders()["right"][0].clone(),
    );
    world.apply(Change::Link(left.clone(), "right", true));
    world.apply(Change::Link(right, "left", true));
    world.settle();
    let follower = |node: &&String| !world.leaders()["left"].contains(*node);
    let follower = world.members()["left"].iter().find(follower).cloned().unwrap();
    let report = |node: &str, number: u8, reason: &str| {
        let condition = serde_json::json!({
            "type": "Ready", "status": if reason == "AllWell" { "True" } else { "False" }, "reason": reason,
            "message": "no way to the leader", "lastTransitionTime": "2026-01-01T00:00:00Z",
        });
        let status = spanwire_crds::MeshNodeStatus {
            public_key: Some(spanwire_topology::PublicKey::new([number; 32]).to_string()),
            links: vec![spanwire_crds::Link {
                location: "right".to_owned(),
                up: true,
            }],
            conditions: vec![serde_json::from_value(condition).unwrap()],
            ..Default::default()
        };
        Change::Report(node.to_owned(), Box::new(status))
    };
    let number = |node: &str| node[1..].parse::<u8>().unwrap();
    let conditions = |world: &World| ["Ready", "Connected"].map(|about| world.condition("left", about).0);
    for (node, reason, expected) in [
        (&follower, "Degraded", ["False", "True"]),
        (&follower, "Limited", ["True", "True"]),
        (&left, "Degraded", ["False", "False"]),
        (&left, "AllWell", ["True", "True"]),
    ] {
        world.apply(report(node, number(node), reason));
        world.settle();
        assert_eq!(conditions(&world), expected, "{node} {reason}");
        let (_, message) = world.condition("left", "Ready");
        let named = format!("node {node}: no way to the leader");
        assert_eq!(message.contains(&named), reason == "Degraded", "{message}");
    }
    assert_eq!(world.condition("right", "Ready").0, "True");

    world.apply(report(&follower, number(&follower), "Degraded"));
    world.apply(Change::Ready(follower, false));
    world.settle();
    assert_eq!(
        conditions(&world),
        ["True", "True"],
        "a node that is down says nothing"
    );
}

#[test]
fn a_node_from_which_no_agent_reports_stands_on_its_location_after_a_minute() {
    let mut world = World::of(&world::cluster());
    let [left, right] = ["left", "right"].map(|location| world.leaders()[location][0].clone());
    world.apply(Change::Link(left, "right", true));
    world.apply(Change::Link(right, "left", true));
    world.apply(Change::Node("n7".to_owned(), Some((7, "left"))));
    let ready = |world: &mut World, second| {
        world.renew(second);
        world.settle();
        world.condition("left", "Ready")
    };
    assert_eq!(ready(&mut world, 1).0, "True", "it begins, perhaps");
    assert_eq!(ready(&mut world, 59), ("True".to_owned(), String::new()));
    let (status, message) = ready(&mut world, 62);
    let expected = "node n7: no agent has reported from it, ";
    assert!(
        status == "False" && message.starts_with(expected),
        "{status} {message}"
    );
    assert_eq!(world.condition("left", "Connected").0, "True");
    world.apply(Change::Ready("n7".to_owned(), false));
    assert_eq!(ready(&mut world, 63).0, "True", "its Node says that it is down");
    world.apply(Change::Ready("n7".to_owned(), true));
    assert_eq!(ready(&mut world, 64).0, "True");
    assert_eq!(ready(&mut world, 125).0, "False");
    // One without a key follows all the same.
    let status = spanwire_crds::MeshNodeStatus {
        observed_generation: Some(1),
        ..Default::default()
    };
    world.apply(Change::Report("n7".to_owned(), Box::new(status)));
    assert_eq!(ready(&mut world, 126).0, "True");
}

#[test]
fn a_node_whose_agent_follows_nothing_since_it_booted_stands_on_its_location_after_a_minute() {
    let mut world = World::of(&world::cluster());
    let [left, right] = ["left", "right"].map(|location| world.leaders()[location][0].clone());
    world.apply(Change::Link(left, "right", true));
    world.apply(Change::Link(right, "left", true));
    world.apply(Change::Node("n7".to_owned(), Some((7, "left"))));
    let follows = |world: &mut World| {
        world.settle();
        let status = spanwire_crds::MeshNodeStatus {
            observed_generation: world.mesh_node("n7")["metadata"]["generation"].as_i64(),
            ..Default::default()
        };
        world.apply(Change::Report("n7".to_owned(), Box::new(status)));
    };
    let ready = |world: &mut World, second| {
        world.renew(second);
        world.settle();
        world.condition("left", "Ready")
    };
    let boot = |boot| Change::Boot("n7".to_owned(), boot);
    follows(&mut world);
    assert_eq!(ready(&mut world, 70), ("True".to_owned(), String::new()));
    world.apply(boot("one"));
    assert_eq!(ready(&mut world, 80).0, "True");
    follows(&mut world);
    assert_eq!(ready(&mut world, 200), ("True".to_owned(), String::new()));
    // Here it does not come back.
    world.apply(boot("two"));
    assert_eq!(ready(&mut world, 200).0, "True");
    assert_eq!(ready(&mut world, 201).0, "True");
    assert_eq!(ready(&mut world, 259).0, "True");
    let (status, message) = ready(&mut world, 262);
    let expected = "node n7: its agent has not followed its MeshNode for a minute, ";
    assert!(
        status == "False" && message.starts_with(expected),
        "{status} {message}"
    );
    assert_eq!(world.condition("left", "Connected").0, "True");
    world.apply(Change::Ready("n7".to_owned(), false));
    assert_eq!(ready(&mut world, 263).0, "True", "its Node says that it is down");
    world.apply(Change::Ready("n7".to_owned(), true));
    follows(&mut world);
    assert_eq!(ready(&mut world, 400), ("True".to_owned(), String::new()));
}

#[test]
fn a_member_that_a_leader_does_not_reach_stands_on_its_location_while_it_is_alive() {
    let mut world = World::of(&world::cluster());
    let [left, right] = ["left", "right"].map(|location| world.leaders()[location][0].clone());
    world.apply(Change::Link(left.clone(), "right", true));
    world.apply(Change::Link(right, "left", true));
    world.settle();
    let follower = |node: &&String| !world.leaders()["left"].contains(*node);
    let follower = world.members()["left"].iter().find(follower).cloned().unwrap();
    let elsewhere = world.members()["right"].clone();
    let [one, other] = [0, 1].map(|index| elsewhere[index].clone());
    let report = |by: &str, silent: &[&str]| {
        let silent = silent.iter().map(|node| spanwire_crds::SilentMember {
            node: (*node).to_owned(),
            cause: match elsewhere.iter().any(|other| other == node) {
                true => "nothing behind the leaders of right".to_owned(),
                false => format!("{node} has not answered"),
            },
        });
        let number = by[1..].parse().unwrap();
        let status = spanwire_crds::MeshNodeStatus {
            public_key: Some(spanwire_topology::PublicKey::new([number; 32]).to_string()),
            links: vec![spanwire_crds::Link {
                location: "right".to_owned(),
                up: true,
            }],
            silent_members: silent.collect(),
            ..Default::default()
        };
        Change::Report(by.to_owned(), Box::new(status))
    };
    let said = format!("node {left}: {follower} has not answered");
    let behind = format!("node {left}: nothing behind the leaders of right");
    for (by, silent, expected) in [
        (&left, &[follower.as_str()][..], said.as_str()),
        (&left, &["stranger"], ""),
        (&left, &[one.as_str(), other.as_str()], behind.as_str()),
        (&left, &[], ""),
        // It leads nothing, so it reaches for nothing.
        (&follower, &[left.as_str()], ""),
    ] {
        world.apply(report(by, silent));
        world.settle();
        let (status, message) = world.condition("left", "Ready");
        assert_eq!(
            (status == "False", message.as_str()),
            (!expected.is_empty(), expected)
        );
        assert_eq!(world.condition("left", "Connected").0, "True", "{by} {silent:?}");
    }
    world.apply(report(&left, &[&follower]));
    world.settle();
    assert_eq!(world.condition("left", "Ready").0, "False");
    world.apply(Change::Ready(follower, false));
    world.settle();
    assert_eq!(
        world.condition("left", "Ready").0,
        "True",
        "its Node says that it is down"
    );
}

#[test]
fn a_field_with_two_kinds_of_mistakes_has_one_event_that_names_both_and_is_written_once() {
    let mut world = World::of(&world::cluster());
    let key = "spanwire.dev/internal-ip";
    world.apply(Change::Annotate("n1".to_owned(), key, "10.1.0.5/99,8.8.8.8"));
    world.settle();
    let notices = world.take_notices();
    let of_field: Vec<_> = notices
        .iter()
        .filter(|notice| notice.field == format!("annotation {key}"))
        .collect();
    assert_eq!(of_field.len(), 1, "{notices:?}");
    for value in ["10.1.0.5/99", "8.8.8.8"] {
        assert!(of_field[0].note.contains(value), "{}", of_field[0].note);
    }
    for cordoned in [true, false, true] {
        world.apply(Change::Cordon("n5".to_owned(), cordoned));
        world.settle();
        assert_eq!(world.take_notices(), [], "nothing is new");
    }
}

#[test]
fn what_a_node_claims_by_an_annotation_of_kilo_is_refused_under_that_name() {
    for (kilos, ours, value) in [
        ("force-internal-ip", "internal-ip", "8.8.8.8"),
        ("allowed-location-ips", "location-cidrs", "8.8.8.0/24"),
    ] {
        let mut options = world::options();
        options.nodes.kilo_annotations = true;
        let mut world = World::with(options);
        for change in world::cluster() {
            world.apply(change);
        }
        let kilos = ["kilo.squat.ai/", kilos].concat().leak();
        let ours = ["spanwire.dev/", ours].concat().leak();
        for key in [kilos, ours] {
            world.apply(Change::Annotate("n1".to_owned(), key, value));
            world.settle();
            let notices = world.take_notices();
            assert_eq!(notices.len(), 1, "{notices:?}");
            assert_eq!(notices[0].field, format!("annotation {key}"));
            assert!(
                notices[0].note.contains(&format!("{key}: ")),
                "{}",
                notices[0].note
            );
        }
    }
}

#[test]
fn an_address_that_the_api_servers_name_comes_to_mean_is_taken_from_who_claimed_it() {
    let mut world = World::of(&world::cluster());
    let location: spanwire_crds::Location = serde_json::from_value(serde_json::json!({
        "apiVersion": "spanwire.dev/v1alpha1", "kind": "Location", "metadata": {"name": "left"},
        "spec": {"cidrs": ["198.51.100.0/24"]},
    }))
    .unwrap();
    world.apply(Change::Location(Box::new(location)));
    world.settle();
    assert_eq!(world.condition("left", "Accepted").0, "True");
    let addresses = ["198.51.100.7:6443".parse().unwrap()].into();
    assert!(world.handle_api_server(&addresses), "it is decided again");
    assert!(!world.handle_api_server(&addresses), "it is no news");
    let (status, message) = world.condition("left", "Accepted");
    assert!(status == "False" && message.contains("198.51.100.7"), "{message}");
    world.handle_api_server(&["198.51.101.7:6443".parse().unwrap()].into());
    assert_eq!(world.condition("left", "Accepted").0, "True");
}

#[test]
fn nothing_may_claim_where_the_api_server_runs_also_where_only_its_service_is_known() {
    let mut world = World::of(&world::cluster());
    world.settle();
    let before = world.mesh();
    let endpoints = ["198.51.100.7:6443".parse().unwrap()].into();
    assert!(world.handle_api_endpoints(&endpoints), "it is decided again");
    assert!(!world.handle_api_endpoints(&endpoints), "it is no news");
    assert_eq!(world.mesh().locations, before.locations);
    let location: spanwire_crds::Location = serde_json::from_value(serde_json::json!({
        "apiVersion": "spanwire.dev/v1alpha1", "kind": "Location", "metadata": {"name": "left"},
        "spec": {"cidrs": ["198.51.100.7/32"]},
    }))
    .unwrap();
    world.apply(Change::Location(Box::new(location)));
    world.settle();
    let (status, message) = world.condition("left", "Accepted");
    assert!(
        status == "False" && message.contains("198.51.100.7/32"),
        "{message}"
    );
}

#[test]
fn connected_names_the_pair_of_leaders_and_the_one_that_carries_the_traffic() {
    let mut world = World::of(&world::cluster());
    let [left, right] = ["left", "right"].map(|location| world.leaders()[location].clone());
    let ready = |world: &mut World| {
        world.settle();
        let [connected, ready] = ["Connected", "Ready"].map(|about| world.condition("left", about));
        assert_eq!(connected.0, ready.0);
        assert!(ready.0 == "True" || ready.1 == connected.1, "{ready:?}");
        (connected.0 == "True", connected.1)
    };
    world.apply(Change::Link(left[0].clone(), "right", true));
    world.apply(Change::Link(right[0].clone(), "left", true));
    let message = format!("traffic with right is in the tunnel of {}", left[0]);
    assert_eq!(ready(&mut world), (true, message));
    world.apply(Change::Link(left[0].clone(), "right", false));
    let (one, other) = (&left[0], &right[0]);
    let message = format!("the tunnel with right is down between {one} and {other}, its traffic stopped");
    assert_eq!(ready(&mut world), (false, message));
    world.apply(Change::Link(left[1].clone(), "right", true));
    let message = format!(
        "no tunnel between {one} and right ({other}), whose traffic goes through {}",
        left[1]
    );
    assert_eq!(ready(&mut world), (false, message));
}

#[test]
fn a_location_whose_leaders_are_all_down_is_not_ready_whatever_they_said_last() {
    let mut world = World::of(&world::cluster());
    let spec: spanwire_crds::PeerSpec = serde_json::from_value(serde_json::json!({
        "publicKey": spanwire_topology::PublicKey::new([77; 32]).to_string(), "allowedIPs": ["10.99.0.7/32"], "location": "left",
    }))
    .unwrap();
    world.put_peer("laptop", spec);
    world.settle();
    let leaders = world.leaders();
    let link = |world: &mut World, from: &str, to: &'static str, up| {
        world.apply(Change::Link(leaders[from][0].clone(), to, up));
        world.settle();
    };
    link(&mut world, "left", "right", true);
    link(&mut world, "right", "left", true);
    let says = |world: &World| ["left", "right"].map(|location| world.condition(location, "Connected"));
    assert!(says(&world).iter().all(|(status, _)| status == "True"));
    assert_eq!(world.condition_of_peer("laptop", "Ready").status, "True");

    // Nothing is alive there that could lead instead.
    for node in world.members()["left"].clone() {
        world.apply(Change::Ready(node, false));
    }
    (1..=100).for_each(|second| {
        world.renew_where(second, |leader| {
            leaders["right"].iter().any(|right| right == leader)
        })
    });
    world.settle();
    let (here, there) = (leaders["left"][0].clone(), leaders["right"][0].clone());
    assert_eq!(says(&world)[0].0, "True", "the other side still reaches them");
    let peer = world.condition_of_peer("laptop", "Ready");
    let message = format!("left does not talk to it: its leader {here} is not alive");
    assert_eq!((peer.status.as_str(), &peer.message), ("False", &message));
    link(&mut world, "right", "left", false);
    for (connected, (one, other)) in says(&world).into_iter().zip([(&here, "right"), (&there, "left")]) {
        let far = if other == "right" { &there } else { &here };
        let message = format!("the tunnel with {other} is down between {one} and {far}, its traffic stopped");
        assert_eq!(connected, ("False".to_owned(), message));
    }
    assert_eq!(world.condition("left", "Ready").0, "False");

    for node in world.members()["right"].clone() {
        world.apply(Change::Ready(node, false));
    }
    (101..=200).for_each(|second| world.renew_where(second, |_| false));
    world.settle();
    let (status, message) = world.condition("left", "Ready");
    let expected =
        format!("nothing is known of the tunnel with right: no leader is alive, neither {here} nor {there}");
    assert_eq!((status.as_str(), message), ("False", expected));
}

#[test]
fn a_peer_without_its_preshared_key_is_not_ready_by_the_word_of_its_leader_alone() {
    let mut world = World::of(&world::cluster());
    world.settle();
    let [leader, other] = ["left", "right"].map(|location| world.leaders()[location][0].clone());
    let spec = |reference: Option<&str>| -> spanwire_crds::PeerSpec {
        let reference = reference.map(|key| serde_json::json!({"name": "keys", "key": key}));
        serde_json::from_value(serde_json::json!({
            "publicKey": spanwire_topology::PublicKey::new([77; 32]).to_string(), "allowedIPs": ["10.99.0.7/32"],
            "location": "left", "presharedKeySecretRef": reference,
        }))
        .unwrap()
    };
    let report = |node: &str, peers: &[&str]| {
        let unkeyed = |peer: &&str| spanwire_crds::UnkeyedPeer {
            peer: (*peer).to_owned(),
            cause: "there is no Secret keys".to_owned(),
        };
        let status = spanwire_crds::MeshNodeStatus {
            public_key: Some(spanwire_topology::PublicKey::new([node.as_bytes()[1] - b'0'; 32]).to_string()),
            unkeyed_peers: peers.iter().map(unkeyed).collect(),
            ..Default::default()
        };
        Change::Report(node.to_owned(), Box::new(status))
    };
    world.put_peer("laptop", spec(Some("laptop")));
    let refused = format!("left does not talk to it: node {leader}: there is no Secret keys");
    for (node, peers, expected) in [
        (&leader, &["phone"][..], None),
        (&other, &["laptop"], None),
        (&leader, &["phone", "laptop"], Some(refused.as_str())),
        (&leader, &[], None),
        (&leader, &["laptop"], Some(&refused)),
    ] {
        world.apply(report(node, peers));
        world.settle();
        let ready = world.condition_of_peer("laptop", "Ready");
        assert_eq!(
            ready.status == "False",
            expected.is_some(),
            "{node} {peers:?}: {}",
            ready.message
        );
        assert_eq!(ready.message, expected.unwrap_or("has a tunnel with left"));
    }
    // Of one that is to have none a leader can say nothing.
    world.put_peer("laptop", spec(None));
    world.settle();
    assert_eq!(world.condition_of_peer("laptop", "Ready").status, "True");
}
