//! Nodes that are alive and whose agents have not reported, ever or on what they are to follow since the node booted: what their
//! pods send to other locations does not go through the mesh.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use spanwire_topology::NodeName;

use super::OperatorState;

/// An agent may take so long to report: its image has to be pulled.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
pub(super) struct Mute {
    /// Each of them with since when that has been known, and whether it is said.
    spells: BTreeMap<NodeName, Spell>,
    /// Nodes whose agents have begun to follow what is written, or have more to follow.
    changed: BTreeSet<NodeName>,
}

#[derive(Debug)]
struct Spell {
    since: Instant,
    lasts: bool,
    what: Silence,
}

/// What an agent has not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Silence {
    /// It has never reported.
    Ever,
    /// It does not follow its MeshNode, which also names the boot of the node.
    Behind,
}

impl Silence {
    /// Returns what follows, and what would help.
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::Ever => {
                "no agent has reported from it, so what its pods send to other locations does not go through the mesh; does the \
                 agent's pod run there, and does it reach the API server?"
            }
            Self::Behind => {
                "its agent has not followed its MeshNode for a minute, and if the node has booted since what its pods send to other \
                 locations does not go through the mesh; does the agent's pod run there, and does it reach the API server?"
            }
        }
    }
}

impl Mute {
    /// Takes that what an agent has to follow, or follows, is another than before.
    pub(super) fn recheck(&mut self, node: NodeName) {
        self.changed.insert(node);
    }

    /// Returns whether what is said has changed.
    fn handle(&mut self, node: &NodeName, silence: Option<Silence>, now: Instant) -> bool {
        let Some(what) = silence else {
            return self.spells.remove(node).is_some_and(|spell| spell.lasts);
        };
        let spell = self.spells.entry(node.clone()).or_insert(Spell {
            since: now,
            lasts: false,
            what,
        });
        let changed = spell.lasts && spell.what != what;
        spell.what = what;
        changed
    }

    /// Takes the present time. Returns whether there is anything more to be said.
    fn handle_timeout(&mut self, now: Instant) -> bool {
        let waiting = self.spells.values_mut().filter(|spell| !spell.lasts);
        let due: Vec<&mut Spell> = waiting.filter(|spell| spell.since + PATIENCE <= now).collect();
        let is_news = !due.is_empty();
        due.into_iter().for_each(|spell| spell.lasts = true);
        is_news
    }

    /// Returns when to call [`Self::handle_timeout`].
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let waiting = self.spells.values().filter(|spell| !spell.lasts);
        waiting.map(|spell| spell.since + PATIENCE).min()
    }

    /// Returns those of which it is to be said.
    pub(super) fn lasting(&self) -> impl Iterator<Item = (&NodeName, Silence)> {
        let lasting = self.spells.iter().filter(|(_, spell)| spell.lasts);
        lasting.map(|(node, spell)| (node, spell.what))
    }
}

impl OperatorState {
    /// Takes the present time, and what has changed of agents meanwhile.
    pub(super) fn notice_mute(&mut self, now: Instant) {
        for node in std::mem::take(&mut self.mute.changed) {
            self.listen_to(&node, now);
        }
        self.dirty |= self.mute.handle_timeout(now);
    }

    /// Takes whether the agent of a node has reported.
    pub(super) fn listen_to(&mut self, node: &NodeName, now: Instant) {
        let silence = self.silence(node);
        self.dirty |= self.mute.handle(node, silence, now);
    }

    fn silence(&self, node: &NodeName) -> Option<Silence> {
        self.nodes.get(node).filter(|machine| machine.ready)?;
        let Some(record) = self.mesh_nodes.get(node) else {
            return Some(Silence::Ever);
        };
        if record.retires() {
            return None;
        }
        if record.seen.is_none() && record.report.public_key.is_none() {
            return Some(Silence::Ever);
        }
        record.is_behind().then_some(Silence::Behind)
    }
}
