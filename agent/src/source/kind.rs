//! The objects of one kind, put together from the events of a watch; sans I/O.

use std::{collections::BTreeMap, sync::Arc};

use kube::{Resource, ResourceExt as _, runtime::watcher::Event};

/// The objects of one kind.
#[derive(Debug)]
pub struct Kind<K> {
    objects: BTreeMap<String, Arc<K>>,
    listing: Option<BTreeMap<String, Arc<K>>>,
    complete: bool,
}

impl<K> Default for Kind<K> {
    fn default() -> Self {
        Self {
            objects: BTreeMap::new(),
            listing: None,
            complete: false,
        }
    }
}

impl<K: Resource<DynamicType = ()>> Kind<K> {
    /// The watch tells something.
    pub fn handle_event(&mut self, event: Event<K>) {
        match event {
            Event::Init => self.listing = Some(BTreeMap::new()),
            Event::InitApply(object) => {
                let (name, object) = bare(object);
                self.listing.get_or_insert_default().insert(name, object);
            }
            Event::InitDone => {
                self.objects = self.listing.take().unwrap_or_default();
                self.complete = true;
            }
            Event::Apply(object) => {
                let (name, object) = bare(object);
                self.objects.insert(name, object);
            }
            Event::Delete(object) => {
                self.objects.remove(&object.name_any());
            }
        }
    }

    /// All objects; `None` before the first list is complete.
    #[must_use]
    pub fn objects(&self) -> Option<&BTreeMap<String, Arc<K>>> {
        self.complete.then_some(&self.objects)
    }
}

/// The object without what no agent needs, so that it is equal to itself after every write of others.
fn bare<K: Resource>(mut object: K) -> (String, Arc<K>) {
    let name = object.name_any();
    let meta = object.meta_mut();
    meta.managed_fields = None;
    meta.annotations = None;
    meta.labels = None;
    meta.owner_references = None;
    meta.resource_version = None;
    (name, Arc::new(object))
}

#[cfg(test)]
mod tests {
    use spanwire_crds::{MeshNode, MeshNodeSpec};

    use super::*;

    fn node(name: &str, version: &str) -> MeshNode {
        let mut node = MeshNode::new(name, MeshNodeSpec::default());
        node.metadata.resource_version = Some(version.to_owned());
        node
    }

    fn names(kind: &Kind<MeshNode>) -> Option<Vec<&str>> {
        Some(kind.objects()?.keys().map(String::as_str).collect())
    }

    #[test]
    fn nothing_is_shown_before_the_first_list_is_complete() {
        let mut kind = Kind::default();
        kind.handle_event(Event::Init);
        kind.handle_event(Event::InitApply(node("a", "1")));
        assert_eq!(names(&kind), None);
        kind.handle_event(Event::InitDone);
        assert_eq!(names(&kind), Some(vec!["a"]));
        kind.handle_event(Event::Apply(node("b", "2")));
        kind.handle_event(Event::Delete(node("a", "3")));
        assert_eq!(names(&kind), Some(vec!["b"]));
    }

    #[test]
    fn a_later_list_removes_only_when_it_is_complete() {
        let mut kind = Kind::default();
        kind.handle_event(Event::InitApply(node("a", "1")));
        kind.handle_event(Event::InitDone);
        kind.handle_event(Event::Init);
        assert_eq!(names(&kind), Some(vec!["a"]));
        kind.handle_event(Event::InitApply(node("b", "2")));
        assert_eq!(names(&kind), Some(vec!["a"]));
        kind.handle_event(Event::InitDone);
        assert_eq!(names(&kind), Some(vec!["b"]));
    }

    #[test]
    fn an_object_that_differs_in_its_version_alone_is_equal() {
        assert_eq!(bare(node("a", "1")), bare(node("a", "2")));
    }
}
