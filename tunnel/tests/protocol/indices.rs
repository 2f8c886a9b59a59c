//! The index of a message says whom it is for, and nothing to anybody else.

use std::time::Duration;

use blake2::{
    Blake2s256, Blake2sMac, Digest,
    digest::{FixedOutput, KeyInit, Update, consts::U16},
};
use boringtun::noise::{TunnResult, rate_limiter::RateLimiter};
use spanwire_tunnel::key::PublicKey;

use crate::{
    bench::{Bench, answered, converse, packet, pair},
    sim,
};

/// Where the receiver's index is in data and in cookie replies, and in responses.
const FIRST: usize = 4;
const SECOND: usize = 8;

fn index(message: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(message[at..at + 4].try_into().unwrap())
}

/// Returns the message under each index that differs in one bit.
fn misdirected(message: &[u8], at: usize) -> impl Iterator<Item = Vec<u8>> {
    (0..32).map(move |bit| {
        let mut other = message.to_vec();
        other[at + bit / 8] ^= 1 << (bit % 8);
        other
    })
}

/// Makes the first MAC of a handshake message again, which takes no more than the public key of the receiver.
fn sign(message: &mut [u8], to: PublicKey) {
    let key = Digest::chain_update(Blake2s256::new(), b"mac1----")
        .chain_update(to.0)
        .finalize();
    let end = message.len() - 32;
    let mut mac = Blake2sMac::<U16>::new_from_slice(&key).unwrap();
    Update::update(&mut mac, &message[..end]);
    message[end..end + 16].copy_from_slice(&mac.finalize_fixed());
}

/// Returns the indices of so many handshakes that a starts and b answers.
fn handshakes(a: &mut Bench, b: &mut Bench, count: usize) -> [Vec<u32>; 2] {
    let mut indices = [Vec::new(), Vec::new()];
    for _ in 0..count {
        // The session is no more, and the next packet begins one.
        a.wait(Duration::from_secs(200));
        b.now = a.now;
        b.wait(Duration::ZERO);
        a.kept.sent.clear();
        b.kept.sent.clear();
        a.emit(&packet("10.0.1.1", "10.0.2.1", 8));
        indices[0].push(index(&a.kept.sent[0].1, FIRST));
        let call = a.kept.sent.remove(0).1;
        b.hear(a.at, &call);
        assert_eq!(b.kept.sent[0].1[0], 2);
        indices[1].push(index(&b.kept.sent[0].1, FIRST));
        converse(a, b);
        assert_eq!(b.delivered().len(), 1);
    }
    indices
}

#[test]
fn the_indices_of_a_peers_sessions_have_nothing_in_common() {
    sim::freeze();
    let (mut a, mut b) = (Bench::quiet(1), Bench::quiet(2));
    b.know(&a, false);
    a.know(&b, true);
    for indices in handshakes(&mut a, &mut b, 100) {
        let set = |bit: u32| indices.iter().filter(|index| *index >> bit & 1 == 1).count();
        let counts: Vec<_> = (0..32).map(set).collect();
        // Of a hundred drawn bits fewer than 15 or more than 85 are set once in 10^12 runs.
        assert!(
            counts.iter().all(|count| (15..=85).contains(count)),
            "{counts:?} in {indices:x?}"
        );
        let near = |pair: &&[u32]| pair[0].abs_diff(pair[1]) < 1 << 16;
        let counted = indices.windows(2).filter(near).count();
        assert!(counted <= 2, "one follows from the next: {indices:x?}");
    }
}

#[test]
fn data_under_another_index_is_dropped_and_counted() {
    sim::freeze();
    let (mut a, mut b) = pair();
    a.emit(&packet("10.0.1.1", "10.0.2.1", 8));
    let (_, datagram) = a.kept.sent.remove(0);
    let before = b.device.drops();
    for other in misdirected(&datagram, FIRST) {
        b.hear(a.at, &other);
    }
    assert_eq!(b.device.drops().unknown, before.unknown + 32);
    assert!(b.delivered().is_empty());
    b.hear(a.at, &datagram);
    assert_eq!(b.delivered().len(), 1);
}

#[test]
fn a_response_under_another_index_is_dropped_and_counted() {
    sim::freeze();
    let (mut a, b, response) = answered();
    for mut other in misdirected(&response, SECOND) {
        sign(&mut other, a.key());
        a.hear(b.at, &other);
    }
    assert_eq!(a.device.drops().unknown, 32);
    assert!(a.peer().last_handshake.is_none());
    a.hear(b.at, &response);
    assert!(a.peer().last_handshake.is_some());
}

