//! The network namespace, and the real programs in it.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api, Client, Config,
    api::{Patch, PatchParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use nix::sched::{CloneFlags, unshare};
use serde_json::json;
use spanwire_e2e::{Cmd, Progress};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::{nodes, process::Process};

const API: u16 = 6443;

/// What runs, and where its files are.
pub(crate) struct Cluster {
    pub(crate) client: Client,
    // Dropped in this order: those that ask before those that answer, the folder last.
    pub(crate) agent: Process,
    pub(crate) tunnel: Process,
    pub(crate) operator: Process,
    pub(crate) api: Process,
    etcd: Process,
    folder: TempDir,
}

/// Enters a network namespace of its own, with devices like those of a node in it: a LAN, and flannel's.
pub(crate) fn enter_network() -> Result<()> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "a network namespace and the agent in it need root"
    );
    unshare(CloneFlags::CLONE_NEWNET).context("no network namespace")?;
    let address = nodes::address(0);
    let script = format!(
        "ip link set lo up\n\
         ip link add name eth0 type veth peer name lan\n\
         ip link set eth0 up\nip link set lan up\n\
         ip address add {address}/24 dev eth0\n\
         ip route add default dev eth0\n\
         ip link add name flannel.1 type vxlan id 1 dev eth0 dstport 8472 nolearning\n\
         ip address add {}/32 dev flannel.1\n\
         ip link set flannel.1 up\n",
        nodes::hop_address(0)
    );
    Cmd::of(["sh", "-e"]).input(script).run().map(drop)
}

impl Cluster {
    /// Starts everything. The agent is that of node 0, which does not exist yet.
    pub(crate) async fn start(tools: &Path, programs: &Path, progress: &Progress) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let at = |name: &str| folder.path().join(name);
        let start = |program: PathBuf, arguments: Vec<String>, name: &str| {
            Process::start(
                &program,
                &arguments,
                &at("kubeconfig"),
                at(&format!("{name}.log")),
            )
        };
        fs::write(at("kubeconfig"), kubeconfig().to_string())?;
        let etcd = start(tools.join("etcd"), etcd_flags(folder.path()), "etcd")?;
        prepare(folder.path())?;
        let api = start(
            tools.join("kube-apiserver"),
            api_flags(folder.path()),
            "kube-apiserver",
        )?;
        let config = Kubeconfig::read_from(at("kubeconfig"))?;
        let config = Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await?;
        let client = Client::try_from(config)?;
        let ready = definitions(&client).await;
        if ready.is_err() {
            progress.say(&api.last_words());
        }
        ready?;
        let operator = vec![
            "--identity=one".to_owned(),
            "--status-address=127.0.0.1:9478".to_owned(),
        ];
        let operator = start(programs.join("spanwire-operator"), operator, "operator")?;
        let sockets = at("wireguard");
        fs::create_dir(&sockets)?;
        let tunnel = vec![
            "serve".to_owned(),
            format!("--control={}", at("tunnel.sock").display()),
            format!("--socket-dir={}", sockets.display()),
        ];
        let tunnel = start(programs.join("spanwire-tunnel"), tunnel, "tunnel")?;
        let agent = vec![
            format!("--node-name={}", nodes::name(0)),
            "--namespace=default".to_owned(),
            format!("--state-dir={}", at("state").display()),
            "--backend=userspace".to_owned(),
            format!("--tunnel-socket={}", at("tunnel.sock").display()),
            format!("--wireguard-socket-dir={}", sockets.display()),
        ];
        fs::create_dir(at("state"))?;
        let agent = start(programs.join("spanwire-agent"), agent, "agent")?;
        progress.say("etcd, API server, operator, tunnel and agent run");
        Ok(Self {
            client,
            agent,
            tunnel,
            operator,
            api,
            etcd,
            folder,
        })
    }

    /// Returns the socket at which the agent's WireGuard device is asked.
    pub(crate) fn device(&self) -> PathBuf {
        self.folder.path().join("wireguard/spanwire0.sock")
    }

    /// Returns the end of every log.
    pub(crate) fn last_words(&self) -> String {
        let all = [&self.etcd, &self.api, &self.operator, &self.tunnel, &self.agent];
        all.map(Process::last_words).concat()
    }
}

