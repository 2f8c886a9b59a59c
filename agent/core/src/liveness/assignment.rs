//! What a node is to watch.

use std::{collections::BTreeSet, net::IpAddr};

use spanwire_topology::{NodeName, Plan, Probes};

/// What a node is to watch, and as whom.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Assignment {
    /// Its name, where it has tunnels of its own.
    pub leads_as: Option<NodeName>,
    /// Its overlay addresses there.
    pub overlay: BTreeSet<IpAddr>,
    /// Whom to ask.
    pub probes: Probes,
}

impl Assignment {
    /// Returns what a plan gives a node to watch.
    #[must_use]
    pub fn new(plan: &Plan) -> Self {
        let tunnel = plan.tunnel.as_ref();
        Self {
            leads_as: tunnel.map(|_| plan.me.clone()),
            overlay: tunnel.map(|tunnel| tunnel.addresses.clone()).unwrap_or_default(),
            probes: plan.probes.clone(),
        }
    }
}
