//! Unwanted handshakes, in numbers. What costs much is counted: whatever is not answered by a cookie and not
//! turned away at once was worth Diffie-Hellman operations.

use std::{net::SocketAddr, time::Duration};

use boringtun::noise::{Tunn, TunnResult};
use spanwire_tunnel::key::PrivateKey;

use crate::{
    bench::{Bench, answered, converse, packet, pair},
    sim,
};

const FLOOD: usize = 5_000;

/// A stranger that knows the device's public key, and so can make what passes the first look.
struct Stranger(Tunn);

impl Stranger {
    fn new(victim: &Bench) -> Self {
        let (me, index) = (PrivateKey::from([99; 32]), 7);
        Self(Tunn::new(
            me.to_x25519(),
            victim.key().to_x25519(),
            None,
            None,
            index,
            None,
        ))
    }

    fn initiation(&mut self) -> Vec<u8> {
        let mut buffer = [0; 148];
        let TunnResult::WriteToNetwork(datagram) = self.0.format_handshake_initiation(&mut buffer, true)
        else {
            panic!("it is forced");
        };
        datagram.to_vec()
    }

    fn take_cookie(&mut self, reply: &[u8]) {
        let mut scratch = [0; 200];
        let taken = self.0.decapsulate(None, reply, &mut scratch);
        assert!(matches!(taken, TunnResult::Done), "{taken:?}");
    }
}

fn address(number: usize) -> SocketAddr {
    let [.., a, b] = number.to_be_bytes();
    SocketAddr::new([198, 51, a, b].into(), 1000)
}

/// Sends a packet each way, which arrives.
fn assert_carries(a: &mut Bench, b: &mut Bench) {
    a.emit(&packet("10.0.1.1", "10.0.2.1", 8));
    b.emit(&packet("10.0.2.1", "10.0.1.1", 8));
    converse(a, b);
    assert_eq!((a.delivered().len(), b.delivered().len()), (1, 1));
}

#[test]
fn random_initiations_cost_one_hash_each() {
    sim::freeze();
    let (mut a, mut b) = pair();
    for number in 0..FLOOD {
        let mut datagram = vec![number as u8; 148];
        datagram[..4].copy_from_slice(&[1, 0, 0, 0]);
        b.hear(address(number), &datagram);
        if number % 100 == 0 {
            assert_carries(&mut a, &mut b);
        }
    }
    assert!(b.kept.sent.is_empty(), "none is answered");
    assert_eq!(b.device.drops().unknown, FLOOD as u64);
    // They do not count as load: a newcomer needs no cookie.
    b.set(&["replace_peers=true"]);
    b.know(&a, false);
    a.set(&[&format!("public_key={}", b.key()), "remove=true"]);
    a.know(&b, true);
    converse(&mut a, &mut b);
    assert_carries(&mut a, &mut b);
}

#[test]
fn of_initiations_that_pass_the_first_look_a_thousand_are_worked_on_and_none_while_a_flood_goes_on() {
    sim::freeze();
    let (mut a, mut b) = pair();
    let initiation = Stranger::new(&b).initiation();
    // It pauses for a second at last.
    for (pause, worked) in [(1000, 1000), (999, 0), (999, 0), (999, 0), (1000, 1000)] {
        a.wait(Duration::from_millis(pause));
        b.now = a.now;
        b.kept.sent.clear();
        let mut cookies = 0;
        for number in 0..FLOOD {
            b.hear(address(number), &initiation);
            let answers = std::mem::take(&mut b.kept.sent);
            assert!(
                answers
                    .iter()
                    .all(|(to, answer)| *to == address(number) && answer.len() == 64)
            );
            assert!(answers.len() <= 1);
            cookies += answers.len();
            if number % 100 == 0 {
                assert_carries(&mut a, &mut b);
            }
        }
        assert_eq!(FLOOD - cookies, worked, "after {pause} ms");
    }
    let heap = sim::heap();
    for number in 0..FLOOD {
        b.hear(address(number), &initiation);
        b.kept.sent.clear();
    }
    assert!(sim::heap() - heap < 4096, "a flood is remembered");
}

