//! The chart without `apiServer`: the address behind the service `kubernetes` is in the mesh, and nodes must not depend on
//! the mesh for it.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use spanwire_e2e::{
    Lab,
    expect::{SOON, all_reach_all},
    wait_until,
};

/// Returns the device by which a node sends something.
fn device(lab: &Lab, node: &str, to: &[&str]) -> Result<String> {
    let words = ["ip", "-j", "route", "get"].iter().chain(to);
    let found: Value = serde_json::from_str(&lab.node(node)?.run(words)?)?;
    Ok(found[0]["dev"].as_str().context("a device")?.to_owned())
}

pub(crate) fn past_the_mesh(lab: &Lab) -> Result<()> {
    let api = lab.layout().control_plane().addresses[0].to_string();
    for node in ["b1", "b2"] {
        let way = device(lab, node, &[&api, "ipproto", "tcp", "dport", "6443"])?;
        ensure!(way == "eth0", "{node} reaches the API server by {way}");
    }
    // Whatever else there is on that node is reached in the mesh.
    let way = device(lab, "b1", &[&api, "ipproto", "tcp", "dport", "22"])?;
    ensure!(
        way == "spanwire0",
        "b1 reaches another port of that node by {way}"
    );
    Ok(())
}

pub(crate) fn blocked(lab: &Lab) -> Result<()> {
    lab.block_udp(51820)?;
    let followed = follows(lab, "b1", "51999").and_then(|()| follows(lab, "b2", "51998"));
    lab.heal()?;
    lab.kubectl(["annotate", "node", "b1", "b2", "spanwire.dev/listen-port-"])?;
    followed?;
    all_reach_all(lab)
}

/// A change is heard of, and reported, by the agent of a node.
fn follows(lab: &Lab, node: &str, port: &str) -> Result<()> {
    lab.kubectl([
        "annotate",
        "node",
        node,
        &format!("spanwire.dev/listen-port={port}"),
    ])?;
    wait_until(&format!("the agent of {node} follows"), SOON, || {
        let found = lab.get(&["meshnode", node])?;
        let published = &found["metadata"]["generation"];
        let seen = &found["status"]["observedGeneration"];
        ensure!(
            found["spec"].to_string().contains(port) && seen == published,
            "generation {published}, observed {seen}: {}",
            found["spec"]
        );
        Ok(true)
    })
}
