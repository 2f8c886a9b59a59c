//! A CNI without its device, or with one that takes nothing from other locations.

use std::net::IpAddr;

use spanwire_host::{Cni, Conflict, HostFacts, Inventory, RouteKind, conflicts, hop_device, render};
use spanwire_topology::{Family, Holder, Plan, Prefix};

use crate::samples::{self, link};

fn without_device((plan, mut facts): (Plan, HostFacts)) -> (Plan, HostFacts) {
    facts.links.remove(&link("flannel.1"));
    facts.cni = Cni::Direct;
    (plan, facts)
}

fn by_wireguard((plan, mut facts): (Plan, HostFacts)) -> (Plan, HostFacts) {
    let device = facts.links.remove(&link("flannel.1")).unwrap();
    facts.links.insert(link("flannel-wg"), device);
    let link = link("flannel-wg");
    facts.cni = Cni::Unsupported { link };
    (plan, facts)
}

/// Whether every route of a machine ends as 'unreachable', and those to overlay addresses silently.
fn goes_nowhere(plan: &Plan, facts: &HostFacts) -> bool {
    let host = render(plan, facts);
    let ends = |prefix: &Prefix| match plan.routes.get(prefix).map(|route| route.holder) {
        Some(Holder::Overlay) => RouteKind::Blackhole,
        _ => RouteKind::Unreachable,
    };
    let mut routes = host.routes.iter();
    !host.routes.is_empty() && routes.all(|(key, route)| route.kind == ends(&key.prefix))
}

#[test]
fn of_devices_in_the_lan_the_one_with_the_route_to_it_leads_to_the_leader() {
    let (plan, mut facts) = samples::direct_follower();
    let lan: Prefix = "192.168.1.0/24".parse().unwrap();
    facts.links.get_mut(&link("eth0")).unwrap().metrics = [(lan, 0)].into();
    // Second network cards, as the AWS VPC CNI leaves them: before the first one in order, and after it.
    for (name, address) in [("ens5", "192.168.1.90"), ("eth1", "192.168.1.91")] {
        let mut card = facts.links[&link("eth0")].clone();
        card.addresses = [(address.parse().unwrap(), 24)].into();
        card.metrics.clear();
        facts.links.insert(link(name), card);
    }
    let host = render(&plan, &facts);
    let devices = host.routes.values().filter_map(|route| match &route.kind {
        RouteKind::Unicast { dev, .. } => Some(dev.as_str()),
        RouteKind::Throw | RouteKind::Unreachable | RouteKind::Blackhole => None,
    });
    let devices: std::collections::BTreeSet<_> = devices.collect();
    assert_eq!(devices, ["eth0"].into(), "{host}");
}

#[test]
fn where_the_cnis_device_is_missing_a_follower_sends_nothing_through_the_lan() {
    let missing = Conflict::NoCniDevice { family: Family::V4 };
    let (plan, facts) = without_device(samples::follower());
    assert!(goes_nowhere(&plan, &facts));
    assert_eq!(conflicts(&plan, &facts), std::slice::from_ref(&missing));
    let (plan, facts) = without_device(samples::leader());
    assert_eq!(conflicts(&plan, &facts), std::slice::from_ref(&missing));
    let table = render(&plan, &facts).nft.unwrap().to_string();
    let rejects = "oifname != \"spanwire0\" ip daddr != @own4 counter reject with icmpx host-unreachable";
    assert!(table.contains(rejects), "{table}");
    // Nor where the whole location has lost its devices.
    let (plan, _) = samples::direct_follower();
    let (_, mut facts) = samples::follower();
    let mut inventory = Inventory {
        links: facts.links.clone(),
        cni: facts.cni.clone(),
        ..Inventory::default()
    };
    facts.handle_inventory(inventory.clone());
    inventory.links.remove(&link("flannel.1"));
    inventory.cni = Cni::Direct;
    facts.handle_inventory(inventory);
    assert!(goes_nowhere(&plan, &facts));
    assert_eq!(conflicts(&plan, &facts), [missing]);
    // host-gw: no node has such a device, or had one.
    let (plan, facts) = samples::direct_follower();
    assert!(!goes_nowhere(&plan, &facts));
    assert_eq!(conflicts(&plan, &facts), []);
}

