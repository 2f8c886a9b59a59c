use kube::{
    ResourceExt as _,
    core::{ObjectList, WatchEvent},
};
use serde_json::json;

use super::*;

/// A time that the API server takes where a schema says `date-time`, and that there is not.
const NEVER: &str = "2026-01-01T00:00:00+99:99";
/// One that Go's times hold and that is later than any that can be computed with here.
const LATE: &str = "9999-12-31T23:59:59Z";

fn read<K: Observable>(object: Value) -> Observed<K> {
    serde_json::from_str(&object.to_string()).unwrap()
}

fn mesh_node(status: Value) -> Observed<MeshNode> {
    read(json!({
        "apiVersion": "spanwire.dev/v1alpha1", "kind": "MeshNode",
        "metadata": {"name": "a1", "uid": "u", "resourceVersion": "7", "generation": 3},
        "spec": {"location": "a"}, "status": status,
    }))
}

fn condition(time: &str) -> Value {
    json!({"type": "Ready", "status": "True", "reason": "AllWell", "message": "", "lastTransitionTime": time})
}

#[test]
fn a_time_that_there_is_not_costs_its_condition_alone_and_is_named() {
    let observed = mesh_node(json!({
        "publicKey": "k", "links": [{"location": "b", "up": true}],
        "conditions": [condition("2026-01-01T00:00:00Z"), condition(NEVER), condition(LATE)],
    }));
    let complaint = observed.complaint();
    let object = observed.object.unwrap();
    assert_eq!(object.metadata.resource_version.as_deref(), Some("7"));
    assert_eq!(object.spec.location.as_deref(), Some("a"));
    let status = object.status.unwrap();
    assert_eq!(status.public_key.as_deref(), Some("k"));
    assert_eq!((status.links.len(), status.conditions.len()), (1, 1));
    for part in ["status.conditions[1]", "status.conditions[2]", "set aside"] {
        assert!(complaint.contains(part), "{complaint}");
    }
}

#[test]
fn a_field_of_a_status_that_has_another_shape_costs_that_field_alone() {
    let observed = mesh_node(json!({
        "publicKey": "k", "listenPort": {"from": 1}, "retired": "yes", "links": "all", "conditions": [3],
    }));
    assert_eq!(observed.problems.len(), 4, "{}", observed.complaint());
    let status = observed.object.unwrap().status.unwrap();
    assert_eq!(status.public_key.as_deref(), Some("k"));
    assert_eq!(
        (status.listen_port, status.retired, status.links.len()),
        (None, false, 0)
    );
    let none = mesh_node(json!("status"));
    assert_eq!(none.problems[0].field, "status");
    assert!(none.object.is_some());
}

#[test]
fn a_spec_counts_as_a_whole_and_the_object_keeps_its_identity() {
    let observed: Observed<Peer> = read(json!({
        "metadata": {"name": "laptop", "uid": "u", "resourceVersion": "7"},
        "spec": {"publicKey": "k", "allowedIPs": ["10.99.0.7/32"], "location": {"any": "of"}},
    }));
    assert!(observed.object.is_none());
    assert_eq!(
        (observed.name(), observed.metadata.uid.as_deref()),
        ("laptop", Some("u"))
    );
    assert!(observed.complaint().starts_with("spec: cannot be read"));
}

#[test]
fn metadata_that_nothing_uses_is_not_looked_at_and_of_the_rest_each_field_counts_by_itself() {
    let mut deep = json!({});
    for _ in 0..100 {
        deep = json!({"f:a": deep});
    }
    let observed: Observed<Node> = read(json!({
        "metadata": {
            "name": "a1", "creationTimestamp": LATE, "deletionTimestamp": NEVER,
            "labels": {"a": "b", "c": 4}, "annotations": {"x": ["y"]}, "generation": "many", "ownerReferences": [7],
            "managedFields": [{"manager": "m", "time": NEVER, "fieldsV1": deep}],
        },
        "spec": {"podCIDRs": ["10.244.1.0/24"], "externalID": 4, "podCIDR": 7},
        "status": {
            "conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": NEVER}],
            "capacity": {"cpu": "1e99999"}, "images": [4],
        },
    }));
    assert_eq!(observed.problems, []);
    assert_eq!(observed.labels().len(), 1);
    assert_eq!(observed.metadata.generation, None);
    let node = observed.object.unwrap();
    assert_eq!(node.spec.pod_cidrs, ["10.244.1.0/24"]);
    assert_eq!(node.status.conditions[0].status, "True");
    assert_eq!(node.metadata.creation_timestamp, Some(Time(Timestamp::MAX)));
}

