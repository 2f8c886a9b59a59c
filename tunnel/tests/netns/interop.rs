//! Ours on one side, another WireGuard on the other.

use std::{
    thread,
    time::{Duration, Instant},
};

use crate::{
    traffic::transfer,
    world::{Engine, Side, World, families, other, pipe, run, slowness, wait_for},
};

/// Below the five seconds after which WireGuard repeats a handshake, with room for a machine that is busy.
pub(crate) const AT_ONCE: Duration = Duration::from_secs(4);

/// Asserts that packets pass between two sides, both ways, both families.
pub(crate) fn assert_carries(world: &World) {
    let World { a, b } = world;
    for family in 0..2 {
        assert!(
            a.pings(b.inner[family], 5),
            "{:?} to {:?}, family {family}",
            a.engine,
            b.engine
        );
        assert!(
            b.pings(a.inner[family], 5),
            "{:?} to {:?}, family {family}",
            b.engine,
            a.engine
        );
    }
}

pub(crate) fn assert_moves_bulk(world: &World) {
    let World { a, b } = world;
    let megabytes = 24 / slowness();
    transfer(a, b, b.inner[0], megabytes);
    transfer(b, a, a.inner[1], megabytes);
    for side in [a, b] {
        assert!(
            side.received() > u64::from(megabytes) * 1_000_000,
            "{:?} counts {} bytes",
            side.engine,
            side.received()
        );
        // boringtun-cli says how long ago it was.
        assert!(side.engine == Engine::Boringtun || side.last_handshake() > 1_700_000_000);
    }
}

#[test]
fn we_initiate_over_ipv4() {
    let world = World::joined(Engine::Ours, other(), false);
    assert_carries(&world);
    assert_moves_bulk(&world);
}

#[test]
fn we_initiate_over_ipv6() {
    let world = World::joined(Engine::Ours, other(), true);
    assert_carries(&world);
    assert_moves_bulk(&world);
}

#[test]
fn we_answer_over_ipv4() {
    let world = World::joined(other(), Engine::Ours, false);
    assert_carries(&world);
    assert_moves_bulk(&world);
}

#[test]
fn we_answer_over_ipv6() {
    let world = World::joined(other(), Engine::Ours, true);
    assert_carries(&world);
    assert_moves_bulk(&world);
}

#[test]
fn we_talk_to_ourselves() {
    let world = World::joined(Engine::Ours, Engine::Ours, true);
    assert_carries(&world);
    assert_moves_bulk(&world);
}

#[test]
fn packets_of_every_length_arrive() {
    let world = World::joined(Engine::Ours, other(), false);
    for length in (0..64).chain(1380..=1392).chain([4000, 30_000]) {
        let (length, to) = (length.to_string(), world.b.inner[0].to_string());
        let output = world
            .a
            .try_run(&["ping", "-q", "-c", "1", "-W", "2", "-s", &length, &to]);
        assert!(output.status.success(), "{length} bytes do not arrive");
    }
}

#[test]
fn a_tunnel_wider_than_the_wire_is_fragmented_outside() {
    for v6 in families() {
        assert_fragments(&World::joined(Engine::Ours, other(), v6));
    }
}

fn assert_fragments(world: &World) {
    for side in [&world.a, &world.b] {
        side.run(&["ip", "link", "set", &side.device, "mtu", "4000"]);
    }
    // Routers on the way may fragment, too: what we send over IPv4 never says "don't".
    for rule in [
        "add table t",
        "add chain t i { type filter hook input priority 0; }",
    ] {
        world
            .b
            .run(&[&["nft"], rule.split(' ').collect::<Vec<_>>().as_slice()].concat());
    }
    world.b.run(&[
        "nft",
        "add rule t i udp dport 51820 ip frag-off & 0x4000 != 0 counter drop",
    ]);
    assert!(world.a.pings(world.b.inner[0], 2));
    let to = world.b.inner[0].to_string();
    let output = world.a.try_run(&[
        "ping", "-q", "-c", "3", "-i", "0.1", "-M", "do", "-s", "3900", &to,
    ]);
    assert!(output.status.success(), "{output:?}");

    // The new MTU counts for padding, too: 1981 + 28 bytes become 2016.
    let before = world.b.received();
    assert!(
        world
            .a
            .try_run(&["ping", "-q", "-c", "1", "-W", "2", "-s", "1981", &to])
            .status
            .success()
    );
    assert_eq!(world.b.received() - before, 2016 + 32);
}

