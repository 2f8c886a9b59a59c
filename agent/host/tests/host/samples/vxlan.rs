//! The same nodes where the location has a VXLAN of its own, and a CNI without a device between nodes.

use std::collections::BTreeMap;

use spanwire_host::{Cni, HostFacts};
use spanwire_topology::{Family, MacAddress, Plan, Vxlan, VxlanPeer};

use super::{addresses, hop, link, location, node, prefix};

fn mac(number: u8) -> MacAddress {
    MacAddress::new([0x0a, 0x57, 10, 4, 0, number])
}

/// a1 and a3 lead.
fn peer(number: u8) -> (spanwire_topology::NodeName, VxlanPeer) {
    let x = number - 10;
    let peer = VxlanPeer {
        address: mac(number),
        overlay: addresses(&[&format!("10.4.0.{number}")]),
        lan: addresses(&[&format!("192.168.1.{x}")]),
        leads: x != 2,
    };
    (node(&format!("a{x}")), peer)
}

fn with((mut plan, mut facts): (Plan, HostFacts), me: u8, peers: &[u8]) -> (Plan, HostFacts) {
    plan.vxlan = Some(Vxlan {
        family: Family::V4,
        address: Some(mac(me)),
        peers: peers.iter().map(|number| peer(*number)).collect(),
    });
    facts.links.remove(&link("flannel.1"));
    facts.cni = Cni::Direct;
    facts.settled = [location("b")].into();
    (plan, facts)
}

/// a2, which sends through a1.
pub(crate) fn follower() -> (Plan, HostFacts) {
    with(super::follower(), 12, &[11, 13])
}

/// a1, which hands on to a2 and to a3 what comes for them and for their pods.
pub(crate) fn leader() -> (Plan, HostFacts) {
    let (mut plan, facts) = with(super::leader(), 11, &[12, 13]);
    let to = |x: u8| hop(&format!("a{x}"), &[], &[&format!("192.168.1.{x}")]);
    plan.returns = BTreeMap::from([
        (prefix("192.168.1.2"), to(2)),
        (prefix("192.168.1.3"), to(3)),
        (prefix("10.244.12.0/24"), to(2)),
        (prefix("10.244.13.0/24"), to(3)),
    ]);
    plan.leaders = vec![to(3)];
    (plan, facts)
}
