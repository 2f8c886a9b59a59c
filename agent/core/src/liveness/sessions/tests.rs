use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn key() -> PublicKey {
    PublicKey::new([1; 32])
}

fn stats(received: u64, handshake: Option<u64>) -> BTreeMap<PublicKey, PeerStats> {
    let handshake = handshake.map(Duration::from_secs);
    [(
        key(),
        PeerStats {
            endpoint: None,
            handshake,
            // By a wall clock that is never set, with readings that take no time.
            handshake_at: handshake.map(|age| Duration::from_secs(1_000_000) - age),
            received,
            sent: 0,
        },
    )]
    .into()
}

fn sessions() -> Sessions {
    let mut sessions = Sessions::default();
    sessions.handle_leaders([key()].into());
    sessions
}

#[test]
fn a_new_leader_gets_a_stimulus_at_once_and_every_five_seconds_until_it_answers() {
    let (mut sessions, start) = (sessions(), Instant::now());
    sessions.handle_stats(&stats(0, None), start);
    assert_eq!(sessions.poll_stimuli(start), [key()]);
    sessions.handle_stimulated(&key(), start);
    assert!(sessions.poll_stimuli(start + 4 * SECOND).is_empty());
    assert_eq!(sessions.poll_stimuli(start + 5 * SECOND), [key()]);
    sessions.handle_stimulated(&key(), start + 5 * SECOND);
    assert_eq!(sessions.silence(&key(), start + 16 * SECOND), Some(16 * SECOND));
    sessions.handle_stats(&stats(92, Some(0)), start + 17 * SECOND);
    assert_eq!(sessions.silence(&key(), start + 18 * SECOND), None);
    assert!(sessions.poll_stimuli(start + 18 * SECOND).is_empty());
}

#[test]
fn a_quiet_leader_gets_a_stimulus_and_one_that_talks_does_not() {
    let (mut sessions, start) = (sessions(), Instant::now());
    sessions.handle_stats(&stats(92, Some(0)), start);
    sessions.handle_stats(&stats(900, Some(20)), start + 20 * SECOND);
    assert!(sessions.poll_stimuli(start + 31 * SECOND).is_empty());
    assert_eq!(sessions.poll_stimuli(start + 50 * SECOND), [key()]);
}

#[test]
fn a_leader_with_another_endpoint_gets_a_stimulus_at_once() {
    let (mut sessions, start) = (sessions(), Instant::now());
    sessions.handle_stats(&stats(92, Some(0)), start);
    assert!(sessions.poll_stimuli(start + SECOND).is_empty());
    sessions.handle_given([&key()]);
    assert_eq!(sessions.poll_stimuli(start + SECOND), [key()]);
    sessions.handle_stimulated(&key(), start + SECOND);
    assert!(sessions.poll_stimuli(start + 2 * SECOND).is_empty());
    assert_eq!(sessions.silence(&key(), start + 3 * SECOND), Some(2 * SECOND));
}

/// Counts as a peer with an endpoint.
fn reached(received: u64) -> BTreeMap<PublicKey, PeerStats> {
    let mut stats = stats(received, Some(1));
    stats.get_mut(&key()).unwrap().endpoint = Some("192.0.2.1:51820".parse().unwrap());
    stats
}

/// At which tenths of a second a leader is recreated that is taken for dead at once and from which nothing comes, and when so
/// many others are dead, too.
fn revived(others: u8) -> Vec<u32> {
    let (mut sessions, start) = (sessions(), Instant::now());
    sessions.handle_stats(&reached(900), start - SECOND);
    let dead = (2..2 + others).map(|number| PublicKey::new([number; 32]));
    sessions.handle_dead(&dead.chain([key()]).collect(), start);
    let (mut revived, mut received) = (Vec::new(), 1000);
    for tenth in 1..600 {
        let now = start + SECOND * tenth / 10;
        // What came just before.
        sessions.handle_stats(&reached(received), now);
        if !sessions.poll_renewals(now).is_empty() {
            sessions.handle_renewed(&[key()].into(), now);
            received = 0;
            revived.push(tenth);
        }
    }
    revived
}

#[test]
fn a_leader_that_is_taken_for_dead_is_recreated_until_its_session_would_be_given_up_anyway() {
    assert_eq!(revived(0), [40, 60, 80, 100, 120, 140]);
    assert_eq!(revived(199), [40, 80, 120], "four seconds apart");
}

