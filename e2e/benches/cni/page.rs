//! Tables in Markdown, and the page that has them.

use std::{fs, path::Path};

use anyhow::{Context, Result};

use crate::{
    figures::{Figures, Measured, PROGRAMS, Round, name},
    sizes::Kept,
};

const PAGE: &str = "../docs/benchmarks-cni.md";
const BEGIN: &str = "<!-- measured -->\n";
const END: &str = "<!-- /measured -->\n";

/// Returns the tables of what was measured. Ratios are to the plain way of the same CNI.
pub(crate) fn figures(all: &[Figures]) -> String {
    let mut text = "\n| CNI | way | TCP Gb/s | of plain | UDP Gb/s | of plain | ping ms | CPU-s/GB | MTU | largest segment of TCP | \
                    foreign CPU % |\n|---|---|---|---|---|---|---|---|---|---|---|\n"
        .to_owned();
    for figures in all {
        let plain = figures.ways.first();
        text.extend(figures.ways.iter().map(|measured| row(figures, measured, plain)));
    }
    text + &memory(all)
}

fn row(figures: &Figures, measured: &Measured, plain: Option<&Measured>) -> String {
    let of = |figure: fn(&Round) -> f64| {
        let values = sorted(measured, figure);
        let middle = median(&values);
        let ends = [values.first(), values.last()].map(|value| short(value.copied().unwrap_or_default()));
        format!("{} ({}–{})", short(middle), ends[0], ends[1])
    };
    let ratio = |figure: fn(&Round) -> f64| {
        let middle = |measured: &Measured| median(&sorted(measured, figure));
        plain
            .filter(|plain| plain.way != measured.way)
            .map_or(String::new(), |plain| {
                format!("{:.2}", middle(measured) / middle(plain))
            })
    };
    let foreign = sorted(measured, |round| round.foreign);
    format!(
        "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |\n",
        name(figures.cni),
        measured.way.name(),
        of(|round| round.stream),
        ratio(|round| round.stream),
        of(|round| round.flood),
        ratio(|round| round.flood),
        of(|round| round.ping),
        of(|round| round.cost),
        measured.mtu,
        measured.segment,
        short(foreign.last().copied().unwrap_or_default()),
    )
}

fn memory(all: &[Figures]) -> String {
    let mut text = format!(
        "\n| CNI | memory in MB of the largest {} | the same with `mesh: Nodes` |\n|---|---|---|\n",
        PROGRAMS.join(", ")
    );
    for figures in all {
        let [leaders, nodes] = figures
            .memory
            .map(|memory| memory.map(|used| format!("{used:.1}")).join(", "));
        text += &format!("| {} | {leaders} | {nodes} |\n", name(figures.cni));
    }
    text
}

/// Returns the table of which packets pass.
pub(crate) fn sizes(all: &[Kept]) -> String {
    let mut text =
        "\n| CNI | MTU of the LANs | inside a | a to b | b to a |\n|---|---|---|---|---|\n".to_owned();
    for kept in all {
        let cells = kept.sizes.iter().map(|size| {
            if size.found == size.promised {
                size.found.to_string()
            } else {
                format!("{} (promised: {})", size.found, size.promised)
            }
        });
        let cells: Vec<String> = cells.collect();
        text += &format!("| {} | {} | {} |\n", name(kept.cni), kept.mtus, cells.join(" | "));
    }
    text
}

/// Puts the tables in place of those that are in the page. What was not measured stays away.
pub(crate) fn update(how: &str, measured: &[Figures], kept: &[Kept]) -> Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(PAGE);
    let page = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let (before, rest) = page
        .split_once(BEGIN)
        .context("the page has no place for the tables")?;
    let (_, after) = rest
        .split_once(END)
        .context("the place for the tables has no end")?;
    let mut tables = String::new();
    if !measured.is_empty() {
        tables += &format!(
            "On {}; {how}, median (least–greatest).\n{}",
            machine()?,
            figures(measured)
        );
    }
    if !kept.is_empty() {
        tables += &sizes(kept);
    }
    let text = format!("{before}{BEGIN}{}\n{END}{after}", tables.trim_end());
    fs::write(&path, text).with_context(|| path.display().to_string())
}

/// Describes the machine: what figures depend on.
fn machine() -> Result<String> {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo")?;
    let mut models = cpuinfo
        .lines()
        .filter_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = models.next().map_or("an unknown processor", |(_, model)| model);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let cores = std::thread::available_parallelism()?;
    Ok(format!("{cores} cores of {model}, Linux {}", kernel.trim()))
}

fn sorted(measured: &Measured, figure: impl Fn(&Round) -> f64) -> Vec<f64> {
    let mut values: Vec<f64> = measured.rounds.iter().map(figure).collect();
    values.sort_by(f64::total_cmp);
    values
}

fn median(sorted: &[f64]) -> f64 {
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

/// Three digits that matter.
fn short(value: f64) -> String {
    match value {
        100.0.. => format!("{value:.0}"),
        10.0..100.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}
