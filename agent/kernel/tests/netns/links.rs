use spanwire_host::{Device, DeviceKind, OwnershipConflict, Step, WireGuard};
use spanwire_kernel::{ApplyError, BackendChoice};

use crate::lab::{json, key, lab, p, run};

#[test]
fn a_device_is_made_changed_and_removed_step_by_step() {
    lab(async |lab| {
        let name = lab.name.clone();
        assert_eq!(lab.device().await, None);

        lab.apply(vec![lab.add_link()]).await;
        let wireguard = WireGuard {
            public_key: Some(key().public()),
            listen_port: 51_820,
            mark: 0x2000,
            ..WireGuard::default()
        };
        let mut expected = Device {
            mtu: 1420,
            up: false,
            addresses: [].into(),
            kind: DeviceKind::WireGuard(wireguard),
        };
        assert_eq!(lab.device().await.as_ref(), Some(&expected));

        lab.apply(vec![
            Step::SetMtu(name.clone(), 1380),
            Step::AddAddress(name.clone(), p("10.4.0.1")),
            Step::AddAddress(name.clone(), p("fd42::1")),
            Step::AddAddress(name.clone(), p("10.4.0.2")),
            Step::SetUp(name.clone(), true),
        ])
        .await;
        expected.mtu = 1380;
        expected.up = true;
        expected.addresses = [p("10.4.0.1"), p("10.4.0.2"), p("fd42::1")].into();
        assert_eq!(lab.device().await.as_ref(), Some(&expected));
        let listed = json(&format!("ip -j -d addr show dev {name} scope global"));
        assert_eq!(listed[0]["mtu"], 1380);
        let listed: Vec<_> = listed[0]["addr_info"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|address| address.get("local"))
            .collect();
        assert_eq!(listed, ["10.4.0.1", "10.4.0.2", "fd42::1"]);
        assert_eq!(
            json(&format!("ip -j route show dev {name} table main"))
                .as_array()
                .unwrap()
                .len(),
            0
        );

        // Twice is once.
        lab.apply(vec![
            Step::AddAddress(name.clone(), p("10.4.0.1")),
            Step::AddAddress(name.clone(), p("fd42::1")),
        ])
        .await;
        lab.apply(vec![
            Step::DeleteAddress(name.clone(), p("10.4.0.1")),
            Step::DeleteAddress(name.clone(), p("10.4.0.1")),
            Step::DeleteAddress(name.clone(), p("fd42::1")),
            Step::DeleteAddress(name.clone(), p("fd42::1")),
            Step::SetUp(name.clone(), false),
        ])
        .await;
        expected.up = false;
        expected.addresses = [p("10.4.0.2")].into();
        assert_eq!(lab.device().await, Some(expected));

        let delete = || Step::DeleteDevice(name.clone());
        lab.apply(vec![delete(), delete()]).await;
        assert_eq!(lab.device().await, None);
        assert!(!run("ip link").contains(name.as_str()));
    });
}

#[test]
fn a_device_gets_no_link_local_address_also_where_the_tunnel_made_it_late() {
    lab(async |lab| {
        let name = lab.name.clone();
        lab.apply(vec![lab.add_link()]).await;
        // As where the tunnel made it after it had been given up.
        run(&format!("sysctl -q -w net.ipv6.conf.{name}.addr_gen_mode=0"));
        lab.apply(vec![Step::SetUp(name.clone(), true)]).await;
        let routes = run(&format!("ip -6 route show dev {name} table all"));
        assert!(!routes.contains("fe80"), "{routes}");
    });
}

#[test]
fn an_address_that_another_program_put_on_the_device_can_be_removed() {
    lab(async |lab| {
        let name = lab.name.clone();
        lab.apply(vec![
            lab.add_link(),
            Step::SetUp(name.clone(), true),
            Step::AddAddress(name.clone(), p("10.4.0.1")),
        ])
        .await;
        run(&format!(
            "ip addr add 10.9.0.7/24 dev {name} && ip addr add fd09::7/64 dev {name}"
        ));
        let found = lab.device().await.unwrap().addresses;
        assert_eq!(found, [p("10.4.0.1"), p("10.9.0.0/24"), p("fd09::/64")].into());

        lab.apply(vec![
            Step::DeleteAddress(name.clone(), p("10.9.0.0/24")),
            Step::DeleteAddress(name.clone(), p("fd09::/64")),
        ])
        .await;

        assert_eq!(lab.device().await.unwrap().addresses, [p("10.4.0.1")].into());
    });
}

