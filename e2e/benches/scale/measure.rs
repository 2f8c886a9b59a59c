//! The phases: the mesh comes about, single changes, many changes, rest.

use std::{sync::atomic::Ordering, time::Duration};

use anyhow::{Context, Result, ensure};
use spanwire_e2e::{
    Cmd, Progress,
    expect::count_writes,
    report::{Report, median, spread},
};
use tokio::time::{Instant, sleep, sleep_until};

use crate::{
    Args,
    cluster::Cluster,
    nodes::{self, RENEWED, Size},
    probe::{self, Arrival, Probe, peers},
    process::Process,
    simulated::Agents,
    tracked::Tracked,
};

/// The mesh whose figures have goals.
const LARGE: u32 = 5000;

/// For how long an agent looks often for the first answer of a new leader, and a little more.
const EAGER: Duration = Duration::from_secs(33);

/// What all phases work with.
struct Bench<'a> {
    cluster: &'a Cluster,
    args: &'a Args,
    size: Size,
    agents: Agents,
    tracked: Tracked,
    probe: Probe,
}

pub(crate) async fn all(
    cluster: &Cluster,
    args: &Args,
    progress: &Progress,
    report: &mut Report,
) -> Result<()> {
    let size = Size {
        nodes: args.nodes,
        locations: args.locations,
    };
    let client = cluster.client.clone();
    nodes::namespace(&client).await?;
    let tracked = Tracked::start(client.clone());
    let members = size.members(probe::LOCATION);
    let probe = Probe::new(client.clone(), tracked.clone(), cluster.device(), &members)?;
    let mut bench = Bench {
        cluster,
        args,
        size,
        agents: Agents::start(client.clone()),
        tracked,
        probe,
    };
    tokio::spawn(nodes::renew(client, size, Duration::from_secs(args.renew)));
    bench.join(report).await?;
    progress.say("joined");
    bench.settle().await?;
    bench.memory(report)?;
    bench.publications(report).await?;
    progress.say("single changes measured");
    bench.churn(report).await?;
    progress.say("churn measured");
    bench.settle().await?;
    bench.rest(report).await?;
    progress.say("rest measured");
    Ok(())
}

