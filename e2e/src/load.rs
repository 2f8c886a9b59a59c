//! Load between the pods of two nodes: how much passes, how long an answer takes, and what of the machine that needs.

use std::{fs, net::IpAddr, thread, time::Duration};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{
    cgroup,
    expect::{pid, pod_ip},
    lab::Lab,
    machine::{Background, Machine},
};

/// No other program in the pods listens here.
const PORT: &str = "5298";
/// Payload of a datagram, which fits in every tunnel of the lab with the smallest MTU.
const DATAGRAM: &str = "1152";
/// How often a server that is still busy with the client before is asked.
const ATTEMPTS: usize = 5;

/// Two pods, in the second of which a server of iperf3 runs.
#[derive(Debug)]
pub struct Load<'a> {
    from: Machine<'a>,
    to: IpAddr,
    _server: Background,
}

/// What arrived.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Arrived {
    /// So many bytes, without headers.
    pub bytes: f64,
    /// In so many seconds.
    pub seconds: f64,
    /// The largest segment of TCP, in bytes; 0 for datagrams.
    pub segment: u32,
    /// What iperf3 itself needed of the processors at both ends: it is started from outside of the lab, and is none of its processes.
    pub busy: Duration,
}

impl Arrived {
    /// Returns the throughput in Gb/s.
    #[must_use]
    pub fn gigabits(&self) -> f64 {
        if self.seconds > 0.0 {
            self.bytes * 8e-9 / self.seconds
        } else {
            0.0
        }
    }
}

impl<'a> Load<'a> {
    /// Starts the server.
    pub fn start(lab: &'a Lab, from: &str, to: &str) -> Result<Self> {
        let mut server = lab
            .pod_on(to)?
            .spawn(["iperf3", "-s", "-p", PORT, "--forceflush"])?;
        server.writes("Server listening")?;
        Ok(Self {
            from: lab.pod_on(from)?,
            to: pod_ip(lab, to)?,
            _server: server,
        })
    }

    /// Sends one stream of TCP for so many seconds.
    pub fn stream(&self, seconds: u32) -> Result<Arrived> {
        self.client(seconds, &[]).and_then(|said| of_stream(&said))
    }

    /// Sends datagrams as fast as it can for so many seconds.
    pub fn flood(&self, seconds: u32) -> Result<Arrived> {
        self.client(seconds, &["-u", "-b", "0", "-l", DATAGRAM])
            .and_then(|said| of_flood(&said))
    }

    /// Returns the mean round trip of so many echo requests, one after another every 10 ms, in milliseconds.
    pub fn round_trip(&self, requests: u32) -> Result<f64> {
        let (count, to) = (requests.to_string(), self.to.to_string());
        let said = self
            .from
            .run(["ping", "-n", "-q", "-i", "0.01", "-W", "1", "-c", &count, &to])?;
        mean(&said).with_context(|| format!("ping said: {said}"))
    }

    fn client(&self, seconds: u32, words: &[&str]) -> Result<Value> {
        let (seconds, to) = (seconds.to_string(), self.to.to_string());
        let client = [
            "iperf3",
            "-J",
            "--connect-timeout",
            "3000",
            "-p",
            PORT,
            "-c",
            &to,
            "-t",
            &seconds,
        ];
        let mut last = String::new();
        for _ in 0..ATTEMPTS {
            let finished = self.from.finish(client.iter().chain(words))?;
            let said: Value = serde_json::from_str(&finished.stdout)
                .with_context(|| format!("iperf3 said: {}{}", finished.stdout, finished.stderr))?;
            match said["error"].as_str() {
                None => return Ok(said),
                Some(error) => error.clone_into(&mut last),
            }
            thread::sleep(Duration::from_millis(300));
        }
        bail!("iperf3 fails again and again: {last}")
    }
}

fn of_stream(said: &Value) -> Result<Arrived> {
    let sum = &said["end"]["sum_received"];
    let segment = said["start"]["tcp_mss_default"].as_u64().unwrap_or(0);
    let seconds = number(sum, "seconds")?;
    Ok(Arrived {
        bytes: number(sum, "bytes")?,
        seconds,
        segment: u32::try_from(segment)?,
        busy: busy_ends(said, seconds)?,
    })
}

fn busy_ends(said: &Value, seconds: f64) -> Result<Duration> {
    let shares = &said["end"]["cpu_utilization_percent"];
    let percent = number(shares, "host_total")? + number(shares, "remote_total")?;
    Ok(Duration::try_from_secs_f64(percent / 100.0 * seconds)?)
}

fn of_flood(said: &Value) -> Result<Arrived> {
    let sum = &said["end"]["sum"];
    let (sent, lost) = (number(sum, "packets")?, number(sum, "lost_packets")?);
    let share = if sent > 0.0 { (sent - lost) / sent } else { 0.0 };
    let seconds = number(sum, "seconds")?;
    Ok(Arrived {
        bytes: number(sum, "bytes")? * share,
        seconds,
        segment: 0,
        busy: busy_ends(said, seconds)?,
    })
}

fn number(of: &Value, key: &str) -> Result<f64> {
    of[key]
        .as_f64()
        .with_context(|| format!("iperf3 says no {key}: {of}"))
}

