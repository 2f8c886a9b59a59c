use std::{
    collections::BTreeSet,
    io::ErrorKind,
    net::UdpSocket,
    sync::Arc,
    time::{Duration, Instant},
};

use spanwire_host::{
    LinkName, OwnershipConflict, PeerChange, PresharedKey, Step, WireGuard, WireGuardPeer, WireGuardSettings,
};
use spanwire_kernel::{ApplyError, Backend, BackendChoice};
use spanwire_topology::{Keepalive, Prefix, PublicKey};

use crate::{
    lab::{key, lab, p, run},
    userspace::{Tested, tested},
};

const A: PublicKey = PublicKey::new([1; 32]);
const B: PublicKey = PublicKey::new([2; 32]);

fn set_peer(device: &LinkName, key: PublicKey, add: &[&str], remove: &[&str]) -> Step {
    let change = PeerChange {
        add: add.iter().map(|text| p(text)).collect(),
        remove: remove.iter().map(|text| p(text)).collect(),
        ..PeerChange::default()
    };
    Step::SetPeer(device.clone(), key, change)
}

fn peer(allowed: &[&str]) -> WireGuardPeer {
    WireGuardPeer {
        allowed_ips: Arc::new(allowed.iter().map(|text| p(text)).collect()),
        ..WireGuardPeer::default()
    }
}

fn device() -> WireGuard {
    WireGuard {
        public_key: Some(key().public()),
        listen_port: 51_820,
        mark: 0x2000,
        peers: [].into(),
    }
}

/// The lines of `wg show … dump`, sorted; the first is the device's, without its private key.
fn dump(name: &LinkName) -> Vec<Vec<String>> {
    let text = run(&format!("wg show {name} dump"));
    let mut lines: Vec<Vec<String>> = text
        .lines()
        .map(|line| line.split('\t').map(str::to_owned).collect())
        .collect();
    lines[0].remove(0);
    lines[1..].sort();
    lines
}

#[test]
fn the_backend_in_use_is_the_one_that_works_here() {
    lab(async |lab| {
        let kernel = tested() == Tested::Kernel;
        assert_eq!(*lab.kernel.backend() == Backend::Kernel, kernel);
        assert_eq!(
            lab.kernel.backend().link_kind(),
            if kernel { "wireguard" } else { "tun" }
        );
        assert!(!run("ip link").contains("probe"));
    });
}

#[test]
fn device_and_peers_are_read_as_they_were_set_and_wg_says_the_same() {
    lab(async |lab| {
        let name = lab.name.clone();
        lab.apply(vec![lab.add_link(), lab.up()]).await;
        assert_eq!(lab.wireguard().await, Some(device()));

        let endpoint = p("192.0.2.7:51820");
        let allowed = ["10.0.0.0/24", "10.4.0.2", "fd00:1::/64"];
        lab.apply(vec![
            Step::SetPeer(
                name.clone(),
                A,
                PeerChange {
                    endpoint: Some(endpoint),
                    keepalive: Some(Some(Keepalive(25))),
                    add: allowed.iter().map(|text| p(text)).collect(),
                    ..PeerChange::default()
                },
            ),
            set_peer(&name, B, &["10.0.1.0/24"], &[]),
        ])
        .await;

        let mut expected = device();
        let a = WireGuardPeer {
            endpoint: Some(endpoint),
            keepalive: Some(Keepalive(25)),
            ..peer(&allowed)
        };
        expected.peers = [(A, a), (B, peer(&["10.0.1.0/24"]))].into();
        assert_eq!(lab.wireguard().await, Some(expected.clone()));
        let dump = dump(&lab.name);
        assert_eq!(dump[0], [&key().public().to_string(), "51820", "0x2000"]);
        assert_eq!(dump[1][..3], [&A.to_string(), "(none)", "192.0.2.7:51820"]);
        let listed: BTreeSet<Prefix> = dump[1][3].split(',').map(p).collect();
        assert_eq!(
            (listed, dump[1][7].as_str()),
            ((*expected.peers[&A].allowed_ips).clone(), "25")
        );

        // What a step leaves out stays; `Some(None)` turns keepalives off.
        lab.apply(vec![
            Step::SetPeer(
                name.clone(),
                A,
                PeerChange {
                    keepalive: Some(None),
                    ..PeerChange::default()
                },
            ),
            Step::DeletePeer(name.clone(), B),
            Step::DeletePeer(name.clone(), B),
        ])
        .await;
        expected.peers.remove(&B);
        expected.peers.get_mut(&A).unwrap().keepalive = None;
        assert_eq!(lab.wireguard().await, Some(expected.clone()));

        let settings = WireGuardSettings {
            public_key: key().public(),
            listen_port: 51_999,
            mark: 0x4,
        };
        lab.apply(vec![Step::SetWireGuard(name.clone(), settings)]).await;
        (expected.listen_port, expected.mark) = (51_999, 4);
        assert_eq!(lab.wireguard().await, Some(expected));
    });
}

