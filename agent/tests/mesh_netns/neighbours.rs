//! What other programs bring to a node while its agent runs.

use std::time::Duration;

use spanwire_testbed::wait_until;

use crate::world::{Node, World};

const SECOND: Duration = Duration::from_secs(1);

fn followers_reach_each_other(world: &mut World, what: &str) {
    for (from, to) in [("a2", "10.244.4.2"), ("b2", "10.244.2.2")] {
        let pod = &world.node(from).pod;
        wait_until(what, 10 * SECOND, || pod.pings(to));
    }
}

fn shows(node: &Node, command: &str, what: &str) -> bool {
    let output = node.host.try_run(command);
    String::from_utf8_lossy(&output.stdout).contains(what)
}

/// What wg-quick adds for a tunnel that is to take everything, whose other end does not answer: no rule has a priority.
const VPN: &str = "ip link add wgvpn type bridge; ip link set wgvpn up; ip addr add 10.77.0.2/32 dev wgvpn
ip route add default dev wgvpn table 51820
ip rule add not fwmark 51820 table 51820
ip rule add table main suppress_prefixlength 0";

const AGAIN: &str =
    "ip rule add not fwmark 51821 table 51820; ip rule add table main suppress_prefixlength 0";
const WITHOUT_AGAIN: &str =
    "ip rule del not fwmark 51821 table 51820; ip rule del table main suppress_prefixlength 0";
const WITHOUT_VPN: &str =
    "ip rule del table 51820; ip rule del table main suppress_prefixlength 0; ip link del wgvpn";

/// Whether the first rule for Spanwire's table stands before every rule of the VPN.
fn is_ahead(node: &Node) -> bool {
    let rules = node.host.run("ip rule");
    let first = |what: &[&str]| {
        rules
            .lines()
            .position(|rule| what.iter().any(|part| rule.contains(part)))
    };
    let (ours, theirs) = (
        first(&["lookup 51830"]),
        first(&["51820", "suppress_prefixlength"]),
    );
    ours.is_some_and(|ours| theirs.is_some_and(|theirs| ours < theirs))
}

#[test]
fn rules_that_a_vpn_puts_first_are_overtaken_and_ours_go_back_when_it_goes() {
    let mut world = World::with_agents(true);
    world.wait_for_pods();
    for name in ["a1", "a2"] {
        let node = world.node(name);
        node.host.run(VPN);
        wait_until("ahead", 5 * SECOND, || is_ahead(node));
        assert!(node.ask("/readyz").contains("200 OK"));
    }
    followers_reach_each_other(&mut world, "ahead of the VPN");
    // Another such tunnel is started, and is ahead once more.
    for name in ["a1", "a2"] {
        let node = world.node(name);
        node.host.run(AGAIN);
        wait_until("ahead again", 5 * SECOND, || is_ahead(node));
    }
    followers_reach_each_other(&mut world, "ahead of the VPN again");
    for name in ["a1", "a2"] {
        let node = world.node(name);
        node.host.run(&format!("{WITHOUT_AGAIN}; {WITHOUT_VPN}"));
        wait_until("as before", 5 * SECOND, || {
            shows(node, "ip rule show pref 2108", "lookup 51830")
        });
        let rules = node.host.run("ip rule");
        assert_eq!(rules.matches("lookup 51830").count(), 1, "{rules}");
    }
    followers_reach_each_other(&mut world, "without the VPN");
}

/// As wg-quick has it, what is connected is let alone: else the node would not even answer ARP.
const LAN: &str = "ip rule add table main suppress_prefixlength 0";

