//! Nodes that do not answer: those of the own location by the hop, and those of other locations behind a leader that answers.
//!
//! A leader reports those that it does not reach, another node that none of its leaders answers: each [when it has
//! lasted](super::spells). Behind the leaders of other locations only some nodes are asked. Where none of them answers, and no other leader
//! does better, it is they that are down, or the leader forwards nothing: who reads it knows whether they run.

use std::{collections::BTreeSet, time::Instant};

use k8s_openapi::jiff::Timestamp;
use spanwire_crds::{
    MOST_SILENT_MEMBERS, SilentMember,
    conditions::{ConditionType, Finding, Reason},
};
use spanwire_topology::{LocationName, NodeName, Via};

use super::{NodeState, spells::Spells};
use crate::{liveness::Judgement, trouble::Trouble};

/// Each node that does not answer, or did not until just now.
pub(super) type Silent = Spells<NodeName>;
/// Each other location of which only leaders answer, or did until just now.
pub(super) type Barren = Spells<LocationName>;

impl NodeState {
    /// Takes which nodes of the own location do not answer, and of which other locations only leaders do, with the present time. What
    /// follows from it comes with [`Self::handle_timeout`].
    pub fn handle_silent(&mut self, judgement: &Judgement, wall: Timestamp, now: Instant) {
        self.silent.handle_observed(&judgement.silent, wall, now);
        self.barren.handle_observed(&judgement.barren, wall, now);
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
        if !self.leads() {
            return Vec::new();
        }
        let silent = self.silent.reported().map(|(node, since)| SilentMember {
            node: node.to_string(),
            cause: self.without(node, since),
        });
        let behind = self.barren.reported();
        let behind = behind.flat_map(|(location, since)| self.behind(location, since));
        silent.chain(behind).take(MOST_SILENT_MEMBERS).collect()
    }

    /// The nodes of another location that are asked, and all have the same cause.
    fn behind(&self, location: &LocationName, since: Timestamp) -> Vec<SilentMember> {
        let asked = self.plan.probes.behind.iter();
        let asked: Vec<_> = asked.filter(|behind| behind.location == *location).collect();
        let leaders: Vec<&str> = asked.iter().map(|behind| behind.leader.as_str()).collect();
        let leaders = leaders.join(", ");
        let cause = format!(
            "of location {location} only leaders answer since {since:.0}, and nothing behind {leaders}; unless the nodes there are down or \
             refuse echo requests, what is sent to them through {leaders} is lost; does a firewall there drop what is forwarded?"
        );
        let members = asked.iter().flat_map(|behind| &behind.members);
        let members: BTreeSet<&NodeName> = members.map(|(node, _)| node).collect();
        let silent = members.into_iter().map(|node| SilentMember {
            node: node.to_string(),
            cause: cause.clone(),
        });
        silent.collect()
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
    let mut causes: Vec<&str> = silent.iter().map(|one| one.cause.as_str()).collect();
    causes.dedup();
    let named: Vec<&str> = causes.iter().take(FEW).copied().collect();
    let more = match causes.len().saturating_sub(FEW) {
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
