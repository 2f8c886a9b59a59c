//! Writes this node's MeshNode status, whenever there is another one to write.

use std::{sync::Arc, time::Duration};

use kube::{
    Api, Client, Resource as _,
    api::{Patch, PatchParams},
};
use serde_json::json;
use spanwire_crds::{MeshNode, MeshNodeStatus};
use spanwire_topology::NodeName;
use tokio::sync::watch;

use crate::chance::{Backoff, jittered};

/// The name under which the agent owns fields.
pub const FIELD_MANAGER: &str = spanwire_crds::names::AGENT;

/// What is to be written, if anything.
pub type Wish = Option<Arc<MeshNodeStatus>>;

/// Writes every wish, the newest first, until it is written or replaced by a newer one.
pub async fn write(client: Client, me: NodeName, mut wishes: watch::Receiver<Wish>) {
    let api: Api<MeshNode> = Api::all(client);
    let mut backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(15));
    while wishes.changed().await.is_ok() {
        let mut wish = wishes.borrow_and_update().clone();
        while let Some(status) = wish.take() {
            let Err(error) = patch(&api, &me, &status).await else {
                backoff.reset();
                tracing::debug!("reported");
                break;
            };
            let wait = backoff.wait();
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                ?wait,
                "the status is not reported yet"
            );
            tokio::select! {
                () = tokio::time::sleep(jittered(wait)) => wish = Some(status),
                changed = wishes.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    wish = wishes.borrow_and_update().clone();
                }
            }
        }
    }
}

async fn patch(api: &Api<MeshNode>, me: &NodeName, status: &MeshNodeStatus) -> kube::Result<()> {
    let object = json!({
        "apiVersion": MeshNode::api_version(&()),
        "kind": MeshNode::kind(&()),
        "metadata": {"name": me.as_str()},
        "status": status,
    });
    let params = PatchParams::apply(FIELD_MANAGER).force();
    api.patch_status(me.as_str(), &params, &Patch::Apply(object))
        .await
        .map(|_| ())
}
