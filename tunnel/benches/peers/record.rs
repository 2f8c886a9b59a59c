//! Samples, kept by machine.

use std::{collections::BTreeMap, fmt, fs, path::Path};

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

pub(crate) const FIGURES: [(Figure, &str); 11] = [
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

impl Figure {
    pub(crate) fn is_cost(self) -> bool {
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

    pub(crate) fn title(self) -> &'static str {
        FIGURES
            .iter()
            .find(|(figure, _)| *figure == self)
            .map_or("", |(_, title)| title)
    }
}

/// What one run of an engine gave.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Sample {
    pub(crate) setup: String,
    pub(crate) engine: String,
    pub(crate) figures: BTreeMap<Figure, f64>,
}

impl Sample {
    /// Rounds to six decimals: more is noise, and so many survive being read and written again.
    fn rounded(mut self) -> Self {
        for value in self.figures.values_mut() {
            *value = (*value * 1e6).round() / 1e6;
        }
        self
    }
}

/// Samples by the description of the machine on which they were taken: absolute figures of two machines say nothing about
/// each other, so they are never mixed.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Record(BTreeMap<String, Vec<Sample>>);

impl Record {
    /// Reads a file; one that is not there yet holds no samples.
    pub(crate) fn load(path: &Path) -> anyhow::Result<Self> {
        if !path.exists() {
            return Ok(Self::default());
        }
        serde_json::from_slice(&fs::read(path)?)
            .with_context(|| format!("{} holds no samples", path.display()))
    }

    /// Writes a file, and the folder that it is in.
    pub(crate) fn save(&self, path: &Path) -> anyhow::Result<()> {
        write(path, &(serde_json::to_string_pretty(self)? + "\n"))
    }

    /// Adds samples to those that this machine has.
    pub(crate) fn add(&mut self, machine: &str, samples: impl IntoIterator<Item = Sample>) {
        let samples = samples.into_iter().map(Sample::rounded);
        self.0.entry(machine.to_owned()).or_default().extend(samples);
    }

    /// Returns every machine with its samples.
    pub(crate) fn machines(&self) -> impl Iterator<Item = (&str, &[Sample])> {
        self.0
            .iter()
            .map(|(machine, samples)| (machine.as_str(), samples.as_slice()))
    }
}

/// Describes the machine this runs on: what figures depend on.
pub(crate) fn machine() -> anyhow::Result<String> {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").context("no /proc")?;
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or("unknown", |(_, model)| model);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let cores = std::thread::available_parallelism()?;
    Ok(format!("{cores} cores of {model}, Linux {}", kernel.trim()))
}

/// Writes a file, and the folder that it is in.
pub(crate) fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    }
    fs::write(path, text).with_context(|| path.display().to_string())
}

/// Three digits that matter.
pub(crate) fn short(value: f64) -> String {
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
