//! What packets notice of every fault of a leader, in a real cluster with the installed chart: `make chaos`.

mod soak;

use std::{path::Path, time::Duration};

use anyhow::Result;
use clap::Parser;
use spanwire_e2e::{
    Lab, Progress, Scenario, Spanwire,
    expect::all_reach_all,
    fault::{FAULTS, Fault, Noticed, Roles},
    report::Report,
    suite,
};

const P50: Duration = Duration::from_millis(700);
const P99: Duration = Duration::from_millis(1200);

#[derive(Debug, Parser)]
struct Args {
    /// How often each fault happens.
    #[arg(long, default_value_t = 20)]
    rounds: usize,
    /// For how many seconds each lasts.
    #[arg(long, default_value_t = 6)]
    lasts: u64,
    /// Only faults whose name has this in it.
    #[arg(long, default_value = "")]
    only: String,
    /// Instead: faults at random for so many seconds.
    #[arg(long)]
    soak: Option<u64>,
    /// What is drawn for that.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Instead: the leader is restarted so many times, every 20 s.
    #[arg(long, conflicts_with = "soak")]
    restarts: Option<usize>,
    /// Name of the lab; one of that name that is up is used, and stays up.
    #[arg(long, default_value = "chaos")]
    lab: String,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<()> {
    let args = Args::parse();
    if let Ok(lab) = Lab::attach(&args.lab) {
        return measure(&lab, &args);
    }
    let scenario = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/lab/failover.yaml");
    let lab = Lab::up(
        &args.lab,
        &Scenario::load(&scenario)?,
        &suite::options(Spanwire::Installed),
    );
    let result = lab.and_then(|lab| measure(&lab, &args));
    Lab::down(&args.lab)?;
    result
}

fn measure(lab: &Lab, args: &Args) -> Result<()> {
    let mut report = Report::default();
    let result = match (args.soak, args.restarts) {
        (Some(seconds), _) => soak::mixed(lab, Duration::from_secs(seconds), args.seed, &mut report),
        (None, Some(times)) => soak::restarts(lab, times, &mut report),
        (None, None) => suffer(lab, args, &mut report),
    };
    // What was measured before something went wrong counts.
    report.print();
    result
}

fn suffer(lab: &Lab, args: &Args, report: &mut Report) -> Result<()> {
    let progress = Progress::shown();
    for fault in FAULTS.iter().filter(|fault| fault.name.contains(&args.only)) {
        let mut rounds = Vec::new();
        for round in 0..args.rounds {
            let what = format!("{}, {} of {}", fault.name, round + 1, args.rounds);
            let noticed = progress.stage(&what, || one(lab, fault, Duration::from_secs(args.lasts)))?;
            rounds.push(noticed);
        }
        enter(fault, &rounds, report);
    }
    Ok(())
}

fn one(lab: &Lab, fault: &Fault, lasts: Duration) -> Result<Noticed> {
    let noticed = fault.suffer(lab, &Roles::now(lab)?, lasts)?;
    all_reach_all(lab)?;
    lab.wait_mesh_ready()?;
    Ok(noticed)
}

fn enter(fault: &Fault, rounds: &[Noticed], report: &mut Report) {
    let mut gaps: Vec<Duration> = rounds.iter().map(Noticed::gap).collect();
    let mut lost: Vec<u64> = rounds.iter().map(Noticed::lost).collect();
    let mut stalls: Vec<Duration> = rounds
        .iter()
        .map(|noticed| noticed.transfer.longest_stall)
        .collect();
    gaps.sort_unstable();
    lost.sort_unstable();
    stalls.sort_unstable();
    // Nearest rank.
    let rank = |percent: usize| (rounds.len() * percent).div_ceil(100).max(1) - 1;
    let at = |times: &[Duration], percent: usize| times.get(rank(percent)).copied().unwrap_or_default();
    let gap = |percent: usize| at(&gaps, percent);
    let recovered = rounds
        .iter()
        .filter(|noticed| noticed.recovered().is_ok())
        .count();
    let figures = format!(
        "gap p50 {} ms, p99 {} ms, max {} ms; TCP stood still for p50 {} ms, max {} ms; lost {} on {} paths, median; recovered \
         {recovered} of {}",
        gap(50).as_millis(),
        gap(99).as_millis(),
        gap(100).as_millis(),
        at(&stalls, 50).as_millis(),
        at(&stalls, 100).as_millis(),
        lost.get(rank(50)).copied().unwrap_or_default(),
        rounds.first().map_or(0, |noticed| noticed.paths.len()),
        rounds.len(),
    );
    let met = gap(50) < P50 && gap(99) < P99 && recovered == rounds.len();
    report.goal(
        fault.name,
        figures,
        "p50 < 700 ms, p99 < 1200 ms, all recovered",
        met,
    );
}
