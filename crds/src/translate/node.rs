//! Kubernetes Nodes, trimmed to what Spanwire looks at.

use std::{collections::BTreeSet, net::IpAddr};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;
use kube::Resource;
use serde::Deserialize;
use spanwire_topology::{Created, Endpoint, EndpointError, Field, Labels, LocationName, NodeFact};

use super::{Fields, Translated, cloud, created};
use crate::{FieldProblem, annotations};

/// The labels of nodes of the control plane. The admission plugin NodeRestriction keeps kubelets from setting labels of
/// `node-role.kubernetes.io/` (Kubernetes enhancement 279): kubeadm, k3s and RKE2 set the first; older ones the second; RKE the
/// third. The kubelets of MicroK8s set the last when they register; the chart's policy keeps them from setting it later.
pub const CONTROL_PLANE: [&str; 4] = [
    "node-role.kubernetes.io/control-plane",
    "node-role.kubernetes.io/master",
    "node-role.kubernetes.io/controlplane",
    "node.kubernetes.io/microk8s-controlplane",
];

/// The taints by which a node is marked before its pods are moved away. `kubectl cordon` and `kubectl drain` mark it as
/// unschedulable, for which the node controller adds the first; the cluster autoscaler and Karpenter set the others alone.
const DRAINED: [&str; 4] = [
    "node.kubernetes.io/unschedulable",
    "ToBeDeletedByClusterAutoscaler",
    "karpenter.sh/disrupted",
    "karpenter.sh/disruption",
];

/// The taints of a node that is not ready, or of which nothing is heard.
const DOWN: [&str; 2] = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];

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
    /// Which machine it is, where a cloud has named it.
    #[serde(rename = "providerID", default)]
    pub provider_id: String,
    /// It is cordoned.
    #[serde(default)]
    pub unschedulable: bool,
    /// Its taints.
    #[serde(default)]
    pub taints: Vec<Taint>,
}

/// A taint of a Node.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Taint {
    /// What it is about.
    pub key: String,
    /// Since when it is there.
    #[serde(rename = "timeAdded", default)]
    pub added: Option<String>,
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
    /// What its kubelet says of the machine.
    #[serde(rename = "nodeInfo", default)]
    pub info: NodeInfo,
}

/// What Spanwire reads of a machine's description.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct NodeInfo {
    /// The kernel's name of the boot that the machine is in.
    #[serde(rename = "bootID", default)]
    pub boot_id: String,
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
    let node_annotations = node.metadata.annotations.as_ref().unwrap_or(&none);
    let labels = node.metadata.labels.as_ref().unwrap_or(&none);
    let (said, problems) = annotations::parse(node_annotations, options.kilo_annotations);
    let mut fields = Fields { problems };
    let mut unread = said.unread;
    let label = labels.get(&options.topology_label);
    let region = label.and_then(|value| region(&mut fields, &options.topology_label, value));
    if label.is_some() && region.is_none() {
        unread.insert(Field::Region);
    }
    let (internal, legible) = addresses(&mut fields, node, "InternalIP", annotations::INTERNAL_IP);
    // With the annotation they do not count.
    if !legible && said.internal.is_none() {
        unread.insert(Field::StatusAddresses);
    }
    let (read, legible) = addresses(&mut fields, node, "ExternalIP", annotations::ENDPOINT);
    let mut external = read.clone();
    external.retain(|address| is_reachable(&mut fields, *address));
    // With the annotation they do not count.
    if (!legible || external != read) && said.endpoints.is_empty() {
        unread.insert(Field::External);
    }
    let pods = &node.spec.pod_cidrs;
    let counted = &pods[..pods.len().min(NodeFact::MAX_NETWORKS)];
    if pods.len() > counted.len() {
        let problem = annotations::too_many("spec.podCIDRs", pods.len(), counted.len());
        fields.problems.push(problem);
    }
    let prefixes: BTreeSet<_> = fields.list("spec.podCIDRs", counted);
    let room = NodeFact::MAX_NETWORKS - prefixes.len();
    let mut cidrs = said.cidrs;
    if cidrs.len() > room {
        let key = annotations::key_found(
            node_annotations,
            annotations::LOCATION_CIDRS,
            options.kilo_annotations,
        );
        let field = format!("annotation {key}");
        fields
            .problems
            .push(annotations::too_many(&field, cidrs.len(), room));
        cidrs = cidrs.into_iter().take(room).collect();
    }
    let ready = ready(node);
    let fact = NodeFact {
        created: created(&node.metadata),
        labels: Labels(labels.clone()),
        location: said.location,
        region,
        leader: said.leader,
        endpoints: said.endpoints,
        external,
        annotated: said.internal.is_some(),
        addresses: said.internal.unwrap_or(internal),
        control_plane: CONTROL_PLANE.iter().any(|label| labels.contains_key(*label)),
        down_since: (!ready).then(|| down_since(node)),
        unread,
        prefixes,
        cidrs,
        keepalive: said.keepalive,
        listen_port: said.listen_port,
        alive: ready,
        cordoned: node.spec.unschedulable || drained(node),
        cloud: cloud::is_of_a_cloud(&node.spec.provider_id),
        ..NodeFact::default()
    };
    Translated {
        fact,
        problems: fields.problems,
    }
}

