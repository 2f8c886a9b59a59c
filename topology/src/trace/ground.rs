//! Who has which address, and who is whose neighbour, in one or several publications.

use std::{
    collections::BTreeSet,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use crate::{Family, LeaderRole, Location, LocationName, Mesh, NodeName, PeerName, Prefix, PublicKey};

/// Where an address can be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// On a node, or in a pod there.
    Node(NodeName),
    /// In the `cidrs` of a location.
    Lan(LocationName),
    /// Behind a Peer.
    Peer(PeerName),
}

/// An address to send from or to.
#[derive(Clone, Debug)]
pub struct Spot {
    /// Where it is.
    pub place: Place,
    /// The location; for a Peer its home.
    pub location: Option<LocationName>,
    /// The address.
    pub address: IpAddr,
    /// It is the overlay address of a leader.
    pub overlay: bool,
}

impl fmt::Display for Spot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Node(name) => write!(f, "{name}/{}", self.address),
            Place::Lan(name) => write!(f, "lan {name}/{}", self.address),
            Place::Peer(name) => write!(f, "peer {name}/{}", self.address),
        }
    }
}

/// Who has which address, and who is whose neighbour: what is true whatever nodes plan. The newest publication is last.
#[derive(Debug)]
pub struct GroundTruth<'a> {
    publications: Vec<&'a Mesh>,
    networks: Vec<Vec<(Prefix, Place)>>,
    neighbours: BTreeSet<(NodeName, NodeName)>,
    groupless: BTreeSet<NodeName>,
}

impl<'a> GroundTruth<'a> {
    /// Returns the truth of one publication, or of several between which the nodes are.
    #[must_use]
    pub fn new(publications: impl IntoIterator<Item = &'a Mesh>) -> Self {
        let publications: Vec<_> = publications.into_iter().collect();
        let locations = publications.iter().flat_map(|mesh| mesh.locations.values());
        let pairs = locations.flat_map(|location| {
            let nodes = || location.members.keys();
            nodes().flat_map(move |a| nodes().map(|b| (a.clone(), b.clone())))
        });
        Self {
            neighbours: pairs.collect(),
            networks: publications.iter().map(|mesh| networks(mesh)).collect(),
            publications,
            groupless: BTreeSet::new(),
        }
    }

    /// Makes the WireGuard of these nodes one without groups, as the kernel's is.
    #[must_use]
    pub fn without_groups(mut self, nodes: impl IntoIterator<Item = NodeName>) -> Self {
        self.groupless.extend(nodes);
        self
    }

    /// Returns whether the WireGuard of a node takes what one leader of a location sends for another.
    #[must_use]
    pub fn has_groups(&self, node: &NodeName) -> bool {
        !self.groupless.contains(node)
    }

    /// Returns who has an address: in each publication the owner of the longest match.
    #[must_use]
    pub fn hosts(&self, address: IpAddr) -> BTreeSet<Place> {
        let owners = self
            .networks
            .iter()
            .filter_map(|networks| owner(networks, address));
        owners.cloned().collect()
    }

    /// Returns whether two nodes are on one CNI island.
    #[must_use]
    pub fn near(&self, a: &NodeName, b: &NodeName) -> bool {
        self.neighbours.contains(&(a.clone(), b.clone()))
    }

    /// Returns whether a node has an address or pods of a family.
    #[must_use]
    pub fn speaks(&self, node: &NodeName, family: Family) -> bool {
        let here = |(prefix, place): &(Prefix, Place)| {
            prefix.family() == family && matches!(place, Place::Node(name) if name == node)
        };
        self.networks.iter().flatten().any(here)
    }

    /// Returns whether the CNI or the LAN brings a packet from a node to a place.
    #[must_use]
    pub fn delivers(&self, at: &NodeName, to: &Place) -> bool {
        match to {
            Place::Node(node) => self.near(at, node),
            Place::Lan(location) => {
                let member = |location: &Location| location.members.contains_key(at);
                self.publications
                    .iter()
                    .any(|mesh| mesh.locations.get(location).is_some_and(member))
            }
            Place::Peer(_) => false,
        }
    }

    /// Returns the leader that serves Peers and `cidrs`.
    #[must_use]
    pub fn first(&self, location: &LocationName) -> Option<NodeName> {
        let location = self.publications.last()?.locations.get(location)?;
        location.active().next().cloned()
    }

    /// Returns where a Peer enters the mesh on its way to an address.
    #[must_use]
    pub fn entry(&self, peer: &PeerName, to: IpAddr) -> Option<LocationName> {
        let mesh = self.publications.last()?;
        let peer = mesh.peers.get(peer)?;
        let near = self.hosts(to).into_iter().filter_map(|place| match place {
            Place::Node(node) => location_of(mesh, &node),
            Place::Lan(location) => Some(location),
            Place::Peer(other) => mesh.peers.get(&other)?.home.clone(),
        });
        let mut attached = near.filter(|location| peer.attachments.contains(location));
        attached.next().or_else(|| peer.home.clone())
    }

