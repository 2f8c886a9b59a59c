//! What the operator knows, and what it decides to write; sans I/O.
//!
//! ```text
//! watches ──handle_*──▶ OperatorState ──decide──▶ Batch of writes ──▶ publisher
//!                         ▲                                      │
//!                         └────── handle_* of what was written ──┘
//! ```
//!
//! The published state is the only memory: the mesh before a decision is put together from the LocationSlices and the
//! Peers' status, so that leaders, overlay addresses and `established` survive a restart of the operator, and so that
//! two operators can never disagree for long. What has gone wrong in such controllers, and must not here:
//!
//! * Deciding upon a part: nothing is decided before the first list of every kind is complete.
//! * Heartbeats: an event that changes nothing of what is decided upon costs a comparison.
//! * Writing in circles: what is written is entered at once, and the next decision upon it has nothing to write.
//! * An empty list: a cluster in which an operator runs has Nodes. A complete list without any, where something is
//!   published, is somebody's mistake, and nothing is decided upon it.
//! * A report that is gone: who deletes a MeshNode takes no node's key from it. What an agent reported last holds until
//!   it reports again.
//! * Everybody dead: when nobody of a location seems to be alive, it is more likely that the way to the API server is
//!   cut than that all died; its leaders stay, because without them the way could never come back.

mod batch;
mod facts;
mod liveness;
mod records;
mod status;
mod store;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use k8s_openapi::api::coordination::v1::Lease;
use kube::runtime::watcher::Event;
pub use liveness::{GRACE, LEASE_PREFIX, Now};
use records::{LocationRecord, MeshNodeRecord, NodeRecord, PeerRecord, SliceRecord, translated};
use spanwire_crds::{
    Location, LocationSlice, MeshNode, Peer,
    publication::assemble,
    translate::{Node, NodeOptions},
};
use spanwire_topology::{ClusterFacts, LocationName, Mesh, NodeName, PeerName, decide};

use self::{liveness::Liveness, store::Store};
use crate::batch::{Batch, Notice};

/// How the operator was told to decide.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// What concerns the whole cluster.
    pub cluster: ClusterFacts,
    /// How Nodes are read.
    pub nodes: NodeOptions,
}

/// How many objects of each kind are known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Kubernetes nodes.
    pub nodes: usize,
    /// MeshNodes.
    pub mesh_nodes: usize,
    /// Locations.
    pub locations: usize,
    /// Peers.
    pub peers: usize,
    /// LocationSlices.
    pub slices: usize,
}

/// Everything the operator knows.
#[derive(Debug, Default)]
pub struct OperatorState {
    options: Options,
    nodes: Store<NodeName, NodeRecord>,
    mesh_nodes: Store<NodeName, MeshNodeRecord>,
    locations: Store<LocationName, LocationRecord>,
    peers: Store<PeerName, PeerRecord>,
    slices: Store<String, SliceRecord>,
    liveness: Liveness,
    /// What was published last, until something else is found to be.
    published: Option<Mesh>,
    /// What people were told.
    told: BTreeSet<Notice>,
    /// Nodes that an earlier installation retired; `None` before this operator has led.
    unretire: Option<BTreeSet<NodeName>>,
    dirty: bool,
}

impl OperatorState {
    /// An state that knows nothing yet.
    #[must_use]
    pub fn new(options: Options) -> Self {
        Self {
            options,
            dirty: true,
            ..Self::default()
        }
    }

    /// Enters what the watch of Nodes tells.
    pub fn handle_node(&mut self, event: Event<Node>) {
        let options = &self.options.nodes;
        let Some(event) = translated(event, |node| records::node(&node, options)) else {
            return;
        };
        let first = !self.nodes.complete();
        let alive = |name: &NodeName| self.nodes.get(name).is_some_and(|record| record.fact.alive);
        let was = match &event {
            Event::Apply((name, _)) | Event::InitApply((name, _)) => alive(name),
            Event::Delete(_) | Event::Init | Event::InitDone => false,
        };
        let changed = self.nodes.handle(event);
        for name in &changed {
            if !was && self.nodes.get(name).is_some_and(|record| record.fact.alive) {
                self.liveness.heard(name);
            }
        }
        self.dirty |= !changed.is_empty() || first;
    }

    /// Enters what the watch of MeshNodes tells.
    pub fn handle_mesh_node(&mut self, event: Event<MeshNode>) {
        let Some(event) = translated(event, records::mesh_node) else {
            return;
        };
        let first = !self.mesh_nodes.complete();
        let changed = self.mesh_nodes.handle(event);
        for node in &changed {
            self.liveness.heard(node);
        }
        self.dirty |= !changed.is_empty() || first;
    }

    /// Enters what the watch of Locations tells.
    pub fn handle_location(&mut self, event: Event<Location>) {
        let Some(event) = translated(event, records::location) else {
            return;
        };
        let first = !self.locations.complete();
        self.dirty |= !self.locations.handle(event).is_empty() || first;
    }

