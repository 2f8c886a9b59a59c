use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use spanwire_topology::{Family, LocationName, Plan, Prefix, Via};

use crate::{Cni, Conflict, HostFacts, LinkName, prefixes::Prefixes};

/// The plan's routes as this machine can have them.
#[derive(Debug)]
pub(crate) struct Paths {
    /// Every prefix that is routed into the mesh.
    pub(crate) remote: BTreeMap<Prefix, Path>,
    /// Networks of the own location and connected ones that lie in a wider prefix of `remote`. Others need no entry in
    /// the table: what no remote prefix covers falls through it anyway, so a location of thousands of nodes costs none.
    pub(crate) throws: BTreeSet<Prefix>,
    /// Node addresses to which packets from the tunnel go through the CNI's device.
    pub(crate) returns: BTreeMap<Prefix, Path>,
    /// The devices that packets of the mesh use inside the location.
    pub(crate) hops: BTreeSet<LinkName>,
    /// What had to be left out.
    pub(crate) conflicts: BTreeSet<Conflict>,
}

/// Where packets to one prefix go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Path {
    /// The device and what is needed on it; `None` when nobody carries the prefix now.
    pub(crate) way: Option<Way>,
    /// The source for packets that have none yet.
    pub(crate) source: Option<IpAddr>,
    /// Where the prefix lives.
    pub(crate) location: LocationName,
}

/// How packets leave this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// Through the WireGuard device.
    Tunnel,
    /// Through the CNI's device, to a neighbour's address on it, which need not be in a connected network.
    Overlay(LinkName, IpAddr),
    /// Through the LAN, to a neighbour's address in a connected network.
    Lan(LinkName, IpAddr),
}

impl Paths {
    /// The path through the active leader, which every prefix behind it has.
    pub(crate) fn hop(&self, family: Family) -> Option<&Path> {
        let through = |path: &&Path| matches!(path.way, Some(Way::Overlay(..) | Way::Lan(..)));
        let paths = self.remote.iter().filter(|(prefix, _)| prefix.family() == family);
        paths.map(|(_, path)| path).find(through)
    }

    pub(crate) fn new(plan: &Plan, facts: &HostFacts) -> Self {
        let mut conflicts = BTreeSet::new();
        let own = plan.location.as_ref();
        let overlays: BTreeSet<IpAddr> = tunnel_overlays(plan);
        let sources = [Family::V4, Family::V6].map(|family| own_address(plan, facts, family));
        let lans = lans(facts);
        let leads = plan.tunnel.is_some() && facts.public_key.is_some();

        let mut remote = BTreeMap::new();
        for (prefix, route) in &plan.routes {
            let foreign = own != Some(&route.location);
            if let Some((network, link)) = connected(&lans, prefix, foreign) {
                conflicts.insert(Conflict::Connected {
                    prefix: *prefix,
                    location: route.location.clone(),
                    link: link.clone(),
                    network: *network,
                });
                continue;
            }
            let way = way(facts, prefix.family(), &route.via, &mut conflicts)
                .filter(|way| leads || *way != Way::Tunnel);
            let towards_overlay = prefix.is_host() && overlays.contains(&prefix.address());
            let source = match (&way, towards_overlay) {
                (Some(Way::Tunnel), true) => own_overlay(plan, prefix.family()),
                _ => sources[usize::from(prefix.family() == Family::V6)],
            };
            let location = route.location.clone();
            remote.insert(
                *prefix,
                Path {
                    way,
                    source,
                    location,
                },
            );
        }

        let returns = returns(plan, facts);
        let hops = hops(facts, remote.values().chain(returns.values()));
        Self {
            throws: throws(plan, facts, &remote),
            remote,
            returns,
            hops,
            conflicts,
        }
    }

    /// Whether anything is routed in this family.
    pub(crate) fn uses(&self, family: Family) -> bool {
        self.remote.keys().any(|prefix| prefix.family() == family)
    }
}

/// This node's address of the family by which the mesh knows it: the source of what the node itself sends. Its address
/// in the LAN, else any address of its devices that lies in a prefix of its own (where node addresses are left out of
/// the mesh, that of the pod bridge), else its overlay address.
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
    found.or_else(|| own_overlay(plan, family))
}

pub(super) fn own_overlay(plan: &Plan, family: Family) -> Option<IpAddr> {
    let tunnel = plan.tunnel.as_ref()?;
    tunnel
        .addresses
        .iter()
        .copied()
        .find(|address| Family::of(*address) == family)
}

fn tunnel_overlays(plan: &Plan) -> BTreeSet<IpAddr> {
    let peers = plan.tunnel.iter().flat_map(|tunnel| tunnel.peers.values());
    peers.flat_map(|peer| peer.overlay.iter().copied()).collect()
}

/// Connected networks that a remote prefix may clash with. The CNI's devices are left out: some CNIs connect the
/// network of all pods of the cluster.
fn lans(facts: &HostFacts) -> BTreeMap<Prefix, LinkName> {
    let links = facts.links.iter().filter(|(_, link)| !link.cni);
    let networks = links.flat_map(|(name, link)| link.networks().map(move |network| (network, name.clone())));
    networks.filter(|(network, _)| !network.is_host()).collect()
}

