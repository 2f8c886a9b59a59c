//! What an attacker can do with the disk of one node: its kubelet's, its agent's and its CNI's credentials. What is refused is
//! refused, and what is not refused changes neither the decision nor a route.

use std::{collections::BTreeMap, thread, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use spanwire_e2e::{
    Answer, Credentials, Finished, Holder, Lab,
    expect::{SOON, all_reach_all, leader, node_ip},
    wait_until,
};

/// The node that was broken into.
const TAKEN: &str = "c2";
/// Longer than a decision takes, and its way to the routes of all nodes.
const DECIDED: Duration = Duration::from_secs(4);

/// What the mesh has decided, and the routes that followed from it: what no attack may change.
#[derive(Debug, PartialEq)]
struct Mesh {
    /// What is published of each node and each location.
    decision: BTreeMap<String, Value>,
    /// Where each node sends what is in its tables of the mesh.
    routes: BTreeMap<String, Vec<String>>,
}

impl Mesh {
    fn of(lab: &Lab) -> Result<Self> {
        let list = lab.get(&["meshnodes,locations"])?;
        let items = list["items"].as_array().context("a list")?;
        let decision = items.iter().map(|item| {
            let name = format!("{} {}", item["kind"], item["metadata"]["name"]);
            let decided = if item["kind"] == "MeshNode" {
                let mut spec = item["spec"].clone();
                if item["metadata"]["name"] == TAKEN {
                    // Where its own tunnel is looked for is its own affair: what is sent there is for its key alone.
                    spec["endpoints"].take();
                }
                spec
            } else {
                json!({"leaders": item["status"]["leaders"], "spec": item["spec"]})
            };
            (name, decided)
        });
        let mut routes = BTreeMap::new();
        for node in lab.node_names() {
            let show = ["ip", "-j", "route", "show", "table", "all", "proto", "151"];
            let found: Value = serde_json::from_str(&lab.node(&node)?.run(show)?)?;
            let all = found.as_array().into_iter().flatten();
            let mut of_node: Vec<_> = all
                .map(|route| {
                    let text = |key: &str| route[key].as_str().unwrap_or_default().to_owned();
                    ["table", "type", "dst", "gateway", "dev"].map(text).join(" ")
                })
                .collect();
            of_node.sort();
            routes.insert(node, of_node);
        }
        Ok(Self {
            decision: decision.collect(),
            routes,
        })
    }
}

/// Runs an attack. It changes nothing that has been decided and no route, neither at once nor after a while.
fn harms_nothing(lab: &Lab, what: &str, attack: impl FnOnce() -> Result<()>) -> Result<()> {
    let before = Mesh::of(lab)?;
    attack().with_context(|| what.to_owned())?;
    thread::sleep(DECIDED);
    let after = Mesh::of(lab)?;
    for (node, routes) in &before.routes {
        let now = &after.routes[node];
        ensure!(
            routes == now,
            "{what}: the routes of {node} were\n{routes:#?}\nand are\n{now:#?}"
        );
    }
    ensure!(
        before.decision == after.decision,
        "{what}: decided was\n{:#?}\nand is\n{:#?}",
        before.decision,
        after.decision
    );
    Ok(())
}

fn refused(what: &str, done: &Finished, because: &str) -> Result<()> {
    ensure!(done.code != 0, "{what} is not refused: {done:?}");
    ensure!(
        done.stderr.contains(because),
        "{what} is refused for another reason than {because:?}: {}",
        done.stderr
    );
    Ok(())
}

fn forbidden(what: &str, answer: &Answer) -> Result<()> {
    ensure!(answer.refused(), "{what} is not refused: {answer:?}");
    Ok(())
}

pub(crate) fn annotations(lab: &Lab) -> Result<()> {
    let kubelet = lab.credentials(TAKEN, Holder::Kubelet)?;
    let cni = lab.credentials(TAKEN, Holder::Cni)?;
    let values = [
        ("location", "x"),
        ("leader", "yes"),
        ("endpoint", "203.0.113.200:51820"),
        ("internal-ip", "192.168.3.12,8.8.8.8"),
        ("location-cidrs", "10.244.200.0/24"),
        ("listen-port", "443"),
    ];
    harms_nothing(lab, "annotations", || {
        for (key, value) in values {
            let (key, pair) = (
                format!("spanwire.dev/{key}"),
                format!("spanwire.dev/{key}={value}"),
            );
            let own = kubelet.kubectl(["annotate", "--overwrite", "node", TAKEN, &pair])?;
            refused(&pair, &own, &format!("annotation {key}"))?;
            let other = kubelet.kubectl(["annotate", "--overwrite", "node", "b3", &pair])?;
            refused(&pair, &other, "forbidden")?;
            // And past the Node itself, by the status that it and the CNI may write.
            let change = json!({"metadata": {"annotations": {&key: value}}}).to_string();
            for (who, node) in [(&kubelet, TAKEN), (&cni, TAKEN), (&cni, "b3")] {
                let answer = who.merge(&format!("api/v1/nodes/{node}/status"), &change)?;
                forbidden(&format!("{pair} by the status of {node}"), &answer)?;
            }
        }
        let taken = json!({"metadata": {"annotations": {"spanwire.dev/location": null}}}).to_string();
        let answer = kubelet.merge(&format!("api/v1/nodes/{TAKEN}"), &taken)?;
        forbidden("an annotation that is removed", &answer)?;
        for label in ["topology.kubernetes.io/region=b", "spanwire.dev/x=y"] {
            let key = label.split('=').next().unwrap_or_default();
            let own = kubelet.kubectl(["label", "--overwrite", "node", TAKEN, label])?;
            refused(label, &own, &format!("label {key}"))?;
        }
        Ok(())
    })
}

/// The status of the own Node may be written. So the kubelet, which would write it again, is stopped, as an attacker would do.
pub(crate) fn addresses(lab: &Lab) -> Result<()> {
    let kubelet = lab.credentials(TAKEN, Holder::Kubelet)?;
    let own = node_ip(lab, TAKEN)?.to_string();
    let machine = lab.node(TAKEN)?;
    let pods = lab.get(&["node", "a1"])?;
    let pods = pods["spec"]["podCIDR"]
        .as_str()
        .context("a1 has pods")?
        .replace(".0/24", ".7");
    // All at once: what one of them changes, the routes name.
    let claimed = [
        own.as_str(),
        // A public one.
        "8.8.8.8",
        // The API server's, and that of the node on which it runs.
        &lab.layout().api().to_string(),
        &node_ip(lab, "a1")?.to_string(),
        // Another node's.
        &node_ip(lab, "b2")?.to_string(),
        // A service's, a pod's, and one of a pod network to come.
        "10.96.0.1",
        &pods,
        "10.244.200.7",
        // The metadata service of clouds.
        "169.254.169.254",
    ];
    machine.stop_service("kubelet")?;
    let harmless = harms_nothing(lab, "addresses", || claim(&kubelet, &claimed));
    let put_back = claim(&kubelet, &[&own]);
    machine.start_service("kubelet")?;
    harmless.and(put_back)?;
    lab.wait_ready()?;
    all_reach_all(lab)
}

/// Writes these addresses into the status of the node that was broken into.
fn claim(kubelet: &Credentials<'_>, addresses: &[&str]) -> Result<()> {
    let all: Vec<_> = addresses
        .iter()
        .map(|address| json!({"type": "InternalIP", "address": address}))
        .collect();
    let change = json!({"status": {"addresses": all}}).to_string();
    let answer = kubelet.merge(&format!("api/v1/nodes/{TAKEN}/status"), &change)?;
    ensure!(answer.accepted(), "a kubelet may write its status: {answer:?}");
    Ok(())
}

pub(crate) fn others(lab: &Lab) -> Result<()> {
    let kubelet = lab.credentials(TAKEN, Holder::Kubelet)?;
    let agent = lab.credentials(TAKEN, Holder::Agent)?;
    let cni = lab.credentials(TAKEN, Holder::Cni)?;
    let lease = |namespace: &str, name: &str| {
        format!("apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/{name}")
    };
    let held = json!({"spec": {"holderIdentity": TAKEN, "leaseDurationSeconds": 1_000_000}}).to_string();
    let report = json!({"status": {"hopAddresses": ["10.66.0.1"]}}).to_string();
    let spec = json!({"spec": {"role": "Leader", "location": "b"}}).to_string();
    harms_nothing(lab, "Leases and reports of others", || {
        for (name, who) in [("kubelet", &kubelet), ("agent", &agent), ("CNI", &cni)] {
            for lease in [
                lease("kube-node-lease", "b1"),
                lease("spanwire", "spanwire-leader-b1"),
                lease("spanwire", "spanwire-operator"),
            ] {
                forbidden(&format!("{lease} by the {name}"), &who.merge(&lease, &held)?)?;
            }
            let meshnodes = "apis/spanwire.dev/v1alpha1/meshnodes";
            for (path, change) in [
                (format!("{meshnodes}/b1/status"), &report),
                (format!("{meshnodes}/{TAKEN}"), &spec),
                (format!("{meshnodes}/b1"), &spec),
                ("apis/spanwire.dev/v1alpha1/locations/b".to_owned(), &spec),
            ] {
                forbidden(&format!("{path} by the {name}"), &who.merge(&path, change)?)?;
            }
        }
        let forged = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {"name": "no-node"}, "spec": {"holderIdentity": "no-node"}});
        let leases = "apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
        forbidden(
            "a Lease for no node",
            &kubelet.create(leases, &forged.to_string())?,
        )
    })
}

