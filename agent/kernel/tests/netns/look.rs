use spanwire_host::{Cni, CniRoute, Encapsulation, OtherLink, TableId};
use spanwire_topology::{Family, Prefix};

use crate::lab::{lab, link, p, run};

fn machine() {
    run("ip link add eth0 type veth peer name far && ip link set eth0 mtu 1450 up && ip link set far up");
    run("ip addr add 10.1.0.5/24 dev eth0 && ip addr add fd01::5/64 dev eth0 nodad");
    run("ip link add eth1 type veth peer name far1 && ip link set eth1 mtu 9000 up && ip link set far1 up");
    run("ip addr add 10.2.0.5/24 dev eth1");
    run("ip link add down0 type bridge && ip addr add 10.9.0.1/24 dev down0");
    run("ip addr add 192.0.2.99/32 dev lo");
    run("ip route add default via 10.1.0.1");
}

#[test]
fn devices_of_others_are_seen_with_addresses_and_mtu_and_those_of_the_cni_are_distinguished() {
    lab(async |lab| {
        machine();
        run(
            "ip link add flannel.1 type vxlan id 1 local 10.1.0.5 dev eth0 nolearning dstport 8472 && ip link set flannel.1 up",
        );
        run("ip addr add 10.244.1.0/32 dev flannel.1");
        run("ip link add cni0 type bridge && ip link set cni0 up && ip addr add 10.244.1.1/24 dev cni0");
        lab.apply(vec![lab.add_link(), lab.up()]).await;

        let look = lab.kernel.inventory(&[], false).await.unwrap();

        assert_eq!(
            look.cni,
            Cni::Overlay {
                links: [link("flannel.1")].into()
            }
        );
        let eth0 = OtherLink {
            mtu: 1450,
            addresses: [(p("10.1.0.5"), 24), (p("fd01::5"), 64)].into(),
            tunnel_from: None,
            metrics: [(p("10.1.0.0/24"), 0), (p("fd01::/64"), 256)].into(),
            cni: false,
            ipv6_disabled: false,
            advertisements: true,
        };
        assert_eq!(look.links[&link("eth0")], eth0);
        assert_eq!(look.links[&link("lo")].addresses, [(p("192.0.2.99"), 32)].into());
        assert!(look.links[&link("cni0")].cni && look.links[&link("flannel.1")].cni);
        assert_eq!(look.links[&link("flannel.1")].mtu, 1400);
        assert_eq!(look.links[&link("flannel.1")].tunnel_from, Some(p("10.1.0.5")));
        assert!(!look.links.contains_key(&link("down0")) && !look.links.contains_key(&lab.name));
        assert!(look.networks().any(|network| network == p("10.2.0.0/24")));
    });
}

#[test]
fn the_underlay_is_what_leads_to_the_endpoints_else_to_the_default_route() {
    lab(async |lab| {
        assert_eq!(lab.kernel.inventory(&[], false).await.unwrap().underlay_mtu, None);
        machine();
        let mtu = async |lab: &mut crate::lab::Lab, endpoints: &[&str]| {
            let endpoints: Vec<_> = endpoints.iter().map(|text| p(text)).collect();
            lab.kernel
                .inventory(&endpoints, false)
                .await
                .unwrap()
                .underlay_mtu
        };
        assert_eq!(mtu(lab, &[]).await, Some(1450));
        assert_eq!(mtu(lab, &["10.2.0.9:51820"]).await, Some(9000));
        assert_eq!(mtu(lab, &["10.2.0.9:51820", "8.8.8.8:1"]).await, Some(1450));
        // No way there: the default route it is.
        assert_eq!(mtu(lab, &["[2001:db8::1]:1"]).await, Some(1450));
        run("ip route add 10.3.0.0/16 via 10.2.0.1 mtu 1280");
        assert_eq!(mtu(lab, &["10.3.0.9:51820"]).await, Some(1280));
        // Our own routes are not the way, for what carries the mark.
        run(
            "ip route add 10.2.0.9 dev eth0 table 51830 && ip rule add not fwmark 0x2000/0x2000 lookup 51830 pref 2100",
        );
        assert_eq!(mtu(lab, &["10.2.0.9:51820"]).await, Some(9000));

        let look = lab.kernel.inventory(&[], false).await.unwrap();
        assert_eq!(
            (look.cni, look.default_routes),
            (Cni::Direct, [Family::V4].into())
        );
        run("ip -6 route add default via fd01::1");
        assert_eq!(
            lab.kernel.inventory(&[], false).await.unwrap().default_routes,
            [Family::V4, Family::V6].into()
        );
    });
}

