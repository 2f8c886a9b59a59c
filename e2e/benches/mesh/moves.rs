//! The role of the leader moves from node to node by annotation: when do packets take the new path, how many are lost?

use std::{
    thread,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, ensure};
use spanwire_e2e::{
    Background, Lab, Machine,
    expect::{SOON, all_reach_all, leader, pinging, pod_ip},
    wait_until,
};

use spanwire_e2e::report::{Report, median, spread};

/// Long enough for a move and everything that it sets off.
const SETTLES: Duration = Duration::from_millis(2500);

/// One move.
struct Move {
    /// From the annotation to the first request that leaves by the new leader.
    out: Duration,
    /// From the annotation to the first request that comes in by the new leader.
    back: Duration,
    /// Lost of the pings of every path, and the longest silence.
    lost: Vec<(String, u64, Duration)>,
}

pub(crate) fn measure(lab: &Lab, changes: u32, report: &mut Report) -> Result<()> {
    let proxy = ApiProxy::start(lab)?;
    let mut moves = Vec::new();
    for _ in 0..changes {
        let old = leader(lab, "a")?;
        let new = if old == "a1" { "a2" } else { "a1" };
        moves.push(one(lab, &proxy, &old, new).with_context(|| format!("from {old} to {new}"))?);
    }
    for node in ["a1", "a2"] {
        proxy.annotate(node, None)?;
    }
    all_reach_all(lab)?;
    write(&moves, report);
    Ok(())
}

fn one(lab: &Lab, proxy: &ApiProxy<'_>, old: &str, new: &str) -> Result<Move> {
    let (out, back) = (Seen::start(lab, new, "a2", Direction::Out)?, {
        Seen::start(lab, new, "a1", Direction::In)?
    });
    // The annotation of the old one goes first: it stays the leader as the incumbent.
    proxy.annotate(old, None)?;
    thread::sleep(Duration::from_millis(500));
    let (at, pings) = pinging(lab, || {
        thread::sleep(Duration::from_millis(200));
        let at = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
        proxy.annotate(new, Some("true"))?;
        thread::sleep(SETTLES);
        wait_until("the annotated node leads", SOON, || Ok(leader(lab, "a")? == new))?;
        Ok(at)
    })?;
    let lost = pings
        .into_iter()
        .map(|(path, report)| (path, report.lost(), report.longest_gap))
        .collect();
    Ok(Move {
        out: out.first_after(at)?,
        back: back.first_after(at)?,
        lost,
    })
}

fn write(moves: &[Move], report: &mut Report) {
    let out: Vec<_> = moves.iter().map(|one| one.out).collect();
    let back: Vec<_> = moves.iter().map(|one| one.back).collect();
    let first: Vec<_> = moves.iter().map(|one| one.out.min(one.back)).collect();
    let worst = first.iter().max().copied().unwrap_or_default();
    report.goal(
        "annotation → first packet on the new path",
        spread(&first),
        "median < 250 ms, worst < 1 s",
        median(&first) < Duration::from_millis(250) && worst < Duration::from_secs(1),
    );
    report.figure("  the same, requests that leave the location", spread(&out));
    report.figure("  the same, requests that enter the location", spread(&back));
    let all = || moves.iter().flat_map(|one| &one.lost);
    let mut paths: Vec<&String> = all().map(|(path, ..)| path).collect();
    paths.sort();
    paths.dedup();
    for path in paths {
        let of = || all().filter(|(name, ..)| name == path);
        let lost: u64 = of().map(|(_, lost, _)| lost).sum();
        let most = of().map(|(_, lost, _)| *lost).max().unwrap_or_default();
        let gap = of().map(|(_, _, gap)| *gap).max().unwrap_or_default();
        report.goal(
            &format!("  lost of a 10 ms ping, {path}"),
            format!(
                "{lost} in {} moves, at most {most} in one, longest silence {:.0} ms",
                moves.len(),
                gap.as_secs_f64() * 1e3
            ),
            "none",
            lost == 0,
        );
    }
}

enum Direction {
    Out,
    In,
}

/// The echo requests from or to a test pod that pass a node's tunnel device.
struct Seen {
    dump: Background,
}

impl Seen {
    fn start(lab: &Lab, node: &str, pod: &str, direction: Direction) -> Result<Self> {
        let address = pod_ip(lab, pod)?;
        let end = match direction {
            Direction::Out => "src",
            Direction::In => "dst",
        };
        let filter = format!("icmp[icmptype] = icmp-echo and {end} host {address}");
        let dump = lab.node(node)?.dump("spanwire0", &filter)?;
        Ok(Self { dump })
    }

    /// Returns how long after a moment (since the epoch) the first one passed; none may have passed before.
    fn first_after(self, moment: Duration) -> Result<Duration> {
        let (out, err) = self.dump.interrupt()?;
        let time = |line: &str| line.split(' ').next()?.parse::<f64>().ok();
        let first = out.lines().find_map(time);
        let first = first.with_context(|| format!("nothing took the new path: {err}"))?;
        let after = first - moment.as_secs_f64();
        ensure!(
            after > 0.0,
            "the path was not new: {after} s\n{}",
            out.lines().next().unwrap_or_default()
        );
        Ok(Duration::from_secs_f64(after))
    }
}

/// `kubectl proxy` on the control plane's node, so that what is timed is the API server's work and not kubectl's start.
struct ApiProxy<'a> {
    machine: Machine<'a>,
    _running: Background,
}

const PORT: &str = "18001";

impl<'a> ApiProxy<'a> {
    fn start(lab: &'a Lab) -> Result<Self> {
        let running = Background::start(lab.client("kubectl").args(["proxy", "--port", PORT]))?;
        let proxy = Self {
            machine: lab.control_plane(),
            _running: running,
        };
        wait_until("kubectl proxy answers", SOON, || {
            proxy.curl(&["-o", "/dev/null"], "/readyz").map(|_| true)
        })?;
        Ok(proxy)
    }

    /// Sets or removes the annotation that makes a node a leader.
    fn annotate(&self, node: &str, value: Option<&str>) -> Result<()> {
        let patch = serde_json::json!({"metadata": {"annotations": {"spanwire.dev/leader": value}}});
        let kind = "content-type: application/merge-patch+json";
        let args = [
            "-o",
            "/dev/null",
            "-X",
            "PATCH",
            "-H",
            kind,
            "-d",
            &patch.to_string(),
        ];
        self.curl(&args, &format!("/api/v1/nodes/{node}")).map(drop)
    }

    fn curl(&self, args: &[&str], path: &str) -> Result<String> {
        let url = format!("http://127.0.0.1:{PORT}{path}");
        let head = ["curl", "-sS", "--fail", "--max-time", "5"];
        self.machine
            .run(head.iter().chain(args).copied().chain([url.as_str()]))
    }
}
