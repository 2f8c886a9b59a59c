//! Samples as tables in Markdown: ratios of all machines side by side, then a section for each machine.

use std::{fmt::Write as _, fs, path::Path};

use anyhow::Context;

use crate::record::{FIGURES, Figure, Record, Sample, short, write};

const OURS: &str = "spanwire";

/// A gate: set-up, figure, the other engine, the least (or for costs the greatest) ratio, and the one aimed at.
const GATES: [(&str, Figure, &str, f64, f64); 11] = [
    ("veth", Figure::Tcp1, "wireguard-go", 1.45, 1.8),
    ("core", Figure::Tcp1, "wireguard-go", 1.25, 1.5),
    ("no-udp-segmentation", Figure::Tcp1, "wireguard-go", 1.05, 1.25),
    ("veth", Figure::Tcp1, "boringtun", 8.0, 10.0),
    ("veth", Figure::Tcp1, "boringtun1", 4.5, 6.0),
    ("veth", Figure::CpuPerGigabyte, "wireguard-go", 0.6, 0.5),
    ("veth", Figure::LossFree, "wireguard-go", 2.0, 2.5),
    ("veth", Figure::Flood, "wireguard-go", 3.5, 5.0),
    ("veth", Figure::PingIdle, "wireguard-go", 0.6, 0.45),
    ("veth", Figure::PingLoaded, "wireguard-go", 1.0, 0.5),
    ("veth", Figure::Peak, "", 16.0, 12.0),
];

/// The least and the intended share of what the machine could do if nothing but the cipher were added to what goes
/// without.
const SHARE: (f64, f64) = (0.75, 0.85);

/// Renders everything.
pub(crate) fn render(record: &Record) -> String {
    let mut text = ratios(record);
    for (machine, samples) in record.machines() {
        put(&mut text, format_args!("\n## {machine}"));
        for setup in setups(samples) {
            figures(&mut text, samples, setup);
        }
    }
    text
}

fn put(text: &mut String, line: std::fmt::Arguments<'_>) {
    writeln!(text, "{line}").expect("writing into a string cannot fail");
}

/// One column for each machine; a ratio that none of them has is left out.
fn ratios(record: &Record) -> String {
    let machines: Vec<_> = record.machines().collect();
    let titles: Vec<&str> = machines.iter().map(|(machine, _)| *machine).collect();
    let mut text = String::new();
    put(
        &mut text,
        format_args!(
            "| ratio | other | gate | target | {} |\n|---|---|---|---|{}",
            titles.join(" | "),
            "---|".repeat(titles.len())
        ),
    );
    let mut row = |title: &str,
                   other: &str,
                   cost: bool,
                   (gate, target): (f64, f64),
                   ratio: &dyn Fn(&[Sample]) -> Option<f64>| {
        let ratios: Vec<_> = machines.iter().map(|(_, samples)| ratio(samples)).collect();
        if ratios.iter().all(Option::is_none) {
            return;
        }
        let cell = |ratio: &Option<f64>| {
            let within = |ratio: f64, limit: f64| if cost { ratio <= limit } else { ratio >= limit };
            ratio.map_or_else(String::new, |ratio| {
                format!(
                    "{ratio:.2} {}",
                    verdict(within(ratio, gate), within(ratio, target))
                )
            })
        };
        let cells: Vec<String> = ratios.iter().map(cell).collect();
        put(
            &mut text,
            format_args!(
                "| {title} | {other} | {gate} | {target} | {} |",
                cells.join(" | ")
            ),
        );
    };
    for (setup, figure, other, gate, target) in GATES {
        let title = format!("{}, {setup}", figure.title());
        row(&title, other, figure.is_cost(), (gate, target), &|samples| {
            let theirs = if other.is_empty() {
                1.0
            } else {
                median(samples, setup, other, figure)?
            };
            Some(median(samples, setup, OURS, figure)? / theirs)
        });
    }
    row("TCP×1 Gb/s, veth", "own limit", false, SHARE, &share_of_limit);
    text
}

