//! Machines without IPv6, and machines that have their IPv6 route from router advertisements.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddrV6},
    sync::Arc,
    time::{Duration, Instant},
};

use socket2::{Domain, Protocol, Socket, Type};
use spanwire_host::{Conflict, HostFacts, Owned, conflicts, diff, render};
use spanwire_topology::{
    Leader, LeaderRole, Location, Member, Mesh, Plan, Prefix, PublicKey, Reachability, plan,
};

use crate::lab::{Lab, key, lab, p, run};

/// Node a1 at 10.1.0.5 and fd01::5, which leads location a towards b; with pods of both families, or of IPv4 alone.
fn leader(dual_stack: bool) -> Plan {
    let located = |name: &str, number: u8, key: PublicKey| {
        let addresses: [IpAddr; 2] = [p(&format!("10.{number}.0.5")), p(&format!("fd0{number}::5"))];
        let prefixes: [Prefix; 2] = [
            p(&format!("10.244.{number}.0/24")),
            p(&format!("fd00:244:{number}::/64")),
        ];
        let overlay: [IpAddr; 2] = [p(&format!("10.4.0.{number}")), p(&format!("fd00:4::{number}"))];
        let count = if dual_stack { 2 } else { 1 };
        let node = p(&format!("{name}1"));
        let member = Member {
            addresses: addresses.into_iter().take(count).collect(),
            prefixes: prefixes.into_iter().take(count).collect(),
            overlay: overlay.into_iter().take(count).collect(),
            public_key: Some(key),
            listen_port: 51_820,
            ..Member::default()
        };
        let location = Location {
            leaders: vec![Leader {
                node,
                role: LeaderRole::Active,
            }],
            established: [p(if name == "a" { "b" } else { "a" })].into(),
            members: Arc::new([(p(&format!("{name}1")), member)].into()),
            ..Location::default()
        };
        (p(name), location)
    };
    let mesh = Mesh {
        locations: [
            located("a", 1, key().public()),
            located("b", 2, PublicKey::new([2; 32])),
        ]
        .into(),
        ..Mesh::default()
    };
    plan(&mesh, &p("a1"), &Reachability::default())
}

/// Does to the machine what the plan asks for, which must leave nothing to do; returns what the machine cannot have.
async fn carry_out(lab: &mut Lab, plan: &Plan) -> Vec<Conflict> {
    let mut facts = HostFacts {
        owned: Owned {
            link: lab.name.clone(),
            ..Owned::default()
        },
        public_key: Some(key().public()),
        ..HostFacts::default()
    };
    facts.handle_inventory(lab.kernel.inventory([], false).await.unwrap());
    // Not every WireGuard that is tested here has groups.
    facts.groups = false;
    let wanted = render(plan, &facts);
    let actual = lab.kernel.read(wanted.sysctls.keys()).await.unwrap();
    lab.apply(diff(&actual, &wanted)).await;
    let actual = lab.kernel.read(wanted.sysctls.keys()).await.unwrap();
    assert_eq!(diff(&actual, &wanted), []);
    conflicts(plan, &facts)
}

fn machine() {
    run("ip link add eth0 type veth peer name far && ip link set eth0 up && ip link set far up");
    run("ip addr add 10.1.0.5/24 dev eth0 && ip addr add fd01::5/64 dev eth0 nodad");
}

fn disable_ipv6(device: &str) {
    run(&format!("echo 1 >/proc/sys/net/ipv6/conf/{device}/disable_ipv6"));
}

#[test]
fn where_ipv6_is_off_no_step_fails_and_only_a_plan_that_needs_it_has_a_conflict() {
    lab(async |lab| {
        machine();
        disable_ipv6("all");
        assert_eq!(carry_out(lab, &leader(false)).await, []);
        let conflicts = carry_out(lab, &leader(true)).await;
        assert_eq!(conflicts, [Conflict::Ipv6Disabled { everywhere: true }]);
        assert_eq!(run("ip -6 route show table 51830 2>/dev/null || true"), "");
        assert_eq!(
            run("ip -6 rule | grep -v -e 'lookup local' -e 'lookup main' || true"),
            ""
        );
        assert_eq!(run("cat /proc/sys/net/ipv6/conf/all/forwarding"), "0\n");
    });
}

#[test]
fn where_new_devices_have_no_ipv6_no_step_fails_and_it_comes_back_when_it_is_switched_on() {
    lab(async |lab| {
        machine();
        disable_ipv6("default");
        let plan = leader(true);
        assert_eq!(
            carry_out(lab, &plan).await,
            [Conflict::Ipv6Disabled { everywhere: false }]
        );
        let far = "ip -6 route get fd00:244:2::9 || true";
        assert!(!run(far).contains("dev"), "plaintext");

        run("echo 0 >/proc/sys/net/ipv6/conf/default/disable_ipv6");
        assert_eq!(carry_out(lab, &plan).await, []);
        assert!(run(far).contains(lab.name.as_str()));
    });
}