/// Ports below 1024 too: of the kernel's WireGuard nothing is asked for them, and the tunnel has what the chart lets it do.
#[test]
fn every_port_is_listened_on_and_one_that_another_program_has_is_refused() {
    lab(async |lab| {
        let name = lab.name.clone();
        lab.apply(vec![lab.add_link(), lab.up()]).await;
        let listen = |listen_port| {
            let settings = WireGuardSettings {
                public_key: key().public(),
                listen_port,
                mark: 0x2000,
            };
            Step::SetWireGuard(name.clone(), settings)
        };
        for port in [1, 443, 500, 1023, 1024, u16::MAX] {
            lab.apply(vec![listen(port)]).await;
            assert_eq!(lab.wireguard().await.unwrap().listen_port, port);
            for any in ["0.0.0.0", "::"] {
                let also = UdpSocket::bind((any, port)).map_err(|error| error.kind());
                assert_eq!(also.err(), Some(ErrorKind::AddrInUse), "{any} {port}");
            }
            let conflicts = lab.kernel.ownership_conflicts(Some(port)).await.unwrap();
            assert_eq!(conflicts, [], "its own");
        }
        let _taken = UdpSocket::bind(("0.0.0.0", 500)).unwrap();
        let conflicts = lab.kernel.ownership_conflicts(Some(500)).await.unwrap();
        assert_eq!(conflicts, [OwnershipConflict::Port { port: 500 }]);
        let report = lab.kernel.apply(vec![listen(500)]).await;
        assert!(matches!(&report.failed[..], [_]), "{report:?}");
    });
}

#[test]
fn allowed_ips_move_to_the_last_who_gets_them_and_leave_one_by_one() {
    lab(async |lab| {
        let name = lab.name.clone();
        lab.apply(vec![
            lab.add_link(),
            set_peer(&name, A, &["10.0.0.0/24", "10.0.1.0/24", "fd00:1::/64"], &[]),
            set_peer(&name, B, &["10.0.2.0/24"], &[]),
        ])
        .await;
        // Adds before removes, as diff orders them: what A is to lose B may have got already.
        lab.apply(vec![
            set_peer(&name, B, &["10.0.1.0/24"], &[]),
            set_peer(
                &name,
                A,
                &["10.0.3.0/24"],
                &["10.0.1.0/24", "fd00:1::/64", "10.99.0.0/16"],
            ),
        ])
        .await;

        let peers = lab.wireguard().await.unwrap().peers;
        let expected = [
            (A, peer(&["10.0.0.0/24", "10.0.3.0/24"])),
            (B, peer(&["10.0.1.0/24", "10.0.2.0/24"])),
        ];
        assert_eq!(peers, expected.into());
        assert_eq!(dump(&lab.name).len(), 3);
    });
}

#[test]
fn a_preshared_key_is_set_changed_with_the_peer_made_again_and_taken_away() {
    lab(async |lab| {
        let name = lab.name.clone();
        lab.apply(vec![lab.add_link(), set_peer(&name, A, &["10.0.0.0/24"], &[])])
            .await;
        let preshared = |byte| PresharedKey::new([byte; 32]);
        for (key, recreate, shown) in [
            (preshared(3), false, PublicKey::new([3; 32]).to_string()),
            (preshared(4), true, PublicKey::new([4; 32]).to_string()),
            (None, false, "(none)".to_owned()),
        ] {
            let change = PeerChange {
                recreate,
                preshared: Some(key.clone()),
                // Of one that is made again nothing is left.
                add: recreate.then(|| p("10.0.1.0/24")).into_iter().collect(),
                ..PeerChange::default()
            };
            lab.apply(vec![Step::SetPeer(name.clone(), A, change)]).await;
            let allowed = if shown.starts_with("AwMD") {
                "10.0.0.0/24"
            } else {
                "10.0.1.0/24"
            };
            let expected = WireGuardPeer {
                preshared: key,
                ..peer(&[allowed])
            };
            assert_eq!(lab.wireguard().await.unwrap().peers, [(A, expected)].into());
            assert_eq!(dump(&name)[1][1], shown);
        }
    });
}

