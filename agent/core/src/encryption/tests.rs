mod frames;
mod properties;

use std::sync::Arc;

use proptest::{prop_assert, prop_assert_eq, test_runner::TestCaseError};
use spanwire_host::{Inventory, OtherLink};
use spanwire_topology::{Generation, Leader, LeaderRole, Location, MeshMode, NodeName, Reachability, plan};

use super::{filter::interpreter::takes, *};
use frames::{GATEWAY, ME, RELAY, ethernet, fragment, geneve, icmp, ip, tcp, udp, vlan, vxlan, wireguard};

/// Nodes a1, a2 (stands by), a3 and b1, c1, as (location, number). The number stands in every address.
const NODES: [(&str, &str, u8); 5] = [
    ("a", "a1", 1),
    ("a", "a2", 2),
    ("a", "a3", 3),
    ("b", "b1", 4),
    ("c", "c1", 5),
];

fn key(number: u8) -> PublicKey {
    PublicKey::new([number; 32])
}

fn member(number: u8) -> Member {
    let address = |text: String| text.parse().unwrap();
    Member {
        generation: Generation(1),
        addresses: [
            address(format!("192.168.{number}.1")),
            address(format!("fd00:1::{number}")),
        ]
        .into(),
        prefixes: [
            format!("10.244.{number}.0/24").parse().unwrap(),
            format!("fd00:244:{number}::/64").parse().unwrap(),
        ]
        .into(),
        overlay: [address(format!("10.4.0.{number}"))].into(),
        public_key: Some(key(number)),
        endpoints: vec![format!("203.0.113.{number}:51820").parse().unwrap()],
        listen_port: if number == 5 { 51_821 } else { 51_820 },
        ..Member::default()
    }
}

fn mesh(mode: MeshMode) -> Mesh {
    let mut mesh = Mesh::default();
    for (location, node, number) in NODES {
        let name: LocationName = location.parse().unwrap();
        let of_it = mesh.locations.entry(name.clone()).or_insert_with(|| Location {
            established: ["a", "b", "c"].map(|other| other.parse().unwrap()).into(),
            ..Location::default()
        });
        of_it.settings.mode = mode;
        let role = match (mode, node) {
            (MeshMode::Leaders, "a2") => LeaderRole::Standby,
            _ => LeaderRole::Active,
        };
        if mode == MeshMode::Nodes || node != "a3" {
            let node: NodeName = node.parse().unwrap();
            of_it.leaders.push(Leader { node, role });
        }
        of_it.members_mut().insert(node.parse().unwrap(), member(number));
    }
    mesh
}

fn facts() -> HostFacts {
    let link = |addresses: &[(&str, u8)], cni| OtherLink {
        mtu: 1500,
        addresses: addresses
            .iter()
            .map(|(address, length)| (address.parse().unwrap(), *length))
            .collect(),
        cni,
        ..OtherLink::default()
    };
    let name = |name: &str| LinkName::new(name).unwrap();
    let mut facts = HostFacts {
        api_server: ["192.168.4.1:6443".parse().unwrap()].into(),
        ..HostFacts::default()
    };
    facts.handle_inventory(Inventory {
        links: [
            (name("lo"), link(&[("192.168.77.7", 32)], false)),
            (name("eth0"), link(&[("192.168.1.1", 16)], false)),
            (name("eth1"), link(&[("fe80::1", 64)], false)),
            (name("eth2"), link(&[("172.16.0.1", 24)], false)),
            (name("cni0"), link(&[("10.244.1.1", 24)], true)),
            (name("pods"), link(&[("10.244.1.1", 24), ("fe80::2", 64)], false)),
        ]
        .into(),
        uplinks: [name("ppp0")].into(),
        ..Inventory::default()
    });
    facts
}

fn watch_in(mesh: &Mesh) -> Watch {
    let plan = plan(mesh, &"a1".parse().unwrap(), &Reachability::default());
    let stats = |endpoint: &str| PeerStats {
        endpoint: Some(endpoint.parse().unwrap()),
        ..PeerStats::default()
    };
    let peers = [(4, "198.51.100.9:4444"), (5, "203.0.113.5:51820")];
    let peers = peers.map(|(number, endpoint)| (key(number), stats(endpoint)));
    Watch::new(mesh, &plan, &facts(), &peers.into()).unwrap()
}

