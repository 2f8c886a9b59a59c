//! Drives the state: events of the watches in, decisions to the queue, its writes to the API server, and what they
//! found back into the state. Nothing is waited for: while writes are on their way events are taken in.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    time::{Duration, Instant},
};

use futures::{
    FutureExt as _, StreamExt as _,
    future::BoxFuture,
    stream::{BoxStream, FuturesUnordered},
};
use k8s_openapi::jiff::Timestamp;
use kube::runtime::watcher::Event;
use spanwire_cluster::{
    model::WatchEvent,
    observed::Observed,
    optional::{OptionalEvent, SourceEvent},
};
use spanwire_crds::translate::FelixConfiguration;
use spanwire_topology::{PodSource, Prefix};
use tokio::{sync::watch, time};

use crate::{
    batch::{Notice, Write},
    definitions,
    metrics::{Metrics, WriteLabels},
    notifier::Notifier,
    pace::Pace,
    queue::{Outcome, Published, WriteQueue},
    serve::Health,
    state::{Now, OperatorState},
    writer::{ApiWriter, Found, WriteError, WriteOutcome},
};

/// The loop comes by at least this often.
pub const TICK: Duration = Duration::from_secs(10);
/// So many conflicts of one object in a row are no accident.
const CONFLICTS: u32 = 8;
/// How many events are entered before anything else is looked at.
const EVENTS: usize = 1000;

/// What the loop is connected to.
pub struct Outlets {
    /// Events of the watches.
    pub events: BoxStream<'static, WatchEvent>,
    /// What is observed of the sources of pod networks that may not exist.
    pub networks: BoxStream<'static, (PodSource, SourceEvent)>,
    /// What is observed of which nodes have addresses of Calico's blocks of others.
    pub borrowed: BoxStream<'static, SourceEvent>,
    /// What is observed of how Calico's Felix is configured.
    pub felix: BoxStream<'static, OptionalEvent<Observed<FelixConfiguration>>>,
    /// Whether Calico has a kind of blocks that is not read.
    pub other_blocks: BoxStream<'static, bool>,
    /// Whether Pods are to be observed.
    pub want_pods: watch::Sender<bool>,
    /// Writes to the API server.
    pub writer: ApiWriter,
    /// Whether this operator leads.
    pub leads: watch::Receiver<bool>,
    /// Where the API server is reached.
    pub servers: watch::Receiver<BTreeSet<SocketAddr>>,
    /// Where the API server really runs.
    pub endpoints: watch::Receiver<BTreeSet<SocketAddr>>,
    /// Where machines that join find it.
    pub joined: watch::Receiver<BTreeSet<SocketAddr>>,
    /// The networks of services.
    pub services: watch::Receiver<BTreeSet<Prefix>>,
    /// What is counted.
    pub metrics: Metrics,
    /// What /healthz and /readyz serve.
    pub health: Health,
}

/// The loop of the operator.
pub struct EventLoop {
    state: OperatorState,
    queue: WriteQueue,
    pace: Pace,
    in_flight: FuturesUnordered<BoxFuture<'static, (Write, WriteOutcome)>>,
    notifier: Notifier,
    notifying: FuturesUnordered<BoxFuture<'static, (Notice, Result<(), WriteError>)>>,
    /// Whether it was logged that Events are not written.
    unnotified: bool,
    outlets: Outlets,
    /// Whether it was logged that a list without any Node is not believed.
    doubted: bool,
}

impl EventLoop {
    /// A loop for this state.
    #[must_use]
    pub fn new(state: OperatorState, outlets: Outlets) -> Self {
        Self {
            state,
            queue: WriteQueue::default(),
            pace: Pace::default(),
            in_flight: FuturesUnordered::new(),
            notifier: Notifier::default(),
            notifying: FuturesUnordered::new(),
            unnotified: false,
            outlets,
            doubted: false,
        }
    }

