//! Puts the parts together: watches into the state, its decisions to the publisher, what was written back into it.

use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail};
use futures::{StreamExt as _, stream, stream::BoxStream};
use k8s_openapi::jiff::Timestamp;
use kube::runtime::watcher::Event;
use prometheus_client::registry::Registry;
use spanwire_crds::translate::NodeOptions;
use spanwire_topology::ClusterFacts;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
    time,
};

use crate::{
    api::{self, Connection},
    args::{Args, Command, Run},
    batch::Batch,
    elector::{self, ElectionLoop},
    metrics::{Metrics, WriteLabels},
    retire::retire,
    serve::{Health, serve},
    state::{Now, OperatorState, Options},
    watch::{WatchEvent, watches},
    writer::{ApiWriter, Found, WriteError, WriteOutcome},
};

/// The loop comes by at least this often.
pub const TICK: Duration = Duration::from_secs(10);
/// Events that belong together come within so long of each other …
const TOGETHER: Duration = Duration::from_millis(2);
/// … but nobody waits longer for more of them.
const LONGEST: Duration = Duration::from_millis(20);
/// How many writes are on their way at a time.
const WRITES: usize = 8;
/// How long to wait after a failure, at first and at last.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(15));

/// Runs what the command line asks for.
///
/// # Errors
/// Whatever ends the operator; it is to be started again.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let connection = api::connect(args.reach.api_server.as_ref()).await?;
    let namespace = args
        .reach
        .namespace
        .clone()
        .unwrap_or_else(|| connection.namespace.clone());
    let identity = args.reach.identity.clone().unwrap_or_else(machine);
    if let Some(Command::Retire { wait }) = args.command {
        let wait = Duration::from_secs(wait);
        let retired = retire(connection.client, &namespace, &format!("{identity}-retire"), wait).await;
        return retired.context("the nodes cannot be retired");
    }
    operate(connection, &namespace, identity, args.run).await
}

fn machine() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{}-{}", name.trim(), std::process::id())
}

async fn operate(connection: Connection, namespace: &str, identity: String, run: Run) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("no signals")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("no signals")?;
    let client = connection.client.clone();
    let mut registry = Registry::default();
    let metrics = Metrics::register(&mut registry);
    let health = Health::new(registry);
    let serving = tokio::spawn(serve(run.status_address, health.clone()));
    let pools = run.pools().map_err(|problem| anyhow!(problem))?;
    let options = Options {
        cluster: ClusterFacts {
            automatic: api::automatic_pools(&client, namespace, &pools).await?,
            overlay: pools,
            listen_port: run.listen_port,
            api_server: connection.addresses().await,
            default_location: Some(run.default_location),
        },
        nodes: NodeOptions {
            topology_label: run.topology_label,
            kilo_annotations: run.kilo_annotations,
        },
    };
    let (tell_leads, leads) = watch::channel(false);
    let election = ElectionLoop::new(client.clone(), namespace, identity.clone());
    let election = tokio::spawn(election.run(tell_leads));
    let operator = Operator {
        state: OperatorState::new(options),
        events: watches(&client, namespace),
        publisher: ApiWriter::new(client.clone(), identity.clone()),
        leads,
        metrics,
        health,
        doubted: false,
        pause: None,
    };
    let definitions = run.manage_crds.then(|| client.clone());
    tokio::select! {
        lost = election => bail!("{}", lost.map_or_else(|error| error.to_string(), |lost| lost.to_string())),
        served = serving => {
            served?.with_context(|| format!("cannot serve on {}", run.status_address))?;
            bail!("stopped serving on {}", run.status_address)
        }
        () = operator.run(definitions) => bail!("a watch ended"),
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("told to stop; the mesh goes on without");
    let released = time::timeout(elector::LOOK, elector::release(client, namespace, identity)).await;
    if !matches!(released, Ok(Ok(()))) {
        tracing::debug!("the lease could not be given up; it runs out by itself");
    }
    Ok(())
}

struct Operator {
    state: OperatorState,
    events: BoxStream<'static, WatchEvent>,
    publisher: ApiWriter,
    leads: watch::Receiver<bool>,
    metrics: Metrics,
    health: Health,
    /// Whether it was told that no list of Nodes without any is believed.
    doubted: bool,
    /// After a failure: until when, and how long the next pause is.
    pause: Option<(Instant, Duration)>,
}

