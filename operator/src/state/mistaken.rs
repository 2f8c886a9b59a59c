//! Nodes that their CNI knows by an overlay address: one that looks for the node's address by itself may find that of the
//! tunnel's device, at which no other node of the location reaches it; sans I/O.
//!
//! Agents say so where the CNI has a VXLAN that begins there. Without one (BGP, IPIP, host-gw) only the Node tells.

use std::collections::BTreeMap;

use spanwire_crds::translate::{NodeAddressOfCni, Seeker};
use spanwire_topology::{ClusterFacts, LocationName, NodeName};

use super::{OperatorState, status::Degraded};

impl OperatorState {
    /// Follows up on a Node that came, changed or went.
    pub(super) fn note_address_of_cni(&mut self, name: &NodeName) {
        let found = self.nodes.get(name).map(|record| &record.addresses_of_cnis);
        let pools = &self.facts.cluster;
        let overlay = found.into_iter().flatten().find(|found| is_overlay(pools, found));
        match overlay {
            Some(found) => drop(self.mistaken.insert(name.clone(), text(found))),
            None => drop(self.mistaken.remove(name)),
        }
    }

    /// The nodes of each location that their CNI knows by an overlay address.
    pub(super) fn mistaken_members(&self) -> BTreeMap<LocationName, Vec<Degraded<'_>>> {
        let mut of_locations: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (node, text) in &self.mistaken {
            if let Some(location) = self.assignments.home(node).filter(|_| self.is_alive(node)) {
                let of_location = of_locations.entry(location.clone()).or_default();
                of_location.push((node, text.as_str()));
            }
        }
        of_locations
    }
}

fn is_overlay(cluster: &ClusterFacts, found: &NodeAddressOfCni) -> bool {
    let mut pools = cluster.overlay.iter().chain(&cluster.automatic);
    pools.any(|pool| pool.contains(found.address))
}

fn text(found: &NodeAddressOfCni) -> String {
    let NodeAddressOfCni {
        by,
        annotation,
        address,
    } = found;
    let remedy = match by {
        Seeker::Calico => {
            "give calico-node IP_AUTODETECTION_METHOD=kubernetes-internal-ip, and restart it on this node"
        }
        Seeker::Flannel => "give flannel --iface (k3s: --flannel-iface), and restart it on this node",
    };
    format!(
        "its CNI knows it by {address} (annotation {annotation}), an address of Spanwire's own at which no other node of the location \
         reaches it: {remedy}"
    )
}
