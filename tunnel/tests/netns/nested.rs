//! Tunnels in tunnels.

use std::{
    net::{IpAddr, SocketAddr},
    thread,
    time::Duration,
};

use spanwire_testbed::Namespace;

use crate::{
    traffic::transfer,
    world::{Engine, Side, World, other, unique, wait_for},
};

/// Makes two devices in these namespaces that reach each other at these addresses, with addresses of their own in 10.78.0.0/24
/// and fd78::/64.
fn beside(namespaces: [&Namespace; 2], outer: [IpAddr; 2]) -> World {
    let mut world = World {
        a: Side::prepare(&unique(), Engine::Ours, 1),
        b: Side::prepare(&unique(), other(), 2),
    };
    for (side, namespace) in [&mut world.a, &mut world.b].into_iter().zip(namespaces) {
        side.namespace = namespace.clone();
        side.inner = side
            .inner
            .map(|address| address.to_string().replace("77", "78").parse().unwrap());
        side.start();
        side.wg_with_stdin(
            &["listen-port", "51825", "private-key", "/dev/stdin"],
            &side.private,
        );
        put_up(side, namespace);
    }
    let World { a, b } = &world;
    for (side, other, outer) in [(a, b, outer[1]), (b, a, outer[0])] {
        let allowed = format!("{}/32,{}/128", other.inner[0], other.inner[1]);
        let endpoint = SocketAddr::new(outer, 51825).to_string();
        side.wg(&[
            "peer",
            &other.public,
            "allowed-ips",
            &allowed,
            "endpoint",
            &endpoint,
        ]);
    }
    world
}

/// Gives an interface in this namespace its addresses, and puts it up.
fn put_up(side: &Side, namespace: &Namespace) {
    let device = &side.device;
    for address in side.inner {
        let [bits, nodad] = if address.is_ipv4() {
            ["24", ""]
        } else {
            ["64", "nodad"]
        };
        namespace.run(&format!("ip addr add {address}/{bits} dev {device} {nodad}"));
    }
    namespace.run(&format!("ip link set {device} mtu 1340 up"));
}

/// Moves an interface into another namespace; its sockets stay.
fn move_to(side: &Side, namespace: &Namespace) {
    let pid = namespace.pid().to_string();
    side.run(&["ip", "link", "set", &side.device, "netns", &pid]);
    put_up(side, namespace);
}

/// A process is configured where it is, the kernel's device where the interface is.
fn wg(side: &Side, interface: &Namespace, words: &[&str]) -> String {
    let at = if side.engine == Engine::Kernel {
        interface
    } else {
        &side.namespace
    };
    at.command("wg").args(words).run()
}

#[test]
fn a_tunnel_in_a_tunnel_carries_streams() {
    let world = World::joined(Engine::Ours, other(), false);
    let outer = [world.a.inner[1], world.b.inner[1]];
    let World { a, b } = &beside([&world.a.namespace, &world.b.namespace], outer);
    for family in 0..2 {
        assert!(a.pings(b.inner[family], 3));
        transfer(a, b, b.inner[family], 3);
        transfer(b, a, a.inner[family], 3);
    }
    // It went through both.
    assert!(world.b.received() > 6_000_000 && world.a.received() > 6_000_000);
}

/// The sockets of each are where the interface of the other is. Then the endpoint of each is behind the other.
#[test]
fn two_tunnels_that_lead_into_each_other_from_two_namespaces_make_no_storm() {
    let mut world = World::joined(Engine::Ours, other(), false);
    let home = Namespace::new();
    move_to(&world.a, &home);
    let outer = [world.a.inner[1], world.b.inner[1]];
    let mut inner = beside([&home, &world.b.namespace], outer);
    move_to(&inner.a, &world.a.namespace);
    let to = inner.b.inner[0].to_string();
    let ping = |words: &[&str]| {
        let output = world.a.namespace.command("ping").args(words).arg(&to).output();
        output.status.success()
    };
    wait_for("a ping through both", || ping(&["-q", "-c", "1", "-W", "0.5"]));
    let endpoint = SocketAddr::new(inner.b.inner[0], 7).to_string();
    let circle = [
        "set",
        &world.a.device,
        "peer",
        &world.b.public,
        "endpoint",
        &endpoint,
    ];
    wg(&world.a, &home, &circle);
    if world.b.engine == Engine::Kernel {
        for side in [&world.b, &inner.b] {
            side.run(&["ip", "link", "del", &side.device]);
        }
    }
    world.b.crash();
    inner.b.crash();
    let sent = || {
        let transfer = wg(
            &inner.a,
            &world.a.namespace,
            &["show", &inner.a.device, "transfer"],
        );
        transfer
            .split_whitespace()
            .nth(2)
            .unwrap()
            .parse::<u64>()
            .unwrap()
    };
    let before = sent();
    assert!(!ping(&["-q", "-f", "-c", "10", "-W", "1"]));
    thread::sleep(Duration::from_secs(1));
    let bytes = sent() - before;
    assert!(bytes < 70_000, "ten pings became {bytes} bytes");
}

#[test]
fn a_peer_behind_another_peer_of_the_same_device_is_reached_and_one_behind_itself_harms_no_other() {
    let world = World::joined(Engine::Ours, other(), false);
    let World { a, b } = &world;
    let mut c = Side::beside(b, other(), 3, a);
    c.inner = ["10.79.0.3", "fd79::3"].map(|address| address.parse().unwrap());
    for (side, addresses) in [
        (&c, c.inner),
        (a, ["10.79.0.1", "fd79::1"].map(|own| own.parse().unwrap())),
    ] {
        for address in addresses {
            side.add_address(&side.device, address);
        }
    }
    c.wg(&["peer", &a.public, "allowed-ips", "10.79.0.1/32,fd79::1/128"]);
    let know = |endpoint: &str| {
        a.wg(&[
            "peer",
            &c.public,
            "allowed-ips",
            "10.79.0.3/32,fd79::3/128",
            "endpoint",
            endpoint,
        ]);
    };
    know(&format!("{}:51821", b.inner[0]));
    assert!(a.pings(c.inner[0], 2));
    assert!(a.pings(c.inner[1], 2));
    for endpoint in ["10.79.0.3:51821", "[fd79::3]:51821"] {
        know(endpoint);
        assert!(!a.reaches(c.inner[0]), "{endpoint}");
        assert!(a.pings(b.inner[0], 2));
    }
    c.crash();
}
