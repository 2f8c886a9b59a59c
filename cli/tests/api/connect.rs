//! `connect`: the program, an API server, and two leaders that really answer. The test decides as the operator would.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::{fs::MetadataExt as _, net::UnixStream},
    path::{Path, PathBuf},
    process::{Child, Stdio},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde_json::json;
use spanwire_crds::{LocationSlice, Peer, names::CONNECTED_LABEL};
use spanwire_testbed::{Command, isolated, wait_until};
use spanwire_topology::PublicKey;

use crate::{
    cli, create, ours,
    peers::services_are_known,
    server::{Server, until},
    world::{Leader, POD, SOON, pings, run, tunnel},
};

/// The program while it runs.
struct Running {
    child: Child,
    said: PathBuf,
}

impl Running {
    fn said(&self) -> String {
        fs::read_to_string(&self.said).unwrap()
    }

    /// Waits until it ends; its exit code and what it said.
    fn end(mut self) -> (i32, String) {
        let mut code = None;
        wait_until("it ends", SOON, || {
            code = self.child.try_wait().unwrap();
            code.is_some()
        });
        (code.unwrap().code().unwrap_or(-1), self.said())
    }
}

struct Scene {
    server: Server,
    peers: Api<Peer>,
    leaders: Vec<Leader>,
    folder: tempfile::TempDir,
}

impl Scene {
    fn start(&self) -> Running {
        let said = self.folder.path().join("said");
        let file = fs::File::create(&said).unwrap();
        let words = [
            "connect",
            "--name",
            "laptop",
            "--location",
            "a",
            "--service-cidr",
            "--tunnel",
        ];
        let command = Command::new(env!("CARGO_BIN_EXE_kubectl-spanwire"));
        let command = command
            .arg("--kubeconfig")
            .arg(&self.server.kubeconfig)
            .args(words);
        let command = command.arg(tunnel()).stdout(file.try_clone().unwrap());
        let child = command.stderr(Stdio::from(file)).spawn();
        Running { child, said }
    }

    /// Waits for a Peer with another key than this.
    async fn created(&self, other: Option<PublicKey>) -> (Peer, PublicKey) {
        until("the Peer is there", async || {
            let peer = self.peers.get_opt("laptop").await.ok().flatten()?;
            let key = peer.spec.public_key.parse().ok()?;
            (Some(key) != other).then_some((peer, key))
        })
        .await
    }

    async fn patch_status(&self, status: serde_json::Value) {
        let patch = Patch::Merge(json!({"status": status}));
        let patched = self
            .peers
            .patch_status("laptop", &PatchParams::default(), &patch)
            .await;
        patched.unwrap();
    }

    async fn accept(&self, peer: &Peer) {
        let spec = &peer.spec;
        let accepted = json!({"publicKey": spec.public_key, "allowedIPs": spec.allowed_ips, "home": "a",
            "attachments": ["a"]});
        self.patch_status(json!({"accepted": accepted})).await;
    }

    /// Publishes who leads.
    async fn lead(&self, active: &str, standby: &str) {
        let slices: Api<LocationSlice> = Api::all(self.server.client.clone());
        let leaders = json!([{"node": active, "role": "Active"}, {"node": standby, "role": "Standby"}]);
        let head = json!({"meshGeneration": 2, "leaders": leaders, "memberSlices": ["a-m1"]});
        let patch = Patch::Merge(json!({"spec": {"head": head}}));
        slices
            .patch("a-head", &PatchParams::default(), &patch)
            .await
            .unwrap();
    }
}

fn traces() -> String {
    run("ip -o link show | grep spanwire-peer || true
         ip rule | grep 51832 || true
         ip route show table 51832 2>/dev/null || true")
}

async fn scene() -> Scene {
    let folder = tempfile::tempdir().unwrap();
    let stranger = PublicKey::new([7; 32]);
    let leaders: Vec<Leader> = (1..=2)
        .map(|number| Leader::new(folder.path(), number, stranger))
        .collect();
    // Without one the API server finds no address of its own. It leads nowhere.
    run("ip route add default via 172.30.1.99");
    let server = Server::start().await;
    let members: Vec<_> = ["a1", "a2"]
        .iter()
        .zip(&leaders)
        .enumerate()
        .map(|(index, (node, leader))| {
            json!({"node": node, "generation": 1, "addresses": [format!("192.168.1.1{index}")],
                "prefixes": [format!("10.244.{}.0/24", index + 1)], "overlay": [format!("10.4.0.{}", index + 1)],
                "publicKey": leader.key.to_string(), "listenPort": 51820,
                "endpoints": [format!("{}:51820", leader.address)]})
        })
        .collect();
    let head = json!({"location": "a", "head": {"meshGeneration": 1, "memberSlices": ["a-m1"],
        "leaders": [{"node": "a1", "role": "Active"}, {"node": "a2", "role": "Standby"}]}});
    create::<LocationSlice>(&server, ours("LocationSlice", "a-head", head, None)).await;
    let members = json!({"location": "a", "members": members});
    create::<LocationSlice>(&server, ours("LocationSlice", "a-m1", members, None)).await;
    Scene {
        peers: Api::all(server.client.clone()),
        server,
        leaders,
        folder,
    }
}

#[test]
fn a_machine_joins_follows_the_leader_and_leaves_and_a_killed_one_is_cleaned_up() {
    isolated(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let scene = scene().await;
            refusals(&scene).await;
            let key = joins_and_follows(&scene).await;
            let key = is_cleaned_up_after_a_kill(&scene, key).await;
            is_revoked(&scene, key).await;
            leaves(&scene).await;
        });
    });
}

