//! The pod networks of nodes: from which source they are taken, and what it says; sans I/O.
//!
//! One source counts for all nodes ([`PodSources::choose`]): that of a CNI that allocates by itself goes before
//! `spec.podCIDRs`, which may be there as well and are wrong then.
//!
//! What has gone wrong in such programs, and must not here:
//!
//! * Deciding before it is known whether there are objects of a CNI: the networks of Nodes would be published for a moment.
//! * An API server that starts and does not know a kind yet: what was known of it stays.
//! * A block that moves: one object says that the old node gives it up, another that the new one has it, in any order. Each node
//!   has what the objects name it for, and of two nodes that are named for one the claims decide.
//! * An object that cannot be read: it counts as absent, and is named.
//! * A rollout: hundreds of Pods change in a second, on many nodes. They are taken over together once per [`GATHER`], so that of
//!   a LocationSlice there is one write in that time for them, however many they are.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use kube::runtime::watcher::Event;
use spanwire_cluster::{
    optional::{ObservedNetworks, SourceEvent},
    store::{ObjectStore, Record},
    watch::filter_map,
};
use spanwire_crds::{
    FieldProblem,
    translate::networks::{NodeNetworks, object_kind},
};
use spanwire_topology::{HopMode, NodeFact, NodeName, PodSource, PodSources, Prefix, cover};

use super::{OperatorState, records::NodeRecord, unreadable::Fault};

/// The addresses of Pods are taken over at most once in this time.
const GATHER: Duration = Duration::from_secs(1);

/// What is known of the pod networks of nodes.
#[derive(Debug, Default)]
pub(super) struct Networks {
    sources: PodSources,
    of_cnis: BTreeMap<PodSource, Source>,
    /// The source that counted in the last decision.
    counts: Option<PodSource>,
    pods: Gathered,
    /// Calico has a kind of blocks that is not read.
    other_blocks: bool,
    /// Nodes with more networks than count.
    excess: BTreeMap<NodeName, FieldProblem>,
}

/// When changes of Pods are taken over.
#[derive(Debug, Default)]
struct Gathered {
    /// When those that there are may be.
    due: Option<Instant>,
    /// They may be.
    released: bool,
    last: Option<Instant>,
}

impl Gathered {
    fn handle_change(&mut self, now: Instant) {
        let next = self.last.map_or(now, |last| last + GATHER);
        self.due.get_or_insert(next.max(now));
    }

    fn handle_timeout(&mut self, now: Instant) -> bool {
        let over = self.due.is_some_and(|due| due <= now);
        if over {
            self.due = None;
            self.released = true;
        }
        over
    }
}

/// What is known of one source whose kind may not exist.
#[derive(Debug, Default)]
struct Source {
    /// `None`: not known yet.
    exists: Option<bool>,
    objects: ObjectStore<String, NetworksRecord>,
    /// By node, how many objects name each network.
    of_nodes: BTreeMap<NodeName, BTreeMap<Prefix, u32>>,
    /// Nodes that it says something else of than when it was last asked.
    changed: BTreeSet<NodeName>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct NetworksRecord(NodeNetworks);

impl Record for NetworksRecord {
    fn version(&self) -> Option<&str> {
        None
    }

    fn same(&self, other: &Self) -> bool {
        self == other
    }

    fn renew(&mut self, _newer: Self) {}
}

impl Networks {
    pub(super) fn new(sources: PodSources) -> Self {
        let optional = |source: &PodSource| *source != PodSource::Nodes && sources.contains(*source);
        let of_cnis = PodSource::ORDER.into_iter().filter(optional);
        Self {
            of_cnis: of_cnis.map(|source| (source, Source::default())).collect(),
            sources,
            ..Self::default()
        }
    }

