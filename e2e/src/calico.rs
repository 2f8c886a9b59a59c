//! Calico, imitated: its objects, its CNI plugins' configuration, and what its agent does on a node (`calico/node.sh`).
//!
//! The real one cannot be built here. What is imitated was seen of it (v3.28): blocks of addresses that are others than the
//! node's podCIDR, the devices, routes, neighbours and FDB entries that Felix makes and the foreign ones that it deletes, its rules
//! about sources and invalid packets. Not imitated are policies, Typha, and BGP as a protocol.

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::{
    lab::Lab,
    layout::{CALICO_PORT, Layout, LocationLayout, NodeLayout},
    scenario::{Cni, Scenario},
    store::Store,
};

/// What every node reads all about the others from, in the lab's folder.
const NODES: &str = "calico.nodes";
/// What a node has when its CNI works.
pub(crate) const READY: &str = "/run/calico/ready";

/// The pool of a location.
fn pool(location: &LocationLayout) -> Value {
    let vxlan = match location.cni {
        Cni::CalicoCrossSubnet => "CrossSubnet",
        Cni::CalicoBgp => "Never",
        Cni::Vxlan | Cni::HostGw | Cni::CalicoVxlan | Cni::Cloud => "Always",
    };
    json!({"apiVersion": "crd.projectcalico.org/v1", "kind": "IPPool", "metadata": {"name": location.name},
        "spec": {"cidr": "10.244.128.0/17", "vxlanMode": vxlan, "ipipMode": "Never", "natOutgoing": true, "blockSize": 26,
            "nodeSelector": format!("location == '{}'", location.name), "allowedUses": ["Workload", "Tunnel"]}})
}

/// Returns the two blocks of the node of that number: neighbours of other nodes' blocks, and none of them in its podCIDR.
fn blocks(number: u8) -> [String; 2] {
    [128, 192].map(|third| format!("10.244.{}.{}/26", third + number / 4, number % 4 * 64))
}

/// Returns the address of a block's first place or last one, which no pod gets.
fn at_end(block: &str, last: bool) -> Result<IpAddr> {
    let network = block.strip_suffix("/26").unwrap_or(block);
    let (first, host) = network.rsplit_once('.').context("IPv4")?;
    let host: u8 = host.parse()?;
    Ok(format!("{first}.{}", if last { host + 63 } else { host }).parse()?)
}

fn nodes(layout: &Layout) -> impl Iterator<Item = (u8, &LocationLayout, &NodeLayout)> {
    let nodes = layout
        .locations
        .iter()
        .flat_map(|location| location.nodes.iter().map(move |node| (location, node)));
    (0u8..)
        .zip(nodes)
        .map(|(number, (location, node))| (number, location, node))
}

/// Writes who is where, with the tunnel addresses that are `moved` at the ends of their blocks.
fn write_nodes(store: &Store, layout: &Layout, moved: &[String]) -> Result<()> {
    let mut text = String::new();
    for (number, location, node) in nodes(layout) {
        let [first, second] = blocks(number);
        let mode = match location.cni {
            Cni::CalicoCrossSubnet => "cross",
            Cni::CalicoBgp => "bgp",
            Cni::Vxlan | Cni::HostGw | Cni::CalicoVxlan | Cni::Cloud => "vxlan",
        };
        let address = node.addresses[0];
        let subnet = match (address, location.subnet) {
            (IpAddr::V4(address), 25) if address.octets()[3] >= 128 => "upper",
            _ => "lower",
        };
        let vtep = match mode {
            "bgp" => "-".to_owned(),
            _ => at_end(&first, moved.contains(&node.name))?.to_string(),
        };
        let (name, place, mtu) = (&node.name, &location.name, location.mtu);
        text += &format!(
            "{name} {place} {mode} {address} {subnet} {mtu} 66:ca:11:c0:00:{number:02x} {vtep} {first} {second}\n"
        );
    }
    // Nodes read it while it is written.
    let new = store.write(format!(".{NODES}"), text)?;
    std::fs::rename(new, store.path(NODES)).context("cannot say where Calico's nodes are")
}

/// Writes what all nodes share.
pub(crate) fn write_shared(store: &Store, layout: &Layout) -> Result<()> {
    store.write("calico.sh", include_str!("calico/node.sh"))?;
    write_nodes(store, layout, &[])
}

