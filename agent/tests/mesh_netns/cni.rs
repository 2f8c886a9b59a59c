//! A CNI whose device goes, or never was one that takes packets from other locations.

use std::time::Duration;

use spanwire_testbed::{Family, wait_until};

use crate::world::World;

const SECOND: Duration = Duration::from_secs(1);

/// Counts what goes bare through the LANs to or from pods.
const BARE: &str = "
table bridge bare {
  chain forward {
    type filter hook forward priority 0
    ip saddr 10.244.0.0/16 counter
    ip daddr 10.244.0.0/16 counter
  }
}
table inet bare {
  chain input {
    type filter hook prerouting priority raw
    ip saddr 10.244.0.0/16 counter
    ip daddr 10.244.0.0/16 counter
  }
}";

/// What a ping between pods of the followers says, one way and the other.
fn pings(world: &mut World) -> [String; 2] {
    [("a2", "10.244.4.2"), ("b2", "10.244.2.2")].map(|(from, to)| {
        let output = world.node(from).pod.try_run(&format!("ping -c 2 -W 1 {to}"));
        assert!(!output.status.success(), "{from} reaches {to}");
        String::from_utf8_lossy(&output.stdout).to_lowercase()
    })
}

#[test]
fn without_the_cnis_device_pods_are_unreachable_and_no_packet_of_theirs_is_bare_in_the_lan() {
    let mut world = World::with_agents(true);
    world.wait_for_pods();
    world.network.router.nft(BARE);
    for name in ["a2", "a1"] {
        world.node(name).host.run("ip link delete flannel.1");
        let node = world.node(name);
        wait_until("the agent to see it", 5 * SECOND, || {
            node.agent_log()
                .contains("the CNI's device for IPv4 is missing on this node")
        });
        let said = pings(&mut world);
        if name == "a2" {
            assert!(said[0].contains("unreachable"), "from a2: {}", said[0]);
        } else {
            assert!(said[1].contains("unreachable"), "to a2: {}", said[1]);
        }
        let router = &world.network.router;
        let bare = router.run("nft list table bridge bare; nft list table inet bare");
        assert_eq!(bare.matches("packets 0 ").count(), 4, "{name}: {bare}");
        world.network.node(name).start_flannel(Family::V4);
        if name == "a1" {
            // Its neighbours have kept their ways to it; flannel's own hardware address is the same.
            world
                .node("a2")
                .host
                .run("ip neigh show dev flannel.1 | grep -q 10.244.1.0");
        }
        world.wait_for_pods();
    }
}
