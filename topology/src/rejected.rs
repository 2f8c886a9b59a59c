//! What a decision could not grant, and why: data for conditions and Events.

use std::collections::BTreeMap;

use thiserror::Error;

use crate::{LocationName, Mesh, NodeName, PeerName, Prefix, PublicKey};

/// What [`decide`](crate::decide()) answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// The mesh as it now is.
    pub mesh: Mesh,
    /// Claims that were not granted, in a stable order, without repetition.
    pub rejected: Vec<Rejected>,
    /// Leaders that lead only until others can do without them. When that is so, or when it has taken too long, their fact
    /// is to say so ([`NodeFact::released`](crate::NodeFact::released)).
    pub leaving: BTreeMap<NodeName, Leaving>,
}

/// How far a leader is with leaving.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leaving {
    /// A leader that is to take over from it has not all of its links.
    InUse,
    /// The active leaders have all the links that it has: nothing uses it once every node has learnt of them.
    Replaced,
}

/// One claim that was not granted. Everything else that its object asks for is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rejected {
    /// Whose claim it is.
    pub by: Claimant,
    /// What was claimed.
    pub claim: Claim,
    /// Why it is not granted, and what to do.
    pub reason: RejectReason,
}

/// The object that claims.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Claimant {
    /// A Kubernetes node.
    Node(NodeName),
    /// A Location object.
    Location(LocationName),
    /// A Peer object.
    Peer(PeerName),
}

/// The field and the value of a claim.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Claim {
    /// A pod network of a node.
    PodPrefix(Prefix),
    /// An address of a node.
    NodeAddress(Prefix),
    /// A network named by `cidrs` of a Location, or by the annotation of a node.
    Cidr(Prefix),
    /// A network named by `nodeCIDRs` of a Location.
    NodeCidr(Prefix),
    /// A network named by `allowedIPs` of a Peer.
    AllowedIp(Prefix),
    /// A WireGuard key.
    PublicKey(PublicKey),
    /// Membership by the selector of this Location.
    Selector(LocationName),
    /// The overlay address that every node needs.
    Overlay(Prefix),
    /// The location that a Peer names.
    Location(LocationName),
}

