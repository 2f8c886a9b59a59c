//! Packets without a way, and packets whose way is a circle: as with the kernel's WireGuard.

use std::{
    net::{SocketAddr, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use spanwire_testbed::Namespace;

use crate::world::{Engine, Side, World, families, other, terminate, wait_for};

#[test]
fn a_packet_for_no_peer_is_answered_with_icmp_unreachable_at_once() {
    let world = World::new(Engine::Ours, other());
    let World { a, b } = &world;
    a.know(b, None);
    for (nobody, no_endpoint, said) in [
        ("10.77.0.99", b.inner[0], "Destination Host Unreachable"),
        ("fd77::99", b.inner[1], "Address unreachable"),
    ] {
        for to in [nobody, &no_endpoint.to_string()] {
            let start = Instant::now();
            let ping = a.try_run(&["ping", "-c", "1", "-W", "5", to]);
            let output = String::from_utf8_lossy(&ping.stdout).into_owned();
            assert!(output.contains(said), "{output}");
            assert!(
                start.elapsed() < Duration::from_secs(2),
                "after {:?}",
                start.elapsed()
            );
        }
    }
}

/// Public keys with which everybody knows the secret; the last ones are not canonical.
const LOW_ORDER: [&str; 7] = [
    "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
    "AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
    "4Ot6fDtBuK4WVuP68Z/EatoJjeucMrH9hmIFFl9JuAA=",
    "X5yVvKNQjCSx0LFVnIPvWwREXMRYHI6G2CJO3dCfEVc=",
    "7P///////////////////////////////////////38=",
    "7v///////////////////////////////////////38=",
    "7f///////////////////////////////////////38=",
];

#[test]
fn a_peer_whose_secret_everybody_knows_is_sent_nothing() {
    let world = World::new(Engine::Ours, other());
    let a = &world.a;
    for key in LOW_ORDER {
        a.wg(&[
            "peer",
            key,
            "persistent-keepalive",
            "1",
            "endpoint",
            "127.0.0.1:1111",
        ]);
    }
    thread::sleep(Duration::from_millis(2500));
    let sent = a.run(&["wg", "show", &a.device, "transfer"]);
    assert_eq!(sent.lines().count(), LOW_ORDER.len());
    for line in sent.lines() {
        assert!(line.ends_with("\t0\t0"), "{line}");
    }
}

#[test]
fn an_endpoint_behind_the_tunnel_itself_makes_no_storm() {
    for v6 in families() {
        becomes_no_storm(other(), v6, "56", Duration::from_secs(1));
    }
}

/// Outside it is longer than the tunnel's MTU, so that it comes back as fragments.
#[test]
fn a_full_packet_for_an_endpoint_behind_the_tunnel_itself_makes_no_storm() {
    for v6 in families() {
        becomes_no_storm(Engine::Ours, v6, "1392", Duration::ZERO);
    }
}

/// What one ping of this size becomes in a second and so much more, where the route to the peer's endpoint leads into the tunnel.
fn becomes_no_storm(peer: Engine, v6: bool, size: &str, more: Duration) {
    let world = World::joined(Engine::Ours, peer, v6);
    let World { a, b } = &world;
    assert!(a.pings(b.inner[0], 2));
    a.wg(&["peer", &b.public, "allowed-ips", "0.0.0.0/0,::/0"]);
    let endpoint = b.outer[usize::from(v6)].to_string();
    a.run(&["ip", "route", "add", &endpoint, "dev", &a.device]);
    let sent = || a.peer_dump()[6].parse::<u64>().unwrap();
    let before = sent();
    let to = b.inner[0].to_string();
    a.try_run(&["ping", "-q", "-c", "1", "-W", "1", "-s", size, &to]);
    thread::sleep(more);
    let bytes = sent() - before;
    // A storm is a hundred megabytes.
    assert!((1..100_000).contains(&bytes), "one ping became {bytes} bytes");
    // And the tunnel is as before when the route is.
    a.run(&["ip", "route", "del", &endpoint, "dev", &a.device]);
    assert!(a.pings(b.inner[0], 2));
}

/// The same ports and the same server, but not from this machine.
#[test]
fn a_forwarded_hosts_own_wireguard_is_not_taken_for_the_devices() {
    let world = World::joined(Engine::Ours, Engine::Ours, false);
    let World { a, b } = &world;
    assert!(a.pings(b.inner[0], 2));
    let host = Namespace::new();
    let pid = host.pid().to_string();
    let device = &a.device;
    a.namespace.run(&format!(
        "ip link add eth1 type veth peer name eth0 netns {pid}
         ip addr add 172.16.9.1/24 dev eth1
         ip link set eth1 up
         sysctl -qw net.ipv4.ip_forward=1
         ip rule add iif eth1 lookup 77
         ip route add 192.0.2.2 dev {device} table 77"
    ));
    host.run(
        "ip addr add 172.16.9.2/24 dev eth0
         ip link set eth0 up
         ip route add default via 172.16.9.1",
    );
    a.wg(&["peer", &b.public, "allowed-ips", "0.0.0.0/0"]);
    b.wg(&["peer", &a.public, "allowed-ips", "10.77.0.1/32,172.16.9.0/24"]);
    b.namespace.run(
        "sysctl -qw net.ipv4.conf.all.rp_filter=0
         nft add table t
         nft 'add chain t i { type filter hook prerouting priority 0; }'",
    );
    b.namespace.run(&format!(
        "sysctl -qw net.ipv4.conf.{0}.rp_filter=0
         nft add rule t i iifname {0} udp sport 51820 counter",
        b.device
    ));
    let socket = host.inside(|| UdpSocket::bind("0.0.0.0:51820").unwrap());
    wait_for("the datagram of a host behind this machine", || {
        socket.send_to(&[4; 64], "192.0.2.2:51820").unwrap();
        thread::sleep(Duration::from_millis(100));
        !b.run(&["nft", "list", "table", "t"]).contains("packets 0 ")
    });
}

/// Each datagram for one is a packet for the other, eighty bytes longer.
#[test]
fn peers_whose_endpoints_are_behind_each_other_make_no_storm() {
    for v6 in families() {
        let world = World::joined(Engine::Ours, Engine::Ours, v6);
        let World { a, b } = &world;
        let mut c = Side::beside(b, Engine::Plain, 3, a);
        let [of_b, of_c] = [b, &c].map(|side| side.outer[usize::from(v6)]);
        a.wg(&[
            "peer",
            &c.public,
            "allowed-ips",
            "10.77.0.3/32",
            "endpoint",
            &SocketAddr::new(of_c, 51821).to_string(),
            "persistent-keepalive",
            "25",
        ]);
        assert!(a.pings(b.inner[0], 2));
        wait_for("a session with the third one", || c.received() > 0);
        let bits = if v6 { 128 } else { 32 };
        a.wg(&[
            "peer",
            &b.public,
            "allowed-ips",
            &format!("10.77.0.2/32,{of_c}/{bits}"),
        ]);
        a.wg(&[
            "peer",
            &c.public,
            "allowed-ips",
            &format!("10.77.0.3/32,{of_b}/{bits}"),
        ]);
        let sent = || {
            let transfer = a.run(&["wg", "show", &a.device, "transfer"]);
            let bytes = transfer.lines().filter_map(|line| line.split('\t').nth(2));
            bytes.map(|bytes| bytes.parse::<u64>().unwrap()).sum::<u64>()
        };
        for size in ["56", "1392"] {
            for endpoint in [of_b, of_c] {
                a.run(&["ip", "route", "add", &endpoint.to_string(), "dev", &a.device]);
            }
            let before = sent();
            let to = b.inner[0].to_string();
            a.try_run(&["ping", "-q", "-c", "1", "-W", "1", "-s", size, &to]);
            let bytes = sent() - before;
            assert!(
                (1..100_000).contains(&bytes),
                "one ping of {size} became {bytes} bytes"
            );
            for endpoint in [of_b, of_c] {
                a.run(&["ip", "route", "del", &endpoint.to_string(), "dev", &a.device]);
            }
            // A peer behind another one is reached, once.
            assert!(a.pings(b.inner[0], 2));
            a.run(&["ip", "route", "add", &of_c.to_string(), "dev", &a.device]);
            let before = c.received();
            a.try_run(&["ping", "-q", "-c", "1", "-W", "0.3", "10.77.0.3"]);
            wait_for("a packet through both", || c.received() > before);
            a.run(&["ip", "route", "del", &of_c.to_string(), "dev", &a.device]);
        }
        assert!(terminate(c.process.as_mut().unwrap(), Signal::SIGTERM));
    }
}
