use super::*;
use crate::{
    MarkChange,
    firewall::{Match, Protocol, TableFamily, tests::rule},
};

fn link(name: &str) -> LinkName {
    LinkName::new(name).unwrap()
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Transit of a leader.
fn transit() -> Passing {
    Passing {
        source: address("10.244.1.2"),
        destination: address("10.244.2.2"),
        transport: None,
        answers: false,
        incoming: Some(link("flannel.1")),
        from_bridge: false,
        link_source: None,
        way_back: Some(link("flannel.1")),
        outgoing: Some(link("spanwire0")),
        to_bridge: false,
        via: None,
        own_table: "spanwire".to_owned(),
    }
}

fn chain(table: &str, priority: i32, drops: bool, rules: Vec<FilterRule>) -> Filter {
    Filter {
        name: ChainName {
            family: TableFamily::Inet,
            table: table.to_owned(),
            chain: "base".to_owned(),
        },
        is_legacy: false,
        is_locked: false,
        priority,
        links: None,
        drops,
        rules,
        chains: [
            ("jumped".to_owned(), vec![rule(90, vec![], Verdict::Drop)]),
            ("left".to_owned(), vec![rule(91, vec![], Verdict::Return)]),
        ]
        .into(),
    }
}

fn forwarding(filter: Filter) -> Vec<(Stage, Vec<Filter>)> {
    vec![(Stage::Forward, vec![filter])]
}

/// `accepted`, or `dropped` or `unknown` with what decides.
fn said(judgement: Judgement) -> String {
    match judgement {
        Judgement::Accepted => "accepted".to_owned(),
        Judgement::Dropped(place) => format!("dropped: {place}"),
        Judgement::Unknown(place) => format!("unknown: {place}"),
    }
}

fn device(direction: Direction, name: &str) -> Match {
    Match::Device {
        direction,
        names: vec![name.to_owned()],
        not: false,
    }
}

fn tcp() -> Match {
    Match::Protocol {
        protocols: vec![6],
        not: false,
    }
}

#[test]
fn a_packet_meets_the_chains_of_what_is_done_with_it() {
    let names = |packet: &Passing| {
        let stages = packet.stages();
        stages
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(names(&transit()), "ingress prerouting forward postrouting egress");
    let begun = Passing {
        incoming: None,
        ..transit()
    };
    assert_eq!(names(&begun), "output postrouting egress");
    let taken = Passing {
        outgoing: None,
        ..transit()
    };
    assert_eq!(names(&taken), "ingress prerouting input");
    let own = Passing {
        incoming: None,
        ..taken
    };
    assert_eq!(names(&own), "output postrouting prerouting input");
    let of_pods = Passing {
        from_bridge: true,
        to_bridge: true,
        ..transit()
    };
    assert_eq!(
        names(&of_pods),
        "ingress prerouting prerouting forward postrouting postrouting egress"
    );
}

#[test]
fn what_is_certain_is_said_and_nothing_else() {
    let (hop, tunnel) = (
        device(Direction::In, "flannel.1"),
        device(Direction::Out, "spanwire0"),
    );
    let to = |name: &str| Verdict::Jump(name.to_owned());
    for (drops, rules, expected) in [
        (false, vec![], "accepted"),
        (true, vec![], "dropped: the policy of the chain base (inet t)"),
        // Both devices are known where it is forwarded.
        (
            true,
            vec![rule(1, vec![hop.clone(), tunnel], Verdict::Accept)],
            "accepted",
        ),
        (
            true,
            vec![rule(1, vec![device(Direction::Out, "eth0")], Verdict::Accept)],
            "dropped: the policy of the chain base (inet t)",
        ),
        // What may be accepted is not dropped, and the other way round.
        (
            true,
            vec![rule(1, vec![tcp()], Verdict::Accept)],
            "unknown: rule 1 of the chain base (inet t)",
        ),
        (false, vec![rule(1, vec![tcp()], Verdict::Accept)], "accepted"),
        (
            false,
            vec![rule(1, vec![tcp()], Verdict::Drop)],
            "unknown: rule 1 of the chain base (inet t)",
        ),
        (
            true,
            vec![rule(1, vec![tcp()], Verdict::Drop)],
            "dropped: rule 1 of the chain base (inet t)",
        ),
        (
            false,
            vec![
                rule(1, vec![tcp()], Verdict::Return),
                rule(2, vec![], Verdict::Drop),
            ],
            "unknown: rule 2 of the chain base (inet t)",
        ),
        (
            false,
            vec![rule(1, vec![], to("left")), rule(2, vec![hop], to("jumped"))],
            "dropped: rule 90 of the chain jumped (inet t)",
        ),
        (
            false,
            vec![rule(1, vec![tcp()], to("jumped"))],
            "unknown: rule 90 of the chain jumped (inet t)",
        ),
        (
            true,
            vec![
                rule(1, vec![], Verdict::Goto("left".to_owned())),
                rule(2, vec![], Verdict::Accept),
            ],
            "dropped: the policy of the chain base (inet t)",
        ),
        // A queue, and a chain that was not read.
        (
            false,
            vec![rule(1, vec![], Verdict::Unknown)],
            "unknown: rule 1 of the chain base (inet t)",
        ),
        (
            false,
            vec![rule(1, vec![], to("unread"))],
            "unknown: rule 1 of the chain base (inet t)",
        ),
        (
            false,
            vec![rule(1, vec![], to("unread")), rule(2, vec![], Verdict::Drop)],
            "unknown: rule 1 of the chain base (inet t)",
        ),
    ] {
        let chains = forwarding(chain("t", 0, drops, rules.clone()));
        assert_eq!(said(judge(&transit(), &chains)), expected, "{rules:?}");
    }
}

#[test]
fn the_first_chain_that_drops_is_named_and_none_that_accepts_saves_from_the_next() {
    let accepts = || chain("a", -10, false, vec![rule(1, vec![], Verdict::Accept)]);
    let drops = || chain("spanwire", 10, false, vec![rule(2, vec![], Verdict::Drop)]);
    let doubtful = || chain("z", 20, false, vec![rule(3, vec![tcp()], Verdict::Drop)]);
    let judged = judge(
        &transit(),
        &[(Stage::Forward, vec![doubtful(), drops(), accepts()])],
    );
    let Judgement::Dropped(place) = &judged else {
        panic!("{judged:?}");
    };
    assert!(place.is_own && place.stage == Stage::Forward);
    let judged = judge(&transit(), &[(Stage::Forward, vec![doubtful(), accepts()])]);
    assert!(matches!(judged, Judgement::Unknown(place) if !place.is_own));
    // Of another family.
    let mut v6 = drops();
    v6.name.family = TableFamily::Ip6;
    assert_eq!(judge(&transit(), &forwarding(v6)), Judgement::Accepted);
    let mut of_a_device = drops();
    of_a_device.links = Some([link("eth0")].into());
    assert_eq!(judge(&transit(), &forwarding(of_a_device)), Judgement::Accepted);
}

#[test]
fn what_connection_tracking_knows_of_a_packet_follows_from_the_rules_before() {
    let state = |states: &[State]| Match::State {
        states: states.iter().copied().collect(),
        not: false,
    };
    let stateful = || {
        let known = state(&[State::Established, State::Related]);
        chain(
            "t",
            0,
            false,
            vec![
                rule(1, vec![known], Verdict::Accept),
                rule(2, vec![state(&[State::New])], Verdict::Accept),
                rule(3, vec![], Verdict::Drop),
            ],
        )
    };
    let untracking = |priority, matches: Vec<Match>, untracks| {
        let rules = vec![FilterRule {
            untracks,
            ..rule(7, matches, Verdict::Continue)
        }];
        let at = Stage::Elsewhere(Elsewhere::Prerouting);
        vec![
            (at, vec![chain("raw", priority, false, rules)]),
            (Stage::Forward, vec![stateful()]),
        ]
    };
    let answer = Passing {
        answers: true,
        ..transit()
    };
    for packet in [transit(), answer] {
        let judged = |chains: &[(Stage, Vec<Filter>)]| said(judge(&packet, chains));
        assert_eq!(judged(&forwarding(stateful())), "accepted");
        let dropped = "dropped: rule 3 of the chain base (inet t)";
        assert_eq!(judged(&untracking(-300, vec![], Some(true))), dropped);
        assert_eq!(
            judged(&untracking(-100, vec![], Some(true))),
            "accepted",
            "it is tracked before"
        );
        let elsewhere = vec![device(Direction::In, "eth0")];
        assert_eq!(judged(&untracking(-300, elsewhere, Some(true))), "accepted");
        for doubtful in [
            untracking(-300, vec![tcp()], Some(true)),
            untracking(-300, vec![], None),
        ] {
            assert!(judged(&doubtful).starts_with("unknown: rule "), "{doubtful:?}");
        }
    }
    // Nothing is read of the connection of what has none.
    let of_connection = |not| {
        chain(
            "t",
            0,
            true,
            vec![rule(4, vec![Match::Answer { not }], Verdict::Accept)],
        )
    };
    assert_eq!(
        judge(&transit(), &forwarding(of_connection(true))),
        Judgement::Accepted
    );
    for not in [false, true] {
        let mut chains = untracking(-300, vec![], Some(true));
        chains[1].1 = vec![of_connection(not)];
        assert!(said(judge(&transit(), &chains)).starts_with("dropped"), "{not}");
    }
}

#[test]
fn marks_are_known_until_a_rule_may_have_set_them() {
    let marked = || {
        let of = Match::Mark {
            of_connection: false,
            mask: u32::MAX,
            ranges: vec![(0x100, 0x100)],
            not: false,
        };
        vec![rule(5, vec![of], Verdict::Drop)]
    };
    let setting = || FilterRule {
        marks: MarkChange {
            sets: 0x100,
            clears: 0,
        },
        ..rule(1, vec![], Verdict::Continue)
    };
    let at = |stage, priority, rules| (stage, vec![chain("t", priority, false, rules)]);
    let prerouting = Stage::Elsewhere(Elsewhere::Prerouting);
    let ingress = Stage::Elsewhere(Elsewhere::Ingress);
    let judged = |chains: &[_]| judge(&transit(), chains);
    assert_eq!(judged(&[at(prerouting, -300, marked())]), Judgement::Accepted);
    let set_before = [at(ingress, 0, vec![setting()]), at(prerouting, -300, marked())];
    assert!(matches!(judged(&set_before), Judgement::Unknown(_)));
    // Chains that translate addresses are not read.
    assert!(matches!(
        judged(&[at(Stage::Forward, 0, marked())]),
        Judgement::Unknown(_)
    ));
    let untracks = FilterRule {
        untracks: Some(true),
        ..rule(2, vec![], Verdict::Continue)
    };
    let untracked = [
        at(prerouting, -300, vec![untracks]),
        at(Stage::Forward, 0, marked()),
    ];
    assert_eq!(judged(&untracked), Judgement::Accepted);
}

#[test]
fn what_is_known_of_the_one_packet_decides() {
    use spanwire_topology::MacAddress;
    let leader = MacAddress::new([2; 6]);
    let hops = |not| Match::NextHop {
        addresses: vec![address("10.244.2.2")],
        not,
    };
    let sources = |not| Match::LinkSource {
        addresses: vec![leader],
        not,
    };
    let drops = |found| forwarding(chain("t", 0, false, vec![rule(1, vec![found], Verdict::Drop)]));
    let dropped = |packet: &Passing, found| matches!(judge(packet, &drops(found)), Judgement::Dropped(_));
    // Without a next hop it is the destination.
    assert!(dropped(&transit(), hops(false)) && !dropped(&transit(), hops(true)));
    let via = Passing {
        via: Some(address("10.244.9.0")),
        ..transit()
    };
    assert!(dropped(&via, hops(true)));
    assert!(matches!(
        judge(&transit(), &drops(sources(false))),
        Judgement::Unknown(_)
    ));
    let from_leader = Passing {
        link_source: Some(leader),
        ..transit()
    };
    assert!(dropped(&from_leader, sources(false)) && !dropped(&from_leader, sources(true)));
    assert!(dropped(&transit(), Match::ForHere { not: true }));
    assert!(dropped(&transit(), Match::FromHere { not: true }));
    assert!(dropped(&transit(), Match::Translated { not: true }));
    let begun = Passing {
        incoming: None,
        ..transit()
    };
    let at = Stage::Elsewhere(Elsewhere::Output);
    let from_here = vec![rule(1, vec![Match::FromHere { not: false }], Verdict::Drop)];
    assert!(matches!(
        judge(&begun, &[(at, vec![chain("t", 0, false, from_here)])]),
        Judgement::Dropped(_)
    ));
    let back = Match::WayBack {
        by_its_device: true,
        exists: false,
    };
    assert!(!dropped(&transit(), back.clone()));
    let strange = Passing {
        way_back: None,
        ..transit()
    };
    assert!(matches!(judge(&strange, &drops(back)), Judgement::Unknown(_)));
}

#[test]
fn rules_on_protocols_and_ports_decide_where_these_are_known() {
    let port = |protocol, source, port| Match::Port {
        protocol,
        source,
        ranges: vec![(port, port)],
        not: false,
    };
    let carrying = |protocol, source_port, destination_port| Passing {
        transport: Some(Transport {
            protocol,
            source_port,
            destination_port,
        }),
        ..transit()
    };
    let web = carrying(Protocol::Tcp, None, Some(443));
    let answer = carrying(Protocol::Tcp, Some(443), None);
    let name = carrying(Protocol::Udp, None, Some(53));
    let echo = carrying(Protocol::Icmp, None, None);
    let open = |found: Match| forwarding(chain("t", 0, true, vec![rule(1, vec![found], Verdict::Accept)]));
    // The other port of a connection is not known, nor what stands where an echo request has none.
    for (found, expected) in [
        (tcp(), ["accepted", "accepted", "dropped", "dropped"]),
        (
            port(Some(6), false, 443),
            ["accepted", "unknown", "dropped", "dropped"],
        ),
        (
            port(Some(6), false, 80),
            ["dropped", "unknown", "dropped", "dropped"],
        ),
        (
            port(Some(6), true, 443),
            ["unknown", "accepted", "dropped", "dropped"],
        ),
        (
            port(None, false, 53),
            ["dropped", "unknown", "accepted", "unknown"],
        ),
    ] {
        let judged = [&web, &answer, &name, &echo].map(|packet| said(judge(packet, &open(found.clone()))));
        for (judged, expected) in judged.iter().zip(expected) {
            assert!(
                judged.starts_with(expected),
                "{found:?}: {judged}, not {expected}"
            );
        }
    }
}
