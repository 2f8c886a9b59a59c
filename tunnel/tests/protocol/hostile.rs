//! Whatever comes in, nothing panics, and nothing but the peer's own packets comes out.

use std::time::Duration;

use proptest::prelude::*;
use spanwire_tunnel::uapi::{Reply, Session};

use crate::bench::{Bench, converse, packet, pair};

/// Datagrams that begin as WireGuard's do, of every length around the real ones.
fn datagram() -> impl Strategy<Value = Vec<u8>> {
    let kind = prop_oneof![
        (1..5u8).prop_map(|kind| vec![kind, 0, 0, 0]),
        any::<[u8; 4]>().prop_map(Vec::from)
    ];
    let rest = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..200),
        Just(vec![0; 144]),
        Just(vec![0; 88]),
        Just(vec![0xff; 60]),
        prop::collection::vec(any::<u8>(), 28..29),
    ];
    (kind, rest).prop_map(|(mut kind, rest)| {
        kind.extend(rest);
        kind
    })
}

/// Lines of a `set`, right and wrong, long and strange.
fn line() -> impl Strategy<Value = String> {
    let key = prop::sample::select(vec![
        "private_key",
        "listen_port",
        "fwmark",
        "replace_peers",
        "public_key",
        "preshared_key",
        "endpoint",
        "persistent_keepalive_interval",
        "replace_allowed_ips",
        "allowed_ip",
        "update_only",
        "remove",
        "protocol_version",
    ]);
    let value = prop_oneof![
        Just("true".to_owned()),
        "[0-9a-f]{64}",
        "[0-9]{0,7}",
        "-?[0-9.]{1,15}/[0-9]{1,3}",
        "-?[0-9a-f:]{1,20}/[0-9]{1,3}",
        "\\[[0-9a-f:%]{1,20}\\]:[0-9]{1,5}",
        any::<String>(),
    ];
    prop_oneof![
        8 => (key, value).prop_map(|(key, value)| format!("{key}={value}")),
        1 => any::<String>(),
        1 => prop::sample::select(vec!["", "get=1", "set=1", "="]).prop_map(str::to_owned),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn random_datagrams_are_dropped(datagrams in prop::collection::vec(datagram(), 0..50)) {
        let (mut a, mut b) = pair();
        for datagram in datagrams {
            b.hear(a.at, &datagram);
        }
        prop_assert!(b.delivered().is_empty());
        a.emit(&packet("10.0.1.1", "10.0.2.1", 9));
        converse(&mut a, &mut b);
        prop_assert_eq!(b.delivered().len(), 1, "the session lives on");
    }

    #[test]
    fn changed_datagrams_are_dropped(
        payload in 0..100usize,
        changes in prop::collection::vec((any::<prop::sample::Index>(), 1..=255u8), 1..4),
        cut in any::<prop::sample::Index>(),
    ) {
        let (mut a, mut b) = pair();
        let c = Bench::new(2);
        a.emit(&packet("10.0.1.1", "10.0.2.1", payload));
        let (_, data) = a.kept.sent.remove(0);
        a.set(&[&format!("public_key={}", c.key()), "endpoint=192.0.2.3:1"]);
        let (_, initiation) = a.kept.sent.remove(0);
        // The last 16 bytes of an initiation are its cookie's MAC, which counts only under load.
        let checked = [data.len(), initiation.len() - 16];
        for (original, checked) in [data, initiation].into_iter().zip(checked) {
            let mut changed = original.clone();
            for (at, by) in &changes {
                let at = at.index(checked);
                changed[at] ^= by;
            }
            if changed != original {
                b.hear(a.at, &changed);
            }
            b.hear(a.at, &original[..cut.index(original.len())]);
        }
        prop_assert!(b.delivered().is_empty());
        prop_assert!(b.kept.sent.iter().all(|(_, datagram)| datagram[0] != 2), "a changed initiation is answered");
    }

    #[test]
    fn broken_packets_from_the_interface_or_a_peer_harm_nobody(
        mut bytes in prop::collection::vec(any::<u8>(), 20..200),
        real in any::<bool>(),
    ) {
        let (mut a, mut b) = pair();
        if real {
            let header = packet("10.0.1.1", "10.0.2.1", 0);
            bytes[0] = 0x45;
            bytes[12..20].copy_from_slice(&header[12..20]);
        }
        a.emit(&bytes);
        converse(&mut a, &mut b);
        for delivered in b.delivered() {
            prop_assert!(bytes.starts_with(&delivered) || delivered.starts_with(&bytes));
        }
    }

    #[test]
    fn random_configuration_never_panics(lines in prop::collection::vec(line(), 0..60)) {
        let mut bench = Bench::new(1);
        let mut session = Session::default();
        for line in ["set=1".to_owned()].iter().chain(&lines) {
            if session.handle_line(bench.now, line, &mut [&mut bench.device], &mut bench.kept) == Reply::HangUp {
                session = Session::default();
            }
        }
        session.handle_end(bench.now, &mut [&mut bench.device], &mut bench.kept);
        prop_assert!(bench.get().ends_with("errno=0\n\n"));
    }
}

/// Public keys with which everybody knows the secret, as the kernel's own test has them, in hexadecimal.
const LOW_ORDER: [&str; 7] = [
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
];

#[test]
fn a_peer_whose_secret_everybody_knows_is_sent_nothing() {
    for key in LOW_ORDER {
        let mut a = Bench::new(1);
        a.set(&[
            &format!("public_key={key}"),
            "endpoint=192.0.2.9:9",
            "allowed_ip=10.0.2.0/24",
            "persistent_keepalive_interval=1",
        ]);
        for _ in 0..10 {
            a.emit(&packet("10.0.1.1", "10.0.2.1", 8));
            a.wait(Duration::from_secs(1));
        }
        assert!(a.kept.sent.is_empty(), "{key}: {:?}", a.kept.sent);
    }
}

#[test]
fn a_replayed_initiation_is_not_answered() {
    let (mut a, mut b) = (Bench::new(1), Bench::new(2));
    b.know(&a, false);
    a.know(&b, true);
    let (_, initiation) = a.kept.sent[0].clone();
    converse(&mut a, &mut b);
    b.hear("203.0.113.9:9".parse().unwrap(), &initiation);
    assert!(b.kept.sent.is_empty());
    assert_eq!(b.peer().endpoint, Some(a.at));
}

#[test]
fn packets_for_a_peer_that_is_away_take_bounded_memory() {
    let (mut a, mut b) = (Bench::new(1), Bench::new(2));
    b.know(&a, false);
    a.know(&b, true);
    for _ in 0..10_000 {
        a.emit(&packet("10.0.1.1", "10.0.2.1", 1380));
    }
    converse(&mut a, &mut b);
    let arrived = b.delivered().len();
    assert!(
        (40..=64).contains(&arrived),
        "{arrived} packets of 1400 bytes waited"
    );
}
