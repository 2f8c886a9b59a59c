use spanwire_host::{ChainName, Filter, OtherRule, Step, TableFamily, TableId, Unread};

use super::*;

fn about(state: &mut NodeState, about: &str) -> Option<(String, String, String)> {
    let status = state.poll_status(Timestamp::UNIX_EPOCH)?;
    let condition = status
        .conditions
        .into_iter()
        .find(|condition| condition.type_ == about)?;
    Some((condition.status, condition.reason, condition.message))
}

#[test]
fn an_endpoint_of_the_api_server_in_a_prefix_of_another_location_is_a_condition() {
    let now = Instant::now();
    let mut state = state(&snapshot(true), now);
    let target = state.poll_target(now).unwrap();
    state.handle_outcome(taken(&target, &[]), now);
    let set = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
    let server = |exempt: &[&str], endpoints: &[&str]| ApiServer {
        exempt: set(exempt),
        endpoints: set(endpoints),
    };
    const THERE: &str = "10.1.0.2:6443";
    assert!(!state.handle_api_server(server(&[], &["192.0.2.77:6443"])));
    assert_eq!(
        about(&mut state, "ApiServerPastMesh"),
        None,
        "it is not in the mesh"
    );
    state.handle_api_server(server(&[], &[THERE, "10.244.2.9:1"]));
    let (status, reason, message) = about(&mut state, "ApiServerPastMesh").unwrap();
    assert_eq!((status.as_str(), reason.as_str()), ("False", "EndpointInMesh"));
    assert!(
        message.contains("10.1.0.2:6443 in 10.1.0.2/32 of location b and 1 more"),
        "{message}"
    );
    assert_eq!(about(&mut state, "Ready").unwrap().0, "True", "nothing is wrong");
    assert!(
        state.handle_api_server(server(&[THERE], &[THERE])),
        "the rules change"
    );
    let (status, reason, _) = about(&mut state, "ApiServerPastMesh").unwrap();
    assert_eq!((status.as_str(), reason.as_str()), ("True", "Exempt"));
    let exempted = |rule: &&spanwire_host::Rule| rule.selector.dport == Some(6443);
    assert_eq!(state.host().rules.iter().filter(exempted).count(), 1);
}

#[test]
fn a_clock_in_the_past_is_a_trouble_until_it_is_right() {
    let now = Instant::now();
    let mut snapshot = snapshot(true);
    let at = |second| Timestamp::from_second(second).unwrap();
    let node = Arc::make_mut(snapshot.node.as_mut().unwrap());
    let created = k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(1_000_000));
    node.metadata.creation_timestamp = Some(created);
    let mut state = state(&snapshot, now);
    let target = state.poll_target(now).unwrap();
    state.handle_clock(at(0), None);
    state.handle_outcome(taken(&target, &[]), now);
    let (status, reason, message) = about(&mut state, "Ready").unwrap();
    assert_eq!((status.as_str(), reason.as_str()), ("False", "Limited"));
    assert!(message.contains("about 11 days behind"), "{message}");
    // The API server says what is right, whatever was created when.
    state.handle_clock(at(0), Some(-3_600));
    assert!(about(&mut state, "Ready").unwrap().2.contains("60 minutes ahead"));
    state.handle_clock(at(2_000_000), Some(CLOCK_TOLERANCE));
    assert_eq!(about(&mut state, "Ready").unwrap().0, "True");
    state.handle_clock(at(2_000_000), None);
    assert_eq!(about(&mut state, "Ready").unwrap().0, "True");
}

#[test]
fn a_lease_that_is_refused_is_a_condition_and_the_node_is_ready() {
    let now = Instant::now();
    let mut state = state(&snapshot(true), now);
    let target = state.poll_target(now).unwrap();
    state.handle_outcome(taken(&target, &[]), now);
    let before = about(&mut state, "Ready");
    assert_eq!(about(&mut state, "LeaseRenewed"), None);
    state.handle_lease(Some("leases is forbidden".to_owned()));
    let (status, reason, message) = about(&mut state, "LeaseRenewed").unwrap();
    assert_eq!((status.as_str(), reason.as_str()), ("False", "LeaseRefused"));
    assert!(
        message.starts_with("leases is forbidden: so the API server"),
        "{message}"
    );
    assert_eq!(about(&mut state, "Ready"), before);
    state.handle_lease(Some("x".repeat(5_000)));
    assert!(about(&mut state, "LeaseRenewed").unwrap().2.len() < 1_000);
    state.handle_lease(None);
    assert_eq!(about(&mut state, "LeaseRenewed"), None);
}

