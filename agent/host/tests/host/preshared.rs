//! Preshared keys: who needs one is in the device with it or not at all.

use std::sync::Arc;

use spanwire_host::{Host, LinkName, PresharedKey, Step, WireGuardPeer, diff, render};

use crate::samples::{self, key, link, prefix};

fn device() -> LinkName {
    link("spanwire0")
}

fn preshared(byte: u8) -> Option<PresharedKey> {
    PresharedKey::new([byte; 32])
}

fn laptop(host: &Host) -> &WireGuardPeer {
    &host.wireguard(&device()).unwrap().peers[&key(99)]
}

fn change(host: &mut Host, change: impl Fn(&mut WireGuardPeer)) {
    for (_, wireguard) in host.wireguards_mut() {
        change(wireguard.peers.get_mut(&key(99)).unwrap());
    }
}

fn texts(steps: &[Step]) -> Vec<String> {
    steps.iter().map(ToString::to_string).collect()
}

#[test]
fn a_peer_without_its_key_is_left_out_and_one_without_need_of_one_gets_none() {
    let (plan, mut facts) = samples::preshared();
    let host = render(&plan, &facts);
    assert_eq!(laptop(&host).preshared, preshared(7));
    assert!(
        !host.wireguard(&device()).unwrap().peers.contains_key(&key(98)),
        "its key is not known"
    );

    facts.preshared.insert(key(98), preshared(8).unwrap());
    assert!(
        render(&plan, &facts)
            .wireguard(&device())
            .unwrap()
            .peers
            .contains_key(&key(98))
    );

    // What is known of a peer that is to have none is nothing to it.
    let (plan, _) = samples::with_peers();
    assert_eq!(laptop(&render(&plan, &facts)).preshared, None);
}

#[test]
fn another_key_ends_the_session_and_none_any_more_does_not() {
    let (plan, facts) = samples::preshared();
    let wanted = render(&plan, &facts);
    let mut actual = wanted.clone();
    change(&mut actual, |peer| {
        peer.preshared = None;
        peer.endpoint = Some("192.0.2.9:7".parse().unwrap());
    });
    let expected = format!(
        "peer set {} dev spanwire0 recreated endpoint 192.0.2.9:7 preshared-key (hidden) add 10.9.0.1/32",
        key(99)
    );
    assert_eq!(texts(&diff(&actual, &wanted)), [expected.as_str()]);
    change(&mut actual, |peer| peer.preshared = preshared(8));
    assert_eq!(texts(&diff(&actual, &wanted)), [expected]);
    assert_eq!(diff(&wanted, &wanted), []);

    let (plan, facts) = samples::with_peers();
    let taken = diff(&wanted, &render(&plan, &facts));
    assert!(texts(&taken).contains(&format!("peer set {} dev spanwire0 preshared-key -", key(99))));
}

#[test]
fn a_peer_that_is_made_again_keeps_what_another_is_about_to_get() {
    let (plan, facts) = samples::preshared();
    let wanted = render(&plan, &facts);
    let mut actual = wanted.clone();
    let moving = prefix("10.244.21.0/24");
    change(&mut actual, |peer| {
        peer.preshared = None;
        let allowed = Arc::make_mut(&mut peer.allowed_ips);
        allowed.insert(moving);
        allowed.insert(prefix("10.250.0.0/16"));
    });
    for (_, wireguard) in actual.wireguards_mut() {
        let b1 = wireguard.peers.get_mut(&key(21)).unwrap();
        Arc::make_mut(&mut b1.allowed_ips).remove(&moving);
    }
    let steps = texts(&diff(&actual, &wanted));
    assert!(steps[0].ends_with("add 10.9.0.1/32,10.244.21.0/24"), "{steps:?}");
    assert!(
        steps[1].starts_with(&format!("peer set {}", key(21))),
        "{steps:?}"
    );
    assert_eq!(steps.len(), 2, "{steps:?}");
}

#[test]
fn no_text_of_a_machine_or_of_its_steps_shows_a_key() {
    let (plan, facts) = samples::preshared();
    let host = render(&plan, &facts);
    let steps = diff(&Host::default(), &host);
    let shown = format!(
        "{host} {host:?} {facts:?} {plan} {plan:?} {} {steps:?}",
        texts(&steps).join(" ")
    );
    assert!(shown.contains("preshared-key (hidden)") && shown.contains("PresharedKey(…)"));
    let bytes = [7_u8; 32];
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    // In base64, in hexadecimal, and as a list of numbers.
    for text in [
        "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=",
        &hex,
        &format!("{bytes:?}"),
    ] {
        assert!(!shown.contains(text), "{text}");
    }
}
