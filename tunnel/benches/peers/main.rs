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
use clap::{Parser, ValueEnum as _};

use crate::{
    engine::{Engine, SetUp, name},
    measure::Plan,
    record::{Figure, Record, Sample},
    world::World,
};

mod cipher;
mod engine;
mod iperf;
mod measure;
mod record;
mod tables;
mod world;

/// Measures this device and others, and writes target/bench-tunnel.json and target/bench-tunnel.md.
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
    /// Adds the samples also to those of this machine in docs/benchmarks.json, and writes docs/benchmarks.md
    #[arg(long)]
    update_committed: bool,
    /// What `cargo bench` adds
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    if !nix::unistd::geteuid().is_root() {
        bail!("network namespaces need root");
    }
    let machine = record::machine()?;
    let tools = build(&engine::tools(&args.engines))?;
    let null = if args.engines.contains(&Engine::NullCipher) {
        cipher::build_without()?
    } else {
        PathBuf::new()
    };
    let samples = measure(&args, &tools, &null, &machine)?;
    if args.update_committed {
        update_committed(&machine, samples)?;
    }
    Ok(())
}

/// Measures everything that is asked for. What is known so far is in `target/` after every sample.
fn measure(args: &Args, tools: &Path, null: &Path, machine: &str) -> anyhow::Result<Vec<Sample>> {
    let plan = Plan {
        seconds: args.seconds,
        short: args.short,
    };
    let mut samples = Vec::new();
    let mut tables = String::new();
    for round in 0..args.rounds {
        for setup in &args.setups {
            for at in 0..args.engines.len() {
                let engine = args.engines[(at + round as usize) % args.engines.len()];
                let sample = sample(engine, *setup, &plan, tools, null)
                    .with_context(|| format!("{} in {}", name(engine), name(*setup)))?;
                println!("round {} {} {}: {sample}", round + 1, name(*setup), name(engine));
                samples.push(sample);
                let mut record = Record::default();
                record.add(machine, samples.iter().cloned());
                record.save(&output("json"))?;
                tables = tables::render(&record);
                record::write(&output("md"), &tables)?;
            }
        }
    }
    println!("{tables}\nwritten: {} and .json", output("md").display());
    Ok(samples)
}

/// Returns where the figures of this run are written.
fn output(extension: &str) -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent();
    target
        .expect("it is a folder in the target folder")
        .join("bench-tunnel")
        .with_extension(extension)
}

/// Adds samples to the figures that are committed.
fn update_committed(machine: &str, samples: Vec<Sample>) -> anyhow::Result<()> {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    let json = docs.join("benchmarks.json");
    let mut record = Record::load(&json)?;
    record.add(machine, samples);
    record.save(&json)?;
    tables::replace(&docs.join("benchmarks.md"), &tables::render(&record))
}

fn sample(engine: Engine, setup: SetUp, plan: &Plan, tools: &Path, null: &Path) -> anyhow::Result<Sample> {
    let world = World::new(engine, setup, tools, null);
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

/// Builds these programs where that is yet to be done, and returns the folder that they are in.
fn build(programs: &[&str]) -> anyhow::Result<PathBuf> {
    if programs.is_empty() {
        return Ok(PathBuf::new());
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/tools");
    let output = spanwire_testbed::programs::command(script)?
        .args(programs)
        .stderr(std::process::Stdio::inherit())
        .output()
        .context("cannot run benches/tools")?;
    if !output.status.success() {
        bail!("benches/tools failed");
    }
    fs::canonicalize(String::from_utf8(output.stdout)?.trim()).context("benches/tools names no folder")
}
