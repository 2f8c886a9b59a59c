use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use spanwire_topology::{Family, Holder, LeaderRole, LocationName, Party, Plan, Prefix, Role, Via};

use super::device::{tunnel_mtu, within};
use crate::{
    HostFacts, LinkName, Owned, Route, RouteKey, RouteKind, Rule, RuleAction, RuleSelector, marking,
    overtaking::{MAIN, captured, first_priority},
    prefixes::Prefixes,
    resolve::{Exempt, NextHop, Resolved, ResolvedRoute, Underlay, own_overlay},
};

/// The metric of routes that carry packets.
const METRIC: u32 = 100;
/// The metric of the `unreachable` behind each: packets for a prefix whose device is gone end here, and never fall
/// through to the CNI's plaintext route across the internet.
const LAST_METRIC: u32 = 4096;
/// IP protocol number of TCP (RFC 9293).
const TCP: u8 = 6;
/// IP protocol number of UDP (RFC 768).
const UDP: u8 = 17;

/// Places in the band of rule priorities.
const EXEMPT: u32 = 0;
const DATAGRAMS: u32 = 1;
const DATAGRAMS_ON: u32 = 2;
const MOVING: u32 = 3;
const RETURNS: u32 = 4;
const OWN: u32 = 6;
const BROUGHT: u32 = 7;
const TABLE: u32 = 8;
const LANDING: u32 = 15;

/// Returns the routes of both tables.
pub(super) fn routes(plan: &Plan, resolved: &Resolved<'_>, facts: &HostFacts) -> BTreeMap<RouteKey, Route> {
    let key = |table, prefix: &Prefix, metric| RouteKey {
        table,
        prefix: *prefix,
        metric,
    };
    let bare = |kind| Route { kind, mtu: None };
    let mtus = Mtus::new(plan, resolved, facts);
    let owned = &facts.owned;
    let tunnelled = tunnelled(plan, facts);

    // In order as far as possible, since a map of what is sorted is made much faster.
    let mut table = Vec::with_capacity(2 * resolved.remote.len() + resolved.throws.len());
    let mut return_table = Vec::new();
    for (prefix, route) in &resolved.remote {
        let last = bare(last(route.holder));
        let mut route = route;
        let is_tunnelled = tunnelled.binary_search(prefix).is_ok();
        let is_overlay = route.holder == Holder::Overlay;
        if (facts.lacks_tunnel && (is_tunnelled || is_overlay))
            || (is_overlay && withholds(plan, facts, route))
        {
            // What a hop brought goes no further: the leader that it would go to may lack its tunnel, too.
            return_table.push((key(owned.return_table, prefix, LAST_METRIC), last.clone()));
        } else if is_tunnelled && route.next_hop != Some(NextHop::Tunnel) {
            let through = RouteKind::Unicast {
                dev: owned.link.clone(),
                via: None,
                onlink: false,
                src: None,
            };
            return_table.push((key(owned.return_table, prefix, METRIC), bare(through)));
        }
        if own_sources_only(plan, route) {
            if let Some(route) = unicast(route, facts, None) {
                return_table.push((key(owned.return_table, prefix, METRIC), route));
            }
            match resolved.hop(prefix.family()) {
                Some(hop) => route = hop,
                None => continue,
            }
        }
        if let Some(route) = unicast(route, facts, Some(&mtus)) {
            table.push((key(owned.table, prefix, METRIC), route));
        }
        table.push((key(owned.table, prefix, LAST_METRIC), last));
    }
    for (prefix, held) in &resolved.held {
        let here = RouteKind::Unicast {
            dev: held.link.clone(),
            via: None,
            onlink: false,
            src: Some(held.address),
        };
        // In front of the CNI's own route to a prefix of that name.
        table.push((key(owned.table, prefix, METRIC), bare(here)));
        table.push((
            key(owned.table, prefix, LAST_METRIC),
            bare(RouteKind::Unreachable),
        ));
    }
    for prefix in &resolved.throws {
        table.push((key(owned.table, prefix, METRIC), bare(RouteKind::Throw)));
        if !tunnelled.is_empty() {
            return_table.push((key(owned.return_table, prefix, METRIC), bare(RouteKind::Throw)));
        }
    }
    for prefix in borrowed(resolved) {
        let key = key(owned.return_table, prefix, METRIC);
        if tunnelled.binary_search(prefix).is_err() {
            return_table.push((key, bare(RouteKind::Throw)));
        }
    }
    for (prefix, next_hop) in &resolved.returns {
        let route = route_through(next_hop, None, facts);
        return_table.push((key(owned.return_table, prefix, METRIC), route));
    }
    table.into_iter().chain(return_table).collect()
}