impl Operator {
    /// Comes back when a watch ends, which it never does. `definitions` are applied by whoever comes to lead.
    async fn run(mut self, mut definitions: Option<kube::Client>) {
        let mut led = false;
        loop {
            let leads = *self.leads.borrow_and_update();
            self.metrics.leading.set(i64::from(leads));
            if leads && !led {
                led = true;
                if let Some(client) = definitions.take()
                    && let Err(error) = api::apply_definitions(&client).await
                {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(error, "the CustomResourceDefinitions cannot be kept up to date");
                }
            }
            self.doubt();
            self.health.tick(self.state.complete());
            self.metrics.enter(self.state.sizes());
            if leads
                && self.state.poll_decide()
                && self.pause.is_none_or(|(until, _)| until <= Instant::now())
            {
                self.decide().await;
                continue;
            }
            let wake = self.wake();
            tokio::select! {
                biased;
                event = self.events.next() => match event {
                    Some(event) => self.take(event).await,
                    None => return,
                },
                changed = self.leads.changed() => if changed.is_err() { return },
                () = time::sleep_until(wake.into()) => {}
            }
            self.state.handle_timeout(Instant::now());
        }
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

    fn wake(&self) -> Instant {
        let latest = Instant::now() + TICK;
        let due = self.state.poll_timeout().into_iter();
        let paused = self
            .pause
            .map(|(until, _)| until)
            .filter(|_| self.state.poll_decide());
        due.chain(paused).chain([latest]).min().unwrap_or(latest)
    }

    /// Enters one event and those that come right behind it.
    async fn take(&mut self, event: WatchEvent) {
        self.enter(event);
        let latest = time::Instant::now() + LONGEST;
        while let Ok(Some(event)) =
            time::timeout_at(latest.min(time::Instant::now() + TOGETHER), self.events.next()).await
        {
            self.enter(event);
        }
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

    async fn decide(&mut self) {
        let start = Instant::now();
        let now = Now {
            monotonic: start,
            wall: Timestamp::now(),
        };
        let Some(batch) = self.state.decide(now) else {
            return;
        };
        self.metrics
            .decide_duration
            .observe(start.elapsed().as_secs_f64());
        let generation = batch.mesh.generation.0;
        let count: usize = batch.phases.iter().map(Vec::len).sum();
        let start = Instant::now();
        if self.publish(batch).await {
            self.pause = None;
            self.metrics
                .published_generation
                .set(i64::try_from(generation).unwrap_or(i64::MAX));
            if count > 0 {
                let seconds = start.elapsed().as_secs_f64();
                self.metrics.publish_duration.observe(seconds);
                tracing::info!(generation, writes = count, seconds, "published");
            }
        } else {
            let delay = self.pause.map_or(RETRY.0, |(_, delay)| (delay * 2).min(RETRY.1));
            self.pause = Some((Instant::now() + delay, delay));
        }
    }

    /// Writes a batch; answers whether all of it was written.
    async fn publish(&mut self, batch: Batch) -> bool {
        let mut whole = true;
        for phase in batch.phases {
            let publisher = &self.publisher;
            let writes = phase.into_iter().map(|write| {
                let kind = write.kind();
                async move { (kind, publisher.publish(write).await) }
            });
            let outcomes: Vec<(&str, WriteOutcome)> =
                stream::iter(writes).buffer_unordered(WRITES).collect().await;
            let mut answered = true;
            for (kind, outcome) in outcomes {
                self.found(outcome.found);
                let result = match outcome.error {
                    None => "done",
                    Some(error) => {
                        answered &= !matches!(error, WriteError::Unanswered { .. } | WriteError::Late { .. });
                        // An Event that is lost is no reason to decide again.
                        whole &= kind == "event";
                        failed(error)
                    }
                };
                self.metrics
                    .writes
                    .get_or_create(&WriteLabels { kind, result })
                    .inc();
            }
            if !answered {
                break;
            }
        }
        if whole {
            self.state.handle_published(batch.mesh);
        } else {
            self.state.handle_unpublished();
        }
        whole
    }

    fn found(&mut self, found: Found) {
        match found {
            Found::Slice(object) => self.state.handle_slice(Event::Apply(*object)),
            Found::MeshNode(object) => self.state.handle_mesh_node(Event::Apply(*object)),
            Found::Location(object) => self.state.handle_location(Event::Apply(*object)),
            Found::Peer(object) => self.state.handle_peer(Event::Apply(*object)),
            Found::Gone(gone) => self.state.handle_gone(gone),
            Found::Nothing => {}
        }
    }
}

fn failed(error: WriteError) -> &'static str {
    if matches!(error, WriteError::Conflict { .. }) {
        tracing::debug!(error = &error as &dyn std::error::Error, "decided again");
        return "conflict";
    }
    tracing::warn!(
        error = &error as &dyn std::error::Error,
        "a write failed; tried again"
    );
    "failed"
}
