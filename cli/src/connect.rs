//! What this machine is to have while it is a Peer of the mesh: a WireGuard device with the leaders of the locations that it is
//! attached to, and routes to what lives behind them, as the same [`Host`] that agents bring their nodes to.
//!
//! | part | what it decides |
//! |---|---|
//! | [`chooser`] | by which leader of a location, at which endpoint, it sends |
//! | [`clash`] | what cannot be both in the mesh and on this machine |
//! | [`identity`] | the name of its Peer, and by what that is known to be this machine's |
//!
//! The routes are in a table of their own, so that no route of another program is changed. Behind each stands `unreachable`: what is
//! for the mesh goes by the tunnel or nowhere. Two kinds of packets keep the way that they have without the mesh, by rules:
//! WireGuard's own to the leaders, and connections to the API server, by which this machine learns who leads.

pub mod chooser;
pub mod clash;
pub mod identity;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
};

use spanwire_host::{
    Device, DeviceKind, Host, Owned, Route, RouteKey, RouteKind, Rule, RuleAction, RuleSelector, WireGuard,
    WireGuardPeer,
};
use spanwire_topology::{Endpoint, Family, NodeName, Prefix, PublicKey};

use crate::{
    connect::chooser::Way,
    showconf::{Attachment, KEEPALIVE},
};

/// UDP and TCP (IANA, protocol numbers).
const UDP: u8 = 17;
const TCP: u8 = 6;
/// What WireGuard adds to a packet, in an IPv6 packet (wg-quick takes as much off).
const OVERHEAD: u32 = 80;
/// What Ethernet carries, where nothing else is known.
const ETHERNET: u32 = 1500;
/// What every IPv6 link carries (RFC 8200, section 5).
const LEAST: u32 = 1280;

/// What the device of this machine has of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Own {
    /// Its key.
    pub public_key: PublicKey,
    /// Its port.
    pub listen_port: u16,
    /// The largest packet that it takes.
    pub mtu: u32,
    /// Its addresses, each as a network of one.
    pub addresses: BTreeSet<Prefix>,
    /// The kernel has IPv6.
    pub ipv6: bool,
}

/// A leader that this machine talks to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Party {
    /// Its key.
    pub key: PublicKey,
    /// Where it is looked for.
    pub endpoint: Option<SocketAddr>,
    /// What is sent to it, and what it may send from.
    pub allowed_ips: BTreeSet<Prefix>,
    /// The MTU of its network; `None`: it has not said.
    pub mtu: Option<u16>,
}

/// What keeps the way that it has without the mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Past {
    /// WireGuard's packets to a leader.
    Leader(SocketAddr),
    /// Connections to the API server.
    ApiServer(SocketAddr),
}

/// Returns the largest packet that fits into the tunnel, by what the ways to the leaders take.
#[must_use]
pub fn mtu(underlay: Option<u32>) -> u32 {
    underlay.unwrap_or(ETHERNET).saturating_sub(OVERHEAD).max(LEAST)
}

/// Returns the ways to a location in the order in which they are tried.
#[must_use]
pub fn ways(attachment: &Attachment) -> Vec<Way> {
    let way = |(leader, endpoint): &(NodeName, Endpoint)| {
        let (_, key) = attachment.leaders.iter().find(|(node, _)| node == leader)?;
        Some(Way {
            leader: leader.clone(),
            key: *key,
            endpoint: endpoint.clone(),
        })
    };
    attachment.ways.iter().filter_map(way).collect()
}

/// Returns what this machine is to have. Of the networks of the `mesh` those that no party takes are not reached.
#[must_use]
pub fn host(
    owned: &Owned,
    own: &Own,
    parties: &[Party],
    mesh: &BTreeSet<Prefix>,
    past: &BTreeSet<Past>,
) -> Host {
    let taken = parties
        .iter()
        .flat_map(|party| party.allowed_ips.iter().map(move |prefix| (*prefix, party)));
    let taken: BTreeMap<Prefix, &Party> = taken.collect();
    let routed = routed(mesh, &taken.keys().copied().collect()).into_iter();
    let routed = routed.filter(|(prefix, _)| own.ipv6 || prefix.family() == Family::V4);
    let routes = routed.flat_map(|(prefix, is_taken)| {
        let party = taken.get(&prefix).filter(|_| is_taken);
        routes(owned, own, prefix, party.copied())
    });
    let routes: BTreeMap<RouteKey, Route> = routes.collect();
    let families: BTreeSet<Family> = routes.keys().map(|key| key.prefix.family()).collect();
    let peers = parties.iter().map(|party| {
        let peer = WireGuardPeer {
            endpoint: party.endpoint,
            keepalive: Some(KEEPALIVE),
            group: None,
            preshared: None,
            allowed_ips: Arc::new(party.allowed_ips.clone()),
        };
        (party.key, peer)
    });
    let wireguard = WireGuard {
        public_key: Some(own.public_key),
        listen_port: own.listen_port,
        mark: 0,
        peers: peers.collect(),
    };
    let device = Device {
        mtu: own.mtu,
        up: true,
        addresses: own.addresses.clone(),
        kind: DeviceKind::WireGuard(wireguard),
    };
    Host {
        devices: [(owned.link.clone(), device)].into(),
        rules: families
            .into_iter()
            .flat_map(|family| rules(owned, family, past))
            .collect(),
        routes: Arc::new(routes),
        ..Host::default()
    }
}

