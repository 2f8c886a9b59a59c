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
//! * A pod whose node has its address out of a block of another (Calico lets a node borrow): the block says where the other addresses
//!   are, its [IPAMBlock](IpamBlock) where this one is.
//! * A rollout: hundreds of Pods change in a second, on many nodes. They are taken over together once per [`GATHER`], so that of
//!   a LocationSlice there is one write in that time for them, however many they are. So are borrowed addresses.

mod source;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::{Duration, Instant},
};

use source::Source;
use spanwire_cluster::{
    optional::{ObservedNetworks, SourceEvent},
    store::ObjectStore,
};
use spanwire_crds::{
    FieldProblem,
    translate::networks::{IpamBlock, object_kind},
};
use spanwire_topology::{HopMode, NodeFact, NodeName, PodSource, PodSources, Prefix, cover};

use super::{
    OperatorState,
    records::NodeRecord,
    unreadable::{Fault, Unreadable},
};

/// The addresses of Pods, and borrowed ones, are taken over at most once in this time.
const GATHER: Duration = Duration::from_secs(1);

/// What is known of the pod networks of nodes.
#[derive(Debug, Default)]
pub(super) struct Networks {
    sources: PodSources,
    of_cnis: BTreeMap<PodSource, Source>,
    /// The source that counted in the last decision.
    counts: Option<PodSource>,
    /// Of Calico's blocks, the addresses that nodes have of blocks of others.
    borrowed: Option<Source>,
    single: Gathered,
    /// Calico has a kind of blocks that is not read.
    other_blocks: bool,
    /// Nodes with more networks than count.
    excess: BTreeMap<NodeName, FieldProblem>,
}

/// When changes of single addresses are taken over.
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

impl Networks {
    pub(super) fn new(sources: PodSources) -> Self {
        let optional = |source: &PodSource| *source != PodSource::Nodes && sources.contains(*source);
        let of_cnis = PodSource::ORDER.into_iter().filter(optional);
        Self {
            of_cnis: of_cnis.map(|source| (source, Source::default())).collect(),
            borrowed: sources.contains(PodSource::Calico).then(Source::default),
            sources,
            ..Self::default()
        }
    }

