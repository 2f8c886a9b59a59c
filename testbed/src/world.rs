//! Two locations of two nodes, as a CNI leaves them that knows nothing of locations.

use std::net::IpAddr;

use crate::namespace::Namespace;

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// Both, for tests that do everything twice.
pub const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// Location, name and number of each node. The number stands in every address of the node.
pub const NODES: [(&str, &str, u8); 4] = [("a", "a1", 1), ("a", "a2", 2), ("b", "b1", 3), ("b", "b2", 4)];

/// A router between two LANs with two nodes each, a pod on each node, flannel's vxlan from each node to each, and strict
/// filtering of reverse paths.
#[derive(Debug)]
pub struct World {
    /// Forwards everything, by the devices `lan1` (location a) and `lan2` (location b).
    pub router: Namespace,
    /// The nodes in the order of [`NODES`].
    pub nodes: [Node; 4],
}

/// A node: `eth0` in the LAN, `pod0` to its pod, `flannel.1` and `flannel-v6.1` to the other nodes.
#[derive(Debug)]
pub struct Node {
    /// Its name.
    pub name: &'static str,
    /// Its number.
    pub number: u8,
    /// The node itself.
    pub host: Namespace,
    /// Its pod.
    pub pod: Namespace,
}

/// Returns the address of a node in its LAN.
#[must_use]
pub fn lan(number: u8, family: Family) -> IpAddr {
    let lan = lan_number(number);
    address(match family {
        Family::V4 => format!("10.{lan}.0.{number}"),
        Family::V6 => format!("fd00:{lan}::{number}"),
    })
}

/// Returns the address of the pod on a node.
#[must_use]
pub fn pod(number: u8, family: Family) -> IpAddr {
    address(format!("{}2", subnet(number, family)))
}

/// Returns the pods' network of a node, with its length.
#[must_use]
pub fn pods(number: u8, family: Family) -> (IpAddr, u8) {
    let length = match family {
        Family::V4 => 24,
        Family::V6 => 64,
    };
    (hop(number, family), length)
}

/// Returns the address of a node's vxlan device, which is the first of its pods' network.
#[must_use]
pub fn hop(number: u8, family: Family) -> IpAddr {
    address(match family {
        Family::V4 => format!("{}0", subnet(number, family)),
        Family::V6 => subnet(number, family),
    })
}

/// Returns the address of a node's own device in its pods' network.
#[must_use]
pub fn bridge(number: u8, family: Family) -> IpAddr {
    address(format!("{}1", subnet(number, family)))
}

fn subnet(number: u8, family: Family) -> String {
    match family {
        Family::V4 => format!("10.244.{number}."),
        Family::V6 => format!("fd00:244:{number}::"),
    }
}

fn lan_number(number: u8) -> u8 {
    if number <= 2 { 1 } else { 2 }
}

fn gateway(lan: u8, family: Family) -> IpAddr {
    address(match family {
        Family::V4 => format!("10.{lan}.0.254"),
        Family::V6 => format!("fd00:{lan}::fe"),
    })
}

fn address(text: String) -> IpAddr {
    text.parse().expect("addresses are made here")
}

/// What `ip address add` wants after an address in a LAN: no waiting until it is known that no other has it.
fn lan_length(family: Family) -> (u8, &'static str) {
    match family {
        Family::V4 => (24, ""),
        Family::V6 => (64, " nodad"),
    }
}

/// The hardware address of a node's vxlan device.
fn hardware(number: u8, family: Family) -> String {
    match family {
        Family::V4 => format!("02:00:00:04:00:0{number}"),
        Family::V6 => format!("02:00:00:06:00:0{number}"),
    }
}

/// A node's vxlan device of a family, and its MTU: what the outer headers leave of 1500 bytes.
fn vxlan(family: Family) -> (&'static str, u16) {
    match family {
        Family::V4 => ("flannel.1", 1450),
        Family::V6 => ("flannel-v6.1", 1430),
    }
}

impl World {
    /// Makes them, with addresses of these families.
    #[must_use]
    pub fn two_locations(families: &[Family]) -> Self {
        let router = router(families);
        let nodes = NODES.map(|(_, name, number)| node(name, number, families, &router));
        Self { router, nodes }
    }

    /// Makes the CNI one without a device of its own for IPv4: the nodes of a LAN route to each other's pods (flannel's
    /// host-gw).
    pub fn route_pods_in_lans(&self) {
        for (node, other) in [(1, 2), (2, 1), (3, 4), (4, 3)] {
            let (network, length) = pods(other, Family::V4);
            let host = &self.nodes[node - 1].host;
            host.run(&format!(
                "ip link delete flannel.1; ip route add {network}/{length} via {}",
                lan(other, Family::V4)
            ));
        }
    }