#[test]
fn two_thousand_peers_that_are_called_at_once_are_all_heard_through_a_flood() {
    sim::freeze();
    const PEERS: u32 = 2000;
    let mut a = Bench::new(1);
    let mut lines = Vec::new();
    let mut others: Vec<Tunn> = (0..PEERS)
        .map(|number| {
            let mut private = [77; 32];
            private[4..8].copy_from_slice(&number.to_le_bytes());
            let private = PrivateKey::from(private);
            lines.push(format!("public_key={}", private.public()));
            lines.push(format!("endpoint={}", address(number as usize)));
            Tunn::new(private.to_x25519(), a.key().to_x25519(), None, None, number, None)
        })
        .collect();
    a.set(&lines.iter().map(String::as_str).collect::<Vec<_>>());
    a.catch_up();
    let calls = std::mem::take(&mut a.kept.sent);
    assert_eq!(calls.len(), PEERS as usize);
    let spoofed = Stranger::new(&a).initiation();
    for number in 0..FLOOD {
        a.hear(address(number), &spoofed);
    }
    a.kept.sent.clear();
    for ((to, call), other) in calls.into_iter().zip(&mut others) {
        let mut buffer = [0; 200];
        let TunnResult::WriteToNetwork(answer) = other.decapsulate(None, &call, &mut buffer) else {
            panic!("it is called");
        };
        a.hear(to, answer);
    }
    let sessions = a.device.peers().filter(|(_, peer)| peer.last_handshake.is_some());
    assert_eq!(sessions.count(), PEERS as usize);
}

#[test]
fn forged_answers_do_not_use_up_what_is_kept_for_the_real_one() {
    sim::freeze();
    let (mut a, b, answer) = answered();
    let spoofed = Stranger::new(&a).initiation();
    for number in 0..FLOOD {
        a.hear(address(number), &spoofed);
    }
    // The index is in the open; what it takes to pass the first look is not.
    let forged = [&[2, 0, 0, 0, 9, 9, 9, 9], &answer[8..12], &[7; 80]].concat();
    for _ in 0..10 {
        a.hear(b.at, &forged);
    }
    a.hear(b.at, &answer);
    assert!(a.peer().last_handshake.is_some());
}

#[test]
fn a_peer_is_answered_fifty_initiations_a_second() {
    sim::freeze();
    let (a, mut b) = pair();
    let (private, other) = (PrivateKey::from([1; 32]).to_x25519(), b.key().to_x25519());
    let mut restless = Tunn::new(private, other, None, None, 3, None);
    for _ in 0..250 {
        sim::pass(Duration::from_millis(4));
        b.now += Duration::from_millis(4);
        let mut buffer = [0; 148];
        let TunnResult::WriteToNetwork(call) = restless.format_handshake_initiation(&mut buffer, true) else {
            panic!("it is forced");
        };
        b.hear(a.at, call);
    }
    let answers = b.kept.sent.iter().filter(|(_, sent)| sent[0] == 2).count();
    assert!((49..=50).contains(&answers), "{answers}");
}

#[test]
fn answers_that_nobody_waits_for_are_load() {
    sim::freeze();
    let (mut a, b) = (Bench::new(1), Bench::quiet(2));
    a.know(&b, true);
    let (_, call) = a.kept.sent.remove(0);
    // It has the right index and passes the first look, but was made with a preshared key that is none.
    let private = PrivateKey::from([2; 32]).to_x25519();
    let mut other = Tunn::new(private, a.key().to_x25519(), Some([9; 32]), None, 3, None);
    let mut buffer = [0; 200];
    let TunnResult::WriteToNetwork(forged) = other.decapsulate(None, &call, &mut buffer) else {
        panic!("it is called");
    };
    for _ in 0..FLOOD {
        a.hear(address(1), forged);
    }
    // Four are waited for; the others are half of a second's thousand.
    assert_eq!(a.device.drops().rejected, 4 + 500);
    assert_eq!(
        a.kept.sent.len(),
        FLOOD - 504,
        "the others are asked for a cookie"
    );
}

