use super::*;

fn name<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().unwrap()
}

/// What a1, a leader beside a2, has to choose among, or a3, a follower of both.
fn choices(me: Option<&str>) -> Choices {
    Choices {
        me: me.map(name),
        lacks_tunnel: false,
        groups: true,
        unconnected: BTreeSet::new(),
        hops: if me.is_some() {
            vec![name("a2")]
        } else {
            vec![name("a1"), name("a2")]
        },
        towards: [name("b")].into(),
        members: vec![name("a3"), name("a4")],
        far: match me {
            Some(_) => [(name("b"), vec![name("b1"), name("b2")])].into(),
            None => BTreeMap::new(),
        },
    }
}

/// Judges with these, written as in `hop a1`, `b through a1`, `b1`, not being sound.
fn judge(choices: &Choices, unsound: &[(&str, Trust)], before: &Judgement) -> Judgement {
    choices.judge(&trust(unsound), before)
}

fn trust(unsound: &[(&str, Trust)]) -> impl Fn(&Subject) -> Trust {
    let text = |subject: &Subject| match subject {
        Subject::Far(_, node) => node.to_string(),
        Subject::Hop(node) => format!("hop {node}"),
        Subject::Through(node, location) => format!("{location} through {node}"),
        Subject::Member(node) => format!("node {node}"),
        Subject::Behind(..) => panic!("it is judged by the leader"),
    };
    move |subject| {
        let found = unsound.iter().find(|(name, _)| *name == text(subject));
        found.map_or(Trust::Sound, |(_, trust)| *trust)
    }
}

fn lost(judgement: &Judgement) -> Vec<String> {
    let own = judgement.lost.iter().map(|(node, _)| node.to_string());
    own.chain(judgement.forsaken.iter().map(|(_, node)| node.to_string()))
        .collect()
}

fn first(choices: &Choices, unsound: &[(&str, Trust)]) -> Vec<String> {
    lost(&judge(choices, unsound, &Judgement::default()))
}

const LOST: Trust = Trust::Lost;

#[test]
fn a_follower_gives_up_the_leader_that_does_not_answer_or_does_not_forward() {
    let follower = choices(None);
    assert!(first(&follower, &[]).is_empty());
    assert_eq!(first(&follower, &[("hop a1", LOST)]), ["a1"]);
    assert_eq!(first(&follower, &[("b through a1", LOST)]), ["a1"]);
    // The answers come back through a1, until the far side has noticed.
    let dead = [("hop a1", LOST), ("b through a1", LOST), ("b through a2", LOST)];
    assert_eq!(first(&follower, &dead), ["a1"]);
    assert!(first(&follower, &[("b through a1", LOST), ("b through a2", LOST)]).is_empty());
}

#[test]
fn of_the_leaders_beside_that_are_given_up_it_is_known_through_which_nothing_arrives_though_they_answer() {
    let idle = |choices: &Choices, unsound: &[(&str, Trust)], before: &Judgement| {
        let idle = judge(choices, unsound, before).idle;
        idle.iter().map(|(node, _)| node.to_string()).collect::<Vec<_>>()
    };
    let (follower, nothing) = (choices(None), Judgement::default());
    assert_eq!(idle(&follower, &[("b through a1", LOST)], &nothing), ["a1"]);
    let dead = [("hop a1", LOST), ("b through a1", LOST)];
    assert!(
        idle(&follower, &dead, &nothing).is_empty(),
        "it may have no power"
    );
    let filtered = [("hop a1", Trust::Unproven), ("b through a1", LOST)];
    assert!(
        idle(&follower, &filtered, &nothing).is_empty(),
        "it has never answered"
    );
    let all = [("b through a1", LOST), ("b through a2", LOST)];
    assert!(idle(&follower, &all, &nothing).is_empty(), "none is better");
    let before = judge(&follower, &[("b through a1", LOST)], &nothing);
    let returning = [("b through a1", Trust::OnProbation)];
    assert_eq!(lost(&judge(&follower, &returning, &before)), ["a1"]);
    assert!(idle(&follower, &returning, &before).is_empty(), "it answers");
    assert!(idle(&follower, &[], &before).is_empty());
    let leader = choices(Some("a1"));
    assert_eq!(idle(&leader, &[("b through a2", LOST)], &nothing), ["a2"]);
    let own = [("b1", LOST), ("b2", LOST)];
    let judgement = judge(&leader, &own, &nothing);
    assert_eq!(lost(&judgement), ["a1"]);
    assert!(judgement.idle.is_empty(), "of itself its links tell");
}

