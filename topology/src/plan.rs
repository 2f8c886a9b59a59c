//! What one node has to do.
//!
//! # How a mesh is read
//!
//! An agent's mesh may be a mixture of two publications, so it is read with these rules, which every node applies alike:
//!
//! * a node that stands in two locations is where its member generation is higher (of equal ones, in the location with
//!   the lower name);
//! * a prefix that stands twice belongs to a member before `cidrs` before a Peer, then to the higher generation, then to
//!   the lower location name, then to the lower name;
//! * a leader that is no member of its location, or has no key, does not lead. Of two parties with one key only one is
//!   talked to: leaders before Peers, then the higher generation, then the lower name.
//!
//! # Who carries what
//!
//! A member is carried by the active leader that [`carrier`](crate::carrier) names; `cidrs` and Peers by the first active
//! leader. A leader allows every other location's leader to send from what that one carries, and from its overlay
//! address; a standby leader only from its overlay address. It does so also before two locations are established; then
//! only routes are missing, so that establishing loses no packet.
//!
//! The leaders of a location are one *group*: each may send from what any of them carries. The role moves between them, and
//! no two nodes learn of that in the same instant: what comes through the one that does not carry it yet, or any more,
//! is taken all the same. Anyone of them may be elected at any time, so all of them are trusted alike anyway. Where every
//! node leads itself each vouches for what it carries alone, and a Peer always does.
//!
//! # Where packets go
//!
//! | destination | active leader | standby leader | follower |
//! |---|---|---|---|
//! | overlay address of a remote leader | tunnel | tunnel, from its own overlay address | hop to its carrier |
//! | prefix of an established location | tunnel | hop to its carrier | hop to its carrier |
//! | the same, no leader carries it there, or here | unreachable | unreachable | unreachable |
//! | Peer attached to the own location | tunnel on the first, else hop to the first | hop to the first | hop to the first |
//! | any other Peer | like a prefix of its home | | |
//! | prefix of a location that is not established | no route | no route | no route |
//! | the own location | local | local | local |
//!
//! All of this for the families that the node has a part in: an address or pods of its own, or, on a leader, its overlay
//! address or anything in its location. Of another family nothing could be sent through it, and it has no route. What established
//! locations have of such a family is *barred*: the host may have an address of it that the mesh does not know, and nothing is to go
//! from there past the mesh.
//!
//! No node sends through a hop what came to it through a hop: followers send to leaders, and a leader sends what a hop
//! brought to it into its own tunnels, whatever it does with what begins on itself. The sender has chosen it; another leader
//! may have chosen otherwise, and would send it back. The far side takes it as its group's. So a packet is on each node once
//! at most: where it begins, on one leader here, on one leader there, and where it ends.
//!
//! A host whose WireGuard has no groups sends what a hop brought on by a hop to a leader that stands before itself in the
//! published order, for the far side takes a source from one leader alone, and only to such a one ([`Plan::passes_on`]).
//! Where there is no tunnel a host has to see to it that what came through a hop and leaves through one goes round no longer
//! than it takes to find a leader.
//!
//! # What a node observes
//!
//! Towards each location a node sends through its carrier, or, where [`Reachability`] says that packets for that
//! location do not arrive through it, through the first other leader of its location in the published order that is
//! usable; a leader among these stands for its own tunnel. A leader sends what a remote leader carries that it cannot use to
//! the first one of that location that it can use. The far side takes both all the same, because the leaders are a group.
//! Only such a leader stands in for another that has the families of those whose packets it is to take.
//!
//! Without groups the far side takes a source from one leader alone, and it may see other failures than this side. So leaders say which
//! ones they use ([`Advice`](crate::Advice)). Of two locations that with the lower name follows: a leader of it that is not used by
//! the one that it would send to sends to one that does use it. On both sides a leader that is not used sends by one beside it
//! that is.
//!
//! Of ways that all seem lost the published one is left, unless the leader knows that nothing gets there at all
//! ([`Reachability::reaches`]): then what is for there is unreachable, so that its sender hears of it. Where every node leads
//! itself there are no groups, and so is no choice.
//!
//! # Where every node leads itself
//!
//! With [`MeshMode::Nodes`](crate::MeshMode::Nodes) a location falls into *islands*: a leader with the members that it
//! carries (nodes that cannot lead). Once the location is established with itself, the other islands are reached like
//! remote locations, through the tunnels between its leaders, and so are Peers that another leader of it serves; until
//! then all of it is local, and Peers are reached by a hop to that leader. While nodes learn of it one after the other, a leader that has not
//! yet sends by that hop what a node that has hands to it. What comes out of its tunnel for a Peer it does not send by that hop: where the
//! first leader changes at the same time the leader at its end may be the sender. Its `cidrs` are always local: every node is in that LAN.
//!
//! # The way back
//!
//! What leaves the tunnel for the address of another node of the location goes through the hop to it (`returns`). Every
//! leader has these for all nodes of its location, whichever leader carries them: the sender may have seen another order of
//! leaders.
//!
//! Where the location has a VXLAN of its own ([`HopMode::Vxlan`](crate::HopMode::Vxlan)), what leaves the tunnel for anything that
//! another node has goes through the hop, pods included: its LAN takes nothing that is from elsewhere.
//!
//! What a node has that a leader does not reach ([`Reachability::cut`]), but for its own addresses, goes by a hop to the first leader
//! that it does reach of those behind itself in the published order: so nothing goes round, whatever they observe. From there it
//! goes as the CNI has it, which would put the address of a node bare onto the LAN.

