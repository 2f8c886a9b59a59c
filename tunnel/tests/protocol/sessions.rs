//! Handshakes, data, timers, roaming.

use std::time::Duration;

use crate::{
    bench::{Bench, converse, packet, pair},
    sim,
};

#[test]
fn a_peer_with_an_endpoint_hears_of_us_at_once() {
    let (mut a, b) = (Bench::new(1), Bench::new(2));
    a.know(&b, true);
    assert_eq!(a.kept.sent.len(), 1);
    assert_eq!((a.kept.sent[0].0, a.kept.sent[0].1.len()), (b.at, 148));
    let next = a
        .device
        .poll_timeout()
        .expect("the initiation may have to be repeated");
    assert!(next >= a.now + Duration::from_secs(5) && next <= a.now + Duration::from_millis(5333));
}

#[test]
fn a_peer_hears_of_us_once_its_configuration_is_complete() {
    let (mut a, b) = (Bench::new(1), Bench::new(2));
    a.set(&[
        &format!("public_key={}", b.key()),
        "persistent_keepalive_interval=5",
        "allowed_ip=10.0.2.0/24",
    ]);
    assert!(a.kept.sent.is_empty(), "there is no endpoint yet");
    a.set(&[&format!("public_key={}", b.key()), &format!("endpoint={}", b.at)]);
    assert_eq!(a.kept.sent.len(), 1);
    a.set(&[&format!("public_key={}", b.key()), &format!("endpoint={}", b.at)]);
    assert_eq!(
        a.kept.sent.len(),
        1,
        "an endpoint that does not change is no news"
    );
}

#[test]
fn packets_that_wait_for_the_handshake_arrive_in_order() {
    let (mut a, mut b) = (Bench::new(1), Bench::new(2));
    b.know(&a, false);
    a.know(&b, true);
    let packets: Vec<Vec<u8>> = (0..20)
        .map(|length| packet("10.0.1.1", "10.0.2.1", length))
        .collect();
    for packet in &packets {
        a.emit(packet);
    }
    converse(&mut a, &mut b);
    assert_eq!(b.delivered(), packets);
}

#[test]
fn the_answering_side_can_send_as_soon_as_it_has_heard_something() {
    let (mut a, mut b) = pair();
    assert!(a.peer().last_handshake.is_some() && b.peer().last_handshake.is_some());
    b.emit(&packet("10.0.2.1", "10.0.1.1", 10));
    assert_eq!(b.kept.sent[0].1.len(), 64, "no second handshake");
    converse(&mut a, &mut b);
    assert_eq!(a.delivered().len(), 1);
}

#[test]
fn packets_are_padded_to_sixteen_bytes_but_not_beyond_the_mtu() {
    let (mut a, mut b) = pair();
    for (length, route_mtu, want) in [
        (20, None, 32),
        (32, None, 32),
        (33, None, 48),
        (1419, None, 1420),
        (1420, None, 1420),
        (1500, None, 1500),
        (1297, Some(1299), 1299),
        (1297, Some(1500), 1312),
        (1310, Some(1299), 1310),
    ] {
        a.kept.route_mtu = route_mtu;
        let packet = packet("10.0.1.1", "10.0.2.1", length - 20);
        a.emit(&packet);
        assert_eq!(a.kept.sent[0].1.len(), want + 32, "{length} bytes");
        converse(&mut a, &mut b);
        assert_eq!(b.delivered(), [packet], "padding is cut off again");
    }
}

#[test]
fn bytes_are_counted_on_both_sides() {
    let (mut a, mut b) = pair();
    a.emit(&packet("10.0.1.1", "10.0.2.1", 100));
    converse(&mut a, &mut b);
    assert_eq!(a.peer().tx_bytes, 148 + 32 + 160);
    assert_eq!(b.peer().rx_bytes, a.peer().tx_bytes);
    assert_eq!(a.peer().rx_bytes, 92);
}

#[test]
fn the_endpoint_follows_authentic_messages_only() {
    let (mut a, mut b) = pair();
    a.emit(&packet("10.0.1.1", "10.0.2.1", 0));
    let (_, datagram) = a.kept.sent.remove(0);
    let elsewhere = "[2001:db8::7]:7".parse().unwrap();
    let mut forged = datagram.clone();
    forged[20] ^= 1;
    b.hear("203.0.113.9:9".parse().unwrap(), &forged);
    assert_eq!(b.peer().endpoint, Some(a.at));
    b.hear(elsewhere, &datagram);
    assert_eq!(b.peer().endpoint, Some(elsewhere));
    b.hear("203.0.113.9:9".parse().unwrap(), &datagram);
    assert_eq!(
        b.peer().endpoint,
        Some(elsewhere),
        "a replayed message moves nothing"
    );
    assert_eq!((b.device.drops().rejected, b.delivered().len()), (2, 1));
}

