//! Peers: a plain wireguard-go client outside the cluster, and a host that `kubectl spanwire connect` makes one.

use std::{
    net::IpAddr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use spanwire_e2e::{Lab, Laptop, Machine, Ping, connect, wait_until};

use spanwire_e2e::{
    expect::{SOON, answers, leader, pod_ip},
    reach::{echo, pod_ips, seen_by, services_to},
};

/// Between two requests of a ping that measures a gap.
const INTERVAL: Duration = Duration::from_millis(20);
/// How long a Peer may be without its location when another leader takes over in an orderly way.
const GAP: Duration = Duration::from_secs(3);
/// By then a Peer that was deleted reaches nothing.
const REVOKED: Duration = Duration::from_secs(1);

pub(crate) fn laptop(lab: &Lab) -> Result<()> {
    let address: IpAddr = [10, 99, 0, 1].into();
    let laptop = Laptop::start(lab, &[address])?;
    lab.apply(&laptop.manifest("laptop"))?;
    // c, behind NAT, is reached through a.
    laptop.meet(lab, &leader(lab, "a")?, &["a", "c"])?;
    laptop.meet(lab, &leader(lab, "b")?, &["b"])?;
    let nodes: Vec<String> = lab.layout().nodes().map(|node| node.name.clone()).collect();
    for node in &nodes {
        let pod = pod_ip(lab, node)?;
        wait_until(&format!("the laptop reaches the pod on {node}"), SOON, || {
            answers(&laptop.host, pod)
        })?;
    }
    let seen = lab.pod_on("c2")?;
    wait_until("a pod reaches the laptop", SOON, || answers(&seen, address))?;
    lab.kubectl(["delete", "peer", "laptop"])?;
    for node in &nodes {
        let pod = pod_ip(lab, node)?;
        wait_until(&format!("the laptop no longer reaches {node}"), SOON, || {
            Ok(!answers(&laptop.host, pod)?)
        })?;
    }
    let left = lab
        .node(&leader(lab, "a")?)?
        .run(["wg", "show", "spanwire0", "dump"])?;
    ensure!(
        !left.contains(&laptop.public_key),
        "the key is still there:\n{left}"
    );
    Ok(())
}

/// One that has to have a preshared key: out without it, in with it, and out again when the key is taken from the Peer's machine.
pub(crate) fn preshared(lab: &Lab) -> Result<()> {
    let address: IpAddr = [10, 99, 0, 2].into();
    let laptop = Laptop::start(lab, &[address])?;
    let reference = "presharedKeySecretRef: {name: spanwire-preshared-keys, key: laptop}, allowedIPs";
    lab.apply(&laptop.manifest("laptop").replace("allowedIPs", reference))?;
    let leader = leader(lab, "a")?;
    laptop.meet(lab, &leader, &["a"])?;
    let pod = pod_ip(lab, &leader)?;
    wait_until("the Peer says that its key is not known", SOON, || {
        let peer = lab.get(&["peer", "laptop"])?;
        let conditions = peer["status"]["conditions"].as_array().into_iter().flatten();
        let mut reasons = conditions.map(|condition| &condition["reason"]);
        Ok(reasons.any(|reason| reason == "PresharedKeyUnknown"))
    })?;
    ensure!(
        !answers(&laptop.host, pod)?,
        "the laptop is in before its key is known"
    );

    let file = lab.folder().join("laptop.psk");
    let key = laptop
        .host
        .sh(&format!("umask 077; wg genpsk | tee {}", file.display()))?;
    lab.apply(&format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: spanwire-preshared-keys, namespace: spanwire}}\n\
         stringData: {{laptop: '{}'}}\n",
        key.trim()
    ))?;
    let mesh_node = lab.get(&["meshnode", &leader])?;
    let of_leader = mesh_node["status"]["publicKey"].as_str().context("a key")?;
    let peer = ["wg", "set", "laptop0", "peer", of_leader];
    let path = file.to_string_lossy();
    laptop
        .host
        .run(peer.into_iter().chain(["preshared-key", &path]))?;
    wait_until("the laptop is in with its key", SOON, || {
        answers(&laptop.host, pod)
    })?;

    // A session that has begun goes on; without one a handshake is due.
    laptop.host.run(peer.into_iter().chain(["remove"]))?;
    laptop.meet(lab, &leader, &["a"])?;
    ensure!(!answers(&laptop.host, pod)?, "the laptop is in without its key");

    lab.kubectl(["delete", "peer", "laptop"])?;
    lab.kubectl(["-n", "spanwire", "delete", "secret", "spanwire-preshared-keys"])?;
    Ok(())
}

