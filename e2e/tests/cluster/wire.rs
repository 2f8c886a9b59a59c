//! What is seen on the wires.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use spanwire_e2e::{
    Lab,
    expect::{leader, pod_ip},
    plaintext::WIREGUARD,
};

/// The API server's port, which nodes of other locations reach by the router's forward; TLS of its own.
const API: &str = "(tcp port 6443)";

/// Traffic of every kind between locations.
fn traffic(lab: &Lab) -> Result<()> {
    for (from, to) in [("a2", "c2"), ("b1", "a2"), ("c1", "b2"), ("a3", "c1")] {
        let target = pod_ip(lab, to)?;
        lab.pod_on(from)?.run([
            "ping",
            "-n",
            "-c",
            "3",
            "-i",
            "0.2",
            "-W",
            "2",
            &target.to_string(),
        ])?;
        lab.node(from)?.run([
            "ping",
            "-n",
            "-c",
            "3",
            "-i",
            "0.2",
            "-W",
            "2",
            &target.to_string(),
        ])?;
        let far = lab.pod_on(to)?;
        let _server = far.spawn(["socat", "-u", "TCP-LISTEN:7010,reuseaddr,fork", "/dev/null"])?;
        let target = SocketAddr::new(target, 7010);
        let send = format!(
            "for i in 1 2 3 4 5; do head -c 100000 /dev/zero | socat -u - TCP:{target} && exit; sleep 0.2; done; exit 1"
        );
        lab.pod_on(from)?.sh(&send)?;
    }
    Ok(())
}

pub(crate) fn internet_sees_only_wireguard(lab: &Lab) -> Result<()> {
    let filter = format!("ip and not {API} and not {WIREGUARD}");
    let ((), other) = lab.capture("internet", &filter, || traffic(lab))?;
    ensure!(other.trim().is_empty(), "not WireGuard:\n{other}");
    let ((), wireguard) = lab.capture("internet", WIREGUARD, || traffic(lab))?;
    let lines = wireguard.lines().count();
    ensure!(
        lines > 30,
        "the traffic should be here as WireGuard:\n{wireguard}"
    );
    Ok(())
}

pub(crate) fn lan_sees_vxlan(lab: &Lab) -> Result<()> {
    let inside = || {
        let target = pod_ip(lab, "a2")?.to_string();
        lab.pod_on("a1")?
            .run(["ping", "-n", "-c", "5", "-i", "0.2", "-W", "2", &target])
    };
    let nodes = ["a1", "a2"].map(|name| lab.node_layout(name).map(|node| node.addresses[0]));
    let [one, other] = nodes;
    let between = format!("host {} and host {}", one?, other?);
    let (_, vxlan) = lab.capture("a", &format!("{between} and udp port 8472"), inside)?;
    ensure!(
        vxlan.lines().filter(|line| line.contains("ICMP echo")).count() >= 10,
        "no vxlan:\n{vxlan}"
    );
    let ((), wireguard) = lab.capture("a", &format!("{between} and {WIREGUARD}"), || inside().map(drop))?;
    ensure!(
        wireguard.trim().is_empty(),
        "WireGuard inside a location:\n{wireguard}"
    );
    Ok(())
}

pub(crate) fn wg_shows_the_mesh(lab: &Lab) -> Result<()> {
    for location in ["a", "b", "c"] {
        let leader = leader(lab, location)?;
        let dump = lab.node(&leader)?.run(["wg", "show", "spanwire0", "dump"])?;
        let peers: Vec<Vec<&str>> = dump
            .lines()
            .skip(1)
            .map(|line| line.split('\t').collect())
            .collect();
        // Two locations, each with an active and a standby leader.
        ensure!(peers.len() == 4, "{leader} has {} peers:\n{dump}", peers.len());
        let shaken = peers
            .iter()
            .filter(|peer| peer.get(4).is_some_and(|time| *time != "0"))
            .count();
        ensure!(shaken >= 2, "{leader} has shaken hands with {shaken}:\n{dump}");
    }
    let mut followers = lab.node_names();
    followers.retain(|node| !has_device(lab, node));
    ensure!(
        followers == ["a3"],
        "two nodes of each location lead or stand by; these have no device: {followers:?}"
    );
    let main = lab.node("a1")?.run(["ip", "-j", "rule"])?;
    ensure!(main.contains("32766"), "{main}");
    Ok(())
}

fn has_device(lab: &Lab, node: &str) -> bool {
    let found = lab
        .node(node)
        .context("a node")
        .and_then(|node| node.run(["ip", "-j", "link", "show", "spanwire0"]));
    found.is_ok()
}
