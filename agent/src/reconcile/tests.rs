use std::time::Duration;

use spanwire_crds::{LocationSlice, MeshNodeSpec, MeshNodeStatus, publication::slices};
use spanwire_host::{Cni, LinkName, OtherLink, WireGuardPeer};
use spanwire_topology::{Generation, Leader, Location, Member};

use super::*;

const SECOND: Duration = Duration::from_secs(1);

/// Leaders `a` and `b` of locations of the same names; `c` follows `a`.
fn snapshot(established: bool) -> Snapshot {
    let mut mesh = Mesh {
        generation: Generation(7),
        ..Mesh::default()
    };
    for (location, node, number) in [("a", "a", 1), ("b", "b", 2), ("a", "c", 3)] {
        let other = if location == "a" { "b" } else { "a" };
        let of_it = mesh
            .locations
            .entry(location.parse().unwrap())
            .or_insert_with(|| Location {
                leaders: vec![Leader {
                    node: node.parse().unwrap(),
                    role: LeaderRole::Active,
                }],
                established: established.then(|| other.parse().unwrap()).into_iter().collect(),
                ..Location::default()
            });
        of_it.members_mut().insert(node.parse().unwrap(), member(number));
    }
    let slices = slices(&mesh, &BTreeMap::new()).into_iter();
    Snapshot {
        slices: slices
            .map(|(name, spec)| (name.clone(), Arc::new(LocationSlice::new(&name, spec))))
            .collect(),
        peers: BTreeMap::new(),
        node: Some(Arc::new(MeshNode::new("a", MeshNodeSpec::default()))),
    }
}

fn member(number: u8) -> Member {
    Member {
        generation: Generation(7),
        addresses: [format!("10.1.0.{number}").parse().unwrap()].into(),
        prefixes: [format!("10.244.{number}.0/24").parse().unwrap()].into(),
        overlay: [format!("10.4.0.{number}").parse().unwrap()].into(),
        public_key: Some(PublicKey::new([number; 32])),
        endpoints: vec![format!("192.0.2.{number}:51820").parse().unwrap()],
        listen_port: 51_820,
        ..Member::default()
    }
}

fn retiring(mut snapshot: Snapshot) -> Snapshot {
    let spec = MeshNodeSpec {
        retire: true,
        ..MeshNodeSpec::default()
    };
    snapshot.node = Some(Arc::new(MeshNode::new("a", spec)));
    snapshot
}

fn look() -> Inventory {
    let link = |mtu, addresses: &[(&str, u8)]| OtherLink {
        mtu,
        addresses: addresses
            .iter()
            .map(|(address, length)| (address.parse().unwrap(), *length))
            .collect(),
        ..OtherLink::default()
    };
    let name = |name| LinkName::new(name).unwrap();
    Inventory {
        links: [
            (name("eth0"), link(1500, &[("10.1.0.1", 24)])),
            (
                name("flannel.1"),
                link(1450, &[("10.244.1.0", 32), ("fe80::1", 64)]),
            ),
        ]
        .into(),
        cni: Cni::Overlay {
            links: [name("flannel.1")].into(),
        },
        underlay_mtu: Some(1500),
        default_routes: [Family::V4].into(),
        groups: true,
        ..Inventory::default()
    }
}

fn agent(snapshot: &Snapshot, now: Instant) -> Agent {
    let mut agent = Agent::new("a".parse().unwrap(), Owned::default(), BTreeSet::new());
    agent.handle_identity(PublicKey::new([1; 32]));
    agent.handle_backend(spanwire_crds::Backend::Kernel);
    assert!(agent.handle_snapshot(snapshot, now));
    agent.handle_look(look());
    agent
}

fn wanted_device(agent: &Agent, given: BTreeMap<PublicKey, SocketAddr>) -> Option<WireGuard> {
    let wanted = agent.wanted(given);
    wanted.wireguard(&Owned::default().link).cloned()
}

/// The device as the agent wants it, with what it counts for its only peer.
fn device(agent: &Agent, seen: Seen) -> (WireGuard, BTreeMap<PublicKey, Seen>) {
    let mut device = wanted_device(agent, BTreeMap::new()).unwrap();
    for peer in device.peers.values_mut() {
        peer.endpoint = seen.endpoint;
    }
    (device, [(PublicKey::new([2; 32]), seen)].into())
}

