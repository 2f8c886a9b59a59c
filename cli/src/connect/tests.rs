//! Exact values.

use spanwire_host::{Step, diff};
use spanwire_topology::{Mesh, decide, scenario::World};

use super::*;
use crate::showconf::attachments;

fn p(text: &str) -> Prefix {
    text.parse().unwrap()
}

fn own(addresses: &[&str]) -> Own {
    Own {
        public_key: PublicKey::new([9; 32]),
        listen_port: 40_000,
        mtu: 1420,
        addresses: addresses.iter().map(|address| p(address)).collect(),
        ipv6: true,
    }
}

fn party(number: u8, endpoint: &str, allowed: &[&str]) -> Party {
    Party {
        key: PublicKey::new([number; 32]),
        endpoint: endpoint.parse().ok(),
        allowed_ips: allowed.iter().map(|prefix| p(prefix)).collect(),
        mtu: None,
    }
}

const ENDPOINT: &str = "203.0.113.11:51820";

/// The routes and rules, as text.
fn shown(host: &Host) -> Vec<String> {
    let routes = host.routes.iter().map(|(key, route)| {
        let kind = match &route.kind {
            RouteKind::Unicast { dev, src, .. } => format!("dev {dev} src {}", src.unwrap()),
            other @ (RouteKind::Throw | RouteKind::Unreachable | RouteKind::Blackhole) => {
                format!("{other:?}").to_lowercase()
            }
        };
        format!(
            "{} table {} metric {} {kind}",
            key.prefix, key.table.0, key.metric
        )
    });
    let rules = host.rules.iter().map(|rule| {
        let RuleSelector {
            to, protocol, dport, ..
        } = &rule.selector;
        let to = to.map_or_else(
            || "all".to_owned(),
            |to| format!("{to}/{}/{}", protocol.unwrap(), dport.unwrap()),
        );
        format!("{:?} {} {to} {:?}", rule.family, rule.priority, rule.action)
    });
    routes.chain(rules).collect()
}

#[test]
fn what_is_for_the_mesh_goes_by_the_tunnel_or_nowhere_and_only_the_tunnel_and_the_api_server_go_past_it() {
    let parties = [party(1, ENDPOINT, &["10.244.1.0/24", "fd10::/64"])];
    let mesh = [p("10.244.1.0/24"), p("10.244.9.0/24")];
    let past = [
        Past::Leader(ENDPOINT.parse().unwrap()),
        Past::ApiServer("10.244.1.7:6443".parse().unwrap()),
    ];
    let host = host(
        &Owned::of_peer(),
        &own(&["10.99.0.1/32"]),
        &parties,
        &mesh.into(),
        &past.into(),
    );
    assert_eq!(
        shown(&host),
        [
            "10.244.1.0/24 table 51832 metric 100 dev spanwire-peer src 10.99.0.1",
            "10.244.1.0/24 table 51832 metric 200 unreachable",
            "10.244.9.0/24 table 51832 metric 200 unreachable",
            "fd10::/64 table 51832 metric 200 unreachable",
            "V4 2120 10.244.1.7/32/6/6443 Goto(2122)",
            "V4 2120 203.0.113.11/32/17/51820 Goto(2122)",
            "V4 2121 all Lookup(TableId(51832))",
            "V4 2122 all Nop",
            "V6 2121 all Lookup(TableId(51832))",
            "V6 2122 all Nop",
        ]
    );
    let wireguard = host.wireguard(&Owned::of_peer().link).unwrap();
    let peer = &wireguard.peers[&PublicKey::new([1; 32])];
    assert_eq!(
        (
            peer.endpoint,
            peer.keepalive,
            wireguard.listen_port,
            wireguard.mark
        ),
        (ENDPOINT.parse().ok(), Some(KEEPALIVE), 40_000, 0)
    );
    assert_eq!(*peer.allowed_ips, parties[0].allowed_ips);
}

