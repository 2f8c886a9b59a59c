//! Writes this node's MeshNode status whenever it changes.

use std::{sync::Arc, time::Duration};

use kube::{
    Api, Client, Resource as _,
    api::{Patch, PatchParams},
};
use serde_json::json;
use spanwire_cluster::{
    backoff::{Backoff, jittered},
    observed::Observed,
};
use spanwire_crds::{MeshNode, MeshNodeStatus, names};
use spanwire_topology::NodeName;
use tokio::sync::watch;

use crate::answered::{ANSWER, answered};

/// The status to be written, if there is one.
pub type PendingStatus = Option<Arc<MeshNodeStatus>>;

/// Writes every status until it is written or replaced by a newer one.
pub async fn write(client: Client, me: NodeName, mut statuses: watch::Receiver<PendingStatus>) {
    let api: Api<Observed<MeshNode>> = Api::all(client);
    let mut backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(15));
    while statuses.changed().await.is_ok() {
        let mut pending = statuses.borrow_and_update().clone();
        while let Some(status) = pending.take() {
            let Err(error) = patch(&api, &me, &status).await else {
                backoff.reset();
                tracing::debug!("status written");
                break;
            };
            let wait = backoff.wait();
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                ?wait,
                "writing the status failed, retrying"
            );
            tokio::select! {
                () = tokio::time::sleep(jittered(wait)) => pending = Some(status),
                changed = statuses.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    pending = statuses.borrow_and_update().clone();
                }
            }
        }
    }
}

async fn patch(api: &Api<Observed<MeshNode>>, me: &NodeName, status: &MeshNodeStatus) -> kube::Result<()> {
    let object = json!({
        "apiVersion": MeshNode::api_version(&()),
        "kind": MeshNode::kind(&()),
        "metadata": {"name": me.as_str()},
        "status": status,
    });
    let params = PatchParams::apply(names::AGENT).force();
    let patch = Patch::Apply(object);
    let written = answered(ANSWER, api.patch_status(me.as_str(), &params, &patch));
    written.await.map(|_| ())
}
