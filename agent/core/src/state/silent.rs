//! Nodes of the own location that do not answer by the hop.
//!
//! A leader reports those that it does not reach, another node that none of its leaders answers: each [when it has
//! lasted](super::spells).

use std::{collections::BTreeSet, time::Instant};

use k8s_openapi::jiff::Timestamp;
use spanwire_crds::{
    MOST_SILENT_MEMBERS, SilentMember,
    conditions::{ConditionType, Finding, Reason},
};
use spanwire_topology::{NodeName, Via};

use super::{NodeState, spells::Spells};
use crate::{liveness::Judgement, trouble::Trouble};

/// Each node that does not answer, or did not until just now.
pub(super) type Silent = Spells<NodeName>;

impl NodeState {
    /// Takes which nodes of the own location do not answer, with the present time. What follows from it comes with [`Self::handle_timeout`].
    pub fn handle_silent(&mut self, judgement: &Judgement, wall: Timestamp, now: Instant) {
        self.silent.handle_observed(&judgement.silent, wall, now);
    }

    /// That no leader answers, on a node that leads nothing.
    pub(super) fn stranded(&self) -> Option<Trouble> {
        if self.leads() {
            return None;
        }
        let leaders: BTreeSet<NodeName> = self.silent.reported().map(|(node, _)| node.clone()).collect();
        let since = self.silent.reported().map(|(_, since)| since).max()?;
        Some(Trouble::Stranded { leaders, since })
    }

    /// The nodes that this one, as a leader, does not reach.
    pub(super) fn silent_members(&self) -> Vec<SilentMember> {
        let silent = self.silent.reported().filter(|_| self.leads());
        let silent = silent.map(|(node, since)| SilentMember {
            node: node.to_string(),
            cause: self.without(node, since),
        });
        silent.take(MOST_SILENT_MEMBERS).collect()
    }

    /// What does not arrive at a member, and what would help.
    fn without(&self, node: &NodeName, since: Timestamp) -> String {
        let lost = match self.stand_in(node) {
            Some(other) => format!("its pods are reached through {other}, its own addresses are not"),
            None => "what comes out of the tunnel for it is lost".to_owned(),
        };
        format!(
            "{node} has answered no echo request by the hop since {since:.0}; unless it only refuses these, {lost}; does it run, \
             and does the network between the two nodes carry what the CNI sends?"
        )
    }

    /// Returns the leader that hands on what this one has for the pods of a member.
    fn stand_in(&self, node: &NodeName) -> Option<&NodeName> {
        let location = self.mesh.locations.get(self.plan.location.as_ref()?)?;
        let mut pods = location.members.get(node)?.prefixes.iter();
        pods.find_map(|prefix| match self.plan.returns.get(prefix)? {
            Via::Hop { node: other, .. } => Some(other).filter(|other| *other != node),
            Via::Tunnel | Via::Unreachable => None,
        })
    }
}

/// What is said of members that a leader does not reach. It may be they that are down, so its own part is not said to fail.
pub(super) fn finding(silent: &[SilentMember]) -> Option<Finding> {
    /// The first so many are named.
    const FEW: usize = 5;
    if silent.is_empty() {
        return None;
    }
    let named: Vec<&str> = silent.iter().take(FEW).map(|one| one.cause.as_str()).collect();
    let more = match silent.len().saturating_sub(FEW) {
        0 => String::new(),
        count => format!("; and {count} more"),
    };
    Some(Finding {
        about: ConditionType::MembersReached,
        holds: false,
        reason: Reason::MemberSilent,
        message: format!("{}{more}", named.join("; ")),
    })
}
