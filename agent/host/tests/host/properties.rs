//! From any state to any state. A state is what a machine is in after any steps, in any order, some of them refused.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use spanwire_host::{
    DeviceKind, Host, LinkName, NftTable, OtherLink, Owned, Packet, PeerChange, PresharedKey, Route,
    RouteKey, RouteKind, Rule, RuleAction, RuleSelector, Step, Sysctl, TableId, VxlanSettings,
    WireGuardSettings, diff, fake::FakeKernel, lookup, render,
};
use spanwire_topology::{Family, Keepalive, MacAddress, Prefix};

use crate::samples::{self, key, link, other_link, prefix};

const PREFIXES: [&str; 8] = [
    "10.0.0.0/8",
    "10.1.0.0/16",
    "10.1.2.0/24",
    "10.1.2.3",
    "192.168.2.1",
    "fd00::/8",
    "fd00:1::/64",
    "fd00:1::1",
];

fn machine() -> BTreeMap<LinkName, OtherLink> {
    let eth0 = [("192.168.1.5", 24), ("fd00:aa::5", 64)];
    BTreeMap::from([
        (link("eth0"), other_link(1500, &eth0, false)),
        (link("flannel.1"), other_link(1450, &[("10.244.5.0", 32)], true)),
    ])
}

/// Spanwire's device.
fn own() -> LinkName {
    Owned::default().link
}

/// Everything that may be done to a VXLAN device.
fn vxlan() -> Vec<Step> {
    let hop = || Owned::default().hop_link;
    let mac = |last: u8| MacAddress::new([10, 0x57, 10, 4, 0, last]);
    let mut steps = vec![
        Step::DeleteDevice(hop()),
        Step::SetMtu(hop(), 1380),
        Step::SetUp(hop(), true),
        Step::SetUp(hop(), false),
        Step::AddAddress(hop(), prefix("169.254.51.83")),
        Step::AddAddress(hop(), prefix("10.9.0.1")),
    ];
    for last in [1, 2, 13] {
        let local = format!("192.168.1.{last}").parse().unwrap();
        let settings = VxlanSettings {
            vni: 51_830,
            port: 51_830,
            local,
            address: mac(last),
        };
        steps.push(Step::AddVxlan(hop(), 1450, settings));
        steps.push(Step::SetForwarding(hop(), mac(last), local));
        let neighbour = format!("10.4.0.{last}").parse().unwrap();
        steps.push(Step::SetNeighbour(hop(), neighbour, mac(last)));
    }
    steps
}

/// Everything that may be done to a machine.
fn pool() -> Vec<Step> {
    let mut pool = vec![
        Step::DeleteDevice(own()),
        Step::SetMtu(own(), 1380),
        Step::SetUp(own(), true),
        Step::SetUp(own(), false),
        Step::DeleteNft,
    ];
    for number in [1, 2] {
        let settings = WireGuardSettings {
            public_key: key(number),
            listen_port: 51820,
            mark: 0x2000,
        };
        pool.push(Step::AddWireGuard(own(), 1420, settings));
        pool.push(Step::SetWireGuard(own(), settings));
    }
    for address in ["10.4.0.1", "10.4.0.2", "fd00:4::1"] {
        pool.push(Step::AddAddress(own(), prefix(address)));
        pool.push(Step::DeleteAddress(own(), prefix(address)));
    }
    for (number, text) in (11..14).flat_map(|number| PREFIXES.map(|text| (number, text))) {
        let change = PeerChange {
            recreate: false,
            endpoint: (number != 11).then(|| "192.0.2.1:51820".parse().unwrap()),
            keepalive: (number == 12).then_some(Some(Keepalive(25))),
            group: (number != 13).then(|| (number == 12).then(|| "b".parse().unwrap())),
            preshared: (number != 13).then(|| PresharedKey::new([12 - number; 32])),
            add: BTreeSet::from([prefix(text)]),
            remove: BTreeSet::new(),
        };
        pool.push(Step::SetPeer(own(), key(number), change));
    }
    pool.extend(vxlan());
    pool.extend(routes());
    pool.extend(rules().into_iter().map(Step::AddRule));
    for text in ["one", "two"] {
        pool.push(Step::SetNft(NftTable {
            chains: text.to_owned(),
            ..NftTable::default()
        }));
    }
    for (path, value) in [
        ("net/ipv4/ip_forward", "0"),
        ("net/ipv4/ip_forward", "1"),
        ("net/ipv4/conf/spanwire0/rp_filter", "2"),
        ("net/ipv4/conf/flannel.1/rp_filter", "2"),
    ] {
        pool.push(Step::SetSysctl(Sysctl(path.to_owned()), value.to_owned()));
    }
    pool
}

