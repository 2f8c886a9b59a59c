//! How followers and leaders hand packets to each other in a location that does not say it.
//!
//! A change interrupts what goes between them, and what nodes report comes and goes: a device is missing for a moment, an agent is
//! away. So it is chosen when a location gets its first leaders, and stays as it is while there are some.

use crate::{HopMode, Location, NodeFact};

/// What the nodes of a location show.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seen {
    /// A node is a machine of a cloud.
    cloud: bool,
    /// The agent of one that is alive has reported.
    reported: bool,
    /// One has found how the CNI carries packets between nodes.
    carried: bool,
}

impl Seen {
    pub(super) fn enter(&mut self, fact: &NodeFact) {
        self.cloud |= fact.cloud;
        self.reported |= fact.alive && fact.public_key.is_some();
        self.carried |= fact.carried || !fact.hop.is_empty();
    }

    /// Returns the hop of the location. `all` is what the source of pod networks asks for everywhere.
    pub(super) fn hop(self, all: HopMode, before: Option<&Location>) -> HopMode {
        if all == HopMode::Vxlan {
            return HopMode::Vxlan;
        }
        if !self.cloud {
            return HopMode::Cni;
        }
        match before {
            Some(before) if !before.leaders.is_empty() => before.settings.hop,
            // A cloud delivers by who owns an address, and there is no device that wraps packets.
            _ if self.reported && !self.carried => HopMode::Vxlan,
            _ => HopMode::Cni,
        }
    }
}
