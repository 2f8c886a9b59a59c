//! Starts the parts of the agent, and connects them.

use std::{collections::BTreeSet, net::SocketAddr};

use anyhow::Context as _;
use spanwire_cluster::connect::{Connection, connect};
use spanwire_core::NodeState;
use spanwire_topology::NodeName;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
};

use crate::{
    admin,
    args::{Args, Source},
    checkpoint::Checkpoint,
    eventloop::{EventLoop, Inlets, Outlets, Storage},
    guard::Guard,
    lease::{self, Owner},
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
    let (enforced, snapshot) = load_checkpoint(&args)
        .map(|checkpoint| (checkpoint.enforced, checkpoint.snapshot))
        .unzip();
    let (outlets, receivers) = outlets();
    let (reported, mut reports) = mpsc::channel(8);
    let reconciler = Reconciler::new(args.paths.clone(), owned.clone());
    let reconciler = tokio::spawn(reconciler.run(receivers.jobs, reported));
    let storage = storage(&args);
    let state = NodeState::new(me.clone(), owned, enforced.unwrap_or_default());
    let mut events = EventLoop::new(me.clone(), state, storage, snapshot, outlets);
    // Before whatever may fail or take its time.
    events.enforce(&mut reports).await?;

    let address = args.status_address;
    let (query_sender, queries) = mpsc::channel(8);
    admin::serve(address, query_sender)
        .await
        .with_context(|| format!("cannot listen on {address}"))?;
    let (snapshots, api_server) = connect_source(&args, &me, receivers.status, receivers.owner).await?;
    let inlets = Inlets {
        snapshots,
        reports,
        names: receivers.names,
        queries,
        api_server,
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
}

fn outlets() -> (Outlets, Receivers) {
    let (status, statuses) = watch::channel(None);
    let (owner, owners) = watch::channel(None);
    let (jobs, for_reconciler) = mpsc::unbounded_channel();
    let (resolver, names) = Resolver::new();
    let outlets = Outlets {
        status,
        owner,
        jobs,
        resolver,
    };
    let receivers = Receivers {
        status: statuses,
        owner: owners,
        jobs: for_reconciler,
        names,
    };
    (outlets, receivers)
}

/// Starts what talks to the source; returns what it publishes, and where the API server is.
async fn connect_source(
    args: &Args,
    me: &NodeName,
    statuses: watch::Receiver<PendingStatus>,
    owners: watch::Receiver<Owner>,
) -> anyhow::Result<(Snapshots, watch::Receiver<BTreeSet<SocketAddr>>)> {
    let (publisher, snapshots) = source::channel();
    let (addresses, api_server) = watch::channel(BTreeSet::new());
    match &args.source {
        Source::File(path) => {
            tokio::spawn(file::watch(path.clone(), me.clone(), publisher));
        }
        Source::Kubernetes => {
            let Connection { client, server, .. } = connect(args.api_server.as_ref()).await?;
            tokio::spawn(kubernetes::watch(client.clone(), me.clone(), publisher));
            tokio::spawn(status_writer::write(client.clone(), me.clone(), statuses));
            tokio::spawn(lease::renew(client, args.namespace.clone(), me.clone(), owners));
            tokio::spawn(server.watch_addresses(addresses));
        }
    }
    Ok((snapshots, api_server))
}
