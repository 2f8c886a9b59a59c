use std::collections::{BTreeMap, BTreeSet};

use spanwire_topology::{Family, LeaderRole, Plan, Prefix, Role};

use super::{
    Path, Paths,
    link::tunnel_mtu,
    paths::{Way, exempt, own_overlay},
};
use crate::{HostFacts, Route, RouteKey, RouteKind, Rule, RuleAction, RuleSelector};

/// The metric of routes that carry packets.
const METRIC: u32 = 100;
/// The metric of the `unreachable` behind each: packets for a prefix whose device is gone end here, and never fall
/// through to the CNI's plaintext route across the internet.
const LAST_METRIC: u32 = 4096;
/// IP protocol number of TCP (RFC 9293).
const TCP: u8 = 6;

/// Places in the band of rule priorities.
const EXEMPT: u32 = 0;
const RETURNS: u32 = 4;
const OWN: u32 = 6;
const BROUGHT: u32 = 7;
const TABLE: u32 = 8;
const LANDING: u32 = 15;

pub(super) fn routes(plan: &Plan, paths: &Paths, facts: &HostFacts) -> BTreeMap<RouteKey, Route> {
    let key = |table, prefix: &Prefix, metric| RouteKey {
        table,
        prefix: *prefix,
        metric,
    };
    let bare = |kind| Route { kind, mtu: None };
    let mtu = tunnel_mtu(facts, paths.uses(Family::V6));
    let owned = &facts.owned;
    let tunnelled = tunnelled(plan, facts);

    let mut routes = BTreeMap::new();
    for (prefix, path) in &paths.remote {
        let mut path = path;
        if path.way != Some(Way::Tunnel) && tunnelled.contains(prefix) {
            let through = RouteKind::Unicast {
                dev: owned.link.clone(),
                via: None,
                onlink: false,
                src: None,
            };
            routes.insert(key(owned.return_table, prefix, METRIC), bare(through));
        }
        if own_sources_only(plan, path) {
            if let Some(route) = unicast(path, facts, None) {
                routes.insert(key(owned.return_table, prefix, METRIC), route);
            }
            match paths.hop(prefix.family()) {
                Some(hop) => path = hop,
                None => continue,
            }
        }
        routes.insert(
            key(owned.table, prefix, LAST_METRIC),
            bare(RouteKind::Unreachable),
        );
        if let Some(route) = unicast(path, facts, Some(mtu)) {
            routes.insert(key(owned.table, prefix, METRIC), route);
        }
    }
    for prefix in &paths.throws {
        routes.insert(key(owned.table, prefix, METRIC), bare(RouteKind::Throw));
        if !tunnelled.is_empty() {
            routes.insert(key(owned.return_table, prefix, METRIC), bare(RouteKind::Throw));
        }
    }
    for (prefix, path) in &paths.returns {
        if let Some(route) = unicast(path, facts, None) {
            routes.insert(key(owned.return_table, prefix, METRIC), route);
        }
    }
    routes
}

/// Of a standby leader not every WireGuard accepts more than its own overlay address: only what it sends from there goes
/// into its tunnels, the rest through the active leader.
fn own_sources_only(plan: &Plan, path: &Path) -> bool {
    plan.role == Role::Leader(LeaderRole::Standby) && path.way == Some(Way::Tunnel)
}

/// Whether what a hop brought goes into the own tunnels though another leader is the active one: who sent it takes this
/// node for that, and the other one may not know yet that it is to lead, and send it back. The far side accepts it as the
/// group's, if its WireGuard has groups as this node's has.
fn stands_in(plan: &Plan, facts: &HostFacts) -> bool {
    let leads = plan.tunnel.is_some() && facts.public_key.is_some();
    plan.role == Role::Leader(LeaderRole::Standby) && leads && facts.groups
}

/// What goes into the own tunnels when a hop brought it, besides what goes there anyway.
fn tunnelled(plan: &Plan, facts: &HostFacts) -> BTreeSet<Prefix> {
    let tunnel = plan.tunnel.iter().filter(|_| stands_in(plan, facts));
    let peers = tunnel.flat_map(|tunnel| tunnel.peers.values());
    peers.flat_map(|peer| peer.allowed_ips.iter().copied()).collect()
}

/// The route along a path. `tunnel_mtu` makes a follower's own connections fit the tunnel from their first packet.
fn unicast(path: &Path, facts: &HostFacts, tunnel_mtu: Option<u32>) -> Option<Route> {
    let (dev, via, onlink) = match path.way.as_ref()? {
        Way::Tunnel => (facts.owned.link.clone(), None, false),
        Way::Overlay(link, via) => (link.clone(), Some(*via), true),
        Way::Lan(link, via) => (link.clone(), Some(*via), false),
    };
    let device_mtu = facts.links.get(&dev).map(|link| link.mtu);
    let mtu = tunnel_mtu.filter(|mtu| device_mtu.is_some_and(|device| device > *mtu));
    let src = path.source;
    let kind = RouteKind::Unicast {
        dev,
        via,
        onlink,
        src,
    };
    Some(Route { kind, mtu })
}

/// The rules, of the families in which something is routed: a kernel without IPv6 refuses IPv6 rules.
pub(super) fn rules(plan: &Plan, paths: &Paths, facts: &HostFacts) -> BTreeSet<Rule> {
    let owned = &facts.owned;
    let rule = |family, place, selector, action| Rule {
        family,
        priority: owned.rule_priority + place,
        selector,
        action,
    };
    let mut rules = BTreeSet::new();
    for family in [Family::V4, Family::V6] {
        if !paths.uses(family) {
            continue;
        }
        let unmarked = RuleSelector {
            mark: Some((owned.mark, owned.mark, true)),
            ..RuleSelector::default()
        };
        rules.insert(rule(family, TABLE, unmarked, RuleAction::Lookup(owned.table)));
        if paths.returns.keys().any(|prefix| prefix.family() == family) {
            let from_tunnel = RuleSelector {
                iif: Some(owned.link.clone()),
                ..RuleSelector::default()
            };
            let lookup = RuleAction::Lookup(owned.return_table);
            rules.insert(rule(family, RETURNS, from_tunnel, lookup));
        }
        for overlay in own_overlay(plan, family)
            .into_iter()
            .filter(|_| plan.role == Role::Leader(LeaderRole::Standby))
        {
            let from_overlay = RuleSelector {
                from: Some(Prefix::host(overlay)),
                ..RuleSelector::default()
            };
            let lookup = RuleAction::Lookup(owned.return_table);
            rules.insert(rule(family, OWN, from_overlay, lookup));
        }
        for hop in paths.hops.iter().filter(|_| stands_in(plan, facts)) {
            let brought = RuleSelector {
                iif: Some(hop.clone()),
                ..RuleSelector::default()
            };
            let lookup = RuleAction::Lookup(owned.return_table);
            rules.insert(rule(family, BROUGHT, brought, lookup));
        }
    }
    for exempt in exempt(plan, paths, facts) {
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
        let past = owned.rule_priority + LANDING;
        rules.insert(rule(family, EXEMPT, selector, RuleAction::Goto(past)));
        rules.insert(rule(family, LANDING, RuleSelector::default(), RuleAction::Nop));
    }
    rules
}
