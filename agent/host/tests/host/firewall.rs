//! What is asked of a firewall that drops what it does not know.

use std::{collections::BTreeMap, sync::Arc};

use spanwire_host::{
    ChainName, Direction, Elsewhere, Filter, FilterRule, HostFacts, MarkChange, Match, Passage, State,
    TableFamily, Verdict, closed_port, conflicts, render,
};
use spanwire_topology::{Holder, Plan};

use crate::samples;

fn closed(family: TableFamily) -> Filter {
    Filter {
        name: ChainName {
            family,
            table: "filter".to_owned(),
            chain: "FORWARD".to_owned(),
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

fn behind((plan, mut facts): (Plan, HostFacts), families: &[TableFamily]) -> (Plan, HostFacts) {
    facts.filters = Arc::new(families.iter().copied().map(closed).collect());
    (plan, facts)
}

fn opened((plan, facts): &(Plan, HostFacts)) -> Vec<String> {
    let text = |(chain, Passage { passes, .. }): (&ChainName, &Passage)| {
        let way = |direction| passes.iter().any(|pass| pass.direction == direction);
        assert!(way(Direction::In) && way(Direction::Out), "{chain}");
        let links: std::collections::BTreeSet<String> =
            passes.iter().map(|pass| pass.link.to_string()).collect();
        format!("{chain}: {links:?}")
    };
    render(plan, facts).passages.iter().map(text).collect()
}

#[test]
fn a_leader_opens_its_tunnel_and_a_follower_the_device_of_the_cni_of_the_families_in_use() {
    let all = [TableFamily::Ip, TableFamily::Ip6, TableFamily::Inet];
    let [ip, ip6, inet] = ["ip", "ip6", "inet"].map(|family| format!("{family} filter FORWARD"));
    let leader = behind(samples::leader(), &all);
    let tunnel = |chain: &String| format!("{chain}: {{\"spanwire0\"}}");
    assert_eq!(opened(&leader), [tunnel(&ip), tunnel(&inet)]);
    let dual = behind(samples::dual_stack(), &all);
    assert_eq!(opened(&dual), [tunnel(&ip), tunnel(&ip6), tunnel(&inet)]);
    let follower = behind(samples::follower(), &[TableFamily::Ip]);
    assert_eq!(opened(&follower), [format!("{ip}: {{\"flannel.1\"}}")]);
    for (plan, facts) in [leader, dual, follower] {
        assert_eq!(conflicts(&plan, &facts), []);
    }
    let nowhere = behind(samples::outside(), &all);
    assert!(opened(&nowhere).is_empty());
}

#[test]
fn a_leader_opens_its_tunnel_and_the_device_by_which_the_other_leader_reaches_its_pods() {
    let standby = behind(samples::standby(), &[TableFamily::Ip]);
    assert_eq!(
        opened(&standby),
        ["ip filter FORWARD: {\"flannel.1\", \"spanwire0\"}"]
    );
    // Other locations may not have heard yet that it is the active one, nor be able to reach it.
    let active = behind(samples::active_again(), &[TableFamily::Ip]);
    assert_eq!(
        opened(&active),
        ["ip filter FORWARD: {\"flannel.1\", \"spanwire0\"}"]
    );
}

#[test]
fn a_device_of_the_lan_is_not_opened_but_the_firewall_named() {
    let (plan, facts) = behind(samples::direct_follower(), &[TableFamily::Ip]);
    assert!(render(&plan, &facts).passages.is_empty());
    let texts: Vec<String> = conflicts(&plan, &facts).iter().map(ToString::to_string).collect();
    assert_eq!(
        texts,
        [
            "the chain ip filter FORWARD of this node's firewall drops what is forwarded between pods here and other \
             locations by eth0; let it accept what comes from and goes to the addresses of the mesh"
        ]
    );
}

#[test]
fn a_table_that_its_maker_alone_may_change_is_left_alone_and_named() {
    let (plan, mut facts) = behind(samples::leader(), &[TableFamily::Inet]);
    let mut filter = closed(TableFamily::Inet);
    filter.is_locked = true;
    facts.filters = Arc::new(vec![filter]);
    assert!(render(&plan, &facts).passages.is_empty());
    let texts: Vec<String> = conflicts(&plan, &facts).iter().map(ToString::to_string).collect();
    assert_eq!(texts.len(), 1, "{texts:?}");
    assert!(
        texts[0].starts_with("the chain inet filter FORWARD of this node's firewall drops")
            && texts[0].contains("--zone=trusted --add-interface=spanwire0"),
        "{texts:?}"
    );
}

fn setting(sets: u32) -> MarkChange {
    MarkChange { sets, clears: 0 }
}

/// A chain that drops what another program has not marked.
fn of_marked(marks: u32) -> Filter {
    let rule = |handle, matches, verdict, marks| FilterRule {
        handle,
        comment: Some("of no zone".to_owned()),
        own: None,
        matches,
        verdict,
        marks: setting(marks),
        untracks: Some(false),
    };
    let unmarked = Match::Mark {
        of_connection: false,
        mask: 0xff00,
        ranges: vec![(0x100, 0x100)],
        not: true,
    };
    Filter {
        drops: false,
        rules: vec![
            rule(3, vec![Match::Unknown], Verdict::Continue, marks),
            rule(4, vec![unmarked], Verdict::Drop, 0),
        ],
        ..closed(TableFamily::Inet)
    }
}

fn said((plan, facts): &(Plan, HostFacts)) -> Vec<String> {
    conflicts(plan, facts).iter().map(ToString::to_string).collect()
}

#[test]
fn what_is_dropped_for_want_of_a_mark_is_named_unless_another_program_may_have_set_it() {
    let named = [
        "the chain inet filter FORWARD of this node's firewall drops what is forwarded between this and other locations \
         by spanwire0; transit of the mesh is not tracked (`ct state untracked`), and what begins for pods here is new: let \
         it accept both on this device before that; it drops them by the rule with the handle 4 (\"of no zone\")",
    ];
    for (marks, before, expected) in [
        (0x200, 0, &named[..]),
        (0x100, 0, &[]),
        (0, 0x2100, &[]),
        (0, 0x30, &named[..]),
    ] {
        let (plan, mut facts) = samples::leader();
        facts.filters = Arc::new(vec![of_marked(marks)]);
        let earlier = FilterRule {
            marks: setting(before),
            matches: vec![],
            verdict: Verdict::Continue,
            ..of_marked(0).rules.remove(0)
        };
        let earlier = Filter {
            drops: false,
            rules: vec![earlier],
            ..closed(TableFamily::Ip)
        };
        facts
            .elsewhere
            .insert(Elsewhere::Prerouting, Arc::new(vec![earlier]));
        assert_eq!(said(&(plan, facts)), expected, "{marks:#x}, {before:#x}");
    }
    // Of what is tracked that is not known.
    let (plan, mut facts) = samples::follower();
    facts.filters = Arc::new(vec![of_marked(0)]);
    assert!(said(&(plan, facts)).is_empty());
}

#[test]
fn what_drops_packets_before_or_after_they_are_forwarded_or_as_they_are_sent_is_named() {
    let with = |(plan, mut facts): (Plan, HostFacts), at, priority, rules| {
        let filter = Filter {
            drops: true,
            priority,
            rules,
            ..closed(TableFamily::Ip)
        };
        facts.elsewhere.insert(at, Arc::new(vec![filter]));
        said(&(plan, facts))
    };
    let text = |what: &str, link: &str| {
        format!(
            "the chain ip filter FORWARD of this node's firewall drops what is {what} by {link}; let it accept what passes \
             this device before that; packets of the mesh bear no mark of their own"
        )
    };
    let (coming, leaving) = ("coming in from other locations", "leaving for other locations");
    for (at, what, of_leader, of_follower) in [
        (Elsewhere::Ingress, coming, "spanwire0", "flannel.1"),
        (Elsewhere::Prerouting, coming, "spanwire0", "flannel.1"),
        (
            Elsewhere::Output,
            "sent by this node to other locations",
            "spanwire0",
            "flannel.1",
        ),
        (Elsewhere::Postrouting, leaving, "spanwire0", "flannel.1"),
        (Elsewhere::Egress, leaving, "spanwire0", "flannel.1"),
        (
            Elsewhere::FromPods,
            "sent by pods here to other locations",
            "cni0",
            "cni0",
        ),
        (
            Elsewhere::ToPods,
            "for pods here from other locations",
            "cni0",
            "cni0",
        ),
    ] {
        for (node, link) in [(samples::leader(), of_leader), (samples::follower(), of_follower)] {
            let found = with(node, at, 0, vec![]);
            assert_eq!(found, [text(what, link)], "{at:?}");
        }
        // What connection tracking says is known behind it alone.
        let known = FilterRule {
            handle: 1,
            comment: None,
            own: None,
            matches: vec![Match::State {
                states: [State::Untracked].into(),
                not: false,
            }],
            verdict: Verdict::Accept,
            marks: MarkChange::default(),
            untracks: Some(false),
        };
        let behind = |priority| !with(samples::leader(), at, priority, vec![known.clone()]).is_empty();
        let expected = if at == Elsewhere::Prerouting {
            [true, false]
        } else {
            [at == Elsewhere::Postrouting; 2]
        };
        assert_eq!([0, -300].map(behind), expected, "{at:?}");
    }
}

#[test]
fn a_chain_of_other_devices_is_of_no_concern() {
    let with = |link: &str| {
        let (plan, mut facts) = samples::leader();
        let mut filter = closed(TableFamily::Netdev);
        filter.links = Some([samples::link(link)].into());
        facts.elsewhere.insert(Elsewhere::Ingress, Arc::new(vec![filter]));
        said(&(plan, facts)).len()
    };
    assert_eq!(["spanwire0", "eth0"].map(with), [1, 0]);
}

#[test]
fn a_chain_of_an_uplink_that_drops_datagrams_before_they_are_routed_closes_the_port() {
    for (at, family, link, closes) in [
        (Elsewhere::Ingress, TableFamily::Netdev, "eth0", true),
        (Elsewhere::Ingress, TableFamily::Netdev, "eth1", false),
        (Elsewhere::Prerouting, TableFamily::Ip, "eth0", true),
        (Elsewhere::Prerouting, TableFamily::Ip6, "eth0", false),
        (Elsewhere::Postrouting, TableFamily::Ip, "eth0", false),
    ] {
        let (plan, mut facts) = samples::leader();
        facts.uplinks = [samples::link("eth0")].into();
        facts.underlay_v4_only = true;
        let datagrams = Match::Port {
            protocol: Some(17),
            source: false,
            ranges: vec![(51_820, 51_820)],
            not: false,
        };
        let filter = Filter {
            links: (family == TableFamily::Netdev).then(|| [samples::link(link)].into()),
            ..Filter {
                name: closed(family).name,
                ..dropping(vec![datagrams])
            }
        };
        facts.elsewhere.insert(at, Arc::new(vec![filter]));
        let found = closed_port(&plan, &facts);
        assert_eq!(found.is_some(), closes, "{at:?} {family} {link}: {found:?}");
    }
}

fn dropping(matches: Vec<Match>) -> Filter {
    let rule = FilterRule {
        handle: 8,
        comment: None,
        own: None,
        matches,
        verdict: Verdict::Drop,
        marks: MarkChange::default(),
        untracks: Some(false),
    };
    Filter {
        drops: false,
        rules: vec![rule],
        ..closed(TableFamily::Inet)
    }
}

fn from(first: &str, last: &str) -> Match {
    Match::Address {
        source: true,
        ranges: vec![(first.parse().unwrap(), last.parse().unwrap())],
        not: false,
    }
}

#[test]
fn a_network_or_node_of_the_mesh_that_a_rule_is_for_is_named_whichever_it_is() {
    let what = "the chain inet filter FORWARD of this node's firewall drops what is forwarded between this and other locations \
                by spanwire0";
    for (matches, ends) in [
        // Not the first of b, nor the first of a.
        (
            vec![from("10.244.22.0", "10.244.22.255")],
            Some("10.244.22.0 to 10.244.11.0"),
        ),
        (
            vec![from("192.168.2.2", "192.168.2.2")],
            Some("192.168.2.2 to 10.244.11.0"),
        ),
        (
            vec![from("10.244.13.0", "10.244.13.255")],
            Some("10.244.13.0 to 10.4.0.21"),
        ),
        // In a set of pairs.
        (
            vec![Match::Any {
                of: vec![vec![from("192.168.2.2", "192.168.2.3")]],
                not: false,
            }],
            Some("192.168.2.2 to 10.244.11.0"),
        ),
        // Some pods of a node, the internet, and all that is not there.
        (vec![from("10.244.22.8", "10.244.22.15")], None),
        (vec![from("198.51.100.0", "198.51.100.255")], None),
        (vec![from("10.99.0.0", "10.99.255.255")], None),
    ] {
        let (plan, mut facts) = samples::leader();
        facts.filters = Arc::new(vec![dropping(matches.clone())]);
        let found = said(&(plan, facts));
        let expected = ends.map(|ends| format!("; one of them is from {ends}"));
        assert_eq!(
            found.len(),
            usize::from(expected.is_some()),
            "{matches:?}: {found:?}"
        );
        for (found, expected) in found.iter().zip(&expected) {
            assert!(
                found.starts_with(what) && found.ends_with(expected),
                "{matches:?}: {found}"
            );
        }
    }
}

#[test]
fn a_rule_for_single_pods_is_a_policy_and_no_trouble() {
    for (holder, named) in [(Holder::Others, false), (Holder::Node, true)] {
        let (mut plan, mut facts) = samples::leader();
        let mut route = plan.routes[&samples::prefix("10.244.22.0/24")].clone();
        route.holder = holder;
        plan.routes.insert(samples::prefix("10.245.0.7/32"), route);
        facts.filters = Arc::new(vec![dropping(vec![from("10.245.0.7", "10.245.0.7")])]);
        assert_eq!(said(&(plan, facts)).len(), usize::from(named), "{holder:?}");
    }
}

#[test]
fn a_leader_whose_way_back_is_another_one_drops_what_its_firewall_wants_to_come_by_that() {
    let strict = || {
        dropping(vec![Match::WayBack {
            by_its_device: true,
            exists: false,
        }])
    };
    let with = |(plan, mut facts): (Plan, HostFacts)| {
        facts
            .elsewhere
            .insert(Elsewhere::Prerouting, Arc::new(vec![strict()]));
        said(&(plan, facts))
    };
    assert!(with(samples::leader()).is_empty());
    assert!(with(samples::follower()).is_empty());
    let found = with(samples::standby());
    assert!(
        matches!(found.as_slice(), [text] if text.contains("coming in from other locations by spanwire0")),
        "{found:?}"
    );
}

/// As wg-quick(8) advises, and as people write it.
#[test]
fn a_kill_switch_that_drops_what_the_tunnel_sends_is_named_unless_it_lets_that_out() {
    let not_by = |link: &str| Match::Device {
        direction: Direction::Out,
        names: vec![link.to_owned()],
        not: true,
    };
    let unmarked = |mark: u32| Match::Mark {
        of_connection: false,
        mask: u32::MAX,
        ranges: vec![(mark, mark)],
        not: true,
    };
    let elsewhere = || Match::ForHere { not: true };
    for (at, matches, changed, named) in [
        (
            Elsewhere::Output,
            vec![not_by("wg0"), unmarked(0xca6c), elsewhere()],
            false,
            true,
        ),
        (Elsewhere::Postrouting, vec![not_by("wg*")], false, true),
        (Elsewhere::Egress, vec![], false, true),
        (Elsewhere::Output, vec![not_by("eth0")], false, false),
        (
            Elsewhere::Output,
            vec![not_by("wg0"), unmarked(0x2000)],
            false,
            false,
        ),
        (
            Elsewhere::Output,
            vec![not_by("wg0"), Match::Unknown],
            false,
            false,
        ),
        // Another program may set it.
        (
            Elsewhere::Output,
            vec![not_by("wg0"), unmarked(0xca6c)],
            true,
            false,
        ),
        (Elsewhere::Prerouting, vec![not_by("wg0")], false, false),
    ] {
        let (plan, mut facts) = samples::leader();
        facts.uplinks = [samples::link("eth0")].into();
        facts.underlay_v4_only = true;
        if changed {
            facts.elsewhere = samples::changed_marks();
        }
        let filters = facts.elsewhere.entry(at).or_default();
        Arc::make_mut(filters).push(dropping(matches.clone()));
        let found: Vec<String> = said(&(plan, facts));
        let found: Vec<&String> = found
            .iter()
            .filter(|text| text.contains("what the tunnel sends"))
            .collect();
        let expected = [
            "the chain inet filter FORWARD of this node's firewall drops what the tunnel sends (UDP from port 51820, with the \
             mark 0x2000), so no other location is reached from here; let that out, as by `nft insert rule inet filter FORWARD \
             udp sport 51820 accept`; it drops them by the rule with the handle 8",
        ];
        assert_eq!(
            found,
            expected.iter().take(usize::from(named)).collect::<Vec<_>>(),
            "{at:?} {matches:?}"
        );
    }
}
