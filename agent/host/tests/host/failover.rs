//! Nodes that observe different things of their leaders: what each machine does with a packet then, and what it changes.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use proptest::prelude::*;
use spanwire_host::{
    Cni, Host, HostFacts, Owned, Packet, Route, RouteKind, Step, WireGuard, diff, lookup, render,
};
use spanwire_topology::{
    Advice, Leader, LeaderRole, Location, LocationName, Member, Mesh, NodeName, PublicKey, Reachability, plan,
};

use crate::samples::{key, link, location, node, other_link, prefix};

/// Location, node, number. The first of a location is its active leader, the next are standby leaders but for the last.
const NODES: [(&str, &str, u8); 8] = [
    ("a", "a1", 1),
    ("a", "a2", 2),
    ("a", "a3", 3),
    ("a", "a4", 4),
    ("b", "b1", 5),
    ("b", "b2", 6),
    ("b", "b3", 7),
    ("c", "c1", 8),
];
/// More than any packet needs.
const LONGEST: usize = 10;

fn mesh() -> Mesh {
    let mut mesh = Mesh::default();
    for (name, of, number) in NODES {
        let here = mesh.locations.entry(location(name)).or_insert_with(|| Location {
            established: ["a", "b", "c"]
                .iter()
                .filter(|other| **other != name)
                .map(|other| location(other))
                .collect(),
            ..Location::default()
        });
        let role = match here.leaders.is_empty() {
            true => LeaderRole::Active,
            false => LeaderRole::Standby,
        };
        if !matches!(of, "a4" | "b3") {
            here.leaders.push(Leader { node: node(of), role });
        }
        here.members_mut().insert(node(of), member(number));
    }
    mesh
}

fn member(number: u8) -> Member {
    Member {
        addresses: [lan(number)].into(),
        prefixes: [prefix(&format!("10.244.{number}.0/24"))].into(),
        overlay: [IpAddr::from([10, 4, 0, number])].into(),
        hop: [IpAddr::from([10, 244, number, 0])].into(),
        public_key: Some(key(number)),
        listen_port: 51820,
        ..Member::default()
    }
}

fn lan(number: u8) -> IpAddr {
    let third = match place(number) {
        "a" => 1,
        "b" => 2,
        _ => 3,
    };
    IpAddr::from([192, 168, third, number])
}

fn facts(number: u8, groups: bool) -> HostFacts {
    let (lan, hop) = (lan(number).to_string(), format!("10.244.{number}.0"));
    HostFacts {
        public_key: Some(key(number)),
        groups,
        links: BTreeMap::from([
            (link("eth0"), other_link(1500, &[(&lan, 24)], false)),
            (link("flannel.1"), other_link(1450, &[(&hop, 32)], true)),
        ]),
        cni: Cni::Overlay {
            links: [link("flannel.1")].into(),
        },
        settled: ["a", "b", "c"].map(location).into(),
        ..HostFacts::default()
    }
}

/// What a node observes: of everything each time a bit of a number.
fn observed(mut bits: u64) -> Reachability {
    let mut seen = Reachability::default();
    let lies = lies(bits);
    let draining = lies.iter().filter(|(_, advice)| advice.draining);
    seen.observe_draining(draining.map(|(leader, _)| leader.clone()).collect());
    seen.observe_advice(lies);
    let mut bit = || {
        let bit = bits & 1 == 0;
        bits >>= 1;
        bit
    };
    for (own, leader, _) in NODES {
        for other in ["a", "b", "c"].into_iter().filter(|other| *other != own) {
            seen.observe(node(leader), location(other), bit());
        }
        seen.observe_far(location(own), node(leader), bit());
    }
    let cut = NODES.into_iter().filter(|_| !bit());
    seen.observe_cut(cut.map(|(_, of, _)| node(of)).collect());
    seen.observe_own_end(!bit());
    seen
}

/// What leaders say to a node that say whatever they like: which nodes they use, whether their WireGuard has groups, or nothing.
fn lies(bits: u64) -> BTreeMap<(LocationName, NodeName), Advice> {
    let advice = NODES.into_iter().filter_map(|(own, leader, number)| {
        let said = bits
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .rotate_left(u32::from(number) * 7);
        let uses = NODES.into_iter().filter(|(.., other)| said >> other & 1 == 0);
        let advice = Advice {
            uses: uses.map(|(_, other, _)| node(other)).collect(),
            groups: said >> 9 & 1 == 0,
            draining: said >> 11 & 1 == 0,
        };
        (said >> 10 & 1 == 0).then(|| ((location(own), node(leader)), advice))
    });
    advice.collect()
}

