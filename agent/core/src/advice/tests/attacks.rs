//! Messages that are forged, recorded and held back.

use super::*;

/// Messages, each with the address that it came from.
type Recording = Vec<(IpAddr, [u8; LENGTH])>;

/// Two leaders that have spoken, what the second one says, and all that was sent.
fn recorded() -> ([Leader; 2], Instant, Recording) {
    let (mut pair, mut now) = pair();
    pair[1].uses("a", &["a1"], now);
    let mut sent = Vec::new();
    for _ in 0..5 {
        for from in 0..2 {
            let source = address(pair[from].number);
            for (_, datagram) in pair[from].sent(now) {
                sent.push((source, datagram));
                pair[1 - from].advisor.handle_datagram(source, &datagram, now);
            }
        }
        now += SECOND / 2;
    }
    assert_eq!(pair[0].hears(11), Some(names(&["a1"])));
    (pair, now, sent)
}

/// A message that would count if it arrived as it is, with something new to say.
fn news(pair: &mut [Leader; 2], now: Instant) -> [u8; LENGTH] {
    pair[1].uses("a", &["a2"], now);
    let sent = pair[1].sent(now);
    sent[0].1
}

#[test]
fn a_message_that_was_changed_anywhere_changes_nothing_and_is_not_answered() {
    let (mut pair, mut now, _) = recorded();
    let datagram = news(&mut pair, now);
    pair[0].sent(now);
    for place in 0..LENGTH {
        let mut forged = datagram;
        forged[place] ^= 1;
        // The budget is another test's.
        now += SECOND / 4;
        let quiet = pair[0].advisor.poll_timeout();
        pair[0].advisor.handle_datagram(address(11), &forged, now);
        assert_eq!(
            pair[0].advisor.poll_timeout().map(|at| at.max(now)),
            quiet.map(|at| at.max(now)),
            "{place}"
        );
        assert_ne!(pair[0].hears(11), Some(names(&["a2"])), "{place}");
    }
    let (mut pair, now, _) = recorded();
    let datagram = news(&mut pair, now);
    for wrong in [&datagram[1..], &datagram[..LENGTH - 1], &[]] {
        pair[0].advisor.handle_datagram(address(11), wrong, now);
    }
    pair[0].advisor.handle_datagram(address(12), &datagram, now);
    assert_eq!(
        pair[0].hears(11),
        Some(names(&["a1"])),
        "of another length, or from elsewhere"
    );
    pair[0].advisor.handle_datagram(address(11), &datagram, now);
    assert_eq!(
        pair[0].hears(11),
        Some(names(&["a2"])),
        "as it was sent it counts"
    );
}

#[test]
fn who_does_not_have_the_key_says_nothing() {
    let (mut pair, now, _) = recorded();
    let mut stranger = Leader::new(11, &[1], false, now);
    stranger.advisor.handle_key(Some(key(66)), now);
    stranger.uses("a", &["a2"], now);
    for (_, mut datagram) in stranger.sent(now) {
        datagram[8..40].copy_from_slice(key(11).public().as_bytes());
        pair[0].advisor.handle_datagram(address(11), &datagram, now);
    }
    assert_eq!(pair[0].hears(11), Some(names(&["a1"])));
}

#[test]
fn what_was_recorded_changes_nothing_whoever_has_started_again_since() {
    let (_, _, recording) = recorded();
    for starts in [[false, false], [true, false], [false, true], [true, true]] {
        let (mut pair, mut now, _) = recorded();
        pair[1].uses("a", &["a2"], now);
        run(&mut pair, &mut now, MOMENT);
        for (leader, seed) in [(0, 21), (1, 22)]
            .into_iter()
            .filter(|(leader, _)| starts[*leader])
        {
            pair[leader].start(seed, now);
        }
        let quiet = pair[0].hears(11);
        for (from, datagram) in &recording {
            let to = usize::from(*from == address(1));
            pair[to].advisor.handle_datagram(*from, datagram, now);
            assert_eq!(pair[0].hears(11), quiet, "{starts:?}");
            now += SECOND / 10;
        }
        assert_eq!(quiet, (!starts[0]).then(|| names(&["a2"])));
        run(&mut pair, &mut now, 2 * SECOND);
        assert_eq!(
            pair[0].hears(11),
            Some(names(&["a2"])),
            "{starts:?}: and keeps nothing from being heard"
        );
    }
}

