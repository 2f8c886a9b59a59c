//! What the objects of one kind say of the pod networks of nodes; sans I/O.

use std::collections::{BTreeMap, BTreeSet};

use kube::runtime::watcher::Event;
use spanwire_cluster::{
    optional::{ObservedNetworks, SourceEvent},
    store::{ObjectStore, Record},
    watch::filter_map,
};
use spanwire_crds::translate::networks::NodeNetworks;
use spanwire_topology::{NodeName, PodSource, Prefix};

/// What is known of one source whose kind may not exist.
#[derive(Debug, Default)]
pub(super) struct Source {
    /// `None`: not known yet.
    exists: Option<bool>,
    objects: ObjectStore<String, NetworksRecord>,
    /// By node, how many objects name each network.
    of_nodes: BTreeMap<NodeName, BTreeMap<Prefix, u32>>,
    /// Nodes that it says something else of than when it was last asked.
    pub(super) changed: BTreeSet<NodeName>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct NetworksRecord(Vec<NodeNetworks>);

impl Record for NetworksRecord {
    fn version(&self) -> Option<&str> {
        None
    }

    fn same(&self, other: &Self) -> bool {
        self == other
    }

    fn renew(&mut self, _newer: Self) {}
}

impl Source {
    pub(super) fn complete(&self) -> bool {
        match self.exists {
            None => false,
            Some(false) => true,
            Some(true) => self.objects.complete(),
        }
    }

    /// Returns whether there is any object of it.
    pub(super) fn is_used(&self) -> bool {
        self.objects.complete() && !self.objects.objects().is_empty()
    }

    /// Returns whether it names a network of any node.
    pub(super) fn says_something(&self) -> bool {
        self.objects.complete() && !self.of_nodes.is_empty()
    }

    /// Returns the networks of a node.
    pub(super) fn of_node(&self, node: &NodeName) -> impl Iterator<Item = &Prefix> {
        self.of_nodes.get(node).into_iter().flat_map(BTreeMap::keys)
    }

    /// Handles an event; returns whether it says something else of a node, or is complete now.
    pub(super) fn handle(&mut self, source: PodSource, event: SourceEvent) -> bool {
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
            Event::Apply(object)
                if object.networks.as_ref().is_ok_and(Vec::is_empty) || object.networks.is_err() =>
            {
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
        let read = |object: ObservedNetworks| {
            let networks = object.networks.ok().filter(|networks| !networks.is_empty())?;
            Some((object.name, NetworksRecord(networks)))
        };
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
        let said = record.into_iter().flat_map(|NetworksRecord(said)| said);
        for said in said.filter(|said| !said.networks.is_empty()) {
            let networks = self.of_nodes.entry(said.node.clone()).or_default();
            for network in &said.networks {
                let count = networks.entry(*network).or_default();
                *count += 1;
                if *count == 1 {
                    self.changed.insert(said.node.clone());
                }
            }
        }
    }

    fn remove(&mut self, record: Option<&NetworksRecord>) {
        for said in record.into_iter().flat_map(|NetworksRecord(said)| said) {
            let Some(networks) = self.of_nodes.get_mut(&said.node) else {
                continue;
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
}
