//! How much of the node's processors is spent for some seconds, and on what, from `/proc/stat` (proc(5)).

use std::{fs, time::Duration};

use serde_json::{Value, json};
use tokio::time::sleep;

/// The file is that of the whole machine, also in a container.
const STAT: &str = "/proc/stat";
/// user, nice, system, idle, iowait, irq, softirq, steal; the two times of guests that follow are in the first two.
const KINDS: usize = 8;

/// What all processors have done since the boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Reading {
    processors: usize,
    ticks: [u64; KINDS],
}

/// The shares of the time between two readings, from 0 to 1 for all processors together.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Spent {
    busy: f64,
    user: f64,
    /// Of the kernel but for softirq: the threads of its WireGuard, and interrupts.
    system: f64,
    softirq: f64,
    /// What the hypervisor gave to others.
    stolen: f64,
}

/// Returns what share of the processors was spent in that time.
///
/// # Errors
/// Why that is not known.
pub async fn measure(time: Duration) -> Result<Value, String> {
    let before = read()?;
    sleep(time).await;
    let after = read()?;
    let spent = after
        .since(&before)
        .ok_or_else(|| format!("{STAT} does not count time"))?;
    Ok(json!({
        "processors": after.processors,
        "busy": spent.busy,
        "user": spent.user,
        "system": spent.system,
        "softirq": spent.softirq,
        "stolen": spent.stolen,
    }))
}

fn read() -> Result<Reading, String> {
    let text = fs::read_to_string(STAT).map_err(|error| format!("{STAT} cannot be read: {error}"))?;
    Reading::parse(&text).ok_or_else(|| format!("{STAT} is not as proc(5) says"))
}

impl Reading {
    fn parse(text: &str) -> Option<Self> {
        let processor = |line: &str| {
            let number = line.split_whitespace().next()?.strip_prefix("cpu")?;
            number.parse::<u32>().ok()
        };
        let all = text.lines().find_map(|line| line.strip_prefix("cpu "))?;
        let mut fields = all.split_whitespace();
        let mut ticks = [0; KINDS];
        for kind in &mut ticks {
            *kind = fields.next()?.parse().ok()?;
        }
        Some(Self {
            processors: text.lines().filter_map(processor).count(),
            ticks,
        })
    }

    /// Returns the shares of the time since another reading; `None`: there was none.
    #[expect(clippy::cast_precision_loss, reason = "a share for people")]
    fn since(&self, before: &Self) -> Option<Spent> {
        // Of a processor that was switched off meanwhile, and with some kernels of iowait, less is counted than before.
        let mut grown = self.ticks;
        for (now, before) in grown.iter_mut().zip(before.ticks) {
            *now = now.saturating_sub(before);
        }
        let [user, nice, system, idle, iowait, irq, softirq, stolen] = grown.map(|ticks| ticks as f64);
        let busy = user + nice + system + irq + softirq;
        let total = busy + idle + iowait + stolen;
        (total > 0.0).then(|| Spent {
            busy: busy / total,
            user: (user + nice) / total,
            system: (system + irq) / total,
            softirq: softirq / total,
            stolen: stolen / total,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str =
        "cpu  1 2 3 4 5 6 7 8 9 10\ncpu0 1 2 3 4 5 6 7 8 9 10\ncpu1 0 0 0 0 0 0 0 0 0 0\nintr 1 2\nctxt 3\n";

    fn reading(ticks: [u64; KINDS]) -> Reading {
        Reading { processors: 1, ticks }
    }

    #[test]
    fn the_line_of_all_processors_is_read() {
        let expected = Reading {
            processors: 2,
            ticks: [1, 2, 3, 4, 5, 6, 7, 8],
        };
        assert_eq!(Reading::parse(TEXT), Some(expected));
    }

    #[test]
    fn what_is_too_short_or_no_number_is_no_reading() {
        for text in [
            "",
            "cpu",
            "cpu ",
            "cpu  1 2 3 4 5 6 7",
            "cpu  1 2 3 4 5 6 7 x",
            "cpu  1 2 3 4 5 6 7 -8",
            "cpu  1 2 3 4 5 6 7 18446744073709551616",
            "cpu0 1 2 3 4 5 6 7 8",
            " cpu  1 2 3 4 5 6 7 8",
        ] {
            assert_eq!(Reading::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn shares_are_of_the_time_between() {
        let before = reading([100; KINDS]);
        let after = reading([110, 105, 120, 140, 105, 105, 110, 105]);
        let spent = after.since(&before).unwrap();
        let expected = Spent {
            busy: 0.5,
            user: 0.15,
            system: 0.25,
            softirq: 0.1,
            stolen: 0.05,
        };
        assert_eq!(spent, expected);
    }

    #[test]
    fn counters_that_fall_and_huge_ones_make_no_share_beyond_all() {
        let fallen = reading([0, 0, 0, 50, 0, 0, 0, 0]).since(&reading([9, 9, 9, 0, 9, 9, 9, 9]));
        assert_eq!(fallen.unwrap().busy, 0.0);
        let huge = reading([u64::MAX; KINDS]).since(&reading([0; KINDS])).unwrap();
        assert!((0.62..0.63).contains(&huge.busy), "{huge:?}");
        assert_eq!(reading([7; KINDS]).since(&reading([7; KINDS])), None);
    }

    #[tokio::test]
    async fn this_machine_is_measured() {
        let found = measure(Duration::from_millis(300)).await.unwrap();
        let share = |of: &str| found[of].as_f64().filter(|share| (0.0..=1.0).contains(share));
        for of in ["busy", "user", "system", "softirq", "stolen"] {
            assert!(share(of).is_some(), "{of}: {found}");
        }
        let processors = std::thread::available_parallelism().unwrap().get();
        assert!(found["processors"].as_u64() >= Some(processors as u64), "{found}");
    }
}
