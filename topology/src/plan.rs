//! What one node has to do.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use crate::{Endpoint, Keepalive, LeaderRole, LocationName, NodeName, PeerName, Prefix, PublicKey};

/// What one node has to do, in the words of the mesh; which device, table or mark that becomes is the host's affair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The node.
    pub me: NodeName,
    /// Its location; `None` when the mesh does not know the node (yet): then there is nothing to do.
    pub location: Option<LocationName>,
    /// Its part.
    pub role: Role,
    /// The WireGuard device of a leader.
    pub tunnel: Option<Tunnel>,
    /// Where packets to other locations and Peers go. Prefixes may nest; the longest match wins.
    pub routes: BTreeMap<Prefix, Route>,
    /// Prefixes of the own location (pods, nodes, cidrs, of all its members); the CNI and the LAN carry these, even
    /// where a wider prefix stands in `routes`.
    pub local: BTreeSet<Prefix>,
    /// What lives on this node itself: its pods' prefixes, its addresses, its overlay addresses.
    pub own: BTreeSet<Prefix>,
    /// On a leader: node addresses of other members of the own location, to which packets that came out of the tunnel
    /// go through the hop, never bare onto the LAN.
    pub returns: BTreeMap<Prefix, Via>,
}

/// The part a node plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The mesh does not know the node.
    Outside,
    /// It sends through a leader.
    Follower,
    /// It has a WireGuard device.
    Leader(LeaderRole),
}

/// The WireGuard device of a leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// The addresses of the device: the overlay addresses of this node.
    pub addresses: BTreeSet<IpAddr>,
    /// The UDP port it listens on.
    pub listen_port: u16,
    /// With whom it talks.
    pub peers: BTreeMap<PublicKey, TunnelPeer>,
}

/// One party at the other end of a tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunnelPeer {
    /// Who it is.
    pub party: Party,
    /// The overlay addresses of the leader at the other end; none for a Peer. Packets to these take the own overlay
    /// address as source, for only that is allowed and routed everywhere, also before two locations are established.
    pub overlay: BTreeSet<IpAddr>,
    /// Where it is reached, best first; empty: it has to begin.
    pub endpoints: Vec<Endpoint>,
    /// The interval of keepalives towards it.
    pub keepalive: Option<Keepalive>,
    /// What it may send from, and what is sent to it. No prefix stands with two parties.
    pub allowed_ips: BTreeSet<Prefix>,
}

/// The party at the other end.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Party {
    /// A leader: its location and its name.
    Leader(LocationName, NodeName),
    /// A Peer.
    Peer(PeerName),
}

/// Where packets to one prefix go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// How they leave this node.
    pub via: Via,
    /// The location where the prefix lives; for a Peer its home, or the own location where it is attached here.
    pub location: LocationName,
}

/// How packets leave this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Via {
    /// Through the WireGuard device.
    Tunnel,
    /// To a node of the own location, as the CNI or the LAN reaches it.
    Hop {
        /// That node.
        node: NodeName,
        /// The addresses of its CNI device, where it has reported any.
        hop: BTreeSet<IpAddr>,
        /// Its own addresses in the LAN.
        addresses: BTreeSet<IpAddr>,
    },
    /// Nowhere: established, but nobody carries it now. The sender is told 'unreachable'.
    Unreachable,
}
