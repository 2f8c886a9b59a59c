//! Agents that do what the API server sees of an agent: report a key, follow their MeshNode, show tunnels that are up when
//! they lead, and renew the Lease of a leader.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use futures::StreamExt as _;
use k8s_openapi::api::coordination::v1::Lease;
use kube::{
    Api, Client, ResourceExt as _,
    api::{Patch, PatchParams},
    runtime::{WatchStreamExt as _, watcher},
};
use serde_json::{Value, json};
use spanwire_crds::{Location, MeshNode};
use tokio::{sync::mpsc, time::sleep};

use crate::nodes::{self, TOGETHER};

/// The name under which agents own fields.
const MANAGER: &str = "spanwire-agent";
/// How often a leader looks at its tunnels.
const LOOKS: Duration = Duration::from_secs(2);
/// As the agent renews its Lease.
const RENEWS: Duration = Duration::from_secs(10);

/// All simulated agents; those of all nodes but the first.
#[derive(Clone)]
pub(crate) struct Agents {
    client: Client,
    state: Arc<Mutex<State>>,
    due: mpsc::UnboundedSender<u32>,
}

#[derive(Debug, Default)]
struct State {
    agents: BTreeMap<u32, Agent>,
    /// The leaders of every location that has some.
    leaders: BTreeMap<String, Vec<u32>>,
    reports: u64,
}

#[derive(Debug, Default)]
struct Agent {
    generation: i64,
    links: Vec<String>,
    reported: Option<(i64, Vec<String>)>,
    queued: bool,
}

impl Agents {
    /// Starts the agents; they run until the runtime ends.
    pub(crate) fn start(client: Client) -> Self {
        let (due, mut next) = mpsc::unbounded_channel();
        let agents = Self {
            client,
            state: Arc::default(),
            due,
        };
        tokio::spawn(agents.clone().watch_mesh_nodes());
        tokio::spawn(agents.clone().watch_locations());
        tokio::spawn(agents.clone().look_at_tunnels());
        tokio::spawn(agents.clone().renew_leases());
        let writing = agents.clone();
        tokio::spawn(async move {
            let reports = futures::stream::poll_fn(move |context| next.poll_recv(context));
            reports
                .for_each_concurrent(TOGETHER, |node| {
                    let agents = writing.clone();
                    async move { agents.report(node).await }
                })
                .await;
        });
        agents
    }

    /// Returns how many reports have been written so far.
    pub(crate) fn reports(&self) -> u64 {
        self.lock().reports
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .expect("no thread panics while it holds the lock")
    }

    /// Changes an agent, which then has something to report.
    fn change(&self, node: u32, change: impl FnOnce(&mut Agent)) {
        // The first node has a real one.
        if node == 0 {
            return;
        }
        let mut state = self.lock();
        let agent = state.agents.entry(node).or_default();
        change(agent);
        let wanted = (agent.generation, agent.links.clone());
        if agent.reported.as_ref() != Some(&wanted) && !std::mem::replace(&mut agent.queued, true) {
            // The receiver lives as long as the runtime.
            let _ = self.due.send(node);
        }
    }

    async fn watch_mesh_nodes(self) {
        let api: Api<MeshNode> = Api::all(self.client.clone());
        follow(api, |mesh_node| {
            let generation = mesh_node.metadata.generation.unwrap_or_default();
            if let Some(node) = nodes::number(&mesh_node.name_any()) {
                self.change(node, |agent| agent.generation = agent.generation.max(generation));
            }
        })
        .await;
    }

    async fn watch_locations(self) {
        let api: Api<Location> = Api::all(self.client.clone());
        follow(api, |location| {
            let status = location.status.clone().unwrap_or_default();
            let leaders = status.leaders.iter().filter_map(|name| nodes::number(name));
            self.lock().leaders.insert(location.name_any(), leaders.collect());
        })
        .await;
    }

