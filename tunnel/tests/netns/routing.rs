//! How packets come into the tunnel: by rules and marks, and from sockets that are bound to it.

use std::{net::IpAddr, thread, time::Duration};

use crate::{
    namespaces::move_inside,
    world::{Engine, Side, World, families, other, wait_for},
};

/// A flood of pings, all of which come back.
fn floods(side: &Side, to: &str) -> bool {
    let flood = side.try_run(&["ping", "-q", "-f", "-c", "100", "-W", "2", to]);
    flood.status.success() && String::from_utf8_lossy(&flood.stdout).contains(" 0% packet loss")
}

#[test]
fn default_routes_of_both_families_lead_into_the_tunnel_but_for_what_has_its_mark() {
    for v6 in families() {
        let world = World::joined(Engine::Ours, other(), v6);
        let World { a, b } = &world;
        let far: [IpAddr; 2] = ["192.168.99.7", "2001:db8:abab::7"].map(|far| far.parse().unwrap());
        let device = &a.device;
        for (side, address, bits) in [(b, far[0], 32), (b, far[1], 128)] {
            let net = format!("{address}/{bits}");
            side.run(&["ip", "addr", "add", &net, "dev", &b.device]);
        }
        // As by wg-quick, with default routes by the wire behind those.
        a.wg(&[
            "fwmark",
            "51820",
            "peer",
            &b.public,
            "allowed-ips",
            "0.0.0.0/0,::/0",
        ]);
        for (family, next_hop) in [("-4", b.outer[0]), ("-6", b.outer[1])] {
            a.namespace.run(&format!(
                "ip {family} route add default via {next_hop}
                 ip {family} route add default dev {device} table 51820
                 ip {family} rule add not fwmark 51820 table 51820
                 ip {family} rule add table main suppress_prefixlength 0"
            ));
        }
        a.namespace
            .run("sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.eth0.rp_filter=0");
        let received = b.received();
        for to in far {
            assert!(floods(a, &to.to_string()), "{to}");
        }
        assert!(b.received() - received >= 200 * 128);
    }
}

#[test]
fn packets_of_sockets_bound_to_the_interface_and_packets_whose_mark_changes_are_carried() {
    let world = World::joined(Engine::Ours, other(), false);
    let World { a, b } = &world;
    let ping = |bound: bool| {
        let to = b.inner[0].to_string();
        let mut words = vec!["ping", "-q", "-c", "1", "-W", "2"];
        if bound {
            words.extend(["-I", a.device.as_str()]);
        }
        words.push(&to);
        a.try_run(&words).status.success()
    };
    assert!(ping(false));
    assert!(ping(true));
    // Such a chain asks for the route again.
    a.namespace.nft(
        "table ip t {
            chain o {
                type route hook output priority -150;
                meta mark set 1
            }
        }",
    );
    assert!(ping(false), "a packet that was marked on its way out");
    assert!(
        ping(true),
        "the same from a socket that is bound to the interface"
    );
}

#[test]
fn packets_are_padded_up_to_the_mtu_of_the_route_they_take() {
    let world = World::joined(Engine::Ours, other(), false);
    let World { a, b } = &world;
    a.run(&["ip", "link", "set", &a.device, "mtu", "1300"]);
    assert!(a.pings(b.inner[0], 1));
    for (to, header) in [(b.inner[0], 28), (b.inner[1], 48)] {
        let to = to.to_string();
        let length = (1297 - header).to_string();
        let ping = ["ping", "-q", "-c", "1", "-W", "2", "-s", &length, &to];
        a.run(&["ip", "route", "add", &to, "dev", &a.device, "mtu", "1299"]);
        // Within a second; the interface's, too.
        wait_for("the MTU of the route to count", || {
            let before = b.received();
            assert!(a.try_run(&ping).status.success());
            b.received() - before == 1299 + 32
        });
        a.run(&["ip", "route", "del", &to, "dev", &a.device]);
    }
}

/// As the self-test has it: sockets here, the interface elsewhere, and a packet right behind a change.
#[test]
fn the_mtu_of_a_route_where_the_interface_was_moved_counts_at_once() {
    let world = World::joined(Engine::Ours, other(), false);
    let World { a, b } = &world;
    let inside = move_inside(a);
    inside.run(&format!("ip link set {} mtu 1300", a.device));
    wait_for("the tunnel from the other namespace", || {
        b.inner.iter().all(|to| {
            let ping = inside.command("ping").args(["-q", "-c", "1", "-W", "2"]);
            ping.arg(to.to_string()).succeeds()
        })
    });
    // The MTU of the interface is looked at once a second.
    thread::sleep(Duration::from_millis(1200));
    for (to, header) in [(b.inner[0], 28), (b.inner[1], 48)] {
        let ping = || {
            let before = b.received();
            let length = (1297 - header).to_string();
            let ping = inside
                .command("ping")
                .args(["-q", "-c", "1", "-W", "2", "-s", &length]);
            assert!(ping.arg(to.to_string()).succeeds());
            b.received() - before
        };
        for _ in 0..3 {
            assert_eq!(ping(), 1300 + 32, "{to}");
            inside.run(&format!("ip route add {to} dev {} mtu 1299", a.device));
            assert_eq!(ping(), 1299 + 32, "{to}");
            inside.run(&format!("ip route del {to} dev {}", a.device));
        }
    }
}
