//! From what is published to the mesh.

use std::collections::BTreeMap;

use spanwire_topology::{Generation, Location, LocationName, Mesh, NodeName, PeerName};

use crate::{AcceptedPeer, Head, LocationSliceSpec, SliceMember};

/// Puts the mesh together from LocationSlices and the accepted parts of Peers, each with its name.
///
/// Total on any mixture and in any order: a node seen twice is taken from where its generation is higher, likewise a
/// head; what cannot be read is left out; a location of which only members or only the head was seen has just these.
#[must_use]
pub fn assemble<'a>(
    slices: impl IntoIterator<Item = (&'a str, &'a LocationSliceSpec)>,
    peers: impl IntoIterator<Item = (&'a str, &'a AcceptedPeer)>,
) -> Mesh {
    let slices: BTreeMap<&str, &LocationSliceSpec> = slices.into_iter().collect();
    let mut mesh = Mesh::default();
    let mut heads: BTreeMap<LocationName, &Head> = BTreeMap::new();
    let mut members: BTreeMap<NodeName, (LocationName, &SliceMember)> = BTreeMap::new();
    for slice in slices.values() {
        let Ok(location) = slice.location.parse::<LocationName>() else {
            continue;
        };
        mesh.locations.entry(location.clone()).or_default();
        for member in &slice.members {
            let Ok(node) = member.node.parse::<NodeName>() else {
                continue;
            };
            let later = |(_, seen): &(LocationName, &SliceMember)| seen.generation < member.generation;
            if members.get(&node).is_none_or(later) {
                members.insert(node, (location.clone(), member));
            }
        }
        if let Some(head) = &slice.head {
            let later = |seen: &&Head| seen.mesh_generation < head.mesh_generation;
            if heads.get(&location).is_none_or(later) {
                heads.insert(location, head);
            }
        }
    }
    let in_heads = heads.values().map(|head| head.mesh_generation);
    let in_members = members.values().map(|(_, member)| member.generation);
    mesh.generation = Generation(in_heads.chain(in_members).max().unwrap_or_default());
    for (location, head) in heads {
        mesh.locations.insert(location, Location::from(head));
    }
    for (location, entry) in members.into_values() {
        if let Ok((node, member)) = entry.try_into() {
            let location = mesh.locations.entry(location).or_default();
            location.members_mut().insert(node, member);
        }
    }
    let read = |(name, accepted): (&str, &AcceptedPeer)| {
        Some((name.parse::<PeerName>().ok()?, accepted.try_into().ok()?))
    };
    mesh.peers = peers.into_iter().filter_map(read).collect();
    mesh
}