async fn refusals(scene: &Scene) {
    let (kubeconfig, folder) = (&scene.server.kubeconfig, scene.folder.path());
    let refused = |kubeconfig: &Path, words: &[&str]| {
        let program = tunnel().display().to_string();
        let all = [&["connect", "--tunnel", &program], words].concat();
        let (code, said) = cli(kubeconfig, folder, &all);
        assert_eq!(code, 1, "{said}");
        assert_eq!(traces(), "");
        said
    };
    let other = json!({"publicKey": crate::KEY[0], "allowedIPs": ["10.99.0.8/32"]});
    create::<Peer>(&scene.server, ours("Peer", "office", other, None)).await;
    let said = refused(kubeconfig, &["--name", "office"]);
    assert!(
        said.contains("there is a Peer office already, which this machine has not created"),
        "{said}"
    );
    let said = refused(kubeconfig, &["--name", "x", "--allowed-ip", "10.244.2.7/32"]);
    assert!(said.contains("10.244.2.0/24 (pods of the node a2)"), "{said}");
    let said = refused(kubeconfig, &["--name", "x", "--allowed-ip", "172.30.1.9/32"]);
    assert!(
        said.contains("172.30.1.1/24 of this machine's device wire1"),
        "{said}"
    );
    let said = refused(kubeconfig, &["--name", "x", "--service-cidr", "172.30.0.0/16"]);
    assert!(
        said.contains("172.30.0.0/16 (--service-cidr)") && said.contains("wire"),
        "{said}"
    );
    let said = refused(&scene.server.kubeconfig_of("cni"), &["--name", "x"]);
    assert!(
        said.contains("docs/cli.md names the rights") && said.contains("peers"),
        "{said}"
    );
    scene
        .peers
        .delete("office", &DeleteParams::default())
        .await
        .unwrap();

    services_are_known(&scene.server).await;
    let said = refused(kubeconfig, &["--name", "x", "--pool", "10.96.0.0/16"]);
    assert!(
        said.contains("no address of 10.96.0.0/16 is free, which lies in 10.96.0.0/16"),
        "{said}"
    );

    // What the operator does not grant is said, and the Peer goes again.
    let running = scene.start();
    scene.created(None).await;
    let condition = |about: &str, message: &str| {
        json!({"type": about, "status": "False", "reason": "PrefixTaken", "message": message,
            "lastTransitionTime": "2026-01-01T00:00:00Z"})
    };
    let conditions = [
        condition("Ready", "was not accepted"),
        condition("Accepted", "it is another's"),
    ];
    scene.patch_status(json!({"conditions": conditions})).await;
    let (code, said) = running.end();
    assert!(
        code == 1 && said.contains("the Peer is not served: it is another's"),
        "{code} {said}"
    );
    assert!(scene.peers.get_opt("laptop").await.unwrap().is_none(), "{said}");
}

async fn joins_and_follows(scene: &Scene) -> PublicKey {
    let mut running = scene.start();
    let (peer, key) = scene.created(None).await;
    assert_eq!(peer.spec.allowed_ips, ["10.199.0.1/32"]);
    assert!(
        peer.metadata
            .labels
            .as_ref()
            .unwrap()
            .contains_key(CONNECTED_LABEL)
    );
    scene.leaders[0].know(&key);
    scene.accept(&peer).await;
    wait_until("the pod answers", SOON, || pings(POD));
    wait_until("it says so", SOON, || {
        running
            .said()
            .contains("location a: connected by a1 at 172.30.1.2:51820")
    });
    assert!(
        run("ip route get 10.96.0.1").contains("dev spanwire-peer"),
        "services"
    );
    no_file_has_the_key();

    scene.leaders[0].forget(&key);
    scene.leaders[1].know(&key);
    scene.lead("a2", "a1").await;
    let at_once = || {
        let ping = Command::new("ping").args(["-q", "-c", "1", "-W", "0.05", POD]);
        ping.succeeds()
    };
    let took = wait_until("the pod answers by the other leader", SOON, at_once);
    eprintln!("another leader was in use {took:?} after it was published");
    assert!(took < Duration::from_secs(5), "{took:?}: {}", running.said());
    assert!(scene.leaders[1].received() > 0);
    wait_until("it says so", SOON, || {
        running
            .said()
            .contains("location a: connected by a2 at 172.30.2.2:51820")
    });
    running.child.kill().unwrap();
    running.child.wait().unwrap();
    key
}

