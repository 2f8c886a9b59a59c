//! The IP families that a node has a part in, and what it must not send of the others.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::{
    Holder,
    entries::{Entry, Kind, Owner},
    routes::{holder, is_local},
    view::View,
};
use crate::{Family, LocationName, Prefix};

/// What the mesh has of families in which a node has no part: nothing of it is routed there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unsent {
    /// What established locations have: nothing must go there past the mesh either.
    pub barred: BTreeMap<Prefix, Barred>,
    /// What lies in that and is left to the CNI and the LAN: of the own location, Peers attached there, and of locations that are not
    /// established.
    pub spared: BTreeSet<Prefix>,
}

/// Whose a prefix is to which nothing must go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Barred {
    /// The location where it lives; for a Peer its home.
    pub location: LocationName,
    /// What has it.
    pub holder: Holder,
}

impl Unsent {
    /// Returns whether nothing must go to an address: the longest match decides.
    #[must_use]
    pub fn bars(&self, address: IpAddr) -> bool {
        let longest = |prefixes: &mut dyn Iterator<Item = &Prefix>| {
            let around = prefixes.filter(|prefix| prefix.contains(address));
            around.map(Prefix::length).max()
        };
        longest(&mut self.barred.keys()) > longest(&mut self.spared.iter())
    }
}

/// The entries of the families that can come out of a node, and those of the others.
///
/// A family needs a sender: the node itself and its pods; on a leader the other members, the `cidrs` and the Peers of its
/// location too. Routes of another family would carry nothing, and cost the node what its
/// family needs: forwarding, rules, a way to its leader. A family that only one Peer has goes between no two parties, and is among
/// neither.
pub(super) struct Families<'e, 'a> {
    pub(super) used: &'e [Entry<'a>],
    pub(super) unused: &'e [Entry<'a>],
}

impl<'e, 'a> Families<'e, 'a> {
    pub(super) fn new(view: &View<'_>, own: &[Prefix], entries: &'e [Entry<'a>]) -> Self {
        let (v4, v6) = entries.split_at(entries.partition_point(|entry| entry.prefix.family() == Family::V4));
        let sends = |family: Family, entries: &[Entry<'_>]| {
            own.iter().any(|prefix| prefix.family() == family)
                || view.lead.is_some() && entries.iter().any(|entry| entry.site == view.mine)
        };
        // `None`: of no use to any node.
        let is_used = |family, entries| (!of_one_peer(entries)).then(|| sends(family, entries));
        let of_both = (is_used(Family::V4, v4), is_used(Family::V6, v6));
        let those = |wanted: bool| match (of_both.0 == Some(wanted), of_both.1 == Some(wanted)) {
            (true, true) => entries,
            (true, false) => v4,
            (false, true) => v6,
            (false, false) => &[],
        };
        Self {
            used: those(true),
            unused: those(false),
        }
    }
}

/// Returns what nothing must be sent to of these entries, which are in order.
pub(super) fn unsent(view: &View<'_>, entries: &[Entry<'_>]) -> Unsent {
    let mut unsent = Unsent::default();
    let mut around: Option<Prefix> = None;
    for entry in entries {
        let (prefix, location) = (entry.prefix, view.sites[entry.site].name);
        // A prefix sorts right before what it contains.
        let covered = around.is_some_and(|around| around.covers(&prefix));
        if is_barred(view, entry) {
            let (location, holder) = (location.clone(), holder(entry));
            unsent.barred.insert(prefix, Barred { location, holder });
            around = around.filter(|_| covered).or(Some(prefix));
        } else if covered {
            unsent.spared.insert(prefix);
        }
    }
    unsent
}

fn is_barred(view: &View<'_>, entry: &Entry<'_>) -> bool {
    let is_attached = entry.kind == Kind::Peer && entry.site == view.mine;
    view.established(entry.site) && !is_local(view, entry) && !is_attached
}

fn of_one_peer(entries: &[Entry<'_>]) -> bool {
    let peer = |entry: &Entry<'_>| match entry.owner {
        Owner::Peer(peer) => Some(peer),
        Owner::Member(..) | Owner::Site => None,
    };
    let first = entries.first().and_then(peer);
    first.is_some() && entries.iter().all(|entry| peer(entry) == first)
}
