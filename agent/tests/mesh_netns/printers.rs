//! Machines in the LAN of a location that know nothing of the mesh.

use std::time::Duration;

use spanwire_testbed::{Family, Namespace, lan, wait_until};

use crate::world::World;

const SOON: Duration = Duration::from_secs(10);
const PRINTER: &str = "10.1.0.99";

/// One that has no route but to its own network, and counts who asks it: the leader of a, and others.
fn printer(world: &World) -> Namespace {
    let printer = Namespace::new();
    world.network.router.run(&format!(
        "ip link add printer type veth peer name eth0 netns {}
         ip link set printer master lan1 up",
        printer.pid()
    ));
    printer.run(&format!(
        "ip link set eth0 up
         ip address add {PRINTER}/24 dev eth0"
    ));
    count_askers(&printer, &lan(1, Family::V4).to_string());
    printer
}

fn count_askers(of: &Namespace, expected: &str) {
    of.nft(&format!(
        "table inet asked {{
           chain input {{
             type filter hook input priority 0;
             icmp type echo-request ip saddr {expected} counter accept
             icmp type echo-request counter
           }}
         }}"
    ));
}

/// Returns how many echo requests came from whom was expected, and from others.
fn asked(of: &Namespace) -> [u64; 2] {
    let listing = of.run("nft list table inet asked");
    let counts = listing.lines().filter_map(|line| {
        let (_, count) = line.split_once("counter packets ")?;
        count.split(' ').next()?.parse().ok()
    });
    counts.collect::<Vec<u64>>().try_into().unwrap()
}

/// The network of the LAN has the nodes of the location in it, whose own addresses are none of this.
fn publish(world: &World, masquerade: bool) {
    world.publish_changed(|mesh| {
        let a = mesh.locations.get_mut(&"a".parse().unwrap()).unwrap();
        a.settings.cidrs = ["10.1.0.0/24".parse().unwrap()].into();
        a.settings.masquerade = masquerade;
    });
}

#[test]
fn a_machine_without_a_route_back_answers_pods_and_nodes_elsewhere_where_its_location_masquerades() {
    let mut world = World::new(true);
    let printer = printer(&world);
    publish(&world, true);
    let mesh = world.mesh_file();
    world.nodes.iter_mut().for_each(|node| node.start_agent(&mesh));
    world.wait_for_pods();
    for from in ["b1", "b2"] {
        wait_until("the printer answers a pod", SOON, || {
            world.node(from).pod.pings(PRINTER)
        });
        assert!(world.node(from).host.pings(PRINTER), "it answers {from}");
    }
    let [by_leader, by_others] = asked(&printer);
    assert!(by_leader >= 4 && by_others == 0, "{by_leader} and {by_others}");

    // Nodes and pods of the location see who asks them.
    let pod = "10.244.3.2";
    count_askers(&world.node("a2").host, pod);
    count_askers(&world.node("a2").pod, pod);
    for target in ["10.1.0.2", "10.244.2.2"] {
        assert!(world.node("b1").pod.pings(target), "{target} answers");
    }
    assert_eq!(asked(&world.node("a2").host)[0], 1, "agents ask it, too");
    assert_eq!(asked(&world.node("a2").pod), [1, 0]);

    publish(&world, false);
    wait_until("the printer sees who asks, and cannot answer", SOON, || {
        !world.node("b1").pod.pings(PRINTER)
    });
    assert!(asked(&printer)[1] > 0);
    publish(&world, true);
    wait_until("the printer answers again", SOON, || {
        world.node("b1").pod.pings(PRINTER)
    });
}
