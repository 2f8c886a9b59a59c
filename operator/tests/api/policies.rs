//! What the chart's admission policies refuse, with the credentials that lie on the disk of a node.

use std::{
    io::Write as _,
    process::{Output, Stdio},
    time::Duration,
};

use spanwire_testbed::command;
use tokio::time::{Instant, sleep};

use crate::server::{Server, programs};

/// What kubelets and the CNI of a node may do in a cluster, and a Location that selects by labels.
const CLUSTER: &str = r#"
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: kubelets}
rules:
  - {apiGroups: [""], resources: [nodes, nodes/status], verbs: [get, create, update, patch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: kubelets}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: kubelets}
subjects:
  - {kind: Group, name: "system:nodes", apiGroup: rbac.authorization.k8s.io}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: cni}
rules:
  - {apiGroups: [""], resources: [nodes], verbs: [get]}
  - {apiGroups: [""], resources: [nodes/status], verbs: [get, patch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: cni}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cni}
subjects:
  - {kind: User, name: cni, apiGroup: rbac.authorization.k8s.io}
---
apiVersion: v1
kind: Node
metadata:
  name: c2
  labels: {topology.kubernetes.io/region: c, rack: r1}
  annotations: {spanwire.dev/leader: "false", other.io/x: "1"}
---
apiVersion: v1
kind: Node
metadata: {name: a1}
---
apiVersion: spanwire.dev/v1alpha1
kind: Location
metadata: {name: b}
spec:
  nodeSelector: {matchLabels: {site: b}, matchExpressions: [{key: hall, operator: In, values: ["7"]}]}
  leaders: {nodeSelector: {matchLabels: {gateway: "yes"}}}
"#;

/// An administrator, the operator, the kubelet of c2, that of a new node, and the CNI's pod on c2.
#[derive(Clone, Copy)]
pub(crate) enum By {
    Admin,
    Operator,
    Kubelet,
    Newcomer,
    Cni,
}

impl Server {
    pub(crate) fn kubectl(&self, by: By, args: &[&str], input: &str) -> Output {
        let token = match by {
            By::Admin => "test",
            By::Operator => "operator",
            By::Kubelet => "kubelet-c2",
            By::Newcomer => "kubelet-c9",
            By::Cni => "cni",
        };
        let mut child = command(programs().join("kubectl"))
            .arg("--kubeconfig")
            .arg(&self.kubeconfig)
            .args(["--token", token])
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    }

    pub(crate) fn done(&self, by: By, args: &[&str], input: &str) {
        let out = self.kubectl(by, args, input);
        assert!(
            out.status.success(),
            "{args:?}: {}",
            String::from_utf8_lossy(&out.stderr)
        );
    }

    fn refused(&self, by: By, args: &[&str], input: &str, words: &[&str]) {
        let out = self.kubectl(by, args, input);
        let said = String::from_utf8_lossy(&out.stderr);
        assert!(!out.status.success(), "{args:?} {input} was done");
        for word in words {
            assert!(said.contains(word), "{args:?} {input}: no {word:?} in {said}");
        }
    }
}

fn rendered(settings: &[&str]) -> String {
    template("policy", settings)
}

/// One template of the chart, rendered for the release x in the namespace spanwire.
pub(crate) fn template(name: &str, settings: &[&str]) -> String {
    let chart = concat!(env!("CARGO_MANIFEST_DIR"), "/../charts/spanwire");
    let out = command(programs().join("helm"))
        .args([
            "template",
            "x",
            chart,
            "--namespace",
            "spanwire",
            "--show-only",
            &format!("templates/{name}.yaml"),
        ])
        .args(settings)
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

const STATUS: [&str; 5] = ["patch", "node", "c2", "--subresource=status", "--type=merge"];

fn patch<'a>(how: &[&'a str], change: &'a str) -> Vec<&'a str> {
    how.iter().copied().chain(["-p", change]).collect()
}

