//! The Lease by which a leader shows the operator that it lives.
//!
//! An agent that ceases to lead releases it: it has no holder then, as after client-go's release, for which the right to
//! renew it is enough. An agent that merely stops does not: its restart is no failover.
//!
//! That the API server answers and does not take the Lease is reported, for it is not the agent that is silent then. Once this node does
//! not lead any more, it is asked from time to time, without a write, whether that is still so.

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

use crate::answered::{ANSWER, answered};

/// The kubelet's own figures: renewed four times before it expires.
const DURATION: Duration = Duration::from_secs(40);

const PACE: Pace = Pace {
    renew: Duration::from_secs(10),
    again: Duration::from_secs(2),
    news: Duration::from_secs(20),
    ask: Duration::from_secs(30),
    answer: ANSWER,
};

/// The MeshNode that the Lease goes with, by its UID; `None` while this node leads nothing.
pub type Owner = Option<String>;

/// When what is done.
#[derive(Clone, Copy, Debug)]
struct Pace {
    renew: Duration,
    /// After a failure.
    again: Duration,
    /// So long renewing has failed when that is reported: in good time before the Lease expires.
    news: Duration,
    /// Between questions whether the Lease would be taken.
    ask: Duration,
    /// So long an answer is waited for: there is time for another request before the Lease expires.
    answer: Duration,
}

/// Renews the Lease while this node leads, and releases it after that. Reports why the API server does not take it.
pub async fn renew(
    client: Client,
    namespace: String,
    me: NodeName,
    owners: watch::Receiver<Owner>,
    refusals: watch::Sender<Option<String>>,
) {
    Holder::new(client, &namespace, me, refusals).run(owners).await;
}

struct Holder {
    api: Api<Observed<Lease>>,
    me: NodeName,
    pace: Pace,
    refusals: watch::Sender<Option<String>>,
    held: bool,
    /// Since when renewing fails.
    failing: Option<Instant>,
    refused: Option<Refused>,
}

/// What was reported.
struct Refused {
    /// As which the Lease is asked for.
    owner: String,
    /// The status of the answer.
    code: u16,
}

