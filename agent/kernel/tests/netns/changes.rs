use std::{net::Ipv4Addr, time::Duration};

use spanwire_host::{
    AddressRange, NftSet, NftTable, Route, RouteKey, RouteKind, Rule, RuleAction, RuleSelector, Step, TableId,
};
use spanwire_kernel::Changes;
use spanwire_topology::{Family, Prefix};

use crate::lab::{lab, p, run};

/// Longer than the kernel ever takes to notify.
const QUIET: Duration = Duration::from_millis(150);

async fn hears(changes: &mut Changes) -> bool {
    match tokio::time::timeout(QUIET, changes.changed()).await {
        Ok(result) => {
            result.unwrap();
            true
        }
        Err(_) => false,
    }
}

async fn silence(changes: &mut Changes) {
    while hears(changes).await {}
}

#[test]
fn what_others_do_to_ours_and_to_what_we_build_on_is_heard() {
    lab(async |lab| {
        run("ip link add eth0 type veth peer name far && ip link set eth0 up && ip link set far up");
        lab.apply(vec![Step::SetNft(NftTable {
            name: "spanwire".to_owned(),
            ..NftTable::default()
        })])
        .await;
        run("ip link set lo up && ip -6 route add local fd07::/64 dev lo");
        let mut changes = lab.kernel.changes().unwrap();
        for command in [
            "ip link add eth1 type bridge",
            "ip link set eth1 mtu 1300",
            "ip link set eth1 up",
            "ip addr add 10.1.0.5/24 dev eth0",
            "ip -6 addr add fd01::5/64 dev eth0",
            "ip route add default via 10.1.0.1",
            "ip route add throw 10.9.0.0/16 table 51830 proto 151",
            "ip route del throw 10.9.0.0/16 table 51830",
            "ip -6 route add fd09::/64 dev eth0 table 51831",
            "ip route add local 10.7.0.0/16 dev lo",
            "ip -6 route del local fd07::/64 dev lo",
            "ip rule add lookup 51830 pref 2100",
            "ip -6 rule add lookup 51830 pref 2115",
            "ip rule del pref 2100",
            "ip rule add lookup 7 pref 7",
            "ip -6 rule add lookup 7 pref 32000",
            "ip rule add not fwmark 51820 lookup 51820 pref 2099",
            "ip link add vxlan.calico type vxlan id 4096 dev eth0 dstport 4789",
            "ip link set vxlan.calico up",
            "ip addr add 10.244.1.0/32 dev vxlan.calico",
            "ip addr add 10.244.1.63/32 dev vxlan.calico",
            "ip addr del 10.244.1.0/32 dev vxlan.calico",
            "ip route add 10.244.2.0/26 via 10.244.2.0 dev vxlan.calico onlink",
            "ip route replace 10.244.2.0/26 via 10.1.0.7 dev eth0 proto 80 onlink",
            "ip route del 10.244.2.0/26",
            "ip route add 10.244.2.0/26 via 10.1.0.7 dev eth0 proto bird",
            "nft add chain inet spanwire c",
            "nft delete table inet spanwire",
            "ip link del eth1",
        ] {
            silence(&mut changes).await;
            run(command);
            assert!(hears(&mut changes).await, "{command}");
        }
    });
}

#[test]
fn what_we_do_ourselves_and_what_cannot_matter_is_not_heard() {
    lab(async |lab| {
        run("ip link add eth0 type veth peer name far && ip link set eth0 up && ip link set far up");
        run("ip addr add 10.1.0.5/24 dev eth0");
        let mut changes = lab.kernel.changes().unwrap();
        run("ip link add veth0 type veth peer name eth9");
        silence(&mut changes).await;

        let key = RouteKey {
            table: TableId(51_830),
            prefix: p("10.9.0.0/16"),
            metric: 0,
        };
        let route = Route {
            kind: RouteKind::Throw,
            mtu: None,
        };
        let rule = Rule {
            family: Family::V4,
            priority: 2_100,
            selector: RuleSelector::default(),
            action: RuleAction::Nop,
        };
        lab.apply(vec![Step::SetRoute(key, route), Step::AddRule(rule.clone())])
            .await;
        lab.apply(vec![Step::DeleteRoute(key), Step::DeleteRule(rule)])
            .await;
        assert!(!hears(&mut changes).await, "our own");

        for command in [
            "ip link set veth0 mtu 1300 && ip link set veth0 up",
            "ip addr add 10.8.0.1/24 dev veth0",
            "ip route add 10.7.0.0/16 dev eth0",
            "ip route add 10.7.0.7 dev veth0 scope link",
            "ip route add blackhole 10.244.1.0/26 proto 80",
            "ip route add 10.7.0.0/16 dev eth0 table 7",
            "ip rule add to 10.7.0.9 lookup main pref 512",
            "nft add table inet other && nft add chain inet other c && nft delete table inet other",
        ] {
            run(command);
            assert!(!hears(&mut changes).await, "{command}");
        }
    });
}

#[test]
fn what_we_load_is_not_heard_and_what_others_make_of_it_is() {
    lab(async |lab| {
        let mut changes = lab.kernel.changes().unwrap();
        // Its notifications come in several parts.
        let addresses =
            (0..1_000_u32).map(|i| Prefix::host(Ipv4Addr::from((10 << 24) + (i << 8) + 1).into()));
        let set = NftSet::new("s".to_owned(), Family::V4, addresses.map(AddressRange::from));
        let table = |mark: u32| NftTable {
            name: "spanwire".to_owned(),
            sets: vec![set.clone()],
            chains: format!(
                "chain c {{\n type filter hook forward priority 0;\n meta mark {mark} counter;\n }}\n"
            ),
        };
        for mark in [1, 2] {
            lab.apply(vec![Step::SetNft(table(mark))]).await;
            assert!(!hears(&mut changes).await, "our own");
            assert!(lab.read().await.nft == Some(table(mark)), "the table is intact");
        }
        for command in [
            "nft delete element inet spanwire s '{ 10.3.231.1 }'",
            "nft flush chain inet spanwire c",
            "nft flush ruleset",
        ] {
            lab.apply(vec![Step::SetNft(table(3))]).await;
            run(command);
            assert!(hears(&mut changes).await, "{command}");
            assert!(lab.read().await.nft != Some(table(3)), "{command}");
            silence(&mut changes).await;
        }
    });
}

/// Adds that many routes to a table in one go.
fn flood(count: u32, table: u32) {
    run(&format!(
        "for i in $(seq {count}); do echo route add throw 10.$((i / 250)).$((i % 250)).0/24 table {table}; done \
         | ip -batch -"
    ));
}

#[test]
fn ten_thousand_changes_at_once_are_one() {
    lab(async |lab| {
        let mut changes = lab.kernel.changes().unwrap();
        flood(10_000, 51_830);
        changes.changed().await.unwrap();
        assert!(!hears(&mut changes).await);
    });
}

#[test]
fn a_change_is_not_lost_when_the_future_that_waits_is_dropped_in_the_midst_of_others() {
    lab(async |lab| {
        let mut changes = lab.kernel.changes().unwrap();
        flood(10, 51_830);
        flood(2_000, 7);
        let mut attempts = 0;
        while tokio::time::timeout(Duration::ZERO, changes.changed())
            .await
            .is_err()
        {
            attempts += 1;
            assert!(attempts < 10_000, "it is lost");
            tokio::task::yield_now().await;
        }
        assert!(attempts > 1, "no future was dropped");
    });
}
