//! The plan's routes as this machine can have them.
//!
//! The plan says by way of whom a prefix is reached (`Via`); the machine's devices say how (`NextHop`): through the
//! WireGuard device, over the CNI's device, or in the LAN. With its source address that is a `ResolvedRoute`.
//!
//! A family is left out where nothing on the machine can have packets of it: where it is switched off on all devices, and,
//! apart from the tunnel, where neither this node nor what it leads for has addresses of it.

mod connected;
mod next_hop;
mod swallowed;
mod vxlan;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use spanwire_topology::{Family, Holder, LocationName, Plan, Prefix, Role, Via};

use crate::{Cni, Conflict, HostFacts, LinkName, OtherLink, prefixes::Prefixes};
use connected::Connected;
pub(crate) use connected::Held;
use next_hop::Resolver;
pub use next_hop::{Hop, HopReason, hop_in_use, hops_to_leaders, hops_to_members};
pub(crate) use next_hop::{NextHop, nameable};
pub(crate) use vxlan::Underlay;

/// The plan's routes as this machine can have them.
#[derive(Debug)]
pub(crate) struct Resolved<'a> {
    /// Every prefix that is routed into the mesh, in order.
    pub(crate) remote: Vec<(Prefix, ResolvedRoute<'a>)>,
    /// Prefixes of the mesh that are networks connected here, and stay where they are.
    pub(crate) held: BTreeMap<Prefix, Held<'a>>,
    /// Prefixes of established locations in families in which this machine has no part: nothing here sends there through the mesh, and
    /// nothing must go there past it.
    pub(crate) barred: BTreeMap<Prefix, &'a LocationName>,
    /// Networks of the own location, connected ones and what is left to the CNI that lie in a wider prefix of `remote`. Others need no entry in
    /// the table: what no remote prefix covers falls through it anyway, so a location of thousands of nodes costs none.
    pub(crate) throws: BTreeSet<Prefix>,
    /// Node addresses to which packets from the tunnel go through the CNI's device, and what goes by another leader, in order.
    pub(crate) returns: Vec<(Prefix, NextHop)>,
    /// The devices that packets of the mesh use inside the location.
    pub(crate) hops: BTreeSet<LinkName>,
    /// The addresses of the neighbours to which packets of the mesh go by these devices, or may next: the other leaders.
    pub(crate) neighbours: BTreeSet<IpAddr>,
    /// The families in which a leader reaches no other node of its location, because it lacks the CNI's device.
    pub(crate) stranded: BTreeSet<Family>,
    /// The addresses of the API server that are reached past the mesh.
    pub(crate) exempt: BTreeSet<Exempt>,
    /// The VXLAN of the location, where this machine takes part in one.
    pub(crate) underlay: Option<Underlay<'a>>,
    /// What had to be left out.
    pub(crate) conflicts: BTreeSet<Conflict>,
    /// The overlay addresses of the leaders at the other ends of the tunnels.
    overlays: BTreeSet<IpAddr>,
}

/// Where packets to one prefix go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ResolvedRoute<'a> {
    /// The device and what is needed on it; `None` when nothing carries the prefix now.
    pub(crate) next_hop: Option<NextHop>,
    /// The source for packets that have none yet.
    pub(crate) source: Option<IpAddr>,
    /// Where the prefix lives.
    pub(crate) location: &'a LocationName,
    /// What has it.
    pub(crate) holder: Holder,
}

/// An address of the API server that stands in the mesh, and that this node reaches or serves past the mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Exempt {
    /// Host and port.
    pub(crate) address: SocketAddr,
    /// The API server runs on this node: what it answers goes past the mesh too.
    pub(crate) served_here: bool,
}