mod entries;
mod families;
mod probes;
mod routes;
mod tunnel;
mod view;
mod vxlan;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use crate::{
    Endpoint, Keepalive, LeaderRole, LocationName, Mesh, NodeName, PeerName, Prefix, PublicKey, Reachability,
    SecretKeyRef,
};
use families::Families;
pub use families::{Barred, Unsent};
pub use probes::{Behind, Far, Near, Probes};
use routes::Ways;
use view::View;
pub use vxlan::{Vxlan, VxlanPeer};

/// What one node has to do, in the words of the mesh; which device, table or mark that becomes is the host's affair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The node.
    pub me: NodeName,
    /// Its location; `None` when the mesh does not know the node (yet): then there is nothing to do.
    pub location: Option<LocationName>,
    /// Its part.
    pub role: Role,
    /// The WireGuard device of a leader.
    pub tunnel: Option<Tunnel>,
    /// Where packets to other locations and Peers go. Prefixes may nest; the longest match wins.
    pub routes: BTreeMap<Prefix, Route>,
    /// What the mesh has of families in which this node has no part: nothing of it is routed here.
    pub unsent: Unsent,
    /// Prefixes of the own location (pods, nodes, cidrs, of all its members); the CNI and the LAN carry these, even
    /// where a wider prefix stands in `routes`.
    pub local: BTreeSet<Prefix>,
    /// Single addresses in `local` or `routes` that nodes have borrowed whose location is not established with the own one: they are left to
    /// the CNI, and nothing that leaves the tunnel is for them.
    pub lent: BTreeSet<Prefix>,
    /// On a leader: networks of the own location's `cidrs` to whose machines what comes from elsewhere has to seem to come from
    /// this node ([`Settings::masquerade`](crate::Settings)). They are among `local`.
    pub masqueraded: BTreeSet<Prefix>,
    /// What lives on this node itself: its pods' prefixes, its addresses, on a leader its overlay addresses.
    pub own: BTreeSet<Prefix>,
    /// The overlay addresses that the mesh has for this node, whatever its part: only a leader has them on a device.
    pub overlay: BTreeSet<IpAddr>,
    /// On a leader: node addresses of other members of the own location, with a VXLAN of its own their pods too, to which packets
    /// that came out of the tunnel go through the hop, never bare onto the LAN; and what else those have that the hop does not reach, by another leader.
    pub returns: BTreeMap<Prefix, Via>,
    /// The way towards each other location, established or not, of which `routes` make use: the own tunnel, a leader of the
    /// own location, or none. Where every node leads itself the own location is among them.
    pub ways: BTreeMap<LocationName, Via>,
    /// The hops to the other leaders of the own location that packets of this node may go through, in order: the one that
    /// `routes` name, and those that they may name next.
    pub leaders: Vec<Via>,
    /// How many of `leaders` stand before this node in the published order; on a follower all.
    pub before: usize,
    /// How packets of the mesh get from node to node in the location, where that is a VXLAN of its own: every [`Via::Hop`] then goes by
    /// it.
    pub vxlan: Option<Vxlan>,
    /// The largest packet that the networks of all leaders of a location take, the own one included, where they have said it: so large
    /// may WireGuard's datagrams be.
    pub mtus: BTreeMap<LocationName, u16>,
    /// What this node is to watch, so that it can say what of this works.
    pub probes: Probes,
}

