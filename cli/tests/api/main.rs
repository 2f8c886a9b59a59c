//! The program against a real API server: etcd and kube-apiserver of the lab, without an operator.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "../../../operator/tests/api/server.rs"]
#[allow(dead_code, reason = "the operator's tests use more of it")]
mod server;
#[path = "../netns/world.rs"]
#[allow(dead_code, reason = "the tests of this machine use more of it")]
mod world;

mod browser;
mod bundle;
mod connect;
mod flags;
mod kubelet;
mod map;
mod migrate;
mod named;
mod page;
mod peers;
mod rights;
mod services;
mod status;
mod watch;

use std::{path::Path, thread};

use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Secret};
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use spanwire_crds::{Location, LocationSlice, MeshNode, Peer};
use spanwire_testbed::Command;
use spanwire_topology::PublicKey;

use server::{Server, until};

const KEY: [&str; 2] = [
    "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=",
    "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=",
];

/// Runs the program as a user does; its exit code and what it says.
fn cli(kubeconfig: &Path, folder: &Path, words: &[&str]) -> (i32, String) {
    let script = format!("cd {} && exec \"$0\" \"$@\" 2>&1", folder.display());
    let output = Command::new("sh")
        .args([
            "-c",
            &script,
            env!("CARGO_BIN_EXE_kubectl-spanwire"),
            "--kubeconfig",
        ])
        .arg(kubeconfig)
        .args(words)
        .output();
    let said = String::from_utf8(output.stdout).unwrap();
    (output.status.code().unwrap(), said)
}

async fn create<K>(server: &Server, object: Value)
where
    K: kube::Resource<Scope = k8s_openapi::ClusterResourceScope, DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + serde::Serialize
        + serde::de::DeserializeOwned,
{
    let api: Api<K> = Api::all(server.client.clone());
    let status = object.get("status").cloned();
    let name = object["metadata"]["name"].as_str().unwrap().to_owned();
    let typed: K = serde_json::from_value(object).unwrap();
    api.create(&PostParams::default(), &typed).await.unwrap();
    if let Some(status) = status {
        let patch = Patch::Merge(json!({"status": status}));
        api.patch_status(&name, &PatchParams::default(), &patch)
            .await
            .unwrap();
    }
}

