//! What was found on the machine that is not Spanwire's to decide.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use spanwire_topology::{Family, Prefix};

use crate::{Cni, LinkName, OtherLink};

/// What is found on the machine besides Spanwire.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inventory {
    /// The devices of others that are up, without loopback's own addresses.
    pub links: BTreeMap<LinkName, OtherLink>,
    /// How the CNI carries traffic inside the location.
    pub cni: Cni,
    /// The smallest MTU on the ways to the endpoints, or, with none of them reachable, on the default routes.
    pub underlay_mtu: Option<u32>,
    /// The families that have a default route.
    pub default_routes: BTreeSet<Family>,
    /// The WireGuard in use lets peers of one group send each other's sources.
    pub groups: bool,
}

impl Inventory {
    /// Returns the networks that are connected to devices of others.
    pub fn networks(&self) -> impl Iterator<Item = Prefix> {
        self.links.values().flat_map(OtherLink::networks)
    }
}

/// What the WireGuard device counts for one peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerStats {
    /// Where the peer was last heard, or is looked for.
    pub endpoint: Option<SocketAddr>,
    /// How long before the reading the last handshake was; `None` where there was none.
    pub handshake: Option<Duration>,
    /// Bytes received from it.
    pub received: u64,
    /// Bytes sent to it.
    pub sent: u64,
}
