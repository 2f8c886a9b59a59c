//! Locations that no way reaches, and their return.

use super::*;

/// Whether a question is one that only the other location can answer.
fn is_far(text: &str) -> bool {
    text.starts_with("10.4.0") || text.starts_with("192.168")
}

/// a1 leads its location alone.
fn alone(judgement: &Judgement) -> Assignment {
    let mut assignment = leader(judgement);
    assignment.probes.hops.clear();
    assignment.probes.through.clear();
    assignment.hops.clear();
    assignment
}

/// The same, with one leader there.
fn pair(judgement: &Judgement) -> Assignment {
    let mut assignment = alone(judgement);
    assignment.probes.far.truncate(1);
    assignment.probes.behind[0].leader = name("b1");
    assignment
}

/// All that is sent there waits for the first answer.
#[test]
fn a_location_that_was_away_for_seconds_is_used_with_the_first_answer_which_is_soon_asked_for() {
    for assignment in [leader, alone, pair] {
        for lasts in [2, 10, 25] {
            for moment in 0..10 {
                let back = (10 + lasts) * SECOND + moment * 13 * MS;
                let world = World::new(assignment, move |text, at, _| {
                    is_far(text) && at > 10 * SECOND && at < back
                });
                let world = world.run(back + SECOND);
                let (reached, is_unreached) = *world.unreached.last().unwrap();
                assert!(!is_unreached && reached >= back, "{:?}", world.unreached);
                let after = reached - back;
                assert!(after <= 30 * MS, "{after:?} after it was back at {back:?}");
            }
        }
    }
}

#[test]
fn only_leaders_of_a_location_that_no_way_reaches_are_asked_more_often_and_only_for_a_while() {
    let in_a_second = |world: &World, what: &str, second: u64| {
        let during = world
            .sent
            .iter()
            .filter(|(at, text)| at.as_secs() == second && text == what);
        during.count()
    };
    // All of it is away.
    let world = World::new(leader, |text, at, _| is_far(text) && at > 10 * SECOND).run(60 * SECOND);
    for (what, at_first) in [
        ("10.4.0.11", 50),
        ("10.4.0.12", 50),
        ("10.0.0.2", 10),
        ("10.4.0.11 through a2", 10),
    ] {
        for (second, expected) in [
            (5, if what.contains("through") { 5 } else { 10 }),
            (20, at_first),
            (50, 10),
        ] {
            let asked = in_a_second(&world, what, second);
            assert!(
                asked.abs_diff(expected) <= 5,
                "{what}: {asked} in second {second}"
            );
        }
    }
    // One leader is, or the own tunnels to both: the other way is used.
    for away in [
        &["10.4.0.11"][..],
        &["10.4.0.11", "10.4.0.12", "192.168.2.3", "192.168.2.4"],
    ] {
        let world = World::new(leader, |text, at, _| away.contains(&text) && at > 10 * SECOND);
        let world = world.run(20 * SECOND);
        let asked = in_a_second(&world, "10.4.0.11", 15);
        assert!((9..=11).contains(&asked), "{away:?}: {asked}");
    }
}

/// With many of them the ceiling is shared, and what is asked besides is asked as often as before.
#[test]
fn locations_that_are_away_together_are_asked_within_the_ceiling_and_no_other_is_asked_less_often() {
    fn many(judgement: &Judgement) -> Assignment {
        let mut assignment = leader(judgement);
        let others = (0..30).map(|leader| Far {
            location: name(&format!("l{leader}")),
            ..far(&format!("n{leader}"), &format!("10.5.0.{leader}"))
        });
        assignment.probes.far.extend(others);
        assignment
    }
    let world = World::new(many, |text, at, _| {
        text.starts_with("10.5") && at > 20 * SECOND && at < 40 * SECOND
    });
    let world = world.run(60 * SECOND);
    let at: Vec<Duration> = world.sent.iter().map(|(at, _)| *at).collect();
    for (index, begin) in at.iter().enumerate() {
        let end = at.partition_point(|at| *at < *begin + SECOND);
        assert!(end - index <= 500, "{} from {begin:?} on", end - index);
    }
    let asked = |what: &str, from: Duration| {
        let during =
            |(at, text): &&(Duration, String)| *at >= from && *at < from + 10 * SECOND && text == what;
        world.sent.iter().filter(during).count()
    };
    for what in ["10.4.0.11", "10.4.0.12", "10.0.0.2"] {
        let while_away = asked(what, 25 * SECOND);
        assert!((98..=102).contains(&while_away), "{what}: {while_away}");
    }
    let of_one = asked("10.5.0.7", 25 * SECOND);
    assert!((120..=145).contains(&of_one), "{of_one} instead of 100");
    assert!(world.changes.is_empty(), "{:?}", world.changes);
}

/// A leader that has only just come into use, and then all of them are gone.
#[test]
fn a_few_answers_from_behind_a_leader_keep_a_location_from_being_unreached_for_seconds_alone() {
    let world = World::new(leader, |text, at, _| {
        let is_behind = text.starts_with("192.168");
        is_far(text) && (at > 10 * SECOND || is_behind && at > 600 * MS)
    });
    let world = world.run(30 * SECOND);
    let [(at, true)] = world.unreached[..] else {
        panic!("{:?}", world.unreached)
    };
    assert!(at > 10 * SECOND && at < 12 * SECOND, "{at:?}");
}

/// An agent knows what its WireGuard has a moment after it begins to watch.
#[test]
fn groups_that_are_known_later_count_from_then_on() {
    let mut world = World::new(
        |judgement| Assignment {
            groups: false,
            ..leader(judgement)
        },
        |text, at, _| {
            let is_behind = text.starts_with("192.168");
            is_far(text) && (at > 10 * SECOND || is_behind && at > 600 * MS)
        },
    )
    .run(SECOND);
    world.assignment = leader;
    let judgement = world.judgement.clone();
    world.prober.handle_assignment(&leader(&judgement), world.now);
    let world = world.run(29 * SECOND);
    assert!(
        matches!(world.unreached[..], [(_, true)]),
        "{:?}",
        world.unreached
    );
}
