//! Real packets on a wire between two namespaces, as the kernel's filter hands them up.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
};

use spanwire_host::{HostFacts, Inventory, OtherLink};
use spanwire_testbed::Namespace;
use spanwire_topology::{
    Leader, LeaderRole, Location, LocationName, Member, Mesh, NodeName, PublicKey, Reachability, plan,
};

use super::*;

/// Node `a` of location a at 192.0.2.1 and fd00::1, with pods of 10.1.0.0/24 and fd00:1::/64; `b` likewise, with a 2.
fn watch() -> Watch {
    let mut mesh = Mesh::default();
    for (name, number) in [("a", 1), ("b", 2)] {
        let member = Member {
            addresses: [
                format!("192.0.2.{number}").parse().unwrap(),
                format!("fd00::{number}").parse().unwrap(),
            ]
            .into(),
            prefixes: [
                format!("10.{number}.0.0/24").parse().unwrap(),
                format!("fd00:{number}::/64").parse().unwrap(),
            ]
            .into(),
            overlay: [format!("10.4.0.{number}").parse().unwrap()].into(),
            public_key: Some(PublicKey::new([number; 32])),
            listen_port: 51_820,
            ..Member::default()
        };
        let node: NodeName = name.parse().unwrap();
        let location = Location {
            leaders: vec![Leader {
                node: node.clone(),
                role: LeaderRole::Active,
            }],
            established: ["a", "b"].map(|name| name.parse().unwrap()).into(),
            members: Arc::new([(node, member)].into()),
            ..Location::default()
        };
        mesh.locations
            .insert(name.parse::<LocationName>().unwrap(), location);
    }
    let link = OtherLink {
        mtu: 1500,
        addresses: [("192.0.2.1".parse().unwrap(), 24)].into(),
        ..OtherLink::default()
    };
    let mut facts = HostFacts::default();
    facts.handle_inventory(Inventory {
        links: [(LinkName::new("near").unwrap(), link)].into(),
        ..Inventory::default()
    });
    let plan = plan(&mesh, &"a".parse().unwrap(), &Reachability::default());
    Watch::new(&mesh, &plan, &facts, &BTreeMap::new()).unwrap()
}

/// The two nodes, with an address of their pods each.
fn nodes() -> [Namespace; 2] {
    let nodes = [(); 2].map(|()| Namespace::new());
    nodes[0].run(&format!(
        "ip link add near type veth peer name far netns {}",
        nodes[1].pid()
    ));
    for (node, device, own, other) in [(&nodes[0], "near", 1, 2), (&nodes[1], "far", 2, 1)] {
        node.run(&format!(
            "ip address add 192.0.2.{own}/24 dev {device}
             ip address add fd00::{own}/64 dev {device} nodad
             ip address add 10.{own}.0.5/32 dev lo
             ip address add fd00:{own}::5/128 dev lo nodad
             ip link set {device} up
             ip route add 10.{other}.0.0/24 via 192.0.2.{other}
             ip route add fd00:{other}::/64 via fd00::{other}"
        ));
    }
    // The first packet waits for the link and for the neighbour.
    assert!((0..5).any(|_| nodes[0].pings("192.0.2.2")) && (0..5).any(|_| nodes[0].pings("fd00::2")));
    nodes
}

/// One request is served at a time, so one of these tests runs at a time.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    // That another one has failed is said there.
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn count_on(node: &Namespace) -> Result<Value, String> {
    node.inside(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async { count(&watch(), Duration::from_secs(1)).await })
    })
}

/// Counts for a second while lines of shell run in the first of the nodes.
fn counted(node: &Namespace, script: &str) -> Value {
    let (other, script) = (node.clone(), script.to_owned());
    let sending = thread::spawn(move || {
        thread::sleep(Duration::from_millis(300));
        other.run(&script);
    });
    let found = count_on(node).unwrap();
    sending.join().unwrap();
    found
}

