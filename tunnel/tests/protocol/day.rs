//! Hours of two devices on a clock that jumps from one event to the next: nothing grows, nothing is forgotten.

use std::time::{Duration, Instant};

use crate::{
    bench::{Bench, packet, pair},
    sim,
};

const INITIATION: u8 = 1;
const RESPONSE: u8 = 2;
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

/// Two devices, and what happened to them.
struct Pair {
    a: Bench,
    b: Bench,
    /// Who initiated when.
    initiations: Vec<Instant>,
    /// How often one was woken by its own wish.
    wakes: usize,
    /// Packets that came out.
    arrived: usize,
}

impl Pair {
    fn new() -> Self {
        sim::freeze();
        let (a, b) = pair();
        Self {
            a,
            b,
            initiations: Vec::with_capacity(100_000),
            wakes: 0,
            arrived: 0,
        }
    }

    /// Lets time pass, with a packet each way in every `pause`, over a wire that takes or loses each datagram.
    fn live(&mut self, time: Duration, pause: Duration, mut takes: impl FnMut(&[u8]) -> bool) -> usize {
        let end = self.a.now + time;
        let (mut next, mut sent) = (self.a.now + pause, 0);
        while self.a.now < end {
            let wish = [&self.a, &self.b]
                .into_iter()
                .filter_map(|bench| bench.device.poll_timeout())
                .min();
            let at = wish.map_or(next, |wish| wish.min(next)).min(end);
            let passed = at.saturating_duration_since(self.a.now);
            sim::pass(passed);
            for bench in [&mut self.a, &mut self.b] {
                bench.now += passed;
                if bench.device.poll_timeout().is_some_and(|due| due <= bench.now) {
                    self.wakes += 1;
                    bench.wait(Duration::ZERO);
                }
            }
            if at == next {
                self.a.emit(&packet("10.0.1.1", "10.0.2.1", 8));
                self.b.emit(&packet("10.0.2.1", "10.0.1.1", 8));
                next += pause;
                sent += 2;
            }
            self.exchange(&mut takes);
        }
        sent
    }

    fn exchange(&mut self, takes: &mut impl FnMut(&[u8]) -> bool) {
        let Self { a, b, .. } = self;
        while !(a.kept.sent.is_empty() && b.kept.sent.is_empty()) {
            for turn in 0..2 {
                let (from, to) = if turn == 0 {
                    (&mut *a, &mut *b)
                } else {
                    (&mut *b, &mut *a)
                };
                for (_, datagram) in std::mem::take(&mut from.kept.sent) {
                    if datagram[0] == INITIATION {
                        self.initiations.push(from.now);
                    }
                    if takes(&datagram) {
                        to.hear(from.at, &datagram);
                    }
                }
            }
        }
        self.arrived += a.delivered().len() + b.delivered().len();
    }
}

/// Chance that comes out the same every time (xorshift).
struct Dice(u64);

impl Dice {
    /// True in `percent` of all cases.
    fn falls(&mut self, percent: u64) -> bool {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % 100 < percent
    }
}

fn is_handshake(datagram: &[u8]) -> bool {
    matches!(datagram[0], INITIATION | RESPONSE)
}

#[test]
fn a_day_of_traffic_renews_the_session_every_two_minutes_and_leaves_nothing_behind() {
    let mut pair = Pair::new();
    let every = 4 * SECOND;
    let mut sent = pair.live(HOUR, every, |_| true);
    let (heap, wakes) = (sim::heap(), pair.wakes);
    let mut indices = Vec::with_capacity(2000);
    sent += pair.live(23 * HOUR, every, |datagram| {
        if is_handshake(datagram) {
            indices.push(u32::from_le_bytes(datagram[4..8].try_into().unwrap()));
        }
        true
    });
    assert_eq!(pair.arrived, sent, "a packet is lost");
    let renewals = pair.initiations.len();
    assert!(
        (86_400 / 125..=86_400 / 120).contains(&renewals),
        "{renewals} handshakes"
    );
    let handshakes = indices.len();
    indices.sort_unstable();
    indices.dedup();
    assert!(indices.len() + 2 > handshakes, "indices are used again");
    drop(indices);
    let grown = sim::heap() - heap;
    assert!(grown <= 1024, "{grown} bytes more than after an hour");
    let more = pair.wakes - 24 * wakes;
    assert!(more <= wakes, "{} wakes, {wakes} in the first hour", pair.wakes);
}

