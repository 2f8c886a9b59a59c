//! What a packet costs does not depend on how many peers a device has, and peers at rest cost nothing. Work is counted:
//! looks at peers, readings of the clock (boringtun takes one for every peer it is asked about), allocations.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use boringtun::noise::{Tunn, TunnResult};
use spanwire_tunnel::{
    device::{Device, ShardIndex},
    key::PrivateKey,
};

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

#[test]
fn a_peer_without_a_session_takes_little_memory_and_none_in_threads_that_do_not_serve_it() {
    const PEERS: u32 = 1000;
    let lines: Vec<String> = (1..=PEERS)
        .map(|number| format!("public_key={number:064x}"))
        .collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let add = |index| {
        let mut bench = Bench::quiet(1);
        bench.device = Device::shard(index, 1420);
        let before = sim::heap();
        bench.set(&lines);
        (
            bench.device.peers().count(),
            (sim::heap() - before) / PEERS as isize,
        )
    };
    let (count, each) = add(ShardIndex::WHOLE);
    assert!(count == 1000 && each < 2000, "{each} bytes");
    let (count, each) = add(ShardIndex::all(16).last().unwrap());
    assert!(
        count < 100 && each < 300,
        "{each} bytes in each of sixteen threads"
    );
}

/// Each costs a system call, and all threads wait.
#[test]
fn packets_have_their_turn_while_the_sessions_of_all_hear_of_another_port() {
    let mut hub = star(100);
    hub.catch_up();
    hub.kept.sent.clear();
    hub.device.handle_moved(hub.now, &mut hub.kept);
    let mut heard = 0;
    for step in 0.. {
        let sent = std::mem::take(&mut hub.kept.sent);
        assert!(sent.len() <= 8, "{} in step {step}", sent.len());
        assert!(sent.iter().all(|(_, datagram)| datagram.len() == 32));
        heard += sent.len();
        if hub.device.poll_timeout().is_none_or(|at| at > hub.now) {
            break;
        }
        hub.device.handle_timeout(hub.now, &mut hub.kept);
    }
    assert_eq!(heard, 100);
}

#[test]
fn thousands_of_peers_are_removed_at_once_and_freed_step_by_step() {
    let (mut hub, other) = (Bench::quiet(1), Bench::quiet(2));
    let lines: Vec<String> = (1..=5000_u32)
        .flat_map(|number| {
            let [_, x, y, z] = number.to_be_bytes();
            [
                format!("public_key={number:064x}"),
                format!("group=g{number}"),
                format!("allowed_ip=172.{x}.{y}.{z}/32"),
                format!("allowed_ip=fd00::{number:x}/128"),
            ]
        })
        .collect();
    let before = sim::heap();
    hub.set(&lines.iter().map(String::as_str).collect::<Vec<_>>());
    let used = sim::heap() - before;

    let frees = |hub: &mut Bench, work: &dyn Fn(&mut Bench)| {
        let before = sim::frees();
        work(hub);
        sim::frees() - before
    };
    let at_once = frees(&mut hub, &|hub| hub.set(&["replace_peers=true"]));
    assert!(at_once < 100, "{at_once} pieces are freed at once");
    assert_eq!(hub.device.peers().count(), 0);
    assert_eq!(hub.device.owner([172, 0, 0, 1].into()), None);
    // Others come meanwhile.
    hub.know(&other, false);
    let mut steps = 0;
    while hub.device.poll_timeout().is_some_and(|at| at <= hub.now) {
        let freed = frees(&mut hub, &|hub| hub.device.handle_timeout(hub.now, &mut hub.kept));
        assert!(freed <= 1000, "{freed} in step {steps}");
        steps += 1;
    }
    assert!(steps > 100, "{steps} steps");
    let left = sim::heap() - before;
    assert!(left < used / 100, "{left} bytes of {used} are left");
    assert_eq!(hub.peer().public, other.key());
}

/// Others that answer a hub's initiations, each at a port of its own.
struct Crowd {
    peers: Vec<Tunn>,
    lines: Vec<String>,
    answered: usize,
}

impl Crowd {
    fn new(hub: &Bench, count: u16) -> Self {
        let (mut peers, mut lines) = (Vec::new(), Vec::new());
        for number in 0..count {
            let mut private = [77; 32];
            private[4..6].copy_from_slice(&number.to_le_bytes());
            let private = PrivateKey::from(private);
            lines.push(format!("public_key={}", private.public()));
            lines.push(format!("endpoint=198.51.100.1:{number}"));
            let (private, hub) = (private.to_x25519(), hub.key().to_x25519());
            peers.push(Tunn::new(private, hub, None, None, number.into(), None));
        }
        Self {
            peers,
            lines,
            answered: 0,
        }
    }

    fn lines(&self) -> Vec<&str> {
        self.lines.iter().map(String::as_str).collect()
    }