/// A timestamp that the API server takes and no parser: of the agent's own report. Everything goes on, also for an operator that
/// starts with it.
pub(crate) fn unreadable(lab: &Lab) -> Result<()> {
    let agent = lab.credentials(TAKEN, Holder::Agent)?;
    let path = format!("apis/spanwire.dev/v1alpha1/meshnodes/{TAKEN}/status");
    let condition = json!({"type": "Forged", "status": "True", "reason": "Forged", "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00+99:99"});
    let found = lab.get(&["meshnode", TAKEN])?;
    let mut conditions = found["status"]["conditions"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let good = json!({"status": {"conditions": conditions}}).to_string();
    conditions.push(condition);
    let bad = json!({"status": {"conditions": conditions}}).to_string();
    harms_nothing(lab, "a report that cannot be read", || {
        let answer = agent.merge(&path, &bad)?;
        // An API server that refuses it is as good.
        ensure!(answer.accepted() || answer.code == 422, "{answer:?}");
        let restart = [
            "rollout",
            "restart",
            "deployment/spanwire-operator",
            "--namespace",
            "spanwire",
        ];
        lab.kubectl(restart)?;
        lab.kubectl([
            "rollout",
            "status",
            "deployment/spanwire-operator",
            "--namespace",
            "spanwire",
            "--timeout=60s",
        ])
        .context("the operator does not start with it")
        .map(drop)
    })?;
    // And it decides: the other node of that location leads, and leads no more.
    let before = leader(lab, "c")?;
    let other = if before == "c1" { "c2" } else { "c1" };
    for (node, value) in [(before.as_str(), "leader-"), (other, "leader=true")] {
        lab.kubectl([
            "annotate",
            "--overwrite",
            "node",
            node,
            &format!("spanwire.dev/{value}"),
        ])?;
    }
    let decides = wait_until("the operator decides", SOON, || Ok(leader(lab, "c")? == other));
    lab.kubectl(["annotate", "node", other, "spanwire.dev/leader-"])?;
    // The agent itself writes its report again when something about it changes; here that is done for it.
    let mended = agent.merge(&path, &good)?;
    decides?;
    ensure!(mended.accepted(), "{mended:?}");
    lab.wait_ready()?;
    all_reach_all(lab)
}
