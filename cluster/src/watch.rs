//! Watches of several kinds as one stream of events.

use std::{sync::Arc, time::Instant};

use futures::{Stream, StreamExt as _, future, stream, stream::BoxStream};
use kube::{
    Api, Client,
    core::NamespaceResourceScope,
    runtime::{
        WatchStreamExt as _,
        watcher::{Config, Error, Event, watcher},
    },
};

use crate::{
    complaints::Complaints,
    model::{WatchEvent, Watched},
    observed::{Observable, Observed},
    store::{ObjectStore, bare},
};

/// The watches of a program, while they are put together.
pub struct Watches {
    client: Client,
    streams: Vec<BoxStream<'static, WatchEvent>>,
}

impl Watches {
    /// No watch yet.
    #[must_use]
    pub const fn new(client: Client) -> Self {
        Self {
            client,
            streams: Vec::new(),
        }
    }

    /// Adds a watch of all objects of a kind.
    #[must_use]
    pub fn all<K: Watched>(self) -> Self {
        self.matching::<K>(Config::default())
    }

    /// Adds a watch of the one object of a kind that has this name.
    #[must_use]
    pub fn named<K: Watched>(self, name: &str) -> Self {
        self.matching::<K>(Config::default().fields(&format!("metadata.name={name}")))
    }

    /// Adds a watch of the objects of a kind in one namespace.
    #[must_use]
    pub fn in_namespace<K: Watched<Scope = NamespaceResourceScope>>(mut self, namespace: &str) -> Self {
        let api: Api<Observed<K>> = Api::namespaced(self.client.clone(), namespace);
        self.streams
            .push(events(api, Config::default()).map(K::event).boxed());
        self
    }

    /// Returns the events of all of them. The stream never ends: a watch that fails is re-established.
    #[must_use]
    pub fn events(self) -> BoxStream<'static, WatchEvent> {
        stream::select_all(self.streams).boxed()
    }

    fn matching<K: Watched>(mut self, config: Config) -> Self {
        let api = Api::all(self.client.clone());
        self.streams.push(events(api, config).map(K::event).boxed());
        self
    }
}

/// Returns the event of what `read` makes of its object; nothing where it makes nothing of it.
pub fn filter_map<T, R>(event: Event<T>, read: impl FnOnce(T) -> Option<R>) -> Option<Event<R>> {
    Some(match event {
        Event::Init => Event::Init,
        Event::InitDone => Event::InitDone,
        Event::InitApply(object) => Event::InitApply(read(object)?),
        Event::Apply(object) => Event::Apply(read(object)?),
        Event::Delete(object) => Event::Delete(read(object)?),
    })
}

/// Enters an event. Of an object that cannot be read what is known of it stays: without it a machine would lose a part of the mesh.
pub fn enter<K: Observable + PartialEq>(store: &mut ObjectStore<String, Arc<K>>, event: Event<Observed<K>>) {
    let name = |object: &Observed<K>| object.name().to_owned();
    match &event {
        Event::InitApply(object) if object.object.is_none() => store.keep(&Event::InitApply(name(object))),
        Event::Apply(object) if object.object.is_none() => store.keep(&Event::Apply(name(object))),
        Event::Delete(object) => drop(store.forget(name(object))),
        Event::Init | Event::InitDone | Event::InitApply(_) | Event::Apply(_) => {
            if let Some(event) = filter_map(event, |object| object.object.map(bare)) {
                store.handle(event);
            }
        }
    }
}

fn events<K: Observable>(
    api: Api<Observed<K>>,
    config: Config,
) -> impl Stream<Item = Event<Observed<K>>> + use<K> {
    let kind = K::kind(&());
    let mut failing = false;
    let mut complaints = Complaints::default();
    watcher(api, config)
        .default_backoff()
        .filter_map(move |event| {
            let failed_before = std::mem::replace(&mut failing, event.is_err());
            match &event {
                Ok(_) if failed_before => tracing::info!(%kind, "watch re-established"),
                Ok(_) => {}
                Err(error) if expired(error) => {
                    tracing::debug!(%kind, error = error as &dyn std::error::Error, "watch expired, listing again");
                }
                Err(error) if failed_before => {
                    tracing::debug!(%kind, error = error as &dyn std::error::Error, "watch failed again");
                }
                Err(error) => {
                    let error = error as &dyn std::error::Error;
                    tracing::warn!(%kind, error, "watch failed, backing off");
                }
            }
            if let Ok(event) = &event {
                complain(&mut complaints, &kind, event);
            }
            future::ready(event.ok())
        })
}

/// Logs what of an object cannot be read.
pub(crate) fn complain<K: Observable>(complaints: &mut Complaints, kind: &str, event: &Event<Observed<K>>) {
    match event {
        Event::Init | Event::InitDone => {}
        Event::Delete(object) => complaints.forget(object.name()),
        Event::InitApply(object) | Event::Apply(object) => {
            let (name, problem) = (object.name(), object.complaint());
            if !complaints.handle(name, &problem, Instant::now()) {
                return;
            }
            if object.object.is_some() {
                tracing::warn!(
                    kind,
                    name,
                    problem,
                    "a part of an object cannot be read, ignoring that part"
                );
            } else {
                tracing::warn!(kind, name, problem, "object cannot be read, ignoring it");
            }
        }
    }
}

/// Returns whether the API server no longer has what came after the version that the watch was at, as shortly after a
/// kind was defined, or after a compaction. That is no failure: the objects are listed again (API concepts, "410 Gone").
#[must_use]
pub fn expired(error: &Error) -> bool {
    matches!(error, Error::WatchError(status) if status.code == 410)
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    #[test]
    fn a_version_that_the_api_server_no_longer_has_is_no_failure_and_anything_else_is() {
        let answered = |code| Error::WatchError(Box::new(Status::failure("no", "Reason").with_code(code)));
        assert!(expired(&answered(410)));
        assert!(!expired(&answered(500)));
        assert!(!expired(&Error::NoResourceVersion));
    }
}
