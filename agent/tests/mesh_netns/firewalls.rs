//! Hosts whose own firewall drops what it does not know, on leaders and on followers.

use std::time::Duration;

use spanwire_testbed::wait_until;

use crate::world::World;

const SECOND: Duration = Duration::from_secs(1);

/// Docker's, with what flannel adds.
const DOCKER: &str = "
    iptables -P FORWARD DROP
    iptables -N DOCKER-USER
    iptables -A DOCKER-USER -j RETURN
    iptables -A FORWARD -j DOCKER-USER
    iptables -A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
    iptables -N FLANNEL-FWD
    iptables -A FORWARD -m comment --comment 'flanneld forward' -j FLANNEL-FWD
    iptables -A FLANNEL-FWD -s 10.244.0.0/16 -m comment --comment 'flanneld forward' -j ACCEPT
    iptables -A FLANNEL-FWD -d 10.244.0.0/16 -m comment --comment 'flanneld forward' -j ACCEPT";

/// What RHEL's iptables-services ends with.
const REJECT: &str = "
    iptables -A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
    iptables -A FORWARD -s 10.244.0.0/16 -j ACCEPT
    iptables -A FORWARD -j REJECT --reject-with icmp-host-prohibited";

/// firewalld's forwarding, with the pods' network in the zone `trusted`, as k3s documents it.
const FIREWALLD: &str = "nft -f - <<'END'
    table inet firewalld {
      chain filter_FORWARD {
        type filter hook forward priority filter + 10; policy accept;
        ct state { established, related } accept
        ct status dnat accept
        iifname lo accept
        ct state invalid drop
        jump filter_FORWARD_ZONES
        reject with icmpx admin-prohibited
      }
      chain filter_FORWARD_ZONES {
        ip saddr 10.244.0.0/16 goto filter_FWD_trusted
        iifname eth0 goto filter_FWD_public
        goto filter_FWD_public
      }
      chain filter_FWD_trusted { accept; }
      chain filter_FWD_public { ct state invalid drop; reject with icmpx admin-prohibited; }
    }
END";

/// From nodes and pods of the followers to each other.
const WAYS: [(&str, bool, &str); 6] = [
    ("a2", false, "10.2.0.4"),
    ("a2", false, "10.244.4.2"),
    ("a2", true, "10.2.0.4"),
    ("a2", true, "10.244.4.2"),
    ("b2", false, "10.1.0.2"),
    ("b2", false, "10.244.2.2"),
];

fn all_get_through(world: &mut World, what: &str) {
    for (from, pod, to) in WAYS {
        let node = world.node(from);
        let from_there = if pod { &node.pod } else { &node.host };
        let way = format!("{what}: {from} (pod: {pod}) to {to}");
        wait_until(&way, 10 * SECOND, || from_there.pings(to));
    }
}

/// From a2 to b2 and back: who has the packet, by which way it comes, its ends, and whether it answers.
fn judged(world: &mut World) -> Vec<String> {
    let ends = [
        ("10.1.0.2", "10.2.0.4"),
        ("10.244.2.2", "10.244.4.2"),
        ("10.1.0.2", "10.244.4.2"),
    ];
    let there = [("a2", "?"), ("a1", "?hop"), ("b1", "/tunnel?"), ("b2", "?hop")];
    let back = [("b2", "?"), ("b1", "?hop"), ("a1", "/tunnel?"), ("a2", "?hop")];
    let ways = [(there, ""), (back, "&answer")];
    let mut judged = Vec::new();
    for (from, to) in ends {
        for (nodes, query) in ways {
            let (from, to) = if query.is_empty() { (from, to) } else { (to, from) };
            for (node, by) in nodes {
                let said = world
                    .node(node)
                    .ask(&format!("/debug/way/{from}/{to}{by}{query}"));
                let (_, body) = said.split_once("\r\n\r\n").unwrap_or(("", &said));
                let way: serde_json::Value = serde_json::from_str(body).unwrap_or_default();
                let (verdict, by) = (&way["firewall"]["verdict"], &way["firewall"]["by"]);
                judged.push(format!("{from} to {to} at {node}: {verdict} {by}"));
            }
        }
    }
    judged
}

fn rules(world: &mut World, name: &str) -> String {
    world
        .node(name)
        .host
        .run("nft -s list ruleset | sed '/^table inet spanwire/,/^}/d'")
}

