//! The devices, their addresses and their peers.

use std::{
    cell::OnceCell,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use spanwire_topology::{Prefix, PublicKey};

use super::vxlan;
use crate::{Device, DeviceKind, Host, LinkName, PeerChange, Step, WireGuard, WireGuardPeer};

/// Makes devices, or changes their MTU, key, port or mark.
pub(super) fn begin(actual: &Host, wanted: &Host, steps: &mut Vec<Step>) {
    for (name, device) in &wanted.devices {
        let made = match &device.kind {
            DeviceKind::WireGuard(wireguard) => wireguard
                .settings()
                .map(|settings| Step::AddWireGuard(name.clone(), device.mtu, settings)),
            DeviceKind::Vxlan(vxlan) => vxlan
                .settings
                .map(|settings| Step::AddVxlan(name.clone(), device.mtu, settings)),
        };
        let Some(made) = made else {
            continue;
        };
        let Some(old) = actual.devices.get(name) else {
            steps.push(made);
            continue;
        };
        if old.mtu != device.mtu {
            steps.push(Step::SetMtu(name.clone(), device.mtu));
        }
        let settings = wanted.wireguard(name).and_then(WireGuard::settings);
        let others = settings.filter(|_| actual.wireguard(name).and_then(WireGuard::settings) != settings);
        steps.extend(others.map(|settings| Step::SetWireGuard(name.clone(), settings)));
    }
}

/// Gives each device the addresses that it lacks, and sets it up.
pub(super) fn set_up(actual: &Host, wanted: &Host, steps: &mut Vec<Step>) {
    let none = BTreeSet::new();
    for (name, device) in &wanted.devices {
        let old = actual.devices.get(name);
        let there = old.map_or(&none, |old| &old.addresses);
        let missing = device.addresses.difference(there);
        steps.extend(missing.map(|address| Step::AddAddress(name.clone(), *address)));
        if device.up && !old.is_some_and(|old| old.up) {
            steps.push(Step::SetUp(name.clone(), true));
        }
    }
}

/// Adds and changes peers, and where a VXLAN device sends.
pub(super) fn set_peers(actual: &Host, wanted: &Host, steps: &mut Vec<Step>) {
    let none = WireGuard::default();
    for (name, Device { kind, .. }) in &wanted.devices {
        let wireguard = match kind {
            DeviceKind::WireGuard(wireguard) => wireguard,
            DeviceKind::Vxlan(wanted) => {
                vxlan::set_entries(name, actual.vxlan(name), wanted, steps);
                continue;
            }
        };
        let actual = actual.wireguard(name).unwrap_or(&none);
        let owners = Owners::new(wireguard);
        let mut recreated: BTreeMap<PublicKey, WireGuardPeer> = BTreeMap::new();
        for (key, peer) in &wireguard.peers {
            let Some(there) = actual.peers.get(key).filter(|there| begins_again(there, peer)) else {
                continue;
            };
            let again = recreate(there, peer, &owners);
            let change = PeerChange {
                recreate: true,
                ..change(None, &again, &owners)
            };
            steps.push(Step::SetPeer(name.clone(), *key, change));
            recreated.insert(*key, again);
        }
        for (key, peer) in &wireguard.peers {
            let old = recreated.get(key).or_else(|| actual.peers.get(key));
            let change = change(old, peer, &owners);
            if old.is_none() || !change.is_empty() {
                steps.push(Step::SetPeer(name.clone(), *key, change));
            }
        }
    }
}

/// Whether a peer has to be made again: another preshared key is good for the next handshake alone, and the session that has
/// begun without it would go on for up to three minutes (WireGuard whitepaper, section 6.1: REJECT_AFTER_TIME).
fn begins_again(there: &WireGuardPeer, wanted: &WireGuardPeer) -> bool {
    wanted.preshared.is_some() && there.preshared != wanted.preshared
}

/// Returns the peer as it is made again. It has what it had and what some peer is to have: another takes it from here.
fn recreate(there: &WireGuardPeer, wanted: &WireGuardPeer, owners: &Owners<'_>) -> WireGuardPeer {
    let kept = there.allowed_ips.iter().filter(|prefix| owners.has(prefix));
    WireGuardPeer {
        endpoint: wanted.endpoint.or(there.endpoint),
        allowed_ips: Arc::new(kept.copied().collect()),
        ..wanted.clone()
    }
}

/// The allowed IPs of a device, collected when they are first asked for.
struct Owners<'a> {
    wireguard: &'a WireGuard,
    all: OnceCell<BTreeSet<Prefix>>,
}

impl<'a> Owners<'a> {
    fn new(wireguard: &'a WireGuard) -> Self {
        let all = OnceCell::new();
        Self { wireguard, all }
    }

    fn has(&self, prefix: &Prefix) -> bool {
        let peers = self.wireguard.peers.values();
        let all = || peers.flat_map(|peer| peer.allowed_ips.iter().copied()).collect();
        self.all.get_or_init(all).contains(prefix)
    }
}

/// What a peer is to give up for another is not removed here: for a moment no peer would have it.
fn change(old: Option<&WireGuardPeer>, wanted: &WireGuardPeer, owners: &Owners<'_>) -> PeerChange {
    let none = WireGuardPeer::default();
    let was = old.unwrap_or(&none);
    let mut change = PeerChange {
        endpoint: wanted.endpoint.filter(|endpoint| was.endpoint != Some(*endpoint)),
        keepalive: (was.keepalive != wanted.keepalive).then_some(wanted.keepalive),
        group: (was.group != wanted.group).then(|| wanted.group.clone()),
        preshared: (was.preshared != wanted.preshared).then(|| wanted.preshared.clone()),
        ..PeerChange::default()
    };
    if was.allowed_ips != wanted.allowed_ips {
        change.add = wanted.allowed_ips.difference(&was.allowed_ips).copied().collect();
        let stale = was.allowed_ips.difference(&wanted.allowed_ips);
        change.remove = stale.filter(|prefix| !owners.has(prefix)).copied().collect();
    }
    change
}

/// Whether a tunnel goes.
pub(super) fn go(actual: &Host, wanted: &Host) -> bool {
    actual
        .devices
        .keys()
        .any(|name| actual.wireguard(name).is_some() && !wanted.devices.contains_key(name))
}

/// Removes peers, addresses and devices.
pub(super) fn end(actual: &Host, wanted: &Host, steps: &mut Vec<Step>) {
    let none = BTreeMap::new();
    for (name, old) in &actual.devices {
        let Some(device) = wanted.devices.get(name) else {
            steps.push(Step::DeleteDevice(name.clone()));
            continue;
        };
        let wanted_peers = peers_of(wanted, name).unwrap_or(&none);
        let stale = peers_of(actual, name).unwrap_or(&none).keys();
        let stale = stale.filter(|key| !wanted_peers.contains_key(key));
        steps.extend(stale.map(|key| Step::DeletePeer(name.clone(), *key)));
        if let (Some(old), Some(wanted)) = (actual.vxlan(name), wanted.vxlan(name)) {
            vxlan::delete_entries(name, old, wanted, steps);
        }
        let addresses = old.addresses.difference(&device.addresses);
        steps.extend(addresses.map(|address| Step::DeleteAddress(name.clone(), *address)));
    }
}

fn peers_of<'a>(host: &'a Host, device: &LinkName) -> Option<&'a BTreeMap<PublicKey, WireGuardPeer>> {
    host.wireguard(device).map(|wireguard| &wireguard.peers)
}
