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
    /// What can be read of it counts.
    pub(super) is_partial: bool,
}

impl Fault {
    /// Returns what becomes of the object.
    pub(super) const fn follows(&self) -> &'static str {
        match self.is_partial {
            true => "the rest of it counts",
            false => "nothing of it counts",
        }
    }
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
        let name = |object: &Observed<K>| object.name().to_owned();
        self.handle_as(&K::kind(&()), event, name, |object| {
            object.object.is_none().then(|| fault(object))
        })
    }

    /// Handles an event of this kind, in which objects of a type have a name and may have a fault.
    pub(super) fn handle_as<T>(
        &mut self,
        kind: &str,
        event: &Event<T>,
        name: impl Fn(&T) -> String,
        fault: impl Fn(&T) -> Option<Fault>,
    ) -> bool {
        if !self.0.contains_key(kind) {
            self.0.insert(kind.to_owned(), ObjectStore::default());
        }
        let Some(faults) = self.0.get_mut(kind) else {
            return false;
        };
        match event {
            Event::Init => !faults.handle(Event::Init).is_empty(),
            Event::InitDone => !faults.handle(Event::InitDone).is_empty(),
            Event::Delete(object) => faults.forget(name(object)).is_some(),
            Event::InitApply(object) | Event::Apply(object) => {
                let Some(fault) = fault(object) else {
                    return faults.forget(name(object)).is_some();
                };
                let object = (name(object), fault);
                let event = if matches!(event, Event::Apply(_)) {
                    Event::Apply(object)
                } else {
                    Event::InitApply(object)
                };
                !faults.handle(event).is_empty()
            }
        }
    }

    /// Forgets all objects of a kind that there is no more; returns whether there were any.
    pub(super) fn clear(&mut self, kind: &str) -> bool {
        let faults = self.0.remove(kind);
        faults.is_some_and(|faults| !faults.objects().is_empty())
    }

    pub(super) fn contains(&self, kind: &str, name: &str) -> bool {
        let faults = self.0.get(kind);
        faults.is_some_and(|faults| faults.objects().contains_key(name))
    }

    pub(super) fn of(&self, kind: &str) -> impl Iterator<Item = (&String, &Fault)> {
        self.0.get(kind).into_iter().flat_map(ObjectStore::objects)
    }
}

fn fault<K: Observable>(object: &Observed<K>) -> Fault {
    Fault {
        uid: object.metadata.uid.clone().unwrap_or_default(),
        problems: object.problems.clone(),
        is_partial: false,
    }
}
