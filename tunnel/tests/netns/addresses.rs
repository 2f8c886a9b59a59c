//! A machine with several addresses: what a peer wrote to is what it hears from.

use std::{
    net::{IpAddr, SocketAddr},
    thread,
    time::Duration,
};

use nix::sys::signal::Signal;
use spanwire_testbed::wait_until;

use crate::{
    conformance::{ask, hex},
    interop::AT_ONCE,
    world::{Engine, Side, World, families, other, terminate},
};

/// Another address of the same network: the kernel never chooses it by itself.
fn second(side: &Side, v6: bool) -> IpAddr {
    let address = if v6 { "2001:db8::99" } else { "192.0.2.99" };
    let address = address.parse().unwrap();
    let net = if v6 { 128 } else { 24 };
    let label = format!("{address}/{net}");
    let mut command = vec!["ip", "addr", "add", &label, "dev", "eth0"];
    if v6 {
        // Deprecated: never chosen as a source where there is another.
        command.extend(["nodad", "preferred_lft", "0"]);
    }
    side.run(&command);
    address
}

/// Ours, and another side that knows it by its second address and is not known.
fn written_to(engine: Engine, v6: bool) -> (World, IpAddr) {
    let world = World::new(Engine::Ours, engine);
    let World { a, b } = &world;
    let address = second(a, v6);
    a.know(b, None);
    b.know(a, Some(address));
    (world, address)
}

#[test]
fn answers_and_what_follows_come_from_the_address_that_was_written_to() {
    for v6 in families() {
        let (world, address) = written_to(other(), v6);
        let World { a, b } = &world;
        let endpoint = SocketAddr::new(address, 51820).to_string();
        assert!(b.pings(a.inner[0], 3));
        assert_eq!(b.endpoint(), endpoint, "the answer came from elsewhere");
        assert!(a.pings(b.inner[1], 3));
        crate::traffic::transfer(a, b, b.inner[0], 5);
        assert_eq!(b.endpoint(), endpoint, "a stream came from elsewhere");
    }
}

#[test]
fn an_address_of_another_interface_is_answered_from() {
    for v6 in families() {
        let world = World::new(Engine::Ours, other());
        let World { a, b } = &world;
        let [address, net, bits] = if v6 {
            ["2001:db8:50::1", "2001:db8:50::/64", "64 nodad"]
        } else {
            ["10.50.0.1", "10.50.0.0/24", "24"]
        };
        a.namespace.run(&format!(
            "ip link add eth1 type veth peer name eth2
             ip link set eth1 up
             ip link set eth2 up
             ip addr add dev eth1 {address}/{bits}"
        ));
        let by = a.outer[usize::from(v6)].to_string();
        b.run(&["ip", "route", "add", net, "via", &by]);
        let address = address.parse().unwrap();
        a.know(b, None);
        b.know(a, Some(address));
        assert!(b.pings(a.inner[0], 2));
        assert!(a.pings(b.inner[0], 2));
        assert_eq!(b.endpoint(), SocketAddr::new(address, 51820).to_string());
    }
}

#[test]
fn a_link_local_address_that_was_written_to_is_answered_from_until_it_is_gone() {
    let world = World::new(Engine::Ours, Engine::Plain);
    let World { a, b } = &world;
    let address = "fe80::99/64";
    for (side, address, preferred) in [
        (a, "fe80::1/64", "forever"),
        (a, address, "0"),
        (b, "fe80::2/64", "forever"),
    ] {
        side.run(&[
            "ip",
            "addr",
            "add",
            address,
            "dev",
            "eth0",
            "nodad",
            "preferred_lft",
            preferred,
        ]);
    }
    a.know(b, None);
    b.know(a, None);
    let link = b.run(&["ip", "-o", "link", "show", "eth0"]);
    let (interface, _) = link.split_once(':').unwrap();
    let endpoint = format!("[fe80::99%{interface}]:51820");
    let set = format!("set=1\npublic_key={}\nendpoint={endpoint}\n\n", hex(&a.public));
    assert_eq!(ask(b, &set), "errno=0\n\n");
    let of_b = || {
        let state = ask(b, "get=1\n\n");
        let line = state.lines().find_map(|line| line.strip_prefix("endpoint="));
        line.unwrap().to_owned()
    };
    assert!(b.pings(a.inner[0], 3));
    assert_eq!(of_b(), endpoint, "the answer came from elsewhere");
    assert!(a.pings(b.inner[1], 3));
    assert_eq!(of_b(), endpoint);
    a.run(&["ip", "addr", "del", address, "dev", "eth0"]);
    assert!(a.pings(b.inner[0], 3), "nothing leaves without the address");
    let other = of_b();
    assert!(other.starts_with("[fe80::") && other != endpoint, "{other}");
}

