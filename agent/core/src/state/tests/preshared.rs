//! Preshared keys.

use spanwire_crds::{AcceptedPeer, Peer, PeerSpec, PeerStatus, PresharedKeySecretRef, UnkeyedPeer};
use spanwire_host::PresharedKey;
use spanwire_topology::SecretKeyRef;

use super::*;
use crate::preshared::Unread;

pub(super) const LAPTOP: PublicKey = PublicKey::new([99; 32]);

fn reference() -> SecretKeyRef {
    "keys/laptop".parse().unwrap()
}

fn preshared(byte: u8) -> PresharedKey {
    PresharedKey::new([byte; 32]).unwrap()
}

/// The mesh with a Peer of location `a` that is reached at an address, with a preshared key or without one.
pub(super) fn with_laptop(has_key: bool) -> Snapshot {
    let accepted = AcceptedPeer {
        public_key: LAPTOP.to_string(),
        allowed_ips: vec!["10.99.0.1/32".to_owned()],
        endpoint: Some("198.51.100.9:7".to_owned()),
        preshared_key_secret_ref: has_key.then(|| PresharedKeySecretRef::from(&reference())),
        home: Some("a".to_owned()),
        attachments: vec!["a".to_owned()],
        ..AcceptedPeer::default()
    };
    let spec = PeerSpec {
        public_key: LAPTOP.to_string(),
        allowed_ips: accepted.allowed_ips.clone(),
        endpoint: None,
        persistent_keepalive: None,
        location: None,
        preshared_key_secret_ref: None,
    };
    let mut peer = Peer::new("laptop", spec);
    peer.status = Some(PeerStatus {
        accepted: Some(accepted),
        ..PeerStatus::default()
    });
    let mut snapshot = snapshot(true);
    snapshot.peers.insert("laptop".to_owned(), Arc::new(peer));
    snapshot
}

fn wanted(state: &NodeState) -> WireGuard {
    let name = LinkName::new("spanwire0").unwrap();
    state.host().wireguard(&name).unwrap().clone()
}

#[test]
fn a_peer_is_wanted_with_its_key_or_not_at_all_and_nothing_is_due_for_want_of_it() {
    let now = Instant::now();
    let mut state = state(&with_laptop(true), now);
    assert_eq!(state.preshared_references(), [reference()].into());
    assert!(!wanted(&state).peers.contains_key(&LAPTOP));
    assert!(!state.poll_target(now).unwrap().endpoints.contains_key(&LAPTOP));
    let target = state.poll_target(now).unwrap();
    state.handle_outcome(taken(&target, &[]), now);
    let (device, stats) = device(&state, answering());
    assert!(
        !state.handle_device(reading(Some(&device), stats), now),
        "nothing is to be done without the key"
    );

    assert!(state.handle_preshared(reference(), Ok(preshared(1))));
    assert_eq!(wanted(&state).peers[&LAPTOP].preshared, Some(preshared(1)));
    let endpoint = state.poll_target(now).unwrap().endpoints[&LAPTOP];
    assert_eq!(endpoint, "198.51.100.9:7".parse().unwrap());
    assert!(
        !state.handle_preshared(reference(), Ok(preshared(1))),
        "it is the same"
    );
    assert!(state.handle_preshared(reference(), Ok(preshared(2))));

    // The reference is taken off, and the key with it.
    assert!(state.handle_snapshot(&with_laptop(false), now));
    assert_eq!(wanted(&state).peers[&LAPTOP].preshared, None);
    assert!(state.preshared_references().is_empty() && state.preshared_to_remember().is_empty());
}

#[test]
fn what_the_device_has_stays_while_nothing_answers() {
    let now = Instant::now();
    let mut state = NodeState::new("a".parse().unwrap(), Owned::default(), BTreeSet::new());
    state.handle_snapshot(&with_laptop(true), now);
    let left = WireGuardPeer {
        preshared: Some(preshared(3)),
        ..WireGuardPeer::default()
    };
    let found = WireGuard {
        peers: [(LAPTOP, left)].into(),
        ..WireGuard::default()
    };
    let survey = Survey {
        device: reading(Some(&found), BTreeMap::new()),
        ..survey()
    };
    state.handle_survey(survey, now);
    let unanswered = Unread::Unanswered("silence".to_owned());
    state.handle_preshared(reference(), Err(unanswered));
    assert_eq!(wanted(&state).peers[&LAPTOP].preshared, Some(preshared(3)));
    assert!(state.handle_preshared(reference(), Err(Unread::Withdrawn("gone".to_owned()))));
    assert!(!wanted(&state).peers.contains_key(&LAPTOP));
}

#[test]
fn the_status_names_who_is_left_out_and_why_and_nothing_else_is_wrong() {
    let now = Instant::now();
    let mut state = state(&with_laptop(true), now);
    let target = state.poll_target(now).unwrap();
    state.handle_outcome(taken(&target, &[]), now);
    let status = |state: &mut NodeState| state.poll_status(Timestamp::UNIX_EPOCH).unwrap();
    assert_eq!(status(&mut state).unkeyed_peers, [], "it is being read");
    state.handle_preshared(
        reference(),
        Err(Unread::Withdrawn("there is no Secret keys".to_owned())),
    );
    let said = status(&mut state);
    let unkeyed = UnkeyedPeer {
        peer: "laptop".to_owned(),
        cause: "there is no Secret keys".to_owned(),
    };
    assert_eq!(said.unkeyed_peers, [unkeyed]);
    let found: Vec<_> = said
        .conditions
        .iter()
        .map(|it| (it.type_.as_str(), it.reason.as_str()))
        .collect();
    assert_eq!(
        found,
        [("Ready", "AllWell"), ("PresharedKeys", "PresharedKeyUnknown")]
    );
    assert!(
        said.conditions[1]
            .message
            .starts_with("the Peer laptop is left out")
    );

    state.handle_preshared(reference(), Ok(preshared(1)));
    state.handle_preshared(reference(), Err(Unread::Forbidden("agents may not".to_owned())));
    let said = status(&mut state);
    assert_eq!(
        (said.conditions[1].reason.as_str(), said.unkeyed_peers.len()),
        ("PresharedKeyNotRead", 0)
    );
    assert!(state.handle_snapshot(&retiring(with_laptop(true)), now));
    assert_eq!(status(&mut state).conditions.len(), 1);
    assert!(state.preshared_references().is_empty());
}