fn routes() -> Vec<Step> {
    let owned = Owned::default();
    let unicast = |dev: &str, via: Option<&str>, src: Option<&str>| RouteKind::Unicast {
        dev: link(dev),
        via: via.map(|via| via.parse().unwrap()),
        onlink: via.is_some(),
        src: src.map(|src| src.parse().unwrap()),
    };
    let kinds = [
        unicast("spanwire0", None, None),
        unicast("spanwire0", None, Some("10.4.0.1")),
        unicast("spanwire0", None, Some("fd00:4::1")),
        unicast("flannel.1", Some("10.244.6.0"), Some("192.168.1.5")),
        unicast("eth0", Some("fd00:aa::6"), None),
        unicast("spanwire-hop", Some("10.4.0.13"), Some("192.168.1.5")),
        RouteKind::Throw,
        RouteKind::Unreachable,
        RouteKind::Blackhole,
    ];
    let mut steps = Vec::new();
    for (text, kind) in PREFIXES
        .iter()
        .flat_map(|text| kinds.clone().map(|kind| (text, kind)))
    {
        for (table, metric) in [(owned.table, 100), (owned.table, 4096), (owned.return_table, 100)] {
            let key = RouteKey {
                table,
                prefix: prefix(text),
                metric,
            };
            steps.push(Step::SetRoute(
                key,
                Route {
                    kind: kind.clone(),
                    mtu: None,
                },
            ));
        }
    }
    steps
}

fn rules() -> Vec<Rule> {
    let owned = Owned::default();
    let rule = |family, place, selector, action| Rule {
        family,
        priority: owned.rule_priority + place,
        selector,
        action,
    };
    let mut rules = Vec::new();
    for family in [Family::V4, Family::V6] {
        let nothing = RuleSelector::default;
        let past = RuleAction::Goto(owned.rule_priority + 15);
        for (mark, iif) in [
            (0x2000, link("lo")),
            (0x4000, link("lo")),
            (0x2000, link("flannel.1")),
        ] {
            let (mark, iif) = (Some((mark, u32::MAX, false)), Some(iif));
            let selector = RuleSelector {
                mark,
                iif,
                ..nothing()
            };
            rules.push(rule(family, 1, selector, past.clone()));
        }
        rules.push(rule(family, 8, nothing(), RuleAction::Lookup(owned.table)));
        for (place, name) in [(4, "spanwire0"), (7, "flannel.1")] {
            let iif = Some(link(name));
            let look = RuleAction::Lookup(owned.return_table);
            rules.push(rule(family, place, RuleSelector { iif, ..nothing() }, look));
        }
        rules.push(rule(family, 15, nothing(), RuleAction::Nop));
        let host = if family == Family::V4 {
            "10.1.2.3"
        } else {
            "fd00:1::1"
        };
        let (to, dport) = (Some(prefix(host)), Some(6443));
        rules.push(rule(
            family,
            0,
            RuleSelector {
                to,
                dport,
                ..nothing()
            },
            past,
        ));
    }
    rules
}

/// What a machine has got into.
fn state() -> impl Strategy<Value = Host> {
    let pool = pool();
    let first = pool
        .iter()
        .position(|step| matches!(step, Step::AddWireGuard(..)))
        .unwrap();
    let picks = prop::collection::vec(0..pool.len(), 0..120);
    (picks, any::<bool>()).prop_map(move |(picks, leads)| {
        let mut kernel = FakeKernel::new(Owned::default(), machine());
        let begin = [pool[first].clone(), Step::SetUp(own(), true)];
        for step in begin
            .iter()
            .filter(|_| leads)
            .chain(picks.iter().map(|pick| &pool[*pick]))
        {
            // What the machine refuses is just not part of its state.
            let _: Result<(), _> = kernel.apply(step);
        }
        kernel.host().clone()
    })
}

