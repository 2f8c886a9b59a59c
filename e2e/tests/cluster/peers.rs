//! A Peer: a plain wireguard-go client outside the cluster.

use anyhow::{Context, Result, ensure};
use spanwire_e2e::{Background, Lab, Machine, wait_until};

use spanwire_e2e::expect::{SOON, answers, leader, pod_ip};

const ADDRESS: &str = "10.99.0.1";

/// A WireGuard client on the host outside, with the leaders of a and b as its peers.
struct Laptop<'a> {
    host: Machine<'a>,
    _process: Background,
    public_key: String,
}

impl<'a> Laptop<'a> {
    fn start(lab: &'a Lab) -> Result<Self> {
        let host = lab.outside();
        let program = lab.tools().join("wireguard-go");
        let process = host.spawn([program.to_string_lossy().as_ref(), "-f", "laptop0"])?;
        wait_until("the laptop has its device", SOON, || {
            Ok(host.finish(["ip", "link", "show", "laptop0"])?.code == 0)
        })?;
        let key = lab.folder().join("laptop.key");
        let make = format!("umask 077; wg genkey > {0}; wg pubkey < {0}", key.display());
        let public_key = host.sh(&make)?.trim().to_owned();
        host.sh(&format!(
            "wg set laptop0 private-key {} && ip address add {ADDRESS}/32 dev laptop0 && ip link set laptop0 up mtu 1420",
            key.display()
        ))?;
        Ok(Self {
            host,
            _process: process,
            public_key,
        })
    }

    /// Tells the laptop which leaders there are: c, behind NAT, is reached through a.
    fn meet(&self, lab: &Lab) -> Result<()> {
        for (location, locations) in [("a", &["a", "c"][..]), ("b", &["b"])] {
            let node = &leader(lab, location)?;
            let mesh_node = lab.get(&["meshnode", node])?;
            let key = mesh_node["status"]["publicKey"].as_str().context("a key")?;
            let endpoint = &lab.node_layout(node)?.annotations["spanwire.dev/endpoint"];
            let here = lab
                .layout()
                .nodes()
                .filter(|node| locations.contains(&node.location.as_str()));
            let pods: Result<Vec<String>> = here
                .map(|node| Ok(format!("{}/32", pod_ip(lab, &node.name)?)))
                .collect();
            let pods = pods?;
            self.host.run([
                "wg",
                "set",
                "laptop0",
                "peer",
                key,
                "endpoint",
                endpoint,
                "allowed-ips",
                &pods.join(","),
                "persistent-keepalive",
                "5",
            ])?;
            for pod in pods {
                self.host
                    .run(["ip", "route", "replace", &pod, "dev", "laptop0", "src", ADDRESS])?;
            }
        }
        Ok(())
    }
}

pub(crate) fn laptop(lab: &Lab) -> Result<()> {
    let laptop = Laptop::start(lab)?;
    lab.apply(&format!(
        "apiVersion: spanwire.dev/v1alpha1\nkind: Peer\nmetadata: {{name: laptop}}\n\
         spec: {{publicKey: '{}', allowedIPs: [{ADDRESS}/32]}}\n",
        laptop.public_key
    ))?;
    laptop.meet(lab)?;
    let nodes: Vec<String> = lab.layout().nodes().map(|node| node.name.clone()).collect();
    for node in &nodes {
        let pod = pod_ip(lab, node)?;
        wait_until(&format!("the laptop reaches the pod on {node}"), SOON, || {
            answers(&laptop.host, pod)
        })?;
    }
    let seen = lab.pod_on("c2")?;
    wait_until("a pod reaches the laptop", SOON, || {
        answers(&seen, ADDRESS.parse()?)
    })?;
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