    /// A leader reaches every other location that has one; who does not lead has no tunnel.
    async fn look_at_tunnels(self) {
        loop {
            sleep(LOOKS).await;
            let (leaders, before) = {
                let state = self.lock();
                let linked = state.agents.iter().filter(|(_, agent)| !agent.links.is_empty());
                let before: BTreeSet<u32> = linked.map(|(node, _)| *node).collect();
                (state.leaders.clone(), before)
            };
            let mut links: BTreeMap<u32, Vec<String>> =
                before.into_iter().map(|node| (node, Vec::new())).collect();
            for (own, nodes) in &leaders {
                let others = leaders
                    .iter()
                    .filter(|(name, led)| *name != own && !led.is_empty());
                let others: Vec<_> = others.map(|(name, _)| name.clone()).collect();
                links.extend(nodes.iter().map(|node| (*node, others.clone())));
            }
            for (node, links) in links {
                self.change(node, |agent| agent.links = links);
            }
        }
    }

    async fn renew_leases(self) {
        let api: Api<Lease> = Api::namespaced(self.client.clone(), "default");
        loop {
            sleep(RENEWS).await;
            let leaders: Vec<u32> = self.lock().leaders.values().flatten().copied().collect();
            for node in leaders.into_iter().filter(|node| *node != 0) {
                let name = format!("spanwire-leader-{}", nodes::name(node));
                let lease = json!({
                    "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name},
                    "spec": {"holderIdentity": nodes::name(node), "leaseDurationSeconds": 40,
                        "renewTime": nodes::now()},
                });
                let params = PatchParams::apply(MANAGER).force();
                // One that fails is renewed the next time.
                let _ = api.patch(&name, &params, &Patch::Apply(&lease)).await;
            }
        }
    }

    async fn report(&self, node: u32) {
        let (generation, links) = {
            let mut state = self.lock();
            let Some(agent) = state.agents.get_mut(&node) else {
                return;
            };
            agent.queued = false;
            (agent.generation, agent.links.clone())
        };
        let api: Api<MeshNode> = Api::all(self.client.clone());
        let object = json!({
            "apiVersion": "spanwire.dev/v1alpha1", "kind": "MeshNode", "metadata": {"name": nodes::name(node)},
            "status": status(node, generation, &links),
        });
        let params = PatchParams::apply(MANAGER).force();
        let done = api
            .patch_status(&nodes::name(node), &params, &Patch::Apply(&object))
            .await;
        match done {
            Ok(_) => {
                let mut state = self.lock();
                state.reports += 1;
                if let Some(agent) = state.agents.get_mut(&node) {
                    agent.reported = Some((generation, links));
                }
            }
            Err(_) => {
                sleep(Duration::from_secs(1)).await;
            }
        }
        // What has changed meanwhile, or has failed, is reported again.
        self.change(node, |_| {});
    }
}

/// Handles every object of a kind now, and whenever it changes; no object is deleted here.
async fn follow<K>(api: Api<K>, handle: impl Fn(&K))
where
    K: kube::Resource<DynamicType = ()>
        + Clone
        + serde::de::DeserializeOwned
        + std::fmt::Debug
        + Send
        + 'static,
{
    let objects = watcher(api, watcher::Config::default())
        .default_backoff()
        .applied_objects();
    let mut objects = std::pin::pin!(objects);
    // A watch that failed is started again by the stream.
    while let Some(object) = objects.next().await {
        if let Ok(object) = object {
            handle(&object);
        }
    }
}

fn status(node: u32, generation: i64, links: &[String]) -> Value {
    let links: Vec<_> = links
        .iter()
        .map(|location| json!({"location": location, "up": true}))
        .collect();
    json!({
        "observedGeneration": generation, "publicKey": STANDARD.encode(key(node)), "listenPort": 51820,
        "backend": "Userspace", "hopAddresses": [nodes::hop_address(node)], "cni": "flannel-vxlan", "links": links,
        "conditions": [{"type": "Ready", "status": "True", "reason": "Ready", "message": "",
            "observedGeneration": generation, "lastTransitionTime": "2026-01-01T00:00:00Z"}],
    })
}

/// Returns a key of each node's own; nothing is ever encrypted with it.
pub(crate) fn key(node: u32) -> [u8; 32] {
    let mut key = [0x55; 32];
    key[..4].copy_from_slice(&node.to_be_bytes());
    key
}