fn watch() -> Watch {
    watch_in(&mesh(MeshMode::Leaders))
}

/// Checks that what counts is handed up, and by one of the two filters.
fn handed_up(watch: &Watch, packet: &[u8], outgoing: bool) -> Result<(), TestCaseError> {
    let frame = ethernet(ME, GATEWAY, packet);
    let frame = Frame {
        bytes: &frame,
        ethernet: true,
        outgoing,
    };
    let kind = watch.judge(&frame, &BTreeSet::new());
    let parts = [Part::Wireguard, Part::Rest];
    let taking = parts
        .iter()
        .filter(|part| takes(&watch.filter(**part), packet))
        .count();
    prop_assert!(taking <= 1, "counted twice: {kind:?}");
    if matches!(kind, Kind::Wireguard(_) | Kind::Plaintext(_)) {
        prop_assert_eq!(taking, 1, "never seen: {:?}", kind);
    }
    Ok(())
}

/// Returns what a packet is, as a word with what belongs to it. What counts has to be handed up.
fn judged(watch: &Watch, frame: &[u8], outgoing: bool) -> String {
    if let Some(found) = packet::ethernet(frame) {
        handed_up(watch, found.packet, outgoing).unwrap();
    }
    let frame = Frame {
        bytes: frame,
        ethernet: true,
        outgoing,
    };
    match watch.judge(&frame, &[RELAY].into()) {
        Kind::Wireguard(Some(location)) => format!("wireguard {location}"),
        Kind::Wireguard(None) => "wireguard ?".to_owned(),
        Kind::Plaintext(found) => {
            let wrapped = found.wrapped.map(|wrapped| format!(" in {wrapped}"));
            format!(
                "{} {}{}",
                found.between[0],
                found.between[1],
                wrapped.unwrap_or_default()
            )
        }
        Kind::Unreadable => "unreadable".to_owned(),
        Kind::Other => "-".to_owned(),
    }
}

/// A packet from a pod to a pod of another location.
fn pod_to_pod() -> Vec<u8> {
    ip("10.244.1.5", "10.244.4.7", 6, &tcp(40_000, 80))
}

#[test]
fn devices_to_other_machines_are_looked_at_and_no_others() {
    let names: Vec<String> = watch().devices.iter().map(ToString::to_string).collect();
    assert_eq!(names, ["eth0", "eth2", "ppp0"]);
}

#[test]
fn what_leaves_for_another_location_is_in_wireguard_or_in_plaintext() {
    let watch = watch();
    let leaving = |packet: &[u8]| judged(&watch, &ethernet(ME, GATEWAY, packet), true);
    let datagram = |to: &str, port| ip("192.168.1.1", to, 17, &udp(51_820, port, &wireguard()));
    assert_eq!(leaving(&datagram("198.51.100.9", 4444)), "wireguard b");
    assert_eq!(
        leaving(&datagram("198.51.100.9", 5555)),
        "wireguard b",
        "another port of a NAT"
    );
    assert_eq!(leaving(&datagram("203.0.113.5", 51_820)), "wireguard c");
    assert_eq!(
        leaving(&datagram("192.168.4.1", 1)),
        "wireguard b",
        "a node's own address"
    );
    assert_eq!(leaving(&datagram("198.51.100.77", 1)), "wireguard ?", "a Peer's");
    let of_others = |from: &str, to: &str| leaving(&ip(from, to, 17, &udp(7, 51_821, &wireguard())));
    assert_eq!(
        of_others("192.168.3.1", "192.168.5.1"),
        "wireguard c",
        "another leader's"
    );
    assert_eq!(
        of_others("198.51.100.1", "198.51.100.2"),
        "-",
        "that of strangers"
    );
    assert_eq!(leaving(&pod_to_pod()), "a b");
    assert_eq!(
        leaving(&ip("fd00:244:1::5", "fd00:244:5::1", 58, &icmp(128, &[]))),
        "a c"
    );
    assert_eq!(
        leaving(&ip("192.168.3.1", "192.168.5.1", 17, &udp(1, 2, b"x"))),
        "a c"
    );
    assert_eq!(leaving(&ip("10.4.0.1", "10.4.0.4", 1, &icmp(8, &[]))), "a b");
    assert_eq!(
        leaving(&ip("10.244.1.5", "198.51.100.1", 6, &tcp(1, 443))),
        "-",
        "the internet"
    );
    assert_eq!(
        leaving(&ip("10.244.1.5", "10.244.3.5", 6, &tcp(1, 2))),
        "-",
        "the own location"
    );
    let no_wireguard = ip("192.168.1.1", "192.168.4.1", 17, &udp(51_820, 51_820, b"GET /"));
    assert_eq!(leaving(&no_wireguard), "a b", "the port alone proves nothing");
}

