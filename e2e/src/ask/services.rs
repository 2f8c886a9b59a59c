//! Services, each with one of the servers behind it, so that what gets no answer says where it was lost.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::{lab::Lab, layout::TEST_NAMESPACE};

use super::Asked;

/// What all of these services carry.
const LABEL: &str = "spanwire-lab/asked";
/// The port of each at its address in the cluster.
const PORT: u16 = 80;
/// The first port of theirs on nodes: in the part of the range from which the API server takes none by itself, and not the
/// one that hosts answer on.
const FIRST_NODE_PORT: u16 = 30_010;
/// Of these many servers the ports on all nodes are asked, too; of all it would be more than a machine bears.
const ON_ALL_NODES: usize = 4;

/// A server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Server {
    pub(super) node: String,
    /// It is the host's, else the pod's.
    pub(super) is_host: bool,
    pub(super) at: SocketAddr,
}

impl Server {
    pub(super) fn name(&self) -> String {
        format!("{} {}", self.kind(), self.node)
    }

    /// It, asked at its own address.
    pub(super) fn itself(&self) -> Asked {
        Asked {
            name: self.name(),
            at: self.at,
            own_host: self.own_host(),
            is_service: false,
        }
    }

    fn kind(&self) -> &'static str {
        if self.is_host { "host" } else { "pod" }
    }

    fn own_host(&self) -> Option<String> {
        self.is_host.then(|| self.node.clone())
    }

    fn service_name(&self, policy: &str) -> String {
        format!("{}-{}-{}", self.kind(), self.node, policy.to_lowercase())
    }

    /// A Service and its one endpoint. With the policy `Local` only the node of the endpoint answers on the port, and does not
    /// hide who asks.
    fn service(&self, policy: &str, node_port: u16) -> [Value; 2] {
        let (name, port) = (self.service_name(policy), self.at.port());
        let of = |protocol: &str| (protocol.to_lowercase(), protocol.to_owned());
        let protocols = ["TCP", "UDP"].map(of);
        let ports = protocols.clone().map(|(name, protocol)| {
            json!({"name": name, "protocol": protocol, "port": PORT, "targetPort": port, "nodePort": node_port})
        });
        let behind =
            protocols.map(|(name, protocol)| json!({"name": name, "protocol": protocol, "port": port}));
        [
            json!({"apiVersion": "v1", "kind": "Service",
                "metadata": {"name": name, "namespace": TEST_NAMESPACE, "labels": {LABEL: ""}},
                "spec": {"type": "NodePort", "externalTrafficPolicy": policy, "ports": ports}}),
            json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
                "metadata": {"name": name, "namespace": TEST_NAMESPACE,
                    "labels": {"kubernetes.io/service-name": name}},
                "endpoints": [{"addresses": [self.at.ip()], "nodeName": self.node}], "ports": behind}),
        ]
    }
}

/// Makes the services, or finds them made; returns where to ask: of every server the address in the cluster, and of some the
/// ports on all nodes and, where its policy is `Local`, on its own.
pub(super) fn made(lab: &Lab, servers: &[Server]) -> Result<Vec<Asked>> {
    let some = some(servers);
    let open = servers.iter().map(|server| (server, "Cluster"));
    let local = some.iter().map(|server| (*server, "Local"));
    let services: Vec<_> = open.chain(local).zip(FIRST_NODE_PORT..).collect();
    let objects: Vec<Value> = services
        .iter()
        .flat_map(|((server, policy), node_port)| server.service(policy, *node_port))
        .collect();
    lab.apply(&json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string())?;
    let found = lab.get(&["service", "--namespace", TEST_NAMESPACE, "--selector", LABEL])?;
    let mut asked = Vec::new();
    for ((server, policy), node_port) in services {
        let is_local = policy == "Local";
        let (name, own_host) = (server.name(), server.own_host());
        if !is_local {
            asked.push(Asked {
                name: format!("the service of {name}"),
                at: SocketAddr::new(address(&found, &server.service_name(policy))?, PORT),
                own_host: own_host.clone(),
                is_service: true,
            });
        }
        let nodes = lab
            .layout()
            .nodes()
            .filter(|node| node.name == server.node || !is_local);
        for node in nodes.filter(|_| some.contains(&server)) {
            asked.push(Asked {
                name: format!("port {node_port} ({policy}) on {} of {name}", node.name),
                at: SocketAddr::new(node.addresses[0], node_port),
                own_host: own_host.clone().filter(|own| *own == node.name),
                is_service: false,
            });
        }
    }
    Ok(asked)
}

/// Some servers that are far from each other: half of them hosts.
fn some(servers: &[Server]) -> Vec<&Server> {
    let of = |is_host: bool| {
        let all: Vec<_> = servers
            .iter()
            .filter(|server| server.is_host == is_host)
            .collect();
        let most = ON_ALL_NODES / 2;
        let step = all.len().div_ceil(most).max(1);
        // Hosts from the first on, pods from the last: so they are not those of the same nodes.
        let chosen: Vec<_> = if is_host {
            all.iter().step_by(step).copied().collect()
        } else {
            all.iter().rev().step_by(step).copied().collect()
        };
        chosen
    };
    [of(true), of(false)].concat()
}

fn address(found: &Value, service: &str) -> Result<IpAddr> {
    let mut items = found["items"].as_array().into_iter().flatten();
    let item = items.find(|item| item["metadata"]["name"] == service);
    let ip = item.and_then(|item| item["spec"]["clusterIP"].as_str());
    Ok(ip
        .with_context(|| format!("the service {service} has no address"))?
        .parse()?)
}
