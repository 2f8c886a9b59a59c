//! What of a plan a machine cannot have.

use spanwire_topology::{Family, LocationName, NodeName, Prefix};
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
    /// A leader cannot be reached in a family over the CNI's device, nor is it in a connected network.
    #[error(
        "no {family} way to {node}, which leads here: it has reported no {family} address on the CNI's device or, \
         where the CNI has no such device, has none in a network connected here"
    )]
    NoHop {
        /// The leader.
        node: NodeName,
        /// The family that has to go through it.
        family: Family,
    },
    /// The plan has IPv6 for this node, which has IPv6 switched off.
    #[error(
        "IPv6 is switched off {what}, but the mesh has IPv6 prefixes here and elsewhere: these are not routed; switch \
         it on, or take the IPv6 prefixes from the location",
        what = if *everywhere {
            "on this node (net.ipv6.conf.all.disable_ipv6, or ipv6.disable on the kernel's command line)"
        } else {
            "on new devices of this node (net.ipv6.conf.default.disable_ipv6)"
        }
    )]
    Ipv6Disabled {
        /// No device of the node has IPv6; else some have, but none that Spanwire makes.
        everywhere: bool,
    },
    /// This node is to lead, but has no key.
    #[error("this node is to lead, but has no key")]
    NoKey,
}

impl Conflict {
    /// Returns the prefix that is not routed, where that is what the conflict is about.
    #[must_use]
    pub fn prefix(&self) -> Option<Prefix> {
        match self {
            Self::Connected { prefix, .. } => Some(*prefix),
            Self::NoHop { .. } | Self::Ipv6Disabled { .. } | Self::NoKey => None,
        }
    }
}