#[test]
fn what_the_cni_wraps_is_looked_into() {
    let watch = watch();
    let leaving = |packet: &[u8]| judged(&watch, &ethernet(ME, GATEWAY, packet), true);
    let inner = ethernet(ME, GATEWAY, &pod_to_pod());
    // To an address that the mesh does not know.
    let to = |protocol, payload: &[u8]| ip("192.168.1.1", "198.51.100.4", protocol, payload);
    for port in [8472, 4789, 51_830] {
        let packet = to(17, &udp(9, port, &vxlan(&inner)));
        assert_eq!(leaving(&packet), "a b in VXLAN", "{port}");
    }
    assert_eq!(
        leaving(&to(17, &udp(9, 51_831, &vxlan(&inner)))),
        "-",
        "another port"
    );
    assert_eq!(
        leaving(&to(17, &udp(9, 6081, &geneve(0x6558, 8, &inner)))),
        "a b in Geneve"
    );
    assert_eq!(
        leaving(&to(17, &udp(9, 6081, &geneve(0x0800, 0, &pod_to_pod())))),
        "a b in Geneve"
    );
    assert_eq!(leaving(&to(4, &pod_to_pod())), "a b in IP in IP");
    let v6 = ip("fd00:244:1::5", "fd00:244:4::5", 6, &tcp(1, 2));
    assert_eq!(leaving(&to(41, &v6)), "a b in IPv6 in IP");
    assert_eq!(
        leaving(&ip("fd00:1::1", "fd00:9::9", 41, &v6)),
        "a b in IPv6 in IP"
    );
    let tagged = ethernet(ME, GATEWAY, &to(17, &udp(9, 8472, &vxlan(&vlan(7, &inner)))));
    assert_eq!(
        judged(&watch, &vlan(100, &vlan(5, &tagged)), true),
        "a b in VXLAN"
    );
    let between_nodes = ip("192.168.1.1", "192.168.5.1", 17, &udp(9, 8472, &vxlan(b"?")));
    assert_eq!(leaving(&between_nodes), "a c", "whatever is in it");
    let datagram = ip(
        "192.168.1.1",
        "192.168.4.1",
        17,
        &udp(51_820, 51_820, &wireguard()),
    );
    let wrapped = to(17, &udp(9, 8472, &vxlan(&ethernet(ME, GATEWAY, &datagram))));
    assert_eq!(leaving(&wrapped), "wireguard b");
    let mut deep = pod_to_pod();
    for _ in 0..9 {
        deep = to(4, &deep);
    }
    assert_eq!(leaving(&deep), "-", "no host does so");
}

#[test]
fn the_own_vxlan_is_known_by_the_port_that_it_has_here() {
    let mesh = mesh(MeshMode::Leaders);
    let plan = plan(&mesh, &"a1".parse().unwrap(), &Reachability::default());
    let mut facts = facts();
    facts.owned.hop_port = 4_999;
    let watch = Watch::new(&mesh, &plan, &facts, &BTreeMap::new()).unwrap();
    let wrapped = vxlan(&ethernet(ME, GATEWAY, &pod_to_pod()));
    for (port, kind) in [(4_999, "a b in VXLAN"), (51_830, "-")] {
        let packet = ip("192.168.1.1", "198.51.100.4", 17, &udp(9, port, &wrapped));
        assert_eq!(
            judged(&watch, &ethernet(ME, GATEWAY, &packet), true),
            kind,
            "{port}"
        );
    }
}

