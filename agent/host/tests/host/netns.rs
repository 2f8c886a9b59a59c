//! What is planned and rendered, done to Linux: two locations of two nodes in network namespaces, both families, with
//! flannel, kube-proxy and strict rp_filter, wireguard-go between the leaders (`netns/world.sh`, `netns/checks.sh`).

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
};

use spanwire_host::{Cni, Host, HostFacts, Step, WireGuardSettings, diff, render};
use spanwire_topology::{
    Leader, LeaderRole, Location, Member, Mesh, NodeName, PublicKey, Reachability, plan,
};

use crate::samples::{addresses, link, location, node, other_link, prefixes};

/// Location number and node number of each node.
const NODES: [(u8, u8); 4] = [(1, 1), (1, 2), (2, 1), (2, 2)];
const LOCATIONS: [&str; 3] = ["", "a", "b"];

/// The key of each node.
type Keys = BTreeMap<(u8, u8), PublicKey>;

/// What is decided, and for how long.
#[derive(Clone, Copy)]
struct Stage {
    /// Its name.
    name: &'static str,
    /// The node that leads location a while the other stands by; in b it is always b1, alone.
    leader: u8,
    established: bool,
    settled: bool,
}

const STAGES: [Stage; 4] = [
    Stage {
        name: "tunnels",
        leader: 1,
        established: false,
        settled: false,
    },
    Stage {
        name: "established",
        leader: 1,
        established: true,
        settled: false,
    },
    Stage {
        name: "settled",
        leader: 1,
        established: true,
        settled: true,
    },
    Stage {
        name: "moved",
        leader: 2,
        established: true,
        settled: true,
    },
];

impl Stage {
    fn leaders(&self, l: u8) -> Vec<Leader> {
        let lead = |x, role| Leader {
            node: name(l, x),
            role,
        };
        match l {
            1 => vec![
                lead(self.leader, LeaderRole::Active),
                lead(3 - self.leader, LeaderRole::Standby),
            ],
            _ => vec![lead(1, LeaderRole::Active)],
        }
    }
}

fn name(l: u8, x: u8) -> NodeName {
    node(&format!("{}{x}", LOCATIONS[usize::from(l)]))
}

fn member(l: u8, x: u8, keys: &Keys) -> Member {
    Member {
        addresses: addresses(&[&format!("192.168.{l}.{x}"), &format!("fd00:{l}::{x}")]),
        prefixes: prefixes(&[&format!("10.244.{l}{x}.0/24"), &format!("fd00:244:{l}{x}::/64")]),
        overlay: addresses(&[&format!("10.4.0.{l}{x}"), &format!("fd00:4::{l}{x}")]),
        hop: addresses(&[&format!("10.244.{l}{x}.0"), &format!("fd00:244:{l}{x}::")]),
        public_key: Some(keys[&(l, x)]),
        listen_port: 51820,
        ..Member::default()
    }
}

fn mesh(stage: &Stage, keys: &Keys) -> Mesh {
    let located = |l: u8| {
        let far = location(LOCATIONS[usize::from(3 - l)]);
        let members = NODES.iter().filter(|(other, _)| *other == l);
        let here = Location {
            leaders: stage.leaders(l),
            established: stage.established.then_some(far).into_iter().collect(),
            members: Arc::new(
                members
                    .map(|(l, x)| (name(*l, *x), member(*l, *x, keys)))
                    .collect(),
            ),
            ..Location::default()
        };
        (location(LOCATIONS[usize::from(l)]), here)
    };
    Mesh {
        locations: [1, 2].map(located).into(),
        ..Mesh::default()
    }
}

/// The machine of a node. Endpoints are addresses that are themselves in the mesh.
fn facts(l: u8, x: u8, stage: &Stage, keys: &Keys) -> HostFacts {
    let (lan, lan6) = (format!("192.168.{l}.{x}"), format!("fd00:{l}::{x}"));
    let (bridge, bridge6) = (format!("10.244.{l}{x}.1"), format!("fd00:244:{l}{x}::1"));
    let (vxlan, vxlan6) = (format!("10.244.{l}{x}.0"), format!("fd00:244:{l}{x}::"));
    let bridge = [(bridge.as_str(), 24), (&bridge6, 64)];
    let endpoint = |(l, x): &(u8, u8)| format!("192.168.{l}.{x}:51820").parse().unwrap();
    let far = location(LOCATIONS[usize::from(3 - l)]);
    HostFacts {
        public_key: Some(keys[&(l, x)]),
        links: BTreeMap::from([
            (link("eth0"), other_link(1500, &[(&lan, 24), (&lan6, 64)], false)),
            (link("cni0"), other_link(1430, &bridge, true)),
            (link("flannel.1"), other_link(1450, &[(&vxlan, 32)], true)),
            (link("flannel-v6.1"), other_link(1430, &[(&vxlan6, 128)], true)),
        ]),
        cni: Cni::Overlay {
            links: BTreeSet::from([link("flannel.1"), link("flannel-v6.1")]),
        },
        underlay_mtu: Some(1500),
        endpoints: keys.iter().map(|(node, key)| (*key, endpoint(node))).collect(),
        settled: stage.settled.then_some(far).into_iter().collect(),
        api_server: BTreeSet::from(["192.168.2.1:6443".parse().unwrap()]),
        ..HostFacts::default()
    }
}

