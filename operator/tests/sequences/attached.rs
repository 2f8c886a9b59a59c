//! Whether Peers are connected, by the word of the leaders that they are attached to alone.

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use serde_json::json;
use spanwire_crds::{AttachedPeer, MeshNodeStatus, PeerSpec};
use spanwire_topology::PublicKey;

use crate::world::{self, Change, World};

/// What the agent of a node says of Peers: whether they are connected, and the second of the last handshake.
fn report(node: &str, peers: &[(&str, bool, i64)]) -> Change {
    let attached = peers.iter().map(|(peer, connected, second)| AttachedPeer {
        peer: (*peer).to_owned(),
        connected: *connected,
        last_handshake: Time(Timestamp::from_second(*second).unwrap()),
    });
    let status = MeshNodeStatus {
        public_key: Some(PublicKey::new([node.as_bytes()[1] - b'0'; 32]).to_string()),
        attached_peers: attached.collect(),
        ..MeshNodeStatus::default()
    };
    Change::Report(node.to_owned(), status.into())
}

fn laptop(key: u8) -> PeerSpec {
    let spec = json!({"publicKey": PublicKey::new([key; 32]).to_string(), "allowedIPs": ["10.99.0.7/32"],
        "location": "left"});
    serde_json::from_value(spec).unwrap()
}

/// The locations that the Peer is connected to, and the second of its last handshake.
fn connected(world: &World) -> (Vec<String>, Option<i64>) {
    let status = world.status_of_peer("laptop");
    let second = status.last_handshake.as_ref().map(|Time(time)| time.as_second());
    (status.connected_to.clone(), second)
}

#[test]
fn a_peer_is_connected_to_a_location_by_the_word_of_the_leader_that_it_is_attached_to() {
    let mut world = World::of(&world::cluster());
    world.settle();
    let [leader, other] = ["left", "right"].map(|location| world.leaders()[location][0].clone());
    world.put_peer("laptop", laptop(77));
    // The clock of the operator is at 1,000,000.
    for (node, peers, expected) in [
        (&leader, &[][..], (false, None)),
        (&other, &[("laptop", true, 999_000)], (false, None)),
        (&leader, &[("phone", true, 999_100)], (false, None)),
        (&leader, &[("laptop", true, 999_200)], (true, Some(999_200))),
        (&leader, &[("laptop", false, 999_300)], (false, Some(999_300))),
        // Nor does what it says of another time take anything back, or come before it.
        (&leader, &[("laptop", true, 999_250)], (true, Some(999_300))),
        (&leader, &[("laptop", true, 2_000_000)], (true, Some(999_300))),
        (&leader, &[], (false, Some(999_300))),
    ] {
        world.apply(report(node, peers));
        world.settle();
        let (to, last) = connected(&world);
        let expected_to: &[&str] = if expected.0 { &["left"] } else { &[] };
        assert_eq!(
            (to, last),
            (expected_to.iter().map(ToString::to_string).collect(), expected.1),
            "{node} {peers:?}"
        );
        assert!(world.decide_again().is_empty(), "at rest nothing is written");
    }
    // With another key it is another machine.
    world.put_peer("laptop", laptop(78));
    world.settle();
    assert_eq!(connected(&world), (vec![], None));
}

#[test]
fn a_peer_is_not_connected_to_a_leader_that_is_not_alive() {
    let mut world = World::of(&world::cluster());
    world.settle();
    let leader = world.leaders()["left"][0].clone();
    world.put_peer("laptop", laptop(77));
    world.apply(report(&leader, &[("laptop", true, 999_200)]));
    world.settle();
    assert_eq!(connected(&world).0, ["left"]);
    for node in world.members()["left"].clone() {
        world.apply(Change::Ready(node, false));
    }
    (101..=200).for_each(|second| world.renew_where(second, |_| false));
    world.settle();
    assert_eq!(connected(&world), (vec![], Some(999_200)));
}
