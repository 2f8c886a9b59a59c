//! What tests of the mesh expect: reachability, loss, leaders, conditions, Events.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use anyhow::{Context, Result, ensure};

use crate::{
    lab::Lab,
    machine::Machine,
    ping::{Ping, PingReport},
    wait::wait_until,
};

/// Interval of the pings that run while something happens.
pub const FAST: Duration = Duration::from_millis(10);

/// Long enough for anything that must happen.
pub const SOON: Duration = Duration::from_secs(60);

/// Returns the first address of the test pod on a node.
pub fn pod_ip(lab: &Lab, node: &str) -> Result<IpAddr> {
    let pods = lab.pods()?;
    pods.get(node)
        .and_then(|ips| ips.first())
        .copied()
        .with_context(|| format!("no pod on {node}"))
}

/// Returns the first address of a node.
pub fn node_ip(lab: &Lab, node: &str) -> Result<IpAddr> {
    Ok(lab.node_layout(node)?.addresses[0])
}

/// Sends one ping; returns whether it was answered.
pub fn answers(from: &Machine<'_>, to: IpAddr) -> Result<bool> {
    Ok(from
        .finish(["ping", "-n", "-c", "1", "-W", "1", &to.to_string()])?
        .code
        == 0)
}

/// Waits until every pod reaches every pod.
pub fn all_reach_all(lab: &Lab) -> Result<()> {
    wait_until("every pod reaches every pod", SOON, || {
        let matrix = lab.ping_all()?;
        ensure!(matrix.complete(), "\n{matrix}");
        Ok(true)
    })
}

/// The kinds of path there are: between standby leaders, towards the control plane, out of NAT, inside a location, and
/// from and to an ordinary follower.
pub const PATHS: [(&str, &str); 6] = [
    ("a2", "c2"),
    ("b2", "a1"),
    ("c2", "b1"),
    ("a1", "a2"),
    ("a3", "c2"),
    ("b2", "a3"),
];

/// Fast pings on all kinds of path, while something happens.
pub fn pinging<T>(lab: &Lab, run: impl FnOnce() -> Result<T>) -> Result<(T, Vec<(String, PingReport)>)> {
    pinging_between(lab, &PATHS, run)
}

/// Fast pings between the pods of pairs of nodes, while something happens.
pub fn pinging_between<T>(
    lab: &Lab,
    pairs: &[(&str, &str)],
    run: impl FnOnce() -> Result<T>,
) -> Result<(T, Vec<(String, PingReport)>)> {
    pinging_on(lab, &pod_paths(lab, pairs)?, run)
}

/// From the pod of a node to that of another one, which has this address.
pub type PodPath<'a> = (&'a str, &'a str, IpAddr);

/// Returns the paths between the pods of pairs of nodes, as long as there is an API server to ask.
pub fn pod_paths<'a>(lab: &Lab, pairs: &[(&'a str, &'a str)]) -> Result<Vec<PodPath<'a>>> {
    let found = pairs.iter().map(|&(from, to)| Ok((from, to, pod_ip(lab, to)?)));
    found.collect()
}

/// Fast pings on these paths, while something happens.
pub fn pinging_on<T>(
    lab: &Lab,
    paths: &[PodPath<'_>],
    run: impl FnOnce() -> Result<T>,
) -> Result<(T, Vec<(String, PingReport)>)> {
    let start = |&(from, to, address): &PodPath<'_>| {
        let ping = Ping::start(&lab.pod_on(from)?, address, FAST)?;
        Ok((format!("{from} to {to}"), ping))
    };
    let pings: Vec<(String, Ping)> = paths.iter().map(start).collect::<Result<_>>()?;
    let result = run()?;
    let finish = |(path, ping): (String, Ping)| Ok((path, ping.finish()?));
    Ok((result, pings.into_iter().map(finish).collect::<Result<_>>()?))
}

/// Fast pings on all kinds of path, none of which may be lost while something happens.
pub fn loses_nothing<T>(lab: &Lab, run: impl FnOnce() -> Result<T>) -> Result<T> {
    loses_nothing_between(lab, &PATHS, run)
}

/// Fast pings between the pods of pairs of nodes, none of which may be lost while something happens.
pub fn loses_nothing_between<T>(
    lab: &Lab,
    pairs: &[(&str, &str)],
    run: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let (result, reports) = pinging_between(lab, pairs, run)?;
    let lost: Vec<_> = reports.iter().filter(|(_, report)| report.lost() > 0).collect();
    ensure!(lost.is_empty(), "packets were lost: {lost:?}");
    let few = reports.iter().find(|(_, report)| report.received < 10);
    ensure!(few.is_none(), "hardly anything was sent: {reports:?}");
    Ok(result)
}

