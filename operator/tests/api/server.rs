//! An API server of one's own.

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api, Client, Config,
    api::{Patch, PatchParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::json;
use spanwire_testbed::command;
use tempfile::TempDir;
use tokio::time::sleep;

/// etcd and a kube-apiserver with the definitions of this tree; gone when dropped.
pub(crate) struct Server {
    pub(crate) client: Client,
    pub(crate) kubeconfig: PathBuf,
    // Dropped in this order: the API server before etcd, the folder last.
    _processes: Vec<Process>,
    _folder: TempDir,
}

/// A process that does not outlive the test.
pub(crate) struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Process {
    /// Starts `program`, which dies with the thread that starts it, whatever becomes of that.
    pub(crate) fn start(
        program: &Path,
        arguments: &[String],
        environment: &[(&str, &Path)],
        log: &Path,
    ) -> Self {
        let log = fs::File::create(log).unwrap();
        let child = command("setpriv")
            .args(["--pdeathsig", "KILL"])
            .arg(program)
            .args(arguments)
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn();
        Self(child.unwrap())
    }

    /// Asks it to end, and waits for that.
    pub(crate) fn terminate(&mut self) -> bool {
        let pid = self.0.id().to_string();
        command("kill").arg(&pid).status().unwrap();
        self.0.wait().unwrap().success()
    }

    /// Whether it has ended by itself.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.0.try_wait().unwrap().is_some()
    }

    /// Waits until it ends by itself.
    pub(crate) fn wait(&mut self) -> bool {
        self.0.wait().unwrap().success()
    }
}

impl Server {
    /// Starts one, with the definitions applied and established.
    pub(crate) async fn start() -> Self {
        let bin = programs();
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let [client, peer, secure] = ports();
        let [client, peer] = [client, peer].map(|port| format!("http://127.0.0.1:{port}"));
        let flags = |pairs: &[(&str, &str)]| -> Vec<String> {
            pairs
                .iter()
                .map(|(flag, value)| format!("--{flag}={value}"))
                .collect()
        };
        let etcd = Process::start(
            &bin.join("etcd"),
            &flags(&[
                ("data-dir", &at("etcd").display().to_string()),
                ("listen-client-urls", &client),
                ("advertise-client-urls", &client),
                ("listen-peer-urls", &peer),
                ("initial-advertise-peer-urls", &peer),
                ("initial-cluster", &format!("default={peer}")),
                ("unsafe-no-fsync", "true"),
            ]),
            &[],
            &at("etcd.log"),
        );
        let key = at("accounts.key").display().to_string();
        let made = command("openssl").args(["genrsa", "-out", &key, "2048"]).output();
        assert!(made.unwrap().status.success(), "openssl makes no key");
        let tokens = "test,admin,admin,system:masters\n\
                      kubelet-c2,system:node:c2,c2,system:nodes\n\
                      kubelet-c9,system:node:c9,c9,system:nodes\n\
                      cni,cni,cni,system:authenticated\n\
                      operator,system:serviceaccount:spanwire:x-spanwire-operator,operator,system:authenticated\n";
        fs::write(at("tokens.csv"), tokens).unwrap();
        let api = Process::start(
            &bin.join("kube-apiserver"),
            &flags(&[
                ("etcd-servers", &client),
                ("secure-port", &secure.to_string()),
                ("bind-address", "127.0.0.1"),
                ("cert-dir", &at("certs").display().to_string()),
                ("token-auth-file", &at("tokens.csv").display().to_string()),
                ("service-account-key-file", &key),
                ("service-account-signing-key-file", &key),
                ("service-account-issuer", "https://kubernetes.default.svc"),
                ("authorization-mode", "RBAC"),
                ("disable-admission-plugins", "ServiceAccount"),
                ("enable-admission-plugins", "NodeRestriction"),
                ("service-cluster-ip-range", "10.96.0.0/16"),
                ("endpoint-reconciler-type", "none"),
            ]),
            &[],
            &at("api.log"),
        );
        let kubeconfig = at("kubeconfig");
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": {
                "server": format!("https://127.0.0.1:{secure}"), "insecure-skip-tls-verify": true,
            }}],
            "users": [{"name": "test", "user": {"token": "test"}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test", "namespace": "default"}}],
        });
        fs::write(&kubeconfig, config.to_string()).unwrap();
        let config = Kubeconfig::read_from(&kubeconfig).unwrap();
        let config = Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await;
        let server = Self {
            client: Client::try_from(config.unwrap()).unwrap(),
            kubeconfig,
            _processes: vec![api, etcd],
            _folder: folder,
        };
        server.ready().await;
        server
    }

    async fn ready(&self) {
        let namespaces: Api<k8s_openapi::api::core::v1::Namespace> = Api::all(self.client.clone());
        until("the API server is ready", async || {
            namespaces.get_opt("default").await.ok().flatten()
        })
        .await;
        let api: Api<CustomResourceDefinition> = Api::all(self.client.clone());
        for definition in spanwire_crds::definitions() {
            let name = definition.metadata.name.clone().unwrap();
            let params = PatchParams::apply("test").force();
            api.patch(&name, &params, &Patch::Apply(&definition))
                .await
                .unwrap_or_else(|error| panic!("{name}: {error}"));
            until("the definition is established", async || {
                let status = api.get(&name).await.ok()?.status?;
                let mut conditions = status.conditions?.into_iter();
                conditions.find(|condition| condition.type_ == "Established" && condition.status == "True")
            })
            .await;
        }
    }

    /// A kubeconfig with another token than the administrator's.
    pub(crate) fn kubeconfig_of(&self, token: &str) -> PathBuf {
        let text = fs::read_to_string(&self.kubeconfig).unwrap();
        let mut config: serde_json::Value = serde_json::from_str(&text).unwrap();
        config["users"][0]["user"]["token"] = token.into();
        let path = self.file(&format!("kubeconfig-{token}"));
        fs::write(&path, config.to_string()).unwrap();
        path
    }

    /// A file of this server's folder, for logs.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.kubeconfig.with_file_name(name)
    }
}

/// Asks until there is an answer.
pub(crate) async fn until<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    // Usually well under a second; several API servers on a busy machine of two cores took a minute.
    let end = Instant::now() + Duration::from_secs(180);
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < end, "not in time: {what}");
        sleep(Duration::from_millis(50)).await;
    }
}

/// Three ports of this machine that are free.
fn ports() -> [u16; 3] {
    let listeners = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}

/// A port of this machine that is free.
pub(crate) fn port() -> u16 {
    ports()[0]
}

pub(crate) fn programs() -> PathBuf {
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("../e2e/tools/build");
    let where_ = command(&tools).arg("--where").output().unwrap();
    let bin = PathBuf::from(String::from_utf8(where_.stdout).unwrap().trim());
    assert!(
        bin.join("etcd").exists() && bin.join("kube-apiserver").exists(),
        "etcd and kube-apiserver are not built yet; run e2e/tools/build (12 minutes, once), or `make e2e`"
    );
    bin
}
