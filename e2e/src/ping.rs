//! Pings: a steady one that counts what is lost, and a matrix of all to all.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    thread,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, Result};
use serde::Serialize;

use crate::{
    lab::Lab,
    machine::{Background, Machine},
};

/// A ping that runs until it is finished.
#[derive(Debug)]
pub struct Ping {
    running: Background,
}

/// What became of a ping.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PingReport {
    /// Requests sent.
    pub sent: u64,
    /// Replies received.
    pub received: u64,
    /// The longest time between two replies.
    pub longest_gap: Duration,
    /// From the last reply to the end.
    pub silence: Duration,
    /// When the first reply came, since the epoch.
    pub first: Option<Duration>,
}

impl PingReport {
    /// Requests that were never answered.
    pub fn lost(&self) -> u64 {
        self.sent.saturating_sub(self.received)
    }
}

impl Ping {
    /// Starts pinging an address from a machine and waits for the first reply.
    pub fn start(from: &Machine<'_>, to: IpAddr, interval: Duration) -> Result<Self> {
        let unanswered = || format!("{to} does not answer {} to begin with", from.name());
        // A flow through the mesh may take a moment to begin, which is no loss.
        from.run(["ping", "-n", "-c", "1", "-W", "5", &to.to_string()])
            .with_context(unanswered)?;
        let mut ping = Self::start_unanswered(from, to, interval)?;
        ping.running.writes("time=").with_context(unanswered)?;
        Ok(ping)
    }

    /// Starts pinging an address that may not answer yet.
    pub fn start_unanswered(from: &Machine<'_>, to: IpAddr, interval: Duration) -> Result<Self> {
        let seconds = format!("{:.3}", interval.as_secs_f64());
        Ok(Self {
            running: from.spawn(["ping", "-n", "-D", "-i", &seconds, &to.to_string()])?,
        })
    }

    /// Ends the ping and counts.
    pub fn finish(self) -> Result<PingReport> {
        // The summary must not count a request as lost whose reply is still on its way.
        let stop = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
        let (out, err) = self.running.interrupt()?;
        parse(&out, stop).with_context(|| format!("ping said: {out}{err}"))
    }
}

fn parse(text: &str, stop: Duration) -> Result<PingReport> {
    let mut times = Vec::new();
    for line in text
        .lines()
        .filter(|line| line.contains("icmp_seq=") && line.contains("time="))
    {
        let time = line.strip_prefix('[').and_then(|rest| rest.split(']').next());
        times.push(
            time.and_then(|t| t.parse::<f64>().ok())
                .context("a reply without a time")?,
        );
    }
    let summary = text
        .lines()
        .find(|line| line.contains("packets transmitted"))
        .context("no summary")?;
    let number = |word: &str| {
        let before = summary.split(", ").find(|part| part.contains(word))?;
        before.split(' ').find_map(|n| n.parse::<u64>().ok())
    };
    let mut sent = number("transmitted").context("no count of packets sent")?;
    let received = number("received").context("no count of packets received")?;
    let last = times.last().copied().unwrap_or_default();
    if stop.as_secs_f64() - last < 0.3 {
        // The last requests may still be on the way: on a busy machine a reply takes longer than the interval.
        // A longer silence is a loss.
        sent = text.lines().filter_map(sequence).max().unwrap_or_default();
    }
    let longest = times.windows(2).map(|pair| pair[1] - pair[0]).fold(0.0, f64::max);
    Ok(PingReport {
        sent,
        received,
        longest_gap: Duration::from_secs_f64(longest),
        silence: Duration::from_secs_f64((stop.as_secs_f64() - last).max(0.0)),
        first: times.first().copied().map(Duration::from_secs_f64),
    })
}

fn sequence(line: &str) -> Option<u64> {
    let rest = line.split("icmp_seq=").nth(1)?;
    rest.split(' ').next()?.parse().ok()
}

/// Which pod reaches which address of which pod.
#[derive(Debug, Clone, Serialize)]
pub struct Matrix {
    /// The pods' nodes, in order.
    pub nodes: Vec<String>,
    /// For each node of a pod that asks: nodes of the pods asked whose addresses did not all answer.
    pub unreached: BTreeMap<String, Vec<String>>,
}

