//! The objects of one kind, kept up to date by the events of a watch; sans I/O.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use kube::{Resource, ResourceExt as _, runtime::watcher::Event};

/// What is kept of an object.
pub trait Record {
    /// The resourceVersion of the object, where it matters which one was observed.
    fn version(&self) -> Option<&str>;

    /// Whether nothing that matters differs. The resourceVersion alone does not.
    fn same(&self, other: &Self) -> bool;

    /// Takes over a record that is the same but newer.
    fn renew(&mut self, newer: Self);
}

/// A whole object. One that is equal stays the one that is known, so that comparing pointers finds that nothing changed.
impl<K: PartialEq> Record for Arc<K> {
    fn version(&self) -> Option<&str> {
        None
    }

    fn same(&self, other: &Self) -> bool {
        self == other
    }

    fn renew(&mut self, _newer: Self) {}
}

/// An object of which something that matters changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change<K, R> {
    /// Its key.
    pub key: K,
    /// The record before; `None` where the object is new.
    pub before: Option<R>,
}

/// The objects of one kind. A deletion that happened while the watch was interrupted shows in the list that follows;
/// until the first list is complete nothing may be decided.
///
/// Events may come late: the response to a program's own write may be entered at once, and the watch delivers older
/// versions after that. These are dropped. Versions are compared as numbers, which they are (KEP-5504); what is no
/// number is newer.
#[derive(Debug)]
pub struct ObjectStore<K, R> {
    objects: BTreeMap<K, R>,
    listed: Option<BTreeSet<K>>,
    complete: bool,
}

impl<K, R> Default for ObjectStore<K, R> {
    fn default() -> Self {
        Self {
            objects: BTreeMap::new(),
            listed: None,
            complete: false,
        }
    }
}

impl<K: Ord + Clone, R: Record> ObjectStore<K, R> {
    /// Enters an event; returns the objects of which something that matters changed.
    pub fn handle(&mut self, event: Event<(K, R)>) -> Vec<Change<K, R>> {
        match event {
            Event::Init => {
                self.listed = Some(BTreeSet::new());
                Vec::new()
            }
            Event::InitApply((key, record)) => {
                self.listed.get_or_insert_default().insert(key.clone());
                self.enter(key, record)
            }
            Event::InitDone => {
                self.complete = true;
                let listed = self.listed.take().unwrap_or_default();
                let gone = |key: &&K| !listed.contains(*key);
                let gone: Vec<K> = self.objects.keys().filter(gone).cloned().collect();
                gone.into_iter().filter_map(|key| self.forget(key)).collect()
            }
            Event::Apply((key, record)) => {
                if self.objects.get(&key).is_some_and(|known| older(&record, known)) {
                    return Vec::new();
                }
                if let Some(listed) = &mut self.listed {
                    listed.insert(key.clone());
                }
                self.enter(key, record)
            }
            Event::Delete((key, record)) => {
                if self.objects.get(&key).is_none_or(|known| older(&record, known)) {
                    return Vec::new();
                }
                self.forget(key).into_iter().collect()
            }
        }
    }

    /// Handles that an object is there which cannot be read: what is known of it stays.
    pub fn keep(&mut self, event: &Event<K>) {
        if let (Event::InitApply(key) | Event::Apply(key), Some(listed)) = (event, &mut self.listed) {
            listed.insert(key.clone());
        }
    }

    /// Removes an object that is known to be gone.
    pub fn forget(&mut self, key: K) -> Option<Change<K, R>> {
        let before = self.objects.remove(&key)?;
        Some(Change {
            key,
            before: Some(before),
        })
    }

    fn enter(&mut self, key: K, record: R) -> Vec<Change<K, R>> {
        if let Some(known) = self.objects.get_mut(&key)
            && known.same(&record)
        {
            known.renew(record);
            return Vec::new();
        }
        let before = self.objects.insert(key.clone(), record);
        vec![Change { key, before }]
    }

    /// Returns whether a first list is complete.
    #[must_use]
    pub const fn complete(&self) -> bool {
        self.complete
    }

    /// Returns all objects that are known.
    #[must_use]
    pub const fn objects(&self) -> &BTreeMap<K, R> {
        &self.objects
    }

    /// Returns one object.
    #[must_use]
    pub fn get(&self, key: &K) -> Option<&R> {
        self.objects.get(key)
    }
}

/// Returns the object with its name, without what no agent needs, so that it is equal to itself after every write of others.
pub fn bare<K: Resource>(mut object: K) -> (String, Arc<K>) {
    let name = object.name_any();
    let meta = object.meta_mut();
    meta.managed_fields = None;
    meta.annotations = None;
    meta.labels = None;
    meta.owner_references = None;
    meta.resource_version = None;
    (name, Arc::new(object))
}

