//! A Peer: a plain wireguard-go client outside the cluster.

use std::net::IpAddr;

use anyhow::{Result, ensure};
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
