//! Whether what goes between locations is encrypted where it leaves this node and enters it: what the agent counts by, and
//! what of the mesh each packet is.
//!
//! Looked at are the devices that lead to other machines and are neither Spanwire's nor the CNI's. On these a packet is:
//!
//! * WireGuard's, by the port and the first bytes of its datagram;
//! * *plaintext*, where its source and its destination are addresses of members of two locations; where every node leads itself,
//!   also of two nodes of one. What the CNI wraps is looked into (VXLAN, Geneve, IP in IP), what Spanwire's own VXLAN wraps, and what
//!   it is wrapped in is a packet too;
//! * nothing that counts.
//!
//! # What does not count
//!
//! Inside a location packets of the mesh are in the open by design, on their way between a node and a leader: what comes
//! here from the own location, what leaves here for it, and what another leader of it hands to this one or gets from it. That leader
//! is known by its link-layer address, or by that of its node around what the CNI wraps. Echo requests of the agents
//! go these ways, or in the tunnel, and so need no exception.
//!
//! Past the mesh go the API server's connections (the agent knows where it is), neighbour discovery, and ICMP errors about
//! datagrams of WireGuard or about the API server's connections: the nft chains `spoofed` and `strayed` let the same pass.
//!
//! Of a datagram in fragments the first one counts: the others have no ports by which to tell what they are.

mod filter;
mod packet;
mod places;
mod tally;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use spanwire_host::{Hop, HostFacts, LinkName, OtherLink, PeerStats, hops_to_leaders};
use spanwire_topology::{EndpointHost, LocationName, Member, Mesh, NodeName, Party, Plan, Prefix, PublicKey};

pub use filter::{Instruction, LENGTH, Part};
pub use packet::Mac;
use packet::{ICMP, ICMPV6, Ip, TCP, UDP, Udp};
use places::{Number, Places};
pub use tally::{Amount, Count, Tally};

/// How deep packets in packets are looked into.
const DEPTH: usize = 3;

/// What an agent counts by.
#[derive(Clone, Debug)]
pub struct Watch {
    /// The own location.
    pub location: LocationName,
    /// The devices to look at.
    pub devices: BTreeSet<LinkName>,
    /// How packets of the mesh get to the other leaders of the own location.
    pub hops: Vec<Hop>,
    places: Places,
    mine: Number,
    /// The UDP port of this node's WireGuard.
    port: Option<u16>,
    /// The ports of all members'.
    ports: BTreeSet<u16>,
    /// The UDP ports of VXLAN: those of CNIs, and that of the VXLAN between followers and leaders.
    vxlans: [u16; 3],
    /// Where the API server is reached past the mesh.
    exempt: BTreeSet<SocketAddr>,
    /// Where leaders of other locations are reached.
    endpoints: BTreeMap<SocketAddr, LocationName>,
    /// The nodes of the own place, also by what they have in other networks.
    neighbours: BTreeSet<IpAddr>,
}

/// A packet as it is on a device.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// Its bytes, as many as are looked at.
    pub bytes: &'a [u8],
    /// They begin with a header of Ethernet, not with that of IP.
    pub ethernet: bool,
    /// It leaves.
    pub outgoing: bool,
}

impl Frame<'_> {
    /// Returns how long the packet is by its own header, with which fewer bytes are handed up.
    fn length(&self) -> u64 {
        let packet = match packet::ethernet(self.bytes).filter(|_| self.ethernet) {
            Some(ethernet) => ethernet.packet,
            None => self.bytes,
        };
        let length = packet::length(packet).unwrap_or(self.bytes.len());
        u64::try_from(length).unwrap_or(u64::MAX)
    }
}