fn kubeconfig() -> serde_json::Value {
    json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "bench",
        "clusters": [{"name": "bench", "cluster": {
            "server": format!("https://127.0.0.1:{API}"), "insecure-skip-tls-verify": true,
        }}],
        "users": [{"name": "bench", "user": {"token": "bench"}}],
        "contexts": [{"name": "bench", "context": {"cluster": "bench", "user": "bench", "namespace": "default"}}],
    })
}

/// What the API server reads: a token, and the key of service accounts.
fn prepare(folder: &Path) -> Result<()> {
    fs::write(folder.join("tokens.csv"), "bench,admin,admin,system:masters\n")?;
    let key = folder.join("accounts.key");
    Cmd::of(["openssl", "genrsa", "-out"])
        .arg(key)
        .arg("2048")
        .run()
        .map(drop)
}

fn flags(pairs: &[(&str, &str)]) -> Vec<String> {
    let flag = |(name, value): &(&str, &str)| format!("--{name}={value}");
    pairs.iter().map(flag).collect()
}

fn etcd_flags(folder: &Path) -> Vec<String> {
    flags(&[
        ("data-dir", &folder.join("etcd").display().to_string()),
        ("listen-client-urls", "http://127.0.0.1:2379"),
        ("advertise-client-urls", "http://127.0.0.1:2379"),
        ("listen-peer-urls", "http://127.0.0.1:2380"),
        ("initial-advertise-peer-urls", "http://127.0.0.1:2380"),
        ("initial-cluster", "default=http://127.0.0.1:2380"),
        ("unsafe-no-fsync", "true"),
        ("log-level", "warn"),
        // What churn writes must not fill the disk.
        ("auto-compaction-retention", "5m"),
    ])
}

fn api_flags(folder: &Path) -> Vec<String> {
    let key = folder.join("accounts.key").display().to_string();
    flags(&[
        ("etcd-servers", "http://127.0.0.1:2379"),
        ("secure-port", &API.to_string()),
        ("bind-address", "127.0.0.1"),
        ("cert-dir", &folder.join("certs").display().to_string()),
        (
            "token-auth-file",
            &folder.join("tokens.csv").display().to_string(),
        ),
        ("service-account-key-file", &key),
        ("service-account-signing-key-file", &key),
        ("service-account-issuer", "https://kubernetes.default.svc"),
        ("authorization-mode", "RBAC"),
        ("disable-admission-plugins", "ServiceAccount"),
        ("service-cluster-ip-range", "10.96.0.0/16"),
        ("endpoint-reconciler-type", "none"),
        ("profiling", "false"),
    ])
}

/// Waits for the API server and gives it the definitions of this tree.
async fn definitions(client: &Client) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(120);
    let namespaces: Api<k8s_openapi::api::core::v1::Namespace> = Api::all(client.clone());
    while !matches!(namespaces.get_opt("default").await, Ok(Some(_))) {
        ensure!(Instant::now() < deadline, "the API server is not ready");
        sleep(Duration::from_millis(100)).await;
    }
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    for definition in spanwire_crds::definitions() {
        let name = definition
            .metadata
            .name
            .clone()
            .context("a definition has a name")?;
        let params = PatchParams::apply("bench").force();
        api.patch(&name, &params, &Patch::Apply(&definition)).await?;
        while !established(&api.get(&name).await?) {
            ensure!(Instant::now() < deadline, "{name} is not established");
            sleep(Duration::from_millis(100)).await;
        }
    }
    Ok(())
}

fn established(definition: &CustomResourceDefinition) -> bool {
    let conditions = definition
        .status
        .iter()
        .flat_map(|status| &status.conditions)
        .flatten();
    conditions
        .into_iter()
        .any(|condition| condition.type_ == "Established" && condition.status == "True")
}