fn older(record: &impl Record, known: &impl Record) -> bool {
    let number = |version: Option<&str>| version.and_then(|version| version.parse::<u64>().ok());
    match (number(record.version()), number(known.version())) {
        (Some(record), Some(known)) => record < known,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use spanwire_crds::{MeshNode, MeshNodeSpec};

    use super::*;

    #[derive(Clone, Debug, PartialEq)]
    struct Thing(&'static str, u8);

    impl Record for Thing {
        fn version(&self) -> Option<&str> {
            Some(self.0)
        }

        fn same(&self, other: &Self) -> bool {
            self.1 == other.1
        }

        fn renew(&mut self, newer: Self) {
            *self = newer;
        }
    }

    #[test]
    fn a_list_that_lacks_an_object_deletes_it_only_when_it_is_complete() {
        let mut store = ObjectStore::default();
        store.handle(Event::Init);
        store.handle(Event::InitApply(("a", Thing("1", 1))));
        assert!(!store.complete());
        store.handle(Event::InitDone);
        assert!(store.complete());

        store.handle(Event::Init);
        assert_eq!(keys(&mut store, Event::InitApply(("b", Thing("2", 1)))), ["b"]);
        assert!(store.get(&"a").is_some());
        assert_eq!(keys(&mut store, Event::InitDone), ["a"]);
        assert!(store.get(&"a").is_none() && store.get(&"b").is_some());
    }

    #[test]
    fn one_that_cannot_be_read_stays_as_it_was_known_until_it_is_gone() {
        let mut store = ObjectStore::default();
        store.handle(Event::Apply(("a", Thing("1", 1))));
        store.keep(&Event::Apply("a"));
        store.handle(Event::Init);
        store.keep(&Event::InitApply("a"));
        store.keep(&Event::InitApply("never read"));
        assert_eq!(keys(&mut store, Event::InitDone), Vec::<&str>::new());
        assert_eq!(store.objects().len(), 1);
        store.handle(Event::Init);
        assert_eq!(keys(&mut store, Event::InitDone), ["a"]);
    }

    #[test]
    fn a_new_version_of_the_same_is_no_change_but_is_kept() {
        let mut store = ObjectStore::default();
        assert_eq!(keys(&mut store, Event::Apply(("a", Thing("1", 1)))), ["a"]);
        assert_eq!(
            keys(&mut store, Event::Apply(("a", Thing("2", 1)))),
            Vec::<&str>::new()
        );
        assert_eq!(store.get(&"a"), Some(&Thing("2", 1)));
        assert_eq!(keys(&mut store, Event::Apply(("a", Thing("3", 2)))), ["a"]);
    }

    #[test]
    fn what_comes_late_is_dropped() {
        let mut store = ObjectStore::default();
        store.handle(Event::Apply(("a", Thing("10", 1))));
        assert_eq!(
            keys(&mut store, Event::Apply(("a", Thing("9", 2)))),
            Vec::<&str>::new()
        );
        assert_eq!(
            keys(&mut store, Event::Delete(("a", Thing("9", 1)))),
            Vec::<&str>::new()
        );
        assert_eq!(keys(&mut store, Event::Delete(("a", Thing("11", 1)))), ["a"]);
        assert_eq!(
            keys(&mut store, Event::Delete(("a", Thing("11", 1)))),
            Vec::<&str>::new()
        );
    }

    #[test]
    fn a_list_counts_also_where_versions_went_back() {
        let mut store = ObjectStore::default();
        store.handle(Event::Apply(("a", Thing("10", 1))));
        store.handle(Event::Init);
        assert_eq!(keys(&mut store, Event::InitApply(("a", Thing("3", 2)))), ["a"]);
        assert_eq!(keys(&mut store, Event::InitDone), Vec::<&str>::new());
        assert_eq!(store.get(&"a"), Some(&Thing("3", 2)));
    }

    #[test]
    fn a_change_carries_the_record_before() {
        let mut store = ObjectStore::default();
        let change = |key, before| vec![Change { key, before }];
        assert_eq!(
            store.handle(Event::Apply(("a", Thing("1", 1)))),
            change("a", None)
        );
        let next = Event::Apply(("a", Thing("2", 2)));
        assert_eq!(store.handle(next), change("a", Some(Thing("1", 1))));
        assert_eq!(
            store.forget("a").map(|gone| gone.before),
            Some(Some(Thing("2", 2)))
        );
        assert_eq!(store.forget("a"), None);
    }

    fn keys(
        store: &mut ObjectStore<&'static str, Thing>,
        event: Event<(&'static str, Thing)>,
    ) -> Vec<&'static str> {
        store.handle(event).into_iter().map(|change| change.key).collect()
    }

    #[test]
    fn an_object_that_differs_in_its_version_alone_stays_the_one_that_is_known() {
        let node = |version: &str| {
            let mut node = MeshNode::new("a", MeshNodeSpec::default());
            node.metadata.resource_version = Some(version.to_owned());
            bare(node)
        };
        let mut store = ObjectStore::default();
        store.handle(Event::Apply(node("1")));
        let known = Arc::clone(&store.objects()["a"]);
        assert!(store.handle(Event::Apply(node("2"))).is_empty());
        assert!(Arc::ptr_eq(&known, &store.objects()["a"]));
    }
}