#[test]
fn what_lies_in_a_network_that_is_taken_is_not_closed() {
    let of = |prefixes: &[&str]| -> BTreeSet<Prefix> { prefixes.iter().map(|prefix| p(prefix)).collect() };
    let mesh = of(&[
        "10.0.0.0/8",
        "10.1.0.0/16",
        "10.1.1.0/24",
        "10.2.0.0/16",
        "11.0.0.0/24",
    ]);
    let shown = |taken: &[&str]| -> Vec<String> {
        let routed = routed(&mesh, &of(taken));
        routed
            .iter()
            .map(|(prefix, taken)| format!("{prefix} {taken}"))
            .collect()
    };
    assert_eq!(
        shown(&["10.0.0.0/8", "10.1.1.0/24"]),
        ["10.0.0.0/8 true", "10.1.1.0/24 true", "11.0.0.0/24 false"]
    );
    assert_eq!(
        shown(&["10.1.0.0/16"]),
        [
            "10.0.0.0/8 false",
            "10.1.0.0/16 true",
            "10.2.0.0/16 false",
            "11.0.0.0/24 false"
        ]
    );
}

#[test]
fn a_kernel_without_ipv6_is_asked_for_none() {
    let own = Own {
        ipv6: false,
        ..own(&["10.99.0.1/32"])
    };
    let host = host(
        &Owned::of_peer(),
        &own,
        &[party(1, ENDPOINT, &["fd10::/64"])],
        &BTreeSet::new(),
        &BTreeSet::new(),
    );
    assert_eq!(shown(&host), Vec::<String>::new());
}

#[test]
fn when_the_leader_changes_the_new_one_gets_everything_before_the_old_one_goes() {
    let (owned, own) = (Owned::of_peer(), own(&["10.99.0.1/32"]));
    let before = host(
        &owned,
        &own,
        &[party(1, ENDPOINT, &["10.244.1.0/24"])],
        &BTreeSet::new(),
        &BTreeSet::new(),
    );
    let other = "203.0.113.12:51820";
    let after = host(
        &owned,
        &own,
        &[party(2, other, &["10.244.1.0/24"])],
        &BTreeSet::new(),
        &BTreeSet::new(),
    );
    let steps = diff(&before, &after);
    assert_eq!(steps.len(), 2, "{steps:?}");
    let Step::SetPeer(_, key, change) = &steps[0] else {
        panic!("{steps:?}")
    };
    assert_eq!(*key, PublicKey::new([2; 32]));
    assert_eq!(
        (change.endpoint, &change.add),
        (other.parse().ok(), &[p("10.244.1.0/24")].into())
    );
    assert_eq!(steps[1], Step::DeletePeer(owned.link, PublicKey::new([1; 32])));
}

#[test]
fn a_packet_is_as_large_as_the_way_to_the_leader_takes_and_no_smaller_than_ipv6_allows() {
    assert_eq!(
        [mtu(None), mtu(Some(1500)), mtu(Some(9000)), mtu(Some(576))],
        [1420, 1420, 8920, 1280]
    );
}

#[test]
fn where_the_network_of_a_leader_takes_less_the_routes_to_it_do() {
    let to = |number, prefix, mtu| Party {
        mtu,
        ..party(number, "", &[prefix])
    };
    let parties = [
        to(1, "10.244.1.0/24", Some(1492)),
        to(2, "10.244.2.0/24", Some(9001)),
        to(3, "10.244.3.0/24", None),
        to(4, "fd10::/64", Some(1400)),
    ];
    let host = host(
        &Owned::of_peer(),
        &own(&["10.99.0.1/32", "fd99::1/128"]),
        &parties,
        &BTreeSet::new(),
        &BTreeSet::new(),
    );
    let mtus: Vec<(String, Option<u32>)> = host
        .routes
        .iter()
        .filter(|(_, route)| route.kind != RouteKind::Unreachable)
        .map(|(key, route)| (key.prefix.to_string(), route.mtu))
        .collect();
    let expected = [
        ("10.244.1.0/24", Some(1412)),
        ("10.244.2.0/24", None),
        ("10.244.3.0/24", None),
        ("fd10::/64", Some(1320)),
    ];
    assert_eq!(mtus, expected.map(|(prefix, mtu)| (prefix.to_owned(), mtu)));
    assert_eq!(host.devices[&Owned::of_peer().link].mtu, 1420);
}

