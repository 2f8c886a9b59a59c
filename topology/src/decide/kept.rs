//! A value that cannot be read keeps what was there.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use crate::{
    EndpointHost, Facts, Field, LeaderRole, Location, LocationFact, LocationName, Member, Mesh, MeshMode,
    NodeFact, NodeName, Peer, PeerFact, PeerName, Prefix,
};

/// The facts in which what could not be read is as it was published. Who has the facts as they were before need not rely on
/// it ([`NodeFact::keep`]); this is for the decision after a restart.
///
/// Only facts that differ are copied: one value that cannot be read costs nothing that depends on how many can.
#[derive(Debug)]
pub(super) struct Kept<'a> {
    facts: &'a Facts,
    nodes: BTreeMap<&'a NodeName, NodeFact>,
    locations: BTreeMap<&'a LocationName, LocationFact>,
    peers: BTreeMap<&'a PeerName, PeerFact>,
}

impl<'a> Kept<'a> {
    pub(super) fn new(facts: &'a Facts, previous: &Mesh) -> Self {
        let mut kept = Self {
            facts,
            nodes: BTreeMap::new(),
            locations: BTreeMap::new(),
            peers: BTreeMap::new(),
        };
        for (name, fact) in facts.nodes.iter().filter(|(_, fact)| !fact.unread.is_empty()) {
            if let Some((location, member)) = published(previous, name) {
                kept.nodes.insert(name, keep(fact.clone(), location, member));
            }
        }
        for (name, fact) in facts.locations.iter().filter(|(_, fact)| !fact.unread.is_empty()) {
            let Some(before) = previous.locations.get(name) else {
                continue;
            };
            if fact.selector.is_none() && fact.unread.contains(&Field::Selector) {
                kept.stay(name, before);
            }
            if let Some(fact) = keep_location(fact, before) {
                kept.locations.insert(name, fact);
            }
        }
        for (name, fact) in facts.peers.iter().filter(|(_, fact)| !fact.unread.is_empty()) {
            if let Some(before) = previous.peers.get(name) {
                kept.peers.insert(name, keep_peer(fact.clone(), before));
            }
        }
        kept
    }

    /// The members of a location of which it is not known any more whom it selects stay there.
    fn stay(&mut self, name: &LocationName, before: &Location) {
        for node in before.members.keys() {
            let Some((node, fact)) = self.facts.nodes.get_key_value(node) else {
                continue;
            };
            let fact = self.nodes.entry(node).or_insert_with(|| fact.clone());
            if fact.location.is_none() {
                fact.location = Some(name.clone());
            }
        }
    }

    /// Every node, in the order of the names.
    pub(super) fn nodes(&self) -> impl Iterator<Item = (&NodeName, &NodeFact)> {
        let same = self.nodes.is_empty();
        let nodes = self.facts.nodes.iter();
        nodes.map(move |(name, fact)| match self.nodes.get(name) {
            Some(kept) if !same => (name, kept),
            Some(_) | None => (name, fact),
        })
    }

    pub(super) fn node(&self, name: &NodeName) -> Option<&NodeFact> {
        self.nodes.get(name).or_else(|| self.facts.nodes.get(name))
    }

    /// Every Location, in the order of the names.
    pub(super) fn locations(&self) -> impl Iterator<Item = (&LocationName, &LocationFact)> {
        let locations = self.facts.locations.iter();
        locations.map(|(name, fact)| (name, self.locations.get(name).unwrap_or(fact)))
    }

    pub(super) fn location(&self, name: &LocationName) -> Option<&LocationFact> {
        let kept = self.locations.get(name);
        kept.or_else(|| self.facts.locations.get(name))
    }

    /// Every Peer, in the order of the names.
    pub(super) fn peers(&self) -> impl Iterator<Item = (&PeerName, &PeerFact)> {
        let peers = self.facts.peers.iter();
        peers.map(|(name, fact)| (name, self.peers.get(name).unwrap_or(fact)))
    }
}

impl Facts {
    /// Takes over from what is published what a later decision must not, because it would bring back what was removed: the
    /// networks of nodes and Locations, the addresses of nodes inside and outside, and the number of leaders, of which the annotation or the
    /// field could not be read.
    /// For the first decision after a restart; the other values [`decide`](crate::decide()) takes over by itself.
    pub fn remember(&mut self, published: &Mesh) {
        for (name, fact) in &mut self.nodes {
            if fact.unread.contains(&Field::Addresses)
                && !fact.annotated
                && let Some((_, member)) = self::published(published, name)
            {
                fact.addresses.clone_from(&member.addresses);
                fact.annotated = true;
            } else if fact.unread.contains(&Field::StatusAddresses)
                && let Some((_, member)) = self::published(published, name)
            {
                fact.keep_addresses(&member.addresses);
            }
            if fact.unread.contains(&Field::External)
                && let Some((_, member)) = self::published(published, name)
            {
                fact.keep_external(&external(member));
            }
        }
        for (name, fact) in &mut self.locations {
            let before = published.locations.get(name);
            let led = before.filter(|before| {
                let few = before.settings.mode == MeshMode::Leaders && !before.leaders.is_empty();
                few && fact.unread.contains(&Field::Seats)
            });
            if let Some(before) = led {
                let of = |role| before.leaders.iter().filter(|leader| leader.role == role).count();
                let seats = [LeaderRole::Active, LeaderRole::Standby];
                let seats = seats.map(|role| u16::try_from(of(role)).unwrap_or(u16::MAX));
                [fact.active, fact.standby] = seats;
            }
        }
        self.remember_networks(published);
    }