    /// Runs until a watch ends, which none ever does. `definitions` are applied when this operator comes to lead.
    pub async fn run(mut self, mut definitions: Option<kube::Client>) {
        loop {
            let leads = *self.outlets.leads.borrow_and_update();
            self.outlets.metrics.leading.set(i64::from(leads));
            if leads && let Some(client) = definitions.take() {
                apply_definitions(&client).await;
            }
            self.doubt();
            self.want_pods();
            self.outlets.health.tick(self.state.complete());
            self.outlets.metrics.enter(self.state.sizes());
            let now = Instant::now();
            if leads {
                self.advance(now);
            }
            let wake = self.wake(now, leads);
            tokio::select! {
                biased;
                Some((write, outcome)) = self.in_flight.next() => {
                    self.finish(&write, outcome);
                    while let Some(Some((write, outcome))) = self.in_flight.next().now_or_never() {
                        self.finish(&write, outcome);
                    }
                    // However many writes end, events are not left waiting.
                    self.take_events();
                }
                event = self.outlets.events.next() => {
                    let Some(event) = event else { return };
                    self.enter(event);
                    self.take_events();
                }
                Some((source, event)) = self.outlets.networks.next() => {
                    self.state.handle_networks(source, event, Instant::now());
                    self.take_events();
                }
                Some(event) = self.outlets.borrowed.next() => {
                    self.state.handle_borrowed(event, Instant::now());
                    self.take_events();
                }
                Some(event) = self.outlets.felix.next() => {
                    self.state.handle_felix(event);
                    self.take_events();
                }
                Some(there) = self.outlets.other_blocks.next() => {
                    self.state.handle_other_blocks(there);
                    self.take_events();
                }
                Some((notice, result)) = self.notifying.next() => self.notified(&notice, result),
                changed = self.outlets.leads.changed() => if changed.is_err() { return },
                Ok(()) = self.outlets.servers.changed() => {
                    let servers = self.outlets.servers.borrow_and_update().clone();
                    self.state.handle_api_server(&servers);
                }
                Ok(()) = self.outlets.endpoints.changed() => self.enter_endpoints(),
                Ok(()) = self.outlets.joined.changed() => self.enter_endpoints(),
                Ok(()) = self.outlets.services.changed() => {
                    let services = self.outlets.services.borrow_and_update().clone();
                    self.state.handle_services(&services);
                }
                () = time::sleep_until(wake.into()) => {}
            }
            let now = Instant::now();
            self.state.handle_timeout(now);
            if self.queue.handle_timeout(now) {
                self.state.handle_unpublished();
            }
        }
    }

    /// Decides where that is due, and starts the writes that may be done.
    fn advance(&mut self, now: Instant) {
        if self.state.poll_urgent() {
            self.queue.interrupt();
        }
        if self.may_decide(now) && self.pace.is_due(now) {
            self.decide(now);
        }
        while let Some(write) = self.queue.poll_write(now) {
            let writer = self.outlets.writer.clone();
            let work = async move {
                let outcome = writer.write(&write).await;
                (write, outcome)
            };
            self.in_flight.push(work.boxed());
        }
        if let Some(published) = self.queue.poll_published(now) {
            self.published(&published);
        }
        while let Some(notice) = self.notifier.poll_notice(now) {
            let writer = self.outlets.writer.clone();
            let work = async move {
                let result = writer.notify(&notice).await;
                (notice, result)
            };
            self.notifying.push(work.boxed());
        }
    }

    /// An Event was written, or was not.
    fn notified(&mut self, notice: &Notice, result: Result<(), WriteError>) {
        let outcome = result
            .as_ref()
            .map_or_else(WriteError::outcome, |()| Outcome::Done);
        self.notifier.handle_outcome(notice, outcome, Instant::now());
        let failed_before = std::mem::replace(&mut self.unnotified, result.is_err());
        if let Err(error) = &result {
            let error = error as &dyn std::error::Error;
            if failed_before {
                tracing::debug!(error, "an Event is not written");
            } else {
                tracing::warn!(error, "an Event is not written; everything else goes on");
            }
        }
        let result = if result.is_ok() { "done" } else { "failed" };
        let labels = WriteLabels {
            kind: "event",
            result,
        };
        self.outlets.metrics.writes.get_or_create(&labels).inc();
    }

    fn may_decide(&self, now: Instant) -> bool {
        self.state.poll_decide() && !self.queue.is_publishing() && !self.queue.is_paused(now)
    }

    fn decide(&mut self, start: Instant) {
        let now = Now {
            monotonic: start,
            wall: Timestamp::now(),
        };
        let Some(mut batch) = self.state.decide(now) else {
            return;
        };
        let seconds = start.elapsed().as_secs_f64();
        self.outlets.metrics.decide_duration.observe(seconds);
        self.pace.handle_decided(start);
        self.notifier.handle_notices(std::mem::take(&mut batch.notices));
        self.queue.enqueue(batch, start);
    }

    fn published(&mut self, published: &Published) {
        let Published {
            generation,
            writes,
            duration,
            whole,
            unknown,
        } = *published;
        if unknown {
            self.state.handle_unpublished();
        }
        self.state.handle_published(writes > 0);
        if self.state.poll_decide() {
            self.pace.handle_continued();
        }
        let metrics = &self.outlets.metrics;
        if whole {
            let generation = i64::try_from(generation).unwrap_or(i64::MAX);
            metrics.published_generation.set(generation);
        }
        if writes > 0 {
            let seconds = duration.as_secs_f64();
            metrics.publish_duration.observe(seconds);
            tracing::info!(generation, writes, seconds, "published");
        }
    }

    fn want_pods(&self) {
        let wants = self.state.wants_pods();
        self.outlets.want_pods.send_if_modified(|wanted| {
            let changed = *wanted != wants;
            *wanted = wants;
            changed
        });
    }

    fn doubt(&mut self) {
        let doubts = self.state.doubts_nodes();
        if doubts && !self.doubted {
            tracing::warn!(
                "the API server lists no Node at all, and that is not believed: nothing is decided until it does; to \
                 clear nodes, uninstall the chart or run `spanwire-agent cleanup` there"
            );
        }
        self.doubted = doubts;
    }

