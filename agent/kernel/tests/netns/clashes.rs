use std::{
    net::{SocketAddrV6, UdpSocket},
    os::fd::{AsRawFd as _, OwnedFd},
};

use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, SockaddrIn6, sockopt};
use spanwire_host::{
    NftTable, OwnershipConflict, Rule, RuleAction, RuleSelector, Step, TableId, WireGuardSettings,
};
use spanwire_kernel::ApplyError;
use spanwire_topology::Family;

use crate::lab::{key, lab, p, run};

#[test]
fn ours_is_no_clash() {
    lab(async |lab| {
        let rule = Rule {
            family: Family::V6,
            priority: 2_101,
            selector: RuleSelector::default(),
            action: RuleAction::Nop,
        };
        lab.apply(vec![
            lab.add_link(),
            lab.up(),
            Step::AddRule(rule),
            Step::SetNft(NftTable {
                name: "spanwire".to_owned(),
                chains: "chain c {\n}\n".to_owned(),
                ..NftTable::default()
            }),
        ])
        .await;
        assert_eq!(lab.kernel.ownership_conflicts(Some(51_820)).await.unwrap(), []);
    });
}

#[test]
fn everything_of_others_that_stands_in_the_way_is_named_with_what_to_do() {
    lab(async |lab| {
        let name = lab.name.clone();
        assert_eq!(lab.kernel.ownership_conflicts(Some(51_820)).await.unwrap(), []);
        run(&format!("ip link add {name} type bridge"));
        run("ip link add eth0 type bridge && ip link set eth0 up");
        run(
            "ip rule add lookup 7 pref 2100 && ip -6 rule add blackhole pref 2115 proto static && ip rule add lookup 7 pref 2116",
        );
        run("ip route add 10.0.0.0/8 dev eth0 table 51830 && ip -6 route add fd00::/8 dev eth0 table 51830");
        run("nft add table inet spanwire");
        let port = UdpSocket::bind("[::]:51820").unwrap();

        let clashes = lab.kernel.ownership_conflicts(Some(51_820)).await.unwrap();

        let rule = |family, priority, protocol| OwnershipConflict::Rule {
            family,
            priority,
            protocol,
        };
        assert_eq!(
            clashes,
            [
                OwnershipConflict::Link {
                    name,
                    kind: "bridge".to_owned()
                },
                rule(Family::V4, 2_100, 0),
                rule(Family::V6, 2_115, 4),
                OwnershipConflict::Routes {
                    table: TableId(51_830),
                    count: 2
                },
                OwnershipConflict::NftTable {
                    name: "spanwire".to_owned()
                },
                OwnershipConflict::Port { port: 51_820 },
            ]
        );
        for clash in clashes {
            let text = clash.to_string();
            assert!(text.contains("remove") || text.contains("annotate"), "{text}");
        }
        drop(port);
        assert!(
            lab.kernel
                .ownership_conflicts(None)
                .await
                .unwrap()
                .iter()
                .all(|clash| !matches!(clash, OwnershipConflict::Port { .. }))
        );
    });
}

#[test]
fn a_port_that_is_taken_is_reported_before_a_device_is_made() {
    lab(async |lab| {
        let v4 = UdpSocket::bind("0.0.0.0:51820").unwrap();
        let _v6 = only_v6("[::]:51821");
        let report = lab.kernel.apply(vec![lab.add_link()]).await;
        assert!(
            matches!(&report.failed[..], [(_, ApplyError::PortTaken(51_820))]),
            "{report:?}"
        );
        assert_eq!(lab.device().await, None);

        let name = lab.name.clone();
        let set = |listen_port| {
            let settings = WireGuardSettings {
                public_key: key().public(),
                listen_port,
                mark: 1,
            };
            Step::SetWireGuard(name.clone(), settings)
        };
        drop(v4);
        lab.apply(vec![lab.add_link(), lab.up(), set(51_820)]).await;
        let report = lab.kernel.apply(vec![set(51_821)]).await;
        assert!(
            matches!(&report.failed[..], [(_, ApplyError::PortTaken(51_821))]),
            "{report:?}"
        );
        assert_eq!(lab.wireguard().await.unwrap().listen_port, 51_820);
    });
}

/// A program that listens on IPv6 and on IPv6 only.
fn only_v6(address: &str) -> OwnedFd {
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket = socket::socket(AddressFamily::Inet6, SockType::Datagram, flags, None).unwrap();
    socket::setsockopt(&socket, sockopt::Ipv6V6Only, &true).unwrap();
    let address: SocketAddrV6 = p(address);
    socket::bind(socket.as_raw_fd(), &SockaddrIn6::from(address)).unwrap();
    socket
}
