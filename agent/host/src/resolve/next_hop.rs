//! How this machine reaches those by way of whom the plan sends.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use spanwire_topology::{Family, MacAddress, Near, NodeName, Plan, Prefix, Via};

use super::{
    own_address,
    vxlan::{self, Underlay},
};
use crate::{Cni, Conflict, Encapsulation, HostFacts, LinkName};

/// How packets leave this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NextHop {
    /// Through the WireGuard device.
    Tunnel,
    /// Through the CNI's device, or Spanwire's VXLAN, to a neighbour's address on it, which need not be in a connected network.
    Overlay(LinkName, IpAddr),
    /// Through the LAN, to a neighbour's address, in a connected network unless Calico says that it is a neighbour.
    Lan(LinkName, IpAddr),
}

impl NextHop {
    /// Returns the device, where it is not the tunnel's.
    pub(crate) fn link(&self) -> Option<&LinkName> {
        match self {
            Self::Tunnel => None,
            Self::Overlay(link, _) | Self::Lan(link, _) => Some(link),
        }
    }

    /// Returns the neighbour's address, where it is not the tunnel's device.
    pub(crate) fn neighbour(&self) -> Option<IpAddr> {
        match self {
            Self::Tunnel => None,
            Self::Overlay(_, neighbour) | Self::Lan(_, neighbour) => Some(*neighbour),
        }
    }
}

/// How packets of a family get to another leader of the own location.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hop {
    /// The device.
    pub link: LinkName,
    /// The leader's address there.
    pub neighbour: IpAddr,
    /// The source that packets of this node have.
    pub source: IpAddr,
    /// Over Spanwire's VXLAN, where no route leads to the node itself: an address at which it answers, and its link-layer address.
    pub answers_at: Option<(IpAddr, MacAddress)>,
}

/// Returns the hops to the other leaders of the own location through which packets of this node may go.
#[must_use]
pub fn hops_to_leaders(plan: &Plan, facts: &HostFacts) -> BTreeMap<(NodeName, Family), Hop> {
    hops(plan, facts, plan.leaders.iter())
}

/// Returns the hops to the members of the own location that this node, as a leader, hands packets to.
#[must_use]
pub fn hops_to_members(plan: &Plan, facts: &HostFacts) -> BTreeMap<(NodeName, Family), Hop> {
    let members: Vec<Via> = plan.probes.members.iter().map(Near::via).collect();
    hops(plan, facts, members.iter())
}

fn hops<'a>(
    plan: &Plan,
    facts: &HostFacts,
    vias: impl Iterator<Item = &'a Via> + Clone,
) -> BTreeMap<(NodeName, Family), Hop> {
    let resolver = Resolver::new(plan, facts);
    let mut hops = BTreeMap::new();
    for family in [Family::V4, Family::V6] {
        let Some(source) = own_address(plan, facts, family) else {
            continue;
        };
        for via in vias.clone() {
            if let (
                Via::Hop { node, addresses, .. },
                Some(NextHop::Overlay(link, neighbour) | NextHop::Lan(link, neighbour)),
            ) = (via, resolver.next_hop(family, via))
            {
                let peer = plan.vxlan.as_ref().and_then(|vxlan| vxlan.peers.get(node));
                let of_family = |address: &&IpAddr| Family::of(**address) == family;
                let answers_at = peer.zip(addresses.iter().find(of_family));
                let hop = Hop {
                    link,
                    neighbour,
                    source,
                    answers_at: answers_at.map(|(peer, address)| (*address, peer.address)),
                };
                hops.insert((node.clone(), family), hop);
            }
        }
    }
    hops
}

/// Why a hop goes by the device that it goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HopReason {
    /// Calico's own route to the leader takes it.
    CalicoRoute,
    /// The CNI carries packets between nodes by it.
    CniDevice,
    /// The location has a VXLAN of Spanwire's own, and it is that.
    OwnVxlan,
    /// The leader is in a network that is connected by it, and the CNI has no device of its own.
    ConnectedNetwork,
}

