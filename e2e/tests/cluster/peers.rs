//! A Peer: a plain wireguard-go client outside the cluster.

use std::net::IpAddr;

use anyhow::{Context as _, Result, ensure};
use spanwire_e2e::{Lab, Laptop, wait_until};

use spanwire_e2e::expect::{SOON, answers, leader, pod_ip};

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
