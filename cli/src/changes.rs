//! What differs between two meshes, field by field.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use spanwire_topology::{Location, LocationName, Member, Mesh, MeshMode, NodeName, Peer};

use crate::table::joined;

/// A field that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// The object, like `node a1`.
    pub object: String,
    /// The field.
    pub field: &'static str,
    /// What it is now; a dash: nothing.
    pub now: String,
    /// What it would be; a dash: nothing.
    pub planned: String,
}

/// The fields of an object as text; empty where there is no such object.
type Fields = Vec<(&'static str, String)>;

/// Returns what differs, by locations, nodes and Peers.
#[must_use]
pub fn changes(now: &Mesh, planned: &Mesh) -> Vec<Change> {
    let mut changes = Vec::new();
    let locations = names(now.locations.keys(), planned.locations.keys());
    for name in locations {
        let fields = |mesh: &Mesh| mesh.locations.get(name).map(of_location).unwrap_or_default();
        compare(
            &format!("location {name}"),
            fields(now),
            fields(planned),
            &mut changes,
        );
    }
    let (before, after) = (members(now), members(planned));
    for name in names(before.keys().copied(), after.keys().copied()) {
        let fields = |of: &BTreeMap<_, _>| of.get(name).map(|found| of_member(found)).unwrap_or_default();
        compare(
            &format!("node {name}"),
            fields(&before),
            fields(&after),
            &mut changes,
        );
    }
    for name in names(now.peers.keys(), planned.peers.keys()) {
        let fields = |mesh: &Mesh| mesh.peers.get(name).map(of_peer).unwrap_or_default();
        compare(
            &format!("peer {name}"),
            fields(now),
            fields(planned),
            &mut changes,
        );
    }
    changes
}

fn names<'a, N: Ord>(
    one: impl Iterator<Item = &'a N>,
    other: impl Iterator<Item = &'a N>,
) -> BTreeSet<&'a N> {
    one.chain(other).collect()
}

fn members(mesh: &Mesh) -> BTreeMap<&NodeName, (&LocationName, &Member)> {
    let locations = mesh.locations.iter();
    let members = locations.flat_map(|(name, location)| {
        let members = location.members.iter();
        members.map(move |(node, member)| (node, (name, member)))
    });
    members.collect()
}

fn compare(object: &str, now: Fields, planned: Fields, changes: &mut Vec<Change>) {
    if now == planned {
        return;
    }
    let mut now: BTreeMap<&'static str, String> = now.into_iter().collect();
    let fields: Vec<&'static str> = planned.iter().map(|(field, _)| *field).collect();
    let mut change = |field, before: String, after: String| {
        if before != after {
            changes.push(Change {
                object: object.to_owned(),
                field,
                now: before,
                planned: after,
            });
        }
    };
    let none = || "-".to_owned();
    for (field, after) in planned {
        change(field, now.remove(field).unwrap_or_else(none), after);
    }
    // Of an object that goes no field is planned.
    for (field, before) in now {
        if !fields.contains(&field) {
            change(field, before, none());
        }
    }
}

fn of_location(location: &Location) -> Fields {
    let leaders = location
        .leaders
        .iter()
        .map(|leader| format!("{} ({})", leader.node, leader.role));
    let settings = &location.settings;
    let mode = match settings.mode {
        MeshMode::Leaders => "Leaders",
        MeshMode::Nodes => "Nodes",
    };
    vec![
        ("mesh", mode.to_owned()),
        ("leaders", joined(leaders)),
        ("endpoint", joined(&settings.endpoint)),
        ("cidrs", joined(&settings.cidrs)),
        (
            "keepalive",
            joined(settings.keepalive.map(|keepalive| keepalive.0)),
        ),
        ("established", joined(&location.established)),
    ]
}

fn of_member((location, member): &(&LocationName, &Member)) -> Fields {
    vec![
        ("location", location.to_string()),
        ("addresses", joined(&member.addresses)),
        ("pod networks", joined(&member.prefixes)),
        ("overlay", joined(&member.overlay)),
        ("endpoints", joined(&member.endpoints)),
        ("port", member.listen_port.to_string()),
        ("keepalive", joined(member.keepalive.map(|keepalive| keepalive.0))),
        ("key", joined(member.public_key)),
    ]
}

fn of_peer(peer: &Peer) -> Fields {
    vec![
        ("key", peer.public_key.to_string()),
        ("allowed IPs", joined(&peer.allowed_ips)),
        ("endpoint", joined(&peer.endpoint)),
        ("keepalive", joined(peer.keepalive.map(|keepalive| keepalive.0))),
        ("preshared key", joined(&peer.preshared)),
        ("home", joined(&peer.home)),
        ("attached to", joined(&peer.attachments)),
    ]
}

#[cfg(test)]
mod tests {
    use spanwire_topology::scenario::World;

    use super::*;

    fn mesh(lines: &[&str]) -> Mesh {
        let mut world = World::default();
        for line in lines {
            world.line(line).unwrap();
        }
        world.line("decide").unwrap();
        world.mesh
    }

    #[test]
    fn what_comes_goes_and_changes_is_named_field_by_field() {
        let a1 = "node a1 region=a addresses=192.168.1.1 key=1";
        let before = mesh(&[a1, "node b1 region=b addresses=192.168.2.1 key=2"]);
        let after = mesh(&[
            a1,
            "node a1 port=7",
            "peer p allowed=10.99.0.1 key=9 preshared=s/p",
        ]);
        let found = changes(&before, &after);
        let has = |object: &str, field: &str, now: &str, planned: &str| {
            let same = |change: &&Change| change.object == object && change.field == field;
            let change = found
                .iter()
                .find(same)
                .unwrap_or_else(|| panic!("{object} {field}: {found:?}"));
            assert_eq!((change.now.as_str(), change.planned.as_str()), (now, planned));
        };
        has("node a1", "port", "51820", "7");
        has("node b1", "location", "b", "-");
        has("location b", "mesh", "Leaders", "-");
        has("peer p", "allowed IPs", "-", "10.99.0.1/32");
        has("peer p", "preshared key", "-", "s/p");
        assert!(
            !found.iter().any(|change| change.object == "location a"),
            "{found:?}"
        );
        assert_eq!(changes(&before, &before), []);
    }
}
