//! What there is in a lab, and how it is.

use std::{fmt, path::PathBuf};

use anyhow::Result;
use serde::Serialize;

use crate::{cluster, lab::Lab, node};

/// A lab at a moment.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// The lab's name.
    pub lab: String,
    /// The kubeconfig for kubectl on this machine, if the API server is forwarded.
    pub kubeconfig: Option<PathBuf>,
    /// All nodes.
    pub nodes: Vec<NodeStatus>,
    /// What is not Ready, and why.
    pub missing: Vec<String>,
}

/// A node at a moment.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatus {
    /// Its name.
    pub name: String,
    /// Its location in the scenario.
    pub location: String,
    /// Its addresses in the LAN.
    pub addresses: Vec<String>,
    /// Where the router's internet address leads to it.
    pub endpoint: Option<String>,
    /// Addresses of its test pod.
    pub pods: Vec<String>,
    /// Whether it runs.
    pub up: bool,
    /// Its first process on this machine.
    pub pid: Option<i32>,
}

impl Lab {
    /// Reads what there is and how it is.
    pub fn status(&self) -> Result<Status> {
        Status::read(self)
    }
}

impl Status {
    /// Reads how a lab is.
    fn read(lab: &Lab) -> Result<Self> {
        // A cluster that does not answer is a state to be shown, not a failure.
        let (pods, missing) = match lab.pods().and_then(|pods| Ok((pods, cluster::missing(lab)?))) {
            Ok(both) => both,
            Err(error) => (
                Default::default(),
                vec![format!("the API server does not answer: {error:#}")],
            ),
        };
        let nodes = lab.layout.locations.iter().flat_map(|location| {
            location.nodes.iter().map(|node| {
                let pid = node::init(&lab.store, &node.name);
                let public = location.internet[0];
                NodeStatus {
                    name: node.name.clone(),
                    location: location.name.clone(),
                    addresses: node.addresses.iter().map(ToString::to_string).collect(),
                    endpoint: node
                        .forward
                        .map(|port| std::net::SocketAddr::new(public, port).to_string()),
                    pods: pods
                        .get(&node.name)
                        .into_iter()
                        .flatten()
                        .map(ToString::to_string)
                        .collect(),
                    up: pid.is_some(),
                    pid: pid.map(nix::unistd::Pid::as_raw),
                }
            })
        });
        let kubeconfig = lab.record.port.map(|_| lab.store.path("kubeconfig/user"));
        Ok(Self {
            lab: lab.name().to_owned(),
            kubeconfig,
            nodes: nodes.collect(),
            missing,
        })
    }

    /// Returns whether everything is Ready.
    pub fn ready(&self) -> bool {
        self.missing.is_empty()
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<13}{:<13}{:<7}{:<32}{:<22}PODS",
            "NODE", "LOCATION", "STATE", "ADDRESSES", "ENDPOINT"
        )?;
        for node in &self.nodes {
            writeln!(
                f,
                "{:<13}{:<13}{:<7}{:<32}{:<22}{}",
                node.name,
                node.location,
                if node.up { "up" } else { "down" },
                node.addresses.join(" "),
                node.endpoint.as_deref().unwrap_or("-"),
                if node.pods.is_empty() {
                    "-".to_owned()
                } else {
                    node.pods.join(" ")
                },
            )?;
        }
        if let Some(path) = &self.kubeconfig {
            writeln!(f, "\nexport KUBECONFIG={}", path.display())?;
        }
        if self.ready() {
            write!(f, "\neverything is Ready")
        } else {
            write!(f, "\nnot Ready:\n  {}", self.missing.join("\n  "))
        }
    }
}
