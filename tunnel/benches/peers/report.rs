//! Samples, and what they say.

use std::{collections::BTreeMap, fmt, fmt::Write as _, fs, path::Path};

use anyhow::Context;
use serde::{Deserialize, Serialize};

/// Something measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Figure {
    Tcp1,
    Tcp1Back,
    Tcp4,
    CpuPerGigabyte,
    Flood,
    LossFree,
    PingIdle,
    PingLoaded,
    Peak,
    Foreign,
    Seal,
}

const FIGURES: [(Figure, &str); 11] = [
    (Figure::Tcp1, "TCP×1 Gb/s"),
    (Figure::Tcp1Back, "TCP×1 back Gb/s"),
    (Figure::Tcp4, "TCP×4 Gb/s"),
    (Figure::CpuPerGigabyte, "CPU-s/GB"),
    (Figure::Flood, "UDP flood kpps"),
    (Figure::LossFree, "loss-free UDP kpps"),
    (Figure::PingIdle, "ping ms"),
    (Figure::PingLoaded, "ping under TCP ms"),
    (Figure::Peak, "peak RSS MB"),
    (Figure::Foreign, "foreign CPU %"),
    (Figure::Seal, "sealing ns"),
];

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

impl Figure {
    fn is_cost(self) -> bool {
        matches!(
            self,
            Self::CpuPerGigabyte
                | Self::PingIdle
                | Self::PingLoaded
                | Self::Peak
                | Self::Foreign
                | Self::Seal
        )
    }

