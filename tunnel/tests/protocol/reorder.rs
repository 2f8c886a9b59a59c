//! Datagrams that overtake each other.

use std::time::Duration;

use proptest::prelude::*;

use crate::bench::{Bench, packet, pair};

/// How many packets may overtake one that still arrives.
const WINDOW: usize = 1023;
const BATCH: usize = 64;

/// `a` sends so many packets, no two alike; they are in flight.
fn launch(a: &mut Bench, count: usize) -> Vec<Vec<u8>> {
    for number in 0..count {
        let mut packet = packet("10.0.1.1", "10.0.2.1", 8);
        packet[20..24].copy_from_slice(&u32::try_from(number).unwrap().to_be_bytes());
        a.emit(&packet);
    }
    let sent = std::mem::take(&mut a.kept.sent);
    assert_eq!(sent.len(), count);
    sent.into_iter().map(|(_, datagram)| datagram).collect()
}

/// Returns the numbers of the packets that came out.
fn landed(b: &mut Bench) -> Vec<u32> {
    b.delivered()
        .iter()
        .map(|packet| u32::from_be_bytes(packet[20..24].try_into().unwrap()))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn batches_in_flight_may_come_in_any_order_and_each_packet_comes_once(
        // Sixteen batches are in flight at a time: no packet is overtaken by more than the window.
        flight in Just((0..16 * BATCH).collect::<Vec<_>>()).prop_shuffle(),
        again in prop::collection::vec(0..16 * BATCH, 0..100),
        flights in 1..4usize,
    ) {
        let (mut a, mut b) = pair();
        for _ in 0..flights {
            let datagrams = launch(&mut a, flight.len());
            for number in &flight {
                b.hear(a.at, &datagrams[*number]);
            }
            let got: Vec<usize> = landed(&mut b).iter().map(|number| *number as usize).collect();
            prop_assert_eq!(&got, &flight, "not as they came");
            for number in &again {
                b.hear(a.at, &datagrams[*number]);
            }
            prop_assert!(b.delivered().is_empty(), "a packet comes twice");
        }
    }

    #[test]
    fn packets_within_a_batch_may_be_turned_around(
        order in Just((0..BATCH).collect::<Vec<_>>()).prop_shuffle(),
        lost in prop::collection::btree_set(0..BATCH, 0..BATCH),
    ) {
        let (mut a, mut b) = pair();
        for _ in 0..40 {
            let datagrams = launch(&mut a, BATCH);
            let come: Vec<usize> = order.iter().copied().filter(|number| !lost.contains(number)).collect();
            for number in &come {
                b.hear(a.at, &datagrams[*number]);
            }
            prop_assert_eq!(landed(&mut b).len(), come.len());
        }
    }
}

#[test]
fn a_packet_overtaken_by_the_window_arrives_once_and_by_one_more_never() {
    for (overtaking, want) in [(WINDOW, 1), (WINDOW + 1, 0)] {
        let (mut a, mut b) = pair();
        let datagrams = launch(&mut a, overtaking + 1);
        for datagram in &datagrams[1..] {
            b.hear(a.at, datagram);
        }
        assert_eq!(landed(&mut b).len(), overtaking);
        b.hear(a.at, &datagrams[0]);
        b.hear(a.at, &datagrams[0]);
        assert_eq!(landed(&mut b).len(), want, "overtaken by {overtaking}");
    }
}

#[test]
fn a_session_change_in_flight_drops_nothing() {
    let (mut a, mut b) = pair();
    let before = launch(&mut a, BATCH);
    for bench in [&mut a, &mut b] {
        bench.now += Duration::from_secs(1);
    }
    // A new session, begun by either side, while packets of the old one are on their way.
    for ours in [true, false] {
        let (first, second) = if ours { (&mut a, &mut b) } else { (&mut b, &mut a) };
        let key = second.key();
        first.set(&[&format!("public_key={key}"), "endpoint=192.0.2.77:1"]);
        let (_, initiation) = first.kept.sent.remove(0);
        second.hear(first.at, &initiation);
        let (_, response) = second.kept.sent.remove(0);
        first.hear(second.at, &response);
        let (_, confirmation) = first.kept.sent.remove(0);
        second.hear(first.at, &confirmation);
    }
    let after = launch(&mut a, BATCH);
    for (old, new) in before.iter().zip(&after).rev() {
        b.hear(a.at, new);
        b.hear(a.at, old);
    }
    assert_eq!(landed(&mut b).len(), 2 * BATCH);
}