#[test]
fn an_address_of_this_machine_that_a_node_reports_as_its_own_is_no_next_hop() {
    let (mut plan, facts) = samples::leader();
    let own = facts.links[&link("flannel.1")].addresses.iter().next().unwrap().0;
    let a3: Prefix = "192.168.1.3".parse().unwrap();
    plan.returns
        .insert(a3, samples::hop("a3", &[&own.to_string()], &["192.168.1.3"]));
    let host = render(&plan, &facts);
    let returns = host
        .routes
        .keys()
        .filter(|key| key.table == facts.owned.return_table);
    let returns: Vec<String> = returns.map(|key| key.prefix.to_string()).collect();
    assert_eq!(returns, ["192.168.1.2/32"], "{host}");
    assert_eq!(conflicts(&plan, &facts), [], "nothing is wrong with this machine");
}

#[test]
fn flannels_wireguard_is_refused_by_name() {
    for (plan, facts) in [by_wireguard(samples::follower()), by_wireguard(samples::leader())] {
        let texts: Vec<String> = conflicts(&plan, &facts).iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "the CNI carries pods by flannel-wg, which takes no packets from other locations; give flannel the back-end \
                 vxlan or host-gw (k3s: --flannel-backend)"
            ]
        );
        assert!(plan.tunnel.is_some() || goes_nowhere(&plan, &facts));
    }
}

#[test]
fn a_cni_that_has_taken_the_overlay_address_for_the_nodes_is_named_whatever_the_nodes_part() {
    let nodes = [
        (samples::leader(), "10.4.0.11"),
        // It led when the CNI looked for its address.
        (samples::follower(), "10.4.0.12"),
        (samples::standby(), "10.4.0.13"),
    ];
    for ((plan, mut facts), overlay) in nodes {
        let lan = facts.links[&link("eth0")].addresses.first().unwrap().0;
        let mut begins_at = |address: IpAddr| {
            let device = facts.links.get_mut(&link("flannel.1")).unwrap();
            device.tunnel_from = Some(address);
            conflicts(&plan, &facts)
        };
        assert_eq!(begins_at(lan), []);
        // Of another node: that is some other fault.
        assert_eq!(begins_at("10.4.0.21".parse().unwrap()), []);
        let found = begins_at(overlay.parse().unwrap());
        let texts: Vec<String> = found.iter().map(ToString::to_string).collect();
        let [text] = &texts[..] else {
            panic!("{overlay}: {texts:?}");
        };
        for part in ["flannel.1", overlay, "IP_AUTODETECTION_METHOD", "--flannel-iface"] {
            assert!(text.contains(part), "{text}");
        }
    }
}

#[test]
fn the_device_of_the_hop_is_known_where_it_is_one_alone() {
    let of = |(plan, facts): (Plan, HostFacts), family| hop_device(&plan, &facts, family);
    for node in [
        samples::leader(),
        samples::standby(),
        samples::settled_follower(),
        samples::dual_stack(),
    ] {
        assert_eq!(of(node, Family::V4), Some(link("flannel.1")));
    }
    assert_eq!(of(samples::dual_stack(), Family::V6), Some(link("flannel-v6.1")));
    assert_eq!(of(samples::direct_follower(), Family::V4), Some(link("eth0")));
    assert_eq!(
        of(samples::vxlan::follower(), Family::V4),
        Some(link("spanwire-hop"))
    );
    let (plan, mut facts) = samples::leader();
    let second = facts.links[&link("flannel.1")].clone();
    facts.links.insert(link("flannel.2"), second);
    facts.cni = Cni::Overlay {
        links: [link("flannel.1"), link("flannel.2")].into(),
    };
    assert_eq!(of((plan, facts), Family::V4), None);
}
