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
    let mut pairs: BTreeSet<(LocationName, LocationName)> = BTreeSet::new();
    for (name, location) in &previous.locations {
        for other in &location.established {
            if mesh.locations.contains_key(name) && mesh.locations.contains_key(other) {
                pairs.insert((name.clone(), other.clone()));
                pairs.insert((other.clone(), name.clone()));
            }
        }
    }
    for (name, location) in &mesh.locations {
        for other in inherited(previous, name, location) {
            if other != name && mesh.locations.contains_key(other) {
                pairs.insert((name.clone(), other.clone()));
                pairs.insert((other.clone(), name.clone()));
            }
        }
    }
    let reports: BTreeMap<_, _> = mesh
        .locations
        .iter()
        .map(|(name, location)| (name, reported(facts, location)))
        .collect();
    for (name, location) in &mesh.locations {
        for other in reports.get(name).into_iter().flatten() {
            let back = reports.get(other);
            if *other != name && back.is_some_and(|back| back.contains(name)) {
                pairs.insert((name.clone(), (*other).clone()));
            }
        }
        if whole(facts, name, location) {
            pairs.insert((name.clone(), name.clone()));
        }
    }
    for (name, other) in pairs {
        if let Some(location) = mesh.locations.get_mut(&name)
            && (name != other || location.settings.mode == MeshMode::Nodes)
        {
            location.established.insert(other);
        }
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
    all.reduce(|common: BTreeSet<_>, had| common.intersection(&had).copied().collect())
        .unwrap_or_default()
}

/// The locations to which an active leader reports the link as up.
fn reported<'a>(facts: &'a Facts, location: &Location) -> BTreeSet<&'a LocationName> {
    let leaders = location.active().filter_map(|leader| facts.nodes.get(leader));
    let up = leaders.flat_map(|leader| leader.links.iter().filter(|(_, up)| **up));
    up.map(|(other, _)| other).collect()
}

fn whole(facts: &Facts, name: &LocationName, location: &Location) -> bool {
    let mut leaders = location
        .active()
        .filter_map(|leader| facts.nodes.get(leader))
        .peekable();
    location.settings.mode == MeshMode::Nodes
        && location.active().count() > 1
        && leaders.peek().is_some()
        && leaders.all(|leader| leader.links.get(name) == Some(&true))
}
