//! What stands between a pod and plaintext is taken away piece by piece: nothing leaves in the open, from a leader or from a
//! follower. The last test takes all of it away, and sees what the others would have seen.

use std::{thread, time::Duration};

use anyhow::{Context, Result, ensure};
use spanwire_e2e::{
    Lab, Machine, Ping, Profile,
    defences::{Names, Trial, leader_and_follower},
    expect::{FAST, SOON, all_reach_all, condition, node_ip, pod_ip},
    plaintext::{Watch, nothing_plain},
    wait_until,
};

/// In another location.
const FAR: &str = "b2";
/// So long that a repair of the agent is seen too.
const MEANWHILE: Duration = Duration::from_secs(3);

/// The leader of a location, and a node of it that follows.
fn both(lab: &Lab) -> Result<[String; 2]> {
    leader_and_follower(lab, "a", Names::default())
}

/// Pods and the host of a node send to pods and to the host of a far node while something is done to it, and after.
fn sending<T>(lab: &Lab, node: &str, act: impl FnOnce(&Machine<'_>) -> Result<T>) -> Result<T> {
    let (host, pod) = (lab.node(node)?, lab.pod_on(node)?);
    let (far_pod, far_host) = (pod_ip(lab, FAR)?, node_ip(lab, FAR)?);
    let pings = [
        (&pod, far_pod),
        (&pod, far_host),
        (&host, far_pod),
        (&host, far_host),
    ]
    .map(|(from, to)| Ping::start(from, to, FAST));
    let pings: Vec<Ping> = pings.into_iter().collect::<Result<_>>()?;
    let done = act(&host);
    thread::sleep(MEANWHILE);
    for ping in pings {
        ping.finish()?;
    }
    done
}

fn nothing_leaves(
    lab: &Lab,
    node: &str,
    what: &str,
    act: impl FnOnce(&Machine<'_>) -> Result<()>,
) -> Result<()> {
    nothing_plain(lab, || sending(lab, node, act)).with_context(|| format!("{what} on {node}"))?;
    all_reach_all(lab).with_context(|| format!("after {what} on {node}"))
}

pub(crate) fn flushed(lab: &Lab) -> Result<()> {
    for node in both(lab)? {
        for what in Names::default().removals(lab.layout()) {
            nothing_leaves(lab, &node, &what, |host| host.sh(&what).map(drop))?;
        }
    }
    Ok(())
}

fn trial(lab: &Lab) -> Result<Trial> {
    Ok(Trial {
        nodes: both(lab)?.into(),
        far: FAR.to_owned(),
        names: Names::default(),
        watch: Watch::internet(),
    })
}

pub(crate) fn dead(lab: &Lab) -> Result<()> {
    trial(lab)?.each_holds_alone(lab)
}

pub(crate) fn cni(lab: &Lab) -> Result<()> {
    for node in both(lab)? {
        nothing_leaves(lab, &node, "flannel restarted", |host| {
            host.kill_service("flanneld")
        })?;
        nothing_leaves(lab, &node, "flannel's device made again", |host| {
            // It may end by itself without its device.
            let kill = "kill -9 $(cat /run/lab/flanneld.pid) 2>/dev/null || true";
            host.sh(&format!("ip link del flannel.1; {kill}")).map(drop)
        })?;
        nothing_leaves(lab, &node, "a wide network", |_| {
            lab.neighbour_comes(&node, Profile::WideLan)
        })?;
        lab.neighbour_goes(&node, Profile::WideLan)?;
    }
    Ok(())
}

/// With the guard that `agent.guard` keeps, which the nodes load before everything else. Who sends is the host itself, from its
/// first moment on: the CNI is there before pods and the agent are.
pub(crate) fn reboots(lab: &Lab) -> Result<()> {
    for node in both(lab)? {
        let far = pod_ip(lab, FAR)?;
        nothing_plain(lab, || {
            lab.reboot(&node)?;
            let ping = Ping::start_unanswered(&lab.node(&node)?, far, FAST)?;
            lab.wait_ready()?;
            all_reach_all(lab)?;
            ping.finish().map(drop)
        })
        .with_context(|| format!("{node} is rebooted"))?;
    }
    Ok(())
}

/// The inverse of the guard: what leaves a node that boots without one, until its agent has loaded the nft table, and not a
/// packet after that.
pub(crate) fn unguarded(lab: &Lab) -> Result<()> {
    let [_, node] = both(lab)?;
    let (far_pod, far_host) = (pod_ip(lab, FAR)?, node_ip(lab, FAR)?);
    let words = format!("> {far_pod}: ICMP echo request");
    lab.crash(&node)?;
    lab.forget(&node, "spanwire/guard.nft")?;
    let ((begun, enforced), times) = Watch::internet().times(lab, &words, || {
        lab.reboot(&node)?;
        let host = lab.node(&node)?;
        let ping = Ping::start_unanswered(&host, far_pod, FAST)?;
        let other = Ping::start_unanswered(&host, far_host, FAST)?;
        let begun = host.run(["date", "+%s.%N"])?;
        let enforced =
            host.sh("until nft list table inet spanwire >/dev/null 2>&1; do sleep 0.02; done; date +%s.%N")?;
        lab.wait_ready()?;
        all_reach_all(lab)?;
        ping.finish()?;
        other.finish()?;
        Ok((begun.trim().parse::<f64>()?, enforced.trim().parse::<f64>()?))
    })?;
    let (first, last) = times
        .first()
        .zip(times.last())
        .context("nothing leaves in plaintext without the guard either")?;
    eprintln!(
        "{node} boots without a guard: {} requests in plaintext, from {:.1} s to {:.1} s after its start; its agent enforces from {:.1} s on",
        times.len(),
        first - begun,
        last - begun,
        enforced - begun
    );
    ensure!(
        *last <= enforced,
        "plaintext {:.3} s after the agent enforces",
        last - enforced
    );
    Ok(())
}

/// A site is given up and comes back as new machines, while no tunnel with it can come up: what is for it stays where it was when its last
/// Node went. The same without what was known of it is seen at the beginning: with the port blocked packets are in the open.
pub(crate) fn registered_again(lab: &Lab) -> Result<()> {
    let site = ["c1", "c2"];
    let said = site.map(|node| Ok::<_, anyhow::Error>((node, said_of(lab, node)?)));
    let said: Vec<(&str, Vec<String>)> = said.into_iter().collect::<Result<_>>()?;
    for node in site {
        lab.crash(node)?;
        for file in ["key", "ledger.json", "guard.nft"] {
            lab.forget(node, &format!("spanwire/{file}"))?;
        }
    }
    lab.kubectl(["delete", "node", "c1", "c2"])?;
    let locations = || lab.get(&["locations"]).map(|list| list["items"].to_string());
    wait_until("location c is gone", SOON, || {
        Ok(!locations()?.contains("\"name\":\"c\""))
    })?;
    lab.block_udp(51820)?;
    for (node, annotations) in &said {
        lab.reboot(node)?;
        wait_until(&format!("{node} is registered"), SOON, || {
            let words = ["annotate", "node", node].into_iter();
            lab.kubectl(words.chain(annotations.iter().map(String::as_str)))
                .map(|_| true)
        })?;
    }
    lab.wait_ready()?;
    wait_until("c is known to have been in the tunnel", SOON, || {
        let (status, message) = condition(lab, &["location", "c"], "Connected")?;
        Ok(status == "False" && message.contains("the tunnel with a is down between c1"))
    })?;
    nothing_plain(lab, || {
        for (from, to) in [("a2", "c1"), ("a2", "c2"), ("c2", "a1"), ("c1", "b2")] {
            for sender in [lab.pod_on(from)?, lab.node(from)?] {
                for far in [pod_ip(lab, to)?, node_ip(lab, to)?] {
                    let words = ["ping", "-n", "-c", "3", "-i", "0.2", "-W", "1", &far.to_string()];
                    let answered = sender.finish(words)?.code == 0;
                    ensure!(!answered, "{from} reaches {far} of {to}");
                }
            }
        }
        Ok(())
    })?;
    lab.heal()?;
    lab.wait_mesh_ready()?;
    nothing_plain(lab, || all_reach_all(lab))
}

/// What people have annotated a node with, as `kubectl annotate` takes it.
fn said_of(lab: &Lab, node: &str) -> Result<Vec<String>> {
    let found = lab.get(&["node", node])?;
    let annotations = found["metadata"]["annotations"].as_object().context("none")?;
    let ours = annotations
        .iter()
        .filter(|(key, _)| key.starts_with("spanwire.dev/"));
    Ok(ours
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect())
}

pub(crate) fn inverse(lab: &Lab) -> Result<()> {
    trial(lab)?.without_all_of_them_plaintext_is_seen(lab)
}
