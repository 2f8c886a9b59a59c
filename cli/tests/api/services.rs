//! Addresses of services, and those that are none of the mesh's.

use std::path::Path;

use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use kube::{Api, api::PostParams};
use serde_json::json;

use crate::{cli, server::Server};

/// Of two locations that are published.
pub(crate) async fn explain_knows_the_address_of_a_service(server: &Server, folder: &Path) {
    let of = |name: &str, address: &str| {
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
            "spec": {"clusterIP": address, "ports": [{"port": 80}]}})
    };
    let services: Api<Service> = Api::namespaced(server.client.clone(), "default");
    for (name, address) in [("payments", "10.96.0.77"), ("empty", "10.96.0.78")] {
        let service = serde_json::from_value(of(name, address)).unwrap();
        services.create(&PostParams::default(), &service).await.unwrap();
    }
    let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "payments-1", "labels": {"kubernetes.io/service-name": "payments"}},
        "endpoints": [{"addresses": ["10.244.1.7"], "conditions": {"ready": true}}]});
    let slices: Api<EndpointSlice> = Api::namespaced(server.client.clone(), "default");
    slices
        .create(&PostParams::default(), &serde_json::from_value(slice).unwrap())
        .await
        .unwrap();

    let run = |words: &[&str]| cli(&server.kubeconfig, folder, words);
    let (_, said) = run(&["explain", "a1", "10.96.0.77"]);
    for part in [
        "note: 10.96.0.77 is that of the service default/payments",
        "to b1/10.244.1.7",
        "arrives after 1 hop",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let (code, said) = run(&["explain", "a1", "10.96.0.78"]);
    assert!(
        code == 1 && said.contains("service default/empty has no ready endpoint"),
        "{code} {said}"
    );
    let (code, said) = run(&["explain", "a1", "10.96.0.79"]);
    assert!(
        code == 3
            && said.contains("leaves by the own routes of a1")
            && said.contains("the mesh does not have 10.96.0.79"),
        "{code} {said}"
    );
    // Who may not list services reads that it is not known.
    let (code, said) = cli(
        &server.kubeconfig_of("cni"),
        folder,
        &["explain", "a1", "10.96.0.77"],
    );
    assert!(
        code == 3
            && said.contains(
                "note: whether 10.96.0.77 is that of a service is not known: services is forbidden"
            ),
        "{code} {said}"
    );
}
