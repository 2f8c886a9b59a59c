//! At which hooks, and of which devices, chains of others are read.

use std::collections::BTreeMap;

use spanwire_host::{Elsewhere, Match};

use crate::lab::{Lab, lab, run};

/// The chains of others by where they are, as `FAMILY TABLE CHAIN PRIORITY DEVICES`.
async fn elsewhere(lab: &mut Lab) -> BTreeMap<Elsewhere, Vec<String>> {
    let found = lab.kernel.inventory(&[], false).await.unwrap().elsewhere;
    let text = |filter: &spanwire_host::Filter| {
        let links = filter
            .links
            .iter()
            .flatten()
            .map(ToString::to_string)
            .collect::<Vec<_>>();
        format!("{} {} {}", filter.name, filter.priority, links.join(","))
    };
    let filled = found.into_iter().filter(|(_, filters)| !filters.is_empty());
    filled
        .map(|(at, filters)| (at, filters.iter().map(text).collect()))
        .collect()
}

#[test]
fn chains_of_devices_and_bridges_are_read_where_packets_of_the_mesh_meet_them() {
    lab(async |lab| {
        assert!(elsewhere(lab).await.is_empty());
        run(
            "ip link add up0 type bridge; ip link set up0 up; ip link add up1 type bridge; ip link set up1 up
             nft 'add table netdev d; add table inet i; add table bridge b; add table ip p'
             nft 'add chain netdev d one { type filter hook ingress device up0 priority -500; policy drop; }'
             nft 'add chain netdev d two { type filter hook ingress devices = { up0, up1 } priority 3; }'
             nft 'add chain netdev d out { type filter hook egress device up1 priority 0; }'
             nft 'add chain inet i in { type filter hook ingress device up1 priority 1; }'
             nft 'add chain ip p pre { type filter hook prerouting priority -300; }'
             nft 'add chain ip p out { type route hook output priority mangle; }'
             nft 'add chain ip p post { type nat hook postrouting priority 100; }'
             for hook in prerouting input forward output postrouting; do
                 nft \"add chain bridge b $hook { type filter hook $hook priority 0; }\"
             done",
        );
        let expected = [
            (
                Elsewhere::Ingress,
                vec![
                    "inet i in 1 up1",
                    "netdev d one -500 up0",
                    "netdev d two 3 up0,up1",
                ],
            ),
            (Elsewhere::Prerouting, vec!["ip p pre -300 "]),
            (Elsewhere::Output, vec!["ip p out -150 "]),
            (Elsewhere::Egress, vec!["netdev d out 0 up1"]),
            (
                Elsewhere::FromPods,
                vec!["bridge b input 0 ", "bridge b prerouting 0 "],
            ),
            (
                Elsewhere::ToPods,
                vec!["bridge b output 0 ", "bridge b postrouting 0 "],
            ),
        ];
        let expected: BTreeMap<Elsewhere, Vec<String>> = expected
            .map(|(at, texts)| (at, texts.into_iter().map(ToOwned::to_owned).collect()))
            .into();
        assert_eq!(elsewhere(lab).await, expected);
        let found = lab.kernel.inventory(&[], false).await.unwrap().elsewhere;
        assert!(found[&Elsewhere::Ingress][1].drops);
        // Who is not there any more has no chain of its own.
        run("nft delete table netdev d; nft delete table inet i; nft delete table bridge b");
        assert_eq!(elsewhere(lab).await.len(), 2);
    });
}

#[test]
fn the_ports_of_a_bridge_are_not_taken_for_its_device() {
    lab(async |lab| {
        run("nft 'table bridge b {
                chain post {
                    type filter hook postrouting priority 0
                    oifname \"veth*\" drop
                    oifname . ip daddr { \"veth0\" . 10.244.1.2 } drop
                    ip daddr 10.244.1.0/24 drop
                }
             }'");
        let found = lab.kernel.inventory(&[], false).await.unwrap().elsewhere;
        let rules = &found[&Elsewhere::ToPods][0].rules;
        assert_eq!(rules[0].matches, [Match::Unknown]);
        let [Match::Any { of, .. }] = rules[1].matches.as_slice() else {
            panic!("{rules:?}")
        };
        assert!(
            matches!(of[0].as_slice(), [Match::Unknown, Match::Address { .. }]),
            "{of:?}"
        );
        assert!(
            matches!(rules[2].matches.as_slice(), [.., Match::Address { .. }]),
            "{rules:?}"
        );
        assert!(!rules[2].matches.contains(&Match::Unknown), "{rules:?}");
    });
}

#[test]
fn tables_of_iptables_legacy_have_the_priorities_of_their_kinds() {
    lab(async |lab| {
        run(
            "for table in raw mangle; do iptables-legacy -t $table -P PREROUTING ACCEPT; done
             iptables-legacy -t mangle -P POSTROUTING DROP",
        );
        let found = elsewhere(lab).await;
        assert_eq!(
            found[&Elsewhere::Prerouting],
            ["ip raw PREROUTING -300 ", "ip mangle PREROUTING -150 "]
        );
        assert_eq!(found[&Elsewhere::Postrouting], ["ip mangle POSTROUTING -150 "]);
    });
}
