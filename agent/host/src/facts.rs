//! What `render` must know of the machine besides the plan.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use spanwire_topology::{LocationName, Prefix, PublicKey};

use crate::{LinkName, Owned};

/// What is found on the machine, and what the agent remembers; everything `render` needs besides the plan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostFacts {
    /// The identifiers that are Spanwire's.
    pub owned: Owned,
    /// This node's key.
    pub public_key: Option<PublicKey>,
    /// Devices that are not Spanwire's, by name: with addresses and MTU.
    pub links: BTreeMap<LinkName, OtherLink>,
    /// How the CNI carries traffic inside the location.
    pub cni: Cni,
    /// Largest packet towards each remote endpoint's network, as the smallest MTU of the devices with a default route
    /// or towards endpoints; `None` where there is no route yet.
    pub underlay_mtu: Option<u32>,
    /// Every endpoint is reached by IPv4, whose header is 20 bytes shorter; `false` where that is not known.
    pub underlay_v4_only: bool,
    /// Endpoints to give to peers now (new peers, changed configuration, stale handshakes); other peers keep theirs.
    pub endpoints: BTreeMap<PublicKey, SocketAddr>,
    /// Locations whose traffic has been in the tunnel long enough that nothing of it may be anywhere else: for these
    /// plaintext is dropped and a foreign arrival is taken for spoofed.
    pub settled: BTreeSet<LocationName>,
    /// The WireGuard in use lets peers of one group send each other's sources.
    pub groups: bool,
    /// Where this node reaches the API server.
    pub api_server: BTreeSet<SocketAddr>,
}

/// A device of somebody else.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OtherLink {
    /// Largest packet, in bytes.
    pub mtu: u32,
    /// Its addresses with the length of the network they are in: 10.1.0.5 with 24 is in 10.1.0.0/24.
    pub addresses: BTreeSet<(IpAddr, u8)>,
    /// The device leads to pods of this node or is the CNI's (bridge, vxlan), not to a LAN.
    pub cni: bool,
}

impl OtherLink {
    /// The networks that are connected by this device.
    pub fn networks(&self) -> impl Iterator<Item = Prefix> {
        self.addresses
            .iter()
            .filter_map(|(address, length)| Prefix::new(*address, *length).ok())
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
}
