//! Every prefix of the mesh with its one owner.

use std::cmp::Reverse;

use super::view::{Known, View};
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

/// Returns every prefix of the mesh, sorted, each once.
pub(super) fn entries<'a>(view: &View<'a>) -> Vec<Entry<'a>> {
    let mut found = Found::default();
    for known in view.members() {
        of_member(view, known, &mut found);
    }
    for (index, site) in view.sites.iter().enumerate() {
        for cidr in &site.location.settings.cidrs {
            found.push(Entry {
                prefix: *cidr,
                kind: Kind::Cidr,
                site: index,
                carrier: view.first(index),
                owner: Owner::Site,
            });
        }
    }
    for (index, (_, peer)) in view.peers.iter().enumerate() {
        of_peer(view, index, peer, &mut found);
    }
    found.sorted()
}

/// Entries, and how to sort them fast: IPv4 prefixes fit into one number, and equal prefixes are rare.
#[derive(Default)]
struct Found<'a> {
    entries: Vec<Entry<'a>>,
    v4: Vec<(u64, usize)>,
    v6: Vec<(u128, u8, usize)>,
}

impl<'a> Found<'a> {
    fn push(&mut self, entry: Entry<'a>) {
        let place = self.entries.len();
        let length = entry.prefix.length();
        match entry.prefix.range() {
            (Family::V4, first, _) => {
                let low = u64::try_from(first).expect("an IPv4 address has 32 bits");
                self.v4.push((low << 8 | u64::from(length), place));
            }
            (Family::V6, first, _) => self.v6.push((first, length, place)),
        }
        self.entries.push(entry);
    }

    fn sorted(mut self) -> Vec<Entry<'a>> {
        self.v4.sort_unstable();
        self.v6.sort_unstable();
        let v4 = self.v4.iter().map(|(.., place)| *place);
        let v6 = self.v6.iter().map(|(.., place)| *place);
        let mut sorted: Vec<Entry<'a>> = Vec::with_capacity(self.entries.len());
        for entry in v4.chain(v6).map(|place| self.entries[place]) {
            match sorted.last_mut().filter(|last| last.prefix == entry.prefix) {
                Some(last) if entry.claim() < last.claim() => *last = entry,
                Some(_) => {}
                None => sorted.push(entry),
            }
        }
        sorted
    }
}

impl Entry<'_> {
    /// Returns what orders claims of one prefix: the smaller has it; of equal ones the first that was found, which goes by
    /// name.
    fn claim(&self) -> (Kind, Reverse<Generation>, usize) {
        let generation = match self.owner {
            Owner::Member(_, member) => member.generation,
            Owner::Site | Owner::Peer(_) => Generation::default(),
        };
        (self.kind, Reverse(generation), self.site)
    }
}

fn of_member<'a>(view: &View<'a>, known: &Known<'a>, found: &mut Found<'a>) {
    let entry = |prefix: Prefix, kind: Kind, carrier: Option<usize>| Entry {
        prefix,
        kind,
        site: known.site,
        carrier,
        owner: Owner::Member(known.node, known.member),
    };
    let carrier = view.carrier_of(known);
    for address in &known.member.addresses {
        found.push(entry(Prefix::host(*address), Kind::Member, carrier));
    }
    for prefix in &known.member.prefixes {
        found.push(entry(*prefix, Kind::Member, carrier));
    }
    if let Some(lead) = view.lead_of(known) {
        for address in &known.member.overlay {
            found.push(entry(Prefix::host(*address), Kind::Overlay, Some(lead)));
        }
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
