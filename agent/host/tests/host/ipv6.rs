//! IPv6 where it is wanted and not elsewhere, and nothing of it where a machine has none.

use spanwire_host::{Conflict, Host, HostFacts, RouteKind, Step, Sysctl, conflicts, diff, render};
use spanwire_topology::{Family, Holder, LeaderRole, Plan, Prefix, Role, Route};

use crate::samples::{self, addresses, hop, link, location, node, prefix, prefixes, without_ipv6};

/// What of IPv6 a machine is given, a line for each thing.
fn ipv6(host: &Host) -> Vec<String> {
    let text = host.to_string();
    let of = |line: &&str| {
        let words: Vec<&str> = line.split([' ', ',', '{', '}']).collect();
        let is = |word: &&str| {
            word.parse::<Prefix>()
                .is_ok_and(|prefix| prefix.family() == Family::V6)
        };
        let named = words.contains(&"ip6") || words.contains(&"-6") || line.contains("net/ipv6");
        named || words.iter().any(is)
    };
    text.lines().filter(of).map(str::to_owned).collect()
}

/// Adds remote prefixes to a plan, all by way of one.
fn with_remote(plan: &mut Plan, texts: &[&str], via: &spanwire_topology::Via) {
    for prefix in prefixes(texts) {
        let (via, location) = (via.clone(), location("b"));
        plan.routes.insert(
            prefix,
            Route {
                via,
                location,
                holder: Holder::Others,
            },
        );
    }
}

fn forwarding(host: &Host) -> Option<&str> {
    host.sysctls.get(&Sysctl::ipv6_forwarding()).map(String::as_str)
}

#[test]
fn without_ipv6_prefixes_nothing_of_ipv6_is_done_and_none_is_missed() {
    for (name, (plan, facts)) in samples::all() {
        if plan
            .own
            .iter()
            .chain(plan.routes.keys())
            .chain(plan.unsent.barred.keys())
            .any(|prefix| prefix.family() == Family::V6)
        {
            continue;
        }
        let before = conflicts(&plan, &facts);
        for (plan, facts) in [(plan.clone(), facts.clone()), without_ipv6((plan, facts))] {
            assert_eq!(ipv6(&render(&plan, &facts)), [] as [&str; 0], "{name}");
            assert_eq!(conflicts(&plan, &facts), before, "{name}");
        }
    }
}

#[test]
fn a_machine_without_ipv6_is_asked_for_nothing_of_it_and_says_so_once() {
    for (name, sample) in [
        ("leader", samples::dual_stack()),
        ("follower", samples::dual_stack_follower()),
    ] {
        assert_ne!(ipv6(&render(&sample.0, &sample.1)), [] as [&str; 0], "{name}");
        let (plan, facts) = without_ipv6(sample);
        let host = render(&plan, &facts);
        assert_eq!(ipv6(&host), [] as [&str; 0], "{name}");
        assert!(
            host.routes
                .keys()
                .any(|key| key.prefix == prefix("10.244.21.0/24")),
            "{name}"
        );
        assert_eq!(
            conflicts(&plan, &facts),
            [Conflict::Ipv6Disabled { everywhere: true }],
            "{name}"
        );
        // Should it be switched on nothing leaves past the mesh before the agent has seen that.
        let (plan, facts) = samples::settled((plan, facts));
        let barred = barred(&plan, &facts);
        assert!(
            barred.contains(&"fd00:244:21::/64".to_owned()),
            "{name}: {barred:?}"
        );
    }
}

/// Hardened hosts often set `default` alone: then the machine has IPv6, and what it sends must not leave in plaintext.
#[test]
fn where_only_new_devices_lack_ipv6_remote_prefixes_are_unreachable() {
    let (plan, mut facts) = samples::dual_stack();
    facts.ipv6_disabled = true;
    let host = render(&plan, &facts);
    assert_eq!(
        conflicts(&plan, &facts),
        [Conflict::Ipv6Disabled { everywhere: false }]
    );
    let addresses = host.devices.values().flat_map(|device| &device.addresses);
    let peers = host.wireguard(&facts.owned.link).unwrap().peers.values();
    let inside = addresses.chain(peers.flat_map(|peer| peer.allowed_ips.iter()));
    assert!(
        inside.map(Prefix::family).all(|family| family == Family::V4),
        "{host}"
    );
    let table = facts.owned.table;
    let v6 = host
        .routes
        .iter()
        .filter(|(key, _)| key.table == table && key.prefix.family() == Family::V6);
    let kinds: Vec<&RouteKind> = v6.map(|(_, route)| &route.kind).collect();
    assert_eq!(kinds, [&RouteKind::Unreachable; 5]);
    assert!(host.rules.iter().any(|rule| rule.family == Family::V6));
}

