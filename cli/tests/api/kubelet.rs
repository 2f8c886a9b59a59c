//! What of a kubelet the API server needs for a port-forward, and agents behind it that answer what a test has them say.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex, MutexGuard},
    time::Instant,
};

use futures::{SinkExt as _, StreamExt as _};
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::{
    WebSocketStream, accept_hdr_async,
    tungstenite::{
        Message,
        handshake::server::{ErrorResponse, Request, Response},
    },
};

use crate::server::{Process, Server, port};

/// Where agents listen.
const PORT: u16 = 9477;

/// The agents of some nodes.
#[derive(Clone, Default)]
pub(crate) struct Agents(Arc<Mutex<BTreeMap<String, Agent>>>);

/// What one of them says.
#[derive(Default)]
pub(crate) struct Agent {
    metrics: String,
    links: String,
    /// Pages besides, by their paths.
    pub(crate) pages: BTreeMap<&'static str, String>,
    silent: bool,
    /// When it said for the first time what it says now.
    pub(crate) answered: Option<Instant>,
    /// How often it was connected to.
    pub(crate) connections: u32,
    /// How many connections there are.
    pub(crate) open: u32,
}

impl Agents {
    /// Starts them as the pods of these nodes, behind a kubelet that all nodes share; it ends with what is returned.
    pub(crate) async fn start(server: &Server, nodes: &[&str]) -> (Self, Process) {
        let agents = Self::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (plain, secure) = (listener.local_addr().unwrap().port(), port());
        let certificate = |end: &str| server.file("certs").join(format!("apiserver.{end}"));
        let arguments = [
            format!(
                "OPENSSL-LISTEN:{secure},bind=127.0.0.1,reuseaddr,fork,verify=0,cert={},key={}",
                certificate("crt").display(),
                certificate("key").display()
            ),
            format!("TCP:127.0.0.1:{plain}"),
        ];
        // kube-apiserver talks TLS to kubelets.
        let kubelet = Process::start(Path::new("socat"), &arguments, &[], &server.file("kubelet.log"));
        let answering = agents.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answering.clone().forward(stream));
            }
        });
        register(server, nodes, secure).await;
        (agents, kubelet)
    }

    fn agents(&self) -> MutexGuard<'_, BTreeMap<String, Agent>> {
        self.0.lock().unwrap()
    }

    /// Returns something of what is known of an agent.
    pub(crate) fn of<T>(&self, node: &str, read: impl FnOnce(&mut Agent) -> T) -> T {
        read(self.agents().entry(node.to_owned()).or_default())
    }

    /// Has the agent of a node say of other locations which leaders it has tunnels to, those that it does not use, how often it gave one
    /// up, and the share of lost requests.
    pub(crate) fn say(&self, node: &str, others: &[Other<'_>]) {
        let (mut metrics, mut links) = (String::new(), String::new());
        for other in others {
            let of = other.location;
            let mut metric = |name: &str, value: f64| {
                metrics += &format!("spanwire_agent_{name}{{location=\"{of}\"}} {value}\n");
            };
            metric("link_up", f64::from(u8::from(other.up)));
            metric("leader_rtt_seconds", 0.0213);
            metric("leader_loss", other.loss);
            metric("failovers_total", f64::from(other.failovers));
            for leader in other.leaders {
                links += &format!(
                    "tunnel to {leader} of {of}: last handshake 71 s ago, 123456 bytes received, 234567 sent\n"
                );
            }
            for leader in other.not_used {
                links += &format!("not used: {leader} of {of}\n");
            }
        }
        self.of(node, |agent| {
            (agent.metrics, agent.links, agent.silent, agent.answered) = (metrics, links, false, None);
        });
    }

    /// Has the agent of a node say this of its links.
    pub(crate) fn links(&self, node: &str, links: String) {
        self.of(node, |agent| agent.links = links);
    }

    /// Has the agent of a node say nothing any more.
    pub(crate) fn silence(&self, node: &str) {
        self.of(node, |agent| agent.silent = true);
    }

    /// Answers a port-forward: a WebSocket of which the messages begin with a channel, 0 for what goes over the connection.
    async fn forward(self, stream: TcpStream) {
        let mut node = String::new();
        #[expect(clippy::result_large_err, reason = "the signature is the library's")]
        let accept = |request: &Request, mut response: Response| -> Result<Response, ErrorResponse> {
            // /portForward/NAMESPACE/agent-NODE
            node = request.uri().path().rsplit("agent-").next().unwrap().to_owned();
            let protocol = "v4.channel.k8s.io".parse().unwrap();
            response.headers_mut().insert("sec-websocket-protocol", protocol);
            Ok(response)
        };
        let Ok(mut socket) = accept_hdr_async(stream, accept).await else {
            return;
        };
        self.of(&node, |agent| {
            agent.connections += 1;
            agent.open += 1;
        });
        let _gone = self.converse(&node, &mut socket).await;
        self.of(&node, |agent| agent.open -= 1);
    }

    async fn converse(
        &self,
        node: &str,
        socket: &mut WebSocketStream<TcpStream>,
    ) -> Result<(), tokio_tungstenite::tungstenite::Error> {
        for channel in [0, 1] {
            let [low, high] = PORT.to_le_bytes();
            socket.send(Message::binary(vec![channel, low, high])).await?;
        }
        let mut asked = Vec::new();
        while let Some(message) = socket.next().await {
            let message = message?;
            match &message {
                Message::Binary(bytes) if bytes.first() == Some(&0) => asked.extend_from_slice(&bytes[1..]),
                Message::Close(_) => return Ok(()),
                Message::Text(_)
                | Message::Binary(_)
                | Message::Ping(_)
                | Message::Pong(_)
                | Message::Frame(_) => {}
            }
            while let Some(end) = asked.windows(4).position(|end| end == b"\r\n\r\n") {
                let request: Vec<u8> = asked.drain(..end + 4).collect();
                if let Some(page) = self.page(node, &String::from_utf8_lossy(&request)) {
                    let answer = format!(
                        "\0HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{page}",
                        page.len()
                    );
                    socket.send(Message::binary(answer.into_bytes())).await?;
                }
            }
        }
        Ok(())
    }

    fn page(&self, node: &str, request: &str) -> Option<String> {
        self.of(node, |agent| {
            if agent.silent {
                return None;
            }
            if request.starts_with("GET /metrics ") {
                return Some(agent.metrics.clone());
            }
            let path = request.split(' ').nth(1).unwrap_or_default();
            if let Some(page) = agent.pages.get(path) {
                return Some(page.clone());
            }
            assert!(request.starts_with("GET /debug/links "), "{request}");
            agent.answered.get_or_insert_with(Instant::now);
            Some(agent.links.clone())
        })
    }
}

