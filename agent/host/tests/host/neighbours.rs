//! Networks of others on a node, and what they may take from the mesh.

use std::sync::Arc;

use spanwire_host::{
    Conflict, Direction, Elsewhere, Host, HostFacts, MarkChange, Match, OtherRule, Packet, RouteKind,
    TableFamily, conflicts, lookup, render,
};
use spanwire_topology::{Holder, Plan, Via};

use crate::samples::{
    self, direct_follower, follower, leader, link, location, other_link, prefix, prefixes, settled_leader,
    standby,
};

/// Who brings a network: a LAN, a VPN, Docker, a CNI.
const DEVICES: [(&str, bool); 4] = [
    ("eth1", false),
    ("wg-home", false),
    ("docker0", true),
    ("cni9", true),
];

fn with_network(facts: &HostFacts, (name, cni): (&str, bool), address: &str, length: u8) -> HostFacts {
    let mut facts = facts.clone();
    let other = other_link(1500, &[(address, length)], cni);
    facts.links.insert(link(name), other);
    facts
}

fn way<'a>(host: &'a Host, to: &str) -> Option<&'a RouteKind> {
    lookup(host, &Packet::to(to.parse().unwrap()))
}

fn leaves_by(host: &Host, to: &str) -> String {
    match way(host, to) {
        Some(RouteKind::Unicast { dev, .. }) => dev.to_string(),
        other => format!("{other:?}"),
    }
}

/// Returns the nft table without the addresses of the node that are not the mesh's.
fn filters(plan: &Plan, facts: &HostFacts) -> String {
    let text = render(plan, facts).nft.unwrap().to_string();
    let mut parts = text.split("\tset private4 {");
    let (before, rest) = (parts.next().unwrap(), parts.next());
    let after = rest.map_or("", |rest| rest.split_once("\n\t}\n").unwrap().1);
    let lines = before.lines().chain(after.lines());
    lines
        .filter(|line| !line.contains("@private4"))
        .map(|line| format!("{line}\n"))
        .collect()
}

#[test]
fn a_network_with_a_shorter_mask_takes_nothing_from_the_mesh() {
    let nodes: [(&str, (Plan, HostFacts)); 5] = [
        ("leader", leader()),
        ("settled leader", settled_leader()),
        ("follower", follower()),
        ("follower in the LAN", direct_follower()),
        ("standby", standby()),
    ];
    for (name, (plan, facts)) in nodes {
        for device in DEVICES {
            for (address, length) in [
                ("10.0.0.5", 8),
                ("10.244.0.5", 16),
                ("10.244.22.5", 23),
                ("1.2.3.4", 1),
            ] {
                // Where 10.0.0.0/8 is b's, a network inside it is another matter.
                if plan.routes.contains_key(&prefix("10.0.0.0/8")) && length >= 8 {
                    continue;
                }
                let other = with_network(&facts, device, address, length);
                let what = format!("{name}, {address}/{length} on {}", device.0);
                assert_eq!(conflicts(&plan, &other), conflicts(&plan, &facts), "{what}");
                assert_eq!(
                    render(&plan, &other).routes,
                    render(&plan, &facts).routes,
                    "{what}"
                );
                assert_eq!(filters(&plan, &other), filters(&plan, &facts), "{what}");
            }
        }
    }
}

#[test]
fn a_network_that_is_a_remote_prefix_stays_on_its_device_and_takes_no_other_way() {
    for (plan, facts) in [settled_leader(), follower(), direct_follower()] {
        for device in DEVICES {
            let facts = with_network(&facts, device, "10.244.21.9", 24);
            let mut host = render(&plan, &facts);
            assert_eq!(leaves_by(&host, "10.244.21.7"), device.0);
            assert_ne!(leaves_by(&host, "10.244.22.7"), device.0);
            let text: Vec<String> = conflicts(&plan, &facts).iter().map(ToString::to_string).collect();
            let expected = format!(
                "10.244.21.0/24 of location b is connected here, too, by {}: it stays on that device and is not routed into \
                 the mesh; give one of the two sites other addresses",
                device.0
            );
            assert_eq!(text, [expected]);
            // Its device goes: not even then by the CNI's own route.
            let routes = std::sync::Arc::make_mut(&mut host.routes);
            routes.retain(
                |_, route| !matches!(&route.kind, RouteKind::Unicast { dev, .. } if dev.as_str() == device.0),
            );
            assert_eq!(way(&host, "10.244.21.7"), Some(&RouteKind::Unreachable));
        }
    }
}