#[test]
fn all_that_a_type_has_is_taken_and_nothing_else() {
    let observed: Observed<Node> = read(json!({
        "metadata": {"name": "a1"},
        "spec": {
            "podCIDRs": ["10.244.1.0/24"], "providerID": "aws:///eu-west-1a/i-0123", "unschedulable": true,
            "taints": [{"key": "karpenter.sh/disrupted", "effect": "NoSchedule"}],
        },
        "status": {
            "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}],
            "conditions": [{"type": "Ready", "status": "True"}],
            "nodeInfo": {"bootID": "b", "machineID": 7},
        },
    }));
    let node = observed.object.unwrap();
    let (spec, status) = (node.spec, node.status);
    assert_eq!(spec.provider_id, "aws:///eu-west-1a/i-0123");
    assert_eq!(
        (spec.pod_cidrs.len(), spec.unschedulable, spec.taints.len()),
        (1, true, 1)
    );
    assert_eq!((status.addresses.len(), status.conditions.len()), (1, 1));
    assert_eq!(status.info.boot_id, "b");

    let used = |fields: Option<Fields>| fields.unwrap().to_vec();
    assert_eq!(
        used(BlockAffinity::used("spec")),
        ["cidr", "node", "state", "deleted", "type"]
    );
    assert_eq!(used(BlockAffinity::used("status")), [""; 0]);
    assert_eq!(used(Pod::used("spec")), ["nodeName", "hostNetwork"]);
    assert_eq!(used(Pod::used("status")), ["phase", "podIPs"]);
    assert_eq!(used(CiliumNode::used("spec")), ["ipam"]);
    let felix = used(FelixConfiguration::used("spec"));
    for field in ["bpfEnabled", "bpfL3IfacePattern", "bpfDataIfacePattern"] {
        assert!(felix.contains(&field), "{felix:?}");
    }
}

#[test]
fn a_lease_whose_time_cannot_be_read_is_no_renewal_but_has_a_name() {
    for time in [NEVER, LATE, "soon"] {
        let observed: Observed<Lease> = read(json!({
            "metadata": {"name": "spanwire-leader-a1", "namespace": "s"},
            "spec": {"holderIdentity": "a1", "leaseDurationSeconds": 40, "renewTime": time},
        }));
        assert!(observed.object.is_none(), "{time}");
        assert_eq!(observed.name(), "spanwire-leader-a1");
    }
}

#[test]
fn lists_and_watches_decode_whatever_is_in_them() {
    let bad = json!({"metadata": {"name": "bad"}, "spec": 7, "status": {"conditions": [condition(NEVER)]}});
    let good = json!({"metadata": {"name": "good"}, "spec": {}});
    let list = json!({
        "apiVersion": "spanwire.dev/v1alpha1", "kind": "MeshNodeList", "metadata": {"resourceVersion": "1"},
        "items": [bad, good, {}, {"metadata": null, "spec": null, "status": null}],
    });
    let list: ObjectList<Observed<MeshNode>> = serde_json::from_str(&list.to_string()).unwrap();
    let readable: Vec<bool> = list.items.iter().map(|item| item.object.is_some()).collect();
    assert_eq!(readable, [false, true, false, false]);
    let text = format!("{{\"type\":\"DELETED\",\"object\":{bad}}}");
    let event: WatchEvent<Observed<MeshNode>> = serde_json::from_str(&text).unwrap();
    let WatchEvent::Deleted(gone) = event else {
        panic!("{event:?}")
    };
    assert_eq!(gone.name(), "bad");
}

#[test]
fn a_time_that_there_is_not_makes_no_list_of_definitions_or_endpoints_fail() {
    fn names<K: Observable>(part: &str, value: &Value) -> Vec<String> {
        let times = json!([{"manager": "x", "operation": "Update", "time": NEVER}]);
        let object = json!({"metadata": {"name": "a", "managedFields": times}, part: value});
        let list = json!({"kind": "List", "apiVersion": "v1", "metadata": {}, "items": [object, {}]});
        let list: ObjectList<Observed<K>> = serde_json::from_str(&list.to_string()).unwrap();
        list.items.iter().map(|item| item.name().to_owned()).collect()
    }
    let endpoints = json!([{"addresses": ["192.0.2.1"]}]);
    assert_eq!(names::<EndpointSlice>("endpoints", &endpoints), ["a", ""]);
    assert_eq!(names::<CustomResourceDefinition>("spec", &json!("x")), ["a", ""]);
}

#[test]
fn what_a_newer_version_calls_by_another_name_is_known_to_be_unknown() {
    use spanwire_crds::{Backend, Mode, Role};
    let observed = mesh_node(json!({"backend": "Hardware"}));
    assert_eq!(observed.problems, []);
    assert_eq!(
        observed.object.unwrap().status.unwrap().backend,
        Some(Backend::Unknown)
    );
    let slice: Observed<LocationSlice> = read(json!({
        "metadata": {"name": "a-head"},
        "spec": {"location": "a", "head": {
            "meshGeneration": 1, "leaders": [{"node": "a1", "role": "Relay"}], "settings": {"mesh": "Hub"},
        }},
    }));
    let head = slice.object.unwrap().spec.head.unwrap();
    assert_eq!(
        (head.leaders[0].role, head.settings.mesh),
        (Role::Unknown, Mode::Unknown)
    );
    let location: Observed<Location> = read(json!({"metadata": {"name": "a"}, "spec": {"mesh": "Hub"}}));
    assert_eq!(location.object.unwrap().spec.mesh, Mode::Unknown);
}