/// What an agent says of another location.
#[derive(Clone, Copy)]
pub(crate) struct Other<'a> {
    pub(crate) location: &'a str,
    pub(crate) leaders: &'a [&'a str],
    pub(crate) not_used: &'a [&'a str],
    pub(crate) up: bool,
    pub(crate) loss: f64,
    pub(crate) failovers: u8,
}

impl<'a> Other<'a> {
    /// One that answers, by these leaders.
    pub(crate) const fn well(location: &'a str, leaders: &'a [&'a str]) -> Self {
        Self {
            location,
            leaders,
            not_used: &[],
            up: true,
            loss: 0.0,
            failovers: 0,
        }
    }
}

/// Makes the nodes' kubelet known, and the pods of their agents.
async fn register(server: &Server, nodes: &[&str], port: u16) {
    let client = || server.client.clone();
    let space = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "spanwire"}});
    let spaces: Api<Namespace> = Api::all(client());
    // It may be there.
    let _exists = spaces
        .create(&PostParams::default(), &serde_json::from_value(space).unwrap())
        .await;
    let (all, pods): (Api<Node>, Api<Pod>) = (Api::all(client()), Api::namespaced(client(), "spanwire"));
    for node in nodes {
        let object = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": node}});
        let _exists = all
            .create(&PostParams::default(), &serde_json::from_value(object).unwrap())
            .await;
        let status = Patch::Merge(
            json!({"status": {"addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": port}}}}),
        );
        all.patch_status(node, &PatchParams::default(), &status)
            .await
            .unwrap();
        let name = format!("agent-{node}");
        let pod = json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "labels": {"app.kubernetes.io/component": "agent"}},
            "spec": {"nodeName": node, "containers": [{"name": "agent", "image": "spanwire"}]}});
        pods.create(&PostParams::default(), &serde_json::from_value(pod).unwrap())
            .await
            .unwrap();
        let status = Patch::Merge(json!({"status": {"phase": "Running"}}));
        pods.patch_status(&name, &PatchParams::default(), &status)
            .await
            .unwrap();
    }
}
