//! Leaders behind which nothing answers.

use super::*;

#[test]
fn a_leader_behind_which_nobody_answers_is_tried_again_more_and_more_seldom() {
    // It forwards again after five minutes.
    let world = World::new(leader, |text, at, judgement| {
        let through_b1 = !judgement.forsaken.contains(&(name("b"), name("b1")));
        text.starts_with("192.168") && through_b1 && at > 10 * SECOND && at < 300 * SECOND
    });
    let world = world.run(600 * SECOND);
    let at: Vec<u64> = world.changes.iter().map(|(at, _)| at.as_secs()).collect();
    assert!(world.changes[0].0 < 10_500 * MS, "{:?}", world.changes[0]);
    assert_eq!(world.changes[0].1, "b1");
    // Trials 30 s, 60 s, 120 s … after the one before, up to a quarter later, each over within two seconds.
    let trials: Vec<u64> = at
        .chunks(2)
        .filter(|pair| pair.len() == 2)
        .map(|pair| pair[1] - pair[0])
        .collect();
    for (trial, wait) in trials.iter().zip([30, 60, 120, 240]) {
        assert!((wait - 1..=wait + wait / 4 + 1).contains(trial), "{trials:?}");
    }
    for (begin, end) in at[1..].iter().zip(&at[2..]).step_by(2) {
        assert!(end - begin <= 2, "{at:?}");
    }
    assert_eq!(world.unused().last(), Some(&""), "{at:?}");
    assert!((7..=9).contains(&at.len()), "{at:?}");
}

/// Behind it nothing ever answered, which would prove nothing, had the same members not answered behind the other one.
#[test]
fn a_leader_that_comes_back_and_does_not_reach_its_members_is_given_up_again() {
    assert_eq!(comes_back_without_members(leader), ["10 b1", "13 ", "14 b1"]);
}

/// While the far side sends by another leader than this one, what it sends is lost, and no leader here is to blame.
#[test]
fn without_groups_a_leader_that_comes_back_is_used_though_nothing_comes_from_behind_it_yet() {
    let without_groups = |judgement: &Judgement| Assignment {
        groups: false,
        ..leader(judgement)
    };
    assert_eq!(comes_back_without_members(without_groups), ["10 b1", "13 "]);
}

/// Who is not used, from which second on, when the first leader dies and comes back, and nothing answers behind it then.
fn comes_back_without_members(assignment: fn(&Judgement) -> Assignment) -> Vec<String> {
    let world = World::new(assignment, |text, at, judgement| {
        let through_b1 = !judgement.forsaken.contains(&(name("b"), name("b1")));
        let is_dead = text == "10.4.0.11" && at > 10 * SECOND && at < 12 * SECOND;
        let is_cut = text.starts_with("192.168") && through_b1 && at > 10 * SECOND;
        is_dead || is_cut
    });
    let changes = world.run(30 * SECOND).changes;
    changes
        .iter()
        .map(|(at, names)| format!("{} {names}", at.as_secs()))
        .collect()
}

/// What has just come back may hand on, and what does not is of no use.
#[test]
fn a_leader_that_comes_back_is_used_at_once_where_the_other_one_hands_nothing_on() {
    let world = World::new(leader, |text, at, judgement| {
        let through_b1 = !judgement.forsaken.contains(&(name("b"), name("b1")));
        let is_cut = text.starts_with("192.168") && through_b1 && at > 10 * SECOND;
        let is_dead = text == "10.4.0.12" && at.as_secs() % 4 == 3 && at < 24 * SECOND;
        is_cut || is_dead
    });
    let world = world.run(30 * SECOND);
    let of_b2 = world
        .changes
        .iter()
        .filter(|(at, names)| at.as_secs() >= 23 && names == "b1");
    let back = of_b2.map(|(at, _)| *at).next();
    assert!(back.is_some_and(|at| at < 24_500 * MS), "{:?}", world.changes);
}

/// It may have begun to hand on meanwhile, and nothing is to lose.
#[test]
fn a_leader_of_no_use_is_tried_again_when_the_other_one_turns_out_to_be_of_none() {
    let world = World::new(leader, |text, at, judgement| {
        let by_b1 = !judgement.forsaken.contains(&(name("b"), name("b1")));
        let is_cut = match by_b1 {
            true => at > 10 * SECOND && at < 15 * SECOND,
            false => at > 20 * SECOND,
        };
        text.starts_with("192.168") && is_cut
    });
    let world = world.run(30 * SECOND);
    assert_eq!(world.unused(), ["b1", "b2"], "{:?}", world.changes);
    let (found_out, _) = world.changes[1];
    assert!(found_out < 20_500 * MS, "{found_out:?}");
}

/// What is behind it begins to answer a moment after it.
#[test]
fn a_leader_that_has_just_come_back_is_of_use_though_what_is_behind_it_answers_later() {
    let world = World::new(leader, |text, at, _| {
        let until = match text {
            "10.4.0.11" => 12_000 * MS,
            text if text.starts_with("192.168") => 12_900 * MS,
            _ => 12_500 * MS,
        };
        at > 10 * SECOND && at < until
    });
    let world = world.run(20 * SECOND);
    let key = (name("b"), name("b1"));
    assert!(!world.prober.useless.contains_key(&key), "{:?}", world.changes);
    assert!(world.judgement.forsaken.is_empty(), "{:?}", world.changes);
}

