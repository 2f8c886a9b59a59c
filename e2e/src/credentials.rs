//! Acting with what lies on a node's disk, as who has broken into the node can: the credentials of its kubelet, of its CNI
//! and of its agent.

use std::{fs, net::SocketAddr, os::unix::fs::PermissionsExt, path::PathBuf};

use anyhow::{Context, Result};
use serde_json::json;

use crate::{
    command::{Cmd, Finished},
    lab::Lab,
    layout::API_PORT,
    node, pki,
};

/// A program of a node that has credentials of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holder {
    /// The kubelet: the client certificate of the node.
    Kubelet,
    /// flannel: who may read every Node and write its status.
    Cni,
    /// Spanwire's agent: the token of its service account, bound to its pod and node.
    Agent,
}

/// The credentials of a program of a node.
#[derive(Debug)]
pub struct Credentials<'a> {
    lab: &'a Lab,
    node: String,
    kubeconfig: PathBuf,
    /// Address and port of the API server, as this node reaches it.
    server: SocketAddr,
    /// How curl shows them.
    shown: Vec<String>,
}

/// What the API server answered to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status code of HTTP.
    pub code: u16,
    /// What came with it.
    pub body: String,
}

impl Lab {
    /// Takes the credentials of a program from its node. Those of an agent are there while its pod runs.
    pub fn credentials(&self, node: &str, of: Holder) -> Result<Credentials<'_>> {
        let layout = self.node_layout(node)?;
        let server = SocketAddr::new(pki::server(self.layout(), &layout.location), API_PORT);
        let folder = self.store.node(node);
        let (kubeconfig, shown) = match of {
            Holder::Kubelet => (
                folder.join("kubelet.conf"),
                self.certificate(&format!("node-{node}")),
            ),
            Holder::Cni => (folder.join("flannel.conf"), self.certificate("flannel")),
            Holder::Agent => {
                let token = self.agent_token(node)?;
                let shown = vec!["-H".to_owned(), format!("Authorization: Bearer {token}")];
                (self.agent_kubeconfig(node, server, &token)?, shown)
            }
        };
        Ok(Credentials {
            lab: self,
            node: node.to_owned(),
            kubeconfig,
            server,
            shown,
        })
    }

    /// Returns how curl shows a client certificate of the lab.
    pub(crate) fn certificate(&self, file: &str) -> Vec<String> {
        let at = |end: &str| self.store.path(format!("pki/{file}.{end}")).display().to_string();
        vec!["--cert".to_owned(), at("crt"), "--key".to_owned(), at("key")]
    }

    /// Returns the token that the agent of a node was given, from the agent's own files.
    fn agent_token(&self, node: &str) -> Result<String> {
        let wanted = node::Container {
            namespace: "spanwire".to_owned(),
            pod: None,
            container: Some("agent".to_owned()),
        };
        let pid = node::container_pid(&self.store, node, &wanted)
            .with_context(|| format!("no agent runs on {node}, so there is no token of one"))?;
        let path = format!("/proc/{pid}/root/var/run/secrets/kubernetes.io/serviceaccount/token");
        Ok(self.node(node)?.run(["cat", &path])?.trim().to_owned())
    }

    fn agent_kubeconfig(&self, node: &str, server: SocketAddr, token: &str) -> Result<PathBuf> {
        let ca = self.store.path("pki/ca.crt");
        let content = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "agent",
            "clusters": [{"name": "lab", "cluster": {
                "server": format!("https://{server}"), "certificate-authority": ca }}],
            "users": [{"name": "agent", "user": {"token": token}}],
            "contexts": [{"name": "agent", "context": {
                "cluster": "lab", "user": "agent", "namespace": "spanwire"}}],
        });
        let file = self
            .store
            .write(format!("nodes/{node}/agent.conf"), content.to_string())?;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600))?;
        Ok(file)
    }
}

impl Credentials<'_> {
    /// Returns the start of a command that runs in the node's network, with this process's own files, and for which kubectl
    /// has these credentials and no others.
    fn enter(&self) -> Cmd {
        let Lab { store, record, .. } = self.lab;
        let net = format!("--net=/run/netns/{}", store.namespace(&self.node));
        Cmd::of(["nsenter", &net, "--"])
            .env("PATH", node::whole_path(&record.tools))
            .env("KUBECONFIG", &self.kubeconfig)
            .env("KUBECACHEDIR", store.path("kubectl"))
    }

    /// Returns a command that its user chose.
    pub fn by_hand<S: AsRef<std::ffi::OsStr>>(&self, words: impl IntoIterator<Item = S>) -> Cmd {
        self.enter().args(words)
    }

    /// Runs kubectl to its end, whatever comes of it.
    pub fn kubectl<S: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Result<Finished> {
        self.enter()
            .arg(self.lab.record.tools.join("kubectl"))
            .args(args)
            .finish()
    }

    /// Merges a change, as JSON, into what is at a path below the API server's root. Unlike kubectl it reads nothing
    /// before, so it shows what may be written without being read.
    pub fn merge(&self, path: &str, change: &str) -> Result<Answer> {
        self.ask("PATCH", "application/merge-patch+json", path, change)
    }

    /// Creates an object, as JSON, in the collection at a path below the API server's root.
    pub fn create(&self, path: &str, object: &str) -> Result<Answer> {
        self.ask("POST", "application/json", path, object)
    }

    fn ask(&self, method: &str, kind: &str, path: &str, body: &str) -> Result<Answer> {
        let url = format!("https://{}/{path}", self.server);
        let kind = format!("Content-Type: {kind}");
        let ca = self.lab.store.path("pki/ca.crt");
        let said = self
            .enter()
            .running([
                "curl",
                "-s",
                "--max-time",
                "30",
                "-X",
                method,
                "-H",
                &kind,
                "-d",
                body,
            ])
            .args(["-w", "\n%{http_code}", "--cacert"])
            .arg(ca)
            .args(&self.shown)
            .arg(&url)
            .run()?;
        let (body, code) = said.rsplit_once('\n').context("curl says no status code")?;
        Ok(Answer {
            code: code.trim().parse()?,
            body: body.to_owned(),
        })
    }
}

impl Answer {
    /// Returns whether the request was refused for who made it, or by a policy.
    #[must_use]
    pub fn refused(&self) -> bool {
        self.code == 403
    }

    /// Returns whether the request was carried out.
    #[must_use]
    pub fn accepted(&self) -> bool {
        (200..300).contains(&self.code)
    }
}