impl<'a> Resolved<'a> {
    pub(crate) fn new(plan: &'a Plan, facts: &'a HostFacts) -> Self {
        let mut conflicts: BTreeSet<Conflict> = ipv6_disabled(plan, facts).into_iter().collect();
        let mut resolver = Resolver::new(plan, facts);
        let overlays: BTreeSet<IpAddr> = tunnel_overlays(plan);
        let sources = FAMILIES.map(|family| own_address(plan, facts, family));
        let sends = FAMILIES.map(|family| sends(plan, facts, family));
        let leads = plan.tunnel.is_some() && facts.public_key.is_some();

        let mut connected = Connected::new(plan, facts);
        let mut held = BTreeMap::new();
        let mut barred = barred(plan, &connected);
        let mut remote = Vec::with_capacity(plan.routes.len());
        for (prefix, route) in &plan.routes {
            let family = prefix.family();
            let towards_overlay = prefix.is_host() && overlays.contains(&prefix.address());
            let via = match towards_overlay && facts.lacks_tunnel && sends[index(family)] {
                true => past_tunnel(plan, route),
                false => &route.via,
            };
            if !facts.has(family) || (*via != Via::Tunnel && !sends[index(family)]) {
                if !connected.may_be_needed(prefix, route.holder) {
                    barred.insert(*prefix, &route.location);
                }
                continue;
            }
            if let Some(here) = connected.hold(prefix, route, &mut conflicts) {
                held.insert(*prefix, here);
                continue;
            }
            if let Some(conflict) = connected.asked(prefix, route) {
                conflicts.insert(conflict);
                continue;
            }
            let next_hop = resolver.resolve(family, via);
            let doubtful = connected.doubtful(prefix, route);
            let next_hop = next_hop.filter(|next_hop| {
                !doubtful && (*next_hop != NextHop::Tunnel || (leads && facts.tunnels(family)))
            });
            let source = match (&next_hop, towards_overlay) {
                (Some(NextHop::Tunnel), true) => own_overlay(plan, family),
                _ => sources[index(family)],
            };
            let location = &route.location;
            remote.push((
                *prefix,
                ResolvedRoute {
                    next_hop,
                    source,
                    location,
                    holder: route.holder,
                },
            ));
        }
        conflicts.append(&mut resolver.conflicts);
        conflicts.extend(overlay_for_node(plan, facts));
        let stranded = stranded(plan, facts);
        conflicts.extend(stranded.values().cloned());
        let routed = |prefix: &Prefix| remote.binary_search_by(|(other, _)| other.cmp(prefix)).is_ok();
        connected.report(routed, &mut conflicts);
        conflicts.extend(swallowed::swallowed(plan, facts, &remote));

        let returns = returns(plan, facts, &resolver);
        let of_remote = remote.iter().filter_map(|(_, route)| route.next_hop.as_ref());
        let of_leaders = to_leaders(plan, facts, &resolver);
        let of_returns = returns.iter().map(|(_, next_hop)| next_hop);
        let hops = hops(plan, facts, of_remote.chain(of_returns).chain(&of_leaders));
        let throws = throws(plan, facts, &remote, &held);
        let through = of_leaders.iter().filter_map(NextHop::neighbour);
        let neighbours = plan.leaders.iter().flat_map(neighbours).chain(through).collect();
        let mut resolved = Self {
            remote,
            held,
            barred,
            throws,
            returns,
            hops,
            stranded: stranded.into_keys().collect(),
            neighbours,
            exempt: BTreeSet::new(),
            underlay: Underlay::new(plan, facts),
            conflicts,
            overlays,
        };
        resolved.exempt = resolved.exempt(plan, facts);
        resolved
    }

