//! Every prefix of the mesh with its one owner.

use std::cmp::Reverse;

use super::view::View;
use crate::{Generation, LocationName, Member, NodeName, Peer, PeerName, Prefix};

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
pub(super) struct Entry<'v, 'a> {
    pub(super) prefix: Prefix,
    pub(super) kind: Kind,
    pub(super) generation: Generation,
    /// Where it is, as an index of the view's sites. A Peer is at home, or here where it is attached here.
    pub(super) site: usize,
    /// The leader of the site that carries it.
    pub(super) carrier: Option<&'v NodeName>,
    pub(super) owner: Owner<'a>,
}

/// To whom a prefix belongs.
#[derive(Clone, Copy, Debug)]
pub(super) enum Owner<'a> {
    Member(&'a NodeName, &'a Member),
    Site,
    Peer(&'a PeerName),
}

impl Entry<'_, '_> {
    fn order(&self) -> (Prefix, Kind, Reverse<Generation>, usize) {
        (self.prefix, self.kind, Reverse(self.generation), self.site)
    }
}

/// Every prefix of the mesh, sorted, each once.
pub(super) fn entries<'v, 'a>(view: &'v View<'a>) -> Vec<Entry<'v, 'a>> {
    let mut entries = Vec::new();
    for index in 0..view.sites.len() {
        of_site(view, index, &mut entries);
    }
    for (name, peer) in &view.peers {
        of_peer(view, name, peer, &mut entries);
    }
    // Stable: of two claimants that nothing else tells apart, the lower name was pushed first.
    entries.sort_by_key(Entry::order);
    entries.dedup_by(|next, kept| next.prefix == kept.prefix);
    entries
}

fn of_site<'v, 'a>(view: &'v View<'a>, index: usize, entries: &mut Vec<Entry<'v, 'a>>) {
    let site = &view.sites[index];
    for (node, member) in view.members(index) {
        let entry = |prefix: Prefix, kind: Kind, carrier: Option<&'a NodeName>| Entry {
            prefix,
            kind,
            generation: member.generation,
            site: index,
            carrier,
            owner: Owner::Member(node, member),
        };
        let carrier = site.carrier(node);
        let hosts = member.addresses.iter().map(|address| Prefix::host(*address));
        let prefixes = hosts.chain(member.prefixes.iter().copied());
        entries.extend(prefixes.map(|prefix| entry(prefix, Kind::Member, carrier)));
        if site.lead(node).is_some() {
            let overlay = member.overlay.iter().map(|address| Prefix::host(*address));
            entries.extend(overlay.map(|prefix| entry(prefix, Kind::Overlay, Some(node))));
        }
    }
    entries.extend(site.location.settings.cidrs.iter().map(|cidr| Entry {
        prefix: *cidr,
        kind: Kind::Cidr,
        generation: Generation::default(),
        site: index,
        carrier: site.first(),
        owner: Owner::Site,
    }));
}

fn of_peer<'v, 'a>(view: &'v View<'a>, name: &'a PeerName, peer: &'a Peer, entries: &mut Vec<Entry<'v, 'a>>) {
    let site = |home: &LocationName| view.sites.binary_search_by(|site| site.name.cmp(home)).ok();
    let here = view.attached(peer).then_some(view.mine);
    let Some(index) = here.or_else(|| site(peer.home.as_ref()?)) else {
        return;
    };
    entries.extend(peer.allowed_ips.iter().map(|prefix| Entry {
        prefix: *prefix,
        kind: Kind::Peer,
        generation: Generation::default(),
        site: index,
        carrier: view.sites[index].first(),
        owner: Owner::Peer(name),
    }));
}
