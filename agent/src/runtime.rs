//! Starts the parts of the agent, and connects them.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Instant, SystemTime},
};

use anyhow::Context as _;
use spanwire_cluster::{
    connect::{Connection, connect},
    endpoints::watch_endpoints,
};
use spanwire_core::{ApiServer, NodeState, liveness::Assignment};
use spanwire_topology::NodeName;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
};

use crate::{
    admin,
    api_server::Sources,
    args::{Args, Source},
    checkpoint::Checkpoint,
    clock, draining,
    eventloop::{EventLoop, Inlets, Outlets, Preshared, Storage},
    guard::Guard,
    kubelet,
    lease::{self, Owner},
    preshared::{self, Read, Reader, kept},
    prober::{self, Ask},
    reconciler::{Job, Reconciler},
    resolve::{Resolved, Resolver},
    source::{self, Snapshots, file, kubernetes},
    status_writer::{self, PendingStatus},
};

/// Runs until a signal ends it, and leaves everything as it is then.
///
/// # Errors
/// What makes running pointless: a status address that is taken, no way to find the API server. What the checkpoint says
/// is enforced by then.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let me = args.node_name.clone().context("no node name")?;
    let owned = args.paths.names.owned()?;
    tracing::info!(node = %me, version = env!("CARGO_PKG_VERSION"), "running");
    let checkpoint = load_checkpoint(&args);
    let before = checkpoint.clone().unwrap_or_default();
    let snapshot = checkpoint.map(|checkpoint| checkpoint.snapshot);
    let prober =
        prober::start(args.probing.settings(), before.judgement.clone()).context("no thread for probes")?;
    let known = load_preshared(&args);
    let (outlets, receivers) = outlets(prober.assignments, prober.asks, known.clone());
    tokio::spawn(kept::keep(args.paths.state_dir.clone(), receivers.known));
    let (reported, mut reports) = mpsc::channel(8);
    let reconciler = Reconciler::new(args.paths.clone(), owned.clone(), prober.keys);
    let reconciler = tokio::spawn(reconciler.run(receivers.jobs, reported));
    let storage = storage(&args);
    let left = before.left(SystemTime::now());
    let mut state = NodeState::new(me.clone(), owned, before.enforced);
    if args.tunnel_only {
        state.wait_for_none();
    }
    state.remember_pending(left, Instant::now());
    state.handle_api_server(before.api_server.clone());
    state.remember_preshared(known.unwrap_or_default());
    let mut events = EventLoop::new(me.clone(), state, storage, snapshot, outlets);
    events.remember(before.judgement);
    // Before whatever may fail or take its time.
    events.enforce(&mut reports).await?;

    let address = args.status_address;
    let (query_sender, queries) = mpsc::channel(8);
    admin::serve(address, query_sender)
        .await
        .with_context(|| format!("cannot listen on {address}"))?;
    let written = Written {
        statuses: receivers.status,
        owners: receivers.owner,
    };
    let source = connect_source(&args, &me, before.api_server, written, receivers.secrets).await?;
    let (drained, draining) = watch::channel(false);
    tokio::spawn(draining::watch(args.paths.tunnel_socket.clone(), drained));
    let inlets = Inlets {
        snapshots: source.snapshots,
        reports,
        names: receivers.names,
        preshared: receivers.preshared,
        queries,
        api_server: source.api_server,
        clock: source.clock,
        judgements: prober.judgements,
        advice: prober.advice,
        draining,
        failures: prober.failures,
        refusals: source.refusals,
    };
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let stop = async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    };
    events.run(inlets, stop).await?;
    events.finish(reconciler).await;
    tracing::info!("stopped; the machine stays as it is");
    Ok(())
}

fn load_checkpoint(args: &Args) -> Option<Checkpoint> {
    Checkpoint::load(&args.paths.state_dir).unwrap_or_else(|error| {
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            "going on without the checkpoint"
        );
        None
    })
}

/// Returns the preshared keys that were known; `None` where it is not known which of them are kept.
fn load_preshared(args: &Args) -> Option<kept::Keys> {
    let loaded = kept::load(&args.paths.state_dir);
    let warn = |error: &kept::KeptError| {
        tracing::warn!(
            error = error as &dyn std::error::Error,
            "going on without the preshared keys"
        );
    };
    loaded.inspect_err(warn).ok()
}

