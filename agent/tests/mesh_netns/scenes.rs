//! What the agents are for.

use std::time::Duration;

use spanwire_testbed::wait_until;

use crate::world::{Node, World};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn followers_of_two_locations_reach_each_other_and_keep_their_addresses() {
    let mut world = World::with_agents(true);
    let took = world.wait_for_pods();
    eprintln!("from the start of all agents to pod to pod: {took:?}");
    // Counted where it arrives, by the address it says it is from.
    world.node("b2").pod.nft(
        "table inet seen {
           chain input {
             type filter hook input priority 0;
             ip saddr 10.244.2.2 counter accept
             ip saddr 10.1.0.2 counter accept
           }
         }",
    );
    let a2 = world.node("a2");
    assert!(a2.pod.pings("10.244.4.2"), "pod to pod");
    assert!(a2.host.pings("10.244.4.2"), "host to pod");
    assert!(a2.pod.pings("10.2.0.4"), "pod to host");
    assert!(a2.host.pings("10.2.0.4"), "host to host");
    assert!(
        a2.host.pings("10.4.0.3"),
        "host to the overlay address of a leader"
    );
    let counted = world.node("b2").pod.run("nft list table inet seen");
    assert_eq!(counted.matches("packets 1 ").count(), 2, "{counted}");
}

#[test]
fn until_two_locations_are_established_only_overlay_addresses_are_routed() {
    let mut world = World::with_agents(false);
    let up = "spanwire_agent_link_up{location=\"b\"} 1";
    let took = wait_until("the link of a to b", 10 * SECOND, || {
        world.node("a1").ask("/metrics").contains(up)
    });
    eprintln!("from the start of all agents to the link being reported: {took:?}");
    // What a1 says of the link is not yet b1's word that it has set its routes.
    wait_until("the overlay address of b1", 10 * SECOND, || {
        world.node("a1").host.pings("10.4.0.3")
    });
    assert!(!world.node("a2").pod.pings("10.244.4.2"));
    world.publish(true, &[]);
    world.wait_for_pods();
}

#[test]
fn an_agent_that_is_killed_and_started_again_costs_no_packet() {
    let mut world = World::with_agents(true);
    world.wait_for_pods();
    let ping = world.node("a2").pod.start_ping("10.244.4.2");
    let mesh = world.mesh_file();
    for name in ["a1", "a2", "b1", "b2"] {
        let node = world.node(name);
        node.kill_agent();
        std::thread::sleep(SECOND / 5);
        node.start_agent(&mesh);
        wait_until("ready", 5 * SECOND, || node.ask("/readyz").contains("200 OK"));
        let log = node.agent_log();
        let changes = log
            .lines()
            .filter(|line| line.contains("changed the machine"))
            .skip(1);
        assert_eq!(changes.count(), 0, "{log}");
    }
    let (sent, returned) = ping.stop();
    eprintln!("{returned} of {sent} pings answered");
    assert_eq!(returned, sent, "pings were lost");
}

#[test]
fn what_is_deleted_is_back_within_two_seconds_and_logged_once() {
    let mut world = World::with_agents(true);
    world.wait_for_pods();
    let leader = world.node("a1");
    for (what, delete, back) in [
        (
            "route",
            "ip route del 10.244.4.0/24 metric 100 table 51830",
            "ip route show table 51830 | grep -q '^10.244.4.0/24'",
        ),
        ("rule", "ip rule del priority 2108", "ip rule | grep -q ^2108:"),
        (
            "nft table",
            "nft delete table inet spanwire",
            "nft list table inet spanwire >/dev/null",
        ),
        (
            "nft chain",
            "nft flush chain inet spanwire arrive",
            "nft list chain inet spanwire arrive | grep -q notrack",
        ),
        (
            "address",
            "ip address del 10.4.0.1/32 dev spanwire0",
            "ip address show dev spanwire0 | grep -q 10.4.0.1",
        ),
        (
            "link",
            "ip link del spanwire0",
            "ip route show table 51830 | grep -q '10.244.4.0/24 dev spanwire0'",
        ),
    ] {
        deleted(leader, what, delete, back, 2 * SECOND);
    }
    world.wait_for_pods();
}

#[test]
fn a_wireguard_peer_that_is_removed_is_back_within_ten_seconds() {
    let mut world = World::with_agents(true);
    world.wait_for_pods();
    let far = world.node("b1").key();
    let hex: String = far.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    let leader = world.node("a1");
    leader.configure_device(&format!("set=1\npublic_key={hex}\nremove=true\n\n"));
    let repaired = "repaired what another program had changed";
    let took = wait_until("peer", 10 * SECOND, || leader.agent_log().contains(repaired));
    eprintln!("peer: back after {took:?}");
    assert!(
        leader.agent_log().contains(&format!("peer set {far}")),
        "{}",
        leader.agent_log()
    );
    world.wait_for_pods();
}

#[test]
fn a_group_that_is_taken_away_is_back_within_ten_seconds() {
    let mut world = World::with_agents(true);
    world.wait_for_pods();
    let far = world.node("b1").key();
    let hex: String = far.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    let leader = world.node("a1");
    leader.configure_device(&format!("set=1\npublic_key={hex}\ngroup=\n\n"));
    let repaired =
        format!("repaired what another program had changed steps=\"peer set {far} dev spanwire0 group b\"");
    let took = wait_until("group", 10 * SECOND, || leader.agent_log().contains(&repaired));
    eprintln!("group: back after {took:?}");
}