#[test]
fn a_network_inside_a_remote_prefix_is_a_hole_in_it_and_is_reported_unless_it_is_the_lan_of_the_location() {
    let (mut plan, facts) = leader();
    for text in ["172.16.0.0/12", "192.168.0.0/16"] {
        let route = spanwire_topology::Route {
            via: Via::Tunnel,
            location: location("b"),
            holder: Holder::Others,
        };
        plan.routes.insert(prefix(text), route);
    }
    assert_eq!(conflicts(&plan, &facts), []);
    for device in DEVICES {
        let other = with_network(&facts, device, "172.17.0.1", 16);
        let host = render(&plan, &other);
        assert_eq!(way(&host, "172.17.0.2"), None, "{device:?}");
        assert_eq!(leaves_by(&host, "172.18.0.2"), "spanwire0", "{device:?}");
        assert_eq!(leaves_by(&host, "192.168.9.2"), "spanwire0", "{device:?}");
        assert_eq!(way(&host, "192.168.1.9"), None, "{device:?}");
        let conflict = Conflict::Inside {
            network: prefix("172.17.0.0/16"),
            link: link(device.0),
            prefix: prefix("172.16.0.0/12"),
            location: location("b"),
        };
        assert_eq!(conflicts(&plan, &other), [conflict], "{device:?}");
        // What the location has of it does not matter.
        let mut known = plan.clone();
        known.local.extend(prefixes(&["172.17.0.0/16"]));
        assert_eq!(conflicts(&known, &other), [], "{device:?}");
    }
}

#[test]
fn the_address_of_a_remote_node_in_a_network_is_unreachable_and_pods_are_not() {
    let all = [leader(), follower(), direct_follower(), standby()];
    for (plan, facts) in all {
        let before = render(&plan, &facts);
        for (length, count) in [(16, 2), (31, 1)] {
            let address = if length == 16 {
                "192.168.0.5"
            } else {
                "192.168.2.3"
            };
            let other = with_network(&facts, DEVICES[0], address, length);
            let host = render(&plan, &other);
            assert_eq!(way(&host, "192.168.2.2"), Some(&RouteKind::Unreachable));
            assert_eq!(way(&host, "10.244.21.7"), way(&before, "10.244.21.7"));
            assert_eq!(
                way(&host, "192.168.2.1") == way(&before, "192.168.2.1"),
                count == 1
            );
            let text = conflicts(&plan, &other);
            assert!(
                matches!(&text[..], [Conflict::Nodes { count: found, .. }] if *found == count),
                "{text:?}"
            );
            assert!(
                text[0].to_string().contains("correct the mask of eth1"),
                "{}",
                text[0]
            );
        }
    }
}

/// A kubelet writes the addresses of its node, and could take its DNS and its way out from every site whose router's address it knows.
#[test]
fn the_router_of_a_node_stays_where_it_is_whatever_a_node_elsewhere_says_that_it_has() {
    for (plan, facts) in [settled_leader(), follower(), direct_follower()] {
        let eth1 = ("eth1", false);
        let mut facts = with_network(&facts, eth1, "192.168.2.9", 24);
        assert_eq!(
            leaves_by(&render(&plan, &facts), "192.168.2.1"),
            "Some(Unreachable)"
        );
        facts.routers = ["192.168.2.1".parse().unwrap()].into();
        let host = render(&plan, &facts);
        assert_eq!(leaves_by(&host, "192.168.2.1"), "eth1");
        assert_eq!(leaves_by(&host, "192.168.2.2"), "Some(Unreachable)");
        let router = Conflict::Router {
            prefix: prefix("192.168.2.1"),
            location: location("b"),
            network: prefix("192.168.2.0/24"),
        };
        assert!(conflicts(&plan, &facts).contains(&router));
        // One that is in no network connected here is no neighbour.
        let elsewhere = with_network(&facts, eth1, "192.168.7.9", 24);
        assert_ne!(leaves_by(&render(&plan, &elsewhere), "192.168.2.1"), "eth1");
    }
}

