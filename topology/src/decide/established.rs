//! Which pairs of locations have their traffic in the tunnel or nowhere.

use std::collections::{BTreeMap, BTreeSet};

use crate::{Facts, Location, LocationName, Mesh, MeshMode};

/// A pair becomes established when both sides have an active leader that reports the link to the other as up; it stays
/// so also while one of them has no node; what ends it is that a person removes all there is of one that has none (its
/// Location and its head). With [`tunnel_only`](crate::ClusterFacts::tunnel_only) every pair is established from the start. A
/// location whose nodes all lead themselves is established with itself when each of at
/// least two leaders reports its links inside the location as up.
///
/// A location whose nodes all come from elsewhere (one that is split off, or renamed) is established with what all of
/// them were established with: their traffic never returns to plaintext.
pub(super) fn establish(facts: &Facts, previous: &Mesh, mesh: &mut Mesh) {
    let stayed = |(name, location): (&LocationName, &Location)| {
        let before = previous.locations.get(name).map(|before| &before.established);
        let nodes = location.settings.mode == MeshMode::Nodes;
        let still = |other: &&LocationName| mesh.locations.contains_key(*other) && (*other != name || nodes);
        before.into_iter().flatten().filter(still).cloned().collect()
    };
    let established: Vec<BTreeSet<LocationName>> = mesh.locations.iter().map(stayed).collect();
    for (location, established) in mesh.locations.values_mut().zip(established) {
        location.established = established;
    }
    for (name, other) in newly(facts, previous, mesh) {
        for (name, other) in [(&name, &other), (&other, &name)] {
            if let Some(location) = mesh.locations.get_mut(name) {
                location.established.insert(other.clone());
            }
        }
    }
}

/// Returns the pairs that are established from now on.
fn newly(facts: &Facts, previous: &Mesh, mesh: &Mesh) -> Vec<(LocationName, LocationName)> {
    let reports: BTreeMap<_, _> = mesh
        .locations
        .iter()
        .map(|(name, location)| (name, reported(facts, location)))
        .collect();
    let mut pairs = Vec::new();
    for (name, location) in &mesh.locations {
        let one_sided = location.established.iter().filter(|other| {
            let back = mesh.locations.get(*other);
            back.is_some_and(|back| !back.established.contains(name))
        });
        let proven = reports
            .get(name)
            .into_iter()
            .flatten()
            .copied()
            .filter(|other| *other > name && reports.get(*other).is_some_and(|back| back.contains(name)));
        let inherited = inherited(previous, name, location).into_iter();
        let inherited = inherited.filter(|other| *other != name && mesh.locations.contains_key(*other));
        let own = whole(facts, name, location).then_some(name);
        let nodes = location.settings.mode == MeshMode::Nodes;
        let every = facts
            .cluster
            .tunnel_only
            .then_some(&mesh.locations)
            .into_iter()
            .flatten();
        let every = every
            .map(|(other, _)| other)
            .filter(|other| *other > name || (*other == name && nodes));
        let every = every.filter(|other| !location.established.contains(*other));
        let all = one_sided.chain(proven).chain(inherited).chain(own).chain(every);
        pairs.extend(all.map(|other| (name.clone(), other.clone())));
    }
    pairs
}

/// Returns what every node of a location that had none before was established with.
fn inherited<'a>(previous: &'a Mesh, name: &LocationName, location: &Location) -> BTreeSet<&'a LocationName> {
    if previous
        .locations
        .get(name)
        .is_some_and(|before| !before.members.is_empty())
    {
        return BTreeSet::new();
    }
    let came_from = |node| {
        previous
            .locations
            .values()
            .find(|before| before.members.contains_key(node))
    };
    let had = |node| {
        came_from(node)
            .map(|before| before.established.iter().collect())
            .unwrap_or_default()
    };
    let all = location.members.keys().map(had);
    let common = all.reduce(|common: BTreeSet<_>, had| common.intersection(&had).copied().collect());
    common.unwrap_or_default()
}

/// Returns the locations to which an active leader reports the link as up, and with which nothing is established yet.
fn reported<'a>(facts: &'a Facts, location: &Location) -> BTreeSet<&'a LocationName> {
    let leaders = location.active().filter_map(|leader| facts.nodes.get(leader));
    let up = leaders.flat_map(|leader| leader.links.iter().filter(|(_, up)| **up));
    up.map(|(other, _)| other)
        .filter(|other| !location.established.contains(*other))
        .collect()
}

fn whole(facts: &Facts, name: &LocationName, location: &Location) -> bool {
    let up = |leader| {
        facts
            .nodes
            .get(leader)
            .is_some_and(|leader| leader.links.get(name) == Some(&true))
    };
    location.settings.mode == MeshMode::Nodes && location.active().count() > 1 && location.active().all(up)
}
