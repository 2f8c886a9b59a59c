//! Puts the parts together and turns the loop.

use std::{future::pending, time::Duration};

use anyhow::Context as _;
use spanwire_kernel::Changes;
use spanwire_topology::NodeName;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};

use crate::{
    api,
    args::{Args, Source},
    lease, report,
    resolve::Resolver,
    serve::serve,
    source::{self, Publisher, file, kubernetes, ledger::Ledger},
    worker::{Outlets, Worker},
};

/// After so long without an answer from the source the ledger has to do.
const SOURCE_PATIENCE: Duration = Duration::from_secs(2);

/// What runs beside the loop.
struct Beside {
    outlets: Outlets,
    api_server: watch::Receiver<std::collections::BTreeSet<std::net::SocketAddr>>,
}

/// Runs until it is told to stop, and leaves everything as it is then.
///
/// # Errors
/// What makes running pointless: a status address that is taken, no way to find the API server.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let me = args.node_name.clone().context("no node name")?;
    let (query_sender, mut queries) = mpsc::channel(8);
    let owned = args.paths.names.owned()?;
    let address = args.status_address;
    serve(address, query_sender)
        .await
        .with_context(|| format!("cannot listen on {address}"))?;
    let ledger = load_ledger(&args);
    let (publisher, mut snapshots) = source::channel();
    let mut beside = start(&args, &me, publisher).await?;
    let (resolver, mut names) = Resolver::new();
    let mut worker = Worker::new(
        me.clone(),
        args.paths,
        owned,
        ledger.as_ref(),
        resolver,
        beside.outlets,
    );
    let mut ledger = ledger.map(|ledger| ledger.snapshot);
    let patience = Instant::now() + SOURCE_PATIENCE;
    let mut changes: Option<Changes> = None;
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    tracing::info!(node = %me, version = env!("CARGO_PKG_VERSION"), "running");
    loop {
        if changes.is_none() {
            changes = worker.changes();
            if changes.is_some() {
                // What happened before it listened.
                worker.take_change();
            }
        }
        let wake = worker.wake_at().map(Instant::from_std);
        tokio::select! {
            changed = snapshots.changed() => {
                changed.context("the source has ended")?;
                let snapshot = snapshots.borrow_and_update().clone();
                if let Some(snapshot) = snapshot {
                    ledger = None;
                    worker.take_snapshot(snapshot, false).await;
                }
            }
            () = sleep_until(patience), if ledger.is_some() => {
                if let Some(snapshot) = ledger.take() {
                    tracing::warn!("the source does not answer; going on from the ledger");
                    worker.take_snapshot(snapshot, true).await;
                }
            }
            heard = hear(&mut changes) => {
                match heard {
                    Ok(()) => worker.take_change(),
                    Err(error) => {
                        tracing::warn!(error = &error as &dyn std::error::Error, "no longer heard of changes; listening anew");
                        changes = None;
                    }
                }
            }
            Some(resolved) = names.recv() => worker.take_resolved(resolved).await,
            Some((question, answer)) = queries.recv() => {
                // Who asked may have gone.
                let _gone = answer.send(worker.answer(question).await);
            }
            Ok(()) = beside.api_server.changed() => {
                let addresses = beside.api_server.borrow_and_update().clone();
                worker.take_api_server(addresses);
            }
            () = sleep_until(wake.unwrap_or(patience)), if wake.is_some() => worker.turn().await,
            _ = interrupt.recv() => break,
            _ = terminate.recv() => break,
        }
    }
    worker.finish().await;
    tracing::info!("stopped; the machine stays as it is");
    Ok(())
}

fn load_ledger(args: &Args) -> Option<Ledger> {
    Ledger::load(&args.paths.state_dir).unwrap_or_else(|error| {
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            "going on without the ledger"
        );
        None
    })
}

async fn start(args: &Args, me: &NodeName, publisher: Publisher) -> anyhow::Result<Beside> {
    let (status, wishes) = watch::channel(None);
    let (owner, owners) = watch::channel(None);
    let (addresses, api_server) = watch::channel(Default::default());
    match &args.source {
        Source::File(path) => {
            tokio::spawn(file::watch(path.clone(), me.clone(), publisher));
        }
        Source::Kubernetes => {
            let (client, host, port) = api::connect(args.api_server.as_ref()).await?;
            tokio::spawn(kubernetes::watch(client.clone(), me.clone(), publisher));
            tokio::spawn(report::write(client.clone(), me.clone(), wishes));
            tokio::spawn(lease::renew(client, args.namespace.clone(), me.clone(), owners));
            tokio::spawn(api::watch_addresses(host, port, addresses));
        }
    }
    Ok(Beside {
        outlets: Outlets { status, owner },
        api_server,
    })
}

async fn hear(changes: &mut Option<Changes>) -> Result<(), spanwire_kernel::NetlinkError> {
    match changes {
        Some(changes) => changes.changed().await,
        None => pending().await,
    }
}
