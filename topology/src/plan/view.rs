//! The mesh as one node reads it: each node in one location, only leaders that can lead.

use std::collections::BTreeSet;

use crate::{
    LeaderRole, Location, LocationName, Member, Mesh, MeshMode, NodeName, Peer, PeerName, rendezvous,
};

/// A leader that can lead.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lead<'a> {
    pub(super) node: &'a NodeName,
    pub(super) member: &'a Member,
    pub(super) role: LeaderRole,
}

/// A location with the leaders that can lead, in order of preference.
#[derive(Debug)]
pub(super) struct Site<'a> {
    pub(super) name: &'a LocationName,
    pub(super) location: &'a Location,
    pub(super) leaders: Vec<Lead<'a>>,
}

/// The mesh as one node reads it.
#[derive(Debug)]
pub(super) struct View<'a> {
    pub(super) me: &'a NodeName,
    pub(super) member: &'a Member,
    pub(super) role: Option<LeaderRole>,
    pub(super) sites: Vec<Site<'a>>,
    pub(super) peers: Vec<(&'a PeerName, &'a Peer)>,
    /// The own location, as an index of `sites`.
    pub(super) mine: usize,
    /// Members that are elsewhere by now.
    gone: BTreeSet<(usize, &'a NodeName)>,
}

impl<'a> Site<'a> {
    /// The leaders that carry something.
    pub(super) fn active(&self) -> impl Iterator<Item = &Lead<'a>> + Clone {
        self.leaders.iter().filter(|lead| lead.role == LeaderRole::Active)
    }

    /// The leader that carries `cidrs` and Peers.
    pub(super) fn first(&self) -> Option<&NodeName> {
        self.active().next().map(|lead| lead.node)
    }

    /// The leader that carries a member.
    pub(super) fn carrier(&self, member: &NodeName) -> Option<&'a NodeName> {
        rendezvous::heaviest(self.active().map(|lead| lead.node), member)
    }

    /// The leader of this name.
    pub(super) fn lead(&self, node: &NodeName) -> Option<&Lead<'a>> {
        self.leaders.iter().find(|lead| lead.node == node)
    }
}

impl<'a> View<'a> {
    /// `None`: the mesh does not know the node.
    pub(super) fn new(mesh: &'a Mesh, me: &'a NodeName) -> Option<Self> {
        let locations: Vec<_> = mesh.locations.iter().collect();
        let gone = gone(&locations);
        let present = |site: usize, node: &NodeName| {
            let known = locations.get(site)?.1.members.get_key_value(node)?;
            (gone.is_empty() || !gone.contains(&(site, known.0))).then_some(known)
        };
        let (mine, (_, member)) =
            (0..locations.len()).find_map(|site| present(site, me).map(|known| (site, known)))?;
        let leaders = |site: usize, location: &'a Location| {
            let mut seen = BTreeSet::new();
            let usable = location.leaders.iter().filter_map(|leader| {
                let (node, member) = present(site, &leader.node)?;
                let role = leader.role;
                member.public_key.map(|_| Lead { node, member, role })
            });
            usable.filter(|lead| seen.insert(lead.node)).collect::<Vec<_>>()
        };
        let site = |(index, (name, location)): (usize, &(&'a LocationName, &'a Location))| Site {
            name,
            location,
            leaders: leaders(index, location),
        };
        let sites: Vec<_> = locations.iter().enumerate().map(site).collect();
        Some(Self {
            me,
            member,
            role: sites.get(mine)?.lead(me).map(|lead| lead.role),
            peers: mesh.peers.iter().collect(),
            mine,
            sites,
            gone,
        })
    }

    /// The own location.
    pub(super) fn home(&self) -> &Site<'a> {
        &self.sites[self.mine]
    }

    /// The members of a location, without those that are elsewhere by now.
    pub(super) fn members(&self, site: usize) -> impl Iterator<Item = (&'a NodeName, &'a Member)> {
        let location = self.sites[site].location;
        let here = move |node: &NodeName| self.gone.is_empty() || !self.gone.contains(&(site, node));
        location.members.iter().filter(move |(node, _)| here(node))
    }

    /// Whether the own location has a tunnel to this Peer.
    pub(super) fn attached(&self, peer: &Peer) -> bool {
        let here = self.home().name;
        peer.attachments.contains(here) || peer.home.as_ref() == Some(here)
    }

    /// Whether every node of the own location leads itself.
    pub(super) fn islands(&self) -> bool {
        self.home().location.settings.mode == MeshMode::Nodes
    }

    /// Whether traffic between the own location and this one is in the tunnel or nowhere. With the own location it is
    /// so only where every node leads itself.
    pub(super) fn established(&self, site: usize) -> bool {
        let home = self.home();
        (site != self.mine || self.islands()) && home.location.established.contains(self.sites[site].name)
    }
}

/// Members that stand in another location with a higher generation. Names are compared by their hash first: in a mesh
/// of thousands of nodes nearly none stands twice.
fn gone<'a>(locations: &[(&'a LocationName, &'a Location)]) -> BTreeSet<(usize, &'a NodeName)> {
    let mut seen: Vec<(u64, &'a NodeName, std::cmp::Reverse<u64>, usize)> = Vec::new();
    for (site, (_, location)) in locations.iter().enumerate() {
        seen.extend(location.members.iter().map(|(node, member)| {
            let hash = rendezvous::stable(&[node.as_str()]);
            (hash, node, std::cmp::Reverse(member.generation.0), site)
        }));
    }
    seen.sort_unstable();
    let again = seen.windows(2).filter_map(|pair| match pair {
        [(_, before, ..), (_, node, _, site)] if before == node => Some((*site, *node)),
        _ => None,
    });
    again.collect()
}