#[test]
fn who_returns_its_cookie_gets_twenty_a_second() {
    sim::freeze();
    let (_, mut b) = pair();
    let mut stranger = Stranger::new(&b);
    let mut reply = None;
    for number in 0..1100 {
        let initiation = stranger.initiation();
        b.hear(address(1), &initiation);
        if let Some((_, cookie)) = b.kept.sent.pop() {
            // The pair's handshake cost as much as two.
            assert_eq!(number, 998, "a cookie for number {number}");
            reply = Some(cookie);
            break;
        }
    }
    stranger.take_cookie(&reply.expect("it is asked for a cookie"));
    let before = b.device.drops();
    for _ in 0..1000 {
        b.hear(address(1), &stranger.initiation());
    }
    assert!(b.kept.sent.is_empty(), "its cookies are good");
    let drops = b.device.drops();
    let worked = drops.unknown - before.unknown;
    assert_eq!((worked, drops.too_many - before.too_many), (20, 980));
    // A cookie is worth nothing elsewhere.
    b.hear(address(2), &stranger.initiation());
    assert_eq!(b.kept.sent.len(), 1);
}

#[test]
fn a_peer_gets_in_and_rekeys_through_a_flood() {
    sim::freeze();
    let (mut a, mut b) = pair();
    let c = Bench::new(3);
    b.know(&c, false);
    let mut c = c;
    c.now = b.now;
    c.know(&b, true);
    let first = c.kept.sent.remove(0).1;
    let initiation = Stranger::new(&b).initiation();
    let flood = |b: &mut Bench| {
        let answers = std::mem::take(&mut b.kept.sent);
        for number in 0..1100 {
            b.hear(address(number), &initiation);
        }
        b.kept.sent = answers;
    };
    flood(&mut b);
    b.hear(c.at, &first);
    let (to, cookie) = b.kept.sent.remove(0);
    assert_eq!(
        (to, cookie.len()),
        (c.at, 64),
        "a newcomer has to prove its address"
    );
    c.hear(b.at, &cookie);
    let step = Duration::from_millis(500);
    // The newcomer's retry after five seconds, the old peer's rekeying after 120 and its retry, each behind a flood.
    let mut cookies = 0;
    for _ in 0..260 {
        sim::pass(step);
        for bench in [&mut a, &mut b, &mut c] {
            bench.now += step;
        }
        a.emit(&packet("10.0.1.1", "10.0.2.1", 8));
        for bench in [&mut a, &mut b, &mut c] {
            bench.device.handle_timeout(bench.now, &mut bench.kept);
        }
        cookies += deliver(&mut a, &mut b, &mut c, &flood);
        assert_eq!(b.delivered().len(), 1, "a packet is lost");
    }
    assert_eq!(cookies, 1, "the flood is no load for who rekeys");
    assert!(c.peer().last_handshake.is_some(), "the newcomer never got in");
    let times: Vec<_> = b.device.peers().map(|(_, peer)| peer.last_handshake).collect();
    assert!(
        times[0] > times[1],
        "the old peer, renewed at 120 s, is later than the newcomer: {times:?}"
    );
}

/// Carries what two spokes and their hub have to say until all are silent, with a flood before each initiation; returns
/// how many cookies the hub asked for.
fn deliver(a: &mut Bench, hub: &mut Bench, c: &mut Bench, flood: &impl Fn(&mut Bench)) -> usize {
    let mut cookies = 0;
    loop {
        let mut quiet = true;
        for spoke in [&mut *a, &mut *c] {
            for (_, datagram) in std::mem::take(&mut spoke.kept.sent) {
                quiet = false;
                if datagram[0] == 1 {
                    flood(hub);
                }
                hub.hear(spoke.at, &datagram);
            }
        }
        for (to, datagram) in std::mem::take(&mut hub.kept.sent) {
            for spoke in [&mut *a, &mut *c] {
                if spoke.at == to {
                    quiet = false;
                    cookies += usize::from(datagram[0] == 3);
                    spoke.hear(hub.at, &datagram);
                }
            }
        }
        if quiet {
            return cookies;
        }
    }
}
