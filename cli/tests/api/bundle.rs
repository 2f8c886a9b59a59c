//! `diagnose --bundle`: what is in it, and that it is read in place of the cluster.

use std::{fs, os::unix::fs::MetadataExt as _};

use k8s_openapi::api::{
    apps::v1::Deployment,
    rbac::v1::{ClusterRole, ClusterRoleBinding},
};
use kube::{Api, api::PostParams};
use serde_json::{Value, json};

use crate::{
    KEY, cli,
    kubelet::{Agents, Other},
    publish,
    server::{Server, until},
};

/// The operator, with a setting that is not the default.
async fn operator(server: &Server) {
    let labels = json!({"app.kubernetes.io/component": "operator"});
    let container = json!({"name": "operator", "image": "spanwire:1", "args": ["--listen-port=51899", "--installation=spanwire"]});
    let deployment = json!({"metadata": {"name": "spanwire-operator", "labels": labels},
        "spec": {"selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}}}});
    let api: Api<Deployment> = Api::namespaced(server.client.clone(), "spanwire");
    let deployment = serde_json::from_value(deployment).unwrap();
    api.create(&PostParams::default(), &deployment).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_has_what_helps_and_is_read_in_place_of_the_cluster() {
    let server = Server::start().await;
    publish(&server).await;
    let (agents, _kubelet) = Agents::start(&server, &["a1", "b1"]).await;
    operator(&server).await;
    agents.say("a1", &[Other::well("b", &["b1"])]);
    let private = "07".repeat(32);
    agents.of("a1", |agent| {
        agent.pages = [
            ("/debug/plan", "plan of a1\n".to_owned()),
            ("/debug/wanted", format!("wanted of a1\nprivate_key={private}\n")),
            ("/debug/actual", format!("actual of a1\npeer {}\n", KEY[1])),
            ("/debug/diff", "diff of a1\n".to_owned()),
        ]
        .into();
    });
    agents.silence("b1");
    let folder = tempfile::tempdir().unwrap();
    let run = |words: &[&str]| cli(&server.kubeconfig, folder.path(), words);

    let (code, said) = run(&["diagnose", "--bundle", "bundle.json"]);
    assert!(
        code == 3
            && said.contains("NoAnswer")
            && said.contains("bundle.json has what was read, without keys"),
        "{code} {said}"
    );
    let path = folder.path().join("bundle.json");
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    let text = fs::read_to_string(&path).unwrap();
    for secret in [KEY[0], KEY[1], &private, KEY[0].trim_end_matches('=')] {
        assert!(!text.contains(secret), "{secret}: {text}");
    }
    let bundle: Value = serde_json::from_str(&text).unwrap();
    let node = bundle["items"]
        .as_array()
        .unwrap()
        .iter()
        .find(|item| item["kind"] == "Node");
    assert_eq!(
        node.unwrap()["spec"]["podCIDRs"],
        json!(["10.244.0.0/24"]),
        "{text}"
    );
    for page in ["plan", "wanted", "actual", "diff"] {
        let lines = &bundle["agents"]["a1"]["pages"][format!("/debug/{page}")];
        assert_eq!(lines[0], format!("{page} of a1"), "{text}");
    }
    assert_eq!(bundle["agents"]["b1"], json!({"noAnswer": "not within 2 s"}));
    let arguments = &bundle["operator"]["deployments"][0]["containers"][0]["args"];
    assert_eq!(arguments[0], "--listen-port=51899");
    assert!(
        bundle["findings"]
            .as_array()
            .unwrap()
            .iter()
            .any(|finding| finding["reason"] == "NoAnswer")
    );
    // One that is there is not written over.
    let (code, said) = run(&["diagnose", "--bundle", "bundle.json"]);
    assert!(
        code == 1 && said.contains("cannot make bundle.json"),
        "{code} {said}"
    );

    // As those do who help, without the cluster.
    let nowhere = folder.path().join("nowhere");
    let help = |words: &[&str]| cli(&nowhere, folder.path(), words);
    let (code, said) = help(&["status", "-f", "bundle.json"]);
    assert!(
        code == 3 && said.contains("a      b    a1 > b1   up     71 s        21.3 ms"),
        "{code} {said}"
    );
    assert!(said.contains("b      a    b1 > ?    ?"), "{said}");
    let (code, said) = help(&["diagnose", "-f", "bundle.json"]);
    assert!(code == 3 && said.contains("not within 2 s"), "{code} {said}");
    // Of the test's own making: nodes at 127.0.0.1.
    let (code, said) = help(&["plan", "-f", "bundle.json"]);
    let lines = [
        "a          a1        -         1       203.0.113.1:51820",
        "node address 127.0.0.1/32",
    ];
    assert!(
        code == 4 && lines.iter().all(|line| said.contains(line)) && !said.contains("assumed"),
        "{code} {said}"
    );
    let (code, said) = help(&["explain", "-f", "bundle.json", "a1", "b1"]);
    assert!(code == 0 && said.contains("arrives after 1 hop"), "{code} {said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_says_what_it_lacks() {
    let server = Server::start().await;
    publish(&server).await;
    let folder = tempfile::tempdir().unwrap();
    // Who may list what is Spanwire's, and nothing else.
    let role = json!({"metadata": {"name": "reader"},
        "rules": [{"apiGroups": ["spanwire.dev"], "resources": ["*"], "verbs": ["list"]}]});
    let binding = json!({"metadata": {"name": "reader"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "reader"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "cni"}]});
    let roles: Api<ClusterRole> = Api::all(server.client.clone());
    let bindings: Api<ClusterRoleBinding> = Api::all(server.client.clone());
    let (role, binding) = (
        serde_json::from_value(role).unwrap(),
        serde_json::from_value(binding).unwrap(),
    );
    let params = PostParams::default();
    roles.create(&params, &role).await.unwrap();
    bindings.create(&params, &binding).await.unwrap();
    let reader = server.kubeconfig_of("cni");
    let run = |words: &[&str]| cli(&reader, folder.path(), words);
    until("the reader may list Locations", async || {
        (run(&["diagnose"]).0 != 1).then_some(())
    })
    .await;

    let (code, said) = run(&["diagnose", "--bundle", "bundle.json"]);
    assert!(
        code != 1 && said.contains("the bundle has no Nodes"),
        "{code} {said}"
    );
    let text = fs::read_to_string(folder.path().join("bundle.json")).unwrap();
    let bundle: Value = serde_json::from_str(&text).unwrap();
    let notes = bundle["notes"].to_string();
    for lack in [
        "the bundle has no Nodes",
        "the operator's settings cannot be read",
    ] {
        assert!(notes.contains(lack), "{lack}: {notes}");
    }
    let findings = bundle["findings"].to_string();
    assert!(findings.contains("agents are not asked"), "{findings}");
    assert_eq!(bundle["items"].as_array().unwrap().len(), 8, "{text}");
}
