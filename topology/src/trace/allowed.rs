//! What a WireGuard device sends to whom, and takes from whom.

use std::net::IpAddr;

use crate::{PublicKey, Tunnel};

/// Returns whether a device takes a packet with this source from a party: its own, or, where it knows groups, of its group.
pub(super) fn accepts(tunnel: &Tunnel, groups: bool, from: PublicKey, source: IpAddr) -> bool {
    let Some(owner) = owner(tunnel, source) else {
        return false;
    };
    let group = |key| tunnel.peers.get(key)?.group.as_ref();
    owner == from || groups && group(&owner).is_some_and(|of_owner| group(&from) == Some(of_owner))
}

/// Returns to whom a device sends, and whose source an address is: the longest match.
pub(super) fn owner(tunnel: &Tunnel, address: IpAddr) -> Option<PublicKey> {
    let allowed = tunnel
        .peers
        .iter()
        .flat_map(|(key, peer)| peer.allowed_ips.iter().map(move |ip| (ip, key)));
    let matching = allowed.filter(|(prefix, _)| prefix.contains(address));
    matching
        .max_by_key(|(prefix, _)| prefix.length())
        .map(|(_, key)| *key)
}
