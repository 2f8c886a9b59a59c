//! A user who may read a part of it.

use std::path::Path;

use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use serde_json::{Value, json};

use crate::{cli, create, server::Server};

/// Has the user `cni` list these kinds of Spanwire's.
async fn grant(server: &Server, name: &str, kinds: &[&str]) {
    let object = |kind: &str, rest: Value| {
        let mut object =
            json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": {"name": name}});
        object
            .as_object_mut()
            .unwrap()
            .extend(rest.as_object().unwrap().clone());
        object
    };
    let rule = json!({"apiGroups": ["spanwire.dev"], "resources": kinds, "verbs": ["list"]});
    create::<ClusterRole>(server, object("ClusterRole", json!({"rules": [rule]}))).await;
    let subject = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "cni"});
    let role = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name});
    let binding = json!({"subjects": [subject], "roleRef": role});
    create::<ClusterRoleBinding>(server, object("ClusterRoleBinding", binding)).await;
}

/// Of two locations that are published.
pub(crate) async fn some_kinds_are_shown_to_those_who_may_not_list_all(server: &Server, folder: &Path) {
    let kubeconfig = server.kubeconfig_of("cni");
    let run = |words: &[&str]| cli(&kubeconfig, folder, words);
    let (code, said) = run(&["status"]);
    assert!(
        code == 1 && said.contains("docs/cli.md names the rights"),
        "without the published mesh there is nothing to show: {code} {said}"
    );
    grant(server, "slices", &["locationslices"]).await;
    let mut last = (0, String::new());
    // RBAC learns of it a little later.
    spanwire_testbed::wait_until("it may read what is published", crate::map::SOON, || {
        last = run(&["status"]);
        last.0 != 1
    });
    let (code, said) = last;
    assert_eq!(code, 3, "{said}");
    for part in [
        "a          a1        -         1       1 of 1        -          Unknown",
        "a      b    a1 > ?",
        "locations are not listed, so what they say is not known: locations.spanwire.dev is forbidden",
        "peers are not listed",
        "meshnodes are not listed",
        "next: kubectl auth can-i list meshnodes.spanwire.dev",
        "NoAgents",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(
        !said.contains("Nothing is wrong") && !said.contains("no location"),
        "{said}"
    );
    let (code, said) = run(&["diagnose", "b"]);
    assert!(code == 3 && said.contains("NotListed"), "{code} {said}");
    let (code, said) = run(&["explain", "a1", "b1"]);
    assert!(
        code == 3 && said.contains("arrives after 1 hop") && said.contains("note: meshnodes are not listed"),
        "{code} {said}"
    );
}
