//! Mesh decisions and per-node plans of Spanwire, as pure functions.
//!
//! This crate is the whole of Spanwire's judgement and none of its plumbing: no Kubernetes, no netlink, no clock, no
//! randomness, no file, no socket. Everything here is total: bad input becomes data ([`Rejected`]), never a panic and
//! never an abort of the rest. Collections are ordered, so equal inputs give equal outputs, byte for byte.
//!
//! # From facts to a plan
//!
//! ```text
//! Facts ──decide(facts, previous mesh)──▶ Decision { mesh, rejected }     run by the operator, published by it
//! Mesh  ──plan(mesh, me, reachability)──▶ Plan                           run by every agent for itself
//! Plans ──trace(ground, plans, from, to)▶ Trace                          the way of one packet, explained
//! ```
//!
//! # Glossary
//!
//! | word | meaning |
//! |---|---|
//! | Node | a Kubernetes node, as this project sees it: name, location, addresses, prefixes |
//! | Location | a set of nodes that reach each other without help: one CNI island |
//! | Leader | a node of a location that runs tunnels to other locations; *active* or *standby* |
//! | Follower | a node that sends inter-location traffic through a leader of its own location |
//! | Member | a node of a location together with the prefixes that live behind it |
//! | Peer | a WireGuard party outside the cluster |
//! | Prefix | an IP network |
//! | Mesh | everything the operator decided |
//! | Plan | what one node has to do, derived from the mesh by [`plan`](plan()) |
//! | Hop | how a follower's packet reaches its leader: by the CNI's device, by the LAN, or by a VXLAN of Spanwire's own |

#![forbid(unsafe_code)]

mod address;
mod claims;
mod cover;
mod decide;
mod dot;
mod election;
mod endpoint;
mod facts;
mod key;
mod lint;
mod mac;
mod mesh;
mod name;
mod plan;
mod prefix;
mod reachability;
mod rejected;
mod rendezvous;
pub mod scenario;
mod secret;
mod sources;
mod text;
pub mod trace;

pub use cover::cover;
pub use decide::decide;
pub use dot::dot;
pub use election::{Candidate, Seats, elect};
pub use endpoint::{DnsName, Endpoint, EndpointError, EndpointHost};
pub use facts::{
    ClusterFacts, Created, Facts, Field, Labels, LocationFact, NodeFact, Operator, PeerFact, Requirement,
    Selector,
};
pub use key::{KeyError, PublicKey};
pub use lint::{Diagnostic, Severity, lint};
pub use mac::MacAddress;
pub use mesh::{
    Generation, HopMode, Keepalive, Leader, LeaderRole, Location, Member, Mesh, MeshMode, Peer, Settings,
};
pub use name::{LocationName, NameError, NodeName, PeerName};
pub use plan::{
    Barred, Behind, Far, Holder, Near, Party, Plan, Probes, Role, Route, Tunnel, TunnelPeer, Unsent, Via,
    Vxlan, VxlanPeer, plan,
};
pub use prefix::{Family, Prefix, PrefixError};
pub use reachability::{Advice, Doubt, Reachability};
pub use rejected::{Claim, Claimant, Decision, Leaving, LocationField, RejectReason, Rejected};
pub use rendezvous::{carrier, weight};
pub use secret::{SecretKeyRef, SecretKeyRefError};
pub use sources::{PodSource, PodSources};