/// A VPN that ends and leaves its kill switch: what it has forbids everything, by a route or by the rule itself.
#[test]
fn the_tunnel_of_a_leader_goes_on_when_a_vpn_dies_and_its_kill_switch_stays() {
    let mut world = World::with_agents(true);
    world.wait_for_pods();
    for kill_switch in [
        "ip route add unreachable default table 51820; ip rule add not fwmark 51820 table 51820",
        "ip rule add not fwmark 51820 prohibit",
    ] {
        let leader = world.node("a1");
        leader.host.run(&format!("{kill_switch}; {LAN}"));
        let datagrams = "ip route get 10.2.0.3 mark 0x2000 | grep -q via";
        wait_until("a way of the tunnel's datagrams", 5 * SECOND, || {
            leader.host.try_run(datagrams).status.success()
        });
        followers_reach_each_other(&mut world, kill_switch);
        let leader = world.node("a1");
        assert!(!leader.host.pings("10.2.0.254"), "the kill switch is one");
        leader
            .host
            .run("ip route flush table 51820 || true; ip rule del not fwmark 51820; ip rule del table main suppress_prefixlength 0");
        wait_until("as before", 5 * SECOND, || {
            shows(leader, "ip rule show pref 2108", "lookup 51830")
        });
        followers_reach_each_other(&mut world, "without the kill switch");
    }
}

/// Where the VPN took the default route of `main`, too, nothing leads to the other leaders: the rule is named.
#[test]
fn a_kill_switch_that_leaves_the_tunnel_no_way_is_named_until_it_has_one() {
    let mut world = World::with_agents(true);
    world.wait_for_pods();
    let leader = world.node("a1");
    leader.host.run(&format!(
        "ip rule add pref 1234 not fwmark 51820 prohibit; {LAN}; ip route del default"
    ));
    wait_until("the report", 10 * SECOND, || {
        leader
            .agent_log()
            .contains("priority 1234) forbids what the tunnel sends")
    });
    leader.host.run("ip route add default via 10.1.0.254");
    wait_until("the end of it", 10 * SECOND, || {
        leader.ask("/metrics").contains("\nspanwire_agent_ready 1\n")
    });
    followers_reach_each_other(&mut world, "with a default route");
}

#[test]
fn a_rule_with_nothing_before_it_is_reported_and_the_report_goes_with_it() {
    let mut world = World::with_agents(true);
    world.wait_for_pods();
    let follower = world.node("a2");
    follower
        .host
        .run("ip rule add pref 3 from 10.244.0.0/16 table main");
    wait_until("the report", 5 * SECOND, || {
        follower
            .agent_log()
            .contains("has the priority 3 and takes packets of the mesh before Spanwire's rules do")
    });
    // In the open it is not sent all the same.
    assert!(!follower.pod.pings("10.244.4.2"));
    follower.host.run("ip rule del pref 3");
    wait_until("as before", 5 * SECOND, || {
        shows(follower, "ip rule show pref 2108", "lookup 51830")
    });
    followers_reach_each_other(&mut world, "without the rule");
}

/// What strongSwan adds for a connection of these networks, of which the pods of b2 are one.
const IPSEC: &str = "tunnel='tmpl src 10.1.0.1 dst 10.2.0.3 proto esp mode tunnel'
ip xfrm policy add src 10.244.0.0/16 dst 10.244.4.0/24 dir out priority 100 $tunnel
ip xfrm policy add src 10.244.4.0/24 dst 10.244.0.0/16 dir in priority 100 $tunnel
ip xfrm policy add src 10.244.4.0/24 dst 10.244.0.0/16 dir fwd priority 100 $tunnel";

#[test]
fn policies_of_ipsec_take_nothing_on_a_leader_and_are_named_on_a_follower() {
    let mut world = World::with_agents(true);
    world.wait_for_pods();
    world.node("a1").host.run(IPSEC);
    followers_reach_each_other(&mut world, "past the policies of the leader");
    let follower = world.node("a2");
    follower.host.run(IPSEC);
    wait_until("the report", 10 * SECOND, || {
        let said = "an IPsec policy of this node, from 10.244.0.0/16 to 10.244.4.0/24, takes what is sent from here to location b";
        follower.agent_log().contains(said)
    });
    assert!(!follower.pod.pings("10.244.4.2"), "the report is true");
    follower.host.run("ip xfrm policy flush");
    followers_reach_each_other(&mut world, "without the policies");
    let follower = world.node("a2");
    wait_until("ready again", 10 * SECOND, || {
        follower.ask("/readyz").contains("200 OK")
    });
}

