mod attached;
mod avoided;
mod conditions;
mod preshared;
mod silent;
mod unreached;

use std::time::Duration;

use spanwire_crds::{LocationSlice, MeshNodeSpec, MeshNodeStatus, publication::slices};
use spanwire_host::{Cni, LinkName, OtherLink, WireGuardPeer};
use spanwire_topology::{Generation, Leader, LeaderRole, Location, Member};

use super::*;
use crate::{
    liveness::{Judgement, Subject as Watched},
    target::PeerUpdates,
};

const SECOND: Duration = Duration::from_secs(1);

/// Leaders `a` and `b` of locations of the same names; `c` follows `a`.
fn mesh(established: bool) -> Mesh {
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
    mesh
}

fn snapshot(established: bool) -> Snapshot {
    published(&mesh(established))
}

fn published(mesh: &Mesh) -> Snapshot {
    let slices = slices(mesh, &BTreeMap::new()).into_iter();
    Snapshot {
        slices: slices
            .map(|(name, spec)| (name.clone(), Arc::new(LocationSlice::new(&name, spec))))
            .collect(),
        peers: BTreeMap::new(),
        node: Some(Arc::new(MeshNode::new("a", MeshNodeSpec::default()))),
    }
}

/// The state of a node of [`mesh`], with a first outcome.
fn state_of(me: &str, mesh: &Mesh, now: Instant) -> NodeState {
    let mut state = NodeState::new(me.parse().unwrap(), Owned::default(), BTreeSet::new());
    state.handle_snapshot(&published(mesh), now);
    state.handle_survey(survey(), now);
    state.handle_outcome(Outcome::default(), now);
    state
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

fn inventory() -> Inventory {
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
            (name("eth0"), link(1500, &[("10.1.0.1", 32)])),
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

fn state(snapshot: &Snapshot, now: Instant) -> NodeState {
    let mut state = NodeState::new("a".parse().unwrap(), Owned::default(), BTreeSet::new());
    assert!(state.handle_snapshot(snapshot, now));
    assert!(state.poll_target(now).is_none(), "before the machine is known");
    state.handle_survey(survey(), now);
    state
}

fn survey() -> Survey {
    Survey {
        identity: Some((PublicKey::new([1; 32]), spanwire_crds::Backend::Kernel)),
        inventory: Some(inventory()),
        device: DeviceReading::default(),
    }
}

fn reading(device: Option<&WireGuard>, peers: BTreeMap<PublicKey, PeerStats>) -> DeviceReading {
    DeviceReading {
        device: device.cloned(),
        peers,
    }
}

/// An outcome in which the device took what it was given, but for the refused peers.
fn taken(target: &Target, refused: &[PublicKey]) -> Outcome {
    let refused: BTreeSet<PublicKey> = refused.iter().copied().collect();
    let updates = PeerUpdates {
        given: target.endpoints.clone(),
        renewed: &target.renewals.keys().copied().collect::<BTreeSet<_>>() - &refused,
        refused,
    };
    Outcome {
        peers: Some(updates),
        ..Outcome::default()
    }
}

/// That no way reaches these locations.
fn unreached(names: &[&str]) -> Judgement {
    Judgement {
        unreached: names.iter().map(|name| name.parse().unwrap()).collect(),
        ..Judgement::default()
    }
}

/// The device as the state wants it, with what it counts for its only peer.
fn device(state: &NodeState, stats: PeerStats) -> (WireGuard, BTreeMap<PublicKey, PeerStats>) {
    let mut device = state.host().wireguard(&Owned::default().link).cloned().unwrap();
    for peer in device.peers.values_mut() {
        peer.endpoint = stats.endpoint;
    }
    (device, [(PublicKey::new([2; 32]), stats)].into())
}

fn answering() -> PeerStats {
    PeerStats {
        endpoint: Some("192.0.2.2:51820".parse().unwrap()),
        handshake: Some(SECOND),
        handshake_at: Some(100 * SECOND),
        received: 92,
        sent: 0,
    }
}

#[test]
fn a_leader_gives_a_new_peer_its_endpoint_and_then_leaves_it_alone() {
    let now = Instant::now();
    let mut state = state(&snapshot(true), now);
    let target = state.poll_target(now).unwrap();
    let given = [(PublicKey::new([2; 32]), "192.0.2.2:51820".parse().unwrap())];
    assert_eq!(target.endpoints, given.into());
    state.handle_outcome(taken(&target, &[]), now);
    let roamed = PeerStats {
        endpoint: Some("203.0.113.9:7".parse().unwrap()),
        ..answering()
    };
    let (device, peers) = device(&state, roamed);
    assert!(!state.handle_device(reading(Some(&device), peers), now));
    assert!(state.poll_target(now).unwrap().endpoints.is_empty());
}

/// A peer that has an endpoint and never answers is recreated a few times, however the other steps fare.
#[test]
fn a_peer_is_recreated_only_as_often_as_designed_while_another_step_always_fails() {
    let start = Instant::now();
    let mut state = state(&snapshot(true), start);
    let silent = PeerStats {
        received: 0,
        handshake: None,
        handshake_at: None,
        ..answering()
    };
    let run = |state: &mut NodeState, refused: &[PublicKey], from: u32| -> (usize, usize) {
        let (mut renewals, mut given) = (0, 0);
        for tenth in from..from + 100 {
            let now = start + tenth * SECOND / 10;
            let (device, peers) = device(state, silent);
            state.handle_device(reading(Some(&device), peers), now);
            let target = state.poll_target(now).unwrap();
            renewals += target.renewals.len();
            given += target.endpoints.len();
            let mut outcome = taken(&target, refused);
            outcome.failed = 1;
            outcome.troubles = vec![Trouble::Machine("a sysctl is read-only".to_owned())];
            state.handle_outcome(outcome, now);
        }
        (renewals, given)
    };
    assert_eq!(run(&mut state, &[], 0), (3, 3));
    // With a peer that the device refuses, it is tried for as long as that goes on.
    let mut state = self::state(&snapshot(true), start);
    let (renewals, _) = run(&mut state, &[PublicKey::new([2; 32])], 0);
    assert!(renewals > 50, "{renewals}");
}

#[test]
fn a_device_that_cannot_be_made_is_news_and_so_is_one_that_is_there_again() {
    let now = Instant::now();
    let mut state = state(&snapshot(true), now);
    let target = state.poll_target(now).unwrap();
    let (device, peers) = device(&state, answering());
    let mut outcome = |device, peers: &BTreeMap<PublicKey, PeerStats>| {
        let outcome = Outcome {
            device: Some(reading(device, peers.clone())),
            ..taken(&target, &[])
        };
        (state.handle_outcome(outcome, now), state.facts.lacks_tunnel)
    };
    let none = BTreeMap::new();
    assert_eq!(outcome(Some(&device), &peers), (false, false));
    assert_eq!(outcome(None, &none), (true, true));
    assert_eq!(outcome(None, &none), (false, true));
    assert_eq!(outcome(Some(&device), &peers), (true, false));
}

#[test]
fn without_an_attempt_nothing_counts_as_taken() {
    let now = Instant::now();
    let mut state = state(&snapshot(true), now);
    let target = state.poll_target(now).unwrap();
    let unreadable = Outcome {
        troubles: vec![Trouble::Machine("cannot read the routes".to_owned())],
        ..Outcome::default()
    };
    state.handle_outcome(unreadable, now);
    assert_eq!(state.poll_target(now).unwrap().endpoints, target.endpoints);
    assert_eq!(state.troubles().map(<[Trouble]>::len), Some(1));
}

#[test]
fn a_device_that_another_program_changed_is_something_to_do() {
    let now = Instant::now();
    let mut state = state(&snapshot(true), now);
    let (good, peers) = device(&state, answering());
    let target = state.poll_target(now).unwrap();
    state.handle_outcome(taken(&target, &[]), now);
    assert!(!state.handle_device(reading(Some(&good), peers.clone()), now));
    assert!(
        state.handle_device(reading(None, BTreeMap::new()), now),
        "no device"
    );
    let mut without_peer = good.clone();
    without_peer.peers.clear();
    assert!(
        state.handle_device(reading(Some(&without_peer), BTreeMap::new()), now),
        "no peer"
    );
    let mut ungrouped = good.clone();
    ungrouped.peers.values_mut().for_each(|peer| peer.group = None);
    assert!(
        state.handle_device(reading(Some(&ungrouped), peers.clone()), now),
        "no group"
    );
    let mut elsewhere = good.clone();
    elsewhere.listen_port += 1;
    assert!(
        state.handle_device(reading(Some(&elsewhere), peers.clone()), now),
        "another port"
    );
    // Where there are no groups none is wanted, so nothing differs for ever.
    let groups = false;
    let inventory = Inventory {
        groups,
        ..inventory()
    };
    state.handle_inventory(inventory);
    assert!(!state.handle_device(reading(Some(&ungrouped), peers.clone()), now));
    state.handle_inventory(self::inventory());
    let mut strange = good;
    strange
        .peers
        .insert(PublicKey::new([9; 32]), WireGuardPeer::default());
    assert!(
        state.handle_device(reading(Some(&strange), peers), now),
        "a strange peer"
    );
}

#[test]
fn what_did_not_change_is_not_rendered_again() {
    let now = Instant::now();
    let mut state = state(&snapshot(true), now);
    let first = state.host();
    let (device, peers) = device(&state, answering());
    state.handle_device(reading(Some(&device), peers), now);
    state.handle_survey(survey(), now);
    state.handle_snapshot(&snapshot(true), now);
    assert!(Arc::ptr_eq(&first, &state.host()), "nothing changed");
    state.handle_inventory(Inventory {
        underlay_mtu: Some(9000),
        ..inventory()
    });
    let second = state.host();
    assert_ne!(first, second);
    assert!(state.handle_snapshot(&snapshot(false), now));
    assert_ne!(second, state.host());
}

#[test]
fn a_follower_has_no_device_and_needs_no_timer() {
    let now = Instant::now();
    let mut state = NodeState::new("c".parse().unwrap(), Owned::default(), BTreeSet::new());
    state.handle_snapshot(&snapshot(false), now);
    state.handle_survey(survey(), now);
    assert!(!state.handle_device(DeviceReading::default(), now));
    assert_eq!((state.leads(), state.poll_timeout(now)), (false, None));
    assert!(state.host().devices.is_empty());
    let through = Watched::Through("a".parse().unwrap(), "b".parse().unwrap());
    assert_eq!(state.in_use(), [through].into());
}

#[test]
fn a_snapshot_that_changes_nothing_here_is_no_change() {
    let now = Instant::now();
    let mut state = state(&snapshot(true), now);
    assert!(!state.handle_snapshot(&snapshot(true), now));
    let mut reported = snapshot(true);
    let mut node = MeshNode::new("a", MeshNodeSpec::default());
    node.status = Some(MeshNodeStatus::default());
    reported.node = Some(Arc::new(node));
    assert!(!state.handle_snapshot(&reported, now), "its own report");
    assert!(state.handle_snapshot(&snapshot(false), now));
}

#[test]
fn an_established_location_is_enforced_when_every_node_has_had_time_to_follow() {
    let now = Instant::now();
    let mut state = state(&snapshot(true), now);
    let before = state.host();
    assert!(!state.handle_timeout(now + 29 * SECOND));
    assert!(state.handle_timeout(now + 30 * SECOND));
    assert_eq!(state.enforced(), &["b".parse().unwrap()].into());
    assert_ne!(state.host().nft, before.nft);
}

#[test]
fn a_node_that_retires_wants_nothing_and_reports_nothing_else() {
    let now = Instant::now();
    let mut state = state(&snapshot(true), now);
    assert!(state.watch().is_some());
    assert!(state.handle_snapshot(&retiring(snapshot(true)), now));
    assert!(state.watch().is_none());
    let target = state.poll_target(now).unwrap();
    assert_eq!((&*target.host, target.retire), (&Host::default(), true));
    assert!(!state.handle_device(DeviceReading::default(), now));
    assert_eq!((state.leads(), state.poll_timeout(now)), (false, None));
    let retired = Outcome {
        retired: true,
        ..Outcome::default()
    };
    state.handle_outcome(retired, now);
    assert!(state.poll_target(now).is_none(), "there is nothing left to do");
    let status = state
        .poll_status(k8s_openapi::jiff::Timestamp::UNIX_EPOCH)
        .unwrap();
    assert!(status.retired);
    assert_eq!((status.public_key, status.links), (None, Vec::new()));
    assert!(state.handle_snapshot(&snapshot(true), now));
    assert!(!state.poll_target(now).unwrap().retire, "it comes back");
}

#[test]
fn the_status_says_what_others_need_and_what_is_wrong() {
    let (now, time) = (Instant::now(), k8s_openapi::jiff::Timestamp::UNIX_EPOCH);
    let mut state = state(&snapshot(true), now);
    assert_eq!(state.poll_status(time), None, "before the first attempt");
    state.handle_outcome(Outcome::default(), now);
    let status = state.poll_status(time).unwrap();
    assert_eq!(status.public_key, Some(PublicKey::new([1; 32]).to_string()));
    assert_eq!(
        (status.listen_port, status.cni.as_deref()),
        (Some(51_820), Some("flannel-vxlan"))
    );
    assert_eq!(status.hop_addresses, ["10.244.1.0"]);
    assert_eq!(status.mtu, Some(1500), "what the uplinks take, not the tunnel");
    assert_eq!(status.conditions[0].status, "True");
    let down = spanwire_crds::Link {
        location: "b".to_owned(),
        up: false,
    };
    assert_eq!(status.links, std::slice::from_ref(&down));

    let (device, peers) = device(&state, answering());
    state.handle_device(reading(Some(&device), peers), now);
    let failed = Outcome {
        troubles: vec![Trouble::Machine("no way".to_owned())],
        ..Outcome::default()
    };
    state.handle_outcome(failed, now);
    let status = state.poll_status(time).unwrap();
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
    let mut follower = NodeState::new("c".parse().unwrap(), Owned::default(), BTreeSet::new());
    assert_eq!(follower.listen_port(), None);
    follower.handle_snapshot(&snapshot(false), now);
    assert!(follower.plan().tunnel.is_none());
    assert_eq!(follower.listen_port(), Some(51_820));
}

#[test]
fn a_node_that_the_cluster_forgot_goes_on_and_says_so() {
    let now = Instant::now();
    let mut state = state(&snapshot(true), now);
    let before = state.host();
    let me = "a".parse().unwrap();
    let forgotten = Snapshot {
        slices: BTreeMap::new(),
        ..snapshot(true)
    };
    let (followed, unpublished) = Arc::new(forgotten).or_before(Some(&snapshot(true)), &me);
    assert!(state.handle_unpublished(unpublished) && !state.handle_snapshot(&followed, now));
    assert_eq!(state.host(), before);
    state.handle_outcome(Outcome::default(), now);
    assert_eq!(state.troubles(), Some(&[Trouble::Unpublished][..]));
    assert!(state.handle_unpublished(false));
    state.handle_outcome(Outcome::default(), now);
    assert_eq!(state.troubles(), Some(&[][..]));
}

#[test]
fn a_leader_says_that_the_process_of_its_tunnels_is_about_to_end_where_one_carries_them() {
    let now = Instant::now();
    let mut state = state(&snapshot(true), now);
    assert!(!state.handle_draining(true), "the kernel carries them");
    let identity = Some((PublicKey::new([1; 32]), spanwire_crds::Backend::Userspace));
    let survey = Survey { identity, ..survey() };
    state.handle_survey(survey, now);
    let says = |state: &NodeState| state.assignment().partners.draining;
    assert!(!says(&state));
    assert!(state.handle_draining(true) && !state.handle_draining(true));
    assert!(says(&state));
    assert!(state.handle_draining(false) && !says(&state));
}

#[test]
fn the_device_is_wanted_with_the_mtu_of_the_way_out() {
    let now = Instant::now();
    let mut state = state(&snapshot(true), now);
    let mtu = |state: &NodeState| state.host().devices.values().next().map(|device| device.mtu);
    assert_eq!(mtu(&state), Some(1440), "IPv4 alone has a default route");
    let (device, mut peers) = device(&state, answering());
    peers
        .values_mut()
        .for_each(|peer| peer.endpoint = Some("[2001:db8::2]:51820".parse().unwrap()));
    state.handle_survey(
        Survey {
            device: reading(Some(&device), peers),
            ..survey()
        },
        now,
    );
    assert_eq!(mtu(&state), Some(1420), "it talks over IPv6");
}

#[test]
fn what_is_observed_of_leaders_is_acted_upon_and_outlives_a_publication() {
    let now = Instant::now();
    let mut mesh = mesh(true);
    let standby = Leader {
        node: "c".parse().unwrap(),
        role: LeaderRole::Standby,
    };
    let a: LocationName = "a".parse().unwrap();
    mesh.locations.get_mut(&a).unwrap().leaders.push(standby);
    let mut state = NodeState::new("b".parse().unwrap(), Owned::default(), BTreeSet::new());
    state.handle_facts(|facts| facts.public_key = Some(PublicKey::new([2; 32])));
    state.handle_snapshot(&published(&mesh), now);
    let receives = |state: &NodeState, number: u8| {
        let host = state.host();
        let peers = &host.wireguard(&Owned::default().link).unwrap().peers;
        let allowed = &peers[&PublicKey::new([number; 32])].allowed_ips;
        (allowed.contains(&"10.244.1.0/24".parse().unwrap()), allowed.len())
    };
    assert_eq!(
        (receives(&state, 1), receives(&state, 3)),
        ((true, 5), (false, 1))
    );
    let far = |leader: &str| [Watched::Far("a".parse().unwrap(), leader.parse().unwrap())].into();
    assert_eq!(state.in_use(), far("a"));

    let mut seen = Reachability::default();
    seen.observe_far(a.clone(), "a".parse().unwrap(), false);
    assert!(state.handle_reachability(seen.clone()));
    assert_eq!(
        (receives(&state, 1), receives(&state, 3)),
        ((false, 1), (true, 5))
    );
    assert_eq!(state.in_use(), far("c"));
    assert!(!state.handle_reachability(seen.clone()), "no news");
    mesh.generation = Generation(8);
    state.handle_snapshot(&published(&mesh), now);
    assert_eq!(receives(&state, 3), (true, 5));

    // The link is judged by the leader that is sent to.
    let fresh = PeerStats {
        endpoint: None,
        handshake: Some(SECOND),
        handshake_at: Some(100 * SECOND),
        received: 1,
        sent: 1,
    };
    let reading = |key: u8| DeviceReading {
        device: None,
        peers: [(PublicKey::new([key; 32]), fresh)].into(),
    };
    state.handle_device(reading(3), now);
    assert_eq!(state.links(), &[(a, true)].into());

    assert!(state.handle_reachability(Reachability::default()));
    assert_eq!(receives(&state, 1), (true, 5));
}