#[test]
fn peers_configured_before_an_eager_device_is_up_hear_of_us_when_it_is() {
    let world = World::new(Engine::Ours, other());
    world.a.hurry();
    world.a.run(&["ip", "link", "set", &world.a.device, "down"]);
    world.b.know(&world.a, None);
    world.a.know(&world.b, Some(world.b.outer[0]));
    thread::sleep(Duration::from_millis(500));
    assert_eq!(world.b.last_handshake(), 0, "a device that is down talks");
    world.a.run(&["ip", "link", "set", &world.a.device, "up"]);
    let up = Instant::now();
    wait_for("a handshake", || world.b.last_handshake() > 0);
    assert!(up.elapsed() < slowness() * AT_ONCE, "it took {:?}", up.elapsed());
}

#[test]
fn an_eager_device_initiates_as_soon_as_a_peer_has_an_endpoint() {
    let world = World::new(Engine::Ours, other());
    world.a.hurry();
    world.b.know(&world.a, None);
    world.a.know(&world.b, Some(world.b.outer[0]));
    wait_for("a handshake without traffic", || {
        world.a.last_handshake() > 0 && world.b.last_handshake() > 0
    });
}

#[test]
fn we_follow_a_peer_that_changes_port_and_address() {
    let world = World::joined(Engine::Ours, other(), false);
    assert_carries(&world);
    world.b.wg(&["listen-port", "40404"]);
    assert!(world.b.pings(world.a.inner[0], 3));
    assert_eq!(world.a.endpoint(), format!("{}:40404", world.b.outer[0]));
    assert_carries(&world);

    move_address(&world.b);
    // wireguard-go sends from the address that is gone until its endpoint is set again.
    let endpoint = format!("{}:51820", world.a.outer[0]);
    world.b.wg(&["peer", &world.a.public, "endpoint", &endpoint]);
    wait_for("the moved peer to come through", || {
        world.b.reaches(world.a.inner[0])
    });
    assert_eq!(world.a.endpoint(), "192.0.2.99:40404");
    assert_carries(&world);
}

#[test]
fn a_peer_follows_us_when_port_and_address_change() {
    let world = World::joined(Engine::Ours, other(), false);
    assert_carries(&world);
    world.a.wg(&["listen-port", "40404"]);
    assert!(world.a.pings(world.b.inner[0], 3));
    assert_eq!(world.b.endpoint(), format!("{}:40404", world.a.outer[0]));

    move_address(&world.a);
    wait_for("us to come through after moving", || {
        world.a.reaches(world.b.inner[0])
    });
    assert_eq!(world.b.endpoint(), "192.0.2.99:40404");
    assert_carries(&world);
}

/// Gives a side another outer IPv4 address.
fn move_address(side: &Side) {
    side.run(&["ip", "addr", "flush", "dev", "eth0", "scope", "global"]);
    side.add_address("eth0", "192.0.2.99".parse().unwrap());
}

#[test]
fn a_preshared_key_is_used_and_can_be_changed() {
    let world = World::joined(Engine::Ours, other(), false);
    assert_carries(&world);
    let agree = |key: &str| {
        for (side, peer) in [(&world.a, &world.b), (&world.b, &world.a)] {
            side.wg_with_stdin(&["peer", &peer.public, "preshared-key", "/dev/stdin"], key);
        }
    };
    for _ in 0..2 {
        let key = run(&["wg", "genpsk"]);
        agree(&key);
        wait_for("a session under the new preshared key", || {
            world.a.reaches(world.b.inner[0])
        });
        assert_eq!(world.a.peer_dump()[1], key.trim());
        assert_carries(&world);
    }

    // The other side keeps a session it has; a wrong key shows when we need a new one.
    let wrong = run(&["wg", "genpsk"]);
    world
        .a
        .wg_with_stdin(&["peer", &world.b.public, "preshared-key", "/dev/stdin"], &wrong);
    assert!(
        !world.a.reaches(world.b.inner[0]),
        "a wrong preshared key opens the door"
    );
}