    fn title(self) -> &'static str {
        FIGURES
            .iter()
            .find(|(figure, _)| *figure == self)
            .map_or("", |(_, title)| title)
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Sample {
    pub(crate) setup: String,
    pub(crate) engine: String,
    pub(crate) figures: BTreeMap<Figure, f64>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Machine {
    kernel: String,
    processor: String,
    cores: usize,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    machine: Machine,
    pub(crate) samples: Vec<Sample>,
}

impl Machine {
    pub(crate) fn look() -> anyhow::Result<Self> {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").context("no /proc")?;
        let model = cpuinfo
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        Ok(Self {
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")?
                .trim()
                .to_owned(),
            processor: model.map_or("unknown", |(_, model)| model).to_owned(),
            cores: std::thread::available_parallelism()?.get(),
        })
    }
}

impl Report {
    pub(crate) fn new(machine: Machine) -> Self {
        Self {
            machine,
            samples: Vec::new(),
        }
    }

    /// Samples of another machine are not added to.
    pub(crate) fn load(path: &Path) -> anyhow::Result<Self> {
        let report: Self = serde_json::from_slice(&fs::read(path)?)
            .with_context(|| format!("{} holds no samples", path.display()))?;
        anyhow::ensure!(
            report.machine == Machine::look()?,
            "the samples in {} are of another machine",
            path.display()
        );
        Ok(report)
    }

    pub(crate) fn save(&self, path: &Path) -> anyhow::Result<()> {
        fs::write(path, serde_json::to_string_pretty(self)? + "\n")
            .with_context(|| path.display().to_string())
    }

    /// All values of a figure, in order.
    fn values(&self, setup: &str, engine: &str, figure: Figure) -> Vec<f64> {
        let mut values: Vec<f64> = self
            .samples
            .iter()
            .filter(|sample| sample.setup == setup && sample.engine == engine)
            .filter_map(|sample| sample.figures.get(&figure).copied())
            .collect();
        values.sort_by(f64::total_cmp);
        values
    }

    fn median(&self, setup: &str, engine: &str, figure: Figure) -> Option<f64> {
        let values = self.values(setup, engine, figure);
        let (low, high) = (
            values.get(values.len().checked_sub(1)? / 2)?,
            values.get(values.len() / 2)?,
        );
        Some((low + high) / 2.0)
    }

    /// Markdown.
    pub(crate) fn tables(&self) -> String {
        let mut text = String::new();
        let Machine {
            kernel,
            processor,
            cores,
        } = &self.machine;
        let put = |text: &mut String, line: std::fmt::Arguments<'_>| {
            writeln!(text, "{line}").expect("writing into a string cannot fail");
        };
        put(
            &mut text,
            format_args!("Machine: {cores} cores of {processor}, Linux {kernel}.\n"),
        );
        put(
            &mut text,
            format_args!("| ratio | other | value | gate | target | |\n|---|---|---|---|---|---|"),
        );
        for (setup, figure, other, gate, target) in GATES {
            let Some(ours) = self.median(setup, OURS, figure) else {
                continue;
            };
            let theirs = if other.is_empty() {
                Some(1.0)
            } else {
                self.median(setup, other, figure)
            };
            let Some(theirs) = theirs else { continue };
            let ratio = ours / theirs;
            let within = |limit: f64| {
                if figure.is_cost() {
                    ratio <= limit
                } else {
                    ratio >= limit
                }
            };
            let verdict = verdict(within(gate), within(target));
            let title = figure.title();
            put(
                &mut text,
                format_args!("| {title}, {setup} | {other} | {ratio:.2} | {gate} | {target} | {verdict} |"),
            );
        }
        if let Some(share) = self.share_of_limit() {
            let verdict = verdict(share >= 0.75, share >= 0.85);
            put(
                &mut text,
                format_args!("| TCP×1 Gb/s, veth | own limit | {share:.2} | 0.75 | 0.85 | {verdict} |"),
            );
        }
        let mut setups: Vec<&str> = Vec::new();
        for sample in &self.samples {
            if !setups.contains(&sample.setup.as_str()) {
                setups.push(&sample.setup);
            }
        }
        for setup in setups {
            let mut engines: Vec<&str> = self
                .samples
                .iter()
                .filter(|sample| sample.setup == setup)
                .map(|sample| sample.engine.as_str())
                .collect();
            engines.sort_unstable();
            engines.dedup();
            engines.sort_by_key(|engine| *engine != OURS);
            let rounds = engines
                .iter()
                .map(|engine| self.values(setup, engine, Figure::Tcp1).len())
                .min()
                .unwrap_or(0);
            put(
                &mut text,
                format_args!("\nSet-up `{setup}`, {rounds} rounds or more, median (least–greatest):\n"),
            );
            put(
                &mut text,
                format_args!(
                    "| | {} |\n|---|{}",
                    engines.join(" | "),
                    "---|".repeat(engines.len())
                ),
            );
            for (figure, title) in FIGURES {
                if engines
                    .iter()
                    .all(|engine| self.values(setup, engine, figure).is_empty())
                {
                    continue;
                }
                let cells: Vec<String> = engines
                    .iter()
                    .map(|engine| self.cell(setup, engine, figure))
                    .collect();
                put(&mut text, format_args!("| {title} | {} |", cells.join(" | ")));
            }
        }
        text
    }

    /// The share of what the machine could do if nothing but the cipher were added to what goes without it.
    fn share_of_limit(&self) -> Option<f64> {
        let null = self.median("veth", "null-cipher", Figure::Tcp1)?;
        let seal = self.median("veth", "null-cipher", Figure::Seal)?;
        // Nanoseconds for each bit of payload.
        let limit = 1.0 / (1.0 / null + seal / (1368.0 * 8.0));
        Some(self.median("veth", OURS, Figure::Tcp1)? / limit)
    }

    fn cell(&self, setup: &str, engine: &str, figure: Figure) -> String {
        let values = self.values(setup, engine, figure);
        match (self.median(setup, engine, figure), values.first(), values.last()) {
            (Some(median), Some(least), Some(most)) => {
                format!("{} ({}–{})", short(median), short(*least), short(*most))
            }
            _ => String::new(),
        }
    }
}

fn verdict(gate: bool, target: bool) -> &'static str {
    match (gate, target) {
        (_, true) => "target met",
        (true, false) => "gate met",
        (false, false) => "**missed**",
    }
}

/// Three digits that matter.
fn short(value: f64) -> String {
    match value {
        100.0.. => format!("{value:.0}"),
        10.0..100.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (figure, value) in &self.figures {
            write!(f, "{} {}, ", figure.title(), short(*value))?;
        }
        Ok(())
    }
}

const BEGIN: &str = "<!-- measured -->\n";
const END: &str = "<!-- /measured -->\n";

/// Puts the tables between the marks of a file.
pub(crate) fn replace(path: &Path, tables: &str) -> anyhow::Result<()> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let (head, rest) = text.split_once(BEGIN).context("no mark where the tables begin")?;
    let (_, tail) = rest.split_once(END).context("no mark where the tables end")?;
    fs::write(path, format!("{head}{BEGIN}{tables}{END}{tail}")).with_context(|| path.display().to_string())
}