    /// Returns whether all is known that is needed to say which source counts.
    pub(super) fn complete(&self, nodes: &ObjectStore<NodeName, NodeRecord>) -> bool {
        let known = |source| self.of_cnis.get(&source).is_none_or(Source::complete);
        self.knows_cnis() && (!self.wants_pods(nodes) || known(PodSource::Pods))
    }

    fn knows_cnis(&self) -> bool {
        let mut cnis = self
            .of_cnis
            .iter()
            .filter(|(source, _)| **source != PodSource::Pods);
        cnis.all(|(_, source)| source.complete())
    }

    /// Returns whether Pods are to be observed: they are many, so only where they count.
    pub(super) fn wants_pods(&self, nodes: &ObjectStore<NodeName, NodeRecord>) -> bool {
        let may = self.of_cnis.contains_key(&PodSource::Pods);
        may && nodes.complete() && self.knows_cnis() && self.choose(nodes) == PodSource::Pods
    }

    /// Handles the passing of time; returns whether there are changes of Pods to decide upon.
    pub(super) fn handle_timeout(&mut self, now: Instant) -> bool {
        self.pods.handle_timeout(now)
    }

    pub(super) const fn poll_timeout(&self) -> Option<Instant> {
        self.pods.due
    }

    /// Returns the source that counted in the last decision, and whether a user has named it.
    pub(super) fn counts(&self) -> (PodSource, bool) {
        let counts = self.counts.unwrap_or(PodSource::Nodes);
        (counts, self.sources.is_named())
    }

    /// Returns whether pods may have networks of blocks that are not read, so that what counts is wrong.
    pub(super) fn may_miss_blocks(&self) -> bool {
        let (source, named) = self.counts();
        let instead = match source {
            PodSource::Calico => !self.of_cnis.get(&source).is_some_and(Source::is_used),
            PodSource::Nodes => !named,
            // What pods and Cilium have they say themselves.
            PodSource::Cilium | PodSource::Pods => false,
        };
        self.other_blocks && instead
    }

    /// Returns the networks of a node by the source that counts; `None` where that is the Node itself.
    fn of_cni(&self, node: &NodeName) -> Option<BTreeSet<Prefix>> {
        let counts = self.counts?;
        let source = self.of_cnis.get(&counts)?;
        let networks = source.of_nodes.get(node).into_iter().flat_map(BTreeMap::keys);
        Some(match counts {
            PodSource::Pods => cover(&networks.map(Prefix::address).collect()),
            PodSource::Calico | PodSource::Cilium | PodSource::Nodes => networks.copied().collect(),
        })
    }

    /// Returns what of a node has more values than count.
    pub(super) fn excess(&self) -> impl Iterator<Item = (&NodeName, &FieldProblem)> {
        self.excess.iter()
    }

    fn choose(&self, nodes: &ObjectStore<NodeName, NodeRecord>) -> PodSource {
        self.sources.choose(|source| match source {
            PodSource::Calico => self.of_cnis.get(&source).is_some_and(Source::is_used),
            PodSource::Cilium => self.of_cnis.get(&source).is_some_and(Source::says_something),
            PodSource::Nodes => nodes.objects().values().any(|node| !node.pod_cidrs.is_empty()),
            // A node is Ready once its CNI works, and one that takes podCIDRs does not work without.
            PodSource::Pods => nodes.objects().values().any(|node| node.ready),
        })
    }
}

impl Source {
    fn complete(&self) -> bool {
        match self.exists {
            None => false,
            Some(false) => true,
            Some(true) => self.objects.complete(),
        }
    }

    /// Returns whether there is any object of it.
    fn is_used(&self) -> bool {
        self.objects.complete() && !self.objects.objects().is_empty()
    }

    /// Returns whether it names a network of any node.
    fn says_something(&self) -> bool {
        self.objects.complete() && !self.of_nodes.is_empty()
    }

