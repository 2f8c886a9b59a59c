//! The WireGuard device of a leader.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use super::{
    Party, Tunnel, TunnelPeer,
    entries::{Entry, Owner},
    view::{Lead, View},
};
use crate::{Endpoint, EndpointHost, NodeName, PeerName, Prefix, PublicKey};

/// A party, cheaper to compare than [`Party`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Side<'v> {
    Leader(usize, &'v NodeName),
    Peer(&'v PeerName),
}

/// The device with all its peers.
pub(super) fn tunnel(view: &View<'_>, entries: &[Entry<'_, '_>]) -> Tunnel {
    let keepalive = view.member.keepalive.or(view.home().location.settings.keepalive);
    let mut allowed: BTreeMap<Side<'_>, Vec<Prefix>> = BTreeMap::new();
    for entry in entries {
        if let Some(side) = side(view, entry) {
            allowed.entry(side).or_default().push(entry.prefix);
        }
    }
    let mut allowed = |side| allowed.remove(&side).unwrap_or_default().into_iter().collect();
    let mut peers: BTreeMap<PublicKey, TunnelPeer> = BTreeMap::new();
    for (key, site, lead) in leaders(view) {
        let peer = TunnelPeer {
            party: Party::Leader(view.sites[site].name.clone(), lead.node.clone()),
            overlay: lead.member.overlay.clone(),
            endpoints: endpoints(view, site, lead),
            keepalive,
            allowed_ips: allowed(Side::Leader(site, lead.node)),
        };
        peers.insert(key, peer);
    }
    let serves_peers = view.home().first() == Some(view.me);
    let attached = view
        .peers
        .iter()
        .filter(|(_, peer)| serves_peers && view.attached(peer));
    for (name, peer) in attached {
        if Some(peer.public_key) != view.member.public_key {
            peers.entry(peer.public_key).or_insert_with(|| TunnelPeer {
                party: Party::Peer((*name).clone()),
                overlay: BTreeSet::new(),
                endpoints: peer.endpoint.iter().cloned().collect(),
                keepalive: peer.keepalive.or(keepalive),
                allowed_ips: allowed(Side::Peer(name)),
            });
        }
    }
    Tunnel {
        addresses: view.member.overlay.clone(),
        listen_port: view.member.listen_port,
        peers,
    }
}

/// Whether the own leaders have a tunnel to the leaders of this location.
fn remote(view: &View<'_>, site: usize) -> bool {
    site != view.mine || view.islands()
}

/// With whom a prefix is.
fn side<'v>(view: &View<'_>, entry: &Entry<'v, 'v>) -> Option<Side<'v>> {
    let carrier = entry.carrier?;
    match entry.owner {
        Owner::Peer(name) if entry.site == view.mine && carrier == view.me => Some(Side::Peer(name)),
        _ if carrier == view.me || !remote(view, entry.site) => None,
        Owner::Site if entry.site == view.mine => None,
        Owner::Member(..) | Owner::Site | Owner::Peer(_) => Some(Side::Leader(entry.site, carrier)),
    }
}

/// The leaders to talk to, each key once, never the own one.
fn leaders<'v, 'a>(view: &'v View<'a>) -> Vec<(PublicKey, usize, &'v Lead<'a>)> {
    let sites = view
        .sites
        .iter()
        .enumerate()
        .filter(|(site, _)| remote(view, *site));
    let leads = sites.flat_map(|(site, named)| named.leaders.iter().map(move |lead| (site, lead)));
    let others = leads.filter(|(_, lead)| lead.node != view.me);
    let mut leaders: Vec<_> = others
        .filter_map(|(site, lead)| Some((lead.member.public_key?, site, lead)))
        .filter(|(key, ..)| view.member.public_key != Some(*key))
        .collect();
    leaders.sort_by_key(|(key, site, lead)| (*key, Reverse(lead.member.generation), *site, lead.node));
    let mut seen = BTreeSet::new();
    leaders.retain(|(key, ..)| seen.insert(*key));
    leaders
}

/// Where a leader is reached: inside the own location at its own addresses; else what stands in front of its location,
/// where it is the first, and then what is known of itself.
fn endpoints(view: &View<'_>, site: usize, lead: &Lead<'_>) -> Vec<Endpoint> {
    if site == view.mine {
        let port = lead.member.listen_port;
        let inside = lead
            .member
            .addresses
            .iter()
            .map(|address| EndpointHost::Address(*address));
        return inside.map(|host| Endpoint { host, port }).collect();
    }
    let named = &view.sites[site];
    let front = named
        .location
        .settings
        .endpoint
        .iter()
        .filter(|_| named.first() == Some(lead.node));
    let mut endpoints: Vec<Endpoint> = front.chain(&lead.member.endpoints).cloned().collect();
    let mut seen = BTreeSet::new();
    endpoints.retain(|endpoint| seen.insert(endpoint.clone()));
    endpoints
}