    fn remember_networks(&mut self, published: &Mesh) {
        let unread = |unread: &BTreeSet<Field>| unread.contains(&Field::Cidrs);
        if !self.nodes.values().any(|fact| unread(&fact.unread))
            && !self.locations.values().any(|fact| unread(&fact.unread))
        {
            return;
        }
        let of_nodes = self.nodes.values().flat_map(|fact| &fact.cidrs);
        let of_locations = self.locations.values().flat_map(|fact| &fact.cidrs);
        let claimed: BTreeSet<Prefix> = of_nodes.chain(of_locations).copied().collect();
        let unclaimed = |name: &LocationName| -> Vec<Prefix> {
            let before = published.locations.get(name).into_iter();
            let cidrs = before.flat_map(|before| &before.settings.cidrs);
            cidrs.filter(|cidr| !claimed.contains(*cidr)).copied().collect()
        };
        for (name, fact) in self.locations.iter_mut().filter(|(_, fact)| unread(&fact.unread)) {
            fact.cidrs.extend(unclaimed(name));
        }
        for (name, fact) in self.nodes.iter_mut().filter(|(_, fact)| unread(&fact.unread)) {
            let location = self::published(published, name).map(|(location, _)| location);
            let room = NodeFact::MAX_NETWORKS.saturating_sub(fact.prefixes.len() + fact.cidrs.len());
            let kept = location.into_iter().flat_map(unclaimed).take(room);
            fact.cidrs.extend(kept);
        }
    }
}

fn published<'m>(mesh: &'m Mesh, node: &NodeName) -> Option<(&'m LocationName, &'m Member)> {
    let locations = mesh.locations.iter();
    let found = locations.filter_map(|(name, location)| Some((name, location.members.get(node)?)));
    found.max_by_key(|(_, member)| member.generation)
}

fn keep(mut fact: NodeFact, location: &LocationName, member: &Member) -> NodeFact {
    let unread = fact.unread.clone();
    let lost = |field: Field| unread.contains(&field);
    if lost(Field::Location) && fact.location.is_none() {
        fact.location = Some(location.clone());
    }
    if lost(Field::Region) && fact.region.is_none() {
        fact.region = Some(location.clone());
    }
    if lost(Field::Endpoints) && fact.endpoints.is_empty() {
        fact.endpoints.clone_from(&member.endpoints);
    }
    if lost(Field::Addresses) {
        fact.addresses.extend(&member.addresses);
    }
    if lost(Field::Keepalive) && fact.keepalive.is_none() {
        fact.keepalive = member.keepalive;
    }
    if lost(Field::ListenPort) && fact.listen_port.is_none() {
        fact.listen_port = Some(member.listen_port);
    }
    fact
}

/// Returns the addresses at which others reach a node and that are not its own.
fn external(member: &Member) -> BTreeSet<IpAddr> {
    let endpoints = member.endpoints.iter();
    let endpoints = endpoints.filter(|endpoint| endpoint.port == member.listen_port);
    let addresses = endpoints.filter_map(|endpoint| match endpoint.host {
        EndpointHost::Address(address) => Some(address),
        EndpointHost::Name(_) => None,
    });
    addresses
        .filter(|address| !member.addresses.contains(address))
        .collect()
}

/// Returns the Location with what was published of it; `None` where that is nothing more.
fn keep_location(fact: &LocationFact, before: &Location) -> Option<LocationFact> {
    let mut kept = Cow::Borrowed(fact);
    let lost = |field: Field| fact.unread.contains(&field);
    let settings = &before.settings;
    if lost(Field::Endpoints) && fact.endpoint.is_none() && settings.endpoint.is_some() {
        kept.to_mut().endpoint.clone_from(&settings.endpoint);
    }
    if lost(Field::Keepalive) && fact.keepalive.is_none() && settings.keepalive.is_some() {
        kept.to_mut().keepalive = settings.keepalive;
    }
    if lost(Field::Mode) && fact.mode != settings.mode {
        kept.to_mut().mode = settings.mode;
    }
    if lost(Field::Hop) && fact.hop != Some(settings.hop) {
        kept.to_mut().hop = Some(settings.hop);
    }
    match kept {
        Cow::Owned(kept) => Some(kept),
        Cow::Borrowed(_) => None,
    }
}

fn keep_peer(mut fact: PeerFact, before: &Peer) -> PeerFact {
    let unread = fact.unread.clone();
    let lost = |field: Field| unread.contains(&field);
    if lost(Field::PublicKey) {
        fact.public_key = fact.public_key.or(Some(before.public_key));
    }
    if lost(Field::Cidrs) {
        fact.allowed_ips.extend(&before.allowed_ips);
    }
    if lost(Field::Endpoints) && fact.endpoint.is_none() {
        fact.endpoint.clone_from(&before.endpoint);
    }
    if lost(Field::Location) {
        // Attached to several, it was open to all.
        let mut attachments = before.attachments.iter();
        if let Some(location) = attachments.next() {
            fact.location = attachments.next().is_none().then(|| location.clone());
            fact.unread.remove(&Field::Location);
        }
    }
    if lost(Field::Preshared) && before.preshared.is_some() {
        fact.preshared.clone_from(&before.preshared);
        fact.unread.remove(&Field::Preshared);
    }
    fact
}
