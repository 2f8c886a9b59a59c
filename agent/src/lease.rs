//! The Lease by which a leader shows the operator that it lives.

use std::time::Duration;

use k8s_openapi::{api::coordination::v1::Lease, jiff::Timestamp};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use serde_json::json;
use spanwire_topology::NodeName;
use tokio::{sync::watch, time::Instant};

use crate::{chance::jittered, report::FIELD_MANAGER};

/// The kubelet's own figures: renewed four times before it expires.
const DURATION: Duration = Duration::from_secs(40);
const RENEW: Duration = Duration::from_secs(10);
/// After a failure.
const AGAIN: Duration = Duration::from_secs(2);

/// The MeshNode that the Lease goes with, by its UID; `None` while this node leads nothing.
pub type Owner = Option<String>;

/// Renews the Lease while this node leads.
pub async fn renew(client: Client, namespace: String, me: NodeName, mut owners: watch::Receiver<Owner>) {
    let api: Api<Lease> = Api::namespaced(client, &namespace);
    let mut failing = false;
    loop {
        let owner = owners.borrow_and_update().clone();
        let Some(owner) = owner else {
            if owners.changed().await.is_err() {
                return;
            }
            continue;
        };
        let start = Instant::now();
        let was = failing;
        failing = match patch(&api, &me, &owner).await {
            Ok(()) => false,
            Err(error) => {
                if !was {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "the leader's Lease is not renewed"
                    );
                }
                true
            }
        };
        let wait = if failing { jittered(AGAIN) } else { RENEW };
        tokio::select! {
            () = tokio::time::sleep_until(start + wait) => {}
            changed = owners.changed() => {
                if changed.is_err() {
                    return;
                }
            }
        }
    }
}

async fn patch(api: &Api<Lease>, me: &NodeName, owner: &str) -> kube::Result<()> {
    let name = format!("spanwire-leader-{me}");
    // MicroTime has six digits (RFC3339Micro of apimachinery).
    let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string();
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {
            "name": name,
            "ownerReferences": [{
                "apiVersion": "spanwire.dev/v1alpha1", "kind": "MeshNode", "name": me.as_str(), "uid": owner,
            }],
        },
        "spec": {
            "holderIdentity": me.as_str(),
            "leaseDurationSeconds": DURATION.as_secs(),
            "renewTime": now,
        },
    });
    let params = PatchParams::apply(FIELD_MANAGER).force();
    api.patch(&name, &params, &Patch::Apply(lease)).await.map(|_| ())
}
