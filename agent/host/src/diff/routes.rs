//! Routes of one table, in an order in which every address is routed at each moment either as before or as wanted.
//!
//! Setting: of prefixes in each other, the longest first. When a prefix is set, every wanted prefix inside it is there
//! already, so only addresses that belong to it in the end are affected. Deleting: everything wanted is there, and of
//! stale routes the shortest goes first, so an address that loses its stale route falls to its wanted one, not to
//! another stale one. Of one prefix the lowest metric is set first and deleted last, for the same reason.
//!
//! Prefixes that are not in each other may come in any order, and of these single addresses are set last and deleted
//! first. They are those of nodes, between which the CNI may carry pods' packets: these must be out of the CNI's tunnel
//! before the tunnel's own packets are routed into the mesh (Linux drops what a vxlan device would send through itself).

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use spanwire_topology::Prefix;

use super::tables::Table;
use crate::{Host, RouteKey, Step};

pub(super) fn set(actual: &Host, wanted: &Host, table: Table, steps: &mut Vec<Step>) {
    let changed = |(key, route): &(&RouteKey, &_)| {
        (key.table, key.prefix.family()) == table && actual.routes.get(key) != Some(route)
    };
    let mut routes: Vec<_> = wanted.routes.iter().filter(changed).collect();
    let nests = Nests::of(routes.iter().map(|(key, _)| *key));
    routes.sort_by_key(|(key, _)| (nests.rank(&key.prefix), Reverse(key.prefix.length()), key.metric));
    let step = |(key, route): (&RouteKey, &crate::Route)| Step::SetRoute(*key, route.clone());
    steps.extend(routes.into_iter().map(step));
}

pub(super) fn delete(actual: &Host, wanted: &Host, table: Table, steps: &mut Vec<Step>) {
    let stale =
        |key: &&RouteKey| (key.table, key.prefix.family()) == table && !wanted.routes.contains_key(key);
    let mut keys: Vec<_> = actual.routes.keys().filter(stale).collect();
    let nests = Nests::of(keys.iter().copied());
    keys.sort_by_key(|key| {
        let rank = Reverse(nests.rank(&key.prefix));
        (rank, key.prefix.length(), Reverse(key.metric))
    });
    steps.extend(keys.into_iter().copied().map(Step::DeleteRoute));
}

/// The outermost of some prefixes, and whether a single address is in each.
struct Nests(BTreeMap<Prefix, bool>);

impl Nests {
    fn of<'a>(keys: impl Iterator<Item = &'a RouteKey>) -> Self {
        let prefixes: BTreeSet<Prefix> = keys.map(|key| key.prefix).collect();
        let mut nests: BTreeMap<Prefix, bool> = BTreeMap::new();
        // A prefix sorts right before what it contains.
        for prefix in prefixes {
            let single = prefix.is_host();
            match nests.last_entry() {
                Some(mut nest) if nest.key().covers(&prefix) => *nest.get_mut() |= single,
                _ => drop(nests.insert(prefix, single)),
            }
        }
        Self(nests)
    }

    fn rank(&self, prefix: &Prefix) -> bool {
        let nest = self.0.range(..=prefix).next_back();
        nest.is_some_and(|(_, single)| *single)
    }
}
