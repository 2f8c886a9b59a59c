//! Peers that are attached, as the status has them.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use spanwire_crds::AttachedPeer;

use super::{
    preshared::{LAPTOP, with_laptop},
    *,
};

/// The counters of the laptop and of another leader, with handshakes of this age.
fn counters(age: u64) -> BTreeMap<PublicKey, PeerStats> {
    let stats = PeerStats {
        handshake: Some(Duration::from_secs(age)),
        handshake_at: Some(Duration::from_secs(1_000_000)),
        received: 1,
        ..PeerStats::default()
    };
    [(LAPTOP, stats), (PublicKey::new([2; 32]), stats)].into()
}

fn said(connected: bool) -> Vec<AttachedPeer> {
    vec![AttachedPeer {
        peer: "laptop".to_owned(),
        connected,
        last_handshake: Time(Timestamp::from_second(1_000_000).unwrap()),
    }]
}

fn status(state: &mut NodeState) -> MeshNodeStatus {
    state.poll_status(Timestamp::UNIX_EPOCH).unwrap()
}

#[test]
fn the_status_names_the_peers_that_are_attached_and_whether_they_are_connected() {
    let now = Instant::now();
    let mut state = state(&with_laptop(false), now);
    let target = state.poll_target(now).unwrap();
    state.handle_outcome(taken(&target, &[]), now);
    assert_eq!(
        status(&mut state).attached_peers,
        [],
        "there was no handshake yet"
    );
    state.handle_device(reading(None, counters(3)), now);
    assert_eq!(status(&mut state).attached_peers, said(true), "leaders are none");
    state.handle_device(reading(None, counters(603)), now + 600 * SECOND);
    assert_eq!(
        status(&mut state).attached_peers,
        said(true),
        "it may have nothing to say"
    );
    state.handle_device(reading(None, counters(1_203)), now + 1_200 * SECOND);
    assert_eq!(status(&mut state).attached_peers, said(false));
    assert!(state.handle_snapshot(&retiring(with_laptop(false)), now));
    assert_eq!(status(&mut state).attached_peers, []);
}

#[test]
fn what_was_reported_before_the_agent_started_again_is_reported_again() {
    let now = Instant::now();
    for connected in [true, false] {
        let mut snapshot = with_laptop(false);
        let mut node = MeshNode::new("a", MeshNodeSpec::default());
        node.status = Some(MeshNodeStatus {
            attached_peers: said(connected),
            ..MeshNodeStatus::default()
        });
        snapshot.node = Some(Arc::new(node));
        let mut state = state(&snapshot, now);
        let target = state.poll_target(now).unwrap();
        state.handle_outcome(taken(&target, &[]), now);
        state.handle_device(reading(None, BTreeMap::new()), now);
        assert_eq!(status(&mut state).attached_peers, said(connected), "{connected}");
    }
}
