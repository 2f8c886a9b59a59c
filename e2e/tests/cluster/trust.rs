//! No agent can speak for another.

use anyhow::{Result, ensure};
use spanwire_e2e::{Holder, Lab};

pub(crate) fn token_is_bound_to_its_node(lab: &Lab) -> Result<()> {
    let agent = lab.credentials("a2", Holder::Agent)?;
    let who = agent.kubectl(["auth", "whoami"])?.stdout;
    ensure!(
        who.contains("system:serviceaccount:spanwire:spanwire-agent") && who.contains("a2"),
        "it is not the agent of a2 that speaks: {who}"
    );
    let status = |node: &str| {
        let change = r#"{"status": {"hopAddresses": ["10.66.0.1"]}}"#;
        let path = format!("apis/spanwire.dev/v1alpha1/meshnodes/{node}/status?dryRun=All");
        agent.merge(&path, change)
    };
    let own = status("a2")?;
    ensure!(
        own.accepted() && own.body.contains("10.66.0.1"),
        "its own MeshNode: {own:?}"
    );
    let other = status("b1")?;
    ensure!(
        other.refused() && other.body.contains("node"),
        "another's MeshNode: {other:?}"
    );
    let lease = |name: &str| {
        let change = r#"{"spec": {"holderIdentity": "me"}}"#;
        let path = format!("apis/coordination.k8s.io/v1/namespaces/spanwire/leases/{name}?dryRun=All");
        agent.merge(&path, change)
    };
    for name in ["spanwire-operator", "spanwire-leader-b1"] {
        let answer = lease(name)?;
        ensure!(answer.refused(), "the Lease {name}: {answer:?}");
    }
    for what in ["nodes", "secrets"] {
        let read = agent.kubectl(["get", what, "--all-namespaces"])?;
        ensure!(
            read.code != 0 && read.stderr.contains("forbidden"),
            "an agent may not read {what}: {}",
            read.stderr
        );
    }
    let one = |name: &str| agent.kubectl(["-n", "spanwire", "get", "secret", name]);
    let preshared = one("spanwire-preshared-keys")?;
    ensure!(
        preshared.code == 0 || preshared.stderr.contains("not found"),
        "the Secret of preshared keys: {}",
        preshared.stderr
    );
    let release = one("sh.helm.release.v1.spanwire.v1")?;
    ensure!(
        release.code != 0 && release.stderr.contains("forbidden"),
        "what helm keeps: {}",
        release.stderr
    );
    Ok(())
}