/// Returns the device by which this node sends to a leader of its location, and why by that: to the one that it uses now, where
/// it uses any, and in the first family that has a way.
#[must_use]
pub fn hop_in_use(plan: &Plan, facts: &HostFacts) -> Option<(LinkName, HopReason)> {
    let resolver = Resolver::new(plan, facts);
    let ways = plan.ways.values().chain(&plan.leaders);
    let mut hops = ways.filter_map(|via| match via {
        Via::Hop { hop, addresses, .. } => Some((via, hop, addresses)),
        Via::Tunnel | Via::Unreachable => None,
    });
    let (via, hop, addresses) = hops.next()?;
    [Family::V4, Family::V6].into_iter().find_map(|family| {
        let next_hop = resolver.next_hop(family, via)?;
        let reason = match next_hop {
            _ if plan.vxlan.is_some() => HopReason::OwnVxlan,
            _ if by_calicos_route(facts, family, hop, addresses).is_some() => HopReason::CalicoRoute,
            NextHop::Overlay(..) => HopReason::CniDevice,
            NextHop::Lan(..) | NextHop::Tunnel => HopReason::ConnectedNetwork,
        };
        Some((next_hop.link()?.clone(), reason))
    })
}

/// Resolves each `Via` once per family: thousands of prefixes share a few.
pub(super) struct Resolver<'a> {
    plan: &'a Plan,
    facts: &'a HostFacts,
    /// The VXLAN, where the location has one and this machine takes part in it.
    underlay: Option<Underlay<'a>>,
    /// The networks in which a leader may be a neighbour. The CNI's devices are left out: some CNIs connect the network of
    /// all pods of the cluster.
    lans: BTreeMap<Prefix, &'a LinkName>,
    resolved: Vec<(Family, &'a Via, Option<NextHop>)>,
    /// What could not be resolved.
    pub(super) conflicts: BTreeSet<Conflict>,
}

impl<'a> Resolver<'a> {
    pub(super) fn new(plan: &'a Plan, facts: &'a HostFacts) -> Self {
        let links = facts.links.iter().filter(|(_, link)| !link.cni);
        let networks = links.flat_map(|(name, link)| {
            link.networks()
                .map(move |network| (network, (name, link.reluctance(&network))))
        });
        // Of several devices the one that Linux prefers: a cloud's second network card has an address of the LAN and no route to it.
        let mut lans = BTreeMap::new();
        for (network, (name, reluctance)) in networks.filter(|(network, _)| !network.is_host()) {
            let known = lans.entry(network).or_insert((name, reluctance));
            if reluctance < known.1 {
                *known = (name, reluctance);
            }
        }
        Self {
            plan,
            facts,
            underlay: Underlay::new(plan, facts),
            lans: lans
                .into_iter()
                .map(|(network, (name, _))| (network, name))
                .collect(),
            resolved: Vec::new(),
            conflicts: BTreeSet::new(),
        }
    }

    /// Returns how packets of the family get to `via`; `None`, with a conflict, where they do not.
    pub(super) fn resolve(&mut self, family: Family, via: &'a Via) -> Option<NextHop> {
        let known = |(other, known, _): &&(Family, &Via, _)| *other == family && same(known, via);
        if let Some((_, _, next_hop)) = self.resolved.iter().rev().find(known) {
            return next_hop.clone();
        }
        let next_hop = self.next_hop(family, via);
        if let (Via::Hop { node, hop, .. }, None) = (via, &next_hop) {
            let node = node.clone();
            let conflict = match self.plan.vxlan {
                Some(_) => Conflict::OutsideVxlan { node, family },
                None => stranded(self.facts, family, hop).unwrap_or(Conflict::NoHop { node, family }),
            };
            self.conflicts.insert(conflict);
        }
        self.resolved.push((family, via, next_hop.clone()));
        next_hop
    }

    /// Returns how packets of the family get to `via`.
    pub(super) fn next_hop(&self, family: Family, via: &Via) -> Option<NextHop> {
        match via {
            Via::Tunnel => Some(NextHop::Tunnel),
            Via::Unreachable => None,
            Via::Hop { node, .. } if self.plan.vxlan.is_some() => {
                vxlan::next_hop(self.underlay.as_ref(), self.facts, family, node)
            }
            Via::Hop { hop, addresses, .. } => by_calicos_route(self.facts, family, hop, addresses)
                .map(Some)
                .or_else(|| over_cni(self.facts, family, hop, addresses))
                .unwrap_or_else(|| self.over_lan(family, addresses))
                .filter(|next_hop| next_hop.link().is_none_or(nameable)),
        }
    }

    fn over_lan(&self, family: Family, addresses: &BTreeSet<IpAddr>) -> Option<NextHop> {
        let candidates = addresses.iter().filter(|address| Family::of(**address) == family);
        candidates
            .filter_map(|address| {
                let around = self.lans.iter().filter(|(network, _)| network.contains(*address));
                // As Linux routes: a VPN's or another LAN's short mask may contain the LAN's.
                let (_, link) = around.max_by_key(|(network, _)| network.length())?;
                Some(NextHop::Lan((*link).clone(), *address))
            })
            .next()
    }
}

