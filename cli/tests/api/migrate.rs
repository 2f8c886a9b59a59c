//! `migrate kilo`: its script, run by bash with the lab's kubectl and helm. The test does what controllers and kubelets would.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use k8s_openapi::{
    api::{
        apps::v1::{DaemonSet, Deployment},
        core::v1::{Node, Secret},
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
    core::{ApiResource, DynamicObject, GroupVersionKind},
};
use serde_json::{Value, json};
use spanwire_crds::Peer;
use spanwire_testbed::Command;

use crate::{
    KEY, create,
    server::{Server, programs, until},
};

const PRESHARED: &str = "CQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQk=";

/// Kilo, its annotations, and a Peer of its own.
async fn kilo(server: &Server) -> Api<DynamicObject> {
    for (node, location) in [("n1", "EU_West"), ("n2", "office")] {
        let annotations =
            json!({"kilo.squat.ai/location": location, "kilo.squat.ai/force-endpoint": "203.0.113.1:51821"});
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": node, "annotations": annotations}});
        create::<Node>(server, node).await;
    }
    let labels = json!({"app.kubernetes.io/name": "kilo"});
    let container =
        json!({"name": "kilo", "image": "squat/kilo:0.6.0", "args": ["--cni=false", "--port=51821"]});
    let set = json!({"metadata": {"name": "kilo"}, "spec": {"selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}}}});
    let sets: Api<DaemonSet> = Api::namespaced(server.client.clone(), "kube-system");
    let params = PostParams::default();
    sets.create(&params, &serde_json::from_value(set).unwrap())
        .await
        .unwrap();

    let schema = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let definition = json!({"metadata": {"name": "peers.kilo.squat.ai"}, "spec": {"group": "kilo.squat.ai",
        "names": {"kind": "Peer", "plural": "peers"}, "scope": "Cluster",
        "versions": [{"name": "v1alpha1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}]}});
    let definitions: Api<CustomResourceDefinition> = Api::all(server.client.clone());
    definitions
        .create(&params, &serde_json::from_value(definition).unwrap())
        .await
        .unwrap();
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("kilo.squat.ai", "v1alpha1", "Peer"));
    let peers: Api<DynamicObject> = Api::all_with(server.client.clone(), &resource);
    let peer = json!({"apiVersion": "kilo.squat.ai/v1alpha1", "kind": "Peer", "metadata": {"name": "laptop"},
        "spec": {"publicKey": KEY[0], "allowedIPs": ["10.5.0.1/32"], "presharedKey": PRESHARED}});
    let peer: DynamicObject = serde_json::from_value(peer).unwrap();
    until("Kilo's Peers are served", async || {
        peers.create(&params, &peer).await.ok()
    })
    .await;
    peers
}

/// Has every DaemonSet run, but for the removal while `stuck`: then one of its two pods is not ready.
async fn controllers(client: Client, stuck: Arc<AtomicBool>) {
    let sets: Api<DaemonSet> = Api::all(client.clone());
    loop {
        for set in sets
            .list(&ListParams::default())
            .await
            .map(|list| list.items)
            .unwrap_or_default()
        {
            let (name, space) = (set.metadata.name.unwrap(), set.metadata.namespace.unwrap());
            let api: Api<DaemonSet> = Api::namespaced(client.clone(), &space);
            let params = PatchParams::default();
            if set.metadata.deletion_timestamp.is_some() {
                let patch = Patch::Merge(json!({"metadata": {"finalizers": null}}));
                let _gone = api.patch(&name, &params, &patch).await;
                continue;
            }
            let missing = i32::from(name == "kilo-removal" && stuck.load(Ordering::Relaxed));
            let status = json!({"observedGeneration": set.metadata.generation, "currentNumberScheduled": 2,
                "desiredNumberScheduled": 2, "updatedNumberScheduled": 2, "numberMisscheduled": 0,
                "numberReady": 2 - missing, "numberAvailable": 2 - missing});
            let _gone = api
                .patch_status(&name, &params, &Patch::Merge(json!({"status": status})))
                .await;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// A `helm` that is the lab's but does not wait: what it would wait for nothing here makes.
fn impatient_helm(folder: &Path) {
    let script = format!(
        "#!/bin/bash\necho \"$*\" >>{log}\nwords=()\nwhile [ $# != 0 ]; do\n  case $1 in\n  --wait) ;;\n  --timeout) shift ;;\n  \
         *) words+=(\"$1\") ;;\n  esac\n  shift\ndone\nexec {helm} \"${{words[@]}}\"\n",
        log = folder.join("helm.log").display(),
        helm = programs().join("helm").display()
    );
    let path = folder.join("helm");
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

struct Scene {
    server: Server,
    folder: tempfile::TempDir,
}

impl Scene {
    /// The script, and what is said beside it.
    fn script(&self) -> (String, String) {
        let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/spanwire");
        let output = Command::new(env!("CARGO_BIN_EXE_kubectl-spanwire"))
            .args(["migrate", "kilo", "-n", "mesh", "--kubeconfig"])
            .arg(&self.server.kubeconfig)
            .arg("--chart")
            .arg(chart.canonicalize().unwrap())
            .output();
        let texts = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
        assert!(output.status.success(), "{texts:?}");
        let [script, notes] = texts;
        (script, notes)
    }

    /// Runs a script; whether all of it was done, and what it said.
    async fn run(&self, script: &str, timeout: &str) -> (bool, String) {
        let path = [
            self.folder.path().display().to_string(),
            programs().display().to_string(),
            std::env::var("PATH").unwrap(),
        ];
        let file = self.folder.path().join("migrate.sh");
        fs::write(&file, script).unwrap();
        let line = format!(
            "export PATH={} HOME={}; bash {} 2>&1",
            path.join(":"),
            self.folder.path().display(),
            file.display()
        );
        let command = Command::new("bash")
            .args(["-c", &line])
            .env("KUBECONFIG", &self.server.kubeconfig)
            .env("TIMEOUT", timeout);
        let output = tokio::task::spawn_blocking(|| command.output()).await.unwrap();
        (output.status.success(), String::from_utf8(output.stdout).unwrap())
    }

    fn api<K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>>(
        &self,
        space: &str,
    ) -> Api<K> {
        Api::namespaced(self.server.client.clone(), space)
    }

    /// The preshared keys that leaders would read.
    async fn secret(&self) -> Value {
        let secret = self
            .api::<Secret>("mesh")
            .get("spanwire-preshared-keys")
            .await
            .unwrap();
        let texts = secret.data.unwrap().into_iter();
        texts
            .map(|(key, bytes)| (key, Value::from(String::from_utf8(bytes.0).unwrap())))
            .collect()
    }

    fn helm_was_asked_to_install(&self) -> bool {
        let log = fs::read_to_string(self.folder.path().join("helm.log")).unwrap_or_default();
        log.contains("upgrade --install")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_script_migrates_step_by_step_and_can_be_run_again() {
    let server = Server::start().await;
    let folder = tempfile::tempdir().unwrap();
    let kilos = kilo(&server).await;
    impatient_helm(folder.path());
    let stuck = Arc::new(AtomicBool::new(true));
    tokio::spawn(controllers(server.client.clone(), Arc::clone(&stuck)));
    let scene = Scene { server, folder };
    let (script, notes) = scene.script();
    assert!(
        notes.contains("EU_West becomes eu-west") && notes.contains("kilo0 has addresses"),
        "{notes}"
    );
    assert!(!script.contains(PRESHARED), "{script}");

    // A node keeps its kilo0: Kilo is out, and Spanwire does not come in.
    let (done, said) = scene.run(&script, "5s").await;
    assert!(
        !done && said.contains("not every node is known to be without kilo0"),
        "{said}"
    );
    let nodes: Api<Node> = Api::all(scene.server.client.clone());
    for (node, location) in [("n1", "eu-west"), ("n2", "office")] {
        let annotations = nodes.get(node).await.unwrap().metadata.annotations.unwrap();
        assert_eq!(annotations["spanwire.dev/location"], location, "{said}");
        assert_eq!(annotations["spanwire.dev/endpoint"], "203.0.113.1:51821");
    }
    let sets = scene.api::<DaemonSet>("kube-system");
    assert!(sets.get_opt("kilo").await.unwrap().is_none(), "{said}");
    assert!(sets.get_opt("kilo-removal").await.unwrap().is_some(), "{said}");
    assert!(!scene.helm_was_asked_to_install(), "{said}");

    // It is mended: the rest is done.
    stuck.store(false, Ordering::Relaxed);
    let (done, said) = scene.run(&script, "60s").await;
    assert!(done, "{said}");
    assert!(sets.get_opt("kilo-removal").await.unwrap().is_none(), "{said}");
    let deployments = scene
        .api::<Deployment>("mesh")
        .list(&ListParams::default())
        .await
        .unwrap();
    let deployments = json!(deployments.items).to_string();
    assert!(deployments.contains("--listen-port=51821"), "{deployments}");
    assert_eq!(scene.secret().await, json!({"laptop": PRESHARED}));
    let peers: Api<Peer> = Api::all(scene.server.client.clone());
    let spec = json!(peers.get("laptop").await.unwrap().spec);
    let reference = json!({"name": "spanwire-preshared-keys", "key": "laptop"});
    assert_eq!(
        (&spec["publicKey"], &spec["presharedKeySecretRef"]),
        (&json!(KEY[0]), &reference)
    );

    // Once more: what is there meanwhile stays.
    let other = Patch::Merge(json!({"stringData": {"phone": "other"}}));
    let secrets = scene.api::<Secret>("mesh");
    secrets
        .patch("spanwire-preshared-keys", &PatchParams::default(), &other)
        .await
        .unwrap();
    let (done, said) = scene.run(&script, "60s").await;
    assert!(done, "{said}");
    let both = json!({"laptop": PRESHARED, "phone": "other"});
    assert_eq!(scene.secret().await, both);

    // And when Kilo's Peer is gone: no key is replaced by nothing.
    kilos.delete("laptop", &DeleteParams::default()).await.unwrap();
    let (done, said) = scene.run(&script, "60s").await;
    assert!(!done && said.contains("not found"), "{said}");
    assert_eq!(scene.secret().await, both);
}