/// An outcome in which something of another program was undone.
fn repaired(target: &Target, step: Step) -> Outcome {
    Outcome {
        repaired: subjects(&[step]),
        ..taken(target, &[])
    }
}

#[test]
fn what_is_taken_away_again_and_again_is_a_trouble_for_as_long_as_it_lasts() {
    let start = Instant::now();
    let mut state = state(&snapshot(true), start);
    let mut last = start;
    for second in 0..10 {
        last = start + second * SECOND;
        let target = state.poll_target(last).unwrap();
        assert_eq!(target.contested.contains(&Subject::Nft), second >= 4, "{second}");
        state.handle_outcome(repaired(&target, Step::DeleteNft), last);
    }
    let (status, reason, message) = about(&mut state, "Ready").unwrap();
    assert_eq!((status.as_str(), reason.as_str()), ("False", "Degraded"));
    assert!(
        message.contains("its nft table again and again, about every second"),
        "{message}"
    );
    // What was gone again as soon as it was there is a part of it, and flaps no condition.
    let target = state.poll_target(last).unwrap();
    let gone = Outcome {
        troubles: vec![Trouble::NotInEffect(vec![Step::DeleteNft])],
        ..taken(&target, &[])
    };
    state.handle_outcome(gone, last);
    assert_eq!(about(&mut state, "Ready").unwrap().2, message);
    state.handle_outcome(taken(&target, &[]), last);
    assert_eq!(
        about(&mut state, "Ready").unwrap().2,
        message,
        "one quiet reconcile is no end"
    );
    let over = last + 20 * SECOND;
    assert!(state.poll_timeout(over).is_some_and(|at| at <= over));
    state.handle_timeout(over);
    assert_eq!(about(&mut state, "Ready").unwrap().0, "True");
}

#[test]
fn a_step_that_fails_is_a_trouble_where_it_fails_with_a_new_survey_too() {
    let now = Instant::now();
    let mut state = state(&snapshot(true), now);
    let target = state.poll_target(now).unwrap();
    let outcome = |troubles: &[Trouble]| Outcome {
        troubles: troubles.to_vec(),
        ..taken(&target, &[])
    };
    let cause = "there is no device flannel.1".to_owned();
    let failed = |step| Trouble::Step {
        step,
        cause: cause.clone(),
    };
    let gone = failed(Step::DeleteNft);
    let undone = Trouble::NotInEffect(vec![Step::DeleteNft]);
    for trouble in [gone.clone(), undone] {
        state.handle_outcome(outcome(&[]), now);
        assert_eq!(about(&mut state, "Ready").unwrap().0, "True");
        assert!(state.handle_outcome(outcome(std::slice::from_ref(&trouble)), now));
        assert_eq!(about(&mut state, "Ready").unwrap().0, "True", "{trouble}");
        assert!(!state.handle_outcome(outcome(std::slice::from_ref(&trouble)), now));
        let (status, _, message) = about(&mut state, "Ready").unwrap();
        assert_eq!((status.as_str(), message), ("False", trouble.to_string()));
    }
    // What says nothing of the machine as it was surveyed is known the first time, and what comes with it.
    let settings = target
        .host
        .wireguard(&state.facts.owned.link)
        .unwrap()
        .settings()
        .unwrap();
    let device = failed(Step::AddWireGuard(state.facts.owned.link.clone(), 1420, settings));
    let unreadable = Trouble::Machine("cannot read the routes".to_owned());
    for troubles in [vec![device], vec![unreadable.clone()], vec![gone, unreadable]] {
        state.handle_outcome(outcome(&[]), now);
        assert!(!state.handle_outcome(outcome(&troubles), now));
        assert_eq!(about(&mut state, "Ready").unwrap().0, "False", "{troubles:?}");
    }
}

#[test]
fn rules_of_others_that_are_put_first_again_and_again_are_a_trouble() {
    let now = Instant::now();
    let mut state = state(&snapshot(true), now);
    for times in 0..6_u32 {
        let mut inventory = inventory();
        let rule = || OtherRule {
            family: Family::V4,
            priority: 2_100 - 18 * (times - 1),
            protocol: 3,
            from: None,
            to: None,
            iif: None,
            mark: None,
            inverted: false,
            table: Some(TableId(51_820)),
            forbids: false,
        };
        inventory.rules = (times > 0).then(rule).into_iter().collect();
        let inventory = Some(inventory);
        let at = now + times * SECOND;
        state.handle_survey(
            Survey {
                inventory,
                ..survey()
            },
            at,
        );
        let target = state.poll_target(at).unwrap();
        state.handle_outcome(taken(&target, &[]), at);
        let ready = about(&mut state, "Ready").unwrap().0;
        assert_eq!(ready == "False", times >= 4, "{times}");
    }
    let (_, _, message) = about(&mut state, "Ready").unwrap();
    assert!(message.contains("the place of its routing rules"), "{message}");
}

