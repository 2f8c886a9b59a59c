//! A device whose datagrams have a VRF: what `ip vrf exec` starts.

use std::{net::SocketAddr, process::Stdio, thread, time::Duration};

use crate::world::{Engine, OURS, World, other, wait_for};

/// Outside of the VRF there are other routes. Runs in `make test-kernel`, for not every kernel has VRFs.
#[test]
fn addresses_of_its_vrf_are_sent_from_whatever_changes_there() {
    let mut world = World::new(Engine::Ours, other());
    let vrf = format!("v{}", std::process::id());
    let made = world
        .a
        .try_run(&["ip", "link", "add", &vrf, "type", "vrf", "table", "77"]);
    if !made.status.success() {
        assert_ne!(other(), Engine::Kernel, "the kernel of make test-kernel has VRFs");
        return;
    }
    world.a.crash();
    world.a.namespace.run(&format!(
        "ip link set {vrf} up
         ip link set eth0 master {vrf}
         ip addr replace 2001:db8::1/64 dev eth0 nodad
         ip addr add 192.0.2.99/24 dev eth0
         ip addr add 198.51.100.9/32 dev {vrf}
         ip addr add 2001:db8:9::9/128 dev {vrf} nodad
         ip link add eth1 type veth peer name eth2
         ip link set eth1 up
         ip link set eth2 up
         ip route add 192.0.2.0/24 dev eth1
         ip route add 2001:db8::/64 dev eth1"
    ));
    world
        .b
        .namespace
        .run("ip route add 198.51.100.9 via 192.0.2.1\nip route add 2001:db8:9::9 via 2001:db8::1");
    let device = world.a.device.clone();
    let words = ["ip", "vrf", "exec", &vrf, OURS, "-f", "--threads", "2", &device];
    world.a.process = Some(world.a.command(&words).stderr(Stdio::null()).spawn());
    let World { a, b } = &world;
    wait_for("the device in the VRF", || {
        a.socket().exists() && a.try_run(&["wg", "show", &a.device]).status.success()
    });
    a.dress();
    a.know(b, None);
    for address in ["192.0.2.99", "198.51.100.9", "2001:db8:9::9"] {
        let endpoint = SocketAddr::new(address.parse().unwrap(), 51820);
        b.know(a, Some(endpoint.ip()));
        assert!(b.pings(a.inner[0], 2), "{address}");
        a.run(&[
            "ip",
            "route",
            "replace",
            "203.0.113.0/24",
            "dev",
            "eth0",
            "table",
            "77",
        ]);
        a.run(&["ip", "route", "del", "203.0.113.0/24", "table", "77"]);
        thread::sleep(Duration::from_millis(500));
        assert!(a.pings(b.inner[0], 2), "{address}");
        assert_eq!(b.endpoint(), endpoint.to_string());
    }
}
