//! What the MeshNode of a node says of what the node claims: who looks for what is wrong with a node looks there.
//!
//! Nodes of which everything is granted, which are nearly all, have no such condition, so it costs no write.

use std::collections::{BTreeMap, BTreeSet};

use spanwire_crds::conditions::conditions;
use spanwire_topology::{Claimant, NodeName};

use super::{
    Now, OperatorState,
    status::{Problems, accepted_finding},
};
use crate::batch::Write;

impl OperatorState {
    /// The writes of the condition [`Accepted`](spanwire_crds::conditions::ConditionType::Accepted) of MeshNodes. A MeshNode
    /// whose spec is to be written, or that is to go, waits for that.
    pub(super) fn answer_writes(&mut self, problems: &Problems, now: Now) -> Vec<Write> {
        let claims = problems.iter().filter_map(|(claimant, problems)| match claimant {
            Claimant::Node(node) => Some((node, problems)),
            Claimant::Location(_) | Claimant::Peer(_) => None,
        });
        let claims: BTreeMap<&NodeName, _> = claims.collect();
        let names: BTreeSet<&NodeName> = claims.keys().copied().chain(&self.answered).collect();
        let (mut answers, mut writes) = (BTreeMap::new(), Vec::new());
        for name in names {
            let Some(record) = self.mesh_nodes.get(name) else {
                continue;
            };
            let finding = accepted_finding(claims.get(name).copied().into_iter().flatten());
            let known = record.accepted.as_ref();
            let made = conditions(
                vec![finding],
                known.map_or(&[], std::slice::from_ref),
                None,
                now.wall,
            );
            let Some(condition) = made.into_iter().next() else {
                continue;
            };
            if known != Some(&condition) && self.mesh_node_write(name).is_none() {
                writes.push(Write::MeshNodeStatus {
                    name: name.to_string(),
                    version: Some(record.revision.version()),
                    condition: Box::new(condition.clone()),
                });
            }
            answers.insert(name.clone(), condition);
        }
        self.answers = answers;
        writes
    }
}
