//! The Kubernetes resources of Spanwire and their translation to and from the topology.

#![forbid(unsafe_code)]

mod location;
mod mesh_node;
mod peer;
mod schema;
mod slice;

pub use location::{Leaders, Location, LocationSpec, LocationStatus, Mode};
pub use mesh_node::{Backend, Link, MeshNode, MeshNodeSpec, MeshNodeStatus};
pub use peer::{AcceptedPeer, Peer, PeerSpec, PeerStatus};
pub use schema::{definitions, files};
pub use slice::{Head, LocationSlice, LocationSliceSpec, Role, SliceLeader, SliceMember, SliceSettings};
