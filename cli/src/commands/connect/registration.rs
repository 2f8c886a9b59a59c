//! The Peer that stands for this machine: created, and deleted again by the run that created it or by the next one.

use anyhow::{anyhow, ensure};
use kube::{
    Api,
    api::{DeleteParams, PostParams, Preconditions},
};
use serde_json::json;
use spanwire_crds::{Peer, names::CONNECTED_LABEL};
use spanwire_topology::{LocationName, PeerName, Prefix, PublicKey};

use crate::commands::until::say;
use crate::{
    cluster::{Access, brief, explained},
    machine::{Machine, Remembered},
};

/// A Peer with the key of this run.
pub(super) struct Registration {
    peers: Api<Peer>,
    remembered: Remembered,
}

impl Registration {
    pub(super) fn new(access: &Access, name: &PeerName, key: &PublicKey) -> Self {
        Self::of(access, Remembered::new(&access.server, name.as_str(), key))
    }

    fn of(access: &Access, remembered: Remembered) -> Self {
        Self {
            peers: Api::all(access.client.clone()),
            remembered,
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.remembered.name
    }

    /// Returns what the next run has to know of it.
    pub(super) fn remembered(&self) -> Remembered {
        self.remembered.clone()
    }

    /// Creates it.
    pub(super) async fn create(
        &self,
        allowed: &[Prefix],
        location: Option<&LocationName>,
        machine: Option<&str>,
    ) -> anyhow::Result<()> {
        let allowed: Vec<String> = allowed.iter().map(ToString::to_string).collect();
        let mut spec = json!({"publicKey": self.remembered.public_key, "allowedIPs": allowed});
        if let Some(location) = location {
            spec["location"] = location.as_str().into();
        }
        let mut peer = Peer::new(self.name(), serde_json::from_value(spec)?);
        let labels = [(CONNECTED_LABEL.to_owned(), machine.unwrap_or_default().to_owned())];
        peer.metadata.labels = Some(labels.into());
        let created = self.peers.create(&PostParams::default(), &peer).await;
        created.map(drop).map_err(|error| {
            explained(
                error,
                &format!("create peers (it is to have {})", self.name()),
                true,
            )
        })
    }

    /// Deletes it where it is still that of this run; returns whether it was.
    pub(super) async fn delete(&self) -> anyhow::Result<bool> {
        let name = self.name();
        let failed = |error: &kube::Error| anyhow!("peer {name}: {}", brief(error));
        let Some(there) = self.peers.get_opt(name).await.map_err(|error| failed(&error))? else {
            return Ok(false);
        };
        if there.spec.public_key != self.remembered.public_key {
            return Ok(false);
        }
        delete(&self.peers, &there).await.map_err(|error| failed(&error))
    }
}

/// Deletes this very object, and none that has come in its place; returns whether it was there.
async fn delete(peers: &Api<Peer>, peer: &Peer) -> Result<bool, kube::Error> {
    let params = DeleteParams {
        preconditions: Some(Preconditions {
            uid: peer.metadata.uid.clone(),
            resource_version: None,
        }),
        ..DeleteParams::default()
    };
    let name = peer.metadata.name.as_deref().unwrap_or_default();
    match peers.delete(name, &params).await {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Deletes what a run on this machine that was killed has left in the cluster. A Peer of this name that is another's is an error.
pub(super) async fn remove_left(
    access: &Access,
    machine: &Machine,
    name: &PeerName,
    own: Option<&str>,
) -> anyhow::Result<()> {
    if let Some(left) = machine.remembered() {
        let (other, server) = (left.name.clone(), left.server.clone());
        if server == access.server {
            if Registration::of(access, left).delete().await? {
                say(&format!(
                    "peer.spanwire.dev/{other} deleted, which a run that did not end by itself had left"
                ));
            }
        } else {
            say(&format!(
                "peer {other} may still be in the cluster of {server}, of an earlier run: `kubectl spanwire peer remove {other}` there"
            ));
        }
        machine.forget();
    }
    let peers: Api<Peer> = Api::all(access.client.clone());
    let there = peers.get_opt(name.as_str()).await;
    let there = there.map_err(|error| explained(error, &format!("get peers ({name})"), true))?;
    let Some(there) = there else { return Ok(()) };
    let labels = there.metadata.labels.as_ref();
    let from = labels.and_then(|labels| labels.get(CONNECTED_LABEL));
    ensure!(
        own.is_some() && from.map(String::as_str) == own,
        "there is a Peer {name} already, which this machine has not created; give this machine another name with --name"
    );
    let deleted = delete(&peers, &there).await;
    deleted.map_err(|error| anyhow!("peer {name}: {}", brief(&error)))?;
    say(&format!(
        "peer.spanwire.dev/{name} deleted, which an earlier run on this machine had created"
    ));
    Ok(())
}
