//! From what is published to the mesh.

use std::collections::BTreeMap;

use spanwire_topology::{
    Generation, Keepalive, Leader, Location, LocationName, Member, Mesh, MeshMode, NodeName, Peer, PeerName,
    Settings,
};

use super::{value, values};
use crate::{AcceptedPeer, Head, LocationSliceSpec, Mode, SliceMember};

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
        enter_head(mesh.locations.entry(location).or_default(), head);
    }
    for (node, (location, entry)) in members {
        let location = mesh.locations.entry(location).or_default();
        location.members_mut().insert(node, member(entry));
    }
    mesh.peers = peers
        .into_iter()
        .filter_map(|(name, accepted)| Some((name.parse::<PeerName>().ok()?, peer(accepted)?)))
        .collect();
    mesh
}

fn enter_head(location: &mut Location, head: &Head) {
    let leader = |leader: &crate::SliceLeader| {
        Some(Leader {
            node: value(&leader.node)?,
            role: leader.role.into(),
        })
    };
    location.leaders = head.leaders.iter().filter_map(leader).collect();
    location.established = values(&head.established);
    location.settings = Settings {
        mode: match head.settings.mesh {
            Mode::Leaders => MeshMode::Leaders,
            Mode::Nodes => MeshMode::Nodes,
        },
        endpoint: head.settings.endpoint.as_ref().and_then(|text| value(text)),
        cidrs: values(&head.settings.cidrs),
        keepalive: keepalive(head.settings.persistent_keepalive),
    };
}

fn member(entry: &SliceMember) -> Member {
    Member {
        generation: Generation(entry.generation),
        addresses: values(&entry.addresses),
        prefixes: values(&entry.prefixes),
        overlay: values(&entry.overlay),
        hop: values(&entry.hop_addresses),
        public_key: entry.public_key.as_ref().and_then(|text| value(text)),
        endpoints: values(&entry.endpoints),
        listen_port: entry.listen_port,
        keepalive: keepalive(entry.persistent_keepalive),
    }
}

fn peer(accepted: &AcceptedPeer) -> Option<Peer> {
    Some(Peer {
        public_key: value(&accepted.public_key)?,
        allowed_ips: values(&accepted.allowed_ips),
        endpoint: accepted.endpoint.as_ref().and_then(|text| value(text)),
        keepalive: keepalive(accepted.persistent_keepalive),
        home: accepted.home.as_ref().and_then(|text| value(text)),
        attachments: values(&accepted.attachments),
    })
}

fn keepalive(seconds: Option<u16>) -> Option<Keepalive> {
    seconds.filter(|seconds| *seconds > 0).map(Keepalive)
}