/// Whether two are one, found out without comparing what they share.
fn same(one: &Via, other: &Via) -> bool {
    match (one, other) {
        (Via::Tunnel, Via::Tunnel) | (Via::Unreachable, Via::Unreachable) => true,
        (
            Via::Hop { node, hop, addresses },
            Via::Hop {
                node: other,
                hop: other_hop,
                addresses: other_addresses,
            },
        ) => Arc::ptr_eq(hop, other_hop) && Arc::ptr_eq(addresses, other_addresses) && node == other,
        (Via::Tunnel | Via::Unreachable | Via::Hop { .. }, _) => false,
    }
}

/// Whether nft takes the name for this device and no other: it has no escapes, and '*' stands for any ending.
pub(crate) fn nameable(link: &LinkName) -> bool {
    !link.as_str().contains(['"', '*', '\\'])
}

/// Returns the next hop that Calico's own route to a node's address on its device leads to; `None` where it has none, or one by
/// a router of the LAN, which knows nothing of other locations.
///
/// The route's neighbour counts, not the address asked for: a tunnel address changes while the node runs, and its neighbours
/// know of it sooner by Calico than by the mesh.
fn by_calicos_route(
    facts: &HostFacts,
    family: Family,
    hop: &BTreeSet<IpAddr>,
    addresses: &BTreeSet<IpAddr>,
) -> Option<NextHop> {
    let of_family = |address: &&IpAddr| Family::of(**address) == family;
    let route = hop
        .iter()
        .filter(of_family)
        .find_map(|address| facts.cni.route(*address))?;
    let encapsulation = encapsulation(facts, &route.link);
    let is_theirs = addresses.contains(&route.via) || !addresses.iter().any(|address| of_family(&address));
    match encapsulation {
        Some(Encapsulation::Vxlan) => Some(NextHop::Overlay(route.link.clone(), route.via)),
        Some(Encapsulation::Ipip) if is_theirs => Some(NextHop::Overlay(route.link.clone(), route.via)),
        None if is_theirs => Some(NextHop::Lan(route.link.clone(), route.via)),
        Some(Encapsulation::Ipip) | None => None,
    }
}

fn encapsulation(facts: &HostFacts, link: &LinkName) -> Option<Encapsulation> {
    match &facts.cni {
        Cni::Calico { links, .. } => links.get(link).copied(),
        Cni::Direct | Cni::Overlay { .. } | Cni::Unsupported { .. } => None,
    }
}

/// Returns the next hop over the CNI's device; outer `None` where the CNI has no device for the family.
fn over_cni(
    facts: &HostFacts,
    family: Family,
    hop: &BTreeSet<IpAddr>,
    addresses: &BTreeSet<IpAddr>,
) -> Option<Option<NextHop>> {
    let Some(link) = facts.carrier(family) else {
        return stranded(facts, family, hop).map(|_| None);
    };
    // An address on the device says that the node has such a device. One of this machine's own there is no neighbour's, whatever
    // a node reports, and Linux has no route by it.
    let of_family = |address: &&IpAddr| Family::of(**address) == family;
    let own = |address: &IpAddr| {
        let mut own = facts.links.get(link).into_iter().flat_map(|link| &link.addresses);
        own.any(|(own, _)| own == address)
    };
    let there = hop.iter().filter(of_family).find(|address| !own(address));
    let neighbour = match encapsulation(facts, link) {
        Some(Encapsulation::Ipip) => there.and_then(|_| addresses.iter().find(of_family)),
        Some(Encapsulation::Vxlan) | None => there,
    };
    // Not every node has a device where Calico encapsulates in some of its pools.
    let is_calico = matches!(facts.cni, Cni::Calico { .. });
    match neighbour {
        None if is_calico && there.is_none() => None,
        _ => Some(neighbour.map(|neighbour| NextHop::Overlay(link.clone(), *neighbour))),
    }
}

/// Returns why nothing gets over the CNI's device to a node that is reached by one, or was reached so from here: without its
/// own, what this node sends in the LAN would be nothing that the other one expects there.
pub(super) fn stranded(facts: &HostFacts, family: Family, hop: &BTreeSet<IpAddr>) -> Option<Conflict> {
    if let Cni::Unsupported { link } = &facts.cni {
        return Some(Conflict::CniUnsupported { link: link.clone() });
    }
    let mut theirs = hop.iter().filter(|address| Family::of(**address) == family);
    let theirs = theirs.any(|address| facts.cni.route(*address).is_none());
    let expected = theirs || facts.carried.contains(&family);
    (expected && facts.carrier(family).is_none()).then_some(Conflict::NoCniDevice { family })
}
