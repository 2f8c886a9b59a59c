//! The active leader's role moves to the standby one.

use std::{thread, time::Duration};

use spanwire_testbed::{Family, services, wait_until};

use crate::{
    wireguard::{Backend, backend},
    world::World,
};

/// Long beside what a ping takes, and beside what an agent takes to follow.
const LATE: Duration = Duration::from_millis(500);

const FIRST: [&str; 2] = ["a1", "a2"];
const SECOND: [&str; 2] = ["a2", "a1"];

/// Two locations, one of them with a standby leader that has its own tunnel.
fn with_standby(mut world: World) -> World {
    for name in ["a1", "a2", "b1", "b2"] {
        world.publish_to(name, FIRST);
        let mesh = world.mesh_of(name);
        world.node(name).start_agent(&mesh);
    }
    world.wait_for_pods();
    wait_until("the standby leader's tunnel", Duration::from_secs(10), || {
        world.node("b1").host.pings("10.4.0.2")
    });
    world
}

#[test]
fn every_server_answers_beside_a_standby_leader_that_takes_on_what_it_is_brought() {
    let world = with_standby(World::new(true));
    services::all_answer(&world.network, Family::V4);
}

/// There, what asks a standby leader from outside the mesh comes in by the same device as what a node of the location has
/// it take on.
#[test]
fn every_server_answers_beside_a_standby_leader_where_the_cni_has_no_device() {
    let world = with_standby(World::without_cni_device());
    services::all_answer(&world.network, Family::V4);
}

#[test]
fn no_packet_is_lost_however_late_a_node_hears_of_a_move() {
    let mut world = with_standby(World::new(true));
    let pings = [("a2", "10.244.4.2"), ("b2", "10.244.1.2"), ("a1", "10.244.3.2")];
    let running = pings.map(|(from, to)| world.node(from).pod.start_ping(to));
    // First both of a are standby leaders, or both active; first near, first far, and in turns.
    for (order, hear) in [
        (SECOND, ["a1", "a2", "b1", "b2"]),
        (FIRST, ["a1", "b2", "a2", "b1"]),
        (SECOND, ["b1", "b2", "a2", "a1"]),
        (FIRST, ["b2", "a2", "b1", "a1"]),
    ] {
        for name in hear {
            world.publish_to(name, order);
            thread::sleep(LATE);
        }
        for (from, to) in pings {
            assert!(
                world.node(from).pod.pings(to),
                "{from} to {to}, when all have heard"
            );
        }
    }
    for ((from, to), ping) in pings.into_iter().zip(running) {
        let (sent, returned) = ping.stop();
        eprintln!("{from} to {to}: {returned} of {sent} pings answered");
        // With the kernel's WireGuard a source belongs to one leader, and what comes by the other one is lost for as long as
        // the two sides differ.
        assert!(
            sent == returned || backend() == Backend::Kernel,
            "{from} to {to}: {} of {sent} pings were lost",
            sent - returned
        );
    }
}