fn answering() -> Seen {
    Seen {
        endpoint: Some("192.0.2.2:51820".parse().unwrap()),
        handshake: Some(SECOND),
        received: 92,
    }
}

#[test]
fn a_leader_gives_a_new_peer_its_endpoint_and_then_leaves_it_alone() {
    let now = Instant::now();
    let mut agent = agent(&snapshot(true), now);
    let given = agent.poll_endpoints(now);
    assert_eq!(
        given,
        [(PublicKey::new([2; 32]), "192.0.2.2:51820".parse().unwrap())].into()
    );
    let wanted = wanted_device(&agent, given.clone()).unwrap();
    assert_eq!(
        wanted.peers[&PublicKey::new([2; 32])].endpoint,
        given.values().next().copied()
    );
    agent.handle_given(&given, &BTreeSet::new(), now);
    let roamed = Seen {
        endpoint: Some("203.0.113.9:7".parse().unwrap()),
        ..answering()
    };
    let (device, seen) = device(&agent, roamed);
    assert!(!agent.handle_device(Some(&device), seen, now));
    assert!(agent.poll_endpoints(now).is_empty());
}

#[test]
fn a_device_that_somebody_changed_is_something_to_do() {
    let now = Instant::now();
    let mut agent = agent(&snapshot(true), now);
    let (good, seen) = device(&agent, answering());
    agent.handle_given(
        &[(PublicKey::new([2; 32]), "192.0.2.2:51820".parse().unwrap())].into(),
        &BTreeSet::new(),
        now,
    );
    assert!(!agent.handle_device(Some(&good), seen.clone(), now));
    assert!(agent.handle_device(None, BTreeMap::new(), now), "no device");
    let mut without_peer = good.clone();
    without_peer.peers.clear();
    assert!(
        agent.handle_device(Some(&without_peer), BTreeMap::new(), now),
        "no peer"
    );
    let mut ungrouped = good.clone();
    ungrouped.peers.values_mut().for_each(|peer| peer.group = None);
    assert!(
        agent.handle_device(Some(&ungrouped), seen.clone(), now),
        "no group"
    );
    // Where there are no groups none is wanted, so nothing differs for ever.
    let groups = false;
    agent.handle_look(Inventory { groups, ..look() });
    assert!(!agent.handle_device(Some(&ungrouped), seen.clone(), now));
    agent.handle_look(look());
    let mut strange = good;
    strange
        .peers
        .insert(PublicKey::new([9; 32]), WireGuardPeer::default());
    assert!(agent.handle_device(Some(&strange), seen, now), "a strange peer");
}

#[test]
fn a_follower_has_no_device_and_needs_no_timer() {
    let now = Instant::now();
    let mut agent = Agent::new("c".parse().unwrap(), Owned::default(), BTreeSet::new());
    agent.handle_snapshot(&snapshot(false), now);
    agent.handle_look(look());
    assert!(!agent.handle_device(None, BTreeMap::new(), now));
    assert_eq!((agent.leads(), agent.poll_timeout(now)), (false, None));
    assert!(agent.wanted(BTreeMap::new()).devices.is_empty());
}

#[test]
fn a_snapshot_that_changes_nothing_here_is_no_change() {
    let now = Instant::now();
    let mut agent = agent(&snapshot(true), now);
    assert!(!agent.handle_snapshot(&snapshot(true), now));
    let mut reported = snapshot(true);
    let mut node = MeshNode::new("a", MeshNodeSpec::default());
    node.status = Some(MeshNodeStatus::default());
    reported.node = Some(Arc::new(node));
    assert!(!agent.handle_snapshot(&reported, now), "its own report");
    assert!(agent.handle_snapshot(&snapshot(false), now));
}

#[test]
fn an_established_location_is_enforced_when_everybody_has_had_time_to_follow() {
    let now = Instant::now();
    let mut agent = agent(&snapshot(true), now);
    let before = agent.wanted(BTreeMap::new());
    assert!(!agent.handle_timeout(now + 29 * SECOND));
    assert!(agent.handle_timeout(now + 30 * SECOND));
    assert_eq!(agent.settled(), &["b".parse().unwrap()].into());
    assert_ne!(agent.wanted(BTreeMap::new()).nft, before.nft);
}

