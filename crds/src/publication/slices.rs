//! From the mesh to what is published.

use std::collections::{BTreeMap, BTreeSet};

use spanwire_topology::{Location, LocationName, Member, Mesh, MeshMode, NodeName, Peer, Settings};

use super::{MEMBERS_PER_SLICE, texts};
use crate::{AcceptedPeer, Head, LocationSliceSpec, Mode, SliceLeader, SliceMember, SliceSettings};

/// What is to be published for `mesh`, by the names of the LocationSlices, given what `published` is. What did not
/// change equals what is published.
#[must_use]
pub fn slices(
    mesh: &Mesh,
    published: &BTreeMap<&str, &LocationSliceSpec>,
) -> BTreeMap<String, LocationSliceSpec> {
    let mut seats: BTreeMap<&str, Seats<'_>> = BTreeMap::new();
    for (name, slice) in published {
        let seats = seats.entry(slice.location.as_str()).or_default();
        if slice.head.is_none() {
            seats.push((
                name,
                slice.members.iter().map(|member| member.node.as_str()).collect(),
            ));
        }
    }
    let mut wanted = BTreeMap::new();
    for (name, location) in &mesh.locations {
        let head_name = format!("{name}-head");
        let head = head(mesh, location, published.get(head_name.as_str()).copied());
        wanted.insert(head_name, slice(name, Some(head), Vec::new()));
        let seats = seats.remove(name.as_str()).unwrap_or_default();
        for (slice_name, members) in seat(name, location, seats) {
            let members = members.into_iter().map(|(node, entry)| member(node, entry));
            wanted.insert(slice_name, slice(name, None, members.collect()));
        }
    }
    wanted
}

/// What of a Peer stands, for its status.
#[must_use]
pub fn accepted(peer: &Peer) -> AcceptedPeer {
    AcceptedPeer {
        public_key: peer.public_key.to_string(),
        allowed_ips: texts(&peer.allowed_ips),
        endpoint: peer.endpoint.as_ref().map(ToString::to_string),
        persistent_keepalive: peer.keepalive.map(|seconds| seconds.0),
        home: peer.home.as_ref().map(ToString::to_string),
        attachments: texts(&peer.attachments),
    }
}

/// The member slices of a location as published: name and nodes.
type Seats<'a> = Vec<(&'a str, Vec<&'a str>)>;

/// Which member sits in which slice: where it was, else in the first one with room, one that changes anyway before
/// others, else in a new one.
fn seat<'a>(
    name: &LocationName,
    location: &'a Location,
    published: Seats<'_>,
) -> BTreeMap<String, BTreeMap<&'a NodeName, &'a Member>> {
    let mut unseated: BTreeMap<&str, (&NodeName, &Member)> = location
        .members
        .iter()
        .map(|(node, member)| (node.as_str(), (node, member)))
        .collect();
    let mut seated: BTreeMap<String, BTreeMap<&NodeName, &Member>> = BTreeMap::new();
    let mut changed: BTreeSet<String> = BTreeSet::new();
    for (slice, nodes) in published {
        let stay: BTreeMap<_, _> = nodes
            .iter()
            .take(MEMBERS_PER_SLICE)
            .filter_map(|node| unseated.remove(node))
            .collect();
        if stay.len() < nodes.len() {
            changed.insert(slice.to_owned());
        }
        if !stay.is_empty() {
            seated.insert(slice.to_owned(), stay);
        }
    }
    for (node, member) in unseated.into_values() {
        let room =
            |seated: &BTreeMap<String, BTreeMap<_, _>>, changed: &BTreeSet<String>, only_changed: bool| {
                seated
                    .iter()
                    .find(|(slice, members)| {
                        members.len() < MEMBERS_PER_SLICE && (!only_changed || changed.contains(*slice))
                    })
                    .map(|(slice, _)| slice.clone())
            };
        let slice = room(&seated, &changed, true)
            .or_else(|| room(&seated, &changed, false))
            .unwrap_or_else(|| free_name(name, &seated));
        changed.insert(slice.clone());
        seated.entry(slice).or_default().insert(node, member);
    }
    seated
}

/// The first free of `NAME-m1`, `NAME-m2`, …. No two locations share such a name, nor that of a head, because the part
/// behind the last dash tells which it is.
fn free_name<T>(location: &LocationName, seated: &BTreeMap<String, T>) -> String {
    (1usize..)
        .map(|number| format!("{location}-m{number}"))
        .find(|name| !seated.contains_key(name))
        .expect("there are more numbers than slices")
}

fn slice(location: &LocationName, head: Option<Head>, members: Vec<SliceMember>) -> LocationSliceSpec {
    LocationSliceSpec {
        location: location.to_string(),
        head,
        members,
    }
}

fn head(mesh: &Mesh, location: &Location, published: Option<&LocationSliceSpec>) -> Head {
    let leader = |leader: &spanwire_topology::Leader| SliceLeader {
        node: leader.node.to_string(),
        role: leader.role.into(),
    };
    let mut head = Head {
        mesh_generation: mesh.generation.0,
        leaders: location.leaders.iter().map(leader).collect(),
        settings: settings(&location.settings),
        established: texts(&location.established),
    };
    if let Some(old) = published.and_then(|slice| slice.head.as_ref()) {
        let fresh = std::mem::replace(&mut head.mesh_generation, old.mesh_generation);
        if head != *old {
            head.mesh_generation = fresh;
        }
    }
    head
}

fn settings(settings: &Settings) -> SliceSettings {
    SliceSettings {
        mesh: match settings.mode {
            MeshMode::Leaders => Mode::Leaders,
            MeshMode::Nodes => Mode::Nodes,
        },
        endpoint: settings.endpoint.as_ref().map(ToString::to_string),
        cidrs: texts(&settings.cidrs),
        persistent_keepalive: settings.keepalive.map(|seconds| seconds.0),
    }
}

fn member(node: &NodeName, member: &Member) -> SliceMember {
    SliceMember {
        node: node.to_string(),
        generation: member.generation.0,
        addresses: texts(&member.addresses),
        prefixes: texts(&member.prefixes),
        overlay: texts(&member.overlay),
        hop_addresses: texts(&member.hop),
        public_key: member.public_key.as_ref().map(ToString::to_string),
        endpoints: texts(&member.endpoints),
        listen_port: member.listen_port,
        persistent_keepalive: member.keepalive.map(|seconds| seconds.0),
    }
}
