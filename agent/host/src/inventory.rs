//! What was found on the machine that is not Spanwire's to decide.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use spanwire_topology::{Family, Prefix};

use crate::{Elsewhere, Filter, IpsecPolicy, LinkName, OtherRule, TableId, Unread};

/// What is found on the machine besides Spanwire.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inventory {
    /// The devices of others that are up, without loopback's own addresses.
    pub links: BTreeMap<LinkName, OtherLink>,
    /// How the CNI carries traffic inside the location.
    pub cni: Cni,
    /// Networks of which every address is this machine's, by routes of the type `local` that others have made ("AnyIP"), each with its
    /// device.
    pub local_routes: BTreeMap<Prefix, LinkName>,
    /// The smallest MTU on the ways to the endpoints, or, with none of them reachable, on the default routes.
    pub underlay_mtu: Option<u32>,
    /// Rules of other programs.
    pub rules: BTreeSet<OtherRule>,
    /// Those of their tables that have a route for everything, or for half of it, or forbid that.
    pub wide_tables: BTreeSet<(Family, TableId)>,
    /// Those of them that only forbid.
    pub closed_tables: BTreeSet<(Family, TableId)>,
    /// What the tables of their rules for marks have a route to, or forbid.
    pub marked_routes: BTreeMap<(Family, TableId), BTreeSet<Prefix>>,
    /// Policies of IPsec for what leaves.
    pub ipsec: BTreeSet<IpsecPolicy>,
    /// The routers of the default routes.
    pub routers: BTreeSet<IpAddr>,
    /// Whom this machine asks for names.
    pub resolvers: BTreeSet<IpAddr>,
    /// The families that have a default route.
    pub default_routes: BTreeSet<Family>,
    /// IPv6 is off on new devices and, where there is one, on Spanwire's (also where the kernel has no IPv6).
    pub ipv6_disabled: bool,
    /// IPv6 was forwarded before Spanwire came.
    pub ipv6_forwarded: bool,
    /// The WireGuard in use lets peers of one group send each other's sources.
    pub groups: bool,
    /// What others filter forwarded packets by.
    pub filters: Arc<Vec<Filter>>,
    /// What others filter packets for this machine by; only of a leader.
    pub inputs: Arc<Vec<Filter>>,
    /// What others filter packets by where they are neither forwarded nor for this machine.
    pub elsewhere: BTreeMap<Elsewhere, Arc<Vec<Filter>>>,
    /// What others filter packets by and cannot be read.
    pub unread: BTreeSet<Unread>,
    /// The devices by which endpoints are reached, or, with none of them known, what is anywhere.
    pub uplinks: BTreeSet<LinkName>,
}

impl Inventory {
    /// Returns the networks that are connected to devices of others.
    pub fn networks(&self) -> impl Iterator<Item = Prefix> {
        self.links.values().flat_map(OtherLink::networks)
    }
}

/// A device that is not Spanwire's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OtherLink {
    /// Largest packet, in bytes.
    pub mtu: u32,
    /// Its addresses with the length of the network they are in: 10.1.0.5 with 24 is in 10.1.0.0/24.
    pub addresses: BTreeSet<(IpAddr, u8)>,
    /// The metric of the route to each of its networks, where it has one.
    pub metrics: BTreeMap<Prefix, u32>,
    /// Of a VXLAN: the address of this machine that its packets come from.
    pub tunnel_from: Option<IpAddr>,
    /// The device leads to pods of this node or is the CNI's (bridge, vxlan), not to a LAN.
    pub cni: bool,
    /// IPv6 is off on this device.
    pub ipv6_disabled: bool,
    /// The device heeds router advertisements unless the machine forwards (`accept_ra` is 1).
    pub advertisements: bool,
}

impl OtherLink {
    /// Returns the networks that are connected by this device.
    pub fn networks(&self) -> impl Iterator<Item = Prefix> {
        self.addresses
            .iter()
            .filter_map(|(address, length)| Prefix::new(*address, *length).ok())
    }

    /// Returns how little Linux prefers this device for one of its networks; most of all where it has no route to it.
    pub(crate) fn reluctance(&self, network: &Prefix) -> u32 {
        self.metrics.get(network).copied().unwrap_or(u32::MAX)
    }
}

/// How the CNI carries packets inside the location, as far as the hop from a follower to its leader needs it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Cni {
    /// Nothing is known: leaders are reached directly, at their address in the LAN.
    #[default]
    Direct,
    /// By a device with an address of its own on every node (`flannel.1`): packets go `via` the leader's address on it,
    /// `onlink`. One device per family; flannel has `flannel.1` and `flannel-v6.1`.
    Overlay {
        /// The devices.
        links: BTreeSet<LinkName>,
    },
    /// Calico's: packets go the way of its own route to the leader's address on its device, which lies in the leader's block;
    /// so a leader in the same subnet is reached directly where the pool is `CrossSubnet`, and every one without a device
    /// where nothing is encapsulated.
    Calico {
        /// Its devices with an address of this node: `vxlan.calico`, `vxlan-v6.calico`, `tunl0`.
        links: BTreeMap<LinkName, Encapsulation>,
        /// Its routes to the blocks of other nodes.
        routes: Arc<BTreeMap<Prefix, CniRoute>>,
    },
    /// In a way that takes nothing from other locations, as flannel's WireGuard back-end, whose peers are allowed each its
    /// own pods alone.
    Unsupported {
        /// The device.
        link: LinkName,
    },
}

impl Cni {
    /// Returns the devices by which it carries packets between nodes.
    pub fn links(&self) -> impl Iterator<Item = &LinkName> {
        let (flannels, calicos) = match self {
            Self::Overlay { links } => (Some(links), None),
            Self::Calico { links, .. } => (None, Some(links)),
            Self::Direct | Self::Unsupported { .. } => (None, None),
        };
        let calicos = calicos.into_iter().flat_map(BTreeMap::keys);
        flannels.into_iter().flatten().chain(calicos)
    }

    /// Returns Calico's route to an address.
    pub(crate) fn route(&self, address: IpAddr) -> Option<&CniRoute> {
        let Self::Calico { routes, .. } = self else {
            return None;
        };
        let mut longest_first = (0..=Prefix::host(address).length()).rev();
        longest_first.find_map(|length| routes.get(&Prefix::new(address, length).ok()?))
    }
}

/// How Calico's packets travel between nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Encapsulation {
    /// By a device whose neighbours are the devices of the other nodes, at their addresses there.
    Vxlan,
    /// By a device whose neighbours are the other nodes, at their addresses in the LAN.
    Ipip,
}

/// A route of the CNI to another node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CniRoute {
    /// The device.
    pub link: LinkName,
    /// The neighbour there.
    pub via: IpAddr,
}

/// What the WireGuard device counts for one peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerStats {
    /// Where the peer was last heard, or is looked for.
    pub endpoint: Option<SocketAddr>,
    /// How long before the reading the last handshake was; `None` where there was none.
    pub handshake: Option<Duration>,
    /// When that was by the wall clock of that time, since 1970. It stays as it is until the next handshake, whatever
    /// becomes of the clock.
    pub handshake_at: Option<Duration>,
    /// Bytes received from it.
    pub received: u64,
    /// Bytes sent to it.
    pub sent: u64,
}
