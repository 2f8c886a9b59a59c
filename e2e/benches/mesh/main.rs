//! How fast the mesh follows a change and what it costs, in a real cluster with the installed chart: `make bench-mesh`.
//!
//! Everything is read with foreign tools: tcpdump on the new leader's tunnel device, ping, the API server's metrics, a
//! watch of our own, `/proc`. Nothing is asserted but that there was something to measure; goals are printed beside.

mod moves;
mod rest;
mod start;

use std::{path::Path, time::Duration};

use anyhow::Result;
use clap::Parser;
use spanwire_e2e::{Lab, Progress, Scenario, Spanwire, report::Report, suite};

#[derive(Debug, Parser)]
struct Args {
    /// How often the role of the leader is moved by annotation.
    #[arg(long, default_value_t = 20)]
    changes: u32,
    /// How often all agents start on clean nodes.
    #[arg(long, default_value_t = 5)]
    starts: u32,
    /// Seconds at rest.
    #[arg(long, default_value_t = 300)]
    rest: u64,
    /// Name of the lab; one of that name that is up is used, and stays up.
    #[arg(long, default_value = "bench-mesh")]
    lab: String,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let progress = Progress::shown();
    if let Ok(lab) = Lab::attach(&args.lab) {
        return measure(&lab, &args, &progress);
    }
    let scenario = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/lab/test.yaml");
    let lab = Lab::up(
        &args.lab,
        &Scenario::load(&scenario)?,
        &suite::options(Spanwire::Installed),
    );
    let result = lab.and_then(|lab| measure(&lab, &args, &progress));
    Lab::down(&args.lab)?;
    result
}

fn measure(lab: &Lab, args: &Args, progress: &Progress) -> Result<()> {
    let mut report = Report::default();
    progress.stage(&format!("{} starts of all agents", args.starts), || {
        start::measure(lab, args.starts, &mut report)
    })?;
    progress.stage(&format!("{} moves of the leader's role", args.changes), || {
        moves::measure(lab, args.changes, &mut report)
    })?;
    progress.stage(&format!("{} s at rest", args.rest), || {
        rest::measure(lab, Duration::from_secs(args.rest), &mut report)
    })?;
    progress.say("done");
    report.print();
    Ok(())
}
