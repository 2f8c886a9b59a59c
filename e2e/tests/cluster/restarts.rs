//! Programs and machines that stop and start.

use std::{thread, time::Duration};

use anyhow::{Context, Result, ensure};
use spanwire_e2e::{Lab, wait_until};

use spanwire_e2e::expect::{
    SOON, all_reach_all, answers, component_pod, leader, loses_nothing, pid, pinging, pod_ip,
};

const NAMESPACE: [&str; 2] = ["--namespace", "spanwire"];

fn rolled_out(lab: &Lab, what: &str) -> Result<()> {
    lab.kubectl([
        "rollout",
        "status",
        what,
        NAMESPACE[0],
        NAMESPACE[1],
        "--timeout=90s",
    ])
    .map(drop)
}

pub(crate) fn agents_killed(lab: &Lab) -> Result<()> {
    for node in [
        leader(lab, "a")?,
        leader(lab, "c")?,
        "a2".to_owned(),
        "a3".to_owned(),
        "b2".to_owned(),
    ] {
        loses_nothing(lab, || {
            let old = pid(lab, &node, "spanwire-agent")?;
            lab.node(&node)?.run(["kill", "-9", &old])?;
            wait_until("a new agent runs", SOON, || {
                Ok(pid(lab, &node, "spanwire-agent")? != old)
            })?;
            // Long enough for its first reconcile.
            wait_until("the new agent is ready", SOON, || {
                let node = lab.node(&node)?;
                Ok(node.finish(["curl", "-sf", "http://127.0.0.1:9477/readyz"])?.code == 0)
            })
        })
        .with_context(|| format!("the agent on {node} was killed"))?;
    }
    Ok(())
}

pub(crate) fn agents_rolled(lab: &Lab) -> Result<()> {
    loses_nothing(lab, || {
        lab.kubectl([
            "rollout",
            "restart",
            "daemonset/spanwire-agent",
            NAMESPACE[0],
            NAMESPACE[1],
        ])?;
        rolled_out(lab, "daemonset/spanwire-agent")
    })
}

/// A process that takes a node's devices over makes new sessions: what comes by the old ones until then is lost. At rest that is
/// one request at most. A tunnel that is killed costs forty.
const UNDER_WAY: u64 = 10;

/// On one node after the other, of which some lead.
pub(crate) fn tunnels_rolled(lab: &Lab) -> Result<()> {
    let pods = || -> Result<Vec<String>> {
        let nodes = lab.node_names().into_iter();
        nodes.map(|node| component_pod(lab, "tunnel", &node)).collect()
    };
    let before = pods()?;
    let ((), reports) = pinging(lab, || {
        lab.kubectl([
            "rollout",
            "restart",
            "daemonset/spanwire-tunnel",
            NAMESPACE[0],
            NAMESPACE[1],
        ])?;
        rolled_out(lab, "daemonset/spanwire-tunnel")
    })?;
    let after = pods()?;
    ensure!(
        before.iter().all(|pod| !after.contains(pod)),
        "some are as before: {after:?}"
    );
    for (path, report) in &reports {
        let lost = report.lost();
        eprintln!(
            "{path}: {lost} of {} lost, longest gap {:?}",
            report.sent, report.longest_gap
        );
    }
    let most = reports.iter().map(|(_, report)| report.lost()).max();
    ensure!(most <= Some(UNDER_WAY), "packets were lost: {reports:?}");
    Ok(())
}

pub(crate) fn control(lab: &Lab) -> Result<()> {
    loses_nothing(lab, || {
        lab.kubectl([
            "rollout",
            "restart",
            "deployment/spanwire-operator",
            NAMESPACE[0],
            NAMESPACE[1],
        ])?;
        rolled_out(lab, "deployment/spanwire-operator")
    })
    .context("the operator was restarted")?;
    loses_nothing(lab, || {
        lab.control_plane().kill_service("kube-apiserver")?;
        wait_until("the API server is back", SOON, || {
            Ok(lab
                .kubectl(["get", "--raw", "/readyz"])
                .is_ok_and(|text| text.contains("ok")))
        })
    })
    .context("the API server was restarted")
}

pub(crate) fn checkpoint(lab: &Lab) -> Result<()> {
    let node = leader(lab, "b")?;
    loses_nothing(lab, || {
        lab.control_plane().stop_service("kube-apiserver")?;
        let old = pid(lab, &node, "spanwire-agent")?;
        lab.node(&node)?.run(["kill", "-9", &old])?;
        wait_until("a new agent runs", SOON, || {
            Ok(pid(lab, &node, "spanwire-agent")? != old)
        })?;
        let taken_away = lab.node(&node).and_then(|node| {
            node.run(["ip", "link", "del", "dev", "spanwire0"])?;
            wait_until(
                "the agent makes the device again, from its checkpoint",
                SOON,
                || Ok(node.finish(["ip", "link", "show", "spanwire0"])?.code == 0),
            )
        });
        lab.control_plane().start_service("kube-apiserver")?;
        taken_away
    })
    .or_else(|error| {
        // Taking the device away costs packets; that it came back without an API server is what counts.
        ensure!(format!("{error:#}").contains("packets were lost"), "{error:#}");
        Ok(())
    })?;
    wait_until("the API server is back", SOON, || {
        Ok(lab.kubectl(["get", "--raw", "/readyz"]).is_ok())
    })?;
    all_reach_all(lab)
}

pub(crate) fn follower_crash(lab: &Lab) -> Result<()> {
    let standby = if leader(lab, "b")? == "b1" { "b2" } else { "b1" };
    for (crashed, from) in [("a3", "b1"), (standby, "a3")] {
        lab.crash(crashed)?;
        thread::sleep(Duration::from_secs(3));
        lab.reboot(crashed)?;
        wait_until("its pod is reachable again", Duration::from_secs(120), || {
            answers(&lab.pod_on(from)?, pod_ip(lab, crashed)?)
        })
        .with_context(|| format!("{crashed} has crashed"))?;
        wait_until("all is well again", Duration::from_secs(120), || {
            all_reach_all(lab).map(|()| true)
        })?;
    }
    Ok(())
}

pub(crate) fn leader_reboot(lab: &Lab) -> Result<()> {
    let name = leader(lab, "c")?;
    let key = |lab: &Lab| -> Result<String> {
        let node = lab.get(&["meshnode", &name])?;
        Ok(node["status"]["publicKey"].as_str().context("no key")?.to_owned())
    };
    let before = key(lab)?;
    lab.reboot(&name)?;
    wait_until("the mesh is whole again", Duration::from_secs(180), || {
        all_reach_all(lab).map(|()| true)
    })?;
    ensure!(key(lab)? == before, "its key is another one");
    let ((), pings) = pinging(lab, || {
        thread::sleep(Duration::from_secs(2));
        Ok(())
    })?;
    ensure!(pings.iter().all(|(_, report)| report.lost() == 0), "{pings:?}");
    Ok(())
}