#[test]
fn a_table_of_others_is_wide_that_has_a_route_for_everything() {
    lab(async |lab| {
        machine();
        run("ip rule add pref 5270 lookup 52 && ip rule add pref 5271 from 10.1.0.5 lookup 53");
        run("ip route add 100.64.0.0/10 dev eth0 table 52 && ip route add default dev eth0 table 53");
        let mut wide = async || lab.kernel.inventory(&[], false).await.unwrap().wide_tables;
        assert!(
            wide().await.is_empty(),
            "what is for some addresses is no VPN's for everything"
        );
        for (route, is_wide) in [("default", true), ("0.0.0.0/1", true), ("0.0.0.0/2", false)] {
            run(&format!("ip route add {route} dev eth0 table 52"));
            let expected = is_wide.then_some((Family::V4, TableId(52)));
            assert_eq!(wide().await, expected.into_iter().collect(), "{route}");
            run(&format!("ip route del {route} dev eth0 table 52"));
        }
        // As a VPN leaves it that is not connected.
        for forbidding in ["unreachable", "prohibit", "blackhole"] {
            run(&format!("ip route add {forbidding} default table 52"));
            let look = lab.kernel.inventory(&[], false).await.unwrap();
            let tables = || [(Family::V4, TableId(52))].into();
            assert_eq!(
                (look.wide_tables, look.closed_tables),
                (tables(), tables()),
                "{forbidding}"
            );
            run("ip route add 0.0.0.0/1 dev eth0 table 52");
            let look = lab.kernel.inventory(&[], false).await.unwrap();
            assert_eq!(
                (look.wide_tables, look.closed_tables),
                (tables(), [].into()),
                "{forbidding}"
            );
            run("ip route flush table 52");
        }
        let mut wide = async || lab.kernel.inventory(&[], false).await.unwrap().wide_tables;
        // By which a mark is sent, wherever from; and by which programs take what they have marked for themselves (TPROXY).
        run(
            "ip rule add pref 1001 fwmark 0x100/0xff00 from 10.1.0.0/16 lookup 201 && ip route add default dev eth0 table 201",
        );
        run(
            "ip rule add pref 1002 fwmark 0x200/0xff00 lookup 202 && ip route add local default dev lo table 202",
        );
        assert_eq!(wide().await, [(Family::V4, TableId(201))].into());
    });
}

#[test]
fn rules_of_others_that_forbid_are_told_apart_from_those_that_look_up_or_jump() {
    lab(async |lab| {
        machine();
        for (rule, forbids) in [
            ("prohibit", true),
            ("unreachable", true),
            ("blackhole", true),
            ("goto 32766", false),
            ("lookup 52", false),
        ] {
            run(&format!("ip rule add pref 5270 not fwmark 0xca6c {rule}"));
            let rules = lab.kernel.inventory(&[], false).await.unwrap().rules;
            let found = rules.iter().find(|rule| rule.priority == 5270).unwrap();
            assert_eq!(found.forbids, forbids, "{rule}");
            run("ip rule del pref 5270");
        }
    });
}

