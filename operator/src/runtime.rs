//! Puts the parts together and runs them.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use anyhow::{Context as _, anyhow, bail};
use futures::{StreamExt as _, stream::BoxStream};
use k8s_openapi::api::coordination::v1::Lease;
use prometheus_client::registry::Registry;
use spanwire_cluster::{
    connect::{Connection, connect},
    endpoints::watch_endpoints,
    model::WatchEvent,
    optional::{self, NetworkWatches},
    watch::Watches,
};
use spanwire_crds::{
    Location, LocationSlice, MeshNode, Peer,
    translate::{Node, NodeOptions},
};
use spanwire_topology::{ClusterFacts, HopMode, PodSource};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
    time,
};

use crate::{
    api,
    args::{Args, Command, Run},
    cluster_info, definitions,
    elector::{self, ElectionLoop},
    eventloop::{EventLoop, Outlets},
    installation::Installation,
    metrics::Metrics,
    retire::retire,
    serve::{Health, serve},
    services,
    state::{OperatorState, Options},
    writer::ApiWriter,
};

/// How long it is waited for where the API server is.
const ADDRESSES_PATIENCE: Duration = Duration::from_secs(5);

/// Runs what the command line asks for.
///
/// # Errors
/// What ended the operator; it is to be started again.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let connection = connect(args.reach.api_server.as_ref()).await?;
    let namespace = args
        .reach
        .namespace
        .clone()
        .unwrap_or_else(|| connection.namespace.clone());
    let installation = Installation {
        namespace,
        name: args.reach.installation.clone(),
    };
    let identity = args.reach.identity.clone().unwrap_or_else(machine);
    if let Some(Command::Retire { wait }) = args.command {
        let wait = Duration::from_secs(wait);
        let retired = retire(
            connection.client,
            &installation,
            &format!("{identity}-retire"),
            wait,
        )
        .await;
        return retired.context("the nodes cannot be retired");
    }
    operate(connection, &installation, identity, args.run).await
}

fn machine() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{}-{}", name.trim(), std::process::id())
}

async fn operate(
    connection: Connection,
    installation: &Installation,
    identity: String,
    run: Run,
) -> anyhow::Result<()> {
    let namespace = installation.namespace.as_str();
    let mut terminate = signal(SignalKind::terminate()).context("no signals")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("no signals")?;
    let client = connection.client.clone();
    let mut registry = Registry::default();
    let metrics = Metrics::register(&mut registry);
    let health = Health::new(registry);
    let mut serving = tokio::spawn(serve(run.status_address, health.clone()));
    if !run.manage_crds {
        // Where the operator that leads is an older one it goes on meanwhile: this one is not ready, so it is not replaced.
        tokio::select! {
            () = definitions::wait(&client, || health.tick(false)) => {}
            served = &mut serving => {
                served?.with_context(|| format!("cannot serve on {}", run.status_address))?;
                bail!("stopped serving on {}", run.status_address)
            }
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
        }
    }
    let sources = run.pod_networks.sources();
    let pools = run.pools().map_err(|problem| anyhow!(problem))?;
    let options = Options {
        cluster: ClusterFacts {
            automatic: api::automatic_pools(&client, namespace, &pools).await?,
            overlay: pools,
            listen_port: run.listen_port,
            api_server: BTreeSet::new(),
            api_endpoints: BTreeSet::new(),
            services: run.services(connection.service),
            pods: run.pod_cidr.into_iter().collect(),
            pods_reported: false,
            hop: HopMode::Cni,
            default_location: Some(run.default_location),
            tunnel_only: run.tunnel_only,
        },
        nodes: NodeOptions {
            topology_label: run.topology_label,
            kilo_annotations: run.kilo_annotations,
        },
        installation: Some(installation.clone()),
        pod_sources: sources.clone(),
        link: run.link,
    };
    let servers = first_answer(|sender| connection.server.watch_addresses(sender));
    let named_services = !run.service_cidr.is_empty();
    let endpoints = first_answer(|sender| watch_endpoints(client.clone(), sender));
    let joined = first_answer(|sender| cluster_info::follow(client.clone(), cluster_info::INTERVAL, sender));
    let (servers, endpoints, joined) = futures::join!(servers, endpoints, joined);
    let (set_leads, leads) = watch::channel(false);
    let election = ElectionLoop::new(client.clone(), installation, identity.clone());
    // The loop must not end because the election has: why that ended is to be said.
    let _open = set_leads.clone();
    let election = tokio::spawn(election.run(set_leads));
    let want_pods = watch::Sender::new(false);
    let outlets = Outlets {
        events: watches(client.clone(), namespace),
        networks: NetworkWatches::of(&client, &sources, want_pods.subscribe()),
        borrowed: optional::borrowed(&client, &sources),
        felix: optional::felix(&client),
        other_blocks: if sources.contains(PodSource::Calico) {
            optional::other_blocks(&client)
        } else {
            futures::stream::pending().boxed()
        },
        want_pods,
        writer: ApiWriter::new(client.clone(), identity.clone()).of_installation(installation.clone()),
        leads,
        servers,
        endpoints,
        joined,
        services: services::follow(client.clone(), named_services).await,
        metrics,
        health,
    };
    let event_loop = EventLoop::new(OperatorState::new(options), outlets);
    let definitions = run.manage_crds.then(|| client.clone());
    tokio::select! {
        lost = election => bail!("{}", lost.map_or_else(|error| error.to_string(), |lost| lost.to_string())),
        served = serving => {
            served?.with_context(|| format!("cannot serve on {}", run.status_address))?;
            bail!("stopped serving on {}", run.status_address)
        }
        () = event_loop.run(definitions) => bail!("a watch ended"),
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("stopping; the mesh stays as it is");
    let released = time::timeout(elector::RETRY, elector::release(client, installation, identity)).await;
    if !matches!(released, Ok(Ok(()))) {
        tracing::debug!("lease not released; it expires by itself");
    }
    Ok(())
}

/// Starts a watch of addresses of the API server. The first answer is waited for, so that nothing is decided without it, but not
/// for long: its name may not be resolved, and an older chart does not let the operator read where it really runs.
async fn first_answer<F: Future<Output = ()> + Send + 'static>(
    watch: impl FnOnce(watch::Sender<BTreeSet<SocketAddr>>) -> F,
) -> watch::Receiver<BTreeSet<SocketAddr>> {
    let (sender, mut addresses) = watch::channel(BTreeSet::new());
    tokio::spawn(watch(sender));
    if time::timeout(ADDRESSES_PATIENCE, addresses.changed())
        .await
        .is_ok()
    {
        // For the loop it is news.
        addresses.mark_changed();
    }
    addresses
}

/// Everything that the operator watches.
fn watches(client: kube::Client, namespace: &str) -> BoxStream<'static, WatchEvent> {
    Watches::new(client)
        .all::<Node>()
        .all::<MeshNode>()
        .all::<Location>()
        .all::<Peer>()
        .all::<LocationSlice>()
        .in_namespace::<Lease>(namespace)
        .events()
}
