//! A machine, which is the namespace of the test's thread, and two leaders, each behind a wire of its own.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    sync::Once,
    time::Duration,
};

use spanwire_cli::{
    connect::{Own, Party, Past, host},
    keypair::KeyPair,
    machine::{Machine, free_port},
};
use spanwire_host::{Host, Owned};
use spanwire_testbed::{Command, Namespace, command, isolated, wait_until};
use spanwire_topology::{Prefix, PublicKey};
use tempfile::TempDir;

/// The address of this machine in the mesh, and of the pod that each leader has.
pub(crate) const OWN: &str = "10.199.0.1/32";
pub(crate) const POD: &str = "10.244.1.1";
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// A leader: it has the pod, and knows this machine.
pub(crate) struct Leader {
    pub(crate) host: Namespace,
    pub(crate) key: PublicKey,
    pub(crate) address: String,
    device: String,
    _process: Child,
}

pub(crate) struct World {
    pub(crate) folder: TempDir,
    pub(crate) pair: KeyPair,
    pub(crate) leaders: Vec<Leader>,
}

/// Runs a test on a machine of its own.
pub(crate) fn world(test: impl AsyncFnOnce(&World) + Send + 'static) {
    isolated(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let world = World::new();
        runtime.block_on(test(&world));
    });
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let pair = KeyPair::generate().unwrap();
        let public = pair.public;
        let leaders = (1..=2).map(|number| Leader::new(folder.path(), number, public));
        let leaders = leaders.collect();
        Self {
            leaders,
            folder,
            pair,
        }
    }

    pub(crate) async fn open(&self) -> Machine {
        let mut machine = self.try_open().await.unwrap();
        if by_kernel() {
            assert_eq!(machine.wireguard(), "the kernel's WireGuard");
        }
        machine.set_key(self.pair.of_device());
        machine
    }

    pub(crate) async fn try_open(&self) -> anyhow::Result<Machine> {
        let tunnel = (!by_kernel()).then(tunnel);
        Machine::open(self.folder.path(), tunnel.as_deref()).await
    }

    /// What the machine is to have, with everything behind this leader.
    pub(crate) fn wanted(&self, leader: &Leader, allowed: &[&str]) -> Host {
        let own = Own {
            public_key: self.pair.public,
            listen_port: free_port().unwrap(),
            mtu: 1420,
            addresses: [OWN.parse().unwrap()].into(),
            ipv6: true,
        };
        let endpoint = format!("{}:51820", leader.address).parse().unwrap();
        let mesh: BTreeSet<Prefix> = allowed.iter().map(|prefix| prefix.parse().unwrap()).collect();
        let party = Party {
            key: leader.key,
            endpoint: Some(endpoint),
            allowed_ips: mesh.clone(),
            mtu: None,
        };
        host(
            &Owned::of_peer(),
            &own,
            &[party],
            &mesh,
            &[Past::Leader(endpoint)].into(),
        )
    }
}

impl Leader {
    pub(crate) fn new(folder: &Path, number: u8, machine: PublicKey) -> Self {
        let host = Namespace::new();
        let (near, address) = (format!("172.30.{number}.1"), format!("172.30.{number}.2"));
        let (pid, device) = (host.pid(), format!("swl{number}x{}", host.pid()));
        run(&format!(
            "ip link add wire{number} type veth peer name wire netns {pid}
             ip address add {near}/24 dev wire{number}; ip link set wire{number} up"
        ));
        host.run(&format!(
            "ip address add {address}/24 dev wire; ip link set wire up; ip address add {POD}/32 dev lo"
        ));
        let process = host
            .command(tunnel().to_str().unwrap())
            .args(["-f", &device])
            .stderr(Stdio::null())
            .spawn();
        let socket = PathBuf::from(format!("/var/run/wireguard/{device}.sock"));
        wait_until("the leader's device", SOON, || socket.exists());
        let private = folder.join(format!("key{number}"));
        let at = private.display();
        let key = run(&format!("umask 077; wg genkey > {at}; wg pubkey < {at}"));
        host.run(&format!(
            "wg set {device} private-key {at} listen-port 51820
             ip link set {device} up; ip route add {OWN} dev {device}"
        ));
        let leader = Self {
            host,
            key: key.trim().parse().unwrap(),
            address,
            device,
            _process: process,
        };
        leader.know(&machine);
        leader
    }

    /// It talks to this machine.
    pub(crate) fn know(&self, machine: &PublicKey) {
        let device = &self.device;
        self.host
            .run(&format!("wg set {device} peer {machine} allowed-ips {OWN}"));
    }

    /// How much has come to it out of the tunnel.
    pub(crate) fn received(&self) -> u64 {
        let shown = self.host.run(&format!("wg show {} transfer", self.device));
        let peers = shown.lines();
        let received = peers.map(|line| line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap());
        received.sum()
    }

    /// It does not know this machine any more.
    pub(crate) fn forget(&self, machine: &PublicKey) {
        self.host
            .run(&format!("wg set {} peer {machine} remove", self.device));
    }
}

/// Whether the kernel's WireGuard carries the packets of this machine, as where no tunnel is named; else `spanwire-tunnel` does.
pub(crate) fn by_kernel() -> bool {
    std::env::var_os("SPANWIRE_TEST_BACKEND").is_some_and(|backend| backend == "kernel")
}

/// Runs lines of shell on this machine.
#[track_caller]
pub(crate) fn run(script: &str) -> String {
    Command::shell(script).run()
}

/// Whether an echo request to this address is answered.
pub(crate) fn pings(to: &str) -> bool {
    Command::new("ping")
        .args(["-q", "-c", "1", "-W", "1", to])
        .succeeds()
}

/// The tunnel's binary. Cargo builds it for the tests of its own package only.
pub(crate) fn tunnel() -> PathBuf {
    static BUILD: Once = Once::new();
    let binary = Path::new(env!("CARGO_BIN_EXE_kubectl-spanwire")).with_file_name("spanwire-tunnel");
    BUILD.call_once(|| {
        if !binary.exists() {
            let built = command(env!("CARGO"))
                .args(["build", "-q", "-p", "spanwire-tunnel"])
                .status();
            assert!(built.unwrap().success());
        }
    });
    binary
}
