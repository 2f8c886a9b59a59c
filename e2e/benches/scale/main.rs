//! What a large mesh costs, on the lab's real API server: `make bench-scale`.
//!
//! etcd, the API server, the operator and the agent and tunnel of one node are the real programs; the agents of all other
//! nodes are simulated: each reports a key and what it has observed, and keeps the Leases of a node. There are no kubelets
//! and no pods. Everything runs in a network namespace of this process's own and ends with it.
//!
//! Times on the wall are those of a machine on which the simulation runs too; what a program costs is its own processor
//! time. Nothing is asserted but that the mesh came about; goals, which are those of 5,000 nodes, are printed beside.

mod cluster;
mod measure;
mod nodes;
mod probe;
mod process;
mod simulated;
mod tracked;

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, Result, bail};
use clap::Parser;
use spanwire_e2e::{Progress, report::Report};

use cluster::Cluster;

#[derive(Debug, Clone, Parser)]
struct Args {
    /// How many nodes there are.
    #[arg(long, default_value_t = 5000, value_parser = clap::value_parser!(u32).range(20..=30_000))]
    nodes: u32,
    /// How many locations they are in, four nodes in each at least.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(3..=250))]
    locations: u32,
    /// How many changes of one slice are published, one a second.
    #[arg(long, default_value_t = 20)]
    publications: u32,
    /// How many seconds ten nodes a second change.
    #[arg(long, default_value_t = 30)]
    churn: u64,
    /// Seconds at rest.
    #[arg(long, default_value_t = 60)]
    rest: u64,
    /// Every how many seconds the Lease of a node is renewed; a kubelet does it every 10.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3600))]
    renew: u64,
    /// After how many seconds it is given up.
    #[arg(long, default_value_t = 1500)]
    limit: u64,
    /// The folder of the operator, the agent and the tunnel, if it is not the one this program was built into.
    #[arg(long)]
    programs: Option<PathBuf>,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<()> {
    let args = Args::parse();
    anyhow::ensure!(
        args.nodes >= 4 * args.locations,
        "{} nodes are too few for {} locations: four in each at least",
        args.nodes,
        args.locations
    );
    let progress = Progress::shown();
    // Before there is a second thread: all that this process starts is in it, and it ends with the last of them.
    cluster::enter_network()?;
    let programs = match &args.programs {
        Some(folder) => folder.clone(),
        None => built()?,
    };
    let tools = progress.stage("programs of the cluster", spanwire_e2e::tools)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let report = runtime.block_on(async {
        let limit = Duration::from_secs(args.limit);
        let all = async {
            let cluster = Cluster::start(&tools, &programs, &progress).await?;
            let mut report = Report::default();
            let measured = measure::all(&cluster, &args, &progress, &mut report).await;
            measured.with_context(|| cluster.last_words())?;
            anyhow::Ok(report)
        };
        // Whichever comes first, what runs is ended and its folder removed.
        tokio::select! {
            report = all => report,
            () = tokio::time::sleep(limit) => bail!("not done within {} s", args.limit),
            _ = tokio::signal::ctrl_c() => bail!("interrupted"),
        }
    })?;
    progress.say("done");
    report.print();
    Ok(())
}

/// Returns where cargo puts programs of the profile that this one was built with: it lies in `deps` of the same folder.
fn built() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let folder = own.parent().and_then(|deps| deps.parent());
    Ok(folder
        .context("this program lies in target/PROFILE/deps")?
        .to_owned())
}
