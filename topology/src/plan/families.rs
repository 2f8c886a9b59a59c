//! The IP families that a node has a part in.

use super::{
    entries::{Entry, Owner},
    view::View,
};
use crate::{Family, Prefix};

/// Returns the entries of the families that can come out of this node.
///
/// A family needs a sender: the node itself and its pods; on a leader the other members, the `cidrs` and the Peers of its
/// location too. Routes of another family would carry nothing, and cost the node what its
/// family needs: forwarding, rules, a way to its leader. A family that only one Peer has goes between no two parties.
pub(super) fn useful<'e, 'a>(view: &View<'_>, own: &[Prefix], entries: &'e [Entry<'a>]) -> &'e [Entry<'a>] {
    let (v4, v6) = entries.split_at(entries.partition_point(|entry| entry.prefix.family() == Family::V4));
    let used = |family: Family, entries: &[Entry<'_>]| {
        let sends = own.iter().any(|prefix| prefix.family() == family)
            || view.lead.is_some() && entries.iter().any(|entry| entry.site == view.mine);
        sends && !of_one_peer(entries)
    };
    match (used(Family::V4, v4), used(Family::V6, v6)) {
        (true, true) => entries,
        (true, false) => v4,
        (false, true) => v6,
        (false, false) => &[],
    }
}

fn of_one_peer(entries: &[Entry<'_>]) -> bool {
    let peer = |entry: &Entry<'_>| match entry.owner {
        Owner::Peer(peer) => Some(peer),
        Owner::Member(..) | Owner::Site => None,
    };
    let first = entries.first().and_then(peer);
    first.is_some() && entries.iter().all(|entry| peer(entry) == first)
}
