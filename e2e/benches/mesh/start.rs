//! All agents start on nodes that show no trace of the mesh: how long until every pod reaches every pod?

use std::{
    thread,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use spanwire_e2e::{
    Lab, Ping,
    expect::{SOON, all_reach_all, component_pod, pod_ip},
    wait_until,
};

use spanwire_e2e::report::{Report, median, spread};

/// Pings of all pairs of pods, so often that they do not wear the machine out.
const INTERVAL: Duration = Duration::from_millis(100);

/// What an agent leaves when it stops, by the names of docs/ports-and-marks.md.
const CLEAN: &str = "
    ip link del spanwire0 2>/dev/null
    for family in -4 -6; do
      ip $family rule | sed -n 's/^\\(210[0-9]\\):.*/\\1/p' | while read -r priority; do
        ip $family rule del priority $priority
      done
      ip $family route flush table 51830 2>/dev/null
      ip $family route flush table 51831 2>/dev/null
    done
    nft delete table inet spanwire
    rm -f /var/lib/spanwire/ledger.json
    true";

pub(crate) fn measure(lab: &Lab, rounds: u32, report: &mut Report) -> Result<()> {
    let mut first = Vec::new();
    let mut last = Vec::new();
    for _ in 0..rounds {
        let (from_first, from_last) = one(lab)?;
        first.push(from_first);
        last.push(from_last);
    }
    report.goal(
        "start of the last agent → all pods reach all pods",
        spread(&last),
        "median < 1 s (Kilo)",
        median(&last) < Duration::from_secs(1),
    );
    report.figure("  the same from the start of the first agent", spread(&first));
    Ok(())
}

fn one(lab: &Lab) -> Result<(Duration, Duration)> {
    schedule(lab, true)?;
    wait_until("no agent runs", SOON, || {
        let pods = lab.kubectl(["get", "pods", "-n", "spanwire", "-l", AGENTS, "-o", "name"])?;
        Ok(pods.trim().is_empty())
    })?;
    let nodes: Vec<_> = lab.layout().nodes().map(|node| node.name.clone()).collect();
    for node in &nodes {
        lab.node(node)?.sh(CLEAN)?;
    }
    let matrix = lab.ping_all()?;
    ensure!(!matrix.complete(), "nothing was cut:\n{matrix}");
    let mut pings = Vec::new();
    for from in &nodes {
        let pod = lab.pod_on(from)?;
        for to in nodes.iter().filter(|to| to.as_str() > from.as_str()) {
            pings.push(Ping::start_unanswered(&pod, pod_ip(lab, to)?, INTERVAL)?);
        }
    }
    schedule(lab, false)?;
    all_reach_all(lab)?;
    // Every ping has been answered by then.
    thread::sleep(Duration::from_secs(2));
    let mut done = Duration::ZERO;
    for ping in pings {
        done = done.max(ping.finish()?.first.context("a pair never answered")?);
    }
    let mut starts = Vec::new();
    for node in &nodes {
        starts.push(started(lab, node)?);
    }
    let since = |start: Option<&Duration>| done.saturating_sub(start.copied().unwrap_or_default());
    Ok((since(starts.iter().min()), since(starts.iter().max())))
}

const AGENTS: &str = "app.kubernetes.io/component=agent";

/// Keeps agents from all nodes, or lets them run again.
fn schedule(lab: &Lab, nowhere: bool) -> Result<()> {
    let label = if nowhere { Some("") } else { None };
    let selector = json!({"nodeSelector": {"spanwire.dev/nowhere": label}});
    let patch = json!({"spec": {"template": {"spec": selector}}}).to_string();
    let name = ["patch", "daemonset", "spanwire-agent", "-n", "spanwire"];
    lab.kubectl(name.into_iter().chain(["--type=merge", "-p", patch.as_str()]))
        .map(drop)
}

/// When the agent of a node began to run, since the epoch: the time of its first line.
fn started(lab: &Lab, node: &str) -> Result<Duration> {
    let pod = component_pod(lab, "agent", node)?;
    let log = lab.kubectl(["logs", "-n", "spanwire", &pod])?;
    let line = log.lines().next().context("the agent has said nothing")?;
    let time = line.split_whitespace().next().unwrap_or_default();
    let out = lab.node(node)?.run(["date", "-d", time, "+%s.%N"])?;
    let seconds: f64 = out.trim().parse().with_context(|| format!("no time: {line}"))?;
    let since = Duration::from_secs_f64(seconds);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    ensure!(since < now, "{line}");
    Ok(since)
}
