//! Kinds of CNIs that appear and vanish while the operator runs, with the rights that the chart grants.

use std::collections::BTreeMap;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api, Client, ResourceExt as _,
    api::{ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use spanwire_crds::{Hop, Location, LocationSlice};

use crate::{
    objects::{head, node},
    operating::start_as,
    policies::{By, template},
    server::{Server, port, until},
};

/// What Calico and Cilium define (`crds/tests/data/definitions/README.md`), and objects as they write them.
const AFFINITIES: &str = include_str!("../../../crds/tests/data/definitions/blockaffinities.json");
const IPAM_BLOCKS: &str = include_str!("../../../crds/tests/data/definitions/ipamblocks.json");
const CILIUM_NODES: &str = include_str!("../../../crds/tests/data/definitions/ciliumnodes.json");
const AFFINITY: &str = include_str!("../../../crds/tests/data/blockaffinity.json");
const IPAM_BLOCK: &str = include_str!("../../../crds/tests/data/ipamblock.json");
const CILIUM_NODE: &str = include_str!("../../../crds/tests/data/ciliumnode.json");

/// Creates a definition, and returns how its objects are reached once they are.
async fn define(client: &Client, definition: &str) -> Api<DynamicObject> {
    let definition: CustomResourceDefinition = serde_json::from_str(definition).unwrap();
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    api.create(&PostParams::default(), &definition).await.unwrap();
    let spec = &definition.spec;
    let resource = ApiResource {
        group: spec.group.clone(),
        version: spec.versions[0].name.clone(),
        api_version: format!("{}/{}", spec.group, spec.versions[0].name),
        kind: spec.names.kind.clone(),
        plural: spec.names.plural.clone(),
    };
    let objects = Api::all_with(client.clone(), &resource);
    until("its objects are served", async || {
        objects.list(&ListParams::default()).await.ok()
    })
    .await;
    objects
}

async fn undefine(client: &Client, definition: &str) {
    let definition: CustomResourceDefinition = serde_json::from_str(definition).unwrap();
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    let name = definition.name_any();
    api.delete(&name, &DeleteParams::default()).await.unwrap();
}

/// Creates an object like one of these. The API server keeps of it what the definition has, so it has to have all that is read.
async fn create(api: &Api<DynamicObject>, like: &str, name: &str, spec: Value) {
    let mut object: Value = serde_json::from_str(like).unwrap();
    object["metadata"] = json!({"name": name});
    for (field, value) in spec.as_object().unwrap() {
        object["spec"][field] = value.clone();
    }
    let asked = object["spec"].clone();
    let object = serde_json::from_value(object).unwrap();
    let made = api.create(&PostParams::default(), &object).await.unwrap();
    assert_eq!(made.data["spec"], asked, "the definition has all fields");
}

async fn change(api: &Api<DynamicObject>, name: &str, spec: Value) {
    let patch = Patch::Merge(json!({"spec": spec}));
    api.patch(name, &PatchParams::default(), &patch).await.unwrap();
}

/// The pod networks of every node, as published.
async fn published(client: &Client) -> BTreeMap<String, Vec<String>> {
    let slices: Api<LocationSlice> = Api::all(client.clone());
    let slices = slices.list(&ListParams::default()).await.unwrap();
    let members = slices.items.into_iter().flat_map(|slice| slice.spec.members);
    members.map(|member| (member.node, member.prefixes)).collect()
}

/// Waits until the source of pod networks is this one, and these nodes have these networks and no other.
async fn has(client: &Client, reason: &str, networks: &[(&str, &[&str])]) {
    until(&format!("{reason}: {networks:?}"), async || {
        let locations: Api<Location> = Api::all(client.clone());
        let status = locations.get_opt("left").await.unwrap()?.status?;
        let mut conditions = status.conditions.into_iter();
        let said = conditions.find(|condition| condition.type_ == "PodNetworks")?;
        let published = published(client).await;
        let has = |(node, networks): &(&str, &[&str])| {
            let known = published.get(*node);
            known.is_some_and(|known| known == networks)
        };
        (said.reason == reason && networks.iter().all(has)).then_some(())
    })
    .await;
}

/// The networks of `spec.podCIDRs`.
const OF_NODES: [(&str, &[&str]); 3] = [
    ("l1", &["10.244.1.0/24"]),
    ("l2", &["10.244.2.0/24"]),
    ("r1", &["10.244.3.0/24"]),
];

#[tokio::test]
async fn kinds_of_cnis_that_come_and_go_are_followed_with_what_the_chart_grants() {
    let server = Server::start().await;
    let client = &server.client;
    server.done(By::Admin, &["create", "namespace", "spanwire"], "");
    server.done(By::Admin, &["apply", "-f", "-"], &template("access", &[]));
    let address = format!("--status-address=127.0.0.1:{}", port());
    let arguments = [
        "--identity=one",
        "--namespace=spanwire",
        "--pod-networks=auto",
        &address,
    ];
    let mut operator = start_as(&server, &server.kubeconfig_of("operator"), &arguments, "one.log");
    for (name, number, location) in [("l1", 1, "left"), ("l2", 2, "left"), ("r1", 3, "right")] {
        node(client, name, number, location).await;
    }
    has(client, "NodePodCIDRs", &OF_NODES).await;

    // Calico is installed: first its definitions, then blocks.
    let affinities = define(client, AFFINITIES).await;
    let blocks = define(client, IPAM_BLOCKS).await;
    for (node, cidr) in [("l1", "10.245.1.0/29"), ("r1", "10.245.3.0/29")] {
        create(
            &affinities,
            AFFINITY,
            &format!("{node}-a"),
            json!({"node": node, "cidr": cidr}),
        )
        .await;
    }
    let networks: &[(&str, &[&str])] = &[
        ("l1", &["10.245.1.0/29"]),
        ("l2", &[]),
        ("r1", &["10.245.3.0/29"]),
    ];
    has(client, "CalicoBlocks", networks).await;
    // Two pods of r1 have addresses of l1's block; then one of them has gone, and its address is l2's.
    let pods = |first: &str, second: &str| {
        let of = |node: &str| json!({"handle_id": format!("of {node}"), "secondary": {"node": node}});
        json!({"affinity": "host:l1", "attributes": [of("l1"), of(first), of(second)], "allocations": [0, 1, null, 2]})
    };
    create(&blocks, IPAM_BLOCK, "10-245-1-0-29", pods("r1", "r1")).await;
    let networks: &[(&str, &[&str])] = &[
        ("l1", &["10.245.1.0/29"]),
        ("r1", &["10.245.1.1/32", "10.245.1.3/32", "10.245.3.0/29"]),
    ];
    has(client, "CalicoBlocks", networks).await;
    change(&blocks, "10-245-1-0-29", pods("l2", "r1")).await;
    let networks: &[(&str, &[&str])] = &[
        ("l2", &["10.245.1.1/32"]),
        ("r1", &["10.245.1.3/32", "10.245.3.0/29"]),
    ];
    has(client, "CalicoBlocks", networks).await;

    // Its definitions go, and its objects with them.
    undefine(client, IPAM_BLOCKS).await;
    has(client, "CalicoBlocks", &[("l2", &[]), ("r1", &["10.245.3.0/29"])]).await;
    undefine(client, AFFINITIES).await;
    has(client, "NodePodCIDRs", &OF_NODES).await;

    // Cilium is installed in its place.
    let nodes = define(client, CILIUM_NODES).await;
    for (name, networks) in [
        ("l1", json!(["10.0.1.0/24", "fd00::100/120"])),
        ("l2", json!(["10.0.2.0/24"])),
    ] {
        create(
            &nodes,
            CILIUM_NODE,
            name,
            json!({"ipam": {"podCIDRs": networks, "pools": {}}}),
        )
        .await;
    }
    let pools = json!({
        "allocated": [{"pool": "default", "cidrs": ["10.10.3.0/27", "10.10.3.64/27"]}],
        "requested": [{"pool": "default", "needed": {"ipv4-addrs": 16}}],
    });
    create(&nodes, CILIUM_NODE, "r1", json!({"ipam": {"pools": pools}})).await;
    let networks: &[(&str, &[&str])] = &[
        ("l1", &["10.0.1.0/24", "fd00::100/120"]),
        ("l2", &["10.0.2.0/24"]),
        ("r1", &["10.10.3.0/27", "10.10.3.64/27"]),
    ];
    has(client, "CiliumNodes", networks).await;
    until("followers and leaders have a VXLAN", async || {
        let settings = head(client, "left").await?.spec.head?.settings;
        (settings.hop == Some(Hop::Vxlan)).then_some(())
    })
    .await;
    change(&nodes, "l2", json!({"ipam": {"podCIDRs": ["10.0.9.0/24"]}})).await;
    has(client, "CiliumNodes", &[("l2", &["10.0.9.0/24"])]).await;
    undefine(client, CILIUM_NODES).await;
    has(client, "NodePodCIDRs", &OF_NODES).await;

    assert!(!operator.has_ended());
    let log = std::fs::read_to_string(server.file("one.log")).unwrap();
    for word in ["forbidden", "refuses"] {
        assert!(!log.to_lowercase().contains(word), "{log}");
    }
}
