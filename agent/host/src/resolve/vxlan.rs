//! The VXLAN of the location as this machine can have it.

use std::net::{IpAddr, Ipv4Addr};

use spanwire_topology::{Family, MacAddress, NodeName, Plan, Prefix, Vxlan, VxlanPeer};

use super::NextHop;
use crate::{HostFacts, OtherLink};

/// The VXLAN of the location, from the address that this machine has in the LAN.
#[derive(Clone, Debug)]
pub(crate) struct Underlay<'a> {
    /// What the plan says of it.
    pub(crate) vxlan: &'a Vxlan,
    /// The link-layer address of this machine.
    pub(crate) address: MacAddress,
    /// The address that it sends from.
    pub(crate) local: IpAddr,
    /// The device that has it.
    link: &'a OtherLink,
}

impl<'a> Underlay<'a> {
    /// The IPv4 address of the VXLAN device, the same on every node, and none that anything is sent from or to: Linux refuses whatever a
    /// device without one brings where it checks sources, however loosely (`__fib_validate_source`, net/ipv4/fib_frontend.c). A
    /// link-local one (RFC 3927) is not taken for the node's by programs that look for that.
    pub(crate) const ADDRESS: Ipv4Addr = Ipv4Addr::new(169, 254, 51, 83);

    /// Returns it where there is one with anything to exchange, and this machine has an address for it that the mesh knows.
    pub(crate) fn new(plan: &'a Plan, facts: &'a HostFacts) -> Option<Self> {
        let vxlan = plan.vxlan.as_ref().filter(|vxlan| !vxlan.peers.is_empty())?;
        let address = vxlan.address?;
        let devices = facts.links.values().filter(|link| !link.cni);
        let addresses =
            devices.flat_map(|link| link.addresses.iter().map(move |(address, _)| (*address, link)));
        let known = |(address, _): &(IpAddr, &OtherLink)| {
            Family::of(*address) == vxlan.family && plan.own.contains(&Prefix::host(*address))
        };
        // The first in order, as others send to the first.
        let (local, link) = addresses.filter(known).min_by_key(|(address, _)| *address)?;
        Some(Self {
            vxlan,
            address,
            local,
            link,
        })
    }

    /// Returns the largest packet in it.
    pub(crate) fn mtu(&self) -> u32 {
        /// Ethernet 14, VXLAN 8, UDP 8 and IPv4 20 (RFC 7348, section 5).
        const OVERHEAD_V4: u32 = 50;
        /// The same with the 40 bytes of IPv6.
        const OVERHEAD_V6: u32 = 70;
        self.link.mtu.saturating_sub(match self.vxlan.family {
            Family::V4 => OVERHEAD_V4,
            Family::V6 => OVERHEAD_V6,
        })
    }

    /// Returns where datagrams for another node are sent: an address in a network that is connected here, if it has one.
    pub(crate) fn remote(&self, peer: &VxlanPeer) -> Option<IpAddr> {
        let near = |address: &&IpAddr| self.link.networks().any(|network| network.contains(**address));
        peer.lan.iter().find(near).or_else(|| peer.lan.first()).copied()
    }
}

/// Returns the next hop to another node over the VXLAN.
pub(super) fn next_hop(
    underlay: Option<&Underlay<'_>>,
    facts: &HostFacts,
    family: Family,
    node: &NodeName,
) -> Option<NextHop> {
    let peer = underlay?
        .vxlan
        .peers
        .get(node)
        .filter(|_| facts.tunnels(family))?;
    let mut neighbours = peer
        .overlay
        .iter()
        .filter(|address| Family::of(**address) == family);
    Some(NextHop::Overlay(
        facts.owned.hop_link.clone(),
        *neighbours.next()?,
    ))
}