/// Returns how many packets went from a to b and back, in WireGuard and in plaintext.
fn packets(found: &Value) -> [[u64; 2]; 2] {
    [("a", "b"), ("b", "a")].map(|(from, to)| {
        let mut pairs = found["pairs"].as_array().unwrap().iter();
        let pair = pairs.find(|pair| pair["from"] == from && pair["to"] == to);
        ["wireguard", "plaintext"].map(|how| pair.map_or(0, |pair| pair[how]["packets"].as_u64().unwrap()))
    })
}

/// Sends a datagram by a port of each node, which begins with these bytes.
fn datagram(start: &str, options: &str, to: &str) -> String {
    format!("printf '{start}0123456789' | socat -u - UDP:{to}:51820,sourceport=51820{options}\n")
}

#[test]
fn packets_of_either_version_are_handed_up_whatever_they_are_in() {
    let _alone = alone();
    let [near, _far] = nodes();
    for (from, to) in [("10.1.0.5", "10.2.0.5"), ("fd00:1::5", "fd00:2::5")] {
        let found = counted(&near, &format!("ping -q -c 3 -i 0.01 -I {from} {to}"));
        assert_eq!(packets(&found), [[0, 3], [0, 3]], "{found}");
    }
    for to in ["192.0.2.2", "[fd00::2]"] {
        let genuine = datagram("\\004\\000\\000\\000", "", to);
        let found = counted(&near, &genuine.repeat(3));
        assert_eq!(packets(&found)[0], [3, 0], "{found}");
        let other = datagram("GET ", "", to);
        let found = counted(&near, &other.repeat(2));
        assert_eq!(packets(&found)[0], [0, 2], "{found}");
    }
    // With options in its header the ports are further behind.
    let genuine = datagram("\\004\\000\\000\\000", ",ipoptions=x01010101", "192.0.2.2");
    assert_eq!(packets(&counted(&near, &genuine))[0], [1, 0]);
    // In fragments the first one counts.
    let found = counted(&near, "ping -q -c 2 -i 0.01 -s 4000 -I 10.1.0.5 10.2.0.5");
    assert_eq!(packets(&found), [[0, 2], [0, 2]], "{found}");
}

#[test]
fn what_a_device_of_vxlan_has_wrapped_is_looked_into() {
    let _alone = alone();
    let [near, far] = nodes();
    // The addresses around it are none of the mesh's.
    for (node, device, own, other) in [(&near, "near", 1, 2), (&far, "far", 2, 1)] {
        node.run(&format!(
            "ip address add 198.51.100.{own}/24 dev {device}
             ip link add wrap type vxlan id 1 dstport 4789 local 198.51.100.{own} remote 198.51.100.{other}
             ip address add 172.16.0.{own}/24 dev wrap
             ip link set wrap up
             ip route replace 10.{other}.0.0/24 via 172.16.0.{other}"
        ));
    }
    let found = counted(&near, "ping -q -c 4 -i 0.01 -I 10.1.0.5 10.2.0.5");
    assert_eq!(packets(&found), [[0, 4], [0, 4]], "{found}");
    let sample = &found["pairs"][0]["sample"];
    assert_eq!(sample, "10.1.0.5 to 10.2.0.5, ICMP in VXLAN, sent by near");
}

#[test]
fn a_device_that_goes_is_said() {
    let _alone = alone();
    let [near, _far] = nodes();
    let found = counted(&near, "ip link delete near");
    assert_eq!(found["troubles"], json!(["near: Network is down (os error 100)"]));
    let why = count_on(&near).unwrap_err();
    assert_eq!(
        why,
        "the packets of near cannot be looked at: No such device (os error 19)"
    );
}

#[test]
fn one_request_is_served_at_a_time() {
    let _alone = alone();
    let [near, _far] = nodes();
    let other = near.clone();
    let first = thread::spawn(move || count_on(&other));
    thread::sleep(Duration::from_millis(300));
    let why = count_on(&near).unwrap_err();
    assert!(why.contains("try again"), "{why}");
    assert!(first.join().unwrap().is_ok());
    assert!(count_on(&near).is_ok());
}
