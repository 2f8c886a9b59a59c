//! Starts the parts of the agent, and connects them.

use anyhow::Context as _;
use spanwire_cluster::connect::{Connection, connect};
use spanwire_core::NodeState;
use spanwire_topology::NodeName;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
    task::JoinHandle,
};

use crate::{
    admin,
    args::{Args, Source},
    checkpoint::Checkpoint,
    eventloop::{EventLoop, Inlets, Outlets},
    lease,
    reconciler::Reconciler,
    resolve::Resolver,
    source::{self, file, kubernetes},
    status_writer,
};

/// Runs until a signal ends it, and leaves everything as it is then.
///
/// # Errors
/// What makes running pointless: a status address that is taken, no way to find the API server.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let me = args.node_name.clone().context("no node name")?;
    let owned = args.paths.names.owned()?;
    let address = args.status_address;
    let (query_sender, queries) = mpsc::channel(8);
    admin::serve(address, query_sender)
        .await
        .with_context(|| format!("cannot listen on {address}"))?;
    let checkpoint = load_checkpoint(&args);
    let (outlets, inlets, reconciler) = start(&args, &me, queries).await?;
    let (enforced, snapshot) = checkpoint
        .map(|checkpoint| (checkpoint.enforced, checkpoint.snapshot))
        .unzip();
    let state = NodeState::new(me.clone(), owned, enforced.unwrap_or_default());
    let mut events = EventLoop::new(me.clone(), state, args.paths.state_dir.clone(), snapshot, outlets);
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let stop = async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    };
    tracing::info!(node = %me, version = env!("CARGO_PKG_VERSION"), "running");
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

/// Starts what runs beside the event loop.
async fn start(
    args: &Args,
    me: &NodeName,
    queries: mpsc::Receiver<admin::Query>,
) -> anyhow::Result<(Outlets, Inlets, JoinHandle<()>)> {
    let (publisher, snapshots) = source::channel();
    let (status, statuses) = watch::channel(None);
    let (owner, owners) = watch::channel(None);
    let (addresses, api_server) = watch::channel(Default::default());
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
    let (jobs, for_reconciler) = mpsc::unbounded_channel();
    let (reported, reports) = mpsc::channel(8);
    let reconciler = Reconciler::new(args.paths.clone(), args.paths.names.owned()?);
    let reconciler = tokio::spawn(reconciler.run(for_reconciler, reported));
    let (resolver, names) = Resolver::new();
    let outlets = Outlets {
        status,
        owner,
        jobs,
        resolver,
    };
    let inlets = Inlets {
        snapshots,
        reports,
        names,
        queries,
        api_server,
    };
    Ok((outlets, inlets, reconciler))
}