/// How a packet ends, and the nodes that it was on.
fn walk(hosts: &BTreeMap<NodeName, Host>, groups: bool, from: u8, to: u8) -> Result<Vec<u8>, String> {
    let address = |number: u8| IpAddr::from([10, 244, number, 7]);
    let mut way = vec![from];
    let mut arrival = link("cni0");
    while way.len() < LONGEST {
        let at = way[way.len() - 1];
        if at == to {
            return Ok(way);
        }
        let host = &hosts[&name_of(at)];
        let packet = Packet {
            iif: Some(arrival.clone()),
            from: Some(address(from)),
            ..Packet::to(address(to))
        };
        let next = match lookup(host, &packet) {
            Some(RouteKind::Unicast { dev, via, .. }) if *dev == Owned::default().link => {
                assert!(via.is_none());
                let peer = owner(wireguard(host), address(to)).ok_or(format!("{way:?}: no peer"))?;
                let next = NODES
                    .iter()
                    .find(|(_, _, number)| key(*number) == peer)
                    .unwrap()
                    .2;
                if !accepts(wireguard(&hosts[&name_of(next)]), groups, key(at), address(from)) {
                    return Err(format!("{way:?}: {next} refuses the source"));
                }
                next
            }
            Some(RouteKind::Unicast { via, .. }) => {
                let is_next = |number: &u8| Some(IpAddr::from([10, 244, *number, 0])) == *via;
                (1..=8).find(is_next).unwrap()
            }
            Some(other) => return Err(format!("{way:?}: {other:?}")),
            // The CNI's, inside a location.
            None if place(at) == place(to) => to,
            None => return Err(format!("{way:?}: plaintext")),
        };
        arrival = if place(at) == place(next) {
            link("flannel.1")
        } else {
            Owned::default().link
        };
        way.push(next);
    }
    Err(format!("{way:?}: goes round"))
}

fn name_of(number: u8) -> NodeName {
    node(NODES[usize::from(number) - 1].1)
}

fn place(number: u8) -> &'static str {
    NODES[usize::from(number) - 1].0
}

fn wireguard(host: &Host) -> &WireGuard {
    host.wireguard(&Owned::default().link).unwrap()
}

fn owner(device: &WireGuard, address: IpAddr) -> Option<PublicKey> {
    let mut peers = device.peers.iter();
    let found = peers.find(|(_, peer)| peer.allowed_ips.iter().any(|prefix| prefix.contains(address)));
    found.map(|(key, _)| *key)
}

fn accepts(device: &WireGuard, groups: bool, from: PublicKey, source: IpAddr) -> bool {
    let group = |key: &PublicKey| device.peers[key].group.clone();
    let owner = owner(device, source);
    owner == Some(from)
        || owner.is_some_and(|owner| groups && group(&owner).is_some() && group(&owner) == group(&from))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_nodes_observe_their_tables_send_no_packet_round_or_into_the_open(
        bits in proptest::array::uniform8(any::<u64>()),
        groups in any::<bool>(),
    ) {
        let hosts: BTreeMap<NodeName, Host> = NODES
            .into_iter()
            .zip(bits)
            .map(|(of, bits)| {
                let seen = observed(bits);
                let plan = plan(&mesh(), &node(of.1), &seen);
                let facts = HostFacts {
                    draining: seen.is_draining(),
                    ..facts(of.2, groups)
                };
                (node(of.1), render(&plan, &facts))
            })
            .collect();
        let apart = (1..=8).flat_map(|from| (1..=8).map(move |to| (from, to)));
        for (from, to) in apart.filter(|(from, to)| place(*from) != place(*to)) {
            match walk(&hosts, groups, from, to) {
                Ok(way) => {
                    let most = way.iter().map(|at| way.iter().filter(|other| *other == at).count()).max();
                    prop_assert!(most <= Some(if groups { 1 } else { 2 }), "{way:?}");
                }
                // The far side takes it from another leader alone.
                Err(why) => prop_assert!(!groups && why.ends_with("refuses the source"), "{why}"),
            }
        }
    }
}