/// What may be wanted: a device that is there is up.
fn wanted() -> impl Strategy<Value = Host> {
    state().prop_map(|mut host| {
        host.devices.values_mut().for_each(|device| device.up = true);
        host
    })
}

/// The states before, between and after the steps.
fn replay(actual: &Host, wanted: &Host) -> Vec<Host> {
    let mut kernel = FakeKernel::with(Owned::default(), machine(), actual.clone());
    let mut states = vec![actual.clone()];
    let steps = diff(actual, wanted);
    for step in &steps {
        if let Err(refused) = kernel.apply(step) {
            panic!(
                "{step}: {refused}\nfrom\n{actual}\nto\n{wanted}\nby\n{}",
                text(&steps)
            );
        }
        states.push(kernel.host().clone());
    }
    states
}

fn text(steps: &[Step]) -> String {
    steps.iter().map(|step| format!("{step}\n")).collect()
}

/// The state without what `diff` leaves alone: kernel settings and endpoints that are not wanted.
fn comparable(mut host: Host, wanted: &Host) -> Host {
    host.sysctls
        .retain(|sysctl, _| wanted.sysctls.contains_key(sysctl));
    for (name, wireguard) in host.wireguards_mut() {
        let wanted = wanted
            .wireguard(name)
            .into_iter()
            .flat_map(|wanted| &wanted.peers);
        for (key, _) in wanted.filter(|(_, peer)| peer.endpoint.is_none()) {
            if let Some(peer) = wireguard.peers.get_mut(key) {
                peer.endpoint = None;
            }
        }
    }
    host
}

fn packets() -> Vec<Packet> {
    let to = [
        "10.9.9.9",
        "10.1.9.9",
        "10.1.2.9",
        "10.1.2.3",
        "192.168.2.1",
        "fd00:9::9",
        "fd00:1::9",
        "fd00:1::1",
    ];
    let of = |text: &str, dport: Option<u16>, mark| Packet {
        protocol: dport.map(|_| 6),
        dport,
        mark,
        ..Packet::to(text.parse().unwrap())
    };
    let with = |text| [of(text, None, 0), of(text, Some(6443), 0), of(text, None, 0x2000)];
    to.into_iter().flat_map(with).collect()
}

/// The state with rules for one mark only: with another mark other packets are meant, and of these nothing is promised.
fn of_one_mark(mut host: Host) -> Host {
    let foreign = |rule: &Rule| matches!(rule.selector.mark, Some((0x4000, _, _)));
    host.rules.retain(|rule| !foreign(rule));
    host
}

/// The state with a VXLAN device, where it has one, that need not be made again: with it go all routes by it.
fn of_one_address(mut host: Host, wanted: &Host) -> Host {
    let hop = Owned::default().hop_link;
    let settings = wanted.vxlan(&hop).map(|vxlan| vxlan.settings);
    if let (Some(device), Some(settings)) = (host.devices.get_mut(&hop), settings)
        && let DeviceKind::Vxlan(vxlan) = &mut device.kind
    {
        vxlan.settings = settings;
    }
    host
}

