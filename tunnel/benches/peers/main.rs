//! `make bench-tunnel`: this device beside those that could stand in its place, in one run on one machine.
//!
//! Two network namespaces joined by a veth, a device in each, iperf3 and ping through them. Every round measures every
//! engine once, in an order that rotates from round to round, so that what the machine does besides hits all alike. A
//! sample during which others used more than a few percent of the machine is taken again. What is reported are
//! medians, and above all ratios: absolute figures belong to a machine.
#![allow(clippy::print_stdout, reason = "a report is what this program is for")]

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use clap::{Parser, ValueEnum};

use crate::{
    measure::Plan,
    report::{Figure, Machine, Report, Sample},
    world::World,
};

mod cipher;
mod iperf;
mod measure;
mod report;
mod world;

/// Measures this device and others, and writes docs/benchmarks.md.
#[derive(Debug, Parser)]
struct Args {
    /// How often every engine is measured in every set-up
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// How long each transfer runs
    #[arg(long, default_value_t = 5)]
    seconds: u32,
    /// What to measure
    #[arg(long, value_delimiter = ',', value_enum, default_values_t = Engine::value_variants().to_vec())]
    engines: Vec<Engine>,
    /// Where to measure it
    #[arg(long, value_delimiter = ',', value_enum, default_values_t = SetUp::value_variants().to_vec())]
    setups: Vec<SetUp>,
    /// Only TCP in one direction, its cost, and ping
    #[arg(long)]
    short: bool,
    /// Keeps the samples here, and adds to those that are there
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Writes the tables between the marks in this file
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// What `cargo bench` adds
    #[arg(long, hide = true)]
    bench: bool,
}

/// A device to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
enum Engine {
    /// This one
    Spanwire,
    /// This one, packet by packet
    Plain,
    /// This one without a cipher
    NullCipher,
    /// The newest wireguard-go
    WireguardGo,
    /// boringtun-cli with its four threads
    Boringtun,
    /// boringtun-cli with one thread
    Boringtun1,
    /// gotatun-cli
    Gotatun,
}

/// A network between the devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
enum SetUp {
    /// A veth as it is
    Veth,
    /// All processes of a side on a core of its own
    Core,
    /// A veth that leaves the segmentation of UDP to the sender's kernel
    NoUdpSegmentation,
}

/// `Engine::WireguardGo` is `wireguard-go` here and on the command line.
fn name(value: impl ValueEnum) -> String {
    value
        .to_possible_value()
        .map(|value| value.get_name().to_owned())
        .expect("no variant is skipped")
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    if !nix::unistd::geteuid().is_root() {
        bail!("network namespaces need root");
    }
    let tools = tools()?;
    let mut report = match &args.json {
        Some(path) if path.exists() => Report::load(path)?,
        _ => Report::new(Machine::look()?),
    };
    let null = if args.engines.contains(&Engine::NullCipher) {
        cipher::build_without()?
    } else {
        PathBuf::new()
    };
    let plan = Plan {
        seconds: args.seconds,
        short: args.short,
    };
    for round in 0..args.rounds {
        for setup in &args.setups {
            for at in 0..args.engines.len() {
                let engine = args.engines[(at + round as usize) % args.engines.len()];
                let sample = sample(engine, *setup, &plan, &tools, &null)
                    .with_context(|| format!("{} in {}", name(engine), name(*setup)))?;
                println!("round {} {} {}: {sample}", round + 1, name(*setup), name(engine));
                report.samples.push(sample);
                if let Some(path) = &args.json {
                    report.save(path)?;
                }
            }
        }
    }
    let tables = report.tables();
    println!("{tables}");
    if let Some(path) = &args.markdown {
        report::replace(path, &tables)?;
    }
    Ok(())
}

fn sample(engine: Engine, setup: SetUp, plan: &Plan, tools: &str, null: &Path) -> anyhow::Result<Sample> {
    let world = World::new(engine, setup, tools, null)?;
    let mut figures = plan.measure(&world)?;
    if engine == Engine::NullCipher {
        figures.insert(Figure::Seal, cipher::nanoseconds());
    }
    Ok(Sample {
        engine: name(engine),
        setup: name(setup),
        figures,
    })
}

/// Builds the others where that is yet to be done.
fn tools() -> anyhow::Result<String> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/tools");
    let output = spanwire_testbed::programs::command(script)?
        .stderr(std::process::Stdio::inherit())
        .output()
        .context("cannot run benches/tools")?;
    if !output.status.success() {
        bail!("benches/tools failed");
    }
    fs::canonicalize(String::from_utf8(output.stdout)?.trim())
        .map(|path| path.display().to_string())
        .context("benches/tools names no folder")
}