#[test]
fn inside_the_location_packets_may_be_in_the_open() {
    let watch = watch();
    let inner = |packet: &[u8]| vxlan(&ethernet(ME, GATEWAY, packet));
    let back = ip("10.244.4.7", "10.244.3.5", 6, &tcp(80, 40_000));
    let from_follower = ip("10.244.3.5", "10.244.4.7", 6, &tcp(40_000, 80));
    // Without a device of the CNI, and wrapped by it.
    assert_eq!(judged(&watch, &ethernet(GATEWAY, ME, &from_follower), false), "-");
    assert_eq!(judged(&watch, &ethernet(ME, GATEWAY, &back), true), "-");
    for (packet, source, destination, outgoing) in [
        (&from_follower, "192.168.3.1", "192.168.1.1", false),
        (&back, "192.168.1.1", "192.168.3.1", true),
        (&from_follower, "192.168.1.1", "192.168.2.1", true),
        (&from_follower, "203.0.113.1", "203.0.113.2", true),
        (&back, "192.168.2.1", "192.168.1.1", false),
    ] {
        for port in [8472, 51_830] {
            let wrapped = ip(source, destination, 17, &udp(9, port, &inner(packet)));
            let frame = ethernet(GATEWAY, ME, &wrapped);
            let kind = judged(&watch, &frame, outgoing);
            assert_eq!(kind, "-", "{source} {destination} {port}");
        }
    }
    // Another leader takes it on, or has brought it; anyone else is on the way to another location.
    for (neighbour, kind) in [(RELAY, "-"), (GATEWAY, "a b")] {
        assert_eq!(
            judged(&watch, &ethernet(ME, neighbour, &pod_to_pod()), true),
            kind
        );
    }
    for (neighbour, kind) in [(RELAY, "-"), (GATEWAY, "b a")] {
        assert_eq!(judged(&watch, &ethernet(neighbour, ME, &back), false), kind);
    }
}

/// What leaves for it may be for another location.
#[test]
fn an_address_that_several_locations_share_is_no_neighbours() {
    let mut mesh = mesh(MeshMode::Leaders);
    let b = mesh.locations.get_mut(&"b".parse().unwrap()).unwrap();
    for member in b.members_mut().values_mut() {
        member.endpoints = vec!["203.0.113.2:51821".parse().unwrap()];
    }
    let wrapped = vxlan(&ethernet(ME, GATEWAY, &pod_to_pod()));
    let packet = ip("203.0.113.1", "203.0.113.2", 17, &udp(9, 8472, &wrapped));
    let frame = ethernet(ME, GATEWAY, &packet);
    assert_eq!(judged(&watch_in(&mesh), &frame, true), "a b in VXLAN");
}

#[test]
fn what_goes_past_the_mesh_by_design_does_not_count() {
    let watch = watch();
    let leaving = |packet: &[u8]| judged(&watch, &ethernet(ME, GATEWAY, packet), true);
    let arriving = |packet: &[u8]| judged(&watch, &ethernet(GATEWAY, ME, packet), false);
    let server = |port| ip("192.168.1.1", "192.168.4.1", 6, &tcp(40_000, port));
    assert_eq!(leaving(&server(6443)), "-");
    assert_eq!(leaving(&server(6444)), "a b");
    assert_eq!(
        arriving(&ip("192.168.4.1", "192.168.1.1", 6, &tcp(6443, 40_000))),
        "-"
    );
    let elsewhere = ip("192.168.1.1", "192.168.5.1", 6, &tcp(40_000, 6443));
    assert_eq!(leaving(&elsewhere), "a c", "another node's port of that number");
    let datagram = ip(
        "192.168.1.1",
        "192.168.4.1",
        17,
        &udp(51_820, 51_820, &wireguard()),
    );
    for (about, kind) in [(&datagram, "-"), (&server(6443), "-"), (&server(80), "b a")] {
        let error = ip("192.168.4.1", "192.168.1.1", 1, &icmp(3, about));
        assert_eq!(arriving(&error), kind);
    }
    let nodes = |kind| ip("fd00:1::1", "fd00:1::4", 58, &icmp(kind, &[]));
    assert_eq!(leaving(&nodes(135)), "-");
    assert_eq!(leaving(&nodes(128)), "a b");
}

