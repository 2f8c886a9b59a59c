use super::*;

#[test]
fn every_key_is_read() {
    let (parsed, problems) = read(
        &[
            (LOCATION, "a"),
            (ENDPOINT, "192.0.2.1:51820, [2001:db8::1]:51820,vpn.example.com:1"),
            (INTERNAL_IP, "10.1.0.5/24,fd00::5"),
            (LEADER, "true"),
            (PERSISTENT_KEEPALIVE, "25"),
            (LOCATION_CIDRS, "192.168.10.0/24, fd00:10::/64"),
            (LISTEN_PORT, "51821"),
        ],
        false,
    );
    assert_eq!(problems, Vec::<String>::new());
    assert_eq!(parsed.location, Some("a".parse().unwrap()));
    assert_eq!(parsed.endpoints.len(), 3);
    assert_eq!(
        parsed.internal,
        Some(["10.1.0.5".parse().unwrap(), "fd00::5".parse().unwrap()].into())
    );
    assert_eq!(parsed.leader, Some(true));
    assert_eq!(parsed.keepalive, Some(Keepalive(25)));
    assert_eq!(parsed.cidrs.len(), 2);
    assert_eq!(parsed.listen_port, Some(51821));
}

#[test]
fn what_cannot_be_read_is_named_with_its_remedy_and_the_rest_counts() {
    let bad = [
        (LOCATION, "My Site", "has the character 'M'"),
        (ENDPOINT, "192.0.2.1", "has no port; write host:port"),
        (INTERNAL_IP, "10.1.0.5/99", "is no address; write one like"),
        (INTERNAL_IP, "127.0.0.1", "write the node's address in its LAN"),
        (INTERNAL_IP, "fe80::5", "write the node's address in its LAN"),
        (
            INTERNAL_IP,
            "169.254.7.1/16",
            "write the node's address in its LAN",
        ),
        (
            INTERNAL_IP,
            "255.255.255.255",
            "write the node's address in its LAN",
        ),
        (INTERNAL_IP, "::ffff:10.1.0.5", "write 10.1.0.5"),
        (LEADER, "yes", "write one of these"),
        (PERSISTENT_KEEPALIVE, "65536", "from 0 to 65535"),
        (LOCATION_CIDRS, "10.0.0.1/24", "write 10.0.0.0/24"),
        (LISTEN_PORT, "0", "from 1 to 65535"),
    ];
    for (key, value, remedy) in bad {
        let (_, problems) = read(&[(key, value)], false);
        assert_eq!(problems.len(), 1, "{key}={value}");
        assert!(problems[0].contains(remedy), "{}", problems[0]);
        assert!(
            problems[0].contains(key) && problems[0].contains(value),
            "{}",
            problems[0]
        );
    }
    let (parsed, problems) = read(&[(LOCATION_CIDRS, "x,10.0.0.0/24"), (LEADER, "maybe")], false);
    assert_eq!((parsed.cidrs.len(), problems.len()), (1, 2));
    assert!(read(&[(LOCATION, &"x".repeat(64))], false).1[0].contains("at most 63"));
}

#[test]
fn every_udp_port_may_be_listened_on_and_nothing_else() {
    for port in [1_u16, 53, 500, 1023, 1024, u16::MAX] {
        let (parsed, problems) = read(&[(LISTEN_PORT, &port.to_string())], false);
        assert_eq!((parsed.listen_port, problems.len()), (Some(port), 0));
    }
    for bad in ["0", "65536", "-1", "+500", "0500", "500/udp", "http", "", "5e2"] {
        let (parsed, problems) = read(&[(LISTEN_PORT, bad)], false);
        assert_eq!(parsed.listen_port, None, "{bad}");
        assert!(
            problems[0].contains("write a number from 1 to 65535"),
            "{problems:?}"
        );
    }
}

#[test]
fn a_dash_means_no_address_at_all() {
    assert_eq!(
        read(&[(INTERNAL_IP, "-")], false).0.internal,
        Some(BTreeSet::new())
    );
    assert_eq!(read(&[], false).0.internal, None);
    assert_eq!(read(&[(INTERNAL_IP, "x")], false).0.internal, None);
}

#[test]
fn a_mistyped_key_is_reported_with_those_that_exist() {
    let (_, problems) = read(&[("spanwire.dev/leeder", "true")], false);
    assert!(problems[0].contains("spanwire.dev/leeder") && problems[0].contains("leader"));
}

#[test]
fn kilos_keys_are_read_on_request_and_ours_win() {
    let kilo = [
        ("kilo.squat.ai/location", "k"),
        ("kilo.squat.ai/force-endpoint", "192.0.2.9:51820"),
        ("kilo.squat.ai/leader", ""),
        ("kilo.squat.ai/endpoint", "discovered by kilo"),
    ];
    assert_eq!(read(&kilo, false).0, Annotations::default());
    let (parsed, problems) = read(&kilo, true);
    assert_eq!(problems, Vec::<String>::new());
    assert_eq!(parsed.location, Some("k".parse().unwrap()));
    assert_eq!(parsed.endpoints.len(), 1);
    assert_eq!(parsed.leader, Some(true));
    let both = [("kilo.squat.ai/location", "k"), (LOCATION, "ours")];
    assert_eq!(read(&both, true).0.location, Some("ours".parse().unwrap()));
}