#[test]
fn peers_have_groups_where_the_wireguard_has_them() {
    lab(async |lab| {
        let name = lab.name.clone();
        lab.apply(vec![lab.add_link(), set_peer(&name, A, &["10.0.0.0/24"], &[])])
            .await;
        let before = lab.wireguard().await;
        let groups = lab.kernel.inventory([], false).await.unwrap().groups;
        assert_eq!(groups, tested() == Tested::Tunnel);
        assert_eq!(lab.wireguard().await, before, "to ask changes nothing");
        let group = |group: Option<&str>| {
            let change = PeerChange {
                group: Some(group.map(p)),
                ..PeerChange::default()
            };
            Step::SetPeer(name.clone(), A, change)
        };
        if !groups {
            return;
        }
        for of in [Some("paris"), Some(&*"x".repeat(253)), None] {
            lab.apply(vec![group(of)]).await;
            // Nothing else about it changes, and what is no group's changes no group.
            lab.apply(vec![
                set_peer(&name, A, &["10.0.1.0/24"], &[]),
                set_peer(&name, A, &[], &["10.0.1.0/24"]),
            ])
            .await;
            let expected = WireGuardPeer {
                group: of.map(p),
                ..peer(&["10.0.0.0/24"])
            };
            assert_eq!(lab.wireguard().await.unwrap().peers, [(A, expected)].into());
        }
    });
}

#[test]
fn the_tunnel_is_asked_to_start_handshakes_before_there_are_packets() {
    lab(async |lab| {
        let name = lab.name.clone();
        let change = PeerChange {
            endpoint: Some(p("192.0.2.7:51820")),
            ..PeerChange::default()
        };
        // Others have no such key, and are set up all the same.
        lab.apply(vec![lab.add_link(), Step::SetPeer(name.clone(), A, change)])
            .await;
        assert!(lab.wireguard().await.unwrap().peers.contains_key(&A));
        if tested() == Tested::Tunnel {
            let socket = format!("{}/{name}.sock", crate::userspace::SOCKETS);
            let mut stream = std::os::unix::net::UnixStream::connect(socket).unwrap();
            std::io::Write::write_all(&mut stream, b"get=1\n\n").unwrap();
            let lines = std::io::BufRead::lines(std::io::BufReader::new(stream));
            let mut lines = lines.map(Result::unwrap).take_while(|line| !line.is_empty());
            assert!(lines.any(|line| line == "eager=true"));
        }
    });
}

#[test]
fn ten_thousand_allowed_ips_of_one_peer_go_in_and_half_of_them_out() {
    lab(async |lab| {
        let name = lab.name.clone();
        let all: BTreeSet<Prefix> = (0..10_000_u32)
            .map(|number| {
                let [_, _, high, low] = number.to_be_bytes();
                match number % 2 {
                    0 => p(&format!("10.{high}.{low}.0/24")),
                    _ => p(&format!("fd00:0:{high:x}:{low:x}::/64")),
                }
            })
            .collect();
        let (half, rest): (BTreeSet<Prefix>, BTreeSet<Prefix>) = all
            .iter()
            .partition(|prefix| prefix.contains(p("10.3.9.1")) || prefix.address().is_ipv6());
        let step = |add: &BTreeSet<Prefix>, remove: &BTreeSet<Prefix>| {
            let change = PeerChange {
                endpoint: Some(p("192.0.2.7:51820")),
                add: add.clone(),
                remove: remove.clone(),
                ..PeerChange::default()
            };
            Step::SetPeer(name.clone(), A, change)
        };
        lab.apply(vec![lab.add_link(), set_peer(&name, B, &["10.3.0.0/16"], &[])])
            .await;

        let start = Instant::now();
        lab.apply(vec![step(&all, &BTreeSet::new())]).await;
        let added = start.elapsed();
        let peers = lab.wireguard().await.unwrap().peers;
        assert!(
            *peers[&A].allowed_ips == all,
            "{} of {}",
            peers[&A].allowed_ips.len(),
            all.len()
        );
        let start = Instant::now();
        lab.apply(vec![step(&BTreeSet::new(), &half)]).await;
        let removed = start.elapsed();

        println!("added in {added:?}, half of them removed in {removed:?}");
        let peers = lab.wireguard().await.unwrap().peers;
        assert!(*peers[&A].allowed_ips == rest);
        assert_eq!((peers.len(), &peers[&B]), (2, &peer(&["10.3.0.0/16"])));
        // Wide of the mark, for User-Mode Linux and machines that are busy with other things.
        assert!(added + removed < Duration::from_secs(60), "{added:?} {removed:?}");
    });
}

