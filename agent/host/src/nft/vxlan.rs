//! Who may send what over the VXLAN of the location.
//!
//! VXLAN proves nothing of who sends. Its datagrams are taken from the addresses in the LAN of those with whom this machine exchanges
//! packets (`nearby`), by the device by which Linux would answer these, and never out of the tunnel or out of another
//! VXLAN; and none is forwarded to these, as a pod's that the CNI masquerades as its node's.
//! Of what is in them the source has to be one of the mesh, and one of another location comes from a leader's link-layer
//! address alone: what else a node sends there is not its own. And none of them leaves for any other address, whatever mark it
//! has inherited from the packet inside.

use spanwire_topology::Family;

use super::{AddressRange, Words, classes::ranges};
use crate::{HostFacts, resolve::Underlay};

/// Returns the addresses in the LAN with which datagrams are exchanged.
pub(super) fn nearby(underlay: &Underlay<'_>) -> Vec<AddressRange> {
    let lan = underlay.vxlan.peers.values().flat_map(|peer| &peer.lan);
    ranges(lan.map(|address| (*address).into()), underlay.vxlan.family)
}

/// Returns what drops other datagrams than theirs, and what is in theirs that is not their own.
pub(super) fn arriving(underlay: &Underlay<'_>, facts: &HostFacts, families: &[Words]) -> Vec<String> {
    let (ip, v) = words(underlay);
    let (tunnel, hop) = (&facts.owned.link, &facts.owned.hop_link);
    let ours = format!("udp dport {} fib daddr type local", facts.owned.hop_port);
    let mut rules = vec![
        format!("{ours} iifname {{ \"{tunnel}\", \"{hop}\" }} counter drop"),
        format!("{ours} {ip} saddr != @nearby{v} counter drop"),
        format!("{ours} fib saddr . iif oif missing counter drop"),
    ];
    // Nothing of the other family is in the mesh.
    if let [Words { ip, .. }] = families {
        rules.push(format!("iifname \"{hop}\" meta protocol != {ip} counter drop"));
    }
    let leaders = underlay.vxlan.peers.values().filter(|peer| peer.leads);
    let leaders: Vec<String> = leaders.map(|peer| peer.address.to_string()).collect();
    for Words { ip, v, .. } in families {
        rules.push(format!("iifname \"{hop}\" {ip} saddr != @mesh{v} counter drop"));
        let others = match leaders.is_empty() {
            true => String::new(),
            false => format!(" ether saddr != {{ {} }}", leaders.join(", ")),
        };
        rules.push(format!(
            "iifname \"{hop}\" {ip} saddr @remote{v}{others} counter drop"
        ));
    }
    rules
}

/// Returns what drops datagrams that this machine forwards to those: a pod's, which the CNI may be about to masquerade as this machine's.
pub(super) fn forwarded(underlay: &Underlay<'_>, facts: &HostFacts) -> String {
    let (ip, v) = words(underlay);
    let port = facts.owned.hop_port;
    format!("udp dport {port} {ip} daddr @nearby{v} counter drop")
}

/// Returns what keeps its datagrams from any other address. They are known by their header (RFC 7348, section 5), since a program of
/// this machine may send to the same port elsewhere.
pub(super) fn leaving(underlay: &Underlay<'_>, facts: &HostFacts) -> Vec<String> {
    let (ip, v) = words(underlay);
    let (tunnel, hop) = (&facts.owned.link, &facts.owned.hop_link);
    let (port, vni) = (facts.owned.hop_port, facts.owned.hop_vni);
    let ours = format!("udp dport {port} @th,64,8 0x8 @th,96,24 {vni:#x} fib saddr type local");
    vec![
        format!("{ours} oifname {{ \"{tunnel}\", \"{hop}\" }} counter drop"),
        format!("{ours} {ip} daddr != @nearby{v} counter drop"),
    ]
}

fn words(underlay: &Underlay<'_>) -> (&'static str, char) {
    match underlay.vxlan.family {
        Family::V4 => ("ip", '4'),
        Family::V6 => ("ip6", '6'),
    }
}
