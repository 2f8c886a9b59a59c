//! A node as a set of namespaces: bringing it up, cutting its power, finding it again.

pub(crate) mod services;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use spanwire_testbed::programs;

use crate::{
    cgroup,
    command::{Cmd, tail},
    store::{Record, Store},
};

/// Switches a node's power on.
pub(crate) fn start(store: &Store, record: &Record, node: &str) -> Result<()> {
    let dir = store.node(node);
    fs::create_dir_all(&dir)?;
    let groups = groups(record, node);
    for group in &groups {
        cgroup::create(group)?;
    }
    let moves: String = groups
        .iter()
        .map(|group| format!("echo $$ >'{}/cgroup.procs'\n", group.display()))
        .collect();
    let script = format!(
        "{moves}exec nsenter --net=/run/netns/{} unshare --mount --pid --uts --ipc --cgroup --fork \
         bash '{}' '{}' {node} '{}'",
        store.namespace(node),
        store.path("init.sh").display(),
        store.root().display(),
        whole_path(&record.tools)
    );
    let console = fs::File::create(dir.join("console.log"))?;
    let mut command = Cmd::of(["setsid", "sh", "-e", "-c", &script]).into_command()?;
    command
        .env("PATH", path(&record.tools))
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(console.try_clone()?)
        .stderr(console);
    let mut child = command
        .spawn()
        .with_context(|| format!("cannot start the node {node}"))?;
    let deadline = Instant::now() + Duration::from_secs(20);
    while init(store, node).is_none() {
        let ended = child.try_wait()?.is_some();
        if ended || Instant::now() > deadline {
            let said = fs::read_to_string(dir.join("console.log")).unwrap_or_default();
            bail!("the node {node} did not come up: {}", tail(said.trim(), 10));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    // Reaps it if this process lives to see its end.
    std::thread::spawn(move || child.wait());
    Ok(())
}

/// Cuts a node's power: everything on it ends at once, its folders stay.
pub(crate) fn crash(store: &Store, record: &Record, node: &str) -> Result<()> {
    if let Some(pid) = init(store, node) {
        kill(pid, Signal::SIGKILL).with_context(|| format!("cannot kill the node {node}"))?;
    }
    let groups = groups(record, node);
    cgroup::kill_all(&groups)?;
    cgroup::remove(&groups)?;
    match fs::remove_file(store.node(node).join("pid")) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

/// Returns the first process of a node that is up.
pub(crate) fn init(store: &Store, node: &str) -> Option<Pid> {
    let text = fs::read_to_string(store.node(node).join("pid")).ok()?;
    let pid = Pid::from_raw(text.trim().parse().ok()?);
    // Numbers are used again; this one is the node's as long as it runs the node's script.
    let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?;
    line.contains(&*store.path("init.sh").to_string_lossy())
        .then_some(pid)
}

/// Returns a command that runs inside a node.
pub(crate) fn enter(store: &Store, record: &Record, node: &str) -> Result<Cmd> {
    let Some(pid) = init(store, node) else {
        bail!("the node {node} is down; `lab reboot {node}` starts it")
    };
    let target = pid.to_string();
    Ok(
        Cmd::of(["nsenter", "-t", &target, "-m", "-u", "-i", "-n", "-p", "-C", "--"])
            .env("PATH", path(&record.tools)),
    )
}

/// A container as the kubelet labels it.
#[derive(Debug, Clone)]
pub(crate) struct Container {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name, or any pod of the namespace.
    pub pod: Option<String>,
    /// The container's name, or any.
    pub container: Option<String>,
}

/// Returns the number, on the node, of the first process of a container; it asks the node alone, not the API server.
pub(crate) fn container_pid(store: &Store, record: &Record, node: &str, wanted: &Container) -> Result<i32> {
    let mut filter = format!("labels.\"io.kubernetes.pod.namespace\"=={}", wanted.namespace);
    for (label, value) in [("pod", &wanted.pod), ("container", &wanted.container)] {
        if let Some(value) = value {
            filter += &format!(",labels.\"io.kubernetes.{label}.name\"=={value}");
        }
    }
    filter += ",labels.\"io.cri-containerd.kind\"==container";
    let found = enter(store, record, node)?
        .args(["ctr", "-n", "k8s.io", "containers", "ls", "-q", &filter])
        .run()?;
    let tasks = "root/run/containerd/io.containerd.runtime.v2.task/k8s.io";
    let mut running = found.lines().filter_map(|id| {
        let inside = Path::new("/proc")
            .join(init(store, node)?.to_string())
            .join(tasks);
        fs::read_to_string(inside.join(id.trim()).join("init.pid"))
            .ok()?
            .trim()
            .parse()
            .ok()
    });
    running
        .next()
        .with_context(|| format!("no container of {wanted:?} runs on {node}"))
}

fn groups(record: &Record, node: &str) -> Vec<PathBuf> {
    record.cgroups.iter().map(|folder| folder.join(node)).collect()
}

/// Where a container has its programs, and Debian too.
pub(crate) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Returns the lab's programs and those of `scripts/programs`.
pub(crate) fn path(tools: &Path) -> String {
    format!("{}:{}", tools.display(), programs::path())
}

/// Returns the lab's programs and all of the machine's, for services, whose packages bring what they start.
pub(crate) fn whole_path(tools: &Path) -> String {
    format!("{}:{PATH}", tools.display())
}