#[test]
fn of_the_leaders_elsewhere_that_are_given_up_it_is_known_which_answer() {
    let leader = choices(Some("a1"));
    for (trust, doubt) in [
        (Trust::OnProbation, Some(Doubt::Returning)),
        (Trust::Useless, Some(Doubt::Useless)),
        (LOST, None),
    ] {
        let judgement = judge(&leader, &[("b1", trust)], &Judgement::default());
        assert_eq!(lost(&judgement), ["b1"], "{trust:?}");
        let found = judgement.answering.get(&(name("b"), name("b1")));
        assert_eq!(found.copied(), doubt, "{trust:?}");
    }
    let alone = judge(
        &leader,
        &[("b1", Trust::OnProbation), ("b2", Trust::OnProbation)],
        &Judgement::default(),
    );
    assert_eq!(
        alone,
        Judgement::default(),
        "of those that are not given up nothing is said"
    );
}

#[test]
fn who_hears_nobody_changes_nothing() {
    let follower = choices(None);
    assert!(first(&follower, &[("hop a1", LOST), ("hop a2", LOST)]).is_empty());
    let doubtful = [("hop a1", LOST), ("hop a2", Trust::Doubtful)];
    assert!(first(&follower, &doubtful).is_empty(), "it is as silent");
    let leader = choices(Some("a1"));
    let cut = [
        ("b1", LOST),
        ("b2", LOST),
        ("hop a2", LOST),
        ("b through a2", LOST),
    ];
    assert!(first(&leader, &cut).is_empty());
}

#[test]
fn a_location_is_unreached_when_all_that_was_heard_of_it_is_lost_and_no_sooner() {
    let unreached = |choices: &Choices, unsound: &[(&str, Trust)]| {
        let unreached = choices.unreached(&trust(unsound));
        unreached.get(&name("b")) == Some(&Gone::Lost)
    };
    let leader = choices(Some("a1"));
    let all = ["b1", "b2", "b through a2"];
    assert!(unreached(&leader, &all.map(|subject| (subject, LOST))));
    assert!(unreached(
        &leader,
        &[("b1", LOST), ("b2", LOST), ("hop a2", LOST)]
    ));
    for subject in all {
        let others = all.map(|other| (other, LOST));
        for better in [
            Trust::Sound,
            Trust::Doubtful,
            Trust::OnProbation,
            Trust::Useless,
            Trust::Unproven,
        ] {
            let but_one = others.map(|(other, lost)| (other, if other == subject { better } else { lost }));
            assert!(!unreached(&leader, &but_one), "{subject} is {better:?}");
        }
    }
    let everything = ["hop a1", "hop a2", "b through a1", "b through a2"].map(|subject| (subject, LOST));
    assert!(
        !unreached(&choices(None), &everything),
        "a follower asks two leaders of a location alone"
    );
    // Of a location whose nodes all lead none is asked by the own tunnels.
    let every_node_leads = Choices {
        far: BTreeMap::new(),
        ..choices(Some("a1"))
    };
    assert!(!unreached(&every_node_leads, &everything));
    // Without another leader beside it nothing is asked through one.
    let alone = Choices {
        hops: Vec::new(),
        towards: BTreeSet::new(),
        ..choices(Some("a1"))
    };
    assert!(unreached(&alone, &[("b1", LOST), ("b2", LOST)]));
    assert!(!unreached(&alone, &[("b1", LOST)]) && !unreached(&Choices::default(), &[]));
}