/// Each leader sends to one behind itself: so nothing goes round.
#[test]
fn pods_of_a_node_that_the_leader_does_not_reach_get_theirs_by_the_one_beside_it() {
    let ways = |cut: &[(&str, &str)]| {
        let host = |(_, of, number): (&str, &str, u8)| {
            let mut seen = Reachability::default();
            let from_here = cut.iter().filter(|(leader, _)| *leader == of);
            seen.observe_cut(from_here.map(|(_, other)| node(other)).collect());
            (
                node(of),
                render(&plan(&mesh(), &node(of), &seen), &facts(number, true)),
            )
        };
        let hosts: BTreeMap<NodeName, Host> = NODES.into_iter().map(host).collect();
        [(8, 4), (8, 1), (1, 4), (4, 8)].map(|(from, to)| walk(&hosts, true, from, to).unwrap())
    };
    let published = [vec![8, 1, 4], vec![8, 1], vec![1, 4], vec![4, 1, 8]];
    assert_eq!(ways(&[]), published);
    let [_, rest @ ..] = published;
    let by = |second: u8| {
        let [leader, own, back] = rest.clone();
        [vec![8, 1, second, 4], leader, own, back]
    };
    assert_eq!(ways(&[("a1", "a4")]), by(2));
    let dead = ways(&[("a1", "a4"), ("a2", "a4"), ("a3", "a4")]);
    assert_eq!(dead[0], [8, 1, 2, 3, 4]);
    assert_eq!(ways(&[("a1", "a4"), ("a1", "a2")]), by(3));
}

#[test]
fn what_a_leader_does_not_reach_costs_a_route_with_and_without_a_device_of_the_cni() {
    for direct in [false, true] {
        let steps = steps("a1", direct, |seen| {
            seen.observe_cut([node("a4")].into());
        });
        let mut routes = Vec::new();
        for step in &steps {
            if let Step::SetRoute(key, route) = step {
                routes.push((key.prefix, &route.kind));
            }
        }
        let [(pods, RouteKind::Unicast { via, dev, .. })] = &routes[..] else {
            panic!("{direct}: {steps:?}")
        };
        assert_eq!(*pods, prefix("10.244.4.0/24"));
        let (to, by) = if direct {
            (lan(2), "eth0")
        } else {
            (IpAddr::from([10, 244, 2, 0]), "flannel.1")
        };
        assert_eq!((*via, dev), (Some(to), &link(by)));
        // Without a device of the CNI the way back of nodes is the one of `main`, and there was no rule.
        assert_eq!(steps.len(), if direct { 2 } else { 1 }, "{steps:?}");
    }
}

/// The leaders that find a location reached by no way pass nothing on to it, but for their own questions.
#[test]
fn what_is_sent_to_a_location_that_no_way_reaches_is_refused_by_the_first_leader_that_knows() {
    for (groups, relays) in [(true, false), (true, true), (false, false), (false, true)] {
        let mut seen = Reachability::default();
        // The active leader has chosen the one beside it, of which followers know nothing yet.
        seen.observe(node("a1"), location("b"), !relays);
        seen.observe_unreached([location("b")].into());
        let host = |(_, of, number): (&str, &str, u8)| {
            let seen = match of {
                "a1" | "a2" => &seen,
                _ => &Reachability::default(),
            };
            (
                node(of),
                render(&plan(&mesh(), &node(of), seen), &facts(number, groups)),
            )
        };
        let hosts: BTreeMap<NodeName, Host> = NODES.into_iter().map(host).collect();
        for from in 1..=4 {
            let end = walk(&hosts, groups, from, 7).unwrap_err();
            let refused_by = if from <= 2 { from } else { 1 };
            assert!(
                end.ends_with(&format!("{refused_by}]: Unreachable")),
                "{from}: {end}"
            );
            assert!(walk(&hosts, groups, from, 8).is_ok(), "c is reached from {from}");
        }
        for leader in 1..=2 {
            let question = Packet {
                from: Some(IpAddr::from([10, 4, 0, leader])),
                ..Packet::to(IpAddr::from([10, 4, 0, 5]))
            };
            let way = lookup(&hosts[&name_of(leader)], &question);
            let tunnel = Owned::default().link;
            assert!(
                matches!(&way, Some(RouteKind::Unicast { dev, .. }) if *dev == tunnel),
                "{leader}: {way:?}"
            );
        }
    }
}

