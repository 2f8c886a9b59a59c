//! A party outside the cluster: a plain wireguard-go client on the host on the internet.

use std::net::IpAddr;

use anyhow::{Context, Result};

use crate::{
    expect::SOON,
    lab::Lab,
    machine::{Background, Machine},
    reach::pod_ips,
    wait::wait_until,
};

/// A WireGuard client on the host outside.
#[derive(Debug)]
pub struct Laptop<'a> {
    /// The host it is.
    pub host: Machine<'a>,
    /// Its addresses in the tunnel.
    pub addresses: Vec<IpAddr>,
    /// Its key, in base64.
    pub public_key: String,
    _process: Background,
}

impl<'a> Laptop<'a> {
    /// Starts wireguard-go with a new key and these addresses.
    pub fn start(lab: &'a Lab, addresses: &[IpAddr]) -> Result<Self> {
        let host = lab.outside();
        let program = lab.tools().join("wireguard-go");
        let process = host.spawn([program.to_string_lossy().as_ref(), "-f", "laptop0"])?;
        wait_until("the laptop has its device", SOON, || {
            Ok(host.finish(["ip", "link", "show", "laptop0"])?.code == 0)
        })?;
        let key = lab.folder().join("laptop.key");
        let make = format!("umask 077; wg genkey > {0}; wg pubkey < {0}", key.display());
        let public_key = host.sh(&make)?.trim().to_owned();
        host.sh(&format!("wg set laptop0 private-key {}", key.display()))?;
        for address in addresses {
            host.run(["ip", "address", "add", &address.to_string(), "dev", "laptop0"])?;
        }
        host.sh("ip link set laptop0 up mtu 1420")?;
        Ok(Self {
            host,
            addresses: addresses.to_vec(),
            public_key,
            _process: process,
        })
    }

    /// Returns the Peer object that lets it in.
    #[must_use]
    pub fn manifest(&self, name: &str) -> String {
        let ips: Vec<_> = self.addresses.iter().map(|ip| prefix(*ip)).collect();
        format!(
            "apiVersion: spanwire.dev/v1alpha1\nkind: Peer\nmetadata: {{name: {name}}}\n\
             spec: {{publicKey: '{}', allowedIPs: ['{}']}}\n",
            self.public_key,
            ips.join("', '")
        )
    }

    /// Configures a leader as its peer, through which it reaches the pods of these locations.
    pub fn meet(&self, lab: &Lab, leader: &str, locations: &[&str]) -> Result<()> {
        let mesh_node = lab.get(&["meshnode", leader])?;
        let key = mesh_node["status"]["publicKey"].as_str().context("a key")?;
        let endpoint = &lab.node_layout(leader)?.annotations["spanwire.dev/endpoint"];
        let mut pods = Vec::new();
        for node in lab.layout().nodes() {
            if locations.contains(&node.location.as_str()) {
                pods.extend(pod_ips(lab, &node.name)?);
            }
        }
        let allowed: Vec<_> = pods.iter().map(|pod| prefix(*pod)).collect();
        let peer = ["wg", "set", "laptop0", "peer", key, "endpoint", endpoint];
        let allow = ["persistent-keepalive", "5", "allowed-ips", &allowed.join(",")];
        self.host.run(peer.into_iter().chain(allow))?;
        for pod in pods {
            let own = self.addresses.iter().find(|own| own.is_ipv4() == pod.is_ipv4());
            let own = own.with_context(|| format!("an address to reach {pod} with"))?;
            let route = ["ip", "route", "replace", &prefix(pod), "dev", "laptop0", "src"];
            self.host
                .run(route.into_iter().chain([own.to_string().as_str()]))?;
        }
        Ok(())
    }
}

fn prefix(ip: IpAddr) -> String {
    format!("{ip}/{}", if ip.is_ipv4() { 32 } else { 128 })
}
