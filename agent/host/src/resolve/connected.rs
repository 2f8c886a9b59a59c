//! Networks that are connected here and prefixes of other locations, where they are the same or lie in each other.
//!
//! Linux prefers the longer prefix, and so does the mesh: a remote pod network is routed into the mesh also where a LAN, a
//! VPN or a bridge here has a shorter mask. What is left are three kinds of clash, each of which is reported:
//!
//! * a network that is a remote prefix, too, stays on its device, of several on the one that Linux prefers: its neighbours
//!   there are not cut off. It never takes another way out of here;
//! * a network inside a remote prefix is a hole in it, also without a report where it is the LAN of this location;
//! * the address of a remote node in a network: nothing tells whether the mesh or the neighbour of that address is meant, so
//!   it is unreachable; but the router of this machine is needed, and is there, whatever a node elsewhere says that it has.
//!   So are its resolvers, which also lie in networks that are not connected (AWS's is the third address of the VPC, for all of
//!   its subnets).

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use spanwire_topology::{Holder, LocationName, Plan, Prefix, Route};

use crate::{Conflict, HostFacts, LinkName, prefixes::Prefixes};

/// A network that stays on its device, although it is a prefix of the mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Held<'a> {
    /// The device by which Linux looks for it.
    pub(crate) link: &'a LinkName,
    /// All devices that are in it.
    pub(crate) links: BTreeSet<&'a LinkName>,
    /// The address of this machine in the network.
    pub(crate) address: IpAddr,
    /// Where the prefix of the mesh lives.
    pub(crate) location: &'a LocationName,
}

