//! Pods, trimmed to what says which addresses they have.

use std::net::IpAddr;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::Deserialize;
use spanwire_topology::{PodSource, Prefix};

use super::{NetworkObject, NodeNetworks, SourceObject, text};

/// A Pod with the fields that Spanwire reads and no others.
#[derive(Resource, Clone, Debug, Default, Deserialize)]
#[resource(inherit = "k8s_openapi::api::core::v1::Pod")]
pub struct Pod {
    /// Its name and namespace.
    pub metadata: ObjectMeta,
    /// Where it runs.
    #[serde(default)]
    pub spec: PodSpec,
    /// Its addresses.
    #[serde(default)]
    pub status: PodStatus,
}

/// What is used of the spec of a Pod.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodSpec {
    /// Its node, once it has one.
    #[serde(default)]
    pub node_name: Option<String>,
    /// It has the addresses of its node.
    #[serde(default)]
    pub host_network: bool,
}

/// What is used of the status of a Pod.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct PodStatus {
    /// Pending, Running, Succeeded, Failed or Unknown.
    #[serde(default)]
    pub phase: String,
    /// One of each family.
    #[serde(rename = "podIPs", default)]
    pub addresses: Vec<PodAddress>,
}

/// An address of a Pod.
#[derive(Clone, Debug, Deserialize)]
pub struct PodAddress {
    /// The address.
    #[serde(deserialize_with = "text")]
    pub ip: IpAddr,
}

impl Pod {
    /// Which of them are watched: those that have a node and have not ended.
    pub const WATCHED: &'static str = "spec.nodeName!=,status.phase!=Succeeded,status.phase!=Failed";
    /// How many addresses of a Pod count: Kubernetes has one of each family.
    const MAX_ADDRESSES: usize = 2;
}

impl SourceObject for Pod {
    const SOURCE: PodSource = PodSource::Pods;
}

impl NetworkObject for Pod {
    fn networks(&self) -> Vec<NodeNetworks> {
        let ended = matches!(self.status.phase.as_str(), "Succeeded" | "Failed");
        let addresses = &self.status.addresses;
        if self.spec.host_network || ended || addresses.is_empty() {
            return Vec::new();
        }
        let counted = addresses.iter().take(Self::MAX_ADDRESSES);
        let networks = counted.map(|address| Prefix::host(address.ip)).collect();
        let node = self.spec.node_name.as_deref().and_then(|name| name.parse().ok());
        let of_node = |node| NodeNetworks { node, networks };
        node.map(of_node).into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// As `kubectl get pod -o json` prints one of a dual-stack cluster.
    const OBJECT: &str = include_str!("../../../tests/data/pod.json");

    fn with(change: impl Fn(&mut Value)) -> Option<Vec<String>> {
        let mut object: Value = serde_json::from_str(OBJECT).unwrap();
        change(&mut object);
        let read: Pod = serde_json::from_value(object).unwrap();
        let read = read.networks().pop()?;
        assert_eq!(read.node.as_str(), "c1");
        Some(read.networks.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_pod_that_runs_has_its_addresses() {
        assert_eq!(with(|_| ()).unwrap(), ["10.1.4.17/32", "fd00:1:4::11/128"]);
        let ready = |pod: &mut Value| pod["status"]["phase"] = json!("Pending");
        assert!(with(ready).is_some(), "its init containers may use the network");
    }

    #[test]
    fn one_with_the_network_of_its_host_and_one_that_has_ended_have_none() {
        for (field, key, value) in [
            ("spec", "hostNetwork", json!(true)),
            ("status", "phase", json!("Succeeded")),
            ("status", "phase", json!("Failed")),
            ("status", "podIPs", json!([])),
            ("spec", "nodeName", Value::Null),
        ] {
            assert_eq!(with(|pod| pod[field][key] = value.clone()), None, "{field}.{key}");
        }
    }

    #[test]
    fn of_many_addresses_the_first_two_count() {
        let many: Vec<Value> = (0..9).map(|low| json!({"ip": format!("10.1.4.{low}")})).collect();
        let counted = with(|pod| pod["status"]["podIPs"] = json!(many)).unwrap();
        assert_eq!(counted, ["10.1.4.0/32", "10.1.4.1/32"]);
    }
}
