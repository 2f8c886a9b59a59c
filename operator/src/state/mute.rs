//! Nodes that are alive and whose agents have never reported: what their pods send to other locations does not go through the mesh.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use spanwire_topology::NodeName;

use super::OperatorState;

/// An agent may take so long to report for the first time: its image has to be pulled.
const PATIENCE: Duration = Duration::from_secs(60);

/// Each of them with since when that has been known, and whether it is said.
#[derive(Debug, Default)]
pub(super) struct Mute(BTreeMap<NodeName, Spell>);

#[derive(Debug)]
struct Spell {
    since: Instant,
    lasts: bool,
}

impl Mute {
    fn handle(&mut self, node: &NodeName, is_mute: bool, now: Instant) {
        if !is_mute {
            self.0.remove(node);
        } else if !self.0.contains_key(node) {
            let spell = Spell {
                since: now,
                lasts: false,
            };
            self.0.insert(node.clone(), spell);
        }
    }

    /// Takes the present time. Returns whether there is anything more to be said.
    pub(super) fn handle_timeout(&mut self, now: Instant) -> bool {
        let waiting = self.0.values_mut().filter(|spell| !spell.lasts);
        let due: Vec<&mut Spell> = waiting.filter(|spell| spell.since + PATIENCE <= now).collect();
        let is_news = !due.is_empty();
        due.into_iter().for_each(|spell| spell.lasts = true);
        is_news
    }

    /// Returns when to call [`Self::handle_timeout`].
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let waiting = self.0.values().filter(|spell| !spell.lasts);
        waiting.map(|spell| spell.since + PATIENCE).min()
    }

    /// Returns those of which it is to be said.
    pub(super) fn lasting(&self) -> impl Iterator<Item = &NodeName> {
        let lasting = self.0.iter().filter(|(_, spell)| spell.lasts);
        lasting.map(|(node, _)| node)
    }
}

impl OperatorState {
    /// Takes whether the agent of a node has reported.
    pub(super) fn listen_to(&mut self, node: &NodeName, now: Instant) {
        let known = self.mesh_nodes.get(node);
        let has_reported = known.is_some_and(|record| {
            record.seen.is_some() || record.report.public_key.is_some() || record.retires()
        });
        let is_mute = !has_reported && self.nodes.get(node).is_some_and(|record| record.ready);
        self.mute.handle(node, is_mute, now);
    }
}
