//! What Locations say of nodes that their CNI knows by an overlay address.

use crate::{
    felix::connected_world,
    world::{Change, World},
};

impl World {
    fn follower_of_left(&self) -> String {
        let leaders = self.leaders();
        let mut nodes = ["n1", "n2", "n3"].into_iter();
        let follower = nodes.find(|node| !leaders["left"].iter().any(|leader| leader == node));
        follower.unwrap().to_owned()
    }

    fn said_of_left(&self) -> [(String, String); 2] {
        ["Ready", "Connected"].map(|about| self.condition("left", about))
    }
}

/// What Calico and flannel write where they have taken the address of the tunnel's device for the node's.
const TAKEN: [(&str, &str, &str, &str); 4] = [
    (
        "projectcalico.org/IPv4Address",
        "10.4.0.9/16",
        "10.4.0.9",
        "IP_AUTODETECTION_METHOD",
    ),
    (
        "projectcalico.org/IPv6Address",
        "fd00:4::9/64",
        "fd00:4::9",
        "IP_AUTODETECTION_METHOD",
    ),
    (
        "flannel.alpha.coreos.com/public-ip",
        "10.4.0.9",
        "10.4.0.9",
        "--flannel-iface",
    ),
    (
        "flannel.alpha.coreos.com/public-ipv6",
        "fd00:4::9",
        "fd00:4::9",
        "--flannel-iface",
    ),
];

#[test]
fn nodes_that_their_cni_knows_by_an_overlay_address_are_named_with_what_to_set() {
    let mut world = connected_world();
    let leader = world.leaders()["left"][0].clone();
    let follower = world.follower_of_left();
    for (annotation, value, address, remedy) in TAKEN {
        for (node, connected) in [(&follower, "True"), (&leader, "False")] {
            world.apply(Change::Annotate(node.clone(), annotation, value));
            world.settle();
            let [(ready, message), (found, _)] = world.said_of_left();
            assert_eq!((&*ready, &*found), ("False", connected), "{annotation} {node}");
            for part in [&format!("node {node}: "), annotation, address, remedy] {
                assert!(message.contains(part), "{part}: {message}");
            }
            // It was restarted, and has found another one.
            world.apply(Change::Annotate(node.clone(), annotation, "192.168.7.77"));
            world.settle();
            let [(ready, _), (found, _)] = world.said_of_left();
            assert_eq!((&*ready, &*found), ("True", "True"), "{annotation} {node}");
        }
    }
    assert_eq!(world.condition("right", "Ready").0, "True");
}

#[test]
fn what_a_node_has_itself_and_what_one_that_is_silent_said_last_is_no_news() {
    let mut world = connected_world();
    let follower = world.follower_of_left();
    let (annotation, value, ..) = TAKEN[0];
    world.apply(Change::Annotate(follower.clone(), annotation, value));
    world.settle();
    assert_eq!(world.said_of_left()[0].0, "False");
    world.apply(Change::Ready(follower.clone(), false));
    world.settle();
    assert_eq!(world.said_of_left()[0].0, "True");
    world.apply(Change::Ready(follower.clone(), true));
    world.settle();
    assert_eq!(world.said_of_left()[0].0, "False");
    world.apply(Change::Node(follower, None));
    world.settle();
    assert_eq!(world.said_of_left()[0].0, "True");
}
