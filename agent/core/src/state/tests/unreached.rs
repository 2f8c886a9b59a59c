//! Locations that nothing answers from: when who sends there is to be refused.

use super::*;

const LISTEN: Duration = Duration::from_millis(200);

/// A leader that has heard the only leader of b.
fn hearing(mesh: &Mesh, now: Instant) -> NodeState {
    let mut state = state(&published(mesh), now);
    let target = state.poll_target(now).unwrap();
    state.handle_outcome(taken(&target, &[]), now);
    assert!(!count(&mut state, 92, now));
    state
}

fn observe(state: &mut NodeState, names: &[&str], now: Instant) -> bool {
    state.handle_unreached(&unreached(names), Timestamp::UNIX_EPOCH, now)
}

/// Reads the counters. Returns whether the node has to change for them.
fn count(state: &mut NodeState, received: u64, now: Instant) -> bool {
    let stats = PeerStats {
        received,
        ..answering()
    };
    let (device, peers) = device(state, stats);
    state.handle_device(reading(Some(&device), peers), now)
}

fn refused(state: &NodeState) -> Vec<String> {
    state.refused().iter().map(ToString::to_string).collect()
}

#[test]
fn a_location_is_refused_when_nothing_comes_from_its_leaders_either_until_it_answers() {
    let start = Instant::now();
    let mut state = hearing(&mesh(true), start);
    assert!(!observe(&mut state, &["b"], start));
    assert_eq!(state.poll_timeout(start), Some(start), "the counters are old");
    assert!(!count(&mut state, 900, start));
    assert_eq!(state.poll_timeout(start), Some(start + LISTEN));
    assert!(!count(&mut state, 900, start + LISTEN / 2));
    assert!(count(&mut state, 900, start + LISTEN));
    assert_eq!(refused(&state), ["b"]);
    assert!(!count(&mut state, 900, start + 2 * LISTEN), "it is known");
    let after = start + 60 * SECOND;
    assert!(observe(&mut state, &[], after));
    assert!(refused(&state).is_empty());
    // It goes again, before it is reported that it was there.
    assert!(!observe(&mut state, &["b"], after + SECOND));
    assert!(!count(&mut state, 1_000, after + SECOND), "what came before");
    assert!(count(&mut state, 1_000, after + SECOND + LISTEN));
    assert_eq!(refused(&state), ["b"]);
}

#[test]
fn leaders_that_answer_no_echo_requests_any_more_and_send_something_are_not_refused() {
    let start = Instant::now();
    let mut state = hearing(&mesh(true), start);
    observe(&mut state, &["b"], start);
    assert!(!count(&mut state, 900, start));
    assert!(!count(&mut state, 932, start + LISTEN));
    for (second, received) in [(5, 932), (10, 964), (20, 996), (31, 996)] {
        assert!(!count(&mut state, received, start + second * SECOND), "it lives");
        assert!(refused(&state).is_empty());
    }
    assert!(count(&mut state, 996, start + 32 * SECOND), "it lives no more");
    assert_eq!(refused(&state), ["b"]);

    // That first something comes when it is refused already, as a keepalive of WireGuard.
    let mut state = hearing(&mesh(true), start);
    observe(&mut state, &["b"], start);
    assert!(!count(&mut state, 900, start));
    assert!(count(&mut state, 900, start + LISTEN));
    assert!(
        !count(&mut state, 0, start + 5 * SECOND),
        "the peer was recreated"
    );
    assert!(count(&mut state, 148, start + 10 * SECOND));
    assert!(refused(&state).is_empty());
}

/// What never answered may answer no echo requests. Whether it lives shows by the keepalive that follows from them.
#[test]
fn where_some_never_answered_a_keepalive_is_waited_for() {
    let start = Instant::now();
    let unheard = Judgement {
        unheard: ["b".parse().unwrap()].into(),
        ..Judgement::default()
    };
    for keepalive in [false, true] {
        let mut state = hearing(&mesh(true), start);
        assert!(!state.handle_unreached(&unheard, Timestamp::UNIX_EPOCH, start));
        for second in 0..12 {
            assert!(!count(&mut state, 900, start + second * SECOND));
            assert!(refused(&state).is_empty());
            assert_eq!(state.unreached().len(), 0);
        }
        let received = if keepalive { 932 } else { 900 };
        assert_eq!(count(&mut state, received, start + 12 * SECOND), !keepalive);
        assert_eq!(refused(&state).is_empty(), keepalive);
        assert_eq!(state.unreached().is_empty(), keepalive);
    }
}