#[test]
fn a_location_is_unheard_when_what_was_heard_of_it_is_lost_and_the_rest_never_answered() {
    const NEVER: Trust = Trust::Unproven;
    let gone = |choices: &Choices, unsound: &[(&str, Trust)]| {
        let unreached = choices.unreached(&trust(unsound));
        unreached.get(&name("b")).copied()
    };
    let leader = choices(Some("a1"));
    let unheard = Some(Gone::Unheard);
    assert_eq!(
        gone(&leader, &[("b1", LOST), ("b2", NEVER), ("b through a2", NEVER)]),
        unheard
    );
    assert_eq!(
        gone(&leader, &[("b1", LOST), ("b2", NEVER), ("b through a2", LOST)]),
        unheard
    );
    let never = [("b1", NEVER), ("b2", NEVER), ("b through a2", NEVER)];
    assert_eq!(gone(&leader, &never), None, "echo requests may be filtered");
    let by_others = [("b1", NEVER), ("b2", NEVER), ("b through a2", LOST)];
    assert_eq!(
        gone(&leader, &by_others),
        unheard,
        "the leaders that answered are none any more"
    );
    let beside = [
        ("b1", NEVER),
        ("b2", NEVER),
        ("b through a2", NEVER),
        ("hop a2", LOST),
    ];
    assert_eq!(gone(&leader, &beside), None, "that says nothing of b");
    assert_eq!(
        gone(&leader, &[("b1", LOST), ("b2", NEVER)]),
        None,
        "a2 reaches it"
    );
    let groupless = Choices {
        groups: false,
        ..choices(Some("a1"))
    };
    let lost = [("b1", LOST), ("b2", LOST), ("b through a2", NEVER)];
    assert_eq!(
        gone(&groupless, &lost),
        None,
        "nothing answers through a2, which may reach it"
    );
    assert_eq!(
        gone(&groupless, &[("b1", LOST), ("b2", NEVER), ("hop a2", LOST)]),
        unheard
    );
}

#[test]
fn what_was_given_up_stays_so_while_the_other_only_falters_or_is_as_bad() {
    let follower = choices(None);
    let before = judge(&follower, &[("hop a1", LOST)], &Judgement::default());
    let then = |unsound: &[(&str, Trust)]| lost(&judge(&follower, unsound, &before));
    assert_eq!(then(&[("hop a1", LOST), ("hop a2", Trust::Doubtful)]), ["a1"]);
    assert_eq!(then(&[("hop a1", LOST), ("hop a2", LOST)]), ["a1"]);
    assert_eq!(then(&[("hop a1", Trust::OnProbation)]), ["a1"]);
    assert_eq!(then(&[("hop a1", Trust::OnProbation), ("hop a2", LOST)]), ["a2"]);
    assert!(then(&[]).is_empty());
}

/// One that is not reached at all, or hands nothing on, cannot be better.
#[test]
fn a_leader_that_has_only_just_come_back_is_used_instead_of_one_that_is_lost_now() {
    const BACK: Trust = Trust::OnProbation;
    let (follower, leader) = (choices(None), choices(Some("a1")));
    for now in ["hop a1", "b through a1"] {
        for back in ["hop a2", "b through a2"] {
            assert_eq!(
                first(&follower, &[(now, LOST), (back, BACK)]),
                ["a1"],
                "{now}, {back}"
            );
            let before = judge(&follower, &[(back, BACK)], &Judgement::default());
            assert_eq!(lost(&before), ["a2"]);
            let then = judge(&follower, &[(now, LOST), (back, BACK)], &before);
            assert_eq!(lost(&then), ["a1"], "{now}, {back}");
        }
        let both = [(now, LOST), ("hop a2", BACK), ("b through a2", BACK)];
        assert_eq!(first(&follower, &both), ["a1"], "{now}");
    }
    for held in [BACK, Trust::Useless] {
        let before = judge(&leader, &[("b1", held)], &Judgement::default());
        assert_eq!(lost(&before), ["b1"]);
        let then = judge(&leader, &[("b1", held), ("b2", LOST)], &before);
        assert_eq!(lost(&then), ["b2"], "{held:?}");
    }
    // The answers come back through a1, until the far side has noticed.
    let quiet = [("hop a1", BACK), ("b through a1", LOST), ("b through a2", LOST)];
    assert_eq!(first(&follower, &quiet), ["a1"]);
}

