//! From what is known to what is decided upon.

use std::collections::BTreeSet;

use spanwire_crds::translate::Report;
use spanwire_topology::{Facts, Mesh, NodeFact, NodeName};

use super::OperatorState;

impl OperatorState {
    pub(super) fn facts(&self, previous: &Mesh) -> Facts {
        let mut facts = Facts {
            cluster: self.options.cluster.clone(),
            ..Facts::default()
        };
        for (name, record) in self.nodes.objects() {
            let mut fact = record.fact.clone();
            let report = self.mesh_nodes.get(name).map(|mesh_node| &mesh_node.report);
            match report.filter(|report| report.retired || report.public_key.is_some()) {
                Some(report) => report.complete(&mut fact),
                None => reported(name, previous).complete(&mut fact),
            }
            fact.alive = fact.alive && self.liveness.alive(name);
            facts.nodes.insert(name.clone(), fact);
        }
        for (name, record) in self.locations.objects() {
            facts.locations.insert(name.clone(), record.fact.clone());
        }
        for (name, record) in self.peers.objects() {
            if let Some(fact) = &record.fact {
                facts.peers.insert(name.clone(), fact.clone());
            }
        }
        for leader in kept(&facts, previous) {
            if let Some(fact) = facts.nodes.get_mut(&leader) {
                fact.alive = true;
            }
        }
        facts
    }
}

/// What an agent reported last, as far as it was published; for a node whose MeshNode, or whose report, has been deleted.
fn reported(node: &NodeName, previous: &Mesh) -> Report {
    let known = previous
        .locations
        .values()
        .filter_map(|location| location.members.get(node))
        .max_by_key(|member| member.generation);
    known.map_or_else(Report::default, |member| Report {
        public_key: member.public_key,
        hop: member.hop.clone(),
        ..Report::default()
    })
}

/// The leaders of the locations in which nobody who could lead seems to be alive.
fn kept(facts: &Facts, previous: &Mesh) -> BTreeSet<NodeName> {
    let could_lead = |fact: &NodeFact| fact.alive && fact.public_key.is_some() && fact.leader != Some(false);
    let silent = previous.locations.values().filter(|location| {
        let mut members = location.members.keys().filter_map(|node| facts.nodes.get(node));
        !members.any(could_lead)
    });
    silent
        .flat_map(|location| &location.leaders)
        .map(|leader| leader.node.clone())
        .collect()
}
