//! The data path with all offloads, with none, and with those that a device or path refuses.

use std::fs;

use crate::{
    traffic::transfer,
    world::{Engine, Side, World, families, other},
};

const MEGABYTES: u32 = 20;

fn assert_moves(world: &World) {
    let World { a, b } = world;
    transfer(a, b, b.inner[0], MEGABYTES);
    transfer(b, a, a.inner[1], MEGABYTES);
}

fn log(side: &Side) -> String {
    fs::read_to_string(side.log.path()).unwrap()
}

#[test]
fn streams_come_through_whole_with_and_without_offloads() {
    for (a, b) in [
        (Engine::Ours, Engine::Ours),
        (Engine::Ours, Engine::Plain),
        (Engine::Plain, Engine::Ours),
        (Engine::Plain, Engine::Plain),
        (Engine::Plain, other()),
    ] {
        assert_moves(&World::joined(a, b, false));
    }
}

#[test]
fn the_log_says_which_offloads_are_used() {
    let world = World::new(Engine::Ours, Engine::Plain);
    let (with, without) = (log(&world.a), log(&world.b));
    assert!(
        with.contains("vnet: true") && with.contains("gso: true, gro: true"),
        "{with}"
    );
    assert!(
        without.contains("vnet: false") && without.contains("gso: false, gro: false"),
        "{without}"
    );
}

#[test]
fn bulk_goes_in_few_calls_where_offloads_are() {
    let world = World::joined(Engine::Ours, Engine::Ours, false);
    let received = || -> u64 {
        let devices = world.b.run(&["cat", "/proc/net/dev"]);
        let name = format!("{}:", world.b.device);
        let counters = devices.lines().find_map(|line| line.trim().strip_prefix(&name));
        // Bytes received, packets received, …
        counters
            .unwrap()
            .split_whitespace()
            .nth(1)
            .unwrap()
            .parse()
            .unwrap()
    };
    let before = received();
    transfer(&world.a, &world.b, world.b.inner[0], MEGABYTES);
    let written = received() - before;
    let segments = u64::from(MEGABYTES) * 1_000_000 / 1_368;
    assert!(written < segments / 4, "{written} writes for {segments} segments");
}

/// Kernels before 6.11 refuse batches there, later ones cut them.
#[test]
fn a_wire_that_computes_no_checksums_carries_streams() {
    let world = World::joined(Engine::Ours, Engine::Ours, false);
    for side in [&world.a, &world.b] {
        side.run(&["ethtool", "-K", "eth0", "tx", "off"]);
    }
    assert_moves(&world);
}

#[test]
fn a_path_that_is_too_narrow_is_sent_single_datagrams_in_fragments() {
    let world = World::joined(Engine::Ours, Engine::Ours, false);
    for side in [&world.a, &world.b] {
        side.run(&["ip", "link", "set", "eth0", "mtu", "1300"]);
    }
    assert_moves(&world);
    assert!(
        log(&world.a).contains("cannot be sent batches"),
        "{}",
        log(&world.a)
    );
}

#[test]
fn a_wire_without_segmentation_carries_streams() {
    let world = World::joined(Engine::Ours, Engine::Ours, true);
    for side in [&world.a, &world.b] {
        side.run(&["ethtool", "-K", "eth0", "tx-udp-segmentation", "off"]);
    }
    assert_moves(&world);
}

#[test]
fn congestion_marks_of_packets_are_on_their_datagrams() {
    for v6 in families() {
        let world = World::joined(Engine::Ours, other(), v6);
        let World { a, b } = &world;
        a.run(&["nft", "add table inet t"]);
        a.run(&[
            "nft",
            "add chain inet t o { type filter hook output priority 0; }",
        ]);
        let family = if v6 { "ip6" } else { "ip" };
        a.run(&[
            "nft",
            &format!("add rule inet t o udp dport 51820 {family} ecn ect0 counter"),
        ]);
        let marked = || {
            let table = a.run(&["nft", "list", "table", "inet", "t"]);
            let count = table
                .split("packets ")
                .nth(1)
                .and_then(|rest| rest.split(' ').next());
            count
                .and_then(|count| count.parse::<u64>().ok())
                .unwrap_or_else(|| panic!("no counter in {table}"))
        };
        // One by one: what is sent in one call is counted once.
        let ping = |tos: &str| {
            for _ in 0..3 {
                a.run(&["ping", "-q", "-c", "1", "-Q", tos, &b.inner[0].to_string()]);
            }
        };
        ping("0");
        assert_eq!(marked(), 0);
        ping("2");
        assert_eq!(marked(), 3, "v6 outside: {v6}");
    }
}
