//! A LAN that delivers by who owns an address, and takes from a machine what is its own alone, as those of clouds do: there
//! a follower reaches its leader over a VXLAN of Spanwire's own.

use std::{net::UdpSocket, time::Duration};

use spanwire_testbed::{Family, NODES, Namespace, lan, pods, wait_until};
use spanwire_topology::{HopMode, Mesh};

use crate::{mesh, world::World};

const SECOND: Duration = Duration::from_secs(1);

/// Has the LANs carry what is from and for a node and its pods alone, by each node's port.
fn cloud(world: &World) {
    let mut rules = String::new();
    for (_, name, number) in NODES {
        let (network, length) = pods(number, Family::V4);
        let owned = format!("{{ {}, {network}/{length} }}", lan(number, Family::V4));
        rules += &format!("    iifname \"{name}\" ip saddr != {owned} counter drop\n");
        rules += &format!("    oifname \"{name}\" ip daddr != {owned} counter drop\n");
    }
    world.network.router.nft(&format!(
        "table bridge cloud {{
           chain forward {{
             type filter hook forward priority 0
             {rules}
           }}
           chain input {{
             type filter hook input priority 0
             {rules}
           }}
           chain output {{
             type filter hook output priority 0
             {rules}
           }}
         }}"
    ));
}

fn with_hop(hop: HopMode) -> impl FnOnce(&mut Mesh) {
    move |published| {
        *published = mesh::without_hops(published.clone());
        for location in published.locations.values_mut() {
            location.settings.hop = hop;
        }
    }
}

/// The cloud, with the agents of a mesh with that hop.
fn world(hop: HopMode) -> World {
    let mut world = World::new(true);
    world.network.route_pods_in_lans();
    cloud(&world);
    world.publish_changed(with_hop(hop));
    let mesh = world.mesh_file();
    world.nodes.iter_mut().for_each(|node| node.start_agent(&mesh));
    world
}

fn pings(world: &mut World, from: &str, to: &str) -> bool {
    world.node(from).pod.pings(to)
}

/// What of a chain a node has counted.
fn counted(world: &mut World, node: &str, rule: &str) -> u64 {
    let listed = world.node(node).host.run("nft list table inet spanwire");
    let line = listed.lines().find(|line| line.contains(rule)).unwrap();
    let (_, count) = line.split_once("counter packets ").unwrap();
    count.split(' ').next().unwrap().parse().unwrap()
}

#[test]
fn where_the_lan_delivers_by_owner_followers_reach_others_over_the_vxlan_and_not_without_it() {
    let mut world = world(HopMode::Cni);
    wait_until("the leaders", 20 * SECOND, || {
        pings(&mut world, "a1", "10.244.3.2")
    });
    for (name, leader) in [("a2", "10.1.0.1"), ("b2", "10.2.0.3")] {
        let host = &world.node(name).host;
        let plain = format!("via {leader} dev eth0");
        wait_until("the plain hop", 5 * SECOND, || {
            host.run("ip route show table 51830").contains(&plain)
        });
    }
    for (from, to) in [("a2", "10.244.4.2"), ("b2", "10.244.2.2"), ("a2", "10.244.3.2")] {
        assert!(!pings(&mut world, from, to), "{from} reaches {to}");
    }

    world.publish_changed(with_hop(HopMode::Vxlan));
    world.wait_for_pods();
    for (from, to) in [
        ("b2", "10.244.2.2"),
        ("a2", "10.244.3.2"),
        ("a1", "10.244.4.2"),
        ("a2", "10.2.0.4"),
        // Inside the location as ever.
        ("a2", "10.244.1.2"),
    ] {
        wait_until(&format!("{from} to {to}"), 5 * SECOND, || {
            pings(&mut world, from, to)
        });
    }
    let node = &world.node("b2").host;
    wait_until("node to node", 5 * SECOND, || node.pings("10.1.0.2"));
    // The leader is asked by it, and answers by the LAN.
    let node = world.node("a2");
    wait_until("the leader to be watched", 5 * SECOND, || {
        node.ask("/debug/links")
            .contains("leader a1 of this location: answers")
    });
    // As large as the tunnel takes.
    let pod = &world.node("a2").pod;
    pod.run("ip link set eth0 mtu 1500");
    assert!(
        pod.try_run("ping -c 1 -W 1 -M do -s 1392 10.244.4.2")
            .status
            .success()
    );

    world.publish_changed(with_hop(HopMode::Cni));
    for name in ["a1", "a2", "b1", "b2"] {
        let host = &world.node(name).host;
        wait_until("the device to go", 5 * SECOND, || {
            !host.run("ip -br link").contains("spanwire-hop")
        });
    }
    assert!(!pings(&mut world, "a2", "10.244.4.2"));
}

