//! Where the API server says that it runs.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams},
};
use serde_json::json;
use spanwire_cluster::endpoints::watch_endpoints;
use tokio::{sync::watch, time::timeout};

use crate::server::Server;

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
