//! The testbed's two locations as flannel and kube-proxy leave a node, and what is counted in them.

use std::{collections::BTreeSet, net::IpAddr};

use spanwire_testbed::{FAMILIES, Family, Namespace, Node, World, pod, pods};

/// What does not carry WireGuard between the LANs, and foreign addresses in a LAN, are counted; while it is closed they
/// are dropped, as clouds do.
const ROUTER: &str = "
table inet router {
  counter plaintext { }
  chain forward {
    type filter hook forward priority 0
    udp dport 51820 udp sport 51820 accept
    tcp dport 6443 accept
    tcp sport 6443 accept
    counter name plaintext
    jump closed
  }
  chain closed { accept; }
}
table bridge lan {
  counter foreign { }
  chain forward { type filter hook forward priority 0; jump closed; }
  chain closed { accept; }
}";

const CLOSE: &str = "
flush chain inet router closed
add rule inet router closed drop
flush chain bridge lan closed
add rule bridge lan closed ip saddr { 10.244.0.0/16, 10.4.0.0/16 } counter name foreign drop
add rule bridge lan closed ip daddr { 10.244.0.0/16, 10.4.0.0/16 } counter name foreign drop
add rule bridge lan closed ip6 saddr { fd00:244::/32, fd00:4::/64 } counter name foreign drop
add rule bridge lan closed ip6 daddr { fd00:244::/32, fd00:4::/64 } counter name foreign drop";

const OPEN: &str = "
flush chain inet router closed
add rule inet router closed accept
flush chain bridge lan closed
add rule bridge lan closed accept";

/// What arrives, by source.
const PROBE: &str = "
table inet probe {
  set seen4 { type ipv4_addr; flags dynamic; }
  set seen6 { type ipv6_addr; flags dynamic; }
  counter large { }
  chain input {
    type filter hook input priority 0
    icmp type echo-request add @seen4 { ip saddr }
    icmpv6 type echo-request add @seen6 { ip6 saddr }
    ip daddr 10.244.0.0/16 udp dport 51820 add @seen4 { ip saddr }
  }
}";

/// Service 10.96.0.1 and node port 30080, with one endpoint.
const KUBE_PROXY: &str = "
table ip kube-proxy {
  chain services {
    ip daddr 10.96.0.1 ip saddr != 10.244.0.0/16 meta mark set mark or 0x4000
    ip daddr 10.96.0.1 dnat to ENDPOINT
    fib daddr type local tcp dport 30080 meta mark set mark or 0x4000
    fib daddr type local tcp dport 30080 dnat to ENDPOINT:5201
  }
  chain prerouting { type nat hook prerouting priority dstnat; jump services; }
  chain output { type nat hook output priority -100; jump services; }
  chain postrouting {
    type nat hook postrouting priority srcnat
    meta mark & 0x4000 == 0 return
    meta mark set mark xor 0x4000
    masquerade fully-random
  }
  chain forward { type filter hook forward priority filter; ct state invalid drop; }
}";

/// Flannel's masquerading, for a node whose pods have OWN4 and OWN6.
const FLANNEL: &str = "
table inet flannel {
  chain postrtg {
    type nat hook postrouting priority srcnat
    ip saddr 10.244.0.0/16 ip daddr 10.244.0.0/16 return
    ip saddr 10.244.0.0/16 ip daddr != 224.0.0.0/4 masquerade fully-random
    ip saddr != 10.244.0.0/16 ip daddr OWN4 return
    ip saddr != 10.244.0.0/16 ip daddr 10.244.0.0/16 masquerade fully-random
    ip6 saddr fd00:244::/32 ip6 daddr fd00:244::/32 return
    ip6 saddr fd00:244::/32 ip6 daddr != ff00::/8 masquerade fully-random
    ip6 saddr != fd00:244::/32 ip6 daddr OWN6 return
    ip6 saddr != fd00:244::/32 ip6 daddr fd00:244::/32 masquerade fully-random
  }
}";

/// A node or its pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Host(&'static str),
    Pod(&'static str),
}

pub(super) struct Network {
    pub(super) world: World,
}

impl Network {
    pub(super) fn new() -> Self {
        let world = World::two_locations(&FAMILIES);
        world.router.nft(ROUTER);
        for node in &world.nodes {
            let own = |family| {
                let (network, length) = pods(node.number, family);
                format!("{network}/{length}")
            };
            let flannel = FLANNEL.replace("OWN4", &own(Family::V4));
            node.host.nft(&flannel.replace("OWN6", &own(Family::V6)));
            let endpoint = pod(4, Family::V4).to_string();
            node.host.nft(&KUBE_PROXY.replace("ENDPOINT", &endpoint));
            node.host.nft(PROBE);
            node.pod.nft(PROBE);
        }
        Self { world }
    }

    pub(super) fn node(&self, name: &str) -> &Node {
        self.world.node(name)
    }

    pub(super) fn at(&self, place: Place) -> &Namespace {
        match place {
            Place::Host(name) => &self.node(name).host,
            Place::Pod(name) => &self.node(name).pod,
        }
    }

    pub(super) fn address(&self, place: Place, family: Family) -> IpAddr {
        match place {
            Place::Host(name) => self.node(name).lan(family),
            Place::Pod(name) => self.node(name).pod_address(family),
        }
    }

    pub(super) fn open(&self) {
        self.world.router.nft(OPEN);
    }

    pub(super) fn close(&self) {
        self.world.router.nft(CLOSE);
    }

    /// Lets nothing but WireGuard from LAN to LAN, and everything inside them.
    pub(super) fn close_router(&self) {
        self.world.router.nft("add rule inet router closed drop");
    }

    /// Packets that went from LAN to LAN outside WireGuard.
    pub(super) fn plaintext(&self) -> u64 {
        counter(&self.world.router, "inet router plaintext")
    }

    /// Packets in a LAN from or to an address that is not of it.
    pub(super) fn foreign(&self) -> u64 {
        counter(&self.world.router, "bridge lan foreign")
    }

    pub(super) fn forget(&self, place: Place) {
        self.at(place)
            .run("nft 'flush set inet probe seen4; flush set inet probe seen6'");
    }

    /// The sources of what has arrived since [`Self::forget`].
    pub(super) fn seen(&self, place: Place) -> BTreeSet<IpAddr> {
        let sets = self
            .at(place)
            .run("nft list set inet probe seen4; nft list set inet probe seen6");
        sets.split("elements = {")
            .skip(1)
            .filter_map(|rest| rest.split('}').next())
            .flat_map(|elements| elements.split(','))
            .map(|element| element.trim().parse().unwrap())
            .collect()
    }

    /// A ping is answered, and arrives with this source alone.
    #[track_caller]
    pub(super) fn reach(&self, from: Place, to: Place, target: IpAddr, source: IpAddr) {
        self.forget(to);
        let answered = ping(self.at(from), &["-W", "2", &target.to_string()]);
        assert!(answered, "{from:?} to {target} at {to:?}: no answer");
        let seen = self.seen(to);
        assert_eq!(
            seen,
            [source].into(),
            "{from:?} to {target} at {to:?}: the source"
        );
    }
}

/// Packets that a counter has counted.
pub(super) fn counter(namespace: &Namespace, name: &str) -> u64 {
    let text = namespace.run(&format!("nft list counter {name}"));
    let (_, rest) = text.split_once("packets ").unwrap();
    rest.split(' ').next().unwrap().parse().unwrap()
}

/// Whether a ping with these options is answered.
pub(super) fn ping(from: &Namespace, options: &[&str]) -> bool {
    from.command("ping")
        .args(["-q", "-c", "1"])
        .args(options)
        .succeeds()
}
