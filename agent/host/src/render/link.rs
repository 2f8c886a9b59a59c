use std::collections::BTreeMap;

use spanwire_topology::{Family, Plan, Prefix, Role};

use super::Paths;
use crate::{HostFacts, Link, Sysctl, WireGuard, WireGuardPeer};

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

/// The largest packet that fits into the tunnel from here; for a follower that of its leader's tunnel, whose way out is
/// taken to be like its own.
pub(super) fn tunnel_mtu(facts: &HostFacts, v6_inside: bool) -> u32 {
    let overhead = if facts.underlay_v4_only {
        OVERHEAD_V4
    } else {
        OVERHEAD_V6
    };
    let least = if v6_inside { MIN_MTU_V6 } else { MIN_MTU_V4 };
    let underlay = facts.underlay_mtu.unwrap_or(ETHERNET_MTU);
    underlay.saturating_sub(overhead).max(least)
}

/// The WireGuard device of a leader that has a key.
pub(super) fn device(plan: &Plan, facts: &HostFacts) -> Option<(Link, WireGuard)> {
    let tunnel = plan.tunnel.as_ref()?;
    let public_key = facts.public_key?;
    let addresses: std::collections::BTreeSet<Prefix> =
        tunnel.addresses.iter().copied().map(Prefix::host).collect();
    let allowed = tunnel.peers.values().flat_map(|peer| &peer.allowed_ips);
    let v6_inside = addresses
        .iter()
        .chain(allowed)
        .any(|prefix| prefix.family() == Family::V6);
    let peers = tunnel.peers.iter().map(|(key, peer)| {
        let peer = WireGuardPeer {
            endpoint: facts.endpoints.get(key).copied(),
            keepalive: peer.keepalive,
            group: peer.group.clone().filter(|_| facts.groups),
            allowed_ips: peer.allowed_ips.clone(),
        };
        (*key, peer)
    });
    let link = Link {
        name: facts.owned.link.clone(),
        mtu: tunnel_mtu(facts, v6_inside),
        up: true,
        addresses,
    };
    let wireguard = WireGuard {
        public_key: Some(public_key),
        listen_port: tunnel.listen_port,
        mark: facts.owned.mark,
        peers: peers.collect(),
    };
    Some((link, wireguard))
}

/// The kernel settings without which packets of the mesh would be dropped.
///
/// rp_filter takes the larger of `all` and the device's own value (ip-sysctl.rst), so 2, loose, on the device is loose
/// whatever `all` says. The devices of the hop need it since a leader hears its followers' LAN addresses there, and a
/// follower remote ones before it has a route to them.
pub(super) fn sysctls(plan: &Plan, paths: &Paths, facts: &HostFacts) -> BTreeMap<Sysctl, String> {
    let mut sysctls = BTreeMap::new();
    let mut set = |path: String, value: &str| {
        sysctls.insert(Sysctl(path), value.to_owned());
    };
    for link in &paths.hops {
        set(format!("net/ipv4/conf/{link}/rp_filter"), "2");
    }
    set("net/ipv4/conf/all/src_valid_mark".to_owned(), "1");
    if !matches!(plan.role, Role::Leader(_)) {
        return sysctls;
    }
    set("net/ipv4/ip_forward".to_owned(), "1");
    if plan.tunnel.is_some() && facts.public_key.is_some() {
        set(format!("net/ipv4/conf/{}/rp_filter", facts.owned.link), "2");
    }
    // Forwarding makes Linux deaf to router advertisements (accept_ra=1), so it is left alone where no IPv6 is routed.
    if paths.uses(Family::V6) {
        set("net/ipv6/conf/all/forwarding".to_owned(), "1");
    }
    sysctls
}
