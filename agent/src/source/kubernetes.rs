//! The mesh from the Kubernetes API: LocationSlices, Peers and this node's own MeshNode; never Nodes.

use std::{pin::pin, sync::Arc, time::Duration};

use futures::{Stream, StreamExt as _, stream};
use kube::{
    Api, Client, Resource,
    runtime::{
        WatchStreamExt as _,
        watcher::{self, Event, watcher},
    },
};
use serde::de::DeserializeOwned;
use spanwire_core::Snapshot;
use spanwire_crds::{LocationSlice, MeshNode, Peer};
use spanwire_topology::NodeName;
use tokio::time::{Instant, timeout_at};

use crate::source::{Publisher, kind::Kind};

/// Events that belong together (one decision in several slices) come within milliseconds of each other.
const TOGETHER: Duration = Duration::from_millis(4);
/// However many come, the first waits no longer.
const LONGEST: Duration = Duration::from_millis(50);

enum Told {
    Slice(Event<LocationSlice>),
    Peer(Event<Peer>),
    Node(Event<MeshNode>),
}

/// Publishes what the API server says, now and after each change, for ever.
pub async fn watch(client: Client, me: NodeName, publisher: Publisher) {
    let own = watcher::Config::default().fields(&format!("metadata.name={me}"));
    let slices = events::<LocationSlice>(&client, watcher::Config::default())
        .map(Told::Slice)
        .boxed();
    let peers = events::<Peer>(&client, watcher::Config::default())
        .map(Told::Peer)
        .boxed();
    let nodes = events::<MeshNode>(&client, own).map(Told::Node).boxed();
    let mut told = pin!(stream::select_all([slices, peers, nodes]));
    let mut objects = Objects::default();
    while let Some(event) = told.next().await {
        objects.handle(event);
        let latest = Instant::now() + LONGEST;
        while let Ok(Some(event)) = timeout_at(latest.min(Instant::now() + TOGETHER), told.next()).await {
            objects.handle(event);
        }
        if let Some(snapshot) = objects.snapshot() {
            publisher.publish(snapshot);
        }
    }
}

fn events<K>(client: &Client, config: watcher::Config) -> impl Stream<Item = Event<K>> + use<K>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug + Send + 'static,
{
    let api: Api<K> = Api::all(client.clone());
    let mut failing = false;
    watcher(api, config).default_backoff().filter_map(move |event| {
        let was = std::mem::replace(&mut failing, event.is_err());
        let kind = K::kind(&());
        let event = match event {
            Ok(event) => {
                if was {
                    tracing::info!(%kind, "the API server answers again");
                }
                Some(event)
            }
            Err(error) if spanwire_cluster::watch::expired(&error) => {
                tracing::debug!(%kind, error = &error as &dyn std::error::Error, "watch expired, listing again");
                None
            }
            Err(error) if was => {
                tracing::debug!(%kind, error = &error as &dyn std::error::Error, "the watch failed again");
                None
            }
            Err(error) => {
                tracing::warn!(%kind, error = &error as &dyn std::error::Error, "the watch failed; tried again and again");
                None
            }
        };
        futures::future::ready(event)
    })
}

#[derive(Default)]
struct Objects {
    slices: Kind<LocationSlice>,
    peers: Kind<Peer>,
    nodes: Kind<MeshNode>,
}

impl Objects {
    fn handle(&mut self, told: Told) {
        match told {
            Told::Slice(event) => self.slices.handle_event(event),
            Told::Peer(event) => self.peers.handle_event(event),
            Told::Node(event) => self.nodes.handle_event(event),
        }
    }

    fn snapshot(&self) -> Option<Snapshot> {
        let node = self.nodes.objects()?.values().next().map(Arc::clone);
        Some(Snapshot {
            slices: self.slices.objects()?.clone(),
            peers: self.peers.objects()?.clone(),
            node,
        })
    }
}

#[cfg(test)]
mod tests {
    use spanwire_crds::{LocationSliceSpec, MeshNodeSpec};

    use super::*;

    #[test]
    fn there_is_a_snapshot_when_every_first_list_is_complete() {
        let mut objects = Objects::default();
        let slice = LocationSlice::new("a", LocationSliceSpec::default());
        objects.handle(Told::Slice(Event::InitApply(slice)));
        objects.handle(Told::Slice(Event::InitDone));
        objects.handle(Told::Peer(Event::InitDone));
        assert_eq!(objects.snapshot(), None);
        objects.handle(Told::Node(Event::InitDone));
        let without_node = objects.snapshot().unwrap();
        assert_eq!((without_node.slices.len(), without_node.node), (1, None));
        let node = MeshNode::new("a1", MeshNodeSpec::default());
        objects.handle(Told::Node(Event::Apply(node)));
        assert!(objects.snapshot().unwrap().node.is_some());
    }
}