#[test]
fn a_key_that_is_not_this_nodes_is_refused() {
    lab(async |lab| {
        let settings = WireGuardSettings {
            public_key: A,
            listen_port: 1,
            mark: 1,
        };
        let step = Step::AddWireGuard(lab.name.clone(), 1420, settings);
        let report = lab.kernel.apply(vec![step]).await;
        assert!(
            matches!(&report.failed[..], [(_, ApplyError::UnknownKey(key))] if *key == A),
            "{report:?}"
        );
    });
}

#[test]
fn an_agent_that_restarts_finds_the_device_as_it_was_left() {
    lab(async |lab| {
        let name = lab.name.clone();
        lab.apply(vec![
            lab.add_link(),
            lab.up(),
            set_peer(&name, A, &["10.0.0.0/24"], &[]),
        ])
        .await;
        let before = lab.read().await;

        lab.kernel = lab.restarted(BackendChoice::Auto).await;

        assert_eq!(lab.read().await, before);
    });
}

#[test]
fn a_device_that_was_deleted_is_made_again_at_once() {
    lab(async |lab| {
        let name = lab.name.clone();
        for _ in 0..3 {
            lab.apply(vec![
                lab.add_link(),
                lab.up(),
                set_peer(&name, A, &["10.0.0.0/24"], &[]),
            ])
            .await;
            run(&format!("ip link del {name}"));
            assert_eq!(lab.device().await, None);
        }
        lab.apply(vec![lab.add_link()]).await;
        assert_eq!(lab.wireguard().await, Some(device()));
    });
}

#[test]
fn a_tunnel_process_that_died_leaves_no_device_and_the_next_one_starts_clean() {
    if tested() == Tested::Kernel {
        return;
    }
    lab(async |lab| {
        let name = lab.name.clone();
        lab.apply(vec![
            lab.add_link(),
            lab.up(),
            set_peer(&name, A, &["10.0.0.0/24"], &[]),
        ])
        .await;
        if tested() == Tested::WireguardGo {
            lab.control.as_ref().unwrap().stop();
            assert_eq!(lab.device().await, None);
        }

        lab.apply(vec![Step::DeleteDevice(lab.name.clone()), lab.add_link()])
            .await;

        assert_eq!(lab.wireguard().await, Some(device()));
    });
}

#[test]
fn a_tunnel_process_that_hangs_lacks_its_device_until_it_goes_on_and_the_device_stays() {
    if tested() == Tested::Kernel {
        return;
    }
    lab(async |lab| {
        let name = lab.name.clone();
        let peer_set = set_peer(&name, A, &["10.0.0.0/24"], &[]);
        lab.apply(vec![lab.add_link(), lab.up(), peer_set.clone()]).await;
        let index = || run(&format!("ip -o link show {name} | cut -d: -f1"));
        let before = index();
        lab.control.as_ref().unwrap().hang();
        assert_eq!(lab.device().await, None);

        let report = lab.kernel.apply(vec![lab.add_link()]).await;
        let [(_, error)] = &report.failed[..] else {
            panic!("{report:?}");
        };
        let silent = OwnershipConflict::SilentLink { name: name.clone() };
        assert!(
            matches!(error, ApplyError::ForeignLink(conflict) if *conflict == silent),
            "{error:?}"
        );
        let conflicts = lab.kernel.ownership_conflicts(Some(51_820)).await.unwrap();
        assert_eq!(conflicts, [silent], "nor is it said who has the port");

        lab.control.as_ref().unwrap().go_on();
        // It was missing when it was read last, and is there when it is to be made.
        lab.apply(vec![lab.add_link(), peer_set]).await;
        let mut expected = device();
        expected.peers = [(A, peer(&["10.0.0.0/24"]))].into();
        assert_eq!(lab.wireguard().await, Some(expected));
        assert_eq!(index(), before);
    });
}