#[test]
fn what_is_for_an_earlier_session_of_the_peer_is_for_no_other_peer() {
    sim::freeze();
    let (mut a, mut b) = pair();
    a.emit(&packet("10.0.1.1", "10.0.2.1", 8));
    let (_, datagram) = a.kept.sent.remove(0);
    let drops = b.device.drops();
    // Another peer gets the place of the first one.
    b.set(&["replace_peers=true"]);
    b.catch_up();
    let mut c = Bench::new(3);
    b.know(&c, false);
    c.know(&b, true);
    converse(&mut c, &mut b);
    b.hear(a.at, &datagram);
    assert!(b.delivered().is_empty());
    assert_eq!(b.device.drops().unknown, drops.unknown + 1);
}

/// Returns what a peer under load answers.
fn asks_for_a_cookie(b: &Bench, call: &[u8]) -> Vec<u8> {
    let limiter = RateLimiter::new(&b.key().to_x25519(), 0);
    let mut room = [0; 200];
    let Err(TunnResult::WriteToNetwork(reply)) = limiter.verify_packet(Some(b.at.ip()), call, &mut room)
    else {
        panic!("it is under load");
    };
    reply.to_vec()
}

/// Returns the newest initiation after so long, or the next one.
fn next_call(a: &mut Bench, time: Duration) -> Vec<u8> {
    a.kept.sent.clear();
    let end = a.now + time;
    while a.kept.sent.is_empty() || a.now < end {
        // It gives up after 90 s, and goes on for another packet.
        a.emit(&packet("10.0.1.1", "10.0.2.1", 8));
        a.wait(Duration::from_millis(250));
    }
    let (_, call) = a.kept.sent.pop().unwrap();
    assert_eq!((call[0], call.len()), (1, 148));
    call
}

#[test]
fn a_cookie_is_taken_under_the_index_of_the_newest_message_alone_once_and_used_for_two_minutes() {
    sim::freeze();
    let (mut a, b) = (Bench::new(1), Bench::quiet(2));
    a.know(&b, true);
    a.emit(&packet("10.0.1.1", "10.0.2.1", 8));
    let (_, first) = a.kept.sent.remove(0);
    assert_eq!(first[132..], [0; 16]);
    let late = asks_for_a_cookie(&b, &first);
    let second = next_call(&mut a, Duration::from_secs(5));
    let reply = asks_for_a_cookie(&b, &second);
    for other in misdirected(&reply, FIRST) {
        a.hear(b.at, &other);
    }
    assert_eq!(a.device.drops().unknown, 32);
    a.hear(b.at, &late);
    let mut forged = reply;
    forged[63] ^= 1;
    a.hear(b.at, &forged);
    assert_eq!(a.device.drops().rejected, 2, "for an earlier message, and forged");
    assert_eq!(next_call(&mut a, Duration::from_secs(5))[132..], [0; 16]);
    let newest = next_call(&mut a, Duration::from_secs(5));
    let reply = asks_for_a_cookie(&b, &newest);
    a.hear(b.at, &reply);
    assert_eq!(a.device.drops().rejected, 2);
    a.hear(b.at, &reply);
    assert_eq!(a.device.drops().rejected, 3, "it is taken once");
    assert_ne!(next_call(&mut a, Duration::from_secs(5))[132..], [0; 16]);
    assert_ne!(next_call(&mut a, Duration::from_secs(90))[132..], [0; 16]);
    assert_eq!(next_call(&mut a, Duration::from_secs(30))[132..], [0; 16]);
}

#[test]
fn a_session_is_found_while_many_initiations_have_no_answer() {
    sim::freeze();
    let (mut a, mut b) = pair();
    let mut calls = 0;
    // Both sides are silent for no more than a second; a wants another session after 120 of them, and is not heard.
    for second in 0..178 {
        a.emit(&packet("10.0.1.1", "10.0.2.1", 8));
        b.emit(&packet("10.0.2.1", "10.0.1.1", 8));
        let lost = a.kept.sent.iter().filter(|(_, sent)| sent[0] == 1).count();
        a.kept.sent.retain(|(_, sent)| sent[0] != 1);
        calls += lost;
        converse(&mut a, &mut b);
        let arrived = (a.delivered().len(), b.delivered().len());
        assert_eq!(arrived, (1, 1), "in second {second}");
        a.wait(Duration::from_secs(1));
        b.now = a.now;
        b.wait(Duration::ZERO);
    }
    assert!(calls > 8, "{calls}");
}