/// The part a node plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The mesh does not know the node.
    Outside,
    /// It sends through a leader.
    Follower,
    /// It has a WireGuard device.
    Leader(LeaderRole),
}

/// The WireGuard device of a leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// The addresses of the device: the overlay addresses of this node.
    pub addresses: BTreeSet<IpAddr>,
    /// The UDP port it listens on.
    pub listen_port: u16,
    /// With whom it talks.
    pub peers: BTreeMap<PublicKey, TunnelPeer>,
}

/// One party at the other end of a tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunnelPeer {
    /// Who it is.
    pub party: Party,
    /// The overlay addresses of the leader at the other end; none for a Peer. Packets to these take the own overlay
    /// address as source, for only that is allowed and routed everywhere, also before two locations are established.
    pub overlay: BTreeSet<IpAddr>,
    /// Where it is reached, best first; empty: it has to begin.
    pub endpoints: Vec<Endpoint>,
    /// The interval of keepalives towards it.
    pub keepalive: Option<Keepalive>,
    /// Where the preshared key is without which this node does not talk to it.
    pub preshared: Option<SecretKeyRef>,
    /// The location whose leaders it shares its sources with: each of them may send from what any of them is allowed.
    pub group: Option<LocationName>,
    /// What it may send from, and what is sent to it. No prefix stands with two parties.
    pub allowed_ips: BTreeSet<Prefix>,
}

impl TunnelPeer {
    /// Returns whether anything but its own overlay addresses is sent to it.
    #[must_use]
    pub fn carries(&self) -> bool {
        let own = |prefix: &Prefix| prefix.is_host() && self.overlay.contains(&prefix.address());
        !self.allowed_ips.iter().all(own)
    }
}

/// The party at the other end.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Party {
    /// A leader: its location and its name.
    Leader(LocationName, NodeName),
    /// A Peer.
    Peer(PeerName),
}

/// Where packets to one prefix go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// How they leave this node.
    pub via: Via,
    /// The location where the prefix lives; for a Peer its home, or the own location where it is attached here.
    pub location: LocationName,
    /// What has the prefix.
    pub holder: Holder,
}

/// What has the addresses of a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// A node, as one of its own addresses.
    Node,
    /// A leader, as its overlay address.
    Overlay,
    /// Pods, Peers, or a network.
    Others,
}

/// How packets leave this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Via {
    /// Through the WireGuard device.
    Tunnel,
    /// To a node of the own location, as the CNI or the LAN reaches it.
    Hop {
        /// That node.
        node: NodeName,
        /// The addresses of its CNI device, where it has reported any; over a VXLAN its overlay addresses.
        hop: Arc<BTreeSet<IpAddr>>,
        /// Its own addresses in the LAN.
        addresses: Arc<BTreeSet<IpAddr>>,
    },
    /// Nowhere: established, but no leader carries it now, or it is reached by no way. The sender gets ICMP 'unreachable'.
    Unreachable,
}

impl Plan {
    /// Returns whether what a hop brought to this leader for a location goes into its own tunnels though what begins here
    /// goes by a hop. `groups`: the own WireGuard knows groups of peers, and so the far side takes it.
    ///
    /// Without groups the far side takes what the leader sends that carries the source, so it goes on by the hop. Then
    /// only to a leader that stands before this one in the published order: so nothing goes round.
    #[must_use]
    pub fn takes_on(&self, location: &LocationName, groups: bool) -> bool {
        let Some(way @ Via::Hop { .. }) = self.ways.get(location).filter(|_| self.tunnel.is_some()) else {
            return false;
        };
        groups || !self.leaders[..self.before].contains(way)
    }

    /// Returns whether a leader sends by this hop what a hop brought to it: where neither its own WireGuard nor its location has groups, and
    /// only to a leader that stands before this one in the published order.
    #[must_use]
    pub fn passes_on(&self, via: &Via, groups: bool) -> bool {
        self.tunnel.is_some() && (!groups || self.leads_itself()) && self.leaders[..self.before].contains(via)
    }

