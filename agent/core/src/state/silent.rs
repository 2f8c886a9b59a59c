//! Nodes of the own location that do not answer by the hop.
//!
//! A leader reports those that it does not reach, another node that none of its leaders answers. It is reported when it has lasted,
//! and its end when that has: a node that boots, or a path that comes and goes, would have leaders write to the API server each
//! time.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use k8s_openapi::jiff::Timestamp;
use spanwire_crds::{
    MOST_SILENT_MEMBERS, SilentMember,
    conditions::{ConditionType, Finding, Reason},
};
use spanwire_topology::{NodeName, Via};

use super::NodeState;
use crate::{liveness::Judgement, trouble::Trouble};

/// For so long a node has to be silent, or to answer again, before that is reported.
const CALM: Duration = Duration::from_secs(5);

/// Each node that does not answer, or did not until just now.
#[derive(Debug, Default)]
pub(super) struct Silent(BTreeMap<NodeName, Spell>);

#[derive(Clone, Copy, Debug)]
struct Spell {
    since: Timestamp,
    /// It lasts, and is reported.
    is_reported: bool,
    /// When that changes, unless it is otherwise again before.
    due: Option<Instant>,
}

impl Silent {
    fn handle_observed(&mut self, silent: &BTreeSet<NodeName>, wall: Timestamp, now: Instant) {
        for node in silent {
            let spell = self.0.entry(node.clone()).or_insert(Spell {
                since: wall,
                is_reported: false,
                due: Some(now + CALM),
            });
            spell.due = spell.due.filter(|_| !spell.is_reported);
        }
        self.0
            .retain(|node, spell| spell.is_reported || silent.contains(node));
        for (_, spell) in self.0.iter_mut().filter(|(node, _)| !silent.contains(*node)) {
            spell.due.get_or_insert(now + CALM);
        }
    }

    /// Takes the present time. Returns whether there is anything else to report.
    pub(super) fn handle_timeout(&mut self, now: Instant) -> bool {
        let is_due = |spell: &Spell| spell.due.is_some_and(|due| due <= now);
        let is_news = self.0.values().any(is_due);
        self.0.retain(|_, spell| !(is_due(spell) && spell.is_reported));
        for spell in self.0.values_mut().filter(|spell| is_due(spell)) {
            (spell.is_reported, spell.due) = (true, None);
        }
        is_news
    }

    /// Returns when to call [`Self::handle_timeout`] again.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.0.values().filter_map(|spell| spell.due).min()
    }

    /// Returns what is to be reported: each node with since when it is silent.
    fn reported(&self) -> impl Iterator<Item = (&NodeName, Timestamp)> {
        let reported = self.0.iter().filter(|(_, spell)| spell.is_reported);
        reported.map(|(node, spell)| (node, spell.since))
    }
}

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
