//! The Lease by which a leader shows the operator that it lives.
//!
//! An agent that ceases to lead releases it: it has no holder then, as after client-go's release, for which the right to
//! renew it is enough. An agent that merely stops does not: its restart is no failover.

use std::time::Duration;

use k8s_openapi::{api::coordination::v1::Lease, jiff::Timestamp};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use serde_json::json;
use spanwire_cluster::{backoff::jittered, observed::Observed};
use spanwire_crds::names;
use spanwire_topology::NodeName;
use tokio::{sync::watch, time::Instant};

/// The kubelet's own figures: renewed four times before it expires.
const DURATION: Duration = Duration::from_secs(40);
const RENEW: Duration = Duration::from_secs(10);
/// After a failure.
const AGAIN: Duration = Duration::from_secs(2);

/// The MeshNode that the Lease goes with, by its UID; `None` while this node leads nothing.
pub type Owner = Option<String>;

/// Renews the Lease while this node leads, and releases it after that.
pub async fn renew(client: Client, namespace: String, me: NodeName, mut owners: watch::Receiver<Owner>) {
    let api: Api<Observed<Lease>> = Api::namespaced(client, &namespace);
    let mut failing = false;
    let mut held = false;
    loop {
        let owner = owners.borrow_and_update().clone();
        let Some(owner) = owner else {
            if std::mem::take(&mut held)
                && let Err(error) = release(&api, &me).await
            {
                // It runs out by itself.
                tracing::debug!(
                    error = &error as &dyn std::error::Error,
                    "releasing the leader's Lease failed"
                );
            }
            if owners.changed().await.is_err() {
                return;
            }
            continue;
        };
        let start = Instant::now();
        let was = failing;
        failing = match patch(&api, &me, &owner).await {
            Ok(()) => {
                held = true;
                false
            }
            Err(error) => {
                if !was {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "renewing the leader's Lease failed, retrying"
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

async fn patch(api: &Api<Observed<Lease>>, me: &NodeName, owner: &str) -> kube::Result<()> {
    let name = names::leader_lease(me);
    // MicroTime has six digits (RFC3339Micro of apimachinery).
    let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string();
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {
            "name": name,
            "ownerReferences": [{
                "apiVersion": names::API_VERSION, "kind": "MeshNode", "name": me.as_str(), "uid": owner,
            }],
        },
        "spec": {
            "holderIdentity": me.as_str(),
            "leaseDurationSeconds": DURATION.as_secs(),
            "renewTime": now,
        },
    });
    let params = PatchParams::apply(names::AGENT).force();
    api.patch(&name, &params, &Patch::Apply(lease)).await.map(|_| ())
}

/// Releases the Lease. One that is gone, with its MeshNode, is not created again for that.
async fn release(api: &Api<Observed<Lease>>, me: &NodeName) -> kube::Result<()> {
    let spec = json!({"spec": {"holderIdentity": null, "leaseDurationSeconds": 1}});
    let params = PatchParams {
        field_manager: Some(names::AGENT.to_owned()),
        ..PatchParams::default()
    };
    api.patch(&names::leader_lease(me), &params, &Patch::Merge(spec))
        .await
        .map(|_| ())
}

#[cfg(test)]
mod tests {
    use axum::{Router, extract::Request};
    use serde_json::Value;
    use tokio::{net::TcpListener, sync::mpsc, time::timeout};

    use super::*;

    /// Longer than anything takes that happens at once, also on a busy machine.
    const PATIENCE: Duration = Duration::from_secs(20);

    /// An API server that takes every Lease; passes the requests on: what they are, and what they ask for.
    async fn server() -> (Client, mpsc::UnboundedReceiver<(String, Value)>) {
        let (sender, requests) = mpsc::unbounded_channel();
        let answer = move |request: Request| {
            let sender = sender.clone();
            async move {
                let kind = request.headers()["content-type"].to_str().unwrap().to_owned();
                let what = format!("{} {} {kind}", request.method(), request.uri().path());
                let body = axum::body::to_bytes(request.into_body(), 1 << 16).await.unwrap();
                let body: Value = serde_json::from_slice(&body).unwrap();
                sender.send((what, body)).unwrap();
                let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "x"}});
                ([("content-type", "application/json")], lease.to_string())
            }
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, Router::new().fallback(answer)).await });
        let config = kube::Config::new(format!("http://{address}").parse().unwrap());
        (Client::try_from(config).unwrap(), requests)
    }

    #[tokio::test]
    async fn a_node_that_ceases_to_lead_releases_the_lease_once_and_one_that_never_led_writes_none() {
        let (client, mut requests) = server().await;
        let (leads, owners) = watch::channel(None);
        tokio::spawn(renew(client, "space".to_owned(), "n1".parse().unwrap(), owners));
        let lease = "PATCH /apis/coordination.k8s.io/v1/namespaces/space/leases/spanwire-leader-n1";
        for _ in 0..2 {
            leads.send_replace(Some("uid".to_owned()));
            let (what, body) = timeout(PATIENCE, requests.recv()).await.unwrap().unwrap();
            assert_eq!(what, format!("{lease} application/apply-patch+yaml"));
            assert_eq!(body["spec"]["holderIdentity"], "n1");
            leads.send_replace(None);
            let (what, body) = timeout(PATIENCE, requests.recv()).await.unwrap().unwrap();
            assert_eq!(what, format!("{lease} application/merge-patch+json"));
            let given_up = json!({"spec": {"holderIdentity": null, "leaseDurationSeconds": 1}});
            assert_eq!(body, given_up);
            leads.send_replace(None);
        }
    }

    #[tokio::test]
    async fn an_agent_that_stops_while_leading_keeps_the_lease() {
        let (client, mut requests) = server().await;
        let (leads, owners) = watch::channel(Some("uid".to_owned()));
        let renewing = tokio::spawn(renew(client, "space".to_owned(), "n1".parse().unwrap(), owners));
        timeout(PATIENCE, requests.recv()).await.unwrap().unwrap();
        drop(leads);
        timeout(PATIENCE, renewing).await.unwrap().unwrap();
        assert!(requests.try_recv().is_err());
    }
}