    /// Returns whether every node of the own location leads itself: only then there is a way to it.
    fn leads_itself(&self) -> bool {
        let here = self.location.as_ref();
        here.is_some_and(|here| self.ways.contains_key(here))
    }

    /// Returns the leaders of other locations to which this one sends more than what is for their overlay addresses. Only of locations
    /// whose leaders stand in for each other: elsewhere there is no choice.
    #[must_use]
    pub fn in_use(&self) -> BTreeMap<LocationName, BTreeSet<NodeName>> {
        let peers = self.tunnel.iter().flat_map(|tunnel| tunnel.peers.values());
        let mut in_use: BTreeMap<LocationName, BTreeSet<NodeName>> = BTreeMap::new();
        for peer in peers.filter(|peer| peer.group.is_some() && peer.carries()) {
            if let Party::Leader(location, node) = &peer.party {
                in_use.entry(location.clone()).or_default().insert(node.clone());
            }
        }
        in_use
    }

    /// Returns whether a node has borrowed this address whose location is not established with the own one.
    #[must_use]
    pub fn lends(&self, address: IpAddr) -> bool {
        self.lent.contains(&Prefix::host(address))
    }

    /// Returns what packets that leave the tunnel have business with, but for [what is lent](Self::lent): what the mesh has in the
    /// location, Peers that are attached to it included. Where every node leads itself these are not reached by a hop from there: the
    /// leader at its end may be the one that sent the packet here, and would do so again.
    pub fn here(&self) -> impl Iterator<Item = &Prefix> {
        let turns_back = |via: &Via| self.leads_itself() && matches!(via, Via::Hop { .. });
        let attached = self.routes.iter();
        let attached = attached.filter(|(_, route)| Some(&route.location) == self.location.as_ref());
        let attached = attached.filter(move |(_, route)| !turns_back(&route.via));
        let attached = attached.map(|(prefix, _)| prefix);
        let here = self.local.iter().chain(&self.own).chain(self.returns.keys());
        here.chain(attached)
    }

    /// Returns the sources of attached Peers, which have business with the whole mesh.
    pub fn guests(&self) -> impl Iterator<Item = &Prefix> {
        let peers = self.tunnel.iter().flat_map(|tunnel| tunnel.peers.values());
        let guests = peers.filter(|peer| matches!(peer.party, Party::Peer(_)));
        guests.flat_map(|peer| &peer.allowed_ips)
    }
}

/// Returns what the node has to do, so that packets flow as the mesh says, through the leaders that it can use.
#[must_use]
pub fn plan(mesh: &Mesh, me: &NodeName, reachability: &Reachability) -> Plan {
    let Some(view) = View::new(mesh, me) else {
        return Plan {
            me: me.clone(),
            location: None,
            role: Role::Outside,
            tunnel: None,
            routes: BTreeMap::new(),
            unsent: Unsent::default(),
            local: BTreeSet::new(),
            lent: BTreeSet::new(),
            masqueraded: BTreeSet::new(),
            own: BTreeSet::new(),
            overlay: BTreeSet::new(),
            returns: BTreeMap::new(),
            ways: BTreeMap::new(),
            leaders: Vec::new(),
            before: 0,
            vxlan: None,
            mtus: BTreeMap::new(),
            probes: Probes::default(),
        };
    };
    let entries = entries::entries(&view);
    let own = own(&view);
    let Families { used: useful, unused } = Families::new(&view, &own, &entries);
    let receivers = tunnel::receivers(&view, reachability);
    let ways = Ways::new(&view, reachability, &receivers);
    let (leaders, before) = routes::leaders(&view);
    Plan {
        me: me.clone(),
        location: Some(view.home().name.clone()),
        role: view.role().map_or(Role::Follower, Role::Leader),
        tunnel: view.lead.map(|_| tunnel::tunnel(&view, &entries, &receivers)),
        local: routes::local(&view, useful),
        lent: routes::lent(&view, useful, &ways),
        masqueraded: view
            .lead
            .map(|_| routes::masqueraded(&view, useful))
            .unwrap_or_default(),
        returns: view
            .lead
            .map(|_| routes::returns(&view, useful, reachability))
            .unwrap_or_default(),
        routes: routes::routes(&view, useful, &ways),
        unsent: families::unsent(&view, unused),
        ways: ways.out(),
        leaders,
        before,
        vxlan: vxlan::vxlan(&view),
        mtus: mtus(&view),
        probes: probes::probes(&view, &receivers),
        own: own.into_iter().collect(),
        overlay: view.member.overlay.clone(),
    }
}

