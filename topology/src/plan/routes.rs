//! Where the packets of a node go.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    Holder, Route, Via,
    entries::{Entry, Kind, Owner},
    view::{View, has_families},
};
use crate::{LocationName, Member, NodeName, Prefix, Reachability};

/// Returns whether the CNI and the LAN carry a prefix.
pub(super) fn is_local(view: &View<'_>, entry: &Entry<'_>) -> bool {
    if entry.site != view.mine {
        return false;
    }
    match entry.kind {
        Kind::Cidr => true,
        Kind::Overlay | Kind::Peer => false,
        Kind::Member => {
            let mine = matches!(entry.owner, Owner::Member(node, _) if node == view.me);
            let island = view.carrier.is_some() && view.carrier == entry.carrier;
            mine || island || !view.established(view.mine)
        }
    }
}

/// Returns what the CNI and the LAN carry.
pub(super) fn local(view: &View<'_>, entries: &[Entry<'_>]) -> BTreeSet<Prefix> {
    let local = entries.iter().filter(|entry| is_local(view, entry));
    local.map(|entry| entry.prefix).collect()
}

/// Returns the single addresses of members to which nothing is routed, in what is local or routed.
pub(super) fn lent(view: &View<'_>, entries: &[Entry<'_>], ways: &Ways<'_, '_>) -> BTreeSet<Prefix> {
    let mut around: Option<Prefix> = None;
    let mut lent = BTreeSet::new();
    // A prefix sorts right before what it contains.
    for entry in entries {
        let covered = around.is_some_and(|around| around.covers(&entry.prefix));
        let has_way = is_local(view, entry) || ways.via(entry).is_some();
        if has_way && !covered {
            around = Some(entry.prefix);
        } else if !has_way && covered && entry.kind == Kind::Member && entry.prefix.is_host() {
            lent.insert(entry.prefix);
        }
    }
    lent
}

/// Returns those of them to which what comes from elsewhere is masqueraded.
pub(super) fn masqueraded(view: &View<'_>, entries: &[Entry<'_>]) -> BTreeSet<Prefix> {
    let wanted = view.home().location.settings.masquerade;
    let here = entries
        .iter()
        .filter(|entry| wanted && entry.kind == Kind::Cidr && is_local(view, entry));
    here.map(|entry| entry.prefix).collect()
}

/// Returns where everything else goes.
pub(super) fn routes(view: &View<'_>, entries: &[Entry<'_>], ways: &Ways<'_, '_>) -> BTreeMap<Prefix, Route> {
    let remote = entries.iter().filter(|entry| !is_local(view, entry));
    let routes = remote.filter_map(|entry| {
        let via = ways.passable(entry, ways.via(entry)?);
        let location = view.sites[entry.site].name.clone();
        let holder = holder(entry);
        Some((
            entry.prefix,
            Route {
                via,
                location,
                holder,
            },
        ))
    });
    routes.collect()
}

