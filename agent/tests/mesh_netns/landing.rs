//! What comes out of the tunnel reaches the mesh and nothing else: from a leader of another location that was broken into, and
//! from a Peer.

use std::{fs, path::PathBuf, process::Child, time::Duration};

use spanwire_crds::{AcceptedPeer, Peer, PeerSpec, PeerStatus};
use spanwire_testbed::{Command, Namespace, wait_until};

use crate::world::{World, configure, tunnel_binary};

/// A neighbour in the LAN of a that is in no mesh, its cloud's metadata service, and an address of a1 that the mesh does not
/// know.
const PRIVATE: [&str; 3] = ["10.1.0.254", "169.254.169.254", "10.77.0.1"];

#[test]
fn a_leader_that_was_taken_over_reaches_nothing_of_another_location_but_the_mesh() {
    let mut world = World::with_agents(true);
    world.wait_for_pods();
    world
        .network
        .router
        .run("ip address add 169.254.169.254/32 dev lo");
    world.network.router.nft(
        "table inet seen {
           chain input {
             type filter hook input priority raw
             iifname lan1 ip saddr 10.2.0.0/16 icmp type echo-request counter
           }
         }",
    );
    let hex = with_private_address(&mut world);
    let far = world.node("b1");
    far.kill_agent();
    let allowed: String = PRIVATE
        .map(|address| format!("allowed_ip={address}/32\n"))
        .concat();
    far.configure_device(&format!("set=1\npublic_key={hex}\nupdate_only=true\n{allowed}\n"));
    for address in PRIVATE {
        far.host.run(&format!(
            "ip route add {address} dev spanwire0 src 10.2.0.3 table 51830"
        ));
        assert!(!far.host.pings(address), "{address} answers");
    }
    for address in [
        "10.1.0.1",
        "10.1.0.2",
        "10.244.1.1",
        "10.244.1.2",
        "10.244.2.2",
        "10.4.0.1",
    ] {
        assert!(far.host.pings(address), "{address}, which is in the mesh");
    }
    let seen = world.network.router.run("nft list chain inet seen input");
    assert!(seen.contains("packets 0 "), "in the LAN of a: {seen}");
    assert_dropped(&mut world, 2, 1);
    reaches_no_loopback(&mut world, &hex);
    assert_dropped(&mut world, 2, 3);
}

/// Also where a1 takes packets for loopback addresses from any device, as kube-proxy has it. b1 does, so that it would see the
/// answers, and has no loopback addresses of its own.
fn reaches_no_loopback(world: &mut World, hex: &str) {
    let localnet = "sysctl -qw net.ipv4.conf.all.route_localnet=1";
    world.node("a1").host.run(localnet);
    let far = world.node("b1");
    far.host.run(localnet);
    far.host.run("ip address del 127.0.0.1/8 dev lo");
    far.configure_device(&format!(
        "set=1\npublic_key={hex}\nupdate_only=true\nallowed_ip=127.0.0.0/8\n\n"
    ));
    far.host
        .run("ip route add 127.0.0.0/8 dev spanwire0 src 10.2.0.3 table 51830");
    for address in ["127.0.0.1", "127.0.0.53"] {
        assert!(!far.host.pings(address), "{address} answers");
    }
}

/// What the host of a1 redirects, as it does it for its own pods or as kube-proxy does it for services: each family's router,
/// which is no part of the mesh, is a machine of the LAN, or a backend outside of the mesh.
const REDIRECTING: &str = "
table inet redirecting {
  chain prerouting {
    type nat hook prerouting priority dstnat
    ip daddr 169.254.169.254 dnat ip to 10.1.0.1
    ip6 daddr fd00:ec2::254 dnat ip6 to fd00:1::1
    ip daddr 198.51.100.9 dnat ip to 10.1.0.254
    ip6 daddr 2001:db8:9::9 dnat ip6 to fd00:1::fe
    ip daddr 198.51.100.10 dnat ip to 10.244.2.2
    ip6 daddr 2001:db8:9::10 dnat ip6 to fd00:244:2::2
    ip daddr { 10.96.0.9, 10.96.0.10 } meta mark set mark or 0x4000
    ip6 daddr { fd00:96::9, fd00:96::10 } meta mark set mark or 0x4000
    ip daddr 10.96.0.9 dnat ip to 10.1.0.254
    ip6 daddr fd00:96::9 dnat ip6 to fd00:1::fe
    ip daddr 10.96.0.10 dnat ip to 10.1.0.1
    ip6 daddr fd00:96::10 dnat ip6 to fd00:1::1
    iifname spanwire0 ip daddr 10.1.0.1 icmp type echo-request dnat ip to 10.1.0.254
    iifname spanwire0 ip6 daddr fd00:1::1 icmpv6 type echo-request dnat ip6 to fd00:1::fe
  }
  chain postrouting {
    type nat hook postrouting priority srcnat
    ip daddr 10.1.0.254 masquerade
    ip6 daddr fd00:1::fe masquerade
  }
}";

