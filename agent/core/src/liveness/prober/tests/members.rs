//! Nodes of the own location that lead nothing, asked by a leader.

use super::*;

/// The same leader with so many nodes of its location, m0, m1 ….
fn with_members(count: u8, judgement: &Judgement) -> Assignment {
    let mut assignment = leader(judgement);
    for number in 0..count {
        let node: NodeName = name(&format!("m{number}"));
        let hop = Hop {
            link: LinkName::new("flannel.1").unwrap(),
            neighbour: name(&format!("10.0.9.{number}")),
            answers_at: None,
            source: name("10.0.0.3"),
        };
        assignment.members.insert((node.clone(), Family::V4), hop);
        assignment.probes.members.push(Near {
            node,
            hop: Arc::default(),
            addresses: Arc::default(),
        });
    }
    assignment
}

#[test]
fn a_node_that_does_not_answer_is_cut_within_half_a_second_until_it_has_answered_for_a_while() {
    let is_away = |at: Duration| at > 10 * SECOND && at < 20 * SECOND;
    let silent = move |text: &str, at: Duration, _: &Judgement| text == "10.0.9.0" && is_away(at);
    let world = World::new(|judgement| with_members(2, judgement), silent).run(10 * SECOND);
    assert!(world.judgement.cut.is_empty());
    let world = world.run(500 * MS);
    assert_eq!(world.judgement.cut, [name("m0")].into());
    let world = world.run(10 * SECOND);
    assert_eq!(world.judgement.cut, [name("m0")].into(), "on probation");
    let world = world.run(SECOND);
    assert!(world.judgement.cut.is_empty());
    assert!(world.changes.is_empty(), "{:?}", world.changes);
}

#[test]
fn a_leader_that_is_cut_off_itself_takes_no_node_for_cut() {
    let world = World::new(
        |judgement| with_members(2, judgement),
        |text, at, _| text.starts_with("10.0.") && at > 10 * SECOND,
    );
    assert!(world.run(20 * SECOND).judgement.cut.is_empty());
}

#[test]
fn an_agent_that_starts_while_a_node_is_cut_takes_it_for_cut_until_it_answers() {
    let before = Judgement {
        cut: [name("m0")].into(),
        ..Judgement::default()
    };
    let silent = |text: &str, at: Duration, _: &Judgement| text == "10.0.9.0" && at < 20 * SECOND;
    let world = World::after(before, |judgement| with_members(2, judgement), silent).run(20 * SECOND);
    assert_eq!(world.judgement.cut, [name("m0")].into());
    assert!(world.run(3 * SECOND).judgement.cut.is_empty());
}

#[test]
fn hundreds_of_nodes_are_asked_seldom_and_the_leaders_as_often_as_without_them() {
    let many = |judgement: &Judgement| with_members(200, judgement);
    let world = World::new(many, |text, at, _| text == "10.0.9.7" && at > 100 * SECOND);
    let world = world.run(100 * SECOND);
    assert_eq!(world.prober.interval(), 100 * MS);
    let leaders = world.count("10.4.0.11", 10 * SECOND);
    assert!((880..=920).contains(&leaders), "{leaders}");
    // 200 of them in a tenth of 450 in a second: each after four seconds and a half.
    let member = world.count("10.0.9.7", 10 * SECOND);
    assert!((19..=21).contains(&member), "{member}");
    let world = world.run(5100 * MS);
    assert_eq!(
        world.judgement.cut,
        [name("m7")].into(),
        "what did not answer is asked often"
    );
}