/// What a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind<'a> {
    /// A datagram of WireGuard, to or from a leader of this location, where that is known.
    Wireguard(Option<&'a LocationName>),
    /// It should be in WireGuard, and is not.
    Plaintext(Plaintext<'a>),
    /// It is between two locations, and cut off before it says what it is.
    Unreadable,
    /// It does not count.
    Other,
}

/// A packet in plaintext, the innermost that is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plaintext<'a> {
    /// The locations that it is from and for.
    pub between: [&'a LocationName; 2],
    /// Its source and its destination.
    pub addresses: [IpAddr; 2],
    /// What is in it.
    pub protocol: Option<u8>,
    /// What it is wrapped in.
    pub wrapped: Option<&'static str>,
}

/// From where a packet is looked at.
#[derive(Clone, Copy)]
struct View {
    outgoing: bool,
    /// A leader of the own location hands it over or gets it.
    handed: bool,
    wrapped: Option<&'static str>,
    depth: usize,
}

/// What is in a packet.
enum Content<'p> {
    Wireguard,
    /// Another packet, and in what.
    Wrapped(&'p [u8], &'static str),
    /// What is meant to go past the mesh.
    PastMesh,
    /// It cannot be said.
    CutOff,
    /// Anything else.
    Plain,
}

impl Watch {
    /// Returns what a node counts by, with what its WireGuard knows of its peers; `None` where the mesh does not know the node.
    #[must_use]
    pub fn new(
        mesh: &Mesh,
        plan: &Plan,
        facts: &HostFacts,
        peers: &BTreeMap<PublicKey, PeerStats>,
    ) -> Option<Self> {
        let location = plan.location.clone()?;
        let places = Places::new(mesh);
        let me = member(mesh, &location, &plan.me)?;
        let mut addresses = me.addresses.iter().chain(&me.overlay);
        let mine = addresses.find_map(|address| places.of(*address))?;
        let tunnel = plan.tunnel.as_ref();
        let endpoints = tunnel.into_iter().flat_map(|tunnel| &tunnel.peers);
        let endpoints = endpoints.filter_map(|(key, peer)| match &peer.party {
            Party::Leader(location, _) => Some((peers.get(key)?.endpoint?, location.clone())),
            Party::Peer(_) => None,
        });
        let all = || {
            mesh.locations
                .values()
                .flat_map(|location| location.members.values())
        };
        let with_key = all().filter(|member| member.public_key.is_some());
        Some(Self {
            devices: devices(plan, facts),
            hops: hops_to_leaders(plan, facts).into_values().collect(),
            port: tunnel.map(|tunnel| tunnel.listen_port),
            ports: with_key.map(|member| member.listen_port).collect(),
            vxlans: [packet::VXLAN[0], packet::VXLAN[1], facts.owned.hop_port],
            exempt: facts.api_server.clone(),
            endpoints: endpoints.collect(),
            neighbours: neighbours(&places, mine, all()),
            location,
            places,
            mine,
        })
    }

    /// Returns which packets the kernel is to hand up of a part.
    #[must_use]
    pub fn filter(&self, part: Part) -> Vec<Instruction> {
        let prefixes = |family| self.places.prefixes(family).collect();
        filter::filter(part, self.port, &self.vxlans, prefixes)
    }

