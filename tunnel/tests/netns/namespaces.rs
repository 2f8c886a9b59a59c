//! Sockets in one network namespace and the interface in another, so that whatever is in the other has the tunnel and nothing
//! else (<https://www.wireguard.com/netns/>).

use spanwire_testbed::Namespace;

use crate::world::{Engine, World, ends, other, wait_for};

fn reaches(from: &Namespace, to: &str, length: &str) -> bool {
    from.command("ping")
        .args(["-q", "-c", "1", "-W", "1", "-s", length, to])
        .succeeds()
}

#[test]
fn the_interface_carries_packets_from_another_namespace_until_it_is_removed_there() {
    let mut world = World::joined(Engine::Ours, other(), false);
    let World { a, b } = &mut world;
    let device = a.device.clone();
    assert!(a.pings(b.inner[0], 1));
    let inside = Namespace::new();
    let pid = inside.pid().to_string();
    a.run(&["ip", "link", "set", &device, "netns", &pid]);
    // The kernel has taken it down and its addresses away.
    for address in a.inner {
        let net = format!("{address}/{}", if address.is_ipv4() { 24 } else { 64 });
        inside.run(&format!("ip addr add {net} dev {device}"));
    }
    inside.run(&format!("ip link set {device} up"));
    let peers = b.inner.map(|address| address.to_string());
    for peer in &peers {
        wait_for("the tunnel from the other namespace", || {
            reaches(&inside, peer, "56")
        });
        assert!(reaches(&inside, peer, "1372"));
    }
    let links = inside.run("ip -br link");
    assert!(!links.contains("eth0"), "{links}");

    // What is done to it there, and to the sockets here.
    inside.run(&format!("ip link set {device} mtu 1300"));
    assert!(reaches(&inside, &peers[0], "1200"));
    a.wg(&["listen-port", "51999"]);
    wait_for("the tunnel from another port", || {
        reaches(&inside, &peers[1], "56")
    });

    inside.run(&format!("ip link del {device}"));
    assert!(ends(a.process.as_mut().unwrap()));
    assert!(!a.socket().exists());
}
