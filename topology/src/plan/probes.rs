//! What a node watches to say which ways work.
//!
//! All of it is answered by the kernels of the nodes asked, so that no agent has to be alive there. Where every node leads
//! itself there is no choice between ways, and nothing is watched: neither there nor of there.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use super::{
    Via,
    view::{Known, View},
};
use crate::{LocationName, Member, MeshMode, NodeName, rendezvous};

/// How many leaders of a remote location are asked through a leader of the own one. One may be dead, or cut off from it.
const ASKED_THROUGH: usize = 2;
/// How many members are asked behind a remote leader. They may be dead, or answer no echo requests.
const ASKED_BEHIND: usize = 3;

/// What a node is to watch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Probes {
    /// On a leader: the leaders, active and standby, of the other locations, established or not, each asked through the own
    /// tunnel from the own overlay address.
    pub far: Vec<Far>,
    /// The other leaders of the own location in the published order, each asked by the hop.
    pub hops: Vec<Near>,
    /// Some leaders of every established location, in the published order, each to be asked through each of `hops`: the
    /// packet goes to the hop whatever the routes are.
    pub through: Vec<Far>,
    /// On a leader: members behind each leader of an established location that this node sends something to.
    pub behind: Vec<Behind>,
    /// On a leader with another one beside it: the members of the own location that lead nothing, each asked by the hop.
    pub members: Vec<Near>,
}

/// A leader of another location.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Far {
    /// Its location.
    pub location: LocationName,
    /// Its name.
    pub node: NodeName,
    /// Its overlay addresses, at most one per family.
    pub overlay: BTreeSet<IpAddr>,
}

/// Another node of the own location.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Near {
    /// Its name.
    pub node: NodeName,
    /// The addresses of its CNI device, where it has reported any, or over a VXLAN its overlay addresses: there packets go to it.
    pub hop: Arc<BTreeSet<IpAddr>>,
    /// Its own addresses in the LAN, where they go otherwise.
    pub addresses: Arc<BTreeSet<IpAddr>>,
}

impl Near {
    /// Returns the hop to it.
    #[must_use]
    pub fn via(&self) -> Via {
        Via::Hop {
            node: self.node.clone(),
            hop: Arc::clone(&self.hop),
            addresses: Arc::clone(&self.addresses),
        }
    }
}

/// Members that are reached through a leader of another location. Any answer proves that it forwards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Behind {
    /// The location.
    pub location: LocationName,
    /// The leader to which this node's tunnel sends what is for them.
    pub leader: NodeName,
    /// The own addresses of up to three members: such as are no leaders, where there are any, else standby leaders. Which, is
    /// another choice on every node.
    pub members: Vec<(NodeName, BTreeSet<IpAddr>)>,
}

/// Returns what a node is to watch, where these leaders receive what each leader carries.
pub(super) fn probes(view: &View<'_>, receivers: &[usize]) -> Probes {
    if view.islands() {
        return Probes::default();
    }
    let leads = view.lead.is_some();
    let others = || (0..view.sites.len()).filter(|site| *site != view.mine);
    let far = others().filter(|site| leads && led(view, *site));
    let far = far.flat_map(|site| view.leads_of(site).map(|lead| self::far(view, lead)));
    let established = others().filter(|site| view.established(*site));
    let through = established.flat_map(|site| {
        let asked = view.leads_of(site).take(ASKED_THROUGH);
        asked.map(|lead| self::far(view, lead))
    });
    let hops: Vec<Near> = hops(view);
    Probes {
        far: far.collect(),
        through: through.filter(|_| !hops.is_empty()).collect(),
        behind: if leads {
            behind(view, receivers)
        } else {
            Vec::new()
        },
        members: if leads && !hops.is_empty() {
            members(view)
        } else {
            Vec::new()
        },
        hops,
    }
}

/// Returns whether a few leaders carry the location, one of which may stand in for another.
fn led(view: &View<'_>, site: usize) -> bool {
    view.sites[site].location.settings.mode == MeshMode::Leaders
}

fn far(view: &View<'_>, lead: usize) -> Far {
    let leader = &view.leads[lead];
    Far {
        location: view.sites[leader.site].name.clone(),
        node: leader.node.clone(),
        overlay: leader.member.overlay.clone(),
    }
}

fn hops(view: &View<'_>) -> Vec<Near> {
    let others = view.leads_of(view.mine).filter(|lead| view.lead != Some(*lead));
    let near = others.map(|lead| {
        let leader = &view.leads[lead];
        near(view, leader.node, leader.member)
    });
    near.collect()
}

fn members(view: &View<'_>) -> Vec<Near> {
    let here = view.members().iter().filter(|known| known.site == view.mine);
    let followers = here.filter(|known| known.node != view.me && view.lead_of(known).is_none());
    followers
        .map(|known| near(view, known.node, known.member))
        .collect()
}

fn near(view: &View<'_>, node: &NodeName, member: &Member) -> Near {
    Near {
        node: node.clone(),
        hop: Arc::new(view.hop_of(member).clone()),
        addresses: Arc::new(member.addresses.clone()),
    }
}

/// A member to ask: whether it leads, how much this node wants to ask it, itself.
type Candidate<'a> = (bool, Reverse<u64>, &'a Known<'a>);

/// Returns members behind each remote leader to which anything is sent.
fn behind(view: &View<'_>, receivers: &[usize]) -> Vec<Behind> {
    let me = rendezvous::stable(view.me.as_str());
    let asked: Vec<bool> = (0..view.sites.len())
        .map(|site| site != view.mine && view.established(site) && led(view, site))
        .collect();
    let mut carried: BTreeMap<usize, Vec<Candidate<'_>>> = BTreeMap::new();
    for known in view.members() {
        if !asked[known.site] || known.member.addresses.is_empty() {
            continue;
        }
        let lead = view.lead_of(known);
        let receiver = view.carrier_of(known).map(|carrier| receivers[carrier]);
        let Some(receiver) = receiver.filter(|receiver| lead != Some(*receiver)) else {
            continue;
        };
        let best = carried.entry(receiver).or_default();
        best.push((lead.is_some(), Reverse(rendezvous::weigh(known.hash, me)), known));
        best.sort_unstable_by_key(|(leads, weight, known)| (*leads, *weight, known.node));
        best.truncate(ASKED_BEHIND);
    }
    let behind = carried.into_iter().map(|(receiver, best)| {
        let leader = &view.leads[receiver];
        // Of the best the first leads only where none is that does not.
        let leads = best.first().is_some_and(|(leads, ..)| *leads);
        let members = best.into_iter().filter(|(other, ..)| *other == leads);
        Behind {
            location: view.sites[leader.site].name.clone(),
            leader: leader.node.clone(),
            members: members
                .map(|(_, _, known)| (known.node.clone(), known.member.addresses.clone()))
                .collect(),
        }
    });
    behind.collect()
}
