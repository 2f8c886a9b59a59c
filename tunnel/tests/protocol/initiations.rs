//! When handshakes begin, and where initiations go.

use std::{net::SocketAddr, time::Duration};

use crate::{
    bench::{Bench, converse, packet},
    sim,
};

const INITIATION: u8 = 1;

fn first_bytes(bench: &Bench) -> Vec<u8> {
    bench.kept.sent.iter().map(|(_, datagram)| datagram[0]).collect()
}

/// Where the initiations went that were sent since the last call.
fn called(bench: &mut Bench) -> Vec<SocketAddr> {
    let sent = std::mem::take(&mut bench.kept.sent);
    sent.iter()
        .filter(|(_, datagram)| datagram[0] == INITIATION)
        .map(|(to, _)| *to)
        .collect()
}

#[test]
fn a_device_is_silent_until_there_is_a_packet() {
    sim::freeze();
    let (mut a, b) = (Bench::quiet(1), Bench::quiet(2));
    a.know(&b, true);
    a.set(&[
        &format!("public_key={}", b.key()),
        &format!("preshared_key={}", "07".repeat(32)),
        "endpoint=192.0.2.9:9",
    ]);
    a.set(&[&format!("private_key={}", "08".repeat(32)), "listen_port=4000"]);
    a.device.handle_down(a.now);
    a.device.handle_up(a.now, &mut a.kept);
    a.wait(Duration::from_secs(60));
    assert_eq!(first_bytes(&a), [0; 0]);
    assert_eq!(a.device.poll_timeout(), None, "nothing is to be repeated");
    a.emit(&packet("10.0.1.1", "10.0.2.1", 8));
    assert_eq!(first_bytes(&a), [INITIATION]);
}

#[test]
fn a_packet_does_not_wait_for_an_initiation_that_came_before_it_and_got_no_answer() {
    sim::freeze();
    let (mut a, mut b) = (Bench::new(1), Bench::quiet(2));
    a.know(&b, true);
    assert_eq!(first_bytes(&a), [INITIATION], "it is eager");
    // The other side does not know this one yet.
    converse(&mut a, &mut b);
    a.wait(Duration::from_millis(300));
    b.know(&a, false);
    a.emit(&packet("10.0.1.1", "10.0.2.1", 8));
    converse(&mut a, &mut b);
    assert_eq!(b.delivered().len(), 1);
}

#[test]
fn a_packet_that_comes_soon_after_an_initiation_without_an_answer_waits_a_quarter_of_a_second() {
    sim::freeze();
    let (mut a, mut b) = (Bench::new(1), Bench::quiet(2));
    a.know(&b, true);
    converse(&mut a, &mut b);
    let ms = Duration::from_millis;
    a.wait(ms(100));
    b.know(&a, false);
    for _ in 0..2 {
        a.emit(&packet("10.0.1.1", "10.0.2.1", 8));
        assert_eq!(called(&mut a), [], "the answer may be under way");
        a.wait(ms(50));
    }
    let due = a.device.poll_timeout().unwrap() - a.now;
    assert!(due <= ms(50), "{due:?}");
    a.wait(due);
    converse(&mut a, &mut b);
    assert_eq!(b.delivered().len(), 2);
}

#[test]
fn a_packet_that_waits_for_an_answer_to_an_old_key_starts_a_handshake_with_the_new_one() {
    sim::freeze();
    let (mut a, mut b) = (Bench::quiet(1), Bench::quiet(2));
    a.know(&b, true);
    b.know(&Bench::quiet(9), false);
    let line = format!("public_key={}", Bench::quiet(9).key());
    b.set(&[&line, "allowed_ip=10.0.1.0/24"]);
    a.emit(&packet("10.0.1.1", "10.0.2.1", 8));
    converse(&mut a, &mut b);
    a.wait(Duration::from_secs(1));
    a.set(&[&format!("private_key={}", "09".repeat(32))]);
    converse(&mut a, &mut b);
    assert_eq!(b.delivered().len(), 1);
}

#[test]
fn packets_start_no_more_than_one_handshake() {
    let (mut a, b) = (Bench::new(1), Bench::new(2));
    a.know(&b, true);
    a.emit(&packet("10.0.1.1", "10.0.2.1", 8));
    assert_eq!(called(&mut a).len(), 1, "the answer may be under way");
    a.wait(Duration::from_millis(300));
    for _ in 0..10 {
        a.wait(Duration::from_millis(400));
        a.emit(&packet("10.0.1.1", "10.0.2.1", 8));
    }
    assert_eq!(called(&mut a).len(), 1);
}

