//! What is decided in each stage, and how the machine of each node is brought there.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    os::unix::net::UnixStream,
    process::{Child, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use spanwire_host::{Cni, Host, HostFacts, LinkName, Owned, Step, WireGuardSettings, diff, render};
use spanwire_testbed::{Command, FAMILIES, Family, NODES, Node, bridge, hop, lan, pods, wait_until};
use spanwire_topology::{Leader, LeaderRole, Location, Member, Mesh, PublicKey, Reachability, plan};

use super::network::Network;
use crate::samples::{self, addresses, link, location, node, other_link, prefixes};

/// After each step it is seen whether packets flow between any two.
const PAUSE: Duration = Duration::from_millis(30);

/// What is decided, and for how long.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stage {
    /// The node that leads location a while the other stands by; in b it is always b1, alone.
    leaders: [&'static str; 2],
    established: bool,
    settled: bool,
    /// The leader of a that is cut off from b, as everybody knows.
    cut_off: Option<&'static str>,
    /// The CNI has no device of its own, and reaches the nodes of its LAN directly (flannel's host-gw).
    direct: bool,
    /// Other programs change marks, as the machines know.
    marked: bool,
}

pub(super) const TUNNELS: Stage = Stage {
    leaders: ["a1", "a2"],
    established: false,
    settled: false,
    cut_off: None,
    direct: false,
    marked: false,
};
pub(super) const ESTABLISHED: Stage = Stage {
    established: true,
    ..TUNNELS
};
pub(super) const SETTLED: Stage = Stage {
    settled: true,
    ..ESTABLISHED
};
pub(super) const MOVED: Stage = Stage {
    leaders: ["a2", "a1"],
    ..SETTLED
};
pub(super) const CUT_OFF: Stage = Stage {
    cut_off: Some("a1"),
    ..SETTLED
};

impl Stage {
    /// The same where the CNI has no device of its own.
    pub(super) fn direct(self) -> Self {
        Self { direct: true, ..self }
    }

    /// The same where other programs change marks.
    pub(super) fn marked(self) -> Self {
        Self { marked: true, ..self }
    }

    /// Returns what every node observes.
    fn seen(&self) -> Reachability {
        let mut seen = Reachability::default();
        if let Some(leader) = self.cut_off {
            seen.observe(node(leader), location("b"), false);
            seen.observe_far(location("a"), node(leader), false);
        }
        seen
    }
}

/// The overlay address of a node.
pub(super) fn overlay(number: u8, family: Family) -> String {
    match family {
        Family::V4 => format!("10.4.0.{number}"),
        Family::V6 => format!("fd00:4::{number}"),
    }
}

/// The sockets of all devices lie in one folder, so every device has a name of its own.
pub(super) fn device(number: u8) -> LinkName {
    link(&format!("swh{:x}n{number}", std::process::id()))
}

/// The machines of all nodes, and the keys that they have.
pub(super) struct Machines {
    private: BTreeMap<u8, String>,
    public: BTreeMap<u8, PublicKey>,
    actual: BTreeMap<u8, Host>,
    engines: Vec<Engine>,
    /// Devices have their names from the process: one test after the other.
    _turn: MutexGuard<'static, ()>,
}

static TURN: Mutex<()> = Mutex::new(());

/// A process of wireguard-go; it ends with the test.
struct Engine(Child);

impl Drop for Engine {
    fn drop(&mut self) {
        // It may have ended with its device.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Machines {
    pub(super) fn new() -> Self {
        let numbers = NODES.map(|(_, _, number)| number);
        let private: BTreeMap<u8, String> = numbers
            .map(|number| (number, Command::new("wg").arg("genkey").run()))
            .into();
        let public = |(number, private): (&u8, &String)| {
            let key = Command::new("wg").arg("pubkey").input(private.clone()).run();
            (*number, key.trim().parse().unwrap())
        };
        Self {
            public: private.iter().map(public).collect(),
            private,
            actual: numbers.map(|number| (number, Host::default())).into(),
            engines: Vec::new(),
            // A test that failed has ended its engines, too.
            _turn: TURN.lock().unwrap_or_else(PoisonError::into_inner),
        }
    }

    /// Brings all nodes to a stage, or to where they came from, step by step.
    pub(super) fn bring(&mut self, network: &Network, stage: Option<&Stage>) {
        for node in &network.world.nodes {
            let wanted = stage.map_or_else(Host::default, |stage| self.wanted(stage, node));
            let actual = self.actual.insert(node.number, wanted.clone()).unwrap();
            for step in diff(&actual, &wanted) {
                self.apply(&step, &wanted, node);
                thread::sleep(PAUSE);
            }
        }
    }

    /// A device goes with its routes and peers, behind the back of what keeps the state.
    pub(super) fn delete_device(&self, node: &Node) {
        node.host.run(&format!("ip link delete {}", device(node.number)));
    }

    fn wanted(&self, stage: &Stage, of: &Node) -> Host {
        let plan = plan(&self.mesh(stage), &node(of.name), &stage.seen());
        render(&plan, &self.facts(stage, of.number))
    }

    fn mesh(&self, stage: &Stage) -> Mesh {
        let located = |here: &str, far: &str, leaders: &[&str]| {
            let roles = [LeaderRole::Active, LeaderRole::Standby];
            let lead = |(name, role): (&&str, LeaderRole)| Leader {
                node: node(name),
                role,
            };
            let members = NODES.into_iter().filter(|(of, _, _)| *of == here);
            let members = members.map(|(_, name, number)| (node(name), self.member(stage, number)));
            let location_here = Location {
                leaders: leaders.iter().zip(roles).map(lead).collect(),
                established: stage.established.then_some(location(far)).into_iter().collect(),
                members: Arc::new(members.collect()),
                ..Location::default()
            };
            (location(here), location_here)
        };
        Mesh {
            locations: [located("a", "b", &stage.leaders), located("b", "a", &["b1"])].into(),
            ..Mesh::default()
        }
    }

    fn member(&self, stage: &Stage, number: u8) -> Member {
        let hops = FAMILIES.into_iter().filter(|_| !stage.direct);
        let networks = FAMILIES.map(|family| {
            let (network, length) = pods(number, family);
            format!("{network}/{length}")
        });
        let overlays = FAMILIES.map(|family| overlay(number, family));
        Member {
            addresses: FAMILIES.map(|family| lan(number, family)).into(),
            prefixes: prefixes(&networks.each_ref().map(String::as_str)),
            overlay: addresses(&overlays.each_ref().map(String::as_str)),
            hop: hops.map(|family| hop(number, family)).collect(),
            public_key: Some(self.public[&number]),
            listen_port: 51820,
            ..Member::default()
        }
    }

    /// The machine of a node. Endpoints are addresses that are themselves in the mesh.
    fn facts(&self, stage: &Stage, number: u8) -> HostFacts {
        let of = |address: &dyn Fn(u8, Family) -> std::net::IpAddr| {
            FAMILIES.map(|family| address(number, family).to_string())
        };
        let (lans, bridges, hops) = (of(&lan), of(&bridge), of(&hop));
        let mut links = BTreeMap::from([
            (
                link("eth0"),
                other_link(1500, &[(&lans[0], 24), (&lans[1], 64)], false),
            ),
            (
                link("pod0"),
                other_link(1430, &[(&bridges[0], 24), (&bridges[1], 64)], true),
            ),
        ]);
        let mut cni = Cni::Direct;
        if !stage.direct {
            links.insert(link("flannel.1"), other_link(1450, &[(&hops[0], 32)], true));
            links.insert(link("flannel-v6.1"), other_link(1430, &[(&hops[1], 128)], true));
            cni = Cni::Overlay {
                links: BTreeSet::from([link("flannel.1"), link("flannel-v6.1")]),
            };
        }
        let far = location(if number <= 2 { "b" } else { "a" });
        let endpoint =
            |(number, key): (&u8, &PublicKey)| (*key, SocketAddr::new(lan(*number, Family::V4), 51820));
        HostFacts {
            owned: Owned {
                link: device(number),
                ..Owned::default()
            },
            public_key: Some(self.public[&number]),
            links,
            cni,
            underlay_mtu: Some(1500),
            endpoints: self.public.iter().map(endpoint).collect(),
            settled: stage.settled.then_some(far).into_iter().collect(),
            api_server: BTreeSet::from([SocketAddr::new(lan(3, Family::V4), 6443)]),
            uplinks: BTreeSet::from([link("eth0")]),
            elsewhere: stage.marked.then(samples::changed_marks).unwrap_or_default(),
            ..HostFacts::default()
        }
    }

    fn apply(&mut self, step: &Step, wanted: &Host, node: &Node) {
        let Step::AddWireGuard(dev, mtu, settings) = step else {
            node.host.run(&command(step, wanted));
            return;
        };
        let WireGuardSettings {
            listen_port, mark, ..
        } = settings;
        let name = dev.as_str();
        let engine = node.host.command("wireguard-go").args(["-f", name]);
        let engine = engine.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        self.engines.push(Engine(engine));
        // `wg` removes a socket at which no process listens yet.
        wait_until("wireguard-go", Duration::from_secs(20), || {
            UnixStream::connect(format!("/var/run/wireguard/{name}.sock")).is_ok()
        });
        node.host.run(&format!("ip link set {name} mtu {mtu}"));
        let set = node
            .host
            .command("wg")
            .args(["set", name, "private-key", "/dev/stdin"]);
        let set = set.args([
            "listen-port",
            &listen_port.to_string(),
            "fwmark",
            &format!("{mark:#x}"),
        ]);
        set.input(self.private[&node.number].clone()).run();
    }
}

/// A step towards `wanted` as what a person would type.
fn command(step: &Step, wanted: &Host) -> String {
    let rule = |verb: &str, rule: &str| {
        let (family, rest) = rule.split_once(' ').unwrap();
        format!("ip {family} rule {verb} {rest} protocol 151")
    };
    match step {
        Step::SetUp(dev, true) => format!("ip link set {dev} up"),
        Step::AddAddress(dev, address) => format!("ip addr add {address} dev {dev}"),
        // This wg cannot add to a list, only replace it.
        Step::SetPeer(dev, key, change) => {
            let endpoint = change.endpoint.map(|endpoint| format!(" endpoint {endpoint}"));
            let allowed = &wanted.wireguard(dev).unwrap().peers[key].allowed_ips;
            let allowed: Vec<String> = allowed.iter().map(ToString::to_string).collect();
            let allowed = allowed.join(",");
            format!(
                "wg set {dev} peer {key}{} allowed-ips {allowed}",
                endpoint.unwrap_or_default()
            )
        }
        Step::SetRoute(..) => format!("ip {} proto 151", step.to_string().replacen("set", "replace", 1)),
        Step::DeleteRoute(_) => format!("ip {step} proto 151"),
        Step::AddRule(added) => rule("add", &added.to_string()),
        Step::DeleteRule(deleted) => rule("del", &deleted.to_string()),
        Step::SetNft(table) => format!("nft -f /dev/stdin <<'END'\n{table}END"),
        Step::SetSysctl(sysctl, value) => format!("echo {value} >/proc/sys/{}", sysctl.0),
        Step::DeletePeer(dev, key) => format!("wg set {dev} peer {key} remove"),
        Step::DeleteDevice(dev) => format!("ip link delete {dev}"),
        Step::DeleteNft => "nft delete table inet spanwire".to_owned(),
        Step::AddWireGuard(..)
        | Step::AddVxlan(..)
        | Step::SetForwarding(..)
        | Step::DeleteForwarding(..)
        | Step::SetNeighbour(..)
        | Step::DeleteNeighbour(..)
        | Step::SetMtu(..)
        | Step::SetUp(_, false)
        | Step::DeleteAddress(..)
        | Step::SetPassage(..)
        | Step::DeletePassage(_)
        | Step::SetWireGuard(..) => {
            panic!("no stage needs {step}")
        }
    }
}