    /// Returns the route through the active leader, which every prefix behind it has.
    pub(crate) fn hop(&self, family: Family) -> Option<&ResolvedRoute<'a>> {
        let through =
            |route: &&ResolvedRoute<'_>| route.next_hop.as_ref().is_some_and(|hop| hop.link().is_some());
        self.of(family).iter().map(|(_, route)| route).find(through)
    }

    /// Whether anything is routed in this family.
    pub(crate) fn uses(&self, family: Family) -> bool {
        !self.of(family).is_empty() || self.held.keys().any(|prefix| prefix.family() == family)
    }

    /// Whether this machine sends on packets of the family: something is routed into the mesh besides the overlay
    /// addresses of leaders, which only leaders send to, for something that is reached through this machine.
    pub(crate) fn forwards(&self, plan: &Plan, family: Family) -> bool {
        let remote = self.of(family);
        let beyond = |(prefix, _): &(Prefix, ResolvedRoute<'_>)| {
            !(prefix.is_host() && self.overlays.contains(&prefix.address()))
        };
        let attached =
            |(_, route): &(Prefix, ResolvedRoute<'_>)| plan.location.as_ref() == Some(route.location);
        matches!(plan.role, Role::Leader(_))
            && remote.iter().any(beyond)
            && (has(&plan.local, family) || remote.iter().any(attached))
    }

    /// Whether the traffic of a prefix moves into the mesh: the locations are established, but not every node may have heard
    /// of it. No Peer of the own location and no overlay address is reached in any other way.
    pub(crate) fn is_moving(
        &self,
        plan: &Plan,
        facts: &HostFacts,
        prefix: &Prefix,
        location: &LocationName,
    ) -> bool {
        let overlay = prefix.is_host() && self.overlays.contains(&prefix.address());
        !overlay && plan.location.as_ref() != Some(location) && !facts.settled.contains(location)
    }

    /// Whether traffic of the family moves into the mesh.
    pub(crate) fn moves(&self, plan: &Plan, facts: &HostFacts, family: Family) -> bool {
        // Neighbours are mostly of one location.
        let mut settled = None;
        self.of(family).iter().any(|(prefix, route)| {
            if settled == Some(route.location) {
                return false;
            }
            if facts.settled.contains(route.location) {
                settled = Some(route.location);
            }
            self.is_moving(plan, facts, prefix, route.location)
        })
    }

    /// Returns what is routed in one family: IPv4 sorts before IPv6.
    fn of(&self, family: Family) -> &[(Prefix, ResolvedRoute<'a>)] {
        let v4 = self
            .remote
            .partition_point(|(prefix, _)| prefix.family() == Family::V4);
        let (v4, v6) = self.remote.split_at(v4);
        match family {
            Family::V4 => v4,
            Family::V6 => v6,
        }
    }

    /// A fault of the mesh must not cut a node off from its cure, so the API server is reached as without the mesh.
    fn exempt(&self, plan: &Plan, facts: &HostFacts) -> BTreeSet<Exempt> {
        if facts.api_server.is_empty() {
            return BTreeSet::new();
        }
        let remote = self.remote.iter().map(|(prefix, _)| *prefix);
        let covers: Prefixes = remote.chain(self.barred.keys().copied()).collect();
        let bars = |family| self.barred.keys().any(|prefix| prefix.family() == family);
        let is_here = |ip: IpAddr| {
            let mut links = facts.links.values();
            links.any(|link| link.addresses.iter().any(|(address, _)| *address == ip))
        };
        let exempt = |address: &SocketAddr| {
            let host = Prefix::host(address.ip());
            // Of a family in which this node has no part the mesh does not know what is here.
            let is_barred = !self.uses(host.family()) && bars(host.family());
            let served_here = plan.own.contains(&host) || (is_barred && is_here(address.ip()));
            let remote = covers.covering(&host).is_some();
            let concerned = remote || (served_here && (is_barred || self.uses(host.family())));
            let address = *address;
            concerned.then_some(Exempt { address, served_here })
        };
        facts.api_server.iter().filter_map(exempt).collect()
    }
}

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

fn index(family: Family) -> usize {
    usize::from(family == Family::V6)
}

/// Whether a prefix of the family is in the set; IPv4 sorts before IPv6.
fn has(prefixes: &BTreeSet<Prefix>, family: Family) -> bool {
    let end = match family {
        Family::V4 => prefixes.first(),
        Family::V6 => prefixes.last(),
    };
    end.is_some_and(|prefix| prefix.family() == family)
}

/// Whether packets of the family may begin on this node or, on a leader, come from its location: some part of the
/// location has addresses of it. Overlay addresses are no such part: only leaders send from theirs, into their tunnels.
fn sends(plan: &Plan, facts: &HostFacts, family: Family) -> bool {
    if !has(&plan.local, family) {
        return false;
    }
    let own = |prefix: &Prefix| prefix.family() == family && plan.local.contains(prefix);
    if matches!(plan.role, Role::Leader(_)) || plan.own.iter().any(own) {
        return true;
    }
    // A node whose own address is not in the mesh, in a network of its location that is.
    let local: Prefixes = plan.local.iter().copied().collect();
    let addresses = facts.links.values().flat_map(|link| &link.addresses);
    let mut hosts = addresses.map(|(address, _)| Prefix::host(*address));
    hosts.any(|host| host.family() == family && local.covering(&host).is_some())
}

/// Returns the one conflict of a node without IPv6 that would need it: because it has IPv6 prefixes, or leads for some, and there
/// are others to reach; or because the tunnels of a leader have IPv6 addresses alone.
fn ipv6_disabled(plan: &Plan, facts: &HostFacts) -> Option<Conflict> {
    let family = Family::V6;
    let leads = matches!(plan.role, Role::Leader(_));
    let lacks = if leads {
        !facts.tunnels(family)
    } else {
        !facts.has(family)
    };
    let only_overlay = plan.tunnel.as_ref().is_some_and(|tunnel| {
        let mut addresses = tunnel.addresses.iter();
        !tunnel.addresses.is_empty() && addresses.all(|address| Family::of(*address) == family)
    });
    let remote = plan.routes.keys().next_back();
    let remote = remote.is_some_and(|prefix| prefix.family() == family);
    let needs = only_overlay || (remote && sends(plan, facts, family));
    let everywhere = !facts.has(family);
    (lacks && needs).then_some(Conflict::Ipv6Disabled { everywhere })
}

/// Returns the device by which this machine exchanges packets of a family with the other nodes of its location, where that is one
/// alone.
#[must_use]
pub fn hop_device(plan: &Plan, facts: &HostFacts, family: Family) -> Option<LinkName> {
    let has_family = |link: &OtherLink| {
        let mut addresses = link.addresses.iter().map(|(address, _)| *address);
        addresses.any(|address| Family::of(address) == family && !is_link_local(address))
    };
    let resolved = Resolved::new(plan, facts);
    let mut hops = resolved
        .hops
        .into_iter()
        .filter(|link| match facts.links.get(link) {
            Some(other) => has_family(other),
            None => *link == facts.owned.hop_link,
        });
    hops.next().filter(|_| hops.next().is_none())
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

/// Returns this node's address of the family by which the mesh knows it: the source of what the node itself sends. Its
/// address in the LAN, else any address of its devices that lies in a prefix of its own (where node addresses are left out
/// of the mesh, that of the pod bridge), else its overlay address.
pub(crate) fn own_address(plan: &Plan, facts: &HostFacts, family: Family) -> Option<IpAddr> {
    let addresses = |cni: bool| {
        let links = facts.links.values().filter(move |link| link.cni == cni);
        links.flat_map(|link| link.addresses.iter().map(|(address, _)| *address))
    };
    let ours = |address: &IpAddr| Family::of(*address) == family;
    let in_mesh = |address: &IpAddr| plan.own.contains(&Prefix::host(*address));
    let in_prefix = |address: &IpAddr| plan.own.iter().any(|prefix| prefix.contains(*address));
    let all = || addresses(false).chain(addresses(true)).filter(ours);
    let found = all().find(in_mesh).or_else(|| all().find(in_prefix));
    found.or_else(|| own_overlay(plan, family).filter(|_| facts.tunnels(family)))
}

/// Returns the overlay address of a leader.
pub(crate) fn own_overlay(plan: &Plan, family: Family) -> Option<IpAddr> {
    let tunnel = plan.tunnel.as_ref()?;
    let mut addresses = tunnel.addresses.iter().copied();
    addresses.find(|address| Family::of(*address) == family)
}

/// Returns the way to the overlay address of a leader elsewhere while there is no tunnel: another leader of the own location.
/// What is asked of it through one of these is answered from there, and Linux takes nothing from where no route leads to
/// (`fib_validate_source`), however loose the reverse path filter.
fn past_tunnel<'a>(plan: &'a Plan, route: &'a spanwire_topology::Route) -> &'a Via {
    let is_hop = |via: &&Via| matches!(via, Via::Hop { .. });
    let chosen = plan.ways.get(&route.location).filter(is_hop);
    chosen.or(plan.leaders.first()).unwrap_or(&route.via)
}

fn tunnel_overlays(plan: &Plan) -> BTreeSet<IpAddr> {
    let peers = plan.tunnel.iter().flat_map(|tunnel| tunnel.peers.values());
    peers.flat_map(|peer| peer.overlay.iter().copied()).collect()
}

/// Returns what established locations have of the families in which this node has no part, but for what this machine may need.
fn barred<'a>(plan: &'a Plan, connected: &Connected<'_>) -> BTreeMap<Prefix, &'a LocationName> {
    let all = plan.unsent.barred.iter();
    all.filter(|(prefix, barred)| !connected.may_be_needed(prefix, barred.holder))
        .map(|(prefix, barred)| (*prefix, &barred.location))
        .collect()
}

/// Ways back to followers' node addresses over the CNI's device, to all of theirs over a VXLAN, and to what goes by another leader. Others need no entry: `main` has
/// the same.
fn returns(plan: &Plan, facts: &HostFacts, resolver: &Resolver<'_>) -> Vec<(Prefix, NextHop)> {
    let here = plan.returns.iter().filter(|_| plan.location.is_some());
    let entry = |(prefix, via): (&Prefix, &Via)| {
        let next_hop = resolver.next_hop(prefix.family(), via)?;
        let is_detour = !prefix.is_host() || !neighbours(via).contains(&prefix.address());
        (is_detour || matches!(next_hop, NextHop::Overlay(..))).then_some((*prefix, next_hop))
    };
    here.filter(|(prefix, _)| facts.has(prefix.family()))
        .filter_map(entry)
        .collect()
}

/// Returns the device of the CNI that begins at an overlay address of this node: programs that look for the node's address by
/// themselves may find that of the newest device. They keep to it when the node leads no more and the address is gone.
fn overlay_for_node(plan: &Plan, facts: &HostFacts) -> Option<Conflict> {
    let mut links = facts.cni.links();
    links.find_map(|name| {
        let address = facts.links.get(name)?.tunnel_from?;
        let (link, is_ours) = (name.clone(), plan.overlay.contains(&address));
        is_ours.then_some(Conflict::OverlayForNode { link, address })
    })
}

/// Returns the ways to the other leaders of the location. Any of them may send to this node what comes from other
/// locations, and be sent what is for them, at any time: the nft table is as it has to be before that.
fn to_leaders(plan: &Plan, facts: &HostFacts, resolver: &Resolver<'_>) -> Vec<NextHop> {
    let families = FAMILIES
        .into_iter()
        .filter(|family| sends(plan, facts, *family) && facts.has(*family));
    let ways = families.flat_map(|family| plan.leaders.iter().map(move |via| (family, via)));
    ways.filter_map(|(family, via)| resolver.next_hop(family, via))
        .collect()
}

/// Returns the families in which a leader cannot hand on what comes for other nodes of its location, each with why.
fn stranded(plan: &Plan, facts: &HostFacts) -> BTreeMap<Family, Conflict> {
    let by_cni = plan.tunnel.is_some() && plan.vxlan.is_none();
    let here = plan.returns.iter().filter(|_| by_cni);
    let why = |(prefix, via): (&Prefix, &Via)| match via {
        Via::Hop { hop, .. } => {
            let family = prefix.family();
            Some((family, next_hop::stranded(facts, family, hop)?))
        }
        Via::Tunnel | Via::Unreachable => None,
    };
    here.filter(|(prefix, _)| facts.has(prefix.family()))
        .filter_map(why)
        .collect()
}

fn hops<'a>(
    plan: &Plan,
    facts: &HostFacts,
    next_hops: impl Iterator<Item = &'a NextHop>,
) -> BTreeSet<LinkName> {
    if plan.vxlan.is_some() {
        // By that alone, also where the CNI has devices.
        let hop = Underlay::new(plan, facts).map(|_| facts.owned.hop_link.clone());
        return hop.into_iter().collect();
    }
    let mut hops: BTreeSet<&LinkName> = BTreeSet::new();
    let mut last = None;
    // Thousands of prefixes have one next hop after the other alike.
    for link in next_hops.filter_map(NextHop::link) {
        if last != Some(link) {
            hops.insert(link);
            last = Some(link);
        }
    }
    let mut hops: BTreeSet<LinkName> = hops.into_iter().cloned().collect();
    // A node of another subnet, or of the same, may send to this one by another device than this one's packets go by.
    let routed = calicos_ways(plan, facts);
    let present = facts.cni.links().chain(routed);
    let present = present.filter(|link| facts.links.contains_key(link));
    hops.extend(present.filter(|link| nameable(link)).cloned());
    hops
}

/// Returns the devices by which Calico reaches pods of this location.
fn calicos_ways<'a>(plan: &Plan, facts: &'a HostFacts) -> BTreeSet<&'a LinkName> {
    let Cni::Calico { routes, .. } = &facts.cni else {
        return BTreeSet::new();
    };
    let local: Prefixes = plan.local.iter().copied().collect();
    let here = routes
        .iter()
        .filter(|(prefix, _)| local.covering(prefix).is_some());
    here.map(|(_, route)| &route.link).collect()
}