/// Why a claim is not granted. The text says what to do.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Error)]
pub enum RejectReason {
    /// Another object has it, or a part of it.
    #[error("{holder} holds {held}, which overlaps; give one of them another network")]
    Taken {
        /// Who holds it.
        holder: Claimant,
        /// What the holder holds.
        held: Prefix,
    },
    /// The key belongs to another object.
    #[error("{0} has the same key; delete one key so that its owner makes a new one")]
    KeyTaken(Claimant),
    /// `0.0.0.0/0` or `::/0`.
    #[error("a default route cannot go through the mesh; name the networks that are meant")]
    DefaultRoute,
    /// It is a large part of all addresses.
    #[error("is a large part of all addresses, like half a default route; name the networks that are meant")]
    Vast,
    /// With the others of its object it is.
    #[error(
        "is, with the other public networks of this object, a large part of all addresses, like a default route in \
         parts; name the networks that are meant"
    )]
    VastTogether,
    /// It contains the address at which nodes reach the API server.
    #[error("contains {0}, where nodes reach the API server; leave that address out")]
    ApiServer(Prefix),
    /// A node claims the address at which nodes reach the API server.
    #[error(
        "is where nodes reach the API server, and this node is not labelled as one of the control plane; where the API \
         server does run here, set the label `node-role.kubernetes.io/control-plane`, or write {0} in `spec.nodeCIDRs` of \
         the Location {1}"
    )]
    NotControlPlane(Prefix, LocationName),
    /// It overlaps a network from which services get their addresses.
    #[error("overlaps {0}, from which services get their addresses; use another network")]
    Services(Prefix),
    /// A node claims an address that a service may have.
    #[error(
        "is in {0}, from which services get their addresses; where nodes of the Location {1} have addresses there, name their \
         network in its `spec.nodeCIDRs`"
    )]
    NodeInServices(Prefix, LocationName),
    /// A node claims a part of a network from which pod networks are allocated.
    #[error(
        "overlaps {0}, from which pod networks seem to be allocated; where it is no part of that, name it in {1} of the \
         Location {2}"
    )]
    PodRange(Prefix, LocationField, LocationName),
    /// A Peer claims a part of a network from which pod networks are allocated.
    #[error(
        "overlaps {0}, from which pod networks are allocated, or seem to be; use another network, or name those from which they \
         are in the chart's `podCIDRs`"
    )]
    PeerInPodRange(Prefix),
    /// It overlaps the pod network of a node.
    #[error("overlaps {1}, the pod network of node {0}; leave it out")]
    Pods(NodeName, Prefix),
    /// The Location says which addresses its nodes have, and this is none of them.
    #[error("is outside of `spec.nodeCIDRs` of the Location {0}; add its network there where it is right")]
    NotOfLocation(LocationName),
    /// A node claims an address in a network of the nodes of another Location.
    #[error(
        "is in {0}, which `spec.nodeCIDRs` of the Location {1} gives to its own nodes; where nodes of the Location {2} have \
         addresses there too, name their network in its `spec.nodeCIDRs`"
    )]
    NodeOfOther(Prefix, LocationName, LocationName),
    /// A node claims an address that one of another location has just lost.
    #[error(
        "was an address of node {0} of the Location {1} within the last hour, and is not granted elsewhere before that is over; where it \
         moved, name its network in `spec.nodeCIDRs` of the Location {2}"
    )]
    Former(NodeName, LocationName, LocationName),
    /// A range of IPv6 in which IPv4 addresses are written.
    #[error(
        "overlaps {0}, in which IPv4 addresses are written as IPv6; write the IPv4 network that is meant, or leave that \
         range out"
    )]
    Embedded(Prefix),
    /// It overlaps the pool of overlay addresses.
    #[error("overlaps {0}, from which the mesh takes its own addresses; use another network")]
    OverlayPool(Prefix),
    /// What a node says is written with credentials on its disk, so it may not claim what is public.
    #[error(
        "is public, and the node's own credentials are enough to claim it; where it is to be reached through the mesh, name \
         it in {0} of the Location {1}"
    )]
    NotPrivate(LocationField, LocationName),
    /// What a node says is written with credentials on its disk, so it may not claim what is a service of every machine's cloud.
    #[error(
        "overlaps {0}, where all machines of a cloud or of a VPN find its metadata, resolvers or the like, and the node's own \
         credentials are enough to claim it; where it is to be reached through the mesh, name that very network in {1} of the \
         Location {2}"
    )]
    ServedEverywhere(Prefix, LocationField, LocationName),
    /// Loopback, multicast, link-local, broadcast or unspecified.
    #[error(
        "has addresses in it that cannot be routed (loopback, multicast, link-local, broadcast or unspecified); leave them out"
    )]
    NotRoutable,
    /// The selector of a Location with a lower name matches the node too.
    #[error(
        "the node belongs to {0}, whose selector matches too; make the selectors disjoint, or annotate the node"
    )]
    SelectorClash(LocationName),
    /// The pool of overlay addresses is used up.
    #[error("the pool {0} has no free address; give the operator a larger one")]
    PoolExhausted(Prefix),
    /// There is no location of this name.
    #[error("there is no such location; write one of those that `kubectl get locations` shows")]
    NoSuchLocation,
}

/// The field of a Location by which an administrator allows what nodes claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Error)]
pub enum LocationField {
    /// Networks, other than pods and nodes.
    #[error("`spec.cidrs`")]
    Cidrs,
    /// Networks of the nodes' own addresses.
    #[error("`spec.nodeCIDRs`")]
    NodeCidrs,
}

impl std::fmt::Display for Claimant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Node(name) => write!(f, "node {name}"),
            Self::Location(name) => write!(f, "location {name}"),
            Self::Peer(name) => write!(f, "peer {name}"),
        }
    }
}

impl std::fmt::Display for Claim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::PodPrefix(prefix) => write!(f, "pod network {prefix}"),
            Self::NodeAddress(prefix) => write!(f, "node address {prefix}"),
            Self::Cidr(prefix) => write!(f, "cidr {prefix}"),
            Self::NodeCidr(prefix) => write!(f, "nodeCIDRs {prefix}"),
            Self::AllowedIp(prefix) => write!(f, "allowedIPs {prefix}"),
            Self::PublicKey(key) => write!(f, "public key {key}"),
            Self::Selector(name) => write!(f, "nodeSelector of location {name}"),
            Self::Overlay(pool) => write!(f, "overlay address of {pool}"),
            Self::Location(name) => write!(f, "location {name}"),
        }
    }
}

impl std::fmt::Display for Rejected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}: {}", self.by, self.claim, self.reason)
    }
}
