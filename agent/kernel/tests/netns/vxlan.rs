use std::{collections::BTreeMap, time::Duration};

use spanwire_host::{
    Device, DeviceKind, Host, LinkName, OwnershipConflict, Step, Vxlan, VxlanSettings, diff,
};
use spanwire_kernel::ApplyError;
use spanwire_topology::MacAddress;

use crate::lab::{Lab, json, lab, link, p, run};

fn hop() -> LinkName {
    link("spanwire-hop")
}

fn mac(last: u8) -> MacAddress {
    MacAddress::new([0x0a, 0x57, 10, 4, 0, last])
}

fn settings(local: &str) -> VxlanSettings {
    VxlanSettings {
        vni: 51_830,
        port: 51_830,
        local: p(local),
        address: mac(1),
    }
}

/// A machine with the device alone, which sends to two others.
fn wanted(local: &str, others: [&str; 2], neighbours: &[(&str, u8)]) -> Host {
    let forwarding = [(mac(2), p(others[0])), (mac(3), p(others[1]))];
    let neighbours = neighbours.iter().map(|(address, last)| (p(address), mac(*last)));
    let vxlan = Vxlan {
        settings: Some(settings(local)),
        forwarding: forwarding.into(),
        neighbours: neighbours.collect(),
    };
    let device = Device {
        mtu: 1450,
        up: true,
        addresses: [p("169.254.51.83")].into(),
        kind: DeviceKind::Vxlan(vxlan),
    };
    Host {
        devices: BTreeMap::from([(hop(), device)]),
        ..Host::default()
    }
}

fn usual() -> Host {
    let neighbours = [("10.4.0.2", 2), ("10.4.0.3", 3), ("fd04::2", 2)];
    wanted("192.168.1.1", ["192.168.1.2", "192.168.1.3"], &neighbours)
}

async fn reach(lab: &mut Lab, wanted: &Host) -> Vec<Step> {
    let actual = lab.read().await;
    let steps = diff(&actual, wanted);
    lab.apply(steps.clone()).await;
    assert_eq!(lab.read().await, *wanted);
    steps
}

#[test]
fn the_device_is_made_is_as_it_was_wanted_and_goes_without_a_trace() {
    lab(async |lab| {
        reach(lab, &usual()).await;
        let made = &json("ip -j -d link show spanwire-hop")[0];
        let data = &made["linkinfo"]["info_data"];
        assert_eq!(data["id"], 51_830);
        assert_eq!(data["port"], 51_830);
        assert_eq!(data["local"], "192.168.1.1");
        assert_eq!(data["learning"], false);
        assert_eq!(made["address"], "0a:57:0a:04:00:01");
        let addresses = run("ip -br addr show dev spanwire-hop");
        assert!(!addresses.contains("fe80"), "{addresses}");
        assert!(run("ip addr show dev spanwire-hop").contains("scope link"));
        let forwarded = run("bridge fdb show dev spanwire-hop");
        assert_eq!(forwarded.lines().count(), 2, "{forwarded}");
        assert!(forwarded.contains("0a:57:0a:04:00:02 dst 192.168.1.2 self permanent"));
        let routes = run("ip route show dev spanwire-hop table main");
        assert_eq!(routes, "");

        reach(lab, &Host::default()).await;
        assert!(!run("ip link").contains("spanwire-hop"));
    });
}

#[test]
fn by_ipv6_it_sends_to_ipv6() {
    lab(async |lab| {
        let wanted = wanted(
            "fd01::1",
            ["fd01::2", "fd01::3"],
            &[("fd04::2", 2), ("10.4.0.3", 3)],
        );
        reach(lab, &wanted).await;
        let made = &json("ip -j -d link show spanwire-hop")[0];
        assert_eq!(made["linkinfo"]["info_data"]["local6"], "fd01::1");
    });
}

#[test]
fn what_another_program_takes_away_or_adds_is_put_right() {
    lab(async |lab| {
        let wanted = usual();
        reach(lab, &wanted).await;
        let by_hand = [
            ("bridge fdb del 0a:57:0a:04:00:02 dev spanwire-hop", "fdb replace"),
            (
                "bridge fdb replace 0a:57:0a:04:00:02 dev spanwire-hop dst 192.168.1.9",
                "fdb replace",
            ),
            ("ip neigh del 10.4.0.3 dev spanwire-hop", "neighbour replace"),
            (
                "ip neigh replace fd04::2 lladdr 0a:57:0a:04:00:09 dev spanwire-hop",
                "neighbour replace",
            ),
            (
                "ip neigh add 10.4.0.9 lladdr 0a:57:0a:04:00:09 dev spanwire-hop",
                "neighbour delete",
            ),
            // What nothing is known of would go there.
            (
                "bridge fdb append 00:00:00:00:00:00 dev spanwire-hop dst 192.168.1.9",
                "fdb delete",
            ),
            (
                "bridge fdb append 00:00:00:00:00:00 dev spanwire-hop dst 192.168.1.9 && \
                 bridge fdb append 00:00:00:00:00:00 dev spanwire-hop dst 192.168.1.8",
                "fdb delete",
            ),
        ];
        for (command, step) in by_hand {
            run(command);
            let steps = reach(lab, &wanted).await;
            let texts: Vec<String> = steps.iter().map(ToString::to_string).collect();
            assert!(
                texts.len() == 1 && texts[0].starts_with(step),
                "{command}: {texts:?}"
            );
        }
        run("ip link set spanwire-hop down");
        reach(lab, &wanted).await;
    });
}

