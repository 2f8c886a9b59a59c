//! What of a plan a machine cannot have.

use spanwire_topology::{LocationName, NodeName, Prefix};
use thiserror::Error;

use crate::LinkName;

/// A part of the plan that is left out on this machine, and why. The rest of the plan stands.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Error)]
pub enum Conflict {
    /// A prefix of another location lies in a network that is connected here.
    #[error(
        "{prefix} of location {location} lies in {network}, which is connected here by {link}: it is not routed \
         into the mesh; give one of the two sites other addresses"
    )]
    Connected {
        /// The prefix that is not routed.
        prefix: Prefix,
        /// Where it lives.
        location: LocationName,
        /// The device of the connected network.
        link: LinkName,
        /// The connected network.
        network: Prefix,
    },
    /// A leader cannot be reached over the CNI's device, nor is it in a connected network.
    #[error(
        "no way to {node}, which leads here: it has reported no address on the CNI's device or, where the CNI has \
         no such device, is in no network connected here"
    )]
    NoHop {
        /// The leader.
        node: NodeName,
    },
    /// This node is to lead, but has no key.
    #[error("this node is to lead, but has no key")]
    NoKey,
}

impl Conflict {
    /// The prefix that is not routed, where that is what the conflict is about.
    #[must_use]
    pub fn prefix(&self) -> Option<Prefix> {
        match self {
            Self::Connected { prefix, .. } => Some(*prefix),
            Self::NoHop { .. } | Self::NoKey => None,
        }
    }
}
