//! From nodes that are up to a cluster in which everything is Ready.

use std::{
    collections::BTreeMap,
    fs,
    net::IpAddr,
    os::unix::fs::symlink,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::{
    calico, cloud,
    command::tail,
    images::TEST,
    lab::Lab,
    layout::{NodeLayout, TEST_NAMESPACE},
    node,
    profile::Profile,
    progress::Progress,
    scenario::Cni,
    wait::wait_until,
};

const SOON: Duration = Duration::from_secs(120);

/// Makes one folder of all CNI plugins.
pub(crate) fn link_cni(lab: &Lab) -> Result<()> {
    let folder = lab.store.path("cni");
    fs::create_dir_all(&folder)?;
    for plugin in ["bridge", "host-local", "loopback", "portmap", "ptp"] {
        symlink(format!("/usr/lib/cni/{plugin}"), folder.join(plugin))?;
    }
    symlink(lab.record.tools.join("flannel-cni"), folder.join("flannel"))?;
    Ok(())
}

/// Waits for the API server, lets the kubelets begin, and ends when all nodes and pods are Ready.
pub(crate) fn bring_up(lab: &Lab, progress: &Progress) -> Result<()> {
    let control_plane = lab.control_plane();
    progress.stage("control plane ready", || {
        wait_until("the API server is ready", SOON, || {
            Ok(control_plane.has("/run/lab/ready"))
        })
        .map_err(|error| {
            let said = |service| control_plane.service_log(service, 5).unwrap_or_default();
            error.context(format!(
                "etcd: {}\nkube-apiserver: {}",
                said("etcd"),
                said("kube-apiserver")
            ))
        })
    })?;
    lab.client("kubectl")
        .args(["create", "-f", "-"])
        .input(rights().to_string())
        .run()?;
    for node in lab.layout.nodes() {
        if node.profiles.contains(&Profile::StaleNode) {
            add_stale(lab, node)?;
        }
    }
    if lab.scenario().network.cni.is_calico() {
        add_calico(lab)?;
    }
    lab.store.write("ready", "")?;
    progress.stage("nodes registered, the CNI has its networks", || {
        let nodes: Vec<_> = lab.layout.nodes().map(|n| n.name.clone()).collect();
        wait_until(
            "every node's CNI has its network, and every node is known",
            SOON,
            || {
                let ready = |node: &String| lab.node(node).is_ok_and(|n| n.has(cni(lab).1));
                Ok(nodes.iter().all(ready) && registered(lab)?)
            },
        )
        .or_else(|error| explain(lab, error))
    })?;
    lab.client("kubectl")
        .args([
            "apply",
            "--server-side",
            "--force-conflicts",
            "--field-manager=lab",
            "-f",
            "-",
        ])
        .input(voices(lab).to_string())
        .run()?;
    for node in lab.layout.nodes() {
        if is_external(node) {
            // It reads where its tunnel is to end when it starts.
            lab.node(&node.name)?.kill_service("flanneld")?;
        }
    }
    lab.client("kubectl")
        .args(["create", "-f", "-"])
        .input(test_pods().to_string())
        .run()?;
    progress.stage("nodes and test pods ready", || lab.wait_ready())
}

/// Returns the service of the CNI, and the file that a node has when it has its network.
fn cni(lab: &Lab) -> (&'static str, &'static str) {
    match lab.scenario().network.cni {
        Cni::Vxlan | Cni::HostGw => ("flanneld", "/run/flannel/subnet.env"),
        Cni::CalicoVxlan | Cni::CalicoCrossSubnet | Cni::CalicoBgp => ("calico", calico::READY),
        Cni::Cloud => ("cloud", cloud::READY),
    }
}

/// Whether every kubelet has registered its node. Flannel has no network before that, others have.
fn registered(lab: &Lab) -> Result<bool> {
    if lab.scenario().network.cni.is_flannel() {
        return Ok(true);
    }
    let found = lab.get(&["nodes"])?;
    let found = found["items"].as_array().context("no list of nodes")?;
    let is = |node: &NodeLayout| found.iter().any(|item| item["metadata"]["name"] == *node.name);
    Ok(lab.layout.nodes().all(is))
}

/// Makes Calico's kinds and objects.
fn add_calico(lab: &Lab) -> Result<()> {
    lab.apply(&calico::kinds().to_string())?;
    wait_until("the API server has Calico's kinds", SOON, || {
        let applied = lab.apply(&calico::objects(&lab.layout).to_string());
        applied.map(|_| true)
    })
}

impl Lab {
    /// Waits until all nodes, their test pods and everything else in the cluster are Ready.
    pub fn wait_ready(&self) -> Result<()> {
        wait_ready(self)
    }

    /// Returns the addresses of the test pods, by node.
    pub fn pods(&self) -> Result<BTreeMap<String, Vec<IpAddr>>> {
        pods(self)
    }
}

fn wait_ready(lab: &Lab) -> Result<()> {
    let deadline = Instant::now() + SOON;
    loop {
        // An API server that is being started again does not answer yet.
        let missing = missing(lab).unwrap_or_else(|error| vec![format!("{error:#}")]);
        if missing.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!(
                "not ready after {} s:\n  {}",
                SOON.as_secs(),
                missing.join("\n  ")
            );
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Returns what is not Ready, and why.
pub(crate) fn missing(lab: &Lab) -> Result<Vec<String>> {
    let all = lab.get(&["nodes,pods,daemonsets,deployments", "--all-namespaces"])?;
    let items = all["items"].as_array().context("no list of items")?;
    let of = |kind: &str| {
        items
            .iter()
            .filter(|item| item["kind"] == kind)
            .collect::<Vec<_>>()
    };
    let mut missing = Vec::new();
    for node in lab.layout.nodes() {
        let mut say = |why: &str| missing.push(format!("node {}: {why}", node.name));
        if node::init(&lab.store, &node.name).is_none() {
            say("it is down");
            continue;
        }
        match of("Node")
            .into_iter()
            .find(|item| item["metadata"]["name"] == *node.name)
        {
            None => say("its kubelet has not registered it"),
            Some(found) => {
                if let Some(why) = unready(found) {
                    say(&why);
                }
            }
        }
        // The API server hears of a node that went away only later; the node itself knows.
        if lab.pod_on(&node.name)?.cmd(["true"]).is_err() {
            say("its test pod does not run");
        }
    }
    // What a stale Node object is to run never becomes Ready.
    let stale = of("Node")
        .into_iter()
        .filter(|node| !is_real(lab, &node["metadata"]["name"]));
    let stale = u64::try_from(stale.count())?;
    for pod in of("Pod") {
        if !is_real(lab, &pod["spec"]["nodeName"]) {
            continue;
        }
        let node = text(&pod["spec"]["nodeName"]);
        if let Some(why) = unready(pod) {
            let why: String = why.chars().take(300).collect();
            let last = last_words(lab, pod).map(|said| format!("\n    its log ends: {said}"));
            missing.push(format!(
                "pod {} on {node}: {why}{}",
                full_name(pod),
                last.unwrap_or_default()
            ));
        }
    }
    for set in of("DaemonSet").into_iter().chain(of("Deployment")) {
        let status = &set["status"];
        let count = |key: &str| status[key].as_u64().unwrap_or(0);
        let wanted = set["spec"]["replicas"]
            .as_u64()
            .unwrap_or_else(|| count("desiredNumberScheduled").saturating_sub(stale));
        let ready = count("numberReady").max(count("readyReplicas"));
        if status["observedGeneration"] != set["metadata"]["generation"] || ready < wanted {
            missing.push(format!(
                "{} {}: {ready} of {wanted} pods Ready",
                text(&set["kind"]),
                full_name(set)
            ));
        }
    }
    Ok(missing)
}

/// Returns the last line that a pod has logged, from the node itself: the API server may not reach it yet.
fn last_words(lab: &Lab, pod: &Value) -> Option<String> {
    let node = lab.node(text(&pod["spec"]["nodeName"])).ok()?;
    let about = &pod["metadata"];
    let folder = format!(
        "{}_{}_{}",
        text(&about["namespace"]),
        text(&about["name"]),
        text(&about["uid"])
    );
    let line = node
        .sh(&format!("cat /var/log/pods/{folder}/*/*.log | tail -n 1"))
        .ok()?;
    // The runtime writes time, stream and a flag before what the program said.
    let said = line.splitn(4, ' ').nth(3)?.trim();
    (!said.is_empty()).then(|| said.chars().take(300).collect())
}

/// Creates the Node object of a machine that fell silent long ago and had the address of this node.
fn add_stale(lab: &Lab, node: &NodeLayout) -> Result<()> {
    let name = format!("{}-old", node.name);
    let object = json!({"apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "annotations": {"spanwire.dev/location": node.location}},
        "spec": {"unschedulable": true}});
    lab.client("kubectl")
        .args(["create", "-f", "-"])
        .input(object.to_string())
        .run()?;
    let addresses = node.addresses.iter();
    let addresses: Vec<_> = addresses
        .map(|address| json!({"type": "InternalIP", "address": address}))
        .collect();
    let then = "2026-01-01T00:00:00Z";
    let room = json!({"cpu": "2", "memory": "4Gi", "pods": "50"});
    let status = json!({"status": {"addresses": addresses, "capacity": room, "allocatable": room, "conditions": [{
        "type": "Ready", "status": "Unknown", "reason": "NodeStatusUnknown",
        "message": "Kubelet stopped posting node status.", "lastHeartbeatTime": then, "lastTransitionTime": then}]}});
    lab.client("kubectl")
        .args([
            "patch",
            "node",
            &name,
            "--subresource=status",
            "--type=merge",
            "-p",
        ])
        .arg(status.to_string())
        .run()
        .map(drop)
}

/// Returns whether there is a machine for a Node object, or for what is bound to it.
fn is_real(lab: &Lab, node: &Value) -> bool {
    node.as_str()
        .is_none_or(|name| lab.layout.nodes().any(|node| node.name == name))
}

fn full_name(object: &Value) -> String {
    format!(
        "{}/{}",
        text(&object["metadata"]["namespace"]),
        text(&object["metadata"]["name"])
    )
}

fn pods(lab: &Lab) -> Result<BTreeMap<String, Vec<IpAddr>>> {
    let all = lab.get(&["pods", "--namespace", TEST_NAMESPACE])?;
    let mut pods = BTreeMap::new();
    for pod in all["items"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|pod| is_test(pod) && is_real(lab, &pod["spec"]["nodeName"]))
    {
        let ips = pod["status"]["podIPs"].as_array().into_iter().flatten();
        let addresses = ips.filter_map(|ip| ip["ip"].as_str()?.parse().ok()).collect();
        pods.insert(text(&pod["spec"]["nodeName"]).to_owned(), addresses);
    }
    Ok(pods)
}

fn is_test(pod: &Value) -> bool {
    pod["metadata"]["namespace"] == TEST_NAMESPACE
        && pod["metadata"]["labels"]["app"] == "test"
        && pod["metadata"]["deletionTimestamp"].is_null()
}

/// Returns why an object is not Ready, if it is not.
fn unready(object: &Value) -> Option<String> {
    let status = &object["status"];
    if status["phase"] == "Succeeded" {
        return None;
    }
    let conditions = status["conditions"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    let ready = conditions.iter().find(|c| c["type"] == "Ready");
    if ready.is_some_and(|c| c["status"] == "True") {
        return None;
    }
    let states = ["initContainerStatuses", "containerStatuses"]
        .iter()
        .flat_map(|key| status[*key].as_array().map(Vec::as_slice).unwrap_or_default());
    let waiting = states
        .map(|s| &s["state"]["waiting"])
        .find(|waiting| !waiting.is_null());
    let scheduled = conditions
        .iter()
        .find(|c| c["type"] == "PodScheduled" && c["status"] != "True");
    let why = waiting.or(scheduled).or(ready).unwrap_or(&Value::Null);
    let said = [text(&why["reason"]), text(&why["message"])]
        .join(" ")
        .trim()
        .to_owned();
    Some(if said.is_empty() {
        "no condition yet".to_owned()
    } else {
        said
    })
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// Adds to an error what is not Ready and what the services of the nodes said last.
fn explain(lab: &Lab, error: anyhow::Error) -> Result<()> {
    let mut lines = missing(lab).unwrap_or_default();
    for node in lab.layout.nodes() {
        let Ok(machine) = lab.node(&node.name) else {
            continue;
        };
        let (service, ready) = cni(lab);
        if !machine.has(ready) {
            let said = |service| {
                machine
                    .service_log(service, 3)
                    .map(|log| tail(log.trim(), 2))
                    .unwrap_or_default()
            };
            lines.push(format!(
                "{} {service}: {}\n  {0} kubelet: {}",
                node.name,
                said(service),
                said("kubelet")
            ));
        }
    }
    bail!("{error:#}\n  {}", lines.join("\n  "))
}

/// Returns what flannel may do.
fn rights() -> Value {
    json!({"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "flannel"},
         "rules": [
            {"apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "list", "watch"]},
            {"apiGroups": [""], "resources": ["nodes/status"], "verbs": ["patch"]}]},
        {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
         "metadata": {"name": "flannel"},
         "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "flannel"},
         "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "flannel"}]},
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": TEST_NAMESPACE}},
    ]})
}

/// Returns the scenario's annotations and labels on the nodes; that on which the API server runs is labelled as the
/// installers of clusters do it.
fn voices(lab: &Lab) -> Value {
    let nodes = lab.layout.nodes().map(|node| {
        let mut labels = node.labels.clone();
        if node.name == lab.layout.control_plane().name {
            labels.insert("node-role.kubernetes.io/control-plane".to_owned(), String::new());
        }
        let mut annotations = node.annotations.clone();
        annotations.extend(calico::annotations(lab.scenario(), &lab.layout, node));
        let location = lab.layout.locations.iter().find(|l| l.name == node.location);
        if let Some(location) = location.filter(|_| is_external(node)) {
            let overwrite = "flannel.alpha.coreos.com/public-ip-overwrite".to_owned();
            annotations.insert(overwrite, location.internet[0].to_string());
        }
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {
            "name": node.name, "annotations": annotations, "labels": labels}})
    });
    json!({"apiVersion": "v1", "kind": "List", "items": nodes.collect::<Vec<_>>()})
}

/// Returns whether flannel's tunnel of a node ends at the internet address of its router.
fn is_external(node: &NodeLayout) -> bool {
    node.profiles.contains(&Profile::ExternalVtep)
}

/// Returns one test pod per node.
fn test_pods() -> Value {
    json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "test", "namespace": TEST_NAMESPACE},
    "spec": {
        "selector": {"matchLabels": {"app": "test"}},
        "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "100%"}},
        "template": {"metadata": {"labels": {"app": "test"}}, "spec": {
            "terminationGracePeriodSeconds": 0,
            "automountServiceAccountToken": false,
            "tolerations": [{"operator": "Exists"}],
            "containers": [{"name": "test", "image": TEST, "imagePullPolicy": "IfNotPresent",
                "securityContext": {"capabilities": {"add": ["NET_ADMIN", "NET_RAW"]}}}],
        }},
    }})
}
