//! Policies of IPsec (ip-xfrm(8)) that take packets of the mesh.
//!
//! Linux asks them behind routing, whichever device a packet was routed to. Spanwire's own devices are past them, but for IPv6
//! (`render/sysctls.rs`). Those of others are not: what a follower sends by the CNI's device or by the LAN is wrapped for
//! a gateway, or dropped, and never reaches the leader.

use spanwire_topology::{Family, Plan, Prefix, Role};

use crate::{
    Conflict, HostFacts,
    resolve::{NextHop, Resolved, ResolvedRoute},
};

/// A policy for what leaves this machine, whatever its protocol and ports.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct IpsecPolicy {
    /// Of those for a packet the one with the smallest counts.
    pub priority: u32,
    /// From this network.
    pub from: Prefix,
    /// To this network.
    pub to: Prefix,
    /// It wraps or drops packets; else they pass as they are.
    pub takes: bool,
}

/// Returns what one of them takes of what this node sends into the mesh: one conflict, however much that is.
pub(crate) fn taken(plan: &Plan, resolved: &Resolved<'_>, facts: &HostFacts) -> Option<Conflict> {
    let here = match plan.role {
        Role::Leader(_) => &plan.local,
        Role::Follower | Role::Outside => &plan.own,
    };
    let mut taking = facts.ipsec.iter().filter(|policy| policy.takes);
    taking.find_map(|policy| {
        let from = here.iter().find_map(|prefix| inside(prefix, &policy.from))?;
        let exposed = resolved
            .remote
            .iter()
            .filter(|(prefix, route)| is_exposed(prefix, route, facts));
        let mut bound = exposed.filter_map(|(prefix, route)| Some((inside(prefix, &policy.to)?, route)));
        let (_, route) = bound.find(|(to, _)| !is_let_through(policy, &from, to, facts))?;
        Some(Conflict::Ipsec {
            from: policy.from,
            to: policy.to,
            location: route.location.clone(),
        })
    })
}

/// Whether packets leave by a device that policies are asked for.
fn is_exposed(prefix: &Prefix, route: &ResolvedRoute<'_>, facts: &HostFacts) -> bool {
    let own = match &route.next_hop {
        None => return false,
        Some(NextHop::Tunnel) => true,
        Some(NextHop::Overlay(link, _) | NextHop::Lan(link, _)) => *link == facts.owned.hop_link,
    };
    !own || prefix.family() == Family::V6
}

/// Whether another policy is asked before, and lets the packets pass.
fn is_let_through(policy: &IpsecPolicy, from: &Prefix, to: &Prefix, facts: &HostFacts) -> bool {
    let mut before = facts
        .ipsec
        .iter()
        .take_while(|other| other.priority < policy.priority);
    before.any(|other| !other.takes && other.from.covers(from) && other.to.covers(to))
}

/// Returns what two networks have in common.
fn inside(one: &Prefix, other: &Prefix) -> Option<Prefix> {
    match (one.covers(other), other.covers(one)) {
        (true, _) => Some(*other),
        (false, true) => Some(*one),
        (false, false) => None,
    }
}