    /// Enters what the watch of Peers tells.
    pub fn handle_peer(&mut self, event: Event<Peer>) {
        let Some(event) = translated(event, records::peer) else {
            return;
        };
        let accepted =
            |event: &Event<(PeerName, PeerRecord)>, peers: &Store<PeerName, PeerRecord>| match event {
                Event::Apply((name, record))
                | Event::InitApply((name, record))
                | Event::Delete((name, record)) => {
                    let status = |record: &PeerRecord| {
                        record.status.as_ref().and_then(|status| status.accepted.clone())
                    };
                    peers.get(name).and_then(status) == status(record)
                }
                Event::Init | Event::InitDone => true,
            };
        if !accepted(&event, &self.peers) {
            self.published = None;
        }
        let first = !self.peers.complete();
        self.dirty |= !self.peers.handle(event).is_empty() || first;
    }

    /// Enters what the watch of LocationSlices tells.
    pub fn handle_slice(&mut self, event: Event<LocationSlice>) {
        let Some(event) = translated(event, records::slice) else {
            return;
        };
        let first = !self.slices.complete();
        let changed = !self.slices.handle(event).is_empty();
        if changed || first {
            self.published = None;
            self.dirty = true;
        }
    }

    /// Enters what the watch of the Leases in Spanwire's namespace tells.
    pub fn handle_lease(&mut self, event: Event<Lease>, now: Instant) {
        let first = !self.liveness.complete();
        self.dirty |= self.liveness.handle(event, now) || first;
    }

    /// Looks at whose time is over.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.dirty |= self.liveness.handle_timeout(now);
    }

    /// When [`handle_timeout`](Self::handle_timeout) is to be called.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.liveness.poll_timeout()
    }

    /// Whether there is something new to decide upon.
    #[must_use]
    pub fn poll_decide(&self) -> bool {
        self.dirty && self.complete() && !self.doubts_nodes()
    }

    /// Whether all Nodes seem to be gone while something is published of some. Then nothing is decided: to clear the nodes
    /// of a cluster they are retired.
    #[must_use]
    pub fn doubts_nodes(&self) -> bool {
        let published = !self.slices.objects().is_empty() || !self.mesh_nodes.objects().is_empty();
        self.complete() && self.nodes.objects().is_empty() && published
    }

    /// Whether the first list of every kind is complete.
    #[must_use]
    pub fn complete(&self) -> bool {
        self.nodes.complete()
            && self.mesh_nodes.complete()
            && self.locations.complete()
            && self.peers.complete()
            && self.slices.complete()
            && self.liveness.complete()
    }

    /// Decides; `None` while something is not known yet, or not to be believed.
    pub fn decide(&mut self, now: Now) -> Option<Batch> {
        if !self.complete() || self.doubts_nodes() {
            return None;
        }
        let retired = || {
            let retired = self
                .mesh_nodes
                .objects()
                .iter()
                .filter(|(_, record)| record.spec.retire);
            retired.map(|(name, _)| name.clone()).collect()
        };
        let still: BTreeSet<NodeName> = retired();
        match &mut self.unretire {
            Some(unretire) => unretire.retain(|node| still.contains(node)),
            None => self.unretire = Some(still),
        }
        let previous = self.previous();
        let decision = decide(&self.facts(&previous), &previous);
        let leaders = decision
            .mesh
            .locations
            .values()
            .flat_map(|location| &location.leaders);
        self.liveness.lead(
            &leaders.map(|leader| leader.node.clone()).collect(),
            now.monotonic,
        );
        let phases = self.writes(&decision, now);
        self.published = Some(previous);
        self.dirty = false;
        Some(Batch {
            mesh: decision.mesh,
            phases,
        })
    }

    /// A batch was written as a whole: its mesh is what is published.
    pub fn handle_published(&mut self, mesh: Mesh) {
        self.published = Some(mesh);
    }

    /// A part of a batch could not be written: it is to be decided again upon what there is.
    pub fn handle_unpublished(&mut self) {
        self.published = None;
        self.dirty = true;
    }

    /// An object that was to be written or removed turned out to be gone.
    pub fn handle_gone(&mut self, gone: Gone) {
        let changed = match gone {
            Gone::Slice(name) => {
                self.published = None;
                self.slices.forget(&name)
            }
            Gone::MeshNode(name) => self.mesh_nodes.forget(&name),
            Gone::Location(name) => self.locations.forget(&name),
            Gone::Peer(name) => {
                self.published = None;
                self.peers.forget(&name)
            }
        };
        self.dirty |= changed;
    }

    /// How many objects are known.
    #[must_use]
    pub fn sizes(&self) -> Sizes {
        Sizes {
            nodes: self.nodes.objects().len(),
            mesh_nodes: self.mesh_nodes.objects().len(),
            locations: self.locations.objects().len(),
            peers: self.peers.objects().len(),
            slices: self.slices.objects().len(),
        }
    }

    fn previous(&mut self) -> Mesh {
        self.published.take().unwrap_or_else(|| {
            let slices = self.slices.objects().iter();
            let peers: BTreeMap<_, _> = self
                .peers
                .objects()
                .iter()
                .filter_map(|(name, record)| {
                    Some((name.as_str(), record.status.as_ref()?.accepted.as_ref()?))
                })
                .collect();
            assemble(slices.map(|(name, record)| (name.as_str(), &record.spec)), peers)
        })
    }
}

/// An object that turned out to be gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Gone {
    /// A LocationSlice.
    Slice(String),
    /// A MeshNode.
    MeshNode(NodeName),
    /// A Location.
    Location(LocationName),
    /// A Peer.
    Peer(PeerName),
}
