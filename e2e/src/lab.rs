//! A lab that is up, as tests and the command line use it.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

use crate::{
    chart, cluster,
    command::Cmd,
    layout::{Layout, NodeLayout},
    machine::{Kind, Machine},
    net,
    node::{self, Container},
    ping::Matrix,
    progress::Progress,
    scenario::{Routers, Scenario},
    status::Status,
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

    /// Names of all labs of this machine.
    pub fn all() -> Result<Vec<String>> {
        Store::all()
    }

    /// The lab's name.
    pub fn name(&self) -> &str {
        self.store.name()
    }

    /// The scenario it was made from.
    pub fn scenario(&self) -> &Scenario {
        &self.record.scenario
    }

    /// The addresses of everything.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The folder of the cluster's programs, wireguard-go among them.
    pub fn tools(&self) -> &Path {
        &self.record.tools
    }

    /// A folder of the lab's own, for what tests want to keep until it goes down.
    pub fn folder(&self) -> &Path {
        self.store.root()
    }

    /// A node by name.
    pub fn node(&self, name: &str) -> Result<Machine<'_>> {
        self.node_layout(name)?;
        Ok(Machine {
            lab: self,
            name: name.to_owned(),
            kind: Kind::Node,
        })
    }

    /// The node on which the control plane runs.
    pub fn control_plane(&self) -> Machine<'_> {
        Machine {
            lab: self,
            name: self.layout.control_plane().name.clone(),
            kind: Kind::Node,
        }
    }

    /// The test pod on a node.
    pub fn pod_on(&self, node: &str) -> Result<Machine<'_>> {
        let mut pod = self.container(node, cluster::NAMESPACE, None, Some("test"))?;
        pod.name = format!("the pod on {node}");
        Ok(pod)
    }

    /// A container of any pod.
    pub fn container(
        &self,
        node: &str,
        namespace: &str,
        pod: Option<&str>,
        container: Option<&str>,
    ) -> Result<Machine<'_>> {
        self.node_layout(node)?;
        let owned = |text: Option<&str>| text.map(str::to_owned);
        let wanted = Container {
            namespace: namespace.into(),
            pod: owned(pod),
            container: owned(container),
        };
        let name = format!("{}/{}", namespace, pod.or(container).unwrap_or("*"));
        Ok(Machine {
            lab: self,
            name,
            kind: Kind::Pod {
                node: node.to_owned(),
                container: wanted,
            },
        })
    }

    /// The router of a location, `internet` (the segment) or `outside` (a host on it).
    pub fn network(&self, name: &str) -> Result<Machine<'_>> {
        let known = [net::INTERNET, net::OUTSIDE].contains(&name)
            || self.layout.locations.iter().any(|location| location.name == name);
        ensure!(
            known,
            "{name} is no location, and neither `internet` nor `outside`"
        );
        Ok(Machine {
            lab: self,
            name: name.to_owned(),
            kind: Kind::Network,
        })
    }

    /// A host on the internet, outside the cluster.
    pub fn outside(&self) -> Machine<'_> {
        Machine {
            lab: self,
            name: net::OUTSIDE.to_owned(),
            kind: Kind::Network,
        }
    }

    /// Addresses of a node, by name.
    pub fn node_layout(&self, name: &str) -> Result<&NodeLayout> {
        let found = self.layout.nodes().find(|node| node.name == name);
        found.with_context(|| {
            let all: Vec<_> = self.layout.nodes().map(|n| n.name.as_str()).collect();
            format!("there is no node {name}; there are {}", all.join(", "))
        })
    }

    /// A command with the cluster's kubeconfig, in the control plane's network, with this process's own files.
    pub fn client(&self, program: &str) -> Cmd {
        let net = format!(
            "--net=/run/netns/{}",
            self.store.namespace(&self.layout.control_plane().name)
        );
        let helm = |what: &str| self.store.path(format!("helm/{what}"));
        Cmd::of(["nsenter", &net, "--"])
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

    /// Runs kubectl and reads its answer as JSON.
    pub fn get(&self, what: &[&str]) -> Result<serde_json::Value> {
        let text = self.kubectl(["get", "-o", "json"].iter().chain(what))?;
        Ok(serde_json::from_str(&text)?)
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

    /// Installs the chart with the scenario's values and waits until it works.
    pub fn install_spanwire(&self, progress: &Progress) -> Result<()> {
        let image = progress.stage("images of spanwire", chart::image)?;
        chart::install(self, &image, progress)
    }

    /// Waits until all nodes, their test pods and everything else in the cluster are Ready.
    pub fn wait_ready(&self) -> Result<()> {
        cluster::wait_ready(self)
    }

    /// Addresses of the test pods, by node.
    pub fn pods(&self) -> Result<BTreeMap<String, Vec<IpAddr>>> {
        cluster::pods(self)
    }

    /// Pings every test pod from every test pod.
    pub fn ping_all(&self) -> Result<Matrix> {
        Matrix::measure(self)
    }

    /// What there is and how it is.
    pub fn status(&self) -> Result<Status> {
        Status::read(self)
    }

    /// What passes a segment (`internet`, or a location's LAN) meanwhile, as tcpdump writes it.
    pub fn capture<T>(
        &self,
        segment: &str,
        filter: &str,
        run: impl FnOnce() -> Result<T>,
    ) -> Result<(T, String)> {
        let device = self.segment_device(segment)?;
        let dump = self.network(segment)?.dump(device, filter)?;
        let result = run()?;
        // What it was given a moment ago it has still to write.
        thread::sleep(Duration::from_millis(200));
        Ok((result, dump.interrupt()?.0))
    }

    /// The device on which everything of a segment is seen.
    pub fn segment_device(&self, segment: &str) -> Result<&'static str> {
        match segment {
            net::INTERNET => Ok("internet"),
            name if self.layout.locations.iter().any(|l| l.name == name) => Ok("lan"),
            other => bail!("{other} is no segment: say `internet` or a location"),
        }
    }

    /// Cuts the path between two locations, or between two nodes of one.
    pub fn cut(&self, one: &str, other: &str) -> Result<()> {
        net::cut(&self.store, &self.layout, one, other)
    }

    /// Drops a UDP port on the internet.
    pub fn block_udp(&self, port: u16) -> Result<()> {
        net::block_udp(&self.store, port)
    }

    /// Mends every cut and block.
    pub fn heal(&self) -> Result<()> {
        net::heal(&self.store, &self.layout)
    }

    /// Opens or closes plain routing between the locations.
    pub fn set_routers(&self, routers: Routers) -> Result<()> {
        net::set_routers(&self.store, &self.record.scenario, &self.layout, routers)
    }

    /// Cuts a node's power.
    pub fn crash(&self, node: &str) -> Result<()> {
        net::unplug(&self.store, &self.layout, node)?;
        node::crash(&self.store, &self.record, node)
    }

    /// Starts a node, after a power cut if it is up. Its files are as they were.
    pub fn reboot(&self, node: &str) -> Result<()> {
        self.crash(node)?;
        net::renew(&self.store, &self.record.scenario, &self.layout, node)?;
        node::start(&self.store, &self.record, node)
    }
}

/// Waits until something holds; the error says what did not.
pub fn wait_until(what: &str, timeout: Duration, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + timeout;
    loop {
        let last = match holds() {
            Ok(true) => return Ok(()),
            Ok(false) => String::new(),
            Err(error) => format!(": {error:#}"),
        };
        ensure!(
            Instant::now() < deadline,
            "{what}: not within {} s{last}",
            timeout.as_secs_f64()
        );
        thread::sleep(Duration::from_millis(100));
    }
}
