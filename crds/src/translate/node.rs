//! Kubernetes Nodes, trimmed to what Spanwire looks at.

use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::Deserialize;
use spanwire_topology::{Labels, LocationName, NodeFact};

use super::{Fields, Translated, created};
use crate::{FieldProblem, annotations};

/// A Kubernetes Node with the fields that Spanwire reads and no others, so that nothing else is ever in memory.
#[derive(Resource, Clone, Debug, Default, Deserialize)]
#[resource(inherit = "k8s_openapi::api::core::v1::Node")]
pub struct Node {
    /// Name, uid, labels, annotations.
    pub metadata: ObjectMeta,
    /// Pod networks.
    #[serde(default)]
    pub spec: NodeSpec,
    /// Addresses and readiness.
    #[serde(default)]
    pub status: NodeStatus,
}

/// What Spanwire reads of the spec of a Node.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct NodeSpec {
    /// The networks of its pods.
    #[serde(rename = "podCIDRs", default)]
    pub pod_cidrs: Vec<String>,
    /// It is cordoned.
    #[serde(default)]
    pub unschedulable: bool,
}

/// What Spanwire reads of the status of a Node.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct NodeStatus {
    /// Its addresses.
    #[serde(default)]
    pub addresses: Vec<NodeAddress>,
    /// Its conditions, of which only Ready counts.
    #[serde(default)]
    pub conditions: Vec<NodeCondition>,
}

/// An address of a Node.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct NodeAddress {
    /// InternalIP, ExternalIP, Hostname, ….
    #[serde(rename = "type")]
    pub kind: String,
    /// The address.
    pub address: String,
}

/// A condition of a Node.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct NodeCondition {
    /// Its type.
    #[serde(rename = "type")]
    pub kind: String,
    /// True, False or Unknown.
    pub status: String,
}

/// How Nodes are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeOptions {
    /// The label with the location of nodes about which no annotation and no selector says anything.
    pub topology_label: String,
    /// Kilo's annotations count too.
    pub kilo_annotations: bool,
}

impl Default for NodeOptions {
    fn default() -> Self {
        Self {
            topology_label: "topology.kubernetes.io/region".to_owned(),
            kilo_annotations: false,
        }
    }
}

/// Returns what a Node says. Its agent's part is not in it ([`Report::complete`](super::Report::complete) adds that),
/// and `alive` is its Ready condition alone.
#[must_use]
pub fn node(node: &Node, options: &NodeOptions) -> Translated<NodeFact> {
    let none = std::collections::BTreeMap::new();
    let annotations = node.metadata.annotations.as_ref().unwrap_or(&none);
    let labels = node.metadata.labels.as_ref().unwrap_or(&none);
    let (said, problems) = annotations::parse(annotations, options.kilo_annotations);
    let mut fields = Fields { problems };
    let region = labels
        .get(&options.topology_label)
        .and_then(|value| region(&mut fields, &options.topology_label, value));
    let addresses = |fields: &mut Fields, kind: &str| {
        let of_kind = node
            .status
            .addresses
            .iter()
            .filter(|address| address.kind == kind);
        let field = format!("status.addresses {kind}");
        of_kind
            .filter_map(|address| fields.one(&field, &address.address))
            .collect::<BTreeSet<_>>()
    };
    let internal = addresses(&mut fields, "InternalIP");
    let external = addresses(&mut fields, "ExternalIP");
    let fact = NodeFact {
        created: created(&node.metadata),
        labels: Labels(labels.clone()),
        location: said.location,
        region,
        leader: said.leader,
        endpoints: said.endpoints,
        external,
        addresses: said.internal.unwrap_or(internal),
        prefixes: fields.list("spec.podCIDRs", &node.spec.pod_cidrs),
        cidrs: said.cidrs,
        keepalive: said.keepalive,
        listen_port: said.listen_port,
        alive: ready(node),
        cordoned: node.spec.unschedulable,
        ..NodeFact::default()
    };
    Translated {
        fact,
        problems: fields.problems,
    }
}

