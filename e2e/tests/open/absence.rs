//! What stands between a pod and plaintext is taken away piece by piece: nothing leaves in the open, from a leader or from a
//! follower. The last test takes all of it away, and sees what the others would have seen.

use std::{thread, time::Duration};

use anyhow::{Context, Result};
use spanwire_e2e::{
    Lab, Machine, Ping, Profile,
    expect::{FAST, all_reach_all, leader, node_ip, pid, pod_ip},
    plaintext::{nothing_plain, something_plain},
};

/// In another location.
const FAR: &str = "b2";
/// So long that a repair of the agent, if it runs, is seen too.
const MEANWHILE: Duration = Duration::from_secs(3);

/// Removes all rules but the kernel's own, as networkd does with those of others.
const FLUSH_RULES: &str =
    "ip rule flush; ip rule add lookup main pref 32766; ip rule add lookup default pref 32767";
/// A follower has the first alone.
const FLUSH_ROUTES: &str = "ip route flush table 51830; ip route flush table 51831 2>/dev/null || true";
const DELETE_TABLE: &str = "nft delete table inet spanwire";

/// The leader of a location, and a node of it that follows.
fn both(lab: &Lab) -> Result<[String; 2]> {
    let leader = leader(lab, "a")?;
    let follows = |node: &&String| {
        let device = ["ip", "link", "show", "spanwire0"];
        let found = lab.node(node).and_then(|node| node.finish(device));
        node.starts_with('a') && found.is_ok_and(|found| found.code != 0)
    };
    let nodes = lab.node_names();
    let follower = nodes
        .iter()
        .find(follows)
        .context("every node of a has the device")?;
    Ok([leader, follower.clone()])
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
        for what in [FLUSH_RULES, FLUSH_ROUTES, DELETE_TABLE] {
            nothing_leaves(lab, &node, what, |host| host.sh(what).map(drop))?;
        }
    }
    Ok(())
}

/// Runs something while the agent of a node does not.
fn without_agent<T>(lab: &Lab, host: &Machine<'_>, act: impl FnOnce() -> Result<T>) -> Result<T> {
    let agent = pid(lab, host.name(), "spanwire-agent")?;
    host.run(["kill", "-STOP", &agent])?;
    let done = act();
    host.run(["kill", "-CONT", &agent])?;
    done
}

pub(crate) fn dead(lab: &Lab) -> Result<()> {
    for node in both(lab)? {
        for what in [FLUSH_RULES, FLUSH_ROUTES, DELETE_TABLE] {
            nothing_leaves(lab, &node, &format!("without an agent: {what}"), |host| {
                without_agent(lab, host, || {
                    host.sh(what)?;
                    thread::sleep(MEANWHILE);
                    Ok(())
                })
            })?;
        }
    }
    Ok(())
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

pub(crate) fn inverse(lab: &Lab) -> Result<()> {
    for node in both(lab)? {
        something_plain(lab, || {
            sending(lab, &node, |host| {
                without_agent(lab, host, || {
                    host.sh(DELETE_TABLE)?;
                    host.sh(FLUSH_RULES)?;
                    thread::sleep(MEANWHILE);
                    Ok(())
                })
            })
        })
        .with_context(|| format!("{node} without agent, rules and table"))?;
        all_reach_all(lab)?;
    }
    Ok(())
}