    /// Returns whether all is known that is needed to say which source counts.
    pub(super) fn complete(&self, nodes: &ObjectStore<NodeName, NodeRecord>) -> bool {
        let known = |source| self.of_cnis.get(&source).is_none_or(Source::complete);
        let borrowed = self.borrowed.as_ref().is_none_or(Source::complete);
        self.knows_cnis() && borrowed && (!self.wants_pods(nodes) || known(PodSource::Pods))
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

    /// Handles the passing of time; returns whether there are changes of single addresses to decide upon.
    pub(super) fn handle_timeout(&mut self, now: Instant) -> bool {
        self.single.handle_timeout(now)
    }

    pub(super) const fn poll_timeout(&self) -> Option<Instant> {
        self.single.due
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
        let networks = source.of_node(node);
        Some(match counts {
            PodSource::Pods => cover(&networks.map(Prefix::address).collect()),
            PodSource::Calico | PodSource::Cilium | PodSource::Nodes => networks.copied().collect(),
        })
    }

    /// Returns the addresses that a node has of blocks of others, where blocks count.
    fn borrowed(&self, node: &NodeName) -> BTreeSet<IpAddr> {
        let counts = self.counts == Some(PodSource::Calico);
        let source = self.borrowed.iter().filter(|_| counts);
        source
            .flat_map(|source| source.of_node(node))
            .map(Prefix::address)
            .collect()
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

impl OperatorState {
    /// Handles what is observed of a source of pod networks whose kind may not exist.
    pub fn handle_networks(&mut self, source: PodSource, event: SourceEvent, now: Instant) {
        let Some(known) = self.networks.of_cnis.get_mut(&source) else {
            return; // it was not asked for
        };
        let faulty = note_unreadable(&mut self.unreadable, object_kind(source).1, &event);
        let was_complete = known.complete();
        let changed = known.handle(source, event);
        if source == PodSource::Pods {
            self.dirty |= faulty || known.complete() != was_complete;
            if !known.changed.is_empty() {
                self.networks.single.handle_change(now);
            }
        } else {
            self.dirty |= changed || faulty;
        }
    }

    /// Handles what is observed of which nodes have addresses of Calico's blocks of others.
    pub fn handle_borrowed(&mut self, event: SourceEvent, now: Instant) {
        let Some(known) = &mut self.networks.borrowed else {
            return; // it was not asked for
        };
        let faulty = note_unreadable(&mut self.unreadable, IpamBlock::OBJECT_KIND.1, &event);
        let was_complete = known.complete();
        known.handle(PodSource::Calico, event);
        self.dirty |= faulty || known.complete() != was_complete;
        if !known.changed.is_empty() {
            self.networks.single.handle_change(now);
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
            networks.single.released = true;
        }
        let released = std::mem::take(&mut networks.single.released);
        let mut changed = BTreeSet::new();
        for (source, known) in &mut networks.of_cnis {
            if *source == counts && (counts != PodSource::Pods || released) {
                changed = std::mem::take(&mut known.changed);
            } else if *source != counts {
                known.changed.clear();
            }
        }
        if let Some(borrowed) = networks.borrowed.as_mut().filter(|_| released) {
            changed.append(&mut borrowed.changed);
        }
        if released {
            networks.single.last = Some(now);
            networks.single.due = None;
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
                fact.borrowed.clone_from(&known.borrowed);
            }
            Some(_) | None => self.enter_networks_of(name, fact),
        }
    }

    /// Takes the pod networks of a node from the source that counts.
    pub(super) fn enter_networks_of(&mut self, name: &NodeName, fact: &mut NodeFact) {
        let counts = self.networks.counts;
        let Some(networks) = self.networks.of_cni(name) else {
            if let Some(record) = self.nodes.get(name) {
                fact.prefixes.clone_from(&record.pod_cidrs);
            }
            fact.borrowed.clear();
            return;
        };
        let most = if counts == Some(PodSource::Pods) {
            NodeFact::MAX_POD_ADDRESSES
        } else {
            NodeFact::MAX_NETWORKS
        };
        let borrowed = self.networks.borrowed(name);
        let excess = excess("pod networks", networks.len(), most).or_else(|| {
            excess(
                "addresses of blocks of other nodes",
                borrowed.len(),
                NodeFact::MAX_BORROWED,
            )
        });
        fact.prefixes = networks.into_iter().take(most).collect();
        fact.borrowed = borrowed.into_iter().take(NodeFact::MAX_BORROWED).collect();
        match excess {
            Some(problem) => drop(self.networks.excess.insert(name.clone(), problem)),
            None => drop(self.networks.excess.remove(name)),
        }
    }
}

/// Returns what to say of a node that has more values than count.
fn excess(of: &str, all: usize, most: usize) -> Option<FieldProblem> {
    (all > most).then(|| FieldProblem {
        field: of.to_owned(),
        problem: format!(
            "has {all} of them, of which the first {most} count; give the node fewer and larger ones"
        ),
    })
}

/// Notes which objects of a kind cannot be read; returns whether there is another such object than before, or one less.
fn note_unreadable(unreadable: &mut Unreadable, kind: &str, event: &SourceEvent) -> bool {
    match event {
        SourceEvent::Absent => unreadable.clear(kind),
        SourceEvent::Refused => false,
        SourceEvent::Objects(event) => {
            let fault = |object: &ObservedNetworks| {
                let whole = object.networks.as_ref().err();
                let problems = whole.unwrap_or(&object.set_aside);
                (!problems.is_empty()).then(|| Fault {
                    uid: object.uid.clone(),
                    problems: problems.clone(),
                    is_partial: whole.is_none(),
                })
            };
            let name = |object: &ObservedNetworks| object.name.clone();
            unreadable.handle_as(kind, event, name, fault)
        }
    }
}
