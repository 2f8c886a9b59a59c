//! Has every agent remove all traces from its node, before the agents themselves go.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use futures::{StreamExt as _, stream};
use kube::{
    Api, Client, ResourceExt as _,
    api::{ListParams, Patch, PatchParams},
};
use serde_json::json;
use spanwire_cluster::observed::Observed;
use spanwire_crds::{MeshNode, MeshNodeStatus};

use crate::{elector, installation::Installation, rival::Rivals};

/// How long the operators keep still after the last node, so that helm can delete them first. A new installation
/// waits for so long too; then it takes the nodes back.
const STILL: Duration = Duration::from_secs(30);
/// How many nodes are asked at a time.
const TOGETHER: usize = 16;

/// Asks every agent to retire, and waits for that. Nodes that do not answer in time are named, and no failure: an
/// uninstallation must not hang on a node that is away.
///
/// # Errors
/// The error of the API server.
pub async fn retire(
    client: Client,
    installation: &Installation,
    identity: &str,
    wait: Duration,
) -> Result<(), kube::Error> {
    let end = Instant::now() + wait;
    let api: Api<Observed<MeshNode>> = Api::all(client.clone());
    let nodes = match api.list(&ListParams::default()).await {
        Ok(nodes) => nodes.items,
        // Without the definitions there is nothing to retire.
        Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
        Err(error) => return Err(error),
    };
    if let Some(rival) = Rivals::find(&client, installation).await? {
        tracing::warn!(
            installation = %rival,
            "the nodes belong to another installation; none is asked to remove anything"
        );
        return Ok(());
    }
    // An operator that leads would still give work to the agents; one that does not hold the Lease does not.
    elector::seize(&client, installation, identity, wait + STILL).await?;
    tracing::info!(nodes = nodes.len(), "asking every agent to remove all traces");
    // Where none has reported there is no agent to wait for; one that has no key, as with a full disk, has made all the rest.
    let met = |node: &&Observed<MeshNode>| {
        let status = node.object.as_ref().and_then(|node| node.status.as_ref());
        let follows = |status: &MeshNodeStatus| status.observed_generation.is_some();
        status.is_some_and(|status| status.public_key.is_some() || status.retired || follows(status))
    };
    // There may be one where that cannot be read; whether it did as asked cannot be read either.
    let unreadable: Vec<&Observed<MeshNode>> = nodes.iter().filter(|node| node.object.is_none()).collect();
    for node in &unreadable {
        let (name, problem) = (node.name(), node.complaint());
        tracing::warn!(
            name,
            problem,
            "this MeshNode cannot be read; its agent is asked and not waited for"
        );
    }
    let asked: Vec<_> = stream::iter(nodes.iter().filter(met))
        .map(|node| ask(&api, node.name_any()))
        .buffer_unordered(TOGETHER)
        .collect()
        .await;
    for node in unreadable {
        ask(&api, node.name_any()).await?;
    }
    let mut left = BTreeSet::new();
    for answer in asked {
        left.extend(answer?);
    }
    while !left.is_empty() && Instant::now() < end {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let nodes = api.list(&ListParams::default()).await?;
        let busy = |node: &Observed<MeshNode>| {
            let status = node.object.as_ref().and_then(|node| node.status.as_ref());
            !status.is_some_and(|status| status.retired)
        };
        let busy: BTreeSet<String> = nodes
            .items
            .iter()
            .filter(|node| busy(node))
            .map(|node| node.name_any())
            .collect();
        left.retain(|name| busy.contains(name));
    }
    elector::seize(&client, installation, identity, STILL).await?;
    if left.is_empty() {
        tracing::info!("no trace is left on any node");
    } else {
        let nodes: Vec<String> = left.into_iter().collect();
        let nodes = nodes.join(", ");
        tracing::warn!(nodes, "these did not answer; run `spanwire-agent cleanup` there");
    }
    Ok(())
}

/// Asks one agent; returns its name where there still is such a node.
async fn ask(api: &Api<Observed<MeshNode>>, name: String) -> Result<Option<String>, kube::Error> {
    let patch = Patch::Merge(json!({"spec": {"retire": true}}));
    match api.patch(&name, &PatchParams::default(), &patch).await {
        Ok(_) => Ok(Some(name)),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
        Err(error) => Err(error),
    }
}
