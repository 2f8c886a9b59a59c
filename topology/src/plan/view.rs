//! The mesh as one node reads it: each node in one location, only leaders that can lead.

use std::{cmp::Reverse, collections::BTreeSet, net::IpAddr, ops::Range};

use crate::{
    Family, HopMode, LeaderRole, Location, LocationName, Member, Mesh, MeshMode, NodeName, Peer, PeerName,
    rendezvous,
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

impl Lead<'_> {
    fn is(&self, known: &Known<'_>) -> bool {
        self.hash == known.hash && self.node == known.node
    }
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
    /// Every member of every location, with the stable hash of its name, but those that are elsewhere by now.
    members: Vec<Known<'a>>,
}

/// A member.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known<'a> {
    pub(super) site: usize,
    pub(super) node: &'a NodeName,
    pub(super) member: &'a Member,
    pub(super) hash: u64,
}

impl<'a> View<'a> {
    /// `None`: the mesh does not know the node.
    pub(super) fn new(mesh: &'a Mesh, me: &'a NodeName) -> Option<Self> {
        let locations: Vec<_> = mesh.locations.iter().collect();
        let (members, gone) = present(&locations);
        let find = |site: usize, node: &NodeName| {
            let known = locations.get(site)?.1.members.get_key_value(node)?;
            (gone.is_empty() || !gone.contains(&(site, known.0))).then_some(known)
        };
        let (mine, (_, member)) =
            (0..locations.len()).find_map(|site| find(site, me).map(|known| (site, known)))?;
        let mut leads = Vec::new();
        let mut sites = Vec::with_capacity(locations.len());
        for (site, (name, location)) in locations.iter().enumerate() {
            let start = leads.len();
            let mut seen = BTreeSet::new();
            leads.extend(location.leaders.iter().filter_map(|leader| {
                let (node, member) = find(site, &leader.node)?;
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
            let leads_here = &mut leads[start..];
            // Its active leaders may be elsewhere by now, or not yet here: the first who can carries for them.
            if leads_here.iter().all(|lead| lead.role == LeaderRole::Standby)
                && let Some(first) = leads_here.first_mut()
            {
                first.role = LeaderRole::Active;
            }
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
            members,
        };
        let hash = rendezvous::stable(me.as_str());
        let me = Known {
            site: mine,
            node: me,
            member,
            hash,
        };
        view.lead = view.lead_of(&me);
        view.carrier = view.carrier_of(&me);
        Some(view)
    }

    /// Returns whether this node has an address or pods of a family.
    pub(super) fn speaks(&self, family: Family) -> bool {
        has(self.member, family)
    }

    /// Returns the own location.
    pub(super) fn home(&self) -> &Site<'a> {
        &self.sites[self.mine]
    }

    /// Returns the own part.
    pub(super) fn role(&self) -> Option<LeaderRole> {
        self.lead.map(|lead| self.leads[lead].role)
    }

    /// Returns every member, location by location, without those that are elsewhere by now.
    pub(super) fn members(&self) -> &[Known<'a>] {
        &self.members
    }

    /// Returns the leaders of a location in order of preference, as indices of the leaders.
    pub(super) fn leads_of(&self, site: usize) -> Range<usize> {
        self.sites[site].leads.clone()
    }

    /// Returns the leaders of a location that carry something.
    pub(super) fn active(&self, site: usize) -> impl Iterator<Item = usize> {
        let leads = self.sites[site].leads.clone();
        leads.filter(|lead| self.leads[*lead].role == LeaderRole::Active)
    }

    /// Returns the leader of a location that carries `cidrs` and Peers.
    pub(super) fn first(&self, site: usize) -> Option<usize> {
        self.active(site).next()
    }

    /// Returns the leader that a node is.
    pub(super) fn lead_of(&self, known: &Known<'_>) -> Option<usize> {
        self.sites[known.site]
            .leads
            .clone()
            .find(|lead| self.leads[*lead].is(known))
    }

    /// Returns the leader that carries a member.
    pub(super) fn carrier_of(&self, known: &Known<'_>) -> Option<usize> {
        let active = || self.active(known.site);
        let itself = active().find(|lead| self.leads[*lead].is(known));
        itself.or_else(|| {
            let named = active().map(|lead| (lead, self.leads[lead].node, self.leads[lead].hash));
            rendezvous::heaviest(named, known.hash)
        })
    }

    /// Returns whether followers and leaders of the own location hand packets to each other over a VXLAN.
    pub(super) fn has_vxlan(&self) -> bool {
        self.home().location.settings.hop == HopMode::Vxlan
    }

    /// Returns the addresses of next hops by which another node of the own location is reached.
    pub(super) fn hop_of<'m>(&self, member: &'m Member) -> &'m BTreeSet<IpAddr> {
        match self.has_vxlan() {
            true => &member.overlay,
            false => &member.hop,
        }
    }

