//! Routers between the two sides, and behind one of them, that rewrite addresses.

use std::{net::SocketAddr, thread, time::Duration};

use spanwire_testbed::Namespace;

use crate::world::{Engine, World, other};

/// Puts a router between the sides, with 192.0.2.254 in the place of the address of `a`; a way through it stays open for two
/// seconds after the last packet.
fn behind_a_router(world: &World) -> Namespace {
    let World { a, b } = world;
    let router = Namespace::new();
    let pid = router.pid();
    a.run(&["ip", "link", "del", "eth0"]);
    a.namespace.run(&format!(
        "ip link add eth0 type veth peer name eth0 netns {pid}
         ip addr add 192.168.1.100/24 dev eth0
         ip link set eth0 up"
    ));
    b.namespace.run(&format!(
        "ip link add eth0 type veth peer name eth1 netns {pid}
         ip addr add {}/24 dev eth0
         ip link set eth0 up",
        b.outer[0]
    ));
    router.nft(
        "table ip t {
            chain p {
                type nat hook postrouting priority 100;
                ip saddr 192.168.1.0/24 snat to 192.0.2.254
            }
        }",
    );
    router.run(
        "ip addr add 192.168.1.1/24 dev eth0
         ip addr add 192.0.2.254/24 dev eth1
         ip link set eth0 up
         ip link set eth1 up
         sysctl -qw net.ipv4.ip_forward=1 \
            net.netfilter.nf_conntrack_udp_timeout=2 net.netfilter.nf_conntrack_udp_timeout_stream=2",
    );
    a.run(&["ip", "route", "add", "default", "via", "192.168.1.1"]);
    router
}

#[test]
fn a_persistent_keepalive_keeps_the_way_through_a_router_open() {
    let world = World::new(Engine::Ours, other());
    let _router = behind_a_router(&world);
    let World { a, b } = &world;
    b.know(a, None);
    a.know(b, Some(b.outer[0]));
    a.wg(&["peer", &b.public, "persistent-keepalive", "1"]);
    assert!(a.pings(b.inner[0], 1));
    assert!(b.pings(a.inner[0], 1));
    assert_eq!(
        b.endpoint(),
        SocketAddr::new([192, 0, 2, 254].into(), 51820).to_string()
    );
    thread::sleep(Duration::from_secs(3));
    assert!(b.pings(a.inner[0], 1), "the way is closed");
    a.wg(&["peer", &b.public, "persistent-keepalive", "0"]);
    thread::sleep(Duration::from_secs(4));
    assert!(!b.reaches(a.inner[0]), "the way is open without keepalives");
}

/// What it sends goes into the tunnel with the address of `a`; that it cannot be sent is said to it, and not to `a`.
#[test]
fn a_host_whose_address_is_rewritten_hears_that_there_is_no_peer() {
    let world = World::joined(Engine::Ours, other(), false);
    let World { a, b } = &world;
    let host = Namespace::new();
    let pid = host.pid();
    a.namespace.run(&format!(
        "ip link add eth1 type veth peer name eth0 netns {pid}
         ip addr add 172.16.9.1/24 dev eth1
         ip link set eth1 up
         sysctl -qw net.ipv4.ip_forward=1"
    ));
    a.namespace.nft(&format!(
        "table ip t {{
            chain p {{
                type nat hook postrouting priority 100;
                ip saddr 172.16.9.0/24 ip daddr 10.77.0.0/24 snat to {}
            }}
        }}",
        a.inner[0]
    ));
    host.run(
        "ip addr add 172.16.9.2/24 dev eth0
         ip link set eth0 up
         ip route add default via 172.16.9.1",
    );
    let to = b.inner[0].to_string();
    let ping = || {
        let output = host.command("ping").args(["-c", "1", "-W", "2", &to]).output();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let said = ping();
    assert!(said.contains(" 1 received"), "{said}");
    a.wg(&["peer", &b.public, "remove"]);
    let said = ping();
    assert!(said.contains("Destination Host Unreachable"), "{said}");
}