#[test]
fn what_is_sent_leaves_from_the_address_that_an_authentic_message_was_sent_to() {
    let (mut a, mut b) = pair();
    a.emit(&packet("10.0.1.1", "10.0.2.1", 0));
    let (_, datagram) = a.kept.sent.remove(0);
    let mut forged = datagram.clone();
    forged[20] ^= 1;
    for (last, datagram) in [(7, datagram), (8, forged)] {
        b.hear_at([192, 0, 2, last].into(), a.at, &datagram);
        b.emit(&packet("10.0.2.1", "10.0.1.1", 0));
        assert_eq!(b.kept.local, Some([192, 0, 2, 7].into()));
    }
    b.set(&[&format!("public_key={}", a.key()), "endpoint=192.0.2.1:9"]);
    b.emit(&packet("10.0.2.1", "10.0.1.1", 0));
    assert_eq!(b.kept.local, None, "another endpoint may need another address");
    a.emit(&packet("10.0.1.1", "10.0.2.1", 0));
    let (_, datagram) = a.kept.sent.remove(0);
    b.hear_at([192, 0, 2, 7].into(), a.at, &datagram);
    let same = b.peer().endpoint.unwrap();
    b.set(&[&format!("public_key={}", a.key()), &format!("endpoint={same}")]);
    b.emit(&packet("10.0.2.1", "10.0.1.1", 0));
    assert_eq!(b.kept.local, None, "so does the same one, set again");
}

#[test]
fn a_silent_peer_is_tried_from_any_address() {
    let (mut a, mut b) = pair();
    a.emit(&packet("10.0.1.1", "10.0.2.1", 0));
    let (_, datagram) = a.kept.sent.remove(0);
    let local = Some([192, 0, 2, 7].into());
    b.hear_at([192, 0, 2, 7].into(), a.at, &datagram);
    b.emit(&packet("10.0.2.1", "10.0.1.1", 0));
    b.wait(Duration::from_millis(14_900));
    b.emit(&packet("10.0.2.1", "10.0.1.1", 0));
    assert_eq!(b.kept.local, local, "it has time to answer");
    b.kept.sent.clear();
    b.wait(Duration::from_millis(1000));
    assert_eq!(b.kept.sent[0].1[0], 1, "a handshake is due");
    assert_eq!(b.kept.local, None);
    b.emit(&packet("10.0.2.1", "10.0.1.1", 0));
    assert_eq!(b.kept.local, None);
}

#[test]
fn a_silent_peer_is_tried_from_any_address_also_when_a_packet_comes_before_the_timer() {
    let (mut a, mut b) = pair();
    a.emit(&packet("10.0.1.1", "10.0.2.1", 0));
    let (_, datagram) = a.kept.sent.remove(0);
    b.hear_at([192, 0, 2, 7].into(), a.at, &datagram);
    b.emit(&packet("10.0.2.1", "10.0.1.1", 0));
    b.kept.sent.clear();
    b.now += Duration::from_secs(16);
    b.emit(&packet("10.0.2.1", "10.0.1.1", 0));
    let kinds: Vec<_> = b.kept.sent.iter().map(|(_, datagram)| datagram[0]).collect();
    assert_eq!((kinds, b.kept.local), (vec![1, 4], None));
}

/// As when a client dials a virtual address of a server and rests: the server's primary address is not the one it knows.
#[test]
fn a_peer_at_rest_is_called_from_the_address_that_it_wrote_to_until_it_does_not_answer() {
    sim::freeze();
    let (mut a, mut b) = (Bench::quiet(1), Bench::quiet(2));
    b.know(&a, false);
    a.know(&b, true);
    let address = [192, 0, 2, 77].into();
    for from_a in [true, false, true] {
        if from_a {
            a.emit(&packet("10.0.1.1", "10.0.2.1", 0));
        } else {
            b.emit(&packet("10.0.2.1", "10.0.1.1", 0));
        }
        while !a.kept.sent.is_empty() || !b.kept.sent.is_empty() {
            for (_, datagram) in std::mem::take(&mut a.kept.sent) {
                b.hear_at(address, a.at, &datagram);
            }
            for (_, datagram) in std::mem::take(&mut b.kept.sent) {
                assert_eq!(b.kept.local, Some(address));
                a.hear(b.at, &datagram);
            }
        }
    }
    // The session ends meanwhile.
    for _ in 0..200 {
        b.wait(Duration::from_secs(1));
    }
    b.kept.sent.clear();
    b.emit(&packet("10.0.2.1", "10.0.1.1", 0));
    let said = |b: &mut Bench| (std::mem::take(&mut b.kept.sent)[0].1[0], b.kept.local);
    assert_eq!(said(&mut b), (1, Some(address)));
    b.wait(Duration::from_millis(5400));
    assert_eq!(said(&mut b), (1, None), "the address may be the cause");
}