#[test]
fn an_address_that_is_gone_is_not_insisted_on() {
    for v6 in families() {
        let (world, address) = written_to(other(), v6);
        let World { a, b } = &world;
        assert!(b.pings(a.inner[0], 3));
        let net = format!("{address}/{}", if v6 { 128 } else { 24 });
        a.run(&["ip", "addr", "del", &net, "dev", "eth0"]);
        assert!(a.pings(b.inner[0], 3), "nothing leaves without the address");
        let endpoint = SocketAddr::new(a.outer[usize::from(v6)], 51820).to_string();
        assert_eq!(b.endpoint(), endpoint);
    }
}

#[test]
fn an_address_that_one_peer_cannot_be_sent_to_from_is_kept_for_the_others() {
    // One thread, which serves both.
    let world = World::new(Engine::Plain, Engine::Ours);
    let World { a, b } = &world;
    let address = second(a, false);
    a.know(b, None);
    b.know(a, Some(address));
    let mut c = Side::beside(b, Engine::Plain, 3, a);
    a.know(&c, None);
    let endpoint = SocketAddr::new(address, 51820).to_string();
    let keepalive = ["persistent-keepalive", "1"];
    c.wg(&[&["peer", &a.public, "endpoint", &endpoint][..], &keepalive].concat());
    assert!(b.pings(a.inner[0], 2));
    wait_until("a session with the third one", AT_ONCE, || c.received() > 0);
    a.namespace.run(
        "ip route add unreachable 192.0.2.2 table 77
         ip rule add from 192.0.2.99 to 192.0.2.2 ipproto udp dport 51820 lookup 77",
    );
    a.wg(&[&["peer", &c.public][..], &keepalive].concat());
    assert!(a.pings(b.inner[0], 2));
    assert_eq!(b.endpoint(), SocketAddr::new(a.outer[0], 51820).to_string());
    thread::sleep(Duration::from_millis(1500));
    assert_eq!(c.endpoint(), endpoint);
    assert!(terminate(c.process.as_mut().unwrap(), Signal::SIGTERM));
}

#[test]
fn an_address_that_goes_for_a_moment_is_sent_from_again_as_soon_as_it_is_back() {
    for v6 in families() {
        let (world, address) = written_to(other(), v6);
        let World { a, b } = &world;
        // The other side is behind a filter that lets through only what it asked for.
        b.run(&["nft", "add table inet t"]);
        b.run(&["nft", "add chain inet t i { type filter hook input priority 0; }"]);
        b.run(&[
            "nft",
            "add rule inet t i udp sport 51820 ct state != established drop",
        ]);
        assert!(b.pings(a.inner[0], 2));
        let net = format!("{address}/{}", if v6 { 128 } else { 24 });
        a.run(&["ip", "addr", "del", &net, "dev", "eth0"]);
        assert!(!a.reaches(b.inner[0]));
        thread::sleep(Duration::from_secs(1));
        second(a, v6);
        wait_until("the address to be sent from again", AT_ONCE, || {
            b.reaches(a.inner[0])
        });
    }
}

/// A second uplink of `a`, to a provider that takes only its own addresses; `b` is behind both and has another address there.
struct SecondUplink {
    /// The address of `a` there, and that of `b`, which is the next hop.
    near: &'static str,
    far: &'static str,
    /// An address of `b` that is in neither network.
    remote: &'static str,
}

