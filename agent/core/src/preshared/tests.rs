use std::sync::Arc;

use spanwire_host::WireGuardPeer;

use super::*;

const LAPTOP: PublicKey = PublicKey::new([1; 32]);
const PHONE: PublicKey = PublicKey::new([2; 32]);

fn reference(text: &str) -> SecretKeyRef {
    text.parse().unwrap()
}

fn key(byte: u8) -> PresharedKey {
    PresharedKey::new([byte; 32]).unwrap()
}

fn plan(peers: &[(PublicKey, &str, Option<&str>)]) -> BTreeMap<PublicKey, TunnelPeer> {
    let peer = |(key, name, preshared): &(PublicKey, &str, Option<&str>)| {
        let peer = TunnelPeer {
            party: Party::Peer(name.parse().unwrap()),
            overlay: BTreeSet::new(),
            endpoints: Vec::new(),
            keepalive: None,
            preshared: preshared.map(reference),
            group: None,
            allowed_ips: BTreeSet::new(),
        };
        (*key, peer)
    };
    peers.iter().map(peer).collect()
}

fn device(peers: &[(PublicKey, u8)]) -> WireGuard {
    let peer = |(key, byte): &(PublicKey, u8)| {
        let peer = WireGuardPeer {
            preshared: PresharedKey::new([*byte; 32]),
            allowed_ips: Arc::default(),
            ..WireGuardPeer::default()
        };
        (*key, peer)
    };
    WireGuard {
        peers: peers.iter().map(peer).collect(),
        ..WireGuard::default()
    }
}

fn forbidden() -> Unread {
    Unread::Forbidden("no".to_owned())
}

fn unanswered() -> Unread {
    Unread::Unanswered("silence".to_owned())
}

fn withdrawn() -> Unread {
    Unread::Withdrawn("gone".to_owned())
}

#[test]
fn only_what_attached_peers_need_is_read_and_one_key_may_be_for_several() {
    let mut keys = PresharedKeys::default();
    keys.handle_plan(&plan(&[(LAPTOP, "laptop", Some("s/k")), (PHONE, "phone", None)]));
    assert_eq!(keys.references(), [reference("s/k")].into());
    assert!(keys.admits(&PHONE) && !keys.admits(&LAPTOP));
    keys.handle_read(reference("s/other"), Ok(key(9)));
    keys.handle_read(reference("s/k"), Ok(key(1)));
    assert_eq!(keys.known(), [(LAPTOP, key(1))].into());
    assert_eq!(keys.to_remember(), [(reference("s/k"), key(1))].into());
    keys.handle_plan(&plan(&[
        (LAPTOP, "laptop", Some("s/k")),
        (PHONE, "phone", Some("s/k")),
    ]));
    assert_eq!(keys.known(), [(LAPTOP, key(1)), (PHONE, key(1))].into());
}

#[test]
fn silence_and_refusals_leave_a_key_and_what_the_secret_says_does_not() {
    let mut keys = PresharedKeys::default();
    keys.handle_plan(&plan(&[(LAPTOP, "laptop", Some("s/k"))]));
    keys.handle_device(None);
    assert_eq!(keys.problems(), [], "it is being read");
    keys.handle_read(reference("s/k"), Err(unanswered()));
    let text = keys.problems()[0].to_string();
    assert!(
        text.contains("Peer laptop") && text.contains("k in the Secret s): silence"),
        "{text}"
    );
    keys.handle_read(reference("s/k"), Ok(key(1)));
    assert_eq!(keys.problems(), []);
    keys.handle_read(reference("s/k"), Err(unanswered()));
    assert_eq!((keys.problems(), keys.known().len()), (vec![], 1));
    keys.handle_read(reference("s/k"), Err(forbidden()));
    assert!(keys.problems()[0].is_known && keys.known().len() == 1);
    keys.handle_read(reference("s/k"), Ok(key(2)));
    assert_eq!(
        (keys.problems(), keys.known()),
        (vec![], [(LAPTOP, key(2))].into())
    );
    keys.handle_read(reference("s/k"), Err(withdrawn()));
    assert_eq!(
        (keys.known(), keys.to_remember()),
        (BTreeMap::new(), BTreeMap::new())
    );
    keys.handle_read(reference("s/k"), Err(unanswered()));
    assert!(!keys.admits(&LAPTOP) && !keys.problems()[0].is_known);
}

#[test]
fn a_reference_that_changes_leaves_no_key_of_the_other_one() {
    let mut keys = PresharedKeys::default();
    keys.handle_plan(&plan(&[(LAPTOP, "laptop", Some("s/k"))]));
    keys.handle_device(None);
    keys.handle_read(reference("s/k"), Ok(key(1)));
    keys.handle_plan(&plan(&[(LAPTOP, "laptop", Some("s/new"))]));
    assert!(!keys.admits(&LAPTOP) && keys.to_remember().is_empty());
    // It comes back: it may have changed meanwhile.
    keys.handle_plan(&plan(&[(LAPTOP, "laptop", Some("s/k"))]));
    assert!(!keys.admits(&LAPTOP));
}

#[test]
fn what_was_known_before_the_start_serves_until_something_answers() {
    let mut keys = PresharedKeys::default();
    keys.remember([(reference("s/k"), key(1)), (reference("s/left"), key(3))].into());
    keys.handle_plan(&plan(&[(LAPTOP, "laptop", Some("s/k"))]));
    assert_eq!(keys.known(), [(LAPTOP, key(1))].into());
    assert_eq!(keys.to_remember(), [(reference("s/k"), key(1))].into());
    keys.handle_device(Some(&device(&[(LAPTOP, 5)])));
    assert_eq!(
        keys.known(),
        [(LAPTOP, key(1))].into(),
        "what the device has is older"
    );
}

#[test]
fn what_the_device_has_serves_where_nothing_else_is_known_and_only_at_the_start() {
    let laptop = plan(&[(LAPTOP, "laptop", Some("s/k")), (PHONE, "phone", Some("s/p"))]);
    let mut keys = PresharedKeys::default();
    keys.handle_plan(&laptop);
    keys.handle_device(Some(&device(&[(LAPTOP, 5), (PHONE, 0)])));
    assert_eq!(keys.known(), [(LAPTOP, key(5))].into());
    assert!(
        keys.to_remember().is_empty(),
        "the Secret may have another by now"
    );
    keys.handle_read(reference("s/k"), Err(unanswered()));
    assert!(keys.admits(&LAPTOP) && keys.problems().is_empty());
    keys.handle_device(Some(&device(&[(PHONE, 6)])));
    assert!(!keys.admits(&PHONE), "another program has set it since");
    keys.handle_read(reference("s/k"), Err(withdrawn()));
    assert!(!keys.admits(&LAPTOP));

    // What the device has is the key of another reference: the Peer was given another one meanwhile.
    let mut keys = PresharedKeys::default();
    keys.remember([(reference("s/before"), key(5))].into());
    keys.handle_plan(&laptop);
    keys.handle_device(Some(&device(&[(LAPTOP, 5)])));
    assert!(!keys.admits(&LAPTOP));
}