    /// Answers what the hub has sent it; returns how many it called.
    fn answer(&mut self, hub: &mut Bench) -> usize {
        let (for_crowd, rest) = std::mem::take(&mut hub.kept.sent)
            .into_iter()
            .partition::<Vec<_>, _>(|(to, _)| to.ip() == IpAddr::from([198, 51, 100, 1]));
        hub.kept.sent = rest;
        let mut called = 0;
        for (to, datagram) in for_crowd {
            let mut buffer = [0; 200];
            let peer = &mut self.peers[usize::from(to.port())];
            let answer = peer.decapsulate(None, &datagram, &mut buffer);
            if datagram[0] == 1 {
                called += 1;
                let TunnResult::WriteToNetwork(answer) = answer else {
                    panic!("{answer:?}");
                };
                hub.hear(to, answer);
            }
        }
        self.answered += called;
        called
    }
}

/// Whatever has the hub call all of them.
fn assert_packets_have_their_turn(what: &str, occasion: impl FnOnce(&mut Bench, &mut Bench, &Crowd)) {
    const PEERS: u16 = 400;
    sim::freeze();
    let (mut a, mut hub) = pair();
    let mut crowd = Crowd::new(&hub, PEERS);
    occasion(&mut a, &mut hub, &crowd);
    let (mut steps, mut most) = (0, 0);
    while crowd.answered < usize::from(PEERS) {
        assert!(steps < 1000, "{what}: {} are called", crowd.answered);
        most = most.max(crowd.answer(&mut hub));
        a.emit(&packet("10.0.1.1", "10.0.2.1", 8));
        hub.emit(&packet("10.0.2.1", "10.0.1.1", 8));
        converse(&mut a, &mut hub);
        let arrived = (a.delivered().len(), hub.delivered().len());
        assert_eq!(arrived, (1, 1), "{what}: in step {steps}");
        sim::pass(Duration::from_millis(4));
        a.now += Duration::from_millis(4);
        hub.now = a.now;
        hub.device.handle_timeout(hub.now, &mut hub.kept);
        steps += 1;
    }
    assert!(most <= 32, "{what}: {most} in one step");
    let sessions = hub
        .device
        .peers()
        .filter(|(_, peer)| peer.last_handshake.is_some());
    assert_eq!(sessions.count(), usize::from(PEERS) + 1, "{what}");
}

#[test]
fn packets_have_their_turn_while_hundreds_of_peers_are_called() {
    assert_packets_have_their_turn("configured in one request", |_, hub, crowd| {
        hub.set(&crowd.lines())
    });
    assert_packets_have_their_turn("the interface comes up", |a, hub, crowd| {
        hub.device.handle_down(hub.now);
        hub.set(&crowd.lines());
        hub.device.handle_up(hub.now, &mut hub.kept);
        // It has no session with the other one any more, which is called first.
        for _ in ["the call and its answer", "a keepalive that confirms the session"] {
            let is_for_a = |(to, _): &mut (SocketAddr, _)| *to == a.at;
            for (_, datagram) in hub.kept.sent.extract_if(.., is_for_a).collect::<Vec<_>>() {
                a.hear(hub.at, &datagram);
            }
            for (_, answer) in std::mem::take(&mut a.kept.sent) {
                hub.hear(a.at, &answer);
            }
        }
    });
    assert_packets_have_their_turn("another process goes on", |_, hub, crowd| {
        hub.set(&["eager=false"]);
        hub.set(&crowd.lines());
        hub.device.handle_succession(hub.now, &mut hub.kept);
    });
}

/// Returns how often the hub has called another one since the last time.
fn calls_of(hub: &mut Bench, other: &Bench) -> usize {
    let sent = std::mem::take(&mut hub.kept.sent).into_iter();
    sent.filter(|(to, datagram)| *to == other.at && datagram[0] == 1)
        .count()
}

#[test]
fn for_whom_a_packet_waits_is_called_at_once_and_not_again_in_its_turn() {
    sim::freeze();
    let (a, mut hub) = (Bench::quiet(1), Bench::new(2));
    let crowd = Crowd::new(&hub, 100);
    hub.set(&crowd.lines());
    hub.know(&a, true);
    assert_eq!(calls_of(&mut hub, &a), 0, "it is not its turn");
    hub.emit(&packet("10.0.2.1", "10.0.1.1", 8));
    assert_eq!(calls_of(&mut hub, &a), 1);
    assert!(hub.catch_up() > 4, "the others are called");
    assert_eq!(calls_of(&mut hub, &a), 0);
}

#[test]
fn who_sends_for_a_session_that_is_no_more_is_called_before_others() {
    sim::freeze();
    let (mut a, mut hub) = (Bench::quiet(1), Bench::quiet(2));
    let crowd = Crowd::new(&hub, 100);
    hub.set(&crowd.lines());
    hub.know(&a, true);
    a.know(&hub, true);
    a.emit(&packet("10.0.1.1", "10.0.2.1", 8));
    converse(&mut a, &mut hub);
    hub.device.handle_succession(hub.now, &mut hub.kept);
    assert_eq!(calls_of(&mut hub, &a), 0, "it is not its turn");
    a.emit(&packet("10.0.1.1", "10.0.2.1", 8));
    let (_, mut datagram) = a.kept.sent.remove(0);
    *datagram.last_mut().unwrap() ^= 1;
    hub.hear(a.at, &datagram);
    hub.device.handle_timeout(hub.now, &mut hub.kept);
    assert_eq!(calls_of(&mut hub, &a), 1);
}