/// Returns the names of the pods of one of the chart's components on a node.
pub fn component_pod(lab: &Lab, component: &str, node: &str) -> Result<String> {
    let selector = format!("app.kubernetes.io/component={component}");
    let list = lab.get(&["pods", "--namespace", "spanwire", "--selector", &selector])?;
    let items = list["items"].as_array().context("no list")?;
    let here = items
        .iter()
        .find(|pod| pod["spec"]["nodeName"] == node && pod["metadata"]["deletionTimestamp"].is_null());
    let name = here.and_then(|pod| pod["metadata"]["name"].as_str());
    Ok(name
        .with_context(|| format!("no {component} on {node}"))?
        .to_owned())
}

/// Returns the first leader of a location, as it is published.
pub fn leader(lab: &Lab, location: &str) -> Result<String> {
    let found = lab.get(&["location", location])?;
    let name = found["status"]["leaders"][0].as_str();
    Ok(name
        .with_context(|| format!("location {location} has no leader"))?
        .to_owned())
}

/// Returns the nodes of a location: its leaders as they are published, active ones first, then its followers by name.
pub fn by_role(lab: &Lab, location: &str) -> Result<Vec<String>> {
    let found = lab.get(&["location", location])?;
    let published = found["status"]["leaders"].as_array().context("no leaders")?;
    let mut names: Vec<String> = published
        .iter()
        .map(|name| name.as_str().unwrap_or_default().to_owned())
        .collect();
    let nodes = lab.layout().nodes().filter(|node| node.location == location);
    let mut followers: Vec<String> = nodes
        .map(|node| node.name.clone())
        .filter(|name| !names.contains(name))
        .collect();
    followers.sort();
    names.extend(followers);
    Ok(names)
}

/// Returns the process of one of our programs on a node, in the node's own numbering.
pub fn pid(lab: &Lab, node: &str, program: &str) -> Result<String> {
    let out = lab
        .node(node)?
        .run(["pgrep", "-x", "-f", &format!("(/usr/local/bin/)?{program}.*")])?;
    Ok(out.lines().next().context("no such process")?.to_owned())
}

/// Returns a condition of an object: status and message.
pub fn condition(lab: &Lab, object: &[&str], kind: &str) -> Result<(String, String)> {
    let found = lab.get(object)?;
    let conditions = found["status"]["conditions"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let one = conditions.iter().find(|one| one["type"] == kind);
    let one = one.with_context(|| format!("{object:?} has no condition {kind}: {conditions:?}"))?;
    let text = |key: &str| one[key].as_str().unwrap_or_default().to_owned();
    Ok((text("status"), text("message")))
}

/// Waits until an Event on an object says all of these words.
pub fn event_says(lab: &Lab, name: &str, words: &[&str]) -> Result<()> {
    wait_until(&format!("an Event on {name} says {words:?}"), SOON, || {
        let list = lab.get(&["events", "--all-namespaces"])?;
        let items = list["items"].as_array().cloned().unwrap_or_default();
        let about = items
            .iter()
            .filter(|event| event["involvedObject"]["name"] == name);
        let messages: Vec<_> = about.filter_map(|event| event["message"].as_str()).collect();
        let said = messages
            .iter()
            .any(|text| words.iter().all(|word| text.contains(word)));
        ensure!(said, "{messages:?}");
        Ok(true)
    })
}

/// Returns the writes that the API server has counted, by resource and group.
pub fn writes(lab: &Lab) -> Result<BTreeMap<String, u64>> {
    count_writes(&lab.kubectl(["get", "--raw", "/metrics"])?)
}

/// Returns the writes in an API server's metrics, by resource and group.
pub fn count_writes(metrics: &str) -> Result<BTreeMap<String, u64>> {
    let verbs = ["APPLY", "PATCH", "PUT", "POST", "DELETE"].map(|verb| format!("verb=\"{verb}\""));
    let mut all = BTreeMap::new();
    for line in metrics
        .lines()
        .filter(|line| line.starts_with("apiserver_request_total{"))
    {
        if !verbs.iter().any(|verb| line.contains(verb)) {
            continue;
        }
        let (labels, count) = line.rsplit_once(' ').context("a sample")?;
        let label = |key: &str| {
            let rest = labels.split(&format!("{key}=\"")).nth(1)?;
            rest.split('"').next()
        };
        let (group, resource) = (
            label("group").unwrap_or_default(),
            label("resource").unwrap_or_default(),
        );
        *all.entry(format!("{resource}.{group}")).or_default() += count.parse::<f64>()? as u64;
    }
    Ok(all)
}