fn owners(host: &Host) -> BTreeSet<Prefix> {
    let peers = host
        .wireguard(&own())
        .into_iter()
        .flat_map(|wireguard| wireguard.peers.values());
    peers.flat_map(|peer| peer.allowed_ips.iter().copied()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn steps_lead_from_any_state_to_any_other(actual in state(), wanted in wanted()) {
        let last = replay(&actual, &wanted).pop().unwrap();
        prop_assert_eq!(comparable(last.clone(), &wanted), wanted.clone(), "{}", text(&diff(&actual, &wanted)));
        prop_assert_eq!(diff(&last, &wanted), vec![]);
    }

    #[test]
    fn nothing_is_to_do_where_all_is_as_wanted(wanted in wanted()) {
        prop_assert_eq!(diff(&wanted, &wanted), vec![]);
    }

    #[test]
    fn at_each_step_a_packet_goes_as_before_or_as_wanted(actual in state(), wanted in wanted()) {
        let (actual, wanted) = (of_one_mark(actual), of_one_mark(wanted));
        let actual = of_one_address(actual, &wanted);
        let states = replay(&actual, &wanted);
        for packet in packets() {
            let (before, after) = (lookup(&actual, &packet), lookup(&wanted, &packet));
            for state in &states {
                let now = lookup(state, &packet);
                prop_assert!(
                    now == before || now == after,
                    "{packet:?} goes {now:?}, before {before:?}, after {after:?}\n{}",
                    text(&diff(&actual, &wanted))
                );
            }
        }
    }

    #[test]
    fn an_allowed_ip_that_changes_hands_is_never_in_none(actual in state(), wanted in wanted()) {
        let stays: BTreeSet<Prefix> = owners(&actual).intersection(&owners(&wanted)).copied().collect();
        for state in replay(&actual, &wanted) {
            prop_assert!(stays.is_subset(&owners(&state)), "{}", text(&diff(&actual, &wanted)));
        }
    }
}

/// The real plans, from each to each: what a node goes through when it is elected, moved or retired.
#[test]
fn every_kind_of_node_becomes_every_other_kind() {
    let all = samples::all();
    for (from, (plan, facts)) in &all {
        for (to, (next, next_facts)) in &all {
            // One node, so one set of devices: the other's identity is not what changes here.
            let mut facts = facts.clone();
            facts.links.extend(next_facts.links.clone());
            let (actual, wanted) = (render(plan, &facts), render(next, next_facts));
            let mut kernel = FakeKernel::with(Owned::default(), facts.links, Host::default());
            for step in diff(&Host::default(), &actual)
                .iter()
                .chain(&diff(&actual, &wanted))
            {
                if let Err(refused) = kernel.apply(step) {
                    panic!("{from} to {to}: {step}: {refused}");
                }
            }
            assert_eq!(
                comparable(kernel.host().clone(), &wanted),
                wanted,
                "{from} to {to}"
            );
        }
    }
}

/// A leader that becomes a standby one, and one that becomes active, sends what a hop brings into its tunnel all the time:
/// the other one may not know yet what it is.
#[test]
fn between_active_and_standby_a_leader_sends_on_what_is_brought_to_it() {
    let (standby, facts) = samples::standby();
    let (active, _) = samples::active_again();
    let brought = |host: &Host, to: &str| {
        let packet = Packet {
            iif: Some(link("flannel.1")),
            ..Packet::to(to.parse().unwrap())
        };
        let kind = lookup(host, &packet);
        matches!(kind, Some(RouteKind::Unicast { dev, .. }) if *dev == link("spanwire0"))
    };
    let [standby, active] = [standby, active].map(|plan| render(&plan, &facts));
    for (from, to) in [(&standby, &active), (&active, &standby)] {
        let mut kernel = FakeKernel::with(Owned::default(), facts.links.clone(), from.clone());
        let steps = diff(from, to);
        assert!(!steps.is_empty());
        for step in &steps {
            kernel.apply(step).unwrap();
            for address in ["10.4.0.21", "10.244.22.9", "192.168.2.2", "10.200.0.1"] {
                assert!(
                    brought(kernel.host(), address),
                    "{address} after {step} of\n{}",
                    text(&steps)
                );
            }
            for own in ["10.244.13.9", "10.244.12.9"] {
                assert!(
                    !brought(kernel.host(), own),
                    "{own} after {step} of\n{}",
                    text(&steps)
                );
            }
        }
    }
}

#[test]
fn tables_of_others_are_refused() {
    let mut kernel = FakeKernel::new(Owned::default(), machine());
    let key = RouteKey {
        table: TableId(254),
        prefix: prefix("10.0.0.0/8"),
        metric: 100,
    };
    let route = Route {
        kind: RouteKind::Throw,
        mtu: None,
    };
    assert!(kernel.apply(&Step::SetRoute(key, route)).is_err());
}
