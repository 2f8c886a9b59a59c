//! Objects of which the API server has something that this version cannot read. What is known of them stays, nothing is
//! created in their place, and an Event names them until they can be read or are gone.

use std::collections::{BTreeMap, BTreeSet};

use kube::runtime::watcher::Event;
use spanwire_cluster::{
    observed::{Observable, Observed},
    store::{ObjectStore, Record},
};
use spanwire_crds::FieldProblem;
use spanwire_topology::{LocationFact, LocationName};

use super::OperatorState;

impl OperatorState {
    /// A Location of which nothing could ever be read counts as one whose fields cannot be: what is published of it stays, until
    /// it can be read or is gone.
    pub(super) fn assume_locations(&mut self) {
        let unreadable = self.unreadable.of("Location");
        let names = unreadable.filter_map(|(name, _)| name.parse::<LocationName>().ok());
        let names: BTreeSet<LocationName> = names.filter(|name| self.locations.get(name).is_none()).collect();
        for name in std::mem::take(&mut self.assumed) {
            if !names.contains(&name) && self.locations.get(&name).is_none() {
                self.facts.locations.remove(&name);
            }
        }
        for name in &names {
            let facts = &mut self.facts.locations;
            facts.entry(name.clone()).or_insert_with(LocationFact::unreadable);
        }
        self.assumed = names;
    }
}

/// One such object.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Fault {
    pub(super) uid: String,
    pub(super) problems: Vec<FieldProblem>,
}

impl Record for Fault {
    fn version(&self) -> Option<&str> {
        None
    }

    fn same(&self, other: &Self) -> bool {
        self == other
    }

    fn renew(&mut self, newer: Self) {
        *self = newer;
    }
}

/// All of them, by kind and name.
#[derive(Debug, Default)]
pub(super) struct Unreadable(BTreeMap<String, ObjectStore<String, Fault>>);

impl Unreadable {
    /// Handles an event of any kind; returns whether there is another such object than before, or one less.
    pub(super) fn handle<K: Observable>(&mut self, event: &Event<Observed<K>>) -> bool {
        let kind = K::kind(&());
        if !self.0.contains_key(&*kind) {
            self.0.insert(kind.clone().into_owned(), ObjectStore::default());
        }
        let Some(faults) = self.0.get_mut(&*kind) else {
            return false;
        };
        match event {
            Event::Init => !faults.handle(Event::Init).is_empty(),
            Event::InitDone => !faults.handle(Event::InitDone).is_empty(),
            Event::Delete(object) => faults.forget(object.name().to_owned()).is_some(),
            Event::InitApply(object) | Event::Apply(object) if object.object.is_some() => {
                faults.forget(object.name().to_owned()).is_some()
            }
            Event::InitApply(object) => !faults.handle(Event::InitApply(fault(object))).is_empty(),
            Event::Apply(object) => !faults.handle(Event::Apply(fault(object))).is_empty(),
        }
    }

    pub(super) fn contains(&self, kind: &str, name: &str) -> bool {
        let faults = self.0.get(kind);
        faults.is_some_and(|faults| faults.objects().contains_key(name))
    }

    pub(super) fn of(&self, kind: &str) -> impl Iterator<Item = (&String, &Fault)> {
        self.0.get(kind).into_iter().flat_map(ObjectStore::objects)
    }
}

fn fault<K: Observable>(object: &Observed<K>) -> (String, Fault) {
    let fault = Fault {
        uid: object.metadata.uid.clone().unwrap_or_default(),
        problems: object.problems.clone(),
    };
    (object.name().to_owned(), fault)
}