/// So could it take all of a site's questions for names: the resolver of a cloud is at one address, for all of its subnets.
#[test]
fn the_resolvers_of_a_node_are_asked_past_the_mesh_whatever_a_node_elsewhere_says_that_it_has() {
    for (plan, facts) in [settled_leader(), follower(), direct_follower()] {
        let mut facts = facts;
        let routed = leaves_by(&render(&plan, &facts), "192.168.2.1");
        assert_ne!(routed, "None");
        facts.resolvers = ["192.168.2.1", "10.244.21.9", "8.8.8.8"]
            .map(|text| text.parse().unwrap())
            .into();
        let resolver = Conflict::Resolver {
            prefix: prefix("192.168.2.1"),
            location: location("b"),
        };
        let host = render(&plan, &facts);
        assert_eq!(leaves_by(&host, "192.168.2.1"), "None", "as without the mesh");
        assert_ne!(leaves_by(&host, "192.168.2.2"), "None");
        assert_ne!(
            leaves_by(&host, "10.244.21.9"),
            "None",
            "a pod is no claim of a node"
        );
        assert_eq!(conflicts(&plan, &facts), std::slice::from_ref(&resolver));
        let settled = host
            .nft
            .unwrap()
            .sets
            .into_iter()
            .find(|set| set.name() == "settled4");
        let settled = settled.map(|set| set.to_string()).unwrap_or_default();
        assert!(!settled.contains("192.168.2.1"), "{settled}");
        // In a network that is connected here it is the neighbour.
        let connected = with_network(&facts, ("eth1", false), "192.168.2.9", 24);
        let host = render(&plan, &connected);
        assert_eq!(leaves_by(&host, "192.168.2.1"), "eth1");
        assert!(conflicts(&plan, &connected).contains(&resolver));
    }
}

#[test]
fn overlay_addresses_and_those_of_peers_are_no_neighbours() {
    let (plan, facts) = samples::with_peers();
    let other = with_network(&facts, DEVICES[0], "10.0.0.5", 8);
    assert_eq!(conflicts(&plan, &other), []);
    let host = render(&plan, &other);
    for address in ["10.9.0.1", "10.4.0.21"] {
        assert_eq!(leaves_by(&host, address), "spanwire0");
    }
}

#[test]
fn a_leader_is_looked_for_in_the_network_with_the_longest_mask() {
    let (plan, facts) = direct_follower();
    let other = with_network(&facts, ("ens9", false), "192.168.1.200", 23);
    assert_eq!(render(&plan, &other), render(&plan, &facts));
    assert_eq!(leaves_by(&render(&plan, &other), "10.244.21.7"), "eth0");
}

fn by_port(host: &Host) -> bool {
    host.rules
        .iter()
        .any(|rule| rule.selector.sport.is_some() && rule.selector.iif.is_some())
}