#[test]
fn who_is_to_be_kept_alive_is_called_when_that_is_set_and_when_the_device_comes_up() {
    let (mut a, b) = (Bench::quiet(1), Bench::quiet(2));
    a.device.handle_down(a.now);
    a.know(&b, true);
    a.set(&[
        &format!("public_key={}", b.key()),
        "persistent_keepalive_interval=25",
    ]);
    assert_eq!(called(&mut a), [], "it is down");
    a.device.handle_up(a.now, &mut a.kept);
    assert_eq!(called(&mut a), [b.at]);
    let c = Bench::quiet(3);
    a.set(&[
        &format!("public_key={}", c.key()),
        &format!("endpoint={}", c.at),
        "persistent_keepalive_interval=25",
    ]);
    assert_eq!(called(&mut a), [c.at]);
}

#[test]
fn an_eager_device_says_so_and_can_be_calmed() {
    let mut a = Bench::new(1);
    assert!(a.get().contains("\neager=true\n"));
    a.set(&["eager=false"]);
    assert!(!a.get().contains("eager"));
    a.know(&Bench::new(2), true);
    assert_eq!(called(&mut a), []);
}

#[test]
fn packets_that_wait_try_again_when_routes_change() {
    sim::freeze();
    let (mut a, mut b) = (Bench::quiet(1), Bench::quiet(2));
    a.know(&b, true);
    b.know(&a, false);
    a.device.handle_routes(a.now);
    assert_eq!(called(&mut a), [], "nothing waits");
    a.emit(&packet("10.0.1.1", "10.0.2.1", 8));
    // It could not be sent, for the machine's address is not usable yet.
    assert_eq!(called(&mut a), [b.at]);
    for (wait, tries) in [(400, 0), (100, 1), (499, 0), (1, 1)] {
        a.wait(Duration::from_millis(wait));
        a.device.handle_routes(a.now);
        a.catch_up();
        let sent: Vec<_> = a.kept.sent.iter().map(|(to, _)| *to).collect();
        assert_eq!(sent, vec![b.at; tries], "after {wait} ms");
        if wait > 1 {
            a.kept.sent.clear();
        }
    }
    converse(&mut a, &mut b);
    assert_eq!(b.delivered().len(), 1);
    a.wait(Duration::from_secs(2));
    a.device.handle_routes(a.now);
    a.catch_up();
    assert_eq!(called(&mut a), [], "there is a session");
}

#[test]
fn the_only_change_of_routes_is_not_forgotten_when_it_comes_soon_after_an_initiation() {
    sim::freeze();
    for after in [1, 50, 300, 499, 2000] {
        let (mut a, b) = (Bench::quiet(1), Bench::quiet(2));
        a.know(&b, true);
        a.emit(&packet("10.0.1.1", "10.0.2.1", 8));
        let start = a.now;
        a.wait(Duration::from_millis(after));
        a.device.handle_routes(a.now);
        assert_eq!(called(&mut a), [b.at], "the first one");
        let due = a.device.poll_timeout().unwrap();
        a.wait(due.saturating_duration_since(a.now));
        assert_eq!(called(&mut a), [b.at]);
        assert_eq!(a.now - start, Duration::from_millis(after.max(500)));
    }
}

/// Lets time pass from moment to moment at which something is due; returns after what times initiations were sent.
fn calls_until(bench: &mut Bench, end: Duration) -> Vec<Duration> {
    let (start, mut calls) = (bench.now, Vec::new());
    loop {
        calls.extend(called(bench).iter().map(|_| bench.now - start));
        let passed = bench.now - start;
        let due = bench.device.poll_timeout().map(|at| at - bench.now);
        match due.filter(|due| passed + *due <= end) {
            Some(due) => bench.wait(due),
            None => return calls,
        }
    }
}

#[test]
fn a_call_that_changed_routes_caused_does_not_put_off_the_repetition() {
    sim::freeze();
    let ms = Duration::from_millis;
    for after in [100, 2000, 3700, 4400] {
        let (mut a, b) = (Bench::quiet(1), Bench::quiet(2));
        a.know(&b, true);
        a.emit(&packet("10.0.1.1", "10.0.2.1", 8));
        let start = a.now;
        a.wait(ms(after));
        a.device.handle_routes(a.now);
        let calls = calls_until(&mut a, ms(5400 - after));
        let last = *calls.last().unwrap() + ms(after);
        assert!((ms(5000)..=ms(5333)).contains(&last), "{after} ms: {calls:?}");
        assert!(a.now - start <= ms(5333));
        // The next one follows after as long as ever.
        let next = calls_until(&mut a, ms(5400));
        assert!(
            (ms(5000)..=ms(5333)).contains(next.last().unwrap()),
            "{after} ms: {next:?}"
        );
    }
}

