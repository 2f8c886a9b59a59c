//! Which pairs of locations have their traffic in the tunnel or nowhere.

use std::collections::{BTreeMap, BTreeSet};

use crate::{Facts, Location, LocationName, Mesh, MeshMode};

/// A pair becomes established when both sides have an active leader that reports the link to the other as up; it stays
/// so while both locations exist. A location whose nodes all lead themselves is established with itself when each of at
/// least two leaders reports its links inside the location as up.
///
/// A location whose nodes all come from elsewhere (one that is split off, or renamed) is established with what all of
/// them were established with: their traffic never returns to plaintext.
pub(super) fn establish(facts: &Facts, previous: &Mesh, mesh: &mut Mesh) {
    let mut established: BTreeMap<&LocationName, BTreeSet<&LocationName>> = mesh
        .locations
        .keys()
        .map(|name| (name, BTreeSet::new()))
        .collect();
    let mut pair = |a: &LocationName, b: &LocationName| {
        let known = |name| mesh.locations.get_key_value(name).map(|(name, _)| name);
        if let (Some(a), Some(b)) = (known(a), known(b)) {
            established.entry(a).or_default().insert(b);
            established.entry(b).or_default().insert(a);
        }
    };
    for (name, location) in &previous.locations {
        for other in &location.established {
            pair(name, other);
        }
    }
    let reports: BTreeMap<_, _> = mesh
        .locations
        .iter()
        .map(|(name, location)| (name, reported(facts, location)))
        .collect();
    for (name, location) in &mesh.locations {
        for other in inherited(previous, name, location) {
            pair(name, other);
        }
        for other in reports.get(name).into_iter().flatten() {
            if other > &name && reports.get(other).is_some_and(|back| back.contains(name)) {
                pair(name, other);
            }
        }
        if whole(facts, name, location) {
            pair(name, name);
        }
    }
    let of = |(name, mut others): (&LocationName, BTreeSet<&LocationName>)| {
        if mesh
            .locations
            .get(name)
            .is_none_or(|location| location.settings.mode != MeshMode::Nodes)
        {
            others.remove(name);
        }
        others.into_iter().cloned().collect()
    };
    let established: Vec<BTreeSet<LocationName>> = established.into_iter().map(of).collect();
    for (location, established) in mesh.locations.values_mut().zip(established) {
        location.established = established;
    }
}

/// What every node of a location that had none before was established with.
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
    let others = common
        .unwrap_or_default()
        .into_iter()
        .filter(|other| *other != name);
    others.collect()
}

/// The locations to which an active leader reports the link as up.
fn reported<'a>(facts: &'a Facts, location: &Location) -> BTreeSet<&'a LocationName> {
    let leaders = location.active().filter_map(|leader| facts.nodes.get(leader));
    let up = leaders.flat_map(|leader| leader.links.iter().filter(|(_, up)| **up));
    up.map(|(other, _)| other).collect()
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