/// One table: a row for each figure, a column for each engine.
fn figures(text: &mut String, samples: &[Sample], setup: &str) {
    let mut engines: Vec<&str> = samples
        .iter()
        .filter(|sample| sample.setup == setup)
        .map(|sample| sample.engine.as_str())
        .collect();
    engines.sort_unstable();
    engines.dedup();
    engines.sort_by_key(|engine| *engine != OURS);
    let rounds = engines
        .iter()
        .map(|engine| values(samples, setup, engine, Figure::Tcp1).len())
        .min()
        .unwrap_or(0);
    put(
        text,
        format_args!("\nSet-up `{setup}`, {rounds} rounds or more, median (least–greatest):\n"),
    );
    put(
        text,
        format_args!(
            "| | {} |\n|---|{}",
            engines.join(" | "),
            "---|".repeat(engines.len())
        ),
    );
    for (figure, title) in FIGURES {
        let cells: Vec<String> = engines
            .iter()
            .map(|engine| cell(samples, setup, engine, figure))
            .collect();
        if cells.iter().any(|cell| !cell.is_empty()) {
            put(text, format_args!("| {title} | {} |", cells.join(" | ")));
        }
    }
}

/// Returns the set-ups in the order in which they were measured first.
fn setups(samples: &[Sample]) -> Vec<&str> {
    let mut setups: Vec<&str> = Vec::new();
    for sample in samples {
        if !setups.contains(&sample.setup.as_str()) {
            setups.push(&sample.setup);
        }
    }
    setups
}

/// Returns all values of a figure, in order.
fn values(samples: &[Sample], setup: &str, engine: &str, figure: Figure) -> Vec<f64> {
    let mut values: Vec<f64> = samples
        .iter()
        .filter(|sample| sample.setup == setup && sample.engine == engine)
        .filter_map(|sample| sample.figures.get(&figure).copied())
        .collect();
    values.sort_by(f64::total_cmp);
    values
}

fn median(samples: &[Sample], setup: &str, engine: &str, figure: Figure) -> Option<f64> {
    let values = values(samples, setup, engine, figure);
    let (low, high) = (
        values.get(values.len().checked_sub(1)? / 2)?,
        values.get(values.len() / 2)?,
    );
    Some((low + high) / 2.0)
}

/// Returns the share of what the machine could do if nothing but the cipher were added to what goes without it.
fn share_of_limit(samples: &[Sample]) -> Option<f64> {
    let null = median(samples, "veth", "null-cipher", Figure::Tcp1)?;
    let seal = median(samples, "veth", "null-cipher", Figure::Seal)?;
    // Nanoseconds for each bit of payload.
    let limit = 1.0 / (1.0 / null + seal / (1368.0 * 8.0));
    Some(median(samples, "veth", OURS, Figure::Tcp1)? / limit)
}

fn cell(samples: &[Sample], setup: &str, engine: &str, figure: Figure) -> String {
    let values = values(samples, setup, engine, figure);
    match (
        median(samples, setup, engine, figure),
        values.first(),
        values.last(),
    ) {
        (Some(median), Some(least), Some(most)) => {
            format!("{} ({}–{})", short(median), short(*least), short(*most))
        }
        _ => String::new(),
    }
}

fn verdict(gate: bool, target: bool) -> &'static str {
    match (gate, target) {
        (_, true) => "target met",
        (true, false) => "gate met",
        (false, false) => "**missed**",
    }
}

const BEGIN: &str = "<!-- measured -->\n";
const END: &str = "<!-- /measured -->\n";

/// Puts the tables between the marks of a file.
pub(crate) fn replace(path: &Path, tables: &str) -> anyhow::Result<()> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let (head, rest) = text.split_once(BEGIN).context("no mark where the tables begin")?;
    let (_, tail) = rest.split_once(END).context("no mark where the tables end")?;
    write(path, &format!("{head}{BEGIN}{tables}{END}{tail}"))
}