#[test]
fn one_that_is_taken_for_dead_and_sends_something_keeps_its_session() {
    let (mut sessions, start) = (sessions(), Instant::now());
    sessions.handle_stats(&reached(900), start - SECOND);
    sessions.handle_dead(&[key()].into(), start);
    assert!(sessions.poll_timeout(start) <= start + OFTEN);
    sessions.handle_stats(&reached(1000), start + OFTEN);
    assert!(sessions.poll_timeout(start + OFTEN) <= start + 4 * SECOND);
    sessions.handle_stats(&reached(1032), start + 4 * SECOND);
    assert!(sessions.poll_renewals(start + 4 * SECOND).is_empty());
    // It answers echo requests again, and dies.
    sessions.handle_dead(&BTreeSet::new(), start + 60 * SECOND);
    sessions.handle_dead(&[key()].into(), start + 61 * SECOND);
    sessions.handle_stats(&reached(1032), start + 61 * SECOND);
    sessions.handle_stats(&reached(1032), start + 65 * SECOND);
    assert_eq!(
        sessions.poll_renewals(start + 65 * SECOND),
        [(key(), 1032)].into()
    );
}

#[test]
fn a_peer_that_is_no_leader_never_gets_a_stimulus() {
    let (mut sessions, start) = (Sessions::default(), Instant::now());
    sessions.handle_stats(&stats(0, None), start);
    assert!(sessions.poll_stimuli(start + 100 * SECOND).is_empty());
}

#[test]
fn the_device_is_polled_often_only_while_a_new_peer_is_silent() {
    let (mut sessions, start) = (sessions(), Instant::now());
    assert_eq!(sessions.poll_timeout(start), start + SELDOM);
    sessions.handle_stats(&stats(0, None), start);
    assert_eq!(sessions.poll_timeout(start), start + OFTEN);
    let late = start + 31 * SECOND;
    assert_eq!(sessions.poll_timeout(late), late + SELDOM);
    sessions.handle_stats(&stats(92, Some(0)), start);
    assert_eq!(sessions.poll_timeout(start), start + SELDOM);
}

#[test]
fn a_leader_that_never_answered_is_recreated_a_few_times() {
    let (mut sessions, start) = (sessions(), Instant::now());
    let mut looked_for = stats(0, None);
    sessions.handle_stats(&looked_for, start);
    assert!(
        sessions.poll_renewals(start + SECOND).is_empty(),
        "it has to begin itself"
    );
    looked_for.get_mut(&key()).unwrap().endpoint = Some("192.0.2.1:1".parse().unwrap());
    sessions.handle_stats(&looked_for, start);
    let mut at = Vec::new();
    for tenth in 0..100_u32 {
        let now = start + tenth * SECOND / 10;
        let due = renewals(&sessions, now);
        sessions.handle_renewed(&due, now);
        at.extend(due.iter().map(|_| tenth));
    }
    assert_eq!(at, [4, 12, 28]);
}

fn renewals(sessions: &Sessions, now: Instant) -> BTreeSet<PublicKey> {
    sessions.poll_renewals(now).into_keys().collect()
}

/// The counters of a peer that has an endpoint.
fn located(received: u64) -> BTreeMap<PublicKey, PeerStats> {
    let mut stats = stats(received, None);
    stats.get_mut(&key()).unwrap().endpoint = Some("192.0.2.1:1".parse().unwrap());
    stats
}

#[test]
fn a_leader_that_answers_is_not_recreated() {
    let (mut sessions, start) = (sessions(), Instant::now());
    for minute in 0..60_u32 {
        let now = start + minute * 60 * SECOND;
        sessions.handle_stats(&located(92 + u64::from(minute)), now);
        assert!(sessions.poll_renewals(now + 59 * SECOND).is_empty());
        sessions.handle_stimulated(&key(), now + 59 * SECOND);
    }
}