/// Returns what other locations have of prefixes of other nodes of this one: no hop brings that to who has it.
fn borrowed<'r>(resolved: &'r Resolved<'_>) -> impl Iterator<Item = &'r Prefix> {
    let wide = resolved.returns.iter().map(|(prefix, _)| *prefix);
    let wide: Prefixes = wide.filter(|prefix| !prefix.is_host()).collect();
    let hosts = resolved.remote.iter().map(|(prefix, _)| prefix);
    hosts.filter(move |prefix| prefix.is_host() && wide.around(prefix).is_some())
}

/// Returns what becomes of packets that nothing carries. Of overlay addresses only the echo requests by which agents look for a way
/// are for long, and they are many: answers to them would use up what may be sent to a node in a second
/// (`net.ipv4.icmp_ratelimit`, icmp(7)), and its pods would not hear that nothing is reached.
fn last(holder: Holder) -> RouteKind {
    match holder {
        Holder::Overlay => RouteKind::Blackhole,
        Holder::Node | Holder::Others => RouteKind::Unreachable,
    }
}

/// Of a standby leader not every WireGuard accepts more than its own overlay address: only what it sends from there goes
/// into its tunnels, the rest through the active leader, unless it has chosen its own tunnels.
pub(super) fn own_sources_only(plan: &Plan, route: &ResolvedRoute<'_>) -> bool {
    plan.role == Role::Leader(LeaderRole::Standby)
        && route.next_hop == Some(NextHop::Tunnel)
        && plan.ways.get(route.location) != Some(&Via::Tunnel)
}

/// Whether what a hop brought for some location goes into the own tunnels though what begins here goes by a hop: the
/// sender has chosen this node, and the other leader may not know yet that it is to carry it, and send it back. The far
/// side accepts it as the group's, if its WireGuard has groups as this node's has.
fn stands_in(plan: &Plan, facts: &HostFacts) -> bool {
    let takes_on = |location| plan.takes_on(location, facts.groups);
    facts.public_key.is_some() && plan.ways.keys().any(takes_on)
}

/// Whether the own tunnels are about to end, and another leader takes what begins here. Of a standby leader the overlay address alone
/// goes into its tunnels anyway.
fn drains(plan: &Plan, facts: &HostFacts) -> bool {
    facts.draining && plan.role == Role::Leader(LeaderRole::Active) && stands_in(plan, facts)
}

/// Whether the echo requests by which others look for a way to a location get no answer here: the tunnels are about to end, another
/// leader takes what begins here, and the senders are to find that one, too. All else goes on.
fn withholds(plan: &Plan, facts: &HostFacts, route: &ResolvedRoute<'_>) -> bool {
    drains(plan, facts) && plan.takes_on(route.location, facts.groups)
}

/// Returns what goes into the own tunnels when a hop brought it, besides what goes there anyway; in order.
fn tunnelled(plan: &Plan, facts: &HostFacts) -> Vec<Prefix> {
    let tunnel = plan.tunnel.iter().filter(|_| stands_in(plan, facts));
    let peers = tunnel.flat_map(|tunnel| tunnel.peers.values());
    let takes_on = |party: &Party| match party {
        Party::Leader(location, _) => plan.takes_on(location, facts.groups),
        Party::Peer(_) => false,
    };
    let peers = peers.filter(|peer| takes_on(&peer.party));
    let allowed = peers.flat_map(|peer| peer.allowed_ips.iter().copied());
    let mut prefixes: Vec<Prefix> = allowed.filter(|prefix| facts.tunnels(prefix.family())).collect();
    prefixes.sort();
    prefixes
}

/// Returns the route to a remote prefix, where anything carries it. Without the device it is not to be had: where one by a hop
/// is from before, it would stay.
fn unicast(route: &ResolvedRoute<'_>, facts: &HostFacts, mtus: Option<&Mtus<'_>>) -> Option<Route> {
    let is_there = |next_hop: &&NextHop| **next_hop != NextHop::Tunnel || !facts.lacks_tunnel;
    let next_hop = route.next_hop.as_ref().filter(is_there)?;
    let mut found = route_through(next_hop, route.source, facts);
    found.mtu = mtus.and_then(|mtus| mtus.of(route, &found.kind, facts));
    Some(found)
}

/// The largest packets.
struct Mtus<'a> {
    /// In the own tunnel, or in that of a leader here.
    tunnel: u32,
    /// The same on the ways to locations of which a leader takes less.
    smaller: BTreeMap<&'a LocationName, u32>,
    /// In the VXLAN, where there is one.
    hop: Option<u32>,
    /// In the own device of the tunnel.
    device: u32,
}

