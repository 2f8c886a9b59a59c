//! Networks that a route of the type `local` makes addresses of the node ("AnyIP"), and what they take from the mesh.

use spanwire_host::{Conflict, HostFacts, conflicts, render};
use spanwire_topology::Plan;

use crate::samples::{
    direct_follower, follower, leader, link, location, nodes_mode, other_link, prefix, settled_leader,
    standby, wide,
};

/// What is taken: the first prefix of the mesh, where that lives, and how many there are.
type Taken = Option<(&'static str, &'static str, usize)>;

fn with(facts: &HostFacts, network: &str) -> HostFacts {
    let mut facts = facts.clone();
    facts.local_routes = [(prefix(network), link("lo"))].into();
    facts
}

fn assert_taken(name: &str, (plan, facts): &(Plan, HostFacts), cases: &[(&str, Taken)]) {
    let before = conflicts(plan, facts);
    for (network, taken) in cases {
        let mut found = conflicts(plan, &with(facts, network));
        found.retain(|conflict| !before.contains(conflict));
        let expected = taken.map(|(first, of, count)| Conflict::Swallowed {
            network: prefix(network),
            link: link("lo"),
            prefix: prefix(first),
            location: location(of),
            count,
        });
        assert_eq!(found, Vec::from_iter(expected), "{name}: {network}");
        assert!(found.iter().all(Conflict::stops_traffic));
    }
}

#[test]
fn a_local_route_that_takes_something_of_another_location_is_reported_whatever_their_lengths() {
    let common: [(&str, Taken); 8] = [
        ("203.0.113.0/24", None),
        ("fd00:1::/64", None),
        ("10.244.21.0/24", Some(("10.244.21.0/24", "b", 1))),
        ("10.244.21.128/25", Some(("10.244.21.0/24", "b", 1))),
        ("10.244.21.7", Some(("10.244.21.0/24", "b", 1))),
        ("10.244.20.0/22", Some(("10.244.21.0/24", "b", 2))),
        ("10.4.0.16/28", Some(("10.4.0.21", "b", 1))),
        ("192.168.2.0/24", Some(("192.168.2.1", "b", 2))),
    ];
    for (name, node) in [
        ("leader", leader()),
        ("settled leader", settled_leader()),
        ("follower", follower()),
        ("follower in the LAN", direct_follower()),
    ] {
        assert_taken(name, &node, &common);
    }
    assert_taken("leader", &leader(), &[("0.0.0.0/0", Some(("10.4.0.21", "b", 7)))]);
}

#[test]
fn a_local_route_for_what_is_this_nodes_own_or_is_in_its_lan_takes_nothing_from_the_mesh() {
    let standby = standby();
    assert!(standby.0.routes.contains_key(&prefix("10.0.0.0/8")));
    // What lies in the own pods' network, and what lies beside it.
    let cases = [
        ("10.244.13.0/24", None),
        ("10.244.13.64/26", None),
        ("10.99.0.0/16", Some(("10.0.0.0/8", "b", 1))),
    ];
    assert_taken("standby", &standby, &cases);
    // A network in a network connected here, as load balancers give their virtual addresses to a node.
    let (plan, mut facts) = wide();
    let eth1 = other_link(1500, &[("10.99.0.5", 16)], false);
    facts.links.insert(link("eth1"), eth1);
    let cases = [
        ("10.99.0.100", None),
        ("10.98.0.100", Some(("10.0.0.0/8", "b", 1))),
    ];
    assert_taken("beside a LAN", &(plan, facts), &cases);
}

#[test]
fn a_local_route_that_takes_the_way_to_another_node_of_the_location_is_reported() {
    // Other nodes, to which what comes out of the tunnel goes on.
    let cases = [
        ("192.168.1.0/24", Some(("192.168.1.2", "a", 2))),
        ("192.168.1.3", Some(("192.168.1.3", "a", 1))),
        ("10.244.12.0/24", None),
    ];
    assert_taken("leader", &leader(), &cases);
    // The leader, on flannel's device and in the LAN.
    let cases = [
        ("10.244.11.0/28", Some(("10.244.11.0", "a", 1))),
        ("192.168.1.0/30", Some(("192.168.1.1", "a", 1))),
        ("192.168.1.2", None),
    ];
    assert_taken("follower", &follower(), &cases);
    // Every other node is in the mesh by itself.
    let cases = [
        ("10.244.12.0/25", Some(("10.244.12.0/24", "a", 1))),
        ("10.244.11.0/25", None),
    ];
    assert_taken("in nodes mode", &nodes_mode(), &cases);
}

#[test]
fn the_report_says_what_to_remove() {
    let (plan, facts) = follower();
    let said = |network: &str| conflicts(&plan, &with(&facts, network))[0].to_string();
    assert_eq!(
        said("10.244.21.0/25"),
        "10.244.21.0/25 is a local route of this node (`ip route show table local`), so it takes for itself what goes from here or \
         through here to 10.244.21.0/24 of location b: remove that route (`ip route del local 10.244.21.0/25 dev lo table \
         local`), or narrow it to what is this node's own"
    );
    let all = said("10.244.0.0/16");
    assert!(
        all.contains("to 10.244.11.0/32 of location a and to 2 more of the mesh's prefixes: remove"),
        "{all}"
    );
}

#[test]
fn what_the_mesh_does_not_know_of_such_a_network_is_not_reached_through_the_tunnel() {
    let (plan, facts) = settled_leader();
    let private = |network: &str| {
        let table = render(&plan, &with(&facts, network)).nft.unwrap();
        let set = table.sets.iter().find(|set| set.name() == "private4").unwrap();
        let ranges = set.ranges().iter().map(ToString::to_string);
        ranges.collect::<Vec<_>>().join(" ")
    };
    assert!(private("203.0.113.0/24").contains("203.0.113.0/24"));
    // The pods of the location lie in it, and are reached.
    let holes = private("10.244.8.0/21");
    assert!(holes.contains("10.244.8.0-10.244.10.255"), "{holes}");
    assert!(holes.contains("10.244.14.0/23"), "{holes}");
    assert!(
        !holes.contains("10.244.11.") && !holes.contains("10.244.12."),
        "{holes}"
    );
    assert_eq!(private("10.244.11.0/24"), private("10.244.12.64/26"));
}
