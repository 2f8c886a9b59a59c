//! The watches: one stream of everything that the API server tells.

use futures::{Stream, StreamExt as _, future, stream, stream::BoxStream};
use k8s_openapi::api::coordination::v1::Lease;
use kube::{
    Api, Client, Resource,
    core::DeserializeGuard,
    runtime::{
        WatchStreamExt as _,
        watcher::{self, Event, watcher},
    },
};
use serde::de::DeserializeOwned;
use spanwire_crds::{Location, LocationSlice, MeshNode, Peer, translate::Node};

/// One event of a watch, by kind.
#[derive(Debug)]
pub enum WatchEvent {
    /// Of Nodes.
    Node(Event<Node>),
    /// Of MeshNodes.
    MeshNode(Event<MeshNode>),
    /// Of Locations.
    Location(Event<Location>),
    /// Of Peers.
    Peer(Event<Peer>),
    /// Of LocationSlices.
    Slice(Event<LocationSlice>),
    /// Of the Leases in Spanwire's namespace.
    Lease(Event<Lease>),
}

/// Everything that the operator watches. The streams never end; after a failure they are taken up again.
pub fn watches(client: &Client, namespace: &str) -> BoxStream<'static, WatchEvent> {
    let leases: Api<Lease> = Api::namespaced(client.clone(), namespace);
    stream::select_all([
        watch(Api::all(client.clone())).map(WatchEvent::Node).boxed(),
        watch(Api::all(client.clone())).map(WatchEvent::MeshNode).boxed(),
        guarded(Api::all(client.clone()))
            .map(WatchEvent::Location)
            .boxed(),
        guarded(Api::all(client.clone())).map(WatchEvent::Peer).boxed(),
        watch(Api::all(client.clone())).map(WatchEvent::Slice).boxed(),
        watch(leases).map(WatchEvent::Lease).boxed(),
    ])
    .boxed()
}

fn watch<K>(api: Api<K>) -> impl Stream<Item = Event<K>> + use<K>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug + Send + 'static,
{
    let kind = K::kind(&());
    let mut failing = false;
    watcher(api, watcher::Config::default())
        .default_backoff()
        .filter_map(move |event| {
            let failed_before = std::mem::replace(&mut failing, event.is_err());
            match &event {
                Ok(_) if failed_before => tracing::info!(%kind, "the watch goes on"),
                Ok(_) => {}
                Err(error) if failed_before => {
                    tracing::debug!(%kind, error = error as &dyn std::error::Error, "the watch failed again");
                }
                Err(error) => {
                    let error = error as &dyn std::error::Error;
                    tracing::warn!(%kind, error, "the watch failed; tried again and again");
                }
            }
            future::ready(event.ok())
        })
        .map(|event| event.modify(|object| object.meta_mut().managed_fields = None))
}

/// As [`watch`], of objects that people write: one that cannot be read does not hide the others.
fn guarded<K>(api: Api<DeserializeGuard<K>>) -> impl Stream<Item = Event<K>> + use<K>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug + Send + 'static,
{
    watch(api).filter_map(|event| {
        let read = |guard: DeserializeGuard<K>| match guard.0 {
            Ok(object) => Some(object),
            Err(invalid) => {
                let name = invalid.metadata.name.as_deref().unwrap_or_default();
                tracing::warn!(kind = %K::kind(&()), name, error = %invalid, "cannot be read and is left out");
                None
            }
        };
        future::ready(match event {
            Event::Init => Some(Event::Init),
            Event::InitDone => Some(Event::InitDone),
            Event::InitApply(guard) => read(guard).map(Event::InitApply),
            Event::Apply(guard) => read(guard).map(Event::Apply),
            Event::Delete(guard) => read(guard).map(Event::Delete),
        })
    })
}