    /// Handles an event; returns whether it says something else of a node, or is complete now.
    fn handle(&mut self, source: PodSource, event: SourceEvent) -> bool {
        let was = self.said();
        match event {
            SourceEvent::Absent => {
                let of_nodes = std::mem::take(&mut self.of_nodes);
                self.changed.extend(of_nodes.into_keys());
                self.objects = ObjectStore::default();
                // Pods always exist: they were not observed, and once they are wanted they are waited for.
                self.exists = (source != PodSource::Pods).then_some(false);
            }
            SourceEvent::Refused if self.objects.complete() => {}
            SourceEvent::Refused => self.exists = Some(false),
            SourceEvent::Objects(event) => {
                // That a list begins is said before each attempt, also of one that is refused.
                if !matches!(event, Event::Init | Event::InitApply(_)) {
                    self.exists = Some(true);
                }
                self.handle_objects(event);
            }
        }
        !self.changed.is_empty() || self.said() != was
    }

    /// What whether it counts depends on.
    fn said(&self) -> (bool, bool, bool) {
        (self.complete(), self.is_used(), self.says_something())
    }

    fn handle_objects(&mut self, event: Event<ObservedNetworks>) {
        // One that cannot be read, or is about no node, is as good as none.
        let event = match event {
            Event::Apply(object) if !matches!(object.networks, Ok(Some(_))) => {
                if let Some(change) = self.objects.forget(object.name) {
                    self.remove(change.before.as_ref());
                }
                return;
            }
            // A deletion counts whatever the object said last.
            Event::Delete(object) => {
                if let Some(change) = self.objects.forget(object.name) {
                    self.remove(change.before.as_ref());
                }
                return;
            }
            Event::Init | Event::InitApply(_) | Event::InitDone | Event::Apply(_) => event,
        };
        let read = |object: ObservedNetworks| Some((object.name, NetworksRecord(object.networks.ok()??)));
        let Some(event) = filter_map(event, read) else {
            return;
        };
        for change in self.objects.handle(event) {
            let now = self.objects.get(&change.key).cloned();
            // Added before removed: a network that stays is no change.
            self.add(now.as_ref());
            self.remove(change.before.as_ref());
        }
    }

    fn add(&mut self, record: Option<&NetworksRecord>) {
        let Some(NetworksRecord(said)) = record else {
            return;
        };
        if said.networks.is_empty() {
            return;
        }
        let networks = self.of_nodes.entry(said.node.clone()).or_default();
        for network in &said.networks {
            let count = networks.entry(*network).or_default();
            *count += 1;
            if *count == 1 {
                self.changed.insert(said.node.clone());
            }
        }
    }

    fn remove(&mut self, record: Option<&NetworksRecord>) {
        let Some(NetworksRecord(said)) = record else {
            return;
        };
        let Some(networks) = self.of_nodes.get_mut(&said.node) else {
            return;
        };
        for network in &said.networks {
            let Some(count) = networks.get_mut(network) else {
                continue;
            };
            *count -= 1;
            if *count == 0 {
                networks.remove(network);
                self.changed.insert(said.node.clone());
            }
        }
        if networks.is_empty() {
            self.of_nodes.remove(&said.node);
        }
    }
}

impl OperatorState {
    /// Handles what is observed of a source of pod networks whose kind may not exist.
    pub fn handle_networks(&mut self, source: PodSource, event: SourceEvent, now: Instant) {
        let Some(known) = self.networks.of_cnis.get_mut(&source) else {
            return; // it was not asked for
        };
        let (_, kind) = object_kind(source);
        let faulty = match &event {
            SourceEvent::Absent => self.unreadable.clear(kind),
            SourceEvent::Refused => false,
            SourceEvent::Objects(event) => {
                let fault = |object: &ObservedNetworks| Fault {
                    uid: object.uid.clone(),
                    problems: object.networks.clone().err().unwrap_or_default(),
                };
                let name = |object: &ObservedNetworks| object.name.clone();
                self.unreadable.handle_as(kind, event, name, |object| {
                    object.networks.is_err().then(|| fault(object))
                })
            }
        };
        let was_complete = known.complete();
        let changed = known.handle(source, event);
        if source == PodSource::Pods {
            self.dirty |= known.complete() != was_complete;
            if !known.changed.is_empty() {
                self.networks.pods.handle_change(now);
            }
        } else {
            self.dirty |= changed || faulty;
        }
    }

