//! What is deleted by hand comes back.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use spanwire_e2e::{
    Lab,
    expect::{SOON, all_reach_all, component_pod, leader},
    repair::{SOON_REPAIRED, comes_back, on_every_node},
    wait_until,
};

pub(crate) fn objects(lab: &Lab) -> Result<()> {
    let name = leader(lab, "a")?;
    let node = lab.node(&name)?;
    on_every_node(&node)?;
    on_every_node(&lab.node("a3")?).context("on a node that does not lead")?;
    let link = "ip -o addr show dev spanwire0 | sed -E 's/^[0-9]+: //; /fe80/d'";
    comes_back(
        &node,
        "the link",
        "ip link del dev spanwire0",
        link,
        SOON_REPAIRED,
    )?;
    all_reach_all(lab)?;
    // Which leader over there has which network depends on whom this one took for dead meanwhile.
    let peers = "(wg show spanwire0 peers; wg show spanwire0 allowed-ips | cut -f2 | tr ' ' '\\n') | sort";
    let a_peer = "wg set spanwire0 peer $(wg show spanwire0 peers | head -1) remove";
    comes_back(&node, "a WireGuard peer", a_peer, peers, Duration::from_secs(10))?;
    wait_until("all is well again", SOON, || all_reach_all(lab).map(|()| true))?;
    for name in [name.as_str(), "a3"] {
        let pod = component_pod(lab, "agent", name)?;
        let log = lab.kubectl(["logs", "--namespace", "spanwire", &pod, "--since=120s"])?;
        ensure!(
            log.to_lowercase().contains("repair"),
            "the log on {name} says nothing of a repair:\n{log}"
        );
    }
    Ok(())
}