#[test]
fn a_device_of_another_program_with_our_name_is_left_alone_and_named() {
    lab(async |lab| {
        let name = lab.name.clone();
        run(&format!("ip link add {name} type bridge"));

        assert_eq!(lab.device().await, None);
        let report = lab.kernel.apply(vec![lab.add_link()]).await;

        assert!(
            matches!(
                &report.failed[..],
                [(_, ApplyError::ForeignLink(OwnershipConflict::Link { kind, .. }))] if kind == "bridge"
            ),
            "{report:?}"
        );
        assert_eq!(
            json(&format!("ip -j -d link show {name}"))[0]["linkinfo"]["info_kind"],
            "bridge"
        );
    });
}

/// A tunnel process that starts has its device a moment before it answers for it; another program's looks the same.
#[test]
fn a_tun_device_that_nothing_answers_for_is_not_called_another_programs() {
    lab(async |lab| {
        let name = lab.name.clone();
        run(&format!("ip tuntap add {name} mode tun"));

        let report = lab.kernel.apply(vec![lab.add_link()]).await;

        let silent = OwnershipConflict::SilentLink { name };
        assert!(
            matches!(&report.failed[..], [(_, ApplyError::ForeignLink(found))] if *found == silent),
            "{report:?}"
        );
        let found = lab.kernel.ownership_conflicts(None).await.unwrap();
        assert_eq!(found, [silent]);
    });
}

#[test]
fn without_the_device_its_steps_fail_by_name_and_the_others_are_done() {
    lab(async |lab| {
        let name = lab.name.clone();
        let report = lab
            .kernel
            .apply(vec![
                Step::SetUp(name.clone(), true),
                Step::SetMtu(name.clone(), 1400),
                Step::AddAddress(name.clone(), p("10.4.0.1")),
                Step::DeletePeer(name.clone(), key().public()),
                Step::SetSysctl(
                    spanwire_host::Sysctl("net/ipv4/ip_forward".to_owned()),
                    "1".to_owned(),
                ),
            ])
            .await;
        assert_eq!((report.done, report.failed.len()), (1, 4), "{report:?}");
        assert!(matches!(&report.failed[0].1, ApplyError::NoLink(name) if *name == lab.name));
    });
}

#[test]
fn a_probe_device_that_was_left_behind_keeps_no_agent_from_starting() {
    lab(async |lab| {
        let probe: String = lab.name.as_str().chars().take(9).collect::<String>() + "-probe";
        // Another program's stays, and ours, where the kernel can make it, goes.
        for kind in ["bridge", "wireguard"] {
            if testbed_try(&format!("ip link add {probe} type {kind}")) {
                lab.kernel = lab.restarted(BackendChoice::Auto).await;
                let left = run("ip -br link").contains(&probe);
                assert_eq!(left, kind == "bridge", "{kind}");
                let _deleted = testbed_try(&format!("ip link del {probe}"));
            }
        }
    });
}

#[test]
fn a_kernel_without_wireguard_fails_the_device_by_name_and_nothing_else() {
    lab(async |lab| {
        if testbed_try("ip link add w type wireguard && ip link del w") {
            return; // this kernel has it
        }
        lab.kernel = lab.restarted(BackendChoice::Kernel).await;
        let forwarding = spanwire_host::Sysctl("net/ipv4/ip_forward".to_owned());
        let steps = vec![lab.add_link(), Step::SetSysctl(forwarding, "1".to_owned())];
        let report = lab.kernel.apply(steps).await;
        assert_eq!(report.done, 1);
        assert!(
            matches!(&report.failed[..], [(_, ApplyError::NoWireGuard)]),
            "{report:?}"
        );
    });
}

#[test]
fn the_key_of_a_device_that_is_there_can_be_had() {
    lab(async |lab| {
        assert!(lab.kernel.device_key().await.unwrap().is_none());
        lab.apply(vec![lab.add_link()]).await;
        let found = lab.kernel.device_key().await.unwrap();
        assert_eq!(found.map(|found| found.public()), Some(key().public()));
    });
}

/// Runs a line of shell that may fail; returns whether it did not.
fn testbed_try(script: &str) -> bool {
    run(&format!("{{ {script}; }} >/dev/null 2>&1 && echo yes || echo no")) == "yes\n"
}
