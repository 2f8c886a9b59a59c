//! The preshared keys of Peers, as far as the state of the node is concerned.

use std::collections::{BTreeMap, BTreeSet};

use spanwire_crds::{
    MOST_UNKEYED_PEERS, UnkeyedPeer,
    conditions::{ConditionType, Finding, Reason},
};
use spanwire_host::{PresharedKey, WireGuard};
use spanwire_topology::SecretKeyRef;

use super::NodeState;
use crate::preshared::{Problem, Unread};

impl NodeState {
    /// Takes the preshared keys that were known before the agent started.
    pub fn remember_preshared(&mut self, keys: BTreeMap<SecretKeyRef, PresharedKey>) {
        self.preshared.remember(keys);
    }

    /// Takes what came of reading a preshared key. Returns whether this node has to change.
    pub fn handle_preshared(&mut self, reference: SecretKeyRef, read: Result<PresharedKey, Unread>) -> bool {
        self.preshared.handle_read(reference, read);
        self.follow_preshared()
    }

    /// Takes the device as it was found when the agent started.
    pub(super) fn adopt_preshared(&mut self, device: Option<&WireGuard>) {
        self.preshared.handle_device(device);
        self.follow_preshared();
    }

    /// Renders with the keys that are known. Returns whether these are other ones.
    pub(super) fn follow_preshared(&mut self) -> bool {
        let known = self.preshared.known();
        known != self.facts.preshared && self.handle_facts(|facts| facts.preshared = known)
    }

    /// Returns the preshared keys to read.
    #[must_use]
    pub fn preshared_references(&self) -> BTreeSet<SecretKeyRef> {
        self.preshared.references()
    }

    /// Returns the preshared keys that are to be there after a restart.
    #[must_use]
    pub fn preshared_to_remember(&self) -> BTreeMap<SecretKeyRef, PresharedKey> {
        self.preshared.to_remember()
    }

    /// Returns the preshared keys that are not read.
    #[must_use]
    pub fn preshared_problems(&self) -> Vec<Problem> {
        self.preshared.problems()
    }
}

/// What is said of preshared keys that are not read. Nothing else is wrong with the node.
pub(super) fn finding(problems: &[Problem]) -> Option<Finding> {
    /// The first so many are named.
    const FEW: usize = 5;
    if problems.is_empty() {
        return None;
    }
    let named: Vec<String> = problems.iter().take(FEW).map(ToString::to_string).collect();
    let more = match problems.len().saturating_sub(FEW) {
        0 => String::new(),
        count => format!("; and {count} more"),
    };
    let is_known = problems.iter().all(|problem| problem.is_known);
    Some(Finding {
        about: ConditionType::PresharedKeys,
        holds: false,
        reason: match is_known {
            true => Reason::PresharedKeyNotRead,
            false => Reason::PresharedKeyUnknown,
        },
        message: format!("{}{more}", named.join("; ")),
    })
}

/// Returns the Peers that are left out.
pub(super) fn unkeyed(problems: &[Problem]) -> Vec<UnkeyedPeer> {
    let unkeyed = problems.iter().filter(|problem| !problem.is_known);
    let unkeyed = unkeyed.map(|problem| UnkeyedPeer {
        peer: problem.peer.to_string(),
        cause: problem.unread.cause().to_owned(),
    });
    unkeyed.take(MOST_UNKEYED_PEERS).collect()
}