    /// Returns what a packet is. `relays` are the link-layer addresses of the other leaders of the own location on the device.
    #[must_use]
    pub fn judge(&self, frame: &Frame<'_>, relays: &BTreeSet<Mac>) -> Kind<'_> {
        let mut view = View {
            outgoing: frame.outgoing,
            handed: false,
            wrapped: None,
            depth: 0,
        };
        if !frame.ethernet {
            return self.look(frame.bytes, view);
        }
        let Some(ethernet) = packet::ethernet(frame.bytes) else {
            return Kind::Other;
        };
        let neighbour = if frame.outgoing {
            ethernet.destination
        } else {
            ethernet.source
        };
        view.handed = relays.contains(&neighbour);
        self.look(ethernet.packet, view)
    }

    fn look(&self, bytes: &[u8], view: View) -> Kind<'_> {
        let Some(ip) = packet::ip(bytes).filter(|ip| !ip.later) else {
            return Kind::Other;
        };
        let between = self.between(&ip);
        let content = self.content(&ip, between.is_some());
        match content {
            Content::Wireguard => return Kind::Wireguard(self.leader_of(&ip, view.outgoing)),
            Content::PastMesh => return Kind::Other,
            Content::CutOff if between.is_some() => return Kind::Unreadable,
            Content::Wrapped(inner, wrapped) if view.depth < DEPTH => {
                let own = [ip.source, ip.destination]
                    .iter()
                    .all(|end| self.neighbours.contains(end));
                let inner = self.look(
                    inner,
                    View {
                        handed: view.handed || own,
                        wrapped: Some(wrapped),
                        depth: view.depth + 1,
                        ..view
                    },
                );
                if inner != Kind::Other {
                    return inner;
                }
            }
            Content::Wrapped(..) | Content::CutOff | Content::Plain => {}
        }
        match between {
            Some(between) if !self.is_inside(between, view) => Kind::Plaintext(Plaintext {
                between: between.map(|place| self.places.location(place)),
                addresses: [ip.source, ip.destination],
                protocol: ip.protocol,
                wrapped: view.wrapped,
            }),
            _ => Kind::Other,
        }
    }

    /// Returns the two places that a packet is between.
    fn between(&self, ip: &Ip<'_>) -> Option<[Number; 2]> {
        let (from, to) = (self.places.of(ip.source)?, self.places.of(ip.destination)?);
        (from != to).then_some([from, to])
    }

    /// Returns whether it is on its way within the own location.
    fn is_inside(&self, [from, to]: [Number; 2], view: View) -> bool {
        view.handed || (if view.outgoing { to } else { from }) == self.mine
    }
}

impl Watch {
    fn content<'p>(&self, ip: &Ip<'p>, is_between: bool) -> Content<'p> {
        match ip.protocol {
            None => Content::CutOff,
            Some(UDP) => match packet::udp(ip.payload) {
                Some(udp) => self.datagram(&udp, is_between),
                None => Content::CutOff,
            },
            Some(TCP) => match packet::ports(ip.payload) {
                Some(_) if self.is_exempt(ip) => Content::PastMesh,
                Some(_) => Content::Plain,
                None => Content::CutOff,
            },
            Some(packet::IPV4) => Content::Wrapped(ip.payload, "IP in IP"),
            Some(packet::IPV6) => Content::Wrapped(ip.payload, "IPv6 in IP"),
            Some(protocol @ (ICMP | ICMPV6)) => {
                let quoted = packet::quoted(protocol, ip.payload);
                let past_mesh = packet::is_discovery(protocol, ip.payload)
                    || quoted.is_some_and(|packet| self.is_past_mesh(packet));
                if past_mesh {
                    Content::PastMesh
                } else {
                    Content::Plain
                }
            }
            Some(_) => Content::Plain,
        }
    }

    /// Datagrams of others' WireGuards, as they pass a leader that is a router besides, are known where they are between locations.
    fn datagram<'p>(&self, udp: &Udp<'p>, is_between: bool) -> Content<'p> {
        let ports = [udp.source, udp.destination];
        let is_own = ports.iter().any(|port| self.port == Some(*port));
        if is_own || (is_between && ports.iter().any(|port| self.ports.contains(port))) {
            match packet::is_wireguard(udp.payload) {
                Some(true) => return Content::Wireguard,
                Some(false) => {}
                None => return Content::CutOff,
            }
        }
        let inner = if self.vxlans.contains(&udp.destination) {
            packet::in_vxlan(udp.payload).map(|inner| (inner, "VXLAN"))
        } else if udp.destination == packet::GENEVE {
            packet::in_geneve(udp.payload).map(|inner| (inner, "Geneve"))
        } else {
            None
        };
        inner.map_or(Content::Plain, |(inner, wrapped)| {
            Content::Wrapped(inner, wrapped)
        })
    }

    /// Returns whether a TCP segment is to or from the API server.
    fn is_exempt(&self, ip: &Ip<'_>) -> bool {
        let Some((source, destination)) = packet::ports(ip.payload) else {
            return false;
        };
        let ends = [(ip.source, source), (ip.destination, destination)];
        ends.into_iter().any(|end| self.exempt.contains(&end.into()))
    }

    /// Returns whether what an ICMP error is about goes past the mesh.
    fn is_past_mesh(&self, packet: &[u8]) -> bool {
        let Some(ip) = packet::ip(packet).filter(|ip| !ip.later) else {
            return false;
        };
        match ip.protocol {
            Some(TCP) => self.is_exempt(&ip),
            Some(UDP) => packet::ports(ip.payload)
                .is_some_and(|(one, other)| [one, other].iter().any(|port| self.ports.contains(port))),
            _ => false,
        }
    }

    /// Returns whose datagram it is, or for whom.
    fn leader_of(&self, ip: &Ip<'_>, outgoing: bool) -> Option<&LocationName> {
        let (source, destination) = packet::ports(ip.payload)?;
        let (address, port) = if outgoing {
            (ip.destination, destination)
        } else {
            (ip.source, source)
        };
        let exactly = self.endpoints.get(&(address, port).into());
        let known = exactly.or_else(|| self.only_one_at(address));
        known.or_else(|| Some(self.places.location(self.places.of(address)?)))
    }

    /// Returns whose leaders are at an address, where it is not that of several: behind a NAT the port changes.
    fn only_one_at(&self, address: IpAddr) -> Option<&LocationName> {
        let all = self.endpoints.iter();
        let mut there = all.filter(|(endpoint, _)| endpoint.ip() == address);
        let (_, first) = there.next()?;
        there.all(|(_, other)| other == first).then_some(first)
    }
}

