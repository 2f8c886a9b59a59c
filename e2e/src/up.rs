//! Making a lab and removing it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};

use crate::{
    advertise, cgroup, chart, cluster,
    command::Cmd,
    conformance, forward, images,
    lab::Lab,
    layout::Layout,
    limits, net,
    node::{self, services},
    pki,
    progress::Progress,
    scenario::Scenario,
    store::{Record, Store},
};

/// How much of Spanwire a lab has when it is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spanwire {
    /// Nothing.
    Absent,
    /// Its image, on every node: importing it into one after another takes longer than everything else of installing.
    Image,
    /// The chart, with the values of the scenario.
    Installed,
}

/// How a lab is brought up.
#[derive(Debug, Clone)]
pub struct Options {
    /// What it has of Spanwire.
    pub spanwire: Spanwire,
    /// The command `lab`, which then makes the API server reachable on 127.0.0.1.
    pub forward: Option<PathBuf>,
    /// The command `lab`, which sends router advertisements where a host's profile wants them.
    pub advertise: Option<PathBuf>,
    /// How stages are reported.
    pub progress: Progress,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            spanwire: Spanwire::Installed,
            forward: None,
            advertise: None,
            progress: Progress::shown(),
        }
    }
}

impl Lab {
    /// Makes a lab; returns when everything in it is Ready. After a failure the lab stays, to be looked at.
    pub fn up(name: &str, scenario: &Scenario, options: &Options) -> Result<Self> {
        ensure!(
            nix::unistd::geteuid().is_root(),
            "the lab makes namespaces and control groups: run it as root"
        );
        let progress = &options.progress;
        let store = Store::named(name)?;
        ensure!(
            !store.exists(),
            "the lab {name} is there already; `lab --name {name} down` removes it"
        );
        let tools = progress.stage("programs of the cluster", tools)?;
        let mut own = progress.stage("images of the test pods", images::own)?;
        if scenario.conformance {
            own.extend(progress.stage("images of Kubernetes' tests", conformance::images)?);
        }
        let spanwire = match options.spanwire {
            Spanwire::Absent => None,
            Spanwire::Image | Spanwire::Installed => {
                Some(progress.stage("images of spanwire", chart::image)?)
            }
        };
        let image_store = progress.stage("image store", || images::store_with(&own, spanwire.as_ref()))?;

        let layout = Layout::of(scenario);
        store.create()?;
        limits::raise()?;
        let mut record = Record {
            scenario: scenario.clone(),
            tools,
            cgroups: cgroup::folders(name)?,
            port: None,
        };
        store.save(&record)?;
        cgroup::weigh(&record.cgroups, layout.nodes().count())?;
        let lab = Self {
            store: store.clone(),
            record: record.clone(),
            layout: layout.clone(),
        };
        progress.stage("keys and certificates", || {
            pki::create(&store, &layout)?;
            pki::kubeconfigs(&store, &layout)
        })?;
        progress.stage("network", || {
            net::create(&store, &record.scenario, &layout)?;
            advertise::start(&lab, options.advertise.as_deref())
        })?;
        progress.stage("nodes", || lab.start_all(&image_store))?;
        if let Some(program) = &options.forward {
            record.port = Some(forward::start(&store, &record, &layout, program)?);
            store.save(&record)?;
        }
        let lab = Self { record, ..lab };
        cluster::bring_up(&lab, progress)?;
        if let (Some(image), Spanwire::Installed) = (&spanwire, options.spanwire) {
            chart::install(&lab, image, progress)?;
            progress.stage("all nodes and locations of the mesh ready", || {
                lab.wait_mesh_ready()
            })?;
        }
        if scenario.conformance {
            progress.stage("DNS of the cluster ready", || conformance::add_dns(&lab))?;
        }
        Ok(lab)
    }

    /// Builds everything that labs need into the cache.
    pub fn prepare(progress: &Progress) -> Result<()> {
        progress.stage("programs of the cluster", tools)?;
        let own = progress.stage("images of the test pods", images::own)?;
        let spanwire = progress.stage("images of spanwire", chart::image)?;
        progress
            .stage("image store", || images::store_with(&own, Some(&spanwire)))
            .map(drop)
    }

    /// Removes a lab and everything it made; says whether there was one.
    pub fn down(name: &str) -> Result<bool> {
        let store = Store::named(name)?;
        if !store.exists() {
            return Ok(false);
        }
        // A lab whose maker died at once has a folder and nothing else.
        let folders = store
            .load()
            .map_or_else(|_| cgroup::folders(name), |record| Ok(record.cgroups))?;
        for entry in fs::read_dir(store.path("nodes")).into_iter().flatten().flatten() {
            if let Some(pid) = node::init(&store, &entry.file_name().to_string_lossy()) {
                // The first processes go first: nothing on a node is left to start anything again.
                let _ = kill(pid, Signal::SIGKILL);
            }
        }
        cgroup::kill_all(&folders)?;
        net::remove(&store)?;
        cgroup::remove(&folders)?;
        fs::remove_dir_all(store.root())
            .with_context(|| format!("cannot remove {}", store.root().display()))?;
        limits::put_back()?;
        Ok(true)
    }

    fn start_all(&self, image_store: &Path) -> Result<()> {
        let context = services::Context {
            store: &self.store,
            scenario: &self.record.scenario,
            layout: &self.layout,
            tools: &self.record.tools,
        };
        services::write_shared(context)?;
        cluster::link_cni(self)?;
        for node in self.layout.nodes() {
            services::write(context, node)?;
            images::copy(image_store, &self.store.node(&node.name).join("lib/containerd"))?;
            node::start(&self.store, &self.record, &node.name)?;
        }
        Ok(())
    }
}

/// Builds the cluster's programs if they are not in the cache; the folder they are in.
pub fn tools() -> Result<PathBuf> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/build");
    let known = Cmd::new(&script).arg("--where").run()?;
    let folder = PathBuf::from(known.trim());
    if !folder.join(".complete").exists() {
        let code = Cmd::new(&script).passthrough()?;
        ensure!(code == 0, "building the cluster's programs failed");
    }
    Ok(folder)
}