#[test]
fn what_a_firewall_does_not_know_of_the_mesh_gets_through_and_nothing_is_left() {
    for (what, firewall) in [("Docker", DOCKER), ("reject", REJECT), ("firewalld", FIREWALLD)] {
        let mut world = World::with_agents(true);
        world.wait_for_pods();
        all_get_through(&mut world, "before");
        for name in ["a1", "a2", "b1", "b2"] {
            world.node(name).host.run(firewall);
        }
        all_get_through(&mut world, what);
        let opened = rules(&mut world, "a1");
        assert!(opened.contains("iifname \"spanwire0\""), "{what}: {opened}");
        assert!(opened.contains("oifname \"spanwire0\""), "{what}: {opened}");
        let doubted = judged(&mut world);
        let doubted = doubted.iter().filter(|said| !said.ends_with("\"accepted\" null"));
        assert_eq!(doubted.collect::<Vec<_>>(), Vec::<&String>::new(), "{what}");
        // What a network policy forbids is for no one to open.
        let forbids = "nft 'add table ip z; add chain ip z f { type filter hook forward priority 9; }'
            nft 'add rule ip z f ip saddr 10.1.0.2 ip daddr 10.244.4.2 drop'";
        world.node("b1").host.run(forbids);
        let judged = judged(&mut world);
        let forbidden: Vec<_> = judged
            .iter()
            .filter(|said| !said.ends_with("\"accepted\" null"))
            .collect();
        let [forbidden] = forbidden.as_slice() else {
            panic!("{what}: {forbidden:?}");
        };
        let expected = "10.1.0.2 to 10.244.4.2 at b1: \"dropped\" \"rule 2 of the chain f (ip z)\"";
        assert_eq!(*forbidden, expected, "{what}");
        world.node("b1").host.run("nft delete table ip z");
        for name in ["a1", "a2", "b1", "b2"] {
            let theirs = without_ours(&rules(&mut world, name));
            let node = world.node(name);
            node.kill_agent();
            node.cleanup(false);
            assert_eq!(rules(&mut world, name), theirs, "{what}: left on {name}");
        }
    }
}

fn without_ours(rules: &str) -> String {
    let others = rules
        .lines()
        .filter(|line| !line.contains("comment \"spanwire\""));
    others.map(|line| format!("{line}\n")).collect()
}

#[test]
fn what_is_taken_from_a_firewall_is_back_and_what_decides_about_some_packets_decides_first() {
    let mut world = World::with_agents(true);
    world.wait_for_pods();
    let leader = world.node("a1");
    leader.host.run(FIREWALLD);
    all_get_through(&mut world, "firewalld");
    let leader = world.node("a1");
    // As firewalld reloads.
    leader
        .host
        .run(&format!("nft delete table inet firewalld; {FIREWALLD}"));
    all_get_through(&mut world, "firewalld, reloaded");
    let leader = world.node("a1");
    leader.host.run("nft delete table inet firewalld");
    leader.host.run(DOCKER);
    all_get_through(&mut world, "Docker");
    // A rule behind which ours is of no use.
    let leader = world.node("a1");
    leader.host.run("iptables -I FORWARD 1 -j DROP");
    all_get_through(&mut world, "a rule that drops all before ours");
    let leader = world.node("a1");
    leader.host.run("iptables -D FORWARD -j DROP");
    // What an administrator forbids stays forbidden, wherever ours are.
    leader
        .host
        .run("iptables -I DOCKER-USER 1 -s 10.2.0.4 -d 10.1.0.2 -j DROP");
    let far = &world.node("b2").host;
    wait_until("the administrator's rule to decide first", 5 * SECOND, || {
        !far.pings("10.1.0.2")
    });
    let leader = world.node("a1");
    leader
        .host
        .run("iptables -D DOCKER-USER -s 10.2.0.4 -d 10.1.0.2 -j DROP");
    all_get_through(&mut world, "Docker, without the administrator's rule");
    // Where the firewall no longer drops, nothing of ours is needed.
    let leader = world.node("a1");
    leader.host.run("iptables -P FORWARD ACCEPT");
    wait_until("the rules to go", 5 * SECOND, || {
        !leader.host.run("iptables -S FORWARD").contains("spanwire0")
    });
}

