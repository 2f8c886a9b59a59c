//! The Spanwire node agent.

use std::io::IsTerminal as _;

use clap::Parser as _;
use spanwire_agent::{
    args::{Args, Command},
    cleanup, runtime,
};
use tracing_subscriber::EnvFilter;

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(spanwire_cluster::LOG_FILTER));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
    // One thread: netlink answers in microseconds, and a node has better uses for its memory.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(16)
        .build()?;
    let result = runtime.block_on(async {
        match args.command {
            Some(Command::Cleanup { plan, ref paths }) => cleanup::run(paths.clone(), plan).await,
            None => runtime::run(args).await,
        }
    });
    // A name may be being resolved; nothing waits for it any more.
    runtime.shutdown_background();
    result
}
