//! Leaders that a node does not use: when that is reported, and of which.

use super::*;

const CALM: Duration = Duration::from_secs(5);

fn observe(state: &mut NodeState, idle: &[(&str, &str)], forsaken: &[(&str, &str, bool)], now: Instant) {
    let far =
        |(location, leader, _): &(&str, &str, bool)| (location.parse().unwrap(), leader.parse().unwrap());
    let dead = forsaken.iter().filter(|(.., is_dead)| *is_dead);
    let judgement = Judgement {
        idle: idle
            .iter()
            .map(|(leader, towards)| (leader.parse().unwrap(), towards.parse().unwrap()))
            .collect(),
        forsaken: forsaken.iter().map(far).collect(),
        dead: dead.map(far).collect(),
        ..Judgement::default()
    };
    state.handle_avoided(&judgement, Timestamp::UNIX_EPOCH, now);
}

/// What stands in the status: each leader with its location, and towards which nothing arrives.
fn said(state: &mut NodeState) -> Vec<String> {
    let status = state.poll_status(Timestamp::UNIX_EPOCH).unwrap();
    let avoided = status.avoided_leaders.into_iter();
    avoided
        .map(|one| {
            format!(
                "{} {} {}",
                one.location,
                one.node,
                one.towards.unwrap_or_default()
            )
        })
        .collect()
}

#[test]
fn a_leader_that_is_not_used_for_long_is_reported_until_it_has_been_used_for_long() {
    let start = Instant::now();
    let mut state = state_of("c", &mesh(true), start);
    observe(&mut state, &[("a", "b")], &[], start);
    assert!(state.poll_timeout(start).is_some_and(|at| at <= start + CALM));
    state.handle_timeout(start + CALM - SECOND);
    assert_eq!(said(&mut state), [""; 0], "it may be over soon");
    state.handle_timeout(start + CALM);
    assert_eq!(said(&mut state), ["a a b"]);
    let back = start + 60 * SECOND;
    observe(&mut state, &[], &[], back);
    state.handle_timeout(back + CALM - SECOND);
    assert_eq!(said(&mut state), ["a a b"]);
    state.handle_timeout(back + CALM);
    assert_eq!(said(&mut state), [""; 0]);
}

#[test]
fn of_leaders_elsewhere_those_are_reported_that_have_been_of_use() {
    let now = Instant::now();
    let mut state = state_of("a", &mesh(true), now);
    let forsaken = [("b", "b", true), ("c", "c", false)];
    observe(&mut state, &[], &forsaken, now);
    state.handle_timeout(now + CALM);
    assert_eq!(said(&mut state), ["b b "], "the other one has no session yet");
}
