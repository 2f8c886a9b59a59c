//! What was observed of the cluster, and what is to be written upon it; sans I/O.
//!
//! ```text
//! watches ──handle_*──▶ OperatorState ──decide──▶ Batch of writes ──▶ WriteQueue ──▶ ApiWriter
//!                             ▲                                                          │
//!                             └──────────── handle_* of what was written ────────────────┘
//! ```
//!
//! The published state is the only memory: the mesh before a decision is put together from the LocationSlices and the
//! Peers' status, so that leaders, overlay addresses and `established` survive a restart of the operator, and so that
//! two operators can never disagree for long. What has gone wrong in such controllers, and must not here:
//!
//! * Deciding upon a part: nothing is decided before the first list of every kind is complete.
//! * Heartbeats: an event that changes nothing of what is decided upon costs a comparison.
//! * Work in proportion to the cluster: facts are kept and changed in place; slices, MeshNodes and statuses are rendered
//!   where what they are made of changed. A decision itself looks at every node, and is made once for a burst of events.
//! * Writing in circles: what is written is entered at once. The response to a write, and the event by which the watch
//!   repeats it, are recognised, and lead to no further decision.
//! * An empty list: a cluster in which an operator runs has Nodes. A complete list without any, where something is
//!   published, is a mistake of the API server or of who runs it, and nothing is decided upon it.
//! * A report that is gone: deleting a MeshNode takes no node's key from it. What an agent reported last holds until
//!   it reports again.
//! * An object that cannot be read: it counts as it was known, or as absent; a MeshNode as one without a report, a Lease as
//!   not renewed. It is named in an Event, and nothing else is harmed.
//! * Leases that no agent can renew: leaders stay ([`liveness`]), and a condition says so.
//! * Everything dead: when no node of a location that may lead it seems to be alive, its leaders stay (`decide`).

mod answers;
mod avoided;
mod batch;
mod facts;
mod felix;
mod former;
mod liveness;
mod mesh_nodes;
mod mistaken;
mod mute;
mod networks;
mod records;
mod slices;
mod status;
mod unreadable;
mod usage;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    str::FromStr,
    time::Instant,
};

use k8s_openapi::{api::coordination::v1::Lease, apimachinery::pkg::apis::meta::v1::Condition};
use kube::runtime::watcher::Event;
pub use liveness::{GRACE, LEASE_PREFIX, Now};
use records::{LocationRecord, MeshNodeRecord, NodeRecord, PeerRecord, SliceRecord};
use spanwire_cluster::{
    observed::{Observable, Observed},
    store::{Change, ObjectStore, Record},
    watch::filter_map,
};
use spanwire_crds::{
    Location, LocationSlice, LocationStatus, MeshNode, Peer, PeerStatus, publication,
    translate::{Node, NodeOptions},
};
use spanwire_topology::{
    ClusterFacts, Facts, LocationName, Mesh, NodeName, PeerName, PodSources, Prefix, decide,
};

use self::{
    liveness::Liveness, mesh_nodes::Assignments, networks::Networks, slices::Publication,
    unreadable::Unreadable, usage::Usage,
};
use crate::{
    batch::{Batch, ObjectKey, ObjectKind},
    installation::Installation,
};

