//! A leader that lives, answers everyone, and hands nothing on.

use std::thread;

use anyhow::{Result, ensure};
use spanwire_e2e::{
    Lab,
    expect::{SOON, all_reach_all, condition, leader},
    fault::{Fault, Roles, noticing},
    wait_until,
};

use crate::LASTS;

/// What is said of a node that was replaced.
const RESTS: &str = "is not to lead until ";

/// While it is gone around both locations say so, and when that lasts another node leads, and goes on to when the first one forwards
/// again. The location says until when and why.
pub(crate) fn replaced(lab: &Lab) -> Result<()> {
    forgotten(lab)?;
    let roles = Roles::now(lab)?;
    let fault = Fault::named("the leader forwards nothing")?;
    let noticed = noticing(lab, &roles, || {
        fault.during(lab, &roles, || {
            is_said(lab, &roles)?;
            wait_until("another leader is published", 2 * SOON, || {
                Ok(leader(lab, "b")? == roles.standby)
            })?;
            thread::sleep(LASTS);
            Ok(())
        })
    })?;
    // How long nothing arrives is seen where this fault is one of many.
    noticed.recovered()?;
    lab.wait_mesh_ready()?;
    let (status, message) = condition(lab, &["location", "b"], "LeaderElected")?;
    let rests = format!("{} {RESTS}", roles.leader);
    ensure!(
        status == "True" && message.starts_with(&roles.standby) && message.contains(&rests),
        "{message}"
    );
    all_reach_all(lab)
}

/// Has the operator not know who was replaced before, if this is tried again: of two that were the one that leads would go on.
fn forgotten(lab: &Lab) -> Result<()> {
    let (_, message) = condition(lab, &["location", "b"], "LeaderElected")?;
    if !message.contains(RESTS) {
        return Ok(());
    }
    let of_operator = ["--namespace", "spanwire", "deployment/spanwire-operator"];
    for verb in [vec!["restart"], vec!["status", "--timeout=90s"]] {
        lab.kubectl(["rollout"].into_iter().chain(verb).chain(of_operator))?;
    }
    wait_until("no node rests", SOON, || {
        let (_, message) = condition(lab, &["location", "b"], "LeaderElected")?;
        Ok(!message.contains(RESTS))
    })
}

fn is_said(lab: &Lab, roles: &Roles) -> Result<()> {
    let (old, new) = (&roles.leader, &roles.standby);
    for (location, said) in [
        ("b", format!("through {old}, and uses {new}")),
        ("a", format!("gets nothing through {old} of b, and uses {new}")),
    ] {
        wait_until(&format!("{location} says who is gone around"), SOON, || {
            let (status, message) = condition(lab, &["location", location], "Ready")?;
            Ok(status == "False" && message.contains(&said))
        })?;
    }
    Ok(())
}