impl SecondUplink {
    fn new(world: &World, v6: bool) -> Self {
        let [near, far, net, remote] = if v6 {
            [
                "2001:db8:2::1",
                "2001:db8:2::2",
                "2001:db8:2::/64",
                "2001:db8:9::2",
            ]
        } else {
            ["198.51.100.1", "198.51.100.2", "198.51.100.0/24", "203.0.113.2"]
        };
        let [family, bits, host, nodad] = if v6 {
            ["ip6", "64", "128", "nodad"]
        } else {
            ["ip", "24", "32", ""]
        };
        let World { a, b } = world;
        let pid = b.namespace.pid();
        a.namespace
            .run(&format!("ip link add eth1 type veth peer name eth1 netns {pid}"));
        for (side, address) in [(a, near), (b, far)] {
            side.namespace.run(&format!(
                "sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.eth0.rp_filter=0 net.ipv4.conf.eth1.rp_filter=0
                 ip link set eth1 up
                 ip addr add {address}/{bits} dev eth1 {nodad}"
            ));
        }
        b.namespace.run(&format!("ip addr add {remote}/{host} dev lo"));
        b.namespace.nft(&format!(
            "table inet t {{
                chain i {{
                    type filter hook input priority 0;
                    iifname eth1 udp dport 51820 {family} saddr != {net} counter drop
                }}
            }}"
        ));
        Self { near, far, remote }
    }

    /// The same, which comes to have a better route to `remote` than the first one while packets flow.
    fn appears(world: &World, v6: bool) -> Self {
        let World { a, b } = world;
        let second = Self::new(world, v6);
        let Self { remote, .. } = second;
        let first_hop = b.outer[usize::from(v6)];
        a.namespace.run(&format!(
            "ip route add {remote} via {first_hop} dev eth0 metric 20"
        ));
        b.know(a, None);
        a.know(b, Some(remote.parse().unwrap()));
        assert!(a.pings(b.inner[0], 2));
        second.lead_to(a, remote, "main");
        second
    }

    /// Has `a` reach an address by it, in the main table or another.
    fn lead_to(&self, a: &Side, address: &str, table: &str) {
        let Self { far, .. } = self;
        a.namespace.run(&format!(
            "ip route add {address} via {far} dev eth1 metric 10 table {table}"
        ));
    }

    /// How many datagrams came from an address that is not of it.
    fn dropped(&self, b: &Side) -> u64 {
        let table = b.run(&["nft", "list", "table", "inet", "t"]);
        let count = table
            .split("packets ")
            .nth(1)
            .and_then(|rest| rest.split(' ').next());
        count.and_then(|count| count.parse().ok()).unwrap()
    }

    fn endpoint(&self) -> String {
        SocketAddr::new(self.near.parse().unwrap(), 51820).to_string()
    }
}

#[test]
fn a_better_route_by_another_uplink_takes_what_is_sent_to_its_address() {
    for v6 in families() {
        let world = World::new(Engine::Ours, Engine::Ours);
        let World { a, b } = &world;
        let second = SecondUplink::appears(&world, v6);
        wait_until("the address of the better route", AT_ONCE, || {
            a.reaches(b.inner[0])
        });
        assert_eq!(b.endpoint(), second.endpoint());
    }
}

/// The same, but it does not count from which address: by the first uplink packets would arrive as well.
#[test]
fn packets_go_on_when_a_better_route_by_another_uplink_appears() {
    for v6 in families() {
        let world = World::new(Engine::Ours, Engine::Ours);
        let World { a, b } = &world;
        SecondUplink::appears(&world, v6);
        for _ in 0..3 {
            wait_until("packets to arrive", AT_ONCE, || a.reaches(b.inner[0]));
            thread::sleep(Duration::from_millis(300));
        }
    }
}

/// The same, but the better route was there before the peer wrote for the first time.
#[test]
fn a_peer_that_writes_by_another_uplink_than_the_routes_take_is_answered_from_theirs() {
    for v6 in families() {
        let world = World::new(Engine::Ours, Engine::Ours);
        let World { a, b } = &world;
        let second = SecondUplink::new(&world, v6);
        let [ours, theirs] = [a, b].map(|side| side.outer[usize::from(v6)]);
        second.lead_to(a, &theirs.to_string(), "main");
        a.know(b, None);
        b.know(a, Some(ours));
        wait_until("an answer from the address of the better route", AT_ONCE, || {
            b.reaches(a.inner[0])
        });
        assert_eq!(b.endpoint(), second.endpoint());
    }
}

#[test]
fn an_address_that_was_given_up_is_not_sent_from_again_because_a_peer_goes_on_to_write_to_it() {
    for v6 in families() {
        let world = World::new(Engine::Ours, Engine::Ours);
        let World { a, b } = &world;
        let second = SecondUplink::new(&world, v6);
        let [ours, theirs] = [a, b].map(|side| side.outer[usize::from(v6)]);
        a.know(b, None);
        b.know(a, Some(ours));
        assert!(b.pings(a.inner[0], 2));
        // It never learns the other address.
        let family = if v6 { "ip6" } else { "ip" };
        let rule = format!("insert rule inet t i {family} saddr {} drop", second.near);
        b.run(&["nft", &rule]);
        second.lead_to(a, &theirs.to_string(), "main");
        // Until the routes have been asked.
        thread::sleep(Duration::from_millis(500));
        let before = second.dropped(b);
        let to = a.inner[0].to_string();
        b.try_run(&["ping", "-q", "-c", "20", "-i", "0.05", "-W", "1", &to]);
        assert_eq!(second.dropped(b) - before, 0);
    }
}