#[test]
fn of_the_leaders_of_a_location_the_smallest_network_counts() {
    let mut world = World::default();
    for line in [
        "location a active=1 standby=1",
        "node a1 region=a addresses=192.168.1.11 pods=10.244.1.0/24 key=1 endpoints=203.0.113.11:51820 mtu=1500",
        "node a2 region=a addresses=192.168.1.12 pods=10.244.2.0/24 key=2 endpoints=203.0.113.12:51820 mtu=1400",
        "node a3 region=a addresses=192.168.1.13 pods=10.244.3.0/24 key=3 mtu=1280",
        "peer p allowed=10.99.0.1 key=9 location=a",
    ] {
        world.line(line).unwrap();
    }
    let mesh = decide(&world.facts, &Mesh::default()).mesh;
    let found = attachments(&mesh, &"p".parse().unwrap()).unwrap();
    assert_eq!(found[0].mtu, Some(1400));
}

#[test]
fn the_first_leader_at_its_best_endpoint_comes_first_and_standby_leaders_come_last() {
    let mut world = World::default();
    for line in [
        "overlay 10.4.0.0/16",
        "location a active=1 standby=1 endpoint=vpn.example.com:51820",
        "node a1 region=a addresses=192.168.1.11 pods=10.244.1.0/24 key=1 endpoints=192.168.1.11:51820,203.0.113.11:51820",
        "node a2 region=a addresses=192.168.1.12 pods=10.244.2.0/24 key=2 endpoints=203.0.113.12:51820",
        "peer p allowed=10.99.0.1 key=9 location=a",
    ] {
        world.line(line).unwrap();
    }
    let mesh = decide(&world.facts, &Mesh::default()).mesh;
    let found = attachments(&mesh, &"p".parse().unwrap()).unwrap();
    let ways: Vec<String> = ways(&found[0])
        .iter()
        .map(|way| format!("{} {}", way.leader, way.endpoint))
        .collect();
    assert_eq!(ways[0], "a1 vpn.example.com:51820", "{ways:?}");
    assert_eq!(
        ways.last().map(String::as_str),
        Some("a2 203.0.113.12:51820"),
        "{ways:?}"
    );
    assert!(ways.contains(&"a1 203.0.113.11:51820".to_owned()), "{ways:?}");
}

#[test]
fn a_leader_that_is_known_is_where_it_was_last_heard_until_it_is_to_be_moved() {
    let (owned, own, key) = (Owned::of_peer(), own(&["10.99.0.1/32"]), PublicKey::new([1; 32]));
    let at = |endpoint: &str| {
        host(
            &owned,
            &own,
            &[party(1, endpoint, &["10.244.1.0/24"])],
            &BTreeSet::new(),
            &BTreeSet::new(),
        )
    };
    let endpoint = |wanted: Host| wanted.wireguard(&owned.link).unwrap().peers[&key].endpoint;
    let (actual, wanted) = (at("203.0.113.99:1"), at(ENDPOINT));
    assert_eq!(endpoint(settled(wanted.clone(), &actual, &BTreeSet::new())), None);
    assert_eq!(
        endpoint(settled(wanted.clone(), &actual, &[key].into())),
        ENDPOINT.parse().ok()
    );
    // One whose endpoint was never known, and a device that has gone.
    assert_eq!(
        endpoint(settled(wanted.clone(), &at(""), &BTreeSet::new())),
        ENDPOINT.parse().ok()
    );
    assert_eq!(
        endpoint(settled(wanted, &Host::default(), &BTreeSet::new())),
        ENDPOINT.parse().ok()
    );
}
