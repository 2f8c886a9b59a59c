//! Processor time that the hypervisor gives to other machines: what is tried again without it fails again.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

/// Over so long it is looked at.
const WINDOW: Duration = Duration::from_secs(2);
/// A tenth of the time may be missing.
const BEARABLE: f64 = 0.1;
/// It may go on for hours.
const PATIENCE: Duration = Duration::from_secs(120);

/// Waits until hardly any processor time is stolen, or for two minutes.
///
/// # Errors
/// When the machine does not say how much is.
pub(crate) fn wait_for_processors() -> Result<()> {
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        let before = Ticks::now()?;
        thread::sleep(WINDOW);
        if share(before, Ticks::now()?) <= BEARABLE {
            break;
        }
    }
    Ok(())
}

/// The ticks of all processors since the machine booted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ticks {
    all: u64,
    stolen: u64,
}

impl Ticks {
    fn now() -> Result<Self> {
        let stat = fs::read_to_string("/proc/stat")?;
        parse(&stat).context("/proc/stat has no line of all processors")
    }
}

/// Reads what proc_stat(5) has: user, nice, system, idle, iowait, irq, softirq, steal; what follows is among the first two.
fn parse(stat: &str) -> Option<Ticks> {
    let all = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let of_kinds: Vec<u64> = all
        .split_whitespace()
        .take(8)
        .map(|ticks| ticks.parse().ok())
        .collect::<Option<_>>()?;
    Some(Ticks {
        all: of_kinds.iter().sum(),
        stolen: *of_kinds.get(7)?,
    })
}

/// The share of the time between two looks that was stolen, from 0 to 1.
fn share(before: Ticks, now: Ticks) -> f64 {
    let stolen = now.stolen.saturating_sub(before.stolen);
    stolen as f64 / now.all.saturating_sub(before.all).max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_have_of_the_processors_is_a_share_of_all_their_time() {
        let before = parse("cpu  100 10 50 800 5 0 5 30 7 7\ncpu0 1 1 1 1 1 1 1 1 0 0\n").unwrap();
        assert_eq!(
            before,
            Ticks {
                all: 1000,
                stolen: 30
            }
        );
        let now = parse("cpu  150 10 70 800 5 0 5 160 7 7\n").unwrap();
        assert!((share(before, now) - 0.65).abs() < 1e-9, "{}", share(before, now));
        assert!(share(before, before) < 1e-9);
        assert_eq!(parse("cpu0 1 1 1 1 1 1 1 1 0 0\n"), None);
        assert_eq!(parse("cpu  1 2 3\n"), None);
    }
}
