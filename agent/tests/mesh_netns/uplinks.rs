//! What happens to a leader's way to the other locations while pods talk.

use std::{
    thread,
    time::{Duration, Instant},
};

use spanwire_testbed::{Ping, wait_until};

use crate::world::World;

/// For how long pods ping after a change.
const AFTER: Duration = Duration::from_secs(3);
/// What they may lose beside the time in which no packet could have passed: half of what follows, and all of it is lost where
/// nothing mends it. On a machine that is not busy it is below 100 ms.
const LOST: Duration = Duration::from_millis(1500);

/// A second uplink of a1, whose provider lets only its own addresses pass.
const SECOND_UPLINK: &str = "
table inet provider {
  chain forward {
    type filter hook forward priority -1
    iifname uplink2 ip saddr != 10.9.0.0/24 counter drop
  }
}";

fn with_second_uplink() -> World {
    let world = World::with_agents(true);
    let router = &world.network.router;
    router.run(&format!(
        "ip link add uplink2 type veth peer name eth1 netns {}
         ip address add 10.9.0.254/24 dev uplink2
         ip link set uplink2 up",
        world.nodes[0].host.pid()
    ));
    router.nft(SECOND_UPLINK);
    world.nodes[0].host.run(
        "ip address add 10.9.0.1/24 dev eth1
         ip link set eth1 up",
    );
    world
}

/// A pod that pings, and whom.
type Way = (&'static str, &'static str);

/// From a1's location and to it, by its own pod and a follower's: as each way alone keeps nothing alive for the other, they
/// are tried one after the other.
const OUT: &[Way] = &[("a2", "10.244.4.2"), ("a1", "10.244.3.2")];
const IN: &[Way] = &[("b2", "10.244.2.2"), ("b1", "10.244.1.2")];

struct Running {
    way: Way,
    ping: Ping,
    since: Instant,
}

fn start_pings(world: &mut World, ways: &[Way]) -> Vec<Running> {
    world.wait_for_pods();
    let start = |way: &Way| Running {
        way: *way,
        ping: world.node(way.0).pod.start_ping(way.1),
        since: Instant::now(),
    };
    let pings = ways.iter().map(start).collect();
    thread::sleep(Duration::from_millis(500));
    pings
}

/// Judges what they have lost, of which `outage` no mesh can prevent.
fn judge(what: &str, pings: Vec<Running>, outage: Duration) {
    for Running {
        way: (from, to),
        ping,
        since,
    } in pings
    {
        let (sent, returned) = ping.stop();
        // One is sent every ten milliseconds, or as often as a busy machine lets it.
        let gap = since.elapsed() * (sent - returned) / sent;
        eprintln!("{what}: {from} to {to}: {returned} of {sent} answered, {gap:?} lost of which {outage:?}");
        assert!(gap < outage + LOST, "{what}: {from} to {to} lost {gap:?}");
    }
}

#[test]
fn pods_go_on_as_soon_as_their_leaders_uplink_is_back() {
    let mut world = World::with_agents(true);
    // A carrier that is lost leaves addresses and routes; a device that is put down takes the routes along.
    let carrier = |up: &str| format!("ip link set a1 {up}");
    for (what, by_router, down, back) in [
        ("carrier", true, carrier("down"), carrier("up")),
        (
            "device",
            false,
            "ip link set eth0 down".to_owned(),
            "ip link set eth0 up; ip route add default via 10.1.0.254".to_owned(),
        ),
        (
            "address",
            false,
            "ip address del 10.1.0.1/24 dev eth0".to_owned(),
            "ip address add 10.1.0.1/24 dev eth0; ip route add default via 10.1.0.254".to_owned(),
        ),
    ] {
        let at = if by_router {
            world.network.router.clone()
        } else {
            world.node("a1").host.clone()
        };
        for ways in [OUT, IN] {
            let pings = start_pings(&mut world, ways);
            let gone = Instant::now();
            at.run(&down);
            thread::sleep(Duration::from_secs(2));
            at.run(&back);
            let outage = gone.elapsed();
            thread::sleep(AFTER);
            judge(what, pings, outage);
        }
    }
}

/// IPv6 loses addresses and routes with a device, and an address that it gets is of use when no other machine has turned out to have
/// it, a second later.
#[test]
fn pods_go_on_as_soon_as_their_leaders_ipv6_address_is_of_use_again() {
    let mut world = World::with_agents_over_ipv6();
    let host = world.node("a1").host.clone();
    for ways in [OUT, IN] {
        let pings = start_pings(&mut world, ways);
        let gone = Instant::now();
        host.run("ip link set eth0 down");
        thread::sleep(Duration::from_secs(1));
        host.run(
            "ip link set eth0 up
             ip address add fd00:1::1/64 dev eth0
             ip route add default via fd00:1::fe
             ip route add default via 10.1.0.254",
        );
        let addresses = host.run("ip -6 address show dev eth0");
        assert!(
            addresses.contains("tentative"),
            "no other machine is asked: {addresses}"
        );
        // The router may ask once a second where it is.
        wait_until("the address to be of use", Duration::from_secs(20), || {
            world.network.router.pings("fd00:1::1")
        });
        let outage = gone.elapsed();
        thread::sleep(AFTER);
        judge("IPv6 address", pings, outage);
    }
}

#[test]
fn pods_lose_nothing_to_speak_of_when_their_leaders_address_and_default_route_change() {
    let mut world = with_second_uplink();
    let changes = [
        (
            "default route to the second uplink",
            "ip route replace default via 10.9.0.254 dev eth1",
        ),
        (
            "address of the second uplink",
            "ip address del 10.9.0.1/24 dev eth1
             ip address add 10.9.0.7/24 dev eth1
             ip route replace default via 10.9.0.254 dev eth1",
        ),
        (
            "default route to the first uplink, and the address back",
            "ip route replace default via 10.1.0.254 dev eth0
             ip address del 10.9.0.7/24 dev eth1
             ip address add 10.9.0.1/24 dev eth1",
        ),
    ];
    for (ways, (what, change)) in [OUT, IN]
        .into_iter()
        .flat_map(|ways| changes.map(|change| (ways, change)))
    {
        let pings = start_pings(&mut world, ways);
        world.node("a1").host.run(change);
        thread::sleep(AFTER);
        judge(what, pings, Duration::ZERO);
    }
}