#[test]
fn a_firewall_that_cannot_be_read_limits_a_node_that_carries_its_traffic_all_the_same() {
    let now = Instant::now();
    let snapshot = snapshot(true);
    let mut state = state(&snapshot, now);
    let report = |state: &mut NodeState, unread: &[Unread]| {
        let inventory = Inventory {
            unread: unread.iter().cloned().collect(),
            ..inventory()
        };
        let survey = Survey {
            inventory: Some(inventory),
            ..survey()
        };
        state.handle_survey(survey, now);
        let target = state.poll_target(now).unwrap();
        state.handle_outcome(taken(&target, &[]), now);
        about(state, "Ready").unwrap()
    };
    let unread = Unread {
        what: "the ip tables of iptables-legacy".to_owned(),
        cause: "permission denied".to_owned(),
    };
    let (status, reason, message) = report(&mut state, &[unread]);
    assert_eq!((status.as_str(), reason.as_str()), ("False", "Limited"));
    assert!(
        message.contains("the ip tables of iptables-legacy of this node's firewall cannot be read"),
        "{message}"
    );
    assert_eq!(report(&mut state, &[]).0, "True");
}

/// A firewall without a rule for WireGuard.
fn closed() -> Filter {
    Filter {
        name: ChainName {
            family: TableFamily::Inet,
            table: "host".to_owned(),
            chain: "in".to_owned(),
        },
        is_legacy: false,
        is_locked: false,
        priority: 0,
        links: None,
        drops: true,
        rules: Vec::new(),
        chains: BTreeMap::new(),
    }
}

#[test]
fn a_closed_port_is_a_condition_of_a_leader_that_others_look_for_and_a_trouble_while_a_link_is_down() {
    let now = Instant::now();
    let snapshot = snapshot(true);
    let mut state = state(&snapshot, now);
    let filtered = |inputs: Vec<Filter>| Survey {
        inventory: Some(Inventory {
            inputs: Arc::new(inputs),
            uplinks: [LinkName::new("eth0").unwrap()].into(),
            ..inventory()
        }),
        ..survey()
    };
    let report = |state: &mut NodeState| {
        let target = state.poll_target(now).unwrap();
        state.handle_outcome(taken(&target, &[]), now);
        (about(state, "PortOpen"), about(state, "Ready").unwrap())
    };
    assert_eq!(report(&mut state).0, None);
    state.handle_survey(filtered(vec![closed()]), now);
    let (port, ready) = report(&mut state);
    let (status, reason, message) = port.unwrap();
    assert_eq!(
        (status.as_str(), reason.as_str()),
        ("False", "WireGuardPortClosed")
    );
    assert!(
        message.contains("the chain inet host in of this node's firewall drops UDP"),
        "{message}"
    );
    assert_eq!(
        (ready.0.as_str(), ready.1.as_str()),
        ("False", "Degraded"),
        "the link is down"
    );
    // What has begun here is answered.
    let (device, peers) = device(&state, answering());
    state.handle_device(reading(Some(&device), peers), now);
    let (port, ready) = report(&mut state);
    assert!(port.is_some());
    assert_eq!(ready.0, "True", "{ready:?}");
    state.handle_survey(filtered(Vec::new()), now);
    assert_eq!(report(&mut state).0, None);
}

/// Nothing answers from these locations, and nothing comes from their leaders.
fn silence(state: &mut NodeState, names: &[&str], wall: Timestamp, now: Instant) {
    state.handle_unreached(&unreached(names), wall, now);
    let (device, peers) = device(state, answering());
    for later in [Duration::ZERO, SECOND] {
        state.handle_device(reading(Some(&device), peers.clone()), now + later);
    }
}

