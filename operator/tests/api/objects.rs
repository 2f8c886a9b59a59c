//! A small cluster: Nodes, and what their agents would report.

use k8s_openapi::api::core::v1::Node;
use kube::{
    Api, Client, Resource, ResourceExt as _,
    api::{ListParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use spanwire_crds::{Location, LocationSlice, MeshNode};

/// Creates a ready Node; its number makes its addresses.
pub(crate) async fn node(client: &Client, name: &str, number: u8, location: &str) {
    let object = json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "annotations": {"spanwire.dev/location": location}},
        "spec": {"podCIDR": format!("10.244.{number}.0/24"), "podCIDRs": [format!("10.244.{number}.0/24")]},
    });
    let api: Api<Node> = Api::all(client.clone());
    api.create(&PostParams::default(), &serde_json::from_value(object).unwrap())
        .await
        .unwrap();
    let status = json!({
        "addresses": [{"type": "InternalIP", "address": format!("192.168.7.{number}")}],
        "conditions": [heartbeat("2026-01-01T00:00:00Z")],
    });
    status_of(&api, name, status).await;
}

/// The Ready condition with a heartbeat at this time.
pub(crate) fn heartbeat(time: &str) -> Value {
    json!({
        "type": "Ready", "status": "True", "reason": "KubeletReady", "message": "",
        "lastHeartbeatTime": time, "lastTransitionTime": "2026-01-01T00:00:00Z",
    })
}

/// The agent of the node reports its key, and to which locations its tunnels are up.
pub(crate) async fn report(client: &Client, name: &str, number: u8, links: &[&str]) {
    let links: Vec<Value> = links
        .iter()
        .map(|location| json!({"location": location, "up": true}))
        .collect();
    let key = spanwire_topology::PublicKey::new([number; 32]).to_string();
    let api: Api<MeshNode> = Api::all(client.clone());
    status_of(
        &api,
        name,
        json!({"publicKey": key, "listenPort": 51820, "links": links}),
    )
    .await;
}

/// Changes the status of an object as its owner would.
pub(crate) async fn status_of<K>(api: &Api<K>, name: &str, status: Value)
where
    K: serde::de::DeserializeOwned + Clone + std::fmt::Debug,
{
    let patch = Patch::Merge(json!({"status": status}));
    api.patch_status(name, &PatchParams::default(), &patch)
        .await
        .unwrap();
}

/// Changes an annotation.
pub(crate) async fn annotate(client: &Client, node: &str, key: &str, value: &str) {
    let api: Api<Node> = Api::all(client.clone());
    let patch = Patch::Merge(json!({"metadata": {"annotations": {key: value}}}));
    api.patch(node, &PatchParams::default(), &patch).await.unwrap();
}

/// The leaders of a location, as published.
pub(crate) async fn leaders(client: &Client, location: &str) -> Option<Vec<String>> {
    let head = head(client, location).await?;
    Some(
        head.spec
            .head?
            .leaders
            .into_iter()
            .map(|leader| leader.node)
            .collect(),
    )
}

/// The head slice of a location.
pub(crate) async fn head(client: &Client, location: &str) -> Option<LocationSlice> {
    let api: Api<LocationSlice> = Api::all(client.clone());
    api.get_opt(&format!("{location}-head")).await.unwrap()
}

/// The status of a condition and its message.
pub(crate) async fn condition(client: &Client, location: &str, about: &str) -> Option<(String, String)> {
    let api: Api<Location> = Api::all(client.clone());
    let status = api.get_opt(location).await.unwrap()?.status?;
    let mut conditions = status.conditions.into_iter();
    let found = conditions.find(|condition| condition.type_ == about)?;
    Some((found.status, found.message))
}

/// The version of every object that the operator writes, by kind and name.
pub(crate) async fn versions(client: &Client) -> Vec<(String, String)> {
    let mut versions = versions_of::<Location>(client).await;
    versions.extend(versions_of::<LocationSlice>(client).await);
    versions.extend(versions_of::<MeshNode>(client).await);
    versions
}

async fn versions_of<K>(client: &Client) -> Vec<(String, String)>
where
    K: Resource<DynamicType = ()> + serde::de::DeserializeOwned + Clone + std::fmt::Debug,
{
    let objects = Api::<K>::all(client.clone())
        .list(&ListParams::default())
        .await
        .unwrap();
    let version = |object: &K| {
        let name = format!("{} {}", K::kind(&()), object.name_any());
        (name, object.resource_version().unwrap())
    };
    objects.items.iter().map(version).collect()
}
