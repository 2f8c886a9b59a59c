//! The Kubernetes resources of Spanwire and their translation to and from the topology.
//!
//! ```text
//! Node, Location, Peer, MeshNode ──translate──▶ facts        what cannot be read is a FieldProblem, never an abort
//! Mesh ──publication::slices──▶ LocationSlices               written by the operator
//! LocationSlices, Peers ──publication::Assembler──▶ Mesh     read by agents
//! ```

#![forbid(unsafe_code)]
#![allow(
    clippy::duplicated_attributes,
    reason = "clippy takes the printer columns of a resource for one attribute given again"
)]

pub mod annotations;
pub mod conditions;
mod location;
mod mesh_node;
pub mod names;
mod peer;
mod problem;
pub mod publication;
mod schema;
mod slice;
pub mod translate;

pub use location::{Hop, Leaders, Location, LocationSpec, LocationStatus, Mode};
pub use mesh_node::{
    AttachedPeer, AvoidedLeader, Backend, HopInUse, HopReason, Link, MeshNode, MeshNodeSpec, MeshNodeStatus,
    SilentMember, UnkeyedPeer,
};
pub use peer::{AcceptedPeer, Peer, PeerSpec, PeerStatus, PresharedKeySecretRef};
pub use problem::FieldProblem;
pub use schema::{
    LONGEST_CAUSE, MOST_ATTACHED_PEERS, MOST_AVOIDED_LEADERS, MOST_SILENT_MEMBERS, MOST_UNKEYED_PEERS,
    definitions, files,
};
pub use slice::{Head, LocationSlice, LocationSliceSpec, Role, SliceLeader, SliceMember, SliceSettings};