/// Returns the configuration of the CNI plugins of a node. Of its two blocks pods of every other node have the second.
pub(crate) fn conflist(layout: &Layout, node: &NodeLayout) -> Value {
    let found = nodes(layout).find(|(_, _, other)| other.name == node.name);
    let (number, mtu) = found.map_or((0, 1500), |(number, location, _)| (number, location.mtu));
    let mut blocks = blocks(number);
    if number % 2 == 1 {
        blocks.reverse();
    }
    let ranges = blocks.map(|block| json!({"subnet": block}));
    json!({"name": "k8s-pod-network", "cniVersion": "0.3.1", "plugins": [
        {"type": "ptp", "mtu": mtu - 50, "ipam": {
            "type": "host-local", "ranges": [ranges], "routes": [{"dst": "0.0.0.0/0"}]}},
        {"type": "portmap", "capabilities": {"portMappings": true}},
    ]})
}

/// Returns a script of services for a node.
pub(crate) fn services(store: &Store, node: &NodeLayout) -> String {
    let lab = store.root().display();
    format!(
        "supervise calico bash {lab}/calico.sh {lab}/{NODES} {} {CALICO_PORT}\n",
        node.name
    )
}

/// Returns Calico's kinds.
pub(crate) fn kinds() -> Value {
    let kind = |plural: &str, kind: &str| {
        json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": format!("{plural}.crd.projectcalico.org")},
            "spec": {"group": "crd.projectcalico.org", "scope": "Cluster",
                "names": {"kind": kind, "listKind": format!("{kind}List"), "plural": plural, "singular": kind.to_lowercase()},
                "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {
                    "type": "object", "x-kubernetes-preserve-unknown-fields": true}}}]}})
    };
    let kinds = [
        kind("blockaffinities", "BlockAffinity"),
        kind("ippools", "IPPool"),
        kind("felixconfigurations", "FelixConfiguration"),
    ];
    json!({"apiVersion": "v1", "kind": "List", "items": kinds})
}

/// Returns the pools and the blocks of all nodes, and a block that was taken from a node that there is no more.
pub(crate) fn objects(layout: &Layout) -> Value {
    let block = |node: &str, cidr: &str, state: &str, deleted: &str| {
        let name = format!("{node}-{}", cidr.replace(['.', '/'], "-"));
        json!({"apiVersion": "crd.projectcalico.org/v1", "kind": "BlockAffinity", "metadata": {"name": name},
            "spec": {"cidr": cidr, "node": node, "state": state, "deleted": deleted}})
    };
    let mut items: Vec<Value> = layout.locations.iter().map(pool).collect();
    for (number, _, node) in nodes(layout) {
        let blocks = blocks(number);
        items.extend(
            blocks
                .iter()
                .map(|cidr| block(&node.name, cidr, "confirmed", "false")),
        );
    }
    if let Some((_, _, node)) = nodes(layout).next() {
        // Asked for, and not had: another node may be the one that gets it.
        items.push(block(&node.name, "10.244.250.0/26", "pending", "false"));
    }
    json!({"apiVersion": "v1", "kind": "List", "items": items})
}

/// Returns what Calico's agent writes on a Node.
pub(crate) fn annotations(scenario: &Scenario, layout: &Layout, node: &NodeLayout) -> Vec<(String, String)> {
    if !scenario.network.cni.is_calico() {
        return Vec::new();
    }
    let found = nodes(layout).find(|(_, _, other)| other.name == node.name);
    let Some((number, location, _)) = found else {
        return Vec::new();
    };
    let own = format!("{}/{}", node.addresses[0], location.subnet);
    let mut all = vec![("projectcalico.org/IPv4Address".to_owned(), own)];
    let vtep = at_end(&blocks(number)[0], false).ok();
    let vtep = vtep.filter(|_| location.cni != Cni::CalicoBgp);
    all.extend(vtep.map(|vtep| {
        (
            "projectcalico.org/IPv4VXLANTunnelAddr".to_owned(),
            vtep.to_string(),
        )
    }));
    all
}

impl Lab {
    /// Gives Calico's devices of these nodes other addresses, and all others those that they had at first.
    pub fn move_tunnel_addresses(&self, of: &[String]) -> Result<()> {
        ensure!(self.scenario().network.cni.is_calico(), "there is no Calico");
        write_nodes(&self.store, &self.layout, of)
    }

    /// Returns what Calico's agent on a node has deleted that it did not know.
    pub fn deleted_by_calico(&self, node: &str) -> Result<Vec<String>> {
        let log = self.node(node)?.service_log("calico", 1000)?;
        let deleted = log.lines().filter(|line| line.starts_with("deletes "));
        Ok(deleted.map(str::to_owned).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_of_neighbours_lie_side_by_side_and_tunnel_addresses_in_them() {
        assert_eq!(blocks(0), ["10.244.128.0/26", "10.244.192.0/26"]);
        assert_eq!(blocks(5), ["10.244.129.64/26", "10.244.193.64/26"]);
        let ends = [false, true].map(|last| at_end(&blocks(5)[0], last).unwrap().to_string());
        assert_eq!(ends, ["10.244.129.64", "10.244.129.127"]);
    }
}
