use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use spanwire_topology::{Family, Plan, Prefix, PublicKey, TunnelPeer};

use crate::{
    Device, DeviceKind, HostFacts, LinkName, Vxlan, VxlanSettings, WireGuard, WireGuardPeer,
    resolve::Underlay,
};

/// What Ethernet carries, where nothing else is known.
const ETHERNET_MTU: u32 = 1500;
/// IPv4 20, UDP 8, WireGuard's data header 16 and its tag 16 (WireGuard whitepaper, section 5.4.6).
const OVERHEAD_V4: u32 = 60;
/// The same with the 40 bytes of IPv6.
const OVERHEAD_V6: u32 = 80;
/// Every IPv6 link carries this much (RFC 8200, section 5).
const MIN_MTU_V6: u32 = 1280;
/// Every IPv4 host takes this much (RFC 791, section 3.1).
const MIN_MTU_V4: u32 = 576;

/// Returns the largest packet that fits into the tunnel from here; for a follower that of its leader's tunnel, whose way out is
/// taken to be like its own.
pub(super) fn tunnel_mtu(facts: &HostFacts, v6_inside: bool) -> u32 {
    let underlay = facts.underlay_mtu.unwrap_or(ETHERNET_MTU);
    within(underlay, facts, v6_inside)
}

/// Returns the largest packet in the tunnel whose datagram a network with that MTU takes.
pub(super) fn within(underlay: u32, facts: &HostFacts, v6_inside: bool) -> u32 {
    let overhead = if facts.underlay_v4_only {
        OVERHEAD_V4
    } else {
        OVERHEAD_V6
    };
    let least = if v6_inside { MIN_MTU_V6 } else { MIN_MTU_V4 };
    underlay.saturating_sub(overhead).max(least)
}

/// Returns the largest packet in the VXLAN.
pub(super) fn hop_mtu(underlay: &Underlay<'_>, v6_inside: bool) -> u32 {
    let least = if v6_inside { MIN_MTU_V6 } else { MIN_MTU_V4 };
    underlay.mtu().max(least)
}

/// Returns the VXLAN device, where the location has one and this machine takes part.
pub(super) fn vxlan(underlay: Option<&Underlay<'_>>, facts: &HostFacts) -> Option<(LinkName, Device)> {
    let underlay = underlay?;
    let peers = underlay.vxlan.peers.values();
    let forwarding = peers
        .clone()
        .filter_map(|peer| Some((peer.address, underlay.remote(peer)?)));
    let neighbours = peers.flat_map(|peer| peer.overlay.iter().map(move |address| (*address, peer.address)));
    let neighbours = neighbours.filter(|(address, _)| facts.tunnels(Family::of(*address)));
    let vxlan = Vxlan {
        settings: Some(VxlanSettings {
            vni: facts.owned.hop_vni,
            port: facts.owned.hop_port,
            local: underlay.local,
            address: underlay.address,
        }),
        forwarding: forwarding.collect(),
        neighbours: neighbours.collect(),
    };
    let v6_inside = vxlan.neighbours.keys().any(IpAddr::is_ipv6);
    let device = Device {
        mtu: hop_mtu(underlay, v6_inside),
        up: true,
        addresses: [Prefix::host(Underlay::ADDRESS.into())].into(),
        kind: DeviceKind::Vxlan(vxlan),
    };
    Some((facts.owned.hop_link.clone(), device))
}

/// Returns the WireGuard device of a leader that has a key; without the peers whose preshared key is not known.
pub(super) fn wireguard(plan: &Plan, facts: &HostFacts) -> Option<(LinkName, Device)> {
    let tunnel = plan.tunnel.as_ref()?;
    let public_key = facts.public_key?;
    let addresses = tunnel.addresses.iter().copied().map(Prefix::host);
    let addresses: BTreeSet<Prefix> = addresses
        .filter(|address| facts.tunnels(address.family()))
        .collect();
    let allowed = |peer: &TunnelPeer| -> BTreeSet<Prefix> {
        if facts.ipv6_disabled {
            let allowed = peer.allowed_ips.iter().copied();
            allowed.filter(|prefix| facts.tunnels(prefix.family())).collect()
        } else {
            peer.allowed_ips.clone()
        }
    };
    let peers = tunnel.peers.iter().filter_map(|(key, peer)| {
        let preshared = facts.preshared.get(key).filter(|_| peer.preshared.is_some());
        if peer.preshared.is_some() && preshared.is_none() {
            return None;
        }
        let peer = WireGuardPeer {
            endpoint: facts.endpoints.get(key).copied(),
            keepalive: peer.keepalive,
            group: peer.group.clone().filter(|_| facts.groups),
            preshared: preshared.cloned(),
            allowed_ips: Arc::new(allowed(peer)),
        };
        Some((*key, peer))
    });
    let peers: BTreeMap<PublicKey, WireGuardPeer> = peers.collect();
    let v6_inside = {
        // IPv4 sorts before IPv6.
        let last = peers.values().map(|peer| peer.allowed_ips.last());
        let mut last = last.chain([addresses.last()]).flatten();
        last.any(|prefix| prefix.family() == Family::V6)
    };
    let wireguard = WireGuard {
        public_key: Some(public_key),
        listen_port: tunnel.listen_port,
        mark: facts.owned.mark,
        peers,
    };
    let device = Device {
        mtu: tunnel_mtu(facts, v6_inside),
        up: true,
        addresses,
        kind: DeviceKind::WireGuard(wireguard),
    };
    Some((facts.owned.link.clone(), device))
}
