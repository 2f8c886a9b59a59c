//! A family that one location has in the mesh and the other has not, although its machines have addresses of it.

use std::time::Duration;

use spanwire_testbed::wait_until;

use crate::world::World;

/// Counts what goes from location a to IPv6 addresses of location b, as it is or in the CNI's packets.
const SEEN: &str = "
table inet seen {
  chain prerouting {
    type filter hook prerouting priority raw
    iifname lan1 ip6 daddr fd00:2::/64 counter
    iifname lan1 ip6 daddr fd00:244::/32 counter
  }
}";

/// Has a node and its pod send to everything of location b. Returns how many of the two ways in the open are seen.
fn seen_in_the_open(world: &mut World, from: &str) -> usize {
    let fresh = format!("table inet seen {{}}\ndelete table inet seen\n{SEEN}");
    world.network.router.nft(&fresh);
    let node = world.node(from);
    for host in [&node.host, &node.pod] {
        for to in ["fd00:244:4::2", "fd00:2::4", "fd00:244:3::2", "fd00:2::3"] {
            let _answered = host.pings(to);
        }
    }
    let seen = world.network.router.run("nft list chain inet seen prerouting");
    let counters = seen.lines().filter(|line| line.contains("counter"));
    counters.filter(|line| !line.contains("packets 0 ")).count()
}

#[test]
fn in_a_family_that_the_own_location_lacks_nothing_goes_past_the_mesh() {
    let mut world = World::with_ipv6_in_b_alone();
    for name in ["a1", "a2"] {
        let seen = seen_in_the_open(&mut world, name);
        assert!(seen > 0, "{name}: without agents it goes in the open");
    }
    let mesh = world.mesh_file();
    for node in &mut world.nodes {
        node.flags = &["--tunnel-only"];
        node.start_agent(&mesh);
    }
    world.wait_for_pods();
    let follower = &world.node("a2").host;
    wait_until("the table", Duration::from_secs(10), || {
        let set = follower.try_run("nft list set inet spanwire barred6");
        set.status.success()
    });
    for name in ["a1", "a2"] {
        assert_eq!(seen_in_the_open(&mut world, name), 0, "{name}");
        // Its own location, and what is no part of the mesh, it reaches as ever.
        let node = world.node(name);
        for address in ["fd00:1::fe", "fd00:1::1", "fd00:1::2"] {
            assert!(node.host.pings(address), "{name}: {address}");
        }
    }
    // The leader has a part: its overlay address.
    assert!(world.node("a1").host.pings("fd00:244:4::2"));
    // Where the routes and rules are gone the table stands.
    let follower = &world.node("a2").host;
    follower.run("ip -6 route replace fd00:244:4::/64 via fd00:1::fe");
    assert_eq!(seen_in_the_open(&mut world, "a2"), 0, "by a route in the LAN");
}