#[test]
fn half_of_all_handshakes_lost_for_hours_costs_gaps_but_no_memory() {
    let mut pair = Pair::new();
    let mut dice = Dice(1);
    let every = 4 * SECOND;
    pair.live(HOUR, every, |datagram| {
        !(is_handshake(datagram) && dice.falls(50))
    });
    let (heap, tries) = (sim::heap(), pair.initiations.len());
    pair.live(5 * HOUR, every, |datagram| {
        !(is_handshake(datagram) && dice.falls(50))
    });
    assert!(tries > 60, "{tries} initiations in an hour: nothing was lost");
    assert!(
        sim::heap() - heap <= 64 * 1024,
        "{} bytes more",
        sim::heap() - heap
    );
    pair.live(200 * SECOND, every, |_| true);
    pair.arrived = 0;
    let sent = pair.live(HOUR, every, |_| true);
    assert_eq!(pair.arrived, sent, "a packet is lost after the wire was mended");
    assert!(sim::heap() - heap <= 1024, "{} bytes more", sim::heap() - heap);
}

#[test]
fn a_peer_that_is_away_for_hours_is_called_every_five_seconds_and_holds_no_memory() {
    let mut pair = Pair::new();
    pair.live(200 * SECOND, SECOND, |_| false);
    let (heap, before) = (sim::heap(), pair.initiations.len());
    pair.live(HOUR / 2, SECOND, |_| false);
    // Both sides call, and each gives up after 90 seconds to begin again with the next packet.
    let calls = pair.initiations.len() - before;
    assert!(
        (2 * 1800 * 1000 / 5333..=2 * 1800 / 5 + 40).contains(&calls),
        "{calls} initiations"
    );
    assert!(
        sim::heap() - heap <= 128 * 1024,
        "{} bytes more",
        sim::heap() - heap
    );
    pair.arrived = 0;
    pair.live(10 * SECOND, SECOND, |_| true);
    assert!(
        pair.arrived > 20,
        "{} packets after the wire was mended",
        pair.arrived
    );
}

#[test]
fn a_handshake_is_repeated_with_jitter_for_ninety_seconds() {
    sim::freeze();
    let (mut a, b) = (Bench::new(1), Bench::new(2));
    a.know(&b, true);
    let start = a.now;
    let mut calls = vec![start];
    a.kept.sent.clear();
    while let Some(at) = a.device.poll_timeout() {
        a.wait(at.saturating_duration_since(a.now));
        calls.extend(std::mem::take(&mut a.kept.sent).iter().map(|_| at));
        assert!(a.now < start + 100 * SECOND, "it never gives up");
    }
    let mut pauses: Vec<Duration> = calls.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!((16..=17).contains(&pauses.len()), "{pauses:?}");
    pauses.sort_unstable();
    assert!(pauses[0] >= 5 * SECOND && *pauses.last().unwrap() <= Duration::from_millis(5333));
    pauses.dedup();
    assert!(pauses.len() > 10, "always the same jitter");
    // What comes later calls again.
    a.wait(HOUR);
    a.emit(&packet("10.0.1.1", "10.0.2.1", 8));
    assert_eq!(a.kept.sent.len(), 1);
}

#[test]
fn an_initiation_that_crossed_a_lost_one_is_repeated() {
    sim::freeze();
    let (mut a, mut b) = (Bench::new(1), Bench::new(2));
    b.know(&a, true);
    a.know(&b, true);
    a.emit(&packet("10.0.1.1", "10.0.2.1", 8));
    let (_, theirs) = b.kept.sent.remove(0);
    a.hear(b.at, &theirs);
    // Ours and the answer to theirs are lost, and they are gone for good.
    a.kept.sent.clear();
    let at = a.device.poll_timeout().expect("there was no answer");
    a.wait(at - a.now);
    assert_eq!(a.kept.sent.len(), 1);
    assert_eq!(a.kept.sent[0].1[0], INITIATION);
}

#[test]
fn received_data_is_acknowledged_once_and_after_ten_seconds_whatever_came_before() {
    sim::freeze();
    let (mut a, mut b) = pair();
    a.wait(30 * SECOND);
    b.now = a.now;
    a.emit(&packet("10.0.1.1", "10.0.2.1", 8));
    crate::bench::converse(&mut a, &mut b);
    assert_eq!(b.delivered().len(), 1);
    let start = b.now;
    let mut acknowledged = Vec::new();
    while b.now < start + 60 * SECOND {
        b.wait(Duration::from_millis(100));
        acknowledged.extend(std::mem::take(&mut b.kept.sent).iter().map(|_| b.now - start));
    }
    assert_eq!(acknowledged, [10 * SECOND]);
}

#[test]
fn a_session_at_rest_wakes_nobody_but_to_die() {
    sim::freeze();
    let (mut a, mut b) = pair();
    for bench in [&mut a, &mut b] {
        let mut wakes = 0;
        let start = bench.now;
        while let Some(at) = bench.device.poll_timeout() {
            wakes += 1;
            bench.wait(at.saturating_duration_since(bench.now));
            assert!(bench.now < start + 600 * SECOND, "keys live for ever");
        }
        assert!(wakes <= 3, "{wakes} wakes");
        assert!(bench.kept.sent.is_empty());
    }
}
