//! A cloud, imitated: a LAN that delivers by who owns an address, and a CNI whose pods have addresses of that LAN.
//!
//! No cloud is at hand here. What is imitated is what clouds document and what is in the source of the AWS VPC CNI: a machine sends from addresses of its
//! own alone and gets what is for these, whatever link-layer address was meant; no node has a network, so that Kubernetes knows pods by
//! their own addresses; rules, marks and masquerading on a node are those of `aws-node` (`cloud/node.sh`). A second network card has an
//! address and pods of its own, and a routing table. Not imitated are the API of a cloud, security groups, prefix delegation and custom
//! networking. That a node's pods have addresses which lie side by side is the lab's: they come from the plugin `host-local`.

use std::net::{IpAddr, Ipv4Addr};

use serde_json::{Value, json};

use crate::{
    layout::{Layout, LocationLayout, NodeLayout},
    store::Store,
};

/// What a node has when its CNI works.
pub(crate) const READY: &str = "/run/cloud/ready";

/// How many pods a node has addresses for: those of its first card, without the network's, the router's and the last.
pub(crate) const PODS_OF_A_NODE: u32 = 13;

/// A network card of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Card {
    /// Its name on the node.
    pub device: &'static str,
    /// That of the port of the LAN's bridge which it is plugged into.
    pub port: String,
    /// Its own address.
    pub address: Ipv4Addr,
    /// Its link-layer address.
    pub hardware: String,
    /// The addresses of its pods, of which the first is the node's end of each pod's cable.
    pub pods: String,
}

impl Card {
    /// Returns a script that keeps what a card sends from all others.
    pub(crate) fn alone(&self) -> String {
        format!("ip link set dev {} type bridge_slave isolated on\n", self.port)
    }
}

/// Returns the port of the LAN's bridge for the second card of a node; no node has such a name.
pub(crate) fn second_port(node: &str) -> String {
    format!("{node}.2")
}

/// Returns the network cards of a node of a cloud, the first one last: pods get addresses in this order, so that those of
/// a test are behind the second one where there is one.
pub(crate) fn cards(node: &NodeLayout) -> Vec<Card> {
    // The scenario is refused with any other family.
    let IpAddr::V4(own) = node.addresses[0] else {
        return Vec::new();
    };
    let [.., location, host] = own.octets();
    // The first node of a location has .11.
    let number = host - 11;
    let card = |device, port, host: u8, pods: u8, length: u8| {
        let address = |host| Ipv4Addr::new(192, 168, location, host);
        Card {
            device,
            port,
            address: address(host),
            hardware: format!("02:c1:0d:00:{location:02x}:{host:02x}"),
            pods: format!("{}/{length}", address(pods)),
        }
    };
    let first = card("eth0", node.name.clone(), host, 128 + 16 * number, 28);
    let second = card("eth1", second_port(&node.name), host + 10, 32 + 8 * number, 29);
    [node.second_card.then_some(second), Some(first)]
        .into_iter()
        .flatten()
        .collect()
}

/// Returns what the router of a LAN knows: who owns which address. What a machine asks of another one's, it answers, since no
/// frame of a machine gets to any other.
pub(crate) fn router_script(location: &LocationLayout) -> String {
    let mut script = "echo 1 >/proc/sys/net/ipv4/conf/lan/proxy_arp_pvlan\n\
                      echo 0 >/proc/sys/net/ipv4/neigh/lan/proxy_delay\n"
        .to_owned();
    for card in location.nodes.iter().flat_map(cards) {
        let Card {
            address,
            hardware,
            pods,
            ..
        } = card;
        script += &format!(
            "ip neigh add {address} lladdr {hardware} dev lan nud permanent\n\
             ip route add {pods} via {address} dev lan\n"
        );
    }
    script
}

/// Writes what all nodes share.
pub(crate) fn write_shared(store: &Store) -> anyhow::Result<()> {
    store.write("cloud.sh", include_str!("cloud/node.sh")).map(drop)
}

/// Returns the configuration of the CNI plugins of a node.
pub(crate) fn conflist(layout: &Layout, node: &NodeLayout) -> Value {
    let ranges: Vec<_> = cards(node)
        .into_iter()
        .map(|card| json!({"subnet": card.pods}))
        .collect();
    json!({"name": "cloud", "cniVersion": "0.3.1", "plugins": [
        {"type": "ptp", "mtu": location(layout, node).mtu, "ipam": {
            "type": "host-local", "ranges": [ranges], "routes": [{"dst": "0.0.0.0/0"}]}},
        {"type": "portmap", "capabilities": {"portMappings": true}},
    ]})
}

/// Returns a script of services for a node.
pub(crate) fn services(store: &Store, layout: &Layout, node: &NodeLayout) -> String {
    let lab = store.root().display();
    let location = location(layout, node);
    let (lan, length) = location.lans[0];
    let (own, gateway) = (node.addresses[0], location.gateways[0]);
    let second = cards(node).into_iter().find(|card| card.device != "eth0");
    let second = second.map_or(String::new(), |card| {
        format!("{} {} {}", card.device, card.address, card.pods)
    });
    format!("supervise cloud bash {lab}/cloud.sh {lan}/{length} {gateway} {own} {second}\n")
}

fn location<'a>(layout: &'a Layout, node: &NodeLayout) -> &'a LocationLayout {
    let of_it = |location: &&LocationLayout| location.name == node.location;
    layout
        .locations
        .iter()
        .find(of_it)
        .expect("a node is of a location")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::Scenario;

    #[test]
    fn no_two_cards_share_an_address_of_the_lan() {
        let nodes: Vec<_> = (1..=8)
            .map(|number| format!("{{name: a{number}, secondCard: true}}"))
            .collect();
        let text = format!(
            "{{network: {{cni: cloud}}, locations: [{{name: a, nodes: [{}]}}]}}",
            nodes.join(", ")
        );
        let layout = Layout::of(&Scenario::parse(&text).unwrap());
        let mut owned = vec![1, 255];
        for card in layout.nodes().flat_map(cards) {
            let (network, length) = card.pods.split_once('/').unwrap();
            let first: u8 = network.rsplit('.').next().unwrap().parse().unwrap();
            let last = first | if length == "28" { 15 } else { 7 };
            assert_eq!(first % 8, 0, "{card:?}");
            // The last one of all is the LAN's broadcast address, which no pod gets.
            owned.extend((first..=last).filter(|host| *host != 255));
            owned.push(card.address.octets()[3]);
        }
        let count = owned.len();
        owned.sort_unstable();
        owned.dedup();
        assert_eq!(owned.len(), count, "{owned:?}");
    }

    #[test]
    fn the_router_knows_who_owns_which_address() {
        let text = "{network: {cni: cloud}, locations: [{name: a, nodes: [{name: a1}, {name: a2, secondCard: true}]}]}";
        let layout = Layout::of(&Scenario::parse(text).unwrap());
        let script = router_script(&layout.locations[0]);
        for line in [
            "ip route add 192.168.1.128/28 via 192.168.1.11 dev lan\n",
            "ip route add 192.168.1.144/28 via 192.168.1.12 dev lan\n",
            "ip route add 192.168.1.40/29 via 192.168.1.22 dev lan\n",
            "ip neigh add 192.168.1.22 lladdr 02:c1:0d:00:01:16 dev lan nud permanent\n",
        ] {
            assert!(script.contains(line), "{line}{script}");
        }
    }
}