    /// Returns the node of that name.
    ///
    /// # Panics
    /// There is none.
    #[must_use]
    pub fn node(&self, name: &str) -> &Node {
        let found = self.nodes.iter().find(|node| node.name == name);
        found.unwrap_or_else(|| panic!("there is no node {name}"))
    }
}

fn router(families: &[Family]) -> Namespace {
    let router = Namespace::new();
    // What stays in a LAN is nothing to the router's filter.
    router.run(
        "for tables in iptables ip6tables; do
           switch=/proc/sys/net/bridge/bridge-nf-call-$tables
           [ ! -e $switch ] || echo 0 >$switch
         done",
    );
    forward(&router, families);
    for lan in [1, 2] {
        router.run(&format!(
            "ip link add lan{lan} type bridge\nip link set lan{lan} up"
        ));
        for family in families {
            let (length, option) = lan_length(*family);
            let gateway = gateway(lan, *family);
            router.run(&format!("ip address add {gateway}/{length} dev lan{lan}{option}"));
        }
    }
    router
}

fn forward(namespace: &Namespace, families: &[Family]) {
    for family in families {
        namespace.run(match family {
            Family::V4 => "sysctl -qw net.ipv4.ip_forward=1",
            Family::V6 => "sysctl -qw net.ipv6.conf.all.forwarding=1",
        });
    }
}

fn node(name: &'static str, number: u8, families: &[Family], router: &Namespace) -> Node {
    let (host, pod) = (Namespace::new(), Namespace::new());
    router.run(&format!(
        "ip link add {name} type veth peer name eth0 netns {}
         ip link set {name} master lan{} up",
        host.pid(),
        lan_number(number),
    ));
    host.run(&format!(
        "sysctl -qw net.ipv4.conf.all.rp_filter=1 net.ipv4.conf.default.rp_filter=1
         ip link set eth0 up
         ip link add pod0 mtu 1430 type veth peer name eth0 mtu 1430 netns {}
         ip link set pod0 up",
        pod.pid(),
    ));
    forward(&host, families);
    pod.run("ip link set eth0 up");
    let node = Node {
        name,
        number,
        host,
        pod,
    };
    for family in families {
        node.connect(*family);
    }
    node
}

impl Node {
    /// Returns its address in its LAN.
    #[must_use]
    pub fn lan(&self, family: Family) -> IpAddr {
        lan(self.number, family)
    }

    /// Returns its pod's address.
    #[must_use]
    pub fn pod_address(&self, family: Family) -> IpAddr {
        pod(self.number, family)
    }

    /// Gives it, its pod and its vxlan their addresses and routes of a family.
    fn connect(&self, family: Family) {
        let number = self.number;
        let (length, nodad) = lan_length(family);
        let (lan, gateway) = (lan(number, family), gateway(lan_number(number), family));
        self.host.run(&format!(
            "ip address add {lan}/{length} dev eth0{nodad}
             ip route add default via {gateway}
             ip address add {bridge}/{length} dev pod0{nodad}",
            bridge = bridge(number, family),
        ));
        self.start_flannel(family);
        self.pod.run(&format!(
            "ip address add {}/{length} dev eth0{nodad}
             ip route add default via {}",
            pod(number, family),
            bridge(number, family),
        ));
    }

    /// Makes its vxlan device of a family with the ways to the other nodes, as flannel does when it starts and there is none.
    pub fn start_flannel(&self, family: Family) {
        let number = self.number;
        let (_, nodad) = lan_length(family);
        let lan = lan(number, family);
        let (device, mtu) = vxlan(family);
        let (hardware, hop) = (hardware(number, family), hop(number, family));
        self.host.run(&format!(
            "ip link add {device} mtu {mtu} address {hardware} type vxlan id 1 dstport 8472 \
               local {lan} dev eth0 nolearning
             ip address add {hop}/{host_length} dev {device}{nodad}
             ip link set {device} up",
            host_length = if lan.is_ipv4() { 32 } else { 128 },
        ));
        for (_, _, other) in NODES.into_iter().filter(|(_, _, other)| *other != number) {
            self.host.run(&neighbour(other, family));
        }
    }
}

/// What flannel does for another node.
fn neighbour(other: u8, family: Family) -> String {
    let (device, _) = vxlan(family);
    let (network, length) = pods(other, family);
    let (hardware, hop, lan) = (hardware(other, family), hop(other, family), lan(other, family));
    format!(
        "ip neigh replace {hop} lladdr {hardware} dev {device} nud permanent
         bridge fdb replace {hardware} dev {device} dst {lan}
         ip route replace {network}/{length} via {hop} dev {device} onlink"
    )
}