/// What an administrator's hand, or a tool that manages every WireGuard device, does to a device that is not theirs.
#[test]
fn whatever_is_set_by_hand_on_the_device_is_put_right() {
    let mut world = World::with_agents(true);
    world.wait_for_pods();
    let hex = |key: &[u8]| key.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let far = hex(world.node("b1").key().as_bytes());
    let key = hex(&[7; 32]);
    for (what, request) in [
        (
            "preshared key, keepalive, and a stranger with what is the peer's",
            format!(
                "public_key={far}\npreshared_key={key}\npersistent_keepalive_interval=7\n\
                 public_key={key}\nallowed_ip=10.244.4.0/24\n"
            ),
        ),
        (
            "allowed IPs",
            format!("public_key={far}\nreplace_allowed_ips=true\n"),
        ),
        ("port and mark", "listen_port=51999\nfwmark=0\n".to_owned()),
        ("private key", format!("private_key={key}\n")),
    ] {
        let leader = world.node("a1");
        // What cuts the tunnel may be put right together with what follows from that.
        let acts = || leader.agent_log().matches(" steps=").count();
        let before = acts();
        leader.configure_device(&format!("set=1\n{request}\n"));
        wait_until(what, 10 * SECOND, || acts() > before);
        wait_until(what, 10 * SECOND, || {
            leader.ask("/debug/diff").ends_with("\r\n\r\n")
        });
    }
    world.wait_for_pods();
}

#[test]
fn without_the_tunnel_process_traffic_stops_and_it_goes_on_with_it() {
    let mut world = World::with_agents(true);
    world.wait_for_pods();
    let leader = world.node("a1");
    leader.kill_tunnel();
    // The agent says that no process makes the device.
    wait_until("trouble", 5 * SECOND, || {
        leader.agent_log().contains("is spanwire-tunnel running")
    });
    let refused = leader.host.try_run("ping -c 1 -W 1 10.244.4.2");
    assert!(
        String::from_utf8_lossy(&refused.stderr).contains("No route to host"),
        "{refused:?}"
    );
    leader.start_tunnel();
    let took = world.wait_for_pods();
    eprintln!("with the tunnel process again: {took:?}");
}

fn deleted(node: &Node, what: &str, delete: &str, back: &str, limit: Duration) {
    let repairs = || {
        node.agent_log()
            .matches("repaired what another program had changed")
            .count()
    };
    let before = repairs();
    node.host.run(delete);
    let took = wait_until(what, limit, || node.host.try_run(back).status.success());
    // Whatever the repair itself announces has been heard by then.
    std::thread::sleep(SECOND);
    eprintln!("{what}: back after {took:?}");
    assert_eq!(repairs(), before + 1, "{what}");
}

#[test]
fn an_agent_without_a_source_goes_on_from_its_checkpoint() {
    let mut world = World::with_agents(true);
    world.wait_for_pods();
    let follower = world.node("a2");
    // The checkpoint is written a second after the snapshot.
    wait_until("checkpoint", 5 * SECOND, || {
        follower.state().join("ledger.json").exists()
    });
    follower.kill_agent();
    follower
        .host
        .run("nft delete table inet spanwire; ip route flush table 51830");
    follower.start_agent("/nonexistent".as_ref());
    let took = world.wait_for_pods();
    eprintln!("repaired without a source after {took:?}");
}

/// How often an echo request is sent by this hop.
const HOPPING: &str = "table inet seen {
  chain out {
    type filter hook postrouting priority 300;
    oifname flannel.1 ip daddr 10.244.4.2 icmp type echo-request counter
  }
}";

#[test]
fn two_nodes_that_take_each_other_for_the_leader_send_a_packet_round_only_a_few_times() {
    let mut world = World::new(true);
    let mesh = world.mesh_file();
    let others_view = world.mesh_led_by("a2");
    for (name, mesh) in [("a1", &others_view), ("a2", &mesh), ("b1", &mesh), ("b2", &mesh)] {
        world.node(name).start_agent(mesh);
    }
    for node in &world.nodes {
        wait_until("ready", 10 * SECOND, || node.ask("/readyz").contains("200 OK"));
    }
    for name in ["a1", "a2"] {
        world.node(name).host.nft(HOPPING);
    }
    assert!(!world.node("a2").pod.pings("10.244.4.2"), "none leads");
    let sent = |node: &mut Node| -> u32 {
        let listed = node.host.run("nft list table inet seen");
        let counted = listed.split("packets ").nth(1).unwrap();
        counted.split(' ').next().unwrap().parse().unwrap()
    };
    let counts = ["a1", "a2"].map(|name| sent(world.node(name)));
    eprintln!("sent on by a1 and a2: {counts:?}");
    assert!(counts[0] > 0, "it went round");
    assert!(counts.iter().sum::<u32>() <= 10, "{counts:?}");
}

#[test]
fn a_node_that_retires_or_is_cleaned_is_as_it_was() {
    let mut world = World::new(true);
    let before: Vec<String> = world.nodes.iter().map(Node::picture).collect();
    let mesh = world.mesh_file();
    world.nodes.iter_mut().for_each(|node| node.start_agent(&mesh));
    world.wait_for_pods();
    // By hand on the first two, by the operator's wish on the others.
    world.publish(true, &["b1", "b2"]);
    for name in ["b1", "b2"] {
        let node = world.node(name);
        wait_until("retired", 5 * SECOND, || node.agent_log().contains("retired"));
        assert!(!node.state().exists());
    }
    for name in ["a1", "a2"] {
        let node = world.node(name);
        node.kill_agent();
        let printed = node.cleanup(true);
        assert!(printed.contains("rule delete"), "{printed}");
        assert!(node.host.pings("127.0.0.1"), "the plan changes nothing");
        assert_eq!(printed, node.cleanup(false));
        assert_eq!(node.cleanup(true), "");
        assert!(!node.state().exists());
    }
    for (node, before) in world.nodes.iter().zip(before) {
        assert_eq!(node.picture(), before, "{}", node.name);
    }
}
