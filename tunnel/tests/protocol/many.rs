//! What a packet costs does not depend on how many peers a device has, and peers at rest cost nothing. Work is counted:
//! looks at peers, readings of the clock (boringtun takes one for every peer it is asked about), allocations.

use std::time::Duration;

use crate::{
    bench::{Bench, converse, packet, pair},
    sim,
};

/// What was done meanwhile.
#[derive(Debug, Default, PartialEq, Eq)]
struct Work {
    looks: u64,
    readings: usize,
    allocations: usize,
    /// The steps of looking up an address would show as time only; they are bounded by the length of a prefix.
    arrived: usize,
}

/// Ten seconds of a conversation with one of `peers`, a thousand packets a second.
fn converse_among(peers: u32) -> Work {
    sim::freeze();
    let (mut a, mut b) = pair();
    let lines: Vec<String> = (1..peers)
        .flat_map(|number| {
            let [_, x, y, z] = (number << 8).to_be_bytes();
            [
                format!("public_key={number:064x}"),
                format!("allowed_ip=172.{x}.{y}.{z}/32"),
                // Calling them all in vain would take long.
                if number % 50 == 1 {
                    "endpoint=198.51.100.1:9".into()
                } else {
                    "persistent_keepalive_interval=0".into()
                },
            ]
        })
        .collect();
    b.set(&lines.iter().map(String::as_str).collect::<Vec<_>>());
    // The others do not answer, and are given up.
    for _ in 0..200 {
        a.wait(Duration::from_secs(1));
        b.now = a.now;
        b.wait(Duration::ZERO);
        b.kept.sent.clear();
    }
    a.emit(&packet("10.0.1.1", "10.0.2.1", 1000));
    converse(&mut a, &mut b);
    b.delivered();

    let mut work = Work::default();
    let looks = b.device.looks();
    for _ in 0..5_000 {
        sim::pass(Duration::from_millis(2));
        a.now += Duration::from_millis(2);
        b.now = a.now;
        a.emit(&packet("10.0.1.1", "10.0.2.1", 1000));
        let datagrams = std::mem::take(&mut a.kept.sent);
        let before = (sim::readings(), sim::allocations());
        for (_, datagram) in &datagrams {
            b.hear(a.at, datagram);
        }
        b.emit(&packet("10.0.2.1", "10.0.1.1", 1000));
        b.device.handle_timeout(b.now, &mut b.kept);
        work.readings += sim::readings() - before.0;
        work.allocations += sim::allocations() - before.1;
        work.arrived += b.delivered().len();
        for (_, datagram) in std::mem::take(&mut b.kept.sent) {
            a.hear(b.at, &datagram);
        }
    }
    work.looks = b.device.looks() - looks;
    work
}

#[test]
fn a_packet_costs_the_same_among_a_thousand_peers() {
    let alone = converse_among(1);
    assert_eq!(alone.arrived, 5_000);
    // Something is due once or twice in ten seconds; in each of the forty quarters of a second boringtun is asked for the time
    // by a packet, and reads the clock twice.
    assert!(
        (1..=4).contains(&alone.looks) && alone.readings <= 90,
        "{alone:?}"
    );
    for peers in [100, 1000] {
        assert_eq!(converse_among(peers), alone, "among {peers} peers");
    }
}

/// Returns a hub, and spokes that came one after the other.
fn star(spokes: u8) -> Bench {
    sim::freeze();
    let mut hub = Bench::new(1);
    for number in 2..spokes + 2 {
        let mut spoke = Bench::new(number);
        spoke.now = hub.now;
        hub.know(&spoke, false);
        spoke.know(&hub, true);
        converse(&mut spoke, &mut hub);
        hub.wait(Duration::from_millis(30));
    }
    hub
}

/// Returns how often the device wants to be woken in that time, and what it says.
fn rest(hub: &mut Bench, time: Duration) -> (usize, usize) {
    let (end, mut wakes, mut said) = (hub.now + time, 0, 0);
    while let Some(at) = hub.device.poll_timeout().filter(|at| *at <= end) {
        wakes += 1;
        hub.wait(at.saturating_duration_since(hub.now));
        said += std::mem::take(&mut hub.kept.sent).len();
    }
    hub.wait(end - hub.now);
    (wakes, said)
}

#[test]
fn a_hundred_peers_at_rest_wake_the_device_to_drop_their_keys_and_never_again() {
    let mut hub = star(100);
    let (wakes, said) = rest(&mut hub, Duration::from_secs(600));
    assert!(wakes <= 2 * 100 + 5, "{wakes} wakes");
    assert_eq!((said, hub.device.poll_timeout()), (0, None));
}

#[test]
fn a_hundred_peers_with_keepalives_wake_the_device_for_those_and_no_more() {
    let mut hub = star(100);
    rest(&mut hub, Duration::from_secs(600));
    let keys: Vec<String> = hub
        .device
        .peers()
        .map(|(_, peer)| peer.public.to_string())
        .collect();
    for key in keys {
        hub.set(&[&format!("public_key={key}"), "persistent_keepalive_interval=25"]);
        hub.wait(Duration::from_millis(10));
    }
    // The peers are gone: every keepalive is an initiation instead, repeated and given up, and begun again.
    rest(&mut hub, Duration::from_secs(200));
    let looks = hub.device.looks();
    let (wakes, said) = rest(&mut hub, Duration::from_secs(100));
    assert!(said >= 100 * 15, "{said} datagrams");
    assert!(wakes <= said + 100 * 6, "{wakes} wakes for {said} datagrams");
    // Of a hundred peers one has something to do at a time.
    let looks = hub.device.looks() - looks;
    assert!(
        looks <= wakes as u64 * 2,
        "{looks} looks at peers in {wakes} wakes"
    );
}

/// boringtun reads the clock and allocates each time that it agrees on keys with a peer.
#[test]
fn peers_cost_no_agreement_on_keys_before_there_is_something_to_say() {
    sim::freeze();
    let mut hub = Bench::quiet(1);
    let lines: Vec<String> = (1..=1000)
        .flat_map(|number| {
            [
                format!("public_key={number:064x}"),
                format!("preshared_key={number:064x}"),
                "endpoint=198.51.100.1:9".into(),
            ]
        })
        .collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let readings = sim::readings();
    hub.set(&lines);
    let allocations = sim::allocations();
    hub.set(&[&format!("private_key={}", "07".repeat(32))]);
    let allocations = sim::allocations() - allocations;
    // Those of the device, which may change cookies by the time.
    let readings = sim::readings() - readings;
    assert!(
        readings < 100 && allocations < 100,
        "{readings} readings and {allocations} allocations for a thousand peers"
    );
}