#[test]
fn what_never_answered_is_neither_given_up_nor_better_than_what_answers() {
    const NEVER: Trust = Trust::Unproven;
    let (follower, leader) = (choices(None), choices(Some("a1")));
    assert!(first(&follower, &[("b through a1", NEVER)]).is_empty());
    assert!(first(&follower, &[("hop a1", NEVER)]).is_empty());
    assert!(first(&leader, &[("b1", NEVER)]).is_empty());
    let probation = Trust::OnProbation;
    let before = judge(
        &follower,
        &[("b through a1", LOST), ("b through a2", NEVER)],
        &Judgement::default(),
    );
    assert_eq!(lost(&before), ["a1"], "nothing is to lose");
    let then = |unsound: &[(&str, Trust)]| lost(&judge(&follower, unsound, &before));
    assert_eq!(then(&[("b through a1", LOST), ("b through a2", NEVER)]), ["a1"]);
    assert!(then(&[("b through a1", probation), ("b through a2", NEVER)]).is_empty());
    assert_eq!(
        first(&follower, &[("hop a1", probation), ("b through a2", NEVER)]),
        ["a1"],
        "it has only just booted"
    );
    // Where WireGuard has no groups nothing comes back through a2 while the far side uses a1.
    assert_eq!(
        first(&follower, &[("hop a1", LOST), ("b through a2", NEVER)]),
        ["a1"]
    );

    assert!(first(&leader, &[("b1", probation), ("b2", NEVER)]).is_empty());
    assert_eq!(first(&leader, &[("b1", LOST), ("b2", NEVER)]), ["a1", "b1"]);
    let both = [("b1", LOST), ("b2", NEVER), ("b through a2", NEVER)];
    assert_eq!(first(&leader, &both), ["b1"], "the one beside it is no better");
}

#[test]
fn a_leader_uses_another_one_over_there_or_the_one_beside_it() {
    let leader = choices(Some("a1"));
    assert_eq!(first(&leader, &[("b1", LOST)]), ["b1"]);
    assert_eq!(first(&leader, &[("b1", LOST), ("b2", LOST)]), ["a1"]);
    assert_eq!(
        first(&leader, &[("b1", LOST), ("b2", Trust::OnProbation)]),
        ["b1"]
    );
    let useless = [("b1", Trust::Useless), ("b2", Trust::Useless)];
    assert!(
        first(&leader, &useless).is_empty(),
        "they answer: whether they hand on shows by its own tunnels alone"
    );
    assert_eq!(
        first(&leader, &[("b1", Trust::Useless), ("b2", Trust::OnProbation)]),
        ["b1"],
        "the other one has only just come back, and may hand on"
    );
    assert!(
        first(&leader, &[("b1", Trust::Useless), ("b2", Trust::Unproven)]).is_empty(),
        "b2 may have no tunnel, and members that died say nothing of b1"
    );
    let alone = [("b1", LOST), ("b2", LOST), ("b through a2", LOST)];
    assert!(
        first(&leader, &alone).is_empty(),
        "the one beside it does not reach it either"
    );
    assert_eq!(first(&leader, &[("hop a2", LOST)]), ["a2"]);
}