#[test]
fn a_new_private_key_ends_the_old_identity() {
    let world = World::joined(Engine::Ours, other(), false);
    assert_carries(&world);
    let private = run(&["wg", "genkey"]);
    let public = pipe(&["wg", "pubkey"], &private);
    world.a.wg_with_stdin(&["private-key", "/dev/stdin"], &private);
    assert!(!world.a.reaches(world.b.inner[0]), "the old identity lives on");
    let allowed = format!("{}/32,{}/128", world.a.inner[0], world.a.inner[1]);
    world.b.wg(&["peer", &world.a.public, "remove"]);
    world.b.wg(&["peer", public.trim(), "allowed-ips", &allowed]);
    wait_for("the new identity to come through", || {
        world.a.reaches(world.b.inner[0])
    });
    assert_carries(&world);
}

#[test]
fn a_source_that_does_not_belong_to_the_peer_is_dropped() {
    let world = World::joined(Engine::Ours, other(), false);
    assert_carries(&world);
    let stranger = "10.77.0.66".parse().unwrap();
    world.b.add_address(&world.b.device, stranger);
    let stranger = |to: &str| {
        world
            .b
            .try_run(&["ping", "-q", "-c", "1", "-W", "0.3", "-I", "10.77.0.66", to])
            .status
            .success()
    };
    let to = world.a.inner[0].to_string();
    assert!(!stranger(&to), "a foreign source passes");
    world.a.wg(&[
        "peer",
        &world.b.public,
        "allowed-ips",
        "10.77.0.2/32,fd77::2/128,10.77.0.66/32",
    ]);
    wait_for("an allowed source to pass", || stranger(&to));
}

#[test]
fn a_killed_and_restarted_device_that_is_eager_is_back_at_once() {
    let mut world = World::joined(Engine::Ours, other(), false);
    assert_carries(&world);
    world.a.crash();
    world.a.start();
    world.a.dress();
    world.a.hurry();
    let start = Instant::now();
    world.a.know(&world.b, Some(world.b.outer[0]));
    // The other side still holds the dead session, and speaks first.
    wait_for("the other side to come through", || {
        world.b.reaches(world.a.inner[0])
    });
    assert!(
        start.elapsed() < slowness() * AT_ONCE,
        "it took {:?}",
        start.elapsed()
    );
    assert_carries(&world);
}

#[test]
fn a_persistent_keepalive_is_sent_without_traffic() {
    let world = World::joined(Engine::Ours, other(), false);
    assert_carries(&world);
    world
        .a
        .wg(&["peer", &world.b.public, "persistent-keepalive", "1"]);
    let (start, before) = (Instant::now(), world.b.received());
    thread::sleep(Duration::from_secs(4));
    let keepalives = (world.b.received() - before) / 32;
    let seconds = start.elapsed().as_secs();
    assert!(
        (2..=seconds + 2).contains(&keepalives),
        "{keepalives} keepalives in {seconds} s"
    );
}

/// Runs in parallel with all others and takes as long as a session key may live.
#[test]
fn sessions_are_renewed_without_losing_a_packet() {
    let worlds = [(Engine::Ours, other()), (other(), Engine::Ours)].map(|(a, b)| World::joined(a, b, false));
    thread::scope(|scope| {
        for world in &worlds {
            scope.spawn(|| assert_rekeys(world));
        }
    });
}

fn assert_rekeys(world: &World) {
    assert_carries(world);
    let before = (world.a.last_handshake(), world.b.last_handshake());
    let to = world.b.inner[0].to_string();
    let output = world
        .a
        // By number and not by time, or the last one has none to come back.
        .command(&["ping", "-O", "-i", "0.1", "-W", "2", "-c", "1260", &to])
        .output();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines = said.lines().filter(|line| !line.contains("bytes from"));
    let missed = lines.collect::<Vec<_>>().join("\n");
    assert!(said.contains(" 0% packet loss"), "{:?}: {missed}", world.a.engine);
    let after = (world.a.last_handshake(), world.b.last_handshake());
    for (before, after) in [(before.0, after.0), (before.1, after.1)] {
        assert!(
            (115..130).contains(&(after - before)),
            "{:?}: renewed after {} s",
            world.a.engine,
            after - before
        );
    }
}
