//! A node as a set of namespaces: bringing it up, cutting its power, finding it again.

pub(crate) mod services;

use std::{
    collections::BTreeMap,
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
use serde::Deserialize;
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

/// Returns the number, on the node, of the first process of a container. What the runtime has written down of its containers is read:
/// it needs no API server, and a test asks so often that starting a program for it would cost more than what the test does.
pub(crate) fn container_pid(store: &Store, node: &str, wanted: &Container) -> Result<i32> {
    let Some(init) = init(store, node) else {
        bail!("the node {node} is down; `lab reboot {node}` starts it")
    };
    let processes = PathBuf::from(format!("/proc/{init}/root/proc"));
    let bundles = PathBuf::from(format!(
        "/proc/{init}/root/run/containerd/io.containerd.runtime.v2.task/k8s.io"
    ));
    let mut running = fs::read_dir(bundles).into_iter().flatten().filter_map(|bundle| {
        let bundle = bundle.ok()?.path();
        if !wanted.is(&fs::read_to_string(bundle.join("config.json")).ok()?) {
            return None;
        }
        let pid: i32 = fs::read_to_string(bundle.join("init.pid"))
            .ok()?
            .trim()
            .parse()
            .ok()?;
        // That of a container that has ended stays for a while.
        processes.join(pid.to_string()).exists().then_some(pid)
    });
    running
        .next()
        .with_context(|| format!("no container of {wanted:?} runs on {node}"))
}

impl Container {
    /// Returns whether a bundle of the runtime is this container, by the annotations that containerd's CRI plugin writes into its
    /// configuration (config.json of the OCI runtime specification).
    fn is(&self, configuration: &str) -> bool {
        #[derive(Deserialize)]
        struct Configuration {
            annotations: BTreeMap<String, String>,
        }
        // Most are others, and much of such a file is none of this.
        if !configuration.contains(&self.namespace) {
            return false;
        }
        let Ok(found) = serde_json::from_str::<Configuration>(configuration) else {
            return false;
        };
        let has = |key: &str, value: &str| {
            let found = found.annotations.get(&format!("io.kubernetes.cri.{key}"));
            found.is_some_and(|found| found == value)
        };
        let fits = |key: &str, value: &Option<String>| value.as_ref().is_none_or(|value| has(key, value));
        has("container-type", "container")
            && has("sandbox-namespace", &self.namespace)
            && fits("sandbox-name", &self.pod)
            && fits("container-name", &self.container)
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn bundle(kind: &str, namespace: &str, pod: &str, container: &str) -> String {
        serde_json::json!({"ociVersion": "1.0.2", "process": {"args": [namespace]}, "annotations": {
            "io.kubernetes.cri.container-type": kind, "io.kubernetes.cri.sandbox-namespace": namespace,
            "io.kubernetes.cri.sandbox-name": pod, "io.kubernetes.cri.container-name": container}})
        .to_string()
    }

    #[test]
    fn containers_are_known_by_what_is_wanted_of_them() {
        let wanted = |namespace: &str, pod: Option<&str>, container: Option<&str>| Container {
            namespace: namespace.to_owned(),
            pod: pod.map(str::to_owned),
            container: container.map(str::to_owned),
        };
        let agent = bundle("container", "spanwire", "spanwire-agent-x", "agent");
        assert!(wanted("spanwire", None, Some("agent")).is(&agent));
        assert!(wanted("spanwire", Some("spanwire-agent-x"), None).is(&agent));
        assert!(!wanted("lab", None, None).is(&agent));
        assert!(!wanted("spanwire", Some("spanwire-agent-y"), None).is(&agent));
        assert!(!wanted("spanwire", None, Some("tunnel")).is(&agent));
        // That of the pod itself, which has its network and nothing else.
        assert!(!wanted("spanwire", None, None).is(&bundle(
            "sandbox",
            "spanwire",
            "spanwire-agent-x",
            "agent"
        )));
    }
}