/// How the operator decides, as configured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// What concerns the whole cluster.
    pub cluster: ClusterFacts,
    /// How Nodes are read.
    pub nodes: NodeOptions,
    /// From which sources pod networks may be taken.
    pub pod_sources: PodSources,
    /// The name of the tunnel's device on nodes.
    pub link: String,
    /// This installation, which the heads of locations name; `None`: they name none.
    pub installation: Option<Installation>,
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
    installation: Option<Installation>,
    node_options: NodeOptions,
    /// The networks of services that the configuration names.
    named_services: BTreeSet<Prefix>,
    nodes: ObjectStore<NodeName, NodeRecord>,
    mesh_nodes: ObjectStore<NodeName, MeshNodeRecord>,
    locations: ObjectStore<LocationName, LocationRecord>,
    peers: ObjectStore<PeerName, PeerRecord>,
    slices: ObjectStore<String, SliceRecord>,
    networks: Networks,
    felix: felix::Felix,
    liveness: Liveness,
    /// What is decided upon, kept from one decision to the next.
    facts: Facts,
    /// Leaders that are about to leave.
    usage: Usage,
    /// Nodes that came to lead, with the generation of the spec that says so, of which their agents have not seen it yet.
    appointed: BTreeMap<NodeName, i64>,
    /// Nodes of which the agent's part of the fact, or whether they are alive, has to be entered again.
    stale: BTreeSet<NodeName>,
    /// Nodes in whose object or report something could not be read.
    faulty: BTreeSet<NodeName>,
    /// Nodes whose agents say that packets may be lost there.
    degraded: BTreeSet<NodeName>,
    /// What agents report of leaders that they do not use, and what came of it.
    avoidance: avoided::Avoidance,
    /// Nodes whose agents name members that do not answer them.
    unanswered: BTreeSet<NodeName>,
    /// Nodes that their CNI knows by an overlay address, and what to say of it.
    mistaken: BTreeMap<NodeName, String>,
    /// What nodes had until a short while ago.
    former: former::Former,
    /// Nodes whose agents have not reported.
    mute: mute::Mute,
    /// Nodes whose agents say that they cannot renew their Lease.
    refused: BTreeSet<NodeName>,
    /// The decision before, as long as no other writer changed what is published.
    published: Option<Mesh>,
    publication: Publication,
    assignments: Assignments,
    /// Locations of which nothing can be read and nothing was known.
    assumed: BTreeSet<LocationName>,
    /// The statuses that the last decision leads to.
    location_statuses: BTreeMap<LocationName, LocationStatus>,
    peer_statuses: BTreeMap<PeerName, PeerStatus>,
    /// What MeshNodes are to say of the claims of their nodes, where they say anything.
    answers: BTreeMap<NodeName, Condition>,
    /// MeshNodes that say something of it.
    answered: BTreeSet<NodeName>,
    /// Objects that are there and cannot be read.
    unreadable: Unreadable,
    /// Nodes that an earlier installation retired; `None` before this operator has led.
    unretire: Option<BTreeSet<NodeName>>,
    /// What was published before this operator decided has been taken over where it cannot be read.
    remembered: bool,
    dirty: bool,
    /// What makes it so is waited for.
    urgent: bool,
}

impl OperatorState {
    /// A state that knows nothing yet.
    #[must_use]
    pub fn new(options: Options) -> Self {
        Self {
            node_options: options.nodes,
            installation: options.installation,
            networks: Networks::new(options.pod_sources),
            felix: felix::Felix::new(options.link),
            named_services: options.cluster.services.clone(),
            facts: Facts {
                cluster: options.cluster,
                ..Facts::default()
            },
            dirty: true,
            ..Self::default()
        }
    }

    /// Handles an event of the watch of Nodes.
    pub fn handle_node(&mut self, event: Event<Observed<Node>>) {
        self.note_unreadable(&event);
        let options = &self.node_options;
        let mut entered = None;
        let read = |node: Observed<Node>| {
            let (name, record, fact) = records::node(node, options)?;
            entered = Some((name.clone(), fact));
            Some((name, record))
        };
        let Some(event) = known(&mut self.nodes, event, read) else {
            return;
        };
        self.dirty |= !self.nodes.complete();
        let deleted = matches!(event, Event::Delete(_));
        for Change { key, before } in self.nodes.handle(event) {
            self.dirty = true;
            self.note_node(key, before.as_ref());
        }
        if let Some((name, mut fact)) = entered.filter(|_| !deleted) {
            self.keep_networks_of(&name, &mut fact);
            self.dirty |= self.enter_fact(name, fact);
        }
    }

    /// Handles an event of the watch of MeshNodes.
    pub fn handle_mesh_node(&mut self, event: Event<Observed<MeshNode>>) {
        let Some(event) = filter_map(event, records::mesh_node) else {
            return;
        };
        self.dirty |= !self.mesh_nodes.complete();
        for Change { key, before } in self.mesh_nodes.handle(event) {
            self.note_mesh_node(key, before.as_ref());
        }
    }

