//! The WireGuard device of a leader.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use super::{
    Party, Tunnel, TunnelPeer,
    entries::{Entry, Kind, Owner},
    view::{View, has_families},
};
use crate::{Doubt, Endpoint, EndpointHost, LocationName, MeshMode, Prefix, PublicKey, Reachability};

/// Returns the device with all its peers, of which these receive what each leader carries.
pub(super) fn tunnel(view: &View<'_>, entries: &[Entry<'_>], receivers: &[usize]) -> Tunnel {
    let keepalive = view.member.keepalive.or(view.home().location.settings.keepalive);
    let mut allowed = Allowed::new(view, entries, receivers);
    let mut peers: BTreeMap<PublicKey, TunnelPeer> = BTreeMap::new();
    for (key, lead) in leaders(view) {
        let leader = &view.leads[lead];
        let peer = TunnelPeer {
            party: Party::Leader(view.sites[leader.site].name.clone(), leader.node.clone()),
            overlay: leader.member.overlay.clone(),
            endpoints: endpoints(view, lead),
            keepalive,
            preshared: None,
            group: group(view, leader.site),
            allowed_ips: std::mem::take(&mut allowed.leads[lead]).into_iter().collect(),
        };
        peers.insert(key, peer);
    }
    let serves_peers = view.lead.is_some() && view.first(view.mine) == view.lead;
    for (index, (name, peer)) in view.peers.iter().enumerate() {
        if serves_peers && view.attached(peer) && view.member.public_key != Some(peer.public_key) {
            peers.entry(peer.public_key).or_insert_with(|| TunnelPeer {
                party: Party::Peer((*name).clone()),
                overlay: BTreeSet::new(),
                endpoints: peer.endpoint.iter().cloned().collect(),
                keepalive: peer.keepalive.or(keepalive),
                preshared: peer.preshared.clone(),
                group: None,
                allowed_ips: std::mem::take(&mut allowed.peers[index]).into_iter().collect(),
            });
        }
    }
    Tunnel {
        addresses: view.member.overlay.clone(),
        listen_port: view.member.listen_port,
        peers,
    }
}

/// What each party may send from.
struct Allowed {
    leads: Vec<Vec<Prefix>>,
    peers: Vec<Vec<Prefix>>,
}

impl Allowed {
    fn new(view: &View<'_>, entries: &[Entry<'_>], receivers: &[usize]) -> Self {
        let mut allowed = Self {
            leads: vec![Vec::new(); view.leads.len()],
            peers: vec![Vec::new(); view.peers.len()],
        };
        for entry in entries {
            let Some(carrier) = entry.carrier else { continue };
            let own = entry.site == view.mine;
            match entry.owner {
                Owner::Peer(peer) if own && view.lead == Some(carrier) => {
                    allowed.peers[peer].push(entry.prefix)
                }
                _ if view.lead == Some(carrier) || !remote(view, entry.site) => {}
                Owner::Site if own => {}
                // Whether a leader can be used again shows at its overlay address.
                Owner::Member(..) if entry.kind == Kind::Overlay => allowed.leads[carrier].push(entry.prefix),
                Owner::Member(..) | Owner::Site | Owner::Peer(_) => {
                    allowed.leads[receivers[carrier]].push(entry.prefix);
                }
            }
        }
        allowed
    }
}

/// Returns for every leader who is sent what it carries: the leader itself, or where this node cannot use it, the first of
/// its location in the published order that it can use, and whose tunnels are not about to end where there is one. What is observed
/// may be wrong: of leaders that all seem lost the published one is left.
///
/// A location whose name is the lower of the two follows what the leaders of the other one say: it takes the first of the same order
/// that says that it uses this node, one that has only just come back too, where those before it that are usable say that they do not.
/// The other location takes no account of what it hears, so they do not chase each other. Silence changes nothing.
pub(super) fn receivers(view: &View<'_>, reachability: &Reachability) -> Vec<usize> {
    let mut receivers: Vec<usize> = (0..view.leads.len()).collect();
    if view.lead.is_none() || reachability.keeps_published_leaders() {
        return receivers;
    }
    let talked_to: BTreeSet<usize> = leaders(view).into_iter().map(|(_, lead)| lead).collect();
    for lead in &talked_to {
        let site = view.leads[*lead].site;
        // Who leads itself alone stands in for no other.
        let others = view
            .leads_of(site)
            .filter(|other| other != lead && group(view, site).is_some());
        let able = |other: &usize| has_families(view.leads[*other].member, view.leads[*lead].member);
        let candidates = std::iter::once(*lead).chain(others.filter(able));
        let candidates = candidates.filter(|candidate| talked_to.contains(candidate));
        receivers[*lead] = receiver(view, reachability, candidates).unwrap_or(*lead);
    }
    receivers
}

