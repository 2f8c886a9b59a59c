//! What the API server itself makes of the resources.

use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, PostParams},
};
use serde_json::{Value, json};

use crate::server::Server;

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