    /// Handles whether Calico has a kind of blocks that is not read.
    pub fn handle_other_blocks(&mut self, there: bool) {
        self.dirty |= self.networks.other_blocks != there;
        self.networks.other_blocks = there;
    }

    /// Returns whether Pods are to be observed.
    #[must_use]
    pub fn wants_pods(&self) -> bool {
        self.networks.wants_pods(&self.nodes)
    }

    /// Takes the pod networks of the facts from the source that counts, where something has changed.
    pub(super) fn enter_networks(&mut self, now: Instant) {
        let networks = &mut self.networks;
        let counts = networks.choose(&self.nodes);
        let switched = networks.counts.replace(counts) != Some(counts);
        if switched {
            tracing::info!(source = ?counts, "pod networks are taken from there");
            networks.excess.clear();
            networks.pods.released = true;
        }
        let mut changed = BTreeSet::new();
        for (source, known) in &mut networks.of_cnis {
            if *source == counts && (counts != PodSource::Pods || networks.pods.released) {
                changed = std::mem::take(&mut known.changed);
            } else if *source != counts {
                known.changed.clear();
            }
        }
        if std::mem::take(&mut networks.pods.released) && counts == PodSource::Pods {
            networks.pods.last = Some(now);
            networks.pods.due = None;
        }
        if switched {
            changed = self.facts.nodes.keys().cloned().collect();
        }
        self.facts.cluster.pods_reported = counts == PodSource::Pods;
        self.facts.cluster.hop = match counts {
            // Without a network for each node the CNI has no device between nodes, and Cilium's takes nothing from other locations.
            PodSource::Pods | PodSource::Cilium => HopMode::Vxlan,
            PodSource::Calico | PodSource::Nodes => HopMode::Cni,
        };
        for name in changed {
            let Some(mut fact) = self.facts.nodes.remove(&name) else {
                continue;
            };
            self.enter_networks_of(&name, &mut fact);
            self.facts.nodes.insert(name, fact);
        }
    }

    /// Gives a Node that was observed the pod networks that it has by its CNI; what changed of these is taken over by the next
    /// decision that may.
    pub(super) fn keep_networks_of(&mut self, name: &NodeName, fact: &mut NodeFact) {
        match self.facts.nodes.get(name) {
            Some(known)
                if self
                    .networks
                    .counts
                    .is_some_and(|counts| counts != PodSource::Nodes) =>
            {
                fact.prefixes.clone_from(&known.prefixes);
            }
            Some(_) | None => self.enter_networks_of(name, fact),
        }
    }

    /// Takes the pod networks of a node from the source that counts.
    pub(super) fn enter_networks_of(&mut self, name: &NodeName, fact: &mut NodeFact) {
        let Some(networks) = self.networks.of_cni(name) else {
            if let Some(record) = self.nodes.get(name) {
                fact.prefixes.clone_from(&record.pod_cidrs);
            }
            return;
        };
        let most = if self.networks.counts == Some(PodSource::Pods) {
            NodeFact::MAX_POD_ADDRESSES
        } else {
            NodeFact::MAX_NETWORKS
        };
        let all = networks.len();
        fact.prefixes = networks.into_iter().take(most).collect();
        if all > most {
            let problem = FieldProblem {
                field: "pod networks".to_owned(),
                problem: format!(
                    "has {all} of them, of which the first {most} count; give the node fewer and larger ones"
                ),
            };
            self.networks.excess.insert(name.clone(), problem);
        } else {
            self.networks.excess.remove(name);
        }
    }
}
