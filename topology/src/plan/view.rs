//! The mesh as one node reads it: each node in one location, only leaders that can lead.

use std::{cmp::Reverse, collections::BTreeSet, ops::Range};

use crate::{
    LeaderRole, Location, LocationName, Member, Mesh, MeshMode, NodeName, Peer, PeerName, rendezvous,
};

/// A leader that can lead.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lead<'a> {
    pub(super) node: &'a NodeName,
    pub(super) member: &'a Member,
    pub(super) role: LeaderRole,
    /// Its location, as an index of the view's sites.
    pub(super) site: usize,
    /// The stable hash of its name.
    hash: u64,
}

/// A location.
#[derive(Debug)]
pub(super) struct Site<'a> {
    pub(super) name: &'a LocationName,
    pub(super) location: &'a Location,
    /// Its leaders that can lead, in order of preference, as indices of the view's leaders.
    leads: Range<usize>,
}

/// The mesh as one node reads it.
#[derive(Debug)]
pub(super) struct View<'a> {
    pub(super) me: &'a NodeName,
    pub(super) member: &'a Member,
    /// This node as a leader, as an index of the leaders.
    pub(super) lead: Option<usize>,
    /// Who carries this node, as an index of the leaders.
    pub(super) carrier: Option<usize>,
    pub(super) sites: Vec<Site<'a>>,
    pub(super) leads: Vec<Lead<'a>>,
    pub(super) peers: Vec<(&'a PeerName, &'a Peer)>,
    /// The own location, as an index of the sites.
    pub(super) mine: usize,
    /// Members that are elsewhere by now.
    gone: BTreeSet<(usize, &'a NodeName)>,
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
        let mut leads = Vec::new();
        let mut sites = Vec::with_capacity(locations.len());
        for (site, (name, location)) in locations.iter().enumerate() {
            let start = leads.len();
            let mut seen = BTreeSet::new();
            leads.extend(location.leaders.iter().filter_map(|leader| {
                let (node, member) = present(site, &leader.node)?;
                let able = member.public_key.is_some() && seen.insert(node);
                let hash = rendezvous::stable(node.as_str());
                let role = leader.role;
                able.then_some(Lead {
                    node,
                    member,
                    role,
                    site,
                    hash,
                })
            }));
            let leads = start..leads.len();
            sites.push(Site {
                name,
                location,
                leads,
            });
        }
        let mut view = Self {
            me,
            member,
            lead: None,
            carrier: None,
            peers: mesh.peers.iter().collect(),
            mine,
            sites,
            leads,
            gone,
        };
        view.lead = view.lead_of(mine, me);
        view.carrier = view.carrier_of(mine, me);
        Some(view)
    }

    /// The own location.
    pub(super) fn home(&self) -> &Site<'a> {
        &self.sites[self.mine]
    }

    /// The own part.
    pub(super) fn role(&self) -> Option<LeaderRole> {
        self.lead.map(|lead| self.leads[lead].role)
    }

    /// The members of a location, without those that are elsewhere by now.
    pub(super) fn members(&self, site: usize) -> impl Iterator<Item = (&'a NodeName, &'a Member)> {
        let location = self.sites[site].location;
        let here = move |node: &NodeName| self.gone.is_empty() || !self.gone.contains(&(site, node));
        location.members.iter().filter(move |(node, _)| here(node))
    }

    /// The leaders of a location that carry something.
    fn active(&self, site: usize) -> impl Iterator<Item = usize> {
        let leads = self.sites[site].leads.clone();
        leads.filter(|lead| self.leads[*lead].role == LeaderRole::Active)
    }

    /// The leader of a location that carries `cidrs` and Peers.
    pub(super) fn first(&self, site: usize) -> Option<usize> {
        self.active(site).next()
    }

    /// The leader that a node is.
    pub(super) fn lead_of(&self, site: usize, node: &NodeName) -> Option<usize> {
        self.sites[site]
            .leads
            .clone()
            .find(|lead| self.leads[*lead].node == node)
    }

    /// The leader that carries a member.
    pub(super) fn carrier_of(&self, site: usize, member: &NodeName) -> Option<usize> {
        let mut active = self.active(site);
        let (first, second) = (active.next(), active.next());
        if second.is_none() {
            return first;
        }
        let itself = self.active(site).find(|lead| self.leads[*lead].node == member);
        itself.or_else(|| {
            let named = self
                .active(site)
                .map(|lead| (lead, self.leads[lead].node, self.leads[lead].hash));
            rendezvous::heaviest(named, member)
        })
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

/// Members that stand in another location with a higher generation. In a mesh of thousands of nodes nearly none stands
/// twice, and the hashes of the names show that fastest.
fn gone<'a>(locations: &[(&'a LocationName, &'a Location)]) -> BTreeSet<(usize, &'a NodeName)> {
    let members = || {
        let sites = locations.iter().enumerate();
        sites.flat_map(|(site, (_, location))| {
            location
                .members
                .iter()
                .map(move |(node, member)| (site, node, member))
        })
    };
    let mut hashes: Vec<u64> = members()
        .map(|(_, node, _)| rendezvous::stable(node.as_str()))
        .collect();
    hashes.sort_unstable();
    if hashes.windows(2).all(|pair| pair[0] != pair[1]) {
        return BTreeSet::new();
    }
    let mut all: Vec<_> = members()
        .map(|(site, node, member)| (node, Reverse(member.generation), site))
        .collect();
    all.sort_unstable();
    let again = all.windows(2).filter(|pair| pair[0].0 == pair[1].0);
    again.map(|pair| (pair[1].2, pair[1].0)).collect()
}
