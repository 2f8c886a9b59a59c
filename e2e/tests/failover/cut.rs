//! A follower that the leader in use does not reach.

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use spanwire_e2e::{
    Lab,
    expect::{SOON, all_reach_all, answers, condition, leader, pod_ip},
    fault::{Fault, Roles},
    wait_until,
};

/// The leader hands what comes out of its tunnel for the follower's pods to the leader behind it, until the follower answers again.
pub(crate) fn handed_to_the_other_leader(lab: &Lab) -> Result<()> {
    let roles = Roles::now(lab)?;
    ensure!(
        roles.leader == leader(lab, "b")?,
        "the standby leader is in use, and has none behind itself: {roles:?}"
    );
    let cut = Fault::named("a follower does not reach its leader")?;
    let far = pod_ip(lab, &roles.far)?;
    let [pod, beside] = [&roles.follower, &roles.standby].map(|node| pod_ip(lab, node));
    let (pod, beside) = (pod?, beside?);
    let directly = next_hop(lab, &roles.leader, far, pod)?;
    let by_the_other = next_hop(lab, &roles.leader, far, beside)?;
    ensure!(directly != by_the_other, "{directly}");
    let becomes = |wanted: &str| {
        wait_until(&format!("what is for {pod} goes by {wanted}"), SOON, || {
            Ok(next_hop(lab, &roles.leader, far, pod)? == wanted)
        })
    };
    cut.during(lab, &roles, || {
        becomes(&by_the_other)?;
        // Inside the location the CNI has no other way.
        for from in ["a3", &roles.far, "c3"] {
            let what = format!("the pod of {from} reaches {pod}");
            wait_until(&what, SOON, || answers(&lab.pod_on(from)?, pod))?;
        }
        is_said(lab, &roles)
    })?;
    becomes(&directly)?;
    all_reach_all(lab)?;
    lab.wait_mesh_ready()
}

/// The leader says whom it does not reach, and so does the location.
fn is_said(lab: &Lab, roles: &Roles) -> Result<()> {
    let said = format!("{} has answered no echo request by the hop", roles.follower);
    let by = format!("its pods are reached through {}", roles.standby);
    for (object, about) in [
        (["meshnode", &roles.leader], "MembersReached"),
        (["location", "b"], "Ready"),
    ] {
        wait_until(&format!("{object:?} says who is cut off"), SOON, || {
            let (status, message) = condition(lab, &object, about)?;
            Ok(status == "False" && message.contains(&said) && message.contains(&by))
        })?;
    }
    Ok(())
}

/// Returns by which neighbour the kernel of a node sends what comes out of its tunnel.
fn next_hop(lab: &Lab, node: &str, from: IpAddr, to: IpAddr) -> Result<String> {
    let (from, to) = (from.to_string(), to.to_string());
    let get = ["ip", "route", "get", &to, "from", &from, "iif", "spanwire0"];
    let way = lab.node(node)?.run(get)?;
    let mut words = way.split_whitespace();
    let via = words.find(|word| *word == "via").and_then(|_| words.next());
    Ok(via.with_context(|| format!("no neighbour: {way}"))?.to_owned())
}
