//! Which addresses everything has: derived from the scenario alone, so that every process agrees.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use crate::{
    profile::Profile,
    scenario::{Cni, Family, Scenario},
};

/// The namespace of the test pods.
pub(crate) const TEST_NAMESPACE: &str = "lab";
/// Port of the API server, on its node and on the router of its location.
pub(crate) const API_PORT: u16 = 6443;
/// Port on which nodes speak WireGuard unless an annotation says otherwise.
pub(crate) const WIREGUARD_PORT: u16 = 51820;
/// The port of flannel's VXLAN on Linux.
pub(crate) const VXLAN_PORT: u16 = 8472;
/// The port of Calico's.
pub(crate) const CALICO_PORT: u16 = 4789;
/// Addresses that the internet segment drops.
pub(crate) const PRIVATE_V4: &str = "{ 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16, 100.64.0.0/10 }";
/// Addresses of the other family that the internet segment drops.
pub(crate) const PRIVATE_V6: &str = "fc00::/7";
/// What the LANs of all locations lie in, one per family.
pub(crate) const LANS: [&str; 2] = ["192.168.0.0/16", "fd00:192:168::/48"];
/// Networks of all pods, one per family.
pub(crate) const PODS: [&str; 2] = ["10.244.0.0/16", "fd00:10:244::/56"];
/// Networks of all services, one per family.
pub(crate) const SERVICES: [&str; 2] = ["10.96.0.0/16", "fd00:10:96::/112"];

/// Returns the address of the cluster's DNS, where a lab has one.
pub(crate) fn cluster_dns() -> IpAddr {
    IpAddr::from([10, 96, 0, 10])
}

/// Addresses of a whole lab.
#[derive(Debug, Clone)]
pub struct Layout {
    /// Every location, in the scenario's order.
    pub locations: Vec<LocationLayout>,
    /// A host on the internet segment.
    pub outside: Vec<IpAddr>,
}

/// Addresses of one location.
#[derive(Debug, Clone)]
pub struct LocationLayout {
    /// Its name.
    pub name: String,
    /// MTU of its LAN.
    pub mtu: u16,
    /// How the CNI carries packets in it.
    pub cni: Cni,
    /// Its networks, with the prefix length.
    pub lans: Vec<(IpAddr, u8)>,
    /// The prefix length of the subnets of IPv4 in which its nodes are.
    pub subnet: u8,
    /// The router's addresses in the LAN.
    pub gateways: Vec<IpAddr>,
    /// The router's addresses on the internet.
    pub internet: Vec<IpAddr>,
    /// Its nodes.
    pub nodes: Vec<NodeLayout>,
}

/// Addresses of one node.
#[derive(Debug, Clone)]
pub struct NodeLayout {
    /// Its name.
    pub name: String,
    /// Its location.
    pub location: String,
    /// Its addresses in the LAN.
    pub addresses: Vec<IpAddr>,
    /// The router's UDP port that is forwarded to it.
    pub forward: Option<u16>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
    /// Settings of its kernel.
    pub sysctls: BTreeMap<String, i64>,
    /// It has a second network card.
    pub second_card: bool,
    /// What other programs and networks do to it.
    pub profiles: Vec<Profile>,
}