#[test]
fn datagrams_are_known_by_their_port_where_others_may_change_their_mark_and_not_otherwise() {
    let (plan, facts) = settled_leader();
    let change = |sets, clears| MarkChange { sets, clears };
    let all = [Elsewhere::Prerouting, Elsewhere::Output];
    let [v4, v6] = [TableFamily::Ip, TableFamily::Ip6];
    // With whether rules, and the nft table at last, know them by their port alone.
    for (change, hooks, family, device, routed, sent) in [
        (change(5, !5), &all[..], v4, "eth0", true, true),
        (
            change(0x100, 0),
            &all[..1],
            TableFamily::Inet,
            "eth0",
            true,
            false,
        ),
        (change(0x100, 0), &all[1..], v4, "eth0", true, true),
        (change(0, 0xff00), &all[..], v4, "eth0", true, true),
        // Calico's, kube-proxy's, the other family's, and what is for other devices.
        (change(0, 0xf_0000), &all[..], v4, "eth0", false, false),
        (change(0x4000, 0), &all[..], v4, "eth0", false, false),
        (change(5, !5), &all[..], v6, "eth0", false, true),
        (change(5, !5), &all[..], v4, "cali7", false, false),
        (change(5, !5), &[Elsewhere::Postrouting], v4, "eth0", false, true),
    ] {
        let mut facts = facts.clone();
        facts.uplinks.insert(link("eth0"));
        for (at, mut filters) in samples::changed_marks() {
            let filter = &mut Arc::make_mut(&mut filters)[0];
            let direction = if at == Elsewhere::Prerouting {
                Direction::In
            } else {
                Direction::Out
            };
            filter.name.family = family;
            filter.rules[0].marks = change;
            filter.rules[0].matches = vec![Match::Device {
                direction,
                names: vec![device.to_owned()],
                not: false,
            }];
            facts.elsewhere.insert(at, filters);
        }
        facts.elsewhere.retain(|at, _| hooks.contains(at));
        let what = format!("{change:x?} {hooks:?} {family} {device}");
        assert_eq!(by_port(&render(&plan, &facts)), routed, "{what}");
        let text = render(&plan, &facts).nft.unwrap().to_string();
        let marked = text.contains("meta mark & 0x00002000 == 0x00002000 udp sport 51820");
        assert_eq!(!marked, sent, "{what}");
    }
}

#[test]
fn an_inverted_rule_for_marks_chooses_among_what_is_marked_unless_it_is_for_all_that_is_not() {
    let (plan, facts) = samples::with_uplinks(settled_leader());
    for (mark, expected) in [((0, 0xff00), true), ((0xca6c, u32::MAX), false)] {
        let mut facts = facts.clone();
        let of_uplink = facts.rules.pop_first().unwrap();
        facts.rules.insert(OtherRule {
            mark: Some(mark),
            inverted: true,
            ..of_uplink
        });
        assert_eq!(by_port(&render(&plan, &facts)), expected, "{mark:x?}");
    }
}

#[test]
fn marks_of_others_keep_no_datagram_of_the_tunnel_from_its_uplink() {
    let sent = |protocol, sport, mark| Packet {
        protocol: Some(protocol),
        sport: Some(sport),
        mark,
        // An endpoint that lies in the mesh.
        ..Packet::to("192.168.2.1".parse().unwrap())
    };
    let (plan, facts) = settled_leader();
    for (facts, apart) in [
        (facts.clone(), false),
        (samples::with_uplinks((plan.clone(), facts)).1, true),
    ] {
        let host = render(&plan, &facts);
        let past = |packet: &Packet| lookup(&host, packet).is_none();
        assert!(past(&sent(17, 51_820, 0x2000)));
        // With the bit of an uplink beside the tunnel's, or instead of it.
        for mark in [0x2200, 0x200] {
            assert_eq!(past(&sent(17, 51_820, mark)), apart);
        }
        // NetBird's, kube-proxy's, and what another program marks.
        for (protocol, sport, mark) in [(17, 51_821, 0x1_bd21), (6, 51_820, 0x2200), (17, 53, 0x4000)] {
            assert!(
                !past(&sent(protocol, sport, mark)),
                "{protocol} {sport} {mark:#x}"
            );
        }
        let forwarded = Packet {
            iif: Some(link("cni0")),
            ..sent(17, 51_820, 0x2200)
        };
        assert!(!past(&forwarded));
    }
}
