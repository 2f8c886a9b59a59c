//! The same mesh on Calico: node X of location L has the blocks 10.244.LX.0/26 and 10.244.LX.64/26, and the address
//! 10.244.LX.64 on Calico's device.

use std::{collections::BTreeMap, sync::Arc};

use spanwire_host::{Cni, CniRoute, Encapsulation, HostFacts};
use spanwire_topology::{Plan, Via};

use super::{hop, link, node, other_link, prefix, settled};

/// How Calico reaches the other nodes of location a, by number.
pub(crate) struct Mode {
    /// Its device, where it has one.
    device: Option<(&'static str, Encapsulation)>,
    /// By node: device and neighbour.
    routes: &'static [(u8, &'static str, &'static str)],
}

/// A pool with `vxlanMode: Always`.
pub(crate) const ALWAYS: Mode = Mode {
    device: Some(("vxlan.calico", Encapsulation::Vxlan)),
    routes: &[
        (1, "vxlan.calico", "10.244.11.64"),
        (2, "vxlan.calico", "10.244.12.64"),
        (3, "vxlan.calico", "10.244.13.64"),
    ],
};

/// `vxlanMode: CrossSubnet`, with a3 in another subnet.
pub(crate) const CROSS_SUBNET: Mode = Mode {
    routes: &[
        (1, "eth0", "192.168.1.1"),
        (2, "eth0", "192.168.1.2"),
        (3, "vxlan.calico", "10.244.13.64"),
    ],
    ..ALWAYS
};

/// `ipipMode: Always`.
pub(crate) const IPIP: Mode = Mode {
    device: Some(("tunl0", Encapsulation::Ipip)),
    routes: &[
        (1, "tunl0", "192.168.1.1"),
        (2, "tunl0", "192.168.1.2"),
        (3, "tunl0", "192.168.1.3"),
    ],
};

/// BGP: nothing is encapsulated, and no node has an address on a device of Calico's.
pub(crate) const BARE: Mode = Mode {
    device: None,
    routes: &[
        (1, "eth0", "192.168.1.1"),
        (2, "eth0", "192.168.1.2"),
        (3, "eth0", "192.168.1.3"),
    ],
};

/// Turns a node of location a into one on Calico.
fn on_calico((mut plan, mut facts): (Plan, HostFacts), number: u8, mode: &Mode) -> (Plan, HostFacts) {
    let blocks = |number: u8| [0, 64].map(|first| prefix(&format!("10.244.1{number}.{first}/26")));
    for (number, here) in [1, 2, 3].map(|other| (other, other == number)) {
        let network = prefix(&format!("10.244.1{number}.0/24"));
        plan.local.remove(&network);
        plan.local.extend(blocks(number));
        if here && plan.own.remove(&network) {
            plan.own.extend(blocks(number));
        }
    }
    let rename = |via: &mut Via| {
        if let Via::Hop { node: of, .. } = via {
            let number = (1..=3).find(|number| node(&format!("a{number}")) == *of).unwrap();
            *via = to(number, mode);
        }
    };
    plan.routes.values_mut().for_each(|route| rename(&mut route.via));
    plan.ways.values_mut().for_each(rename);
    plan.leaders.iter_mut().for_each(rename);
    plan.returns.values_mut().for_each(rename);
    facts.links.remove(&link("flannel.1"));
    facts.links.remove(&link("cni0"));
    facts.links.insert(link("cali12ab"), other_link(1450, &[], true));
    let device = mode.device.map(|(name, how)| (link(name), how));
    if let Some((name, _)) = &device {
        let address = format!("10.244.1{number}.64");
        let device = other_link(1450, &[(&address, 32)], true);
        facts.links.insert(name.clone(), device);
    }
    let routes = mode.routes.iter().filter(|(other, _, _)| *other != number);
    let routes = routes.flat_map(|(other, name, via)| {
        let route = CniRoute {
            link: link(name),
            via: via.parse().unwrap(),
        };
        blocks(*other).map(|block| (block, route.clone()))
    });
    facts.cni = Cni::Calico {
        links: device.into_iter().collect::<BTreeMap<_, _>>(),
        routes: Arc::new(routes.collect()),
    };
    (plan, facts)
}

/// The way to another node of location a.
pub(crate) fn to(number: u8, mode: &Mode) -> Via {
    let vtep = format!("10.244.1{number}.64");
    let vteps: &[&str] = if mode.device.is_some() { &[&vtep] } else { &[] };
    hop(&format!("a{number}"), vteps, &[&format!("192.168.1.{number}")])
}

/// a1, which leads.
pub(crate) fn leader() -> (Plan, HostFacts) {
    leader_by(&ALWAYS)
}

pub(crate) fn leader_by(mode: &Mode) -> (Plan, HostFacts) {
    on_calico(settled(super::leader()), 1, mode)
}

/// a2, which a1 leads.
pub(crate) fn follower(mode: &Mode) -> (Plan, HostFacts) {
    on_calico(settled(super::follower()), 2, mode)
}