/// What is sent while a neighbour is looked for leaves in one go, and of such initiations the first is answered: too many later
/// ones, and the answer is to one that is forgotten.
#[test]
fn a_second_after_the_last_change_of_routes_there_is_another_call_for_packets_that_wait() {
    sim::freeze();
    let ms = Duration::from_millis;
    let (mut a, mut b) = (Bench::quiet(1), Bench::quiet(2));
    a.know(&b, true);
    b.know(&a, false);
    a.emit(&packet("10.0.1.1", "10.0.2.1", 8));
    let mut burst = Vec::new();
    for _ in 0..4 {
        a.wait(ms(500));
        a.device.handle_routes(a.now);
        a.catch_up();
        burst.append(&mut a.kept.sent);
    }
    assert!(burst.len() > 3, "{}", burst.len());
    for (_, datagram) in burst {
        b.hear(a.at, &datagram);
    }
    assert_eq!(b.kept.sent.len(), 1);
    let (_, answer) = b.kept.sent.remove(0);
    a.hear(b.at, &answer);
    a.wait(ms(1000));
    b.now = a.now;
    converse(&mut a, &mut b);
    assert_eq!(b.delivered().len(), 1);
    assert_eq!(calls_until(&mut a, ms(6000)), [], "there is a session");
}

#[test]
fn an_initiation_without_an_answer_is_repeated_to_the_learned_and_to_the_configured_endpoint() {
    sim::freeze();
    let (mut a, mut b) = (Bench::quiet(1), Bench::quiet(2));
    a.know(&b, true);
    b.know(&a, true);
    // What `b` sends first comes from an address that leads nowhere.
    b.emit(&packet("10.0.2.1", "10.0.1.1", 8));
    let (_, initiation) = b.kept.sent.remove(0);
    let nowhere = "[fe80::7%3]:7".parse().unwrap();
    a.hear(nowhere, &initiation);
    assert_eq!(a.peer().endpoint, Some(nowhere));
    a.kept.sent.clear();
    a.emit(&packet("10.0.1.1", "10.0.2.1", 8));
    assert_eq!(called(&mut a), [nowhere]);
    for _ in 0..2 {
        a.wait(Duration::from_millis(5333));
        let sent = std::mem::take(&mut a.kept.sent);
        assert_eq!(
            sent.iter().map(|(to, _)| *to).collect::<Vec<_>>(),
            [nowhere, b.at]
        );
        assert_eq!(sent[0].1, sent[1].1, "one that gets there twice is answered once");
    }
    a.wait(Duration::from_millis(5333));
    converse(&mut a, &mut b);
    assert_eq!((a.peer().endpoint, b.delivered().len()), (Some(b.at), 1));
}

#[test]
fn a_stale_configured_endpoint_costs_a_learned_one_no_repetition() {
    sim::freeze();
    let (mut a, mut b) = (Bench::quiet(1), Bench::quiet(2));
    a.know(&b, true);
    b.know(&a, true);
    let stale: SocketAddr = "192.0.2.99:9".parse().unwrap();
    a.set(&[&format!("public_key={}", b.key()), &format!("endpoint={stale}")]);
    b.emit(&packet("10.0.2.1", "10.0.1.1", 8));
    converse(&mut a, &mut b);
    assert_eq!(a.peer().endpoint, Some(b.at));
    // The other side is away for a moment.
    a.wait(Duration::from_secs(200));
    a.emit(&packet("10.0.1.1", "10.0.2.1", 8));
    a.kept.sent.clear();
    a.wait(Duration::from_millis(5333));
    b.wait(Duration::from_millis(5333));
    converse(&mut a, &mut b);
    assert_eq!(b.delivered().len(), 1);
}

