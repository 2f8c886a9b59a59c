//! What cannot be both in the mesh and on this machine.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use spanwire_host::LinkName;
use spanwire_topology::{Mesh, PeerName, Prefix};

/// The addresses of the devices of this machine, each with the length of the network that it is in.
pub type Addresses = BTreeMap<LinkName, BTreeSet<(IpAddr, u8)>>;

/// A network of the mesh in which this machine has an address: as a Peer it would not reach its own network any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clash {
    /// The network.
    pub prefix: Prefix,
    /// The device.
    pub device: LinkName,
    /// The address that it has there.
    pub address: IpAddr,
}

/// Returns the networks in which this machine has an address.
pub fn clashes<'a>(prefixes: impl IntoIterator<Item = &'a Prefix>, addresses: &Addresses) -> Vec<Clash> {
    let of_prefix = |prefix: &Prefix| {
        let mut inside = pairs(addresses).filter(|(_, (address, _))| prefix.contains(*address));
        let (device, (address, _)) = inside.next()?;
        Some(Clash {
            prefix: *prefix,
            device: device.clone(),
            address,
        })
    };
    prefixes.into_iter().filter_map(of_prefix).collect()
}

impl Clash {
    /// Returns it as text.
    #[must_use]
    pub fn text(&self, mesh: &Mesh) -> String {
        let Self {
            prefix,
            device,
            address,
        } = self;
        let whose = owner(mesh, prefix).unwrap_or_else(|| "--service-cidr".to_owned());
        format!("{prefix} ({whose}) is a network of the mesh in which this machine has {address} at {device}")
    }
}

/// Returns all networks that the mesh has apart from this Peer.
#[must_use]
pub fn of_others(mesh: &Mesh, name: &PeerName) -> Vec<Prefix> {
    let others = networks(mesh, Some(name)).into_iter();
    others.map(|(prefix, _)| prefix).collect()
}

/// Returns why this machine cannot have these addresses as a Peer, where it cannot.
///
/// # Errors
/// The first that it cannot have, with what it overlaps and what to do.
pub fn check(allowed: &[Prefix], mesh: &Mesh, name: &PeerName, addresses: &Addresses) -> Result<(), String> {
    for wanted in allowed {
        if !wanted.is_host() {
            return Err(format!(
                "--allowed-ip {wanted} is a network, and this machine joins with single addresses; a router with a network \
                 behind it joins by `kubectl spanwire peer add`"
            ));
        }
        let others = networks(mesh, Some(name));
        if let Some((prefix, whose)) = others.into_iter().find(|(prefix, _)| prefix.overlaps(wanted)) {
            return Err(format!(
                "--allowed-ip {wanted} is in {prefix} ({whose}) of the mesh; take an address that is in none of its networks, or \
                 leave --allowed-ip away"
            ));
        }
        for (device, (address, length)) in pairs(addresses) {
            let network = Prefix::new(address, length).ok();
            if network.is_some_and(|network| network.overlaps(wanted)) {
                return Err(format!(
                    "--allowed-ip {wanted} is in the network {address}/{length} of this machine's device {device}; take an address \
                     that is in none of its networks"
                ));
            }
        }
    }
    Ok(())
}

/// Returns the networks of the devices.
pub fn machine_networks(addresses: &Addresses) -> Vec<Prefix> {
    pairs(addresses)
        .filter_map(|(_, (address, length))| Prefix::new(address, length).ok())
        .collect()
}

fn pairs(addresses: &Addresses) -> impl Iterator<Item = (&LinkName, (IpAddr, u8))> {
    let of_device = |(device, pairs): (_, &BTreeSet<(IpAddr, u8)>)| {
        let pairs: Vec<_> = pairs.iter().copied().collect();
        pairs.into_iter().map(move |pair| (device, pair))
    };
    addresses.iter().flat_map(of_device)
}

fn owner(mesh: &Mesh, prefix: &Prefix) -> Option<String> {
    let mut all = networks(mesh, None).into_iter();
    all.find(|(other, _)| other == prefix).map(|(_, whose)| whose)
}

