//! By what Spanwire's own is known on a node, and what of others stands in its way.

use std::time::Duration;

use spanwire_testbed::wait_until;

use crate::world::{Node, World};

const OTHER: [&str; 8] = [
    "--link=mesh7",
    "--table=4711",
    "--return-table=4712",
    "--rule-priority=300",
    "--route-protocol=99",
    "--nft-table=over-there",
    "--mark=0x20",
    "--masquerade-mark=0x10",
];

/// What a node has under the usual names, and what under the others.
fn found(node: &Node) -> [usize; 2] {
    let looks = [
        "ip link show dev spanwire0; ip route show table 51830; ip rule | grep -E '^21(0[0-9]|1[0-5]):'
         nft list tables | grep -w spanwire; nft list ruleset | grep 0x00002000",
        "ip link show dev mesh7; ip route show table 4711 proto 99; ip rule | grep -E '^3(0[0-9]|1[0-5]):'
         nft list tables | grep -w over-there; nft list ruleset | grep 0x00000020",
    ];
    looks.map(|look| {
        let output = node.host.try_run(&format!("{{ {look}\n}} 2>/dev/null || true"));
        String::from_utf8(output.stdout).unwrap().lines().count()
    })
}

#[test]
fn under_other_names_the_mesh_is_the_same_and_no_trace_is_left() {
    let mut world = World::new(true);
    let before: Vec<String> = world.nodes.iter().map(Node::picture).collect();
    let mesh = world.mesh_file();
    for node in &mut world.nodes {
        node.flags = &OTHER;
        node.start_agent(&mesh);
    }
    world.wait_for_pods();
    let a2 = world.node("a2");
    assert!(a2.host.pings("10.2.0.4"), "host to host");
    assert!(a2.pod.pings("10.2.0.4"), "pod to host");
    for node in &world.nodes {
        let [usual, other] = found(node);
        assert!(usual == 0 && other > 5, "{}: {usual} {other}", node.name);
    }
    let marked = world.node("a1").host.run("ip rule show priority 302");
    assert!(
        marked.contains("fwmark 0x20/0xffffffef iif lo goto 315"),
        "{marked}"
    );
    for (node, before) in world.nodes.iter_mut().zip(before) {
        node.kill_agent();
        node.cleanup(false);
        assert_eq!(node.picture(), before, "{}", node.name);
    }
}

#[test]
fn names_that_are_anothers_are_refused_before_anything_is_done() {
    let mut world = World::new(true);
    let mesh = world.mesh_file();
    let node = world.node("a1");
    let before = node.picture();
    node.flags = &["--table=254"];
    node.start_agent(&mesh);
    wait_until("the refusal", Duration::from_secs(10), || {
        node.agent_log()
            .contains("the routing table 254 is the kernel's own")
    });
    assert_eq!(node.picture(), before);
}

#[test]
fn a_port_that_another_program_has_is_reported_before_the_node_leads() {
    let mut world = World::new(true);
    // One below 1024 may be tried by programs alone that have a capability for it, which agents have not.
    let given = [("a", "a2", 51_820), ("b", "b1", 500)];
    world.publish_changed(|mesh| {
        for (location, node, port) in given {
            let of_it = mesh.locations.get_mut(&location.parse().unwrap()).unwrap();
            let member = of_it.members_mut().get_mut(&node.parse().unwrap());
            member.unwrap().listen_port = port;
        }
    });
    let mesh = world.mesh_file();
    for (_, name, port) in given {
        let node = world.node(name);
        let _taken = node.bind(port);
        node.start_agent(&mesh);
        let said = format!("the UDP port {port} is taken by another program");
        wait_until("the clash", Duration::from_secs(10), || {
            node.agent_log().contains(&said)
        });
    }
    world.node("b2").start_agent(&mesh);
    let free = world.node("b2");
    wait_until("ready", Duration::from_secs(10), || {
        free.ask("/readyz").contains("200 OK")
    });
    assert!(!free.agent_log().contains("51820"), "{}", free.agent_log());
}