    fn wake(&self, now: Instant, leads: bool) -> Instant {
        let latest = now + TICK;
        let may_decide = leads && self.may_decide(now);
        let paced = may_decide.then(|| self.pace.poll_due().unwrap_or(now));
        let due = self.state.poll_timeout().into_iter();
        let due = due.chain(self.queue.poll_timeout()).chain(paced);
        let notices = leads.then(|| self.notifier.poll_timeout(now)).flatten();
        due.chain(notices).chain([latest]).min().unwrap_or(latest)
    }

    /// Enters the events that are there.
    fn take_events(&mut self) {
        while let Some(Some(event)) = self.outlets.felix.next().now_or_never() {
            self.state.handle_felix(event);
        }
        for _ in 0..EVENTS {
            match self.outlets.networks.next().now_or_never() {
                Some(Some((source, event))) => self.state.handle_networks(source, event, Instant::now()),
                Some(None) | None => break,
            }
        }
        for _ in 0..EVENTS {
            match self.outlets.borrowed.next().now_or_never() {
                Some(Some(event)) => self.state.handle_borrowed(event, Instant::now()),
                Some(None) | None => break,
            }
        }
        for _ in 0..EVENTS {
            match self.outlets.events.next().now_or_never() {
                Some(Some(event)) => self.enter(event),
                Some(None) | None => break,
            }
        }
        if self.state.poll_decide() {
            self.pace.handle_event(Instant::now());
        }
    }

    /// Nothing may claim where the API server runs, nor where machines that join find it.
    fn enter_endpoints(&mut self) {
        let mut endpoints = self.outlets.endpoints.borrow_and_update().clone();
        endpoints.extend(self.outlets.joined.borrow_and_update().iter());
        self.state.handle_api_endpoints(&endpoints);
    }

    fn enter(&mut self, event: WatchEvent) {
        match event {
            WatchEvent::Node(event) => self.state.handle_node(event),
            WatchEvent::MeshNode(event) => self.state.handle_mesh_node(event),
            WatchEvent::Location(event) => self.state.handle_location(event),
            WatchEvent::Peer(event) => self.state.handle_peer(event),
            WatchEvent::Slice(event) => self.state.handle_slice(event),
            WatchEvent::Lease(event) => self.state.handle_lease(event, Instant::now()),
        }
    }

    /// Enters what a write found.
    fn finish(&mut self, write: &Write, outcome: WriteOutcome) {
        match outcome.found {
            Found::Slice(object) => self.state.handle_slice(Event::Apply(*object)),
            Found::MeshNode(object) => self.state.handle_mesh_node(Event::Apply(*object)),
            Found::Location(object) => self.state.handle_location(Event::Apply(*object)),
            Found::Peer(object) => self.state.handle_peer(Event::Apply(*object)),
            Found::Gone(gone) => self.state.handle_gone(gone),
            Found::Nothing => {}
        }
        let result = outcome.error.as_ref().map_or(Outcome::Done, WriteError::outcome);
        if let Some(key) = self.queue.handle_outcome(write, result, Instant::now()) {
            self.state.handle_unwritten(&key);
        }
        let kind = write.kind();
        let times = self.queue.refusals(&write.key());
        let result = outcome.error.map_or("done", |error| failed(&error, times));
        let labels = WriteLabels { kind, result };
        self.outlets.metrics.writes.get_or_create(&labels).inc();
    }
}

async fn apply_definitions(client: &kube::Client) {
    if let Err(error) = definitions::apply(client).await {
        let error = &error as &dyn std::error::Error;
        tracing::warn!(error, "the CustomResourceDefinitions cannot be kept up to date");
    }
}

/// Logs why a write failed, of an object that was refused so many `times` in a row, and returns the same for the metrics.
fn failed(error: &WriteError, times: u32) -> &'static str {
    let cause = error as &dyn std::error::Error;
    match error {
        WriteError::Conflict { .. } if times == CONFLICTS => {
            tracing::warn!(error = cause, "write conflicts again and again, backing off");
            "conflict"
        }
        WriteError::Conflict { .. } => {
            tracing::debug!(error = cause, "write conflict, deciding again");
            "conflict"
        }
        // The words of the API server for a field that a definition does not have.
        WriteError::Refused { source, .. }
            if times == 1 && source.to_string().contains("not declared in schema") =>
        {
            tracing::warn!(
                error = cause,
                "write refused, for the CustomResourceDefinitions are older than this operator: {}",
                definitions::REMEDY
            );
            "failed"
        }
        WriteError::Refused { .. } if times > 1 => {
            tracing::debug!(error = cause, "write refused again, backing off");
            "failed"
        }
        WriteError::Refused { .. } | WriteError::Unanswered { .. } | WriteError::Late { .. } => {
            tracing::warn!(error = cause, "write failed, backing off");
            "failed"
        }
    }
}
