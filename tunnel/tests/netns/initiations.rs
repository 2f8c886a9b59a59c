//! When a device speaks first, and how soon packets flow when the other side, or an address, is there later.

use std::{
    thread,
    time::{Duration, Instant},
};

use spanwire_testbed::wait_until;

use crate::{
    interop::AT_ONCE,
    world::{Engine, World, other, slowness, wait_for},
};

/// Field of `wg show dump` with the bytes sent to a peer.
const SENT: usize = 6;

#[test]
fn a_device_that_has_nothing_to_say_is_silent_and_the_first_packet_waits_for_nothing() {
    let world = World::new(Engine::Ours, other());
    let World { a, b } = &world;
    a.know(b, Some(b.outer[0]));
    a.run(&["ip", "link", "set", &a.device, "down"]);
    a.run(&["ip", "link", "set", &a.device, "up"]);
    wait_for("the port to open again", || {
        a.run(&["ss", "-uln"]).contains(":51820")
    });
    thread::sleep(Duration::from_millis(300));
    assert_eq!(a.peer_dump()[SENT], "0");
    b.know(a, None);
    let start = Instant::now();
    assert!(a.pings(b.inner[0], 1));
    let waited = start.elapsed();
    assert!(waited < AT_ONCE, "{waited:?}");
}

#[test]
fn a_device_that_is_down_sends_and_counts_nothing_and_forgets_what_waited() {
    let world = World::new(Engine::Ours, other());
    let World { a, b } = &world;
    let listens = || a.run(&["ss", "-uln"]).contains(":51820");
    a.know(b, Some(b.outer[0]));
    assert!(!a.reaches(b.inner[0]), "the other side does not know this one");
    a.run(&["ip", "link", "set", &a.device, "down"]);
    // It is followed within a second.
    thread::sleep(Duration::from_millis(1200));
    let sent = a.peer_dump()[SENT].clone();
    a.wg(&["peer", &b.public, "persistent-keepalive", "1"]);
    // An initiation would be repeated by then.
    thread::sleep(Duration::from_secs(6));
    assert_eq!(a.peer_dump()[SENT], sent, "it is down");
    a.wg(&["peer", &b.public, "persistent-keepalive", "off"]);
    a.run(&["ip", "link", "set", &a.device, "up"]);
    wait_for("the port to open again", listens);
    thread::sleep(Duration::from_millis(300));
    assert_eq!(a.peer_dump()[SENT], sent, "the ping is of the time before");
    b.know(a, None);
    assert!(a.pings(b.inner[0], 1));
}

#[test]
fn who_is_to_be_kept_alive_is_called_when_the_interface_comes_up_or_the_private_key_is_set_after() {
    let world = World::new(Engine::Ours, other());
    let World { a, b } = &world;
    let listens = || a.run(&["ss", "-uln"]).contains(":51820");
    let sends = || wait_until("a keepalive", AT_ONCE, || a.peer_dump()[SENT] != "0");
    for has_key in [true, false] {
        a.run(&["ip", "link", "set", &a.device, "down"]);
        // It is followed within a second.
        thread::sleep(Duration::from_millis(1200));
        a.know(b, Some(b.outer[0]));
        if !has_key {
            a.wg(&["private-key", "/dev/null"]);
        }
        a.wg(&["peer", &b.public, "persistent-keepalive", "1"]);
        assert_eq!(a.peer_dump()[SENT], "0", "it is down");
        a.run(&["ip", "link", "set", &a.device, "up"]);
        wait_for("the port to open again", listens);
        if !has_key {
            thread::sleep(Duration::from_millis(300));
            assert_eq!(a.peer_dump()[SENT], "0", "it has no key");
            a.wg_with_stdin(&["private-key", "/dev/stdin"], &a.private);
        }
        sends();
        a.wg(&["peer", &b.public, "remove"]);
    }
}

#[test]
fn endpoints_set_while_an_address_is_still_checked_for_duplicates_come_to_work() {
    for engine in [Engine::Ours, other()] {
        let world = World::new(Engine::Ours, engine);
        let World { a, b } = &world;
        let far = b.namespace.pid().to_string();
        for side in [a, b] {
            side.run(&["sysctl", "-qw", "net.ipv6.conf.default.accept_dad=1"]);
        }
        a.run(&[
            "ip", "link", "add", "eth1", "type", "veth", "peer", "name", "eth1", "netns", &far,
        ]);
        for (side, address) in [(a, "fd00:aa::1/64"), (b, "fd00:aa::2/64")] {
            side.run(&["ip", "addr", "add", address, "dev", "eth1"]);
            side.run(&["ip", "link", "set", "eth1", "up"]);
        }
        b.know(a, Some("fd00:aa::1".parse().unwrap()));
        a.know(b, Some("fd00:aa::2".parse().unwrap()));
        // What is lost is repeated after five seconds and a third.
        let soon = if slowness() == 1 { 6500 } else { 12_000 };
        let start = Instant::now();
        while !a.reaches(b.inner[0]) {
            let waited = start.elapsed();
            assert!(
                waited < Duration::from_millis(soon),
                "with {engine:?}: {} and {}",
                a.endpoint(),
                b.endpoint()
            );
        }
        eprintln!(
            "with {engine:?}: the first ping comes back after {:?}",
            start.elapsed()
        );
    }
}
