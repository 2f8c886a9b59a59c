//! Both ways with those other WireGuards that the rest of the tests does not run with.

use std::thread;

use crate::{
    interop::{assert_carries, assert_moves_bulk},
    traffic::transfer,
    world::{Engine, Side, World, run, wait_for},
};

const OTHERS: [Engine; 2] = [Engine::DebiansWireguardGo, Engine::Boringtun];

/// Runs a test with each of the others, with us on either side.
fn with_each(v6: bool, test: impl Fn(World) + Sync) {
    let test = &test;
    thread::scope(|scope| {
        for other in OTHERS {
            scope.spawn(move || {
                for (a, b) in [(Engine::Ours, other), (other, Engine::Ours)] {
                    test(World::joined(a, b, v6));
                }
            });
        }
    });
}

#[test]
fn either_initiates_over_ipv4_and_bulk_goes_both_ways() {
    with_each(false, |world| {
        assert_carries(&world);
        assert_moves_bulk(&world);
    });
}

#[test]
fn either_initiates_over_ipv6_and_bulk_goes_both_ways() {
    with_each(true, |world| {
        assert_carries(&world);
        assert_moves_bulk(&world);
    });
}

#[test]
fn a_preshared_key_agreed_on_carries_and_another_does_not() {
    with_each(false, |world| {
        let [good, bad] = [run(&["wg", "genpsk"]), run(&["wg", "genpsk"])];
        let World { a, b } = &world;
        let meet = |side: &Side, peer: &Side, endpoint, key: &str| {
            side.wg(&["peer", &peer.public, "remove"]);
            side.know_with(peer, endpoint, key);
        };
        meet(b, a, None, &good);
        meet(a, b, Some(b.outer[0]), &bad);
        assert!(!a.reaches(b.inner[0]), "a wrong preshared key opens the door");
        meet(a, b, Some(b.outer[0]), &good);
        wait_for("a session under the preshared key", || a.reaches(b.inner[0]));
        assert_carries(&world);
    });
}

#[test]
fn either_follows_the_other_to_another_port() {
    with_each(false, |world| {
        assert_carries(&world);
        for (mover, other, port) in [(&world.b, &world.a, "40404"), (&world.a, &world.b, "40405")] {
            mover.wg(&["listen-port", port]);
            wait_for("the moved side to come through", || mover.reaches(other.inner[0]));
            assert_eq!(other.endpoint(), format!("{}:{port}", mover.outer[0]));
            assert_carries(&world);
        }
    });
}

#[test]
fn packets_of_every_padding_arrive() {
    with_each(false, |world| {
        for length in (0..34).chain(1380..=1392) {
            let (length, to) = (length.to_string(), world.b.inner[0].to_string());
            let output = world
                .a
                .try_run(&["ping", "-q", "-c", "1", "-W", "2", "-s", &length, &to]);
            assert!(
                output.status.success(),
                "{:?}: {length} bytes do not arrive",
                world.a.engine
            );
        }
    });
}

#[test]
fn who_is_killed_and_started_again_comes_back() {
    with_each(false, |mut world| {
        assert_carries(&world);
        world.a.crash();
        world.a.start();
        world.a.dress();
        world.a.know(&world.b, Some(world.b.outer[0]));
        wait_for("the restarted side to come through", || {
            world.a.reaches(world.b.inner[0])
        });
        transfer(&world.b, &world.a, world.a.inner[0], 1);
    });
}
