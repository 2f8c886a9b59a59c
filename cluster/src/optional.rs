//! Kinds of other projects that say which pod networks nodes have, and that may not exist. To watch another such kind, add a
//! line to [`definition`] and to [`NetworkWatches::of`].
//!
//! Whether a kind exists is what its CustomResourceDefinition says, whose metadata is watched by its name: at rest one request
//! in minutes, and the objects are watched while the definition is there. What the API server answers to a list of
//! the objects says less: for a moment after its start it knows of no definition (see [`refusals`](crate::refusals)).

use std::time::{Duration, Instant};

use futures::{Stream, StreamExt as _, future, stream, stream::BoxStream};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api, Client,
    runtime::{
        WatchStreamExt as _,
        watcher::{self, Config, Event, watcher},
    },
};
use spanwire_crds::{
    FieldProblem,
    translate::networks::{BlockAffinity, CiliumNode, NetworkObject, NodeNetworks, Pod, object_kind},
};
use spanwire_topology::{PodSource, PodSources};
use tokio::sync::watch;

use crate::{
    backoff::Backoff,
    complaints::Complaints,
    observed::{Observable, Observed},
    refusals::{Refusals, Verdict, refused},
    watch::{complain, expired},
};

/// What is observed of a source of pod networks.
#[derive(Clone, Debug)]
pub enum SourceEvent {
    /// There is no such kind: nothing of it counts any more.
    Absent,
    /// The API server keeps its objects back. What was known of them stays; where nothing was, there is none.
    Refused,
    /// An event of the watch of its objects.
    Objects(Event<ObservedNetworks>),
}

/// An object that says which networks a node has, as it was observed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedNetworks {
    /// Which object, by its name, behind that of its namespace where it has one.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// What it says, nothing where it is not about a node; or why it cannot be read.
    pub networks: Result<Option<NodeNetworks>, Vec<FieldProblem>>,
}

impl<K: NetworkObject + Observable> From<Observed<K>> for ObservedNetworks {
    fn from(observed: Observed<K>) -> Self {
        Self {
            name: match &observed.metadata.namespace {
                Some(namespace) => format!("{namespace}/{}", observed.name()),
                None => observed.name().to_owned(),
            },
            uid: observed.metadata.uid.clone().unwrap_or_default(),
            networks: observed
                .object
                .map(|object| object.networks())
                .ok_or(observed.problems),
        }
    }
}

/// The definition of the kind of a source; `None`: it is a kind of Kubernetes itself.
#[must_use]
pub const fn definition(source: PodSource) -> Option<&'static str> {
    match source {
        PodSource::Calico => Some("blockaffinities.crd.projectcalico.org"),
        PodSource::Cilium => Some("ciliumnodes.cilium.io"),
        PodSource::Nodes | PodSource::Pods => None,
    }
}

/// The watches of the sources of pod networks.
pub struct NetworkWatches;

impl NetworkWatches {
    /// Returns the events of those of the sources whose kinds may not exist, and of Pods while they are wanted. The stream
    /// never ends.
    #[must_use]
    pub fn of(
        client: &Client,
        sources: &PodSources,
        pods: watch::Receiver<bool>,
    ) -> BoxStream<'static, (PodSource, SourceEvent)> {
        let mut streams = vec![stream::pending().boxed()];
        for source in PodSource::ORDER
            .into_iter()
            .filter(|source| sources.contains(*source))
        {
            match source {
                PodSource::Calico => streams.push(while_defined::<BlockAffinity>(client)),
                PodSource::Cilium => streams.push(while_defined::<CiliumNode>(client)),
                PodSource::Nodes => {}
                PodSource::Pods => streams.push(while_wanted(client, pods.clone())),
            }
        }
        stream::select_all(streams).boxed()
    }
}

/// Returns the events of the objects of a kind, while its definition is there.
fn while_defined<K: NetworkObject + Observable>(
    client: &Client,
) -> BoxStream<'static, (PodSource, SourceEvent)> {
    let name = definition(K::SOURCE).unwrap_or_default();
    let definitions = defined(client.clone(), name, object_kind(K::SOURCE).1);
    let client = client.clone();
    let objects = move || objects::<K>(Api::all(client.clone()), Config::default()).boxed();
    gated(definitions.boxed(), objects)
        .map(|event| (K::SOURCE, event))
        .boxed()
}

/// Returns the events of Pods while they are wanted.
fn while_wanted(
    client: &Client,
    mut wanted: watch::Receiver<bool>,
) -> BoxStream<'static, (PodSource, SourceEvent)> {
    wanted.mark_changed();
    let gate = stream::unfold(wanted, |mut wanted| async move {
        wanted.changed().await.ok()?;
        let gate = if *wanted.borrow_and_update() {
            Gate::Open
        } else {
            Gate::Closed
        };
        Some((gate, wanted))
    });
    let client = client.clone();
    let config = || Config::default().fields(Pod::WATCHED);
    let pods = move || objects::<Pod>(Api::all(client.clone()), config()).boxed();
    gated(gate.boxed(), pods)
        .map(|event| (PodSource::Pods, event))
        .boxed()
}