/// By way of an address that a host redirects for itself (the metadata service, for which kube2iam, kiam and GKE have an agent on
/// the node) or for its LAN nothing is reached that was not reached without; by way of services and node ports all is.
#[test]
fn what_a_host_redirects_opens_nothing_and_closes_no_service() {
    let mut world = World::with_agents_of_both_families();
    world.wait_for_pods();
    let near = world.node("a1");
    near.host.nft(REDIRECTING);
    near.host
        .run("ip address add fd77::1/128 dev lo nodad; ip address add 10.77.0.1/32 dev lo");
    wait_until("the addresses to be known", Duration::from_secs(5), || {
        let sets = "nft list table inet spanwire";
        let listed = near.host.run(sets);
        listed.contains("fd77::1") && listed.contains("10.77.0.1")
    });
    let hex: String = near
        .key()
        .as_bytes()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let far = world.node("b1");
    far.kill_agent();
    let closed = [
        "169.254.169.254",
        "fd00:ec2::254",
        "198.51.100.9",
        "2001:db8:9::9",
        "10.1.0.254",
        "fd00:1::fe",
        "10.77.0.1",
        "fd77::1",
    ];
    let open = [
        "198.51.100.10",
        "2001:db8:9::10",
        "10.96.0.9",
        "fd00:96::9",
        "10.96.0.10",
        "fd00:96::10",
    ];
    let in_the_mesh = [
        "10.1.0.1",
        "fd00:1::1",
        "10.1.0.2",
        "fd00:1::2",
        "10.244.2.2",
        "fd00:244:2::2",
        "fd00:4::1",
    ];
    let through = |address: &str| {
        if address.contains(':') {
            (128, "fd00:2::3")
        } else {
            (32, "10.2.0.3")
        }
    };
    let drawn = || closed.into_iter().chain(open);
    let allowed: String = drawn()
        .map(|address| format!("allowed_ip={address}/{}\n", through(address).0))
        .collect();
    far.configure_device(&format!("set=1\npublic_key={hex}\nupdate_only=true\n{allowed}\n"));
    for address in drawn() {
        let source = through(address).1;
        far.host.run(&format!(
            "ip route add {address} dev spanwire0 src {source} table 51830"
        ));
    }
    for address in open.into_iter().chain(in_the_mesh) {
        // What follows the first packet meets none of the host's rules.
        let asked = far.host.run(&format!("ping -c 3 -i 0.2 -W 2 {address} || true"));
        assert!(asked.contains(" 3 received"), "{address}: {asked}");
    }
    for address in closed {
        assert!(!far.host.pings(address), "{address} answers");
    }
}