#[test]
fn a_node_that_reaches_no_other_location_looks_for_the_fault_at_home() {
    let start = Instant::now();
    let mut mesh = mesh(true);
    let mut third = mesh.locations[&"b".parse().unwrap()].clone();
    let member = third.members_mut().remove(&"b".parse().unwrap()).unwrap();
    let member = Member {
        overlay: ["10.4.0.9".parse().unwrap()].into(),
        addresses: ["10.1.0.9".parse().unwrap()].into(),
        prefixes: ["10.244.9.0/24".parse().unwrap()].into(),
        public_key: Some(PublicKey::new([9; 32])),
        ..member
    };
    third.members_mut().insert("d".parse().unwrap(), member);
    third.leaders[0].node = "d".parse().unwrap();
    mesh.locations.insert("c".parse().unwrap(), third);
    let own = mesh.locations.get_mut(&"a".parse().unwrap()).unwrap();
    own.established.insert("c".parse().unwrap());
    let mut state = state(&published(&mesh), start);
    let target = state.poll_target(start).unwrap();
    state.handle_outcome(taken(&target, &[]), start);
    let mut observe = |names: &[&str], second: i64| {
        silence(&mut state, names, Timestamp::from_second(second).unwrap(), start);
        about(&mut state, "Ready").unwrap().2
    };
    let message = observe(&["b"], 10);
    assert!(
        message.starts_with("location b has not been reached since"),
        "{message}"
    );
    let message = observe(&["b", "c"], 12);
    let expected =
        "no other location has been reached since 1970-01-01T00:00:12Z: neither from b nor from c ";
    assert!(message.starts_with(expected), "{message}");
    assert!(!message.contains("location b has"), "{message}");
}

#[test]
fn a_location_that_no_way_reaches_is_a_trouble_at_once_and_until_it_has_been_reached_for_a_while() {
    let start = Instant::now();
    let mut state = state(&snapshot(true), start);
    let target = state.poll_target(start).unwrap();
    state.handle_outcome(taken(&target, &[]), start);
    let wall = |second| Timestamp::from_second(1_000_000 + second).unwrap();
    let observe = |state: &mut NodeState, reached: bool, second: u32| {
        let b = (!reached).then_some("b").into_iter();
        let names: Vec<&str> = b.chain(["elsewhere"]).collect();
        silence(state, &names, wall(i64::from(second)), start + second * SECOND);
    };
    observe(&mut state, false, 10);
    let (status, reason, message) = about(&mut state, "Ready").unwrap();
    assert_eq!((status.as_str(), reason.as_str()), ("False", "Degraded"));
    assert!(
        message.starts_with(
            "location b has not been reached since 1970-01-12T13:46:50Z: of its leaders (b) none"
        ),
        "{message}"
    );
    assert!(
        !message.contains("elsewhere"),
        "no traffic waits for it: {message}"
    );
    // It comes and goes: nothing is written.
    observe(&mut state, true, 20);
    state.handle_timeout(start + 24 * SECOND);
    assert_eq!(about(&mut state, "Ready").unwrap().2, message);
    observe(&mut state, false, 24);
    state.handle_timeout(start + 60 * SECOND);
    assert_eq!(about(&mut state, "Ready").unwrap().2, message);
    observe(&mut state, true, 60);
    let over = start + 65 * SECOND;
    assert!(
        state
            .poll_timeout(start + 60 * SECOND)
            .is_some_and(|at| at <= over)
    );
    state.handle_timeout(over);
    assert_eq!(about(&mut state, "Ready").unwrap().0, "True");
}

#[test]
fn a_leader_that_is_missing_for_long_is_a_condition_while_another_one_answers() {
    let now = Instant::now();
    let mut mesh = mesh(true);
    let b = mesh.locations.get_mut(&"b".parse().unwrap()).unwrap();
    b.members_mut().insert("d".parse().unwrap(), member(4));
    b.leaders.push(Leader {
        node: "d".parse().unwrap(),
        role: LeaderRole::Standby,
    });
    let mut state = state(&published(&mesh), now);
    let target = state.poll_target(now).unwrap();
    state.handle_outcome(taken(&target, &[]), now);
    let mut until = |second: u32, answers: [bool; 2]| {
        let stats = |answers: bool| PeerStats {
            received: u64::from(second),
            handshake: answers.then_some(SECOND),
            handshake_at: answers.then_some((100 + second) * SECOND),
            ..answering()
        };
        let keys = [2, 4].map(|key| PublicKey::new([key; 32]));
        let peers = keys.into_iter().zip(answers.map(stats)).collect();
        state.handle_device(reading(None, peers), now + second * SECOND);
        (
            about(&mut state, "TunnelsUp"),
            about(&mut state, "Ready").unwrap().0,
        )
    };
    let ready = || "True".to_owned();
    assert_eq!(until(0, [true, false]), (None, ready()));
    assert_eq!(until(299, [true, false]), (None, ready()));
    let (found, is_ready) = until(300, [true, false]);
    let (status, reason, message) = found.unwrap();
    assert_eq!((status.as_str(), reason.as_str()), ("False", "TunnelMissing"));
    assert!(message.contains("no session with d of b:"), "{message}");
    assert_eq!(is_ready, "True", "packets get through");
    assert_eq!(
        until(301, [false, false]).0,
        None,
        "that nothing of b answers is said by its link"
    );
    assert!(until(302, [true, true]).0.is_some(), "it may go again at once");
    assert_eq!(until(362, [true, true]).0, None);
}
