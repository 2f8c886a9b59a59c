//! What a machine's clocks do to it: suspension, and a time that is set.

use std::time::{Duration, Instant};

use spanwire_tunnel::clock::Suspicion;

use crate::{
    bench::{Bench, converse, packet},
    sim,
};

const HOUR: Duration = Duration::from_secs(3600);

/// Two devices whose session has died, and the initiation by which it began.
fn idle_pair() -> (Bench, Bench, Vec<u8>) {
    sim::freeze();
    let (mut a, mut b) = (Bench::quiet(1), Bench::quiet(2));
    b.know(&a, false);
    a.know(&b, true);
    a.emit(&packet("10.0.1.1", "10.0.2.1", 8));
    let (_, recorded) = a.kept.sent[0].clone();
    converse(&mut a, &mut b);
    assert_eq!(b.delivered().len(), 1);
    for bench in [&mut a, &mut b] {
        bench.look_at_clocks();
    }
    for _ in 0..5 {
        sim::pass(HOUR / 10);
        for bench in [&mut a, &mut b] {
            bench.now += HOUR / 10;
            bench.wait(Duration::ZERO);
            bench.look_at_clocks();
        }
    }
    b.kept.sent.clear();
    (a, b, recorded)
}

#[test]
fn a_recorded_initiation_is_refused_after_a_suspension_a_set_clock_and_other_keys() {
    let disturbances: [fn(&Bench, &mut Bench); 5] = [
        |_, _| sim::suspend(HOUR),
        |_, _| sim::step(HOUR),
        |a, b| {
            b.set(&[
                &format!("public_key={}", a.key()),
                &format!("preshared_key={}", "07".repeat(32)),
            ])
        },
        // The recorded one was made for the key before.
        |a, b| {
            b.set(&[&format!("private_key={}", "0b".repeat(32))]);
            b.set(&[
                &format!("public_key={}", a.key()),
                &format!("preshared_key={}", "07".repeat(32)),
            ]);
            b.set(&[&format!("private_key={}", "02".repeat(32))]);
        },
        |_, b| {
            b.set(&[&format!("private_key={}", "00".repeat(32))]);
            b.set(&[&format!("private_key={}", "02".repeat(32))]);
        },
    ];
    for (number, disturb) in disturbances.into_iter().enumerate() {
        let (a, mut b, recorded) = idle_pair();
        let endpoint = b.peer().endpoint;
        disturb(&a, &mut b);
        b.look_at_clocks();
        b.hear("203.0.113.9:9".parse().unwrap(), &recorded);
        assert!(b.kept.sent.is_empty(), "{number}: it is answered");
        assert_eq!(b.peer().endpoint, endpoint, "{number}: it moves the endpoint");
    }
}

#[test]
fn who_was_refused_a_replay_still_gets_in_with_the_next_handshake() {
    let (mut a, mut b, recorded) = idle_pair();
    sim::suspend(HOUR);
    for bench in [&mut a, &mut b] {
        bench.look_at_clocks();
    }
    b.hear("203.0.113.9:9".parse().unwrap(), &recorded);
    a.emit(&packet("10.0.1.1", "10.0.2.1", 8));
    converse(&mut a, &mut b);
    b.emit(&packet("10.0.2.1", "10.0.1.1", 8));
    converse(&mut a, &mut b);
    assert_eq!((a.delivered().len(), b.delivered().len()), (1, 1));
}

#[test]
fn a_machine_that_was_suspended_has_no_keys_any_more() {
    sim::freeze();
    let (mut a, mut b) = (Bench::quiet(1), Bench::quiet(2));
    b.know(&a, false);
    a.know(&b, true);
    a.emit(&packet("10.0.1.1", "10.0.2.1", 8));
    converse(&mut a, &mut b);
    a.look_at_clocks();
    sim::pass(Duration::from_secs(1));
    a.now += Duration::from_secs(1);
    a.look_at_clocks();
    a.emit(&packet("10.0.1.1", "10.0.2.1", 8));
    assert_eq!(a.kept.sent.remove(0).1[0], 4, "it was not suspended");
    // The clocks are looked at long after the turn began, for the thread had to wait.
    sim::pass(Duration::from_secs(2));
    a.look_at_clocks();
    a.emit(&packet("10.0.1.1", "10.0.2.1", 8));
    assert_eq!(a.kept.sent.remove(0).1[0], 4, "it was busy and not suspended");
    sim::suspend(Duration::from_secs(2));
    b.now += Duration::from_secs(2);
    a.look_at_clocks();
    a.emit(&packet("10.0.1.1", "10.0.2.1", 8));
    assert_eq!(a.kept.sent[0].1[0], 1);
    converse(&mut a, &mut b);
    assert_eq!(b.delivered().len(), 2);
}

#[test]
fn a_suspension_is_suspected_at_the_first_look_and_once() {
    sim::freeze();
    let mut suspicion = Suspicion::new();
    let mut arises = || suspicion.arises(Instant::now());
    for _ in 0..3 {
        sim::pass(HOUR);
        assert!(!arises());
        sim::suspend(Duration::from_millis(499));
        assert!(!arises());
        sim::suspend(Duration::from_secs(1));
        assert!(arises());
        assert!(!arises());
    }
}