#[test]
fn a_network_with_a_short_mask_cuts_no_pod_off() {
    let mut world = World::with_agents(true);
    world.wait_for_pods();
    let add = |node: &Node, address: &str| {
        node.host.run(&format!(
            "ip link add wide0 type bridge; ip link set wide0 up; ip addr add {address} dev wide0"
        ));
    };
    // The way to the other leader's endpoint is not in it.
    add(world.node("a1"), "10.244.200.5/16");
    let follower = world.node("a2");
    add(follower, "10.200.0.5/8");
    // The nodes of b have addresses in it.
    wait_until("the report", 5 * SECOND, || {
        follower
            .agent_log()
            .contains("lies in 10.0.0.0/8, which is connected here by wide0")
    });
    let refused = follower.host.try_run("ping -c 1 -W 1 10.2.0.4");
    assert!(
        String::from_utf8_lossy(&refused.stderr).contains("No route to host"),
        "{refused:?}"
    );
    followers_reach_each_other(&mut world, "beside a wide network");
    let follower = world.node("a2");
    follower.host.run("ip link del wide0");
    wait_until("host to host", 5 * SECOND, || follower.host.pings("10.2.0.4"));
    let leader = world.node("a1");
    assert!(!leader.agent_log().contains("WARN"), "{}", leader.agent_log());
}

#[test]
fn the_network_of_remote_pods_on_a_device_stays_there_and_comes_back_with_its_end() {
    let mut world = World::with_agents(true);
    world.wait_for_pods();
    let follower = world.node("a2");
    follower
        .host
        .run("ip link add twin0 type bridge; ip link set twin0 up; ip addr add 10.244.4.77/24 dev twin0");
    wait_until("the report", 5 * SECOND, || {
        follower
            .agent_log()
            .contains("10.244.4.0/24 of location b is connected here, too, by twin0")
    });
    wait_until("the device", 5 * SECOND, || {
        shows(follower, "ip route get 10.244.4.2", "dev twin0")
    });
    follower.host.run("ip link del twin0");
    world.wait_for_pods();
}

#[test]
fn rules_and_nft_tables_that_are_flushed_together_are_back() {
    let mut world = World::with_agents(true);
    world.wait_for_pods();
    for name in ["a1", "a2"] {
        let node = world.node(name);
        node.host
            .run("ip rule flush; ip rule add pref 32766 lookup main; nft flush ruleset");
        wait_until("the rule", 5 * SECOND, || {
            shows(node, "ip rule show pref 2108", "lookup 51830")
        });
        wait_until("the nft table", 5 * SECOND, || {
            shows(node, "nft list tables", "inet spanwire")
        });
    }
    followers_reach_each_other(&mut world, "after the flush");
}

/// A program that takes away what is Spanwire's as soon as it is there, as networkd and some firewalls do on each event.
#[test]
fn what_another_program_takes_again_and_again_is_said_while_it_lasts_and_costs_little() {
    let mut world = World::with_agents(true);
    world.wait_for_pods();
    let node = world.node("a1");
    let said = [
        "takes from Spanwire routing rules again and again, about every",
        "takes from Spanwire routes of the table 51830 again and again, about every",
        "takes from Spanwire its nft table again and again, about every",
    ];
    let lines = || {
        let log = node.agent_log();
        log.lines().filter(|line| !line.contains(" DEBUG ")).count()
    };
    let before = lines();
    let enemy = "set +e; for i in $(seq 80); do ip rule del pref 2108; ip route flush table 51830; nft delete table inet spanwire; \
         sleep 0.1; done 2>/dev/null; true";
    node.host.run(enemy);
    for said in said {
        assert!(node.agent_log().contains(said), "{said}: {}", node.agent_log());
    }
    assert!(node.ask("/metrics").contains("spanwire_agent_ready 0"));
    assert!(lines() - before < 20, "{}", node.agent_log());
    let metrics = node.ask("/metrics");
    let mut repairs = metrics
        .lines()
        .filter_map(|line| line.strip_prefix("spanwire_agent_repairs_total "));
    let repairs: u32 = repairs.next().unwrap().parse().unwrap();
    assert!((4..=40).contains(&repairs), "two a second at most: {repairs}");
    let took = wait_until("the end of it", 40 * SECOND, || {
        node.ask("/metrics").contains("\nspanwire_agent_ready 1\n")
    });
    assert!(
        took > 15 * SECOND,
        "the end is not said at the first chance: {took:?}"
    );
    followers_reach_each_other(&mut world, "after the fight");
}