/// The connected network that forbids to route `prefix` into the mesh. Nodes of the own location (with mesh: Nodes) are
/// in connected networks and routed all the same; only the network as a whole is not.
fn connected<'a>(
    lans: &'a BTreeMap<Prefix, LinkName>,
    prefix: &Prefix,
    foreign: bool,
) -> Option<(&'a Prefix, &'a LinkName)> {
    lans.iter().find(|(network, _)| {
        if foreign {
            network.covers(prefix)
        } else {
            *network == prefix
        }
    })
}

fn way(facts: &HostFacts, family: Family, via: &Via, conflicts: &mut BTreeSet<Conflict>) -> Option<Way> {
    match via {
        Via::Tunnel => Some(Way::Tunnel),
        Via::Unreachable => None,
        Via::Hop { node, hop, addresses } => {
            let way = over_cni(facts, family, hop)
                .unwrap_or_else(|| over_lan(facts, family, addresses))
                .filter(|way| way.link().is_none_or(nameable));
            if way.is_none() {
                conflicts.insert(Conflict::NoHop { node: node.clone() });
            }
            way
        }
    }
}

impl Way {
    pub(crate) fn link(&self) -> Option<&LinkName> {
        match self {
            Self::Tunnel => None,
            Self::Overlay(link, _) | Self::Lan(link, _) => Some(link),
        }
    }
}

/// Whether nft takes the name for this device and no other: it has no escapes, and '*' stands for any ending.
fn nameable(link: &LinkName) -> bool {
    !link.as_str().contains(['"', '*', '\\'])
}

/// The way over the CNI's device; outer `None` where no device of the CNI carries the family.
fn over_cni(facts: &HostFacts, family: Family, hop: &BTreeSet<IpAddr>) -> Option<Option<Way>> {
    let Cni::Overlay { links } = &facts.cni else {
        return None;
    };
    let carries = |name: &&LinkName| {
        facts.links.get(name).is_some_and(|link| {
            let mut addresses = link.addresses.iter().map(|(address, _)| *address);
            addresses.any(|address| Family::of(address) == family && !link_local(address))
        })
    };
    let link = links.iter().find(carries)?;
    let address = hop.iter().find(|address| Family::of(**address) == family);
    Some(address.map(|address| Way::Overlay(link.clone(), *address)))
}

fn link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

fn over_lan(facts: &HostFacts, family: Family, addresses: &BTreeSet<IpAddr>) -> Option<Way> {
    let lans = lans(facts);
    let candidates = addresses.iter().filter(|address| Family::of(**address) == family);
    candidates
        .filter_map(|address| {
            let (_, link) = lans.iter().find(|(network, _)| network.contains(*address))?;
            Some(Way::Lan(link.clone(), *address))
        })
        .next()
}

/// Ways back to followers' node addresses over the CNI's device. Others need no entry: `main` has the same.
fn returns(plan: &Plan, facts: &HostFacts) -> BTreeMap<Prefix, Path> {
    let location = plan.location.clone();
    let entry = |(prefix, via): (&Prefix, &Via)| {
        let way = way(facts, prefix.family(), via, &mut BTreeSet::new());
        let over_cni = matches!(way, Some(Way::Overlay(..)));
        let location = location.clone().filter(|_| over_cni)?;
        Some((
            *prefix,
            Path {
                way,
                source: None,
                location,
            },
        ))
    };
    plan.returns.iter().filter_map(entry).collect()
}

fn hops<'a>(facts: &HostFacts, paths: impl Iterator<Item = &'a Path>) -> BTreeSet<LinkName> {
    let mut hops: BTreeSet<LinkName> = paths
        .filter_map(|path| path.way.as_ref()?.link().cloned())
        .collect();
    if let Cni::Overlay { links } = &facts.cni {
        let present = links.iter().filter(|link| facts.links.contains_key(link));
        hops.extend(present.filter(|link| nameable(link)).cloned());
    }
    hops
}

/// What lies directly in a remote prefix; what lies in something local shares its fate without an entry of its own.
fn throws(plan: &Plan, facts: &HostFacts, remote: &BTreeMap<Prefix, Path>) -> BTreeSet<Prefix> {
    let connected = facts.links.values().flat_map(|link| link.networks());
    let here = connected.chain(plan.local.iter().chain(&plan.own).copied());
    let here: BTreeSet<Prefix> = here.filter(|prefix| !remote.contains_key(prefix)).collect();
    let all: Prefixes = remote.keys().chain(&here).copied().collect();
    let in_remote = |prefix: &Prefix| {
        all.around(prefix)
            .is_some_and(|around| remote.contains_key(&around))
    };
    here.into_iter().filter(in_remote).collect()
}

/// An address of the API server that stands in the mesh, and that this node reaches or serves past the mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Exempt {
    /// Host and port.
    pub(crate) address: SocketAddr,
    /// The API server runs on this node: what it answers goes past the mesh too.
    pub(crate) served_here: bool,
}

/// A fault of the mesh must not cut a node off from its cure, so the API server is reached as without the mesh.
pub(crate) fn exempt(plan: &Plan, paths: &Paths, facts: &HostFacts) -> BTreeSet<Exempt> {
    let covers: Prefixes = paths.remote.keys().copied().collect();
    let exempt = |address: &SocketAddr| {
        let host = Prefix::host(address.ip());
        let served_here = plan.own.contains(&host);
        let remote = covers.covering(&host).is_some();
        let concerned = remote || (served_here && paths.uses(host.family()));
        let address = *address;
        concerned.then_some(Exempt { address, served_here })
    };
    facts.api_server.iter().filter_map(exempt).collect()
}
