//! Nodes of the own location that do not answer: when that is reported, and as what.

use super::*;

const CALM: Duration = Duration::from_secs(5);

fn observe(state: &mut NodeState, silent: &[&str], now: Instant) {
    let judgement = Judgement {
        silent: silent.iter().map(|name| name.parse().unwrap()).collect(),
        ..Judgement::default()
    };
    state.handle_silent(&judgement, Timestamp::UNIX_EPOCH, now);
}

/// What stands in the status: its conditions that are false, each with its message, and the silent members.
fn said(state: &mut NodeState) -> (Vec<(String, String)>, Vec<String>) {
    let status = state.poll_status(Timestamp::UNIX_EPOCH).unwrap();
    let fails = status.conditions.into_iter().filter(|one| one.status == "False");
    let fails = fails.map(|one| (one.type_, one.message)).collect();
    let silent = status.silent_members.into_iter().map(|member| member.node);
    (fails, silent.collect())
}

#[test]
fn a_leader_reports_a_member_that_is_silent_for_long_until_it_has_answered_for_long() {
    let start = Instant::now();
    let mut state = state_of("a", &mesh(true), start);
    let before = said(&mut state);
    observe(&mut state, &["c"], start);
    assert!(state.poll_timeout(start).is_some_and(|at| at <= start + CALM));
    state.handle_timeout(start + CALM - SECOND);
    assert_eq!(said(&mut state), before, "it boots, perhaps");
    state.handle_timeout(start + CALM);
    let (fails, silent) = said(&mut state);
    let (about, message) = fails.last().unwrap();
    assert_eq!((about.as_str(), silent), ("MembersReached", vec!["c".to_owned()]));
    let expected = "c has answered no echo request by the hop since 1970-01-01T00:00:00Z; unless it only refuses these, what comes out \
                    of the tunnel for it is lost;";
    assert!(message.starts_with(expected), "{message}");
    assert_eq!(fails.len(), before.0.len() + 1, "Ready is as it was");

    let back = start + 60 * SECOND;
    observe(&mut state, &[], back);
    state.handle_timeout(back + CALM - SECOND);
    assert_eq!(said(&mut state).1, ["c"], "it may go again");
    observe(&mut state, &["c"], back + CALM - SECOND);
    observe(&mut state, &[], back + CALM);
    state.handle_timeout(back + CALM + SECOND);
    assert_eq!(said(&mut state).1, ["c"]);
    state.handle_timeout(back + 2 * CALM);
    assert_eq!(said(&mut state), before);

    // What is over before it lasts is not reported.
    observe(&mut state, &["c"], back + 20 * SECOND);
    observe(&mut state, &[], back + 21 * SECOND);
    state.handle_timeout(back + 60 * SECOND);
    assert_eq!(said(&mut state), before);
}

#[test]
fn a_leader_reports_the_nodes_of_another_location_of_which_only_leaders_answer() {
    let start = Instant::now();
    let mut mesh = mesh(true);
    let location = mesh.locations.get_mut(&"b".parse().unwrap()).unwrap();
    for (name, number) in [("d", 4), ("e", 5)] {
        location
            .members_mut()
            .insert(name.parse().unwrap(), member(number));
    }
    let mut state = state_of("a", &mesh, start);
    let before = said(&mut state);
    let judgement = Judgement {
        barren: ["b".parse().unwrap()].into(),
        ..Judgement::default()
    };
    state.handle_silent(&judgement, Timestamp::UNIX_EPOCH, start);
    state.handle_timeout(start + CALM - SECOND);
    assert_eq!(said(&mut state), before);
    assert!(state.poll_timeout(start).is_some_and(|at| at <= start + CALM));
    state.handle_timeout(start + CALM);
    let (fails, silent) = said(&mut state);
    let (about, message) = fails.last().unwrap();
    assert_eq!(
        (about.as_str(), silent),
        ("MembersReached", vec!["d".to_owned(), "e".to_owned()])
    );
    let expected =
        "of location b only leaders answer since 1970-01-01T00:00:00Z, and nothing behind b; unless";
    assert!(
        message.starts_with(expected) && message.matches("location b").count() == 1,
        "{message}"
    );
    assert_eq!(fails.len(), before.0.len() + 1, "Ready is as it was");
    state.handle_silent(&Judgement::default(), Timestamp::UNIX_EPOCH, start + 2 * CALM);
    state.handle_timeout(start + 3 * CALM);
    assert_eq!(said(&mut state), before);
}

#[test]
fn whose_pods_are_reached_by_another_leader_is_said() {
    let now = Instant::now();
    let mut mesh = mesh(true);
    let location = mesh.locations.get_mut(&"a".parse().unwrap()).unwrap();
    location.members_mut().insert("d".parse().unwrap(), member(4));
    location.leaders.push(Leader {
        node: "d".parse().unwrap(),
        role: LeaderRole::Standby,
    });
    let mut state = state_of("a", &mesh, now);
    let mut reachability = Reachability::default();
    reachability.observe_cut(["c".parse().unwrap()].into());
    state.handle_reachability(reachability);
    observe(&mut state, &["c"], now);
    state.handle_timeout(now + CALM);
    let (fails, _) = said(&mut state);
    let (_, message) = fails.last().unwrap();
    assert!(
        message.contains("its pods are reached through d, its own addresses are not"),
        "{message}"
    );
}

#[test]
fn a_follower_whose_leaders_are_all_silent_is_not_ready() {
    let now = Instant::now();
    let mut state = state_of("c", &mesh(true), now);
    let troubles = |state: &NodeState| -> Vec<&'static str> {
        state.troubles().unwrap().iter().map(Trouble::reason).collect()
    };
    let before = troubles(&state);
    observe(&mut state, &["a"], now);
    assert_eq!(troubles(&state), before);
    state.handle_timeout(now + CALM);
    let stranded = state.troubles().unwrap().last().unwrap();
    assert!(stranded.stops_traffic() && stranded.is_elsewhere());
    let text = stranded.to_string();
    let expected = "no leader of its own location has answered this node since 1970-01-01T00:00:00Z: neither a by the hop,";
    assert!(text.starts_with(expected), "{text}");
    assert_eq!(said(&mut state).1, [""; 0], "a leader names members");
    observe(&mut state, &[], now + 60 * SECOND);
    state.handle_timeout(now + 60 * SECOND + CALM);
    assert_eq!(troubles(&state), before);
}