/// Returns all networks of the mesh but those of one Peer, each with whose it is.
fn networks(mesh: &Mesh, but: Option<&PeerName>) -> Vec<(Prefix, String)> {
    let mut all = Vec::new();
    for (location, it) in &mesh.locations {
        let cidrs = it.settings.cidrs.iter();
        all.extend(cidrs.map(|cidr| (*cidr, format!("a network of the location {location}"))));
        for (node, member) in it.members.iter() {
            let hosts = member.addresses.iter().chain(&member.overlay);
            let addresses = hosts.map(|address| (Prefix::host(*address), format!("the node {node}")));
            all.extend(addresses);
            all.extend(
                member
                    .prefixes
                    .iter()
                    .map(|prefix| (*prefix, format!("pods of the node {node}"))),
            );
        }
    }
    for (other, peer) in mesh.peers.iter().filter(|(other, _)| Some(*other) != but) {
        let allowed = peer.allowed_ips.iter();
        all.extend(allowed.map(|prefix| (*prefix, format!("the Peer {other}"))));
    }
    all
}

#[cfg(test)]
mod tests {
    use spanwire_topology::{decide, scenario::World};

    use super::*;

    fn mesh() -> Mesh {
        let mut world = World::default();
        for line in [
            "overlay 10.4.0.0/16",
            "node a1 region=a addresses=192.168.1.11 pods=10.244.1.0/24 key=1",
            "peer p allowed=10.99.0.1 key=9 location=a",
        ] {
            world.line(line).unwrap();
        }
        decide(&world.facts, &Mesh::default()).mesh
    }

    fn addresses() -> Addresses {
        let of = |address: &str, length| (address.parse().unwrap(), length);
        [
            (LinkName::new("eth0").unwrap(), [of("172.20.0.5", 24)].into()),
            (LinkName::new("lo").unwrap(), [].into()),
        ]
        .into()
    }

    /// Why the address is refused.
    fn refused(allowed: &str, name: &str) -> Option<String> {
        let (allowed, name) = (allowed.parse().unwrap(), name.parse().unwrap());
        check(&[allowed], &mesh(), &name, &addresses()).err()
    }

    #[test]
    fn an_address_that_is_in_the_mesh_or_on_this_machine_is_refused_with_both_names() {
        assert_eq!(refused("10.99.0.2/32", "laptop"), None);
        assert_eq!(refused("fd99::2/128", "laptop"), None);
        for (allowed, named) in [
            ("10.244.1.9/32", "10.244.1.0/24 (pods of the node a1)"),
            ("192.168.1.11/32", "192.168.1.11/32 (the node a1)"),
            ("10.99.0.1/32", "10.99.0.1/32 (the Peer p)"),
            ("172.20.0.9/32", "172.20.0.5/24 of this machine's device eth0"),
            ("10.99.1.0/24", "is a network"),
        ] {
            let said = refused(allowed, "laptop").unwrap();
            assert!(said.contains(allowed) && said.contains(named), "{said}");
        }
        assert_eq!(refused("10.99.0.1/32", "p"), None, "its own");
    }

    #[test]
    fn a_network_of_the_mesh_that_has_an_address_of_this_machine_clashes_and_one_beside_it_does_not() {
        let prefixes: Vec<Prefix> = ["172.20.0.0/16", "172.20.0.7/32", "10.244.1.0/24"]
            .map(|text| text.parse().unwrap())
            .into();
        let found = clashes(&prefixes, &addresses());
        assert_eq!(
            found,
            [Clash {
                prefix: prefixes[0],
                device: LinkName::new("eth0").unwrap(),
                address: [172, 20, 0, 5].into(),
            }]
        );
        assert_eq!(
            found[0].text(&mesh()),
            "172.20.0.0/16 (--service-cidr) is a network of the mesh in which this machine has 172.20.0.5 at eth0"
        );
    }

    #[test]
    fn the_networks_of_the_machine_are_those_of_all_devices() {
        assert_eq!(machine_networks(&addresses()), ["172.20.0.0/24".parse().unwrap()]);
    }
}