/// Returns the steps that follow on a node from what it observes; with or without a device of the CNI.
fn steps(of: &str, direct: bool, observe: impl FnOnce(&mut Reachability)) -> Vec<Step> {
    let of = NODES.into_iter().find(|(_, name, _)| *name == of).unwrap();
    let machine = |seen: &Reachability| {
        let (mut mesh, mut facts) = (mesh(), facts(of.2, true));
        if direct {
            let members = mesh
                .locations
                .values_mut()
                .flat_map(|here| here.members_mut().values_mut());
            members.for_each(|member| member.hop.clear());
            facts.cni = Cni::Direct;
            facts.links.remove(&link("flannel.1"));
        }
        render(&plan(&mesh, &node(of.1), seen), &facts)
    };
    let mut seen = Reachability::default();
    let before = machine(&seen);
    observe(&mut seen);
    diff(&before, &machine(&seen))
}

#[test]
fn a_leader_moves_what_a_dead_one_carried_by_one_message() {
    let steps = steps("b1", false, |seen| {
        seen.observe_far(location("a"), node("a1"), false);
    });
    let [Step::SetPeer(_, to, change)] = &steps[..] else {
        panic!("{steps:?}")
    };
    assert_eq!(*to, key(2));
    assert_eq!(
        (change.add.len(), change.remove.len()),
        (8, 0),
        "pods and nodes of four members"
    );
}

#[test]
fn a_follower_and_a_leader_that_is_cut_off_change_routes_and_no_more() {
    for (of, direct, rules) in [
        ("a4", false, 0),
        ("a4", true, 0),
        ("a1", false, 2),
        ("a1", true, 2),
    ] {
        let steps = steps(of, direct, |seen| {
            seen.observe(node("a1"), location("b"), false);
        });
        let (mut routes, mut added) = (0, 0);
        for step in &steps {
            if let Step::SetRoute(key, route) = step {
                // Of b's, not of c's.
                let to = key.prefix.to_string();
                let of_b = [
                    "10.244.5",
                    "10.244.6",
                    "10.244.7",
                    "192.168.2",
                    "10.4.0.5",
                    "10.4.0.6",
                ];
                let known = matches!(route.kind, RouteKind::Unicast { .. } | RouteKind::Throw);
                assert!(
                    known && (of_b.iter().any(|of| to.starts_with(of)) || route.kind == RouteKind::Throw),
                    "{step}"
                );
                routes += 1;
            } else {
                assert!(matches!(step, Step::AddRule(_)), "{of}: {step}");
                added += 1;
            }
        }
        assert_eq!(added, rules, "{of}: {steps:?}");
        assert!(routes > 5, "{of}: {steps:?}");
    }
}

/// What begins on it goes by the one beside it at once. Followers are to notice, and lose nothing before.
#[test]
fn a_leader_that_drains_goes_on_with_what_a_hop_brings_and_withholds_answers_to_those_that_ask_through_it() {
    let hosts = |draining: bool| {
        let mut seen = Reachability::default();
        seen.observe_own_end(draining);
        let plan = plan(&mesh(), &node("a1"), &seen);
        let facts = HostFacts {
            draining,
            ..facts(1, true)
        };
        render(&plan, &facts)
    };
    let (before, draining) = (hosts(false), hosts(true));
    let brought = |address: [u8; 4]| Packet {
        iif: Some(link("flannel.1")),
        from: Some(lan(4)),
        ..Packet::to(IpAddr::from(address))
    };
    let from_overlay = |address: [u8; 4]| Packet {
        from: Some(IpAddr::from([10, 4, 0, 1])),
        ..Packet::to(IpAddr::from(address))
    };
    let by = |host: &Host, packet: &Packet| match lookup(host, packet) {
        Some(RouteKind::Unicast { dev, .. }) => dev.to_string(),
        other => format!("{other:?}"),
    };
    for far in [5, 6, 8] {
        let (pod, leader) = ([10, 244, far, 7], [10, 4, 0, far]);
        let own = Packet::to(IpAddr::from(pod));
        assert_eq!(by(&before, &own), "spanwire0");
        assert_eq!(by(&draining, &own), "flannel.1");
        for host in [&before, &draining] {
            assert_eq!(by(host, &brought(pod)), "spanwire0");
            assert_eq!(by(host, &from_overlay(leader)), "spanwire0", "it can speak");
        }
        assert_eq!(by(&before, &brought(leader)), "spanwire0");
        assert_eq!(by(&draining, &brought(leader)), "Some(Blackhole)");
    }
}