/// Returns what is wanted without the endpoints of leaders that the device has already, but for those that are to be `moved`: they are
/// where they were last heard.
#[must_use]
pub fn settled(mut wanted: Host, actual: &Host, moved: &BTreeSet<PublicKey>) -> Host {
    for (name, wireguard) in wanted.wireguards_mut() {
        let Some(there) = actual.wireguard(name) else {
            continue;
        };
        for (key, peer) in &mut wireguard.peers {
            let known = there.peers.get(key).is_some_and(|there| there.endpoint.is_some());
            if known && !moved.contains(key) {
                peer.endpoint = None;
            }
        }
    }
    wanted
}

/// Returns what routes are needed for, each with whether a party takes it. What lies in one that is taken needs none of its own.
fn routed(mesh: &BTreeSet<Prefix>, taken: &BTreeSet<Prefix>) -> Vec<(Prefix, bool)> {
    let mut around: Option<Prefix> = None;
    // A network sorts right before what it contains.
    let needed = mesh.union(taken).filter_map(|prefix| {
        let (is_taken, is_inside) = (
            taken.contains(prefix),
            around.is_some_and(|around| around.covers(prefix)),
        );
        if is_taken && !is_inside {
            around = Some(*prefix);
        }
        (is_taken || !is_inside).then_some((*prefix, is_taken))
    });
    needed.collect()
}

/// Returns the routes to a network: into the tunnel, where a party takes it and this machine has an address of its family to send
/// from, and nowhere. What the network of the party takes less than the device is the route's MTU.
fn routes(owned: &Owned, own: &Own, prefix: Prefix, party: Option<&Party>) -> Vec<(RouteKey, Route)> {
    const TUNNEL: u32 = 100;
    const NOWHERE: u32 = 200;
    let key = |metric| RouteKey {
        table: owned.table,
        prefix,
        metric,
    };
    let mut sources = own.addresses.iter();
    let source = sources.find(|address| address.family() == prefix.family());
    let tunnel = party.zip(source).map(|(party, source)| {
        let there = party.mtu.map(|underlay| mtu(Some(underlay.into())));
        let kind = RouteKind::Unicast {
            dev: owned.link.clone(),
            via: None,
            onlink: false,
            src: Some(source.address()),
        };
        let mtu = there.filter(|there| *there < own.mtu);
        (key(TUNNEL), Route { kind, mtu })
    });
    let unreachable = Route {
        kind: RouteKind::Unreachable,
        mtu: None,
    };
    let nowhere = (key(NOWHERE), unreachable);
    tunnel.into_iter().chain([nowhere]).collect()
}

/// Returns the rules of a family: what goes past the table, and the table.
fn rules(owned: &Owned, family: Family, past: &BTreeSet<Past>) -> Vec<Rule> {
    let first = owned.rule_priority;
    let end = first + 2;
    let rule = |priority, selector, action| Rule {
        family,
        priority,
        selector,
        action,
    };
    let exempt = |past: &Past| {
        let (to, protocol) = match past {
            Past::Leader(to) => (to, UDP),
            Past::ApiServer(to) => (to, TCP),
        };
        let selector = RuleSelector {
            to: Some(Prefix::host(to.ip())),
            protocol: Some(protocol),
            dport: Some(to.port()),
            ..RuleSelector::default()
        };
        (Family::of(to.ip()) == family).then(|| rule(first, selector, RuleAction::Goto(end)))
    };
    let mut rules: Vec<Rule> = past.iter().filter_map(exempt).collect();
    rules.push(rule(
        first + 1,
        RuleSelector::default(),
        RuleAction::Lookup(owned.table),
    ));
    rules.push(rule(end, RuleSelector::default(), RuleAction::Nop));
    rules
}

#[cfg(test)]
mod tests;
