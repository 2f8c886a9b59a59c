//! What the API server itself makes of the resources.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api, Client,
    api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use spanwire_operator::{
    batch::{ObjectVersion, Write},
    definitions as definition,
    writer::ApiWriter,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::{
    objects::{head, node},
    operating::start,
    server::{Server, port, until},
};

#[tokio::test]
async fn bad_input_is_refused_with_its_field_and_what_to_write_instead() {
    let server = Server::start().await;
    let key = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";
    let peer = |change: Value| {
        let mut spec = json!({"publicKey": key, "allowedIPs": ["10.99.0.7/32"]});
        for (field, value) in change.as_object().unwrap() {
            spec[field] = value.clone();
        }
        spec
    };
    let bad = [
        (
            "Location",
            json!({"cidrs": ["10.0.0.0/33"]}),
            "spec.cidrs[0]",
            "write it like 192.168.10.0/24",
        ),
        (
            "Location",
            json!({"cidrs": ["10.0.0.1/24"]}),
            "spec.cidrs[0]",
            "write the network's first address",
        ),
        (
            "Location",
            json!({"cidrs": ["10.0.0.0/24", "0.0.0.0/0"]}),
            "spec.cidrs[1]",
            "name the networks that are meant",
        ),
        (
            "Location",
            json!({"cidrs": ["::/0"]}),
            "spec.cidrs[0]",
            "name the networks that are meant",
        ),
        (
            "Location",
            json!({"endpoint": "192.0.2.1"}),
            "spec.endpoint",
            "write it like 192.0.2.1:51820",
        ),
        (
            "Location",
            json!({"endpoint": "2001:db8::1:51820"}),
            "spec.endpoint",
            "[2001:db8::1]:51820",
        ),
        (
            "Location",
            json!({"endpoint": "a:0"}),
            "spec.endpoint",
            "from 1 to 65535",
        ),
        (
            "Location",
            json!({"endpoint": "a:70000"}),
            "spec.endpoint",
            "from 1 to 65535",
        ),
        (
            "Location",
            json!({"persistentKeepalive": 65536}),
            "spec.persistentKeepalive",
            "less than or equal to 65535",
        ),
        (
            "Location",
            json!({"mesh": "Full"}),
            "spec.mesh",
            "supported values: \"Leaders\", \"Nodes\"",
        ),
        (
            "Location",
            json!({"leaders": {"active": 0}}),
            "spec.leaders.active",
            "greater than or equal to 1",
        ),
        (
            "Peer",
            peer(json!({"publicKey": "x"})),
            "spec.publicKey",
            "write the 44 characters that `wg pubkey` prints",
        ),
        (
            "Peer",
            peer(json!({"publicKey": "A".repeat(43) + "="})),
            "spec.publicKey",
            "all zeroes",
        ),
        (
            "Peer",
            json!({"allowedIPs": ["10.99.0.7/32"]}),
            "spec.publicKey",
            "Required value",
        ),
        (
            "Peer",
            json!({"publicKey": key}),
            "spec.allowedIPs",
            "Required value",
        ),
        (
            "Peer",
            peer(json!({"allowedIPs": []})),
            "spec.allowedIPs",
            "write the addresses that the peer sends from",
        ),
        (
            "Peer",
            peer(json!({"allowedIPs": ["0.0.0.0/0"]})),
            "spec.allowedIPs[0]",
            "name the networks that are meant",
        ),
        (
            "Peer",
            peer(json!({"endpoint": "vpn_example:1"})),
            "spec.endpoint",
            "vpn.example.com:51820",
        ),
        (
            "Peer",
            peer(json!({"location": "A B"})),
            "spec.location",
            "kubectl get locations",
        ),
    ];
    for (kind, spec, field, remedy) in bad {
        let message = create(&server.client, kind, "bad", spec.clone())
            .await
            .unwrap_err();
        assert!(
            message.contains(field) && message.contains(remedy),
            "{kind} {spec}: {message}"
        );
    }
    let long = create(&server.client, "Location", &"x".repeat(64), json!({}))
        .await
        .unwrap_err();
    assert!(long.contains("at most 63 characters"), "{long}");

    let good = [
        ("Location", json!({})),
        (
            "Location",
            json!({"cidrs": ["10.0.0.0/24", "fd00:10::/64", "10.1.1.1"], "endpoint": "[2001:db8::1]:51820"}),
        ),
        (
            "Location",
            json!({"endpoint": "vpn.example.com:51820", "persistentKeepalive": 0, "leaders": {"standby": 0}}),
        ),
        (
            "Peer",
            peer(json!({"endpoint": "192.0.2.1:1", "location": "a.b-c", "persistentKeepalive": 25})),
        ),
    ];
    for (number, (kind, spec)) in good.into_iter().enumerate() {
        let made = create(&server.client, kind, &format!("good{number}"), spec.clone()).await;
        let made = made.unwrap_or_else(|message| panic!("{kind} {spec}: {message}"));
        if kind == "Location" {
            assert_eq!(made["leaders"]["active"], 1, "{made}");
        }
    }
}

#[tokio::test]
async fn a_location_needs_no_spec() {
    let server = Server::start().await;
    let api = api(&server.client, "Location");
    let object =
        json!({"apiVersion": "spanwire.dev/v1alpha1", "kind": "Location", "metadata": {"name": "a"}});
    let object = serde_json::from_value(object).unwrap();
    let made = api.create(&PostParams::default(), &object).await.unwrap();
    assert_eq!(
        made.data["spec"],
        json!({"mesh": "Leaders", "leaders": {"active": 1, "standby": 1}})
    );
}

fn api(client: &Client, kind: &str) -> Api<DynamicObject> {
    let plural = format!("{}s", kind.to_lowercase());
    let resource = ApiResource {
        group: "spanwire.dev".to_owned(),
        version: "v1alpha1".to_owned(),
        api_version: "spanwire.dev/v1alpha1".to_owned(),
        kind: kind.to_owned(),
        plural,
    };
    Api::all_with(client.clone(), &resource)
}

pub(crate) async fn create(client: &Client, kind: &str, name: &str, spec: Value) -> Result<Value, String> {
    let object = json!({
        "apiVersion": "spanwire.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec,
    });
    let object = serde_json::from_value(object).unwrap();
    match api(client, kind).create(&PostParams::default(), &object).await {
        Ok(object) => Ok(object.data["spec"].clone()),
        Err(kube::Error::Api(status)) => Err(status.message),
        Err(error) => panic!("{error}"),
    }
}

/// The definition of Locations without any rule or bound, as an older version had it.
fn lax() -> CustomResourceDefinition {
    fn strip(schema: &mut Value) {
        match schema {
            Value::Object(map) => {
                for key in [
                    "x-kubernetes-validations",
                    "maxLength",
                    "maxItems",
                    "minimum",
                    "maximum",
                ] {
                    map.remove(key);
                }
                map.values_mut().for_each(strip);
            }
            Value::Array(list) => list.iter_mut().for_each(strip),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    let mut all = spanwire_crds::definitions().into_iter();
    let location = all.find(|definition| definition.spec.names.kind == "Location");
    let mut definition = serde_json::to_value(location.unwrap()).unwrap();
    strip(&mut definition["spec"]["versions"]);
    serde_json::from_value(definition).unwrap()
}

#[tokio::test]
async fn an_object_that_is_older_than_a_rule_gets_its_status() {
    let server = Server::start().await;
    let definitions: Api<CustomResourceDefinition> = Api::all(server.client.clone());
    let params = PatchParams::apply("test").force();
    let name = "locations.spanwire.dev";
    definitions
        .patch(name, &params, &Patch::Apply(&lax()))
        .await
        .unwrap();
    let long = "x".repeat(64);
    let odd = json!({"cidrs": ["10.0.0.1/24", "0.0.0.0/0"], "endpoint": "https://x"});
    // The definition is in force some moments after it was written.
    until("the older definition is in force", async || {
        create(&server.client, "Location", "odd", odd.clone()).await.ok()
    })
    .await;
    create(&server.client, "Location", &long, json!({}))
        .await
        .unwrap();
    definition::apply(&server.client).await.unwrap();
    until("the definition of this version is in force", async || {
        let refused = create(&server.client, "Location", "other", odd.clone())
            .await
            .err();
        if refused.is_none() {
            let other = api(&server.client, "Location");
            other.delete("other", &DeleteParams::default()).await.unwrap();
        }
        refused
    })
    .await;
    let writer = ApiWriter::new(server.client.clone(), "test".to_owned());
    for name in ["odd", long.as_str()] {
        let metadata = api(&server.client, "Location").get(name).await.unwrap().metadata;
        let write = Write::LocationStatus {
            name: name.to_owned(),
            version: Some(ObjectVersion {
                uid: metadata.uid.unwrap(),
                version: metadata.resource_version.unwrap(),
            }),
            status: spanwire_crds::LocationStatus {
                nodes: 7,
                ..Default::default()
            },
        };
        let outcome = writer.write(&write).await;
        assert!(outcome.error.is_none(), "{name}: {:?}", outcome.error);
    }
}

#[tokio::test]
async fn an_operator_that_does_not_manage_older_definitions_says_what_to_do_and_does_not_lead() {
    let server = Server::start().await;
    let definitions: Api<CustomResourceDefinition> = Api::all(server.client.clone());
    let name = "locationslices.spanwire.dev";
    let remove = json!([{
        "op": "remove",
        "path": "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/head/properties/memberSlices",
    }]);
    let remove: Patch<()> = Patch::Json(serde_json::from_value(remove).unwrap());
    definitions
        .patch(name, &PatchParams::default(), &remove)
        .await
        .unwrap();
    let port = port();
    let address = format!("--status-address=127.0.0.1:{port}");
    let mut operator = start(
        &server,
        &["--identity=one", "--manage-crds=false", &address],
        "one.log",
    );
    node(&server.client, "l1", 1, "left").await;
    let log = || std::fs::read_to_string(server.file("one.log")).unwrap_or_default();
    until("it says what is wrong", async || {
        log().contains("spec.head.memberSlices").then_some(())
    })
    .await;
    for part in ["locationslices.spanwire.dev", "kubectl apply", "manageCRDs"] {
        assert!(log().contains(part), "{part}: {}", log());
    }
    let ready = async || {
        let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.ok()?;
        let ask = b"GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        stream.write_all(ask).await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        Some(answer.starts_with("HTTP/1.1 200"))
    };
    assert_eq!(ready().await, Some(false));
    assert!(!operator.has_ended() && head(&server.client, "left").await.is_none());
    definition::apply(&server.client).await.unwrap();
    until("it leads", async || head(&server.client, "left").await).await;
    until("it is ready", async || ready().await.filter(|ready| *ready)).await;
}
