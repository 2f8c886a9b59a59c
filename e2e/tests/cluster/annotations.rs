//! `kubectl annotate node`, and the packets follow.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use spanwire_e2e::{Lab, wait_until};

use spanwire_e2e::expect::{SOON, all_reach_all, leader, loses_nothing, pinging, pod_ip};

fn annotate(lab: &Lab, node: &str, what: &str) -> Result<()> {
    lab.kubectl(["annotate", "--overwrite", "node", node, what])
        .map(drop)
}

/// Returns how many packets a node has sent into its tunnels; none without a device.
fn sent(lab: &Lab, node: &str) -> Result<u64> {
    let read = lab
        .node(node)?
        .finish(["cat", "/sys/class/net/spanwire0/statistics/tx_packets"])?;
    Ok(read.stdout.trim().parse().unwrap_or(0))
}

/// Returns whether what a pod sends leaves its location by this node.
fn leaves_by(lab: &Lab, node: &str, from: &str, to: &str) -> Result<bool> {
    let before = sent(lab, node)?;
    let target = pod_ip(lab, to)?.to_string();
    lab.pod_on(from)?
        .run(["ping", "-n", "-c", "20", "-i", "0.02", "-W", "1", &target])?;
    Ok(sent(lab, node)? >= before + 20)
}

pub(crate) fn leader_moves(lab: &Lab) -> Result<()> {
    let old = leader(lab, "a")?;
    lab.kubectl(["annotate", "node", "a1", "a2", "spanwire.dev/leader-"])?;
    let new = if old == "a1" { "a2" } else { "a1" };
    for (from, to) in [(old.as_str(), new), (new, old.as_str())] {
        loses_nothing(lab, || {
            annotate(lab, to, "spanwire.dev/leader=true")?;
            wait_until("the annotated node leads", SOON, || Ok(leader(lab, "a")? == to))?;
            wait_until("packets leave by the new leader", SOON, || {
                Ok(leaves_by(lab, to, from, "b2")? && leaves_by(lab, to, "a3", "b2")?)
            })
        })
        .with_context(|| format!("{to} taking over from {from}"))?;
        annotate(lab, to, "spanwire.dev/leader-")?;
    }
    all_reach_all(lab)
}

/// One that takes over while it leads, and one that has not led any more and has no tunnel when it is elected.
pub(crate) fn leader_cordoned(lab: &Lab) -> Result<()> {
    let lead = |expected: &[&str]| {
        wait_until(&format!("{expected:?} lead"), SOON, || {
            let found = lab.get(&["location", "a"])?;
            ensure!(
                found["status"]["leaders"] == serde_json::json!(expected),
                "{found}"
            );
            Ok(true)
        })
    };
    let first = leader(lab, "a")?;
    let (first, second) = if first == "a1" { ("a1", "a2") } else { ("a2", "a1") };
    lead(&[first, second])?;
    let moved = loses_nothing(lab, || {
        lab.kubectl(["cordon", first])?;
        lead(&[second])?;
        lab.kubectl(["uncordon", first])?;
        lab.kubectl(["cordon", second])?;
        lead(&[first])
    });
    lab.kubectl(["uncordon", first, second])?;
    moved?;
    lead(&[first, second])?;
    all_reach_all(lab)
}

/// Returns where one node looks for another.
fn endpoint_of(lab: &Lab, node: &str, other: &str) -> Result<String> {
    let found = lab.get(&["meshnode", other])?;
    let key = found["status"]["publicKey"].as_str().context("no key")?;
    let peers = lab.node(node)?.run(["wg", "show", "spanwire0", "endpoints"])?;
    let mut lines = peers.lines().filter_map(|line| line.split_once('\t'));
    let (_, endpoint) = lines.find(|(of, _)| *of == key).context("no such peer")?;
    Ok(endpoint.to_owned())
}

/// Also of leaders that stand by, which exchange no data: the first packet by the new endpoint decides, and is the
/// agents' to send.
pub(crate) fn endpoint(lab: &Lab) -> Result<()> {
    let changed = leader(lab, "a")?;
    let layout = lab.node_layout(&changed)?;
    let old = layout
        .annotations
        .get("spanwire.dev/endpoint")
        .with_context(|| format!("{changed} has no endpoint"))?;
    let (public, old_port) = old.rsplit_once(':').context("host:port")?;
    let forward = format!(
        "ip daddr {public} udp dport 51999 dnat ip to {}:51820",
        layout.addresses[0]
    );
    lab.network("a")?
        .run(["nft", &format!("insert rule inet lab dstnat {forward}")])?;
    for port in ["51999", old_port] {
        let wanted = format!("{public}:{port}");
        loses_nothing(lab, || {
            annotate(lab, &changed, &format!("spanwire.dev/endpoint={wanted}"))?;
            let what = format!("all far nodes look for {changed} at {wanted}");
            wait_until(&what, SOON, || {
                for node in ["b1", "b2", "c1", "c2"] {
                    let seen = endpoint_of(lab, node, &changed)?;
                    ensure!(seen == wanted, "{node} at {seen}");
                }
                Ok(true)
            })
        })?;
    }
    all_reach_all(lab)
}

pub(crate) fn location(lab: &Lab) -> Result<()> {
    for (place, leads) in [("x", true), ("a", false)] {
        let ((), pings) = pinging(lab, || {
            annotate(lab, "a2", &format!("spanwire.dev/location={place}"))?;
            wait_until("the node is there", SOON, || {
                let node = lab.get(&["meshnode", "a2"])?;
                Ok(node["spec"]["location"] == place)
            })?;
            all_reach_all(lab)
        })?;
        for (path, report) in pings {
            // Sessions that die with the move are silent for 15 s; how long a move takes is `make bench-mesh`'s to say.
            ensure!(
                report.longest_gap < Duration::from_secs(10),
                "{path}, a2 moving to {place}: {report:?}"
            );
        }
        if leads {
            wait_until(
                "a2 leads its own location",
                SOON,
                || Ok(leader(lab, "x")? == "a2"),
            )?;
            wait_until("its packets leave by itself", SOON, || {
                leaves_by(lab, "a2", "a2", "b2")
            })?;
            wait_until("and to its former location too", SOON, || {
                leaves_by(lab, "a2", "a2", "a1")
            })?;
        }
    }
    wait_until("the managed location is gone", SOON, || {
        Ok(!lab.kubectl(["get", "locations", "-o", "name"])?.contains("/x\n"))
    })
}