#[test]
fn what_a_leader_said_before_it_started_again_does_not_count_after_what_it_says_since() {
    let (mut pair, mut now, recording) = recorded();
    pair[1].start(22, now);
    pair[1].uses("a", &["a2"], now);
    run(&mut pair, &mut now, MOMENT);
    assert_eq!(pair[0].hears(11), Some(names(&["a2"])));
    for (from, datagram) in recording.iter().rev().filter(|(from, _)| *from == address(11)) {
        pair[0].advisor.handle_datagram(*from, datagram, now);
        assert_eq!(pair[0].hears(11), Some(names(&["a2"])));
    }
}

#[test]
fn that_tunnels_are_about_to_end_is_not_heard_again_from_what_was_recorded_or_forged() {
    let (mut pair, mut now, _) = recorded();
    pair[0].advisor.poll_advice();
    let draining = |pair: &mut [Leader; 2]| pair[0].advisor.poll_advice().map(|heeded| heeded.draining);
    pair[1].drains(true, now);
    let ([said], later) = (&pair[1].sent(now)[..], now + SECOND) else {
        panic!("it says so once")
    };
    let (_, said) = *said;
    // The bit, of which the seal does not let anyone change one.
    let mut forged = said;
    forged[89] ^= 2;
    pair[0].advisor.handle_datagram(address(11), &forged, now);
    assert_eq!(draining(&mut pair), None);
    pair[0].advisor.handle_datagram(address(11), &said, now);
    assert_eq!(draining(&mut pair).map(|leaders| leaders.len()), Some(1));
    now = later;
    pair[1].drains(false, now);
    run(&mut pair, &mut now, MOMENT);
    assert_eq!(draining(&mut pair), Some(BTreeSet::new()));
    for _ in 0..8 {
        pair[0].advisor.handle_datagram(address(11), &said, now);
        assert_eq!(draining(&mut pair), None);
        now += SECOND / 4;
    }
}

#[test]
fn what_is_held_back_for_long_changes_nothing() {
    let (mut pair, mut now, _) = recorded();
    let held = news(&mut pair, now);
    // Nothing newer of it has arrived, and it is forgotten.
    run(&mut pair[..1], &mut now, 6 * SECOND);
    pair[0].advisor.handle_datagram(address(11), &held, now);
    assert_eq!(pair[0].hears(11), None);
}

#[test]
fn a_flood_of_messages_is_answered_a_few_times_a_second_with_as_many_bytes() {
    let (mut pair, mut now, recording) = recorded();
    // It knows none of them after a start, so all are introductions.
    pair[0].start(31, now);
    pair[0].sent(now);
    let of_other: Vec<_> = recording
        .iter()
        .filter(|(from, _)| *from == address(11))
        .collect();
    let mut answers = 0;
    for number in 0..10_000 {
        let (from, datagram) = of_other[number % of_other.len()];
        pair[0].advisor.handle_datagram(*from, datagram, now);
        answers += pair[0].sent(now).len();
        now += Duration::from_millis(1);
    }
    assert!((10..80).contains(&answers), "{answers} in ten seconds");
}

#[test]
fn a_key_of_low_order_is_spoken_to_by_no_one() {
    let now = Instant::now();
    let mut leader = Leader::new(1, &[], true, now);
    let partner = Partner {
        location: name("b"),
        node: name("b1"),
        overlay: address(11),
    };
    leader.partners.leaders.insert(PublicKey::new([0; 32]), partner);
    leader.advisor.handle_partners(&leader.partners, now);
    assert!(leader.advisor.poll_timeout().is_some());
    assert!(leader.sent(now).is_empty());
    assert!(
        leader.advisor.poll_timeout().is_some_and(|at| at > now),
        "and not tried all the time"
    );
}

#[test]
fn keys_are_not_printed() {
    assert_eq!(format!("{:?}", key(1)), "OwnKey(…)");
}
