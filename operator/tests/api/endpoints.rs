//! Where the API server says that it runs.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use k8s_openapi::api::{core::v1::ConfigMap, discovery::v1::EndpointSlice};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams},
};
use serde_json::json;
use spanwire_cluster::endpoints::watch_endpoints;
use spanwire_operator::cluster_info;
use tokio::{sync::watch, time::timeout};

use crate::server::{Server, until};

const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::test]
async fn the_endpoints_of_the_api_server_are_followed_and_stay_when_the_last_is_gone() {
    let server = Server::start().await;
    let api: Api<EndpointSlice> = Api::namespaced(server.client.clone(), "default");
    let (sender, mut endpoints) = watch::channel(BTreeSet::new());
    tokio::spawn(watch_endpoints(server.client.clone(), sender));
    timeout(PATIENCE, endpoints.changed()).await.unwrap().unwrap();
    assert!(
        endpoints.borrow_and_update().is_empty(),
        "that there is none is an answer"
    );
    for addresses in [&["192.0.2.1"][..], &["192.0.2.1", "192.0.2.2"]] {
        for (name, port) in [("another", 1), ("kubernetes", 6443)] {
            let slice = json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": {"name": name},
                "addressType": "IPv4", "endpoints": [{"addresses": addresses}],
                "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
            });
            let params = PatchParams::apply("test").force();
            api.patch(name, &params, &Patch::Apply(slice)).await.unwrap();
        }
        timeout(PATIENCE, endpoints.changed()).await.unwrap().unwrap();
        let expected: BTreeSet<SocketAddr> = addresses
            .iter()
            .map(|address| format!("{address}:6443").parse().unwrap())
            .collect();
        assert_eq!(*endpoints.borrow_and_update(), expected);
    }
    api.delete("kubernetes", &DeleteParams::default()).await.unwrap();
    let more = timeout(Duration::from_secs(1), endpoints.changed()).await;
    assert!(
        more.is_err(),
        "it comes back where it was: {:?}",
        endpoints.borrow()
    );
}

#[tokio::test]
async fn where_machines_that_join_find_the_api_server_is_followed_where_that_is_said() {
    let server = Server::start().await;
    let api: Api<ConfigMap> = Api::namespaced(server.client.clone(), "kube-public");
    let (sender, mut joined) = watch::channel(BTreeSet::new());
    tokio::spawn(cluster_info::follow(
        server.client.clone(),
        Duration::from_millis(200),
        sender,
    ));
    timeout(PATIENCE, joined.changed()).await.unwrap().unwrap();
    assert!(
        joined.borrow_and_update().is_empty(),
        "that there is none is an answer"
    );
    for address in ["192.0.2.9:6443", "[2001:db8::9]:443"] {
        join_by(&server, address).await;
        timeout(PATIENCE, joined.changed()).await.unwrap().unwrap();
        assert_eq!(*joined.borrow_and_update(), [address.parse().unwrap()].into());
    }
    api.delete("cluster-info", &DeleteParams::default())
        .await
        .unwrap();
    timeout(PATIENCE, joined.changed()).await.unwrap().unwrap();
    assert!(joined.borrow_and_update().is_empty());
}

/// Has machines join by the API server at an address, as kubeadm writes it.
pub(crate) async fn join_by(server: &Server, address: &str) {
    let kubeconfig = json!({"apiVersion": "v1", "kind": "Config", "clusters": [
        {"name": "", "cluster": {"server": format!("https://{address}"), "certificate-authority-data": "QQ=="}},
    ]});
    let map = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "cluster-info"},
        "data": {"kubeconfig": kubeconfig.to_string()},
    });
    let api: Api<ConfigMap> = Api::namespaced(server.client.clone(), "kube-public");
    let params = PatchParams::apply("test").force();
    // The API server makes the namespace a moment after it has started.
    until("the ConfigMap", async || {
        api.patch("cluster-info", &params, &Patch::Apply(&map)).await.ok()
    })
    .await;
}