/// As the CNI's portmap does for a pod with a host port, and where it can be seen; and as the VPC CNI of AWS, ip-masq-agent and
/// people's own rules do with whatever leaves the cluster.
const MASQUERADE: &str = "
    iptables -t nat -A POSTROUTING -p udp -m mark --mark 0x2000/0x2000 -j MASQUERADE --to-ports 40000-40999
    iptables -t nat -A POSTROUTING -j MASQUERADE --random-fully";

/// The same by nft(8), as firewalld and people's own rules have it, for both families at once.
const MASQUERADE_BY_NFT: &str = "nft -f - <<'END'
    table inet theirs {
      chain out {
        type nat hook postrouting priority srcnat
        meta l4proto udp mark and 0x2000 != 0 masquerade to :40000-40999
        oifname eth0 masquerade fully-random
      }
    }
END";

/// Has a1 masquerade by these rules, and its first datagram be the first one of the connection with b1, for only that one meets
/// a rule; then b1 has to see the source port of all of them as it was.
fn datagrams_keep_their_port(mut world: World, family: &str, masquerade: &str) {
    world.node("a1").host.run(masquerade);
    world.node("b1").host.nft(
        "table inet seen {
           chain input {
             type filter hook input priority raw
             udp dport 51820 udp sport != 51820 counter
             meta nfproto ipv4 udp sport 51820 udp dport 51820 counter comment \"ipv4\"
             meta nfproto ipv6 udp sport 51820 udp dport 51820 counter comment \"ipv6\"
           }
         }",
    );
    let mesh = world.mesh_file();
    let near = world.node("a1");
    near.start_agent(&mesh);
    wait_until("the first datagram of a1", 10 * SECOND, || {
        let tracked = near.host.run(&format!(
            "conntrack -L -f {family} -p udp --orig-port-src 51820 2>/dev/null || true"
        ));
        tracked.contains("dport=51820")
    });
    for name in ["a2", "b1", "b2"] {
        world.node(name).start_agent(&mesh);
    }
    world.wait_for_pods();
    let seen = world.node("b1").host.run("nft list chain inet seen input");
    let packets = |of: &str| {
        let line = seen.lines().find(|line| line.contains(of)).unwrap();
        !line.contains("packets 0 ")
    };
    assert!(!packets("sport != 51820"), "{seen}");
    assert!(packets(&format!("comment \"{family}\"")), "{seen}");
}

#[test]
fn who_masquerades_by_the_same_mark_or_all_does_not_touch_the_tunnels_datagrams() {
    for masquerade in [MASQUERADE, MASQUERADE_BY_NFT] {
        datagrams_keep_their_port(World::new(true), "ipv4", masquerade);
    }
}

#[test]
fn who_masquerades_in_ipv6_does_not_touch_the_tunnels_datagrams_either() {
    let by_ip6tables = MASQUERADE.replace("iptables", "ip6tables");
    for masquerade in [by_ip6tables.as_str(), MASQUERADE_BY_NFT] {
        datagrams_keep_their_port(World::over_ipv6(), "ipv6", masquerade);
    }
}