impl Holder {
    fn new(client: Client, namespace: &str, me: NodeName, refusals: watch::Sender<Option<String>>) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            me,
            pace: PACE,
            refusals,
            held: false,
            failing: None,
            refused: None,
        }
    }

    async fn run(mut self, mut owners: watch::Receiver<Owner>) {
        loop {
            let owner = owners.borrow_and_update().clone();
            let start = Instant::now();
            let wait = match owner {
                Some(owner) => Some(self.hold(owner, start).await),
                None => self.let_go().await,
            };
            tokio::select! {
                () = tokio::time::sleep_until(start + wait.unwrap_or_default()), if wait.is_some() => {}
                changed = owners.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
            }
        }
    }

    /// Renews the Lease; returns when to do so again.
    async fn hold(&mut self, owner: String, now: Instant) -> Duration {
        let Err(error) = self.patch(&owner, false).await else {
            self.held = true;
            self.failing = None;
            self.taken();
            return self.pace.renew;
        };
        if self.failing.is_none() {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "renewing the leader's Lease failed, retrying"
            );
        }
        let since = *self.failing.get_or_insert(now);
        if now.duration_since(since) >= self.pace.news {
            self.refuse(owner, &error);
        }
        jittered(self.pace.again)
    }

    /// Releases the Lease where it was held; returns when to ask again whether it would be taken.
    async fn let_go(&mut self) -> Option<Duration> {
        self.failing = None;
        if std::mem::take(&mut self.held)
            && let Err(error) = self.release().await
        {
            // It runs out by itself.
            tracing::debug!(
                error = &error as &dyn std::error::Error,
                "releasing the leader's Lease failed"
            );
        }
        let owner = self.refused.as_ref()?.owner.clone();
        match self.patch(&owner, true).await {
            Ok(()) => {
                self.taken();
                None
            }
            Err(error) => {
                self.refuse(owner, &error);
                Some(jittered(self.pace.ask))
            }
        }
    }

    fn taken(&mut self) {
        if self.refused.take().is_some() {
            tracing::info!("the API server takes the leader's Lease again");
            self.refusals.send_replace(None);
        }
    }

    /// Reports an answer that is no consent. The same one may be worded in another way each time, and is not reported again.
    fn refuse(&mut self, owner: String, error: &kube::Error) {
        let kube::Error::Api(status) = error else {
            return; // it does not answer
        };
        let code = status.code;
        if self.refused.as_ref().is_none_or(|refused| refused.code != code) {
            self.refusals.send_replace(Some(status.message.clone()));
        }
        self.refused = Some(Refused { owner, code });
    }

    /// Writes the Lease as renewed, or asks whether that could be done.
    async fn patch(&self, owner: &str, dry_run: bool) -> kube::Result<()> {
        let (me, name) = (self.me.as_str(), names::leader_lease(&self.me));
        // MicroTime has six digits (RFC3339Micro of apimachinery).
        let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string();
        let lease = json!({
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {
                "name": name,
                "ownerReferences": [{
                    "apiVersion": names::API_VERSION, "kind": "MeshNode", "name": me, "uid": owner,
                }],
            },
            "spec": {
                "holderIdentity": me,
                "leaseDurationSeconds": DURATION.as_secs(),
                "renewTime": now,
            },
        });
        let mut params = PatchParams::apply(names::AGENT).force();
        params.dry_run = dry_run;
        let patch = Patch::Apply(lease);
        let patched = answered(self.pace.answer, self.api.patch(&name, &params, &patch));
        patched.await.map(|_| ())
    }

    /// Releases the Lease. One that is gone, with its MeshNode, is not created again for that.
    async fn release(&self) -> kube::Result<()> {
        let spec = json!({"spec": {"holderIdentity": null, "leaseDurationSeconds": 1}});
        let params = PatchParams {
            field_manager: Some(names::AGENT.to_owned()),
            ..PatchParams::default()
        };
        let name = names::leader_lease(&self.me);
        let patch = Patch::Merge(spec);
        let patched = answered(self.pace.answer, self.api.patch(&name, &params, &patch));
        patched.await.map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    };

    use axum::{Router, extract::Request, http::StatusCode};
    use serde_json::Value;
    use tokio::{net::TcpListener, sync::mpsc, time::timeout};

    use super::*;

    /// Longer than anything takes that happens at once, also on a busy machine.
    const PATIENCE: Duration = Duration::from_secs(20);
    const LEASE: &str = "PATCH /apis/coordination.k8s.io/v1/namespaces/space/leases/spanwire-leader-n1";

    /// An API server that takes every Lease; passes the requests on: what they are, and what they ask for.
    async fn server() -> (Client, mpsc::UnboundedReceiver<(String, Value)>) {
        answering(Arc::new(AtomicU16::new(200))).await
    }

    /// An API server that answers with this status; with 0 never.
    async fn answering(code: Arc<AtomicU16>) -> (Client, mpsc::UnboundedReceiver<(String, Value)>) {
        let (sender, requests) = mpsc::unbounded_channel();
        let answer = move |request: Request| {
            let (sender, code) = (sender.clone(), code.load(Ordering::SeqCst));
            async move {
                let kind = request.headers()["content-type"].to_str().unwrap().to_owned();
                let what = format!("{} {} {kind}", request.method(), request.uri());
                let body = axum::body::to_bytes(request.into_body(), 1 << 16).await.unwrap();
                let body: Value = serde_json::from_slice(&body).unwrap();
                sender.send((what, body)).unwrap();
                if code == 0 {
                    std::future::pending::<()>().await;
                }
                let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "x"}});
                let refusal = json!({
                    "apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Failure", "code": code,
                    "reason": "Some", "message": format!("refused with {code}"),
                });
                let body = if code == 200 { lease } else { refusal };
                let code = StatusCode::from_u16(code).unwrap();
                (code, [("content-type", "application/json")], body.to_string())
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
        let (refused, _refusals) = watch::channel(None);
        tokio::spawn(renew(
            client,
            "space".to_owned(),
            "n1".parse().unwrap(),
            owners,
            refused,
        ));
        for _ in 0..2 {
            leads.send_replace(Some("uid".to_owned()));
            let (what, body) = timeout(PATIENCE, requests.recv()).await.unwrap().unwrap();
            assert_eq!(
                what,
                format!("{LEASE}?&force=true&fieldManager=spanwire-agent application/apply-patch+yaml")
            );
            assert_eq!(body["spec"]["holderIdentity"], "n1");
            leads.send_replace(None);
            let (what, body) = timeout(PATIENCE, requests.recv()).await.unwrap().unwrap();
            assert_eq!(
                what,
                format!("{LEASE}?&fieldManager=spanwire-agent application/merge-patch+json")
            );
            let given_up = json!({"spec": {"holderIdentity": null, "leaseDurationSeconds": 1}});
            assert_eq!(body, given_up);
            leads.send_replace(None);
        }
    }

    #[tokio::test]
    async fn an_agent_that_stops_while_leading_keeps_the_lease() {
        let (client, mut requests) = server().await;
        let (leads, owners) = watch::channel(Some("uid".to_owned()));
        let (refused, _refusals) = watch::channel(None);
        let me = "n1".parse().unwrap();
        let renewing = tokio::spawn(renew(client, "space".to_owned(), me, owners, refused));
        timeout(PATIENCE, requests.recv()).await.unwrap().unwrap();
        drop(leads);
        timeout(PATIENCE, renewing).await.unwrap().unwrap();
        assert!(requests.try_recv().is_err());
    }

    /// As one does that lost its power: nothing comes back, also no end of the connection.
    #[tokio::test]
    async fn a_leader_whose_api_server_falls_silent_renews_its_lease_by_another_connection() {
        let code = Arc::new(AtomicU16::new(0));
        let (client, mut requests) = answering(Arc::clone(&code)).await;
        let (_leads, owners) = watch::channel(Some("uid".to_owned()));
        let (refused, _refusals) = watch::channel(None);
        let holder = Holder {
            pace: Pace {
                again: Duration::from_millis(10),
                answer: Duration::from_millis(100),
                ..PACE
            },
            ..Holder::new(client, "space", "n1".parse().unwrap(), refused)
        };
        tokio::spawn(holder.run(owners));
        for _ in 0..2 {
            timeout(PATIENCE, requests.recv()).await.unwrap().unwrap();
        }
        code.store(200, Ordering::SeqCst);
        timeout(PATIENCE, requests.recv()).await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_refusal_that_lasts_is_reported_until_the_lease_would_be_taken_again() {
        let code = Arc::new(AtomicU16::new(403));
        let (client, mut requests) = answering(Arc::clone(&code)).await;
        let (leads, owners) = watch::channel(Some("uid".to_owned()));
        let (refused, mut refusals) = watch::channel(None);
        let holder = Holder {
            pace: Pace {
                renew: Duration::from_millis(50),
                again: Duration::from_millis(10),
                news: Duration::from_millis(200),
                ask: Duration::from_millis(10),
                answer: PATIENCE,
            },
            ..Holder::new(client, "space", "n1".parse().unwrap(), refused)
        };
        let start = Instant::now();
        tokio::spawn(holder.run(owners));
        assert_eq!(news(&mut refusals).await.as_deref(), Some("refused with 403"));
        assert!(
            start.elapsed() >= Duration::from_millis(200),
            "it may have been for a moment"
        );
        code.store(422, Ordering::SeqCst);
        assert_eq!(news(&mut refusals).await.as_deref(), Some("refused with 422"));

        leads.send_replace(None);
        let asks = format!(
            "{LEASE}?&dryRun=All&force=true&fieldManager=spanwire-agent application/apply-patch+yaml"
        );
        while timeout(PATIENCE, requests.recv()).await.unwrap().unwrap().0 != asks {}
        assert!(!refusals.has_changed().unwrap(), "it is still refused");
        code.store(200, Ordering::SeqCst);
        assert_eq!(news(&mut refusals).await, None);
        while requests.try_recv().is_ok() {}
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(requests.try_recv().is_err(), "nothing is asked without a reason");
    }

    async fn news(refusals: &mut watch::Receiver<Option<String>>) -> Option<String> {
        timeout(PATIENCE, refusals.changed()).await.unwrap().unwrap();
        refusals.borrow_and_update().clone()
    }
}
