//! Which way the kernel sends a packet, judged by what is set up by hand.

use std::time::Duration;

use spanwire_host::{PeerChange, Protocol, Step, Transport};
use spanwire_kernel::{Packet, Way, WayOut};
use spanwire_testbed::wait_until;
use spanwire_topology::PublicKey;

use crate::lab::{Lab, lab, link, p, run};

const NEAR: PublicKey = PublicKey::new([1; 32]);
const WIDE: PublicKey = PublicKey::new([2; 32]);

fn packet(source: &str, destination: &str) -> Packet {
    Packet {
        source: p(source),
        destination: p(destination),
        transport: None,
        from_tunnel: false,
        from_hop: false,
        answers: false,
    }
}

async fn nowhere(lab: &mut Lab, packet: Packet) -> String {
    match lab.kernel.way(&packet).await.unwrap() {
        Way::Nowhere(why) => why,
        other @ (Way::Here | Way::Out(_)) => panic!("{packet:?}: {other:?}"),
    }
}

/// A node with pods behind `pods`, a LAN, and forwarding.
fn node() {
    run("ip link set lo up
        sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
        ip link add lan type veth peer name far && ip link set lan up && ip link set far up
        ip link add pods type bridge && ip link set pods up
        ip addr add 10.1.0.5/24 dev lan && ip addr add fd01::5/64 dev lan nodad
        ip addr add 10.244.1.1/24 dev pods && ip addr add fd10:1::1/64 dev pods nodad
        ip route add default via 10.1.0.1 && ip -6 route add default via fd01::1");
    // Linux has an IPv6 address for its own a moment later, from a work queue, also where nothing has to be detected (`nodad`).
    wait_until("the addresses are the node's own", Duration::from_secs(5), || {
        let own = run("ip -6 route show table local");
        ["fd01::5", "fd10:1::1"]
            .iter()
            .all(|address| own.contains(&format!("local {address} ")))
    });
}

#[test]
fn what_the_node_has_and_what_its_neighbours_have() {
    lab(async |lab| {
        node();
        for (source, own, pod, out, gateway) in [
            ("10.1.0.5", "10.244.1.1", "10.244.1.7", "192.0.2.1", "10.1.0.1"),
            ("fd01::5", "fd10:1::1", "fd10:1::7", "2001:db8::1", "fd01::1"),
        ] {
            assert_eq!(lab.kernel.way(&packet(source, own)).await.unwrap(), Way::Here);
            let mut expected = WayOut {
                device: link("pods"),
                via: None,
                table: 254,
                mtu: 1500,
                tunnel: false,
                peer: None,
            };
            let way = lab.kernel.way(&packet(source, pod)).await.unwrap();
            assert_eq!(way, Way::Out(expected.clone()));
            expected.device = link("lan");
            expected.via = Some(p(gateway));
            for source in [source, pod] {
                let way = lab.kernel.way(&packet(source, out)).await.unwrap();
                assert_eq!(way, Way::Out(expected.clone()), "{source}");
            }
        }
    });
}

#[test]
fn a_rule_by_the_device_that_a_packet_comes_in_by_counts() {
    lab(async |lab| {
        node();
        run(
            "ip rule add pref 50 iif pods lookup 7000 && ip -6 rule add pref 50 iif pods lookup 7000
            ip route add 192.0.2.0/24 via 10.1.0.9 table 7000 mtu 1300
            ip -6 route add 2001:db8::/32 via fd01::9 table 7000 mtu 1300",
        );
        for (pod, node, out, via) in [
            ("10.244.1.7", "10.1.0.5", "192.0.2.1", "10.1.0.9"),
            ("fd10:1::7", "fd01::5", "2001:db8::1", "fd01::9"),
        ] {
            let Way::Out(way) = lab.kernel.way(&packet(pod, out)).await.unwrap() else {
                panic!("{pod} does not get out");
            };
            assert_eq!((way.table, way.mtu, way.via), (7000, 1300, Some(p(via))));
            let Way::Out(way) = lab.kernel.way(&packet(node, out)).await.unwrap() else {
                panic!("{node} does not get out");
            };
            assert_eq!(
                (way.table, way.mtu),
                (254, 1500),
                "it begins here, and comes in by no device"
            );
        }
    });
}

#[test]
fn what_goes_nowhere_says_why() {
    lab(async |lab| {
        node();
        run(
            "ip route add unreachable 192.0.2.0/25 && ip -6 route add unreachable 2001:db8:1::/48
            ip route add prohibit 192.0.2.128/25 && ip -6 route add prohibit 2001:db8:2::/48",
        );
        for (source, unreachable, prohibit) in [
            ("10.1.0.5", "192.0.2.1", "192.0.2.129"),
            ("10.244.1.7", "192.0.2.1", "192.0.2.129"),
            ("fd01::5", "2001:db8:1::1", "2001:db8:2::1"),
            ("fd10:1::7", "2001:db8:1::1", "2001:db8:2::1"),
        ] {
            assert_eq!(
                nowhere(lab, packet(source, unreachable)).await,
                "an unreachable route"
            );
            assert_eq!(nowhere(lab, packet(source, prohibit)).await, "a prohibit route");
        }
        run("ip route del default && ip -6 route del default");
        assert_eq!(nowhere(lab, packet("10.1.0.5", "198.51.100.1")).await, "no route");
        assert_eq!(nowhere(lab, packet("fd01::5", "2001:db8:9::1")).await, "no route");
        let why = nowhere(lab, packet("198.51.100.1", "10.244.1.7")).await;
        assert!(why.contains("no way to its sender 198.51.100.1"), "{why}");
        let why = nowhere(
            lab,
            Packet {
                from_tunnel: true,
                from_hop: false,
                answers: false,
                ..packet("10.9.0.1", "10.244.1.7")
            },
        )
        .await;
        assert!(why.contains("no tunnel"), "{why}");
    });
}

#[test]
fn rules_on_protocols_and_ports_decide_where_these_are_known() {
    lab(async |lab| {
        node();
        let carrying = |protocol, destination_port| {
            Some(Transport {
                protocol,
                source_port: None,
                destination_port,
            })
        };
        for (from, to, own) in [
            ("10.244.1.7", "198.51.100.1", ""),
            ("fd10:1::7", "2001:db8:9::1", "-6 "),
        ] {
            run(&format!(
                "ip {own}rule add pref 100 ipproto tcp dport 443 prohibit"
            ));
            let echo = if own.is_empty() { "icmp" } else { "ipv6-icmp" };
            run(&format!("ip {own}rule add pref 101 ipproto {echo} prohibit"));
            for (transport, refused) in [
                (None, false),
                (carrying(Protocol::Tcp, Some(443)), true),
                (carrying(Protocol::Tcp, Some(80)), false),
                (carrying(Protocol::Udp, Some(443)), false),
                (carrying(Protocol::Icmp, None), true),
            ] {
                let asked = Packet {
                    transport,
                    ..packet(from, to)
                };
                let way = lab.kernel.way(&asked).await.unwrap();
                assert_eq!(
                    matches!(way, Way::Nowhere(_)),
                    refused,
                    "{transport:?} to {to}: {way:?}"
                );
            }
        }
    });
}

#[test]
fn through_the_tunnel_the_peer_with_the_longest_match_takes_it() {
    lab(async |lab| {
        node();
        let set = |lab: &Lab, key, allowed: &str| {
            let change = PeerChange {
                add: [p(allowed)].into(),
                ..PeerChange::default()
            };
            Step::SetPeer(lab.name.clone(), key, change)
        };
        let steps = vec![
            lab.add_link(),
            lab.up(),
            set(lab, WIDE, "10.245.0.0/16"),
            set(lab, NEAR, "10.245.3.0/24"),
        ];
        lab.apply(steps).await;
        run(&format!("ip route add 10.245.0.0/16 dev {}", lab.name));
        for (to, peer) in [("10.245.3.7", NEAR), ("10.245.4.7", WIDE)] {
            let Way::Out(way) = lab.kernel.way(&packet("10.244.1.7", to)).await.unwrap() else {
                panic!("{to} is not reached");
            };
            assert_eq!((way.tunnel, way.peer, way.mtu), (true, Some(peer), 1420));
        }
        let back = Packet {
            from_tunnel: true,
            from_hop: false,
            answers: false,
            ..packet("10.245.3.7", "10.244.1.7")
        };
        assert!(matches!(lab.kernel.way(&back).await.unwrap(), Way::Out(way) if way.device == link("pods")));
        // An answer to such a sender leaves by another device, so the reverse path filter drops it.
        run(&format!("sysctl -qw net.ipv4.conf.{}.rp_filter=1", lab.name));
        let foreign = Packet {
            from_tunnel: true,
            from_hop: false,
            answers: false,
            ..packet("198.51.100.1", "10.244.1.7")
        };
        let why = nowhere(lab, foreign).await;
        assert!(why.contains("rp_filter"), "{why}");
    });
}