/// Seen with three nodes in a location: leaders have IPv6 overlay addresses because another location has IPv6.
#[test]
fn a_node_without_ipv6_addresses_needs_no_way_to_ipv6_prefixes() {
    let (mut plan, facts) = samples::follower();
    let leader = hop("a1", &["10.244.11.0"], &["192.168.1.1"]);
    with_remote(&mut plan, &["fd00:4::21", "fd00:244:21::/64"], &leader);
    plan.own.insert(prefix("fd00:4::12"));
    let open = facts.clone();
    for (plan, facts) in [(plan.clone(), facts.clone()), without_ipv6((plan.clone(), facts))] {
        assert_eq!(conflicts(&plan, &facts), []);
        assert_eq!(ipv6(&render(&plan, &facts)), [] as [&str; 0]);
    }
    // And past the mesh nothing goes there once the locations are established.
    let (plan, facts) = samples::settled((plan, open));
    assert_eq!(conflicts(&plan, &facts), []);
    assert_eq!(barred(&plan, &facts), ["fd00:4::21", "fd00:244:21::/64"]);
}

/// Returns what nothing of a family may be sent to.
fn barred(plan: &Plan, facts: &HostFacts) -> Vec<String> {
    let table = render(plan, facts).nft.unwrap();
    let set = table.sets.iter().find(|set| set.name() == "barred6");
    let is_used = table.chains.contains("ip6 daddr @barred6 jump strayed");
    assert_eq!(set.is_some(), is_used, "{table}");
    let ranges = set.into_iter().flat_map(|set| set.ranges());
    ranges.map(ToString::to_string).collect()
}

/// It may have an address all the same that the mesh does not know, and a way there in the open.
#[test]
fn what_established_locations_have_of_a_family_that_a_node_lacks_is_not_reached_past_the_mesh() {
    let (plan, mut facts) = samples::other_family();
    // Networks of its LAN stay there, and nodes elsewhere of whose addresses the machine may need the neighbour's or resolver's.
    let all = [
        "fd00:1:0:1::-fd00:1:0:ffff:ffff:ffff:ffff:ffff",
        "fd00:2::21",
        "fd00:5::1:0/112",
        "fd00:244:21::-fd00:244:21::11",
        "fd00:244:21::13-fd00:244:21:0:ffff:ffff:ffff:ffff",
    ];
    assert_eq!(barred(&plan, &facts), all);
    let host = render(&plan, &facts);
    let rules = host.rules.iter().map(|rule| rule.family);
    let routes = host.routes.keys().map(|key| key.prefix.family());
    assert!(rules.chain(routes).all(|family| family == Family::V4), "{host}");
    assert_eq!(conflicts(&plan, &facts), []);
    let chains = host.nft.unwrap().chains;
    let past = "ip6 daddr fd00:244:21::1 tcp dport 6443 return";
    assert!(
        chains.contains(past),
        "the API server is reached past the mesh: {chains}"
    );

    // And answers where it is on this machine, at an address that the mesh does not know.
    facts.api_server = [std::net::SocketAddr::new("fd00:1::2".parse().unwrap(), 6443)].into();
    let host = render(&plan, &facts);
    let chains = host.nft.unwrap().chains;
    let past = "ip6 saddr fd00:1::2 tcp sport 6443 return";
    assert!(chains.contains(past), "{chains}");
    assert!(host.rules.iter().all(|rule| rule.family == Family::V4));

    facts.settled.clear();
    assert_eq!(
        barred(&plan, &facts),
        [] as [&str; 0],
        "not every node may have followed"
    );

    // A rule that asks no device stands before any can have packets of it.
    let (plan, facts) = without_ipv6((plan, samples::other_family().1));
    let without = barred(&plan, &facts);
    assert!(
        without.contains(&"fd00:244:21::13-fd00:244:21:0:ffff:ffff:ffff:ffff".to_owned()),
        "{without:?}"
    );
    let of_table = |line: &String| {
        line.contains("barred6") || line.contains("dport 6443") || line.starts_with("\t\t\tfd00:")
    };
    let other: Vec<String> = ipv6(&render(&plan, &facts))
        .into_iter()
        .filter(|line| !of_table(line))
        .collect();
    assert_eq!(other, [] as [&str; 0]);
    assert_eq!(conflicts(&plan, &facts), []);
}

/// A leader that has only an overlay address of the family sends it by its tunnels, and where there is no leader to send to nowhere.
#[test]
fn what_no_leader_carries_is_barred_where_a_leader_has_no_other_part_in_its_family() {
    let (mut plan, mut facts) = samples::settled_leader();
    with_remote(&mut plan, &["fd00:244:21::/64"], &spanwire_topology::Via::Tunnel);
    with_remote(
        &mut plan,
        &["fd00:244:22::/64"],
        &spanwire_topology::Via::Unreachable,
    );
    let tunnel = plan.tunnel.as_mut().unwrap();
    tunnel.addresses.extend(addresses(&["fd00:4::11"]));
    assert_eq!(barred(&plan, &facts), ["fd00:244:22::/64"]);
    facts.settled.clear();
    assert_eq!(barred(&plan, &facts), [] as [&str; 0]);
}

