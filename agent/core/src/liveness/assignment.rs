//! What a node is to watch.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use spanwire_host::{Hop, HostFacts, hops_to_leaders, hops_to_members};
use spanwire_topology::{Family, LocationName, NodeName, Plan, Probes};

use crate::advice::Partners;

/// What a node is to watch, and as whom.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Assignment {
    /// Its name, where it has tunnels of its own.
    pub leads_as: Option<NodeName>,
    /// Its overlay addresses there.
    pub overlay: BTreeSet<IpAddr>,
    /// It has tunnels, but the device that they begin on cannot be made now.
    pub lacks_tunnel: bool,
    /// Its WireGuard lets the leaders of a location send each other's sources.
    pub groups: bool,
    /// With whom to exchange advice.
    pub partners: Partners,
    /// Whom to ask.
    pub probes: Probes,
    /// How to hand packets to the other leaders of the own location, whatever the routes are.
    pub hops: BTreeMap<(NodeName, Family), Hop>,
    /// Leaders of other locations with which WireGuard has no session.
    pub unconnected: BTreeSet<(LocationName, NodeName)>,
    /// The same as `hops` for its members that this node, as a leader, watches.
    pub members: BTreeMap<(NodeName, Family), Hop>,
}

impl Assignment {
    /// Returns what a plan gives a node to watch.
    #[must_use]
    pub fn new(plan: &Plan, facts: &HostFacts) -> Self {
        let tunnel = plan.tunnel.as_ref();
        Self {
            leads_as: tunnel.map(|_| plan.me.clone()),
            overlay: tunnel.map(|tunnel| tunnel.addresses.clone()).unwrap_or_default(),
            lacks_tunnel: facts.lacks_tunnel,
            groups: facts.groups,
            partners: Partners::new(plan, facts),
            probes: plan.probes.clone(),
            hops: hops_to_leaders(plan, facts),
            unconnected: BTreeSet::new(),
            members: hops_to_members(plan, facts),
        }
    }

    /// Returns how to hand a packet to another node of the own location, where it is watched.
    #[must_use]
    pub fn hop(&self, node: &NodeName, family: Family) -> Option<&Hop> {
        let key = (node.clone(), family);
        self.hops.get(&key).or_else(|| self.members.get(&key))
    }
}
