//! The mesh from the Kubernetes API: LocationSlices, Peers and this node's own MeshNode; never Nodes.

use std::{sync::Arc, time::Duration};

use futures::StreamExt as _;
use kube::Client;
use spanwire_cluster::{
    model::WatchEvent,
    store::ObjectStore,
    watch::{Watches, enter},
};
use spanwire_core::Snapshot;
use spanwire_crds::{LocationSlice, MeshNode, Peer};
use spanwire_topology::NodeName;
use tokio::time::{Instant, timeout_at};

use crate::source::Publisher;

/// Events that belong together (one decision in several slices) come within milliseconds of each other.
const TOGETHER: Duration = Duration::from_millis(4);
/// However many come, the first waits no longer.
const LONGEST: Duration = Duration::from_millis(50);

/// Publishes what the API server says, now and after each change, for ever.
pub async fn watch(client: Client, me: NodeName, publisher: Publisher) {
    let watches = Watches::new(client).all::<LocationSlice>().all::<Peer>();
    let mut events = watches.named::<MeshNode>(me.as_str()).events();
    let mut objects = Objects::default();
    while let Some(event) = events.next().await {
        objects.handle(event);
        let latest = Instant::now() + LONGEST;
        while let Ok(Some(event)) = timeout_at(latest.min(Instant::now() + TOGETHER), events.next()).await {
            objects.handle(event);
        }
        if let Some(snapshot) = objects.snapshot() {
            publisher.publish(snapshot);
        }
    }
}

#[derive(Default)]
struct Objects {
    slices: ObjectStore<String, Arc<LocationSlice>>,
    peers: ObjectStore<String, Arc<Peer>>,
    nodes: ObjectStore<String, Arc<MeshNode>>,
}

impl Objects {
    fn handle(&mut self, event: WatchEvent) {
        match event {
            WatchEvent::Slice(event) => enter(&mut self.slices, event),
            WatchEvent::Peer(event) => enter(&mut self.peers, event),
            WatchEvent::MeshNode(event) => enter(&mut self.nodes, event),
            WatchEvent::Node(_) | WatchEvent::Location(_) | WatchEvent::Lease(_) => {}
        }
    }

    /// All objects; `None` before every first list is complete.
    fn snapshot(&self) -> Option<Snapshot> {
        let complete = self.slices.complete() && self.peers.complete() && self.nodes.complete();
        complete.then(|| Snapshot {
            slices: self.slices.objects().clone(),
            peers: self.peers.objects().clone(),
            node: self.nodes.objects().values().next().map(Arc::clone),
        })
    }
}

#[cfg(test)]
mod tests {
    use kube::runtime::watcher::Event;
    use spanwire_cluster::observed::Observed;
    use spanwire_crds::{LocationSliceSpec, MeshNodeSpec};

    use super::*;

    #[test]
    fn there_is_a_snapshot_when_every_first_list_is_complete() {
        let mut objects = Objects::default();
        let slice = LocationSlice::new("a", LocationSliceSpec::default());
        objects.handle(WatchEvent::Slice(Event::InitApply(slice.into())));
        objects.handle(WatchEvent::Slice(Event::InitDone));
        objects.handle(WatchEvent::Peer(Event::InitDone));
        assert_eq!(objects.snapshot(), None);
        objects.handle(WatchEvent::MeshNode(Event::InitDone));
        let without_node = objects.snapshot().unwrap();
        assert_eq!((without_node.slices.len(), without_node.node), (1, None));
        let node = MeshNode::new("a1", MeshNodeSpec::default());
        objects.handle(WatchEvent::MeshNode(Event::Apply(node.into())));
        assert!(objects.snapshot().unwrap().node.is_some());
    }

    #[test]
    fn a_slice_that_cannot_be_read_stays_as_it_was_until_it_is_deleted() {
        let mut objects = Objects::default();
        for event in [
            WatchEvent::Peer(Event::InitDone),
            WatchEvent::MeshNode(Event::InitDone),
        ] {
            objects.handle(event);
        }
        let spec = LocationSliceSpec {
            location: "a".to_owned(),
            ..LocationSliceSpec::default()
        };
        objects.handle(WatchEvent::Slice(Event::InitApply(
            LocationSlice::new("a", spec).into(),
        )));
        objects.handle(WatchEvent::Slice(Event::InitDone));
        let known = objects.snapshot();
        let bad = || -> Observed<LocationSlice> {
            let text = r#"{"metadata": {"name": "a"}, "spec": {"location": 7}}"#;
            serde_json::from_str(text).unwrap()
        };
        objects.handle(WatchEvent::Slice(Event::Apply(bad())));
        assert_eq!(objects.snapshot(), known);
        objects.handle(WatchEvent::Slice(Event::Init));
        objects.handle(WatchEvent::Slice(Event::InitApply(bad())));
        objects.handle(WatchEvent::Slice(Event::InitDone));
        assert_eq!(objects.snapshot(), known);
        objects.handle(WatchEvent::Slice(Event::Delete(bad())));
        assert!(objects.snapshot().unwrap().slices.is_empty());
    }
}