/// Returns the boot that the machine is in, if its kubelet names it: the first letters, for it is a UUID.
#[must_use]
pub fn boot(node: &Node) -> Option<String> {
    const LONGEST: usize = 63;
    let printable = node.status.info.boot_id.chars().filter(char::is_ascii_graphic);
    let boot: String = printable.take(LONGEST).collect();
    (!boot.is_empty()).then_some(boot)
}

/// Returns the first addresses of a kind, and whether each of them could be read; those behind them are reported together.
/// `annotation` may say the same.
fn addresses(fields: &mut Fields, node: &Node, kind: &str, annotation: &str) -> (BTreeSet<IpAddr>, bool) {
    let of_kind = || {
        let addresses = node.status.addresses.iter();
        addresses.filter(|address| address.kind == kind)
    };
    let field = format!("status.addresses {kind}");
    let (count, most) = (of_kind().count(), NodeFact::MAX_ADDRESSES);
    if count > most {
        fields.problems.push(annotations::too_many(&field, count, most));
    }
    let read: Vec<Option<IpAddr>> = of_kind()
        .take(most)
        .map(|address| {
            let problem =
                format!("is no IP address; correct what sets it, or annotate the node with {annotation}");
            let read = address.address.parse();
            let refused = |_: std::net::AddrParseError| FieldProblem::new(&field, &address.address, &problem);
            read.map_err(|error| fields.problems.push(refused(error))).ok()
        })
        .collect();
    let legible = read.iter().all(Option::is_some);
    (read.into_iter().flatten().collect(), legible)
}

/// Whether others may reach the node at an external address, which is where they send handshakes to.
fn is_reachable(fields: &mut Fields, address: IpAddr) -> bool {
    let problem = match Endpoint::at(address, 1) {
        Ok(_) => return true,
        Err(EndpointError::Mapped(address)) => {
            format!(
                "is an IPv4 address written as IPv6; have the cloud's controller or the kubelet write {address}"
            )
        }
        Err(_) => format!(
            "is an address at which no other host can be reached; correct what sets it, or name where the node is reached \
             with {}",
            annotations::ENDPOINT
        ),
    };
    let field = "status.addresses ExternalIP";
    fields
        .problems
        .push(FieldProblem::new(field, &address.to_string(), &problem));
    false
}

/// Returns the location that a topology label names.
fn region(fields: &mut Fields, label: &str, value: &str) -> Option<LocationName> {
    let refused = |problem: String| {
        let problem = format!("{problem}; or annotate the node with {}", annotations::LOCATION);
        fields
            .problems
            .push(FieldProblem::new(&format!("label {label}"), value, &problem));
    };
    let name = annotations::folded(value);
    annotations::location_name(&name).map_err(refused).ok()
}

fn drained(node: &Node) -> bool {
    let mut taints = node.spec.taints.iter();
    taints.any(|taint| DRAINED.contains(&taint.key.as_str()))
}

fn ready(node: &Node) -> bool {
    let mut conditions = node.status.conditions.iter();
    conditions.any(|condition| condition.kind == "Ready" && condition.status == "True")
}