#[test]
fn a_configured_persistent_keepalive_is_sent_again_and_again() {
    let (mut a, b) = pair();
    a.set(&[
        &format!("public_key={}", b.key()),
        "persistent_keepalive_interval=5",
    ]);
    assert_eq!(
        std::mem::take(&mut a.kept.sent).len(),
        1,
        "turning it on sends one"
    );
    for _ in 0..3 {
        a.wait(Duration::from_secs(4));
        assert!(a.kept.sent.is_empty());
        a.wait(Duration::from_secs(1));
        let sent = std::mem::take(&mut a.kept.sent);
        assert_eq!(
            sent.iter()
                .map(|(_, datagram)| datagram.len())
                .collect::<Vec<_>>(),
            [32]
        );
    }
    a.set(&[
        &format!("public_key={}", b.key()),
        "persistent_keepalive_interval=0",
    ]);
    a.wait(Duration::from_secs(60));
    assert!(a.kept.sent.is_empty());
}

#[test]
fn received_data_is_acknowledged_by_a_keepalive_when_there_is_nothing_to_say() {
    let (mut a, mut b) = pair();
    a.emit(&packet("10.0.1.1", "10.0.2.1", 0));
    converse(&mut a, &mut b);
    b.wait(Duration::from_secs(10));
    assert_eq!(b.kept.sent.len(), 1);
    assert_eq!(b.kept.sent[0].1.len(), 32);
}

#[test]
fn silence_after_data_starts_a_handshake() {
    let (mut a, _) = pair();
    a.emit(&packet("10.0.1.1", "10.0.2.1", 0));
    a.kept.sent.clear();
    a.wait(Duration::from_secs(15));
    assert_eq!(
        a.kept
            .sent
            .iter()
            .map(|(_, datagram)| datagram.len())
            .collect::<Vec<_>>(),
        [148]
    );
}

#[test]
fn an_old_session_is_renewed_by_its_initiator() {
    let (mut a, mut b) = pair();
    for (bench, want) in [(&mut a, 148 + 64), (&mut b, 64)] {
        bench.now += Duration::from_secs(121);
        let (from, to) = if want > 64 {
            ("10.0.1.1", "10.0.2.1")
        } else {
            ("10.0.2.1", "10.0.1.1")
        };
        bench.emit(&packet(from, to, 0));
        bench.wait(Duration::ZERO);
        assert_eq!(
            bench
                .kept
                .sent
                .iter()
                .map(|(_, datagram)| datagram.len())
                .sum::<usize>(),
            want
        );
    }
    converse(&mut a, &mut b);
    assert_eq!((a.delivered().len(), b.delivered().len()), (1, 1));
}

#[test]
fn a_device_at_rest_asks_for_no_time() {
    let (mut a, b) = (Bench::new(1), Bench::new(2));
    a.know(&b, false);
    assert_eq!(a.device.poll_timeout(), None);
}

#[test]
fn coming_up_starts_a_handshake_with_every_peer_that_has_an_endpoint() {
    let (mut a, b, c) = (Bench::new(1), Bench::new(2), Bench::new(3));
    a.know(&b, true);
    a.know(&c, false);
    a.kept.sent.clear();
    a.device.handle_up(a.now, &mut a.kept);
    assert_eq!(a.kept.sent.iter().map(|(to, _)| *to).collect::<Vec<_>>(), [b.at]);
}

#[test]
fn both_may_initiate_at_the_same_time() {
    let (mut a, mut b) = (Bench::new(1), Bench::new(2));
    b.know(&a, true);
    a.know(&b, true);
    converse(&mut a, &mut b);
    for _ in 0..3 {
        a.emit(&packet("10.0.1.1", "10.0.2.1", 0));
        b.emit(&packet("10.0.2.1", "10.0.1.1", 0));
        converse(&mut a, &mut b);
    }
    assert_eq!((a.delivered().len(), b.delivered().len()), (3, 3));
}

#[test]
fn another_port_is_made_known_to_every_peer_at_once() {
    let (mut a, mut b) = pair();
    a.set(&["listen_port=4000"]);
    assert_eq!(
        a.kept
            .sent
            .iter()
            .map(|(to, sent)| (*to, sent.len()))
            .collect::<Vec<_>>(),
        [(b.at, 32)]
    );
    let moved = "192.0.2.1:4000".parse().unwrap();
    let (_, keepalive) = a.kept.sent.remove(0);
    b.hear(moved, &keepalive);
    assert_eq!(b.peer().endpoint, Some(moved));
    a.set(&["listen_port=4000"]);
    assert!(a.kept.sent.is_empty(), "the same port is no news");
}