/// Returns the location that a topology label names. Labels may have upper-case letters and underscores, which names
/// have not.
fn region(fields: &mut Fields, label: &str, value: &str) -> Option<LocationName> {
    let name = value.to_ascii_lowercase().replace('_', "-");
    let refused = |problem: String| {
        let problem = format!("{problem}; or annotate the node with {}", annotations::LOCATION);
        fields
            .problems
            .push(FieldProblem::new(&format!("label {label}"), value, &problem));
    };
    annotations::location_name(&name).map_err(refused).ok()
}

fn ready(node: &Node) -> bool {
    let mut conditions = node.status.conditions.iter();
    conditions.any(|condition| condition.kind == "Ready" && condition.status == "True")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_node_is_read_from_what_the_api_server_sends() {
        let read = read(json!({
            "metadata": {
                "name": "a1", "creationTimestamp": "2026-01-02T03:04:05Z",
                "labels": {"topology.kubernetes.io/region": "EU_West"},
                "annotations": {"spanwire.dev/leader": "true", "other.io/x": "y"},
            },
            "spec": {"podCIDR": "10.244.1.0/24", "podCIDRs": ["10.244.1.0/24", "fd00:1::/64"], "unschedulable": true},
            "status": {
                "addresses": [
                    {"type": "InternalIP", "address": "10.1.0.5"}, {"type": "InternalIP", "address": "fd00::5"},
                    {"type": "ExternalIP", "address": "203.0.113.5"}, {"type": "Hostname", "address": "a1"},
                ],
                "conditions": [
                    {"type": "DiskPressure", "status": "False"},
                    {"type": "Ready", "status": "True", "lastHeartbeatTime": "2026-01-02T03:04:05Z"},
                ],
                "images": [{"names": ["x"], "sizeBytes": 1}],
            },
        }));
        assert_eq!(read.problems, []);
        let fact = read.fact;
        assert_eq!(fact.created.0, 1_767_323_045);
        assert_eq!(fact.region, Some("eu-west".parse().unwrap()));
        assert_eq!((fact.leader, fact.alive, fact.cordoned), (Some(true), true, true));
        assert_eq!(
            (fact.addresses.len(), fact.external.len(), fact.prefixes.len()),
            (2, 1, 2)
        );
    }

    #[test]
    fn heartbeats_change_no_fact() {
        let at = |time: &str| {
            read(json!({
                "metadata": {"name": "a1", "resourceVersion": time},
                "status": {"conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": time}]},
            }))
        };
        assert_eq!(at("2026-01-02T03:04:05Z"), at("2026-01-02T03:09:05Z"));
    }

    #[test]
    fn a_node_whose_kubelet_is_silent_is_not_alive() {
        for status in ["False", "Unknown"] {
            let conditions = json!([{"type": "Ready", "status": status}]);
            assert!(
                !read(json!({"metadata": {}, "status": {"conditions": conditions}}))
                    .fact
                    .alive
            );
        }
        assert!(!read(json!({"metadata": {}})).fact.alive);
    }

    #[test]
    fn a_dash_hides_the_addresses_of_the_node() {
        let read = read(json!({
            "metadata": {"annotations": {"spanwire.dev/internal-ip": "-"}},
            "status": {"addresses": [{"type": "InternalIP", "address": "10.1.0.5"}]},
        }));
        assert_eq!(read.fact.addresses, BTreeSet::new());
    }

    #[test]
    fn what_cannot_be_read_is_reported_with_its_field() {
        let read = read(json!({
            "metadata": {"labels": {"topology.kubernetes.io/region": "my.region."}},
            "spec": {"podCIDRs": ["x", "10.244.1.0/24"]},
            "status": {"addresses": [{"type": "InternalIP", "address": "y"}]},
        }));
        let texts: Vec<String> = read.problems.iter().map(ToString::to_string).collect();
        assert_eq!(read.fact.prefixes.len(), 1);
        for field in [
            "label topology.kubernetes.io/region",
            "spec.podCIDRs",
            "status.addresses InternalIP",
        ] {
            assert!(
                texts.iter().any(|text| text.starts_with(field)),
                "{field}: {texts:?}"
            );
        }
    }

    fn read(value: Value) -> Translated<NodeFact> {
        let object: Node = serde_json::from_value(value).unwrap();
        node(&object, &NodeOptions::default())
    }
}
