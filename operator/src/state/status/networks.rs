//! The condition that says where pod networks come from.

use spanwire_crds::conditions::{ConditionType, Finding, Reason};
use spanwire_topology::{HopMode, Location, LocationName, NodeName, PodSource};

use super::{NAMED, OperatorState, finding};

/// Returns the field of an object that names a pod network of a node.
pub(super) const fn field(source: PodSource) -> &'static str {
    match source {
        PodSource::Calico => "spec.cidr of its BlockAffinity",
        PodSource::Cilium => "spec.ipam of its CiliumNode",
        PodSource::Nodes => "spec.podCIDRs",
        PodSource::Pods => "status.podIPs of its pods",
    }
}

/// Returns the reason for which a source counts, and the same for people.
fn reason(source: PodSource, named: bool) -> (Reason, String) {
    let (reason, from, why) = match source {
        PodSource::Calico => (
            Reason::CalicoBlocks,
            "Calico's BlockAffinity objects, confirmed ones",
            "there are such objects, so spec.podCIDRs of Nodes, CiliumNodes and pods do not count",
        ),
        PodSource::Cilium => (
            Reason::CiliumNodes,
            "spec.ipam of CiliumNodes",
            "Calico has no block here and these have networks, so spec.podCIDRs of Nodes do not count",
        ),
        PodSource::Nodes => (
            Reason::NodePodCIDRs,
            "spec.podCIDRs of Nodes",
            "Calico has no block here, and Cilium no network",
        ),
        PodSource::Pods => (
            Reason::PodAddresses,
            "status.podIPs of Pods",
            "no Node has spec.podCIDRs, Calico has no block here, and Cilium no network",
        ),
    };
    let why = if named {
        "--pod-networks (podNetworks of the chart) says so"
    } else {
        why
    };
    (reason, format!("from {from}: {why}"))
}

/// Returns why a location that does not say it has a VXLAN.
const fn why_vxlan(source: PodSource) -> &'static str {
    match source {
        PodSource::Pods => "the LAN delivers by who owns an address",
        PodSource::Cilium => "Cilium's own device takes nothing from other locations",
        PodSource::Calico | PodSource::Nodes => {
            "its nodes are a cloud's (spec.providerID), and no agent had found a device of the CNI between them when it got its first leaders"
        }
    }
}

impl OperatorState {
    /// Where the pod networks of a location come from, and what follows for its hop.
    pub(super) fn pod_networks(&self, name: &LocationName, location: &Location) -> Finding {
        let about = ConditionType::PodNetworks;
        let (source, named) = self.networks.counts();
        let (reason, mut text) = reason(source, named);
        let fact = self.facts.locations.get(name);
        let is_auto = fact.is_none_or(|fact| fact.hop.is_none());
        if is_auto && location.settings.hop == HopMode::Vxlan {
            let why = why_vxlan(source);
            text = format!(
                "{text}; followers and leaders hand packets to each other over a VXLAN of Spanwire's own (spec.hop: Auto), for {why}"
            );
        }
        if self.networks.may_miss_blocks() {
            let message = format!(
                "there is blockaffinities.projectcalico.org, where Calico may keep its blocks, which Spanwire reads in crd.projectcalico.org \
                 alone, and there are none there: set podNetworks of the chart to pods, or to nodes where Calico allocates from \
                 spec.podCIDRs; pod networks are taken {text}"
            );
            return finding(about, false, Reason::BlocksElsewhere, message);
        }
        let without = |node: &&NodeName| {
            let ready = self.nodes.get(node).is_some_and(|record| record.ready);
            let none = |fact: &spanwire_topology::NodeFact| fact.prefixes.is_empty();
            ready && self.facts.nodes.get(*node).is_some_and(none)
        };
        // With Calico a node gets its first block with its first pod.
        let expected = matches!(source, PodSource::Cilium | PodSource::Nodes);
        let without: Vec<&NodeName> = location
            .members
            .keys()
            .filter(without)
            .filter(|_| expected)
            .collect();
        if without.is_empty() {
            return finding(about, true, reason, text);
        }
        let mut names: Vec<&str> = without.iter().take(NAMED).map(|node| node.as_str()).collect();
        let more = format!("{} more", without.len().saturating_sub(NAMED));
        names.extend((without.len() > NAMED).then_some(more.as_str()));
        let message = format!(
            "no pod network is known of {}, so their pods are not reached from other locations; pod networks are taken {text}",
            names.join(", ")
        );
        finding(about, false, Reason::NoPodNetwork, message)
    }
}
