//! Services, each with one of the servers behind it, so that what gets no answer says where it was lost.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::{lab::Lab, layout::TEST_NAMESPACE};

use super::{Asked, BOUND_PORT};

/// What all of these services carry.
const LABEL: &str = "spanwire-lab/asked";
/// The port of each at its address in the cluster.
const PORT: u16 = 80;
/// The first port of theirs on nodes: in the part of the range from which the API server takes none by itself, and not the
/// one that hosts answer on.
const FIRST_NODE_PORT: u16 = 30_010;
/// Of these many servers of each family the ports on all nodes are asked, too; of all it would be more than a machine bears.
const ON_ALL_NODES: usize = 4;

/// A server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Server {
    pub(super) node: String,
    pub(super) location: String,
    /// It is the host's, else the pod's.
    pub(super) is_host: bool,
    pub(super) at: SocketAddr,
}

/// What a server runs on.
pub(super) fn kind(is_host: bool) -> &'static str {
    if is_host { "host" } else { "pod" }
}

impl Server {
    fn family(&self) -> &'static str {
        if self.at.is_ipv4() { "IPv4" } else { "IPv6" }
    }

    fn name(&self) -> String {
        format!("{} {} ({})", kind(self.is_host), self.node, self.family())
    }

    /// It, asked at its own address, and the one beside it that is bound to that.
    pub(super) fn itself(&self) -> [Asked; 2] {
        let asked = |port: u16, is_bound: bool| Asked {
            name: self.name() + if is_bound { ", bound" } else { "" },
            at: SocketAddr::new(self.at.ip(), port),
            is_bound,
            own_host: self.own_host(),
            is_service: false,
            pod_on: (!self.is_host).then(|| [self.node.clone(), self.location.clone()]),
        };
        [asked(self.at.port(), false), asked(BOUND_PORT, true)]
    }

    fn own_host(&self) -> Option<String> {
        self.is_host.then(|| self.node.clone())
    }

    fn service_name(&self, policy: &str) -> String {
        let name = format!("{}-{}-{}-{policy}", kind(self.is_host), self.node, self.family());
        name.to_lowercase()
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
                "spec": {"type": "NodePort", "externalTrafficPolicy": policy, "ports": ports,
                    "ipFamilyPolicy": "SingleStack", "ipFamilies": [self.family()]}}),
            json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": self.family(),
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
                is_bound: false,
                own_host: own_host.clone(),
                is_service: true,
                pod_on: None,
            });
        }
        let nodes = lab
            .layout()
            .nodes()
            .filter(|node| node.name == server.node || !is_local);
        for node in nodes.filter(|_| some.contains(&server)) {
            let of_family = |address: &&IpAddr| address.is_ipv4() == server.at.is_ipv4();
            let Some(address) = node.addresses.iter().find(of_family) else {
                continue;
            };
            asked.push(Asked {
                name: format!("port {node_port} ({policy}) on {} of {name}", node.name),
                at: SocketAddr::new(*address, node_port),
                is_bound: false,
                own_host: own_host.clone().filter(|own| *own == node.name),
                is_service: false,
                pod_on: None,
            });
        }
    }
    Ok(asked)
}

/// Some servers that are far from each other: half of them hosts.
fn some(servers: &[Server]) -> Vec<&Server> {
    let of = |(is_host, is_ipv4): (bool, bool)| {
        let all: Vec<_> = servers
            .iter()
            .filter(|server| server.is_host == is_host && server.at.is_ipv4() == is_ipv4)
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
    [(true, true), (false, true), (true, false), (false, false)]
        .map(of)
        .concat()
}

fn address(found: &Value, service: &str) -> Result<IpAddr> {
    let mut items = found["items"].as_array().into_iter().flatten();
    let item = items.find(|item| item["metadata"]["name"] == service);
    let ip = item.and_then(|item| item["spec"]["clusterIP"].as_str());
    Ok(ip
        .with_context(|| format!("the service {service} has no address"))?
        .parse()?)
}