impl Bench<'_> {
    /// From the first Node to a mesh in which all of them are published and all locations are connected. The first two
    /// locations come first: the real agent's, and the one whose leader moves while the others join.
    async fn join(&mut self, report: &mut Report) -> Result<()> {
        let (client, size) = (self.cluster.client.clone(), self.size);
        let start = Instant::now();
        let [operator, agent, api] = self.cpu()?;
        let first = size.members("l0").len() + size.members(probe::LOCATION).len();
        let first = u32::try_from(first)?;
        let begun = async {
            nodes::create_all(&client, size, 0..first).await?;
            nodes::set_leader(&client, 0, true).await?;
            self.probe.begin().await
        };
        begun.await.context("the first two locations")?;
        let creating = tokio::spawn(async move { nodes::create_all(&client, size, first..size.nodes).await });
        let mut arrived = Vec::new();
        while !self.joined() {
            arrived.push(self.probe.once().await.context("while nodes join")?);
            sleep(Duration::from_secs(2)).await;
        }
        creating.await??;
        let wall = start.elapsed();
        let after = self.cpu()?;
        let what = format!("{} nodes in {} locations join", size.nodes, size.locations);
        report.figure(
            &what,
            format!("{:.0} s, {} slices", wall.as_secs_f64(), self.tracked.slices()),
        );
        let used = after[0].saturating_sub(operator);
        self.goal(
            report,
            "  processor time of the operator",
            seconds(used),
            "< 60 s",
            used < Duration::from_secs(60),
        );
        report.figure(
            "  processor time of one agent that leads",
            seconds(after[1] - agent),
        );
        report.figure("  processor time of the API server", seconds(after[2] - api));
        report.figure("  reports of simulated agents", self.agents.reports());
        let what = format!("  annotation → peer on a far node, meanwhile ({})", arrived.len());
        self.arrivals(report, &what, &arrived, |times| times.iter().max().copied());
        let found = peers(&self.cluster.device()).await?.len();
        report.figure("  WireGuard peers of the agent that leads", found);
        Ok(())
    }

    /// The real agent's tunnels lead nowhere, so that its own location is connected with none.
    fn joined(&self) -> bool {
        let locations = self.size.locations;
        self.tracked.members() == self.size.nodes - 1 + u32::from(self.has_real_key())
            && self.tracked.whole(locations - 2) >= locations - 1
    }

    /// The real agent has a key when it has a device.
    fn has_real_key(&self) -> bool {
        self.cluster.device().exists()
    }

    /// Waits until nothing is published any more, and the agent no longer looks often for an answer of the leader that came
    /// last, which never gives one.
    async fn settle(&self) -> Result<()> {
        let unheeded = Instant::now() + EAGER;
        self.at_rest().await?;
        sleep_until(unheeded).await;
        Ok(())
    }

    async fn at_rest(&self) -> Result<()> {
        let end = Instant::now() + Duration::from_secs(180);
        let mut last = (u64::MAX, u64::MAX);
        loop {
            let now = (self.tracked.events(), self.agents.reports());
            if now == last {
                return Ok(());
            }
            ensure!(Instant::now() < end, "the mesh does not come to rest");
            last = now;
            sleep(Duration::from_secs(5)).await;
        }
    }

    fn memory(&self, report: &mut Report) -> Result<()> {
        let Cluster {
            operator,
            agent,
            tunnel,
            ..
        } = self.cluster;
        for (name, process) in [("operator", operator), ("agent", agent), ("tunnel", tunnel)] {
            let (now, peak) = process.memory()?;
            report.figure(
                &format!("memory of the {name} (its peak)"),
                format!("{now:.1} MB ({peak:.1})"),
            );
        }
        Ok(())
    }

    /// One change of one slice a second, in another location each time, none of which is the agent's or the probe's.
    async fn publications(&self, report: &mut Report) -> Result<()> {
        let count = self.args.publications;
        let (before, events) = (self.cpu()?, self.tracked.events());
        for turn in 0..count {
            self.change(turn).await?;
            sleep(Duration::from_secs(1)).await;
        }
        sleep(Duration::from_secs(2)).await;
        let after = self.cpu()?;
        let published = self.tracked.events() - events;
        ensure!(
            published >= u64::from(count),
            "{count} changes were published {published} times"
        );
        let each = |place: usize| (after[place] - before[place]) / count.max(1);
        let ms = |time: Duration| format!("{:.1} ms", time.as_secs_f64() * 1e3);
        self.goal(
            report,
            "processor time of an agent for one published change",
            ms(each(1)),
            "< 20 ms",
            each(1) < Duration::from_millis(20),
        );
        report.figure("  of the operator, for deciding and publishing it", ms(each(0)));
        Ok(())
    }

    /// Gives a node of some other location another address.
    async fn change(&self, turn: u32) -> Result<()> {
        let place = 2 + turn % (self.size.locations - 2);
        let members = self.size.members(&format!("l{place}"));
        let last = members.len() - 1;
        let round = turn / (self.size.locations - 2);
        // Neither of the leaders, which are the first.
        let node = members[last - (round as usize / 2) % (last - 1)];
        let address = if round.is_multiple_of(2) {
            nodes::second_address(node)
        } else {
            nodes::address(node)
        };
        nodes::set_address(&self.cluster.client, node, address).await
    }

    /// Ten changes a second, and the leader's role that moves meanwhile.
    async fn churn(&mut self, report: &mut Report) -> Result<()> {
        let churn = Duration::from_secs(self.args.churn);
        let before = self.cpu()?;
        let start = Instant::now();
        let mut arrived = Vec::new();
        let mut turn = 1_000_000 - 1_000_000 % (2 * (self.size.locations - 2));
        let first = turn;
        let mut due = start;
        while start.elapsed() < churn {
            let until = (start + churn).min(due + Duration::from_secs(3));
            while due < until {
                self.change(turn).await?;
                turn += 1;
                due += Duration::from_millis(100);
                sleep_until(due).await;
            }
            arrived.push(self.probe_while_changing(&mut turn).await?);
            due = Instant::now();
        }
        let (wall, after) = (start.elapsed().as_secs_f64(), self.cpu()?);
        let share = |place: usize| {
            let used = (after[place] - before[place]).as_secs_f64();
            format!("{:.1} % of a core", used / wall * 100.0)
        };
        let rate = f64::from(turn - first) / wall;
        let what = format!("annotation → peer on a far node, at {rate:.0} changes a second");
        self.arrivals(report, &what, &arrived, |times| Some(median(times)));
        report.figure("  processor time of an agent meanwhile", share(1));
        report.figure("  of the operator", share(0));
        Ok(())
    }

    /// Enters how long annotations took, and where, and whether what counts of it is within two seconds.
    fn arrivals(
        &self,
        report: &mut Report,
        what: &str,
        arrivals: &[Arrival],
        counts: impl Fn(&[Duration]) -> Option<Duration>,
    ) {
        let times = |of: fn(&Arrival) -> Duration| arrivals.iter().map(of).collect::<Vec<_>>();
        let arrived = times(|arrival| arrival.arrived);
        let met = counts(&arrived).is_some_and(|time| time <= Duration::from_secs(2));
        self.goal(report, what, spread(&arrived), "≤ 2 s", met);
        let answered = times(|arrival| arrival.answered);
        report.figure("    until the API server has answered", spread(&answered));
        let published = times(|arrival| arrival.published);
        report.figure("    until a watch shows the decision", spread(&published));
        let worst = arrivals.iter().max_by_key(|arrival| arrival.arrived);
        if let Some(Arrival {
            answered,
            published,
            arrived,
        }) = worst
        {
            let [answered, published, arrived] = [answered, published, arrived].map(Duration::as_millis);
            report.figure(
                "    in the worst case",
                format!("{answered}, {published}, {arrived} ms"),
            );
        }
    }

    /// Moves the role while nodes go on changing.
    async fn probe_while_changing(&mut self, turn: &mut u32) -> Result<Arrival> {
        let mut probe = Probe::clone(&self.probe);
        let moving = tokio::spawn(async move { (probe.once().await, probe) });
        while !moving.is_finished() {
            self.change(*turn).await?;
            *turn += 1;
            sleep(Duration::from_millis(90)).await;
        }
        let (took, probe) = moving.await?;
        self.probe = probe;
        took.context("during churn")
    }

    async fn rest(&self, report: &mut Report) -> Result<()> {
        let rest = Duration::from_secs(self.args.rest);
        let (writes, events, cpu) = (writes()?, self.tracked.events(), self.cpu()?);
        let (reports, renewed) = (self.agents.reports(), RENEWED.load(Ordering::Relaxed));
        sleep(rest).await;
        let (writes_after, events_after, cpu_after) = (self::writes()?, self.tracked.events(), self.cpu()?);
        let more = |key: &String| writes_after[key] - writes.get(key).copied().unwrap_or_default();
        let ours = writes_after.keys().filter(|key| key.ends_with(".spanwire.dev"));
        let total: u64 = ours.map(more).sum();
        let seconds = rest.as_secs();
        report.goal(
            &format!("writes of spanwire.dev in {seconds} s at rest"),
            total,
            "0",
            total == 0,
        );
        let events = events_after - events;
        report.goal("  events of LocationSlices", events, "0", events == 0);
        report.figure("  reports of agents", self.agents.reports() - reports);
        let renewed = RENEWED.load(Ordering::Relaxed) - renewed;
        report.figure(
            "  Leases of nodes renewed, for comparison",
            format!("{:.0} a second", renewed as f64 / rest.as_secs_f64()),
        );
        for (place, name) in ["operator", "agent", "API server"].iter().enumerate() {
            let used = (cpu_after[place] - cpu[place]).as_secs_f64() / rest.as_secs_f64() * 100.0;
            report.figure(
                &format!("  processor time of the {name}"),
                format!("{used:.2} % of a core"),
            );
        }
        Ok(())
    }

    /// Of the operator, the agent and the API server.
    fn cpu(&self) -> Result<[Duration; 3]> {
        let Cluster {
            operator, agent, api, ..
        } = self.cluster;
        let [operator, agent, api] = [operator, agent, api].map(Process::cpu);
        Ok([operator?, agent?, api?])
    }

    /// A figure with a goal, if the mesh is as large as the one that the goal is for.
    fn goal(&self, report: &mut Report, what: &str, value: String, goal: &str, met: bool) {
        if self.size.nodes < LARGE {
            report.figure(what, value);
        } else {
            report.goal(what, value, goal, met);
        }
    }
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

/// Returns the writes that the API server has counted.
fn writes() -> Result<std::collections::BTreeMap<String, u64>> {
    let curl = ["curl", "-sSk", "--fail", "-H", "Authorization: Bearer bench"];
    let text = Cmd::of(curl.into_iter().chain(["https://127.0.0.1:6443/metrics"])).run()?;
    count_writes(&text)
}