    /// Returns whether the own location has a tunnel to this Peer.
    pub(super) fn attached(&self, peer: &Peer) -> bool {
        let here = self.home().name;
        peer.attachments.contains(here) || peer.home.as_ref() == Some(here)
    }

    /// Returns the leader to which Peers are attached that every other node of the own location reaches by a hop, also those that other
    /// leaders carry: where each leads itself, as long as the location is not established with itself.
    pub(super) fn served_by_hop(&self) -> Option<usize> {
        let is_local = self.islands() && !self.established(self.mine);
        let any = || self.peers.iter().any(|(_, peer)| self.attached(peer));
        self.first(self.mine).filter(|_| is_local && any())
    }

    /// Returns whether every node of the own location leads itself.
    pub(super) fn islands(&self) -> bool {
        self.home().location.settings.mode == MeshMode::Nodes
    }

    /// Returns whether traffic between the own location and this one is in the tunnel or nowhere. With the own location
    /// it is so only where every node leads itself.
    pub(super) fn established(&self, site: usize) -> bool {
        let home = self.home();
        (site != self.mine || self.islands()) && home.location.established.contains(self.sites[site].name)
    }
}

/// Returns whether a node has an address or pods of every family of which another one has any: else nothing of that family
/// gets to it by a hop, or from it.
pub(super) fn has_families(node: &Member, other: &Member) -> bool {
    let families = [Family::V4, Family::V6];
    families
        .into_iter()
        .all(|family| has(node, family) || !has(other, family))
}

fn has(member: &Member, family: Family) -> bool {
    let of_family = |address: &IpAddr| Family::of(*address) == family;
    let mut prefixes = member.prefixes.iter();
    member.addresses.iter().any(of_family) || prefixes.any(|prefix| prefix.family() == family)
}

/// Returns every member, and those that stand in another location with a higher generation, which are left out. In a
/// mesh of thousands of nodes nearly none stands twice, and the hashes of the names show that fastest.
fn present<'a>(
    locations: &[(&'a LocationName, &'a Location)],
) -> (Vec<Known<'a>>, BTreeSet<(usize, &'a NodeName)>) {
    let sites = locations.iter().enumerate();
    let members = sites.flat_map(|(site, (_, location))| {
        location.members.iter().map(move |(node, member)| {
            let hash = rendezvous::stable(node.as_str());
            Known {
                site,
                node,
                member,
                hash,
            }
        })
    });
    let mut members: Vec<Known<'a>> = members.collect();
    let mut hashes: Vec<u64> = members.iter().map(|known| known.hash).collect();
    hashes.sort_unstable();
    if hashes.windows(2).all(|pair| pair[0] != pair[1]) {
        return (members, BTreeSet::new());
    }
    let order = |known: &Known<'a>| (known.node, Reverse(known.member.generation), known.site);
    let mut all: Vec<_> = members.iter().map(order).collect();
    all.sort_unstable();
    let again = all.windows(2).filter(|pair| pair[0].0 == pair[1].0);
    let gone: BTreeSet<_> = again.map(|pair| (pair[1].2, pair[1].0)).collect();
    members.retain(|known| !gone.contains(&(known.site, known.node)));
    (members, gone)
}