#[test]
fn a_kernel_without_ipv6_has_it_on_no_device() {
    lab(async |lab| {
        machine();
        assert!(!lab.kernel.inventory([], false).await.unwrap().ipv6_disabled);
        let inventory = lab.without_ipv6().await.inventory([], false).await.unwrap();
        assert!(inventory.ipv6_disabled && !inventory.ipv6_forwarded);
        assert!(
            inventory
                .links
                .values()
                .all(|link| link.ipv6_disabled && !link.advertisements)
        );
    });
}

#[test]
fn a_leader_of_ipv4_alone_leaves_ipv6_as_it_is() {
    lab(async |lab| {
        machine();
        assert_eq!(carry_out(lab, &leader(false)).await, []);
        assert_eq!(run("cat /proc/sys/net/ipv6/conf/all/forwarding"), "0\n");
        assert_eq!(run("cat /proc/sys/net/ipv6/conf/eth0/accept_ra"), "1\n");
        assert_eq!(run(&format!("ip -6 addr show dev {}", lab.name)), "");
    });
}

/// Sends a router advertisement (RFC 4861, section 4.2) that makes its sender the default router for half an hour.
fn advertise(device: &str) {
    let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6)).unwrap();
    socket.bind_device(Some(device.as_bytes())).unwrap();
    socket.set_multicast_hops_v6(255).unwrap();
    let index = nix::net::if_::if_nametoindex(device).unwrap();
    socket.set_multicast_if_v6(index).unwrap();
    let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let mut message = [0; 16];
    (message[0], message[4]) = (134, 64);
    message[6..8].copy_from_slice(&1_800_u16.to_be_bytes());
    let to = SocketAddrV6::new(all_nodes, 0, 0, index).into();
    // The kernel gives a device that came up its address and its multicast route a little later.
    within_seconds(|| socket.send_to(&message, &to).ok()).expect("the advertisement cannot be sent");
}

/// The default route that was learnt from advertisements, which arrive when the machine gets round to it.
fn learnt() -> Option<String> {
    within_seconds(|| Some(run("ip -6 route show default proto ra")).filter(|route| !route.is_empty()))
}

/// Tries again and again for some seconds.
fn within_seconds<T>(attempt: impl Fn() -> Option<T>) -> Option<T> {
    let begin = Instant::now();
    loop {
        let found = attempt();
        if found.is_some() || begin.elapsed() > Duration::from_secs(5) {
            return found;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_leader_that_forwards_ipv6_keeps_the_default_route_that_a_router_advertises() {
    lab(async |lab| {
        // Both ends are here, so the router is one of the machine's own.
        run("echo 0 >/proc/sys/net/ipv6/conf/default/accept_dad");
        machine();
        run("echo 1 >/proc/sys/net/ipv6/conf/eth0/accept_ra_from_local");
        run("echo 0 >/proc/sys/net/ipv6/conf/far/accept_ra");
        advertise("far");
        assert!(learnt().is_some(), "no advertisement arrived");

        assert_eq!(carry_out(lab, &leader(true)).await, []);
        let values = || run("cd /proc/sys/net/ipv6/conf; cat all/forwarding eth0/accept_ra far/accept_ra");
        assert_eq!(values(), "1\n2\n0\n");
        assert!(learnt().is_some(), "forgotten when IPv6 came to be forwarded");
        run("ip -6 route del default proto ra");
        advertise("far");
        assert!(learnt().is_some(), "deaf to advertisements");

        // A device that comes later; then nothing more is to do.
        run("ip link add eth1 type veth peer name far1 && ip link set eth1 up && ip link set far1 up");
        carry_out(lab, &leader(true)).await;
        assert_eq!(run("cat /proc/sys/net/ipv6/conf/eth1/accept_ra"), "2\n");
        assert!(lab.kernel.restore_sysctls().await.is_empty());
        assert_eq!(values(), "0\n1\n0\n");
    });
}

#[test]
fn where_ipv6_was_forwarded_before_advertisements_are_no_affair_of_ours() {
    lab(async |lab| {
        machine();
        run("echo 1 >/proc/sys/net/ipv6/conf/all/forwarding");
        assert_eq!(carry_out(lab, &leader(true)).await, []);
        assert_eq!(run("cat /proc/sys/net/ipv6/conf/eth0/accept_ra"), "1\n");
    });
}
