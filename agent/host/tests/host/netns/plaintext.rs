//! What others do to a node whose agent is away, and that none of it puts a packet of settled locations in the open. The
//! router is open and counts: what it does not see was not sent.

use std::{net::UdpSocket, thread};

use spanwire_testbed::{FAMILIES, Family, wait_until};

use super::{
    MOMENT,
    network::{Network, Place, ping},
    stages::{ESTABLISHED, Machines, SETTLED, TUNNELS, overlay},
};
use Place::{Host, Pod};

/// In location a: the leader and its follower.
const NEAR: [&str; 2] = ["a1", "a2"];

fn joined() -> (Network, Machines) {
    let network = Network::new();
    let mut machines = Machines::new();
    for stage in [TUNNELS, ESTABLISHED, SETTLED] {
        machines.bring(&network, Some(&stage));
    }
    (network, machines)
}

/// How many pings are answered, of those from the pods and the hosts of a to the pod and the host of b2; and how many packets
/// the router saw in the open.
fn pings(network: &Network, families: &[Family], options: &[&str]) -> (usize, usize, u64) {
    let before = network.plaintext();
    let places = NEAR.iter().flat_map(|name| [Pod(name), Host(name)]);
    let pairs = places.flat_map(|from| [(from, Pod("b2")), (from, Host("b2"))]);
    let ask = |((from, to), family)| {
        let target = network.address(to, family).to_string();
        ping(network.at(from), &[options, &["-W", "0.4", &target]].concat())
    };
    // All at once: what is to be lost is waited for.
    let (sent, answered) = thread::scope(|scope| {
        let asked = pairs.flat_map(|pair| families.iter().map(move |family| (pair, *family)));
        let pings: Vec<_> = asked.map(|question| scope.spawn(move || ask(question))).collect();
        let answered = pings.into_iter().map(|ping| usize::from(ping.join().unwrap()));
        let answered: Vec<usize> = answered.collect();
        (answered.len(), answered.iter().sum::<usize>())
    });
    thread::sleep(MOMENT);
    (sent, answered, network.plaintext() - before)
}

#[track_caller]
fn all_arrive(network: &Network, families: &[Family], options: &[&str], what: &str) {
    // Neighbours are asked for at first.
    wait_until(what, std::time::Duration::from_secs(10), || {
        let (sent, answered, _) = pings(network, families, options);
        sent == answered
    });
    let (_, _, plaintext) = pings(network, families, options);
    assert_eq!(plaintext, 0, "{what}: in the open");
}

#[track_caller]
fn none_leaves(network: &Network, families: &[Family], what: &str) {
    let (_, answered, plaintext) = pings(network, families, &[]);
    assert_eq!((answered, plaintext), (0, 0), "{what}: answered, and in the open");
}

fn on_near(network: &Network, script: &str) {
    for name in NEAR {
        network.node(name).host.run(script);
    }
}

fn rules(network: &Network) -> Vec<String> {
    let saved = |name: &&str| {
        network
            .node(name)
            .host
            .run("ip rule save >/tmp/rules4.$$; ip -6 rule save >/tmp/rules6.$$; echo /tmp/rules4.$$ /tmp/rules6.$$")
    };
    NEAR.iter().map(saved).collect()
}

/// Puts the rules back as they were.
fn restore(network: &Network, saved: Vec<String>) {
    for (name, files) in NEAR.iter().zip(saved) {
        let [v4, v6] = files.split_whitespace().collect::<Vec<_>>()[..] else {
            panic!("{files}")
        };
        network.node(name).host.run(&format!(
            "ip rule flush; ip rule del pref 0; ip -6 rule flush; ip -6 rule del pref 0
             ip rule restore <{v4}; ip -6 rule restore <{v6}; rm {v4} {v6}"
        ));
    }
}

/// Of flannel's neighbours those of b have their tunnels at addresses that the mesh does not know, as with k3s's
/// --flannel-external-ip, public-ip-overwrite, or node addresses that are kept out of the mesh.
fn tunnels_elsewhere(network: &Network) {
    for number in [3, 4] {
        let node = &network.world.nodes[number - 1].host;
        node.run(&format!("ip address add 10.2.0.10{number}/24 dev eth0"));
        on_near(
            network,
            &format!("bridge fdb replace 02:00:00:04:00:0{number} dev flannel.1 dst 10.2.0.10{number}"),
        );
    }
}

#[test]
fn what_others_do_to_a_node_puts_no_packet_in_the_open() {
    let (network, _machines) = joined();
    all_arrive(&network, &FAMILIES, &[], "as it should be");
    let saved = rules(&network);
    on_near(&network, "ip rule del pref 2108; ip -6 rule del pref 2108");
    none_leaves(&network, &FAMILIES, "without the rule");
    on_near(
        &network,
        "ip rule flush; ip -6 rule flush; ip rule add pref 32766 lookup main; ip -6 rule add pref 32766 lookup main",
    );
    none_leaves(&network, &FAMILIES, "without any rule");
    restore(&network, saved);

    let saved = rules(&network);
    tunnels_elsewhere(&network);
    all_arrive(&network, &[Family::V4], &[], "with the CNI's tunnels elsewhere");
    on_near(&network, "ip rule del pref 2108");
    none_leaves(
        &network,
        &[Family::V4],
        "the CNI's tunnels elsewhere, without the rule",
    );
    restore(&network, saved);
    on_near(
        &network,
        "ip route flush table 51830; ip -6 route flush table 51830",
    );
    none_leaves(&network, &FAMILIES, "without routes");
}

