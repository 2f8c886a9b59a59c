//! Everything that may happen to a tunnel, at once, under streams of which every byte is checked.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use crate::{
    traffic::{Until, transfer_for},
    world::{Engine, Side, World, wait_for},
};

/// What is done to a pair of devices.
#[derive(Clone, Copy)]
struct Ordeal {
    /// How long streams last, one each way, again and again until all is done.
    time: Duration,
    /// What each carries.
    megabytes: u32,
    changes: u16,
    /// Between one change and the next.
    pause: Duration,
    /// Whether handshakes are provoked by endpoints of the other family; else they come by age alone.
    provoke: bool,
}

#[test]
fn streams_survive_changes_of_key_port_mtu_and_address() {
    let ordeal = Ordeal {
        time: Duration::from_secs(2),
        megabytes: 20,
        changes: 20,
        pause: Duration::from_millis(250),
        provoke: true,
    };
    thread::scope(|scope| {
        for other in [Engine::Ours, Engine::WireguardGo] {
            scope.spawn(move || {
                undergo(&World::joined(Engine::Ours, other, false), ordeal);
            });
        }
    });
}

#[test]
#[ignore = "takes 21 minutes: make soak-tunnel"]
fn streams_survive_ten_rekeys_and_changes_of_port_mtu_and_address() {
    let ordeal = Ordeal {
        time: Duration::from_secs(1270),
        megabytes: 1000,
        changes: 175,
        pause: Duration::from_secs(7),
        provoke: false,
    };
    thread::scope(|scope| {
        for other in [Engine::Ours, Engine::WireguardGo] {
            scope.spawn(move || {
                let renewals = undergo(&World::joined(Engine::Ours, other, false), ordeal);
                assert!(renewals >= 10, "{renewals} rekeys with {other:?}");
            });
        }
    });
}

/// Streams both ways while everything changes; returns how often the session was renewed.
fn undergo(world: &World, ordeal: Ordeal) -> u32 {
    let World { a, b } = world;
    a.hurry();
    // Before it has spoken, the other side does not know where it is, and says so.
    assert!(a.pings(b.inner[0], 1));
    let done = &AtomicBool::new(false);
    let renewals = thread::scope(|scope| {
        for (from, to, address) in [(a, b, b.inner[0]), (b, a, a.inner[1])] {
            scope.spawn(move || {
                transfer_for(ordeal.time, from, to, address, ordeal.megabytes);
                while !done.load(Ordering::Relaxed) {
                    transfer_for(ordeal.time, from, to, address, ordeal.megabytes);
                }
            });
        }
        let _until = Until(done);
        wait_for("the first handshake", || a.last_handshake() > 0);
        let first = a.last_handshake();
        let (start, mut handshake, mut renewals) = (Instant::now(), first, 0);
        for number in 0..ordeal.changes {
            change(world, number, ordeal.provoke);
            thread::sleep(ordeal.pause);
            let latest = a.last_handshake();
            renewals += u32::from(latest > handshake);
            handshake = latest;
        }
        wait_for("another handshake", || a.last_handshake() > first);
        eprintln!(
            "{:?} with {:?}: {renewals} renewals in {:?}",
            a.engine,
            b.engine,
            start.elapsed()
        );
        renewals
    });
    for side in [a, b] {
        let kilobytes = side.peak();
        eprintln!("{:?}: {kilobytes} kB at peak", side.engine);
        assert!(
            side.engine != Engine::Ours || kilobytes < 16 * 1024,
            "{kilobytes} kB at peak"
        );
    }
    renewals
}

/// Makes the next change of many.
fn change(world: &World, number: u16, provoke: bool) {
    let World { a, b } = world;
    let port = 52_000 + number % 1000;
    match number % 5 {
        0 => a.wg(&["listen-port", &port.to_string()]),
        1 => {
            for side in [b, a] {
                let mtu = ["1280", "1500", "1400", "1420"][usize::from(number / 5 % 4)];
                side.run(&["ip", "link", "set", &side.device, "mtu", mtu]);
            }
        }
        2 => roam(a, 10 + number / 5 % 100),
        3 => b.wg(&["listen-port", &port.to_string()]),
        _ if provoke => {
            let outer = b.outer[usize::from(number / 5 % 2)];
            let port = b.run(&["wg", "show", &b.device, "listen-port"]);
            let endpoint = std::net::SocketAddr::new(outer, port.trim().parse().unwrap());
            a.wg(&["peer", &b.public, "endpoint", &endpoint.to_string()]);
        }
        // Whichever side is ours can tell by its socket that its address is gone.
        _ if b.engine == Engine::Ours => roam(b, 110 + number / 5 % 100),
        _ => {}
    }
}

/// Replaces the outer addresses of a side.
fn roam(side: &Side, host: u16) {
    for (family, net) in [
        ("-4", format!("192.0.2.{host}/24")),
        ("-6", format!("2001:db8::{host}/64")),
    ] {
        side.run(&["ip", family, "addr", "flush", "dev", "eth0", "scope", "global"]);
        side.run(&["ip", "addr", "add", &net, "dev", "eth0", "nodad"]);
    }
}
