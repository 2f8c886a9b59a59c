//! The Nodes: names, addresses, objects, and the Leases that their kubelets would renew.

use std::{
    net::Ipv4Addr,
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::{
    api::{coordination::v1::Lease, core::v1::Namespace, core::v1::Node},
    jiff::Timestamp,
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until};

/// How many requests are under way at a time.
pub(crate) const TOGETHER: usize = 16;

const LEASES: &str = "kube-node-lease";

/// The size of the mesh.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    pub(crate) nodes: u32,
    pub(crate) locations: u32,
}

impl Size {
    /// Returns the location of a node. Locations are filled one after another, so that the first ones are whole early.
    pub(crate) fn location(self, node: u32) -> String {
        let number = u64::from(node) * u64::from(self.locations) / u64::from(self.nodes);
        format!("l{number}")
    }

    /// Returns the nodes of a location.
    pub(crate) fn members(self, location: &str) -> Vec<u32> {
        (0..self.nodes)
            .filter(|node| self.location(*node) == location)
            .collect()
    }
}

pub(crate) fn name(node: u32) -> String {
    format!("n{node:05}")
}

/// Returns the number in a name of [`name`].
pub(crate) fn number(name: &str) -> Option<u32> {
    name.strip_prefix('n')?.parse().ok()
}

/// Returns its address in the LAN: 250 nodes in each network of 256 addresses.
pub(crate) fn address(node: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(172, 16, 0, 1)) + node / 250 * 256 + node % 250)
}

/// Another address, which it has after every other change.
pub(crate) fn second_address(node: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(address(node)) + (8 << 16))
}

/// Returns the address on flannel's device, which is the first of the network of its pods.
pub(crate) fn hop_address(node: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 128, 0, 0)) + node * 256)
}

/// Returns where its WireGuard is reached from outside, as a router forwards a port to every node: 250 routers, which is
/// what a network for documentation has room for.
fn endpoint(node: u32) -> String {
    let router = Ipv4Addr::from(u32::from(Ipv4Addr::new(203, 0, 113, 1)) + node % 250);
    format!("{router}:{}", 51820 + node / 250)
}

/// Creates a node that is Ready, and its Lease.
pub(crate) async fn create(client: &Client, size: Size, node: u32) -> Result<()> {
    let (name, pods) = (name(node), format!("{}/24", hop_address(node)));
    let object = json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "annotations": {
            "spanwire.dev/location": size.location(node), "spanwire.dev/endpoint": endpoint(node)}},
        "spec": {"podCIDR": pods, "podCIDRs": [pods]},
    });
    let api: Api<Node> = Api::all(client.clone());
    api.create(&PostParams::default(), &serde_json::from_value(object)?)
        .await
        .with_context(|| format!("node {name}"))?;
    set_address(client, node, address(node)).await?;
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name},
        "spec": {"holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": now()},
    });
    let leases: Api<Lease> = Api::namespaced(client.clone(), LEASES);
    leases
        .create(&PostParams::default(), &serde_json::from_value(lease)?)
        .await
        .with_context(|| format!("the Lease of {name}"))?;
    CREATED.fetch_add(1, Ordering::Relaxed);
    Ok(())
}

/// Creates the namespace of the nodes' Leases, unless the API server has done it.
pub(crate) async fn namespace(client: &Client) -> Result<()> {
    let api: Api<Namespace> = Api::all(client.clone());
    if api.get_opt(LEASES).await?.is_none() {
        let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": LEASES}});
        // The API server may be creating it at this moment.
        let _ = api
            .create(&PostParams::default(), &serde_json::from_value(object)?)
            .await;
    }
    Ok(())
}

/// Creates all of these nodes.
pub(crate) async fn create_all(client: &Client, size: Size, nodes: std::ops::Range<u32>) -> Result<()> {
    let creating = stream::iter(nodes.map(|node| create(client, size, node)));
    creating.buffer_unordered(TOGETHER).try_collect().await
}

/// Gives a node another address, as its kubelet would.
pub(crate) async fn set_address(client: &Client, node: u32, address: Ipv4Addr) -> Result<()> {
    let status = json!({"status": {
        "addresses": [{"type": "InternalIP", "address": address}],
        "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "",
            "lastHeartbeatTime": "2026-01-01T00:00:00Z", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
    merge(&Api::<Node>::all(client.clone()), node, &status, true).await
}

/// Sets or removes the annotation that makes a node a leader.
pub(crate) async fn set_leader(client: &Client, node: u32, leads: bool) -> Result<()> {
    let value = if leads { json!("true") } else { Value::Null };
    let change = json!({"metadata": {"annotations": {"spanwire.dev/leader": value}}});
    merge(&Api::<Node>::all(client.clone()), node, &change, false).await
}

async fn merge(api: &Api<Node>, node: u32, change: &Value, status: bool) -> Result<()> {
    let (name, params, patch) = (name(node), PatchParams::default(), Patch::Merge(change));
    let done = if status {
        api.patch_status(&name, &params, &patch).await
    } else {
        api.patch(&name, &params, &patch).await
    };
    done.map(drop).with_context(|| format!("node {name}"))
}

/// Counts the nodes that have been created.
static CREATED: AtomicU32 = AtomicU32::new(0);
/// Counts renewals.
pub(crate) static RENEWED: AtomicU64 = AtomicU64::new(0);

/// Renews the Leases of all nodes for ever, evenly over the interval.
pub(crate) async fn renew(client: Client, size: Size, interval: Duration) {
    let api: Api<Lease> = Api::namespaced(client, LEASES);
    let beats = (interval.as_millis() / 100).max(1) as u32;
    let mut next = Instant::now();
    for beat in (0..beats).cycle() {
        // They are created in their order, but for a few that are on the way.
        let there = CREATED.load(Ordering::Relaxed).min(size.nodes);
        let due = (beat..there).step_by(beats as usize);
        let renewing = due.map(|node| {
            let api = api.clone();
            async move {
                let change = json!({"spec": {"renewTime": now()}});
                let patch = Patch::Merge(&change);
                let done = api.patch(&name(node), &PatchParams::default(), &patch).await;
                RENEWED.fetch_add(u64::from(done.is_ok()), Ordering::Relaxed);
            }
        });
        stream::iter(renewing)
            .buffer_unordered(TOGETHER)
            .collect::<Vec<()>>()
            .await;
        // A machine that cannot keep up renews later, not more often at once.
        next = Instant::now().max(next + Duration::from_millis(100));
        sleep_until(next).await;
    }
}

/// Returns the time as a Lease has it: MicroTime has six digits (RFC3339Micro of apimachinery).
pub(crate) fn now() -> String {
    let now = Timestamp::try_from(SystemTime::now()).unwrap_or(Timestamp::UNIX_EPOCH);
    now.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
}
