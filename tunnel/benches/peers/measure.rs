//! What is measured, and how it is kept from being disturbed.

use std::{
    collections::BTreeMap,
    fs, thread,
    time::{Duration, Instant},
};

use crate::{
    iperf::{Ping, Server, client},
    record::Figure,
    world::{World, cpu_of},
};

/// A share of the machine that others may use before a sample is taken again.
const FOREIGN: f64 = 0.03;
const ATTEMPTS: usize = 3;
/// Payload of a datagram that fills the tunnel's MTU of 1420.
const DATAGRAM: &str = "1392";
const DATAGRAM_BITS: f64 = 1392.0 * 8.0;
/// How often a rate may fail: one hiccup of the machine in a second is not the device's fault.
const TRIES: usize = 2;
/// What the receiving program can hold, so that the devices are measured and not that program.
const BUFFER: u32 = 4 << 20;
/// Losses up to this share are none: one packet of a stream may fall to the machine's scheduler.
const LOSS_FREE: f64 = 0.0005;

pub(crate) struct Plan {
    pub(crate) seconds: u32,
    pub(crate) short: bool,
}

pub(crate) type Figures = BTreeMap<Figure, f64>;

impl Plan {
    pub(crate) fn measure(&self, world: &World) -> anyhow::Result<Figures> {
        let _server = Server::start(world);
        let mut figures = Figures::new();
        undisturbed(&mut figures, || {
            let idle = Ping::start(world, 2, 100).finish()?;
            Ok(Figures::from([(Figure::PingIdle, idle)]))
        })?;
        undisturbed(&mut figures, || {
            let ping = Ping::start(world, self.seconds, 20);
            let before = world.cpu();
            let arrived = client(world, self.seconds, &[])?;
            let cost = (world.cpu() - before) / (arrived.bytes * 1e-9);
            Ok(Figures::from([
                (Figure::Tcp1, arrived.gigabits()),
                (Figure::CpuPerGigabyte, cost),
                (Figure::PingLoaded, ping.finish()?),
            ]))
        })?;
        if !self.short {
            undisturbed(&mut figures, || {
                let back = client(world, self.seconds, &["-R"])?.gigabits();
                Ok(Figures::from([(Figure::Tcp1Back, back)]))
            })?;
            undisturbed(&mut figures, || {
                let four = client(world, self.seconds, &["-P", "4"])?.gigabits();
                Ok(Figures::from([(Figure::Tcp4, four)]))
            })?;
            self.datagrams(world, &mut figures)?;
        }
        figures.insert(Figure::Peak, world.peak());
        Ok(figures)
    }

    /// Floods, then looks for the highest rate at which nothing is lost.
    fn datagrams(&self, world: &World, figures: &mut Figures) -> anyhow::Result<()> {
        let most = fs::read_to_string("/proc/sys/net/core/rmem_max")?;
        let buffer = most.trim().parse::<u32>()?.min(BUFFER).to_string();
        undisturbed(figures, || {
            let words = ["-u", "-b", "0", "-l", DATAGRAM, "-w", &buffer];
            let flood = client(world, self.seconds, &words)?;
            let received = (flood.packets - flood.lost) / flood.seconds;
            Ok(Figures::from([(Figure::Flood, received / 1000.0)]))
        })?;
        undisturbed(figures, || {
            let (mut good, mut bad) = (0.0_f64, 320.0_f64);
            while bad - good > good.max(10.0) * 0.06 {
                let rate = (good + bad) / 2.0;
                let bits = format!("{:.0}", rate * 1000.0 * DATAGRAM_BITS);
                let words = [
                    "-u",
                    "-b",
                    &bits,
                    "-l",
                    DATAGRAM,
                    "-w",
                    &buffer,
                    "--pacing-timer",
                    "200",
                ];
                let (mut lost, mut sent) = (true, 0.0);
                for _ in 0..TRIES {
                    let arrived = client(world, 1, &words)?;
                    lost = arrived.lost > arrived.packets * LOSS_FREE;
                    sent = arrived.packets / arrived.seconds / 1000.0;
                    if !lost {
                        break;
                    }
                }
                // A sender that does not reach the rate has shown what it can do.
                if lost {
                    bad = rate;
                } else if sent < rate * 0.9 {
                    good = good.max(sent);
                    bad = rate.min(sent * 1.06);
                } else {
                    good = rate;
                }
            }
            Ok(Figures::from([(Figure::LossFree, good)]))
        })
    }
}

/// Measures again while others are busy. What stays disturbed says so.
fn undisturbed(
    figures: &mut Figures,
    mut measure: impl FnMut() -> anyhow::Result<Figures>,
) -> anyhow::Result<()> {
    let mut least = f64::INFINITY;
    for _ in 0..ATTEMPTS {
        let (start, before) = (Instant::now(), foreign());
        let found = measure()?;
        let cores = thread::available_parallelism().map_or(1, usize::from) as f64;
        let used = (foreign() - before).max(0.0) / (start.elapsed().as_secs_f64() * cores);
        if used < least {
            least = used;
            figures.extend(found);
        }
        if used <= FOREIGN {
            break;
        }
        thread::sleep(Duration::from_secs(2));
    }
    let worst = figures.entry(Figure::Foreign).or_default();
    *worst = worst.max(least * 100.0);
    Ok(())
}

/// CPU seconds so far of all processes that are neither the kernel's nor descend from this one, and of other machines
/// that share the processor.
fn foreign() -> f64 {
    let processes: BTreeMap<u32, (f64, u32)> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|pid| Some((pid, cpu_of(pid)?)))
        .collect();
    let is_foreign = |mut pid: u32| {
        while let Some((_, parent)) = processes.get(&pid) {
            if pid == std::process::id() || pid == 2 {
                return false;
            }
            pid = *parent;
        }
        true
    };
    processes
        .iter()
        .filter(|(pid, _)| is_foreign(**pid))
        .map(|(_, (seconds, _))| seconds)
        .sum::<f64>()
        + stolen()
}

fn stolen() -> f64 {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let ticks = stat
        .split_whitespace()
        .nth(8)
        .and_then(|ticks| ticks.parse::<f64>().ok());
    ticks.unwrap_or_default() / 100.0
}