/// A step towards `wanted` as what a person would type.
fn command(step: &Step, wanted: &Host, key_file: &str) -> String {
    let rule = |verb: &str, rule: &str| {
        let (family, rest) = rule.split_once(' ').unwrap();
        format!("ip {family} rule {verb} {rest} protocol 151")
    };
    match step {
        Step::AddWireGuard(
            dev,
            mtu,
            WireGuardSettings {
                listen_port, mark, ..
            },
        ) => format!(
            "wireguard-go {dev} >/dev/null 2>&1; ip link set {dev} mtu {mtu}; \
             wg set {dev} private-key {key_file} listen-port {listen_port} fwmark {mark:#x}"
        ),
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
        Step::SetNft(table) => format!("nft -f /dev/stdin <<'END'\n{}END", table.text),
        Step::SetSysctl(sysctl, value) => format!("echo {value} >/proc/sys/{}", sysctl.0),
        Step::DeletePeer(dev, key) => format!("wg set {dev} peer {key} remove"),
        Step::DeleteDevice(dev) => format!("ip link delete {dev}"),
        Step::DeleteNft => "nft delete table inet spanwire".to_owned(),
        Step::SetMtu(..) | Step::SetUp(_, false) | Step::DeleteAddress(..) | Step::SetWireGuard(..) => {
            panic!("no stage needs {step}")
        }
    }
}

fn output(program: &mut Command) -> String {
    let output = program.stderr(Stdio::inherit()).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Private keys as files, and the public ones.
fn make_keys(dir: &Path) -> Keys {
    let make = |(l, x)| {
        let file = key_file(dir, l, x);
        fs::write(&file, output(spanwire_testbed::command("wg").arg("genkey"))).unwrap();
        let public = output(
            spanwire_testbed::command("wg")
                .arg("pubkey")
                .stdin(File::open(&file).unwrap()),
        );
        ((l, x), public.parse().unwrap())
    };
    NODES.map(make).into()
}

fn key_file(dir: &Path, l: u8, x: u8) -> PathBuf {
    dir.join(format!("key-{}", name(l, x)))
}

/// The commands of each stage for each node; a pause after each shows whether packets flow between any two.
fn write_stages(dir: &Path, keys: &Keys) {
    for (l, x) in NODES {
        let rendered = |stage: &Stage| {
            let plan = plan(&mesh(stage, keys), &name(l, x), &Reachability::default());
            (stage.name, render(&plan, &facts(l, x, stage, keys)))
        };
        let stages = STAGES.iter().map(rendered).chain([("retired", Host::default())]);
        let key_file = key_file(dir, l, x);
        let mut actual = Host::default();
        for (stage, wanted) in stages {
            let steps = diff(&actual, &wanted);
            let commands = steps
                .iter()
                .map(|step| command(step, &wanted, key_file.to_str().unwrap()));
            let text: String = commands.map(|command| command + "\nsleep 0.03\n").collect();
            fs::create_dir_all(dir.join(stage)).unwrap();
            fs::write(dir.join(stage).join(format!("{}.sh", name(l, x))), text).unwrap();
            actual = wanted;
        }
    }
}

#[test]
fn what_is_rendered_carries_packets_with_their_source_and_none_in_the_open() {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("netns");
    fs::create_dir_all(&dir).unwrap();
    write_stages(&dir, &make_keys(&dir));
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/host/netns/checks.sh");
    let sandbox =
        "300 unshare --user --map-root-user --net --mount --pid --fork --kill-child --mount-proc sh";
    let findings = output(
        spanwire_testbed::command("timeout")
            .args(sandbox.split(' '))
            .arg(script)
            .arg(&dir),
    );
    let bad: Vec<&str> = findings.lines().filter(|line| !line.starts_with("ok ")).collect();
    assert!(bad.is_empty() && findings.ends_with("ok the end"), "{findings}");
}