/// Without a guard a file that was one before is removed: the node would load it for ever.
fn storage(args: &Args) -> Storage {
    let directory = args.paths.state_dir.clone();
    let guard = args
        .guard
        .then(|| Guard::new(&directory, &args.paths.names.nft_table));
    if guard.is_none()
        && let Err(error) = Guard::forget(&directory)
    {
        tracing::warn!(error = &error as &dyn std::error::Error, "an old guard is left");
    }
    Storage { directory, guard }
}

/// The other ends of the [`Outlets`].
struct Receivers {
    status: watch::Receiver<PendingStatus>,
    owner: watch::Receiver<Owner>,
    jobs: mpsc::UnboundedReceiver<Job>,
    names: mpsc::Receiver<Resolved>,
    preshared: mpsc::Receiver<Read>,
    secrets: watch::Sender<Option<preshared::Source>>,
    known: watch::Receiver<Option<kept::Keys>>,
}

fn outlets(
    assignments: watch::Sender<Arc<Assignment>>,
    asks: mpsc::Sender<Ask>,
    known: Option<kept::Keys>,
) -> (Outlets, Receivers) {
    let (status, statuses) = watch::channel(None);
    let (owner, owners) = watch::channel(None);
    let (jobs, for_reconciler) = mpsc::unbounded_channel();
    let (resolver, names) = Resolver::new();
    let (secrets, source) = watch::channel(None);
    let (reader, preshared) = Reader::new(source);
    let (known, for_keeper) = watch::channel(known);
    let outlets = Outlets {
        status,
        owner,
        jobs,
        resolver,
        preshared: Preshared { reader, known },
        assignments,
        asks,
    };
    let receivers = Receivers {
        status: statuses,
        owner: owners,
        jobs: for_reconciler,
        names,
        preshared,
        secrets,
        known: for_keeper,
    };
    (outlets, receivers)
}

/// What the source says, besides its snapshots about the API server.
struct Connected {
    snapshots: Snapshots,
    api_server: watch::Receiver<ApiServer>,
    clock: watch::Receiver<Option<i64>>,
    refusals: watch::Receiver<Option<String>>,
}

/// What is written to the source.
struct Written {
    statuses: watch::Receiver<PendingStatus>,
    owners: watch::Receiver<Owner>,
}

/// Starts what talks to the source. `before` is where the API server was.
async fn connect_source(
    args: &Args,
    me: &NodeName,
    before: ApiServer,
    written: Written,
    secrets: watch::Sender<Option<preshared::Source>>,
) -> anyhow::Result<Connected> {
    let (publisher, snapshots) = source::channel();
    let (server_known, api_server) = watch::channel(before);
    let (behind, clock) = watch::channel(None);
    let (refused, refusals) = watch::channel(None);
    match &args.source {
        Source::File(path) => {
            secrets.send_replace(Some(preshared::Source::Directory(file::secrets(path))));
            tokio::spawn(file::watch(path.clone(), me.clone(), publisher));
        }
        Source::Kubernetes => {
            let Connection { client, server, .. } = connect(args.api_server.as_ref()).await?;
            let (named, of_named) = watch::channel(BTreeSet::new());
            let (kubelet, of_kubelet) = watch::channel(kubelet::Found {
                whole: args.kubelet_config.is_none(),
                ..kubelet::Found::default()
            });
            let (endpoints, of_endpoints) = watch::channel(BTreeSet::new());
            let sources = Sources {
                named: of_named,
                kubelet: of_kubelet,
                endpoints: of_endpoints,
                by_service: args.api_server.is_none(),
            };
            tokio::spawn(sources.merge(server_known));
            tokio::spawn(server.watch_addresses(named));
            tokio::spawn(watch_endpoints(client.clone(), endpoints));
            if let Some(path) = args.kubelet_config.clone() {
                tokio::spawn(kubelet::watch(path, kubelet));
            }
            tokio::spawn(clock::watch(client.clone(), behind));
            tokio::spawn(kubernetes::watch(client.clone(), me.clone(), publisher));
            tokio::spawn(status_writer::write(client.clone(), me.clone(), written.statuses));
            let namespace = args.namespace.clone();
            secrets.send_replace(Some(preshared::Source::ApiServer {
                client: client.clone(),
                namespace: namespace.clone(),
            }));
            tokio::spawn(lease::renew(
                client,
                namespace,
                me.clone(),
                written.owners,
                refused,
            ));
        }
    }
    Ok(Connected {
        snapshots,
        api_server,
        clock,
        refusals,
    })
}