/// Returns addresses of the other nodes of the own location, each with the hop to its node, over a VXLAN their pods too, and what else those nodes have that are
/// not reached so, with the hop to the first leader behind this one that is.
pub(super) fn returns(
    view: &View<'_>,
    entries: &[Entry<'_>],
    reachability: &Reachability,
) -> BTreeMap<Prefix, Via> {
    let cut = reachability.cut();
    let mut others = view.leads_of(view.mine).filter(|_| !view.islands());
    let other = others.find(|lead| Some(*lead) > view.lead && !cut.contains(view.leads[*lead].node));
    let here = entries
        .iter()
        .filter(|entry| entry.site == view.mine && view.speaks(entry.prefix.family()));
    let returns = here.filter_map(|entry| match entry.owner {
        Owner::Member(node, _) if node == view.me => None,
        Owner::Member(node, member) if is_address(member, entry.prefix) => {
            Some((entry.prefix, hop(view, node, member)))
        }
        Owner::Member(node, _) if cut.contains(node) && entry.kind == Kind::Member => {
            Some((entry.prefix, via(view, other?)))
        }
        Owner::Member(node, member)
            if view.has_vxlan() && entry.kind == Kind::Member && is_local(view, entry) =>
        {
            Some((entry.prefix, hop(view, node, member)))
        }
        Owner::Member(..) | Owner::Site | Owner::Peer(_) => None,
    });
    returns.collect()
}

/// Returns the hops to the other leaders through which packets of this node may go, and how many of them stand before it in
/// the published order.
pub(super) fn leaders(view: &View<'_>) -> (Vec<Via>, usize) {
    let own = view.leads_of(view.mine);
    let mut leads: Vec<usize> = if view.islands() {
        // Through the others it goes by tunnel.
        let serving = view.served_by_hop().filter(|lead| view.carrier != Some(*lead));
        view.carrier.into_iter().chain(serving).collect()
    } else {
        own.collect()
    };
    leads.retain(|lead| view.lead != Some(*lead));
    let before = leads.iter().filter(|lead| view.lead.is_none_or(|me| **lead < me));
    let before = before.count();
    (leads.into_iter().map(|lead| via(view, lead)).collect(), before)
}

/// Returns what has the addresses of a prefix.
pub(super) fn holder(entry: &Entry<'_>) -> Holder {
    match (entry.kind, entry.owner) {
        (Kind::Member, Owner::Member(_, member)) if is_address(member, entry.prefix) => Holder::Node,
        (Kind::Overlay, _) => Holder::Overlay,
        (Kind::Member | Kind::Cidr | Kind::Peer, _) => Holder::Others,
    }
}

fn is_address(member: &Member, prefix: Prefix) -> bool {
    prefix.is_host() && member.addresses.contains(&prefix.address())
}

fn hop(view: &View<'_>, node: &NodeName, member: &Member) -> Via {
    Via::Hop {
        node: node.clone(),
        hop: Arc::new(view.hop_of(member).clone()),
        addresses: Arc::new(member.addresses.clone()),
    }
}

/// The ways out of one node.
pub(super) struct Ways<'v, 'a> {
    view: &'v View<'a>,
    /// Towards what is behind the tunnels to each location.
    out: Vec<Via>,
    /// Towards the first active leader of the own location, where Peers are attached.
    first: Via,
    /// The locations that are established with the own one.
    established: Vec<bool>,
}

impl<'v, 'a> Ways<'v, 'a> {
    /// These leaders receive what each leader carries.
    pub(super) fn new(view: &'v View<'a>, reachability: &Reachability, receivers: &[usize]) -> Self {
        let own = view.leads_of(view.mine);
        let start = own.start;
        let vias: Vec<Via> = own.clone().map(|lead| via(view, lead)).collect();
        let to = |lead: Option<usize>| lead.map_or(Via::Unreachable, |lead| vias[lead - start].clone());
        let able = |lead: &usize| has_families(view.leads[*lead].member, view.member);
        let order = || view.carrier.into_iter().chain(own.clone().filter(able));
        let out = |site: usize| {
            let location = view.sites[site].name;
            if !reachability.reaches(location) {
                return Via::Unreachable;
            }
            let usable = |lead: &usize| reachability.usable(view.leads[*lead].node, location);
            let said = said(view, reachability, receivers, site);
            let named = |lead: usize| view.leads[lead].node;
            // A leader whose own tunnels are about to end passes by itself where it can.
            let stays = |lead: &usize| !reachability.is_draining() || Some(*lead) != view.lead;
            let staying = order().filter(stays).find(usable);
            let published = staying.or_else(|| order().find(usable));
            let is_taken =
                |lead: usize| said.is_empty() || said.iter().any(|uses| uses.contains(named(lead)));
            let is_taken_by_all = |lead: &usize| said.iter().all(|uses| uses.contains(named(*lead)));
            let taken = || order().filter(usable).find(is_taken_by_all);
            // Only what would go into the own tunnel: whom a leader beside this one uses is its affair, and shows by what comes back
            // through it.
            let chosen = match published {
                Some(lead) if Some(lead) == view.lead && !is_taken(lead) => taken().or(published),
                _ => published,
            };
            // Where each node leads itself, only its carrier may send for a node.
            let chosen = chosen.filter(|_| !view.islands());
            // What is observed may be wrong: of ways that all seem lost the published one is left.
            to(view.carrier.and(chosen).or(view.carrier))
        };
        Self {
            view,
            out: (0..view.sites.len()).map(out).collect(),
            first: to(view.first(view.mine)),
            established: (0..view.sites.len()).map(|site| view.established(site)).collect(),
        }
    }

    /// Returns the way towards every other location, and towards the own one where every node leads itself.
    pub(super) fn out(&self) -> BTreeMap<LocationName, Via> {
        let sites = self.view.sites.iter().zip(&self.out).enumerate();
        let others = sites.filter(|(site, _)| *site != self.view.mine || self.view.islands());
        others
            .map(|(_, (site, via))| (site.name.clone(), via.clone()))
            .collect()
    }

    /// `None`: no route.
    fn via(&self, entry: &Entry<'_>) -> Option<Via> {
        let established = self.established[entry.site];
        let own = entry.site == self.view.mine;
        match entry.kind {
            Kind::Overlay if self.view.lead.is_some() && entry.carrier == self.view.lead => None,
            Kind::Overlay => self.overlay(entry.site),
            Kind::Peer if own && !established => Some(self.first.clone()),
            Kind::Peer if own && self.first == Via::Tunnel => Some(Via::Tunnel),
            Kind::Peer | Kind::Member | Kind::Cidr if !established => None,
            Kind::Peer | Kind::Member | Kind::Cidr if entry.carrier.is_none() => Some(Via::Unreachable),
            Kind::Peer | Kind::Member | Kind::Cidr => Some(self.out[entry.site].clone()),
        }
    }

    /// No hop takes a family that this node has nothing of. What a leader sends of it comes from its overlay address, or
    /// was brought to it, and goes into its own tunnels, where there is one.
    fn passable(&self, entry: &Entry<'_>, via: Via) -> Via {
        match via {
            Via::Hop { .. } if self.view.speaks(entry.prefix.family()) => via,
            Via::Hop { .. } if entry.site == self.view.mine => Via::Unreachable,
            Via::Hop { .. } | Via::Tunnel if self.view.lead.is_some() => Via::Tunnel,
            Via::Hop { .. } | Via::Tunnel | Via::Unreachable => via,
        }
    }

    /// Leaders have tunnels to all remote leaders, and to those of their own location where every node leads itself.
    fn overlay(&self, site: usize) -> Option<Via> {
        if site == self.view.mine && !self.view.islands() {
            return None;
        }
        match (self.view.lead, &self.out[site]) {
            (Some(_), _) => Some(Via::Tunnel),
            (None, Via::Unreachable) => None,
            (None, out @ (Via::Tunnel | Via::Hop { .. })) => Some(out.clone()),
        }
    }
}

/// Returns from which leaders of the own location those of another one take what they send, as those say to which this node, as a
/// leader, sends. Of one that says nothing, or takes what any of them sends, there is nothing.
fn said<'r>(
    view: &View<'_>,
    reachability: &'r Reachability,
    receivers: &[usize],
    site: usize,
) -> Vec<&'r BTreeSet<NodeName>> {
    let carriers = view.active(site).filter(|_| view.lead.is_some());
    let advice = carriers.filter_map(|carrier| {
        let receiver = view.leads[receivers[carrier]].node;
        reachability.advice(view.sites[site].name, receiver)
    });
    advice
        .filter(|advice| !advice.groups)
        .map(|advice| &advice.uses)
        .collect()
}

/// Returns the way to a leader of the own location, and out through it.
fn via(view: &View<'_>, lead: usize) -> Via {
    if view.lead == Some(lead) {
        return Via::Tunnel;
    }
    let leader = &view.leads[lead];
    hop(view, leader.node, leader.member)
}