#[test]
fn another_mark_forgets_from_which_addresses_peers_are_written_to() {
    for v6 in families() {
        let world = World::new(Engine::Ours, Engine::Ours);
        let World { a, b } = &world;
        let second = SecondUplink::new(&world, v6);
        let [ours, theirs] = [a, b].map(|side| side.outer[usize::from(v6)]);
        let family = if v6 { "-6" } else { "-4" };
        a.namespace
            .run(&format!("ip {family} rule add fwmark 0x77 lookup 77"));
        second.lead_to(a, &theirs.to_string(), "77");
        a.know(b, None);
        b.know(a, Some(ours));
        assert!(b.pings(a.inner[0], 2));
        thread::sleep(Duration::from_millis(300));
        assert_eq!(b.endpoint(), SocketAddr::new(ours, 51820).to_string());
        a.wg(&["fwmark", "0x77"]);
        assert!(
            a.pings(b.inner[0], 2),
            "sent from the address of the first uplink"
        );
        assert_eq!(b.endpoint(), second.endpoint());
    }
}

#[test]
fn a_rule_for_the_devices_port_is_followed_when_other_routes_change() {
    let (world, address) = written_to(Engine::Ours, false);
    let World { a, b } = &world;
    a.namespace.run(
        "sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.eth0.rp_filter=0
         ip link add eth1 type veth peer name eth2
         ip link set eth2 up
         ip link set eth1 up
         ip rule add ipproto udp sport 51820 lookup 77
         ip route add 192.0.2.0/24 dev eth0 table 77
         ip route add 192.0.2.2 dev eth1",
    );
    assert!(b.pings(a.inner[0], 3));
    a.namespace.run("ip route add 198.51.100.0/24 dev eth1");
    thread::sleep(Duration::from_millis(500));
    assert!(a.pings(b.inner[0], 3));
    assert_eq!(b.endpoint(), SocketAddr::new(address, 51820).to_string());
}

#[test]
fn an_address_that_leads_nowhere_any_more_is_given_up() {
    let (world, _) = written_to(Engine::Ours, false);
    let World { a, b } = &world;
    assert!(b.pings(a.inner[0], 3));
    // As when an uplink fails: the address is there, but nothing from it arrives.
    b.run(&["nft", "add table inet t"]);
    b.run(&["nft", "add chain inet t i { type filter hook input priority 0; }"]);
    b.run(&[
        "nft",
        "add rule inet t i ip saddr 192.0.2.99 udp dport 51820 drop",
    ]);
    // Both directions: `b` keeps writing to the address until it hears from another.
    b.run(&[
        "nft",
        "add chain inet t o { type filter hook output priority 0; }",
    ]);
    b.run(&[
        "nft",
        "add rule inet t o ip daddr 192.0.2.99 udp dport 51820 drop",
    ]);
    // Initiations after 15, 20, 25 s of silence, the first of which does on a machine that is not busy.
    wait_until("another address to be tried", Duration::from_secs(30), || {
        a.reaches(b.inner[0])
    });
}

/// As when an uplink gets another address after it has had none: the other side sends to the old one, and this one has nothing
/// to send that would let it learn better.
#[test]
fn a_peer_that_alone_has_something_to_say_learns_another_address() {
    for v6 in families() {
        let world = World::joined(Engine::Ours, other(), v6);
        let World { a, b } = &world;
        assert!(a.pings(b.inner[0], 2));
        let [old, fresh]: [IpAddr; 2] = if v6 {
            ["2001:db8::1", "2001:db8::7"]
        } else {
            ["192.0.2.1", "192.0.2.7"]
        }
        .map(|address| address.parse().unwrap());
        let net = format!("{old}/{}", if v6 { 64 } else { 24 });
        a.run(&["ip", "addr", "del", &net, "dev", "eth0"]);
        assert!(!b.reaches(a.inner[0]));
        thread::sleep(Duration::from_millis(500));
        a.add_address("eth0", fresh);
        wait_until("the other address to be learned", AT_ONCE, || {
            b.reaches(a.inner[0])
        });
        assert_eq!(b.endpoint(), SocketAddr::new(fresh, 51820).to_string());
    }
}