fn ours(kind: &str, name: &str, spec: Value, status: Option<Value>) -> Value {
    let mut object = json!({"apiVersion": "spanwire.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec});
    if let Some(status) = status {
        object["status"] = status;
    }
    object
}

/// Two locations of one node each, as an operator has published them.
async fn publish(server: &Server) {
    publish_all(server, &[("a1", "a"), ("b1", "b")]).await;
}

/// Locations of one node each, as an operator has published them.
async fn publish_all(server: &Server, all: &[(&str, &str)]) {
    for (index, &(node, location)) in all.iter().enumerate() {
        let key = PublicKey::new([u8::try_from(index + 1).unwrap(); 32]).to_string();
        let (address, pods) = (format!("192.168.{index}.1"), format!("10.244.{index}.0/24"));
        create::<Node>(
            server,
            json!({"apiVersion": "v1", "kind": "Node",
                "metadata": {"name": node, "annotations": {"spanwire.dev/location": location,
                    "spanwire.dev/endpoint": format!("203.0.113.{}:51820", index + 1), "kilo.squat.ai/leader": "true"}},
                "spec": {"podCIDRs": [pods], "podCIDR": pods},
                "status": {"addresses": [{"type": "InternalIP", "address": address}],
                    "conditions": [{"type": "Ready", "status": "True"}]}}),
        )
        .await;
        let ready = json!([{"type": "Ready", "status": "True", "reason": "AllWell", "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z"}]);
        create::<Location>(
            server,
            ours(
                "Location",
                location,
                json!({}),
                Some(json!({"nodes": 1, "conditions": ready})),
            ),
        )
        .await;
        let report = json!({"publicKey": key, "observedGeneration": 1, "conditions": ready});
        create::<MeshNode>(
            server,
            ours("MeshNode", node, json!({"location": location}), Some(report)),
        )
        .await;
        let names = all.iter().map(|(_, name)| *name);
        let others: Vec<&str> = names.filter(|name| *name != location).collect();
        let head = json!({"location": location, "head": {"meshGeneration": 1, "established": others,
            "leaders": [{"node": node, "role": "Active"}], "memberSlices": [format!("{location}-m1")]}});
        create::<LocationSlice>(
            server,
            ours("LocationSlice", &format!("{location}-head"), head, None),
        )
        .await;
        let member = json!({"node": node, "generation": 1, "addresses": [address], "prefixes": [pods],
            "overlay": [format!("10.4.0.{}", index + 1)], "publicKey": key, "listenPort": 51820,
            "endpoints": [format!("203.0.113.{}:51820", index + 1)]});
        let members = json!({"location": location, "members": [member]});
        create::<LocationSlice>(
            server,
            ours("LocationSlice", &format!("{location}-m1"), members, None),
        )
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_reads_a_cluster() {
    let server = Server::start().await;
    let folder = tempfile::tempdir().unwrap();
    let run = |words: &[&str]| cli(&server.kubeconfig, folder.path(), words);
    publish(&server).await;

    let (code, said) = run(&["status"]);
    assert!(
        said.contains("a          a1") && !said.contains("Nothing is wrong."),
        "{said}"
    );
    assert!(
        said.contains("a      b    a1 > ?   ?"),
        "what no agent answers is unknown: {said}"
    );
    assert!(
        said.contains("WARNING: daemonset agent: NoAgents\n  the namespace spanwire has no agent")
            && code == 3,
        "{code} {said}"
    );
    let (code, said) = run(&["diagnose"]);
    assert!(
        code == 3 && said.contains("NoAgents") && !said.contains("Nothing is wrong."),
        "{code} {said}"
    );
    let (code, said) = run(&["explain", "a1", "b1"]);
    assert!(
        code == 3 && said.contains("[encrypted]") && said.contains("arrives after 1 hop"),
        "what its kernels do is not known: {code} {said}"
    );
    let (code, said) = run(&["graph", "-o", "mermaid"]);
    assert!(code == 0 && said.contains("L0 === L1"), "{code} {said}");
    let (code, said) = run(&["showconf", "node", "a1", "-o", "wg"]);
    assert!(
        code == 0 && said.contains(KEY[1]) && said.contains("Endpoint = 203.0.113.2:51820"),
        "{code} {said}"
    );
    let (code, said) = run(&["migrate", "kilo"]);
    assert!(
        code == 1 && said.contains("no DaemonSet runs Kilo") && said.contains("--image"),
        "{code} {said}"
    );
    let (code, said) = run(&["migrate", "kilo", "--image", "busybox"]);
    assert!(
        code == 0 && said.contains("kubectl annotate --overwrite node a1 spanwire.dev/leader=true"),
        "{code} {said}"
    );

    rights::some_kinds_are_shown_to_those_who_may_not_list_all(&server, folder.path()).await;
    services::explain_knows_the_address_of_a_service(&server, folder.path()).await;
    join_by(&server, "198.51.100.9:6443").await;
    plans(&run, folder.path());
    peers(&server, folder.path()).await;
}

/// Has machines join by the API server at an address, as kubeadm writes it.
async fn join_by(server: &Server, address: &str) {
    let kubeconfig = format!("clusters: [{{name: '', cluster: {{server: 'https://{address}'}}}}]");
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "cluster-info"},
        "data": {"kubeconfig": kubeconfig}});
    let maps: Api<ConfigMap> = Api::namespaced(server.client.clone(), "kube-public");
    let params = PatchParams::apply("test").force();
    maps.patch("cluster-info", &params, &Patch::Apply(map))
        .await
        .unwrap();
}

fn plans(run: &dyn Fn(&[&str]) -> (i32, String), folder: &Path) {
    let file = folder.join("change.yaml");
    std::fs::write(&file, "apiVersion: v1\nkind: Node\nmetadata: {name: a1}\n").unwrap();
    let file = file.to_str().unwrap();
    let (code, said) = run(&["plan", "-f", file, "--diff"]);
    assert!(
        code == 0 && said.contains("Nothing would change"),
        "{code} {said}"
    );
    assert!(said.contains("no operator"), "what is assumed is said: {said}");
    let other = "apiVersion: spanwire.dev/v1alpha1\nkind: Location\nmetadata: {name: a}\nspec: {cidrs: [172.20.0.0/24]}\n";
    std::fs::write(file, other).unwrap();
    let (code, said) = run(&["plan", "-f", file, "--diff"]);
    assert!(
        code == 5 && said.contains("location a   cidrs   -     172.20.0.0/24"),
        "{code} {said}"
    );
    assert_eq!(
        run(&["plan", "-f", file, "--diff", "-o", "name"])
            .1
            .lines()
            .last(),
        Some("location.spanwire.dev/a")
    );
    std::fs::write(file, other.replace("172.20.0.0/24", "10.244.1.0/24")).unwrap();
    let (code, said) = run(&["plan", "-f", file, "--diff"]);
    assert!(
        code == 4 && said.contains("Not granted:\n  location a: cidr 10.244.1.0/24: "),
        "{code} {said}"
    );
    std::fs::write(file, other.replace("172.20.0.0/24", "198.51.100.9/32")).unwrap();
    let (code, said) = run(&["plan", "-f", file, "--diff"]);
    assert!(
        code == 4
            && said
                .contains("cidr 198.51.100.9/32: contains 198.51.100.9/32, where nodes reach the API server"),
        "{code} {said}"
    );
}

/// Adds a Peer, for which the test decides as the operator would.
async fn peers(server: &Server, folder: &Path) {
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "spanwire"}});
    let namespaces: Api<Namespace> = Api::all(server.client.clone());
    // It may be there.
    let _exists = namespaces
        .create(
            &PostParams::default(),
            &serde_json::from_value(namespace).unwrap(),
        )
        .await;
    let (kubeconfig, at) = (server.kubeconfig.clone(), folder.to_owned());
    let adding = thread::spawn(move || {
        cli(
            &kubeconfig,
            &at,
            &["peer", "add", "laptop", "--location", "a", "--preshared-key"],
        )
    });
    let api: Api<Peer> = Api::all(server.client.clone());
    let peer = until("the Peer is there", async || {
        api.get_opt("laptop").await.ok().flatten()
    })
    .await;
    assert_eq!(peer.spec.allowed_ips, ["10.199.0.1/32"]);
    let reference = json!({"name": "spanwire-preshared-keys", "key": "laptop"});
    assert_eq!(json!(peer.spec.preshared_key_secret_ref), reference);
    let secrets: Api<Secret> = Api::namespaced(server.client.clone(), "spanwire");
    let secret = secrets
        .get("spanwire-preshared-keys")
        .await
        .unwrap()
        .data
        .unwrap();
    let preshared = String::from_utf8(secret["laptop"].0.clone()).unwrap();
    let accepted = json!({"publicKey": peer.spec.public_key, "allowedIPs": peer.spec.allowed_ips, "home": "a",
        "attachments": ["a"], "presharedKeySecretRef": reference});
    let patch = Patch::Merge(json!({"status": {"accepted": accepted}}));
    api.patch_status("laptop", &PatchParams::default(), &patch)
        .await
        .unwrap();
    let (code, said) = adding.join().unwrap();
    assert!(
        code == 0 && said.contains("wg-quick up ./laptop.conf"),
        "{code} {said}"
    );
    let file = folder.join("laptop.conf");
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&file).unwrap());
    assert_eq!(mode & 0o777, 0o600);
    let config = std::fs::read_to_string(&file).unwrap();
    for line in [
        "PrivateKey = ",
        &format!("PresharedKey = {preshared}"),
        "Address = 10.199.0.1/32",
        KEY[0],
        "Endpoint = 203.0.113.1:51820",
        "10.244.1.0/24",
    ] {
        assert!(config.contains(line), "{line}: {config}");
    }
    assert!(!config.contains(KEY[1]), "it is attached to a alone: {config}");
    let run = |words: &[&str]| cli(&server.kubeconfig, folder, words);
    let (code, said) = run(&["peer", "add", "laptop"]);
    assert!(
        code == 1 && said.contains("there is a Peer laptop already"),
        "{code} {said}"
    );
    assert_eq!(
        run(&["peer", "list", "-o", "name"]),
        (0, "peer.spanwire.dev/laptop\n".to_owned())
    );
    let (code, said) = run(&["peer", "remove", "laptop"]);
    assert!(
        code == 0
            && said.contains("peer.spanwire.dev/laptop deleted")
            && said.contains("still in the Secret"),
        "{code} {said}"
    );
    let (code, said) = run(&["peer", "add", "laptop", "--preshared-key", "--file", "other.conf"]);
    assert!(
        code == 1 && said.contains("has a key laptop already") && !folder.join("other.conf").exists(),
        "{code} {said}"
    );
    let (code, said) = run(&["peer", "remove", "laptop"]);
    assert!(code == 1 && said.contains("not found"), "{code} {said}");
    for name in ["one", "two"] {
        let spec = json!({"publicKey": KEY[0], "allowedIPs": ["192.168.50.0/24"]});
        create::<Peer>(server, ours("Peer", name, spec, None)).await;
    }
    let (code, said) = run(&["peer", "remove", "one", "laptop", "two", "phone"]);
    assert_eq!(code, 1, "{said}");
    for part in [
        "peer.spanwire.dev/one deleted\n",
        "error: peer laptop: ",
        "peer.spanwire.dev/two deleted\n",
        "error: peer phone: ",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert_eq!(run(&["peer", "list", "-o", "name"]), (0, String::new()));
}