    /// Handles an event of the watch of Locations.
    pub fn handle_location(&mut self, event: Event<Observed<Location>>) {
        self.note_unreadable(&event);
        let Some(event) = known(&mut self.locations, event, records::location) else {
            return;
        };
        self.dirty |= !self.locations.complete();
        for Change { key, before } in self.locations.handle(event) {
            self.note_location(key, before.as_ref());
        }
    }

    /// Handles an event of the watch of Peers.
    pub fn handle_peer(&mut self, event: Event<Observed<Peer>>) {
        self.note_unreadable(&event);
        let Some(event) = known(&mut self.peers, event, records::peer) else {
            return;
        };
        self.dirty |= !self.peers.complete();
        for Change { key, before } in self.peers.handle(event) {
            self.note_peer(key, before.as_ref());
        }
    }

    /// Handles an event of the watch of LocationSlices.
    pub fn handle_slice(&mut self, event: Event<Observed<LocationSlice>>) {
        self.note_unreadable(&event);
        let Some(event) = filter_map(event, records::slice) else {
            return;
        };
        if !self.slices.complete() {
            self.published = None;
            self.dirty = true;
        }
        for change in self.slices.handle(event) {
            self.note_slice(&change);
        }
    }

    /// Handles an event of the watch of Leases in Spanwire's namespace.
    pub fn handle_lease(&mut self, event: Event<Observed<Lease>>, now: Instant) {
        self.note_unreadable(&event);
        self.dirty |= !self.liveness.complete();
        self.liveness.handle(event, now);
        self.note_turned();
    }

    /// Handles where the API server is reached: nothing may claim these addresses.
    pub fn handle_api_server(&mut self, addresses: &BTreeSet<SocketAddr>) {
        if self.facts.cluster.api_server != *addresses {
            self.facts.cluster.api_server.clone_from(addresses);
            self.dirty = true;
        }
    }

    /// Handles where the API server really runs: nothing may claim these addresses either.
    pub fn handle_api_endpoints(&mut self, endpoints: &BTreeSet<SocketAddr>) {
        if self.facts.cluster.api_endpoints != *endpoints {
            self.facts.cluster.api_endpoints.clone_from(endpoints);
            self.dirty = true;
        }
    }

    /// Handles what the API server tells of the networks of services.
    pub fn handle_services(&mut self, known: &BTreeSet<Prefix>) {
        let services = self.named_services.union(known).copied().collect();
        self.dirty |= self.facts.cluster.services != services;
        self.facts.cluster.services = services;
    }

