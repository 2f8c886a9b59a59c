//! Kinds of other projects that may not exist: those that say which pod networks nodes have, and how Calico's Felix is configured. To
//! watch another source of pod networks, add a line to [`definition`] and to [`NetworkWatches::of`].
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
    translate::{
        FelixConfiguration,
        networks::{BlockAffinity, CiliumNode, IpamBlock, NetworkObject, NodeNetworks, Pod, SourceObject},
    },
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
pub type SourceEvent = OptionalEvent<ObservedNetworks>;

/// What is observed of the objects of a kind that may not exist.
#[derive(Clone, Debug)]
pub enum OptionalEvent<T> {
    /// There is no such kind: nothing of it counts any more.
    Absent,
    /// The API server keeps its objects back. What was known of them stays; where nothing was, there is none.
    Refused,
    /// An event of the watch of its objects.
    Objects(Event<T>),
}

/// An object that says which networks nodes have, as it was observed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedNetworks {
    /// Which object, by its name, behind that of its namespace where it has one.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// What it says of each node that it is about; or why it cannot be read.
    pub networks: Result<Vec<NodeNetworks>, Vec<FieldProblem>>,
    /// What of it was set aside, because it cannot be read by itself.
    pub set_aside: Vec<FieldProblem>,
}

impl<K: NetworkObject + Observable> From<Observed<K>> for ObservedNetworks {
    fn from(observed: Observed<K>) -> Self {
        let (networks, set_aside) = match &observed.object {
            Some(object) => (Ok(object.networks()), observed.problems.clone()),
            None => (Err(observed.problems.clone()), Vec::new()),
        };
        Self {
            name: match &observed.metadata.namespace {
                Some(namespace) => format!("{namespace}/{}", observed.name()),
                None => observed.name().to_owned(),
            },
            uid: observed.metadata.uid.clone().unwrap_or_default(),
            networks,
            set_aside,
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

/// The definition of Calico's blocks with who has each of their addresses.
const IPAM_BLOCKS: &str = "ipamblocks.crd.projectcalico.org";

/// Returns the events of Calico's blocks with who has each of their addresses, where its blocks may be a source. The stream never ends.
#[must_use]
pub fn borrowed(client: &Client, sources: &PodSources) -> BoxStream<'static, SourceEvent> {
    if !sources.contains(PodSource::Calico) {
        return stream::pending().boxed();
    }
    let lost = "addresses that nodes have of blocks of others are looked for where the block is";
    of_kind::<IpamBlock, _>(client, IPAM_BLOCKS, lost)
}

/// The definition of FelixConfigurations.
const FELIX_DEFINITION: &str = "felixconfigurations.crd.projectcalico.org";

/// Returns the events of FelixConfigurations. The stream never ends.
#[must_use]
pub fn felix(client: &Client) -> BoxStream<'static, OptionalEvent<Observed<FelixConfiguration>>> {
    let lost = "how Calico's eBPF is configured is not known";
    of_kind::<FelixConfiguration, _>(client, FELIX_DEFINITION, lost)
}

/// The definition of Calico's blocks where Calico keeps its objects in the group of its own API, without a server for that. These are
/// not read.
const OTHER_BLOCKS: &str = "blockaffinities.projectcalico.org";

/// Returns whether Calico has a kind of blocks that is not read, now and when that changes. The stream never ends.
#[must_use]
pub fn other_blocks(client: &Client) -> BoxStream<'static, bool> {
    let lost = "whether Calico keeps its blocks there is not known";
    let kind = "BlockAffinity of projectcalico.org".to_owned();
    let is_there = async |gate| match gate {
        Gate::Open => Some(true),
        Gate::Closed => Some(false),
        // What is known stays.
        Gate::Refused => None,
    };
    let found = defined(client.clone(), OTHER_BLOCKS, kind, lost).filter_map(is_there);
    found.chain(stream::pending()).boxed()
}

/// What follows where a source of pod networks is refused.
const NO_NETWORKS: &str = "pod networks are not taken from there";

/// Returns the events of the objects of a source, while its definition is there.
fn while_defined<K: SourceObject + Observable>(
    client: &Client,
) -> BoxStream<'static, (PodSource, SourceEvent)> {
    let name = definition(K::SOURCE).unwrap_or_default();
    of_kind::<K, ObservedNetworks>(client, name, NO_NETWORKS)
        .map(|event| (K::SOURCE, event))
        .boxed()
}