/// Returns whom to use of leaders of one location, given in the order of preference; `None` where all seem lost.
fn receiver(
    view: &View<'_>,
    reachability: &Reachability,
    mut candidates: impl Iterator<Item = usize> + Clone,
) -> Option<usize> {
    let named = |lead: usize| (view.sites[view.leads[lead].site].name, view.leads[lead].node);
    let works = |lead: &usize| {
        let (location, leader) = named(*lead);
        reachability.far_usable(location, leader)
    };
    let stays = |lead: &usize| {
        let (location, leader) = named(*lead);
        !reachability.drains(location, leader)
    };
    let usable = |lead: &usize| works(lead) && stays(lead);
    let says = |lead: usize| {
        let (location, leader) = named(lead);
        // The lower location follows.
        let follows = view.home().name < location && !view.islands();
        follows.then(|| reachability.advice(location, leader)).flatten()
    };
    let uses_me = |lead: &usize| says(*lead).is_some_and(|advice| advice.uses.contains(view.me));
    let doubt = |lead: usize| {
        let (location, leader) = named(lead);
        reachability.doubt(location, leader)
    };
    let Some(first) = candidates.clone().find(usable) else {
        // Those that are about to end are better than none.
        return candidates.find(works);
    };
    let refusal = says(first).filter(|_| !uses_me(&first));
    let returns = |lead: &usize| doubt(*lead) == Some(Doubt::Returning) && stays(lead);
    let may_be_used = |lead: &usize| usable(lead) || returns(lead);
    // Without a word of the first usable one those behind it are not asked.
    let last = if refusal.is_none() { Some(first) } else { None };
    let mut until = candidates
        .clone()
        .filter(may_be_used)
        .take_while(|lead| Some(*lead) != last);
    if let Some(mutual) = until.find(uses_me) {
        return Some(mutual);
    }
    // What this node sends is lost at the first one, so nothing is to lose with one that answers.
    let is_lost = refusal.is_some_and(|advice| !advice.groups);
    let mut useless = candidates.filter(|lead| is_lost && doubt(*lead) == Some(Doubt::Useless));
    useless.find(uses_me).or(Some(first))
}

/// Whom a leader of a location stands in for: its fellows, unless every node there leads itself.
fn group(view: &View<'_>, site: usize) -> Option<LocationName> {
    let site = &view.sites[site];
    (site.location.settings.mode == MeshMode::Leaders).then(|| site.name.clone())
}

/// Returns whether the own leaders have a tunnel to the leaders of this location.
fn remote(view: &View<'_>, site: usize) -> bool {
    site != view.mine || view.islands()
}

/// Returns the leaders to talk to, each key once, never the own one.
fn leaders(view: &View<'_>) -> Vec<(PublicKey, usize)> {
    let others = view
        .leads
        .iter()
        .enumerate()
        .filter(|(lead, _)| view.lead != Some(*lead));
    let remote = others.filter(|(_, leader)| remote(view, leader.site));
    let mut leaders: Vec<_> = remote
        .filter_map(|(lead, leader)| {
            Some((leader.member.public_key?, Reverse(leader.member.generation), lead))
        })
        .filter(|(key, ..)| view.member.public_key != Some(*key))
        .collect();
    leaders.sort_unstable();
    leaders.dedup_by_key(|(key, ..)| *key);
    leaders.into_iter().map(|(key, _, lead)| (key, lead)).collect()
}

/// Returns where a leader is reached: inside the own location at its own addresses, where the mesh knows any; else what
/// stands in front of its location, where it is the first, and then what is known of itself.
fn endpoints(view: &View<'_>, lead: usize) -> Vec<Endpoint> {
    let leader = &view.leads[lead];
    if leader.site == view.mine && !leader.member.addresses.is_empty() {
        let port = leader.member.listen_port;
        let inside = leader
            .member
            .addresses
            .iter()
            .map(|address| EndpointHost::Address(*address));
        return inside.map(|host| Endpoint { host, port }).collect();
    }
    let settings = &view.sites[leader.site].location.settings;
    let front = settings
        .endpoint
        .iter()
        .filter(|_| view.first(leader.site) == Some(lead));
    let mut endpoints: Vec<Endpoint> = front.chain(&leader.member.endpoints).cloned().collect();
    let mut seen = BTreeSet::new();
    endpoints.retain(|endpoint| seen.insert(endpoint.clone()));
    endpoints
}