/// Returns since when a node is not ready, as the node controller says by its taints. Its condition says that too, but those who may write
/// the status of Nodes, as some CNIs may, would choose the time. Until the controller has noticed it is not known to be down.
fn down_since(node: &Node) -> Created {
    let taints = node.spec.taints.iter();
    let taints = taints.filter(|taint| DOWN.contains(&taint.key.as_str()));
    let times = taints.filter_map(|taint| {
        let added: Timestamp = taint.added.as_ref()?.parse().ok()?;
        Some(Created(added.as_second()))
    });
    times.max().unwrap_or(Created(i64::MAX))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn of_what_a_kubelet_calls_the_boot_letters_are_kept_as_many_as_the_schema_takes() {
        let of = |boot: &str| {
            let object = json!({"metadata": {}, "status": {"nodeInfo": {"bootID": boot}}});
            boot_of(object)
        };
        let uuid = "b8a1d1c0-6f7e-4a52-9d3c-1f0a5b1c2d3e";
        assert_eq!(of(uuid).as_deref(), Some(uuid));
        assert_eq!(of("a\nb ü").as_deref(), Some("ab"));
        assert_eq!(of(&"x".repeat(5000)).map(|boot| boot.len()), Some(63));
        assert_eq!((of(""), boot_of(json!({"metadata": {}}))), (None, None));
    }

    fn boot_of(object: serde_json::Value) -> Option<String> {
        boot(&serde_json::from_value(object).unwrap())
    }

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
    fn a_node_that_is_about_to_be_emptied_is_as_one_that_is_cordoned() {
        let cordoned = |spec: Value| read(json!({"metadata": {}, "spec": spec})).fact.cordoned;
        for key in DRAINED {
            let taints =
                json!([{"key": "other.io/x", "effect": "NoExecute"}, {"key": key, "effect": "NoSchedule"}]);
            assert!(cordoned(json!({"taints": taints})), "{key}");
        }
        assert!(cordoned(json!({"unschedulable": true, "taints": []})));
        let control_plane = json!([{"key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule"}]);
        assert!(!cordoned(json!({"taints": control_plane})));
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
    fn since_when_a_node_is_down_is_said_by_the_node_controller_and_not_by_who_writes_its_status() {
        let long_ago = "2020-01-01T00:00:00Z";
        let since = |ready: &str, taints: Value| {
            let conditions = json!([{"type": "Ready", "status": ready, "lastTransitionTime": long_ago}]);
            let object = json!({
                "metadata": {"creationTimestamp": long_ago},
                "spec": {"taints": taints}, "status": {"conditions": conditions},
            });
            read(object).fact.down_since.map(|since| since.0)
        };
        let taint = |key: &str, added: &str| {
            let key = format!("node.kubernetes.io/{key}");
            json!({"key": key, "effect": "NoExecute", "timeAdded": added})
        };
        let down = taint("unreachable", "2026-01-02T00:00:00Z");
        assert_eq!(since("True", json!([down])), None);
        assert_eq!(since("Unknown", json!([down])), Some(1_767_312_000));
        let both = json!([taint("not-ready", "2026-01-01T00:00:00Z"), down]);
        assert_eq!(since("False", both), Some(1_767_312_000));
        let unknown = Some(i64::MAX);
        for taints in [
            json!([]),
            json!([taint("unschedulable", long_ago)]),
            json!([taint("unreachable", "2026-01-02T00:00:00+99:99")]),
            json!([{"key": "node.kubernetes.io/unreachable"}]),
        ] {
            assert_eq!(since("Unknown", taints.clone()), unknown, "{taints}");
        }
    }

    #[test]
    fn the_labels_of_installers_and_no_other_make_a_node_one_of_the_control_plane() {
        let of = |label: &str, value: &str| {
            read(json!({"metadata": {"labels": {label: value}}}))
                .fact
                .control_plane
        };
        for (label, value) in [
            ("node-role.kubernetes.io/control-plane", ""),
            ("node-role.kubernetes.io/control-plane", "true"),
            ("node-role.kubernetes.io/master", ""),
            ("node-role.kubernetes.io/controlplane", "true"),
            (
                "node.kubernetes.io/microk8s-controlplane",
                "microk8s-controlplane",
            ),
        ] {
            assert!(of(label, value), "{label}");
        }
        for label in [
            "node.kubernetes.io/control-plane",
            "control-plane",
            "node-role.kubernetes.io/worker",
            "node.kubernetes.io/microk8s-worker",
        ] {
            assert!(!of(label, "true"), "{label}");
        }
    }

    #[test]
    fn of_many_addresses_and_networks_the_first_count_and_the_rest_is_reported_once() {
        let internal: Vec<Value> = (0..40)
            .map(|n| json!({"type": "InternalIP", "address": format!("10.1.0.{n}")}))
            .collect();
        let pods: Vec<String> = (0..70).map(|n| format!("10.244.{n}.0/24")).collect();
        let read = read(json!({
            "metadata": {"annotations": {"spanwire.dev/location-cidrs": "172.20.0.0/24"}},
            "spec": {"podCIDRs": pods}, "status": {"addresses": internal},
        }));
        let fact = &read.fact;
        assert_eq!(
            (fact.addresses.len(), fact.prefixes.len(), fact.cidrs.len()),
            (16, 64, 0)
        );
        let texts: Vec<String> = read.problems.iter().map(ToString::to_string).collect();
        assert_eq!(texts.len(), 3, "{texts:?}");
        for (field, count) in [
            ("status.addresses InternalIP", "40"),
            ("spec.podCIDRs", "70"),
            ("location-cidrs", "1"),
        ] {
            let named = |text: &String| text.contains(field) && text.contains(&format!("has {count} values"));
            assert!(texts.iter().any(named), "{field}: {texts:?}");
        }
    }

    #[test]
    fn an_external_address_at_which_no_other_host_is_counts_for_nothing_and_is_reported() {
        let external = |address: &str| {
            let addresses = json!([{"type": "ExternalIP", "address": address}, {"type": "ExternalIP", "address": "203.0.113.5"}]);
            let read = read(json!({"metadata": {}, "status": {"addresses": addresses}}));
            let texts: Vec<String> = read.problems.iter().map(ToString::to_string).collect();
            let kept = read.fact.unread.contains(&Field::External);
            (read.fact.external.len(), texts, kept)
        };
        for (address, remedy) in [
            ("127.0.0.1", "spanwire.dev/endpoint"),
            ("0.0.0.0", "spanwire.dev/endpoint"),
            ("255.255.255.255", "spanwire.dev/endpoint"),
            ("169.254.7.1", "spanwire.dev/endpoint"),
            ("239.1.2.3", "spanwire.dev/endpoint"),
            ("::", "spanwire.dev/endpoint"),
            ("::1", "spanwire.dev/endpoint"),
            ("fe80::7", "spanwire.dev/endpoint"),
            ("ff02::7", "spanwire.dev/endpoint"),
            ("::ffff:203.0.113.7", "write 203.0.113.7"),
            ("203.0.113.7:51820", "is no IP address; correct what sets it"),
        ] {
            let (count, texts, kept) = external(address);
            assert_eq!((count, texts.len(), kept), (1, 1, true), "{address}: {texts:?}");
            let named = texts[0].starts_with("status.addresses ExternalIP") && texts[0].contains(address);
            assert!(named && texts[0].contains(remedy), "{texts:?}");
        }
        assert_eq!(external("2001:db8::7"), (2, Vec::new(), false));
        assert_eq!(
            external("10.0.0.7"),
            (2, Vec::new(), false),
            "of a cloud's own network"
        );
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

    #[test]
    fn beside_an_address_that_cannot_be_read_the_others_count_and_what_was_there_stays() {
        let addresses = |texts: &[&str], annotation: Option<&str>| {
            let all: Vec<Value> = texts
                .iter()
                .map(|text| json!({"type": "InternalIP", "address": text}))
                .collect();
            let annotations = annotation.map_or(json!({}), |text| json!({"spanwire.dev/internal-ip": text}));
            read(json!({"metadata": {"annotations": annotations}, "status": {"addresses": all}})).fact
        };
        let is = |fact: &NodeFact, texts: &[&str]| {
            let expected: BTreeSet<IpAddr> = texts.iter().map(|text| text.parse().unwrap()).collect();
            assert_eq!(fact.addresses, expected);
        };
        let before = addresses(&["10.1.0.5", "fd00::5"], None);
        let mut now = addresses(&["10.1.0.5", "fe80::5%eth0", "10.1.0.6"], None);
        is(&now, &["10.1.0.5", "10.1.0.6"]);
        now.keep(&before);
        is(&now, &["10.1.0.5", "10.1.0.6", "fd00::5"]);
        // Once all of them can be read they are what counts.
        let mut mended = addresses(&["10.1.0.6"], None);
        mended.keep(&now);
        is(&mended, &["10.1.0.6"]);
        // What an annotation said is no part of the status.
        let annotated = addresses(&["x"], Some("10.9.0.9"));
        is(&annotated, &["10.9.0.9"]);
        let mut without = addresses(&["x", "10.1.0.5"], None);
        without.keep(&annotated);
        is(&without, &["10.1.0.5"]);
    }

    fn read(value: Value) -> Translated<NodeFact> {
        let object: Node = serde_json::from_value(value).unwrap();
        node(&object, &NodeOptions::default())
    }
}