impl Lab {
    /// Pings every test pod from every test pod.
    pub fn ping_all(&self) -> Result<Matrix> {
        Matrix::measure(self)
    }
}

impl Matrix {
    /// Pings every address of every test pod from every test pod.
    pub fn measure(lab: &Lab) -> Result<Self> {
        let pods = lab.pods()?;
        let mut unreached = BTreeMap::new();
        let rows = thread::scope(|scope| {
            let asking: Vec<_> = pods
                .keys()
                .map(|node| scope.spawn(|| Ok::<_, anyhow::Error>((node.clone(), row(lab, node, &pods)?))))
                .collect();
            asking
                .into_iter()
                .map(|row| row.join().expect("no panic in a ping"))
                .collect::<Result<Vec<_>>>()
        })?;
        for (node, missing) in rows.into_iter().filter(|(_, missing)| !missing.is_empty()) {
            unreached.insert(node, missing);
        }
        Ok(Self {
            nodes: pods.into_keys().collect(),
            unreached,
        })
    }

    /// Measures again and again until all reach all, at most for so long.
    pub fn wait_complete(lab: &Lab, timeout: Duration) -> Result<Self> {
        let deadline = Instant::now() + timeout;
        loop {
            let matrix = Self::measure(lab)?;
            if matrix.complete() || Instant::now() > deadline {
                return Ok(matrix);
            }
        }
    }

    /// Returns whether all reach all.
    pub fn complete(&self) -> bool {
        self.unreached.is_empty()
    }
}

fn row(lab: &Lab, node: &str, pods: &BTreeMap<String, Vec<IpAddr>>) -> Result<Vec<String>> {
    let mut script = String::new();
    for (name, addresses) in pods {
        for address in addresses {
            script += &format!("(ping -n -c 2 -i 0.2 -W 1 {address} >/dev/null || echo {name}) & ");
        }
    }
    let mut missing: Vec<String> = lab
        .pod_on(node)?
        .sh(&(script + "wait"))?
        .lines()
        .map(str::to_owned)
        .collect();
    missing.sort();
    missing.dedup();
    Ok(missing)
}

impl std::fmt::Display for Matrix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let width = self.nodes.iter().map(String::len).max().unwrap_or(0).max(2) + 2;
        write!(f, "{:width$}", "")?;
        self.nodes
            .iter()
            .try_for_each(|node| write!(f, "{node:>width$}"))?;
        for from in &self.nodes {
            write!(f, "\n{from:width$}")?;
            for to in &self.nodes {
                let missing = self.unreached.get(from).is_some_and(|row| row.contains(to));
                write!(f, "{:>width$}", if missing { "-" } else { "ok" })?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "PING 10.0.0.1 (10.0.0.1) 56(84) bytes of data.\n\
        [100.000000] 64 bytes from 10.0.0.1: icmp_seq=1 ttl=64 time=0.05 ms\n\
        [100.010000] 64 bytes from 10.0.0.1: icmp_seq=2 ttl=64 time=0.05 ms\n\
        [100.060000] 64 bytes from 10.0.0.1: icmp_seq=7 ttl=64 time=0.05 ms\n\n\
        --- 10.0.0.1 ping statistics ---\n";

    #[test]
    fn losses_and_the_longest_gap_are_counted() {
        let text = format!("{TEXT}7 packets transmitted, 3 received, 57.1429% packet loss, time 60ms\n");
        let report = parse(&text, Duration::from_millis(100_070)).unwrap();
        assert_eq!((report.sent, report.received, report.lost()), (7, 3, 4));
        assert_eq!(report.longest_gap.as_millis(), 50);
        assert_eq!(report.silence.as_millis(), 10);
        assert_eq!(report.first, Some(Duration::from_secs(100)));
    }

    #[test]
    fn a_request_on_its_way_at_the_end_is_not_lost_but_a_silence_is() {
        let text = format!("{TEXT}8 packets transmitted, 3 received, 57% packet loss, time 60ms\n");
        assert_eq!(parse(&text, Duration::from_millis(100_070)).unwrap().lost(), 4);
        assert_eq!(parse(&text, Duration::from_secs(101)).unwrap().lost(), 5);
    }
}
