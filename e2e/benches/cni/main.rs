//! The mesh on each CNI of the lab: what pods get of the network inside a location, across locations and where every node leads, and which
//! packets pass where LANs have other MTUs: `make bench-cni`.

mod figures;
mod page;
mod sizes;

use std::{
    io::Write as _,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use clap::Parser;
use spanwire_e2e::{Lab, Progress, Scenario, Spanwire, scenario::Cni, suite};

use crate::{figures::Figures, sizes::Kept};

/// All that the lab has, in the order of the table.
const CNIS: [Cni; 6] = [
    Cni::Vxlan,
    Cni::HostGw,
    Cni::CalicoVxlan,
    Cni::CalicoCrossSubnet,
    Cni::CalicoBgp,
    Cni::Cloud,
];

#[derive(Debug, Parser)]
struct Args {
    /// Only these CNIs.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Cni>,
    /// How often each is measured.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// For how many seconds each stream and each flood lasts.
    #[arg(long, default_value_t = 3)]
    seconds: u32,
    /// Do not look which packets pass with other MTUs.
    #[arg(long)]
    without_mtus: bool,
    /// Look for that alone.
    #[arg(long, conflicts_with = "without_mtus")]
    only_mtus: bool,
    /// Write the tables into docs/benchmarks-cni.md, too.
    #[arg(long)]
    update_committed: bool,
    /// Name of the lab.
    #[arg(long, default_value = "bench-cni")]
    lab: String,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

impl Args {
    fn wants(&self, cni: Cni) -> bool {
        self.only.is_empty() || self.only.contains(&cni)
    }
}

fn main() -> Result<()> {
    let args = Args::parse();
    let mut figures: Vec<Figures> = Vec::new();
    let wanted = CNIS.into_iter().filter(|cni| args.wants(*cni));
    for cni in wanted.clone().filter(|_| !args.only_mtus) {
        let measured = in_lab(&args, scenario()?.with_cni(cni)?, |lab| {
            figures::measure(lab, cni, args.rounds, args.seconds)
        });
        figures.push(measured.with_context(|| format!("with {}", figures::name(cni)))?);
        // What has been measured before something goes wrong counts.
        print(&page::figures(&figures))?;
    }
    let mut kept: Vec<Kept> = Vec::new();
    for cni in wanted.filter(|cni| sizes::CNIS.contains(cni) && !args.without_mtus) {
        for mtus in sizes::MTUS {
            let with = scenario()?.with_cni(cni)?;
            let measured = in_lab(&args, mtus.apply(with), |lab| sizes::measure(lab, cni, mtus));
            kept.push(measured.with_context(|| format!("with {} and {mtus}", figures::name(cni)))?);
            print(&page::sizes(&kept))?;
        }
    }
    if args.update_committed {
        page::update(&args_shown(&args), &figures, &kept)?;
    }
    Ok(())
}

/// Says how long was measured, and how often.
fn args_shown(args: &Args) -> String {
    format!("{} rounds of {} s", args.rounds, args.seconds)
}

fn print(text: &str) -> Result<()> {
    Ok(std::io::stdout().write_all(text.as_bytes())?)
}

fn scenario() -> Result<Scenario> {
    let file: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/lab/cni.yaml");
    Scenario::load(&file)
}

/// Does something in a lab of its own with Spanwire.
fn in_lab<T>(args: &Args, scenario: Scenario, run: impl FnOnce(&Lab) -> Result<T>) -> Result<T> {
    // A run that was killed may have left its lab.
    Lab::down(&args.lab)?;
    let lab = Lab::up(&args.lab, &scenario, &suite::options(Spanwire::Installed));
    let result = lab.and_then(|lab| run(&lab));
    Progress::shown().stage("lab down", || Lab::down(&args.lab))?;
    result
}