/// Gives a1 the last of the private addresses; returns its key in hexadecimal digits.
fn with_private_address(world: &mut World) -> String {
    let near = world.node("a1");
    near.host.run("ip address add 10.77.0.1/32 dev lo");
    wait_until("the address to be known", Duration::from_secs(5), || {
        let known = near
            .host
            .try_run("nft list set inet spanwire private4 | grep -q 10.77.0.1");
        known.status.success()
    });
    near.key()
        .as_bytes()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// So many packets from the tunnel were to be forwarded by a1, and so many were for itself, and were dropped.
fn assert_dropped(world: &mut World, forwarded: u32, entering: u32) {
    let dropped = world
        .node("a1")
        .host
        .run("nft list chain inet spanwire landed; nft list chain inet spanwire enter");
    let counted = |packets: u32| dropped.matches(&format!("counter packets {packets} ")).count();
    assert_eq!((counted(forwarded), counted(entering)), (1, 1), "{dropped}");
}

/// Somewhere in the internet, with a device of its own.
pub(crate) struct Laptop {
    host: Namespace,
    tunnel: Child,
    socket: PathBuf,
    leader: String,
}

impl Drop for Laptop {
    fn drop(&mut self) {
        // It may have ended already.
        let _gone = self.tunnel.kill();
        let _ended = self.tunnel.wait();
    }
}

/// The private key of the laptop, as `wg` takes it and in hexadecimal digits.
const PRIVATE_KEY: (&str, &str) = (
    "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=",
    "0707070707070707070707070707070707070707070707070707070707070707",
);

impl Laptop {
    /// It sends everything to a1, whose key that is.
    pub(crate) fn with_tunnel_to(world: &World, hex: &str) -> Self {
        let host = Namespace::new();
        let pid = host.pid();
        world.network.router.run(&format!(
            "ip link add guest type veth peer name eth0 netns {pid}
             ip address add 10.3.0.254/24 dev guest
             ip link set guest up"
        ));
        host.run(
            "ip address add 10.3.0.1/24 dev eth0
             ip link set eth0 up
             ip route add 10.1.0.1/32 via 10.3.0.254",
        );
        let folder = world.folder.path().join("laptop");
        fs::create_dir(&folder).unwrap();
        let serving = host.command(&tunnel_binary());
        let serving = serving.args(["--foreground", "--socket-dir"]).arg(&folder);
        let tunnel = serving.arg("laptop0").spawn();
        let laptop = Self {
            host,
            tunnel,
            socket: folder.join("laptop0.sock"),
            leader: hex.to_owned(),
        };
        wait_until("the laptop's device", Duration::from_secs(5), || {
            laptop.socket.exists()
        });
        let private_key = PRIVATE_KEY.1;
        configure(
            &laptop.socket,
            &format!(
                "set=1\nprivate_key={private_key}\npublic_key={hex}\nendpoint=10.1.0.1:51820\nallowed_ip=0.0.0.0/0\n\n"
            ),
        );
        laptop.host.run(
            "ip address add 10.99.0.7/32 dev laptop0
             ip link set laptop0 up
             ip route add default dev laptop0
             ip rule add from 10.99.0.7 lookup 99
             ip route add default dev laptop0 table 99",
        );
        laptop
    }

    /// Gives it a preshared key, or takes it away; its session ends with that.
    pub(crate) fn set_preshared(&self, key: Option<[u8; 32]>) {
        let digits = key.unwrap_or_default().map(|byte| format!("{byte:02x}")).concat();
        let leader = &self.leader;
        configure(
            &self.socket,
            &format!("set=1\npublic_key={leader}\nupdate_only=true\npreshared_key={digits}\n\n"),
        );
    }

    /// Whether it gets in with this preshared key, or without any. Its handshake begins now: one that was not answered before would be
    /// sent again after five seconds only.
    pub(crate) fn gets_in_with(&self, key: Option<[u8; 32]>) -> bool {
        self.set_preshared(Some([0xee; 32]));
        // Of handshakes that follow each other at once the second is not answered (20 ms of WireGuard's flood protection).
        std::thread::sleep(Duration::from_millis(100));
        self.set_preshared(key);
        self.pings("10.1.0.1")
    }

    /// Whether an address answers it through its tunnel.
    pub(crate) fn pings(&self, address: &str) -> bool {
        let asked = self
            .host
            .try_run(&format!("ping -c 1 -W 1 -I 10.99.0.7 {address}"));
        asked.status.success()
    }
}

/// The laptop as it was accepted, attached to location a.
pub(crate) fn accepted() -> Peer {
    let public_key = Command::new("wg").arg("pubkey").input(PRIVATE_KEY.0).run();
    let public_key = public_key.trim().to_owned();
    let allowed_ips = vec!["10.99.0.7/32".to_owned()];
    let spec = PeerSpec {
        public_key: public_key.clone(),
        allowed_ips: allowed_ips.clone(),
        endpoint: None,
        persistent_keepalive: None,
        location: Some("a".to_owned()),
        preshared_key_secret_ref: None,
    };
    let accepted = AcceptedPeer {
        public_key,
        allowed_ips,
        endpoint: None,
        persistent_keepalive: None,
        preshared_key_secret_ref: None,
        home: Some("a".to_owned()),
        attachments: vec!["a".to_owned()],
    };
    let mut peer = Peer::new("laptop", spec);
    peer.status = Some(PeerStatus {
        accepted: Some(accepted),
        ..PeerStatus::default()
    });
    peer
}

#[test]
fn a_peer_reaches_the_whole_mesh_and_nothing_else_where_it_is_attached() {
    let mut world = World::with_agents(true);
    world.wait_for_pods();
    world
        .network
        .router
        .run("ip address add 169.254.169.254/32 dev lo");
    world.network.router.nft(
        "table inet seen {
           chain input {
             type filter hook input priority raw
             iifname lan1 icmp type echo-request counter
           }
         }",
    );
    let hex = with_private_address(&mut world);
    world.publish_with(&accepted());
    let laptop = Laptop::with_tunnel_to(&world, &hex);
    wait_until("the laptop's tunnel", Duration::from_secs(10), || {
        laptop.pings("10.1.0.1")
    });
    // Also in the other location, and by way of followers.
    for address in [
        "10.1.0.2",
        "10.244.1.2",
        "10.244.2.2",
        "10.2.0.3",
        "10.2.0.4",
        "10.244.3.2",
        "10.244.4.2",
    ] {
        wait_until(address, Duration::from_secs(5), || laptop.pings(address));
    }
    for address in PRIVATE.into_iter().chain(["10.2.0.254"]) {
        assert!(!laptop.pings(address), "{address} answers");
    }
    let seen = world.network.router.run("nft list chain inet seen input");
    assert!(seen.contains("packets 0 "), "in the LAN of a: {seen}");
    assert_dropped(&mut world, 3, 1);
    let mut ask = |what: &str| world.node("a1").ask(what);
    wait_until("the laptop to be counted", Duration::from_secs(60), || {
        let links = ask("/debug/links");
        let mut lines = links
            .lines()
            .filter(|line| line.starts_with("tunnel to peer laptop: last handshake "));
        lines.any(|line| line.contains(", at 10.3.0.1:"))
    });
    assert!(ask("/metrics").contains("spanwire_agent_peer_received_bytes_total{peer=\"laptop\"} "));
}