impl<'a> Mtus<'a> {
    /// A datagram that is larger than a network on its way takes would be sent in fragments, of which many networks take none: so what
    /// is sent fits through the leaders of both locations, as far as these have said what theirs take.
    fn new(plan: &'a Plan, resolved: &Resolved<'_>, facts: &HostFacts) -> Self {
        let v6_inside = resolved.uses(Family::V6);
        let device = tunnel_mtu(facts, v6_inside);
        let inside = |underlay: u16| within(underlay.into(), facts, v6_inside);
        let here = plan.location.as_ref().and_then(|here| plan.mtus.get(here));
        let tunnel = here.map_or(device, |underlay| inside(*underlay).min(device));
        let there = plan
            .mtus
            .iter()
            .map(|(location, underlay)| (location, inside(*underlay)));
        Self {
            tunnel,
            smaller: there.filter(|(_, mtu)| *mtu < tunnel).collect(),
            hop: resolved.underlay.as_ref().map(Underlay::mtu),
            device,
        }
    }

    /// Returns the MTU of a route, where its device takes more: connections of this node, and those whose first packet it forwards, fit
    /// the tunnel from then on.
    fn of(&self, route: &ResolvedRoute<'_>, kind: &RouteKind, facts: &HostFacts) -> Option<u32> {
        let RouteKind::Unicast { dev, .. } = kind else {
            return None;
        };
        let mtu = self.smaller.get(route.location).copied().unwrap_or(self.tunnel);
        let device = if *dev == facts.owned.hop_link {
            self.hop
        } else if *dev == facts.owned.link {
            Some(self.device)
        } else {
            facts.links.get(dev).map(|link| link.mtu)
        };
        device.is_some_and(|device| device > mtu).then_some(mtu)
    }
}

/// Returns the route through a next hop.
fn route_through(next_hop: &NextHop, src: Option<IpAddr>, facts: &HostFacts) -> Route {
    let (dev, via, onlink) = match next_hop {
        NextHop::Tunnel => (&facts.owned.link, None, false),
        NextHop::Overlay(link, via) => (link, Some(*via), true),
        NextHop::Lan(link, via) => {
            let other = facts.links.get(link);
            let connected = other.is_some_and(|other| other.networks().any(|network| network.contains(*via)));
            (link, Some(*via), !connected)
        }
    };
    let dev = dev.clone();
    let kind = RouteKind::Unicast {
        dev,
        via,
        onlink,
        src,
    };
    Route { kind, mtu: None }
}

/// Selects what arrived by a device and is not masqueraded. What is goes the way of `main` or of what this node sends: over
/// the CNI's device it would get that device's address, and a wildcard UDP socket answers that from its own.
///
/// Where the kernel verifies the source of a packet it looks for the way back as if the answer came in by the device that the
/// packet will leave by (`__fib_validate_source`, net/ipv4/fib_frontend.c). With a mark on all packets of a masqueraded
/// connection, which `marks` of the nft table sees to, that is the way of `main` too.
fn arrived(by: &LinkName, owned: &Owned) -> RuleSelector {
    RuleSelector {
        iif: Some(by.clone()),
        mark: Some((0, owned.masquerade_mark, false)),
        ..RuleSelector::default()
    }
}

