//! Where the API server says that it runs.

use std::{
    collections::BTreeSet,
    net::{SocketAddr, ToSocketAddrs},
    time::Duration,
};

use k8s_openapi::api::{
    core::v1::ConfigMap,
    discovery::v1::EndpointSlice,
    rbac::v1::{Role, RoleBinding},
};
use kube::{
    Api, Client, Config,
    api::{DeleteParams, Patch, PatchParams},
    config::{KubeConfigOptions, Kubeconfig},
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
    let mut joined = follow(server.client.clone());
    assert_eq!(
        next(&mut joined).await,
        [].into(),
        "that there is none is an answer"
    );
    for address in ["192.0.2.9:6443", "[2001:db8::9]:443"] {
        join_by(&server, address).await;
        assert_eq!(next(&mut joined).await, [address.parse().unwrap()].into());
    }
    // Several clusters, one of them by a name.
    let several = ["192.0.2.9:6443", "[2001:db8::9]", "localhost:8443"];
    publish(&server, json!({"kubeconfig": kubeconfig(&several)})).await;
    let mut expected: BTreeSet<SocketAddr> = ("localhost", 8443).to_socket_addrs().unwrap().collect();
    assert!(!expected.is_empty());
    expected.extend(
        ["192.0.2.9:6443", "[2001:db8::9]:443"].map(|address| address.parse::<SocketAddr>().unwrap()),
    );
    assert_eq!(next(&mut joined).await, expected);
    // What is no kubeconfig, or names what is no server, changes nothing.
    for wrong in [
        "[",
        "kubeconfig",
        "clusters: [{name: a}]",
        "clusters: [{cluster: {server: /x}}]",
    ] {
        publish(&server, json!({"kubeconfig": wrong})).await;
        let more = timeout(Duration::from_secs(1), joined.changed()).await;
        assert!(more.is_err(), "{wrong:?}: {:?}", joined.borrow());
    }
    join_by(&server, "192.0.2.10:6443").await;
    assert_eq!(
        next(&mut joined).await,
        ["192.0.2.10:6443".parse().unwrap()].into()
    );
    api.delete("cluster-info", &DeleteParams::default())
        .await
        .unwrap();
    assert_eq!(next(&mut joined).await, [].into());
    join_by(&server, "192.0.2.11:6443").await;
    assert_eq!(
        next(&mut joined).await,
        ["192.0.2.11:6443".parse().unwrap()].into()
    );
    // One that holds no kubeconfig is none.
    publish(&server, json!({"other": "x"})).await;
    assert_eq!(next(&mut joined).await, [].into());
}

/// As where the Role is not there yet, or is taken away.
#[tokio::test]
async fn who_may_not_read_where_machines_join_is_answered_at_once_and_keeps_what_was_read() {
    let server = Server::start().await;
    join_by(&server, "192.0.2.9:6443").await;
    let config = Kubeconfig::read_from(server.kubeconfig_of("cni")).unwrap();
    let config = Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await;
    let client = Client::try_from(config.unwrap()).unwrap();
    let mut joined = follow(client);
    assert_eq!(next(&mut joined).await, [].into(), "nothing waits for it");
    let roles: Api<Role> = Api::namespaced(server.client.clone(), "kube-public");
    let bindings: Api<RoleBinding> = Api::namespaced(server.client.clone(), "kube-public");
    let params = PatchParams::apply("test").force();
    let rbac = "rbac.authorization.k8s.io";
    let role = json!({
        "apiVersion": format!("{rbac}/v1"), "kind": "Role", "metadata": {"name": "joins"},
        "rules": [{"apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["cluster-info"], "verbs": ["get"]}],
    });
    let binding = json!({
        "apiVersion": format!("{rbac}/v1"), "kind": "RoleBinding", "metadata": {"name": "joins"},
        "roleRef": {"apiGroup": rbac, "kind": "Role", "name": "joins"},
        "subjects": [{"apiGroup": rbac, "kind": "User", "name": "cni"}],
    });
    roles.patch("joins", &params, &Patch::Apply(role)).await.unwrap();
    bindings
        .patch("joins", &params, &Patch::Apply(binding))
        .await
        .unwrap();
    let found: BTreeSet<SocketAddr> = ["192.0.2.9:6443".parse().unwrap()].into();
    assert_eq!(next(&mut joined).await, found);
    bindings.delete("joins", &DeleteParams::default()).await.unwrap();
    let more = timeout(Duration::from_secs(2), joined.changed()).await;
    assert!(more.is_err(), "{:?}", joined.borrow());
}

/// Follows where machines join, as often as a test can wait for.
fn follow(client: Client) -> watch::Receiver<BTreeSet<SocketAddr>> {
    let (sender, joined) = watch::channel(BTreeSet::new());
    tokio::spawn(cluster_info::follow(client, Duration::from_millis(200), sender));
    joined
}

async fn next(joined: &mut watch::Receiver<BTreeSet<SocketAddr>>) -> BTreeSet<SocketAddr> {
    timeout(PATIENCE, joined.changed()).await.unwrap().unwrap();
    joined.borrow_and_update().clone()
}

/// Has machines join by the API server at an address, as kubeadm writes it.
pub(crate) async fn join_by(server: &Server, address: &str) {
    publish(server, json!({"kubeconfig": kubeconfig(&[address])})).await;
}

/// Returns a kubeconfig with a cluster for each of these hosts.
fn kubeconfig(hosts: &[&str]) -> String {
    let cluster = |host: &&str| {
        let cluster = json!({"server": format!("https://{host}"), "certificate-authority-data": "QQ=="});
        json!({"name": "", "cluster": cluster})
    };
    let clusters: Vec<_> = hosts.iter().map(cluster).collect();
    json!({"apiVersion": "v1", "kind": "Config", "clusters": clusters}).to_string()
}

/// Writes the ConfigMap with this content and no other.
async fn publish(server: &Server, data: serde_json::Value) {
    let map = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "cluster-info"}, "data": data,
    });
    let api: Api<ConfigMap> = Api::namespaced(server.client.clone(), "kube-public");
    let params = PatchParams::apply("test").force();
    // The API server makes the namespace a moment after it has started.
    until("the ConfigMap", async || {
        api.patch("cluster-info", &params, &Patch::Apply(&map)).await.ok()
    })
    .await;
}