/// A laptop in its dock is in one network twice; Linux prefers the one with the smaller metric, whatever it is called.
#[test]
fn a_network_on_two_devices_stays_on_the_one_that_linux_prefers() {
    let mut world = World::with_agents(true);
    world.wait_for_pods();
    let follower = world.node("a2");
    follower.host.run(
        "for n in 1 2; do ip link add twin$n type bridge; ip link set twin$n up
         ip address add 10.244.4.7$n/24 dev twin$n noprefixroute; done
         ip route add 10.244.4.0/24 dev twin1 src 10.244.4.71 metric 600
         ip route add 10.244.4.0/24 dev twin2 src 10.244.4.72 metric 100",
    );
    wait_until("the report", 5 * SECOND, || {
        follower
            .agent_log()
            .contains("10.244.4.0/24 of location b is connected here, too, by twin2")
    });
    wait_until("the device", 5 * SECOND, || {
        shows(follower, "ip route get 10.244.4.2", "dev twin2")
    });
    follower.host.run("ip link del twin2");
    wait_until("the other device", 5 * SECOND, || {
        shows(follower, "ip route get 10.244.4.2", "dev twin1")
    });
    follower.host.run("ip link del twin1");
    world.wait_for_pods();
}

/// A host whose proxy answers for whole networks (AnyIP): Linux looks there before it looks into Spanwire's table.
#[test]
fn a_network_that_is_made_local_takes_what_it_covers_of_the_mesh_and_that_is_said_until_it_is_gone() {
    let mut world = World::with_agents(true);
    world.wait_for_pods();
    // One that is no part of the mesh takes nothing, nor is it reached from there.
    let leader = world.node("a1");
    leader.host.run("ip route add local 203.0.113.0/24 dev lo");
    wait_until("the network to be known", 5 * SECOND, || {
        shows(leader, "nft list set inet spanwire private4", "203.0.113.0/24")
    });
    followers_reach_each_other(&mut world, "beside a network that is made local");
    for (name, network, taken) in [
        ("a2", "10.244.4.0/24", "10.244.4.0/24 of location b"),
        ("a2", "10.244.4.2/32", "10.244.4.0/24 of location b"),
        ("a1", "10.2.0.0/16", "10.2.0.3/32 of location b and to"),
        ("a1", "10.4.0.3/32", "10.4.0.3/32 of location b"),
    ] {
        let node = world.node(name);
        assert!(
            node.ask("/metrics").contains("\nspanwire_agent_ready 1\n"),
            "{network}"
        );
        node.host.run(&format!("ip route add local {network} dev lo"));
        let said = format!(
            "{network} is a local route of this node (`ip route show table local`), so it takes for itself what goes from here \
             or through here to {taken}"
        );
        wait_until(&said, 5 * SECOND, || {
            node.agent_log().contains(&said) && node.ask("/metrics").contains("\nspanwire_agent_ready 0\n")
        });
        let taken = network.split('/').next().unwrap().replace(".0.0", ".0.4");
        assert!(
            shows(node, &format!("ip route get {taken}"), "local"),
            "the report is true"
        );
        node.host
            .run(&format!("ip route del local {network} dev lo table local"));
        wait_until("the end of it", 10 * SECOND, || {
            node.ask("/metrics").contains("\nspanwire_agent_ready 1\n")
        });
        followers_reach_each_other(&mut world, network);
    }
}
