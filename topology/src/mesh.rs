//! Everything the operator decided. Published in LocationSlices and in the status of Peers; agents put it together
//! again from what they have seen of these, so an agent's mesh may be a mixture of two publications.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use crate::{Endpoint, LocationName, NodeName, PeerName, Prefix, PublicKey, SecretKeyRef};

/// Counts the decisions, from 1. A larger number is a later decision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Generation(pub u64);

/// Seconds between keepalives, 1 to 65535 (WireGuard whitepaper, section 6.5: PERSISTENT_KEEPALIVE).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Keepalive(pub u16);

/// The decided mesh.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mesh {
    /// Which decision this is.
    pub generation: Generation,
    /// Every location that has a node or an object, and every other one that is still established with some.
    pub locations: BTreeMap<LocationName, Location>,
    /// Every accepted Peer.
    pub peers: BTreeMap<PeerName, Peer>,
}

/// One location as decided.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Location {
    /// Its leaders in order of preference: the active ones, then the standby ones. With [`MeshMode::Nodes`] every
    /// node that can lead is an active leader.
    pub leaders: Vec<Leader>,
    /// What holds for the whole location.
    pub settings: Settings,
    /// The other locations with which traffic is in the tunnel or nowhere. With [`MeshMode::Nodes`] the location's own
    /// name may be among them. Established is mutual: both sides list each other, and it stays, also when the last node
    /// of a side goes.
    pub established: BTreeSet<LocationName>,
    /// Its nodes. Shared: a decision that leaves a location's members as they were takes over the map of the decision
    /// before, so most of a large mesh is neither copied nor compared.
    pub members: Arc<BTreeMap<NodeName, Member>>,
}

/// A leader and its part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leader {
    /// The node that leads.
    pub node: NodeName,
    /// Whether it carries traffic.
    pub role: LeaderRole,
}

/// The part of a leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LeaderRole {
    /// Carries traffic.
    Active,
    /// Is connected, and takes over when it becomes active.
    Standby,
}

/// Who leads whom in a location.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum MeshMode {
    /// A few leaders carry the traffic of all.
    #[default]
    Leaders,
    /// Every node leads itself; traffic inside the location is encrypted too.
    Nodes,
}

/// How followers and leaders of a location hand packets to each other. All of its nodes have to do it alike.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum HopMode {
    /// As the CNI carries packets between nodes, or by the LAN as it is where the CNI has no device for that.
    #[default]
    Cni,
    /// By a VXLAN of Spanwire's own, as it has to be where the LAN delivers by who owns an address, and drops what others send from it.
    Vxlan,
}

/// What holds for a whole location.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Who leads whom.
    pub mode: MeshMode,
    /// Where the first active leader is reached from outside; the others can only initiate.
    pub endpoint: Option<Endpoint>,
    /// Accepted networks, other than pods and nodes, reachable here; carried by the first active leader.
    pub cidrs: BTreeSet<Prefix>,
    /// What comes from elsewhere to `cidrs` gets the leader's own address there.
    pub masquerade: bool,
    /// How its followers and leaders hand packets to each other.
    pub hop: HopMode,
    /// The interval of keepalives of tunnels from here, where a node does not say otherwise.
    pub keepalive: Option<Keepalive>,
}

/// A node of a location together with the prefixes that live behind it. Only accepted claims are here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Member {
    /// The decision that last changed this member. Where a mixture shows a prefix or a node twice, the higher wins.
    pub generation: Generation,
    /// Its own addresses in the LAN that the mesh routes.
    pub addresses: BTreeSet<IpAddr>,
    /// The networks of its pods.
    pub prefixes: BTreeSet<Prefix>,
    /// Its overlay addresses, at most one per family. They stay as long as the node exists.
    pub overlay: BTreeSet<IpAddr>,
    /// Where followers send packets for this node when it leads.
    pub hop: BTreeSet<IpAddr>,
    /// The largest packet that its network takes on the ways to other locations, WireGuard's headers included; `None`: that is not known.
    pub mtu: Option<u16>,
    /// Its key; without one it leads nothing.
    pub public_key: Option<PublicKey>,
    /// Where others reach its WireGuard, best first. Leaders of its own location use its addresses instead.
    pub endpoints: Vec<Endpoint>,
    /// The UDP port of its WireGuard.
    pub listen_port: u16,
    /// The interval of keepalives of its tunnels, where it has one of its own.
    pub keepalive: Option<Keepalive>,
}

/// A WireGuard party outside the cluster, as accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its key.
    pub public_key: PublicKey,
    /// The networks behind it.
    pub allowed_ips: BTreeSet<Prefix>,
    /// Where it is reached, where it can be.
    pub endpoint: Option<Endpoint>,
    /// The interval of keepalives that leaders send to it.
    pub keepalive: Option<Keepalive>,
    /// Where the preshared key is without which no leader talks to it; `None`: it has none.
    pub preshared: Option<SecretKeyRef>,
    /// Through this location the locations without an attachment reach it. `None`: no location can have it now.
    pub home: Option<LocationName>,
    /// The locations whose first active leader has a tunnel to it; the home is one of them.
    pub attachments: BTreeSet<LocationName>,
}

impl Location {
    /// Returns the active leaders in order of preference.
    pub fn active(&self) -> impl Iterator<Item = &NodeName> + Clone {
        self.leaders
            .iter()
            .filter(|leader| leader.role == LeaderRole::Active)
            .map(|leader| &leader.node)
    }

    /// Returns the members to change; a map that another mesh shares is copied first.
    pub fn members_mut(&mut self) -> &mut BTreeMap<NodeName, Member> {
        Arc::make_mut(&mut self.members)
    }

    /// Returns the part of a node, where it leads.
    #[must_use]
    pub fn role(&self, node: &NodeName) -> Option<LeaderRole> {
        self.leaders
            .iter()
            .find(|leader| leader.node == *node)
            .map(|leader| leader.role)
    }
}
