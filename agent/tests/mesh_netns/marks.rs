//! Hosts with several uplinks, whose packets others mark.

use std::time::Duration;

use spanwire_testbed::wait_until;

use crate::world::{Node, World};

const SECOND: Duration = Duration::from_secs(1);

/// What a program for several uplinks does: it marks what is not for the LAN or for pods, in bits of its own, keeps the
/// mark of a connection, and has a rule and a table for each mark. The bits are those of mwan3, of which one is Spanwire's, too.
/// The second uplink leads nowhere.
fn uplinks(lan: u8) -> String {
    let near = format!("ip daddr {{ 10.{lan}.0.0/24, 10.244.0.0/16 }} return");
    let mark = "meta mark and 0x3f00 == 0 meta mark set meta mark and 0xffffc0ff or 0x200";
    format!(
        "sysctl -qw net.ipv4.conf.all.rp_filter=2
         ip link add wan2 type bridge; ip link set wan2 up; ip address add 10.99.0.1/24 dev wan2
         ip route add default via 10.{lan}.0.254 dev eth0 table 201
         ip route add default via 10.99.0.254 dev wan2 table 202
         ip rule add pref 1001 fwmark 0x100/0x3f00 lookup 201
         ip rule add pref 1002 fwmark 0x200/0x3f00 lookup 202
         ip rule add pref 1003 from 10.99.0.1 lookup 202
         iptables -t mangle -A PREROUTING -d 10.{lan}.0.0/24,10.244.0.0/16 -j RETURN
         iptables -t mangle -A PREROUTING -j CONNMARK --restore-mark --nfmask 0x3f00 --ctmask 0x3f00
         iptables -t mangle -A PREROUTING -m mark --mark 0/0x3f00 -j MARK --set-xmark 0x200/0x3f00
         iptables -t mangle -A PREROUTING -j CONNMARK --save-mark --nfmask 0x3f00 --ctmask 0x3f00
         nft -f - <<'END'
         table ip uplinks {{
           chain sent {{
             type route hook output priority mangle
             udp sport 51820 meta mark set meta mark and 0xffffc0ff or 0x100
             {near}
             {mark}
           }}
         }}
END"
    )
}

const WITHOUT: &str = "nft delete table ip uplinks; iptables -t mangle -F PREROUTING
    ip rule del pref 1001; ip rule del pref 1002; ip rule del pref 1003; ip link del wan2";

fn first_of_ours(node: &Node) -> Option<u32> {
    let rules = node.host.run("ip rule");
    let ours = rules.lines().find(|rule| rule.contains("lookup 51830"))?;
    ours.split(':').next()?.parse().ok()
}

/// From pods and nodes to pods and nodes, by what the followers and the leaders of both locations add.
fn all_reach_all(world: &mut World, what: &str) {
    for (from, pod, to) in [
        ("a2", true, "10.244.4.2"),
        ("a2", true, "10.2.0.4"),
        ("a2", false, "10.244.4.2"),
        ("a2", false, "10.2.0.4"),
        ("a1", true, "10.2.0.4"),
        ("a1", false, "10.244.4.2"),
        ("b2", true, "10.1.0.2"),
        ("b2", false, "10.244.2.2"),
    ] {
        let node = world.node(from);
        let place = if pod { &node.pod } else { &node.host };
        let way = format!("{what}: {from} (pod: {pod}) to {to}");
        wait_until(&way, 10 * SECOND, || place.pings(to));
    }
}

#[test]
fn marks_that_choose_an_uplink_take_nothing_from_the_mesh_nor_the_tunnel_from_its_uplink() {
    let mut world = World::with_agents(true);
    world.wait_for_pods();
    // On both sides, so that answers are marked as well.
    for (name, lan) in [("a1", 1), ("a2", 1), ("b1", 2), ("b2", 2)] {
        let node = world.node(name);
        node.host.run(&uplinks(lan));
        wait_until("ahead", 5 * SECOND, || first_of_ours(node) < Some(1_001));
    }
    all_reach_all(&mut world, "with marks");
    for name in ["a1", "a2"] {
        let node = world.node(name);
        // What another program marks goes where it wants it to, and is not changed by us.
        let elsewhere = node.host.run("ip route get 192.0.2.1 mark 0x200");
        assert!(elsewhere.contains("dev wan2"), "{elsewhere}");
        let tracked = node.host.run("conntrack -L -d 10.2.0.4 2>/dev/null || true");
        assert!(
            name == "a1" || tracked.contains("mark=512"),
            "the mark of a connection is kept: {tracked}"
        );
        assert!(node.ask("/readyz").contains("200 OK"));
        node.host.run(WITHOUT);
        wait_until("as before", 5 * SECOND, || first_of_ours(node) == Some(2_108));
    }
    all_reach_all(&mut world, "with marks on one side");
}