#[test]
fn the_family_without_a_way_is_named() {
    let (mut plan, facts) = samples::dual_stack_follower();
    let v4_only = hop("a1", &["10.244.11.0"], &["192.168.1.1", "fd00:1::1"]);
    plan.routes
        .values_mut()
        .for_each(|route| route.via = v4_only.clone());
    let conflicts = conflicts(&plan, &facts);
    let (node, family) = (node("a1"), Family::V6);
    assert_eq!(conflicts, [Conflict::NoHop { node, family }]);
    let text = conflicts[0].to_string();
    assert!(
        text.starts_with("no IPv6 way to a1, which leads here: it has reported no IPv6 address"),
        "{text}"
    );
}

/// A node address that is not in the mesh itself, in a network of the location that is.
#[test]
fn an_address_in_a_network_of_the_location_needs_a_way() {
    let (mut plan, mut facts) = samples::follower();
    with_remote(
        &mut plan,
        &["fd00:244:21::/64"],
        &hop("a1", &["10.244.11.0"], &["192.168.1.1"]),
    );
    plan.local.insert(prefix("fd00:1::/64"));
    assert_eq!(conflicts(&plan, &facts), []);
    let eth0 = facts.links.get_mut(&link("eth0")).unwrap();
    eth0.addresses.insert(("fd00:1::2".parse().unwrap(), 64));
    let (node, family) = (node("a1"), Family::V6);
    assert_eq!(conflicts(&plan, &facts), [Conflict::NoHop { node, family }]);
}

#[test]
fn ipv6_is_forwarded_by_leaders_where_ipv6_is_routed() {
    let forwards = |(plan, facts): &(Plan, HostFacts)| forwarding(&render(plan, facts)).map(str::to_owned);
    assert_eq!(forwards(&samples::dual_stack()).as_deref(), Some("1"));
    assert_eq!(forwards(&samples::dual_stack_follower()), None);
    assert_eq!(forwards(&samples::leader()), None);

    // Between leaders alone: an IPv6 pool for overlay addresses in an IPv4 cluster.
    let (mut plan, facts) = samples::leader();
    with_remote(&mut plan, &["fd00:4::21"], &spanwire_topology::Via::Tunnel);
    let tunnel = plan.tunnel.as_mut().unwrap();
    tunnel.addresses = addresses(&["fd00:4::11"]);
    let peer = tunnel.peers.values_mut().next().unwrap();
    peer.overlay = addresses(&["fd00:4::21"]);
    let host = render(&plan, &facts);
    assert!(host.routes.keys().any(|key| key.prefix == prefix("fd00:4::21")));
    assert_eq!(forwarding(&host), None);
    // What the far side has is nothing to forward to for a location without IPv6.
    with_remote(&mut plan, &["fd00:244:21::/64"], &spanwire_topology::Via::Tunnel);
    assert_eq!(forwarding(&render(&plan, &facts)), None);
    plan.role = Role::Leader(LeaderRole::Active);
    plan.local.insert(prefix("fd00:244:12::/64"));
    assert_eq!(forwarding(&render(&plan, &facts)), Some("1"));
}

#[test]
fn who_heeds_router_advertisements_goes_on_to_do_so_and_before_ipv6_is_forwarded() {
    let (plan, mut facts) = samples::dual_stack();
    let heeds = |name: &str, facts: &mut HostFacts| {
        facts.links.get_mut(&link(name)).unwrap().advertisements = true;
    };
    let other = facts.links[&link("eth0")].clone();
    facts.links.insert(link("eth1"), other);
    heeds("eth0", &mut facts);
    heeds("cni0", &mut facts);
    let accept = |name: &str| Sysctl(format!("net/ipv6/conf/{name}/accept_ra"));
    let host = render(&plan, &facts);
    let set: Vec<(&Sysctl, &String)> = host
        .sysctls
        .iter()
        .filter(|(name, _)| name.0.ends_with("accept_ra"))
        .collect();
    assert_eq!(set, [(&accept("eth0"), &"2".to_owned())]);

    let steps = diff(&Host::default(), &host);
    let place = |wanted: &Sysctl| {
        let is = |step: &Step| matches!(step, Step::SetSysctl(name, _) if name == wanted);
        steps.iter().position(is).unwrap()
    };
    assert!(place(&accept("eth0")) < place(&Sysctl::ipv6_forwarding()));

    // What forwarded before Spanwire came was deaf already.
    facts.ipv6_forwarded = true;
    assert!(!render(&plan, &facts).sysctls.contains_key(&accept("eth0")));
    let (plan, _) = samples::leader();
    facts.ipv6_forwarded = false;
    assert!(!render(&plan, &facts).sysctls.contains_key(&accept("eth0")));
}

#[test]
fn leaders_whose_overlay_is_ipv6_alone_cannot_do_without() {
    let (mut plan, facts) = samples::leader();
    plan.tunnel.as_mut().unwrap().addresses = addresses(&["fd00:4::11"]);
    let (plan, facts) = without_ipv6((plan, facts));
    assert_eq!(
        conflicts(&plan, &facts),
        [Conflict::Ipv6Disabled { everywhere: true }]
    );
    let text = render(&plan, &facts).nft.unwrap().to_string();
    assert!(!text.contains("ip6"), "{text}");
}
