//! What packets notice of every fault of a leader, in a real cluster with the installed chart: `make chaos`.

mod soak;

use std::{path::Path, time::Duration};

use anyhow::Result;
use clap::Parser;
use spanwire_e2e::{
    Lab, Progress, Scenario, Spanwire,
    expect::all_reach_all,
    fault::{FAULTS, Fault, Noticed, Roles, Suffered},
    report::Report,
    suite,
};

const P50: Duration = Duration::from_millis(700);
const P99: Duration = Duration::from_millis(1200);
/// Long enough for a leader that boots to be used again.
const AFTER: Duration = Duration::from_secs(8);

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

fn one(lab: &Lab, fault: &Fault, lasts: Duration) -> Result<Suffered> {
    let noticed = fault.suffer(lab, &Roles::now(lab)?, lasts, AFTER)?;
    all_reach_all(lab)?;
    lab.wait_mesh_ready()?;
    Ok(noticed)
}

/// Two rows: what packets noticed of a fault, and what of its end.
fn enter(fault: &Fault, suffered: &[Suffered], report: &mut Report) {
    let during: Vec<&Noticed> = suffered.iter().map(|suffered| &suffered.during).collect();
    let after: Vec<&Noticed> = suffered.iter().map(|suffered| &suffered.after).collect();
    for (what, rounds) in [
        (fault.name.to_owned(), during),
        (format!("{}: over", fault.name), after),
    ] {
        let gaps = sorted(rounds.iter().map(|noticed| noticed.gap()));
        let stalls = sorted(rounds.iter().map(|noticed| noticed.transfer.longest_stall));
        let lost = sorted(rounds.iter().map(|noticed| noticed.lost()));
        let recovered = rounds
            .iter()
            .filter(|noticed| noticed.recovered().is_ok())
            .count();
        let ms = |times: &[Duration], percent| at(times, percent).as_millis();
        let figures = format!(
            "gap p50 {} ms, p99 {} ms, max {} ms; TCP stood still for p50 {} ms, max {} ms; lost {} on {} paths, median; \
             recovered {recovered} of {}",
            ms(&gaps, 50),
            ms(&gaps, 99),
            ms(&gaps, 100),
            ms(&stalls, 50),
            ms(&stalls, 100),
            at(&lost, 50),
            rounds.first().map_or(0, |noticed| noticed.paths.len()),
            rounds.len(),
        );
        let met = at(&gaps, 50) < P50 && at(&gaps, 99) < P99 && recovered == rounds.len();
        report.goal(&what, figures, "p50 < 700 ms, p99 < 1200 ms, all recovered", met);
    }
}

fn sorted<T: Ord>(values: impl Iterator<Item = T>) -> Vec<T> {
    let mut values: Vec<T> = values.collect();
    values.sort_unstable();
    values
}

/// Returns the value at a percentile, by nearest rank.
fn at<T: Copy + Default>(sorted: &[T], percent: usize) -> T {
    let rank = (sorted.len() * percent).div_ceil(100).max(1) - 1;
    sorted.get(rank).copied().unwrap_or_default()
}