#[test]
fn a_device_that_is_down_sends_and_counts_nothing_and_forgets_its_sessions() {
    sim::freeze();
    let (mut a, mut b) = (Bench::quiet(1), Bench::quiet(2));
    a.know(&b, true);
    b.know(&a, false);
    a.set(&[
        &format!("public_key={}", b.key()),
        "persistent_keepalive_interval=1",
    ]);
    converse(&mut a, &mut b);
    a.emit(&packet("10.0.1.1", "10.0.2.1", 8));
    converse(&mut a, &mut b);
    assert_eq!(b.delivered().len(), 1);
    b.emit(&packet("10.0.2.1", "10.0.1.1", 8));
    let (_, late) = b.kept.sent.remove(0);
    let counted = a.peer().tx_bytes;
    a.device.handle_down(a.now);
    a.hear(b.at, &late);
    for _ in 0..30 {
        a.wait(Duration::from_secs(1));
    }
    assert_eq!(first_bytes(&a), [0; 0]);
    assert_eq!((a.peer().tx_bytes, a.delivered().len()), (counted, 0));
    assert_eq!(a.device.poll_timeout(), None, "nothing is due while it is down");
    a.device.handle_up(a.now, &mut a.kept);
    assert_eq!(first_bytes(&a), [INITIATION], "a keepalive takes a session");
    a.hear(b.at, &late);
    assert_eq!(a.delivered().len(), 0, "the keys are dropped");
    b.now = a.now;
    converse(&mut a, &mut b);
    a.emit(&packet("10.0.1.1", "10.0.2.1", 8));
    converse(&mut a, &mut b);
    assert_eq!(b.delivered().len(), 1);
}

#[test]
fn what_waited_when_the_device_went_down_is_not_sent_and_what_came_before_it_could_send_is() {
    sim::freeze();
    let (mut a, mut b) = (Bench::quiet(1), Bench::quiet(2));
    a.know(&b, true);
    a.emit(&packet("10.0.1.1", "10.0.2.1", 8));
    assert_eq!(called(&mut a), [b.at]);
    a.device.handle_down(a.now);
    b.know(&a, false);
    a.device.handle_up(a.now, &mut a.kept);
    a.wait(Duration::from_secs(20));
    assert_eq!(
        called(&mut a),
        [],
        "the packet is dropped, and no initiation repeated"
    );
    a.device.handle_down(a.now);
    a.emit(&packet("10.0.1.1", "10.0.2.1", 8));
    assert_eq!(called(&mut a), []);
    a.device.handle_up(a.now, &mut a.kept);
    converse(&mut a, &mut b);
    assert_eq!(b.delivered().len(), 1);
}

#[test]
fn a_session_that_was_begun_long_ago_and_never_used_causes_no_initiation_when_an_address_is_lost() {
    for (age, calls) in [(1, 1), (170, 1), (181, 0), (600, 0), (3 * 86_400, 0)] {
        sim::freeze();
        let (mut a, mut b) = (Bench::quiet(1), Bench::quiet(2));
        a.know(&b, true);
        b.know(&a, true);
        b.emit(&packet("10.0.2.1", "10.0.1.1", 8));
        let (_, initiation) = b.kept.sent.remove(0);
        a.hear_at("192.0.2.1".parse().unwrap(), b.at, &initiation);
        // The answer is lost.
        a.kept.sent.clear();
        a.wait(Duration::from_secs(age));
        a.device.handle_lost(a.now, &|_| true, &mut a.kept);
        assert_eq!(called(&mut a).len(), calls, "after {age} s");
    }
}

#[test]
fn a_call_that_could_not_leave_is_sent_again_as_soon_as_routes_change() {
    sim::freeze();
    let ms = Duration::from_millis;
    let (mut a, mut b) = (Bench::quiet(1), Bench::quiet(2));
    a.know(&b, true);
    b.know(&a, false);
    let id = a.device.peer(b.key()).unwrap();
    a.emit(&packet("10.0.1.1", "10.0.2.1", 8));
    assert_eq!(called(&mut a), [b.at]);
    assert!(a.device.handle_unsent(a.now, id, 148));
    assert_eq!(a.peer().tx_bytes, 0);
    a.wait(ms(10));
    assert_eq!(called(&mut a), [], "nothing has changed");
    a.device.handle_routes(a.now);
    a.catch_up();
    let call = std::mem::take(&mut a.kept.sent);
    assert_eq!(call.len(), 1);
    // This one has left, and the answer may be under way.
    a.wait(ms(10));
    a.device.handle_routes(a.now);
    a.catch_up();
    assert_eq!(called(&mut a), []);
    a.kept.sent = call;
    converse(&mut a, &mut b);
    assert_eq!(b.delivered().len(), 1);
    let counted = a.peer().tx_bytes;
    assert!(counted > 148);
    a.device.handle_unsent(a.now, id, 100);
    assert_eq!(a.peer().tx_bytes, counted - 100);
}