/// That it has yet to show that it goes on answering says nothing of what it hands on.
#[test]
fn a_leader_on_probation_is_found_to_be_of_no_use_like_any_other() {
    let world = World::new(leader, |text, at, judgement| {
        let by_b1 = !judgement.forsaken.contains(&(name("b"), name("b1")));
        // After its fourth death it is on probation for eight seconds.
        let b1_is_dead = text == "10.4.0.11" && at > 10 * SECOND && at < 18 * SECOND && at.as_secs() % 2 == 0;
        let b2_is_dead = text == "10.4.0.12" && at > 17 * SECOND && at < 20 * SECOND;
        let is_cut = text.starts_with("192.168") && by_b1 && at > 19 * SECOND;
        b1_is_dead || b2_is_dead || is_cut
    });
    let world = world.run(24 * SECOND);
    let (at, last) = world.changes.last().unwrap();
    assert!(last == "b1" && *at < 21 * SECOND, "{:?}", world.changes);
}

#[test]
fn where_all_members_behind_a_leader_died_it_is_not_given_up_for_long_and_nothing_flaps() {
    let world = World::new(leader, |text, at, _| {
        text.starts_with("192.168") && at > 10 * SECOND
    });
    let world = world.run(600 * SECOND);
    assert!(world.changes.len() < 12, "{:?}", world.changes);
}

/// Whichever leader is in use, by trials too, until anything behind one of them answers again.
#[test]
fn a_location_of_which_only_leaders_answer_is_named() {
    let b = || BTreeSet::from([name("b")]);
    for assignment in [leader, single] {
        let world = World::new(assignment, |text, at, _| {
            text.starts_with("192.168") && (10 * SECOND..300 * SECOND).contains(&at)
        });
        let world = world.run(10 * SECOND);
        assert_eq!(world.judgement.barren, BTreeSet::new());
        let mut world = world.run(2 * SECOND);
        for _ in 0..280 {
            assert_eq!(world.judgement.barren, b(), "{:?}", world.now - world.start);
            world = world.run(SECOND);
        }
        // One that is not in use is tried again by then.
        let world = world.run(60 * SECOND);
        assert_eq!(world.judgement.barren, BTreeSet::new());
    }
    // Of what never answered it is not known whether it can, and a location whose leaders are silent, too, is not reached.
    let world = World::new(leader, |text, _, _| text.starts_with("192.168"));
    assert_eq!(world.run(30 * SECOND).judgement.barren, BTreeSet::new());
    let world = World::new(leader, |text, at, _| {
        (text.starts_with("192.168") || text.starts_with("10.4.0.1")) && at > 10 * SECOND
    });
    assert_eq!(world.run(30 * SECOND).judgement.barren, BTreeSet::new());
}

/// While another leader does better nothing is named.
#[test]
fn a_location_that_is_reached_by_another_leader_is_not_named_for_long() {
    let world = World::new(leader, |text, at, judgement| {
        let through_b1 = !judgement.forsaken.contains(&(name("b"), name("b1")));
        text.starts_with("192.168") && through_b1 && at > 10 * SECOND
    });
    let mut world = world.run(10 * SECOND);
    while world.changes.is_empty() {
        world = world.run(5 * MS);
    }
    world = world.run(50 * MS);
    for _ in 0..10 {
        assert_eq!(
            world.judgement.barren,
            BTreeSet::new(),
            "{:?}",
            world.now - world.start
        );
        world = world.run(SECOND);
    }
}

/// The same with the one leader that b has.
fn single(judgement: &Judgement) -> Assignment {
    let mut assignment = leader(judgement);
    let is_b1 = |node: &NodeName| *node == name("b1");
    assignment.probes.far.retain(|far| is_b1(&far.node));
    for behind in &mut assignment.probes.behind {
        behind.leader = name("b1");
    }
    assignment
}

/// An agent starts while nothing comes from behind b1, which answers: with and without what the one before it had found out.
#[test]
fn an_agent_that_starts_leaves_a_leader_of_no_use_alone_for_as_long_as_after_a_trial() {
    let without_groups = |judgement: &Judgement| Assignment {
        groups: false,
        ..leader(judgement)
    };
    for assignment in [leader, without_groups] {
        let key = (name("b"), name("b1"));
        let before = Judgement {
            forsaken: [key.clone()].into(),
            answering: [(key, Doubt::Useless)].into(),
            ..Judgement::default()
        };
        let world = World::after(before, assignment, |text, _, judgement| {
            let by_b1 = !judgement.forsaken.contains(&(name("b"), name("b1")));
            text.starts_with("192.168") && by_b1
        });
        let world = world.run(60 * SECOND);
        assert_eq!(world.unused(), ["", "b1"], "{:?}", world.changes);
        let [(tried, _), (found_out, _)] = world.changes[..] else {
            unreachable!("there are two");
        };
        assert!(
            tried >= 30 * SECOND && found_out < tried + 2 * SECOND,
            "{:?}",
            world.changes
        );
    }
}

/// As while the leaders of both sides change: a few answers to what was asked before.
#[test]
fn without_groups_a_leader_from_behind_which_a_few_answers_came_by_chance_is_used_on() {
    let without_groups = |judgement: &Judgement| Assignment {
        groups: false,
        ..leader(judgement)
    };
    let world = World::new(without_groups, |text, at, judgement| {
        let by_b1 = !judgement.forsaken.contains(&(name("b"), name("b1")));
        let is_dead = text == "10.4.0.11" && at > 10 * SECOND;
        is_dead || (text.starts_with("192.168") && at > 10 * SECOND && (by_b1 || at > 11_000 * MS))
    });
    let world = world.run(60 * SECOND);
    assert_eq!(world.unused(), ["b1"], "{:?}", world.changes);
}
