//! Is a mesh what it should be? [`decide`](crate::decide()) gives meshes without errors; a mixture of two publications may
//! have some for a while, and [`plan`](crate::plan()) copes with each of them.

use std::collections::BTreeMap;

use thiserror::Error;

use crate::{
    Claimant, Generation, LeaderRole, Location, LocationName, Mesh, MeshMode, NodeName, PeerName, Prefix,
    PublicKey,
};

/// How bad a diagnostic is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The mesh contradicts itself.
    Error,
    /// The mesh is sound, but some node or Peer is not served.
    Warning,
}

/// Something about a mesh that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Error)]
pub enum Diagnostic {
    /// A leader is no member of its location.
    #[error("location {0}: leader {1} is no member of it")]
    LeaderNoMember(LocationName, NodeName),
    /// A leader has no key.
    #[error("location {0}: leader {1} has no key")]
    LeaderWithoutKey(LocationName, NodeName),
    /// A node stands twice among the leaders of a location.
    #[error("location {0}: {1} stands twice among its leaders")]
    LeaderTwice(LocationName, NodeName),
    /// A standby leader stands before an active one, or where every node leads itself.
    #[error("location {0}: standby leader {1} is out of place")]
    StandbyOutOfPlace(LocationName, NodeName),
    /// A node is a member of two locations.
    #[error("node {0} is a member of {1} and of {2}")]
    NodeTwice(NodeName, LocationName, LocationName),
    /// A member is newer than the mesh.
    #[error("node {0} has generation {gen}, the mesh only {mesh}", gen = .1.0, mesh = .2.0)]
    FromTheFuture(NodeName, Generation, Generation),
    /// Two networks overlap that must not.
    #[error("{1} of {0} overlaps {3} of {2}")]
    Overlap(Claimant, Prefix, Claimant, Prefix),
    /// Two parties have one key.
    #[error("{0} and {1} have the key {2}")]
    KeyTwice(Claimant, Claimant, PublicKey),
    /// A location is established with one that does not list it, or does not exist.
    #[error("location {0} is established with {1}, but not the other way round")]
    OneSided(LocationName, LocationName),
    /// The home of a Peer is not among its attachments.
    #[error("peer {0}: its home {1} is not among its attachments")]
    HomeNotAttached(PeerName, LocationName),
    /// A Peer is attached to a location that does not exist.
    #[error("peer {0} is attached to {1}, which does not exist")]
    AttachedNowhere(PeerName, LocationName),
    /// A location has nodes but no active leader.
    #[error("location {0} has nodes, but none of them can lead")]
    Leaderless(LocationName),
    /// No location serves a Peer.
    #[error("peer {0} has no home: no location can have it")]
    Homeless(PeerName),
}

impl Diagnostic {
    /// Returns how bad it is.
    #[must_use]
    pub fn severity(&self) -> Severity {
        match self {
            Self::Leaderless(_) | Self::Homeless(_) => Severity::Warning,
            Self::LeaderNoMember(..)
            | Self::LeaderWithoutKey(..)
            | Self::LeaderTwice(..)
            | Self::StandbyOutOfPlace(..)
            | Self::NodeTwice(..)
            | Self::FromTheFuture(..)
            | Self::Overlap(..)
            | Self::KeyTwice(..)
            | Self::OneSided(..)
            | Self::HomeNotAttached(..)
            | Self::AttachedNowhere(..) => Severity::Error,
        }
    }
}

/// Returns everything about the mesh that is not as it should be: errors first, in a stable order.
#[must_use]
pub fn lint(mesh: &Mesh) -> Vec<Diagnostic> {
    let mut diagnostics = Vec::new();
    for (name, location) in &mesh.locations {
        leaders(name, location, &mut diagnostics);
        established(mesh, name, location, &mut diagnostics);
    }
    nodes(mesh, &mut diagnostics);
    keys(mesh, &mut diagnostics);
    networks(mesh, &mut diagnostics);
    peers(mesh, &mut diagnostics);
    diagnostics.sort_by(|a, b| (a.severity(), a).cmp(&(b.severity(), b)));
    diagnostics
}

fn leaders(name: &LocationName, location: &Location, diagnostics: &mut Vec<Diagnostic>) {
    let mut standby_seen = None;
    for (index, leader) in location.leaders.iter().enumerate() {
        let node = &leader.node;
        let at = || (name.clone(), node.clone());
        match location.members.get(node) {
            None => diagnostics.push(Diagnostic::LeaderNoMember(at().0, at().1)),
            Some(member) if member.public_key.is_none() => {
                diagnostics.push(Diagnostic::LeaderWithoutKey(at().0, at().1));
            }
            Some(_) => {}
        }
        if location.leaders[..index]
            .iter()
            .any(|before| before.node == *node)
        {
            diagnostics.push(Diagnostic::LeaderTwice(at().0, at().1));
        }
        match leader.role {
            LeaderRole::Standby if location.settings.mode == MeshMode::Nodes => {
                diagnostics.push(Diagnostic::StandbyOutOfPlace(at().0, at().1));
            }
            LeaderRole::Standby => standby_seen = standby_seen.or(Some(node)),
            LeaderRole::Active => {
                let early = standby_seen.take();
                diagnostics
                    .extend(early.map(|early| Diagnostic::StandbyOutOfPlace(name.clone(), early.clone())));
            }
        }
    }
    if !location.members.is_empty() && location.active().next().is_none() {
        diagnostics.push(Diagnostic::Leaderless(name.clone()));
    }
}

