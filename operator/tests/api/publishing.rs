//! The writer: what it writes, and that it writes nothing upon what has changed.

use kube::{
    Api, Resource, ResourceExt as _,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;
use spanwire_crds::{
    Head, Location, LocationSlice, LocationSliceSpec, LocationSpec, MeshNode, MeshNodeSpec, SliceSettings,
};
use spanwire_operator::{
    batch::{ObjectVersion, Target, Write},
    state::Gone,
    writer::{ApiWriter, Found, WriteError},
};

use crate::{objects::node, server::Server};

#[tokio::test]
async fn a_write_upon_another_version_changes_nothing_and_answers_what_is_there() {
    let server = Server::start().await;
    let writer = ApiWriter::new(server.client.clone(), "test".to_owned());
    let made = slice(writer.write(&write(None, 1)).await.found);
    let first = version_of(&made);

    let again = writer.write(&write(None, 2)).await;
    assert!(
        matches!(again.error, Some(WriteError::Conflict { .. })),
        "{again:?}"
    );
    assert_eq!(generation(&slice(again.found)), 1);

    let second = writer.write(&write(first.clone(), 2)).await;
    assert!(second.error.is_none(), "{second:?}");
    assert_eq!(generation(&slice(second.found)), 2);

    let stale = writer.write(&write(first.clone(), 3)).await;
    assert!(
        matches!(stale.error, Some(WriteError::Conflict { .. })),
        "{stale:?}"
    );
    assert_eq!(generation(&slice(stale.found)), 2);

    let target = |version: Option<ObjectVersion>| {
        Write::DeleteSlice(Target {
            name: "a-head".to_owned(),
            version: version.unwrap(),
        })
    };
    let stale = writer.write(&target(first)).await;
    let found = slice(stale.found);
    assert!(matches!(stale.error, Some(WriteError::Conflict { .. })));

    let gone = writer.write(&target(version_of(&found))).await;
    assert!(matches!(gone.found, Found::Gone(Gone::Slice(_))), "{gone:?}");
    let upon_nothing = writer.write(&write(version_of(&found), 4)).await;
    assert!(
        matches!(upon_nothing.error, Some(WriteError::Conflict { .. })),
        "{upon_nothing:?}"
    );
    assert!(
        matches!(upon_nothing.found, Found::Gone(Gone::Slice(_))),
        "{upon_nothing:?}"
    );
}

#[tokio::test]
async fn what_is_no_longer_wanted_of_a_spec_goes_and_the_same_again_is_no_write() {
    let server = Server::start().await;
    let writer = ApiWriter::new(server.client.clone(), "test".to_owned());
    node(&server.client, "n1", 1, "a").await;
    let nodes: Api<k8s_openapi::api::core::v1::Node> = Api::all(server.client.clone());
    let node_uid = nodes.get("n1").await.unwrap().uid().unwrap();
    let write = |version: Option<ObjectVersion>, keepalive: Option<u16>| Write::MeshNode {
        name: "n1".to_owned(),
        version,
        node_uid: node_uid.clone(),
        spec: MeshNodeSpec {
            location: Some("a".to_owned()),
            persistent_keepalive: keepalive,
            ..MeshNodeSpec::default()
        },
    };
    let made = mesh_node(writer.write(&write(None, Some(25))).await.found);
    assert_eq!(made.spec.persistent_keepalive, Some(25));
    assert_eq!(made.owner_references()[0].uid, node_uid);
    let api: Api<MeshNode> = Api::all(server.client.clone());
    let retire = Patch::Merge(json!({"spec": {"retire": true}}));
    let retired = api.patch("n1", &PatchParams::default(), &retire).await.unwrap();

    let outcome = writer.write(&write(version_of(&retired), None)).await;
    assert!(outcome.error.is_none(), "{:?}", outcome.error);
    let changed = mesh_node(outcome.found);
    assert_eq!(
        (changed.spec.persistent_keepalive, changed.spec.retire),
        (None, false)
    );
    let same = mesh_node(writer.write(&write(version_of(&changed), None)).await.found);
    assert_eq!(same.resource_version(), changed.resource_version());
}

#[tokio::test]
async fn a_status_leaves_the_spec_alone() {
    let server = Server::start().await;
    let writer = ApiWriter::new(server.client.clone(), "test".to_owned());
    let api: Api<Location> = Api::all(server.client.clone());
    let spec = LocationSpec {
        endpoint: Some("vpn.example.com:1".to_owned()),
        ..LocationSpec::default()
    };
    let made = api
        .create(&PostParams::default(), &Location::new("a", spec.clone()))
        .await
        .unwrap();
    let write = Write::LocationStatus {
        name: "a".to_owned(),
        version: version_of(&made),
        status: spanwire_crds::LocationStatus {
            nodes: 7,
            ..Default::default()
        },
    };
    let outcome = writer.write(&write).await;
    assert!(outcome.error.is_none(), "{:?}", outcome.error);
    let found = api.get("a").await.unwrap();
    assert_eq!((found.spec, found.status.unwrap().nodes), (spec, 7));
}

#[tokio::test]
async fn what_the_operator_says_on_a_mesh_node_and_what_its_agent_says_leave_each_other_alone() {
    let server = Server::start().await;
    let writer = ApiWriter::new(server.client.clone(), "test".to_owned());
    let api: Api<MeshNode> = Api::all(server.client.clone());
    let made = writer
        .write(&Write::MeshNode {
            name: "a1".to_owned(),
            version: None,
            node_uid: "u".to_owned(),
            spec: spanwire_crds::MeshNodeSpec {
                location: Some("a".to_owned()),
                ..Default::default()
            },
        })
        .await;
    let made = mesh_node(made.found);
    let condition = |about: &str, status: &str| {
        let condition = serde_json::json!({
            "type": about, "status": status, "reason": "X", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z",
        });
        serde_json::from_value::<k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition>(condition)
            .unwrap()
    };
    let report = async |status: &str| {
        let patch = Patch::Apply(serde_json::json!({
            "apiVersion": "spanwire.dev/v1alpha1", "kind": "MeshNode", "metadata": {"name": "a1"},
            "status": {"cni": "x", "conditions": [condition("Ready", status)]},
        }));
        let agent = PatchParams::apply(spanwire_crds::names::AGENT).force();
        api.patch_status("a1", &agent, &patch).await.unwrap()
    };
    let answer = |on: &MeshNode, status: &str| Write::MeshNodeStatus {
        name: "a1".to_owned(),
        version: version_of(on),
        condition: Box::new(condition("Accepted", status)),
    };
    let said = |node: &MeshNode| -> Vec<String> {
        let status = node.status.clone().unwrap_or_default();
        let of = |condition: &k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition| {
            format!("{} {}", condition.type_, condition.status)
        };
        let mut said: Vec<String> = status.conditions.iter().map(of).collect();
        said.sort();
        said
    };
    let stale = answer(&made, "False");
    let outcome = writer.write(&stale).await;
    assert!(outcome.error.is_none(), "{:?}", outcome.error);
    assert_eq!(said(&report("True").await), ["Accepted False", "Ready True"]);
    let outcome = writer.write(&stale).await;
    assert!(
        matches!(outcome.error, Some(WriteError::Conflict { .. })),
        "it was decided upon another version: {:?}",
        outcome.error
    );
    let found = mesh_node(outcome.found);
    let outcome = writer.write(&answer(&found, "True")).await;
    let written = mesh_node(outcome.found);
    assert_eq!(said(&written), ["Accepted True", "Ready True"]);
    assert_eq!(written.spec.location.as_deref(), Some("a"));
    assert_eq!(said(&report("False").await), ["Accepted True", "Ready False"]);
}

fn write(version: Option<ObjectVersion>, generation: u64) -> Write {
    Write::Slice {
        name: "a-head".to_owned(),
        version,
        spec: LocationSliceSpec {
            location: "a".to_owned(),
            head: Some(Head {
                mesh_generation: generation,
                settings: SliceSettings::default(),
                ..Head::default()
            }),
            members: Vec::new(),
        },
    }
}

fn version_of(object: &impl Resource) -> Option<ObjectVersion> {
    let metadata = object.meta();
    Some(ObjectVersion {
        uid: metadata.uid.clone()?,
        version: metadata.resource_version.clone()?,
    })
}

fn slice(found: Found) -> LocationSlice {
    let Found::Slice(slice) = found else {
        panic!("{found:?}");
    };
    slice.object.unwrap()
}

fn mesh_node(found: Found) -> MeshNode {
    let Found::MeshNode(node) = found else {
        panic!("{found:?}");
    };
    node.object.unwrap()
}

fn generation(slice: &LocationSlice) -> u64 {
    slice.spec.head.as_ref().unwrap().mesh_generation
}
