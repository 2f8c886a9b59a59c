use std::collections::BTreeSet;

use super::*;
use crate::wireguard::PeerUpdate;

#[test]
fn changes_are_said_in_the_words_of_the_protocol() {
    let changes = [
        Change::Device {
            private_key: PrivateKey::new([0xab; 32]),
            listen_port: 51_820,
            mark: 0x2000,
        },
        Change::Peer(PeerUpdate {
            key: PublicKey::new([1; 32]),
            endpoint: Some("[2001:db8::1]:51820".parse().unwrap()),
            keepalive: Some(None),
            group: Some(Some("paris".parse().unwrap())),
            without_preshared: false,
            add: ["10.0.0.0/24", "fd00::/64"]
                .map(|text| text.parse().unwrap())
                .into(),
        }),
        Change::Peer(PeerUpdate {
            key: PublicKey::new([2; 32]),
            endpoint: None,
            keepalive: None,
            group: Some(None),
            without_preshared: true,
            add: BTreeSet::new(),
        }),
        Change::RemovePeer(PublicKey::new([3; 32])),
    ];
    let expected = format!(
        "set=1\nprivate_key={}\nlisten_port=51820\nfwmark=8192\n\
         public_key={}\nendpoint=[2001:db8::1]:51820\npersistent_keepalive_interval=0\n\
         allowed_ip=10.0.0.0/24\nallowed_ip=fd00::/64\ngroup=paris\n\
         public_key={}\npreshared_key={:064}\ngroup=\npublic_key={}\nremove=true\n\n",
        "ab".repeat(32),
        "01".repeat(32),
        "02".repeat(32),
        0,
        "03".repeat(32),
    );
    assert_eq!(request(&changes).as_str(), expected);
}

#[test]
fn an_answer_gives_the_device_and_skips_what_is_unknown() {
    let answer = format!(
        "private_key={}\nlisten_port=7\nfwmark=8192\nnew_in_2040=1\n\
         public_key={}\npreshared_key={}\nprotocol_version=1\nendpoint=192.0.2.1:3\nlast_handshake_time_sec=4\n\
         rx_bytes=1\npersistent_keepalive_interval=25\ngroup=paris\nallowed_ip=10.0.0.0/24\nallowed_ip=fd00::1/128\n\
         public_key={}\npersistent_keepalive_interval=0\ngroup=No_location\nerrno=0\n\n",
        "ab".repeat(32),
        "01".repeat(32),
        "0a".repeat(32),
        "02".repeat(32),
    );
    let device = parse(&answer).unwrap();
    assert_eq!(device.public_key, Some(PrivateKey::new([0xab; 32]).public()));
    assert_eq!((device.listen_port, device.mark), (7, 0x2000));
    let peers: Vec<_> = device.peers.values().cloned().collect();
    let first = WireGuardPeer {
        endpoint: Some("192.0.2.1:3".parse().unwrap()),
        keepalive: Some(Keepalive(25)),
        group: Some("paris".parse().unwrap()),
        preshared: true,
        allowed_ips: ["10.0.0.0/24", "fd00::1"]
            .map(|text| text.parse().unwrap())
            .into(),
    };
    assert_eq!(peers, [first, WireGuardPeer::default()]);
}

#[test]
fn a_no_and_nonsense_are_errors_and_no_error_shows_a_key() {
    assert!(matches!(
        parse("errno=-22\n\n"),
        Err(UapiError::Refused { errno: Errno::EINVAL })
    ));
    assert!(matches!(
        parse("errno=98\n\n"),
        Err(UapiError::Refused {
            errno: Errno::EADDRINUSE
        })
    ));
    for nonsense in ["", "hello\n\n", "errno=x\n\n", "public_key=zz\nerrno=0\n\n"] {
        assert!(
            matches!(parse(nonsense), Err(UapiError::Malformed { .. })),
            "{nonsense}"
        );
    }
    let error = parse("private_key=123\nerrno=0\n\n").unwrap_err();
    assert!(!error.to_string().contains("123"), "{error}");
}
