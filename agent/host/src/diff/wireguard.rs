//! The WireGuard device, its addresses and its peers.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use spanwire_topology::{Family, Prefix, PublicKey};

use crate::{Host, Link, RouteKind, Step, WireGuard, WireGuardPeer};

/// Makes the device, or changes its MTU, key, port or mark; answers what of the actual state is left to change. A device
/// of that name that is no WireGuard device is replaced, and with it goes what hangs on it.
pub(super) fn begin(actual: &Host, wanted: &Host, steps: &mut Vec<Step>) -> Host {
    let (Some(link), Some(wireguard)) = (&wanted.link, &wanted.wireguard) else {
        return actual.clone();
    };
    let Some(public_key) = wireguard.public_key else {
        return actual.clone();
    };
    let (listen_port, mark) = (wireguard.listen_port, wireguard.mark);
    let mut remains = actual.clone();
    let foreign = |old: &&Link| actual.wireguard.is_none() || old.name != link.name;
    if let Some(old) = actual.link.as_ref().filter(foreign) {
        steps.push(Step::DeleteLink);
        remains = without_device(remains, old);
    }
    match (&remains.link, &remains.wireguard) {
        (Some(old), Some(device)) => {
            if old.mtu != link.mtu {
                steps.push(Step::SetMtu(link.mtu));
            }
            let set = (device.public_key, device.listen_port, device.mark);
            if set != (Some(public_key), listen_port, mark) {
                steps.push(Step::SetDevice {
                    public_key,
                    listen_port,
                    mark,
                });
            }
        }
        _ => steps.push(Step::AddLink {
            mtu: link.mtu,
            public_key,
            listen_port,
            mark,
        }),
    }
    remains
}

fn without_device(mut host: Host, link: &Link) -> Host {
    host.routes.retain(|key, route| match &route.kind {
        RouteKind::Unicast { dev, src, .. } => {
            let address = src.map(Prefix::host);
            let source_goes = address.is_some_and(|address| link.addresses.contains(&address));
            *dev != link.name && !(source_goes && key.prefix.family() == Family::V4)
        }
        RouteKind::Throw | RouteKind::Unreachable => true,
    });
    host.sysctls.retain(|sysctl, _| !sysctl.of_link(&link.name));
    host.link = None;
    host.wireguard = None;
    host
}

/// Gives the device the addresses that it lacks, and sets it up or down.
pub(super) fn set_up(actual: &Host, wanted: &Host, steps: &mut Vec<Step>) {
    let Some(link) = &wanted.link else { return };
    let none = BTreeSet::new();
    let there = actual.link.as_ref().map_or(&none, |link| &link.addresses);
    steps.extend(link.addresses.difference(there).copied().map(Step::AddAddress));
    let up = actual.link.as_ref().is_some_and(|link| link.up);
    if link.up && !up {
        steps.push(Step::SetUp(true));
    }
}

/// Adds and changes peers.
pub(super) fn set_peers(actual: &Host, wanted: &Host, steps: &mut Vec<Step>) {
    let (Some(wanted), true) = (&wanted.wireguard, wanted.link.is_some()) else {
        return;
    };
    let none = WireGuard::default();
    let actual = actual.wireguard.as_ref().unwrap_or(&none);
    let owners: BTreeMap<Prefix, PublicKey> = owners(wanted);
    for (key, peer) in &wanted.peers {
        let old = actual.peers.get(key);
        let step = set_peer(*key, old, peer, &owners);
        steps.extend(step);
    }
}

fn owners(wireguard: &WireGuard) -> BTreeMap<Prefix, PublicKey> {
    let of = |(key, peer): (&PublicKey, &WireGuardPeer)| {
        let key = *key;
        let prefixes: Vec<Prefix> = peer.allowed_ips.iter().copied().collect();
        prefixes.into_iter().map(move |prefix| (prefix, key))
    };
    wireguard.peers.iter().flat_map(of).collect()
}

/// What a peer is to give up for another is not removed here: that would leave it with nobody for a moment.
fn set_peer(
    key: PublicKey,
    old: Option<&WireGuardPeer>,
    wanted: &WireGuardPeer,
    owners: &BTreeMap<Prefix, PublicKey>,
) -> Option<Step> {
    let none = WireGuardPeer::default();
    let was = old.unwrap_or(&none);
    let endpoint: Option<SocketAddr> = wanted.endpoint.filter(|endpoint| was.endpoint != Some(*endpoint));
    let keepalive = (was.keepalive != wanted.keepalive).then_some(wanted.keepalive);
    let group = (was.group != wanted.group).then(|| wanted.group.clone());
    let add: BTreeSet<Prefix> = wanted.allowed_ips.difference(&was.allowed_ips).copied().collect();
    let stale = was.allowed_ips.difference(&wanted.allowed_ips);
    let remove: BTreeSet<Prefix> = stale
        .filter(|prefix| !owners.contains_key(prefix))
        .copied()
        .collect();
    let same =
        endpoint.is_none() && keepalive.is_none() && group.is_none() && add.is_empty() && remove.is_empty();
    (old.is_none() || !same).then_some(Step::SetPeer {
        key,
        endpoint,
        keepalive,
        group,
        add,
        remove,
    })
}

/// Removes peers, addresses and the device.
pub(super) fn end(actual: &Host, wanted: &Host, steps: &mut Vec<Step>) {
    let Some(old) = &actual.link else { return };
    let Some(link) = &wanted.link else {
        steps.push(Step::DeleteLink);
        return;
    };
    let none = BTreeMap::new();
    let peers = |host: &Host| {
        host.wireguard
            .as_ref()
            .map_or(none.clone(), |wireguard| wireguard.peers.clone())
    };
    let wanted_peers = peers(wanted);
    let stale = peers(actual)
        .into_keys()
        .filter(|key| !wanted_peers.contains_key(key));
    steps.extend(stale.map(Step::DeletePeer));
    let addresses = old.addresses.difference(&link.addresses).copied();
    steps.extend(addresses.map(Step::DeleteAddress));
}