fn mean(said: &str) -> Option<f64> {
    let line = said
        .lines()
        .find_map(|line| line.strip_prefix("rtt min/avg/max/mdev = "))?;
    line.split('/').nth(1)?.parse().ok()
}

/// What has been used so far of the machine's processors.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Used {
    /// By what runs in the lab, and by the kernel's threads that handle packets.
    pub lab: Duration,
    /// By everything.
    pub all: Duration,
}

impl Used {
    /// Returns what has been used up to now.
    pub fn now(lab: &Lab) -> Result<Self> {
        let threads = packet_threads()?;
        Ok(Self {
            lab: cgroup::used(&lab.record.cgroups)? + threads,
            all: busy(&fs::read_to_string("/proc/stat")?).context("no processor time in /proc/stat")?,
        })
    }

    /// Returns what has been used since then.
    #[must_use]
    pub fn since(self, then: Self) -> Self {
        Self {
            lab: self.lab.saturating_sub(then.lab),
            all: self.all.saturating_sub(then.all),
        }
    }

    /// Returns the same with what those programs needed that were started from outside.
    #[must_use]
    pub fn with(self, busy: Duration) -> Self {
        Self {
            lab: self.lab + busy,
            ..self
        }
    }

    /// Returns what others than the lab have used.
    #[must_use]
    pub fn foreign(self) -> Duration {
        self.all.saturating_sub(self.lab)
    }
}

/// The kernel's unit of time in /proc, in milliseconds (proc_stat(5), `USER_HZ`).
const TICK: u64 = 10;

/// Returns the time that all processors were busy, by the first line of /proc/stat (proc_stat(5)): not idle, nor waiting for a disk, nor
/// taken by other machines. What guests use is in what users use.
fn busy(stat: &str) -> Option<Duration> {
    let fields: Vec<u64> = stat
        .lines()
        .next()?
        .split_whitespace()
        .skip(1)
        .map_while(|field| field.parse().ok())
        .collect();
    let [user, nice, system, _, _, irq, softirq, ..] = fields[..] else {
        return None;
    };
    let ticks: u64 = [user, nice, system, irq, softirq].iter().sum();
    Some(Duration::from_millis(TICK * ticks))
}

/// Returns the time of the threads that handle packets where no process can be charged for it.
fn packet_threads() -> Result<Duration> {
    let mut ticks = 0;
    for entry in fs::read_dir("/proc")?.flatten() {
        // One that has ended meanwhile has no file any more.
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else {
            continue;
        };
        if stat.contains("(ksoftirqd/") {
            ticks += ticks_of(&stat).context("a stat line")?;
        }
    }
    Ok(Duration::from_millis(TICK * ticks))
}

/// Reads user and system time, fields 14 and 15 (proc_pid_stat(5)); the name before may hold spaces.
fn ticks_of(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut times = fields
        .split(' ')
        .skip(11)
        .map_while(|field| field.parse::<u64>().ok());
    Some(times.next()? + times.next()?)
}

/// Returns the resident memory of one of our programs on a node, in MB of 10⁶ bytes.
pub fn memory(lab: &Lab, node: &str, program: &str) -> Result<f64> {
    let pid = pid(lab, node, program)?;
    let status = lab.node(node)?.run(["cat", &format!("/proc/{pid}/status")])?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib: f64 = line
        .and_then(|line| line.split_whitespace().next())
        .context("no memory")?
        .parse()?;
    Ok(kib * 1024.0 / 1e6)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn of_a_flood_counts_what_was_not_lost() {
        let shares = json!({"host_total": 40.0, "host_user": 3.0, "remote_total": 85.0});
        let said = json!({"end": {"sum": {"bytes": 1000, "seconds": 2.0, "packets": 10, "lost_packets": 4},
            "cpu_utilization_percent": shares}});
        let arrived = of_flood(&said).unwrap();
        assert!((arrived.bytes - 600.0).abs() < 1e-9, "{arrived:?}");
        let said = json!({"start": {"tcp_mss_default": 1388},
            "end": {"sum_sent": {"bytes": 9}, "sum_received": {"bytes": 250_000_000, "seconds": 2.0},
                "cpu_utilization_percent": shares}});
        let arrived = of_stream(&said).unwrap();
        assert!((arrived.gigabits() - 1.0).abs() < 1e-9, "{arrived:?}");
        assert_eq!(
            (arrived.segment, arrived.busy),
            (1388, Duration::from_millis(2500))
        );
    }

    #[test]
    fn processor_time_is_read_from_proc() {
        let stat = "cpu  100 20 30 4000 50 6 7 8 9 0\ncpu0 1 2 3 4 5 6 7 8 9 0\n";
        assert_eq!(busy(stat), Some(Duration::from_millis(1630)));
        let stat = "16 (ksoftirqd/0 x) S 2 0 0 0 -1 69238848 0 0 0 0 3 40 0 0 20 0 1 0";
        assert_eq!(ticks_of(stat), Some(43));
    }

    #[test]
    fn the_mean_of_round_trips_is_read() {
        let said = "9 packets transmitted\nrtt min/avg/max/mdev = 0.030/0.251/1.2/0.1 ms\n";
        assert_eq!(mean(said), Some(0.251));
    }
}
