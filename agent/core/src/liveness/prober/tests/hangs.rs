//! Leaders whose tunnel process hangs, and answers all that it was asked meanwhile when it goes on.

use super::*;

/// Within what time a leader that fails has to be given up, however it failed before.
const SOON: Duration = Duration::from_millis(500);

/// A world in which leaders hang for three seconds, each at these.
fn hanging(assignment: fn(&Judgement) -> Assignment, hangs: fn(&str, Duration) -> Option<Duration>) -> World {
    let mut world = World::new(assignment, |_, _, _| false);
    world.hangs = hangs;
    world
}

/// Until when the leader of that address hangs, if it begins at one of these seconds.
fn until(begins: &[u64], at: Duration) -> Option<Duration> {
    let of = begins.iter().map(|begin| Duration::from_secs(*begin));
    of.map(|begin| (begin, begin + 3 * SECOND))
        .find(|(begin, end)| at > *begin && at < *end)
        .map(|(_, end)| end)
}

/// Who was given up when, with what was not used from then on.
fn given_up(world: &World, from: Duration) -> Vec<(Duration, &str)> {
    let later = world.changes.iter().filter(|(at, _)| *at >= from);
    later.map(|(at, names)| (*at - from, names.as_str())).collect()
}

#[test]
fn a_leader_is_given_up_as_fast_after_it_and_the_other_one_hung_before() {
    for begins in [15, 30, 45] {
        let world = hanging(leader, |text, at| match text {
            "10.4.0.11" => until(&[15, 30, 45], at),
            "10.4.0.12" => until(&[23, 38, 53], at),
            _ => None,
        });
        let world = world.run(60 * SECOND);
        let begins = Duration::from_secs(begins);
        let (after, names) = given_up(&world, begins)[0];
        assert!(names == "b1" && after < SOON, "{begins:?}: {:?}", world.changes);
        let deaths = world.prober.seen(world.now);
        let deaths = deaths.iter().map(|seen| seen.deaths).max();
        assert_eq!(deaths, Some(3), "one for each time");
    }
}

#[test]
fn a_follower_gives_up_a_leader_as_fast_after_it_hung_before() {
    let world = hanging(follower, |text, at| {
        let by_a1 = text.ends_with("through a1");
        by_a1.then(|| until(&[15, 30, 45], at)).flatten()
    });
    let world = world.run(60 * SECOND);
    for begins in [15, 30, 45] {
        let (after, names) = given_up(&world, begins * SECOND)[0];
        assert!(names == "a1" && after < SOON, "{begins}: {:?}", world.changes);
    }
}

/// Whatever is held against it, it answers, and the one in use does not.
#[test]
fn a_leader_on_probation_or_of_no_use_before_is_used_at_once_when_the_other_one_dies() {
    // b2 dies again and again, so that it is on probation for long.
    let returning = World::new(leader, |text, at, _| {
        let second = at.as_secs();
        let b2_is_dead = text == "10.4.0.12" && (10..26).contains(&second) && second.is_multiple_of(2);
        let b1_is_dead = text == "10.4.0.11" && second >= 28;
        b1_is_dead || b2_is_dead
    });
    // Nothing comes from behind b2 while b1 is dead for the first time.
    let useless = World::new(leader, |text, at, judgement| {
        let second = at.as_secs();
        let by_b2 = judgement.forsaken.contains(&(name("b"), name("b1")));
        let is_cut = text.starts_with("192.168") && by_b2 && second < 28;
        let b1_is_dead = text == "10.4.0.11" && ((10..14).contains(&second) || second >= 28);
        is_cut || b1_is_dead
    });
    for (world, held) in [(returning, Trust::OnProbation), (useless, Trust::Useless)] {
        let world = world.run(28 * SECOND);
        let b2 = Subject::Far(name("b"), name("b2"));
        let seen = world.prober.seen(world.now);
        let trust = seen.iter().find(|seen| seen.subject == b2).map(|seen| seen.trust);
        assert_eq!(trust, Some(held), "{:?}", world.changes);
        let world = world.run(2 * SECOND);
        let (after, names) = given_up(&world, 28 * SECOND)[0];
        assert!(names == "b1" && after < SOON, "{held:?}: {:?}", world.changes);
    }
}
