//! The hop on Calico: what its own routes say, and what counts where they say nothing.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use spanwire_host::{
    Cni, CniRoute, Conflict, HopReason, Host, HostFacts, Packet, RouteKind, conflicts, hop_in_use,
    hops_to_leaders, lookup, render,
};
use spanwire_topology::{Family, Plan, Prefix, Via};

use crate::samples::{
    calico::{ALWAYS, BARE, CROSS_SUBNET, IPIP, follower, leader_by, to},
    hop, link, node, prefix,
};

/// Returns the device and the neighbour by which a remote prefix is reached, and whether the neighbour counts as one unasked.
fn way((plan, facts): &(Plan, HostFacts), remote: &str) -> Option<(String, IpAddr, bool)> {
    let host = render(plan, facts);
    let mut routes = host.routes.iter().filter(|(key, _)| key.prefix == prefix(remote));
    routes.find_map(|(_, route)| {
        let RouteKind::Unicast { dev, via, onlink, .. } = &route.kind else {
            return None;
        };
        Some((dev.to_string(), (*via)?, *onlink))
    })
}

fn by(device: &str, neighbour: &str, onlink: bool) -> Option<(String, IpAddr, bool)> {
    Some((device.to_owned(), neighbour.parse().unwrap(), onlink))
}

const FAR: &str = "10.244.21.0/24";

/// Returns Calico's routes, to be changed.
fn routes(facts: &mut HostFacts) -> &mut BTreeMap<Prefix, CniRoute> {
    let Cni::Calico { routes, .. } = &mut facts.cni else {
        panic!("no Calico");
    };
    Arc::make_mut(routes)
}

#[test]
fn the_hop_is_the_way_of_calicos_own_route_to_the_leader() {
    for (mode, expected, reason) in [
        (
            &ALWAYS,
            by("vxlan.calico", "10.244.11.64", true),
            HopReason::CalicoRoute,
        ),
        (
            &CROSS_SUBNET,
            by("eth0", "192.168.1.1", false),
            HopReason::CalicoRoute,
        ),
        (&IPIP, by("tunl0", "192.168.1.1", true), HopReason::CalicoRoute),
        (
            &BARE,
            by("eth0", "192.168.1.1", false),
            HopReason::ConnectedNetwork,
        ),
    ] {
        let node = follower(mode);
        assert_eq!(way(&node, FAR), expected);
        let (plan, facts) = &node;
        assert_eq!(conflicts(plan, facts), []);
        let (device, _, _) = expected.unwrap();
        assert_eq!(hop_in_use(plan, facts), Some((link(&device), reason)));
    }
}

#[test]
fn in_another_subnet_a_leader_is_reached_by_vxlan() {
    let (mut plan, facts) = follower(&CROSS_SUBNET);
    for route in plan.routes.values_mut() {
        route.via = to(3, &CROSS_SUBNET);
    }
    assert_eq!(way(&(plan, facts), FAR), by("vxlan.calico", "10.244.13.64", true));
}

#[test]
fn a_tunnel_address_that_has_changed_is_taken_from_the_route_before_the_leader_reports_it() {
    let (plan, mut facts) = follower(&ALWAYS);
    let new: IpAddr = "10.244.11.66".parse().unwrap();
    for route in routes(&mut facts).values_mut() {
        if route.via == "10.244.11.64".parse::<IpAddr>().unwrap() {
            route.via = new;
        }
    }
    let node_and_facts = (plan, facts);
    assert_eq!(
        way(&node_and_facts, FAR),
        by("vxlan.calico", "10.244.11.66", true)
    );
    let (plan, facts) = &node_and_facts;
    assert_eq!(
        hops_to_leaders(plan, facts)[&(node("a1"), Family::V4)].neighbour,
        new
    );
    // What leaves by the hop to the new address is no stray packet.
    let table = render(plan, facts).nft.unwrap().to_string();
    let stray = table
        .lines()
        .find(|line| line.contains("rt ip nexthop"))
        .unwrap_or_default();
    assert!(stray.contains("10.244.11.66"), "{table}");
}

#[test]
fn without_a_route_of_calicos_its_device_counts_and_then_the_lan() {
    let (plan, mut facts) = follower(&ALWAYS);
    routes(&mut facts).clear();
    let mut found = (plan, facts);
    assert_eq!(way(&found, FAR), by("vxlan.calico", "10.244.11.64", true));
    assert_eq!(hop_in_use(&found.0, &found.1).unwrap().1, HopReason::CniDevice);
    // A leader in a pool that does not encapsulate has no such device.
    for route in found.0.routes.values_mut() {
        route.via = hop("a1", &[], &["192.168.1.1"]);
    }
    assert_eq!(way(&found, FAR), by("eth0", "192.168.1.1", false));
    let (plan, mut facts) = follower(&IPIP);
    routes(&mut facts).clear();
    assert_eq!(way(&(plan, facts), FAR), by("tunl0", "192.168.1.1", true));
}

#[test]
fn a_router_that_calico_sends_by_is_no_leader() {
    let (plan, mut facts) = follower(&CROSS_SUBNET);
    for route in routes(&mut facts).values_mut() {
        route.link = link("eth0");
        route.via = "192.168.1.254".parse().unwrap();
    }
    assert_eq!(way(&(plan, facts), FAR), by("vxlan.calico", "10.244.11.64", true));
}