#[test]
fn one_that_learns_or_floods_or_has_another_address_is_made_again() {
    lab(async |lab| {
        let wanted = usual();
        for made in [
            "id 51830 dstport 51830 local 192.168.1.1",
            "id 51830 dstport 51830 local 192.168.1.1 nolearning remote 192.168.1.9",
            "id 51830 dstport 51830 nolearning local 192.168.1.7",
            "id 51830 dstport 51831 nolearning local 192.168.1.1",
            "id 51831 dstport 51830 nolearning local 192.168.1.1",
            "dstport 51830 nolearning external",
        ] {
            run(&format!(
                "ip link add spanwire-hop mtu 1450 address 0a:57:0a:04:00:01 type vxlan {made}"
            ));
            let steps = reach(lab, &wanted).await;
            assert_eq!(steps.first(), Some(&Step::DeleteDevice(hop())), "{made}");
            let again = reach(lab, &wanted).await;
            assert_eq!(again, [], "{made}");
            reach(lab, &Host::default()).await;
        }
    });
}

#[test]
fn a_device_of_that_name_that_is_no_vxlan_is_left_alone_and_named() {
    lab(async |lab| {
        run("ip link add spanwire-hop type bridge");
        assert_eq!(lab.read().await, Host::default());
        let add = Step::AddVxlan(hop(), 1450, settings("192.168.1.1"));
        let report = lab.kernel.apply(vec![add]).await;
        let kind = "bridge".to_owned();
        let conflict = OwnershipConflict::HopLink { name: hop(), kind };
        assert!(
            matches!(&report.failed[..], [(_, ApplyError::ForeignLink(found))] if *found == conflict),
            "{report:?}"
        );
        assert_eq!(lab.kernel.ownership_conflicts(None).await.unwrap(), [conflict]);
    });
}

#[test]
fn a_port_that_another_program_has_is_named() {
    lab(async |lab| {
        let _other = std::net::UdpSocket::bind("0.0.0.0:51830").unwrap();
        let add = Step::AddVxlan(hop(), 1450, settings("192.168.1.1"));
        let report = lab.kernel.apply(vec![add, Step::SetUp(hop(), true)]).await;
        assert!(
            matches!(&report.failed[..], [(_, ApplyError::HopPortTaken(51_830))]),
            "{report:?}"
        );
    });
}

#[test]
fn it_is_none_of_the_devices_of_others() {
    lab(async |lab| {
        reach(lab, &usual()).await;
        let inventory = lab.kernel.inventory([], false).await.unwrap();
        assert!(!inventory.links.contains_key(&hop()));
    });
}

#[test]
fn what_others_do_to_where_it_sends_is_heard_and_other_neighbours_are_not() {
    lab(async |lab| {
        reach(lab, &usual()).await;
        lan();
        let mut changes = lab.kernel.changes().unwrap();
        let mut heard = async || {
            let limit = Duration::from_millis(500);
            tokio::time::timeout(limit, changes.changed()).await.is_ok()
        };
        for command in [
            "ip neigh del 10.4.0.3 dev spanwire-hop",
            "bridge fdb del 0a:57:0a:04:00:02 dev spanwire-hop",
            "bridge fdb append 00:00:00:00:00:00 dev spanwire-hop dst 192.168.1.9",
        ] {
            run(command);
            assert!(heard().await, "{command}");
        }
        run("ip neigh add 192.0.2.9 lladdr 0a:57:0a:04:00:09 dev lan");
        run("ip neigh del 192.0.2.9 dev lan");
        assert!(!heard().await);
    });
}

/// What is for an address that it knows nothing of leaves the machine nowhere.
#[test]
fn nothing_is_flooded() {
    lab(async |lab| {
        reach(lab, &usual()).await;
        lan();
        run("ip neigh add 192.168.1.2 lladdr 0a:57:0a:04:00:09 dev lan");
        let sent = || {
            let counted = &json("ip -j -s link show lan")[0]["stats64"]["tx"]["packets"];
            counted.as_u64().unwrap()
        };
        run("ip route add 10.99.0.0/16 dev spanwire-hop");
        run("ip route add 10.98.0.0/16 via 10.4.0.2 dev spanwire-hop onlink");
        let before = sent();
        run("ping -c 1 -W 1 10.99.0.1 >/dev/null || true");
        assert_eq!(sent(), before);
        run("ping -c 1 -W 1 10.98.0.1 >/dev/null || true");
        assert_eq!(sent(), before + 1);
    });
}

/// Gives the machine a network device.
fn lan() {
    run("ip link add lan type veth peer name far && ip addr add 192.168.1.1/24 dev lan");
    run("sysctl -q -w net.ipv6.conf.lan.disable_ipv6=1 net.ipv6.conf.far.disable_ipv6=1");
    run("ip link set far up && ip link set lan up");
}