#[test]
fn of_a_leader_that_was_silent_for_long_it_is_forgotten_which_time_it_had() {
    let (mut sessions, start) = (sessions(), Instant::now());
    sessions.handle_stats(&located(900), start);
    let mut received = 900;
    let mut at = Vec::new();
    for second in (20..1_000_u32).step_by(5) {
        let now = start + second * SECOND;
        sessions.handle_stats(&located(received), now);
        let due = renewals(&sessions, now);
        if !due.is_empty() {
            sessions.handle_renewed(&due, now);
            received = 0;
            at.push(second);
        }
        for key in sessions.poll_stimuli(now) {
            sessions.handle_stimulated(&key, now);
        }
        assert_eq!(sessions.poll_timeout(now), now + SELDOM, "it is no new peer");
    }
    assert_eq!(at, [320, 620, 920]);
    // Its first answer ends that, however few bytes these are.
    let now = start + 1_000 * SECOND;
    sessions.handle_stats(&located(92), now);
    assert_eq!(sessions.silence(&key(), now), None);
    assert!(sessions.poll_renewals(now + 1_000 * SECOND).is_empty());
}

#[test]
fn a_recreated_device_has_new_sessions() {
    let (mut sessions, start) = (sessions(), Instant::now());
    sessions.handle_stats(&stats(900, Some(0)), start);
    sessions.handle_stats(&stats(0, None), start + SECOND);
    assert_eq!(sessions.poll_stimuli(start + SECOND), [key()]);
    assert!(!sessions.fresh(&key(), Duration::ZERO));
}

/// As [`stats`], of a handshake at this second of the wall clock.
fn shaken(received: u64, at: u64, age: u64) -> BTreeMap<PublicKey, PeerStats> {
    let mut stats = stats(received, Some(age));
    stats.get_mut(&key()).unwrap().handshake_at = Some(Duration::from_secs(at));
    stats
}

#[test]
fn a_session_does_not_age_when_the_wall_clock_is_set() {
    let (mut sessions, start) = (sessions(), Instant::now());
    sessions.handle_stats(&shaken(92, 1_000, 10), start);
    assert!(sessions.fresh(&key(), Duration::ZERO));
    // Forward by a day: the handshake seems to be a day old.
    sessions.handle_stats(&shaken(92, 1_000, 86_400), start + 5 * SECOND);
    assert!(sessions.fresh(&key(), Duration::ZERO));
    // Back by a year: it seems to be just now, for ever.
    sessions.handle_stats(&shaken(92, 1_000, 0), start + 175 * SECOND);
    assert!(!sessions.fresh(&key(), Duration::ZERO));
    assert!(sessions.fresh(&key(), 10 * SECOND));
}

#[test]
fn a_handshake_between_two_readings_is_no_older_than_the_first_of_them() {
    let (mut sessions, start) = (sessions(), Instant::now());
    sessions.handle_stats(&stats(0, None), start);
    // The clock was set forward between the handshake and the reading.
    sessions.handle_stats(&shaken(92, 1_000, 86_400), start + 5 * SECOND);
    assert!(sessions.fresh(&key(), Duration::ZERO));
    sessions.handle_stats(&shaken(92, 1_000, 86_400), start + 180 * SECOND);
    assert!(!sessions.fresh(&key(), Duration::ZERO));
}

#[test]
fn a_session_by_which_something_came_is_fresh_however_old_the_wall_clock_makes_it() {
    let (mut sessions, start) = (sessions(), Instant::now());
    // An agent that starts after the clock was set.
    sessions.handle_stats(&shaken(92, 1_000, 86_400), start);
    assert!(!sessions.fresh(&key(), Duration::ZERO), "nothing says otherwise");
    sessions.handle_stats(&shaken(124, 1_000, 86_405), start + 5 * SECOND);
    assert!(sessions.fresh(&key(), Duration::ZERO));
    sessions.handle_stats(&shaken(124, 1_000, 86_400), start + 200 * SECOND);
    assert!(!sessions.fresh(&key(), Duration::ZERO));
}

#[test]
fn a_session_is_fresh_for_three_minutes() {
    let (mut sessions, start) = (sessions(), Instant::now());
    sessions.handle_stats(&shaken(92, 1_000, 179), start);
    assert!(sessions.fresh(&key(), Duration::ZERO));
    sessions.handle_stats(&shaken(92, 1_000, 180), start + SECOND);
    assert!(!sessions.fresh(&key(), Duration::ZERO));
    assert!(sessions.fresh(&key(), SECOND));
}