#[test]
fn what_cannot_be_read_is_marked_so_that_what_was_there_stays() {
    for (key, bad, field) in [
        (LOCATION, "B", Field::Location),
        (ENDPOINT, "nowhere", Field::Endpoints),
        (INTERNAL_IP, "x", Field::Addresses),
        (INTERNAL_IP, "", Field::Addresses),
        (INTERNAL_IP, ",", Field::Addresses),
        (ENDPOINT, "", Field::Endpoints),
        (ENDPOINT, " , ", Field::Endpoints),
        (LOCATION_CIDRS, "", Field::Cidrs),
        (LOCATION_CIDRS, ",,", Field::Cidrs),
        (LEADER, "maybe", Field::Leader),
        (PERSISTENT_KEEPALIVE, "often", Field::Keepalive),
        (LOCATION_CIDRS, "10.0.0.0/24,x", Field::Cidrs),
        (LISTEN_PORT, "http", Field::ListenPort),
    ] {
        assert_eq!(read(&[(key, bad)], false).0.unread, [field].into(), "{key}={bad}");
    }
    assert_eq!(
        read(&[(LOCATION, "b"), (INTERNAL_IP, "-")], false).0.unread,
        BTreeSet::new()
    );
}

#[test]
fn a_list_without_items_is_a_mistake_but_in_kilos_keys() {
    for (key, remedy) in [
        (ENDPOINT, "write one like 203.0.113.7:51820"),
        (INTERNAL_IP, "- for none"),
        (LOCATION_CIDRS, "write one like 192.168.10.0/24"),
    ] {
        for nothing in ["", " ", ",", " ,, "] {
            let (_, problems) = read(&[(key, nothing)], false);
            assert_eq!(problems.len(), 1, "{key}={nothing:?}: {problems:?}");
            let named = problems[0].contains(key) && problems[0].contains("remove the annotation");
            assert!(named && problems[0].contains(remedy), "{}", problems[0]);
        }
    }
    for key in ["force-endpoint", "allowed-location-ips", "force-internal-ip"] {
        for nothing in ["", ","] {
            let (parsed, problems) = read(&[(&format!("kilo.squat.ai/{key}"), nothing)], true);
            assert_eq!(
                (problems.len(), parsed.unread),
                (0, BTreeSet::new()),
                "{key}={nothing:?}"
            );
        }
    }
}

#[test]
fn of_a_long_list_the_first_values_count_and_the_rest_is_reported_once() {
    let endpoints: Vec<String> = (1..=20).map(|port| format!("192.0.2.1:{port}")).collect();
    let networks: Vec<String> = (0..200).map(|third| format!("172.20.{third}.0/24")).collect();
    let addresses: Vec<String> = (0..50_000).map(|bad| format!("bad{bad}")).collect();
    let (parsed, problems) = read(
        &[
            (ENDPOINT, &endpoints.join(",")),
            (LOCATION_CIDRS, &networks.join(",")),
            (INTERNAL_IP, &addresses.join(",")),
        ],
        false,
    );
    assert_eq!((parsed.endpoints.len(), parsed.cidrs.len()), (16, 64));
    assert_eq!(parsed.internal, None);
    for (key, count) in [(ENDPOINT, "20"), (LOCATION_CIDRS, "200"), (INTERNAL_IP, "50000")] {
        let of = |problem: &&String| problem.contains(key) && problem.contains("leave the others out");
        let found: Vec<&String> = problems.iter().filter(of).collect();
        assert_eq!(found.len(), 1, "{key}");
        assert!(found[0].contains(count), "{}", found[0]);
    }
    assert_eq!(problems.len(), 3 + 16, "those that count are named one by one");
    let keys: Vec<String> = (0..5_000).map(|n| format!("spanwire.dev/x{n}")).collect();
    let many: Vec<(&str, &str)> = keys.iter().map(|key| (key.as_str(), "")).collect();
    assert_eq!(read(&many, false).1.len(), UNKNOWN + 1);
}

#[test]
fn kilos_values_mean_what_they_mean_in_kilo_or_it_is_said_what_to_change() {
    let kilo = |key: &str, value: &str| read(&[(key, value)], true);
    for none in ["", "-"] {
        let (parsed, problems) = kilo("kilo.squat.ai/force-internal-ip", none);
        assert_eq!(
            (parsed.internal, problems.len()),
            (Some(BTreeSet::new()), 0),
            "{none:?}"
        );
    }
    for yes in ["", "true"] {
        let (parsed, problems) = kilo("kilo.squat.ai/leader", yes);
        assert_eq!((parsed.leader, problems.len()), (Some(true), 0), "{yes:?}");
    }
    for odd in ["false", "yes", "1", "True"] {
        let (parsed, problems) = kilo("kilo.squat.ai/leader", odd);
        assert_eq!(parsed.leader, Some(true), "{odd}");
        assert!(
            problems[0].contains("preferred as leader") && problems[0].contains(LEADER),
            "{problems:?}"
        );
    }
    let (parsed, problems) = kilo("kilo.squat.ai/location", "AWS_Frankfurt");
    assert_eq!(
        (parsed.location, problems.len()),
        (Some("aws-frankfurt".parse().unwrap()), 0)
    );
    for odd in ["Home Lab", "dc:1", ""] {
        let (parsed, problems) = kilo("kilo.squat.ai/location", odd);
        assert_eq!(
            (parsed.location, parsed.unread),
            (None, [Field::Location].into()),
            "{odd:?}"
        );
        assert!(problems[0].contains(LOCATION), "{problems:?}");
    }
    let networks = "192.168.10.1/24, 10.20.0.0/16 ,";
    let (parsed, problems) = kilo("kilo.squat.ai/allowed-location-ips", networks);
    assert_eq!((parsed.cidrs.len(), problems.len()), (2, 0));
    assert!(parsed.cidrs.contains(&"192.168.10.0/24".parse().unwrap()));
}

fn read(annotations: &[(&str, &str)], kilo: bool) -> (Annotations, Vec<String>) {
    let map = annotations
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect();
    let (parsed, problems) = parse(&map, kilo);
    (parsed, problems.iter().map(ToString::to_string).collect())
}