/// The host outside joins, reaches everything, follows a leader that moves, and is out when its Peer is deleted.
pub(crate) fn connects(lab: &Lab) -> Result<()> {
    let address: IpAddr = [10, 99, 0, 3].into();
    let host = lab.outside();
    let words = [
        "--name",
        "visitor",
        "--allowed-ip",
        "10.99.0.3/32",
        "--service-cidr",
    ];
    let mut running = connect(lab, &words)?;
    for location in ["a", "b"] {
        running.writes(&format!("location {location}: connected by "))?;
    }
    for node in lab.node_names() {
        let pod = pod_ip(lab, &node)?;
        wait_until(&format!("the host reaches the pod on {node}"), SOON, || {
            answers(&host, pod)
        })?;
    }
    let pod = lab.pod_on("c2")?;
    wait_until("a pod reaches the host", SOON, || answers(&pod, address))?;
    let families = pod_ips(lab, "c2")?;
    let _server = echo(&pod, families[0], 7004)?;
    let service = services_to(lab, "c2")?.swap_remove(0).cluster;
    wait_until("the host reaches a service", SOON, || {
        Ok(seen_by(&host, service).is_ok())
    })?;

    let gap = leader_moves(lab, &host)?;
    eprintln!("a Peer by `connect` was without its location for {gap:?} when the leader moved");
    ensure!(
        gap < GAP,
        "without its location for {gap:?} when the leader moved"
    );

    let ping = Ping::start(&host, pod_ip(lab, "b2")?, INTERVAL)?;
    let begun = Instant::now();
    lab.kubectl(["delete", "peer", "visitor"])?;
    thread::sleep(2 * REVOKED);
    let deleted = begun.elapsed();
    let silence = ping.finish()?.silence;
    ensure!(
        silence + REVOKED >= deleted,
        "it still had answers {:?} after its Peer was deleted",
        deleted.saturating_sub(silence)
    );
    let (said, error) = running.wait()?;
    ensure!(
        error.contains("the Peer visitor was deleted"),
        "it ends without the reason: {said}{error}"
    );
    ensure!(
        host.finish(["ip", "link", "show", "spanwire-peer"])?.code != 0
            && !host.run(["ip", "rule"])?.contains("51832"),
        "it has left something"
    );
    Ok(())
}

/// Has the other node lead location a, and then the first one again; returns the longest time without an answer from there.
fn leader_moves(lab: &Lab, host: &Machine<'_>) -> Result<Duration> {
    let first = leader(lab, "a")?;
    let second = if first == "a1" { "a2" } else { "a1" };
    let ping = Ping::start(host, pod_ip(lab, "a3")?, INTERVAL)?;
    for node in [second, &first] {
        lab.kubectl([
            "annotate",
            "--overwrite",
            "node",
            node,
            "spanwire.dev/leader=true",
        ])?;
        wait_until(&format!("{node} leads"), SOON, || Ok(leader(lab, "a")? == node))?;
        lab.kubectl(["annotate", "node", node, "spanwire.dev/leader-"])?;
        // What follows has the time to show.
        thread::sleep(GAP);
    }
    Ok(ping.finish()?.longest_gap)
}
