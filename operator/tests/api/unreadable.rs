//! What people and the credentials on the disks of nodes can write, the API server takes, and a client cannot read.

use k8s_openapi::api::{coordination::v1::Lease, events::v1::Event};
use kube::{
    Api,
    api::{ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams},
};
use serde_json::{Value, json};
use spanwire_crds::{Location, MeshNode};

use crate::{
    objects::{annotate, head, leaders, node, report},
    operating::{operator, start},
    server::{Server, until},
};

/// A time that there is not. The API server takes it where a schema says `date-time`.
const NEVER: &str = "2026-01-01T00:00:00+99:99";
/// A time that Go has and that is later than any that can be computed with here.
const LATE: &str = "9999-12-31T23:59:59Z";

#[tokio::test]
async fn objects_that_cannot_be_read_stop_no_operator_no_decision_and_no_uninstallation() {
    let server = Server::start().await;
    let client = &server.client;
    let mut first = operator(&server, "one");
    for (name, number, location) in [("l1", 1, "left"), ("l2", 2, "left"), ("r1", 3, "right")] {
        node(client, name, number, location).await;
        until("the node has a MeshNode", async || {
            mesh_nodes(&server).get_opt(name).await.unwrap()
        })
        .await;
        report(client, name, number, &[]).await;
    }
    until("there are leaders", async || {
        leaders(client, "right").await.filter(|led| !led.is_empty())
    })
    .await;
    spoil(&server).await;
    assert!(first.terminate());

    let _second = operator(&server, "two");
    annotate(client, "l2", "spanwire.dev/location", "own").await;
    until("another operator decides", async || {
        leaders(client, "own").await.filter(|led| led == &["l2"])
    })
    .await;
    until("its report counts", async || {
        leaders(client, "left").await.filter(|led| led == &["l1"])
    })
    .await;
    for part in ["status.conditions[0] of its MeshNode", "Lease spanwire-leader-l1"] {
        until("an Event names it", async || {
            let events: Api<Event> = Api::namespaced(client.clone(), "default");
            let events = events.list(&ListParams::default()).await.unwrap().items;
            let about = |event: &&Event| event.note.as_ref().is_some_and(|note| note.contains(part));
            let event = events.iter().find(about)?;
            assert_eq!(event.regarding.as_ref()?.name.as_deref(), Some("l1"));
            Some(())
        })
        .await;
    }
    let log = std::fs::read_to_string(server.file("two.log")).unwrap();
    assert!(
        log.contains("l1") && log.contains("a part of an object cannot be read"),
        "{log}"
    );

    let uid = raw::<MeshNode>(&server).get("l1").await.unwrap().metadata.uid;
    raw::<MeshNode>(&server)
        .delete("l1", &DeleteParams::default())
        .await
        .unwrap();
    until("that it was deleted is seen", async || {
        let made = raw::<MeshNode>(&server).get_opt("l1").await.unwrap()?;
        (made.metadata.uid != uid).then_some(())
    })
    .await;

    report(client, "l1", 1, &[]).await;
    spoil(&server).await;
    let mut retire = start(&server, &["retire", "--wait=60", "--identity=hook"], "retire.log");
    for name in ["l1", "l2", "r1"] {
        until("the agent is asked", async || {
            let object = raw::<MeshNode>(&server).get(name).await.unwrap();
            (object.data["spec"]["retire"] == true).then_some(())
        })
        .await;
        status(&raw::<MeshNode>(&server), name, json!({"retired": true})).await;
    }
    let waited = tokio::task::spawn_blocking(move || retire.wait()).await.unwrap();
    let log = std::fs::read_to_string(server.file("retire.log")).unwrap();
    assert!(waited && log.contains("no trace is left on any node"), "{log}");
}