#[test]
fn what_iptables_legacy_or_a_rule_about_states_drops_is_named_until_it_is_gone() {
    let mut world = World::with_agents(true);
    world.wait_for_pods();
    let leader = world.node("a1");
    for (drop, open, undo, said) in [
        (
            "iptables-legacy -A FORWARD -s 10.244.0.0/16 -j ACCEPT; iptables-legacy -P FORWARD DROP",
            "iptables-legacy -I FORWARD -i spanwire0 -j ACCEPT; iptables-legacy -I FORWARD -o spanwire0 -j ACCEPT",
            "iptables-legacy -F; iptables-legacy -P FORWARD ACCEPT",
            "the chain ip filter FORWARD of iptables-legacy of this node's firewall drops what is forwarded between this \
             and other locations by spanwire0",
        ),
        (
            "iptables -A FORWARD -m mark ! --mark 0x100/0xf00 -m comment --comment 'of no zone' -j DROP",
            "iptables -I FORWARD -i spanwire0 -j ACCEPT; iptables -I FORWARD -o spanwire0 -j ACCEPT",
            "iptables -F FORWARD",
            "(\"of no zone\")",
        ),
        (
            "nft add table ip raw2; nft add chain ip raw2 p '{ type filter hook prerouting priority -350; }'
             nft add rule ip raw2 p iifname spanwire0 ip saddr 10.244.0.0/16 drop comment '\"closed\"'",
            "nft flush chain ip raw2 p",
            "nft delete table ip raw2",
            "the chain ip raw2 p of this node's firewall drops what is coming in from other locations by spanwire0; let it \
             accept what passes this device before that; packets of the mesh bear no mark of their own; it drops them by the \
             rule with the handle 2 (\"closed\")",
        ),
        (
            "nft add table inet sent; nft add chain inet sent o '{ type filter hook output priority 0; }'
             nft add rule inet sent o oifname spanwire0 ip daddr 10.2.0.0/16 drop",
            "nft flush chain inet sent o",
            "nft delete table inet sent",
            "the chain inet sent o of this node's firewall drops what is sent by this node to other locations by spanwire0",
        ),
        (
            "nft add table inet states
             nft add chain inet states f '{ type filter hook forward priority 5; }'
             nft add rule inet states f ct state untracked drop",
            "nft insert rule inet states f iifname spanwire0 accept; nft insert rule inet states f oifname spanwire0 accept",
            "nft delete table inet states",
            "the chain inet states f of this node's firewall drops what is forwarded between this and other locations by \
             spanwire0; transit of the mesh is not tracked",
        ),
    ] {
        leader.host.run(drop);
        // Nothing announces a change of iptables-legacy's tables; any other has all read.
        leader.host.run("ip link add some0 type bridge");
        wait_until("the report", 5 * SECOND, || leader.agent_log().contains(said));
        assert!(leader.ask("/metrics").contains("\nspanwire_agent_ready 0\n"));
        leader.host.run(open);
        leader.host.run("ip link del some0");
        wait_until("the end of it", 5 * SECOND, || {
            leader.ask("/metrics").contains("\nspanwire_agent_ready 1\n")
        });
        leader.host.run(undo);
    }
    all_get_through(&mut world, "after all");
}

/// As firewalld has it, and a policy as most people write it by hand; each without WireGuard's port.
const CLOSED: [&str; 2] = [
    "table inet firewalld {
      chain filter_INPUT {
        type filter hook input priority filter + 10; policy accept;
        ct state { established, related } accept
        ct status dnat accept
        iifname lo accept
        ct state invalid drop
        jump filter_INPUT_ZONES
        reject with icmpx admin-prohibited
      }
      chain filter_INPUT_ZONES { iifname docker0 goto filter_IN_docker; goto filter_IN_public; }
      chain filter_IN_docker { accept; }
      chain filter_IN_public { tcp dport 22 accept; udp dport 8472 accept; meta l4proto { icmp, ipv6-icmp } accept; reject with icmpx admin-prohibited; }
    }",
    "table inet hand {
      chain in {
        type filter hook input priority 0; policy drop;
        iif lo accept
        ct state established,related accept
        iifname flannel.1 accept
        ip protocol icmp accept
        udp dport { 8472, 500-600 } accept
      }
    }",
];

#[test]
fn a_leader_says_which_firewall_closes_the_port_of_the_tunnel_while_nobody_gets_in() {
    for (closed, chain, by) in [
        (CLOSED[0], "inet firewalld filter_INPUT", "rule "),
        (CLOSED[1], "inet hand in", "policy drop"),
    ] {
        let mut world = World::new(true);
        let mesh = world.mesh_file();
        let node = world.node("a1");
        node.host.nft(closed);
        // Alone, so that nothing that it begins itself opens the port for the answer.
        node.start_agent(&mesh);
        let said =
            format!("the chain {chain} of this node's firewall drops UDP to WireGuard's port 51820 ({by}");
        wait_until("the report", 10 * SECOND, || node.agent_log().contains(&said));
        // As the message advises.
        node.host
            .run(&format!("nft insert rule {chain} udp dport 51820 accept"));
        wait_until("the end of it", 10 * SECOND, || {
            node.ask("/metrics").contains("\nspanwire_agent_ready 1\n")
        });
        for name in ["a2", "b1", "b2"] {
            world.node(name).start_agent(&mesh);
        }
        world.wait_for_pods();
    }
}