#[test]
fn a_neighbour_outside_of_every_connected_network_is_reached_as_calico_reaches_it() {
    let (plan, mut facts) = follower(&CROSS_SUBNET);
    let eth0 = facts.links.get_mut(&link("eth0")).unwrap();
    eth0.addresses = [("192.168.1.2".parse().unwrap(), 32)].into();
    assert_eq!(way(&(plan, facts), FAR), by("eth0", "192.168.1.1", true));
}

#[test]
fn a_node_without_calicos_device_whose_leader_has_one_says_so() {
    let (plan, mut facts) = follower(&ALWAYS);
    facts.links.remove(&link("vxlan.calico"));
    facts.cni = Cni::Calico {
        links: BTreeMap::new(),
        routes: Arc::default(),
    };
    assert_eq!(
        conflicts(&plan, &facts),
        [Conflict::NoCniDevice { family: Family::V4 }]
    );
    assert_eq!(way(&(plan, facts), FAR), None);
}

#[test]
fn a_leader_takes_from_every_device_that_calico_reaches_its_location_by_and_returns_by_the_encapsulating_one()
{
    let (plan, facts) = leader_by(&CROSS_SUBNET);
    let host = render(&plan, &facts);
    let table = host.nft.as_ref().unwrap().to_string();
    assert!(
        table.contains(
            r#"iifname != { "eth0", "spanwire0", "vxlan.calico" } ip saddr @settled4 jump spoofed"#
        ),
        "{table}"
    );
    let back = |follower: &str| way_back(&plan, &facts, follower);
    assert_eq!(back("192.168.1.2"), None, "`main` has it");
    assert_eq!(back("192.168.1.3"), by("vxlan.calico", "10.244.13.64", true));
    // Where everything is encapsulated nothing of the mesh comes bare.
    let (plan, facts) = leader_by(&ALWAYS);
    let table = render(&plan, &facts).nft.unwrap().to_string();
    assert!(
        table.contains(r#"iifname != { "spanwire0", "vxlan.calico" } ip saddr @settled4 jump spoofed"#),
        "{table}"
    );
}

fn way_back(plan: &Plan, facts: &HostFacts, follower: &str) -> Option<(String, IpAddr, bool)> {
    assert!(plan.returns.values().all(|via| matches!(via, Via::Hop { .. })));
    way(&(plan.clone(), facts.clone()), follower)
}

#[test]
fn borrowed_addresses_go_where_their_pods_are_and_only_what_is_not_here_is_transit() {
    // Of the block of a1, which leads, b has an address, and a1 has one of the block of b.
    let (mut plan, facts) = leader_by(&ALWAYS);
    let (lent, borrowed) = (prefix("10.244.11.9"), prefix("10.244.21.9"));
    let to_b = plan.routes[&prefix(FAR)].clone();
    plan.routes.insert(lent, to_b);
    for peer in plan
        .tunnel
        .iter_mut()
        .flat_map(|tunnel| tunnel.peers.values_mut())
    {
        peer.allowed_ips.insert(lent);
    }
    plan.local.insert(borrowed);
    plan.own.insert(borrowed);
    let host = render(&plan, &facts);
    let is_tunnelled = |to: &str| {
        let packet = Packet {
            from: "10.244.11.3".parse().ok(),
            ..Packet::to(to.parse().unwrap())
        };
        matches!(lookup(&host, &packet), Some(RouteKind::Unicast { dev, .. }) if *dev == link("spanwire0"))
    };
    assert_eq!(
        ["10.244.11.8", "10.244.11.9", "10.244.21.8", "10.244.21.9"].map(is_tunnelled),
        [false, true, true, false]
    );
    // Conntrack sees what is for pods here, and nothing else: Calico drops an answer that it does not know to be one.
    let addresses = ["10.244.11.8", "10.244.11.9", "10.244.21.8", "10.244.21.9"];
    assert_eq!(
        addresses.map(|address| is_in(&host, "transit4", address)),
        [false, true, true, false]
    );
    // While the locations are not established what b has borrowed is no matter of what leaves the tunnel.
    assert_eq!(
        addresses.map(|address| is_in(&host, "here4", address)),
        [true, true, false, true]
    );
    plan.routes.clear();
    plan.lent.insert(lent);
    let host = render(&plan, &facts);
    assert_eq!(
        addresses.map(|address| is_in(&host, "here4", address)),
        [true, false, false, true]
    );
    // Elsewhere it is a hole in what is routed to the location of the block: the CNI may send it.
    let (mut plan, facts) = follower(&ALWAYS);
    plan.lent.insert(borrowed);
    let host = render(&plan, &facts);
    let ways = ["10.244.21.8", "10.244.21.9"].map(|to| {
        let way = lookup(&host, &Packet::to(to.parse().unwrap()));
        (
            matches!(way, Some(RouteKind::Unicast { .. })),
            is_in(&host, "settled4", to),
        )
    });
    assert_eq!(ways, [(true, true), (false, false)]);
}

/// Whether an address is in a set of the nft table.
fn is_in(host: &Host, set: &str, address: &str) -> bool {
    let table = host.nft.as_ref().unwrap();
    let set = table.sets.iter().find(|known| known.name() == set).unwrap();
    let address: IpAddr = address.parse().unwrap();
    let mut ranges = set.ranges().iter();
    ranges.any(|range| range.first() <= address && range.after().is_none_or(|after| address < after))
}
