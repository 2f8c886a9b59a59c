//! The mesh as the operator would publish it.

use std::{collections::BTreeSet, net::SocketAddr};

use spanwire_crds::{LocationSlice, MeshNode, MeshNodeSpec, publication::slices};
use spanwire_testbed::{Family, NODES, hop, lan, pods};
use spanwire_topology::{
    Generation, Leader, LeaderRole, Location, LocationName, Member, Mesh, NodeName, PublicKey,
};

/// The mesh of these keys, one per node, the first node of each location leading it.
pub(crate) fn mesh(keys: &[PublicKey], established: bool) -> Mesh {
    let mut mesh = Mesh {
        generation: Generation(1),
        ..Mesh::default()
    };
    for ((location, node, number), key) in NODES.into_iter().zip(keys) {
        let location: LocationName = location.parse().unwrap();
        let node: NodeName = node.parse().unwrap();
        let of_it = mesh
            .locations
            .entry(location.clone())
            .or_insert_with(|| Location {
                leaders: vec![Leader {
                    node: node.clone(),
                    role: LeaderRole::Active,
                }],
                ..Location::default()
            });
        if established {
            let others = ["a", "b"]
                .into_iter()
                .map(|name| name.parse::<LocationName>().unwrap());
            of_it.established = others.filter(|other| *other != location).collect::<BTreeSet<_>>();
        }
        of_it.members_mut().insert(node, member(number, *key));
    }
    mesh
}

/// The same, with another leader of a location.
pub(crate) fn led_by(mut mesh: Mesh, location: &str, node: &str) -> Mesh {
    let location: LocationName = location.parse().unwrap();
    let of_it = mesh.locations.get_mut(&location).unwrap();
    of_it.leaders[0].node = node.parse().unwrap();
    mesh
}

/// The same, with these two leaders of a location, the first of them active.
pub(crate) fn led_in_order(mut mesh: Mesh, location: &str, order: [&str; 2]) -> Mesh {
    let of_it = mesh.locations.get_mut(&location.parse().unwrap()).unwrap();
    let roles = [LeaderRole::Active, LeaderRole::Standby];
    let leader = |(node, role): (&str, LeaderRole)| Leader {
        node: node.parse().unwrap(),
        role,
    };
    of_it.leaders = order.into_iter().zip(roles).map(leader).collect();
    mesh
}

/// The same where no node has an address on a device of the CNI.
pub(crate) fn without_hops(mut mesh: Mesh) -> Mesh {
    for location in mesh.locations.values_mut() {
        let members = location.members_mut().values_mut();
        members.for_each(|member| member.hop.clear());
    }
    mesh
}

/// Has all nodes be reached by IPv6 from outside.
pub(crate) fn reach_by_ipv6(mesh: &mut Mesh) {
    for (location, node, number) in NODES {
        let location: LocationName = location.parse().unwrap();
        let node: NodeName = node.parse().unwrap();
        let members = mesh.locations.get_mut(&location).unwrap().members_mut();
        let endpoint = SocketAddr::new(lan(number, Family::V6), 51_820);
        members.get_mut(&node).unwrap().endpoints = vec![endpoint.to_string().parse().unwrap()];
    }
}

/// Gives all nodes and pods the IPv6 addresses, too, that they have.
pub(crate) fn with_ipv6(mesh: &mut Mesh) {
    for (location, node, number) in NODES {
        let location: LocationName = location.parse().unwrap();
        let node: NodeName = node.parse().unwrap();
        let members = mesh.locations.get_mut(&location).unwrap().members_mut();
        let member = members.get_mut(&node).unwrap();
        let (network, length) = pods(number, Family::V6);
        member.addresses.insert(lan(number, Family::V6));
        member
            .prefixes
            .insert(format!("{network}/{length}").parse().unwrap());
        member
            .overlay
            .insert(format!("fd00:4::{number}").parse().unwrap());
        member.hop.insert(hop(number, Family::V6));
    }
}

fn member(number: u8, key: PublicKey) -> Member {
    let lan = lan(number, Family::V4);
    let (network, length) = pods(number, Family::V4);
    Member {
        generation: Generation(1),
        addresses: [lan].into(),
        prefixes: [format!("{network}/{length}").parse().unwrap()].into(),
        overlay: [format!("10.4.0.{number}").parse().unwrap()].into(),
        hop: [hop(number, Family::V4)].into(),
        mtu: None,
        public_key: Some(key),
        endpoints: vec![format!("{lan}:51820").parse().unwrap()],
        listen_port: 51_820,
        keepalive: None,
    }
}

/// The documents for the file source; these nodes are to retire.
pub(crate) fn documents(mesh: &Mesh, retiring: &[&str]) -> String {
    let slices = slices(mesh, &Default::default()).into_iter();
    let slices = slices.map(|(name, spec)| serde_json::to_string(&LocationSlice::new(&name, spec)).unwrap());
    let node = |(location, name, _): (&str, &str, u8)| {
        let spec = MeshNodeSpec {
            location: Some(location.to_owned()),
            retire: retiring.contains(&name),
            ..MeshNodeSpec::default()
        };
        serde_json::to_string(&MeshNode::new(name, spec)).unwrap()
    };
    slices.chain(NODES.map(node)).collect::<Vec<_>>().join("\n---\n")
}
