//! What happens, and what it costs, when nothing happens.

use std::{collections::BTreeMap, thread, time::Duration};

use anyhow::{Context, Result};
use spanwire_e2e::{
    Background, Lab,
    expect::{all_reach_all, pid, writes},
};

use spanwire_e2e::report::Report;

/// What agents watch.
const WATCHED: [&str; 3] = ["meshnodes", "locationslices", "peers"];

pub(crate) fn measure(lab: &Lab, rest: Duration, report: &mut Report) -> Result<()> {
    all_reach_all(lab)?;
    // What the moves before have set off must have ended.
    thread::sleep(Duration::from_secs(30));
    let processes = processes(lab)?;
    let watches = watches(lab, rest)?;
    let (writes_before, cpu_before) = (writes(lab)?, cpu(lab, &processes)?);
    thread::sleep(rest);
    let (writes_after, cpu_after) = (writes(lab)?, cpu(lab, &processes)?);
    report_writes(&writes_before, &writes_after, rest, report);
    report_events(watches, report)?;
    report_costs(lab, &processes, &cpu_before, &cpu_after, rest, report)
}

fn report_writes(
    before: &BTreeMap<String, u64>,
    after: &BTreeMap<String, u64>,
    rest: Duration,
    report: &mut Report,
) {
    let more = |key: &str| after.get(key).copied().unwrap_or(0) - before.get(key).copied().unwrap_or(0);
    let ours = |key: &&String| key.ends_with(".spanwire.dev");
    let total: u64 = after.keys().filter(ours).map(|key| more(key)).sum();
    report.goal(
        &format!("writes of spanwire.dev in {} s at rest", rest.as_secs()),
        total,
        "0",
        total == 0,
    );
    report.figure(
        "  Leases, the cluster's own among them",
        more("leases.coordination.k8s.io"),
    );
}

/// Watches that ask for what agents ask for, from now on, and end by themselves.
fn watches(lab: &Lab, rest: Duration) -> Result<Vec<(&'static str, Background)>> {
    let one = |kind: &'static str| {
        let list: serde_json::Value = serde_json::from_str(&lab.kubectl([
            "get",
            "--raw",
            &format!("/apis/spanwire.dev/v1alpha1/{kind}?limit=1"),
        ])?)?;
        let version = list["metadata"]["resourceVersion"]
            .as_str()
            .context("a list has a version")?;
        let path = format!(
            "/apis/spanwire.dev/v1alpha1/{kind}?watch=1&allowWatchBookmarks=true&resourceVersion={version}&timeoutSeconds={}",
            rest.as_secs()
        );
        let watch = Background::start(lab.client("kubectl").args(["get", "--raw", &path]))?;
        Ok((kind, watch))
    };
    WATCHED.into_iter().map(one).collect()
}

fn report_events(watches: Vec<(&'static str, Background)>, report: &mut Report) -> Result<()> {
    for (kind, watch) in watches {
        let (out, _) = watch.wait()?;
        let bookmarks = out.lines().filter(|line| line.contains("\"BOOKMARK\"")).count();
        let events = out.lines().count() - bookmarks;
        report.goal(
            &format!("events of {kind}, beside {bookmarks} bookmarks"),
            events,
            "0",
            events == 0,
        );
    }
    Ok(())
}

/// The processes of the mesh: program, node, process number as the node has it.
type Processes = Vec<(&'static str, String, String)>;

fn processes(lab: &Lab) -> Result<Processes> {
    let mut all = Vec::new();
    for node in lab.layout().nodes() {
        for program in ["spanwire-agent", "spanwire-tunnel", "spanwire-operator"] {
            match pid(lab, &node.name, program) {
                Ok(pid) => all.push((program, node.name.clone(), pid)),
                // Operators run on two nodes only.
                Err(_) if program == "spanwire-operator" => {}
                Err(error) => return Err(error.context(format!("{program} on {}", node.name))),
            }
        }
    }
    Ok(all)
}

/// Processor time each process has used so far.
fn cpu(lab: &Lab, processes: &Processes) -> Result<Vec<Duration>> {
    let one = |(_, node, pid): &(&str, String, String)| {
        let stat = lab.node(node)?.run(["cat", &format!("/proc/{pid}/stat")])?;
        // proc_pid_stat(5): user and system time are fields 14 and 15, in ticks of 10 ms; the name may hold spaces.
        let (_, fields) = stat.rsplit_once(") ").context("a stat line")?;
        let fields: Vec<_> = fields.split(' ').collect();
        let ticks = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
        Ok(Duration::from_millis(ticks * 10))
    };
    processes.iter().map(one).collect()
}

/// Resident memory of a process, and its peak, in MB of 10⁶ bytes.
fn memory(lab: &Lab, node: &str, pid: &str) -> Result<(f64, f64)> {
    let status = lab.node(node)?.run(["cat", &format!("/proc/{pid}/status")])?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        let kib: f64 = line.split_whitespace().next()?.parse().ok()?;
        Some(kib * 1024.0 / 1e6)
    };
    field("VmRSS:").zip(field("VmHWM:")).context("no memory")
}

fn report_costs(
    lab: &Lab,
    processes: &Processes,
    before: &[Duration],
    after: &[Duration],
    rest: Duration,
    report: &mut Report,
) -> Result<()> {
    for (program, most, share) in [
        ("spanwire-agent", 25.0, Some(0.2)),
        ("spanwire-operator", 40.0, None),
        ("spanwire-tunnel", 16.0, None),
    ] {
        let (mut rss, mut peak, mut busy) = (0_f64, 0_f64, 0_f64);
        for (index, (name, node, pid)) in processes.iter().enumerate() {
            if *name == program {
                let (now, highest) = memory(lab, node, pid)?;
                rss = rss.max(now);
                peak = peak.max(highest);
                let used = after[index] - before[index];
                busy = busy.max(used.as_secs_f64() / rest.as_secs_f64() * 100.0);
            }
        }
        report.goal(
            &format!("memory of {program} (largest; its peak)"),
            format!("{rss:.1} MB ({peak:.1})"),
            &format!("≤ {most} MB"),
            rss <= most,
        );
        let what = format!("processor time of {program} (largest)");
        let value = format!("{busy:.2} % of a core");
        match share {
            Some(limit) => report.goal(&what, value, &format!("< {limit} %"), busy < limit),
            None => report.figure(&what, value),
        }
    }
    Ok(())
}