/// Whether a kind exists, as far as it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gate {
    Open,
    Closed,
    /// The API server will not say.
    Refused,
}

/// Returns the events of `inner` while the gate is open; it is begun again each time that the gate opens.
fn gated(
    gate: BoxStream<'static, Gate>,
    inner: impl Fn() -> BoxStream<'static, SourceEvent> + Send + 'static,
) -> impl Stream<Item = SourceEvent> + Send {
    let state = (gate, inner, None::<BoxStream<'static, SourceEvent>>);
    stream::unfold(state, |(mut gate, inner, mut open)| async move {
        loop {
            let next = async {
                match &mut open {
                    Some(events) => events.next().await,
                    None => future::pending().await,
                }
            };
            let turned = tokio::select! {
                biased;
                Some(turned) = gate.next() => turned,
                Some(event) = next => return Some((event, (gate, inner, open))),
                else => return None,
            };
            match turned {
                Gate::Open if open.is_none() => open = Some(inner()),
                Gate::Open => {}
                Gate::Closed => return Some((SourceEvent::Absent, (gate, inner, None))),
                Gate::Refused if open.is_none() => {
                    return Some((SourceEvent::Refused, (gate, inner, None)));
                }
                // What is known goes on.
                Gate::Refused => {}
            }
        }
    })
}

/// Returns whether there is a definition of this name, now and when that changes.
fn defined(client: Client, name: &'static str, kind: &'static str) -> impl Stream<Item = Gate> + Send {
    let api: Api<Observed<CustomResourceDefinition>> = Api::all(client);
    let config = Config::default().fields(&format!("metadata.name={name}"));
    let (mut listed, mut known, mut attempts) = (false, None, Attempts::new(kind, "its definition"));
    watcher(api, config).default_backoff().filter_map(move |event| {
        let (gate, wait) = match event {
            Ok(event) => {
                attempts.handle_event(&event);
                (turned(&event, &mut listed), None)
            }
            Err(error) => match attempts.handle_failure(&error) {
                Some(wait) => (None, Some(wait)),
                None => (Some(Gate::Refused), None),
            },
        };
        let news = gate.filter(|gate| known != Some(*gate));
        if let Some(gate) = news {
            if gate == Gate::Open {
                tracing::info!(kind, "its definition is there, watching its objects");
            } else if known == Some(Gate::Open) && gate == Gate::Closed {
                tracing::info!(kind, "its definition is gone, and with it its objects");
            }
            known = Some(gate);
        }
        after(wait, news)
    })
}

/// Returns what an event of the watch of one definition says; `listed`: the list that goes on has it.
fn turned<T>(event: &Event<T>, listed: &mut bool) -> Option<Gate> {
    match event {
        Event::Init => {
            *listed = false;
            None
        }
        Event::InitApply(_) => {
            *listed = true;
            None
        }
        Event::InitDone if *listed => Some(Gate::Open),
        Event::InitDone | Event::Delete(_) => Some(Gate::Closed),
        Event::Apply(_) => Some(Gate::Open),
    }
}

/// Returns the events of the objects of a kind. While it is not served yet, or not any more, there are none.
fn objects<K: NetworkObject + Observable>(
    api: Api<Observed<K>>,
    config: Config,
) -> impl Stream<Item = SourceEvent> + Send {
    let kind = object_kind(K::SOURCE).1;
    let mut complaints = Complaints::default();
    let mut attempts = Attempts::new(kind, "its objects");
    watcher(api, config).default_backoff().filter_map(move |event| {
        let (event, wait) = match event {
            Ok(event) => {
                attempts.handle_event(&event);
                complain(&mut complaints, kind, &event);
                (Some(SourceEvent::Objects(translated(event))), None)
            }
            Err(error) => match attempts.handle_failure(&error) {
                Some(wait) => (None, Some(wait)),
                None => (Some(SourceEvent::Refused), None),
            },
        };
        after(wait, event)
    })
}

/// Returns what there is to say, after a wait where an attempt failed.
async fn after<T>(wait: Option<Duration>, news: Option<T>) -> Option<T> {
    if let Some(wait) = wait {
        tokio::time::sleep(wait).await;
    }
    news
}

fn translated<K: NetworkObject + Observable>(event: Event<Observed<K>>) -> Event<ObservedNetworks> {
    match event {
        Event::Init => Event::Init,
        Event::InitDone => Event::InitDone,
        Event::InitApply(object) => Event::InitApply(object.into()),
        Event::Apply(object) => Event::Apply(object.into()),
        Event::Delete(object) => Event::Delete(object.into()),
    }
}

/// The attempts to watch something. An API server that is away is reported by the watches of kinds that always exist.
///
/// That a list begins ([`Event::Init`]) is no success: kube says so before it asks, and begins its own backoff again.
struct Attempts {
    kind: &'static str,
    of: &'static str,
    refusals: Refusals,
    backoff: Backoff,
}

impl Attempts {
    fn new(kind: &'static str, of: &'static str) -> Self {
        Self {
            kind,
            of,
            refusals: Refusals::default(),
            backoff: Backoff::new(Duration::from_millis(250), Duration::from_secs(60)),
        }
    }

    fn handle_event<T>(&mut self, event: &Event<T>) {
        if matches!(event, Event::Init) {
            return;
        }
        self.backoff.reset();
        if self.refusals.handle_success() {
            tracing::info!(
                kind = self.kind,
                "the API server does not refuse {} any more",
                self.of
            );
        }
    }

    /// Returns how long to wait before the next attempt; `None` where it is to be said first that the API server refuses.
    fn handle_failure(&mut self, error: &watcher::Error) -> Option<Duration> {
        let (kind, of) = (self.kind, self.of);
        let refused = !expired(error) && refused(error);
        let verdict = self.refusals.handle_failure(refused, Instant::now());
        let error = error as &dyn std::error::Error;
        if verdict == Verdict::Refused {
            tracing::warn!(
                kind,
                error,
                "the API server refuses {of}: pod networks are not taken from there; does the chart of this version grant it?"
            );
            return None;
        }
        tracing::debug!(kind, error, "watching {of} failed, backing off");
        Some(self.backoff.wait())
    }
}

#[cfg(test)]
mod tests {
    use futures::channel::mpsc;
    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn objects_are_watched_while_the_gate_is_open_and_from_the_beginning_when_it_opens_again() {
        let (gate, gates) = mpsc::unbounded();
        let inner = || {
            stream::iter([SourceEvent::Objects(Event::Init)])
                .chain(stream::pending())
                .boxed()
        };
        let mut events = gated(gates.boxed(), inner).boxed();
        let send = |turned| gate.unbounded_send(turned).unwrap();
        let mut seen = async || match events.next().await.unwrap() {
            SourceEvent::Absent => "absent",
            SourceEvent::Refused => "refused",
            SourceEvent::Objects(_) => "objects",
        };
        send(Gate::Closed);
        assert_eq!(seen().await, "absent");
        send(Gate::Refused);
        assert_eq!(seen().await, "refused");
        send(Gate::Open);
        assert_eq!(seen().await, "objects");
        // What is known stays while the API server will not say.
        send(Gate::Refused);
        send(Gate::Closed);
        assert_eq!(seen().await, "absent");
        send(Gate::Open);
        assert_eq!(seen().await, "objects");
    }

    #[test]
    fn a_definition_is_there_from_when_it_is_listed_or_created_until_it_is_gone() {
        let mut listed = false;
        let mut turn = |event: Event<()>| turned(&event, &mut listed);
        assert_eq!(turn(Event::Init), None);
        assert_eq!(turn(Event::InitDone), Some(Gate::Closed));
        assert_eq!(turn(Event::Apply(())), Some(Gate::Open));
        assert_eq!(turn(Event::Init), None);
        assert_eq!(turn(Event::InitApply(())), None);
        assert_eq!(turn(Event::InitDone), Some(Gate::Open));
        assert_eq!(turn(Event::Delete(())), Some(Gate::Closed));
    }

    #[test]
    fn that_a_list_begins_does_not_make_a_refusal_a_new_one() {
        let status = kube::core::Status::failure("no", "Forbidden").with_code(403);
        let error = watcher::Error::InitialListFailed(kube::Error::Api(Box::new(status)));
        let mut attempts = Attempts::new("Kind", "its objects");
        let first = attempts.handle_failure(&error).unwrap();
        attempts.handle_event(&Event::<()>::Init);
        assert!(
            attempts.handle_failure(&error).unwrap() > first,
            "it is asked less and less often"
        );
        attempts.handle_event(&Event::<()>::InitDone);
        assert_eq!(attempts.handle_failure(&error).unwrap(), first);
    }

    #[test]
    fn an_object_that_cannot_be_read_says_which_it_is_and_what_is_wrong() {
        let read = |cidr: &str| -> ObservedNetworks {
            let object = json!({
                "metadata": {"name": "a2-x", "uid": "u"},
                "spec": {"cidr": cidr, "node": "a2", "state": "confirmed", "deleted": "false"},
            });
            let observed: Observed<BlockAffinity> = serde_json::from_value(object).unwrap();
            observed.into()
        };
        let said = read("10.245.0.0/26").networks.unwrap().unwrap();
        assert_eq!((said.node.as_str(), said.networks.len()), ("a2", 1));
        let bad = read("10.245.0.1/26");
        assert_eq!((bad.name.as_str(), bad.uid.as_str()), ("a2-x", "u"));
        let problems = bad.networks.unwrap_err();
        assert!(
            problems[0].to_string().contains("write 10.245.0.0/26"),
            "{problems:?}"
        );
    }
}
