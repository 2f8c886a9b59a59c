//! An internet that delays, loses, duplicates and reorders packets, as netem makes it (tc-netem(8)).
//!
//! The machine's own kernel may not have netem. The Linux that runs as a program does, with the kernel's WireGuard (`scripts/test-kernel`).

use std::{thread, time::Duration};

use spanwire_testbed::{Namespace, wait_until};

use crate::{
    failover::{LATE, SECOND, WAYS, missed, world},
    wireguard::{Backend, backend},
    world::World,
};

/// A round trip of 200 ms whose times vary by a fifth.
const FAR: &str = "delay 100ms 20ms duplicate 2% reorder 5% 50%";

fn has_netem() -> bool {
    let kernel = Namespace::new();
    let has = kernel.try_run("tc qdisc add dev lo root netem delay 1ms");
    let has = has.status.success();
    assert!(
        has || backend() == Backend::Tunnel,
        "e2e/uml/config asks for netem"
    );
    if !has {
        eprintln!("not tried: this kernel has no netem");
    }
    has
}

/// Sets what happens to packets that enter the LANs of the locations from the internet; what stays in a LAN is as before.
fn internet(world: &World, towards_a: &str, towards_b: &str) {
    for (lan, how) in [("lan1", towards_a), ("lan2", towards_b)] {
        let netem = format!("tc qdisc replace dev {lan} root netem limit 10000 {how}");
        world.network.router.run(&netem);
    }
}

/// How often nodes have given up a leader of the other location until now.
fn failovers(world: &World) -> u32 {
    let of_node = |metrics: String| -> u32 {
        let lines = metrics
            .lines()
            .filter_map(|line| line.strip_prefix("spanwire_agent_failovers_total{"));
        lines
            .map(|line| line.rsplit_once(' ').unwrap().1.parse::<u32>().unwrap())
            .sum()
    };
    world.nodes.iter().map(|node| of_node(node.ask("/metrics"))).sum()
}

/// How often nodes give up a leader in that time.
fn failovers_within(world: &World, time: Duration) -> u32 {
    let before = failovers(world);
    thread::sleep(time);
    failovers(world) - before
}

#[test]
fn a_far_location_whose_packets_come_in_another_order_loses_nothing_and_fails_over_in_time() {
    if !has_netem() {
        return;
    }
    let mut world = world();
    missed(&mut world, "b becomes far", &WAYS, |world| {
        internet(world, FAR, FAR);
    });
    // Until detectors know the new times.
    thread::sleep(5 * SECOND);
    let pings = WAYS.map(|(from, to)| (from, world.node(from).pod.start_ping(to)));
    assert_eq!(failovers_within(&world, 15 * SECOND), 0);
    for (from, ping) in pings {
        let (sent, returned) = ping.stop();
        // The last ones were under way.
        assert!(sent - returned <= 50, "{from}: {returned} of {sent}");
    }
    missed(
        &mut world,
        "a1 of a far location without its link",
        &WAYS,
        |world| {
            world.network.router.run("ip link set a1 down");
        },
    );
}

/// One that is given up after three packets in a row would be given up several times a second at 20 %.
#[test]
fn leaders_are_not_given_up_for_packets_that_are_lost_at_random_and_are_when_they_fail() {
    if !has_netem() {
        return;
    }
    let mut world = world();
    for (what, towards_a, towards_b, answered) in [
        ("5 % each way", "loss 5%", "loss 5%", 90),
        ("20 % each way", "loss 20%", "loss 20%", 64),
        ("20 % one way", "loss 20%", "delay 1ms", 80),
    ] {
        internet(&world, towards_a, towards_b);
        // Until detectors know it.
        thread::sleep(8 * SECOND);
        let pings = WAYS.map(|(from, to)| (from, world.node(from).pod.start_ping(to)));
        let count = failovers_within(&world, 15 * SECOND);
        eprintln!("{what}: {count} failovers");
        assert!(count <= 3, "{what}: {count} failovers of four nodes in 15 s");
        for (from, ping) in pings {
            let (sent, returned) = ping.stop();
            eprintln!("{what}: {from} missed {} of {sent}", sent - returned);
            // What the network takes, and a tenth.
            assert!(
                returned * 100 >= sent * (answered - 10),
                "{what}: {from} got {returned} of {sent}"
            );
        }
    }
    internet(&world, "loss 20%", "loss 20%");
    world.network.router.run("ip link set a1 down");
    for (from, to) in WAYS {
        wait_until("the way by the standby leader", 4 * LATE, || {
            world.node(from).pod.pings(to)
        });
    }
}