/// Returns the rules, of the families in which something is routed: a kernel without IPv6 refuses IPv6 rules.
pub(super) fn rules(plan: &Plan, resolved: &Resolved<'_>, facts: &HostFacts) -> BTreeSet<Rule> {
    let owned = &facts.owned;
    let (first, _) = first_priority(plan, resolved, facts);
    let rule = |family, place, selector, action| Rule {
        family,
        priority: first + place,
        selector,
        action,
    };
    let mut rules = BTreeSet::new();
    for family in [Family::V4, Family::V6] {
        if !resolved.uses(family) {
            continue;
        }
        let all = RuleSelector::default();
        rules.insert(rule(family, TABLE, all, RuleAction::Lookup(owned.table)));
        let on = RuleAction::Goto(first + LANDING);
        for (place, selector, action) in past(plan, resolved, facts, (family, on)) {
            rules.insert(rule(family, place, selector, action));
            rules.insert(rule(family, LANDING, RuleSelector::default(), RuleAction::Nop));
        }
        if resolved
            .returns
            .iter()
            .any(|(prefix, _)| prefix.family() == family)
        {
            let lookup = RuleAction::Lookup(owned.return_table);
            rules.insert(rule(family, RETURNS, arrived(&owned.link, owned), lookup));
        }
        // What a leader asks from there is to show whether its own tunnels work, whatever way the rest takes.
        let by_hop = plan.role == Role::Leader(LeaderRole::Standby) || stands_in(plan, facts);
        // What a leader that drains says from there passes by the routes that withhold answers.
        let by_hop = by_hop && facts.tunnels(family) && !drains(plan, facts);
        for overlay in own_overlay(plan, family).into_iter().filter(|_| by_hop) {
            let from_overlay = RuleSelector {
                from: Some(Prefix::host(overlay)),
                ..RuleSelector::default()
            };
            let lookup = RuleAction::Lookup(owned.return_table);
            rules.insert(rule(family, OWN, from_overlay, lookup));
        }
        // What a leader that does not reach a node hands on goes to it as from the tunnel.
        let hands_on = resolved.underlay.is_some() && plan.role == Role::Leader(LeaderRole::Active);
        let is_asked = facts.lacks_tunnel || stands_in(plan, facts) || hands_on;
        for hop in resolved.hops.iter().filter(|_| is_asked) {
            let lookup = RuleAction::Lookup(owned.return_table);
            rules.insert(rule(family, BROUGHT, arrived(hop, owned), lookup));
        }
    }
    // Where nothing is routed there is nothing that it would have to get past.
    let uses = |exempt: &&Exempt| resolved.uses(Family::of(exempt.address.ip()));
    for exempt in resolved.exempt.iter().filter(uses) {
        let host = Some(Prefix::host(exempt.address.ip()));
        let port = Some(exempt.address.port());
        let protocol = Some(TCP);
        let selector = if exempt.served_here {
            RuleSelector {
                from: host,
                sport: port,
                protocol,
                ..RuleSelector::default()
            }
        } else {
            RuleSelector {
                to: host,
                dport: port,
                protocol,
                ..RuleSelector::default()
            }
        };
        let family = Family::of(exempt.address.ip());
        rules.insert(rule(family, EXEMPT, selector, RuleAction::Goto(first + LANDING)));
        rules.insert(rule(family, LANDING, RuleSelector::default(), RuleAction::Nop));
    }
    rules
}

/// Returns which packets of a family go past the mesh, apart from those of the API server.
///
/// Others set marks, too, of which one bit may be that of the tunnel, so theirs must be exactly that mark:
///
/// * what this machine sends: the tunnel's own datagrams, and the look-up of the way back by which Linux checks the
///   source of those that arrive (`fib_validate_source`), which is asked as if the machine sent it. Protocol and port are not
///   asked for: of a way back Linux knows them only where it has looked into every packet (`fib_rules_early_flow_dissect`),
///   and the nft table does ask for them. They take `main`, or whatever the rules of this machine say, where it has several
///   uplinks; where a VPN is to take everything they take `main` first, since the tunnel is not to end with the VPN;
/// * where rules of others choose by marks, or others change marks, the tunnel's own datagrams whatever mark they have: others
///   set it in `output`, in bits of which one may be Spanwire's, or all of it, after which Linux routes a packet once more (`ip_route_me_harder`). Protocol and
///   port are known then, and of a way back, if a rule asks for them that is not for what the machine sends
///   (`fib_rule_requires_fldissect`, include/net/fib_rules.h), even one that does nothing;
/// * while traffic moves into the mesh, what comes from there and is not in it yet, for the same check.
fn past(
    plan: &Plan,
    resolved: &Resolved<'_>,
    facts: &HostFacts,
    (family, on): (Family, RuleAction),
) -> Vec<(u32, RuleSelector, RuleAction)> {
    let exactly = || RuleSelector {
        // On what kube-proxy masquerades its bit comes to it.
        mark: Some((facts.owned.mark, !facts.owned.masquerade_mark, false)),
        ..RuleSelector::default()
    };
    let mut past = Vec::new();
    if let Some(tunnel) = plan.tunnel.as_ref().filter(|_| facts.public_key.is_some()) {
        let sent_here = |selector| RuleSelector {
            iif: LinkName::new("lo"),
            ..selector
        };
        let by_port = RuleSelector {
            protocol: Some(UDP),
            sport: Some(tunnel.listen_port),
            ..RuleSelector::default()
        };
        let by_port = marking::is_unsure(plan, facts, family).then_some(by_port);
        past.extend(
            by_port
                .clone()
                .map(|selector| (LANDING, selector, RuleAction::Nop)),
        );
        for selector in [exactly()].into_iter().chain(by_port).map(sent_here) {
            if captured(facts, family) {
                past.push((DATAGRAMS, selector.clone(), RuleAction::Lookup(MAIN)));
            }
            past.push((DATAGRAMS_ON, selector, on.clone()));
        }
    }
    if resolved.moves(plan, facts, family) {
        past.push((MOVING, exactly(), on));
    }
    past
}