/// Returns the events of the objects of a kind, while the definition of this name is there; `lost` is what follows where they are
/// refused.
fn of_kind<K: Observable, T: From<Observed<K>> + Send + 'static>(
    client: &Client,
    name: &'static str,
    lost: &'static str,
) -> BoxStream<'static, OptionalEvent<T>> {
    let definitions = defined(client.clone(), name, K::kind(&()).into_owned(), lost);
    let client = client.clone();
    let objects = move || objects::<K, T>(Api::all(client.clone()), Config::default(), lost).boxed();
    gated(definitions.boxed(), objects).boxed()
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
    let pods = move || objects::<Pod, _>(Api::all(client.clone()), config(), NO_NETWORKS).boxed();
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
fn gated<T: Send + 'static>(
    gate: BoxStream<'static, Gate>,
    inner: impl Fn() -> BoxStream<'static, OptionalEvent<T>> + Send + 'static,
) -> impl Stream<Item = OptionalEvent<T>> + Send {
    let state = (gate, inner, None::<BoxStream<'static, OptionalEvent<T>>>);
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
                Gate::Closed => return Some((OptionalEvent::Absent, (gate, inner, None))),
                Gate::Refused if open.is_none() => {
                    return Some((OptionalEvent::Refused, (gate, inner, None)));
                }
                // What is known goes on.
                Gate::Refused => {}
            }
        }
    })
}

/// Returns whether there is a definition of this name, now and when that changes.
fn defined(
    client: Client,
    name: &'static str,
    kind: String,
    lost: &'static str,
) -> impl Stream<Item = Gate> + Send {
    let api: Api<Observed<CustomResourceDefinition>> = Api::all(client);
    let config = Config::default().fields(&format!("metadata.name={name}"));
    let (mut listed, mut known, mut attempts) =
        (false, None, Attempts::new(kind.clone(), "its definition", lost));
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
                tracing::info!(kind, "its definition is there");
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
fn objects<K: Observable, T: From<Observed<K>> + Send>(
    api: Api<Observed<K>>,
    config: Config,
    lost: &'static str,
) -> impl Stream<Item = OptionalEvent<T>> + Send {
    let kind = K::kind(&()).into_owned();
    let mut complaints = Complaints::default();
    let mut attempts = Attempts::new(kind.clone(), "its objects", lost);
    watcher(api, config).default_backoff().filter_map(move |event| {
        let (event, wait) = match event {
            Ok(event) => {
                attempts.handle_event(&event);
                complain(&mut complaints, &kind, &event);
                (Some(OptionalEvent::Objects(translated(event))), None)
            }
            Err(error) => match attempts.handle_failure(&error) {
                Some(wait) => (None, Some(wait)),
                None => (Some(OptionalEvent::Refused), None),
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

fn translated<K: Observable, T: From<Observed<K>>>(event: Event<Observed<K>>) -> Event<T> {
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
    kind: String,
    of: &'static str,
    lost: &'static str,
    refusals: Refusals,
    backoff: Backoff,
}

impl Attempts {
    fn new(kind: String, of: &'static str, lost: &'static str) -> Self {
        Self {
            kind,
            of,
            lost,
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
                kind = &*self.kind,
                "the API server does not refuse {} any more",
                self.of
            );
        }
    }

    /// Returns how long to wait before the next attempt; `None` where it is to be said first that the API server refuses.
    fn handle_failure(&mut self, error: &watcher::Error) -> Option<Duration> {
        let (kind, of, lost) = (&*self.kind, self.of, self.lost);
        let refused = !expired(error) && refused(error);
        let verdict = self.refusals.handle_failure(refused, Instant::now());
        let error = error as &dyn std::error::Error;
        if verdict == Verdict::Refused {
            tracing::warn!(
                kind,
                error,
                "the API server refuses {of}: {lost}; does the chart of this version grant it?"
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
        let mut attempts = Attempts::new("Kind".to_owned(), "its objects", NO_NETWORKS);
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
        let said = read("10.245.0.0/26").networks.unwrap();
        assert_eq!((said[0].node.as_str(), said[0].networks.len()), ("a2", 1));
        let bad = read("10.245.0.1/26");
        assert_eq!((bad.name.as_str(), bad.uid.as_str()), ("a2-x", "u"));
        let problems = bad.networks.unwrap_err();
        assert!(
            problems[0].to_string().contains("write 10.245.0.0/26"),
            "{problems:?}"
        );
    }
}