#[test]
fn of_the_tables_for_marks_it_is_known_what_they_have_a_route_to() {
    lab(async |lab| {
        machine();
        run("ip rule add pref 1001 fwmark 0x100/0xff00 lookup 201
             ip rule add pref 1002 not fwmark 0/0xff00 lookup 202
             ip rule add pref 1003 lookup 203
             ip route add 10.244.0.0/16 dev eth0 table 201
             ip route add unreachable default table 201
             ip route add throw 10.5.0.0/16 table 201
             ip route add local 10.6.0.0/16 dev lo table 202
             ip route add blackhole 10.7.0.0/16 table 202
             ip route add 10.8.0.0/16 dev eth0 table 203");
        let found = lab.kernel.inventory(&[], false).await.unwrap().marked_routes;
        let expected = [
            ((Family::V4, TableId(201)), vec!["0.0.0.0/0", "10.244.0.0/16"]),
            ((Family::V4, TableId(202)), vec!["10.7.0.0/16"]),
        ];
        let prefixes = |texts: Vec<&str>| texts.into_iter().map(p::<Prefix>).collect();
        assert_eq!(
            found,
            expected.map(|(table, texts)| (table, prefixes(texts))).into()
        );
    });
}

#[test]
fn calicos_device_is_seen_with_its_routes_to_blocks_and_no_others() {
    lab(async |lab| {
        machine();
        run("ip link add vxlan.calico type vxlan id 4096 local 10.1.0.5 dev eth0 dstport 4789 nolearning");
        run("ip link set vxlan.calico up && ip addr add 10.244.1.0/32 dev vxlan.calico");
        // As Felix and BIRD make them.
        run("ip route add 10.244.2.0/26 via 10.244.2.0 dev vxlan.calico onlink");
        run("ip route add 10.244.3.0/26 via 10.1.0.7 dev eth0 proto 80 onlink");
        run("ip route add 10.244.4.0/26 via 10.1.0.8 dev eth0 proto bird");
        run("ip route add blackhole 10.244.1.0/26 proto 80");
        // As others do.
        run("ip route add 10.244.5.0/26 via 10.1.0.9 dev eth0");
        run("ip route add 10.244.6.0/26 dev eth0 proto 80");
        run("ip route add 10.244.7.0/26 via 10.1.0.9 dev eth0 proto 80 table 7");

        let look = lab.kernel.inventory(&[], false).await.unwrap();

        let Cni::Calico { links, routes } = look.cni else {
            panic!("{:?}", look.cni);
        };
        assert_eq!(links, [(link("vxlan.calico"), Encapsulation::Vxlan)].into());
        let expected = [
            ("10.244.2.0/26", "vxlan.calico", "10.244.2.0"),
            ("10.244.3.0/26", "eth0", "10.1.0.7"),
            ("10.244.4.0/26", "eth0", "10.1.0.8"),
        ];
        let route = |(prefix, name, via): (&str, &str, &str)| {
            let (link, via) = (link(name), p(via));
            (p(prefix), CniRoute { link, via })
        };
        assert_eq!(*routes, expected.map(route).into());
        assert!(look.links[&link("vxlan.calico")].cni);
    });
}

#[test]
fn networks_that_routes_of_others_make_local_are_seen_and_not_what_the_kernel_makes_of_addresses() {
    lab(async |lab| {
        run("ip link set lo up");
        machine();
        // As kube-proxy has its services in IPVS mode.
        run("ip link add ipvs0 type bridge && ip addr add 10.96.0.1/32 dev ipvs0");
        run("ip -6 addr add fd03::1/128 dev ipvs0 nodad");
        let found = lab.kernel.inventory(&[], false).await.unwrap().local_routes;
        assert_eq!(found, [].into());
        run("ip route add local 203.0.113.0/24 dev lo");
        run("ip route add local 10.9.9.9/32 dev eth0 proto 66");
        run("ip -6 route add local 2001:db8:7::/48 dev lo");
        // Another table has it, for what is marked alone.
        run("ip route add local default dev lo table 100 && ip rule add fwmark 1 lookup 100");
        run("ip route add 10.8.0.0/16 via 10.1.0.1");
        let found = lab.kernel.inventory(&[], false).await.unwrap().local_routes;
        let expected = [
            ("203.0.113.0/24", "lo"),
            ("10.9.9.9/32", "eth0"),
            ("2001:db8:7::/48", "lo"),
        ];
        let expected = expected.map(|(network, device)| (p::<Prefix>(network), link(device)));
        assert_eq!(found, expected.into());
    });
}
