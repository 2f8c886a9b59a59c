//! Every prefix of the mesh with its one owner.

use std::cmp::Reverse;

use super::view::View;
use crate::{Family, Generation, LocationName, Member, NodeName, Peer, Prefix};

/// What a prefix is. The order decides to whom a prefix belongs that stands twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// Pods or an address of a member.
    Member,
    /// The overlay address of a leader.
    Overlay,
    /// Another network of a location.
    Cidr,
    /// A network of a Peer.
    Peer,
}

/// One prefix and who has it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry<'a> {
    pub(super) prefix: Prefix,
    pub(super) kind: Kind,
    /// Where it is, as an index of the view's sites. A Peer is at home, or here where it is attached here.
    pub(super) site: usize,
    /// The leader of the site that carries it, as an index of the view's leaders.
    pub(super) carrier: Option<usize>,
    pub(super) owner: Owner<'a>,
}

/// To whom a prefix belongs.
#[derive(Clone, Copy, Debug)]
pub(super) enum Owner<'a> {
    Member(&'a NodeName, &'a Member),
    Site,
    /// As an index of the view's Peers.
    Peer(usize),
}

/// An entry as sorting wants it: the prefix, and then what decides to whom it belongs. The last is the place of the
/// entry, which goes by name.
type Order = (Family, u128, u8, Kind, Reverse<Generation>, usize);

/// Every prefix of the mesh, sorted, each once.
pub(super) fn entries<'a>(view: &View<'a>) -> Vec<Entry<'a>> {
    let mut found = Found::default();
    for site in 0..view.sites.len() {
        of_site(view, site, &mut found);
    }
    for (index, (_, peer)) in view.peers.iter().enumerate() {
        of_peer(view, index, peer, &mut found);
    }
    found.order.sort_unstable();
    found
        .order
        .dedup_by_key(|(family, first, length, ..)| (*family, *first, *length));
    found
        .order
        .iter()
        .map(|(.., place)| found.entries[*place])
        .collect()
}

#[derive(Default)]
struct Found<'a> {
    entries: Vec<Entry<'a>>,
    order: Vec<Order>,
}

impl<'a> Found<'a> {
    fn push(&mut self, entry: Entry<'a>) {
        let (family, first, _) = entry.prefix.range();
        let generation = match entry.owner {
            Owner::Member(_, member) => member.generation,
            Owner::Site | Owner::Peer(_) => Generation::default(),
        };
        let place = self.entries.len();
        self.order.push((
            family,
            first,
            entry.prefix.length(),
            entry.kind,
            Reverse(generation),
            place,
        ));
        self.entries.push(entry);
    }
}

fn of_site<'a>(view: &View<'a>, site: usize, found: &mut Found<'a>) {
    for (node, member) in view.members(site) {
        let entry = |prefix: Prefix, kind: Kind, carrier: Option<usize>| Entry {
            prefix,
            kind,
            site,
            carrier,
            owner: Owner::Member(node, member),
        };
        let carrier = view.carrier_of(site, node);
        for address in &member.addresses {
            found.push(entry(Prefix::host(*address), Kind::Member, carrier));
        }
        for prefix in &member.prefixes {
            found.push(entry(*prefix, Kind::Member, carrier));
        }
        if let Some(lead) = view.lead_of(site, node) {
            for address in &member.overlay {
                found.push(entry(Prefix::host(*address), Kind::Overlay, Some(lead)));
            }
        }
    }
    for cidr in &view.sites[site].location.settings.cidrs {
        found.push(Entry {
            prefix: *cidr,
            kind: Kind::Cidr,
            site,
            carrier: view.first(site),
            owner: Owner::Site,
        });
    }
}

fn of_peer<'a>(view: &View<'a>, index: usize, peer: &Peer, found: &mut Found<'a>) {
    let place = |home: &LocationName| view.sites.binary_search_by(|site| site.name.cmp(home)).ok();
    let here = view.attached(peer).then_some(view.mine);
    let Some(site) = here.or_else(|| place(peer.home.as_ref()?)) else {
        return;
    };
    for prefix in &peer.allowed_ips {
        found.push(Entry {
            prefix: *prefix,
            kind: Kind::Peer,
            site,
            carrier: view.first(site),
            owner: Owner::Peer(index),
        });
    }
}
