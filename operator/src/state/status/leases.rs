//! Whether the Leases of a location's leaders are renewed. Only said where they are not.

use std::collections::BTreeMap;

use spanwire_crds::conditions::{ConditionType, Finding, Reason};
use spanwire_topology::{LocationName, NodeName};

use super::{NAMED, OperatorState, finding};

/// Nodes of a location of which something is known about their Leases.
#[derive(Debug, Default)]
pub(super) struct Unrenewed<'a> {
    /// Leaders that do not renew theirs.
    leaders: Vec<&'a NodeName>,
    /// Nodes that do not lead, and whose agents say that they could not.
    others: Vec<&'a NodeName>,
}

impl OperatorState {
    /// The nodes of each location whose Lease is not, or would not be, renewed.
    pub(super) fn unrenewed(&self) -> BTreeMap<LocationName, Unrenewed<'_>> {
        let mut of_locations: BTreeMap<LocationName, Unrenewed<'_>> = BTreeMap::new();
        for node in self.liveness.overdue() {
            if let Some(location) = self.assignments.home(node) {
                let of_location = of_locations.entry(location.clone()).or_default();
                of_location.leaders.push(node);
            }
        }
        for node in self.refused.iter().filter(|node| !self.liveness.leads(node)) {
            if let Some(location) = self.assignments.home(node) {
                of_locations
                    .entry(location.clone())
                    .or_default()
                    .others
                    .push(node);
            }
        }
        of_locations
    }

    pub(super) fn lease_renewed(&self, unrenewed: &Unrenewed<'_>) -> Finding {
        let silent = "its agent does not say why (does it run, and does it reach the API server?)";
        let leader = |node: &&NodeName| {
            let cause = self.lease_refused(node).unwrap_or(silent);
            format!("the Lease of leader {node} is not renewed: {cause}")
        };
        let other = |node: &&NodeName| {
            let cause = self.lease_refused(node).unwrap_or_default();
            format!("node {node} could not renew one: {cause}")
        };
        let Unrenewed { leaders, others } = unrenewed;
        let texts = leaders.iter().map(leader).chain(others.iter().map(other));
        let mut parts: Vec<String> = texts.take(NAMED).collect();
        let more = (leaders.len() + others.len()).saturating_sub(NAMED);
        parts.extend((more > 0).then(|| format!("and {more} more nodes")));
        if !leaders.is_empty() {
            parts.push(
                "a leader without a Lease leads on while its node is Ready and no other leader is better"
                    .to_owned(),
            );
        }
        let message = parts.join("; ");
        finding(
            ConditionType::LeaseRenewed,
            false,
            Reason::LeaseNotRenewed,
            message,
        )
    }

    /// What the agent of a node says of its Lease.
    fn lease_refused(&self, node: &NodeName) -> Option<&str> {
        self.mesh_nodes.get(node)?.report.lease_refused.as_deref()
    }
}