fn member<'a>(mesh: &'a Mesh, location: &LocationName, node: &NodeName) -> Option<&'a Member> {
    mesh.locations.get(location)?.members.get(node)
}

/// Returns the devices to other machines: those that have an address, and not only one of this node's pods, and those by which
/// endpoints are reached.
fn devices(plan: &Plan, facts: &HostFacts) -> BTreeSet<LinkName> {
    let pods = || plan.own.iter().filter(|prefix| !prefix.is_host());
    let is_outer = |address: &IpAddr| {
        let is_local = match address {
            IpAddr::V4(address) => address.is_link_local() || address.is_loopback(),
            IpAddr::V6(address) => address.is_unicast_link_local() || address.is_loopback(),
        };
        !is_local && !pods().any(|prefix: &Prefix| prefix.contains(*address))
    };
    let leads_out = |(name, link): &(&LinkName, &OtherLink)| {
        let mut addresses = link.addresses.iter();
        !link.cni && name.as_str() != "lo" && addresses.any(|(address, _)| is_outer(address))
    };
    let found = facts.links.iter().filter(leads_out).map(|(name, _)| name);
    let all = found.chain(&facts.uplinks);
    all.filter(|name| **name != facts.owned.link).cloned().collect()
}

/// Returns the addresses that the nodes of a place have, also outside of the mesh, and no node elsewhere has.
fn neighbours<'a>(
    places: &Places,
    mine: Number,
    members: impl Iterator<Item = &'a Member>,
) -> BTreeSet<IpAddr> {
    let (mut here, mut elsewhere) = (BTreeSet::new(), BTreeSet::new());
    for member in members {
        let endpoints = member
            .endpoints
            .iter()
            .filter_map(|endpoint| match &endpoint.host {
                EndpointHost::Address(address) => Some(address),
                EndpointHost::Name(_) => None,
            });
        let mut own = member.addresses.iter().chain(&member.overlay);
        let is_here = own.any(|address| places.of(*address) == Some(mine));
        let place = if is_here { &mut here } else { &mut elsewhere };
        place.extend(member.addresses.iter().chain(endpoints).copied());
    }
    &here - &elsewhere
}

#[cfg(test)]
mod tests;
