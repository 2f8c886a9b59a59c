//! `explain` of what kubectl names: pods and services of a namespace, and a port.

use std::path::Path;

use k8s_openapi::api::{
    core::v1::{Namespace, Pod, Service},
    discovery::v1::EndpointSlice,
};
use kube::{
    Api, Resource,
    api::{Patch, PatchParams, PostParams},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use spanwire_testbed::wait_until;

use crate::{KEY, cli, kubelet::Agents, map::SOON, publish, server::Server};

async fn create<K>(server: &Server, object: Value)
where
    K: Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + Serialize
        + DeserializeOwned,
{
    let api: Api<K> = Api::namespaced(server.client.clone(), "shop");
    let typed = serde_json::from_value(object).unwrap();
    api.create(&PostParams::default(), &typed).await.unwrap();
}

/// The pod web of the node a1, and the service db of which the endpoint is a pod of b1.
async fn shop(server: &Server) {
    let spaces: Api<Namespace> = Api::all(server.client.clone());
    let space = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}});
    let space = serde_json::from_value(space).unwrap();
    spaces.create(&PostParams::default(), &space).await.unwrap();
    let web = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"},
        "spec": {"nodeName": "a1", "containers": [{"name": "web", "image": "web"}]}});
    create::<Pod>(server, web).await;
    let pods: Api<Pod> = Api::namespaced(server.client.clone(), "shop");
    let status =
        json!({"status": {"phase": "Running", "podIP": "10.244.0.9", "podIPs": [{"ip": "10.244.0.9"}]}});
    pods.patch_status("web", &PatchParams::default(), &Patch::Merge(status))
        .await
        .unwrap();
    let ports = json!([{"name": "sql", "port": 5432, "targetPort": 15432}, {"name": "http", "port": 80}]);
    let db = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "db"},
        "spec": {"clusterIP": "10.96.0.99", "ports": ports}});
    create::<Service>(server, db).await;
    let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "db-1", "labels": {"kubernetes.io/service-name": "db"}},
        "ports": [{"name": "sql", "port": 15432, "protocol": "TCP"}, {"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": [{"addresses": ["10.244.1.7"], "conditions": {"ready": true}}]});
    create::<EndpointSlice>(server, slice).await;
}

/// Writes a kubeconfig whose context has this namespace.
fn with_namespace(kubeconfig: &Path, folder: &Path, namespace: &str) -> std::path::PathBuf {
    let text = std::fs::read_to_string(kubeconfig).unwrap();
    let mut config: Value = serde_json::from_str(&text).unwrap();
    config["contexts"][0]["context"]["namespace"] = json!(namespace);
    let path = folder.join("with-namespace");
    std::fs::write(&path, config.to_string()).unwrap();
    path
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_and_a_service_are_those_of_the_namespace_and_the_kernels_are_asked_about_the_port_of_the_endpoint()
 {
    let server = Server::start().await;
    let folder = tempfile::tempdir().unwrap();
    publish(&server).await;
    shop(&server).await;
    let (agents, _kubelet) = Agents::start(&server, &["a1", "b1"]).await;
    agents.say("a1", &[]);
    agents.say("b1", &[]);
    let (to, back) = ("protocol=tcp&dport=15432", "protocol=tcp&sport=15432");
    // The answer to any other question is that of an agent that does not answer.
    let here = |packet: &str, verdict: Value| {
        json!({"here": true, "packet": packet, "firewall": verdict}).to_string()
    };
    let accepted = || json!({"verdict": "accepted"});
    let sent = |packet: &str, peer: &str| {
        let way = json!({"device": "spanwire0", "tunnel": true, "via": null, "table": 51830, "mtu": 1420, "peer": peer,
            "packet": packet, "firewall": accepted()});
        way.to_string()
    };
    let dropped = json!({"verdict": "dropped", "by": "rule 7 of the chain INPUT (ip filter)"});
    for (node, path, page) in [
        (
            "a1",
            format!("/debug/way/10.244.0.9/10.244.1.7?{to}"),
            sent("tcp to port 15432", KEY[1]),
        ),
        (
            "a1",
            format!("/debug/way/10.244.1.7/10.244.0.9/tunnel?answer&{back}"),
            here("tcp from port 15432", accepted()),
        ),
        (
            "b1",
            format!("/debug/way/10.244.0.9/10.244.1.7/tunnel?{to}"),
            here("tcp to port 15432", dropped),
        ),
        (
            "b1",
            format!("/debug/way/10.244.1.7/10.244.0.9?answer&{back}"),
            sent("tcp from port 15432", KEY[0]),
        ),
    ] {
        agents.of(node, |agent| agent.pages.insert(path.leak(), page));
    }
    let explained = |what: &str, kubeconfig: &Path, words: &[&str]| {
        let mut last = String::new();
        wait_until(what, SOON, || {
            last = cli(kubeconfig, folder.path(), &[&["explain"], words].concat()).1;
            last.contains("its firewall: accepted") || {
                eprintln!("{what}: {last}");
                false
            }
        });
        last
    };
    let own = with_namespace(&server.kubeconfig, folder.path(), "shop");
    for (what, kubeconfig, words) in [
        (
            "-n",
            &server.kubeconfig,
            &["-n", "shop", "pod/web", "svc/db", "--port", "5432"][..],
        ),
        (
            "the context's",
            &own,
            &["pod/web", "svc/db", "--port", "5432", "--protocol", "tcp"],
        ),
        (
            "that of the name",
            &server.kubeconfig,
            &["pod/shop/web", "svc/shop/db", "--port", "5432"],
        ),
        (
            "its address",
            &server.kubeconfig,
            &["-n", "shop", "pod/web", "10.96.0.99", "--port", "5432"],
        ),
    ] {
        let said = explained(what, kubeconfig, words);
        assert!(
            said.contains("to b1/10.244.1.7, tcp to port 15432"),
            "{what}: {said}"
        );
        assert!(
            said.contains("is dropped by the firewall of b1"),
            "{what}: {said}"
        );
        assert!(!said.contains("is not known"), "{what}: {said}");
    }
    let run = |words: &[&str]| cli(&server.kubeconfig, folder.path(), words);
    let (_, said) = run(&["explain", "-n", "shop", "pod/web", "svc/db"]);
    assert!(
        said.contains("note: service shop/db has the ports 5432/TCP,80/TCP: --port says"),
        "{said}"
    );
    for (words, why) in [
        (
            &["svc/db", "--port", "81"][..],
            "service shop/db has no port 81/TCP; it has 5432/TCP,80/TCP",
        ),
        (&["svc/other"], "there is no service shop/other"),
        (&["pod/other"], "there is no pod shop/other"),
        (
            &["svc/db", "--protocol", "icmp", "--port", "80"],
            "packets of icmp have no ports",
        ),
    ] {
        let words = [&["explain", "-n", "shop", "pod/web"], words].concat();
        let (code, said) = run(&words);
        assert!(code == 1 && said.contains(why), "{words:?}: {code} {said}");
    }
    let (code, said) = run(&["explain", "pod/web", "svc/db"]);
    assert!(
        code == 1 && said.contains("there is no pod default/web"),
        "{code} {said}"
    );
}