/// What is asked of the leaders elsewhere through the one beside it is answered from there, and to be taken.
#[test]
fn a_leader_that_has_no_tunnel_reaches_the_leaders_elsewhere_by_the_one_beside_it() {
    for (of, beside, lost) in [
        ("a1", 2, false),
        ("a1", 2, true),
        ("a2", 1, false),
        ("a2", 1, true),
    ] {
        let number = NODES.into_iter().find(|(_, name, _)| *name == of).unwrap().2;
        let mut seen = Reachability::default();
        seen.observe(node(of), location("b"), !lost);
        let plan = plan(&mesh(), &node(of), &seen);
        let facts = facts(number, true);
        let with = render(&plan, &facts);
        let without = HostFacts {
            lacks_tunnel: true,
            ..facts
        };
        let without = render(&plan, &without);
        // With the device the kernel drops the routes over it.
        let tunnel = Owned::default().link;
        let stays = |route: &Route| !matches!(&route.kind, RouteKind::Unicast { dev, .. } if *dev == tunnel);
        let left = without.routes.iter().filter(|(_, route)| stays(route));
        let left = left.map(|(key, route)| (*key, route.clone())).collect();
        let left = Host {
            routes: Arc::new(left),
            ..without.clone()
        };
        for far in [5, 6, 8] {
            let route = |host, third: [u8; 4]| lookup(host, &Packet::to(IpAddr::from(third))).cloned();
            let hop = RouteKind::Unicast {
                dev: link("flannel.1"),
                via: Some(IpAddr::from([10, 244, beside, 0])),
                onlink: true,
                src: Some(lan(number)),
            };
            assert_eq!(
                route(&without, [10, 4, 0, far]),
                Some(hop),
                "{of} to the leader {far}"
            );
            let brought = Packet {
                iif: Some(link("flannel.1")),
                from: Some(lan(3)),
                ..Packet::to(IpAddr::from([10, 4, 0, far]))
            };
            assert_eq!(
                lookup(&left, &brought),
                Some(&RouteKind::Blackhole),
                "the one beside it may have none either"
            );
            let pod = [10, 244, far, 7];
            let by_tunnel =
                |route: &RouteKind| matches!(route, RouteKind::Unicast { dev, .. } if *dev == tunnel);
            let decided = match route(&with, pod) {
                Some(way) if by_tunnel(&way) => Some(RouteKind::Unreachable),
                decided => decided,
            };
            assert_eq!(route(&without, pod), decided, "what it observes decides");
            let brought = Packet {
                iif: Some(link("flannel.1")),
                from: Some(lan(3)),
                ..Packet::to(IpAddr::from(pod))
            };
            let refused = lookup(&without, &brought);
            assert_eq!(
                refused,
                Some(&RouteKind::Unreachable),
                "{of} {far}: it goes no further"
            );
        }
    }
}

/// Of what is behind the leaders elsewhere, too: else a relayed leader would never hear again that they are of use, and what it
/// asks would be answered to the address of the one beside it.
#[test]
fn what_a_leader_asks_from_its_overlay_address_goes_into_its_own_tunnels_whatever_it_has_chosen() {
    for (of, usable) in [("a1", true), ("a1", false), ("a2", true), ("a2", false)] {
        let number = NODES.into_iter().find(|(_, name, _)| *name == of).unwrap().2;
        let mut seen = Reachability::default();
        seen.observe(node(of), location("b"), usable);
        let host = render(&plan(&mesh(), &node(of), &seen), &facts(number, true));
        for to in [[10, 4, 0, 5], [192, 168, 2, 7], [10, 244, 7, 7]] {
            let packet = Packet {
                from: Some(IpAddr::from([10, 4, 0, number])),
                ..Packet::to(IpAddr::from(to))
            };
            let tunnel = matches!(lookup(&host, &packet), Some(RouteKind::Unicast { dev, .. }) if *dev == link("spanwire0"));
            assert!(tunnel, "{of} {usable} to {to:?}");
        }
    }
}
