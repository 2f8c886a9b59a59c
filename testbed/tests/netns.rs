//! The namespaces and the network of two locations are what tests take them for. Needs root.

use std::{net::UdpSocket, process::Stdio, time::Duration};

use spanwire_testbed::{Command, FAMILIES, Family, NODES, Namespace, World, isolated, pod, wait_until};

#[test]
fn pods_reach_pods_and_nodes_reach_nodes_in_both_families_and_sources_are_kept() {
    let world = World::two_locations(&FAMILIES);
    for family in FAMILIES {
        for from in &world.nodes {
            for to in &world.nodes {
                for (near, far) in [
                    (&from.pod, to.pod_address(family)),
                    (&from.host, to.pod_address(family)),
                    (&from.host, to.lan(family)),
                ] {
                    // IPv6 is ready when the kernel has noticed the carrier.
                    wait_until(
                        &format!("{} to {far}", from.name),
                        Duration::from_secs(10),
                        || near.pings(&far.to_string()),
                    );
                }
            }
        }
    }
    let far = world.node("b2");
    far.pod.nft(
        "table inet seen { chain input { type filter hook input priority 0; ip saddr 10.244.2.2 counter; }; }",
    );
    assert!(world.node("a2").pod.pings(&pod(4, Family::V4).to_string()));
    let counted = far.pod.run("nft list table inet seen");
    assert!(counted.contains("packets 1 "), "{counted}");
}

#[test]
fn what_the_router_drops_does_not_arrive() {
    let world = World::two_locations(&[Family::V4]);
    let (near, far) = (world.node("a2"), world.node("b2"));
    let to = far.lan(Family::V4).to_string();
    assert!(near.host.pings(&to));
    world
        .router
        .nft("table inet t { chain forward { type filter hook forward priority 0; drop; }; }");
    assert!(!near.host.pings(&to), "between locations");
    assert!(
        near.host.pings(&world.node("a1").lan(Family::V4).to_string()),
        "in a location"
    );
}

#[test]
fn without_ipv6_no_node_has_more_than_a_link_local_address() {
    let world = World::two_locations(&[Family::V4]);
    assert_eq!(world.nodes.len(), NODES.len());
    for node in &world.nodes {
        let addresses = node.host.run("ip -6 -o address show scope global");
        assert_eq!(addresses, "", "{}", node.name);
    }
}

#[test]
fn a_namespace_lives_as_long_as_one_of_its_copies() {
    let namespace = Namespace::new();
    let copy = namespace.clone();
    let file = format!("/proc/{}/ns/net", namespace.pid());
    drop(namespace);
    copy.run("ip link show lo | grep -q ,UP");
    drop(copy);
    assert!(!std::path::Path::new(&file).exists());
}

#[test]
fn a_socket_that_is_made_inside_stays_there() {
    let namespace = Namespace::new();
    let _socket = namespace.inside(|| UdpSocket::bind("127.0.0.1:7").expect("it is free there"));
    let listed = namespace.run("ss -Hluna");
    assert!(listed.contains("127.0.0.1:7"), "{listed}");
}

#[test]
fn commands_of_an_isolated_test_run_in_its_namespace() {
    let (inside, outside) = (
        isolated(|| Command::shell("readlink /proc/self/ns/net").run()),
        Command::shell("readlink /proc/self/ns/net").run(),
    );
    assert_ne!(inside, outside);
}

#[test]
fn pings_are_counted_until_they_are_stopped() {
    let namespace = Namespace::new();
    let ping = namespace.start_ping("127.0.0.1");
    let (sent, answered) = ping.stop();
    assert!(sent > 1 && answered == sent, "{answered} of {sent}");
}

#[test]
#[should_panic(expected = "scripts/programs")]
fn an_unlisted_program_is_refused_in_a_namespace() {
    let _ = Namespace::new().command("nmap");
}

#[test]
#[should_panic(expected = "no such luck")]
fn a_command_that_fails_says_what_it_said() {
    Command::shell("echo no such luck >&2; exit 3").run();
}

#[test]
fn text_is_fed_and_what_is_spawned_goes_where_it_is_told() {
    assert_eq!(
        Command::new("tr").args(["a", "b"]).input("banana").run(),
        "bbnbnb"
    );
    let child = Command::shell("echo out; echo err >&2")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    assert_eq!(child.wait_with_output().expect("it ends").stdout, b"out\n");
}
