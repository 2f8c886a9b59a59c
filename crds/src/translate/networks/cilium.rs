//! CiliumNodes (`cilium.io/v2`).

use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;
use spanwire_topology::{PodSource, Prefix};

use super::{NetworkObject, NodeNetworks, SourceObject, foreign_kind, texts};

/// A node as Cilium sees it. Its name is that of the Node.
#[derive(Clone, Debug, Deserialize)]
pub struct CiliumNode {
    /// Its name.
    pub metadata: ObjectMeta,
    /// What it has.
    #[serde(default)]
    pub spec: CiliumNodeSpec,
}

/// What is used of the spec of a CiliumNode.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct CiliumNodeSpec {
    /// Where its pods get their addresses from.
    #[serde(default)]
    pub ipam: CiliumIpam,
}

/// Where the pods of a node get their addresses from.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct CiliumIpam {
    /// The networks of the node, with the IPAM modes `cluster-pool` and `kubernetes`.
    #[serde(rename = "podCIDRs", default, deserialize_with = "texts")]
    pub pod_cidrs: BTreeSet<Prefix>,
    /// With the mode `multi-pool`.
    #[serde(default)]
    pub pools: CiliumPools,
}

/// The pools of a node.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct CiliumPools {
    /// What was allocated of each.
    #[serde(default)]
    pub allocated: Vec<CiliumPool>,
}

/// What a node was allocated of a pool.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct CiliumPool {
    /// The networks.
    #[serde(default, deserialize_with = "texts")]
    pub cidrs: BTreeSet<Prefix>,
}

foreign_kind!(CiliumNode, "CiliumNode", "cilium.io", "v2", "ciliumnodes");

impl SourceObject for CiliumNode {
    const SOURCE: PodSource = PodSource::Cilium;
}

impl NetworkObject for CiliumNode {
    fn networks(&self) -> Vec<NodeNetworks> {
        let ipam = &self.spec.ipam;
        let pools = ipam.pools.allocated.iter().flat_map(|pool| &pool.cidrs);
        let networks = ipam.pod_cidrs.iter().chain(pools).copied().collect();
        let node = self.metadata.name.as_deref().and_then(|name| name.parse().ok());
        let of_node = |node| NodeNetworks { node, networks };
        node.map(of_node).into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// As `kubectl get ciliumnodes -o json` prints one of Cilium 1.16 with cluster-pool, dual-stack.
    const OBJECT: &str = include_str!("../../../tests/data/ciliumnode.json");

    fn with(ipam: Option<Value>) -> Result<Vec<String>, String> {
        let said = |error: serde_json::Error| error.to_string();
        let mut object: Value = serde_json::from_str(OBJECT).map_err(said)?;
        if let Some(ipam) = ipam {
            object["spec"]["ipam"] = ipam;
        }
        let read: CiliumNode = serde_json::from_value(object).map_err(said)?;
        let read = read.networks().pop().ok_or("it is about no node")?;
        assert_eq!(read.node.as_str(), "b1");
        Ok(read.networks.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn the_networks_of_a_node_are_those_that_it_was_allocated() {
        assert_eq!(with(None).unwrap(), ["10.0.3.0/24", "fd00::300/120"]);
        let pools = json!({"pools": {
            "allocated": [{"pool": "default", "cidrs": ["10.10.0.0/27"]}, {"pool": "blue", "cidrs": ["10.20.0.0/27"]}],
            "requested": [{"pool": "default", "needed": {"ipv4-addrs": 16}}],
        }});
        assert_eq!(with(Some(pools)).unwrap(), ["10.10.0.0/27", "10.20.0.0/27"]);
    }

    #[test]
    fn a_node_with_addresses_of_the_cloud_has_no_network() {
        let pool = json!({"pool": {"10.1.0.7": {"resource": "eni-1"}}, "podCIDRs": null});
        assert_eq!(with(Some(pool)).unwrap(), Vec::<String>::new());
        assert_eq!(with(Some(json!({}))).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn one_that_cannot_be_read_says_what_is_wrong() {
        let problem = with(Some(json!({"podCIDRs": ["10.0.3.0/24", "10.0.4.1/24"]}))).unwrap_err();
        assert!(problem.contains("write 10.0.4.0/24"), "{problem}");
    }
}