#[test]
fn of_fragments_the_first_counts_and_what_is_cut_off_is_known_as_such() {
    let watch = watch();
    let leaving = |packet: &[u8]| judged(&watch, &ethernet(ME, GATEWAY, packet), true);
    for (from, to, kind) in [
        ("192.168.1.1", "192.168.4.1", "wireguard b"),
        ("fd00:1::1", "fd00:1::4", "wireguard b"),
    ] {
        let datagram = udp(51_820, 51_820, &wireguard());
        assert_eq!(leaving(&fragment(from, to, 17, 0, &datagram)), kind);
        assert_eq!(leaving(&fragment(from, to, 17, 8, &datagram)), "-");
        assert_eq!(leaving(&fragment(from, to, 6, 0, &tcp(1, 2))), "a b");
        assert_eq!(leaving(&fragment(from, to, 6, 8, &tcp(1, 2))), "-");
        assert_eq!(leaving(&ip(from, to, 17, &datagram[..7])), "unreadable");
        assert_eq!(leaving(&ip(from, to, 17, &datagram[..11])), "unreadable");
        assert_eq!(leaving(&ip(from, to, 6, &[0; 3])), "unreadable");
    }
    let stranger = ip("192.0.2.1", "192.168.1.1", 17, &[0; 3]);
    assert_eq!(leaving(&stranger), "-", "what strangers cut off is none of ours");
    // A short packet has padding behind it.
    let mut short = ethernet(
        ME,
        GATEWAY,
        &ip("192.168.1.1", "192.168.4.1", 17, &udp(51_820, 1, &[])),
    );
    short.extend([1, 0, 0, 0, 0, 0]);
    assert_eq!(judged(&watch, &short, true), "unreadable");
}

#[test]
fn where_every_node_leads_itself_nodes_of_one_location_count() {
    let watch = watch_in(&mesh(MeshMode::Nodes));
    let to = |destination: &str| {
        let packet = ip("10.244.1.5", destination, 6, &tcp(1, 2));
        let wrapped = ip(
            "192.168.1.1",
            "192.168.3.1",
            17,
            &udp(9, 8472, &vxlan(&ethernet(ME, GATEWAY, &packet))),
        );
        [packet, wrapped].map(|packet| judged(&watch, &ethernet(ME, GATEWAY, &packet), true))
    };
    assert_eq!(to("10.244.3.5"), ["a a", "a a in VXLAN"]);
    assert_eq!(
        to("10.244.1.9"),
        ["-", "a a"],
        "what wraps it is between two nodes, too"
    );
}

#[test]
fn without_a_header_of_ethernet_packets_begin_with_that_of_ip() {
    let watch = watch();
    let packet = pod_to_pod();
    let frame = Frame {
        bytes: &packet,
        ethernet: false,
        outgoing: true,
    };
    assert!(matches!(
        watch.judge(&frame, &BTreeSet::new()),
        Kind::Plaintext(_)
    ));
}

#[test]
fn a_large_mesh_is_filtered_by_a_short_program() {
    let mut mesh = mesh(MeshMode::Leaders);
    let b = mesh.locations.get_mut(&"b".parse().unwrap()).unwrap();
    let members: BTreeMap<NodeName, Member> = (0..5000_u16)
        .map(|index| {
            let [high, low] = index.to_be_bytes();
            let mut member = member(4);
            member.addresses = [[172, 16 + high, low, 1].into()].into();
            member.prefixes = [Prefix::new([100, 64 + high, low, 0].into(), 24).unwrap()].into();
            (format!("n{index}").parse().unwrap(), member)
        })
        .collect();
    b.members = Arc::new(members);
    let watch = watch_in(&mesh);
    // The kernel takes 4096 instructions (BPF_MAXINSNS).
    let program = watch.filter(Part::Rest);
    assert!(program.len() < 300, "{}", program.len());
    assert!(takes(&program, &ip("10.244.1.5", "100.70.9.9", 6, &tcp(1, 2))));
    assert!(!takes(&program, &ip("10.244.1.5", "8.8.8.8", 6, &tcp(1, 2))));
}