impl Layout {
    /// Returns the layout of a scenario.
    pub fn of(scenario: &Scenario) -> Self {
        let families = &scenario.network.families;
        let each = |v4: Ipv4Addr, v6: Ipv6Addr| -> Vec<IpAddr> {
            families
                .iter()
                .map(|family| match family {
                    Family::V4 => IpAddr::V4(v4),
                    Family::V6 => IpAddr::V6(v6),
                })
                .collect()
        };
        let internet = |host: u8| {
            each(
                Ipv4Addr::new(203, 0, 113, host),
                Ipv6Addr::new(0x2001, 0xdb8, 0x113, 0, 0, 0, 0, u16::from(host)),
            )
        };
        let locations: Vec<_> = (1u8..)
            .zip(&scenario.locations)
            .map(|(number, location)| {
                let lan = |host: u8| {
                    each(
                        Ipv4Addr::new(192, 168, number, host),
                        Ipv6Addr::new(0xfd00, 0x192, 0x168, u16::from(number), 0, 0, 0, u16::from(host)),
                    )
                };
                let public = internet(10 + number);
                let cni = scenario.cni_of(location);
                let halved = cni == Cni::CalicoCrossSubnet;
                let half = |host: u8| if halved && host > 12 { host + 128 } else { host };
                let nodes = (11u8..)
                    .zip(&location.nodes)
                    .map(|(host, node)| NodeLayout {
                        name: node.name.clone(),
                        location: location.name.clone(),
                        addresses: lan(half(host)),
                        forward: node.forward,
                        labels: node.labels.clone(),
                        annotations: annotations(&location.name, node, public[0]),
                        sysctls: node.sysctls.clone(),
                        second_card: node.second_card,
                        profiles: scenario.hosts.get(&node.name).cloned().unwrap_or_default(),
                    })
                    .collect();
                LocationLayout {
                    name: location.name.clone(),
                    mtu: location.mtu.unwrap_or(scenario.network.mtu),
                    cni,
                    subnet: if halved { 25 } else { 24 },
                    lans: lan(0)
                        .into_iter()
                        .map(|net| (net, if net.is_ipv4() { 24 } else { 64 }))
                        .collect(),
                    gateways: lan(1),
                    internet: public,
                    nodes,
                }
            })
            .collect();
        Self {
            locations,
            outside: internet(200),
        }
    }

    /// All nodes.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeLayout> {
        self.locations.iter().flat_map(|l| &l.nodes)
    }

    /// Returns the node that runs the control plane.
    pub fn control_plane(&self) -> &NodeLayout {
        &self.locations[0].nodes[0]
    }

    /// Returns the address at which every node of every location reaches the API server.
    pub fn api(&self) -> IpAddr {
        self.locations[0].internet[0]
    }
}

fn annotations(location: &str, node: &crate::scenario::Node, public: IpAddr) -> BTreeMap<String, String> {
    let mut all = BTreeMap::from([("spanwire.dev/location".to_owned(), location.to_owned())]);
    if let Some(port) = node.forward {
        all.insert(
            "spanwire.dev/endpoint".to_owned(),
            std::net::SocketAddr::new(public, port).to_string(),
        );
    }
    all.extend(node.annotations.clone());
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_follow_the_order_of_the_file() {
        let text = "{network: {families: [ipv4, ipv6]}, locations: [{name: a, nodes: [{name: a1}]}, \
                    {name: b, nodes: [{name: b1}, {name: b2, forward: 7, annotations: {x: y}}]}]}";
        let layout = Layout::of(&Scenario::parse(text).unwrap());
        let b2 = layout.nodes().last().unwrap();
        assert_eq!(b2.addresses[0].to_string(), "192.168.2.12");
        assert_eq!(b2.addresses[1].to_string(), "fd00:192:168:2::c");
        assert_eq!(b2.annotations["spanwire.dev/endpoint"], "203.0.113.12:7");
        assert_eq!(b2.annotations["x"], "y");
        assert_eq!(layout.api().to_string(), "203.0.113.11");
        assert_eq!(layout.control_plane().name, "a1");
    }

    #[test]
    fn a_location_of_cross_subnet_has_its_third_node_in_another_subnet() {
        let text = "{network: {cni: calico-vxlan}, locations: [{name: a, nodes: [{name: a1}]}, {name: b, \
                    cni: calico-cross-subnet, nodes: [{name: b1}, {name: b2}, {name: b3}]}]}";
        let layout = Layout::of(&Scenario::parse(text).unwrap());
        let addresses: Vec<String> = layout.nodes().map(|node| node.addresses[0].to_string()).collect();
        assert_eq!(
            addresses,
            ["192.168.1.11", "192.168.2.11", "192.168.2.12", "192.168.2.141"]
        );
        let subnets: Vec<u8> = layout.locations.iter().map(|location| location.subnet).collect();
        assert_eq!(subnets, [24, 25]);
    }
}