    /// Handles the passing of time: leaders whose Lease has expired, such as may leave, and Pods that changed a while ago.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.dirty |= self.networks.handle_timeout(now);
        self.notice_mute(now);
        self.notice_avoided(now);
        let changed = self.former.handle_timeout(now);
        self.dirty |= !changed.is_empty();
        self.stale.extend(changed);
        self.liveness.handle_timeout(now);
        self.note_turned();
        let mut usage = std::mem::take(&mut self.usage);
        for node in usage.handle_timeout(now, |node| self.leaders_are_published(node)) {
            if let Some(fact) = self.facts.nodes.get_mut(&node) {
                fact.released = true;
                self.dirty = true;
            }
        }
        self.usage = usage;
    }

    /// Returns when [`handle_timeout`](Self::handle_timeout) is to be called.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let timeouts = [
            self.liveness.poll_timeout(),
            self.usage.poll_timeout(),
            self.networks.poll_timeout(),
            self.mute.poll_timeout(),
            self.poll_avoided(),
            self.former.poll_timeout(),
        ];
        timeouts.into_iter().flatten().min()
    }

    /// Returns whether there is something new to decide upon.
    #[must_use]
    pub fn poll_decide(&self) -> bool {
        self.dirty && self.complete() && !self.doubts_nodes()
    }

    /// Returns whether what is new is to be decided upon before all of the decision before is written: a person has changed
    /// something that was known, or a leader fails. Nodes that join, and reports of agents, come by the thousand.
    #[must_use]
    pub fn poll_urgent(&self) -> bool {
        self.urgent && self.poll_decide()
    }

    /// Returns whether all Nodes seem to be gone while something is published of some. Then nothing is decided: to clear
    /// the nodes of a cluster they are retired.
    #[must_use]
    pub fn doubts_nodes(&self) -> bool {
        let published = !self.slices.objects().is_empty() || !self.mesh_nodes.objects().is_empty();
        self.complete() && self.nodes.objects().is_empty() && published
    }

    /// Returns whether the first list of every kind is complete.
    #[must_use]
    pub fn complete(&self) -> bool {
        self.nodes.complete()
            && self.mesh_nodes.complete()
            && self.locations.complete()
            && self.peers.complete()
            && self.slices.complete()
            && self.liveness.complete()
            && self.networks.complete(&self.nodes)
    }

    /// Decides; `None` while something is not known yet, or not to be believed. The batch is to be written as a whole
    /// before the next decision, but for its `rest`.
    pub fn decide(&mut self, now: Now) -> Option<Batch> {
        if !self.complete() || self.doubts_nodes() {
            return None;
        }
        if self.unretire.is_none() {
            let records = self.mesh_nodes.objects().iter();
            let retired = records.filter(|(_, record)| record.retires());
            self.unretire = Some(retired.map(|(name, _)| name.clone()).collect());
        }
        self.assume_locations();
        self.enter_networks(now.monotonic);
        let previous = self.previous();
        if !std::mem::replace(&mut self.remembered, true) {
            self.facts.remember(&previous);
            self.succeed(&previous, now.monotonic);
        }
        self.hear_witnesses(&previous, now);
        self.refresh(&previous, now.monotonic);
        let decision = decide(&self.facts, &previous);
        self.appoint(&decision.mesh, now.monotonic);
        for node in self.usage.handle_decision(&decision.leaving, now.monotonic) {
            if let Some(fact) = self.facts.nodes.get_mut(&node) {
                fact.released = false;
            }
        }
        let batch = self.batch(&decision, now);
        self.published = Some(decision.mesh);
        (self.dirty, self.urgent) = (false, false);
        Some(batch)
    }

    /// Handles the end of a batch, but for its `rest`: whether anything of it was written. What was held back until then
    /// is decided upon next.
    pub fn handle_published(&mut self, wrote: bool) {
        self.dirty |= wrote && self.publication.held_back();
    }

    /// Handles that it is not known what of a batch was written, or that another writer interfered: the next decision
    /// is made upon the LocationSlices and Peers as they are.
    pub fn handle_unpublished(&mut self) {
        self.published = None;
        self.dirty = true;
    }

    /// Handles that an object could not be written as decided, and is to be decided upon again.
    pub fn handle_unwritten(&mut self, key: &ObjectKey) {
        if key.kind == ObjectKind::MeshNode
            && let Ok(name) = key.name.parse()
        {
            self.assignments.unsettle(name);
        }
        self.dirty = true;
    }

    /// Handles that an object that was to be written or removed turned out to be gone.
    pub fn handle_gone(&mut self, gone: Gone) {
        match gone {
            Gone::Slice(name) => {
                if let Some(change) = self.slices.forget(name) {
                    self.note_slice(&change);
                }
            }
            Gone::MeshNode(name) => {
                if let Some(Change { key, before }) = self.mesh_nodes.forget(name) {
                    self.note_mesh_node(key, before.as_ref());
                }
            }
            Gone::Location(name) => {
                if let Some(Change { key, before }) = self.locations.forget(name) {
                    self.note_location(key, before.as_ref());
                }
            }
            Gone::Peer(name) => {
                if let Some(Change { key, before }) = self.peers.forget(name) {
                    self.published = None;
                    self.note_peer(key, before.as_ref());
                }
            }
        }
    }

    /// Returns how many objects are known.
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

    /// The mesh before this decision: the one decided last, or what is published.
    fn previous(&mut self) -> Mesh {
        if let Some(mesh) = self.published.take() {
            return mesh;
        }
        let slices = self.slices.objects().iter();
        let peers: BTreeMap<_, _> = self
            .peers
            .objects()
            .iter()
            .filter_map(|(name, record)| Some((name.as_str(), record.status.as_ref()?.accepted.as_ref()?)))
            .collect();
        let mut mesh =
            publication::assemble(slices.map(|(name, record)| (name.as_str(), &record.spec)), peers);
        self.restore_established(&mut mesh);
        self.suspect_reports();
        mesh
    }

    fn note_unreadable<K: Observable>(&mut self, event: &Event<Observed<K>>) {
        self.dirty |= self.unreadable.handle(event);
    }

    fn note_location(&mut self, name: LocationName, before: Option<&LocationRecord>) {
        let now = self.locations.get(&name);
        // The status that was decided upon has been written.
        let settled = before.zip(now).is_some_and(|(before, now)| {
            before.same_but_status(now) && now.status.as_ref() == self.location_statuses.get(&name)
        });
        self.dirty |= !settled;
        self.urgent |= before
            .zip(now)
            .is_some_and(|(before, now)| !before.same_but_status(now));
        match now {
            Some(record) => {
                let mut fact = record.fact.clone();
                if let Some(known) = self.facts.locations.get(&name) {
                    fact.keep(known);
                }
                self.facts.locations.insert(name, fact)
            }
            None => self.facts.locations.remove(&name),
        };
    }

    fn note_peer(&mut self, name: PeerName, before: Option<&PeerRecord>) {
        let accepted =
            |record: &PeerRecord| record.status.as_ref().and_then(|status| status.accepted.clone());
        let now = self.peers.get(&name);
        let settled = before.zip(now).is_some_and(|(before, now)| {
            before.same_but_status(now) && now.status.as_ref() == self.peer_statuses.get(&name)
        });
        self.dirty |= !settled;
        self.urgent |= before
            .zip(now)
            .is_none_or(|(before, now)| !before.same_but_status(now));
        if let Some(now) = now
            && let Some(mesh) = &self.published
        {
            let decided = mesh.peers.get(&name).map(publication::accepted);
            let changed = before.and_then(accepted) != accepted(now);
            if changed && accepted(now) != decided {
                self.published = None;
            }
        }
        match now {
            Some(record) => {
                let mut fact = record.fact.clone();
                if let Some(known) = self.facts.peers.get(&name) {
                    fact.keep(known);
                }
                self.facts.peers.insert(name, fact)
            }
            None => self.facts.peers.remove(&name),
        };
    }

    fn note_slice(&mut self, change: &Change<String, SliceRecord>) {
        let now = self.slices.get(&change.key).map(|record| &record.spec);
        let before = change.before.as_ref().map(|record| &record.spec);
        if !self.publication.handle_slice(&change.key, before, now) {
            self.published = None;
            self.dirty = true;
        }
    }
}

/// Returns the event of what `read` makes of an object. What is known of one that cannot be read stays as it is.
fn known<K: Observable, N: Ord + Clone + FromStr, R: Record + Clone>(
    store: &mut ObjectStore<N, R>,
    event: Event<Observed<K>>,
    read: impl FnOnce(Observed<K>) -> Option<(N, R)>,
) -> Option<Event<(N, R)>> {
    let name = |object: &Observed<K>| object.name().parse::<N>().ok();
    match &event {
        Event::InitApply(object) if object.object.is_none() => store.keep(&Event::InitApply(name(object)?)),
        Event::Apply(object) if object.object.is_none() => store.keep(&Event::Apply(name(object)?)),
        Event::Delete(object) if object.object.is_none() => {
            let key = name(object)?;
            let record = store.get(&key)?.clone();
            return Some(Event::Delete((key, record)));
        }
        Event::Init | Event::InitDone | Event::InitApply(_) | Event::Apply(_) | Event::Delete(_) => {}
    }
    filter_map(event, read)
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