fn established(mesh: &Mesh, name: &LocationName, location: &Location, diagnostics: &mut Vec<Diagnostic>) {
    for other in &location.established {
        let back = mesh
            .locations
            .get(other)
            .is_some_and(|back| back.established.contains(name));
        if !back {
            diagnostics.push(Diagnostic::OneSided(name.clone(), other.clone()));
        }
    }
}

fn nodes(mesh: &Mesh, diagnostics: &mut Vec<Diagnostic>) {
    let mut seen: BTreeMap<&NodeName, &LocationName> = BTreeMap::new();
    for (name, location) in &mesh.locations {
        for (node, member) in location.members.iter() {
            if let Some(other) = seen.insert(node, name) {
                diagnostics.push(Diagnostic::NodeTwice(node.clone(), other.clone(), name.clone()));
            }
            if member.generation > mesh.generation {
                diagnostics.push(Diagnostic::FromTheFuture(
                    node.clone(),
                    member.generation,
                    mesh.generation,
                ));
            }
        }
    }
}

fn keys(mesh: &Mesh, diagnostics: &mut Vec<Diagnostic>) {
    let members = mesh
        .locations
        .values()
        .flat_map(|location| location.members.iter());
    let nodes = members.filter_map(|(node, member)| Some((member.public_key?, Claimant::Node(node.clone()))));
    let peers = mesh
        .peers
        .iter()
        .map(|(name, peer)| (peer.public_key, Claimant::Peer(name.clone())));
    let mut seen: BTreeMap<PublicKey, Claimant> = BTreeMap::new();
    for (key, owner) in nodes.chain(peers) {
        if let Some(other) = seen.insert(key, owner.clone())
            && other != owner
        {
            diagnostics.push(Diagnostic::KeyTwice(other, owner, key));
        }
    }
}

/// A network with its owner and that within which networks may nest.
struct Held {
    prefix: Prefix,
    owner: Claimant,
    within: Claimant,
    /// Of equal networks in one location only one may be a member's.
    of_member: bool,
    /// It is a member's for its pods. Another node may have borrowed single addresses of it.
    of_pods: bool,
}

fn held(mesh: &Mesh) -> Vec<Held> {
    let mut all = Vec::new();
    for (name, location) in &mesh.locations {
        let within = Claimant::Location(name.clone());
        let hold = |prefix: Prefix, owner: Claimant, of_member: bool, of_pods: bool| Held {
            prefix,
            owner,
            within: within.clone(),
            of_member,
            of_pods,
        };
        for (node, member) in location.members.iter() {
            let hosts = member
                .addresses
                .iter()
                .chain(&member.overlay)
                .map(|address| Prefix::host(*address));
            let owner = || Claimant::Node(node.clone());
            all.extend(hosts.map(|prefix| hold(prefix, owner(), true, false)));
            let pods = member.prefixes.iter();
            all.extend(pods.map(|prefix| hold(*prefix, owner(), true, true)));
        }
        all.extend(
            location
                .settings
                .cidrs
                .iter()
                .map(|cidr| hold(*cidr, within.clone(), false, false)),
        );
    }
    for (name, peer) in &mesh.peers {
        let owner = Claimant::Peer(name.clone());
        all.extend(peer.allowed_ips.iter().map(|prefix| Held {
            prefix: *prefix,
            owner: owner.clone(),
            within: owner.clone(),
            of_member: false,
            of_pods: false,
        }));
    }
    all.sort_by_key(|held| held.prefix);
    all
}

/// A network sorts right before what it contains, so the networks around the current one form a stack.
fn networks(mesh: &Mesh, diagnostics: &mut Vec<Diagnostic>) {
    let all = held(mesh);
    let mut around: Vec<&Held> = Vec::new();
    for inner in &all {
        while around
            .last()
            .is_some_and(|outer| !outer.prefix.covers(&inner.prefix))
        {
            around.pop();
        }
        let shared = |outer: &Held| {
            let twice = outer.prefix == inner.prefix && outer.of_member && inner.of_member;
            twice && outer.owner != inner.owner
        };
        let lends =
            |outer: &&&Held| outer.of_pods && outer.owner != inner.owner && outer.prefix != inner.prefix;
        let is_borrowed = inner.of_pods && inner.prefix.is_host();
        let lender = around.iter().find(lends).filter(|_| is_borrowed);
        let apart = |outer: &Held| {
            let is_of = |other: &Held| outer.within == other.within && outer.prefix != inner.prefix;
            outer.within != inner.within && !lender.is_some_and(|lender| is_of(lender))
        };
        let clash = around.iter().find(|outer| apart(outer) || shared(outer));
        diagnostics.extend(clash.map(|outer| {
            Diagnostic::Overlap(
                inner.owner.clone(),
                inner.prefix,
                outer.owner.clone(),
                outer.prefix,
            )
        }));
        around.push(inner);
    }
}

fn peers(mesh: &Mesh, diagnostics: &mut Vec<Diagnostic>) {
    for (name, peer) in &mesh.peers {
        match &peer.home {
            None => diagnostics.push(Diagnostic::Homeless(name.clone())),
            Some(home) if !peer.attachments.contains(home) => {
                diagnostics.push(Diagnostic::HomeNotAttached(name.clone(), home.clone()));
            }
            Some(_) => {}
        }
        let unknown = peer
            .attachments
            .iter()
            .filter(|at| !mesh.locations.contains_key(*at));
        diagnostics.extend(unknown.map(|at| Diagnostic::AttachedNowhere(name.clone(), at.clone())));
    }
}
