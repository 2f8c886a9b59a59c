//! What the agent knows of the mesh at one time.

use std::{collections::BTreeMap, sync::Arc};

use spanwire_crds::{LocationSlice, MeshNode, Peer, publication::assemble};
use spanwire_topology::Mesh;

/// The published objects, complete as far as their source is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// The published decision, by the name of each part.
    pub slices: BTreeMap<String, Arc<LocationSlice>>,
    /// The Peers by name.
    pub peers: BTreeMap<String, Arc<Peer>>,
    /// This node's own object.
    pub node: Option<Arc<MeshNode>>,
}

impl Snapshot {
    /// The mesh, put together from its parts.
    #[must_use]
    pub fn mesh(&self) -> Mesh {
        let slices = self
            .slices
            .iter()
            .map(|(name, slice)| (name.as_str(), &slice.spec));
        let peers = self.peers.iter().filter_map(|(name, peer)| {
            let accepted = peer.status.as_ref()?.accepted.as_ref()?;
            Some((name.as_str(), accepted))
        });
        assemble(slices, peers)
    }

    /// Whether the operator wants this node to be cleaned.
    #[must_use]
    pub fn retire(&self) -> bool {
        self.node.as_ref().is_some_and(|node| node.spec.retire)
    }
}
