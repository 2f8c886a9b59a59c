//! A leader that reaches the other locations, and not the API server.

use anyhow::{Context, Result, ensure};
use spanwire_e2e::{
    Lab,
    expect::{SOON, all_reach_all, leader, pinging_between},
    fault::{NO_API_SERVER, Roles, noticing},
    wait_until,
};

use crate::GAP;

/// When its Lease has expired the operator makes another node the active leader, which it does not hear of. Everyone else sends by
/// the new one, no connection notices, and neither do the old leader's own pods.
pub(crate) fn replaced(lab: &Lab) -> Result<()> {
    let roles = Roles::now(lab)?;
    let (old, far) = (roles.leader.as_str(), roles.far.as_str());
    let own_pods = [(old, far), (far, old), (old, "c3")];
    let (noticed, own) = NO_API_SERVER.during(lab, &roles, || {
        pinging_between(lab, &own_pods, || {
            noticing(lab, &roles, || is_replaced(lab, &roles))
        })
    })?;
    noticed.recovered()?;
    for (path, report) in noticed.paths.iter().chain(&own) {
        let gap = report.longest_gap.max(report.silence);
        ensure!(gap < GAP, "nothing arrived for {gap:?} on {path}: {report:?}");
    }
    all_reach_all(lab)?;
    lab.wait_mesh_ready()
}

/// Waits until another leader is published, and the leaders elsewhere send to it what is for the followers.
fn is_replaced(lab: &Lab, roles: &Roles) -> Result<()> {
    wait_until("another leader is published", SOON, || {
        Ok(leader(lab, "b")? == roles.standby)
    })?;
    let follower = lab.get(&["node", &roles.follower])?;
    let pods = follower["spec"]["podCIDR"]
        .as_str()
        .context("it has no pods")?
        .to_owned();
    let key = lab.get(&["meshnode", &roles.standby])?["status"]["publicKey"].clone();
    let key = key.as_str().context("it has no key")?;
    for far in [roles.far.as_str(), "c1"] {
        wait_until(&format!("{far} sends to {}", roles.standby), SOON, || {
            let peers = lab.node(far)?.run(["wg", "show", "spanwire0", "allowed-ips"])?;
            let carries = |line: &&str| line.split_whitespace().any(|word| word == pods);
            let carrying: Vec<&str> = peers.lines().filter(carries).collect();
            Ok(matches!(carrying[..], [one] if one.starts_with(key)))
        })?;
    }
    Ok(())
}
