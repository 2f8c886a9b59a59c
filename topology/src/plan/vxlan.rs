//! The VXLAN between followers and leaders, where a location has one.
//!
//! Its datagrams are of one family in the whole location, since a device receives one: IPv4 where every leader has an address of it.
//!
//! Link-layer addresses follow from overlay addresses, of which no two nodes have the same: all four bytes of one of IPv4. Of
//! nodes that have one of IPv6 alone the last five bytes; where these are those of another node, the next number that is free,
//! in the order of the names.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::view::{Known, View};
use crate::{Family, MacAddress, Member, NodeName};

/// The VXLAN of a location, as one node takes part in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vxlan {
    /// The family of the addresses in the LAN between which its datagrams travel.
    pub family: Family,
    /// The link-layer address of this node; `None`: it has no overlay address, and so takes no part.
    pub address: Option<MacAddress>,
    /// With whom this node exchanges packets: a follower with the leaders of its location, a leader with all of its nodes. Who has no
    /// address of the family takes no part.
    pub peers: BTreeMap<NodeName, VxlanPeer>,
}

/// Another node in the VXLAN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VxlanPeer {
    /// Its link-layer address.
    pub address: MacAddress,
    /// Its overlay addresses: those of next hops there.
    pub overlay: BTreeSet<IpAddr>,
    /// Its addresses in the LAN that datagrams are sent to, and come from.
    pub lan: BTreeSet<IpAddr>,
    /// It leads, so what comes from it may be of other locations.
    pub leads: bool,
}

/// Returns how a node takes part in the VXLAN of its location, where there is one.
pub(super) fn vxlan(view: &View<'_>) -> Option<Vxlan> {
    if !view.has_vxlan() {
        return None;
    }
    let mut leads = view.leads_of(view.mine).map(|lead| view.leads[lead].member);
    let v4 = leads.all(|leader| lan(leader, Family::V4).next().is_some());
    let family = if v4 { Family::V4 } else { Family::V6 };
    let here = || view.members().iter().filter(|known| known.site == view.mine);
    let addresses = link_addresses(here());
    let peers = here().filter(|known| known.node != view.me && exchanges(view, known));
    let peer = |known: &Known<'_>| {
        let lan: BTreeSet<IpAddr> = lan(known.member, family).collect();
        let peer = VxlanPeer {
            address: *addresses.get(known.node)?,
            overlay: known.member.overlay.clone(),
            leads: view.lead_of(known).is_some(),
            lan,
        };
        (!peer.lan.is_empty()).then(|| (known.node.clone(), peer))
    };
    Some(Vxlan {
        family,
        address: addresses.get(view.me).copied(),
        peers: peers.filter_map(peer).collect(),
    })
}

fn lan(member: &Member, family: Family) -> impl Iterator<Item = IpAddr> {
    let addresses = member.addresses.iter().copied();
    addresses.filter(move |address| Family::of(*address) == family)
}

/// Whether this node hands packets to another one of its location, or gets some from it. Where every node leads itself those are
/// a leader and the nodes that cannot lead and that it carries, and any node and the leader that serves Peers, as long as these are
/// reached by a hop to it.
fn exchanges(view: &View<'_>, known: &Known<'_>) -> bool {
    let serving = view.served_by_hop();
    if serving.is_some() && (serving == view.lead || serving == view.lead_of(known)) {
        return true;
    }
    match (view.lead, view.islands()) {
        (Some(_), false) => true,
        (Some(_), true) => view.lead_of(known).is_none() && view.carrier_of(known) == view.lead,
        (None, false) => view.lead_of(known).is_some(),
        (None, true) => view.carrier.is_some() && view.carrier == view.lead_of(known),
    }
}

/// Returns the link-layer address of every node that has an overlay address, no two the same. In a mixture of two publications two
/// nodes may have one overlay address: one of them goes without.
fn link_addresses<'a>(members: impl Iterator<Item = &'a Known<'a>>) -> BTreeMap<&'a NodeName, MacAddress> {
    /// Locally administered addresses of one device (IEEE 802, section 8.4): bit 1 of the first byte set, bit 0 not.
    const BY_V4: [u8; 2] = [0x0a, 0x57];
    const BY_V6: u8 = 0x0e;
    const BITS: u64 = (1 << 40) - 1;
    let mut numbers = BTreeSet::new();
    let mut taken = BTreeSet::new();
    let mut addresses = BTreeMap::new();
    for known in members {
        let overlay = &known.member.overlay;
        // IPv4 sorts before IPv6.
        let address = match overlay.first() {
            Some(IpAddr::V4(overlay)) => {
                let [a, b, c, d] = overlay.octets();
                MacAddress::new([BY_V4[0], BY_V4[1], a, b, c, d])
            }
            Some(IpAddr::V6(overlay)) => {
                let octets = overlay.octets();
                let mut number = octets[11..]
                    .iter()
                    .fold(0, |number, byte| number << 8 | u64::from(*byte));
                while !numbers.insert(number) {
                    number = (number + 1) & BITS;
                }
                let [_, _, _, a, b, c, d, e] = number.to_be_bytes();
                MacAddress::new([BY_V6, a, b, c, d, e])
            }
            None => continue,
        };
        if taken.insert(address) {
            addresses.insert(known.node, address);
        }
    }
    addresses
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address_of(overlays: &[(&str, &[&str])]) -> BTreeMap<String, String> {
        let members: Vec<(NodeName, Member)> = overlays
            .iter()
            .map(|(node, overlay)| {
                let member = Member {
                    overlay: overlay.iter().map(|address| address.parse().unwrap()).collect(),
                    ..Member::default()
                };
                (node.parse().unwrap(), member)
            })
            .collect();
        let known: Vec<Known<'_>> = members
            .iter()
            .map(|(node, member)| Known {
                site: 0,
                node,
                member,
                hash: 0,
            })
            .collect();
        let addresses = link_addresses(known.iter());
        let text = |(node, address): (&NodeName, MacAddress)| (node.to_string(), address.to_string());
        addresses.into_iter().map(text).collect()
    }

    #[test]
    fn no_two_nodes_have_one_link_layer_address() {
        let found = address_of(&[
            ("a", &["10.4.0.1", "fd00:4::1"]),
            ("b", &["10.4.0.2", "fd00:5::1"]),
            ("c", &["fd00:4::ffff:ffff:ffff"]),
            ("d", &["fd00:4::1:ffff:ffff:ffff"]),
            ("e", &["fd00:4::"]),
            ("f", &[]),
        ]);
        let expected = [
            ("a", "0a:57:0a:04:00:01"),
            ("b", "0a:57:0a:04:00:02"),
            ("c", "0e:ff:ff:ff:ff:ff"),
            ("d", "0e:00:00:00:00:00"),
            ("e", "0e:00:00:00:00:01"),
        ];
        assert_eq!(
            found,
            expected
                .map(|(node, address)| (node.to_owned(), address.to_owned()))
                .into()
        );
    }

    #[test]
    fn where_two_seem_to_have_one_overlay_address_one_goes_without() {
        let found = address_of(&[("a", &["10.4.0.1"]), ("b", &["10.4.0.1"])]);
        assert_eq!(found.len(), 1);
    }
}
