//! A location with a VXLAN of its own.

use spanwire_host::{
    Conflict, DeviceKind, HopReason, Host, Packet, RouteKind, conflicts, hop_in_use, hops_to_leaders,
    hops_to_members, lookup, render,
};
use spanwire_topology::{Family, MacAddress, Near};

use crate::samples::{self, addresses, link, node, prefix};

fn packet(iif: Option<&str>, from: &str, to: &str) -> Packet {
    Packet {
        iif: iif.map(link),
        from: from.parse().ok(),
        ..Packet::to(to.parse().unwrap())
    }
}

/// The device and the next hop by which a packet goes.
fn way(host: &Host, packet: &Packet) -> Option<(String, Option<String>)> {
    match lookup(host, packet)? {
        RouteKind::Unicast { dev, via, .. } => Some((dev.to_string(), via.map(|via| via.to_string()))),
        RouteKind::Throw | RouteKind::Unreachable | RouteKind::Blackhole => None,
    }
}

fn by(dev: &str, via: Option<&str>) -> Option<(String, Option<String>)> {
    Some((dev.to_owned(), via.map(str::to_owned)))
}

#[test]
fn followers_send_over_it_and_leaders_hand_on_what_comes_from_elsewhere_to_pods_too() {
    let (plan, facts) = samples::vxlan::follower();
    let follower = render(&plan, &facts);
    for to in ["10.244.21.9", "192.168.2.1", "10.4.0.21"] {
        let there = packet(None, "10.244.12.9", to);
        assert_eq!(
            way(&follower, &there),
            by("spanwire-hop", Some("10.4.0.11")),
            "{to}"
        );
    }
    assert_eq!(way(&follower, &packet(None, "10.244.12.9", "10.244.11.9")), None);

    let (plan, facts) = samples::vxlan::leader();
    let leader = render(&plan, &facts);
    for to in ["192.168.1.2", "10.244.12.9"] {
        for iif in ["spanwire0", "spanwire-hop"] {
            let back = packet(Some(iif), "10.244.21.9", to);
            assert_eq!(way(&leader, &back), by("spanwire-hop", Some("10.4.0.12")), "{to}");
        }
        // Within the location it goes as without Spanwire.
        assert_eq!(way(&leader, &packet(None, "10.244.11.9", to)), None, "{to}");
    }
    let brought = packet(Some("spanwire-hop"), "10.244.12.9", "10.244.21.9");
    assert_eq!(way(&leader, &brought), by("spanwire0", None));
}

#[test]
fn what_another_location_has_borrowed_of_a_followers_network_leaves_the_tunnel_into_it_again() {
    let (mut plan, facts) = samples::vxlan::leader();
    let to_b = plan.routes[&prefix("10.244.21.0/24")].clone();
    plan.routes.insert(prefix("10.244.12.9"), to_b);
    let leader = render(&plan, &facts);
    for (to, expected) in [
        ("10.244.12.8", by("spanwire-hop", Some("10.4.0.12"))),
        ("10.244.12.9", by("spanwire0", None)),
    ] {
        let of_peer = packet(Some("spanwire0"), "10.9.0.1", to);
        assert_eq!(way(&leader, &of_peer), expected, "{to}");
    }
}

#[test]
fn the_reason_says_so_and_probes_go_to_an_address_that_answers() {
    let (plan, facts) = samples::vxlan::follower();
    assert_eq!(
        hop_in_use(&plan, &facts),
        Some((link("spanwire-hop"), HopReason::OwnVxlan))
    );
    let hop = &hops_to_leaders(&plan, &facts)[&(node("a1"), Family::V4)];
    assert_eq!(hop.link, link("spanwire-hop"));
    assert_eq!(hop.neighbour.to_string(), "10.4.0.11");
    let mac = MacAddress::new([0x0a, 0x57, 10, 4, 0, 11]);
    assert_eq!(hop.answers_at, Some(("192.168.1.1".parse().unwrap(), mac)));

    let (mut plan, facts) = samples::vxlan::leader();
    plan.probes.members = vec![Near {
        node: node("a2"),
        hop: addresses(&[]).into(),
        addresses: addresses(&["192.168.1.2"]).into(),
    }];
    let hop = &hops_to_members(&plan, &facts)[&(node("a2"), Family::V4)];
    assert_eq!(hop.answers_at.unwrap().0.to_string(), "192.168.1.2");
}

#[test]
fn it_is_as_large_as_the_lan_allows() {
    for (mtu, expected, route) in [
        (1500, 1450, Some(1420)),
        (9001, 8951, Some(1420)),
        (1460, 1410, None),
    ] {
        let (plan, mut facts) = samples::vxlan::follower();
        facts.links.get_mut(&link("eth0")).unwrap().mtu = mtu;
        let host = render(&plan, &facts);
        assert_eq!(host.devices[&link("spanwire-hop")].mtu, expected);
        let (_, to_b) = host
            .routes
            .iter()
            .find(|(key, _)| key.prefix == prefix("10.244.21.0/24"))
            .unwrap();
        assert_eq!(to_b.mtu, route, "{mtu}");
    }
}

#[test]
fn datagrams_are_taken_from_those_alone_and_sent_to_nothing_else() {
    let (plan, facts) = samples::vxlan::follower();
    let text = render(&plan, &facts).nft.unwrap().to_string();
    let leaders = "set nearby4 {\n\t\ttype ipv4_addr\n\t\tflags interval\n\t\telements = {\n\t\t\t192.168.1.1,\n\t\t\t192.168.1.3\n";
    assert!(text.contains(leaders), "{text}");
    let (plan, facts) = samples::vxlan::leader();
    let text = render(&plan, &facts).nft.unwrap().to_string();
    assert!(text.contains("192.168.1.2/31"), "{text}");
    // The address of the device is none that the other side of a tunnel reaches.
    let private = text.split("set private4").nth(1).unwrap();
    let (private, _) = private.split_once("\tset ").unwrap();
    assert!(private.contains("169.254.51.83"), "{private}");
    // Before anything is let out by its mark.
    let wrapped = text.find("ip daddr != @nearby4").unwrap();
    let marked = text
        .find("udp sport 51820 fib saddr type local meta mark set")
        .unwrap();
    assert!(wrapped < marked, "{text}");
}

#[test]
fn who_has_no_address_for_it_takes_no_part_and_says_so() {
    let (plan, mut facts) = samples::vxlan::follower();
    facts.links.get_mut(&link("eth0")).unwrap().addresses.clear();
    let host = render(&plan, &facts);
    assert!(host.devices.is_empty());
    let outside = Conflict::OutsideVxlan {
        node: node("a1"),
        family: Family::V4,
    };
    assert_eq!(conflicts(&plan, &facts), [outside]);
    let ways = host.nft.unwrap().to_string();
    assert!(!ways.contains("flannel.1"), "{ways}");
}

#[test]
fn a_node_that_is_alone_has_no_device() {
    let (mut plan, facts) = samples::vxlan::leader();
    plan.vxlan.as_mut().unwrap().peers.clear();
    plan.returns.clear();
    let devices = render(&plan, &facts).devices;
    let vxlan = devices
        .values()
        .filter(|device| matches!(device.kind, DeviceKind::Vxlan(_)));
    assert_eq!(vxlan.count(), 0);
}
