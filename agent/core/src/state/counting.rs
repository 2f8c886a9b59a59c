//! What the packets on the wires of this node are counted by.

use super::NodeState;
use crate::encryption::Watch;

impl NodeState {
    /// Returns what packets are counted by; `None` where the mesh does not know this node, or it retires.
    #[must_use]
    pub fn watch(&self) -> Option<Watch> {
        let watch = || Watch::new(&self.mesh, &self.plan, &self.facts, &self.peers);
        (!self.retire).then(watch)?
    }
}
