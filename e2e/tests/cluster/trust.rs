//! No agent can speak for another.

use anyhow::{Context, Result, ensure};
use spanwire_e2e::Lab;

use spanwire_e2e::expect::component_pod;

/// Returns the token that the agent on a node was given.
fn token(lab: &Lab, node: &str) -> Result<String> {
    let pod = component_pod(lab, "agent", node)?;
    let found = lab.get(&["pod", &pod, "--namespace", "spanwire"])?;
    let uid = found["metadata"]["uid"].as_str().context("a uid")?;
    let path = format!("/var/lib/kubelet/pods/{uid}/volumes/kubernetes.io~projected");
    lab.node(node)?.sh(&format!("cat {path}/*/token"))
}

fn with_token(lab: &Lab, token: &str, args: &[&str]) -> Result<spanwire_e2e::Finished> {
    // The administrator's certificate must not speak for it.
    let server = format!("https://{}:6443", lab.layout().api());
    let base = [
        "--kubeconfig",
        "/dev/null",
        "--server",
        &server,
        "--insecure-skip-tls-verify",
        "--token",
        token.trim(),
    ];
    lab.client("kubectl").args(base).args(args).finish()
}

pub(crate) fn token_is_bound_to_its_node(lab: &Lab) -> Result<()> {
    let token = token(lab, "a2")?;
    let patch = |path: &str, change: &str| {
        // kubectl would read the object first, which an agent may not.
        let url = format!("https://{}:6443/apis/{path}?dryRun=All", lab.layout().api());
        let bearer = format!("Authorization: Bearer {}", token.trim());
        let kind = "Content-Type: application/merge-patch+json";
        let curl = [
            "curl", "-sk", "-X", "PATCH", "-H", &bearer, "-H", kind, "-d", change, &url,
        ];
        lab.control_plane().run(curl)
    };
    let status = |node: &str| {
        let change = r#"{"status": {"hopAddresses": ["10.66.0.1"]}}"#;
        patch(&format!("spanwire.dev/v1alpha1/meshnodes/{node}/status"), change)
    };
    let own = status("a2")?;
    ensure!(own.contains("10.66.0.1"), "its own MeshNode: {own}");
    let other = status("b1")?;
    ensure!(
        other.contains("\"code\": 4") && other.contains("node"),
        "another's MeshNode: {other}"
    );
    let lease = |name: &str| {
        let change = r#"{"spec": {"holderIdentity": "me"}}"#;
        patch(
            &format!("coordination.k8s.io/v1/namespaces/spanwire/leases/{name}"),
            change,
        )
    };
    for name in ["spanwire-operator", "spanwire-leader-b1"] {
        let answer = lease(name)?;
        ensure!(answer.contains("\"code\": 4"), "the Lease {name}: {answer}");
    }
    for what in ["nodes", "secrets"] {
        let read = with_token(lab, &token, &["get", what, "--all-namespaces"])?;
        ensure!(
            read.code != 0 && read.stderr.contains("forbidden"),
            "an agent may not read {what}: {}",
            read.stderr
        );
    }
    Ok(())
}