#[test]
fn a_node_that_retires_wants_nothing_and_reports_nothing_else() {
    let now = Instant::now();
    let mut agent = agent(&snapshot(true), now);
    assert!(agent.handle_snapshot(&retiring(snapshot(true)), now));
    assert_eq!(agent.wanted(BTreeMap::new()), Host::default());
    assert!(!agent.handle_device(None, BTreeMap::new(), now));
    assert_eq!((agent.leads(), agent.poll_timeout(now)), (false, None));
    agent.handle_reconciled(Vec::new(), true);
    let status = agent
        .poll_status(k8s_openapi::jiff::Timestamp::UNIX_EPOCH)
        .unwrap();
    assert!(status.retired);
    assert_eq!((status.public_key, status.links), (None, Vec::new()));
}

#[test]
fn the_status_says_what_others_need_and_what_is_wrong() {
    let (now, time) = (Instant::now(), k8s_openapi::jiff::Timestamp::UNIX_EPOCH);
    let mut agent = agent(&snapshot(true), now);
    assert_eq!(agent.poll_status(time), None, "before the first attempt");
    agent.handle_reconciled(Vec::new(), false);
    let status = agent.poll_status(time).unwrap();
    assert_eq!(status.public_key, Some(PublicKey::new([1; 32]).to_string()));
    assert_eq!(
        (status.listen_port, status.cni.as_deref()),
        (Some(51_820), Some("flannel-vxlan"))
    );
    assert_eq!(status.hop_addresses, ["10.244.1.0"]);
    assert_eq!(status.conditions[0].status, "True");
    let down = spanwire_crds::Link {
        location: "b".to_owned(),
        up: false,
    };
    assert_eq!(status.links, std::slice::from_ref(&down));

    let (device, seen) = device(&agent, answering());
    agent.handle_device(Some(&device), seen, now);
    agent.handle_reconciled(vec!["no way".to_owned()], false);
    let status = agent.poll_status(time).unwrap();
    assert_eq!(status.links, [spanwire_crds::Link { up: true, ..down }]);
    assert_eq!(
        (
            status.conditions[0].status.as_str(),
            status.conditions[0].message.as_str()
        ),
        ("False", "no way")
    );
}

#[test]
fn the_port_is_known_before_there_is_a_device() {
    let now = Instant::now();
    let mut follower = Agent::new("c".parse().unwrap(), Owned::default(), BTreeSet::new());
    assert_eq!(follower.listen_port(), None);
    follower.handle_snapshot(&snapshot(false), now);
    assert!(follower.plan().tunnel.is_none());
    assert_eq!(follower.listen_port(), Some(51_820));
}

#[test]
fn a_node_that_the_cluster_forgot_goes_on_and_says_so() {
    let now = Instant::now();
    let mut agent = agent(&snapshot(true), now);
    let before = agent.wanted(BTreeMap::new());
    let me = "a".parse().unwrap();
    let forgotten = Snapshot {
        slices: BTreeMap::new(),
        ..snapshot(true)
    };
    let (followed, unpublished) = Arc::new(forgotten).or_before(Some(&snapshot(true)), &me);
    assert!(agent.handle_unpublished(unpublished) && !agent.handle_snapshot(&followed, now));
    assert_eq!(agent.wanted(BTreeMap::new()), before);
    let says = |agent: &Agent| {
        let mut conflicts = agent.conflicts().into_iter();
        conflicts.any(|text| text.contains("no LocationSlice has this node any more"))
    };
    assert!(says(&agent));
    assert!(agent.handle_unpublished(false) && !says(&agent));
}

#[test]
fn the_device_is_wanted_with_the_mtu_of_the_way_out() {
    let now = Instant::now();
    let mut agent = agent(&snapshot(true), now);
    let mtu = |agent: &Agent| {
        agent
            .wanted(BTreeMap::new())
            .devices
            .values()
            .next()
            .map(|device| device.mtu)
    };
    assert_eq!(mtu(&agent), Some(1440), "IPv4 alone has a default route");
    let (device, mut seen) = device(&agent, answering());
    seen.values_mut()
        .for_each(|seen| seen.endpoint = Some("[2001:db8::2]:51820".parse().unwrap()));
    agent.handle_device(Some(&device), seen, now);
    agent.handle_look(look());
    assert_eq!(mtu(&agent), Some(1420), "it talks over IPv6");
}