/// Returns what the networks of the leaders of each location take, of any of which packets may go through the tunnel.
fn mtus(view: &View<'_>) -> BTreeMap<LocationName, u16> {
    let of_site = |(index, site): (usize, &view::Site<'_>)| {
        let said = view
            .leads_of(index)
            .filter_map(|lead| view.leads[lead].member.mtu);
        Some((site.name.clone(), said.min()?))
    };
    view.sites.iter().enumerate().filter_map(of_site).collect()
}

/// Returns what lives on this node. A follower has no device for its overlay addresses.
fn own(view: &View<'_>) -> Vec<Prefix> {
    let overlay = view.lead.is_some().then_some(&view.member.overlay);
    let addresses = view.member.addresses.iter().chain(overlay.into_iter().flatten());
    let hosts = addresses.map(|address| Prefix::host(*address));
    hosts.chain(view.member.prefixes.iter().copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Generation, Leader, Location, Member};

    #[test]
    fn of_two_claims_of_a_prefix_the_newer_stands() {
        for (left, right, owner) in [(3, 4, "right"), (4, 3, "left"), (4, 4, "left")] {
            let mesh = mesh(&[("left", "a1", left), ("right", "b1", right), ("here", "c1", 1)]);
            let route = &plan(&mesh, &"c1".parse().unwrap(), &Reachability::default()).routes[&prefix()];
            assert_eq!(route.location.as_str(), owner, "{left} {right}");
        }
    }

    #[test]
    fn a_node_in_two_locations_is_where_it_is_newer() {
        for (left, right, place) in [(3, 4, "right"), (4, 3, "left"), (4, 4, "left")] {
            let mesh = mesh(&[("left", "a1", left), ("right", "a1", right)]);
            let plan = plan(&mesh, &"a1".parse().unwrap(), &Reachability::default());
            assert_eq!(plan.location.unwrap().as_str(), place, "{left} {right}");
        }
    }

    #[test]
    fn leaders_that_are_unknown_or_have_no_key_do_not_lead() {
        let mut mesh = mesh(&[("there", "a1", 1), ("here", "c1", 1)]);
        let there = mesh.locations.get_mut(&"there".parse().unwrap()).unwrap();
        let stranger = Leader {
            node: "stranger".parse().unwrap(),
            role: LeaderRole::Active,
        };
        there.leaders.insert(0, stranger);
        let me: NodeName = "c1".parse().unwrap();
        assert_eq!(
            plan(&mesh, &me, &Reachability::default()).routes[&prefix()].via,
            Via::Tunnel
        );
        let there = mesh.locations.get_mut(&"there".parse().unwrap()).unwrap();
        there
            .members_mut()
            .values_mut()
            .for_each(|member| member.public_key = None);
        assert_eq!(
            plan(&mesh, &me, &Reachability::default()).routes[&prefix()].via,
            Via::Unreachable
        );
    }

    fn prefix() -> Prefix {
        "10.244.7.0/24".parse().unwrap()
    }

    /// Locations of one node each, which leads, is established with all, and, but for c1, has the prefix.
    fn mesh(nodes: &[(&str, &str, u64)]) -> Mesh {
        let mut mesh = Mesh::default();
        for (index, (location, node, generation)) in (1..).zip(nodes) {
            let node: NodeName = node.parse().unwrap();
            let member = Member {
                generation: Generation(*generation),
                addresses: [IpAddr::from([192, 168, 0, index])].into(),
                prefixes: (node.as_str() != "c1").then(prefix).into_iter().collect(),
                public_key: Some(PublicKey::new([index; 32])),
                ..Member::default()
            };
            let leader = Leader {
                node: node.clone(),
                role: LeaderRole::Active,
            };
            let established = nodes.iter().map(|(other, ..)| other.parse().unwrap());
            let head = Location {
                leaders: vec![leader],
                established: established.collect(),
                members: Arc::new([(node, member)].into()),
                ..Location::default()
            };
            mesh.locations.insert(location.parse().unwrap(), head);
        }
        mesh
    }
}