/// Returns the addresses that a hop may have as a next hop.
fn neighbours(via: &Via) -> Vec<IpAddr> {
    match via {
        Via::Hop { hop, addresses, .. } => hop.iter().chain(addresses.iter()).copied().collect(),
        Via::Tunnel | Via::Unreachable => Vec::new(),
    }
}

/// Returns what lies directly in a remote prefix; what lies in something local shares its fate without an entry of its own.
fn throws(
    plan: &Plan,
    facts: &HostFacts,
    remote: &[(Prefix, ResolvedRoute<'_>)],
    held: &BTreeMap<Prefix, Held<'_>>,
) -> BTreeSet<Prefix> {
    let is_remote = |prefix: &Prefix| remote.binary_search_by(|(other, _)| other.cmp(prefix)).is_ok();
    let connected = facts.links.values().flat_map(|link| link.networks());
    let here = connected.chain(plan.local.iter().chain(&plan.own).chain(&plan.lent).copied());
    let here = here.filter(|prefix| !is_remote(prefix) && !held.contains_key(prefix));
    let here: Prefixes = here.collect();
    let remote: Prefixes = remote.iter().map(|(prefix, _)| *prefix).collect();
    let in_remote = |prefix: &&Prefix| match (remote.around(prefix), here.around(prefix)) {
        (Some(remote), Some(here)) => remote.length() > here.length(),
        (remote, _) => remote.is_some(),
    };
    here.iter().filter(in_remote).copied().collect()
}