/// The device has the private key, and the folder for what has to be found again has not.
fn no_file_has_the_key() {
    let namespace = fs::metadata("/proc/thread-self/ns/net").unwrap().ino();
    let folder = PathBuf::from(format!("/run/spanwire-connect/{namespace}"));
    assert_eq!(fs::metadata(&folder).unwrap().mode() & 0o777, 0o700);
    let mut device = UnixStream::connect(folder.join("spanwire-peer.sock")).unwrap();
    device.write_all(b"get=1\n\n").unwrap();
    let mut lines = BufReader::new(device).lines().map(Result::unwrap);
    let hex = lines.find_map(|line| line.strip_prefix("private_key=").map(str::to_owned));
    let hex = hex.unwrap();
    let bytes: Vec<u8> = (0..32)
        .map(|index| u8::from_str_radix(&hex[2 * index..2 * index + 2], 16).unwrap())
        .collect();
    let base64 = STANDARD.encode(&bytes);
    let files = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
    let files: Vec<PathBuf> = files.filter(|path| path.is_file()).collect();
    assert!(files.iter().any(|path| path.ends_with("peer.json")), "{files:?}");
    for path in files {
        let content = fs::read(&path).unwrap();
        let has = |key: &[u8]| content.windows(key.len()).any(|part| part == key);
        assert!(
            !has(&bytes) && !has(hex.as_bytes()) && !has(base64.as_bytes()),
            "{path:?}"
        );
    }
}

async fn is_cleaned_up_after_a_kill(scene: &Scene, before: PublicKey) -> PublicKey {
    wait_until("the device goes with its process", SOON, || {
        !run("ip -o link show").contains("spanwire-peer")
    });
    assert!(traces().contains("unreachable 10.244.1.0/24") && !pings(POD));
    assert!(scene.peers.get_opt("laptop").await.unwrap().is_some());

    let mut running = scene.start();
    let (peer, key) = scene.created(Some(before)).await;
    let said = running.said();
    for line in [
        "removed what a run that did not end by itself had left on this machine",
        "peer.spanwire.dev/laptop deleted, which a run that did not end by itself had left",
    ] {
        assert!(said.contains(line), "{said}");
    }
    scene.leaders[1].know(&key);
    scene.accept(&peer).await;
    wait_until("the pod answers", SOON, || pings(POD));

    // Without what it remembers, as after a boot, the label says whose the Peer is.
    running.child.kill().unwrap();
    running.child.wait().unwrap();
    let namespace = fs::metadata("/proc/thread-self/ns/net").unwrap().ino();
    fs::remove_file(format!("/run/spanwire-connect/{namespace}/peer.json")).unwrap();
    key
}

async fn is_revoked(scene: &Scene, before: PublicKey) {
    let running = scene.start();
    let (peer, key) = scene.created(Some(before)).await;
    assert!(
        running
            .said()
            .contains("peer.spanwire.dev/laptop deleted, which an earlier run on this machine had created"),
        "{}",
        running.said()
    );
    scene.leaders[1].know(&key);
    scene.accept(&peer).await;
    wait_until("the pod answers", SOON, || pings(POD));
    scene
        .peers
        .delete("laptop", &DeleteParams::default())
        .await
        .unwrap();
    let (code, said) = running.end();
    assert!(
        code == 1 && said.contains("the Peer laptop was deleted: this machine is not in the mesh any more"),
        "{code} {said}"
    );
    assert_eq!(traces(), "");
}

async fn leaves(scene: &Scene) {
    let running = scene.start();
    let (peer, key) = scene.created(None).await;
    scene.leaders[1].know(&key);
    scene.accept(&peer).await;
    wait_until("the pod answers", SOON, || pings(POD));
    run(&format!("kill -INT {}", running.child.id()));
    let (code, said) = running.end();
    assert!(
        code == 0 && said.contains("peer.spanwire.dev/laptop deleted"),
        "{code} {said}"
    );
    assert_eq!(traces(), "");
    assert!(scene.peers.get_opt("laptop").await.unwrap().is_none());
    // Nothing is left to find.
    let created = scene
        .peers
        .create(&PostParams::default(), &Peer::new("laptop", peer.spec))
        .await;
    created.unwrap();
    let running = scene.start();
    let (code, said) = running.end();
    assert!(
        code == 1 && said.contains("which this machine has not created"),
        "{code} {said}"
    );
}