#[tokio::test]
async fn what_lies_on_the_disk_of_a_node_says_nothing_to_the_mesh_that_an_administrator_has_to_say() {
    let server = Server::start().await;
    server.done(By::Admin, &["apply", "-f", "-"], CLUSTER);
    server.done(
        By::Admin,
        &["apply", "-f", "-"],
        &rendered(&["--set", "kiloAnnotations=true"]),
    );
    let first = [
        "annotate",
        "node",
        "c2",
        "--overwrite",
        "spanwire.dev/endpoint=203.0.113.66:51820",
    ];
    // A policy is in force some moments after it was written.
    let end = Instant::now() + Duration::from_secs(120);
    while server.kubectl(By::Kubelet, &first, "").status.success() {
        server.done(
            By::Admin,
            &["annotate", "node", "c2", "spanwire.dev/endpoint-"],
            "",
        );
        assert!(Instant::now() < end, "the policy is never in force");
        sleep(Duration::from_millis(500)).await;
    }
    let remedy = "let an administrator run: kubectl";
    for by in [By::Kubelet, By::Cni] {
        let says = |what: &str| server.refused(by, &patch(&STATUS, what), "", &[remedy]);
        says(r#"{"metadata": {"annotations": {"spanwire.dev/location": "b"}}}"#);
        says(r#"{"metadata": {"annotations": {"spanwire.dev/leader": null}}}"#);
        says(r#"{"metadata": {"annotations": {"spanwire.dev/leader": "true", "other.io/x": "2"}}}"#);
        says(r#"{"metadata": {"annotations": {"kilo.squat.ai/location": "b"}}}"#);
        says(r#"{"metadata": {"labels": {"spanwire.dev/location": "b"}}}"#);
        says(r#"{"metadata": {"labels": {"topology.kubernetes.io/region": "b"}}}"#);
        says(r#"{"metadata": {"labels": {"topology.kubernetes.io/region": null}}}"#);
        says(
            r#"{"metadata": {"labels": {"node.kubernetes.io/microk8s-controlplane": "microk8s-controlplane"}}}"#,
        );
        says(r#"{"metadata": {"labels": {"site": "b"}}}"#);
        says(r#"{"metadata": {"labels": {"hall": "7"}}}"#);
        says(r#"{"metadata": {"labels": {"gateway": "yes"}}}"#);
    }
    for change in [
        ["annotate", "spanwire.dev/location=b"],
        ["annotate", "spanwire.dev/leader-"],
        ["annotate", "spanwire.dev/internal-ip=192.168.3.12,8.8.8.8"],
        ["label", "topology.kubernetes.io/region=b"],
        ["label", "site=b"],
    ] {
        let [verb, what] = change;
        server.refused(
            By::Kubelet,
            &[verb, "node", "c2", "--overwrite", what],
            "",
            &[remedy, "c2"],
        );
    }
    let pods = r#"{"spec": {"podCIDR": "8.8.8.0/24", "podCIDRs": ["8.8.8.0/24"]}}"#;
    let spec = ["patch", "node", "c2", "--type=merge"];
    server.refused(By::Kubelet, &patch(&spec, pods), "", &["spec.podCIDRs"]);
    let new = |more: &str| format!("apiVersion: v1\nkind: Node\nmetadata: {{name: c9, {more}}}\n");
    let create = ["create", "-f", "-"];
    let annotated = new("annotations: {spanwire.dev/location: b}");
    server.refused(
        By::Newcomer,
        &create,
        &annotated,
        &["spanwire.dev/location", remedy],
    );
    let labelled = new("labels: {spanwire.dev/location: b}");
    server.refused(
        By::Newcomer,
        &create,
        &labelled,
        &["spanwire.dev/location", remedy],
    );
    // What only NodeRestriction keeps them from; the mesh relies on it.
    let role = new(r#"labels: {node-role.kubernetes.io/control-plane: ""}"#);
    server.refused(
        By::Newcomer,
        &create,
        &role,
        &["node-role.kubernetes.io/control-plane"],
    );
    server.refused(By::Kubelet, &["label", "node", "a1", "x=y"], "", &["forbidden"]);

    let heartbeat = r#"{"status": {"conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady",
        "message": "", "lastHeartbeatTime": "2026-01-01T00:00:00Z", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}}"#;
    server.done(By::Kubelet, &patch(&STATUS, heartbeat), "");
    let other =
        r#"{"metadata": {"annotations": {"flannel.alpha.coreos.com/x": "y"}, "labels": {"rack": "r2"}}}"#;
    server.done(By::Cni, &patch(&STATUS, other), "");
    server.done(
        By::Kubelet,
        &["label", "node", "c2", "--overwrite", "rack=r3"],
        "",
    );
    let registers = new(
        "labels: {topology.kubernetes.io/region: c, site: c, node.kubernetes.io/microk8s-controlplane: x}",
    );
    server.done(By::Newcomer, &create, &registers);
    for change in [
        ["annotate", "spanwire.dev/location=b"],
        ["label", "topology.kubernetes.io/region=b"],
        ["label", "site=b"],
    ] {
        let [verb, what] = change;
        server.done(By::Admin, &[verb, "node", "c2", "--overwrite", what], "");
    }
}

#[test]
fn a_cluster_whose_nodes_register_themselves_has_no_policy_on_nodes() {
    assert!(rendered(&[]).contains("[nodes, nodes/status]"));
    let open = rendered(&["--set", "nodeSelfRegistration=true"]);
    assert!(!open.contains("[nodes, nodes/status]") && open.contains("meshnodes/status"));
    assert!(
        !rendered(&[]).contains("kilo.squat.ai"),
        "Kilo's keys are not read, so they may be written"
    );
}
