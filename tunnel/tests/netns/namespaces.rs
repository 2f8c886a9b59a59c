//! Sockets in one network namespace and the interface in another, so that whatever is in the other has the tunnel and nothing
//! else (<https://www.wireguard.com/netns/>).

use std::{thread, time::Duration};

use spanwire_testbed::Namespace;

use crate::world::{Engine, World, ends, other, wait_for};

fn reaches(from: &Namespace, to: &str, length: &str) -> bool {
    from.command("ping")
        .args(["-q", "-c", "1", "-W", "2", "-s", length, to])
        .succeeds()
}

#[test]
fn the_interface_carries_packets_from_another_namespace_until_it_is_removed_there() {
    let mut world = World::joined(Engine::Ours, other(), false);
    let World { a, b } = &mut world;
    let device = a.device.clone();
    assert!(a.pings(b.inner[0], 1));
    let inside = Namespace::new();
    let pid = inside.pid().to_string();
    a.run(&["ip", "link", "set", &device, "netns", &pid]);
    // The kernel has taken it down and its addresses away.
    for address in a.inner {
        let net = format!("{address}/{}", if address.is_ipv4() { 24 } else { 64 });
        inside.run(&format!("ip addr add {net} dev {device}"));
    }
    inside.run(&format!("ip link set {device} up"));
    let peers = b.inner.map(|address| address.to_string());
    for peer in &peers {
        wait_for("the tunnel from the other namespace", || {
            reaches(&inside, peer, "56")
        });
        assert!(reaches(&inside, peer, "1372"));
    }
    let links = inside.run("ip -br link");
    assert!(!links.contains("eth0"), "{links}");

    // What is done to it there, and to the sockets here.
    inside.run(&format!("ip link set {device} mtu 1300"));
    assert!(reaches(&inside, &peers[0], "1200"));
    // A process is configured where it is, the kernel's device where the interface is.
    if a.engine == Engine::Kernel {
        inside.run(&format!("wg set {device} listen-port 51999"));
    } else {
        a.wg(&["listen-port", "51999"]);
    }
    wait_for("the tunnel from another port", || {
        reaches(&inside, &peers[1], "56")
    });

    inside.run(&format!("ip link del {device}"));
    if let Some(process) = &mut a.process {
        assert!(ends(process));
    }
    assert!(!a.socket().exists());
}

/// Puts the interface of ours into a namespace of its own, where it has its addresses and is up.
pub(crate) fn move_inside(side: &crate::world::Side) -> Namespace {
    let inside = Namespace::new();
    let pid = inside.pid().to_string();
    side.run(&["ip", "link", "set", &side.device, "netns", &pid]);
    for address in side.inner {
        let net = format!("{address}/{}", if address.is_ipv4() { 24 } else { 64 });
        inside.run(&format!("ip addr add {net} dev {}", side.device));
    }
    inside.run(&format!("ip link set {} up", side.device));
    inside
}

#[test]
fn up_and_down_are_followed_where_the_interface_was_moved() {
    let world = World::joined(Engine::Ours, other(), false);
    let World { a, b } = &world;
    let listens = || a.run(&["ss", "-uln"]).contains(":51820");
    let peer = b.inner[0].to_string();
    assert!(a.pings(b.inner[0], 1));
    a.run(&["ip", "link", "set", &a.device, "down"]);
    wait_for("the port to close", || !listens());
    let inside = Namespace::new();
    let pid = inside.pid().to_string();
    a.run(&["ip", "link", "set", &a.device, "netns", &pid]);
    thread::sleep(Duration::from_millis(1200));
    assert!(!listens(), "it is down as before");
    inside.run(&format!("ip addr add {}/24 dev {}", a.inner[0], a.device));
    for _ in 0..2 {
        inside.run(&format!("ip link set {} up", a.device));
        wait_for("the port to open", listens);
        wait_for("the tunnel from the other namespace", || {
            reaches(&inside, &peer, "56")
        });
        let sent = || a.peer_dump()[6].clone();
        inside.run(&format!("ip link set {} down", a.device));
        wait_for("the port to close", || !listens());
        let before = sent();
        assert!(!b.reaches(a.inner[0]), "it is down");
        assert_eq!(sent(), before);
    }
}

#[test]
fn devices_whose_interfaces_are_in_each_others_namespaces_end_with_these() {
    let mut world = World::joined(Engine::Ours, other(), false);
    let World { a, b } = &mut world;
    let [x, y] = [&*a, &*b].map(move_inside);
    let (of_a, of_b) = (a.inner[0].to_string(), b.inner[0].to_string());
    wait_for("the tunnel between the other namespaces", || {
        reaches(&x, &of_b, "56")
    });
    assert!(reaches(&y, &of_a, "56"));
    // Nothing but the interfaces is left in there.
    drop((x, y));
    for side in [a, b] {
        if let Some(process) = &mut side.process {
            assert!(ends(process), "{:?} goes on", side.engine);
        }
        assert!(!side.socket().exists());
    }
}

#[test]
fn a_namesake_in_the_first_namespace_is_not_taken_for_the_interface_that_was_moved() {
    let world = World::joined(Engine::Ours, other(), false);
    let World { a, b } = &world;
    assert!(a.pings(b.inner[0], 1));
    let inside = move_inside(a);
    let peer = b.inner[0].to_string();
    wait_for("the tunnel from the other namespace", || {
        reaches(&inside, &peer, "56")
    });
    let changes = [
        format!("ip link add {} type veth peer name namesake", a.device),
        format!("ip link set {} mtu 600 up", a.device),
        format!("ip link del {}", a.device),
    ];
    for change in changes {
        a.namespace.run(&change);
        // It looks once a second at the latest.
        thread::sleep(Duration::from_millis(1200));
        assert!(
            a.run(&["ss", "-uln"]).contains(":51820"),
            "the port is closed after {change}"
        );
        assert!(reaches(&inside, &peer, "1372"), "nothing arrives after {change}");
    }
}

#[test]
fn packets_are_padded_up_to_the_mtu_of_an_interface_that_was_moved() {
    let world = World::joined(Engine::Ours, other(), true);
    let World { a, b } = &world;
    let fragments = || {
        let counters = a.run(&["cat", "/proc/net/snmp6"]);
        let line = counters.lines().find(|line| line.starts_with("Ip6FragCreates"));
        line.and_then(|line| line.split_whitespace().last())
            .and_then(|count| count.parse::<u64>().ok())
            .unwrap()
    };
    assert!(a.pings(b.inner[0], 1));
    let peer = b.inner[0].to_string();
    let inside = move_inside(a);
    for mtu in ["1420", "1411"] {
        inside.run(&format!("ip link set {} mtu {mtu}", a.device));
        thread::sleep(Duration::from_millis(1200));
        // The kernel drops its keys when an interface moves: what a handshake has is not counted.
        wait_for("a session", || reaches(&inside, &peer, "56"));
        let received = b.received();
        let length = (mtu.parse::<u64>().unwrap() - 28).to_string();
        wait_for("the tunnel from the other namespace", || {
            reaches(&inside, &peer, &length)
        });
        assert_eq!(
            fragments(),
            0,
            "a packet of {mtu} bytes is padded beyond the wire"
        );
        assert_eq!(
            (b.received() - received) % (mtu.parse::<u64>().unwrap() + 32),
            0,
            "{mtu}"
        );
    }
}
