//! Addresses that nodes had until a short while ago.
//!
//! `status.addresses` of all Nodes can be written with the credentials of some CNIs, which lie on the disk of every node. Who has them
//! could take an address out of one Node, have it granted to another, and keep it there: what stands goes before what is asked for
//! again. So for an hour it is granted to no node of another location, unless the Node that had it is deleted.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::{Duration, Instant},
};

use spanwire_topology::{NodeFact, NodeName};

use super::OperatorState;

/// Longer than a kubelet needs to notice and to write its addresses again (five minutes).
const RESERVED: Duration = Duration::from_secs(3600);

/// The addresses of each node, with the end of the time for which they are reserved; `None` until the next decision.
#[derive(Debug, Default)]
pub(super) struct Former(BTreeMap<NodeName, BTreeMap<IpAddr, Option<Instant>>>);

impl Former {
    /// Forgets what ended; returns whose that was.
    pub(super) fn handle_timeout(&mut self, now: Instant) -> BTreeSet<NodeName> {
        let mut changed = BTreeSet::new();
        for (node, addresses) in &mut self.0 {
            let before = addresses.len();
            addresses.retain(|_, end| end.is_none_or(|end| now < end));
            if addresses.len() != before {
                changed.insert(node.clone());
            }
        }
        self.0.retain(|_, addresses| !addresses.is_empty());
        changed
    }

    /// Returns when to call [`Self::handle_timeout`].
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.0
            .values()
            .flat_map(BTreeMap::values)
            .flatten()
            .min()
            .copied()
    }

    pub(super) fn forget(&mut self, node: &NodeName) {
        self.0.remove(node);
    }

    /// Takes what a Node had and has now. Returns whether it lacks anything of that.
    pub(super) fn handle(&mut self, node: &NodeName, before: &NodeFact, now: &NodeFact) -> bool {
        let mut gone = before.addresses.difference(&now.addresses).peekable();
        if gone.peek().is_none() {
            return false;
        }
        let reserved = self.0.entry(node.clone()).or_default();
        for address in gone {
            // A kubelet that writes ever other addresses is to be no burden.
            if reserved.len() < NodeFact::MAX_ADDRESSES {
                reserved.entry(*address).or_insert(None);
            }
        }
        true
    }
}

impl OperatorState {
    /// Enters what a node had until a short while ago.
    pub(super) fn enter_former(&mut self, node: &NodeName, now: Instant) {
        let Some(fact) = self.facts.nodes.get_mut(node) else {
            return;
        };
        let Some(reserved) = self.former.0.get_mut(node) else {
            fact.former.clear();
            return;
        };
        for end in reserved.values_mut() {
            end.get_or_insert(now + RESERVED);
        }
        reserved.retain(|address, _| !fact.addresses.contains(address));
        fact.former = reserved.keys().copied().collect();
    }
}