    /// Returns the key of a node.
    #[must_use]
    pub fn key(&self, node: &NodeName) -> Option<PublicKey> {
        let mut members = self
            .publications
            .iter()
            .rev()
            .flat_map(|mesh| mesh.locations.values());
        members.find_map(|location| location.members.get(node)?.public_key)
    }

    /// Returns the key of a Peer.
    #[must_use]
    pub fn peer_key(&self, peer: &PeerName) -> Option<PublicKey> {
        Some(self.publications.last()?.peers.get(peer)?.public_key)
    }

    /// Returns the spot of an address in the newest publication.
    #[must_use]
    pub fn spot(&self, address: IpAddr) -> Option<Spot> {
        let mesh = self.publications.last()?;
        let place = owner(self.networks.last()?, address)?.clone();
        Some(spot(mesh, place, address))
    }

    /// Returns an address of everything that the newest publication knows.
    #[must_use]
    pub fn spots(&self) -> Vec<Spot> {
        let Some(mesh) = self.publications.last() else {
            return Vec::new();
        };
        let networks = self.networks.last().into_iter().flatten().cloned();
        let plain = networks.filter_map(|(prefix, place)| {
            let address = sample(prefix, |address| {
                self.hosts(address) == BTreeSet::from([place.clone()])
            })?;
            Some(spot(mesh, place, address))
        });
        plain.collect()
    }
}

/// Returns the owner of the longest match; of equal ones a node.
fn owner(networks: &[(Prefix, Place)], address: IpAddr) -> Option<&Place> {
    let matching = networks.iter().filter(|(prefix, _)| prefix.contains(address));
    let best = matching.max_by_key(|(prefix, place)| (prefix.length(), matches!(place, Place::Node(_))));
    best.map(|(_, place)| place)
}

fn spot(mesh: &Mesh, place: Place, address: IpAddr) -> Spot {
    let location = match &place {
        Place::Node(node) => location_of(mesh, node),
        Place::Lan(location) => Some(location.clone()),
        Place::Peer(peer) => mesh.peers.get(peer).and_then(|peer| peer.home.clone()),
    };
    Spot {
        place,
        location,
        address,
        overlay: is_overlay(mesh, address),
    }
}

/// Returns the location where a node is a member.
fn location_of(mesh: &Mesh, node: &NodeName) -> Option<LocationName> {
    let mut locations = mesh
        .locations
        .iter()
        .filter(|(_, location)| location.members.contains_key(node));
    locations.next().map(|(name, _)| name.clone())
}

fn is_overlay(mesh: &Mesh, address: IpAddr) -> bool {
    let mut members = mesh
        .locations
        .values()
        .flat_map(|location| location.members.values());
    members.any(|member| member.overlay.contains(&address))
}

/// Returns every network with its place; overlay addresses of leaders only.
fn networks(mesh: &Mesh) -> Vec<(Prefix, Place)> {
    let mut networks = Vec::new();
    for (name, location) in &mesh.locations {
        for (node, member) in location.members.iter() {
            let leads = matches!(
                location.role(node),
                Some(LeaderRole::Active | LeaderRole::Standby)
            );
            let overlay = member.overlay.iter().filter(|_| leads);
            let hosts = member
                .addresses
                .iter()
                .chain(overlay)
                .map(|address| Prefix::host(*address));
            let all = hosts.chain(member.prefixes.iter().copied());
            networks.extend(all.map(|prefix| (prefix, Place::Node(node.clone()))));
        }
        let cidrs = location.settings.cidrs.iter();
        networks.extend(cidrs.map(|cidr| (*cidr, Place::Lan(name.clone()))));
    }
    for (name, peer) in &mesh.peers {
        let allowed = peer.allowed_ips.iter();
        networks.extend(allowed.map(|prefix| (*prefix, Place::Peer(name.clone()))));
    }
    networks
}

/// Returns an address in the network that is right.
fn sample(prefix: Prefix, right: impl Fn(IpAddr) -> bool) -> Option<IpAddr> {
    let free = prefix.family().bits() - prefix.length();
    let mask = 1_u128
        .checked_shl(u32::from(free))
        .map_or(u128::MAX, |size| size - 1);
    let address = |offset: u128| {
        Some(match prefix.address() {
            IpAddr::V4(base) => Ipv4Addr::from(u32::from(base) | u32::try_from(offset & mask).ok()?).into(),
            IpAddr::V6(base) => Ipv6Addr::from(u128::from(base) | (offset & mask)).into(),
        })
    };
    [7, 0, 99, 201, 1234, 77_777]
        .into_iter()
        .filter_map(address)
        .find(|address| right(*address))
}
