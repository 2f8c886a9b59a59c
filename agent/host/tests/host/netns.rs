//! What is rendered, done to Linux: two locations of two nodes in network namespaces, with flannel, kube-proxy and
//! strict rp_filter, wireguard-go between the leaders.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::{Command, Stdio},
};

use spanwire_host::{Host, HostFacts, Step, diff, render};
use spanwire_topology::{LeaderRole, Party, Plan, PublicKey, Role, Route, Tunnel, TunnelPeer, Via};

use crate::samples::{addresses, facts, hop, location, node, prefix};

const NAMES: [&str; 2] = ["a", "b"];

/// Node `x` of location `l` as the mesh of `netns.sh` has it: 1 leads, 2 follows.
fn plan(l: u8, x: u8, keys: &BTreeMap<u8, PublicKey>) -> Plan {
    let far = 3 - l;
    let name = |l: u8, x: u8| format!("{}{x}", NAMES[usize::from(l) - 1]);
    let lives = |l: u8, x: u8| [format!("10.244.{l}{x}.0/24"), format!("192.168.{l}.{x}")];
    let overlay = |l: u8| format!("10.4.0.{l}1");
    let texts = |l: u8| [lives(l, 1), lives(l, 2)].concat();
    let set = |texts: &[String]| texts.iter().map(|text| prefix(text)).collect::<BTreeSet<_>>();
    let mut remote = set(&texts(far));
    remote.insert(prefix(&overlay(far)));
    let lan = |x: u8| format!("192.168.{l}.{x}");
    let towards = |x: u8| hop(&name(l, x), &[&format!("10.244.{l}{x}.0")], &[&lan(x)]);
    let leads = x == 1;
    let via = if leads { Via::Tunnel } else { towards(1) };
    let route = |prefix: &_| {
        let (via, location) = (via.clone(), location(NAMES[usize::from(far) - 1]));
        (*prefix, Route { via, location })
    };
    let peer = TunnelPeer {
        party: Party::Leader(location(NAMES[usize::from(far) - 1]), node(&name(far, 1))),
        overlay: addresses(&[&overlay(far)]),
        endpoints: vec![format!("192.168.{far}.1:51820").parse().unwrap()],
        keepalive: None,
        allowed_ips: remote.clone(),
    };
    let mut own = set(&lives(l, x));
    own.insert(prefix(&format!("10.4.0.{l}{x}")));
    Plan {
        me: node(&name(l, x)),
        location: Some(location(NAMES[usize::from(l) - 1])),
        role: if leads {
            Role::Leader(LeaderRole::Active)
        } else {
            Role::Follower
        },
        tunnel: leads.then(|| Tunnel {
            addresses: addresses(&[&overlay(l)]),
            listen_port: 51820,
            peers: BTreeMap::from([(keys[&far], peer)]),
        }),
        routes: remote.iter().map(route).collect(),
        local: set(&texts(l)),
        own,
        returns: if leads {
            BTreeMap::from([(prefix(&lan(2)), towards(2))])
        } else {
            BTreeMap::new()
        },
    }
}

fn node_facts(l: u8, x: u8, keys: &BTreeMap<u8, PublicKey>) -> HostFacts {
    let far = 3 - l;
    HostFacts {
        public_key: Some(keys[&l]),
        endpoints: BTreeMap::from([(keys[&far], format!("192.168.{far}.1:51820").parse().unwrap())]),
        settled: BTreeSet::from([location(NAMES[usize::from(far) - 1])]),
        api_server: BTreeSet::from(["192.168.2.1:6443".parse().unwrap()]),
        ..facts(l, x)
    }
}

/// A step as what a person would type.
fn command(step: &Step, key_file: &str) -> String {
    let dev = "spanwire0";
    match step {
        Step::AddLink {
            mtu,
            listen_port,
            mark,
            ..
        } => format!(
            "wireguard-go {dev} >/dev/null 2>&1\nip link set {dev} mtu {mtu}\n\
             wg set {dev} private-key {key_file} listen-port {listen_port} fwmark {mark:#x}"
        ),
        Step::SetUp(true) => format!("ip link set {dev} up"),
        Step::AddAddress(address) => format!("ip addr add {address} dev {dev}"),
        Step::SetPeer {
            key, endpoint, add, ..
        } => {
            let endpoint = endpoint
                .map(|endpoint| format!(" endpoint {endpoint}"))
                .unwrap_or_default();
            let allowed: Vec<String> = add.iter().map(ToString::to_string).collect();
            format!(
                "wg set {dev} peer {key}{endpoint} allowed-ips {}",
                allowed.join(",")
            )
        }
        Step::SetRoute(..) => format!("ip {} proto 151", step.to_string().replacen("set", "replace", 1)),
        Step::AddRule(rule) => {
            let text = rule.to_string();
            let (family, rest) = text.split_once(' ').unwrap();
            format!("ip {family} rule add {rest} protocol 151")
        }
        Step::SetNft(table) => format!("nft -f /dev/stdin <<'END'\n{}END", table.text),
        Step::SetSysctl(sysctl, value) => format!("echo {value} >/proc/sys/{}", sysctl.0),
        Step::DeleteLink
        | Step::SetMtu(_)
        | Step::SetUp(false)
        | Step::DeleteAddress(_)
        | Step::SetDevice { .. }
        | Step::DeletePeer(_)
        | Step::DeleteRoute(_)
        | Step::DeleteRule(_)
        | Step::DeleteNft => panic!("a new machine needs no {step}"),
    }
}

fn output(program: &mut Command) -> String {
    let output = program.stderr(Stdio::inherit()).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn pods_and_hosts_of_two_locations_reach_each_other_through_what_is_rendered() {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("netns");
    fs::create_dir_all(&dir).unwrap();
    let mut keys = BTreeMap::new();
    for l in [1, 2] {
        let file = dir.join(format!("key{l}"));
        fs::write(&file, output(Command::new("wg").arg("genkey"))).unwrap();
        let public = output(
            Command::new("wg")
                .arg("pubkey")
                .stdin(fs::File::open(&file).unwrap()),
        );
        keys.insert(l, public.parse().unwrap());
    }
    for (l, x) in [(1, 1), (1, 2), (2, 1), (2, 2)] {
        let host = render(&plan(l, x, &keys), &node_facts(l, x, &keys));
        let key_file = dir.join(format!("key{l}"));
        let steps = diff(&Host::default(), &host);
        let commands: Vec<String> = steps
            .iter()
            .map(|step| command(step, key_file.to_str().unwrap()))
            .collect();
        let file = dir.join(format!("{}{x}.sh", NAMES[usize::from(l) - 1]));
        fs::write(file, commands.join("\n")).unwrap();
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/host/netns.sh");
    let findings = output(
        Command::new("unshare")
            .args("--user --map-root-user --net --mount --pid --fork --kill-child --mount-proc sh".split(' '))
            .arg(script)
            .arg(&dir),
    );
    let bad: Vec<&str> = findings.lines().filter(|line| !line.starts_with("ok ")).collect();
    assert!(bad.is_empty() && findings.ends_with("ok the end"), "{findings}");
}