#[tokio::test]
async fn a_value_of_a_newer_version_is_reported_and_nothing_else_is_harmed() {
    let server = Server::start().await;
    let client = &server.client;
    // A newer version's definition knows more modes.
    let definitions: Api<DynamicObject> = Api::all_with(
        client.clone(),
        &ApiResource::erase::<
            k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
        >(&()),
    );
    let mode = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/mesh/enum/-";
    let patch = serde_json::from_value(json!([{"op": "add", "path": mode, "value": "Hub"}])).unwrap();
    definitions
        .patch(
            "locations.spanwire.dev",
            &PatchParams::default(),
            &Patch::<()>::Json(patch),
        )
        .await
        .unwrap();
    let locations = raw::<Location>(&server);
    until("the definition is in force", async || {
        let object = json!({
            "apiVersion": "spanwire.dev/v1alpha1", "kind": "Location",
            "metadata": {"name": "left"}, "spec": {"mesh": "Hub", "cidrs": ["192.168.50.0/24"]},
        });
        let params = PatchParams::apply("test");
        locations.patch("left", &params, &Patch::Apply(object)).await.ok()
    })
    .await;
    let _operator = start(
        &server,
        &[
            "--identity=one",
            "--manage-crds=false",
            "--status-address=127.0.0.1:0",
        ],
        "one.log",
    );
    node(client, "l1", 1, "left").await;
    let head = until("it is decided", async || head(client, "left").await?.spec.head).await;
    assert_eq!(head.settings.cidrs, ["192.168.50.0/24"], "the rest of it counts");
    until("it is reported with what to write", async || {
        let status = locations.get("left").await.unwrap().data["status"].clone();
        let conditions = status["conditions"].as_array()?.clone();
        let accepted = conditions.iter().find(|it| it["type"] == "Accepted")?;
        let message = accepted["message"].as_str()?;
        (message.contains("spec.mesh") && message.contains("write Leaders or Nodes")).then_some(())
    })
    .await;
}

/// An agent writes its own status and its own Lease, a kubelet its own Node.
async fn spoil(server: &Server) {
    let condition =
        json!({"type": "Ready", "status": "True", "reason": "x", "message": "", "lastTransitionTime": NEVER});
    status(&raw::<MeshNode>(server), "l1", json!({"conditions": [condition]})).await;
    let leases: Api<DynamicObject> = Api::namespaced_with(
        server.client.clone(),
        "default",
        &ApiResource::erase::<Lease>(&()),
    );
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "spanwire-leader-l1"},
        "spec": {"holderIdentity": "l1", "leaseDurationSeconds": 40, "renewTime": "9999-12-31T23:59:59.000000Z"},
    });
    let params = PatchParams::apply("agent").force();
    leases
        .patch("spanwire-leader-l1", &params, &Patch::Apply(lease))
        .await
        .unwrap();
    let managed = json!([{
        "manager": "kubelet", "operation": "Update", "apiVersion": "v1", "time": LATE, "fieldsType": "FieldsV1",
        "fieldsV1": {"f:metadata": {"f:labels": {"f:a": {}}}},
    }]);
    for metadata in [json!({"labels": {"a": "b"}}), json!({"managedFields": managed})] {
        let request = kube::core::Request::new("/api/v1/nodes");
        let patch = Patch::Merge(json!({"metadata": metadata}));
        let request = request.patch("l1", &PatchParams::default(), &patch).unwrap();
        // The answer cannot be read as an object.
        let answer = server.client.request_text(request).await.unwrap();
        assert!(
            answer.contains(LATE) || metadata["labels"].is_object(),
            "{answer}"
        );
    }
}

async fn status(api: &Api<DynamicObject>, name: &str, status: Value) {
    let patch = Patch::Merge(json!({"status": status}));
    api.patch_status(name, &PatchParams::default(), &patch)
        .await
        .unwrap();
}

fn mesh_nodes(server: &Server) -> Api<MeshNode> {
    Api::all(server.client.clone())
}

/// The objects as they are, whether or not they can be read.
fn raw<K: kube::Resource<DynamicType = ()>>(server: &Server) -> Api<DynamicObject> {
    Api::all_with(server.client.clone(), &ApiResource::erase::<K>(&()))
}