#[test]
fn a_leader_returns_to_its_own_tunnels_when_the_one_beside_it_reaches_no_more() {
    let leader = choices(Some("a1"));
    let silent = [("b1", LOST), ("b2", LOST)];
    let beside = judge(&leader, &silent, &Judgement::default());
    assert_eq!(lost(&beside), ["a1"]);
    let with = |more: &[(&'static str, Trust)]| {
        let all: Vec<_> = silent.iter().chain(more).copied().collect();
        lost(&judge(&leader, &all, &beside))
    };
    assert!(with(&[("b through a2", LOST)]).is_empty());
    assert!(with(&[("hop a2", LOST)]).is_empty());
    for better in [Trust::Sound, Trust::Doubtful, Trust::OnProbation] {
        assert_eq!(with(&[("b through a2", better)]), ["a1"], "{better:?}");
    }
}

#[test]
fn a_leader_without_a_device_sends_by_the_one_beside_it_though_nothing_was_ever_asked() {
    let leader = Choices {
        lacks_tunnel: true,
        ..choices(Some("a1"))
    };
    assert_eq!(first(&leader, &[]), ["a1"]);
    for beside in ["hop a2", "b through a2"] {
        assert!(first(&leader, &[(beside, LOST)]).is_empty(), "{beside}");
    }
}

#[test]
fn a_node_that_the_hop_does_not_reach_is_cut_while_another_leader_could_reach_it() {
    let leader = choices(Some("a1"));
    let cut = |choices: &Choices, unsound: &[(&str, Trust)], before: &[&str]| {
        let before = Judgement {
            cut: before.iter().copied().map(name).collect(),
            ..Judgement::default()
        };
        let cut = judge(choices, unsound, &before).cut;
        cut.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert!(cut(&leader, &[], &["a3"]).is_empty());
    assert_eq!(cut(&leader, &[("node a3", LOST)], &[]), ["a3"]);
    assert_eq!(
        cut(&leader, &[("node a3", LOST), ("node a4", LOST)], &[]),
        ["a3", "a4"]
    );
    for alone in [("hop a2", LOST), ("hop a2", Trust::OnProbation)] {
        let before = ["a2", "a3"];
        assert!(
            cut(&leader, &[("node a3", LOST), alone], &before).is_empty(),
            "none could, or this node is cut off"
        );
    }
    for falters in [Trust::Doubtful, Trust::Unproven, Trust::OnProbation] {
        assert!(
            cut(&leader, &[("node a3", falters)], &[]).is_empty(),
            "{falters:?}"
        );
    }
    let back = [("node a3", Trust::OnProbation)];
    assert_eq!(
        cut(&leader, &back, &["a3"]),
        ["a3"],
        "until it has shown that it goes on"
    );
    assert!(
        cut(&choices(None), &[("node a3", LOST)], &[]).is_empty(),
        "that is for leaders"
    );
    let third = Choices {
        hops: vec![name("a2"), name("a5")],
        ..choices(Some("a1"))
    };
    assert_eq!(
        cut(&third, &[("hop a5", LOST)], &[]),
        ["a5"],
        "what another leader has"
    );
}

#[test]
fn a_leader_without_a_session_is_passed_by_for_one_that_answers_and_for_no_other() {
    let leader = choices(Some("a1"));
    let without = ("b1", Trust::Unconnected);
    assert_eq!(first(&leader, &[without]), ["b1"]);
    for other in [Trust::Unproven, Trust::Unconnected, LOST] {
        let passed = first(
            &leader,
            &[without, ("b2", other), ("b through a2", LOST), ("hop a2", LOST)],
        );
        assert!(!passed.contains(&"b1".to_owned()), "{other:?}: {passed:?}");
    }
    // That it never answered is no reason.
    assert!(first(&leader, &[("b1", Trust::Unproven)]).is_empty());
    // No tunnel of its own works, and the other leader's do.
    assert_eq!(first(&leader, &[without, ("b2", Trust::Unconnected)]), ["a1"]);
}

#[test]
fn a_leader_without_a_session_does_not_stand_in_for_one_that_is_lost_until_it_has_one() {
    // Without another leader here, which would be better than both.
    let leader = Choices {
        hops: Vec::new(),
        ..choices(Some("a1"))
    };
    let (lost_one, shut) = (("b1", LOST), ("b2", Trust::Unconnected));
    assert!(first(&leader, &[lost_one, shut]).is_empty());
    assert_eq!(first(&leader, &[lost_one, ("b2", Trust::Unproven)]), ["b1"]);
    assert_eq!(first(&leader, &[lost_one]), ["b1"]);
    // In use since the first was lost, and recreated now: there is nothing to go back to.
    let before = judge(&leader, &[lost_one], &Judgement::default());
    assert_eq!(lost(&judge(&leader, &[lost_one, shut], &before)), ["b1"]);
}

#[test]
fn leaders_elsewhere_that_have_answered_and_do_not_now_are_dead_whatever_is_used() {
    let leader = choices(Some("a1"));
    let dead = |unsound: &[(&str, Trust)]| {
        let dead = judge(&leader, unsound, &Judgement::default()).dead;
        dead.iter().map(|(_, node)| node.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(dead(&[("b1", LOST), ("b2", Trust::Unproven)]), ["b1"]);
    assert_eq!(dead(&[("b1", LOST), ("b2", LOST)]), ["b1", "b2"]);
    assert!(dead(&[("b1", Trust::OnProbation), ("b2", Trust::Unconnected)]).is_empty());
}

#[test]
fn a_leader_elsewhere_has_failed_when_it_is_given_up_and_not_when_it_has_yet_to_be_reached() {
    let failed = |b1: Trust, before: &[&str]| {
        let before = Judgement {
            forsaken: before.iter().map(|leader| (name("b"), name(leader))).collect(),
            ..Judgement::default()
        };
        let now = judge(&choices(Some("a1")), &[("b1", b1)], &before);
        (
            now.forsaken.contains(&(name("b"), name("b1"))),
            now.has_failed(&(name("b"), name("b1"))),
            now.is_of_no_use(&(name("b"), name("b1"))),
        )
    };
    assert_eq!(failed(LOST, &[]), (true, true, true));
    assert_eq!(failed(Trust::Useless, &[]), (true, true, true));
    assert_eq!(failed(Trust::OnProbation, &["b1"]), (true, true, false));
    assert_eq!(failed(Trust::Unconnected, &[]), (true, false, false));
    assert_eq!(failed(Trust::Sound, &[]), (false, false, false));
}

#[test]
fn silent_are_members_that_a_leader_does_not_reach_and_all_leaders_that_a_follower_does_not() {
    let silent = |choices: &Choices, unsound: &[(&str, Trust)]| {
        let silent = judge(choices, unsound, &Judgement::default()).silent;
        silent.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let leader = choices(Some("a1"));
    assert!(
        silent(
            &leader,
            &[("node a3", Trust::Doubtful), ("node a4", Trust::Unproven)]
        )
        .is_empty()
    );
    assert_eq!(silent(&leader, &[("node a3", LOST)]), ["a3"]);
    let alone = [("node a3", LOST), ("hop a2", LOST)];
    assert_eq!(
        silent(&leader, &alone),
        ["a2", "a3"],
        "also where none could stand in"
    );

    let follower = choices(None);
    let (first, second) = (("hop a1", LOST), ("hop a2", LOST));
    let through = |trust| [("b through a1", LOST), ("b through a2", trust)];
    assert!(silent(&follower, &[first]).is_empty(), "the other one answers");
    assert!(
        silent(&follower, &[first, second]).is_empty(),
        "what comes through them proves the hop"
    );
    for (last, expected) in [(LOST, 2), (Trust::Unproven, 2), (Trust::OnProbation, 0)] {
        let mut unsound = vec![first, second];
        unsound.extend(through(last));
        assert_eq!(silent(&follower, &unsound).len(), expected, "{last:?}");
    }
    let lonely = Choices {
        hops: Vec::new(),
        ..follower
    };
    assert!(
        silent(&lonely, &through(LOST)).is_empty(),
        "it is asked of nothing"
    );
}
