//! A lab that is up: what it is made of, and its clients of the API server.
//!
//! What is done with it, its verbs, are methods that the modules above this one add: `up`, `machine`, `credentials`,
//! `objects`, `cluster`, `chart`, `ping`, `status` and `disturb`.

use std::path::Path;

use anyhow::{Context, Result};

use crate::{
    command::Cmd,
    layout::{Layout, NodeLayout},
    scenario::Scenario,
    store::{Record, Store},
};

/// A lab that is up.
#[derive(Debug, Clone)]
pub struct Lab {
    pub(crate) store: Store,
    pub(crate) record: Record,
    pub(crate) layout: Layout,
}

impl Lab {
    /// Finds a lab that is up.
    pub fn attach(name: &str) -> Result<Self> {
        let store = Store::named(name)?;
        let record = store.load()?;
        let layout = Layout::of(&record.scenario);
        Ok(Self {
            store,
            record,
            layout,
        })
    }

    /// Returns the names of all labs of this machine.
    pub fn all() -> Result<Vec<String>> {
        Store::all()
    }

    /// Returns the lab's name.
    pub fn name(&self) -> &str {
        self.store.name()
    }

    /// Returns the scenario it was made from.
    pub fn scenario(&self) -> &Scenario {
        &self.record.scenario
    }

    /// Returns the addresses of everything.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Returns the folder of the cluster's programs, wireguard-go among them.
    pub fn tools(&self) -> &Path {
        &self.record.tools
    }

    /// Returns a folder of the lab's own, for what tests want to keep until it goes down.
    pub fn folder(&self) -> &Path {
        self.store.root()
    }

    /// Returns the folder in which a node keeps its logs, as this machine sees it.
    pub(crate) fn logs_of(&self, node: &str) -> std::path::PathBuf {
        self.store.node(node).join("log")
    }

    /// Returns the addresses of a node, by name.
    pub fn node_layout(&self, name: &str) -> Result<&NodeLayout> {
        let found = self.layout.nodes().find(|node| node.name == name);
        found.with_context(|| {
            let all: Vec<_> = self.layout.nodes().map(|n| n.name.as_str()).collect();
            format!("there is no node {name}; there are {}", all.join(", "))
        })
    }

    /// Returns the names of all nodes.
    pub fn node_names(&self) -> Vec<String> {
        self.layout.nodes().map(|node| node.name.clone()).collect()
    }

    /// Returns the option by which nsenter enters the control plane's network.
    pub(crate) fn control_net(&self) -> String {
        let namespace = self.store.namespace(&self.layout.control_plane().name);
        format!("--net=/run/netns/{namespace}")
    }

    /// Returns a command with the cluster's kubeconfig, in the control plane's network, with this process's own files.
    pub fn client(&self, program: &str) -> Cmd {
        let helm = |what: &str| self.store.path(format!("helm/{what}"));
        Cmd::of(["nsenter", &self.control_net(), "--"])
            .arg(self.record.tools.join(program))
            .env("KUBECONFIG", self.store.path("kubeconfig/admin"))
            .env("HELM_CACHE_HOME", helm("cache"))
            .env("HELM_CONFIG_HOME", helm("config"))
            .env("HELM_DATA_HOME", helm("data"))
    }

    /// Runs kubectl; its standard output.
    pub fn kubectl<S: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Result<String> {
        self.client("kubectl").args(args).run()
    }

    /// Applies manifests, YAML or JSON.
    pub fn apply(&self, manifests: &str) -> Result<String> {
        self.client("kubectl")
            .args(["apply", "-f", "-"])
            .input(manifests)
            .run()
    }

    /// Runs helm; its standard output.
    pub fn helm<S: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Result<String> {
        self.client("helm").args(args).run()
    }
}