#[test]
fn what_is_taken_from_the_vxlan_comes_back_and_a_cleanup_leaves_nothing_of_it() {
    let mut world = world(HopMode::Vxlan);
    world.wait_for_pods();
    for command in [
        "bridge fdb del 0a:57:0a:04:00:01 dev spanwire-hop",
        "ip neigh del 10.4.0.1 dev spanwire-hop",
        "ip addr del 169.254.51.83/32 dev spanwire-hop",
        "ip link set spanwire-hop down",
        "ip link del spanwire-hop",
    ] {
        world.node("a2").host.run(command);
        let pod = &world.node("a2").pod;
        wait_until(command, 5 * SECOND, || pod.pings("10.244.4.2"));
    }
    let node = world.node("a2");
    node.kill_agent();
    assert!(node.cleanup(true).contains("link delete spanwire-hop"));
    node.cleanup(false);
    assert!(!node.host.run("ip -br link").contains("spanwire-hop"));
}

#[test]
fn the_vxlan_takes_nothing_from_pods_from_other_locations_or_from_who_is_not_there() {
    let mut world = world(HopMode::Vxlan);
    world.wait_for_pods();
    let (others, tunnel) = ("ip saddr != @nearby4", "fib daddr type local iifname");
    // From a machine of the LAN that is no node.
    send(&world.network.router, "0.0.0.0", 1);
    wait_until("the router's to be dropped", SECOND, || {
        counted(&mut world, "a1", others) == 1
    });
    // From a pod, which would get its node's address on the way.
    world.node("a2").host.nft(
        "table ip masquerading {
           chain out {
             type nat hook postrouting priority srcnat
             oifname eth0 masquerade
           }
         }",
    );
    send(&world.node("a2").pod, "0.0.0.0", 1);
    wait_until("the pod's to be dropped", SECOND, || {
        counted(&mut world, "a2", "udp dport 51830 ip daddr @nearby4") == 1
    });
    assert_eq!(counted(&mut world, "a1", others), 1);
    // From a node of another location, by the tunnel.
    let before = counted(&mut world, "a1", tunnel);
    send(&world.node("b2").host, "0.0.0.0", 1);
    wait_until("the other location's to be dropped", SECOND, || {
        counted(&mut world, "a1", tunnel) == before + 1
    });
    // From a pod that says that it is the leader.
    let pod = &world.node("a2").pod;
    pod.run("ip addr add 10.1.0.1/32 dev eth0");
    send(pod, "10.1.0.1", 2);
    wait_until("the false leader's to be dropped", SECOND, || {
        counted(&mut world, "a2", "fib saddr . iif oif") == 1
    });
    // Over it: a source that nothing of the mesh has, and one of another location from a node that does not lead.
    for (source, rule) in [
        ("198.51.100.7", "ip saddr != @mesh4"),
        ("10.244.4.9", "iifname \"spanwire-hop\" ip saddr @remote4"),
    ] {
        let before = counted(&mut world, "a1", rule);
        let host = &world.node("a2").host;
        host.run(&format!("ip addr add {source}/32 dev lo"));
        host.run("ip route replace 10.1.0.1/32 via 10.4.0.1 dev spanwire-hop onlink table 77");
        host.run(&format!("ip rule add priority 50 from {source} lookup 77"));
        let _lost = host.try_run(&format!("ping -c 1 -W 1 -I {source} 10.1.0.1"));
        assert_eq!(counted(&mut world, "a1", rule), before + 1, "{source}");
    }
}

/// Linux takes the first address of the machine where a device has none that could be taken: one on `lo`, or of another
/// network card.
#[test]
fn what_kube_proxy_masquerades_onto_the_vxlan_has_the_nodes_address() {
    let mut world = world(HopMode::Vxlan);
    world.wait_for_pods();
    let node = &world.node("a2").host;
    node.run("ip addr add 198.51.100.7/32 dev lo");
    // A port of the node, as kube-proxy makes one, in the shape of a ping.
    node.nft(
        "table ip node-port {
           chain asked {
             type nat hook prerouting priority dstnat
             fib daddr type local icmp type echo-request ip saddr 10.1.0.254 meta mark set mark or 0x4000 dnat ip to 10.244.4.2
           }
           chain answered {
             type nat hook postrouting priority srcnat
             meta mark & 0x4000 == 0 return
             meta mark set mark xor 0x4000
             masquerade fully-random
           }
         }",
    );
    world.node("b2").pod.nft(
        "table inet asked {
           chain input {
             type filter hook input priority 0
             icmp type echo-request ip saddr 10.1.0.2 counter
           }
         }",
    );
    let router = &world.network.router;
    wait_until("the pod of another location to answer", 5 * SECOND, || {
        router.pings("10.1.0.2")
    });
    let asked = world.node("b2").pod.run("nft list table inet asked");
    assert!(!asked.contains("counter packets 0 "), "{asked}");
}

/// Sends a datagram to the port of the VXLAN on a node of the first location.
fn send(from: &Namespace, source: &'static str, to: u8) {
    let to = lan(to, Family::V4);
    from.inside(move || {
        let socket = UdpSocket::bind((source, 0)).unwrap();
        socket.send_to(b"hello", (to, 51_830)).unwrap();
    });
}