/// The networks that are connected to devices of others.
pub(super) struct Connected<'a> {
    plan: &'a Plan,
    /// The routers of this machine.
    routers: &'a BTreeSet<IpAddr>,
    /// Whom it asks for names.
    resolvers: &'a BTreeSet<IpAddr>,
    /// Each with its device and the address in it; of several the one that Linux prefers.
    networks: BTreeMap<Prefix, (&'a LinkName, IpAddr)>,
    /// The devices of those that have more than one.
    shared: BTreeMap<Prefix, BTreeSet<&'a LinkName>>,
    /// Those of more than one address.
    wide: Prefixes,
    /// Addresses of nodes in connected networks, by network and location: the first of them, and how many.
    nodes: BTreeMap<(Prefix, &'a LocationName), (Prefix, usize)>,
}

impl<'a> Connected<'a> {
    pub(super) fn new(plan: &'a Plan, facts: &'a HostFacts) -> Self {
        let mut networks: BTreeMap<Prefix, (&LinkName, IpAddr)> = BTreeMap::new();
        let mut shared: BTreeMap<Prefix, BTreeSet<&LinkName>> = BTreeMap::new();
        let metric = |network: &Prefix, link: &LinkName| {
            let link = facts.links.get(link);
            link.map_or(u32::MAX, |link| link.reluctance(network))
        };
        for (name, link) in &facts.links {
            for (address, length) in &link.addresses {
                let Ok(network) = Prefix::new(*address, *length) else {
                    continue;
                };
                let known = networks.entry(network).or_insert((name, *address));
                if known.0 != name {
                    shared.entry(network).or_default().extend([known.0, name]);
                    if metric(&network, name) < metric(&network, known.0) {
                        *known = (name, *address);
                    }
                }
            }
        }
        let wide = networks.keys().filter(|network| !network.is_host());
        Self {
            plan,
            routers: &facts.routers,
            resolvers: &facts.resolvers,
            wide: wide.copied().collect(),
            networks,
            shared,
            nodes: BTreeMap::new(),
        }
    }

    /// Returns how a prefix of the mesh is held here; the conflict is added.
    pub(super) fn hold(
        &self,
        prefix: &Prefix,
        route: &'a Route,
        conflicts: &mut BTreeSet<Conflict>,
    ) -> Option<Held<'a>> {
        let network = match self.networks.contains_key(prefix) {
            true => *prefix,
            false => self.with_needed(prefix, route)?,
        };
        let (link, address) = self.networks.get(&network)?;
        let (prefix, location) = (*prefix, &route.location);
        conflicts.insert(if network == prefix {
            Conflict::Connected {
                prefix,
                location: location.clone(),
                link: (*link).clone(),
            }
        } else if self.routers.contains(&prefix.address()) {
            Conflict::Router {
                prefix,
                location: location.clone(),
                network,
            }
        } else {
            resolver(prefix, location)
        });
        let alone = || [*link].into();
        Some(Held {
            link,
            links: self.shared.get(&network).cloned().unwrap_or_else(alone),
            address: *address,
            location,
        })
    }

    /// Returns the network in which a prefix is the address of this machine's router or resolver, and that of a node of another location, too.
    fn with_needed(&self, prefix: &Prefix, route: &Route) -> Option<Prefix> {
        let address = prefix.address();
        let is_needed = self.routers.contains(&address) || self.resolvers.contains(&address);
        let is_claimed = is_needed && self.is_node_elsewhere(route);
        self.wide.around(prefix).filter(|_| is_claimed)
    }

    /// Returns the conflict of a prefix that is the address of a resolver of this machine, and that of a node of another location,
    /// too. Beyond what is connected it is left to the routes that the machine has.
    pub(super) fn asked(&self, prefix: &Prefix, route: &Route) -> Option<Conflict> {
        let is_asked = self.resolvers.contains(&prefix.address()) && self.is_node_elsewhere(route);
        is_asked.then(|| resolver(*prefix, &route.location))
    }

    /// Whether a prefix is the address of a node that may be a neighbour's here, a router's or a resolver's, too: where the mesh has no part
    /// in the family it knows neither the neighbours' addresses nor this machine's.
    pub(super) fn may_be_needed(&self, prefix: &Prefix, holder: Holder) -> bool {
        let address = prefix.address();
        let is_needed = self.routers.contains(&address) || self.resolvers.contains(&address);
        holder == Holder::Node && (is_needed || self.wide.around(prefix).is_some())
    }

    fn is_node_elsewhere(&self, route: &Route) -> bool {
        route.holder == Holder::Node && self.plan.location.as_ref() != Some(&route.location)
    }

    /// Whether a prefix is the address of a node of another location that may be a neighbour here.
    pub(super) fn doubtful(&mut self, prefix: &Prefix, route: &'a Route) -> bool {
        if !self.is_node_elsewhere(route) {
            return false;
        }
        let Some(network) = self.wide.around(prefix) else {
            return false;
        };
        let known = self.nodes.entry((network, &route.location));
        let (_, count) = known.or_insert((*prefix, 0));
        *count += 1;
        true
    }

    /// Adds the conflicts of networks inside prefixes of the mesh, of those that `routed` says, and of nodes that were found
    /// to be [doubtful](Self::doubtful).
    pub(super) fn report(&self, routed: impl Fn(&Prefix) -> bool, conflicts: &mut BTreeSet<Conflict>) {
        for (network, (link, _)) in &self.networks {
            if network.is_host() || self.plan.routes.contains_key(network) || self.is_lan(network) {
                continue;
            }
            if let Some((prefix, route)) = self.around(network).filter(|(prefix, _)| routed(prefix)) {
                conflicts.insert(Conflict::Inside {
                    network: *network,
                    link: (*link).clone(),
                    prefix,
                    location: route.location.clone(),
                });
            }
        }
        for ((network, location), (first, count)) in &self.nodes {
            let Some((link, _)) = self.networks.get(network) else {
                continue;
            };
            conflicts.insert(Conflict::Nodes {
                network: *network,
                link: (*link).clone(),
                location: (*location).clone(),
                first: first.address(),
                count: *count,
            });
        }
    }

    /// Returns the remote prefix in which a network lies directly, not in something local that lies in it.
    fn around(&self, network: &Prefix) -> Option<(Prefix, &'a Route)> {
        let shorter = (0..=network.length()).rev();
        let mut prefixes = shorter.filter_map(|length| Prefix::new(network.address(), length).ok());
        prefixes.find_map(|prefix| {
            let here = self.plan.local.contains(&prefix) || self.plan.own.contains(&prefix);
            let route = self.plan.routes.get(&prefix);
            // `Some(None)` ends the search.
            (here || route.is_some()).then(|| route.filter(|_| !here).map(|route| (prefix, route)))
        })?
    }

    /// Whether this node has the address by which the mesh knows it in the network.
    fn is_lan(&self, network: &Prefix) -> bool {
        let own = self.plan.own.iter().filter(|prefix| prefix.is_host());
        let mut addresses = own.map(Prefix::address);
        addresses.any(|address| network.contains(address))
    }
}

fn resolver(prefix: Prefix, location: &LocationName) -> Conflict {
    Conflict::Resolver {
        prefix,
        location: location.clone(),
    }
}
