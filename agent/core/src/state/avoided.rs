//! Leaders that are published, and that this node does not use because others do better.
//!
//! Packets go on meanwhile, so nothing is wrong with this node. Who reads it is the operator: it makes another the leader where those on
//! both sides of one get nothing through it, and says on the Location which leaders have no tunnel between them.

use std::{collections::BTreeSet, time::Instant};

use k8s_openapi::jiff::Timestamp;
use spanwire_crds::{AvoidedLeader, MOST_AVOIDED_LEADERS};
use spanwire_topology::{LocationName, NodeName};

use super::{NodeState, spells::Spells};
use crate::liveness::Judgement;

/// A leader, and towards which location it is not used, where it is one of the own location.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Avoided {
    /// Of the own location.
    Near(NodeName, LocationName),
    /// Of another one.
    Far(LocationName, NodeName),
}

pub(super) type Avoidance = Spells<Avoided>;

impl NodeState {
    /// Takes which leaders are not used, with the present time. What follows from it comes with [`Self::handle_timeout`].
    pub fn handle_avoided(&mut self, judgement: &Judgement, wall: Timestamp, now: Instant) {
        let near = judgement.idle.iter();
        let near = near.map(|(leader, towards)| Avoided::Near(leader.clone(), towards.clone()));
        let far = judgement.forsaken.iter();
        let far = far.filter(|leader| judgement.is_of_no_use(leader));
        let far = far.map(|(location, leader)| Avoided::Far(location.clone(), leader.clone()));
        let avoided: BTreeSet<Avoided> = near.chain(far).collect();
        self.avoided.handle_observed(&avoided, wall, now);
    }

    /// The leaders that this node does not use, those of its own location first.
    pub(super) fn avoided_leaders(&self) -> Vec<AvoidedLeader> {
        let Some(own) = &self.plan.location else {
            return Vec::new();
        };
        let avoided = self.avoided.reported().map(|(avoided, _)| match avoided {
            Avoided::Near(node, towards) => AvoidedLeader {
                location: own.to_string(),
                node: node.to_string(),
                towards: Some(towards.to_string()),
            },
            Avoided::Far(location, node) => AvoidedLeader {
                location: location.to_string(),
                node: node.to_string(),
                towards: None,
            },
        });
        avoided.take(MOST_AVOIDED_LEADERS).collect()
    }
}
