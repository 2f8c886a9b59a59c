//! No agent can speak for another.

use anyhow::{Context, Result, ensure};
use spanwire_e2e::Lab;

use spanwire_e2e::expect::component_pod;

/// The token that the agent on a node was given.
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
    let patch = |node: &str| {
        let change = r#"{"status": {"hopAddresses": ["10.66.0.1"]}}"#;
        let args = [
            "patch",
            "meshnode",
            node,
            "--subresource=status",
            "--type=merge",
            "-p",
            change,
            "--dry-run=server",
        ];
        with_token(lab, &token, &args)
    };
    let own = patch("a2")?;
    ensure!(own.code == 0, "its own MeshNode: {}", own.stderr);
    let other = patch("b1")?;
    ensure!(
        other.code != 0 && other.stderr.contains("a2"),
        "another's MeshNode: {}{}",
        other.stdout,
        other.stderr
    );
    let lease = with_token(
        lab,
        &token,
        &[
            "patch",
            "lease",
            "spanwire-operator",
            "--namespace",
            "spanwire",
            "--type=merge",
            "-p",
            r#"{"spec": {"holderIdentity": "me"}}"#,
            "--dry-run=server",
        ],
    )?;
    ensure!(lease.code != 0, "the operator's Lease: {}", lease.stdout);
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