#[test]
fn the_nft_table_may_go_and_flannel_may_make_its_device_again() {
    let (network, _machines) = joined();
    all_arrive(&network, &FAMILIES, &[], "as it should be");
    on_near(&network, "nft delete table inet spanwire");
    let (_, _, plaintext) = pings(&network, &FAMILIES, &[]);
    assert_eq!(plaintext, 0, "without the nft table");
    let node = network.node("a2");
    let (mac, again) = (
        "02:00:00:04:00:04",
        "ip link add flannel.1 mtu 1450 address 02:00:00:04:00:02 type vxlan id 1 dstport 8472 local 10.1.0.2 dev eth0 nolearning",
    );
    node.host.run(&format!(
        "ip link del flannel.1; {again}; ip address add 10.244.2.0/32 dev flannel.1; ip link set flannel.1 up
         ip neigh add 10.244.4.0 lladdr {mac} dev flannel.1 nud permanent
         bridge fdb append {mac} dev flannel.1 dst 10.2.0.4
         ip route add 10.244.4.0/24 via 10.244.4.0 dev flannel.1 onlink"
    ));
    let before = network.plaintext();
    for (from, to) in [
        (Pod("a2"), Pod("b2")),
        (Host("a2"), Pod("b2")),
        (Pod("a2"), Host("b2")),
    ] {
        let target = network.address(to, Family::V4).to_string();
        assert!(!ping(network.at(from), &["-W", "0.4", &target]), "{from:?}");
    }
    assert_eq!(
        network.plaintext(),
        before,
        "flannel's device is another, the nft table is gone"
    );
}

#[test]
fn marks_of_others_lead_nowhere_but_into_the_mesh() {
    let (network, _machines) = joined();
    tunnels_elsewhere(&network);
    // NetBird's, the CNI's portmap plugin's, and all bits.
    for mark in ["0x1bd21", "0x2000", "0xffffbfff"] {
        on_near(
            &network,
            &format!(
                "nft 'add table inet other; delete table inet other'
                 nft 'add table inet other; add chain inet other pre {{ type filter hook prerouting priority mangle; }};
                      add rule inet other pre iifname pod0 meta mark set {mark}'"
            ),
        );
        let before = network.plaintext();
        for (name, family) in NEAR.iter().flat_map(|name| FAMILIES.map(|family| (name, family))) {
            for to in [Pod("b2"), Host("b2")] {
                let target = network.address(to, family);
                network.reach(Pod(name), to, target, network.address(Pod(name), family));
            }
        }
        // As the tunnel's own datagrams are, but for who sends them.
        for name in NEAR {
            let target = network.address(Pod("b2"), Family::V4);
            network.at(Pod(name)).inside(move || {
                let socket = UdpSocket::bind("0.0.0.0:51820").unwrap();
                for port in [51820, 53] {
                    socket.send_to(b"x", (target, port)).unwrap();
                }
            });
        }
        thread::sleep(MOMENT);
        assert_eq!(network.plaintext(), before, "{mark}: in the open");
    }
    on_near(&network, "nft delete table inet other");
    // What a program of the node itself marks.
    all_arrive(
        &network,
        &FAMILIES,
        &["-m", "114688"],
        "sockets with NetBird's mark",
    );
    let (_, _, plaintext) = pings(&network, &FAMILIES, &["-m", "8192"]);
    assert_eq!(plaintext, 0, "sockets with the tunnel's mark");
}

#[test]
fn what_was_in_the_mesh_from_the_start_is_not_led_past_it_by_a_mark_while_the_rest_moves() {
    let network = Network::new();
    let mut machines = Machines::new();
    for stage in [TUNNELS, ESTABLISHED] {
        machines.bring(&network, Some(&stage));
    }
    for family in FAMILIES {
        let (far, b1) = (overlay(3, family), network.address(Host("b1"), family));
        network.world.router.run(&format!("ip route add {far} via {b1}"));
    }
    let before = network.plaintext();
    for (name, family) in NEAR.iter().flat_map(|name| FAMILIES.map(|family| (name, family))) {
        // A program for uplinks may have the tunnel's bit for one of them (0x2000 of mwan3's 0x3f00).
        let far = overlay(3, family);
        ping(network.at(Host(name)), &["-W", "0.4", "-m", "8192", &far]);
    }
    thread::sleep(MOMENT);
    assert_eq!(network.plaintext(), before, "in the open");
}

#[test]
fn followers_in_the_lan_send_nothing_to_its_router() {
    let (network, mut machines) = (Network::new(), Machines::new());
    for number in 1..=4 {
        let lan = if number <= 2 { 1 } else { 2 };
        network.world.router.run(&format!(
            "ip route add 10.244.{number}.0/24 via 10.{lan}.0.{number}"
        ));
    }
    network.world.route_pods_in_lans();
    for stage in [TUNNELS, ESTABLISHED, SETTLED] {
        machines.bring(&network, Some(&stage.direct()));
    }
    all_arrive(&network, &[Family::V4], &[], "through the LAN");
    let saved = rules(&network);
    on_near(&network, "ip rule del pref 2108");
    none_leaves(&network, &[Family::V4], "without the rule");
    on_near(&network, "ip rule flush; ip rule add pref 32766 lookup main");
    none_leaves(&network, &[Family::V4], "without any rule");
    restore(&network, saved);
    all_arrive(&network, &[Family::V4], &[], "through the LAN again");
}
