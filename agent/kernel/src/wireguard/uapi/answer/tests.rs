use std::time::Duration;

use super::*;

fn read(answer: &str) -> Result<(WireGuard, Stats), UapiError> {
    parse(answer, SystemTime::UNIX_EPOCH, &mut AllowedIps::default())
}

fn prefixes(texts: &[&str]) -> Arc<BTreeSet<Prefix>> {
    Arc::new(texts.iter().map(|text| text.parse().unwrap()).collect())
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
    let device = read(&answer).unwrap().0;
    assert_eq!(device.public_key, Some(PrivateKey::new([0xab; 32]).public()));
    assert_eq!((device.listen_port, device.mark), (7, 0x2000));
    let peers: Vec<_> = device.peers.values().cloned().collect();
    let first = WireGuardPeer {
        endpoint: Some("192.0.2.1:3".parse().unwrap()),
        keepalive: Some(Keepalive(25)),
        group: Some("paris".parse().unwrap()),
        preshared: PresharedKey::new([10; 32]),
        allowed_ips: prefixes(&["10.0.0.0/24", "fd00::1"]),
    };
    assert_eq!(peers, [first, WireGuardPeer::default()]);
}

#[test]
fn a_no_and_nonsense_are_errors_and_no_error_shows_a_key() {
    assert!(matches!(
        read("errno=-22\n\n"),
        Err(UapiError::Refused { errno: Errno::EINVAL })
    ));
    assert!(matches!(
        read("errno=98\n\n"),
        Err(UapiError::Refused {
            errno: Errno::EADDRINUSE
        })
    ));
    let short = format!("public_key={}\npreshared_key=77\nerrno=0\n\n", "01".repeat(32));
    for nonsense in [
        "",
        "hello\n\n",
        "errno=x\n\n",
        "public_key=zz\nerrno=0\n\n",
        &short,
    ] {
        assert!(
            matches!(read(nonsense), Err(UapiError::Malformed { .. })),
            "{nonsense}"
        );
    }
    for (keys, bytes) in [("private_key=123\nerrno=0\n\n", "123"), (&short, "77")] {
        let error = read(keys).unwrap_err();
        assert!(!error.to_string().contains(bytes), "{error}");
    }
}

#[test]
fn counters_are_those_of_each_peer() {
    let answer = format!(
        "listen_port=7\nrx_bytes=9\npublic_key={}\nendpoint=192.0.2.1:3\nlast_handshake_time_sec=4\n\
         last_handshake_time_nsec=5\nrx_bytes=6\ntx_bytes=7\npublic_key={}\nlast_handshake_time_sec=0\n\
         last_handshake_time_nsec=0\nrx_bytes=many\nerrno=0\n\n",
        "01".repeat(32),
        "02".repeat(32),
    );
    let now = SystemTime::UNIX_EPOCH + Duration::new(10, 5);
    let (_, stats) = parse(&answer, now, &mut AllowedIps::default()).unwrap();
    let first = PeerStats {
        endpoint: Some("192.0.2.1:3".parse().unwrap()),
        handshake: Some(Duration::from_secs(6)),
        handshake_at: Some(Duration::new(4, 5)),
        received: 6,
        sent: 7,
    };
    let expected = [
        (PublicKey::new([1; 32]), first),
        (PublicKey::new([2; 32]), PeerStats::default()),
    ];
    assert_eq!(stats, expected.into());
}

/// An answer of one peer with these lines.
fn answer(lines: &[&str]) -> String {
    let mut text = format!("public_key={}\n", "01".repeat(32));
    for line in lines {
        text += line;
        text += "\n";
    }
    text + "errno=0\n\n"
}

#[test]
fn allowed_ips_are_read_again_only_where_their_lines_are_others() {
    let mut known = AllowedIps::default();
    let mut allowed = |lines: &[&str]| {
        let (device, _) = parse(&answer(lines), SystemTime::UNIX_EPOCH, &mut known).unwrap();
        Arc::clone(&device.peers[&PublicKey::new([1; 32])].allowed_ips)
    };
    let two = ["allowed_ip=10.0.0.0/24", "allowed_ip=10.0.1.0/24"];
    let first = allowed(&two);
    assert_eq!(first, prefixes(&["10.0.0.0/24", "10.0.1.0/24"]));
    assert!(Arc::ptr_eq(&first, &allowed(&["rx_bytes=1", two[0], two[1]])));
    for (lines, expected) in [
        // One more, one less, another one, the same otherwise.
        (
            &[two[0], two[1], "allowed_ip=10.0.2.0/24"][..],
            &["10.0.0.0/24", "10.0.1.0/24", "10.0.2.0/24"][..],
        ),
        (&two[..1], &["10.0.0.0/24"]),
        (&["allowed_ip=10.0.0.0/25"], &["10.0.0.0/25"]),
        (&[], &[]),
        (&two, &["10.0.0.0/24", "10.0.1.0/24"]),
        (
            &["allowed_ip=10.0.0.0/24", "rx_bytes=1", "allowed_ip=10.0.1.0/24"],
            &["10.0.0.0/24", "10.0.1.0/24"],
        ),
    ] {
        assert_eq!(allowed(lines), prefixes(expected), "{lines:?}");
    }
}

#[test]
fn an_allowed_ip_that_is_none_is_an_error_and_nothing_of_before_is_taken_for_it() {
    let mut known = AllowedIps::default();
    let mut read = |line: &str| parse(&answer(&[line]), SystemTime::UNIX_EPOCH, &mut known);
    assert!(read("allowed_ip=10.0.0.0/24").is_ok());
    let error = read("allowed_ip=10.0.0.0/33").unwrap_err();
    assert!(error.to_string().contains("10.0.0.0/33"), "{error}");
    let (device, _) = read("allowed_ip=10.0.0.0/24").unwrap();
    let peers: Vec<_> = device.peers.into_values().map(|peer| peer.allowed_ips).collect();
    assert_eq!(peers, [prefixes(&["10.0.0.0/24"])]);
}
