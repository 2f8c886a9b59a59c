//! Sockets in one network namespace and the interface in another, so that whatever is in the other has the tunnel and nothing
//! else (<https://www.wireguard.com/netns/>).

use crate::world::{Engine, World, ends, other, run, wait_for};

/// A network namespace; it goes with this.
struct Namespace(String);

impl Namespace {
    fn run(&self, command: &[&str]) -> String {
        run(&[&["ip", "netns", "exec", &self.0], command].concat())
    }

    fn reaches(&self, to: &str, length: &str) -> bool {
        let ping = ["ping", "-q", "-c", "1", "-W", "1", "-s", length, to];
        self.run(&["sh", "-c", &format!("{} >&2; echo $?", ping.join(" "))])
            .trim()
            == "0"
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        run(&["ip", "netns", "del", &self.0]);
    }
}

#[test]
fn the_interface_carries_packets_from_another_namespace_until_it_is_removed_there() {
    let mut world = World::joined(Engine::Ours, other(), false);
    let World { a, b } = &mut world;
    let device = a.device.clone();
    assert!(a.pings(b.inner[0], 1));
    let inside = Namespace(format!("{}x", a.netns));
    run(&["ip", "netns", "add", &inside.0]);
    a.run(&["ip", "link", "set", &device, "netns", &inside.0]);
    // The kernel has taken it down and its addresses away.
    for address in a.inner {
        let net = format!("{address}/{}", if address.is_ipv4() { 24 } else { 64 });
        inside.run(&["ip", "addr", "add", &net, "dev", &device]);
    }
    inside.run(&["ip", "link", "set", &device, "up"]);
    let peers = b.inner.map(|address| address.to_string());
    for peer in &peers {
        wait_for("the tunnel from the other namespace", || {
            inside.reaches(peer, "56")
        });
        assert!(inside.reaches(peer, "1372"));
    }
    let links = inside.run(&["ip", "-br", "link"]);
    assert!(!links.contains("eth0"), "{links}");

    // What is done to it there, and to the sockets here.
    inside.run(&["ip", "link", "set", &device, "mtu", "1300"]);
    assert!(inside.reaches(&peers[0], "1200"));
    a.wg(&["listen-port", "51999"]);
    wait_for("the tunnel from another port", || inside.reaches(&peers[1], "56"));

    inside.run(&["ip", "link", "del", &device]);
    assert!(ends(a.process.as_mut().unwrap()));
    assert!(!a.socket().exists());
}
